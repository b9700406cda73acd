"""Pairs that lie many in one file: webdataset tars, parquet, Arrow copies of them, sets on the Hub.

Each class here is a sequence of `PairFiles` whose pictures are bytes, read when they are asked for. No file stays
open, so loader processes may be forked at any time.
"""

from __future__ import annotations

import difflib
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sdseg.data.pairs import DataError, PairFiles
from sdseg.errors import one_line
from sdseg.imaging import Encoded


@dataclass(frozen=True)
class Columns:
    """Which columns (of a folder: which files) hold a pair, and which split of a set of several."""

    image: str = "image"
    alpha: str = "alpha"
    split: str = "train"


class Rows(Protocol):
    """Pairs by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PairFiles: ...

    def name(self, index: int) -> str:
        """How messages name the pair; reads nothing."""

    def sizes(self) -> Iterable[str]:
        """Lines that change when the data do."""

    def files(self) -> set[str]:
        """What the pairs lie in."""


def column_named(wanted: str, known: Iterable[str], place: str, setting: str) -> str:
    """The column `wanted`, or the only one `wanted.png`, `wanted.jpg` ..., as webdataset names them by suffix.

    Raises:
        DataError: there is no such column, or several.
    """
    known = list(known)
    if wanted in known:
        return wanted
    suffixed = [name for name in known if name.startswith(f"{wanted}.")]
    if len(suffixed) == 1:
        return suffixed[0]
    near = difflib.get_close_matches(wanted, known, n=1)
    raise DataError(
        f"{place} has no column {wanted!r} (it has {', '.join(known)}); set {setting}"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def as_encoded(value, name: str) -> Encoded | Path:
    """A cell as `datasets` stores pictures, {bytes, path}, or bytes alone; or the file it names."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return Path(value["path"])
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{name} holds no picture but {type(value).__name__}; name another column, or remove the row")
    return Encoded(name, value)


# ---------------------------------------------------------------------------------------------- webdataset


@dataclass(frozen=True)
class Part:
    """Where a member's bytes lie in a tar file."""

    member: str
    offset: int
    size: int


class TarRows:
    """Pairs of webdataset tars: members `<key>.<column>` of one key, up to the first dot, make one sample.

    Only the headers are read at first, and a pair's own bytes later: tar files need not be copied or unpacked.
    """

    def __init__(self, paths: list[Path], columns: Columns):
        self.paths = paths
        self._samples: list[tuple[int, str, Part, Part]] = []  # of which file, key, image, alpha
        for number, path in enumerate(paths):
            for key, parts in tar_samples(path):
                where = f"{path}: sample {key}"
                image = column_named(columns.image, parts, where, "image_column")
                alpha = column_named(columns.alpha, parts, where, "alpha_column")
                self._samples.append((number, key, parts[image], parts[alpha]))
        if not self._samples:
            raise DataError(f"{paths[0].parent} holds tar files without samples; export the set again")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PairFiles:
        number, _, image, alpha = self._samples[index]
        return PairFiles(self.name(index), self._read(number, image), self._read(number, alpha))

    def _read(self, number: int, part: Part) -> Encoded:
        with open(self.paths[number], "rb") as file:
            file.seek(part.offset)
            return Encoded(f"{self.paths[number]}: {part.member}", file.read(part.size))

    def name(self, index: int) -> str:
        number, key, _, _ = self._samples[index]
        return f"{self.paths[number].name}: {key}"

    def sizes(self) -> Iterator[str]:
        for number, key, image, alpha in self._samples:
            yield f"{self.paths[number].name} {key} {image.size} {alpha.size}"

    def files(self) -> set[str]:
        return {str(path.resolve()) for path in self.paths}


def of_split(paths: list[Path], split: str) -> list[Path]:
    """The files whose names begin with a split's, as exports name them; all of them where no split is named.

    Raises:
        DataError: another split than train, or beside others, that no name begins with.
    """
    chosen = [path for path in paths if path.name.startswith(split)]
    if not chosen and (split != "train" or any(path.name.startswith(("test", "val")) for path in paths)):
        raise DataError(f"{paths[0].parent} holds no tar file whose name begins with {split}; set train_split")
    return chosen or paths


def tar_samples(path: Path) -> Iterator[tuple[str, dict[str, Part]]]:
    """(key, column -> where it lies) of each sample of a tar file.

    Raises:
        DataError: compressed, cut off or no tar file.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = [member for member in tar if member.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); it must be a whole, uncompressed tar file; export it again"
        ) from error
    if members and members[-1].offset_data + members[-1].size > path.stat().st_size:
        raise DataError(f"{path} is cut off within {members[-1].name}; copy or export it again")
    key, parts = None, {}
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, column = base.partition(".")
        if (folder, stem) != key:
            if parts:
                yield "/".join(filter(None, key)), parts
            key, parts = (folder, stem), {}
        parts[column] = Part(member.name, member.offset_data, member.size)
    if parts:
        yield "/".join(filter(None, key)), parts


# ---------------------------------------------------------------------------------------------- parquet, streamed


@dataclass(frozen=True)
class RowGroup:
    """Rows of a parquet file that are read together."""

    file: int
    group: int  # within the file
    first: int  # index of its first row in the whole set
    count: int


class ParquetRows:
    """Pairs of parquet files, a row group read at a time, from disk or from wherever fsspec reaches.

    At most `keep` rows stay in memory, those read last.
    """

    def __init__(self, urls: list[str], columns: Columns):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.urls, self.columns, self.keep = urls, columns, 0
        self.groups: list[RowGroup] = []
        self._footers, self._recent = [], OrderedDict()  # number of a row group -> its table
        first = 0
        for number, url in enumerate(urls):
            try:
                with opened(url) as file:
                    footer = pq.ParquetFile(file).metadata
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"{url} cannot be read ({one_line(error)}); copy or export it again") from error
            self._footers.append(footer)
            if number == 0:
                known = footer.schema.to_arrow_schema().names
                self.image = column_named(columns.image, known, url, "image_column")
                self.alpha = column_named(columns.alpha, known, url, "alpha_column")
            for group in range(footer.num_row_groups):
                count = footer.row_group(group).num_rows
                if count:
                    self.groups.append(RowGroup(number, group, first, count))
                    first += count
        self._length, self._firsts = first, [group.first for group in self.groups]
        if not first:
            raise DataError(f"{urls[0]} and its like hold no rows; export the set again")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PairFiles:
        if not 0 <= index < self._length:
            raise IndexError(index)
        which = bisect_right(self._firsts, index) - 1
        table, row = self._table(which), index - self._firsts[which]
        name = self.name(index)
        image, alpha = (table[column][row].as_py() for column in (self.image, self.alpha))
        return PairFiles(name, as_encoded(image, f"{name} {self.image}"), as_encoded(alpha, f"{name} {self.alpha}"))

    def _table(self, which: int):
        import pyarrow as pa
        import pyarrow.parquet as pq

        if which in self._recent:
            self._recent.move_to_end(which)
            return self._recent[which]
        group = self.groups[which]
        url = self.urls[group.file]
        try:
            with opened(url) as file:
                whole = pq.ParquetFile(file, metadata=self._footers[group.file])
                table = whole.read_row_group(group.group, columns=[self.image, self.alpha])
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{url}: row group {group.group} cannot be read ({one_line(error)}); copy or export it again"
            ) from error
        self._recent[which] = table
        while sum(len(kept) for kept in self._recent.values()) > max(self.keep, group.count):
            self._recent.popitem(last=False)
        return table

    def name(self, index: int) -> str:
        group = self.groups[bisect_right(self._firsts, index) - 1]
        before = next(other.first for other in self.groups if other.file == group.file)
        return f"{self.urls[group.file].rsplit('/', 1)[-1]}: row {index - before}"

    def sizes(self) -> Iterator[str]:
        """By file, not by row: name, rows, and bytes of its columns."""
        for url, footer in zip(self.urls, self._footers, strict=True):
            groups = [footer.row_group(place).total_byte_size for place in range(footer.num_row_groups)]
            yield f"{url.rsplit('/', 1)[-1]} {footer.num_rows} {groups} {self.image} {self.alpha}"

    def files(self) -> set[str]:
        return {str(Path(url).resolve()) if "://" not in url else url for url in self.urls}


def opened(url: str):
    """A file on disk or wherever fsspec reaches, open for reading; DataError where there is none."""
    import fsspec

    try:
        return fsspec.open(url, "rb").open()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be opened ({' '.join(str(error).split())}); check that it is there") from error


def parquet_files(place: str, split: str) -> list[str]:
    """The parquet files of one split of a folder or of a Hub set, as paths or addresses.

    Raises:
        DataError: no such set or split, or files of another kind.
    """
    urls = data_files(place, split)
    if not all(url.endswith(".parquet") for url in urls):
        kind = urls[0].rsplit(".", 1)[-1]
        raise DataError(
            f"{place} holds {kind} files, and only parquet files say in advance which pairs lie where; set streaming "
            "to false, or name a revision that holds parquet (on the Hub often `@refs/convert/parquet`)"
        )
    return urls


def data_files(place: str, split: str) -> list[str]:
    """Paths or addresses of the files of one split of a folder or a Hub set, as `datasets` finds them.

    Raises:
        DataError: no such set or split; the message names those there are.
    """
    files = _from_hub_or_folder("load_dataset_builder", place).config.data_files or {}
    if split not in files:
        raise DataError(f"{place} has no split {split!r} (it has {', '.join(map(str, files))}); set train_split")
    return [str(url) for url in files[split]]


# ---------------------------------------------------------------------------------------------- copies on disk


class ArrowRows:
    """Pairs of a `datasets.Dataset`, an Arrow file that is mapped into memory."""

    def __init__(self, dataset, columns: Columns, place: str):
        import datasets

        self.place = place
        self.image = column_named(columns.image, dataset.column_names, place, "image_column")
        self.alpha = column_named(columns.alpha, dataset.column_names, place, "alpha_column")
        self._rows = dataset.select_columns([self.image, self.alpha])
        for column in (self.image, self.alpha):
            if isinstance(self._rows.features[column], datasets.Image):
                self._rows = self._rows.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PairFiles:
        row, name = self._rows[index], self.name(index)
        image, alpha = (as_encoded(row[column], f"{name} {column}") for column in (self.image, self.alpha))
        return PairFiles(name, image, alpha)

    def name(self, index: int) -> str:
        return f"{self.place}: row {index}"

    def sizes(self) -> Iterator[str]:
        """From the offsets that Arrow keeps; no picture is read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        lengths = []
        for column in (self.image, self.alpha):
            cells = self._rows.data.column(column)
            if pa.types.is_struct(cells.type):
                cells = pc.struct_field(cells, "bytes")
            lengths.append(pc.fill_null(pc.binary_length(cells), 0).to_pylist())
        for index, (image, alpha) in enumerate(zip(*lengths, strict=True)):
            yield f"{index} {image} {alpha}"

    def files(self) -> set[str]:
        return {str(file["filename"]) for file in self._rows.cache_files}


def load_rows(place: str, columns: Columns) -> Rows:
    """A folder of parquet files, or a set on the Hub, copied by `datasets` into its cache where it is not yet there.

    Raises:
        DataError: no such set or split; the message names those there are.
    """
    files = data_files(place, columns.split)
    if Path(place).is_dir() and all(url.endswith(".parquet") for url in files):
        # `datasets` takes two folders of one name for the same set where both hold a card, unless it is told the files
        dataset = _loaded("load_dataset", "parquet", place, data_files={columns.split: files}, split=columns.split)
    else:
        dataset = _from_hub_or_folder("load_dataset", place, split=columns.split)
    if not len(dataset):
        raise DataError(f"{place} holds no rows in split {columns.split!r}; set train_split")
    return ArrowRows(dataset, columns, place)


def _from_hub_or_folder(function: str, place: str, **words):
    """`datasets.load_dataset` or `load_dataset_builder` of a folder, or of owner/name@revision."""
    name, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
    return _loaded(function, name, place, revision=revision or None, **words)


def _loaded(function: str, name: str, place: str, **words):
    import datasets

    try:
        return getattr(datasets, function)(name, **words)
    except Exception as error:  # whatever `datasets`, the network and the Hub raise
        why = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        remedy = (
            "it must hold images/ with alpha/, metadata.jsonl, or whole tar or parquet files"
            if Path(place).is_dir()
            else "there is no such folder here; check the path, or the Hub set's name, and log in if it is private"
        )
        raise DataError(f"data set {place} cannot be loaded ({why}); {remedy}") from error
