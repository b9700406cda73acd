"""Gauze, knitwear and crochet."""

from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone
from synth_data.subjects.lattice.sheets import Pieces, lay_yarn, make_sheet, sheet_form, straight_rows, thread_radius


def gauze(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """An open plain weave whose threads cross over and under."""
    sheet = make_sheet(rng, f)
    cells = min(2 * f["cells"], 60)
    radius = thread_radius(cells, f["openness"])
    one, two = colour_of_tone(rng, f["tone"]), colour_of_tone(rng, f["tone"])
    two = one if rng.random() < 0.7 else two
    strands = []
    for across, colour in ((True, one), (False, two)):
        uv = straight_rows(cells, 3 * cells + 1, across)
        t = (uv[..., 0 if across else 1] + 1) / 2 * cells
        sign = (-1.0) ** np.arange(cells)[:, None] * (1 if across else -1)
        uv = uv + 0.15 / cells * rng.normal(size=(cells, 1, 1)) * f["irregular"]
        strands += lay_yarn(
            rng, sheet, uv * 1.04, sign * radius * np.sin(np.pi * t), radius, colour, 1, 0.4 * f["fuzz"]
        )
    return Pieces({}, strands)


def _stitches(stitches: int, rows: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """uv paths [rows, K, 2] and heights [rows, K] of stockinette; 14 steps per stitch.

    Each row is a meander whose loops widen at the head; the yarn is behind at head and foot and in front between them.
    """
    t = np.linspace(0, 2 * np.pi * stitches, 14 * stitches + 1)
    u = 2 * (t / (2 * np.pi) + 0.17 * np.sin(2 * t)) / stitches - 1
    v = (np.arange(rows)[:, None] + 0.5 - 0.82 * np.cos(t)) / rows * 2 - 1
    return np.stack([np.broadcast_to(u, v.shape), v], -1), 1.3 * radius * np.cos(2 * t) + 0 * v


def knit(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Stockinette: rows of yarn loops, each pulled through the row below."""
    sheet = make_sheet(rng, {**f, "irregular": 0.4 * f["irregular"]})
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
    return Pieces({}, lay_yarn(rng, sheet, uv, w, radius, colours, int(rng.integers(2, 4)), f["fuzz"]))


def doily(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Crochet in the round: rings of arches, each on top of the one before."""
    sheet = make_sheet(
        rng,
        {**f, "irregular": 0.3 * f["irregular"], "torn": False},
        sheet_form(rng, "lying" if rng.random() < 0.6 else "hanging", f["sag"]),
    )
    rings, petals = int(rng.integers(5, 10)), int(rng.choice([6, 8, 10, 12]))
    radius = 0.35 / rings * (0.05 + 0.12 * (1 - f["openness"]) / 0.45) * 2.2
    edges = np.linspace(0.08, 1.0, rings + 1)
    number, phase = petals, 0.0
    colour = colour_of_tone(rng, f["tone"] if rng.random() < 0.5 else "white")
    strands = []

    def draw_paths(r: np.ndarray, a: np.ndarray, plies: int = 2) -> None:
        uv = np.stack([r * np.cos(a), r * np.sin(a)], -1)
        strands.extend(lay_yarn(rng, sheet, uv, 0.0, radius, colour, plies, 0.0))

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
