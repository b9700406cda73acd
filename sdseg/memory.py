"""The most memory that this process has held, and what it need not hold any longer."""

import ctypes
import sys


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; getrusage gives kilobytes, on macOS bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back_memory() -> None:
    """Gives freed memory back to the system. Does nothing where the C library is not glibc.

    glibc keeps what is freed in pieces of up to 32 MB for itself, once a few of them have been: after a large photo was
    decoded, or refined, more than 100 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
