"""One self-contained HTML page that shows mattes beside their photos, worst first.

    sdseg report --images DIR --prediction DIR [NAME=DIR ...] [--ground_truth DIR] --output report.html

Every picture is embedded, at most 512 pixels a side, so that the page can be mailed and opened anywhere. With
several predictions each photo shows them one below the other, and the first one decides the order.
"""

import argparse
import sys
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from sdseg.errors import MissingFile, Parser, UserError, reported
from sdseg.evaluation.evaluate import evaluate_folder
from sdseg.evaluation.judging import matte_part
from sdseg.imaging import ImageError, list_images, read_alpha, read_grey16, read_image, replacing
from sdseg.outputs import UNCERTAINTY_SUFFIX, output_file, output_names

STORED_SIDE = 512  # pixels; larger pictures are shrunk before they are embedded
SHOWN_SIDE = 224  # CSS pixels; smaller pictures are enlarged by a whole factor up to this
SCALE_TOPS = (0.05, 0.1, 0.2, 0.5, 1.0)  # where the colour scales of error and uncertainty may end
LABELS = {"iou": "IoU", "boundary_f": "Boundary F", "grad": "Grad", "conn": "Conn", "spearman": "Spearman"}


@dataclass
class Result:
    """What one method made of one photo: arrays float [h, w] in [0, 1], at the row's stored size."""

    alpha: np.ndarray
    uncertainty: np.ndarray | None = None
    error: np.ndarray | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Row:
    """One photo, uint8 [h, w, 3] at its stored size (`size` is its own, width and height), and its results."""

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
) -> Row:
    """Prepares a photo for the page.

    `image` uint8 [H, W, 3]; `truth` float [H, W] or None; `mattes`: by method, alpha and uncertainty (or None), [H, W]
    too; `metrics`: by method, figures of this photo by name. Errors are taken at full size, then all is shrunk.
    """
    results = {}
    for method, (alpha, uncertainty) in mattes.items():
        for values in (alpha, uncertainty, truth):
            if values is not None and values.shape != image.shape[:2]:
                raise UserError(
                    f"{name}: {method} or its truth is {values.shape[1]}x{values.shape[0]}, but the photo is "
                    f"{image.shape[1]}x{image.shape[0]}; predict at the photo's own size"
                )
        error = None if truth is None else shrink(np.abs(alpha - truth))
        uncertainty = None if uncertainty is None else shrink(uncertainty)
        results[method] = Result(shrink(alpha), uncertainty, error, (metrics or {}).get(method, {}))
    truth = None if truth is None else shrink(truth)
    return Row(name, (image.shape[1], image.shape[0]), shrink(image), truth, results)


def build_report(output_html: str | Path, title: str, summary_rows: list[dict], rows: Iterable[Row]) -> None:
    """Writes the page.

    `summary_rows`: one dict a table line, the same keys in each (numbers or text). Rows with truth come first, in
    falling order of their first result's `mad`; those without in a section of their own, the most uncertain first.
    """
    rows = list(rows)
    judged = sorted((row for row in rows if row.truth is not None), key=_mad, reverse=True)
    others = sorted((row for row in rows if row.truth is None), key=_mean_uncertainty, reverse=True)
    results = [result for row in rows for result in row.results.values()]
    error_top = scale_top([result.error for result in results])
    uncertainty_top = scale_top([result.uncertainty for result in results])
    parts = [f"<h1>{escape(title)}</h1>", _table(summary_rows), _legend(error_top, uncertainty_top)]
    for heading, section in (("With ground truth, worst first", judged), ("Without ground truth", others)):
        if section:
            parts.append(f"<h2>{heading}</h2>")
            parts += [_article(row, error_top, uncertainty_top) for row in section]
    with replacing(output_html) as temporary:
        temporary.write_text(PAGE.format(title=escape(title), body="\n".join(parts)), "utf-8", errors="replace")


def collect_rows(
    images: str | Path,
    predictions: dict[str, Path],
    ground_truth: str | Path | None = None,
    max_rows: int = 100,
) -> tuple[list[dict], list[Row]]:
    """Judges output folders and reads what the page shows: (summary rows, rows).

    `predictions`: output folders by method. Of the photos with ground truth the `max_rows` worst by the first
    method's MAD are read, of those without the first `max_rows` by name; a photo that no method has a matte of is
    left out. Raises UserError for ground truth without photo, and as `evaluate_folder` does.
    """
    images = Path(images)
    root = images.parent if images.is_file() else images
    photos = {name.as_posix(): path for path, name in output_names(list_images(images), root).items()}
    judged, summary = {}, []
    if ground_truth is not None:
        truths = {n.as_posix(): p for p, n in output_names(list_images(ground_truth), ground_truth).items()}
        if missing := [name for name in truths if name not in photos]:
            raise MissingFile(f"{images}: has no photo for the ground truth {truths[missing[0]]}; add it")
        for method, folder in predictions.items():
            result = evaluate_folder(folder, ground_truth)
            summary.append({"method": method, **result["mean"], **_uncertainty_summary(result["uncertainty"])})
            judged[method] = {entry["name"]: entry for entry in result["images"]}
    worst = next(iter(judged.values()), {})
    names = sorted(worst, key=lambda name: -worst[name]["mad"])[:max_rows]
    names += [name for name in photos if name not in worst][:max_rows]

    rows = []
    for name in names:
        mattes = {}
        for method, folder in predictions.items():
            path = output_file(folder, Path(name))
            if path.exists():
                deviation = output_file(folder, Path(name), UNCERTAINTY_SUFFIX)
                mattes[method] = read_alpha(path), read_grey16(deviation) if deviation.exists() else None
        if mattes:
            truth = read_alpha(truths[name]) if name in worst else None
            metrics = {method: _figures(entries[name]) for method, entries in judged.items() if name in entries}
            rows.append(make_row(name, read_image(photos[name]), truth, mattes, metrics))
    if not rows:
        raise ImageError(f"{', '.join(map(str, predictions.values()))}: no matte of any photo in {images}")
    return summary, rows


def shrink(pixels: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] -> the same with at most 512 pixels a side, by area averaging."""
    factor = STORED_SIDE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    import cv2

    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


# ------------------------------------------------------------------------------------------------------ figures


def _mad(row: Row) -> float:
    return next(iter(row.results.values())).metrics.get("mad", 0.0)


def _mean_uncertainty(row: Row) -> float:
    uncertainty = next(iter(row.results.values())).uncertainty
    return 0.0 if uncertainty is None else float(uncertainty.mean())


def _figures(entry: dict) -> dict[str, float]:
    """An entry of metrics.json -> its figures, those of the uncertainty included."""
    return matte_part(entry) | _uncertainty_summary(entry.get("uncertainty"))


def _uncertainty_summary(uncertainty: dict | None) -> dict[str, float]:
    names = ("ause", "spearman") if uncertainty else ()
    return {name: uncertainty[name] for name in names if uncertainty[name] is not None}


def scale_top(maps: list[np.ndarray | None]) -> float:
    """The end of a colour scale: the first of SCALE_TOPS that 99.5 % of all values stay below."""
    values = [values.ravel() for values in maps if values is not None]
    high = np.percentile(np.concatenate(values), 99.5) if values else 0.0
    return next((top for top in SCALE_TOPS if top >= high), SCALE_TOPS[-1])


# --------------------------------------------------------------------------------------------------------- HTML


def _article(row: Row, error_top: float, uncertainty_top: float) -> str:
    """One photo: what was given on the left, a line for every method on the right."""
    given = [_tile(row.image, "photo")]
    if row.truth is not None:
        given.append(_tile(grey(row.truth), "truth"))
    lines = []
    for method, result in row.results.items():
        tiles = [_tile(grey(result.alpha), "matte")]
        if result.error is not None:
            tiles.append(_tile(coloured(result.error / error_top, "error"), "|error|"))
        if result.uncertainty is not None:
            tiles.append(_tile(coloured(result.uncertainty / uncertainty_top, "uncertainty"), "uncertainty"))
        figures = "".join(
            f"<span><b>{_label(name)}</b> {_number(value)}</span>" for name, value in result.metrics.items()
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


def _tile(pixels: np.ndarray, caption: str) -> str:
    """A picture with its caption; a click makes it large."""
    longest = max(pixels.shape[:2])
    enlarged = max(1, SHOWN_SIDE // longest)
    shown = pixels.shape[1] * min(enlarged, SHOWN_SIDE / longest if enlarged == 1 else enlarged)
    crisp = ' class="crisp"' if enlarged > 1 else ""
    return (
        f'<figure><label><input type="checkbox"><img{crisp} style="--shown:{shown:.0f}px" alt="{caption}" '
        f'src="{data_uri(pixels)}"></label><figcaption>{caption}</figcaption></figure>'
    )


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [h, w] or [h, w, 3] -> a PNG as a data URI."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")


def grey(alpha: np.ndarray) -> np.ndarray:
    """Float [h, w] in [0, 1] -> uint8 [h, w]."""
    return np.rint(alpha * 255).astype(np.uint8)


def coloured(share: np.ndarray, kind: str) -> np.ndarray:
    """Share of the scale [h, w], 1 = its end -> uint8 [h, w, 3]."""
    import cv2

    colours = {"error": cv2.COLORMAP_INFERNO, "uncertainty": cv2.COLORMAP_VIRIDIS}[kind]
    return cv2.applyColorMap(grey(share.clip(0, 1)), colours)[..., ::-1]


def _legend(error_top: float, uncertainty_top: float) -> str:
    ramp = np.linspace(0, 1, 256)[None]
    scales = (("|error|", "error", error_top), ("uncertainty (standard deviation)", "uncertainty", uncertainty_top))
    bars = [
        f'<span>{name}: 0 <img alt="" src="{data_uri(coloured(ramp, kind))}"> {"≥ " if top < 1 else ""}{top:g}</span>'
        for name, kind, top in scales
    ]
    return f'<p class="legend">{"".join(bars)}<span>click a picture to enlarge it</span></p>'


def _table(summary_rows: list[dict]) -> str:
    if not summary_rows:
        return ""
    keys = list(dict.fromkeys(key for line in summary_rows for key in line))
    head = "".join(f"<th>{_label(key)}</th>" for key in keys)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_number(line[key]) if key in line else ''}</td>" for key in keys) + "</tr>"
        for line in summary_rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _label(key: str) -> str:
    return escape(LABELS.get(key, key.upper() if len(key) <= 4 else key.replace("_", " ")))


def _number(value: float | int | str) -> str:
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #f6f6f4; --card: #fff; --ink: #1d1f21; --dim: #63676b; --line: #dcdcd8; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #16181a; --card: #1f2225; --ink: #e6e6e3; --dim: #9aa0a5; --line: #34383c; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1500px; padding: 1rem clamp(.6rem, 2vw, 2rem) 3rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .6rem; }}
h3 {{ font-size: 1rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }}
h4 {{ font-size: .9rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
small {{ color: var(--dim); font-weight: normal; white-space: nowrap; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; background: var(--card); font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem; border: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; color: var(--dim); font-size: .85rem; }}
.legend img {{ width: 120px; height: .8em; vertical-align: -.08em; }}
article {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem;
  margin: 0 0 1rem; }}
.tiles, .results {{ display: flex; flex-wrap: wrap; gap: .7rem; align-items: flex-start; }}
.row {{ display: grid; gap: .9rem 1.6rem; align-items: start; }}
@media (min-width: 1150px) {{
  .row {{ grid-template-columns: max-content minmax(0, 1fr); }}
  .given {{ position: sticky; top: .8rem; padding-top: 1.6rem; }}
}}
.results {{ gap: 1.1rem 1.6rem; }}
.result {{ min-width: min(20rem, 100%); }}
figure {{ margin: 0; max-width: 100%; }}
figcaption {{ font-size: .8rem; color: var(--dim); }}
label {{ cursor: zoom-in; }}
input {{ display: none; }}
figure img {{ display: block; width: var(--shown); max-width: min(44vw, 100%); height: auto;
  outline: 1px solid var(--line); outline-offset: -1px; }}
input:checked + img {{ width: calc(2.75 * var(--shown)); max-width: 100%; cursor: zoom-out; }}
.crisp {{ image-rendering: pixelated; }}
.figures {{ display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .3rem 0 0; width: 0; min-width: 100%;
  font-size: .82rem; font-variant-numeric: tabular-nums; }}
.figures span {{ white-space: nowrap; }}
.figures b {{ color: var(--dim); font-weight: normal; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def parse_predictions(values: list[str]) -> dict[str, Path]:
    """DIR or NAME=DIR -> folders by name; a folder without name is called by its own."""
    predictions = {}
    for value in values:
        name, found, folder = value.partition("=")
        if not found or Path(value).is_dir():
            name, folder = Path(value).resolve().name, value
        if name in predictions:
            raise UserError(f"--prediction {value}: two predictions are called {name}; tell them apart by NAME=DIR")
        predictions[name] = Path(folder)
    return predictions


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="sdseg report", description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, type=Path, help="photo, or folder of photos")
    parser.add_argument(
        "--prediction", required=True, nargs="+", metavar="[NAME=]DIR", help="output folders; the first sets the order"
    )
    parser.add_argument("--ground_truth", type=Path, metavar="DIR", help="true mattes of some or all of the photos")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="HTML page to write")
    parser.add_argument("--title", default="Mattes")
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
    sys.exit(main())
