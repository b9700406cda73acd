"""The whole job in one command: `python -m sdseg.demo --output runs/demo` (what `make demo` runs).

Renders a held-out and a small training set, fine-tunes a fresh adapter on the miniature base, mattes the held-out
renders and a few real photos, and judges. Each stage is the command a user would type, run as a process of its
own; the time it took is kept. Writes metrics.json and report.html.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from sdseg.errors import Parser

RECIPE = "configs/recipes/fur_solids.yaml"
SIZE = 64  # pixels, the miniature's own
HELD_OUT_SEED = 1000  # the base, the shipped adapter (seed 1) and the demo's own training (seed 2) never see it
TRAINING_SEED = 2
HELD_OUT_COUNT = 72
TRAINING_COUNT = 1500  # at most: a slow machine gets fewer pictures, not fewer steps
RENDERING_SECONDS = 80  # for the training set
STEPS, SAMPLES = 4, 8
PHOTOS = ["astronaut", "chelsea", "coffee"]  # scikit-image carries them and they may be passed on
METHODS = {
    "untrained": "SD2-style base, widened, no training",
    "finetuned": "adapter trained just now",
    "shipped": "adapter that ships with sdseg",
    "otsu": "Otsu's threshold",
    "grabcut": "GrabCut, rectangle 5 % inside each side",
}


class Stage:
    """Runs commands and keeps how long each took."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *command: str | Path) -> None:
        """Run `python command...`; a command that fails ends the demo with its exit code."""
        words = [str(word) for word in command]
        print(f"\n== {name}: python {' '.join(words)}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, *words]).returncode
        if code:
            sys.exit(code)
        self.seconds[name] = round(time.monotonic() - start, 1)


def render(stage: Stage, output: Path, workers: int) -> tuple[Path, Path]:
    """Render both sets; the training set's size follows the speed seen on the held-out one."""
    common = ["--recipe", RECIPE, "--size", SIZE, "--workers", workers]
    held_out, training = output / "held_out", output / "training"
    command = ["-m", "synth_data", "render", *common]
    stage.run("render held-out", *command, "--seed", HELD_OUT_SEED, "--count", HELD_OUT_COUNT, "--output", held_out)
    speed = HELD_OUT_COUNT / stage.seconds["render held-out"]
    count = max(150, min(TRAINING_COUNT, int(speed * RENDERING_SECONDS)))
    stage.run("render training", *command, "--seed", TRAINING_SEED, "--count", count, "--output", training)
    return held_out, training


def write_untrained_adapter(directory: Path) -> None:
    """LoRA as it is before the first step (B = 0): the widened base itself."""
    from sdseg.adapter import AdapterConfig, save_adapter
    from sdseg.model import EMBEDDED, add_lora, load_base

    base = load_base(EMBEDDED)
    config = AdapterConfig(EMBEDDED, None, base.fingerprint, resolution=SIZE, num_inference_steps=STEPS)
    peft_model = add_lora(base, rank=1, lora_alpha=1, targets=["conv_in"], seed=0)
    save_adapter(directory, peft_model, config, base.prompt_embedding, card="The widened base, untrained.\n")


def gather_inputs(inputs: Path, held_out: Path) -> None:
    """One tree of pictures to matte: renders/ and photos/."""
    import skimage.data

    from sdseg.imaging import write_image

    shutil.copytree(held_out / "images", inputs / "renders")
    for name in PHOTOS:
        write_image(inputs / "photos" / f"{name}.png", getattr(skimage.data, name)())


def train(stage: Stage, output: Path, held_out: Path, training: Path) -> None:
    """Fine-tune at half resolution, then at the full one."""
    half = ["--config", "configs/demo_half.yaml", "--output_dir", output / "run_half"]
    stage.run("train, 32 px", "train.py", *half, "--train_data_dir", training)
    full = ["--config", "configs/demo.yaml", "--output_dir", output / "run", "--validation_data_dir", held_out]
    full += ["--init_adapter", output / "run_half" / "adapter"]
    stage.run("train, 64 px", "train.py", *full, "--train_data_dir", training)


def matte(stage: Stage, output: Path, inputs: Path) -> None:
    """Every method mattes the same tree, into mattes/<method>."""
    adapters = {
        "untrained": output / "untrained_adapter",
        "finetuned": output / "run" / "adapter",
        "shipped": "embedded",
    }
    settings = ["--num_inference_steps", STEPS, "--ensemble_size", SAMPLES, "--batch_size", SAMPLES]
    settings += ["--output_uncertainty", "--seed", 0]
    for method, adapter in adapters.items():
        words = ["--adapter", adapter, "--input", inputs, "--output", output / "mattes" / method, *settings]
        stage.run(f"infer {method}", "infer.py", *words)
    words = ["-m", "sdseg.classical", "--method", "otsu", "grabcut", "--input", inputs, "--output", output / "mattes"]
    stage.run("infer otsu and grabcut", *words)


def judge(output: Path, held_out: Path) -> dict:
    """{method: what `evaluate_folder` found on the held-out renders}."""
    from sdseg.evaluation.evaluate import evaluate_folder

    return {method: evaluate_folder(output / "mattes" / method / "renders", held_out / "alpha") for method in METHODS}


def summary(judged: dict, seconds: dict) -> dict:
    """What metrics.json holds."""
    keys = ("mad", "mse", "sad", "iou", "count")
    return {
        "held_out": {method: {key: result["mean"][key] for key in keys} for method, result in judged.items()},
        "uncertainty": {method: judged[method]["uncertainty"] for method in ("untrained", "finetuned", "shipped")},
        "settings": {"num_inference_steps": STEPS, "ensemble_size": SAMPLES, "size": SIZE},
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def write_report(output: Path, held_out: Path) -> None:
    """One page: the held-out renders worst first (by the shipped adapter), then the photos."""
    from sdseg.evaluation.report import build_report, collect_rows

    shown = ("shipped", "finetuned", "untrained", "grabcut", "otsu")
    renders = {method: output / "mattes" / method / "renders" for method in shown}
    summary, rows = collect_rows(output / "inputs" / "renders", renders, held_out / "alpha")
    photos = {method: output / "mattes" / method / "photos" for method in shown}
    _, photo_rows = collect_rows(output / "inputs" / "photos", photos)
    title = f"sdseg demo: {SIZE} px miniature, {STEPS} steps x {SAMPLES} samples"
    build_report(output / "report.html", title, summary, rows + photo_rows)


def table(metrics: dict) -> str:
    lines = [
        f"Held-out renders, {SIZE} px, {STEPS} steps x {SAMPLES} samples",
        f"{'method':11}{'MAD':>8}{'MSE':>8}{'SAD':>8}{'IoU':>8}   what it is",
    ]
    for method, row in metrics["held_out"].items():
        figures = "".join(f"{row[key]:8.4f}" for key in ("mad", "mse", "sad", "iou"))
        lines.append(f"{method:11}{figures}   {METHODS[method]}")
    best = min(metrics["held_out"][method]["mad"] for method in ("otsu", "grabcut"))
    for method, bar in (("finetuned", best), ("shipped", best / 2)):
        mad = metrics["held_out"][method]["mad"]
        verdict = "reached" if mad <= bar else "MISSED"
        lines.append(f"{method}: MAD {mad:.4f} against a bar of {bar:.4f}: {verdict}")
    lines.append(f"seconds: {metrics['seconds']['total']}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="sdseg demo", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write, made afresh")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="rendering processes")
    arguments = parser.parse_args(argv)
    if not Path(RECIPE).is_file():
        print("error: run the demo in the root of the repository, where configs/ lies", file=sys.stderr)
        return 2

    output, stage = arguments.output, Stage()
    for name in ("inputs", "mattes", "run_half", "run", "untrained_adapter"):
        shutil.rmtree(output / name, ignore_errors=True)
    held_out, training = render(stage, output, arguments.workers)
    train(stage, output, held_out, training)
    write_untrained_adapter(output / "untrained_adapter")
    gather_inputs(output / "inputs", held_out)
    matte(stage, output, output / "inputs")
    start = time.monotonic()
    judged = judge(output, held_out)
    write_report(output, held_out)
    stage.seconds["judge"] = round(time.monotonic() - start, 1)
    metrics = summary(judged, stage.seconds)
    partial = output / ".metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, output / "metrics.json")
    print("\n" + table(metrics))
    print(f"\n{output / 'metrics.json'}\n{output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
