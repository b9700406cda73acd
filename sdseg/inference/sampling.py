"""From noise to alpha: the arithmetic of one batch of samples, on the model's device.

That of diffusers' `MarigoldDepthPipeline` (Ke et al. 2024) up to rounding. What is the same for all samples of a model
is computed once: keys and values of the empty prompt, and the decoder's last layer together with the mean of its
channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from sdseg.imaging import to_unit
from sdseg.model import decode_grey, without_noise


class ConstantPrompt:
    """An attention processor, as diffusers calls them, for cross-attention to a prompt that never changes.

    Keys and values are computed for the first batch, when the layer is surely on its device, and kept.
    """

    def __init__(self):
        self.keys = self.values = None  # [1, heads, T, D]

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_) -> torch.Tensor:
        """hidden_states [B, N, C] and the prompt [B, T, P] => [B, N, C]."""
        batch, positions, _ = hidden_states.shape
        if self.keys is None:
            prompt = encoder_hidden_states[:1]
            self.keys, self.values = (by_head(layer(prompt), attn.heads) for layer in (attn.to_k, attn.to_v))
        queries = by_head(attn.to_q(hidden_states), attn.heads)
        keys, values = (kept.expand(batch, -1, -1, -1) for kept in (self.keys, self.values))
        drawn = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
        return attn.to_out[0](drawn.transpose(1, 2).reshape(batch, positions, -1))


def by_head(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, N, heads * D] => [B, heads, N, D]."""
    return tensor.unflatten(2, (heads, -1)).transpose(1, 2)


def cross_attention(unet: UNet2DConditionModel) -> list[torch.nn.Module]:
    """The layers that attend to the prompt."""
    layers = (getattr(block, "attn2", None) for block in unet.modules())
    return [layer for layer in layers if layer is not None]


@contextmanager
def constant_prompt(layers: list[torch.nn.Module]) -> Iterator[None]:
    """Inside, layers of cross-attention take the prompt of their first call for that of all others."""
    before = [layer.processor for layer in layers]
    for layer in layers:
        layer.processor = ConstantPrompt()
    try:
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


@contextmanager
def plain_forward(unet: UNet2DConditionModel) -> Iterator[None]:
    """Inside, a UNet is called without what diffusers wraps around it to scale LoRA layers, by 1 in our case: that
    imports PEFT."""
    plain = getattr(type(unet).forward, "__wrapped__", None)
    if plain is None or "forward" in vars(unet):  # Accelerate's hook there moves the weights
        yield
        return
    unet.forward = MethodType(plain, unet)
    try:
        yield
    finally:
        del unet.forward


@contextmanager
def grey_decoder(vae: AutoencoderKL) -> Iterator[None]:
    """Inside, `vae.decode` gives one channel, the mean of the three: the last convolution's filters are averaged."""
    colour = vae.decoder.conv_out
    place = dict(device=colour.weight.device, dtype=colour.weight.dtype)
    grey = torch.nn.Conv2d(colour.in_channels, 1, colour.kernel_size, padding=colour.padding, **place)
    with torch.no_grad():
        grey.weight.copy_(colour.weight.float().mean(dim=0, keepdim=True))
        grey.bias.copy_(colour.bias.float().mean(dim=0, keepdim=True))
    vae.decoder.conv_out = grey
    try:
        yield
    finally:
        vae.decoder.conv_out = colour


def decode_alpha(vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, h, w] => alpha [B, 1, H, W] in [0, 1], float32: the mean of the decoded colour channels,
    clipped to [-1, 1] and shifted. NaN stays NaN."""
    return to_unit(decode_grey(vae, latent).clip(-1, 1))


def denoise(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    image_latent: torch.Tensor,
    noise: torch.Tensor,
    prompt_embedding: torch.Tensor,
    num_inference_steps: int,
    eta: float = 0.0,
    step_noise: torch.Tensor | None = None,
    start: float = 1.0,
) -> torch.Tensor:
    """From noise to a mask latent (Song et al. 2021, eq. 12 and 16):

        ε = (x_t − √ᾱ_t · z) / √(1 − ᾱ_t),   z = √ᾱ_t · x_t − √(1 − ᾱ_t) · v,
        x_s = √ᾱ_s · z + √(1 − ᾱ_s − σ²) · ε + σ · n,   σ = η · √((1 − ᾱ_s) / (1 − ᾱ_t)) · √(1 − ᾱ_t / ᾱ_s)

    with s the time after t in the list, ᾱ_s = 1 at its end, and n ~ N(0, 1). `DDIMScheduler.step` takes
    s = t − 1000 // steps, which is another time unless the steps divide 1000; at 7 or 15 steps that leaves 3 % of the
    noise, which would pass for uncertainty.

    Args:
        image_latent, noise: [B, 4, h, w] float32.
        prompt_embedding: [1, T, D].
        eta: η, 0 for DDIM, which adds no noise, to 1 for ancestral sampling (DDPM).
        step_noise: n of each step but the last, [steps - 1, B, 4, h, w]; where eta is above 0.
        start: share of the time line at which `noise` stands; below 1 it is a latent with noise.

    Returns:
        [B, 4, h, w] float32.
    """
    # conv_in may be wrapped in a LoRA layer of another precision; its weight is the base's.
    dtype = unet.conv_in.weight.dtype
    prompt = prompt_embedding.to(noise.device, dtype).expand(len(noise), -1, -1)
    scheduler.set_timesteps(num_inference_steps)
    times = scheduler.timesteps.tolist() if start == 1 else times_from(start, num_inference_steps)
    alphas = scheduler.alphas_cumprod[times].tolist() + [1.0]
    latent = noise
    for step, (t, alpha, alpha_after) in enumerate(zip(times, alphas, alphas[1:], strict=False)):
        pair = torch.cat([image_latent, latent], dim=1).to(dtype)  # [B, 8, h, w]
        predicted = unet(pair, t, encoder_hidden_states=prompt).sample.float()
        clean = without_noise(scheduler, predicted, latent, torch.tensor([t]))
        epsilon = (latent - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        variance = eta and eta**2 * (1 - alpha_after) / (1 - alpha) * (1 - alpha / alpha_after)
        latent = alpha_after**0.5 * clean + max(0.0, 1 - alpha_after - variance) ** 0.5 * epsilon
        if variance > 0:
            latent = latent + variance**0.5 * step_noise[step]
    return latent


def times_from(start: float, num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Times of the steps from a share of the time line down, spaced as the scheduler's ("trailing") from 1."""
    first = start * num_train_timesteps
    return [max(0, round(first * (1 - step / num_inference_steps)) - 1) for step in range(num_inference_steps)]
