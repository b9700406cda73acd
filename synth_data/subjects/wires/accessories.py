"""Glasses, headphones, umbrellas and earrings."""

from typing import Any

import numpy as np

from synth_data.subjects.meshes import ball, lathe, placed, rotation, surface
from synth_data.subjects.repeated import along, copied, facing, grids, rounded, swept, transported, unit
from synth_data.subjects.rods import circle
from synth_data.subjects.wires.parts import Parts, merged, segments, wandering_cable


def glasses(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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


def headphones(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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
        tail = wandering_cable(rng, fork, np.array([0, 0, -1.0]), rng.uniform(1, 3), 5)
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
        parts["main"].append(swept(segments((yoke[10], (side * wide * 0.98, 0, 0.3 * high))), 2 * thin, 8))
    if rng.random() < 0.75:
        start = np.array([-wide, 0, -0.12 - cup])
        tail = wandering_cable(rng, start, np.array([0, 0, -1.0]), rng.uniform(0.8, 2.5), 5)
        if rng.random() < 0.4:  # coiled
            _, n, b = transported(tail[None])
            coil = np.linspace(0, 30 * 2 * np.pi, 600)
            fine = np.stack([np.interp(np.linspace(0, 119, 600), np.arange(120), tail[:, k]) for k in range(3)], 1)
            n, b = (np.repeat(x[0], 5, 0) for x in (n, b))
            tail = fine + 0.03 * (np.cos(coil)[:, None] * n + np.sin(coil)[:, None] * b)
        parts["rubber"].append(swept(tail, 0.8 * max(thin, 0.01), 7))
    return parts


def umbrella(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
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


def earrings(rng: np.random.Generator, thin: float, f: dict[str, Any]) -> Parts:
    a = np.linspace(-0.5 * np.pi, 0.95 * np.pi, 30)  # an ear wire: up in front, down behind
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
        pairs = segments(*((drop[k], drop[60 - k]) for k in range(14, 30, 2)))
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
        one["main"] += [swept(bar, 1.2 * thin, 8), swept(segments((bar[0], low), (bar[1], low)), 0.6 * thin, 6)]
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
    return merged({role: [placed(m, turn.T, -shift) for m in meshes] for role, meshes in one.items()}, other)
