"""Ferns and palms: leaflets in pairs along a midrib, or in a fan."""

from typing import Any

import numpy as np

from synth_data.subjects.foliage.leaves import VARIANTS, blades, leaf, leaf_templates
from synth_data.subjects.foliage.potted import make_pot
from synth_data.subjects.foliage.stems import GOLDEN, Plant, grow_stem, spots_along, tapered
from synth_data.subjects.meshes import Mesh, join
from synth_data.subjects.repeated import copied, facing, swept, unit


def _frond(
    rng: np.random.Generator,
    plant: Plant,
    path: np.ndarray,
    pairs: int,
    long: float,
    templates: list[Mesh],
    lean: float,
    hang: float,
    taper: float,
    up: np.ndarray,
) -> None:
    """Adds leaflets in pairs along a midrib; the longest are in the middle (`taper` above 0.5) or at the foot."""
    points, ways, t = spots_along([path], 0.12, pairs)
    side = unit(np.cross(ways, up))
    face = np.cross(side, ways)
    reach = long * np.where(taper > 0.5, np.sin(np.pi * np.clip(0.15 + 0.83 * t, 0, 1)) ** 0.7, 1.05 - t)
    for s in (-1, 1):
        forward = unit(s * side + lean * ways + 0.12 * face - (0, 0, hang) + 0.05 * rng.normal(size=side.shape))
        plant.leaves.append(
            blades(
                rng, templates, points, forward, face, np.maximum(reach * np.exp(0.05 * rng.normal(size=pairs)), 0.02)
            )
        )


def _pinna(rng: np.random.Generator) -> Mesh:
    """A compound leaf of length one along y: leaflets in pairs on a midrib. The first vertex is its foot."""
    pairs = 7
    t = np.linspace(0.1, 0.97, pairs).repeat(2)
    side = np.tile([-1.0, 1.0], pairs)
    way = unit(np.stack([side, 0.5 + 0.1 * rng.normal(size=2 * pairs), -0.15 + 0.1 * rng.normal(size=2 * pairs)], 1))
    at = np.stack([0 * t, t, -0.1 * t**2], 1)
    sizes = (0.34 * (1.05 - t) + 0.02)[:, None, None]
    leaflet = leaf(rng, "ovate", 0.3, False)
    leaflets = copied(leaflet, facing(way, np.broadcast_to((0, 0, 1.0), way.shape)) * sizes, at)
    rib = np.linspace(0, 1, 5)
    return join(swept(np.stack([0 * rib, rib, -0.1 * rib**2], 1), 0.012, 3), leaflets)


def fern(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    number = max(4, round(rng.integers(6, 16) * f["density"]))
    twice = rng.random() < 0.35
    pairs = int(rng.integers(18, 34))
    templates = leaf_templates(rng, "lanceolate" if rng.random() < 0.7 else "serrate", 0.4 * f["curl"], False)
    pinnae = [_pinna(rng) for _ in range(VARIANTS)]
    paths = []
    for k in range(number):
        a = GOLDEN * k
        tilt = rng.uniform(0.25, 1.0)
        way = np.array([np.sin(tilt) * np.cos(a), np.sin(tilt) * np.sin(a), np.cos(tilt)])
        path = grow_stem(
            (0.02 * np.cos(a), 0.02 * np.sin(a), 0), way, rng.uniform(0.9, 1.3), 0.6 + 0.8 * f["droop"], rng, 0.06, 22
        )
        paths.append(path)
        if not twice:
            _frond(
                rng,
                plant,
                path,
                pairs,
                0.3 * f["leaf_size"],
                templates,
                0.35,
                0.15 * f["droop"],
                rng.uniform(0.2, 1),
                np.array([0, 0, 1.0]),
            )
            continue
        _frond(rng, plant, path, 10, 0.38 * f["leaf_size"], pinnae, 0.4, 0.1, 0.2, np.array([0, 0, 1.0]))
    plant.stems.append(swept(np.array(paths), tapered(22, 0.012, 0.2), 6))
    if rng.random() < 0.3:
        plant.others += make_pot(rng, 0.22, 0.3)
    return plant


def palm(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    fan = rng.random() < 0.3
    tall = rng.uniform(0.0, 1.6)
    top = np.zeros(3)
    if tall > 0.4:
        trunk = grow_stem((0, 0, -tall), (rng.normal() * 0.25, rng.normal() * 0.25, 1), tall, -0.3, rng, 0.05, 60)
        rings = 0.06 * (1 + 0.25 * (np.arange(60) % 3 == 0)) * np.linspace(1.2, 0.85, 60)
        plant.stems.append(swept(trunk, rings[None], 12))
        top = trunk[-1]
    number = max(7, round(rng.integers(10, 20) * f["density"]))
    templates = leaf_templates(rng, "linear" if not fan else "lanceolate", 0.25 * f["curl"], False)
    paths = []
    for k in range(number):
        a = GOLDEN * k
        tilt = 0.2 + 1.35 * ((k + 0.5) / number) ** 0.8
        way = np.array([np.sin(tilt) * np.cos(a), np.sin(tilt) * np.sin(a), np.cos(tilt)])
        path = grow_stem(
            top,
            way,
            rng.uniform(0.4, 0.6) if fan else rng.uniform(0.8, 1.1),
            (0.3 if fan else 1) * (0.6 + 0.8 * f["droop"]),
            rng,
            0.04,
            18,
        )
        paths.append(path)
        if fan:
            fingers = int(rng.integers(11, 20))
            b = np.linspace(-1.7, 1.7, fingers)
            end = unit(path[-1] - path[-2])
            side = unit(np.cross(end, (0, 0, 1.0)))
            forward = np.cos(b)[:, None] * end + np.sin(b)[:, None] * side + (0, 0, -0.15 - 0.2 * f["droop"])
            face = np.broadcast_to(np.cross(side, end), forward.shape)
            plant.leaves.append(
                blades(
                    rng,
                    templates,
                    np.broadcast_to(path[-1], forward.shape),
                    forward,
                    face,
                    0.4 * f["leaf_size"] * np.exp(0.05 * rng.normal(size=fingers)),
                )
            )
        else:
            _frond(
                rng,
                plant,
                path,
                34,
                0.42 * f["leaf_size"],
                templates,
                rng.uniform(0.5, 1.1),
                0.4 * f["droop"],
                1.0,
                np.array([0, 0, 1.0]),
            )
    plant.stems.append(swept(np.array(paths), tapered(18, 0.018, 0.2), 6))
    if tall <= 0.4 and rng.random() < 0.6:
        plant.others += make_pot(rng, 0.25, 0.4)
    return plant
