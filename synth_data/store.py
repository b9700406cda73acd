"""The data set on disk: reading and writing samples, and the index of the folder.

Composited on disk, a Hugging Face imagefolder:
images/000137.png       8-bit sRGB
alpha/000137.png        16-bit, 65535 = 1
masks/000137.png        target mask: 8-bit, 255 where alpha >= 0.5
classes/000137.png      target classes: 8-bit class ids, named in classes.json; 0 is the background
instances/000137.png    target classes: 8-bit instance ids; 0 is the background

Composited on the fly, one foreground and one background per sample, recombined in training:
foregrounds/000137.exr  half R, G, B (linear, premultiplied), A and 32-bit `instance`
backgrounds/000137.png  8-bit sRGB

Both:
metadata.jsonl          in index order: file names, seed, index, recipe, factors (a JSON string)
recipe.yaml             the recipe that it was rendered with
render.json             seed, size, variant, target, compositing, a digest of each folder that the recipe reads
                        from, and package versions
classes.json            target classes: {id: name}
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from synth_data.drawing import png
from synth_data.errors import MissingFile, UserError, one_line
from synth_data.files import ENVIRONMENT_SUFFIXES, MESH_SUFFIXES, files_below, picture_suffixes, warn

JOURNAL = ".rendered.jsonl"  # rows of samples in the order they finish; deleted when the run is complete
NEUTRAL = {"target": "alpha", "compositing": "disk", "inputs": {}}  # defaults of keys that a render.json lacks
TARGETS, COMPOSITING = ("alpha", "mask", "classes"), ("disk", "on_the_fly")
MADE_BY = ("mitsuba", "drjit", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow", "trimesh")
LICENCE = ("path", "source", "licence", "author")  # keys of an entry of `licences`; the last may be left out
BAD_LINE = "not a sample's row; delete that line and render again"


@dataclass(frozen=True)
class Pair:
    """A picture and its matte.

    Attributes:
        image: uint8 [H, W, 3], sRGB.
        alpha: float32 [H, W] in [0, 1].
        meta: seed, index, recipe (name) and factors (JSON string of every sampled factor).
        instances: uint8 [H, W], 0 background, k the picture's k-th subject; None unless the target is classes.
        classes: uint8 [H, W], 0 background, else the class id of the subject; None unless the target is classes.
    """

    image: np.ndarray
    alpha: np.ndarray
    meta: dict[str, Any]
    instances: np.ndarray | None = None
    classes: np.ndarray | None = None


@dataclass(frozen=True)
class Layers:
    """A foreground and a background, to be recombined with others.

    Attributes:
        colour: float16 [H, W, 3] >= 0, linear light, premultiplied.
        alpha: float16 [H, W] in [0, 1].
        instances: uint8 [H, W], as in `Pair`.
        background: uint8 [H, W, 3], sRGB.
        meta: as in `Pair`.
    """

    colour: np.ndarray
    alpha: np.ndarray
    instances: np.ndarray
    background: np.ndarray
    meta: dict[str, Any]


# ------------------------------------------------------------------------------------------------ one sample


def file_names(index: int, target: str = "alpha", compositing: str = "disk") -> dict[str, str]:
    """The files of a sample: metadata column -> path relative to the folder."""
    if compositing == "on_the_fly":
        return {
            "file_name": f"foregrounds/{index:06d}.exr",
            "background_file_name": f"backgrounds/{index:06d}.png",
        }
    names = {"file_name": f"images/{index:06d}.png", "alpha_file_name": f"alpha/{index:06d}.png"}
    if target == "mask":
        names["mask_file_name"] = f"masks/{index:06d}.png"
    elif target == "classes":
        names["classes_file_name"] = f"classes/{index:06d}.png"
        names["instances_file_name"] = f"instances/{index:06d}.png"
    return names


def files_of(row: dict[str, Any]) -> dict[str, str]:
    """The file columns of a metadata row."""
    return {key: value for key, value in row.items() if key.endswith("file_name")}


def meta_of(row: dict[str, Any]) -> dict[str, Any]:
    """The other columns of a metadata row: what `Pair.meta` holds."""
    return {key: value for key, value in row.items() if not key.endswith("file_name")}


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: it is complete or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_png(path: Path, mode: str) -> np.ndarray:
    """The pixels of a PNG whose Pillow mode must be `mode`; UserError if it cannot be read or has another mode."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels, found = np.asarray(image), image.mode
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise many types
        raise UserError(f"{path}: not a complete PNG ({one_line(error)}); render it again") from error
    if found != mode:
        raise UserError(f"{path}: pixels have mode {found}, not {mode}; render it again")
    return pixels


def _exr(layers: Layers) -> bytes:
    """Colour, alpha and instances as OpenEXR."""
    import OpenEXR

    rgba = np.concatenate([layers.colour, layers.alpha[..., None]], -1)
    channels = {"RGBA": np.ascontiguousarray(rgba), "instance": layers.instances.astype(np.uint32)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = io.BytesIO()
    OpenEXR.File(header, channels, num_threads=0).write(buffer)
    return buffer.getvalue()


def read_foreground(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(colour, alpha, instances) of a foreground file; UserError if it cannot be read."""
    import OpenEXR

    content = path.read_bytes()
    try:
        channels = OpenEXR.File(io.BytesIO(content), num_threads=0).channels()
        rgba, instances = channels["RGBA"].pixels, channels["instance"].pixels
    except Exception as error:  # the library raises several types
        raise UserError(f"{path}: not a complete foreground file ({one_line(error)}); render it again") from error
    return rgba[..., :3], rgba[..., 3], instances.astype(np.uint8)


def alpha_levels(alpha: np.ndarray) -> np.ndarray:
    """Alpha in [0, 1] as stored: uint16, 65535 = 1."""
    return np.round(alpha * 65535.0).astype(np.uint16)


def alpha_of(levels: np.ndarray) -> np.ndarray:
    """Alpha float32 in [0, 1] from stored levels uint16."""
    return levels.astype(np.float32) / np.float32(65535)


def write_pair(folder: Path, pair: Pair, target: str = "alpha") -> dict[str, Any]:
    """Writes a pair's files (the picture last, each complete or absent) and returns its metadata row.

    `target` (alpha, mask or classes) selects the files beside picture and matte.
    """
    names = file_names(pair.meta["index"], target)
    levels = alpha_levels(pair.alpha)
    write_bytes(folder / names["alpha_file_name"], png(levels))
    if target == "mask":
        write_bytes(folder / names["mask_file_name"], png(np.where(levels >= 32768, 255, 0).astype(np.uint8)))
    if target == "classes":
        write_bytes(folder / names["classes_file_name"], png(pair.classes))
        write_bytes(folder / names["instances_file_name"], png(pair.instances))
    write_bytes(folder / names["file_name"], png(pair.image))
    return {**names, **pair.meta}


def read_pair(folder: Path, row: dict[str, Any]) -> Pair:
    """The pair of a metadata row; the inverse of `write_pair`. UserError for a damaged file."""
    image = read_png(folder / row["file_name"], "RGB")
    alpha = alpha_of(read_png(folder / row["alpha_file_name"], "I;16"))
    instances, classes = (
        read_png(folder / row[key], "L") if key in row else None for key in ("instances_file_name", "classes_file_name")
    )
    return Pair(image, alpha, meta_of(row), instances, classes)


def write_layers(folder: Path, layers: Layers) -> dict[str, Any]:
    """Writes the two files of a foreground and its background and returns their metadata row."""
    names = file_names(layers.meta["index"], compositing="on_the_fly")
    write_bytes(folder / names["background_file_name"], png(layers.background))
    write_bytes(folder / names["file_name"], _exr(layers))
    return {**names, **layers.meta}


def read_layers(folder: Path, row: dict[str, Any]) -> Layers:
    """The layers of a metadata row; the inverse of `write_layers`. UserError for a damaged file."""
    colour, alpha, instances = read_foreground(folder / row["file_name"])
    background = read_png(folder / row["background_file_name"], "RGB")
    return Layers(colour, alpha, instances, background, meta_of(row))


# ------------------------------------------------------------------------------------------------ the folder


def _row(line: bytes, columns: set[str]) -> dict[str, Any] | None:
    """A line of metadata as a row; None if it is not a sample's row with these file columns."""
    try:
        row = json.loads(line.decode())
        sound = isinstance(json.loads(row["factors"]), dict) and isinstance(row["index"], int) and row["index"] >= 0
        sound = sound and columns <= row.keys() and all(isinstance(name, str) for name in files_of(row).values())
    except (ValueError, KeyError, TypeError):
        return None
    return row if sound else None


def _rows(path: Path, settings: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any] | None, bool]]:
    """(place, row or None, whether the line was cut off) of each line of a metadata file; nothing if it is absent."""
    columns = set(file_names(0, settings["target"], settings["compositing"]))
    *lines, rest = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        yield f"{path} line {number}", _row(line, columns), number > len(lines)


def read_rows(folder: Path) -> Iterable[tuple[str, dict[str, Any] | None]]:
    """(place, row) of each line of metadata.jsonl; row is None if the line is not a sample's.

    MissingFile if there is no metadata.jsonl; errors of `read_settings`.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise MissingFile(f"'{folder}' holds no metadata.jsonl; give a folder written by `sdseg render`")
    for place, row, _ in _rows(path, read_settings(folder)):
        yield place, row


def read_metadata(folder: Path, whole: bool = False) -> dict[int, dict[str, Any]]:
    """index -> row of every finished sample whose files are all there.

    A last line that was cut off, as a full disk leaves it, is skipped. UserError for any other line that is not a
    sample's row; if `whole`, also for metadata.jsonl's last line and for a missing file. Errors of `read_settings` too.
    """
    settings, rows = read_settings(folder), {}
    for name in ("metadata.jsonl", JOURNAL):
        for place, row, cut in _rows(folder / name, settings):
            if row is not None:
                rows[row["index"]] = row
            elif not cut or (whole and name != JOURNAL):
                raise UserError(f"{place}: {BAD_LINE}")
    kinds = {name.split("/")[0] for row in rows.values() for name in files_of(row).values()}
    there = {f"{kind}/{p.name}" for kind in kinds for p in (folder / kind).glob("[!.]*")}
    if whole and (missing := {name for row in rows.values() for name in files_of(row).values()} - there):
        raise UserError(f"{folder / min(missing)}: missing, though metadata.jsonl lists its sample; render again")
    return {i: row for i, row in rows.items() if there.issuperset(files_of(row).values())}


def write_metadata(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    """Writes metadata.jsonl atomically, in index order."""
    lines = [json.dumps(rows[i], ensure_ascii=False) + "\n" for i in sorted(rows)]
    write_bytes(folder / "metadata.jsonl", "".join(lines).encode())


def read_settings(folder: Path) -> dict[str, Any]:
    """The contents of render.json. MissingFile if there is none, UserError if it is damaged."""
    path = folder / "render.json"
    if not path.is_file():
        raise MissingFile(f"'{folder}' holds no render.json; give a folder written by `sdseg render`")
    try:
        settings = NEUTRAL | json.loads(path.read_text(encoding="utf-8"))
        for key, kind in {"seed": int, "size": int, "variant": str, "inputs": dict, "versions": dict}.items():
            if key not in settings and key != "versions":
                raise UserError(f"no {key}")
            if not isinstance(settings.get(key, {}), kind):
                raise UserError(f"{key}: {settings[key]!r}")
        for key, choices in {"target": TARGETS, "compositing": COMPOSITING}.items():
            if settings[key] not in choices:
                raise UserError(f"{key}: {settings[key]!r}")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not written by `sdseg render` ({one_line(error)}); delete the folder and render again"
        ) from error
    return settings


def read_recipe(folder: Path) -> tuple[str, dict[str, Any]]:
    """(text, content) of a set's recipe. MissingFile if there is none, UserError if it is damaged."""
    path = folder / "recipe.yaml"
    remedy = "restore the recipe that the set was rendered with"
    if not path.is_file():
        raise MissingFile(f"{path}: missing; {remedy}")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: damaged ({one_line(error)}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (not a mapping); {remedy}")
    return text, content


def read_licences(value: Any, place: str) -> tuple[dict[str, str], ...]:
    """A recipe's `licences`, checked: a list of mappings with the keys LICENCE. UserError if it is none."""
    form = "[{path: PATH, source: WHERE FROM, licence: LICENCE, author: WHO}, ...] (author may be left out)"
    if not isinstance(value, list):
        raise UserError(f"{place}: {value!r} is not a list; give {form}")
    for entry in value:
        known = isinstance(entry, dict) and set(LICENCE[:-1]) <= entry.keys() <= set(LICENCE)
        if not known or not all(isinstance(text, str) and text.strip() for text in entry.values()):
            raise UserError(f"{place}: {entry!r} is not an entry; give {form}")
    return tuple(value)


def attributions(folder: Path) -> list[str]:
    """Where a rendered or exported set's photos, environments and meshes come from, by its recipe: lines of Markdown.

    Errors as in `read_recipe`; UserError if the entries are not as `read_licences` takes them.
    """
    entries = read_licences(read_recipe(folder)[1].get("licences", []), f"{folder / 'recipe.yaml'}: licences")
    named = (f"{e['source']}, by {e['author']}" if "author" in e else e["source"] for e in entries)
    return list(dict.fromkeys(f"- {name}: {e['licence']}" for name, e in zip(named, entries, strict=True)))


def digest(path: str, every: bool = False) -> str | None:
    """A digest of the names and sizes of the files in a folder (or of a file) that a recipe refers to; None if absent.

    Hidden files and those that rendering never reads (notes, licences) do not count, unless with `every`, as earlier
    versions had it. A data set on the Hub is not a folder here and is recorded as None.
    """
    place = Path(path)
    if not place.exists():
        return None
    if not place.is_dir():
        files = [place]
    elif every:
        files = sorted(p for p in place.rglob("*") if p.is_file())
    else:
        kinds = {*picture_suffixes(), *ENVIRONMENT_SUFFIXES, *MESH_SUFFIXES, ".mtl", ".bin", ".parquet"}
        files = sorted(p for p in files_below(place) if p.suffix.lower() in kinds)
    listed = "".join(f"{p.relative_to(place.parent).as_posix()}\t{p.stat().st_size}\n" for p in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def changed_inputs(inputs: dict[str, str | None]) -> list[str]:
    """The paths among a set's `inputs` (path -> `digest`) that hold other files now."""
    return [path for path, was in sorted(inputs.items()) if was not in (digest(path), digest(path, every=True))]


def _difference(found: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """In words, the first setting (inputs aside) in which the folder's rendering differs from this one, or None."""
    for key, value in settings.items():
        if key != "inputs" and found.get(key) != value:
            return f"{key} {found.get(key)}, not {value}"
    return None


def _other_inputs(found: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The inputs that hold other files than when the folder's rendering began."""
    named = {*found["inputs"], *settings["inputs"]}
    return changed_inputs({path: found["inputs"].get(path) for path in named})


def open_folder(
    folder: Path,
    recipe_text: str,
    settings: dict[str, Any],
    classes: dict[int, str],
    used: Callable[[str], bool] = lambda path: True,
) -> None:
    """Creates the folder, or checks that it was rendered with the same recipe and settings.

    `settings` holds seed, size, variant, target, compositing and inputs (path -> `digest`); `classes` names each class
    id. Inputs may have changed unless a finished sample depends on them: `used(path)`. UserError if the folder differs,
    is damaged or is not writable.
    """
    remedy = "give another --output, or delete the folder"
    names = file_names(0, settings["target"], settings["compositing"]).values()
    kinds = [name.split("/")[0] for name in names]
    try:
        if (folder / "render.json").is_file():
            found = read_settings(folder)
            if difference := _difference(found, settings):
                raise UserError(f"--output '{folder}' was rendered with {difference}; {remedy}")
            was, given = read_recipe(folder)[1], yaml.safe_load(recipe_text)  # comments may differ, and what is said
            if was | {"licences": 0} != given | {"licences": 0}:  # of its sources, which may be said later
                raise UserError(f"--output '{folder}' was rendered with another recipe (see its recipe.yaml); {remedy}")
            if given.get("licences", was.get("licences")) != was.get("licences"):
                write_bytes(folder / "recipe.yaml", recipe_text.encode())
            changed = _other_inputs(found, settings)
            for path in changed:
                if used(path):
                    raise UserError(
                        f"--output '{folder}' was rendered with other files in '{path}' than are there now; {remedy}"
                    )
                if read_metadata(folder):
                    warn(f"'{path}' holds other files than before; no finished sample depends on it, so this goes on")
            if changed:
                written = settings | {"versions": found.get("versions", {})}
                write_bytes(folder / "render.json", (json.dumps(written) + "\n").encode())
        elif (folder / "metadata.jsonl").exists() or any(any((folder / kind).glob("*")) for kind in kinds):
            raise UserError(f"--output '{folder}' holds pictures but no render.json; {remedy}")
        for kind in kinds:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        if (folder / "render.json").is_file():
            return
        write_bytes(folder / "recipe.yaml", recipe_text.encode())
        if settings["target"] == "classes":
            write_bytes(folder / "classes.json", (json.dumps(classes) + "\n").encode())
        packages = [*MADE_BY, *(["openexr"] if settings["compositing"] == "on_the_fly" else [])]
        written = settings | {"versions": {name: version(name) for name in packages}}
        write_bytes(folder / "render.json", (json.dumps(written) + "\n").encode())
    except OSError as error:
        if error.strerror is None:  # MissingFile, which has its message already
            raise
        raise UserError(f"--output '{folder}' is not writable ({error.strerror}); give a writable folder") from error


def clear_unfinished(folder: Path) -> None:
    """Removes files that a killed run left incomplete. Call it only while holding the folder's lock."""
    for part in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
        part.unlink()
