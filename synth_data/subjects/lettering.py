"""Lettering and silhouettes: plane figures drawn as masks and extruded."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import chance, count, shares, span
from synth_data.subjects.meshes import Mesh, Subject, rotation
from synth_data.subjects.solids import finish, patterned, slab

DRAWN = 576  # side of a figure's mask in pixels
GRID = 144  # side of the distance field in pixels
HALF = 1.0  # half the mask's side in subject radii
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&@#%?!+*$"


@dataclass(frozen=True)
class Factors:
    """Variation of an extruded figure. Lengths are in subject radii."""

    figure: tuple = shares(
        text=5,
        person=1,
        animal=1,
        bird=0.6,
        fish=0.6,
        leaf=0.8,
        tree=0.6,
        arrow=0.5,
        star=0.5,
        heart=0.4,
        keyhole=0.5,
        key=0.6,
        scissors=0.7,
        snowflake=0.7,
        logo=1,
        bubble=0.4,
    )
    """kind of figure"""
    font: tuple = shares(sans=1.5, heavy=1, italic=0.7, pixel=0.5, strokes=0.8)
    """typeface: Pillow's own, OpenCV's heavy and slanted ones, square pixels or brush strokes"""
    letters: tuple = count(1, 6, least=1, most=24)
    """number of letters of text"""
    lines: tuple = count(1, 2, least=1, most=6)
    """number of lines of text"""
    weight: tuple = span(-0.004, 0.02, least=-0.05, most=0.1)
    """how far the figure's border is moved outwards; negative makes it thinner"""
    outline: float = chance(0.15)
    """whether only the outline is kept, as a ribbon"""
    ribbon: tuple = span(0.02, 0.05, least=0.01, most=0.3)
    """width of that ribbon"""
    cutout: float = chance(0.15)
    """whether the figure is cut out of a plate"""
    slant: tuple = span(-0.3, 0.3, least=-1, most=1)
    """shear to the right, per unit of height"""
    depth: tuple = span(0.03, 0.4, least=0.01, most=2, log=True)
    """thickness"""
    bevel: tuple = span(0.0, 0.05, most=0.5)
    """radius of rounded edges, at most half the depth"""
    bend: tuple = span(-1.2, 1.2, least=-6, most=6)
    """bend around a vertical axis, in radians over the width"""
    tilt: tuple = span(-12, 12, least=-180, most=180)
    """degrees away from upright"""
    material: tuple = shares(diffuse=1, plastic=1, metal=0.8, principled=0.7)
    """surface"""
    roughness: tuple = span(0.08, 0.6, least=0.02, most=1)
    """roughness of glossy surfaces"""
    texture: tuple = shares(plain=2.5, checker=0.2, stripes=0.5, noise=0.5, speckle=0.3)
    """pattern on it"""
    texture_cells: tuple = count(2, 16, least=1, most=256)
    """repeats of the pattern"""
    tone: tuple = shares(black=1, white=1.2, grey=1, brown=0.8, tan=0.8, bright=2.5, pastel=0.8)
    """its colour"""


class _Sheet:
    """A mask [DRAWN, DRAWN] to draw on; x to the right and z up in [-1, 1], widths in the same unit."""

    def __init__(self) -> None:
        from PIL import Image, ImageDraw

        self.picture = Image.new("L", (DRAWN, DRAWN))
        self.pen = ImageDraw.Draw(self.picture)

    def _pixels(self, points: Any) -> list[tuple[float, float]]:
        p = np.asarray(points, dtype=np.float64).reshape(-1, 2) * (1, -1)
        return [tuple(q) for q in ((p + 1) / 2 * DRAWN).tolist()]

    def polygon(self, points: Any, on: bool = True) -> None:
        self.pen.polygon(self._pixels(points), fill=255 * on)

    def disc(self, centre: Any, radius: Any, on: bool = True, turn: float = 0.0) -> None:
        """An ellipse of `radius` one or two values, turned by `turn` radians."""
        a = np.linspace(0, 2 * np.pi, 120)
        x, z = np.broadcast_to(radius, 2)[:, None] * np.stack([np.cos(a), np.sin(a)])
        c, s = np.cos(turn), np.sin(turn)
        self.polygon(np.stack([c * x - s * z, s * x + c * z], 1) + np.asarray(centre), on)

    def line(self, points: Any, width: float, end: float | None = None, on: bool = True) -> None:
        """A brush stroke along points [N, 2], its width changing from `width` to `end`."""
        points = np.asarray(points, dtype=np.float64)
        widths = np.linspace(width, width if end is None else end, len(points))
        for a, b, u, v in zip(points[:-1], points[1:], widths[:-1], widths[1:], strict=True):
            way = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
            side = np.array([-way[1], way[0]])
            self.polygon([a + side * u / 2, b + side * v / 2, b - side * v / 2, a - side * u / 2], on)
        for point, wide in zip(points, widths, strict=True):
            self.disc(point, wide / 2, on)

    def mask(self) -> np.ndarray:
        return np.asarray(self.picture) > 127


def _curve(*points: Any, number: int = 24) -> np.ndarray:
    """A smooth curve [number, 2] through a few points (Catmull and Rom)."""
    from scipy.interpolate import PchipInterpolator

    p = np.asarray(points, dtype=np.float64)
    return PchipInterpolator(np.arange(len(p)), p, axis=0)(np.linspace(0, len(p) - 1, number))


def _person(rng: np.random.Generator, s: _Sheet) -> None:
    head, wide = rng.uniform(0.11, 0.15), rng.uniform(0.14, 0.24)
    neck, hip = np.array([0, 0.55]), np.array([rng.uniform(-0.06, 0.06), -0.02])
    s.disc(neck + [0, 1.35 * head], [head * 0.85, head])
    s.line([neck + [0, 0.1], neck - [0, 0.1]], 0.1)
    s.polygon([neck + [-wide, -0.07], neck + [wide, -0.07], hip + [0.75 * wide, -0.08], hip - [0.75 * wide, 0.08]])
    s.line([neck + [-wide + 0.03, -0.1], neck + [wide - 0.03, -0.1]], 0.12)
    thick = rng.uniform(0.09, 0.13)
    for side in (-1, 1):
        shoulder, angle, bent = neck + [side * wide, -0.1], rng.uniform(0.1, 2.4), rng.uniform(0, 1.6)
        elbow = shoulder + 0.3 * np.array([side * np.sin(angle), -np.cos(angle)])
        hand = elbow + 0.28 * np.array([side * np.sin(angle - bent), -np.cos(angle - bent)])
        s.line([shoulder, elbow, hand], thick * 0.85, 0.6 * thick)
        root, angle, bent = hip + [side * 0.45 * wide, -0.05], rng.uniform(-0.15, 0.7), rng.uniform(0, 0.6)
        knee = root + 0.43 * np.array([side * np.sin(angle), -np.cos(angle)])
        foot = knee + 0.42 * np.array([side * np.sin(angle - bent), -np.cos(angle - bent)])
        s.line([root, knee, foot], 1.25 * thick, 0.7 * thick)
        s.line([foot, foot + [0.12, -0.02]], 0.6 * thick)
    extra = rng.random()
    if extra < 0.3:  # skirt
        flare = rng.uniform(0.3, 0.5)
        s.polygon([hip + [-0.7 * wide, 0.1], hip + [0.7 * wide, 0.1], hip + [flare, -0.42], hip + [-flare, -0.42]])
    elif extra < 0.55:  # hat
        top = neck + [0, 1.35 * head + 0.5 * head]
        s.line([top - [1.8 * head, 0], top + [1.8 * head, 0]], 0.05)
        s.polygon([top + [-head, 0], top + [head, 0], top + [0.8 * head, head], top + [-0.8 * head, head]])
    elif extra < 0.75:  # long hair
        s.line(_curve(neck + [-head, 1.5 * head], neck + [-1.5 * head, 0], neck + [-1.3 * head, -0.25]), head, 0.05)


def _animal(rng: np.random.Generator, s: _Sheet) -> None:
    """A four-legged animal from the side, from cat to giraffe."""
    long, high = rng.uniform(0.35, 0.55), rng.uniform(0.16, 0.3)
    leg, neck, lean = rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.65), rng.uniform(0.1, 0.45)
    base = np.array([0.1, -0.75 + leg + high])
    s.disc(base, [long, high])
    s.disc(base + [-0.6 * long, 0.1 * high], [0.5 * long, high])
    chest = base + [-0.75 * long, 0.3 * high]
    head = chest + [-lean, neck]
    s.line(_curve(chest, (chest + head) / 2 + [0.03, 0], head), 1.3 * high, 0.6 * high)
    muzzle = head + rng.uniform(0.15, 0.32) * np.array([-1, rng.uniform(-0.6, 0)])
    s.line([head, muzzle], 0.75 * high, 0.35 * high)
    for k in (0, 1):
        ear = head + [0.02 + 0.07 * k, 0.25 * high]
        tip = ear + rng.uniform(0.1, 0.3) * np.array([0.25 - 0.3 * k, 1])
        s.line([ear, tip], 0.1, 0.02)
    if rng.random() < 0.3:  # antlers
        for k in (-1, 1):
            beam = _curve(head, head + [0.1 * k, 0.25], head + [0.22 * k, 0.42], number=8)
            s.line(beam, 0.045, 0.02)
            for j in (3, 5):
                s.line([beam[j], beam[j] + [-0.12 * k, 0.12]], 0.03, 0.015)
    for x in (-0.8, -0.55, 0.55, 0.8):
        hip = base + [x * long, -0.2 * high]
        foot = np.array([hip[0] + rng.uniform(-0.15, 0.15), -0.75])
        s.line([hip, (hip + foot) / 2 + [rng.uniform(-0.06, 0.06), 0], foot], rng.uniform(0.13, 0.2), 0.06)
        s.line([foot, foot - [0.05, 0]], 0.06)
    rump, up = base + [0.95 * long, 0.2 * high], rng.uniform(-0.5, 0.5)
    s.line(_curve(rump, rump + [0.15, up * 0.5], rump + [0.22, up]), 0.09, 0.03)


def _bird(rng: np.random.Generator, s: _Sheet) -> None:
    s.disc([0, 0], [0.42, rng.uniform(0.16, 0.24)], turn=0.3)
    s.disc([-0.42, 0.16], 0.15)
    s.polygon([[-0.53, 0.23], [-0.53, 0.1], [-0.53 - rng.uniform(0.12, 0.4), 0.12]])
    s.polygon([[0.25, 0.05], [0.8, -0.1 + rng.uniform(-0.2, 0.2)], [0.78, -0.3], [0.2, -0.15]])
    feathers, sweep = int(rng.integers(4, 9)), rng.uniform(0.3, 1.0)
    for k in range(feathers):  # spread wing
        angle = 0.5 + sweep * 1.4 * k / feathers
        long = rng.uniform(0.55, 0.6) + 0.22 * np.sin(np.pi * k / feathers)
        s.line([[0.05, 0.05], np.array([0.05, 0.05]) + long * np.array([np.cos(angle), np.sin(angle)])], 0.2, 0.05)
    for x in (-0.05, 0.08):
        s.line([[x, -0.15], [x - 0.05, -0.5]], 0.04)
        s.line([[x - 0.15, -0.52], [x + 0.05, -0.5]], 0.035)


def _fish(rng: np.random.Generator, s: _Sheet) -> None:
    t = np.linspace(0, np.pi, 40)
    high = rng.uniform(0.2, 0.45)
    upper = np.stack([-0.75 * np.cos(t), high * np.sin(t) ** 0.8], 1)
    s.polygon(np.concatenate([upper, (upper * (1, -0.9))[::-1]]))
    tail = rng.uniform(0.25, 0.45)
    s.polygon([[0.55, 0.08], [0.95, tail], [0.82, 0], [0.95, -tail], [0.55, -0.08]])
    s.polygon([[-0.3, 0.7 * high], [rng.uniform(-0.2, 0.2), high + 0.25], [0.4, 0.5 * high]])
    s.polygon([[-0.1, -0.7 * high], [0.15, -high - 0.2], [0.25, -0.6 * high]])
    s.disc([-0.5, 0.12], 0.045, on=False)
    s.line(_curve([-0.32, 0.5 * high], [-0.25, 0], [-0.32, -0.5 * high]), 0.03, on=False)


def _leaf(rng: np.random.Generator, s: _Sheet) -> None:
    """A lobed, toothed or compound leaf, sometimes with its veins cut out."""
    a = np.linspace(-np.pi, np.pi, 400)
    lobes = int(rng.choice([1, 3, 5, 7]))
    deep, teeth = rng.uniform(0.1, 0.5) * (lobes > 1), rng.uniform(0, 0.04)
    r = 0.8 * (1 - 0.45 * (np.abs(a) / np.pi) ** 2) * (1 - deep * 0.5 * (1 - np.cos(lobes * a)))
    r = r * (1 + teeth * np.sign(np.sin(40 * a)))
    slim = rng.uniform(0.5, 1.0) if lobes > 1 else rng.uniform(0.25, 0.7)
    s.polygon(np.stack([slim * r * np.sin(a), r * np.cos(a) + 0.1], 1))
    s.line(_curve([0, -0.3], [0.03, -0.6], [rng.uniform(-0.2, 0.2), -0.95]), 0.06, 0.05)
    if rng.random() < 0.5:
        s.line([[0, -0.3], [0, 0.65]], 0.03, 0.02, on=False)
        for z in np.linspace(-0.2, 0.35, int(rng.integers(2, 6))):
            for side in (-1, 1):
                s.line([[0.03 * side, z], [side * 0.35 * slim, z + 0.25]], 0.025, 0.015, on=False)


def _tree(rng: np.random.Generator, s: _Sheet) -> None:
    """A bare tree that forks, or a fir."""
    if rng.random() < 0.35:
        tiers = int(rng.integers(3, 7))
        for k in range(tiers):
            z = -0.6 + 1.5 * k / tiers
            wide = 0.6 * (1 - 0.75 * k / tiers)
            s.polygon([[-wide, z], [wide, z], [0, min(z + 2.3 / tiers, 0.95)]])
        s.polygon([[-0.08, -0.9], [0.08, -0.9], [0.08, -0.5], [-0.08, -0.5]])
        return
    spread, shrink = rng.uniform(0.3, 0.6), rng.uniform(0.68, 0.8)
    tips = [(np.array([0, -0.9]), np.pi / 2, 0.42, 0.16)]
    for _ in range(6):
        grown = []
        for foot, angle, long, thick in tips:
            end = foot + long * np.array([np.cos(angle), np.sin(angle)])
            s.line([foot, end], thick, 0.72 * thick)
            for side in (-1, 1):
                turn = angle + side * spread * rng.uniform(0.5, 1.4)
                grown.append((end, turn, long * shrink * rng.uniform(0.8, 1.1), max(0.72 * thick, 0.025)))
        tips = grown


def _arrow(rng: np.random.Generator, s: _Sheet) -> None:
    thick, head = rng.uniform(0.12, 0.35), rng.uniform(0.3, 0.5)
    if rng.random() < 0.5:
        s.polygon([[-0.9, -thick / 2], [0.3, -thick / 2], [0.3, thick / 2], [-0.9, thick / 2]])
        s.polygon([[0.25, head], [0.25, -head], [0.95, 0]])
        if rng.random() < 0.4:
            s.polygon([[-0.35, head], [-0.35, -head], [-0.95, 0]])
    else:  # round
        a = np.linspace(0, rng.uniform(3.5, 5.2), 60)
        path = 0.6 * np.stack([np.cos(a), np.sin(a)], 1)
        s.line(path, 0.7 * thick)
        way = np.array([-np.sin(a[-1]), np.cos(a[-1])])
        out = np.array([way[1], -way[0]])
        s.polygon([path[-1] + 0.7 * head * out, path[-1] - 0.7 * head * out, path[-1] + 0.9 * head * way])


def _star(rng: np.random.Generator, s: _Sheet) -> None:
    points = int(rng.integers(4, 13))
    a = np.pi / 2 + np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2, 0.92 * rng.uniform(0.3, 0.75), 0.92)
    outline = np.stack([r * np.cos(a), r * np.sin(a)], 1)
    s.polygon(outline)
    if rng.random() < 0.5:
        s.polygon(outline * rng.uniform(0.4, 0.75), on=False)


def _heart(rng: np.random.Generator, s: _Sheet) -> None:
    a = np.linspace(0, 2 * np.pi, 200)
    x = 16 * np.sin(a) ** 3
    z = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    heart = np.stack([x, z + 2.5], 1) / 18
    s.polygon(heart)
    if rng.random() < 0.4:
        s.polygon(heart * rng.uniform(0.5, 0.8), on=False)


def _keyhole(rng: np.random.Generator, s: _Sheet) -> None:
    wide, high = rng.uniform(0.4, 0.8), rng.uniform(0.6, 0.9)
    if rng.random() < 0.5:
        s.disc([0, 0], [wide, high])
    else:
        s.polygon([[-wide, -high], [wide, -high], [wide, high], [-wide, high]])
    r = rng.uniform(0.13, 0.22)
    s.disc([0, 0.18], r, on=False)
    s.polygon([[-0.45 * r, 0.18], [0.45 * r, 0.18], [0.85 * r, -0.4], [-0.85 * r, -0.4]], on=False)
    for z in (-0.78, 0.78):
        s.disc([0, z * high], 0.05, on=False)


def _key(rng: np.random.Generator, s: _Sheet) -> None:
    r = rng.uniform(0.22, 0.32)
    leaves = int(rng.choice([1, 1, 3, 4]))
    for k in range(leaves):
        a = 2 * np.pi * k / leaves + np.pi
        s.disc(np.array([-0.62, 0]) + (leaves > 1) * 0.6 * r * np.array([np.cos(a), np.sin(a)]), r)
    s.line([[-0.5, 0], [0.92, 0]], rng.uniform(0.1, 0.15))
    for x in np.linspace(0.45, 0.85, int(rng.integers(2, 5))):
        down = -rng.uniform(0.15, 0.35)
        s.polygon([[x - 0.05, 0], [x + 0.05, 0], [x + 0.05, down], [x - 0.05, down]])
    s.disc([-0.65, 0], 0.45 * r, on=False)


def _scissors(rng: np.random.Generator, s: _Sheet) -> None:
    for side, angle in ((-1, rng.uniform(0.1, 0.5)), (1, -rng.uniform(0.1, 0.5))):
        way = np.array([np.sin(angle), np.cos(angle)])
        out = np.array([way[1], -way[0]])
        s.polygon([-0.05 * out, 0.06 * out, 0.95 * way - 0.01 * out, 0.5 * way - 0.08 * side * out])
        s.line([0.1 * way, -0.45 * way], 0.12, 0.09)
        ring, r = -0.65 * way - 0.06 * side * out, rng.uniform(0.17, 0.22)
        s.disc(ring, [r, 1.3 * r], turn=-angle)
        s.disc(ring, [0.62 * r, 0.9 * r], on=False, turn=-angle)
    s.disc([0, 0], 0.03, on=False)


def _snowflake(rng: np.random.Generator, s: _Sheet) -> None:
    arms, thick = int(rng.choice([5, 6, 6, 6, 8])), rng.uniform(0.04, 0.08)
    twigs = [(rng.uniform(0.25, 0.75), rng.uniform(0.12, 0.3)) for _ in range(int(rng.integers(2, 5)))]
    core = rng.uniform(0.1, 0.35)
    for k in range(arms):
        way = np.array([np.cos(2 * np.pi * k / arms), np.sin(2 * np.pi * k / arms)])
        side = np.array([-way[1], way[0]])
        s.line([0 * way, 0.93 * way], thick)
        for at, long in twigs:
            for sign in (-1, 1):
                s.line([at * way, at * way + long * (0.6 * way + 0.8 * sign * side)], 0.8 * thick)
        nearby = np.array([np.cos(2 * np.pi * (k + 1) / arms), np.sin(2 * np.pi * (k + 1) / arms)])
        s.line([core * way, core * nearby], thick)


def _logo(rng: np.random.Generator, s: _Sheet) -> None:
    """Concentric rings, turned copies of a blade, and a mark in the middle."""
    turns, kind = int(rng.integers(2, 9)), int(rng.integers(4))
    if kind < 2:
        s.disc([0, 0], 0.93)
        s.disc([0, 0], rng.uniform(0.7, 0.85), on=False)
    bend, wide = rng.uniform(-1, 1), rng.uniform(0.1, 0.3)
    for k in range(turns):
        a = 2 * np.pi * k / turns + np.linspace(0, bend, 12)
        r = np.linspace(0.12, 0.72 if kind < 2 else 0.9, 12)
        blade = np.stack([r * np.cos(a), r * np.sin(a)], 1)
        s.line(blade, *((0.5 * wide, wide) if kind % 2 else (wide, 0.3 * wide)))
    s.disc([0, 0], rng.uniform(0.15, 0.3))
    s.disc([0, 0], rng.uniform(0.05, 0.12), on=False)


def _bubble(rng: np.random.Generator, s: _Sheet) -> None:
    s.disc([0, 0.15], [0.85, rng.uniform(0.45, 0.65)])
    s.polygon([[-0.45, -0.2], [-0.05, -0.3], [-0.6, -0.85]])
    for x in np.linspace(-0.4, 0.4, int(rng.integers(2, 5))):
        s.disc([x, 0.15], 0.08, on=False)


FIGURES: dict[str, Callable[[np.random.Generator, _Sheet], None]] = {
    "person": _person,
    "animal": _animal,
    "bird": _bird,
    "fish": _fish,
    "leaf": _leaf,
    "tree": _tree,
    "arrow": _arrow,
    "star": _star,
    "heart": _heart,
    "keyhole": _keyhole,
    "key": _key,
    "scissors": _scissors,
    "snowflake": _snowflake,
    "logo": _logo,
    "bubble": _bubble,
}

# brush strokes of letters: points (x, z) on a grid of 0..2 by 0..4
_STROKES = {
    "A": [[(0, 0), (1, 4), (2, 0)], [(0.45, 1.5), (1.55, 1.5)]],
    "B": [[(0, 0), (0, 4), (1.5, 3.7), (1.5, 2.4), (0, 2.1), (1.9, 1.6), (1.8, 0.3), (0, 0)]],
    "C": [[(2, 3.6), (1, 4), (0, 2.6), (0, 1.2), (1, 0), (2, 0.5)]],
    "E": [[(2, 4), (0, 4), (0, 0), (2, 0)], [(0, 2), (1.5, 2)]],
    "H": [[(0, 0), (0, 4)], [(2, 0), (2, 4)], [(0, 2), (2, 2)]],
    "K": [[(0, 0), (0, 4)], [(2, 4), (0, 1.7), (2, 0)]],
    "M": [[(0, 0), (0.2, 4), (1, 1.5), (1.8, 4), (2, 0)]],
    "N": [[(0, 0), (0, 4), (2, 0), (2, 4)]],
    "O": [[(1, 4), (0, 3), (0, 1), (1, 0), (2, 1), (2, 3), (1, 4)]],
    "P": [[(0, 0), (0, 4), (1.8, 3.8), (1.8, 2.2), (0, 1.9)]],
    "R": [[(0, 0), (0, 4), (1.8, 3.8), (1.8, 2.2), (0, 1.9), (2, 0)]],
    "S": [[(2, 3.6), (1, 4), (0.1, 3.2), (1.8, 1.2), (1, 0), (0, 0.5)]],
    "T": [[(0, 4), (2, 4)], [(1, 4), (1, 0)]],
    "U": [[(0, 4), (0, 1), (1, 0), (2, 1), (2, 4)]],
    "W": [[(0, 4), (0.5, 0), (1, 2.6), (1.5, 0), (2, 4)]],
    "X": [[(0, 4), (2, 0)], [(2, 4), (0, 0)]],
    "Z": [[(0, 4), (2, 4), (0, 0), (2, 0)]],
    "4": [[(1.5, 0), (1.5, 4), (0, 1.4), (2, 1.4)]],
    "8": [[(1, 2.1), (0.2, 3), (1, 4), (1.8, 3), (1, 2.1), (0, 1), (1, 0), (2, 1), (1, 2.1)]],
}


@functools.lru_cache(maxsize=512)
def _letter(font: str, letter: str) -> np.ndarray:
    """A letter's mask, bool [rows, columns], cropped to its width; all letters of a font share their rows."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    if font in ("heavy", "italic"):
        face = cv2.FONT_HERSHEY_TRIPLEX if font == "heavy" else cv2.FONT_HERSHEY_SCRIPT_COMPLEX
        page = np.zeros((640, 960), np.uint8)
        cv2.putText(page, letter, (240, 440), face, 12.0, 255, 24, cv2.LINE_AA)
    elif font == "pixel":
        small = Image.new("L", (16, 14))
        ImageDraw.Draw(small).text((3, 1), letter, 255, font=ImageFont.load_default_imagefont())
        page = np.asarray(small).repeat(40, 0).repeat(40, 1)
    else:
        picture = Image.new("L", (960, 640))
        ImageDraw.Draw(picture).text((240, 40), letter, 255, font=ImageFont.load_default(440))
        page = np.asarray(picture)
    filled = np.flatnonzero(page.max(0) > 127)
    return page[:, filled[0] : filled[-1] + 1] > 127


def _brushed(rng: np.random.Generator, letter: str, thick: float, loose: float) -> np.ndarray:
    """A letter written with a brush, bool [rows, columns]."""
    sheet = _Sheet()
    for stroke in _STROKES[letter]:
        points = (np.array(stroke) - (1, 2)) * (0.35, 0.35) + loose * rng.normal(size=(len(stroke), 2))
        sheet.line(_curve(*points) if len(points) > 2 else points, thick, thick * rng.uniform(0.6, 1.2))
    mask = sheet.mask()
    filled = np.flatnonzero(mask.any(0))
    return mask[:, filled[0] : filled[-1] + 1]


def _text(rng: np.random.Generator, f: dict[str, Any]) -> tuple[np.ndarray, str]:
    """Set letters: a mask bool [rows, columns], and the text."""
    pool = tuple(_STROKES) if f["font"] == "strokes" else tuple(LETTERS)
    if rng.random() < 0.7 and f["font"] != "strokes":  # a word instead of random characters
        pool = pool[:26] if rng.random() < 0.5 else pool[26:52]
    text = "".join(pool[int(k)] for k in rng.integers(len(pool), size=f["letters"]))
    thick, loose, gap = rng.uniform(0.12, 0.3), rng.uniform(0, 0.05), rng.uniform(0.02, 0.12)
    rows = []
    for line in np.array_split(np.arange(len(text)), min(f["lines"], len(text))):
        parts = []
        for k in line:
            mask = _brushed(rng, text[k], thick, loose) if f["font"] == "strokes" else _letter(f["font"], text[k])
            parts += [mask, np.zeros((len(mask), max(int(gap * len(mask)), 4)), bool)]
        row = np.concatenate(parts[:-1], 1)
        filled = np.flatnonzero(row.any(1))
        rows.append(row[filled[0] : filled[-1] + 1])
    wide, blank = max(row.shape[1] for row in rows), int(0.06 * len(rows[0])) + 4
    left = int(rng.integers(3))  # to the left, to the right, centred
    page = []
    for row in rows:
        more = wide - row.shape[1]
        before = (0, more, more // 2)[left]
        page += [np.pad(row, ((0, 0), (before, more - before))), np.zeros((blank, wide), bool)]
    return np.concatenate(page[:-1]), text


def _fitted(mask: np.ndarray, slant: float, margin: float) -> np.ndarray:
    """A bool mask slanted and scaled to fit [DRAWN, DRAWN] with a margin (a share of the side)."""
    import cv2

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    high, wide = mask.shape
    across = wide + abs(slant) * high
    scale = DRAWN * (1 - 2 * margin) / max(high, across)
    move = np.array(
        [
            [scale, -slant * scale, DRAWN / 2 - scale * (wide / 2 - slant * high / 2)],
            [0, scale, DRAWN / 2 - scale * high / 2],
        ]
    )
    # blurred by a pixel of the coarser side, so that a slanted border has no steps
    blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.5 / scale, 0.5))
    fitted = cv2.warpAffine(blurred, move, (DRAWN, DRAWN), flags=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(fitted, (0, 0), max(scale, 1.0)) > 0.5


def distance_of(mask: np.ndarray) -> np.ndarray:
    """Signed distance [GRID, GRID] to the border of a mask [DRAWN, DRAWN], below 0 inside, in subject radii."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    # OpenCV's distances differ in the last bits between calls
    inside, outside = (distance_transform_edt(m) for m in (mask, ~mask))
    distance = np.where(mask, 0.5 - inside, outside - 0.5)  # pixel centres are half a pixel from the border
    block = DRAWN // GRID
    coarse = distance.reshape(GRID, block, GRID, block).mean((1, 3)) * (2 * HALF / DRAWN)
    return gaussian_filter(coarse, 0.5, mode="nearest")


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """An extruded figure from drawn `Factors`; its details come from `rng`. It faces -y, x to its right."""
    f = factors
    drawn: dict[str, Any] = {}
    if f["figure"] == "text":
        mask, drawn["text"] = _text(rng, f)
    else:
        sheet = _Sheet()
        FIGURES[f["figure"]](rng, sheet)
        mask = sheet.mask()
        if rng.random() < 0.5:
            mask = mask[:, ::-1]
    margin = 0.14 if f["cutout"] else 0.06
    distance = distance_of(_fitted(mask, f["slant"], margin)) - f["weight"]
    if f["cutout"]:
        line = (np.arange(GRID) + 0.5 - GRID / 2) * (2 * HALF / GRID)
        inside = np.argwhere(distance < 0)
        half_z, half_x = np.abs(line[inside]).max(0) + rng.uniform(0.06, 0.12)
        x, z = np.abs(line)[None], np.abs(line)[:, None]
        plate = np.hypot(x, z) - 0.97 if rng.random() < 0.15 else np.maximum(x - half_x, z - half_z)
        distance = np.maximum(plate, -distance)
    elif f["outline"]:
        distance = np.abs(distance) - f["ribbon"] / 2
    mesh = slab(distance, 2 * HALF / GRID, f["depth"], f["bevel"])
    if abs(f["bend"]) > 0.05:
        radius = 2 * HALF / f["bend"]
        v = mesh.vertices
        angle, r = v[:, 0] / radius, radius - v[:, 1]
        bent = np.stack([r * np.sin(angle), radius - r * np.cos(angle), v[:, 2]], 1)
        mesh = replace(mesh, vertices=bent - (0, np.ptp(bent[:, 1]) / 2 * np.sign(f["bend"]), 0))
    main = colour_of_tone(rng, f["tone"])
    other = any_colour(rng) if rng.random() < 0.6 else shade(rng, main, 0.7)
    colour = patterned(rng, f["texture"], f["texture_cells"], main, other)
    turn = rotation(np.array([0, 1, 0]), f["tilt"])
    turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360)) @ turn
    material = finish(f["material"], f["roughness"], colour)
    return Subject([Mesh(mesh.vertices @ turn.T, mesh.faces, mesh.uv, material)], drawn=drawn)
