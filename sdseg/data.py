"""Pairs -> batches, every draw a pure function of (seed, epoch, position).

Pairs lie on disk, or are put together anew each time from foregrounds that were rendered for that. A run sees one
endless stream of samples: position p of epoch e holds the pair that e's permutation puts at p. Rank, worker, batch
size and accumulation only decide who fetches which positions, so none of them changes what is trained on, and a
resumed run goes on at the next position.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdseg.imaging import ImageError, alpha_to_tensor, image_to_tensor, list_images, read_alpha, read_image
from sdseg.model import encode_alpha, encode_image
from sdseg.noise import annealed_noise

PERMUTATION = 2**32 - 1  # stands in for a position when an epoch's order is drawn

# keys of a recipe that say nothing about which subjects are seen, from where and in what light
BESIDE_THE_FOREGROUND = {
    "name", "target", "compositing", "composites_per_foreground", "samples_per_pixel", "max_depth", "background",
    "exposure", "capture", "recompose", "photos",
}  # fmt: skip


class DataError(ValueError):
    """A data set that cannot be trained on; one line that names the file and the remedy."""


@dataclass(frozen=True)
class PairFiles:
    """Where one pair lies."""

    name: str  # the image's path below the data folder, as logs and errors name the sample
    image: Path
    alpha: Path


# ---------------------------------------------------------------------------------------------- files


def is_on_the_fly(directory: str | Path) -> bool:
    """Whether a folder holds foregrounds to be recombined in training (see `synth_data.recompose`)."""
    record = Path(directory) / "render.json"
    try:
        return record.is_file() and json.loads(record.read_text("utf-8")).get("compositing") == "on_the_fly"
    except (ValueError, AttributeError) as error:
        raise DataError(f"{record} is not what `python -m synth_data render` writes ({error}); render again") from error


def find_pairs(directory: str | Path) -> list[PairFiles]:
    """The pairs of a folder: by `metadata.jsonl` (`file_name`, `alpha_file_name`), else images/* with alpha/*.png.

    Raises:
        DataError: no such folder, no pairs, an image without its alpha, or foregrounds to be recombined.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"data folder {directory} does not exist; render one with `python -m synth_data render`")
    if is_on_the_fly(directory):
        raise DataError(
            f"data folder {directory} was rendered with compositing: on_the_fly, which is for training; give pairs "
            "that stay the same here, rendered with compositing: disk"
        )
    if (directory / "metadata.jsonl").is_file():
        pairs = list(_listed_pairs(directory))
    elif (directory / "images").is_dir():
        pairs = [
            PairFiles(str(image.relative_to(directory)), image, directory / "alpha" / f"{image.stem}.png")
            for image in list_images(directory / "images")
        ]
    else:
        raise DataError(f"data folder {directory} has neither metadata.jsonl nor images/ with alpha/ beside it")
    if not pairs:
        raise DataError(f"data folder {directory} holds no pairs")
    for pair in pairs:
        for kind, path in (("image", pair.image), ("alpha", pair.alpha)):
            if not path.is_file():
                raise DataError(f"{kind} of {pair.name} is missing: no file {path}; add it or remove the pair")
    return pairs


def _listed_pairs(directory: Path) -> Iterator[PairFiles]:
    with open(directory / "metadata.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name, alpha = row["file_name"], row["alpha_file_name"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{directory / 'metadata.jsonl'} line {number}: every line is a JSON object with file_name "
                    f"and alpha_file_name ({error!r})"
                ) from error
            yield PairFiles(name, directory / name, directory / alpha)


def shared_foreground(one: str | Path, other: str | Path) -> int | None:
    """The lowest number of a foreground that two rendered folders both show; None where they share none.

    One seed, one recipe (apart from `BESIDE_THE_FOREGROUND`) and one number make one foreground, whatever its
    background, file name, picture size or noise. Folders without the records of `python -m synth_data render` share
    none.

    Raises:
        ValueError: a record that cannot be read.
    """
    origin = _origin(Path(one))
    if origin is None or origin != _origin(Path(other)):
        return None
    return min(_foregrounds(Path(one)) & _foregrounds(Path(other)), default=None)


def _origin(directory: Path) -> tuple[int, dict] | None:
    """Seed and recipe of a rendered folder's foregrounds; None where they are not recorded."""
    import yaml

    from synth_data.store import read_settings

    if not all((directory / name).is_file() for name in ("render.json", "recipe.yaml", "metadata.jsonl")):
        return None
    settings = read_settings(directory)
    try:
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text("utf-8"))
        kept = {key: value for key, value in recipe.items() if key not in BESIDE_THE_FOREGROUND}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{directory / 'recipe.yaml'} is not the recipe that `python -m synth_data render` wrote ({error!r}); "
            "render again"
        ) from error
    return (settings["seed"], kept) if "seed" in settings else None


def _foregrounds(directory: Path) -> set[int]:
    """The numbers of a rendered folder's foregrounds, as its samples record them."""
    from synth_data.store import read_rows

    recorded = (json.loads(row["factors"]) for _, row in read_rows(directory) if row is not None)
    return {factors["foreground"] for factors in recorded if "foreground" in factors}


def check_pairs(pairs: list[PairFiles], looked_into: int = 512) -> list[str]:
    """Compare the sizes of all pairs, and look into the mattes of up to `looked_into` evenly spaced ones.

    Returns:
        Warnings, one line each with counts: mattes that are empty, full, or hold nothing but 0 and 1.

    Raises:
        DataError: a picture that cannot be read, or an alpha of another size than its image.
    """
    from PIL import Image

    for pair in pairs:
        sizes = []
        for path in (pair.image, pair.alpha):
            try:
                with Image.open(path) as picture:
                    turned = picture.getexif().get(0x0112, 1) >= 5
                    sizes.append(picture.size[::-1] if turned else picture.size)
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}); render or copy it again") from error
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{pair.name} is {sizes[0][0]}x{sizes[0][1]} but its alpha {pair.alpha} is "
                f"{sizes[1][0]}x{sizes[1][1]}; both must have one size"
            )
    return matte_warnings(read_pair(pair)[1] for pair in pairs[:: max(1, len(pairs) // looked_into)])


def matte_warnings(mattes: Iterable[np.ndarray]) -> list[str]:
    """One line, with counts, for each reason to doubt mattes float32 [H, W]."""
    looked_into = empty = full = binary = 0
    for alpha in mattes:
        looked_into += 1
        empty += alpha.max() == 0
        full += alpha.min() == 1
        binary += 0 < alpha.mean() < 1 and bool(((alpha == 0) | (alpha == 1)).all())
    reasons = {
        "are empty (all 0)": empty,
        "are full (all 1)": full,
        "hold nothing but 0 and 1: a matting model trained on binary masks loses hair and glass": binary,
    }
    return [f"{count} of {looked_into} mattes looked into {reason}" for reason, count in reasons.items() if count]


def read_pair(pair: PairFiles) -> tuple[np.ndarray, np.ndarray]:
    """One pair as uint8 [H, W, 3] sRGB and float32 [H, W] in [0, 1]; DataError where it cannot be read."""
    try:
        image, alpha = read_image(pair.image), read_alpha(pair.alpha)
    except ImageError as error:
        raise DataError(str(error)) from error
    if image.shape[:2] != alpha.shape:
        raise DataError(
            f"{pair.name} is {image.shape[1]}x{image.shape[0]} but its alpha {pair.alpha} is "
            f"{alpha.shape[1]}x{alpha.shape[0]}; both must have one size"
        )
    return image, alpha


# ---------------------------------------------------------------------------------------------- draws


def draw_generator(*key: int) -> torch.Generator:
    """A CPU generator that is a pure function of `key`, such as (seed, epoch, position)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


# ---------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Augmentation:
    """A random crop that keeps the picture's shape, and a random mirror."""

    random_flip: bool
    min_crop_scale: float  # smallest side of a crop, as a share of the picture's; 1 keeps the whole picture


def fit_pair(
    image: np.ndarray,
    alpha: np.ndarray,
    resolution: int,
    augmentation: Augmentation,
    generator,
) -> dict[str, torch.Tensor]:
    """Crop, mirror, and fit a pair into a square of `resolution` pixels; the rest of the square is not valid.

    Both are resampled with Pillow's antialiased bilinear filter, which has no negative lobes.

    Args:
        generator: source of the crop and the mirror; three draws and one.

    Returns:
        `image` [3, R, R] in [-1, 1], `alpha` [1, R, R] in [0, 1], `valid` bool [1, R, R].
    """
    from PIL import Image

    height, width = alpha.shape
    scale = uniform(augmentation.min_crop_scale, 1, generator)
    left = uniform(0, width * (1 - scale), generator)
    top = uniform(0, height * (1 - scale), generator)
    flip = augmentation.random_flip and torch.rand((), generator=generator).item() < 0.5
    box = (left, top, min(width, left + width * scale), min(height, top + height * scale))
    longer = max(height, width)
    size = [max(1, round(side * resolution / longer)) for side in (width, height)]

    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))
    alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BILINEAR, box=box))
    if flip:
        image, alpha = image[:, ::-1], alpha[:, ::-1]
    rest = ((0, resolution - size[1]), (0, resolution - size[0]))
    valid = np.pad(np.ones(alpha.shape, bool), rest)
    return {
        "image": image_to_tensor(np.pad(image, (*rest, (0, 0)), mode="edge"))[0],
        "alpha": alpha_to_tensor(np.pad(alpha, rest, mode="edge").clip(0, 1))[0],
        "valid": torch.from_numpy(valid)[None],
    }


def latent_valid(valid: torch.Tensor, factor: int) -> torch.Tensor:
    """bool [B, 1, H, W] => bool [B, 1, H/f, W/f]: latent positions whose pixels all count."""
    return -torch.nn.functional.max_pool2d(-valid.float(), factor) > 0.5


class PictureSource:
    """Pairs read and augmented afresh each time: items hold pixels."""

    recipe, photos = "", ()  # all that decides the pictures lies in the pairs' files

    def __init__(self, pairs: list[PairFiles], resolution: int, augmentation: Augmentation):
        self.pairs, self.resolution, self.augmentation = pairs, resolution, augmentation

    def check(self) -> list[str]:
        """`check_pairs` of its pairs."""
        return check_pairs(self.pairs)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        image, alpha = read_pair(self.pairs[index])
        return fit_pair(image, alpha, self.resolution, self.augmentation, generator)


class RecomposedSource:
    """Foregrounds put into another picture each time: items hold pixels, and an epoch is as long as there are
    foregrounds. `pairs` name each foreground's file, and in the alpha's place the background that lies beside it;
    `photos` say what lies in each place that photos are drawn from."""

    def __init__(self, directory: str | Path, resolution: int, augmentation: Augmentation):
        import yaml

        from synth_data.recompose import Recomposer
        from synth_data.store import digest

        self.recomposer = Recomposer(directory)
        folder = Path(directory)
        self.pairs = [
            PairFiles(row["file_name"], folder / row["file_name"], folder / row["background_file_name"])
            for row in self.recomposer.rows
        ]
        self.recipe = (folder / "recipe.yaml").read_text("utf-8")
        count = self.recomposer.sources.number_of_photos  # all that tells of a data set on the Hub
        places = yaml.safe_load(self.recipe).get("photos", []) if count else []
        self.photos = [f"{place} {digest(place)} {count}" for place in places]
        self.resolution, self.augmentation = resolution, augmentation

    def check(self, looked_into: int = 32) -> list[str]:
        """Puts up to `looked_into` evenly spaced foregrounds into pictures, and looks into their mattes.

        Raises:
            ValueError: a file that cannot be read.
        """
        chosen = range(0, len(self.pairs), max(1, len(self.pairs) // looked_into))
        return matte_warnings(self.recomposer.pair(index, np.random.default_rng(index)).alpha for index in chosen)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        seed = torch.randint(2**63 - 1, (), generator=generator).item()
        pair = self.recomposer.pair(index, np.random.default_rng(seed))
        return fit_pair(pair.image, pair.alpha, self.resolution, self.augmentation, generator)


def open_pictures(
    directory: str | Path, resolution: int, augmentation: Augmentation
) -> PictureSource | RecomposedSource:
    """The pairs of a folder, as they lie there or put together on the fly; raises as `find_pairs`, and ValueError."""
    if is_on_the_fly(directory):
        return RecomposedSource(directory, resolution, augmentation)
    return PictureSource(find_pairs(directory), resolution, augmentation)


class LatentSource:
    """Pairs encoded once, each in a fixed number of augmented variants: items hold latents, kept in memory, and
    with `keep_pixels` the mattes they come from."""

    def __init__(
        self,
        pictures: PictureSource | RecomposedSource,
        vae,
        variants: int,
        seed: int,
        device,
        progress,
        batch_size: int = 64,
        keep_pixels: bool = False,
    ):
        self.variants = variants
        draws = [(index, variant) for index in range(len(pictures.pairs)) for variant in range(variants)]
        kept = ["image_latents", "matte_latents", "latent_valid", *(("alpha", "valid") if keep_pixels else ())]
        parts = {key: [] for key in kept}
        for start in progress(range(0, len(draws), batch_size), desc="encoding pairs", unit="batch"):
            fitted = [
                pictures.fetch(index, draw_generator(seed, PERMUTATION, index, variant))
                for index, variant in draws[start : start + batch_size]
            ]
            encoded = encode_batch({key: torch.stack([item[key] for item in fitted]) for key in fitted[0]}, vae, device)
            for key in kept:
                parts[key].append(encoded[key].cpu())
        self.latents = {key: torch.cat(values) for key, values in parts.items()}

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        variant = torch.randint(self.variants, (), generator=generator).item()
        return {key: values[index * self.variants + variant] for key, values in self.latents.items()}


def encode_batch(batch: dict[str, torch.Tensor], vae, device) -> dict[str, torch.Tensor]:
    """A Batch of pixels and `image_latents`, `matte_latents` float32 [B, 4, h, w], `latent_valid` bool [B, 1, h, w]."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    batch = {key: values.to(device) for key, values in batch.items()}
    return batch | {
        "image_latents": encode_image(vae, batch["image"]).float(),
        "matte_latents": encode_alpha(vae, batch["alpha"]).float(),
        "latent_valid": latent_valid(batch["valid"], factor),
    }


class TrainingStream(torch.utils.data.Dataset):
    """Item p of the endless stream: a pair with its time step and its noise, a pure function of (seed, p)."""

    def __init__(
        self,
        source: PictureSource | RecomposedSource | LatentSource,
        size: int,
        *,
        seed: int,
        latent_shape: tuple[int, int, int],
        num_train_timesteps: int,
        timestep_power: float,
        noise_strength: float,
        pixel_loss_share: float = 0.0,
    ):
        self.source, self.size, self.seed = source, size, seed
        self.pixel_loss_share = pixel_loss_share
        self.timestep_power = timestep_power
        self.latent_shape, self.num_train_timesteps = latent_shape, num_train_timesteps
        self.noise_strength = noise_strength
        self._order = (-1, torch.empty(0))

    def index_at(self, position: int) -> tuple[int, int, int]:
        """(epoch, position within it, index of the pair)."""
        epoch, place = divmod(position, self.size)
        if self._order[0] != epoch:
            order = torch.randperm(self.size, generator=draw_generator(self.seed, epoch, PERMUTATION))
            self._order = (epoch, order)
        return epoch, place, int(self._order[1][place])

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        epoch, place, index = self.index_at(position)
        generator = draw_generator(self.seed, epoch, place)
        timestep = int(self.num_train_timesteps * uniform(0, 1, generator) ** (1 / self.timestep_power))
        through_pixels = uniform(0, 1, draw_generator(self.seed, epoch, place, 1)) < self.pixel_loss_share
        if through_pixels:
            timestep = self.num_train_timesteps - 1
        item = self.source.fetch(index, generator)
        noise = annealed_noise(self.latent_shape, timestep, self.num_train_timesteps, self.noise_strength, generator)
        numbers = {"timestep": timestep, "index": index, "through_pixels": through_pixels}
        return item | {"noise": noise} | {key: torch.tensor(value) for key, value in numbers.items()}


@dataclass(frozen=True)
class MicroBatches:
    """Stream positions of this process, a list for each forward pass: a batch sampler for `DataLoader`.

    Optimiser step s covers positions [s·G, (s+1)·G), G = accumulation · processes · per-device batch.
    """

    first_step: int
    last_step: int
    batch_size: int
    accumulation: int
    processes: int
    rank: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            for micro in range(self.accumulation):
                block = (step * self.accumulation + micro) * self.processes + self.rank
                yield list(range(block * self.batch_size, (block + 1) * self.batch_size))

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.accumulation
