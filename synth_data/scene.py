"""Scenes: a full description of one foreground (subjects, camera, lights), before anything is rendered."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from synth_data.backgrounds import draw_background
from synth_data.colour import any_colour, luminance
from synth_data.environments import axes, brightest, built_around, read_environment, scaled, turned
from synth_data.factors import chance, count, draw, pick, shares, span
from synth_data.subjects import FAMILIES
from synth_data.subjects.meshes import Subject, moved, rotation, rounded, surface

# The entry after the seed in every SeedSequence, so that no two streams share draws.
SCENE_STREAM, SAMPLER_STREAM, PICTURE_STREAM, BACKGROUND_STREAM, SUBJECT_STREAM = 1, 2, 3, 4, 5
CLASSES = {name: number for number, name in enumerate(FAMILIES, start=1)}  # 0 is the background
DISTRACTORS = 2**40  # foregrounds from here on are the out-of-focus objects in backgrounds
UNIT_CUBE = np.stack(np.meshgrid((-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5)), -1).reshape(-1, 3)


@dataclass(frozen=True)
class ArrangementFactors:
    """Number of subjects and their positions."""

    empty: float = chance(0.0)
    """whether there is no subject at all"""
    subjects: tuple = count(1, 1, least=1, most=8)
    """number of subjects"""
    same_family: float = chance(0.5)
    """whether all subjects are of the first one's family"""
    spread: tuple = span(0.2, 1.0, most=4)
    """largest sideways distance from the first subject, in sums of both radii; below 1 they overlap"""
    scale: tuple = span(0.5, 1.0, least=0.05, most=4)
    """size of each further subject, relative to the first"""
    in_scene: float = chance(0.0)
    """whether opaque subjects without cut-outs stand in a rendered scene: ground, walls, objects, shadows"""


@dataclass(frozen=True)
class CameraFactors:
    """Position and blur of the camera. The subjects are at the origin, z is up."""

    azimuth: tuple = span(0, 360, most=360)
    """degrees"""
    elevation: tuple = span(-20, 55, least=-85, most=85)
    """degrees above the horizon"""
    roll: tuple = span(-20, 20, least=-180, most=180)
    """degrees"""
    fov: tuple = span(15, 50, least=1, most=120)
    """degrees across the frame"""
    extent: tuple = span(0.5, 1.15, least=0.05, most=5)
    """the longer side of the subjects' bounding box, in frame widths; above 1 it is cut"""
    shift_x: tuple = span(-0.2, 0.2, least=-2, most=2)
    """how far the subjects' box is moved sideways, in frame widths"""
    shift_y: tuple = span(-0.2, 0.2, least=-2, most=2)
    """how far the subjects' box is moved upwards, in frame widths"""
    defocus: tuple = span(0.0, 0.0, most=0.5)
    """depth of field: the blur disc of a point at infinity, in frame widths"""
    focus: tuple = span(0.0, 0.0, least=-2, most=2)
    """distance of the focal plane in front of the subjects' centre, in their radii"""
    motion: tuple = span(0.0, 0.0, most=0.5)
    """how far the subjects move across the frame while the shutter is open, in frame widths"""
    spin: tuple = span(0.0, 0.0, most=45)
    """how far the subjects turn while the shutter is open, in degrees"""


@dataclass(frozen=True)
class LightFactors:
    """Sky and lamps."""

    sky: tuple = shares(constant=1, gradient=2, background=0, environment=0)
    """environment lighting: one colour, a random map, a map built from the first background, or one from a file"""
    sky_strength: tuple = span(0.25, 1.2, least=0.001, most=1e4, log=True)
    """mean radiance of the sky"""
    lamps: tuple = count(1, 3, most=16)
    """number of lamps"""
    kind: tuple = shares(sun=1, area=1.5, point=1)
    """kind of each lamp"""
    strength: tuple = span(0.5, 4.0, most=1e4)
    """irradiance of the first lamp at the subject; each further lamp has about half"""
    tint: tuple = span(0.0, 0.35, most=1)
    """how far light colours deviate from white"""


@dataclass(frozen=True)
class Lamp:
    """A sun, area or point lamp; `direction` [3] points to it, `irradiance` [3] is what arrives at the subject."""

    kind: str
    direction: np.ndarray
    irradiance: np.ndarray
    distance: float
    radius: float


@dataclass(frozen=True)
class Camera:
    """A camera; with an `aperture` (lens radius) it is sharp at `focus` (distance along its axis).

    `motion` [3] and `spin` (degrees about z) say how the subjects move while the shutter is open.
    """

    origin: np.ndarray
    target: np.ndarray
    up: np.ndarray
    fov: float
    aperture: float = 0.0
    focus: float = 1.0
    motion: np.ndarray = field(default_factory=lambda: np.zeros(3))
    spin: float = 0.0

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors [3] to the right, upwards and forward."""
        return axes(self.target - self.origin, self.up)

    def during(self, t: float) -> "Camera":
        """The camera relative to the subjects at time t in [-0.5, 0.5] of the exposure."""
        back = rotation(np.array([0, 0, 1]), -self.spin * t)
        return replace(
            self,
            origin=back @ (self.origin - t * self.motion),
            target=back @ (self.target - t * self.motion),
            up=back @ self.up,
        )


@dataclass(frozen=True)
class Scene:
    """A foreground to render.

    Attributes:
        subjects: the objects to be matted, at their positions; may be empty.
        camera: the camera that sees them.
        sky: radiance [3] or an environment [h, 2h, 3] (see environments.py).
        lamps: lights beside the sky.
        factors: everything that was drawn, for the metadata.
        surroundings: objects that are rendered with the subjects but are not part of the matte.
    """

    subjects: list[Subject]
    camera: Camera
    sky: np.ndarray
    lamps: list[Lamp]
    factors: dict[str, Any]
    surroundings: list[Subject] = field(default_factory=list)

    def transmissive(self) -> bool:
        """Whether light passes through a subject, so that coverage is not its alpha."""
        return any(subject.transmissive() for subject in self.subjects)

    def cut_out(self) -> bool:
        """Whether a subject's texture has holes."""
        return any(subject.cut_out() for subject in self.subjects)


def stream(seed: int, kind: int, *position: int) -> np.random.Generator:
    """The generator of one stream for one foreground or sample; the only source of randomness in this package."""
    return np.random.default_rng(np.random.SeedSequence([seed, kind, *position]))


def _aim(points: np.ndarray, f: dict[str, float], angle: float) -> Camera:
    """The camera for which points [P, 3] fill `extent` of the frame, off centre by the shifts; motion along `angle`."""
    azimuth, elevation, roll = np.deg2rad([f["azimuth"], f["elevation"], f["roll"]])
    away = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    level = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    above = np.cross(away, level)
    right = np.cos(roll) * level + np.sin(roll) * above
    up = np.cos(roll) * above - np.sin(roll) * level
    frame = 2 * np.tan(np.deg2rad(f["fov"]) / 2)
    radius = np.linalg.norm(points, axis=1).max()
    target, distance = np.zeros(3), 3 * radius
    for _ in range(6):  # in perspective the box depends on the distance; this converges quickly
        origin = target + distance * away
        depth = (origin - points) @ away
        x, y = ((points - origin) @ right) / depth, ((points - origin) @ up) / depth
        size = max(np.ptp(x), np.ptp(y)) / frame
        middle_x, middle_y = (x.max() + x.min()) / 2, (y.max() + y.min()) / 2
        target = target + distance * (
            (middle_x - f["shift_x"] * frame) * right + (middle_y - f["shift_y"] * frame) * up
        )
        distance = max(distance * size / f["extent"], 1.3 * radius)
    origin = target + distance * away
    half_frame = distance * np.tan(np.deg2rad(f["fov"]) / 2)  # at the target
    return Camera(
        origin,
        target,
        up,
        f["fov"],
        aperture=f["defocus"] * half_frame,
        focus=max(distance - f["focus"] * radius, 0.2 * distance),
        motion=2 * half_frame * f["motion"] * (np.cos(angle) * right + np.sin(angle) * up),
        spin=f["spin"],
    )


def _light_colour(rng: np.random.Generator, tint: float) -> np.ndarray:
    """A light colour [3] of luminance 1; `tint` says how far it may be from white."""
    warmth = rng.normal() * np.array([1.0, 0.1, -1.0]) + 0.3 * rng.normal(size=3)
    colour = np.exp(tint * warmth)
    return colour / luminance(colour)


def _sky(rng: np.random.Generator, kind: str, strength: float, tint: float) -> np.ndarray:
    """Radiance of the surroundings: [3], or an environment map [16, 32, 3] with z up."""
    if kind == "constant":
        return strength * _light_colour(rng, tint)
    top, middle, ground = (_light_colour(rng, tint) * rng.uniform(0.1, 1.5) for _ in range(3))
    elevation = np.linspace(1, -1, 16)[:, None, None]
    sky = np.where(
        elevation > 0,
        middle + (top - middle) * elevation,
        middle + (ground - middle) * np.sqrt(-np.minimum(elevation, 0)),
    )
    sky = np.repeat(sky, 32, axis=1)
    v, u = np.meshgrid(np.arange(16) + 0.5, np.arange(32) + 0.5, indexing="ij")
    for _ in range(int(rng.integers(0, 4))):  # windows and lit walls
        x, y, wide = rng.uniform(0, 32), rng.uniform(1, 13), rng.uniform(0.8, 4)
        across = np.abs((u - x + 16) % 32 - 16)
        glow = np.exp(-((across / wide) ** 2) - ((v - y) / wide) ** 2)
        sky = sky + glow[..., None] * _light_colour(rng, tint) * rng.uniform(1, 6)
    weight = np.sin((np.arange(16) + 0.5) / 16 * np.pi)[:, None]
    return sky * strength / ((luminance(sky) * weight).mean() / weight.mean())


def _lamps(
    rng: np.random.Generator, f: dict[str, Any], table: LightFactors, away: np.ndarray, reach: float
) -> list[Lamp]:
    """Lamps farther away than `reach`, the camera's distance, so that none stands between camera and subject."""
    lamps = []
    for k in range(f["lamps"]):
        kind = f["kind"] if k == 0 else pick(rng, table.kind)
        way = rng.normal(size=3) + (np.array([0, 0, 0.6]) + 0.8 * away if k == 0 else 0)
        irradiance = _light_colour(rng, f["tint"]) * f["strength"] * (1 if k == 0 else rng.uniform(0.2, 0.8))
        distance = reach * rng.uniform(1.2, 2.0)
        radius = distance * rng.uniform(0.05, 0.5)
        lamps.append(Lamp(kind, way / np.linalg.norm(way), irradiance, distance, radius))
    return lamps


def _families(recipe: Any, rng: np.random.Generator, a: dict[str, Any]) -> list[str]:
    """The family of each subject."""
    families: list[str] = []
    for k in range(0 if a["empty"] else a["subjects"]):
        families.append(families[0] if k and a["same_family"] else pick(rng, recipe.families))
    return families


def _placed(
    rng: np.random.Generator, subjects: list[Subject], a: dict[str, Any], scale: tuple, azimuth: float, grounded: bool
) -> list[Subject]:
    """Subjects beside, in front of and behind the first one, their bounding spheres apart, centred as a group.

    Sideways each is within `spread` sums of radii of the first; in depth it is as near as the spheres allow.
    """
    across = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    toward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    placed, centres, radii = [], np.zeros((0, 3)), np.zeros(0)
    for k, subject in enumerate(subjects):
        size = rng.uniform(*scale) if k else 1.0
        radius = size * np.linalg.norm(subject.points(), axis=1).max()
        at = np.zeros(3)
        if k:
            way = rng.choice([-1.0, 1.0]) * toward
            at = across * rng.uniform(-1, 1) * a["spread"] * (radii[0] + radius)
            at[2] = 0.0 if grounded else rng.uniform(-0.3, 0.3) * radii[0]
            while (np.linalg.norm(centres - at, axis=1) < radii + radius).any():
                at = at + 0.1 * radius * way
        placed.append(moved(subject, np.eye(3) * size, at))
        centres, radii = np.vstack([centres, at]), np.append(radii, radius)
    if grounded:
        placed = [moved(s, None, (0, 0, -s.points()[:, 2].min())) for s in placed]
    if placed:
        points = np.concatenate([s.points() for s in placed])
        middle = (points.min(0) + points.max(0)) / 2
        placed = [moved(s, None, -middle) for s in placed]
    return placed


def _surroundings(recipe: Any, rng: np.random.Generator, floor: float, view: Camera, radius: float) -> list[Subject]:
    """A ground at height `floor`, sometimes a wall behind the subjects, and objects standing around.

    None of them intersects the subjects' bounding sphere or contains the camera.
    """
    away = (view.origin - view.target) / np.linalg.norm(view.origin - view.target)
    kinds = ("wood", "tiles", "grass", "marble", "cloud", "plain")
    level = away * (1, 1, 0) / max(np.linalg.norm(away[:2]), 1e-6)

    def sheet(corner: np.ndarray, u: np.ndarray, v: np.ndarray) -> Subject:
        factors = draw(rng, replace(recipe.background, kind=tuple((k, 1.0) for k in kinds), distractors=(0, 0)))
        factors |= {"grain": 0.0, "vignette": 0.0, "sharp": True, "similar": False}
        texture = draw_background(rng, 256, factors, np.full(3, 0.5))
        mesh = surface(np.stack([np.stack([corner, corner + u]), np.stack([corner + v, corner + u + v])]))
        return Subject([replace(mesh, material={"kind": "diffuse", "colour": np.clip(texture, 0.02, 0.9)})])

    reach = radius * rng.uniform(5, 12)
    base = np.array([0, 0, floor])
    across = np.array([-level[1], level[0], 0.0])
    things = [sheet(base - reach * (level + across), 2 * reach * across, 2 * reach * level)]
    if rng.random() < 0.6:
        turn = rotation(np.array([0, 0, 1]), rng.uniform(-35, 35))
        back, along = turn @ level, turn @ across
        foot = base - back * radius * rng.uniform(1.3, 4)
        things.append(sheet(foot - reach * along, 2 * reach * along, np.array([0, 0, reach])))
    families = [pair for pair in recipe.families if pair[1] > 0]
    for _ in range(int(rng.integers(0, 5))):
        family = pick(rng, families)
        subject = FAMILIES[family].build(rng, draw(rng, recipe.tables[family]))
        size, angle = rng.uniform(0.3, 1.1) * radius, rng.uniform(0, 2 * np.pi)
        way = np.cos(angle) * level + np.sin(angle) * across
        reach = size * np.linalg.norm(subject.points(), axis=1).max()
        at = way * (radius * rng.uniform(1.0, 3.0) + reach)
        before = way @ level > 0.3 and rng.random() < 0.8  # on the camera's side it could hide the subjects
        if not (before or subject.transmissive() or subject.cut_out() or np.linalg.norm(at - view.origin) < 2 * reach):
            subject = moved(subject, np.eye(3) * size, at)
            things.append(moved(subject, None, (0, 0, floor - subject.points()[:, 2].min())))
    return things


def background_of(
    recipe: Any, seed: int, index: int, size: int, subject_colour: np.ndarray | None, sources: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """The background of a sample, linear float32 [size, size, 3], and its factors; the same scene at every size.

    `subject_colour` linear [3], or None if the subject is not known yet (the factor `similar` is ignored then).
    """
    rng = stream(seed, BACKGROUND_STREAM, index)
    factors = draw(rng, recipe.background)
    if subject_colour is None:
        factors["similar"] = False
    colour = any_colour(rng) if subject_colour is None else subject_colour
    return draw_background(rng, size, factors, colour, sources), factors


def describe(recipe: Any, seed: int, foreground: int, attempt: int = 0, sources: Any = None) -> Scene:
    """The scene of one foreground: a pure function of (recipe, seed, foreground, attempt).

    Another attempt has other subjects of the same families under the same camera and lights. `sources` provides photos
    and distractors for a background that lights the scene. Foregrounds from DISTRACTORS on are one sharp subject.
    """
    rng = stream(seed, SCENE_STREAM, foreground)
    arrangement, camera, lights = draw(rng, recipe.arrangement), draw(rng, recipe.camera), draw(rng, recipe.lights)
    if foreground >= DISTRACTORS:
        arrangement |= {"empty": False, "subjects": 1, "in_scene": False}
        camera |= {"defocus": 0.0, "motion": 0.0, "spin": 0.0, "extent": 0.9, "shift_x": 0.0, "shift_y": 0.0}
        lights["sky"] = "constant" if lights["sky"] in ("background", "environment") else lights["sky"]
    families, subjects, records = _families(recipe, rng, arrangement), [], []
    shapes = stream(seed, SUBJECT_STREAM, foreground, attempt)
    for k, family in enumerate(families):
        drawn = draw(shapes, recipe.tables[family])
        subjects.append(rounded(FAMILIES[family].build(shapes, drawn)))
        record = {"id": k + 1, "family": family, "class": CLASSES[family]}
        records.append(record | {"factors": {**drawn, **subjects[-1].drawn}})
    in_scene = arrangement["in_scene"] and not any(s.transmissive() or s.cut_out() for s in subjects)
    if in_scene:
        camera["elevation"] = max(camera["elevation"], 4.0)
    azimuth = np.deg2rad(camera["azimuth"])
    subjects = _placed(rng, subjects, arrangement, recipe.arrangement.scale, azimuth, in_scene)
    points = np.concatenate([s.points() for s in subjects]) if subjects else UNIT_CUBE
    view = _aim(points, camera, rng.uniform(0, 2 * np.pi))
    away = (view.origin - view.target) / np.linalg.norm(view.origin - view.target)
    radius = float(np.linalg.norm(points, axis=1).max())
    floor = float(points[:, 2].min())
    in_scene = in_scene and view.origin[2] > floor + 0.1 * radius  # a shift may move the camera below the ground
    arrangement["in_scene"] = bool(in_scene)
    surroundings = _surroundings(recipe, shapes, floor, view, radius) if in_scene else []

    lamps = _lamps(rng, lights, recipe.lights, away, float(np.linalg.norm(view.origin)) + 2)
    kind, strength = lights["sky"], lights["sky_strength"]
    if kind == "background":
        first = foreground * recipe.composites_per_foreground
        picture, _ = background_of(recipe, seed, first, 64, None, sources)
        sky = scaled(built_around(picture, camera["azimuth"]), strength)
    elif kind == "environment":
        file = recipe.environment_files[int(rng.integers(len(recipe.environment_files)))]
        sky = scaled(turned(read_environment(file), rng.uniform(0, 360)), strength)
        lights["file"] = file
    else:
        sky = _sky(rng, kind, strength, lights["tint"])
    if kind in ("background", "environment"):  # a background's brightest spot is the only lamp; environments have none
        way, colour = brightest(sky)
        lamps = [replace(lamp, direction=way, irradiance=colour * luminance(lamp.irradiance)) for lamp in lamps[:1]]
        if kind == "environment":
            lamps = []
    if any(subject.transmissive() for subject in subjects):  # a lamp of no size leaves no highlight on smooth glass
        lamps = [replace(lamp, kind="area") for lamp in lamps]
    factors = {
        "family": families[0] if families else "none",
        "foreground": foreground,
        "instances": records,
        "arrangement": arrangement,
        "camera": camera,
        "lights": {**lights, "kinds": [lamp.kind for lamp in lamps]},
    }
    return Scene(subjects, view, sky, lamps, factors, surroundings)
