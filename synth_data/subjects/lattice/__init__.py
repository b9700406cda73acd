"""Lattices: nets, fences, lace, knits, baskets and grilles; thin periodic structure with holes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import chance, count, pick, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Strands,
    Subject,
    ball,
    box,
    extrude,
    join,
    lathe,
    placed,
    random_rotation,
    rotation,
    surface,
    waves,
)
from synth_data.subjects.repeated import copied, fitted, rounded, swept, transported, unit
from synth_data.subjects.wires import circle, finish

CHUNK = 8  # control points of a piece of yarn; neighbours share three, so that the spline runs on


@dataclass(frozen=True)
class Factors:
    """What a lattice varies in."""

    pattern: tuple = shares(
        net=1.2,
        square_net=0.8,
        goal=0.6,
        hoop=0.7,
        web=0.7,
        gauze=0.7,
        knit=1.4,
        doily=1,
        lace=1.2,
        chain_link=1,
        welded=0.8,
        chicken_wire=0.7,
        picket=0.9,
        railing=1,
        trellis=0.7,
        perforated=0.9,
        grille=0.8,
        basket=1.1,
        racket=1,
    )
    """what is repeated"""
    cells: tuple = count(9, 26, least=2, most=80)
    """repeats across"""
    openness: tuple = span(0.55, 0.92, least=0.05, most=0.99)
    """share of the sheet that is hole: exact for welded mesh and perforated sheet, 0.8 of it for lace, else rough"""
    form: tuple = shares(flat=0.8, wavy=1, curled=0.8, hanging=1.4, draped=0.8, lying=0.6)
    """how a sheet lies in space; fences stand, baskets and rackets have their own form"""
    sag: tuple = span(0.0, 0.5, most=1.5)
    """how deep the folds and bulges are, relative"""
    irregular: tuple = span(0.0, 0.35, most=1)
    """how far the cells stray from their grid, in cells"""
    torn: float = chance(0.15)
    """whether holes are torn into it"""
    finish: tuple = shares(steel=1.2, chrome=0.3, brass=0.4, copper=0.3, painted=1.6, rust=0.6, matt=0.8)
    """surface of wires, bars and sheets of metal"""
    tone: tuple = shares(black=1, white=1.8, grey=0.6, brown=0.6, tan=0.8, bright=1.4, pastel=1)
    """colour of threads, and of what is painted or matt"""
    roughness: tuple = span(0.1, 0.5, least=0.02, most=1)
    """roughness of glossy surfaces"""
    fuzz: tuple = span(0.0, 1.0, most=3)
    """loose fibres on yarn, relative"""


Place = Callable[[np.ndarray, Any], np.ndarray]
Keep = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sheet:
    """A piece of surface that patterns are laid on.

    `place(uv, w)` takes coordinates [..., 2] in [-1, 1] and heights [...] above it to points [..., 3];
    `keep(uv)` [...] is False where it is torn.
    """

    place: Place
    keep: Keep


@dataclass(frozen=True)
class Pieces:
    """What a pattern is made of: meshes by role, and yarn."""

    meshes: dict[str, list[Mesh]]
    strands: list[Strands]


def _form(rng: np.random.Generator, kind: str, sag: float) -> Callable[[np.ndarray], np.ndarray]:
    """A map from uv [..., 2] in [-1, 1] to points [..., 3] of an upright sheet (v runs up)."""
    tall = rng.uniform(0.6, 1.25)
    folds, phase = rng.uniform(1, 3.5), rng.uniform(0, 2 * np.pi)
    k = rng.normal(size=(2, 5)) * 1.6
    shift = rng.uniform(0, 2 * np.pi, 5)
    arc = rng.uniform(1.5, 4.5) * (1 if rng.random() < 0.5 else -1)
    bar = rng.uniform(0.06, 0.2)
    turn = rng.uniform(-0.4, 0.4)

    def bumps(uv: np.ndarray) -> np.ndarray:
        return np.cos(uv @ k + shift).sum(-1) / 2.5

    def form(uv: np.ndarray) -> np.ndarray:
        u, v = uv[..., 0], uv[..., 1]
        if kind == "flat":
            return np.stack([u, 0 * u, tall * v], -1)
        if kind == "wavy":
            return np.stack([u, (0.15 + 0.7 * sag) * bumps(uv), tall * v], -1)
        if kind == "curled":
            r = 2 / abs(arc)
            angle = u * arc / 2
            return np.stack([r * np.sin(angle) * np.sign(arc), r * np.cos(angle) + turn * v, tall * v], -1)
        if kind == "hanging":  # held at the top, folds deepen downwards, gathered below
            down = (1 - v) / 2
            fold = np.sin(np.pi * folds * u + phase) + 0.5 * np.sin(2.3 * np.pi * folds * u + 2 * phase)
            y = (0.05 + 0.35 * sag) * fold * (0.25 + 0.75 * down) + 0.1 * bumps(uv) * down
            x = u * (1 - 0.35 * sag * np.sin(np.pi * down) * 0.6 - 0.15 * sag * down)
            return np.stack([x, y, tall * v - 0.55 * sag * (1 - u**2) * (0.35 + 0.65 * down)], -1)
        if kind == "draped":  # over a bar along x
            s = (v + turn) * tall
            angle = np.clip(s / bar, -np.pi / 2, np.pi / 2)
            over = np.maximum(np.abs(s) - bar * np.pi / 2, 0)
            y = bar * np.sin(angle) + np.sign(s) * over * (0.08 + 0.1 * sag * np.sin(np.pi * folds * u + phase))
            y = y + 0.12 * sag * over * bumps(uv)
            return np.stack(
                [u * (1 - 0.1 * over), y, bar * np.cos(angle) - over * (1 + 0.15 * sag * np.cos(3 * u))], -1
            )
        # lying: over bumps, edges hang
        edge = np.maximum(np.abs(u), np.abs(v)) ** 4
        return np.stack([u, v * tall, (0.1 + 0.4 * sag) * bumps(uv) - 0.3 * sag * edge], -1)

    return form


def _sheet(
    rng: np.random.Generator, f: dict[str, Any], form: Callable[[np.ndarray], np.ndarray] | None = None
) -> Sheet:
    """The sheet that the factors describe, or one of another `form`."""
    form = form or _form(rng, f["form"], f["sag"])
    size = 2 / f["cells"]
    k = rng.normal(size=(2, 6)) * 0.9 * np.pi / size / 2
    shift = rng.uniform(0, 2 * np.pi, (2, 6))
    holes = []
    if f["torn"]:
        for _ in range(int(rng.integers(1, 4))):
            holes.append((rng.uniform(-1.1, 1.1, 2), rng.uniform(0.15, 0.55), rng.uniform(0, 2 * np.pi, 4)))

    def place(uv: np.ndarray, w: Any = 0.0) -> np.ndarray:
        stray = np.stack([np.cos(uv @ k + s).sum(-1) / np.sqrt(6) for s in shift], -1)
        uv = uv + 0.5 * f["irregular"] * size * stray
        small = 1e-3
        p = form(uv)
        normal = unit(np.cross(form(uv + (small, 0)) - p, form(uv + (0, small)) - p))
        return p + np.asarray(w)[..., None] * normal

    def keep(uv: np.ndarray) -> np.ndarray:
        kept = np.ones(uv.shape[:-1], bool)
        for centre, radius, phase in holes:
            d = uv - centre
            angle = np.arctan2(d[..., 1], d[..., 0])
            ragged = 1 + 0.3 * sum(np.cos((2 * j + 2) * angle + phase[j]) / (j + 1) for j in range(4))
            kept &= np.hypot(d[..., 0], d[..., 1]) > radius * ragged
        return kept

    return Sheet(place, keep)


def _wire(sheet: Sheet, uv: np.ndarray, w: Any, radius: float, sides: int = 6) -> Mesh:
    """Tubes along paths uv [N, K, 2] at heights w on a sheet, less what is torn away."""
    w = np.broadcast_to(np.asarray(w, dtype=np.float64), uv.shape[:2])
    mesh = swept(sheet.place(uv, w), radius, sides)
    kept = sheet.keep(uv)
    rings = np.concatenate([kept[:, :1], kept, kept[:, -1:]], 1).repeat(sides + 1, 1).ravel()
    return replace(mesh, faces=mesh.faces[rings[mesh.faces].all(1)])


def _pieces(points: np.ndarray, kept: np.ndarray, radius: float, colour: np.ndarray) -> Strands:
    """Long paths [N, K, 3] cut into overlapping strands of CHUNK points, less those not wholly kept [N, K]."""
    points = np.concatenate([2 * points[:, :1] - points[:, 1:2], points, 2 * points[:, -1:] - points[:, -2:-1]], 1)
    kept = np.concatenate([kept[:, :1], kept, kept[:, -1:]], 1)
    step = CHUNK - 3
    starts = np.arange(0, max(points.shape[1] - 3, 1), step)
    index = np.minimum(starts[:, None] + np.arange(CHUNK), points.shape[1] - 1)
    chunks = points[:, index].reshape(-1, CHUNK, 3)
    kept = kept[:, index].all(-1).ravel()
    # the last piece stops short: its repeated points are spread a little, so that no segment is a point
    chunks = chunks + 1e-7 * np.arange(CHUNK)[:, None]
    number = len(chunks)
    shades = np.broadcast_to(colour, (points.shape[0], 3)).repeat(len(starts), 0)
    colours = np.broadcast_to(np.clip(shades, 0.003, 0.95)[:, None], (number, CHUNK - 3, 3))
    return Strands(chunks[kept], np.full((int(kept.sum()), CHUNK), radius), colours[kept])


def _yarn(
    rng: np.random.Generator,
    sheet: Sheet,
    uv: np.ndarray,
    w: Any,
    radius: float,
    colour: np.ndarray,
    plies: int = 1,
    fuzz: float = 0.0,
) -> list[Strands]:
    """Yarn along paths uv [N, K, 2] at heights w: `plies` threads twisted round each other, and loose fibres.

    `colour`: linear [3] or [N, 3].
    """
    w = np.broadcast_to(np.asarray(w, dtype=np.float64), uv.shape[:2])
    points, kept = sheet.place(uv, w), sheet.keep(uv)
    result = []
    if plies == 1:
        result.append(_pieces(points, kept, radius, colour * np.exp(0.06 * rng.normal(size=(len(points), 1)))))
    else:
        _, n, b = transported(points)
        length = np.cumsum(np.linalg.norm(np.diff(points, axis=1, prepend=points[:, :1]), axis=-1), 1)
        for ply in range(plies):
            a = (length / (7 * radius) * 2 * np.pi + 2 * np.pi * ply / plies)[..., None]
            off = 0.5 * radius * (np.cos(a) * n + np.sin(a) * b)
            tint = colour * np.exp(0.12 * rng.normal(size=(len(points), 1)))
            result.append(_pieces(points + off, kept, 0.58 * radius, tint))
    if fuzz > 0:
        _, n, b = transported(points)
        number = min(int(2500 * fuzz), 6000)
        i, k = rng.integers(0, uv.shape[0], number), rng.integers(1, uv.shape[1] - 1, number)
        i, k = i[kept[i, k]], k[kept[i, k]]
        a = rng.uniform(0, 2 * np.pi, (len(i), 1))
        out = np.cos(a) * n[i, k] + np.sin(a) * b[i, k]
        way = unit(out + 0.9 * rng.normal(size=(len(i), 3)))
        curl = rng.normal(size=(len(i), 3)) * 0.8
        s = np.linspace(-0.1, 1, 6)[None, :, None]
        reach = radius * rng.uniform(1.5, 4.5, (len(i), 1, 1))
        fibres = (points[i, k] + 0.8 * radius * out)[:, None] + reach * (s * way[:, None] + s**2 * curl[:, None])
        shades = np.broadcast_to(colour, (len(points), 3))[i]
        tint = np.clip(np.broadcast_to(1.1 * shades[:, None], (len(i), 3, 3)), 0.003, 0.95)
        result.append(Strands(fibres, np.full((len(i), 6), max(0.06 * radius, 0.0006)), tint))
    return result


def _rows(number: int, points: int, across: bool) -> np.ndarray:
    """Straight uv paths [number, points, 2], half a cell in from the edges."""
    at, t = (np.arange(number) + 0.5) / number * 2 - 1, np.linspace(-1, 1, points)
    u, v = (np.broadcast_to(a, (number, points)) for a in (t[None], at[:, None]))
    return np.stack([u, v] if across else [v, u], -1)


def _thread_radius(cells: int, openness: float) -> float:
    """The radius for which a square grid of `cells` over a width of 2 is open to `openness`: (1 - d/p)^2."""
    return float((1 - np.sqrt(openness)) / cells)


def _zigzags(cells: int, rows: int, dwell: float, fine: int) -> np.ndarray:
    """uv paths [cells, K, 2], upright, that meet their neighbours in turn; with `dwell` the cells are hexagons."""
    t = np.linspace(0, rows, rows * fine + 1)
    whole = np.floor(t).astype(int)
    part = np.clip((t - whole - dwell / 2) / max(1 - dwell, 1e-6), 0, 1)
    i = np.arange(cells)[:, None]
    side = 0.5 * (-1.0) ** (i + whole[None])
    x = i + 0.5 + side * (1 - 2 * part[None])
    return np.stack([2 * x / cells - 1, np.broadcast_to(2 * t / rows - 1, x.shape)], -1)


def _knots(sheet: Sheet, uv: np.ndarray, radius: float) -> Mesh:
    """Small balls at uv [N, 2], less what is torn away."""
    uv = uv[sheet.keep(uv)]
    if not len(uv):
        return ball(1e-3, sheet.place(np.zeros(2)), 4)
    turns = np.broadcast_to(np.eye(3), (len(uv), 3, 3))
    return copied(ball(radius, rows=5), turns, sheet.place(uv, 0.0))


def _net(rng: np.random.Generator, f: dict[str, Any], sheet: Sheet | None = None) -> Pieces:
    """A knotted fishing net of diamonds, sometimes with its ropes and floats."""
    own = sheet is None
    sheet = sheet or _sheet(rng, f)
    cells = f["cells"]
    rows = max(2, round(cells * rng.uniform(0.6, 1.1)))
    radius = min(_thread_radius(cells, f["openness"]) * 0.7, 0.02 if own else 0.006)
    colour = colour_of_tone(rng, f["tone"])
    uv = _zigzags(cells, rows, 0.0, 6)
    strands = _yarn(rng, sheet, uv, 0.0, radius, colour, 2 if radius > 0.006 else 1, 0.3 * f["fuzz"])
    meshes = {"thread": [_knots(sheet, uv[:, ::6].reshape(-1, 2), 1.7 * radius)]}
    if own and rng.random() < 0.6:
        t = np.linspace(-1, 1, 120)
        for v in (1, -1) if rng.random() < 0.5 else (1,):
            edge = np.stack([t, 0 * t + v], 1)[None]
            strands += _yarn(rng, sheet, edge, 0.0, 2.2 * radius, any_colour(rng), 3)
        if rng.random() < 0.5:
            at = np.stack([np.linspace(-0.95, 0.95, 10), np.ones(10)], 1)
            turns = np.broadcast_to(np.diag([0.07, 0.04, 0.04]), (10, 3, 3))
            meshes["second"] = [copied(ball(rows=12), turns, sheet.place(at, 0.0))]
    return Pieces(meshes, strands)


def _square_net(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A sports net with a tape along its top, often between posts."""
    sheet = _sheet(rng, f)
    cells, rows = f["cells"], max(3, round(f["cells"] * rng.uniform(0.4, 0.9)))
    radius = min(_thread_radius(cells, f["openness"]) * 0.8, 0.018)
    colour = colour_of_tone(rng, f["tone"])
    lines = (_rows(rows, 4 * cells, True), _rows(cells, 4 * rows, False))
    strands = [s for uv in lines for s in _yarn(rng, sheet, uv, 0.0, radius, colour, 1, 0.2 * f["fuzz"])]
    u, v = np.meshgrid(lines[1][:, 0, 0], lines[0][:, 0, 1], indexing="ij")
    meshes = {"thread": [_knots(sheet, np.stack([u.ravel(), v.ravel()], 1), 1.6 * radius)]}
    if rng.random() < 0.7:
        t, v = np.meshgrid(np.linspace(-1, 1, 60), np.array([0.97, 1.03, 1.09]), indexing="ij")
        band = sheet.place(np.stack([t, v], -1), 0.004)
        meshes["cloth"] = [surface(band)]
    if f["form"] in ("flat", "wavy") and rng.random() < 0.7:
        ends = sheet.place(np.array([[[-1.02, -1], [-1.02, 1.12]], [[1.02, -1], [1.02, 1.12]]], float), 0.0)
        ends[:, 0, 2] -= 0.3
        meshes["bar"] = [swept(ends, 0.03, 12)]
    return Pieces(meshes, strands)


def _goal(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
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

    pattern = _net if rng.random() < 0.5 else _square
    nets = [pattern(rng, f, _sheet(rng, f, back))]
    small = {**f, "cells": max(3, f["cells"] // 3)}
    nets += [pattern(rng, small, _sheet(rng, small, flank(s))) for s in (-1.0, 1.0)]
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
    return _turned(pieces, turn)


def _square(rng: np.random.Generator, f: dict[str, Any], sheet: Sheet) -> Pieces:
    """Square meshes alone."""
    cells, rows = f["cells"], max(3, round(0.7 * f["cells"]))
    radius, colour = min(_thread_radius(cells, f["openness"]) * 0.7, 0.006), colour_of_tone(rng, f["tone"])
    lines = (_rows(rows, 4 * cells, True), _rows(cells, 4 * rows, False))
    return Pieces({}, [s for uv in lines for s in _yarn(rng, sheet, uv, 0.0, radius, colour)])


def _turned(pieces: Pieces, turn: np.ndarray) -> Pieces:
    meshes = {role: [placed(m, turn) for m in several] for role, several in pieces.meshes.items()}
    return Pieces(meshes, [replace(s, points=s.points @ turn.T) for s in pieces.strands])


def _hoop(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A basketball hoop: a ring, a tapering net, sometimes the board."""
    cells = max(8, min(f["cells"], 16)) // 2 * 2
    long, low = rng.uniform(0.7, 1.0), rng.uniform(0.5, 0.7)
    sway = rng.normal(size=2) * 0.15 * f["sag"]

    def form(uv: np.ndarray) -> np.ndarray:
        a, s = uv[..., 0] * np.pi, (1 - uv[..., 1]) / 2
        r = 0.5 * (1 - (1 - low) * np.minimum(1.6 * s, 1) + 0.06 * s * np.cos(3 * a + 2))
        return np.stack([r * np.cos(a) + sway[0] * s**2, r * np.sin(a) + sway[1] * s**2, -long * s], -1)

    sheet = _sheet(rng, {**f, "cells": cells, "torn": False}, form)
    radius = rng.uniform(0.009, 0.016)
    colour = colour_of_tone(rng, "white" if rng.random() < 0.6 else f["tone"])
    uv = _zigzags(cells, 6, 0.0, 7)
    strands = _yarn(rng, sheet, uv, 0.0, radius, colour, 2, 0.3 * f["fuzz"])
    meshes = {
        "second": [swept(circle(64, 0.51, 0.02), 0.022, 12, True)],
        "thread": [_knots(sheet, uv[:, ::7].reshape(-1, 2), 1.6 * radius)],
    }
    if rng.random() < 0.6:
        meshes["cloth"] = [box((1.7, 0.04, 1.1), (0, 0.75, 0.42))]
        frame = rounded(
            np.array([[-0.28, 0.72, 0.05], [0.28, 0.72, 0.05], [0.28, 0.72, 0.45], [-0.28, 0.72, 0.45]]), 0.01, True
        )
        meshes["second"] += [swept(frame, 0.018, 6, True), box((0.25, 0.22, 0.04), (0, 0.62, 0))]
    return Pieces(meshes, strands)


def _web(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """An orb web: spokes to a ragged frame and a capture spiral of straight threads that sag a little."""
    spokes = int(rng.integers(14, 30))
    angle = np.sort(2 * np.pi * (np.arange(spokes) + rng.uniform(-0.3, 0.3, spokes)) / spokes)
    reach = rng.uniform(0.75, 1.0, spokes)
    centre = rng.normal(size=2) * 0.08
    radius = rng.uniform(0.002, 0.0045)
    sheet = _sheet(
        rng, {**f, "irregular": 0.0, "form": "flat"}, _form(rng, "wavy" if f["sag"] > 0.2 else "flat", 0.2 * f["sag"])
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
        strands += _yarn(rng, sheet, uv, 0.0, radius, np.array([0.75, 0.77, 0.8]))
    corners = np.array([way[i] * reach[i] for i in range(0, spokes, 3)])
    edge = np.stack([np.linspace(a, b, 14) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
    strands += _yarn(rng, sheet, edge, 0.0, 1.5 * radius, np.array([0.7, 0.72, 0.75]))
    meshes: dict[str, list[Mesh]] = {}
    if rng.random() < 0.4:  # dew
        at = lines[1][rng.random(len(lines[1])) < 0.35, 7]
        meshes["second"] = [_knots(sheet, at, 4 * radius)] if len(at) else []
    return Pieces(meshes, strands)


def _gauze(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """An open plain weave whose threads cross over and under."""
    sheet = _sheet(rng, f)
    cells = min(2 * f["cells"], 60)
    radius = _thread_radius(cells, f["openness"])
    one, two = colour_of_tone(rng, f["tone"]), colour_of_tone(rng, f["tone"])
    two = one if rng.random() < 0.7 else two
    strands = []
    for across, colour in ((True, one), (False, two)):
        uv = _rows(cells, 3 * cells + 1, across)
        t = (uv[..., 0 if across else 1] + 1) / 2 * cells
        sign = (-1.0) ** np.arange(cells)[:, None] * (1 if across else -1)
        uv = uv + 0.15 / cells * rng.normal(size=(cells, 1, 1)) * f["irregular"]
        strands += _yarn(rng, sheet, uv * 1.04, sign * radius * np.sin(np.pi * t), radius, colour, 1, 0.4 * f["fuzz"])
    return Pieces({}, strands)


def _stitches(stitches: int, rows: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """uv paths [rows, K, 2] and heights [rows, K] of stockinette; 14 steps a stitch.

    Each row is a meander whose loops widen at their heads, behind at the head and foot and in front on the way.
    """
    t = np.linspace(0, 2 * np.pi * stitches, 14 * stitches + 1)
    u = 2 * (t / (2 * np.pi) + 0.17 * np.sin(2 * t)) / stitches - 1
    v = (np.arange(rows)[:, None] + 0.5 - 0.82 * np.cos(t)) / rows * 2 - 1
    return np.stack([np.broadcast_to(u, v.shape), v], -1), 1.3 * radius * np.cos(2 * t) + 0 * v


def _knit(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Stockinette: rows of yarn loops, each drawn through the row below."""
    sheet = _sheet(rng, {**f, "irregular": 0.4 * f["irregular"]})
    stitches = max(8, min(f["cells"], 26))
    rows = round(stitches * rng.uniform(0.9, 1.4))
    pitch = 2 / stitches
    radius = pitch * (0.10 + 0.16 * (1 - f["openness"]) / 0.45)
    radius = min(radius, 0.24 * pitch)
    uv, w = _stitches(stitches, rows, radius)
    colour = colour_of_tone(rng, f["tone"])
    other = any_colour(rng)
    style = rng.integers(3)
    if style == 0:
        colours = np.broadcast_to(colour, (rows, 3))
    elif style == 1:
        band = int(rng.integers(1, 8))
        colours = np.where(np.arange(rows)[:, None] // band % 2, colour, other)
    else:
        mix = 0.5 + 0.5 * np.sin(np.linspace(0, rng.uniform(2, 9), rows))[:, None]
        colours = mix * colour + (1 - mix) * other
    return Pieces({}, _yarn(rng, sheet, uv, w, radius, colours, int(rng.integers(2, 4)), f["fuzz"]))


def _doily(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Crochet in the round: rings of arches, each standing on the tops of the last."""
    sheet = _sheet(
        rng,
        {**f, "irregular": 0.3 * f["irregular"], "torn": False},
        _form(rng, "lying" if rng.random() < 0.6 else "hanging", f["sag"]),
    )
    rings, petals = int(rng.integers(5, 10)), int(rng.choice([6, 8, 10, 12]))
    radius = 0.35 / rings * (0.05 + 0.12 * (1 - f["openness"]) / 0.45) * 2.2
    edges = np.linspace(0.08, 1.0, rings + 1)
    number, phase = petals, 0.0
    colour = colour_of_tone(rng, f["tone"] if rng.random() < 0.5 else "white")
    strands = []

    def draw_paths(r: np.ndarray, a: np.ndarray, plies: int = 2) -> None:
        uv = np.stack([r * np.cos(a), r * np.sin(a)], -1)
        strands.extend(_yarn(rng, sheet, uv, 0.0, radius, colour, plies, 0.0))

    for k in range(rings):
        low, high = edges[k], edges[k + 1]
        if number / low < 60 and k and rng.random() < 0.5:
            number *= 2
        t = np.linspace(0, 1, 22)[None]
        start = (phase + np.arange(number) / number)[:, None]
        kind = rng.integers(4) if k < rings - 1 else 4
        wide = 2 * np.pi / number
        if kind == 0:  # posts
            posts = 2 * number
            a = 2 * np.pi * (phase + np.arange(posts) / posts)[:, None] + 0 * t
            draw_paths(low + (high - low) * t + 0 * a, a)
        elif kind == 1:  # arches
            draw_paths(low + (high - low) * np.sin(np.pi * t) ** 0.7 + 0 * start, 2 * np.pi * start + wide * t)
        elif kind == 2:  # crossing arches
            for half in (0, 0.5):
                draw_paths(
                    low + (high - low) * np.sin(np.pi * t) + 0 * start,
                    2 * np.pi * start + wide * (1.5 * (t - 0.5) + half),
                )
        elif kind == 3:  # fans
            for lean in np.linspace(-0.42, 0.42, 5):
                draw_paths(low + (high - low) * t + 0 * start, 2 * np.pi * start + wide * lean * t)
        else:  # the scalloped rim with picots
            a = 2 * np.pi * start + wide * t
            r = low + (high - low) * np.sin(np.pi * t) ** 0.6
            draw_paths(r + 0.15 * (high - low) * np.abs(np.sin(5 * np.pi * t)) + 0 * start, a)
            draw_paths(0 * a + low + 0.6 * (high - low) * np.sin(np.pi * t), a)
        turn = np.linspace(0, 2 * np.pi, 90)[None]
        if kind != 4:
            draw_paths(0 * turn + high, turn, 2)
        if kind in (1, 2):
            phase += 0.5 / number
    turn = np.linspace(0, 2 * np.pi, 40)[None]
    draw_paths(0 * turn + edges[0], turn)
    return Pieces({}, strands)


def coverage(field: np.ndarray, openness: float, inside: np.ndarray | None = None, soft: float = 0.03) -> np.ndarray:
    """Opacity [h, w] in [0, 1] that is 1 where `field` is low, with `openness` of it (of what is `inside`) open.

    `soft` is the width of the rim in standard deviations of the field.
    """
    level = np.quantile(field if inside is None else field[inside], 1 - openness)
    opacity = np.clip(0.5 + (level - field) / (soft * field.std()), 0, 1)
    return opacity if inside is None else np.where(inside, opacity, 0.0)


def _lace_field(rng: np.random.Generator, cells: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(how far from a thread [size, size], where the lace is): a fine ground, flowers on it, a scalloped edge."""
    v, u = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size, indexing="ij")

    def hexagons(fine: float) -> np.ndarray:
        turns = (np.cos(2 * np.pi * fine * (u * np.cos(a) + v * np.sin(a))) for a in (0, np.pi / 3, 2 * np.pi / 3))
        return sum(turns) / 3  # 1 in the middle of a hole, -0.5 on the threads

    repeats = int(rng.integers(2, max(3, cells // 4 + 1)))
    petals, style = int(rng.integers(5, 10)), int(rng.integers(3))
    fine = float(np.clip(2 * cells, 18, 44))
    field = hexagons(fine)
    row = np.round(v * repeats)
    dy = v * repeats - row
    column = u * repeats - 0.5 * (row % 2)
    dx = column - np.round(column)  # from the nearest flower
    r, a = np.hypot(dx, dy), np.arctan2(dy, dx)
    wide = rng.uniform(0.24, 0.34)
    petal = wide * (0.55 + 0.45 * np.abs(np.cos(petals * a / 2)) ** 0.7)
    filling = (
        hexagons(1.6 * fine) - 0.35 if style == 0 else np.sin((60 if style == 1 else 40) * r + 2 * style * a) - 0.3
    )
    field = np.where(r < petal, filling, field)
    rib = np.abs(np.sin(petals * a / 2)) * r < 0.012
    field = np.where((np.abs(r - petal) < 0.025) | (rib & (r < petal)) | (np.abs(r - 0.09) < 0.025), -1.5, field)
    field = np.where(r < 0.06, 2.0, field)
    vine = np.abs(dy - 0.3 * np.sin(2 * np.pi * dx)) < 0.02
    field = np.where(vine & (r > petal), -1.5, field)
    edge = 0.1 - 0.03 - 0.04 * np.abs(np.sin(np.pi * u * repeats * 2))
    both = rng.random() < 0.5
    near = np.minimum(v, 1 - v) if both else v
    field = np.where(np.abs(near - edge - 0.008) < 0.008, -1.5, field)
    field = np.where(np.abs(near - 0.13) < 0.006, -1.5, field)
    eye = np.hypot((u * repeats * 4) % 1 - 0.5, (near - 0.105) * repeats * 4)
    field = np.where(eye < 0.25, 2.0, np.where(eye < 0.38, -1.5, field))
    return field + 0.02 * rng.random(field.shape), near > edge


def _lace(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Lace as a sheet whose opacity is drawn."""
    sheet = _sheet(rng, {**f, "irregular": 0.5 * f["irregular"]})
    field, inside = _lace_field(rng, f["cells"], 512)
    opacity = coverage(field, 0.8 * f["openness"], inside, 0.3)
    t = np.linspace(-1, 1, 90)
    uv = np.stack(np.meshgrid(t, t, indexing="ij"), -1)
    opacity = np.where(
        sheet.keep(np.stack(np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512)), -1)), opacity, 0.0
    )
    mesh = surface(sheet.place(uv, 0.0))
    colour = colour_of_tone(rng, f["tone"])
    shiny = {"kind": "diffuse", "colour": np.clip(colour, 0.01, 0.9), "opacity": opacity.astype(np.float32)}
    return Pieces({"own": [replace(mesh, material=shiny)]}, [])


def _hole_field(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """High in the middle of each hole [size, size]: round, square, slotted, hexagonal or ornamental."""
    v, u = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size, indexing="ij")
    kind = rng.integers(6)
    x, y = u * cells, v * cells
    if kind in (1, 4):  # staggered
        y = y / (0.5 * np.sqrt(3))
        y = y * round(cells / 0.866) / (cells / 0.866)
        x = x + 0.5 * (np.floor(y) % 2)
    if kind == 3:
        y = y * 0.33
        x = x + 0.5 * (np.floor(y) % 2)
    dx, dy = x % 1 - 0.5, y % 1 - 0.5
    if kind == 3:  # slots: the distance to a short line
        return -np.hypot(dx, np.maximum(np.abs(dy) * 3 - 0.9, 0))
    if kind in (0, 1):
        return -np.hypot(dx, dy)
    if kind == 2:
        return -np.maximum(np.abs(dx), np.abs(dy))
    if kind == 4:
        return -np.maximum.reduce([np.abs(dx), np.abs(0.5 * dx + 0.866 * dy), np.abs(0.5 * dx - 0.866 * dy)])
    a, lobes = np.arctan2(dy, dx), int(rng.integers(3, 7))
    return -np.hypot(dx, dy) / (0.7 + 0.3 * np.cos(lobes * a))


def _perforated(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """A sheet of metal with holes: a plate, a screen, or closed to a bin or shade."""
    smooth = {**f, "irregular": 0.0}
    opacity = coverage(_hole_field(rng, f["cells"], 512), f["openness"])
    closed = rng.random() < 0.4
    if closed:
        low, high, tall = rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.2)

        def form(uv: np.ndarray) -> np.ndarray:
            a, s = np.pi * uv[..., 0], (1 + uv[..., 1]) / 2
            r = low + (high - low) * s
            return np.stack([r * np.cos(a), r * np.sin(a), tall * (2 * s - 1) * 0.8], -1)

        sheet = _sheet(rng, smooth, form)
    else:
        sheet = _sheet(rng, {**smooth, "form": f["form"] if f["form"] in ("flat", "curled", "wavy") else "curled"})
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512)), -1)
    opacity = np.where(sheet.keep(grid), opacity, 0.0)
    t = np.linspace(-1, 1, 80)
    mesh = surface(sheet.place(np.stack(np.meshgrid(t, t, indexing="ij"), -1), 0.0))
    metal = finish(rng, f["finish"], f["tone"], f["roughness"]) | {"opacity": opacity.astype(np.float32)}
    edges = [np.stack([t, 0 * t + s], 1) for s in (-1, 1)]
    if not closed:
        edges += [np.stack([0 * t + s, t], 1) for s in (-1, 1)]
    rims = [_wire(sheet, e[None], 0.0, 0.02, 8) for e in edges]
    meshes = {"own": [replace(mesh, material=metal)], "bar": rims}
    if closed and rng.random() < 0.5:
        meshes["bar"].append(lathe(np.array([[0, -0.8 * tall], [low, -0.8 * tall]]), 48))
    return Pieces(meshes, [])


def _posts(rng: np.random.Generator, sheet: Sheet, meshes: dict[str, list[Mesh]]) -> None:
    """A frame of tubes around a sheet, or a few posts."""
    thick = rng.uniform(0.018, 0.035)
    t = np.linspace(-1.02, 1.02, 40)
    edges = [np.stack([t, 0 * t + s], 1) for s in (-1.02, 1.02)]
    number = int(rng.integers(2, 5))
    posts = [np.stack([0 * t + u, 1.08 * t], 1) for u in np.linspace(-1.02, 1.02, number)]
    if rng.random() < 0.3:
        edges = edges[1:]
    intact = replace(sheet, keep=lambda uv: np.ones(uv.shape[:-1], bool))
    meshes.setdefault("bar", []).append(_wire(intact, np.array(posts), 0.0, thick, 10))
    meshes["bar"].append(_wire(intact, np.array(edges), 0.0, 0.8 * thick, 10))


def _chain_link(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Chain link: upright zigzag wires, each hooked into its neighbours at the bends."""
    sheet = _sheet(rng, {**f, "form": f["form"] if f["form"] in ("flat", "wavy", "curled", "hanging") else "flat"})
    cells = min(f["cells"], 24)
    rows = max(3, round(cells * rng.uniform(0.7, 1.1)))
    radius = min(_thread_radius(cells, f["openness"]) * 0.6, 0.014)
    uv = _zigzags(cells, 2 * rows, 0.0, 6)
    t = np.linspace(0, 2 * rows, 12 * rows + 1)
    # the bends overlap by a wire, one passes in front, the other behind
    middle = ((np.arange(cells)[:, None] + 0.5) / cells) * 2 - 1
    uv[..., 0] = middle + (uv[..., 0] - middle) * (1 + 1.6 * radius * cells)
    w = 1.1 * radius * np.sin(np.pi * t)[None] * np.ones((cells, 1))
    meshes = {"wire": [_wire(sheet, uv, w, radius, 5)]}
    if f["form"] in ("flat", "curled") or rng.random() < 0.2:
        _posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def _welded(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Welded or crimped wire mesh of squares."""
    sheet = _sheet(rng, f)
    cells, radius = f["cells"], _thread_radius(f["cells"], f["openness"])
    crimp = rng.random() < 0.3
    meshes: dict[str, list[Mesh]] = {"wire": []}
    for across in (True, False):
        uv = _rows(cells, 4 * cells + 1 if crimp else cells + 16, across)
        t = (uv[..., 0 if across else 1] + 1) / 2 * cells
        sign = 1 if across else -1
        w = sign * radius * (((-1.0) ** np.arange(cells)[:, None]) * np.sin(np.pi * t) if crimp else 0.9)
        meshes["wire"].append(_wire(sheet, uv, w + 0 * t, radius, 6))
    if f["form"] in ("flat", "curled", "wavy") and rng.random() < 0.7:
        _posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def _chicken_wire(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Hexagonal wire netting; the wires are twisted round each other where they run together."""
    sheet = _sheet(rng, f)
    cells = f["cells"]
    rows = max(3, round(0.9 * cells))
    radius = min(_thread_radius(cells, f["openness"]) * 0.4, 0.01)
    uv = _zigzags(cells, rows, 0.4, 10)
    t = np.linspace(0, rows, rows * 10 + 1)
    near = np.abs(((t + 0.5) % 1) - 0.5) < 0.22  # along the twist
    spin = 2 * np.pi * 1.5 * ((t + 0.5) % 1 - 0.5) / 0.44
    phase = np.pi * (np.arange(cells)[:, None] % 2)
    uv[..., 0] += np.where(near, radius * np.cos(spin + phase), 0.0)
    w = np.where(near, radius * np.sin(spin + phase), 0.0)
    meshes = {"wire": [_wire(sheet, uv, w, radius, 5)]}
    if f["form"] in ("flat", "curled") and rng.random() < 0.7:
        _posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def _picket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
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
    """A scroll [30, 3] in the xz plane that starts at the origin."""
    a = np.linspace(0, 2 * np.pi * turns, 30)
    r = size * (1 - 0.85 * a / a[-1])
    path = np.stack([side * (r * np.cos(a) - size), 0 * a, r * np.sin(a)], 1)
    return path


def _railing(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
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


def _trellis(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Crossed laths, as scissors or upright, sometimes an arch."""
    cells = int(np.clip(f["cells"] // 2, 4, 12))
    arch = rng.random() < 0.35
    radius = _thread_radius(cells, f["openness"])
    form = (
        (lambda uv: np.stack([0.8 * np.sin(uv[..., 0] * 1.6), 0.5 * uv[..., 1], 0.9 * np.cos(uv[..., 0] * 1.6)], -1))
        if arch
        else _form(rng, "flat", 0)
    )
    sheet = _sheet(rng, {**f, "irregular": 0.3 * f["irregular"]}, form)
    meshes: dict[str, list[Mesh]] = {"board": []}
    for layer, across in enumerate((True, False)):
        uv = _rows(cells, 60, across)
        if not arch and f["cells"] % 2:  # scissors
            uv = uv @ np.array([[0.7071, 0.7071], [-0.7071, 0.7071]]) * 1.35
        cut = replace(sheet, keep=lambda p, keep=sheet.keep: keep(p) & (np.abs(p) <= 1.0).all(-1))
        meshes["board"].append(_wire(cut, uv, (layer - 0.5) * radius, radius, 4))
    edge = rounded(np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 1.02, 0.01, True, 3)[:, :2]
    edge = np.concatenate([np.linspace(a, b, 20) for a, b in zip(edge, np.roll(edge, -1, 0), strict=True)])
    meshes["board"].append(
        _wire(replace(sheet, keep=lambda p: np.ones(p.shape[:-1], bool)), edge[None], 0.0, 1.2 * radius, 4)
    )
    return Pieces(meshes, [])


def _grille(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Fan guards, drains and vents: rings, spirals or curved rays within a rim."""
    rings, rays = int(np.clip(f["cells"], 6, 24)), int(rng.choice([4, 6, 8, 12, 24, 36, 60]))
    radius = float(np.clip((1 - f["openness"]) / rings / 2, 0.004, 0.03))
    deep, swirl = rng.uniform(0, 0.35), rng.uniform(-1.5, 1.5) * (rng.random() < 0.5)
    heart = rng.uniform(0.1, 0.3)

    def dome(r: np.ndarray) -> np.ndarray:
        return deep * (1 - r**2)

    meshes: dict[str, list[Mesh]] = {"wire": []}
    if rng.random() < 0.5 and rays < 24:
        r = np.linspace(heart, 1, rings)
    else:
        r = np.array([heart, *rng.choice([0.6, 0.45, 0.8], int(rng.integers(0, 3)), replace=False), 1.0])
        rays = max(rays, 24)
    meshes["wire"].append(swept(np.array([circle(72, a, dome(a)) for a in r]), radius, 6, True))
    t = np.linspace(heart, 1, 24)
    a = 2 * np.pi * np.arange(rays)[:, None] / rays + swirl * (t - heart)[None]
    ray = np.stack([t * np.cos(a), t * np.sin(a), np.broadcast_to(dome(t), a.shape)], -1)
    meshes["wire"] += [
        swept(ray, radius * (1.4 if rays < 12 else 0.9), 6),
        swept(circle(72), 2.5 * radius + 0.01, 10, True),
    ]
    if rng.random() < 0.6:
        badge = lathe(np.array([[0, 0.04], [0.8 * heart, 0.04], [heart, 0.01], [heart, -0.02], [0, -0.02]]), 32)
        meshes["second"] = [placed(badge, None, (0, 0, deep))]
    if rng.random() < 0.35:  # the back half too
        meshes["wire"] += [placed(m, np.diag([1, 1, -1.0])) for m in meshes["wire"][:2]]
    turn = rotation((1, 0, 0), rng.uniform(50, 110))
    return _turned(Pieces(meshes, []), rotation((0, 0, 1), rng.uniform(-40, 40)) @ turn)


def _basket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Wicker: upright stakes and weavers that pass before and behind them in turn; a rim, sometimes a handle."""
    stakes = int(np.clip(2 * f["cells"], 18, 44)) // 2 * 2 + 1  # odd, so that one weaver alternates round by round
    tall, low, belly = rng.uniform(0.5, 1.0), rng.uniform(0.45, 0.75), rng.uniform(-0.05, 0.3)
    flare = rng.uniform(-0.15, 0.35)
    stretch = rng.uniform(0.6, 1.0) if rng.random() < 0.4 else 1.0
    open_ = f["openness"]
    radius = 0.8 / stakes * (1.5 - open_)
    rounds = max(4, round(tall / (2 * radius) * (1.12 - open_) * 0.9))
    rounds = min(rounds, 34)

    def profile(s: np.ndarray) -> np.ndarray:
        return low + belly * np.sin(np.pi * s) + flare * s

    def at(a: np.ndarray, s: np.ndarray, w: Any) -> np.ndarray:
        r = profile(s) + w
        return np.stack([r * np.cos(a), stretch * r * np.sin(a), tall * (s - 0.5) + 0 * a], -1)

    s = np.linspace(0, 1, 24)
    a = 2 * np.pi * np.arange(stakes)[:, None] / stakes
    meshes = {"cane": [swept(at(a + 0 * s, s + 0 * a, 0.0), 1.1 * radius, 6)]}
    turn = np.linspace(0, 2 * np.pi * rounds, min(stakes * 4 * rounds, 4200))
    level = (turn / turn[-1]) * 0.96 + 0.02
    gaps = rng.random() < 0.3  # open work in the middle
    if gaps:
        level = np.where(level < 0.5, level * 0.7, 1 - (1 - level) * 0.7)
    jitter = 0.3 * f["irregular"] * radius * waves(rng, np.stack([turn, 0 * turn, 0 * turn], 1), 0.7)
    path = at(turn, level, 1.3 * radius * np.cos(turn * stakes / 2) + jitter)
    pieces = np.array_split(np.arange(len(path)), max(rounds, 1))
    weavers = [swept(path[i[0] : i[-1] + 2], 0.95 * radius, 6) for i in pieces]
    meshes["weaver"] = weavers
    for h, k in ((0.0, 1.4), (1.0, 2.0)):
        angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
        phases = [
            at(angle, 0 * angle + h, 1.4 * radius * np.cos(12 * angle + p))
            + np.stack([0 * angle, 0 * angle, 1.4 * radius * np.sin(12 * angle + p)], 1)
            for p in (0, 2.1, 4.2)
        ]
        meshes["cane"].append(swept(np.array(phases), k * 0.8 * radius, 6, True))
    spread = np.linspace(0.02, low, 12)
    base = np.array([circle(48, r, -tall / 2) * (1, stretch, 1) for r in spread])
    meshes["weaver"].append(swept(base, 0.45 * low / 12, 6, True))
    if rng.random() < 0.55:
        b = np.linspace(0, np.pi, 40)
        r = profile(np.ones(1))[0]
        bow = np.stack([r * np.cos(b), 0 * b, tall / 2 + rng.uniform(0.6, 1.1) * np.sin(b)], 1)
        _, n, q = transported(bow[None])
        c = np.linspace(0, 26, 40)[:, None]
        meshes["cane"] += [
            swept(bow + 0.7 * radius * (np.cos(c + p) * n[0] + np.sin(c + p) * q[0]), 1.1 * radius, 6)
            for p in (0, 2.1, 4.2)
        ]
    return Pieces(meshes, [])


def _racket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
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
        strands.append(_pieces(points, kept, radius, np.broadcast_to(colour, (len(at), 3))))
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
    return _turned(
        Pieces(meshes, strands),
        random_rotation(rng) if rng.random() < 0.5 else rotation((0, 0, 1), rng.uniform(-60, 60)),
    )


PATTERNS: dict[str, Callable[[np.random.Generator, dict[str, Any]], Pieces]] = {
    "net": _net,
    "square_net": _square_net,
    "goal": _goal,
    "hoop": _hoop,
    "web": _web,
    "gauze": _gauze,
    "knit": _knit,
    "doily": _doily,
    "lace": _lace,
    "chain_link": _chain_link,
    "welded": _welded,
    "chicken_wire": _chicken_wire,
    "picket": _picket,
    "railing": _railing,
    "trellis": _trellis,
    "perforated": _perforated,
    "grille": _grille,
    "basket": _basket,
    "racket": _racket,
}


def _grained(rng: np.random.Generator, colour: np.ndarray) -> dict[str, Any]:
    """A wooden or cane surface with streaks along it."""
    v, u = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 64), indexing="ij")
    streak = waves(rng, np.stack([1.5 * u, 30 * v, 0 * u], -1), 1.2, terms=12)
    texture = colour * np.exp(0.22 * streak + 0.08 * rng.normal(size=u.shape))[..., None]
    return {"kind": "plastic", "colour": np.clip(texture, 0.004, 0.92), "roughness": 0.4}


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A lattice from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    pieces = PATTERNS[f["pattern"]](rng, f)
    tone = colour_of_tone(rng, f["tone"])
    wooden = colour_of_tone(rng, pick(rng, (("brown", 1.0), ("tan", 1.0), ("white", 0.5))))
    materials = {
        "thread": {"kind": "diffuse", "colour": pieces.strands[0].colours[0, 0] if pieces.strands else tone},
        "cloth": {"kind": "diffuse", "colour": colour_of_tone(rng, "white") if rng.random() < 0.6 else any_colour(rng)},
        "second": {"kind": "plastic", "colour": any_colour(rng), "roughness": f["roughness"]},
        "bar": finish(rng, "painted" if rng.random() < 0.5 else "steel", f["tone"], f["roughness"]),
        "wire": finish(rng, f["finish"], f["tone"], f["roughness"]),
        "frame": {"kind": "plastic", "colour": tone, "roughness": f["roughness"]},
        "board": _grained(rng, wooden if rng.random() < 0.7 else tone),
        "cane": _grained(rng, colour_of_tone(rng, "tan" if rng.random() < 0.7 else "brown")),
        "weaver": _grained(rng, colour_of_tone(rng, "tan") if rng.random() < 0.75 else shade(rng, tone, 0.3)),
    }
    meshes = []
    for role, several in pieces.meshes.items():
        several = [m for m in several if len(m.faces)]
        if role == "own":
            meshes += several
        elif several:
            meshes.append(replace(join(*several), material=materials[role]))
    turn = rotation((0, 0, 1), rng.uniform(-25, 25))
    whole = _turned(Pieces({"all": meshes}, pieces.strands), turn)
    drawn = {"materials": [m.material["kind"] for m in meshes], "strands": sum(len(s.points) for s in whole.strands)}
    return fitted(Subject(whole.meshes["all"], whole.strands, drawn=drawn))
