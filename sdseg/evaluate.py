"""Judges a folder of predicted mattes against a folder of true ones.

    python -m sdseg.evaluate --prediction DIR --ground_truth DIR --output metrics.json

The prediction folder is what every method writes (see `sdseg.outputs`): `<path>.png` belongs to the ground
truth of the same relative path without extension; `<path>.uncertainty.png`, where there is one, is judged
too.
"""

import argparse
import math
import sys
from pathlib import Path

from sdseg.imaging import ImageError, list_images, read_alpha, read_grey16
from sdseg.outputs import ALPHA_SUFFIX, RGBA_SUFFIX, UNCERTAINTY_SUFFIX, output_names, write_json

DEFINITIONS = {
    "sad": "sum |p - g| / 1000",
    "mad": "mean |p - g|",
    "mse": "mean (p - g)^2",
    "grad": "sum (|grad p| - |grad g|)^2 / 1000; Gaussian derivatives, sigma 1.4, 9x9, each of L2 norm 1",
    "conn": "sum |phi(p) - phi(g)| / 1000; thresholds 0, 0.1 ... 1, 4-connected, phi = 1 - d [d >= 0.15]",
    "iou": "intersection over union of alpha >= 0.5; 1 where both are empty",
    "boundary_f": "F of the boundaries of alpha >= 0.5; tolerance 0.008 of the diagonal, rounded up",
    "ause": "area between the sparsification curves by uncertainty and by |p - g|, mean error, alpha units",
    "spearman": "rank correlation of uncertainty and |p - g| over pixels; null where one is constant",
    "within_1_std": "share of pixels with |p - g| <= 1 (2, 3) standard deviations; normal: .683 .954 .997",
    "calibration_scale": "s with s^2 = mean (p - g)^2 / mean variance over all pixels of the set",
    "scaled": "the shares again with the uncertainty times calibration_scale, fitted on this very set",
}
WORST_SHOWN = 5


def evaluate_folder(prediction: str | Path, ground_truth: str | Path) -> dict:
    """Compares every ground-truth matte with its prediction, at the ground truth's own size.

    Returns what metrics.json holds: `protocol`; `mean` (over pictures, with their `count`); `uncertainty`
    (means likewise, and the calibration; None where no prediction has any); `unused_predictions` (names
    without ground truth); `images` (one entry a picture, in order of name).

    Raises FileNotFoundError where ground truth has no prediction, ImageError for pictures that are
    unreadable or of unequal size.
    """
    from sdseg.metrics import calibration_scale, matte_metrics

    pairs, unused = pair_files(Path(prediction), Path(ground_truth))
    images, squared_error, variance = [], 0.0, 0.0
    for name, files in pairs.items():
        alpha, truth, deviation = read_pair(*files)
        entry = {"name": name, "size": [truth.shape[1], truth.shape[0]], **matte_metrics(alpha, truth)}
        if deviation is not None:
            entry["uncertainty"] = uncertainty_metrics(abs(alpha - truth), deviation)
            squared_error += entry["mse"] * truth.size
            variance += float((deviation.astype(float) ** 2).sum())
        images.append(entry)

    uncertainty = None
    if judged := [entry["uncertainty"] for entry in images if "uncertainty" in entry]:
        uncertainty = {"count": len(judged), **means(judged), "calibration_scale": None, "scaled": None}
        if variance > 0:
            scale = calibration_scale(squared_error, variance)
            uncertainty |= {"calibration_scale": scale, "scaled": scaled_shares(pairs, scale)}
    return {
        "protocol": protocol(images),
        "mean": {"count": len(images), **means([matte_part(entry) for entry in images])},
        "uncertainty": uncertainty,
        "unused_predictions": unused,
        "images": images,
    }


def pair_files(prediction: Path, ground_truth: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Two folders -> ({name: (prediction file, true file)}, names of predictions without ground truth)."""
    for folder in (prediction, ground_truth):
        if folder.is_file():
            raise NotADirectoryError(f"{folder}: is a file; name the folder that holds the mattes")
    predicted = {
        path.relative_to(prediction).as_posix().removesuffix(ALPHA_SUFFIX): path
        for path in list_images(prediction)
        if path.name.endswith(ALPHA_SUFFIX) and not path.name.endswith((UNCERTAINTY_SUFFIX, RGBA_SUFFIX))
    }
    truths = output_names(list_images(ground_truth), ground_truth)
    truths = {name.as_posix(): path for path, name in truths.items()}
    if missing := [name for name in truths if name not in predicted]:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"{prediction}: {len(missing)} of {len(truths)} true mattes have no prediction: {listed}; predict "
            "these too, or leave their truth out"
        )
    pairs = {name: (predicted[name], true) for name, true in truths.items()}
    return pairs, sorted(predicted.keys() - truths.keys())


def read_pair(predicted: Path, true: Path):
    """Reads a prediction, its truth and its uncertainty (or None): float32 [H, W] each, of one size."""
    alpha, truth = read_alpha(predicted), read_alpha(true)
    uncertainty_file = predicted.with_name(predicted.name.removesuffix(ALPHA_SUFFIX) + UNCERTAINTY_SUFFIX)
    deviation = read_grey16(uncertainty_file) if uncertainty_file.exists() else None
    for path, values in ((predicted, alpha), (uncertainty_file, deviation)):
        if values is not None and values.shape != truth.shape:
            raise ImageError(
                f"{path} is {values.shape[1]}x{values.shape[0]}, but its ground truth {true} is "
                f"{truth.shape[1]}x{truth.shape[0]}; predict at the picture's own size"
            )
    return alpha, truth, deviation


def uncertainty_metrics(error, deviation) -> dict:
    """|p − g| and standard deviation, [H, W] each -> AUSE, Spearman's correlation and calibration shares."""
    from sdseg.metrics import ause, spearman

    correlation = spearman(error, deviation)
    return {
        "ause": ause(error, deviation),
        "spearman": None if math.isnan(correlation) else correlation,
        **shares(error, deviation),
    }


def shares(error, deviation) -> dict[str, float]:
    """Calibration shares by name."""
    from sdseg.metrics import calibration_shares

    within = calibration_shares(error, deviation)
    return {f"within_{count}_std": share for count, share in enumerate(within, start=1)}


def scaled_shares(pairs: dict[str, tuple[Path, Path]], scale: float) -> dict[str, float]:
    """Mean calibration shares of the pictures with an uncertainty, once it is multiplied by `scale`."""
    scaled = []
    for files in pairs.values():  # read again, since a whole set need not fit in memory
        alpha, truth, deviation = read_pair(*files)
        if deviation is not None:
            scaled.append(shares(abs(alpha - truth), deviation * scale))
    return means(scaled)


def matte_part(entry: dict) -> dict:
    """The figures of an entry that compare mattes."""
    return {key: value for key, value in entry.items() if key not in ("name", "size", "uncertainty")}


def means(entries: list[dict]) -> dict[str, float | None]:
    """Mean of every figure over the entries that have it (None where none has)."""
    values = {key: [entry[key] for entry in entries if entry[key] is not None] for key in entries[0]}
    return {key: sum(found) / len(found) if found else None for key, found in values.items()}


def protocol(images: list[dict]) -> dict:
    """What has to stand beside the figures for others to compare with them."""
    import numpy
    import scipy

    from sdseg import __version__

    sizes = sorted({tuple(entry["size"]) for entry in images})  # (W, H)
    return {
        "resolution": "each picture at its ground truth's own size, whole picture, alpha in [0, 1]",
        "sizes": [f"{width}x{height}" for width, height in sizes],
        "average": "figures a picture, then the mean over pictures",
        "definitions": DEFINITIONS,
        "versions": {"sdseg": __version__, "numpy": numpy.__version__, "scipy": scipy.__version__},
    }


def table(result: dict) -> str:
    """The means, and above them the pictures with the largest MAD, as lines of text."""
    columns = list(matte_part(result["images"][0]))
    worst = sorted(result["images"], key=lambda entry: -entry["mad"])[:WORST_SHOWN]
    lines = [[entry["name"], *(f"{entry[key]:.4f}" for key in columns)] for entry in worst]
    mean = result["mean"]
    lines.append([f"mean of {mean['count']}", *(f"{mean[key]:.4f}" for key in columns)])
    lines.insert(0, ["worst by MAD", *(key.upper().replace("_", " ") for key in columns)])
    width = max(len(line[0]) for line in lines)
    text = [f"{line[0]:<{width}}" + "".join(f"{cell:>11}" for cell in line[1:]) for line in lines]
    if uncertainty := result["uncertainty"]:
        figures = {key: value for key, value in uncertainty.items() if isinstance(value, float)}
        text.append("uncertainty: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    return "\n".join(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sdseg evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--prediction", required=True, metavar="DIR", help="folder written by infer.py or a method")
    parser.add_argument("--ground_truth", required=True, metavar="DIR", help="folder of true mattes, same names")
    parser.add_argument("--output", required=True, metavar="FILE", help="metrics.json to write")
    arguments = parser.parse_args(argv)
    try:
        result = evaluate_folder(arguments.prediction, arguments.ground_truth)
        write_json(arguments.output, result)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if unused := result["unused_predictions"]:
        listed = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        print(f"note: {len(unused)} predictions have no ground truth: {listed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
