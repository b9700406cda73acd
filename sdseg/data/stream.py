"""The endless stream of samples, and who fetches which of its positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sdseg.data.augmentation import draw_generator, uniform
from sdseg.data.latent_cache import LatentSource
from sdseg.data.noise import annealed_noise
from sdseg.data.sources import Source


class TrainingStream(torch.utils.data.Dataset):
    """Item p of the endless stream: a pair with its time step and its noise, a pure function of (seed, p)."""

    def __init__(
        self,
        source: Source | LatentSource,
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
            self._order = (epoch, self.source.order(self.seed, epoch))
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
