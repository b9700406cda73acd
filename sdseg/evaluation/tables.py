"""The result of an evaluation to read: tables as text, Markdown, CSV and HTML, and a sheet of the worst pictures."""

import csv
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from sdseg.errors import NotAFolder, UserError
from sdseg.evaluation.intervals import LOWER_IS_BETTER
from sdseg.evaluation.judging import WORST_BY, Evaluation, flat_figures, read_case
from sdseg.evaluation.page import data_uri, html_page, html_table, label, markdown_table, number, write_text
from sdseg.imaging import replacing, write_image
from sdseg.outputs import write_json
from synth_data.drawing import NO_CLASS_GREY, class_colours, grey, heat, scale_end, sheet, shrunk

NAMES = {".json": "metrics.json", ".csv": "per_picture.csv", ".md": "metrics.md", ".html": "metrics.html"}
NAMES[".png"] = "worst.png"
WORST_LISTED = 5  # in text and Markdown
TILE = 256  # pixels, on the sheet
GAP = 8  # pixels between them
OTHER_FIGURES = 4  # of a picture on the sheet, after the one it is ranked by
RIGHT_GREY, WRONG_RED = (235, 235, 235), (214, 39, 40)


# ------------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column holds names, the others figures."""

    title: str
    head: list[str]
    rows: list[list[str]]


def worst_first(result: dict) -> list[dict]:
    """Entries of the pictures, worst first, those without the figure last; ties stay in order of name."""
    key = worst_key(result)
    sign = -1 if key in LOWER_IS_BETTER else 1
    return sorted(result["images"], key=lambda entry: (entry[key] is None, sign * (entry[key] or 0)))


def worst_key(result: dict) -> str:
    """The figure that pictures are ranked by: MAD, MAE or mIoU, or the first one computed."""
    usual = WORST_BY[result["protocol"]["kind"]]
    figures = list(result["protocol"]["definitions"])
    return usual if usual in figures else figures[0]


def main_figures(result: dict) -> dict:
    """Means over pictures, or the figures of the whole set for kind classes, with `count`."""
    return result["set"] if result["protocol"]["kind"] == "classes" else result["mean"]


def summary_tables(result: dict) -> list[Table]:
    """The tables of the whole set."""
    intervals = result["intervals"]["figures"]
    level = _level(result)

    def cells(figures: dict, prefix: str = "") -> list[str]:
        shown = []
        for key, value in figures.items():
            ends = intervals.get(prefix + key)
            shown.append(number(value) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else ""))
        return shown

    whole = main_figures(result)
    figures = [key for key in whole if key != "count"]
    rows = [["whole picture", *cells(whole)]]
    for name, means in result.get("bands", {}).items():
        rows.append([name, *cells({key: means.get(key) for key in ("count", *figures)}, f"{name}.")])
    tables = [Table(f"Figures [{level} interval]", ["", "pictures", *map(label, figures)], rows)]
    if uncertainty := result["uncertainty"]:
        shown = {key: value for key, value in uncertainty.items() if key != "scaled"}
        rows = [["as predicted", *cells(shown, "uncertainty.")]]
        if scaled := uncertainty["scaled"]:
            rows.append(["times the scale", *(number(scaled[key]) if key in scaled else "" for key in shown)])
        heads = ["pictures" if key == "count" else label(key) for key in shown]
        tables.append(Table(f"Uncertainty [{level} interval]", ["", *heads], rows))
    return tables + [shown for shown in (_comparison_table(result), _class_table(result)) if shown]


def _level(result: dict) -> str:
    return f"{100 * result['intervals']['level']:g} %"


def _comparison_table(result: dict, bands: bool = True) -> Table | None:
    comparison = result["comparison"]
    if comparison is None:
        return None
    rows = [
        [label(key), *(number(row[name]) for name in ("count", "first", "second", "difference"))]
        + [f"{number(row['low'])} to {number(row['high'])}", *(f"{100 * row[name]:.1f} %" for name in ("won", "tied"))]
        for key, row in comparison["figures"].items()
        if bands or key.partition(".")[0] not in result.get("bands", {})
    ]
    head = ["", "pictures", "first", "second", "difference", _level(result), "first better", "equal"]
    return Table(f"First against second ({comparison['prediction']})", head, rows)


def _class_table(result: dict) -> Table | None:
    if "classes" not in result:
        return None
    heads = [key for key in result["classes"][0] if key not in ("id", "name")]
    rows = [
        [f"{entry['id']} {entry['name']}".strip(), *(number(entry[key]) for key in heads)]
        for entry in result["classes"]
    ]
    return Table("Classes", ["", *map(label, heads)], rows)


def picture_table(result: dict, count: int | None = None) -> Table:
    """The `count` worst pictures, or all."""
    key = worst_key(result)
    figures = [name for name in main_figures(result) if name != "count"]
    rows = [[entry["name"], *(number(entry[name]) for name in figures)] for entry in worst_first(result)[:count]]
    return Table(f"Pictures, worst by {label(key)} first", ["", *map(label, figures)], rows)


def protocol_lines(result: dict) -> list[str]:
    """The protocol, one line for each of its entries."""
    lines = []
    for key, value in result["protocol"].items():
        if isinstance(value, dict):
            lines += [f"{label(name)}: {text}" for name, text in value.items()] if key != "versions" else [
                "versions: " + ", ".join(f"{name} {version}" for name, version in value.items())
            ]  # fmt: skip
        elif value is not None:
            lines.append(f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    intervals = result["intervals"]
    return [*lines, f"{intervals['resamples']} draws of the bootstrap, seed {intervals['seed']}"]


def table(result: dict) -> str:
    """The worst pictures, the means and their intervals, as text for a terminal."""
    worst, whole = picture_table(result, WORST_LISTED), main_figures(result)
    intervals = result["intervals"]["figures"]
    name = "set" if result["protocol"]["kind"] == "classes" else "mean"
    figures = [key for key in whole if key != "count"]
    lines = [[f"worst by {label(worst_key(result))}", *worst.head[1:]], *worst.rows]
    lines.append([f"{name} of {whole['count']}", *(number(whole[key]) for key in figures)])
    for end, word in enumerate(("from", "to")):
        ends = [intervals[key][end] if intervals.get(key) else None for key in figures]
        lines.append([f"  {_level(result)} {word}", *map(number, ends)])
    for band, means in result.get("bands", {}).items():
        lines.append([f"{band} of {means['count']}", *(number(means.get(key)) for key in figures)])
    text = [_aligned(lines)]
    if uncertainty := result["uncertainty"]:
        values = {key: value for key, value in uncertainty.items() if isinstance(value, float)}
        calibrated = uncertainty["calibrated"]
        state = "" if calibrated is None else f" (calibrated: {calibrated} of {uncertainty['count']})"
        text.append(f"uncertainty{state}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    for shown in (_comparison_table(result, bands=False), _class_table(result)):
        if shown:
            text.append(f"\n{shown.title}\n" + _aligned([shown.head, *shown.rows]))
    return "\n".join(text)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[1:] = [max(width + 2, 11) for width in widths[1:]]
    return "\n".join(
        f"{first:<{widths[0]}}" + "".join(f"{cell:>{w}}" for cell, w in zip(rest, widths[1:], strict=True))
        for first, *rest in lines
    )


# ----------------------------------------------------------------------------------------------------- writing


def check_outputs(files: list[Path], folder: Path | None, worst: int) -> list[Path]:
    """The files to write.

    Raises:
        UserError: a file's suffix is unknown, a file is a folder or the folder a file, or `worst` is below 1.
    """
    for file in files:
        if file.suffix.lower() not in NAMES:
            raise UserError(f"--output {file}: the suffix decides what is written; use {', '.join(NAMES)}")
        if file.is_dir():
            raise UserError(f"--output {file}: is a folder; name a file, or use --output_dir")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise NotAFolder(f"--output_dir {folder}: is a file; name a folder")
    if worst < 1:
        raise UserError(f"--worst {worst}: give at least 1")
    return [*files, *([] if folder is None else [folder / name for name in NAMES.values()])]


def write_outputs(outputs: list[Path], result: dict, evaluation: Evaluation, worst: int) -> None:
    """Writes each file in the format of its suffix."""
    suffixes = {file.suffix.lower() for file in outputs}
    pictures = worst_sheet(result, evaluation, worst) if suffixes & {".html", ".png"} else None
    for file in outputs:
        match file.suffix.lower():
            case ".json":
                write_json(file, result)
            case ".csv":
                write_csv(file, result)
            case ".md":
                write_text(file, markdown(result))
            case ".html":
                write_text(file, html(result, pictures))
            case ".png":
                write_image(file, pictures)


def write_csv(file: Path, result: dict) -> None:
    """Writes a line for each picture, in order of name: `name`, `width`, `height` and its figures at full precision.

    With a comparison the second method's figures follow as `second.<figure>`. A figure that a picture lacks is empty.
    """
    lines = []
    seconds = result["comparison"]["images"] if result["comparison"] else [{}] * len(result["images"])
    for entry, second in zip(result["images"], seconds, strict=True):
        line = {"name": entry["name"], "width": entry["size"][0], "height": entry["size"][1], **flat_figures(entry)}
        lines.append(line | {f"second.{key}": value for key, value in flat_figures(second).items()})
    longest = max(lines, key=len)  # has all bands, in their order
    fields = dict.fromkeys([*longest, *(key for line in lines for key in line)])
    with (
        replacing(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def markdown(result: dict) -> str:
    """The tables and the protocol."""
    parts = ["# " + _title(result)]
    for shown in [*summary_tables(result), picture_table(result, WORST_LISTED)]:
        parts.append(f"## {shown.title}\n\n{markdown_table(shown.head, shown.rows, figures=True)}")
    parts.append("## Protocol\n\n" + "\n".join(f"- {line}" for line in protocol_lines(result)))
    return "\n\n".join(parts) + "\n"


def html(result: dict, worst: np.ndarray) -> str:
    """A self-contained page: the tables, the sheet of the worst pictures (uint8 [H, W, 3]), each picture's figures."""

    def section(shown: Table) -> str:
        return f"<h2>{escape(shown.title)}</h2>{html_table(shown.head, shown.rows)}"

    parts = [section(shown) for shown in summary_tables(result)]
    picture = f'<img style="max-width:100%;height:auto" alt="the worst pictures" src="{data_uri(worst)}">'
    parts.append(f"<h2>Worst by {escape(label(worst_key(result)))}</h2>{picture}")
    parts.append(section(picture_table(result)))
    lines = "".join(f"<li>{escape(line)}</li>" for line in protocol_lines(result))
    parts.append(f"<h2>Protocol</h2><ul>{lines}</ul>")
    return html_page(_title(result), parts)


def _title(result: dict) -> str:
    kind = {"matte": "Mattes", "binary": "Masks", "classes": "Class maps"}[result["protocol"]["kind"]]
    return f"{kind}: {main_figures(result)['count']} pictures"


# ------------------------------------------------------------------------------------------------------- sheet


def worst_sheet(result: dict, evaluation: Evaluation, count: int) -> np.ndarray:
    """The `count` worst pictures, one in each row: photo (if known), truth, prediction and error; uint8 [H, W, 3].

    The errors of mattes and masks share one colour scale, named on the sheet; in class maps wrong pixels are red and
    unlabelled ones dark grey.
    """
    entries = worst_first(result)[:count]
    items = {item.name: item for item in evaluation.truths.items}
    cases = [(entry, items[entry["name"]]) for entry in entries]
    rows, error_note = (_class_rows if evaluation.kind == "classes" else _matte_rows)(evaluation, cases)
    captions = ["truth", "prediction", error_note]
    if len(rows[0]) == 4:
        captions.insert(0, "photo")
    key = worst_key(result)
    titles = [f"{rank}. {entry['name']}   {_figures(entry, key, result)}" for rank, entry in enumerate(entries, 1)]
    return sheet(rows, GAP, TILE, captions, titles)


def _figures(entry: dict, key: str, result: dict) -> str:
    """The figure that a picture is ranked by, then some others."""
    figures = [name for name in main_figures(result) if name not in ("count", key)][:OTHER_FIGURES]
    return "   ".join(f"{label(name)} {number(entry[name])}" for name in [key, *figures])


def _matte_rows(evaluation: Evaluation, cases) -> tuple[list[list[np.ndarray]], str]:
    """Rows for `sheet`, and what the column of errors shows."""
    maps = []
    for entry, item in cases:
        prediction, truth, _, _ = read_case(evaluation, item, evaluation.predictions[entry["name"]])
        truth = truth if evaluation.kind == "matte" else (truth >= 0.5).astype(np.float32)
        maps.append([shrunk(values, 2 * TILE) for values in (truth, prediction, abs(prediction - truth))])
    end = scale_end([error for _, _, error in maps])
    rows = [
        [*_photo(evaluation, item), grey(truth), grey(prediction), heat(error / end, "error")]
        for (_, item), (truth, prediction, error) in zip(cases, maps, strict=True)
    ]
    return rows, f"|error|, black 0 to yellow {end:g}" + (" and more" if end < 1 else "")


def _class_rows(evaluation: Evaluation, cases) -> tuple[list[list[np.ndarray]], str]:
    """As `_matte_rows`, of class maps."""
    rows = []
    for entry, item in cases:
        prediction, truth, _, _ = read_case(evaluation, item, evaluation.predictions[entry["name"]])
        if "labels" in entry:
            prediction = _as_classes(prediction, entry["labels"])
        error = np.full((*truth.shape, 3), RIGHT_GREY, np.uint8)
        error[prediction != truth] = WRONG_RED
        error[truth < 0] = NO_CLASS_GREY
        rows.append([*_photo(evaluation, item), class_colours(truth), class_colours(prediction), error])
    return rows, "wrong red, void grey"


def _as_classes(labels: np.ndarray, label_of_class: list[int]) -> np.ndarray:
    """Labels of a clustering, int [H, W] -> the classes assigned to them, -1 for none."""
    classes = np.full(labels.shape, -1)
    for class_id, assigned in enumerate(label_of_class):
        if assigned >= 0:
            classes[labels == assigned] = class_id
    return classes


def _photo(evaluation: Evaluation, item) -> list[np.ndarray]:
    """[the photo that was matted], or [] where the evaluation does not know it."""
    known = item.image is not None or evaluation.dataset is not None
    return [evaluation.truths.read_image(item)] if known else []
