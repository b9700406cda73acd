"""Class maps: compares the miniature with LoRA and a plain U-Net with as many trainable parameters, in one table.

    python benchmarks/segmentation.py --seeds 0 1 --output runs/segmentation --sheet docs/pictures/segmentation.jpg

Pictures are rendered with configs/recipes/classes.yaml, the held-out ones with another seed. Both methods see the same
crops and flips of the same pictures in the same order, with the same numbers of steps and batch sizes: first at 32 px,
then at 64 px. LoRA is trained by train.py with configs/demo_half.yaml and configs/demo.yaml; the U-Net with
cross-entropy and AdamW, with the same schedules and its own learning rate: the one of --unet_learning_rates with the
best mean IoU on the held-out pictures for the first seed, which favours the U-Net. The table also has background
everywhere, and the truth painted, encoded and decoded, which LoRA cannot exceed. Existing results are reused.
"""

import argparse
import bisect
import statistics
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ablation import run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np
    import torch

NAMES = ["background", "fur", "hair", "feathers", "foliage", "lattice", "wires", "solids", "lettering"]
RECIPE = ROOT / "configs" / "recipes" / "classes.yaml"
SIZE = 64
WIDTHS = (16, 32, 64, 128)  # of the U-Net's levels above the lowest, whose width is fitted to the number of parameters
SHOWN = range(0, 16, 2)  # held-out pictures on the sheet: the first of each foreground


def render(folder: Path, count: int, seed: int, workers: int) -> Path:
    """Renders pairs of the recipe for classes, unless they exist."""
    if not (folder / "metadata.jsonl").is_file() or len((folder / "metadata.jsonl").read_text().splitlines()) < count:
        flags = ["--recipe", RECIPE, "--count", count, "--size", SIZE, "--seed", seed]
        run("-m", "synth_data", "render", *flags, "--workers", workers, "--output", folder)
    return folder


# ------------------------------------------------------------------------------------------------- LoRA


def stages(data: Path, seed: int, steps: tuple[int, int]) -> list[list[object]]:
    """The arguments of train.py in each of the two stages, without output and initial adapter."""
    common = ["--train_data_dir", data, "--target", "classes", "--class_names", f"[{','.join(NAMES)}]", "--seed", seed]
    configs = [ROOT / "configs" / name for name in ("demo_half.yaml", "demo.yaml")]
    return [
        ["--config", config, *common, "--max_train_steps", number]
        for config, number in zip(configs, steps, strict=True)
    ]


def train_lora(folder: Path, data: Path, seed: int, steps: tuple[int, int]) -> Path:
    """Trains the adapter of one seed, unless it exists."""
    first, second = stages(data, seed, steps)
    if not (folder / "half" / "adapter").is_dir():
        run("train.py", *first, "--output_dir", folder / "half")
    if not (folder / "full" / "adapter").is_dir():
        run("train.py", *second, "--output_dir", folder / "full", "--init_adapter", folder / "half" / "adapter")
    return folder / "full" / "adapter"


def draw_lora(folder: Path, adapter: Path, images: Path, samples: int) -> Path:
    """Class maps of an adapter, each a vote of `samples`, with their entropy if there are several."""
    if not (folder / "run.json").is_file():
        flags = ["--adapter", adapter, "--input", images, "--output", folder, "--seed", 0, "--batch_size", 16]
        flags += ["--output_uncertainty"] if samples > 1 else []
        run("infer.py", *flags, "--num_inference_steps", 4, "--ensemble_size", samples)
    return folder


def number_of_parameters(adapter: Path) -> int:
    from safetensors.torch import load_file

    return sum(value.numel() for value in load_file(adapter / "adapter_model.safetensors").values())


# ------------------------------------------------------------------------------------------------- U-Net


def plain_unet(lowest: int) -> "torch.nn.Module":
    """A U-Net (Ronneberger et al. 2015) with a quarter of the original widths.

    It maps images [B, 3, H, W] in [-1, 1] to logits [B, classes, H, W], H and W multiples of 16. Each level has two
    3x3 convolutions with batch normalisation; `lowest` is the width of the fifth level.
    """
    from torch import cat, nn

    def convolutions(before: int, after: int) -> nn.Sequential:
        layers = []
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [*WIDTHS, lowest]
            self.down = nn.ModuleList(convolutions(*pair) for pair in pairwise([3, *widths]))
            self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
            self.up = nn.ModuleList(convolutions(2 * width, width) for width in WIDTHS)
            self.out = nn.Conv2d(WIDTHS[0], len(NAMES), 1)

        def forward(self, image):
            passed = [self.down[0](image)]
            for level in self.down[1:]:
                passed.append(level(nn.functional.max_pool2d(passed[-1], 2)))
            below = passed.pop()
            for grow, up in zip(reversed(self.grow), reversed(self.up), strict=True):
                below = up(cat([passed.pop(), grow(below)], dim=1))
            return self.out(below)

    return UNet()


def fitted_unet(parameters: int, seed: int) -> "torch.nn.Module":
    """The U-Net whose number of parameters comes closest to `parameters`."""
    import torch

    def count(lowest: int) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in plain_unet(lowest).parameters())

    widths = range(8, 513)
    first = bisect.bisect_left(widths, parameters, key=count)  # of those with at least as many
    lowest = min(widths[max(first - 1, 0) : first + 1], key=lambda width: abs(count(width) - parameters))
    torch.manual_seed(seed)
    return plain_unet(lowest)


class Variants:
    """Pictures in the augmented variants that `LatentSource` would encode, with the same random draws."""

    def __init__(self, pictures, cached_variants: int, seed: int):
        self.pictures, self.cached_variants, self.seed = pictures, cached_variants, seed

    def order(self, *key: int) -> "torch.Tensor":
        return self.pictures.order(*key)

    def fetch(self, index: int, generator: "torch.Generator") -> dict[str, "torch.Tensor"]:
        import torch

        from sdseg.data.augmentation import PERMUTATION, draw_generator

        variant = torch.randint(self.cached_variants, (), generator=generator).item()
        return self.pictures.fetch(index, draw_generator(self.seed, PERMUTATION, index, variant))


def batches(arguments: list[object]) -> Iterator[dict[str, "torch.Tensor"]]:
    """The batches that train.py trains on with these arguments, one for each optimiser step."""
    import torch

    from sdseg.data import MicroBatches, TrainingStream
    from sdseg.training.config import parse_training_config
    from sdseg.training.data import open_data

    config = parse_training_config([*map(str, arguments), "--output_dir", "none"])
    pictures, _ = open_data(config)
    stream = TrainingStream(
        Variants(pictures, config.cached_variants, config.seed),
        len(pictures),
        seed=config.seed,
        latent_shape=(1, 4, 4),
        num_train_timesteps=1000,
        timestep_power=config.timestep_power,
        multires_noise_strength=0,
    )
    sampler = MicroBatches(0, config.max_train_steps, config.train_batch_size, 1, 1, 0)
    return iter(torch.utils.data.DataLoader(stream, batch_sampler=sampler))


def train_unet(folder: Path, data: Path, seed: int, steps: tuple[int, int], parameters: int, rate: float):
    """Trains the U-Net of one seed and learning rate, or loads it if it exists."""
    import torch
    from diffusers.optimization import get_scheduler
    from safetensors.torch import load_file, save_file
    from tqdm.auto import tqdm

    from sdseg.imaging import replacing
    from sdseg.targets import NO_CLASS

    network = fitted_unet(parameters, seed)
    file = folder / "unet.safetensors"
    if file.is_file():
        network.load_state_dict(load_file(file))
        return network.eval()
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-2)
    schedules = [("constant_with_warmup", 30), ("linear", 10)]  # as in the two configs
    for arguments, number, (kind, warmup) in zip(stages(data, seed, steps), steps, schedules, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
        schedule = get_scheduler(kind, optimizer, num_warmup_steps=min(warmup, number), num_training_steps=number)
        for batch in tqdm(batches(arguments), total=number, desc=f"U-Net, {rate:g}, seed {seed}", unit="step"):
            logits = network(batch["image"])
            truth = batch["classes"][:, 0].long()
            loss = torch.nn.functional.cross_entropy(logits, truth, ignore_index=NO_CLASS)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"U-Net, {rate:g}, seed {seed}: last loss {loss.item():.4f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file(network.state_dict(), partial)
    return network.eval()


# ------------------------------------------------------------------------------------------------- maps


def write_map(folder: Path, photo: Path, ids: "np.ndarray") -> None:
    """Writes class ids, integers [H, W], under the name of the photo."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(folder / photo.name)


def draw_unet(folder: Path, network: "torch.nn.Module", images: Path) -> Path:
    import torch

    from sdseg.imaging import image_to_tensor, list_images, read_image

    for photo in list_images(images):
        with torch.no_grad():
            write_map(folder, photo, network(image_to_tensor(read_image(photo)))[0].argmax(dim=0).numpy())
    return folder


def draw_background(folder: Path, images: Path) -> Path:
    import numpy as np

    from sdseg.imaging import list_images, read_image

    for photo in list_images(images):
        write_map(folder, photo, np.zeros(read_image(photo).shape[:2]))
    return folder


def draw_survivors(folder: Path, truths: Path) -> Path:
    """The truth, painted, encoded and decoded by the miniature's VAE, and read again."""
    import numpy as np
    import torch
    from diffusers import AutoencoderKL

    from sdseg.imaging import list_images
    from sdseg.model import EMBEDDED_BASE, decode_colour, encode_image
    from sdseg.targets import Target, nearest_class, paint

    vae, target = AutoencoderKL.from_pretrained(EMBEDDED_BASE, subfolder="vae"), Target("classes", tuple(NAMES))
    colours = np.array(list(target.painted(vae).values()), np.uint8)
    for truth in list_images(truths):
        with torch.no_grad():
            painted = paint(torch.from_numpy(target.read(truth))[None], colours)
            write_map(folder, truth, nearest_class(decode_colour(vae, encode_image(vae, painted)), colours)[0].numpy())
    return folder


def judge(maps: Path, truths: Path) -> dict:
    """Accuracy and mean IoU over all pixels, and the IoU of all subjects as one class."""
    import numpy as np
    from PIL import Image

    from sdseg.evaluation.evaluate import evaluate_folder
    from sdseg.imaging import list_images

    result = evaluate_folder(maps, truths, kind="classes", classes=NAMES, resamples=1)
    both = either = 0
    for truth in list_images(truths):
        predicted, wanted = (np.asarray(Image.open(folder / truth.name)) > 0 for folder in (maps, truths))
        both, either = both + (predicted & wanted).sum(), either + (predicted | wanted).sum()
    figures = {key: result["set"][key] for key in ("mean_iou", "accuracy")} | {"subject_iou": float(both / either)}
    return figures | {"iou": {row["name"]: row["iou"] for row in result["classes"] if row["true_pixels"]}}


def comparison(photos: list[Path], truths: Path, lora: Path, unet: Path) -> "np.ndarray":
    """For each photo a strip of photo, truth, LoRA, its entropy and U-Net; two columns of strips, uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image

    from sdseg.imaging import read_grey16, read_image
    from synth_data.drawing import sheet, tile

    palette = Image.open(lora / photos[0].name).getpalette()
    colours = np.array(palette, np.uint8).reshape(-1, 3)

    def strip(photo: Path) -> "np.ndarray":
        maps = [colours[np.asarray(Image.open(folder / photo.name))] for folder in (truths, lora, unet)]
        cells = [read_image(photo), *maps[:2], read_grey16(lora / f"{photo.stem}.uncertainty.png"), maps[2]]
        return np.concatenate([tile(cell, 2 * SIZE) for cell in cells], axis=1)

    strips = [strip(photo) for photo in photos]
    half = -(-len(strips) // 2)
    return sheet([strips[k::half] for k in range(half)], gap=8)


def table(results: dict[str, list[dict]]) -> str:
    """A Markdown table with a row for each method: means over seeds, and half the range of the mean IoU.

    Classes that no picture shows have no column.
    """
    from sdseg.evaluation.page import markdown_table

    def mean(values: list[float]) -> str:
        return f"{statistics.mean(values):.3f}".removeprefix("0")

    names = [name for name in NAMES if all(name in row["iou"] for rows in results.values() for row in rows)]
    lines = []
    for method, rows in results.items():
        ious = [row["mean_iou"] for row in rows]
        spread = f" ± {(max(ious) - min(ious)) / 2:.3f}".replace("0.", ".") if len(ious) > 1 else ""
        parameters = f"{rows[0]['parameters'] / 1e6:.2f} M" if "parameters" in rows[0] else ""
        cells = [mean([row["accuracy"] for row in rows]), mean([row["subject_iou"] for row in rows])]
        cells += [mean([row["iou"][name] for row in rows]) for name in names]
        lines.append([method, parameters, mean(ious) + spread, *cells])
    return markdown_table(["", "parameters", "mean IoU", "accuracy", "all subjects", *names], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--counts", nargs=2, type=int, default=[1200, 240], help="training and held-out pictures")
    parser.add_argument(
        "--steps", nargs=2, type=int, default=[300, 150], help="with batches of 64 at 32 px, of 32 at 64 px"
    )
    parser.add_argument("--unet_learning_rates", nargs="+", type=float, default=[3e-3, 1e-3, 1e-2])
    parser.add_argument("--samples", type=int, default=8, help="votes of LoRA, besides a single one (default 8)")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="JPEG of some predictions")
    options = parser.parse_args()

    from PIL import Image

    from sdseg.imaging import list_images
    from sdseg.outputs import write_json

    output, steps = options.output.resolve(), tuple(options.steps)
    train, held_out = (
        render(output / name, count, seed, options.workers)
        for name, count, seed in zip(("train", "held_out"), options.counts, (1, 2), strict=True)
    )
    images, truths = held_out / "images", held_out / "classes"
    results: dict[str, list[dict]] = {}

    def keep(method: str, maps: Path, **more: object) -> dict:
        row = more | judge(maps, truths)
        results.setdefault(method, []).append(row)
        write_json(output / "results.json", results)
        print(f"{method} {more}: mean IoU {row['mean_iou']:.4f}, accuracy {row['accuracy']:.4f}", flush=True)
        return row

    keep("background everywhere", draw_background(output / "background", images))
    keep("truth through the VAE", draw_survivors(output / "survivors", truths))
    best = None
    for seed in options.seeds:
        folder = output / f"lora_{seed}"
        adapter = train_lora(folder, train, seed, steps)
        parameters = number_of_parameters(adapter)
        for samples in (1, options.samples):
            name = f"LoRA, {samples} sample{'s' * (samples > 1)}"
            maps = draw_lora(folder / f"maps_{samples}", adapter, images, samples)
            keep(name, maps, seed=seed, parameters=parameters)
        tried = []
        for rate in [best] if best else options.unet_learning_rates:
            unet_folder = output / f"unet_{rate:g}_{seed}"
            network = train_unet(unet_folder, train, seed, steps, parameters, rate)
            own = sum(value.numel() for value in network.parameters())
            maps = draw_unet(unet_folder / "maps", network, images)
            row = keep(f"U-Net, {rate:g}", maps, seed=seed, parameters=own, learning_rate=rate)
            tried.append((row["mean_iou"], rate))
        best = best or max(tried)[1]
    print(table(results), flush=True)
    if options.sheet:
        first = options.seeds[0]
        photos = [photo for number, photo in enumerate(list_images(images)) if number in SHOWN]
        lora, unet = output / f"lora_{first}" / f"maps_{options.samples}", output / f"unet_{best:g}_{first}" / "maps"
        Image.fromarray(comparison(photos, truths, lora, unet)).save(options.sheet, quality=88)


if __name__ == "__main__":
    main()
