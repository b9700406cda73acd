"""Solids: smooth and creased shapes with holes and thin parts, alone or a few of them touching."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, colour_of_tone, shade
from synth_data.factors import count, pick, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Subject,
    ball,
    box,
    extrude,
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
    """Variation of a solid subject. Lengths are in subject radii."""

    shape: tuple = shares(
        superquadric=1,
        torus=0.7,
        knot=0.7,
        vessel=1,
        mug=0.8,
        star=0.7,
        gear=0.7,
        glyph=1,
        prism=0.8,
        cage=0.7,
        chair=1,
        grid=0.5,
        coil=0.6,
        wheel=0.7,
        sticks=0.5,
        plant=1,
        perforated=0,
        pierced=0,
        sponge=0,
        faceted=0,
        crumpled=0,
    )
    """shape of the first part; further parts may have any"""
    parts: tuple = count(1, 3, least=1, most=12)
    """number of touching parts"""
    thickness: tuple = span(0.02, 0.1, least=0.002, most=0.5, log=True)
    """radius of rods, wires and rims"""
    material: tuple = shares(diffuse=1, plastic=1, metal=0.7, principled=0.8)
    """surface of the first part"""
    roughness: tuple = span(0.08, 0.6, least=0.02, most=1)
    """roughness of glossy surfaces"""
    texture: tuple = shares(plain=1.2, checker=0.4, stripes=0.5, noise=0.6, speckle=0.4)
    """pattern on the first part"""
    texture_cells: tuple = count(2, 12, least=1, most=256)
    """repeats of the pattern"""
    tone: tuple = shares(black=0.8, white=1.2, grey=1, brown=1, tan=0.8, bright=2, pastel=0.8)
    """colour of the first part"""


def _loop(number: int) -> np.ndarray:
    """Angles [number] around a circle, the last one short of a full turn."""
    return np.linspace(0, 2 * np.pi, number, endpoint=False)


def _superquadric(rng: np.random.Generator, thin: float) -> Mesh:
    e1, e2 = rng.choice([0.15, 0.3, 0.6, 1.0, 1.8], 2)
    t = np.linspace(-np.pi / 2, np.pi / 2, 33)[:, None]
    p = np.linspace(0, 2 * np.pi, 65)[None]

    def power(x: np.ndarray, e: float) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** e

    d = np.stack(
        [
            power(np.cos(t), e1) * power(np.cos(p), e2),
            power(np.cos(t), e1) * power(np.sin(p), e2),
            power(np.sin(t), e1) + 0 * p,
        ],
        -1,
    )
    return surface(d * rng.uniform(0.35, 0.9, 3))


def _torus(rng: np.random.Generator, thin: float) -> Mesh:
    a = _loop(64)
    stretch = rng.uniform(0.6, 1)
    path = np.stack([np.cos(a), stretch * np.sin(a), rng.uniform(0, 0.25) * np.sin(2 * a)], 1) * 0.75
    sides = int(rng.choice([3, 4, 6, 12]))
    s = np.linspace(0, 2 * np.pi, sides + 1)
    radius = rng.uniform(max(thin, 0.06), 0.32) * (1 + rng.uniform(0, 0.3) * np.sin(int(rng.integers(3, 9)) * a))
    return tube(path, radius, np.stack([np.cos(s), np.sin(s)], 1), closed=True, twist=int(rng.integers(0, 3)))


def _knot(rng: np.random.Generator, thin: float) -> Mesh:
    p, q = ((2, 3), (3, 2), (2, 5), (3, 4), (5, 2), (3, 5))[int(rng.integers(6))]
    a = _loop(200)
    r = 0.65 + 0.25 * np.cos(q * a)
    path = np.stack([r * np.cos(p * a), r * np.sin(p * a), 0.3 * np.sin(q * a)], 1)
    return tube(path, rng.uniform(thin, 0.13), closed=True)


def _wall(outer: np.ndarray, thickness: float) -> np.ndarray:
    """Closes an outer profile (radius, height), from bottom to rim, with an inner one back to the floor."""
    inner = outer[::-1].copy()
    inner[:, 0] = np.maximum(inner[:, 0] - thickness, 0.0)
    inner[:, 1] = np.maximum(inner[:, 1], outer[0, 1] + thickness)
    foot = np.array([[0.0, outer[0, 1]]])
    return np.concatenate([foot, outer, inner, np.array([[0.0, outer[0, 1] + thickness]])])


def _vessel(rng: np.random.Generator, thin: float) -> Mesh:
    """Vases, bowls, bottles and goblets: a smooth random profile with a wall."""
    s = np.linspace(0, 1, 28)
    kind = int(rng.integers(4))
    if kind == 0:  # vase
        r = 0.35 + 0.22 * np.sin(rng.uniform(2, 5) * s + rng.uniform(0, 6)) + rng.uniform(-0.15, 0.2) * s
        h = rng.uniform(1.0, 1.9)
    elif kind == 1:  # bowl
        r, h = 0.25 + 0.65 * np.sin(s * np.pi / 2) ** rng.uniform(0.6, 1.4), rng.uniform(0.3, 0.8)
    elif kind == 2:  # bottle
        shoulder = rng.uniform(0.45, 0.7)
        body, neck = rng.uniform(0.25, 0.42), rng.uniform(0.07, 0.14)
        r = neck + (body - neck) / (1 + np.exp((s - shoulder) * rng.uniform(15, 40)))
        h = rng.uniform(1.4, 2.0)
    else:  # goblet
        r = np.where(s < 0.06, 0.4 * (1 - s), np.where(s < 0.5, thin + 0.03, 0.0))
        bowl = (s - 0.5) / 0.5
        r = np.where(s >= 0.5, thin + 0.03 + 0.45 * np.sqrt(np.clip(bowl, 0, 1)) * (1 - 0.25 * bowl), r)
        h = rng.uniform(1.2, 1.9)
    outer = np.stack([np.maximum(r, 0.04), (s - 0.5) * h], 1)
    return lathe(_wall(outer, min(0.05, 0.3 * float(outer[-1, 0]))))


def _mug(rng: np.random.Generator, thin: float) -> Mesh:
    height, radius = rng.uniform(0.8, 1.4), rng.uniform(0.35, 0.6)
    s = np.linspace(0, 1, 12)
    outer = np.stack([radius * (1 + rng.uniform(-0.25, 0.25) * (s - 0.5)), (s - 0.5) * height], 1)
    cup = lathe(_wall(outer, 0.05))
    a = np.linspace(-np.pi / 2, np.pi / 2, 20)
    out = rng.uniform(0.25, 0.45)
    handle = np.stack([0.93 * radius + out * np.cos(a), 0 * a, rng.uniform(0.25, 0.38) * height * np.sin(a)], 1)
    return join(cup, tube(handle, max(thin, 0.04)))


def _polar(radius: np.ndarray) -> np.ndarray:
    """A closed outline [N, 2] from radii at equal angles."""
    a = _loop(len(radius))
    return np.stack([radius * np.cos(a), radius * np.sin(a)], 1)


def _star(rng: np.random.Generator, thin: float) -> Mesh:
    points = int(rng.integers(3, 10))
    radius = np.ones(2 * points)
    radius[1::2] = rng.uniform(0.3, 0.8)
    hole = _polar(radius) * rng.uniform(0.4, 0.8) if rng.random() < 0.6 else None
    return extrude(_polar(radius) * 0.9, rng.uniform(0.08, 0.5), hole)


def _gear(rng: np.random.Generator, thin: float) -> Mesh:
    teeth = int(rng.integers(6, 18))
    radius = np.tile([1.0, 1.0, 1.0, 0.8, 0.78, 0.8], teeth) * 0.9
    hole = _polar(np.full(len(radius), rng.uniform(0.15, 0.55)))
    return extrude(_polar(radius), rng.uniform(0.1, 0.5), hole)


# strokes (x0, y0, x1, y1) on a 3 x 5 grid of points, x 0..2, y 0..4
# fmt: off
_GLYPHS = (
    ((0, 0, 1, 4), (1, 4, 2, 0), (0.4, 1.6, 1.6, 1.6)),
    ((0, 0, 0, 4), (0, 4, 2, 4), (0, 2, 1.5, 2), (0, 0, 2, 0)),
    ((0, 0, 0, 4), (2, 0, 2, 4), (0, 2, 2, 2)),
    ((0, 0, 0, 4), (0, 2, 2, 4), (0, 2, 2, 0)),
    ((0, 0, 0, 4), (0, 4, 2, 0), (2, 0, 2, 4)),
    ((0, 4, 2, 4), (1, 4, 1, 0)),
    ((0, 0, 2, 4), (0, 4, 2, 0)),
    ((0, 4, 1, 2), (2, 4, 1, 2), (1, 2, 1, 0)),
    ((0, 4, 2, 4), (2, 4, 0, 0), (0, 0, 2, 0)),
    ((0, 0, 0, 4), (0, 4, 2, 4), (2, 4, 2, 2), (2, 2, 0, 2)),
    ((0, 4, 0, 0), (0, 0, 1, 2), (1, 2, 2, 0), (2, 0, 2, 4)),
    ((0.4, 0, 0.4, 4), (1.6, 0, 1.6, 4), (-0.2, 1.3, 2.2, 1.3), (-0.2, 2.7, 2.2, 2.7)),
    ((0, 0, 2, 0), (2, 0, 2, 4), (2, 4, 0, 4), (0, 4, 0, 0)),
    ((0, 2, 2, 2), (1, 1, 1, 3)),
)
# fmt: on


def _glyph(rng: np.random.Generator, thin: float) -> Mesh:
    radius = max(thin, rng.uniform(0.04, 0.16))
    section = None if rng.random() < 0.4 else np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    bars, scale = [], np.array([0.42, 0, 0.36])
    for x0, y0, x1, y1 in _GLYPHS[int(rng.integers(len(_GLYPHS)))]:
        a, b = np.array([x0 - 1, 0, y0 - 2]) * scale, np.array([x1 - 1, 0, y1 - 2]) * scale
        end = (b - a) / np.linalg.norm(b - a) * radius
        bars.append(rod(a - end, b + end, radius, section))
    return join(*bars)


def _prism(rng: np.random.Generator, thin: float) -> Mesh:
    sides = int(rng.integers(3, 8))
    a = np.linspace(0, 2 * np.pi, sides + 1)
    path = np.zeros((30, 3))
    path[:, 2] = np.linspace(-0.9, 0.9, 30)
    radius = rng.uniform(0.2, 0.5) * np.linspace(1, rng.uniform(0.1, 1.0), 30)
    twist = rng.uniform(-0.6, 0.6) if rng.random() < 0.6 else 0.0
    return tube(path, radius, np.stack([np.cos(a), np.sin(a)], 1), twist=twist)


def _cage(rng: np.random.Generator, thin: float) -> Mesh:
    """The edges of a cuboid, a pyramid, an octahedron or an icosahedron, with balls at the corners."""
    g = (1 + 5**0.5) / 2
    solids = (
        np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.6,
        np.array([[1, 1, -0.7], [1, -1, -0.7], [-1, 1, -0.7], [-1, -1, -0.7], [0, 0, 1]]) * 0.7,
        np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 0.95,
        np.array([np.roll([0, a, b * g], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]) * 0.5,
    )
    corners = solids[int(rng.integers(4))]
    gap = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    edge = gap[gap > 0].min() * 1.3  # longer than any edge, shorter than any diagonal
    corners = corners * rng.uniform(0.7, 1.0, 3)
    bars = [rod(corners[i], corners[j], thin) for i in range(len(corners)) for j in range(i) if gap[i, j] < edge]
    return join(*bars, *(ball(1.6 * thin, c, rows=8) for c in corners))


def _chair(rng: np.random.Generator, thin: float) -> Mesh:
    w, d = rng.uniform(0.35, 0.5, 2)
    leg, back = rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9)
    thin = min(thin, 0.07)
    parts = [box((2 * w, 2 * d, rng.uniform(0.04, 0.12)))]
    splay = rng.uniform(0, 0.15)
    for x in (-w, w):
        for y in (-d, d):
            parts.append(rod((0.9 * x, 0.9 * y, 0), (x * (1 + splay), y * (1 + splay), -leg), thin))
    stool = rng.random() < 0.3
    if not stool:
        parts += [rod((x, d, 0), (x, d + 0.12, back), thin) for x in (-0.9 * w, 0.9 * w)]
        bars = int(rng.integers(1, 5))
        if rng.random() < 0.5:
            parts += [
                rod((-0.9 * w, d + 0.12 * h / back, h), (0.9 * w, d + 0.12 * h / back, h), thin)
                for h in np.linspace(0.35 * back, 0.97 * back, bars + 1)
            ]
        else:
            parts.append(rod((-0.9 * w, d + 0.12, back), (0.9 * w, d + 0.12, back), thin))
            parts += [rod((x, d, 0), (x, d + 0.12, back), 0.6 * thin) for x in np.linspace(-0.6, 0.6, bars + 1) * w]
    if rng.random() < 0.4:
        parts += [rod((x, -0.95 * d, -0.6 * leg), (x, 0.95 * d, -0.6 * leg), 0.7 * thin) for x in (-w, w)]
    return join(*parts)


def _grid(rng: np.random.Generator, thin: float) -> Mesh:
    """A fence, ladder or lattice in a plane, sometimes bent."""
    w, h = rng.uniform(0.3, 0.95, 2)
    thin = min(thin, 0.06)
    rows, columns = int(rng.integers(0, 6)), int(rng.integers(1, 8))
    bend = rng.uniform(-0.6, 0.6) if rng.random() < 0.4 else 0.0
    t = np.linspace(-1, 1, 12)
    lines = [np.stack([np.full(12, x), bend * np.full(12, x**2), t * h], 1) for x in np.linspace(-w, w, columns + 1)]
    lines += [np.stack([t * w, bend * (t * w) ** 2, np.full(12, z)], 1) for z in np.linspace(-h, h, rows + 2)]
    return join(*(tube(line, thin) for line in lines))


def _coil(rng: np.random.Generator, thin: float) -> Mesh:
    turns = rng.uniform(2, 7)
    a = np.linspace(0, 2 * np.pi * turns, int(24 * turns))
    r = rng.uniform(0.25, 0.6) * np.linspace(1, rng.uniform(0.2, 1), len(a))
    path = np.stack([r * np.cos(a), r * np.sin(a), np.linspace(-0.9, 0.9, len(a))], 1)
    return tube(path, min(thin, 0.08))


def _wheel(rng: np.random.Generator, thin: float) -> Mesh:
    a = _loop(64)
    rim = tube(np.stack([0.85 * np.cos(a), 0.85 * np.sin(a), 0 * a], 1), max(thin, 0.05), closed=True)
    spokes = int(rng.integers(3, 17))
    parts = [rod((0, 0, 0), (0.85 * np.cos(s), 0.85 * np.sin(s), 0), 0.5 * thin) for s in _loop(spokes)]
    return join(rim, rod((0, 0, -0.12), (0, 0, 0.12), rng.uniform(0.06, 0.2)), *parts)


def _sticks(rng: np.random.Generator, thin: float) -> Mesh:
    """A loose bundle of rods that cross near the middle."""
    parts = []
    for _ in range(int(rng.integers(3, 10))):
        way = rng.normal(size=3) * (1, 1, 1.5)
        way /= np.linalg.norm(way)
        middle = rng.uniform(-0.15, 0.15, 3)
        parts.append(rod(middle - way * rng.uniform(0.4, 0.95), middle + way * rng.uniform(0.4, 0.95), thin))
    return join(*parts)


def _plant(rng: np.random.Generator, thin: float) -> Mesh:
    """Stems that bend outward, with flat leaves."""
    parts = []
    wide, long = rng.uniform(0.05, 0.16), rng.uniform(0.18, 0.45)
    for _ in range(int(rng.integers(3, 9))):
        s = np.linspace(0, 1, 10)[:, None]
        lean = rng.normal(size=3) * (0.6, 0.6, 0)
        stem = np.array([0, 0, -0.9]) + s * np.array([0, 0, rng.uniform(0.9, 1.8)]) + s**2 * lean
        parts.append(tube(stem, min(thin, 0.04) * (1 - 0.6 * s[:, 0])))
        for k in rng.integers(3, 10, int(rng.integers(2, 7))):
            way = rng.normal(size=3) + (0, 0, 0.5)
            way /= np.linalg.norm(way)
            side = np.cross(way, rng.normal(size=3))
            side /= np.linalg.norm(side)
            u = np.linspace(0, 1, 9)[:, None, None]
            v = np.array([-1, 0, 1])[None, :, None]
            arch = np.cross(way, side) * (0.15 * long * np.sin(np.pi * u) - 0.2 * wide * np.abs(v))
            leaf = stem[k] + u * long * way + v * wide * np.sin(np.pi * u**0.8) * side + arch
            parts.append(surface(leaf))
    return join(*parts)


def around(field: np.ndarray, spacing: np.ndarray | float) -> Mesh:
    """The closed zero surface of a field [X, Y, Z] of signed distances (below 0 inside), centred on the grid.

    Marching cubes; uv are x and z over the grid's extent.
    """
    from skimage.measure import marching_cubes

    # padding closes surfaces that the grid cuts
    spacing = np.broadcast_to(np.asarray(spacing, dtype=np.float64), 3)
    field = np.pad(field, 1, constant_values=max(float(field.max()), 1e-3))
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=tuple(spacing), gradient_direction="descent")
    extent = (np.array(field.shape) - 1) * spacing
    uv = np.clip(vertices[:, [0, 2]] / extent[[0, 2]], 0, 1)
    return Mesh(vertices - extent / 2, faces, uv)


def slab(distance: np.ndarray, spacing: float, depth: float, bevel: float) -> Mesh:
    """A plane figure extruded: x to the right, z up, `depth` thick along y, its edges rounded by `bevel`.

    distance: the figure's signed distance [rows, columns] (below 0 inside, row 0 on top), pixels `spacing` apart.
    Holes stay open. The bevel is limited to half the depth.
    """
    bevel = min(bevel, 0.5 * depth)
    step = min(spacing, depth / 6)
    y = np.arange(-np.ceil(0.5 * depth / step) - 1, np.ceil(0.5 * depth / step) + 2) * step
    # exact distance to a rounded extrusion: two distances combined, moved inwards and grown by the bevel
    across = (distance.T[:, ::-1] + bevel)[:, None, :]
    along = (np.abs(y) - 0.5 * depth + bevel)[None, :, None]
    outside = np.sqrt(np.maximum(across, 0) ** 2 + np.maximum(along, 0) ** 2)
    field = np.minimum(np.maximum(across, along), 0) + outside - bevel
    return around(field.astype(np.float32), np.array([spacing, step, spacing]))


def _grid_of(number: int, half: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """x, y, z (broadcastable) of number^3 points in a cube of half side `half`, and their spacing."""
    line = np.linspace(-half, half, number)
    return line[:, None, None], line[None, :, None], line[None, None, :], line[1] - line[0]


def _one_piece(field: np.ndarray) -> np.ndarray:
    """The largest connected piece of a body of signed distances, smoothed: marching cubes would make kinks jagged."""
    from scipy.ndimage import gaussian_filter, label

    field = gaussian_filter(field.astype(np.float32), 0.7, mode="nearest")
    pieces, _ = label(field < 0)
    sizes = np.bincount(pieces.ravel())[1:]
    return np.where((pieces == 0) | (pieces == 1 + np.argmax(sizes)), field, np.float32(1e-3))


def _holes(x: np.ndarray, y: np.ndarray, pitch: float, radius: float, kind: int) -> np.ndarray:
    """Signed distance to holes on a grid of `pitch`: 0 round, 1 square, 2 round in staggered rows."""
    if kind == 2:
        x = x + 0.5 * pitch * (np.round(y / pitch) % 2)
    x, y = x - pitch * np.round(x / pitch), y - pitch * np.round(y / pitch)
    return (np.maximum(np.abs(x), np.abs(y)) if kind == 1 else np.hypot(x, y)) - radius


def _perforated(rng: np.random.Generator, thin: float) -> Mesh:
    """A flat or bent sheet or disc with rows of holes and a rim."""
    rows, step = 144, 1.9 / 144
    z, x = np.meshgrid(
        -(np.arange(rows) - (rows - 1) / 2) * step, (np.arange(rows) - (rows - 1) / 2) * step, indexing="ij"
    )
    wide, high = rng.uniform(0.45, 0.9, 2)
    if rng.random() < 0.3:
        plate = np.hypot(x, z) - max(wide, high)
        wide = high = max(wide, high)
    else:
        plate = np.maximum(np.abs(x) - wide, np.abs(z) - high)
    pitch = rng.uniform(0.09, 0.4)
    radius = pitch * rng.uniform(0.2, 0.42)
    holes = _holes(x, z, pitch, radius, int(rng.integers(3)))
    rim = plate + 0.5 * pitch  # no hole cuts the border
    mesh = slab(np.maximum(plate, -np.maximum(holes, rim)), step, max(min(thin, 0.1), 0.03), 0.01)
    if rng.random() < 0.5:  # bent about z
        angle = rng.uniform(0.5, 2.8) / wide
        v = mesh.vertices
        r = 1 / angle + v[:, 1]
        bent = np.stack([r * np.sin(angle * v[:, 0]), r * np.cos(angle * v[:, 0]) - 1 / angle, v[:, 2]], 1)
        mesh = replace(mesh, vertices=bent - (bent.max(0) + bent.min(0)) / 2)
    return mesh


def _pierced(rng: np.random.Generator, thin: float) -> Mesh:
    """A box, ball or cylinder, hollow or not, with holes bored through it along the axes."""
    x, y, z, step = _grid_of(72, 0.85)
    size = rng.uniform(0.45, 0.8, 3)
    kind = int(rng.integers(3))
    if kind == 0:
        body = np.maximum(np.maximum(np.abs(x) - size[0], np.abs(y) - size[1]), np.abs(z) - size[2])
    elif kind == 1:
        body = np.sqrt(x**2 + y**2 + z**2) - size.max()
    else:
        body = np.maximum(np.hypot(x, y) - size[0], np.abs(z) - size[2])
    if rng.random() < 0.6:  # hollow
        body = np.maximum(body, -(body + max(thin, 3 * step)))
    pitch = rng.uniform(0.25, 0.6)
    radius, form = pitch * rng.uniform(0.25, 0.4), int(rng.integers(3))
    axes = [(x, y), (y, z), (x, z)][: int(rng.integers(1, 4))]
    bored = body
    for a, b in axes:
        bored = np.maximum(bored, -(_holes(*np.broadcast_arrays(a, b), pitch, radius, form)))
    return around(_one_piece(bored), step)


def _sponge(rng: np.random.Generator, thin: float) -> Mesh:
    """A ball, box or egg of a threefold periodic surface (gyroid or Schwarz P) with a wall."""
    x, y, z, step = _grid_of(72, 0.9)
    k = rng.uniform(5, 11)
    if rng.random() < 0.6:
        wave = np.sin(k * x) * np.cos(k * y) + np.sin(k * y) * np.cos(k * z) + np.sin(k * z) * np.cos(k * x)
    else:
        wave = np.cos(k * x) + np.cos(k * y) + np.cos(k * z) + rng.uniform(-0.3, 0.3)
    wall = np.abs(wave) / (1.5 * k) - max(0.6 * thin, 1.2 * step)
    if rng.random() < 0.5:
        body = np.sqrt(x**2 + y**2 + (z * rng.uniform(1, 1.5)) ** 2) - 0.85
    else:
        body = np.maximum(np.maximum(np.abs(x) - rng.uniform(0.5, 0.8), np.abs(y) - 0.7), np.abs(z) - 0.6)
    return around(_one_piece(np.maximum(wall, body)), step)


def _faceted(rng: np.random.Generator, thin: float) -> Mesh:
    """A cut stone: the hull of a few points."""
    from scipy.spatial import ConvexHull

    points = rng.normal(size=(int(rng.integers(7, 40)), 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= rng.uniform(0.8, 1, (len(points), 1)) * rng.uniform(0.45, 0.95, 3)
    faces = ConvexHull(points).simplices
    corners = points[faces]
    inward = np.einsum(
        "ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), corners[:, 0]
    )
    faces = np.where(inward[:, None] < 0, faces[:, ::-1], faces)
    flat = points[faces].reshape(-1, 3)  # facets do not share corners
    uv = np.clip(0.5 + 0.5 * flat[:, [0, 2]], 0, 1)
    return Mesh(flat, np.arange(len(flat)).reshape(-1, 3), uv)


def folded(rng: np.random.Generator, points: np.ndarray, radius: float, times: int) -> np.ndarray:
    """Points [..., 3] crumpled by reflections: what lies beyond a random plane is mirrored back.

    A fold preserves lengths within a surface except at its rounded edge, and moves no point outwards. The planes have
    random directions and distances of 0.35 to 1 `radius` from the centre.
    """
    for _ in range(times):
        n = rng.normal(size=3)
        n /= np.linalg.norm(n)
        d = points @ n - radius * rng.uniform(0.35, 1)
        points = points - (d + np.sqrt(d**2 + 0.02**2))[..., None] * n  # 2 max(d, 0), rounded
    return points


def _crumpled(rng: np.random.Generator, thin: float) -> Mesh:
    """A ball of foil, or a dented can."""
    d = sphere_directions(90, 180)
    if rng.random() < 0.6:
        points = d * rng.uniform(0.7, 1, 3)
        return surface(
            folded(rng, points, 0.75, int(rng.integers(12, 40))) * (1 + 0.03 * waves(rng, d, 6.0))[..., None]
        )
    s, p = np.linspace(-1, 1, 90)[:, None], np.linspace(0, 2 * np.pi, 180)[None]
    wide, high = rng.uniform(0.3, 0.55), rng.uniform(0.6, 0.9)
    r = wide * (1 - np.abs(s) ** 30)
    can = np.stack([r * np.cos(p), r * np.sin(p), high * s + 0 * p], -1)
    return surface(folded(rng, can, high, int(rng.integers(4, 14))))


SHAPES: dict[str, Callable[[np.random.Generator, float], Mesh]] = {
    "superquadric": _superquadric,
    "torus": _torus,
    "knot": _knot,
    "vessel": _vessel,
    "mug": _mug,
    "star": _star,
    "gear": _gear,
    "glyph": _glyph,
    "prism": _prism,
    "cage": _cage,
    "chair": _chair,
    "grid": _grid,
    "coil": _coil,
    "wheel": _wheel,
    "sticks": _sticks,
    "plant": _plant,
    "perforated": _perforated,
    "pierced": _pierced,
    "sponge": _sponge,
    "faceted": _faceted,
    "crumpled": _crumpled,
}
STANDING = ("vessel", "mug", "chair", "plant")  # these usually stay upright


def patterned(rng: np.random.Generator, kind: str, cells: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A linear albedo of colours `a` and `b` [3] with one of `Factors.texture`: [3] if plain, else [64, 64, 3]."""
    if kind == "plain":
        return a
    v, u = np.meshgrid((np.arange(64) + 0.5) / 64, (np.arange(64) + 0.5) / 64, indexing="ij")
    if kind == "checker":
        mix = ((np.floor(u * cells) + np.floor(v * cells)) % 2).astype(np.float64)
    elif kind == "stripes":
        mix = (np.sin(2 * np.pi * cells * (u if rng.random() < 0.5 else v)) > rng.uniform(-0.7, 0.7)).astype(np.float64)
    elif kind == "noise":
        mix = 0.5 + 0.5 * waves(rng, np.stack([u, v, 0 * u], -1) * 2 * np.pi, cells / 4)
    else:
        mix = (rng.random((64, 64)) < 0.25).astype(np.float64)
    mix = np.clip(mix, 0, 1)[..., None]
    return a * (1 - mix) + b * mix


def finish(kind: str, roughness: float, colour: np.ndarray) -> dict[str, Any]:
    """The material of an opaque surface with an albedo [3] or [h, w, 3]; metals are brightened."""
    if kind == "metal":
        colour = 0.35 + 0.6 * colour
    return {"kind": kind, "colour": np.clip(colour, 0.003, 0.95), "roughness": roughness}


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """One to a few touching solids from drawn `Factors`; the rest of their shape comes from `rng`."""
    f = factors
    main = colour_of_tone(rng, f["tone"])
    other = any_colour(rng) if rng.random() < 0.6 else shade(rng, main, 0.7)
    meshes: list[Mesh] = []
    shapes = []
    for part in range(f["parts"]):
        shape = f["shape"] if part == 0 else tuple(SHAPES)[int(rng.integers(len(SHAPES)))]
        mesh = SHAPES[shape](rng, f["thickness"])
        if shape in STANDING and rng.random() < 0.8:
            turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360))
        else:
            turn = random_rotation(rng)
        if part == 0:
            colour = patterned(rng, f["texture"], f["texture_cells"], main, other)
            material, scale, shift = f["material"], 1.0, np.zeros(3)
        else:
            colour = any_colour(rng)
            material = pick(rng, Factors().material)
            scale = rng.uniform(0.35, 0.75)
            base = meshes[0].vertices
            # where the new part's innermost point touches the first part
            anchor = base[int(rng.integers(len(base)))]
            turned = mesh.vertices @ (turn * scale).T
            shift = 0.98 * anchor - turned[np.argmin(turned @ anchor)]
        mesh = placed(mesh, turn * scale, shift)
        meshes.append(replace(mesh, material=finish(material, f["roughness"], colour)))
        shapes.append(shape)
    materials = [mesh.material["kind"] for mesh in meshes]
    return Subject(meshes, drawn={"part_shapes": shapes, "part_materials": materials})
