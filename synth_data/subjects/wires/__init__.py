"""Wires: thin rods, springs, wheels, frames, chains and cables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import pick, shares, span
from synth_data.subjects.meshes import Subject, join, random_rotation, rotation, waves
from synth_data.subjects.repeated import fitted
from synth_data.subjects.rods import finish
from synth_data.subjects.wires import accessories, bent_wire, chains, household, structures, wheels
from synth_data.subjects.wires.parts import Parts


@dataclass(frozen=True)
class Factors:
    """Variation of a wire object. Lengths are in subject radii, before it is scaled to radius 1."""

    shape: tuple = shares(
        sculpture=1,
        tangle=0.5,
        spring=1,
        wheel=1,
        bicycle=1,
        antenna=1,
        hanger=0.9,
        glasses=1.2,
        headphones=1.1,
        umbrella=1,
        scaffold=0.8,
        pylon=0.8,
        clips=0.8,
        chain=1,
        earrings=0.9,
        cables=1,
        cage=0.9,
        whisk=0.6,
        rack=0.8,
    )
    """kind of object"""
    radius: tuple = span(0.005, 0.022, least=0.0005, most=0.1, log=True)
    """radius of the main wire"""
    finish: tuple = shares(steel=1.5, chrome=0.8, brass=0.7, copper=0.6, gold=0.6, painted=1.6, rust=0.6, matt=0.8)
    """surface of the main wire"""
    tone: tuple = shares(black=1.6, white=1, grey=0.5, brown=0.4, tan=0.3, bright=1.6, pastel=0.5)
    """colour of painted and matt wire"""
    roughness: tuple = span(0.08, 0.5, least=0.02, most=1)
    """roughness of glossy surfaces"""
    bend: tuple = span(0.0, 0.06, most=0.5)
    """how far the object is deformed"""
    lenses: tuple = shares(none=1, dark=1, clear=0.5)
    """lenses of glasses; the background is seen through clear ones"""


SHAPES: dict[str, Callable[[np.random.Generator, float, dict[str, Any]], Parts]] = {
    "sculpture": bent_wire.sculpture,
    "tangle": bent_wire.tangle,
    "spring": bent_wire.spring,
    "wheel": wheels.wheel,
    "bicycle": wheels.bicycle,
    "antenna": structures.antenna,
    "hanger": household.hanger,
    "glasses": accessories.glasses,
    "headphones": accessories.headphones,
    "umbrella": accessories.umbrella,
    "scaffold": structures.scaffold,
    "pylon": structures.pylon,
    "clips": bent_wire.clips,
    "chain": chains.chain,
    "earrings": accessories.earrings,
    "cables": chains.cables,
    "cage": household.cage,
    "whisk": household.whisk,
    "rack": household.rack,
}
LYING = ("sculpture", "tangle", "spring", "wheel", "clips", "earrings", "cables")  # may lie on any side


def _materials(rng: np.random.Generator, f: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A material for each role."""
    main = finish(rng, f["finish"], f["tone"], f["roughness"])
    glossy = {"kind": "plastic", "colour": any_colour(rng), "roughness": f["roughness"]}
    second = glossy if rng.random() < 0.6 else finish(rng, pick(rng, Factors().finish), f["tone"], f["roughness"])
    chrome = finish(rng, "chrome" if rng.random() < 0.6 else "steel", f["tone"], f["roughness"])
    cloth, odd = any_colour(rng), any_colour(rng)
    sheet = (
        {"kind": "translucent", "transmission": rng.uniform(0.1, 0.4)} if rng.random() < 0.6 else {"kind": "diffuse"}
    )
    clear = {"kind": "thin_glass", "colour": np.clip(1 - 0.25 * rng.random(3), 0, 1), "ior": 1.5}
    dark = {"kind": "plastic", "colour": shade(rng, np.array([0.02, 0.02, 0.025]), 0.4), "roughness": 0.06}
    return {
        "main": main,
        "spokes": chrome,
        "metal": chrome,
        "rim": chrome if rng.random() < 0.5 else second,
        "second": second,
        "rubber": {
            "kind": "plastic",
            "colour": shade(rng, np.full(3, 0.02 if rng.random() < 0.8 else 0.6), 0.3),
            "roughness": 0.4,
        },
        "wood": {
            "kind": "plastic",
            "colour": colour_of_tone(rng, "brown" if rng.random() < 0.6 else "tan"),
            "roughness": 0.35,
        },
        "pads": {"kind": "plastic", "colour": np.array([0.75, 0.72, 0.68]), "roughness": 0.2},
        "lens": clear if f["lenses"] == "clear" else dark,
        "canopy": sheet | {"colour": cloth},
        "canopy_odd": sheet | {"colour": odd},
    }


def bent(rng: np.random.Generator, points: np.ndarray, amount: float) -> np.ndarray:
    """Points [P, 3] moved by a smooth random field by about `amount`."""
    return points + amount * np.stack([waves(rng, points, 1.4) for _ in range(3)], -1)


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A wire object from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    parts = {role: join(*meshes) for role, meshes in SHAPES[f["shape"]](rng, f["radius"], f).items() if meshes}
    materials = _materials(rng, f)
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    if f["shape"] in LYING and rng.random() < 0.7:
        turn = random_rotation(rng)
    # one field for all parts, so that they stay connected
    counts = np.cumsum([len(m.vertices) for m in parts.values()])[:-1]
    moved_points = bent(rng, np.concatenate([m.vertices for m in parts.values()]), f["bend"])
    split = np.split(moved_points, counts)
    meshes = [
        replace(mesh, vertices=points @ turn.T, material=materials[role])
        for (role, mesh), points in zip(parts.items(), split, strict=True)
    ]
    return fitted(Subject(meshes, drawn={"roles": list(parts), "materials": [m.material["kind"] for m in meshes]}))
