"""Foliage: branches, house plants, ferns, palms, flowers, bushes, trees, vines, conifers, grass and reeds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone, shade, srgb_to_linear
from synth_data.factors import chance, shares, span
from synth_data.subjects.foliage import flowers, fronds, grasses, potted, woody
from synth_data.subjects.foliage.leaves import PALETTES, VARIANTS, leaf_texture
from synth_data.subjects.foliage.stems import Plant
from synth_data.subjects.meshes import Subject, join, placed, rotation, waves
from synth_data.subjects.repeated import fitted


@dataclass(frozen=True)
class Factors:
    """Variation of a plant."""

    plant: tuple = shares(
        branch=1.6,
        house_plant=1.3,
        fern=1.1,
        palm=1,
        flowers=1.5,
        bush=1,
        tree=1,
        vine=0.8,
        conifer=0.9,
        grass=1.2,
        reeds=0.7,
        dandelion=0.6,
        succulent=0.7,
        bare=0.6,
    )
    """kind of plant"""
    leaf: tuple = shares(ovate=1.4, lanceolate=1.2, heart=0.9, round=0.6, lobed=0.8, palmate=0.9, serrate=1, linear=0.5)
    """outline of the leaves, for plants that do not determine it"""
    season: tuple = shares(green=2.6, spring=0.7, autumn=1.1, dry=0.5, purple=0.4, variegated=0.6, silver=0.4)
    """colours of the leaves"""
    leaf_size: tuple = span(0.7, 1.4, least=0.1, most=4, log=True)
    """size of the leaves, relative"""
    density: tuple = span(0.5, 1.2, least=0.05, most=3)
    """number of leaves, relative"""
    curl: tuple = span(0.0, 1.0, most=3)
    """how far leaves bend, fold and wave"""
    droop: tuple = span(0.0, 1.0, most=3)
    """how far stems and leaves hang"""
    surface: tuple = shares(translucent=2, plastic=1, diffuse=0.6)
    """material of the leaves: translucent, glossy or matt"""
    transmission: tuple = span(0.1, 0.5, most=1)
    """share of the light that passes through a translucent leaf"""
    eaten: float = chance(0.12)
    """whether insects have made holes in the leaves"""
    flower_tone: tuple = shares(white=1.2, bright=2.2, pastel=1.6)
    """colour of petals, fruit and blossom"""


PLANTS: dict[str, Callable[[np.random.Generator, dict[str, Any]], Plant]] = {
    "branch": woody.branch,
    "house_plant": potted.house_plant,
    "fern": fronds.fern,
    "palm": fronds.palm,
    "flowers": flowers.flowers,
    "bush": woody.bush,
    "tree": woody.tree,
    "vine": potted.vine,
    "conifer": woody.conifer,
    "grass": grasses.grass,
    "reeds": grasses.reeds,
    "dandelion": flowers.dandelion,
    "succulent": potted.succulent,
    "bare": woody.bare,
}
GREEN_STEMS = ("house_plant", "fern", "flowers", "vine", "grass", "reeds", "dandelion", "succulent")


def _leaf_material(rng: np.random.Generator, f: dict[str, Any]) -> dict[str, Any]:
    material: dict[str, Any] = {"kind": f["surface"], "colour": leaf_texture(rng, f["season"])}
    if f["surface"] == "translucent":
        material["transmission"] = f["transmission"]
    elif f["surface"] == "plastic":
        material["roughness"] = rng.uniform(0.15, 0.5)
    if f["eaten"]:
        size = 64
        t, x = np.meshgrid(np.arange(size) / size, np.arange(VARIANTS * size) / size, indexing="ij")
        bitten = waves(rng, np.stack([x, t, 0 * x], -1), 9, terms=16)
        material["opacity"] = np.clip(0.5 + (rng.uniform(0.9, 1.5) - bitten) * 4, 0, 1).astype(np.float32)
    return material


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A plant from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    plant = PLANTS[f["plant"]](rng, f)
    bark = colour_of_tone(rng, "brown" if rng.random() < 0.7 else "grey") * 0.6
    green = srgb_to_linear(np.array(PALETTES["dry" if f["season"] == "dry" else "green"][int(rng.integers(4))]))
    stem = shade(rng, green if f["plant"] in GREEN_STEMS else bark, 0.2)
    meshes = [replace(join(*plant.stems), material={"kind": "diffuse", "colour": stem})] if plant.stems else []
    if plant.leaves:
        meshes.append(replace(join(*plant.leaves), material=_leaf_material(rng, f)))
    meshes += plant.others
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    meshes = [placed(m, turn) for m in meshes]
    strands = [replace(s, points=s.points @ turn.T) for s in plant.strands]
    drawn = {"materials": sorted({m.material["kind"] for m in meshes}), "strands": sum(len(s.points) for s in strands)}
    return fitted(Subject(meshes, strands, drawn=drawn))
