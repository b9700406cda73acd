"""Runs: many samples by several processes, resumable, the same bytes whatever their number."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synth_data.recipe import Recipe, parse_recipe
from synth_data.store import JOURNAL, Pair, open_folder, read_metadata, write_metadata, write_pair

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


def _begin(recipe_text: str, variant: str) -> None:
    """Prepares a worker process."""
    global _recipe
    from synth_data.render import start

    start(variant)
    _recipe = parse_recipe(recipe_text, "recipe")


def _make(seed: int, foreground: int, indices: list[int], size: int, folder: Path | None) -> list[Pair] | list[dict]:
    """Renders samples of one foreground; writes them and returns their rows if there is a folder."""
    from synth_data.compose import make_pairs

    pairs = make_pairs(_recipe, seed, foreground, indices, size)
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


def render_pairs(
    recipe: Recipe, seed: int, indices: list[int], size: int, workers: int = 1, variant: str = "scalar_rgb"
) -> list[Pair]:
    """The samples `indices` in memory, in that order."""
    pairs = {p.meta["index"]: p for group in _results(recipe, seed, indices, size, workers, variant, None) for p in group}
    return [pairs[i] for i in indices]


def render_dataset(
    recipe: Recipe, seed: int, indices: range, size: int, folder: Path, workers: int = 1, variant: str = "scalar_rgb"
) -> int:
    """Renders what is missing of the samples `indices` into `folder` (see store.py); returns how many that were.

    Running it again, after whatever interruption, finishes the rest and ends with the same bytes. metadata.jsonl
    names only finished samples at any time.
    """
    from tqdm import tqdm

    open_folder(folder, recipe.text, seed, size, variant)
    rows = read_metadata(folder)
    missing = [i for i in indices if i not in rows]
    since = 0
    if missing:
        # what the last run left in the journal goes into the index first, so the journal starts afresh
        write_metadata(folder, rows)
        with (
            open(folder / JOURNAL, "w", encoding="utf-8") as journal,
            tqdm(total=len(indices), initial=len(indices) - len(missing), unit="sample", desc="rendering") as bar,
        ):
            for group in _results(recipe, seed, missing, size, workers, variant, folder):
                for row in group:
                    rows[row["index"]] = row
                    journal.write(json.dumps(row) + "\n")
                journal.flush()
                bar.update(len(group))
                since += len(group)
                if since >= REFRESH:
                    write_metadata(folder, rows)
                    since = 0
    write_metadata(folder, rows)
    (folder / JOURNAL).unlink(missing_ok=True)
    return len(missing)
