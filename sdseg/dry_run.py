"""What a run will take, found by trying a few steps: `train.py --dry_run`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

TRIED_STEPS = 3  # besides a first one, which is not timed


class Stopwatch:
    """Adds up the seconds spent inside `with`."""

    seconds = 0.0

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *_):
        self.seconds += time.monotonic() - self._started


def tried(accelerator: Accelerator, accumulate: Callable, steps_left: int) -> dict[str, float]:
    """Runs `accumulate`, an optimiser step's forward and backward passes, a few times.

    Returns:
        seconds_per_step; peak_memory: GiB, of the device on a GPU, else of this process; loss: of the first pass.
    """
    import torch

    gpu = accelerator.device.type == "cuda"
    loss = accumulate()[0].mean().item()
    started, steps = time.monotonic(), min(TRIED_STEPS, steps_left - 1)
    for _ in range(steps):
        accumulate()
    if gpu:
        torch.cuda.synchronize()
    seconds = (time.monotonic() - started) / steps if steps else float("nan")
    used = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds_per_step": seconds, "peak_memory": used / 2**30, "loss": loss}


def dry_run_report(
    record: dict, accelerator: Accelerator, counts: dict[str, int], pairs: int, first_step: int, found: dict[str, float]
) -> str:
    """The resolved settings, and below them what was found, as lines of text.

    Args:
        record: the settings with `global_batch`.
        counts: parameters by part.
        first_step: step the run would go on from.
        found: see `tried`.
    """
    import yaml

    steps = record["max_train_steps"] - first_step
    epochs = record["max_train_steps"] * record["global_batch"] / pairs
    hours = steps * found["seconds_per_step"] / 3600
    kind = "device memory" if accelerator.device.type == "cuda" else "memory of this process"
    lines = {
        "devices": f"{accelerator.num_processes} x {accelerator.device.type}, {accelerator.distributed_type.value}",
        "parameters": ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items()),
        "data": f"{pairs} pairs; {epochs:.1f} epochs of {record['global_batch']} samples a step",
        "first loss": f"{found['loss']:.4f}",
        "step": f"{found['seconds_per_step']:.2f} s, peak {kind} {found['peak_memory']:.2f} GiB",
        "to do": f"{steps} steps from step {first_step}, about {hours:.1f} hours without validation",
    }
    text = yaml.safe_dump(record, sort_keys=False) + "\n"
    return text + "\n".join(f"{name:11} {value}" for name, value in lines.items()) + "\nnothing was written"
