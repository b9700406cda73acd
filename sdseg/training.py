"""Fine-tuning: build, loop, validate through the pipeline, save, resume. What is kept: see `sdseg.run_folder`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.config import ConfigError, TrainingConfig, parse_training_config
from sdseg.doctor import examine
from sdseg.dry_run import Stopwatch, dry_run_report, tried
from sdseg.hub import check_hub, push
from sdseg.model_card import write_adapter
from sdseg.run_folder import (
    load_checkpoint,
    make_run_folder,
    save_checkpoint,
    step_to_resume,
    stored_colours,
    write_environment,
)
from sdseg.targets import open_target
from sdseg.validation import validate

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from sdseg.adapter import Adapter
    from sdseg.data import Source
    from sdseg.doctor import Finding
    from sdseg.model import Base


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; names the step and the samples."""


class StoppedBySignal(Exception):
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
        self.exit_code = 128 + signal_number


def main(argv: list[str]) -> int:
    """Run `train.py`; returns the exit code: 0 done, 1 failed in training, 2 bad input, 128 + n signal n."""
    try:
        config = parse_training_config(argv)
        train(config)
    except StoppedBySignal as stop:
        print(f"{stop}; a checkpoint is saved, run the same command to go on", file=sys.stderr)
        return stop.exit_code
    except NonFiniteLoss as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that is acted on at a step boundary.

    A launcher that is killed does not pass its signal on, so a process whose launcher is gone stops too.
    A second SIGINT interrupts at once.
    """

    def __init__(self):
        self.signal_number = 0
        launched = "LOCAL_RANK" in os.environ or "ACCELERATE_DYNAMO_BACKEND" in os.environ
        self._parent = os.getppid() if launched else None

    @contextlib.contextmanager
    def listening(self):
        def note(signal_number, _frame):
            if signal_number == signal.SIGINT and self.signal_number:
                raise KeyboardInterrupt
            self.signal_number = signal_number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def value(self) -> int:
        if not self.signal_number and self._parent is not None and os.getppid() != self._parent:
            self.signal_number = signal.SIGTERM
        return int(self.signal_number)


# ---------------------------------------------------------------------------------------------- the run


def train(config: TrainingConfig) -> None:
    """Train to `max_train_steps`, going on from the newest checkpoint in `output_dir` where there is one.

    Raises:
        ValueError, OSError: bad settings, data or base, before anything is written.
        NonFiniteLoss, StoppedBySignal: see there.
    """
    import numpy as np
    import torch
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from tqdm.auto import tqdm

    from sdseg.adapter import load_lora_weights, read_adapter
    from sdseg.data import LatentSource, MicroBatches, TrainingStream, encode_batch
    from sdseg.model import add_lora, inference_scheduler, load_base
    from sdseg.objective import training_loss

    stop = StopFlag()
    output = Path(config.output_dir)
    pictures, held_out = open_data(config)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(output),
    )
    refuse_sharding(accelerator)
    if config.report_to != "none" and not accelerator.log_with:  # Accelerate passes over it without a word
        raise ConfigError(f"report_to is {config.report_to}, which is not installed; install it, or report to none")
    samples_per_pass = config.train_batch_size * accelerator.num_processes
    global_batch = samples_per_pass * config.gradient_accumulation_steps
    record = asdict(config) | {"global_batch": global_batch, "data_digest": pictures.digest()}
    first_step = step_to_resume(output, config, record)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    if first_step >= config.max_train_steps and (config.dry_run or (output / "adapter").is_dir()):
        accelerator.print(f"{output} is finished: {first_step} steps; its adapter is {output / 'adapter'}")
        if config.push_to_hub and accelerator.is_main_process and not config.dry_run:
            print(f"adapter uploaded to {push(config, output / 'adapter')}")
        return
    if accelerator.is_main_process:
        refuse_errors(examine(pictures))

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
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
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
    lora = {name: value for name, value in peft_model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        lora.values(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    if config.push_to_hub and accelerator.is_main_process:
        check_hub(config)
    if accelerator.is_main_process and not config.dry_run:
        make_run_folder(output, config, record, first_step)
        write_environment(output, accelerator, first_step)
    average = moving_average(lora, config.ema_decay) if config.use_ema else None
    if first_step:
        load_checkpoint(output / f"checkpoint-{first_step}", lora, optimizer, average)
        accelerator.print(f"going on from {output / f'checkpoint-{first_step}'}")

    trained = sum(value.numel() for value in lora.values())
    accelerator.print(
        f"device {accelerator.device}, {accelerator.num_processes} process(es), global batch {global_batch}; "
        f"{len(pictures)} pairs; training {trained / 1e6:.2f} M LoRA parameters of "
        f"{config.pretrained_model_name_or_path}"
    )

    source = pictures
    if config.cache_latents:
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
    size = config.resolution // factor
    stream = TrainingStream(
        source,
        len(pictures),
        seed=config.seed,
        latent_shape=(base.vae.config.latent_channels, size, size),
        num_train_timesteps=scheduler.config.num_train_timesteps,
        timestep_power=config.timestep_power,
        noise_strength=config.multires_noise_strength,
        pixel_loss_share=config.pixel_loss_share,
    )
    loader = torch.utils.data.DataLoader(
        stream,
        batch_sampler=MicroBatches(
            first_step,
            config.max_train_steps,
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
    prompt_embedding = base.prompt_embedding.to(accelerator.device)
    batches, waited = iter(loader), Stopwatch()

    def accumulate() -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step's forward and backward passes: losses and pair indices of this process's samples."""
        losses, indices = [], []
        for micro in range(config.gradient_accumulation_steps):
            with waited:
                batch = next(batches)
            batch = {key: value.to(accelerator.device) for key, value in batch.items()}
            if "image" in batch:
                batch = encode_batch(batch, base.vae, accelerator.device, colours)
            last = micro == config.gradient_accumulation_steps - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(unet):
                with accelerator.autocast():
                    sample_losses = training_loss(unet, base.vae, scheduler, batch, prompt_embedding, colours)
                accelerator.backward(sample_losses.mean())
            losses.append(sample_losses.detach())
            indices.append(batch["index"])
        return torch.cat(losses), torch.cat(indices)

    if config.dry_run:
        unet.train()
        found = tried(accelerator, accumulate, config.max_train_steps - first_step)
        counts = {"trained": trained, "frozen UNet": sum(p.numel() for p in base.unet.parameters()) - trained}
        counts["frozen VAE"] = sum(p.numel() for p in base.vae.parameters())
        accelerator.print(dry_run_report(record, accelerator, counts, len(pictures), first_step, found))
        return
    if config.report_to != "none":
        accelerator.init_trackers("logs", config={key: str(value) for key, value in record.items()})

    progress = tqdm(
        total=config.max_train_steps,
        initial=first_step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    unet.train()
    started, recent = time.monotonic(), []
    with stop.listening():
        for step in range(first_step, config.max_train_steps):
            losses, indices = accumulate()
            flags = torch.full_like(losses, stop.value())
            gathered = accelerator.gather(torch.stack([losses, indices.to(losses), flags], dim=1)).cpu()
            refuse_non_finite(gathered, pictures, step)
            accelerator.clip_grad_norm_(lora.values(), config.max_grad_norm)
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if average:
                average.step(lora.values())

            done = step + 1
            finished = done == config.max_train_steps
            loss = gathered[:, 0].mean().item()
            recent.append(loss)
            rate = (done - first_step) * global_batch / (time.monotonic() - started)
            progress.update()
            progress.set_postfix(loss=f"{loss:.4f}", images_per_second=f"{rate:.1f}", refresh=False)
            if accelerator.is_main_process and (done % config.logging_steps == 0 or finished):
                row = {"step": done, "loss": loss, "mean_loss": sum(recent) / len(recent)}
                row |= {"learning_rate": learning_rate, "images_per_second": round(rate, 2)}
                row["waiting_for_data"] = round(waited.seconds / (time.monotonic() - started), 4)
                log(accelerator, output, row)
                recent = []
            if held_out and (done % config.validation_steps == 0 or finished) and accelerator.is_main_process:
                with weights_of(average, lora):
                    last_metrics = validate(accelerator, unet, base, held_out, config, output, done, colours)
                log(
                    accelerator,
                    output,
                    {"step": done} | {f"validation_{k}": v for k, v in last_metrics.items()},
                )
            stop_signal = int(gathered[:, 2].max())
            if done % config.checkpointing_steps == 0 or finished or stop_signal:
                if accelerator.is_main_process:
                    save_checkpoint(output, done, lora, optimizer, average, record, config.checkpoints_total_limit)
                accelerator.wait_for_everyone()
            if stop_signal and not finished:
                progress.close()
                accelerator.end_training()
                raise StoppedBySignal(stop_signal, done)
    progress.close()
    if accelerator.is_main_process:
        with weights_of(average, lora):
            write_adapter(output, peft_model, base, config, record, len(pictures))
        print(f"adapter written to {output / 'adapter'}")
        if config.push_to_hub:
            print(f"adapter uploaded to {push(config, output / 'adapter')}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def refuse_sharding(accelerator: Accelerator) -> None:
    """FSDP and DeepSpeed shard what is trained; here that is some megabytes of LoRA, and checkpoints hold it whole."""
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MPS"):
        raise ConfigError(
            f"distributed_type {kind} is not supported: LoRA's gradients and moments take some hundred megabytes, so "
            "there is little to shard; use plain data parallelism (configs/accelerate/ddp.yaml) with "
            "gradient_checkpointing"
        )


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


@contextlib.contextmanager
def warnings_off():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_data(config: TrainingConfig) -> tuple[Source, Source | None]:
    """The pairs to train on, and those held out or None; no weight is loaded and nothing written.

    Raises:
        ValueError, OSError: see `sdseg.data.open_pictures`; or both hold the same pictures.
    """
    from sdseg.data import Augmentation, Columns, find_pairs, is_on_the_fly, open_pictures

    places = config.train_data_dir if isinstance(config.train_data_dir, list) else [config.train_data_dir]
    target = open_target(config.target, config.class_names, places)
    column = config.target if config.alpha_column == "alpha" else config.alpha_column
    pictures = open_pictures(
        config.train_data_dir,
        config.resolution,
        Augmentation(config.random_flip, config.min_crop_scale),
        weights=config.train_data_weights,
        columns=Columns(config.image_column, column, config.train_split),
        streaming=config.streaming,
        window=config.shuffle_buffer_size,
        target=target,
    )
    if not config.validation_data_dir:
        return pictures, None
    if is_on_the_fly(config.validation_data_dir):
        find_pairs(config.validation_data_dir)  # says why not
    columns = Columns(config.image_column, column, config.validation_split)
    whole = Augmentation(False, 1)
    held_out = open_pictures(config.validation_data_dir, config.resolution, whole, columns=columns, target=target)
    refuse_overlap(pictures, held_out)
    for place in places:
        refuse_shared_foreground(place, config.validation_data_dir)
    return pictures, held_out


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Prints warnings, and raises ConfigError at the first error that examining the data finds."""
    for finding in findings:
        if finding.is_error:
            raise ConfigError(f"{finding.place}: {finding.text} (python -m sdseg.doctor tells all that is found)")
        print(finding, file=sys.stderr)


def refuse_overlap(pictures: Source, held_out: Source) -> None:
    """Validation on pictures that are trained on would say nothing."""
    for shared in sorted(pictures.files() & held_out.files())[:1]:
        raise ConfigError(f"validation_data_dir holds {shared}, which is also trained on; hold other pairs out")


def refuse_shared_foreground(training: str, validation: str) -> None:
    """A rendered foreground is known once trained on, before whatever background and in whichever folder it lies."""
    from sdseg.data import shared_foreground

    shared = shared_foreground(training, validation)
    if shared is not None:
        raise ConfigError(
            f"validation_data_dir {validation} shows the same foreground {shared} as train_data_dir {training}; "
            "render the validation set with another --seed"
        )


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
