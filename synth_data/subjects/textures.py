"""Pictures and colours of meshes as textures."""

from typing import Any

import numpy as np

from synth_data.colour import LEVELS

LARGEST = 1024  # pixels per side; larger textures are reduced


def rgba(image: Any) -> Any:
    """A Pillow image as 8-bit RGBA."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGBA")


def texture_of(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """A Pillow image as (linear texture [h, w, 3] whose first row is at v = 0, opacity [h, w] or None)."""
    image = rgba(image)
    image.thumbnail((LARGEST, LARGEST))
    pixels = np.asarray(image)[::-1]  # v runs upwards, as in OBJ and trimesh
    opacity = pixels[..., 3]
    return LEVELS[pixels[..., :3]], None if opacity.min() == 255 else opacity / 255


def opacity_of(image: Any) -> np.ndarray:
    """A Pillow image that tells where a surface is, as opacity [h, w]: its alpha, or its grey if it has none."""
    image = rgba(image)
    image.thumbnail((LARGEST, LARGEST))
    alpha = np.asarray(image)[::-1, :, 3]
    return (np.asarray(image.convert("L"))[::-1] if alpha.min() == 255 else alpha) / 255


def atlas(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [F, 3, 3] of the faces' corners as (texture [h, w, 3], uv [3F, 2]): 2 x 2 texels per face.

    The fourth texel is b + c - a, so that bilinear look-up within the triangle is exactly linear.
    """
    number = len(corners)
    side = int(np.ceil(np.sqrt(number)))
    block = np.zeros((side * side, 2, 2, 3))
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    block[:number] = np.stack([np.stack([a, b], 1), np.stack([c, b + c - a], 1)], 1)
    texture = block.reshape(side, side, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(2 * side, 2 * side, 3)
    row, column = np.divmod(np.arange(number), side)
    first = np.stack([2 * column + 0.5, 2 * row + 0.5], 1)
    uv = np.stack([first, first + (1, 0), first + (0, 1)], 1).reshape(-1, 2) / (2 * side)
    return texture, uv
