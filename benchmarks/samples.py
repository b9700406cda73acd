"""What samples are worth: noise added at every step (eta), and ensembles that stop by themselves.

    python benchmarks/samples.py --pairs renders=runs/validation_data photos=DIR --output samples.json

A set is a folder of pairs: images/ with alpha/, or metadata.jsonl. Every row is the mean over its pictures: MAD of the
mean of the samples, with a bootstrap interval; of the uncertainty AUSE and Spearman's correlation with |error|, and the
share of pixels within 2 standard deviations of the truth. Automatic ensembles are compared with the fixed one of as
many samples as they may draw, picture by picture.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
ETAS, STEPS, SAMPLES = (0.0, 0.5, 1.0), (2, 4, 10), 8
TOLERANCES = (0.01, 0.02, 0.04, 0.08)


def draw(session, image: np.ndarray, **settings):
    import torch

    generator = torch.Generator().manual_seed(0)
    settings |= dict(batch_size=SAMPLES, output_uncertainty=True, raw_uncertainty=True, refine=False)
    return session(image, generator=generator, **settings)


def figures(output, truth: np.ndarray) -> dict:
    from sdseg.evaluation.metrics import ause, calibration_shares, mad, spearman

    error, deviation = np.abs(output.prediction[0] - truth), output.uncertainty[0]
    return {
        "mad": mad(output.prediction[0], truth),
        "ause": ause(error, deviation),
        "spearman": spearman(error, deviation),
        "within_2_std": calibration_shares(error, deviation)[1],
        "samples": output.sample_counts[0],
    }


def mean_of(rows: list[dict]) -> dict:
    from sdseg.evaluation.metrics import confidence_interval

    interval = confidence_interval(np.array([row["mad"] for row in rows]), np.random.default_rng(0))
    found = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    return found | {"mad_interval": [float(end) for end in interval]}


def judge(session, pairs: list) -> dict:
    """Rows by their names: `eta E, S steps`, `fixed N` and `auto T`."""
    from tqdm import tqdm

    settings = {
        f"eta {eta:g}, {steps} steps": dict(num_inference_steps=steps, ensemble_size=SAMPLES, eta=eta)
        for steps in STEPS
        for eta in ETAS
    }
    settings |= {f"fixed {count}": dict(ensemble_size=count) for count in (2, 4, SAMPLES)}
    settings |= {f"auto {tolerance:g}": dict(ensemble_size="auto", tolerance=tolerance) for tolerance in TOLERANCES}
    rows = {name: [] for name in settings}
    for image, truth in tqdm(pairs):
        for name, how in settings.items():
            rows[name].append(figures(draw(session, image, **how), truth))
    return {name: mean_of(each) for name, each in rows.items()}


def shrunk(image: np.ndarray, truth: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    scale = longest / max(truth.shape)
    if scale >= 1:
        return image, truth
    size = tuple(max(1, round(side * scale)) for side in truth.shape[::-1])
    image, truth = (cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (image, truth))
    return image, truth.clip(0, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapter", default="embedded")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--count", type=int, default=72, help="pictures of each set, at most")
    parser.add_argument("--longest_side", type=int, default=480, help="larger pictures are shrunk to this")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    from sdseg.data import find_pairs, read_pair
    from sdseg.inference.session import MattingSession

    session, found = MattingSession.from_adapter(arguments.adapter), {}
    for entry in arguments.pairs:
        name, _, folder = entry.partition("=")
        pairs = [read_pair(pair) for pair in find_pairs(Path(folder))[: arguments.count]]
        found[name] = judge(session, [shrunk(*pair, arguments.longest_side) for pair in pairs])
        for row, figure in found[name].items():
            values = (f"{key} {value:.4f}" for key, value in figure.items() if key != "mad_interval")
            print(f"{name:10} {row:18}", *values)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
