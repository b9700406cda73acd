"""`sdseg doctor --inference`: whether these flags of `infer.py` will work on this machine, and what they will cost.

Nothing is written. The exit status is 0 where mattes can be made, else 2.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.errors import UserError, one_line, reported, steady_streams
from sdseg.inference.__main__ import build_parser
from sdseg.memory import peak_memory

if TYPE_CHECKING:
    import numpy as np

    from sdseg.inference.session import MattingSession

STABILITYAI = "stabilityai/stable-diffusion-2"  # whose repositories have left the Hub
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """What was looked at and found; an error means that no matte can be made."""

    kind: str  # ok, warning or error
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Findings, the cheap ones first; the model is loaded, and a photo matted, only where nothing stands against it."""
    failed = False
    for check in (versions, device, base, model):
        for finding in check(arguments):
            failed |= finding.kind == "error"
            yield finding
        if failed:
            return


def versions(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Packages that sdseg needs, in the versions it needs; and torchvision, which stops diffusers if it fits another
    torch."""
    from packaging.requirements import Requirement

    wrong = False
    for text in requires("sdseg") or []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = None
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            wrong = True
            command = f"pip install '{wanted.name}{wanted.specifier}'"
            yield Finding("error", f"{wanted.name} is {found or 'missing'}, {wanted.specifier} is needed; {command}")
    try:
        version("torchvision")
        import_module("torchvision")
    except PackageNotFoundError:
        pass
    except Exception as error:
        wrong = True
        yield Finding(
            "error",
            f"torchvision {version('torchvision')} does not fit torch {version('torch')} ({one_line(error)}), which "
            "stops diffusers; pip uninstall torchvision, which sdseg does not need",
        )
    if not wrong:
        named = ("torch", "diffusers", "accelerate", "numpy", "pillow")
        yield Finding("ok", "versions: " + ", ".join(f"{name} {version(name)}" for name in named))


def device(arguments: argparse.Namespace) -> Iterator[Finding]:
    """The device that will compute, and what a GPU would need."""
    import torch

    from sdseg.inference.folder import start_processes

    try:
        chosen = start_processes(arguments.device).device
    except UserError as error:
        yield Finding("error", str(error))
        return
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        name = torch.cuda.get_device_name(chosen)
        yield Finding("ok", f"device: {name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
        if arguments.mixed_precision == "no":
            yield Finding("warning", "--mixed_precision is no; bf16 takes half the memory and is faster on this GPU")
    elif chosen.type != "cpu":
        yield Finding("ok", f"device: {chosen.type}")
    elif arguments.device == "cpu":
        yield Finding("ok", f"device: cpu, {torch.get_num_threads()} threads")
    else:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        need = "a driver that shows it (nvidia-smi)" if torch.version.cuda else "a CUDA build of torch"
        yield Finding(
            "warning",
            f"device: cpu, {torch.get_num_threads()} threads; torch {torch.__version__} is built for {build} and finds "
            f"no GPU; one needs {need}",
        )


def base(arguments: argparse.Namespace) -> Iterator[Finding]:
    """The adapter, and whether its base is here or on the Hub."""
    from sdseg.adapter import read_adapter
    from sdseg.model import EMBEDDED, MIRROR, is_hub_id

    try:
        adapter = read_adapter(arguments.adapter or EMBEDDED)
    except UserError as error:
        yield Finding("error", str(error))
        return
    config = adapter.config
    yield Finding("ok", f"adapter: {adapter.path}, target {config.target}, {config.resolution} px")
    name = arguments.pretrained_model_name_or_path or config.pretrained_model_name_or_path
    if name == EMBEDDED or Path(name).exists() or not is_hub_id(name):
        return  # loading it says what there is to say
    from huggingface_hub import HfApi, try_to_load_from_cache

    revision = arguments.revision or config.revision
    if isinstance(try_to_load_from_cache(name, "unet/config.json", revision=revision), str):
        yield Finding("ok", f"base: {name}, in the Hub's cache on this machine")
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # the network, the Hub and its client raise errors of many kinds
        mirror = f"; stabilityai's own have left the Hub, pass the mirror {MIRROR}" * name.startswith(STABILITYAI)
        yield Finding("error", f"base: {name} is not here and cannot be reached ({one_line(error)[:200]}){mirror}")
    else:
        yield Finding("ok", f"base: {name}, on the Hub; about 5 GB will be downloaded")


def model(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Loads adapter and base, which shows that they fit; mattes a photo, and reckons what the folder will take."""
    from sdseg.inference.folder import load, start_processes

    started = time.perf_counter()
    try:
        _, session = load(arguments, start_processes(arguments.device))
    except UserError as error:
        yield Finding("error", str(error))
        return
    yield Finding("ok", f"model: the adapter fits the base; loaded in {time.perf_counter() - started:.1f} s")
    try:
        yield from cost(session, arguments)
    except (UserError, FloatingPointError) as error:
        yield Finding("error", one_line(error))


def cost(session: "MattingSession", arguments: argparse.Namespace) -> Iterator[Finding]:
    """Seconds and memory of the folder's median photo, measured on the second run, and of the whole folder."""
    import torch

    from sdseg.inference.folder import check, drawing, refuse_spread_of_one, starting_point

    refuse_spread_of_one(arguments)
    check(session, arguments)
    how, (image, count) = drawing(session, arguments), median_photo(arguments.input)
    for _ in range(2):  # the first time is longer
        started = time.perf_counter()
        for _, drawn in session.draw([("photo", image, starting_point(arguments.seed))], how):
            if isinstance(drawn, Exception):
                raise drawn
            if arguments.tile:
                session.draw_tiles(drawn, image, how, arguments.tile)
            session.summary(drawn, refine_along=image if arguments.refine else None)
        seconds = time.perf_counter() - started
    height, width = image.shape[:2]
    on_gpu = torch.device(session.device).type == "cuda"
    memory = torch.cuda.max_memory_allocated(session.device) if on_gpu else peak_memory()
    samples = f"up to {how.ensemble_size}" if how.tolerance else how.ensemble_size
    yield Finding(
        "ok",
        f"cost: {seconds:.2f} s for a photo of {width}x{height} at {how.num_inference_steps} steps x {samples} "
        f"samples, {memory / GIB:.1f} GiB at most",
    )
    if count:
        minutes = seconds * count / 60
        yield Finding("ok", f"folder: {count} photos, about {minutes:.1f} minutes on one process of this machine")


def median_photo(folder: Path | None) -> "tuple[np.ndarray, int]":
    """The photo uint8 [H, W, 3] of the median file size, or the next that can be read, and how many there are; noise of
    1024 x 768 pixels without a folder.

    Raises:
        UserError: no photo can be read.
    """
    import numpy as np

    from sdseg.imaging import ImageError, list_images, read_image

    if folder is None:
        return np.random.default_rng(0).integers(0, 256, (1024, 768, 3), dtype=np.uint8), 0
    photos = sorted(list_images(folder), key=lambda path: path.stat().st_size)
    for path in photos[len(photos) // 2 :] + photos[: len(photos) // 2][::-1]:
        try:
            return read_image(path), len(photos)
        except ImageError:
            continue
    raise UserError(f"{folder}: none of its {len(photos)} photos can be read; infer.py says why, one by one")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what is found; returns 0 if mattes can be made, else 2."""
    return reported(lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    parser = build_parser("sdseg doctor --inference", for_doctor=True)
    failed = False
    for finding in examine(parser.parse_args(argv)):
        print(finding, flush=True)
        failed |= finding.kind == "error"
    return 2 if failed else 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
