"""What a model is trained to draw: a matte, a binary mask, or classes painted in colours that lie far apart.

A VAE for colour pictures carries a class map as it carries any picture: ids are painted, encoded, denoised and decoded,
and each pixel is read as the class whose colour is nearest. Samples vote, so there are class probabilities, and the
entropy of the vote is the uncertainty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg.errors import UserError, one_line
from sdseg.imaging import ROWS_AT_ONCE, Encoded, ImageError, read_alpha, read_label_file, to_signed, to_unit
from sdseg.outputs import CLASSES_RECORD

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

    from synth_data.store import Pair

LEAST_DISTANCE = 48  # of two classes' colours, in 8-bit levels; closer ones come back confused: docs/segmentation.md
MIDDLE = 0.5  # of alpha: where a mask begins
VOID = 255  # in files: a pixel without a class
NO_CLASS = -1  # the same in tensors
GRID = 24  # parts of the colour cube's side; every lattice used lies on it


@dataclass(frozen=True)
class Target:
    """What is trained on; `class_names`, by id, are empty unless `kind` is classes."""

    kind: str = "alpha"
    class_names: tuple[str, ...] = ()

    def read(self, path: Path | Encoded) -> np.ndarray:
        """The truth in a file: float32 [H, W] in [0, 1], of masks 0 or 1; or class ids int32 [H, W], NO_CLASS at VOID.

        Raises:
            ImageError: it cannot be read, or holds ids that are no class.
        """
        if self.kind != "classes":
            alpha = read_alpha(path)
            if self.kind == "mask" and alpha.max() == np.float32(1 / 255):
                raise ImageError(f"{path}: its greatest value is 1 of 255; store masks with 255 for the subject")
            return alpha if self.kind == "alpha" else as_mask(alpha)
        ids = read_label_file(path)
        ids[ids == VOID] = NO_CLASS
        if ids.max() >= len(self.class_names):
            raise ImageError(
                f"{path}: has class {ids.max()}, but {len(self.class_names)} are named, ids 0 to "
                f"{len(self.class_names) - 1}, and {VOID} is void; name all in class_names, or map the ids"
            )
        return ids

    def of_pair(self, pair: Pair) -> np.ndarray:
        """As `read`, of a pair that was put together in memory."""
        if self.kind != "classes":
            return pair.alpha if self.kind == "alpha" else as_mask(pair.alpha)
        if pair.classes.max() >= len(self.class_names):
            raise ImageError(f"foreground has class {pair.classes.max()}, but {len(self.class_names)} are named")
        return pair.classes.astype(np.int32)

    def painted(self, vae: AutoencoderKL) -> dict[str, list[int]]:
        """The colours of classes on this base, 8-bit sRGB by name; raises as `palette`."""
        return dict(zip(self.class_names, palette(vae, len(self.class_names)).tolist(), strict=True))


def as_mask(alpha: np.ndarray) -> np.ndarray:
    """Alpha float32 [H, W] => 0 and 1, float32 [H, W]."""
    return (alpha >= MIDDLE).astype(np.float32)


def open_target(kind: str, class_names: list[str] | None, folders: list[str]) -> Target:
    """The target of a run; without `class_names` the classes.json of the data folders names the classes.

    Raises:
        UserError: classes that nothing names, or that two folders name differently.
    """
    if kind != "classes":
        return Target(kind)
    records = [Path(folder) / CLASSES_RECORD for folder in folders]
    if not class_names:
        found = [record for record in records if record.is_file()]
        if not found:
            raise UserError(
                f"target is classes, but nothing names them: {records[0]} does not exist; render with target: classes, "
                "or set class_names, by id, background first"
            )
        class_names = shared_names(found)
    if len(set(class_names)) != len(class_names):
        raise UserError(f"class names {class_names} are not all different; give each class a name of its own")
    return Target(kind, tuple(class_names))


def shared_names(records: list[Path]) -> list[str]:
    """The names of classes, by id, in several classes.json; the longest list where one only goes on from another.

    Raises:
        UserError: two of them name one id differently, so that the same id would mean two things.
    """
    longest, names = records[0], read_class_record(records[0])
    for record in records[1:]:
        others = read_class_record(record)
        for number, (name, other) in enumerate(zip(names, others, strict=False)):
            if name != other:
                raise UserError(
                    f"{longest} and {record} name class {number} differently, {name!r} and {other!r}; mix sets of one "
                    "list of classes, or set class_names if their ids mean the same"
                )
        if len(others) > len(names):
            longest, names = record, others
    return names


def read_class_record(path: Path) -> list[str]:
    """classes.json, {id: name}, as names by id; an id without a name is `background` (0) or `class <id>`.

    Raises:
        UserError: another content.
    """
    try:
        names = {int(number): str(name) for number, name in json.loads(path.read_text(encoding="utf-8")).items()}
        if not names or min(names) < 0 or max(names) >= VOID:
            raise UserError(f"ids lie in 0 ... {VOID - 1}")
    except (ValueError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(
            f'{path}: is no record of classes such as {{"0": "background", "1": "fur"}} ({one_line(error)})'
        ) from error
    return [names.get(number, f"class {number}" if number else "background") for number in range(max(names) + 1)]


def overlay(image: np.ndarray, ids: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A photo uint8 [H, W, 3] under its classes' colours, half and half, for the eye; ids uint8 [H, W]."""
    blended = np.empty_like(image)
    for start in range(0, len(image), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        blended[rows] = (image[rows].astype(np.uint16) + colours[ids[rows]] + 1) // 2
    return blended


# ------------------------------------------------------------------------------------------------- colours


def palette(vae: AutoencoderKL, count: int) -> np.ndarray:
    """Colours for `count` classes that this VAE gives back as they are, and that lie far apart; uint8 [count, 3] sRGB.

    Flat colours from `cubic_lattices` go through the VAE, and what comes back is what is chosen among (`far_points`):
    a VAE returns only the colours that it was trained on. The miniature, say, hardly sees green. The first colour is
    what black becomes.

    Raises:
        UserError: fewer than 2 classes, or so many that two colours would be closer than LEAST_DISTANCE.
    """
    if count < 2:
        raise UserError(f"{count} class cannot be told apart; name at least 2, the background among them")
    lattices = cubic_lattices()
    levels = np.unique(np.concatenate(lattices), axis=0)
    returned = dict(zip(map(tuple, levels), given_back(vae, levels / GRID), strict=True))
    chosen, distance = far_points(
        [np.array([returned[tuple(point)] for point in points]) for points in lattices], count
    )
    if distance < LEAST_DISTANCE:
        raise UserError(
            f"{count} classes are too many for this base: two of their colours would come back {distance:.0f} of 255 "
            f"levels apart, and {LEAST_DISTANCE} are needed; join classes, or take a base with a better VAE"
        )
    return chosen.astype(np.uint8)


def given_back(vae: AutoencoderKL, colours: np.ndarray, side: int = 4) -> np.ndarray:
    """Flat colours [n, 3] in [0, 1] after encoding and decoding, int [n, 3] in 0 ... 255; each fills `side` latents."""
    import torch

    from sdseg.model import decode_colour, encode_image, vae_scale_factor

    pixels = side * vae_scale_factor(vae)
    flat = torch.tensor(to_signed(colours), dtype=torch.float32, device=vae.device)[:, :, None, None]
    found = []
    with torch.no_grad():
        for some in flat.split(32):
            decoded = decode_colour(vae, encode_image(vae, some.expand(-1, -1, pixels, pixels)))
            found.append(decoded[:, :, pixels // 4 : -pixels // 4, pixels // 4 : -pixels // 4].mean(dim=(2, 3)).cpu())
    return (to_unit(torch.cat(found)) * 255).round().clamp(0, 255).int().numpy()


def far_points(choices: list[np.ndarray], count: int) -> tuple[np.ndarray, float]:
    """`count` points of one of the `choices`, int [n, 3] each, whose least distance is large; and that distance.

    A farthest-first walk (Gonzalez 1985) takes the points of each choice; the walk with the greatest least distance
    wins. Among the cubic lattices, whose parts are the best packings in a cube or nearly so, that gives, in units of
    the cube's side: 2 points √3, 4 √2, 8 1, 14 √½, 27 ½, 32 0.47.
    """
    walks = [farthest_first(points, count) for points in choices if len(points) >= count]
    if not walks:
        return np.zeros((count, 3), int), 0.0
    distances = [least_distance(walk) for walk in walks]
    best = int(np.argmax(distances))
    return walks[best], distances[best]


def cubic_lattices() -> list[np.ndarray]:
    """Points of the lattices of 1 to 4 cells a side in [0, GRID]³, int [n, 3] each."""
    found = []
    for cells in range(1, 5):
        corners = np.array(list(product(range(cells + 1), repeat=3)))
        centres = np.array(list(product(range(cells), repeat=3)))
        unit = GRID // cells
        found += [corners * unit, np.concatenate([corners * unit, centres * unit + unit // 2])]
        found.append(corners[corners.sum(axis=1) % 2 == 0] * unit)  # face-centred, its cells two units wide
    return found


def farthest_first(points: np.ndarray, count: int) -> np.ndarray:
    """`count` of the points [n, 3]: the first, then always the one whose nearest taken point is farthest away."""
    taken, squared = [0], ((points - points[0]) ** 2).sum(axis=1)
    while len(taken) < count:
        taken.append(int(squared.argmax()))
        squared = np.minimum(squared, ((points - points[taken[-1]]) ** 2).sum(axis=1))
    return points[taken]


def least_distance(points: np.ndarray) -> float:
    """Distance of the two points [n, 3] that are closest."""
    squared = ((points[:, None].astype(int) - points[None].astype(int)) ** 2).sum(axis=-1)
    return float(np.sqrt(squared[~np.eye(len(points), dtype=bool)].min()))


def paint(ids: torch.Tensor, colours: np.ndarray) -> torch.Tensor:
    """Class ids int [B, H, W], NO_CLASS where there is none => a picture float32 [B, 3, H, W] in [-1, 1], grey there.

    colours: uint8 [classes, 3].
    """
    import torch

    grey = np.full((1, 3), 127.5)
    table = torch.tensor(to_signed(np.concatenate([colours, grey]) / 255), dtype=torch.float32, device=ids.device)
    return table[ids.long()].permute(0, 3, 1, 2)  # NO_CLASS, -1, takes the last


def nearest_class(pixels: torch.Tensor, colours: np.ndarray) -> torch.Tensor:
    """Decoded pictures float [B, 3, H, W], about [-1, 1] => ids int64 [B, H, W] of the nearest colours in RGB."""
    import torch

    table = torch.tensor(to_signed(colours / 255), dtype=torch.float32, device=pixels.device)  # [C, 3]
    # |p − c|² = |p|² − 2 p·c + |c|², and |p|² is the same for all colours
    scores = torch.einsum("bxhw,cx->bchw", pixels.float(), table) - table.square().sum(dim=1)[:, None, None] / 2
    return scores.argmax(dim=1)


def read(pixels: torch.Tensor, colours: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples float [E, 3, H, W] of one picture, about [-1, 1] => ids int64 [H, W] and probabilities [C, H, W].

    A class's probability is the share of samples that are nearest to its colour; the class with the most votes is
    read, the lowest id of equal ones.
    """
    probabilities = votes(nearest_class(pixels, colours), len(colours))
    return probabilities.argmax(dim=0), probabilities


def votes(ids: torch.Tensor, classes: int) -> torch.Tensor:
    """Ids int64 [E, H, W] => shares of the samples, float32 [classes, H, W]."""
    import torch

    return torch.stack([(ids == number).float().mean(dim=0) for number in range(classes)])


def resize(plane: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[h, w] => [H, W], bilinear; when it shrinks through a low-pass filter, or thin parts would vanish."""
    import torch

    if tuple(plane.shape) == tuple(size):
        return plane
    return torch.nn.functional.interpolate(plane[None, None], size, mode="bilinear", antialias=True)[0, 0]


def resized_strips(planes: torch.Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Iterator[torch.Tensor]]]:
    """Planes [N, h, w], each as `resize` brings it to `size` (H, W), a strip of some rows at a time.

    For what is computed from several planes pixel by pixel: at a large photo's size they need not lie in memory
    together, nor need one of them as a whole. Yields (rows, the strips [rows, W] of all planes, one after another).
    """
    import torch

    (height, width), given = size, planes.shape[1]
    # The weight of each given row in each new one, [H, h], as the library has it.
    weights = None if given == height else resize(torch.eye(given, device=planes.device), (height, given))
    scale = given / height
    reach = max(scale, 1) + 1  # of the filter, in given rows, and one to be safe from rounding
    for start in range(0, height, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        if weights is None:
            yield rows, (resize(plane[rows], (len(plane[rows]), width)) for plane in planes)
            continue
        first, last = (start + 0.5) * scale - reach, (min(start + ROWS_AT_ONCE, height) - 0.5) * scale + reach
        taken = slice(max(0, floor(first)), min(given, ceil(last)))
        band = weights[rows, taken]
        yield rows, (band @ resize(plane[taken], (band.shape[1], width)) for plane in planes)


def decided(probabilities: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [C, h, w], brought to `size` (H, W) => ids uint8 [H, W] and entropy float32 [H, W] in [0, 1].

    The entropy of the vote, H = −Σ_c p_c log p_c / log C, is 0 where all samples agree and 1 where every class has
    as many votes.
    """
    import torch

    ids, entropy = torch.zeros(size, dtype=torch.uint8), torch.zeros(size)
    for rows, strips in resized_strips(probabilities, size):
        best = torch.full_like(entropy[rows], -1.0)
        for number, strip in enumerate(strips):
            ids[rows][strip > best] = number
            best = torch.maximum(best, strip)
            entropy[rows] += torch.special.entr(strip.clamp(0, 1))
    return ids, entropy.div_(np.log(len(probabilities))).clamp_(0, 1)
