"""Annealed multi-resolution noise."""

import torch

MAX_LEVELS = 10


def multi_resolution_noise(shape: tuple[int, int, int], strength: float, generator: torch.Generator) -> torch.Tensor:
    """One sample's noise: white noise plus ever coarser noise, divided by its own standard deviation.

        n = w + Σ_{i ≥ 0} s^i · up(n_i),   w, n_i ~ N(0, 1),   n_i at 1 / Π_{j ≤ i} r_j^j of the size,   r_j ~ U(2, 4)

    as Marigold's training code draws it (Ke et al. 2024, `multi_res_noise_like`), after Whitaker, "Multi-resolution
    noise for diffusion model training" (2023): the level i = 0 has full size and weight 1, and the size shrinks by r^i
    from level to level, until a side is 1. Marigold divides by one figure for the whole batch; here each sample is
    divided by its own, so that it does not depend on its neighbours.

    Args:
        shape: (channels, height, width).
        strength: s in [0, 1]; 0 is white noise. The caller anneals it.
        generator: source of every draw; their number does not depend on the strength.

    Returns:
        float32 [channels, height, width] of standard deviation 1.
    """
    channels, height, width = shape
    noise = torch.randn(shape, generator=generator, dtype=torch.float32)
    level_height, level_width = height, width
    for level in range(MAX_LEVELS):
        ratio = (2 + 2 * torch.rand((), generator=generator, dtype=torch.float32).item()) ** level
        level_height, level_width = max(1, int(level_height / ratio)), max(1, int(level_width / ratio))
        size = (1, channels, level_height, level_width)
        coarse = torch.randn(size, generator=generator, dtype=torch.float32)
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
