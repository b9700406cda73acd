"""Runs the methods that need no training on photos.

    python -m sdseg.classical --method otsu --input FILE|DIR --output DIR

With `--method all` every method writes an output folder of its own, DIR/<method>.
"""

import argparse
import sys
import time
from pathlib import Path, PurePath

from sdseg.classical.methods import METHODS, SETTINGS
from sdseg.imaging import ImageError, read_image, write_alpha
from sdseg.outputs import output_file, plan_outputs, write_run_record


def run_method(method: str, plan: dict[Path, PurePath], root: Path, output_dir: Path) -> int:
    """Writes the output folder (see `sdseg.outputs`) of one method; returns how many photos failed.

    `plan`: photos below `root` and their output names. A photo that cannot be read is named in run.json and
    on standard error, and the others are done all the same.
    """
    from tqdm import tqdm

    entries = []
    for path, name in tqdm(plan.items(), desc=method, unit="photo", disable=None):
        entry = {"input": path.relative_to(root).as_posix()}
        try:
            image = read_image(path)
        except ImageError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            entries.append(entry | {"error": str(error)})
            continue
        start = time.perf_counter()
        alpha = METHODS[method](image)
        seconds = round(time.perf_counter() - start, 4)
        target = output_file(output_dir, name)
        write_alpha(target, alpha)
        entry["output"] = target.relative_to(output_dir).as_posix()
        entry["size"] = [alpha.shape[1], alpha.shape[0]]
        entries.append(entry | {"seconds": seconds})
    write_run_record(output_dir, {"method": method, "settings": SETTINGS[method], "inputs": entries})
    return sum("error" in entry for entry in entries)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdseg.classical",
        description="Write the mattes of methods that need no training.",
        epilog="Exit status: 0 all done; 1 some photos failed, run.json says which and why; 2 nothing done.",
    )
    parser.add_argument("--method", choices=[*METHODS, "all"], required=True)
    parser.add_argument("--input", required=True, type=Path, help="photo, or folder of photos")
    parser.add_argument("--output", required=True, type=Path, help="folder of mattes (all: one a method in it)")
    arguments = parser.parse_args(argv)
    root = arguments.input.parent if arguments.input.is_file() else arguments.input
    failed = 0
    try:
        plan = plan_outputs(arguments.input, arguments.output)
        for method in METHODS if arguments.method == "all" else [arguments.method]:
            output_dir = arguments.output / method if arguments.method == "all" else arguments.output
            failed += run_method(method, plan, root, output_dir)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
