"""Pictures: a rendered foreground over backgrounds, in linear light, stored in sRGB."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from synth_data.backgrounds import draw_background
from synth_data.colour import linear_to_srgb, luminance
from synth_data.factors import draw, span
from synth_data.render import render_foreground
from synth_data.scene import PICTURE_STREAM, describe, stream
from synth_data.store import Pair

HIGHLIGHT = 1.5  # colour is held below this multiple of coverage, so that a thin highlight does not bleed
ADAPTATION = 0.6  # how far the camera follows the scene's brightness: 0 not at all, 1 every subject is mid-grey


@dataclass(frozen=True)
class ExposureFactors:
    """How bright the subject comes out."""

    key: tuple = span(0.12, 0.45, least=0.001, most=1)
    """the mean luminance that exposure aims for; dark subjects stay darker and light ones lighter"""
    stops: tuple = span(-0.5, 0.5, least=-8, most=8)
    """deviation from it, in stops"""


def expose(colour: np.ndarray, alpha: np.ndarray, key: float, stops: float) -> np.ndarray:
    """Premultiplied linear colour [H, W, 3] at another exposure, `stops` off the one that `key` asks for.

    `alpha` [H, W] in [0, 1]; highlights are held below HIGHLIGHT x alpha.
    """
    level = float(luminance(colour).sum() / max(float(alpha.sum()), 1e-6))
    gain = (key / max(level, 1e-4)) ** ADAPTATION * 2.0**stops
    return np.minimum(colour * np.float32(gain), HIGHLIGHT * alpha[..., None])


def composite(colour: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """I = C + (1 - alpha) B in linear light, as uint8 sRGB [H, W, 3].

    `colour` C premultiplied linear [H, W, 3], `alpha` [H, W] in [0, 1], `background` B linear [H, W, 3].
    """
    linear = colour + (1 - alpha[..., None]) * background
    return np.round(linear_to_srgb(linear) * 255).astype(np.uint8)


def make_pairs(recipe: Any, seed: int, foreground: int, indices: list[int], size: int) -> list[Pair]:
    """The samples `indices`, all of one foreground: each a pure function of (recipe, seed, index, size).

    `render.start` must have been called in this process.
    """
    scene = describe(recipe, seed, foreground)
    colour, alpha = render_foreground(scene, size, recipe.samples_per_pixel, recipe.max_depth, seed)
    alpha = np.round(alpha * 65535).astype(np.float32) / np.float32(65535)  # what the file will hold
    pairs = []
    for index in indices:
        rng = stream(seed, PICTURE_STREAM, index)
        exposure, background_factors = draw(rng, recipe.exposure), draw(rng, recipe.background)
        exposed = expose(colour, alpha, **exposure)
        mean_colour = exposed.sum((0, 1), dtype=np.float64) / max(float(alpha.sum()), 1e-6)
        background = draw_background(rng, size, background_factors, mean_colour)
        factors = {
            **scene.factors,
            "exposure": exposure,
            "background": background_factors,
            "coverage": round(float(alpha.mean(dtype=np.float64)), 6),
        }
        meta = {
            "seed": seed,
            "index": index,
            "recipe": recipe.name,
            "factors": json.dumps(factors, sort_keys=True),
        }
        pairs.append(Pair(composite(exposed, alpha, background), alpha, meta))
    return pairs
