"""The commands render, preview, join, inspect, rerender, export and template (`sdseg WORD`)."""

import argparse
import os
import sys
from pathlib import Path

from synth_data.errors import Parser, RenderError, UserError, reported, steady_streams


def _integer(text: str, least: int, flag: str) -> int:
    """`text` as an integer of at least `least`; UserError names the flag."""
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{flag}: '{text}' is not a whole number") from None
    if value < least:
        raise UserError(f"{flag}: {value} is out of range; give a whole number, at least {least}")
    return value


def _indices(arguments: argparse.Namespace) -> range:
    """The indices that --count or --indices selects."""
    if arguments.indices is None:
        return range(_integer(arguments.count, 1, "--count"))
    first, colon, last = arguments.indices.partition(":")
    if not colon:
        raise UserError(f"--indices: '{arguments.indices}' is not a range; give FIRST:LAST (LAST excluded)")
    a, b = _integer(first, 0, "--indices"), _integer(last, 0, "--indices")
    if b <= a:
        raise UserError(f"--indices: {a}:{b} is empty; LAST (excluded) must be above FIRST")
    return range(a, b)


def _shard(text: str) -> tuple[int, int]:
    """--shard i/n as (i, n)."""
    part, slash, parts = text.partition("/")
    if not slash:
        raise UserError(f"--shard: '{text}' is not a shard; give i/n, e.g. 1/4 to 4/4 on four hosts")
    i, n = _integer(part, 1, "--shard"), _integer(parts, 1, "--shard")
    if i > n:
        raise UserError(f"--shard: {i}/{n} is out of range; shards are 1/{n} to {n}/{n}")
    return i, n


def _to_file(text: str | None, suffix: str, flag: str) -> Path | None:
    """The path of a file to write; UserError unless it has the suffix and its folder is writable. None stays None."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() != suffix or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag}: '{path}' must be a {suffix} file in a writable folder")
    return path


def _render(arguments: argparse.Namespace) -> int:
    """The commands `render` and `preview`."""
    indices = _indices(arguments)
    size = _integer(arguments.size, 8, "--size")
    seed = _integer(arguments.seed, 0, "--seed")
    workers = _integer(arguments.workers, 1, "--workers")
    shard = _shard(arguments.shard) if arguments.command == "render" and arguments.shard else (1, 1)
    from synth_data.drawing import contact_sheet, png
    from synth_data.recipe import load_recipe
    from synth_data.store import write_bytes
    from synth_data.workers import check_variant, render_dataset, render_pairs, shard_of

    recipe = load_recipe(arguments.recipe)
    check_variant(arguments.variant)
    if arguments.command == "preview":
        output = _to_file(arguments.output, ".png", "--output")
        pairs = render_pairs(recipe, seed, list(indices), size, workers, arguments.variant)
        write_bytes(output, png(contact_sheet([(pair.image, pair.alpha) for pair in pairs])))
        print(output)
        return 0
    output, mine = Path(arguments.output), shard_of(recipe, indices, *shard)
    rendered = render_dataset(recipe, seed, mine, size, output, workers, arguments.variant)
    print(f"{output}: {rendered} rendered, {len(mine) - rendered} were already there")
    return 0


def _join(arguments: argparse.Namespace) -> int:
    from synth_data.workers import join

    samples = join([Path(shard) for shard in arguments.shards], Path(arguments.output), arguments.partial)
    print(f"{arguments.output}: {samples} samples")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    """Prints a summary of a set; returns 1 if files are damaged or missing."""
    import json

    workers = _integer(arguments.workers, 1, "--workers")
    sheet_path, json_path = _to_file(arguments.sheet, ".png", "--sheet"), _to_file(arguments.json, ".json", "--json")
    from synth_data.inspection import described, inspect, write_contact_sheet
    from synth_data.store import write_bytes

    folder = Path(arguments.folder)
    report = inspect(folder, workers)
    print(described(folder, report))
    if json_path is not None:
        write_bytes(json_path, (json.dumps(report, indent=1) + "\n").encode())
    if sheet_path is not None:
        write_contact_sheet(folder, sheet_path)
    return 1 if report["damaged"] else 0


def _rerender(arguments: argparse.Namespace) -> int:
    """Prints whether one sample came out the same; returns 1 if not."""
    row = _integer(arguments.row, 0, "--row")
    from synth_data.inspection import rerender

    output = None
    if arguments.output:
        output = _to_file(arguments.output, Path(arguments.output).suffix.lower(), "--output")
    differs = rerender(Path(arguments.folder), row, output)
    for line in differs:
        print(f"differs: {line}")
    if not differs:
        print(f"row {row}: identical")
    return 1 if differs else 0


def _export(arguments: argparse.Namespace) -> int:
    samples = _integer(arguments.samples_per_file, 1, "--samples_per_file")
    from synth_data.export import check_hub, export, push

    output = Path(arguments.output)
    if arguments.push_to_hub:
        check_hub(arguments.push_to_hub, arguments.private)
    files = export(Path(arguments.folder), arguments.format, output, samples)
    print(f"{output}: {len(files)} {arguments.format} file{'s' if len(files) > 1 else ''}")
    if arguments.push_to_hub:
        print(push(output, arguments.push_to_hub))
    return 0


def _template(arguments: argparse.Namespace) -> int:
    from synth_data.template import template

    print(template(arguments.families), end="")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog,
        description="Render pictures with exact alpha mattes, from a recipe and a seed.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    render = commands.add_parser("render", help="render a data set (run again to finish what is missing)")
    preview = commands.add_parser("preview", help="render a contact sheet of pictures and their mattes")
    for command in (render, preview):
        command.set_defaults(run=_render)
        command.add_argument("--recipe", required=True, help="YAML recipe, e.g. configs/recipes/fur_solids.yaml")
        group = command.add_mutually_exclusive_group()
        group.add_argument(
            "--count",
            default="24" if command is preview else "1000",
            help="samples 0 .. COUNT-1 (default %(default)s)",
        )
        group.add_argument("--indices", help="only samples FIRST:LAST, LAST excluded, e.g. 137:138")
        command.add_argument(
            "--size",
            default="128" if command is preview else "256",
            help="side length in pixels (default %(default)s)",
        )
        command.add_argument(
            "--seed", default="0", help="random seed; the same seed gives the same pictures (default 0)"
        )
        command.add_argument(
            "--workers", default="1", help="number of processes (default 1); the pictures do not depend on it"
        )
        command.add_argument(
            "--variant",
            default="scalar_rgb",
            help="Mitsuba variant: scalar_rgb (default, runs anywhere), llvm_ad_rgb or cuda_ad_rgb",
        )
        command.add_argument("--output", required=True, help="folder to write" if command is render else "PNG to write")
    render.add_argument(
        "--shard", metavar="i/n", help="render only the i-th of n parts, each to its own --output; see `join`"
    )

    join = commands.add_parser("join", help="merge the parts of several hosts (--shard) into the set of a single run")
    join.set_defaults(run=_join)
    join.add_argument("shards", nargs="+", metavar="DIR", help="folders written by `render --shard`")
    join.add_argument(
        "--output", required=True, help="folder to write; files are hard-linked where possible, else copied"
    )
    join.add_argument("--partial", action="store_true", help="merge even if samples are missing")

    inspect = commands.add_parser(
        "inspect", help="summarise a data set: counts, factors, mattes, duplicates, damaged files"
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("folder", metavar="DIR", help="folder written by `render`")
    inspect.add_argument("--sheet", metavar="FILE.png", help="also draw a contact sheet")
    inspect.add_argument("--json", metavar="FILE.json", help="also write the report as JSON")
    inspect.add_argument("--workers", default="1", help="number of threads that read files (default 1)")

    rerender = commands.add_parser("rerender", help="render one sample of a data set again and compare its bytes")
    rerender.set_defaults(run=_rerender)
    rerender.add_argument("folder", metavar="DIR", help="folder written by `render`")
    rerender.add_argument("--row", required=True, metavar="K", help="line of metadata.jsonl, counted from 0")
    rerender.add_argument("--output", metavar="FILE", help="also write the new picture (.png) or foreground (.exr)")

    export = commands.add_parser("export", help="export a data set as parquet or webdataset, and to the Hub")
    export.set_defaults(run=_export)
    export.add_argument("folder", metavar="DIR", help="folder written by `render`")
    export.add_argument("--format", default="parquet", help="parquet or webdataset (default parquet)")
    export.add_argument("--output", required=True, help="new or empty folder to write")
    export.add_argument("--samples_per_file", default="1000", help="samples per file (default 1000)")
    export.add_argument(
        "--push_to_hub", metavar="OWNER/NAME", help="upload the export to the Hub; log in first with `hf auth login`"
    )
    export.add_argument("--private", action="store_true", help="create the data set on the Hub as private")

    template = commands.add_parser("template", help="print a recipe with every factor, its default and its meaning")
    template.set_defaults(run=_template)
    template.add_argument(
        "--families", nargs="+", default=["fur"], metavar="NAME", help="families of subjects (default: fur)"
    )
    return parser


def main(argv: list[str] | None = None, prog: str = "sdseg") -> int:
    """Runs a command; returns the exit code (1 for damaged files or a failed run, 2 for wrong input)."""
    arguments = _parser(prog).parse_args(argv)
    again = " Run the same command again to render what is missing." if arguments.command == "render" else ""
    try:
        return reported(lambda: arguments.run(arguments))
    except RenderError as error:
        from synth_data.workers import WouldFailAgain

        line = str(error)
        if again and not isinstance(error, WouldFailAgain):
            line = line.removesuffix(".") + "." + again
        print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to finish", file=sys.stderr)
        return 130


if __name__ == "__main__":
    steady_streams()
    sys.exit(main(prog="python -m synth_data"))
