"""Fits the scale that brings an adapter's uncertainty to the size of its errors: `sdseg calibrate`.

The mattes of a run and their ground truth give s with s² = mean (p − g)² / mean variance, the ratio that training fits
to its held-out pairs; inference multiplies the standard deviation by it. A scale belongs to a number of steps and of
samples, and is kept in the adapter's folder.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdseg.adapter import read_adapter_config, store_scale, weights_digest
from sdseg.errors import MissingFile, Parser, UserError, reported, steady_streams
from sdseg.evaluation.evaluate import listed, open_evaluation
from sdseg.evaluation.intervals import means
from sdseg.evaluation.judging import Evaluation, read_case, shares
from sdseg.outputs import ALPHA_SUFFIX, RUN_RECORD, read_run_record
from sdseg.uncertainty import calibration_key

MIN_PICTURES = 16  # errors and variances are much alike within a picture, so that pictures count and not pixels


@dataclass(frozen=True)
class Fit:
    """A scale fitted to a folder of mattes."""

    key: str
    """see `calibration_key`"""
    scale: float
    before: float | None
    """the scale that the adapter holds for this key"""
    pictures: int
    coverage: dict[float, dict[str, float]]
    """by the factor on the samples' standard deviation (1, `before` and `scale`): the shares of pixels whose error is
    within 1, 2 and 3 of them, means over pictures"""


def fit_scale(prediction: str | Path, ground_truth: str | Path, adapter: str | Path) -> Fit:
    """Fits the scale of an adapter's uncertainty to an output folder of `infer.py` with known truths; writes nothing.

    Args:
        prediction: mattes with `<path>.uncertainty.png` and run.json, all of one number of steps and of samples, eta 0.
            A scale that is in the uncertainty is divided out.
        ground_truth: folder of the true mattes, with the same relative names.
        adapter: folder of the adapter that drew the mattes.

    Raises:
        UserError: the run cannot be fitted, or another adapter made it; ImageError (one, too) for a damaged picture.
        MissingFile: mattes without truth, or truths without matte.
    """
    adapter, prediction = Path(adapter), Path(prediction)
    record = read_run_record(prediction)
    if record is None or record.get("method") != "sdseg":
        raise UserError(
            f"{prediction}: has no {RUN_RECORD} of sdseg infer, which says what drew the mattes; run it again"
        )
    key = setting_of(record, prediction, adapter)
    evaluation = open_evaluation(prediction, ground_truth)
    if evaluation.unused:
        raise MissingFile(
            f"{ground_truth}: {len(evaluation.unused)} mattes have no ground truth: {listed(evaluation.unused)}; add "
            "theirs, or matte only the photos that have one"
        )
    if evaluation.unlisted:
        raise UserError(
            f"{prediction}: {len(evaluation.unlisted)} mattes are not in its {RUN_RECORD}, so another run made them: "
            f"{listed(evaluation.unlisted)}; remove them"
        )
    pictures = len(evaluation.truths.items)
    if pictures < MIN_PICTURES:
        raise UserError(f"{prediction}: {pictures} pictures are too few for a scale; give {MIN_PICTURES} or more")
    squared_error = variance = 0.0
    for error, deviation in errors_and_deviations(evaluation):
        squared_error += float(np.square(error, dtype=np.float64).sum())
        variance += float(np.square(deviation, dtype=np.float64).sum())
    scale = scale_of(squared_error, variance, prediction, ground_truth)
    before = read_adapter_config(adapter).calibration.get(key)
    factors = list(dict.fromkeys(factor for factor in (1.0, before, scale) if factor is not None))
    within: dict[float, list[dict]] = {factor: [] for factor in factors}
    for error, deviation in errors_and_deviations(evaluation):  # again, because a whole set need not fit in memory
        for factor in factors:
            within[factor].append(shares(error, factor * deviation))
    return Fit(key, scale, before, pictures, {factor: means(rows) for factor, rows in within.items()})


def setting_of(record: dict, prediction: Path, adapter: Path) -> str:
    """The key of the scale that a run's mattes can give.

    Raises:
        UserError: no scale is kept for such a run, or another adapter made it.
    """
    settings = record["settings"]
    if record.get("adapter_digest") is None:
        raise UserError(
            f"{prediction}: an older sdseg made it, whose {RUN_RECORD} does not identify the adapter; run infer again"
        )
    if record["adapter_digest"] != weights_digest(adapter):
        raise UserError(
            f"{prediction}: was made with the adapter {settings['adapter']}, whose weights are not those of {adapter}; "
            "name the adapter that made it"
        )
    if settings["target"] == "classes":
        raise UserError(f"{prediction}: holds classes, whose uncertainty is the entropy of votes; it has no scale")
    if settings["eta"]:
        raise UserError(f"{prediction}: was drawn with eta {settings['eta']:g}; scales hold for eta 0, run infer again")
    if settings["ensemble_size"] == "auto":
        raise UserError(
            f"{prediction}: was drawn with --ensemble_size auto, which gives more samples to harder photos, so none of "
            "its numbers is fairly judged; run infer with each number, 2, 4 and 8, and calibrate each"
        )
    if not settings["output_uncertainty"]:
        raise UserError(f"{prediction}: has no uncertainties; run infer again with --output_uncertainty")
    return calibration_key(settings["num_inference_steps"], settings["ensemble_size"])


def errors_and_deviations(evaluation: Evaluation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """|p − g| and the raw standard deviation of each picture, float32 [H, W] both.

    Raises:
        UserError: a picture without uncertainty, or one whose file does not hold how large it is.
    """
    for item in evaluation.truths.items:
        file = evaluation.predictions[item.name]
        matte, truth, deviation, _ = read_case(evaluation, item, file)
        if deviation is None:
            raise UserError(f"{file}: has no uncertainty beside it; run infer again with --output_uncertainty")
        applied = evaluation.scales[item.name]
        if applied is not None:
            if deviation.max() == 1:
                raise UserError(
                    f"{file.name.removesuffix(ALPHA_SUFFIX)}: its uncertainty, {applied:.3f} times the standard "
                    "deviation, reaches 1, where the file ends; run infer again with --raw_uncertainty"
                )
            deviation = deviation / np.float32(applied)
        yield abs(matte - truth), deviation


def scale_of(squared_error: float, variance: float, prediction: Path, ground_truth: str | Path) -> float:
    """The scale from sums over all pixels; raises UserError where there is none."""
    from sdseg.evaluation.metrics import calibration_scale

    if variance == 0:
        raise UserError(
            f"{prediction}: the uncertainty is 0 everywhere, so no scale can fit it; use more samples or steps"
        )
    if squared_error == 0:
        raise UserError(f"{ground_truth}: equals the mattes of {prediction}; name the folder of the true mattes")
    return calibration_scale(squared_error, variance)


def fit_lines(fit: Fit) -> list[str]:
    """The fit and its coverage, as lines for a terminal."""
    steps, samples = fit.key.split("x")
    lines = [
        f"scale {fit.scale:.4f} for {steps} steps x {samples} samples, fitted to {fit.pictures} pictures",
        f"{'errors within':34}{'1 std':>9}{'2 std':>9}{'3 std':>9}",
    ]
    names = {1.0: "samples' standard deviation", fit.before: "times the scale held before"}
    for factor, coverage in fit.coverage.items():
        name = names.get(factor, "times this scale")
        name += "" if factor == 1 else f" ({factor:.4f})"
        lines.append(f"{name:34}" + "".join(f"{share:9.3f}" for share in coverage.values()))
    return [*lines, f"{'of a normal distribution':34}{0.683:9.3f}{0.954:9.3f}{0.997:9.3f}"]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="sdseg calibrate",
        description="Fit the scale by which infer multiplies an adapter's standard deviation to mattes whose truth is "
        "known, and keep it in the adapter, for the steps and samples they were drawn with.",
    )
    parser.add_argument(
        "--prediction", type=Path, required=True, metavar="DIR", help="written by infer with --output_uncertainty"
    )
    parser.add_argument(
        "--ground_truth", type=Path, required=True, metavar="DIR", help="folder of true mattes with the same names"
    )
    parser.add_argument("--adapter", required=True, metavar="DIR", help="folder of the adapter that drew the mattes")
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    adapter = Path(arguments.adapter)
    if not all((adapter / name).is_file() for name in ("sdseg_config.json", "adapter_model.safetensors")):
        raise UserError(
            f"--adapter {arguments.adapter}: is no adapter folder to keep a scale in; give the path of a folder that "
            "holds sdseg_config.json (of an adapter on the Hub, or of the one that ships with sdseg, a copy will do)"
        )
    fit = fit_scale(arguments.prediction, arguments.ground_truth, adapter)
    scales = store_scale(adapter, fit.key, fit.scale)
    print("\n".join(fit_lines(fit)))
    print(f"kept in {adapter / 'sdseg_config.json'}, which holds scales for {', '.join(sorted(scales))}")
    return 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
