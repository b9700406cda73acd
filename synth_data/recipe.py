"""Recipes: a YAML file that says what is rendered. Every key is checked when it is read."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from synth_data.backgrounds import BackgroundFactors
from synth_data.compose import ExposureFactors
from synth_data.factors import read_number, read_shares, read_table, unknown
from synth_data.scene import CameraFactors, LightFactors
from synth_data.subjects import FAMILIES


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        name: written into every sample's metadata.
        samples_per_pixel: light paths a pixel (>= 1); coverage comes in steps of one over it.
        max_depth: segments of a light path (>= 2; 2 is direct light only).
        composites_per_foreground: samples that share one rendered foreground (>= 1); sample i uses foreground
            i // composites_per_foreground under its own background and exposure.
        families: (family, share) pairs.
        tables: family -> its table of ranges.
        camera, lights, background, exposure: tables of ranges.
        text: the YAML as read, for re-rendering.
    """

    name: str
    samples_per_pixel: int
    max_depth: int
    composites_per_foreground: int
    families: tuple[tuple[str, float], ...]
    tables: dict[str, Any]
    camera: CameraFactors
    lights: LightFactors
    background: BackgroundFactors
    exposure: ExposureFactors
    text: str


def parse_recipe(text: str, place: str) -> Recipe:
    """A recipe from YAML `text`; `place` names it in errors. ValueError names key, value and remedy."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place}: not a recipe; a recipe is a mapping with at least 'name' and 'families'")
    known = [f.name for f in fields(Recipe) if f.name not in ("tables", "text")] + list(FAMILIES)
    for key in content:
        if key not in known:
            raise unknown(key, known, place)
    for key in ("name", "families"):
        if key not in content:
            raise ValueError(f"{place}: key '{key}' is missing")
    if not isinstance(content["name"], str) or not content["name"]:
        raise ValueError(f"{place}: name: {content['name']!r} is not a word")

    def whole(key: str, default: int, least: int) -> int:
        return read_number(content.get(key, default), f"{place}: {key}", least, 65536, whole=True)

    def table(key: str, kind: type) -> Any:
        return read_table(kind, content.get(key, {}), f"{place}: {key}")

    return Recipe(
        name=content["name"],
        samples_per_pixel=whole("samples_per_pixel", 64, 1),
        max_depth=whole("max_depth", 4, 2),
        composites_per_foreground=whole("composites_per_foreground", 1, 1),
        families=read_shares(content["families"], tuple(FAMILIES), f"{place}: families"),
        tables={name: table(name, family.Factors) for name, family in FAMILIES.items()},
        camera=table("camera", CameraFactors),
        lights=table("lights", LightFactors),
        background=table("background", BackgroundFactors),
        exposure=table("exposure", ExposureFactors),
        text=text,
    )


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. FileNotFoundError or ValueError with one line that names the trouble."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--recipe: no file at '{path}'; shipped recipes are in configs/recipes/")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file; give a YAML recipe") from error
    return parse_recipe(text, str(path))
