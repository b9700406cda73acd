"""Colour: sRGB and linear light, luminance, and random colours of a named tone."""

import colorsys

import numpy as np

from synth_data.errors import UserError

TONES = ("black", "white", "grey", "brown", "tan", "bright", "pastel")


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light [0, 1] -> sRGB [0, 1] (IEC 61966-2-1), any shape; values outside are clipped."""
    x = np.clip(linear, 0.0, 1.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-12) ** (1 / 2.4) - 0.055)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB [0, 1] -> linear light [0, 1] (IEC 61966-2-1), any shape."""
    x = np.asarray(srgb)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


LEVELS = srgb_to_linear(np.arange(256) / 255)  # linear light of each 8-bit sRGB value


def luminance(linear: np.ndarray) -> np.ndarray:
    """Rec. 709 luminance of linear [..., 3] -> [...]."""
    return linear @ np.array([0.2126, 0.7152, 0.0722], dtype=linear.dtype)


def colour_of_tone(rng: np.random.Generator, tone: str) -> np.ndarray:
    """A random linear reflectance [3] of one of TONES."""
    hue, u, v = rng.random(3)
    if tone == "black":
        srgb = colorsys.hsv_to_rgb(hue, 0.3 * u, 0.06 + 0.16 * v)
    elif tone == "white":
        srgb = colorsys.hsv_to_rgb(0.02 + 0.14 * hue, 0.12 * u, 0.86 + 0.12 * v)
    elif tone == "grey":
        srgb = colorsys.hsv_to_rgb(hue, 0.12 * u, 0.25 + 0.55 * v)
    elif tone == "brown":
        srgb = colorsys.hsv_to_rgb(0.03 + 0.07 * hue, 0.35 + 0.4 * u, 0.22 + 0.35 * v)
    elif tone == "tan":
        srgb = colorsys.hsv_to_rgb(0.04 + 0.08 * hue, 0.3 + 0.45 * u, 0.6 + 0.32 * v)
    elif tone == "bright":
        srgb = colorsys.hsv_to_rgb(hue, 0.6 + 0.4 * u, 0.5 + 0.48 * v)
    elif tone == "pastel":
        srgb = colorsys.hsv_to_rgb(hue, 0.15 + 0.35 * u, 0.65 + 0.3 * v)
    else:
        raise UserError(f"unknown tone '{tone}'; known: {', '.join(TONES)}")
    return srgb_to_linear(np.array(srgb))


def any_colour(rng: np.random.Generator) -> np.ndarray:
    """A random linear reflectance [3] of a random tone."""
    return colour_of_tone(rng, TONES[int(rng.integers(len(TONES)))])


def shade(rng: np.random.Generator, colour: np.ndarray, amount: float) -> np.ndarray:
    """`colour` [3] made lighter or darker and slightly shifted in hue, by about `amount` (0 leaves it unchanged)."""
    return np.clip(colour * np.exp(amount * (0.8 * rng.normal() + 0.25 * rng.normal(size=3))), 0.002, 0.95)
