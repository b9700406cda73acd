"""Files that hold many pairs: webdataset tars, parquet files, the Arrow copies that `datasets` makes, Hub data sets.

Each class here is a sequence of `PairFiles` whose pictures are bytes, read on access. No file stays open, so
`DataLoader` workers may be forked at any time.
"""

from __future__ import annotations

import tarfile
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Protocol

from sdseg.data.pairs import BLOCK, DataError, PairFiles, sampled_checksum, unused_columns
from sdseg.errors import did_you_mean, one_line
from sdseg.imaging import Encoded


@dataclass(frozen=True)
class Columns:
    """The columns that hold image and ground truth (in a folder: which files do), and the split to read."""

    image: str = "image"
    alpha: str = "alpha"
    split: str = "train"


PARQUET_BLOCKS = 256  # that a file's checksum is made of


class Rows(Protocol):
    """Pairs by index."""

    notes: list[str]  # what is passed over, a line each
    faults: dict[int, str]  # why a row is no pair, as far as it shows without reading it

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PairFiles: ...

    def name(self, index: int) -> str:
        """What messages call the pair; reads nothing."""

    def sizes(self) -> Iterable[str]:
        """Lines that change with the number, names and sizes of the pairs."""

    def contents(self) -> Iterable[str]:
        """Lines that change with what the pairs hold, as far as `sampled_checksum` sees it."""

    def files(self) -> set[str]:
        """The files that hold the pairs."""


def resolve_column(name: str, columns: Iterable[str], location: str, setting: str) -> str:
    """The column `name`, or the only one called `name.png`, `name.jpg` and so on, as in webdataset.

    Raises:
        DataError: there is no such column, or several; the message names `setting` as the one to change.
    """
    columns = list(columns)
    if name in columns:
        return name
    suffixed = [column for column in columns if column.startswith(f"{name}.")]
    if len(suffixed) == 1:
        return suffixed[0]
    if suffixed:
        raise DataError(f"{location} has several columns {name!r}: {', '.join(suffixed)}; set {setting} to one of them")
    raise DataError(
        f"{location} has no column {name!r} (it has {', '.join(columns)}); set {setting}{did_you_mean(name, columns)}"
    )


def encoded_picture(value, name: str) -> Encoded | Path:
    """A table's cell as an encoded picture: `value` is bytes, or {bytes, path} as `datasets` stores pictures; the path
    where there are no bytes.

    Raises:
        DataError: the cell holds neither; the message calls it `name`.
    """
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return Path(value["path"])
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{name} holds {type(value).__name__}, not a picture; name another column, or remove the row")
    return Encoded(name, value)


# ---------------------------------------------------------------------------------------------- webdataset


@dataclass(frozen=True)
class Part:
    """A member of a tar file, and where its bytes are."""

    member: str
    offset: int
    size: int


class TarRows:
    """Pairs of webdataset tars: members `<key>.<column>` with the same key, up to the first dot, are one sample.

    At first only the headers are read, later each pair's own bytes, so tar files need not be copied or unpacked.
    Columns are compared in lower case, as webdataset does.

    Raises:
        DataError: a file that cannot be read, no samples, or none with the two columns.
    """

    def __init__(self, paths: list[Path], columns: Columns):
        self.paths = paths
        self._samples: list[tuple[int, str, Part | None, Part | None]] = []  # index into paths, key, image, alpha
        self.faults: dict[int, str] = {}
        used, unused, empty = set(), {}, []
        for number, path in enumerate(paths):
            before = len(self._samples)
            for key, parts in tar_samples(path):
                found = []
                for name, setting in ((columns.image, "image_column"), (columns.alpha, "alpha_column")):
                    try:
                        column = resolve_column(name.lower(), parts, f"{path}: sample {key}", setting)
                    except DataError as error:
                        self.faults.setdefault(len(self._samples), str(error))
                        found.append(None)
                    else:
                        found.append(parts[column])
                        used.add(column)
                unused |= dict.fromkeys(parts)
                self._samples.append((number, key, *found))
            if len(self._samples) == before:
                empty.append(path.name)
        if not self._samples:
            raise DataError(f"{paths[0].parent} holds tar files without samples; export the data set again")
        if len(self.faults) == len(self._samples):
            raise DataError(self.faults[0])
        self.notes = unused_columns(unused, used)
        if empty:
            self.notes.append(f"tar files without samples: {len(empty)}, the first is {empty[0]}")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PairFiles:
        if index in self.faults:
            raise DataError(self.faults[index])
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
        for number, key, *parts in self._samples:
            yield " ".join([self.paths[number].name, key, *(str(part.size) if part else "absent" for part in parts)])

    def contents(self) -> Iterator[str]:
        for number, _, *parts in self._samples:
            sums = (sampled_checksum(self.paths[number], part.size, part.offset) if part else 0 for part in parts)
            yield " ".join(map(str, sums))

    def files(self) -> set[str]:
        return {str(path.resolve()) for path in self.paths}


def tar_samples(path: Path) -> list[tuple[str, dict[str, Part]]]:
    """(key, {column in lower case: part}) of each sample of a tar file, in the order of their first members.

    Members of a sample need not follow each other. What a Mac's tar adds (`._000.image.png`, `__MACOSX`, PaxHeader) and
    other hidden members are no samples.

    Raises:
        DataError: the file is compressed, truncated or not a tar file, or holds a member twice.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = [member for member in tar if member.isfile()]
    except Exception as error:  # tarfile raises several types, struct.error among them, at headers that are damaged
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); it must be a whole, uncompressed tar file; export it again"
        ) from error
    if members and members[-1].offset_data + members[-1].size > path.stat().st_size:
        raise DataError(f"{path} is truncated within {members[-1].name}; copy or export it again")
    samples: dict[tuple[str, ...], tuple[str, dict[str, Part]]] = {}
    for member in members:
        names = PurePosixPath(member.name).parts  # without a leading ./
        if any(name.startswith((".", "__MACOSX", "PaxHeader")) for name in names):
            continue
        stem, _, column = names[-1].partition(".")
        identity = (*names[:-1], stem)
        _, parts = samples.setdefault(identity, ("/".join(identity), {}))
        if known := parts.get(column.lower()):
            raise DataError(
                f"{path} holds {member.name} twice (the other is {known.member}), so which counts is unclear; export "
                "it again"
            )
        parts[column.lower()] = Part(member.name, member.offset_data, member.size)
    return list(samples.values())


# ---------------------------------------------------------------------------------------------- parquet, streamed


@dataclass(frozen=True)
class RowGroup:
    """Rows of a parquet file that are read together."""

    file: int
    group: int  # within the file
    first: int  # index of its first row in the whole data set
    count: int


class ParquetRows:
    """Pairs of parquet files, read one row group at a time, from disk or from any URL that fsspec opens.

    The row groups used last stay in memory, up to `keep` rows, and one group at least.
    """

    faults: dict[int, str] = {}

    def __init__(self, urls: list[str], columns: Columns):
        self.urls, self.columns, self.keep = urls, columns, 0
        self.groups: list[RowGroup] = []
        self._footers, self._recent = [], OrderedDict()  # index into groups -> table
        first = 0
        for number, url in enumerate(urls):
            footer = parquet_footer(url)
            self._footers.append(footer)
            for group in range(footer.num_row_groups):
                count = footer.row_group(group).num_rows
                if count:
                    self.groups.append(RowGroup(number, group, first, count))
                    first += count
        footers = dict(zip(urls, self._footers, strict=True))
        schemas = {url: column_names(footer) for url, footer in footers.items()}
        self.image, self.alpha = shared_columns(schemas, columns)
        self.notes = unused_columns(all_columns(footers), {self.image, self.alpha})
        self._length, self._firsts = first, [group.first for group in self.groups]
        if not first:
            raise DataError(f"{urls[0]} and the other files of this data set hold no rows; export it again")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PairFiles:
        if not 0 <= index < self._length:
            raise IndexError(index)
        number = bisect_right(self._firsts, index) - 1
        table, row = self._table(number), index - self._firsts[number]
        name = self.name(index)
        image, alpha = (table[column][row].as_py() for column in (self.image, self.alpha))
        image = encoded_picture(image, f"{name} {self.image}")
        alpha = encoded_picture(alpha, f"{name} {self.alpha}")
        return PairFiles(name, image, alpha)

    def _table(self, number: int):
        """Row group `number` as a pyarrow table."""
        import pyarrow.parquet as pq

        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        group = self.groups[number]
        url = self.urls[group.file]
        try:
            with opened(url) as file:
                parquet = pq.ParquetFile(file, metadata=self._footers[group.file])
                table = parquet.read_row_group(group.group, columns=[self.image, self.alpha])
        except DataError:
            raise
        except Exception as error:  # of pyarrow, fsspec, or the network
            raise DataError(
                f"{url}: row group {group.group} cannot be read ({one_line(error)}); copy or export it again"
            ) from error
        self._recent[number] = table
        while sum(map(len, self._recent.values())) > max(self.keep, group.count):
            self._recent.popitem(last=False)
        return table

    def name(self, index: int) -> str:
        group = self.groups[bisect_right(self._firsts, index) - 1]
        first = next(other.first for other in self.groups if other.file == group.file)
        return f"{self.urls[group.file].rsplit('/', 1)[-1]}: row {index - first}"

    def sizes(self) -> Iterator[str]:
        """One line per file, not per pair: name, number of rows, bytes of each row group, columns."""
        for url, footer in zip(self.urls, self._footers, strict=True):
            groups = [footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)]
            yield f"{url.rsplit('/', 1)[-1]} {footer.num_rows} {groups} {self.image} {self.alpha}"

    def contents(self) -> Iterator[str]:
        """Of files on this machine; those of a Hub data set do not change at one revision."""
        for url in self.urls:
            if "://" not in url:
                yield str(sampled_checksum(url, Path(url).stat().st_size, blocks=PARQUET_BLOCKS))

    def files(self) -> set[str]:
        return {str(Path(url).resolve()) if "://" not in url else url for url in self.urls}


def parquet_footer(url: str):
    """The metadata of a parquet file, a path or any URL that fsspec opens.

    Raises:
        DataError: it is damaged, or no parquet file.
    """
    import pyarrow.parquet as pq

    try:
        with opened(url) as file:
            return pq.ParquetFile(file).metadata
    except DataError:
        raise
    except Exception as error:  # of pyarrow, fsspec, or the network
        raise DataError(f"{url} cannot be read ({one_line(error)}); copy or export it again") from error


def column_names(footer) -> list[str]:
    """The columns that a parquet file's footer lists."""
    return list(footer.schema.to_arrow_schema().names)


def all_columns(footers: dict) -> list[str]:
    """The columns that parquet files have, each once; their footers by file."""
    return list(dict.fromkeys(name for footer in footers.values() for name in column_names(footer)))


def shared_columns(schemas: dict[str, list[str]], columns: Columns) -> tuple[str, str]:
    """The columns of image and ground truth in files, each of which has the columns `schemas` says.

    Raises:
        DataError: the first file lacks one, or another file lacks one that the first has.
    """
    first, names = next(iter(schemas.items()))
    found = (
        resolve_column(columns.image, names, first, "image_column"),
        resolve_column(columns.alpha, names, first, "alpha_column"),
    )
    for url, names in schemas.items():
        for column in found:
            if column not in names:
                raise DataError(
                    f"{url} has no column {column!r}, which {first} has (it has {', '.join(names)}); export it "
                    "again, or remove it"
                )
    return found


def opened(url: str):
    """A path or a URL, opened for reading by fsspec.

    Raises:
        DataError: it cannot be opened.
    """
    import fsspec

    try:
        return fsspec.open(url, "rb").open()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be opened ({' '.join(str(error).split())}); check that it is there") from error


def parquet_files(location: str, split: str) -> list[str]:
    """The parquet files of one split of a folder or a Hub data set, as paths or URLs.

    Raises:
        DataError: no such data set or split, or files of another kind.
    """
    urls = data_files(location, split)
    if not all(url.endswith(".parquet") for url in urls):
        kind = urls[0].rsplit(".", 1)[-1]
        raise DataError(
            f"{location} holds {kind} files, and only parquet files can be streamed; set streaming to false, or name a "
            "revision that holds parquet (on the Hub often `@refs/convert/parquet`)"
        )
    return urls


def data_files(location: str, split: str) -> list[str]:
    """Paths or URLs of the files of one split of a folder or a Hub data set, as `datasets` finds them.

    Raises:
        DataError: no such data set or split; the message lists the splits.
    """
    files = _from_hub_or_folder("load_dataset_builder", location).config.data_files or {}
    if split not in files:
        raise DataError(f"{location} has no split {split!r} (it has {', '.join(map(str, files))}); set train_split")
    return [str(url) for url in files[split]]


# ---------------------------------------------------------------------------------------------- copies on disk


class ArrowRows:
    """Pairs of a `datasets.Dataset`, which is a memory-mapped Arrow file."""

    faults: dict[int, str] = {}

    def __init__(self, dataset, columns: Columns, location: str, footers: dict | None = None):
        """`footers`: of the parquet files that `dataset` was made of, in order, where they are known."""
        import datasets

        self.location = location
        self.image, self.alpha = shared_columns({location: dataset.column_names}, columns)
        self.notes = unused_columns(all_columns(footers) if footers else dataset.column_names, {self.image, self.alpha})
        self._files = [url.rsplit("/", 1)[-1] for url in footers or ()]
        self._ends = list(accumulate(footer.num_rows for footer in (footers or {}).values()))
        self._rows = dataset.select_columns([self.image, self.alpha])
        for column in (self.image, self.alpha):
            if isinstance(self._rows.features[column], datasets.Image):
                self._rows = self._rows.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PairFiles:
        row, name = self._rows[index], self.name(index)
        image, alpha = (encoded_picture(row[column], f"{name} {column}") for column in (self.image, self.alpha))
        return PairFiles(name, image, alpha)

    def name(self, index: int) -> str:
        if not self._files:
            return f"{self.location}: row {index}"
        number = bisect_right(self._ends, index)
        return f"{self._files[number]}: row {index - (self._ends[number - 1] if number else 0)}"

    def sizes(self) -> Iterator[str]:
        """One line per pair, from the offsets in the Arrow file; no picture is read."""
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

    def contents(self) -> Iterator[str]:
        for cells in (self._rows.data.column(column) for column in (self.image, self.alpha)):
            for cell in cells:
                content = cell["bytes"] if cell.type.num_fields else cell
                buffer = content.as_buffer() if content.is_valid else b""
                yield str(zlib.crc32(memoryview(buffer)[-BLOCK:]))

    def files(self) -> set[str]:
        return {str(file["filename"]) for file in self._rows.cache_files}


def load_rows(location: str, columns: Columns) -> Rows:
    """A folder of parquet files, or a Hub data set, which `datasets` copies into its cache unless it is there already.

    Raises:
        DataError: no such data set or split; the message lists the splits.
    """
    files = data_files(location, columns.split)
    footers = {}
    if Path(location).is_dir() and all(url.endswith(".parquet") for url in files):
        footers = {url: parquet_footer(url) for url in files}
        schemas = {url: column_names(footer) for url, footer in footers.items()}
        used = list(shared_columns(schemas, columns))  # the others may differ from file to file
        # without `data_files`, `datasets` confuses two folders of the same name if both hold a dataset card
        words = dict(data_files={columns.split: files}, split=columns.split, columns=used)
        dataset = _loaded("load_dataset", "parquet", location, **words)
    else:
        dataset = _from_hub_or_folder("load_dataset", location, split=columns.split)
    if not len(dataset):
        raise DataError(f"{location} holds no rows in split {columns.split!r}; set train_split")
    return ArrowRows(dataset, columns, location, footers)


def _from_hub_or_folder(function: str, location: str, **kwargs):
    """`datasets.load_dataset` or `load_dataset_builder` of a folder, or of owner/name@revision."""
    name, _, revision = (location, "", "") if Path(location).is_dir() else location.partition("@")
    return _loaded(function, name, location, revision=revision or None, **kwargs)


def _loaded(function: str, name: str, location: str, **kwargs):
    import datasets

    try:
        return getattr(datasets, function)(name, **kwargs)
    except Exception as error:  # `datasets`, the network and the Hub raise errors of many kinds
        reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        remedy = (
            "it must hold images/ with alpha/, metadata.jsonl, or complete tar or parquet files"
            if Path(location).is_dir()
            else "there is no such folder; check the path, or the Hub data set's name, and log in if it is private"
        )
        raise DataError(f"data set {location} cannot be loaded ({reason}); {remedy}") from error
