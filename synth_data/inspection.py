"""Inspects a rendered set (counts, factors, mattes, duplicates, damage) and renders single samples again."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from synth_data.colour import linear_to_srgb, luminance, srgb_to_linear
from synth_data.drawing import contact_sheet, png, shrunk
from synth_data.errors import MissingFile, UserError, one_line
from synth_data.store import (
    BAD_LINE,
    JOURNAL,
    Pair,
    changed_inputs,
    files_of,
    read_layers,
    read_pair,
    read_recipe,
    read_rows,
    read_settings,
    write_bytes,
)

SOFT = (0.02, 0.98)  # alpha strictly between these is soft: neither subject nor background
THUMB = 16  # side of the thumbnails in which near duplicates are found
FLIPPED, APART = 6, 2.0  # near duplicates: most differing hash bits, and mean thumbnail difference (levels) below this
SHEET_SAMPLES, SHEET_SIDE = 48, 128
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Examined:
    """The contents of one sample's files.

    Attributes:
        index: the sample's index.
        families: the families of its subjects, each once.
        factors: as drawn.
        mean, least, most: of alpha.
        soft: share of pixels with alpha within SOFT.
        picture, matte: digests of the picture's (or foreground's) bytes and of alpha's values.
        thumb: uint8 [THUMB, THUMB, 4], sRGB and alpha.
    """

    index: int
    families: tuple[str, ...]
    factors: dict[str, Any]
    mean: float
    soft: float
    least: float
    most: float
    picture: bytes
    matte: bytes
    thumb: np.ndarray


def _look(folder: Path, row: dict[str, Any], compositing: str) -> Pair:
    """The sample as a picture; a foreground that is not composited yet is put over its own background."""
    if compositing == "disk":
        return read_pair(folder, row)
    from synth_data.compose import composite, expose

    layers = read_layers(folder, row)
    colour, alpha = layers.colour.astype(np.float32), layers.alpha.astype(np.float32)
    if not (np.isfinite(colour).all() and np.isfinite(alpha).all() and colour.min() >= 0):
        raise UserError(f"{folder / row['file_name']}: colour or alpha is negative or not finite; render it again")
    clear = json.loads(row["factors"]).get("transmissive", False)
    exposed = expose(colour, alpha, 0.3, 0.0, clear)  # a medium exposure
    linear = composite(exposed, alpha, srgb_to_linear(layers.background / 255.0).astype(np.float32))
    return Pair(np.round(linear_to_srgb(linear) * 255).astype(np.uint8), alpha, layers.meta, layers.instances)


def _examine(folder: Path, row: dict[str, Any], settings: dict[str, Any], classes: dict[str, str]) -> Examined:
    """Opens and checks every file of a sample; UserError for the first fault, MissingFile for a missing file."""
    import cv2

    for name in files_of(row).values():
        if not (folder / name).is_file():
            raise MissingFile(f"{folder / name}: missing; run the render command again")
    pair = _look(folder, row, settings["compositing"])
    first = folder / row["file_name"]
    side = settings["size"]
    for part, pixels in (("picture", pair.image), ("alpha", pair.alpha), ("instances", pair.instances)):
        if pixels is not None and pixels.shape[:2] != (side, side):
            height, width = pixels.shape[:2]
            raise UserError(f"{first}: {part} is {width} x {height} pixels, not {side} x {side}; render it again")
    alpha = pair.alpha
    if alpha.min() < 0 or alpha.max() > 1:
        raise UserError(f"{first}: alpha is outside [0, 1]; render it again")
    factors = json.loads(pair.meta["factors"])
    mean = float(alpha.mean(dtype=np.float64))
    try:
        off = abs(factors.get("coverage", mean) - mean)
        families = tuple(sorted({record["family"] for record in factors.get("instances", [factors])}))
        list(_flat(factors))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{first}: its row's factors were not written by `sdseg render`; render it again") from error
    if off > 1e-3:
        raise UserError(f"{first}: the matte's mean is {mean:.4f}, its row says {factors['coverage']}; render it again")
    _check_ids(folder, row, pair, classes)
    thumb = [cv2.resize(a, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for a in (pair.image, alpha)]
    return Examined(
        index=row["index"],
        families=families,
        factors=factors,
        mean=mean,
        soft=float(((alpha > SOFT[0]) & (alpha < SOFT[1])).mean()),
        least=float(alpha.min()),
        most=float(alpha.max()),
        picture=hashlib.sha256(first.read_bytes()).digest(),
        matte=hashlib.sha256(np.ascontiguousarray(alpha).tobytes()).digest(),
        thumb=np.dstack([thumb[0], np.round(thumb[1] * 255).astype(np.uint8)]),
    )


def _check_ids(folder: Path, row: dict[str, Any], pair: Pair, classes: dict[str, str]) -> None:
    """UserError if masks or ids contradict the matte, one another or classes.json."""
    from PIL import Image

    if "mask_file_name" in row:
        path = folder / row["mask_file_name"]
        try:
            with Image.open(path) as mask:
                pixels = np.asarray(mask)
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: not a complete PNG; render it again") from error
        if not np.array_equal(pixels, np.where(pair.alpha >= 0.5, 255, 0)):
            raise UserError(f"{path}: differs from alpha >= 0.5; render it again")
    if pair.classes is not None:
        path = folder / row["classes_file_name"]
        if unknown := {int(k) for k in np.unique(pair.classes)} - {0, *map(int, classes)}:
            raise UserError(f"{path}: holds class {min(unknown)}, which classes.json does not name; render it again")
        if not np.array_equal(pair.classes > 0, pair.instances > 0):
            raise UserError(f"{path}: has subjects where the instance ids have none; render it again")


# ------------------------------------------------------------------------------------------------ the whole set


def inspect(folder: Path, workers: int = 1) -> dict[str, Any]:
    """A report on a set, as plain values; every file is opened and decoded (by `workers` threads).

    Keys: settings; samples; first, last: indices; gaps: number of indices missing between them; unfinished: whether a
    run has not ended; unlisted: files that no row names; damaged: faults in words; alpha and families: samples, mean,
    soft, empty, full; subjects: counts of subjects per picture; factors: name -> histogram or counts; mattes: number
    of different ones; duplicates and near_duplicates: groups of indices. UserError if the folder is no rendered set.
    """
    from tqdm import tqdm

    settings = read_settings(folder)
    names = folder / "classes.json"
    classes = json.loads(names.read_text(encoding="utf-8")) if names.is_file() else {}
    damaged, rows = [], []
    for place, row in read_rows(folder):
        if row is None:
            damaged.append(f"{place}: {BAD_LINE}")
        else:
            rows.append(row)

    def examine(row: dict[str, Any]) -> Examined | str:
        try:
            return _examine(folder, row, settings, classes)
        except Exception as error:  # one damaged file must not end the inspection of the others
            return f"sample {row['index']}: {one_line(error)}"

    with ThreadPoolExecutor(workers) as pool:
        results = list(tqdm(pool.map(examine, rows), total=len(rows), unit="sample", desc="inspecting"))
    damaged += [result for result in results if isinstance(result, str)]
    found = sorted((result for result in results if isinstance(result, Examined)), key=lambda e: e.index)
    listed = {name for row in rows for name in files_of(row).values()}
    kinds = {name.split("/")[0] for name in listed}
    there = {f"{kind}/{p.name}" for kind in kinds for p in (folder / kind).glob("[!.]*")}
    indices = sorted(row["index"] for row in rows)
    by_family: dict[str, list[Examined]] = {}
    for e in found:
        label = e.families[0] if len(e.families) == 1 else "none" if not e.families else "mixed"
        by_family.setdefault(label, []).append(e)
    return {
        "settings": settings,
        "samples": len(rows),
        "first": indices[0] if indices else None,
        "last": indices[-1] if indices else None,
        "gaps": indices[-1] + 1 - indices[0] - len(set(indices)) if indices else 0,
        "unfinished": (folder / JOURNAL).exists(),
        "unlisted": sorted(there - listed),
        "damaged": damaged,
        "alpha": _alpha(found),
        "families": {name: _alpha(by_family[name]) for name in sorted(by_family)},
        "subjects": _counts([len(e.factors.get("instances", [0])) for e in found]),
        "factors": _histograms(found),
        "mattes": len({e.matte for e in found}),
        "duplicates": _groups([e.picture for e in found], found),
        "near_duplicates": _near(found),
    }


def _alpha(found: list[Examined]) -> dict[str, Any]:
    """Mean alpha, mean share of soft pixels, and how many mattes are empty and full."""
    if not found:
        return {"samples": 0, "mean": None, "soft": None, "empty": 0, "full": 0}
    return {
        "samples": len(found),
        "mean": round(float(np.mean([e.mean for e in found])), 6),
        "soft": round(float(np.mean([e.soft for e in found])), 6),
        "empty": sum(e.most == 0 for e in found),
        "full": sum(e.least == 1 for e in found),
    }


def _flat(factors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of every factor of a sample; a subject's factors are prefixed with its family."""
    for name, value in factors.items():
        if name == "instances":
            for record in value:
                for key, inner in record["factors"].items():
                    yield f"{record['family']}.{key}", inner
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield f"{name}.{key}", inner
        elif name not in ("family", "foreground"):
            yield name, value


def _counts(values: list[Any]) -> dict[str, int]:
    return {str(value): number for value, number in sorted(Counter(values).items(), key=lambda p: (-p[1], str(p[0])))}


def _histograms(found: list[Examined]) -> dict[str, Any]:
    """Each factor's values: {least, most, mean, bins (ten counts)}, or {counts} of names and few integers."""
    values: dict[str, list[Any]] = {}
    for e in found:
        for name, value in _flat(e.factors):
            values.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    described = {}
    for name, drawn in sorted(values.items()):
        plain = [v for v in drawn if isinstance(v, (str, bool, int, float))]
        if plain and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in plain):
            if all(isinstance(v, int) for v in plain) and len(set(plain)) <= 8:
                described[name] = {"counts": _counts(plain)}
                continue
            numbers = np.array(plain, np.float64)
            described[name] = {
                "least": float(numbers.min()),
                "most": float(numbers.max()),
                "mean": round(float(numbers.mean()), 6),
                "bins": np.histogram(numbers, 10)[0].tolist(),
            }
        elif plain:
            described[name] = {"counts": _counts(plain)}
    return described


def _groups(keys: list[bytes], found: list[Examined]) -> list[list[int]]:
    """Groups of two or more indices whose samples have the same key."""
    groups: dict[bytes, list[int]] = {}
    for key, e in zip(keys, found, strict=True):
        groups.setdefault(key, []).append(e.index)
    return [group for group in groups.values() if len(group) > 1]


def _near(found: list[Examined]) -> list[list[int]]:
    """Pairs of indices whose picture and matte look alike, though the files differ.

    A hash of 8 x 8 luminances and 8 x 8 alphas finds candidates: if at most FLIPPED of its 128 bits differ, at least
    one of FLIPPED + 1 bands is equal. The thumbnails decide.
    """
    if len(found) < 2:
        return []
    thumbs = np.stack([e.thumb for e in found])
    small = thumbs.reshape(len(found), 8, THUMB // 8, 8, THUMB // 8, 4).mean((2, 4))
    light = luminance(small[..., :3]).reshape(len(found), 64)
    bits = np.concatenate([light > np.median(light, 1, keepdims=True), small[..., 3].reshape(-1, 64) > 127], 1)
    pairs = set()
    for band in np.array_split(np.arange(128), FLIPPED + 1):
        keys = np.packbits(bits[:, band], axis=1)
        order = np.lexsort(keys.T)
        # neighbours only, so that a band shared by thousands stays affordable
        for step in range(1, min(32, len(found))):
            a, b = order[:-step], order[step:]
            same = (keys[a] == keys[b]).all(1)
            if not same.any():
                break
            a, b = a[same], b[same]
            close = (bits[a] != bits[b]).sum(1) <= FLIPPED
            a, b = a[close], b[close]
            apart = np.abs(thumbs[a].astype(np.int16) - thumbs[b]).mean((1, 2, 3))
            pairs |= {(min(i, j), max(i, j)) for i, j in zip(a[apart < APART], b[apart < APART], strict=True)}
    return [[found[i].index, found[j].index] for i, j in sorted(pairs) if found[i].picture != found[j].picture]


def _bars(bins: list[int]) -> str:
    most = max(bins)
    return "".join(BARS[-(-8 * n // most)] for n in bins)


def _few(items: list[Any], most: int = 6) -> str:
    shown = ", ".join(map(str, items[:most]))
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def described(folder: Path, report: dict[str, Any]) -> str:
    """The report of `inspect` as text."""
    s, samples = report["settings"], report["samples"]
    span = f", indices {report['first']} .. {report['last']}" if samples else ""
    lines = [
        f"{folder}: {samples} samples of {s['size']} px{span}; seed {s['seed']}, {s['variant']}, "
        f"target {s['target']}, compositing {s['compositing']}"
    ]
    if report["gaps"]:
        lines.append(f"  {report['gaps']} indices in between are missing (a shard, or lost samples)")
    if report["unfinished"]:
        lines.append("  the run is unfinished; run the render command again to finish it")
    if report["unlisted"]:
        lines.append(f"  {len(report['unlisted'])} files not listed in metadata.jsonl: {_few(report['unlisted'])}")
    lines.append(f"files: {len(report['damaged'])} damaged or missing" if report["damaged"] else "files: all complete")
    lines += [f"  {problem}" for problem in report["damaged"][:20]]
    if len(report["damaged"]) > 20:
        lines.append(f"  and {len(report['damaged']) - 20} more (see --json)")
    lines.append(f"alpha{'':15}samples    mean   0.02 < alpha < 0.98   empty   full")
    most = max([1, *(f["samples"] for f in report["families"].values())])
    for name, a in {"all": report["alpha"], **report["families"]}.items():
        if a["samples"]:
            bar = "" if name == "all" else "  " + "█" * round(24 * a["samples"] / most)
            lines.append(
                f"  {name:18}{a['samples']:7}{a['mean']:8.4f}{100 * a['soft']:20.2f} %{a['empty']:8}{a['full']:7}{bar}"
            )
    lines.append(f"subjects per picture: {_shares(report['subjects'])}")
    exact, near = report["duplicates"], report["near_duplicates"]
    lines.append(
        f"duplicates: {len(exact)} groups of identical files, {len(near)} similar pairs; "
        f"{report['mattes']} different mattes"
    )
    lines += [f"  same: {_few(group)}" for group in exact[:5]] + [f"  similar: {_few(pair)}" for pair in near[:5]]
    lines.append("factors")
    constant = []
    for name, f in report["factors"].items():
        if len(f.get("counts", ())) == 1:
            constant.append(f"{name} {next(iter(f['counts']))}")
        elif "counts" in f:
            lines.append(f"  {name:30} {_shares(f['counts'])}")
        elif f["least"] == f["most"]:
            constant.append(f"{name} {f['least']:g}")
        else:
            lines.append(f"  {name:30} |{_bars(f['bins'])}| {f['least']:g} .. {f['most']:g}, mean {f['mean']:g}")
    if constant:
        lines.append(f"  constant: {', '.join(constant)}")
    return "\n".join(lines)


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return _few([f"{name} {100 * number / total:.0f} %" for name, number in counts.items()], 8)


def write_contact_sheet(folder: Path, path: Path) -> None:
    """Writes a contact sheet (PNG) of up to SHEET_SAMPLES undamaged samples, evenly spaced over the set.

    Raises:
        UserError: there is none.
    """
    settings, rows = read_settings(folder), [row for _, row in read_rows(folder) if row is not None]
    chosen = [rows[k] for k in np.unique(np.linspace(0, len(rows) - 1, SHEET_SAMPLES).astype(int))] if rows else []
    pairs = []
    for row in chosen:
        try:
            pair = _look(folder, row, settings["compositing"])
        except Exception:
            continue  # `inspect` names it
        if {pair.image.shape[:2], pair.alpha.shape} == {(settings["size"],) * 2}:
            pairs.append((shrunk(pair.image, SHEET_SIDE), shrunk(pair.alpha, SHEET_SIDE)))
    if not pairs:
        raise UserError(f"'{folder}': no sample can be drawn; a contact sheet needs at least one undamaged sample")
    write_bytes(path, png(contact_sheet(pairs)))


# ------------------------------------------------------------------------------------------------ one sample again


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def rerender(folder: Path, number: int, output: Path | None = None) -> list[str]:
    """Renders row `number` (from 0) of metadata.jsonl again and compares bytes; returns the differences, in words.

    The first file (picture or foreground) is also written to `output` if given. UserError if there is no such row, the
    set is damaged or `output` has the wrong suffix; MissingFile if the set lacks one of its files.
    """
    from synth_data.recipe import parse_recipe
    from synth_data.workers import check_variant, render_sample

    settings = read_settings(folder)
    rows = list(read_rows(folder))
    if not rows:
        raise UserError(f"--row: '{folder}' holds no samples; there is nothing to render again")
    if number >= len(rows):
        raise UserError(f"--row: {number} is out of range; '{folder}' has rows 0 .. {len(rows) - 1}")
    place, row = rows[number]
    if row is None:
        raise UserError(f"{place}: {BAD_LINE}")
    if output is not None and output.suffix != Path(row["file_name"]).suffix:
        raise UserError(f"--output: '{output}' must end in {Path(row['file_name']).suffix}, as {row['file_name']}")
    recipe = parse_recipe(read_recipe(folder)[0], str(folder / "recipe.yaml"))
    check_variant(settings["variant"])
    differs = []
    with tempfile.TemporaryDirectory(prefix="synth_data_") as temporary:
        again = Path(temporary)
        made = render_sample(recipe, settings["seed"], row["index"], settings["size"], settings["variant"], again)
        differs += [f"{key} of the row" for key in sorted({*row, *made}) if row.get(key) != made.get(key)]
        for name in files_of(made).values():
            if not (folder / name).is_file():
                differs.append(f"{name} (missing)")
            elif (folder / name).read_bytes() != (again / name).read_bytes():
                differs.append(name)
        if output is not None:
            write_bytes(output, (again / made["file_name"]).read_bytes())
    if differs:
        differs += [
            f"{name} here is {_version(name)}, the set's {there}"
            for name, there in settings.get("versions", {}).items()
            if _version(name) != there
        ]
        differs += [f"'{path}' holds other files now" for path in changed_inputs(settings["inputs"])]
    return differs
