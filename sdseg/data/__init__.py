"""Pairs -> batches, every draw a pure function of (seed, epoch, position).

Pairs lie in folders, tar or parquet files or on the Hub, or are put together anew each time from foregrounds that
were rendered for that; several such sources may be mixed. A run sees one endless stream of samples: position p of epoch
e holds the pair that e's order puts at p. Rank, worker, batch size and accumulation only decide who fetches which
positions, so none of them changes what is trained on, and a resumed run goes on at the next position.
"""

from sdseg.data.augmentation import Augmentation, draw_generator, fit_pair, latent_valid, uniform
from sdseg.data.foregrounds import shared_foreground
from sdseg.data.latent_cache import LatentSource, encode_batch
from sdseg.data.pairs import DataError, PairFiles, find_pairs, is_on_the_fly, read_pair
from sdseg.data.sources import (
    Columns,
    MixedSource,
    PictureSource,
    RecomposedSource,
    RowSource,
    Source,
    StreamedSource,
    open_pictures,
)
from sdseg.data.stream import MicroBatches, TrainingStream

__all__ = [
    "Augmentation", "Columns", "DataError", "LatentSource", "MicroBatches", "MixedSource", "PairFiles",
    "PictureSource", "RecomposedSource", "RowSource", "Source", "StreamedSource", "TrainingStream", "draw_generator",
    "encode_batch", "find_pairs", "fit_pair", "is_on_the_fly", "latent_valid", "open_pictures", "read_pair",
    "shared_foreground", "uniform",
]  # fmt: skip
