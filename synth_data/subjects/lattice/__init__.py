"""Lattices: nets, fences, lace, knits, baskets and grilles; thin periodic structure with holes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import chance, count, pick, shares, span
from synth_data.subjects.lattice import baskets, cut_outs, fences, nets, textiles, wire_mesh
from synth_data.subjects.lattice.sheets import Pieces, turned
from synth_data.subjects.meshes import Subject, join, rotation, waves
from synth_data.subjects.repeated import fitted
from synth_data.subjects.rods import finish


@dataclass(frozen=True)
class Factors:
    """Variation of a lattice."""

    pattern: tuple = shares(
        net=1.2,
        square_net=0.8,
        goal=0.6,
        hoop=0.7,
        web=0.7,
        gauze=0.7,
        knit=1.4,
        doily=1,
        lace=1.2,
        chain_link=1,
        welded=0.8,
        chicken_wire=0.7,
        picket=0.9,
        railing=1,
        trellis=0.7,
        perforated=0.9,
        grille=0.8,
        basket=1.1,
        racket=1,
    )
    """the pattern that is repeated"""
    cells: tuple = count(9, 26, least=2, most=80)
    """repeats across"""
    openness: tuple = span(0.55, 0.92, least=0.05, most=0.99)
    """share of the sheet that is open: exact for welded mesh and perforated sheet, 0.8 of it for lace, else rough"""
    form: tuple = shares(flat=0.8, wavy=1, curled=0.8, hanging=1.4, draped=0.8, lying=0.6)
    """shape of the sheet in space; fences, baskets and rackets have forms of their own"""
    sag: tuple = span(0.0, 0.5, most=1.5)
    """how deep the folds and bulges are, relative"""
    irregular: tuple = span(0.0, 0.35, most=1)
    """random displacement of the cells, in cells"""
    torn: float = chance(0.15)
    """whether it has torn holes"""
    finish: tuple = shares(steel=1.2, chrome=0.3, brass=0.4, copper=0.3, painted=1.6, rust=0.6, matt=0.8)
    """surface of wires, bars and sheets of metal"""
    tone: tuple = shares(black=1, white=1.8, grey=0.6, brown=0.6, tan=0.8, bright=1.4, pastel=1)
    """colour of threads, and of painted and matt surfaces"""
    roughness: tuple = span(0.1, 0.5, least=0.02, most=1)
    """roughness of glossy surfaces"""
    fuzz: tuple = span(0.0, 1.0, most=3)
    """loose fibres on yarn, relative"""


PATTERNS: dict[str, Callable[[np.random.Generator, dict[str, Any]], Pieces]] = {
    "net": nets.net,
    "square_net": nets.square_net,
    "goal": nets.goal,
    "hoop": nets.hoop,
    "web": nets.web,
    "gauze": textiles.gauze,
    "knit": textiles.knit,
    "doily": textiles.doily,
    "lace": cut_outs.lace,
    "chain_link": wire_mesh.chain_link,
    "welded": wire_mesh.welded,
    "chicken_wire": wire_mesh.chicken_wire,
    "picket": fences.picket,
    "railing": fences.railing,
    "trellis": fences.trellis,
    "perforated": cut_outs.perforated,
    "grille": wire_mesh.grille,
    "basket": baskets.basket,
    "racket": nets.racket,
}


def _grained(rng: np.random.Generator, colour: np.ndarray) -> dict[str, Any]:
    """A wooden or cane surface with streaks along it."""
    v, u = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 64), indexing="ij")
    streak = waves(rng, np.stack([1.5 * u, 30 * v, 0 * u], -1), 1.2, terms=12)
    texture = colour * np.exp(0.22 * streak + 0.08 * rng.normal(size=u.shape))[..., None]
    return {"kind": "plastic", "colour": np.clip(texture, 0.004, 0.92), "roughness": 0.4}


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A lattice from drawn `Factors`; the rest of its shape comes from `rng`."""
    f = factors
    pieces = PATTERNS[f["pattern"]](rng, f)
    tone = colour_of_tone(rng, f["tone"])
    wooden = colour_of_tone(rng, pick(rng, (("brown", 1.0), ("tan", 1.0), ("white", 0.5))))
    materials = {
        "thread": {"kind": "diffuse", "colour": pieces.strands[0].colours[0, 0] if pieces.strands else tone},
        "cloth": {"kind": "diffuse", "colour": colour_of_tone(rng, "white") if rng.random() < 0.6 else any_colour(rng)},
        "second": {"kind": "plastic", "colour": any_colour(rng), "roughness": f["roughness"]},
        "bar": finish(rng, "painted" if rng.random() < 0.5 else "steel", f["tone"], f["roughness"]),
        "wire": finish(rng, f["finish"], f["tone"], f["roughness"]),
        "frame": {"kind": "plastic", "colour": tone, "roughness": f["roughness"]},
        "board": _grained(rng, wooden if rng.random() < 0.7 else tone),
        "cane": _grained(rng, colour_of_tone(rng, "tan" if rng.random() < 0.7 else "brown")),
        "weaver": _grained(rng, colour_of_tone(rng, "tan") if rng.random() < 0.75 else shade(rng, tone, 0.3)),
    }
    meshes = []
    for role, several in pieces.meshes.items():
        several = [m for m in several if len(m.faces)]
        if role == "own":
            meshes += several
        elif several:
            meshes.append(replace(join(*several), material=materials[role]))
    turn = rotation((0, 0, 1), rng.uniform(-25, 25))
    whole = turned(Pieces({"all": meshes}, pieces.strands), turn)
    drawn = {"materials": [m.material["kind"] for m in meshes], "strands": sum(len(s.points) for s in whole.strands)}
    return fitted(Subject(whole.meshes["all"], whole.strands, drawn=drawn))
