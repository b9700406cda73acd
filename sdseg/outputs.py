"""The output folder, written alike by every method: a tree of mattes that mirrors the input, and `run.json`.

For an input `sub/photo.jpg` it holds `sub/photo.png` (16-bit matte), and, where asked for,
`sub/photo.uncertainty.png` (16 bit, a standard deviation in alpha units, 65535 = 1 or more), `sub/photo.rgba.png` and
`sub/photo.mask.png` (8 bit, 0 and 255). Of classes `sub/photo.png` holds ids (8-bit palette), the uncertainty is an
entropy in [0, 1], `sub/photo.overlay.png` shows both at once, and `classes.json` names the ids.
"""

import errno
import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath, PurePosixPath

from sdseg.errors import NotAFolder, UserError, first_line, is_disk_full, one_line, remedied
from sdseg.imaging import TEMPORARY_NAME, Listing, find_images, replacing

ALPHA_SUFFIX = ".png"
UNCERTAINTY_SUFFIX = ".uncertainty.png"
VARIANCE_SUFFIX = ".variance.tif"
RGBA_SUFFIX = ".rgba.png"
MASK_SUFFIX = ".mask.png"
OVERLAY_SUFFIX = ".overlay.png"
SIDE_SUFFIXES = (UNCERTAINTY_SUFFIX, VARIANCE_SUFFIX, RGBA_SUFFIX, MASK_SUFFIX, OVERLAY_SUFFIX)
CLASSES_RECORD = "classes.json"
RUN_RECORD = "run.json"
LOCK = ".sdseg.lock"
FILES = ("output", "uncertainty", "variance", "mask", "overlay")  # what an input's part of the record names files by


def output_names(paths: Sequence[Path], root: str | os.PathLike) -> dict[Path, PurePath]:
    """Input paths beneath `root` -> their names in an output folder, relative and still without suffix.

    `root/sub/photo.jpg` -> `sub/photo`. An input keeps its extension, `sub/photo.jpg`, where the shorter name
    would not be its own (`a.jpg` beside `a.png`; the case of letters does not count) or would read as another
    one's side file (`a.uncertainty.png`).
    """
    relative = {path: PurePath(path.relative_to(root)) for path in paths}
    names = {}
    for path, name in relative.items():
        clear = not (name.stem + ".png").lower().endswith(SIDE_SUFFIXES)
        names[path] = name.with_name(name.stem) if clear else name
    while True:  # a name with extension may meet another's name without (a.jpg, a.png, a.jpg.png)
        count = Counter(str(name).casefold() for name in names.values())
        clashing = [p for p, name in names.items() if count[str(name).casefold()] > 1 and name != relative[p]]
        if not clashing:
            return names
        names.update((path, relative[path]) for path in clashing)


@dataclass(frozen=True)
class Plan:
    """The inputs of a run and the names of their outputs."""

    root: Path
    """the input folder, or that of the only photo"""
    names: dict[Path, PurePath]
    """see `output_names`"""
    listing: Listing

    def relative(self, path: Path) -> str:
        """What the record calls an input."""
        return path.relative_to(self.root).as_posix()

    def describe_passed_over(self) -> str | None:
        """One line on the files of the input folder that are not read; None without any."""
        if not self.listing.passed_over:
            return None
        return (
            f"{self.root}: passed over {self.listing.describe_passed_over()}; photos of these kinds must be converted "
            "to JPEG or PNG first"
        )


def plan_outputs(input_path: str | os.PathLike, output_dir: str | os.PathLike) -> Plan:
    """Lists the pictures of a file or folder and names their outputs; see `find_images` and `output_names`.

    An output folder inside the input folder is not read as input.

    Raises:
        NotAFolder: the output folder's name is a file's.
        UserError: a matte would replace one of the inputs, or what `find_images` raises.
    """
    input_path, output_dir = Path(input_path), Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise NotAFolder(f"{output_dir}: is a file; name a folder for the output")
    root = input_path.parent if input_path.is_file() else input_path
    if output_dir.resolve() == root.resolve():
        raise UserError(f"{output_dir}: holds the input pictures; name another folder for the output")
    listing = find_images(input_path, exclude=output_dir)
    return Plan(root, output_names(listing.pictures, root), listing)


def check_writable(folder: Path) -> None:
    """Raises UserError if a folder, made or still to be made, is not writable."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotAFolder(f"{folder}: {existing} is a file; name another folder for the output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write in {existing}; name another folder for the output")


def output_file(output_dir: str | os.PathLike, name: PurePath, suffix: str = ALPHA_SUFFIX) -> Path:
    """Where the output called `name` (from `output_names`) lies: `output_dir/<name><suffix>`."""
    return Path(output_dir) / name.with_name(name.name + suffix)


def check_name_lengths(files: Iterable[Path]) -> None:
    """Raises UserError if the file system takes no name as long as one of these, whose folders may not exist yet."""
    for file in files:
        existing = next(folder for folder in file.absolute().parents if folder.is_dir())
        for path in (file, existing / file.name, file.with_name(TEMPORARY_NAME.format("0" * 32))):
            try:
                os.lstat(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise UserError(
                    f"{file.name}: the name of this output has {len(os.fsencode(file.name))} bytes, and its path "
                    f"{len(os.fsencode(file))}, more than the file system allows; rename the photo"
                ) from error


def photo_error(path: Path, error: Exception) -> str:
    """The line that says why a photo failed: its name, and the type of an error that nobody foresaw."""
    message, kind = remedied(error), type(error).__name__
    if not isinstance(error, (UserError, OSError)) and message != kind:
        message = f"{kind}: {message}"
    return message if str(path) in message else f"{path}: {message}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes a folder, if need be, and keeps other runs from writing it. The lock ends with its process, however that
    ends; what a killed one leaves of it is taken over.

    Raises:
        UserError: another run is writing the folder; names it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder}: another run is writing this folder{_holder(folder)}; wait for its end, or name another folder"
        ) from error
    try:
        with suppress(OSError):  # Windows lets nobody write a locked file; a full disk is reported when it matters
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (folder / LOCK).unlink()
        lock.release()


@contextmanager
def naming_full_disk(path: str | os.PathLike) -> Iterator[None]:
    """Raises UserError with the name of what is being written where the disk is full, whichever library says so."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"{path}: the disk is full ({first_line(error)}); free space there, and run again") from error


def refuse_held(folder: Path) -> None:
    """Raises UserError if another run is writing a folder."""
    if (folder / LOCK).exists():
        with held(folder):
            pass


def _holder(folder: Path) -> str:
    """Which process holds a folder, in brackets; nothing where that cannot be read."""
    try:
        holder = " ".join((folder / LOCK).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return ""
    return f" ({holder})" if holder else ""


@contextmanager
def writing(output_dir: str | os.PathLike) -> Iterator[list[dict]]:
    """Makes an output folder this process's own for a run; gives the inputs that the earlier record lists.

    The earlier records are removed, because they no longer hold. See `held`.

    Raises:
        UserError: another run is writing the folder.
    """
    output_dir = Path(output_dir)
    with held(output_dir):
        try:
            earlier = read_run_record(output_dir) or {}
        except UserError:
            earlier = {}
        for name in (RUN_RECORD, CLASSES_RECORD):
            (output_dir / name).unlink(missing_ok=True)
        yield earlier.get("inputs", [])


def remove_stale(output_dir: str | os.PathLike, plan: Plan, rows: list[dict], earlier: list[dict]) -> None:
    """Removes what earlier runs wrote for this run's inputs and this run did not.

    Args:
        rows: the record's inputs.
        earlier: those of the record before, from `writing`.
    """
    output_dir = Path(output_dir)
    handled = {row["input"] for row in rows}
    written = {row[key] for row in rows for key in FILES if key in row}
    stale = {
        output_file(output_dir, name, suffix).relative_to(output_dir).as_posix()
        for name in plan.names.values()
        for suffix in (ALPHA_SUFFIX, *SIDE_SUFFIXES)
    }
    for row in earlier:  # under another name, where a namesake came or went
        if row["input"] in handled:
            stale |= {row[key] for key in FILES if isinstance(row.get(key), str)}
    for name in sorted(stale - written):
        path = PurePosixPath(name)
        if path.suffix in (ALPHA_SUFFIX, ".tif") and not path.is_absolute() and ".." not in path.parts:
            if os.path.lexists(output_dir / path):  # False for names too long to exist
                (output_dir / path).unlink()


def write_json(path: str | os.PathLike, value: dict | list) -> None:
    """Writes JSON in one step; a number that JSON lacks (NaN, infinity) is an error.

    File names that are no valid text come out as JSON escapes (\\udcXX), which read back as they were.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_run_record(output_dir: str | os.PathLike, record: dict) -> None:
    """Writes `run.json`: what made this folder, from which inputs, and which of them failed.

    `record` holds `method`, `settings` and `inputs`, a list of {"input", "output", "size": [W, H], "seconds"}
    or {"input", "error"}, with paths relative to the input and the output folder. Tool, version and the count
    of failures are added.
    """
    from sdseg import __version__

    failed = sum("error" in entry for entry in record["inputs"])
    record = {"tool": "sdseg", "version": __version__, **record, "failed": failed}
    write_json(Path(output_dir) / RUN_RECORD, record)


def read_run_record(output_dir: str | os.PathLike) -> dict | None:
    """What `write_run_record` wrote; None where there is no such file, or another program's.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(output_dir) / RUN_RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({one_line(error)}); run again, or remove it") from error
    if not isinstance(record, dict) or record.get("tool") != "sdseg":
        return None
    inputs = record.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(row, dict) and "input" in row for row in inputs):
        raise UserError(f"{path}: is damaged (it lists no inputs); run again, or remove it")
    return record
