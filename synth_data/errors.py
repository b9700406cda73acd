"""Errors that the user can fix, and how a command reports them: one line and a non-zero exit code."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room: the disk, the user's quota, or the limit on a file's size
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")  # as libraries wrap them
FILE_LIBRARIES = {"OpenEXR", "pyarrow", "safetensors", "safetensors_rust", "struct"}  # what they raise is about a file


class UserError(ValueError):
    """Input that cannot be used. The message is one line that names the value, the place and a remedy that works."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class NotAFolder(UserError, NotADirectoryError):
    """A file stands where a folder was expected."""


class RenderError(RuntimeError):
    """A render or an export that could not be finished. The message is one line that says what to do."""


class MissingPackage(UserError, ModuleNotFoundError):
    """An optional dependency is not installed. The message names the extra that installs it."""


class _Sink(io.FileIO):
    """A file descriptor whose reader may leave: what nobody can receive any more is dropped."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a closed pipe, a terminal that is gone
                raise
            return len(data)


def steady_streams() -> None:
    """Makes standard output and error take every text, whoever listens; called where a command line begins.

    Characters that the terminal's code page lacks are escaped. A stream that is closed, or whose reader leaves, changes
    nothing else about the run: its text is dropped.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        try:
            open_descriptor = stream is not None and stream.fileno() == descriptor
        except (OSError, ValueError):  # replaced by something that is no file
            continue
        if stream is None:  # Python found it closed
            null = os.open(os.devnull, os.O_WRONLY)
            if null != descriptor:  # lest the next file opened receives what C libraries print
                os.dup2(null, descriptor)
                os.close(null)
        elif not open_descriptor:
            continue
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Sink(descriptor, "wb", closefd=False)),
                encoding="utf-8" if stream is None else stream.encoding,
                errors="backslashreplace",
                line_buffering=name == "stderr" or (stream is not None and stream.line_buffering),
                write_through=stream is not None and stream.write_through,
            ),
        )


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports errors on one line and accepts no abbreviated flags."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message}; {self.prog} --help lists the arguments\n")


def require(modules: Sequence[str], extra: str, purpose: str) -> None:
    """Raises MissingPackage if one of the modules that the package's `extra` installs is missing."""
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise MissingPackage(f"{purpose} needs {module}, which is not installed: pip install 'sdseg[{extra}]'")


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` with the closest known word, to append to a message; empty if none is close."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """An error's message on one line, for use within another message; the type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, where the others are advice that does not fit; its type's name if none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_disk_full(error: BaseException) -> bool:
    """Whether something could not be written for want of room, whichever library says so."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return not isinstance(error, UserError) and any(words in str(error) for words in FULL_IN_WORDS)


def remedied(error: BaseException) -> str:
    """As `one_line`; for a full disk and for an OSError that names a file also what to check."""
    named = isinstance(error, OSError) and error.filename is not None
    if is_disk_full(error):
        place = f"{error.filename}: " if named else ""
        return f"{place}the disk is full ({getattr(error, 'strerror', None) or one_line(error)}); free space there"
    if named:
        return f"{error.filename}: {error.strerror}; check path, permissions and free space"
    return one_line(error)


def _is_about_files(error: BaseException) -> bool:
    """Whether an exception is about a file rather than a bug: an OSError with a file's name, a full disk, or one that a
    library for a file format defines.
    """
    named = isinstance(error, OSError) and error.filename is not None
    return named or is_disk_full(error) or type(error).__module__.split(".")[0] in FILE_LIBRARIES


def reported(command: Callable[[], int | None], print_error: Callable[[str], None] | None = None) -> int:
    """Runs a command and returns its exit code; 2, with one line on standard error, for errors that the user can fix.

    Those are `UserError`, any OSError that names a file, a full disk, and what libraries raise about files (see
    FILE_LIBRARIES). Any other exception is a bug: it keeps its traceback, and Python exits with 1.

    Args:
        command: returns its exit code; None counts as 0.
        print_error: prints the line; None writes it to standard error.
    """
    try:
        return command() or 0
    except UserError as error:
        line = str(error)
    except Exception as error:
        if isinstance(error, RenderError) or not _is_about_files(error):
            raise
        line = remedied(error)
    if print_error is None:
        print(f"error: {line}", file=sys.stderr)
    else:
        print_error(f"error: {line}")
    return 2
