"""The batches of a run: pairs, or their latents encoded once, in the order of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdseg.training.unreadable import pointing_to_the_doctor

if TYPE_CHECKING:
    import torch

    from sdseg.data import LatentSource, TrainingStream
    from sdseg.training.run import Run


def open_batches(run: Run, last_step: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """This process's micro-batches from the run's first step on, pixels or latents on the CPU.

    With `cache_latents` all pairs are encoded first; but for a dry run, which encodes what it tries.

    Args:
        last_step: before which the batches end; `max_train_steps` if None.
    """
    import torch

    from sdseg.data import MicroBatches

    config, accelerator = run.config, run.accelerator
    source = encoded_once(run) if config.cache_latents and not config.dry_run else run.pictures
    # The loader does not go through Accelerate: the stream already gives each process its own positions.
    loader = torch.utils.data.DataLoader(
        training_stream(run, source),
        batch_sampler=MicroBatches(
            run.first_step,
            config.max_train_steps if last_step is None else last_step,
            config.train_batch_size,
            config.gradient_accumulation_steps,
            accelerator.num_processes,
            accelerator.process_index,
        ),
        num_workers=config.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    return readable_batches(loader)


def readable_batches(loader: torch.utils.data.DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """The loader's batches, until a pair cannot be read: see `pointing_to_the_doctor`."""
    with pointing_to_the_doctor():
        yield from loader


def encoded_once(run: Run) -> LatentSource:
    """The latents of all pairs, in memory or in `latent_cache_dir`; the processes share the work there."""
    from tqdm.auto import tqdm

    from sdseg.data import LatentSource

    config, accelerator = run.config, run.accelerator

    def bar(shards, **kwargs):
        return tqdm(shards, disable=not accelerator.is_main_process, **kwargs)

    with pointing_to_the_doctor():
        return LatentSource(
            run.pictures,
            run.base.vae,
            config.cached_variants,
            config.seed,
            accelerator.device,
            bar,
            keep_pixels=config.pixel_loss_share > 0,
            latent_cache_dir=config.latent_cache_dir,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            colours=run.colours,
        )


def training_stream(run: Run, source) -> TrainingStream:
    """The endless stream of samples of a `Source` or `LatentSource`; an epoch is as long as there are pairs."""
    from sdseg.data import TrainingStream

    config, vae = run.config, run.base.vae
    size = config.resolution // run.base.vae_scale_factor
    return TrainingStream(
        source,
        len(run.pictures),
        seed=config.seed,
        latent_shape=(vae.config.latent_channels, size, size),
        num_train_timesteps=run.scheduler.config.num_train_timesteps,
        timestep_power=config.timestep_power,
        multires_noise_strength=config.multires_noise_strength,
        pixel_loss_share=config.pixel_loss_share,
    )
