"""Pairs -> batches, every draw a pure function of (seed, epoch, position).

Pairs lie in folders, tar or parquet files or on the Hub, or are put together anew each time from foregrounds that
were rendered for that; several such sources may be mixed. A run sees one endless stream of samples: position p of epoch
e holds the pair that e's order puts at p. Rank, worker, batch size and accumulation only decide who fetches which
positions, so none of them changes what is trained on, and a resumed run goes on at the next position.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
