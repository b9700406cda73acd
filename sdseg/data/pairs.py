"""Pairs as they lie on disk: found, read, compared with another folder's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdseg.imaging import ImageError, list_images, read_alpha, read_image

# keys of a recipe that say nothing about which subjects are seen, from where and in what light
BESIDE_THE_FOREGROUND = {
    "name", "target", "compositing", "composites_per_foreground", "samples_per_pixel", "max_depth", "background",
    "exposure", "capture", "recompose", "photos",
}  # fmt: skip


class DataError(ValueError):
    """A data set that cannot be trained on; one line that names the file and the remedy."""


@dataclass(frozen=True)
class PairFiles:
    """Where one pair lies."""

    name: str  # the image's path below the data folder, as logs and errors name the sample
    image: Path
    alpha: Path


def is_on_the_fly(directory: str | Path) -> bool:
    """Whether a folder holds foregrounds to be recombined in training (see `synth_data.recompose`)."""
    record = Path(directory) / "render.json"
    try:
        return record.is_file() and json.loads(record.read_text("utf-8")).get("compositing") == "on_the_fly"
    except (ValueError, AttributeError) as error:
        raise DataError(f"{record} is not what `python -m synth_data render` writes ({error}); render again") from error


def find_pairs(directory: str | Path) -> list[PairFiles]:
    """The pairs of a folder: by `metadata.jsonl` (`file_name`, `alpha_file_name`), else images/* with alpha/*.png.

    Raises:
        DataError: no such folder, no pairs, an image without its alpha, or foregrounds to be recombined.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"data folder {directory} does not exist; render one with `python -m synth_data render`")
    if is_on_the_fly(directory):
        raise DataError(
            f"data folder {directory} was rendered with compositing: on_the_fly, which is for training; give pairs "
            "that stay the same here, rendered with compositing: disk"
        )
    if (directory / "metadata.jsonl").is_file():
        pairs = list(_listed_pairs(directory))
    elif (directory / "images").is_dir():
        pairs = [
            PairFiles(str(image.relative_to(directory)), image, directory / "alpha" / f"{image.stem}.png")
            for image in list_images(directory / "images")
        ]
    else:
        raise DataError(f"data folder {directory} has neither metadata.jsonl nor images/ with alpha/ beside it")
    if not pairs:
        raise DataError(f"data folder {directory} holds no pairs")
    for pair in pairs:
        for kind, path in (("image", pair.image), ("alpha", pair.alpha)):
            if not path.is_file():
                raise DataError(f"{kind} of {pair.name} is missing: no file {path}; add it or remove the pair")
    return pairs


def _listed_pairs(directory: Path) -> Iterator[PairFiles]:
    with open(directory / "metadata.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name, alpha = row["file_name"], row["alpha_file_name"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{directory / 'metadata.jsonl'} line {number}: every line is a JSON object with file_name "
                    f"and alpha_file_name ({error!r})"
                ) from error
            yield PairFiles(name, directory / name, directory / alpha)


def shared_foreground(one: str | Path, other: str | Path) -> int | None:
    """The lowest number of a foreground that two rendered folders both show; None where they share none.

    One seed, one recipe (apart from `BESIDE_THE_FOREGROUND`) and one number make one foreground, whatever its
    background, file name, picture size or noise. Folders without the records of `python -m synth_data render` share
    none.

    Raises:
        ValueError: a record that cannot be read.
    """
    origin = _origin(Path(one))
    if origin is None or origin != _origin(Path(other)):
        return None
    return min(_foregrounds(Path(one)) & _foregrounds(Path(other)), default=None)


def _origin(directory: Path) -> tuple[int, dict] | None:
    """Seed and recipe of a rendered folder's foregrounds; None where they are not recorded."""
    import yaml

    from synth_data.store import read_settings

    if not all((directory / name).is_file() for name in ("render.json", "recipe.yaml", "metadata.jsonl")):
        return None
    settings = read_settings(directory)
    try:
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text("utf-8"))
        kept = {key: value for key, value in recipe.items() if key not in BESIDE_THE_FOREGROUND}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{directory / 'recipe.yaml'} is not the recipe that `python -m synth_data render` wrote ({error!r}); "
            "render again"
        ) from error
    return (settings["seed"], kept) if "seed" in settings else None


def _foregrounds(directory: Path) -> set[int]:
    """The numbers of a rendered folder's foregrounds, as its samples record them."""
    from synth_data.store import read_rows

    recorded = (json.loads(row["factors"]) for _, row in read_rows(directory) if row is not None)
    return {factors["foreground"] for factors in recorded if "foreground" in factors}


def read_pair(pair: PairFiles) -> tuple[np.ndarray, np.ndarray]:
    """One pair as uint8 [H, W, 3] sRGB and float32 [H, W] in [0, 1]; DataError where it cannot be read."""
    try:
        image, alpha = read_image(pair.image), read_alpha(pair.alpha)
    except ImageError as error:
        raise DataError(str(error)) from error
    if image.shape[:2] != alpha.shape:
        raise DataError(
            f"{pair.name} is {image.shape[1]}x{image.shape[0]} but its alpha {pair.alpha} is "
            f"{alpha.shape[1]}x{alpha.shape[0]}; both must have one size"
        )
    return image, alpha
