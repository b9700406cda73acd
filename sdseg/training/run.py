"""`Run`: the state of a training run, how it is prepared from settings, and one optimiser step of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdseg.outputs import refuse_held
from sdseg.processes import on_main_process
from sdseg.training.config import ConfigError, TrainingConfig
from sdseg.training.data import open_data
from sdseg.training.doctor import examine, refuse_errors
from sdseg.training.hub import check_hub, push
from sdseg.training.processes import (
    StopFlag,
    check_launch,
    keep_process_group,
    refuse_contradictions,
    refuse_deepspeed,
)
from sdseg.training.run_folder import load_checkpoint, step_to_resume, stored_colours
from sdseg.training.unreadable import readable_data
from sdseg.training.weights import adamw, add_trained_lora, learning_rate_schedule, moving_average, trained_parameters

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from diffusers import DDIMScheduler
    from diffusers.training_utils import EMAModel
    from peft import PeftModel

    from sdseg.data import Source
    from sdseg.model import Base
    from sdseg.targets import Target


class Stopwatch:
    """Adds up the seconds spent inside `with`."""

    seconds = 0.0

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *_):
        self.seconds += time.monotonic() - self._started


@dataclass
class Run:
    """The state of a training run. Draws are no part of it: each is a function of (seed, epoch, position)."""

    config: TrainingConfig
    accelerator: Accelerator
    stop: StopFlag
    pictures: Source  # to train on
    held_out: Source | None  # to validate on
    record: dict[str, Any]  # what must not change beside the settings: global batch, data digest, colours of classes
    first_step: int  # optimiser steps taken by earlier launches
    base: Base  # on the device, with LoRA layers in its UNet
    colours: np.ndarray | None  # uint8 [classes, 3], where target is classes
    peft_model: PeftModel  # around base.unet
    scheduler: DDIMScheduler  # of noise
    unet: torch.nn.Module  # base.unet as Accelerate prepared it
    lora: dict[str, torch.nn.Parameter]  # the trained parameters by name
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler  # of the learning rate
    average: EMAModel | None  # of the LoRA weights, with use_ema
    recent_losses: list[float] = field(default_factory=list)  # main process: since the last row of stats.jsonl
    batches: Iterator[dict[str, torch.Tensor]] = iter(())  # this process's micro-batches; see `open_batches`
    waited: Stopwatch = field(default_factory=Stopwatch)  # for batches

    @property
    def output(self) -> Path:
        return Path(self.config.output_dir)

    def encode(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch as the loader gives it => on the device, with its latents; see `sdseg.data.encode_batch`."""
        from sdseg.data import encode_batch

        device = self.accelerator.device
        batch = {key: value.to(device) for key, value in batch.items()}
        return batch if "image_latents" in batch else encode_batch(batch, self.base.vae, device, self.colours)

    def losses(self, unet: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of each sample of an encoded batch, float32 [B]; see `training_loss`."""
        import torch

        from sdseg.training.objective import training_loss

        bf16 = self.config.mixed_precision == "bf16"
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bf16):
            return training_loss(unet, self.base.vae, self.scheduler, batch, self.base.prompt_embedding, self.colours)

    def accumulate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward passes of one optimiser step, over the next `gradient_accumulation_steps` batches.

        Returns:
            losses float32 [samples] and indices of pairs int64 [samples], of this process's samples.
        """
        import torch

        losses, indices = [], []
        last = self.config.gradient_accumulation_steps - 1
        for micro in range(self.config.gradient_accumulation_steps):
            with self.waited:
                batch = next(self.batches)
            batch = self.encode(batch)
            with contextlib.nullcontext() if micro == last else self.accelerator.no_sync(self.unet):
                of_samples = self.losses(self.unet, batch)
                self.accelerator.backward(of_samples.mean())
            losses.append(of_samples.detach())
            indices.append(batch["index"])
        return torch.cat(losses), torch.cat(indices)

    def update(self) -> None:
        """The rest of an optimiser step: clips the gradients, updates the weights, learning rate and moving average."""
        self.accelerator.clip_grad_norm_(self.lora.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.step(self.lora.values())


def prepare(config: TrainingConfig) -> Run | None:
    """A run before its next step, resumed from the newest checkpoint in `output_dir`; nothing is written.

    Returns:
        The run, without batches (see `open_batches`); None where `output_dir` holds it finished, which is printed.

    Raises:
        UserError: bad settings, data or base.
    """
    from sdseg.model import inference_scheduler, load_base

    stop = StopFlag()
    refuse_deepspeed()
    refuse_contradictions(config)
    opened = open_data(config)
    accelerator = start_accelerator(config)
    pictures, held_out, left_out = readable_data(config, accelerator, *opened)
    record = record_of(config, accelerator, pictures, left_out)
    if not config.dry_run:
        on_main_process(accelerator, lambda: refuse_held(Path(config.output_dir)))
    first_step = step_to_resume(Path(config.output_dir), config, record)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    if is_finished(config, first_step):
        report_finished(config, accelerator, first_step)
        return None
    on_main_process(accelerator, lambda: look_over(config, opened))

    base = load_base(config.pretrained_model_name_or_path, revision=config.revision)
    if config.resolution % base.vae_scale_factor:
        raise ConfigError(
            f"resolution is {config.resolution}; it must be a multiple of {base.vae_scale_factor} for this base"
        )
    colours = class_colours(pictures.target, base, record, Path(config.output_dir) if first_step else None)
    place_base(base, config, accelerator.device)
    peft_model = add_trained_lora(base, config)
    optimizer = adamw(trained_parameters(peft_model), config)
    if config.torch_compile:
        base.unet.compile(dynamic=False)  # in place, so that no name changes; every batch has one shape
    if config.push_to_hub:
        on_main_process(accelerator, lambda: check_hub(config))
    # The schedule does not go through Accelerate: a prepared one would advance once per process.
    schedule = learning_rate_schedule(optimizer, config, first_step)
    unet, optimizer = accelerator.prepare(base.unet, optimizer)
    lora = trained_parameters(peft_model)  # FSDP has replaced the parameters
    average = moving_average(lora, config.ema_decay) if config.use_ema else None
    scheduler = inference_scheduler(prediction_type=config.prediction_type)
    run = Run(
        config, accelerator, stop, pictures, held_out, record, first_step, base, colours, peft_model, scheduler, unet,
        lora, optimizer, schedule, average,
    )  # fmt: skip
    print_start(run)
    if first_step:
        checkpoint = run.output / f"checkpoint-{first_step}"
        run.recent_losses = load_checkpoint(checkpoint, lora, optimizer, average)
        accelerator.print(f"going on from {checkpoint}")
    return run


def look_over(config: TrainingConfig, opened: tuple[Source, Source | None]) -> None:
    """Prints the doctor's warnings; ConfigError at its first error, unless unreadable pairs have been left out."""
    findings = (finding for source in filter(None, opened) for finding in examine(source))
    refuse_errors(finding for finding in findings if not (config.max_unreadable and finding.is_error))


def start_accelerator(config: TrainingConfig) -> Accelerator:
    """Joins the processes of the launch; ConfigError for a launch or a tracker that cannot be served."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # as a number, a variable of the environment would override it
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.gradient_accumulation_steps),
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=config.output_dir,
    )
    check_launch(accelerator, config)
    if torch.distributed.is_initialized():
        keep_process_group(torch.distributed.group.WORLD)
    if config.report_to != "none" and not accelerator.log_with:  # which Accelerate silently ignores
        raise ConfigError(f"report_to is {config.report_to}, which is not installed; install it, or set it to none")
    return accelerator


def is_finished(config: TrainingConfig, first_step: int) -> bool:
    """Whether there is nothing left to do: all steps are taken and, unless nothing is to be written, the adapter is."""
    return first_step >= config.max_train_steps and (config.dry_run or (Path(config.output_dir) / "adapter").is_dir())


def report_finished(config: TrainingConfig, accelerator: Accelerator, step: int) -> None:
    """Says that the run is finished, and uploads its adapter again where that is wanted."""
    adapter = Path(config.output_dir) / "adapter"
    accelerator.print(f"{adapter.parent} is finished: {step} steps; its adapter is {adapter}")
    if config.push_to_hub and not config.dry_run:
        on_main_process(accelerator, lambda: print(f"adapter uploaded to {push(config, adapter)}"))
    accelerator.end_training()


def class_colours(target: Target, base: Base, record: dict, resumed: Path | None) -> np.ndarray | None:
    """The colours that classes are painted in, uint8 [classes, 3], which are noted in `record`; None for mattes.

    Those of a resumed run are read from its folder, since a search depends on the VAE's last bits.
    """
    import numpy as np

    if target.kind != "classes":
        return None
    record["classes"] = (resumed and stored_colours(resumed)) or target.painted(base.vae)
    return np.array(list(record["classes"].values()), np.uint8)


def place_base(base: Base, config: TrainingConfig, device: torch.device) -> None:
    """The frozen parts on their device, with the settings of memory and precision; before LoRA is put in."""
    import torch

    base.vae.to(device)
    base.unet.to(device)
    base.prompt_embedding = base.prompt_embedding.to(device)
    if config.mixed_precision == "bf16":
        base.unet.bfloat16()
    if config.enable_slicing:
        base.vae.enable_slicing()
    if config.channels_last:  # not LoRA's layers: their weights and moments have one layout in memory and in files
        base.unet.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        if config.pixel_loss_share:  # whose backward pass goes through the decoder
            base.vae.enable_gradient_checkpointing()


def record_of(config: TrainingConfig, accelerator: Accelerator, pictures: Source, left_out: list[str]) -> dict:
    """What must not change beside the settings when the run is resumed; see `sdseg.training.run_folder`."""
    return {
        "global_batch": config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps,
        "data_digest": pictures.digest(),
        "data_checksum": pictures.checksum(),
    } | ({"unreadable": left_out} if left_out else {})


def print_start(run: Run) -> None:
    config, accelerator = run.config, run.accelerator
    trained = sum(value.numel() for value in run.lora.values())
    accelerator.print(
        f"device {accelerator.device}, {accelerator.num_processes} process(es), distributed_type "
        f"{accelerator.distributed_type.value}, global batch {run.record['global_batch']}; "
        f"{len(run.pictures)} pairs; training {trained / 1e6:.2f} M LoRA parameters of "
        f"{config.pretrained_model_name_or_path}"
    )


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """What names no precision is float32 (initial LoRA weights, noise), whatever the caller's default is."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def not_compiled(config: TrainingConfig):
    """A context without `torch.compile`: validation and the search for the largest batch have many shapes, and each
    would be compiled for."""
    import torch

    return torch.compiler.set_stance("force_eager") if config.torch_compile else contextlib.nullcontext()
