"""Finds pictures and their truths in folders, by name or by a list."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from sdseg.errors import UserError
from sdseg.evaluation.benchmark_sets.class_tables import UNKNOWN
from sdseg.evaluation.benchmark_sets.items import Item
from sdseg.imaging import ImageError, list_images, read_label_file


class Missing(Exception):
    """A part of a layout is missing; the message names it, relative to the set's folder."""


def find_folder(root: Path, candidates: Sequence[str]) -> Path:
    """The first of the candidate folders below `root` that exists. Raises Missing, naming the first."""
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise Missing(f"{candidates[0]}/ is missing")


def find_file(root: Path, candidates: Sequence[str]) -> Path:
    """The first of the candidate files below `root` that exists. Raises Missing, naming the first."""
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise Missing(f"{candidates[0]} is missing")


def pictures(folder: Path) -> list[Path]:
    """Every picture beneath a folder, sorted. Raises Missing where there is none."""
    try:
        return list_images(folder)
    except ImageError as error:
        raise Missing(f"every picture in {folder.name}/ is missing") from error


def by_name(paths: Iterable[Path], folder: Path, strip: str = "") -> dict[str, Path]:
    """Files beneath a folder by relative name, without extension and without the suffix `strip`.

    Files without that suffix are left out. Raises UserError where two have the same name (a.jpg beside a.png).
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.endswith(strip):
            continue
        name = name.removesuffix(strip)
        if name in named:
            raise UserError(f"{folder}: holds two pictures called {name} ({named[name].name}, {path.name}); leave one")
        named[name] = path
    return named


def need(names: Iterable[str], files: dict[str, Path], what: str) -> None:
    """Raises Missing unless every name has a file."""
    if missing := [name for name in names if name not in files]:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise Missing(f"{what} of {listed} {'is' if len(missing) == 1 else 'are'} missing")


def pair_folders(images: Path, truths: Path, trimaps: Path | None = None) -> list[Item]:
    """Photos, truths and trimaps of the same names in separate folders; every file needs its partners.

    Photos and truths may lie in the same folder: then photos are the JPEG files and truths the PNG files.
    """
    photos, masks = pictures(images), pictures(truths)
    if images == truths:
        photos = [path for path in photos if path.suffix.lower() in (".jpg", ".jpeg")]
        masks = [path for path in masks if path.suffix.lower() == ".png"]
        if not photos or not masks:
            raise Missing(f"{images.name}/ holds photos and truths, but not JPEG photos and PNG truths")
    photos, masks = by_name(photos, images), by_name(masks, truths)
    need(photos, masks, f"the {truths.name}/")
    need(masks, photos, f"the {images.name}/")
    drawn = {}
    if trimaps is not None:
        drawn = by_name(pictures(trimaps), trimaps)
        need(photos, drawn, f"the {trimaps.name}/")
    return [Item(name, path, masks[name], drawn.get(name)) for name, path in photos.items()]


def read_list(path: Path) -> list[str]:
    """The lines of a list file that are not blank, whatever their line ends."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    if not any(lines):
        raise Missing(f"the list {path.name} is empty")
    return [line for line in lines if line]


def map_labels(labels: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Values of a label file -> class ids, int32 [H, W]. Raises ImageError for values that are not in the table."""
    outside = (labels < 0) | (labels >= len(table))
    ids = table[np.where(outside, 0, labels)].astype(np.int32)
    if (unknown := outside | (ids == UNKNOWN)).any():
        raise ImageError(f"{path}: holds label {labels[unknown].flat[0]}, which this set does not have")
    return ids


def label_reader(table: np.ndarray) -> Callable[[Item], np.ndarray]:
    """A function that reads an item's label file and maps its values to class ids."""
    return lambda item: map_labels(read_label_file(item.truth), table, item.truth)
