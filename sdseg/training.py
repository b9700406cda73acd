"""Fine-tuning: build, loop, validate through the pipeline, save, resume.

The run folder:

    config.yaml            the resolved settings; a resumed run is compared with them
    stats.jsonl            a row every `logging_steps` and at each validation
    logs/                  the tracker's files
    validation/            picture grids: photo, truth, matte, uncertainty
    checkpoint-<step>/     LoRA, optimiser moments, counters; never the base
    adapter/               the finished adapter
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.config import ConfigError, TrainingConfig, parse_training_config, settings_that_differ

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from sdseg.data import PairFiles
    from sdseg.model import Base

GRID_ROWS = 12  # of the validation picture
CHECKPOINT_FILES = ("lora.safetensors", "optimizer.safetensors", "state.json")


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
    import torch
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from tqdm.auto import tqdm

    from sdseg.adapter import load_lora_weights, read_adapter
    from sdseg.data import (
        Augmentation,
        LatentSource,
        MicroBatches,
        TrainingStream,
        encode_batch,
        find_pairs,
        open_pictures,
    )
    from sdseg.model import add_lora, inference_scheduler, load_base
    from sdseg.objective import denoising_loss

    stop = StopFlag()
    output = Path(config.output_dir)
    augmentation = Augmentation(config.random_flip, config.min_crop_scale)
    pictures = open_pictures(config.train_data_dir, config.resolution, augmentation)
    pairs = pictures.pairs
    held_out = find_pairs(config.validation_data_dir) if config.validation_data_dir else []
    refuse_overlap(pairs, held_out)
    if config.validation_data_dir:
        refuse_shared_foreground(config.train_data_dir, config.validation_data_dir)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(output),
    )
    samples_per_pass = config.train_batch_size * accelerator.num_processes
    global_batch = samples_per_pass * config.gradient_accumulation_steps
    digest = data_digest(pairs, pictures.recipe, pictures.photos)
    record = asdict(config) | {"global_batch": global_batch, "data_digest": digest}
    first_step = step_to_resume(output, config, record)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    if first_step >= config.max_train_steps and (output / "adapter").is_dir():
        accelerator.print(f"{output} is finished: {first_step} steps; its adapter is {output / 'adapter'}")
        return
    if accelerator.is_main_process:
        for warning in pictures.check():
            print(f"warning: {config.train_data_dir}: {warning}", file=sys.stderr)

    base = load_base(config.pretrained_model_name_or_path, revision=config.revision)
    factor = base.vae_scale_factor
    if config.resolution % factor:
        raise ConfigError(f"resolution is {config.resolution}; it must be a multiple of {factor} for this base")
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
        target_groups=config.lora_targets,
        seed=config.seed,
    )
    if config.init_adapter:
        load_lora_weights(peft_model, read_adapter(config.init_adapter))
    lora = {name: value for name, value in peft_model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        lora.values(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    if accelerator.is_main_process:
        make_run_folder(output, config, record, first_step)
    if first_step:
        load_checkpoint(output / f"checkpoint-{first_step}", lora, optimizer)
        accelerator.print(f"going on from {output / f'checkpoint-{first_step}'}")

    trained = sum(value.numel() for value in lora.values())
    accelerator.print(
        f"device {accelerator.device}, {accelerator.num_processes} process(es), global batch {global_batch}; "
        f"{len(pairs)} pairs; training {trained / 1e6:.2f} M LoRA parameters of {config.pretrained_model_name_or_path}"
    )

    source = pictures
    if config.cache_latents:
        bar = lambda items, **words: tqdm(items, disable=not accelerator.is_main_process, **words)  # noqa: E731
        source = LatentSource(pictures, base.vae, config.cached_variants, config.seed, accelerator.device, bar)
    scheduler = inference_scheduler()
    size = config.resolution // factor
    stream = TrainingStream(
        source,
        len(pairs),
        seed=config.seed,
        latent_shape=(base.vae.config.latent_channels, size, size),
        num_train_timesteps=scheduler.config.num_train_timesteps,
        timestep_power=config.timestep_power,
        noise_strength=config.multires_noise_strength,
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
    if config.report_to != "none":
        accelerator.init_trackers("logs", config={key: str(value) for key, value in record.items()})

    progress = tqdm(
        total=config.max_train_steps,
        initial=first_step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    batches = iter(loader)
    unet.train()
    started, recent = time.monotonic(), []
    with stop.listening():
        for step in range(first_step, config.max_train_steps):
            losses, indices = [], []
            for micro in range(config.gradient_accumulation_steps):
                batch = {key: value.to(accelerator.device) for key, value in next(batches).items()}
                if "image" in batch:
                    batch |= encode_batch(batch, base.vae, accelerator.device)
                last = micro == config.gradient_accumulation_steps - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(unet):
                    with accelerator.autocast():
                        sample_losses = denoising_loss(
                            unet, scheduler, batch["image_latents"], batch["matte_latents"], batch["valid"],
                            batch["noise"], batch["timestep"], prompt_embedding,
                        )  # fmt: skip
                    accelerator.backward(sample_losses.mean())
                losses.append(sample_losses.detach())
                indices.append(batch["index"])
            losses, indices = torch.cat(losses), torch.cat(indices)
            flags = torch.full_like(losses, stop.value())
            gathered = accelerator.gather(torch.stack([losses, indices.to(losses), flags], dim=1)).cpu()
            refuse_non_finite(gathered, pairs, step)
            accelerator.clip_grad_norm_(lora.values(), config.max_grad_norm)
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

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
                log(accelerator, output, row)
                recent = []
            if held_out and (done % config.validation_steps == 0 or finished) and accelerator.is_main_process:
                last_metrics = validate(accelerator, unet, base, held_out, config, output, done)
                log(
                    accelerator,
                    output,
                    {"step": done} | {f"validation_{k}": v for k, v in last_metrics.items()},
                )
            stop_signal = int(gathered[:, 2].max())
            if done % config.checkpointing_steps == 0 or finished or stop_signal:
                if accelerator.is_main_process:
                    save_checkpoint(output, done, lora, optimizer, record, config.checkpoints_total_limit)
                accelerator.wait_for_everyone()
            if stop_signal and not finished:
                progress.close()
                accelerator.end_training()
                raise StoppedBySignal(stop_signal, done)
    progress.close()
    if accelerator.is_main_process:
        write_adapter(output, peft_model, base, config, record, len(pairs))
        print(f"adapter written to {output / 'adapter'}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


@contextlib.contextmanager
def warnings_off():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_overlap(pairs: list[PairFiles], held_out: list[PairFiles]) -> None:
    """Validation on pictures that are trained on would say nothing."""
    trained_on = {pair.image.resolve() for pair in pairs}
    for pair in held_out:
        if pair.image.resolve() in trained_on:
            raise ConfigError(f"validation_data_dir holds {pair.image}, which is also trained on; hold other pairs out")


def refuse_shared_foreground(training: str, validation: str) -> None:
    """A rendered foreground is known once trained on, before whatever background and in whichever folder it lies."""
    from sdseg.data import shared_foreground

    shared = shared_foreground(training, validation)
    if shared is not None:
        raise ConfigError(
            f"validation_data_dir {validation} shows the same foreground {shared} as train_data_dir {training}; "
            "render the validation set with another --seed"
        )


def refuse_non_finite(gathered: torch.Tensor, pairs: list[PairFiles], step: int) -> None:
    """gathered: [samples, 3] of loss, pair index, stop flag, from all processes."""
    bad = gathered[~gathered[:, 0].isfinite()]
    if len(bad):
        names = ", ".join(pairs[int(index)].name for index in bad[:8, 1])
        raise NonFiniteLoss(
            f"the loss is {bad[0, 0].item()} at step {step} for {len(bad)} of {len(gathered)} samples ({names}); look "
            "at these pairs, or lower learning_rate; the last checkpoint is from before this step"
        )


def data_digest(pairs: list[PairFiles], recipe: str, photos: Iterable[str]) -> str:
    """Changes when pairs are added, removed, renamed or differ in file size, with the recipe text, and with photos."""
    digest = hashlib.sha256(recipe.encode())
    for place in photos:
        digest.update(f"{place}\n".encode())
    for pair in pairs:
        digest.update(f"{pair.name} {pair.image.stat().st_size} {pair.alpha.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def log(accelerator: Accelerator, output: Path, row: dict) -> None:
    with open(output / "stats.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    accelerator.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])


# ---------------------------------------------------------------------------------------------- run folder


def step_to_resume(output: Path, config: TrainingConfig, record: dict) -> int:
    """The step to go on from; nothing is written yet.

    Raises:
        ConfigError: the folder holds another run (names what differs), is no run, or cannot be written.
    """
    import yaml

    from sdseg.outputs import check_writable

    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir {output} is a file; name a folder")
    check_writable(output)
    stored = output / "config.yaml"
    if stored.is_file():
        if config.overwrite_output_dir:
            return 0
        refuse_other_run(output, yaml.safe_load(stored.read_text(encoding="utf-8")), config, record)
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"output_dir {output} is not empty and holds no run; name another folder")
    return latest_checkpoint(output)


def make_run_folder(output: Path, config: TrainingConfig, record: dict, first_step: int) -> None:
    """Write config.yaml, and drop what is to be written again: all of it when overwriting, else later rows."""
    import yaml

    if config.overwrite_output_dir and (output / "config.yaml").is_file():
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    partial = output / ".config.yaml.partial"
    partial.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    os.replace(partial, output / "config.yaml")
    forget_stats_after(output / "stats.jsonl", first_step)


def refuse_other_run(output: Path, old: dict, config: TrainingConfig, record: dict) -> None:
    changed = settings_that_differ(old, config)
    changed += [
        f"{key}: {old.get(key)!r} -> {record[key]!r}"
        for key in ("global_batch", "data_digest")
        if old.get(key) != record[key]
    ]
    if changed:
        raise ConfigError(
            f"output_dir {output} holds another run ({'; '.join(changed)}); restore these settings to go on with it, "
            "name another output_dir, or pass --overwrite_output_dir to start afresh"
        )


def forget_stats_after(stats: Path, step: int) -> None:
    """Drop the rows of steps that will be run again."""
    if stats.is_file():
        rows = stats.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= step]
        partial = stats.with_name(".stats.partial")
        partial.write_text("".join(row + "\n" for row in kept), encoding="utf-8")
        os.replace(partial, stats)


def checkpoint_steps(output: Path) -> list[int]:
    steps = []
    for folder in output.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdigit() and all((folder / name).is_file() for name in CHECKPOINT_FILES):
            steps.append(int(number))
    return sorted(steps)


def latest_checkpoint(output: Path) -> int:
    """Step of the newest whole checkpoint; 0 when there is none."""
    return max(checkpoint_steps(output), default=0)


def save_checkpoint(
    output: Path, step: int, lora: dict[str, torch.Tensor], optimizer, record: dict, total_limit: int
) -> None:
    """LoRA weights, AdamW's moments and the step; then remove the oldest beyond `total_limit`.

    Every draw and the learning rate are functions of the step, so there is no other state.
    """
    from safetensors.torch import save_file

    folder = output / f"checkpoint-{step}"
    partial = output / f".checkpoint-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    weights = {name: value.detach().cpu().contiguous() for name, value in lora.items()}
    moments = {}
    for name, value in lora.items():
        for key, moment in optimizer.state[value].items():
            moments[f"{name}/{key}"] = moment.detach().cpu().contiguous()
    save_file(weights, partial / "lora.safetensors")
    save_file(moments, partial / "optimizer.safetensors")
    state = {
        "step": step,
        "global_batch": record["global_batch"],
        "samples_seen": step * record["global_batch"],
    }
    (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    for old in checkpoint_steps(output)[:-total_limit]:
        shutil.rmtree(output / f"checkpoint-{old}")


def load_checkpoint(folder: Path, lora: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Read what `save_checkpoint` wrote into LoRA weights and optimiser."""
    import torch
    from safetensors.torch import load_file

    weights, moments = load_file(folder / "lora.safetensors"), load_file(folder / "optimizer.safetensors")
    if weights.keys() != lora.keys():
        raise ConfigError(f"{folder} does not hold this run's LoRA layers; pass --overwrite_output_dir to start afresh")
    with torch.no_grad():
        for name, value in lora.items():
            value.copy_(weights[name])
            keys = [key for key in moments if key.startswith(f"{name}/")]
            optimizer.state[value] = {key.rsplit("/", 1)[1]: moments[key].to(value.device) for key in keys}
            optimizer.state[value]["step"] = optimizer.state[value]["step"].cpu()


# ---------------------------------------------------------------------------------------------- validation


def validate(
    accelerator: Accelerator,
    unet,
    base: Base,
    held_out: list[PairFiles],
    config: TrainingConfig,
    output: Path,
    step: int,
) -> dict[str, float]:
    """Matte the first held-out pairs through the pipeline users run.

    Returns mean `mad`, `mse`, `iou` and, with two samples or more, the `calibration_scale` of the uncertainty.
    Writes validation/step-<step>.png and shows the same grid in TensorBoard: photo, truth, matte, uncertainty
    (black 0, white 0.5) of the first few.
    """
    import numpy as np
    import torch

    from sdseg.data import read_pair
    from sdseg.imaging import write_image
    from sdseg.metrics import calibration_scale, iou, mad, mse
    from sdseg.model import inference_scheduler
    from sdseg.pipeline import MattingPipeline

    network = accelerator.unwrap_model(unet)
    network.eval()
    pipeline = MattingPipeline(network, base.vae, inference_scheduler(), base.prompt_embedding)
    pipeline.set_progress_bar_config(disable=True)
    chosen = held_out[: config.num_validation_images]
    rows, scores = [], {"mad": [], "mse": [], "iou": []}
    squared_error = variance = 0.0
    for pair in chosen:
        image, truth = read_pair(pair)
        result = pipeline(
            image,
            num_inference_steps=config.num_inference_steps,
            ensemble_size=config.validation_ensemble_size,
            processing_resolution=config.resolution,
            batch_size=config.train_batch_size,
            output_uncertainty=config.validation_ensemble_size > 1,
            generator=torch.Generator().manual_seed(config.seed),
        )
        matte = result.prediction[0]
        scores["mad"].append(mad(matte, truth))
        scores["mse"].append(mse(matte, truth))
        scores["iou"].append(iou(matte, truth))
        greys = [truth, matte]
        if result.uncertainty is not None:
            squared_error += float(np.square(matte - truth, dtype=np.float64).sum())
            variance += float(np.square(result.uncertainty[0], dtype=np.float64).sum())
            greys.append((result.uncertainty[0] * 2).clip(0, 1))
        if len(rows) < GRID_ROWS:
            rows.append(picture_row(image, greys, config.resolution))
    network.train()
    grid = np.concatenate(rows)
    write_image(output / "validation" / f"step-{step:06d}.png", grid)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("validation", grid, step, dataformats="HWC")
    metrics = {name: float(np.mean(values)) for name, values in scores.items()}
    return metrics | ({"calibration_scale": calibration_scale(squared_error, variance)} if variance else {})


def picture_row(image: np.ndarray, greys: list[np.ndarray], side: int) -> np.ndarray:
    """A photo uint8 [H, W, 3] and maps float [H, W] in [0, 1] in one row of squares, uint8 [side, n·side, 3]."""
    import numpy as np
    from PIL import Image, ImageOps

    tiles = [image] + [np.round(grey * 255).astype(np.uint8)[..., None].repeat(3, -1) for grey in greys]
    return np.concatenate([np.asarray(ImageOps.pad(Image.fromarray(tile), (side, side))) for tile in tiles], axis=1)


# ---------------------------------------------------------------------------------------------- adapter


def write_adapter(output: Path, peft_model, base: Base, config: TrainingConfig, record: dict, pairs: int) -> None:
    from sdseg.adapter import AdapterConfig, save_adapter
    from sdseg.imaging import read_image
    from sdseg.uncertainty import calibration_key

    metrics = last_validation(output / "stats.jsonl")
    setting = calibration_key(config.num_inference_steps, config.validation_ensemble_size)
    grid = output / "validation" / f"step-{config.max_train_steps:06d}.png"
    save_adapter(
        output / "adapter",
        peft_model,
        AdapterConfig(
            pretrained_model_name_or_path=base.name,
            revision=base.revision,
            fingerprint=base.fingerprint,
            resolution=config.resolution,
            num_inference_steps=config.num_inference_steps,
            calibration={setting: metrics["calibration_scale"]} if "calibration_scale" in metrics else {},
        ),
        base.prompt_embedding,
        model_card(base, config, record, metrics, pairs, with_pictures=grid.is_file()),
        {"validation.png": read_image(grid)} if grid.is_file() else {},
    )


def last_validation(stats: Path) -> dict[str, float]:
    """The newest validation's figures by name, without prefix; empty when there was none."""
    rows = [json.loads(row) for row in stats.read_text(encoding="utf-8").splitlines()]
    validations = [row for row in rows if "validation_mad" in row]
    if not validations:
        return {}
    return {key.removeprefix("validation_"): value for key, value in validations[-1].items() if key != "step"}


def model_card(base: Base, config: TrainingConfig, record: dict, metrics: dict, pairs: int, with_pictures: bool) -> str:
    """README.md of an adapter: what it is, what it stands on, how it was trained, how well it does."""
    import yaml

    front = {
        "base_model": base.name,
        "library_name": "peft",
        "license": config.license,
        "pipeline_tag": "image-segmentation",
        "tags": ["sdseg", "matting", "lora"],
    }
    held_out = f"the first {config.num_validation_images} held-out pairs"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        "",
        f"# Matting adapter for {base.name}",
        "",
        "A LoRA adapter that turns the base into an image matting model with sdseg: the UNet takes the image's",
        "latent beside a noisy matte's, and several samples give a mean matte and a map of their spread.",
        "",
        "```bash",
        "python infer.py --adapter THIS_FOLDER --input photo.jpg --output mattes \\",
        "    --ensemble_size 8 --output_uncertainty",
        "```",
        "",
        f"- Base: `{base.name}`" + (f" at revision `{base.revision}`" if base.revision else ""),
        f"- Licence: {config.license} (an adapter inherits its base's)",
        f"- Trained on {pairs} rendered pairs (digest `{record['data_digest']}`), {config.resolution} px, "
        f"{config.max_train_steps} steps of {record['global_batch']}, seed {config.seed}",
        *([f"- Went on from the adapter `{config.init_adapter}`"] if config.init_adapter else []),
        f"- LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on {', '.join(config.lora_targets)}",
        f"- Learning rate {config.learning_rate:g}, {config.lr_scheduler}, {config.lr_warmup_steps} steps of warm-up",
        f"- Default: {config.num_inference_steps} denoising steps",
        "",
        "## Metrics",
        "",
    ]
    if metrics:
        lines += [
            f"On {held_out}, {config.num_inference_steps} steps, {config.validation_ensemble_size} samples:",
            "",
            "| MAD | MSE | IoU |",
            "|---|---|---|",
            f"| {metrics['mad']:.4f} | {metrics['mse']:.4f} | {metrics['iou']:.3f} |",
        ]
    else:
        lines += ["Not validated during training."]
    if with_pictures:
        lines += [
            "",
            "Photo, truth, matte, uncertainty (white = 0.5):",
            "",
            "![validation](pictures/validation.png)",
        ]
    lines += [
        "",
        "## Where not to trust it",
        "",
        "Trained on renders alone; the spread of its samples understates its error on photos unlike them.",
    ]
    return "\n".join(lines) + "\n"
