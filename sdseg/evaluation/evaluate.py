"""Judges a folder of predictions against ground truth.

The prediction folder is what every method writes (see `sdseg.outputs`): `<path>.png` belongs to the truth of the same
relative path without extension; `<path>.uncertainty.png`, if it exists, is judged too. The truth is a folder of
mattes, masks or class maps, or a benchmark set by name. docs/evaluation.md explains every figure and every key of the
result.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from sdseg.errors import MissingFile, NotAFolder, UserError
from sdseg.evaluation.intervals import band_means, compare, intervals, means
from sdseg.evaluation.judging import (
    BAND_DEFINITIONS,
    DEFINITIONS,
    FIGURES,
    MATCH_DEFINITIONS,
    PROTOCOL_DEFINITIONS,
    UNCERTAINTY_DEFINITIONS,
    Evaluation,
    class_summary,
    judge_picture,
    matte_part,
    read_true_labels,
    scaled_shares,
    with_class_figures,
)  # fmt: skip
from sdseg.imaging import list_images
from sdseg.outputs import (
    ALPHA_SUFFIX,
    RUN_RECORD,
    SIDE_SUFFIXES,
    UNCERTAINTY_SUFFIX,
    output_file,
    output_names,
    read_run_record,
)

if TYPE_CHECKING:
    from sdseg.evaluation.benchmark_sets import BenchmarkSet

MISSING_SHOWN = 5
PICTURES_PER_WORKER = 8  # fewer do not pay for the second that starting a worker takes


# ------------------------------------------------------------------------------------------------------- a run


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
    """Pairs predictions with truths and checks the settings; the arguments are those of `evaluate_folder`.

    `images`, a folder of the photos, is used by the sheet of the worst pictures only.
    """
    truths = _truths(ground_truth, dataset, data_dir, split, kind, images, trimap_dir, void)
    kind = truths.kind
    if unknown := [name for name in figures or () if name not in FIGURES[kind]]:
        raise UserError(f"--metrics {unknown[0]}: --kind {kind} has {', '.join(FIGURES[kind])}")
    if kind == "classes":
        if classes is None and truths.classes is None:
            raise UserError("--kind classes needs --num_classes N or --classes FILE (one name in each line)")
        classes = tuple(classes or (truths.classes[number] for number in range(len(truths.classes))))
        if miou_protocol not in PROTOCOL_DEFINITIONS:
            raise UserError(f"--miou_protocol {miou_protocol}: use {' or '.join(PROTOCOL_DEFINITIONS)}")
        if match not in MATCH_DEFINITIONS:
            raise UserError(f"--match {match}: use none, image or dataset")
    else:
        if classes is not None or match is not None or miou_protocol != "standard":
            raise UserError(
                f"classes, --miou_protocol and --match belong to --kind classes; leave them out for --kind {kind}"
            )
        classes = None
    if not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence}: give a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise UserError(f"--resamples {resamples}: give at least 1; 10000 is usual")

    first = pair_predictions(Path(prediction), truths)
    second = None if compare is None else pair_predictions(Path(compare), truths)
    folders = [first] if second is None else [first, second]
    return Evaluation(
        truths=truths,
        predictions=first.files,
        unused=first.unused,
        kind=kind,
        dataset=None if dataset is None else (dataset, Path(data_dir), split),
        figures=tuple(name for name in FIGURES[kind] if figures is None or name in figures),
        compared=None if second is None else second.files,
        compared_name=None if compare is None else str(compare),
        classes=classes,
        miou_protocol=miou_protocol,
        match=match,
        void=void,
        resize=resize,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        unlisted=[str(folder.files[name]) for folder in folders for name in folder.unlisted],
        stale=frozenset().union(*(folder.stale for folder in folders)),
        scales=recorded_scales(Path(prediction)),
    )


def evaluate_folder(
    prediction: str | Path, ground_truth: str | Path | None = None, *, workers: int = 1, **settings
) -> dict:
    """Compares every prediction with its truth, at the truth's own size.

    Args:
        ground_truth: folder of the truths; the alternative is a benchmark set by name, given as `dataset`, `data_dir`
            and, unless it is the first, `split`.
        workers: processes; the result does not depend on their number. More than one needs the usual
            `if __name__ == "__main__":` in the script that calls this.
        kind: `matte` (default, or that of the set), `binary` (the truth is {g >= 0.5}) or `classes`.
        figures: some of FIGURES[kind] instead of all; `conn` takes as long as the others together.
        trimap_dir: folder of trimaps, whose unknown bands are judged separately; a set may bring its own.
        classes: kind classes: their names, by id.
        miou_protocol: `standard` or `ddpm-seg`, see PROTOCOL_DEFINITIONS.
        match: how the labels of a clustering are assigned to classes: None (they are classes), `image` or `dataset`.
        void: the value in class maps that means no class.
        compare: folder of a second method, which is compared with the first picture by picture.
        resize: resize predictions to the size of their truth; without it, different sizes are an error.
        confidence, resamples, seed: of the bootstrap over pictures (`metrics.confidence_interval`).

    Returns:
        The content of metrics.json: `protocol`; `mean` (over pictures, with their `count`; for kind classes `set` and
        `classes` instead); `bands` (mattes: means over parts); `uncertainty` (means and calibration; None where no
        prediction has any); `intervals`; `comparison` (or None); `unused_predictions` (names without truth); `images`
        (one entry for each picture, in order of name).

    Raises:
        UserError: a truth without prediction, settings that exclude each other, or a damaged run.json.
        ImageError: a picture that is unreadable, of another size than its truth or of the wrong kind.
    """
    return judge(open_evaluation(prediction, ground_truth, **settings), workers)


def judge(evaluation: Evaluation, workers: int = 1) -> dict:
    """Runs an evaluation; returns what `evaluate_folder` returns."""
    from sdseg.evaluation.metrics import calibration_scale

    folders = [evaluation.predictions] + ([evaluation.compared] if evaluation.compared is not None else [])
    items = evaluation.truths.items
    with _mapping(evaluation, workers, len(items) * len(folders)) as mapped:
        tasks = [(item, folder[item.name]) for folder in folders for item in items]
        pictures = list(_progress(mapped(judge_picture, tasks), len(tasks)))
        first, second = pictures[: len(items)], pictures[len(items) :]

        uncertainty = None
        if unsure := [picture for picture in first if "uncertainty" in picture.entry]:
            figures = means([picture.entry["uncertainty"] for picture in unsure])
            names = {picture.entry["name"] for picture in unsure}
            scales = evaluation.scales
            calibrated = None if scales is None else sum(scales.get(name) is not None for name in names)
            uncertainty = {"count": len(unsure), "calibrated": calibrated, **figures}
            uncertainty |= {"calibration_scale": None, "scaled": None}
            variance = sum(picture.variance for picture in unsure)
            if variance > 0:
                scale = calibration_scale(sum(picture.squared_error for picture in unsure), variance)
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


def protocol(evaluation: Evaluation, images: list[dict]) -> dict:
    """What readers need to know to compare other figures with these; `protocol` of metrics.json."""
    import cv2
    import scipy

    from sdseg import __version__

    sizes = sorted({tuple(entry["size"]) for entry in images})  # (W, H)
    unequal = sum("resized_from" in entry for entry in images)
    values = "class maps" if evaluation.kind == "classes" else "alpha in [0, 1]"
    record = {
        "kind": evaluation.kind,
        "dataset": None if evaluation.dataset is None else evaluation.truths.name,
        "split": None if evaluation.dataset is None else evaluation.truths.split,
        "resolution": f"each picture at its ground truth's own size, whole picture, {values}",
        "sizes": [f"{width}x{height}" for width, height in sizes],
        "resize": (
            f"{unequal} of {len(images)} predictions were resized to the size of their truth: Pillow, "
            + ("nearest" if evaluation.kind == "classes" else "bilinear with antialiasing")
        )
        if evaluation.resize
        else None,
        "average": "figures of each picture, then the mean over pictures",
        "definitions": {name: DEFINITIONS[evaluation.kind][name] for name in evaluation.figures},
    }
    if evaluation.kind == "matte":
        record["bands"] = BAND_DEFINITIONS
    if evaluation.kind == "classes":
        record |= {
            "average": "pixels of all pictures together; a picture's own figures by the standard protocol",
            "num_classes": len(evaluation.classes),
            "void": evaluation.void,
            "miou_protocol": f"{evaluation.miou_protocol}: {PROTOCOL_DEFINITIONS[evaluation.miou_protocol]}",
            "match": f"{evaluation.match or 'none'}: {MATCH_DEFINITIONS[evaluation.match]}",
        }
    else:
        record["definitions"] |= UNCERTAINTY_DEFINITIONS
    record["intervals"] = "percentile bootstrap over pictures"
    versions = {"sdseg": __version__, "numpy": np.__version__, "scipy": scipy.__version__, "opencv": cv2.__version__}
    return record | {"versions": versions}


# ----------------------------------------------------------------------------------------------------- pairing


def _truths(ground_truth, dataset, data_dir, split, kind, images, trimap_dir, void) -> "BenchmarkSet":
    """The truths of `open_evaluation` as a benchmark set of the requested kind."""
    if kind is not None and kind not in FIGURES:
        raise UserError(f"--kind {kind}: use {', '.join(FIGURES)}")
    if (ground_truth is None) == (dataset is None):
        raise UserError("give either --ground_truth DIR or --dataset NAME --data_dir DIR")
    if dataset is None:
        if data_dir is not None or split is not None:
            raise UserError("--data_dir and --split belong to --dataset; leave them out with --ground_truth")
        truths = _folder_truths(Path(ground_truth), kind or "matte", void)
    else:
        from sdseg.evaluation.benchmark_sets import open_set

        if data_dir is None:
            raise UserError(f"--dataset {dataset} needs --data_dir, the folder that holds it; nothing is downloaded")
        truths = open_set(dataset, Path(data_dir), split)
        if kind is not None and kind != truths.kind and "classes" in (kind, truths.kind):
            raise UserError(f"--kind {kind}: {dataset} is of kind {truths.kind}; leave --kind out")
        truths = dataclasses.replace(truths, kind=kind or truths.kind)
    if trimap_dir is not None and truths.kind != "matte":
        raise UserError(f"--trimap_dir belongs to --kind matte; leave it out for --kind {truths.kind}")
    items = truths.items
    for folder, field, what in ((trimap_dir, "trimap", "trimap"), (images, "image", "photo")):
        if folder is not None:
            files = _by_name(Path(folder))
            if missing := [item.name for item in items if item.name not in files]:
                raise MissingFile(
                    f"{folder}: {len(missing)} of {len(items)} truths have no {what}: {listed(missing)}; add them"
                )
            items = [dataclasses.replace(item, **{field: files[item.name]}) for item in items]
    return dataclasses.replace(truths, items=items)


def _folder_truths(folder: Path, kind: str, void: int) -> "BenchmarkSet":
    """A folder of mattes, masks or class maps."""
    from sdseg.evaluation.benchmark_sets import BenchmarkSet, Item
    from sdseg.evaluation.benchmark_sets.items import read_matte

    reader = partial(read_true_labels, void=void) if kind == "classes" else read_matte
    items = [Item(name, None, truth=path) for name, path in _by_name(folder).items()]
    return BenchmarkSet(str(folder), kind, items, truth_reader=reader)


def _by_name(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by the names their predictions have, in order of path."""
    if folder.is_file():
        raise NotAFolder(f"{folder}: is a file; name the folder that holds the pictures")
    return {name.as_posix(): path for path, name in output_names(list_images(folder), folder).items()}


@dataclass(frozen=True)
class Pairing:
    """The predictions of a folder that belong to truths."""

    files: dict[str, Path]
    """by the item's name"""
    unused: list[str]
    """names of predictions without a truth"""
    unlisted: list[str]
    """names of predictions with a truth that the folder's run.json does not list: another run's"""
    stale: frozenset[Path]
    """uncertainty maps that belong to another run than the predictions beside them"""


def pair_predictions(prediction: Path, truths: "BenchmarkSet") -> Pairing:
    """Pairs the predictions of a folder with truths by name, and compares them with its run.json, if it has one.

    Raises:
        NotAFolder: a file.
        MissingFile: a truth without prediction; a file whose input failed in the recorded run counts as none.
        UserError: run.json is damaged.
    """
    if prediction.is_file():
        raise NotAFolder(f"{prediction}: is a file; name the folder that holds the predictions")
    names = {
        path.relative_to(prediction).as_posix().removesuffix(ALPHA_SUFFIX)
        for path in list_images(prediction)
        if path.name.endswith(ALPHA_SUFFIX) and not path.name.endswith(SIDE_SUFFIXES)
    }
    wanted = [item.name for item in truths.items]
    failed, unlisted, stale = compare_with_record(prediction, wanted)
    if missing := [name for name in wanted if name not in names or name in failed]:
        failures = [name for name in missing if name in failed]
        why = f"; {len(failures)} of these failed in that folder's run, see {RUN_RECORD}" if failures else ""
        raise MissingFile(
            f"{prediction}: {len(missing)} of {len(wanted)} truths have no prediction: {listed(missing)}{why}; predict "
            "these too, or leave out their truth"
        )
    return Pairing(
        files={name: output_file(prediction, PurePath(name)) for name in wanted},
        unused=sorted(names.difference(wanted)),
        unlisted=unlisted,
        stale=stale,
    )


def compare_with_record(prediction: Path, names: list[str]) -> tuple[set[str], list[str], frozenset[Path]]:
    """What the run.json of a folder says of predictions by name; nothing where there is none.

    Returns:
        names whose input failed, so that a file of the name is another run's; of `names` the others that the record
        does not list; uncertainty maps that it does not list, though it lists their prediction.
    """
    record = read_run_record(prediction)
    if record is None:
        return set(), [], frozenset()
    rows = record["inputs"]
    made = {row["output"].removesuffix(ALPHA_SUFFIX): row for row in rows if isinstance(row.get("output"), str)}
    inputs = [PurePath(row["input"]) for row in rows if "error" in row]
    # see `output_names`
    failed = {path.with_suffix("").as_posix() for path in inputs} | {path.as_posix() for path in inputs}
    failed -= made.keys()
    stale = (
        output_file(prediction, PurePath(name), UNCERTAINTY_SUFFIX)
        for name in names
        if "uncertainty" not in made.get(name, {"uncertainty"})
    )
    return failed, [name for name in names if name not in made and name not in failed], frozenset(stale)


def recorded_scales(prediction: Path) -> dict[str, float | None] | None:
    """By the names of predictions, the factor that their run multiplied their uncertainty by, None for none; None for
    a folder without run.json."""
    record = read_run_record(prediction)
    if record is None:
        return None
    rows = [row for row in record["inputs"] if isinstance(row.get("output"), str)]
    return {row["output"].removesuffix(ALPHA_SUFFIX): row.get("calibration_scale") for row in rows}


def listed(names: list[str]) -> str:
    return ", ".join(names[:MISSING_SHOWN]) + (
        f" and {len(names) - MISSING_SHOWN} more" if len(names) > MISSING_SHOWN else ""
    )


# --------------------------------------------------------------------------------------------------- processes

# glibc returns arrays of megabytes to the system at once, and the next one is cleared page by page; a worker that
# keeps them takes half the time. Other C libraries ignore these variables.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
_evaluation: Evaluation | None = None  # of a worker process


def _begin(evaluation: Evaluation) -> None:
    """Prepares a worker process."""
    global _evaluation
    import cv2

    cv2.setNumThreads(1)  # the workers are the parallelism
    if evaluation.dataset is not None:  # the readers of a set cannot be pickled
        from sdseg.evaluation.benchmark_sets import open_set

        truths = dataclasses.replace(open_set(*evaluation.dataset), kind=evaluation.kind, items=[])
        evaluation = dataclasses.replace(evaluation, truths=truths)
    _evaluation = evaluation


def _in_worker(function: Callable, task: tuple):
    return function(_evaluation, *task)


@contextmanager
def _mapping(evaluation: Evaluation, workers: int, pictures: int) -> Iterator[Callable]:
    """Yields `mapped(function, tasks)`, which yields function(evaluation, *task) in the order of the tasks."""
    if workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    workers = min(workers, pictures // PICTURES_PER_WORKER)
    if workers <= 1:
        yield lambda function, tasks: (function(evaluation, *task) for task in tasks)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    truths = None if evaluation.dataset is not None else dataclasses.replace(evaluation.truths, items=[])
    slim = dataclasses.replace(
        evaluation, truths=truths, predictions={}, compared=None, unused=[], scales=None
    )  # what workers need
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (slim,))
    try:
        with _environment(KEEP_MEMORY):
            yield lambda function, tasks: pool.map(partial(_in_worker, function), tasks, chunksize=2)
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, perhaps for lack of memory; use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for processes started inside, unless they are set already."""
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
