"""The whole workflow in one command: `sdseg demo --output runs/demo` (`make demo` runs it).

Renders a held-out and a small training set, fine-tunes a new adapter on the miniature base, mattes the held-out renders
and a few photos, and evaluates the mattes. Each stage is a command that a user would type, run in a process of its own
and timed. Writes metrics.json and report.html.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from sdseg.errors import Parser, reported, require, steady_streams
from sdseg.shipped import config_path

RECIPE = "recipes/fur_solids.yaml"
SIZE = 64  # pixels, the resolution that the miniature was trained at
HELD_OUT_SEED = 1000  # the base and the shipped adapter were trained on seed 1, the demo trains on seed 2
TRAINING_SEED = 2
HELD_OUT_COUNT = 72
TRAINING_COUNTS = (150, 1500)  # least and most: a slow machine renders fewer pictures, but trains for as many steps
RENDERING_SECONDS = 80  # time to spend on the training set
STEPS, SAMPLES = 4, 8
INFERENCE = ["--num_inference_steps", STEPS, "--ensemble_size", SAMPLES, "--output_uncertainty"]
PHOTOS = ["astronaut", "chelsea", "coffee"]  # part of scikit-image, and free to redistribute
METHODS = {
    "untrained": "miniature base with 8 input channels, not fine-tuned",
    "finetuned": "adapter fine-tuned in this demo",
    "shipped": "adapter that ships with sdseg",
    "otsu": "Otsu's threshold",
    "grabcut": "GrabCut, rectangle 5 % inside each side",
}


class Stages:
    """Runs commands and keeps the time that each took, in seconds."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *command: str | Path) -> None:
        """Runs `sdseg command...`; a command that fails ends the demo with its exit code."""
        command = [str(word) for word in command]
        print(f"\n== {name}: sdseg {shlex.join(command)}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "sdseg", *command]).returncode
        if code:
            sys.exit(code)
        self.seconds[name] = round(time.monotonic() - start, 1)


def render(stages: Stages, output: Path, workers: int) -> tuple[Path, Path]:
    """Renders both sets; the time that the held-out set took decides the size of the training set."""
    held_out, training = output / "held_out", output / "training"
    command = ["render", "--recipe", config_path(RECIPE), "--size", SIZE, "--workers", workers]
    stages.run("render held-out", *command, "--seed", HELD_OUT_SEED, "--count", HELD_OUT_COUNT, "--output", held_out)
    pictures_per_second = HELD_OUT_COUNT / stages.seconds["render held-out"]
    least, most = TRAINING_COUNTS
    count = max(least, min(most, int(pictures_per_second * RENDERING_SECONDS)))
    stages.run("render training", *command, "--seed", TRAINING_SEED, "--count", count, "--output", training)
    return held_out, training


def write_untrained_adapter(directory: Path) -> None:
    """LoRA as it is before the first step (B = 0): the base itself, with 8 input channels."""
    from sdseg.adapter import AdapterConfig, save_adapter
    from sdseg.model import EMBEDDED, add_lora, load_base

    base = load_base(EMBEDDED)
    config = AdapterConfig(EMBEDDED, None, base.fingerprint, resolution=SIZE, num_inference_steps=STEPS)
    peft_model = add_lora(base, rank=1, lora_alpha=1, lora_targets=["conv_in"], seed=0)
    save_adapter(directory, peft_model, config, base.prompt_embedding, card="The widened base, untrained.\n")


def matte_photos_first(stages: Stages, output: Path) -> None:
    """Writes the photos to inputs/photos, mattes them with the shipped adapter, and shows where to look."""
    import skimage.data

    from sdseg.evaluation.report import build_report, collect_rows
    from sdseg.imaging import write_image

    photos, mattes = output / "inputs" / "photos", output / "mattes" / "shipped" / "photos"
    for name in PHOTOS:
        write_image(photos / f"{name}.png", getattr(skimage.data, name)())
    stages.run("first mattes", "infer", *INFERENCE, "--input", photos, "--output", mattes)
    summary, rows = collect_rows(photos, {"shipped": mattes})
    build_report(output / "report.html", "sdseg demo: photos matted by the shipped miniature", summary, rows)
    print(f"first mattes: {mattes}, shown in {output / 'report.html'}; the rest takes some minutes", flush=True)


def train(stages: Stages, output: Path, held_out: Path, training: Path) -> None:
    """Fine-tunes at half resolution, then at full resolution."""
    half = ["--config", config_path("demo_half.yaml"), "--output_dir", output / "run_half"]
    stages.run("train, 32 px", "train", *half, "--train_data_dir", training)
    full = ["--config", config_path("demo.yaml"), "--output_dir", output / "run", "--validation_data_dir", held_out]
    full += ["--init_adapter", output / "run_half" / "adapter"]
    stages.run("train, 64 px", "train", *full, "--train_data_dir", training)


def matte(stages: Stages, output: Path, inputs: Path) -> None:
    """Mattes the same pictures with every method, into mattes/<method>."""
    adapters = {
        "untrained": output / "untrained_adapter",
        "finetuned": output / "run" / "adapter",
        "shipped": "embedded",
    }
    for method, adapter in adapters.items():
        paths = ["--adapter", adapter, "--input", inputs, "--output", output / "mattes" / method]
        stages.run(f"infer {method}", "infer", *paths, *INFERENCE)
    paths = ["--input", inputs, "--output", output / "mattes"]
    stages.run("infer otsu and grabcut", "classical", "--method", "otsu", "grabcut", *paths)


def evaluate(output: Path, held_out: Path) -> dict:
    """{method: result of `evaluate_folder` on the held-out renders}."""
    from sdseg.evaluation.evaluate import evaluate_folder

    return {method: evaluate_folder(output / "mattes" / method / "renders", held_out / "alpha") for method in METHODS}


def summary(results: dict, seconds: dict) -> dict:
    """The content of metrics.json."""
    keys = ("mad", "mse", "sad", "iou", "count")
    return {
        "held_out": {method: {key: result["mean"][key] for key in keys} for method, result in results.items()},
        "uncertainty": {method: results[method]["uncertainty"] for method in ("untrained", "finetuned", "shipped")},
        "settings": {"num_inference_steps": STEPS, "ensemble_size": SAMPLES, "size": SIZE},
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def write_report(output: Path, held_out: Path) -> None:
    """report.html: the held-out renders, those worst matted by the shipped adapter first, then the photos."""
    from sdseg.evaluation.report import build_report, collect_rows

    shown = ("shipped", "finetuned", "untrained", "grabcut", "otsu")
    renders = {method: output / "mattes" / method / "renders" for method in shown}
    summary, rows = collect_rows(output / "inputs" / "renders", renders, held_out / "alpha")
    photos = {method: output / "mattes" / method / "photos" for method in shown}
    _, photo_rows = collect_rows(output / "inputs" / "photos", photos)
    title = f"sdseg demo: {SIZE} px miniature, {STEPS} steps x {SAMPLES} samples"
    build_report(output / "report.html", title, summary, rows + photo_rows)


def table(metrics: dict) -> str:
    """The metrics as lines of text, with whether the adapters do as well as they should: the one fine-tuned here at
    least as well as the better classical method, the shipped one with at most half of its MAD."""
    lines = [
        f"Held-out renders, {SIZE} px, {STEPS} steps x {SAMPLES} samples",
        f"{'name':11}{'MAD':>8}{'MSE':>8}{'SAD':>8}{'IoU':>8}   method",
    ]
    for method, row in metrics["held_out"].items():
        figures = "".join(f"{row[key]:8.4f}" for key in ("mad", "mse", "sad", "iou"))
        lines.append(f"{method:11}{figures}   {METHODS[method]}")
    classical = min(metrics["held_out"][method]["mad"] for method in ("otsu", "grabcut"))
    for method, target in (("finetuned", classical), ("shipped", classical / 2)):
        mad = metrics["held_out"][method]["mad"]
        verdict = "reached" if mad <= target else "MISSED"
        lines.append(f"{method}: MAD {mad:.4f}, target {target:.4f}: {verdict}")
    lines.append(f"seconds: {metrics['seconds']['total']}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or that of the command that failed."""
    parser = Parser(prog="sdseg demo", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder; earlier results are replaced")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="rendering processes")
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments.output, arguments.workers))


def run(output: Path, workers: int) -> None:
    """Runs every stage, and prints and writes the metrics.

    Raises:
        MissingPackage: an extra that a later stage needs is not installed.
        SystemExit: a command failed.
    """
    from sdseg.imaging import replacing

    require(("mitsuba", "OpenEXR", "skimage", "sklearn", "trimesh"), "render,classical", "sdseg demo")
    stages = Stages()
    for name in ("inputs", "mattes", "run_half", "run", "untrained_adapter"):
        shutil.rmtree(output / name, ignore_errors=True)
    matte_photos_first(stages, output)
    held_out, training = render(stages, output, workers)
    train(stages, output, held_out, training)
    write_untrained_adapter(output / "untrained_adapter")
    shutil.copytree(held_out / "images", output / "inputs" / "renders")
    matte(stages, output, output / "inputs")
    start = time.monotonic()
    results = evaluate(output, held_out)
    write_report(output, held_out)
    stages.seconds["judge"] = round(time.monotonic() - start, 1)
    metrics = summary(results, stages.seconds)
    with replacing(output / "metrics.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print("\n" + table(metrics))
    print(f"\n{output / 'metrics.json'}\n{output / 'report.html'}")


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
