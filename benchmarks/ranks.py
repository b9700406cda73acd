"""Rank against targets: adapters of the miniature that differ in nothing else, judged on held-out renders.

    python benchmarks/ranks.py --train_data_dir runs/fur_solids --held_out runs/validation_data --output runs/ranks

Every adapter is trained with configs/demo_half.yaml (32 px, 64 pictures a step), its alpha equal to its rank. Printed:
MAD of single samples and of the mean of eight, of four steps. What is there already is not done again.
"""

import argparse
import json
import sys
from pathlib import Path

from one_step import SAMPLES_OF_UNCERTAINTY, judge
from recipes import run
from segmentation import number_of_parameters

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LAYERS = {
    "attention": ["attention"],
    "all": ["attention", "feed_forward", "projections", "convolutions", "conv_in", "time"],
}
CELLS = [("attention", 8), ("attention", 128), ("all", 8), ("all", 32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_data_dir", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True, help="pairs that nothing was trained on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=48, help="judged: the first ones held out")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and results.json")
    options = parser.parse_args()

    from sdseg.outputs import write_json

    file = options.output / "results.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    print("| layers | rank | parameters | MAD, single samples | MAD, mean of eight |\n|---|---|---|---|---|")
    for layers, rank in CELLS:
        found = [row for row in rows if (row["layers"], row["rank"]) == (layers, rank)]
        if not found:
            folder = options.output.resolve() / f"{layers}_{rank}"
            flags = ["--config", ROOT / "configs" / "demo_half.yaml", "--output_dir", folder]
            flags += ["--train_data_dir", options.train_data_dir.resolve(), "--max_train_steps", options.steps]
            flags += ["--rank", rank, "--lora_alpha", rank, "--lora_targets", f"[{', '.join(LAYERS[layers])}]"]
            run("train.py", *flags)
            adapter = folder / "adapter"
            judged = judge(adapter, options.held_out, options.pictures, SAMPLES_OF_UNCERTAINTY, resolution=32)
            row = {"layers": layers, "rank": rank, "parameters": number_of_parameters(adapter)}
            found = [row | {"single": judged["single"][4], "mean_of_samples": judged["mean_of_samples"][4]}]
            rows += found
            write_json(file, rows)
        row = found[0]
        cells = [layers, row["rank"], f"{row['parameters'] / 1e6:.2f} M", f"{row['single']:.4f}"]
        print("| " + " | ".join(map(str, [*cells, f"{row['mean_of_samples']:.4f}"])) + " |", flush=True)


if __name__ == "__main__":
    main()
