"""Figures that compare hard masks and class maps with the true ones.

Binary figures take `prediction` and `truth` [H, W] of one size with values in [0, 1], as `sdseg.evaluation.metrics`.
The truth's foreground is {g ≥ 0.5}; the prediction is used unchanged where a definition uses its values (MAE,
S-measure, weighted F). Unlike in the authors' scripts it is not stretched to [0, 1] first, which would make a subject
out of an empty picture. Where truth and prediction are both empty, scores are 1 and errors 0.

Figures of classes are computed from a confusion matrix of class maps, integers [H, W]; the matrices of several
pictures are summed. All shares are in [0, 1].
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdseg.evaluation.metrics import boundary_f, checked_pair, iou

BETA_SQUARED = 0.3  # usual for salient objects; favours precision
Threshold = float | Literal["adaptive", "mean", "max"]
Protocol = Literal["standard", "ddpm-seg"]


# -------------------------------------------------------------------------------------------------- binary


def mae(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error, mean |p − [g ≥ 0.5]| (Perazzi et al., Saliency filters, CVPR 2012)."""
    prediction, truth = checked_pair(prediction, truth)
    return float(np.abs(prediction - (truth >= 0.5)).mean())


def f_measure(
    prediction: np.ndarray, truth: np.ndarray, beta_squared: float = 1.0, threshold: Threshold = 0.5
) -> float:
    """F = (1 + β²) P R / (β² P + R) of {p ≥ t} (Achanta et al., Frequency-tuned saliency, CVPR 2009).

    P is the share of {p ≥ t} that is true, R the share of the truth that is predicted. `threshold` is t, or
    `adaptive` (t = min(2 · mean p, 1)), or `mean` or `max` over t = 0, 1/255 … 1. With counts, since P and R
    can be undefined: (1 + β²) |both| / (β² |truth| + |predicted|), and 1 where both are empty.
    """
    prediction, truth = checked_pair(prediction, truth)
    return _over_thresholds(lambda *counts: _f_of_counts(*counts, beta_squared), prediction, truth, threshold)


def e_measure(prediction: np.ndarray, truth: np.ndarray, threshold: Threshold = "mean") -> float:
    """Enhanced alignment, mean (1 + ξ)² / 4 (Fan et al., Enhanced-alignment measure, IJCAI 2018).

    ξ = 2 a b / (a² + b²), where a and b are {p ≥ t} and the truth, 0 or 1 a pixel, less their means over the
    picture. Where the truth is empty (or full) the share of {p ≥ t} that is outside (or inside). `threshold`
    as in `f_measure`. The mean is over H · W pixels as in the paper (its code divides by H · W − 1).
    """
    prediction, truth = checked_pair(prediction, truth)
    return _over_thresholds(_e_of_counts, prediction, truth, threshold)


def s_measure(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Structure measure, max(0, (object + region) / 2) (Fan et al., Structure-measure, ICCV 2017).

    The object part compares values inside and outside the truth with 1 and 0; the region part is a
    similarity of the four quadrants about the truth's centroid, weighted by area. As in the authors' code
    the centroid's own row and column belong to the upper and left quadrants, so a flip moves the figure a
    little. Where the truth is empty 1 − mean p, where it is full mean p.
    """
    prediction, truth = checked_pair(prediction, truth)
    inside = truth >= 0.5
    share = inside.mean()
    if share in (0, 1):
        return float(prediction.mean() if share else 1 - prediction.mean())
    objects = share * _object_score(prediction[inside]) + (1 - share) * _object_score(1 - prediction[~inside])
    row, column = (math.floor(mean + 0.5) + 1 for mean in np.argwhere(inside).mean(axis=0))
    region = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            quadrant = inside[rows, columns].astype(np.float64)
            if quadrant.size:
                region += quadrant.size / inside.size * _similarity(prediction[rows, columns], quadrant)
    return float(max(0, (objects + region) / 2))


def weighted_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Weighted F, β = 1 (Margolin et al., How to evaluate foreground maps?, CVPR 2014).

    F = 2PR / (P + R) of a weighted error e: inside the truth e is |p − g|, or its mean over a 7×7 Gaussian
    window (σ = 5, zeros beyond the picture) where that is smaller; in it a pixel outside stands for the
    error of the nearest pixel inside (of several the leftmost, then the uppermost). Outside, e is
    |p − g| (2 − 2^(−d/5)) at d pixels from the truth. R = 1 − mean e inside, P = T / (T + Σ e outside) with
    T = Σ (1 − e) inside. Where the truth is empty, 1 if the prediction is 0 everywhere, else 0.
    """
    import cv2
    from scipy.ndimage import distance_transform_edt

    prediction, truth = checked_pair(prediction, truth)
    inside = truth >= 0.5
    if not inside.any():
        return float(not prediction.any())
    error = np.abs(prediction - inside)
    distance, (row, column) = distance_transform_edt(~inside, return_indices=True)
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 5**2))
    window /= window.sum()
    around = cv2.sepFilter2D(error[row, column], cv2.CV_64F, window, window, borderType=cv2.BORDER_CONSTANT)
    missed = np.minimum(error, around)[inside]
    surplus = (error * (2 - np.exp2(-distance / 5)))[~inside].sum()
    correct = (1 - missed).sum()
    if correct == 0:
        return 0.0
    precision, recall = correct / (correct + surplus), 1 - missed.mean()
    return float(2 * precision * recall / (precision + recall))


_BINARY_MEASURES = {
    "iou": iou,
    "f1": f_measure,
    "f_beta": lambda prediction, truth: f_measure(prediction, truth, BETA_SQUARED),
    "boundary_f": boundary_f,
    "mae": mae,
    "s_measure": s_measure,
    "e_measure": e_measure,
    "weighted_f": weighted_f,
}
BINARY_FIGURES = tuple(_BINARY_MEASURES)


def binary_metrics(
    prediction: np.ndarray, truth: np.ndarray, figures: Sequence[str] = BINARY_FIGURES
) -> dict[str, float]:
    """The figures that compare hard masks, by name; `figures` chooses among BINARY_FIGURES.

    `iou`, `f1`, `f_beta` (β² = 0.3) and `boundary_f` are of {p ≥ 0.5}, `e_measure` is the mean over thresholds.
    """
    return {name: _BINARY_MEASURES[name](prediction, truth) for name in figures}


# --------------------------------------------------------------------------------------------- multi-class


def confusion_matrix(
    prediction: np.ndarray, truth: np.ndarray, classes: int, predicted_classes: int | None = None, ignore: int = 255
) -> np.ndarray:
    """Pixels by (true class, predicted class), int64 [classes + 1, predicted_classes + 1].

    Class maps are integers [H, W]: `truth` 0 … classes − 1, `prediction` 0 … predicted_classes − 1 (default:
    `classes`; a clustering may use any number), or `ignore` for none. The last row counts predictions on ignored
    pixels, the last column pixels without a prediction.

    Raises:
        ValueError: other values, or different sizes.
    """
    predicted_classes = classes if predicted_classes is None else predicted_classes
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"class maps must be [H, W] of one size, got {prediction.shape} and {truth.shape}")
    index = []
    for name, labels, count in (("truth", truth, classes), ("prediction", prediction, predicted_classes)):
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold integer classes, got {labels.dtype}")
        labels = labels.astype(np.int64)
        if wrong := np.setdiff1d(labels[(labels < 0) | (labels >= count)], [ignore]).tolist():
            raise ValueError(f"{name} has class {wrong[0]}; classes are 0 to {count - 1}, and {ignore} to ignore")
        index.append(np.where(labels == ignore, count, labels).ravel())
    shape = (classes + 1, predicted_classes + 1)
    return np.bincount(np.ravel_multi_index(index, shape), minlength=math.prod(shape)).reshape(shape)


def assign_labels(matrix: np.ndarray) -> np.ndarray:
    """Assigns at most one predicted label to each class, so that as many pixels as possible agree (Kuhn 1955).

    Args:
        matrix: a `confusion_matrix` with any number of predicted labels.

    Returns:
        The label of each class, int64 [classes], -1 for none; of several optimal assignments, the one scipy finds.
    """
    from scipy.optimize import linear_sum_assignment

    true_class, label = linear_sum_assignment(matrix[:-1, :-1], maximize=True)
    labels = np.full(len(matrix) - 1, -1)
    labels[true_class] = label
    return labels


def match_labels(matrix: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Renames predicted labels to the classes they are assigned to: a `confusion_matrix` [classes + 1, classes + 1].

    `labels`: what `assign_labels` returned, for this matrix (None) or for another. Labels without a class count as no
    prediction.
    """
    labels = assign_labels(matrix) if labels is None else labels
    classes = len(matrix) - 1
    matched = np.zeros((classes + 1, classes + 1), matrix.dtype)
    assigned = np.flatnonzero(labels >= 0)
    matched[:, assigned] = matrix[:, labels[assigned]]
    matched[:, -1] = matrix.sum(axis=1) - matched.sum(axis=1)
    return matched


def accuracy(matrix: np.ndarray) -> float:
    """Share of the labelled pixels whose class is predicted; NaN where no pixel is labelled."""
    labelled = matrix[:-1].sum()
    return float(np.trace(matrix[:-1, :-1]) / labelled) if labelled else math.nan


def mean_accuracy(matrix: np.ndarray) -> float:
    """Mean over the classes in the truth of the share of their pixels that is predicted; NaN without such classes."""
    correct, wanted = np.diag(matrix[:-1, :-1]), matrix[:-1].sum(axis=1)
    present = wanted > 0
    return float((correct[present] / wanted[present]).mean()) if present.any() else math.nan


def class_iou(matrix: np.ndarray, protocol: Protocol = "standard") -> np.ndarray:
    """Intersection over union of each class, float64 [classes], from a confusion matrix summed over a set.

    `standard`: over labelled pixels; NaN for a class that neither truth nor prediction has. `ddpm-seg`
    (Baranchuk et al., ICLR 2022, as their code does): predictions on ignored pixels count in the unions, and
    a class absent everywhere has 0.
    """
    if protocol not in ("standard", "ddpm-seg"):
        raise ValueError(f"unknown mIoU protocol {protocol!r}; use 'standard' or 'ddpm-seg'")
    both = np.diag(matrix[:-1, :-1])
    predicted = matrix[: None if protocol == "ddpm-seg" else -1, :-1].sum(axis=0)
    union = matrix[:-1].sum(axis=1) + predicted - both
    absent = 0.0 if protocol == "ddpm-seg" else math.nan
    return np.where(union > 0, both / np.maximum(union, 1), absent)


def mean_iou(matrix: np.ndarray, protocol: Protocol = "standard") -> float:
    """Mean of `class_iou` over the classes that have one; NaN where none has."""
    figures = class_iou(matrix, protocol)
    figures = figures[~np.isnan(figures)]
    return float(figures.mean()) if figures.size else math.nan


# --------------------------------------------------------------------------------------------------- parts


def _over_thresholds(figure, prediction: np.ndarray, truth: np.ndarray, threshold: Threshold) -> float:
    """figure(both, predicted, wanted, size), from pixel counts [n] of n thresholds to [n], at `threshold`."""
    inside = truth >= 0.5
    if threshold in ("mean", "max"):
        level = (prediction * 255).astype(np.int64)  # of an 8-bit k, k: k / 255 in single precision rounds up
        histogram = np.bincount(level.ravel(), minlength=256)
        true_histogram = np.bincount(level[inside], minlength=256)
        predicted, both = (np.cumsum(counts[::-1])[::-1] for counts in (histogram, true_histogram))
    else:
        limit = min(2 * prediction.mean(), 1) if threshold == "adaptive" else threshold
        if not isinstance(limit, int | float):
            raise ValueError(f"unknown threshold {threshold!r}; use a number, 'adaptive', 'mean' or 'max'")
        above = prediction >= limit
        predicted, both = np.array([above.sum()]), np.array([(above & inside).sum()])
    figures = figure(both, predicted, inside.sum(), inside.size)
    return float(figures.max() if threshold == "max" else figures.mean())


def _f_of_counts(both, predicted, wanted, size, beta_squared: float) -> np.ndarray:
    """F of `f_measure`."""
    denominator = beta_squared * wanted + predicted
    return np.divide((1 + beta_squared) * both, denominator, out=np.ones(len(both)), where=denominator > 0)


def _e_of_counts(both, predicted, wanted, size) -> np.ndarray:
    """E of `e_measure`: only four kinds of pixels occur, by what they are in prediction and truth."""
    if wanted in (0, size):
        return (predicted if wanted else size - predicted) / size
    total = np.zeros(len(both))
    for in_prediction in (0, 1):
        for in_truth in (0, 1):
            a, b = in_prediction - predicted / size, in_truth - wanted / size
            count = {
                (1, 1): both,
                (1, 0): predicted - both,
                (0, 1): wanted - both,
                (0, 0): size - predicted - wanted + both,
            }[in_prediction, in_truth]
            total += count * (1 + 2 * a * b / (a**2 + b**2)) ** 2 / 4
    return total / size


def _object_score(values: np.ndarray) -> float:
    """2 m / (m² + 1 + s) of n values that should be 1, m their mean and s their standard deviation (n − 1)."""
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * values.mean() / (values.mean() ** 2 + 1 + deviation)


def _similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of two whole pictures without its constants: 4 x̄ ȳ σ_xy / ((x̄² + ȳ²)(σ_x² + σ_y²)), 0 / 0 = 1."""
    mean, wanted = prediction.mean(), truth.mean()
    deviation, wanted_deviation = prediction - mean, truth - wanted
    if np.ptp(prediction) == 0:
        deviation[:] = 0  # else the mean's rounding decides between 0 and 1
    numerator = 4 * mean * wanted * (deviation * wanted_deviation).mean()
    denominator = (mean**2 + wanted**2) * ((deviation**2).mean() + (wanted_deviation**2).mean())
    if numerator == 0:
        return float(denominator == 0)
    return numerator / denominator
