"""The training loss. Noise and time steps come in as arguments, so it can be tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def denoising_loss(
    unet: torch.nn.Module,
    scheduler: DDIMScheduler,
    image_latents: torch.Tensor,
    matte_latents: torch.Tensor,
    valid: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    prompt_embedding: torch.Tensor,
) -> torch.Tensor:
    """v-prediction loss of each sample (Salimans & Ho 2022, eq. in appendix D), in float32.

        z_t = √ᾱ_t · z + √(1 − ᾱ_t) · ε,   v = √ᾱ_t · ε − √(1 − ᾱ_t) · z,   L = mean_valid (v̂([image, z_t], t) − v)²

    Args:
        image_latents, matte_latents, noise: [B, 4, h, w].
        valid: bool [B, 1, h, w]; positions that count. A sample has at least one.
        timesteps: int64 [B] in [0, T).
        prompt_embedding: [1, tokens, D].

    Returns:
        [B], each sample's mean over its valid positions; the batch's loss is the mean of these.
    """
    noisy = scheduler.add_noise(matte_latents, noise, timesteps)
    velocity = scheduler.get_velocity(matte_latents, noise, timesteps)
    prompt = prompt_embedding.expand(len(timesteps), -1, -1)
    predicted = unet(torch.cat([image_latents, noisy], dim=1), timesteps, encoder_hidden_states=prompt).sample
    squared = (predicted.float() - velocity.float()).square().mean(dim=1, keepdim=True)  # [B, 1, h, w]
    return (squared * valid).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))
