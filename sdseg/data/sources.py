"""Sources of pairs, alone or mixed: folders, tar and parquet files, Hub data sets, foregrounds to be composited."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from sdseg.data.augmentation import PERMUTATION, Augmentation, draw_generator, fit_pair
from sdseg.data.containers import Columns, ParquetRows, Rows, TarRows, load_rows, parquet_files
from sdseg.data.pairs import (
    METADATA,
    DataError,
    PairFiles,
    column_folder,
    is_on_the_fly,
    look_for_pairs,
    of_split,
    read_pair,
    reading,
    sampled_checksum,
)
from sdseg.imaging import find_files
from sdseg.model import is_hub_id
from sdseg.targets import Target

COMPRESSED = {".bz2", ".gz", ".tgz", ".xz", ".zst"}  # endings of tar files that cannot be read in place


class Source:
    """Pairs by index, read as pixels. Subclasses set the attributes below and may override `read`."""

    place: str  # as the user named it
    resolution: int
    augmentation: Augmentation
    pairs: Sequence[PairFiles]
    target: Target = Target()
    notes: Sequence[str] = ()  # what was passed over where the pairs were looked for, a line each
    recipe, photos = "", ()  # of foregrounds composited on the fly: what else decides the pictures

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """What logs and errors call the pair."""
        return self.pairs[index].name

    def faults(self) -> dict[int, str]:
        """Why a pair, by index, cannot be read, as far as that is known without reading it."""
        return {}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image uint8 [H, W, 3] sRGB and its ground truth [H, W] as `Target.read` returns it, without augmentation.

        Raises:
            DataError: one of them cannot be read, whatever the reason.
        """
        with reading(self.name(index)):
            return read_pair(self.pairs[index], self.target)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A pair as `fit_pair` returns it, augmented with draws from `generator`."""
        image, truth = self.read(index)
        return fit_pair(image, truth, self.resolution, self.augmentation, generator)

    def order(self, *key: int) -> torch.Tensor:
        """The indices in one epoch's order, int64 [len(self)]; `key` is (seed, epoch)."""
        return torch.randperm(len(self), generator=draw_generator(*key, PERMUTATION))

    def sizes(self) -> Iterable[str]:
        """One line per pair, which changes with the pair's name and with the size of either file."""
        for pair in self.pairs:
            yield f"{pair.name} {size_of(pair.image)} {size_of(pair.alpha)}"

    def digest(self) -> str:
        """16 hexadecimal digits that change with the pairs' number, names and file sizes, the target, and, for
        foregrounds, the recipe and the photos."""
        digest = hashlib.sha256(self.recipe.encode())
        for line in self.photos:
            digest.update(f"{line}\n".encode())
        if self.target != Target():
            digest.update(f"{self.target}\n".encode())
        for line in self.sizes():
            digest.update(f"{line}\n".encode())
        return digest.hexdigest()[:16]

    def contents(self) -> Iterable[str]:
        """One line per pair, which changes with the content of either file."""
        for pair in self.pairs:
            sizes = ((path, size_of(path)) for path in (pair.image, pair.alpha))
            sums = (size if size == "absent" else sampled_checksum(path, size) for path, size in sizes)
            yield " ".join(map(str, sums))

    def checksum(self) -> str:
        """16 hexadecimal digits that change with what the files hold, as far as `sampled_checksum` sees it."""
        digest = hashlib.sha256()
        for line in self.contents():
            digest.update(f"{line}\n".encode())
        return digest.hexdigest()[:16]

    def files(self) -> set[str]:
        """The files that hold the pairs; two sources that share a file share pairs."""
        return {str(pair.image.resolve()) for pair in self.pairs}


def size_of(path: Path) -> int | str:
    """A file's size in bytes; `absent` without a file."""
    return path.stat().st_size if os.path.isfile(path) else "absent"


class PictureSource(Source):
    """Pairs of a folder, read and augmented anew each time."""

    def __init__(
        self,
        pairs: list[PairFiles],
        resolution: int,
        augmentation: Augmentation,
        place: str = "",
        notes: Sequence[str] = (),
    ):
        self.pairs, self.resolution, self.augmentation, self.place = pairs, resolution, augmentation, place
        self.notes = notes

    def faults(self) -> dict[int, str]:
        return {index: pair.fault for index, pair in enumerate(self.pairs) if pair.fault}


class RecomposedSource(Source):
    """Rendered foregrounds, composited over another background each time; an epoch shows each foreground once.

    A pair's `image` is the foreground's file and its `alpha` the background's that was rendered with it; `photos` has
    a line for each data set that background photos are drawn from.
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
        count = self.recomposer.sources.number_of_photos  # nothing else is known of a Hub data set
        photo_sets = yaml.safe_load(self.recipe).get("photos", []) if count else []
        self.photos = [f"{photo_set} {digest(photo_set)} {count}" for photo_set in photo_sets]
        self.resolution, self.augmentation = resolution, augmentation

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The foreground in the same composite each time."""
        return self._composite(index, np.random.default_rng(index))

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        seed = torch.randint(2**63 - 1, (), generator=generator).item()
        image, truth = self._composite(index, np.random.default_rng(seed))
        return fit_pair(image, truth, self.resolution, self.augmentation, generator)

    def _composite(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        with reading(self.name(index)):
            pair = self.recomposer.pair(index, rng)
            return pair.image, self.target.of_pair(pair)


class RowSource(Source):
    """Pairs from tar or parquet files or a Hub data set."""

    def __init__(self, rows: Rows, resolution: int, augmentation: Augmentation, place: str):
        self.rows = self.pairs = rows
        self.resolution, self.augmentation, self.place = resolution, augmentation, place
        self.notes = rows.notes

    def faults(self) -> dict[int, str]:
        return self.rows.faults

    def name(self, index: int) -> str:
        return self.rows.name(index)

    def sizes(self) -> Iterable[str]:
        return self.rows.sizes()

    def contents(self) -> Iterable[str]:
        return self.rows.contents()

    def files(self) -> set[str]:
        return self.rows.files()


class StreamedSource(RowSource):
    """Pairs from parquet files that are read in place, without a copy on disk.

    Reading is fast only if neighbouring rows are read together. So an epoch's order permutes the row groups, then
    shuffles within windows of `shuffle_buffer_size` pairs. The pair at position p remains a pure function of (seed,
    epoch, p), which the files' footers suffice to compute: a resumed run reads nothing of what it has seen.
    """

    def __init__(
        self, rows: ParquetRows, resolution: int, augmentation: Augmentation, place: str, shuffle_buffer_size: int
    ):
        super().__init__(rows, resolution, augmentation, place)
        self.shuffle_buffer_size = shuffle_buffer_size
        rows.keep = shuffle_buffer_size + 2 * max(
            group.count for group in rows.groups
        )  # whole groups, and one cut at each end

    def order(self, *key: int) -> torch.Tensor:
        generator = draw_generator(*key, PERMUTATION)
        groups = [self.rows.groups[number] for number in torch.randperm(len(self.rows.groups), generator=generator)]
        walk = torch.cat([torch.arange(group.first, group.first + group.count) for group in groups])
        windows = walk.split(self.shuffle_buffer_size)
        return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in windows])


class MixedSource(Source):
    """Several sources as one; indices run through the sources in turn.

    An epoch has as many positions as the sources have pairs in total. Source k gets the share that its weight gives it,
    the same number in each epoch, at positions drawn by (seed, epoch). Each source runs through its own pairs in epochs
    of its own, so that no pair comes twice before all have come once.
    """

    def __init__(self, sources: list[Source], weights: list[float] | None):
        self.sources, self.weights = sources, weights
        self.resolution, self.augmentation = sources[0].resolution, sources[0].augmentation
        self.place = ", ".join(source.place for source in sources)
        self.first = [0, *accumulate(len(source) for source in sources)]
        self.shares = shares([len(source) for source in sources], weights)

    def __len__(self) -> int:
        return self.first[-1]

    def _locate(self, index: int) -> tuple[Source, int]:
        """The source that holds pair `index`, and the pair's index within it."""
        k = bisect_right(self.first, index) - 1
        return self.sources[k], index - self.first[k]

    def name(self, index: int) -> str:
        source, own_index = self._locate(index)
        return f"{source.place}: {source.name(own_index)}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        source, own_index = self._locate(index)
        return source.read(own_index)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        source, own_index = self._locate(index)
        return source.fetch(own_index, generator)

    def order(self, seed: int, epoch: int) -> torch.Tensor:
        labels = torch.repeat_interleave(torch.arange(len(self.sources)), torch.tensor(self.shares))
        labels = labels[torch.randperm(len(labels), generator=draw_generator(seed, epoch, PERMUTATION))]
        order = torch.empty(len(labels), dtype=torch.int64)
        for k, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
            start, end = epoch * share, (epoch + 1) * share  # positions in the endless stream of this source alone
            own_epochs = range(start // len(source), -(-end // len(source)))
            own_order = torch.cat([source.order(seed, k, own_epoch) for own_epoch in own_epochs])
            skipped = own_epochs.start * len(source)
            order[labels == k] = own_order[start - skipped : end - skipped] + self.first[k]
        return order

    def sizes(self) -> Iterable[str]:
        yield json.dumps(self.weights)
        for source in self.sources:
            yield source.digest()

    def contents(self) -> Iterable[str]:
        for source in self.sources:
            yield source.checksum()

    def files(self) -> set[str]:
        return set().union(*(source.files() for source in self.sources))


class ReadableSource(Source):
    """A source without the pairs that cannot be read; the others keep their order, and are counted anew.

    What is left out is as much a part of its digest as what is there.
    """

    def __init__(self, source: Source, unreadable: Collection[int]):
        self.source = source
        self.left_out = sorted(unreadable)
        self.kept = np.setdiff1d(np.arange(len(source)), self.left_out)
        if not len(self.kept):
            raise DataError(f"{source.place}: none of {len(source)} pairs can be read; sdseg doctor --all says why")
        self.resolution, self.augmentation, self.place = source.resolution, source.augmentation, source.place
        self.target = source.target

    def __len__(self) -> int:
        return len(self.kept)

    def name(self, index: int) -> str:
        return self.source.name(int(self.kept[index]))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source.read(int(self.kept[index]))

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return self.source.fetch(int(self.kept[index]), generator)

    def order(self, *key: int) -> torch.Tensor:
        renumbered = torch.full((len(self.source),), -1)
        renumbered[torch.from_numpy(self.kept)] = torch.arange(len(self.kept))
        order = renumbered[self.source.order(*key)]
        return order[order >= 0]

    def sizes(self) -> Iterable[str]:
        yield f"{self.source.digest()} without {self.left_out}"

    def contents(self) -> Iterable[str]:
        yield self.source.checksum()

    def files(self) -> set[str]:
        return self.source.files()


def readable(source: Source, unreadable: dict[Source, Collection[int]]) -> Source:
    """A source, or a mixture of several, without the pairs that cannot be read: indices by source.

    Raises:
        DataError: no pair is left of one.
    """
    if isinstance(source, MixedSource):
        mixed = MixedSource([readable(part, unreadable) for part in source.sources], source.weights)
        mixed.target = source.target
        return mixed
    left_out = unreadable.get(source)
    return ReadableSource(source, left_out) if left_out else source


def shares(sizes: list[int], weights: list[float] | None) -> list[int]:
    """How many of sum(sizes) positions each source gets, at least one each: by weight (largest remainder method), or
    in proportion to the sizes without weights."""
    total = sum(sizes)
    quotas = [total * weight / sum(weights) for weight in weights] if weights else sizes
    counts = [max(1, int(quota)) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda k: counts[k] - quotas[k])
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    while sum(counts) > total:  # where a quota below one was rounded up
        counts[counts.index(max(counts))] -= 1
    return counts


def open_pictures(
    places: str | Path | Sequence[str | Path],
    resolution: int,
    augmentation: Augmentation,
    *,
    weights: list[float] | None = None,
    columns: Columns = Columns(),  # noqa: B008
    streaming: bool = False,
    shuffle_buffer_size: int = 512,
    target: Target = Target(),  # noqa: B008
) -> Source:
    """The pairs of one data set, or a mixture of several.

    A data set is a folder of pictures, of foregrounds to be composited on the fly, of tar files (webdataset) or of
    parquet files; or it is on the Hub, `owner/name` or `owner/name@revision`.

    Args:
        weights: how often each data set is seen, relative to the others; None is in proportion to their sizes.
        streaming: read parquet files in place, on disk or on the Hub, rather than from a copy on disk.
        shuffle_buffer_size: of how many neighbours the order is shuffled where `streaming` reads parquet files.
        target: the kind of ground truth: mattes (the default), masks or classes.

    Raises:
        UserError: a data set that is missing, empty or damaged.
    """
    words = dict(columns=columns, streaming=streaming, shuffle_buffer_size=shuffle_buffer_size)
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
    place: str,
    resolution: int,
    augmentation: Augmentation,
    *,
    columns: Columns,
    streaming: bool,
    shuffle_buffer_size: int,
) -> Source:
    folder = Path(place)
    if is_on_the_fly(folder) and (folder / "metadata.jsonl").is_file():
        return RecomposedSource(folder, resolution, augmentation)
    kind = kind_of_folder(folder, columns)
    if kind == ".tar":
        tars = of_split(find_files(folder, {".tar"}).pictures, folder, columns.split)
        return RowSource(TarRows(tars, columns), resolution, augmentation, place)
    if kind == "pictures" or not (folder.is_dir() or is_hub_id(place)):
        found = look_for_pairs(folder, columns.image, columns.alpha, columns.split)
        return PictureSource(found.pairs, resolution, augmentation, place, found.notes)
    if streaming:
        rows = ParquetRows(parquet_files(place, columns.split), columns)
        return StreamedSource(rows, resolution, augmentation, place, shuffle_buffer_size)
    return RowSource(load_rows(place, columns), resolution, augmentation, place)


def kind_of_folder(folder: Path, columns: Columns) -> str | None:
    """What pairs a folder holds: `pictures`, or files of the suffix `.tar` or `.parquet`; None where it is no folder.

    Raises:
        DataError: there are compressed tar files.
    """
    if not folder.is_dir():
        return None
    if any((folder / name).exists() for name in METADATA) or column_folder(folder, columns.image).is_dir():
        return "pictures"
    metadata = {Path(name).suffix for name in METADATA}
    files = find_files(folder, {".tar", ".parquet", *metadata, *COMPRESSED}).pictures
    for path in files:
        if path.suffix.lower() == ".tgz" or (path.suffix.lower() in COMPRESSED and ".tar." in path.name.lower()):
            raise DataError(f"{path} is compressed, and tar files are read in place; uncompress it, e.g. with gunzip")
    if any(path.suffix.lower() == ".tar" for path in files):
        return ".tar"
    in_tables = any(path.suffix.lower() == ".parquet" for path in files)
    return ".parquet" if in_tables and not any(path.name in METADATA for path in files) else "pictures"
