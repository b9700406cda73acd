"""Wicker baskets."""

from typing import Any

import numpy as np

from synth_data.subjects.lattice.sheets import Pieces
from synth_data.subjects.meshes import waves
from synth_data.subjects.repeated import swept, transported
from synth_data.subjects.rods import circle


def basket(rng: np.random.Generator, f: dict[str, Any]) -> Pieces:
    """Upright stakes, and weavers that pass alternately in front of and behind them; a rim, sometimes a handle."""
    stakes = int(np.clip(2 * f["cells"], 18, 44)) // 2 * 2 + 1  # odd, so that the weaver alternates from round to round
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
