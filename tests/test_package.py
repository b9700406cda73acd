"""The wheel, installed outside the repository: what is in it, and that it mattes a photo without any extra."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdseg import shipped
from sdseg.imaging import read_alpha

ROOT = Path(__file__).parent.parent
EXTRAS = {"mitsuba", "OpenEXR", "trimesh", "skimage", "sklearn", "pymatting", "nibabel"}  # as they are imported
OF_EXTRAS = EXTRAS | {"openexr", "scikit_image", "scikit_learn", "numba"}  # and as their metadata is called


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (built,) = folder.glob("sdseg-*.whl")
    return built


def run(python: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    """`python -I -m sdseg ...` in a folder of its own: neither it nor PYTHONPATH is searched for modules."""
    command = [str(python), "-I", "-m", "sdseg", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def matte_a_photo(python: Path, folder: Path) -> None:
    y, x = np.mgrid[-1:1:48j, -1:1:64j]
    photo = np.where((x**2 + y**2 < 0.4)[..., None], (200, 60, 40), (90, 120, 90)).astype(np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    matted = run(python, folder, "infer", "--input", "photo.png", "--output", "out", "--num_inference_steps", "1")
    assert matted.returncode == 0, matted.stderr
    assert read_alpha(folder / "out" / "photo.png").shape == (48, 64)


def test_the_wheel_holds_what_the_package_needs_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"sdseg", "synth_data", next(top for top in tops if top.endswith(".dist-info"))}
    wanted = {file.relative_to(ROOT).as_posix() for top in ("sdseg", "synth_data") for file in (ROOT / top).rglob("*")
              if file.is_file() and "__pycache__" not in file.parts}  # fmt: skip
    assert wanted | {f"sdseg/configs/{name}" for name in shipped.config_names()} == {
        name for name in names if not name.startswith("sdseg-")
    }


def test_a_photo_is_matted_from_the_wheel_without_extras(wheel, tmp_path):
    """The fresh environment borrows its dependencies from this one, all but those of the extras."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.partition("-")[0].partition(".")[0]
        if name not in OF_EXTRAS and "sdseg" not in entry.name:
            (site / entry.name).symlink_to(entry)
    zipfile.ZipFile(wheel).extractall(site)
    matte_a_photo(python, tmp_path)

    listed = run(python, tmp_path, "configs").stdout
    assert all(name in listed for name in shipped.config_names())
    assert run(python, tmp_path, "configs", "recipes/fur_solids.yaml").stdout == "fur_solids.yaml\n"
    original = (ROOT / "configs" / "recipes" / "fur_solids.yaml").read_bytes()
    assert (tmp_path / "fur_solids.yaml").read_bytes() == original
    again = run(python, tmp_path, "configs", "recipes/fur_solids.yaml")
    assert again.returncode == 2 and again.stderr.startswith("error: fur_solids.yaml exists already")

    refused = run(python, tmp_path, "preview", "--recipe", "fur_solids.yaml", "--count", "1", "--output", "sheet.png")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("error: rendering needs mitsuba") and "sdseg[render]" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_photo_is_matted_from_the_wheel_with_its_own_dependencies(wheel, tmp_path):
    """Downloads the default dependencies (torch among them) into a fresh environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(list(map(str, install)), check=True)
    for name in EXTRAS:
        assert subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode, name
    matte_a_photo(python, tmp_path)


def test_an_unknown_config_names_the_nearest(tmp_path, capsys):
    assert shipped.main(["recipes/fur_solid.yaml", "--output", str(tmp_path)]) == 2
    assert "did you mean 'recipes/fur_solids.yaml'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
