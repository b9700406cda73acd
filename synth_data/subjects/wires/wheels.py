"""Spoked wheels and bicycles."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import box, lathe, placed, rotation
from synth_data.subjects.repeated import along, swept
from synth_data.subjects.rods import circle
from synth_data.subjects.wires.parts import Parts, merged, segments


def _wheel_at(rng: np.random.Generator, thin: float, big: float, at: tuple, tyre: bool) -> Parts:
    """A spoked wheel of radius `big` whose axle runs along y."""
    upright = rotation((1, 0, 0), 90)
    spokes = int(rng.choice([16, 20, 24, 28, 32, 36]))
    cross = rng.integers(0, 4)
    rim, hub, wide = 0.9 * big, 0.07 * big, 0.1 * big
    k = np.arange(spokes)
    at_rim = 2 * np.pi * k / spokes
    sign = np.where(k % 4 < 2, 1, -1)
    at_hub = at_rim + sign * cross * 0.35
    side = np.where(k % 2, wide, -wide)
    paths = np.stack(
        [
            np.stack([hub * np.cos(at_hub), hub * np.sin(at_hub), side], 1),
            np.stack([rim * np.cos(at_rim), rim * np.sin(at_rim), 0 * side], 1),
        ],
        1,
    )
    thick = 0.035 * big
    parts: Parts = {
        "spokes": [swept(paths, min(thin, 0.012 * big) * 0.8, 6)],
        "rim": [swept(circle(64, rim), thick * 0.7, 10, True, (1, 1.3))],
        "metal": [
            lathe(
                np.array([[0, -1.6], [0.5, -1.6], [0.5, -1], [1.3, -1], [1.3, -0.8], [0.6, -0.5], [0.6, 0.5]])
                * (hub, wide),
                20,
            ),
            lathe(np.array([[0.6, 0.5], [1.3, 0.8], [1.3, 1], [0.5, 1], [0.5, 1.6], [0, 1.6]]) * (hub, wide), 20),
        ],
    }
    if tyre:
        parts["rubber"] = [swept(circle(64, big - 0.5 * thick), rng.uniform(0.6, 1.5) * thick, 12, True)]
    return {role: [placed(m, upright, at) for m in meshes] for role, meshes in parts.items()}


def wheel(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    parts = _wheel_at(rng, thin, 1.0, (0, 0, 0), rng.random() < 0.7)
    parts["main"] = parts.pop("spokes")
    return parts


def bicycle(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    big = rng.uniform(0.32, 0.4)
    tubes = rng.uniform(0.012, 0.02)
    rear, front = np.array([-0.55, 0, 0]), np.array([0.55, 0, 0])
    crank = np.array([-0.12, 0, -0.07])
    seat = np.array([-0.27, 0, rng.uniform(0.35, 0.5)])
    head = np.array([0.36, 0, rng.uniform(0.4, 0.5)])
    neck = head - (head - front) * 0.2
    down = seat * 0.9 + crank * 0.1 if rng.random() < 0.75 else crank + (seat - crank) * 0.45
    across = np.array([0, 0.05, 0])
    frame = segments(
        (seat + (seat - crank) * 0.2, crank), (neck, crank), (down, head), (head + (head - front) * 0.15, neck)
    )
    forks = segments(
        *(
            (a + s * across * (0.4 if k == 1 else 1), b + s * across)
            for s in (-1, 1)
            for k, (a, b) in enumerate(((crank, rear), (down, rear), (neck, front)))
        )
    )
    stem, wide = head + (head - front) * 0.15, rng.uniform(0.2, 0.3)
    if rng.random() < 0.5:  # drop bar
        half = np.array(
            [
                [0, 0, 0],
                [0, wide * 0.7, 0.0],
                [0.09, wide * 0.75, 0.0],
                [0.13, wide * 0.77, -0.06],
                [0.08, wide * 0.8, -0.14],
                [0.0, wide * 0.8, -0.14],
            ]
        )
    else:
        half = np.array([[0, 0, 0], [0, 0.3 * wide, 0.03], [-0.05, 0.8 * wide, 0.06], [-0.16, wide, 0.05]])
    bar = np.concatenate([(half * (1, -1, 1))[:0:-1], half]) + stem
    top = seat + (seat - crank) * 0.2
    ring = circle(40, 0.085) @ rotation((1, 0, 0), 90).T + crank + (0, -0.05, 0)
    chain = np.array(
        [
            *(crank + (0.085 * np.cos(a), -0.05, 0.085 * np.sin(a)) for a in np.linspace(-1.5, 1.5, 16)),
            *(rear + (0.03 * np.cos(a), -0.05, 0.03 * np.sin(a)) for a in np.linspace(1.6, 4.7, 10)),
        ]
    )
    turn = rng.uniform(0, 2 * np.pi)
    arm = 0.12 * np.array([np.cos(turn), 0, np.sin(turn)])
    pedals = [box((0.07, 0.06, 0.02), crank + s * (arm + (0, 0.11, 0))) for s in (-1, 1)]
    cranks = segments(*((crank + s * np.array([0, 0.07, 0]), crank + s * (arm + (0, 0.07, 0))) for s in (-1, 1)))
    saddle = along(top + np.array([[-0.1, 0, 0.02], [0, 0, 0.03], [0.12, 0, 0.02]]), 12)
    own: Parts = {
        "main": [swept(frame, tubes, 10), swept(forks, 0.6 * tubes, 8)],
        "metal": [swept(along(bar, 60), 0.7 * tubes, 8), swept(ring, 0.01, 6, True), swept(cranks, 0.012, 6)],
        "rubber": [
            *pedals,
            swept(chain, 0.006, 5, True),
            swept(
                saddle,
                np.array([[0.055, 0.055, 0.05, 0.05, 0.04, 0.035, 0.03, 0.025, 0.022, 0.02, 0.018, 0.012]]),
                10,
                flat=(1.0, 0.7),
            ),
        ],
    }
    wheels = [_wheel_at(rng, thin, big, tuple(at), True) for at in (rear, front)]
    return merged(own, *wheels)
