"""Validation during training, through the pipeline that users run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.config import TrainingConfig

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from sdseg.data import Source
    from sdseg.model import Base

GRID_ROWS = 12  # of the validation picture


def validate(
    accelerator: Accelerator,
    unet,
    base: Base,
    held_out: Source,
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

    from sdseg.imaging import write_image
    from sdseg.metrics import calibration_scale, iou, mad, mse
    from sdseg.model import inference_scheduler
    from sdseg.pipeline import MattingPipeline

    network = accelerator.unwrap_model(unet)
    network.eval()
    scheduler = inference_scheduler(prediction_type=config.prediction_type)
    pipeline = MattingPipeline(network, base.vae, scheduler, base.prompt_embedding)
    pipeline.set_progress_bar_config(disable=True)
    rows, scores = [], {"mad": [], "mse": [], "iou": []}
    squared_error = variance = 0.0
    for index in range(min(len(held_out), config.num_validation_images)):
        image, truth = held_out.read(index)
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
