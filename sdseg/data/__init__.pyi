from .augmentation import Augmentation, draw_generator, fit_pair, latent_valid, uniform
from .containers import Columns
from .foregrounds import shared_foreground
from .latent_cache import LatentSource, encode_batch
from .pairs import DataError, PairFiles, find_pairs, is_on_the_fly, read_pair
from .sources import (
    MixedSource,
    PictureSource,
    RecomposedSource,
    RowSource,
    Source,
    StreamedSource,
    open_pictures,
)
from .stream import MicroBatches, TrainingStream

__all__ = [
    "Augmentation", "Columns", "DataError", "LatentSource", "MicroBatches", "MixedSource", "PairFiles",
    "PictureSource", "RecomposedSource", "RowSource", "Source", "StreamedSource", "TrainingStream", "draw_generator",
    "encode_batch", "find_pairs", "fit_pair", "is_on_the_fly", "latent_valid", "open_pictures", "read_pair",
    "shared_foreground", "uniform",
]  # fmt: skip
