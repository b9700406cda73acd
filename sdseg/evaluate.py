"""Judges a folder of predictions against the truth.

    python -m sdseg.evaluate --prediction DIR --ground_truth DIR --output metrics.json
    python -m sdseg.evaluate --prediction DIR --dataset NAME --data_dir DIR --output_dir DIR

The prediction folder is what every method writes (see `sdseg.outputs`): `<path>.png` belongs to the ground
truth of the same relative path without extension; `<path>.uncertainty.png`, where there is one, is judged
too. The truth is a folder of mattes, masks or class maps, or a set that `sdseg.benchmark_sets` knows by name.
docs/evaluation.md explains every figure and every key of the result.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from sdseg.imaging import ImageError, list_images, read_alpha, read_grey16
from sdseg.metrics import BAND_RADIUS, MATTE_FIGURES
from sdseg.outputs import ALPHA_SUFFIX, RGBA_SUFFIX, UNCERTAINTY_SUFFIX, output_file, output_names
from sdseg.segmentation_metrics import BINARY_FIGURES

if TYPE_CHECKING:
    from sdseg.benchmark_sets import BenchmarkSet, Item

CLASS_FIGURES = ("accuracy", "mean_accuracy", "mean_iou")
FIGURES = {"matte": MATTE_FIGURES, "binary": BINARY_FIGURES, "classes": CLASS_FIGURES}
WORST_BY = {"matte": "mad", "binary": "mae", "classes": "mean_iou"}
LOWER_IS_BETTER = {"sad", "mad", "mse", "grad", "conn", "mae", "ause"}
UNDIRECTED = ("within_1_std", "within_2_std", "within_3_std")  # closer to a normal law is better, not larger
SHAPE_FIGURES = ("iou", "boundary_f")
MISSING_SHOWN = 5
DRAWS_AT_ONCE = 200
PICTURES_A_WORKER = 8  # fewer are not worth the second it takes to start one

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
    "mean_accuracy": "mean over the classes in the truth of the share of their pixels that is found",
    "mean_iou": "mean over classes of intersection over union, pixels summed over the set",
}
DEFINITIONS = {"matte": MATTE_DEFINITIONS, "binary": BINARY_DEFINITIONS, "classes": CLASS_DEFINITIONS}
UNCERTAINTY_DEFINITIONS = {
    "ause": "area between the sparsification curves by uncertainty and by |p - g|, mean error, alpha units",
    "spearman": "rank correlation of uncertainty and |p - g| over pixels; null where one is constant",
    "within_1_std": "share of pixels with |p - g| <= 1 (2, 3) standard deviations; normal: .683 .954 .997",
    "calibration_scale": "s with s^2 = mean (p - g)^2 / mean variance over all pixels of the set",
    "scaled": "the shares again with the uncertainty times calibration_scale, fitted on this very set",
}
BAND_DEFINITIONS = {
    "unknown": "the trimap's unknown band: all but its lowest and highest value",
    "transition": f"pixels at most {BAND_RADIUS} pixels from one with 0 < g < 1",
    "foreground": "g = 1 outside the transition; no IoU or boundary F, since the truth has no shape there",
    "background": "g = 0 outside the transition; likewise",
}
PROTOCOL_DEFINITIONS = {
    "standard": "over labelled pixels; a class that neither truth nor prediction has is left out",
    "ddpm-seg": "predictions on ignored pixels count in the unions; a class absent everywhere has 0",
}
MATCH_DEFINITIONS = {
    None: "labels are the classes",
    "image": "labels are given classes in each picture anew, for the most pixels that agree (Hungarian)",
    "dataset": "labels are given classes once for the set, for the most pixels that agree (Hungarian)",
}


# ------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class Evaluation:
    """What is judged against what, and how: made by `open_evaluation`, which checks it all."""

    truths: "BenchmarkSet"
    predictions: dict[str, Path]
    """prediction of each item of `truths`, by the item's name"""
    unused: list[str]
    """names of predictions without truth"""
    kind: str
    figures: tuple[str, ...]
    dataset: tuple[str, Path, str | None] | None = None
    """name, folder and split that `truths` was opened with, if it is a set by name"""
    compared: dict[str, Path] | None = None
    """the second method's predictions, likewise"""
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


@dataclass(frozen=True)
class Judged:
    """What one picture gave."""

    entry: dict
    """its part of the result"""
    matrix: np.ndarray | None = None
    """kind classes: its confusion matrix"""
    squared_error: float = 0.0
    """sums over its pixels, for the calibration; 0 without an uncertainty"""
    variance: float = 0.0


def open_evaluation(
    prediction: str | Path,
    ground_truth: str | Path | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    kind: str | None = None,
    figures: Sequence[str] | None = None,
    images: str | Path | None = None,
    trimap_dir: str | Path | None = None,
    classes: Sequence[str] | None = None,
    miou_protocol: str = "standard",
    match: str | None = None,
    void: int = 255,
    compare: str | Path | None = None,
    resize: bool = False,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Pairs the files of a run and checks its settings; the arguments are those of `evaluate_folder`.

    `images`, a folder of the photos, is needed by pictures of the result only.
    """
    truths = _truths(ground_truth, dataset, data_dir, split, kind, images, trimap_dir, void)
    kind = truths.kind
    if unknown := [name for name in figures or () if name not in FIGURES[kind]]:
        raise ValueError(f"--metrics {unknown[0]}: --kind {kind} has {', '.join(FIGURES[kind])}")
    if kind == "classes":
        if classes is None and truths.classes is None:
            raise ValueError("--kind classes needs --num_classes N or --classes FILE (a name a line)")
        classes = tuple(classes or (truths.classes[number] for number in range(len(truths.classes))))
        if miou_protocol not in PROTOCOL_DEFINITIONS:
            raise ValueError(f"--miou_protocol {miou_protocol}: use {' or '.join(PROTOCOL_DEFINITIONS)}")
        if match not in MATCH_DEFINITIONS:
            raise ValueError(f"--match {match}: use none, image or dataset")
    else:
        if classes is not None or match is not None or miou_protocol != "standard":
            raise ValueError(
                f"classes, --miou_protocol and --match belong to --kind classes; leave them out for --kind {kind}"
            )
        classes = None
    if not 0 < confidence < 1:
        raise ValueError(f"--confidence {confidence}: give a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"--resamples {resamples}: give at least 1; 10000 is usual")

    predictions, unused = pair_predictions(Path(prediction), truths)
    compared = None if compare is None else pair_predictions(Path(compare), truths)[0]
    return Evaluation(
        truths=truths,
        predictions=predictions,
        unused=unused,
        kind=kind,
        dataset=None if dataset is None else (dataset, Path(data_dir), split),
        figures=tuple(name for name in FIGURES[kind] if figures is None or name in figures),
        compared=compared,
        compared_name=None if compare is None else str(compare),
        classes=classes,
        miou_protocol=miou_protocol,
        match=match,
        void=void,
        resize=resize,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def evaluate_folder(
    prediction: str | Path, ground_truth: str | Path | None = None, *, workers: int = 1, **settings
) -> dict:
    """Compares every truth with its prediction, at the truth's own size. Returns what metrics.json holds.

    `ground_truth`: folder of the truths; or `dataset`, `data_dir` and perhaps `split`: a benchmark set by name.

    `kind`: `matte` (default, or the set's own), `binary` (the truth is {g ≥ 0.5}) or `classes`.
    `figures`: some of FIGURES[kind] instead of all (`conn` takes as long as the others together).
    `trimap_dir`: folder of trimaps, whose unknown bands are judged apart; a set's own are found without.
    `classes`, `miou_protocol`, `match`, `void`: names of the classes, `standard` or `ddpm-seg`, None or
    `image` or `dataset` for labels that are no classes yet, and the value in class maps that means none.
    `compare`: a second method's folder, judged too and set against the first, picture by picture.
    `resize`: bring predictions to the truth's size, where unequal sizes are an error otherwise.
    `confidence`, `resamples`, `seed`: the bootstrap over pictures (`metrics.confidence_interval`).
    `workers`: processes; any number gives the same result. (More than one needs Python's usual
    `if __name__ == "__main__":` in the script that calls this.)

    Keys: `protocol`; `mean` (over pictures, with their `count`; for classes `set` and `classes` in its place);
    `bands` (mattes: means over parts); `uncertainty` (means, and the calibration; None where no prediction
    has any); `intervals`; `comparison` (or None); `unused_predictions` (names without truth); `images` (one
    entry a picture, in order of name).

    Raises FileNotFoundError where a truth has no prediction, ImageError for pictures that are unreadable, of
    unequal size or of the wrong kind, ValueError for settings that do not go together.
    """
    return judge(open_evaluation(prediction, ground_truth, **settings), workers)


def judge(evaluation: Evaluation, workers: int = 1) -> dict:
    """Carries an evaluation out; see `evaluate_folder`."""
    from sdseg.metrics import calibration_scale

    folders = [evaluation.predictions] + ([evaluation.compared] if evaluation.compared is not None else [])
    items = evaluation.truths.items
    with _mapping(evaluation, workers, len(items) * len(folders)) as mapped:
        tasks = [(item, folder[item.name]) for folder in folders for item in items]
        pictures = list(_progress(mapped(judge_picture, tasks), len(tasks)))
        first, second = pictures[: len(items)], pictures[len(items) :]

        uncertainty = None
        if unsure := [picture for picture in first if "uncertainty" in picture.entry]:
            figures = means([picture.entry["uncertainty"] for picture in unsure])
            uncertainty = {"count": len(unsure), **figures, "calibration_scale": None, "scaled": None}
            variance = sum(picture.variance for picture in unsure)
            if variance > 0:
                scale = calibration_scale(sum(picture.squared_error for picture in unsure), variance)
                names = {picture.entry["name"] for picture in unsure}
                again = [(item, evaluation.predictions[item.name], scale) for item in items if item.name in names]
                uncertainty |= {"calibration_scale": scale, "scaled": means(list(mapped(scaled_shares, again)))}

    first = with_class_figures(first, evaluation)
    images = [picture.entry for picture in first]
    result = {"protocol": protocol(evaluation, images)}
    if evaluation.kind == "classes":
        result |= class_summary(first, evaluation)
    else:
        result["mean"] = {"count": len(images), **means([matte_part(entry) for entry in images])}
    if evaluation.kind == "matte":
        result["bands"] = band_means(images)
    comparison = None
    if evaluation.compared is not None:
        second = with_class_figures(second, evaluation)
        comparison = {
            "prediction": evaluation.compared_name,
            "figures": compare(first, second, evaluation),
            "images": [picture.entry for picture in second],
        }
    return result | {
        "uncertainty": uncertainty,
        "intervals": intervals(first, evaluation),
        "comparison": comparison,
        "unused_predictions": evaluation.unused,
        "images": images,
    }


# ----------------------------------------------------------------------------------------------------- pairing


def _truths(ground_truth, dataset, data_dir, split, kind, images, trimap_dir, void) -> "BenchmarkSet":
    """The truth side of `open_evaluation` as a benchmark set, of the kind that is asked for."""
    if kind is not None and kind not in FIGURES:
        raise ValueError(f"--kind {kind}: use {', '.join(FIGURES)}")
    if (ground_truth is None) == (dataset is None):
        raise ValueError("give either --ground_truth DIR or --dataset NAME --data_dir DIR")
    if dataset is None:
        if data_dir is not None or split is not None:
            raise ValueError("--data_dir and --split belong to --dataset; leave them out with --ground_truth")
        truths = _folder_truths(Path(ground_truth), kind or "matte", void)
    else:
        from sdseg.benchmark_sets import open_set

        if data_dir is None:
            raise ValueError(f"--dataset {dataset} needs --data_dir, the folder where it lies; nothing is downloaded")
        truths = open_set(dataset, Path(data_dir), split)
        if kind is not None and kind != truths.kind and "classes" in (kind, truths.kind):
            raise ValueError(f"--kind {kind}: {dataset} is of kind {truths.kind}; leave --kind out")
        truths = dataclasses.replace(truths, kind=kind or truths.kind)
    if trimap_dir is not None and truths.kind != "matte":
        raise ValueError(f"--trimap_dir belongs to --kind matte; leave it out for --kind {truths.kind}")
    items = truths.items
    for folder, field, what in ((trimap_dir, "trimap", "trimap"), (images, "image", "photo")):
        if folder is not None:
            files = _by_name(Path(folder))
            if missing := [item.name for item in items if item.name not in files]:
                raise FileNotFoundError(
                    f"{folder}: {len(missing)} of {len(items)} truths have no {what}: {_listed(missing)}; add these"
                )
            items = [dataclasses.replace(item, **{field: files[item.name]}) for item in items]
    return dataclasses.replace(truths, items=items)


def _folder_truths(folder: Path, kind: str, void: int) -> "BenchmarkSet":
    """A folder of mattes, masks or class maps."""
    from sdseg.benchmark_sets import BenchmarkSet, Item
    from sdseg.benchmark_sets.items import read_matte

    reader = partial(_read_true_labels, void=void) if kind == "classes" else read_matte
    items = [Item(name, None, truth=path) for name, path in _by_name(folder).items()]
    return BenchmarkSet(str(folder), kind, items, truth_reader=reader)


def _by_name(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by the names their predictions have, in order of path."""
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: is a file; name the folder that holds the pictures")
    return {name.as_posix(): path for path, name in output_names(list_images(folder), folder).items()}


def pair_predictions(prediction: Path, truths: "BenchmarkSet") -> tuple[dict[str, Path], list[str]]:
    """-> (prediction of each item by its name, names of predictions without a truth)."""
    if prediction.is_file():
        raise NotADirectoryError(f"{prediction}: is a file; name the folder that holds the predictions")
    found = {
        path.relative_to(prediction).as_posix().removesuffix(ALPHA_SUFFIX)
        for path in list_images(prediction)
        if path.name.endswith(ALPHA_SUFFIX) and not path.name.endswith((UNCERTAINTY_SUFFIX, RGBA_SUFFIX))
    }
    names = [item.name for item in truths.items]
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(
            f"{prediction}: {len(missing)} of {len(names)} truths have no prediction: {_listed(missing)}; predict "
            "these too, or leave their truth out"
        )
    return {name: output_file(prediction, PurePath(name)) for name in names}, sorted(found.difference(names))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MISSING_SHOWN]) + (
        f" and {len(names) - MISSING_SHOWN} more" if len(names) > MISSING_SHOWN else ""
    )


# ----------------------------------------------------------------------------------------------------- reading


def read_case(evaluation: Evaluation, item: "Item", predicted: Path):
    """Reads a picture: (prediction, truth, uncertainty or None, the prediction's own size (W, H)).

    Of one size [H, W]: float32 in [0, 1], or for classes int32 with -1 for none. Raises ImageError for unequal
    sizes unless the evaluation resizes.
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
        if file.exists():
            deviation = _fitting(read_grey16(file), file, truth, item, evaluation.resize)
    size = (values.shape[1], values.shape[0])
    return _fitting(values, predicted, truth, item, evaluation.resize), truth, deviation, size


def _fitting(values: np.ndarray, file: Path, truth: np.ndarray, item: "Item", resize: bool) -> np.ndarray:
    """`values` at the truth's size, if they have it or may be resized."""
    if values.shape == truth.shape:
        return values
    if resize:
        return resized(values, truth.shape)
    (height, width), (true_height, true_width) = values.shape, truth.shape
    raise ImageError(
        f"{file} is {width}x{height}, but its ground truth {item.truth or item.name} is {true_width}x{true_height}; "
        "predict at the picture's own size, or ask for --resize"
    )


def resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 [h, w] in [0, 1] or int32 [h, w] -> [H, W] of the same kind: bilinear with antialiasing, or nearest."""
    from PIL import Image

    labels = values.dtype.kind == "i"
    method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    picture = np.asarray(Image.fromarray(values).resize(shape[::-1], method))
    return picture if labels else picture.clip(0, 1)


def read_labels(path: Path, void: int) -> np.ndarray:
    """A class map, int32 [H, W]: ids as `benchmark_sets.read_label_file` reads them, -1 for `void`."""
    from sdseg.benchmark_sets import read_label_file

    labels = read_label_file(path)
    labels[labels == void] = -1
    return labels


def _read_true_labels(item: "Item", void: int) -> np.ndarray:
    return read_labels(item.truth, void)


# ---------------------------------------------------------------------------------------------------- pictures


def judge_picture(evaluation: Evaluation, item: "Item", predicted: Path) -> Judged:
    """One picture's figures. For classes its confusion matrix alone: `with_class_figures` makes figures of it."""
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
        from sdseg.segmentation_metrics import binary_metrics

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
    """Figures of two mattes over the whole picture, and in `bands` over its parts (None where one is empty)."""
    from sdseg.metrics import matte_bands, metrics_of_parts, trimap_band

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
    """|p − g| and standard deviation, [H, W] each -> AUSE, Spearman's correlation and calibration shares."""
    from sdseg.metrics import ause, spearman

    correlation = spearman(error, deviation)
    return {
        "ause": ause(error, deviation),
        "spearman": None if math.isnan(correlation) else correlation,
        **shares(error, deviation),
    }


def shares(error: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
    """Calibration shares by name."""
    from sdseg.metrics import calibration_shares

    within = calibration_shares(error, deviation)
    return {f"within_{count}_std": share for count, share in enumerate(within, start=1)}


def scaled_shares(evaluation: Evaluation, item: "Item", predicted: Path, scale: float) -> dict[str, float]:
    """Calibration shares of a picture once its uncertainty is multiplied by `scale`.

    It is read again for that, since a whole set need not fit in memory.
    """
    prediction, truth, deviation, _ = read_case(evaluation, item, predicted)
    return shares(abs(prediction - (truth if evaluation.kind == "matte" else truth >= 0.5)), deviation * scale)


def matte_part(entry: dict) -> dict:
    """The figures of an entry that compare the whole picture."""
    others = ("name", "size", "resized_from", "bands", "uncertainty", "labels")
    return {key: value for key, value in entry.items() if key not in others}


def flat_figures(entry: dict) -> dict[str, float | None]:
    """All figures of an entry, those of parts as `transition.sad`, those of the uncertainty as `uncertainty.ause`."""
    flat = dict(matte_part(entry))
    for name, figures in (entry.get("bands") or {}).items():
        flat |= {f"{name}.{key}": value for key, value in (figures or {}).items()}
    return flat | {f"uncertainty.{key}": value for key, value in entry.get("uncertainty", {}).items()}


# ------------------------------------------------------------------------------------------------------ classes


def _matrix(evaluation: Evaluation, item: "Item", predicted: Path, prediction, truth) -> np.ndarray:
    """Confusion matrix of a picture; labels that are no classes yet have a column each, up to the greatest."""
    from sdseg.segmentation_metrics import confusion_matrix

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
    """Kind classes: pictures whose matrices are [classes + 1, classes + 1] or, with match `dataset`, of one width,
    and whose entries have figures. Other kinds come back as they are.
    """
    if evaluation.kind != "classes":
        return pictures
    from sdseg.segmentation_metrics import assign_labels, match_labels

    matrices, labels = [picture.matrix for picture in pictures], None
    if evaluation.match == "image":
        labels = [assign_labels(matrix) for matrix in matrices]
    elif evaluation.match == "dataset":
        width = max(matrix.shape[1] for matrix in matrices)
        # the last column counts pixels without a prediction and stays the last
        matrices = [np.insert(matrix, [-1] * (width - matrix.shape[1]), 0, axis=1) for matrix in matrices]
        labels = [assign_labels(sum(matrices))] * len(matrices)
    found = []
    for number, (picture, matrix) in enumerate(zip(pictures, matrices, strict=True)):
        entry, own = dict(picture.entry), matrix
        if labels is not None:
            entry["labels"] = labels[number].tolist()
            own = match_labels(matrix, labels[number])
        entry |= class_figures(own, evaluation, "standard")
        found.append(Judged(entry, own if evaluation.match == "image" else matrix))
    return found


def class_figures(matrix: np.ndarray, evaluation: Evaluation, miou_protocol: str) -> dict[str, float | None]:
    """The chosen figures of a confusion matrix whose labels are classes; None where nothing is labelled."""
    from sdseg.segmentation_metrics import accuracy, mean_accuracy, mean_iou

    measures = {
        "accuracy": accuracy,
        "mean_accuracy": mean_accuracy,
        "mean_iou": partial(mean_iou, protocol=miou_protocol),
    }
    return {name: _or_none(measures[name](matrix)) for name in evaluation.figures}


def class_summary(pictures: list[Judged], evaluation: Evaluation) -> dict:
    """`set`: figures of the pixels of all pictures together; `classes`: one entry each."""
    from sdseg.segmentation_metrics import assign_labels, class_iou, match_labels

    matrix, labels = sum(picture.matrix for picture in pictures), None
    if evaluation.match == "dataset":
        labels = assign_labels(matrix)
        matrix = match_labels(matrix, labels)
    ious = class_iou(matrix, evaluation.miou_protocol)
    classes = [
        {
            "id": number,
            "name": name,
            "iou": _or_none(float(ious[number])),
            "true_pixels": int(matrix[number].sum()),
            "predicted_pixels": int(matrix[:, number].sum()),
        }
        | ({} if labels is None else {"label": int(labels[number])})
        for number, name in enumerate(evaluation.classes)
    ]
    figures = class_figures(matrix, evaluation, evaluation.miou_protocol)
    return {"set": {"count": len(pictures), **figures}, "classes": classes}


def _of_drawn(pictures: list[Judged], evaluation: Evaluation) -> Callable[[np.ndarray], np.ndarray]:
    """How often each picture was drawn, [draws, n] -> the set's figures then, float64 [draws, figures]."""
    from sdseg.segmentation_metrics import match_labels

    matrices = np.stack([picture.matrix for picture in pictures])  # [n, classes + 1, labels + 1]
    flat = matrices.reshape(len(matrices), -1).astype(np.float64)  # counts stay exact, and the product is fast

    def statistic(times: np.ndarray) -> np.ndarray:
        found = []
        for matrix in (times @ flat).reshape(-1, *matrices.shape[1:]):
            matrix = match_labels(matrix) if evaluation.match == "dataset" else matrix
            figures = class_figures(matrix, evaluation, evaluation.miou_protocol).values()
            found.append([math.nan if figure is None else figure for figure in figures])
        return np.array(found)

    return statistic


def _or_none(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


# -------------------------------------------------------------------------------------------------- statistics


def means(entries: list[dict]) -> dict[str, float | None]:
    """Mean of every figure over the entries that have it (None where none has)."""
    values = {key: [entry[key] for entry in entries if entry[key] is not None] for key in entries[0]}
    return {key: sum(found) / len(found) if found else None for key, found in values.items()}


def band_means(images: list[dict]) -> dict[str, dict]:
    """Means over the pictures that have a band, with their count, by band."""
    names = dict.fromkeys(name for entry in images for name in entry["bands"])
    ordered = [name for name in BAND_DEFINITIONS if name in names]
    found = {name: [entry["bands"][name] for entry in images if entry["bands"].get(name)] for name in ordered}
    return {name: {"count": len(entries), **(means(entries) if entries else {})} for name, entries in found.items()}


def intervals(pictures: list[Judged], evaluation: Evaluation) -> dict:
    """Bootstrap intervals of the means, or for classes of the set's figures: `figures` {name: [low, high]}."""
    if evaluation.kind == "classes":
        statistic = _of_drawn(pictures, evaluation)
        low, high = _bootstrap_of_draws(len(pictures), statistic, evaluation)
        found = dict(zip(evaluation.figures, zip(low, high, strict=True), strict=True))
    else:
        found = {}
        columns = [flat_figures(picture.entry) for picture in pictures]
        for keys, rows in _columns_by_pictures(columns).items():
            low, high = _bootstrap(np.array([[columns[row][key] for key in keys] for row in rows]), evaluation)
            found |= dict(zip(keys, zip(low, high, strict=True), strict=True))
        found = {key: found[key] for key in dict.fromkeys(key for column in columns for key in column) if key in found}
    return {
        "level": evaluation.confidence,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "figures": {key: _interval(*ends) for key, ends in found.items()},
    }


def compare(first: list[Judged], second: list[Judged], evaluation: Evaluation) -> dict[str, dict]:
    """Two methods on the same pictures: by figure `count`, `first`, `second`, `difference` (first − second), its
    interval `low` and `high`, and the shares of pictures on which the first is better (`won`) or equal (`tied`).

    For classes `first`, `second` and `difference` are of the set, `won` and `tied` of its pictures.
    """
    from sdseg.metrics import paired_comparison

    columns = [
        {key: (value, b[key]) for key, value in a.items() if value is not None and b.get(key) is not None}
        for a, b in ((flat_figures(x.entry), flat_figures(y.entry)) for x, y in zip(first, second, strict=True))
    ]
    found = {}
    for key in dict.fromkeys(key for column in columns for key in column):
        figure = key.rpartition(".")[2]
        if figure in UNDIRECTED:
            continue
        one, other = np.array([column[key] for column in columns if key in column]).T
        generator = np.random.default_rng(evaluation.seed)
        row = paired_comparison(
            one, other, generator, figure in LOWER_IS_BETTER, evaluation.confidence, evaluation.resamples
        )
        found[key] = {"count": len(one), "first": float(one.mean()), "second": float(other.mean()), **row}
    if evaluation.kind == "classes":
        one, other = _of_drawn(first, evaluation), _of_drawn(second, evaluation)
        everything = np.ones((1, len(first)))
        low, high = _bootstrap_of_draws(len(first), lambda times: one(times) - other(times), evaluation)
        for number, key in enumerate(evaluation.figures):
            of_set = {"first": one(everything)[0, number], "second": other(everything)[0, number]}
            of_set |= {"difference": of_set["first"] - of_set["second"], "low": low[number], "high": high[number]}
            found[key] = found.get(key, {}) | {name: _or_none(float(value)) for name, value in of_set.items()}
    return found


def _columns_by_pictures(columns: list[dict]) -> dict[tuple[str, ...], list[int]]:
    """{figures that the very same pictures have: those pictures' numbers}: such figures share their draws."""
    rows = {}
    for number, column in enumerate(columns):
        for key, value in column.items():
            if value is not None:
                rows.setdefault(key, []).append(number)
    shared = {}
    for key, numbers in rows.items():
        shared.setdefault(tuple(numbers), []).append(key)
    return {tuple(keys): list(numbers) for numbers, keys in shared.items()}


def _bootstrap(values: np.ndarray, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean of figures [n, k]. Each call begins at the seed, so that a figure's interval does not
    depend on which others are asked for.
    """
    from sdseg.metrics import confidence_interval

    generator = np.random.default_rng(evaluation.seed)
    return confidence_interval(values, generator, evaluation.confidence, evaluation.resamples)


def _bootstrap_of_draws(count: int, statistic: Callable, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """As `metrics.confidence_interval`, for a statistic of many draws at once: how often each of `count` pictures
    was drawn, [draws, count] -> [draws, figures]. (One matrix product for many draws is ten times as fast.)
    """
    generator = np.random.default_rng(evaluation.seed)
    drawn = []
    for start in range(0, evaluation.resamples, DRAWS_AT_ONCE):
        draws = range(min(DRAWS_AT_ONCE, evaluation.resamples - start))
        times = [np.bincount(generator.integers(count, size=count), minlength=count) for _ in draws]
        drawn.append(statistic(np.array(times, np.float64)))
    tail = (1 - evaluation.confidence) / 2
    return tuple(np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0))


def _interval(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) or math.isnan(high) else [float(low), float(high)]


def protocol(evaluation: Evaluation, images: list[dict]) -> dict:
    """What has to stand beside the figures for others to compare with them."""
    import cv2
    import scipy

    from sdseg import __version__

    sizes = sorted({tuple(entry["size"]) for entry in images})  # (W, H)
    unequal = sum("resized_from" in entry for entry in images)
    values = "class maps" if evaluation.kind == "classes" else "alpha in [0, 1]"
    told = {
        "kind": evaluation.kind,
        "dataset": None if evaluation.dataset is None else evaluation.truths.name,
        "split": None if evaluation.dataset is None else evaluation.truths.split,
        "resolution": f"each picture at its ground truth's own size, whole picture, {values}",
        "sizes": [f"{width}x{height}" for width, height in sizes],
        "resize": (
            f"{unequal} of {len(images)} predictions were brought to their truth's size: Pillow, "
            + ("nearest" if evaluation.kind == "classes" else "bilinear with antialiasing")
        )
        if evaluation.resize
        else None,
        "average": "figures a picture, then the mean over pictures",
        "definitions": {name: DEFINITIONS[evaluation.kind][name] for name in evaluation.figures},
    }
    if evaluation.kind == "matte":
        told["bands"] = BAND_DEFINITIONS
    if evaluation.kind == "classes":
        told |= {
            "average": "pixels of all pictures together; a picture's own figures by the standard protocol",
            "num_classes": len(evaluation.classes),
            "void": evaluation.void,
            "miou_protocol": f"{evaluation.miou_protocol}: {PROTOCOL_DEFINITIONS[evaluation.miou_protocol]}",
            "match": f"{evaluation.match or 'none'}: {MATCH_DEFINITIONS[evaluation.match]}",
        }
    else:
        told["definitions"] |= UNCERTAINTY_DEFINITIONS
    told["intervals"] = "percentile bootstrap over pictures"
    versions = {"sdseg": __version__, "numpy": np.__version__, "scipy": scipy.__version__, "opencv": cv2.__version__}
    return told | {"versions": versions}


# --------------------------------------------------------------------------------------------------- processes

# glibc hands arrays of megabytes back to the system at once and gets them anew, cleared page by page; a worker
# that keeps them takes half the time. Elsewhere these mean nothing.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
_evaluation: Evaluation | None = None  # of a worker process


def _begin(evaluation: Evaluation) -> None:
    """Prepares a worker process."""
    global _evaluation
    import cv2

    cv2.setNumThreads(1)  # the workers are the parallelism
    if evaluation.dataset is not None:  # a set's readers do not travel between processes
        from sdseg.benchmark_sets import open_set

        truths = dataclasses.replace(open_set(*evaluation.dataset), kind=evaluation.kind, items=[])
        evaluation = dataclasses.replace(evaluation, truths=truths)
    _evaluation = evaluation


def _in_worker(function: Callable, task: tuple):
    return function(_evaluation, *task)


@contextmanager
def _mapping(evaluation: Evaluation, workers: int, pictures: int) -> Iterator[Callable]:
    """Gives `mapped(function, tasks)`, which yields function(evaluation, *task) in the tasks' order."""
    if workers < 1:
        raise ValueError(f"--workers {workers}: give at least 1")
    workers = min(workers, pictures // PICTURES_A_WORKER)
    if workers <= 1:
        yield lambda function, tasks: (function(evaluation, *task) for task in tasks)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    truths = None if evaluation.dataset is not None else dataclasses.replace(evaluation.truths, items=[])
    slim = dataclasses.replace(evaluation, truths=truths, predictions={}, compared=None, unused=[])  # what workers need
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (slim,))
    try:
        with _environment(KEEP_MEMORY):
            yield lambda function, tasks: pool.map(partial(_in_worker, function), tasks, chunksize=2)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was ended from outside, perhaps for want of memory; use fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables for the processes that are started inside, unless they are set already."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _progress(pictures: Iterator, count: int) -> Iterator:
    from tqdm import tqdm

    return tqdm(pictures, desc="judged", total=count, unit="picture", disable=None)


# ------------------------------------------------------------------------------------------------ command line


def read_class_names(path: Path) -> list[str]:
    """A text file with the name of a class a line, class 0 first."""
    try:
        names = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text; give the names of the classes, one a line, class 0 first") from error
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise ValueError(f"{path}: is empty; give the names of the classes, one a line, class 0 first")
    return [name.strip() for name in names]


def _class_names(number: int | None, file: Path | None) -> list[str] | None:
    if number is not None and file is not None:
        raise ValueError("--num_classes and --classes say the same; give one of them")
    if number is not None and number < 1:
        raise ValueError(f"--num_classes {number}: give at least 1")
    return read_class_names(file) if file is not None else None if number is None else [""] * number


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sdseg evaluate", description=__doc__.split("\n")[0])
    group = parser.add_argument_group("what is judged")
    group.add_argument("--prediction", required=True, metavar="DIR", help="folder written by infer.py or a method")
    group.add_argument("--ground_truth", metavar="DIR", help="folder of the truth, same names")
    group.add_argument(
        "--dataset", metavar="NAME", help="a benchmark set instead (python -m sdseg.benchmark_sets list)"
    )
    group.add_argument("--data_dir", metavar="DIR", help="where that set lies")
    group.add_argument("--split", help="part of that set")
    group.add_argument("--compare", metavar="DIR", help="a second method's folder, set against the first")
    group.add_argument("--images", metavar="DIR", help="photos, for the pictures of the worst cases")
    group = parser.add_argument_group("how")
    group.add_argument("--kind", choices=FIGURES, help="default: the set's, or matte")
    group.add_argument("--metrics", nargs="+", metavar="NAME", help="some figures instead of all, e.g. all but conn")
    group.add_argument("--trimap_dir", metavar="DIR", help="trimaps, whose unknown band is judged apart")
    group.add_argument("--resize", action="store_true", help="bring predictions of another size to the truth's")
    group.add_argument("--num_classes", type=int, metavar="N", help="kind classes: ids are 0 ... N-1")
    group.add_argument("--classes", type=Path, metavar="FILE", help="kind classes: their names, one a line")
    group.add_argument("--miou_protocol", choices=PROTOCOL_DEFINITIONS, default="standard")
    group.add_argument(
        "--match",
        choices=("none", "image", "dataset"),
        default="none",
        help="give labels of a clustering their classes",
    )
    group.add_argument("--void", type=int, default=255, help="id that means no class (default: 255)")
    group.add_argument("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    group.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap (default: 10000)")
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    group.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output", nargs="+", type=Path, default=[], metavar="FILE",
        help="by suffix: .json, .csv (a line a picture), .md, .html, .png (sheet of the worst)",
    )  # fmt: skip
    group.add_argument("--output_dir", type=Path, metavar="DIR", help="folder for all five")
    group.add_argument("--worst", type=int, default=12, metavar="N", help="pictures on the sheet (default: 12)")
    arguments = parser.parse_args(argv)
    try:
        from sdseg.evaluation_tables import check_outputs, table, write_outputs

        outputs = check_outputs(arguments.output, arguments.output_dir, arguments.worst)
        evaluation = open_evaluation(
            arguments.prediction,
            arguments.ground_truth,
            dataset=arguments.dataset,
            data_dir=arguments.data_dir,
            split=arguments.split,
            kind=arguments.kind,
            figures=arguments.metrics,
            images=arguments.images,
            trimap_dir=arguments.trimap_dir,
            classes=_class_names(arguments.num_classes, arguments.classes),
            miou_protocol=arguments.miou_protocol,
            match=None if arguments.match == "none" else arguments.match,
            void=arguments.void,
            compare=arguments.compare,
            resize=arguments.resize,
            confidence=arguments.confidence,
            resamples=arguments.resamples,
            seed=arguments.seed,
        )
        result = judge(evaluation, arguments.workers)
        write_outputs(outputs, result, evaluation, arguments.worst)
    except (OSError, ValueError, ImportError) as error:  # ImportError: a set needs a package that is not here
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if unused := result["unused_predictions"]:
        print(f"note: {len(unused)} predictions have no ground truth: {_listed(unused)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
