"""Compares rendered sets as training data: an adapter of the miniature for each set and seed, judged on real pictures.

    python benchmarks/recipes.py --sets everything=runs/everything fur_solids=runs/fur_solids \
        --pictures products=photos:mattes --seeds 0 1 2 --output runs/recipes

All adapters are trained with the same settings and numbers of steps (configs/demo_half.yaml, then configs/demo.yaml).
Existing results are reused.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def run(*command: object) -> None:
    """Runs `python command...` in the project's root; a command that fails ends the benchmark."""
    arguments = [str(argument) for argument in command]
    print("+", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def named(text: str) -> tuple[str, str]:
    """NAME=VALUE as (name, value)."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def train(folder: Path, data: Path, seed: int, half_steps: int, steps: int) -> Path:
    """Trains the adapter of one set and seed, unless it exists."""
    half, full = folder / "half", folder / "full"
    common = ["--train_data_dir", data, "--seed", seed]
    if not (half / "adapter").is_dir():
        config = ROOT / "configs" / "demo_half.yaml"
        run("train.py", "--config", config, "--output_dir", half, *common, "--max_train_steps", half_steps)
    if not (full / "adapter").is_dir():
        flags = ["--config", ROOT / "configs" / "demo.yaml", "--output_dir", full, *common]
        flags += ["--init_adapter", half / "adapter"]
        run("train.py", *flags, "--max_train_steps", steps)
    return full / "adapter"


def judge(folder: Path, adapter: Path, images: Path, mattes: Path) -> dict[str, float]:
    """Mean figures of an adapter on a folder of pictures."""
    from sdseg.evaluation.evaluate import evaluate_folder

    if not (folder / "run.json").is_file():
        flags = ["--adapter", adapter, "--input", images, "--output", folder, "--seed", 0]
        run("infer.py", *flags, "--num_inference_steps", 4, "--ensemble_size", 8, "--batch_size", 8)
    mean = evaluate_folder(folder, mattes)["mean"]
    return {key: mean[key] for key in ("mad", "mse", "iou", "count")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", type=named, required=True, metavar="NAME=DIR")
    parser.add_argument("--pictures", nargs="+", type=named, required=True, metavar="NAME=IMAGES:MATTES")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--half_steps", type=int, default=500, help="at 32 px with batches of 64 (default 500)")
    parser.add_argument("--steps", type=int, default=250, help="at 64 px with batches of 32 (default 250)")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[dict]]] = {}
    for seed in options.seeds:
        for name, data in options.sets:
            folder = options.output.resolve() / f"{name}_{seed}"
            adapter = train(folder, Path(data).resolve(), seed, options.half_steps, options.steps)
            for pictures, folders in options.pictures:
                images, mattes = (Path(part).resolve() for part in folders.split(":"))
                row = {"seed": seed} | judge(folder / pictures, adapter, images, mattes)
                results.setdefault(pictures, {}).setdefault(name, []).append(row)
                print(json.dumps({"set": name, "pictures": pictures} | row), flush=True)
            (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for pictures, sets in results.items():
        for name, rows in sets.items():
            mads = [row["mad"] for row in rows]
            spread = statistics.stdev(mads) if len(mads) > 1 else 0.0
            print(f"{pictures:12} {name:14} MAD {statistics.mean(mads):.4f} +- {spread:.4f}")


if __name__ == "__main__":
    main()
