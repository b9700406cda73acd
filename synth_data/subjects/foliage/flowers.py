"""Flower heads, cut flowers and dandelions."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade, srgb_to_linear
from synth_data.subjects.foliage.leaves import VARIANTS, add_leaves, blades, leaf_templates
from synth_data.subjects.foliage.stems import GOLDEN, Plant, grow_stem, tapered
from synth_data.subjects.meshes import Mesh, Strands, ball, join, lathe, placed, waves
from synth_data.subjects.repeated import facing, swept, unit


def petal_material(rng: np.random.Generator, f: dict[str, Any]) -> dict[str, Any]:
    colour = colour_of_tone(rng, f["flower_tone"])
    heart = colour_of_tone(rng, f["flower_tone"]) if rng.random() < 0.4 else shade(rng, colour, 0.3)
    t = np.linspace(0, 1, 48)[:, None, None]
    lines = 1 + 0.12 * np.sin(np.linspace(0, 40, 48))[None, :, None]
    mix = np.clip((t - rng.uniform(0, 0.4)) / 0.4, 0, 1)
    texture = np.tile(np.clip((heart * (1 - mix) + colour * mix) * lines, 0.004, 0.93), (1, VARIANTS, 1))
    if f["surface"] == "translucent":
        return {"kind": "translucent", "colour": texture, "transmission": f["transmission"]}
    return {"kind": "diffuse", "colour": texture}


def add_flower(
    rng: np.random.Generator,
    plant: Plant,
    f: dict[str, Any],
    at: np.ndarray,
    way: np.ndarray,
    size: float,
    kind: int,
    petal: dict[str, Any] | None = None,
    heart: np.ndarray | None = None,
) -> None:
    """Adds a flower of radius about `size` at `at`, facing `way`. Kinds 0 to 4: open, daisy, cup, rose, globe."""
    frame = facing(way[None], np.array([[0.2, 0.1, 1.0]]))[0]

    def ring(number: int, open_: float, long: float, shape: list[Mesh], phase: float, back: float = 0.0) -> None:
        a = 2 * np.pi * (np.arange(number) + phase) / number + 0.08 * rng.normal(size=number)
        out = np.cos(a)[:, None] * frame[:, 0] + np.sin(a)[:, None] * frame[:, 2]
        tilt = open_ + 0.1 * rng.normal(size=(number, 1))
        forward = np.sin(tilt) * out + np.cos(tilt) * way
        up = np.cos(tilt) * -out + np.sin(tilt) * way
        lengths = size * long * np.exp(0.06 * rng.normal(size=number))
        feet = np.broadcast_to(at + back * size * way, (number, 3)) + 0.08 * size * out
        rings.append(blades(rng, shape, feet, forward, up, lengths))

    rings: list[Mesh] = []
    outline = ("round", "lanceolate", "ovate", "round", "lanceolate")[kind]
    shape = leaf_templates(rng, outline, 0.5 * f["curl"], size > 0.2)
    if kind == 0:
        ring(int(rng.choice([4, 5, 5, 6])), rng.uniform(1.0, 1.4), 1, shape, 0)
    elif kind == 1:
        number = int(rng.integers(12, 30))
        for k in range(int(rng.integers(1, 4))):
            ring(number, rng.uniform(1.2, 1.6) - 0.2 * k, 1 - 0.12 * k, shape, 0.5 * k)
    elif kind == 2:
        tilt = rng.uniform(0.15, 0.6)
        for k in range(2):
            ring(3, tilt + 0.1 * k, 1.2, shape, 0.5 * k)
    else:
        for k in range(6):
            ring(3 + k, 0.15 + (1.3 if kind == 3 else 2.4) * k / 5, 0.55 + 0.09 * k, shape, 0.4 * k, -0.03 * k)
    material = petal or petal_material(rng, f)
    plant.others.append(replace(join(*rings), material=material))
    if kind in (0, 1):
        r = size * (rng.uniform(0.08, 0.14) if kind == 0 else rng.uniform(0.22, 0.4))
        colour = heart if heart is not None else srgb_to_linear(np.array([0.85, 0.6, 0.1]))
        disc = placed(ball(np.array([r, 0.5 * r, r]), rows=10), frame, at + 0.05 * size * way)
        plant.others.append(replace(disc, material={"kind": "diffuse", "colour": colour}))
        number = 30 if kind == 0 else 120  # stamens
        d = unit(rng.normal(size=(number, 3)) + 1.2 * way)
        foot = at + 0.05 * size * way
        s = np.linspace(-0.2, 1, 5)[None, :, None]
        reach = size * (0.35 if kind == 0 else 0.08)
        base = foot + (0 if kind == 0 else 1) * (r * d) @ (frame @ np.diag([1, 0.5, 1.0]) @ frame.T)
        points = base[:, None] + s * reach * d[:, None]
        plant.strands.append(
            Strands(points, np.full((number, 5), 0.02 * size), np.broadcast_to(colour, (number, 2, 3)))
        )


def flowers(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    kind = int(rng.integers(5))
    number = int(rng.choice([1, 1, 3, 5, 8, 14]))
    size = rng.uniform(0.28, 0.42) / max(1, number**0.42)
    petal, heart = petal_material(rng, f), colour_of_tone(rng, "brown" if rng.random() < 0.5 else "bright")
    vase = rng.random() < 0.3
    paths = []
    for _ in range(number):
        lean = rng.normal(size=3) * (0.1 + 0.12 * np.sqrt(number)) * (1, 1, 0)
        path = grow_stem(
            rng.normal(size=3) * 0.03 * (1, 1, 0),
            unit(np.array([0, 0, 1.0]) + lean),
            rng.uniform(1.0, 1.5),
            0.25 * f["droop"],
            rng,
        )
        paths.append(path)
        way = unit(path[-1] - path[-3] + 0.5 * unit(rng.normal(size=3)) * (1, 1, 0.3))
        if number > 4 and rng.random() < 0.25:
            petal = petal_material(rng, f)
        add_flower(
            rng,
            plant,
            f,
            path[-1],
            way,
            size * rng.uniform(0.8, 1.2),
            kind if rng.random() < 0.85 else int(rng.integers(5)),
            petal,
            heart,
        )
    plant.stems.append(swept(np.array(paths), tapered(16, 0.016 if number < 4 else 0.01, 0.7), 7))
    add_leaves(
        rng,
        plant,
        f,
        paths,
        max(2, round(4 * f["density"])),
        0.3 if number < 4 else 0.2,
        0.45 if vase else 0.1,
        number < 4,
        stalk=0.05,
    )
    if vase:
        s = np.linspace(0, 1, 24)
        r = 0.16 + 0.08 * np.sin(rng.uniform(2, 5) * s + rng.uniform(0, 6))
        z = 0.75 * s - 0.3
        outer = np.stack([r, z], 1)
        wall = np.concatenate([[[0, z[0]]], outer, outer[::-1] - (0.02, 0), [[0, z[0] + 0.02]]])
        glaze = {"kind": "plastic", "colour": any_colour(rng), "roughness": rng.uniform(0.05, 0.4)}
        plant.others.append(replace(lathe(wall, 40), material=glaze))
    return plant


def dandelion(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Dandelion clocks: globes of seeds, sometimes with gaps, on stems."""
    plant = Plant()
    for k in range(int(rng.choice([1, 1, 2, 3]))):
        path = grow_stem(
            (0.3 * k, 0.1 * k, -1.0), (0.2 * rng.normal(), 0.2 * rng.normal(), 1), rng.uniform(0.9, 1.2), 0.1, rng, 0.1
        )
        plant.stems.append(swept(path, tapered(16, 0.018, 0.8), 8))
        centre = path[-1]
        plant.others.append(
            replace(ball(0.05, centre, 10), material={"kind": "diffuse", "colour": np.array([0.25, 0.22, 0.12])})
        )
        number = int(rng.integers(90, 170))
        z = 1 - 2 * (np.arange(number) + 0.5) / number
        a = GOLDEN * np.arange(number)
        d = np.stack([np.sqrt(1 - z**2) * np.cos(a), np.sqrt(1 - z**2) * np.sin(a), z], 1)
        gone = rng.random() < 0.4
        d = d[(waves(rng, d, 1.2) > -0.2) if gone else (d[:, 2] > -0.85)]
        s = np.linspace(-0.3, 1.3, 6)[None, :, None]
        foot, tip = centre + 0.05 * d, centre + 0.3 * d
        stalks = foot[:, None] + s * (tip - foot)[:, None]
        pale = np.array([0.7, 0.68, 0.62])
        plant.strands.append(Strands(stalks, np.full((len(d), 6), 0.0016), np.broadcast_to(pale * 0.6, (len(d), 3, 3))))
        hairs = 26
        side = facing(d, np.broadcast_to((0.2, 0.3, 1.0), d.shape))
        b = (2 * np.pi * np.arange(hairs) / hairs + rng.uniform(0, 6, (len(d), 1)))[..., None]
        out = np.cos(b) * side[:, None, :, 0] + np.sin(b) * side[:, None, :, 2]
        way = unit(out + 0.55 * d[:, None] + 0.1 * rng.normal(size=out.shape)).reshape(-1, 1, 3)
        t = np.linspace(-0.35, 1.2, 5)[None, :, None]
        parachute = tip.repeat(hairs, 0)[:, None] + 0.1 * (t * way - 0.12 * t**2 * d.repeat(hairs, 0)[:, None])
        plant.strands.append(
            Strands(parachute, np.full(parachute.shape[:2], 0.0011), np.broadcast_to(pale, (len(parachute), 2, 3)))
        )
    a = GOLDEN * np.arange(9)
    out = np.stack([np.cos(a), np.sin(a), 0.4 + 0 * a], 1)
    shape = leaf_templates(rng, "lobed", f["curl"], True)
    plant.leaves.append(
        blades(
            rng,
            shape,
            np.zeros((9, 3)) + (0, 0, -1),
            out,
            np.broadcast_to((0, 0, 1.0), out.shape),
            rng.uniform(0.4, 0.7, 9),
        )
    )
    return plant
