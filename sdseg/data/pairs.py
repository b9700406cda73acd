"""Pairs in a folder: found and read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdseg.errors import UserError, one_line
from sdseg.imaging import Encoded, ImageError, list_images, read_image
from sdseg.targets import Target

BLOCK = 4096


class DataError(UserError):
    """A data set cannot be used; one line that names the file and the remedy."""


@dataclass(frozen=True)
class PairFiles:
    """The two files of one pair, as paths or as encoded bytes."""

    name: str  # what logs and errors call the pair; in a folder, the image's path relative to it
    image: Path | Encoded
    alpha: Path | Encoded


def sampled_checksum(path: str | Path, size: int, offset: int = 0, blocks: int = 3) -> int:
    """A checksum of `blocks` blocks of BLOCK bytes, from the first to the last, of `size` bytes from `offset` on.

    A file that is rewritten with the same size nearly always differs at its end, where PNG and zlib keep checksums of
    all that stands before.
    """
    checksum = 0
    with open(path, "rb") as file:
        for number in range(blocks):
            file.seek(offset + max(0, size - BLOCK) * number // max(1, blocks - 1))
            checksum = zlib.crc32(file.read(min(BLOCK, size)), checksum)
    return checksum


def is_on_the_fly(directory: str | Path) -> bool:
    """Whether a folder holds foregrounds to be composited during training (see `synth_data.recompose`)."""
    record = Path(directory) / "render.json"
    try:
        return record.is_file() and json.loads(record.read_text("utf-8")).get("compositing") == "on_the_fly"
    except (ValueError, AttributeError) as error:
        raise DataError(f"{record} was not written by `sdseg render` ({one_line(error)}); render again") from error


def find_pairs(directory: str | Path, image_column: str = "image", alpha_column: str = "alpha") -> list[PairFiles]:
    """The pairs of a folder: those that `metadata.jsonl` lists, or else images/* with alpha/*.png.

    `metadata.jsonl` names the image in `file_name` and the file of any other column c in `c_file_name`. Without it, a
    column c is the folder c/, and the column image the folder images/.

    Raises:
        DataError: no such folder, no pairs, a missing file, or foregrounds to be composited during training.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"data folder {directory} does not exist; render one with `sdseg render`")
    if is_on_the_fly(directory):
        raise DataError(
            f"data folder {directory} was rendered with compositing: on_the_fly, which is for training only; render "
            "this data set with compositing: disk"
        )
    if (directory / "metadata.jsonl").is_file():
        pairs = list(_listed_pairs(directory, image_column, alpha_column))
    elif (images := directory / ("images" if image_column == "image" else image_column)).is_dir():
        pairs = [
            PairFiles(str(image.relative_to(directory)), image, directory / alpha_column / f"{image.stem}.png")
            for image in list_images(images)
        ]
    else:
        raise DataError(
            f"data folder {directory} has neither metadata.jsonl nor {images.name}/ with {alpha_column}/ beside it, "
            "nor tar or parquet files; add one of them, or name another folder"
        )
    if not pairs:
        raise DataError(f"data folder {directory} holds no pairs; add some, or name another folder")
    for pair in pairs:
        for kind, path in (("image", pair.image), ("alpha", pair.alpha)):
            if not path.is_file():
                raise DataError(f"{kind} of {pair.name} is missing: no file {path}; add it or remove the pair")
    return pairs


def _listed_pairs(directory: Path, image_column: str, alpha_column: str) -> Iterator[PairFiles]:
    keys = [f"{column}_file_name" if column != "image" else "file_name" for column in (image_column, alpha_column)]
    with open(directory / "metadata.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name, alpha = (row[key] for key in keys)
                yield PairFiles(name, directory / name, directory / alpha)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{directory / 'metadata.jsonl'} line {number}: every line is a JSON object with {keys[0]} "
                    f"and {keys[1]} ({error!r}); add them, or set image_column and alpha_column"
                ) from error


def read_pair(pair: PairFiles, target: Target = Target()) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008
    """Image uint8 [H, W, 3] sRGB and ground truth [H, W] of one pair, the latter as `Target.read` returns it.

    Raises:
        DataError: one of them cannot be read, or their sizes differ.
    """
    try:
        image, truth = read_image(pair.image), target.read(pair.alpha)
    except ImageError as error:
        raise DataError(str(error)) from error
    if image.shape[:2] != truth.shape:
        raise DataError(
            f"{pair.name} is {image.shape[1]}x{image.shape[0]} but its alpha {pair.alpha} is "
            f"{truth.shape[1]}x{truth.shape[0]}; both must have the same size"
        )
    return image, truth
