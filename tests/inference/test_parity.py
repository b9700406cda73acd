"""The pipeline against diffusers' `MarigoldDepthPipeline`, with the same weights, starting noise and steps.

The peer gets the adapter merged into its UNet, so the LoRA layers are checked against W + BA on the way.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, MarigoldDepthPipeline
from PIL import Image

from sdseg.adapter import load_adapter, read_adapter
from sdseg.inference.pipeline import MattingPipeline
from sdseg.model import load_base
from tests.conftest import picture, write_random_adapter

STEPS = (1, 4, 10)
# height, width, processing resolution: square, not square, with sides that the VAE's factor does not divide
MINIATURE_CASES = [(64, 64, 64), (48, 96, 64), (70, 50, 64), (61, 37, 0), (96, 96, 64), (33, 20, 48)]
FULL_SIZE_CASES = [(128, 128, 128), (75, 100, 128)]


def predictions(adapter_directory, cases) -> tuple[dict, dict]:
    """Both pipelines' single samples, ours and the peer's: {(height, width, resolution, steps): [H, W]}.

    One UNet serves both, first with LoRA layers in it, then merged: two of full size would take 7 GB.
    """
    adapter = read_adapter(adapter_directory)
    base = load_base(adapter.config.pretrained_model_name_or_path, prompt_embedding=adapter.prompt_embedding)
    peft_model = load_adapter(adapter, base)
    ours = MattingPipeline(base.unet, base.vae, adapter.scheduler, adapter.prompt_embedding)

    def run(pipe, key):
        height, width, resolution, steps = key
        longer = resolution or max(height, width)
        factor = ours.vae_scale_factor
        h, w = (-(-(side * longer // max(height, width)) // factor) for side in (height, width))
        latents = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(height + steps))
        image = Image.fromarray(picture(height, width, seed=width))
        output = pipe(image, steps, processing_resolution=resolution, match_input_resolution=False, latents=latents)
        return output.prediction[0].squeeze()

    keys = [(*case, steps) for case in cases for steps in STEPS]
    mine = {key: run(ours, key) for key in keys}
    peer = MarigoldDepthPipeline(
        unet=peft_model.merge_and_unload(),
        vae=base.vae,
        scheduler=DDIMScheduler.from_config(adapter.scheduler.config),
        text_encoder=None,
        tokenizer=None,
        prediction_type="depth",
    )
    peer.empty_text_embedding = adapter.prompt_embedding
    peer.set_progress_bar_config(disable=True)
    return mine, {key: run(peer, key) for key in keys}


def check(adapter_directory, cases, tolerance: float):
    ours, peers = predictions(adapter_directory, cases)
    for key, prediction in ours.items():
        # Clipped or flat pictures agree whatever was computed.
        within = ((prediction > 0.02) & (prediction < 0.98)).mean()
        assert within > 0.9, f"{key}: only {within:.0%} of the pixels are off 0 and 1"
        assert prediction.std() > 0.05, f"{key}: flat, standard deviation {prediction.std():.3f}"
    for key, prediction in ours.items():
        assert prediction.shape == peers[key].shape, key
        gap = np.abs(prediction - peers[key]).max()
        assert gap < tolerance, f"{key}: {gap:.1e} apart"
    first, second, *_ = (ours[(*cases[0], steps)] for steps in STEPS)
    assert np.abs(first - second).max() > 100 * tolerance  # the number of steps matters here


def test_single_sample_equals_marigolds(miniature_adapter):
    check(miniature_adapter, MINIATURE_CASES, tolerance=1e-5)


def test_the_adapter_changes_the_prediction(miniature, miniature_adapter):
    """Else parity would say nothing about LoRA."""
    adapter = read_adapter(miniature_adapter)
    base = load_base(str(miniature), prompt_embedding=adapter.prompt_embedding)
    plain = MattingPipeline(base.unet, base.vae, adapter.scheduler, adapter.prompt_embedding, 4, 64)
    tuned = MattingPipeline.from_adapter(adapter)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    gap = plain(picture(64, 64), latents=latents).prediction[0] - tuned(picture(64, 64), latents=latents).prediction[0]
    assert np.abs(gap).mean() > 0.01


@pytest.mark.slow
def test_single_sample_equals_marigolds_at_full_size(tmp_path):
    """Stable Diffusion 2's own shapes, random weights; 6 GB of disk, 8 GB of memory."""
    from benchmarks.random_sd2 import write_random_sd2

    base = write_random_sd2(tmp_path / "sd2")
    adapter = write_random_adapter(base, tmp_path / "adapter", resolution=128)
    check(adapter, FULL_SIZE_CASES, tolerance=1e-4)
