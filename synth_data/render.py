"""The renderer's door: a `Scene` in, premultiplied linear colour and coverage out. Mitsuba stays in here."""

import os
import tempfile
from typing import Any

import numpy as np

from synth_data.materials import bsdf, colour
from synth_data.scene import SAMPLER_STREAM, Scene, stream
from synth_data.subjects.meshes import Mesh, Strands, shaded

VARIANTS = ("scalar_rgb", "llvm_ad_rgb", "cuda_ad_rgb")
NEEDS = {
    "llvm_ad_rgb": "point DRJIT_LIBLLVM_PATH at a libLLVM.so (19 works, 14 and 15 crash), or use scalar_rgb",
    "cuda_ad_rgb": "it needs an NVIDIA GPU and its driver; use scalar_rgb",
}
BLOCK = 32  # fixed: Mitsuba derives it from the thread count otherwise, and the sampler's seeding from it


def start(variant: str = "scalar_rgb") -> None:
    """Loads Mitsuba in this process, on one thread (the result depends on the number of threads otherwise).

    ValueError if the variant is unknown or cannot run here.
    """
    if variant not in VARIANTS:
        raise ValueError(f"--variant: unknown variant '{variant}'; known: {', '.join(VARIANTS)}")
    import drjit
    import mitsuba as mi

    try:
        mi.set_variant(variant)
    except Exception as error:  # whatever a missing backend raises
        raise ValueError(f"--variant {variant} cannot run here; {NEEDS.get(variant, 'reinstall mitsuba')}") from error
    drjit.set_thread_count(1)
    mi.set_log_level(mi.LogLevel.Error)


def _mesh(mesh: Mesh) -> Any:
    """A `Mesh` as a Mitsuba shape with creased normals."""
    import mitsuba as mi

    vertices, normals, uv, faces = shaded(mesh)
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(bsdf(mesh.material))
    shape = mi.Mesh(
        "mesh",
        len(vertices),
        len(faces),
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    content = mi.traverse(shape)
    content["vertex_positions"] = vertices.astype(np.float32).ravel()
    content["vertex_normals"] = normals.astype(np.float32).ravel()
    content["vertex_texcoords"] = uv.astype(np.float32).ravel()
    content["faces"] = faces.astype(np.uint32).ravel()
    content.update()
    return shape


def _strands(strands: Strands, path: str) -> Any:
    """`Strands` as a Mitsuba shape, through a text file at `path` (Mitsuba reads curves from files only)."""
    import mitsuba as mi

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
            "bsdf": {"type": "diffuse", "reflectance": colour(colours, nearest=True)},
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


def render_foreground(scene: Scene, size: int, samples: int, depth: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The subject alone, in front of nothing: (colour, coverage).

    Colour is float32 [size, size, 3] >= 0, linear and premultiplied; coverage float32 [size, size] in [0, 1].
    `samples` paths a pixel of at most `depth` segments. `start` must have been called in this process.
    """
    import mitsuba as mi

    sampler_seed = int(stream(seed, SAMPLER_STREAM, scene.factors["foreground"]).integers(2**31))
    view = mi.ScalarTransform4f().look_at(scene.origin.tolist(), scene.target.tolist(), scene.up.tolist())
    described: dict[str, Any] = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": depth, "hide_emitters": True, "block_size": BLOCK},
        "sensor": {
            "type": "perspective",
            "fov": scene.fov,
            "fov_axis": "x",
            "to_world": view,
            "near_clip": 0.001,
            "film": {
                "type": "hdrfilm",
                "width": size,
                "height": size,
                "pixel_format": "rgba",
                "component_format": "float32",
                "rfilter": {"type": "box"},  # no negative lobes: alpha stays in [0, 1]
            },
            "sampler": {"type": "multijitter", "sample_count": samples},
        },
        **_emitters(scene),
    }
    with tempfile.TemporaryDirectory(prefix="synth_data_") as folder:
        for k, mesh in enumerate(scene.subject.meshes):
            described[f"mesh{k}"] = _mesh(mesh)
        for k, strands in enumerate(scene.subject.strands):
            described[f"strands{k}"] = _strands(strands, os.path.join(folder, f"{k}.txt"))
        loaded = mi.load_dict(described)
    rendered = np.array(mi.render(loaded, seed=sampler_seed, spp=samples), dtype=np.float32)
    if not np.isfinite(rendered).all():
        raise ValueError(
            f"foreground {scene.factors['foreground']} of seed {seed}: the renderer gave non-finite values"
        )
    return np.maximum(rendered[..., :3], 0.0), np.clip(rendered[..., 3], 0.0, 1.0)
