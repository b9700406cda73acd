"""The package as installed, its configs, and how fast it answers."""

import os
import subprocess
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def resolved(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Names of all distributions that `name[extras]` needs here, itself included, read from the environment."""
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    seen, queue = set(), [(canonicalize_name(name), extras)]
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen or name not in installed:
            continue
        seen.add((name, extras))
        for line in requires(name) or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                queue.append((canonicalize_name(need.name), tuple(sorted(need.extras))))
    return {name for name, _ in seen}


def test_nothing_pulls_in_torchvision():
    needed = resolved("sdseg", ("dev",))
    assert {"torch", "diffusers", "mitsuba", "pytest", "huggingface-hub"} <= needed  # the walk does walk
    assert "torchvision" not in needed
    assert "torchvision" not in {canonicalize_name(found.metadata["Name"]) for found in distributions()}


def test_every_direct_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines}
    for line in requires("sdseg"):
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": "dev"}):
            assert canonicalize_name(need.name) in pinned, line


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_config_parses(file):
    from sdseg.training.config import parse_training_config

    given = yaml.safe_load(file.read_text())
    flags = [f"--{key}=x" for key in ("train_data_dir", "output_dir") if key not in given]
    config = parse_training_config(["--config", str(file), *flags])
    assert config.max_train_steps == given["max_train_steps"] and config.lora_targets == given["lora_targets"]


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda file: file.name)
def test_accelerate_reads_its_configs(file):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(file))  # an unknown key is an error there
    wanted = {"single_gpu": "NO", "fsdp": "FSDP"}
    assert config.distributed_type.value == wanted.get(file.stem, "MULTI_GPU") and not config.use_cpu


def test_every_setting_is_read_by_something():
    from dataclasses import fields

    from sdseg.training.config import TrainingConfig

    readers = sorted((ROOT / "sdseg" / "training").glob("*.py"))
    source = "".join(file.read_text() for file in readers if file.name != "config.py")
    for item in fields(TrainingConfig):
        assert f"config.{item.name}" in source, item.name


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
