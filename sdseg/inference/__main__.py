"""The command line of inference: `infer.py`, `sdseg infer` and `python -m sdseg.inference`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdseg.errors import Parser, reported, steady_streams
from sdseg.inference.folder import run
from sdseg.seeds import LARGEST_SEED


def whole_number(minimum: int, maximum: int = 2**63 - 1):
    """A parser of whole numbers from `minimum` to `maximum`, for argparse."""

    def parse(text: str) -> int:
        wanted = f"a whole number of {minimum} or more" + (f", up to {maximum}" if maximum < 2**63 - 1 else "")
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used; give {wanted}") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} cannot be used; give {wanted}")
        return value

    return parse


def build_parser(prog: str = "sdseg infer", for_doctor: bool = False) -> argparse.ArgumentParser:
    """Flags are spelled as in diffusers and Marigold; the doctor needs neither input nor output."""
    parser = Parser(
        prog=prog,
        description="Write the alpha mattes of a photo, or of every photo in a folder; or the classes of its pixels, "
        "if the adapter was trained on classes.",
        epilog="Exit status: 0 all done; 1 some photos failed, run.json says which and why; 2 nothing done.",
    )
    add = parser.add_argument
    add("--input", type=Path, required=not for_doctor, help="photo, or folder of photos (with subfolders)")
    add("--output", type=Path, required=not for_doctor, help="folder for <photo>.png, 16-bit mattes, and run.json")
    add("--adapter", help="adapter: folder or Hub id (default: the miniature that ships with sdseg)")
    add(
        "--pretrained_model_name_or_path",
        help="base: local diffusers folder, Hub id, or embedded (default: the one the adapter names)",
    )
    add("--revision", help="revision of the base on the Hub (default: the one the adapter names)")
    add(
        "--num_inference_steps",
        type=whole_number(1, 1000),
        help="denoising steps (default: the adapter's); 1 is fastest, an honest uncertainty needs 2 or more",
    )
    add(
        "--ensemble_size",
        type=number_of_samples,
        default=1,
        help="samples a photo, averaged (default: 1); 8 gives better mattes in 8 times the time; auto: 2 to 8, as many "
        "as --tolerance asks",
    )
    add(
        "--tolerance",
        type=float,
        default=0.05,
        help="with --ensemble_size auto: standard error of the mean, in alpha, that is good enough (default: 0.05)",
    )
    add(
        "--eta",
        type=float,
        default=0.0,
        help="noise added at every step but the last: 0 none (default; DDIM), 1 as much as DDPM adds",
    )
    add(
        "--output_uncertainty",
        action="store_true",
        help="also write <photo>.uncertainty.png, the standard deviation of the samples times the adapter's scale, or "
        "the entropy of their classes, 65535 = 1; needs --ensemble_size of 2 or more",
    )
    add(
        "--output_variance",
        action="store_true",
        help="also write <photo>.variance.tif, the square of that standard deviation in 32-bit floats; needs "
        "--ensemble_size of 2 or more",
    )
    add(
        "--raw_uncertainty",
        action="store_true",
        help="leave out the adapter's scale, which brings the standard deviation to the size of the errors",
    )
    add("--output_mask", action="store_true", help="also write <photo>.mask.png, 255 where alpha is at least 0.5")
    add(
        "--output_overlay",
        action="store_true",
        help="also write <photo>.overlay.png, the photo under its classes' colours",
    )
    add(
        "--processing_resolution",
        type=whole_number(0),
        help="longer side in pixels at which the model works (default: the adapter's; 0: the photo's own)",
    )
    add(
        "--refine",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let mattes follow the photo's own edges, where it is larger than the processing resolution (default); "
        "--no-refine resizes them bilinearly",
    )
    add(
        "--tile",
        type=whole_number(8),
        metavar="PIXELS",
        help="draw what the matte leaves open a second time, in tiles of so many of the photo's pixels",
    )
    add(
        "--batch_size",
        type=whole_number(1),
        help="samples computed together, of several photos where their working sizes are equal (default: those of one "
        "photo, as many as have 768 x 768 pixels); more is faster on a GPU and takes more memory; halved where memory "
        "ends",
    )
    add(
        "--seed",
        type=whole_number(0, LARGEST_SEED),
        default=0,
        help="of the starting noise of every photo (default: 0)",
    )
    add(
        "--mixed_precision",
        choices=["no", "bf16"],
        default="no",
        help="no: float32 (default); bf16: half the memory (float16 would overflow)",
    )
    add(
        "--device",
        choices=["auto", "cpu", "cuda", "mps"],
        default="auto",
        help="auto (default) takes the GPU if there is one, and says which device it took",
    )
    add("--torch_compile", action="store_true", help="compile the UNet, which pays for long runs on a GPU")
    add("--channels_last", action="store_true", help="the UNet's weights in the channels-last layout of GPUs' kernels")
    add("--enable_model_cpu_offload", action="store_true", help="each part on the GPU only while it computes")
    add("--enable_vae_slicing", action="store_true", help="the VAE one sample at a time, for less memory")
    add("--enable_vae_tiling", action="store_true", help="the VAE in overlapping tiles, for much less memory")
    add(
        "--tiny_vae",
        metavar="FOLDER_OR_ID",
        help="decode with this AutoencoderTiny, such as madebyollin/taesd for SD2: faster and coarser, for previews",
    )
    return parser


def number_of_samples(text: str) -> int | str:
    """`auto`, or a whole number of 1 or more."""
    return text if text == "auto" else whole_number(1)(text)


def main(argv: Sequence[str] | None = None, prog: str = "sdseg infer") -> int:
    """Run the command line; returns the exit status: 0, 1 (some photos failed) or 2 (nothing was done)."""
    arguments = build_parser(prog).parse_args(argv)
    return reported(lambda: run(arguments))


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
