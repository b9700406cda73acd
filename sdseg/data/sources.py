"""Where pixels come from: pairs that lie on disk, or are put together anew each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sdseg.data.augmentation import Augmentation, fit_pair
from sdseg.data.checks import check_pairs, matte_warnings
from sdseg.data.pairs import PairFiles, find_pairs, is_on_the_fly, read_pair


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
