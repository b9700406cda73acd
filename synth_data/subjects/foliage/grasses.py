"""Grass and reeds."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import shade, srgb_to_linear
from synth_data.subjects.foliage.leaves import arching_blades
from synth_data.subjects.foliage.stems import Plant, grow_stem, grow_stems, needle_strands, spots_along, tapered
from synth_data.subjects.repeated import swept, unit


def grass(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A tuft, or a strip of lawn."""
    plant = Plant()
    lawn = rng.random() < 0.35
    number = max(40, round((900 if lawn else 260) * f["density"]))
    reach = np.array([1.0, 0.35, 0]) if lawn else 0.12
    at = rng.uniform(-1, 1, (number, 3)) * reach if lawn else rng.normal(size=(number, 3)) * (reach, reach, 0)
    way = unit(np.array([0, 0, 1.0]) + (0.45 + 0.3 * f["droop"]) * rng.normal(size=(number, 3)) * (1, 1, 0))
    lengths = rng.uniform(0.3, 1.0, number) * (rng.uniform(0.3, 0.7) if lawn else 1.2)
    plant.leaves.append(arching_blades(rng, at, way, lengths, 0.15 + 0.7 * f["droop"], rng.uniform(0.006, 0.016), 9))
    if rng.random() < 0.4:
        _add_ears(rng, plant, at[: int(rng.integers(4, 30))], 1.3)
    return plant


def _add_ears(rng: np.random.Generator, plant: Plant, at: np.ndarray, tall: float) -> None:
    """Adds thin stems with bearded ears."""
    paths = [
        grow_stem(p, (0.2 * rng.normal(), 0.2 * rng.normal(), 1), tall * rng.uniform(0.7, 1), 0.5, rng, 0.06)
        for p in at
    ]
    plant.stems.append(swept(np.array(paths), tapered(16, 0.006, 0.5), 5))
    tips = [p[11:] for p in paths]
    straw = srgb_to_linear(np.array([0.74, 0.62, 0.38])) * np.exp(0.15 * rng.normal(size=3))
    plant.strands.append(needle_strands(rng, tips, 60, rng.uniform(0.05, 0.16), straw, rng.uniform(1.0, 3)))


def reeds(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Reeds: tall stems with leaves and plumes, or bulrushes."""
    plant = Plant()
    number = int(rng.integers(4, 14))
    at = rng.normal(size=(number, 3)) * (0.22, 0.12, 0)
    paths = [
        grow_stem(
            p, (0.12 * rng.normal(), 0.12 * rng.normal(), 1), rng.uniform(1.3, 1.9), 0.2 * f["droop"], rng, 0.05, 24
        )
        for p in at
    ]
    plant.stems.append(swept(np.array(paths), tapered(24, 0.012, 0.5), 6))
    points, ways, _ = spots_along(paths, 0.05, 5)
    leaf_way = unit(ways + 0.35 * rng.normal(size=ways.shape))
    plant.leaves.append(
        arching_blades(
            rng, points, leaf_way, rng.uniform(0.4, 0.9, len(points)), 0.3 + f["droop"], rng.uniform(0.01, 0.02)
        )
    )
    if rng.random() < 0.5:  # bulrush
        heads = [np.stack([p[-6] + s * (p[-2] - p[-6]) for s in np.linspace(0, 1, 12)]) for p in paths]
        r = 0.035 * np.sqrt(np.sin(np.pi * np.linspace(0.04, 0.96, 12)))[None]
        brown = {"kind": "diffuse", "colour": shade(rng, srgb_to_linear(np.array([0.36, 0.21, 0.12])), 0.2)}
        plant.others.append(replace(swept(np.array(heads), r, 12), material=brown))
        fluff = needle_strands(rng, heads, 400, 0.012, np.array([0.16, 0.09, 0.05]), 0.0)
        plant.strands.append(fluff)
    else:  # plumes
        ends = np.array(paths)
        starts = ends[:, -9:-2].reshape(-1, 3).repeat(2, 0)
        ways = unit(ends[:, -1] - ends[:, -3]).repeat(14, 0) + 0.5 * rng.normal(size=starts.shape)
        plumes = list(grow_stems(rng, starts, ways, 0.28 * rng.uniform(0.5, 1, len(starts)), 1.2, 0.1, 10))
        straw = srgb_to_linear(np.array([0.76, 0.66, 0.52])) * np.exp(0.15 * rng.normal(size=3))
        plant.strands.append(needle_strands(rng, plumes, 70, 0.06, straw, 1.5))
        plant.stems.append(swept(np.array(plumes), 0.002, 4))
    return plant
