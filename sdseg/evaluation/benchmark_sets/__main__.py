"""Lists, describes, checks and exports benchmark sets.

sdseg sets list
sdseg sets show aim-500
sdseg sets check aim-500 DIR [--split SPLIT]
sdseg sets export composition-1k DIR --output DIR [--split SPLIT]
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from sdseg.errors import Parser, reported, steady_streams
from sdseg.evaluation.benchmark_sets import SETS, BenchmarkSet, describe, export_images, open_set
from sdseg.evaluation.benchmark_sets.items import VOID
from sdseg.imaging import ImageError


def print_list() -> None:
    """Prints a line for each set."""
    for name, description in SETS.items():
        split, pictures = next(iter(description.splits.items()))
        count = "?" if pictures is None else pictures
        print(f"{name:15} {description.kind:8} {count:>6} ({split})".ljust(48) + description.title)


def print_description(name: str) -> None:
    """Prints everything known about one set."""
    description = describe(name)
    splits = ", ".join(f"{split} ({'?' if count is None else count})" for split, count in description.splits.items())
    print(f"{name}: {description.title}\n")
    for label, text in (
        ("kind", description.kind),
        ("splits (pictures)", splits),
        ("licence", description.licence),
        ("where to get it", description.how_to_get),
        ("citation", description.citation),
    ):
        print(f"{label + ':':19}{text}")
    print("layout:\n" + "\n".join("  " + line for line in description.layout.splitlines()))


def check(benchmark_set: BenchmarkSet) -> str:
    """Reads every picture, truth and trimap of a set; returns a summary in one line.

    Raises:
        ImageError: a file cannot be read, or sizes differ.
    """
    from tqdm import tqdm

    sizes, classes, trimaps = set(), set(), 0
    for item in tqdm(benchmark_set.items, desc=benchmark_set.name, unit="picture", disable=None):
        shape = benchmark_set.read_image(item).shape[:2]
        truth, trimap = benchmark_set.read_truth(item), benchmark_set.read_trimap(item)
        for what, values in (("truth", truth), ("trimap", trimap)):
            if values is not None and values.shape != shape:
                raise ImageError(
                    f"{item.name}: the {what} is {values.shape[1]}x{values.shape[0]}, the picture "
                    f"{shape[1]}x{shape[0]}; download both again"
                )
        sizes.add((shape[1], shape[0]))
        trimaps += trimap is not None
        if benchmark_set.kind == "classes":
            classes |= set(np.unique(truth).tolist()) - {VOID}
    (w0, h0), (w1, h1) = min(sizes), max(sizes)
    line = f"{len(benchmark_set.items)} pictures, {w0}x{h0}" + (f" to {w1}x{h1}" if len(sizes) > 1 else "")
    if benchmark_set.classes is not None:
        line += f", {len(classes)} of {len(benchmark_set.classes)} classes occur"
    return line + f", {trimaps or 'no'} trimaps"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="sdseg sets", description="List, describe, check and export benchmark sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all sets: kind, number of pictures, title")
    show = commands.add_parser("show", help="one set: layout, licence, where to get it, citation")
    checking = commands.add_parser("check", help="read every file of the set in DIR")
    export = commands.add_parser("export", help="write its pictures as PNG, under the names that predictions must have")
    for command in (show, checking, export):
        command.add_argument("name", metavar="NAME")
    for command in (checking, export):
        command.add_argument("folder", metavar="DIR", type=Path)
        command.add_argument("--split", metavar="SPLIT", help="default: the first one shown by `show`")
    export.add_argument("--output", metavar="DIR", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    if arguments.command == "list":
        print_list()
    elif arguments.command == "show":
        print_description(arguments.name)
    else:
        benchmark_set = open_set(arguments.name, arguments.folder, arguments.split)
        if arguments.command == "export":
            export_images(benchmark_set, arguments.output)
            return 0
        print(f"{arguments.name}: {check(benchmark_set)}")
        published = SETS[arguments.name].splits[benchmark_set.split]
        if published not in (None, len(benchmark_set.items)):
            print(f"note: the published split {benchmark_set.split} has {published} pictures", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
