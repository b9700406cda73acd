"""Errors that are the user's to mend; shared with the renderer, which imports nothing of sdseg."""

from synth_data.errors import (
    MissingFile,
    MissingPackage,
    NotAFolder,
    Parser,
    UserError,
    did_you_mean,
    first_line,
    is_disk_full,
    one_line,
    remedied,
    reported,
    require,
    steady_streams,
)

__all__ = [
    "MissingFile",
    "MissingPackage",
    "NotAFolder",
    "Parser",
    "UserError",
    "did_you_mean",
    "first_line",
    "is_disk_full",
    "one_line",
    "remedied",
    "reported",
    "require",
    "steady_streams",
]
