"""A photo or a folder of photos in, a folder of mattes or class maps out; the same on any number of processes.

The work of `infer.py` and of `sdseg infer`. Every photo is a run of its own: its starting noise comes from a
fresh generator of the seed, so its matte depends on no neighbour, no order and no number of processes, and a
photo that cannot be read stops no other.
"""

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sdseg.errors import UserError
from sdseg.imaging import read_image, write_alpha, write_classes, write_grey16, write_image, write_mask
from sdseg.outputs import (
    ALPHA_SUFFIX,
    CLASSES_RECORD,
    MASK_SUFFIX,
    OVERLAY_SUFFIX,
    UNCERTAINTY_SUFFIX,
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
from sdseg.uncertainty import calibration_key

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdseg.adapter import Adapter
    from sdseg.inference.pipeline import MattingPipeline

TOY_NOTICE = "no --adapter: using the miniature that ships with sdseg; expect toy mattes, it sees 64 pixels a side"


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        UserError: nothing could be done, and nothing was written.
    """
    if arguments.output_uncertainty and arguments.ensemble_size < 2:
        raise UserError(
            f"--output_uncertainty with --ensemble_size {arguments.ensemble_size}; a spread needs 2 or more"
        )
    plan = plan_outputs(arguments.input, arguments.output)
    check_writable(arguments.output)
    state = start_processes(arguments.device)
    if arguments.adapter is None:
        say(state, TOY_NOTICE)
    adapter, pipe = load(arguments, state)
    say(state, f"device: {describe_device(state)}")
    if passed_over := plan.describe_passed_over():
        say(state, passed_over)

    from accelerate.utils import gather_object

    with on_main_process_within(state, writing(arguments.output)) as earlier:
        rows = gather_object(matte_photos(pipe, plan, arguments, state))
        rows.sort(key=lambda row: row["input"])
        failed = sum("error" in row for row in rows)
        if state.is_main_process:
            remove_stale(arguments.output, plan, rows, earlier)
            if pipe.colours is not None:
                write_json(arguments.output / CLASSES_RECORD, dict(enumerate(pipe.config.class_names)))
            write_run_record(arguments.output, run_record(arguments, adapter, pipe, state, plan, rows))
    say(state, f"{len(rows) - failed} of {len(rows)} mattes written to {arguments.output}")
    state.destroy_process_group()
    return 1 if failed else 0


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


def load(arguments: argparse.Namespace, state: "PartialState") -> "tuple[Adapter, MattingPipeline]":
    """The adapter and the pipeline, on this process's device."""
    import torch

    from sdseg.adapter import read_adapter
    from sdseg.inference.pipeline import MattingPipeline, check_processing_resolution
    from sdseg.model import EMBEDDED

    # torch takes other kernels for "cpu:0", Accelerate's name in a group, than for "cpu"; mattes would differ
    device = "cpu" if state.device.type == "cpu" else state.device
    adapter = read_adapter(arguments.adapter or EMBEDDED)
    pipe = MattingPipeline.from_adapter(
        adapter,
        arguments.pretrained_model_name_or_path,
        revision=arguments.revision,
        torch_dtype=torch.bfloat16 if arguments.mixed_precision == "bf16" else torch.float32,
        device=device,
    )
    if arguments.processing_resolution is not None:
        check_processing_resolution(arguments.processing_resolution, pipe.vae_scale_factor)
    classes = pipe.config.target == "classes"
    for flag, asked, served in (
        ("--output_mask", arguments.output_mask, not classes),
        ("--output_overlay", arguments.output_overlay, classes),
    ):
        if asked and not served:
            raise UserError(f"{flag}: this adapter was trained on target {pipe.config.target}; leave the flag out")
    return adapter, pipe


def matte_photos(
    pipe: "MattingPipeline", plan: Plan, arguments: argparse.Namespace, state: "PartialState"
) -> list[dict]:
    """Matte every n-th photo, this process's share; returns their rows of `run.json`.

    Whatever one photo raises is that photo's error, and the others are done.
    """
    from tqdm import tqdm

    share = list(plan.names.items())[state.process_index :: state.num_processes]
    rows = []
    for path, name in tqdm(share, desc="mattes", unit="photo", disable=not state.is_main_process):
        row = {"input": plan.relative(path)}
        try:
            row |= matte_photo(pipe, path, name, arguments)
        except Exception as error:
            row["error"] = photo_error(path, error)
            tqdm.write(f"error: {row['error']}", file=sys.stderr)
        rows.append(row)
    return rows


def matte_photo(pipe: "MattingPipeline", path: Path, name: PurePath, arguments: argparse.Namespace) -> dict:
    """Matte one photo, write what was asked for, and return its part of `run.json`."""
    import torch

    started = time.perf_counter()
    suffixes = {"output": ALPHA_SUFFIX}
    for key, wanted, suffix in (
        ("uncertainty", arguments.output_uncertainty, UNCERTAINTY_SUFFIX),
        ("mask", arguments.output_mask, MASK_SUFFIX),
        ("overlay", arguments.output_overlay, OVERLAY_SUFFIX),
    ):
        if wanted:
            suffixes[key] = suffix
    files = {key: output_file(arguments.output, name, suffix) for key, suffix in suffixes.items()}
    check_name_lengths(files.values())
    image = read_image(path)
    result = pipe(
        image,
        num_inference_steps=arguments.num_inference_steps,
        ensemble_size=arguments.ensemble_size,
        processing_resolution=arguments.processing_resolution,
        batch_size=arguments.batch_size,
        generator=torch.Generator("cpu").manual_seed(arguments.seed),
        output_uncertainty=arguments.output_uncertainty,
    )
    drawn = result.prediction[0]
    if pipe.colours is None:
        write_alpha(files["output"], drawn)
    else:
        write_classes(files["output"], drawn, pipe.colours)
    if "uncertainty" in files:
        write_grey16(files["uncertainty"], result.uncertainty[0])
    if "mask" in files:
        write_mask(files["mask"], drawn >= MIDDLE)
    if "overlay" in files:
        write_image(files["overlay"], overlay(image, drawn, pipe.colours))
    row = {key: file.relative_to(arguments.output).as_posix() for key, file in files.items()}
    height, width = image.shape[:2]
    return row | {"size": [width, height], "seconds": round(time.perf_counter() - started, 3)}


def run_record(
    arguments: argparse.Namespace,
    adapter: "Adapter",
    pipe: "MattingPipeline",
    state: "PartialState",
    plan: Plan,
    rows: list[dict],
) -> dict:
    """What `run.json` holds: every setting as it was resolved, what made the mattes, and a row per photo."""
    steps = arguments.num_inference_steps or pipe.config.default_denoising_steps
    resolution = arguments.processing_resolution
    return {
        "method": "sdseg",
        "settings": {
            "adapter": arguments.adapter or "embedded",
            "pretrained_model_name_or_path": arguments.pretrained_model_name_or_path
            or adapter.config.pretrained_model_name_or_path,
            "revision": arguments.revision or adapter.config.revision,
            "num_inference_steps": steps,
            "ensemble_size": arguments.ensemble_size,
            "output_uncertainty": arguments.output_uncertainty,
            "target": pipe.config.target,
            "processing_resolution": pipe.config.default_processing_resolution if resolution is None else resolution,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "mixed_precision": arguments.mixed_precision,
            "device": state.device.type,
            "processes": state.num_processes,
        },
        "base_fingerprint": adapter.config.fingerprint,
        # On the uncertainty maps, which hold the plain standard deviation; null where none was fitted.
        "calibration_scale": adapter.config.calibration.get(calibration_key(steps, arguments.ensemble_size)),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "peft", "accelerate")},
        "passed_over": plan.listing.passed_over,
        "inputs": rows,
    }
