"""An open benchmark set: pictures with names, and functions that read them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sdseg.imaging import read_alpha, read_image

VOID = -1  # class of pixels that are not judged
Kind = Literal["matte", "binary", "classes"]


@dataclass(frozen=True)
class Item:
    """One picture of a set."""

    name: str
    """posix, relative, without extension: its prediction is <output>/<name>.png"""
    image: Path | None
    """the photo; None where no file of the set shows it (composites, idx files, volumes)"""
    truth: Path | None = None
    trimap: Path | None = None
    sources: tuple[Path, ...] = ()
    """files that the picture is made from where `image` is None"""
    index: int | None = None
    """of a digit, slice or composite within its source"""


def read_photo(item: Item) -> np.ndarray:
    """The photo on disk, uint8 [H, W, 3] sRGB."""
    return read_image(item.image)


def read_matte(item: Item) -> np.ndarray:
    """The truth as a matte, float32 [H, W] in [0, 1]."""
    return read_alpha(item.truth)


def read_mask(item: Item) -> np.ndarray:
    """The truth as a mask, float32 [H, W], 0 or 1: {value >= 0.5}."""
    return (read_alpha(item.truth) >= 0.5).astype(np.float32)


@dataclass(frozen=True)
class BenchmarkSet:
    """A set on disk. The `read_*` methods decode one picture at a time; nothing is cached."""

    name: str
    kind: Kind
    items: list[Item]
    classes: dict[int, str] | None = None
    """kind classes: id -> name, ids 0 … n − 1; None for a folder pair, which has no names"""
    split: str | None = None
    image_reader: Callable[[Item], np.ndarray] = read_photo
    truth_reader: Callable[[Item], np.ndarray] = read_matte

    def read_image(self, item: Item) -> np.ndarray:
        """The picture, uint8 [H, W, 3] sRGB. Raises ImageError for files that cannot be read."""
        return self.image_reader(item)

    def read_truth(self, item: Item) -> np.ndarray:
        """float32 [H, W] in [0, 1] (binary: 0 or 1), or for kind classes int32 [H, W] of ids and VOID.

        Raises ImageError for files that cannot be read and for labels that the set does not have.
        """
        return self.truth_reader(item)

    def read_trimap(self, item: Item) -> np.ndarray | None:
        """uint8 [H, W]: 0 background, 255 subject, 128 any value between; None without a trimap."""
        if item.trimap is None:
            return None
        trimap = read_alpha(item.trimap)
        return np.where(trimap == 0, 0, np.where(trimap == 1, 255, 128)).astype(np.uint8)
