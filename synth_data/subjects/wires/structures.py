"""Antennas, scaffolds and pylons."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import ball, box, lathe, placed, rotation
from synth_data.subjects.repeated import along, copied, rounded, swept, unit
from synth_data.subjects.rods import circle
from synth_data.subjects.wires.parts import Parts, segments


def antenna(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    if rng.random() < 0.35:  # indoor: a base, two telescopic rods and a loop
        parts: Parts = {
            "rubber": [lathe(np.array([[0, -0.75], [0.32, -0.75], [0.3, -0.62], [0.12, -0.55], [0, -0.5]]))]
        }
        parts["main"] = []
        for side in (-1, 1):
            way = unit(np.array([side * rng.uniform(0.3, 1.1), rng.uniform(-0.3, 0.3), 1.0]))
            t = np.array([0, 0.249, 0.25, 0.499, 0.5, 0.749, 0.75, 1])
            r = thin * np.repeat([1.6, 1.25, 0.9, 0.6], 2)
            path = np.array([0.05 * side, 0, -0.56]) + way * (rng.uniform(1.1, 1.6) * t)[:, None]
            parts["main"] += [swept(path, r[None], 9), ball(2 * thin, path[-1], 8)]
        if rng.random() < 0.6:
            loop = circle(48, 0.26) @ rotation((1, 0, 0), 90).T + (0, 0, -0.26)
            parts["main"].append(swept(loop, thin, 7, True))
        return parts
    number = int(rng.integers(5, 16))
    x = np.linspace(-0.85, 0.85, number)
    half = np.linspace(0.55, rng.uniform(0.2, 0.5), number) * rng.uniform(0.7, 1.1)
    if rng.random() < 0.3:  # a longer first element
        half[0] *= 1.2
    elements = np.stack([np.stack([x, -half, 0 * x], 1), np.stack([x, half, 0 * x], 1)], 1)
    parts = {"main": [swept(elements, thin, 7), swept(segments(((-0.95, 0, -thin), (0.95, 0, -thin))), 2 * thin, 8)]}
    w = half[1] * 0.9
    folded = rounded(np.array([[0, -w, 0], [0, w, 0], [0, w, 0.1], [0, -w, 0.1]]) + (x[1] + 0.04, 0, 0), 0.05, True)
    foot = rng.uniform(-0.3, 0.3)
    parts["main"] += [swept(folded, thin, 7, True), swept(segments(((foot, 0, 0.08), (foot, 0, -1.1))), 2.5 * thin, 9)]
    if rng.random() < 0.5:  # the reflector
        rods = np.array([[[-0.95, -0.5, z], [-0.95 - abs(z) * 0.3, 0.5, z]] for z in np.linspace(-0.4, 0.4, 9)])
        parts["main"].append(swept(rods, thin, 6))
        parts["main"].append(swept(segments(((-0.97, 0, -0.42), (-0.97, 0, 0.42))), 1.6 * thin, 7))
    cable = along(
        np.array([[x[1], 0, -0.02], [foot - 0.1, 0.03, -0.15], [foot, 0.04, -0.5], [foot + 0.02, 0.04, -1.1]]), 40
    )
    parts["rubber"] = [box((0.08, 0.06, 0.06), (x[1] + 0.04, 0, -0.04)), swept(cable, 0.012, 7)]
    return parts


def scaffold(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    nx, ny, nz = int(rng.integers(2, 6)), int(rng.integers(2, 4)), int(rng.integers(2, 6))
    x, y, z = np.linspace(-0.8, 0.8, nx), np.linspace(-0.25, 0.25, ny), np.linspace(-0.9, 0.9, nz + 1)
    low, high = -0.97, 0.97
    up = [((a, b, low), (a, b, high + rng.uniform(-0.08, 0.1))) for a in x for b in y]
    level = [((x[0] - 0.05, b, c), (x[-1] + 0.05, b, c)) for b in y for c in z[1:]]
    level += [((a, y[0] - 0.05, c), (a, y[-1] + 0.05, c)) for a in x for c in z[1:]]
    cross = []
    for i in range(nx - 1):
        for k in range(nz):
            if rng.random() < 0.6:
                ends = (k, k + 1) if (i + k) % 2 else (k + 1, k)
                cross.append(((x[i], y[-1] + 0.02, z[ends[0]]), (x[i + 1], y[-1] + 0.02, z[ends[1]])))
    parts: Parts = {"main": [swept(segments(*up), 1.2 * thin, 8), swept(segments(*level), thin, 7)]}
    if cross:
        parts["main"].append(swept(segments(*cross), 0.9 * thin, 7))
    joints = np.array([(a, b, c) for a in x for b in y for c in z[1:]])
    parts["metal"] = [copied(ball(1.9 * thin, rows=6), np.broadcast_to(np.eye(3), (len(joints), 3, 3)), joints)]
    for c in z[1:]:
        for k in range(3):
            if rng.random() < 0.5:
                wide = 0.5 / 3
                plank = box((1.6 * rng.uniform(0.4, 1), wide * 0.92, 0.02), (0, y[0] + wide * (k + 0.5), c + 0.02))
                parts.setdefault("wood", []).append(plank)
    return parts


def pylon(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    levels = int(rng.integers(5, 11))
    t = np.linspace(0, 1, levels + 1)
    z = -1 + 2 * (t + 0.25 * t * (1 - t))
    wide = 0.38 * (1 - t) ** rng.uniform(1, 1.8) + 0.045
    corner = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1.0]])
    at = np.concatenate([corner[None] * wide[:, None, None], np.broadcast_to(z[:, None, None], (levels + 1, 4, 1))], -1)
    around = np.roll(at, -1, 1)
    bars = [(at[:-1], around[1:]), (around[:-1], at[1:])]
    bars.append((at[1:], around[1:]))
    thin_bars = np.concatenate([np.stack(b, 2).reshape(-1, 2, 3) for b in bars])
    parts: Parts = {"main": [swept(at.transpose(1, 0, 2), 1.3 * thin, 6), swept(thin_bars, 0.7 * thin, 5)]}
    if rng.random() < 0.7:
        for k in (levels - 1, levels - 2, levels - 3)[: int(rng.integers(1, 4))]:
            reach = rng.uniform(0.35, 0.7)
            for side in (-1, 1):
                tip = np.array([side * reach, 0, z[k]])
                feet = [at[k][j] for j in range(4) if corner[j, 0] == side]
                feet += [feet[0] + (0, 0, 0.1), feet[1] + (0, 0, 0.1)]
                parts["main"].append(swept(segments(*((foot, tip) for foot in feet)), 0.8 * thin, 5))
                string = np.stack([tip, tip - (0, 0, 0.13)])
                discs = np.linspace(0, 1, 25)[:, None] * (string[1] - string[0]) + string[0]
                parts.setdefault("second", []).append(swept(discs, (0.006 + 0.012 * (np.arange(25) % 4 < 2))[None], 8))
    else:
        for k in rng.integers(2, levels, int(rng.integers(1, 5))):
            dish = lathe(np.stack([np.linspace(0, 0.14, 8), 3 * np.linspace(0, 0.14, 8) ** 2], 1), 24)
            turn = rotation((0, 0, 1), rng.uniform(0, 360)) @ rotation((0, 1, 0), 90)
            parts.setdefault("second", []).append(placed(dish, turn, turn @ (0, 0, wide[k] + 0.02) + (0, 0, z[k])))
        parts["main"].append(swept(segments(((0, 0, z[-2]), (0, 0, 1.3))), thin, 6))
    return parts
