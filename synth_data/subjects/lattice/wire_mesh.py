"""Chain link, welded mesh, chicken wire and grilles."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.subjects.lattice.sheets import (
    Pieces,
    Sheet,
    lay_wires,
    make_sheet,
    straight_rows,
    thread_radius,
    turned,
    zigzags,
)
from synth_data.subjects.meshes import Mesh, lathe, placed, rotation
from synth_data.subjects.repeated import swept
from synth_data.subjects.rods import circle


def _add_posts(rng: np.random.Generator, sheet: Sheet, meshes: dict[str, list[Mesh]]) -> None:
    """A frame of tubes around a sheet, or a few posts."""
    thick = rng.uniform(0.018, 0.035)
    t = np.linspace(-1.02, 1.02, 40)
    edges = [np.stack([t, 0 * t + s], 1) for s in (-1.02, 1.02)]
    number = int(rng.integers(2, 5))
    posts = [np.stack([0 * t + u, 1.08 * t], 1) for u in np.linspace(-1.02, 1.02, number)]
    if rng.random() < 0.3:
        edges = edges[1:]
    intact = replace(sheet, keep=lambda uv: np.ones(uv.shape[:-1], bool))
    meshes.setdefault("bar", []).append(lay_wires(intact, np.array(posts), 0.0, thick, 10))
    meshes["bar"].append(lay_wires(intact, np.array(edges), 0.0, 0.8 * thick, 10))


def chain_link(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Chain link: upright zigzag wires, each hooked into its neighbours at the bends."""
    sheet = make_sheet(rng, {**f, "form": f["form"] if f["form"] in ("flat", "wavy", "curled", "hanging") else "flat"})
    cells = min(f["cells"], 24)
    rows = max(3, round(cells * rng.uniform(0.7, 1.1)))
    radius = min(thread_radius(cells, f["openness"]) * 0.6, 0.014)
    uv = zigzags(cells, 2 * rows, 0.0, 6)
    t = np.linspace(0, 2 * rows, 12 * rows + 1)
    # bends overlap by a wire's width, one in front of the other
    middle = ((np.arange(cells)[:, None] + 0.5) / cells) * 2 - 1
    uv[..., 0] = middle + (uv[..., 0] - middle) * (1 + 1.6 * radius * cells)
    w = 1.1 * radius * np.sin(np.pi * t)[None] * np.ones((cells, 1))
    meshes = {"wire": [lay_wires(sheet, uv, w, radius, 5)]}
    if f["form"] in ("flat", "curled") or rng.random() < 0.2:
        _add_posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def welded(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Welded or crimped wire mesh of squares."""
    sheet = make_sheet(rng, f)
    cells, radius = f["cells"], thread_radius(f["cells"], f["openness"])
    crimp = rng.random() < 0.3
    meshes: dict[str, list[Mesh]] = {"wire": []}
    for across in (True, False):
        uv = straight_rows(cells, 4 * cells + 1 if crimp else cells + 16, across)
        t = (uv[..., 0 if across else 1] + 1) / 2 * cells
        sign = 1 if across else -1
        w = sign * radius * (((-1.0) ** np.arange(cells)[:, None]) * np.sin(np.pi * t) if crimp else 0.9)
        meshes["wire"].append(lay_wires(sheet, uv, w + 0 * t, radius, 6))
    if f["form"] in ("flat", "curled", "wavy") and rng.random() < 0.7:
        _add_posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def chicken_wire(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Hexagonal wire netting, whose wires are twisted where they run together."""
    sheet = make_sheet(rng, f)
    cells = f["cells"]
    rows = max(3, round(0.9 * cells))
    radius = min(thread_radius(cells, f["openness"]) * 0.4, 0.01)
    uv = zigzags(cells, rows, 0.4, 10)
    t = np.linspace(0, rows, rows * 10 + 1)
    near = np.abs(((t + 0.5) % 1) - 0.5) < 0.22  # along the twist
    spin = 2 * np.pi * 1.5 * ((t + 0.5) % 1 - 0.5) / 0.44
    phase = np.pi * (np.arange(cells)[:, None] % 2)
    uv[..., 0] += np.where(near, radius * np.cos(spin + phase), 0.0)
    w = np.where(near, radius * np.sin(spin + phase), 0.0)
    meshes = {"wire": [lay_wires(sheet, uv, w, radius, 5)]}
    if f["form"] in ("flat", "curled") and rng.random() < 0.7:
        _add_posts(rng, sheet, meshes)
    return Pieces(meshes, [])


def grille(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
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
    return turned(Pieces(meshes, []), rotation((0, 0, 1), rng.uniform(-40, 40)) @ turn)
