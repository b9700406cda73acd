"""The pairs of a run: opened, looked over, and those held out kept apart from those trained on."""

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

    places = config.train_data_dir if isinstance(config.train_data_dir, list) else [config.train_data_dir]
    target = open_target(config.target, config.class_names, places)
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
        find_pairs(config.validation_data_dir)  # says why not
    columns = Columns(config.image_column, column, config.validation_split)
    whole = Augmentation(False, 1)
    held_out = open_pictures(config.validation_data_dir, config.resolution, whole, columns=columns, target=target)
    refuse_overlap(pictures, held_out)
    for place in places:
        refuse_shared_foreground(place, config.validation_data_dir)
    return pictures, held_out


def refuse_overlap(pictures: Source, held_out: Source) -> None:
    """Validation on pictures that are trained on would say nothing."""
    for shared in sorted(pictures.files() & held_out.files())[:1]:
        raise ConfigError(f"validation_data_dir holds {shared}, which is also trained on; hold other pairs out")


def refuse_shared_foreground(training: str, validation: str) -> None:
    """A rendered foreground is known once trained on, before whatever background and in whichever folder it lies."""
    from sdseg.data import shared_foreground

    shared = shared_foreground(training, validation)
    if shared is not None:
        raise ConfigError(
            f"validation_data_dir {validation} shows the same foreground {shared} as train_data_dir {training}; "
            "render the validation set with another --seed"
        )
