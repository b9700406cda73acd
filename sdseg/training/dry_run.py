"""What a run will take, found by trying a few steps and keeping nothing of them: `train.py --dry_run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from sdseg.memory import peak_memory
from sdseg.processes import on_main_process
from sdseg.training.batches import open_batches
from sdseg.training.run import Run, not_compiled

if TYPE_CHECKING:
    import torch

TRIED_STEPS = 3  # besides a first one, which is not timed
MOST_SAMPLES = 256  # from which the search for the largest batch starts


def dry_run(run: Run) -> None:
    """Prints settings, parameters, memory, steps and hours of a run. Its weights are changed by the trial."""
    run.unet.train()
    if not run.first_step:  # a step of nothing, so that AdamW has its moments from the first pass on
        import torch

        for value in run.lora.values():
            value.grad = torch.zeros_like(value)
        run.update()
    run.batches = open_batches(run, last_step=run.first_step + 1 + TRIED_STEPS)
    run.accelerator.print(report(run, try_steps(run)))


def try_steps(run: Run) -> dict[str, float]:
    """Takes a first step, which is not timed, then TRIED_STEPS more. On a GPU it first prints the largest batch that
    fits, unless FSDP shards the run: there no process can try a batch by itself.

    Returns:
        seconds_per_step; peak_memory: GiB, of the device on a GPU, else of this process; loss: of the first step.
    """
    import torch

    config, gpu = run.config, run.accelerator.device.type == "cuda"
    accumulation, through_pixels = config.gradient_accumulation_steps, config.pixel_loss_share > 0
    batches = islice(run.batches, (1 + TRIED_STEPS) * accumulation)
    if config.cache_latents:  # the run does not encode in its steps
        batches = iter([{key: value.cpu() for key, value in run.encode(batch).items()} for batch in batches])
    first = list(islice(batches, accumulation))
    if gpu and run.accelerator.distributed_type.value != "FSDP":
        on_main_process(run.accelerator, lambda: print_largest_batch(run, first[0]))
        torch.cuda.reset_peak_memory_stats()
    loss = step(run, iter(first))
    if through_pixels:  # what takes most memory, and so few steps may not draw it
        step(run, (all_through_pixels(run, batch) for batch in first))
    started = time.monotonic()
    for _ in range(TRIED_STEPS):
        step(run, batches)
    if gpu:
        torch.cuda.synchronize()
    seconds = (time.monotonic() - started) / TRIED_STEPS
    used = torch.cuda.max_memory_allocated() if gpu else peak_memory()
    return {"seconds_per_step": seconds, "peak_memory": used / 2**30, "loss": loss}


def step(run: Run, batches: Iterator[dict[str, torch.Tensor]]) -> float:
    """One optimiser step on the next of these batches; its mean loss."""
    run.batches = batches
    loss = run.accumulate()[0].mean().item()
    run.update()
    return loss


def all_through_pixels(run: Run, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch as it is where the pixel loss is drawn for every sample."""
    import torch

    return batch | {
        "through_pixels": torch.ones_like(batch["through_pixels"]),
        "timestep": torch.full_like(batch["timestep"], run.scheduler.config.num_train_timesteps - 1),
    }


def print_largest_batch(run: Run, batch: dict[str, torch.Tensor]) -> None:
    """Prints the largest `train_batch_size` whose two passes fit; `batch` is repeated to the sizes that are tried."""
    if run.config.pixel_loss_share > 0:
        batch = all_through_pixels(run, batch)

    def attempt(samples: int) -> None:
        losses = run.losses(run.accelerator.unwrap_model(run.unet), run.encode(repeated(batch, samples)))
        run.accelerator.backward(losses.mean())

    with not_compiled(run.config):
        largest = largest_batch(attempt)
    print(f"largest train_batch_size that fits: {largest}{' or more' if largest == MOST_SAMPLES else ''}")


def largest_batch(attempt: Callable[[int], None], most: int = MOST_SAMPLES) -> int:
    """The largest number of samples up to `most`, found within a tenth, with which `attempt` does not run out of the
    device's memory; 0 where even one is too many."""
    from accelerate.utils import find_executable_batch_size

    def try_with(samples: int) -> int:
        attempt(samples)
        return samples

    try:
        return find_executable_batch_size(try_with, starting_batch_size=most)()
    except RuntimeError as error:
        if "reached zero" not in str(error):
            raise
        return 0


def repeated(batch: dict[str, torch.Tensor], samples: int) -> dict[str, torch.Tensor]:
    """A batch of so many samples, those of `batch` over and over."""
    return {key: value[[k % len(value) for k in range(samples)]] for key, value in batch.items()}


def report(run: Run, figures: dict[str, float]) -> str:
    """The resolved settings and, below them, the figures of `try_steps`, as lines of text."""
    import yaml

    config, accelerator, global_batch = run.config, run.accelerator, run.record["global_batch"]
    trained = sum(value.numel() for value in run.lora.values())
    frozen_unet = sum(value.numel() for value in run.base.unet.parameters()) - trained
    frozen_vae = sum(value.numel() for value in run.base.vae.parameters())
    counts = {"trained": trained, "frozen UNet": frozen_unet, "frozen VAE": frozen_vae}
    steps, pairs = config.max_train_steps - run.first_step, len(run.pictures)
    hours = steps * figures["seconds_per_step"] / 3600
    kind = "device memory" if accelerator.device.type == "cuda" else "memory of this process"
    lines = {
        "devices": f"{accelerator.num_processes} x {accelerator.device.type}, {accelerator.distributed_type.value}",
        "parameters": ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items()),
        "data": f"{pairs} pairs; {config.max_train_steps * global_batch / pairs:.1f} epochs of {global_batch} samples "
        "a step",
        "first loss": f"{figures['loss']:.4f}",
        "step": f"{figures['seconds_per_step']:.2f} s, peak {kind} {figures['peak_memory']:.2f} GiB",
        "to do": f"{steps} steps from step {run.first_step}, about {hours:.1f} hours without validation",
    }
    text = yaml.safe_dump(asdict(config) | run.record, sort_keys=False) + "\n"
    return text + "\n".join(f"{name:11} {value}" for name, value in lines.items()) + "\nnothing was written"
