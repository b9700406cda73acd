"""Mattes against diffusers' `MarigoldDepthPipeline` on the same weights, in turns: seconds, ratios, share of the peak.

    python benchmarks/inference.py --output inference.json                      the miniature, 64 px
    python benchmarks/random_sd2.py --output SD2
    python benchmarks/inference.py --base SD2 --resolution 256 --output inference.json
    python benchmarks/inference.py --commands --output inference.json           whole commands, 1 photo and 100
    python benchmarks/inference.py --base SD2 --gpu --output inference.json     512 and 768 px in bf16, on a CUDA device

A row is steps x samples at a batch size. Both pipelines get the adapter merged and draw from the same starting noise;
their single samples must agree to 1e-4. The peer is asked for what we give, mean and spread: of an ensemble it aligns
the samples, as it does for depth. The ratio, peer / ours, is the median over turns. The stages of ours are timed apart;
their FLOPs are those that torch.utils.flop_counter counts, and the peak is the best rate of one large matrix product in
the same precision and threads.

A whole command is `infer.py` against a script that loads the peer the ordinary way, from a folder in its own layout,
and writes the same 16-bit PNGs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
ROWS = [(1, 1, 1), (4, 1, 1), (4, 10, 1), (4, 10, 10)]  # steps, samples, batch size
TOLERANCE = 1e-4
PEER_COMMAND = """
import sys
from pathlib import Path
import numpy as np
import torch
from diffusers import MarigoldDepthPipeline
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

model, photos, output, steps = sys.argv[1:]
pipe = MarigoldDepthPipeline.from_pretrained(model, text_encoder=None, tokenizer=None)
pipe.empty_text_embedding = load_file(model + "/prompt_embedding.safetensors")["prompt_embedding"]
pipe.set_progress_bar_config(disable=True)
Path(output).mkdir()
for photo in tqdm(sorted(Path(photos).iterdir())):
    generator = torch.Generator().manual_seed(0)
    image = Image.open(photo)
    found = pipe(image, int(steps), processing_resolution=64, generator=generator).prediction[0].squeeze()
    Image.fromarray(np.rint(found * 65535).astype(np.uint16)).save(Path(output) / f"{photo.stem}.png")
"""


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth picture uint8 [H, W, 3]."""
    import cv2

    coarse = np.random.default_rng(seed).random((5, 7, 3), dtype=np.float32)
    return (cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def peer_of(session):
    """diffusers' pipeline around a session's parts."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline

    peer = MarigoldDepthPipeline(
        unet=session.unet,
        vae=session.vae,
        scheduler=DDIMScheduler.from_config(session.scheduler.config),
        text_encoder=None,
        tokenizer=None,
        prediction_type="depth",
    )
    peer.empty_text_embedding = session.prompt_embedding.to(session.device, session.vae.dtype)
    peer.set_progress_bar_config(disable=True)
    return peer


def open_session(base: str, dtype, device: str):
    """The shipped miniature with its adapter, or another base as it is, its UNet widened."""
    from sdseg.inference.session import MattingSession
    from sdseg.model import inference_scheduler, load_base

    if base == "embedded":
        return MattingSession.from_adapter("embedded", torch_dtype=dtype, device=device)
    loaded = load_base(base, torch_dtype=dtype)
    return MattingSession(
        loaded.unet.to(device), loaded.vae.to(device), inference_scheduler(), loaded.prompt_embedding, 4, 512
    )


def timed(function) -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(session, resolution: int, rows: list[tuple[int, int, int]], turns: int) -> list[dict]:
    """One dict for each row: seconds of both, their ratio, and how far single samples are apart."""
    import torch
    from PIL import Image

    image, peer, found = Image.fromarray(photo(resolution, resolution, 0)), peer_of(session), []
    for steps, samples, batch in rows:
        settings = dict(ensemble_size=samples, processing_resolution=resolution, batch_size=batch)

        def ours(settings=settings, steps=steps):
            spread = settings["ensemble_size"] > 1
            generator = torch.Generator().manual_seed(0)
            return session(image, steps, generator=generator, output_uncertainty=spread, **settings)

        def peers(settings=settings, steps=steps):
            spread = settings["ensemble_size"] > 2  # it gives none for two
            generator = torch.Generator().manual_seed(0)
            return peer(image, steps, generator=generator, output_uncertainty=spread, **settings)

        row = {"steps": steps, "samples": samples, "batch_size": batch}
        one, other = ours(), peers()
        if samples == 1:
            row["apart"] = float(np.abs(one.prediction[0] - other.prediction[0].squeeze()).max())
            if session.vae.dtype == torch.float32:
                assert row["apart"] < TOLERANCE, row
        seconds = [(timed(ours), timed(peers)) for _ in range(turns)]
        row["ours_seconds"], row["peers_seconds"] = (statistics.median(column) for column in zip(*seconds, strict=True))
        row["ratio"] = statistics.median(peers / ours for ours, peers in seconds)
        found.append(row)
        print(row, flush=True)
    return found


def stages(session, resolution: int, batch: int, turns: int) -> dict:
    """Seconds, GFLOP and share of the peak of encoding, one UNet step and decoding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sdseg.inference.sampling import decode_alpha
    from sdseg.model import encode_image

    dtype, side = session.vae.dtype, resolution // session.vae_scale_factor
    pixels = torch.zeros(batch, 3, resolution, resolution, device=session.device)
    pair = torch.zeros(batch, 8, side, side, device=session.device, dtype=dtype)
    prompt = session.prompt_embedding.to(session.device, dtype).expand(batch, -1, -1)
    work = {
        "encode": lambda: encode_image(session.vae, pixels),
        "unet step": lambda: session.unet(pair, 500, encoder_hidden_states=prompt).sample,
        "decode": lambda: decode_alpha(session.vae, pair[:, :4]),
    }
    peak, found = matrix_peak(session.device, dtype), {}
    with torch.no_grad(), session.tuned():
        for name, function in work.items():
            with FlopCounterMode(display=False) as counter:
                function()
            seconds = statistics.median(timed(function) for _ in range(turns))
            flops = counter.get_total_flops()
            found[name] = {"seconds": seconds, "gflop": flops / 1e9, "share_of_peak": flops / seconds / peak}
    return {"batch_size": batch, "peak_gflops": peak / 1e9, "stages": found}


def matrix_peak(device, dtype, size: int = 2048, turns: int = 5) -> float:
    """FLOP/s of the fastest of several products of two square matrices."""
    import torch

    size *= 4 if torch.device(device).type == "cuda" else 1
    one, other = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(timed(lambda: one @ other) for _ in range(turns))


def commands(counts: list[int], turns: int) -> list[dict]:
    """Whole commands: `infer.py` and the peer's script on folders of photos, in turns."""
    from PIL import Image
    from safetensors.torch import save_file

    session, found = open_session("embedded", None, "cpu"), []
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        peer_of(session).save_pretrained(work / "peer")
        save_file({"prompt_embedding": session.prompt_embedding}, work / "peer" / "prompt_embedding.safetensors")
        for count in counts:
            photos = work / f"photos{count}"
            photos.mkdir()
            for number in range(count):
                Image.fromarray(photo(480, 640, number)).save(photos / f"{number:03d}.jpg")
            seconds = []
            for turn in range(turns):
                ours = [
                    sys.executable,
                    str(ROOT / "infer.py"),
                    "--input",
                    str(photos),
                    "--no-refine",
                    "--batch_size",
                    "16",
                ]
                ours += ["--output", str(work / f"ours{count}_{turn}"), "--num_inference_steps", "4"]
                peers = [sys.executable, "-c", PEER_COMMAND, str(work / "peer"), str(photos)]
                peers += [str(work / f"peers{count}_{turn}"), "4"]
                quietly = partial(subprocess.run, env=environment, check=True, capture_output=True)
                seconds.append([timed(partial(quietly, command)) for command in (ours, peers)])
            ours, peers = (statistics.median(column) for column in zip(*seconds, strict=True))
            ratio = statistics.median(peers / ours for ours, peers in seconds)
            found.append({"photos": count, "ours_seconds": ours, "peers_seconds": peers, "ratio": ratio})
            print(found[-1], flush=True)
    return found


def on_gpu(base: str, turns: int) -> list[dict]:
    """Both pipelines at SD2's sizes in bf16, ours also compiled, with the most memory that torch held."""
    import torch

    found = []
    for compiled in (False, True):
        session = open_session(base, torch.bfloat16, "cuda")
        session.unet.to(memory_format=torch.channels_last)
        if compiled:
            session.unet.compile()
        for resolution in (512, 768):
            torch.cuda.reset_peak_memory_stats()
            rows = compare(session, resolution, [(1, 1, 1), (4, 1, 1), (4, 10, 10)], turns)
            memory = torch.cuda.max_memory_allocated() / 2**30
            parts = stages(session, resolution, 8, turns)
            found.append({"compiled": compiled, "resolution": resolution, "gib": memory, "rows": rows} | parts)
        del session
        torch.cuda.empty_cache()
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="embedded", help="embedded, or a base's folder")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--rows", nargs="+", default=["x".join(map(str, row)) for row in ROWS], help="STEPSxSAMPLESxBATCH"
    )
    parser.add_argument("--commands", action="store_true", help="whole commands in place of calls")
    parser.add_argument("--gpu", action="store_true", help="bf16 at 512 and 768 px on a CUDA device")
    parser.add_argument("--output", type=Path, required=True, help="JSON; what it holds of other runs is kept")
    arguments = parser.parse_args(argv)
    import torch

    found = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    found |= {"threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
    if arguments.commands:
        key, found["rows"] = "commands", commands([1, 100], arguments.turns)
    elif arguments.gpu:
        key, found["rows"] = f"gpu {torch.cuda.get_device_name()}", on_gpu(arguments.base, arguments.turns)
    else:
        session = open_session(arguments.base, torch.float32, "cpu")
        rows = [tuple(map(int, row.split("x"))) for row in arguments.rows]
        found["rows"] = compare(session, arguments.resolution, rows, arguments.turns)
        found |= stages(session, arguments.resolution, 1, arguments.turns)
        key = f"{Path(arguments.base).name} {arguments.resolution} px"
    kept = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    arguments.output.write_text(json.dumps(kept | {key: found}, indent=2) + "\n")
    print(json.dumps({key: found}, indent=2))


if __name__ == "__main__":
    main()
