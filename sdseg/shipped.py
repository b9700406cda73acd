"""The configs and recipes that ship with the package: `sdseg configs` lists them, `sdseg configs NAME` copies one."""

import argparse
import re
import shutil
import sys
from pathlib import Path

from sdseg.errors import MissingFile, Parser, UserError, did_you_mean, reported, steady_streams


def configs_folder() -> Path:
    """Where they lie: `sdseg/configs` in an installed package, `configs` in a checkout of the repository."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def config_names() -> list[str]:
    """Their names relative to that folder, sorted, such as `recipes/fur_solids.yaml`."""
    folder = configs_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def config_path(name: str) -> Path:
    """The shipped file of that name; raises MissingFile, with the nearest names, where there is none."""
    path = configs_folder() / name
    if not path.is_file():
        hint = did_you_mean(name, config_names(), cutoff=0.4) or "; `sdseg configs` lists them"
        raise MissingFile(f"no shipped config is called {name!r}{hint}")
    return path


def purpose(path: Path) -> str:
    """What the comment at the top of a config says first; empty where there is no comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#!"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return re.split(r"[.:;](?: |$)", " ".join(lines), maxsplit=1)[0]


def copy_configs(names: list[str], folder: Path) -> list[Path]:
    """Copies shipped files into a folder, which is made if need be; nothing is copied where one would be replaced."""
    sources = [config_path(name) for name in names]
    copies = [folder / source.name for source in sources]
    for copy in copies:
        if copy.exists():
            raise UserError(f"{copy} exists already; move it away, or name another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    for source, copy in zip(sources, copies, strict=True):
        shutil.copyfile(source, copy)
    return copies


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="sdseg configs", description="List the shipped configs and recipes, or copy some of them to edit."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="to copy, as the list has it; none lists them all")
    parser.add_argument(
        "--output", type=Path, default=Path("."), metavar="DIR", help="where to copy to (default: here)"
    )
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    if arguments.names:
        for copy in copy_configs(arguments.names, arguments.output):
            print(copy)
        return
    for name in config_names():
        print(f"{name:32} {purpose(config_path(name))}".rstrip())


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
