"""The page that benchmarks/quality.py writes: Markdown tables, and strips of pictures that may be passed on."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from quality_config import BUILT_IN, Quality, Quoted, SetEntry, render_command

if TYPE_CHECKING:
    import numpy as np
    from quality import Place, Row, SetResult

COLUMNS = {
    "matte": ["mad", "mse", "sad", "grad", "conn", "iou", "boundary_f"],
    "binary": ["mae", "iou", "f1", "f_beta", "boundary_f", "s_measure", "e_measure", "weighted_f"],
}
COMPARED = {"matte": ["mad", "mse", "iou", "unknown.mad"], "binary": ["mae", "iou", "weighted_f"]}
UNCERTAINTY = ["ause", "spearman", "within_1_std", "within_2_std", "within_3_std", "calibration_scale"]
SHOWN = 5  # pictures of a strip
TILE = 128  # pixels
QUALITY_OF_JPEG = 88


def quoted_lines(table: Quoted) -> list[str]:
    """A quoted table, its source under it."""
    names = list(table.units)
    head = ["quoted, not measured here", *(f"{name} ({unit})" if unit else name for name, unit in table.units.items())]
    rows = [[method, *(_plain(figures.get(name)) for name in names)] for method, figures in table.figures.items()]
    note = f"Quoted from {table.source}; read at {table.verified}. Protocol: {table.protocol}. "
    return [*markdown(head, rows), "", note + f"Resolution: {table.resolution}."]


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


# ------------------------------------------------------------------------------------------------------ tables


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def write_page(
    output: Path,
    config: Quality,
    found: dict[str, "SetResult"],
    checks: list[tuple[bool | None, str]],
    quoted: list[Quoted],
    place: "Place",
) -> None:
    """Writes the page, and the strips into pictures/ beside it; the same results give the same bytes."""
    from sdseg.imaging import replacing

    lines = [*heading(config), *summary(config, found, checks)]
    for name, entry in config.sets.items():
        result = found[name]
        lines += ["", f"## {entry.title}", "", *describe_set(name, entry, result)]
        if any(row.status == "judged" for row in result.rows.values()):
            lines += set_tables(config, name, entry, result)
            if entry.strip:
                lines += strip_lines(output, config, name, entry, result, place)
            lines += ["", "How each row was made:", "", *made_table(config, name, result, place)]
        elif not result.missing and not result.error:
            lines += ["", *markdown(["method", "", "command that fills it"], missing_rows(config, result))]
        for table in (table for table in quoted if table.dataset in (name, entry.dataset)):
            lines += ["", *quoted_lines(table)]
    known = {key for name, entry in config.sets.items() for key in (name, entry.dataset)}
    if others := [table for table in quoted if table.dataset not in known]:
        lines += ["", "## Published figures on other sets"]
        for table in others:
            lines += ["", f"### {table.dataset}", "", *quoted_lines(table)]
    text = "\n".join(lines) + "\n"
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        with replacing(output) as temporary:
            temporary.write_text(text, encoding="utf-8")


def heading(config: Quality) -> list[str]:
    level = f"{100 * config.confidence:g} %"
    return [
        "# Results",
        "",
        "Written by `python benchmarks/quality.py`; do not edit. A row that could not be run says so, with the command "
        "that fills it; a row marked as quoted is a published figure and was not measured here.",
        "",
        f"Figures are means over pictures, in brackets the {level} percentile bootstrap interval over pictures "
        f"({config.resamples:,} draws, seed {config.seed}). MAD, MSE and MAE are in alpha units; SAD, Grad and Conn "
        "are in thousands and grow with the picture. Less is better for these, more for the others. "
        "[evaluation.md](evaluation.md) defines every figure. `$WORK` is the work folder (default `runs/quality`), "
        "`$DATA` what is given as `--data_root`.",
    ]


def summary(config: Quality, found: dict[str, "SetResult"], checks: list[tuple[bool | None, str]]) -> list[str]:
    rows = []
    for name, entry in config.sets.items():
        result = found[name]
        count = {status: sum(row.status == status for row in result.rows.values()) for status in ("judged", "failed")}
        command = f"`{result.missing.command}`" if result.missing else ""
        state = (
            f"not run: {result.missing.what}" if result.missing else f"{count['judged']} of {len(result.rows)} judged"
        )
        state += f", {count['failed']} failed" if count["failed"] else ""
        rows.append([entry.title, str(result.pictures or ""), state, command])
    lines = ["", *markdown(["set", "pictures", "methods", "command that fills it"], rows)]
    if checks:
        words = {True: "held", False: "DID NOT HOLD", None: "not checked"}
        lines += ["", "Self-checks:", "", *(f"- {words[held]}: {text}" for held, text in checks)]
    return lines


def describe_set(name: str, entry: SetEntry, result: "SetResult") -> list[str]:
    """What a set is, where from, and at which resolution."""
    told = [f"{entry.source}." if entry.source else ""]
    if entry.dataset:
        from sdseg.evaluation.benchmark_sets import describe

        description = describe(entry.dataset)
        told += [f"{description.citation}. Licence: {description.licence}. To be had: {description.how_to_get}."]
    if entry.render:
        told += [f"Rendered by `{' '.join(render_command(entry.render))}`."]
    judged = next((row.judged for row in result.rows.values() if row.judged), None)
    if judged:
        sizes = [tuple(map(int, text.split("x"))) for text in judged["result"]["protocol"]["sizes"]]
        small, large = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
        span = f"{small[0]}x{small[1]}" + (f" to {large[0]}x{large[1]}" if small != large else "")
        told.append(f"{result.pictures} pictures, {span} pixels" + resolution_note(entry) + ".")
    elif result.missing:
        names = ", ".join(result.rows)
        told.append(f"Not run: {result.missing.what}. `{result.missing.command}` fills the rows of {names}.")
    elif result.error:
        told.append(f"**Failed**: {result.error}")
    text = " ".join(part for part in told if part)
    return [text[:1].upper() + text[1:]]


def resolution_note(entry: SetEntry) -> str:
    return f", longer side reduced to {entry.longest_side} by area averaging" if entry.longest_side else ", native"


def set_tables(config: Quality, name: str, entry: SetEntry, result: "SetResult") -> list[str]:
    """Whole picture, bands, comparison with the reference, uncertainty."""
    columns, lines = COLUMNS[entry.kind], []
    judged = {key: row.judged["result"] for key, row in result.rows.items() if row.judged}
    bands = ["unknown"] if any("unknown" in found.get("bands", {}) for found in judged.values()) else ["transition"]
    for band in ("", *(bands if entry.kind == "matte" else ())):
        titles = {"": "Whole picture:", "unknown": "Only the trimap's unknown band:"}
        titles["transition"] = "Only the transition band (at most 10 pixels from a pixel with 0 < alpha < 1):"
        shown = [figure for figure in columns if not (band and figure in ("iou", "boundary_f"))]
        rows = [figure_row(config, key, row, shown, band) for key, row in result.rows.items()]
        lines += ["", titles[band], "", *markdown(["method", *map(_label, shown)], rows)]
    if config.reference in judged and len(judged) > 1:
        lines += comparison(config, entry, judged)
    unsure = {key: found["uncertainty"] for key, found in judged.items() if found["uncertainty"]}
    if unsure:
        rows = [[key, *(_number(figures[name]) for name in UNCERTAINTY)] for key, figures in unsure.items()]
        lines += ["", "Uncertainty:", "", *markdown(["method", *map(_label, UNCERTAINTY)], rows)]
    return lines


def figure_row(config: Quality, name: str, row: "Row", columns: list[str], band: str) -> list[str]:
    first = f"`{name}`" if band else f"{config.methods[name].title} (`{name}`)"
    if row.status != "judged":
        return [first, f"**{row.status}**" if row.status == "failed" else "not run", *[""] * (len(columns) - 1)]
    result = row.judged["result"]
    means = result["bands"].get(band, {}) if band else result["mean"]
    ends = result["intervals"]["figures"]
    return [first, *(_with_interval(means.get(key), ends.get(f"{band}.{key}" if band else key)) for key in columns)]


def comparison(config: Quality, entry: SetEntry, judged: dict[str, dict]) -> list[str]:
    """Each method less the reference, picture by picture."""
    methods = [name for name in judged if name != config.reference]
    figures = [key for key in COMPARED[entry.kind] if values(judged[config.reference], key)]
    cells = [compared(config, [judged[name] for name in methods], judged[config.reference], key) for key in figures]
    rows = [[f"`{name}`", *(cell for column in cells for cell in column[k])] for k, name in enumerate(methods)]
    head = ["method", *(text for key in figures for text in (f"Δ {_label(key)}", "better on"))]
    title = (
        f"Each method less `{config.reference}`, picture by picture, and the share of pictures on which it is better:"
    )
    return ["", title, "", *markdown(head, rows)]


def values(result: dict, key: str) -> dict[str, float]:
    """A figure by picture; `unknown.mad` is that of a band, which not every picture has."""
    band, _, figure = key.rpartition(".")
    entries = {entry["name"]: (entry.get("bands", {}).get(band) or {}) if band else entry for entry in result["images"]}
    return {name: entry[figure] for name, entry in entries.items() if entry.get(figure) is not None}


def compared(config: Quality, judged: list[dict], reference: dict, key: str) -> list[tuple[str, str]]:
    """Of each method its mean difference from the reference with its interval, and the share of pictures it wins.

    What `metrics.paired_comparison` gives, for all methods by the same draws: a second for a set, not a minute.
    """
    import numpy as np

    from sdseg.evaluation.intervals import LOWER_IS_BETTER
    from sdseg.evaluation.metrics import confidence_interval

    other = values(reference, key)
    figures = np.array([[values(result, key)[name] for result in judged] for name in other])  # [pictures, methods]
    difference = figures - np.array(list(other.values()))[:, None]
    generator = np.random.default_rng(config.seed)
    low, high = confidence_interval(difference, generator, config.confidence, config.resamples)
    won = difference < 0 if key.rpartition(".")[2] in LOWER_IS_BETTER else difference > 0
    return [
        (_with_interval(mean, ends), f"{100 * share:.0f} %")
        for mean, *ends, share in zip(difference.mean(0), low, high, won.mean(0), strict=True)
    ]


def made_table(config: Quality, set_name: str, result: "SetResult", place: "Place") -> list[str]:
    """Command, seed and versions of every row; why it was not run, or failed."""
    rows, seen = [], {}
    for name, row in result.rows.items():
        if row.judged:
            made, published = row.judged["made"], config.methods[name].folder  # of published maps nothing is known
            told = ", ".join(f"{package} {number}" for package, number in made["key"]["versions"].items())
            mark = "–" if published else seen.setdefault(told, f"v{len(seen) + 1}")
            seed = "–" if published else "none drawn" if made["seed"] is None else str(made["seed"])
            device = "–" if published else made["device"] or "cpu"
            rows.append([f"`{name}`", typed(config, name, set_name, made, place), seed, device, mark])
        else:
            rows.append([f"`{name}`", f"{row.status}: {row.reason}" + (f"; `{row.command}`" if row.command else "")])
            rows[-1] += ["", "", ""]
    judged = next(row.judged for row in result.rows.values() if row.judged)
    told = ", ".join(f"{package} {number}" for package, number in judged["key"]["versions"].items())
    notes = [f"- {mark}: {versions}" for versions, mark in seen.items()]
    return [*markdown(["method", "command", "seed", "device", "versions"], rows), "", *notes, f"- judged with {told}"]


def typed(config: Quality, name: str, set_name: str, made: dict, place: "Place") -> str:
    """The command that made a row's mattes, or what they are."""
    method = config.methods[name]
    if method.folder:
        return f"maps as published, `$DATA/{method.folder}`"
    if method.built_in:
        value = f": {made['value']:.4f}" if made.get("value") is not None else ""
        return f"{BUILT_IN[method.built_in]}{value}; `{place.again(set_name, config.sets[set_name], name)}`"
    inputs = f"$WORK/{set_name}/inputs"
    paths = {"{images}": f"{inputs}/images", "{trimaps}": f"{inputs}/trimaps"}
    paths["{output}"] = f"$WORK/{set_name}/{name}/mattes"
    return "`" + " ".join(paths.get(word, word) for word in method.command.split()) + "`"


def missing_rows(config: Quality, result: "SetResult") -> list[list[str]]:
    return [[name, f"{row.status}: {row.reason}", f"`{row.command}`"] for name, row in result.rows.items()]


def _label(figure: str) -> str:
    from sdseg.evaluation.tables import label

    return label(figure)


def _number(value: float | None) -> str:
    """Three figures, at most five places."""
    import math

    if value is None:
        return "–"
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(places, 0), 5)}f}"


def _with_interval(value: float | None, ends: list[float] | None) -> str:
    return _number(value) + (f" [{_number(ends[0])}, {_number(ends[1])}]" if ends and value is not None else "")


# -------------------------------------------------------------------------------------------------------- strips


def strip_lines(
    output: Path, config: Quality, name: str, entry: SetEntry, result: "SetResult", place: "Place"
) -> list[str]:
    """Draws a set's strip, and returns the lines that show it; [] where the reference or its pictures are missing."""
    row = result.rows.get(config.reference)
    if row is None or row.judged is None:
        return []
    by_error = sorted(values(row.judged["result"], "mad").items(), key=lambda pair: (pair[1], pair[0]))
    ranks = [round(rank * (len(by_error) - 1) / (SHOWN - 1)) for rank in range(SHOWN)]
    pictures = [by_error[rank][0] for rank in dict.fromkeys(ranks)]
    shown = [key for key in entry.strip if key in result.rows and result.rows[key].judged]
    inputs = place.inputs(name)
    folders = {"photo": inputs / "images", "truth": inputs / "truths"}
    folders |= {key: place.work / name / key / "mattes" for key in shown}
    if not all((folder / f"{picture}.png").is_file() for folder in folders.values() for picture in pictures):
        return []
    file = output.parent / "pictures" / "results" / f"{name}.jpg"
    write_jpeg(file, strip(folders, pictures))
    title = f"From the least to the greatest MAD of `{config.reference}`"
    return ["", f"{title}, at even steps of rank:", "", f"![{title}](pictures/results/{file.name})"]


def strip(folders: dict[str, Path], pictures: list[str]) -> "np.ndarray":
    """A row a picture, a column a folder, captions above: uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image, ImageDraw

    from sdseg.imaging import read_alpha, read_image

    gap, head = 4, 16
    height, width = head + len(pictures) * (TILE + gap), len(folders) * (TILE + gap) - gap
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for column, (caption, folder) in enumerate(folders.items()):
        draw.text((column * (TILE + gap) + 2, 2), caption, fill="black")
        for line, picture in enumerate(pictures):
            file = folder / f"{picture}.png"
            values = read_image(file) if caption == "photo" else np.rint(read_alpha(file) * 255).astype(np.uint8)
            tile = Image.fromarray(values).convert("RGB")
            scale = TILE / max(tile.size)
            filter = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
            tile = tile.resize([max(1, round(side * scale)) for side in tile.size], filter)
            page.paste(tile, (column * (TILE + gap), head + line * (TILE + gap)))
    return np.asarray(page)


def write_jpeg(path: Path, picture: "np.ndarray") -> None:
    """Writes a picture unless the file holds the same bytes."""
    from PIL import Image

    from sdseg.imaging import replacing

    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=QUALITY_OF_JPEG)
    if not path.is_file() or path.read_bytes() != content.getvalue():
        with replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
