"""Recombines rendered foregrounds: new positions, backgrounds, exposures and camera effects each time.

For sets rendered with `compositing: on_the_fly`. Everything happens in linear light on premultiplied colour, so that
the result is a picture and its exact matte.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synth_data.backgrounds import Sources, defocused, put_distractor
from synth_data.capture import CaptureFactors, capture, recorded_alpha
from synth_data.compose import ExposureFactors, composite, expose
from synth_data.errors import UserError
from synth_data.factors import chance, count, draw, read_table, span
from synth_data.photos import LINEAR
from synth_data.store import (
    Pair,
    alpha_levels,
    alpha_of,
    meta_of,
    read_foreground,
    read_metadata,
    read_png,
    read_recipe,
    read_settings,
)

# Ranges for a further foreground: in front of or behind the first, or an out-of-focus distractor.
FURTHER_SCALE = (0.45, 1.0)
FURTHER_SHIFT = (-0.4, 0.4)
ID_REACH = 5  # pixels; filtering widens a subject by less than half of this


@dataclass(frozen=True)
class RecomposeFactors:
    """Variation in recomposition; the defaults keep the foreground as it was rendered.

    A subject that is cut at one side of the frame stays cut there: shift, scale and rotation are limited to that.
    """

    flip: float = chance(0.0)
    """whether the foreground is mirrored"""
    scale: tuple = span(1.0, 1.0, least=0.1, most=4)
    """factor by which the foreground is enlarged"""
    shift_x: tuple = span(0.0, 0.0, least=-1, most=1)
    """how far it is moved to the right, in frame widths"""
    shift_y: tuple = span(0.0, 0.0, least=-1, most=1)
    """how far it is moved upwards, in frame widths"""
    rotate: tuple = span(0.0, 0.0, least=-180, most=180)
    """degrees by which it is rotated, anticlockwise"""
    second: float = chance(0.0)
    """whether another foreground, which belongs to the matte, is added in front of it or behind it"""
    distractors: tuple = count(0, 0, most=8)
    """number of other foregrounds in the background, out of focus"""
    own: float = chance(0.0)
    """whether the background is the one stored with the foreground, which may have lit it"""
    photo: float = chance(0.0)
    """whether another background is a photo; otherwise it is another sample's"""
    background_flip: float = chance(0.0)
    """whether the background is mirrored"""
    background_crop: tuple = span(1.0, 1.0, least=0.05, most=1)
    """side of the part of a stored background that fills the frame, as a share of the background's"""
    background_sharp: float = chance(1.0)
    """whether there is no further defocus of the background"""
    background_blur: tuple = span(0.0, 0.0, most=1)
    """standard deviation of that defocus, in frame widths"""
    background_stops: tuple = span(0.0, 0.0, least=-8, most=8)
    """change of the background's exposure, in stops"""


def placement(rgba: np.ndarray, size: int, factors: dict[str, Any]) -> np.ndarray:
    """The map from the frame to a foreground's pixels: float64 [2, 3], (column, row, 1) -> (column, row).

    Sides of `rgba` [H, H, 4] that are not all zero cut the subject; there the frame stays within the foreground.
    `factors`: flip, scale, shift_x, shift_y and rotate of `RecomposeFactors`.
    """
    f, whole = factors, len(rgba)
    left, right, top, bottom = (bool(side.any()) for side in (rgba[:, 0], rgba[:, -1], rgba[0], rgba[-1]))
    mirror = -1 if f["flip"] else 1
    cos, sin = np.cos(np.deg2rad(f["rotate"])), np.sin(np.deg2rad(f["rotate"])) * mirror
    along, down = np.array([cos, sin]) * mirror, np.array([-sin, cos])  # the frame's axes
    spread = abs(cos) + abs(sin)  # width of a rotated square relative to its side
    side = whole / f["scale"]
    if (left and right) or (top and bottom):
        side = min(side, whole / spread)
    half = side * spread / 2
    x, y = whole / 2 - side * (f["shift_x"] * along - f["shift_y"] * down)  # the frame's middle
    x = min(max(x, half if left else x), whole - half if right else np.inf)
    y = min(max(y, half if top else y), whole - half if bottom else np.inf)
    step = side / size
    corner = np.array([x, y]) - 0.5 - (along + down) * step * (size - 1) / 2
    return np.stack([along * step, down * step, corner], 1)


@dataclass(frozen=True)
class Placed:
    """A foreground in the frame.

    Attributes:
        colour: float32 [H, H, 3], premultiplied linear.
        alpha: float32 [H, H] in [0, 1].
        ids: uint8 [H, H], reaching a little beyond the subjects.
        factors: those that it was rendered with.
    """

    colour: np.ndarray
    alpha: np.ndarray
    ids: np.ndarray
    factors: dict[str, Any]


def warped(
    rgba: np.ndarray, instances: np.ndarray, size: int, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A foreground resampled to a frame: colour float32 [size, size, 3], alpha [size, size], ids uint8 [size, size].

    `where` is the map of `placement`. Premultiplied colour and coverage share one filter, which has no negative lobes.
    The ids are dilated a little, so that there is one wherever there is coverage.
    """
    if len(rgba) != size or not np.array_equal(where, np.eye(2, 3)):
        shrink = float(np.hypot(*where[:, 0]))  # foreground pixels per frame pixel
        if shrink > 1.02:
            sigma = 0.5 * np.sqrt(shrink**2 - 1)
            rgba = cv2.GaussianBlur(rgba, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        rgba, instances = (
            cv2.warpAffine(layer, where, (size, size), flags=by | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
            for layer, by in ((rgba, cv2.INTER_LINEAR), (instances, cv2.INTER_NEAREST))
        )
    reaching = cv2.dilate(instances, np.ones((ID_REACH, ID_REACH), np.uint8))
    cv2.copyTo(instances, instances, reaching)  # undilated ids take precedence
    return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.clip(rgba[..., 3], 0.0, 1.0), reaching


def stacked(front: Placed, behind: Placed) -> Placed:
    """One foreground over another, both part of the matte; a pixel has the id of the one with the larger share."""
    past = 1 - front.alpha
    seen = past * behind.alpha
    instances = front.factors["instances"]
    further = [record | {"id": record["id"] + len(instances)} for record in behind.factors["instances"]]
    counted_on = np.where(behind.ids > 0, behind.ids + np.uint8(len(instances)), np.uint8(0))
    return Placed(
        front.colour + cv2.merge([past] * 3) * behind.colour,
        front.alpha + seen,
        np.where(front.alpha >= seen, front.ids, counted_on),
        {"instances": instances + further},
    )


class Recomposer:
    """An endless source of pairs from a folder rendered with `compositing: on_the_fly`."""

    def __init__(self, folder: str | Path, photos: Sequence[str] | None = None, size: int | None = None):
        """Reads the folder's index and recipe, but no picture yet.

        Args:
            photos: folders and Hub data sets; the recipe's if None. Opened only if the recipe's `recompose.photo` is
                above 0.
            size: side of the pictures in pixels; the rendered size if None.

        Raises:
            MissingFile: there is no such set, or it lacks its list or its recipe.
            UserError: it was composited on disk, lost samples or is damaged, or photos are needed and there are none.
        """
        self.folder = Path(folder)
        settings = read_settings(self.folder)
        if settings["compositing"] != "on_the_fly":
            raise UserError(
                f"'{folder}' was composited on disk and cannot be recombined; use its pairs, or render with "
                "compositing: on_the_fly"
            )
        self.size = settings["size"] if size is None else size
        self.rows = [row for _, row in sorted(read_metadata(self.folder, whole=True).items())]
        if not self.rows:
            raise UserError(f"'{folder}' holds no finished sample; render some with `sdseg render`")
        place = self.folder / "recipe.yaml"
        _, recipe = read_recipe(self.folder)
        self.exposure = read_table(ExposureFactors, recipe.get("exposure", {}), f"{place}: exposure")
        self.capture = read_table(CaptureFactors, recipe.get("capture", {}), f"{place}: capture")
        self.factors = read_table(RecomposeFactors, recipe.get("recompose", {}), f"{place}: recompose")
        if photos is None:
            photos = recipe.get("photos", [])
            if not isinstance(photos, list) or not all(isinstance(name, str) for name in photos):
                raise UserError(f"{place}: photos: {photos!r} is not a list of names; give [FIRST, SECOND, ...]")
        elif photos and self.factors.photo == 0:
            raise UserError(f"{place}: recompose.photo is 0, so photos would never be used; set it above 0")
        self.sources = Sources(photos if self.factors.photo > 0 else ())
        if self.factors.photo > 0 and not self.sources.number_of_photos:
            raise UserError(f"{place}: recompose.photo is {self.factors.photo:g}, but there are no photos; name some")

    def __len__(self) -> int:
        """The number of foregrounds."""
        return len(self.rows)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """Foreground `index` (0 <= index < len) in a picture whose randomness comes from `rng` alone.

        Alpha is rounded to 16 bits, as on disk. UserError for a damaged file.
        """
        f = draw(rng, self.factors)
        exposure, captured = draw(rng, self.exposure), draw(rng, self.capture)
        placed = self._foreground(index, f, exposure)
        factors = placed.factors
        if f["second"] and len(self.rows) > 1:
            f["further"] = self._further(index, rng)
            other = self._foreground(f["further"]["index"], f["further"], exposure)
            placed = stacked(other, placed) if f["further"]["in_front"] else stacked(placed, other)
        background = self._background(index, f, exposure, rng)
        image = capture(composite(placed.colour, placed.alpha, background), captured, rng)
        alpha = recorded_alpha(placed.alpha, captured)
        coverage = round(float(alpha.mean(dtype=np.float64)), 6)
        alpha = alpha_of(alpha_levels(alpha))
        ids = placed.ids * (alpha >= 0.5)
        records = placed.factors["instances"]
        classes = np.zeros(256, np.uint8)
        for record in records:
            classes[record["id"]] = record["class"]
        factors = factors | {"instances": records, "recompose": f, "exposure": exposure, "capture": captured}
        factors["coverage"] = coverage
        meta = meta_of(self.rows[index]) | {"factors": json.dumps(factors, sort_keys=True)}
        return Pair(image, alpha, meta, ids, cv2.LUT(ids, classes))

    def _further(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The index of a foreground other than `index`, and its placement."""
        return draw(rng, self.factors) | {
            "index": (index + int(rng.integers(1, len(self.rows)))) % len(self.rows),
            "scale": rng.uniform(*FURTHER_SCALE),
            "shift_x": rng.uniform(*FURTHER_SHIFT),
            "shift_y": rng.uniform(*FURTHER_SHIFT),
            "in_front": bool(rng.random() < 0.5),
        }

    def _foreground(self, index: int, f: dict[str, Any], exposure: dict[str, float]) -> Placed:
        """Foreground `index`, placed by `f` and exposed."""
        row = self.rows[index]
        colour, alpha, instances = read_foreground(self.folder / row["file_name"])
        rgba = np.empty((*alpha.shape, 4), np.float32)
        for k in range(3):
            rgba[..., k] = colour[..., k]
        rgba[..., 3] = alpha
        factors = json.loads(row["factors"])
        for key in ("instances", "transmissive"):
            if key not in factors:
                place = self.folder / "metadata.jsonl"
                raise UserError(f"{place}: sample {row['index']}'s factors lack '{key}'; render again")
        colour, alpha, ids = warped(rgba, instances, self.size, placement(rgba, self.size, f))
        return Placed(expose(colour, alpha, **exposure, clear=factors["transmissive"]), alpha, ids, factors)

    def _background(
        self, index: int, f: dict[str, Any], exposure: dict[str, float], rng: np.random.Generator
    ) -> np.ndarray:
        """The background in linear light, float32 [size, size, 3]; adds the index drawn to `f`."""
        size = self.size
        if f["photo"] and not f["own"]:
            picture = self.sources.photo(rng, size)
        else:
            f["background_index"] = index if f["own"] else int(rng.integers(len(self.rows)))
            picture = self._stored(self.rows[f["background_index"]], f["background_crop"], *rng.random(2))
        if f["background_flip"]:
            picture = cv2.flip(picture, 1)
        if not f["background_sharp"] and f["background_blur"] * size > 0.2:
            picture = defocused(picture, f["background_blur"] * size)
        if f["background_stops"]:
            picture = picture * np.float32(2.0 ** f["background_stops"])
        for _ in range(f["distractors"] if len(self.rows) > 1 else 0):
            further = self._further(index, rng)
            placed = self._foreground(further["index"], further, exposure)
            picture = put_distractor(rng, picture, placed.colour, placed.alpha)
        return picture

    def _stored(self, row: dict[str, Any], crop: float, left: float, top: float) -> np.ndarray:
        """A crop of a stored background in linear light: float32 [size, size, 3]."""
        pixels = read_png(self.folder / row["background_file_name"], "RGB")
        side = max(1, round(crop * len(pixels)))
        y, x = round(top * (len(pixels) - side)), round(left * (len(pixels) - side))
        part = cv2.LUT(np.ascontiguousarray(pixels[y : y + side, x : x + side]), LINEAR)
        if side == self.size:
            return part
        filtered = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
        return cv2.resize(part, (self.size, self.size), interpolation=filtered)
