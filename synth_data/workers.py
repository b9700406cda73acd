"""Runs: many samples by several processes, resumable, the same bytes whatever their number."""

import fcntl
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synth_data.recipe import Recipe, parse_recipe
from synth_data.store import (
    JOURNAL,
    Pair,
    clear_unfinished,
    open_folder,
    read_metadata,
    write_metadata,
    write_pair,
)

TRIAL = "{name: trial, samples_per_pixel: 1, families: {fur: 1}, fur: {strands: [50, 50]}}"
REFRESH = 400  # finished samples between two refreshes of metadata.jsonl

_recipe: Recipe | None = None


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Keeps numpy in the processes started inside to one thread: workers are the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_with_parent() -> None:
    """Ends this worker when the process that started it is gone, even by SIGKILL."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _load(recipe_text: str, variant: str) -> None:
    """Makes this process ready for `_make`."""
    global _recipe
    from synth_data.render import start

    start(variant)
    _recipe = parse_recipe(recipe_text, "recipe")


def _begin(recipe_text: str, variant: str) -> None:
    """Prepares a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _load(recipe_text, variant)


def _make(seed: int, foreground: int, indices: list[int], size: int, folder: Path | None) -> list[Any]:
    """Samples of one foreground; returns the pairs, or writes them and returns rows given a folder."""
    from synth_data.compose import make_pairs

    try:
        pairs = make_pairs(_recipe, seed, foreground, indices, size)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RuntimeError(f"samples {indices} of seed {seed} could not be rendered: {first}") from error
    return pairs if folder is None else [write_pair(folder, pair) for pair in pairs]


def _results(
    recipe: Recipe, seed: int, indices: list[int], size: int, workers: int, variant: str, folder: Path | None
) -> Iterator[list[Any]]:
    """What `_make` returns, group after group in the order they finish."""
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(index // recipe.composites_per_foreground, []).append(index)
    waiting = iter(groups.items())
    context = multiprocessing.get_context("spawn")
    with _single_threaded():
        pool = ProcessPoolExecutor(min(workers, len(groups)), context, _begin, (recipe.text, variant))
        try:
            running = set()
            while True:
                while len(running) < 2 * workers and (group := next(waiting, None)) is not None:
                    running.add(pool.submit(_make, seed, group[0], group[1], size, folder))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def check_variant(variant: str) -> None:
    """ValueError if the variant is unknown or cannot render here.

    Tried in a process of its own: an unfit LLVM takes the process down, and only once it renders.
    """
    from synth_data.render import NEEDS, VARIANTS

    if variant not in VARIANTS:
        raise ValueError(f"--variant: unknown variant '{variant}'; known: {', '.join(VARIANTS)}")
    if variant in NEEDS:
        code = "import sys, synth_data.workers as w; w._load(*sys.argv[1:]); w._make(0, 0, [0], 8, None)"
        trial = [sys.executable, "-c", code, TRIAL, variant]
        if subprocess.run(trial, capture_output=True).returncode:
            raise ValueError(f"--variant {variant} cannot render here; {NEEDS[variant]}")


def render_pairs(
    recipe: Recipe, seed: int, indices: list[int], size: int, workers: int = 1, variant: str = "scalar_rgb"
) -> list[Pair]:
    """The samples `indices` in memory, in that order."""
    groups = _results(recipe, seed, indices, size, workers, variant, None)
    pairs = {pair.meta["index"]: pair for group in groups for pair in group}
    return [pairs[i] for i in indices]


def render_dataset(
    recipe: Recipe,
    seed: int,
    indices: range,
    size: int,
    folder: Path,
    workers: int = 1,
    variant: str = "scalar_rgb",
) -> int:
    """Renders what is missing of the samples `indices` into `folder` (see store.py); returns how many.

    Running it again, after whatever interruption, finishes the rest and ends with the same bytes.
    metadata.jsonl names only finished samples at any time. ValueError if the folder holds another rendering,
    RuntimeError if another run is writing to it or a sample fails.
    """
    from tqdm import tqdm

    open_folder(folder, recipe.text, seed, size, variant)
    with open(folder / JOURNAL, "a", encoding="utf-8") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"--output '{folder}': another run is writing to it; wait for it to end") from None
        clear_unfinished(folder)
        rows = read_metadata(folder)
        missing = [i for i in indices if i not in rows]
        write_metadata(folder, rows)  # with what the last run left in the journal, so that can start afresh
        journal.truncate(0)
        if missing:
            unsaved = 0
            with tqdm(total=len(indices), initial=len(indices) - len(missing), unit="sample", desc="rendering") as bar:
                for group in _results(recipe, seed, missing, size, workers, variant, folder):
                    for row in group:
                        rows[row["index"]] = row
                        journal.write(json.dumps(row) + "\n")
                    journal.flush()
                    bar.update(len(group))
                    unsaved += len(group)
                    if unsaved >= REFRESH:
                        write_metadata(folder, rows)
                        unsaved = 0
            write_metadata(folder, rows)
        (folder / JOURNAL).unlink()
    return len(missing)
