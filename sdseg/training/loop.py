"""The training loop: optimiser steps, with rows of figures, validation and checkpoints when they are due."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sdseg.outputs import held, naming_full_disk
from sdseg.processes import on_main_process, on_main_process_within
from sdseg.training.batches import open_batches
from sdseg.training.config import ConfigError, TrainingConfig
from sdseg.training.dry_run import dry_run
from sdseg.training.hub import push
from sdseg.training.model_card import write_adapter
from sdseg.training.processes import StoppedBySignal, whole_copy
from sdseg.training.run import Run, Stopwatch, float32_by_default, not_compiled, prepare
from sdseg.training.run_folder import (
    checkpoint_tensors,
    make_run_folder,
    save_checkpoint,
    step_to_resume,
    tracker_names,
    write_environment,
)
from sdseg.training.validation import validate
from sdseg.training.weights import averaged

if TYPE_CHECKING:
    import torch

    from sdseg.data import Source


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; names the step and the samples."""


def train(config: TrainingConfig) -> None:
    """Train to `max_train_steps`, going on from the newest checkpoint in `output_dir` where there is one.

    Raises:
        UserError: bad settings, data or base, before anything is written.
        NonFiniteLoss, StoppedBySignal: see there.
    """
    with float32_by_default():
        run = prepare(config)
        if run is None:
            return
        if config.dry_run:
            dry_run(run)
        else:
            with on_main_process_within(run.accelerator, held(run.output)):
                loop(run)
                finish(run)
        run.accelerator.end_training()


def loop(run: Run) -> None:
    """All steps that are left.

    Raises:
        NonFiniteLoss: at a step, whose update is not taken.
        StoppedBySignal: after the step at which a signal was seen; it is saved.
    """
    from tqdm.auto import tqdm

    config, main = run.config, run.accelerator.is_main_process
    begin(run)
    progress = tqdm(
        total=config.max_train_steps, initial=run.first_step, desc="training", unit="step", disable=not main
    )
    run.unet.train()
    stepping = Stopwatch()  # the time that steps take, without validation and checkpoints
    with run.stop.listening(), progress:
        for step in range(run.first_step, config.max_train_steps):
            with stepping:
                samples = gather_samples(run, *run.accumulate())
                refuse_non_finite(samples, run.pictures, step)
                row = {"loss": samples[:, 0].mean().item(), "learning_rate": run.schedule.get_last_lr()[0]}
                run.update()
            done = step + 1
            finished = done == config.max_train_steps
            row["images_per_second"] = (done - run.first_step) * run.record["global_batch"] / stepping.seconds
            row["waiting_for_data"] = run.waited.seconds / stepping.seconds
            progress.update()
            progress.set_postfix(
                loss=f"{row['loss']:.4f}", images_per_second=f"{row['images_per_second']:.1f}", refresh=False
            )
            log_step(run, done, row)
            signal_number = int(samples[:, 2].max())
            if run.held_out and is_due(run, done, config.validation_steps) and (finished or not signal_number):
                signal_number = validate_and_log(run, done)
            if is_due(run, done, config.checkpointing_steps) or signal_number:
                save(run, done)
            if signal_number and not finished:
                run.accelerator.end_training()
                raise StoppedBySignal(signal_number, done)


def finish(run: Run) -> None:
    """Writes the adapter, and uploads it where that is wanted."""
    with averaged(run.lora, run.average):
        weights = {name: whole_copy(value) for name, value in run.lora.items()}

    def write() -> None:
        with naming_full_disk(run.output / "adapter"):
            write_adapter(run, weights)
        print(f"adapter written to {run.output / 'adapter'}")
        if run.config.push_to_hub:
            print(f"adapter uploaded to {push(run.config, run.output / 'adapter')}")

    on_main_process(run.accelerator, write)


def begin(run: Run) -> None:
    """The run folder, the batches (all pairs are encoded first where latents are cached) and the tracker."""
    config, accelerator = run.config, run.accelerator

    def write() -> None:
        if step_to_resume(run.output, config, run.record) != run.first_step:  # before the folder was held
            raise ConfigError(f"output_dir {run.output}: another run wrote it meanwhile; run the same command again")
        make_run_folder(run.output, config, run.record, run.first_step)
        write_environment(run.output, accelerator, run.first_step)

    on_main_process(accelerator, write)
    run.batches = open_batches(run)
    if config.report_to != "none":
        project, options = tracker_names(config.report_to, run.output)
        settings = {key: str(value) for key, value in (asdict(config) | run.record).items()}
        accelerator.init_trackers(project, settings, options)


def is_due(run: Run, done: int, cadence: int) -> bool:
    """Whether what is done every `cadence` steps, and after the last one, is due after so many steps."""
    return done % cadence == 0 or done == run.config.max_train_steps


def gather_samples(run: Run, losses: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """[samples of all processes, 3] on the CPU: loss, index of the pair, number of the signal to stop for or 0."""
    import torch

    flags = torch.full_like(losses, run.stop.value())
    return run.accelerator.gather(torch.stack([losses, indices.to(losses), flags], dim=1)).cpu()


def refuse_non_finite(samples: torch.Tensor, pictures: Source, step: int) -> None:
    """Raises NonFiniteLoss; `samples` as `gather_samples` gives them."""
    bad = samples[~samples[:, 0].isfinite()]
    if len(bad):
        names = ", ".join(pictures.name(int(index)) for index in bad[:8, 1])
        raise NonFiniteLoss(
            f"the loss is {bad[0, 0].item()} at step {step} for {len(bad)} of {len(samples)} samples ({names}); look "
            "at these pairs, or lower learning_rate; the last checkpoint is from before this step"
        )


def log_step(run: Run, done: int, row: dict[str, float]) -> None:
    """Notes the step's loss and, every `logging_steps`, logs a row with the mean since the last one."""
    if not run.accelerator.is_main_process:
        return
    run.recent_losses.append(row["loss"])
    if not is_due(run, done, run.config.logging_steps):
        return
    log(
        run,
        {
            "step": done,
            "loss": row["loss"],
            "mean_loss": sum(run.recent_losses) / len(run.recent_losses),
            "learning_rate": row["learning_rate"],
            "images_per_second": round(row["images_per_second"], 2),
            "waiting_for_data": round(row["waiting_for_data"], 4),
        },
    )
    run.recent_losses.clear()


def log(run: Run, row: dict[str, Any]) -> None:
    """A row of stats.jsonl, and the same figures for the tracker."""
    path = run.output / "stats.jsonl"
    with naming_full_disk(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    run.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])


def validate_and_log(run: Run, done: int) -> int:
    """Validates with the averaged weights; returns the number of a signal to stop for that came meanwhile, or 0.

    A signal breaks a validation off, but not the last one, nor one under FSDP: its processes draw together, and none
    can leave alone.
    """
    import torch

    accelerator = run.accelerator
    breakable = done < run.config.max_train_steps and not accelerator.is_fsdp2
    with averaged(run.lora, run.average), not_compiled(run.config):
        figures = validate(run, done, run.stop.value if breakable else lambda: 0)
    if accelerator.is_main_process and figures:
        log(run, {"step": done} | {f"validation_{key}": value for key, value in figures.items()})
    flags = torch.tensor([run.stop.value()], device=accelerator.device)
    return int(accelerator.gather(flags).max())


def save(run: Run, done: int) -> None:
    """Writes a checkpoint; every process takes part."""
    tensors = checkpoint_tensors(run.lora, run.optimizer, run.average)
    limit = run.config.checkpoints_total_limit
    on_main_process(
        run.accelerator,
        lambda: save_checkpoint(run.output, done, tensors, run.record, limit, run.recent_losses),
    )
