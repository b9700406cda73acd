"""Devices: the training step and the pipeline on a fake GPU, and on a real one where there is one (`-m gpu`)."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdseg.training.config import TrainingConfig
from tests.training.test_training import ROOT, lora_of, stats, write_pairs

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 12)


def test_no_tensor_is_left_on_the_cpu(miniature, pairs):
    """See fake_gpu.py, which also leaves tensors behind on purpose and fails where that is not noticed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "tests/training/fake_gpu.py", str(miniature), str(pairs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trains") == 2 and done.stdout.count("noticed") == 5 and "mattes are drawn" in done.stdout


# ---------------------------------------------------------------------------------------------- on a GPU


def config_of(base: Path | str, pairs: Path, output: Path, **changes) -> TrainingConfig:
    settings = dict(
        pretrained_model_name_or_path=str(base), train_data_dir=str(pairs), output_dir=str(output), resolution=32,
        max_train_steps=6, train_batch_size=4, lr_warmup_steps=2, rank=2, lora_alpha=2.0, learning_rate=1e-3,
        checkpointing_steps=3, checkpoints_total_limit=9, logging_steps=1, report_to="none", seed=3,
    )  # fmt: skip
    return TrainingConfig(**(settings | changes))


def train_alone(config: TrainingConfig, on: str) -> list[float]:
    """Trains in a process of its own, on "cuda" or the CPU: Accelerate has one device and precision a process.

    Returns:
        The loss of each step.
    """
    flags = [f"--{key}={'null' if value is None else value}" for key, value in vars(config).items()]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    environment |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | ({} if on == "cuda" else {"ACCELERATE_USE_CPU": "true"})
    done = subprocess.run(
        [sys.executable, "train.py", *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0 and f"device {on}" in done.stdout, done.stdout + done.stderr[-3000:]
    return [row["loss"] for row in stats(Path(config.output_dir)) if "loss" in row]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("no", 2e-3), ("bf16", 3e-2)])
def test_a_gpu_trains_as_the_cpu_does(miniature, pairs, tmp_path, precision, tolerance):
    """Every draw is made on the CPU, so losses differ by rounding alone: TF32 in convolutions, or bfloat16."""
    common = dict(pixel_loss_share=0.5, use_ema=True, gradient_accumulation_steps=2, train_batch_size=2)
    plain = train_alone(config_of(miniature, pairs, tmp_path / "cpu", **common), "cpu")
    config = config_of(miniature, pairs, tmp_path / "cuda", mixed_precision=precision, **common)
    assert train_alone(config, "cuda") == pytest.approx(plain, rel=tolerance)
    weights = lora_of(tmp_path / "cuda" / "adapter")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())
    assert any(value.abs().max() > 0 for key, value in weights.items() if "lora_B" in key)


@pytest.mark.gpu
@needs_gpu
def test_resume_on_a_gpu_is_bit_identical(miniature, pairs, tmp_path):
    """Cached latents keep the VAE, whose convolutions may choose another algorithm, out of the steps."""
    common = dict(cache_latents=True, use_ema=True)
    whole = config_of(miniature, pairs, tmp_path / "whole", **common)
    losses = train_alone(whole, "cuda")
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-6")
    assert train_alone(config_of(miniature, pairs, run, **common), "cuda") == losses
    for name in ("lora", "optimizer", "ema"):
        one, other = (load_file(folder / f"checkpoint-6/{name}.safetensors") for folder in (tmp_path / "whole", run))
        assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.mark.gpu
@needs_gpu
def test_a_compiled_network_trains_alike_on_a_gpu(miniature, pairs, tmp_path):
    plain = train_alone(config_of(miniature, pairs, tmp_path / "plain"), "cuda")
    compiled = train_alone(config_of(miniature, pairs, tmp_path / "compiled", torch_compile=True), "cuda")
    assert compiled == pytest.approx(plain, rel=2e-3)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 5e-2)])
def test_a_gpu_mattes_as_the_cpu_does(miniature_adapter, dtype, tolerance):
    """The largest difference of alpha anywhere; the starting noise is drawn by a generator on the CPU."""
    from sdseg.inference.pipeline import MattingPipeline

    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mattes = []
    for device, precision in (("cpu", torch.float32), ("cuda", dtype)):
        pipeline = MattingPipeline.from_adapter(miniature_adapter, torch_dtype=precision, device=device)
        generator = torch.Generator().manual_seed(0)
        mattes.append(pipeline(image, ensemble_size=4, batch_size=2, generator=generator).prediction[0])
    assert np.abs(mattes[0] - mattes[1]).max() < tolerance


@pytest.mark.gpu
@needs_gpu
def test_gradient_checkpointing_lowers_the_peak(pairs, tmp_path):
    """The embedded miniature, 16 pictures of 128 px in float32: its activations outweigh its weights by far."""
    from sdseg.training.batches import open_batches
    from sdseg.training.run import prepare

    peaks = {}
    for recompute in (False, True):
        run = prepare(
            config_of(
                "embedded",
                pairs,
                tmp_path / "run",
                resolution=128,
                train_batch_size=16,
                gradient_checkpointing=recompute,
            )  # fmt: skip
        )
        run.batches = open_batches(run)
        run.unet.train()
        run.accumulate()
        run.update()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run.accumulate()
        run.update()
        peaks[recompute] = torch.cuda.max_memory_allocated() - before
        assert {value.device.type for value in run.lora.values()} == {"cuda"}
        del run
        torch.cuda.empty_cache()
    assert peaks[True] < 0.8 * peaks[False] and peaks[False] < 8 * 2**30


# ---------------------------------------------------------------------------------------------- on SD2's weights


@pytest.fixture(scope="module")
def sd2():
    """Stable Diffusion 2: the folder that SDSEG_SD2 names, else the Hub's cache; nothing is downloaded."""
    from sdseg.model import MIRROR

    name = os.environ.get("SDSEG_SD2")
    if name is None:
        from huggingface_hub import try_to_load_from_cache

        parts = ("unet", "vae")
        files = [try_to_load_from_cache(MIRROR, f"{part}/diffusion_pytorch_model.safetensors") for part in parts]
        if not all(isinstance(file, str) for file in files):
            pytest.skip(f"{MIRROR} is not in the Hub's cache; set SDSEG_SD2 to a folder in diffusers' layout")
        name = MIRROR
    return name


@pytest.mark.weights
def test_sd2_loads_and_starts_from_what_it_knows(sd2):
    """Its own size, a VAE that gives pictures back, and a widened UNet that answers as before where latents agree."""
    from sdseg.model import decode_colour, encode_image, load_base

    base = load_base(sd2)
    assert sum(value.numel() for value in base.unet.parameters()) == pytest.approx(865.9e6, rel=1e-3)
    assert base.unet.conv_in.in_channels == 8 and base.prompt_embedding.shape == (1, 2, 1024)
    ramp = torch.linspace(-0.8, 0.8, 256).expand(1, 3, 256, 256)
    latents = encode_image(base.vae, ramp)
    assert latents.shape == (1, 4, 32, 32)
    with torch.no_grad():
        assert (decode_colour(base.vae, latents) - ramp).abs().mean() < 0.05
        narrow = copy.deepcopy(base.unet.conv_in)
        narrow.weight.data = base.unet.conv_in.weight[:, :4] * 2
        narrow.in_channels = 4
        both = base.unet.conv_in(torch.cat([latents, latents], dim=1))
        assert torch.allclose(both, narrow(latents), atol=1e-4)


@pytest.mark.weights
def test_sd2_takes_a_step_and_mattes_a_photo(sd2, tmp_path):
    """256 px, one step at bfloat16 where there is a GPU; the loss of v-prediction is about 1 before training."""
    from sdseg.inference.pipeline import MattingPipeline

    pairs = write_pairs(tmp_path / "pairs", 2, size=256)
    gpu = torch.cuda.is_available()
    config = config_of(
        sd2, pairs, tmp_path / "run", resolution=256, train_batch_size=1, max_train_steps=1, lr_warmup_steps=0,
        gradient_checkpointing=True, mixed_precision="bf16" if gpu else "no",
    )  # fmt: skip
    [loss] = train_alone(config, "cuda" if gpu else "cpu")
    assert 0.05 < loss < 5
    pipeline = MattingPipeline.from_adapter(tmp_path / "run" / "adapter", device="cuda" if gpu else "cpu")
    image = np.full((192, 256, 3), 127, np.uint8)
    matte = pipeline(image, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).prediction[0]
    assert matte.shape == (192, 256) and np.isfinite(matte).all()
