"""The configs and recipes that ship with sdseg."""

from pathlib import Path


def config_path(name: str) -> Path:
    """A shipped file such as `recipes/fur_solids.yaml`, in the installed package or in the repository."""
    package = Path(__file__).parent
    folder = package / "configs"
    return (folder if folder.is_dir() else package.parent / "configs") / name
