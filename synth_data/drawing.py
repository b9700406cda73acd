"""Pictures for people to look at: tiles, sheets of them, colour maps, PNG. All drawing of the project is done here.

A picture is uint8 [H, W, 3] sRGB or uint8 [H, W] grey; a map is float [H, W] in [0, 1].
"""

from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageFont

FONT_SIZE = 13
LINE = 20  # pixels a line of text takes
FRAME, CAPTION, TITLE = (187, 187, 187), (85, 85, 85), (0, 0, 0)  # colours
NO_CLASS_GREY = (128, 128, 128)
SCALE_ENDS = (0.05, 0.1, 0.2, 0.5, 1.0)  # where a scale of colours may end


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3], uint8 [H, W] or uint16 [H, W] as a PNG file."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------ colours


def grey(values: np.ndarray) -> np.ndarray:
    """A map float [H, W] in [0, 1] -> uint8 [H, W]."""
    return np.rint(values * 255).astype(np.uint8)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """A picture or a map -> uint8 [H, W, 3]."""
    pixels = pixels if pixels.dtype == np.uint8 else grey(pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def heat(values: np.ndarray, kind: str) -> np.ndarray:
    """Float [H, W], 1 the end of the scale -> uint8 [H, W, 3]: inferno for an `error`, viridis for an `uncertainty`."""
    import cv2

    colour_map = {"error": cv2.COLORMAP_INFERNO, "uncertainty": cv2.COLORMAP_VIRIDIS}[kind]
    return cv2.applyColorMap(grey(values.clip(0, 1)), colour_map)[..., ::-1]


def scale_end(maps: Sequence[np.ndarray | None]) -> float:
    """Where a scale of colours for all these maps ends: the first of SCALE_ENDS that 99.5 % of their values reach at
    most."""
    values = [values.ravel() for values in maps if values is not None]
    high = np.percentile(np.concatenate(values), 99.5) if values else 0.0
    return next((end for end in SCALE_ENDS if end >= high), SCALE_ENDS[-1])


def class_colours(ids: np.ndarray) -> np.ndarray:
    """Class ids int [H, W], -1 for none -> uint8 [H, W, 3] in the palette of PASCAL VOC, none in grey.

    The palette spreads the bits of an id over the channels: bit 3k + c of the id is bit 7 - k of channel c.
    """
    colours = np.zeros((*ids.shape, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[..., channel] |= ((((ids >> (3 * bit)) >> channel) & 1) << (7 - bit)).astype(np.uint8)
    colours[ids < 0] = NO_CLASS_GREY
    return colours


# ------------------------------------------------------------------------------------------------------- sheets


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """[H, W] or [H, W, 3] of any type -> the same with at most `side` pixels a side, by area averaging."""
    factor = side / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    import cv2

    height, width = (max(1, round(length * factor)) for length in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def tile(pixels: np.ndarray, side: int | None = None) -> np.ndarray:
    """A picture or a map -> uint8 [h, w, 3] at the largest size that fits a square of `side` pixels (None: unchanged).

    Small ones are enlarged by a whole factor, so that their pixels stay visible.
    """
    if side is None:
        return as_rgb(pixels)
    pixels = as_rgb(shrunk(pixels, side))
    factor = side // max(pixels.shape[:2])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    gap: int = 4,
    side: int | None = None,
    captions: Sequence[str] = (),
    titles: Sequence[str] = (),
) -> np.ndarray:
    """Pictures and maps in rows, `gap` white pixels apart, as one picture uint8 [H, W, 3].

    Args:
        rows: pictures and maps; a column is as wide as its widest, a row as high as its highest.
        side: of the square that each is fitted to (`tile`), and then the least width of a column.
        captions: what to write above each column.
        titles: what to write above each row. With text the sheet has a margin of `gap`, and each picture a frame.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = [[tile(pixels, side) for pixels in row] for row in rows]
    margin = gap if captions or titles else 0
    below = 2 * gap if titles else gap
    head = margin + (LINE if captions else 0)
    columns = [max(cell.shape[1] for cell in column if cell is not None) for column in zip_longest(*tiles)]
    columns = [max(width, side or 0) for width in columns]
    lefts = [margin + sum(columns[:k]) + k * gap for k in range(len(columns))]
    width = lefts[-1] + columns[-1] + margin
    heights = [max(cell.shape[0] for cell in row) + (LINE if titles else 0) for row in tiles]
    height = head + sum(heights) + below * len(rows) - (0 if margin else gap)

    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for left, column, caption in zip(lefts, columns, captions, strict=False):
        draw.text((left, margin), _fitting(caption, column, font), fill=CAPTION, font=font)
    top = head
    for number, row in enumerate(tiles):
        if titles:
            draw.text((margin, top + 2), _fitting(titles[number], width - 2 * margin, font), fill=TITLE, font=font)
        y = top + (LINE if titles else 0)
        for x, cell in zip(lefts, row, strict=False):
            if margin:
                draw.rectangle((x - 1, y - 1, x + cell.shape[1], y + cell.shape[0]), outline=FRAME)
            image.paste(Image.fromarray(cell), (x, y))
        top += heights[number] + below
    return np.array(image)


def _fitting(text: str, width: int, font: "ImageFont.FreeTypeFont") -> str:
    """The text on one line, cut at its end to fit `width` pixels; what is no valid text becomes question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\n", " ")
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def contact_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]], columns: int = 6) -> np.ndarray:
    """Pairs of a picture and its matte, all of one size, side by side on one sheet uint8 [H, W, 3]."""
    cells = [np.concatenate([as_rgb(image), as_rgb(alpha)], axis=1) for image, alpha in pairs]
    return sheet([cells[k : k + columns] for k in range(0, len(cells), columns)])
