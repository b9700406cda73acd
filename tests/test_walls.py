"""Who may import whom, read from the source; docs/architecture.md draws the same."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = {
    "adapter", "errors", "imaging", "lean_imports", "memory", "merging", "metadata", "model", "outputs", "processes",
    "seeds", "targets", "uncertainty",
}  # fmt: skip
WINGS = {  # wing -> the wings it may import
    "data": set(),
    "inference": set(),
    "evaluation": set(),
    "training": {"data", "inference", "evaluation"},
}
ROOMS = {"classical", "embedded"}
DOORS = {
    "__init__",
    "__main__",
    "cli",
    "demo",
    "pipeline",
    "shipped",
}  # imported by no other
SOURCES = sorted(file for folder in ("sdseg", "synth_data") for file in (ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def parts_in(names: set[str]) -> set[str]:
    """Wings, rooms and modules of the ground among dotted names."""
    return {name.split(".")[1] for name in names if name.startswith("sdseg.")}


def exports(stub: Path) -> dict[str, str]:
    """What a package's `__init__.pyi` re-exports: public name -> the module it comes from."""
    package = ".".join(stub.relative_to(ROOT).parts[:-1])
    found = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name: f"{package}.{node.module}" for alias in node.names}
    return found


def graph(files: list[Path]) -> dict[str, set[str]]:
    """Module -> the modules it imports, those behind a package's re-exported names in the package's place."""
    modules = {module_of(file): file for file in files}
    public = {module_of(stub.with_suffix(".py")): exports(stub) for stub in ROOT.rglob("sdseg/**/__init__.pyi")}
    edges = {}
    for module, file in modules.items():
        found = set()
        for name in imports(file):
            package, _, last = name.rpartition(".")
            name = public.get(package, {}).get(last, name)
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name not in public:
                found.add(name)
        edges[module] = found - {module}
    return edges


def circle_in(edges: dict[str, set[str]]) -> list[str] | None:
    """The modules along one circle of imports; None where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return None
        for other in sorted(edges[module]):
            if found := walk(other, [*path, module]):
                return found
        done.add(module)
        return None

    return next((found for module in sorted(edges) if (found := walk(module, []))), None)


def test_the_readers_of_imports_see_all_kinds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "sdseg" / "wing").mkdir(parents=True)
    file = tmp_path / "sdseg" / "x.py"
    file.write_text("import torch.nn\ndef f():\n    from .classical import otsu\n    from sdseg import app\n")
    assert imports(file) == {"torch.nn", "sdseg.classical.otsu", "sdseg.app"}
    assert parts_in(imports(file)) == {"classical", "app"}
    wing = tmp_path / "sdseg" / "wing"
    (wing / "__init__.pyi").write_text("from .one import name\n")
    (wing / "__init__.py").write_text("")
    (wing / "one.py").write_text("def g():\n    import sdseg.wing.two\n")
    (wing / "two.py").write_text("from sdseg.wing import name\n")  # through the package: a circle all the same
    edges = graph(sorted(wing.glob("*.py")))
    assert edges == {"sdseg.wing": set(), "sdseg.wing.one": {"sdseg.wing.two"}, "sdseg.wing.two": {"sdseg.wing.one"}}
    assert circle_in(edges) == ["sdseg.wing.one", "sdseg.wing.two"]


def test_every_folder_and_module_has_its_place():
    folders = {path.name for path in (ROOT / "sdseg").iterdir() if (path / "__init__.py").is_file()}
    assert folders == WINGS.keys() | ROOMS
    modules = {path.stem for path in (ROOT / "sdseg").glob("*.py")}
    assert modules == GROUND | DOORS


@pytest.mark.parametrize("files", [SOURCES, sorted((ROOT / "benchmarks").glob("*.py"))], ids=["package", "benchmarks"])
def test_no_imports_run_in_a_circle(files):
    edges = graph(files)
    if files is not SOURCES:  # scripts import one another by their bare names
        edges = {
            file.stem: {
                name.partition(".")[0]
                for name in imports(file)
                if (file.parent / f"{name.partition('.')[0]}.py").is_file()
            }
            for file in files
        }
    assert any(edges.values())
    assert circle_in(edges) is None


@pytest.mark.parametrize("file", sorted((ROOT / "synth_data").rglob("*.py")), ids=module_of)
def test_renderer_imports_neither_torch_nor_sdseg(file):
    assert not {name.split(".")[0] for name in imports(file)} & {"torch", "sdseg", "diffusers"}


@pytest.mark.parametrize("file", sorted((ROOT / "sdseg").rglob("*.py")), ids=module_of)
def test_imports_run_from_doors_and_rooms_through_wings_to_the_ground(file):
    home = file.relative_to(ROOT / "sdseg").parts[0].removesuffix(".py")
    used = parts_in(imports(file)) - {home, "__version__"}
    if home not in DOORS:
        assert not used & DOORS
    if home in GROUND:
        assert used <= GROUND
    elif home in WINGS:
        assert used <= GROUND | WINGS[home]
    elif home in ROOMS:
        assert used <= GROUND | WINGS.keys()


@pytest.mark.parametrize("name", ["train.py", "infer.py"])
def test_scripts_stay_thin(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 60


def test_functions_of_training_stay_short():
    for file in sorted((ROOT / "sdseg" / "training").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file.name}: {node.name}"
