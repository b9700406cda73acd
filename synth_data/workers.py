"""Runs: many samples from several processes or hosts, resumable, with the same bytes for any number of them."""

import fcntl
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from synth_data.errors import RenderError, UserError, is_disk_full, require
from synth_data.inputs import look_at_inputs, refuse_unusable, warn_each
from synth_data.recipe import Recipe, parse_recipe, share_of
from synth_data.store import (
    JOURNAL,
    Pair,
    clear_unfinished,
    digest,
    file_names,
    files_of,
    open_folder,
    read_metadata,
    read_recipe,
    read_settings,
    write_bytes,
    write_layers,
    write_metadata,
    write_pair,
)

TRIAL = "{name: trial, samples_per_pixel: 1, families: {fur: 1}, fur: {strands: [50, 50]}}"
REFRESH = 400  # finished samples between two refreshes of metadata.jsonl

_recipe: Recipe | None = None


class WouldFailAgain(RenderError):
    """A sample failed because of its input, such as an unreadable photo: trying again will not help."""


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Limits numpy to one thread in processes started inside: the workers are the parallelism."""
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
    """Ends this worker once the process that started it is gone, even if it was killed."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _load(recipe_text: str, variant: str, left_out: Collection[str] = ()) -> None:
    """Prepares this process for `_make`."""
    global _recipe
    from synth_data.render import start

    start(variant)
    _recipe = parse_recipe(recipe_text, "recipe", left_out)


def _begin(recipe_text: str, variant: str, left_out: Collection[str]) -> None:
    """Prepares a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _load(recipe_text, variant, left_out)


def _make(seed: int, foreground: int, indices: list[int], size: int, folder: Path | None) -> list[Any]:
    """Renders samples of one foreground; returns the pairs, or with a `folder` writes them and returns their rows.

    RenderError names the samples that failed; it is `WouldFailAgain` if their input was the cause.
    """
    from synth_data.compose import make_layers, make_pairs

    on_the_fly = folder is not None and _recipe.compositing == "on_the_fly"
    try:
        if on_the_fly:
            made = [make_layers(_recipe, seed, index, size) for index in indices]
        else:
            made = make_pairs(_recipe, seed, foreground, indices, size)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if is_disk_full(error):
            first += f"; free space in {tempfile.gettempdir()}, or set TMPDIR to another folder."
        kind = WouldFailAgain if isinstance(error, UserError) else RenderError
        raise kind(f"samples {indices} of seed {seed} could not be rendered: {first}") from error
    if folder is None:
        return made
    return [write_layers(folder, m) if on_the_fly else write_pair(folder, m, _recipe.target) for m in made]


def shard_of(recipe: Recipe, indices: Sequence[int], part: int, parts: int) -> list[int]:
    """The samples among `indices` that shard `part` (1 .. `parts`) renders: every `parts`-th foreground."""
    return [i for i in indices if i // recipe.composites_per_foreground % parts == part - 1]


def _results(
    recipe: Recipe,
    seed: int,
    indices: Sequence[int],
    size: int,
    workers: int,
    variant: str,
    folder: Path | None,
    left_out: Collection[str] = (),
) -> Iterator[list[Any]]:
    """The results of `_make`, group by group, as they finish.

    After an error no new group is started, the running ones are still yielded, and then the error is raised.
    """
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(index // recipe.composites_per_foreground, []).append(index)
    waiting = iter(groups.items())
    context = multiprocessing.get_context("spawn")
    with _single_threaded():
        pool = ProcessPoolExecutor(min(workers, len(groups)), context, _begin, (recipe.text, variant, left_out))
        try:
            running: set[Future] = set()
            failure = None
            while True:
                while failure is None and len(running) < 2 * workers and (group := next(waiting, None)) is not None:
                    running.add(pool.submit(_make, seed, group[0], group[1], size, folder))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    if future.cancelled():
                        continue
                    if (error := future.exception()) is None:
                        yield future.result()
                    elif failure is None:
                        failure = error
                        for other in running:
                            other.cancel()
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(cancel_futures=True)


def check_variant(variant: str) -> None:
    """UserError if the variant is unknown or cannot render here, MissingPackage if the renderer is not installed.

    The trial runs in a process of its own: an unsuitable LLVM crashes the process, and only when it renders.
    """
    from synth_data.render import NEEDS, VARIANTS

    require(("mitsuba", "OpenEXR", "skimage", "trimesh"), "render", "rendering")
    if variant not in VARIANTS:
        raise UserError(f"--variant: unknown variant '{variant}'; known: {', '.join(VARIANTS)}")
    if variant in NEEDS:
        code = "import sys, synth_data.workers as w; w._load(*sys.argv[1:]); w._make(0, 0, [0], 8, None)"
        trial = [sys.executable, "-c", code, TRIAL, variant]
        if subprocess.run(trial, capture_output=True).returncode:
            raise UserError(f"--variant {variant} cannot render here; {NEEDS[variant]}")


def render_pairs(
    recipe: Recipe, seed: int, indices: list[int], size: int, workers: int = 1, variant: str = "scalar_rgb"
) -> list[Pair]:
    """The samples `indices` in memory, in that order.

    Input files that cannot be used are left out with a warning; UserError if no other of their kind is left.
    """
    left_out = look_at_inputs(recipe, workers)
    warn_each([f"{reason} (left out here)" for reason in left_out.values()])
    groups = _results(recipe, seed, indices, size, workers, variant, None, frozenset(left_out))
    pairs = {pair.meta["index"]: pair for group in groups for pair in group}
    return [pairs[i] for i in indices]


def render_sample(recipe: Recipe, seed: int, index: int, size: int, variant: str, folder: Path) -> dict[str, Any]:
    """Renders one sample into `folder`, creating its subfolders; returns the sample's metadata row."""
    for name in file_names(index, recipe.target, recipe.compositing).values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    ((row,),) = _results(recipe, seed, [index], size, 1, variant, folder)
    return row


@contextmanager
def _held(folder: Path) -> Iterator[Any]:
    """The folder's journal, locked, so that one run at a time writes there; removes the remains of a killed run."""
    try:
        journal = open(folder / JOURNAL, "ab", buffering=0)
    except OSError as error:
        raise UserError(f"--output '{folder}' is not writable ({error.strerror}); give a writable folder") from error
    with journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RenderError(
                f"--output '{folder}': another run is writing to it; wait for it to end, or give each run its own "
                "--output and merge them with `sdseg join`."
            ) from None
        clear_unfinished(folder)
        yield journal


def _append(journal: Any, group: list[dict[str, Any]]) -> None:
    """Adds rows to the journal; OSError if they do not fit."""
    lines = "".join(json.dumps(row) + "\n" for row in group).encode()
    while lines:
        lines = lines[journal.write(lines) :]


def render_dataset(
    recipe: Recipe,
    seed: int,
    indices: Sequence[int],
    size: int,
    folder: Path,
    workers: int = 1,
    variant: str = "scalar_rgb",
) -> int:
    """Renders what is missing of the samples `indices` into `folder` (see store.py); returns how many.

    Run again after any interruption, it renders the rest and ends with the same bytes. At any time metadata.jsonl lists
    finished samples only. After an error the finished samples are kept.

    Raises:
        UserError: the folder holds another rendering, is damaged or not writable, or an input file cannot be used; all
            of them are read before the first sample.
        RenderError: another run is writing to it, the disk is full, or a sample failed (`WouldFailAgain` if its input
            was the cause).
    """
    from synth_data.scene import CLASSES

    settings = {
        "seed": seed,
        "size": size,
        "variant": variant,
        "target": recipe.target,
        "compositing": recipe.compositing,
        "inputs": {path: digest(path) for path in recipe.inputs()},
    }
    classes = {number: name for name, number in CLASSES.items()}
    open_folder(folder, recipe.text, settings, classes, partial(_used, recipe, folder))
    with _held(folder) as journal:
        rows = read_metadata(folder)
        missing = [i for i in indices if i not in rows]
        if missing:
            refuse_unusable(look_at_inputs(recipe, workers))
        try:
            write_metadata(folder, rows)  # includes what the last run left in the journal, which is then emptied
            journal.truncate(0)
            if missing:
                _render_missing(recipe, seed, missing, size, workers, variant, folder, rows, journal)
                write_metadata(folder, rows)
        except OSError as error:
            kept = _leave_whole(folder, recipe, rows, missing)
            raise RenderError(
                f"--output '{folder}': can no longer be written ({error.strerror}); the {kept} finished samples are "
                "kept; free space there, or copy them to a larger disk."
            ) from error
        except RenderError:
            _leave_whole(folder, recipe, rows, missing)
            raise
        (folder / JOURNAL).unlink()
    return len(missing)


def _used(recipe: Recipe, folder: Path, path: str) -> bool:
    """Whether a finished sample in `folder` depends on the recipe's input at `path`."""
    has_meshes = share_of(recipe.families, "own_meshes") > 0
    has_photos = share_of(recipe.background.kind, "photo") > 0
    for row in read_metadata(folder).values():
        factors = json.loads(row["factors"])
        try:
            sky, background = factors["lights"]["sky"], factors["background"]
            photo = background["kind"] == "photo" or (has_photos and sky == "background")
            others = background["distractors"] or factors["arrangement"]["in_scene"]  # objects of the recipe's families
            shown = {r["factors"]["folder"] for r in factors["instances"] if r["family"] == "own_meshes"}
        except KeyError:  # another version's factors
            return True
        used = {
            *(recipe.photos if photo else ()),
            *(recipe.environments if sky == "environment" else ()),
            *shown,
            *((folder for folder, _ in recipe.tables["own_meshes"].folder) if has_meshes and others else ()),
        }
        if path in used:
            return True
    return False


def _render_missing(
    recipe: Recipe,
    seed: int,
    missing: list[int],
    size: int,
    workers: int,
    variant: str,
    folder: Path,
    rows: dict[int, dict[str, Any]],
    journal: Any,
) -> None:
    """Renders samples into `folder`, adding each to `rows` and to the journal when it is finished."""
    from tqdm import tqdm

    total = len(rows.keys() | set(missing))
    unsaved = 0
    with (
        closing(_results(recipe, seed, missing, size, workers, variant, folder)) as results,
        tqdm(total=total, initial=total - len(missing), unit="sample", desc="rendering") as bar,
    ):
        for group in results:
            rows |= {row["index"]: row for row in group}
            _append(journal, group)
            bar.update(len(group))
            unsaved += len(group)
            if unsaved >= REFRESH:
                write_metadata(folder, rows)
                unsaved = 0


def _leave_whole(folder: Path, recipe: Recipe, rows: dict[int, dict[str, Any]], missing: list[int]) -> int:
    """After an error: removes files of unfinished samples and lists the finished ones; returns how many there are."""
    for _ in range(2):
        for index in missing:
            if index not in rows:
                for name in file_names(index, recipe.target, recipe.compositing).values():
                    (folder / name).unlink(missing_ok=True)
        try:
            write_metadata(folder, rows)
            break
        except OSError:  # no space for the full list: keep what metadata.jsonl and the journal already list
            rows = read_metadata(folder)
    return len(rows)


# ------------------------------------------------------------------------------------------------ shards


def _link_or_copy(source: Path, target: Path) -> None:
    """Links a file to `target`, or copies it where the file system cannot; complete or absent."""
    if target.exists() and source.samefile(target):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write_bytes(target, source.read_bytes())


def _same_bytes(one: Path, two: Path) -> bool:
    return one.samefile(two) or one.read_bytes() == two.read_bytes()


def join(shards: list[Path], folder: Path, partial: bool = False) -> int:
    """Merges the sets of several runs in `folder`, byte for byte as a single run would have written them.

    Returns the number of samples. Files are hard-linked where the file system can, else copied; samples of the same
    rendering that `folder` already holds stay.

    Raises:
        UserError: the sets are not of one rendering, two of them differ in a sample, a list or a recipe is damaged, or
            (unless `partial`) an index from 0 on or a listed file is missing or a shard is not finished.
        RenderError: `folder` cannot be written, or another run is writing to it.
    """
    home = folder.resolve()  # one of the shards may be the output folder, under any name
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    settings, recipe = read_settings(shards[0]), read_recipe(shards[0])[0]
    sources = [*shards, *([folder] if (folder / "render.json").is_file() else [])]
    for shard in sources:
        other = read_settings(shard)
        for key in sorted({*settings, *other}):
            if other.get(key) != settings.get(key):
                raise UserError(
                    f"'{shard}' was rendered with {key} {other.get(key)}, '{shards[0]}' with {settings.get(key)}; "
                    "join only shards of one rendering"
                )
        if read_recipe(shard)[0] != recipe:
            raise UserError(f"'{shard}' and '{shards[0]}' have different recipes; join only shards of one rendering")
        here = shard.resolve() == home
        if (shard / JOURNAL).exists() and not here and not partial:
            raise UserError(f"'{shard}' is not finished; run its command again, or add --partial")
        for index, row in read_metadata(shard, whole=not here and not partial).items():
            if index not in found:
                found[index] = (shard, row)
                continue
            first, known = found[index]
            if row != known or not all(_same_bytes(first / name, shard / name) for name in files_of(row).values()):
                raise UserError(f"'{first}' and '{shard}' differ in sample {index}; render it again in one of them")
    if not found:
        raise UserError(f"{', '.join(map(str, shards))}: no finished samples; run the shards' commands first")
    gap = next((i for i in range(max(found)) if i not in found), None)
    if gap is not None and not partial:
        raise UserError(
            f"sample {gap} is in none of the {len(shards)} folders; render it (--indices {gap}:{gap + 1}) or the shard "
            "that lacks it, or add --partial to merge the others"
        )
    rows = {index: row for index, (_, row) in found.items()}
    try:
        for name in {Path(n).parent for row in rows.values() for n in files_of(row).values()}:
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            for shard, row in found.values():
                for name in files_of(row).values() if shard.resolve() != home else ():
                    _link_or_copy(shard / name, folder / name)
            for name in ("recipe.yaml", "classes.json", "render.json"):
                if (shards[0] / name).is_file():
                    write_bytes(folder / name, (shards[0] / name).read_bytes())
            write_metadata(folder, rows)
            (folder / JOURNAL).unlink()
    except OSError as error:
        raise RenderError(
            f"--output '{folder}': cannot be written ({error.strerror}); free space there or give another --output."
        ) from error
    return len(rows)
