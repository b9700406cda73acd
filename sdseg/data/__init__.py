"""Pairs in (folders, tar or parquet files, Hub data sets, rendered foregrounds), training batches out, each with its
noise and time steps: see `open_pictures`, `LatentSource`, `TrainingStream` and `MicroBatches`, in this order.

A run sees one endless stream of samples, and every random draw is a pure function of (seed, epoch, position in it).
Rank, worker, batch size and accumulation only decide who fetches which positions, so none of them changes what is
trained on, and a resumed run continues at the next position.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
