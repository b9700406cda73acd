"""Where pixels come from: folders, tar and parquet files, Hub sets, foregrounds put together anew; alone or mixed."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from sdseg.data.augmentation import PERMUTATION, Augmentation, draw_generator, fit_pair
from sdseg.data.containers import Columns, ParquetRows, Rows, TarRows, load_rows, of_split, parquet_files
from sdseg.data.pairs import DataError, PairFiles, find_pairs, is_on_the_fly, read_pair
from sdseg.targets import Target


class Source:
    """Pairs by index. Subclasses give `pairs` (one `PairFiles` an index) and `read`; items hold pixels."""

    place: str  # as the user named it
    resolution: int
    augmentation: Augmentation
    pairs: Sequence[PairFiles]
    target: Target = Target()
    recipe, photos = "", ()  # of foregrounds put together anew: what else decides the pictures

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """How logs and errors name the pair."""
        return self.pairs[index].name

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] sRGB and a truth [H, W] as `Target.read` gives it, not augmented; DataError where they cannot
        be read."""
        return read_pair(self.pairs[index], self.target)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A pair as `fit_pair` gives it, augmented by draws of `generator`."""
        image, alpha = self.read(index)
        return fit_pair(image, alpha, self.resolution, self.augmentation, generator)

    def order(self, *key: int) -> torch.Tensor:
        """The indices in the order of one epoch, int64 [len]; `key` is (seed, epoch)."""
        return torch.randperm(len(self), generator=draw_generator(*key, PERMUTATION))

    def sizes(self) -> Iterable[str]:
        """A line for each pair, that changes when its name or the size of one of its files does."""
        for pair in self.pairs:
            yield f"{pair.name} {pair.image.stat().st_size} {pair.alpha.stat().st_size}"

    def digest(self) -> str:
        """Changes when pairs are added, removed, renamed or differ in file size, with the recipe, and with photos."""
        digest = hashlib.sha256(self.recipe.encode())
        for line in self.photos:
            digest.update(f"{line}\n".encode())
        if self.target != Target():
            digest.update(f"{self.target}\n".encode())
        for line in self.sizes():
            digest.update(f"{line}\n".encode())
        return digest.hexdigest()[:16]

    def files(self) -> set[str]:
        """What the pairs lie in; two sources that share one of them share pairs."""
        return {str(pair.image.resolve()) for pair in self.pairs}


class PictureSource(Source):
    """Pairs of a folder, read and augmented afresh each time."""

    def __init__(self, pairs: list[PairFiles], resolution: int, augmentation: Augmentation, place: str = ""):
        self.pairs, self.resolution, self.augmentation, self.place = pairs, resolution, augmentation, place


class RecomposedSource(Source):
    """Foregrounds put into another picture each time; an epoch is as long as there are foregrounds.

    `pairs` name each foreground's file, and in the alpha's place the background that lies beside it; `photos` say what
    lies in each place that photos are drawn from.
    """

    def __init__(self, directory: str | Path, resolution: int, augmentation: Augmentation):
        import yaml

        from synth_data.recompose import Recomposer
        from synth_data.store import digest

        self.recomposer = Recomposer(directory)
        folder, self.place = Path(directory), str(directory)
        self.pairs = [
            PairFiles(row["file_name"], folder / row["file_name"], folder / row["background_file_name"])
            for row in self.recomposer.rows
        ]
        self.recipe = (folder / "recipe.yaml").read_text("utf-8")
        count = self.recomposer.sources.number_of_photos  # all that tells of a data set on the Hub
        places = yaml.safe_load(self.recipe).get("photos", []) if count else []
        self.photos = [f"{place} {digest(place)} {count}" for place in places]
        self.resolution, self.augmentation = resolution, augmentation

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The foreground in one picture, always the same."""
        return self._put_together(index, np.random.default_rng(index))

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        seed = torch.randint(2**63 - 1, (), generator=generator).item()
        image, alpha = self._put_together(index, np.random.default_rng(seed))
        return fit_pair(image, alpha, self.resolution, self.augmentation, generator)

    def _put_together(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pair = self.recomposer.pair(index, rng)
        return pair.image, self.target.of_pair(pair)


class RowSource(Source):
    """Pairs out of tar or parquet files or a set of the Hub."""

    def __init__(self, rows: Rows, resolution: int, augmentation: Augmentation, place: str):
        self.rows = self.pairs = rows
        self.resolution, self.augmentation, self.place = resolution, augmentation, place

    def name(self, index: int) -> str:
        return self.rows.name(index)

    def sizes(self) -> Iterable[str]:
        return self.rows.sizes()

    def files(self) -> set[str]:
        return self.rows.files()


class StreamedSource(RowSource):
    """Pairs out of parquet files that are never copied, unpacked or downloaded as a whole.

    Reading is quick only where neighbours are read together. So an epoch's order permutes the row groups, and after
    that shuffles within windows of `window` pairs. Position p is still a pure function of (seed, epoch, p), known from
    the files' footers: a resumed run reads nothing of what it has seen.
    """

    def __init__(self, rows: ParquetRows, resolution: int, augmentation: Augmentation, place: str, window: int):
        super().__init__(rows, resolution, augmentation, place)
        self.window = window
        rows.keep = window + 2 * max(group.count for group in rows.groups)  # whole groups, and one cut at each end

    def order(self, *key: int) -> torch.Tensor:
        generator = draw_generator(*key, PERMUTATION)
        groups = [self.rows.groups[place] for place in torch.randperm(len(self.rows.groups), generator=generator)]
        walk = torch.cat([torch.arange(group.first, group.first + group.count) for group in groups])
        windows = walk.split(self.window)
        return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in windows])


class MixedSource(Source):
    """Several sources as one: index i counts through them in turn.

    An epoch has as many positions as all sources have pairs; source k gets its weight's share of them, the same number
    in every epoch, at places drawn by (seed, epoch). Each source goes through its own pairs in its own epochs, none of
    them twice before all were seen once.
    """

    def __init__(self, sources: list[Source], weights: list[float] | None):
        self.sources, self.weights = sources, weights
        self.resolution, self.augmentation = sources[0].resolution, sources[0].augmentation
        self.place = ", ".join(source.place for source in sources)
        self.first = [0, *accumulate(len(source) for source in sources)]
        self.shares = shares([len(source) for source in sources], weights)

    def __len__(self) -> int:
        return self.first[-1]

    def _within(self, index: int) -> tuple[Source, int]:
        which = bisect_right(self.first, index) - 1
        return self.sources[which], index - self.first[which]

    def name(self, index: int) -> str:
        source, within = self._within(index)
        return f"{source.place}: {source.name(within)}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        source, within = self._within(index)
        return source.read(within)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        source, within = self._within(index)
        return source.fetch(within, generator)

    def order(self, seed: int, epoch: int) -> torch.Tensor:
        labels = torch.repeat_interleave(torch.arange(len(self.sources)), torch.tensor(self.shares))
        labels = labels[torch.randperm(len(labels), generator=draw_generator(seed, epoch, PERMUTATION))]
        order = torch.empty(len(labels), dtype=torch.int64)
        for k, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
            begin, end = epoch * share, (epoch + 1) * share  # of the endless walk through this source
            own = range(begin // len(source), -(-end // len(source)))
            walk = torch.cat([source.order(seed, k, own_epoch) for own_epoch in own])
            skipped = own.start * len(source)
            order[labels == k] = walk[begin - skipped : end - skipped] + self.first[k]
        return order

    def sizes(self) -> Iterable[str]:
        yield json.dumps(self.weights)
        for source in self.sources:
            yield source.digest()

    def files(self) -> set[str]:
        return set().union(*(source.files() for source in self.sources))


def shares(sizes: list[int], weights: list[float] | None) -> list[int]:
    """How many of sum(sizes) positions each source gets: by weight (largest remainders), at least one each."""
    total = sum(sizes)
    wanted = [total * weight / sum(weights) for weight in weights] if weights else sizes
    given = [max(1, int(share)) for share in wanted]
    by_remainder = sorted(range(len(sizes)), key=lambda k: given[k] - wanted[k])
    for k in by_remainder[: total - sum(given)]:
        given[k] += 1
    while sum(given) > total:  # where a share below one was rounded up
        given[given.index(max(given))] -= 1
    return given


def open_pictures(
    places: str | Path | Sequence[str | Path],
    resolution: int,
    augmentation: Augmentation,
    *,
    weights: list[float] | None = None,
    columns: Columns = Columns(),  # noqa: B008
    streaming: bool = False,
    window: int = 512,
    target: Target = Target(),  # noqa: B008
) -> Source:
    """The pairs of one place, or of several mixed.

    A place is a folder of pictures, of foregrounds to be put together on the fly, of tar files (webdataset) or of
    parquet files; or a set on the Hub, `owner/name` or `owner/name@revision`.

    Args:
        weights: how often pairs of each place are seen, relative to each other; in proportion to their numbers if None.
        streaming: read parquet files in place, here or on the Hub, rather than from a copy on disk.
        window: of how many neighbours the order is shuffled where `streaming` reads parquet files.
        target: what the truths are; mattes if not said.

    Raises:
        DataError, UserError: a place that holds no pairs, or damaged ones.
    """
    words = dict(columns=columns, streaming=streaming, window=window)
    if isinstance(places, (str, Path)):
        places = [places]
    sources = [_open_place(str(place), resolution, augmentation, **words) for place in places]
    for place in {source.place for source in sources}:
        if sum(source.place == place for source in sources) > 1:
            raise DataError(f"train_data_dir names {place} twice; name it once, with a larger weight")
    source = sources[0] if len(sources) == 1 else MixedSource(sources, weights)
    for one in {source, *sources}:
        one.target = target
    return source


def _open_place(
    place: str, resolution: int, augmentation: Augmentation, *, columns: Columns, streaming: bool, window: int
) -> Source:
    folder = Path(place)
    if is_on_the_fly(folder) and (folder / "metadata.jsonl").is_file():
        return RecomposedSource(folder, resolution, augmentation)
    images = "images" if columns.image == "image" else columns.image
    if folder.is_dir() and not any((folder / name).exists() for name in ("metadata.jsonl", images)):
        if tars := sorted(folder.rglob("*.tar")):
            return RowSource(TarRows(of_split(tars, columns.split), columns), resolution, augmentation, place)
        if not any(folder.rglob("*.parquet")):
            find_pairs(folder, columns.image, columns.alpha)  # says what is missing
    elif folder.is_dir() or place.count("/") != 1 or place.startswith((".", "/", "~")):
        return PictureSource(find_pairs(folder, columns.image, columns.alpha), resolution, augmentation, place)
    if streaming:
        rows = ParquetRows(parquet_files(place, columns.split), columns)
        return StreamedSource(rows, resolution, augmentation, place, window)
    return RowSource(load_rows(place, columns), resolution, augmentation, place)
