"""Chains and cables."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import ball, lathe, placed, waves
from synth_data.subjects.repeated import copied, facing, swept, transported, unit
from synth_data.subjects.wires.parts import Parts, wandering_cable, wandering_path


def _hanging(rng: np.random.Generator, number: int) -> np.ndarray:
    """A path [number, 3] of equal steps: a necklace, a chain hung between two ends, or one lying loose."""
    kind = rng.integers(3)
    if kind == 0:
        a = np.linspace(0, 2 * np.pi, 400)
        path = np.stack([0.7 * np.sin(a), 0.15 * np.sin(2 * a + 1), -0.9 * np.cos(a) * (1 - 0.2 * np.cos(a))], 1)
    elif kind == 1:
        x = np.linspace(-1, 1, 400)
        steep = rng.uniform(1, 2.5)
        path = np.stack([x, 0 * x, (np.cosh(steep * x) - np.cosh(steep)) * rng.uniform(0.2, 0.4)], 1)
    else:
        path = wandering_path(rng, 400, 4, 1.0, False) * (1, 1, 0.35)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    steps = np.linspace(0, length[-1], number)
    return np.stack([np.interp(steps, length, path[:, k]) for k in range(3)], 1)


def chain(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    number = int(rng.integers(14, 70))
    path = _hanging(rng, number)
    pitch = np.linalg.norm(np.diff(path, axis=0), axis=1).mean()
    way = np.gradient(path, axis=0)
    _, n, b = transported(path[None])
    if rng.random() < 0.2:
        beads = copied(ball(0.4 * pitch, rows=10), np.broadcast_to(np.eye(3), (number, 3, 3)), path)
        return {"main": [beads, swept(path, 0.1 * pitch, 6)]}
    wire = float(np.clip(thin * 1.3, 0.1 * pitch, 0.2 * pitch))
    half, wide = 0.5 * pitch + wire, rng.uniform(0.32, 0.45) * pitch
    a = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    link = np.stack([wide * np.cos(a), half * np.sin(a), 0 * a], 1)
    up = np.where(np.arange(number)[:, None] % 2, n[0], b[0]) + 0.25 * rng.normal(size=(number, 3))
    parts: Parts = {"main": [copied(swept(link, wire, 8, True), facing(way, up), path)]}
    if rng.random() < 0.5:
        low = path[path[:, 2].argmin()] - (0, 0, pitch)
        gem = lathe(
            np.array([[0, -0.22], [0.07, -0.12], [0.1, -0.02], [0.06, 0.06], [0, 0.07]]), int(rng.choice([5, 7, 9, 33]))
        )
        parts["second"] = [placed(gem, np.eye(3) * rng.uniform(0.7, 1.6), low)]
    return parts


def cables(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    roles, parts = ("main", "second", "rubber"), {}
    for k in range(int(rng.integers(1, 6))):
        role = roles[min(k, 2)] if rng.random() < 0.7 else "rubber"
        thick = max(thin, 0.01) * rng.uniform(1, 1.8)
        if rng.random() < 0.35:  # wound up
            turns, r = rng.integers(3, 8), rng.uniform(0.35, 0.6)
            a = np.linspace(0, 2 * np.pi * turns, int(40 * turns))
            wide = r * (1 + 0.06 * waves(rng, np.stack([a, 0 * a, 0 * a], 1), 0.5))
            path = np.stack(
                [wide * np.cos(a), wide * np.sin(a) * 0.9, 0.05 * waves(rng, np.stack([a, 0 * a, 0 * a], 1), 0.6)], 1
            )
            tail = wandering_cable(rng, path[-1], unit(path[-1] - path[-3]), 0.7, 2)
            path = np.concatenate([path, tail[2:]])
        else:
            path = wandering_path(rng, 180, int(rng.integers(3, 6)), 0.8, False) * (1, 1, 0.5)
        if rng.random() < 0.2:  # a twisted pair
            _, n, b = transported(path[None])
            a = np.linspace(0, 12 * len(path) / 10, len(path))[:, None]
            off = thick * (np.cos(a) * n[0] + np.sin(a) * b[0])
            parts.setdefault(role, []).append(swept(np.stack([path + off, path - off]), thick, 8))
        else:
            parts.setdefault(role, []).append(swept(path, thick, 9))
        end = unit(path[-1] - path[-3])
        parts.setdefault("rubber", []).append(
            swept(
                path[-1] + end * np.array([[0], [0.05], [0.06], [0.2]]),
                np.array([[1, 1.2, 2.6, 2.6]]) * thick,
                12,
                flat=(1, 0.7),
            )
        )
        side = unit(np.cross(end, (0.3, 0.5, 0.8)))
        pins = np.stack([path[-1] + end * 0.2 + s * side * thick for s in (-1.2, 1.2)])
        parts.setdefault("metal", []).append(swept(np.stack([pins, pins + 0.09 * end], 1), 0.4 * thick, 7))
    return parts
