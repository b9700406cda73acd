"""The config of benchmarks/quality.py and the published figures, checked when they are read."""

import shlex
import sys
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sdseg.errors import did_you_mean
from sdseg.training.config import ConfigError

BUILT_IN = {
    "best_constant": "the constant with the lowest MSE over the set, fitted to the truths",
    "trimap": "the trimap itself, 0.5 where it is unknown",
}
WITH_TRIMAPS = ("composition-1k", "alphamatting")  # named sets whose trimaps are part of them
TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


@dataclass(frozen=True)
class Render:
    """Held-out pictures of our own: the settings of `python -m synth_data render`."""

    recipe: str
    count: int
    size: int
    seed: int


@dataclass(frozen=True)
class SetEntry:
    """A data set: `render`, or `images` and `truths` beneath --data_root, or `dataset`, the name of a benchmark set."""

    title: str
    kind: str = ""
    """matte or binary; a benchmark set has its own"""
    source: str = ""
    """its origin and terms"""
    render: Render | None = None
    images: str = ""
    truths: str = ""
    trimaps: str = ""
    pattern: str = "*"
    """shell pattern of the names in `images` that belong to it"""
    dataset: str = ""
    split: str = ""
    longest_side: int = 0
    """pixels; larger pictures, truths and trimaps are reduced to it by area averaging (0: never)"""
    strip: list[str] = field(default_factory=list)
    """methods shown in a picture on the page; only for our own renders, which may be redistributed"""


@dataclass(frozen=True)
class MethodEntry:
    """A method: `command`, or `folder` of existing maps beneath --data_root, or `built_in`."""

    title: str
    command: str = ""
    """as a user would type it, with {images}, {output} and, for a method that needs them, {trimaps}"""
    folder: str = ""
    built_in: str = ""
    sets: list[str] = field(default_factory=list)
    """only these (default: all that it can run on)"""
    depends: list[str] = field(default_factory=list)
    """files and folders of the project that decide the mattes; a change runs the method again"""
    packages: list[str] = field(default_factory=list)
    """distributions that decide the mattes; another version runs the method again"""
    device: str = ""
    """cuda: not run on machines without it"""
    get: str = ""
    """command that makes what `depends` names"""


@dataclass(frozen=True)
class Quality:
    """The whole config."""

    sets: dict[str, SetEntry]
    methods: dict[str, MethodEntry]
    reference: str
    """the method that all others are compared with"""
    leads: dict[str, str] = field(default_factory=dict)
    """{set: method that must have a lower MAD there than every method without a trimap}"""
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    """level, draws and seed of the bootstrap over pictures"""


def needs_trimap(method: MethodEntry) -> bool:
    return "{trimaps}" in method.command or method.built_in == "trimap"


def has_trimap(entry: SetEntry) -> bool:
    return bool(entry.trimaps) or entry.dataset in WITH_TRIMAPS


def applicable(name: str, method: MethodEntry, set_name: str, entry: SetEntry) -> bool:
    """Whether the table of a set has a row for a method."""
    return (not method.sets or set_name in method.sets) and (has_trimap(entry) or not needs_trimap(method))


def read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a config with --config FILE") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error


def parse_entry(cls: type, given: Any, location: str) -> Any:
    """A mapping as a dataclass. Raises ConfigError that names `location`, the key and the remedy."""
    if not isinstance(given, dict):
        raise ConfigError(f"{location}: is {given!r}; write a mapping of {', '.join(f.name for f in fields(cls))}")
    known = {item.name: item for item in fields(cls)}
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; choose among {', '.join(known)}"
            raise ConfigError(f"{location}.{key}: no such key{hint}")
        kind = get_origin(known[key].type) or known[key].type  # list[str] -> list
        if kind in TYPE_NAMES and (
            isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind)
        ):
            raise ConfigError(f"{location}.{key}: is {value!r}; give {TYPE_NAMES[kind]}")
    required = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    if missing := [name for name in required if name not in given]:
        raise ConfigError(f"{location}: {missing[0]} is missing; add it")
    return cls(**given)


def load_config(path: Path) -> Quality:
    """Reads and checks the config. Raises ConfigError naming file, key and remedy."""
    given = read_yaml(path)
    config = parse_entry(Quality, given, str(path))
    sets, methods = {}, {}
    for name, entry in config.sets.items():
        location = f"{path}: sets.{name}"
        entry = parse_entry(SetEntry, entry, location)
        if entry.render is not None:
            entry = replace(entry, render=parse_entry(Render, entry.render, f"{location}.render"))
        sets[name] = check_set(entry, location)
    for name, entry in config.methods.items():
        location = f"{path}: methods.{name}"
        entry = parse_entry(MethodEntry, entry, location)
        if sum(map(bool, (entry.command, entry.folder, entry.built_in))) != 1:
            raise ConfigError(f"{location}: give one of command, folder and built_in")
        if entry.built_in and entry.built_in not in BUILT_IN:
            raise ConfigError(f"{location}.built_in: is {entry.built_in!r}; choose among {', '.join(BUILT_IN)}")
        if entry.command and not {"{images}", "{output}"} <= set(shlex.split(entry.command)):
            raise ConfigError(f"{location}.command: needs the arguments {{images}} and {{output}}")
        if entry.device not in ("", "cuda"):
            raise ConfigError(f"{location}.device: is {entry.device!r}; write cuda or leave it out")
        check_names(entry.sets, sets, f"{location}.sets")
        methods[name] = entry
    for name, entry in sets.items():
        check_names(entry.strip, methods, f"{path}: sets.{name}.strip")
    check_names([config.reference], methods, f"{path}: reference")
    check_names(config.leads, sets, f"{path}: leads")
    check_names(config.leads.values(), methods, f"{path}: leads")
    if not 0 < config.confidence < 1:
        raise ConfigError(f"{path}: confidence: is {config.confidence}; give a share between 0 and 1, such as 0.95")
    if config.resamples < 1:
        raise ConfigError(f"{path}: resamples: is {config.resamples}; give 1 or more, 10000 is usual")
    return replace(config, sets=sets, methods=methods)


def check_set(entry: SetEntry, location: str) -> SetEntry:
    """Adds the kind of a benchmark set. Raises ConfigError for settings that exclude each other."""
    from sdseg.evaluation.benchmark_sets import describe

    if sum(map(bool, (entry.render, entry.images or entry.truths, entry.dataset))) != 1:
        raise ConfigError(f"{location}: give one of render, images with truths, and dataset")
    if bool(entry.images) != bool(entry.truths):
        raise ConfigError(f"{location}: images and truths belong together; give both")
    if entry.dataset:
        try:
            kind = describe(entry.dataset).kind
        except ValueError as error:
            raise ConfigError(f"{location}.dataset: {error}") from error
        entry = replace(entry, kind=entry.kind or kind)
    if entry.kind not in ("matte", "binary"):
        raise ConfigError(f"{location}.kind: is {entry.kind!r}; write matte or binary")
    if entry.strip and not entry.render:
        raise ConfigError(f"{location}.strip: only our own renders may be redistributed; leave it out")
    return entry


def check_names(names: Any, known: dict[str, Any], location: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{location}: there is no {name!r}; choose among {', '.join(known)}")


def render_command(settings: Render) -> list[str]:
    flags = ["--recipe", settings.recipe, "--count", settings.count, "--size", settings.size, "--seed", settings.seed]
    return ["python", "-m", "synth_data", "render", *map(str, flags)]


# ------------------------------------------------------------------------------------------------------ quoted


@dataclass(frozen=True)
class Quoted:
    """One published table, or the part of it that is quoted."""

    dataset: str
    """name of a benchmark set, or the paper's own name"""
    source: str
    """paper, year, table"""
    verified: str
    """address at which the figures were read"""
    protocol: str
    """over which pixels, after which training, computed how"""
    resolution: str
    units: dict[str, str]
    """figure -> its unit"""
    figures: dict[str, dict[str, float | None]]
    """method -> figure -> value"""


def read_quoted(path: Path) -> list[Quoted]:
    """Reads and checks the published figures. Raises ConfigError naming file, entry and remedy."""
    given = read_yaml(path)
    if not isinstance(given, list):
        raise ConfigError(f"{path}: is not a list; write a list of quoted tables")
    tables = []
    for number, entry in enumerate(given):
        location = f"{path}: entry {number + 1}"
        table = parse_entry(Quoted, entry, location)
        for method, figures in table.figures.items():
            if not isinstance(figures, dict) or not figures:
                raise ConfigError(f"{location}.figures.{method}: is {figures!r}; give figures by name")
            for name, value in figures.items():
                if name not in table.units:
                    raise ConfigError(f"{location}.figures.{method}.{name}: has no unit; add it to units")
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise ConfigError(f"{location}.figures.{method}.{name}: is {value!r}; give a number")
        tables.append(table)
    return tables
