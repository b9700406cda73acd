"""Photos from folders and Hub data sets, cropped to squares of linear light."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synth_data.colour import srgb_to_linear
from synth_data.errors import UserError, one_line

LEAST_CROP = 0.5  # smallest side of a random crop, as a share of the photo's shorter side
LINEAR = srgb_to_linear(np.arange(256) / 255).astype(np.float32)  # linear light of each 8-bit sRGB value


class Files:
    """The pictures in a folder and its subfolders: item k is (name, path)."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[str, Any]:
        return str(self.paths[at]), self.paths[at]


class Rows:
    """The pictures of a data set: item k is (name, path or open file)."""

    def __init__(self, place: str, rows: Any, column: str):
        self.place, self.rows, self.column = place, rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[str, Any]:
        from io import BytesIO

        content = self.rows[at][self.column] or {"bytes": b"", "path": None}
        source = content["path"] if content["bytes"] is None else BytesIO(content["bytes"])
        return f"row {at} of '{self.place}'", source


def open_photos(place: str) -> Files | Rows:
    """The photos of one folder or data set; UserError if there are none."""
    from PIL import Image

    remedy = "give a folder of pictures or a Hub data set `owner/name` that has an image column"
    if Path(place).is_dir():
        kinds = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        paths = sorted(p for p in Path(place).rglob("*") if p.suffix.lower() in kinds and p.is_file())
        if paths:
            return Files(paths)
        if not any(Path(place).rglob("*.parquet")):
            raise UserError(f"photos: folder '{place}' holds no pictures; {remedy}")
    import datasets

    try:
        splits = datasets.load_dataset(place)
    except Exception as error:  # whatever `datasets` and the network raise
        raise UserError(
            f"photos: '{place}' is no folder here and cannot be loaded ({one_line(error)}); {remedy}"
        ) from error
    rows = splits["train"] if "train" in splits else splits[min(splits)]
    column = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None or not len(rows):
        raise UserError(f"photos: '{place}' has no pictures (columns: {', '.join(rows.column_names)}); {remedy}")
    return Rows(place, rows.select_columns(column).cast_column(column, datasets.Image(decode=False)), column)


def square_part(name: str, source: Any, size: int, crop: float, left: float, top: float) -> np.ndarray:
    """A square crop of a picture in linear light: float32 [size, size, 3] in [0, 1].

    The square's side is `crop` times the picture's shorter side; `left` and `top` in [0, 1] are its position. Resizing
    happens in linear light, except that a large JPEG is decoded at the smallest of its sizes 1, 1/2, 1/4, 1/8 that
    fills the frame. UserError if the picture cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as picture:
            ratio = size / (crop * min(picture.size))
            picture.draft("RGB", tuple(max(1, int(np.ceil(side * ratio))) for side in picture.size))
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            ImageOps.exif_transpose(picture, in_place=True)
            side = max(1, round(crop * min(picture.size)))
            x, y = round(left * (picture.width - side)), round(top * (picture.height - side))
            part = np.asarray(picture.crop((x, y, x + side, y + side)).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"photos: {name} cannot be read ({one_line(error)}); replace or remove it") from error
    filtered = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    part = cv2.resize(cv2.LUT(part, LINEAR), (size, size), interpolation=filtered)
    return np.minimum(part, 1, out=part)  # averages of white may round to above 1


def random_part(rng: np.random.Generator, name: str, source: Any, size: int) -> np.ndarray:
    """A random square crop of a photo, mirrored half of the time: linear light float32 [size, size, 3] in [0, 1]."""
    crop, left, top, flip = rng.uniform(LEAST_CROP, 1), rng.random(), rng.random(), rng.random() < 0.5
    part = square_part(name, source, size, crop, left, top)
    return cv2.flip(part, 1) if flip else part
