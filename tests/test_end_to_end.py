"""The main workflow through its command lines (render, train, infer, evaluate), the demo, and the shipped miniature."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdseg import demo
from sdseg.cli import COMMANDS
from sdseg.imaging import read_alpha
from tests.conftest import ROOT, run_here

RECIPE = ROOT / "configs/recipes/fur_solids.yaml"


@pytest.fixture(scope="module")
def renders(tmp_path_factory) -> Path:
    """Nine held-out renders, of a seed that neither the base nor the shipped adapter was trained on."""
    folder = tmp_path_factory.mktemp("renders")
    words = ("--recipe", RECIPE, "--count", 9, "--size", 64, "--seed", 77)
    run_here("-m", "synth_data", "render", *words, "--output", folder)
    return folder


def test_render_train_infer_evaluate(renders, tmp_path):
    run_here(
        "train.py", "--config", ROOT / "configs/demo.yaml", "--train_data_dir", renders,
        "--output_dir", tmp_path / "run", "--max_train_steps", 2, "--lr_warmup_steps", 1, "--train_batch_size", 4,
        "--cached_variants", 1, "--report_to", "none",
    )  # fmt: skip
    run_here(
        "infer.py", "--adapter", tmp_path / "run" / "adapter", "--input", renders / "images", "--output",
        tmp_path / "mattes", "--num_inference_steps", 2, "--ensemble_size", 3, "--batch_size", 3,
        "--output_uncertainty",
    )  # fmt: skip
    run_here(
        "-m", "sdseg.evaluation", "--prediction", tmp_path / "mattes", "--ground_truth", renders / "alpha",
        "--output", tmp_path / "metrics.json", "--workers", 1,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["mean"]["count"] == 9
    errors = [
        np.abs(read_alpha(tmp_path / "mattes" / path.name) - read_alpha(path)).mean()
        for path in sorted((renders / "alpha").iterdir())
    ]
    assert metrics["mean"]["mad"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert metrics["uncertainty"] is not None


def test_shipped_adapter_beats_half_of_grabcut(renders, tmp_path):
    """The demo's target on other held-out renders: MAD at most half of the better classical method's."""
    run_here(
        "infer.py", "--input", renders / "images", "--output", tmp_path / "shipped", "--num_inference_steps", 4,
        "--ensemble_size", 4, "--batch_size", 4,
    )  # fmt: skip
    methods = ("--method", "otsu", "grabcut")
    run_here("-m", "sdseg.classical", *methods, "--input", renders / "images", "--output", tmp_path / "classical")
    from sdseg.evaluation.evaluate import evaluate_folder

    mad = {
        name: evaluate_folder(folder, renders / "alpha")["mean"]["mad"]
        for name, folder in {
            "shipped": tmp_path / "shipped",
            "otsu": tmp_path / "classical" / "otsu",
            "grabcut": tmp_path / "classical" / "grabcut",
        }.items()
    }
    assert mad["shipped"] <= min(mad["otsu"], mad["grabcut"]) / 2, mad


def test_demo_stages_are_commands_with_shipped_files(tmp_path, monkeypatch):
    """Words of `sdseg`, and files given by paths that do not depend on the working directory."""
    monkeypatch.chdir(tmp_path)
    commands = []
    stages = demo.Stages()

    def record(name, *command):
        stages.seconds[name] = 1.0
        commands.append(command)

    monkeypatch.setattr(stages, "run", record)
    folders = demo.render(stages, tmp_path, workers=1)
    demo.train(stages, tmp_path, *folders)
    demo.matte(stages, tmp_path, tmp_path)
    assert [command[0] for command in commands] == ["render"] * 2 + ["train"] * 2 + ["infer"] * 3 + ["classical"]
    assert {command[0] for command in commands} <= COMMANDS.keys()
    shipped = [value for command in commands for flag, value in zip(command, command[1:], strict=False)
               if flag in ("--recipe", "--config")]  # fmt: skip
    assert len(shipped) == 4 and all(path.is_absolute() and path.is_file() for path in shipped)


@pytest.mark.slow
def test_demo_runs_outside_the_repository(tmp_path, monkeypatch, capfd):
    """Every stage on a few pictures and for two steps of training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(demo, "HELD_OUT_COUNT", 4)
    monkeypatch.setattr(demo, "TRAINING_COUNTS", (4, 4))
    few_steps = ["--max_train_steps", 2, "--lr_warmup_steps", 1, "--num_validation_images", 1, "--report_to", "none"]
    run_stage = demo.Stages.run
    monkeypatch.setattr(
        demo.Stages,
        "run",
        lambda self, name, word, *rest: run_stage(self, name, word, *rest, *(few_steps if word == "train" else [])),
    )
    assert demo.main(["--output", "out", "--workers", "1"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["held_out"].keys() == demo.METHODS.keys() and metrics["held_out"]["shipped"]["count"] == 4
    assert "shipped: MAD" in capfd.readouterr().out and (tmp_path / "out" / "report.html").is_file()


def test_embedded_folders_are_small_and_safe():
    embedded = ROOT / "sdseg" / "embedded"
    files = [path for part in ("base", "adapter") for path in (embedded / part).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png"}


def test_embedded_base_has_sd2s_topology():
    from sdseg.model import load_base

    base = load_base("embedded")
    unet = base.unet.config
    assert unet.down_block_types == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert unet.up_block_types == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert unet.use_linear_projection and unet.in_channels == 8 and unet.out_channels == 4
    assert base.prompt_embedding.shape == (1, 2, unet.cross_attention_dim)
