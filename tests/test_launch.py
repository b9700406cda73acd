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


def test_slurm_script_passes_arguments_on_as_they_are(tmp_path):
    """Slurm and Accelerate are stood in for by scripts that run, or print, what they are given."""
    stand_ins = {
        "scontrol": "echo node1; echo node2",
        "srun": 'shift; SLURM_NODEID=1 exec "$@"',
        "accelerate": "printf '<%s>\\n' \"$@\"",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    given = ["my config.yaml", "--output_dir", "it's; a $run", "--class_names", "[a, b]"]
    command = ["bash", "configs/accelerate/slurm.sh", *given]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    passed = [line[1:-1] for line in told.splitlines()]
    assert passed[-len(given) - 2 :] == ["train.py", "--config", *given]
    words = dict(zip(passed, passed[1:], strict=False))
    assert words["--num_processes"] == "16" and words["--machine_rank"] == "1" and words["--main_process_ip"] == "node1"
