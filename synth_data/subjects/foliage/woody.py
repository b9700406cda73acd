"""Branches, bushes, trees and conifers."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone, shade, srgb_to_linear
from synth_data.subjects.foliage.flowers import add_flower, petal_material
from synth_data.subjects.foliage.leaves import PALETTES, add_leaves, leaf
from synth_data.subjects.foliage.stems import (
    GOLDEN,
    Plant,
    directions_around,
    grow_stem,
    grow_stems,
    needle_strands,
    spots_along,
    tapered,
)
from synth_data.subjects.meshes import Mesh, ball, placed, rotation
from synth_data.subjects.repeated import copied, facing, swept, unit


def branch(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    way = unit(np.array([rng.uniform(-1, 1), rng.uniform(-0.4, 0.4), rng.uniform(-0.2, 1)]))
    main = grow_stem(np.zeros(3), way, 1.8, 0.5 * f["droop"], rng, number=24)
    paths = [main]
    plant.stems.append(swept(main, tapered(24, 0.022), 8))
    for _ in range(int(rng.integers(0, 6))):
        index = int(rng.integers(4, 20))
        side = unit(main[index] - main[index - 1] + 0.8 * unit(rng.normal(size=3)))
        twig = grow_stem(main[index], side, rng.uniform(0.4, 0.9), f["droop"] * 0.7, rng)
        plant.stems.append(swept(twig, tapered(16, 0.012), 6))
        paths.append(twig)
    number = max(4, round(14 * f["density"]))
    add_leaves(rng, plant, f, paths, number, rng.uniform(0.22, 0.4))
    if rng.random() < 0.35:
        _add_fruit(rng, plant, f, paths)
    return plant


def _add_fruit(rng: np.random.Generator, plant: Plant, f: dict[str, Any], paths: list[np.ndarray]) -> None:
    """Adds berries or blossom along stems."""
    points, ways, _ = spots_along(paths, 0.3, int(rng.integers(3, 9)))
    hang = points + 0.05 * directions_around(rng, ways, np.arange(len(points), dtype=float), 0) + (0, 0, -0.05)
    if rng.random() < 0.5:
        r = rng.uniform(0.02, 0.06)
        turns = np.broadcast_to(np.eye(3) * r, (len(hang), 3, 3))
        fruit = copied(ball(rows=10), turns, hang + (0, 0, -r))
        colour = colour_of_tone(rng, "bright")
        plant.others.append(replace(fruit, material={"kind": "plastic", "colour": colour, "roughness": 0.15}))
        plant.stems.append(swept(np.stack([points, hang], 1), 0.005, 4))
        return
    petal, kind = petal_material(rng, f), int(rng.integers(5))
    for p, q in zip(points, hang, strict=True):
        add_flower(rng, plant, f, q, unit(q - p), rng.uniform(0.06, 0.1), kind, petal)


def _woody(
    rng: np.random.Generator,
    plant: Plant,
    starts: int,
    depth: int,
    length: float,
    thick: float,
    spread: float,
    droop: float,
) -> list[np.ndarray]:
    """Adds branching stems from the ground, generation by generation; returns the last twigs, each [12, 3]."""
    lean = 0.08 if starts == 1 else 0.5
    feet, ways = np.zeros((starts, 3)), np.array([0, 0, 1.0]) + rng.normal(size=(starts, 3)) * (lean, lean, 0)
    lengths, radii = np.full(starts, length), np.full(starts, thick)
    for level in range(depth + 1):
        paths = grow_stems(rng, feet, ways, lengths, 0.4 * droop, 0.25, 12)
        plant.stems.append(swept(paths, radii[:, None] * np.linspace(1, 0.6, 12), 9 if level == 0 else 5))
        if level == depth:
            break
        children = rng.integers(3, 6, len(paths))
        parent = np.repeat(np.arange(len(paths)), children)
        order = np.arange(len(parent)) - np.repeat(np.cumsum(children) - children, children)
        index = np.where(order == 0, 11, rng.integers(5, 12, len(parent)))  # one child continues at the tip
        feet = paths[parent, index]
        heading = unit(feet - paths[parent, index - 1])
        frame = facing(heading, np.broadcast_to((0.3, 0.2, 1.0), heading.shape))
        angle = (rng.uniform(0, 2 * np.pi, len(paths))[parent] + GOLDEN * order)[:, None]
        out = np.cos(angle) * frame[..., 0] + np.sin(angle) * frame[..., 2]
        ways = heading + spread * out * np.where(order == 0, 0.4, 1.0)[:, None] + (0, 0, 0.12)
        lengths, radii = lengths[parent] * rng.uniform(0.55, 0.85, len(parent)), 0.6 * radii[parent]
    return list(paths)


def bush(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    twigs = _woody(rng, plant, int(rng.integers(5, 9)), 2, 0.45, 0.016, rng.uniform(0.6, 1.0), f["droop"])
    number = max(3, round(1200 * f["density"] / len(twigs)))
    add_leaves(rng, plant, f, twigs, min(number, 24), rng.uniform(0.09, 0.16), 0.1, False, stalk=0.08)
    if rng.random() < 0.3:
        points, ways, _ = spots_along(twigs, 0.9, 1)
        petal, kind = petal_material(rng, f), int(rng.integers(4))
        for i in rng.permutation(len(points))[:14]:
            add_flower(rng, plant, f, points[i], ways[i], 0.06, kind, petal)
    return plant


def tree(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    twigs = _woody(rng, plant, 1, 4, 0.6, 0.06, rng.uniform(0.6, 1.0), f["droop"])
    twigs = [twigs[i] for i in rng.permutation(len(twigs))[:420]]
    number = max(2, round(2600 * f["density"] / len(twigs)))
    kind = f["leaf"] if f["leaf"] in ("ovate", "lanceolate", "round", "heart") else "ovate"
    add_leaves(rng, plant, f, twigs, min(number, 30), rng.uniform(0.07, 0.12), 0.2, False, kind, 0.0)
    return plant


def bare(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A tree or shrub in winter, with a few dry leaves."""
    plant = Plant()
    trees = rng.random() < 0.5
    twigs = _woody(rng, plant, 1, 4 if trees else 3, 0.6, 0.05 if trees else 0.03, rng.uniform(0.5, 1.0), f["droop"])
    some = [twigs[i] for i in rng.permutation(len(twigs))[: max(3, len(twigs) // 12)]]
    add_leaves(rng, plant, {**f, "season": "dry"}, some, 2, 0.12, 0.6, False)
    return plant


def conifer(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A pine or fir twig, or a little tree of them; needles are strands."""
    plant = Plant()
    palette = "dry" if f["season"] == "dry" else ("silver" if f["season"] == "silver" else "green")
    colour = srgb_to_linear(np.array(PALETTES[palette][int(rng.integers(4))])) * np.exp(0.15 * rng.normal(size=3))
    paths = []
    if rng.random() < 0.5:  # twig
        main = grow_stem(
            np.zeros(3), (1, 0.2 * rng.normal(), 0.4 * rng.normal()), 1.7, 0.5 * f["droop"], rng, number=20
        )
        paths = [main]
        for k in range(4, 19, 2):
            for s in (-1, 1):
                way = unit(main[k] - main[k - 1] + s * 0.9 * unit(np.cross(main[k] - main[k - 1], (0, 0.3, 1.0))))
                paths.append(grow_stem(main[k], way, 0.6 * (1.15 - k / 20), 0.5 * f["droop"], rng, 0.1, 20))
        long, each = rng.uniform(0.05, 0.2) * f["leaf_size"], round(240 * f["density"])
        plant.stems.append(swept(np.array(paths), tapered(20, 0.016, 0.3), 6))
        if rng.random() < 0.5:
            plant.others += _cones(rng, paths)
    else:
        trunk = np.stack([np.zeros(20), np.zeros(20), np.linspace(0, 2, 20)], 1)
        plant.stems.append(swept(trunk, tapered(20, 0.05, 0.1), 8))
        number = int(rng.integers(55, 100))
        k = np.arange(number) / number  # 0: lowest
        angle = GOLDEN * np.arange(number) + 0.2 * rng.normal(size=number)
        lengths = 0.75 * (1 - 0.9 * k) * rng.uniform(0.8, 1.1, number)
        level = np.stack([np.cos(angle), np.sin(angle), 0 * k], 1)
        feet = np.stack([0 * k, 0 * k, 0.25 + 1.7 * k], 1)
        limbs = grow_stems(
            rng, feet, level + np.stack([0 * k, 0 * k, 0.1 + 0.5 * k], 1), lengths, 0.4 + 0.6 * f["droop"], 0.08, 20
        )
        sides = [level + s * 0.9 * np.stack([-np.sin(angle), np.cos(angle), 0 * k], 1) for s in (-1, 1, -1, 1)]
        starts = np.concatenate([limbs[:, i] for i in (7, 7, 12, 12)])
        paths = [*limbs, *grow_stems(rng, starts, np.concatenate(sides), np.tile(0.3 * lengths, 4), 0.3, 0.08, 20)]
        plant.stems.append(swept(np.array(paths), tapered(20, 0.008, 0.3), 4))
        long, each = rng.uniform(0.04, 0.07), round(52 * f["density"])
    each = min(each, 18000 // len(paths))
    plant.strands.append(needle_strands(rng, paths, each, long, colour, rng.uniform(0.3, 1.2)))
    return plant


def _cones(rng: np.random.Generator, paths: list[np.ndarray]) -> list[Mesh]:
    """Pine cones: scales in a spiral."""
    number = 70
    k = np.arange(number)
    t = k / number
    r = 0.075 * np.sin(np.pi * (0.12 + 0.85 * t)) ** 0.8
    out = np.stack([np.cos(GOLDEN * k), np.sin(GOLDEN * k), 0.35 + 0.6 * t], 1)
    at = np.stack([0.5 * r * np.cos(GOLDEN * k), 0.5 * r * np.sin(GOLDEN * k), -0.26 * (1 - t)], 1)
    up = np.broadcast_to((0, 0, 1.0), out.shape)
    cone = copied(leaf(rng, "round", 0.6, False), facing(out, up) * (0.4 * r + 0.02)[:, None, None] * 1.6, at)
    material = {"kind": "diffuse", "colour": shade(rng, srgb_to_linear(np.array([0.42, 0.28, 0.17])), 0.15)}
    spots = [paths[i][-4] for i in rng.integers(0, len(paths), int(rng.integers(1, 4)))]
    return [replace(placed(cone, rotation((0, 1, 0), rng.uniform(-40, 40)), p), material=material) for p in spots]
