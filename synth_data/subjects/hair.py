"""Hair: a bust with a head of hair that falls, curls, is tied, cropped or blown about, sometimes with a beard."""

import colorsys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synth_data.colour import any_colour, shade, srgb_to_linear
from synth_data.factors import chance, count, shares, span
from synth_data.subjects.meshes import (
    Mesh,
    Strands,
    Subject,
    ball,
    placed,
    rotation,
    scatter,
    sphere_directions,
    surface,
    tube,
    waves,
)
from synth_data.subjects.strands import (
    clumped,
    coiled,
    nearest,
    samples_for,
    tapered,
    through,
    tinted,
    turned_to,
    with_length,
)

HEAD = np.array([0.0, 0.0, 0.36])  # its centre; the face looks along -y
AXES = np.array([0.29, 0.36, 0.40])  # half width, depth and height of the head
FLOOR = -0.72  # where the bust ends
POINTS = 160_000  # most control points of a head of hair; with many turns there are fewer strands
GUIDES = 400  # strands that are simulated; the others follow the two nearest
STEPS = 28  # of a guide's fall
TURNING = 6.5  # how far a weight of 1 turns a strand of length 1


@dataclass(frozen=True)
class Factors:
    """Variation of a head of hair. A head is 0.8 high."""

    style: tuple = shares(loose=3, bob=1, ponytail=1.2, bun=0.8, afro=1, crop=1, spiky=0.5)
    """hairstyle: falling freely, cut at one height, tied, round, short or standing up"""
    strands: tuple = count(6000, 12000, least=1, most=200_000)
    """number of strands on the scalp; at most 160,000 control points"""
    length: tuple = span(0.25, 1.3, most=3, log=True)
    """mean strand length of loose hair; other styles use a share of it"""
    length_jitter: tuple = span(0.05, 0.35, most=1)
    """relative spread of the lengths"""
    radius: tuple = span(0.0016, 0.004, least=0.0002, most=0.05, log=True)
    """strand radius at the root; it tapers to a tenth"""
    texture: tuple = shares(straight=2, wavy=1.5, curly=1)
    """straight, wavy or curly hair; an afro is always curly"""
    wave: tuple = span(0.3, 1.0, most=3)
    """amplitude of the plane waves of wavy hair, shared by the strands of a lock; 1 is 0.04"""
    curl: tuple = span(0.3, 1.0, most=3)
    """radius of the helix of curly hair; 1 is 0.035"""
    turns: tuple = span(0.8, 4.0, most=12)
    """waves or turns of the helix over a strand"""
    clumping: tuple = span(0.1, 0.8, most=1)
    """how far tips gather into locks"""
    volume: tuple = span(0.0, 0.12, most=1)
    """distance of the hair from the scalp"""
    weight: tuple = span(0.4, 1.6, most=5)
    """how quickly gravity bends it down"""
    wind: tuple = span(0.0, 1.2, most=5)
    """strength of the wind against a weight of 1"""
    windy: float = chance(0.3)
    """whether there is wind"""
    flyaways: tuple = span(0.003, 0.04, least=0.0001, most=1, log=True)
    """share of stray strands, outside all locks"""
    mess: tuple = span(0.02, 0.25, most=2)
    """random deviation of each strand"""
    bald: float = chance(0.1)
    """whether the crown is bald"""
    beard: float = chance(0.25)
    """whether there is a beard"""
    tone: tuple = shares(black=1.2, brown=1.5, blond=1.2, red=0.6, grey=0.6, white=0.4, dyed=0.5)
    """the hair's colour"""
    tip_light: tuple = span(0.8, 1.8, most=5)
    """the tips' brightness, relative to the roots'"""


HUES = {  # hue, saturation, value of the hair, in sRGB
    "black": ((0.02, 0.1), (0.1, 0.5), (0.05, 0.14)),
    "brown": ((0.03, 0.08), (0.4, 0.7), (0.18, 0.42)),
    "blond": ((0.09, 0.125), (0.3, 0.6), (0.6, 0.88)),
    "red": ((0.02, 0.06), (0.6, 0.85), (0.35, 0.65)),
    "grey": ((0.05, 0.65), (0.0, 0.08), (0.35, 0.65)),
    "white": ((0.08, 0.15), (0.0, 0.1), (0.82, 0.95)),
    "dyed": ((0.0, 1.0), (0.6, 0.95), (0.4, 0.9)),
}


def _between(rng: np.random.Generator, ranges: tuple) -> np.ndarray:
    """A linear colour [3] with uniform sRGB hue, saturation and value."""
    return srgb_to_linear(np.array(colorsys.hsv_to_rgb(*(rng.uniform(*r) for r in ranges))))


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _near(d: np.ndarray, x: float, y: float, z: float, wide: float, tall: float) -> np.ndarray:
    """A bump about the direction (x, y, z) of directions d [..., 3], `wide` across and `tall` high."""
    centre = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    e = (d - centre) / np.array([wide, wide, tall])
    return np.exp(-(e**2).sum(-1))


def _head(d: np.ndarray, jaw: float, nose: float) -> np.ndarray:
    """Points of the head's surface in directions d [..., 3]: a skull with a narrow jaw, brow, nose and chin."""
    low, front = _smooth(-d[..., 2] * 1.2), _smooth(-d[..., 1])
    p = d * AXES
    p[..., 0] *= 1 - (0.2 + 0.15 * jaw) * low
    p[..., 1] += 0.12 * low * (1 - front) * -np.sign(d[..., 1]) * np.abs(d[..., 1]) - 0.02 * low * front
    p[..., 2] *= 1 + 0.06 * low * front
    p[..., 1] -= nose * (_near(d, 0, -1, -0.28, 0.13, 0.15) + 0.6 * _near(d, 0, -1, -0.08, 0.1, 0.16))
    p[..., 1] += 0.035 * sum(_near(d, s * 0.4, -0.9, 0.03, 0.2, 0.11) for s in (-1, 1))
    p[..., 1] -= 0.015 * _near(d, 0, -0.85, -0.5, 0.28, 0.07) + 0.03 * _near(d, 0, -0.7, -0.75, 0.25, 0.15)
    return HEAD + p


def _scalp(d: np.ndarray, recede: float) -> np.ndarray:
    """How far inside the hairline directions d [..., 3] are, roughly in radians; below 0 the skin is bare."""
    height = np.arcsin(np.clip(d[..., 2], -1, 1))
    front = _smooth(0.5 - 0.75 * d[..., 1])  # 1 before the ears, 0 behind
    forehead = _smooth(-1.6 * d[..., 1] - 0.3)
    line = -0.55 + 0.65 * front + (0.45 + recede * (0.4 + 0.6 * np.abs(d[..., 0]))) * forehead
    return height - line


def _jaw(d: np.ndarray) -> np.ndarray:
    """How far inside the beard's outline directions d [..., 3] are; below 0 the skin is bare."""
    height = np.arcsin(np.clip(d[..., 2], -1, 1))
    side = np.abs(d[..., 0])
    top = -0.38 + 0.5 * _smooth(1.5 * side - 0.5)
    mouth = _near(d, 0, -0.85, -0.5, 0.2, 0.06)
    return np.minimum(top - height, np.minimum(-d[..., 1] - 0.05, 0.3)) - mouth


def _bust(rng: np.random.Generator, hair: np.ndarray, crown: Any, beard: bool) -> tuple[list[Mesh], Mesh, dict]:
    """(all meshes, the bare head [a grid] to grow on, the head's shape); `crown(d)` < 0 where the scalp is bare."""
    light = rng.uniform(0.0, 1.0)
    skin = srgb_to_linear(np.array([0.25, 0.15, 0.1]) * (1 - light) + np.array([0.95, 0.77, 0.66]) * light)
    skin = shade(rng, skin, 0.12)
    form = {"jaw": float(rng.uniform(0, 1)), "nose": float(rng.uniform(0.03, 0.08))}
    grid = sphere_directions(64, 128)
    d = sphere_directions(96, 160)
    under = _smooth(crown(d) / 0.08)[..., None] * 0.85
    lips = shade(rng, skin * np.array([0.8, 0.45, 0.45]), 0.2)
    paint = skin * (1 - 0.15 * _near(d, 0, -1, 0.05, 0.7, 0.12)[..., None])
    paint = paint + (lips - paint) * _smooth(2.5 * _near(d, 0, -0.85, -0.5, 0.16, 0.045) - 0.9)[..., None]
    paint = paint + (0.5 * hair - paint) * under
    brow = sum(_near(d, s * 0.4, -0.9, 0.19, 0.16, 0.025) for s in (-1, 1))
    paint = paint + (0.5 * hair - paint) * 0.7 * _smooth(brow * 1.5 - 0.2)[..., None]
    if beard:
        paint = paint + (0.5 * hair - paint) * 0.7 * _smooth(_jaw(d) / 0.1)[..., None]
    # a texture's rows run along uv's v, the grid's columns
    material = {"kind": "diffuse", "colour": np.clip(paint, 0.003, 0.92).transpose(1, 0, 2)}
    head = replace(surface(_head(grid, **form)), material=material)
    plain = {"kind": "diffuse", "colour": skin}
    meshes = [head]
    for side in (-1, 1):
        at = _head(np.array([side * 0.42, -0.9, 0.04]) / np.linalg.norm([0.42, 0.9, 0.04]), **form)
        at = at + (0, 0.012, 0)
        meshes.append(replace(ball(np.array([0.042, 0.03, 0.026]), at), material=_glossy(np.full(3, 0.75))))
        iris = shade(rng, srgb_to_linear(np.array([[0.25, 0.15, 0.08], [0.3, 0.45, 0.55]][int(rng.integers(2))])), 0.4)
        meshes.append(replace(ball(0.019, at + (0, -0.016, 0), rows=12), material=_glossy(iris)))
        ear = placed(ball(np.array([0.03, 0.06, 0.1]), rows=14), rotation(np.array([0, 0, 1]), side * 15))
        meshes.append(replace(placed(ear, None, HEAD + (side * 0.275, 0.02, -0.03)), material=plain))
    neck = tube(np.array([[0, 0.05, 0.2], [0, 0.06, 0.0], [0, 0.07, -0.14], [0, 0.07, -0.3]]), [0.15, 0.15, 0.17, 0.24])
    meshes.append(replace(neck, material=plain))
    # shoulders: rings from the collar down
    broad, collar = rng.uniform(0.55, 0.75), rng.uniform(0.15, 0.24)
    t = np.linspace(0, 1, 24)
    across = collar + (broad - collar) * np.sqrt(np.clip(1 - (1 - 1.9 * t) ** 2, 0, 1)) ** 1.3 * (t < 0.52)
    across = np.where(t >= 0.52, broad * (1 - 0.12 * (t - 0.52)), across)
    deep = collar + (0.3 - collar) * _smooth(1.6 * t)
    height = -0.1 - rng.uniform(0.0, 0.06) + (FLOOR + 0.1) * t**1.2
    a = np.linspace(0, 2 * np.pi, 49)
    rings = np.stack(
        [
            across[:, None] * np.cos(a),
            0.07 + deep[:, None] * np.sin(a),
            height[:, None] + 0.05 * np.sin(a) * (1 - t)[:, None],
        ],
        -1,
    )[::-1]
    cloth = any_colour(rng)
    under = np.broadcast_to([0, 0.07, height[-1]], (1, 49, 3))
    body = surface(np.concatenate([under, rings]))
    meshes.append(replace(body, material={"kind": "diffuse", "colour": cloth}))
    return meshes, head, form


def _glossy(colour: np.ndarray) -> dict[str, Any]:
    return {"kind": "plastic", "colour": colour, "roughness": 0.08}


def pushed_out(points: np.ndarray, gap: float | np.ndarray = 0.0) -> np.ndarray:
    """Points [..., 3] moved radially out of head, neck and shoulders (ellipsoids enlarged by `gap`)."""
    for centre, axes in (
        (HEAD + (0, 0.01, 0), AXES * (1.01, 1.03, 1.01)),
        (np.array([0, 0.07, 0.0]), np.array([0.17, 0.17, 0.6])),
        (np.array([0, 0.07, -0.62]), np.array([0.7, 0.3, 0.5])),
    ):
        reach = np.asarray(gap)[..., None] + axes
        e = (points - centre) / reach
        r = np.linalg.norm(e, axis=-1, keepdims=True)
        points = np.where(r < 1, centre + (points - centre) / np.maximum(r, 1e-3), points)
    return points


def _fall(
    rng: np.random.Generator, start: np.ndarray, way: np.ndarray, length: np.ndarray, f: dict[str, Any], gap: np.ndarray
) -> np.ndarray:
    """Polylines [G, STEPS + 1, 3] of guides that leave `start` [G, 3] along `way` [G, 3] and fall.

    At every step the direction turns towards gravity and wind, and the guide is kept `gap` [G] off the body.
    """
    wind = np.zeros(3)
    if f["windy"]:
        angle = rng.uniform(0, 2 * np.pi)
        wind = f["wind"] * 1.6 * np.array([np.cos(angle), np.sin(angle), rng.uniform(0.0, 0.4)])
    k, phase = rng.normal(size=(3, 3, 6)) * 3, rng.uniform(0, 2 * np.pi, (3, 6))
    step = (length / STEPS)[:, None]
    place, path = start, [start]
    for n in range(STEPS):
        gust = np.cos((place @ k).transpose(1, 0, 2) + phase).sum(-1) / np.sqrt(6)
        pull = f["weight"] * np.array([0, 0, -1.0]) + wind + (0.15 + 0.5 * np.linalg.norm(wind)) * gust
        way = way + pull * step * TURNING
        way = way / np.linalg.norm(way, axis=1, keepdims=True)
        there = pushed_out(place + way * step, gap * min(1, (n + 1) / 4))
        way = there - place
        way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
        place = place + way * step
        path.append(place)
    return np.stack(path, 1)


def _resampled(paths: np.ndarray, number: int) -> np.ndarray:
    """Polylines [N, S, 3] of equal steps, resampled to `number` points."""
    t = np.linspace(0, paths.shape[1] - 1, number)
    low = np.minimum(t.astype(int), paths.shape[1] - 2)
    part = (t - low)[None, :, None]
    return paths[:, low] * (1 - part) + paths[:, low + 1] * part


def _follow(roots: np.ndarray, guides: np.ndarray, side: np.ndarray, guide_side: np.ndarray) -> np.ndarray:
    """Strands [N, S, 3] from roots [N, 3]: a blend of the two nearest guides [G, S, 3] on their side of the parting."""
    from scipy.spatial import cKDTree

    keyed = np.concatenate([guides[:, 0], 5 * guide_side[:, None]], 1)
    distance, index = cKDTree(keyed).query(np.concatenate([roots, 5 * side[:, None]], 1), k=min(2, len(guides)))
    distance, index = distance.reshape(len(roots), -1), index.reshape(len(roots), -1)
    weight = 1 / (distance + 1e-3)
    weight /= weight.sum(1, keepdims=True)
    moves = guides - guides[:, :1]
    return roots[:, None] + (weight[:, :, None, None] * moves[index]).sum(1)


def _cut(paths: np.ndarray, height: np.ndarray, samples: int) -> np.ndarray:
    """Polylines [N, S, 3] cut where they first fall below `height` [N], and resampled."""
    below = paths[..., 2] < height[:, None]
    last = np.where(below.any(1), below.argmax(1), paths.shape[1] - 1)
    t = np.linspace(0, 1, samples)[None] * np.maximum(last, 2)[:, None]
    low = np.minimum(t.astype(int), paths.shape[1] - 2)
    part = (t - low)[..., None]
    row = np.arange(len(paths))[:, None]
    return paths[row, low] * (1 - part) + paths[row, low + 1] * part


def _tied(
    rng: np.random.Generator, roots: np.ndarray, tie: np.ndarray, tail: np.ndarray, samples: int, gap: float
) -> np.ndarray:
    """Strands [N, samples, 3] close to the head from roots [N, 3] to the tie [3], then along tail [N, T, 3]."""
    s = np.linspace(0, 1, 12)[None, :, None]
    a, b = roots - HEAD, tie - HEAD
    ua, ub = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b)
    angle = np.arccos(np.clip(ua @ ub, -0.999, 0.999))[:, None, None]
    way = (np.sin((1 - s) * angle) * ua[:, None] + np.sin(s * angle) * ub) / np.sin(angle)
    reach = np.linalg.norm(a, axis=1)[:, None, None] * (1 - s) + np.linalg.norm(b) * s
    hug = pushed_out(HEAD + way * reach, np.full((len(roots), 12), gap) * np.sqrt(s[..., 0]))
    hug[:, 0] = roots
    path = np.concatenate([hug[:, :-1], tail], 1)
    # resampled to equal steps
    far = np.concatenate([np.zeros((len(path), 1)), np.cumsum(np.linalg.norm(np.diff(path, axis=1), axis=2), 1)], 1)
    want = far[:, -1:] * np.linspace(0, 1, samples)
    row = np.arange(len(path))[:, None]
    # offset by row, so that one search does for all
    shares, places = far / far[:, -1:] + 2 * row, np.linspace(0, 1, samples) + 2 * row
    low = np.searchsorted(shares.ravel(), places.ravel(), side="right").reshape(places.shape) - 1 - row * path.shape[1]
    low = np.clip(low, 0, path.shape[1] - 2)
    part = (want - far[row, low]) / np.maximum(far[row, low + 1] - far[row, low], 1e-9)
    return path[row, low] + (path[row, low + 1] - path[row, low]) * np.clip(part, 0, 1)[..., None]


def _worn(
    rng: np.random.Generator, roots: np.ndarray, normals: np.ndarray, f: dict[str, Any], samples: int, drawn: dict
) -> tuple[np.ndarray, list[Mesh]]:
    """(strands [N, samples, 3] in the style of drawn `Factors` f before waves and locks, a hair band or bun core)."""
    number, style = len(roots), f["style"]
    jitter = np.exp(f["length_jitter"] * np.clip(rng.normal(size=number), -2, 1.5) * 0.6)
    part = rng.choice([0.0, rng.uniform(0.05, 0.14), -rng.uniform(0.05, 0.14)])
    drawn["parting"] = float(part)
    side = np.sign(roots[:, 0] - part + 1e-9)
    comb = np.stack([side, np.full(number, rng.uniform(-0.4, 0.9)), np.full(number, -0.2)], 1)
    comb -= normals * (comb * normals).sum(1, keepdims=True)
    comb /= np.maximum(np.linalg.norm(comb, axis=1, keepdims=True), 0.2)
    if style in ("afro", "spiky", "crop"):
        share = {"afro": 0.35, "spiky": 0.2, "crop": 0.07}[style]
        length = share * f["length"] * jitter
        drawn["mean_length"] = float(share * f["length"])
        lean = {"afro": 0.0, "spiky": 0.25, "crop": 0.9}[style]
        way = normals + lean * comb + (f["mess"] + 0.1) * rng.normal(size=(number, 3))
        s = np.linspace(0, 1, samples)[None, :, None]
        if style == "spiky":
            way = way + (0, 0, 0.6)
        path = roots[:, None] + s * way[:, None] + s**2 * np.array([0, 0, -0.15 * f["weight"]])
        return with_length(path, length), []
    if style in ("ponytail", "bun"):
        tie = HEAD + AXES * np.array([0, np.cos(t := rng.uniform(0.0, 1.4)), np.sin(t)]) * 1.12
        drawn["mean_length"] = float(0.8 * f["length"])
        spread = 0.03 * rng.normal(size=(number, 3))
        if style == "ponytail":
            guides = min(60, number)
            out = (tie - HEAD) / np.linalg.norm(tie - HEAD)
            first = tie + 0.02 * rng.normal(size=(guides, 3))
            way = out + (0, 0.2, 0.1) + 0.25 * rng.normal(size=(guides, 3))
            length = 0.8 * f["length"] * np.exp(0.1 * rng.normal(size=guides))
            way /= np.linalg.norm(way, axis=1, keepdims=True)
            tails = _resampled(_fall(rng, first, way, length, f, np.full(guides, 0.02)), 14)
            one, two, mix = (
                rng.integers(guides, size=number),
                rng.integers(guides, size=number),
                rng.random((number, 1, 1)),
            )
            fan = np.sin(np.pi * np.linspace(0, 1, 14) ** 0.7)[:, None] + 0.15
            tail = tails[one] * mix + tails[two] * (1 - mix) + spread[:, None] * fan
            cut = rng.uniform(0.75, 1.0, (number, 1, 1)) * np.linspace(0, 1, 14)[None, :, None]
            tail = tail[:, :1] + (tail - tail[:, :1]) * (0.6 + 0.4 * jitter[:, None, None]) * (1 - 0.05 * cut)
            band = tube(
                tie
                + 0.045
                * np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 24)[:-1]), 0 * a, np.sin(a)], 1)
                @ turned_to(out).T,
                0.015,
                closed=True,
            )
            extra = [replace(band, material={"kind": "diffuse", "colour": any_colour(rng)})]
        else:
            size = rng.uniform(0.1, 0.18)
            centre = tie + (tie - HEAD) / np.linalg.norm(tie - HEAD) * 0.6 * size
            # loops around the bun's axis, tilted at random
            axis = (tie - HEAD) / np.linalg.norm(tie - HEAD) + 0.35 * rng.normal(size=(number, 3))
            axis /= np.linalg.norm(axis, axis=1, keepdims=True)
            x = np.cross(axis, rng.normal(size=(number, 3)))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            y = np.cross(axis, x)
            lift = rng.uniform(-0.8, 0.8, number)
            turn = np.linspace(0, 1, 14)[None, :, None] * rng.uniform(2, 5, (number, 1, 1))
            ring = np.sqrt(1 - lift**2)[:, None, None] * (np.cos(turn) * x[:, None] + np.sin(turn) * y[:, None])
            tail = centre + size * rng.uniform(0.85, 1.05, (number, 1, 1)) * (ring + (lift[:, None] * axis)[:, None])
            extra = []
            core = ball(size * 0.85, centre)
            extra.append(replace(core, material={"kind": "diffuse", "colour": np.array(drawn["colour"]) * 0.5}))
        return _tied(rng, roots, tie, tail, samples, 0.02 + 0.3 * f["volume"]), extra
    # loose and bob: guides fall, the other strands follow
    guides = rng.permutation(number)[: min(GUIDES, number)]
    length = np.full(len(guides), f["length"])
    fringe = bool(rng.random() < 0.35)
    drawn["fringe"] = fringe
    if fringe:
        front = -(roots[:, 1] - HEAD[1]) / AXES[1] > 0.45
        forward = np.array([0, -1.0, 0]) - normals * (normals @ np.array([0, -1.0, 0]))[:, None]
        comb = np.where(front[:, None], forward + 0.3 * comb, comb)
        length = np.where(front[guides], np.minimum(length, rng.uniform(0.2, 0.35)), length)
    drawn["mean_length"] = float(f["length"])
    way = comb + (0.45 + 4 * f["volume"]) * normals
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    gap = 0.015 + f["volume"] * rng.uniform(0.3, 1.0, len(guides))
    paths = _fall(rng, roots[guides], way[guides], length, f, gap)
    strands = _follow(roots, paths, side, side[guides])
    grown = (
        strands[:, :1]
        + (strands - strands[:, :1]) * np.where(jitter > 1, 1 + 0.5 * (jitter - 1), jitter)[:, None, None]
    )
    if style == "bob":
        cut = float(rng.uniform(-0.12, 0.18))
        drawn["cut"] = cut
        return _cut(grown, cut + 0.02 * rng.normal(size=number), samples), []
    return _resampled(grown, samples), []


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """A bust with hair from drawn `Factors`; the rest of head, clothes and hair comes from `rng`.

    Strands are two sets: the hair, and beard and eyebrows if there are any.
    """
    f = factors
    hair = _between(rng, HUES[f["tone"]])
    drawn: dict[str, Any] = {"colour": [round(float(c), 4) for c in hair]}
    recede, crown_at = rng.uniform(0.0, 0.5), np.array([0, 0.35, 0.94])

    def crown(d: np.ndarray) -> np.ndarray:
        inside = _scalp(d, recede + 0.4 * f["bald"])
        return np.minimum(inside, np.linalg.norm(d - crown_at, axis=-1) - 0.55) if f["bald"] else inside

    meshes, head, form = _bust(rng, hair, crown, f["beard"])
    turns = f["turns"] * {"afro": 2.0, "crop": 0.3, "spiky": 0.3}.get(f["style"], 1.0)
    texture = "curly" if f["style"] == "afro" else f["texture"]
    samples = samples_for(0 if texture == "straight" else turns) + 4 * (f["style"] not in ("afro", "crop", "spiky"))
    number = max(1, min(f["strands"], POINTS // (samples + 2)))
    share = 0.33  # of the head's area is scalp
    roots, normals = scatter(rng, head, int(number / share) + 40)
    d = (roots - HEAD) / AXES
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    keep = np.flatnonzero(crown(d) + 0.06 * waves(rng, roots, 14) > 0.03)[:number]
    roots, normals = roots[keep], normals[keep]
    number = len(roots)
    paths, extra = _worn(rng, roots, normals, f, samples, drawn)

    strays = rng.random(number) < f["flyaways"]
    leaders = rng.permutation(number)[: max(1, number // 40)]
    lock = nearest(roots, roots[leaders])
    s = np.linspace(0, 1, samples)[None, :, None]
    calm = 0.35 if f["style"] == "bun" else 1.0
    size = 0.3 * calm * np.where(strays, 1.0, f["mess"])[:, None, None]
    stray = rng.normal(size=(number, 1, 3)) + np.where(strays, 0.4, 0.0)[:, None, None] * normals[:, None]
    reach = np.linalg.norm(paths[:, -1] - paths[:, 0], axis=1)[:, None, None]
    paths = paths + size * stray * s**1.3 * np.minimum(reach, 0.5)
    if f["style"] != "bun":
        gather = f["clumping"] * np.where(strays, 0.0, rng.uniform(0.6, 1.0, number))
        paths = clumped(paths, leaders[lock], gather * (0.4 if f["style"] == "ponytail" else 1.0), 1.2)
    own = np.where(rng.random(number) < 0.25, np.arange(number) % (lock.max() + 1), lock)
    quiet = 0.25 if f["style"] in ("bun", "crop", "spiky") else 1.0
    if texture == "wavy":
        paths = coiled(rng, paths, quiet * 0.04 * f["wave"], turns, own, flat=1.0)
    elif texture == "curly":
        paths = coiled(rng, paths, quiet * 0.035 * f["curl"] / max(1.0, turns / 3), turns, own)
    if f["style"] != "crop":
        paths[:, 1:] = pushed_out(paths[:, 1:], 0.004)
    points = through(paths)
    base = hair * np.exp(0.22 * rng.normal(size=(number, 1)) + 0.25 * waves(rng, roots, 6)[:, None])
    strands = [
        Strands(
            points,
            tapered(rng, f["radius"], number, points.shape[1]),
            tinted(base, points.shape[1], 0.85, f["tip_light"]),
        )
    ]
    strands.append(_face(rng, head, hair, f, drawn))
    drawn["strands_grown"] = number
    meshes = meshes + extra
    turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360))
    return Subject(
        [placed(m, turn) for m in meshes], [replace(p, points=p.points @ turn.T) for p in strands], drawn=drawn
    )


def _face(rng: np.random.Generator, head: Mesh, hair: np.ndarray, f: dict[str, Any], drawn: dict) -> Strands:
    """Eyebrows, and the beard if there is one."""
    roots, normals = scatter(rng, head, 24_000 if f["beard"] else 10_000)
    d = (roots - HEAD) / AXES
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    brow = sum(_near(d, s * 0.4, -0.9, 0.19, 0.16, 0.025) for s in (-1, 1)) > 0.4
    chin = (_jaw(d) > 0.02 + 0.08 * rng.random(len(d))) & f["beard"] & ~brow
    keep = brow | chin
    roots, normals, brow, d = roots[keep], normals[keep], brow[keep], d[keep]
    long = float(np.exp(rng.uniform(np.log(0.02), np.log(0.35))))
    if f["beard"]:
        drawn["beard_length"] = long
    number = len(roots)
    front = 0.35 + 0.65 * _smooth(-1.6 * d[:, 1] - 0.4)
    length = np.where(brow, 0.03, long * front) * np.exp(0.25 * np.clip(rng.normal(size=number), -2, 2))
    way = normals + 0.3 * rng.normal(size=(number, 3))
    way[:, 2] -= np.where(brow, -0.3, 0.6)
    way[:, 0] += np.where(brow, 2.0 * np.sign(d[:, 0]), 0.0)
    s = np.linspace(0, 1, 6)[None, :, None]
    path = s * way[:, None] + s**2 * np.array([0, 0, -1.2]) * np.where(brow, 0, 1)[:, None, None]
    samples = with_length(roots[:, None] + path, length)
    if number:
        samples = coiled(rng, samples, 0.12 * f["curl"] * length * (f["texture"] == "curly"), 1.2)
        leaders = rng.permutation(number)[: max(1, number // 25)]
        samples = clumped(samples, leaders[nearest(roots, roots[leaders])], 0.6 * f["clumping"] * ~brow)
    base = hair * np.exp(0.2 * rng.normal(size=(number, 1)))
    return Strands(
        through(samples), tapered(rng, max(0.002, 0.8 * f["radius"]), number, 8), tinted(base, 8, 0.85, f["tip_light"])
    )
