"""The table of results: benchmarks/quality.py on a tiny set that is generated here."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from sdseg.evaluation.metrics import paired_comparison
from sdseg.imaging import read_alpha, read_image, write_alpha, write_image
from tests.conftest import picture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "quality.py"
sys.path.insert(0, str(SCRIPT.parent))

import quality  # noqa: E402
import quality_config  # noqa: E402
import quality_page  # noqa: E402

OTSU = "python -m sdseg.classical --method otsu --input {images} --output {output}"
BAD = "python -m sdseg.classical --method grabcut --box 0 0 9999 9999 --input {images} --output {output}"


def base_config() -> dict:
    """Two sets, one of them not here, and two methods that cost nothing."""
    return {
        "reference": "best",
        "resamples": 50,
        "leads": {"discs": "trimap"},
        "sets": {
            "discs": {
                "title": "Discs",
                "kind": "matte",
                "images": "image",
                "truths": "alpha",
                "trimaps": "trimap",
                "pattern": "disc_*",
                "longest_side": 24,
            },
            "aim-500": {"title": "AIM-500", "dataset": "aim-500"},
        },
        "methods": {
            "best": {"title": "best constant", "built_in": "best_constant"},
            "trimap": {"title": "trimap", "built_in": "trimap"},
        },
    }


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Project:
    """A data root, a config and what the script makes of them."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture):
        self.folder, self.data, self.capture = folder, folder / "data", capture
        self.config, self.page = base_config(), folder / "docs" / "results.md"
        y, x = np.mgrid[0:32, 0:48]
        for number in range(3):
            alpha = np.clip(10 - np.hypot(y - 16, x - 16 - 4 * number), 0, 1)
            trimap = np.where(alpha == 0, 0, np.where(alpha == 1, 1, 0.5))
            write_image(self.data / "image" / f"disc_{number}.png", picture(32, 48, number))
            write_alpha(self.data / "alpha" / f"disc_{number}.png", alpha)
            write_alpha(self.data / "trimap" / f"disc_{number}.png", trimap)
        write_image(self.data / "image" / "other.png", picture(32, 48))  # not of the pattern, and without a trimap
        write_alpha(self.data / "alpha" / "other.png", np.zeros((32, 48)))

    def run(self, *words: str | Path, data: bool = True) -> Result:
        file = self.folder / "quality.yaml"
        file.write_text(yaml.safe_dump(self.config, sort_keys=False))
        places = ["--config", file, "--work", self.folder / "work", "--output", self.page, "--workers", "1"]
        places += ["--data_root", self.data] if data else []
        code = quality.main([str(word) for word in (*places, *words)])
        return Result(code, *self.capture.readouterr())

    def judged(self, method: str) -> dict:
        return json.loads((self.folder / "work" / "discs" / method / "judged.json").read_text())


@pytest.fixture
def project(tmp_path, capsys, monkeypatch) -> Project:
    monkeypatch.chdir(ROOT)
    return Project(tmp_path, capsys)


def test_a_run_fills_the_page_and_a_second_one_does_nothing(project):
    project.config["methods"]["otsu"] = {"title": "Otsu", "command": OTSU, "depends": ["sdseg/classical"]}
    project.config["methods"]["otsu"]["packages"] = ["numpy"]
    first = project.run()
    assert first.returncode == 0, first.stderr
    page = project.page.read_bytes()
    text = page.decode()
    assert str(project.folder) not in text and str(ROOT) not in text
    assert "longer side reduced to 24" in text and "24x16 pixels" in text and "3 pictures" in text
    assert (
        "`python -m sdseg.classical --method otsu --input $WORK/discs/inputs/images --output $WORK/discs/otsu" in text
    )
    assert "held: discs, whole picture: trimap leads every method without a trimap" in text

    # the table is what evaluating the folders gives, and the constant is the mean of the truths
    truths = [read_alpha(project.folder / "work" / "discs" / "inputs" / "truths" / f"disc_{k}.png") for k in range(3)]
    constant = np.mean([truth.mean(dtype=float) for truth in truths])
    mse = np.mean([((truth.astype(float) - constant) ** 2).mean() for truth in truths])
    assert project.judged("best")["made"]["value"] == pytest.approx(constant, abs=1e-7)
    assert project.judged("best")["result"]["mean"]["mse"] == pytest.approx(mse, abs=1e-5)
    assert project.judged("otsu")["result"]["bands"]["unknown"]["count"] == 3

    second = project.run()
    assert second.returncode == 0 and "nothing to do" in second.stdout
    assert "otsu:" not in second.stdout  # no command was run
    assert project.page.read_bytes() == page


def test_what_is_not_here_stays_in_the_table_with_its_command(project):
    project.config["methods"]["sd2"] = {
        "title": "SD2",
        "command": "python infer.py --adapter runs/none --input {images} --output {output}",
        "depends": ["runs/no such adapter"],
        "get": "accelerate launch train.py",
    }
    project.config["methods"]["peer"] = {"title": "peer", "folder": "no such maps", "sets": ["discs"]}
    project.config["methods"]["other"] = {"title": "other", "built_in": "trimap", "packages": ["no-such-distribution"]}
    result = project.run()
    assert result.returncode == 0, result.stderr
    text = project.page.read_text()
    again = r"python benchmarks/quality\.py --config quality\.yaml --sets"
    assert re.search(rf"`{again} aim-500 --data aim-500=DIR` fills the rows of best, sd2", text)
    assert re.search(rf"accelerate launch train\.py && {again} discs --methods sd2 --data_root \$DATA`", text)
    assert "`$DATA/no such maps` does not exist" in text
    assert "no-such-distribution is not installed" in text
    assert text.count("| not run |") >= 6  # three rows in each of two tables

    # without its data a set that was judged is shown as it was
    assert project.run(data=False).returncode == 0
    assert project.page.read_text() == text.replace("`$DATA/no such maps` does not exist", "data not given")

    # another set's folder is refused, in the page too
    result = project.run("--data", f"aim-500={project.data}")
    assert result.returncode == 1 and "is not laid out as AIM-500" in result.stderr
    assert "**Failed**" in project.page.read_text()


def test_a_method_that_fails_is_shown_and_the_rest_kept(project):
    project.config["methods"]["bad"] = {"title": "bad", "command": BAD}
    result = project.run()
    assert result.returncode == 1
    assert "error: discs, bad:" in result.stderr and "9999" in result.stderr
    text = project.page.read_text()
    assert "**failed**" in text and "failed: " in text and str(project.folder) not in text
    assert project.judged("best") and "2 judged" in result.stdout
    assert project.run().returncode == 1  # it is tried again


def test_a_changed_setting_runs_that_row_alone(project):
    command = "python -m sdseg.classical --method constant_{} --input {{images}} --output {{output}}"
    project.config["methods"]["flat"] = {"title": "flat", "command": command.format(0)}
    assert project.run().returncode == 0
    before = {name: project.judged(name) for name in ("best", "trimap", "flat")}
    project.config["methods"]["flat"]["command"] = command.format(1)
    result = project.run()
    assert result.returncode == 0 and "1 rows made" in result.stdout
    assert "discs, flat:" in result.stdout and "discs, best:" not in result.stdout
    after = {name: project.judged(name) for name in before}
    assert after["best"] == before["best"] and after["flat"]["result"]["mean"] != before["flat"]["result"]["mean"]

    # a changed picture runs every row again; a changed title none
    write_alpha(project.data / "alpha" / "disc_0.png", np.ones((32, 48)))
    assert "3 rows made" in project.run().stdout
    project.config["methods"]["flat"]["title"] = project.config["sets"]["discs"]["title"] = "new"
    assert "nothing to do" in project.run().stdout


def test_an_interrupted_method_is_made_afresh(project):
    assert project.run("--methods", "best").returncode == 0
    mattes = project.folder / "work" / "discs" / "trimap" / "mattes"
    write_alpha(mattes / "left over.png", np.zeros((4, 4)))
    assert "1 rows made" in project.run().stdout
    assert not (mattes / "left over.png").exists() and (mattes / "disc_0.png").exists()


def test_a_lead_that_does_not_hold_is_an_error(project):
    truths = project.data / "alpha"
    for file in truths.glob("disc_*"):  # the best constant is then the truth itself
        write_alpha(file, np.full((32, 48), 0.25))
    result = project.run()
    assert result.returncode == 1 and "does NOT lead" in result.stderr
    assert "DID NOT HOLD" in project.page.read_text()


def test_renders_may_be_shown_and_a_rendered_set_is_kept(project):
    """What rendering leaves is laid down here, so that nothing is rendered: that is tested where it is at home."""
    made = {"recipe": "configs/recipes/fur_solids.yaml", "count": 3, "size": 32, "seed": 5}
    digests = {"recipe": made["recipe"], "renderer": "synth_data"}
    code = {f"{name}_digest": quality.digest(ROOT / place) for name, place in digests.items()}
    key = made | code | {"mitsuba": version("mitsuba")}
    folder = project.folder / "work" / "ours"
    for number in range(3):
        write_image(folder / "rendered" / "images" / f"{number}.png", picture(32, 32, number))
        write_alpha(folder / "rendered" / "alpha" / f"{number}.png", np.full((32, 32), number / 2))
    quality.write_json(folder / "rendered.json", key)
    project.config["sets"] = {"ours": {"title": "Ours", "kind": "matte", "render": made, "strip": ["best"]}}
    del project.config["leads"], project.config["methods"]["trimap"]

    result = project.run()
    assert result.returncode == 0, result.stderr
    text = project.page.read_text()
    assert "`python -m synth_data render --recipe configs/recipes/fur_solids.yaml --count 3 --size 32 --seed 5`" in text
    assert "Only the transition band" in text and "pictures/results/ours.jpg" in text
    strip = read_image(project.page.parent / "pictures" / "results" / "ours.jpg")
    side, gap, head = 128, 4, 4 + 20  # a margin and a line of captions
    assert strip.shape == (head + 3 * (side + gap), gap + 3 * (side + gap), 3)
    middle = [strip[head + side // 2 + row * (side + gap), 2 * gap + side + side // 2] for row in range(3)]  # truths
    levels = sorted(int(colour.mean()) for colour in middle)
    assert levels == pytest.approx([0, 128, 255], abs=2)
    assert levels[1] == pytest.approx(int(middle[0].mean()), abs=2)  # the constant is best at 0.5, so it comes first


def test_comparison_is_the_paired_one():
    rng = np.random.default_rng(3)
    first, second, reference = ({"images": [{"name": f"{k}", "mad": rng.random()} for k in range(7)]} for _ in range(3))
    config = quality_config.Quality({}, {}, "", resamples=200, seed=4)
    for found, result in zip(
        quality_page.compared(config, [first, second], reference, "mad"), (first, second), strict=True
    ):
        one, other = ([entry["mad"] for entry in judged["images"]] for judged in (result, reference))
        pair = paired_comparison(np.array(one), np.array(other), np.random.default_rng(4), True, 0.95, 200)
        figures = [float(text) for text in re.findall(r"-?[\d.]+", found[0])]
        assert figures == pytest.approx([pair[key] for key in ("difference", "low", "high")], rel=0.01, abs=1e-5)
        assert found[1] == f"{100 * pair['won']:.0f} %"


def test_inputs_are_reduced_by_area_and_trimaps_stay_sure():
    values = np.arange(48, dtype=np.float32).reshape(4, 12)
    assert [quality.reduced_shape((4, 12), side) for side in (6, 12, 0)] == [(2, 6), (4, 12), (4, 12)]
    blocks = values.reshape(2, 2, 6, 2).mean((1, 3))
    np.testing.assert_allclose(quality.reduced(values, (2, 6)), blocks)
    trimap = np.array([[255, 255, 0, 0, 255, 255], [255, 255, 0, 128, 255, 0]], np.uint8)
    np.testing.assert_array_equal(quality.reduced_trimap(trimap, (1, 3)), [[1, 0.5, 0.5]])
    odd = np.full((7, 7), 255, np.uint8)  # pixels that are covered in part
    np.testing.assert_array_equal(quality.reduced_trimap(odd, (3, 3)), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("sets", "discs", "longest_sied"), 3, r"sets\.discs\.longest_sied: no such key; did you mean 'longest_side'"),
        (("sets", "discs", "longest_side"), "3", r"longest_side: is '3'; give a whole number"),
        (("sets", "discs", "kind"), "clases", r"sets\.discs\.kind: is 'clases'; write matte or binary"),
        (("sets", "discs", "dataset"), "aim-500", r"sets\.discs: give one of render, images with truths, and dataset"),
        (("sets", "discs", "strip"), ["best"], r"strip: only our own renders may be redistributed"),
        (("sets", "aim-500", "dataset"), "aim500", r"unknown data set 'aim500'; did you mean 'aim-500'"),
        (("methods", "best", "command"), OTSU, r"methods\.best: give one of command, folder and built_in"),
        (("methods", "best", "built_in"), "wurst", r"built_in: is 'wurst'; choose among best_constant, trimap"),
        (("methods", "best", "sets"), ["disc"], r"best\.sets: there is no 'disc'; choose among aim-500, discs"),
        (("methods", "new"), {"title": "x", "command": "ls"}, r"methods\.new\.command: needs the arguments \{images\}"),
        (("methods", "new"), {"built_in": "trimap"}, r"methods\.new: title is missing; add it"),
        (("reference",), "wurst", r"reference: there is no 'wurst'; choose among best, trimap"),
        (("confidence",), 95.0, r"confidence: is 95.0; give a share between 0 and 1"),
    ],
)
def test_config_errors_name_key_and_remedy(tmp_path, place, value, message):
    config = base_config()
    entry = config
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    file = tmp_path / "quality.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=message):
        quality_config.load_config(file)


def test_command_line_errors_take_one_line(project):
    for words, message in (
        (["--sets", "disc"], "--sets: there is no 'disc'"),
        (["--data", "discs=x"], "--data discs=x: write NAME=DIR, NAME one of aim-500"),
        (["--workers", "0"], "--workers 0: give at least 1"),
        (["--quoted", "missing.yaml"], "missing.yaml: cannot be read"),
    ):
        result = project.run(*words)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not project.page.exists()


def test_whatever_decides_a_figure_judges_again():
    """All modules of the package that the evaluator imports, except those that only name or show files."""
    import ast

    aside = {"errors", "outputs", "evaluation/page", "evaluation/report", "evaluation/tables", "targets"}
    visited, queue = set(), ["evaluation/evaluate"]
    while queue:
        name = queue.pop()
        if name in visited | aside or not (ROOT / "sdseg" / f"{name}.py").is_file():
            continue
        visited.add(name)
        tree = ast.parse((ROOT / "sdseg" / f"{name}.py").read_text())
        imports = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        queue += [module.removeprefix("sdseg.").replace(".", "/") for module in imports if module.startswith("sdseg.")]
    assert {f"sdseg/{name}.py" for name in visited} == set(quality.JUDGES)


def test_shipped_config_and_quoted_figures_are_well_formed():
    from sdseg.classical.methods import METHODS, TRIMAP_METHODS
    from sdseg.evaluation.benchmark_sets import SETS

    config = quality_config.load_config(ROOT / "configs" / "benchmarks" / "quality.yaml")
    named = {match[1] for m in config.methods.values() if (match := re.search(r"classical --method (\S+)", m.command))}
    assert named == {*METHODS, *TRIMAP_METHODS}
    for name, method in config.methods.items():
        if "classical" in method.command:
            assert f"--method {name} " in method.command
            assert all((ROOT / path).exists() for path in method.depends)
            assert ("{trimaps}" in method.command) == (name in TRIMAP_METHODS)
    assert not quality_config.applicable("knn", config.methods["knn"], "salient", config.sets["salient"])

    tables = quality_config.read_quoted(ROOT / "configs" / "benchmarks" / "quoted.yaml")
    assert sum(len(figures) for table in tables for figures in table.figures.values()) > 100
    for table in tables:
        assert re.match(r"(github\.com|huggingface\.co|arxiv\.org)/\S+", table.verified), table.source
        assert table.dataset in SETS or table.dataset in config.sets or table.dataset.startswith("few-shot")
        assert set(table.units) == {name for figures in table.figures.values() for name in figures}


def test_quoted_figures_need_units_and_numbers(tmp_path):
    entry = {key: "x" for key in ("dataset", "source", "verified", "protocol", "resolution")}
    for figures, message in (({"m": {"SAD": 1}}, "SAD: has no unit"), ({"m": {"MSE": "1"}}, "MSE: is '1'; give a num")):
        file = tmp_path / "quoted.yaml"
        file.write_text(yaml.safe_dump([entry | {"units": {"MSE": ""}, "figures": figures}]))
        with pytest.raises(ValueError, match=message):
            quality_config.read_quoted(file)


def test_help_loads_nothing_heavy():
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'cv2', 'scipy', 'skimage', 'numpy', 'mitsuba'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "usage" in result.stdout, result.stderr
