"""Bent wire: sculptures, tangles, springs, paper clips and safety pins."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import box, random_rotation, rotation
from synth_data.subjects.repeated import along, copied, facing, rounded, swept
from synth_data.subjects.wires.parts import Parts, segments, wandering_path


def sculpture(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    paths = [
        wandering_path(rng, 320, int(rng.integers(3, 9)), rng.uniform(0.5, 1.4), True) * rng.uniform(0.5, 1)
        for _ in range(int(rng.integers(1, 4)))
    ]
    parts = {"main": [swept(np.array(paths), thin, closed=True)]}
    if rng.random() < 0.4:
        low = min(p[:, 2].min() for p in paths)
        parts["wood"] = [box((0.5, 0.5, 0.12), (0, 0, low - 0.3))]
        parts["main"].append(swept(segments(((0, 0, low - 0.3), (0, 0, low + 0.02))), 1.3 * thin))
    return parts


def tangle(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    number = int(rng.integers(8, 40))
    flat = np.array([1, 1, rng.uniform(0.3, 1)])
    paths = np.array([wandering_path(rng, 90, int(rng.integers(2, 5)), 0.8, False) * flat for _ in range(number)])
    return {"main": [swept(paths, thin, 6)]}


def _helix(rng: np.random.Generator, turns: float, loose: float) -> np.ndarray:
    """A coil along z from about -1 to 1, of radius about 0.3, with or without hooks."""
    t = np.linspace(0, 1, int(26 * turns))
    kind = rng.integers(4)
    wide = rng.uniform(0.14, 0.38)
    r = wide * (1, 1, 0.25 + 0.75 * t, 0.5 + 0.5 * np.sin(np.pi * t))[kind] * np.ones_like(t)
    z = t - rng.uniform(0, 0.8) * np.sin(4 * np.pi * t) / (4 * np.pi)  # wound closer at the ends
    path = np.stack([r * np.cos(2 * np.pi * turns * t), r * np.sin(2 * np.pi * turns * t), loose * (2 * z - 1)], 1)
    if rng.random() < 0.6:  # hooks
        a = np.linspace(-0.5 * np.pi, 1.1 * np.pi, 20)[:, None]
        hook = 0.8 * wide * np.concatenate([np.cos(a), 0 * a, 1.1 + np.sin(a)], 1)
        below = path[0] * (0.4, 0.4, 1) + hook[::-1] * (1, 1, -1)
        above = path[-1] * (0.4, 0.4, 1) + hook
        path = np.concatenate([below, path, above])
    return path


def _arched(points: np.ndarray, turn: float) -> np.ndarray:
    """Points bent so that the z axis between -1 and 1 becomes an arc of `turn` radians in the xz plane."""
    if abs(turn) < 1e-3:
        return points
    big = 2 / turn
    angle = points[..., 2] / big
    reach = big - points[..., 0]
    return np.stack([big - reach * np.cos(angle), points[..., 1], reach * np.sin(angle)], -1)


def spring(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    paths = []
    for k in range(int(rng.choice([1, 1, 2, 3]))):
        path = _arched(_helix(rng, rng.uniform(5, 22), rng.uniform(0.6, 1)), rng.choice([0, 0, 1]) * rng.uniform(-3, 3))
        paths.append(path @ rotation((0, 1, 0), rng.uniform(0, 180)).T + np.array([0, 0.45 * k, 0]))
    return {"main": [swept(p, thin * rng.uniform(1, 2), 8) for p in paths]}


def _paper_clip(rng: np.random.Generator) -> np.ndarray:
    """One clip [K, 3] in the xy plane, of length about one."""
    w = rng.uniform(0.13, 0.18)
    points = np.array(
        [
            [-0.5 * w, -0.25, 0],
            [-0.5 * w, 0.5, 0],
            [w, 0.5, 0],
            [w, -0.5, 0],
            [-w, -0.5, 0],
            [-w, 0.36, 0],
            [0.55 * w, 0.36, 0],
            [0.55 * w, -0.28, 0],
        ]
    )
    path = rounded(points, 0.13, steps=8)
    path[:, 2] += np.linspace(0, 0.05, len(path))
    return path


def _safety_pin(rng: np.random.Generator) -> np.ndarray:
    a = np.linspace(0, 3 * np.pi, 40)
    coil = np.stack([0.06 * np.cos(a - np.pi / 2), -0.5 + 0.06 * np.sin(a - np.pi / 2), 0.012 * a / np.pi], 1)
    out = rng.uniform(0.08, 0.35)
    return np.concatenate([[[-0.06, 0.45, 0]], [[-0.06, 0, 0]], coil[10:-4], [[0.07, 0, 0.03]], [[out, 0.42, 0.03]]])


def clips(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    pins = rng.random() < 0.25
    number = int(rng.choice([1, 3, 6, 10, 16, 30]))
    path = _safety_pin(rng) if pins else _paper_clip(rng)
    one = swept(path, max(thin, 0.012) * (1.5 if number == 1 else 1), 8)
    if rng.random() < 0.4 and number > 2:  # linked to a chain
        t = np.linspace(0, 1, number)
        curve = along(
            rng.normal(size=(5, 3)) * (0.35, 0.2, 0.1) * number
            + np.linspace(-0.4, 0.4, 5)[:, None] * number * np.array([1, 0, 0]),
            200,
        )
        at = np.stack([np.interp(t, np.linspace(0, 1, 200), curve[:, k]) for k in range(3)], 1)
        way = np.gradient(at, axis=0)
        at *= 0.85 / np.linalg.norm(np.diff(at, axis=0), axis=1).mean()
        up = np.where(np.arange(number)[:, None] % 2, (0, 0.2, 1.0), (0, 1.0, 0.2))
        copies = copied(one, facing(way, up), at)
    else:
        turns = np.array(
            [
                random_rotation(rng) if rng.random() < 0.4 else rotation((0, 0, 1), rng.uniform(0, 360))
                for _ in range(number)
            ]
        )
        at = rng.normal(size=(number, 3)) * number**0.5 * np.array([0.3, 0.3, 0.12])
        copies = copied(one, turns, at)
    return {"main" if number == 1 or rng.random() < 0.7 else "second": [copies]}
