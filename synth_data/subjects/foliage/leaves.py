"""Leaves: outlines, curl and colours; single leaves, leaves along stems, and long arching blades."""

from dataclasses import replace
from typing import Any

import numpy as np

from synth_data.colour import srgb_to_linear
from synth_data.subjects.foliage.stems import Plant, directions_around, spots_along
from synth_data.subjects.meshes import Mesh, surface, waves
from synth_data.subjects.repeated import copied, facing, grids, swept, unit

VARIANTS = 4  # of a plant's leaves in colour and curl, side by side in one texture
PALETTES = {  # sRGB
    "green": [(0.18, 0.34, 0.10), (0.27, 0.44, 0.14), (0.13, 0.28, 0.12), (0.36, 0.50, 0.18)],
    "spring": [(0.50, 0.68, 0.22), (0.42, 0.62, 0.20), (0.60, 0.74, 0.30), (0.36, 0.56, 0.20)],
    "autumn": [(0.80, 0.46, 0.08), (0.70, 0.22, 0.08), (0.86, 0.66, 0.16), (0.50, 0.42, 0.14)],
    "dry": [(0.56, 0.43, 0.25), (0.44, 0.31, 0.18), (0.66, 0.56, 0.36), (0.40, 0.33, 0.20)],
    "purple": [(0.34, 0.12, 0.20), (0.42, 0.16, 0.24), (0.26, 0.12, 0.16), (0.36, 0.24, 0.20)],
    "variegated": [(0.20, 0.42, 0.16), (0.24, 0.46, 0.20), (0.30, 0.50, 0.22), (0.16, 0.36, 0.16)],
    "silver": [(0.50, 0.58, 0.50), (0.58, 0.66, 0.58), (0.44, 0.54, 0.44), (0.62, 0.66, 0.56)],
}


def _half_width(kind: str, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half width of a blade at t in [0, 1] of its length, relative to its length."""
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
    """One blade of length one from the origin along y, facing z. uv: (across, along).

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


def leaf_templates(rng: np.random.Generator, kind: str, curl: float, fine: bool) -> list[Mesh]:
    """VARIANTS leaves of the same outline and different curl."""
    outline = int(rng.integers(2**31))
    result = []
    for _ in range(VARIANTS):
        own = np.random.default_rng(outline)  # the same outline for all
        result.append(leaf(own, kind, curl * rng.uniform(0.6, 1.4), fine))
    return result


def leaf_texture(rng: np.random.Generator, season: str, size: int = 64) -> np.ndarray:
    """Linear colours [size, VARIANTS * size, 3] of VARIANTS blades side by side, rows along a blade, columns across."""
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

    All templates have the same number of vertices; each leaf draws its template and its part of the texture.
    """
    number = len(at)
    shape, tile = rng.integers(0, len(templates), number), rng.integers(0, VARIANTS, number)
    matrices = facing(forward, up) * np.asarray(sizes)[:, None, None]
    points = np.stack([m.vertices for m in templates])[shape]
    uv = np.clip(templates[0].uv, 0.02, 0.98)[None] + np.stack([tile, 0 * tile], -1)[:, None]
    mesh = copied(templates[0], matrices, at, uv / (VARIANTS, 1))
    vertices = np.einsum("nij,nvj->nvi", matrices, points) + np.asarray(at)[:, None]
    return replace(mesh, vertices=vertices.reshape(-1, 3))


def arching_blades(
    rng: np.random.Generator,
    at: np.ndarray,
    way: np.ndarray,
    lengths: np.ndarray,
    droop: float,
    wide: float,
    rows: int = 14,
) -> Mesh:
    """Long blades that leave `at` [N, 3] along `way` [N, 3] and bend under their weight; `wide` is half their width."""
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


def add_leaves(
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
    """Adds leaves to stems: `number` on each path, with stalks of `stalk` leaf sizes."""
    arrangement = int(rng.integers(3))
    points, ways, share = spots_along(paths, first, number)
    order = np.tile(np.arange(number), len(paths)).astype(np.float64)
    out = directions_around(rng, ways, order, arrangement)
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
            rng,
            leaf_templates(rng, kind or f["leaf"], f["curl"], fine),
            feet[kept],
            forward[kept],
            up[kept],
            sizes[kept],
        )
    )
