"""The output folder, written alike by every method: a tree of mattes that mirrors the input, and `run.json`.

For an input `sub/photo.jpg` it holds `sub/photo.png` (16-bit matte), and, where asked for,
`sub/photo.uncertainty.png` (16 bit, a standard deviation in alpha units, 65535 = 1), `sub/photo.rgba.png` and
`sub/photo.mask.png` (8 bit, 0 and 255). Of classes `sub/photo.png` holds ids (8-bit palette), the uncertainty is an
entropy in [0, 1], `sub/photo.overlay.png` shows both at once, and `classes.json` names the ids.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from sdseg.errors import NotAFolder, UserError
from sdseg.imaging import list_images, replacing

ALPHA_SUFFIX = ".png"
UNCERTAINTY_SUFFIX = ".uncertainty.png"
RGBA_SUFFIX = ".rgba.png"
MASK_SUFFIX = ".mask.png"
OVERLAY_SUFFIX = ".overlay.png"
SIDE_SUFFIXES = (UNCERTAINTY_SUFFIX, RGBA_SUFFIX, MASK_SUFFIX, OVERLAY_SUFFIX)
CLASSES_RECORD = "classes.json"
RUN_RECORD = "run.json"


def output_names(paths: Sequence[Path], root: str | os.PathLike) -> dict[Path, PurePath]:
    """Input paths beneath `root` -> their names in an output folder, relative and still without suffix.

    `root/sub/photo.jpg` -> `sub/photo`. An input keeps its extension, `sub/photo.jpg`, where the shorter name
    would not be its own (`a.jpg` beside `a.png`; the case of letters does not count) or would read as another
    one's side file (`a.uncertainty.png`).
    """
    relative = {path: PurePath(path.relative_to(root)) for path in paths}
    names = {}
    for path, name in relative.items():
        clear = not (name.stem + ".png").lower().endswith(SIDE_SUFFIXES)
        names[path] = name.with_name(name.stem) if clear else name
    while True:  # a name with extension may meet another's name without (a.jpg, a.png, a.jpg.png)
        count = Counter(str(name).casefold() for name in names.values())
        clashing = [p for p, name in names.items() if count[str(name).casefold()] > 1 and name != relative[p]]
        if not clashing:
            return names
        names.update((path, relative[path]) for path in clashing)


def plan_outputs(input_path: str | os.PathLike, output_dir: str | os.PathLike) -> dict[Path, PurePath]:
    """Lists the pictures of a file or folder and names their outputs; see `list_images` and `output_names`.

    An output folder inside the input folder is not read as input. Raises UserError where a matte would
    replace one of the inputs, UserError where the output folder's name is a file's.
    """
    input_path, output_dir = Path(input_path), Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise NotAFolder(f"{output_dir}: is a file; name a folder for the output")
    root = input_path.parent if input_path.is_file() else input_path
    if output_dir.resolve() == root.resolve():
        raise UserError(f"{output_dir}: holds the input pictures; name another folder for the output")
    return output_names(list_images(input_path, exclude=output_dir), root)


def check_writable(folder: Path) -> None:
    """Raises UserError or UserError if a folder, made or still to be made, is not writable."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotAFolder(f"{folder}: {existing} is a file; name another folder for the output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write in {existing}; name another folder for the output")


def output_file(output_dir: str | os.PathLike, name: PurePath, suffix: str = ALPHA_SUFFIX) -> Path:
    """Where the output called `name` (from `output_names`) lies: `output_dir/<name><suffix>`."""
    return Path(output_dir) / name.with_name(name.name + suffix)


def write_json(path: str | os.PathLike, value: dict | list) -> None:
    """Writes JSON in one step; a number that JSON lacks (NaN, infinity) is an error.

    File names that are no valid text come out as JSON escapes (\\udcXX), which read back as they were.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_run_record(output_dir: str | os.PathLike, record: dict) -> None:
    """Writes `run.json`: what made this folder, from which inputs, and which of them failed.

    `record` holds `method`, `settings` and `inputs`, a list of {"input", "output", "size": [W, H], "seconds"}
    or {"input", "error"}, with paths relative to the input and the output folder. Tool, version and the count
    of failures are added.
    """
    from sdseg import __version__

    failed = sum("error" in entry for entry in record["inputs"])
    record = {"tool": "sdseg", "version": __version__, **record, "failed": failed}
    write_json(Path(output_dir) / RUN_RECORD, record)
