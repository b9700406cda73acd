"""What wires and lattices share: the finish of rods, and circles to bend them to."""

from typing import Any

import numpy as np

from synth_data.colour import colour_of_tone, srgb_to_linear
from synth_data.subjects.meshes import waves

METALS = {
    "steel": (0.56, 0.57, 0.58),
    "chrome": (0.77, 0.78, 0.78),
    "brass": (0.86, 0.69, 0.35),
    "copper": (0.93, 0.62, 0.48),
    "gold": (0.98, 0.77, 0.34),
}


def finish(rng: np.random.Generator, kind: str, tone: str, roughness: float) -> dict[str, Any]:
    """A material for rods and wires: one of METALS, `painted`, `rust` or `matt` (the last three use `tone`)."""
    if kind in METALS:
        colour = np.clip(np.array(METALS[kind]) * np.exp(0.08 * rng.normal(size=3)), 0.05, 0.97)
        return {"kind": "metal", "colour": colour, "roughness": min(roughness, 0.12) if kind == "chrome" else roughness}
    if kind == "rust":
        v, u = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64), indexing="ij")
        patch = waves(rng, np.stack([u, v, 0 * u], -1), 14, terms=16)[..., None]
        dark, light = srgb_to_linear(np.array([[0.30, 0.16, 0.10], [0.62, 0.34, 0.17]]))
        grain = np.exp(0.25 * rng.normal(size=(64, 64, 1)))
        mix = 1 / (1 + np.exp(-3 * patch))
        return {"kind": "diffuse", "colour": np.clip((dark * mix + light * (1 - mix)) * grain, 0.004, 0.9)}
    colour = colour_of_tone(rng, tone)
    if kind == "painted":
        return {"kind": "plastic", "colour": colour, "roughness": roughness}
    return {"kind": "diffuse", "colour": colour}


def circle(number: int, radius: float | np.ndarray = 1.0, height: float | np.ndarray = 0.0) -> np.ndarray:
    """A closed circle [number, 3] about z."""
    a = np.linspace(0, 2 * np.pi, number, endpoint=False)
    return np.stack([radius * np.cos(a), radius * np.sin(a), height + 0 * a], 1)
