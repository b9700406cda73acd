"""Pairs in a folder: found and read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np

from sdseg.errors import UserError, did_you_mean, one_line
from sdseg.imaging import EXTENSIONS, Encoded, ImageError, Listing, find_files, find_images, read_image
from sdseg.outputs import photo_error
from sdseg.targets import Target

BLOCK = 4096
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # as `datasets` names them
OWN_COLUMNS = {
    "", "__key__", "__url__", "alpha", "background", "classes", "factors", "image", "index", "instances", "json",
    "mask", "recipe", "seed",
}  # fmt: skip


class DataError(UserError):
    """A data set cannot be used; one line that names the file and the remedy."""


class PairError(DataError):
    """One pair of a data set cannot be used."""


@dataclass(frozen=True)
class PairFiles:
    """The two files of one pair, as paths or as encoded bytes."""

    name: str  # what logs and errors call the pair; in a folder, the image's path relative to it
    image: Path | Encoded
    alpha: Path | Encoded
    fault: str | None = None  # why they are no pair, as far as it shows without reading them


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


@dataclass(frozen=True)
class Found:
    """The pairs of a folder, in order, and what was passed over there, a line each."""

    pairs: list[PairFiles]
    notes: list[str]


def find_pairs(directory: str | Path, image_column: str = "image", alpha_column: str = "alpha") -> list[PairFiles]:
    """The pairs of `look_for_pairs`, all of whose files are there.

    Raises:
        DataError: as `look_for_pairs`; a missing file.
    """
    pairs = look_for_pairs(directory, image_column, alpha_column).pairs
    for pair in pairs:
        if pair.fault:
            raise DataError(pair.fault)
    return pairs


def look_for_pairs(
    directory: str | Path, image_column: str = "image", alpha_column: str = "alpha", split: str = "train"
) -> Found:
    """The pairs of a folder: those that its metadata files list, or else images/* with alpha/*.

    Metadata name the image in `file_name` and the file of any other column c in `c_file_name`; see `metadata_files`.
    Without them, a column c is the folder c/, and the column image the folder images/; see `_matched`. A pair whose
    files are not both there, or could be others, has a `fault`.

    Raises:
        DataError: no such folder, no pairs, or foregrounds to be composited during training.
    """
    directory = Path(directory)
    if not directory.is_dir():
        if directory.exists():
            raise DataError(f"data folder {directory} is a file; name its folder")
        raise DataError(f"data folder {directory} does not exist; render one with `sdseg render`")
    if is_on_the_fly(directory):
        raise DataError(
            f"data folder {directory} was rendered with compositing: on_the_fly, which is for training only; render "
            "this data set with compositing: disk"
        )
    images, mattes = column_folder(directory, image_column), directory / alpha_column
    if not any((directory / name).is_file() for name in METADATA) and images.is_dir() and mattes.is_dir():
        return _matched(directory, images, mattes)
    if files := metadata_files(directory, split):
        found = _listed(directory, files, image_column, alpha_column)
    else:
        raise DataError(
            f"data folder {directory} has neither {' nor '.join(METADATA)}, nor {images.name}/ with {alpha_column}/ "
            "beside it, nor tar or parquet files; add one of them, or name another folder"
        )
    if not found.pairs:
        raise DataError(f"data folder {directory} holds no pairs; add some, or name another folder")
    return found


def column_folder(directory: Path, column: str) -> Path:
    """Where the pictures of a column lie in a folder without metadata."""
    return directory / ("images" if column == "image" else column)


def of_split(paths: list[Path], directory: Path, split: str) -> list[Path]:
    """The files whose names begin with `split`, or whose first folder below `directory` has it for its first word; all
    of them if `split` is train and none is of a split.

    Raises:
        DataError: there are no such files.
    """

    def begins(path: Path, *splits: str) -> bool:
        folder = path.relative_to(directory).parts[0]
        named = (re.match(rf"{re.escape(word)}(ing|id|idation)?([^a-z]|$)", folder) for word in splits)
        return path.name.startswith(splits) or any(named)

    matching = [path for path in paths if begins(path, split)]
    if not matching and (split != "train" or any(begins(path, "test", "val") for path in paths)):
        kind = "metadata" if paths[0].name in METADATA else paths[0].suffix.lstrip(".")
        raise DataError(f"{directory} holds no {kind} file whose name or folder begins with {split}; set train_split")
    return matching or paths


def metadata_files(directory: Path, split: str) -> list[Path]:
    """The metadata files that decide: the one in the folder itself, or else all those of a split in its sub-folders.

    Raises:
        DataError: a folder holds two of them.
    """
    files = [directory / name for name in METADATA if (directory / name).is_file()]
    if not files:
        listing = find_files(directory, {Path(name).suffix for name in METADATA})
        files = [path for path in listing.pictures if path.name in METADATA]
        files = of_split(files, directory, split) if files else []
    for one, other in pairwise(sorted(files)):
        if one.parent == other.parent:
            raise DataError(f"{one} and {other} lie in one folder, so which lists the pairs is unclear; keep one")
    return files


# ---------------------------------------------------------------------------------------------- by relative path


def _key(name: Path | PurePath) -> str:
    """A relative path to compare: Macs write the letters of names in another Unicode form than other systems."""
    return unicodedata.normalize("NFC", name.as_posix())


def _matched(directory: Path, images: Path, mattes: Path) -> Found:
    """Pictures with the mattes at the same relative path, whatever the suffixes. Where all mattes lie in `mattes`
    itself, a picture in a sub-folder takes the one of its own name. Two mattes for one picture are a fault, and so is
    one for two.
    """
    pictures, candidates = _listing(images), _listing(mattes)
    by_key: dict[str, list[Path]] = {}
    for path in candidates.pictures:
        by_key.setdefault(_key(path.relative_to(mattes).with_suffix("")), []).append(path)
    flat = all(path.parent == mattes for path in candidates.pictures)
    found: dict[Path, list[Path]] = {}
    for image in pictures.pictures:
        relative = image.relative_to(images)
        keys = [_key(relative.with_suffix("")), _key(relative)]  # 000.jpg has 000.png, or 000.jpg.png
        found[image] = [path for key in keys for path in by_key.get(key, ())]
        if not found[image] and flat:
            found[image] = by_key.get(_key(PurePath(relative.stem)), [])
    takers: dict[Path, list[str]] = {}
    for image, paths in found.items():
        for path in paths:
            takers.setdefault(path, []).append(str(image.relative_to(directory)))
    pairs = []
    for image, paths in found.items():
        name, fault = str(image.relative_to(directory)), None
        alpha = paths[0] if paths else mattes / image.relative_to(images).with_suffix(".png")
        if not paths:
            fault = _missing("alpha", name, alpha)
        elif len(paths) > 1:
            fault = f"{name} has two mattes, {paths[0]} and {paths[1]}; remove one of them"
        elif len(takers[alpha]) > 1:
            fault = (
                f"{' and '.join(takers[alpha][:2])} would both take {alpha}; give each a matte at its own path in "
                f"{mattes.name}/, or list the pairs in metadata.jsonl"
            )
        pairs.append(PairFiles(name, image, alpha, fault))
    notes = [
        f"not read in {folder.name}/: {listing.describe_passed_over()}"
        for folder, listing in ((images, pictures), (mattes, candidates))
        if listing.passed_over
    ]
    if unused := [path for path in candidates.pictures if path not in takers]:
        notes.append(f"mattes without a picture, not used: {len(unused)}, the first is {unused[0]}")
    return Found(pairs, notes)


def _listing(folder: Path) -> Listing:
    try:
        return find_images(folder)
    except ImageError as error:
        raise DataError(str(error)) from error


def _missing(column: str, name: str, path: Path) -> str:
    return f"{column} of {name} is missing: no file {path}; add it or remove the pair"


# ---------------------------------------------------------------------------------------------- by metadata


def _listed(directory: Path, files: list[Path], image_column: str, alpha_column: str) -> Found:
    """The pairs that metadata files list, whose names are relative to the files' own folders.

    Raises:
        DataError: a file that cannot be read, a column that no row has.
    """
    rows = [(f"{file} row {number}", file.parent, row) for file in files for number, row in _metadata_rows(file)]
    columns = dict.fromkeys(key for _, _, row in rows for key in row)
    image_key, alpha_key = (_file_key(column, columns, files[0]) for column in (image_column, alpha_column))
    locate, listed, again = _Located(), {}, []
    for place, folder, row in rows:
        names = [row.get(key) for key in (image_key, alpha_key)]
        absent = [key for key, name in zip((image_key, alpha_key), names, strict=True) if not _is_name(name)]
        image, alpha = (locate(folder, name) if _is_name(name) else folder for name in names)
        name = (image.relative_to(directory) if image.is_relative_to(directory) else image).as_posix()
        missing = [(kind, path) for kind, path in (("image", image), ("alpha", alpha)) if not os.path.isfile(path)]
        before = listed.get(image)
        if absent:
            fault = f"{place} has no {' and no '.join(absent)}; add it or remove the row"
            listed[place] = PairFiles(name if _is_name(names[0]) else place, image, alpha, fault)
        elif before and before.alpha == alpha:
            again.append(name)
        elif before:
            fault = f"{place}: {name} has two mattes, {before.alpha} and {alpha}; remove one of the rows"
            listed[image] = PairFiles(name, image, alpha, fault)
        else:
            fault = _missing(missing[0][0], name, missing[0][1]) if missing else None
            listed[image] = PairFiles(name, image, alpha, fault)
    pairs = list(listed.values())
    notes = unused_columns(columns, {image_key, alpha_key})
    named = {os.path.normpath(path) for pair in pairs for path in (pair.image, pair.alpha)}
    for _, folder, row in rows:
        named |= {
            os.path.normpath(folder / row[key]) for key in row if key.endswith("file_name") and _is_name(row[key])
        }
    there = sorted({path for file in files for path in find_files(file.parent, EXTENSIONS).pictures})
    if unlisted := [path for path in there if os.path.normpath(path) not in named]:
        notes.append(f"pictures that the metadata do not list, not used: {len(unlisted)}, the first is {unlisted[0]}")
    if again:
        notes.append(f"rows that are there twice, used once: {len(again)}, the first is {again[0]}")
    return Found(pairs, notes)


def _is_name(value) -> bool:
    return isinstance(value, str) and value != ""


def _file_key(column: str, columns: Iterable[str], file: Path) -> str:
    """The key of the metadata that names a column's files: `file_name` of the image, else `<column>_file_name`."""
    keys = ["file_name", "image_file_name"] if column == "image" else [f"{column}_file_name"]
    for key in keys:
        if key in columns:
            return key
    raise DataError(
        f"{file} has no {' or '.join(keys)} (it has {', '.join(columns) or 'no rows'}); add it, or set image_column "
        f"and alpha_column{did_you_mean(keys[0], columns)}"
    )


def unused_columns(columns: Iterable[str], used: Collection[str]) -> list[str]:
    """A line about the columns that are not read, but for those that `sdseg render` and `sdseg export` write."""
    others = [
        column
        for column in columns
        if column not in used and column.split(".")[0].removesuffix("file_name").rstrip("_") not in OWN_COLUMNS
    ]
    return [f"columns that are not used: {', '.join(others)}"] if others else []


class _Located:
    """Finds the file that a row of metadata names, also where it was written on another system: with backslashes,
    letters in another Unicode form, or in another case."""

    def __init__(self):
        self._names: dict[Path, dict[str, list[str]]] = {}  # of folders that were looked into

    def __call__(self, folder: Path, name: str) -> Path:
        """The file; where there is none, the path that was named."""
        named = folder / name
        if os.path.isfile(named):  # which is False for a name that no system takes
            return named
        path = folder
        for part in PurePath(name.replace("\\", "/")).parts:
            if part != ".." and not os.path.exists(path / part):
                alike = self._inside(path).get(unicodedata.normalize("NFC", part).casefold(), [])
                if len(alike) != 1:
                    return named
                (part,) = alike
            path = path / part
        return path

    def _inside(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names = self._names[folder] = {}
            for name in os.listdir(folder) if folder.is_dir() else ():
                names.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
        return self._names[folder]


def _metadata_rows(file: Path) -> Iterator[tuple[int, dict]]:
    """(line or row, counted from 1; the row) of metadata.jsonl, .csv or .parquet; blank lines are passed over.

    Raises:
        DataError: it is not what its suffix says.
    """
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from enumerate(pq.read_table(file).to_pylist(), start=1)
            return
        text = file.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except Exception as error:  # decoders raise many types
        raise DataError(f"{file} cannot be read ({one_line(error)}); save it again, text as UTF-8") from error
    if file.suffix == ".csv":
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in lines:
                if None in row:
                    raise DataError(f"{file} line {lines.line_num}: has more fields than the first line; mend it")
                if any((value or "").strip() for value in row.values()):
                    yield lines.line_num, row
        except csv.Error as error:
            raise DataError(f"{file} line {lines.line_num}: is not CSV ({one_line(error)}); mend it") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file} line {number}: is not JSON ({one_line(error)}); mend it") from error
        if not isinstance(row, dict):
            raise DataError(f"{file} line {number}: every line is a JSON object, and this is {line.strip()[:40]}")
        yield number, row


# ---------------------------------------------------------------------------------------------- reading


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever is raised within is an error of this pair: a PairError that names it or its file."""
    try:
        yield
    except UserError as error:
        raise PairError(str(error)) from error
    except Exception as error:  # decoders and containers raise many types
        raise PairError(f"{photo_error(name, error)}; replace or remove it") from error


def read_pair(pair: PairFiles, target: Target = Target()) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008
    """Image uint8 [H, W, 3] sRGB and ground truth [H, W] of one pair, the latter as `Target.read` returns it.

    Raises:
        DataError: one of them cannot be read, or their sizes differ.
    """
    if pair.fault:
        raise PairError(pair.fault)
    with reading(pair.name):
        image, truth = read_image(pair.image), target.read(pair.alpha)
    if image.shape[:2] != truth.shape:
        raise PairError(
            f"{pair.name} is {image.shape[1]}x{image.shape[0]} but its alpha {pair.alpha} is "
            f"{truth.shape[1]}x{truth.shape[0]}; both must have the same size"
        )
    return image, truth
