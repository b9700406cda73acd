"""Cloth: hanging, flying, draped, crumpled, folded and worn sheets, with various edges and weaves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import chance, count, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Strands,
    Subject,
    ball,
    box,
    join,
    placed,
    random_rotation,
    rod,
    rotation,
    surface,
    tube,
    waves,
)
from synth_data.subjects.solids import folded

POINTS = 96  # along the shorter side of a sheet


@dataclass(frozen=True)
class Factors:
    """Variation of a piece of cloth. Lengths are in subject radii."""

    form: tuple = shares(
        curtain=1, flag=1, hung=1, draped=1.2, crumpled=0.8, folded=0.6, scarf=1, ribbon=0.7, shirt=0.9, dress=1
    )
    """how the cloth hangs, lies or is cut"""
    folds: tuple = count(3, 11, least=1, most=60)
    """number of folds across the cloth"""
    depth: tuple = span(0.3, 1.2, least=0.0, most=1.5)
    """steepest angle of the folds, in radians from the sheet's plane"""
    wrinkles: tuple = span(0.0, 0.012, most=0.2)
    """height of the small creases"""
    edge: tuple = shares(straight=1.5, scalloped=0.5, ragged=0.6, fringe=0.8, frayed=0.6)
    """edges: cut, scalloped, torn, with tassels, or with loose threads all around"""
    fringe: tuple = span(0.04, 0.25, least=0.005, most=1, log=True)
    """length of tassels; loose threads are half as long"""
    threads: tuple = count(60, 400, least=1, most=20_000)
    """number of tassels or loose threads along each such edge"""
    thread_radius: tuple = span(0.0015, 0.004, least=0.0002, most=0.05, log=True)
    """radius of tassels and threads"""
    sheer: float = chance(0.3)
    """whether the cloth is sheer, so that the background is seen through it"""
    cover: tuple = span(0.15, 0.75, least=0.01, most=1)
    """share of a sheer cloth's area that is thread"""
    weave: tuple = shares(even=1, gauze=1, devore=0.7, stripes=0.5)
    """what is sheer: all of it, the gaps between threads, all but dense patches, or every second band"""
    holes: tuple = count(0, 0, most=100)
    """number of moth holes"""
    pattern: tuple = shares(plain=1.5, stripes=0.7, checks=0.5, tartan=0.5, dots=0.5, print=0.8)
    """woven or printed pattern"""
    pattern_cells: tuple = count(3, 18, least=1, most=256)
    """repeats of the pattern across the sheet"""
    stuff: tuple = shares(cotton=1.5, satin=0.7, felt=0.5, thin=0.8)
    """fabric: matt, shiny, matt with grain, or translucent"""
    tone: tuple = shares(black=0.8, white=1.4, grey=0.8, brown=0.7, tan=0.8, bright=2, pastel=1.2)
    """colour of the cloth"""


@dataclass
class _Piece:
    """Sheets [U, V, 3] of one cloth, rows from top to bottom; `hems`: (edge [N, 3], unit way out [N, 3]) of fringes."""

    sheets: list[np.ndarray]
    hems: list[tuple[np.ndarray, np.ndarray]]
    others: list[Mesh] = field(default_factory=list)


def profile(angle: np.ndarray, length: float) -> np.ndarray:
    """The plane curve [..., N, 2] of `length` with tangent angle [..., N]: sheets over it keep their lengths."""
    step = np.stack([np.cos(angle), np.sin(angle)], -1) * (length / (angle.shape[-1] - 1))
    middle = (step[..., 1:, :] + step[..., :-1, :]) / 2
    return np.concatenate([0 * step[..., :1, :], np.cumsum(middle, -2)], -2)


def _edge(sheet: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """One border of a sheet and the unit way out of it."""
    row, inner = {
        "top": (sheet[0], sheet[2]),
        "bottom": (sheet[-1], sheet[-3]),
        "left": (sheet[:, 0], sheet[:, 2]),
        "right": (sheet[:, -1], sheet[:, -3]),
    }[side]
    way = row - inner
    return row, way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)


def _rippling(rng: np.random.Generator, s: np.ndarray, folds: int) -> np.ndarray:
    """Irregular waves in [-1, 1] along s in [0, 1], `folds` of them."""
    bent = s + 0.35 / folds * np.sin(2 * np.pi * (s * rng.uniform(1, 3) + rng.random()))
    strength = 0.75 + 0.25 * np.sin(2 * np.pi * (s * rng.uniform(0.5, 2.5) + rng.random()))
    return strength * np.sin(2 * np.pi * (folds * bent + rng.random()))


def _curtain(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """Hangs from a rod with folds that open downwards; sometimes gathered by a band."""
    width, height = rng.uniform(1.2, 3.0), rng.uniform(1.3, 1.8)
    t, s = np.linspace(0, 1, POINTS)[:, None], np.linspace(0, 1, 2 * POINTS)[None]
    angle = f["depth"] * (0.75 + 0.25 * t) * _rippling(rng, s, f["folds"])
    plan = profile(angle, width)
    plan = plan - (plan.max(1, keepdims=True) + plan.min(1, keepdims=True)) / 2
    x, y = plan[..., 0], plan[..., 1]
    if rng.random() < 0.35:  # tied
        knot, tight = rng.uniform(0.45, 0.7), rng.uniform(0.25, 0.6)
        near = np.exp(-(((t - knot) / 0.22) ** 2))
        x = x * (1 - tight * near) + rng.choice([-1, 1]) * 0.5 * np.ptp(x) * tight * near
    sheet = np.stack([x, y, height * (0.5 - t) + 0 * s], -1)
    bar = []
    if rng.random() < 0.7:
        end = np.abs(x[0]).max() + 0.1
        bar = [rod((-end, 0, height / 2), (end, 0, height / 2), 0.02)]
        bar += [ball(0.04, (side * end, 0, height / 2), rows=10) for side in (-1, 1)]
    return _Piece([sheet], [_edge(sheet, "bottom")], bar)


def _flag(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """Waves travel out from its pole and grow; the free corner sags. Sometimes a swallowtail or a pennant."""
    width, height = rng.uniform(1.2, 1.7), rng.uniform(0.6, 1.0)
    t, s = np.linspace(0, 1, POINTS)[:, None], np.linspace(0, 1, 2 * POINTS)[None]
    cycles = max(1, f["folds"] // 3)
    phase = 2 * np.pi * (cycles * s - rng.uniform(0.1, 0.5) * t + rng.random())
    angle = 0.8 * f["depth"] * s**0.6 * (np.sin(phase) + 0.35 * np.sin(1.7 * phase + 3 * t))
    plan = profile(angle, width)
    sag = rng.uniform(0, 0.5)
    cut = t
    shape = rng.random()
    if shape < 0.2:  # pennant
        cut = 0.5 + (t - 0.5) * (1 - 0.97 * s)
    z = height * (0.5 - cut) - sag * plan[..., 0] ** 2 / width
    sheet = np.stack([plan[..., 0], plan[..., 1], z], -1)
    if 0.2 <= shape < 0.35:  # swallowtail: the middle of the free end is drawn in
        sheet = _resampled(sheet, 1 - 0.3 * (1 - 2 * np.abs(t[:, 0] - 0.5)))
    pole = []
    if rng.random() < 0.7:
        down = rng.uniform(0.2, 0.9)
        pole = [rod((-0.02, 0, height / 2 + 0.1), (-0.02, 0, -height / 2 - down), 0.022)]
        pole.append(ball(0.05, (-0.02, 0, height / 2 + 0.12), rows=10))
    return _Piece([sheet], [_edge(sheet, "right")], pole)


def _resampled(sheet: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A sheet whose rows are cut off at the fractions `ends` [U] in (0, 1]."""
    rows, columns = sheet.shape[:2]
    at = ends[:, None] * np.arange(columns)[None]
    k = np.minimum(at.astype(int), columns - 2)
    w, row = (at - k)[..., None], np.arange(rows)[:, None]
    return sheet[row, k] * (1 - w) + sheet[row, k + 1] * w


def relaxed(
    points: np.ndarray,
    lengths: tuple[float, float],
    fixed: np.ndarray,
    outside: Callable[[np.ndarray], np.ndarray],
    steps: int,
    fall: float,
    passes: int,
) -> np.ndarray:
    """A sheet [U, V, 3] after it fell for `steps`, by position-based dynamics (Mueller et al. 2007, eq. 10 and 11).

    lengths: rest lengths between rows and between columns. fixed: bool [U, V], points that do not move.
    outside: pushes points [..., 3] out of what the sheet lies on. fall: what gravity adds to a step's move.
    Threads and diagonals keep their lengths, second neighbours are only kept apart (bending); all corrections of a
    pass are averaged.
    """
    p, old = points.copy(), points
    free = np.where(fixed, 0.0, 1.0)[..., None]
    down, across = lengths
    pairs = []
    ways = ((1, 0, down), (0, 1, across), (1, 1, 0), (1, -1, 0), (2, 0, 2 * down), (0, 2, 2 * across))
    rows, columns = p.shape[:2]
    for i, j, rest in ways:
        one = (slice(0, rows - i), slice(max(0, -j), columns - max(0, j)))
        two = (slice(i, rows), slice(max(0, j), columns + min(0, j)))
        share = 1 / np.maximum(free[one] + free[two], 1)
        pairs.append((one, two, rest or np.hypot(down, across), 0.9 if rest else 0.2, share, max(i, j) == 2))
    for _ in range(steps):
        move = 0.95 * (p - old)
        old = p
        p = p + free * (move - np.array([0, 0, fall]))
        for _ in range(passes):
            push = np.zeros_like(p)
            for one, two, rest, stiff, share, bending in pairs:
                d = p[two] - p[one]
                long = np.sqrt(np.einsum("uvk,uvk->uv", d, d))[..., None] + 1e-12
                pull = long - rest
                if bending:
                    pull = 0.2 * np.minimum(pull + 0.3 * rest, 0)
                d *= stiff * pull / long * share
                push[one] += d
                push[two] -= d
            p = p + free * push
        out = np.where(fixed[..., None], p, outside(p))
        old = np.where(out == p, old, out)  # points in contact come to rest
        p = out
    return p


def _fallen(
    rng: np.random.Generator,
    sheet: np.ndarray,
    pinned: Callable[[np.ndarray, np.ndarray], np.ndarray],
    outside: Callable[[np.ndarray], np.ndarray],
    size: tuple[float, float],
) -> np.ndarray:
    """A sheet of `size` (height, width) let fall from [U, V, 3], first on a coarse grid; `pinned(t, s)` says where."""
    from scipy.interpolate import CubicSpline

    # the last passes, without gravity, remove most of the stretch
    for number, steps, fall, passes in ((14, 100, 0.0012, 4), (27, 30, 0.0004, 4), (27, 4, 0.0, 24)):
        shape = [max(round(number * side / min(size)), 4) for side in size]
        for axis in (0, 1):
            old = np.linspace(0, 1, sheet.shape[axis])
            sheet = CubicSpline(old, sheet, axis=axis)(np.linspace(0, 1, shape[axis]))
        t, s = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
        lengths = (size[0] / (shape[0] - 1), size[1] / (shape[1] - 1))
        noise = 0.1 * min(lengths) * rng.normal(size=sheet.shape) * (fall > 0)
        fixed = pinned(t, s)
        start = sheet + np.where(fixed[..., None], 0, noise)
        sheet = relaxed(start, lengths, fixed, outside, steps, fall * min(size), passes)
    for axis in (0, 1):
        old = np.linspace(0, 1, sheet.shape[axis])
        new = np.linspace(0, 1, round(POINTS * size[axis] / min(size)))
        sheet = CubicSpline(old, sheet, axis=axis)(new)
    return outside(sheet)


def _nothing(points: np.ndarray) -> np.ndarray:
    return points


def _hung(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A towel or sheet that hangs from two to five pins, which are closer together than it is wide."""
    size = (rng.uniform(0.8, 1.4), rng.uniform(1.0, 1.8))
    pins, close = int(rng.integers(2, 6)), rng.uniform(0.65, 0.93)
    at = np.linspace(0, 1, pins)
    t, s = np.meshgrid(np.linspace(0, 1, 14), np.linspace(0, 1, 20), indexing="ij")
    x, bulge = size[1] * close * (s - 0.5), 0.2 * (1 - close) * size[1]
    sheet = np.stack([x, bulge * np.sin(np.pi * f["folds"] / 2 * s) * (0.3 + t), size[0] * (0.5 - t)], -1)

    def pinned(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        near = np.zeros(s.shape, bool)
        columns = np.round(at * (s.shape[1] - 1)).astype(int)
        near[0, columns] = True
        return near

    sheet = _fallen(rng, sheet, pinned, _nothing, size)
    line = []
    if rng.random() < 0.6:
        tops = sheet[0, np.round(at * (sheet.shape[1] - 1)).astype(int)]
        reach = np.array([0.25, 0, 0])
        line = [tube(np.concatenate([tops[:1] - reach, tops, tops[-1:] + reach]), 0.008)]
        line += [box((0.035, 0.05, 0.12), top) for top in tops]
    return _Piece([sheet], [_edge(sheet, "bottom")], line)


def _draped(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A cloth thrown over a ball, a box, a post or a rail."""
    kind = int(rng.integers(4))
    half = rng.uniform(0.25, 0.5, 3) * (1, 1, 0.9)
    skin = 0.012

    def outside(p: np.ndarray) -> np.ndarray:
        if kind == 0:  # ball
            far = np.linalg.norm(p, axis=-1, keepdims=True)
            return np.where(far < half[0] + skin, p * (half[0] + skin) / np.maximum(far, 1e-9), p)
        if kind == 1:  # box: out through the nearest face
            inner = half + skin - np.abs(p)
            inside = inner.min(-1, keepdims=True) > 0
            nearest = inner == inner.min(-1, keepdims=True)
            return np.where(inside & nearest, np.copysign(half + skin, p), p)
        axis = np.array([0, 0, 1]) if kind == 2 else np.array([1, 0, 0])
        radius = 0.15 if kind == 2 else 0.1
        tip = np.clip(p @ axis, None if kind == 2 else -2, 0 if kind == 2 else 2)[..., None] * axis
        d = p - tip
        far = np.linalg.norm(d, axis=-1, keepdims=True)
        return np.where(far < radius, tip + d * radius / np.maximum(far, 1e-9), p)

    size = tuple(rng.uniform(1.4, 2.0, 2))
    t, s = np.meshgrid(np.linspace(-0.5, 0.5, 14), np.linspace(-0.5, 0.5, 14), indexing="ij")
    top = (half[0], half[2], 0.15, 0.1)[kind] + skin
    off = rng.uniform(-0.12, 0.12, 2) * (kind < 2)
    # starts as a low tent, so that it folds in the right direction
    high = top - 0.3 * np.maximum(np.hypot(t, s) - 0.2, 0) ** 1.2
    turn = rng.uniform(0, np.pi / 2)
    x, y = size[1] * s + off[0], -size[0] * t + off[1]
    sheet = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y, high], -1)

    def pinned(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        far = np.hypot(t - 0.5, s - 0.5)
        return far == far.min()  # pinned, so that it does not slide off

    sheet = _fallen(rng, sheet, pinned, outside, size)
    low = float(sheet[..., 2].min()) - 0.1
    under = [
        ball(half[0], rows=24),
        box(2 * half),
        join(ball(0.13), rod((0, 0, 0), (0, 0, low), 0.05)),
        rod((-1, 0, 0), (1, 0, 0), 0.085),
    ][kind]
    return _Piece([sheet], [_edge(sheet, side) for side in ("top", "bottom", "left", "right")], [under])


def _crumpled(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A sheet crumpled by random reflections; see `folded`."""
    t, s = np.meshgrid(np.linspace(-1, 1, 150), np.linspace(-1, 1, 150), indexing="ij")
    flat = np.stack([s * rng.uniform(0.9, 1.4), t, 0 * t], -1) @ random_rotation(rng).T
    sheet = folded(rng, flat + rng.uniform(-0.2, 0.2, 3), rng.uniform(0.5, 0.9), int(rng.integers(6, 26)))
    return _Piece([sheet], [_edge(sheet, side) for side in ("top", "bottom", "left", "right")])


def _folded(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A blanket or towel folded in layers, or rolled; the layers do not touch."""
    wide, gap = rng.uniform(0.7, 1.3), rng.uniform(0.04, 0.09)
    if rng.random() < 0.65:
        layers, long = int(rng.integers(2, 7)), rng.uniform(0.6, 1.1)
        turn = np.pi * gap / 2
        whole = layers * long + (layers - 1) * turn
        at = np.linspace(0, whole, 500)
        layer = np.minimum((at // (long + turn)).astype(int), layers - 1)
        part = np.clip((at - layer * (long + turn) - long) / turn, 0, 1)
        angle = np.where(layer % 2, np.pi * (1 - part), np.pi * part)  # turns left and right alternately
    else:
        turns = rng.uniform(1.5, 4)
        a = np.linspace(0, 2 * np.pi * turns, 500)
        # a spiral r = r0 + gap a / 2 pi: even steps in arc length
        r = rng.uniform(0.03, 0.12) + gap * a / (2 * np.pi)
        arc = np.concatenate([[0], np.cumsum((r[1:] + r[:-1]) / 2 * np.diff(a))])
        whole, at = arc[-1], np.linspace(0, arc[-1], 500)
        angle = np.interp(at, arc, a)
    curve = profile(angle, whole)
    s = np.linspace(-0.5, 0.5, 60)[None, :, None]
    sheet = np.concatenate(
        [curve[:, None, :1] + 0 * s, wide * s + 0 * curve[:, None, :1], curve[:, None, 1:] + 0 * s], 2
    )
    sheet = sheet + 0.2 * gap * waves(rng, sheet, 3.0)[..., None] * (0, 0, 1)
    return _Piece([sheet], [_edge(sheet, "top"), _edge(sheet, "bottom")])


def _strip(path: np.ndarray, way: np.ndarray, width: float, columns: int) -> np.ndarray:
    """A band [N, columns, 3] of `width` along path [N, 3], lying in the direction way [N, 3]."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    way = way - along * np.einsum("ij,ij->i", way, along)[:, None]
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    return path[:, None] + width * np.linspace(-0.5, 0.5, columns)[None, :, None] * way[:, None]


def _scarf(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A scarf that lies around a neck or over a hook, its ends hanging, gathered lengthwise."""
    s = np.linspace(0, 1, 260)
    width = rng.uniform(0.25, 0.5)
    if rng.random() < 0.6:  # around: one turn and two ends
        a = np.pi * (2.6 * s - 0.3 - rng.uniform(-0.1, 0.1))
        ring = rng.uniform(0.3, 0.45)
        hang = np.maximum(0.2 - s, 0) / 0.2, np.maximum(s - 0.8, 0) / 0.2
        r = ring * (1 + 0.25 * (s - 0.5))
        path = np.stack([r * np.sin(a), -r * np.cos(a) - 0.1 * (hang[0] + hang[1]), 0.45 + 0.1 * np.cos(a)], 1)
        path[:, 2] -= rng.uniform(0.6, 1.1) * hang[0] ** 1.3 + rng.uniform(0.6, 1.1) * hang[1] ** 1.3
        way = np.stack([0.3 * np.sin(a), -0.3 * np.cos(a), np.ones_like(s)], 1)
        drop = np.maximum(hang[0], hang[1])[:, None]
        way = way * (1 - drop) + drop * np.stack([np.ones_like(s), 0.4 * np.sin(6 * s), 0 * s], 1)
    else:  # over a hook: two ends side by side
        split, top = rng.uniform(0.4, 0.6), 0.06
        angle = np.pi / 2 * (1 - np.clip((s - split) / top, -1, 1))
        curve = profile(angle, rng.uniform(2.2, 3.2))
        path = np.stack([curve[:, 0], 0.05 * np.sin(9 * s), curve[:, 1] - curve[:, 1].max() + 0.8], 1)
        path[:, 0] *= 1 + 4 * (path[:, 2].max() - path[:, 2]) * 0.2
        way = np.stack([np.sin(3 * s), 1 + 0 * s, 0 * s], 1)
    columns = 60
    sheet = _strip(path, way, width, columns)
    # gathered: folds that run along it
    across = np.cross(np.gradient(path, axis=0), sheet[:, -1] - sheet[:, 0])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    ripple = _rippling(rng, np.linspace(0, 1, columns), max(1, f["folds"] // 3))
    sheet = sheet + (0.04 * f["depth"] * ripple)[None, :, None] * across[:, None]
    return _Piece([sheet], [_edge(sheet, "top"), _edge(sheet, "bottom")])


def _ribbon(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """One to three narrow bands that curl and twist through the air."""
    sheets, hems = [], []
    for _ in range(int(rng.integers(1, 4))):
        s = np.linspace(0, 1, 300)[:, None]
        k = rng.integers(1, 4, 3)
        path = 0.75 * np.cos(2 * np.pi * (k * s * rng.uniform(0.4, 0.9, 3) + rng.random(3))) * rng.uniform(0.5, 1, 3)
        spin = 2 * np.pi * (rng.uniform(-3, 3) * s + rng.random())
        way = np.concatenate([np.cos(spin), np.sin(spin), 0.4 + 0 * s], 1)
        sheet = _strip(path, way, rng.uniform(0.06, 0.22), 16)
        sheets.append(sheet)
        hems += [_edge(sheet, "top"), _edge(sheet, "bottom")]
    return _Piece(sheets, hems)


def _hanger(rng: np.random.Generator, wide: float, top: float) -> list[Mesh]:
    """A wire hanger whose hook ends at `top` + 0.3."""
    a = np.linspace(-0.5 * np.pi, np.pi, 20)
    hook = np.stack([0.07 * np.cos(a), 0 * a, top + 0.22 + 0.07 * np.sin(a)], 1)
    frame = np.array([[0, 0, top + 0.1], [wide, 0, top - 0.06], [wide, 0, top - 0.1], [-wide, 0, top - 0.1]])
    frame = np.concatenate([frame, [[-wide, 0, top - 0.06], [0, 0, top + 0.1], [0, 0, top + 0.15]], hook])
    return [tube(frame, 0.014)]


def _worn(
    rng: np.random.Generator, f: dict[str, Any], heights: np.ndarray, widths: np.ndarray, thick: float, flare: float
) -> np.ndarray:
    """A garment's body, a tube [U, V, 3] with half widths at heights; its folds open below by `flare`."""
    from scipy.interpolate import PchipInterpolator

    t = np.linspace(0, 1, 2 * POINTS)
    z = np.interp(t, np.linspace(0, 1, len(heights)), heights)
    half = PchipInterpolator(np.linspace(0, 1, len(widths)), widths)(t)[:, None]
    p = np.linspace(0, 2 * np.pi, 2 * POINTS)[None]
    bent = p + 0.4 / f["folds"] * np.sin(p * 2 + rng.uniform(0, 6))
    ripple = flare * (t[:, None] ** 2) * np.sin(f["folds"] * bent + rng.uniform(-0.5, 0.5) * t[:, None])
    deep = np.minimum(half, thick + 0.4 * np.maximum(half - widths[0], 0))
    return np.stack([half * (1 + ripple) * np.cos(p), deep * (1 + 1.5 * ripple) * np.sin(p), z[:, None] + 0 * p], -1)


def _shirt(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A T-shirt, jumper or vest, sometimes on a hanger."""
    wide, long = rng.uniform(0.34, 0.46), rng.uniform(0.95, 1.3)
    heights = np.array([0.62, 0.55, 0.4, 0.62 - 0.6 * long, 0.62 - long])
    widths = np.array([0.13, wide * 0.85, wide, wide * rng.uniform(0.9, 1.05), wide * rng.uniform(0.9, 1.1)])
    body = _worn(rng, f, heights, widths, 0.15, 0.06 + 0.06 * f["depth"])
    sheets, hems = [body], [_edge(body, "bottom")]
    if rng.random() < 0.85:
        reach, hang = rng.uniform(0.3, 0.95), rng.uniform(0.35, 1.3)
        s = np.linspace(0, 1, 80)[:, None]
        for side in (-1, 1):
            bend = hang * (1 + 0.3 * s * rng.uniform(-1, 1))
            path = np.concatenate(
                [side * (wide * 0.6 + reach * s * np.cos(bend)), 0 * s, 0.5 - reach * s * np.sin(bend)], 1
            )
            p = np.linspace(0, 2 * np.pi, 60)
            section = np.stack([np.cos(p), 0.75 * np.sin(p)], 1)
            r = 0.16 * (1 - 0.35 * s[:, 0]) * (1 + 0.05 * np.sin(25 * s[:, 0] + rng.uniform(0, 6)))
            sleeve = tube(path, r, section).vertices.reshape(-1, 60, 3)[1:-1]
            sheets.append(sleeve)
            hems.append(_edge(sleeve, "bottom"))
    others = _hanger(rng, wide * 0.8, 0.6) if rng.random() < 0.6 else []
    return _Piece(sheets, hems, others)


def _dress(rng: np.random.Generator, f: dict[str, Any]) -> _Piece:
    """A dress or a skirt with a flared, folded hem, sometimes on a hanger."""
    waist, hem = rng.uniform(0.16, 0.26), rng.uniform(0.35, 0.75)
    skirt = rng.random() < 0.35
    if skirt:
        heights = np.array([0.55, 0.3, -0.1, -0.55])
        widths = np.array([waist, waist * 1.15, (waist + hem) / 2, hem])
    else:
        heights = np.array([0.8, 0.62, 0.5, 0.25, 0.05, -0.4, -0.85])
        bust = waist * rng.uniform(1.1, 1.35)
        widths = np.array([bust * 0.75, bust * 0.9, bust, waist, waist * 1.3, (waist + hem) * 0.55, hem])
    body = _worn(rng, f, heights, widths, 0.8 * waist, 0.1 + 0.12 * f["depth"])
    others = []
    if not skirt:
        for side in (-1, 1):  # straps
            x = side * widths[0] * 0.6
            loop = np.array([[x, -0.12, 0.78], [x, -0.05, 0.95], [x, 0.05, 0.95], [x, 0.12, 0.78]])
            flat = np.array([[-1, -0.15], [1, -0.15], [1, 0.15], [-1, 0.15], [-1, -0.15]])
            others.append(tube(loop, 0.03, flat))
        if rng.random() < 0.6:
            others += _hanger(rng, 0.3, 0.95)
    return _Piece([body], [_edge(body, "bottom")], others)


FORMS: dict[str, Callable[[np.random.Generator, dict[str, Any]], _Piece]] = {
    "curtain": _curtain,
    "flag": _flag,
    "hung": _hung,
    "draped": _draped,
    "crumpled": _crumpled,
    "folded": _folded,
    "scarf": _scarf,
    "ribbon": _ribbon,
    "shirt": _shirt,
    "dress": _dress,
}


def _coordinates(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Texel centres of a texture over a sheet: (down, across) in [0, 1]; the texture's x runs down the sheet."""
    return np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")[::-1]


def _pattern(
    rng: np.random.Generator, kind: str, cells: int, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> np.ndarray:
    """The cloth's linear colour [3] or [256, 256, 3] from three colours [3]."""
    if kind == "plain":
        return a
    u, v = _coordinates(256, 256)
    if kind == "stripes":
        w = u if rng.random() < 0.5 else v
        mix = (w * cells % 1 < rng.uniform(0.15, 0.7)).astype(np.float64)
        second = ((w * cells + 0.3) % 1 < 0.08) * float(rng.random() < 0.5)
    elif kind == "checks":
        mix = ((u * cells % 1 < 0.5).astype(np.float64) + (v * cells % 1 < 0.5)) / 2
        second = 0 * mix
    elif kind == "tartan":
        sett = np.concatenate([np.repeat(rng.integers(0, 2, 6), rng.integers(1, 8, 6))])
        sett = np.concatenate([sett, sett[::-1]]).astype(np.float64)
        repeats = max(1, cells // 4)
        thread = (
            sett[(u * repeats * len(sett)).astype(int) % len(sett)],
            sett[(v * repeats * len(sett)).astype(int) % len(sett)],
        )
        mix = (thread[0] + thread[1]) / 2
        second = 0.6 * ((u * repeats % 1 < 0.03) | (v * repeats % 1 < 0.03))
    elif kind == "dots":
        x, y = u * cells, v * cells
        x = x + 0.5 * (np.floor(y) % 2)
        mix = (np.hypot(x % 1 - 0.5, y % 1 - 0.5) < rng.uniform(0.15, 0.4)).astype(np.float64)
        second = 0 * mix
    else:  # print: blobs and flowers
        p = np.stack([u, v, 0 * u], -1) * 2 * np.pi
        mix = (waves(rng, p, cells / 4) > rng.uniform(-0.3, 0.5)).astype(np.float64)
        second = (waves(rng, p, cells / 3) > 0.6).astype(np.float64)
    mix, second = mix[..., None], second[..., None]
    return (a * (1 - mix) + b * mix) * (1 - second) + c * second


def _cover(rng: np.random.Generator, f: dict[str, Any]) -> np.ndarray | None:
    """Opacity of the sheet, [512, 512] in [0, 1]; None if it is opaque everywhere."""
    whole = np.ones((512, 512))
    u, v = _coordinates(512, 512)
    if f["sheer"]:
        if f["weave"] == "even":
            whole *= f["cover"]
        elif f["weave"] == "gauze":
            # threads of width w in both directions cover 1 - (1 - w)^2 of each cell
            w = 1 - np.sqrt(1 - f["cover"])
            cells = int(rng.integers(24, 80))
            whole *= ((u * cells % 1 < w) | (v * cells % 1 < w)).astype(np.float64)
        elif f["weave"] == "devore":
            p = np.stack([u, v, 0 * u], -1) * 2 * np.pi
            whole = np.clip(f["cover"] + 4 * np.maximum(waves(rng, p, f["pattern_cells"] / 3) - 0.3, 0), 0, 1)
        else:
            whole = np.where(v * f["pattern_cells"] % 1 < 0.5, 1.0, f["cover"])
    if f["edge"] == "scalloped":
        bows = int(rng.integers(8, 30))
        whole = whole * ((1 - u) * 0.35 * bows > 0.25 * (1 - np.abs(np.sin(np.pi * bows * v))))
    elif f["edge"] == "ragged":
        p = np.stack([u, v, 0 * u], -1) * 2 * np.pi
        torn = 0.02 + 0.05 * np.abs(waves(rng, p, 6.0)) * np.abs(waves(rng, p, 1.0)) + 0.008 * waves(rng, p, 40.0)
        whole = whole * (np.minimum(1 - u, np.minimum(v, 1 - v) + 0.02) > torn)
    for _ in range(f["holes"]):
        x, y, r, k = *rng.uniform(0.1, 0.9, 2), rng.uniform(0.005, 0.05), rng.integers(2, 5)
        angle = np.arctan2(v - y, u - x)
        whole = whole * (np.hypot(u - x, v - y) > r * (1 + 0.25 * np.sin(k * angle + rng.uniform(0, 6))))
    return None if whole.min() == 1 else whole


def _threads(rng: np.random.Generator, f: dict[str, Any], piece: _Piece, colour: np.ndarray) -> list[Strands]:
    """Tassels along the hems, or short loose threads."""
    tassels = f["edge"] == "fringe"
    points, radii = [], []
    s = np.linspace(-0.1, 1.1, 7)[None, :, None]
    for edge, way in piece.hems[: 4 if tassels else None]:
        if tassels:  # bundles of five
            at = np.repeat(np.linspace(0, 1, max(f["threads"] // 5, 1)), 5)[: f["threads"]]
            at = np.clip(at + rng.normal(size=len(at)) * 0.15 / len(at), 0, 1)
        else:
            at = rng.random(f["threads"])
        k = at * (len(edge) - 1)
        i = np.minimum(k.astype(int), len(edge) - 2)
        w = (k - i)[:, None]
        root, out = edge[i] * (1 - w) + edge[i + 1] * w, way[i] * (1 - w) + way[i + 1] * w
        mess = 0.12 if tassels else 0.6
        out = out + mess * rng.normal(size=out.shape)
        long = f["fringe"] * (1.0 if tassels else 0.5) * np.exp((0.08 if tassels else 0.5) * rng.normal(size=len(out)))
        long = long[:, None, None]
        line = root[:, None] + long * s * out[:, None]
        line[..., 2:] -= (0.35 if tassels else 0.15) * long * np.maximum(s, 0) ** 2
        swing = rng.normal(size=(len(out), 1, 3)) * np.sin(3 * s + rng.uniform(0, 6, (len(out), 1, 1)))
        line += (0.04 if tassels else 0.25) * long * swing * np.maximum(s, 0)
        points.append(line)
        radii.append(np.full(line.shape[:2], f["thread_radius"]) * np.linspace(1, 0.6, 7))
    points, radii = np.concatenate(points), np.concatenate(radii)
    base = np.clip(colour * np.exp(0.12 * rng.normal(size=(len(points), 1, 1))), 0.003, 0.92)
    return [Strands(points, radii, np.broadcast_to(base, (len(points), 4, 3)).copy())]


def _material(f: dict[str, Any], colour: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    colour = np.clip(colour, 0.004, 0.9)
    if f["stuff"] == "cotton":
        return {"kind": "diffuse", "colour": colour}
    if f["stuff"] == "satin":
        return {"kind": "principled", "colour": colour, "roughness": rng.uniform(0.25, 0.5)}
    if f["stuff"] == "felt":
        grain = np.exp(0.25 * rng.normal(size=(128, 128, 1)))
        rows = np.broadcast_to(colour, (128, 128, 3)) if colour.ndim == 1 else colour[::2, ::2]
        return {"kind": "diffuse", "colour": np.clip(rows * grain, 0.003, 0.92)}
    return {"kind": "translucent", "colour": colour, "transmission": rng.uniform(0.15, 0.5)}


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A piece of cloth from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    piece = FORMS[f["form"]](rng, f)
    a, b, c = colour_of_tone(rng, f["tone"]), any_colour(rng), any_colour(rng)
    if rng.random() < 0.3:
        b = shade(rng, a, 0.8)
    colour = _pattern(rng, f["pattern"], f["pattern_cells"], a, b, c)
    material = _material(f, colour, rng)
    cover = _cover(rng, f)
    if cover is not None:
        material["opacity"] = cover
    other = {"kind": rng.choice(["metal", "plastic"]).item(), "colour": any_colour(rng), "roughness": 0.3}
    meshes = []
    for sheet in piece.sheets:
        rough = f["wrinkles"] * waves(rng, sheet, 14.0, 16)[..., None] * rng.normal(size=3)
        meshes.append(surface(sheet + rough))
    strands = _threads(rng, f, piece, a) if f["edge"] in ("fringe", "frayed") else []
    subject = Subject([join(*meshes)])
    everything = np.concatenate([m.vertices for m in subject.meshes + piece.others])
    middle = (everything.max(0) + everything.min(0)) / 2
    size = 1 / np.linalg.norm(everything - middle, axis=1).max()
    turn = (
        random_rotation(rng)
        if f["form"] in ("crumpled", "ribbon")
        else rotation(np.array([0, 0, 1]), rng.uniform(0, 360))
    )
    place = size * turn
    cloth = placed(subject.meshes[0], place, -place @ middle)
    meshes = [Mesh(cloth.vertices, cloth.faces, cloth.uv, material)]
    if piece.others:
        extra = placed(join(*piece.others), place, -place @ middle)
        meshes.append(Mesh(extra.vertices, extra.faces, extra.uv, other))
    strands = [Strands((s.points - middle) @ place.T, s.radii, s.colours) for s in strands]
    return Subject(meshes, strands, drawn={"threads_grown": sum(len(s.points) for s in strands)})
