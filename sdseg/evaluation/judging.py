"""Judges one picture: reads prediction and truth, and computes their figures."""

import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg.evaluation.metrics import BAND_RADIUS, MATTE_FIGURES
from sdseg.evaluation.segmentation_metrics import BINARY_FIGURES
from sdseg.imaging import ImageError, read_alpha, read_grey16
from sdseg.outputs import ALPHA_SUFFIX, UNCERTAINTY_SUFFIX

if TYPE_CHECKING:
    from sdseg.evaluation.benchmark_sets import BenchmarkSet, Item

CLASS_FIGURES = ("accuracy", "mean_accuracy", "mean_iou")
FIGURES = {"matte": MATTE_FIGURES, "binary": BINARY_FIGURES, "classes": CLASS_FIGURES}
WORST_BY = {"matte": "mad", "binary": "mae", "classes": "mean_iou"}
SHAPE_FIGURES = ("iou", "boundary_f")
MATTE_DEFINITIONS = {
    "sad": "sum |p - g| / 1000",
    "mad": "mean |p - g|",
    "mse": "mean (p - g)^2",
    "grad": "sum (|grad p| - |grad g|)^2 / 1000; Gaussian derivatives, sigma 1.4, 9x9, each of L2 norm 1",
    "conn": "sum |phi(p) - phi(g)| / 1000; thresholds 0, 0.1 ... 1, 4-connected, phi = 1 - d [d >= 0.15]",
    "iou": "intersection over union of alpha >= 0.5; 1 where both are empty",
    "boundary_f": "F of the boundaries of alpha >= 0.5; tolerance 0.008 of the diagonal, rounded up",
}
BINARY_DEFINITIONS = {
    "iou": MATTE_DEFINITIONS["iou"],
    "f1": "2 |both| / (|truth| + |predicted|) of alpha >= 0.5; 1 where both are empty",
    "f_beta": "1.3 |both| / (0.3 |truth| + |predicted|) of alpha >= 0.5; 1 where both are empty",
    "boundary_f": MATTE_DEFINITIONS["boundary_f"],
    "mae": "mean |p - [g >= 0.5]|",
    "s_measure": "structure measure (Fan 2017), alpha 0.5",
    "e_measure": "enhanced alignment (Fan 2018), mean over the thresholds 0, 1/255 ... 1",
    "weighted_f": "weighted F (Margolin 2014), beta 1",
}
CLASS_DEFINITIONS = {
    "accuracy": "share of the labelled pixels whose class is predicted",
    "mean_accuracy": "mean over the classes in the truth of the share of their pixels that is predicted",
    "mean_iou": "mean over classes of intersection over union, pixels summed over the set",
}
DEFINITIONS = {"matte": MATTE_DEFINITIONS, "binary": BINARY_DEFINITIONS, "classes": CLASS_DEFINITIONS}
UNCERTAINTY_DEFINITIONS = {
    "ause": "area between the sparsification curves by uncertainty and by |p - g|, mean error, alpha units",
    "spearman": "rank correlation of uncertainty and |p - g| over pixels; null where one is constant",
    "within_1_std": "share of pixels with |p - g| <= 1 (2, 3) standard deviations; normal: .683 .954 .997",
    "calibrated": "pictures whose run multiplied the uncertainty by its adapter's scale; null where no run.json says",
    "calibration_scale": "s with s^2 = mean (p - g)^2 / mean variance over all pixels of the set",
    "scaled": "the shares again with the uncertainty times calibration_scale, fitted on this same set",
}
BAND_DEFINITIONS = {
    "unknown": "the trimap's unknown band: all but its lowest and highest value",
    "transition": f"pixels at most {BAND_RADIUS} pixels from one with 0 < g < 1",
    "foreground": "g = 1 outside the transition; no IoU or boundary F, since the truth has no shape there",
    "background": "g = 0 outside the transition; likewise",
}
PROTOCOL_DEFINITIONS = {
    "standard": "over labelled pixels; a class in neither truth nor prediction is left out",
    "ddpm-seg": "predictions on ignored pixels count in the unions; a class absent everywhere counts as 0",
}
MATCH_DEFINITIONS = {
    None: "labels are the classes",
    "image": "labels are assigned to classes in each picture, so that most pixels agree (Hungarian)",
    "dataset": "labels are assigned to classes once for the set, so that most pixels agree (Hungarian)",
}


@dataclass(frozen=True)
class Evaluation:
    """Predictions, truths and settings of an evaluation; `open_evaluation` makes and checks it."""

    truths: "BenchmarkSet"
    predictions: dict[str, Path]
    """file of each item of `truths`, by the item's name"""
    unused: list[str]
    """names of predictions without truth"""
    kind: str
    figures: tuple[str, ...]
    dataset: tuple[str, Path, str | None] | None = None
    """name, folder and split of `truths`, if it is a benchmark set"""
    compared: dict[str, Path] | None = None
    """the same of the second method"""
    compared_name: str | None = None
    classes: tuple[str, ...] | None = None
    """kind classes: their names, "" where unnamed"""
    miou_protocol: str = "standard"
    match: str | None = None
    void: int = 255
    """the value in predicted class maps that means no class"""
    resize: bool = False
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    unlisted: list[str] = field(default_factory=list)
    """predictions, judged, that the run.json of their folder does not list"""
    stale: frozenset[Path] = frozenset()
    """uncertainty maps that run.json does not list; they are not judged"""
    scales: dict[str, float | None] | None = None
    """by the item's name, the factor that its run multiplied its uncertainty by; None without a run.json"""


@dataclass(frozen=True)
class Judged:
    """The result of one picture."""

    entry: dict
    """its entry in `images` of metrics.json"""
    matrix: np.ndarray | None = None
    """kind classes: its confusion matrix"""
    squared_error: float = 0.0
    """sums over its pixels, for the calibration; 0 without an uncertainty"""
    variance: float = 0.0


# ----------------------------------------------------------------------------------------------------- reading


def read_case(evaluation: Evaluation, item: "Item", predicted: Path):
    """Reads one picture: (prediction, truth, uncertainty or None, size (W, H) of the prediction's file).

    All three are [H, W], the size of the truth: float32 in [0, 1], or for kind classes int32, -1 for none.

    Raises:
        ImageError: sizes differ and the evaluation does not resize, or the truth is a mask of ids 0 and 1.
    """
    truth = evaluation.truths.read_truth(item)
    deviation = None
    if evaluation.kind == "classes":
        values = read_labels(predicted, evaluation.void)
    else:
        if item.truth is not None and truth.max() == np.float32(1 / 255):
            raise ImageError(
                f"{item.truth}: its greatest value is 1 of 255, so it is a mask of ids 0 and 1, not a matte; store 255 "
                "for the subject, or judge it with --kind classes --num_classes 2"
            )
        values = read_alpha(predicted)
        file = predicted.with_name(predicted.name.removesuffix(ALPHA_SUFFIX) + UNCERTAINTY_SUFFIX)
        if os.path.exists(file) and file not in evaluation.stale:  # False for names too long to exist
            deviation = _fitting(read_grey16(file), file, truth, item, evaluation.resize)
    size = (values.shape[1], values.shape[0])
    return _fitting(values, predicted, truth, item, evaluation.resize), truth, deviation, size


def _fitting(values: np.ndarray, file: Path, truth: np.ndarray, item: "Item", resize: bool) -> np.ndarray:
    """`values` at the size of the truth. Raises ImageError where they have another and must not be resized."""
    if values.shape == truth.shape:
        return values
    if resize:
        return resized(values, truth.shape)
    (height, width), (true_height, true_width) = values.shape, truth.shape
    raise ImageError(
        f"{file} is {width}x{height}, but its ground truth {item.truth or item.name} is {true_width}x{true_height}; "
        "predict at the picture's own size, or evaluate with --resize"
    )


def resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] -> [H, W]: float32 in [0, 1] bilinear with antialiasing, int32 labels by nearest neighbour."""
    from PIL import Image

    labels = values.dtype.kind == "i"
    method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    picture = np.asarray(Image.fromarray(values).resize(shape[::-1], method))
    return picture if labels else picture.clip(0, 1)


def read_labels(path: Path, void: int) -> np.ndarray:
    """A class map, int32 [H, W]: ids as `imaging.read_label_file` reads them, -1 for `void`."""
    from sdseg.imaging import read_label_file

    labels = read_label_file(path)
    labels[labels == void] = -1
    return labels


def read_true_labels(item: "Item", void: int) -> np.ndarray:
    return read_labels(item.truth, void)


# ---------------------------------------------------------------------------------------------------- pictures


def judge_picture(evaluation: Evaluation, item: "Item", predicted: Path) -> Judged:
    """The figures of one picture, or its confusion matrix for kind classes (see `with_class_figures`)."""
    prediction, truth, deviation, size = read_case(evaluation, item, predicted)
    entry = {"name": item.name, "size": [truth.shape[1], truth.shape[0]]}
    if size != tuple(entry["size"]):
        entry["resized_from"] = list(size)
    if evaluation.kind == "classes":
        return Judged(entry, matrix=_matrix(evaluation, item, predicted, prediction, truth))
    if evaluation.kind == "matte":
        entry |= matte_figures(evaluation, item, prediction, truth)
        error = abs(prediction - truth)
    else:
        from sdseg.evaluation.segmentation_metrics import binary_metrics

        entry |= binary_metrics(prediction, truth, evaluation.figures)
        error = abs(prediction - (truth >= 0.5))
    if deviation is None:
        return Judged(entry)
    entry["uncertainty"] = uncertainty_metrics(error, deviation)
    return Judged(
        entry,
        squared_error=float((error.astype(np.float64) ** 2).sum()),
        variance=float((deviation.astype(np.float64) ** 2).sum()),
    )


def matte_figures(evaluation: Evaluation, item: "Item", prediction: np.ndarray, truth: np.ndarray) -> dict:
    """Figures of two mattes over the whole picture, and in `bands` over its parts (None for an empty one)."""
    from sdseg.evaluation.metrics import matte_bands, metrics_of_parts, trimap_band

    bands = matte_bands(truth)
    if (trimap := evaluation.truths.read_trimap(item)) is not None:
        if trimap.shape != truth.shape:
            raise ImageError(
                f"{item.trimap} is {trimap.shape[1]}x{trimap.shape[0]}, but its ground truth is "
                f"{truth.shape[1]}x{truth.shape[0]}; give trimaps at the truth's own size"
            )
        bands = {"unknown": trimap_band(trimap), **bands}
    parts = {name: band for name, band in bands.items() if band.any()}
    whole, *others = metrics_of_parts(prediction, truth, [None, *parts.values()], evaluation.figures)
    figures = dict(zip(parts, others, strict=True))
    for name in figures.keys() & {"foreground", "background"}:  # alpha is constant there: no shape to compare
        figures[name] = {key: value for key, value in figures[name].items() if key not in SHAPE_FIGURES}
    return whole | {"bands": {name: figures.get(name) or None for name in bands}}


def uncertainty_metrics(error: np.ndarray, deviation: np.ndarray) -> dict:
    """AUSE, Spearman's correlation and calibration shares of |p − g| and standard deviation, [H, W] each."""
    from sdseg.evaluation.metrics import ause, spearman

    correlation = spearman(error, deviation)
    return {
        "ause": ause(error, deviation),
        "spearman": None if math.isnan(correlation) else correlation,
        **shares(error, deviation),
    }


def shares(error: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
    """Calibration shares by name."""
    from sdseg.evaluation.metrics import calibration_shares

    within = calibration_shares(error, deviation)
    return {f"within_{count}_std": share for count, share in enumerate(within, start=1)}


def scaled_shares(evaluation: Evaluation, item: "Item", predicted: Path, scale: float) -> dict[str, float]:
    """Calibration shares of a picture with its uncertainty multiplied by `scale`.

    The picture is read again, because a whole set need not fit in memory.
    """
    prediction, truth, deviation, _ = read_case(evaluation, item, predicted)
    return shares(abs(prediction - (truth if evaluation.kind == "matte" else truth >= 0.5)), deviation * scale)


def matte_part(entry: dict) -> dict:
    """The figures of an entry over the whole picture, without uncertainty."""
    others = ("name", "size", "resized_from", "bands", "uncertainty", "labels")
    return {key: value for key, value in entry.items() if key not in others}


def flat_figures(entry: dict) -> dict[str, float | None]:
    """All figures of an entry; those of bands are named `transition.sad`, those of uncertainty `uncertainty.ause`."""
    flat = dict(matte_part(entry))
    for name, figures in (entry.get("bands") or {}).items():
        flat |= {f"{name}.{key}": value for key, value in (figures or {}).items()}
    return flat | {f"uncertainty.{key}": value for key, value in entry.get("uncertainty", {}).items()}


# ------------------------------------------------------------------------------------------------------ classes


def _matrix(evaluation: Evaluation, item: "Item", predicted: Path, prediction, truth) -> np.ndarray:
    """Confusion matrix of a picture; the labels of a clustering have a column each, up to the largest."""
    from sdseg.evaluation.segmentation_metrics import confusion_matrix

    count = len(evaluation.classes)
    for labels, file in ((truth, item.truth or item.name), (prediction, predicted)):
        if (labels is truth or evaluation.match is None) and labels.max() >= count:
            remedy = "" if labels is truth else "; labels of a clustering need --match image or --match dataset"
            raise ImageError(
                f"{file}: has class {labels.max()}, but there are {count}, ids 0 to {count - 1}, and "
                f"{evaluation.void} for void{remedy}"
            )
    columns = count if evaluation.match is None else max(1, int(prediction.max()) + 1)
    return confusion_matrix(prediction, truth, count, columns, ignore=-1)


def with_class_figures(pictures: list[Judged], evaluation: Evaluation) -> list[Judged]:
    """Adds figures to the entries of kind classes; other kinds are returned unchanged.

    The matrices of the result are [classes + 1, classes + 1], or with match `dataset` of one common width.
    """
    if evaluation.kind != "classes":
        return pictures
    from sdseg.evaluation.segmentation_metrics import assign_labels, match_labels

    matrices, labels = [picture.matrix for picture in pictures], None
    if evaluation.match == "image":
        labels = [assign_labels(matrix) for matrix in matrices]
    elif evaluation.match == "dataset":
        width = max(matrix.shape[1] for matrix in matrices)
        # the last column counts pixels without a prediction, so columns are inserted before it
        matrices = [np.insert(matrix, [-1] * (width - matrix.shape[1]), 0, axis=1) for matrix in matrices]
        labels = [assign_labels(sum(matrices))] * len(matrices)
    results = []
    for number, (picture, matrix) in enumerate(zip(pictures, matrices, strict=True)):
        entry, own = dict(picture.entry), matrix
        if labels is not None:
            entry["labels"] = labels[number].tolist()
            own = match_labels(matrix, labels[number])
        entry |= class_figures(own, evaluation, "standard")
        results.append(Judged(entry, own if evaluation.match == "image" else matrix))
    return results


def class_figures(matrix: np.ndarray, evaluation: Evaluation, miou_protocol: str) -> dict[str, float | None]:
    """The chosen figures of a confusion matrix of classes; None where no pixel is labelled."""
    from sdseg.evaluation.segmentation_metrics import accuracy, mean_accuracy, mean_iou

    measures = {
        "accuracy": accuracy,
        "mean_accuracy": mean_accuracy,
        "mean_iou": partial(mean_iou, protocol=miou_protocol),
    }
    return {name: or_none(measures[name](matrix)) for name in evaluation.figures}


def class_summary(pictures: list[Judged], evaluation: Evaluation) -> dict:
    """`set`: figures over the pixels of all pictures together; `classes`: an entry for each class."""
    from sdseg.evaluation.segmentation_metrics import assign_labels, class_iou, match_labels

    matrix, labels = sum(picture.matrix for picture in pictures), None
    if evaluation.match == "dataset":
        labels = assign_labels(matrix)
        matrix = match_labels(matrix, labels)
    ious = class_iou(matrix, evaluation.miou_protocol)
    classes = [
        {
            "id": number,
            "name": name,
            "iou": or_none(float(ious[number])),
            "true_pixels": int(matrix[number].sum()),
            "predicted_pixels": int(matrix[:, number].sum()),
        }
        | ({} if labels is None else {"label": int(labels[number])})
        for number, name in enumerate(evaluation.classes)
    ]
    figures = class_figures(matrix, evaluation, evaluation.miou_protocol)
    return {"set": {"count": len(pictures), **figures}, "classes": classes}


def or_none(figure: float) -> float | None:
    return None if math.isnan(figure) else figure
