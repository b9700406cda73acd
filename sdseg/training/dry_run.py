"""What a run will take, found by trying a few steps, of which nothing is kept: `train.py --dry_run`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

from sdseg.training.config import TrainingConfig
from sdseg.training.processes import on_main_process

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

TRIED_STEPS = 3  # besides a first one, which is not timed
MOST_SAMPLES = 256  # from which the search for the largest batch starts


class Stopwatch:
    """Adds up the seconds spent inside `with`."""

    seconds = 0.0

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *_):
        self.seconds += time.monotonic() - self._started


def largest_batch(attempt: Callable[[int], None], most: int = MOST_SAMPLES) -> int:
    """The largest number of samples up to `most`, found within a tenth, with which `attempt` does not run out of the
    device's memory; 0 where even one is too many."""
    from accelerate.utils import find_executable_batch_size

    def tried_with(samples: int) -> int:
        attempt(samples)
        return samples

    try:
        return find_executable_batch_size(tried_with, starting_batch_size=most)()
    except RuntimeError as error:
        if "reached zero" not in str(error):
            raise
        return 0


def repeated(batch: dict[str, torch.Tensor], samples: int) -> dict[str, torch.Tensor]:
    """A batch of as many samples, those of `batch` over and over."""
    return {key: value[[k % len(value) for k in range(samples)]] for key, value in batch.items()}


@dataclass(frozen=True)
class Trial:
    """Steps of a run, of which nothing is kept but what they took. AdamW holds its moments already."""

    accelerator: Accelerator
    prepared: Callable[[dict], dict]  # a batch as the loader gives it -> on the device, with its latents
    backward: Callable[[dict], None]  # both passes of a prepared batch, in this process alone
    accumulate: Callable[[Iterator[dict]], tuple[torch.Tensor, torch.Tensor]]  # both passes of a whole step; losses
    update: Callable[[], None]  # the optimiser's part of a step
    last_timestep: int

    def run(self, config: TrainingConfig, batches: Iterator[dict]) -> dict[str, float]:
        """Takes a first step, which is not timed, then TRIED_STEPS more. On a GPU it first tells the largest batch
        that fits, unless FSDP shards the run.

        Args:
            batches: as the loader gives them; no more are taken than are tried.

        Returns:
            seconds_per_step; peak_memory: GiB, of the device on a GPU, else of this process; loss: of the first step.
        """
        import torch

        gpu, accumulation = self.accelerator.device.type == "cuda", config.gradient_accumulation_steps
        through_pixels = config.pixel_loss_share > 0
        batches = islice(batches, (1 + TRIED_STEPS) * accumulation)
        if config.cache_latents:  # the run does not encode in its steps
            batches = iter([{key: value.cpu() for key, value in self.prepared(batch).items()} for batch in batches])
        first = list(islice(batches, accumulation))
        alone = self.accelerator.distributed_type.value != "FSDP"
        if gpu and alone:  # else no process can try a batch by itself
            on_main_process(self.accelerator, lambda: self.tell_largest_batch(first[0], through_pixels))
            torch.cuda.reset_peak_memory_stats()
        loss = self.step(iter(first))
        if through_pixels:  # what takes most memory; few of so few steps would hold it
            self.step(self.all_through_pixels(batch) for batch in first)
        started = time.monotonic()
        for _ in range(TRIED_STEPS):
            self.step(batches)
        if gpu:
            torch.cuda.synchronize()
        seconds = (time.monotonic() - started) / TRIED_STEPS
        used = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds_per_step": seconds, "peak_memory": used / 2**30, "loss": loss}

    def step(self, batches: Iterator[dict]) -> float:
        """One optimiser step; its mean loss."""
        loss = self.accumulate(batches)[0].mean().item()
        self.update()
        return loss

    def all_through_pixels(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch as it is where the pixel loss is drawn for every sample."""
        import torch

        return batch | {
            "through_pixels": torch.ones_like(batch["through_pixels"]),
            "timestep": torch.full_like(batch["timestep"], self.last_timestep),
        }

    def tell_largest_batch(self, batch: dict[str, torch.Tensor], through_pixels: bool) -> None:
        """Prints it; `batch` is repeated to the sizes that are tried."""
        if through_pixels:
            batch = self.all_through_pixels(batch)

        found = largest_batch(lambda samples: self.backward(self.prepared(repeated(batch, samples))))
        print(f"largest train_batch_size that fits: {found}{' or more' if found == MOST_SAMPLES else ''}")


def dry_run_report(
    config: TrainingConfig,
    record: dict,
    accelerator: Accelerator,
    counts: dict[str, int],
    pairs: int,
    first_step: int,
    found: dict[str, float],
) -> str:
    """The resolved settings, and below them what was found, as lines of text.

    Args:
        record: what is kept beside the settings, `global_batch` among it.
        counts: parameters by part.
        first_step: step the run would go on from.
        found: see `Trial.run`.
    """
    import yaml

    steps = config.max_train_steps - first_step
    epochs = config.max_train_steps * record["global_batch"] / pairs
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
    text = yaml.safe_dump(asdict(config) | record, sort_keys=False) + "\n"
    return text + "\n".join(f"{name:11} {value}" for name, value in lines.items()) + "\nnothing was written"
