"""Rendering: a `Scene` in, premultiplied linear colour and exact alpha out. Mitsuba is used here and in materials.py.

Opaque subjects: alpha is the path tracer's coverage, as float. Glass: the subjects are rendered twice in front of an
emitting plate, dark and bright, with the same seed and lights, and C and alpha are solved from I = C + (1 - alpha) B
(Smith & Blinn, "Blue Screen Matting", SIGGRAPH 1996). Media: 1 - alpha is the transmittance along straight rays; plates
would count the light that they cast on white smoke as passing through it, an error of up to a quarter of alpha.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.errors import UserError
from synth_data.materials import bsdf, colour, emission_along_rays, medium_shape
from synth_data.scene import SAMPLER_STREAM, Camera, Scene, stream
from synth_data.subjects.meshes import (
    TRANSMISSIVE,
    Mesh,
    Strands,
    Subject,
    blackened,
    join,
    opaque_part,
    shaded,
    with_area,
)

VARIANTS = ("scalar_rgb", "llvm_ad_rgb", "cuda_ad_rgb")
NEEDS = {
    "llvm_ad_rgb": "point DRJIT_LIBLLVM_PATH at a libLLVM.so (19 works, 14 and 15 crash), or use scalar_rgb",
    "cuda_ad_rgb": "it needs an NVIDIA GPU and its driver; use scalar_rgb",
}
TRANSMISSIVE_DEPTH = 16  # fewest segments of a path where light passes through the subject
TRANSMISSIVE_SAMPLES = 4  # times as many paths there: each path either passes or is reflected, at random
SUBFRAMES = 16  # most instants that an exposure with motion is split into
PLATE_MARGIN = 1.15  # the plate's width in frame widths; rays bent beyond it miss it and count as opaque
MEDIUM_STEPS = 48  # steps of a ray through a medium
BLACK = np.full(3, 1e-9)  # radiance of the dark plate; not 0, so that it uses the sampler like the bright one
BLOCK = 32  # pixels; fixed, or Mitsuba derives it from the thread count, and the sampler's seeds from it


def start(variant: str = "scalar_rgb") -> None:
    """Loads Mitsuba in this process, on one thread (otherwise the result depends on the number of threads).

    UserError if the variant is unknown or cannot run here.
    """
    if variant not in VARIANTS:
        raise UserError(f"--variant: unknown variant '{variant}'; known: {', '.join(VARIANTS)}")
    import drjit
    import mitsuba as mi

    try:
        mi.set_variant(variant)
    except Exception as error:  # whatever a missing backend raises
        raise UserError(f"--variant {variant} cannot run here; {NEEDS.get(variant, 'reinstall mitsuba')}") from error
    drjit.set_thread_count(1)
    mi.set_log_level(mi.LogLevel.Error)


class NotFinite(ValueError):
    """A render with NaN or infinity in it; the scene has to be drawn again."""


@dataclass(frozen=True)
class Foreground:
    """A rendered foreground.

    Attributes:
        colour: float32 [H, W, 3] >= 0, linear and premultiplied; with the surroundings, if there are any.
        alpha: float32 [H, W] in [0, 1], of the subjects alone.
        cover: float32 [H, W] in [0, 1], how much of the background is hidden: alpha, or more with surroundings.
        instances: uint8 [H, W], k where subject k (from 1) fills most of the pixel, 0 where subjects fill less than
            half of it. Clear glass counts as if it were opaque, smoke by its alpha. None if they were not wanted.
        measured: with glass, `residual`: mean |I - (C + (1 - alpha))| over the bright plate in levels of 255 (the tint
            that one alpha cannot express); compose.py adds `refraction`.
    """

    colour: np.ndarray
    alpha: np.ndarray
    cover: np.ndarray
    instances: np.ndarray | None
    measured: dict[str, float]


def _mesh(mesh: Mesh, material: Any, smooth: bool = True) -> Any:
    """A `Mesh` as a Mitsuba shape with a loaded BSDF; None if it has no area.

    `smooth`: whether it has smooth normals, except at creases, as is seen in its light but not in its paint.
    """
    import mitsuba as mi

    if smooth:
        vertices, normals, uv, faces = shaded(mesh)
    else:
        vertices, normals, uv, faces = mesh.vertices, None, mesh.uv, with_area(mesh)[0]
    if not len(faces):
        return None
    properties = mi.Properties()
    properties["bsdf"] = material
    shape = mi.Mesh(
        "mesh",
        len(vertices),
        len(faces),
        has_vertex_normals=smooth,
        has_vertex_texcoords=True,
        props=properties,
    )
    content = mi.traverse(shape)
    arrays = {"vertex_positions": vertices, "vertex_texcoords": uv, "faces": faces}
    for key, array in (arrays | ({"vertex_normals": normals} if smooth else {})).items():
        # content[key] = ... would compare old and new values first, one by one
        held, kind, *_ = content.properties[key]
        mi.set_property(held, kind, array.astype(np.uint32 if key == "faces" else np.float32).ravel())
        content.set_dirty(key)
    content.update()
    return shape


def separated(strands: Strands, least: float = 0.05) -> Strands:
    """Strands without coinciding control points, where the renderer finds no tangent and returns NaN.

    If two control points are closer than `least` times the mean distance, the strand's points are spread evenly along
    its control polygon; strands of no length are left out.
    """
    gaps = np.linalg.norm(np.diff(strands.points, axis=1), axis=-1)
    long = gaps.sum(1) > 1e-6
    points, radii, gaps = strands.points[long], strands.radii[long], gaps[long]
    for k in np.flatnonzero(gaps.min(1) < least * gaps.mean(1)):
        along = np.concatenate([[0.0], np.cumsum(gaps[k])])
        even = np.linspace(0, along[-1], len(along))
        points[k] = np.stack([np.interp(even, along, points[k][:, c]) for c in range(3)], 1)
        radii[k] = np.interp(even, along, radii[k])
    return Strands(points, radii, strands.colours[long])


def _guarded(strands: Strands) -> Strands:
    """The strands, followed by a copy of the first that is so thin that it lies within it and is never hit.

    Mitsuba 3.9 reads beyond the last segment for a hit at its very end, and crashes (mitsuba3, pull request 1928).
    """
    hidden = np.minimum(strands.radii[:1] * 1e-2, 1e-6)
    return Strands(
        np.concatenate([strands.points, strands.points[:1]]),
        np.concatenate([strands.radii, hidden]),
        np.concatenate([strands.colours, strands.colours[:1]]),
    )


def _strands(strands: Strands, path: str, material: dict[str, Any] | None) -> Any:
    """`Strands` as a Mitsuba shape, through a text file at `path` (Mitsuba reads curves from files only).

    Strands keep their own colours unless one `material` is given.
    """
    import mitsuba as mi

    strands = _guarded(separated(strands))
    number, points = strands.points.shape[:2]
    rows = np.concatenate([strands.points, strands.radii[..., None]], -1)
    one = "%.6g %.6g %.6g %.6g\n" * points + "\n"
    with open(path, "w") as file:
        file.write(one * number % tuple(rows.ravel().tolist()))
    # Mitsuba's v runs over all segments of all strands, so a one-pixel-wide bitmap colours each segment
    colours = strands.colours.reshape(-1, 1, 3)
    return mi.load_dict(
        {
            "type": "bsplinecurve",
            "filename": path,
            "bsdf": bsdf(material) if material else {"type": "diffuse", "reflectance": colour(colours, nearest=True)},
        }
    )


def _emitters(scene: Scene) -> dict[str, Any]:
    """The sky and the lamps as Mitsuba emitters."""
    import mitsuba as mi

    upright = mi.ScalarTransform4f().rotate([1, 0, 0], 90)  # Mitsuba's environment map has y up
    if scene.sky.ndim == 1:
        emitters = {"sky": {"type": "constant", "radiance": colour(scene.sky)}}
    else:
        bitmap = mi.Bitmap(np.ascontiguousarray(scene.sky, dtype=np.float32))
        emitters = {"sky": {"type": "envmap", "bitmap": bitmap, "to_world": upright}}
    for k, lamp in enumerate(scene.lamps):
        place = lamp.direction * lamp.distance
        if lamp.kind == "sun":
            light = {
                "type": "directional",
                "direction": (-lamp.direction).tolist(),
                "irradiance": colour(lamp.irradiance),
            }
        elif lamp.kind == "point":
            light = {
                "type": "point",
                "position": place.tolist(),
                "intensity": colour(lamp.irradiance * lamp.distance**2),
            }
        else:
            radiance = lamp.irradiance * lamp.distance**2 / (np.pi * lamp.radius**2)
            side = [0, 0, 1] if abs(lamp.direction[2]) < 0.9 else [1, 0, 0]
            facing = mi.ScalarTransform4f().look_at(place.tolist(), [0, 0, 0], side)
            light = {
                "type": "disk",
                "to_world": facing @ mi.ScalarTransform4f().scale(lamp.radius),
                "emitter": {"type": "area", "radiance": colour(radiance)},
            }
        emitters[f"lamp{k}"] = light
    return emitters


def _shapes(subjects: list[Subject], folder: str, name: str) -> dict[str, Any]:
    """Subjects as Mitsuba shapes, with their own materials and media."""
    import mitsuba as mi

    shapes: dict[str, Any] = {}
    loaded: dict[tuple, Any] = {}  # Mitsuba takes 60 ms to tabulate a plastic, and many meshes share one

    def load(material: dict[str, Any]) -> Any:
        # textures by identity where comparing them takes longer than loading; the subjects keep them alive
        whole = material["kind"] == "plastic"
        key = tuple(
            (k, v if not isinstance(v, np.ndarray) else v.tobytes() if whole or v.ndim == 1 else id(v))
            for k, v in sorted(material.items())
        )
        if key not in loaded:
            loaded[key] = mi.load_dict(bsdf(material))
        return loaded[key]

    for k, subject in enumerate(subjects):
        for j, mesh in enumerate(subject.meshes):
            shape = _mesh(mesh, load(mesh.material))
            if shape is not None:
                shapes[f"{name}{k}_mesh{j}"] = shape
        for j, strands in enumerate(subject.strands):
            shapes[f"{name}{k}_strands{j}"] = _strands(strands, os.path.join(folder, f"{name}{k}_{j}.txt"), None)
        for j, medium in enumerate(subject.volumes):
            shapes[f"{name}{k}_medium{j}"] = medium_shape(medium)
    return shapes


def _painted(
    subjects: list[Subject], folder: str, name: str, paint: Callable[[int, bool], np.ndarray]
) -> dict[str, Any]:
    """Subjects as Mitsuba shapes in plain colours, without media.

    `paint(k, clear)` [3] is the colour of subject k's transmissive (`clear`) or opaque parts. Meshes of one colour are
    one shape: Mitsuba's integrator for what rays hit takes a time that grows with the number of shapes.
    """
    import mitsuba as mi

    shapes: dict[str, Any] = {}
    groups: dict[tuple, list[Mesh]] = {}
    for k, subject in enumerate(subjects):
        for mesh in subject.meshes:
            painted = {"kind": "diffuse", "colour": paint(k, mesh.material.get("kind") in TRANSMISSIVE)}
            painted |= {key: mesh.material[key] for key in ("opacity",) if key in mesh.material}
            key = (painted["colour"].tobytes(), id(mesh) if "opacity" in painted else 0)
            groups.setdefault(key, []).append(replace(mesh, material=painted))
        for j, strands in enumerate(subject.strands):
            plain = {"kind": "diffuse", "colour": paint(k, False)}
            shapes[f"{name}{k}_strands{j}"] = _strands(strands, os.path.join(folder, f"{name}{k}_{j}.txt"), plain)
    for j, meshes in enumerate(groups.values()):
        shape = _mesh(join(*meshes), mi.load_dict(bsdf(meshes[0].material)), smooth=False)
        if shape is not None:
            shapes[f"{name}_mesh{j}"] = shape
    return shapes


def _half_angle(camera: Camera) -> float:
    """Half the frame's width at distance one."""
    return float(np.tan(np.deg2rad(camera.fov) / 2))


def _path_length(camera: Camera) -> float:
    """Roughly how far the subjects move during the exposure, in frame widths."""
    half_frame = np.linalg.norm(camera.target - camera.origin) * _half_angle(camera)
    return float(np.linalg.norm(camera.motion) / (2 * half_frame) + abs(np.deg2rad(camera.spin)) / 2)


def _farthest(scene: Scene) -> float:
    """Distance along the camera's axis of the farthest point of the subjects."""
    forward = scene.camera.axes()[2]
    return max(float(((s.points() - scene.camera.origin) @ forward).max()) for s in scene.subjects)


def _plate(scene: Scene, radiance: np.ndarray) -> dict[str, Any]:
    """An emitting plate behind the subjects, PLATE_MARGIN times as wide as the frame there, facing the camera.

    It is wider by what a blurring camera sees beside the frame. `radiance` [3], or a picture [h, w, 3] that fills the
    plate as the camera sees it.
    """
    import mitsuba as mi

    camera = scene.camera
    forward = camera.axes()[2]
    distance = 1.05 * _farthest(scene) + 0.05
    margin = PLATE_MARGIN + 2 * (_path_length(camera) + camera.aperture / (camera.focus * _half_angle(camera)))
    half = distance * _half_angle(camera) * margin
    place = camera.origin + distance * forward
    facing = mi.ScalarTransform4f().look_at(place.tolist(), camera.origin.tolist(), camera.up.tolist())
    if radiance.ndim == 3:  # the rectangle's u runs to the camera's right, its v upwards
        radiance = radiance[::-1]
    return {
        "type": "rectangle",
        "to_world": facing @ mi.ScalarTransform4f().scale([half, half, 1]),
        "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": 0.0}},
        "emitter": {"type": "area", "radiance": colour(radiance)},
    }


def _views(scene: Scene, size: int, samples: int) -> Iterator[tuple[Camera, int]]:
    """The camera and the number of samples at each instant of the exposure; one if nothing moves."""
    camera = scene.camera
    parts = int(np.clip(np.ceil(_path_length(camera) * size), 1, min(SUBFRAMES, samples)))
    for k in range(parts):
        yield camera.during((k + 0.5) / parts - 0.5), samples // parts


def _sensor(camera: Camera, size: int, samples: int, alpha: bool) -> dict[str, Any]:
    import mitsuba as mi

    sensor = {
        "type": "perspective",
        "fov": camera.fov,
        "fov_axis": "x",
        "to_world": mi.ScalarTransform4f().look_at(camera.origin.tolist(), camera.target.tolist(), camera.up.tolist()),
        "near_clip": 0.001,
        "film": {
            "type": "hdrfilm",
            "width": size,
            "height": size,
            "pixel_format": "rgba" if alpha else "rgb",
            "component_format": "float32",
            "rfilter": {"type": "box"},  # no negative lobes: alpha stays in [0, 1]
        },
        "sampler": {"type": "multijitter", "sample_count": samples},
    }
    if camera.aperture > 0:
        sensor |= {"type": "thinlens", "aperture_radius": camera.aperture, "focus_distance": camera.focus}
    return sensor


def _render(scene: Scene, shapes: dict[str, Any], integrator: dict[str, Any], size: int, samples: int, seed: int):
    """`shapes` rendered by `integrator`, averaged over the exposure: float32 [size, size, channels]."""
    import mitsuba as mi

    loaded = mi.load_dict({"type": "scene", **shapes})
    alpha = integrator["type"] != "aov"
    whole = mi.load_dict(integrator | {"block_size": BLOCK})
    views = list(_views(scene, size, samples))
    total = 0.0
    for k, (camera, part) in enumerate(views):
        sensor = mi.load_dict(_sensor(camera, size, part, alpha))
        rendered = mi.render(loaded, sensor=sensor, integrator=whole, seed=seed + k, spp=part)
        total = total + np.array(rendered, dtype=np.float32)
    rendered = total / np.float32(len(views))
    if not np.isfinite(rendered).all():
        raise NotFinite(f"foreground {scene.factors['foreground']}: the renderer returned non-finite values")
    return rendered


def _path(scene: Scene, depth: int, hide: bool) -> dict[str, Any]:
    """The path tracer that the scene needs."""
    kind = "volpath" if any(subject.volumes for subject in scene.subjects) else "path"
    return {"type": kind, "max_depth": depth, "hide_emitters": hide}


def _marks(scene: Scene, size: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the camera's rays hit first, media aside.

    Returns:
        coverage of each subject [N, H, W], coverage of opaque parts [H, W] (if a subject is transmissive, else 0),
        depth [H, W] (mean over all rays, 0 for those that hit nothing).
    """
    number = len(scene.subjects)
    planes = []
    for first in range(0, number + scene.transmissive(), 3):  # three of them per render, one in each colour channel

        def paint(k: int, clear: bool, first: int = first) -> np.ndarray:
            marks = np.zeros(number + 3)
            marks[k], marks[number] = 1.0, float(not clear)
            return marks[first : first + 3]

        with tempfile.TemporaryDirectory(prefix="synth_data_") as folder:
            shapes = _painted(scene.subjects, folder, "subject", paint)
            shapes |= _painted(scene.surroundings, folder, "other", lambda k, clear: np.zeros(3))
            met = _render(scene, shapes, {"type": "aov", "aovs": "met:albedo,far:depth"}, size, samples, seed)
        planes += list(met[..., :3].transpose(2, 0, 1))
    planes = np.stack(planes)
    return planes[:number], planes[number] if scene.transmissive() else np.zeros_like(planes[0]), met[..., 3]


def _rays(scene: Scene, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Straight rays (origins, unit directions) [size * size, 3], one per pixel, spread over pixel, lens and exposure.

    Four sets of them for a camera without blur, else SUBFRAMES.
    """
    views = [camera for camera, _ in _views(scene, size, SUBFRAMES)]
    count = SUBFRAMES if scene.camera.aperture > 0 or len(views) > 1 else 4
    side = int(np.sqrt(count))
    for k in range(count):
        camera = views[k % len(views)]
        right, above, forward = camera.axes()
        column, row = ((np.arange(size) + (j + 0.5) / side) / size * 2 - 1 for j in divmod(k, side))
        line_x, line_y = column * _half_angle(camera), row * _half_angle(camera)
        way = (forward + line_x[None, :, None] * right - line_y[:, None, None] * above).reshape(-1, 3)
        # sunflower points fill the lens evenly (Vogel 1979)
        turn, reach = k * np.pi * (3 - np.sqrt(5)), camera.aperture * np.sqrt((k + 0.5) / count)
        origin = camera.origin + reach * (np.cos(turn) * right + np.sin(turn) * above)
        way = camera.origin + way * camera.focus - origin if camera.aperture > 0 else way
        yield np.broadcast_to(origin, way.shape), way / np.linalg.norm(way, axis=1, keepdims=True)


def media(scene: Scene, covered: np.ndarray, depth: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Media along straight rays: (their emission [size, size, 3], their transmittance [size, size]).

    `covered` [size, size] and `depth` [size, size] (mean over rays, 0 where nothing is hit) describe opaque parts,
    which hide emission behind them. The transmittance is that of rays which hit nothing.
    """
    far = np.where(covered > 0.5, depth / np.maximum(covered, 1e-3), np.inf).ravel()
    glows, throughs = [], []
    for origins, way in _rays(scene, size):
        through, glow = np.ones(size * size), np.zeros((size * size, 3))
        for volume in (volume for subject in scene.subjects for volume in subject.volumes):
            through = through * emission_along_rays(volume, origins, way, MEDIUM_STEPS)[1]
            if volume.emission is not None:
                glow = glow + emission_along_rays(volume, origins, way, MEDIUM_STEPS, far)[0]
        glows.append(glow)
        throughs.append(through)
    glow, through = np.mean(glows, 0).reshape(size, size, 3), np.mean(throughs, 0).reshape(size, size)
    return glow.astype(np.float32), through.astype(np.float32)


def solve(dark: np.ndarray, bright: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C [H, W, 3], alpha [H, W]) from I [H, W, 3] over black and over white: least squares over the channels.

    Smith & Blinn's triangulation, not clipped. Exact over every grey background where nothing is tinted, and over
    mid-grey where something is.
    """
    passed = bright - dark
    alpha = 1 - passed.mean(-1)
    return dark + (passed - passed.mean(-1, keepdims=True)) / 2, alpha


def over_plate(
    scene: Scene, radiance: np.ndarray, size: int, samples: int, depth: int, seed: int, hidden: bool = False
) -> np.ndarray:
    """The subjects in front of the emitting plate: linear float32 [size, size, 4] (red, green, blue, coverage).

    Args:
        radiance: of the plate, [3] or a picture [h, w, 3] that fills PLATE_MARGIN frame widths.
        hidden: whether the camera sees neither the plate nor the sky, though both light the subjects.
    """
    with tempfile.TemporaryDirectory(prefix="synth_data_") as folder:
        shapes = _shapes(scene.subjects, folder, "subject") | _emitters(scene)
        shapes["plate"] = _plate(scene, radiance)
        return _render(scene, shapes, _path(scene, depth, hidden), size, samples, seed)


def _without_media(scene: Scene) -> Scene:
    solid = [replace(s, volumes=[]) for s in scene.subjects if s.meshes or s.strands]
    return replace(scene, subjects=solid)


def _sampler_seed(scene: Scene, seed: int) -> int:
    return int(stream(seed, SAMPLER_STREAM, scene.factors["foreground"]).integers(2**31))


def refraction(scene: Scene, depth: int, seed: int, size: int = 32, samples: int = 16) -> float:
    """Mean displacement, in frame widths, of the background where it is seen through the subjects.

    The plate's radiance is its own x, then its own y; divided by the result of a white plate, that is where the light
    came from. Weighted by what passes through; media, which do not bend light, are left out.
    """
    scene, seed = _without_media(scene), _sampler_seed(scene, seed)
    if not scene.transmissive():
        return 0.0
    depth = max(depth, TRANSMISSIVE_DEPTH)
    ramp = np.broadcast_to(((np.arange(256) + 0.5) / 256)[None, :, None], (256, 256, 3))
    plates = [BLACK, np.ones(3), ramp, ramp.transpose(1, 0, 2)]
    dark, bright, x, y = (over_plate(scene, p, size, samples, depth, seed)[..., :3].mean(-1) for p in plates)
    passed = bright - dark
    straight = (0.5 + ((np.arange(size) + 0.5) / size - 0.5) / PLATE_MARGIN).astype(np.float32)
    through = (passed > 0.05) & (passed < 0.98)  # neither opaque nor beside the subjects
    if not through.any():
        return 0.0
    right, down = (x - dark) / np.maximum(passed, 1e-3), (y - dark) / np.maximum(passed, 1e-3)
    moved = np.hypot(right - straight[None, :], down - straight[:, None]) * PLATE_MARGIN
    return float((moved * passed)[through].sum() / passed[through].sum())


def render_foreground(scene: Scene, size: int, samples: int, depth: int, seed: int, ids: bool = True) -> Foreground:
    """The subjects without a background. `start` must have been called in this process.

    Args:
        samples: light paths per pixel (TRANSMISSIVE_SAMPLES times as many if light passes through a subject).
        depth: most segments of a path (then at least TRANSMISSIVE_DEPTH).
        seed: of the whole run; the sampler's seed is drawn from it and the foreground's number.
        ids: whether `instances` are wanted; they may cost a pass of their own.

    Raises:
        NotFinite: the render has NaN or infinity in it.
    """
    sampler_seed, clear = _sampler_seed(scene, seed), scene.transmissive()
    if clear:
        depth, samples = max(depth, TRANSMISSIVE_DEPTH), samples * TRANSMISSIVE_SAMPLES
    marks = None
    if scene.subjects and (clear or scene.surroundings or (ids and len(scene.subjects) > 1)):
        marks, opaque, far = _marks(scene, size, samples, sampler_seed)
        if clear and scene.cut_out():  # the marks count holes as covered
            parts = [opaque_part(subject) for subject in scene.subjects]
            kept = replace(scene, subjects=[part for part in parts if part.meshes or part.strands])
            opaque = 1 - _passed(kept, size, samples, depth, sampler_seed)
    if clear:
        rgb, alpha, measured = _solved(scene, marks.sum(0), opaque, far, size, samples, depth, sampler_seed)
        cover = alpha
    else:
        rendered = _without_background(scene, size, samples, depth, sampler_seed)
        rgb, cover, measured = rendered[..., :3], np.clip(rendered[..., 3], 0.0, 1.0), {}
        alpha = cover
        if scene.surroundings:
            alpha = np.zeros_like(cover) if marks is None else np.clip(marks.sum(0), 0.0, 1.0)
    instances = _instances(scene, marks, alpha) if ids else None
    rgb, alpha, cover = (np.ascontiguousarray(a, dtype=np.float32) for a in (np.maximum(rgb, 0.0), alpha, cover))
    return Foreground(rgb, alpha, cover, instances, measured)


def _instances(scene: Scene, marks: np.ndarray | None, alpha: np.ndarray) -> np.ndarray:
    """Instance ids uint8 [H, W] from each subject's coverage [N, H, W] (None: there is one subject at most)."""
    if marks is None:
        return (alpha >= 0.5).astype(np.uint8)
    smoke = [bool(subject.volumes) for subject in scene.subjects]
    if any(smoke):  # the rest of alpha is smoke
        marks[smoke.index(True)] += np.maximum(alpha - marks.sum(0), 0.0)
    return np.where(marks.sum(0) >= 0.5, marks.argmax(0) + 1, 0).astype(np.uint8)


def _passed(scene: Scene, size: int, samples: int, depth: int, seed: int) -> np.ndarray:
    """What passes beside the subjects and through their holes [size, size]: they are black, the plate bright."""
    black = replace(scene, subjects=[blackened(subject) for subject in scene.subjects], sky=BLACK, lamps=[])
    return over_plate(black, np.ones(3), size, samples, depth, seed)[..., :3].mean(-1)


def _without_background(scene: Scene, size: int, samples: int, depth: int, seed: int) -> np.ndarray:
    """Subjects and surroundings with emitters hidden from the camera: float32 [size, size, 4], colour and coverage.

    Mitsuba hides emitters from camera rays only, so the sky would show through holes: cut-out subjects get a dark plate
    behind them.
    """
    if scene.cut_out():
        depth = max(depth, TRANSMISSIVE_DEPTH)  # each layer of lace costs a segment
        rendered = over_plate(scene, BLACK, size, samples, depth, seed)
        rendered[..., 3] = 1 - _passed(scene, size, samples, depth, seed)
        return rendered
    with tempfile.TemporaryDirectory(prefix="synth_data_") as folder:
        shapes = _shapes(scene.subjects, folder, "subject") | _shapes(scene.surroundings, folder, "other")
        return _render(scene, shapes | _emitters(scene), _path(scene, depth, True), size, samples, seed)


def _solved(
    scene: Scene, met: np.ndarray, opaque: np.ndarray, far: np.ndarray, size: int, samples: int, depth: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """(C, alpha, measurements) where light passes through a subject.

    `met` [H, W] is the coverage of all but media; `opaque` and `far` are those of `_marks` for the same samples.
    """
    solid, foggy = _without_media(scene), any(subject.volumes for subject in scene.subjects)
    alpha, measured = opaque, {}
    if solid.transmissive():
        dark, bright = (over_plate(solid, plate, size, samples, depth, seed)[..., :3] for plate in (BLACK, np.ones(3)))
        rgb, alpha = solve(dark, bright)
        # where there is no glass, the plate's light on an opaque rim does not pass through it
        glass = met - opaque > 1e-4
        alpha = np.clip(np.where(glass, np.maximum(alpha, opaque), opaque), 0.0, 1.0)
        rgb = np.maximum(np.where(glass[..., None], rgb, dark), 0.0)
        residual = np.abs(bright - rgb - (1 - alpha[..., None])).mean() * 255
        measured = {"residual": round(float(residual), 4)}
        if foggy:
            rgb = over_plate(scene, BLACK, size, samples, depth, seed)[..., :3]
    else:
        rgb = _without_background(scene, size, samples, depth, seed)[..., :3]
    if foggy:
        glow, passed = media(scene, opaque, far, size)
        rgb, alpha = rgb + glow, 1 - (1 - alpha) * passed
    return rgb, np.clip(alpha, 0.0, 1.0), measured
