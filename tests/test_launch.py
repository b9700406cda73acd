"""Training as users launch it: the shipped Accelerate files, and that they start what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.test_training import write_pairs

ROOT = Path(__file__).parent.parent


def test_the_shipped_file_for_processors_starts_two_processes(miniature, tmp_path):
    """`accelerate launch --cpu --num_processes 2` would start one; what was started is in the run's record."""
    pairs = write_pairs(tmp_path / "pairs", 8)
    settings = dict(
        pretrained_model_name_or_path=miniature, train_data_dir=pairs, output_dir=tmp_path / "run", resolution=32,
        max_train_steps=2, train_batch_size=2, lr_warmup_steps=0, rank=2, lora_alpha=2, report_to="none",
    )  # fmt: skip
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", "train.py", *(f"--{key}={value}" for key, value in settings.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    started = json.loads((tmp_path / "run" / "environment.jsonl").read_text())
    assert (started["num_processes"], started["distributed_type"]) == (2, "MULTI_CPU")
    assert "global batch 4" in done.stdout
