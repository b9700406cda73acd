"""Annealed multi-resolution noise."""

import torch


def multi_resolution_noise(
    shape: tuple[int, int, int], strength: float, generator: torch.Generator, max_levels: int = 10
) -> torch.Tensor:
    """Noise for one sample: white noise plus coarser and coarser noise, divided by its own standard deviation.

        n = Σ_i s^i · upsample(n_i),   n_i ~ N(0, 1) at 1 / (r_1 … r_i) of the size,   r_i ~ U(2, 4)

    Whitaker, "Multi-resolution noise for diffusion model training" (2023), annealed by the caller as in
    Marigold (Ke et al. 2024): s = 0.9 · t / T. Marigold divides the whole batch by one standard deviation;
    here each sample is divided by its own, so that it does not depend on the rest of its batch.

    Args:
        shape: (channels, height, width).
        strength: s in [0, 1]; 0 is white noise.
        generator: source of all draws, whose number does not depend on s.

    Returns:
        float32 [channels, height, width] of standard deviation 1.
    """
    channels, height, width = shape
    noise = torch.randn(shape, generator=generator)
    level_height, level_width = height, width
    for level in range(1, max_levels):
        ratio = 2 + 2 * torch.rand((), generator=generator).item()
        level_height, level_width = max(1, int(level_height / ratio)), max(1, int(level_width / ratio))
        coarse = torch.randn((1, channels, level_height, level_width), generator=generator)
        if strength > 0:
            upsampled = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
            noise = noise + strength**level * upsampled[0]
        if level_height == 1 or level_width == 1:
            break
    return noise / noise.std()


def annealed_noise(
    shape: tuple[int, int, int],
    timestep: int,
    num_train_timesteps: int,
    multires_noise_strength: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Noise for one sample at `timestep`, coarse at t = T and white at t = 0 (Marigold: strength 0.9)."""
    return multi_resolution_noise(shape, multires_noise_strength * timestep / num_train_timesteps, generator)
