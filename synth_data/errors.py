"""Errors that are the user's to mend, and how a command reports them: one line, and an exit code that is not 0."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence


class UserError(ValueError):
    """Input that cannot be used. The message is one line that names the value, the place and a remedy that works."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class NotAFolder(UserError, NotADirectoryError):
    """A file stands where a folder was expected."""


class RenderError(RuntimeError):
    """A rendering or an export that could not be finished; the message is one line that says what to do."""


class MissingPackage(UserError, ModuleNotFoundError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line, like all others, and that takes no abbreviated flags."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message}; {self.prog} --help lists the arguments\n")


def require(modules: Sequence[str], extra: str, purpose: str) -> None:
    """Raises MissingPackage where one of the modules that an extra of the package brings is not installed."""
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise MissingPackage(f"{purpose} needs {module}, which is not installed: pip install 'sdseg[{extra}]'")


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` with the nearest of the known words, to end a message with; empty where none is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """An error's message on one line, to be put into another's; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def remedied(error: BaseException) -> str:
    """As `one_line`; of an OSError the file it names, what the system said of it, and what to look at."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check path, permissions and free space"
    return one_line(error)


def reported(command: Callable[[], int | None], print_error: Callable[[str], None] | None = None) -> int:
    """Runs a command and returns its exit code; 2, with one line on standard error, for what the user can mend.

    That is a `UserError`, or an OSError that names a file. Anything else is a fault of the program: it keeps its
    traceback, and Python exits with 1.

    Args:
        command: returns its exit code; None counts as 0.
        print_error: prints the line; None writes it to standard error.
    """
    try:
        return command() or 0
    except UserError as error:
        line = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        line = remedied(error)
    if print_error is None:
        print(f"error: {line}", file=sys.stderr)
    else:
        print_error(f"error: {line}")
    return 2
