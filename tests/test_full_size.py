"""Stable Diffusion 2's own size with random weights, through the command lines: 865.7 M parameters on a CPU.

About 4 GB of disk, under 20 GiB of memory, a few minutes.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdseg.imaging import read_alpha, write_image
from tests.conftest import picture
from tests.training.test_training import write_pairs

ROOT = Path(__file__).parent.parent
LIMIT = 20 * 2**30  # bytes


def peak_memory_of(*words) -> int:
    """Run `python words...` to its end and return its peak resident memory in bytes."""
    code = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run([sys.executable, *sys.argv[1:]]).returncode\n"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(result.stdout.split("peak ")[-1])


@pytest.mark.slow
def test_full_size_trains_two_steps_and_mattes_a_photo(tmp_path):
    peaks = {"write": peak_memory_of("benchmarks/random_sd2.py", "--output", tmp_path / "sd2")}
    pairs = write_pairs(tmp_path / "pairs", 2, size=256)
    peaks["train"] = peak_memory_of(
        "train.py", "--pretrained_model_name_or_path", tmp_path / "sd2", "--train_data_dir", pairs, "--output_dir",
        tmp_path / "run", "--resolution", 256, "--max_train_steps", 2, "--train_batch_size", 1, "--lr_warmup_steps", 0,
        "--lr_scheduler", "constant", "--gradient_checkpointing", "--logging_steps", 1, "--report_to", "none",
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)
    checkpoint = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoint-2").iterdir())
    assert checkpoint < 500e6  # LoRA and its moments, not the 3.5 GB of the base
    write_image(tmp_path / "photo.png", picture(160, 240))
    peaks["infer"] = peak_memory_of(
        "infer.py", "--adapter", tmp_path / "run" / "adapter", "--input", tmp_path / "photo.png", "--output",
        tmp_path / "mattes", "--num_inference_steps", 2, "--ensemble_size", 2, "--output_uncertainty",
    )  # fmt: skip
    assert read_alpha(tmp_path / "mattes" / "photo.png").shape == (160, 240)
    assert (tmp_path / "mattes" / "photo.uncertainty.png").is_file()
    print({name: f"{peak / 2**30:.1f} GiB" for name, peak in peaks.items()})
    assert max(peaks.values()) < LIMIT, peaks
