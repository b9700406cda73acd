"""Finds foregrounds that two rendered data sets have in common, from the renderer's records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sdseg.data.containers import tar_samples
from sdseg.data.pairs import DataError
from sdseg.imaging import find_files

# keys of a recipe that do not change the foregrounds: which subjects are seen, from where and in what light
NOT_OF_THE_FOREGROUND = {
    "name", "target", "compositing", "composites_per_foreground", "samples_per_pixel", "max_depth", "background",
    "exposure", "capture", "recompose", "photos", "licences",
}  # fmt: skip


def shared_foreground(one: str | Path, other: str | Path) -> int | None:
    """The lowest number of a foreground that appears in both rendered folders; None if there is none.

    Seed, recipe (apart from `NOT_OF_THE_FOREGROUND`) and number identify a foreground, whatever its background, file
    name, picture size or noise, and however the data set was exported. A folder without the records of
    `sdseg render` shares no foreground with another.

    Raises:
        UserError: a record cannot be read.
    """
    origin = _origin(Path(one))
    if origin is None or origin != _origin(Path(other)):
        return None
    return min(_foregrounds(Path(one)) & _foregrounds(Path(other)), default=None)


def _origin(directory: Path) -> tuple[int, dict] | None:
    """Seed and recipe of a rendered folder's foregrounds; None if they are not recorded."""
    import yaml

    from synth_data.store import read_settings

    if not all((directory / name).is_file() for name in ("render.json", "recipe.yaml")):
        return None
    settings = read_settings(directory)
    try:
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text("utf-8"))
        recipe = {key: value for key, value in recipe.items() if key not in NOT_OF_THE_FOREGROUND}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{directory / 'recipe.yaml'} is not the recipe that `sdseg render` wrote ({error!r}); render again"
        ) from error
    return (settings["seed"], recipe) if "seed" in settings else None


def _foregrounds(directory: Path) -> set[int]:
    """The numbers of a rendered folder's foregrounds, as recorded with its samples."""
    samples = (json.loads(factors) for factors in _recorded_factors(directory))
    return {factors["foreground"] for factors in samples if "foreground" in factors}


def _recorded_factors(directory: Path) -> Iterator[str]:
    """The column `factors` of a rendered folder or of its export."""
    from synth_data.store import read_rows

    if (directory / "metadata.jsonl").is_file():
        yield from (row["factors"] for _, row in read_rows(directory) if row is not None)
    for path in find_files(directory, {".parquet"}).pictures:
        import pyarrow.parquet as pq

        yield from pq.read_table(path, columns=["factors"])["factors"].to_pylist()
    for path in find_files(directory, {".tar"}).pictures:
        with open(path, "rb") as file:
            for part in (parts["json"] for _, parts in tar_samples(path) if "json" in parts):
                file.seek(part.offset)
                yield json.loads(file.read(part.size))["factors"]
