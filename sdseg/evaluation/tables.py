"""The result of an evaluation for readers: tables as text, Markdown, CSV and HTML, and a sheet of the worst cases."""

import csv
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg.errors import NotAFolder, UserError
from sdseg.evaluation.intervals import LOWER_IS_BETTER
from sdseg.evaluation.judging import WORST_BY, Evaluation, flat_figures, read_case
from sdseg.imaging import replacing, write_image
from sdseg.outputs import write_json

if TYPE_CHECKING:
    from PIL import Image, ImageFont

NAMES = {".json": "metrics.json", ".csv": "per_picture.csv", ".md": "metrics.md", ".html": "metrics.html"}
NAMES[".png"] = "worst.png"
WORST_LISTED = 5  # in text and Markdown
TILE = 256  # pixels, on the sheet
GAP = 8
OTHERS_TOLD = 4  # figures of a picture on the sheet, beside the one that put it there
LABELS = {
    "iou": "IoU", "boundary_f": "Boundary F", "grad": "Grad", "conn": "Conn", "f1": "F1", "f_beta": "F 0.3",
    "s_measure": "S-measure", "e_measure": "E-measure", "weighted_f": "weighted F", "mean_iou": "mIoU",
    "accuracy": "accuracy", "mean_accuracy": "mean accuracy", "spearman": "Spearman",
}  # fmt: skip
VOID_GREY, RIGHT_GREY, WRONG_RED = (128, 128, 128), (235, 235, 235), (214, 39, 40)


# ------------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is a name, the others are figures."""

    title: str
    head: list[str]
    rows: list[list[str]]


def label(figure: str) -> str:
    """`transition.sad` -> `transition SAD`."""
    part, _, name = figure.rpartition(".")
    return f"{part} {LABELS.get(name, name.upper() if len(name) <= 4 else name.replace('_', ' '))}".strip()


def number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def worst_first(result: dict) -> list[dict]:
    """Entries, the worst first; those without the figure last. Equals stay in the order of their names."""
    key = worst_key(result)
    sign = -1 if key in LOWER_IS_BETTER else 1
    return sorted(result["images"], key=lambda entry: (entry[key] is None, sign * (entry[key] or 0)))


def worst_key(result: dict) -> str:
    """The figure that says which pictures are worst: MAD, MAE or mIoU, or the first there is."""
    usual = WORST_BY[result["protocol"]["kind"]]
    figures = list(result["protocol"]["definitions"])
    return usual if usual in figures else figures[0]


def main_figures(result: dict) -> dict:
    """Means over pictures, or for classes the set's figures, with `count`."""
    return result["set"] if result["protocol"]["kind"] == "classes" else result["mean"]


def summary_tables(result: dict) -> list[Table]:
    """The tables that sum a result up, without those of single pictures."""
    spread = result["intervals"]["figures"]
    level = f"{100 * result['intervals']['level']:g} %"

    def cells(figures: dict, prefix: str = "") -> list[str]:
        shown = []
        for key, value in figures.items():
            ends = spread.get(prefix + key)
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
        rows = [["as it is", *cells(shown, "uncertainty.")]]
        if scaled := uncertainty["scaled"]:
            rows.append(["times the scale", *(number(scaled[key]) if key in scaled else "" for key in shown)])
        heads = ["pictures" if key == "count" else label(key) for key in shown]
        tables.append(Table(f"Uncertainty [{level} interval]", ["", *heads], rows))
    return tables + [shown for shown in (_comparison_table(result), _class_table(result)) if shown]


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
    level = f"{100 * result['intervals']['level']:g} %"
    head = ["", "pictures", "first", "second", "difference", level, "first better", "equal"]
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
    """The protocol, a line each."""
    lines = []
    for key, value in result["protocol"].items():
        if isinstance(value, dict):
            lines += [f"{label(name)}: {text}" for name, text in value.items()] if key != "versions" else [
                "versions: " + ", ".join(f"{name} {version}" for name, version in value.items())
            ]  # fmt: skip
        elif value is not None:
            lines.append(f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    drawn = result["intervals"]
    return [*lines, f"{drawn['resamples']} draws of the bootstrap, seed {drawn['seed']}"]


def table(result: dict) -> str:
    """The pictures that are worst, the means and their intervals, as lines of text."""
    worst, whole = picture_table(result, WORST_LISTED), main_figures(result)
    spread, level = result["intervals"]["figures"], f"{100 * result['intervals']['level']:g} %"
    name = "set" if result["protocol"]["kind"] == "classes" else "mean"
    figures = [key for key in whole if key != "count"]
    lines = [[f"worst by {label(worst_key(result))}", *worst.head[1:]], *worst.rows]
    lines.append([f"{name} of {whole['count']}", *(number(whole[key]) for key in figures)])
    for end, word in enumerate(("from", "to")):
        lines.append([f"  {level} {word}", *(number(spread[key][end] if spread.get(key) else None) for key in figures)])
    for band, means in result.get("bands", {}).items():
        lines.append([f"{band} of {means['count']}", *(number(means.get(key)) for key in figures)])
    text = [_aligned(lines)]
    if uncertainty := result["uncertainty"]:
        found = {key: value for key, value in uncertainty.items() if isinstance(value, float)}
        text.append("uncertainty: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()))
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
    """All files that are to be written. Raises UserError for suffixes that mean nothing and folders that are files."""
    for file in files:
        if file.suffix.lower() not in NAMES:
            raise UserError(f"--output {file}: the suffix says what to write; use {', '.join(NAMES)}")
        if file.is_dir():
            raise UserError(f"--output {file}: is a folder; name a file, or use --output_dir")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise NotAFolder(f"--output_dir {folder}: is a file; name a folder")
    if worst < 1:
        raise UserError(f"--worst {worst}: give at least 1")
    return [*files, *([] if folder is None else [folder / name for name in NAMES.values()])]


def write_outputs(outputs: list[Path], result: dict, evaluation: Evaluation, worst: int) -> None:
    """Writes each file as its suffix says."""
    suffixes = {file.suffix.lower() for file in outputs}
    sheet = worst_sheet(result, evaluation, worst) if suffixes & {".html", ".png"} else None
    for file in outputs:
        match file.suffix.lower():
            case ".json":
                write_json(file, result)
            case ".csv":
                write_csv(file, result)
            case ".md":
                _write_text(file, markdown(result))
            case ".html":
                _write_text(file, html(result, sheet))
            case ".png":
                write_image(file, sheet)


def _write_text(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, "utf-8", errors="replace")


def write_csv(file: Path, result: dict) -> None:
    """A line a picture, in order of name: `name`, `width`, `height`, figures at full precision, and with a comparison
    the second method's as `second.<figure>`. What a picture does not have is left empty.
    """
    lines = []
    seconds = result["comparison"]["images"] if result["comparison"] else [{}] * len(result["images"])
    for entry, second in zip(result["images"], seconds, strict=True):
        line = {"name": entry["name"], "width": entry["size"][0], "height": entry["size"][1], **flat_figures(entry)}
        lines.append(line | {f"second.{key}": value for key, value in flat_figures(second).items()})
    longest = max(lines, key=len)  # its order of bands is every other's
    fields = dict.fromkeys([*longest, *(key for line in lines for key in line)])
    with (
        replacing(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def markdown(result: dict) -> str:
    """Tables and protocol."""
    tables = [*summary_tables(result), picture_table(result, WORST_LISTED)]
    parts = ["# " + _title(result)]
    for shown in tables:
        rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [shown.head, *shown.rows]]
        rows.insert(1, ["---", *["---:"] * (len(shown.head) - 1)])
        parts.append(f"## {shown.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts.append("## Protocol\n\n" + "\n".join(f"- {line}" for line in protocol_lines(result)))
    return "\n\n".join(parts) + "\n"


def html(result: dict, sheet: np.ndarray) -> str:
    """One page that needs nothing else: the tables, the sheet of the worst, every picture's figures."""
    from sdseg.evaluation.report import PAGE, data_uri

    parts = [f"<h1>{escape(_title(result))}</h1>"]
    parts += [f"<h2>{escape(shown.title)}</h2>{_html_table(shown)}" for shown in summary_tables(result)]
    picture = f'<img style="max-width:100%;height:auto" alt="the worst pictures" src="{data_uri(sheet)}">'
    parts.append(f"<h2>Worst by {escape(label(worst_key(result)))}</h2>{picture}")
    shown = picture_table(result)
    parts.append(f"<h2>{escape(shown.title)}</h2>{_html_table(shown)}")
    lines = "".join(f"<li>{escape(line)}</li>" for line in protocol_lines(result))
    parts.append(f"<h2>Protocol</h2><ul>{lines}</ul>")
    return PAGE.format(title=escape(_title(result)), body="\n".join(parts))


def _html_table(shown: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in shown.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in shown.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _title(result: dict) -> str:
    kind = {"matte": "Mattes", "binary": "Masks", "classes": "Class maps"}[result["protocol"]["kind"]]
    return f"{kind}: {main_figures(result)['count']} pictures"


# ------------------------------------------------------------------------------------------------------- sheet


def worst_sheet(result: dict, evaluation: Evaluation, count: int) -> np.ndarray:
    """The `count` worst pictures, one a row: photo (where there is one), truth, prediction, error; uint8 [H, W, 3].

    Errors of mattes and masks share one scale of colours, which the sheet names; of class maps what is wrong is red
    and what nobody labelled dark grey.
    """
    entries = worst_first(result)[:count]
    items = {item.name: item for item in evaluation.truths.items}
    cases = [(entry, items[entry["name"]]) for entry in entries]
    rows, error_note = (_class_rows if evaluation.kind == "classes" else _matte_rows)(evaluation, cases)
    captions = ["truth", "prediction", error_note]
    if len(rows[0]) == 4:
        captions.insert(0, "photo")
    key = worst_key(result)
    titles = [f"{place}. {entry['name']}   {_told(entry, key, result)}" for place, entry in enumerate(entries, start=1)]
    return _laid_out(captions, titles, rows)


def _told(entry: dict, key: str, result: dict) -> str:
    """The figure that put a picture here, then the others."""
    figures = [name for name in main_figures(result) if name not in ("count", key)][:OTHERS_TOLD]
    return "   ".join(f"{label(name)} {number(entry[name])}" for name in [key, *figures])


def _matte_rows(evaluation: Evaluation, cases) -> tuple[list[list[np.ndarray]], str]:
    from sdseg.evaluation.report import coloured, grey, scale_top, shrink

    read = []
    for entry, item in cases:
        prediction, truth, _, _ = read_case(evaluation, item, evaluation.predictions[entry["name"]])
        truth = truth if evaluation.kind == "matte" else (truth >= 0.5).astype(np.float32)
        read.append([shrink(values) for values in (truth, prediction, abs(prediction - truth))])
    top = scale_top([error for _, _, error in read])
    rows = [
        [*_photo(evaluation, item), grey(truth), grey(prediction), coloured(error / top, "error")]
        for (_, item), (truth, prediction, error) in zip(cases, read, strict=True)
    ]
    return rows, f"|error|, black 0 to yellow {top:g}" + (" and more" if top < 1 else "")


def _class_rows(evaluation: Evaluation, cases) -> tuple[list[list[np.ndarray]], str]:
    rows = []
    for entry, item in cases:
        prediction, truth, _, _ = read_case(evaluation, item, evaluation.predictions[entry["name"]])
        if "labels" in entry:
            prediction = _as_classes(prediction, entry["labels"])
        error = np.full((*truth.shape, 3), RIGHT_GREY, np.uint8)
        error[prediction != truth] = WRONG_RED
        error[truth < 0] = VOID_GREY
        rows.append([*_photo(evaluation, item), class_colours(truth), class_colours(prediction), error])
    return rows, "wrong red, void grey"


def class_colours(labels: np.ndarray) -> np.ndarray:
    """Class ids [H, W], -1 for none -> uint8 [H, W, 3]: VOC's palette (bits of the id, spread over the channels)."""
    colours = np.zeros((*labels.shape, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[..., channel] |= ((((labels >> (3 * bit)) >> channel) & 1) << (7 - bit)).astype(np.uint8)
    colours[labels < 0] = VOID_GREY
    return colours


def _as_classes(labels: np.ndarray, label_of_class: list[int]) -> np.ndarray:
    """Labels of a clustering [H, W] -> the classes they were given, -1 for none."""
    classes = np.full(labels.shape, -1)
    for number, given in enumerate(label_of_class):
        if given >= 0:
            classes[labels == given] = number
    return classes


def _photo(evaluation: Evaluation, item) -> list[np.ndarray]:
    """The picture that was matted, where the evaluation knows it."""
    known = item.image is not None or evaluation.dataset is not None
    return [evaluation.truths.read_image(item)] if known else []


def _laid_out(captions: list[str], titles: list[str], rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of pictures [h, w] or [h, w, 3], each beneath its title, columns named at the top; uint8 [H, W, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    line = 20
    tiles = [[_tile(pixels) for pixels in row] for row in rows]
    heights = [max(tile.height for tile in row) for row in tiles]
    width = max(max(sum(tile.width + GAP for tile in row) for row in tiles), len(captions) * (TILE + GAP)) + GAP
    sheet = Image.new("RGB", (width, GAP + line + sum(height + line + 2 * GAP for height in heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        draw.text((GAP + column * (TILE + GAP), GAP), caption, fill="#555", font=font)
    top = GAP + line
    for title, row, height in zip(titles, tiles, heights, strict=True):
        draw.text((GAP, top + 2), _fitting_text(title, width - 2 * GAP, font), fill="black", font=font)
        for column, tile in enumerate(row):
            left = GAP + column * (TILE + GAP)
            sheet.paste(tile, (left, top + line))
            draw.rectangle((left - 1, top + line - 1, left + tile.width, top + line + tile.height), outline="#bbb")
        top += height + line + 2 * GAP
    return np.asarray(sheet)


def _tile(pixels: np.ndarray) -> "Image.Image":
    """A picture at the greatest size that fits the tile; small ones are enlarged by a whole factor."""
    from PIL import Image

    image = Image.fromarray(pixels).convert("RGB")
    factor = TILE / max(image.size)
    if factor >= 1:
        size = tuple(side * int(factor) for side in image.size)
        return image.resize(size, Image.Resampling.NEAREST)
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BOX)


def _fitting_text(text: str, width: int, font: "ImageFont.ImageFont") -> str:
    """The text, cut at its end to fit `width` pixels; characters that a font cannot have become question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\n", " ")
    while font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
