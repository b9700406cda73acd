"""Fur: a body covered with thousands of tapered strands."""

from dataclasses import dataclass, field, replace
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
    lathe,
    placed,
    random_rotation,
    rotation,
    scatter,
    sphere_directions,
    surface,
    tube,
    waves,
)
from synth_data.subjects.strands import clumped, coiled, nearest, samples_for, tapered, through, tinted, with_length

CLUMP = 14  # strands in a clump
PILE = {"strands": 4, "length": 0.15, "radius": 0.4}  # factors of short pile


@dataclass(frozen=True)
class Factors:
    """Variation of a furry subject. Lengths are in body radii."""

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
    """how far the coat is combed to one side (on animals from nose to tail)"""
    mess: tuple = span(0.05, 0.5, most=3)
    """random deviation of each strand's direction"""
    bald: float = chance(0.2)
    """whether the coat has bald patches"""
    tone: tuple = shares(black=1, white=1.3, grey=1, brown=1.3, tan=1.3, bright=1, pastel=0.6)
    """the coat's colour"""
    second_tone: tuple = shares(none=1.2, black=0.6, white=0.8, grey=0.3, brown=0.5, tan=0.5, bright=0.4)
    """colour of spots, stripes, belly or extremities"""
    tip_light: tuple = span(0.6, 1.8, most=5)
    """the tips' brightness, relative to the roots'"""
    turns: tuple = span(0.6, 1.4, most=8)
    """turns of the helix over a strand; poodles and lambs have 2 to 4"""
    wave: tuple = span(0.0, 0.0, most=3)
    """amplitude of plane waves shared by neighbouring strands, relative"""
    flyaways: tuple = span(0.0, 0.0, most=1)
    """share of stray strands: longer, outside clumps, in random directions"""
    short_pile: float = chance(0.0)
    """whether the coat is short pile: 4 times the strands, 0.15 of their length and 0.4 of their radius"""
    mane: float = chance(0.0)
    """whether an animal has a mane"""
    whiskers: float = chance(0.0)
    """whether an animal has whiskers"""


@dataclass(frozen=True)
class Details:
    """Further properties of a body and its furry parts.

    bare: [(mesh, colour, roughness)]. lengths: relative strand length on each furry part. mane: whether each
    furry part has a mane. whiskers: [(point [3], direction [3])]. animal: whether it has a front (-y).
    drawn: as in `Subject`.
    """

    bare: list[tuple[Mesh, np.ndarray, float]] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    mane: list[bool] = field(default_factory=list)
    whiskers: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    animal: bool = False
    drawn: dict[str, Any] = field(default_factory=dict)


def _lump(rng: np.random.Generator, axes: np.ndarray, bump: float) -> Mesh:
    """A closed ellipsoid with bumps of relative height `bump`."""
    d = sphere_directions(24, 48)
    field = waves(rng, d, 2.2) if bump else np.zeros(d.shape[:2])
    return surface(d * np.asarray(axes) * (1 + bump * field)[..., None])


def _limb(places: list, radii: list) -> Mesh:
    """A limb with round ends along the Bezier curve of `places` [[3]]; `radii` at equal steps of its parameter."""
    t = 0.5 - 0.5 * np.cos(np.pi * np.linspace(0.02, 0.98, 20))
    way = np.asarray(places, dtype=np.float64)
    while way.ndim == 2 or len(way) > 1:  # de Casteljau
        way = np.repeat(way[:, None], len(t), 1) if way.ndim == 2 else way
        way = way[:-1] + (way[1:] - way[:-1]) * t[None, :, None]
    way = way[0]
    reach = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    radius = np.interp(t, np.linspace(0, 1, len(radii)), radii)
    to_end = np.minimum(reach, reach[-1] - reach) / radius
    return tube(way, radius * np.sqrt(np.maximum(1 - (1 - np.minimum(to_end, 1)) ** 2, 0.004)))


EARS = {  # kind: (radius at heights 0..1 of the ear, angle away from upright in degrees, length, width), in head radii
    "pointed": (lambda t: (1 - t) ** 0.75, (5, 35), (0.6, 1.1), (0.3, 0.45)),
    "round": (lambda t: np.sqrt(1 - (2 * t - 1) ** 2), (20, 60), (0.5, 0.7), (0.25, 0.35)),
    "hanging": (lambda t: np.sin(np.pi * t**0.6) ** 0.8, (120, 165), (0.9, 1.4), (0.25, 0.35)),
    "long": (lambda t: np.sin(np.pi * (0.08 + 0.92 * t**0.8)) ** 0.7, (0, 30), (1.5, 2.2), (0.18, 0.26)),
    "sideways": (lambda t: np.sin(np.pi * t**0.8) ** 0.8, (65, 105), (0.7, 1.0), (0.18, 0.26)),
}


def _ear(rng: np.random.Generator, kind: str, head: np.ndarray, size: float, side: int, bend: np.ndarray) -> Mesh:
    """An ear on a head of radius `size`; `bend` [3] in [0, 1] picks tilt, length and width from the kind's ranges."""
    shape, *ranges = EARS[kind]
    tilt, tall, wide = (low + (high - low) * b for (low, high), b in zip(ranges, bend, strict=True))
    t = np.linspace(0, 1, 12)
    profile = np.stack([wide * np.maximum(shape(t), 0) * (t < 1), t * tall], 1)
    profile = np.concatenate([[[0, 0]], profile])
    leaf = placed(lathe(profile * size, 16), np.diag([1, 0.35, 1]))
    out = 0.78 if kind in ("hanging", "sideways") else 0.5
    root = head + size * np.array([side * out, 0.05, 0.6 - 0.25 * (out > 0.6)])
    turn = rotation(np.array([0, 1, 0]), side * (tilt + rng.normal() * 4)) @ rotation(np.array([0, 0, 1]), side * 20)
    return placed(leaf, turn, root)


def _animal(rng: np.random.Generator) -> tuple[list[Mesh], Details]:
    """A standing, sitting or lying animal that looks along -y."""
    pose = str(rng.choice(["standing", "sitting", "lying"], p=[0.4, 0.35, 0.25]))
    ears = str(rng.choice(list(EARS), p=[0.35, 0.2, 0.2, 0.12, 0.13]))
    tail = str(rng.choice(["none", "stub", "thin", "bushy", "curled"], p=[0.1, 0.15, 0.3, 0.3, 0.15]))
    leg, chest, back = rng.uniform(0.15, 0.75), rng.uniform(0.2, 0.36), rng.uniform(0.4, 0.65)
    neck, size, muzzle = rng.uniform(0.05, 0.5), rng.uniform(0.22, 0.34), rng.uniform(0.15, 1.3)
    parts: list[tuple[Mesh, float, bool]] = []  # mesh, relative strand length, mane

    def add(mesh: Mesh, length: float, mane: bool = False) -> None:
        parts.append((mesh, length, mane))

    paw = 0.075 + 0.1 * chest
    if pose == "standing":
        shoulder, hip, floor = np.array([0, -back, 0.0]), np.array([0, back, 0.0]), -chest - leg
        add(_limb([hip, (0, 0, -0.12 * chest), shoulder], [0.85 * chest, chest * rng.uniform(0.85, 1.15), chest]), 1.0)
        for x in (-0.55 * chest, 0.55 * chest):
            for y, bend in ((-0.85 * back, -0.1), (0.9 * back, 0.2)):
                step = y + rng.uniform(-0.12, 0.12)
                path = [(x, y, -0.3 * chest), (x, y + bend * leg, floor * 0.6), (x, step, floor + paw)]
                add(_limb(path, [0.55 * chest, 1.2 * paw, 0.85 * paw]), 0.4)
                add(ball(np.array([0.9, 1.3, 0.7]) * paw, (x, step - 0.5 * paw, floor + 0.6 * paw), rows=10), 0.2)
    elif pose == "sitting":
        shoulder, hip, floor = np.array([0, -0.12, 0.15]), np.array([0, 0.3, -0.55]), -0.85
        add(_limb([hip + (0, 0.1, -0.1), (0, 0.32, -0.2), shoulder], [1.35 * chest, 1.3 * chest, 0.95 * chest]), 1.0)
        for x in (-1, 1):
            path = [(0.5 * x * chest, -0.2, 0.0), (0.6 * x * chest, -0.32, -0.4), (0.55 * x * chest, -0.34, floor)]
            add(_limb(path, [0.5 * chest, 1.2 * paw, paw]), 0.4)
            add(ball(np.array([0.9, 1.4, 0.7]) * paw, (0.55 * x * chest, -0.4, floor), rows=10), 0.2)
            thigh = np.array([0.62 * chest, 0.95 * chest, 0.9 * chest])
            add(ball(thigh, (0.85 * x * chest, 0.2, -0.55), rows=16), 0.8)
            add(ball(np.array([0.9, 2.0, 0.7]) * paw, (1.1 * x * chest, -0.12, floor), rows=10), 0.2)
    else:
        shoulder, hip, floor = np.array([0, -0.45, -0.3]), np.array([0, 0.5, -0.4]), -0.4 - chest
        add(_limb([hip, (0, 0.1, -0.3), shoulder], [1.1 * chest, 1.05 * chest, 0.95 * chest]), 1.0)
        for x in (-1, 1):
            reach = -0.75 - rng.uniform(0, 0.25)
            path = [
                (0.7 * x * chest, -0.4, -0.45),
                (0.8 * x * chest, -0.45, floor),
                (0.7 * x * chest, reach, floor + paw),
            ]
            add(_limb(path, [0.5 * chest, 1.1 * paw, 0.95 * paw]), 0.4)
            add(ball(np.array([0.55, 1.0, 0.85]) * chest, (0.95 * x * chest, 0.4, -0.45), rows=16), 0.8)
    way = np.array([0, -rng.uniform(0.2, 1.0), rng.uniform(0.25, 1.0)])
    way = way / np.linalg.norm(way)
    head = shoulder + way * (0.75 * chest + neck + 0.75 * size)
    add(
        _limb([shoulder, shoulder + way * 0.5 * neck, head], [0.85 * chest, 0.7 * chest + 0.1 * size, 0.7 * size]),
        1.0,
        True,
    )
    add(ball(size * np.array([rng.uniform(0.9, 1.15), 0.95, 0.92]), head), 0.45)
    nod = np.array([0, -1, rng.uniform(-0.45, -0.1)])
    nose = head + size * (0.75 + 0.45 * muzzle) * nod
    width = rng.uniform(0.28, 0.42) * size
    add(_limb([head + 0.3 * size * nod, nose], [0.62 * size, 0.9 * width]), 0.15)
    add(ball(size * np.array([0.75, 0.55, 0.6]), head + size * np.array([0, -0.25, -0.35]), rows=14), 0.6)
    bend = rng.random(3)
    for side in (-1, 1):
        add(_ear(rng, ears, head, size, side, bend), 0.35 if ears != "hanging" else 0.8)

    black = np.full(3, 0.012)
    iris = shade(rng, np.array([0.06, 0.035, 0.015]), 0.6)
    bare = [
        (ball(width * np.array([0.42, 0.35, 0.32]), nose + width * np.array([0, 0.02, 0.15]), rows=10), black, 0.25)
    ]
    for side in (-1, 1):
        eye = head + size * np.array([side * 0.42, -0.82, 0.2])
        bare.append((ball(0.15 * size, eye, rows=12), iris, 0.08))
        bare.append((ball(0.08 * size, eye + size * np.array([side * 0.02, -0.09, 0.0]), rows=8), black, 0.08))

    swing, rise = rng.uniform(-0.5, 0.5), rng.uniform(-0.7, 0.8) if pose == "standing" else rng.uniform(-0.15, 0.3)
    end = hip + (0, 0.75 * chest, 0.1)
    if tail == "stub":
        add(ball(0.35 * chest, end + (0, 0.2 * chest, 0.1 * chest), rows=12), 1.0)
    elif tail == "curled":
        path = [end, end + (0, 0.5, 0.5), end + (0.1, -0.1, 0.9), end + (swing, -0.25, 0.25)]
        add(_limb(path, [0.06, 0.07, 0.05]), 1.5)
    elif tail != "none":
        path = [end, end + (swing, 0.3, 0.2 * rise), end + (swing * 1.4, 0.6, rise)]
        if pose != "standing":
            path[2] = np.array([swing * 2, 0.75, floor + 0.12 + max(rise, 0)])
        add(
            _limb(path, [0.05, 0.11, 0.06] if tail == "bushy" else [0.05, 0.035, 0.025]),
            2.0 if tail == "bushy" else 0.3,
        )

    pads = []
    for side in (-1, 1):
        for up in (-0.3, -0.1, 0.1):
            for fan in (0.2, -0.1, -0.4):
                pads.append(
                    (
                        nose + width * np.array([side * 0.75, 0.2, up]),
                        np.array([side, fan - 0.2, up + rng.normal() * 0.15]),
                    )
                )
    # into a sphere of radius one
    meshes = [p[0] for p in parts] + [b[0] for b in bare]
    points = np.concatenate([m.vertices for m in meshes])
    middle = (points.max(0) + points.min(0)) / 2
    scale = 0.92 / np.linalg.norm(points - middle, axis=1).max()

    def fit(mesh: Mesh) -> Mesh:
        return placed(mesh, np.eye(3) * scale, -scale * middle)

    details = Details(
        bare=[(fit(m), c, r) for m, c, r in bare],
        lengths=[p[1] for p in parts],
        mane=[p[2] for p in parts],
        whiskers=[((p - middle) * scale, d / np.linalg.norm(d)) for p, d in pads],
        animal=True,
        drawn={"pose": pose, "ears": ears, "tail": tail},
    )
    return [fit(p[0]) for p in parts], details


def _body(rng: np.random.Generator, kind: str) -> tuple[list[Mesh], Details]:
    """The furry parts, each a closed grid, and their `Details`."""
    if kind == "animal":
        return _animal(rng)
    turn = random_rotation(rng)
    if kind == "ellipsoid":
        parts = [placed(_lump(rng, rng.uniform(0.4, 1.0, 3), 0.0), turn)]
    elif kind == "bumpy":
        parts = [placed(_lump(rng, rng.uniform(0.65, 1.0, 3), rng.uniform(0.08, 0.22)), turn)]
    else:
        parts, centre = [], np.zeros(3)
        for _ in range(int(rng.integers(2, 6))):
            axes = rng.uniform(0.25, 0.6, 3)
            parts.append(placed(_lump(rng, axes, rng.uniform(0, 0.15)), random_rotation(rng), centre))
            step = rng.normal(size=3)
            centre = centre + step / np.linalg.norm(step) * axes.mean() * rng.uniform(0.8, 1.4)
        middle = np.concatenate([p.vertices for p in parts]).mean(0)
        parts = [placed(p, None, -middle) for p in parts]
    return parts, Details(lengths=[1.0] * len(parts), mane=[False] * len(parts))


def grow(
    rng: np.random.Generator,
    roots: np.ndarray,
    normals: np.ndarray,
    f: dict[str, Any],
    lengths: np.ndarray,
    comb: np.ndarray,
) -> np.ndarray:
    """Control points [N, K, 3] of the coat of drawn `Factors` f.

    Strands grow from roots [N, 3] along normals [N, 3] with mean `lengths` [N] and lean towards `comb` [N, 3].
    """
    number = len(roots)
    strays = rng.random(number) < f["flyaways"]
    comb = comb - normals * (normals * comb).sum(1, keepdims=True)
    comb /= np.maximum(np.linalg.norm(comb, axis=1, keepdims=True), 0.3)
    jitter = f["length_jitter"] * np.clip(rng.normal(size=number), -2, 2) * 0.6
    length = lengths * np.exp(jitter - (0.6 * f["length_jitter"]) ** 2 / 2)  # mean one
    length = np.where(strays, length * rng.uniform(1.2, 2.2, number), length)
    s = np.linspace(0, 1, samples_for(f["turns"] if f["curl"] + f["wave"] > 0 else 0))[None, :, None]
    mess = np.where(strays, 0.3 + 2 * f["mess"], f["mess"])[:, None]
    way = normals + mess * rng.normal(size=(number, 3))
    inside = np.minimum((way * normals).sum(1, keepdims=True) - 0.15, 0)
    way -= inside * normals  # not into the skin
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    bend = 0.6 * f["lean"] * comb
    bend = bend[:, None] * (0.45 * s + 0.55 * s**2)
    fall = np.array([0, 0, -0.5]) * f["droop"] * np.where(strays, 0.4, 1.0)[:, None]
    path = s * way[:, None] + bend + fall[:, None] * s**2
    samples = with_length(roots[:, None] + length[:, None, None] * path, length)

    leaders = rng.permutation(number)[: max(1, number // CLUMP)]
    lock = nearest(roots, roots[leaders])
    if f["wave"] > 0:
        samples = coiled(rng, samples, 0.1 * f["wave"] * length, f["turns"], lock, flat=1.0)
    if f["curl"] > 0:
        # strands of a strong clump share its phase
        own = np.arange(number) if f["clumping"] < 0.5 else lock
        samples = coiled(rng, samples, 0.16 * f["curl"] * length / max(1.0, f["turns"]), f["turns"], own)
    gather = f["clumping"] * np.where(strays, 0.0, rng.uniform(0.7, 1.0, number))
    return through(clumped(samples, leaders[lock], gather))


def _paint(
    rng: np.random.Generator, parts: list[Mesh], first: np.ndarray, second: np.ndarray, details: Details
) -> tuple[Any, str]:
    """(function (points [P, 3], relative strand length [P]) -> colours [P, 3], name of the pattern)."""
    names = ["spots", "bands", "belly"] + (["extremities"] if details.animal else [])
    pattern = str(rng.choice(names))
    k, phase = rng.normal(size=(3, 8)) * rng.uniform(1.5, 5), rng.uniform(0, 2 * np.pi, 8)
    if pattern == "bands":
        k *= np.array([[0.25], [1], [0.25]]) if details.animal else np.array([[1], [1], [0.25]])
    bias, middle = rng.uniform(-0.4, 0.4), np.concatenate([p.vertices for p in parts])[:, 2].mean()

    def colours(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        field = np.cos(points @ k + phase).sum(-1) / np.sqrt(8)
        if pattern == "belly":
            mark = 2.5 * (middle - 0.2 + 0.5 * bias - points[:, 2]) + 0.3 * field
        elif pattern == "extremities":
            mark = 2.5 * (0.42 + 0.1 * bias - lengths) + 0.2 * field
        else:
            mark = field + bias
        mix = (1 / (1 + np.exp(-8 * np.clip(mark, -4, 4))))[:, None]
        return first * (1 - mix) + second * mix

    return colours, pattern


def skin_texture(mesh: Mesh, colours: np.ndarray) -> np.ndarray:
    """Colours [V, 3] of a grid mesh's vertices as a texture [h, w, 3] for its uv."""
    rows = len(np.unique(mesh.uv[:, 0]))
    return colours.reshape(rows, -1, 3).transpose(1, 0, 2)


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A furry body from drawn `Factors`; the rest of its shape and coat comes from `rng`."""
    f = dict(factors)
    if f["short_pile"]:
        f |= {key: f[key] * times for key, times in PILE.items()}
    parts, details = _body(rng, f["body"])
    first = colour_of_tone(rng, f["tone"])
    second = first if f["second_tone"] == "none" else colour_of_tone(rng, f["second_tone"])
    paint, pattern = _paint(rng, parts, first, second, details)
    darker = shade(rng, np.full(3, 0.6), 0.2)
    turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360))

    body = join(*parts)
    roots, normals = scatter(rng, body, f["strands"])
    part = _part_of(parts, roots)
    if f["bald"]:
        keep = waves(rng, roots, 2.5) > rng.uniform(-0.8, 0.1)
        if keep.sum() > 50:
            roots, normals, part = roots[keep], normals[keep], part[keep]
    relative = np.asarray(details.lengths)[part]
    lengths = relative * f["length"]
    has_mane = f["mane"] and details.animal
    if has_mane:
        lengths = np.where(np.asarray(details.mane)[part], lengths * rng.uniform(1.8, 2.6), lengths)
    number = len(roots)
    comb = np.array([0, 1.0, -0.35]) if details.animal else rng.normal(size=3)
    swirl = np.stack([waves(rng, roots, 1.2) for _ in range(3)], 1)
    points = grow(rng, roots, normals, f, lengths, comb + 0.4 * swirl)
    base = paint(roots, relative) * np.exp(0.18 * rng.normal(size=(number, 1)))
    radii = tapered(rng, f["radius"] * np.minimum(1, np.sqrt(relative + 0.4)), number, points.shape[1])
    if f["whiskers"] and details.whiskers:
        count = min(int(rng.integers(6, 15)), 1 + number // 20)
        pads = [details.whiskers[i] for i in rng.permutation(len(details.whiskers))[:count]]
        last = slice(number - len(pads), number)
        place, way = np.array([p for p, _ in pads]), np.array([d for _, d in pads])
        s = np.linspace(0, 1, points.shape[1] - 2)[None, :, None]
        long = rng.uniform(0.15, 0.4, len(pads))
        path = s * way[:, None] + s**2 * np.array([0, 0.15, -0.15])
        points[last] = through(with_length(place[:, None] + path, long))
        radii[last] = tapered(rng, 0.0022, len(pads), points.shape[1])
        base[last] = rng.choice([0.02, 0.75])

    relatives = np.repeat(details.lengths, [len(p.vertices) for p in parts])
    skin = np.clip(paint(body.vertices, relatives) * darker, 0.003, 0.9)
    ends = np.cumsum([0] + [len(p.vertices) for p in parts])
    meshes = []
    for p, a, b in zip(parts, ends, ends[1:], strict=False):
        plain = {"kind": "diffuse", "colour": skin_texture(p, skin[a:b])}
        meshes.append(replace(p, material=plain))
    for mesh, colour, roughness in details.bare:
        meshes.append(replace(mesh, material={"kind": "plastic", "colour": colour, "roughness": roughness}))
    drawn = {**details.drawn, "pattern": pattern, "strands_grown": number}
    strands = Strands(points @ turn.T, radii, tinted(base, points.shape[1], 0.75, f["tip_light"]))
    return Subject([placed(m, turn) for m in meshes], [strands], drawn=drawn)


def _part_of(parts: list[Mesh], places: np.ndarray) -> np.ndarray:
    """The index [N] of the part on whose surface each place [N, 3] lies, by the nearest vertex."""
    owner = np.repeat(np.arange(len(parts)), [len(p.vertices) for p in parts])
    return owner[nearest(places, np.concatenate([p.vertices for p in parts]))]
