"""Command line: python -m synth_data render | preview | join | inspect | rerender | export | template."""

import argparse
import os
import sys
from pathlib import Path

from synth_data.errors import Parser, RenderError, UserError, reported


def _whole(text: str, least: int, flag: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{flag}: '{text}' is not a whole number") from None
    if value < least:
        raise UserError(f"{flag}: {value} is out of range; give a whole number, at least {least}")
    return value


def _indices(arguments: argparse.Namespace) -> range:
    """The samples asked for by --count or --indices."""
    if arguments.indices is None:
        return range(_whole(arguments.count, 1, "--count"))
    first, colon, last = arguments.indices.partition(":")
    if not colon:
        raise UserError(f"--indices: '{arguments.indices}' is not a range; give FIRST:LAST, LAST not included")
    a, b = _whole(first, 0, "--indices"), _whole(last, 0, "--indices")
    if b <= a:
        raise UserError(f"--indices: {a}:{b} holds no sample; LAST (not included) must be above FIRST")
    return range(a, b)


def _shard(text: str) -> tuple[int, int]:
    """--shard i/n as (i, n)."""
    part, slash, parts = text.partition("/")
    if not slash:
        raise UserError(f"--shard: '{text}' is not a shard; give i/n, e.g. 1/4 to 4/4 on four hosts")
    i, n = _whole(part, 1, "--shard"), _whole(parts, 1, "--shard")
    if i > n:
        raise UserError(f"--shard: {i}/{n} is out of range; shards are 1/{n} to {n}/{n}")
    return i, n


def _to_file(text: str | None, suffix: str, flag: str) -> Path | None:
    """A file that can be written, of the named kind; None if none is asked for."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() != suffix or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag}: '{path}' must be a {suffix} file in a folder you may write to")
    return path


def _render(arguments: argparse.Namespace) -> int:
    """Commands render and preview."""
    indices = _indices(arguments)
    size = _whole(arguments.size, 8, "--size")
    seed = _whole(arguments.seed, 0, "--seed")
    workers = _whole(arguments.workers, 1, "--workers")
    shard = _shard(arguments.shard) if arguments.command == "render" and arguments.shard else (1, 1)
    from synth_data.recipe import load_recipe
    from synth_data.store import write_sheet
    from synth_data.workers import check_variant, render_dataset, render_pairs, shard_of

    recipe = load_recipe(arguments.recipe)
    check_variant(arguments.variant)
    if arguments.command == "preview":
        output = _to_file(arguments.output, ".png", "--output")
        write_sheet(output, render_pairs(recipe, seed, list(indices), size, workers, arguments.variant))
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
    """Prints what a set holds; returns 1 if files are damaged or missing."""
    import json

    workers = _whole(arguments.workers, 1, "--workers")
    sheet_path, json_path = _to_file(arguments.sheet, ".png", "--sheet"), _to_file(arguments.json, ".json", "--json")
    from synth_data.inspection import described, inspect, sheet
    from synth_data.store import write_bytes

    folder = Path(arguments.folder)
    report = inspect(folder, workers)
    print(described(folder, report))
    if json_path is not None:
        write_bytes(json_path, (json.dumps(report, indent=1) + "\n").encode())
    if sheet_path is not None:
        sheet(folder, sheet_path)
    return 1 if report["damaged"] else 0


def _rerender(arguments: argparse.Namespace) -> int:
    """Prints whether one row came out the same; returns 1 if not."""
    row = _whole(arguments.row, 0, "--row")
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
    samples = _whole(arguments.samples_per_file, 1, "--samples_per_file")
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
    preview = commands.add_parser("preview", help="render a contact sheet: pictures beside their mattes")
    for command in (render, preview):
        command.set_defaults(run=_render)
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
    render.add_argument(
        "--shard", metavar="i/n", help="render only the i-th of n parts, each into its own --output; see join"
    )

    join = commands.add_parser("join", help="put the parts of several hosts (--shard) together: the bytes of one run")
    join.set_defaults(run=_join)
    join.add_argument("shards", nargs="+", metavar="DIR", help="folders that render --shard wrote")
    join.add_argument("--output", required=True, help="folder to write; files are linked where possible, else copied")
    join.add_argument("--partial", action="store_true", help="join what there is, even if samples are missing")

    inspect = commands.add_parser("inspect", help="counts, factors, mattes, duplicates and damage of a data set")
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("folder", metavar="DIR", help="folder that render wrote")
    inspect.add_argument("--sheet", metavar="FILE.png", help="also draw a contact sheet")
    inspect.add_argument("--json", metavar="FILE.json", help="also write the figures as JSON")
    inspect.add_argument("--workers", default="1", help="threads that read (default 1)")

    rerender = commands.add_parser("rerender", help="render one sample of a data set again and compare its bytes")
    rerender.set_defaults(run=_rerender)
    rerender.add_argument("folder", metavar="DIR", help="folder that render wrote")
    rerender.add_argument("--row", required=True, metavar="K", help="line of metadata.jsonl, from 0")
    rerender.add_argument("--output", metavar="FILE", help="also write the new picture (.png) or foreground (.exr)")

    export = commands.add_parser("export", help="write a data set as parquet or webdataset, and to the Hub")
    export.set_defaults(run=_export)
    export.add_argument("folder", metavar="DIR", help="folder that render wrote")
    export.add_argument("--format", default="parquet", help="parquet or webdataset (default parquet)")
    export.add_argument("--output", required=True, help="new folder to write")
    export.add_argument("--samples_per_file", default="1000", help="samples a file (default 1000)")
    export.add_argument(
        "--push_to_hub", metavar="OWNER/NAME", help="then upload it; log in with `hf auth login` before"
    )
    export.add_argument("--private", action="store_true", help="make the data set on the Hub private if it is new")

    template = commands.add_parser("template", help="print a recipe with every factor, its default and its meaning")
    template.set_defaults(run=_template)
    template.add_argument("--families", nargs="+", default=["fur"], metavar="NAME", help="subjects (default: fur)")
    return parser


def main(argv: list[str] | None = None, prog: str = "sdseg") -> int:
    """Runs a command; returns the exit code (1 for damage or a failed run, 2 for wrong input)."""
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
    sys.exit(main(prog="python -m synth_data"))
