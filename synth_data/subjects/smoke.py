"""Smoke, steam, clouds, mist, dust and fire: media on a grid, shaped by domain-warped noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from synth_data.colour import any_colour
from synth_data.factors import count, shares, span
from synth_data.subjects.meshes import Subject, Volume, rotation


@dataclass(frozen=True)
class Factors:
    """Variation of a smoke subject. Lengths are in subject radii."""

    kind: tuple = shares(plume=1.2, steam=1, wisp=1, cloud=1, puff=0.8, ring=0.4, mist=0.7, dust=0.7, fire=1.2)
    """kind of medium"""
    thickness: tuple = span(1.5, 14.0, least=0.05, most=60, log=True)
    """optical thickness: extinction integrated along the densest straight line through the box"""
    albedo: tuple = shares(white=2, grey=1, brown=0.5, dark=0.8, coloured=0.6)
    """tone of the scattering albedo; steam and clouds are white, fire is dark"""
    turbulence: tuple = span(0.06, 0.22, most=1)
    """how far noise displaces the shape"""
    detail: tuple = span(0.45, 0.7, most=0.95)
    """amplitude of each finer octave of noise relative to the one before"""
    contrast: tuple = span(0.35, 0.8, most=1)
    """0: soft haze, 1: hard-edged billows"""
    lean: tuple = span(0.0, 0.5, most=1.5)
    """wind: sideways drift from foot to top"""
    emission: tuple = span(2.0, 10.0, least=0.0, log=True)
    """fire: radiance integrated along the brightest line through it"""
    cells: tuple = count(44, 48, least=8, most=128)
    """grid cells along the longest side, before the box is cropped to its contents; round puffs use 15 % fewer"""


def _field(
    rng: np.random.Generator, shape: tuple[int, int, int], cells: float, octaves: int, decay: float
) -> np.ndarray:
    """Fractal value noise [Z, Y, X] in about [-1, 1], zero mean, `cells` lattice cells along the longest side."""
    from scipy.ndimage import map_coordinates

    total, weight = np.zeros(shape, dtype=np.float32), 0.0
    longest = max(shape)
    for k in range(octaves):
        step = longest / (cells * 2**k)
        if k and step < 1.5:
            break
        size = [int(np.ceil(n / step)) + 4 for n in shape]
        lattice = rng.uniform(-1, 1, size).astype(np.float32)
        axes = [np.arange(n) / step + rng.random() + 1 for n in shape]
        at = np.stack(np.meshgrid(*axes, indexing="ij"))
        order = 3 if k == 0 else 1
        if order == 1:  # smoothstep hides the lattice
            whole = np.floor(at)
            part = at - whole
            at = whole + part * part * (3 - 2 * part)
        total += decay**k * map_coordinates(lattice, at, order=order, mode="nearest", output=np.float32)
        weight += decay ** (2 * k)
    return total / np.sqrt(weight) * 1.6


class _Room:
    """The grid of one medium: its extent, and its points displaced by noise."""

    def __init__(self, rng: np.random.Generator, f: dict[str, Any], half: tuple[float, float, float]) -> None:
        """`half` [3]: half side lengths in x, y, z; the longest gets `cells` cells."""
        self.half = np.array(half)
        self.shape = tuple(int(max(8, round(f["cells"] * h / max(half)))) for h in half[::-1])
        axes = [((np.arange(n) + 0.5) / n * 2 - 1) * h for n, h in zip(self.shape, half[::-1], strict=True)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        self.height = (z / half[2] + 1) / 2
        # 1 in the middle, falling to 0 in the outermost cells
        depth = [1 - np.abs(p / h) - 1 / n for p, h, n in zip((x, y, z), half, self.shape[::-1], strict=True)]
        self.inside = np.prod([np.clip(d / 0.4, 0, 1) for d in depth], axis=0)
        lean = f["lean"] * self.height**1.5 * half[2]
        way = rng.uniform(0, 2 * np.pi)
        x, y = x - lean * np.cos(way), y - lean * np.sin(way)
        amount = f["turbulence"] * (0.35 + self.height)
        carry = [_field(rng, self.shape, 3, 4, 0.55) for _ in range(3)]
        self.x, self.y, self.z = (p + amount * c for p, c in zip((x, y, z), carry, strict=True))

    def noise(self, rng: np.random.Generator, f: dict[str, Any], cells: float, octaves: int = 5) -> np.ndarray:
        return _field(rng, self.shape, cells, octaves, f["detail"])


def _billow(room: _Room, shape: np.ndarray, noise: np.ndarray, f: dict[str, Any]) -> np.ndarray:
    """Density [Z, Y, X] of a soft shape (1 inside, 0 at its edge, negative outside) eroded by noise."""
    value = np.minimum(shape, 1.8 * room.inside - 0.6) + 0.55 * noise
    width = 1.1 - 0.95 * f["contrast"]
    t = np.clip(value / width, 0, 1)
    return t * t * (3 - 2 * t) * (0.6 + 0.4 * np.clip(shape, 0, 1))


def _plume(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, f, (0.55, 0.55, 1.0))
    wide = rng.uniform(0.08, 0.14) + rng.uniform(0.2, 0.34) * room.height ** rng.uniform(0.6, 1.2)
    r = np.hypot(room.x, room.y) / wide
    density = _billow(room, 1 - r, room.noise(rng, f, 5), f)
    return density * (1 - 0.75 * room.height) * np.clip((1 - room.height) / 0.3, 0, 1), room


def _steam(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, {**f, "turbulence": 1.2 * f["turbulence"]}, (0.5, 0.5, 1.0))
    wide = 0.1 + 0.25 * room.height
    sheet = np.abs(room.noise(rng, f, 4, 3))
    veil = np.exp(-((sheet / 0.28) ** 2)) * np.clip(1.2 - np.hypot(room.x, room.y) / wide, 0, 1)
    return veil * np.clip((1 - room.height) / 0.7, 0, 1) * (
        0.4 + 0.6 * np.clip(room.noise(rng, f, 5) + 0.5, 0, 1)
    ), room


def _wisp(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    """A few thin ribbons that curl upwards, as from incense."""
    room = _Room(rng, {**f, "turbulence": 0.4 * f["turbulence"]}, (0.4, 0.4, 1.0))
    density = np.zeros(room.shape)
    for _ in range(int(rng.integers(1, 4))):
        a, b, p, q = rng.uniform(0.05, 0.22), rng.uniform(0.05, 0.22), *rng.uniform(0, 2 * np.pi, 2)
        h = room.height
        x = room.x - a * h * np.sin(rng.uniform(4, 9) * h + p)
        y = room.y - b * h * np.sin(rng.uniform(4, 9) * h + q)
        turn = rng.uniform(0, 6) * h + p
        u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
        long, thin = 0.045 + 0.13 * h, 0.045 + 0.02 * h
        density += np.exp(-((u / long) ** 2) - (v / thin) ** 2) * (0.05 / long) ** 0.5
    return density * np.clip((1 - room.height) / 0.4, 0, 1) * (0.7 + 0.3 * room.noise(rng, f, 6)).clip(0), room


def _cloud(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, {**f, "turbulence": 0.5 * f["turbulence"], "lean": 0}, (1.0, 0.7, 0.6))
    shape = np.full(room.shape, -1.0)
    for _ in range(int(rng.integers(4, 10))):
        c = rng.uniform(-1, 1, 3) * (0.6, 0.3, 0.2)
        r = rng.uniform(0.2, 0.38) * (1 - 0.4 * abs(c[0]))
        shape = np.maximum(shape, 1 - np.sqrt((room.x - c[0]) ** 2 + (room.y - c[1]) ** 2 + (room.z - c[2]) ** 2) / r)
    flat = np.clip((room.z + rng.uniform(0.2, 0.4)) / 0.12, 0, 1)  # clouds have a level base
    return _billow(room, shape, room.noise(rng, f, 6), f) * flat, room


def _puff(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, {**f, "lean": 0, "cells": max(8, round(0.85 * f["cells"]))}, (0.9, 0.9, 0.9))
    r = np.sqrt(room.x**2 + room.y**2 + room.z**2) / rng.uniform(0.5, 0.65)
    return _billow(room, 1 - r, room.noise(rng, f, 5), f), room


def _ring(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, {**f, "turbulence": 0.5 * f["turbulence"], "lean": 0}, (1.0, 1.0, 0.45))
    r = np.hypot(np.hypot(room.x, room.y) - rng.uniform(0.5, 0.62), room.z) / rng.uniform(0.14, 0.24)
    return _billow(room, 1 - r, room.noise(rng, f, 6), f), room


def _mist(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    room = _Room(rng, {**f, "lean": 0}, (1.0, 0.6, 0.5))
    veil = np.clip(1 - np.sqrt((room.x / 0.95) ** 2 + (room.y / 0.55) ** 2 + (room.z / 0.45) ** 2), 0, 1)
    return veil * room.inside**0.5 * np.clip(0.4 + room.noise(rng, f, 3), 0, None), room


def _dust(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    """Dust whirled up from the ground: dense and low in front, thinner behind."""
    room = _Room(rng, {**f, "lean": 0.6 * f["lean"]}, (1.0, 0.6, 0.55))
    top = 0.75 * np.clip(0.25 + 0.5 * (room.x + 1), 0.15, 1) ** 0.8
    low = (room.z + 0.5) / top
    r = np.sqrt((room.x / 0.9) ** 2 + (room.y / 0.5) ** 2 + (0.8 * low) ** 2)
    return _billow(room, 1 - r, room.noise(rng, f, 5), f), room


def _fire(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, _Room]:
    """Tongues of flame over a broad base; the density is the heat, highest inside and at the bottom."""
    room = _Room(rng, {**f, "turbulence": 0.8 * f["turbulence"], "lean": 0.5 * f["lean"]}, (0.55, 0.55, 1.0))
    foot = rng.uniform(0.2, 0.42)
    heat = np.zeros(room.shape)
    for _ in range(int(rng.integers(2, 7))):
        a, r0 = rng.uniform(0, 2 * np.pi), 0.7 * foot * np.sqrt(rng.random())
        tall = rng.uniform(0.45, 0.95)
        h = np.clip(room.height / tall, 0, 1)
        wide = foot * rng.uniform(0.45, 0.8) * (0.35 + 1.6 * h) * np.sqrt(np.clip(1 - h, 0, 1))
        x = room.x - r0 * np.cos(a) * (1 - 0.6 * h)
        y = room.y - r0 * np.sin(a) * (1 - 0.6 * h)
        tongue = np.clip(1 - np.hypot(x, y) / np.maximum(wide, 1e-3), 0, 1) * (room.height < tall)
        heat = np.maximum(heat, tongue * (1 - 0.5 * h))
    lick = 1 + 0.9 * room.noise(rng, f, 7, 3)
    return heat * np.clip(lick, 0.05, None) * np.clip(room.height / 0.06, 0, 1), room


KINDS: dict[str, Callable[[np.random.Generator, dict[str, Any]], tuple[np.ndarray, _Room]]] = {
    "plume": _plume,
    "steam": _steam,
    "wisp": _wisp,
    "cloud": _cloud,
    "puff": _puff,
    "ring": _ring,
    "mist": _mist,
    "dust": _dust,
    "fire": _fire,
}


def _albedo(rng: np.random.Generator, kind: str, tone: str) -> tuple[str, np.ndarray]:
    """The tone of the kind, and its scattering albedo [3]."""
    if kind in ("steam", "cloud", "mist"):
        tone = "white"
    elif kind == "dust":
        tone = "brown"
    elif kind == "fire":
        tone = "dark"
    if tone == "white":
        value = np.full(3, rng.uniform(0.94, 0.985))
    elif tone == "grey":
        value = rng.uniform(0.6, 0.88) * (1 + 0.03 * rng.normal(size=3))
    elif tone == "brown":
        value = np.array([0.9, 0.78, 0.62]) * rng.uniform(0.85, 1.0) + 0.03 * rng.normal(size=3)
    elif tone == "dark":
        value = rng.uniform(0.1, 0.45) * (1 + 0.05 * rng.normal(size=3))
    else:
        bright = any_colour(rng)
        value = 0.5 + 0.45 * bright / bright.max()
    return tone, np.clip(value, 0.02, 0.985)


def _glow(heat: np.ndarray) -> np.ndarray:
    """Colour [..., 3] of a flame by its heat in [0, 1]: dull red, orange, yellow, nearly white."""
    at = np.array([0.0, 0.25, 0.5, 0.8, 1.0])
    stops = np.array([[0.5, 0.03, 0.0], [0.9, 0.13, 0.01], [1.0, 0.36, 0.04], [1.0, 0.65, 0.2], [1.0, 0.85, 0.5]])
    return np.stack([np.interp(heat, at, stops[:, c]) for c in range(3)], -1)


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """One medium from drawn `Factors`; its shape comes from `rng`."""
    f = factors
    density, room = KINDS[f["kind"]](rng, f)
    density = np.clip(density, 0, None) * np.clip(2 * room.inside, 0, 1) ** 1.5
    # crop the box to its contents, with an empty cell around them
    filled = [np.flatnonzero(density.max(tuple({0, 1, 2} - {k})) > 0.003 * density.max()) for k in range(3)]
    cut = [(max(i[0] - 1, 0), min(i[-1] + 2, n)) for i, n in zip(filled, density.shape, strict=True)]
    density = density[tuple(slice(*c) for c in cut)]
    half = room.half * density.shape[::-1] / room.shape[::-1]
    scale = 1.1 / np.linalg.norm(half)
    step = 2 * scale * half / density.shape[::-1]
    # the densest line along an axis gets the drawn optical thickness
    ways = max((density.sum(axis) * step[2 - axis]).max() for axis in range(3))
    tone, albedo = _albedo(rng, f["kind"], f["albedo"])
    emission, thickness = None, f["thickness"]
    if f["kind"] == "fire":
        heat = density / density.max()
        blue = rng.random() < 0.12  # gas
        glow = _glow(np.clip(1.4 * heat, 0, 1))
        emission = heat[..., None] * (glow[..., ::-1] if blue else glow)
        emission *= f["emission"] / max((emission.max(-1).sum(axis) * step[2 - axis]).max() for axis in range(3))
        emission = emission.astype(np.float32)
        thickness *= 0.25  # flames are thin
    density = (density * thickness / ways).astype(np.float32)
    place = np.eye(4)
    place[:3, :3] = np.diag(2 * half)
    place[:3, 3] = -half
    turn = np.eye(4)
    turn[:3, :3] = scale * rotation(np.array([0.0, 0, 1]), rng.uniform(0, 360))
    volume = Volume(density, albedo, emission, turn @ place)
    return Subject(volumes=[volume], drawn={"tone": tone, "grid": list(density.shape)})
