"""`sdseg calibrate`: scales of known size come back, land in the adapter, and what cannot be fitted is refused."""

import json
import math
import shutil

import numpy as np
import pytest

from sdseg.adapter import read_adapter_config, store_scale, weights_digest
from sdseg.evaluation.calibrate import MIN_PICTURES, fit_scale, main
from sdseg.imaging import read_grey16, write_alpha, write_grey16
from sdseg.outputs import write_run_record
from sdseg.uncertainty import SCALES_LINE, mean_and_variance, scales_line

SAMPLES, SHARED = 8, 1.6
SCALE = math.sqrt(SHARED**2 + 1 / SAMPLES)  # of the error of a mean whose samples share SHARED deviations of it
SETTINGS = {
    "adapter": "runs/x/adapter",
    "num_inference_steps": 4,
    "ensemble_size": SAMPLES,
    "eta": 0.0,
    "target": "alpha",
    "output_uncertainty": True,
}


@pytest.fixture
def adapter(tmp_path):
    """As much of an adapter folder as says what it is."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    config = {
        "pretrained_model_name_or_path": "embedded",
        "revision": None,
        "fingerprint": {},
        "resolution": 64,
        "num_inference_steps": 4,
        "calibration": {"4x8": 1.25, "1x8": 3.0},
        "format_version": 1,
        "of_a_later_version": [1, 2],
    }
    (folder / "sdseg_config.json").write_text(json.dumps(config))
    return folder


def write_run(folder, truth_folder, adapter, applied=None, pictures=MIN_PICTURES + 4, **changes):
    """A run whose samples are over-confident by SCALE: they share an error of SHARED times their own deviation."""
    rng, rows = np.random.default_rng(0), []
    for number in range(pictures):
        truth = rng.uniform(0.4, 0.6, (48, 48))
        deviation = rng.uniform(0.01, 0.06, truth.shape)
        shared = truth + SHARED * deviation * rng.normal(size=truth.shape)
        mean, variance = mean_and_variance(shared + deviation * rng.normal(size=(SAMPLES, *truth.shape)))
        name = f"{number:02}"
        write_alpha(truth_folder / f"{name}.png", truth)
        write_alpha(folder / f"{name}.png", mean)
        write_grey16(folder / f"{name}.uncertainty.png", (applied or 1) * np.sqrt(variance))
        row = {"input": f"{name}.jpg", "output": f"{name}.png", "uncertainty": f"{name}.uncertainty.png"}
        rows.append(row | {"samples": SAMPLES, "calibration_scale": applied})
    record = {"method": "sdseg", "settings": SETTINGS | changes, "adapter_digest": weights_digest(adapter)}
    write_run_record(folder, record | {"inputs": rows})


@pytest.fixture
def folders(adapter, tmp_path):
    write_run(tmp_path / "mattes", tmp_path / "truth", adapter)
    return tmp_path / "mattes", tmp_path / "truth", adapter


def words(mattes, truth, adapter):
    return ["--prediction", str(mattes), "--ground_truth", str(truth), "--adapter", str(adapter)]


# ------------------------------------------------------------------------------------------------- what is fitted


def test_a_known_scale_comes_back_and_covers_as_it_should(folders):
    fit = fit_scale(*folders)
    assert fit.key == "4x8" and fit.pictures == MIN_PICTURES + 4 and fit.before == 1.25
    assert fit.scale == pytest.approx(SCALE, rel=0.02)
    assert list(fit.coverage) == [1.0, 1.25, fit.scale]
    raw, _, fitted = fit.coverage.values()
    # the deviations of 8 samples scatter, so that their quotients are Student's with 7 degrees of freedom, not normal
    np.testing.assert_allclose(list(fitted.values()), [0.649, 0.914, 0.980], atol=0.01)
    assert raw["within_1_std"] < 0.5


def test_a_scale_that_is_in_the_files_is_divided_out(folders, tmp_path):
    plain = fit_scale(*folders).scale
    write_run(tmp_path / "scaled", tmp_path / "truth", folders[2], applied=1.25)
    assert fit_scale(tmp_path / "scaled", *folders[1:]).scale == pytest.approx(plain, rel=1e-3)


def test_the_scale_is_kept_and_nothing_else_changes(folders, capsys):
    adapter = folders[2]
    before = json.loads((adapter / "sdseg_config.json").read_text())
    card = f"# Card\n\n{scales_line(before['calibration'])}\n- other\n"
    (adapter / "README.md").write_text(card)
    assert main(words(*folders)) == 0
    after, scale = json.loads((adapter / "sdseg_config.json").read_text()), fit_scale(*folders).scale
    assert after == before | {"calibration": {"4x8": scale, "1x8": 3.0}}
    assert (adapter / "README.md").read_text() == f"# Card\n\n{scales_line(after['calibration'])}\n- other\n"
    assert f"{scale:.3f} (4x8)" in scales_line(after["calibration"])
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md",
        "adapter_model.safetensors",
        "sdseg_config.json",
    ]
    printed = capsys.readouterr().out
    assert f"scale {scale:.4f} for 4 steps x 8 samples, fitted to {MIN_PICTURES + 4} pictures" in printed
    rows = [line for line in printed.splitlines() if "times" in line or "samples'" in line]
    assert ["1.2500" in row for row in rows] == [False, True, False] and f"{scale:.4f}" in rows[2]
    assert [len(row.split()[-3:]) for row in rows] == [3, 3, 3]


def test_a_card_without_the_line_and_an_adapter_without_a_card_stay_so(adapter):
    assert store_scale(adapter, "4x8", 2.0) == {"4x8": 2.0, "1x8": 3.0}
    assert not (adapter / "README.md").exists()
    (adapter / "README.md").write_text("mine\n")
    store_scale(adapter, "4x2", 1.5)
    assert (adapter / "README.md").read_text() == "mine\n"
    assert read_adapter_config(adapter).calibration == {"4x8": 2.0, "1x8": 3.0, "4x2": 1.5}


def test_a_break_while_writing_leaves_the_adapter_as_it_was(adapter, monkeypatch):
    before = (adapter / "sdseg_config.json").read_text()
    monkeypatch.setattr("sdseg.adapter._write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store_scale(adapter, "4x8", 2.0)
    assert (adapter / "sdseg_config.json").read_text() == before
    assert not list(adapter.glob(".*"))


def test_the_line_of_cards_is_told_by_its_beginning():
    assert scales_line({"4x8": 1.6787}) == f"{SCALES_LINE}1.679 (4x8) (steps x samples)"


# ------------------------------------------------------------------------------------------------ what is refused


def refused(words, capsys) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and captured.out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_uncertainty": False}, "has no uncertainties; run infer again with --output_uncertainty"),
        ({"ensemble_size": "auto"}, "run infer with each number, 2, 4 and 8"),
        ({"eta": 0.5}, "was drawn with eta 0.5; scales hold for eta 0"),
        ({"target": "classes"}, "the entropy of votes; it has no scale"),
        ({"pictures": 3}, f"3 pictures are too few for a scale; give {MIN_PICTURES} or more"),
    ],
)
def test_runs_that_give_no_scale(changes, message, adapter, tmp_path, capsys):
    before = (adapter / "sdseg_config.json").read_text()
    write_run(tmp_path / "mattes", tmp_path / "truth", adapter, **({"pictures": MIN_PICTURES} | changes))
    assert message in refused(words(tmp_path / "mattes", tmp_path / "truth", adapter), capsys)
    assert (adapter / "sdseg_config.json").read_text() == before


def test_another_adapter_is_refused_and_a_copy_is_not(folders, tmp_path, capsys):
    mattes, truth, adapter = folders
    other = shutil.copytree(adapter, tmp_path / "other")
    assert fit_scale(mattes, truth, other).key == "4x8"
    (other / "adapter_model.safetensors").write_bytes(b"others")
    line = refused(words(mattes, truth, other), capsys)
    assert "made with the adapter runs/x/adapter" in line and str(other) in line


def test_adapters_that_are_no_folder(folders, capsys):
    for name in ("embedded", "someone/some-adapter"):
        assert "give the path of a folder that holds sdseg_config.json" in refused(words(*folders[:2], name), capsys)


def test_missing_pictures_are_named(folders, capsys):
    mattes, truth, adapter = folders
    (truth / "03.png").rename(truth.parent / "03.png")
    assert "1 mattes have no ground truth: 03; add theirs" in refused(words(*folders), capsys)
    (truth.parent / "03.png").rename(truth / "03.png")
    (mattes / "05.uncertainty.png").unlink()
    assert "05.png: has no uncertainty beside it" in refused(words(*folders), capsys)
    (mattes / "05.png").unlink()
    assert "1 of 20 truths have no prediction: 05" in refused(words(*folders), capsys)


def test_folders_that_infer_did_not_write(folders, capsys):
    mattes, truth, adapter = folders
    record = json.loads((mattes / "run.json").read_text())
    (mattes / "run.json").write_text(json.dumps(record | {"inputs": record["inputs"][1:]}))
    assert "1 mattes are not in its run.json" in refused(words(*folders), capsys)
    (mattes / "run.json").write_text(json.dumps({key: record[key] for key in record if key != "adapter_digest"}))
    assert "an older sdseg made it" in refused(words(*folders), capsys)
    (mattes / "run.json").unlink()
    assert "has no run.json of sdseg infer" in refused(words(*folders), capsys)


def test_values_that_fit_no_scale(folders, capsys):
    mattes, truth, adapter = folders
    for file in truth.iterdir():
        shutil.copy(mattes / file.name, file)
    assert "equals the mattes" in refused(words(*folders), capsys)
    for file in mattes.glob("*.uncertainty.png"):
        write_grey16(file, np.zeros((48, 48)))
    assert "0 everywhere" in refused(words(*folders), capsys)


def test_a_scaled_deviation_that_the_file_cuts_off_is_not_divided(folders, tmp_path, capsys):
    write_run(tmp_path / "scaled", tmp_path / "truth", folders[2], applied=1.25)
    file = tmp_path / "scaled" / "07.uncertainty.png"
    values = read_grey16(file)
    values[3, 4] = 1
    write_grey16(file, values)
    line = refused(words(tmp_path / "scaled", *folders[1:]), capsys)
    assert "07: its uncertainty" in line and "reaches 1" in line and "--raw_uncertainty" in line
