"""House plants, vines, succulents and cacti, and the pots that they stand in."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, shade, srgb_to_linear
from synth_data.subjects.foliage.flowers import add_flower
from synth_data.subjects.foliage.leaves import add_leaves, arching_blades, blades, leaf, leaf_templates
from synth_data.subjects.foliage.stems import GOLDEN, Plant, grow_stem, tapered
from synth_data.subjects.meshes import Mesh, Strands, lathe, surface
from synth_data.subjects.repeated import facing, swept, unit


def make_pot(rng: np.random.Generator, radius: float, height: float) -> list[Mesh]:
    """A pot with soil whose surface is at z = 0."""
    s = np.linspace(0, 1, 14)
    belly = rng.uniform(-0.1, 0.25) * np.sin(np.pi * s)
    r = radius * (rng.uniform(0.65, 0.95) * (1 - s) + s + belly)
    outer = np.stack([r, height * (s - 1) + 0.04], 1)
    rim = (
        np.array([[radius * 1.08, 0.04 - 0.15 * height], [radius * 1.08, 0.05]])
        if rng.random() < 0.5
        else np.zeros((0, 2))
    )
    wall = np.concatenate(
        [[[0, outer[0, 1]]], outer[:-1] if len(rim) else outer, rim, [[radius * 0.92, 0.045], [radius * 0.9, -0.02]]]
    )
    clay = srgb_to_linear(np.array([0.72, 0.36, 0.22]))
    colour = clay if rng.random() < 0.4 else any_colour(rng)
    pot = {
        "kind": "diffuse" if rng.random() < 0.4 else "plastic",
        "colour": shade(rng, colour, 0.15),
        "roughness": 0.25,
    }
    soil = surface(
        np.stack(
            [
                np.stack(
                    [k * radius * 0.92 * np.cos(a), k * radius * 0.92 * np.sin(a), 0.02 * np.cos(9 * a * k) + 0 * a], 1
                )
                for a in [np.linspace(0, 2 * np.pi, 30)]
                for k in np.linspace(0, 1, 6)
            ]
        )
    )
    return [
        replace(lathe(wall, 44), material=pot),
        replace(soil, material={"kind": "diffuse", "colour": np.array([0.035, 0.022, 0.014])}),
    ]


def house_plant(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A pot with upright blades, an arching rosette, large leaves on stalks, or a small tree."""
    plant = Plant()
    kind = int(rng.integers(4))
    radius = rng.uniform(0.2, 0.34)
    plant.others += make_pot(rng, radius, rng.uniform(0.3, 0.6))
    if kind == 0:  # upright blades
        number = max(5, round(14 * f["density"]))
        a, r = GOLDEN * np.arange(number), radius * 0.6 * np.sqrt(np.arange(number) / number)
        at = np.stack([r * np.cos(a), r * np.sin(a), 0 * a], 1)
        forward = unit(at * rng.uniform(0.2, 1.2) / radius + (0, 0, 1) + 0.06 * rng.normal(size=at.shape))
        up = unit(-at + 0.05 * rng.normal(size=at.shape) + (0.01, 0, 0))
        plant.leaves.append(
            blades(
                rng,
                leaf_templates(rng, "lanceolate", 0.25 * f["curl"], True),
                at,
                forward,
                up,
                rng.uniform(0.6, 1.2, number),
            )
        )
        return plant
    if kind == 3:  # a trunk with a crown
        trunk = grow_stem((0, 0, -0.02), (0, 0, 1), rng.uniform(0.5, 0.9), 0.0, rng, 0.2)
        plant.stems.append(swept(trunk, tapered(16, 0.03, 0.7), 9))
        paths = [
            grow_stem(
                trunk[-1 - int(rng.integers(0, 4))],
                unit(rng.normal(size=3) + (0, 0, 0.6)),
                rng.uniform(0.3, 0.6),
                f["droop"] * 0.5,
                rng,
            )
            for _ in range(9)
        ]
        plant.stems.append(swept(np.array(paths), tapered(16, 0.012), 5))
        add_leaves(rng, plant, f, paths, max(4, round(11 * f["density"])), rng.uniform(0.16, 0.28))
        return plant
    number = max(6, round((13 if kind == 1 else 34) * f["density"]))
    a = GOLDEN * np.arange(number)
    rank = (np.arange(number) + 0.5) / number  # 0: oldest, lowest
    tilt = (1.25 - 1.05 * rank)[:, None] * rng.uniform(0.7, 1.05)
    out = np.stack([np.cos(a), np.sin(a), 0 * a], 1)
    way = np.sin(tilt) * out + np.cos(tilt) * np.array([0, 0, 1.0])
    if kind == 1:  # on stalks
        long = rng.uniform(0.4, 0.9) * (0.6 + 0.4 * rng.random(number))
        t = np.linspace(0, 1, 10)[None, :, None]
        bow = 0.35 * f["droop"] * long[:, None, None] * t**2 * np.array([0, 0, -1.0])
        paths = 0.03 * out[:, None] + t * (long[:, None] * way)[:, None] + bow
        plant.stems.append(swept(paths, tapered(10, 0.014, 0.6), 7))
        forward = unit(way + out * 0.8 + (0, 0, -0.5 - 0.4 * f["droop"]))
        sizes = rng.uniform(0.35, 0.55) * f["leaf_size"] * np.exp(0.15 * rng.normal(size=number))
        shape = f["leaf"] if f["leaf"] not in ("linear", "lanceolate") else "heart"
        up = unit(out * 0.5 + (0, 0, 1) + 0.15 * rng.normal(size=out.shape))
        plant.leaves.append(blades(rng, leaf_templates(rng, shape, f["curl"], True), paths[:, -1], forward, up, sizes))
        return plant
    plant.leaves.append(
        arching_blades(
            rng,
            np.broadcast_to((0, 0, 0.0), out.shape) + 0.03 * out,
            way,
            rng.uniform(0.7, 1.1, number),
            0.5 + f["droop"],
            rng.uniform(0.012, 0.035),
        )
    )
    return plant


def vine(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Ivy and the like: long stems that hang from a pot or trail."""
    plant = Plant()
    pot = rng.random() < 0.5
    number = int(rng.integers(5, 14))
    paths = []
    for k in range(number):
        a = GOLDEN * k
        out = np.array([np.cos(a), np.sin(a), 0.5]) * (0.3 if pot else 0.6)
        path = grow_stem(out * (0.5, 0.5, 0.02), out, rng.uniform(0.8, 1.9), 3.5 + 2 * f["droop"], rng, 0.25, 30)
        paths.append(path)
    plant.stems.append(swept(np.array(paths), tapered(30, 0.009, 0.4), 5))
    kind = f["leaf"] if f["leaf"] in ("heart", "palmate", "round", "ovate") else "heart"
    add_leaves(rng, plant, f, paths, max(6, round(22 * f["density"])), rng.uniform(0.12, 0.2), 0.05, False, kind, 0.35)
    if pot:
        plant.others += make_pot(rng, 0.26, 0.35)
    return plant


def succulent(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Rosettes of thick leaves, and cacti with spines."""
    plant = Plant()
    if rng.random() < 0.45:
        number = int(rng.integers(25, 60))
        k = np.arange(number)
        rank = k / number
        tilt = (1.45 * rank**0.7)[:, None]
        a = GOLDEN * k
        out = np.stack([np.cos(a), np.sin(a), 0 * a], 1)
        way = np.sin(tilt) * out + np.cos(tilt) * np.array([0, 0, 1.0])
        body = leaf(rng, "ovate" if rng.random() < 0.6 else "lanceolate", 0.2, True)
        up = np.cos(tilt) * -out + np.sin(tilt) * np.array([0, 0, 1.0])
        sizes = 0.25 + 0.5 * rank
        for lift in (0.0, -0.09):  # two surfaces make a thick leaf
            skin = replace(
                body,
                vertices=body.vertices
                + np.array([0, 0, 1.0])
                * lift
                * np.sin(np.pi * np.clip(body.uv[:, 1:], 0, 1))
                * (1 - (2 * body.uv[:, :1] - 1) ** 2),
            )
            plant.leaves.append(blades(rng, [skin], np.zeros((number, 3)) + 0.02 * out, way, up, sizes))
        if rng.random() < 0.6:
            plant.others += make_pot(rng, 0.35, 0.4)
        return plant
    ribs = int(rng.integers(8, 20))
    colour = shade(rng, srgb_to_linear(np.array([0.24, 0.42, 0.22])), 0.25)
    bodies = [(np.zeros(3), np.array([0, 0, 1.0]), rng.uniform(0.25, 0.5), rng.uniform(0.5, 1.5))]
    for k in range(int(rng.choice([0, 0, 1, 2, 3]))):
        a = GOLDEN * k + 1
        bodies.append(
            (
                np.array([0, 0, 0.3 * bodies[0][3] + 0.15 * k]),
                np.array([0.7 * np.cos(a), 0.7 * np.sin(a), 0.7]),
                0.5 * bodies[0][2],
                0.6 * bodies[0][3],
            )
        )
    for foot, way, wide, tall in bodies:
        s, a = np.linspace(0, 1, 30)[:, None], np.linspace(0, 2 * np.pi, ribs * 8 + 1)[None]
        r = wide * np.sin(np.pi * (0.08 + 0.92 * s) ** 1.2) ** 0.5 * (1 + 0.12 * np.abs(np.cos(ribs * a / 2)))
        frame = facing(way[None], np.array([[1.0, 0, 0.1]]))[0][:, [0, 2, 1]]
        grid = np.stack([r * np.cos(a), r * np.sin(a), tall * s + 0 * a], -1) @ frame.T + foot
        skin = {"kind": "plastic", "colour": colour, "roughness": 0.5}
        plant.others.append(replace(surface(grid), material=skin))
        at = grid[2:-1:2, ::8].reshape(-1, 3)
        middle = foot + tall * 0.5 * frame[:, 2]
        d = unit(at - middle)
        each = int(rng.integers(4, 10))
        way_ = unit(d.repeat(each, 0) + 0.6 * rng.normal(size=(len(at) * each, 3)))
        t = np.linspace(-0.3, 1.2, 5)[None, :, None]
        spines = at.repeat(each, 0)[:, None] + 0.11 * rng.uniform(0.5, 1.2, (len(way_), 1, 1)) * t * way_[:, None]
        pale = shade(rng, np.array([0.6, 0.5, 0.32]), 0.3)
        plant.strands.append(
            Strands(spines, np.full(spines.shape[:2], 0.0025), np.broadcast_to(pale, (len(spines), 2, 3)))
        )
    if rng.random() < 0.35:
        add_flower(rng, plant, f, bodies[0][3] * bodies[0][1], bodies[0][1], 0.22, 1)
    if rng.random() < 0.7:
        plant.others += make_pot(rng, bodies[0][2] * 1.2, 0.4)
    return plant
