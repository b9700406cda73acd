"""Picket fences, railings and trellises."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.subjects.lattice.sheets import (
    Pieces,
    lay_wires,
    make_sheet,
    sheet_form,
    straight_rows,
    thread_radius,
)
from synth_data.subjects.meshes import Mesh, ball, extrude, lathe, placed, rotation
from synth_data.subjects.repeated import copied, rounded, swept


def picket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Garden fences of boards or bamboo canes on rails."""
    number = int(np.clip(f["cells"], 6, 18))
    pitch = 2 / number
    wide = pitch * (1 - f["openness"] * 0.75)
    high, thick = rng.uniform(0.55, 0.9), rng.uniform(0.02, 0.04)
    x = (np.arange(number) + 0.5) * pitch - 1
    kept = rng.random(number) > (0.2 if f["torn"] else 0.0)
    kept[0] = True
    tilt = 4 * f["irregular"] * rng.normal(size=number) * (0.3 if rng.random() < 0.6 else 3)
    top = rng.integers(4)
    meshes: dict[str, list[Mesh]] = {"board": []}
    bend = rng.uniform(-0.5, 0.5) * f["sag"] * 2
    for k in np.flatnonzero(kept):
        up = high * (1 + 0.12 * f["irregular"] * rng.normal() + (0.18 * np.cos(np.pi * x[k]) if top == 3 else 0))
        if top == 2:  # canes
            board = swept(np.array([[0, 0, -high], [0, 0, up]]), 0.5 * wide * rng.uniform(0.8, 1.1), 10)
        else:
            w = wide / 2
            point = [[0, up], [-w, up - w * 1.2]] if top == 0 else [[0.5 * w, up], [-0.5 * w, up], [-w, up - 0.5 * w]]
            first = [] if top == 0 else [[w, up - 0.5 * w]]
            outline = np.array([[w, -high], *([[w, up - w * 1.2]] if top == 0 else first), *point, [-w, -high]])
            board = placed(extrude(outline, thick), np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0.0]]))
        y = bend * (1 - x[k] ** 2)
        meshes["board"].append(placed(board, rotation((0, 1, 0), tilt[k]), (x[k], y - thick, 0)))
    t = np.linspace(-1.02, 1.02, 24)
    square = np.array([[t_, bend * (1 - t_**2), 0] for t_ in t])
    for h in (-0.5 * high, 0.55 * high):
        meshes["board"].append(swept(square + (0, 0, h), 0.03, 4, flat=(1.3, 0.6)))
    return Pieces(meshes, [])


def _spiral(turns: float, size: float, side: int) -> np.ndarray:
    """A scroll [30, 3] in the xz plane from the origin."""
    a = np.linspace(0, 2 * np.pi * turns, 30)
    r = size * (1 - 0.85 * a / a[-1])
    path = np.stack([side * (r * np.cos(a) - size), 0 * a, r * np.sin(a)], 1)
    return path


def railing(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Iron railings and banisters: bars between rails, with spears, scrolls and knobs, or turned balusters."""
    number = int(np.clip(f["cells"], 5, 20))
    x = (np.arange(number) + 0.5) / number * 2 - 1
    high, radius = rng.uniform(0.5, 0.85), np.clip((1 - f["openness"]) / number, 0.008, 0.03)
    kind = rng.integers(4)
    arch = rng.uniform(0, 0.4) * (rng.random() < 0.4)
    steps = rng.uniform(-0.5, 0.5) * (rng.random() < 0.3)  # along a stair
    top = high + arch * np.cos(np.pi * x / 2)
    lift = steps * x
    meshes: dict[str, list[Mesh]] = {"wire": []}
    rail = np.linspace(-1.03, 1.03, 30)
    for h in (high + arch * np.cos(np.pi * rail / 2) - 0.1, 0 * rail - high + 0.08):
        meshes["wire"].append(swept(np.stack([rail, 0 * rail, h + steps * rail], 1), 1.5 * radius, 4, flat=(1.4, 1.0)))
    if kind == 0:  # balusters
        s = np.linspace(0, 1, 30)
        r = 0.3 / number * (1 + 0.7 * np.sin(2 * np.pi * s * rng.uniform(0.8, 1.6)) + 0.3 * np.cos(14 * s)) + 0.012
        turned = lathe(np.stack([r, -high + 0.1 + s * (2 * high - 0.22)], 1), 20)
        turns = np.broadcast_to(np.eye(3), (number, 3, 3))
        meshes["wire"].append(copied(turned, turns, np.stack([x, 0 * x, lift], 1)))
        return Pieces(meshes, [])
    bars = np.stack([np.stack([x, 0 * x, lift - high], 1), np.stack([x, 0 * x, lift + top], 1)], 1)
    kept = rng.random(number) > (0.2 if f["torn"] else 0.0)
    bars = bars[kept] if kept.any() else bars
    fine = bars[:, :1] + np.linspace(0, 1, 12)[None, :, None] * (bars[:, 1:] - bars[:, :1])
    meshes["wire"].append(swept(fine, radius, 4 if rng.random() < 0.5 else 8))
    tips = bars[:, 1]
    turns = np.broadcast_to(np.eye(3), (len(tips), 3, 3))
    if kind == 1:
        spear = lathe(np.array([[0, 0], [1, 0.2], [2.2, 2], [0.8, 5], [0, 7.5]]) * radius, 8)
        meshes["wire"].append(copied(spear, turns, tips))
    elif kind == 2:
        meshes["wire"].append(copied(ball(2.4 * radius, rows=10), turns, tips + (0, 0, radius)))
    gap = 2 / number
    if rng.random() < 0.75:  # scrolls between the bars
        one = _spiral(rng.uniform(1.2, 2), 0.23 * gap, 1)
        for z in rng.uniform(-0.6, 0.5, int(rng.integers(1, 4))) * high:
            for side in (-1, 1):
                for flip in (-1, 1):
                    path = one * (side, 1, flip) + np.stack([x, 0 * x, lift + z], 1)[:, None]
                    meshes["wire"].append(swept(path, 0.6 * radius, 5))
    if rng.random() < 0.4:
        ring = np.array(
            [[0.42 * gap * np.cos(a), 0, 0.42 * gap * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 28)[:-1]]
        )
        at = np.stack([x[:-1] + gap / 2, 0 * x[1:], (lift[1:] + lift[:-1]) / 2 + high - 0.1 - 0.5 * gap], 1)
        meshes["wire"].append(swept(ring[None] + at[:, None], 0.7 * radius, 6, True))
    return Pieces(meshes, [])


def trellis(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Crossed laths, diagonal or upright, sometimes an arch."""
    cells = int(np.clip(f["cells"] // 2, 4, 12))
    arch = rng.random() < 0.35
    radius = thread_radius(cells, f["openness"])
    form = (
        (lambda uv: np.stack([0.8 * np.sin(uv[..., 0] * 1.6), 0.5 * uv[..., 1], 0.9 * np.cos(uv[..., 0] * 1.6)], -1))
        if arch
        else sheet_form(rng, "flat", 0)
    )
    sheet = make_sheet(rng, {**f, "irregular": 0.3 * f["irregular"]}, form)
    meshes: dict[str, list[Mesh]] = {"board": []}
    for layer, across in enumerate((True, False)):
        uv = straight_rows(cells, 60, across)
        if not arch and f["cells"] % 2:  # diagonal
            uv = uv @ np.array([[0.7071, 0.7071], [-0.7071, 0.7071]]) * 1.35
        cut = replace(sheet, keep=lambda p, keep=sheet.keep: keep(p) & (np.abs(p) <= 1.0).all(-1))
        meshes["board"].append(lay_wires(cut, uv, (layer - 0.5) * radius, radius, 4))
    edge = rounded(np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 1.02, 0.01, True, 3)[:, :2]
    edge = np.concatenate([np.linspace(a, b, 20) for a, b in zip(edge, np.roll(edge, -1, 0), strict=True)])
    meshes["board"].append(
        lay_wires(replace(sheet, keep=lambda p: np.ones(p.shape[:-1], bool)), edge[None], 0.0, 1.2 * radius, 4)
    )
    return Pieces(meshes, [])
