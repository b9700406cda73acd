"""What a large photo costs: the most memory held while it is read, matted and written, beyond the loaded model's.

    python benchmarks/memory.py --size 6000 4000 --output memory.json

Each row is a process of its own, with the flags it is named for. It mattes a small photo first, so that all is
imported and allocated that does not depend on the photo's size. A plane is one float32 for each of the photo's pixels.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SPREAD = ["--ensemble_size", "8", "--output_uncertainty"]
MODES = {
    "no-refine": ["--no-refine"],
    "refine": [],
    "no-refine, 8 samples, uncertainty": ["--no-refine", *SPREAD],
    "refine, 8 samples, uncertainty": SPREAD,
    "refine, 8 samples, uncertainty, variance, mask": [*SPREAD, "--output_variance", "--output_mask"],
    "refine, tiles": ["--tile", "1024"],
    "refine, tiles, 8 samples, uncertainty": [*SPREAD, "--tile", "1024"],
}
MORE = {mode for mode in MODES if "tiles" in mode}  # may take more than three planes


def photo(width: int, height: int) -> np.ndarray:
    """A disc with 400 hairs on a ground that grows lighter, uint8 [height, width, 3]."""
    import cv2

    rng = np.random.default_rng(0)
    image = np.empty((height, width, 3), np.uint8)
    image[...] = np.linspace(60, 200, width).astype(np.uint8)[:, None]
    side, centre = min(width, height), np.array([width / 2, height / 2])
    cv2.circle(image, tuple(map(int, centre)), int(side * 0.25), (150, 90, 40), -1, cv2.LINE_AA)
    for angle, length in zip(rng.uniform(0, 2 * np.pi, 400), rng.uniform(0.25, 0.4, 400), strict=True):
        end = centre + side * length * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(image, tuple(map(int, centre)), tuple(map(int, end)), (140, 85, 45), max(1, side // 700), cv2.LINE_AA)
    return image


def peak(flags: list[str], folder: Path) -> int:
    """Bytes that `folder`/large.jpg takes beyond the model, in a new process; `folder`/small.jpg comes first."""
    command = [sys.executable, __file__, "--child", str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.splitlines()[-1])


def write_photos(folder: Path, width: int, height: int) -> None:
    from PIL import Image

    Image.fromarray(photo(96, 64)).save(folder / "small.jpg", quality=95)
    Image.fromarray(photo(width, height)).save(folder / "large.jpg", quality=95)


def child(folder: Path, flags: list[str]) -> int:
    import psutil

    from sdseg.inference import folder as inference
    from sdseg.inference.__main__ import build_parser
    from sdseg.memory import peak_memory
    from sdseg.outputs import plan_outputs

    def matte(name: str) -> None:
        words = ["--input", str(folder / name), "--output", str(folder / "out"), "--device", "cpu", *flags]
        arguments = build_parser().parse_args(words)
        rows = inference.matte_photos(session, plan_outputs(arguments.input, arguments.output), arguments, state)
        assert not any("error" in row for row in rows), rows

    state = inference.start_processes("cpu")
    words = ["--input", str(folder), "--output", str(folder / "out"), "--device", "cpu", *flags]
    _, session = inference.load(build_parser().parse_args(words), state)
    matte("small.jpg")
    before = psutil.Process().memory_info().rss
    matte("large.jpg")
    return peak_memory() - before


def main(argv: list[str] | None = None) -> None:
    if argv is None and sys.argv[1:2] == ["--child"]:
        print(child(Path(sys.argv[2]), sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs=2, type=int, default=(6000, 4000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    width, height = arguments.size
    found = {}
    with TemporaryDirectory() as folder:
        write_photos(Path(folder), width, height)
        for mode in arguments.modes:
            taken = peak(MODES[mode], Path(folder))
            found[mode] = {"bytes": taken, "planes": taken / (4 * width * height)}
            print(f"{mode:48} {taken / 1e6:6.0f} MB  {found[mode]['planes']:.2f} planes", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
