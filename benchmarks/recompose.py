"""Speed of recomposition on the fly: pictures per second and core, and time by stage.

    python benchmarks/recompose.py --size 512 --count 60

Foregrounds and backgrounds are synthetic arrays, stored in the format of `sdseg render` with `compositing: on_the_fly`.
Every effect of recomposition and of the camera is on.
"""

import argparse
import cProfile
import json
import os
import pstats
import tempfile
import time
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import cv2
import numpy as np

from synth_data.recompose import Recomposer
from synth_data.store import Layers, open_folder, write_layers, write_metadata

RECIPE = """
name: benchmark
compositing: on_the_fly
recompose:
  flip: 0.5
  scale: [0.8, 1.2]
  shift_x: [-0.15, 0.15]
  shift_y: [-0.15, 0.15]
  rotate: [-10, 10]
  second: {second}
  distractors: {distractors}
  photo: {photo}
  background_flip: 0.5
  background_crop: [0.6, 1]
  background_sharp: 0
  background_blur: [0.001, 0.04]
  background_stops: [-1, 1]
capture:
  vignetting: [0.1, 0.4]
  fringe: [0.0005, 0.002]
  softness: [0.3, 0.8]
  mosaic: 1
  shot_noise: [0.005, 0.04]
  read_noise: [0.001, 0.01]
  warmth: [-0.15, 0.15]
  tint: [-0.05, 0.05]
  contrast: [-0.2, 0.5]
  sharpening: [0.2, 1]
  jpeg: 1
  quality: [70, 98]
"""
STAGES = {
    "foreground: read and decode": "read_foreground",
    "foreground: place": "warped",
    "foreground: expose": "expose",
    "background: read and decode": "read_png",
    "background: photo": "random_part",
    "background: defocus": "defocused",
    "background: add distractors": "put_distractor",
    "composite": "composite",
    "camera: lens": "through_lens",
    "camera: sensor": "exposed_sensor",
    "camera: development": "developed",
    "camera: sharpening": "sharpened",
    "camera: JPEG": "through_jpeg",
    "the whole picture": "pair",
}


def hairy_disc(size: int, index: int) -> Layers:
    """A disc with a ragged soft edge and fine grain, and a background of smooth noise."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    ragged = np.interp(angle, np.linspace(-np.pi, np.pi, 721), rng.normal(size=721) * 0.06)
    alpha = np.clip((0.6 + ragged - radius) * 12, 0, 1)
    colour = rng.uniform(0.1, 0.9, 3) * (0.7 + 0.3 * rng.random((size, size, 1)))
    background = cv2.GaussianBlur(rng.uniform(0, 255, (size, size, 3)), (0, 0), size / 40)
    background = (background - background.min()) / np.ptp(background) * 235 + rng.uniform(0, 20, background.shape)
    factors = {"instances": [{"id": 1, "family": "fur", "class": 1}], "transmissive": False}
    meta = {"seed": 0, "index": index, "recipe": "benchmark", "factors": json.dumps(factors)}
    half = (colour * alpha[..., None]).astype(np.float16), alpha.astype(np.float16)
    return Layers(*half, (alpha >= 0.5).astype(np.uint8), background.astype(np.uint8), meta)


def write_set(folder: Path, recipe: str, size: int, number: int) -> None:
    """Writes an on-the-fly set of `number` foregrounds."""
    settings = {"seed": 0, "size": size, "variant": "none", "target": "alpha", "compositing": "on_the_fly"}
    open_folder(folder, recipe, settings | {"inputs": {}}, {})
    write_metadata(folder, {index: write_layers(folder, hairy_disc(size, index)) for index in range(number)})


def write_photos(folder: Path, number: int) -> None:
    """Writes JPEGs of 2 megapixels, a usual size in photo data sets; decoding time is proportional to it."""
    folder.mkdir()
    for index in range(number):
        noise = np.random.default_rng(index).uniform(0, 255, (300, 400, 3)).astype(np.uint8)
        photo = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 4), (1600, 1200), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.jpg"), photo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="side length in pixels")
    parser.add_argument("--count", type=int, default=60, help="pictures per case")
    arguments = parser.parse_args()
    cases = {
        "stored backgrounds": dict(second=0, distractors=[0, 0], photo=0),
        "photos of 2 megapixels": dict(second=0, distractors=[0, 0], photo=1),
        "two foregrounds and one or two distractors": dict(second=1, distractors=[1, 2], photo=0),
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(Path(scratch) / "photos", 6)
        for name, settings in cases.items():
            folder = Path(scratch) / name
            write_set(folder, RECIPE.format(**settings), arguments.size, 12)
            recomposer = Recomposer(folder, [str(Path(scratch) / "photos")] if settings["photo"] else None)
            for index in range(3):
                recomposer.pair(index, np.random.default_rng(index))
            profile = cProfile.Profile(time.process_time)
            started, processor = time.perf_counter(), time.process_time()
            profile.enable()
            for index in range(arguments.count):
                recomposer.pair(index % len(recomposer), np.random.default_rng(index))
            profile.disable()
            processor, started = time.process_time() - processor, time.perf_counter() - started
            print(
                f"\n{name}, {arguments.size} px: {arguments.count / processor:.1f} pictures/s per core "
                f"({arguments.count / started:.1f}/s of wall time)"
            )
            spent = {key[2]: row[3] for key, row in pstats.Stats(profile).stats.items()}
            for stage, function in STAGES.items():
                if spent.get(function):
                    print(f"  {1000 * spent[function] / arguments.count:7.2f} ms  {stage}")


if __name__ == "__main__":
    main()
