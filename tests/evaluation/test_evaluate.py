import base64
import csv
import json
import math
import re
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sdseg.evaluation import metrics
from sdseg.evaluation.__main__ import main
from sdseg.evaluation.evaluate import evaluate_folder
from sdseg.evaluation.judging import resized
from sdseg.evaluation.segmentation_metrics import BINARY_FIGURES, binary_metrics
from sdseg.imaging import read_alpha, read_grey16, read_image, write_alpha, write_grey16, write_image
from sdseg.outputs import write_run_record

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


def test_the_record_of_the_run_is_heeded(folders, tmp_path, capsys):
    """Files of an earlier run beside those of the recorded one: refused, ignored or named, never judged silently."""
    prediction, truth = folders
    first, *others = NAMES
    whole = evaluate_folder(prediction, truth)["uncertainty"]["count"]
    rows = [
        {"input": f"{name}.jpg", "output": f"{name}.png", "uncertainty": f"{name}.uncertainty.png"} for name in NAMES
    ]
    arguments = ["--prediction", str(prediction), "--ground_truth", str(truth)]

    def judged(*rows: dict) -> int:
        write_run_record(prediction, {"method": "x", "settings": {}, "inputs": list(rows)})
        capsys.readouterr()
        assert main(arguments) == 0
        return evaluate_folder(prediction, truth)["uncertainty"]["count"]

    assert judged(*rows) == whole and capsys.readouterr().err == ""
    del rows[0]["uncertainty"]
    assert judged(*rows) == whole - 1
    assert (
        f"1 uncertainty maps of another run are not judged: {prediction / first}.uncertainty" in capsys.readouterr().err
    )
    assert judged(*rows[1:]) == whole
    assert (
        f"1 predictions are not listed in the run.json of their folder, so another run made them: {prediction / first}"
        in (capsys.readouterr().err)
    )
    write_run_record(
        prediction,
        {"method": "x", "settings": {}, "inputs": [{"input": f"{first}.jpg", "error": "truncated"}, *rows[1:]]},
    )
    assert main(arguments) == 2
    assert (
        f"1 of 3 truths have no prediction: {first}; 1 of these failed in that folder's run" in capsys.readouterr().err
    )
    (prediction / "run.json").write_text("{")
    assert main(arguments) == 2
    assert f"error: {prediction / 'run.json'}: is damaged" in capsys.readouterr().err
    (prediction / "run.json").write_text('{"made by": "another program"}')
    assert main(arguments) == 0


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
        "import sys, sdseg.evaluation.__main__, sdseg.evaluation.report, sdseg.classical.__main__\n"
        "print({name.split('.')[0] for name in sys.modules} & {'torch', 'cv2', 'skimage', 'scipy', 'tqdm'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# ----------------------------------------------------------------------------------------- bands and masks


def test_bands_equal_direct_computation(folders):
    prediction, truth = folders
    rng = np.random.default_rng(1)
    for number, name in enumerate(NAMES):
        soft = np.zeros((20 + number, 30))
        soft[:, 16:] = 1
        soft[8, 14:16] = 0.5
        write_alpha(truth / f"{name}.png", soft if name != "a" else np.round(soft))  # `a` is hard: no transition
        levels = np.array([0, 128, 255], np.uint8)[rng.integers(0, 3, (20 + number, 30))]
        if name == "sub/b":
            levels[levels == 128] = 0  # nothing unknown
        path = truth.parent / "trimap" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(path)
    result = evaluate_folder(prediction, truth, trimap_dir=truth.parent / "trimap", resamples=20)
    entries = {entry["name"]: entry for entry in result["images"]}
    for name, entry in entries.items():
        alpha, true = (read_alpha(folder / f"{name}.png") for folder in folders)
        trimap = np.asarray(Image.open(truth.parent / "trimap" / f"{name}.png"))
        expected = {"unknown": trimap == 128, **metrics.matte_bands(true)}
        assert entry["bands"].keys() == expected.keys()
        for band, where in expected.items():
            direct = metrics.metrics_of_parts(alpha, true, [where])[0] if where.any() else None
            if direct and band in ("foreground", "background"):
                del direct["iou"], direct["boundary_f"]
            assert entry["bands"][band] == direct, (name, band)
    assert entries["sub/b"]["bands"]["unknown"] is None and entries["a"]["bands"]["transition"] is None
    assert entries["sub/b"]["bands"]["transition"] is not None
    unknown = [entries[name]["bands"]["unknown"]["sad"] for name in ("a", "sub/c.v2")]
    assert result["bands"]["unknown"]["count"] == 2
    assert result["bands"]["unknown"]["sad"] == pytest.approx(np.mean(unknown))
    assert min(unknown) <= result["intervals"]["figures"]["unknown.sad"][0] < np.mean(unknown)
    assert list(result["bands"]) == ["unknown", "transition", "foreground", "background"]


def test_masks_and_chosen_figures(folders):
    prediction, truth = folders
    result = evaluate_folder(prediction, truth, kind="binary", resamples=20)
    for entry in result["images"]:
        alpha, true = (read_alpha(folder / f"{entry['name']}.png") for folder in folders)
        assert {name: entry[name] for name in BINARY_FIGURES} == binary_metrics(alpha, true)
        deviation = read_grey16(prediction / f"{entry['name']}.uncertainty.png")
        assert entry["uncertainty"]["ause"] == metrics.ause(abs(alpha - (true >= 0.5)), deviation)
    assert "bands" not in result and result["mean"].keys() == {"count", *BINARY_FIGURES}

    few = evaluate_folder(prediction, truth, figures=["mse", "sad"], resamples=20)
    assert few["mean"].keys() == few["images"][0].keys() - {"name", "size", "bands", "uncertainty"} | {"count"}
    assert list(few["mean"]) == ["count", "sad", "mse"]
    everything = evaluate_folder(prediction, truth, resamples=20)
    assert few["mean"]["sad"] == everything["mean"]["sad"] and few["uncertainty"] == everything["uncertainty"]
    assert few["intervals"]["figures"]["transition.mse"] == everything["intervals"]["figures"]["transition.mse"]


# ------------------------------------------------------------------------------------------------ statistics


def test_intervals_equal_a_literal_bootstrap(folders):
    prediction, truth = folders
    (prediction / "a.uncertainty.png").unlink()
    result = evaluate_folder(prediction, truth, confidence=0.8, resamples=50, seed=3)
    assert result["intervals"].keys() == {"level", "resamples", "seed", "figures"}
    for key, values in (
        ("grad", [entry["grad"] for entry in result["images"]]),
        ("uncertainty.ause", [entry["uncertainty"]["ause"] for entry in result["images"][1:]]),
    ):
        generator = np.random.default_rng(3)
        drawn = []
        for _ in range(50):
            places = generator.integers(len(values), size=len(values))
            drawn.append(sum(values[place] for place in places) / len(values))
        assert result["intervals"]["figures"][key] == pytest.approx(np.quantile(drawn, [0.1, 0.9]), rel=1e-12)


def test_comparison_by_hand_and_from_the_other_side(folders, tmp_path):
    prediction, truth = folders
    other = tmp_path / "other"
    for name, shift in zip(NAMES, (0.3, 0, -0.002), strict=True):
        alpha = read_alpha(prediction / f"{name}.png").astype(float)
        write_alpha(other / f"{name}.png", np.clip(alpha + shift, 0, 1))
    one = evaluate_folder(prediction, truth, compare=other, resamples=200)
    two = evaluate_folder(other, truth, compare=prediction, resamples=200)
    assert one["comparison"]["images"] == two["images"] and two["comparison"]["images"] == one["images"]
    assert one["comparison"]["prediction"] == str(other)
    rows, reverse = one["comparison"]["figures"], two["comparison"]["figures"]
    sads = np.array([[entry["sad"] for entry in result["images"]] for result in (one, two)])
    assert sads[0, 0] < sads[1, 0] and sads[0, 1] == sads[1, 1]
    row = rows["sad"]
    assert (row["first"], row["second"]) == tuple(pytest.approx(mean) for mean in sads.mean(axis=1))
    assert row["difference"] == pytest.approx((sads[0] - sads[1]).mean())
    assert row["won"] == pytest.approx((sads[0] < sads[1]).mean()) and row["tied"] == pytest.approx(1 / 3)
    assert row["low"] <= row["difference"] <= row["high"] and row["low"] < 0
    assert rows.keys() == reverse.keys() and not any(key.startswith("uncertainty") for key in rows), "one has none"
    for key, row in rows.items():
        back = reverse[key]
        assert row["difference"] == pytest.approx(-back["difference"], abs=1e-12)
        assert (row["low"], row["high"]) == (pytest.approx(-back["high"]), pytest.approx(-back["low"]))
        assert row["won"] + back["won"] + row["tied"] == pytest.approx(1) and row["tied"] == back["tied"]

    same = evaluate_folder(prediction, truth, compare=prediction, resamples=20)["comparison"]["figures"]
    assert {"uncertainty.ause", "uncertainty.spearman", "transition.mad"} <= same.keys()
    assert "uncertainty.within_1_std" not in same, "neither direction is better"
    assert all(row["tied"] == 1 and row["low"] == row["high"] == 0 for row in same.values())


def test_processes_change_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(18):
        truth = np.clip(rng.normal(0.5, 0.6, (9, 12)), 0, 1)
        for method in ("first", "second"):
            write_alpha(tmp_path / method / f"{number}.png", np.clip(truth + rng.normal(0, 0.1, (9, 12)), 0, 1))
        write_grey16(tmp_path / "first" / f"{number}.uncertainty.png", rng.uniform(0, 0.2, (9, 12)))
        write_alpha(tmp_path / "truth" / f"{number}.png", truth)
    arguments = ["--prediction", str(tmp_path / "first"), "--ground_truth", str(tmp_path / "truth")]
    arguments += ["--compare", str(tmp_path / "second"), "--resamples", "50"]
    for workers in ("1", "3"):
        assert main([*arguments, "--output_dir", str(tmp_path / workers), "--workers", workers]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()}
    assert written.keys() == {"metrics.json", "per_picture.csv", "metrics.md", "metrics.html", "worst.png"}
    assert all((tmp_path / "3" / name).read_bytes() == content for name, content in written.items())
    assert json.loads(written["metrics.json"])["mean"]["count"] == 18

    (tmp_path / "first" / "17.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="17.png: is not a picture"):  # the error of a worker, as it was
        evaluate_folder(tmp_path / "first", tmp_path / "truth", workers=2)


# --------------------------------------------------------------------------------------------------- classes


def write_labels(path, labels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if palette:
        image = image.convert("P")
        image.putdata(np.asarray(labels).ravel().tolist())
        image.putpalette([(71 * level) % 256 for level in range(768)])
    image.save(path)


@pytest.fixture
def class_maps(tmp_path):
    """Three classes, the last of them nowhere; 255 is void. The truth is a palette PNG, the prediction a grey one."""
    for name, truth, prediction in (
        ("a", [[0, 0], [1, 255]], [[0, 1], [1, 1]]),
        ("b", [[1, 1], [0, 0]], [[1, 1], [0, 0]]),
    ):
        write_labels(tmp_path / "maps" / "truth" / f"{name}.png", truth, palette=True)
        write_labels(tmp_path / "maps" / "prediction" / f"{name}.png", prediction)
    return tmp_path / "maps" / "prediction", tmp_path / "maps" / "truth"


def test_miou_protocols_by_hand(class_maps):
    settings = {"kind": "classes", "classes": ["x", "y", "z"], "resamples": 20}
    standard = evaluate_folder(*class_maps, **settings)
    # Class 0: 3 of 4 pixels found, nothing else taken for it: 3/4. Class 1: all 3 found and one more taken: 3/4.
    # Class 2 is in neither and left out.
    assert [entry["iou"] for entry in standard["classes"]] == [0.75, 0.75, None]
    assert standard["set"] == {
        "count": 2,
        "accuracy": pytest.approx(6 / 7),
        "mean_accuracy": pytest.approx((3 / 4 + 1) / 2),
        "mean_iou": pytest.approx(0.75),
    }
    # As ddpm-segmentation counts: the 1 predicted on a void pixel enlarges class 1's union, 3/5; class 2 has 0.
    ddpm = evaluate_folder(*class_maps, **settings, miou_protocol="ddpm-seg")
    assert [entry["iou"] for entry in ddpm["classes"]] == pytest.approx([0.75, 0.6, 0])
    assert ddpm["set"]["mean_iou"] == pytest.approx(0.45) and ddpm["set"]["accuracy"] == pytest.approx(6 / 7)
    assert [entry["mean_iou"] for entry in ddpm["images"]] == [pytest.approx((1 / 2 + 1 / 2) / 2), 1]
    assert ddpm["protocol"]["miou_protocol"].startswith("ddpm-seg: ")
    assert ddpm["classes"][1] == {
        "id": 1, "name": "y", "iou": pytest.approx(0.6), "true_pixels": 3, "predicted_pixels": 5
    }  # fmt: skip
    void_is_1 = evaluate_folder(*class_maps, **settings | {"classes": [""] * 256}, void=1)
    assert void_is_1["set"]["accuracy"] == pytest.approx(3 / 5), "0 0 255 and 0 0 are labelled, 0 and 0 0 found"


def test_intervals_of_the_set_equal_a_literal_bootstrap(class_maps):
    result = evaluate_folder(*class_maps, kind="classes", classes=[""] * 3, resamples=40, confidence=0.5)
    counts = np.array([[2, 3], [4, 4]])  # found and labelled pixels of `a` and `b`
    generator = np.random.default_rng(0)
    drawn = [counts[generator.integers(2, size=2)].sum(axis=0) for _ in range(40)]
    expected = np.quantile([found / labelled for found, labelled in drawn], [0.25, 0.75])
    assert result["intervals"]["figures"]["accuracy"] == pytest.approx(expected)


def test_matching_per_picture_and_per_set(tmp_path):
    truth = np.array([[0, 0, 1, 1]])
    for name, prediction in (("a", [[4, 4, 7, 7]]), ("b", [[7, 7, 4, 4]]), ("c", [[4, 9, 7, 7]])):
        write_labels(tmp_path / "truth" / f"{name}.png", truth)
        write_labels(tmp_path / "prediction" / f"{name}.png", prediction)
    settings = {"kind": "classes", "classes": ["x", "y"], "resamples": 20}
    image, dataset = (
        evaluate_folder(tmp_path / "prediction", tmp_path / "truth", match=match, **settings)
        for match in ("image", "dataset")
    )
    # Each picture's labels are named to fit: only c's 9 is left over. Named once, 4 and 7 fit a and c, not b.
    assert image["set"]["accuracy"] == pytest.approx(11 / 12)
    assert [entry["labels"] for entry in image["images"]] == [[4, 7], [7, 4], [4, 7]]
    assert dataset["set"]["accuracy"] == pytest.approx(7 / 12)
    assert [entry["label"] for entry in dataset["classes"]] == [4, 7]
    assert [entry["accuracy"] for entry in dataset["images"]] == [1, 0, 0.75]
    assert dataset["protocol"]["match"].startswith("dataset: ")

    both = evaluate_folder(
        tmp_path / "prediction", tmp_path / "truth", match="dataset", compare=tmp_path / "truth", **settings
    )
    row = both["comparison"]["figures"]["accuracy"]
    assert (row["first"], row["second"], row["difference"]) == tuple(map(pytest.approx, (7 / 12, 1, -5 / 12)))
    assert (row["won"], row["tied"]) == (0, pytest.approx(1 / 3)) and row["low"] <= row["difference"] <= row["high"]


def test_class_maps_from_the_command_line(class_maps, tmp_path, capsys):
    prediction, truth = class_maps
    (tmp_path / "names.txt").write_text("sky\nsea\nsand\n\n")
    arguments = ["--prediction", str(prediction), "--ground_truth", str(truth), "--kind", "classes"]
    arguments += ["--resamples", "50"]
    output = tmp_path / "out"
    assert main([*arguments, "--classes", str(tmp_path / "names.txt"), "--output_dir", str(output)]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"^set of 2 +0\.8571 +0\.8750 +0\.7500$", out, re.MULTILINE) and "1 sea" in out
    assert "| 2 sand | – |" in (output / "metrics.md").read_text()
    sheet = read_image(output / "worst.png")
    # Row 1 is `a`: truth, prediction, error. 2 x 2 pixels are enlarged to 256: wrong is red, void dark grey.
    error = sheet[48:304, 8 + 2 * 264 :][:256, :256]
    assert error[60, 190].tolist() == [214, 39, 40] and error[190, 190].tolist() == [128, 128, 128]
    assert error[60, 60].tolist() == error[190, 60].tolist() == [235, 235, 235]
    assert sheet[48 + 60, 8 + 60].tolist() == [0, 0, 0] and sheet[48 + 190, 8 + 60].tolist() == [128, 0, 0]


# ------------------------------------------------------------------------------------------- sizes and depths


def test_resize_has_to_be_asked_for(folders, class_maps):
    prediction, truth = folders
    ramp = np.linspace(0, 1, 15)[None].repeat(10, axis=0)
    write_alpha(prediction / "a.png", ramp)
    with pytest.raises(ValueError, match="a.png is 15x10, but its ground truth .* is 30x20; .*--resize"):
        evaluate_folder(prediction, truth)
    result = evaluate_folder(prediction, truth, resize=True, resamples=20)
    entry = result["images"][0]
    assert entry["size"] == [30, 20] and entry["resized_from"] == [15, 10]
    assert "resized_from" not in result["images"][1]
    assert result["protocol"]["resize"].startswith("1 of 3 predictions were resized to the size of their truth: ")
    alpha = read_alpha(prediction / "a.png")
    assert entry["mad"] == metrics.mad(resized(alpha, (20, 30)), read_alpha(truth / "a.png"))

    # bilinear between pixel centres, the border replicated: each half pixel lies a quarter from its neighbour
    np.testing.assert_allclose(resized(np.array([[0, 1]], np.float32), (1, 4)), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(resized(np.eye(2, dtype=np.float32), (1, 1)), [[0.5]])
    np.testing.assert_array_equal(resized(np.array([[-1, 7]], np.int32), (2, 4)), [[-1, -1, 7, 7]] * 2)

    prediction, truth = class_maps
    write_labels(prediction / "a.png", [[0]])
    labels = evaluate_folder(prediction, truth, kind="classes", classes=[""] * 3, resize=True, resamples=20)
    assert labels["images"][0]["accuracy"] == pytest.approx(2 / 3)


def test_depth_of_files_makes_no_difference(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 9)).astype(np.uint8)
    for depth in ("eight", "sixteen"):
        for name, values in zip(("prediction", "truth"), levels, strict=True):
            (tmp_path / depth / name).mkdir(parents=True)
            stored = values if depth == "eight" else values.astype(np.uint16) * 257
            Image.fromarray(stored).save(tmp_path / depth / name / "a.png")
    eight, sixteen = (
        evaluate_folder(tmp_path / depth / "prediction", tmp_path / depth / "truth", resamples=20)
        for depth in ("eight", "sixteen")
    )
    assert eight["mean"] == pytest.approx(sixteen["mean"], rel=1e-6) and eight["mean"]["sad"] > 0


# ----------------------------------------------------------------------------------------------------- output


def test_tables_and_sheet(folders, tmp_path, capsys):
    prediction, truth = folders
    for number, name in enumerate(NAMES):
        write_image(tmp_path / "images" / f"{name}.png", np.full((20 + number, 30, 3), (9, 99, 199), np.uint8))
    write_alpha(prediction / "sub" / "b.png", 1 - read_alpha(truth / "sub" / "b.png"))  # by far the worst
    output = tmp_path / "out"
    arguments = ["--prediction", str(prediction), "--ground_truth", str(truth), "--images", str(tmp_path / "images")]
    arguments += ["--compare", str(truth), "--output_dir", str(output), "--resamples", "50", "--worst", "2"]
    assert main([*arguments, "--output", str(tmp_path / "again.JSON")]) == 0
    result = json.loads((output / "metrics.json").read_text())
    assert json.loads((tmp_path / "again.JSON").read_text()) == result
    out, _ = capsys.readouterr()
    assert out.splitlines()[1].startswith("sub/b ") and "First against second" in out

    rows = list(csv.DictReader((output / "per_picture.csv").open(newline="")))
    assert [row["name"] for row in rows] == list(NAMES)
    for row, entry in zip(rows, result["images"], strict=True):
        assert [int(row["width"]), int(row["height"])] == entry["size"]
        assert (
            float(row["grad"]) == entry["grad"] and float(row["transition.mse"]) == entry["bands"]["transition"]["mse"]
        )
        assert float(row["uncertainty.ause"]) == entry["uncertainty"]["ause"] and float(row["second.sad"]) == 0
        assert "foreground.sad" not in row, "alpha is noise here, so all is transition"

    text = (output / "metrics.md").read_text()
    ends = result["intervals"]["figures"]["sad"]
    assert f"| {result['mean']['sad']:.4f} [{ends[0]:.4f}, {ends[1]:.4f}] |" in text
    assert f"- SAD: {result['protocol']['definitions']['sad']}" in text and "50 draws" in text

    page = (output / "metrics.html").read_text()
    content = re.findall(r'src="([^"]+)"', page)
    assert len(content) == 1 and content[0].startswith("data:image/png;base64,")
    embedded = np.asarray(Image.open(BytesIO(base64.b64decode(content[0].partition(",")[2]))))
    sheet = read_image(output / "worst.png")
    np.testing.assert_array_equal(embedded, sheet)
    assert page.count("<td>sub/b</td>") == 1 and not re.search("https?:|<script", page)
    # Rows of 20 pixels' title and a picture 30 wide, enlarged eightfold: photo, truth, prediction, error; sub/b first.
    true, top = read_alpha(truth / "sub" / "b.png"), 8 + 20 + 20
    for column, expected in ((1, true), (2, 1 - true)):
        shown = sheet[top : top + 21 * 8 : 8, 8 + column * 264 :][:, : 30 * 8 : 8, 0]
        np.testing.assert_allclose(shown, expected * 255, atol=0.6)
    assert sheet[top + 5, 12].tolist() == [9, 99, 199]
    assert result["images"][0]["mad"] > result["images"][2]["mad"], "so `a`, 20 high, is the second and last"
    assert sheet.shape == (8 + 20 + (21 + 20) * 8 + 2 * (20 + 16), 8 + 4 * 264, 3)


def test_data_sets_by_name(folders, tmp_path):
    prediction, truth = folders
    (tmp_path / "AIM").mkdir()
    for folder, source in (("original", truth), ("mask", truth), ("trimap", truth)):
        for name in ("a",):
            alpha = read_alpha(source / f"{name}.png")
            path = tmp_path / "AIM" / folder / f"{name}.{'jpg' if folder == 'original' else 'png'}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.rint(alpha * 255).astype(np.uint8)).convert("L").save(path)
    result = evaluate_folder(prediction, dataset="aim-500", data_dir=tmp_path / "AIM", resamples=20)
    assert result["protocol"]["dataset"] == "aim-500" and result["mean"]["count"] == 1
    assert result["unused_predictions"] == ["sub/b", "sub/c.v2"]
    assert result["bands"]["unknown"]["count"] == 1, "the set's own trimap"


@pytest.mark.parametrize(
    "words, message",
    [
        ("--dataset aim-500", "give either --ground_truth DIR or --dataset NAME"),
        ("--split test", "--data_dir and --split belong to --dataset"),
        ("--metrics sad conn2", "--metrics conn2: --kind matte has sad, mad,"),
        ("--kind binary --trimap_dir {truth}", "--trimap_dir belongs to --kind matte"),
        ("--kind classes", "--kind classes needs --num_classes N or --classes FILE"),
        ("--kind classes --num_classes 0", "--num_classes 0: give at least 1"),
        ("--kind classes --num_classes 3 --classes x.txt", "--num_classes and --classes exclude each other"),
        ("--kind classes --classes {truth}/nowhere.txt", "nowhere.txt"),
        ("--kind classes --classes {truth}/a.png", "a.png: is not a text file"),
        ("--kind classes --num_classes 3", "b.png: is no label map|a.png: "),
        ("--num_classes 3", "belong to --kind classes"),
        ("--match image", "belong to --kind classes"),
        ("--confidence 95", "--confidence 95.0: give a share"),
        ("--resamples 0", "--resamples 0: give at least 1"),
        ("--workers 0", "--workers 0: give at least 1"),
        ("--worst 0", "--worst 0: give at least 1"),
        ("--output metrics.txt", "--output metrics.txt: the suffix decides what is written; use .json"),
        ("--output_dir {truth}/a.png", "a.png: is a file; name a folder"),
        ("--compare {truth}/sub", "sub: 3 of 3 truths have no prediction: a, sub/b, sub/c.v2;"),
        ("--trimap_dir {truth}/sub", "sub: 3 of 3 truths have no trimap: a"),
        ("--images {truth}/sub", "sub: 3 of 3 truths have no photo: a"),
        ("--trimap_dir {other}", "trimap/a.png is 3x3, but its ground truth is 30x20"),
        ("--dataset nothing", "give either"),
    ],
)
def test_wrong_input_is_named(folders, tmp_path, capsys, words, message):
    prediction, truth = folders
    for name in NAMES:
        write_alpha(tmp_path / "trimap" / f"{name}.png", np.eye(3))
    output = tmp_path / "m.json"
    arguments = ["--prediction", str(prediction), "--ground_truth", str(truth), "--output", str(output)]
    assert main([*arguments, *words.format(truth=truth, other=tmp_path / "trimap").split()]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and re.search(message, err), err
    assert out == "" and not output.exists()


def test_ids_are_not_taken_for_a_matte(folders, class_maps, tmp_path):
    prediction, truth = folders
    Image.fromarray((read_alpha(truth / "a.png") > 0.5).astype(np.uint8)).save(truth / "a.png")
    with pytest.raises(ValueError, match="a.png: its greatest value is 1 of 255, so it is a mask of ids"):
        evaluate_folder(prediction, truth)
    prediction, truth = class_maps
    with pytest.raises(ValueError, match="a.png: has class 1, but there are 1, ids 0 to 0, and 255 for void$"):
        evaluate_folder(prediction, truth, kind="classes", classes=["one"])
    write_labels(prediction / "a.png", [[0, 9], [0, 0]])
    with pytest.raises(ValueError, match="prediction/a.png: has class 9, .*--match image"):
        evaluate_folder(prediction, truth, kind="classes", classes=[""] * 3)
    Image.fromarray(np.full((2, 2, 3), (1, 2, 3), np.uint8)).save(prediction / "a.png")
    with pytest.raises(ValueError, match="a.png: is coloured"):
        evaluate_folder(prediction, truth, kind="classes", classes=[""] * 3)


def test_the_figures_say_in_how_many_pictures_the_uncertainty_was_calibrated(folders, capsys):
    prediction, truth = folders
    assert evaluate_folder(prediction, truth)["uncertainty"]["calibrated"] is None
    rows = [
        {"input": f"{name}.jpg", "output": f"{name}.png", "uncertainty": f"{name}.uncertainty.png"} for name in NAMES
    ]
    rows[0]["calibration_scale"], rows[1]["calibration_scale"] = 1.5, None  # the third is as older versions wrote it
    write_run_record(prediction, {"method": "sdseg", "settings": {}, "inputs": rows})
    result = evaluate_folder(prediction, truth)
    assert result["uncertainty"]["calibrated"] == 1 and "calibrated" in result["protocol"]["definitions"]
    assert main(["--prediction", str(prediction), "--ground_truth", str(truth), "--workers", "1"]) == 0
    assert "uncertainty (calibrated: 1 of 3): ause" in capsys.readouterr().out
