"""Fur: a body covered with thousands of tapered strands."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone, shade
from synth_data.factors import chance, count, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Strands,
    Subject,
    ball,
    join,
    placed,
    random_rotation,
    rotation,
    scatter,
    sphere_directions,
    surface,
    tube,
    waves,
)

CONTROL_POINTS = 8


@dataclass(frozen=True)
class Factors:
    """What a furry subject varies in. Lengths are in body radii."""

    body: tuple = shares(ellipsoid=1, blobs=1, bumpy=1, animal=1.5)
    """the shape under the fur"""
    strands: tuple = count(2000, 5000, least=1, most=200_000)
    """number of strands"""
    length: tuple = span(0.06, 0.5, most=3, log=True)
    """mean strand length"""
    length_jitter: tuple = span(0.1, 0.6, most=1)
    """relative spread of the lengths"""
    radius: tuple = span(0.004, 0.014, most=0.2, log=True)
    """strand radius at the root; it tapers to a tenth"""
    curl: tuple = span(0.0, 1.0, most=3)
    """radius of the strands' helix, relative"""
    clumping: tuple = span(0.0, 0.9, most=1)
    """how far tips gather into tufts"""
    droop: tuple = span(0.0, 1.0, most=3)
    """how far gravity bends the strands down"""
    lean: tuple = span(0.0, 1.5, most=5)
    """how far the coat is combed to one side"""
    mess: tuple = span(0.05, 0.5, most=3)
    """random deviation of each strand's direction"""
    bald: float = chance(0.2)
    """whether the coat is patchy and the skin shows"""
    tone: tuple = shares(black=1, white=1.3, grey=1, brown=1.3, tan=1.3, bright=1, pastel=0.6)
    """the coat's colour"""
    second_tone: tuple = shares(none=1.2, black=0.6, white=0.8, grey=0.3, brown=0.5, tan=0.5, bright=0.4)
    """colour of spots and stripes"""
    tip_light: tuple = span(0.6, 1.8, most=5)
    """the tips' brightness, relative to the roots'"""


def _lump(rng: np.random.Generator, axes: np.ndarray, bump: float) -> Mesh:
    """A closed ellipsoid with bumps of relative height `bump`."""
    d = sphere_directions(24, 48)
    field = waves(rng, d, 2.2) if bump else np.zeros(d.shape[:2])
    return surface(d * np.asarray(axes) * (1 + bump * field)[..., None])


def _animal(rng: np.random.Generator) -> tuple[list[Mesh], list[Mesh]]:
    """(furry parts, bare parts) of a sitting or standing animal that looks along -y."""
    sitting = rng.random() < 0.5
    slim = rng.uniform(0.75, 1.15)
    fur, bare = [], []
    if sitting:
        fur.append(ball(np.array([0.5 * slim, 0.5 * slim, 0.72]), (0, 0.1, -0.3)))
        head = np.array([0, -0.22, 0.55])
    else:
        fur.append(ball(np.array([0.38 * slim, 0.78, 0.4 * slim])))
        head = np.array([0, -0.85, rng.uniform(0.2, 0.5)])
        for x in (-0.22, 0.22):
            for y in (-0.5, 0.5):
                bend = rng.uniform(-0.15, 0.15)
                fur.append(tube(np.array([[x, y, -0.1], [x, y + bend, -0.5], [x, y + bend, -0.95]]), 0.11))
    size = rng.uniform(0.32, 0.46)
    fur.append(ball(np.array([size, size * 0.95, size * 0.9]), head))
    muzzle = head + np.array([0, -0.85 * size, -0.25 * size])
    fur.append(ball(np.array([0.4, 0.5 * rng.uniform(0.6, 1.8), 0.35]) * size, muzzle, rows=12))
    bare.append(ball(0.13 * size, muzzle + np.array([0, -0.6 * size, 0.1 * size]), rows=10))
    tall, wide, out = rng.uniform(0.5, 1.3), rng.uniform(0.25, 0.45), rng.uniform(0.4, 0.7)
    for side in (-1, 1):
        root = head + size * np.array([side * out, 0, 0.65])
        tip = root + size * np.array([side * rng.uniform(0.0, 0.4), 0, tall])
        way = np.linspace(0, 1, 6)[:, None]
        fur.append(tube(root + (tip - root) * way, size * wide * np.sqrt(1 - way[:, 0] * 0.97)))
        bare.append(ball(0.12 * size, head + size * np.array([side * 0.4, -0.86, 0.2]), rows=10))
    way = np.linspace(0, 1, 10)
    swing = rng.uniform(-1, 1)
    tail = np.stack([swing * np.sin(2.2 * way), 0.5 + 0.6 * way, -0.5 * sitting + rng.uniform(-0.3, 0.8) * way**2], 1)
    fur.append(tube(tail, 0.1 * (1 - 0.6 * way)))
    return fur, bare


def _body(rng: np.random.Generator, kind: str) -> tuple[list[Mesh], list[Mesh]]:
    """(furry parts, bare parts); the furry ones are closed."""
    turn = random_rotation(rng)
    if kind == "ellipsoid":
        return [placed(_lump(rng, rng.uniform(0.4, 1.0, 3), 0.0), turn)], []
    if kind == "bumpy":
        return [placed(_lump(rng, rng.uniform(0.65, 1.0, 3), rng.uniform(0.08, 0.22)), turn)], []
    if kind == "blobs":
        parts, centre = [], np.zeros(3)
        for _ in range(int(rng.integers(2, 6))):
            axes = rng.uniform(0.25, 0.6, 3)
            parts.append(placed(_lump(rng, axes, rng.uniform(0, 0.15)), random_rotation(rng), centre))
            step = rng.normal(size=3)
            centre = centre + step / np.linalg.norm(step) * axes.mean() * rng.uniform(0.8, 1.4)
        middle = np.concatenate([p.vertices for p in parts]).mean(0)
        return [placed(p, None, -middle) for p in parts], []
    return _animal(rng)


def _grow(rng: np.random.Generator, roots: np.ndarray, normals: np.ndarray, f: dict[str, Any]) -> np.ndarray:
    """Control points [N, CONTROL_POINTS, 3] of strands that stand on roots [N, 3] along normals [N, 3]."""
    number = len(roots)
    comb = rng.normal(size=3)
    comb = comb - normals * (normals @ comb)[:, None]
    way = normals + f["lean"] * comb * 0.6 + f["mess"] * rng.normal(size=(number, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    length = f["length"] * np.exp(f["length_jitter"] * rng.normal(size=number) * 0.6)[:, None, None]
    # starts a little under the skin; a cubic B-spline ends short of its last control point
    s = np.linspace(-0.15, 1.1, CONTROL_POINTS)[None, :, None]
    points = roots[:, None] + length * s * way[:, None]
    points[..., 2:] -= f["droop"] * 0.45 * length * s**2
    side = np.cross(way, rng.normal(size=(number, 3)))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    across = np.cross(way, side)
    angle = 2 * np.pi * rng.uniform(0.6, 1.4) * s + rng.uniform(0, 2 * np.pi, (number, 1, 1))
    coil = np.cos(angle) * side[:, None] + np.sin(angle) * across[:, None]
    points += 0.16 * f["curl"] * length * np.maximum(s, 0) * coil
    leaders = rng.permutation(number)[: max(1, number // 14)]
    distance = ((roots[:, None] - roots[None, leaders]) ** 2).sum(-1)
    leader = leaders[distance.argmin(1)]
    return points + f["clumping"] * np.maximum(s, 0) ** 1.5 * (points[leader] - points)


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A furry body from drawn `Factors`; the rest of its shape and coat comes from `rng`."""
    f = factors
    parts, bare = _body(rng, f["body"])
    first = colour_of_tone(rng, f["tone"])
    second = first if f["second_tone"] == "none" else colour_of_tone(rng, f["second_tone"])
    skin = {"kind": "diffuse", "colour": shade(rng, first * 0.6, 0.2)}
    black = {"kind": "plastic", "colour": np.full(3, 0.01), "roughness": 0.15}

    body = join(*parts)
    roots, normals = scatter(rng, body, f["strands"])
    number = len(roots)
    if f["bald"]:
        keep = waves(rng, roots, 2.5) > rng.uniform(-0.8, 0.1)
        if keep.sum() > 50:
            roots, normals, number = roots[keep], normals[keep], int(keep.sum())
    points = _grow(rng, roots, normals, f)

    stretch = np.array([1, 1, rng.choice([1.0, 0.25])])  # spots, or bands around the body
    mark = waves(rng, roots * stretch, rng.uniform(1.5, 5)) + rng.uniform(-0.4, 0.4)
    mix = (1 / (1 + np.exp(-8 * mark)))[:, None]
    base = (first * (1 - mix) + second * mix) * np.exp(0.18 * rng.normal(size=(number, 1)))
    segments = CONTROL_POINTS - 3
    s = np.linspace(0, 1, segments)[None, :, None]
    colours = np.clip(base[:, None] * (0.75 + (f["tip_light"] - 0.75) * s), 0.003, 0.92)
    taper = 1 - 0.9 * np.linspace(0, 1, CONTROL_POINTS) ** 1.4
    radii = f["radius"] * taper[None] * np.exp(0.2 * rng.normal(size=(number, 1)))

    turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360))
    meshes = [Mesh(body.vertices, body.faces, body.uv, skin)]
    meshes += [Mesh(b.vertices, b.faces, b.uv, black) for b in bare]
    return Subject([placed(m, turn) for m in meshes], [Strands(points @ turn.T, radii, colours)])
