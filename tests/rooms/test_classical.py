import json

import numpy as np
import pytest
from PIL import Image

from sdseg.classical.__main__ import main
from sdseg.classical.methods import METHODS, SETTINGS, grabcut, otsu
from sdseg.imaging import read_alpha, write_image


def disc_picture(subject, background, height=60, width=80, noise=6.0, seed=0):
    """uint8 picture of a noisy disc left of the middle, and the disc; an easy case with a known answer."""
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2) ** 2 + (x - 0.45 * width) ** 2 < (0.3 * height) ** 2
    image = np.where(disc[..., None], subject, background) + np.random.default_rng(seed).normal(
        0, noise, (height, width, 3)
    )
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), disc


def slow_otsu_threshold(levels: np.ndarray) -> int:
    """Tries every threshold of an integer picture: the t with the largest variance between {≤ t} and {> t}."""
    best, best_variance = 0, -1.0
    for t in range(255):
        low, high = levels[levels <= t], levels[levels > t]
        if low.size and high.size:
            variance = low.size * high.size * (low.mean() - high.mean()) ** 2
            if variance > best_variance:
                best, best_variance = t, variance
    return best


def test_otsu_takes_the_threshold_of_largest_variance():
    rng = np.random.default_rng(0)
    grey = np.where(rng.random((40, 50)) < 0.3, rng.normal(170, 25, (40, 50)), rng.normal(80, 25, (40, 50)))
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    grey[0, :2] = 0, 255  # so that the library's 256 bins are the 256 levels
    expected = grey > slow_otsu_threshold(grey)
    alpha = otsu(np.repeat(grey[..., None], 3, axis=2))
    assert alpha.dtype == np.float32 and alpha.shape == (40, 50)
    np.testing.assert_array_equal(alpha == 1, expected)
    assert 0.2 < expected.mean() < 0.4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colours", [((230, 220, 210), (30, 40, 60)), ((30, 40, 60), (230, 220, 210))])
def test_a_plain_disc_is_found_whether_bright_or_dark(method, colours):
    image, disc = disc_picture(*colours)
    alpha = METHODS[method](image)
    assert set(np.unique(alpha)) == {0, 1} and alpha.dtype == np.float32
    assert ((alpha == 1) != disc).mean() < 0.005


def test_grabcut_sees_colour_where_otsu_cannot():
    image, disc = disc_picture((200, 60, 60), (60, 101, 60))  # of one luminance
    assert ((grabcut(image) == 1) != disc).mean() < 0.01
    assert ((otsu(image) == 1) != disc).mean() > 0.05


def test_grabcut_gives_the_same_twice():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(grabcut(image), grabcut(image))


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 3), (40, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_and_uniform_pictures_do_not_fail(method, shape):
    for image in (
        np.full((*shape, 3), 90, np.uint8),
        np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8),
    ):
        alpha = METHODS[method](image)
        assert alpha.shape == shape and np.isin(alpha, (0, 1)).all()


def test_a_picture_of_one_grey_has_no_subject():
    assert not otsu(np.full((20, 30, 3), 90, np.uint8)).any()


def test_command_line_writes_an_output_folder(tmp_path, capsys):
    image, disc = disc_picture((230, 220, 210), (30, 40, 60))
    write_image(tmp_path / "in" / "a.png", image)
    Image.fromarray(image).save(tmp_path / "in" / "a.jpg", quality=95)
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / "b.png").write_bytes(b"no picture")
    output = tmp_path / "in" / "out"  # within the input: must not be read as input, this time or the next
    arguments = ["--input", str(tmp_path / "in"), "--output", str(output), "--method"]
    for _ in range(2):
        assert main([*arguments, "all"]) == 1
    err = capsys.readouterr().err
    assert err.count("error: ") == 4 and "sub/b.png: is not a picture" in err
    for method in METHODS:
        record = json.loads((output / method / "run.json").read_text())
        assert record["method"] == method and record["settings"] == SETTINGS[method] and record["failed"] == 1
        assert [entry["input"] for entry in record["inputs"]] == ["a.jpg", "a.png", "sub/b.png"]
        assert record["inputs"][0]["output"] == "a.jpg.png" and record["inputs"][0]["size"] == [80, 60]
        assert "is not a picture" in record["inputs"][2]["error"]
        for name in ("a.jpg.png", "a.png.png"):
            assert ((read_alpha(output / method / name) == 1) != disc).mean() < 0.01
        assert not list(output.rglob("b*"))
    (tmp_path / "in" / "sub" / "b.png").unlink()
    assert main(["--input", str(tmp_path / "in" / "a.png"), "--output", str(tmp_path / "o"), "--method", "otsu"]) == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a.png", "run.json"]


@pytest.mark.parametrize("wrong", ["missing input", "empty input", "output is a file", "output below a file"])
def test_errors_take_one_line(tmp_path, capsys, wrong):
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "bare").mkdir()
    (tmp_path / "file").touch()
    given, output = {
        "missing input": (tmp_path / "none", tmp_path / "out"),
        "empty input": (tmp_path / "bare", tmp_path / "out"),
        "output is a file": (tmp_path / "in", tmp_path / "file"),
        "output below a file": (tmp_path / "in", tmp_path / "file" / "out"),
    }[wrong]
    assert main(["--input", str(given), "--output", str(output), "--method", "otsu"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert str(given if "input" in wrong else tmp_path / "file") in err
    assert not (tmp_path / "out").exists()
