"""What the second stage brings: one adapter before and after it, in one step and in many, and its uncertainty.

    python benchmarks/one_step.py --adapter sdseg/embedded/adapter --train_data_dir runs/fur_solids \
        --held_out runs/validation_data --output runs/one_step

The adapter is trained on twice for the same steps: with no share of pixel loss, so that more training is not taken for
a better loss, and with one. Each is judged on the held-out pairs: MAD of single samples (the mean over --samples of
them) for each number of denoising steps, MAD of their mean, and the rank correlation, over pixels of a picture, of the
standard deviation of eight four-step samples with |error| of their mean. What is there already is not done again.
"""

import argparse
import json
import sys
from pathlib import Path

from ablation import run as run_python

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

STEPS = (1, 2, 4, 10)
STEPS_OF_UNCERTAINTY, SAMPLES_OF_UNCERTAINTY = 4, 8


def judge(adapter: Path, held_out: Path, pictures: int, samples: int, resolution: int) -> dict:
    """MAD by number of steps, of single samples and of their mean, and the uncertainty's rank correlation."""
    import numpy as np
    import torch

    from sdseg.data import find_pairs, read_pair
    from sdseg.evaluation.metrics import mad, spearman
    from sdseg.inference.pipeline import MattingPipeline

    pipeline = MattingPipeline.from_adapter(str(adapter))
    pipeline.set_progress_bar_config(disable=True)
    pairs = find_pairs(held_out)[:pictures]
    single = {steps: [] for steps in STEPS}
    ensemble = {steps: [] for steps in STEPS}
    deviation, correlations = [], []
    for index, pair in enumerate(pairs):
        image, truth = read_pair(pair)
        for steps in STEPS:
            count = max(samples, SAMPLES_OF_UNCERTAINTY) if steps == STEPS_OF_UNCERTAINTY else samples
            drawn = pipeline(
                image,
                num_inference_steps=steps,
                ensemble_size=count,
                batch_size=count,
                processing_resolution=resolution,
                output_samples=True,
                output_uncertainty=True,
                raw_uncertainty=True,
                generator=torch.Generator().manual_seed(index),
            )
            single[steps].append(np.mean([mad(one.clip(0, 1), truth) for one in drawn.samples[0]]))
            ensemble[steps].append(mad(drawn.prediction[0], truth))
            if steps == STEPS_OF_UNCERTAINTY:
                deviation.append(float(drawn.uncertainty[0].mean()))
                correlations.append(spearman(np.abs(drawn.prediction[0] - truth), drawn.uncertainty[0]))
    return {
        "pictures": len(pairs),
        "single": {steps: float(np.mean(values)) for steps, values in single.items()},
        "mean_of_samples": {steps: float(np.mean(values)) for steps, values in ensemble.items()},
        "mean_deviation": float(np.mean(deviation)),
        "spearman": float(np.nanmean(correlations)),
    }


def second_stage(arguments: argparse.Namespace, share: float) -> Path:
    """The adapter after `--steps` more with a share of the samples through the decoder."""
    run = arguments.output / f"share_{share:g}"
    if not (run / "adapter").is_dir():
        flags = ["train.py", "--config", arguments.config, "--output_dir", run, "--init_adapter", arguments.adapter]
        flags += ["--train_data_dir", arguments.train_data_dir, "--validation_data_dir", "null"]
        flags += ["--pixel_loss_share", share, "--max_train_steps", arguments.steps]
        flags += ["--learning_rate", arguments.learning_rate, "--lr_warmup_steps", 20, "--seed", 1]
        run_python(*flags)
    return run / "adapter"


def print_table(rows: dict[str, dict]) -> None:
    heads = [f"{steps} step" + "s" * (steps > 1) for steps in STEPS]
    print("| adapter | " + " | ".join(heads) + " | one step / ten | deviation, 4 x 8 | Spearman, 4 x 8 |")
    print("|---" * (len(STEPS) + 4) + "|")
    for name, row in rows.items():
        single = {int(steps): value for steps, value in row["single"].items()}
        cells = [f"{single[steps]:.4f}" for steps in STEPS] + [f"{single[1] / single[10]:.3f}"]
        print(f"| {name} | " + " | ".join([*cells, f"{row['mean_deviation']:.4f}", f"{row['spearman']:.3f}"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapter", type=Path, default=ROOT / "sdseg" / "embedded" / "adapter")
    parser.add_argument("--config", default=ROOT / "configs" / "embedded_matting.yaml", help="settings it was made by")
    parser.add_argument("--train_data_dir", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True, help="pairs that nothing was trained on")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5], help="of pixel loss")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of the second stage")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--pictures", type=int, default=48, help="judged: the first ones held out")
    parser.add_argument("--samples", type=int, default=4, help="drawn for each picture and number of steps")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and results.json")
    arguments = parser.parse_args()

    from sdseg.outputs import write_json

    results = arguments.output / "results.json"
    rows = json.loads(results.read_text()) if results.is_file() else {}
    for name, share in [("before", None), *((f"{share:g} of pixel loss", share) for share in arguments.shares)]:
        if name not in rows:
            adapter = arguments.adapter if share is None else second_stage(arguments, share)
            rows[name] = judge(adapter, arguments.held_out, arguments.pictures, arguments.samples, arguments.resolution)
            write_json(results, rows)
    print_table(rows)


if __name__ == "__main__":
    main()
