"""Who may import whom, read from the source; and how small the two thin scripts stay."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"classical", "probes", "attnseg", "ddpm", "app"}


def imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, at its top or inside its functions."""
    package = file.relative_to(ROOT).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    return names


def rooms_in(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("sdseg.") and name.split(".")[1] in ROOMS}


def test_the_reader_of_imports_sees_all_kinds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "sdseg").mkdir()
    file = tmp_path / "sdseg" / "x.py"
    file.write_text("import torch.nn\ndef f():\n    from .classical import otsu\n    from sdseg import app\n")
    assert {"torch.nn", "sdseg.classical", "sdseg.app"} <= imports(file)
    assert rooms_in(imports(file)) == {"classical", "app"}


@pytest.mark.parametrize("file", sorted((ROOT / "synth_data").rglob("*.py")), ids=lambda file: file.name)
def test_renderer_imports_neither_torch_nor_sdseg(file):
    assert not {name.split(".")[0] for name in imports(file)} & {"torch", "sdseg", "diffusers"}


@pytest.mark.parametrize("file", sorted((ROOT / "sdseg").rglob("*.py")), ids=lambda file: file.name)
def test_spine_imports_no_room_and_rooms_keep_to_themselves(file):
    home = file.relative_to(ROOT / "sdseg").parts[0]
    assert rooms_in(imports(file)) <= ({home} if home in ROOMS else set())


@pytest.mark.parametrize("name", ["train.py", "infer.py"])
def test_scripts_stay_thin(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 60
