"""Mattes photos by methods that need no training.

    sdseg classical --method otsu --input FILE|DIR --output DIR
    sdseg classical --method grabcut --boxes boxes.json --input DIR --output DIR
    sdseg classical --method all --trimap DIR --input DIR --output DIR

With several methods, or `all`, each method writes its own output folder, DIR/<method>.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePath

from sdseg.classical.methods import METHODS, SETTINGS, TRIMAP_METHODS
from sdseg.classical.trimaps import read_trimap, require_pymatting
from sdseg.errors import NotAFolder, Parser, UserError, one_line, reported, require, steady_streams
from sdseg.imaging import read_image, write_alpha
from sdseg.outputs import (
    Plan,
    check_name_lengths,
    output_file,
    photo_error,
    plan_outputs,
    remove_stale,
    write_run_record,
    writing,
)

Box = tuple[int, int, int, int]


def run_method(
    method: str,
    plan: Plan,
    output_dir: Path,
    trimap_dir: Path | None = None,
    boxes: Mapping[str, Box] | None = None,
) -> int:
    """Writes the output folder (see `sdseg.outputs`) of one method; returns how many photos failed.

    Whatever one photo raises is reported in run.json and on standard error; the others are still processed.

    Args:
        trimap_dir: holds `<name>.png` for every output name.
        boxes: for GrabCut, {photo relative to the input folder: (x0, y0, x1, y1)}.
    """
    from tqdm import tqdm

    entries = []
    with writing(output_dir) as earlier:
        for path, name in tqdm(plan.names.items(), desc=method, unit="photo", disable=None):
            entry = {"input": plan.relative(path)}
            try:
                entry |= matte_photo(method, path, name, entry["input"], output_dir, trimap_dir, boxes)
            except Exception as error:
                entry["error"] = photo_error(path, error)
                tqdm.write(f"error: {entry['error']}", file=sys.stderr)
            entries.append(entry)
        remove_stale(output_dir, plan, entries, earlier)
        record = {"method": method, "settings": SETTINGS[method], "passed_over": plan.listing.passed_over}
        write_run_record(output_dir, record | {"inputs": entries})
    return sum("error" in entry for entry in entries)


def matte_photo(
    method: str,
    path: Path,
    name: PurePath,
    relative: str,
    output_dir: Path,
    trimap_dir: Path | None,
    boxes: Mapping[str, Box] | None,
) -> dict:
    """Mattes one photo, writes its matte and returns its part of `run.json`."""
    target = output_file(output_dir, name)
    check_name_lengths([target])
    image = read_image(path)
    entry, kwargs = {}, {}
    if method in TRIMAP_METHODS:
        kwargs["trimap"] = read_trimap(output_file(trimap_dir, name), image.shape[:2])
    elif method == "grabcut" and boxes is not None:
        if relative not in boxes:
            raise UserError("has no box; add one to the --boxes file")
        kwargs["box"] = entry["box"] = boxes[relative]
    start = time.perf_counter()
    alpha = (METHODS | TRIMAP_METHODS)[method](image, **kwargs)
    seconds = round(time.perf_counter() - start, 4)
    write_alpha(target, alpha)
    entry["output"] = target.relative_to(output_dir).as_posix()
    return entry | {"size": [alpha.shape[1], alpha.shape[0]], "seconds": seconds}


def read_boxes(path: Path) -> dict[str, Box]:
    """Reads a JSON object {photo relative to the input folder: [x0, y0, x1, y1]} in whole pixels.

    Raises:
        UserError: other content.
    """
    try:
        boxes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f'{path}: is not JSON ({one_line(error)}); write {{"photo.jpg": [x0, y0, x1, y1], ...}}'
        ) from error
    if not isinstance(boxes, dict):
        raise UserError(f'{path}: is not a JSON object; write {{"photo.jpg": [x0, y0, x1, y1], ...}}')
    for name, box in boxes.items():
        if not (isinstance(box, list) and len(box) == 4 and all(type(value) is int for value in box)):
            raise UserError(f"{path}: the box of {name} is {box}; write four whole numbers, [x0, y0, x1, y1]")
    return {name: tuple(box) for name, box in boxes.items()}


def choose_methods(names: list[str], trimap_dir: Path | None) -> list[str]:
    """The methods that `--method` names, without repetition; `all` means every method that the inputs allow.

    Raises:
        UserError: a method needs a trimap and none is given, a trimap is given that no method needs, or the folder of
            trimaps does not exist.
        MissingPackage: a trimap method without pymatting.
    """
    if "all" in names:
        names = [*METHODS, *(TRIMAP_METHODS if trimap_dir is not None else [])]
    chosen = list(dict.fromkeys(names))
    with_trimap = [name for name in chosen if name in TRIMAP_METHODS]
    if with_trimap and trimap_dir is None:
        raise UserError(f"{with_trimap[0]} needs trimaps; name their folder with --trimap DIR")
    if trimap_dir is not None and not with_trimap:
        raise UserError(f"--trimap {trimap_dir}: none of these methods uses it; add {', '.join(TRIMAP_METHODS)} or all")
    if with_trimap:
        if not trimap_dir.is_dir():
            raise NotAFolder(f"{trimap_dir}: is not a folder; name the folder of trimaps with --trimap DIR")
        require_pymatting()
    return chosen


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="sdseg classical",
        description="Matte photos by methods that need no training.",
        epilog="Exit status: 0 success; 1 some photos failed, see run.json; 2 wrong arguments, nothing done.",
    )
    parser.add_argument(
        "--method",
        choices=[*METHODS, *TRIMAP_METHODS, "all"],
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"one or several of {', '.join(METHODS)}; with --trimap also {', '.join(TRIMAP_METHODS)}; or all",
    )
    parser.add_argument("--input", required=True, type=Path, help="photo, or folder of photos")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of mattes (several methods: one folder for each in it)"
    )
    parser.add_argument(
        "--trimap", type=Path, metavar="DIR", help="trimaps named like the photos, PNG: 0, 128 unknown, 255"
    )
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box", type=int, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="GrabCut: pixels, for every photo"
    )
    box.add_argument("--boxes", type=Path, metavar="FILE", help='GrabCut: JSON {"photo.jpg": [x0, y0, x1, y1], ...}')
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    require(("skimage", "sklearn"), "classical", "sdseg classical")
    failed = 0
    methods = choose_methods(arguments.method, arguments.trimap)
    if (arguments.box or arguments.boxes) and "grabcut" not in methods:
        raise UserError("--box and --boxes belong to GrabCut; add --method grabcut")
    plan = plan_outputs(arguments.input, arguments.output)
    boxes = None
    if arguments.box:
        boxes = {plan.relative(path): tuple(arguments.box) for path in plan.names}
    elif arguments.boxes:
        boxes = read_boxes(arguments.boxes)
    if passed_over := plan.describe_passed_over():
        print(passed_over, file=sys.stderr)
    several = len(methods) > 1
    for method in methods:
        output_dir = arguments.output / method if several else arguments.output
        failed += run_method(method, plan, output_dir, arguments.trimap, boxes)
    return 1 if failed else 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
