"""The most memory that this process has held."""

import sys


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; getrusage gives kilobytes, on macOS bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
