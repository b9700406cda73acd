"""Fixtures that several test modules share: a miniature base with random weights, and pictures to feed it.

The miniature has Stable Diffusion 2's topology and layout on disk and none of its knowledge: it is for tests
of plumbing and arithmetic. What the shipped, trained miniature can do is tested where it is used.
"""

import os
import runpy
import socket
import sys
import zlib
from pathlib import Path
from unittest import mock

# One thread a process, also where `pytest` is called without `make`: miniatures gain nothing from more, and threads
# that wait for one another take ten times as long where there are more of them than idle cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# `make test` gives each worker whole files, which share what they render and train; longest first, so that no worker is
# left with a long one at the end.
LONGEST = ["training", "launches", "infer", "synth_data", "synth_store", "segmentation", "end_to_end"]


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def forget_the_launch():
    """Accelerate keeps the precision and the processes of the first Accelerator for as long as Python runs."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True, scope="session")
def look_at_colours_once():
    """The colours that palettes of classes are chosen among go through a VAE once a session: every run on classes
    begins with it, and it takes seconds."""
    import sdseg.targets

    found, given_back = {}, sdseg.targets.given_back

    def remembered(vae, colours, *side):
        weights = zlib.crc32(b"".join(value.cpu().float().numpy().tobytes() for value in vae.state_dict().values()))
        key = (weights, colours.tobytes(), *side)
        if key not in found:
            found[key] = given_back(vae, colours, *side)
        return found[key]

    with mock.patch.object(sdseg.targets, "given_back", remembered):
        yield


def run_here(*command) -> None:
    """What `python SCRIPT ...` or `python -m MODULE ...` does, in this process, which has imported torch already."""
    command = [str(word) for word in command]
    with mock.patch.object(sys, "argv", command[1:] if command[0] == "-m" else command):
        try:
            if command[0] == "-m":
                runpy.run_module(command[1], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        except SystemExit as end:
            assert not end.code, (command, end.code)


def write_random_miniature(directory: Path, seed: int = 0) -> Path:
    """Write a random base of 0.6 M parameters in diffusers' layout: unet/, vae/, scheduler/ and, in the text
    encoder's place, prompt_embedding.safetensors ([1, 2, 16]). VAE factor 4, latents [4, h, w].
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 32, 32),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=(2, 4, 4, 4),
            cross_attention_dim=16,
            use_linear_projection=True,
        )
        prompt_embedding = torch.randn(1, 2, 16)
        # Fresh weights answer almost the same grey to everything, which would let any comparison pass.
        vae.quant_conv.weight.data *= 10
        unet.conv_out.weight.data *= 3
        vae.decoder.conv_out.weight.data *= 2
        vae.decoder.conv_out.bias.data.fill_(-0.4)
    vae.save_pretrained(directory / "vae")
    unet.save_pretrained(directory / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(directory / "scheduler")
    save_file({"prompt_embedding": prompt_embedding}, directory / "prompt_embedding.safetensors")
    return directory


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Path:
    """Folder of a random base of Stable Diffusion 2's shape in small; see `write_random_miniature`."""
    return write_random_miniature(tmp_path_factory.mktemp("miniature"))


def write_random_adapter(base_directory: Path, directory: Path, resolution: int) -> Path:
    """Write an adapter: LoRA of rank 4 on every kind of layer, both factors random.

    Fresh LoRA has B = 0 and changes nothing, so a pipeline that forgot it would pass.
    """
    import torch

    from sdseg.adapter import AdapterConfig, save_adapter
    from sdseg.model import LORA_TARGETS, add_lora, load_base

    base = load_base(str(base_directory))
    peft_model = add_lora(base, rank=4, lora_alpha=4, lora_targets=list(LORA_TARGETS), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(peft_model.named_parameters()):
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    config = AdapterConfig(
        pretrained_model_name_or_path=str(base_directory),
        revision=None,
        fingerprint=base.fingerprint,
        resolution=resolution,
        num_inference_steps=4,
        calibration={"4x8": 1.5},
    )
    save_adapter(directory, peft_model, config, base.prompt_embedding, card="A random adapter, for tests.\n")
    return directory


@pytest.fixture(scope="session")
def miniature_adapter(miniature, tmp_path_factory) -> Path:
    """Folder of an adapter for `miniature`; see `write_random_adapter`."""
    return write_random_adapter(miniature, tmp_path_factory.mktemp("adapters") / "random", resolution=64)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture with one sharp-edged disc; uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = rng.uniform(-9, 9, size=(3, 2)) @ np.stack([y.ravel(), x.ravel()])  # (3, H*W)
    image = 0.5 + 0.4 * np.sin(waves + rng.uniform(0, 6, size=(3, 1))).T.reshape(height, width, 3)
    image[(y - 0.5) ** 2 + (x - 0.45) ** 2 < 0.08] = rng.uniform(size=3)
    return np.round(image * 255).astype(np.uint8)
