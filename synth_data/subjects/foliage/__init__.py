"""Foliage: branches, house plants, ferns, palms, flowers, bushes, trees, vines, conifers, grass and reeds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade, srgb_to_linear
from synth_data.factors import chance, shares, span
from synth_data.subjects.meshes import Mesh, Strands, Subject, ball, join, lathe, placed, rotation, surface, waves
from synth_data.subjects.repeated import copied, facing, fitted, grids, swept, unit

VARIANTS = 4  # leaves of one plant differ in colour and curl; they share one texture side by side
GOLDEN = np.pi * (3 - np.sqrt(5))  # the angle between leaves that follow one another round a stem


@dataclass(frozen=True)
class Factors:
    """What a plant varies in."""

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
    """what grows"""
    leaf: tuple = shares(ovate=1.4, lanceolate=1.2, heart=0.9, round=0.6, lobed=0.8, palmate=0.9, serrate=1, linear=0.5)
    """outline of the leaves, where the plant leaves it open"""
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
    """material of the leaves: light passes through, glossy, or dull"""
    transmission: tuple = span(0.1, 0.5, most=1)
    """share of the light that passes through a translucent leaf"""
    eaten: float = chance(0.12)
    """whether insects have made holes in the leaves"""
    flower_tone: tuple = shares(white=1.2, bright=2.2, pastel=1.6)
    """colour of petals, fruit and blossom"""


@dataclass
class Plant:
    """What a plant is made of while it grows: bark, and meshes and strands with their own materials."""

    stems: list[Mesh] = field(default_factory=list)
    leaves: list[Mesh] = field(default_factory=list)
    others: list[Mesh] = field(default_factory=list)
    strands: list[Strands] = field(default_factory=list)


def _half_width(kind: str, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the width of a blade at t in [0, 1] of its length, in lengths."""
    if kind == "lanceolate":
        return rng.uniform(0.1, 0.17) * np.sin(np.pi * t**0.8) ** 0.9
    if kind == "linear":
        return rng.uniform(0.025, 0.05) * np.sin(np.pi * t**0.5) ** 0.5
    if kind == "round":
        return rng.uniform(0.4, 0.5) * np.sin(np.pi * np.clip(t, 0, 1)) ** 0.5
    if kind == "heart":
        return rng.uniform(0.36, 0.46) * np.sin(np.pi * t**0.5) ** 0.75
    wide = rng.uniform(0.2, 0.32) * np.sin(np.pi * t**0.72)
    if kind == "lobed":  # oak
        lobes = int(rng.integers(3, 5))
        return wide * 1.2 * (0.62 + 0.38 * np.sin(2 * np.pi * lobes * t - 1)) * np.sqrt(np.sin(np.pi * t))
    if kind == "serrate":
        return wide * (1 + 0.14 * ((t * rng.integers(6, 11)) % 1 - 0.5))
    return wide


def leaf(rng: np.random.Generator, kind: str, curl: float, fine: bool) -> Mesh:
    """One blade: it starts at the origin, runs along y for a length of one, and faces z. uv: (across, along).

    `fine` blades have more triangles. The first vertex is the origin.
    """
    if kind == "palmate":  # a fan of lobes about the stalk
        lobes = int(rng.choice([3, 5, 5, 7]))
        columns = lobes * (6 if fine else 4) + 1
        a = np.linspace(-0.82, 0.82, columns) * np.pi
        lobe = np.abs(np.sin(np.linspace(0, lobes * np.pi, columns)))
        reach = (0.3 + 0.7 * lobe ** rng.uniform(0.8, 1.4)) * (0.55 + 0.45 * np.cos(a / 2))
        s = np.linspace(0, 1, 5 if fine else 3)[:, None]
        x, y = 0.75 * s * reach * np.sin(a), 0.75 * s * reach * np.cos(a)
        lift = -0.12 * (s * reach) ** 2 * (0.3 + curl) + 0.10 * s * (lobe - 0.5) * curl
        grid = np.stack([x, y, lift], -1)
        span_ = np.array([np.abs(x).max() * 2, np.ptp(y)])
        uv = np.stack([x / span_[0] + 0.5, (y - y.min()) / span_[1]], -1)
    else:
        rows, columns = (19, 5) if fine else (8, 3)
        if kind in ("lobed", "serrate"):
            rows = 33 if fine else 18
        t = np.linspace(0, 1, rows)
        w = _half_width(kind, t, rng)
        w[0] = w[-1] = 0.0
        across = np.linspace(-1, 1, columns)
        fold = rng.uniform(0.0, 0.5) * (0.3 + curl)
        wave = 0.05 * curl * np.sin(rng.uniform(8, 20) * t + rng.uniform(0, 6))
        x = w[:, None] * across
        z = fold * np.abs(x) + wave[:, None] * np.abs(across) * (w / w.max())[:, None]
        y = np.broadcast_to(t[:, None], x.shape).copy()
        if kind == "heart":
            y -= 0.22 * np.abs(across) * np.exp(-((t[:, None] / 0.25) ** 2)) * (w > 0)[:, None]
        turn = rng.uniform(-0.3, 1.1) * (0.25 + curl)  # the blade bends down along its length
        angle = turn * t
        step = np.diff(t, prepend=0)
        mid_y, mid_z = np.cumsum(step * np.cos(angle)), -np.cumsum(step * np.sin(angle))
        twist = rng.normal() * 0.5 * curl * t
        off = y - t[:, None]
        x, z = (
            x * np.cos(twist)[:, None] - z * np.sin(twist)[:, None],
            x * np.sin(twist)[:, None] + z * np.cos(twist)[:, None],
        )
        grid = np.stack(
            [x, mid_y[:, None] + off + z * np.sin(angle)[:, None], mid_z[:, None] + z * np.cos(angle)[:, None]], -1
        )
        grid -= grid[0, columns // 2]
        uv = np.stack([np.broadcast_to((across + 1) / 2, x.shape), np.broadcast_to(t[:, None], x.shape)], -1)
    mesh = surface(grid)
    return replace(mesh, uv=uv.reshape(-1, 2))


PALETTES = {  # sRGB
    "green": [(0.18, 0.34, 0.10), (0.27, 0.44, 0.14), (0.13, 0.28, 0.12), (0.36, 0.50, 0.18)],
    "spring": [(0.50, 0.68, 0.22), (0.42, 0.62, 0.20), (0.60, 0.74, 0.30), (0.36, 0.56, 0.20)],
    "autumn": [(0.80, 0.46, 0.08), (0.70, 0.22, 0.08), (0.86, 0.66, 0.16), (0.50, 0.42, 0.14)],
    "dry": [(0.56, 0.43, 0.25), (0.44, 0.31, 0.18), (0.66, 0.56, 0.36), (0.40, 0.33, 0.20)],
    "purple": [(0.34, 0.12, 0.20), (0.42, 0.16, 0.24), (0.26, 0.12, 0.16), (0.36, 0.24, 0.20)],
    "variegated": [(0.20, 0.42, 0.16), (0.24, 0.46, 0.20), (0.30, 0.50, 0.22), (0.16, 0.36, 0.16)],
    "silver": [(0.50, 0.58, 0.50), (0.58, 0.66, 0.58), (0.44, 0.54, 0.44), (0.62, 0.66, 0.56)],
}


def leaf_texture(rng: np.random.Generator, season: str, size: int = 64) -> np.ndarray:
    """Linear colours [size, VARIANTS * size, 3] of VARIANTS blades: rows run along, columns across each."""
    t, x = np.meshgrid((np.arange(size) + 0.5) / size, 2 * (np.arange(size) + 0.5) / size - 1, indexing="ij")
    veins = rng.uniform(6, 14)
    slope = rng.uniform(0.1, 0.3)
    side = np.cos(2 * np.pi * (veins * (t - slope * np.abs(x))))
    vein = np.clip(side - 0.75, 0, 1) * 4 * (1 - 0.5 * np.abs(x))
    midrib = np.exp(-((x / (0.05 + 0.03 * (1 - t))) ** 2))
    strength = rng.uniform(-0.2, 0.5)
    palette = 1.5 * srgb_to_linear(np.array(PALETTES[season]))[rng.permutation(4)]
    hue = np.exp(0.12 * rng.normal(size=3))
    edge = palette[rng.integers(4)] * (2.2 if season == "variegated" else 1)
    if season == "variegated":
        edge = srgb_to_linear(np.array([0.88, 0.88, 0.66]))
    scheme = rng.integers(3)
    tiles = []
    for k in range(VARIANTS):
        base = palette[k if season in ("autumn", "dry") else rng.integers(4)] * hue
        base = base * np.exp(0.1 * rng.normal())
        points = np.stack([x, 2 * t, 0 * x + 7 * k], -1)
        blotch = waves(rng, points, 2.5)
        if season == "variegated":
            mix = (
                np.abs(x) + 0.25 * blotch > 0.75
                if scheme == 0
                else (blotch > 0.6 if scheme == 1 else np.abs(x) + 0.2 * blotch < 0.35)
            )
            mix = mix.astype(np.float64)
        elif season in ("autumn", "dry"):
            mix = 1 / (1 + np.exp(-4 * (blotch + np.abs(x) - 0.6)))
        else:
            mix = 0.15 + 0.15 * blotch
        colour = base * (1 - mix[..., None]) + edge * mix[..., None]
        colour = colour * (1 + strength * (0.6 * vein + 1.3 * midrib))[..., None]
        colour = colour * np.exp(0.12 * waves(rng, points, 12))[..., None]
        if season in ("dry", "autumn") or rng.random() < 0.15:
            spot = waves(rng, points, 7) > rng.uniform(1.2, 2.0)
            colour = np.where(spot[..., None], colour * 0.25, colour)
        tiles.append(colour)
    return np.clip(np.concatenate(tiles, 1), 0.003, 0.92)


def blades(
    rng: np.random.Generator,
    templates: list[Mesh],
    at: np.ndarray,
    forward: np.ndarray,
    up: np.ndarray,
    sizes: np.ndarray,
) -> Mesh:
    """Leaves at points [N, 3] that grow along `forward` [N, 3], face `up` [N, 3] and are `sizes` [N] long.

    Every template has as many vertices; which one, and which part of the texture, is drawn for each leaf.
    """
    number = len(at)
    shape, tile = rng.integers(0, len(templates), number), rng.integers(0, VARIANTS, number)
    matrices = facing(forward, up) * np.asarray(sizes)[:, None, None]
    points = np.stack([m.vertices for m in templates])[shape]
    uv = np.clip(templates[0].uv, 0.02, 0.98)[None] + np.stack([tile, 0 * tile], -1)[:, None]
    mesh = copied(templates[0], matrices, at, uv / (VARIANTS, 1))
    vertices = np.einsum("nij,nvj->nvi", matrices, points) + np.asarray(at)[:, None]
    return replace(mesh, vertices=vertices.reshape(-1, 3))


def _templates(rng: np.random.Generator, kind: str, curl: float, fine: bool) -> list[Mesh]:
    """VARIANTS leaves of the same outline that curl differently."""
    outline = int(rng.integers(2**31))
    result = []
    for _ in range(VARIANTS):
        own = np.random.default_rng(outline)  # the same outline...
        result.append(leaf(own, kind, curl * rng.uniform(0.6, 1.4), fine))  # ...curled more or less
    return result


def _stems(
    rng: np.random.Generator,
    starts: np.ndarray,
    ways: np.ndarray,
    lengths: np.ndarray | float,
    droop: float,
    wild: float = 0.15,
    number: int = 16,
) -> np.ndarray:
    """Paths [N, number, 3] that leave `starts` [N, 3] along `ways` [N, 3], wander by `wild` and hang by `droop`."""
    at, heading = np.asarray(starts, dtype=np.float64), unit(np.asarray(ways, dtype=np.float64))
    step = np.broadcast_to(np.asarray(lengths, dtype=np.float64) / (number - 1), len(at))[:, None]
    drift = rng.normal(size=at.shape) * wild
    jolts = rng.normal(size=(number - 1, *at.shape)) * 0.35 * wild
    path = [at]
    for jolt in jolts:
        drift = 0.8 * drift + jolt
        heading = unit(heading + 0.25 * drift + np.array([0, 0, -1.6 * droop / number]))
        path.append(path[-1] + step * heading)
    return np.stack(path, 1)


def _stem(
    start: np.ndarray | tuple,
    way: np.ndarray | tuple,
    length: float,
    droop: float,
    rng: np.random.Generator,
    wild: float = 0.15,
    number: int = 16,
) -> np.ndarray:
    """One such path [number, 3]."""
    return _stems(rng, np.asarray(start)[None], np.asarray(way)[None], length, droop, wild, number)[0]


def _taper(number: int, thick: float, tip: float = 0.35) -> np.ndarray:
    return thick * np.linspace(1, tip, number)[None]


def _spots(paths: list[np.ndarray], first: float, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`number` places along each path from the share `first` on: points, directions, and how far along."""
    points, ways, shares_ = [], [], []
    for path in paths:
        t = np.linspace(first, 1, number)
        index = t * (len(path) - 1)
        points.append(np.stack([np.interp(index, np.arange(len(path)), path[:, k]) for k in range(3)], 1))
        gradient = np.gradient(path, axis=0)
        ways.append(np.stack([np.interp(index, np.arange(len(path)), gradient[:, k]) for k in range(3)], 1))
        shares_.append(t)
    return np.concatenate(points), unit(np.concatenate(ways)), np.concatenate(shares_)


def _around(rng: np.random.Generator, ways: np.ndarray, order: np.ndarray, arrangement: int) -> np.ndarray:
    """Directions [N, 3] away from a stem: spiral, alternate or opposite."""
    flat = unit(np.cross(ways, (0.1, 0.2, 1.0)))
    other = np.cross(ways, flat)
    angle = (order * GOLDEN, order * np.pi, order * np.pi + (order // 2 % 2) * np.pi / 2)[arrangement][:, None]
    angle = angle + 0.25 * rng.normal(size=angle.shape)
    return np.cos(angle) * flat + np.sin(angle) * other


def _leafy(
    rng: np.random.Generator,
    plant: Plant,
    f: dict[str, Any],
    paths: list[np.ndarray],
    number: int,
    size: float,
    first: float = 0.15,
    fine: bool = True,
    kind: str | None = None,
    stalk: float = 0.15,
) -> None:
    """Leaves on stalks along stems."""
    arrangement = int(rng.integers(3))
    points, ways, share = _spots(paths, first, number)
    order = np.tile(np.arange(number), len(paths)).astype(np.float64)
    out = _around(rng, ways, order, arrangement)
    forward = unit(
        0.75 * ways + out * rng.uniform(0.6, 1.3) + (0, 0, -0.45 * f["droop"]) + 0.2 * rng.normal(size=out.shape)
    )
    sizes = size * f["leaf_size"] * (1.1 - 0.5 * share) * np.exp(0.18 * rng.normal(size=len(points)))
    feet = points + forward * (stalk * sizes)[:, None]
    if stalk > 0:
        plant.stems.append(swept(np.stack([points, feet], 1), 0.012 * sizes[:, None] / size * max(size, 0.1), 4))
    up = unit(np.array([0, 0, 1.0]) + 0.35 * ways + 0.35 * rng.normal(size=out.shape))
    kept = rng.random(len(points)) < 0.94
    plant.leaves.append(
        blades(
            rng, _templates(rng, kind or f["leaf"], f["curl"], fine), feet[kept], forward[kept], up[kept], sizes[kept]
        )
    )


def _branch(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    way = unit(np.array([rng.uniform(-1, 1), rng.uniform(-0.4, 0.4), rng.uniform(-0.2, 1)]))
    main = _stem(np.zeros(3), way, 1.8, 0.5 * f["droop"], rng, number=24)
    paths = [main]
    plant.stems.append(swept(main, _taper(24, 0.022), 8))
    for _ in range(int(rng.integers(0, 6))):
        index = int(rng.integers(4, 20))
        side = unit(main[index] - main[index - 1] + 0.8 * unit(rng.normal(size=3)))
        twig = _stem(main[index], side, rng.uniform(0.4, 0.9), f["droop"] * 0.7, rng)
        plant.stems.append(swept(twig, _taper(16, 0.012), 6))
        paths.append(twig)
    number = max(4, round(14 * f["density"]))
    _leafy(rng, plant, f, paths, number, rng.uniform(0.22, 0.4))
    if rng.random() < 0.35:
        _fruit(rng, plant, f, paths)
    return plant


def _fruit(rng: np.random.Generator, plant: Plant, f: dict[str, Any], paths: list[np.ndarray]) -> None:
    """Berries or blossom along stems."""
    points, ways, _ = _spots(paths, 0.3, int(rng.integers(3, 9)))
    hang = points + 0.05 * _around(rng, ways, np.arange(len(points), dtype=float), 0) + (0, 0, -0.05)
    if rng.random() < 0.5:
        r = rng.uniform(0.02, 0.06)
        turns = np.broadcast_to(np.eye(3) * r, (len(hang), 3, 3))
        fruit = copied(ball(rows=10), turns, hang + (0, 0, -r))
        colour = colour_of_tone(rng, "bright")
        plant.others.append(replace(fruit, material={"kind": "plastic", "colour": colour, "roughness": 0.15}))
        plant.stems.append(swept(np.stack([points, hang], 1), 0.005, 4))
        return
    petal, kind = _petal_material(rng, f), int(rng.integers(5))
    for p, q in zip(points, hang, strict=True):
        _head(rng, plant, f, q, unit(q - p), rng.uniform(0.06, 0.1), kind, petal)


def _petal_material(rng: np.random.Generator, f: dict[str, Any]) -> dict[str, Any]:
    colour = colour_of_tone(rng, f["flower_tone"])
    heart = colour_of_tone(rng, f["flower_tone"]) if rng.random() < 0.4 else shade(rng, colour, 0.3)
    t = np.linspace(0, 1, 48)[:, None, None]
    lines = 1 + 0.12 * np.sin(np.linspace(0, 40, 48))[None, :, None]
    mix = np.clip((t - rng.uniform(0, 0.4)) / 0.4, 0, 1)
    texture = np.tile(np.clip((heart * (1 - mix) + colour * mix) * lines, 0.004, 0.93), (1, VARIANTS, 1))
    if f["surface"] == "translucent":
        return {"kind": "translucent", "colour": texture, "transmission": f["transmission"]}
    return {"kind": "diffuse", "colour": texture}


def _head(
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
    """A flower head of radius about `size` at `at` that faces `way`. Kinds: open, daisy, cup, rose, globe."""
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
    shape = _templates(rng, outline, 0.5 * f["curl"], size > 0.2)
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
    material = petal or _petal_material(rng, f)
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


def _flowers(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    kind = int(rng.integers(5))
    number = int(rng.choice([1, 1, 3, 5, 8, 14]))
    size = rng.uniform(0.28, 0.42) / max(1, number**0.42)
    petal, heart = _petal_material(rng, f), colour_of_tone(rng, "brown" if rng.random() < 0.5 else "bright")
    vase = rng.random() < 0.3
    paths = []
    for _ in range(number):
        lean = rng.normal(size=3) * (0.1 + 0.12 * np.sqrt(number)) * (1, 1, 0)
        path = _stem(
            rng.normal(size=3) * 0.03 * (1, 1, 0),
            unit(np.array([0, 0, 1.0]) + lean),
            rng.uniform(1.0, 1.5),
            0.25 * f["droop"],
            rng,
        )
        paths.append(path)
        way = unit(path[-1] - path[-3] + 0.5 * unit(rng.normal(size=3)) * (1, 1, 0.3))
        if number > 4 and rng.random() < 0.25:
            petal = _petal_material(rng, f)
        _head(
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
    plant.stems.append(swept(np.array(paths), _taper(16, 0.016 if number < 4 else 0.01, 0.7), 7))
    _leafy(
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


def _pot(rng: np.random.Generator, radius: float, height: float) -> list[Mesh]:
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


def _house_plant(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A pot with upright swords, an arching rosette, large leaves on stalks, or a little tree."""
    plant = Plant()
    kind = int(rng.integers(4))
    radius = rng.uniform(0.2, 0.34)
    plant.others += _pot(rng, radius, rng.uniform(0.3, 0.6))
    if kind == 0:  # swords
        number = max(5, round(14 * f["density"]))
        a, r = GOLDEN * np.arange(number), radius * 0.6 * np.sqrt(np.arange(number) / number)
        at = np.stack([r * np.cos(a), r * np.sin(a), 0 * a], 1)
        forward = unit(at * rng.uniform(0.2, 1.2) / radius + (0, 0, 1) + 0.06 * rng.normal(size=at.shape))
        up = unit(-at + 0.05 * rng.normal(size=at.shape) + (0.01, 0, 0))
        plant.leaves.append(
            blades(
                rng,
                _templates(rng, "lanceolate", 0.25 * f["curl"], True),
                at,
                forward,
                up,
                rng.uniform(0.6, 1.2, number),
            )
        )
        return plant
    if kind == 3:  # a trunk with a crown
        trunk = _stem((0, 0, -0.02), (0, 0, 1), rng.uniform(0.5, 0.9), 0.0, rng, 0.2)
        plant.stems.append(swept(trunk, _taper(16, 0.03, 0.7), 9))
        paths = [
            _stem(
                trunk[-1 - int(rng.integers(0, 4))],
                unit(rng.normal(size=3) + (0, 0, 0.6)),
                rng.uniform(0.3, 0.6),
                f["droop"] * 0.5,
                rng,
            )
            for _ in range(9)
        ]
        plant.stems.append(swept(np.array(paths), _taper(16, 0.012), 5))
        _leafy(rng, plant, f, paths, max(4, round(11 * f["density"])), rng.uniform(0.16, 0.28))
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
        plant.stems.append(swept(paths, _taper(10, 0.014, 0.6), 7))
        forward = unit(way + out * 0.8 + (0, 0, -0.5 - 0.4 * f["droop"]))
        sizes = rng.uniform(0.35, 0.55) * f["leaf_size"] * np.exp(0.15 * rng.normal(size=number))
        shape = f["leaf"] if f["leaf"] not in ("linear", "lanceolate") else "heart"
        up = unit(out * 0.5 + (0, 0, 1) + 0.15 * rng.normal(size=out.shape))
        plant.leaves.append(blades(rng, _templates(rng, shape, f["curl"], True), paths[:, -1], forward, up, sizes))
        return plant
    plant.leaves.append(
        _arching(
            rng,
            np.broadcast_to((0, 0, 0.0), out.shape) + 0.03 * out,
            way,
            rng.uniform(0.7, 1.1, number),
            0.5 + f["droop"],
            rng.uniform(0.012, 0.035),
        )
    )
    return plant


def _arching(
    rng: np.random.Generator,
    at: np.ndarray,
    way: np.ndarray,
    lengths: np.ndarray,
    droop: float,
    wide: float,
    rows: int = 14,
) -> Mesh:
    """Long blades [N] that leave `at` along `way` and bend over under their weight; `wide` is half their width."""
    number = len(at)
    t = np.linspace(0, 1, rows)
    stray = np.exp(0.3 * rng.normal(size=(number, 1, 1)))
    level = np.linalg.norm(way[:, :2], axis=1)[:, None, None]
    middle = way[:, None] * t[None, :, None] + droop * stray * (0.15 + level) * t[None, :, None] ** 2.2 * np.array(
        [0, 0, -0.75]
    )
    bend = rng.normal(size=(number, 1, 3)) * 0.12
    middle = at[:, None] + lengths[:, None, None] * (middle + bend * t[None, :, None] ** 2)
    forward = unit(np.gradient(middle, axis=1))
    side = unit(np.cross(forward, (0, 0, 1.0)) + 1e-6)
    up = np.cross(side, forward)
    turn = (rng.normal(size=(number, 1)) * 0.5 * t)[..., None]
    side, up = np.cos(turn) * side + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * side
    w = (wide * np.exp(0.2 * rng.normal(size=(number, 1))) * (1 - t[None] ** 2.5) * np.minimum(1, 0.5 + 3 * t[None]))[
        ..., None
    ]
    grid = np.stack([middle - w * side + 0.35 * w * up, middle, middle + w * side + 0.35 * w * up], 2)
    mesh = grids(grid)
    tile = rng.integers(0, VARIANTS, number).repeat(rows * 3)
    uv = np.stack([(np.clip(mesh.uv[:, 1], 0.02, 0.98) + tile) / VARIANTS, np.clip(mesh.uv[:, 0], 0.02, 0.98)], 1)
    return replace(mesh, uv=uv)


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
    """Leaflets in pairs along a midrib; `taper` makes the middle ones longest (1) or the first ones (0)."""
    points, ways, t = _spots([path], 0.12, pairs)
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
    """A compound leaf along y, one long: leaflets in pairs on a midrib. The first vertex is its foot."""
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


def _fern(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    number = max(4, round(rng.integers(6, 16) * f["density"]))
    twice = rng.random() < 0.35
    pairs = int(rng.integers(18, 34))
    templates = _templates(rng, "lanceolate" if rng.random() < 0.7 else "serrate", 0.4 * f["curl"], False)
    pinnae = [_pinna(rng) for _ in range(VARIANTS)]
    paths = []
    for k in range(number):
        a = GOLDEN * k
        tilt = rng.uniform(0.25, 1.0)
        way = np.array([np.sin(tilt) * np.cos(a), np.sin(tilt) * np.sin(a), np.cos(tilt)])
        path = _stem(
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
    plant.stems.append(swept(np.array(paths), _taper(22, 0.012, 0.2), 6))
    if rng.random() < 0.3:
        plant.others += _pot(rng, 0.22, 0.3)
    return plant


def _palm(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    fan = rng.random() < 0.3
    tall = rng.uniform(0.0, 1.6)
    top = np.zeros(3)
    if tall > 0.4:
        trunk = _stem((0, 0, -tall), (rng.normal() * 0.25, rng.normal() * 0.25, 1), tall, -0.3, rng, 0.05, 60)
        rings = 0.06 * (1 + 0.25 * (np.arange(60) % 3 == 0)) * np.linspace(1.2, 0.85, 60)
        plant.stems.append(swept(trunk, rings[None], 12))
        top = trunk[-1]
    number = max(7, round(rng.integers(10, 20) * f["density"]))
    templates = _templates(rng, "linear" if not fan else "lanceolate", 0.25 * f["curl"], False)
    paths = []
    for k in range(number):
        a = GOLDEN * k
        tilt = 0.2 + 1.35 * ((k + 0.5) / number) ** 0.8
        way = np.array([np.sin(tilt) * np.cos(a), np.sin(tilt) * np.sin(a), np.cos(tilt)])
        path = _stem(
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
    plant.stems.append(swept(np.array(paths), _taper(18, 0.018, 0.2), 6))
    if tall <= 0.4 and rng.random() < 0.6:
        plant.others += _pot(rng, 0.25, 0.4)
    return plant


def _woody(
    rng: np.random.Generator,
    plant: Plant,
    starts: int,
    depth: int,
    length: float,
    thick: float,
    spread: float,
    droop: float,
) -> list[np.ndarray]:
    """Branching stems from the ground, one generation after the other; returns the last twigs [12, 3] each."""
    lean = 0.08 if starts == 1 else 0.5
    feet, ways = np.zeros((starts, 3)), np.array([0, 0, 1.0]) + rng.normal(size=(starts, 3)) * (lean, lean, 0)
    lengths, radii = np.full(starts, length), np.full(starts, thick)
    for level in range(depth + 1):
        paths = _stems(rng, feet, ways, lengths, 0.4 * droop, 0.25, 12)
        plant.stems.append(swept(paths, radii[:, None] * np.linspace(1, 0.6, 12), 9 if level == 0 else 5))
        if level == depth:
            break
        children = rng.integers(3, 6, len(paths))
        parent = np.repeat(np.arange(len(paths)), children)
        order = np.arange(len(parent)) - np.repeat(np.cumsum(children) - children, children)
        index = np.where(order == 0, 11, rng.integers(5, 12, len(parent)))  # one goes on at the tip
        feet = paths[parent, index]
        heading = unit(feet - paths[parent, index - 1])
        frame = facing(heading, np.broadcast_to((0.3, 0.2, 1.0), heading.shape))
        angle = (rng.uniform(0, 2 * np.pi, len(paths))[parent] + GOLDEN * order)[:, None]
        out = np.cos(angle) * frame[..., 0] + np.sin(angle) * frame[..., 2]
        ways = heading + spread * out * np.where(order == 0, 0.4, 1.0)[:, None] + (0, 0, 0.12)
        lengths, radii = lengths[parent] * rng.uniform(0.55, 0.85, len(parent)), 0.6 * radii[parent]
    return list(paths)


def _bush(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    twigs = _woody(rng, plant, int(rng.integers(5, 9)), 2, 0.45, 0.016, rng.uniform(0.6, 1.0), f["droop"])
    number = max(3, round(1200 * f["density"] / len(twigs)))
    _leafy(rng, plant, f, twigs, min(number, 24), rng.uniform(0.09, 0.16), 0.1, False, stalk=0.08)
    if rng.random() < 0.3:
        points, ways, _ = _spots(twigs, 0.9, 1)
        petal, kind = _petal_material(rng, f), int(rng.integers(4))
        for i in rng.permutation(len(points))[:14]:
            _head(rng, plant, f, points[i], ways[i], 0.06, kind, petal)
    return plant


def _tree(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    plant = Plant()
    twigs = _woody(rng, plant, 1, 4, 0.6, 0.06, rng.uniform(0.6, 1.0), f["droop"])
    twigs = [twigs[i] for i in rng.permutation(len(twigs))[:420]]
    number = max(2, round(2600 * f["density"] / len(twigs)))
    kind = f["leaf"] if f["leaf"] in ("ovate", "lanceolate", "round", "heart") else "ovate"
    _leafy(rng, plant, f, twigs, min(number, 30), rng.uniform(0.07, 0.12), 0.2, False, kind, 0.0)
    return plant


def _bare(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Winter: branches alone, with a few buds, catkins or last leaves."""
    plant = Plant()
    trees = rng.random() < 0.5
    twigs = _woody(rng, plant, 1, 4 if trees else 3, 0.6, 0.05 if trees else 0.03, rng.uniform(0.5, 1.0), f["droop"])
    some = [twigs[i] for i in rng.permutation(len(twigs))[: max(3, len(twigs) // 12)]]
    _leafy(rng, plant, {**f, "season": "dry"}, some, 2, 0.12, 0.6, False)
    return plant


def _vine(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Ivy and the like: long stems that hang from a pot or trail."""
    plant = Plant()
    pot = rng.random() < 0.5
    number = int(rng.integers(5, 14))
    paths = []
    for k in range(number):
        a = GOLDEN * k
        out = np.array([np.cos(a), np.sin(a), 0.5]) * (0.3 if pot else 0.6)
        path = _stem(out * (0.5, 0.5, 0.02), out, rng.uniform(0.8, 1.9), 3.5 + 2 * f["droop"], rng, 0.25, 30)
        paths.append(path)
    plant.stems.append(swept(np.array(paths), _taper(30, 0.009, 0.4), 5))
    kind = f["leaf"] if f["leaf"] in ("heart", "palmate", "round", "ovate") else "heart"
    _leafy(rng, plant, f, paths, max(6, round(22 * f["density"])), rng.uniform(0.12, 0.2), 0.05, False, kind, 0.35)
    if pot:
        plant.others += _pot(rng, 0.26, 0.35)
    return plant


def _needles(
    rng: np.random.Generator, paths: list[np.ndarray], each: int, long: float, colour: np.ndarray, lean: float
) -> Strands:
    """Straight needles all round twigs."""
    points, ways, _ = _spots(paths, 0.03, each)
    number = len(points)
    out = _around(rng, ways, np.arange(number, dtype=float), 0)
    way = unit(out + lean * ways + 0.2 * rng.normal(size=(number, 3)))
    s = np.linspace(-0.35, 1.2, 5)[None, :, None]
    reach = long * np.exp(0.15 * rng.normal(size=(number, 1, 1)))
    bend = 0.12 * rng.normal(size=(number, 1, 3))
    needles = points[:, None] + reach * (s * way[:, None] + s**2 * bend)
    tint = np.clip(colour * np.exp(0.2 * rng.normal(size=(number, 1, 1))), 0.003, 0.9)
    radii = np.broadcast_to(long * 0.022 * np.array([1, 1, 1, 0.8, 0.4]), (number, 5))
    return Strands(needles, radii, np.broadcast_to(tint, (number, 2, 3)))


def _conifer(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A pine or fir twig, or a little tree of them; needles are strands."""
    plant = Plant()
    palette = "dry" if f["season"] == "dry" else ("silver" if f["season"] == "silver" else "green")
    colour = srgb_to_linear(np.array(PALETTES[palette][int(rng.integers(4))])) * np.exp(0.15 * rng.normal(size=3))
    paths = []
    if rng.random() < 0.5:  # twig
        main = _stem(np.zeros(3), (1, 0.2 * rng.normal(), 0.4 * rng.normal()), 1.7, 0.5 * f["droop"], rng, number=20)
        paths = [main]
        for k in range(4, 19, 2):
            for s in (-1, 1):
                way = unit(main[k] - main[k - 1] + s * 0.9 * unit(np.cross(main[k] - main[k - 1], (0, 0.3, 1.0))))
                paths.append(_stem(main[k], way, 0.6 * (1.15 - k / 20), 0.5 * f["droop"], rng, 0.1, 20))
        long, each = rng.uniform(0.05, 0.2) * f["leaf_size"], round(240 * f["density"])
        plant.stems.append(swept(np.array(paths), _taper(20, 0.016, 0.3), 6))
        if rng.random() < 0.5:
            plant.others += _cones(rng, paths)
    else:
        trunk = np.stack([np.zeros(20), np.zeros(20), np.linspace(0, 2, 20)], 1)
        plant.stems.append(swept(trunk, _taper(20, 0.05, 0.1), 8))
        number = int(rng.integers(55, 100))
        k = np.arange(number) / number  # 0: lowest
        angle = GOLDEN * np.arange(number) + 0.2 * rng.normal(size=number)
        lengths = 0.75 * (1 - 0.9 * k) * rng.uniform(0.8, 1.1, number)
        level = np.stack([np.cos(angle), np.sin(angle), 0 * k], 1)
        feet = np.stack([0 * k, 0 * k, 0.25 + 1.7 * k], 1)
        limbs = _stems(
            rng, feet, level + np.stack([0 * k, 0 * k, 0.1 + 0.5 * k], 1), lengths, 0.4 + 0.6 * f["droop"], 0.08, 20
        )
        sides = [level + s * 0.9 * np.stack([-np.sin(angle), np.cos(angle), 0 * k], 1) for s in (-1, 1, -1, 1)]
        starts = np.concatenate([limbs[:, i] for i in (7, 7, 12, 12)])
        paths = [*limbs, *_stems(rng, starts, np.concatenate(sides), np.tile(0.3 * lengths, 4), 0.3, 0.08, 20)]
        plant.stems.append(swept(np.array(paths), _taper(20, 0.008, 0.3), 4))
        long, each = rng.uniform(0.04, 0.07), round(52 * f["density"])
    each = min(each, 18000 // len(paths))
    plant.strands.append(_needles(rng, paths, each, long, colour, rng.uniform(0.3, 1.2)))
    return plant


def _cones(rng: np.random.Generator, paths: list[np.ndarray]) -> list[Mesh]:
    """Pine cones: scales in a spiral."""
    number = 70
    k = np.arange(number)
    t = k / number
    r = 0.075 * np.sin(np.pi * (0.12 + 0.85 * t)) ** 0.8
    out = np.stack([np.cos(GOLDEN * k), np.sin(GOLDEN * k), 0.35 + 0.6 * t], 1)
    at = np.stack([0.5 * r * np.cos(GOLDEN * k), 0.5 * r * np.sin(GOLDEN * k), -0.26 * (1 - t)], 1)
    up = np.broadcast_to((0, 0, 1.0), out.shape)
    cone = copied(leaf(rng, "round", 0.6, False), facing(out, up) * (0.4 * r + 0.02)[:, None, None] * 1.6, at)
    material = {"kind": "diffuse", "colour": shade(rng, srgb_to_linear(np.array([0.42, 0.28, 0.17])), 0.15)}
    spots = [paths[i][-4] for i in rng.integers(0, len(paths), int(rng.integers(1, 4)))]
    return [replace(placed(cone, rotation((0, 1, 0), rng.uniform(-40, 40)), p), material=material) for p in spots]


def _grass(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """A tuft, or a strip of lawn."""
    plant = Plant()
    lawn = rng.random() < 0.35
    number = max(40, round((900 if lawn else 260) * f["density"]))
    reach = np.array([1.0, 0.35, 0]) if lawn else 0.12
    at = rng.uniform(-1, 1, (number, 3)) * reach if lawn else rng.normal(size=(number, 3)) * (reach, reach, 0)
    way = unit(np.array([0, 0, 1.0]) + (0.45 + 0.3 * f["droop"]) * rng.normal(size=(number, 3)) * (1, 1, 0))
    lengths = rng.uniform(0.3, 1.0, number) * (rng.uniform(0.3, 0.7) if lawn else 1.2)
    plant.leaves.append(_arching(rng, at, way, lengths, 0.15 + 0.7 * f["droop"], rng.uniform(0.006, 0.016), 9))
    if rng.random() < 0.4:
        _ears(rng, plant, at[: int(rng.integers(4, 30))], 1.3)
    return plant


def _ears(rng: np.random.Generator, plant: Plant, at: np.ndarray, tall: float) -> None:
    """Thin culms with awned ears."""
    paths = [
        _stem(p, (0.2 * rng.normal(), 0.2 * rng.normal(), 1), tall * rng.uniform(0.7, 1), 0.5, rng, 0.06) for p in at
    ]
    plant.stems.append(swept(np.array(paths), _taper(16, 0.006, 0.5), 5))
    tips = [p[11:] for p in paths]
    straw = srgb_to_linear(np.array([0.74, 0.62, 0.38])) * np.exp(0.15 * rng.normal(size=3))
    plant.strands.append(_needles(rng, tips, 60, rng.uniform(0.05, 0.16), straw, rng.uniform(1.0, 3)))


def _reeds(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Reeds: tall stems with leaves and plumes, or bulrushes."""
    plant = Plant()
    number = int(rng.integers(4, 14))
    at = rng.normal(size=(number, 3)) * (0.22, 0.12, 0)
    paths = [
        _stem(p, (0.12 * rng.normal(), 0.12 * rng.normal(), 1), rng.uniform(1.3, 1.9), 0.2 * f["droop"], rng, 0.05, 24)
        for p in at
    ]
    plant.stems.append(swept(np.array(paths), _taper(24, 0.012, 0.5), 6))
    points, ways, _ = _spots(paths, 0.05, 5)
    leaf_way = unit(ways + 0.35 * rng.normal(size=ways.shape))
    plant.leaves.append(
        _arching(rng, points, leaf_way, rng.uniform(0.4, 0.9, len(points)), 0.3 + f["droop"], rng.uniform(0.01, 0.02))
    )
    if rng.random() < 0.5:  # bulrush
        heads = [np.stack([p[-6] + s * (p[-2] - p[-6]) for s in np.linspace(0, 1, 12)]) for p in paths]
        r = 0.035 * np.sqrt(np.sin(np.pi * np.linspace(0.04, 0.96, 12)))[None]
        brown = {"kind": "diffuse", "colour": shade(rng, srgb_to_linear(np.array([0.36, 0.21, 0.12])), 0.2)}
        plant.others.append(replace(swept(np.array(heads), r, 12), material=brown))
        fluff = _needles(rng, heads, 400, 0.012, np.array([0.16, 0.09, 0.05]), 0.0)
        plant.strands.append(fluff)
    else:  # plumes
        ends = np.array(paths)
        starts = ends[:, -9:-2].reshape(-1, 3).repeat(2, 0)
        ways = unit(ends[:, -1] - ends[:, -3]).repeat(14, 0) + 0.5 * rng.normal(size=starts.shape)
        plumes = list(_stems(rng, starts, ways, 0.28 * rng.uniform(0.5, 1, len(starts)), 1.2, 0.1, 10))
        straw = srgb_to_linear(np.array([0.76, 0.66, 0.52])) * np.exp(0.15 * rng.normal(size=3))
        plant.strands.append(_needles(rng, plumes, 70, 0.06, straw, 1.5))
        plant.stems.append(swept(np.array(plumes), 0.002, 4))
    return plant


def _dandelion(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
    """Seed heads: a globe of parachutes, some of them gone, on a hollow stem."""
    plant = Plant()
    for k in range(int(rng.choice([1, 1, 2, 3]))):
        path = _stem(
            (0.3 * k, 0.1 * k, -1.0), (0.2 * rng.normal(), 0.2 * rng.normal(), 1), rng.uniform(0.9, 1.2), 0.1, rng, 0.1
        )
        plant.stems.append(swept(path, _taper(16, 0.018, 0.8), 8))
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
    shape = _templates(rng, "lobed", f["curl"], True)
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


def _succulent(rng: np.random.Generator, f: dict[str, Any]) -> Plant:
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
        for lift in (0.0, -0.09):  # two skins make a thick leaf
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
            plant.others += _pot(rng, 0.35, 0.4)
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
        _head(rng, plant, f, bodies[0][3] * bodies[0][1], bodies[0][1], 0.22, 1)
    if rng.random() < 0.7:
        plant.others += _pot(rng, bodies[0][2] * 1.2, 0.4)
    return plant


PLANTS: dict[str, Callable[[np.random.Generator, dict[str, Any]], Plant]] = {
    "branch": _branch,
    "house_plant": _house_plant,
    "fern": _fern,
    "palm": _palm,
    "flowers": _flowers,
    "bush": _bush,
    "tree": _tree,
    "vine": _vine,
    "conifer": _conifer,
    "grass": _grass,
    "reeds": _reeds,
    "dandelion": _dandelion,
    "succulent": _succulent,
    "bare": _bare,
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
