"""What a miniature's base has seen, what its adapter is trained on, and which layers are trained, at equal steps.

    python benchmarks/ablation.py data --renders procedural=runs/procedural real_things=runs/real_things \
        --photos photos --vae dev/miniature_128/base/vae --judged products=images:mattes --output runs/ablation
    python benchmarks/ablation.py layers --renders ... --judged ... --output runs/ablation
    python benchmarks/ablation.py samples --judged ... --output runs/ablation

- `data`: bases pre-trained on renders, on photographs and on both (`sdseg.embedded.pretrain`, one VAE for all), and on
  each an adapter trained on each set of --renders and on all of them.
- `layers`: on the shipped base, rank by kinds of layers, each at every learning rate of --rates.
- `samples`: the shipped adapter, denoising steps by samples.

Adapters are trained at half and then at full resolution, by the settings of CONFIGS. Printed: MAD on every judged
set, a picture's being the mean over seeds, with the 95 % bootstrap interval of the mean over pictures. What is there
already is not done again.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

BASES = ("renders", "photographs", "both")
LAYERS = {
    "attention": ["attention"],
    "+ feed-forward, projections": ["attention", "feed_forward", "projections"],
    "+ convolutions, conv_in, time": ["attention", "feed_forward", "projections", "convolutions", "conv_in", "time"],
}
RANKS = (4, 16, 64)
STEPS, SAMPLES = (1, 2, 4, 10), (1, 2, 4, 8, 16)
CONFIGS = {
    "data": ("embedded/matting_half.yaml", "embedded/matting.yaml"),
    "layers": ("demo_half.yaml", "demo.yaml"),
}


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


def pretrained(options: argparse.Namespace, kind: str) -> Path:
    """The base that saw `kind`, with the VAE of --vae and its decoder."""
    folder = options.output / f"base_{kind}"
    if not (folder / "base" / "unet").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(options.vae, folder / "base" / "vae", dirs_exist_ok=True)
        renders = [Path(path).resolve() for _, path in options.renders]
        flags = ["--output", folder, "--stage", "unet", "--unet_steps", options.unet_steps]
        flags += ["--mattes" if kind == "photographs" else "--renders", *renders]
        flags += [] if kind == "renders" else ["--photos", *(photos.resolve() for photos in options.photos)]
        run("-m", "sdseg.embedded.pretrain", *flags)
    return folder / "base"


def trained(folder: Path, data: list[Path], seed: int, options: argparse.Namespace, *flags: object) -> Path:
    """The adapter of one cell, trained at half and at full resolution."""
    half, full = folder / "half", folder / "full"
    sets = ["--train_data_dir", data[0].resolve()]
    for further in data[1:]:
        sets += ["--train_data_dir+", further.resolve()]
    common = [*sets, "--train_data_weights", "null", "--validation_data_dir", "null", "--seed", seed]
    common += ["--cached_variants", options.cached_variants, *flags]
    first, second = (ROOT / "configs" / name for name in CONFIGS[options.part])
    if not (half / "adapter").is_dir():
        run("train.py", "--config", first, "--output_dir", half, "--max_train_steps", options.steps[0], *common)
    if not (full / "adapter").is_dir():
        begun = ["--init_adapter", half / "adapter", "--max_train_steps", options.steps[1]]
        run("train.py", "--config", second, "--output_dir", full, *begun, *common)
    return full / "adapter"


def judged(folder: Path, options: argparse.Namespace, steps: int, samples: int, *flags: object) -> dict[str, list]:
    """MAD of each picture of each judged set."""
    from sdseg.evaluation.evaluate import evaluate_folder

    found = {}
    for name, folders in options.judged:
        images, mattes = (Path(part).resolve() for part in folders.split(":"))
        if not (folder / name / "run.json").is_file():
            asked = ["--num_inference_steps", steps, "--ensemble_size", samples, "--batch_size", 16, "--no-refine"]
            run("infer.py", "--input", images, "--output", folder / name, "--seed", 0, *asked, *flags)
        found[name] = [picture["mad"] for picture in evaluate_folder(folder / name, mattes)["images"]]
    return found


def data_cells(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, list]]]:
    sets = {name: [Path(path)] for name, path in options.renders}
    if len(sets) > 1:
        sets["all"] = [Path(path) for _, path in options.renders]
    for kind, (name, data), seed in itertools.product(BASES, sets.items(), options.seeds):
        base = pretrained(options, kind)
        folder = options.output / f"{kind}_{name}_{seed}"
        adapter = trained(folder, data, seed, options, "--pretrained_model_name_or_path", base)
        yield f"base {kind}, adapter {name}", judged(folder, options, 4, 4, "--adapter", adapter)


def layer_cells(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, list]]]:
    data = [Path(path) for _, path in options.renders]
    for (layers, targets), rank, rate, seed in itertools.product(LAYERS.items(), RANKS, options.rates, options.seeds):
        folder = options.output / f"{len(targets)}_{rank}_{rate:g}_{seed}"
        flags = ["--rank", rank, "--lora_alpha", rank, "--lora_targets", f"[{', '.join(targets)}]"]
        adapter = trained(folder, data, seed, options, *flags, "--learning_rate", rate)
        yield f"{layers}, rank {rank}, {rate:g}", judged(folder, options, 4, 4, "--adapter", adapter)


def sample_cells(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, list]]]:
    for steps, samples in itertools.product(STEPS, SAMPLES):
        folder = options.output / f"{steps}x{samples}"
        yield f"{steps} steps, {samples} samples", judged(folder, options, steps, samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["data", "layers", "samples"])
    parser.add_argument("--renders", nargs="+", type=named, default=[], metavar="NAME=DIR")
    parser.add_argument("--photos", nargs="+", type=Path, default=[], help="folders of photographs, for the bases")
    parser.add_argument("--vae", type=Path, help="folder of the VAE that all bases share")
    parser.add_argument("--judged", nargs="+", type=named, required=True, metavar="NAME=IMAGES:MATTES")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--unet_steps", type=int, default=1200, help="of each base")
    parser.add_argument("--steps", nargs=2, type=int, default=[500, 250], help="of each adapter, half and full size")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3], help="learning rates of `layers`")
    parser.add_argument("--cached_variants", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and PART.json")
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)

    import numpy as np

    from sdseg.evaluation.metrics import confidence_interval
    from sdseg.outputs import write_json

    results: dict[str, dict[str, list[list[float]]]] = {}
    cells = {"data": data_cells, "layers": layer_cells, "samples": sample_cells}[options.part]
    for name, found in cells(options):
        for pictures, values in found.items():
            results.setdefault(name, {}).setdefault(pictures, []).append(values)
        write_json(options.output / f"{options.part}.json", results)
    print("| | " + " | ".join(name for name, _ in options.judged) + " |\n" + "|---" * (len(options.judged) + 1) + "|")
    for name, sets in results.items():
        shown = [name]
        for runs in sets.values():
            means = [sum(values) / len(values) for values in zip(*runs, strict=True)]
            low, high = confidence_interval(np.array(means), np.random.default_rng(0))
            shown.append(f"{sum(means) / len(means):.4f} ({low:.4f} to {high:.4f})")
        print("| " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
