"""Which rendered foregrounds two data sets share, by the records that the renderer leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sdseg.data.containers import tar_samples
from sdseg.data.pairs import DataError

# keys of a recipe that say nothing about which subjects are seen, from where and in what light
BESIDE_THE_FOREGROUND = {
    "name", "target", "compositing", "composites_per_foreground", "samples_per_pixel", "max_depth", "background",
    "exposure", "capture", "recompose", "photos",
}  # fmt: skip


def shared_foreground(one: str | Path, other: str | Path) -> int | None:
    """The lowest number of a foreground that two rendered folders both show; None where they share none.

    One seed, one recipe (apart from `BESIDE_THE_FOREGROUND`) and one number make one foreground, whatever its
    background, file name, picture size or noise, and in whatever form the set was exported. Folders without the records
    of `python -m synth_data render` share none.

    Raises:
        UserError: a record that cannot be read.
    """
    origin = _origin(Path(one))
    if origin is None or origin != _origin(Path(other)):
        return None
    return min(_foregrounds(Path(one)) & _foregrounds(Path(other)), default=None)


def _origin(directory: Path) -> tuple[int, dict] | None:
    """Seed and recipe of a rendered folder's foregrounds; None where they are not recorded."""
    import yaml

    from synth_data.store import read_settings

    if not all((directory / name).is_file() for name in ("render.json", "recipe.yaml")):
        return None
    settings = read_settings(directory)
    try:
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text("utf-8"))
        kept = {key: value for key, value in recipe.items() if key not in BESIDE_THE_FOREGROUND}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{directory / 'recipe.yaml'} is not the recipe that `python -m synth_data render` wrote ({error!r}); "
            "render again"
        ) from error
    return (settings["seed"], kept) if "seed" in settings else None


def _foregrounds(directory: Path) -> set[int]:
    """The numbers of a rendered folder's foregrounds, as its samples record them."""
    found = (json.loads(factors) for factors in _recorded_factors(directory))
    return {factors["foreground"] for factors in found if "foreground" in factors}


def _recorded_factors(directory: Path) -> Iterator[str]:
    """The column `factors` of a rendered folder, or of what it was exported to."""
    from synth_data.store import read_rows

    if (directory / "metadata.jsonl").is_file():
        yield from (row["factors"] for _, row in read_rows(directory) if row is not None)
    for path in sorted(directory.glob("*.parquet")):
        import pyarrow.parquet as pq

        yield from pq.read_table(path, columns=["factors"])["factors"].to_pylist()
    for path in sorted(directory.glob("*.tar")):
        with open(path, "rb") as file:
            for part in (parts["json"] for _, parts in tar_samples(path) if "json" in parts):
                file.seek(part.offset)
                yield json.loads(file.read(part.size))["factors"]
