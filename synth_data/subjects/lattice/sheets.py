"""Sheets on which patterns are laid out: wires, yarn and knots along paths over them, except where they are torn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.subjects.meshes import Mesh, Strands, ball, placed
from synth_data.subjects.repeated import copied, swept, transported, unit

CHUNK = 8  # control points of a piece of yarn; neighbours share three, so that the spline is continuous
Place = Callable[[np.ndarray, Any], np.ndarray]
Keep = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sheet:
    """A surface on which patterns are laid out.

    `place(uv, w)` maps coordinates [..., 2] in [-1, 1] and heights [...] above the sheet to points [..., 3];
    `keep(uv)` [...] is False where it is torn.
    """

    place: Place
    keep: Keep


@dataclass(frozen=True)
class Pieces:
    """The parts of a pattern: meshes by role (which decides the material), and yarn."""

    meshes: dict[str, list[Mesh]]
    strands: list[Strands]


def turned(pieces: Pieces, turn: np.ndarray) -> Pieces:
    """The pieces rotated by a [3, 3] matrix."""
    meshes = {role: [placed(m, turn) for m in several] for role, several in pieces.meshes.items()}
    return Pieces(meshes, [replace(s, points=s.points @ turn.T) for s in pieces.strands])


def sheet_form(rng: np.random.Generator, kind: str, sag: float) -> Callable[[np.ndarray], np.ndarray]:
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
        if kind == "hanging":  # held at the top; folds deepen and gather downwards
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
        # lying: over bumps, with hanging edges
        edge = np.maximum(np.abs(u), np.abs(v)) ** 4
        return np.stack([u, v * tall, (0.1 + 0.4 * sag) * bumps(uv) - 0.3 * sag * edge], -1)

    return form


def make_sheet(
    rng: np.random.Generator, f: dict[str, Any], form: Callable[[np.ndarray], np.ndarray] | None = None
) -> Sheet:
    """The sheet that the factors describe, or one with another `form`."""
    form = form or sheet_form(rng, f["form"], f["sag"])
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


def lay_wires(sheet: Sheet, uv: np.ndarray, w: Any, radius: float, sides: int = 6) -> Mesh:
    """Tubes along paths uv [N, K, 2] at heights w on a sheet, except where it is torn."""
    w = np.broadcast_to(np.asarray(w, dtype=np.float64), uv.shape[:2])
    mesh = swept(sheet.place(uv, w), radius, sides)
    kept = sheet.keep(uv)
    rings = np.concatenate([kept[:, :1], kept, kept[:, -1:]], 1).repeat(sides + 1, 1).ravel()
    return replace(mesh, faces=mesh.faces[rings[mesh.faces].all(1)])


def cut_strands(points: np.ndarray, kept: np.ndarray, radius: float, colour: np.ndarray) -> Strands:
    """Long paths [N, K, 3] cut into overlapping strands of CHUNK points, all of which must be `kept` [N, K]."""
    points = np.concatenate([2 * points[:, :1] - points[:, 1:2], points, 2 * points[:, -1:] - points[:, -2:-1]], 1)
    kept = np.concatenate([kept[:, :1], kept, kept[:, -1:]], 1)
    step = CHUNK - 3
    starts = np.arange(0, max(points.shape[1] - 3, 1), step)
    index = np.minimum(starts[:, None] + np.arange(CHUNK), points.shape[1] - 1)
    chunks = points[:, index].reshape(-1, CHUNK, 3)
    kept = kept[:, index].all(-1).ravel()
    # the last piece repeats its end point; a small offset keeps every segment's length above 0
    chunks = chunks + 1e-7 * np.arange(CHUNK)[:, None]
    number = len(chunks)
    shades = np.broadcast_to(colour, (points.shape[0], 3)).repeat(len(starts), 0)
    colours = np.broadcast_to(np.clip(shades, 0.003, 0.95)[:, None], (number, CHUNK - 3, 3))
    return Strands(chunks[kept], np.full((int(kept.sum()), CHUNK), radius), colours[kept])


def lay_yarn(
    rng: np.random.Generator,
    sheet: Sheet,
    uv: np.ndarray,
    w: Any,
    radius: float,
    colour: np.ndarray,
    plies: int = 1,
    fuzz: float = 0.0,
) -> list[Strands]:
    """Yarn along paths uv [N, K, 2] at heights w: `plies` twisted threads, and loose fibres (`fuzz`).

    `colour`: linear [3] or [N, 3].
    """
    w = np.broadcast_to(np.asarray(w, dtype=np.float64), uv.shape[:2])
    points, kept = sheet.place(uv, w), sheet.keep(uv)
    result = []
    if plies == 1:
        result.append(cut_strands(points, kept, radius, colour * np.exp(0.06 * rng.normal(size=(len(points), 1)))))
    else:
        _, n, b = transported(points)
        length = np.cumsum(np.linalg.norm(np.diff(points, axis=1, prepend=points[:, :1]), axis=-1), 1)
        for ply in range(plies):
            a = (length / (7 * radius) * 2 * np.pi + 2 * np.pi * ply / plies)[..., None]
            off = 0.5 * radius * (np.cos(a) * n + np.sin(a) * b)
            tint = colour * np.exp(0.12 * rng.normal(size=(len(points), 1)))
            result.append(cut_strands(points + off, kept, 0.58 * radius, tint))
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


def straight_rows(number: int, points: int, across: bool) -> np.ndarray:
    """Straight uv paths [number, points, 2], the outer ones half a cell from the edges."""
    at, t = (np.arange(number) + 0.5) / number * 2 - 1, np.linspace(-1, 1, points)
    u, v = (np.broadcast_to(a, (number, points)) for a in (t[None], at[:, None]))
    return np.stack([u, v] if across else [v, u], -1)


def thread_radius(cells: int, openness: float) -> float:
    """The radius at which a square grid of `cells` over a width of 2 has this openness, (1 - diameter / pitch)^2."""
    return float((1 - np.sqrt(openness)) / cells)


def zigzags(cells: int, rows: int, dwell: float, fine: int) -> np.ndarray:
    """Upright uv paths [cells, K, 2] that touch their neighbours alternately; with `dwell` the cells are hexagons."""
    t = np.linspace(0, rows, rows * fine + 1)
    whole = np.floor(t).astype(int)
    part = np.clip((t - whole - dwell / 2) / max(1 - dwell, 1e-6), 0, 1)
    i = np.arange(cells)[:, None]
    side = 0.5 * (-1.0) ** (i + whole[None])
    x = i + 0.5 + side * (1 - 2 * part[None])
    return np.stack([2 * x / cells - 1, np.broadcast_to(2 * t / rows - 1, x.shape)], -1)


def place_knots(sheet: Sheet, uv: np.ndarray, radius: float) -> Mesh:
    """Small balls at uv [N, 2], except where the sheet is torn."""
    uv = uv[sheet.keep(uv)]
    if not len(uv):
        return ball(1e-3, sheet.place(np.zeros(2)), 4)
    turns = np.broadcast_to(np.eye(3), (len(uv), 3, 3))
    return copied(ball(radius, rows=5), turns, sheet.place(uv, 0.0))
