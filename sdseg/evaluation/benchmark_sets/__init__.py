"""Benchmark sets by name: what they are, where to get them, and readers of their original on-disk layouts.

    benchmark_set = open_set("aim-500", Path("data/AIM-500"))
    for item in benchmark_set.items:
        image, truth = benchmark_set.read_image(item), benchmark_set.read_truth(item)

`sdseg sets list | show NAME | check NAME DIR | export NAME DIR --output DIR`. Nothing is downloaded: most sets require
an agreement, and `show` prints where to get them.
"""

from pathlib import Path

from sdseg.errors import MissingFile, UserError, did_you_mean, one_line
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
    """The set of that name. Raises UserError, with the nearest name, for an unknown one."""
    if name not in SETS:
        hint = did_you_mean(name.lower(), SETS, cutoff=0.4) or f"; choose among {', '.join(SETS)}"
        raise UserError(f"unknown data set {name!r}{hint}")
    return SETS[name]


def open_set(name: str, folder: str | Path, split: str | None = None) -> BenchmarkSet:
    """Opens a set that lies in `folder` in the layout its authors publish, `SETS[name].layout`.

    Files are located but not decoded, except idx files.

    Args:
        split: one of `SETS[name].splits`, by default the first.

    Raises:
        UserError: an unknown name or split, two pictures of the same name, or a folder with another layout (the
            message shows the layout and what is missing).
        ImageError: a damaged idx file.
        MissingPackage: BraTS without nibabel.
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
    """A folder of photos and one of truths with the same relative names (extensions may differ).

    Args:
        images: photos. It may be the folder of truths too, with JPEG photos beside PNG truths.
        truths: mattes, masks (foreground at half the range and above), or label maps (ids as stored, 255 void; palette
            PNGs by index).

    Raises:
        UserError: a folder or a file's partner is missing, two pictures have the same name, or `kind` is unknown.
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

    Their predictions then have the names by which truths are looked up. It is needed for sets that compose or decode
    their pictures, and for lists of some photos of a folder. Raises ImageError for a damaged file.
    """
    from tqdm import tqdm

    from sdseg.imaging import write_image

    for item in tqdm(benchmark_set.items, desc=benchmark_set.name, unit="picture", disable=None):
        write_image(Path(folder) / f"{item.name}.png", benchmark_set.read_image(item))
