"""The endless stream of training samples, and which process fetches which of its positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sdseg.data.augmentation import draw_generator, uniform
from sdseg.data.latent_cache import LatentSource
from sdseg.data.noise import annealed_noise
from sdseg.data.sources import Source


class TrainingStream(torch.utils.data.Dataset):
    """Item p is a pair with its time step and its noise, a pure function of (seed, p) for any p from 0 on.

    Items hold what `source.fetch` returns, `noise` float32 `latent_shape`, and the scalars `timestep`, `index` (of the
    pair) and `through_pixels` (whether the loss is taken on decoded pixels; then the time step is the last one).

    Args:
        size: positions in an epoch.
        latent_shape: (channels, height, width).
        timestep_power: t = T · u^(1 / power) with u ~ U(0, 1): 1 is uniform, more prefers noisy steps.
        pixel_loss_share: probability of `through_pixels`.
    """

    def __init__(
        self,
        source: Source | LatentSource,
        size: int,
        *,
        seed: int,
        latent_shape: tuple[int, int, int],
        num_train_timesteps: int,
        timestep_power: float,
        multires_noise_strength: float,
        pixel_loss_share: float = 0.0,
    ):
        self.source, self.size, self.seed = source, size, seed
        self.pixel_loss_share = pixel_loss_share
        self.timestep_power = timestep_power
        self.latent_shape, self.num_train_timesteps = latent_shape, num_train_timesteps
        self.multires_noise_strength = multires_noise_strength
        self._order = (-1, torch.empty(0))

    def index_at(self, position: int) -> tuple[int, int, int]:
        """(epoch, position in the epoch, index of the pair)."""
        epoch, epoch_position = divmod(position, self.size)
        if self._order[0] != epoch:
            self._order = (epoch, self.source.order(self.seed, epoch))
        return epoch, epoch_position, int(self._order[1][epoch_position])

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        epoch, epoch_position, index = self.index_at(position)
        generator = draw_generator(self.seed, epoch, epoch_position)
        timestep = int(self.num_train_timesteps * uniform(0, 1, generator) ** (1 / self.timestep_power))
        pixel_generator = draw_generator(self.seed, epoch, epoch_position, 1)
        through_pixels = uniform(0, 1, pixel_generator) < self.pixel_loss_share
        if through_pixels:
            timestep = self.num_train_timesteps - 1
        item = self.source.fetch(index, generator)
        noise = annealed_noise(
            self.latent_shape, timestep, self.num_train_timesteps, self.multires_noise_strength, generator
        )
        scalars = {"timestep": timestep, "index": index, "through_pixels": through_pixels}
        return item | {"noise": noise} | {key: torch.tensor(value) for key, value in scalars.items()}


@dataclass(frozen=True)
class MicroBatches:
    """A batch sampler for `DataLoader`: the stream positions of this process, a list for each forward pass.

    Optimiser step s covers positions [s·G, (s+1)·G), where G = gradient_accumulation_steps · num_processes ·
    train_batch_size is the global batch; steps run from `first_step` to `last_step`, the latter excluded.
    """

    first_step: int
    last_step: int
    train_batch_size: int
    gradient_accumulation_steps: int
    num_processes: int
    process_index: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            for micro in range(self.gradient_accumulation_steps):
                block = (step * self.gradient_accumulation_steps + micro) * self.num_processes + self.process_index
                yield list(range(block * self.train_batch_size, (block + 1) * self.train_batch_size))

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.gradient_accumulation_steps
