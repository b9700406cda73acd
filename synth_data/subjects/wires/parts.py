"""Parts of wire objects: meshes by role, straight segments and random paths."""

import numpy as np

from synth_data.subjects.meshes import Mesh
from synth_data.subjects.repeated import along, unit

Parts = dict[str, list[Mesh]]  # role, which decides the material -> meshes


def merged(*several: Parts) -> Parts:
    """All parts, role by role."""
    roles = dict.fromkeys(role for parts in several for role in parts)
    return {role: [m for parts in several for m in parts.get(role, [])] for role in roles}


def segments(*ends: tuple) -> np.ndarray:
    """Straight paths [N, 2, 3] from pairs of points."""
    return np.array(ends, dtype=np.float64)


def wandering_path(rng: np.random.Generator, number: int, waves_: int, fall: float, closed: bool) -> np.ndarray:
    """A smooth random path [number, 3] of a few harmonics within about the unit ball."""
    t = np.linspace(0, 1, number, endpoint=not closed)[:, None]
    path = np.zeros((number, 3))
    for k in range(1, waves_ + 1):
        turn = k * 2 * np.pi if closed else k * np.pi
        path += (rng.normal(size=3) * np.cos(turn * t) + rng.normal(size=3) * np.sin(turn * t)) / k**fall
    return path / np.abs(path).max()


def wandering_cable(
    rng: np.random.Generator, start: np.ndarray, way: np.ndarray, length: float, bends: int
) -> np.ndarray:
    """A cable [120, 3] that leaves `start` along `way`, wanders and hangs."""
    points, at, heading = [start, start + 0.12 * way], start + 0.12 * way, way
    for _ in range(bends):
        heading = unit(0.5 * heading + rng.normal(size=3) * (0.8, 0.8, 0.5) + (0, 0, -0.35))
        at = at + heading * length / bends
        points.append(at)
    return along(np.array(points), 120)
