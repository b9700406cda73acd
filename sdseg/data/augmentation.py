"""Random draws as pure functions of a key, and pairs cropped, mirrored and resized by such draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sdseg.imaging import THINNEST, alpha_to_tensor, image_to_tensor
from sdseg.targets import NO_CLASS

PERMUTATION = 2**32 - 1  # stands for the position in the key that an epoch's order is drawn with


def draw_generator(*key: int) -> torch.Generator:
    """A CPU generator that is a pure function of `key`, such as (seed, epoch, position)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One draw from U(low, high), in double precision."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


@dataclass(frozen=True)
class Augmentation:
    """A random crop that keeps the picture's aspect ratio, and a random horizontal flip."""

    random_flip: bool
    min_crop_scale: float  # smallest side of a crop as a fraction of the picture's, in (0, 1]; 1 is no crop


def fit_pair(
    image: np.ndarray,
    truth: np.ndarray,
    resolution: int,
    augmentation: Augmentation,
    generator,
) -> dict[str, torch.Tensor]:
    """Crops, flips and resizes a pair to fit the top left of a square of side R = `resolution`; padding is not valid,
    but for a picture that is thinner than THINNEST pixels: up to these its edge is repeated, as in inference.

    Image and matte are resampled with Pillow's antialiased bilinear filter, which has no negative lobes; class ids
    with the nearest neighbour.

    Args:
        image: uint8 [H, W, 3] sRGB.
        truth: a matte float32 [H, W] in [0, 1], or class ids int32 [H, W] with NO_CLASS at void pixels.
        generator: three draws for the crop, and one for the flip where `random_flip` is set.

    Returns:
        `image` float32 [3, R, R] in [-1, 1]; `valid` bool [1, R, R], False at padding and void pixels; and `alpha`
        float32 [1, R, R] in [0, 1] or `classes` int16 [1, R, R].
    """
    from PIL import Image

    height, width = truth.shape
    ids = truth.dtype == np.int32
    method = Image.Resampling.NEAREST if ids else Image.Resampling.BILINEAR
    scale = uniform(augmentation.min_crop_scale, 1, generator)
    left = uniform(0, width * (1 - scale), generator)
    top = uniform(0, height * (1 - scale), generator)
    flip = augmentation.random_flip and torch.rand((), generator=generator).item() < 0.5
    box = (left, top, min(width, left + width * scale), min(height, top + height * scale))
    longer = max(height, width)
    size = [max(1, round(side * resolution / longer)) for side in (width, height)]

    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))
    truth = np.asarray(Image.fromarray(truth).resize(size, method, box=box))
    if flip:
        image, truth = image[:, ::-1], truth[:, ::-1]
    filled = [min(resolution, max(THINNEST, side)) for side in size]
    repeated = ((0, filled[1] - size[1]), (0, filled[0] - size[0]))
    image, truth = np.pad(image, (*repeated, (0, 0)), mode="edge"), np.pad(truth, repeated, mode="edge")
    padding = ((0, resolution - filled[1]), (0, resolution - filled[0]))
    valid = torch.from_numpy(np.pad(truth != NO_CLASS if ids else np.ones(truth.shape, bool), padding))[None]
    image = image_to_tensor(np.pad(image, (*padding, (0, 0)), mode="edge"))[0]
    truth = np.pad(truth, padding, mode="edge")
    if ids:
        return {"image": image, "classes": torch.from_numpy(truth.astype(np.int16))[None], "valid": valid}
    return {"image": image, "alpha": alpha_to_tensor(truth.clip(0, 1))[0], "valid": valid}


def latent_valid(valid: torch.Tensor, factor: int) -> torch.Tensor:
    """bool [B, 1, H, W] => bool [B, 1, H/f, W/f]: latent positions all of whose pixels are valid; f is `factor`."""
    return -torch.nn.functional.max_pool2d(-valid.float(), factor) > 0.5
