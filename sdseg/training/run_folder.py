"""The folder of a training run: settings, rows of figures, checkpoints.

config.yaml            the resolved settings, to start a run like it with --config; a resumed run is compared with them
run.json               what else must not change: global batch, digest of the data, colours of classes
environment.jsonl      a row per start: versions, git revision, devices, command
stats.jsonl            a row every `logging_steps` and at each validation
logs/                  the tracker's files
validation/            picture grids: photo, truth, matte, uncertainty
checkpoint-<step>/     LoRA, optimiser moments, counters; never the base
adapter/               the finished adapter
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.errors import first_line, one_line
from sdseg.imaging import replacing
from sdseg.outputs import LOCK, check_writable, naming_full_disk
from sdseg.training.config import ConfigError, TrainingConfig, settings_that_differ
from sdseg.training.processes import shard_like, whole_copy

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

CHECKPOINT_FILES = ("lora.safetensors", "optimizer.safetensors", "state.json")
AVERAGE_FILE = "ema.safetensors"
VERSIONS = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "numpy")
ARITHMETIC = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # variables that change results on a GPU
RUN_NAMES = {  # tracker, by Accelerate's name -> its parameter for a run's name
    "wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name", "clearml": "task_name",
}  # fmt: skip


def step_to_resume(output: Path, config: TrainingConfig, record: dict) -> int:
    """The step to go on from; nothing is written yet.

    Raises:
        ConfigError: the folder holds another run (names what differs), is no run, or cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir {output} is a file; name a folder")
    check_writable(output)
    if config.overwrite_output_dir and (output / "config.yaml").is_file():
        return 0
    if stored := stored_run(output):
        refuse_other_run(output, stored, config, record)
    elif output.is_dir() and any(
        path.name not in ("run.json", LOCK) and path.suffix != ".tmp"  # a run killed during its start leaves these
        for path in output.iterdir()
    ):
        raise ConfigError(f"output_dir {output} is not empty and holds no run; name another folder")
    return latest_checkpoint(output)


def stored_run(output: Path) -> dict | None:
    """Settings and record of the run that a folder holds; None where it holds none.

    Runs of an earlier version have no run.json: their config.yaml holds both.

    Raises:
        ConfigError: one of the two files is damaged.
    """
    import yaml

    settings, record = output / "config.yaml", output / "run.json"
    if not settings.is_file():
        return None
    stored = {}
    for file, read in ((settings, yaml.safe_load), (record, json.loads)):
        if file is record and not file.is_file():
            continue
        try:
            stored |= dict(read(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{file} is damaged ({one_line(error)}); restore it from a copy, or pass --overwrite_output_dir to "
                "start afresh"
            ) from error
    return stored


def stored_colours(output: Path) -> dict[str, list[int]] | None:
    """The colours of the classes with which a run began, by name; they depend on the VAE's last bits."""
    return (stored_run(output) or {}).get("classes")


def make_run_folder(output: Path, config: TrainingConfig, record: dict, first_step: int) -> None:
    """Write config.yaml and run.json, and drop what is to be written again: all of it when overwriting, else later
    rows."""
    import yaml

    if config.overwrite_output_dir and (output / "config.yaml").is_file():
        empty(output)
    settings = asdict(config) | {"overwrite_output_dir": False}  # done once, not whenever the file is used again
    with replacing(output / "run.json") as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    with replacing(output / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    forget_stats_after(output / "stats.jsonl", first_step)
    forget_checkpoints_after(output, first_step)


def empty(folder: Path) -> None:
    """Removes all that a folder holds but the lock, which this run holds."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def tracker_names(report_to: str, output: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Project name and keyword arguments by tracker, for `Accelerator.init_trackers`.

    TensorBoard's project is the folder it writes to, Aim's the name of the run; DVCLive would write beside the run
    folder. Comet takes a run's name only in an object of its own, so it chooses one itself.
    """
    name = output.resolve().name
    if report_to == "tensorboard":
        return "logs", {}
    if report_to == "aim":
        return name, {}
    if report_to == "dvclive":
        return "sdseg", {"dvclive": {"dir": str(output / "logs")}}
    parameter = RUN_NAMES.get(report_to)
    return "sdseg", {report_to: {parameter: name}} if parameter else {}


def write_environment(output: Path, accelerator: Accelerator, first_step: int) -> None:
    """Append what a run was started with to environment.jsonl: versions, devices, and the command with all its
    arguments, paths of data included; no user or host, and no environment variable but those of ARITHMETIC."""
    import platform
    from importlib.metadata import version

    from sdseg import __version__

    row = {
        "first_step": first_step,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_revision": git_revision(Path(__file__).parent),
        "python": platform.python_version(),
        "versions": {"sdseg": __version__} | {name: version(name) for name in VERSIONS},
        "distributed_type": accelerator.distributed_type.value,
        "num_processes": accelerator.num_processes,
        "device": device_name(accelerator),
        "arithmetic": {name: os.environ[name] for name in ARITHMETIC if name in os.environ},
    }
    with open(output / "environment.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def git_revision(package: Path) -> str | None:
    """The commit of the repository that tracks a package's folder, with `-dirty` if it was changed since; None if no
    repository tracks it, even where the folder lies inside one."""
    import subprocess

    if not shutil.which("git"):
        return None
    git = ["git", "-C", str(package)]
    tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "run_folder.py"], capture_output=True)
    if tracked.returncode:
        return None
    described = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(described, capture_output=True, text=True).stdout.strip() or None


def device_name(accelerator: Accelerator) -> str:
    import torch

    return torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type


def refuse_other_run(output: Path, old: dict, config: TrainingConfig, record: dict) -> None:
    """Raises ConfigError where a folder's run has other settings, another global batch or other data.

    The data are compared, not their path: a link, a trailing slash or a moved folder is the same data set. Runs of an
    earlier version have no `data_checksum`.
    """
    compared = {key: (old.get(key), record[key]) for key in ("global_batch", "data_digest")}
    if "data_checksum" in old:
        compared["data_checksum"] = (old["data_checksum"], record["data_checksum"])
    changed = [f"{key}: {stored!r} -> {new!r}" for key, (stored, new) in compared.items() if stored != new]
    same_data = not any(line.startswith("data_") for line in changed)
    changed = settings_that_differ(old, config, ignored={"train_data_dir"} if same_data else set()) + changed
    if changed:
        raise ConfigError(
            f"output_dir {output} holds another run ({'; '.join(changed)}); restore these settings to go on with it, "
            "name another output_dir, or pass --overwrite_output_dir to start afresh"
        )


def forget_stats_after(stats: Path, step: int) -> None:
    """Drops the rows of steps that will be taken again."""
    if stats.is_file():
        kept = []
        for number, row in enumerate(stats.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                if row.endswith("}") and json.loads(row)["step"] <= step:
                    kept.append(row)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"{stats}: line {number} is damaged ({one_line(error)}); remove this line, or restore the "
                    "file from a copy"
                ) from error
        with replacing(stats) as partial:
            partial.write_text("".join(row + "\n" for row in kept), encoding="utf-8")


def forget_checkpoints_after(output: Path, step: int) -> None:
    """Drops checkpoints that were skipped, and what a killed run left half written or half removed."""
    kept = {f"checkpoint-{number}" for number in checkpoint_steps(output) if number <= step}
    for folder in sorted(output.iterdir()):
        if folder.name not in kept and re.fullmatch(r"checkpoint-\d+|\.checkpoint-\d+\.partial", folder.name):
            if not folder.name.startswith("."):
                print(f"{folder} is not intact; removed", file=sys.stderr)
            shutil.rmtree(folder)


def checkpoint_steps(output: Path) -> list[int]:
    """Steps of the checkpoints that have all their files, oldest first."""
    steps = []
    for folder in output.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdigit() and all((folder / name).is_file() for name in CHECKPOINT_FILES):
            steps.append(int(number))
    return sorted(steps)


def latest_checkpoint(output: Path) -> int:
    """Step of the newest intact checkpoint; 0 if there is no checkpoint.

    Raises:
        ConfigError: every checkpoint is damaged.
    """
    steps = checkpoint_steps(output)
    for step in reversed(steps):
        if is_intact(output / f"checkpoint-{step}"):
            return step
    if steps:
        raise ConfigError(
            f"{output} holds no intact checkpoint (steps {', '.join(map(str, steps))} are damaged); restore one from a "
            "copy, or pass --overwrite_output_dir to start afresh"
        )
    return 0


def is_intact(folder: Path) -> bool:
    """Whether a checkpoint's files match their checksums, which those of earlier versions lack."""
    try:
        sums = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("crc32", {})
        return all(zlib.crc32((folder / name).read_bytes()) == value for name, value in sums.items())
    except (AttributeError, OSError, TypeError, ValueError):
        return False


def checkpoint_tensors(
    lora: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, average
) -> dict[str, dict[str, torch.Tensor]]:
    """A checkpoint's tensors by file: LoRA weights, AdamW's moments, the moving average if there is one. Every process
    must call this, see `sdseg.training.processes.whole_copy`."""
    import torch

    tensors = {
        "lora.safetensors": {name: whole_copy(value) for name, value in lora.items()},
        "optimizer.safetensors": {
            f"{name}/{key}": whole_copy(torch.as_tensor(moment))
            for name, value in lora.items()
            for key, moment in optimizer.state[value].items()
        },
    }
    if average:
        shadows = zip(lora, average.shadow_params, strict=True)
        tensors[AVERAGE_FILE] = {name: whole_copy(value) for name, value in shadows}
    return tensors


def save_checkpoint(
    output: Path,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    record: dict,
    total_limit: int,
    recent: Sequence[float] = (),
) -> None:
    """Writes `checkpoint_tensors`, the step and the losses since the last row of stats.jsonl; then removes the oldest
    checkpoints beyond `total_limit`.

    Every draw and the learning rate are functions of the step, so there is no other state.
    """
    folder = output / f"checkpoint-{step}"
    partial = output / f".checkpoint-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(folder):
            write_checkpoint(partial, step, tensors, record, recent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    for old in checkpoint_steps(output)[:-total_limit]:
        shutil.rmtree(output / f"checkpoint-{old}")


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], record: dict, recent: Sequence[float]
) -> None:
    """The files of a checkpoint, into a new folder; the last one holds the others' checksums."""
    from safetensors.torch import save_file

    folder.mkdir()
    for name, content in tensors.items():
        save_file(content, folder / name)
    state = {
        "step": step,
        "global_batch": record["global_batch"],
        "samples_seen": step * record["global_batch"],
        "recent_losses": list(recent),
        "crc32": {file.name: zlib.crc32(file.read_bytes()) for file in sorted(folder.iterdir())},
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """A file of a checkpoint; ConfigError where it is damaged, which those without checksums do not show before."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{file} is damaged ({first_line(error)}); remove {file.parent}, to go on from the checkpoint before it"
        ) from error


def load_checkpoint(
    folder: Path, lora: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, average
) -> list[float]:
    """Reads what `save_checkpoint` wrote into LoRA weights, optimiser and moving average (or None), sharded alike.

    Returns:
        The losses since the last row of stats.jsonl.
    """
    import torch

    weights, moments = load_tensors(folder / "lora.safetensors"), load_tensors(folder / "optimizer.safetensors")
    if weights.keys() != lora.keys():
        raise ConfigError(f"{folder} does not hold this run's LoRA layers; pass --overwrite_output_dir to start afresh")
    with torch.no_grad():
        for name, value in lora.items():
            value.copy_(shard_like(value, weights[name]))
    state: dict[int, dict] = {index: {} for index in range(len(lora))}
    indices = {name: index for index, name in enumerate(lora)}
    for key, moment in moments.items():
        name, kind = key.rsplit("/", 1)
        state[indices[name]][kind] = shard_like(lora[name], moment)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})  # which moves each to its device
    counters = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if average:
        shadows = load_tensors(folder / AVERAGE_FILE)
        average.shadow_params = [shard_like(value, shadows[name]) for name, value in lora.items()]
        average.optimization_step = counters["step"]  # one update of the average a step
    return counters.get("recent_losses", [])
