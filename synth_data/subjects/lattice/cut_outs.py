"""Lace and perforated metal: sheets whose holes are an opacity texture."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone
from synth_data.subjects.lattice.sheets import Pieces, lay_wires, make_sheet
from synth_data.subjects.meshes import lathe, surface
from synth_data.subjects.rods import finish


def coverage(field: np.ndarray, openness: float, inside: np.ndarray | None = None, soft: float = 0.03) -> np.ndarray:
    """Opacity [h, w] in [0, 1], 1 where `field` is low, with a share `openness` of it (of the part `inside`) open.

    `soft` is the width of the transition in standard deviations of the field.
    """
    level = np.quantile(field if inside is None else field[inside], 1 - openness)
    opacity = np.clip(0.5 + (level - field) / (soft * field.std()), 0, 1)
    return opacity if inside is None else np.where(inside, opacity, 0.0)


def _lace_field(rng: np.random.Generator, cells: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(distance from threads [size, size], mask of the lace): a fine ground with flowers and a scalloped edge."""
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


def lace(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Lace: a sheet with an opacity texture."""
    sheet = make_sheet(rng, {**f, "irregular": 0.5 * f["irregular"]})
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
    """A field [size, size] that is high in each hole: round, square, slotted, hexagonal or ornamental."""
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


def perforated(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Sheet metal with holes: a plate, a screen, or a closed shape such as a bin or a lampshade."""
    smooth = {**f, "irregular": 0.0}
    opacity = coverage(_hole_field(rng, f["cells"], 512), f["openness"])
    closed = rng.random() < 0.4
    if closed:
        low, high, tall = rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.2)

        def form(uv: np.ndarray) -> np.ndarray:
            a, s = np.pi * uv[..., 0], (1 + uv[..., 1]) / 2
            r = low + (high - low) * s
            return np.stack([r * np.cos(a), r * np.sin(a), tall * (2 * s - 1) * 0.8], -1)

        sheet = make_sheet(rng, smooth, form)
    else:
        sheet = make_sheet(rng, {**smooth, "form": f["form"] if f["form"] in ("flat", "curled", "wavy") else "curled"})
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512)), -1)
    opacity = np.where(sheet.keep(grid), opacity, 0.0)
    t = np.linspace(-1, 1, 80)
    mesh = surface(sheet.place(np.stack(np.meshgrid(t, t, indexing="ij"), -1), 0.0))
    metal = finish(rng, f["finish"], f["tone"], f["roughness"]) | {"opacity": opacity.astype(np.float32)}
    edges = [np.stack([t, 0 * t + s], 1) for s in (-1, 1)]
    if not closed:
        edges += [np.stack([0 * t + s, t], 1) for s in (-1, 1)]
    rims = [lay_wires(sheet, e[None], 0.0, 0.02, 8) for e in edges]
    meshes = {"own": [replace(mesh, material=metal)], "bar": rims}
    if closed and rng.random() < 0.5:
        meshes["bar"].append(lathe(np.array([[0, -0.8 * tall], [low, -0.8 * tall]]), 48))
    return Pieces(meshes, [])
