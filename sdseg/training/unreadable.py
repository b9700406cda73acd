"""Pairs that cannot be read: left out before a run begins, up to `max_unreadable`, or named where one ends it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from sdseg.training.config import ConfigError, TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sdseg.data import Source

SHOWN = 20  # most warnings about pairs that are left out


def readable_data(
    config: TrainingConfig, accelerator: Accelerator, pictures: Source, held_out: Source | None
) -> tuple[Source, Source | None, list[str]]:
    """The pairs of `open_data` without those that cannot be read, and the names of these.

    With `max_unreadable` above 0 all are read, a share by each process, so that the samples of a run do not depend on
    who meets which pair when. Without it, pairs are refused that are known not to be whole.

    Raises:
        ConfigError: more than `max_unreadable` cannot be read.
    """
    from accelerate.utils import gather_object

    from sdseg.data import MixedSource, readable

    sources = [
        part
        for source in (pictures, held_out)
        for part in (source.sources if isinstance(source, MixedSource) else filter(None, [source]))
    ]
    first, every = accelerator.process_index, accelerator.num_processes
    found: dict[Source, dict[int, str]] = {}
    for source in sources:
        faults = source.faults()
        if config.max_unreadable:
            shares = gather_object([unreadable(source, range(first, len(source), every))])
            faults = {index: reason for share in shares for index, reason in share.items()}
        if faults:
            found[source] = dict(sorted(faults.items()))
    problems = [f"{source.place}: {reason}" for source, faults in found.items() for reason in faults.values()]
    if len(problems) > config.max_unreadable:
        refuse_unreadable(config, problems)
    if problems and accelerator.is_main_process:
        for problem in islice(problems, SHOWN):
            print(f"warning: {problem}; left out", file=sys.stderr)
        total = sum(map(len, sources))
        print(f"warning: {len(problems)} of {total} pairs cannot be read and are left out", file=sys.stderr)
    names = [f"{source.place}: {source.name(index)}" for source, faults in found.items() for index in faults]
    return readable(pictures, found), held_out and readable(held_out, found), names


def unreadable(source: Source, indices: Iterable[int]) -> dict[int, str]:
    """Which of these pairs cannot be trained on, and why; every one is read."""
    from tqdm import tqdm

    from sdseg.data import PairError

    found = {}
    for index in tqdm(indices, desc="reading all pairs", unit="pair", leave=False, delay=2):
        try:
            source.read(index)
        except PairError as error:
            found[index] = str(error)
    return found


def refuse_unreadable(config: TrainingConfig, problems: list[str]) -> None:
    """Raises ConfigError: there are more of these problems, one of each pair, than `max_unreadable`."""
    if len(problems) == 1:
        raise ConfigError(f"{problems[0]} (sdseg doctor prints all findings)")
    shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
    raise ConfigError(
        f"{len(problems)} pairs cannot be read, and max_unreadable is {config.max_unreadable}: {shown} "
        "(sdseg doctor --all prints all findings)"
    )


@contextmanager
def pointing_to_the_doctor() -> Iterator[None]:
    """A pair that cannot be read within is named in one line, with what finds such pairs and what leaves them out."""
    from sdseg.data import PairError

    try:
        yield
    except PairError as error:
        _, _, line = str(error).splitlines()[-1].rpartition(f"{PairError.__name__}: ")  # a loader sends its traceback
        raise PairError(
            f"{line}; `sdseg doctor --all` finds all such pairs, and max_unreadable lets a run begin without them"
        ) from error
