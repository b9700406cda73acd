"""Refinement at the photo's resolution: compares ways to bring a coarse matte to a photo, in one table and one sheet.

    python benchmarks/refinement.py --sets products=PHOTOS:MATTES renders=DIR/images:DIR/alpha --output runs/refinement

Pictures are reduced to --size. Each is refined from the matte of an adapter (mean and deviation of --ensemble_size
samples, at its own resolution) and from the true matte, reduced to each of --truth_at pixels: the best that a model of
that resolution could draw. Means over pictures with bootstrap intervals; seconds are process time on one thread. The
model's mattes are kept under --output and not drawn again. "stretched" knows nothing of the photo; it shows what the
decision alone brings. Trimap methods share one trimap, that of sdseg.inference.refinement; where it has no subject or
no background, or a solver fails, every method counts with the bilinear matte.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from sdseg.inference.refinement import closed_form, linear_models, refine, resized, trimap

FIGURES = ("mad", "grad", "conn")
CROP = 120  # pixels a side, on the sheet
SHOWN = 8  # pictures of each set on the sheet, at most


class Coarse(NamedTuple):
    """A picture, uint8 [H, W, 3], and a matte of it to refine, float32 [h, w], with its deviation or None."""

    image: np.ndarray
    alpha: np.ndarray
    deviation: np.ndarray | None

    @property
    def bilinear(self) -> np.ndarray:
        return resized(self.alpha, self.image.shape[:2])

    @property
    def radius(self) -> int:
        """One pixel of the coarse matte in the picture's pixels."""
        return max(1, round(self.image.shape[0] / self.alpha.shape[0]))


# ------------------------------------------------------------------------------------------------ the methods


def stretched(coarse: Coarse) -> np.ndarray:
    return ((coarse.bilinear - 0.2) / 0.6).clip(0, 1)


def guided(coarse: Coarse) -> np.ndarray:
    """Guided filter with colours, windows of one coarse pixel on each side."""
    image = coarse.image / 255
    models = linear_models(image, coarse.bilinear.astype(np.float64), coarse.radius, 1e-4)
    return ((models[..., :3] * image).sum(axis=-1) + models[..., 3]).clip(0, 1)


def joint_bilateral(coarse: Coarse, colours: float = 0.05) -> np.ndarray:
    """Joint bilateral filter: a Gaussian of one coarse pixel in space and of `colours` in colour, 17 x 17 taps."""
    image, alpha, radius = (coarse.image / 255).astype(np.float32), coarse.bilinear, coarse.radius
    total, weight = np.zeros_like(alpha), np.zeros_like(alpha)
    taps = np.unique(np.linspace(-2 * radius, 2 * radius, 17).round().astype(int))
    margin = 2 * radius
    padding = (margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    wide_image, wide_alpha = cv2.copyMakeBorder(image, *padding), cv2.copyMakeBorder(alpha, *padding)
    height, width = alpha.shape
    for dy in taps:
        for dx in taps:
            there = slice(margin + dy, margin + dy + height), slice(margin + dx, margin + dx + width)
            squared = np.square(wide_image[there] - image).sum(axis=-1) / colours**2 + (dy**2 + dx**2) / radius**2
            share = np.exp(-squared / 2)
            total += share * wide_alpha[there]
            weight += share
    return total / weight


def asked(coarse: Coarse) -> tuple[np.ndarray, np.ndarray] | None:
    """The automatic trimap, or None where it lacks a subject or a background."""
    deviation = np.zeros_like(coarse.alpha) if coarse.deviation is None else coarse.deviation
    start, known = trimap(coarse.bilinear.astype(np.float64), resized(deviation, coarse.image.shape[:2]))
    return (start, known) if {0.0, 1.0} <= set(np.unique(start[known])) else None


def closed_form_alone(coarse: Coarse) -> np.ndarray | None:
    found = asked(coarse)
    return found and closed_form(coarse.image / 255, *found, found[0], 0.0)


def of_pymatting(name: str) -> Callable[[Coarse], np.ndarray | None]:
    def method(coarse: Coarse) -> np.ndarray | None:
        import pymatting

        if (found := asked(coarse)) is None:
            return None
        start, known = found
        try:
            solved = getattr(pymatting, f"estimate_alpha_{name}")(coarse.image / 255, np.where(known, start, 0.5))
        except ValueError:
            return None
        return np.where(known, start, solved)

    return method


def refined(coarse: Coarse) -> np.ndarray | None:
    alpha, problem = refine(*coarse)
    return None if problem else alpha


METHODS: dict[str, Callable[[Coarse], np.ndarray | None]] = {
    "bilinear": lambda coarse: coarse.bilinear,
    "stretched": stretched,
    "guided filter": guided,
    "joint bilateral": joint_bilateral,
    "closed form": closed_form_alone,
    "KNN": of_pymatting("knn"),
    "large kernel": of_pymatting("lkm"),
    "random walk": of_pymatting("rw"),
    "refine": refined,
}


# ------------------------------------------------------------------------------------------------- the pictures


def pairs(folders: str, size: int, count: int | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures and mattes of the same names under IMAGES:MATTES, their longer sides reduced to `size`."""
    from sdseg.imaging import list_images, read_alpha, read_image

    images, mattes = map(Path, folders.split(":"))
    found = {}
    for path in list_images(images)[:count]:
        image, truth = read_image(path), read_alpha(mattes / f"{path.stem}.png")
        scale = size / max(truth.shape)
        if scale < 1:
            shape = tuple(max(1, round(side * scale)) for side in truth.shape)
            image, truth = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), resized(truth, shape)
        found[path.stem] = image, truth.clip(0, 1)
    return found


def drawn_by(adapter: str, samples: int, images: dict[str, np.ndarray], folder: Path) -> dict[str, Coarse]:
    """The adapter's mattes at its own resolution; those in the folder are read."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.npz" for name in images}
    if not all(file.is_file() for file in files.values()):
        import torch

        from sdseg.inference.pipeline import MattingPipeline

        pipeline = MattingPipeline.from_adapter(adapter)
        pipeline.set_progress_bar_config(disable=True)
        for name, image in images.items():
            drawn = pipeline(
                image,
                ensemble_size=samples,
                batch_size=samples,
                match_input_resolution=False,
                output_uncertainty=True,
                raw_uncertainty=True,
                generator=torch.Generator().manual_seed(0),
            )
            np.savez(files[name], alpha=drawn.prediction[0], deviation=drawn.uncertainty[0])
    stored = {name: np.load(file) for name, file in files.items()}
    return {name: Coarse(images[name], kept["alpha"], kept["deviation"]) for name, kept in stored.items()}


def reduced_truth(image: np.ndarray, truth: np.ndarray, side: int) -> Coarse:
    scale = side / max(truth.shape)
    return Coarse(
        image, resized(truth, tuple(max(1, round(length * scale)) for length in truth.shape)).clip(0, 1), None
    )


# --------------------------------------------------------------------------------------------------- the results


def measured(coarse: Coarse, truth: np.ndarray, names: list[str]) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """The figures of each method on one picture, and its mattes."""
    from sdseg.evaluation.metrics import metrics_of_parts

    rows, mattes = {}, {}
    for name in names:
        began = time.process_time()
        alpha = METHODS[name](coarse)
        seconds = time.process_time() - began
        mattes[name] = coarse.bilinear if alpha is None else alpha
        figures = metrics_of_parts(mattes[name].clip(0, 1), truth, [None], FIGURES)[0]
        rows[name] = figures | {"seconds_per_megapixel": seconds / truth.size * 1e6, "refined": alpha is not None}
    return rows, mattes


def table(rows: list[dict[str, dict]]) -> str:
    from sdseg.evaluation.metrics import confidence_interval
    from sdseg.evaluation.page import markdown_table

    lines = []
    for name in rows[0]:
        values = np.array([[row[name][figure] for figure in FIGURES] for row in rows])
        low, high = confidence_interval(values, np.random.default_rng(0), resamples=2000)
        digits = (4, 2, 2)
        cells = [
            f"{mean:.{k}f} ({a:.{k}f}-{b:.{k}f})"
            for mean, a, b, k in zip(values.mean(axis=0), low, high, digits, strict=True)
        ]
        seconds = np.mean([row[name]["seconds_per_megapixel"] for row in rows])
        failed = sum(not row[name]["refined"] for row in rows)
        lines.append([name, *cells, f"{seconds:.2f}", str(failed)])
    return markdown_table(["method", "MAD", "Grad", "Conn", "s/MP", "not refined"], lines, figures=True)


def crop_of(truth: np.ndarray) -> tuple[slice, slice]:
    """The square with the most detail in the true matte."""
    edges = cv2.boxFilter(np.abs(cv2.Laplacian(truth.astype(np.float32), cv2.CV_32F)), -1, (CROP, CROP))
    y, x = np.unravel_index(edges.argmax(), edges.shape)
    top, left = (max(0, min(at - CROP // 2, side - CROP)) for at, side in zip((y, x), truth.shape, strict=True))
    return slice(top, top + CROP), slice(left, left + CROP)


def strip(image: np.ndarray, truth: np.ndarray, mattes: dict[str, np.ndarray]) -> np.ndarray:
    """One picture's crops side by side, uint8: photo, truth, and the matte of each method."""
    where = crop_of(truth)
    planes = [image[where], *((plane[where] * 255).round() for plane in (truth, *mattes.values()))]
    cells = []
    for plane in planes:
        cell = np.full((CROP + 4, CROP + 4, 3), 96, np.uint8)
        cell[: plane.shape[0], : plane.shape[1]] = plane if plane.ndim == 3 else plane[..., None]
        cells.append(cell)
    return np.concatenate(cells, axis=1)


def headed(strips: list[np.ndarray], names: list[str]) -> np.ndarray:
    head = np.zeros((18, strips[0].shape[1], 3), np.uint8)
    for number, name in enumerate(["photo", "truth", *names]):
        at = number * (CROP + 4) + 4, 13
        cv2.putText(head, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([head, *strips])


def main() -> None:
    from ablation import named

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", type=named, required=True, metavar="NAME=IMAGES:MATTES")
    parser.add_argument("--count", type=int, help="pictures of each set, the first ones (default: all)")
    parser.add_argument("--size", type=int, default=512, help="longer side in pixels (default 512)")
    parser.add_argument("--adapter", default="embedded")
    parser.add_argument("--ensemble_size", type=int, default=4)
    parser.add_argument("--truth_at", nargs="*", type=int, default=[64, 128], help="longer sides (default 64 128)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    from sdseg.errors import require
    from sdseg.imaging import write_image
    from sdseg.outputs import write_json

    if "bilinear" not in options.methods:
        parser.error("--methods: bilinear is what the others are compared with; add it")
    if set(options.methods) & {"KNN", "large kernel", "random walk"}:
        require(("pymatting",), "matting", "a method of pymatting")
        import pymatting  # noqa: F401  compiles at its first import, which is no method's time
    results = {}
    for name, folders in options.sets:
        pictures = pairs(folders, options.size, options.count)
        images = {stem: image for stem, (image, _) in pictures.items()}
        model = drawn_by(options.adapter, options.ensemble_size, images, options.output / "drawn" / name)
        kinds = {"the model's matte": model}
        for side in options.truth_at:
            kinds[f"the truth at {side} px"] = {
                stem: reduced_truth(image, truth, side) for stem, (image, truth) in pictures.items()
            }
        for kind, coarse in kinds.items():
            rows, strips = {}, []
            for stem, (image, truth) in pictures.items():
                rows[stem], mattes = measured(coarse[stem], truth, options.methods)
                if len(strips) < SHOWN:
                    strips.append(strip(image, truth, mattes))
            results.setdefault(name, {})[kind] = rows
            print(f"\n{name}, {kind}, {len(rows)} pictures\n\n{table(list(rows.values()))}", flush=True)
            write_json(options.output / "results.json", results)
            file = "_".join([name, *kind.replace("'", "").split()]) + ".png"
            write_image(options.output / file, headed(strips, options.methods))


if __name__ == "__main__":
    main()
