"""Validation during training, through the session that users run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdseg.targets import NO_CLASS
from sdseg.training.unreadable import pointing_to_the_doctor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from diffusers import UNet2DConditionModel

    from sdseg.inference.session import MattingSession
    from sdseg.training.run import Run

GRID_ROWS = 12  # of the validation picture


def validate(run: Run, step: int, stopped: Callable[[], int]) -> dict[str, float] | None:
    """Predict the first held-out pairs through the session users run; None, and nothing written, once `stopped`.

    The processes share the pictures, so that none waits for the others longer than a process group does (ten minutes
    under NCCL). FSDP's draw every picture together. The main process writes validation/step-<step>.png and shows the
    same grid in TensorBoard: photo, truth, prediction, uncertainty (black 0, white 0.5 of alpha or an entropy of 1) of
    the first few.

    Returns:
        Mean `mad`, `mse`, `iou` and, with two samples or more, the `calibration_scale` of the uncertainty; of target
        classes `accuracy` and `mean_iou` of all pixels together.
    """
    from accelerate.utils import gather_object

    accelerator, network = run.accelerator, run.accelerator.unwrap_model(run.unet)
    together = accelerator.is_fsdp2
    first, every = (0, 1) if together else (accelerator.process_index, accelerator.num_processes)
    scores = MatteScores() if run.colours is None else ClassScores(run.colours)
    network.eval()
    session, judged, broken_off = matting_session(run, network), [], False
    for index in range(first, min(len(run.held_out), run.config.num_validation_images), every):
        if broken_off := bool(stopped()):
            break
        judged.append((index, *judge(run, session, index, scores)))
    network.train()
    if not together:
        broken_off = any(gather_object([broken_off]))
        judged = gather_object(judged)
    if broken_off:
        return None
    judged.sort(key=lambda entry: entry[0])
    if accelerator.is_main_process:
        write_grid(run, step, [row for _, _, row in judged if row])
    return scores.figures([found for _, found, _ in judged])


def judge(run: Run, session: MattingSession, index: int, scores: MatteScores | ClassScores) -> tuple[Any, list]:
    """A held-out pair's part of the figures, and its row of the grid (empty from GRID_ROWS on)."""
    import torch

    config = run.config
    with pointing_to_the_doctor():
        image, truth = run.held_out.read(index)
    result = session(
        image,
        num_inference_steps=config.num_inference_steps,
        ensemble_size=config.validation_ensemble_size,
        processing_resolution=config.resolution,
        batch_size=config.train_batch_size,
        output_uncertainty=config.validation_ensemble_size > 1,
        generator=torch.Generator().manual_seed(config.seed),
        refine=False,
    )
    prediction, uncertainty = result.prediction[0], None if result.uncertainty is None else result.uncertainty[0]
    row = [image, *scores.shown(prediction, truth, uncertainty)] if index < GRID_ROWS else []
    return scores.measure(prediction, truth, uncertainty), row


def matting_session(run: Run, network: UNet2DConditionModel) -> MattingSession:
    """A session around the network in training."""
    from sdseg.inference.session import MattingSession
    from sdseg.model import inference_scheduler

    return MattingSession(
        network,
        run.base.vae,
        inference_scheduler(prediction_type=run.config.prediction_type),
        run.base.prompt_embedding,
        target=run.held_out.target.kind,
        class_colours=None if run.colours is None else run.colours.tolist(),
    )


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
    """Figures of mattes against true ones, and how wide their uncertainty is."""

    def measure(self, matte: np.ndarray, truth: np.ndarray, deviation: np.ndarray | None) -> dict[str, float]:
        """One picture's part; float32 [H, W] in [0, 1] each."""
        import numpy as np

        from sdseg.evaluation.metrics import iou, mad, mse

        found = {"mad": mad(matte, truth), "mse": mse(matte, truth), "iou": iou(matte, truth)}
        if deviation is not None:
            found["squared_error"] = float(np.square(matte - truth, dtype=np.float64).sum())
            found["variance"] = float(np.square(deviation, dtype=np.float64).sum())
        return found

    def shown(self, matte: np.ndarray, truth: np.ndarray, deviation: np.ndarray | None) -> list[np.ndarray]:
        """Truth, matte and twice the deviation, for a row of the grid."""
        return [truth, matte] + ([] if deviation is None else [(deviation * 2).clip(0, 1)])

    def figures(self, measured: list[dict[str, float]]) -> dict[str, float]:
        """Of all pictures, in their order."""
        import numpy as np

        from sdseg.evaluation.metrics import calibration_scale

        means = {name: float(np.mean([found[name] for found in measured])) for name in ("mad", "mse", "iou")}
        squared_error, variance = (
            sum(found.get(key, 0.0) for found in measured) for key in ("squared_error", "variance")
        )
        return means | ({"calibration_scale": calibration_scale(squared_error, variance)} if variance else {})


class ClassScores:
    """Accuracy and mean IoU of class maps, pixels of all pictures together."""

    def __init__(self, colours: np.ndarray):
        self.colours = colours

    def measure(self, ids: np.ndarray, truth: np.ndarray, _entropy: np.ndarray | None) -> np.ndarray:
        """One picture's confusion matrix; ids uint8 [H, W] and int32 [H, W], NO_CLASS where there is none."""
        import numpy as np

        from sdseg.evaluation.segmentation_metrics import confusion_matrix

        return confusion_matrix(ids.astype(np.int32), truth, len(self.colours), ignore=NO_CLASS)

    def shown(self, ids: np.ndarray, truth: np.ndarray, entropy: np.ndarray | None) -> list[np.ndarray]:
        """Both in their colours, void grey, and the entropy, for a row of the grid."""
        import numpy as np

        colours = np.concatenate([self.colours, np.full((1, 3), 127, np.uint8)])
        return [colours[truth], colours[ids]] + ([] if entropy is None else [entropy])

    def figures(self, measured: list[np.ndarray]) -> dict[str, float]:
        """Of all pictures."""
        from sdseg.evaluation.segmentation_metrics import accuracy, mean_iou

        matrix = sum(measured)
        return {"accuracy": float(accuracy(matrix)), "mean_iou": float(mean_iou(matrix))}
