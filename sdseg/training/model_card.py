"""The finished adapter of a run and its model card."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from sdseg.model import Base

# settings that say what was trained, told where they are not the usual ones
NAMED_IF_SET = ("use_ema", "pixel_loss_share", "prediction_type", "timestep_power", "use_rslora", "use_dora")
TITLES = {"alpha": "Matting", "mask": "Mask", "classes": "Segmentation"}
ABOUT = (
    (
        "A LoRA adapter that turns the base into an image matting model with sdseg: the UNet takes the image's",
        "latent beside a noisy matte's, and several samples give a mean matte and a map of their spread.",
    ),
    (
        "A LoRA adapter that turns the base into a segmentation model with sdseg: the UNet takes the image's latent",
        "beside a noisy one of classes painted in colours, and several samples vote for the class of each pixel.",
    ),
)


def write_adapter(
    output: Path,
    peft_model,
    base: Base,
    config: TrainingConfig,
    record: dict,
    pairs: int,
    held_out: int,
    weights: dict[str, torch.Tensor],
) -> None:
    """Writes the folder of a finished adapter, trained on so many pairs and validated on so many held-out ones;
    `weights` are those of the LoRA layers, by the names of the model's parameters."""
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
            target=config.target,
            class_names=list(record.get("classes", {})),
            class_colours=list(record.get("classes", {}).values()),
        ),
        base.prompt_embedding,
        model_card(base, config, record, metrics, pairs, held_out, with_pictures=grid.is_file()),
        {"validation.png": read_image(grid)} if grid.is_file() else {},
        prediction_type=config.prediction_type,
        weights=weights,
    )


def last_validation(stats: Path) -> dict[str, float]:
    """The newest validation's figures by name, without prefix; empty when there was none."""
    rows = [json.loads(row) for row in stats.read_text(encoding="utf-8").splitlines()]
    validations = [row for row in rows if any(key.startswith("validation_") for key in row)]
    if not validations:
        return {}
    return {key.removeprefix("validation_"): value for key, value in validations[-1].items() if key != "step"}


def figures_table(metrics: dict[str, float]) -> list[str]:
    """Lines of a Markdown table."""
    shown = {"mad": ("MAD", 4), "mse": ("MSE", 4), "iou": ("IoU", 3)}
    shown |= {"accuracy": ("accuracy", 3), "mean_iou": ("mean IoU", 3)}
    chosen = [(*words, metrics[key]) for key, words in shown.items() if key in metrics]
    return [
        "| " + " | ".join(title for title, _, _ in chosen) + " |",
        "|" + "---|" * len(chosen),
        "| " + " | ".join(f"{value:.{digits}f}" for _, digits, value in chosen) + " |",
    ]


def all_rendered(places: list[str] | str) -> bool:
    """Whether every data set has the renderer's own record beside it."""
    places = places if isinstance(places, list) else [places]
    return all((Path(place) / "render.json").is_file() for place in places)


def other_settings(config: TrainingConfig) -> list[str]:
    """Those of NAMED_IF_SET that are not at their defaults, as `name: value`."""
    defaults = {item.name: item.default for item in fields(TrainingConfig)}
    values = {name: getattr(config, name) for name in NAMED_IF_SET}
    return [f"`{name}: {str(value).lower()}`" for name, value in values.items() if value != defaults[name]]


def model_card(
    base: Base, config: TrainingConfig, record: dict, metrics: dict, pairs: int, held_out: int, with_pictures: bool
) -> str:
    """README.md of an adapter: what it is, what it stands on, how it was trained, how well it does."""
    import yaml

    front = {
        "base_model": base.name,
        "library_name": "peft",
        "license": config.license,
        "pipeline_tag": "image-segmentation",
        "tags": ["sdseg", "matting" if config.target == "alpha" else "segmentation", "lora"],
    }
    rendered, others = all_rendered(config.train_data_dir), other_settings(config)
    validated = min(config.num_validation_images, held_out)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        "",
        f"# {TITLES[config.target]} adapter for {base.name}",
        "",
        *ABOUT[config.target == "classes"],
        "",
        "```bash",
        "python infer.py --adapter THIS_FOLDER --input photo.jpg --output output \\",
        "    --ensemble_size 8 --output_uncertainty",
        "```",
        "",
        f"- Base: `{base.name}`" + (f" at revision `{base.revision}`" if base.revision else ""),
        f"- Licence: {config.license} (an adapter inherits its base's)",
        f"- Trained on {pairs} {'rendered ' if rendered else ''}pairs (digest `{record['data_digest']}`), "
        f"{config.resolution} px, {config.max_train_steps} steps of {record['global_batch']}, seed {config.seed}",
        *([f"- Went on from the adapter `{config.init_adapter}`"] if config.init_adapter else []),
        f"- LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on {', '.join(config.lora_targets)}",
        f"- Learning rate {config.learning_rate:g}, {config.lr_scheduler}, {config.lr_warmup_steps} steps of warm-up",
        *([f"- Further settings: {', '.join(others)}"] if others else []),
        f"- Default: {config.num_inference_steps} denoising steps",
        *([f"- Classes: {', '.join(record['classes'])}"] if "classes" in record else []),
        "",
        "## Metrics",
        "",
    ]
    if metrics:
        lines += [
            f"On the first {validated} held-out pairs, {config.num_inference_steps} steps, "
            f"{config.validation_ensemble_size} samples:",
            "",
            *figures_table(metrics),
        ]
    else:
        lines += ["Not validated during training."]
    if with_pictures:
        lines += [
            "",
            f"Photo, truth, prediction, uncertainty ({'entropy' if config.target == 'classes' else 'white = 0.5'}):",
            "",
            "![validation](pictures/validation.png)",
        ]
    lines += [
        "",
        "## Where not to trust it",
        "",
        ("Trained on renders alone; the" if rendered else "The")
        + " spread of its samples understates its error on photos unlike those it was trained on.",
    ]
    return "\n".join(lines) + "\n"
