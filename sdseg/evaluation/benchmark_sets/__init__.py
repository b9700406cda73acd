"""Benchmark sets by name: what they are, where to get them, and readers of their true on-disk layouts.

    benchmark_set = open_set("aim-500", Path("data/AIM-500"))
    for item in benchmark_set.items:
        image, truth = benchmark_set.read_image(item), benchmark_set.read_truth(item)

`python -m sdseg.evaluation.benchmark_sets list | show NAME | check NAME DIR | export NAME DIR --output DIR`. Nothing is
downloaded: most sets ask for an agreement, and `show` tells where.
"""

import difflib
from pathlib import Path

from sdseg.errors import MissingFile, UserError, one_line
from sdseg.evaluation.benchmark_sets.class_tables import identity_table
from sdseg.evaluation.benchmark_sets.descriptions import SETS, Description
from sdseg.evaluation.benchmark_sets.items import VOID, BenchmarkSet, Item, Kind, read_mask, read_matte
from sdseg.evaluation.benchmark_sets.layouts import Missing, label_reader, pair_folders

__all__ = [
    "SETS",
    "VOID",
    "BenchmarkSet",
    "Description",
    "Item",
    "Kind",
    "describe",
    "export_images",
    "folder_pair",
    "open_set",
]


def describe(name: str) -> Description:
    """The set of that name. Raises UserError, with the nearest names, for an unknown one."""
    if name not in SETS:
        near = difflib.get_close_matches(name.lower(), SETS, n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(near)}?" if near else f"choose among {', '.join(SETS)}"
        raise UserError(f"unknown data set {name!r}; {meant}")
    return SETS[name]


def open_set(name: str, folder: str | Path, split: str | None = None) -> BenchmarkSet:
    """Opens a set that lies in `folder` as its authors publish it; see `SETS[name].layout`.

    `split`: one of `SETS[name].splits`, by default the first. Files are looked for, not decoded (idx files are).
    Raises UserError for an unknown name or split and for two pictures of one name, UserError for a folder
    that is not laid out so (the message shows the layout and what was missing), ImageError for damaged idx files,
    ModuleNotFoundError for BraTS without nibabel.
    """
    from sdseg.evaluation.benchmark_sets.readers import OPENERS

    description, folder = describe(name), Path(folder)
    split = next(iter(description.splits)) if split is None else split
    if split not in description.splits:
        raise UserError(f"{name} has no split {split!r}; choose among {', '.join(description.splits)}")
    try:
        if not folder.is_dir():
            raise Missing("there is no such folder")
        return OPENERS[name](name, folder, split)
    except Missing as error:
        layout = "\n".join("  " + line for line in description.layout.splitlines())
        raise MissingFile(
            f"{folder}: is not laid out as {description.title}, split {split}: {one_line(error)}; expected:\n{layout}\n"
            f"  where to get it: {description.how_to_get}"
        ) from error


def folder_pair(
    images: str | Path, truths: str | Path, kind: Kind = "matte", trimaps: str | Path | None = None
) -> BenchmarkSet:
    """Any folder of photos and one of truths of the same relative names (extensions may differ).

    `truths`: mattes, masks (foreground at half the range and above), or label maps (ids as stored, 255 void; palette
    PNGs by index). Both may be one folder, with JPEG photos beside PNG truths. Raises UserError where a
    folder or a partner is missing, UserError for two pictures of one name and an unknown kind.
    """
    readers = {"matte": read_matte, "binary": read_mask, "classes": label_reader(identity_table(255))}
    if kind not in readers:
        raise UserError(f"unknown kind {kind!r}; choose among {', '.join(readers)}")
    images, truths = Path(images), Path(truths)
    trimaps = None if trimaps is None else Path(trimaps)
    for folder in (images, truths, trimaps):
        if folder is not None and not folder.is_dir():
            raise MissingFile(f"{folder}: no such folder; name the folders of photos and of truths")
    try:
        items = pair_folders(images, truths, trimaps)
    except Missing as error:
        raise MissingFile(
            f"{images} and {truths}: {one_line(error)}; a photo and its truth need the same name, extensions aside"
        ) from error
    return BenchmarkSet("folder pair", kind, items, truth_reader=readers[kind])


def export_images(benchmark_set: BenchmarkSet, folder: str | Path) -> None:
    """Writes every picture as `folder/<name>.png`, for methods that read folders.

    Their predictions then have the names that the set's truths are looked up by. Sets that compose or decode their
    pictures need it, and so do lists within a larger folder of photos. Raises ImageError for a damaged file.
    """
    from tqdm import tqdm

    from sdseg.imaging import write_image

    for item in tqdm(benchmark_set.items, desc=benchmark_set.name, unit="picture", disable=None):
        write_image(Path(folder) / f"{item.name}.png", benchmark_set.read_image(item))
