"""The pairs of a run: opens them, and keeps those held out apart from those trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdseg.targets import open_target
from sdseg.training.config import ConfigError, TrainingConfig

if TYPE_CHECKING:
    from sdseg.data import Source


def open_data(config: TrainingConfig) -> tuple[Source, Source | None]:
    """The pairs to train on, and those held out or None; no weight is loaded and nothing written.

    Raises:
        UserError: see `sdseg.data.open_pictures`; or both hold the same pictures.
    """
    from sdseg.data import Augmentation, Columns, find_pairs, is_on_the_fly, open_pictures

    data_dirs = config.train_data_dir if isinstance(config.train_data_dir, list) else [config.train_data_dir]
    target = open_target(config.target, config.class_names, data_dirs)
    column = config.target if config.alpha_column == "alpha" else config.alpha_column
    pictures = open_pictures(
        config.train_data_dir,
        config.resolution,
        Augmentation(config.random_flip, config.min_crop_scale),
        weights=config.train_data_weights,
        columns=Columns(config.image_column, column, config.train_split),
        streaming=config.streaming,
        shuffle_buffer_size=config.shuffle_buffer_size,
        target=target,
    )
    if not config.validation_data_dir:
        return pictures, None
    if is_on_the_fly(config.validation_data_dir):
        find_pairs(config.validation_data_dir)  # raises, and says why
    columns = Columns(config.image_column, column, config.validation_split)
    whole = Augmentation(False, 1)
    held_out = open_pictures(config.validation_data_dir, config.resolution, whole, columns=columns, target=target)
    refuse_overlap(pictures, held_out)
    for data_dir in data_dirs:
        refuse_shared_foreground(data_dir, config.validation_data_dir)
    return pictures, held_out


def refuse_overlap(pictures: Source, held_out: Source) -> None:
    """Raises ConfigError where pairs are both trained and validated on."""
    for shared in sorted(pictures.files() & held_out.files())[:1]:
        raise ConfigError(f"validation_data_dir holds {shared}, which is also trained on; hold other pairs out")


def refuse_shared_foreground(training: str, validation: str) -> None:
    """Raises ConfigError where a rendered foreground is in both sets, whatever its background and file."""
    from sdseg.data import shared_foreground

    shared = shared_foreground(training, validation)
    if shared is not None:
        raise ConfigError(
            f"validation_data_dir {validation} shows the same foreground {shared} as train_data_dir {training}; "
            "render the validation set with another --seed"
        )
