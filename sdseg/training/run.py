"""Fine-tuning: build, loop, validate through the pipeline, save, resume. What is kept: see `run_folder`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.training.config import ConfigError, TrainingConfig
from sdseg.training.data import open_data
from sdseg.training.doctor import examine, refuse_errors
from sdseg.training.dry_run import TRIED_STEPS, Stopwatch, Trial, dry_run_report
from sdseg.training.hub import check_hub, push
from sdseg.training.model_card import write_adapter
from sdseg.training.processes import (
    StopFlag,
    StoppedBySignal,
    check_launch,
    keep_process_group,
    on_main_process,
    refuse_deepspeed,
    whole_copy,
)
from sdseg.training.run_folder import (
    checkpoint_tensors,
    load_checkpoint,
    make_run_folder,
    save_checkpoint,
    step_to_resume,
    stored_colours,
    tracker_names,
    write_environment,
)
from sdseg.training.validation import validate

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from diffusers import DDIMScheduler

    from sdseg.adapter import Adapter
    from sdseg.data import LatentSource, Source, TrainingStream
    from sdseg.model import Base


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; names the step and the samples."""


# ---------------------------------------------------------------------------------------------- the run


def train(config: TrainingConfig) -> None:
    """Train to `max_train_steps`, going on from the newest checkpoint in `output_dir` where there is one.

    Raises:
        UserError: bad settings, data or base, before anything is written.
        NonFiniteLoss, StoppedBySignal: see there.
    """
    import numpy as np
    import torch
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from tqdm.auto import tqdm

    from sdseg.adapter import load_lora_weights, read_adapter
    from sdseg.data import LatentSource, MicroBatches, encode_batch
    from sdseg.model import add_lora, inference_scheduler, load_base
    from sdseg.training.objective import training_loss

    stop = StopFlag()
    output = Path(config.output_dir)
    refuse_deepspeed()
    pictures, held_out = open_data(config)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(output),
    )
    check_launch(accelerator, config)
    if torch.distributed.is_initialized():
        keep_process_group(torch.distributed.group.WORLD)
    if config.report_to != "none" and not accelerator.log_with:  # Accelerate passes over it without a word
        raise ConfigError(f"report_to is {config.report_to}, which is not installed; install it, or report to none")
    samples_per_pass = config.train_batch_size * accelerator.num_processes
    global_batch = samples_per_pass * config.gradient_accumulation_steps
    record = {"global_batch": global_batch, "data_digest": pictures.digest()}
    first_step = step_to_resume(output, config, record)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    if first_step >= config.max_train_steps and (config.dry_run or (output / "adapter").is_dir()):
        accelerator.print(f"{output} is finished: {first_step} steps; its adapter is {output / 'adapter'}")
        if config.push_to_hub and not config.dry_run:
            on_main_process(accelerator, lambda: print(f"adapter uploaded to {push(config, output / 'adapter')}"))
        accelerator.end_training()
        return
    on_main_process(accelerator, lambda: refuse_errors(examine(pictures)))

    base = load_base(config.pretrained_model_name_or_path, revision=config.revision)
    factor = base.vae_scale_factor
    if config.resolution % factor:
        raise ConfigError(f"resolution is {config.resolution}; it must be a multiple of {factor} for this base")
    colours = None
    if pictures.target.kind == "classes":
        record["classes"] = (first_step and stored_colours(output)) or pictures.target.painted(base.vae)
        colours = np.array(list(record["classes"].values()), np.uint8)
    base.vae.to(accelerator.device)
    base.unet.to(accelerator.device)
    if config.mixed_precision == "bf16":
        base.unet.bfloat16()
    if config.enable_slicing:
        base.vae.enable_slicing()
    if config.channels_last:  # before LoRA's layers, whose weights and moments have one layout in memory and in files
        base.unet.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        if config.pixel_loss_share:  # backward through the decoder too
            base.vae.enable_gradient_checkpointing()
    peft_model = add_lora(
        base,
        rank=config.rank,
        lora_alpha=config.lora_alpha,
        targets=config.lora_targets,
        seed=config.seed,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
    if config.init_adapter:
        earlier = read_adapter(config.init_adapter)
        refuse_other_start(earlier, base, config)
        load_lora_weights(peft_model, earlier)
    lora = trained_parameters(peft_model)
    optimizer = adamw(lora, config)
    if config.torch_compile:
        base.unet.compile(dynamic=False)  # in place, so that no name changes; every batch has one shape

    def begin():
        if config.push_to_hub:
            check_hub(config)
        if not config.dry_run:
            make_run_folder(output, config, record, first_step)
            write_environment(output, accelerator, first_step)

    on_main_process(accelerator, begin)
    trained = sum(value.numel() for value in lora.values())
    accelerator.print(
        f"device {accelerator.device}, {accelerator.num_processes} process(es), distributed_type "
        f"{accelerator.distributed_type.value}, global batch {global_batch}; "
        f"{len(pictures)} pairs; training {trained / 1e6:.2f} M LoRA parameters of "
        f"{config.pretrained_model_name_or_path}"
    )

    source = pictures
    if config.cache_latents and not config.dry_run:
        bar = lambda items, **words: tqdm(items, disable=not accelerator.is_main_process, **words)  # noqa: E731
        keep = config.pixel_loss_share > 0
        source = LatentSource(
            pictures,
            base.vae,
            config.cached_variants,
            config.seed,
            accelerator.device,
            bar,
            keep_pixels=keep,
            directory=config.latent_cache_dir,
            place=accelerator.process_index,
            places=accelerator.num_processes,
            colours=colours,
        )
    scheduler = inference_scheduler(prediction_type=config.prediction_type)
    stream = training_stream(config, source, len(pictures), base, scheduler)
    loader = torch.utils.data.DataLoader(
        stream,
        batch_sampler=MicroBatches(
            first_step,
            first_step + 1 + TRIED_STEPS if config.dry_run else config.max_train_steps,
            config.train_batch_size,
            config.gradient_accumulation_steps,
            accelerator.num_processes,
            accelerator.process_index,
        ),
        num_workers=config.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    # Neither the loader nor the schedule goes through `prepare`: the stream already knows its process, and a
    # prepared schedule would advance once per process.
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    with warnings_off():  # one call per resumed step, before the optimiser's first
        for _ in range(first_step):
            schedule.step()
    unet, optimizer = accelerator.prepare(base.unet, optimizer)
    lora = trained_parameters(peft_model)  # which FSDP has put in place of those that were
    average = moving_average(lora, config.ema_decay) if config.use_ema else None
    recent: list[float] = []  # losses since the last row
    if first_step:
        recent = load_checkpoint(output / f"checkpoint-{first_step}", lora, optimizer, average)
        accelerator.print(f"going on from {output / f'checkpoint-{first_step}'}")
    prompt_embedding = base.prompt_embedding.to(accelerator.device)
    batches, waited = iter(loader), Stopwatch()

    def on_device(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = {key: value.to(accelerator.device) for key, value in batch.items()}
        return batch if "image_latents" in batch else encode_batch(batch, base.vae, accelerator.device, colours)

    def sample_losses(network, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            return training_loss(network, base.vae, scheduler, batch, prompt_embedding, colours)

    def accumulate(batches: Iterator[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step's forward and backward passes: losses and pair indices of this process's samples."""
        losses, indices = [], []
        for micro in range(config.gradient_accumulation_steps):
            with waited:
                batch = next(batches)
            batch = on_device(batch)
            last = micro == config.gradient_accumulation_steps - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(unet):
                found = sample_losses(unet, batch)
                accelerator.backward(found.mean())
            losses.append(found.detach())
            indices.append(batch["index"])
        return torch.cat(losses), torch.cat(indices)

    def update() -> None:
        accelerator.clip_grad_norm_(lora.values(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    if config.dry_run:
        unet.train()
        if not first_step:  # a step of nothing, so that AdamW has its moments from the first pass on
            for value in lora.values():
                value.grad = torch.zeros_like(value)
            update()

        def backward_alone(batch: dict[str, torch.Tensor]) -> None:
            with not_compiled(config):
                accelerator.backward(sample_losses(accelerator.unwrap_model(unet), batch).mean())

        trial = Trial(
            accelerator,
            prepared=on_device,
            backward=backward_alone,
            accumulate=accumulate,
            update=update,
            last_timestep=scheduler.config.num_train_timesteps - 1,
        )
        found = trial.run(config, batches)
        counts = {"trained": trained, "frozen UNet": sum(p.numel() for p in base.unet.parameters()) - trained}
        counts["frozen VAE"] = sum(p.numel() for p in base.vae.parameters())
        accelerator.print(dry_run_report(config, record, accelerator, counts, len(pictures), first_step, found))
        accelerator.end_training()
        return
    if config.report_to != "none":
        project, words = tracker_names(config.report_to, output)
        settings = {key: str(value) for key, value in (asdict(config) | record).items()}
        accelerator.init_trackers(project, settings, words)

    progress = tqdm(
        total=config.max_train_steps,
        initial=first_step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    unet.train()
    started = time.monotonic()
    with stop.listening(), progress:
        for step in range(first_step, config.max_train_steps):
            losses, indices = accumulate(batches)
            flags = torch.full_like(losses, stop.value())
            gathered = accelerator.gather(torch.stack([losses, indices.to(losses), flags], dim=1)).cpu()
            refuse_non_finite(gathered, pictures, step)
            learning_rate = schedule.get_last_lr()[0]
            update()
            schedule.step()
            if average:
                average.step(lora.values())

            done = step + 1
            finished = done == config.max_train_steps
            loss = gathered[:, 0].mean().item()
            if accelerator.is_main_process:
                recent.append(loss)
            rate = (done - first_step) * global_batch / (time.monotonic() - started)
            progress.update()
            progress.set_postfix(loss=f"{loss:.4f}", images_per_second=f"{rate:.1f}", refresh=False)
            if accelerator.is_main_process and (done % config.logging_steps == 0 or finished):
                row = {"step": done, "loss": loss, "mean_loss": sum(recent) / len(recent)}
                row |= {"learning_rate": learning_rate, "images_per_second": round(rate, 2)}
                row["waiting_for_data"] = round(waited.seconds / (time.monotonic() - started), 4)
                log(accelerator, output, row)
                recent.clear()
            stop_signal = int(gathered[:, 2].max())
            validating = held_out and (done % config.validation_steps == 0 or finished)
            if validating and (finished or not stop_signal):
                # FSDP's processes draw together, and none can leave off alone; the last validation is never broken off
                stopped = (lambda: 0) if finished or accelerator.is_fsdp2 else stop.value
                if accelerator.is_main_process or accelerator.is_fsdp2:
                    with weights_of(average, lora), not_compiled(config):
                        figures = validate(accelerator, unet, base, held_out, config, output, done, colours, stopped)
                    if accelerator.is_main_process and figures:
                        named = {f"validation_{key}": value for key, value in figures.items()}
                        log(accelerator, output, {"step": done} | named)
                flags = torch.tensor([stop.value()], device=accelerator.device)
                stop_signal = int(accelerator.gather(flags).max())
            if done % config.checkpointing_steps == 0 or finished or stop_signal:
                tensors = checkpoint_tensors(lora, optimizer, average)
                if accelerator.is_main_process:
                    save_checkpoint(output, done, tensors, record, config.checkpoints_total_limit, recent)
                accelerator.wait_for_everyone()
            if stop_signal and not finished:
                accelerator.end_training()
                raise StoppedBySignal(stop_signal, done)

    with weights_of(average, lora):
        weights = {name: whole_copy(value) for name, value in lora.items()}

    def finish():
        write_adapter(output, peft_model, base, config, record, len(pictures), len(held_out or ()), weights)
        print(f"adapter written to {output / 'adapter'}")
        if config.push_to_hub:
            print(f"adapter uploaded to {push(config, output / 'adapter')}")

    on_main_process(accelerator, finish)
    accelerator.end_training()


def refuse_other_start(earlier: Adapter, base: Base, config: TrainingConfig) -> None:
    """Weights of LoRA mean another update on another base, at another scale, or of another prediction."""
    from sdseg.model import same_fingerprint

    if not same_fingerprint(earlier.config.fingerprint, base.fingerprint):
        raise ConfigError(
            f"init_adapter {config.init_adapter} was trained on base {earlier.config.pretrained_model_name_or_path}, "
            f"whose weights differ from those of {base.name}; set pretrained_model_name_or_path to that base"
        )
    had = json.loads((earlier.path / "adapter_config.json").read_text(encoding="utf-8"))
    had["prediction_type"] = earlier.scheduler.config.prediction_type
    for key in ("prediction_type", "lora_alpha", "use_rslora"):
        if getattr(config, key) != had[key]:
            raise ConfigError(
                f"{key} is {getattr(config, key)}, but init_adapter {config.init_adapter} has {had[key]}; set {key} to "
                f"{had[key]}"
            )


def training_stream(
    config: TrainingConfig, source: Source | LatentSource, pairs: int, base: Base, scheduler: DDIMScheduler
) -> TrainingStream:
    """The endless stream of a run's samples; an epoch is `pairs` long."""
    from sdseg.data import TrainingStream

    size = config.resolution // base.vae_scale_factor
    return TrainingStream(
        source,
        pairs,
        seed=config.seed,
        latent_shape=(base.vae.config.latent_channels, size, size),
        num_train_timesteps=scheduler.config.num_train_timesteps,
        timestep_power=config.timestep_power,
        noise_strength=config.multires_noise_strength,
        pixel_loss_share=config.pixel_loss_share,
    )


def trained_parameters(peft_model) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in peft_model.named_parameters() if value.requires_grad}


def adamw(lora: dict[str, torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) in one kernel over all LoRA weights."""
    import torch

    return torch.optim.AdamW(
        lora.values(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=True,
    )


def moving_average(lora: dict[str, torch.nn.Parameter], decay: float):
    """diffusers' moving average of the LoRA weights, on their device."""
    from diffusers.training_utils import EMAModel

    return EMAModel(lora.values(), decay=decay)


@contextlib.contextmanager
def weights_of(average, lora: dict[str, torch.nn.Parameter]):
    """The LoRA layers hold their moving average inside, where there is one."""
    if average is None:
        yield
        return
    average.store(lora.values())
    average.copy_to(lora.values())
    try:
        yield
    finally:
        average.restore(lora.values())


def not_compiled(config: TrainingConfig):
    """Pictures of validation and batches of the search for the largest have many shapes; each would be compiled for."""
    import torch

    return torch.compiler.set_stance("force_eager") if config.torch_compile else contextlib.nullcontext()


@contextlib.contextmanager
def warnings_off():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_non_finite(gathered: torch.Tensor, pictures: Source, step: int) -> None:
    """gathered: [samples, 3] of loss, pair index, stop flag, from all processes."""
    bad = gathered[~gathered[:, 0].isfinite()]
    if len(bad):
        names = ", ".join(pictures.name(int(index)) for index in bad[:8, 1])
        raise NonFiniteLoss(
            f"the loss is {bad[0, 0].item()} at step {step} for {len(bad)} of {len(gathered)} samples ({names}); look "
            "at these pairs, or lower learning_rate; the last checkpoint is from before this step"
        )


def log(accelerator: Accelerator, output: Path, row: dict) -> None:
    with open(output / "stats.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    accelerator.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
