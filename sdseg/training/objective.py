"""The training losses. Noise and time steps come in as arguments, so they can be tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdseg.model import decode_colour, decode_grey, without_noise
from sdseg.targets import paint

if TYPE_CHECKING:
    import numpy as np
    from diffusers import AutoencoderKL, DDIMScheduler

PYRAMID_LEVELS = 5


def training_loss(
    unet: torch.nn.Module,
    vae: AutoencoderKL,
    scheduler: DDIMScheduler,
    batch: dict[str, torch.Tensor],
    prompt_embedding: torch.Tensor,
    colours: np.ndarray | None = None,
) -> torch.Tensor:
    """Loss of each sample, [B] float32: the pixel loss where `through_pixels` is set, else the denoising loss.

    Args:
        batch: `image_latents`, `matte_latents`, `noise` [B, 4, h, w]; `latent_valid` bool [B, 1, h, w], at least one
            of a sample; `timestep` int64 [B] in [0, T); and `through_pixels` bool [B] with, where any is set, `alpha`
            [B, 1, H, W] in [0, 1] or `classes` int16 [B, 1, H, W], and `valid` bool [B, 1, H, W].
        prompt_embedding: [1, tokens, D].
        colours: uint8 [classes, 3], that `classes` are painted in.
    """
    noisy = scheduler.add_noise(batch["matte_latents"], batch["noise"], batch["timestep"])
    prompt = prompt_embedding.expand(len(noisy), -1, -1)
    pair = torch.cat([batch["image_latents"], noisy], dim=1)  # [B, 8, h, w]
    predicted = unet(pair, batch["timestep"], encoder_hidden_states=prompt).sample.float()
    losses = denoising_loss(predicted, scheduler, batch)
    chosen = batch["through_pixels"].nonzero().flatten()
    if len(chosen):
        clean = without_noise(scheduler, predicted[chosen], noisy[chosen], batch["timestep"][chosen])
        if colours is None:
            drawn, truth = (decode_grey(vae, clean) + 1) / 2, batch["alpha"][chosen]
        else:
            drawn, truth = (decode_colour(vae, clean) + 1) / 2, (paint(batch["classes"][chosen, 0], colours) + 1) / 2
        losses = losses.index_copy(0, chosen, pixel_loss(drawn, truth, batch["valid"][chosen]))
    return losses


def denoising_loss(predicted: torch.Tensor, scheduler: DDIMScheduler, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Squared error of each sample's prediction [B, 4, h, w] over its valid positions, [B].

        z_t = √ᾱ_t · z + √(1 − ᾱ_t) · ε,   v = √ᾱ_t · ε − √(1 − ᾱ_t) · z,   L = mean_valid (v̂ − v)²

    for `prediction_type` v_prediction (Salimans & Ho 2022, appendix D); for `sample`, z replaces v.
    """
    if scheduler.config.prediction_type == "sample":
        target = batch["matte_latents"]
    else:
        target = scheduler.get_velocity(batch["matte_latents"], batch["noise"], batch["timestep"])
    squared = (predicted - target.float()).square().mean(dim=1, keepdim=True)  # [B, 1, h, w]
    return _mean_over(squared, batch["latent_valid"])


def pixel_loss(drawn: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Difference of decoded mattes [B, 1, H, W] or painted classes [B, 3, H, W] and true ones, in [0, 1], over their
    valid pixels, bool [B, 1, H, W]; [B] float32.

        L = mean |d| + Σ_l 2^l · mean |Lap_l(d)| / levels + mean |∂_x d| + mean |∂_y d|,   d = (α̂ − α) · valid

    L1, Laplacian pyramid (Hou & Liu 2019, "Context-aware image matting": five levels, the coarser the heavier) and
    gradient (differences of neighbours). Predictions are not clipped, so that values out of range are penalised.
    """
    difference = (drawn.float() - truth) * valid
    horizontal = (difference[..., 1:] - difference[..., :-1]).abs()
    vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs()
    loss = _mean_over(difference.abs(), valid)
    loss = loss + _mean_over(horizontal, valid[..., 1:] & valid[..., :-1])
    loss = loss + _mean_over(vertical, valid[..., 1:, :] & valid[..., :-1, :])
    bands = laplacian_pyramid(difference, PYRAMID_LEVELS)
    counts = valid.sum(dim=(1, 2, 3)) / valid[0].numel()
    for level, band in enumerate(bands):
        loss = loss + 2**level * band.abs().mean(dim=(1, 2, 3)) / counts / len(bands)
    return loss


def laplacian_pyramid(picture: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Bands of [B, C, H, W], finest first, the last what is left; fewer where the picture is too small to be halved.

    Burt & Adelson 1983, with the mean of 2×2 pixels to shrink and bilinear interpolation to grow: the bands, each grown
    back to size and added up, give the picture again.
    """
    bands = []
    for _ in range(levels - 1):
        if min(picture.shape[-2:]) < 2:
            break
        small = torch.nn.functional.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)
        bands.append(picture - grown(small, picture.shape[-2:]))
        picture = small
    return [*bands, picture]


def grown(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(picture, size=tuple(size), mode="bilinear", align_corners=False)


def _mean_over(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] and bool [B, 1, H, W] -> each sample's mean over its valid positions, [B]."""
    values = values.mean(dim=1, keepdim=True)
    return (values * valid).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp(min=1)
