"""Recipes: YAML files that say what to render. Every key is checked when a recipe is read."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from synth_data.backgrounds import BackgroundFactors, Sources
from synth_data.capture import CaptureFactors
from synth_data.compose import ExposureFactors
from synth_data.environments import find_environments
from synth_data.errors import MissingFile, UserError, one_line
from synth_data.factors import read_number, read_shares, read_table, unknown
from synth_data.recompose import RecomposeFactors
from synth_data.scene import ArrangementFactors, CameraFactors, LightFactors
from synth_data.store import COMPOSITING, TARGETS, read_licences
from synth_data.subjects import FAMILIES


@dataclass(frozen=True, eq=False)  # hashed by identity, so that it can be a cache key
class Recipe:
    """A checked recipe.

    Attributes:
        name: written into every sample's metadata.
        target: what is written beside picture and matte: nothing (alpha), a binary mask (mask), or class and instance
            ids (classes).
        compositing: disk writes finished pictures; on_the_fly writes foregrounds and backgrounds, which are
            recombined each time they are read (see recompose.py).
        samples_per_pixel: light paths per pixel (>= 1); coverage is a multiple of 1 / samples_per_pixel.
        max_depth: most segments of a light path (>= 2; 2 is direct light only).
        composites_per_foreground: samples that share one rendered foreground (>= 1); sample i uses foreground
            i // composites_per_foreground with a background and exposure of its own.
        refraction: largest mean displacement of what is seen through a subject, in frame widths; scenes above it are
            drawn again, since no matte can express displacement.
        families: (family, share) pairs.
        tables: family -> its table of factors.
        arrangement, camera, lights, background, exposure, capture, recompose: tables of factors.
        photos: folders of pictures, or Hub ids of data sets, for backgrounds of the kind `photo`.
        environments: folders of .hdr or .exr files, for skies of the kind `environment`.
        licences: where photos, environments and meshes come from: mappings of path, source, licence and perhaps author.
        text: the YAML as read, stored with the set.
        left_out: photos and environment files that are not used, because they cannot be read.
    """

    name: str
    target: str
    compositing: str
    samples_per_pixel: int
    max_depth: int
    composites_per_foreground: int
    refraction: float
    families: tuple[tuple[str, float], ...]
    tables: dict[str, Any]
    arrangement: ArrangementFactors
    camera: CameraFactors
    lights: LightFactors
    background: BackgroundFactors
    exposure: ExposureFactors
    capture: CaptureFactors
    recompose: RecomposeFactors
    photos: tuple[str, ...]
    environments: tuple[str, ...]
    licences: tuple[dict[str, str], ...]
    text: str
    left_out: frozenset[str] = frozenset()

    @cached_property
    def environment_files(self) -> list[str]:
        """Every environment file that can be used; UserError if a folder is missing or empty."""
        return [file for file in find_environments(self.environments) if file not in self.left_out]

    def uses_photos(self) -> bool:
        """Whether backgrounds, here or in recomposition, may be photos."""
        later = self.compositing == "on_the_fly" and self.recompose.photo > 0
        return later or share_of(self.background.kind, "photo") > 0

    def uses_environments(self) -> bool:
        """Whether an environment file may light a subject."""
        return share_of(self.lights.sky, "environment") > 0

    def inputs(self) -> list[str]:
        """Files, folders and Hub ids outside the recipe that its pictures depend on."""
        folders = [folder for table in self.tables.values() for folder, _ in getattr(table, "folder", ()) if folder]
        return [*self.photos, *self.environments, *folders]


def _names(value: Any, place: str) -> tuple[str, ...]:
    """A list of paths or names."""
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise UserError(f"{place}: {value!r} is not a list of names; give [FIRST, SECOND, ...]")
    return tuple(value)


def share_of(pairs: tuple[tuple[str, float], ...], name: str) -> float:
    """The share of `name` among (name, share) pairs; 0 if it is not there."""
    return dict(pairs).get(name, 0.0)


def _check(recipe: Recipe, place: str) -> None:
    """UserError if two keys contradict each other or something outside the recipe is missing."""
    for name, share in recipe.families:
        check = getattr(FAMILIES[name], "check", None)
        if share > 0 and check:
            check(recipe.tables[name], f"{place}: {name}")
    if recipe.compositing == "on_the_fly" and recipe.arrangement.in_scene > 0:
        raise UserError(
            f"{place}: arrangement.in_scene: {recipe.arrangement.in_scene:g} needs compositing: disk; a subject "
            "lit by its surroundings cannot be put in front of another background"
        )
    if recipe.compositing == "on_the_fly" and recipe.composites_per_foreground != 1:
        raise UserError(f"{place}: composites_per_foreground needs compositing: disk; leave it out with on_the_fly")
    later = recipe.compositing == "on_the_fly" and recipe.recompose.photo > 0
    for key, used in (
        ("background.kind.photo", share_of(recipe.background.kind, "photo") > 0),
        ("recompose.photo", later),
    ):
        if used and not recipe.photos:
            raise UserError(f"{place}: {key} has a share, but there are no photos; give photos: [FOLDER]")
    for photos in recipe.photos:
        if Path(photos).is_dir():
            Sources([photos])  # fails here, not in a worker, if a folder has no pictures
        elif photos.count("/") != 1:
            raise UserError(f"{place}: photos: no folder '{photos}'; give folders of pictures, or Hub ids OWNER/NAME")
    inputs = recipe.inputs()
    for entry in recipe.licences:
        if not any(entry["path"] == name or Path(name) in Path(entry["path"]).parents for name in inputs):
            raise UserError(
                f"{place}: licences: '{entry['path']}' is nothing that the recipe reads, nor within it (it reads: "
                f"{', '.join(inputs) or 'nothing'}); give a path as it stands there"
            )
    if recipe.uses_environments():
        if not recipe.environments:
            raise UserError(
                f"{place}: lights.sky.environment has a share, but there are no files; give environments: [FOLDER]"
            )
        recipe.environment_files  # noqa: B018  fails here, not in a worker, if a folder is missing or empty


def parse_recipe(text: str, place: str, left_out: Collection[str] = ()) -> Recipe:
    """A recipe from YAML `text`; `place` names it in errors. UserError if a key or a value is wrong.

    `left_out` names photos and environment files that are not used.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{place}: not valid YAML ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{place}: not a recipe; a recipe is a mapping with at least 'name' and 'families'")
    known = [f.name for f in fields(Recipe) if f.name not in ("tables", "text", "left_out")] + list(FAMILIES)
    for key in content:
        if key not in known:
            raise unknown(key, known, place)
    for key in ("name", "families"):
        if key not in content:
            raise UserError(f"{place}: key '{key}' is missing")
    if not isinstance(content["name"], str) or not content["name"]:
        raise UserError(f"{place}: name: {content['name']!r} is not a name; give a string")

    def whole(key: str, default: int, least: int) -> int:
        return read_number(content.get(key, default), f"{place}: {key}", least, 65536, whole=True)

    def table(key: str, kind: type) -> Any:
        return read_table(kind, content.get(key, {}), f"{place}: {key}")

    def choice(key: str, choices: tuple[str, ...]) -> str:
        value = content.get(key, choices[0])
        if value not in choices:
            raise UserError(f"{place}: {key}: {value!r} is not one of {', '.join(choices)}")
        return value

    recipe = Recipe(
        name=content["name"],
        target=choice("target", TARGETS),
        compositing=choice("compositing", COMPOSITING),
        samples_per_pixel=whole("samples_per_pixel", 64, 1),
        max_depth=whole("max_depth", 4, 2),
        composites_per_foreground=whole("composites_per_foreground", 1, 1),
        refraction=read_number(content.get("refraction", 0.1), f"{place}: refraction"),
        families=read_shares(content["families"], tuple(FAMILIES), f"{place}: families"),
        tables={name: table(name, family.Factors) for name, family in FAMILIES.items()},
        arrangement=table("arrangement", ArrangementFactors),
        camera=table("camera", CameraFactors),
        lights=table("lights", LightFactors),
        background=table("background", BackgroundFactors),
        exposure=table("exposure", ExposureFactors),
        capture=table("capture", CaptureFactors),
        recompose=table("recompose", RecomposeFactors),
        photos=_names(content.get("photos", []), f"{place}: photos"),
        environments=_names(content.get("environments", []), f"{place}: environments"),
        licences=read_licences(content.get("licences", []), f"{place}: licences"),
        text=text,
        left_out=frozenset(left_out),
    )
    _check(recipe, place)
    return recipe


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. MissingFile if there is none, UserError if it is not a valid recipe."""
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"--recipe: no file at '{path}'; shipped recipes are in configs/recipes/")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; give a YAML recipe") from error
    return parse_recipe(text, str(path))
