"""Nets of string: fishing nets, sports nets, goals, hoops, rackets and spiders' webs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone
from synth_data.subjects.lattice.sheets import (
    Pieces,
    Sheet,
    cut_strands,
    lay_yarn,
    make_sheet,
    place_knots,
    sheet_form,
    straight_rows,
    thread_radius,
    turned,
    zigzags,
)
from synth_data.subjects.meshes import Mesh, ball, box, random_rotation, rotation, surface
from synth_data.subjects.repeated import copied, rounded, swept
from synth_data.subjects.rods import circle


def net(rng: np.random.Generator, f: dict[str, Any], sheet: Sheet | None = None) -> Pieces:
    """A knotted fishing net of diamonds, sometimes with its ropes and floats."""
    own = sheet is None
    sheet = sheet or make_sheet(rng, f)
    cells = f["cells"]
    rows = max(2, round(cells * rng.uniform(0.6, 1.1)))
    radius = min(thread_radius(cells, f["openness"]) * 0.7, 0.02 if own else 0.006)
    colour = colour_of_tone(rng, f["tone"])
    uv = zigzags(cells, rows, 0.0, 6)
    strands = lay_yarn(rng, sheet, uv, 0.0, radius, colour, 2 if radius > 0.006 else 1, 0.3 * f["fuzz"])
    meshes = {"thread": [place_knots(sheet, uv[:, ::6].reshape(-1, 2), 1.7 * radius)]}
    if own and rng.random() < 0.6:
        t = np.linspace(-1, 1, 120)
        for v in (1, -1) if rng.random() < 0.5 else (1,):
            edge = np.stack([t, 0 * t + v], 1)[None]
            strands += lay_yarn(rng, sheet, edge, 0.0, 2.2 * radius, any_colour(rng), 3)
        if rng.random() < 0.5:
            at = np.stack([np.linspace(-0.95, 0.95, 10), np.ones(10)], 1)
            turns = np.broadcast_to(np.diag([0.07, 0.04, 0.04]), (10, 3, 3))
            meshes["second"] = [copied(ball(rows=12), turns, sheet.place(at, 0.0))]
    return Pieces(meshes, strands)


def square_net(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A sports net with a tape along its top, often between posts."""
    sheet = make_sheet(rng, f)
    cells, rows = f["cells"], max(3, round(f["cells"] * rng.uniform(0.4, 0.9)))
    radius = min(thread_radius(cells, f["openness"]) * 0.8, 0.018)
    colour = colour_of_tone(rng, f["tone"])
    lines = (straight_rows(rows, 4 * cells, True), straight_rows(cells, 4 * rows, False))
    strands = [s for uv in lines for s in lay_yarn(rng, sheet, uv, 0.0, radius, colour, 1, 0.2 * f["fuzz"])]
    u, v = np.meshgrid(lines[1][:, 0, 0], lines[0][:, 0, 1], indexing="ij")
    meshes = {"thread": [place_knots(sheet, np.stack([u.ravel(), v.ravel()], 1), 1.6 * radius)]}
    if rng.random() < 0.7:
        t, v = np.meshgrid(np.linspace(-1, 1, 60), np.array([0.97, 1.03, 1.09]), indexing="ij")
        band = sheet.place(np.stack([t, v], -1), 0.004)
        meshes["cloth"] = [surface(band)]
    if f["form"] in ("flat", "wavy") and rng.random() < 0.7:
        ends = sheet.place(np.array([[[-1.02, -1], [-1.02, 1.12]], [[1.02, -1], [1.02, 1.12]]], float), 0.0)
        ends[:, 0, 2] -= 0.3
        meshes["bar"] = [swept(ends, 0.03, 12)]
    return Pieces(meshes, strands)


def goal(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A goal: posts, a crossbar and a net that hangs behind."""
    wide, high, deep, top = 1.0, rng.uniform(0.6, 0.8), rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.3)
    profile = rounded(np.array([[0, 0, high], [0, top, high], [0, deep, 0]]), 0.12, steps=12)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))])
    sag = 0.25 * f["sag"]

    def back(uv: np.ndarray) -> np.ndarray:
        s = (1 - uv[..., 1]) / 2 * length[-1]
        y, z = np.interp(s, length, profile[:, 1]), np.interp(s, length, profile[:, 2])
        hang = sag * np.sin(np.pi * (1 - uv[..., 1]) / 2) * (1 - uv[..., 0] ** 2)
        return np.stack([wide * uv[..., 0], y + 0.6 * hang, z - 0.6 * hang], -1)

    def flank(side: float) -> Callable[[np.ndarray], np.ndarray]:
        def form(uv: np.ndarray) -> np.ndarray:
            v = (1 + uv[..., 1]) / 2
            t = (1 + uv[..., 0]) / 2
            return np.stack(
                [
                    side * wide + 0 * t + side * sag * 0.3 * np.sin(np.pi * v) * np.sin(np.pi * t),
                    t * (deep + (top - deep) * v),
                    high * v,
                ],
                -1,
            )

        return form

    pattern = net if rng.random() < 0.5 else _plain_net
    nets = [pattern(rng, f, make_sheet(rng, f, back))]
    small = {**f, "cells": max(3, f["cells"] // 3)}
    nets += [pattern(rng, small, make_sheet(rng, small, flank(s))) for s in (-1.0, 1.0)]
    thick = rng.uniform(0.018, 0.032)
    bars = [np.array([[-wide, 0, 0], [-wide, 0, high], [wide, 0, high], [wide, 0, 0]])]
    post = swept(rounded(bars[0], 0.03), thick, 12)
    rest = [np.array([[s * wide, 0, 0], [s * wide, deep, 0]]) for s in (-1, 1)]
    rest.append(np.array([[-wide, deep, 0], [wide, deep, 0]]))
    struts = [np.array([[s * wide, 0, high], [s * wide, top, high], [s * wide, deep, 0]]) for s in (-1, 1)]
    meshes = {"bar": [post, swept(np.array(rest), 0.5 * thick, 8), swept(np.array(struts), 0.5 * thick, 8)]}
    meshes["thread"] = [m for net in nets for m in net.meshes.get("thread", [])]
    turn = rotation((0, 0, 1), rng.uniform(-50, 50) + (180 if rng.random() < 0.3 else 0))
    pieces = Pieces(meshes, [s for net in nets for s in net.strands])
    return turned(pieces, turn)


def _plain_net(rng: np.random.Generator, f: dict[str, Any], sheet: Sheet) -> Pieces:
    """A net of squares without tape or posts."""
    cells, rows = f["cells"], max(3, round(0.7 * f["cells"]))
    radius, colour = min(thread_radius(cells, f["openness"]) * 0.7, 0.006), colour_of_tone(rng, f["tone"])
    lines = (straight_rows(rows, 4 * cells, True), straight_rows(cells, 4 * rows, False))
    return Pieces({}, [s for uv in lines for s in lay_yarn(rng, sheet, uv, 0.0, radius, colour)])


def hoop(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A basketball hoop: a ring, a tapering net, sometimes the board."""
    cells = max(8, min(f["cells"], 16)) // 2 * 2
    long, low = rng.uniform(0.7, 1.0), rng.uniform(0.5, 0.7)
    sway = rng.normal(size=2) * 0.15 * f["sag"]

    def form(uv: np.ndarray) -> np.ndarray:
        a, s = uv[..., 0] * np.pi, (1 - uv[..., 1]) / 2
        r = 0.5 * (1 - (1 - low) * np.minimum(1.6 * s, 1) + 0.06 * s * np.cos(3 * a + 2))
        return np.stack([r * np.cos(a) + sway[0] * s**2, r * np.sin(a) + sway[1] * s**2, -long * s], -1)

    sheet = make_sheet(rng, {**f, "cells": cells, "torn": False}, form)
    radius = rng.uniform(0.009, 0.016)
    colour = colour_of_tone(rng, "white" if rng.random() < 0.6 else f["tone"])
    uv = zigzags(cells, 6, 0.0, 7)
    strands = lay_yarn(rng, sheet, uv, 0.0, radius, colour, 2, 0.3 * f["fuzz"])
    meshes = {
        "second": [swept(circle(64, 0.51, 0.02), 0.022, 12, True)],
        "thread": [place_knots(sheet, uv[:, ::7].reshape(-1, 2), 1.6 * radius)],
    }
    if rng.random() < 0.6:
        meshes["cloth"] = [box((1.7, 0.04, 1.1), (0, 0.75, 0.42))]
        frame = rounded(
            np.array([[-0.28, 0.72, 0.05], [0.28, 0.72, 0.05], [0.28, 0.72, 0.45], [-0.28, 0.72, 0.45]]), 0.01, True
        )
        meshes["second"] += [swept(frame, 0.018, 6, True), box((0.25, 0.22, 0.04), (0, 0.62, 0))]
    return Pieces(meshes, strands)


def web(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """An orb web: spokes in an uneven frame, and a spiral of threads that sag a little between them."""
    spokes = int(rng.integers(14, 30))
    angle = np.sort(2 * np.pi * (np.arange(spokes) + rng.uniform(-0.3, 0.3, spokes)) / spokes)
    reach = rng.uniform(0.75, 1.0, spokes)
    centre = rng.normal(size=2) * 0.08
    radius = rng.uniform(0.002, 0.0045)
    sheet = make_sheet(
        rng,
        {**f, "irregular": 0.0, "form": "flat"},
        sheet_form(rng, "wavy" if f["sag"] > 0.2 else "flat", 0.2 * f["sag"]),
    )
    way = np.stack([np.cos(angle), np.sin(angle)], 1)
    t = np.linspace(0, 1, 14)[None, :, None]
    lines = [centre + t * (reach[:, None] * way - centre)[:, None]]
    rings = f["cells"] // 2 + 5
    turns = []
    for k in range(rings * spokes):
        i, level = k % spokes, 0.1 + 0.85 * k / (rings * spokes)
        j, after = (i + 1) % spokes, 0.1 + 0.85 * (k + 1) / (rings * spokes)
        a = centre + level * (reach[i] * way[i] - centre)
        b = centre + after * (reach[j] * way[j] - centre)
        s = np.linspace(0, 1, 14)[:, None]
        turns.append(a + s * (b - a) + (0, -0.25) * (s * (1 - s)) * np.linalg.norm(b - a))
    lines.append(np.array(turns))
    strands = []
    for uv in lines:
        strands += lay_yarn(rng, sheet, uv, 0.0, radius, np.array([0.75, 0.77, 0.8]))
    corners = np.array([way[i] * reach[i] for i in range(0, spokes, 3)])
    edge = np.stack([np.linspace(a, b, 14) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
    strands += lay_yarn(rng, sheet, edge, 0.0, 1.5 * radius, np.array([0.7, 0.72, 0.75]))
    meshes: dict[str, list[Mesh]] = {}
    if rng.random() < 0.4:  # dew
        at = lines[1][rng.random(len(lines[1])) < 0.35, 7]
        meshes["second"] = [place_knots(sheet, at, 4 * radius)] if len(at) else []
    return Pieces(meshes, strands)


def racket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Tennis and badminton rackets: an oval head with woven strings, a throat and a grip."""
    wide, high = rng.uniform(0.34, 0.42), rng.uniform(0.45, 0.52)
    slim = rng.random() < 0.4
    thick = 0.013 if slim else rng.uniform(0.02, 0.03)
    a = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    oval = np.stack([wide * np.cos(a), 0 * a, 0.45 + high * np.sin(a)], 1)
    meshes = {"frame": [swept(oval, thick, 10, True, (1.0, 1.3))]}
    colour = colour_of_tone(rng, f["tone"])
    number = int(np.clip(f["cells"], 12, 22))
    strands = []
    radius = 0.0022 + 0.002 * rng.random()
    for across in (True, False):
        half = (high if across else wide) * 0.94
        at = np.linspace(-half, half, number + (4 if across else 0))
        reach = (wide if across else high) * np.sqrt(np.maximum(1 - (at / (high if across else wide)) ** 2, 0))
        t = np.linspace(-1, 1, 61)
        line = reach[:, None] * t[None]
        over = (
            1.1
            * radius
            * np.sin(np.pi * (line / (half * 2 / number) + np.arange(len(at))[:, None] + (0 if across else 0.5)))
        )
        fixed = np.broadcast_to(at[:, None], line.shape)
        points = np.stack([line, over, 0.45 + fixed] if across else [fixed, over, 0.45 + line], -1)
        kept = np.ones(line.shape, bool)
        if f["torn"]:
            centre = np.array([rng.uniform(-0.2, 0.2), 0, rng.uniform(0.3, 0.6)])
            kept = np.linalg.norm(points - centre, axis=-1) > 0.13
        strands.append(cut_strands(points, kept, radius, np.broadcast_to(colour, (len(at), 3))))
    bottom = 0.45 - high
    if slim:
        meshes["frame"].append(swept(np.array([[0, 0, bottom], [0, 0, -1.0]]), 0.01, 10))
    else:
        for side in (-1, 1):
            path = np.array(
                [
                    [side * wide * 0.62, 0, 0.45 - high * 0.785],
                    [side * 0.12, 0, bottom - 0.08],
                    [side * 0.018, 0, bottom - 0.32],
                    [side * 0.018, 0, -0.5],
                ]
            )
            meshes["frame"].append(swept(rounded(path, 0.2), 0.9 * thick, 10))
    top = -0.7 if slim else -0.45
    grip = np.linspace(top, -1.05, 40)
    ripple = (0.021 if slim else 0.034) * (1 + 0.06 * np.abs(np.sin(grip * 45)))
    ripple[-3:] *= 1.2
    meshes["second"] = [swept(np.stack([0 * grip, 0 * grip, grip], 1), ripple[None], 8)]
    return turned(
        Pieces(meshes, strands),
        random_rotation(rng) if rng.random() < 0.5 else rotation((0, 0, 1), rng.uniform(-60, 60)),
    )
