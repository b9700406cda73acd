"""A second pass over the parts of a photo that a matte leaves open, in overlapping tiles, at more detail.

A tile alone may show nothing but fur, so it does not start from noise alone: the first pass's matte of the tile is
noised to an intermediate time and denoised again (SDEdit, Meng et al. 2022), beside the tile of the photo.
"""

from typing import Any

import numpy as np
import torch

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
    deviation: np.ndarray | None,
    how: Drawing,
    side: int,
    generator: torch.Generator,
) -> np.ndarray:
    """A matte drawn again in tiles of `side` photo pixels, each at the working resolution, where it is open.

    Args:
        session: a `MattingSession`, whose module imports this one.
        image: uint8 [H, W, 3].
        alpha, deviation: the first pass's matte and its standard deviation or None, float32 [H, W].

    Returns:
        float32 [H, W]; the first pass's matte where no tile was drawn. Tiles fade into one another and into it.
    """
    tiles = [(y, x) for y in starts(alpha.shape[0], side) for x in starts(alpha.shape[1], side)]
    size = tuple(min(side, extent) for extent in alpha.shape)
    tiles = [tile for tile in tiles if is_open(alpha, deviation, tile, size)]
    total, weights = np.zeros_like(alpha), np.zeros_like(alpha)
    with torch.no_grad(), session.tuned():
        while tiles:
            batch = tiles[: how.batch_for(how.processing_resolution, how.processing_resolution)]
            try:
                drawn = draw_batch(session, image, alpha, [slices(tile, size) for tile in batch], how, generator)
            except Exception as error:
                how, failure = smaller_batch(error, len(batch), how)
                if failure:
                    raise failure from error
                continue
            for tile, matte in zip(batch, drawn, strict=True):
                window = fading(tile, size, alpha.shape)
                total[slices(tile, size)] += window * matte
                weights[slices(tile, size)] += window
            tiles = tiles[len(batch) :]
    share = weights.clip(0, 1)
    fine = np.divide(total, weights, out=alpha.copy(), where=weights > 0)
    return (alpha * (1 - share) + fine * share).clip(0, 1).astype(np.float32)


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


def fading(tile: tuple[int, int], size: tuple[int, int], whole: tuple[int, int]) -> np.ndarray:
    """Weights [h, w] of a tile: 1 inside, falling linearly to almost 0 over the overlap along each of its sides that is
    no side of the photo."""
    ramps = []
    for start, extent, end in zip(tile, size, whole, strict=True):
        number, width = np.arange(extent) + 0.5, max(1.0, extent * OVERLAP)
        rising = number / width if start > 0 else np.ones(extent)
        falling = number[::-1] / width if start + extent < end else np.ones(extent)
        ramps.append(np.minimum(rising, falling).clip(0, 1))
    return np.outer(*ramps).astype(np.float32)


def shown_as(
    alpha: np.ndarray, size: tuple[int, int], padding: tuple[int, int], device: torch.device | str
) -> torch.Tensor:
    """A tile's matte [h, w], resized and padded as its picture was, [1, 1, *size]."""
    inner = (size[0] - padding[0], size[1] - padding[1])
    small = resize(torch.from_numpy(np.ascontiguousarray(alpha)), inner)[None, None]
    return torch.nn.functional.pad(small, (0, padding[1], 0, padding[0]), mode="replicate").to(device)
