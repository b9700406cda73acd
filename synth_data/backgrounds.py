"""Backgrounds in linear light: procedural pictures of any size, and photos."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from synth_data.colour import any_colour, colour_of_tone, luminance, shade
from synth_data.errors import UserError
from synth_data.factors import chance, count, shares, span
from synth_data.photos import open_photos, random_part

SUPERSAMPLE = 2  # drawn at twice the size and averaged, to antialias edges
DISTRACTOR_BLUR = (0.015, 0.05)  # standard deviation of an out-of-focus object's blur, in frame widths


@dataclass(frozen=True)
class BackgroundFactors:
    """Variation of a background."""

    kind: tuple = shares(
        gradient=0.6,
        cloud=0.6,
        marble=0.5,
        wood=0.6,
        grass=0.6,
        room=1.6,
        landscape=1.4,
        bokeh=0.8,
        clutter=1.6,
        tiles=1,
        plain=0.25,
        photo=0,
    )
    """kind of background; a photo keeps its own brightness, vignette and grain"""
    blur: tuple = span(0.0, 0.045, most=1)
    """standard deviation of the defocus, in frame widths"""
    sharp: float = chance(0.4)
    """whether there is no defocus"""
    similar: float = chance(0.2)
    """whether the main colour is taken from the subject"""
    brightness: tuple = span(0.04, 0.55, least=0.001, most=1, log=True)
    """mean luminance, in linear light"""
    vignette: tuple = span(0.0, 0.5, most=1)
    """darkening at the corners"""
    grain: tuple = span(0.0, 0.03, most=1)
    """standard deviation of pixel noise, relative to the local brightness"""
    distractors: tuple = count(0, 0, most=16)
    """number of out-of-focus objects of the recipe's families in the background"""


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x [1, size] and y [size, 1] in [-1, 1]; y points down."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    return line[None, :], line[:, None]


def _hat(position: np.ndarray, cells: int) -> np.ndarray:
    """Smoothed linear interpolation weights [len(position), cells + 1] at positions in [0, 1]."""
    t = np.clip(position, 0, 1) * cells
    i = np.minimum(t.astype(int), cells - 1)
    f = t - i
    f = f * f * (3 - 2 * f)
    weights = np.zeros((len(position), cells + 1))
    rows = np.arange(len(position))
    weights[rows, i] = 1 - f
    weights[rows, i + 1] = f
    return weights


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int], octaves: int, decay: float = 0.5) -> np.ndarray:
    """Value noise [size, size] in [0, 1]; its coarsest octave has `cells` (down, across), at any size."""
    line = (np.arange(size) + 0.5) / size
    total, weight, field = 0.0, 1.0, np.zeros((size, size))
    for _ in range(octaves):
        lattice = rng.random((cells[0] + 1, cells[1] + 1))
        field += weight * (_hat(line, cells[0]) @ lattice @ _hat(line, cells[1]).T)
        total, weight, cells = total + weight, weight * decay, (cells[0] * 2, cells[1] * 2)
    return field / total


def _between(a: np.ndarray, b: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Colours a, b ([3] or [H, W, 3]) mixed by [H, W]."""
    mixed = np.empty((*mix.shape, 3))
    for k in range(3):  # three times as fast as broadcasting over a last axis of three
        mixed[..., k] = a[..., k] + (b[..., k] - a[..., k]) * mix
    return mixed


def _turned(
    rng: np.random.Generator, size: int, least: float = -180, most: float = 180
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates u, v [size, size] in [-1.5, 1.5], turned by a random angle in degrees."""
    x, y = _axes(size)
    angle = np.deg2rad(rng.uniform(least, most))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _step(value: np.ndarray, edge: float | np.ndarray, width: float) -> np.ndarray:
    """0 below the edge, 1 above it, linear over `width`."""
    return np.clip((value - edge) / width + 0.5, 0, 1)


def _plain(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    return np.broadcast_to(main, (size, size, 3)) * (0.95 + 0.1 * _noise(rng, size, (2, 2), 2))[..., None]


def _gradient(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    other = any_colour(rng) if rng.random() < 0.6 else shade(rng, main, 1.0)
    u, v = _turned(rng, size)
    if rng.random() < 0.5:
        mix = np.clip(0.5 + rng.uniform(0.3, 1.0) * u, 0, 1)
    else:
        mix = np.clip(np.hypot(u - rng.uniform(-0.8, 0.8), v - rng.uniform(-0.8, 0.8)) / rng.uniform(0.8, 2), 0, 1)
    return _between(main, other, mix)


def _cloud(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    other = any_colour(rng) if rng.random() < 0.5 else shade(rng, main, 0.8)
    field = _noise(rng, size, (int(rng.integers(2, 9)), int(rng.integers(2, 9))), 5, rng.uniform(0.4, 0.75))
    return _between(main, other, _step(field, 0.5, rng.uniform(0.15, 0.7)))


def _marble(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    other = shade(rng, main, 1.3) if rng.random() < 0.7 else any_colour(rng)
    u, _ = _turned(rng, size)
    field = _noise(rng, size, (3, 3), 5, 0.55)
    veins = np.abs(np.sin(rng.uniform(2, 8) * u + rng.uniform(4, 14) * field)) ** rng.uniform(0.3, 1)
    return _between(other, main, veins)


def _wood(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """Planks with grain."""
    if rng.random() < 0.7:
        main = colour_of_tone(rng, "brown" if rng.random() < 0.6 else "tan")
    x, y = _axes(size)
    if rng.random() < 0.5:
        x, y = y, x
    x, y = np.broadcast_arrays(x, y)
    planks = int(rng.integers(1, 9))
    row = np.minimum(((y + 1) / 2 * planks).astype(int), planks - 1)
    tone = np.exp(0.25 * rng.normal(size=planks))[row]
    field = _noise(rng, size, (14, 3) if y.strides[0] else (3, 14), 4, 0.6)
    rings = 0.5 + 0.5 * np.sin(rng.uniform(6, 25) * field + rng.uniform(5, 20) * y + 3 * row)
    edge = np.abs((y + 1) / 2 * planks % 1 - 0.5) * 2
    seam = 1 - rng.uniform(0.2, 0.8) * _step(edge, 0.95, 0.08)
    return _between(main, main * rng.uniform(0.4, 0.75), rings) * (tone * seam)[..., None]


def _grass(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """Fine directed texture: grass, fur-like carpet, straw, bark."""
    if rng.random() < 0.5:
        main = np.array([0.09, 0.2, 0.03]) * np.exp(0.4 * rng.normal(size=3))
    long, fine = int(rng.integers(2, 8)), int(rng.integers(14, 40))
    field = _noise(rng, size, (long, fine) if rng.random() < 0.6 else (fine, long), 3, 0.7)
    patches = _noise(rng, size, (3, 3), 3)
    picture = _between(main * 0.35, main * 1.6, np.clip(2 * field - 0.5, 0, 1))
    return picture * (0.5 + patches)[..., None]


def _pattern(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A regular pattern over coordinates u, v [H, W], one unit a cell."""
    kind = int(rng.integers(5))
    if kind == 0:  # checker
        mix = ((np.floor(u) + np.floor(v)) % 2).astype(float)
    elif kind == 1:  # stripes
        mix = _step(np.abs(u % 1 - 0.5) * 2, rng.uniform(0.2, 0.8), 0.1)
    elif kind == 2:  # bricks
        row = np.floor(v)
        shift = u * 0.5 + 0.5 * (row % 2)
        joint = np.maximum(np.abs(shift % 1 - 0.5) * 2 - 0.08 * 0.5, np.abs(v % 1 - 0.5) * 2)
        jitter = np.sin(np.floor(shift) * 12.9898 + row * 78.233) * 43758.5453 % 1
        return _between(a, b, _step(joint, 0.88, 0.06)) * (0.75 + 0.5 * jitter)[..., None]
    elif kind == 3:  # dots
        mix = _step(-np.hypot(u % 1 - 0.5, v % 1 - 0.5), -rng.uniform(0.15, 0.45), 0.06)
    else:  # square tiles
        joint = np.maximum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)) * 2
        mix = _step(joint, rng.uniform(0.85, 0.95), 0.06)
    return _between(a, b, mix)


def _tiles(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    other = any_colour(rng) if rng.random() < 0.5 else shade(rng, main, 1.0)
    u, v = _turned(rng, size) if rng.random() < 0.5 else _turned(rng, size, -4, 4)
    cells = rng.uniform(1.5, 9)
    picture = _pattern(rng, u * cells + 31.3, v * cells + 17.7, main, other)
    return picture * (0.7 + 0.6 * _noise(rng, size, (3, 3), 3))[..., None]


def _room(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """One or two walls with objects on them, and a floor in perspective."""
    x, y = _axes(size)
    x, y = np.broadcast_arrays(x, y)
    corner, slope = rng.uniform(-1.6, 1.6), rng.uniform(0.0, 0.5)
    horizon = rng.uniform(-0.1, 0.9)
    foot = horizon + slope * np.abs(x - corner)
    side = _step(x, corner, 0.02)
    lit = np.exp(0.5 * rng.normal(size=2))
    wall = main * (lit[0] + (lit[1] - lit[0]) * side)[..., None]
    if rng.random() < 0.4:
        paper = _pattern(
            rng,
            x * rng.uniform(3, 9) + 31.3,
            y * rng.uniform(3, 9) + 17.7,
            np.ones(3),
            np.full(3, rng.uniform(0.5, 0.95)),
        )
        wall = wall * paper
    for _ in range(int(rng.integers(0, 4))):  # pictures, windows, doors, shelves
        cx, cy, w, h = (
            rng.uniform(-1, 1),
            rng.uniform(-1, 0.4),
            rng.uniform(0.08, 0.5),
            rng.uniform(0.08, 0.6),
        )
        inside = np.maximum(np.abs(x - cx) / w, np.abs(y - cy) / h)
        frame, inner = any_colour(rng), any_colour(rng) * (3 if rng.random() < 0.3 else 1)
        wall = _between(wall, frame, _step(-inside, -1.0, 0.05))
        wall = _between(
            wall, inner * (0.6 + 0.8 * _noise(rng, size, (2, 2), 3))[..., None], _step(-inside, -0.88, 0.05)
        )
    floor_colour = colour_of_tone(rng, ("brown", "tan", "grey", "white", "bright")[int(rng.integers(5))])
    depth = 1 / np.maximum(y - horizon + 0.25, 0.05)
    cells = rng.uniform(0.7, 2.5)
    angle = rng.uniform(-0.8, 0.8)
    across, along = (x - corner * 0.3) * depth * cells, depth * cells
    u, v = across * np.cos(angle) + along * np.sin(angle), along * np.cos(angle) - across * np.sin(angle)
    if rng.random() < 0.6:
        floor = _pattern(rng, u + 31.3, v + 57.7, floor_colour, shade(rng, floor_colour, 0.6))
    else:
        floor = floor_colour * (0.7 + 0.6 * _noise(rng, size, (12, 3), 3))[..., None]
    floor = floor * (0.55 + 0.45 * np.clip((y - foot) * 2, 0, 1))[..., None]
    picture = _between(wall, floor, _step(y, foot, 0.02))
    if rng.random() < 0.5:  # skirting board
        board = _step(y, foot - rng.uniform(0.03, 0.08), 0.015) * (1 - _step(y, foot, 0.015))
        picture = _between(picture, any_colour(rng), board)
    glow = np.exp(-((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2) / rng.uniform(0.4, 2))
    return picture * (0.5 + rng.uniform(0.3, 1.5) * glow)[..., None]


def _landscape(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """Sky, clouds, hills, trees and ground."""
    x, y = _axes(size)
    x, y = np.broadcast_arrays(x, y)
    horizon = rng.uniform(-0.5, 0.7)
    blue = np.array([0.15, 0.32, 0.7]) * np.exp(0.35 * rng.normal(size=3))
    haze = np.array([0.75, 0.75, 0.75]) * np.exp(0.3 * rng.normal() * np.array([1, 0.2, -0.8]))
    sky = _between(blue, haze, np.clip((y + 1) / (horizon + 1.01), 0, 1) ** rng.uniform(0.5, 2))
    sky = _between(sky, np.full(3, 0.85), _step(_noise(rng, size, (4, 2), 5, 0.6), rng.uniform(0.45, 0.8), 0.3))
    ground = np.array([0.12, 0.18, 0.05]) if rng.random() < 0.5 else main
    near = ground * (0.4 + 1.2 * _noise(rng, size, (int(rng.integers(4, 20)), 4), 4, 0.7))[..., None]
    line = _hat((np.arange(size) + 0.5) / size, 5)
    picture = sky
    for k in range(int(rng.integers(0, 4))):  # ridges, the far ones paler
        ridge = horizon - rng.uniform(0.02, 0.45) / (k + 1) * (line @ rng.random(6))[None]
        if rng.random() < 0.4:  # a rough edge: trees or roofs
            ridge = ridge - 0.12 * (_hat((np.arange(size) + 0.5) / size, 24) @ rng.random(25))[None]
        colour = haze * (0.6 - 0.18 * k) * 0.5 + shade(rng, ground, 0.5) * (0.4 + 0.18 * k)
        picture = _between(
            picture, colour * (0.8 + 0.4 * _noise(rng, size, (8, 8), 2))[..., None], _step(y, ridge, 0.02)
        )
    return _between(picture, near, _step(y, horizon + 0 * x, 0.03))


def _bokeh(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """Out-of-focus lights."""
    x, y = _axes(size)
    picture = _gradient(rng, size, main * 0.4)
    radius = rng.uniform(0.05, 0.28)
    palette = [any_colour(rng) for _ in range(3)] + [main]
    for _ in range(int(rng.integers(8, 36))):
        r = radius * rng.uniform(0.6, 1.3)
        disc = _step(-np.hypot(x - rng.uniform(-1.1, 1.1), y - rng.uniform(-1.1, 1.1)), -r, 0.04)
        picture = picture + palette[int(rng.integers(4))] * (rng.uniform(0.1, 0.9) * disc)[..., None]
    return picture


def _clutter(rng: np.random.Generator, size: int, main: np.ndarray) -> np.ndarray:
    """Many overlapping objects: ellipses, boxes and polygons, some of them shaded or patterned."""
    x, y = _axes(size)
    x, y = np.broadcast_arrays(x, y)
    picture = (_gradient, _cloud, _landscape, _room)[int(rng.integers(4))](rng, size, main)
    palette = [any_colour(rng) for _ in range(4)] + [main, shade(rng, main, 0.7)]
    scale = np.exp(rng.uniform(np.log(0.08), np.log(0.6)))
    number = int(np.clip(rng.uniform(0.6, 2.5) / scale, 3, 26))
    for _ in range(number):
        angle, w, h = rng.uniform(0, np.pi), scale * rng.uniform(0.4, 1.6), scale * rng.uniform(0.4, 1.6)
        dx, dy = x - rng.uniform(-1.1, 1.1), y - rng.uniform(-1.1, 1.1)
        u, v = (dx * np.cos(angle) + dy * np.sin(angle)) / w, (dy * np.cos(angle) - dx * np.sin(angle)) / h
        kind = int(rng.integers(3))
        if kind == 0:
            distance = np.hypot(u, v)
        elif kind == 1:
            distance = np.maximum(np.abs(u), np.abs(v))
        else:
            distance = np.maximum(np.maximum(v, 0.87 * u - 0.5 * v), -0.87 * u - 0.5 * v) * 1.4
        colour = shade(rng, palette[int(rng.integers(6))], 0.3)
        light = np.clip(1 + rng.uniform(-0.6, 0.6) * u + rng.uniform(-0.6, 0.6) * v, 0.1, 2)
        thing = colour * light[..., None]
        if rng.random() < 0.25:
            thing = _pattern(rng, 3 * u + 31, 3 * v + 17, np.ones(3), np.full(3, 0.4)) * thing
        picture = _between(picture, thing, _step(-distance, -1.0, 0.03 / scale))
    return picture


KINDS: dict[str, Callable[[np.random.Generator, int, np.ndarray], np.ndarray]] = {
    "gradient": _gradient,
    "cloud": _cloud,
    "marble": _marble,
    "wood": _wood,
    "grass": _grass,
    "room": _room,
    "landscape": _landscape,
    "bokeh": _bokeh,
    "clutter": _clutter,
    "tiles": _tiles,
    "plain": _plain,
}


def _procedural(rng: np.random.Generator, size: int, f: dict[str, Any], subject_colour: np.ndarray) -> np.ndarray:
    """One of KINDS with its defocus, vignette, brightness and grain: linear [size, size, 3]."""
    fine = size * SUPERSAMPLE
    main = any_colour(rng)
    if f["similar"]:
        main = shade(rng, np.clip(subject_colour, 0.005, 0.95), 0.15)
    picture = np.maximum(KINDS[f["kind"]](rng, fine, main), 0.0)
    picture = picture.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE, 3).mean((1, 3))
    sigma = f["blur"] * size
    if not f["sharp"] and sigma > 0.2:
        picture = defocused(picture.astype(np.float32), sigma)
    x, y = _axes(size)
    picture = picture * (1 - f["vignette"] * (x**2 + y**2) / 2)[..., None]
    level = f["brightness"] if not f["similar"] else float(np.clip(luminance(main), 0.02, 0.7))
    picture = picture * (level / max(float(luminance(picture).mean()), 1e-4))
    grain = rng.spawn(1)[0]  # a generator of its own, so that later draws from `rng` do not depend on the size
    return picture * (1 + f["grain"] * grain.normal(size=(size, size, 1)))


class Sources:
    """Photos and out-of-focus objects for backgrounds.

    Attributes:
        distractor: (rng, size) -> premultiplied linear colour float32 [size, size, 3], alpha float32 [size, size] of
            an object to be put out of focus; None if there are none.
    """

    def __init__(
        self,
        photos: Sequence[str] = (),
        distractor: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]] | None = None,
        left_out: Collection[str] = (),
    ):
        """Opens folders of pictures and Hub data sets (`owner/name`); no picture is read yet.

        A folder contributes every picture in it and its subfolders, sorted by path; one without pictures is read as a
        data set (parquet). Pictures named in `left_out` are not used. UserError for a folder or data set without
        photos.
        """
        self.distractor = distractor
        self._sets = [open_photos(place, left_out) for place in photos]
        self.number_of_photos = sum(map(len, self._sets))

    def photo(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A square crop of a photo, perhaps mirrored: linear light float32 [size, size, 3] in [0, 1].

        UserError if there are no photos or one cannot be read.
        """
        if not self.number_of_photos:
            raise UserError("a background of kind 'photo' needs photos; name a folder or a Hub data set in 'photos:'")
        at = int(rng.integers(self.number_of_photos))
        for pictures in self._sets:
            if at < len(pictures):
                break
            at -= len(pictures)
        return random_part(rng, *pictures[at], size)


def put_distractor(rng: np.random.Generator, picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """An object (premultiplied, linear) over a picture [H, H, 3] in linear light, blurred by DISTRACTOR_BLUR."""
    sigma = rng.uniform(*DISTRACTOR_BLUR) * len(picture)
    rgba = defocused(np.dstack([colour, alpha]).astype(np.float32), sigma)
    return rgba[..., :3] + (1 - rgba[..., 3:]) * picture


def defocused(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of float32 [H, W, C], `sigma` in pixels; from 4 on at a reduced size, for speed."""
    height, width = picture.shape[:2]
    shrink = max(1, int(sigma / 2))
    if shrink > 1:
        small = (-(-width // shrink), -(-height // shrink))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        sigma = np.sqrt((sigma / shrink) ** 2 - 0.25)  # resizing adds the rest of the blur
    picture = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    if shrink > 1:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture


def draw_background(
    rng: np.random.Generator,
    size: int,
    factors: dict[str, Any],
    subject_colour: np.ndarray,
    sources: Sources | None = None,
) -> np.ndarray:
    """A background from drawn `BackgroundFactors`: linear light float32 [size, size, 3] in [0, 1].

    `subject_colour` linear [3] is the subject's mean colour, used if the factor `similar` is set. `sources` provides
    photos and distractors; UserError if they are needed and there are none.
    """
    f, sources = factors, sources or Sources()
    if f["kind"] == "photo":
        picture = sources.photo(rng, size)
        if not f["sharp"] and f["blur"] * size > 0.2:
            picture = defocused(picture, f["blur"] * size)
    else:
        picture = _procedural(rng, size, f, subject_colour)
    for _ in range(f["distractors"]):
        if sources.distractor is None:
            raise UserError("background.distractors needs rendered objects, and there are none; set it to [0, 0]")
        picture = put_distractor(rng, picture, *sources.distractor(rng, size))
    return np.clip(picture, 0.0, 1.0).astype(np.float32)
