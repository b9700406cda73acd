"""Photos from folders and Hub data sets, cropped to squares of linear light."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synth_data.colour import LEVELS
from synth_data.errors import UserError, one_line
from synth_data.files import files_below, picture_suffixes

LEAST_CROP = 0.5  # smallest side of a random crop, as a share of the photo's shorter side
# Photos that other programs show; those that Pillow has since learnt are read.
UNREAD = {
    ".3fr", ".arw", ".avif", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".heic", ".heif", ".iiq", ".jxl", ".kdc", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".psb", ".psd", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f", ".xcf",
}  # fmt: skip
LINEAR = LEVELS.astype(np.float32)


def not_read(place: str) -> list[Path]:
    """Photos in a folder that are of kinds which cannot be read, sorted by path."""
    unread = UNREAD - picture_suffixes()
    return sorted(p for p in files_below(place) if p.suffix.lower() in unread) if Path(place).is_dir() else []


class Files:
    """The pictures in a folder and its subfolders: item k is (name, path)."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[str, Any]:
        return self.name(at), self.paths[at]

    def name(self, at: int) -> str:
        """What errors call a picture."""
        return str(self.paths[at])


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
        return self.name(at), source

    def name(self, at: int) -> str:
        """What errors call a picture."""
        return f"row {at} of '{self.place}'"


def open_photos(place: str, left_out: Collection[str] = ()) -> Files | Rows:
    """The photos of one folder or data set, without those whose name is in `left_out`; UserError if there are none."""
    remedy = "give a folder of pictures or a Hub data set `owner/name` that has an image column"
    if Path(place).is_dir():
        kinds, files = picture_suffixes(), files_below(place)
        if paths := sorted(p for p in files if p.suffix.lower() in kinds):
            return Files([p for p in paths if str(p) not in left_out])
        if not any(p.suffix == ".parquet" for p in files):
            raise UserError(f"photos: folder '{place}' holds no pictures; {remedy}")
    elif place.count("/") != 1:  # no Hub id: the Hub need not be asked
        raise UserError(f"photos: no folder '{place}' here; {remedy}, or run where the recipe's folder is")
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
    found = Rows(place, rows.select_columns(column).cast_column(column, datasets.Image(decode=False)), column)
    if left_out:
        kept = [at for at in range(len(found)) if found.name(at) not in left_out]
        return Rows(place, found.rows.select(kept), column)
    return found


def square_part(name: str, source: Any, size: int, crop: float, left: float, top: float) -> np.ndarray:
    """A square crop of a picture in linear light: float32 [size, size, 3] in [0, 1].

    The square's side is `crop` times the picture's shorter side; `left` and `top` in [0, 1] are its position. Resizing
    happens in linear light, except that a large JPEG is decoded at the smallest of its sizes 1, 1/2, 1/4, 1/8 that
    fills the frame. UserError if the picture cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(source) as picture:
            ratio = size / (crop * min(picture.size))
            picture.draft("RGB", tuple(max(1, int(np.ceil(side * ratio))) for side in picture.size))
            if picture.mode in ("I", "F"):  # of no known range: they would come out black or white
                raise ValueError("its pixels are 32-bit numbers; save it with 8 or 16 bits per channel")
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = _upright(picture)
            side = max(1, round(crop * min(picture.size)))
            x, y = round(left * (picture.width - side)), round(top * (picture.height - side))
            part = np.asarray(picture.crop((x, y, x + side, y + side)).convert("RGB"))
    except Exception as error:  # decoders raise many types
        raise UserError(f"photos: {name} cannot be read ({one_line(error)}); replace or remove it") from error
    filtered = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    part = cv2.resize(cv2.LUT(part, LINEAR), (size, size), interpolation=filtered)
    return np.minimum(part, 1, out=part)  # averages of white may round to above 1


def _upright(picture: Any) -> Any:
    """A picture turned as its EXIF orientation says; unreadable metadata say nothing."""
    from PIL import ExifTags, Image

    way = Image.Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_270,
        7: way.TRANSVERSE,
        8: way.ROTATE_90,
    }
    try:
        turn = turns.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever damaged metadata raise
        turn = None
    return picture if turn is None else picture.transpose(turn)


def look(name: str, source: Any) -> None:
    """Decodes a photo; UserError if it cannot be read."""
    square_part(name, source, 8, 1.0, 0.5, 0.5)


def random_part(rng: np.random.Generator, name: str, source: Any, size: int) -> np.ndarray:
    """A random square crop of a photo, mirrored half of the time: linear light float32 [size, size, 3] in [0, 1]."""
    crop, left, top, flip = rng.uniform(LEAST_CROP, 1), rng.random(), rng.random(), rng.random() < 0.5
    part = square_part(name, source, size, crop, left, top)
    return cv2.flip(part, 1) if flip else part
