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
    from sdseg.training.run import Run

# settings that say what was trained, named where they differ from their defaults
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


def write_adapter(run: Run, weights: dict[str, torch.Tensor]) -> None:
    """Writes the folder of the finished adapter; `weights` are those of the LoRA layers by the names of `run.lora`."""
    from sdseg.adapter import AdapterConfig, save_adapter
    from sdseg.imaging import read_image
    from sdseg.uncertainty import calibration_key

    config, base, classes = run.config, run.base, run.record.get("classes", {})
    metrics = last_validation(run.output / "stats.jsonl")
    setting = calibration_key(config.num_inference_steps, config.validation_ensemble_size)
    grid = run.output / "validation" / f"step-{config.max_train_steps:06d}.png"
    pairs, held_out = len(run.pictures), len(run.held_out or ())
    save_adapter(
        run.output / "adapter",
        run.peft_model,
        AdapterConfig(
            pretrained_model_name_or_path=base.name,
            revision=base.revision,
            fingerprint=base.fingerprint,
            resolution=config.resolution,
            num_inference_steps=config.num_inference_steps,
            calibration={setting: metrics["calibration_scale"]} if "calibration_scale" in metrics else {},
            target=config.target,
            class_names=list(classes),
            class_colours=list(classes.values()),
        ),
        base.prompt_embedding,
        model_card(base, config, run.record, metrics, pairs, held_out, with_pictures=grid.is_file()),
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


def metrics_table(metrics: dict[str, float]) -> list[str]:
    """Lines of a Markdown table."""
    shown = {"mad": ("MAD", 4), "mse": ("MSE", 4), "iou": ("IoU", 3)}
    shown |= {"accuracy": ("accuracy", 3), "mean_iou": ("mean IoU", 3)}
    chosen = [(title, digits, metrics[key]) for key, (title, digits) in shown.items() if key in metrics]
    return [
        "| " + " | ".join(title for title, *_ in chosen) + " |",
        "|" + "---|" * len(chosen),
        "| " + " | ".join(f"{value:.{digits}f}" for _, digits, value in chosen) + " |",
    ]


def all_rendered(data_dirs: list[str] | str) -> bool:
    """Whether every data set holds the renderer's own record."""
    data_dirs = data_dirs if isinstance(data_dirs, list) else [data_dirs]
    return all((Path(folder) / "render.json").is_file() for folder in data_dirs)


def attributed(data_dirs: list[str] | str) -> list[str]:
    """Where the photos, environments and meshes in rendered data sets are from, as their recipes say; Markdown."""
    from sdseg.errors import UserError
    from synth_data.store import attributions

    lines = []
    for folder in data_dirs if isinstance(data_dirs, list) else [data_dirs]:
        if (Path(folder) / "recipe.yaml").is_file():
            try:
                lines += attributions(Path(folder))
            except UserError as error:  # not at the end of a training
                lines.append(f"- {error}")
    return list(dict.fromkeys(lines))


def other_settings(config: TrainingConfig) -> list[str]:
    """Those of NAMED_IF_SET that are not at their defaults, as `name: value`."""
    defaults = {item.name: item.default for item in fields(TrainingConfig)}
    values = {name: getattr(config, name) for name in NAMED_IF_SET}
    return [f"`{name}: {str(value).lower()}`" for name, value in values.items() if value != defaults[name]]


def model_card(
    base: Base, config: TrainingConfig, record: dict, metrics: dict, pairs: int, held_out: int, with_pictures: bool
) -> str:
    """README.md of an adapter: what it is, its base, how it was trained, how well it does.

    Args:
        record: what a run keeps beside its settings: global batch, data digest, and colours of classes by name.
        metrics: figures of the last validation, empty if there was none.
        pairs, held_out: numbers of pairs trained on and held out.
        with_pictures: whether pictures/validation.png lies beside the card.
    """
    import yaml

    front = {
        "base_model": base.name,
        "library_name": "peft",
        "license": config.license,
        "pipeline_tag": "image-segmentation",
        "tags": ["sdseg", "matting" if config.target == "alpha" else "segmentation", "lora"],
    }
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
        *training_facts(base, config, record, pairs),
        "",
        "## Metrics",
        "",
        *metrics_section(config, metrics, min(config.num_validation_images, held_out)),
    ]
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
        ("Trained on renders alone; the" if all_rendered(config.train_data_dir) else "The")
        + " spread of its samples understates its error on photos unlike those it was trained on.",
    ]
    return "\n".join(lines) + "\n"


def training_facts(base: Base, config: TrainingConfig, record: dict, pairs: int) -> list[str]:
    """Items of a Markdown list: base, licence, data, settings."""
    sources = attributed(config.train_data_dir)
    rendered, others = all_rendered(config.train_data_dir), other_settings(config)
    return [
        f"- Base: `{base.name}`" + (f" at revision `{base.revision}`" if base.revision else ""),
        f"- Licence: {config.license} (an adapter inherits its base's)",
        f"- Trained on {pairs} {'rendered ' if rendered else ''}pairs (digest `{record['data_digest']}`), "
        f"{config.resolution} px, {config.max_train_steps} steps of {record['global_batch']}, seed {config.seed}",
        *(["- Its pictures were rendered with works from:", *("  " + line for line in sources)] if sources else []),
        *([f"- Went on from the adapter `{config.init_adapter}`"] if config.init_adapter else []),
        f"- LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on {', '.join(config.lora_targets)}",
        f"- Learning rate {config.learning_rate:g}, {config.lr_scheduler}, {config.lr_warmup_steps} steps of warm-up",
        *([f"- Further settings: {', '.join(others)}"] if others else []),
        f"- Default: {config.num_inference_steps} denoising steps",
        *([f"- Classes: {', '.join(record['classes'])}"] if "classes" in record else []),
    ]


def metrics_section(config: TrainingConfig, metrics: dict[str, float], validated: int) -> list[str]:
    """Lines of Markdown; `validated` is the number of pairs."""
    from sdseg.uncertainty import calibration_key, scales_line

    if not metrics:
        return ["Not validated during training."]
    key = calibration_key(config.num_inference_steps, config.validation_ensemble_size)
    return [
        f"On the first {validated} held-out pairs, {config.num_inference_steps} steps, "
        f"{config.validation_ensemble_size} samples:",
        "",
        *metrics_table(metrics),
        *(["", scales_line({key: metrics["calibration_scale"]})] if "calibration_scale" in metrics else []),
    ]
