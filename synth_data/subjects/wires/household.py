"""Clothes hangers, cages, whisks and racks."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import ball, lathe, placed, random_rotation, rotation
from synth_data.subjects.repeated import rounded, swept
from synth_data.subjects.rods import circle
from synth_data.subjects.wires.parts import Parts, merged, segments


def _one_hanger(rng: np.random.Generator, thin: float) -> Parts:
    wide, high, low = rng.uniform(0.8, 1.0), rng.uniform(0.3, 0.55), rng.uniform(0.0, 0.12)
    corner = np.array([[0.015, 0, 0], [wide, 0, -high], [-wide, 0, -high], [-0.015, 0, 0]])
    if rng.random() < 0.5:
        corner = np.insert(corner, 2, [[0, 0, -high - low]], 0)
    neck = rng.uniform(0.12, 0.25)
    turns = int(rng.integers(3, 7))
    t = np.linspace(0, 1, 60)
    coil = np.stack(
        [1.3 * thin * np.cos(2 * np.pi * turns * t), 1.3 * thin * np.sin(2 * np.pi * turns * t), neck * t], 1
    )
    a = np.linspace(-0.5 * np.pi, 1.05 * np.pi, 40)
    r = rng.uniform(0.13, 0.2)
    hook = np.stack([r * np.cos(a), 0 * a, neck + r + r * np.sin(a)], 1)
    return {
        "main": [
            swept(rounded(corner, 0.1), thin, 8),
            swept(np.stack([coil, coil * (-1, -1, 1)]), thin, 7),
            swept(hook, thin, 8),
            ball(1.4 * thin, hook[-1], 8),
        ]
    }


def hanger(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    if rng.random() < 0.55:
        return _one_hanger(rng, thin)
    number = int(rng.integers(3, 9))
    several = []
    for k in range(number):
        turn = rotation((0, 0, 1), 90 + rng.normal() * 14)
        shift = (1.5 * (k + 0.6 * rng.random()) / number - 0.8, 0, 0)
        parts = _one_hanger(rng, thin)
        top = parts["main"][2].vertices[:, 2].max()
        several.append({"main": [placed(m, turn, (shift[0], 0, -top)) for m in parts["main"]]})
    rail = {"metal": [swept(segments(((-1, 0, -0.02), (1, 0, -0.02))), max(2 * thin, 0.02), 12)]}
    return merged(*several, rail)


def cage(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    bars = int(rng.integers(12, 34))
    wide, high, dome = rng.uniform(0.4, 0.65), rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.6)
    t = np.linspace(0, 1, 12)
    r = np.concatenate([[wide, wide], wide * np.cos(t[1:] * np.pi / 2 * 0.97)])
    z = np.concatenate([[-high, 0.2], 0.2 + dome * np.sin(t[1:] * np.pi / 2)])
    angle = 2 * np.pi * np.arange(bars) / bars
    paths = np.stack([np.cos(angle)[:, None] * r, np.sin(angle)[:, None] * r, np.broadcast_to(z, (bars, len(z)))], -1)
    levels = [(wide, -high), (wide, 0.2), *((wide, h) for h in rng.uniform(-high, 0.2, int(rng.integers(0, 3))))]
    rings = np.array([circle(48, a, b) for a, b in levels])
    a = np.linspace(-np.pi / 2, 1.5 * np.pi, 24)
    loop = np.stack([0.08 * np.cos(a), 0 * a, 0.2 + dome + 0.1 + 0.08 * np.sin(a)], 1)
    parts: Parts = {
        "main": [swept(paths, 0.8 * thin, 6), swept(rings, 1.3 * thin, 7, True), swept(loop, thin, 7)],
        "second": [
            lathe(
                np.array(
                    [
                        [0, -0.05],
                        [wide * 1.05, -0.05],
                        [wide * 1.05, 0.06],
                        [wide * 0.97, 0.06],
                        [wide * 0.97, 0],
                        [0, 0],
                    ]
                )
                - (0, high)
            )
        ],
    }
    if rng.random() < 0.7:
        h = rng.uniform(-0.6 * high, 0)
        parts["wood"] = [swept(segments(((-wide, 0, h), (wide, 0, h))), 0.02, 8)]
    return parts


def whisk(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    loops, wide, long = int(rng.integers(4, 10)), rng.uniform(0.2, 0.45), rng.uniform(0.8, 1.2)
    a = np.linspace(0, 2 * np.pi, 50)
    x = 0.03 * np.cos(a / 2) + wide * np.sin(a) * (1 - np.cos(a)) ** rng.uniform(0.3, 1) / 1.3
    z = long * (1 - np.cos(a)) / 2
    angle = np.pi * np.arange(loops) / loops
    paths = np.stack([np.cos(angle)[:, None] * x, np.sin(angle)[:, None] * x, np.broadcast_to(z, (loops, 50))], -1)
    t = np.linspace(0, 1, 12)
    handle = np.stack([0 * t, 0 * t, -0.9 * t + 0.05], 1)
    grip = 0.04 + 0.025 * np.sin(t * 2.6 + 0.4)
    turn = random_rotation(rng)
    parts = {"main": [swept(paths, thin, 7)], "second": [swept(handle, grip[None], 16)]}
    return {role: [placed(m, turn) for m in meshes] for role, meshes in parts.items()}


def rack(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    """Drying racks, dish racks and wire baskets: frames with parallel wires."""
    wide, deep, high = rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.6), rng.uniform(0.15, 0.6)
    number = int(rng.integers(8, 26))
    frame = rounded(np.array([[-wide, -deep, 0], [wide, -deep, 0], [wide, deep, 0], [-wide, deep, 0]]), 0.12, True)
    rods = np.array([[[x, -deep, 0], [x, deep, 0]] for x in np.linspace(-wide, wide, number + 2)[1:-1]])
    kind = rng.integers(3)
    if kind == 0:  # folding legs
        legs = segments(
            *(((s * wide, q * deep, 0), (s * wide, -q * deep, -2 * high - 0.3)) for s in (-1, 1) for q in (-1, 1)),
            *(((-wide, q * deep, -2 * high - 0.3), (wide, q * deep, -2 * high - 0.3)) for q in (-1, 1)),
        )
        wires = [swept(frame, 1.6 * thin, 8, True), swept(rods, 0.8 * thin, 6), swept(legs, 1.6 * thin, 8)]
    elif kind == 1:  # a dish rack: hoops that stand up
        hoops = []
        for x in np.linspace(-wide, wide, number + 2)[1:-1]:
            hoops.append(
                rounded(
                    np.array(
                        [[x, -deep * 0.6, 0], [x, -deep * 0.35, high], [x, -0.1 * deep, 0.9 * high], [x, 0.1 * deep, 0]]
                    ),
                    0.12,
                )
            )
        wires = [
            swept(frame, 1.6 * thin, 8, True),
            swept(rods, 0.8 * thin, 6),
            swept(np.array(hoops), 0.9 * thin, 7),
            swept(frame + (0, 0, high * 0.6), 1.4 * thin, 8, True),
        ]
        posts = segments(
            *(
                ((s * wide * 0.97, q * deep * 0.97, -0.12), (s * wide * 0.97, q * deep * 0.97, high * 0.6))
                for s in (-1, 1)
                for q in (-1, 1)
            )
        )
        wires.append(swept(posts, 1.3 * thin, 8))
    else:  # a basket
        up = [
            rounded(np.array([[x, -deep * 1.1, high], [x, -deep, -high], [x, deep, -high], [x, deep * 1.1, high]]), 0.1)
            for x in np.linspace(-wide, wide, number)
        ]
        over = [
            rounded(
                np.array([[-wide * 1.08, y, high], [-wide, y, -high], [wide, y, -high], [wide * 1.08, y, high]]), 0.1
            )
            for y in np.linspace(-deep, deep, number // 2 + 2)
        ]
        rings = np.array(
            [frame * (1 + 0.08 * (h > 0), 1 + 0.1 * (h > 0), 0) + (0, 0, h) for h in np.linspace(-0.3 * high, high, 3)]
        )
        wires = [
            swept(np.array(up), 0.8 * thin, 6),
            swept(np.array(over), 0.8 * thin, 6),
            swept(rings, 1.3 * thin, 7, True),
        ]
        if rng.random() < 0.5:
            a = np.linspace(0, np.pi, 24)
            wires.append(
                swept(
                    np.stack([0 * a, 1.1 * deep * np.cos(a), high + rng.uniform(0.3, 0.8) * np.sin(a)], 1),
                    1.8 * thin,
                    8,
                )
            )
    return {"main": wires}
