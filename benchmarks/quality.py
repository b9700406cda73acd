"""Judges every method on every data set, runs what is missing, and writes docs/results.md.

    python benchmarks/quality.py                               our own renders, which anyone can make
    python benchmarks/quality.py --data_root DIR               also the config's folders beneath DIR
    python benchmarks/quality.py --data aim-500=DIR            also a set that `sdseg sets list` names

The config lists the data sets and the methods, each method as the command a user would type. A row that lacks
something (data, weights, a package, a GPU) stays in the table as "not run", with the command that fills it. Results
are kept in the work folder together with a record of everything they depend on, so a second run does nothing and an
interrupted one continues:

    <work>/<set>/inputs/{images,truths,trimaps}/   the input of every method, resized once
    <work>/<set>/<method>/mattes/                  its output folder, with made.json and judged.json beside it
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from quality_config import (
    BUILT_IN,
    MethodEntry,
    Quality,
    Render,
    SetEntry,
    applicable,
    check_names,
    load_config,
    needs_trimap,
    read_quoted,
    render_command,
)
from quality_results import ROOT, Missing, Row, SetResult, Workspace

from sdseg.training.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from sdseg.evaluation.benchmark_sets import BenchmarkSet

CONFIG, QUOTED, WORK, OUTPUT = (
    "configs/benchmarks/quality.yaml",
    "configs/benchmarks/quoted.yaml",
    "runs/quality",
    "docs/results.md",
)
JUDGES = [  # a change in these files judges all mattes again, without making them again
    "sdseg/imaging.py",
    "sdseg/metadata.py",
    "sdseg/evaluation/benchmark_sets/items.py",
    *(
        f"sdseg/evaluation/{name}.py"
        for name in ("evaluate", "judging", "intervals", "metrics", "segmentation_metrics")
    ),
]
JUDGE_PACKAGES = ["numpy", "scipy", "opencv-python-headless"]


# ---------------------------------------------------------------------------------- dependencies and records


def digest(path: Path) -> str:
    """Digest of a file's content, or of the content and names of all files beneath a folder."""
    content = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file() and f.suffix != ".pyc")
    for file in files:
        content.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:16]


def listing(files: list[Path]) -> str:
    """Digest of names and sizes, which shows that a data set has changed without reading gigabytes."""
    return hashlib.sha256(repr([(file.name, file.stat().st_size) for file in files]).encode()).hexdigest()[:16]


def versions(packages: list[str]) -> dict[str, str]:
    """Versions of sdseg, Python and these distributions. Raises Missing for one that is not installed."""
    from sdseg import __version__

    installed = {"sdseg": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = version(name)
        except PackageNotFoundError as error:
            raise Missing(f"{name} is not installed", f"pip install {name}") from error
    return installed


def read_json(path: Path) -> dict | None:
    """Content of a JSON file; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------- data sets


def beneath(workspace: Workspace, relative: str, command: str) -> Path:
    """The folder `relative` beneath --data_root. Raises Missing."""
    if workspace.data_root is None:
        raise Missing("data not given", command)
    path = workspace.data_root / relative
    if not path.is_dir():
        raise Missing(f"`$DATA/{relative}` does not exist", command)
    return path


def open_entry(name: str, entry: SetEntry, workspace: Workspace) -> "BenchmarkSet":
    """Opens a set of the config.

    Raises:
        Missing: its data are not available.
        FileNotFoundError: they have another layout than expected.
    """
    from sdseg.evaluation.benchmark_sets import folder_pair, open_set

    if entry.render:
        folder = render(name, entry.render, workspace)
        return folder_pair(folder / "images", folder / "alpha", entry.kind)
    if entry.dataset:
        if name not in workspace.data:
            raise Missing("data not given", workspace.command(name, entry))
        return open_set(entry.dataset, workspace.data[name], entry.split or None)
    command = workspace.command(name, entry)
    images, truths = beneath(workspace, entry.images, command), beneath(workspace, entry.truths, command)
    opened = folder_pair(images, truths, entry.kind)
    items = [item for item in opened.items if fnmatch(item.name, entry.pattern)]
    if not items:
        raise FileNotFoundError(f"{images}: no picture is named {entry.pattern}; correct sets.{name}.pattern")
    if entry.trimaps:
        folder = beneath(workspace, entry.trimaps, command)
        items = [replace(item, trimap=folder / f"{item.name}.png") for item in items]
    return replace(opened, items=items)


def render(name: str, settings: Render, workspace: Workspace) -> Path:
    """Renders a held-out set, or what an interrupted run left to render; returns its folder."""
    folder = workspace.work / name / "rendered"
    command = [*render_command(settings), "--workers", str(workspace.workers), "--output", str(folder)]
    recorded = read_json(folder.with_name("rendered.json"))
    code = {"recipe_digest": digest(ROOT / settings.recipe), "renderer_digest": digest(ROOT / "synth_data")}
    key = asdict(settings) | code | {"mitsuba": version("mitsuba")}
    if recorded == key:
        return folder
    if recorded != key | {"done": False}:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(folder.with_name("rendered.json"), key | {"done": False})
    execute(command, workspace.work / name / "render.log", f"{name}: render")
    write_json(folder.with_name("rendered.json"), key)
    return folder


def prepare(name: str, entry: SetEntry, workspace: Workspace) -> dict:
    """Writes the inputs of a set unless they exist; returns its record, with `settings`, `pictures` and `files`.

    Raises:
        Missing: the data are not available, and no earlier run has prepared them.
    """
    inputs, settings = workspace.inputs(name), set_settings(entry)
    try:
        opened = open_entry(name, entry, workspace)
    except Missing as missing:
        return prepared_before(name, entry, workspace, missing)
    files = [file for item in opened.items for file in (item.image, item.truth, item.trimap, *item.sources) if file]
    record = {"settings": settings, "pictures": len(opened.items), "files": listing(files)}
    if read_json(inputs / "prepared.json") == record:
        return record
    print(f"{name}: prepare {len(opened.items)} pictures", flush=True)
    shutil.rmtree(inputs, ignore_errors=True)
    write_inputs(opened, entry.longest_side, inputs)
    write_json(inputs / "prepared.json", record)
    return record


def set_settings(entry: SetEntry) -> dict:
    """The settings of a set that decide the methods' input."""
    return {key: value for key, value in asdict(entry).items() if key not in ("title", "source", "strip")}


def prepared_before(name: str, entry: SetEntry, workspace: Workspace, missing: Missing) -> dict:
    """The record of a set that an earlier run prepared. Raises `missing` where none has."""
    kept = read_json(workspace.inputs(name) / "prepared.json")
    if kept and kept["settings"] == set_settings(entry):
        return kept
    raise missing


def write_inputs(opened: "BenchmarkSet", longest_side: int, inputs: Path) -> None:
    """Writes pictures, truths and trimaps as PNG named by item, no side longer than `longest_side` (0: unchanged)."""
    import numpy as np

    from sdseg.imaging import write_alpha, write_image

    for item in opened.items:
        image, truth, trimap = opened.read_image(item), opened.read_truth(item), opened.read_trimap(item)
        shape = reduced_shape(image.shape[:2], longest_side)
        image = np.rint(reduced(image.astype(np.float32), shape)).astype(np.uint8)
        write_image(inputs / "images" / f"{item.name}.png", image)
        write_alpha(inputs / "truths" / f"{item.name}.png", reduced(truth, shape).clip(0, 1))
        if trimap is not None:
            write_alpha(inputs / "trimaps" / f"{item.name}.png", reduced_trimap(trimap, shape))


def reduced_shape(shape: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """[H, W] -> [h, w] of the same proportions, the longer side at most `longest_side` (0: unlimited)."""
    scale = longest_side / max(shape)
    return tuple(max(1, round(side * scale)) for side in shape) if longest_side and scale < 1 else shape


def reduced(values: "np.ndarray", shape: tuple[int, int]) -> "np.ndarray":
    """float32 [H, W, ...] -> [h, w, ...], which is no larger, by area averaging."""
    import cv2

    return values if values.shape[:2] == shape else cv2.resize(values, shape[::-1], interpolation=cv2.INTER_AREA)


def reduced_trimap(trimap: "np.ndarray", shape: tuple[int, int]) -> "np.ndarray":
    """uint8 [H, W] of 0, 128, 255 -> float32 [h, w] of 0, 0.5, 1; known where all pixels covered agree."""
    import numpy as np

    subject, background = (reduced((trimap == value).astype(np.float32), shape) for value in (255, 0))
    whole = 1 - 1e-4  # but for rounding of single-precision weights
    return np.where(subject >= whole, 1, np.where(background >= whole, 0, 0.5)).astype(np.float32)


# --------------------------------------------------------------------------------------------------- methods


def write_json(path: Path, value: dict) -> None:
    from sdseg.outputs import write_json as write

    write(path, value)


def execute(command: list[str], log: Path, what: str) -> None:
    """Runs a command in the project's root, its output in `log`.

    Raises:
        RuntimeError: it failed; the message is its own line of error.
    """
    print(f"{what}: {shlex.join(command)}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, *command[1:]] if command[0] == "python" else command
    with log.open("w", encoding="utf-8") as output:
        try:
            code = subprocess.run(arguments, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
        except OSError as error:
            raise RuntimeError(f"{arguments[0]}: {error.strerror}") from error
    if code:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line] or [f"exit status {code} without a message"]
        errors = [line for line in lines if line.startswith("error:")] or lines
        raise RuntimeError(errors[-1].removeprefix("error:").strip())


def made_key(config: Quality, set_name: str, name: str, prepared: dict, workspace: Workspace) -> dict:
    """Everything that the mattes of a method on a set depend on. Raises Missing for what is not available."""
    method, depends = config.methods[name], {}
    command = workspace.command(set_name, config.sets[set_name], name)
    for path in method.depends:
        if not (ROOT / path).exists():
            raise Missing(f"`{path}` does not exist", " && ".join(filter(None, (method.get, command))))
        depends[path] = digest(ROOT / path)
    if method.folder:
        folder = beneath(workspace, method.folder, command)
        depends[method.folder] = listing(sorted(file for file in folder.rglob("*") if file.is_file()))
    installed = versions(method.packages)
    if method.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise Missing("there is no CUDA device", command)
    return {"settings": matte_settings(method), "set": prepared, "depends": depends, "versions": installed}


def matte_settings(method: MethodEntry) -> dict:
    """The settings of a method that decide its mattes."""
    return {key: getattr(method, key) for key in ("command", "folder", "built_in")}


def make(config: Quality, set_name: str, name: str, prepared: dict, workspace: Workspace) -> tuple[Path, dict, bool]:
    """Makes the mattes of a method on a set unless they exist: (their folder, made.json, whether they are new).

    Raises:
        Missing: something that it needs is not available.
        RuntimeError: the method failed.
    """
    method, folder = config.methods[name], workspace.work / set_name / name
    mattes = workspace.data_root / method.folder if method.folder and workspace.data_root else folder / "mattes"
    kept = read_json(folder / "made.json")
    try:
        key = made_key(config, set_name, name, prepared, workspace)
    except Missing:
        if kept and kept["key"]["settings"] == matte_settings(method) and kept["key"]["set"] == prepared:
            return mattes, kept, False
        raise
    if kept and kept["key"] == key:
        return mattes, kept, False
    (folder / "made.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "mattes", ignore_errors=True)
    record = {"key": key, "seed": None, "device": None}
    inputs = workspace.inputs(set_name)
    if method.command:
        paths = {"{" + part + "}": str(inputs / part) for part in ("images", "trimaps")} | {"{output}": str(mattes)}
        command = [paths.get(argument, argument) for argument in shlex.split(method.command)]
        execute(command, folder / "log.txt", f"{set_name}, {name}")
        settings = (read_json(mattes / "run.json") or {}).get("settings", {})
        record |= {part: settings.get(part) for part in ("seed", "device")}
    elif method.built_in:
        print(f"{set_name}, {name}: {BUILT_IN[method.built_in]}", flush=True)
        record["value"] = write_built_in(method.built_in, inputs, mattes)
    write_json(folder / "made.json", record)
    return mattes, record, True


def write_built_in(kind: str, inputs: Path, mattes: Path) -> float | None:
    """Writes the output folder of a baseline made from truths or trimaps; returns its constant, if it has one."""
    import numpy as np

    from sdseg.imaging import list_images, read_alpha, write_alpha
    from sdseg.outputs import write_run_record

    source = inputs / ("trimaps" if kind == "trimap" else "truths")
    files, value = list_images(source), None
    if kind == "best_constant":  # pictures have equal weight, as in the table's means
        value = float(np.mean([read_alpha(file).mean(dtype=np.float64) for file in files]))
    rows = []
    for file in files:
        alpha, name = read_alpha(file), file.relative_to(source)
        write_alpha(mattes / name, alpha if value is None else np.full_like(alpha, value))
        rows.append({"input": name.as_posix(), "output": name.as_posix(), "size": [alpha.shape[1], alpha.shape[0]]})
    write_run_record(mattes, {"method": kind, "settings": {} if value is None else {"value": value}, "inputs": rows})
    return value


def judge(
    config: Quality, set_name: str, name: str, mattes: Path, made: dict, fresh: bool, workspace: Workspace
) -> tuple[dict, bool]:
    """Judges a method's mattes unless that is done: (judged.json, whether it is new).

    Raises:
        ValueError, OSError: the mattes cannot be judged.
        Missing: they are not available.
    """
    file = workspace.work / set_name / name / "judged.json"
    kind, inputs = config.sets[set_name].kind, workspace.inputs(set_name)
    key = {
        "made": made["key"],
        "kind": kind,
        "bootstrap": {part: getattr(config, part) for part in ("confidence", "resamples", "seed")},
        "depends": {path: digest(ROOT / path) for path in JUDGES},
        "versions": versions(JUDGE_PACKAGES),
    }
    kept = read_json(file)
    if kept and kept["key"] == key and not fresh:
        return kept, False
    if not mattes.is_dir():  # published maps, judged by other code before, that are not available now
        raise Missing("data not given", workspace.command(set_name, config.sets[set_name], name))
    from sdseg.evaluation.evaluate import evaluate_folder

    file.unlink(missing_ok=True)
    trimaps = inputs / "trimaps" if kind == "matte" and (inputs / "trimaps").is_dir() else None
    result = evaluate_folder(
        mattes,
        inputs / "truths",
        kind=kind,
        trimap_dir=trimaps,
        **key["bootstrap"],
        workers=workspace.workers,
    )
    judged = {"key": key, "made": made, "result": result}
    write_json(file, judged)
    return json.loads(file.read_text(encoding="utf-8")), True


# -------------------------------------------------------------------------------------------------- everything


def fill(
    config: Quality, sets: list[str], methods: list[str], workspace: Workspace
) -> tuple[dict[str, SetResult], int]:
    """Runs and judges what is missing: (results by set, number of rows made or judged).

    Sets and methods that are not selected are shown with their last results.
    """
    results, done = {}, 0
    for set_name, entry in config.sets.items():
        names = [name for name, method in config.methods.items() if applicable(name, method, set_name, entry)]
        results[set_name] = result = SetResult({})
        selected = set_name in sets
        try:
            if selected:
                prepared = prepare(set_name, entry, workspace)
            else:
                not_selected = Missing("not selected", workspace.command(set_name, entry))
                prepared = prepared_before(set_name, entry, workspace, not_selected)
        except Missing as missing:
            result.missing = missing
            result.rows = {name: Row("not run", reason=missing.what, command=missing.command) for name in names}
            continue
        except (OSError, ValueError, RuntimeError) as error:
            result.error = workspace.without_paths(" ".join(str(error).split()))
            result.rows = {name: Row("failed", reason=result.error) for name in names}
            print(f"error: {set_name}: {error}", file=sys.stderr, flush=True)
            continue
        result.pictures = prepared["pictures"]
        for name in names:
            result.rows[name], worked = fill_row(
                config, set_name, name, prepared, workspace, selected and name in methods
            )
            done += worked
    return results, done


def fill_row(
    config: Quality, set_name: str, name: str, prepared: dict, workspace: Workspace, selected: bool
) -> tuple[Row, bool]:
    """One row, and whether anything had to be done for it."""
    if not selected:
        kept = read_json(workspace.work / set_name / name / "judged.json")
        if (
            kept
            and kept["key"]["made"]["settings"] == matte_settings(config.methods[name])
            and kept["key"]["made"]["set"] == prepared
        ):
            return Row("judged", kept), False
        command = workspace.command(set_name, config.sets[set_name], name)
        return Row("not run", reason="not selected", command=command), False
    try:
        mattes, made, ran = make(config, set_name, name, prepared, workspace)
        judged, worked = judge(config, set_name, name, mattes, made, ran, workspace)
        return Row("judged", judged), ran or worked
    except Missing as missing:
        return Row("not run", reason=missing.what, command=missing.command), False
    except (OSError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        print(f"error: {set_name}, {name}: {message}", file=sys.stderr, flush=True)
        return Row("failed", reason=workspace.without_paths(message)), True


def check_leads(config: Quality, results: dict[str, SetResult]) -> list[tuple[bool | None, str]]:
    """The self-checks of `leads`: (whether it holds, None where it could not be checked; a sentence)."""
    checks = []
    for set_name, leader in config.leads.items():
        rows = {name: row for name, row in results[set_name].rows.items() if row.judged}
        if leader not in rows:
            checks.append((None, f"{set_name}: {leader} was not judged, so its lead was not checked"))
            continue
        without = [name for name in rows if not needs_trimap(config.methods[name])]
        for band in ("whole picture", "unknown"):
            mad = {name: mean_mad(rows[name].judged["result"], band) for name in (leader, *without)}
            mad = {name: value for name, value in mad.items() if value is not None}
            others = [name for name in without if name in mad]
            if leader not in mad or not others:
                continue
            best = min(others, key=mad.get)
            held = mad[leader] < mad[best]
            verdict = "leads every method without a trimap" if held else "does NOT lead every method without a trimap"
            figures = f"MAD {mad[leader]:.4f}, the best of them {best} {mad[best]:.4f}"
            checks.append((held, f"{set_name}, {band}: {leader} {verdict}: {figures}"))
    return checks


def mean_mad(result: dict, band: str) -> float | None:
    figures = result["mean"] if band == "whole picture" else result.get("bands", {}).get(band, {})
    return figures.get("mad", figures.get("mae"))


def parse_data(arguments: list[str], config: Quality) -> dict[str, Path]:
    data = {}
    for text in arguments:
        name, equals, folder = text.partition("=")
        names = [key for key, entry in config.sets.items() if entry.dataset]
        if not equals or name not in names:
            raise ConfigError(f"--data {text}: write NAME=DIR, NAME one of {', '.join(names) or 'none in this config'}")
        data[name] = Path(folder).resolve()
    return data


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="Exit status: 0 success; 1 a method or a self-check failed; 2 wrong arguments, nothing done.",
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path(CONFIG), help=f"methods and data sets (default {CONFIG})")
    add("--quoted", type=Path, default=Path(QUOTED), help=f"published figures (default {QUOTED})")
    add("--data_root", type=Path, metavar="DIR", help="parent of the config's relative folders")
    add("--data", action="append", default=[], metavar="NAME=DIR", help="folder of a benchmark set; may be repeated")
    add("--sets", nargs="+", metavar="NAME", help="only these; the others keep their last results")
    add("--methods", nargs="+", metavar="NAME", help="only these; the others keep their last results")
    add("--work", type=Path, default=Path(WORK), help=f"work folder (default {WORK})")
    add("--output", type=Path, default=Path(OUTPUT), help=f"page to write (default {OUTPUT})")
    add("--workers", type=int, default=os.cpu_count(), help="processes (the figures do not depend on them)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        quoted = read_quoted(arguments.quoted)
        check_names(arguments.sets or [], config.sets, "--sets")
        check_names(arguments.methods or [], config.methods, "--methods")
        if arguments.workers < 1:
            raise ConfigError(f"--workers {arguments.workers}: give at least 1")
        if arguments.data_root and not arguments.data_root.is_dir():
            raise ConfigError(f"--data_root {arguments.data_root}: no such folder")
        workspace = Workspace(
            arguments.work.resolve(),
            arguments.data_root.resolve() if arguments.data_root else None,
            parse_data(arguments.data, config),
            arguments.workers,
            ""
            if arguments.config == Path(CONFIG)
            else f"--config {arguments.config if not arguments.config.is_absolute() else arguments.config.name}",
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        sets, methods = arguments.sets or list(config.sets), arguments.methods or list(config.methods)
        results, done = fill(config, sets, methods, workspace)
        checks = check_leads(config, results)
        from quality_page import write_page

        write_page(arguments.output, config, results, checks, quoted, workspace)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    counts = {status: sum(row.status == status for result in results.values() for row in result.rows.values())
              for status in ("judged", "not run", "failed")}  # fmt: skip
    print("nothing to do: everything that can run here is judged" if not done else f"{done} rows made or judged")
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    for held, text in checks:
        print(f"self-check: {text}", file=sys.stderr if held is False else sys.stdout)
    print(arguments.output)
    return 1 if counts["failed"] or any(held is False for held, _ in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
