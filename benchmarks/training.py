"""One optimiser step against a reference loop, its share of the machine's peak, and the memory of each setting.

    python benchmarks/random_sd2.py --output SD2
    python benchmarks/training.py --cells embedded:64:4 embedded:64:32 SD2:256:1 --output training.json
    python benchmarks/training.py --memory SD2 --memory_resolutions 256 --output training.json
    python benchmarks/training.py --gpu SD2 --output training.json               # needs a CUDA device

A cell is a base, a resolution and a batch. The reference does what diffusers' train_text_to_image_lora does, on two
pictures instead of one: in each step both go through the VAE and the empty prompt, padded to 77 tokens, through the
text encoder; float32. Marigold's trainer encodes the pictures likewise, but the prompt once, without padding: that is
the second row. Both loops train the same UNet with the same LoRA layers, in one process, in turns; a ratio is the
median over turns. FLOPs are those of matrix products, convolutions and attention, forward and backward, as
torch.utils.flop_counter counts them; the peak is the best rate of one large matrix product in the same precision and
threads.

A base without a text encoder gets one with random weights for the reference: of SD2's depth (23 layers, 77 tokens), as
wide as its UNet expects. Only its time counts.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import torch

    from sdseg.model import Base
    from sdseg.training.config import TrainingConfig
    from sdseg.training.run import Run

PAIRS = 64  # pictures to train on, smooth ones, which are read quickly
LEAST_SECONDS = 0.5  # a turn takes as many steps as fit into this, at least one
MEMORY_SETTINGS = {  # name of a row -> settings of train.py; batch 1
    "as it is": {},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "cache_latents": {"cache_latents": True},
    "cache_latents, gradient_checkpointing": {"cache_latents": True, "gradient_checkpointing": True},
    "bf16": {"mixed_precision": "bf16"},
    "bf16, gradient_checkpointing": {"mixed_precision": "bf16", "gradient_checkpointing": True},
    "second stage": {"pixel_loss_share": 1.0},
    "second stage, gradient_checkpointing": {"pixel_loss_share": 1.0, "gradient_checkpointing": True},
    "bf16, second stage, gradient_checkpointing": {
        "mixed_precision": "bf16",
        "pixel_loss_share": 1.0,
        "gradient_checkpointing": True,
    },
}
MEMORY_SETTINGS_STEPS = 2
FLOPS_AT_256 = 0.4e12  # of SD2's UNet with LoRA, both passes, one picture: to foresee what would take too long
GPU_RESOLUTIONS = (512, 768)


# ---------------------------------------------------------------------------------------------- the two loops


def prepared(config: "TrainingConfig") -> "Run":
    """The trainer's own run; in another precision than the one before, which Accelerate keeps for a whole process."""
    from accelerate.state import AcceleratorState

    from sdseg.training.run import prepare

    AcceleratorState._reset_state()
    return prepare(config)


def reference(run: "Run", prompt: "torch.Tensor | tuple[Callable, torch.nn.Module]") -> Iterator[tuple[float, float]]:
    """Each `next` is one optimiser step of the reference loop; gives its loss, and seconds spent waiting for data.

    Args:
        run: whose base, LoRA weights and pictures are used.
        prompt: tokeniser and text encoder, which runs in each step; or the embedding [1, tokens, D] kept from before.
    """
    import torch
    from diffusers.optimization import get_scheduler

    from sdseg.data.augmentation import draw_generator
    from sdseg.model import inference_scheduler

    config, accelerator, lora, pictures = run.config, run.accelerator, run.lora, run.pictures
    tokenizer, text_encoder = prompt if isinstance(prompt, tuple) else (None, None)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            item = pictures.fetch(index, draw_generator(config.seed, int(torch.randint(2**31, ()))))
            item["matte"] = (item.pop("alpha") * 2 - 1).expand(3, -1, -1)
            if tokenizer:
                padded = dict(padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
                item["tokens"] = tokenizer("", return_tensors="pt", **padded).input_ids[0]
            return item

    device, vae, unet = accelerator.device, run.base.vae, run.unet
    scheduler = inference_scheduler()
    loader = torch.utils.data.DataLoader(Pictures(), config.train_batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(lora.values(), lr=config.learning_rate)
    schedule = get_scheduler(config.lr_scheduler, optimizer)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    while True:
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        image, matte = batch["image"].to(device), batch["matte"].to(device)
        with torch.no_grad():
            image_latents = vae.encode(image).latent_dist.sample() * vae.config.scaling_factor
            matte_latents = vae.encode(matte).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(matte_latents)
        timestep = torch.randint(0, scheduler.config.num_train_timesteps, (len(noise),), device=device)
        noisy = scheduler.add_noise(matte_latents, noise, timestep)
        if text_encoder:
            embedding = text_encoder(batch["tokens"].to(device))[0]
        else:
            embedding = prompt.repeat(len(noise), 1, 1)
        predicted = unet(torch.cat([image_latents, noisy], dim=1), timestep, embedding).sample
        target = scheduler.get_velocity(matte_latents, noise, timestep)
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
        mean = accelerator.gather(loss.repeat(config.train_batch_size)).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(lora.values(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield mean.item(), waited


def ours(run: "Run", **changes: Any) -> Iterator[tuple[float, float]]:
    """Each `next` is one optimiser step of the trainer; gives its loss, and seconds spent waiting for data.

    Encodes all pairs first with `cache_latents`.

    Args:
        changes: of the run's settings, but none of those that `prepare` acts on.
    """
    from sdseg.training.batches import open_batches
    from sdseg.training.run import Stopwatch

    run = replace(run, config=replace(run.config, **changes), waited=Stopwatch())
    run.batches = open_batches(run)
    while True:
        before = run.waited.seconds
        losses, _ = run.accumulate()
        loss = run.accelerator.gather(losses).cpu().mean().item()
        run.update()
        yield loss, run.waited.seconds - before


def text_encoder_of(base: "Base", device: "torch.device") -> tuple[Callable, "torch.nn.Module"]:
    """Tokeniser and text encoder of a base, or, where it has none, random ones of SD2's depth and the UNet's width."""
    import torch
    from random_sd2 import write_empty_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if (Path(base.name) / "text_encoder").is_dir():
        tokenizer = CLIPTokenizer.from_pretrained(base.name, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(base.name, subfolder="text_encoder", dtype=torch.float32)
    else:
        width = base.unet.config.cross_attention_dim
        with tempfile.TemporaryDirectory() as folder:
            write_empty_tokenizer(Path(folder))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=23,
                num_attention_heads=max(1, width // 64),
                hidden_act="gelu",
                bos_token_id=49406,
                eos_token_id=49407,
            )
        )
    return tokenizer, encoder.requires_grad_(False).eval().to(device)


# ---------------------------------------------------------------------------------------------- measuring


def write_pictures(directory: Path, count: int, size: int) -> Path:
    """A small imagefolder of soft discs on colour gradients."""
    import numpy as np

    from sdseg.imaging import write_alpha, write_image

    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    for index in range(count):
        rng = np.random.default_rng(index)
        alpha = (4 - 10 * np.hypot(y - rng.uniform(0.3, 0.7), x - rng.uniform(0.3, 0.7))).clip(0, 1)
        image = alpha[..., None] * rng.uniform(size=3) + (1 - alpha[..., None]) * (rng.uniform(size=3) + y[..., None])
        write_image(directory / "images" / f"{index:04d}.png", (image.clip(0, 1) * 255).astype(np.uint8))
        write_alpha(directory / "alpha" / f"{index:04d}.png", alpha.astype(np.float32))
    return directory


def matmul_rate(dtype: "torch.dtype", device: "torch.device", seconds: float = 2.0) -> float:
    """FLOP/s of the fastest of some square matrix products, sizes and repeats tried for about `seconds`."""
    import torch

    best, spent = 0.0, 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        if best and 2 * size**3 / best > seconds:
            break
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(4):  # the first is not counted: it may set things up
            synchronize(device)
            began = time.perf_counter()
            torch.matmul(one, other)
            synchronize(device)
            spent = time.perf_counter() - began
            best = max(best, 2 * size**3 / spent)
    return best


def synchronize(device: "torch.device") -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def flops_of(steps: Iterator) -> int:
    """FLOPs of a step, the second from here. Attention is counted as the matrix products it stands for."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    next(steps)  # what is done once
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        next(steps)
    return counter.get_total_flops()


def take_turns(loops: dict[str, Iterator], rounds: int, device: "torch.device") -> dict[str, dict[str, Any]]:
    """Steps of each loop in turn, `rounds` times.

    Returns:
        By loop: `seconds`, of a step, a figure a round; `waiting`, the share of its time spent waiting for data; or
        `error`, for a loop that fails.
    """
    counts, found = {}, {}
    for name, steps in list(loops.items()):
        try:
            next(steps)  # sets up optimiser states, caches, compiled code
            began = time.perf_counter()
            next(steps)
            synchronize(device)
            counts[name] = max(1, round(LEAST_SECONDS / (time.perf_counter() - began)))
            found[name] = {"seconds": [], "waiting": []}
        except Exception as error:  # compilation may fail in many ways, each of which is a result
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    for _ in range(rounds):
        for name, count in counts.items():
            began = time.perf_counter()
            waited = sum(next(loops[name])[1] for _ in range(count))
            synchronize(device)
            spent = time.perf_counter() - began
            found[name]["seconds"].append(spent / count)
            found[name]["waiting"].append(waited / spent)
    return found


def summary(found: dict[str, dict], first: str, batch: int, peaks: dict[str, float]) -> dict[str, dict]:
    """Images a second, times the `first` loop (medians over rounds), and shares, of loops that took turns.

    Args:
        found: of `take_turns`, with `flops` of a step and `precision` added.
        peaks: FLOP/s by precision.
    """
    rows = {}
    for name, one in found.items():
        if "error" in one:
            rows[name] = {"error": one["error"]}
            continue
        seconds = statistics.median(one["seconds"])
        ratios = [a / b for a, b in zip(found[first]["seconds"], one["seconds"], strict=True)]
        rows[name] = {
            "seconds_per_step": seconds,
            "images_per_second": batch / seconds,
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "waiting": statistics.median(one["waiting"]),
            "flops": one["flops"],
            "share_of_peak": one["flops"] / seconds / peaks[one["precision"]],
        }
    return rows


def measure_cell(base_name: str, resolution: int, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """All loops of one cell; see `summary`."""
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pictures(Path(folder) / "pairs", max(batch, options.pairs), resolution)
        config = config_of(base_name, pairs, resolution=resolution, train_batch_size=batch)
        run = prepared(config)
        device = run.accelerator.device
        peaks = {"no": matmul_rate(torch.float32, device), "bf16": matmul_rate(torch.bfloat16, device)}
        loops = {
            "reference": reference(run, text_encoder_of(run.base, device)),
            "reference, prompt encoded once": reference(run, run.base.prompt_embedding),
            "ours, no cache": ours(run),
            "ours": ours(run, cache_latents=True),
        }
        flops = {name: flops_of(steps) for name, steps in loops.items()}
        precision, left_out = dict.fromkeys(loops, "no"), {}
        began = time.perf_counter()
        best = "bf16" if peaks["bf16"] > peaks["no"] else "no"
        on_top = {"ours, bf16": {"mixed_precision": "bf16"}}
        on_top |= {f"ours, {key}": {"mixed_precision": best, key: True} for key in options.on_top}
        for name, changes in on_top.items():
            changed = replace(config, cache_latents=True, **changes)
            foreseen = flops["ours"] / peaks[changed.mixed_precision]
            if foreseen > options.limit:
                left_out[name] = f"not run: about {foreseen:.0f} s a step"
                continue
            loops[name] = ours(prepared(changed))
            flops[name], precision[name] = flops["ours"], changed.mixed_precision
        found = take_turns(loops, options.rounds, device)
        for name, one in found.items():
            one |= {"flops": flops[name], "precision": precision[name]}
        peaks = {key: max(rate, matmul_rate(dtypes()[key], device)) for key, rate in peaks.items()}
    rows = summary(found, "reference", batch, peaks) | {name: {"error": why} for name, why in left_out.items()}
    return {
        "base": "miniature" if base_name == "embedded" else "SD2's architecture, random weights",
        "resolution": resolution,
        "batch": batch,
        "rounds": options.rounds,
        "peak": peaks,
        "load_average": os.getloadavg()[0],
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }


def dtypes() -> dict[str, "torch.dtype"]:
    import torch

    return {"no": torch.float32, "bf16": torch.bfloat16}


def config_of(base_name: str, pairs: Path, **changes: Any) -> "TrainingConfig":
    """Settings of a run on `pairs`: the defaults, but for a constant learning rate."""
    from sdseg.training.config import TrainingConfig

    settings: dict[str, Any] = dict(
        pretrained_model_name_or_path=base_name,
        train_data_dir=str(pairs),
        output_dir="not written",
        report_to="none",
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_train_steps=10**6,
    )
    return TrainingConfig(**(settings | changes))


# ---------------------------------------------------------------------------------------------- memory


def measure_memory(name: str, base_name: str, resolution: int, gpu: bool, batch: int = 1) -> dict[str, Any]:
    """Peak memory of `train.py` under one of MEMORY_SETTINGS, in GiB: of its process, as a whole and from the second
    step on, when all that is loaded once is gone again; or of the GPU's memory.

    On a GPU it is what `--dry_run` prints, with the largest batch that fits and the seconds of a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pictures(Path(folder) / "pairs", 4, resolution)
        settings = dict(
            pretrained_model_name_or_path=base_name, train_data_dir=pairs, output_dir=Path(folder) / "run",
            resolution=resolution, train_batch_size=batch, max_train_steps=MEMORY_SETTINGS_STEPS, lr_warmup_steps=0,
            report_to="none", logging_steps=1, dry_run=gpu,
        )  # fmt: skip
        flags = [f"--{key}={value}" for key, value in (settings | MEMORY_SETTINGS[name]).items()]
        began, log = time.perf_counter(), Path(folder) / "log.txt"
        with open(log, "w") as output:
            process = subprocess.Popen([sys.executable, "train.py", *flags], cwd=ROOT, stdout=output, stderr=output)
            loading = peak_until(process.pid, Path(folder) / "run" / "stats.jsonl")
            _, status, usage = os.wait4(process.pid, 0)  # the peak of this process alone
        process.returncode = os.waitstatus_to_exitcode(status)
        row = {"setting": name, "resolution": resolution, "batch": batch, "seconds": time.perf_counter() - began}
        text = log.read_text()
        if process.returncode:
            return row | {"error": text.strip().splitlines()[-1][:200]}
        if gpu:
            return row | dry_run_figures(text)
        losses = [json.loads(line)["loss"] for line in (Path(folder) / "run" / "stats.jsonl").read_text().splitlines()]
        training = usage.ru_maxrss / 2**20
        return row | {"peak_process": max(training, loading or 0), "peak_training": training, "losses": losses}


def peak_until(process: int, sign: Path) -> float | None:
    """Waits until the file `sign` holds something; the process's peak resident memory up to then, in GiB, from where on
    the kernel counts it anew (Linux: /proc/PID/clear_refs). None where it ends before."""
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if sign.is_file() and sign.stat().st_size:
            peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
            if peak is None:  # it has ended just now
                return None
            Path(f"/proc/{process}/clear_refs").write_text("5")
            return int(peak[1]) / 2**20
        time.sleep(0.01)
    return None


def dry_run_figures(text: str) -> dict[str, Any]:
    """Figures in the text of `train.py --dry_run` on a GPU."""
    step = re.search(r"step +([\d.]+) s, peak device memory ([\d.]+) GiB", text)
    largest = re.search(r"largest train_batch_size that fits: (\d+)", text)
    return {
        "seconds_per_step": float(step[1]),
        "peak_device": float(step[2]),
        "largest_batch": int(largest[1]) if largest else None,
    }


def measure_gpu(base_name: str, resolution: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Our step in bf16 with cached latents, for batches of 1, 2, 4, ... until they do not fit: images a second, peak
    memory, share of the measured bf16 peak. A row each."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    peak, flops_of_one = matmul_rate(torch.bfloat16, device), None
    for checkpointing in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            pairs = write_pictures(Path(folder) / "pairs", options.pairs, resolution)
            config = config_of(
                base_name, pairs, resolution=resolution, train_batch_size=1, cache_latents=True,
                mixed_precision="bf16", gradient_checkpointing=checkpointing,
            )  # fmt: skip
            run = prepared(config)
            for batch in itertools.takewhile(lambda size: size <= options.largest, (2**k for k in itertools.count())):
                row = {"resolution": resolution, "batch": batch, "gradient_checkpointing": checkpointing}
                if gpu:
                    torch.cuda.empty_cache()
                steps = ours(run, train_batch_size=batch)
                try:
                    next(steps)  # encodes the pairs
                    if not checkpointing and not flops_of_one:  # what is recomputed is no useful work
                        flops_of_one = flops_of(steps)
                    if gpu:  # neither counts in the peak
                        torch.cuda.reset_peak_memory_stats()
                    found = take_turns({"ours": steps}, options.rounds, device)["ours"]
                    if "error" in found:
                        raise RuntimeError(found["error"])
                except RuntimeError as error:
                    if "memory" not in str(error).lower():
                        raise
                    yield row | {"error": "does not fit"}
                    break
                seconds = statistics.median(found["seconds"])
                yield row | {
                    "seconds_per_step": seconds,
                    "images_per_second": batch / seconds,
                    "waiting": statistics.median(found["waiting"]),
                    "peak_device": torch.cuda.max_memory_allocated() / 2**30 if gpu else None,
                    "share_of_peak": batch * flops_of_one / seconds / peak if flops_of_one else None,
                    "measured_peak": peak,
                }


# ---------------------------------------------------------------------------------------------- tables


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    import importlib.metadata as metadata

    import torch

    cpu = platform.processor()
    with contextlib.suppress(OSError):
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    versions = {name: metadata.version(name) for name in ("torch", "diffusers", "peft", "accelerate", "transformers")}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu} | versions


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def tables(found: dict[str, Any]) -> str:
    """All that was measured, as Markdown."""
    parts = []
    for cell in found.get("cells", []):
        peaks = ", ".join(f"{key} {rate / 1e9:.1f}" for key, rate in (("float32", cell["peak"]["no"]),
                                                                     ("bf16", cell["peak"]["bf16"])))  # fmt: skip
        parts.append(
            f"{cell['base']}, {cell['resolution']} px, batch {cell['batch']}; matrix products reach {peaks} GFLOP/s\n"
        )
        rows = []
        for name, row in cell["rows"].items():
            if "error" in row:
                rows.append([name, row["error"], *["-"] * 5])
                continue
            low, high = row["ratio_range"]
            rows.append(
                [name, f"{row['seconds_per_step']:.3f}", f"{row['images_per_second']:.3g}",
                 f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})", f"{row['flops'] / 1e9:.1f}",
                 f"{100 * row['share_of_peak']:.0f} %", f"{100 * row['waiting']:.1f} %"]
            )  # fmt: skip
        head = ["loop", "s a step", "images/s", "times the reference", "GFLOP a step", "share of peak", "waiting"]
        parts.append(table(head, rows))
    if memory := found.get("memory"):
        rows = [
            [row["setting"], row["resolution"], row["batch"],
             row.get("error") or (f"{row['peak_process']:.2f}" if "peak_process" in row else "-"),
             f"{row['peak_training']:.2f}" if "peak_training" in row else "-",
             f"{row['peak_device']:.2f}" if "peak_device" in row else "not run (no GPU)", row.get("largest_batch", "-")]
            for row in memory
        ]  # fmt: skip
        parts.append(
            table(
                ["settings", "px", "batch", "process, GiB", "from step 2, GiB", "GPU, GiB", "largest batch there"], rows
            )
        )
    rows = []
    for row in found.get("gpu", []):
        label = [row["resolution"], row["batch"], "yes" if row["gradient_checkpointing"] else "no"]
        if "error" in row:
            rows.append([*label, row["error"], *["-"] * 3])
            continue
        rows.append(
            [*label, f"{row['images_per_second']:.3g}", f"{row['peak_device'] or float('nan'):.2f}",
             f"{100 * (row['share_of_peak'] or float('nan')):.0f} %", f"{100 * row['waiting']:.1f} %"]
        )  # fmt: skip
    rows = rows or [[pixels, "-", "-", "not run (no GPU)", *["-"] * 3] for pixels in GPU_RESOLUTIONS]
    head = ["px, SD2 in bf16", "batch", "gradient_checkpointing", "images/s", "peak GPU memory, GiB", "share of peak"]
    parts.append(table([*head, "waiting"], rows))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="*", default=[], metavar="BASE:PX:BATCH", help="to time against the reference")
    parser.add_argument("--memory", metavar="BASE", help="measure the memory of each setting of train.py on this base")
    parser.add_argument("--memory_resolutions", type=int, nargs="+", default=[256])
    parser.add_argument("--settings", nargs="*", choices=MEMORY_SETTINGS, help="only these (default: all)")
    parser.add_argument("--gpu", metavar="BASE", help="measure this base in bf16 at 512 and 768 px on a CUDA device")
    parser.add_argument("--largest", type=int, default=64, help="largest batch tried on a GPU (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop (default 5)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pictures to train on (default {PAIRS})")
    parser.add_argument(
        "--on_top", nargs="*", default=[], choices=["channels_last", "torch_compile"], help="settings to time as well"
    )
    parser.add_argument("--limit", type=float, default=60, help="seconds a step from which a loop is left out")
    parser.add_argument("--output", type=Path, help="JSON file of the figures; what is in it already is kept")
    options = parser.parse_args()
    import torch

    found: dict[str, Any] = {}
    if options.output and options.output.is_file():
        found = json.loads(options.output.read_text("utf-8"))
    found["machine"] = machine() | {"date": time.strftime("%Y-%m-%d")}

    def keep(part: str, row: dict[str, Any]) -> None:
        found.setdefault(part, []).append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if options.output:  # what there is, in case this is stopped
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for cell in options.cells:
        base_name, pixels, batch = cell.rsplit(":", 2)
        keep("cells", measure_cell(base_name, int(pixels), int(batch), options))
    if options.memory:
        rate = matmul_rate(torch.bfloat16, device)
        for resolution in options.memory_resolutions:
            for name in options.settings or MEMORY_SETTINGS:
                row = {"setting": name, "resolution": resolution, "batch": 1}
                foreseen = FLOPS_AT_256 * (resolution / 256) ** 2 / rate
                if "bf16" in name and foreseen > options.limit:
                    keep("memory", row | {"error": f"not run: about {foreseen:.0f} s a step"})
                    continue
                keep("memory", measure_memory(name, options.memory, resolution, device.type == "cuda"))
    if options.gpu and device.type == "cuda":
        for resolution in GPU_RESOLUTIONS:
            for row in measure_gpu(options.gpu, resolution, options):
                keep("gpu", row)
    print(tables(found))


if __name__ == "__main__":
    main()
