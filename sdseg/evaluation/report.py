"""One self-contained HTML page that shows mattes beside their photos, worst first.

    sdseg report --images DIR --prediction DIR [NAME=DIR ...] [--ground_truth DIR] --output report.html

Every picture is embedded, at most 512 pixels a side, so the page can be mailed and opened anywhere. With several
predictions, each photo shows them one below the other, and the first one decides the order.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from sdseg.errors import MissingFile, Parser, UserError, reported, steady_streams
from sdseg.evaluation.evaluate import compare_with_record, evaluate_folder, listed, recorded_scales
from sdseg.evaluation.judging import matte_part
from sdseg.evaluation.page import data_uri, html_page, html_table, label, number, write_text
from sdseg.imaging import ImageError, list_images, read_alpha, read_grey16, read_image
from sdseg.outputs import UNCERTAINTY_SUFFIX, output_file, output_names
from synth_data.drawing import grey, heat, scale_end, shrunk

STORED_SIDE = 512  # pixels; larger pictures are shrunk before they are embedded
SHOWN_SIDE = 224  # CSS pixels; smaller pictures are enlarged by a whole factor up to this size


@dataclass
class Result:
    """One method's result on one photo: arrays float [h, w] in [0, 1], at the row's stored size."""

    alpha: np.ndarray
    uncertainty: np.ndarray | None = None
    error: np.ndarray | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    caption: str = "uncertainty"


@dataclass
class Row:
    """One photo and its results, by method.

    Attributes:
        size: the photo's own width and height.
        image: uint8 [h, w, 3] at the stored size, at most STORED_SIDE a side.
        truth: float [h, w] in [0, 1], or None.
    """

    name: str
    size: tuple[int, int]
    image: np.ndarray
    truth: np.ndarray | None
    results: dict[str, Result]


def make_row(
    name: str,
    image: np.ndarray,
    truth: np.ndarray | None,
    mattes: dict[str, tuple[np.ndarray, np.ndarray | None]],
    metrics: dict[str, dict[str, float]] | None = None,
    scales: dict[str, float | None] | None = None,
) -> Row:
    """Prepares a photo for the page. Errors are computed at full size, then everything is shrunk.

    Args:
        image: uint8 [H, W, 3].
        truth: float [H, W] in [0, 1], or None.
        mattes: by method, alpha and uncertainty (or None), float [H, W] in [0, 1].
        metrics: by method, the figures of this photo by name.
        scales: by method, the factor that is in the uncertainty, None for a raw one; without those that say nothing.

    Raises:
        UserError: sizes differ.
    """
    results = {}
    for method, (alpha, uncertainty) in mattes.items():
        for values in (alpha, uncertainty, truth):
            if values is not None and values.shape != image.shape[:2]:
                raise UserError(
                    f"{name}: {method} or its truth is {values.shape[1]}x{values.shape[0]}, but the photo is "
                    f"{image.shape[1]}x{image.shape[0]}; predict at the photo's own size"
                )
        error = None if truth is None else shrunk(np.abs(alpha - truth), STORED_SIDE)
        uncertainty = None if uncertainty is None else shrunk(uncertainty, STORED_SIDE)
        figures, caption = (metrics or {}).get(method, {}), "uncertainty"
        if method in (scales or {}):
            caption += f" × {scales[method]:.3g}" if scales[method] is not None else ", raw"
        results[method] = Result(shrunk(alpha, STORED_SIDE), uncertainty, error, figures, caption)
    truth = None if truth is None else shrunk(truth, STORED_SIDE)
    return Row(name, (image.shape[1], image.shape[0]), shrunk(image, STORED_SIDE), truth, results)


def build_report(output_html: str | Path, title: str, summary_rows: list[dict], rows: Iterable[Row]) -> None:
    """Writes the page.

    Rows with truth come first, those whose first result has the largest `mad` on top; rows without truth follow in a
    section of their own, the most uncertain on top.

    Args:
        summary_rows: the lines of the table above them, each {column: number or text}.
    """
    rows = list(rows)
    judged = sorted((row for row in rows if row.truth is not None), key=_mad, reverse=True)
    others = sorted((row for row in rows if row.truth is None), key=_mean_uncertainty, reverse=True)
    results = [result for row in rows for result in row.results.values()]
    error_end = scale_end([result.error for result in results])
    uncertainty_end = scale_end([result.uncertainty for result in results])
    parts = [_summary_table(summary_rows), _legend(error_end, uncertainty_end)]
    for heading, section in (("With ground truth, worst first", judged), ("Without ground truth", others)):
        if section:
            parts.append(f"<h2>{heading}</h2>")
            parts += [_article(row, error_end, uncertainty_end) for row in section]
    write_text(output_html, html_page(title, parts))


def collect_rows(
    images: str | Path,
    predictions: dict[str, Path],
    ground_truth: str | Path | None = None,
    max_rows: int = 100,
) -> tuple[list[dict], list[Row]]:
    """Judges output folders and reads what the page shows: (summary rows, rows) for `build_report`.

    Args:
        predictions: output folders by method.
        max_rows: of the photos with ground truth, the `max_rows` with the largest MAD of the first method are read; of
            those without, the first `max_rows` by name. A photo without any matte is left out.

    Raises:
        UserError: ground truth without a photo, no matte at all, or whatever `evaluate_folder` raises.
    """
    images = Path(images)
    root = images.parent if images.is_file() else images
    photos = {name.as_posix(): path for path, name in output_names(list_images(images), root).items()}
    judged, summary = {}, []
    if ground_truth is not None:
        truths = {n.as_posix(): p for p, n in output_names(list_images(ground_truth), ground_truth).items()}
        if missing := [name for name in truths if name not in photos]:
            raise MissingFile(f"{images}: has no photo for the ground truth {truths[missing[0]]}; add the photo")
        for method, folder in predictions.items():
            result = evaluate_folder(folder, ground_truth)
            summary.append({"method": method, **result["mean"], **_uncertainty_summary(result["uncertainty"])})
            judged[method] = {entry["name"]: entry for entry in result["images"]}
    worst = next(iter(judged.values()), {})
    names = sorted(worst, key=lambda name: -worst[name]["mad"])[:max_rows]
    names += [name for name in photos if name not in worst][:max_rows]

    records = {method: compare_with_record(folder, names) for method, folder in predictions.items()}
    scales = {method: recorded_scales(folder) or {} for method, folder in predictions.items()}
    rows, unlisted = [], []
    for name in names:
        mattes = {}
        for method, folder in predictions.items():
            failed, others, stale = records[method]
            path = output_file(folder, Path(name))
            if os.path.exists(path) and name not in failed:
                deviation = output_file(folder, Path(name), UNCERTAINTY_SUFFIX)
                known = os.path.exists(deviation) and deviation not in stale
                mattes[method] = read_alpha(path), read_grey16(deviation) if known else None
                unlisted += [str(path)] * (name in others)
        if mattes:
            truth = read_alpha(truths[name]) if name in worst else None
            metrics = {method: _figures(entries[name]) for method, entries in judged.items() if name in entries}
            applied = {method: scales[method][name] for method in mattes if name in scales[method]}
            rows.append(make_row(name, read_image(photos[name]), truth, mattes, metrics, applied))
    if not rows:
        folders = ", ".join(map(str, predictions.values()))
        raise ImageError(f"{folders}: no matte of any photo in {images}; name the folder that holds their mattes")
    if unlisted:
        print(
            f"note: {len(unlisted)} mattes are not listed in the run.json of their folder, so another run made them: "
            f"{listed(unlisted)}",
            file=sys.stderr,
        )
    return summary, rows


# ------------------------------------------------------------------------------------------------------ figures


def _summary_table(rows: list[dict]) -> str:
    if not rows:
        return ""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return html_table([label(key) for key in keys], [[number(row.get(key, "")) for key in keys] for row in rows])


def _mad(row: Row) -> float:
    return next(iter(row.results.values())).metrics.get("mad", 0.0)


def _mean_uncertainty(row: Row) -> float:
    uncertainty = next(iter(row.results.values())).uncertainty
    return 0.0 if uncertainty is None else float(uncertainty.mean())


def _figures(entry: dict) -> dict[str, float]:
    """The figures of an entry of metrics.json, including those of its uncertainty."""
    return matte_part(entry) | _uncertainty_summary(entry.get("uncertainty"))


def _uncertainty_summary(uncertainty: dict | None) -> dict[str, float]:
    names = ("ause", "spearman") if uncertainty else ()
    return {name: uncertainty[name] for name in names if uncertainty[name] is not None}


# --------------------------------------------------------------------------------------------------------- HTML


def _article(row: Row, error_end: float, uncertainty_end: float) -> str:
    """One photo: photo and truth on the left, a line for every method on the right."""
    given = [_figure(row.image, "photo")]
    if row.truth is not None:
        given.append(_figure(grey(row.truth), "truth"))
    lines = []
    for method, result in row.results.items():
        tiles = [_figure(grey(result.alpha), "matte")]
        if result.error is not None:
            tiles.append(_figure(heat(result.error / error_end, "error"), "|error|"))
        if result.uncertainty is not None:
            tiles.append(_figure(heat(result.uncertainty / uncertainty_end, "uncertainty"), result.caption))
        figures = "".join(
            f"<span><b>{escape(label(name))}</b> {number(value)}</span>" for name, value in result.metrics.items()
        )
        lines.append(
            f'<div class="result"><h4>{escape(method)}</h4><div class="tiles">{"".join(tiles)}</div>'
            f'<p class="figures">{figures}</p></div>'
        )
    width, height = row.size
    return (
        f'<article><h3>{escape(row.name)} <small>{width} × {height}</small></h3><div class="row">'
        f'<div class="tiles given">{"".join(given)}</div><div class="results">{"".join(lines)}</div></div></article>'
    )


def _figure(pixels: np.ndarray, caption: str) -> str:
    """A picture with its caption; a click enlarges it."""
    longest = max(pixels.shape[:2])
    enlarged = max(1, SHOWN_SIDE // longest)
    shown = pixels.shape[1] * min(enlarged, SHOWN_SIDE / longest if enlarged == 1 else enlarged)
    crisp = ' class="crisp"' if enlarged > 1 else ""
    return (
        f'<figure><label><input type="checkbox"><img{crisp} style="--shown:{shown:.0f}px" alt="{caption}" '
        f'src="{data_uri(pixels)}"></label><figcaption>{caption}</figcaption></figure>'
    )


def _legend(error_end: float, uncertainty_end: float) -> str:
    ramp = np.linspace(0, 1, 256)[None]
    scales = (("|error|", "error", error_end), ("uncertainty (standard deviation)", "uncertainty", uncertainty_end))
    bars = [
        f'<span>{name}: 0 <img alt="" src="{data_uri(heat(ramp, kind))}"> {"≥ " if end < 1 else ""}{end:g}</span>'
        for name, kind, end in scales
    ]
    return f'<p class="legend">{"".join(bars)}<span>click a picture to enlarge it</span></p>'


# ------------------------------------------------------------------------------------------------- command line


def parse_predictions(values: list[str]) -> dict[str, Path]:
    """DIR or NAME=DIR -> folders by name; the name of a plain DIR is that of the folder."""
    predictions = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not equals or Path(value).is_dir():
            name, folder = Path(value).resolve().name, value
        if name in predictions:
            raise UserError(f"--prediction {value}: two predictions are called {name}; name them apart with NAME=DIR")
        predictions[name] = Path(folder)
    return predictions


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="sdseg report", description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, type=Path, help="photo, or folder of photos")
    parser.add_argument(
        "--prediction", required=True, nargs="+", metavar="[NAME=]DIR", help="output folders; the first sets the order"
    )
    parser.add_argument("--ground_truth", type=Path, metavar="DIR", help="true mattes of some or all photos")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="HTML page to write")
    parser.add_argument("--title", default="Mattes", help="of the page (default: Mattes)")
    parser.add_argument("--max_rows", type=int, default=100, help="photos shown in each section (default: 100)")
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    predictions = parse_predictions(arguments.prediction)
    summary, rows = collect_rows(arguments.images, predictions, arguments.ground_truth, arguments.max_rows)
    build_report(arguments.output, arguments.title, summary, rows)
    print(f"{arguments.output}: {len(rows)} photos")
    return 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
