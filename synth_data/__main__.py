"""Command line: python -m synth_data render | preview."""

import argparse
import os
import sys
from pathlib import Path


def _whole(text: str, least: int, flag: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{flag}: '{text}' is not a whole number") from None
    if value < least:
        raise ValueError(f"{flag}: {value} is out of range; give a whole number, at least {least}")
    return value


def _indices(arguments: argparse.Namespace) -> range:
    """The samples asked for by --count or --indices."""
    if arguments.indices is None:
        return range(_whole(arguments.count, 1, "--count"))
    first, colon, last = arguments.indices.partition(":")
    if not colon:
        raise ValueError(f"--indices: '{arguments.indices}' is not a range; give FIRST:LAST, LAST not included")
    a, b = _whole(first, 0, "--indices"), _whole(last, 0, "--indices")
    if b <= a:
        raise ValueError(f"--indices: {a}:{b} holds no sample; LAST (not included) must be above FIRST")
    return range(a, b)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m synth_data",
        description="Render pictures with exact alpha mattes, from a recipe and a seed.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="render a data set (run again to finish what is missing)")
    preview = commands.add_parser("preview", help="render a contact sheet: pictures beside their mattes")
    for command in (render, preview):
        command.add_argument("--recipe", required=True, help="YAML recipe, e.g. configs/recipes/fur_solids.yaml")
        group = command.add_mutually_exclusive_group()
        group.add_argument(
            "--count",
            default="24" if command is preview else "1000",
            help="samples 0 .. COUNT-1 (default %(default)s)",
        )
        group.add_argument("--indices", help="only samples FIRST:LAST, LAST not included, e.g. 137:138")
        command.add_argument(
            "--size",
            default="128" if command is preview else "256",
            help="side in pixels (default %(default)s)",
        )
        command.add_argument("--seed", default="0", help="same seed, same pictures (default 0)")
        command.add_argument("--workers", default="1", help="processes; changes nothing but the time (default 1)")
        command.add_argument(
            "--variant", default="scalar_rgb", help="scalar_rgb (runs anywhere), llvm_ad_rgb or cuda_ad_rgb"
        )
        command.add_argument("--output", required=True, help="folder to write" if command is render else "PNG to write")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit code (2 for wrong input)."""
    arguments = _parser().parse_args(argv)
    try:
        indices = _indices(arguments)
        size = _whole(arguments.size, 8, "--size")
        seed = _whole(arguments.seed, 0, "--seed")
        workers = _whole(arguments.workers, 1, "--workers")
        from synth_data.recipe import load_recipe
        from synth_data.store import write_sheet
        from synth_data.workers import check_variant, render_dataset, render_pairs

        recipe = load_recipe(arguments.recipe)
        check_variant(arguments.variant)
        output = Path(arguments.output)
        if arguments.command == "render":
            rendered = render_dataset(recipe, seed, indices, size, output, workers, arguments.variant)
            print(f"{output}: {rendered} rendered, {len(indices) - rendered} were already there")
        else:
            if output.suffix.lower() != ".png" or not os.access(output.parent, os.W_OK):
                raise ValueError(f"--output: '{output}' must be a .png file in a folder you may write to")
            write_sheet(output, render_pairs(recipe, seed, list(indices), size, workers, arguments.variant))
            print(output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # also a worker that died
        print(f"error: {error} Run the same command again to render what is missing.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to finish", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
