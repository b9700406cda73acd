"""Feathers: a shaft with hundreds of barbs, alone, in bundles, fans and wings, and balls and boas of down."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone, shade
from synth_data.factors import chance, count, shares, span
from synth_data.subjects.meshes import Mesh, Strands, Subject, ball, placed, random_rotation, rotation, tube, waves
from synth_data.subjects.strands import coiled, tapered, through, turned_to, with_length

SAMPLES = 6  # points along a barb
SHAFT = 40  # points along a shaft


@dataclass(frozen=True)
class Factors:
    """Variation of feathers. Lengths are relative to a feather's, unless noted otherwise."""

    kind: tuple = shares(single=1.5, bundle=1, fan=1, wing=1, ball=0.8, boa=0.6)
    """one feather, a bunch, a flat fan, a small wing, a ball of down or a string of down"""
    barbs: tuple = count(5000, 11000, least=1, most=200_000)
    """number of barbs on all feathers together; one feather has at most 1800"""
    feathers: tuple = count(4, 14, least=1, most=400)
    """number of feathers of a bundle, fan or wing; a ball has 10 times as many plumes, a boa 5 times and 30"""
    width: tuple = span(0.08, 0.22, least=0.01, most=1)
    """half width of the vane"""
    asymmetry: tuple = span(0.0, 0.5, most=1)
    """how much narrower one side of the vane is"""
    angle: tuple = span(25, 55, least=5, most=90)
    """angle between barbs and shaft, in degrees"""
    bend: tuple = span(0.0, 0.6, most=3)
    """how far the shaft curves, in radians"""
    camber: tuple = span(0.0, 0.5, most=2)
    """how far the barbs curve out of the vane's plane, in their lengths"""
    splits: tuple = count(0, 5, most=50)
    """number of splits on each side of the vane"""
    ragged: tuple = span(0.01, 0.15, least=0.001, most=1, log=True)
    """random deviation of the barbs' direction and length, mostly shared by neighbours"""
    downy: tuple = span(0.08, 0.3, most=0.95)
    """share of the vane, from its base, that is loose down"""
    fluff: tuple = span(0.01, 0.5, least=0.001, most=1, log=True)
    """how loose the barbs of the whole vane are: 0 a flight feather, 1 an ostrich's"""
    coverage: tuple = span(0.7, 1.3, least=0.05, most=3)
    """barb width over barb spacing; below 1 the vane has gaps"""
    bands: tuple = span(0.0, 8.0, most=40)
    """number of dark bands across the vane"""
    eye: float = chance(0.15)
    """whether the vane has an eyespot"""
    tone: tuple = shares(black=0.8, white=1.5, grey=1, brown=1.2, tan=0.8, bright=1.5, pastel=0.8)
    """the vane's colour"""
    second_tone: tuple = shares(none=1, black=0.8, white=0.8, brown=0.5, bright=0.6)
    """colour of bands, eye and tip"""


@dataclass(frozen=True)
class Feather:
    """One feather in its own space: the shaft runs from the origin along y, the vane lies in the xy plane.

    shaft: float [SHAFT, 3]. thickness: of the shaft [SHAFT]. barbs: control points [N, K, 3], radii [N, K], colours
    [N, K - 3, 3].
    """

    shaft: np.ndarray
    thickness: np.ndarray
    barbs: Strands


def _shaft(rng: np.random.Generator, bend: float) -> np.ndarray:
    """A shaft [SHAFT, 3] of length 1 that bends by `bend` radians in total, mostly in the vane's plane."""
    t = np.linspace(0, 1, SHAFT)
    angle, nod = bend * t**1.5 * rng.choice([-1, 1]), 0.5 * bend * rng.normal() * t
    step = np.stack([np.sin(angle), np.cos(angle), np.sin(nod)], 1)
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    return np.concatenate([np.zeros((1, 3)), np.cumsum(step[:-1], 0) / (SHAFT - 1)])


def _outline(t: np.ndarray, blunt: float) -> np.ndarray:
    """Relative half width of the vane at t in [0, 1] of its length: widening quickly, with a round or pointed tip."""
    return np.minimum(1, (t / 0.25 + 0.15)) ** 0.7 * np.clip(1 - t ** (2 + 6 * blunt), 0, 1) ** 0.6


def _groups(rng: np.random.Generator, t: np.ndarray, splits: int) -> np.ndarray:
    """The lean of each barb at t [N] towards the tip [N], in radians; the vane is split at `splits` places."""
    if splits == 0:
        return np.zeros(len(t))
    edges = np.sort(rng.uniform(0.15, 0.95, splits))
    group = np.searchsorted(edges, t)
    lean = np.cumsum(np.concatenate([[0], rng.uniform(0.08, 0.4, splits) * rng.choice([-1, 1], splits, p=[0.3, 0.7])]))
    lean = lean - lean.mean()
    bounds = np.concatenate([[0], edges, [1]])
    within = (t - bounds[group]) / np.maximum(np.diff(bounds)[group], 1e-6)
    # barbs at a gap curl away from it more than those in the middle of a group
    return np.clip(lean[group], -0.5, 0.5) + 0.12 * (0.5 - within)


def grow_feather(
    rng: np.random.Generator, f: dict[str, Any], barbs: int, colours: tuple, thick: float = 1.0
) -> Feather:
    """A feather of length 1 with `barbs` barbs from drawn `Factors`; `colours` (main, other) linear [3]."""
    shaft = _shaft(rng, f["bend"])
    blunt, quill = rng.uniform(0, 1), rng.uniform(0.06, 0.16)
    u = np.linspace(0, 1, SHAFT)
    thickness = thick * 0.011 * (1 - 0.92 * u**0.8)
    barbs = max(2, barbs)
    side = np.where(np.arange(barbs) % 2, 1.0, -1.0)
    t = (np.arange(barbs) // 2 + rng.random(barbs)) / (barbs // 2 + 1)
    place = quill + (1 - quill) * t  # on the shaft
    root = np.stack([np.interp(place, u, shaft[:, k]) for k in range(3)], 1)
    along = np.stack([np.interp(place, u, np.gradient(shaft, axis=0)[:, k]) for k in range(3)], 1)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    out = np.cross(along, [0, 0, 1.0])
    out *= (side / np.linalg.norm(out, axis=1))[:, None]
    up = np.cross(out, along) * side[:, None]
    # 1 in the down at the base, `fluff` above
    loose = f["fluff"] + (1 - f["fluff"]) / (1 + np.exp((t - f["downy"]) / 0.03))
    narrow = np.where(side > 0, 1.0, 1 - f["asymmetry"])
    right, left = (_groups(rng, t, f["splits"]) for _ in range(2))
    lean = np.where(side > 0, right, left)
    # towards the tip barbs lie closer to the shaft
    angle = np.deg2rad(f["angle"]) * (1 - 0.55 * t**3) + 0.7 * loose * (1 - t) - lean
    # barbs hook into one another, so neighbours move together
    shared = waves(rng, np.stack([t, 9 * side, 0 * t], 1), 12)
    angle = angle + f["ragged"] * shared + (0.15 * f["ragged"] + 0.5 * loose) * rng.normal(size=barbs)
    half = f["width"] * _outline(t, blunt) * narrow
    slant = np.sin(np.clip(np.deg2rad(f["angle"]) * (1 - 0.55 * t**3), 0.2, 1.5))
    rough = 0.5 * waves(rng, np.stack([t, 9 * side, 0 * t], 1), 25) + 0.5 * rng.normal(size=barbs)
    length = np.maximum(half / slant, 0.012) * np.exp(f["ragged"] * rough)
    length = np.where(loose > 0.5, length * rng.uniform(0.5, 1.05, barbs), length)
    s = np.linspace(0, 1, SAMPLES)[None, :, None]
    turned = angle[:, None] * (1.1 - 0.45 * s[..., 0])  # barbs curve towards the tip
    way = np.cos(turned)[..., None] * along[:, None] + np.sin(turned)[..., None] * out[:, None]
    rise = -f["camber"] * s + 0.8 * loose[:, None, None] * rng.normal(size=(barbs, 1, 1))
    way = way + rise * up[:, None]
    path = np.concatenate([np.zeros((barbs, 1, 3)), np.cumsum(way[:, :-1], 1)], 1)
    samples = with_length(root[:, None] + path, length)
    samples = coiled(rng, samples, 0.16 * loose * length, 1.1)
    points = through(samples)

    spacing = (1 - quill) / (barbs / 2)
    radius = 0.5 * f["coverage"] * spacing * np.sin(np.clip(angle, 0.35, 1.5)) * (1 - 0.55 * loose)
    radii = tapered(rng, np.clip(radius, 0.0008, 0.008), barbs, points.shape[1])
    radii = 0.6 * radii[:, :1] + 0.4 * radii  # barbs have blunter tips than hairs
    main, other = colours
    segments = points.shape[1] - 3
    r = np.linspace(0, 1, segments)[None]
    mark = np.zeros((barbs, segments))
    if f["bands"] >= 1:
        wave = np.sin(2 * np.pi * f["bands"] * (t[:, None] + 0.25 * r * f["width"] / 0.2) + rng.uniform(0, 6))
        mark = 1 / (1 + np.exp(-8 * (wave - rng.uniform(-0.2, 0.6))))
    elif rng.random() < 0.5:
        mark = np.repeat(1 / (1 + np.exp(-25 * (t[:, None] - rng.uniform(0.6, 0.9)))), segments, 1)
    tint = main + (other - main) * mark[..., None]
    if f["eye"]:
        far = np.hypot((t[:, None] + 0.4 * r * half[:, None] - 0.8) / 0.14, r * half[:, None] / (0.55 * f["width"]))
        rings = np.stack([shade(rng, other, 0.5), other[::-1], main[[1, 2, 0]]])
        tint = np.where((far < 1)[..., None], rings[np.clip((far * 3).astype(int), 0, 2)], tint)
    pale = np.clip(0.5 * main + 0.4 * main.max(), 0, 0.9)
    tint = tint + (pale - tint) * (loose * (t < f["downy"] + 0.1))[:, None, None]
    tint = np.clip(tint * np.exp(0.1 * rng.normal(size=(barbs, 1, 1))), 0.003, 0.92)
    return Feather(shaft, thickness, Strands(points, radii, tint))


def _shaft_mesh(feather: Feather, colour: np.ndarray) -> Mesh:
    section = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 7)), np.sin(a)], 1)
    mesh = tube(feather.shaft, feather.thickness, section)
    return replace(mesh, material={"kind": "plastic", "colour": colour, "roughness": 0.3})


def _poses(rng: np.random.Generator, kind: str, number: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """(turn [3, 3], place [3], size) of each feather of an arrangement; shafts run along y in their own space."""
    z, y, x = np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0])
    if kind == "single":
        return [(np.eye(3), np.zeros(3), 1.8)]
    poses = []
    spread = rng.uniform(25, 80)
    if kind == "bundle":
        for _ in range(number):
            turn = rotation(z, rng.normal() * spread / 4) @ rotation(x, rng.normal() * spread / 5)
            poses.append((turn @ rotation(y, rng.uniform(0, 360)), 0.04 * rng.normal(size=3), rng.uniform(1.0, 1.8)))
    elif kind == "fan":
        spread = rng.uniform(40, 110)
        for k, a in enumerate(np.linspace(-spread, spread, number)):
            turn = rotation(z, -a + 2 * rng.normal()) @ rotation(y, rng.normal() * 8)
            lift = np.array([0.02 * np.sin(np.deg2rad(a)), 0, 0.012 * (k % 2) + 0.004 * k])
            poses.append((turn, lift, rng.uniform(1.25, 1.4) * (0.85 + 0.15 * np.cos(np.deg2rad(a)))))
    elif kind == "wing":
        # an arm from the shoulder; long feathers fan out at its end, short ones cover their roots in rows
        flights = max(9, number)
        arm = lambda w: np.array([1.0 * w, 0.28 * np.sin(np.pi * w), 0.05 * w])  # noqa: E731
        for row, (length, lift) in enumerate(((1.0, 0.0), (0.5, 0.035), (0.28, 0.06))):
            for w in np.linspace(0, 1, flights * (1 + row)):
                sweep = 170 - 105 * w**2.2 + 3 * rng.normal()
                size = length * (0.65 + 0.55 * w) * rng.uniform(0.94, 1.06)
                turn = rotation(z, -sweep) @ rotation(y, -8 + 4 * rng.normal())
                poses.append((turn, arm(w) + (0, 0, lift + 0.004 * w * flights), size))
    elif kind == "ball":
        plumes = 10 * number
        for k in range(plumes):  # evenly over the ball, on a golden spiral
            h, a = 1 - (2 * k + 1) / plumes, 2.39996 * k
            way = np.array([np.sqrt(1 - h * h) * np.cos(a), np.sqrt(1 - h * h) * np.sin(a), h]) + 0.12 * rng.normal(
                size=3
            )
            turn = turned_to(way) @ rotation(y, rng.uniform(0, 360))
            poses.append((turn, 0.1 * turn[:, 1], rng.uniform(0.5, 0.7)))
    else:
        t = np.linspace(0, 1, 30 + 5 * number)
        wind = rng.uniform(0.6, 1.6)
        way = lambda t: np.array([1.2 * (2 * t - 1), 0.5 * np.sin(2 * np.pi * wind * t), 0.3 * np.cos(5 * wind * t)])  # noqa: E731
        for w in t:
            poses.append((random_rotation(rng), way(w), rng.uniform(0.22, 0.4)))
    return poses


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """Feathers from drawn `Factors`; the arrangement and each feather's shape come from `rng`."""
    f = dict(factors)
    downy = f["kind"] in ("ball", "boa")
    poses = _poses(rng, f["kind"], f["feathers"])
    if downy:
        f |= {
            "fluff": max(f["fluff"], 0.8),
            "width": f["width"] + 0.2,
            "downy": 0.3,
            "splits": 0,
            "eye": False,
            "bands": 0.0,
        }
    main = colour_of_tone(rng, f["tone"])
    other = main if f["second_tone"] == "none" else colour_of_tone(rng, f["second_tone"])
    pale = np.clip(0.4 * main + 0.35, 0, 0.85) if rng.random() < 0.7 else np.full(3, 0.03)
    sizes = np.array([size for _, _, size in poses])
    each = np.minimum(f["barbs"] * sizes / sizes.sum(), 1800).astype(int)
    meshes, parts = [], []
    for (turn, place, size), barbs in zip(poses, each, strict=True):
        look = (shade(rng, main, 0.12), shade(rng, other, 0.12))
        feather = grow_feather(rng, f, int(barbs), look, 0.4 if downy else 1.0)
        b = feather.barbs
        parts.append(Strands(b.points @ turn.T * size + place, b.radii * size, b.colours))
        meshes.append(placed(_shaft_mesh(feather, pale), turn * size, place))
    if f["kind"] == "ball":
        meshes.append(replace(ball(0.13), material={"kind": "diffuse", "colour": main}))
    strands = Strands(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("points", "radii", "colours")))
    # centred, within a radius of one, turned at random; wings and fans not seen edge-on from the side
    points = strands.points.reshape(-1, 3)
    middle = (points.max(0) + points.min(0)) / 2
    scale = 1 / np.linalg.norm(points - middle, axis=1).max()
    upright = rotation(np.array([1.0, 0, 0]), 90 + rng.normal() * 25)
    turn = (
        rotation(np.array([0, 0, 1.0]), rng.uniform(0, 360))
        @ upright
        @ rotation(np.array([0, 0, 1.0]), rng.normal() * 50)
    )
    strands = Strands((strands.points - middle) @ turn.T * scale, strands.radii * scale, strands.colours)
    meshes = [placed(m, turn * scale, -scale * turn @ middle) for m in meshes]
    return Subject(meshes, [strands], drawn={"feathers_grown": len(poses), "barbs_grown": int(len(strands.points))})
