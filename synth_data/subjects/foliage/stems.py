"""Stems of plants: paths that wander and hang, places along them, and needles around them."""

from dataclasses import dataclass, field

import numpy as np

from synth_data.subjects.meshes import Mesh, Strands
from synth_data.subjects.repeated import unit

GOLDEN = np.pi * (3 - np.sqrt(5))  # the angle between leaves that follow one another around a stem


@dataclass
class Plant:
    """The parts of a plant: stems and leaves without a material yet, other meshes with theirs, and strands."""

    stems: list[Mesh] = field(default_factory=list)
    leaves: list[Mesh] = field(default_factory=list)
    others: list[Mesh] = field(default_factory=list)
    strands: list[Strands] = field(default_factory=list)


def grow_stems(
    rng: np.random.Generator,
    starts: np.ndarray,
    ways: np.ndarray,
    lengths: np.ndarray | float,
    droop: float,
    wild: float = 0.15,
    number: int = 16,
) -> np.ndarray:
    """Paths [N, number, 3] that leave `starts` [N, 3] along `ways` [N, 3], wander by `wild` and hang by `droop`."""
    at, heading = np.asarray(starts, dtype=np.float64), unit(np.asarray(ways, dtype=np.float64))
    step = np.broadcast_to(np.asarray(lengths, dtype=np.float64) / (number - 1), len(at))[:, None]
    drift = rng.normal(size=at.shape) * wild
    jolts = rng.normal(size=(number - 1, *at.shape)) * 0.35 * wild
    path = [at]
    for jolt in jolts:
        drift = 0.8 * drift + jolt
        heading = unit(heading + 0.25 * drift + np.array([0, 0, -1.6 * droop / number]))
        path.append(path[-1] + step * heading)
    return np.stack(path, 1)


def grow_stem(
    start: np.ndarray | tuple,
    way: np.ndarray | tuple,
    length: float,
    droop: float,
    rng: np.random.Generator,
    wild: float = 0.15,
    number: int = 16,
) -> np.ndarray:
    """One path [number, 3] of `grow_stems`."""
    return grow_stems(rng, np.asarray(start)[None], np.asarray(way)[None], length, droop, wild, number)[0]


def tapered(number: int, thick: float, tip: float = 0.35) -> np.ndarray:
    """Radii [1, number] that fall from `thick` to `tip` times as much."""
    return thick * np.linspace(1, tip, number)[None]


def spots_along(paths: list[np.ndarray], first: float, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`number` places on each path, from the fraction `first` of its length on: points, directions, fractions."""
    points, ways, shares_ = [], [], []
    for path in paths:
        t = np.linspace(first, 1, number)
        index = t * (len(path) - 1)
        points.append(np.stack([np.interp(index, np.arange(len(path)), path[:, k]) for k in range(3)], 1))
        gradient = np.gradient(path, axis=0)
        ways.append(np.stack([np.interp(index, np.arange(len(path)), gradient[:, k]) for k in range(3)], 1))
        shares_.append(t)
    return np.concatenate(points), unit(np.concatenate(ways)), np.concatenate(shares_)


def directions_around(rng: np.random.Generator, ways: np.ndarray, order: np.ndarray, arrangement: int) -> np.ndarray:
    """Directions [N, 3] away from a stem, for leaves in a spiral (`arrangement` 0), alternate (1) or opposite (2)."""
    flat = unit(np.cross(ways, (0.1, 0.2, 1.0)))
    other = np.cross(ways, flat)
    angle = (order * GOLDEN, order * np.pi, order * np.pi + (order // 2 % 2) * np.pi / 2)[arrangement][:, None]
    angle = angle + 0.25 * rng.normal(size=angle.shape)
    return np.cos(angle) * flat + np.sin(angle) * other


def needle_strands(
    rng: np.random.Generator, paths: list[np.ndarray], each: int, long: float, colour: np.ndarray, lean: float
) -> Strands:
    """Straight needles around twigs, `each` of them on every path, `long` on average; `lean` tilts them forward."""
    points, ways, _ = spots_along(paths, 0.03, each)
    number = len(points)
    out = directions_around(rng, ways, np.arange(number, dtype=float), 0)
    way = unit(out + lean * ways + 0.2 * rng.normal(size=(number, 3)))
    s = np.linspace(-0.35, 1.2, 5)[None, :, None]
    reach = long * np.exp(0.15 * rng.normal(size=(number, 1, 1)))
    bend = 0.12 * rng.normal(size=(number, 1, 3))
    needles = points[:, None] + reach * (s * way[:, None] + s**2 * bend)
    tint = np.clip(colour * np.exp(0.2 * rng.normal(size=(number, 1, 1))), 0.003, 0.9)
    radii = np.broadcast_to(long * 0.022 * np.array([1, 1, 1, 0.8, 0.4]), (number, 5))
    return Strands(needles, radii, np.broadcast_to(tint, (number, 2, 3)))
