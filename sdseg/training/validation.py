"""Validation during training, through the pipeline that users run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdseg.targets import NO_CLASS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from diffusers import UNet2DConditionModel

    from sdseg.inference.pipeline import MattingPipeline
    from sdseg.training.run import Run

GRID_ROWS = 12  # of the validation picture


def validate(run: Run, step: int, stopped: Callable[[], int]) -> dict[str, float] | None:
    """Predict the first held-out pairs through the pipeline users run; None, and nothing written, once `stopped`.

    The main process writes validation/step-<step>.png and shows the same grid in TensorBoard: photo, truth,
    prediction, uncertainty (black 0, white 0.5 of alpha or an entropy of 1) of the first few.

    Returns:
        Mean `mad`, `mse`, `iou` and, with two samples or more, the `calibration_scale` of the uncertainty; of target
        classes `accuracy` and `mean_iou` of all pixels together.
    """
    import torch

    config, network = run.config, run.accelerator.unwrap_model(run.unet)
    network.eval()
    pipeline = matting_pipeline(run, network)
    scores = MatteScores() if run.colours is None else ClassScores(run.colours)
    rows = []
    for index in range(min(len(run.held_out), config.num_validation_images)):
        if stopped():
            network.train()
            return None
        image, truth = run.held_out.read(index)
        result = pipeline(
            image,
            num_inference_steps=config.num_inference_steps,
            ensemble_size=config.validation_ensemble_size,
            processing_resolution=config.resolution,
            batch_size=config.train_batch_size,
            output_uncertainty=config.validation_ensemble_size > 1,
            generator=torch.Generator().manual_seed(config.seed),
        )
        uncertainty = None if result.uncertainty is None else result.uncertainty[0]
        scores.add(result.prediction[0], truth, uncertainty)
        if len(rows) < GRID_ROWS:
            rows.append([image, *scores.shown(result.prediction[0], truth, uncertainty)])
    network.train()
    if run.accelerator.is_main_process:
        write_grid(run, step, rows)
    return scores.figures()


def matting_pipeline(run: Run, network: UNet2DConditionModel) -> MattingPipeline:
    """The pipeline around the network in training."""
    from sdseg.inference.pipeline import MattingPipeline
    from sdseg.model import inference_scheduler

    pipeline = MattingPipeline(
        network,
        run.base.vae,
        inference_scheduler(prediction_type=run.config.prediction_type),
        run.base.prompt_embedding,
        target=run.held_out.target.kind,
        class_colours=None if run.colours is None else run.colours.tolist(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_grid(run: Run, step: int, rows: list[list[np.ndarray]]) -> None:
    """One sheet of rows of pictures uint8 [H, W, 3] and maps float [H, W]: in the run folder and in TensorBoard."""
    from sdseg.imaging import write_image
    from synth_data.drawing import sheet

    grid = sheet(rows, gap=0, side=run.config.resolution)
    write_image(run.output / "validation" / f"step-{step:06d}.png", grid)
    for tracker in run.accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("validation", grid, step, dataformats="HWC")


class MatteScores:
    """Mean figures of mattes against true ones, and how wide their uncertainty is."""

    def __init__(self):
        from sdseg.evaluation.metrics import iou, mad, mse

        self.measures: dict[str, Callable] = {"mad": mad, "mse": mse, "iou": iou}
        self.values = {name: [] for name in self.measures}
        self.squared_error = self.variance = 0.0

    def add(self, matte: np.ndarray, truth: np.ndarray, deviation: np.ndarray | None) -> None:
        """float32 [H, W] in [0, 1] each."""
        import numpy as np

        for name, measure in self.measures.items():
            self.values[name].append(measure(matte, truth))
        if deviation is not None:
            self.squared_error += float(np.square(matte - truth, dtype=np.float64).sum())
            self.variance += float(np.square(deviation, dtype=np.float64).sum())

    def shown(self, matte: np.ndarray, truth: np.ndarray, deviation: np.ndarray | None) -> list[np.ndarray]:
        """Truth, matte and twice the deviation, for a row of the grid."""
        return [truth, matte] + ([] if deviation is None else [(deviation * 2).clip(0, 1)])

    def figures(self) -> dict[str, float]:
        import numpy as np

        from sdseg.evaluation.metrics import calibration_scale

        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        return means | (
            {"calibration_scale": calibration_scale(self.squared_error, self.variance)} if self.variance else {}
        )


class ClassScores:
    """Accuracy and mean IoU of class maps, pixels of all pictures together."""

    def __init__(self, colours: np.ndarray):
        self.colours, self.matrix = colours, 0

    def add(self, ids: np.ndarray, truth: np.ndarray, _entropy: np.ndarray | None) -> None:
        """Ids uint8 [H, W] and int32 [H, W], NO_CLASS where there is none."""
        import numpy as np

        from sdseg.evaluation.segmentation_metrics import confusion_matrix

        self.matrix = self.matrix + confusion_matrix(ids.astype(np.int32), truth, len(self.colours), ignore=NO_CLASS)

    def shown(self, ids: np.ndarray, truth: np.ndarray, entropy: np.ndarray | None) -> list[np.ndarray]:
        """Both in their colours, void grey, and the entropy, for a row of the grid."""
        import numpy as np

        colours = np.concatenate([self.colours, np.full((1, 3), 127, np.uint8)])
        return [colours[truth], colours[ids]] + ([] if entropy is None else [entropy])

    def figures(self) -> dict[str, float]:
        from sdseg.evaluation.segmentation_metrics import accuracy, mean_iou

        return {"accuracy": float(accuracy(self.matrix)), "mean_iou": float(mean_iou(self.matrix))}
