"""Wires: thin rods, springs, wheels, frames, chains and cables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade, srgb_to_linear
from synth_data.factors import pick, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Subject,
    ball,
    box,
    join,
    lathe,
    placed,
    random_rotation,
    rotation,
    surface,
    waves,
)
from synth_data.subjects.repeated import along, copied, facing, fitted, grids, rounded, swept, transported, unit

Parts = dict[str, list[Mesh]]  # what it is made of -> meshes


@dataclass(frozen=True)
class Factors:
    """What a subject of wires varies in. Lengths are in subject radii, before the subject is fitted to radius 1."""

    shape: tuple = shares(
        sculpture=1,
        tangle=0.5,
        spring=1,
        wheel=1,
        bicycle=1,
        antenna=1,
        hanger=0.9,
        glasses=1.2,
        headphones=1.1,
        umbrella=1,
        scaffold=0.8,
        pylon=0.8,
        clips=0.8,
        chain=1,
        earrings=0.9,
        cables=1,
        cage=0.9,
        whisk=0.6,
        rack=0.8,
    )
    """what it is"""
    radius: tuple = span(0.005, 0.022, least=0.0005, most=0.1, log=True)
    """radius of the main wire"""
    finish: tuple = shares(steel=1.5, chrome=0.8, brass=0.7, copper=0.6, gold=0.6, painted=1.6, rust=0.6, matt=0.8)
    """surface of the main wire"""
    tone: tuple = shares(black=1.6, white=1, grey=0.5, brown=0.4, tan=0.3, bright=1.6, pastel=0.5)
    """its colour where it is painted or matt"""
    roughness: tuple = span(0.08, 0.5, least=0.02, most=1)
    """roughness of glossy surfaces"""
    bend: tuple = span(0.0, 0.06, most=0.5)
    """how far the whole is bent out of shape"""
    lenses: tuple = shares(none=1, dark=1, clear=0.5)
    """what is in a pair of glasses; clear ones let the background through"""


METALS = {
    "steel": (0.56, 0.57, 0.58),
    "chrome": (0.77, 0.78, 0.78),
    "brass": (0.86, 0.69, 0.35),
    "copper": (0.93, 0.62, 0.48),
    "gold": (0.98, 0.77, 0.34),
}


def finish(rng: np.random.Generator, kind: str, tone: str, roughness: float) -> dict[str, Any]:
    """A material for rods and wires: one of METALS, `painted`, `rust` or `matt` (the last three use `tone`)."""
    if kind in METALS:
        colour = np.clip(np.array(METALS[kind]) * np.exp(0.08 * rng.normal(size=3)), 0.05, 0.97)
        return {"kind": "metal", "colour": colour, "roughness": min(roughness, 0.12) if kind == "chrome" else roughness}
    if kind == "rust":
        v, u = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64), indexing="ij")
        patch = waves(rng, np.stack([u, v, 0 * u], -1), 14, terms=16)[..., None]
        dark, light = srgb_to_linear(np.array([[0.30, 0.16, 0.10], [0.62, 0.34, 0.17]]))
        grain = np.exp(0.25 * rng.normal(size=(64, 64, 1)))
        mix = 1 / (1 + np.exp(-3 * patch))
        return {"kind": "diffuse", "colour": np.clip((dark * mix + light * (1 - mix)) * grain, 0.004, 0.9)}
    colour = colour_of_tone(rng, tone)
    if kind == "painted":
        return {"kind": "plastic", "colour": colour, "roughness": roughness}
    return {"kind": "diffuse", "colour": colour}


def circle(number: int, radius: float | np.ndarray = 1.0, height: float | np.ndarray = 0.0) -> np.ndarray:
    """A closed circle [number, 3] about z."""
    a = np.linspace(0, 2 * np.pi, number, endpoint=False)
    return np.stack([radius * np.cos(a), radius * np.sin(a), height + 0 * a], 1)


def _lines(*ends: tuple) -> np.ndarray:
    """Straight paths [N, 2, 3] from pairs of points."""
    return np.array(ends, dtype=np.float64)


def _wander(rng: np.random.Generator, number: int, waves_: int, fall: float, closed: bool) -> np.ndarray:
    """A smooth random path [number, 3] of a few harmonics within about the unit ball."""
    t = np.linspace(0, 1, number, endpoint=not closed)[:, None]
    path = np.zeros((number, 3))
    for k in range(1, waves_ + 1):
        turn = k * 2 * np.pi if closed else k * np.pi
        path += (rng.normal(size=3) * np.cos(turn * t) + rng.normal(size=3) * np.sin(turn * t)) / k**fall
    return path / np.abs(path).max()


def _sculpture(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    paths = [
        _wander(rng, 320, int(rng.integers(3, 9)), rng.uniform(0.5, 1.4), True) * rng.uniform(0.5, 1)
        for _ in range(int(rng.integers(1, 4)))
    ]
    parts = {"main": [swept(np.array(paths), thin, closed=True)]}
    if rng.random() < 0.4:
        low = min(p[:, 2].min() for p in paths)
        parts["wood"] = [box((0.5, 0.5, 0.12), (0, 0, low - 0.3))]
        parts["main"].append(swept(_lines(((0, 0, low - 0.3), (0, 0, low + 0.02))), 1.3 * thin))
    return parts


def _tangle(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    number = int(rng.integers(8, 40))
    flat = np.array([1, 1, rng.uniform(0.3, 1)])
    paths = np.array([_wander(rng, 90, int(rng.integers(2, 5)), 0.8, False) * flat for _ in range(number)])
    return {"main": [swept(paths, thin, 6)]}


def _helix(rng: np.random.Generator, turns: float, loose: float) -> np.ndarray:
    """A coil along z from -1 to 1 of radius about 0.3, with ends."""
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
    """Points bent so that the z axis from -1 to 1 becomes an arc of `turn` radians in the xz plane."""
    if abs(turn) < 1e-3:
        return points
    big = 2 / turn
    angle = points[..., 2] / big
    reach = big - points[..., 0]
    return np.stack([big - reach * np.cos(angle), points[..., 1], reach * np.sin(angle)], -1)


def _spring(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    paths = []
    for k in range(int(rng.choice([1, 1, 2, 3]))):
        path = _arched(_helix(rng, rng.uniform(5, 22), rng.uniform(0.6, 1)), rng.choice([0, 0, 1]) * rng.uniform(-3, 3))
        paths.append(path @ rotation((0, 1, 0), rng.uniform(0, 180)).T + np.array([0, 0.45 * k, 0]))
    return {"main": [swept(p, thin * rng.uniform(1, 2), 8) for p in paths]}


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


def _merge(*several: Parts) -> Parts:
    roles = dict.fromkeys(role for parts in several for role in parts)
    return {role: [m for parts in several for m in parts.get(role, [])] for role in roles}


def _wheel(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    parts = _wheel_at(rng, thin, 1.0, (0, 0, 0), rng.random() < 0.7)
    parts["main"] = parts.pop("spokes")
    return parts


def _bicycle(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    big = rng.uniform(0.32, 0.4)
    tubes = rng.uniform(0.012, 0.02)
    rear, front = np.array([-0.55, 0, 0]), np.array([0.55, 0, 0])
    crank = np.array([-0.12, 0, -0.07])
    seat = np.array([-0.27, 0, rng.uniform(0.35, 0.5)])
    head = np.array([0.36, 0, rng.uniform(0.4, 0.5)])
    neck = head - (head - front) * 0.2
    down = seat * 0.9 + crank * 0.1 if rng.random() < 0.75 else crank + (seat - crank) * 0.45
    across = np.array([0, 0.05, 0])
    frame = _lines(
        (seat + (seat - crank) * 0.2, crank), (neck, crank), (down, head), (head + (head - front) * 0.15, neck)
    )
    forks = _lines(
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
    cranks = _lines(*((crank + s * np.array([0, 0.07, 0]), crank + s * (arm + (0, 0.07, 0))) for s in (-1, 1)))
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
    return _merge(own, *wheels)


def _antenna(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
    if rng.random() < 0.3:  # a curtain of rods up and down too
        half[0] *= 1.2
    elements = np.stack([np.stack([x, -half, 0 * x], 1), np.stack([x, half, 0 * x], 1)], 1)
    parts = {"main": [swept(elements, thin, 7), swept(_lines(((-0.95, 0, -thin), (0.95, 0, -thin))), 2 * thin, 8)]}
    w = half[1] * 0.9
    folded = rounded(np.array([[0, -w, 0], [0, w, 0], [0, w, 0.1], [0, -w, 0.1]]) + (x[1] + 0.04, 0, 0), 0.05, True)
    foot = rng.uniform(-0.3, 0.3)
    parts["main"] += [swept(folded, thin, 7, True), swept(_lines(((foot, 0, 0.08), (foot, 0, -1.1))), 2.5 * thin, 9)]
    if rng.random() < 0.5:  # the reflector
        rods = np.array([[[-0.95, -0.5, z], [-0.95 - abs(z) * 0.3, 0.5, z]] for z in np.linspace(-0.4, 0.4, 9)])
        parts["main"].append(swept(rods, thin, 6))
        parts["main"].append(swept(_lines(((-0.97, 0, -0.42), (-0.97, 0, 0.42))), 1.6 * thin, 7))
    cable = along(
        np.array([[x[1], 0, -0.02], [foot - 0.1, 0.03, -0.15], [foot, 0.04, -0.5], [foot + 0.02, 0.04, -1.1]]), 40
    )
    parts["rubber"] = [box((0.08, 0.06, 0.06), (x[1] + 0.04, 0, -0.04)), swept(cable, 0.012, 7)]
    return parts


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


def _hanger(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
    rail = {"metal": [swept(_lines(((-1, 0, -0.02), (1, 0, -0.02))), max(2 * thin, 0.02), 12)]}
    return _merge(*several, rail)


def _glasses(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    e = rng.choice([0.35, 0.6, 1.0])  # exponent of the superellipse: boxy to round
    wide, high = rng.uniform(0.36, 0.44), rng.uniform(0.24, 0.4)
    a = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    c, s = np.cos(a), np.sin(a)
    outline = np.stack([wide * np.sign(c) * np.abs(c) ** e, high * np.sign(s) * np.abs(s) ** e], 1)
    outline[:, 0] += rng.uniform(-0.1, 0.12) * outline[:, 1]  # slant: cat's eye or aviator
    gap, wrap = rng.uniform(0.05, 0.11), rng.uniform(0.02, 0.12)
    middle = wide + gap

    def on_face(points: np.ndarray, side: int) -> np.ndarray:
        x = side * (points[:, 0] + middle)
        return np.stack([x, wrap * x**2, points[:, 1]], 1)

    frame, parts = [], {"main": []}
    half_rim = rng.random() < 0.2
    for side in (-1, 1):
        rim = on_face(outline, side)
        if half_rim:
            frame.append(swept(rim[:33], thin, 9))
        else:
            frame.append(swept(rim, thin, 9, True, (1.0, rng.uniform(0.8, 1.4))))
        end = on_face(np.array([[wide * 0.98, 0.45 * high]]), side)[0]
        hinge = end + (side * 0.05, 0.06, 0)
        long, spread = rng.uniform(1.3, 1.55), rng.uniform(-0.05, 0.1)
        temple = np.array(
            [
                end,
                hinge,
                hinge + (side * spread * 0.6, 0.5 * long, 0),
                hinge + (side * spread, 0.75 * long, -0.02),
                hinge + (side * (spread - 0.03), long, -0.28),
            ]
        )
        frame.append(swept(rounded(temple, 0.25, steps=10), 0.9 * thin, 8))
        tip = rounded(temple, 0.25, steps=10)[-6:]
        parts.setdefault("rubber", []).append(swept(tip, 1.5 * thin, 8))
        pad = on_face(np.array([[-wide - 0.2 * gap, -0.15 * high]]), side)[0] + (0, 0.06, 0)
        nose = along(np.array([on_face(np.array([[-wide * 0.97, 0.0]]), side)[0], pad + (0, 0.02, 0.04), pad]), 14)
        frame.append(swept(nose, 0.5 * thin, 6))
        parts.setdefault("pads", []).append(ball(np.array([0.012, 0.02, 0.045]), pad, 10))
        if f["lenses"] != "none":
            ring = np.concatenate([outline, outline[:1]])
            grid = ring[None] * np.linspace(0, 1, 5)[:, None, None] * 0.995
            lens = np.stack([on_face(row, side) for row in grid])
            parts.setdefault("lens", []).append(surface(lens))
    bridge = along(
        np.array(
            [
                on_face(np.array([[-wide * 0.96, 0.3 * high]]), -1)[0],
                (0, -0.02, 0.3 * high + rng.uniform(0.02, 0.08)),
                on_face(np.array([[-wide * 0.96, 0.3 * high]]), 1)[0],
            ]
        ),
        20,
    )
    frame.append(swept(bridge, thin, 8))
    if rng.random() < 0.25:
        frame.append(swept(bridge + (0, 0, 0.35 * high), thin, 8))
    parts["main"] = frame
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    return {role: [placed(m, turn) for m in meshes] for role, meshes in parts.items()}


def _cable(rng: np.random.Generator, start: np.ndarray, way: np.ndarray, length: float, bends: int) -> np.ndarray:
    """A cable [120, 3] that leaves `start` along `way`, wanders about and hangs."""
    points, at, heading = [start, start + 0.12 * way], start + 0.12 * way, way
    for _ in range(bends):
        heading = unit(0.5 * heading + rng.normal(size=3) * (0.8, 0.8, 0.5) + (0, 0, -0.35))
        at = at + heading * length / bends
        points.append(at)
    return along(np.array(points), 120)


def _headphones(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    if rng.random() < 0.3:  # earphones on a split cable
        fork = np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), -0.1])
        parts: Parts = {"main": [], "second": [], "rubber": []}
        for side in (-1, 1):
            at = np.array([side * rng.uniform(0.2, 0.6), rng.uniform(-0.2, 0.2), rng.uniform(0.6, 1.0)])
            inward = unit(np.array([-side, rng.uniform(-1, 1), 0.3]))
            points = np.array([at, at - (0, 0, 0.18), at * 0.6 + fork * 0.4 + rng.normal(size=3) * 0.18, fork])
            parts["main"].append(swept(along(points, 80), 0.9 * thin, 8))
            turn = facing(inward[None], np.array([[0, 0, 1.0]]))[0] @ rotation((1, 0, 0), -90)
            bud = lathe(
                np.array([[0, -0.1], [0.06, -0.1], [0.085, -0.03], [0.085, 0.03], [0.05, 0.06], [0.05, 0.1], [0, 0.1]])
            )
            tip = lathe(np.array([[0, 0.08], [0.05, 0.07], [0.085, 0.1], [0.07, 0.15], [0.03, 0.18], [0, 0.18]]))
            parts["second"].append(placed(bud, turn, at))
            parts["rubber"].append(placed(tip, turn, at))
        tail = _cable(rng, fork, np.array([0, 0, -1.0]), rng.uniform(1, 3), 5)
        parts["main"].append(swept(tail, thin * 1.2, 8))
        plug = np.stack([tail[-1], tail[-1] + 0.2 * unit(tail[-1] - tail[-3])])
        parts["rubber"].append(swept(plug, 2.5 * thin, 10))
        parts["metal"] = [swept(plug + 0.15 * unit(tail[-1] - tail[-3]), 1.2 * thin, 8)]
        return parts
    wide, high = rng.uniform(0.6, 0.72), rng.uniform(0.7, 0.9)
    a = np.linspace(np.pi * 1.02, -0.02 * np.pi, 40)
    band = np.stack([wide * np.cos(a), 0 * a, high * np.sin(a)], 1)
    two = rng.random() < 0.4
    parts = {"second": [], "rubber": [], "main": []}
    strap = rng.uniform(0.02, 0.045)
    if two:
        parts["main"].append(swept(np.stack([band + (0, y, 0) for y in (-0.06, 0.06)]), thin, 8))
        inner = band[6:-6] * (0.97, 1, 0.9)
        parts["rubber"].append(swept(inner, strap, 10, flat=(0.35, 2.4)))
    else:
        parts["second"].append(swept(band, strap, 12, flat=(0.6, 2.0)))
        parts["rubber"].append(swept(band[8:-8] * (0.96, 1, 0.96), strap, 10, flat=(0.5, 1.8)))
    cup = rng.uniform(0.26, 0.36)
    oval = np.diag([1, rng.uniform(0.75, 1.0), 1.15])
    for side in (-1, 1):
        turn = rotation((0, 1, 0), side * 90)
        shell = lathe(np.array([[0, 0.17], [0.5, 0.17], [0.85, 0.12], [1, 0.04], [1, -0.04], [0, -0.04]]) * (cup, 1))
        pad = swept(circle(40, 0.78 * cup, -0.09), 0.24 * cup, 12, True)
        grill = swept(np.array([circle(30, cup * k, 0.175) for k in (0.2, 0.35, 0.5)]), 0.01, 6, True)
        at = np.array([side * wide, 0, -0.12])
        parts["second"].append(placed(shell, oval @ turn, at))
        parts["rubber"].append(placed(pad, oval @ turn, at))
        parts["main"].append(placed(grill, oval @ turn, at))
        b = np.linspace(np.pi * 1.1, -0.1 * np.pi, 21)
        yoke = at + np.stack([0 * b + side * 0.06, 1.08 * cup * np.cos(b), 1.2 * cup * np.sin(b)], 1)
        parts["main"].append(swept(yoke, 1.5 * thin, 8))
        parts["main"].append(swept(_lines((yoke[10], (side * wide * 0.98, 0, 0.3 * high))), 2 * thin, 8))
    if rng.random() < 0.75:
        start = np.array([-wide, 0, -0.12 - cup])
        tail = _cable(rng, start, np.array([0, 0, -1.0]), rng.uniform(0.8, 2.5), 5)
        if rng.random() < 0.4:  # coiled
            _, n, b = transported(tail[None])
            coil = np.linspace(0, 30 * 2 * np.pi, 600)
            fine = np.stack([np.interp(np.linspace(0, 119, 600), np.arange(120), tail[:, k]) for k in range(3)], 1)
            n, b = (np.repeat(x[0], 5, 0) for x in (n, b))
            tail = fine + 0.03 * (np.cos(coil)[:, None] * n + np.sin(coil)[:, None] * b)
        parts["rubber"].append(swept(tail, 0.8 * max(thin, 0.01), 7))
    return parts


def _umbrella(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    ribs = int(rng.choice([6, 8, 8, 10, 12, 16]))
    deep, opened = rng.uniform(0.3, 0.6), rng.uniform(0.75, 1.0)
    t = np.linspace(0, 1, 16)
    angle = 2 * np.pi * np.arange(ribs) / ribs
    r, z = opened * np.sin(t * np.pi / 2), 0.55 - deep * (1 - np.cos(t * np.pi / 2)) - (1 - opened) * t
    rib = np.stack([np.cos(angle)[:, None] * r, np.sin(angle)[:, None] * r, np.broadcast_to(z, (ribs, 16))], -1)
    runner = np.array([0, 0, 0.5 - deep - rng.uniform(0.0, 0.2)])
    stretchers = np.stack([np.broadcast_to(runner, (ribs, 3)), rib[:, 8]], 1)
    a = np.linspace(0, 1.1 * np.pi, 24)
    crook = np.stack([0.1 - 0.1 * np.cos(a), 0 * a, -1.0 - 0.1 * np.sin(a)], 1)
    shaft = np.concatenate([[[0, 0, 0.68]], [[0, 0, -0.7]]])
    parts: Parts = {
        "main": [swept(rib, 0.8 * thin, 6), swept(stretchers, 0.7 * thin, 6)],
        "metal": [
            swept(shaft, max(1.4 * thin, 0.012), 10),
            lathe(np.array([[0, -0.05], [0.04, -0.05], [0.04, 0.05], [0, 0.05]]) + runner[[0, 2]]),
        ],
        "wood": [swept(np.concatenate([[[0, 0, -0.7]], crook]), 0.028, 12)],
    }
    if rng.random() < 0.65:
        kept = np.ones(ribs, bool) if rng.random() < 0.6 else rng.random(ribs) < 0.6
        s = np.linspace(0, 1, 7)
        panels = []
        for k in np.flatnonzero(kept):
            way = angle[k] + s * 2 * np.pi / ribs
            hollow = 1 - 0.13 * np.sin(np.pi * s)[None] * (t[:, None] ** 1.5)  # cloth is taut between the ribs
            flat = r[:, None] * hollow
            panels.append(
                np.stack(
                    [
                        np.cos(way) * flat,
                        np.sin(way) * flat,
                        z[:, None] + 0.012 - 0.02 * np.sin(np.pi * s)[None] * t[:, None],
                    ],
                    -1,
                )
            )
        if panels:
            odd = rng.random() < 0.5
            parts["canopy"] = [grids(np.array(panels[::2] if odd else panels))]
            if odd and panels[1::2]:
                parts["canopy_odd"] = [grids(np.array(panels[1::2]))]
    turn = rotation(rng.normal(size=3), rng.choice([0, 1]) * rng.uniform(10, 160))
    return {role: [placed(m, turn) for m in meshes] for role, meshes in parts.items()}


def _scaffold(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
    parts: Parts = {"main": [swept(_lines(*up), 1.2 * thin, 8), swept(_lines(*level), thin, 7)]}
    if cross:
        parts["main"].append(swept(_lines(*cross), 0.9 * thin, 7))
    joints = np.array([(a, b, c) for a in x for b in y for c in z[1:]])
    parts["metal"] = [copied(ball(1.9 * thin, rows=6), np.broadcast_to(np.eye(3), (len(joints), 3, 3)), joints)]
    for c in z[1:]:
        for k in range(3):
            if rng.random() < 0.5:
                wide = 0.5 / 3
                plank = box((1.6 * rng.uniform(0.4, 1), wide * 0.92, 0.02), (0, y[0] + wide * (k + 0.5), c + 0.02))
                parts.setdefault("wood", []).append(plank)
    return parts


def _pylon(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
                parts["main"].append(swept(_lines(*((foot, tip) for foot in feet)), 0.8 * thin, 5))
                string = np.stack([tip, tip - (0, 0, 0.13)])
                discs = np.linspace(0, 1, 25)[:, None] * (string[1] - string[0]) + string[0]
                parts.setdefault("second", []).append(swept(discs, (0.006 + 0.012 * (np.arange(25) % 4 < 2))[None], 8))
    else:
        for k in rng.integers(2, levels, int(rng.integers(1, 5))):
            dish = lathe(np.stack([np.linspace(0, 0.14, 8), 3 * np.linspace(0, 0.14, 8) ** 2], 1), 24)
            turn = rotation((0, 0, 1), rng.uniform(0, 360)) @ rotation((0, 1, 0), 90)
            parts.setdefault("second", []).append(placed(dish, turn, turn @ (0, 0, wide[k] + 0.02) + (0, 0, z[k])))
        parts["main"].append(swept(_lines(((0, 0, z[-2]), (0, 0, 1.3))), thin, 6))
    return parts


def _paper_clip(rng: np.random.Generator) -> np.ndarray:
    """One clip [K, 3] in the xy plane, about one long."""
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


def _clips(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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


def _hanging(rng: np.random.Generator, number: int) -> np.ndarray:
    """A path [number, 3] of equal steps: a necklace, a swag between two ends, or a chain thrown down."""
    kind = rng.integers(3)
    if kind == 0:
        a = np.linspace(0, 2 * np.pi, 400)
        path = np.stack([0.7 * np.sin(a), 0.15 * np.sin(2 * a + 1), -0.9 * np.cos(a) * (1 - 0.2 * np.cos(a))], 1)
    elif kind == 1:
        x = np.linspace(-1, 1, 400)
        steep = rng.uniform(1, 2.5)
        path = np.stack([x, 0 * x, (np.cosh(steep * x) - np.cosh(steep)) * rng.uniform(0.2, 0.4)], 1)
    else:
        path = _wander(rng, 400, 4, 1.0, False) * (1, 1, 0.35)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    steps = np.linspace(0, length[-1], number)
    return np.stack([np.interp(steps, length, path[:, k]) for k in range(3)], 1)


def _chain(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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


def _earrings(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    a = np.linspace(-0.5 * np.pi, 0.95 * np.pi, 30)  # an ear wire: up in front, over, down behind
    hook = np.stack([0.09 * np.cos(a) - 0.09, 0 * a, 0.09 * np.sin(a) + 0.16], 1)
    hook = np.concatenate([[[-0.09, 0, 0]], hook, [hook[-1] - (-0.03, 0, 0.2)]])
    one: Parts = {"main": [swept(hook, 0.6 * thin, 7)], "second": []}
    kind = rng.integers(4)
    low = hook[0] - (0, 0, 0.02)
    if kind == 0:  # hoops within hoops
        for k in range(int(rng.integers(1, 4))):
            r = rng.uniform(0.25, 0.45) * 0.8**k
            ring = circle(60, r) @ rotation((1, 0, 0), 90).T @ rotation((0, 0, 1), rng.normal() * 20).T - (0, 0, r)
            one["main"].append(swept(ring + low, thin * rng.uniform(0.7, 1.4), 9, True))
    elif kind == 1:  # a tear drop with threads
        t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        drop = np.stack([0.25 * np.sin(t) * np.sin(t / 2) ** 1.5, 0 * t, -0.35 * (1 - np.cos(t))], 1) + low
        one["main"].append(swept(drop, thin, 8, True))
        pairs = _lines(*((drop[k], drop[60 - k]) for k in range(14, 30, 2)))
        one["main"].append(swept(pairs, 0.4 * thin, 6))
    elif kind == 2:  # beads on pins
        at = low.copy()
        for _ in range(int(rng.integers(2, 7))):
            r = rng.uniform(0.03, 0.1)
            one["second"].append(ball(np.array([r, r, r * rng.uniform(0.5, 1.3)]), at - (0, 0, r), 14))
            at = at - (0, 0, 2 * r + 0.02)
        one["main"].append(swept(np.stack([low, at]), 0.5 * thin, 7))
    else:  # a bar with hanging chains
        bar = np.array([[-0.2, 0, -0.05], [0.2, 0, -0.05]]) + low
        one["main"] += [swept(bar, 1.2 * thin, 8), swept(_lines((bar[0], low), (bar[1], low)), 0.6 * thin, 6)]
        number = int(rng.integers(4, 10))
        x = np.linspace(-0.2, 0.2, number)
        long = 0.3 + 0.3 * np.cos(x * 5) * rng.choice([-0.5, 1])
        beads = (
            np.concatenate(
                [
                    np.stack([0 * z + x[k], 0 * z, z], 1)
                    for k in range(number)
                    for z in [np.arange(-0.06, -long[k] - 0.06, -0.025)]
                ]
            )
            + low
        )
        one["main"].append(copied(ball(0.01, rows=6), np.broadcast_to(np.eye(3), (len(beads), 3, 3)), beads))
        one["second"] += [ball(0.028, (x[k] + low[0], low[1], low[2] - long[k] - 0.08), 10) for k in range(number)]
    shift, turn = np.array([rng.uniform(0.45, 0.7), 0, 0]), rotation((0, 0, 1), rng.uniform(-60, 60))
    other = {role: [placed(m, turn @ np.diag([-1, 1, 1]), shift) for m in meshes] for role, meshes in one.items()}
    if rng.random() < 0.2:
        return one
    return _merge({role: [placed(m, turn.T, -shift) for m in meshes] for role, meshes in one.items()}, other)


def _cables(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
            tail = _cable(rng, path[-1], unit(path[-1] - path[-3]), 0.7, 2)
            path = np.concatenate([path, tail[2:]])
        else:
            path = _wander(rng, 180, int(rng.integers(3, 6)), 0.8, False) * (1, 1, 0.5)
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


def _cage(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
        parts["wood"] = [swept(_lines(((-wide, 0, h), (wide, 0, h))), 0.02, 8)]
    return parts


def _whisk(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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


def _rack(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    """Drying racks, dish racks and wire baskets: frames with parallel wires."""
    wide, deep, high = rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.6), rng.uniform(0.15, 0.6)
    number = int(rng.integers(8, 26))
    frame = rounded(np.array([[-wide, -deep, 0], [wide, -deep, 0], [wide, deep, 0], [-wide, deep, 0]]), 0.12, True)
    rods = np.array([[[x, -deep, 0], [x, deep, 0]] for x in np.linspace(-wide, wide, number + 2)[1:-1]])
    kind = rng.integers(3)
    if kind == 0:  # folding legs
        legs = _lines(
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
        posts = _lines(
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


SHAPES: dict[str, Callable[[np.random.Generator, float, dict[str, Any]], Parts]] = {
    "sculpture": _sculpture,
    "tangle": _tangle,
    "spring": _spring,
    "wheel": _wheel,
    "bicycle": _bicycle,
    "antenna": _antenna,
    "hanger": _hanger,
    "glasses": _glasses,
    "headphones": _headphones,
    "umbrella": _umbrella,
    "scaffold": _scaffold,
    "pylon": _pylon,
    "clips": _clips,
    "chain": _chain,
    "earrings": _earrings,
    "cables": _cables,
    "cage": _cage,
    "whisk": _whisk,
    "rack": _rack,
}
LYING = ("sculpture", "tangle", "spring", "wheel", "clips", "earrings", "cables")  # any side may be up


def _materials(rng: np.random.Generator, f: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A material for every role a part may have."""
    main = finish(rng, f["finish"], f["tone"], f["roughness"])
    glossy = {"kind": "plastic", "colour": any_colour(rng), "roughness": f["roughness"]}
    second = glossy if rng.random() < 0.6 else finish(rng, pick(rng, Factors().finish), f["tone"], f["roughness"])
    chrome = finish(rng, "chrome" if rng.random() < 0.6 else "steel", f["tone"], f["roughness"])
    cloth, odd = any_colour(rng), any_colour(rng)
    sheet = (
        {"kind": "translucent", "transmission": rng.uniform(0.1, 0.4)} if rng.random() < 0.6 else {"kind": "diffuse"}
    )
    clear = {"kind": "thin_glass", "colour": np.clip(1 - 0.25 * rng.random(3), 0, 1), "ior": 1.5}
    dark = {"kind": "plastic", "colour": shade(rng, np.array([0.02, 0.02, 0.025]), 0.4), "roughness": 0.06}
    return {
        "main": main,
        "spokes": chrome,
        "metal": chrome,
        "rim": chrome if rng.random() < 0.5 else second,
        "second": second,
        "rubber": {
            "kind": "plastic",
            "colour": shade(rng, np.full(3, 0.02 if rng.random() < 0.8 else 0.6), 0.3),
            "roughness": 0.4,
        },
        "wood": {
            "kind": "plastic",
            "colour": colour_of_tone(rng, "brown" if rng.random() < 0.6 else "tan"),
            "roughness": 0.35,
        },
        "pads": {"kind": "plastic", "colour": np.array([0.75, 0.72, 0.68]), "roughness": 0.2},
        "lens": clear if f["lenses"] == "clear" else dark,
        "canopy": sheet | {"colour": cloth},
        "canopy_odd": sheet | {"colour": odd},
    }


def bent(rng: np.random.Generator, points: np.ndarray, amount: float) -> np.ndarray:
    """Points [P, 3] moved by a smooth random field by about `amount`."""
    return points + amount * np.stack([waves(rng, points, 1.4) for _ in range(3)], -1)


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A thing of wires from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    parts = {role: join(*meshes) for role, meshes in SHAPES[f["shape"]](rng, f["radius"], f).items() if meshes}
    materials = _materials(rng, f)
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    if f["shape"] in LYING and rng.random() < 0.7:
        turn = random_rotation(rng)
    # one field for all parts, so that they stay together
    counts = np.cumsum([len(m.vertices) for m in parts.values()])[:-1]
    moved_points = bent(rng, np.concatenate([m.vertices for m in parts.values()]), f["bend"])
    split = np.split(moved_points, counts)
    meshes = [
        replace(mesh, vertices=points @ turn.T, material=materials[role])
        for (role, mesh), points in zip(parts.items(), split, strict=True)
    ]
    return fitted(Subject(meshes, drawn={"roles": list(parts), "materials": [m.material["kind"] for m in meshes]}))
