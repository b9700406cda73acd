"""The data set on disk, a Hugging Face imagefolder: one pair and the folder's index, written and read.

images/000137.png    8-bit sRGB
alpha/000137.png     16-bit, 65535 = 1
metadata.jsonl       in index order: file_name, alpha_file_name, seed, index, recipe, factors (a JSON string)
recipe.yaml          the recipe it was rendered with
render.json          seed, size and variant it was rendered with, and the versions that did it
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

JOURNAL = ".rendered.jsonl"  # rows of finished samples as they finish; gone when the run is complete


@dataclass(frozen=True)
class Pair:
    """A picture and its matte.

    Attributes:
        image: uint8 [H, W, 3], sRGB.
        alpha: float32 [H, W] in [0, 1].
        meta: seed, index, recipe (name) and factors (JSON string of every sampled factor).
    """

    image: np.ndarray
    alpha: np.ndarray
    meta: dict[str, Any]


def file_names(index: int) -> tuple[str, str]:
    """Picture and matte of a sample, relative to the folder."""
    return f"images/{index:06d}.png", f"alpha/{index:06d}.png"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is either whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _png(array: np.ndarray) -> bytes:
    """uint8 [H, W, 3] or uint16 [H, W] as PNG."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_pair(folder: Path, pair: Pair) -> dict[str, Any]:
    """Writes a pair's two files (alpha first, both whole or absent) and returns its metadata row."""
    image_name, alpha_name = file_names(pair.meta["index"])
    write_bytes(folder / alpha_name, _png(np.round(pair.alpha * 65535.0).astype(np.uint16)))
    write_bytes(folder / image_name, _png(pair.image))
    return {"file_name": image_name, "alpha_file_name": alpha_name, **pair.meta}


def read_pair(folder: Path, row: dict[str, Any]) -> Pair:
    """The pair of a metadata row; the inverse of `write_pair`."""
    from PIL import Image

    with Image.open(folder / row["file_name"]) as image:
        colours = np.asarray(image.convert("RGB"))
    with Image.open(folder / row["alpha_file_name"]) as matte:
        alpha = np.asarray(matte).astype(np.float32) / np.float32(65535)
    meta = {key: value for key, value in row.items() if key not in ("file_name", "alpha_file_name")}
    return Pair(colours, alpha, meta)


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that was cut off is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def read_metadata(folder: Path) -> dict[int, dict[str, Any]]:
    """index -> row of every sample that is recorded as finished and whose two files are there."""
    rows = {row["index"]: row for name in ("metadata.jsonl", JOURNAL) for row in _rows(folder / name)}
    there = {f"{kind}/{p.name}" for kind in ("images", "alpha") for p in (folder / kind).glob("*.png")}
    return {i: row for i, row in rows.items() if row["file_name"] in there and row["alpha_file_name"] in there}


def write_metadata(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    """Writes metadata.jsonl in index order, whole or not at all."""
    lines = [json.dumps(rows[i], ensure_ascii=False) + "\n" for i in sorted(rows)]
    write_bytes(folder / "metadata.jsonl", "".join(lines).encode())


def open_folder(folder: Path, recipe_text: str, seed: int, size: int, variant: str) -> None:
    """Creates the folder, or checks that it was rendered with the same recipe, seed, size and variant.

    ValueError names what differs; OSError if nothing can be written there.
    """
    settings: dict[str, Any] = {"seed": seed, "size": size, "variant": variant}
    remedy = "give another --output, or delete the folder"
    try:
        for name in ("images", "alpha"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if (folder / "render.json").is_file():
            found = json.loads((folder / "render.json").read_text(encoding="utf-8"))
            for key, value in settings.items():
                if found.get(key) != value:
                    raise ValueError(
                        f"--output '{folder}' was rendered with {key} {found.get(key)}, not {value}; {remedy}"
                    )
            recipe_there = (folder / "recipe.yaml").read_text(encoding="utf-8")
            if yaml.safe_load(recipe_there) != yaml.safe_load(recipe_text):  # comments may differ
                raise ValueError(
                    f"--output '{folder}' was rendered with another recipe (see its recipe.yaml); {remedy}"
                )
            return
        if (folder / "metadata.jsonl").exists() or any((folder / "images").iterdir()):
            raise ValueError(f"--output '{folder}' holds pictures but no render.json; {remedy}")
        write_bytes(folder / "recipe.yaml", recipe_text.encode())
        settings["versions"] = {name: version(name) for name in ("mitsuba", "numpy", "pillow")}
        write_bytes(folder / "render.json", (json.dumps(settings) + "\n").encode())
    except OSError as error:
        raise OSError(
            f"--output '{folder}' is not writable ({error.strerror}); give a folder you may write to"
        ) from error


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed run left half written; only for the run that holds the folder."""
    for part in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
        part.unlink()


def contact_sheet(pairs: list[Pair], columns: int = 6) -> np.ndarray:
    """Pairs of one size as one picture uint8 [H, W, 3]: each cell a picture and its matte side by side."""
    cells = [
        np.concatenate([p.image, np.repeat(np.round(p.alpha * 255).astype(np.uint8)[..., None], 3, 2)], 1)
        for p in pairs
    ]
    gap = 4
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + gap) - gap, min(columns, len(cells)) * (width + gap) - gap, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        y, x = k // columns * (height + gap), k % columns * (width + gap)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def write_sheet(path: Path, pairs: list[Pair]) -> None:
    """Writes a contact sheet of pairs as PNG."""
    write_bytes(path, _png(contact_sheet(pairs)))
