"""Scenes: one foreground described in full (subject, camera, lights) before anything is rendered."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from synth_data.colour import luminance
from synth_data.factors import count, draw, pick, shares, span
from synth_data.subjects import FAMILIES
from synth_data.subjects.meshes import Subject

# First entry after the seed of every SeedSequence, so that no two streams share their draws.
SCENE_STREAM, SAMPLER_STREAM, PICTURE_STREAM = 1, 2, 3


@dataclass(frozen=True)
class CameraFactors:
    """Where the camera stands. The subject is at the origin, z is up."""

    azimuth: tuple = span(0, 360, most=360)
    """degrees"""
    elevation: tuple = span(-20, 55, least=-85, most=85)
    """degrees above the horizon"""
    roll: tuple = span(-20, 20, least=-180, most=180)
    """degrees"""
    fov: tuple = span(15, 50, least=1, most=120)
    """degrees across the frame"""
    extent: tuple = span(0.5, 1.15, least=0.05, most=5)
    """the longer side of the subject's bounding box, in frame widths; above 1 it is cut"""
    shift_x: tuple = span(-0.2, 0.2, least=-2, most=2)
    """how far the subject's box is moved sideways, in frame widths"""
    shift_y: tuple = span(-0.2, 0.2, least=-2, most=2)
    """how far the subject's box is moved upwards, in frame widths"""


@dataclass(frozen=True)
class LightFactors:
    """What lights the subject."""

    sky: tuple = shares(constant=1, gradient=2)
    """light from everywhere: one colour, or a random environment map"""
    sky_strength: tuple = span(0.25, 1.2, least=0.001, log=True)
    """mean radiance of the sky"""
    lamps: tuple = count(1, 3, most=16)
    """number of lamps"""
    kind: tuple = shares(sun=1, area=1.5, point=1)
    """each lamp's kind"""
    strength: tuple = span(0.5, 4.0, least=0.0)
    """irradiance of the first lamp at the subject; each further lamp has about half"""
    tint: tuple = span(0.0, 0.35, most=1)
    """how far light colours stray from white"""


@dataclass(frozen=True)
class Lamp:
    """A sun, area or point lamp; `direction` [3] leads to it, `irradiance` [3] arrives at the subject."""

    kind: str
    direction: np.ndarray
    irradiance: np.ndarray
    distance: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A foreground to render: subject, camera (fov in degrees), sky (radiance [3] or [h, w, 3]) and lamps.

    `factors` is the record of what was drawn, for the metadata.
    """

    subject: Subject
    origin: np.ndarray
    target: np.ndarray
    up: np.ndarray
    fov: float
    sky: np.ndarray
    lamps: list[Lamp]
    factors: dict[str, Any]


def stream(seed: int, kind: int, position: int) -> np.random.Generator:
    """The generator of one stream at one foreground or sample; the only source of chance in this package."""
    return np.random.default_rng(np.random.SeedSequence([seed, kind, position]))


def _aim(points: np.ndarray, f: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera origin, target and up so that points [P, 3] span `extent` of the frame, moved by the shifts."""
    azimuth, elevation, roll = np.deg2rad([f["azimuth"], f["elevation"], f["roll"]])
    away = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    level = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    above = np.cross(away, level)
    right = np.cos(roll) * level + np.sin(roll) * above
    up = np.cos(roll) * above - np.sin(roll) * level
    frame = 2 * np.tan(np.deg2rad(f["fov"]) / 2)
    radius = np.linalg.norm(points, axis=1).max()
    target, distance = np.zeros(3), 3 * radius
    for _ in range(6):  # perspective makes the box depend on the distance; this settles quickly
        origin = target + distance * away
        depth = (origin - points) @ away
        x, y = ((points - origin) @ right) / depth, ((points - origin) @ up) / depth
        size = max(np.ptp(x), np.ptp(y)) / frame
        middle_x, middle_y = (x.max() + x.min()) / 2, (y.max() + y.min()) / 2
        target = target + distance * (
            (middle_x - f["shift_x"] * frame) * right + (middle_y - f["shift_y"] * frame) * up
        )
        distance = max(distance * size / f["extent"], 1.3 * radius)
    return target + distance * away, target, up


def _light_colour(rng: np.random.Generator, tint: float) -> np.ndarray:
    """A light colour [3] of luminance 1, warm or cool or odd by `tint`."""
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
    """Lamps beyond the camera's distance `reach`, so that none stands between it and the subject."""
    lamps = []
    for k in range(f["lamps"]):
        kind = f["kind"] if k == 0 else pick(rng, table.kind)
        way = rng.normal(size=3) + (np.array([0, 0, 0.6]) + 0.8 * away if k == 0 else 0)
        irradiance = _light_colour(rng, f["tint"]) * f["strength"] * (1 if k == 0 else rng.uniform(0.2, 0.8))
        distance = reach * rng.uniform(1.2, 2.0)
        radius = distance * rng.uniform(0.05, 0.5)
        lamps.append(Lamp(kind, way / np.linalg.norm(way), irradiance, distance, radius))
    return lamps


def describe(recipe: Any, seed: int, foreground: int) -> Scene:
    """The scene of one foreground: a pure function of (recipe, seed, foreground)."""
    rng = stream(seed, SCENE_STREAM, foreground)
    family = pick(rng, recipe.families)
    subject_factors = draw(rng, recipe.tables[family])
    camera, lights = draw(rng, recipe.camera), draw(rng, recipe.lights)
    subject = FAMILIES[family].build(rng, subject_factors)
    origin, target, up = _aim(subject.points(), camera)
    away = origin - target
    reach = float(np.linalg.norm(origin)) + 2
    sky = _sky(rng, lights["sky"], lights["sky_strength"], lights["tint"])
    lamps = _lamps(rng, lights, recipe.lights, away / np.linalg.norm(away), reach)
    factors = {
        "family": family,
        "foreground": foreground,
        family: {**subject_factors, **subject.drawn},
        "camera": camera,
        "lights": {**lights, "kinds": [lamp.kind for lamp in lamps]},
    }
    return Scene(subject, origin, target, up, camera["fov"], sky, lamps, factors)
