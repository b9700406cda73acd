import json
import math
import subprocess
import sys

import numpy as np
import pytest

from sdseg import metrics
from sdseg.evaluate import evaluate_folder, main
from sdseg.imaging import read_alpha, read_grey16, write_alpha, write_grey16, write_image

NAMES = ("a", "sub/b", "sub/c.v2")


@pytest.fixture
def folders(tmp_path):
    """Three predictions with uncertainty, two of them in a subfolder, and their truth; all of other sizes."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        shape = (20 + number, 30)
        truth = np.clip(rng.normal(0.5, 0.5, shape), 0, 1)
        deviation = rng.uniform(0, 0.1, shape)
        prediction = np.clip(truth + 2 * deviation * rng.normal(size=shape), 0, 1)
        write_alpha(tmp_path / "truth" / f"{name}.png", truth)
        write_alpha(tmp_path / "prediction" / f"{name}.png", prediction)
        write_grey16(tmp_path / "prediction" / f"{name}.uncertainty.png", deviation)
        write_image(tmp_path / "prediction" / f"{name}.rgba.png", np.zeros((*shape, 4), np.uint8))
    return tmp_path / "prediction", tmp_path / "truth"


def test_figures_are_those_of_the_files(folders):
    prediction, truth = folders
    result = evaluate_folder(prediction, truth)
    assert [entry["name"] for entry in result["images"]] == list(NAMES)
    pairs = {name: [read_alpha(folder / f"{name}.png") for folder in folders] for name in NAMES}
    for number, entry in enumerate(result["images"]):
        alpha, true = pairs[entry["name"]]
        assert entry["size"] == [30, 20 + number]
        for key in ("sad", "mad", "mse", "grad", "conn", "iou", "boundary_f"):
            assert entry[key] == getattr(metrics, key)(alpha, true)
    assert result["mean"]["count"] == 3
    for key in ("sad", "mad", "iou"):
        assert result["mean"][key] == pytest.approx(np.mean([entry[key] for entry in result["images"]]))
    assert result["mean"].keys() == {"count", "sad", "mad", "mse", "grad", "conn", "iou", "boundary_f"}
    assert result["protocol"]["sizes"] == ["30x20", "30x21", "30x22"]
    assert result["unused_predictions"] == []

    errors = [abs(alpha - true).ravel() for alpha, true in pairs.values()]
    deviations = [read_grey16(prediction / f"{name}.uncertainty.png").ravel() for name in NAMES]
    uncertainty = result["uncertainty"]
    assert uncertainty["count"] == 3
    assert uncertainty["ause"] == pytest.approx(
        np.mean([metrics.ause(*p) for p in zip(errors, deviations, strict=True)])
    )
    assert uncertainty["spearman"] == pytest.approx(
        np.mean([metrics.spearman(*p) for p in zip(errors, deviations, strict=True)])
    )
    scale = math.sqrt((np.concatenate(errors) ** 2).mean() / (np.concatenate(deviations) ** 2).mean())
    assert uncertainty["calibration_scale"] == pytest.approx(scale, rel=1e-5)
    assert 1.2 < scale < 2, "errors were drawn twice as large as stated, then cut to [0, 1]"
    for count in (1, 2, 3):
        key = f"within_{count}_std"
        stated = [(e <= count * d).mean() for e, d in zip(errors, deviations, strict=True)]
        scaled = [(e <= count * d * scale).mean() for e, d in zip(errors, deviations, strict=True)]
        assert uncertainty[key] == pytest.approx(np.mean(stated))
        assert uncertainty["scaled"][key] == pytest.approx(np.mean(scaled), abs=1e-3)


def test_a_perfect_prediction(folders):
    _, truth = folders
    result = evaluate_folder(truth, truth)
    expected = {"count": 3, "sad": 0, "mad": 0, "mse": 0, "grad": 0, "conn": 0, "iou": 1, "boundary_f": 1}
    assert result["mean"] == expected
    assert result["uncertainty"] is None


def test_uncertainty_is_optional_for_each_picture_and_may_be_constant(folders):
    prediction, truth = folders
    (prediction / "a.uncertainty.png").unlink()
    for name, height in zip(NAMES[1:], (21, 22), strict=True):
        write_grey16(prediction / f"{name}.uncertainty.png", np.zeros((height, 30)))
    uncertainty = evaluate_folder(prediction, truth)["uncertainty"]
    assert uncertainty["count"] == 2 and uncertainty["spearman"] is None
    assert uncertainty["calibration_scale"] is None and uncertainty["scaled"] is None


def test_missing_and_surplus_predictions_are_named(folders):
    prediction, truth = folders
    (truth / "a.png").unlink()
    assert evaluate_folder(prediction, truth)["unused_predictions"] == ["a"]
    (prediction / "sub" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 truths have no prediction: sub/b;"):
        evaluate_folder(prediction, truth)


def test_unequal_sizes_name_both_files(folders):
    prediction, truth = folders
    write_alpha(prediction / "a.png", np.zeros((20, 31)))
    with pytest.raises(ValueError, match="prediction/a.png is 31x20, but its ground truth .*truth/a.png is 30x20"):
        evaluate_folder(prediction, truth)
    write_alpha(prediction / "a.png", np.zeros((20, 30)))
    write_grey16(prediction / "a.uncertainty.png", np.zeros((10, 30)))
    with pytest.raises(ValueError, match="a.uncertainty.png is 30x10"):
        evaluate_folder(prediction, truth)


def test_command_line(folders, tmp_path, capsys):
    prediction, truth = folders
    (truth / "a.png").unlink()
    output = tmp_path / "new" / "metrics.json"
    arguments = ["--prediction", str(prediction), "--ground_truth", str(truth), "--output", str(output)]
    assert main(arguments) == 0
    written = json.loads(output.read_text())
    assert written == json.loads(json.dumps(evaluate_folder(prediction, truth)))
    out, err = capsys.readouterr()
    assert f"{written['mean']['mad']:.4f}" in out and "mean of 2" in out and "uncertainty: ause" in out
    assert err == "note: 1 predictions have no ground truth: a\n"


@pytest.mark.parametrize("wrong", ["missing", "empty", "file", "truncated"])
def test_errors_take_one_line_and_write_nothing(folders, tmp_path, capsys, wrong):
    prediction, truth = folders
    if wrong == "missing":
        prediction = tmp_path / "nowhere"
    elif wrong == "empty":
        prediction = tmp_path / "bare"
        prediction.mkdir()
    elif wrong == "file":
        prediction = prediction / "a.png"
    else:
        content = (prediction / "a.png").read_bytes()
        (prediction / "a.png").write_bytes(content[:100])
    output = tmp_path / "metrics.json"
    assert main(["--prediction", str(prediction), "--ground_truth", str(truth), "--output", str(output)]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and str(prediction) in err
    assert not output.exists()


def test_help_loads_no_numerical_library_but_numpy():
    code = (
        "import sys, sdseg.evaluate, sdseg.report, sdseg.classical.__main__\n"
        "print({name.split('.')[0] for name in sys.modules} & {'torch', 'cv2', 'skimage', 'scipy', 'tqdm'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
