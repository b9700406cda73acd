"""The adapter's scale on the standard deviation: where it is applied, where not, and what says so."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sdseg.adapter import AdapterError, read_adapter, store_scale
from sdseg.imaging import read_grey16
from sdseg.inference.__main__ import main
from sdseg.inference.pipeline import MattingPipeline
from sdseg.inference.session import MattingSession
from tests.conftest import picture

LEVEL = 1 / 65535
SETTINGS = dict(ensemble_size=8, num_inference_steps=4, output_uncertainty=True)
SCALE = 1.5  # of 4 steps and 8 samples, in the adapter of the fixtures


@pytest.fixture(scope="module")
def session(miniature_adapter):
    return MattingSession.from_adapter(miniature_adapter)


def drawn(session, image=None, **settings):
    generator = torch.Generator("cpu").manual_seed(0)
    return session(picture(50, 70) if image is None else image, generator=generator, **SETTINGS | settings)


# ---------------------------------------------------------------------------------------------------- in Python


def test_the_uncertainty_is_scaled_and_the_matte_is_not(session):
    scaled, raw = drawn(session, output_samples=True), drawn(session, raw_uncertainty=True, output_samples=True)
    assert scaled.calibration_scales == [SCALE] and raw.calibration_scales == [None]
    assert scaled.calibration_note is None and raw.calibration_note is None
    np.testing.assert_array_equal(scaled.uncertainty[0], raw.uncertainty[0] * np.float32(SCALE))
    np.testing.assert_allclose(raw.uncertainty[0], np.std(raw.samples[0], axis=0, ddof=1), atol=1e-6)
    np.testing.assert_array_equal(scaled.prediction[0], raw.prediction[0])
    np.testing.assert_array_equal(scaled.samples[0], raw.samples[0])


@pytest.mark.parametrize(
    ("function", "settings", "place"),
    [
        ("sdseg.inference.tiles.second_pass", dict(tile=64, refine=False), 3),
        ("sdseg.inference.refinement.refine", {}, 2),
    ],
)
def test_what_the_deviation_decides_inside_takes_raw_ones(session, monkeypatch, function, settings, place):
    """Open tiles and the bands of refinement have thresholds that were measured on raw deviations."""
    import importlib

    module, _, name = function.rpartition(".")
    real, given = getattr(importlib.import_module(module), name), []
    monkeypatch.setattr(function, lambda *arguments: given.append(arguments[place]) or real(*arguments))
    image, few = picture(100, 140), dict(num_inference_steps=1, ensemble_size=2)
    found = []
    for scales in ({"1x2": 7.0}, {}):
        monkeypatch.setattr(session, "calibration", scales)
        found.append(drawn(session, image, **few, **settings))
    scaled, raw = found
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_array_equal(scaled.prediction[0], raw.prediction[0])
    np.testing.assert_array_equal(scaled.uncertainty[0], raw.uncertainty[0] * np.float32(7))


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (dict(ensemble_size=3), "where steps x samples are 4x3: the adapter holds scales for 4x8; sdseg calibrate"),
        (dict(num_inference_steps=2), "where steps x samples are 2x8"),
        (dict(eta=0.5), "scales hold for eta 0, and eta is 0.5"),
    ],
)
def test_settings_without_a_scale_are_raw_and_say_so(session, settings, note):
    given, raw = drawn(session, **settings), drawn(session, **settings, raw_uncertainty=True)
    assert given.calibration_scales == [None] and note in given.calibration_note
    assert raw.calibration_note is None
    np.testing.assert_array_equal(given.uncertainty[0], raw.uncertainty[0])


def test_an_automatic_ensemble_takes_the_scale_of_each_number(miniature_adapter):
    session = MattingSession.from_adapter(miniature_adapter)
    pictures = [picture(64, 64), np.full((64, 64, 3), 90, np.uint8), picture(40, 64, 3)]

    def auto(**settings):
        generators = [torch.Generator("cpu").manual_seed(0) for _ in pictures]
        return session(pictures, generator=generators, **SETTINGS | dict(ensemble_size="auto") | settings)

    first = auto(tolerance=1e-9)
    assert first.sample_counts == [8, 2, 8]
    assert first.calibration_scales == [SCALE, None, SCALE] and "are 4x2: " in first.calibration_note
    session.calibration = {"4x2": 1.25, "4x8": 2.0}
    again, raw = auto(tolerance=1e-9), auto(tolerance=1e-9, raw_uncertainty=True)
    assert again.calibration_scales == [2.0, 1.25, 2.0] and again.calibration_note is None
    assert again.sample_counts == raw.sample_counts == [8, 2, 8]
    for one, other in zip(again.uncertainty, raw.uncertainty, strict=True):
        np.testing.assert_array_equal(one, other * np.float32(2.0))  # that of the flat picture is 0


def test_nothing_is_said_where_no_uncertainty_was_asked_for(session):
    output = drawn(session, ensemble_size=1, output_uncertainty=False)
    assert output.calibration_scales is None and output.calibration_note is None


def test_pipelines_scale_too_also_when_saved_and_read_again(miniature_adapter, tmp_path):
    pipe = MattingPipeline.from_adapter(miniature_adapter)
    pipe.save_pretrained(tmp_path / "whole")
    again = MattingPipeline.from_pretrained(tmp_path / "whole")
    for one in (pipe, again):
        scaled, raw = drawn(one), drawn(one, raw_uncertainty=True)
        assert scaled.calibration_scales == [SCALE]
        np.testing.assert_array_equal(scaled.uncertainty[0], raw.uncertainty[0] * np.float32(SCALE))


@pytest.mark.parametrize("scale", [0, -1.5, "1.5", None, float("nan")])
def test_a_scale_that_is_none_is_refused_by_name(miniature_adapter, tmp_path, scale):
    adapter = shutil.copytree(miniature_adapter, tmp_path / "adapter")
    file = adapter / "sdseg_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"calibration": {"4x8": scale}}))
    with pytest.raises(AdapterError, match=f"the scale for 4x8 in sdseg_config.json is {scale!r}; give a number"):
        read_adapter(adapter)


# ------------------------------------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(picture(50, 70)).save(folder / "a.png")
    Image.fromarray(picture(40, 64, 1)).save(folder / "b.png")
    return folder


def infer(photos, adapter, output, *flags) -> dict:
    """Runs the command line; returns run.json."""
    words = ["--adapter", str(adapter), "--input", str(photos), "--output", str(output), "--device", "cpu"]
    assert main([*words, "--num_inference_steps", "4", "--ensemble_size", "8", *flags]) == 0
    return json.loads((output / "run.json").read_text())


def test_files_are_the_raw_ones_times_the_scale(photos, miniature_adapter, tmp_path, capsys):
    outputs = ["--output_uncertainty", "--output_variance"]
    record = infer(photos, miniature_adapter, tmp_path / "scaled", *outputs)
    raw = infer(photos, miniature_adapter, tmp_path / "raw", *outputs, "--raw_uncertainty")
    assert [row["calibration_scale"] for row in record["inputs"]] == [SCALE, SCALE]
    assert [row["calibration_scale"] for row in raw["inputs"]] == [None, None]
    assert (record["settings"]["raw_uncertainty"], raw["settings"]["raw_uncertainty"]) == (False, True)
    assert record["calibration"] == raw["calibration"] == {"scales": {"4x8": SCALE}, "note": None}
    assert "note:" not in capsys.readouterr().err
    for name in "ab":
        one, other = (read_grey16(tmp_path / run / f"{name}.uncertainty.png") for run in ("scaled", "raw"))
        assert other.max() > 0.01 and np.abs(one - SCALE * other).max() < (SCALE + 1) / 2 * LEVEL * 1.01
        one, other = (np.array(Image.open(tmp_path / run / f"{name}.variance.tif")) for run in ("scaled", "raw"))
        np.testing.assert_allclose(one, SCALE**2 * other, rtol=1e-5, atol=1e-12)
        assert (tmp_path / "scaled" / f"{name}.png").read_bytes() == (tmp_path / "raw" / f"{name}.png").read_bytes()


def test_a_missing_scale_is_said_once_and_recorded(photos, miniature_adapter, tmp_path, capsys):
    record = infer(photos, miniature_adapter, tmp_path / "out", "--ensemble_size", "3", "--output_uncertainty")
    note = record["calibration"]["note"]
    assert "4x3: the adapter holds scales for 4x8; sdseg calibrate --prediction" in note
    assert capsys.readouterr().err.count(f"note: {note}") == 1
    assert [row["calibration_scale"] for row in record["inputs"]] == [None, None]


def test_a_run_without_uncertainty_says_nothing_of_scales(photos, miniature_adapter, tmp_path, capsys):
    record = infer(photos, miniature_adapter, tmp_path / "out", "--ensemble_size", "1")
    assert record["calibration"]["note"] is None and "note:" not in capsys.readouterr().err
    assert not any("calibration_scale" in row for row in record["inputs"])


def test_a_deviation_above_one_is_cut_off_in_the_picture_alone(photos, miniature_adapter, tmp_path):
    adapter = shutil.copytree(miniature_adapter, tmp_path / "adapter")
    store_scale(adapter, "4x8", 1000.0)
    infer(photos, adapter, tmp_path / "out", "--output_uncertainty", "--output_variance")
    deviation = read_grey16(tmp_path / "out" / "a.uncertainty.png")
    variance = np.array(Image.open(tmp_path / "out" / "a.variance.tif"))
    assert variance.max() > 1 and deviation.max() == 1
    np.testing.assert_allclose(deviation, np.sqrt(variance).clip(max=1), atol=LEVEL)
