from .augmentation import Augmentation, draw_generator
from .containers import Columns
from .foregrounds import shared_foreground
from .latent_cache import LatentSource, encode_batch
from .pairs import DataError, PairError, PairFiles, find_pairs, is_on_the_fly, look_for_pairs, read_pair
from .sources import MixedSource, PictureSource, RecomposedSource, Source, StreamedSource, open_pictures, readable
from .stream import MicroBatches, TrainingStream

__all__ = [
    "Augmentation", "Columns", "DataError", "LatentSource", "MicroBatches", "MixedSource", "PairError", "PairFiles",
    "PictureSource", "RecomposedSource", "Source", "StreamedSource", "TrainingStream", "draw_generator", "encode_batch",
    "find_pairs", "is_on_the_fly", "look_for_pairs", "open_pictures", "read_pair", "readable", "shared_foreground",
]  # fmt: skip
