"""Figures for people to read: their labels, numbers, tables in Markdown and HTML, and the HTML page around them."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from os import PathLike

import numpy as np

from sdseg.imaging import replacing
from synth_data.drawing import png

LABELS = {
    "iou": "IoU", "boundary_f": "Boundary F", "grad": "Grad", "conn": "Conn", "f1": "F1", "f_beta": "F 0.3",
    "s_measure": "S-measure", "e_measure": "E-measure", "weighted_f": "weighted F", "mean_iou": "mIoU",
    "accuracy": "accuracy", "mean_accuracy": "mean accuracy", "spearman": "Spearman",
}  # fmt: skip


def label(figure: str) -> str:
    """A figure's name as tables show it: `mad` -> `MAD`, `transition.sad` -> `transition SAD`."""
    part, _, name = figure.rpartition(".")
    return f"{part} {LABELS.get(name, name.upper() if len(name) <= 4 else name.replace('_', ' '))}".strip()


def number(value: float | int | str | None) -> str:
    """A float with four decimals, a dash for None, anything else unchanged."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_text(path: str | PathLike, text: str) -> None:
    """Writes a text file in one step; file names that are no valid text become question marks in it."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8", errors="replace")


# ------------------------------------------------------------------------------------------------------ tables


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = False) -> str:
    """A table in Markdown, without a line end after it; `figures`: all columns but the first are right-aligned."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    text = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|---|" + ("---:|" if figures else "---|") * (len(head) - 1)
    return "\n".join([text[0], rule, *text[1:]])


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in HTML; its cells are plain text."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


# --------------------------------------------------------------------------------------------------------- HTML


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [H, W] or [H, W, 3] -> a PNG as a data URI."""
    return "data:image/png;base64," + b64encode(png(pixels)).decode("ascii")


def html_page(title: str, parts: Iterable[str]) -> str:
    """A self-contained page: `title` is plain text, also shown as its heading, `parts` are HTML."""
    heading = escape(title)
    return PAGE.format(title=heading, body="\n".join([f"<h1>{heading}</h1>", *parts]))


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
