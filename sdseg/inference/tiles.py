"""A second pass over the parts of a photo that a matte leaves open, in overlapping tiles, at more detail.

A tile alone may show nothing but fur, so it does not start from noise alone: the first pass's matte of the tile is
noised to an intermediate time and denoised again (SDEdit, Meng et al. 2022), beside the tile of the photo.
"""

from typing import Any

import numpy as np
import torch

from sdseg.imaging import ROWS_AT_ONCE
from sdseg.inference.batches import Drawing, smaller_batch
from sdseg.inference.sampling import decode_alpha, denoise, times_from
from sdseg.model import encode_alpha, encode_image
from sdseg.targets import resize

START = 0.4  # share of the noise's time line at which a tile begins; 1 would forget the first pass
OVERLAP = 0.25  # of a tile's side, at least
OPEN = 0.02  # alpha between this and 1 minus this, or a standard deviation above it, is open
LEAST_OPEN = 0.01  # share of a tile's pixels that must be open


def second_pass(
    session: Any,
    image: np.ndarray,
    alpha: np.ndarray,
    tiles: list[tuple[int, int]],
    how: Drawing,
    side: int,
    generator: torch.Generator,
) -> np.ndarray:
    """A matte drawn again in tiles of `side` photo pixels, each at the working resolution.

    Args:
        session: a `MattingSession`, whose module imports this one.
        image: uint8 [H, W, 3].
        alpha: the first pass's matte, float32 [H, W].
        tiles: `open_tiles` of it.

    Returns:
        float32 [H, W]; the first pass's matte where no tile was drawn. Tiles fade into one another and into it.
    """
    size, total, waiting = tile_size(alpha, side), np.zeros_like(alpha), tiles
    with torch.no_grad(), session.tuned():
        while waiting:
            batch = waiting[: how.batch_for(how.processing_resolution, how.processing_resolution)]
            try:
                drawn = draw_batch(session, image, alpha, [slices(tile, size) for tile in batch], how, generator)
            except Exception as error:
                how, failure = smaller_batch(error, len(batch), how)
                if failure:
                    raise failure from error
                continue
            for tile, matte in zip(batch, drawn, strict=True):
                total[slices(tile, size)] += fading(tile, size, alpha.shape) * matte
            waiting = waiting[len(batch) :]
    return faded(alpha, total, tiles, size)


def tile_size(alpha: np.ndarray, side: int) -> tuple[int, int]:
    height, width = alpha.shape
    return min(side, height), min(side, width)


def open_tiles(alpha: np.ndarray, deviation: np.ndarray | None, side: int) -> list[tuple[int, int]]:
    """Where tiles of `side` photo pixels begin in which a matte float32 [H, W], whose standard deviation may be given,
    is open."""
    size = tile_size(alpha, side)
    tiles = [(y, x) for y in starts(alpha.shape[0], side) for x in starts(alpha.shape[1], side)]
    return [tile for tile in tiles if is_open(alpha, deviation, tile, size)]


def faded(alpha: np.ndarray, total: np.ndarray, tiles: list[tuple[int, int]], size: tuple[int, int]) -> np.ndarray:
    """A matte float32 [H, W] under the weighted sum of its tiles, `total`, in whose place the result comes.

    The weights are computed for a strip at a time, so that they need no plane of the photo's size.
    """
    for start in range(0, len(alpha), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(alpha)))
        weights = np.zeros_like(alpha[rows])
        for y, x in tiles:
            first, last = max(y, rows.start), min(y + size[0], rows.stop)
            if first < last:
                window = fading((y, x), size, alpha.shape, slice(first - y, last - y))
                weights[first - rows.start : last - rows.start, x : x + size[1]] += window
        share = weights.clip(0, 1)
        fine = np.divide(total[rows], weights, out=alpha[rows].copy(), where=weights > 0)
        total[rows] = (alpha[rows] * (1 - share) + fine * share).clip(0, 1)
    return total


def draw_batch(
    session: Any,
    image: np.ndarray,
    alpha: np.ndarray,
    parts: list[tuple[slice, slice]],
    how: Drawing,
    generator: torch.Generator,
) -> list[np.ndarray]:
    """The mattes of tiles, at the photo's own pixels, [h, w] each."""
    prepared = [session.preprocess(image[part], how.processing_resolution) for part in parts]
    pixels, (padding, size) = torch.cat([one[0] for one in prepared]), prepared[0][1:]
    coarse = torch.cat([shown_as(alpha[part], pixels.shape[-2:], padding, session.device) for part in parts])
    drawn = draw(session, pixels, coarse, how, generator)
    height, width = drawn.shape[1] - padding[0], drawn.shape[2] - padding[1]
    return [resize(one[:height, :width], size).numpy() for one in drawn]


def draw(
    session: Any, pixels: torch.Tensor, coarse: torch.Tensor, how: Drawing, generator: torch.Generator
) -> torch.Tensor:
    """Tiles [B, 3, h, w] in [-1, 1] with their first mattes [B, 1, h, w] in [0, 1] => the means of their new samples,
    [B, h, w] on the CPU."""
    image_latent = encode_image(session.vae, pixels).float()
    latent = encode_alpha(session.vae, coarse).float()
    kept = session.scheduler.alphas_cumprod[times_from(START, how.num_inference_steps)[0]].item()
    mean = torch.zeros(pixels.shape[0], *pixels.shape[-2:])
    for _ in range(how.ensemble_size):
        noise = torch.randn(latent.shape, generator=generator).to(session.device)
        noisy = kept**0.5 * latent + (1 - kept) ** 0.5 * noise
        clean = denoise(
            session.unet, session.scheduler, image_latent, noisy, session.prompt_embedding, how.num_inference_steps,
            start=START,
        )  # fmt: skip
        mean += decode_alpha(session.decoder, clean)[:, 0].cpu() / how.ensemble_size
    return mean


def starts(extent: int, side: int) -> list[int]:
    """Where tiles begin along one side of a photo: evenly, the last ends with it, each overlaps the next by OVERLAP."""
    if extent <= side:
        return [0]
    count = -(-(extent - side) // int(side * (1 - OVERLAP))) + 1
    return [round(number * (extent - side) / (count - 1)) for number in range(count)]


def slices(tile: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    return tuple(slice(start, start + extent) for start, extent in zip(tile, size, strict=True))


def is_open(alpha: np.ndarray, deviation: np.ndarray | None, tile: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a tile holds pixels that are neither subject nor ground for sure."""
    part = slices(tile, size)
    undecided = (alpha[part] > OPEN) & (alpha[part] < 1 - OPEN)
    if deviation is not None:
        undecided |= deviation[part] > OPEN
    return bool(undecided.mean() > LEAST_OPEN)


def fading(
    tile: tuple[int, int], size: tuple[int, int], whole: tuple[int, int], rows: slice = slice(None)
) -> np.ndarray:
    """Weights [h, w] of a tile, or some of their rows: 1 inside, falling linearly to almost 0 over the overlap along
    each of its sides that is no side of the photo."""
    ramps = []
    for start, extent, end in zip(tile, size, whole, strict=True):
        number, width = np.arange(extent) + 0.5, max(1.0, extent * OVERLAP)
        rising = number / width if start > 0 else np.ones(extent)
        falling = number[::-1] / width if start + extent < end else np.ones(extent)
        ramps.append(np.minimum(rising, falling).clip(0, 1))
    return np.outer(ramps[0][rows], ramps[1]).astype(np.float32)


def shown_as(
    alpha: np.ndarray, size: tuple[int, int], padding: tuple[int, int], device: torch.device | str
) -> torch.Tensor:
    """A tile's matte [h, w], resized and padded as its picture was, [1, 1, *size]."""
    inner = (size[0] - padding[0], size[1] - padding[1])
    small = resize(torch.from_numpy(np.ascontiguousarray(alpha)), inner)[None, None]
    return torch.nn.functional.pad(small, (0, padding[1], 0, padding[0]), mode="replicate").to(device)
