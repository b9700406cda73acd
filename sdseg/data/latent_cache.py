"""Pairs encoded by the VAE: in each step, or once for all steps."""

from __future__ import annotations

import torch

from sdseg.data.augmentation import PERMUTATION, draw_generator, latent_valid
from sdseg.data.sources import PictureSource, RecomposedSource
from sdseg.model import encode_alpha, encode_image


class LatentSource:
    """Pairs encoded once, each in a fixed number of augmented variants: items hold latents, kept in memory, and
    with `keep_pixels` the mattes they come from."""

    def __init__(
        self,
        pictures: PictureSource | RecomposedSource,
        vae,
        variants: int,
        seed: int,
        device,
        progress,
        batch_size: int = 64,
        keep_pixels: bool = False,
    ):
        self.variants = variants
        draws = [(index, variant) for index in range(len(pictures.pairs)) for variant in range(variants)]
        kept = ["image_latents", "matte_latents", "latent_valid", *(("alpha", "valid") if keep_pixels else ())]
        parts = {key: [] for key in kept}
        for start in progress(range(0, len(draws), batch_size), desc="encoding pairs", unit="batch"):
            fitted = [
                pictures.fetch(index, draw_generator(seed, PERMUTATION, index, variant))
                for index, variant in draws[start : start + batch_size]
            ]
            encoded = encode_batch({key: torch.stack([item[key] for item in fitted]) for key in fitted[0]}, vae, device)
            for key in kept:
                parts[key].append(encoded[key].cpu())
        self.latents = {key: torch.cat(values) for key, values in parts.items()}

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        variant = torch.randint(self.variants, (), generator=generator).item()
        return {key: values[index * self.variants + variant] for key, values in self.latents.items()}


def encode_batch(batch: dict[str, torch.Tensor], vae, device) -> dict[str, torch.Tensor]:
    """A Batch of pixels and `image_latents`, `matte_latents` float32 [B, 4, h, w], `latent_valid` bool [B, 1, h, w]."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    batch = {key: values.to(device) for key, values in batch.items()}
    return batch | {
        "image_latents": encode_image(vae, batch["image"]).float(),
        "matte_latents": encode_alpha(vae, batch["alpha"]).float(),
        "latent_valid": latent_valid(batch["valid"], factor),
    }
