"""A photo or a folder of photos in, a folder of mattes or class maps out; the same on any number of processes.

The work of `infer.py` and of `sdseg infer`. Every photo is a run of its own: its starting noise comes from a
fresh generator of the seed, so its matte depends on no neighbour, no order and no number of processes, and a
photo that cannot be read stops no other.
"""

import argparse
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sdseg.adapter import weights_digest
from sdseg.errors import UserError
from sdseg.imaging import (
    read_image,
    write_alpha,
    write_classes,
    write_float_tiff,
    write_grey16,
    write_image,
    write_mask,
)
from sdseg.memory import give_back_memory
from sdseg.outputs import (
    ALPHA_SUFFIX,
    CLASSES_RECORD,
    MASK_SUFFIX,
    OVERLAY_SUFFIX,
    UNCERTAINTY_SUFFIX,
    VARIANCE_SUFFIX,
    Plan,
    check_name_lengths,
    check_writable,
    output_file,
    photo_error,
    plan_outputs,
    remove_stale,
    write_json,
    write_run_record,
    writing,
)
from sdseg.processes import on_main_process_within
from sdseg.targets import MIDDLE, overlay

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import PartialState

    from sdseg.adapter import Adapter
    from sdseg.inference.batches import Drawing, Progress
    from sdseg.inference.session import MattingSession

TOY_NOTICE = "no --adapter: using the miniature that ships with sdseg; expect toy mattes, it sees 64 pixels a side"
AHEAD = 4  # photos that are read before their turn, and mattes that may wait to be written


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        UserError: nothing could be done, and nothing was written.
    """
    refuse_spread_of_one(arguments)
    plan = plan_outputs(arguments.input, arguments.output)
    check_writable(arguments.output)
    state = start_processes(arguments.device)
    if arguments.adapter is None:
        say(state, TOY_NOTICE)
    adapter, session = load(arguments, state)
    check(session, arguments)
    say(state, f"device: {describe_device(state)}")
    if passed_over := plan.describe_passed_over():
        say(state, passed_over)
    how = drawing(session, arguments)

    from accelerate.utils import gather_object

    with on_main_process_within(state, writing(arguments.output)) as earlier:
        rows = gather_object(matte_photos(session, plan, arguments, state))
        rows.sort(key=lambda row: row["input"])
        failed = sum("error" in row for row in rows)
        note = uncalibrated_note(session, how, arguments, rows)
        if state.is_main_process:
            remove_stale(arguments.output, plan, rows, earlier)
            if session.colours is not None:
                write_json(arguments.output / CLASSES_RECORD, dict(enumerate(session.class_names)))
            write_run_record(arguments.output, run_record(arguments, adapter, session, state, plan, rows, note))
    if note:
        say(state, f"note: {note}")
    say(state, f"{len(rows) - failed} of {len(rows)} mattes written to {arguments.output}")
    state.destroy_process_group()
    return 1 if failed else 0


def refuse_spread_of_one(arguments: argparse.Namespace) -> None:
    """Raises UserError where the spread of a single sample is asked for."""
    for flag, asked in (
        ("--output_uncertainty", arguments.output_uncertainty),
        ("--output_variance", arguments.output_variance),
    ):
        if asked and arguments.ensemble_size == 1:
            raise UserError(f"{flag} with --ensemble_size 1; a spread needs 2 or more")


def check(session: "MattingSession", arguments: argparse.Namespace) -> None:
    """Raises UserError for flags that this adapter or its base cannot serve."""
    how = drawing(session, arguments)
    if arguments.tile:
        session.check_tile(arguments.tile, how)


def say(state: "PartialState", line: str) -> None:
    """One line for the user, on stderr, once for all processes."""
    if state.is_main_process:
        print(line, file=sys.stderr)


def start_processes(device: str) -> "PartialState":
    """Join the processes that `accelerate launch` or `torchrun` started, if any, and settle on a device.

    Raises:
        UserError: the GPU was asked for and there is none.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; check the driver and that torch "
            "is a CUDA build, or pass --device cpu"
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device mps: torch {torch.__version__} finds no Apple GPU; pass --device cpu")
    # Left to itself Accelerate overlooks the other processes of a machine without a GPU.
    chosen_cpu = device == "cpu" or (device == "auto" and parse_flag_from_env("ACCELERATE_USE_CPU"))
    return PartialState(cpu=chosen_cpu or not torch.accelerator.is_available())


def describe_device(state: "PartialState") -> str:
    import torch

    name = state.device.type
    if name == "cuda":
        name += f" ({torch.cuda.get_device_name(state.device)})"
    elif name == "cpu" and not torch.accelerator.is_available():
        name += " (torch finds no GPU)"
    return name if state.num_processes == 1 else f"{name}, {state.num_processes} processes"


def load(arguments: argparse.Namespace, state: "PartialState") -> "tuple[Adapter, MattingSession]":
    """The adapter and a session with it, on this process's device."""
    import torch

    from sdseg.adapter import read_adapter
    from sdseg.inference.session import MattingSession
    from sdseg.model import EMBEDDED

    # torch takes other kernels for "cpu:0", Accelerate's name in a group, than for "cpu"; mattes would differ
    device = "cpu" if state.device.type == "cpu" else state.device
    adapter = read_adapter(arguments.adapter or EMBEDDED)
    session = MattingSession.from_adapter(
        adapter,
        arguments.pretrained_model_name_or_path,
        revision=arguments.revision,
        torch_dtype=torch.bfloat16 if arguments.mixed_precision == "bf16" else torch.float32,
        device="cpu" if arguments.enable_model_cpu_offload else device,
    )
    classes = session.target == "classes"
    for flag, asked, served in (
        ("--output_mask", arguments.output_mask, not classes),
        ("--output_variance", arguments.output_variance, not classes),
        ("--output_overlay", arguments.output_overlay, classes),
    ):
        if asked and not served:
            raise UserError(f"{flag}: this adapter was trained on target {session.target}; leave the flag out")
    return adapter, set_up(session, arguments, device)


def set_up(session: "MattingSession", arguments: argparse.Namespace, device: "torch.device | str") -> "MattingSession":
    """The session with what the flags ask for beside the model."""
    import torch

    if arguments.tiny_vae:
        session.use_tiny_vae(arguments.tiny_vae)
    if arguments.enable_vae_slicing:
        session.vae.enable_slicing()
    if arguments.enable_vae_tiling:
        session.vae.enable_tiling()
    if arguments.channels_last:
        session.unet.to(memory_format=torch.channels_last)
    if arguments.torch_compile:
        session.unet.compile()
    if arguments.enable_model_cpu_offload:
        session.enable_model_cpu_offload(device)
    return session


def drawing(session: "MattingSession", arguments: argparse.Namespace) -> "Drawing":
    """How samples are drawn, as the flags ask."""
    return session.drawing(
        arguments.num_inference_steps,
        arguments.ensemble_size,
        arguments.processing_resolution,
        arguments.batch_size,
        arguments.eta,
        arguments.tolerance,
    )


def matte_photos(
    session: "MattingSession", plan: Plan, arguments: argparse.Namespace, state: "PartialState"
) -> list[dict]:
    """Matte every n-th photo, this process's share; returns their rows of `run.json`.

    The next photos are read and finished ones written while the model computes. Whatever one photo raises is that
    photo's error, and the others are done.
    """
    from tqdm import tqdm

    share = dict(list(plan.names.items())[state.process_index :: state.num_processes])
    photos: dict[Path, np.ndarray] = {}  # those that are read and not written yet
    rows: list[dict] = []

    def finish(path: Path, outcome) -> None:
        row = {"input": plan.relative(path)}
        try:
            row |= outcome.result()
        except Exception as error:
            row["error"] = photo_error(path, error)
            tqdm.write(f"error: {row['error']}", file=sys.stderr)
        photos.pop(path, None)
        rows.append(row)
        progress_bar.update()

    def jobs() -> Iterator[tuple]:
        for path, outcome in ahead(readers, partial(read_photo, share, arguments), share):
            if outcome.exception() is not None:
                finish(path, outcome)
                continue
            photos[path] = outcome.result()
            yield path, photos[path], starting_point(arguments.seed)

    written: deque[tuple[Path, Future]] = deque()
    progress_bar = tqdm(total=len(share), desc="mattes", unit="photo", disable=not state.is_main_process)
    with progress_bar, ending_early(ThreadPoolExecutor(1)) as readers, ending_early(ThreadPoolExecutor(1)) as writers:
        for path, drawn in session.draw(jobs(), drawing(session, arguments)):
            if arguments.tile and not isinstance(drawn, Exception):
                drawn = with_tiles(session, drawn, photos[path], arguments)
            written.append((path, writers.submit(write_photo, session, share[path], photos[path], drawn, arguments)))
            while written and (len(written) > AHEAD or written[0][1].done()):
                finish(*written.popleft())
        while written:
            finish(*written.popleft())
    return rows


@contextmanager
def ending_early(executor: Executor) -> Iterator[Executor]:
    """Waits for all its work; once interrupted for that alone which is under way."""
    try:
        yield executor
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


def with_tiles(
    session: "MattingSession", drawn: "Progress", image: "np.ndarray", arguments: argparse.Namespace
) -> "Progress | Exception":
    """The samples with a second pass; or what that raised. (By the thread that computes: it changes the model.)"""
    try:
        session.draw_tiles(drawn, image, drawing(session, arguments), arguments.tile)
    except Exception as error:
        return error
    return drawn


def ahead(executor: Executor, function: Callable, items: Iterable) -> Iterator[tuple]:
    """(item, finished future of function(item)) in order; the next AHEAD calls are under way meanwhile."""
    waiting = deque()
    for item in items:
        waiting.append((item, executor.submit(function, item)))
        if len(waiting) > AHEAD:
            yield wait_for(*waiting.popleft())
    while waiting:
        yield wait_for(*waiting.popleft())


def wait_for(item, future: Future) -> tuple:
    future.exception()
    return item, future


def starting_point(seed: int) -> "torch.Generator":
    """The generator of one photo's noise."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def output_files(name: PurePath, arguments: argparse.Namespace) -> dict[str, Path]:
    """What is written for a photo, by the keys of its row of `run.json`."""
    suffixes = {"output": ALPHA_SUFFIX}
    for key, wanted, suffix in (
        ("uncertainty", arguments.output_uncertainty, UNCERTAINTY_SUFFIX),
        ("variance", arguments.output_variance, VARIANCE_SUFFIX),
        ("mask", arguments.output_mask, MASK_SUFFIX),
        ("overlay", arguments.output_overlay, OVERLAY_SUFFIX),
    ):
        if wanted:
            suffixes[key] = suffix
    return {key: output_file(arguments.output, name, suffix) for key, suffix in suffixes.items()}


def read_photo(names: dict[Path, PurePath], arguments: argparse.Namespace, path: Path) -> "np.ndarray":
    """The photo uint8 [H, W, 3]; raises where its matte could not be written under its name."""
    check_name_lengths(output_files(names[path], arguments).values())
    photo = read_image(path)
    give_back_memory()
    return photo


def write_photo(
    session: "MattingSession", name: PurePath, image: "np.ndarray", drawn, arguments: argparse.Namespace
) -> dict:
    """Write what was asked for from a photo's samples (or raise what came in their place), and return its part of
    `run.json`."""
    if isinstance(drawn, Exception):
        raise drawn
    started = time.perf_counter()
    files, judged = output_files(name, arguments), {}
    # One plane of the photo's size after another, since they are large.
    found = session.summary(drawn, output_uncertainty=False, refine_along=image if arguments.refine else None)
    if session.colours is None:
        write_matte(files, found.pop("prediction").numpy())
        give_back_memory()
        if "uncertainty" in files or "variance" in files:
            scale = None if arguments.raw_uncertainty else session.calibration_scale(drawn, drawing(session, arguments))
            write_spread(files, session.uncertainty(drawn, scale).numpy())
            judged = {"calibration_scale": scale}
    else:
        if "uncertainty" in files:
            write_spread(files, found.pop("uncertainty").numpy())
        write_class_map(files, found["prediction"].numpy(), image, session.colours)
    row = {key: file.relative_to(arguments.output).as_posix() for key, file in files.items()}
    height, width = image.shape[:2]
    seconds = drawn.seconds + time.perf_counter() - started
    return row | judged | {"size": [width, height], "samples": found["count"], "seconds": round(seconds, 3)}


def write_matte(files: dict[str, Path], alpha: "np.ndarray") -> None:
    write_alpha(files["output"], alpha)
    if "mask" in files:
        write_mask(files["mask"], alpha >= MIDDLE)


def write_spread(files: dict[str, Path], uncertainty: "np.ndarray") -> None:
    """Writes what was asked for of an uncertainty [H, W], which is squared in place."""
    import numpy as np

    if "uncertainty" in files:
        # A scale can lift it above 1, which no error reaches and the file does not hold.
        write_grey16(files["uncertainty"], uncertainty.clip(max=1) if uncertainty.max() > 1 else uncertainty)
    if "variance" in files:
        write_float_tiff(files["variance"], np.square(uncertainty, out=uncertainty))


def write_class_map(files: dict[str, Path], ids: "np.ndarray", image: "np.ndarray", colours: "np.ndarray") -> None:
    write_classes(files["output"], ids, colours)
    if "overlay" in files:
        write_image(files["overlay"], overlay(image, ids, colours))


def uncalibrated_note(
    session: "MattingSession", how: "Drawing", arguments: argparse.Namespace, rows: list[dict]
) -> str | None:
    """One line where uncertainties lack a scale that nobody asked to leave out."""
    counts = [row["samples"] for row in rows if "calibration_scale" in row]
    return None if arguments.raw_uncertainty else session.calibration_note(counts, how)


def run_record(
    arguments: argparse.Namespace,
    adapter: "Adapter",
    session: "MattingSession",
    state: "PartialState",
    plan: Plan,
    rows: list[dict],
    note: str | None,
) -> dict:
    """What `run.json` holds: every setting as it was resolved, what made the mattes, and a row per photo."""
    how = drawing(session, arguments)
    return {
        "method": "sdseg",
        "settings": {
            "adapter": arguments.adapter or "embedded",
            "pretrained_model_name_or_path": arguments.pretrained_model_name_or_path
            or adapter.config.pretrained_model_name_or_path,
            "revision": arguments.revision or adapter.config.revision,
            "num_inference_steps": how.num_inference_steps,
            "ensemble_size": arguments.ensemble_size,
            "tolerance": how.tolerance,
            "eta": how.eta,
            "tile": arguments.tile,
            "refine": arguments.refine and session.target == "alpha",
            "output_uncertainty": arguments.output_uncertainty,
            "raw_uncertainty": arguments.raw_uncertainty,
            "target": session.target,
            "processing_resolution": how.processing_resolution,
            "batch_size": how.batch_size,
            "seed": arguments.seed,
            "mixed_precision": arguments.mixed_precision,
            "tiny_vae": arguments.tiny_vae,
            "enable_vae_tiling": arguments.enable_vae_tiling,
            "device": state.device.type,
            "processes": state.num_processes,
        },
        "base_fingerprint": adapter.config.fingerprint,
        "adapter_digest": weights_digest(adapter.path),
        # What the adapter holds; the rows say what is in their uncertainty.
        "calibration": {"scales": session.calibration, "note": note},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "accelerate")},
        "passed_over": plan.listing.passed_over,
        "inputs": rows,
    }
