"""Glass and similar materials: vessels with liquids, lenses, panes, beads, splashes, bubbles, plastic film and bags.

Every refracting body is closed with its normals outwards; where three media meet (liquid in a glass), each piece
of boundary is one mesh with the refractive indices of both sides. Walls can instead be sheets without refraction.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone
from synth_data.factors import chance, count, pick, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Subject,
    ball,
    box,
    join,
    lathe,
    placed,
    random_rotation,
    rod,
    rotation,
    sphere_directions,
    surface,
    tube,
    waves,
)


@dataclass(frozen=True)
class Factors:
    """Variation of a glass subject. Lengths are in subject radii."""

    object: tuple = shares(
        wine=1.2,
        tumbler=1,
        bottle=1.2,
        jar=0.9,
        vase=0.9,
        jug=0.7,
        dome=0.6,
        bulb=0.8,
        magnifier=0.6,
        beads=0.6,
        sphere=0.5,
        block=0.5,
        pane=0.9,
        eyeglasses=1,
        splash=0.8,
        bubbles=0.9,
        film=1,
        bag=1,
    )
    """kind of object; the solid ones (magnifier, beads, sphere, block, splash) refract most"""
    wall: tuple = shares(sheet=1, solid=1)
    """walls of hollow objects: one sheet without refraction, or a solid wall with two faces that refracts"""
    thickness: tuple = span(0.008, 0.03, least=0.002, most=0.15, log=True)
    """thickness of solid walls; half the thickness of lenses"""
    ior: tuple = span(1.45, 1.6, least=1.01, most=2.5)
    """index of refraction of glass"""
    tint: tuple = shares(clear=2.5, green=0.7, brown=0.6, blue=0.6, any=1)
    """colour of the glass"""
    tint_depth: tuple = span(0.1, 0.7, most=0.98)
    """share of its weakest channel that tinted glass absorbs in one crossing of a wall or body"""
    frosted: tuple = chance(0.12)
    """whether refracting bodies and solid walls are frosted"""
    roughness: tuple = span(0.06, 0.35, least=0.02, most=0.8, log=True)
    """microfacet alpha of frosted glass"""
    liquid: tuple = chance(0.4)
    """whether a vessel holds a liquid"""
    liquid_ior: tuple = span(1.32, 1.42, least=1.01, most=2)
    """refractive index of the liquid; near 1 it tints but hardly refracts"""
    level: tuple = span(0.15, 0.85, least=0.05, most=0.95)
    """filling height, relative to the cavity's height"""
    wrinkles: tuple = span(0.02, 0.1, most=0.4)
    """depth of creases in film and bags"""
    pieces: tuple = count(4, 16, least=1, most=200)
    """number of beads, bubbles or drops"""
    opaque: tuple = chance(0.6)
    """whether there are opaque parts: caps, labels, lids, straws, flowers, contents"""


CLEAR = np.array([0.97, 0.985, 0.98])  # ordinary glass, a little green
COLUMNS = 65
GAP = 0.004  # between touching bodies, which must not overlap


def _tint(rng: np.random.Generator, kind: str, depth: float) -> np.ndarray:
    """Transmittance [3] of one crossing of a wall or body."""
    if kind == "clear":
        return CLEAR.copy()
    weak = {"green": (1.0, 0.25, 0.8), "brown": (0.25, 0.7, 1.0), "blue": (1.0, 0.5, 0.1), "any": rng.random(3)}[kind]
    weak = np.clip(np.asarray(weak) + 0.06 * rng.normal(size=3), 0, None)
    weak = (weak - 0.5 * weak.min()) / (weak.max() - 0.5 * weak.min() + 1e-9)
    return np.clip((1 - depth) ** weak, 0.01, 0.99)


def _liquid_tint(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A drink's name and its transmittance [3] across the vessel."""
    drinks = {
        "water": (0.96, 0.98, 0.985),
        "red wine": (0.25, 0.012, 0.02),
        "rose": (0.85, 0.42, 0.38),
        "beer": (0.85, 0.5, 0.09),
        "cola": (0.2, 0.06, 0.02),
        "juice": (0.9, 0.42, 0.04),
        "mint": (0.25, 0.75, 0.4),
        "ink": tuple(rng.uniform(0.02, 0.9, 3)),
    }
    name = tuple(drinks)[int(rng.integers(len(drinks)))]
    return name, np.clip(np.array(drinks[name]) ** rng.uniform(0.6, 1.4), 0.003, 0.99)


def _glass(f: dict[str, Any], tint: np.ndarray, **more: Any) -> dict[str, Any]:
    """The material of a closed body."""
    rough = {"roughness": f["roughness"]} if f["frosted"] else {}
    return {"kind": "glass", "colour": tint, "ior": f["ior"], **rough, **more}


def _sheet(f: dict[str, Any], tint: np.ndarray) -> dict[str, Any]:
    return {"kind": "thin_glass", "colour": tint, "ior": f["ior"]}


def _opaque(rng: np.random.Generator, colour: np.ndarray | None = None, kind: str | None = None) -> dict[str, Any]:
    if kind is None:
        kind = pick(rng, (("diffuse", 1.0), ("plastic", 1.0), ("metal", 0.6)))
    if colour is None:
        colour = any_colour(rng)
    if kind == "metal":
        colour = 0.35 + 0.6 * colour
    return {"kind": kind, "colour": np.clip(colour, 0.003, 0.95), "roughness": float(rng.uniform(0.08, 0.4))}


def _closed(profile: np.ndarray) -> Mesh:
    """A body of revolution; the profile [K, 2] runs from axis to axis, upwards on the outside."""
    return lathe(profile, COLUMNS)


def _smooth(points: list[tuple[float, float]], number: int = 40) -> np.ndarray:
    """A monotone curve [number, 2] of (radius, height) through points of rising height."""
    from scipy.interpolate import PchipInterpolator

    r, z = np.array(points, dtype=np.float64).T
    height = np.linspace(z[0], z[-1], number)
    return np.stack([PchipInterpolator(z, r)(height), height], 1)


def _vessel(
    rng: np.random.Generator,
    f: dict[str, Any],
    tint: np.ndarray,
    bowl: np.ndarray,
    base: np.ndarray | None = None,
    floor: float = 0.0,
) -> tuple[list[Mesh], dict[str, Any]]:
    """A hollow body of revolution, with liquid if the factors say so, and a record of it.

    `bowl` [K, 2]: the outer wall as (radius, height), heights rising; `base` [J, 2]: a foot under it, from the axis
    to the bowl; `floor`: thickness of the bottom beyond the wall's.
    """
    t = f["thickness"]
    low, high = bowl[0, 1], bowl[-1, 1]
    bottom = low + t + floor
    height = np.linspace(bottom, high, 48)
    radius = np.interp(height, bowl[:, 1], bowl[:, 0])
    corner = min(0.25 * radius[:24].max(), 0.4 * (high - bottom))
    s = np.clip((height - bottom) / corner, 0, 1)
    inner = np.stack([np.maximum(radius - t, 0.4 * radius) * np.sqrt(1 - (1 - s) ** 2) ** 0.7, height], 1)
    inner[0, 0] = 0.0
    surface_z = bottom + f["level"] * (high - bottom)
    cut = int(np.clip(np.searchsorted(height, surface_z), 4, 45))
    wet = inner[: cut + 1]
    lid = np.array([[wet[-1, 0], wet[-1, 1]], [0.0, wet[-1, 1]]])
    drink, drink_tint = _liquid_tint(rng)
    drawn = {"wall": f["wall"], "drink": drink if f["liquid"] else None}
    if f["wall"] == "sheet":
        # the foot is a separate solid body below the sheet
        under = [] if base is None else [_closed(np.concatenate([base, [[0.0, base[-1, 1]]]]))]
        parts = [replace(m, material=_glass(f, tint)) for m in under]
        skin = np.concatenate([[[0.0, low]], bowl]) + (0, GAP)
        parts.append(replace(_closed(skin), material=_sheet(f, tint)))
        if f["liquid"]:
            body = np.concatenate([wet, lid[1:]]) * (0.99, 1)
            body[:, 0] = np.minimum(body[:, 0], np.maximum(np.interp(body[:, 1], bowl[:, 1], bowl[:, 0]) - GAP, 0))
            parts.append(
                replace(_closed(body), material={"kind": "glass", "colour": drink_tint, "ior": f["liquid_ior"]})
            )
        return parts, drawn
    start = np.array([[0.0, low]]) if base is None else base
    rim = np.array([[bowl[-1, 0] - 0.5 * (bowl[-1, 0] - inner[-1, 0]), high + 0.35 * t]])
    outside = np.concatenate([start, bowl, rim])
    if not f["liquid"]:
        return [replace(_closed(np.concatenate([outside, inner[::-1]])), material=_glass(f, tint))], drawn
    dry = _closed(np.concatenate([outside, inner[cut:][::-1]]))
    wetted = _closed(wet[::-1])
    top = _closed(lid)
    liquid = {"kind": "glass", "colour": drink_tint, "ior": f["liquid_ior"]}
    # the wetted wall has the square root of both tints; `bsdf` takes the root again
    return [
        replace(dry, material=_glass(f, tint)),
        replace(wetted, material=_glass(f, tint * drink_tint, exterior_ior=f["liquid_ior"])),
        replace(top, material=liquid),
    ], drawn


def _band(profile: np.ndarray, low: float, high: float, turn: tuple[float, float], lift: float) -> Mesh:
    """A label: the part of a body of revolution between two heights and two angles (turns), `lift` above it."""
    z = np.linspace(low, high, 12)
    r = np.interp(z, profile[:, 1], profile[:, 0])[:, None] + lift
    a = 2 * np.pi * np.linspace(*turn, 40)[None]
    return surface(np.stack([r * np.cos(a), r * np.sin(a), np.broadcast_to(z[:, None], (12, 40))], -1))


def _label(rng: np.random.Generator) -> np.ndarray:
    """A printed label's texture [64, 64, 3]: paper, a frame, bars like lettering."""
    paper, ink, spot = (
        colour_of_tone(rng, "white") if rng.random() < 0.6 else any_colour(rng),
        any_colour(rng),
        any_colour(rng),
    )
    page = np.broadcast_to(paper, (64, 64, 3)).copy()
    if rng.random() < 0.6:
        page[:, :3] = page[:, -3:] = page[:3] = page[-3:] = ink
    y = int(rng.integers(8, 16))
    while y < 54:
        tall = int(rng.integers(2, 8))
        x = int(rng.integers(6, 20))
        page[y : y + tall, x : 64 - x] = ink if rng.random() < 0.7 else spot
        letters = rng.random(64) < 0.3
        letters[:x] = False
        page[y : y + tall, letters] = paper
        y += tall + int(rng.integers(2, 8))
    return np.clip(page.transpose(1, 0, 2), 0.003, 0.95)  # u runs up the band


def _wine(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, stem, foot = rng.uniform(0.32, 0.5), rng.uniform(0.25, 0.75), rng.uniform(0.26, 0.38)
    tall, thin = rng.uniform(0.6, 1.05), rng.uniform(0.025, 0.05)
    flare = rng.uniform(0.55, 1.05)
    z = -0.5 * (stem + tall)
    base = np.array(
        [[0, z], [0.9 * foot, z], [foot, z + 0.012], [foot, z + 0.025], [0.5 * foot, z + 0.05], [1.4 * thin, z + 0.11]]
    )
    shaft = np.stack([np.full(6, thin), np.linspace(z + 0.16, z + stem, 6)], 1)
    low = z + stem + 0.02
    bowl = _smooth(
        [(1.3 * thin, low), (0.72 * wide, low + 0.12 * tall), (wide, low + 0.42 * tall), (flare * wide, low + tall)]
    )
    return _vessel(rng, f, tint, bowl, np.concatenate([base, shaft]), floor=0.03)


def _tumbler(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, tall, taper = rng.uniform(0.3, 0.6), rng.uniform(0.7, 1.6), rng.uniform(0.7, 1.02)
    waist = rng.uniform(0.9, 1.1)
    z = -tall / 2
    bowl = _smooth(
        [(0.93 * taper * wide, z), (taper * wide, z + 0.03), (waist * (1 + taper) / 2 * wide, 0), (wide, tall / 2)]
    )
    parts, drawn = _vessel(rng, f, tint, bowl, floor=rng.choice([0.0, 0.03, 0.1]))
    if f["opaque"]:
        reach = 0.75 * taper * wide
        for _ in range(int(rng.integers(1, 3))):  # straws lean at the rim without touching the walls
            a = rng.uniform(0, 2 * np.pi)
            way = np.array([np.cos(a), np.sin(a), 0])
            side = np.array([-way[1], way[0], 0]) * rng.uniform(-0.15, 0.15)
            straw = rod(
                -0.5 * reach * way + side + (0, 0, z + 0.18), reach * way + side + (0, 0, tall / 2 + 0.35), 0.025
            )
            if f["liquid"]:  # a rod through the liquid's surface would be in two bodies: it ends above
                h = z + 0.2 + f["level"] * tall
                straw = rod(
                    0.2 * reach * way + side + (0, 0, min(h + 0.06, tall / 2)),
                    reach * way + side + (0, 0, tall / 2 + 0.35),
                    0.025,
                )
            parts.append(replace(straw, material=_opaque(rng, kind="plastic")))
    return parts, drawn


def _bottle(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, neck, tall = rng.uniform(0.2, 0.42), rng.uniform(0.08, 0.13), rng.uniform(1.4, 1.9)
    shoulder, throat = rng.uniform(0.45, 0.7), rng.uniform(0.72, 0.82)
    z = -tall / 2
    bowl = _smooth(
        [
            (0.9 * wide, z),
            (wide, z + 0.05),
            (wide * rng.uniform(0.9, 1.03), z + shoulder * tall),
            (neck, z + throat * tall),
            (0.95 * neck, z + 0.95 * tall),
            (1.15 * neck, z + 0.97 * tall),
            (1.1 * neck, z + tall),
        ],
        72,
    )
    f = {**f, "thickness": min(f["thickness"], 0.3 * neck), "level": min(f["level"], shoulder)}
    parts, drawn = _vessel(rng, f, tint, bowl, floor=0.03)
    if f["opaque"]:
        cap = rod(
            (0, 0, tall / 2 + GAP + 0.5 * f["thickness"]), (0, 0, tall / 2 + rng.uniform(0.06, 0.16)), 1.25 * neck
        )
        cork = rng.random() < 0.3
        parts.append(
            replace(
                cap, material=_opaque(rng, colour_of_tone(rng, "tan") if cork else None, "diffuse" if cork else None)
            )
        )
        low = z + 0.12 + rng.uniform(0, 0.15)
        start = rng.random()
        label = _band(
            bowl, low, z + shoulder * tall * rng.uniform(0.7, 0.92), (start, start + rng.uniform(0.4, 0.8)), 2 * GAP
        )
        parts.append(replace(label, material=_opaque(rng, _label(rng), "diffuse")))
    return parts, drawn


def _jar(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, tall, mouth = rng.uniform(0.4, 0.65), rng.uniform(0.9, 1.4), rng.uniform(0.75, 0.95)
    z = -tall / 2
    bowl = _smooth(
        [
            (0.9 * wide, z),
            (wide, z + 0.06),
            (wide, z + 0.75 * tall),
            (mouth * wide, z + 0.87 * tall),
            (mouth * wide, z + tall),
        ],
        56,
    )
    contents = f["opaque"] and rng.random() < 0.5
    parts, drawn = _vessel(rng, {**f, "liquid": f["liquid"] and not contents}, tint, bowl, floor=0.02)
    if f["opaque"]:
        lid = rod(
            (0, 0, tall / 2 + 0.5 * f["thickness"] + GAP),
            (0, 0, tall / 2 + rng.uniform(0.08, 0.2)),
            1.06 * mouth * wide,
        )
        parts.append(replace(lid, material=_opaque(rng)))
    if contents:
        size = rng.uniform(0.07, 0.13)
        reach = 0.93 * wide - f["thickness"] - size
        colours = [any_colour(rng) for _ in range(3)]
        for k in range(3):
            balls = []
            for _ in range(int(rng.integers(5, 14))):
                a, r = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
                h = z + f["thickness"] + 0.04 + size + rng.uniform(0, 0.5) * tall
                balls.append(ball(size * rng.uniform(0.8, 1), (r * np.cos(a), r * np.sin(a), h), rows=10))
            parts.append(replace(join(*balls), material=_opaque(rng, colours[k])))
    return parts, drawn | {"contents": bool(contents)}


def _vase(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    tall = rng.uniform(1.0, 1.5)
    z = -tall / 2
    widths = rng.uniform(0.16, 0.5, 5)
    widths[0] = rng.uniform(0.2, 0.35)
    bowl = _smooth(list(zip(widths, z + np.array([0, 0.2, 0.45, 0.75, 1]) * tall, strict=True)), 64)
    parts, drawn = _vessel(rng, f, tint, bowl, floor=rng.choice([0.0, 0.06]))
    if f["opaque"]:
        stems, blooms = [], []
        mouth = bowl[-1, 0] - f["thickness"]
        for _ in range(int(rng.integers(2, 7))):
            a, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
            way = np.array([np.cos(a), np.sin(a), 0])
            s = np.linspace(0, 1, 10)[:, None]
            stem = (
                (0, 0, 0.55 * tall * 0.8)
                + 0.4 * mouth * s * way
                + out * s**2 * way * 0.6
                + s * (0, 0, rng.uniform(0.4, 0.8))
            )
            stems.append(tube(stem, 0.013))
            turn = rotation(rng.normal(size=3), rng.uniform(0, 60))
            for k in range(6):
                b = 2 * np.pi * k / 6
                petal = ball((0.1, 0.05, 0.015), (0.09, 0, 0.02), rows=8)
                blooms.append(placed(placed(petal, rotation(np.array([0, 0, 1]), np.rad2deg(b))), turn, stem[-1]))
        parts.append(replace(join(*stems), material=_opaque(rng, np.array([0.06, 0.2, 0.04]), "diffuse")))
        parts.append(replace(join(*blooms), material=_opaque(rng, kind="diffuse")))
    return parts, drawn


def _jug(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    parts, drawn = _tumbler(rng, {**f, "opaque": False}, tint)
    outer = parts[0].vertices
    tall = np.ptp(outer[:, 2])
    radius = np.hypot(outer[:, 0], outer[:, 1]).max()
    a = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 24)
    thick = rng.uniform(0.04, 0.07)
    path = np.stack(
        [radius + thick + GAP + rng.uniform(0.2, 0.35) * np.cos(a), 0 * a, rng.uniform(0.2, 0.32) * tall * np.sin(a)], 1
    )
    return [*parts, replace(tube(path, thick), material=_glass(f, tint))], drawn


def _dome(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A bell jar over something, on a plate."""
    wide, tall = rng.uniform(0.4, 0.62), rng.uniform(0.5, 1.2)
    a = np.linspace(0, 0.5 * np.pi, 24)
    arc = np.stack([wide * np.cos(a), tall - wide + wide * np.sin(a)], 1)
    arc[-1, 0] = 0
    bell = np.concatenate([[[wide, 0.0]], arc]) if tall > wide else np.stack([wide * np.cos(a), tall * np.sin(a)], 1)
    bell[-1, 0] = 0
    if f["wall"] == "sheet":
        glass = replace(lathe(bell, COLUMNS), material=_sheet(f, tint))
    else:
        t = f["thickness"]
        inside = bell * [(wide - t) / wide, 1] - (0, 0)
        inside[:, 1] *= (bell[-1, 1] - t) / bell[-1, 1]
        loop = np.concatenate([inside[:1], bell, inside[::-1]])
        glass = replace(lathe(loop, COLUMNS), material=_glass(f, tint))
    shift = (0, 0, -tall / 2)
    knob = replace(ball(0.07, (0, 0, tall + 0.07 + GAP), rows=16), material=_glass(f, tint))
    parts = [placed(glass, None, shift), placed(knob, None, shift)]
    if f["opaque"]:
        plate = rod((0, 0, -0.08), (0, 0, -GAP), wide * rng.uniform(1.05, 1.25))
        parts.append(placed(replace(plate, material=_opaque(rng, colour_of_tone(rng, "brown"))), None, shift))
        thing = ball(np.array([0.5, 0.5, 0.4]) * wide * rng.uniform(0.6, 1.1, 3), (0, 0, 0.4 * tall))
        rough = 1 + 0.12 * waves(rng, thing.vertices, 5.0)
        thing = replace(thing, vertices=thing.vertices * rough[:, None] * (0.9, 0.9, 0.6) + (0, 0, 0.05))
        parts.append(placed(replace(thing, material=_opaque(rng)), None, shift))
    return parts, {"wall": f["wall"]}


def _bulb(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, neck = rng.uniform(0.42, 0.6), rng.uniform(0.2, 0.26)
    a = np.linspace(np.pi / 2, -0.25 * np.pi, 28)
    globe = np.stack([wide * np.cos(a), 0.35 + wide * np.sin(a)], 1)[::-1]
    long = rng.uniform(0.35, 0.6)
    neck_part = _smooth(
        [(neck, globe[0, 1] - long), (1.02 * neck, globe[0, 1] - 0.75 * long), (globe[0, 0], globe[0, 1])], 14
    )
    shell = np.concatenate([neck_part[:-1], globe])
    shell[-1, 0] = 0
    if f["wall"] == "sheet":
        glass = replace(lathe(shell, COLUMNS), material=_sheet(f, tint))
    else:
        t = min(f["thickness"], 0.02)
        inside = shell.copy()
        inside[:, 0] *= (wide - t) / wide
        inside[-1, 0] = 0
        inside[:, 1] = inside[:, 1] - t * np.clip((inside[:, 1] - 0.35) / wide, 0, 1)
        glass = replace(lathe(np.concatenate([inside[:1], shell, inside[::-1]]), COLUMNS), material=_glass(f, tint))
    low = shell[0, 1]
    z = np.linspace(low - GAP, low - 0.45, 60)
    screw = np.stack([0.92 * neck + 0.02 * np.cos(2 * np.pi * 6 * np.linspace(0, 1, 60)), z], 1)[::-1]
    cap = lathe(np.concatenate([[[0, low - 0.52], [0.4 * neck, low - 0.5]], screw, [[0.0, low - GAP]]]), 48)
    parts = [glass, replace(cap, material=_opaque(rng, np.array([0.6, 0.58, 0.52]), "metal"))]
    if rng.random() < 0.8:
        s = np.linspace(-1, 1, 60)
        spread = 0.4 * wide
        top = 0.4
        coil = np.stack(
            [spread * s, 0.02 * np.sin(70 * s), top + 0.06 * np.cos(3 * np.pi * s) + 0.02 * np.cos(70 * s)], 1
        )
        wires = [tube(coil, 0.006)]
        wires += [
            tube(np.array([[0.08 * k, 0, low], [0.1 * k, 0, 0.1], [spread * k, 0, top - 0.06]]), 0.008) for k in (-1, 1)
        ]
        parts.append(replace(join(*wires), material=_opaque(rng, np.array([0.3, 0.27, 0.25]), "metal")))
    drawn = {"wall": f["wall"]}
    if rng.random() < 0.6:
        parts = [placed(p, rotation(np.array([1.0, 0, 0]), 180)) for p in parts]
    return parts, drawn


def _lens(radius: float, sag: float, edge: float) -> Mesh:
    """A biconvex lens about z: half thickness `sag` + `edge` in the middle, `edge` at the rim."""
    r = np.linspace(0, 1, 14)
    front = np.stack([radius * r, -edge - sag * (1 - r**2)], 1)
    back = np.stack([radius * r, edge + sag * (1 - r**2)], 1)[::-1]
    return lathe(np.concatenate([front, back]), COLUMNS)


def _ring(radius: float, thick: float) -> Mesh:
    a = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return tube(np.stack([radius * np.cos(a), radius * np.sin(a), 0 * a], 1), thick, closed=True)


def _magnifier(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    radius, thick = rng.uniform(0.4, 0.55), rng.uniform(0.03, 0.06)
    lens = replace(_lens(radius - GAP, 2 * f["thickness"], 0.012), material=_glass(f, tint))
    ring = replace(_ring(radius + thick, thick), material=_opaque(rng))
    handle = rod(
        (0, -radius - 2 * thick, 0), (0, -radius - 2 * thick - rng.uniform(0.6, 0.9), 0), rng.uniform(0.05, 0.09)
    )
    turn = rotation(np.array([1.0, 0, 0]), 90) @ rotation(np.array([0, 0, 1.0]), rng.uniform(-60, 60))
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360)) @ turn
    parts = [placed(m, turn, (0, 0, 0.3)) for m in (lens, ring, replace(handle, material=_opaque(rng)))]
    return parts, {}


def _beads(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A string of glass beads, closed or open."""
    number = max(f["pieces"], 3)
    a = np.linspace(0, 2 * np.pi, number, endpoint=False)
    path = np.stack([0.8 * np.cos(a), 0.8 * np.sin(a) * rng.uniform(0.5, 1), 0.15 * np.sin(2 * a)], 1)
    apart = np.linalg.norm(path - np.roll(path, 1, 0), axis=1)
    radius = 0.48 * np.minimum(apart, np.roll(apart, -1))
    radius = np.minimum(radius, 0.3) * rng.uniform(0.7, 1, number)
    second = _tint(rng, "any", f["tint_depth"])
    parts = []
    for colour, chosen in ((tint, range(0, number, 2)), (second, range(1, number, 2))):
        shapes = [ball(radius[k], path[k], rows=20) for k in chosen]
        parts.append(replace(join(*shapes), material=_glass(f, colour)))
    cord = []  # between the beads only: no cord runs through glass
    for k in range(number):
        n = (k + 1) % number
        way = (path[n] - path[k]) / np.linalg.norm(path[n] - path[k])
        b, e = path[k] + (radius[k] + 0.002) * way, path[n] - (radius[n] + 0.002) * way
        if (e - b) @ way > 0.01:
            cord.append(rod(b, e, 0.012))
    if cord:
        parts.append(replace(join(*cord), material=_opaque(rng, kind="diffuse")))
    turn = random_rotation(rng)
    return [placed(p, turn) for p in parts], {}


def _sphere(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """One hollow globe (always so if walls are sheets), or marbles side by side."""
    if f["wall"] == "sheet" or rng.random() < 0.25:
        if f["wall"] == "sheet":
            return [replace(ball(0.9, rows=40), material=_sheet(f, tint))], {"wall": "sheet"}
        inside = ball(0.9 - f["thickness"], rows=40)
        inside = replace(inside, faces=inside.faces[:, ::-1])
        return [replace(join(ball(0.9, rows=40), inside), material=_glass(f, tint))], {"wall": "solid"}
    parts = []
    placed_at: list[tuple[np.ndarray, float]] = []
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.25, 0.55)
        for _ in range(30):
            centre = rng.normal(size=3) * (0.45, 0.45, 0.2)
            if all(np.linalg.norm(centre - c) > radius + r + 0.01 for c, r in placed_at):
                placed_at.append((centre, radius))
                colour = tint if not parts else _tint(rng, pick(rng, Factors().tint), f["tint_depth"])
                parts.append(replace(ball(radius, centre, rows=32), material=_glass(f, colour)))
                break
    return parts, {"marbles": len(parts)}


def _block(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A cuboid, a prism, a cut stone or ice."""
    form = ("cuboid", "prism", "stone", "ice")[int(rng.integers(4))]
    if form == "cuboid":
        body = placed(box(rng.uniform(0.6, 1.1, 3)), rotation(np.array([0, 0, 1.0]), rng.uniform(0, 90)))
    elif form == "prism":
        sides = int(rng.integers(3, 7))
        a = np.linspace(0, 2 * np.pi, sides + 1)
        body = rod((-0.7, 0, 0), (0.7, 0, 0), rng.uniform(0.3, 0.5), np.stack([np.cos(a), np.sin(a)], 1))
    elif form == "stone":
        sides = int(rng.integers(6, 13))
        table, girdle, crown = rng.uniform(0.3, 0.5), rng.uniform(0.65, 0.85), rng.uniform(0.2, 0.35)
        body = lathe(np.array([[0, -0.6], [girdle, 0], [girdle, 0.05], [table, crown], [0, crown]]), sides + 1)
    else:
        d = sphere_directions(24, 48)
        cube = d / (np.abs(d) ** 6).sum(-1, keepdims=True) ** (1 / 6) * 0.55
        cube[:, -1] = cube[:, 0]
        body = surface(cube * (1 + 0.03 * waves(rng, cube * [1, 1, 1], 4.0))[..., None])
    body = placed(body, random_rotation(rng) if rng.random() < 0.5 else None)
    material = _glass(f, tint) | ({"ior": 1.31} if form == "ice" else {})
    return [replace(body, material=material)], {"form": form}


def _pane(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A framed window of several panes, sometimes stained glass, or a bare sheet."""
    w, h = rng.uniform(0.5, 0.9, 2)
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    bar = rng.uniform(0.02, 0.06)
    x, z = np.linspace(-w, w, columns + 1), np.linspace(-h, h, rows + 1)
    coloured = rng.random() < 0.3
    material = _opaque(rng)
    parts, bars = [], []
    bare = columns * rows == 1 and rng.random() < 0.5
    edge = 0.0 if bare else 0.9 * bar
    for i in range(columns):
        for j in range(rows):
            centre = np.array([(x[i] + x[i + 1]) / 2, 0, (z[j] + z[j + 1]) / 2])
            size = np.array([x[i + 1] - x[i] - 2 * edge, f["thickness"], z[j + 1] - z[j] - 2 * edge])
            colour = _tint(rng, "any", f["tint_depth"]) if coloured else tint
            if f["wall"] == "solid":
                parts.append(replace(box(size, centre), material=_glass(f, colour)))
            else:
                u, v = np.meshgrid([-0.5, 0.5], [-0.5, 0.5], indexing="ij")
                sheet = np.stack([centre[0] + u * size[0], 0 * u, centre[2] + v * size[2]], -1)
                parts.append(replace(surface(sheet), material=_sheet(f, colour)))
    if not bare:
        deep = rng.uniform(0.04, 0.1)
        # frames stop short of the glass: bodies must not overlap
        bars += [box((1.7 * bar, deep, 2 * h + 1.7 * bar), (k, 0, 0)) for k in x]
        bars += [box((2 * w, 0.98 * deep, 1.7 * bar), (0, 0, k)) for k in z]
        parts.append(replace(join(*bars), material=material))
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360)) @ rotation(np.array([1.0, 0, 0]), rng.uniform(-20, 20))
    return [placed(p, turn) for p in parts], {"lights": columns * rows, "wall": f["wall"]}


def _eyeglasses(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    wide, tall, gap = rng.uniform(0.3, 0.4), rng.uniform(0.22, 0.38), rng.uniform(0.06, 0.12)
    power = rng.uniform(2, 5)
    thick = rng.uniform(0.012, 0.04)
    a = np.linspace(0, 2 * np.pi, 65)
    c, s = np.cos(a), np.sin(a)
    outline = np.stack([wide * np.sign(c) * np.abs(c) ** (2 / power), tall * np.sign(s) * np.abs(s) ** (2 / power)], 1)
    tinted = tint if rng.random() < 0.5 else _tint(rng, pick(rng, Factors().tint), max(f["tint_depth"], 0.5))
    bulge = rng.uniform(0.02, 0.06)
    parts, frame = [], []
    shaded_down = rng.random() < 0.3
    for side in (-1, 1):
        r = np.linspace(0, 1, 12)[:, None]
        x, z = r * outline[:, 0], r * outline[:, 1]
        front = np.stack([x, -bulge * (1 - r**2) + 0 * x, z], -1)
        if f["wall"] == "solid":
            half = 0.5 * f["thickness"]
            shell = np.concatenate([front + (0, half, 0), front[::-1] - (0, half, 0)])
            lens = replace(surface(shell), material=_glass({**f, "frosted": False}, tinted))
        else:
            ramp = np.linspace(0, 1, 32)[:, None, None] * np.ones((1, 32, 1))
            lens = surface(front)
            height = (lens.vertices[:, 2] / tall + 1) / 2
            lens = replace(lens, uv=np.stack([0 * height + 0.5, height], 1))
            down = tinted ** (1 - ramp) if shaded_down else tinted
            lens = replace(lens, material=_sheet(f, down))
        centre = np.array([side * (wide + gap), 0, 0])
        parts.append(placed(lens, None, centre))
        loop = outline[:-1] * (1 + (thick + GAP) / np.array([wide, tall]))
        frame.append(
            placed(tube(np.stack([loop[:, 0], 0 * loop[:, 0], loop[:, 1]], 1), thick, closed=True), None, centre)
        )
        hinge = side * (2 * wide + gap + 2 * thick)
        long, drop = rng.uniform(0.9, 1.1), rng.uniform(0.1, 0.2)
        temple = np.array(
            [[hinge, 0.01, 0.5 * tall], [hinge * 1.01, 0.7 * long, 0.5 * tall], [hinge, long, 0.5 * tall - drop]]
        )
        frame.append(tube(temple, 0.8 * thick))
    t = np.linspace(-1, 1, 9)
    frame.append(tube(np.stack([gap * t, 0 * t - 0.01, 0.35 * tall + 0.05 * (1 - t**2)], 1), 0.8 * thick))
    parts.append(replace(join(*frame), material=_opaque(rng)))
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360)) @ rotation(rng.normal(size=3), rng.uniform(0, 25))
    return [placed(p, turn, -turn @ np.array([0, 0.4, 0])) for p in parts], {"wall": f["wall"]}


def _splash(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """Liquid in the air: a crown or a jet with flying drops, as a level set of soft balls."""
    from skimage.measure import marching_cubes

    n = 52
    axis = np.linspace(-1.1, 1.1, n)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    form = ("crown", "jet", "drops")[int(rng.integers(3))]
    centres, radii = [], []
    if form == "crown":
        fingers = int(rng.integers(5, 13))
        ring = rng.uniform(0.4, 0.6)
        for k in range(fingers):
            a, tall, lean = (
                2 * np.pi * (k + rng.uniform(-0.2, 0.2)) / fingers,
                rng.uniform(0.5, 1.1),
                rng.uniform(0.1, 0.4),
            )
            for s in np.linspace(0, 1, 9):
                r = ring + lean * s**2
                centres.append((r * np.cos(a), r * np.sin(a), -0.6 + tall * s))
                radii.append(0.11 * (1 - 0.55 * s) + (0.03 if s == 1 else 0))
        for a in np.linspace(0, 2 * np.pi, 40):
            for h in (-0.6, -0.48, -0.36):
                centres.append((ring * np.cos(a), ring * np.sin(a), h))
                radii.append(0.085)
    elif form == "jet":
        side = rng.normal(size=3) * (0.5, 0.5, 0)
        for s in np.linspace(0, 1, 26):
            centres.append((0, 0, -0.9) + side * s**2 + np.array([0, 0, 1.6 * s]) + 0.05 * rng.normal(size=3))
            radii.append(rng.uniform(0.06, 0.2) * (1 - 0.5 * s))
    for _ in range(f["pieces"]):
        centres.append(rng.uniform(-0.85, 0.85, 3))
        radii.append(rng.uniform(0.05, 0.14 if form != "drops" else 0.28))
    centres_, radii_ = np.array(centres), np.array(radii)
    grid = grid + 0.06 * np.stack([waves(rng, grid, 3.0) for _ in range(3)], -1)
    field = np.zeros((n, n, n))
    for c, r in zip(centres_, radii_, strict=True):
        low = np.searchsorted(axis, c - 2.4 * r - 0.2)
        high = np.searchsorted(axis, c + 2.4 * r + 0.2)
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        field[part] += np.exp(-2.5 * (((grid[part] - c) ** 2).sum(-1) / r**2 - 1))
    field = np.minimum(field, 4.0)
    for k in range(3):
        edge = [slice(None)] * 3
        for edge[k] in (slice(0, 2), slice(-2, None)):
            field[tuple(edge)] = 0
    vertices, faces, _, _ = marching_cubes(field, 1.0, spacing=(axis[1] - axis[0],) * 3, gradient_direction="ascent")
    body = Mesh(vertices.astype(np.float64) - 1.1, faces.astype(np.int64), np.zeros((len(vertices), 2)))
    drink, liquid = _liquid_tint(rng)
    colour = liquid if rng.random() < 0.6 else tint
    return [replace(body, material={"kind": "glass", "colour": colour, "ior": f["liquid_ior"]})], {
        "form": form,
        "drink": drink,
    }


def _bubbles(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """Soap bubbles: thin films with interference colours in their reflection."""
    parts: list[Mesh] = []
    spots: list[tuple[np.ndarray, float]] = []
    for _ in range(40 * f["pieces"]):
        radius = np.exp(rng.uniform(np.log(0.08), np.log(0.4)))
        centre = rng.uniform(-0.85, 0.85, 3)
        if all(np.linalg.norm(centre - c) > radius + r + 0.01 for c, r in spots):
            spots.append((centre, radius))
        if len(spots) == f["pieces"]:
            break
    for centre, radius in spots:
        d = sphere_directions(32, 64)
        phase = 4 + 3 * waves(rng, d, 1.2) - 2 * d[..., 2]
        film = 0.5 + 0.5 * np.cos(phase[..., None] * np.array([1.0, 1.2, 1.45]))
        wobble = 1 + 0.02 * waves(rng, d, 1.0)[..., None]
        wobble[:, -1] = wobble[:, 0]
        skin = surface(d * wobble * radius + centre)
        material = {"kind": "thin_glass", "colour": np.full(3, 0.99), "ior": 1.5, "reflectance": film}
        parts.append(replace(skin, material=material))
    return parts, {"bubbles": len(spots)}


def _crease(rng: np.random.Generator, points: np.ndarray, depth: float) -> np.ndarray:
    """A crumpled height field [...] at points [..., 3]: folds (kinks of waves) of three sizes."""
    folds = sum(np.abs(waves(rng, points, k, terms=3)) / k**0.8 for k in (2.0, 4.5, 10.0))
    return depth * (folds - 1.0)


def _film(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A creased sheet of clear plastic, hanging, rolled or draped over a box."""
    u, v = np.meshgrid(np.linspace(-1, 1, 110), np.linspace(-1, 1, 110), indexing="ij")
    flat = np.stack([u, v, 0 * u], -1)
    height = 2.5 * _crease(rng, flat, f["wrinkles"])
    form = ("hanging", "rolled", "draped")[int(rng.integers(3))]
    drawn = {"form": form}
    parts = []
    if form == "hanging":
        sway = 0.15 * np.sin(rng.uniform(4, 9) * u + 2 * v * rng.uniform(-1, 1)) * (1 - 0.5 * v)
        points = np.stack([0.75 * u, height + sway, 0.85 * v], -1)
    elif form == "rolled":
        bend = rng.uniform(1.0, 2.8)
        radius = 0.75 / bend + height
        points = np.stack([radius * np.sin(bend * u), -radius * np.cos(bend * u) + 0.75 / bend, 0.85 * v], -1)
    else:
        size = rng.uniform(0.3, 0.5, 3)
        out = np.maximum(np.abs(u * 1.1) / size[0], np.abs(v * 1.1) / size[1])
        fall = np.clip(out - 1, 0, None) * size[:2].mean()
        squeeze = np.where(out > 1, 1 + 0.35 * (out - 1) / out, 1) / np.maximum(out, 1)
        z = size[2] - 1.2 * fall + np.abs(height) + 0.02
        lap = 1 + 0.3 * height / np.maximum(f["wrinkles"], 1e-3) * f["wrinkles"] * (out > 1)
        points = np.stack([1.1 * u * squeeze * lap * 1.03, 1.1 * v * squeeze * lap * 1.03, z], -1)
        if f["opaque"]:
            thing = box((1.9 * size[0], 1.9 * size[1], 2 * size[2]), (0, 0, 0))
            parts.append(replace(thing, material=_opaque(rng)))
    sheet = replace(surface(points), material=_sheet({**f, "ior": min(f["ior"], 1.6)}, tint))
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360))
    if form != "draped":
        turn = turn @ rotation(rng.normal(size=3), rng.uniform(0, 50))
    return [placed(p, turn) for p in [sheet, *parts]], drawn


def _bag(rng: np.random.Generator, f: dict[str, Any], tint: np.ndarray) -> tuple[list[Mesh], dict[str, Any]]:
    """A sealed bag: two creased sheets that meet at their edges, with or without contents."""
    w, h, fat = rng.uniform(0.5, 0.7), rng.uniform(0.7, 0.95), rng.uniform(0.18, 0.35)
    u, v = np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-1, 1, 90), indexing="ij")
    pillow = ((1 - np.abs(u) ** 2.5) * (1 - np.abs(v) ** 2.5)).clip(0) ** 0.5
    faces = []
    for side in (-1, 1):
        flat = np.stack([u, v, np.full_like(u, side)], -1)
        creases = 2 * _crease(rng, flat, f["wrinkles"]) * (0.15 + pillow)
        edge = 1 - 0.06 * pillow.mean() * np.abs(v) ** 2
        faces.append(np.stack([w * u * edge, side * (fat * pillow + 0.012) + creases * pillow, h * v], -1))
    parts = [replace(surface(p), material=_sheet(f, tint)) for p in faces]
    drawn = {"contents": 0}
    if f["opaque"]:
        size = rng.uniform(0.07, 0.14)
        colours = [any_colour(rng) for _ in range(3)]
        groups: list[list[Mesh]] = [[], [], []]
        for k in range(int(rng.integers(6, 26))):
            x, z = rng.uniform(-0.7, 0.7) * w, h * (-0.75 + 0.9 * rng.random())
            groups[k % 3].append(ball(size * rng.uniform(0.7, 1, 3), (x, rng.uniform(-0.3, 0.3) * fat, z), rows=10))
        parts += [replace(join(*g), material=_opaque(rng, c)) for g, c in zip(groups, colours, strict=True) if g]
        drawn["contents"] = sum(map(len, groups))
        if rng.random() < 0.5:
            header = box((2 * w * 0.98, 0.05, 0.25), (0, 0, h))
            parts.append(replace(header, material=_opaque(rng, kind="plastic")))
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360)) @ rotation(rng.normal(size=3), rng.uniform(0, 30))
    return [placed(p, turn) for p in parts], drawn


OBJECTS: dict[str, Callable[[np.random.Generator, dict[str, Any], np.ndarray], tuple[list[Mesh], dict[str, Any]]]] = {
    "wine": _wine,
    "tumbler": _tumbler,
    "bottle": _bottle,
    "jar": _jar,
    "vase": _vase,
    "jug": _jug,
    "dome": _dome,
    "bulb": _bulb,
    "magnifier": _magnifier,
    "beads": _beads,
    "sphere": _sphere,
    "block": _block,
    "pane": _pane,
    "eyeglasses": _eyeglasses,
    "splash": _splash,
    "bubbles": _bubbles,
    "film": _film,
    "bag": _bag,
}


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """One object of glass, liquid or clear plastic from drawn `Factors`; its proportions come from `rng`."""
    f = factors
    parts, drawn = OBJECTS[f["object"]](rng, f, _tint(rng, f["tint"], f["tint_depth"]))
    points = np.concatenate([p.vertices for p in parts])
    middle = (points.max(0) + points.min(0)) / 2
    scale = 1 / np.linalg.norm(points - middle, axis=1).max()
    turn = rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360)) * scale
    materials = [p.material["kind"] for p in parts]
    return Subject([placed(p, turn, -turn @ middle) for p in parts], drawn={**drawn, "part_materials": materials})
