from .augmentation import Augmentation
from .containers import Columns
from .foregrounds import shared_foreground
from .latent_cache import LatentSource, encode_batch
from .pairs import DataError, PairFiles, find_pairs, is_on_the_fly, read_pair
from .sources import MixedSource, PictureSource, RecomposedSource, Source, StreamedSource, open_pictures
from .stream import MicroBatches, TrainingStream

__all__ = [
    "Augmentation", "Columns", "DataError", "LatentSource", "MicroBatches", "MixedSource", "PairFiles",
    "PictureSource", "RecomposedSource", "Source", "StreamedSource", "TrainingStream", "encode_batch", "find_pairs",
    "is_on_the_fly", "open_pictures", "read_pair", "shared_foreground",
]  # fmt: skip
