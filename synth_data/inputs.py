"""The files that a recipe names outside itself, read before anything is rendered."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from synth_data import environments, photos
from synth_data.errors import UserError, one_line
from synth_data.files import warn
from synth_data.recipe import Recipe, share_of
from synth_data.subjects import own_meshes

SHOWN = 20  # most lines printed about files of one kind
Job = tuple[str, Callable[[], Any]]  # name of a file, and what reads it


def _jobs(recipe: Recipe) -> dict[str, list[Job]]:
    """Every file that the recipe's pictures may depend on, by kind, and meshes by folder."""
    jobs: dict[str, list[Job]] = {"photos": [], "environments": []}
    for place in recipe.photos if recipe.uses_photos() else ():
        found = photos.open_photos(place)
        for at in range(len(found)):
            name = found.name(at)
            jobs["photos"].append((name, lambda found=found, at=at: photos.look(*found[at])))
    for file in recipe.environment_files if recipe.uses_environments() else ():
        jobs["environments"].append((file, lambda file=file: environments.look(file)))
    if share_of(recipe.families, "own_meshes") > 0:
        for folder, _ in recipe.tables["own_meshes"].folder:
            files = [str(path) for path in own_meshes.files_of(folder)]
            jobs[f"meshes in '{folder}'"] = [(file, lambda file=file: own_meshes.look(file)) for file in files]
    return jobs


def _announce_not_read(recipe: Recipe) -> None:
    """Warns once of each folder that holds photos or meshes of kinds which cannot be read."""
    found = [(p, photos.not_read(p), "convert them to JPEG or PNG") for p in recipe.photos if recipe.uses_photos()]
    if share_of(recipe.families, "own_meshes") > 0:
        for folder, _ in recipe.tables["own_meshes"].folder:
            found.append((folder, own_meshes.not_read(folder), "convert them to OBJ, PLY or glTF"))
    for place, files, remedy in found:
        if files:
            kinds = ", ".join(sorted({path.suffix.lower() for path in files}))
            count = f"{len(files)} files" if len(files) > 1 else "1 file"
            warn(f"'{place}': {count} of kinds that are not read ({kinds}), e.g. '{files[0].name}'; {remedy}")


def warn_each(lines: list[str]) -> None:
    """Prints up to SHOWN warnings, and how many more there are."""
    for line in lines[:SHOWN]:
        warn(line)
    if len(lines) > SHOWN:
        warn(f"and {len(lines) - SHOWN} more files")


def look_at_inputs(recipe: Recipe, workers: int = 1) -> dict[str, str]:
    """Reads every photo, environment and mesh that the recipe may use; returns file -> reason of those it cannot.

    Prints warnings: textures that were not found, parts of meshes that are left out, kinds of files that are not read.
    UserError if no file of a kind, or none of a folder of meshes, is left.
    """
    from tqdm import tqdm

    def result(job: Job) -> tuple[str, str | None, tuple[str, ...]]:
        name, read = job
        try:
            return name, None, read() or ()
        except UserError as error:
            return name, str(error), ()
        except Exception as error:  # whatever a reader raises is that file's fault
            return name, f"'{name}' cannot be read ({one_line(error)}); replace or remove it", ()

    _announce_not_read(recipe)
    jobs, unusable, notes = _jobs(recipe), {}, []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sum(map(len, jobs.values())), desc="reading inputs", unit="file", leave=False, delay=2) as bar,
    ):
        for kind, files in jobs.items():
            faults = {}
            for name, fault, found in pool.map(result, files):
                bar.update()
                if fault is not None:
                    faults[name] = fault
                elif found:
                    notes.append(f"{name}: {'; '.join(found)}")
            if faults and len(faults) == len(files):
                first = next(iter(faults.values()))
                raise UserError(first if len(files) == 1 else f"none of {len(files)} {kind} can be used; {first}")
            unusable |= faults
    warn_each(notes)
    return unusable


def refuse_unusable(unusable: dict[str, str]) -> None:
    """UserError if there are files that cannot be used (file -> reason); several are listed in warnings."""
    if len(unusable) == 1:
        raise UserError(*unusable.values())
    if unusable:
        warn_each(list(unusable.values()))
        raise UserError(
            f"{len(unusable)} of the recipe's input files cannot be used (see the warnings above), e.g. "
            f"'{next(iter(unusable))}'; replace or remove them"
        )
