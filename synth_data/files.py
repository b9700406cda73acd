"""The files that a recipe's folders hold, and files found under the names that other programs gave them."""

import os
import re
import sys
import unicodedata
from pathlib import Path

GLTF_SUFFIXES = (".glb", ".gltf")
MESH_SUFFIXES, ENVIRONMENT_SUFFIXES = (".obj", ".ply", *GLTF_SUFFIXES), (".hdr", ".exr")
NO_PICTURES = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow knows these formats, but cannot decode them
TEXTURE_FOLDERS = ("texture", "textures", "tex", "map", "maps", "image", "images", "material", "materials")
# Options before a file name in an MTL file: `-s 1 1 1 wood.png`, `-clamp on wood.png`.
MTL_OPTIONS = re.compile(r"(-type\s+\S+\s+|-[a-z]+(\s+(on|off|[rgbmlz]|[-+.\d][-+.\de]*))*\s+)+", re.IGNORECASE)


def warn(line: str) -> None:
    """Prints a warning on standard error."""
    print(f"warning: {line}", file=sys.stderr)


def picture_suffixes() -> set[str]:
    """The suffixes of pictures that can be read, in lower case."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return {suffix for suffix, kind in known if kind in Image.OPEN and kind not in NO_PICTURES}


def files_below(folder: str | Path) -> list[Path]:
    """Every file in a folder and its subfolders, in no particular order.

    Hidden files and folders (`.DS_Store`, `._photo.jpg`) are left out. Linked folders are followed, but no folder is
    read twice, so that a link back to a folder above it ends there. OSError if the folder itself cannot be listed.
    """
    found: list[Path] = []
    os.listdir(folder)
    read = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        found += [Path(place, name) for name in names if not name.startswith(".")]
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and real not in read:
                read.add(real)
                kept.append(name)
        folders[:] = kept
    return [path for path in found if path.is_file()]


def _same(name: str) -> str:
    """A form in which two spellings of a file name are equal: composed, without case."""
    return unicodedata.normalize("NFC", name).casefold()


def _descend(folder: Path, parts: list[str]) -> Path | None:
    """The file at `parts` below a folder, whatever the case of its name; None if there is none."""
    for part in parts:
        if part == ".." or (folder / part).exists():
            folder = folder / part
            continue
        try:
            alike = [name for name in sorted(os.listdir(folder)) if _same(name) == _same(part)]
        except OSError:
            return None
        if not alike:
            return None
        folder = folder / alike[0]
    return folder if folder.is_file() else None


def find_named(name: str, folder: Path) -> Path | None:
    """The file that a mesh or material library in `folder` names; None if it is not found.

    Tried in this order, the case of letters aside: the path as it is written, with `\\` for `/` too; its last parts
    below the folder (another machine's `C:\\work\\textures\\wood.jpg` as textures/wood.jpg, then as wood.jpg); its base
    name in a folder of TEXTURE_FOLDERS within the folder or beside it. Options of an MTL file before the name are
    ignored.
    """
    name = name.strip()
    for written in dict.fromkeys((name, MTL_OPTIONS.sub("", name, count=1) if name.startswith("-") else name)):
        path = written.strip("\"'").replace("\\", "/")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            continue
        if path.startswith("/") and (found := _descend(Path("/"), parts)):
            return found
        for first in range(len(parts)):
            if found := _descend(folder, parts[first:]):
                return found
        for place in (folder, folder.parent):
            try:
                beside = sorted(child for child in os.listdir(place) if child.casefold() in TEXTURE_FOLDERS)
            except OSError:
                continue
            for child in beside:
                if found := _descend(place / child, parts[-1:]):
                    return found
    return None
