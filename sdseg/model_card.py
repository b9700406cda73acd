"""The finished adapter of a run and its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.config import TrainingConfig

if TYPE_CHECKING:
    from sdseg.model import Base


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
        prediction_type=config.prediction_type,
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
