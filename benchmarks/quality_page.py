"""The page that benchmarks/quality.py writes: Markdown tables, and strips of pictures that may be redistributed."""

import io
import math
from pathlib import Path

import numpy as np
from quality_config import BUILT_IN, Quality, Quoted, SetEntry, render_command
from quality_results import Row, SetResult, Workspace

from sdseg.evaluation.benchmark_sets import describe
from sdseg.evaluation.intervals import LOWER_IS_BETTER
from sdseg.evaluation.metrics import confidence_interval
from sdseg.evaluation.page import label, markdown_table, write_text
from sdseg.imaging import read_alpha, read_image, replacing
from synth_data.drawing import sheet

COLUMNS = {
    "matte": ["mad", "mse", "sad", "grad", "conn", "iou", "boundary_f"],
    "binary": ["mae", "iou", "f1", "f_beta", "boundary_f", "s_measure", "e_measure", "weighted_f"],
}
COMPARED = {"matte": ["mad", "mse", "iou", "unknown.mad"], "binary": ["mae", "iou", "weighted_f"]}
UNCERTAINTY = ["ause", "spearman", "within_1_std", "within_2_std", "within_3_std", "calibration_scale"]
STRIP_PICTURES = 5
TILE = 128  # pixels, of a picture on a strip
JPEG_QUALITY = 88


def quoted_lines(table: Quoted) -> list[str]:
    """A quoted table with its source below it."""
    names = list(table.units)
    head = ["quoted, not measured here", *(f"{name} ({unit})" if unit else name for name, unit in table.units.items())]
    rows = [[method, *(_plain(figures.get(name)) for name in names)] for method, figures in table.figures.items()]
    note = f"Quoted from {table.source}; read at {table.verified}. Protocol: {table.protocol}. "
    return [markdown_table(head, rows), "", note + f"Resolution: {table.resolution}."]


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


# ------------------------------------------------------------------------------------------------------ tables


def write_page(
    output: Path,
    config: Quality,
    results: dict[str, SetResult],
    checks: list[tuple[bool | None, str]],
    quoted: list[Quoted],
    workspace: Workspace,
) -> None:
    """Writes the page, and the strips into pictures/ beside it; the same results give the same bytes."""
    lines = [*heading(config), *summary(config, results, checks)]
    for name, entry in config.sets.items():
        result = results[name]
        lines += ["", f"## {entry.title}", "", set_description(entry, result)]
        if any(row.status == "judged" for row in result.rows.values()):
            lines += set_tables(config, entry, result)
            if entry.strip:
                lines += strip_lines(output, config, name, entry, result, workspace)
            lines += ["", "How each row was made:", "", *made_table(config, name, result, workspace)]
        elif not result.missing and not result.error:
            lines += ["", markdown_table(["method", "", "command that fills it"], missing_rows(result))]
        for table in (table for table in quoted if table.dataset in (name, entry.dataset)):
            lines += ["", *quoted_lines(table)]
    known = {key for name, entry in config.sets.items() for key in (name, entry.dataset)}
    if others := [table for table in quoted if table.dataset not in known]:
        lines += ["", "## Published figures on other sets"]
        for table in others:
            lines += ["", f"### {table.dataset}", "", *quoted_lines(table)]
    text = "\n".join(lines) + "\n"
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        write_text(output, text)


def heading(config: Quality) -> list[str]:
    level = f"{100 * config.confidence:g} %"
    return [
        "# Results",
        "",
        "Written by `python benchmarks/quality.py`; do not edit. A row that could not be run is marked so, with the "
        "command that fills it; a table marked as quoted holds published figures, which were not measured here.",
        "",
        f"Figures are means over pictures, followed in brackets by the {level} percentile bootstrap interval over "
        f"pictures ({config.resamples:,} draws, seed {config.seed}). MAD, MSE and MAE are in alpha units; SAD, Grad "
        "and Conn are in thousands and grow with the size of the picture. Lower is better for these, higher for the "
        "others. [evaluation.md](evaluation.md) defines every figure. `$WORK` is the work folder (default "
        "`runs/quality`), `$DATA` the folder given as `--data_root`.",
    ]


def summary(config: Quality, results: dict[str, SetResult], checks: list[tuple[bool | None, str]]) -> list[str]:
    rows = []
    for name, entry in config.sets.items():
        result = results[name]
        count = {status: sum(row.status == status for row in result.rows.values()) for status in ("judged", "failed")}
        command = f"`{result.missing.command}`" if result.missing else ""
        state = (
            f"not run: {result.missing.what}" if result.missing else f"{count['judged']} of {len(result.rows)} judged"
        )
        state += f", {count['failed']} failed" if count["failed"] else ""
        rows.append([entry.title, str(result.pictures or ""), state, command])
    lines = ["", markdown_table(["set", "pictures", "methods", "command that fills it"], rows)]
    if checks:
        verdicts = {True: "held", False: "DID NOT HOLD", None: "not checked"}
        lines += ["", "Self-checks:", "", *(f"- {verdicts[held]}: {text}" for held, text in checks)]
    return lines


def set_description(entry: SetEntry, result: SetResult) -> str:
    """What a set is, its source and its resolution."""
    parts = [f"{entry.source}." if entry.source else ""]
    if entry.dataset:
        described = describe(entry.dataset)
        parts += [f"{described.citation}. Licence: {described.licence}. Source: {described.how_to_get}."]
    if entry.render:
        parts += [f"Rendered by `{' '.join(render_command(entry.render))}`."]
    judged = next((row.judged for row in result.rows.values() if row.judged), None)
    if judged:
        sizes = [tuple(map(int, text.split("x"))) for text in judged["result"]["protocol"]["sizes"]]
        small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
        span = f"{small[0]}x{small[1]}" + (f" to {large[0]}x{large[1]}" if small != large else "")
        reduction = f"longer side reduced to {entry.longest_side} by area averaging" if entry.longest_side else "native"
        parts.append(f"{result.pictures} pictures, {span} pixels, {reduction}.")
    elif result.missing:
        names = ", ".join(result.rows)
        parts.append(f"Not run: {result.missing.what}. `{result.missing.command}` fills the rows of {names}.")
    elif result.error:
        parts.append(f"**Failed**: {result.error}")
    text = " ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def set_tables(config: Quality, entry: SetEntry, result: SetResult) -> list[str]:
    """Tables of the whole picture, of bands, of the comparison with the reference, and of the uncertainty."""
    columns, lines = COLUMNS[entry.kind], []
    judged = {key: row.judged["result"] for key, row in result.rows.items() if row.judged}
    bands = ["unknown"] if any("unknown" in one.get("bands", {}) for one in judged.values()) else ["transition"]
    for band in ("", *(bands if entry.kind == "matte" else ())):
        titles = {"": "Whole picture:", "unknown": "Only the trimap's unknown band:"}
        titles["transition"] = "Only the transition band (at most 10 pixels from a pixel with 0 < alpha < 1):"
        shown = [figure for figure in columns if not (band and figure in ("iou", "boundary_f"))]
        rows = [figure_row(config, key, row, shown, band) for key, row in result.rows.items()]
        lines += ["", titles[band], "", markdown_table(["method", *map(label, shown)], rows)]
    if config.reference in judged and len(judged) > 1:
        lines += comparison(config, entry, judged)
    uncertainty = {key: one["uncertainty"] for key, one in judged.items() if one["uncertainty"]}
    if uncertainty:
        rows = [[key, *(_number(figures[name]) for name in UNCERTAINTY)] for key, figures in uncertainty.items()]
        lines += ["", "Uncertainty:", "", markdown_table(["method", *map(label, UNCERTAINTY)], rows)]
    return lines


def figure_row(config: Quality, name: str, row: Row, columns: list[str], band: str) -> list[str]:
    first = f"`{name}`" if band else f"{config.methods[name].title} (`{name}`)"
    if row.status != "judged":
        return [first, f"**{row.status}**" if row.status == "failed" else "not run", *[""] * (len(columns) - 1)]
    result = row.judged["result"]
    means = result["bands"].get(band, {}) if band else result["mean"]
    ends = result["intervals"]["figures"]
    return [first, *(_with_interval(means.get(key), ends.get(f"{band}.{key}" if band else key)) for key in columns)]


def comparison(config: Quality, entry: SetEntry, judged: dict[str, dict]) -> list[str]:
    """The table of each method minus the reference, picture by picture."""
    methods = [name for name in judged if name != config.reference]
    figures = [key for key in COMPARED[entry.kind] if values(judged[config.reference], key)]
    cells = [compared(config, [judged[name] for name in methods], judged[config.reference], key) for key in figures]
    rows = [[f"`{name}`", *(cell for column in cells for cell in column[k])] for k, name in enumerate(methods)]
    head = ["method", *(text for key in figures for text in (f"Δ {label(key)}", "better on"))]
    title = (
        f"Each method minus `{config.reference}`, picture by picture, and the share of pictures on which it is better:"
    )
    return ["", title, "", markdown_table(head, rows)]


def values(result: dict, key: str) -> dict[str, float]:
    """A figure by picture; that of a band, such as `unknown.mad`, only of pictures that have the band."""
    band, _, figure = key.rpartition(".")
    entries = {entry["name"]: (entry.get("bands", {}).get(band) or {}) if band else entry for entry in result["images"]}
    return {name: entry[figure] for name, entry in entries.items() if entry.get(figure) is not None}


def compared(config: Quality, judged: list[dict], reference: dict, key: str) -> list[tuple[str, str]]:
    """For each method: its mean difference from the reference with its interval, and the share of pictures it wins.

    The same as `metrics.paired_comparison`, but all methods share their draws: a second for a set instead of a minute.
    """
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


def made_table(config: Quality, set_name: str, result: SetResult, workspace: Workspace) -> list[str]:
    """Command, seed and versions of every row, or why it was not run or failed."""

    def versions(key: dict) -> str:
        return ", ".join(f"{package} {number}" for package, number in key["versions"].items())

    rows, marks = [], {}
    for name, row in result.rows.items():
        if not row.judged:
            command = f"; `{row.command}`" if row.command else ""
            rows.append([f"`{name}`", f"{row.status}: {row.reason}{command}", "", "", ""])
        elif config.methods[name].folder:  # nothing else is known of published maps
            rows.append([f"`{name}`", made_by(config, name, set_name, row.judged["made"], workspace), "–", "–", "–"])
        else:
            made = row.judged["made"]
            mark = marks.setdefault(versions(made["key"]), f"v{len(marks) + 1}")
            seed = "none drawn" if made["seed"] is None else str(made["seed"])
            command = made_by(config, name, set_name, made, workspace)
            rows.append([f"`{name}`", command, seed, made["device"] or "cpu", mark])
    judged = next(row.judged for row in result.rows.values() if row.judged)
    notes = [f"- {mark}: {text}" for text, mark in marks.items()]
    table = markdown_table(["method", "command", "seed", "device", "versions"], rows)
    return [table, "", *notes, f"- judged with {versions(judged['key'])}"]


def made_by(config: Quality, name: str, set_name: str, made: dict, workspace: Workspace) -> str:
    """The command that made a row's mattes, or their origin."""
    method = config.methods[name]
    if method.folder:
        return f"maps as published, `$DATA/{method.folder}`"
    if method.built_in:
        value = f": {made['value']:.4f}" if made.get("value") is not None else ""
        return f"{BUILT_IN[method.built_in]}{value}; `{workspace.command(set_name, config.sets[set_name], name)}`"
    inputs = f"$WORK/{set_name}/inputs"
    paths = {"{images}": f"{inputs}/images", "{trimaps}": f"{inputs}/trimaps"}
    paths["{output}"] = f"$WORK/{set_name}/{name}/mattes"
    return "`" + " ".join(paths.get(argument, argument) for argument in method.command.split()) + "`"


def missing_rows(result: SetResult) -> list[list[str]]:
    return [[name, f"{row.status}: {row.reason}", f"`{row.command}`"] for name, row in result.rows.items()]


def _number(value: float | None) -> str:
    """Three significant digits, at most five decimals."""
    if value is None:
        return "–"
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(decimals, 0), 5)}f}"


def _with_interval(value: float | None, ends: list[float] | None) -> str:
    return _number(value) + (f" [{_number(ends[0])}, {_number(ends[1])}]" if ends and value is not None else "")


# -------------------------------------------------------------------------------------------------------- strips


def strip_lines(
    output: Path, config: Quality, name: str, entry: SetEntry, result: SetResult, workspace: Workspace
) -> list[str]:
    """Draws a set's strip and returns the lines that show it; [] where the reference or its pictures are missing."""
    row = result.rows.get(config.reference)
    if row is None or row.judged is None:
        return []
    by_error = sorted(values(row.judged["result"], "mad").items(), key=lambda pair: (pair[1], pair[0]))
    ranks = [round(rank * (len(by_error) - 1) / (STRIP_PICTURES - 1)) for rank in range(STRIP_PICTURES)]
    pictures = [by_error[rank][0] for rank in dict.fromkeys(ranks)]
    shown = [key for key in entry.strip if key in result.rows and result.rows[key].judged]
    inputs = workspace.inputs(name)
    folders = {"photo": inputs / "images", "truth": inputs / "truths"}
    folders |= {key: workspace.work / name / key / "mattes" for key in shown}
    if not all((folder / f"{picture}.png").is_file() for folder in folders.values() for picture in pictures):
        return []
    file = output.parent / "pictures" / "results" / f"{name}.jpg"
    write_jpeg(file, strip(folders, pictures))
    title = f"From the lowest to the highest MAD of `{config.reference}`"
    return ["", f"{title}, at even steps of rank:", "", f"![{title}](pictures/results/{file.name})"]


def strip(folders: dict[str, Path], pictures: list[str]) -> np.ndarray:
    """A row for each picture, a column for each folder with its name above: uint8 [H, W, 3]."""
    rows = [
        [(read_image if name == "photo" else read_alpha)(folder / f"{picture}.png") for name, folder in folders.items()]
        for picture in pictures
    ]
    return sheet(rows, side=TILE, captions=list(folders))


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Writes a picture unless the file holds the same bytes."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=JPEG_QUALITY)
    if not path.is_file() or path.read_bytes() != content.getvalue():
        with replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
