"""How good every method is on every data set: runs what is missing, judges it, and writes docs/results.md.

    python benchmarks/quality.py                               the sets that anyone can make: our own renders
    python benchmarks/quality.py --data_root DIR               and the folders of the config that lie beneath DIR
    python benchmarks/quality.py --data aim-500=DIR            and a set that `sdseg sets list` names

The config lists methods, each as the command a user would type, and data sets. What a row needs and is not here
(data, weights, a package, a GPU) leaves it in the table as "not run", with the command that fills it. Results are
kept in the work folder under everything they depend on, so a second run does nothing and an interrupted one goes on:

    <work>/<set>/inputs/{images,truths,trimaps}/   what every method is given, brought to size once
    <work>/<set>/<method>/mattes/                  the ordinary output folder; made.json and judged.json beside it
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
from dataclasses import asdict, dataclass, replace
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
from quality_page import write_page

from sdseg.training.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from sdseg.evaluation.benchmark_sets import BenchmarkSet

ROOT = Path(__file__).resolve().parents[1]
CONFIG, QUOTED, WORK, OUTPUT = (
    "configs/benchmarks/quality.yaml",
    "configs/benchmarks/quoted.yaml",
    "runs/quality",
    "docs/results.md",
)
JUDGES = [  # a change here judges again, and runs nothing
    "sdseg/imaging.py",
    *(
        f"sdseg/evaluation/{name}.py"
        for name in ("evaluate", "judging", "intervals", "metrics", "segmentation_metrics")
    ),
]
JUDGE_PACKAGES = ["numpy", "scipy", "opencv-python-headless"]


class Missing(Exception):
    """Something that a row needs is not here. `what` it is, and the `command` that brings or names it."""

    def __init__(self, what: str, command: str):
        super().__init__(what)
        self.what, self.command = what, command


# -------------------------------------------------------------------------------------------- what is kept


def digest(path: Path) -> str:
    """Of a file's content, or of all files beneath a folder and their names."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file() and f.suffix != ".pyc")
    for file in files:
        found.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def listing(files: list[Path]) -> str:
    """Digest of names and sizes: enough to see that a data set has changed without reading gigabytes."""
    return hashlib.sha256(repr([(file.name, file.stat().st_size) for file in files]).encode()).hexdigest()[:16]


def versions(packages: list[str]) -> dict[str, str]:
    """Raises Missing for a distribution that is not installed."""
    from sdseg import __version__

    found = {"sdseg": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError as error:
            raise Missing(f"{name} is not installed", f"pip install {name}") from error
    return found


def read_json(path: Path) -> dict | None:
    """None where there is no such file, or only a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class Place:
    """Where things are in this run."""

    work: Path
    data_root: Path | None
    data: dict[str, Path]
    """folders of sets, by their name in the config"""
    workers: int
    remark: str
    """what the commands of this run need besides, such as --config FILE"""

    def again(self, set_name: str, entry: SetEntry, method: str = "") -> str:
        """The command that fills the rows of a set, or one of them."""
        words = [self.remark, f"--sets {set_name}", f"--methods {method}" if method else ""]
        words.append(f"--data {set_name}=DIR" if entry.dataset else "" if entry.render else "--data_root $DATA")
        return " ".join(word for word in ("python benchmarks/quality.py", *words) if word)

    def inputs(self, set_name: str) -> Path:
        return self.work / set_name / "inputs"

    def anonymous(self, text: str) -> str:
        """Text without this machine's folders."""
        folders = {str(self.work.resolve()): "$WORK", str(self.work): "$WORK"}
        if self.data_root:
            folders |= {str(self.data_root.resolve()): "$DATA", str(self.data_root): "$DATA"}
        folders |= {str(path): f"${name}" for name, path in self.data.items()}
        folders[str(ROOT) + "/"] = ""
        for folder in sorted(folders, key=len, reverse=True):
            text = text.replace(folder, folders[folder])
        return text


def beneath(place: Place, relative: str, command: str) -> Path:
    """A folder of the config beneath --data_root. Raises Missing."""
    if place.data_root is None:
        raise Missing("data not given", command)
    path = place.data_root / relative
    if not path.is_dir():
        raise Missing(f"`$DATA/{relative}` is not there", command)
    return path


def open_entry(name: str, entry: SetEntry, place: Place) -> "BenchmarkSet":
    """Raises Missing where its data are not here, FileNotFoundError where they are not laid out as they should be."""
    from sdseg.evaluation.benchmark_sets import folder_pair, open_set

    if entry.render:
        folder = render(name, entry.render, place)
        return folder_pair(folder / "images", folder / "alpha", entry.kind)
    if entry.dataset:
        if name not in place.data:
            raise Missing("data not given", place.again(name, entry))
        return open_set(entry.dataset, place.data[name], entry.split or None)
    command = place.again(name, entry)
    images, truths = beneath(place, entry.images, command), beneath(place, entry.truths, command)
    opened = folder_pair(images, truths, entry.kind)
    items = [item for item in opened.items if fnmatch(item.name, entry.pattern)]
    if not items:
        raise FileNotFoundError(f"{images}: no picture is called {entry.pattern}; correct sets.{name}.pattern")
    if entry.trimaps:
        folder = beneath(place, entry.trimaps, command)
        items = [replace(item, trimap=folder / f"{item.name}.png") for item in items]
    return replace(opened, items=items)


def render(name: str, made: Render, place: Place) -> Path:
    """Renders what is missing of a held-out set; rendering goes on where it was interrupted."""
    folder = place.work / name / "rendered"
    command = [*render_command(made), "--workers", str(place.workers), "--output", str(folder)]
    told = read_json(folder.with_name("rendered.json"))
    code = {"recipe_digest": digest(ROOT / made.recipe), "renderer_digest": digest(ROOT / "synth_data")}
    key = asdict(made) | code | {"mitsuba": version("mitsuba")}
    if told == key:
        return folder
    if told != key | {"done": False}:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(folder.with_name("rendered.json"), key | {"done": False})
    execute(command, place.work / name / "render.log", f"{name}: render")
    write_json(folder.with_name("rendered.json"), key)
    return folder


def prepare(name: str, entry: SetEntry, place: Place) -> dict:
    """Writes the inputs of a set unless they are there; returns {"key", "pictures"}.

    Raises Missing where the data are not here and have not been prepared before.
    """
    inputs, settings = place.inputs(name), set_settings(entry)
    try:
        opened = open_entry(name, entry, place)
    except Missing as missing:
        return left(name, entry, place, missing)
    files = [file for item in opened.items for file in (item.image, item.truth, item.trimap, *item.sources) if file]
    found = {"settings": settings, "pictures": len(opened.items), "files": listing(files)}
    if read_json(inputs / "prepared.json") == found:
        return found
    print(f"{name}: prepare {len(opened.items)} pictures", flush=True)
    shutil.rmtree(inputs, ignore_errors=True)
    write_inputs(opened, entry.longest_side, inputs)
    write_json(inputs / "prepared.json", found)
    return found


def set_settings(entry: SetEntry) -> dict:
    """The settings of a set that decide what methods are given."""
    return {key: value for key, value in asdict(entry).items() if key not in ("title", "source", "strip")}


def left(name: str, entry: SetEntry, place: Place, missing: Missing) -> dict:
    """A set as an earlier run prepared it. Raises `missing` where none has."""
    kept = read_json(place.inputs(name) / "prepared.json")
    if kept and kept["settings"] == set_settings(entry):
        return kept
    raise missing


def write_inputs(opened: "BenchmarkSet", longest_side: int, inputs: Path) -> None:
    """Pictures, truths and trimaps of a set as PNG by item name, none longer than `longest_side` (0: as they are)."""
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
    """[H, W] -> [h, w] of the same proportions whose longer side is at most `longest_side` (0: any)."""
    scale = longest_side / max(shape)
    return tuple(max(1, round(side * scale)) for side in shape) if longest_side and scale < 1 else shape


def reduced(values: "np.ndarray", shape: tuple[int, int]) -> "np.ndarray":
    """float32 [H, W, ...] -> [h, w, ...], no larger: means over the area of each pixel."""
    import cv2

    return values if values.shape[:2] == shape else cv2.resize(values, shape[::-1], interpolation=cv2.INTER_AREA)


def reduced_trimap(trimap: "np.ndarray", shape: tuple[int, int]) -> "np.ndarray":
    """uint8 [H, W] of 0, 128, 255 -> float32 [h, w] of 0, 0.5, 1: known where every pixel beneath is known alike."""
    import numpy as np

    subject, background = (reduced((trimap == value).astype(np.float32), shape) for value in (255, 0))
    sure = 1 - 1e-4  # sums of single-precision weights
    return np.where(subject >= sure, 1, np.where(background >= sure, 0, 0.5)).astype(np.float32)


# --------------------------------------------------------------------------------------------------- methods


def write_json(path: Path, value: dict) -> None:
    from sdseg.outputs import write_json as write

    write(path, value)


def execute(command: list[str], log: Path, what: str) -> None:
    """Runs a command in the project's root, its output in `log`. Raises RuntimeError with its own error line."""
    print(f"{what}: {shlex.join(command)}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, *command[1:]] if command[0] == "python" else command
    with log.open("w", encoding="utf-8") as output:
        try:
            code = subprocess.run(words, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
        except OSError as error:
            raise RuntimeError(f"{words[0]}: {error.strerror}") from error
    if code:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line] or [f"exit status {code}, and no word of why"]
        told = [line for line in lines if line.startswith("error:")] or lines
        raise RuntimeError(told[-1].removeprefix("error:").strip())


def made_key(config: Quality, set_name: str, name: str, prepared: dict, place: Place) -> dict:
    """Everything that the mattes of a method on a set depend on. Raises Missing for what is not here."""
    method, depends = config.methods[name], {}
    command = place.again(set_name, config.sets[set_name], name)
    for path in method.depends:
        if not (ROOT / path).exists():
            raise Missing(f"`{path}` is not here", " && ".join(filter(None, (method.get, command))))
        depends[path] = digest(ROOT / path)
    if method.folder:
        folder = beneath(place, method.folder, command)
        depends[method.folder] = listing(sorted(file for file in folder.rglob("*") if file.is_file()))
    found = versions(method.packages)
    if method.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise Missing("there is no CUDA device", command)
    return {"settings": making(method), "set": prepared, "depends": depends, "versions": found}


def making(method: MethodEntry) -> dict:
    """The settings of a method that decide its mattes."""
    return {key: getattr(method, key) for key in ("command", "folder", "built_in")}


def make(config: Quality, set_name: str, name: str, prepared: dict, place: Place) -> tuple[Path, dict, bool]:
    """Makes the mattes of a method on a set unless they are there: (their folder, made.json, whether it was done now).

    Raises Missing, and RuntimeError where the method failed.
    """
    method, folder = config.methods[name], place.work / set_name / name
    mattes = place.data_root / method.folder if method.folder and place.data_root else folder / "mattes"
    kept = read_json(folder / "made.json")
    try:
        key = made_key(config, set_name, name, prepared, place)
    except Missing:
        if kept and kept["key"]["settings"] == making(method) and kept["key"]["set"] == prepared:
            return mattes, kept, False
        raise
    if kept and kept["key"] == key:
        return mattes, kept, False
    (folder / "made.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "mattes", ignore_errors=True)
    record = {"key": key, "seed": None, "device": None}
    inputs = place.inputs(set_name)
    if method.command:
        paths = {"{" + part + "}": str(inputs / part) for part in ("images", "trimaps")} | {"{output}": str(mattes)}
        words = [paths.get(word, word) for word in shlex.split(method.command)]
        execute(words, folder / "log.txt", f"{set_name}, {name}")
        settings = (read_json(mattes / "run.json") or {}).get("settings", {})
        record |= {part: settings.get(part) for part in ("seed", "device")}
    elif method.built_in:
        print(f"{set_name}, {name}: {BUILT_IN[method.built_in]}", flush=True)
        record["value"] = write_built_in(method.built_in, inputs, mattes)
    write_json(folder / "made.json", record)
    return mattes, record, True


def write_built_in(kind: str, inputs: Path, mattes: Path) -> float | None:
    """Writes the output folder of a method that is told the truth or the trimap; returns the constant, if it is one."""
    import numpy as np

    from sdseg.imaging import list_images, read_alpha, write_alpha
    from sdseg.outputs import write_run_record

    source = inputs / ("trimaps" if kind == "trimap" else "truths")
    files, value = list_images(source), None
    if kind == "best_constant":  # every picture counts alike, as in the mean of the table
        value = float(np.mean([read_alpha(file).mean(dtype=np.float64) for file in files]))
    rows = []
    for file in files:
        alpha, name = read_alpha(file), file.relative_to(source)
        write_alpha(mattes / name, alpha if value is None else np.full_like(alpha, value))
        rows.append({"input": name.as_posix(), "output": name.as_posix(), "size": [alpha.shape[1], alpha.shape[0]]})
    write_run_record(mattes, {"method": kind, "settings": {} if value is None else {"value": value}, "inputs": rows})
    return value


def judge(
    config: Quality, set_name: str, name: str, mattes: Path, made: dict, fresh: bool, place: Place
) -> tuple[dict, bool]:
    """Judges a method's mattes unless that was done: (judged.json, whether it was done now).

    Raises ValueError, OSError, and Missing where the mattes are not here.
    """
    file = place.work / set_name / name / "judged.json"
    kind, inputs = config.sets[set_name].kind, place.inputs(set_name)
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
    if not mattes.is_dir():  # a peer's maps, judged before in another way, that are not here now
        raise Missing("data not given", place.again(set_name, config.sets[set_name], name))
    from sdseg.evaluation.evaluate import evaluate_folder

    file.unlink(missing_ok=True)
    trimaps = inputs / "trimaps" if kind == "matte" and (inputs / "trimaps").is_dir() else None
    result = evaluate_folder(
        mattes,
        inputs / "truths",
        kind=kind,
        trimap_dir=trimaps,
        **key["bootstrap"],
        workers=place.workers,
    )
    judged = {"key": key, "made": made, "result": result}
    write_json(file, judged)
    return json.loads(file.read_text(encoding="utf-8")), True


# -------------------------------------------------------------------------------------------------- everything


@dataclass
class Row:
    """What became of a method on a set."""

    status: str
    """judged, not run or failed"""
    judged: dict | None = None
    reason: str = ""
    command: str = ""
    """what fills a row that was not run"""


@dataclass
class SetResult:
    rows: dict[str, Row]
    pictures: int = 0
    missing: Missing | None = None
    error: str = ""


def fill(config: Quality, sets: list[str], methods: list[str], place: Place) -> tuple[dict[str, SetResult], int]:
    """Runs and judges what is missing: {set: its rows}, and how much there was to do.

    Sets and methods that were not asked for are shown as they were left.
    """
    found, done = {}, 0
    for set_name, entry in config.sets.items():
        names = [name for name, method in config.methods.items() if applicable(name, method, set_name, entry)]
        found[set_name] = result = SetResult({})
        asked = set_name in sets
        try:
            unasked = Missing("not asked for", place.again(set_name, entry))
            prepared = prepare(set_name, entry, place) if asked else left(set_name, entry, place, unasked)
        except Missing as missing:
            result.missing = missing
            result.rows = {name: Row("not run", reason=missing.what, command=missing.command) for name in names}
            continue
        except (OSError, ValueError, RuntimeError) as error:
            result.error = place.anonymous(" ".join(str(error).split()))
            result.rows = {name: Row("failed", reason=result.error) for name in names}
            print(f"error: {set_name}: {error}", file=sys.stderr, flush=True)
            continue
        result.pictures = prepared["pictures"]
        for name in names:
            result.rows[name], worked = fill_row(config, set_name, name, prepared, place, asked and name in methods)
            done += worked
    return found, done


def fill_row(config: Quality, set_name: str, name: str, prepared: dict, place: Place, asked: bool) -> tuple[Row, bool]:
    """One row, and whether there was anything to do."""
    if not asked:
        kept = read_json(place.work / set_name / name / "judged.json")
        if (
            kept
            and kept["key"]["made"]["settings"] == making(config.methods[name])
            and kept["key"]["made"]["set"] == prepared
        ):
            return Row("judged", kept), False
        return Row("not run", reason="not asked for", command=place.again(set_name, config.sets[set_name], name)), False
    try:
        mattes, made, ran = make(config, set_name, name, prepared, place)
        judged, worked = judge(config, set_name, name, mattes, made, ran, place)
        return Row("judged", judged), ran or worked
    except Missing as missing:
        return Row("not run", reason=missing.what, command=missing.command), False
    except (OSError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        print(f"error: {set_name}, {name}: {message}", file=sys.stderr, flush=True)
        return Row("failed", reason=place.anonymous(message)), True


def check_leads(config: Quality, found: dict[str, SetResult]) -> list[tuple[bool | None, str]]:
    """The self-checks of `leads`: (held, or None where it could not be checked; what was found)."""
    checks = []
    for set_name, leader in config.leads.items():
        rows = {name: row for name, row in found[set_name].rows.items() if row.judged}
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


def parse_data(given: list[str], config: Quality) -> dict[str, Path]:
    data = {}
    for text in given:
        name, equals, folder = text.partition("=")
        named = [key for key, entry in config.sets.items() if entry.dataset]
        if not equals or name not in named:
            raise ConfigError(f"--data {text}: write NAME=DIR, NAME one of {', '.join(named) or 'none in this config'}")
        data[name] = Path(folder).resolve()
    return data


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="Exit status: 0 all is well; 1 a method failed or a self-check did not hold; 2 nothing done.",
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path(CONFIG), help=f"methods and data sets (default {CONFIG})")
    add("--quoted", type=Path, default=Path(QUOTED), help=f"published figures (default {QUOTED})")
    add("--data_root", type=Path, metavar="DIR", help="folder that the config's relative folders lie in")
    add("--data", action="append", default=[], metavar="NAME=DIR", help="where a named set lies; may be repeated")
    add("--sets", nargs="+", metavar="NAME", help="only these; the others are shown as they were left")
    add("--methods", nargs="+", metavar="NAME", help="only these; the others are shown as they were left")
    add("--work", type=Path, default=Path(WORK), help=f"work folder (default {WORK})")
    add("--output", type=Path, default=Path(OUTPUT), help=f"page to write (default {OUTPUT})")
    add("--workers", type=int, default=os.cpu_count(), help="processes that render and judge; they change no figure")
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
        place = Place(
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
        found, done = fill(config, sets, methods, place)
        checks = check_leads(config, found)
        write_page(arguments.output, config, found, checks, quoted, place)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    counts = {status: sum(row.status == status for result in found.values() for row in result.rows.values())
              for status in ("judged", "not run", "failed")}  # fmt: skip
    print(
        "nothing to do: everything that can be run here is judged" if not done else f"{done} rows made or judged anew"
    )
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    for held, text in checks:
        print(f"self-check: {text}", file=sys.stderr if held is False else sys.stdout)
    print(arguments.output)
    return 1 if counts["failed"] or any(held is False for held, _ in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
