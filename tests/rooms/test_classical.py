import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdseg.classical.__main__ import main
from sdseg.classical.methods import METHODS, SETTINGS, TRIMAP_METHODS, grabcut, kmeans, multi_otsu, otsu
from sdseg.classical.subject import subject_matte
from sdseg.classical.thresholds import adaptive, balanced_histogram_threshold, maximum_entropy_threshold
from sdseg.imaging import read_alpha, read_image, write_alpha, write_image

MATTING = Path(__file__).parents[3] / "shared" / "data" / "matting"
CONSTANTS = {"constant_0": 0.0, "constant_0.5": 0.5, "constant_1": 1.0}
# Share of the plain disc's picture that a method may get wrong: an edge detector is off by half a pixel around
# the disc, and between two narrow modes entropy is the same wherever the noise ends. Three classes and local
# thresholds divide the noise of a plain background; they have tests of their own.
DISC_TOLERANCE = {name: 0.005 for name in METHODS if name not in (*CONSTANTS, "multi_otsu", "adaptive")} | {
    "canny": 0.01,
    "maximum_entropy": 0.04,
}
needs_pymatting = pytest.mark.skipif(
    importlib.util.find_spec("pymatting") is None, reason="pymatting (extra `matting`) is not installed"
)


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


def test_maximum_entropy_against_every_threshold():
    rng = np.random.default_rng(0)
    for trial in range(20):
        histogram = rng.integers(0, 50, 40) * (rng.random(40) < 0.7)
        best, best_entropy = None, -np.inf
        for t in range(39):
            entropy = 0.0
            for side in (histogram[: t + 1], histogram[t + 1 :]):
                if not side.sum():
                    entropy = -np.inf
                    break
                for count in side[side > 0]:
                    entropy -= count / side.sum() * np.log(count / side.sum())
            if entropy > best_entropy + 1e-12:
                best, best_entropy = t, entropy
        assert maximum_entropy_threshold(histogram) == best, trial
    assert maximum_entropy_threshold(np.array([0, 0, 7, 0])) == 2


def test_balanced_histogram_against_a_walk_with_pixels():
    rng = np.random.default_rng(0)
    for trial in range(20):
        histogram = rng.integers(0, 6, 30) * (rng.random(30) < 0.6)
        pixels = [level for level in range(30) for _ in range(histogram[level])]
        start, end = min(pixels), max(pixels)
        while start != end:
            middle = (start + end) // 2
            left = [level for level in pixels if start <= level <= middle]
            right = [level for level in pixels if middle < level <= end]
            if len(right) > len(left):
                end -= 1
            else:
                start += 1
        assert balanced_histogram_threshold(histogram) == start, trial
    assert balanced_histogram_threshold(np.array([0, 9, 0, 0])) == 1
    # by hand, 1 1 1 1 8: 3 < 9, level 4 goes; 2 = 2, level 0 goes; 2 > 1, level 1 goes; 1 = 1, level 2 goes
    assert balanced_histogram_threshold(np.array([1, 1, 1, 1, 8])) == 3


def test_the_subject_touches_the_border_less():
    labels = np.zeros((6, 8), int)
    labels[2:4, 2:6] = 1
    np.testing.assert_array_equal(subject_matte(labels), labels)
    np.testing.assert_array_equal(subject_matte(1 - labels), labels)
    halves = np.repeat([[0] * 4 + [1] * 4], 6, axis=0)  # a tie: the second class
    np.testing.assert_array_equal(subject_matte(halves), halves)
    np.testing.assert_array_equal(subject_matte(1 - halves), 1 - halves)
    assert not subject_matte(np.zeros((5, 5), int)).any()
    # of the 16 outermost pixels classes 0 to 3 hold 0, 5, 5 and 6: 3 and 1 make half, 2 and 0 are the subject
    bands = np.zeros((5, 5), int)
    bands[0], bands[-1], bands[1:4, 0], bands[1:4, -1] = 1, 2, 3, 3
    expected = np.isin(bands, (0, 2)).astype(np.float32)
    np.testing.assert_array_equal(subject_matte(bands), expected)


def test_multi_otsu_finds_what_is_darker_and_what_is_brighter_than_the_background():
    levels = np.full((40, 60), 130)
    levels[10:30, 10:30], levels[10:30, 30:50] = 40, 220
    alpha = multi_otsu(np.repeat(levels[..., None], 3, axis=2).astype(np.uint8))
    np.testing.assert_array_equal(alpha == 1, levels != 130)
    noise = np.random.default_rng(0).normal(0, 5, (40, 60, 1))
    alpha = multi_otsu((levels[..., None] + noise).clip(0, 255).astype(np.uint8).repeat(3, axis=2))
    np.testing.assert_array_equal(alpha == 1, levels != 130)


def test_adaptive_follows_uneven_light_where_otsu_cannot():
    y, x = np.mgrid[:64, :64]
    dots = (x % 10 - 5) ** 2 + (y % 10 - 5) ** 2 < 8
    grey = 20 + 2.5 * x + 40 * dots
    image = np.rint(grey)[..., None].astype(np.uint8).repeat(3, axis=2)
    assert ((adaptive(image) == 1) != dots)[:, 8:-8].mean() < 0.02  # at the sides the light seems to turn
    assert ((otsu(image) == 1) != dots).mean() > 0.3


def test_kmeans_divides_two_clean_colours_exactly():
    image, disc = disc_picture((200, 60, 60), (60, 101, 60), noise=0)  # of one luminance
    np.testing.assert_array_equal(kmeans(image) == 1, disc)
    image, disc = disc_picture((200, 60, 60), (60, 101, 60), 200, 300, noise=0)  # more pixels than are fitted to
    np.testing.assert_array_equal(kmeans(image) == 1, disc)


def test_constant_mattes():
    for name, value in CONSTANTS.items():
        alpha = METHODS[name](np.zeros((4, 7, 3), np.uint8))
        assert alpha.dtype == np.float32 and alpha.shape == (4, 7) and (alpha == value).all()


@pytest.mark.parametrize("method", DISC_TOLERANCE)
@pytest.mark.parametrize("colours", [((230, 220, 210), (30, 40, 60)), ((30, 40, 60), (230, 220, 210))])
def test_a_plain_disc_is_found_whether_bright_or_dark(method, colours):
    image, disc = disc_picture(*colours)
    alpha = METHODS[method](image)
    assert set(np.unique(alpha)) == {0, 1} and alpha.dtype == np.float32
    assert ((alpha == 1) != disc).mean() < DISC_TOLERANCE[method]


def two_discs():
    """uint8 picture of a bright and a red disc side by side, and the disc within either half."""
    bright, disc = disc_picture((230, 220, 210), (30, 40, 60))
    red, _ = disc_picture((200, 30, 30), (30, 40, 60), seed=1)
    return np.concatenate([bright, red], axis=1), disc


def test_grabcut_in_a_box_takes_that_disc_alone():
    both, disc = two_discs()
    alpha = grabcut(both, (80, 0, 160, 60))
    assert not alpha[:, :80].any() and ((alpha[:, 80:] == 1) != disc).mean() < 0.01
    shifted = np.concatenate([np.tile(both[:, 70:80], (1, 8, 1)), both], axis=1)
    alpha = grabcut(shifted, (80, 0, 160, 60))
    assert not alpha[:, 160:].any() and ((alpha[:, 80:160] == 1) != disc).mean() < 0.01
    for wrong in [(0, 0, 161, 60), (-1, 0, 9, 9), (5, 5, 5, 9), (9, 5, 5, 9)]:
        with pytest.raises(ValueError, match="not within the picture of 160 x 60"):
            grabcut(both, wrong)
    with pytest.raises(ValueError, match="leaves no background"):
        grabcut(both, (0, 0, 160, 60))


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
        assert alpha.shape == shape and alpha.dtype == np.float32
        assert np.isin(alpha, (0, 1)).all() or method == "constant_0.5"


@pytest.mark.parametrize("method", [name for name in METHODS if name not in CONSTANTS and name != "grabcut"])
def test_a_picture_of_one_colour_has_no_subject(method):
    assert not METHODS[method](np.full((20, 30, 3), 90, np.uint8)).any()


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
    assert err.count("error: ") == 2 * len(METHODS) and "sub/b.png: is not a picture" in err
    for method in METHODS:
        record = json.loads((output / method / "run.json").read_text())
        assert record["method"] == method and record["settings"] == SETTINGS[method] and record["failed"] == 1
        assert [entry["input"] for entry in record["inputs"]] == ["a.jpg", "a.png", "sub/b.png"]
        assert record["inputs"][0]["output"] == "a.jpg.png" and record["inputs"][0]["size"] == [80, 60]
        assert "is not a picture" in record["inputs"][2]["error"]
        for name in ("a.jpg.png", "a.png.png"):
            alpha = read_alpha(output / method / name)
            if method in CONSTANTS:
                assert abs(alpha - CONSTANTS[method]).max() < 1e-4
            elif method in DISC_TOLERANCE:
                assert ((alpha == 1) != disc).mean() < 2 * DISC_TOLERANCE[method]
        assert not list(output.rglob("b.*"))
    (tmp_path / "in" / "sub" / "b.png").unlink()
    assert main(["--input", str(tmp_path / "in" / "a.png"), "--output", str(tmp_path / "o"), "--method", "otsu"]) == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a.png", "run.json"]


def test_whatever_one_photo_raises_is_its_error_and_nothing_of_yesterday_stays(tmp_path, capsys, monkeypatch):
    photos, output = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b", "c"):
        write_image(photos / f"{name}.png", disc_picture((200, 60, 40), (40, 60, 200))[0])
    (photos / "d.nef").touch()
    for name in ("a.uncertainty", "b", "b.mask", "mine"):
        write_alpha(output / f"{name}.png", np.zeros((2, 2)))
    whole = METHODS["otsu"]
    calls = []

    def faulty(image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyError("nobody foresaw this")
        return whole(image)

    monkeypatch.setitem(METHODS, "otsu", faulty)
    assert main(["--method", "otsu", "--input", str(photos), "--output", str(output)]) == 1
    record = json.loads((output / "run.json").read_text())
    assert record["failed"] == 1 and record["passed_over"] == {".nef": 1}
    assert record["inputs"][1]["error"] == f"{photos / 'b.png'}: KeyError: 'nobody foresaw this'"
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "c.png", "mine.png", "run.json"]
    assert "passed over 1 .nef" in capsys.readouterr().err


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


def test_several_methods_take_a_folder_each_and_boxes_reach_grabcut(tmp_path, capsys):
    both, _ = two_discs()
    write_image(tmp_path / "in" / "a.png", both)
    write_image(tmp_path / "in" / "b.png", both)
    (tmp_path / "boxes.json").write_text('{"a.png": [80, 0, 160, 60]}')
    common = ["--input", str(tmp_path / "in"), "--method", "otsu", "grabcut", "--output"]
    assert main([*common, str(tmp_path / "box"), "--box", "80", "0", "160", "60"]) == 0
    assert main([*common, str(tmp_path / "boxes"), "--boxes", str(tmp_path / "boxes.json")]) == 1
    assert "b.png: has no box" in capsys.readouterr().err
    for folder in ("box", "boxes"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["grabcut", "otsu"]
        alpha = read_alpha(tmp_path / folder / "grabcut" / "a.png")
        assert alpha[:, 80:].any() and not alpha[:, :80].any()
        entry = json.loads((tmp_path / folder / "grabcut" / "run.json").read_text())["inputs"][0]
        assert entry["box"] == [80, 0, 160, 60]
    assert (tmp_path / "boxes" / "otsu" / "b.png").exists() and not (tmp_path / "boxes" / "grabcut" / "b.png").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--method", "knn"], "knn needs trimaps; name their folder with --trimap"),
        (["--method", "otsu", "--trimap", "{tmp}"], "none of these methods uses it"),
        (["--method", "knn", "--trimap", "{tmp}/none"], "/none: is not a folder"),
        (["--method", "otsu", "--box", "0", "0", "4", "4"], "--box and --boxes belong to GrabCut"),
        (["--method", "grabcut", "--boxes", "{tmp}/none.json"], "/none.json"),
        (["--method", "grabcut", "--boxes", "{tmp}/bad.json"], "bad.json: is not JSON"),
        (["--method", "grabcut", "--boxes", "{tmp}/list.json"], "list.json: is not a JSON object"),
        (["--method", "grabcut", "--boxes", "{tmp}/three.json"], "three.json: the box of a.png is [1, 2, 3]"),
    ],
)
def test_wrong_choices_take_one_line(tmp_path, capsys, words, message):
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "three.json").write_text('{"a.png": [1, 2, 3]}')
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_without_pymatting_the_extra_is_named(tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pymatting" else real(name))
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    common = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--trimap", str(tmp_path / "in")]
    assert main([*common, "--method", "all"]) == 2
    assert "pip install 'sdseg[matting]'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(ModuleNotFoundError, match="sdseg.matting"):
        TRIMAP_METHODS["knn"](np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32))


def ramp_picture():
    """uint8 picture of two colours mixed by a ramp; that ramp; and a trimap which leaves its slope unknown."""
    alpha = np.tile(np.clip((np.arange(48) - 10) / 27, 0, 1), (32, 1))
    image = alpha[..., None] * (220, 60, 40) + (1 - alpha[..., None]) * (20, 90, 200)
    trimap = np.where(np.isin(alpha, (0, 1)), alpha, 128 / 255).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 0.5, image.shape)  # flat areas make learning-based singular
    return np.rint(image).astype(np.uint8), alpha, trimap


@needs_pymatting
@pytest.mark.parametrize("method", TRIMAP_METHODS)
def test_trimap_methods_recover_a_ramp_and_keep_what_is_known(method):
    image, alpha, trimap = ramp_picture()
    matte = TRIMAP_METHODS[method](image, trimap)
    known = np.isin(trimap, (0, 1))
    assert matte.dtype == np.float32 and 0.4 < known.mean() < 0.6
    np.testing.assert_array_equal(matte[known], trimap[known])
    assert np.abs(matte - alpha)[~known].max() < 0.04
    for wrong, message in [
        (trimap[:-1], "is 48 x 31 pixels, but its picture 48 x 32"),
        (np.where(known, trimap, 0), "no unknown"),
        (np.full_like(trimap, 0.5), "no background"),
        (np.minimum(trimap, 0.5), "no subject"),
    ]:
        with pytest.raises(ValueError, match=message):
            TRIMAP_METHODS[method](image, wrong)


@needs_pymatting
def test_command_line_pairs_trimaps_by_name(tmp_path, capsys):
    image, alpha, trimap = ramp_picture()
    for name in ("sub/a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name, image)
    write_alpha(tmp_path / "trimaps" / "sub" / "a.png", trimap)
    write_alpha(tmp_path / "trimaps" / "c.png", np.zeros_like(trimap))
    arguments = ["--input", str(tmp_path / "in"), "--trimap", str(tmp_path / "trimaps"), "--method"]
    assert main([*arguments, "closed_form", "--output", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "trimaps/b.png: no such trimap" in err and "trimaps/c.png: has no subject (255) pixels" in err
    assert np.abs(read_alpha(tmp_path / "out" / "sub" / "a.png") - alpha).max() < 0.04
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["a.png"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["failed"] == 2
    assert main([*arguments, "all", "--output", str(tmp_path / "all")]) == 1
    assert {path.name for path in (tmp_path / "all").iterdir()} == {*METHODS, *TRIMAP_METHODS} == set(SETTINGS)


@needs_pymatting
@pytest.mark.skipif(not MATTING.is_dir(), reason="the folder of real pictures is not there")
@pytest.mark.parametrize("name", ["lemur", "product_8"])
def test_closed_form_is_far_ahead_of_all_that_know_no_trimap(name):
    import cv2

    def reduced(pixels):
        return cv2.resize(pixels, (140, 100), interpolation=cv2.INTER_AREA)

    image = reduced(read_image(MATTING / "image" / f"{name}.png"))
    alpha = reduced(read_alpha(MATTING / "alpha" / f"{name}.png"))
    trimap = reduced(read_alpha(MATTING / "trimap" / f"{name}.png"))
    trimap = np.select([trimap < 0.001, trimap > 0.999], [0, 1], 0.5).astype(np.float32)
    mad = {method: np.abs(METHODS[method](image) - alpha).mean() for method in METHODS}
    mad["closed_form"] = np.abs(TRIMAP_METHODS["closed_form"](image, trimap) - alpha).mean()
    assert mad.pop("closed_form") < min(mad.values()) / 2.5, mad


@pytest.mark.parametrize(("gap", "filled"), [(5, True), (9, False)])
def test_canny_joins_the_ends_of_an_outline_that_lie_close(gap, filled):
    """A drawn circle of the same grey inside and outside: only a closed outline makes a region of its inside."""
    y, x = np.mgrid[:96, :96]
    distance = np.hypot(y - 48, x - 48)
    outline = (distance < 30) & (distance >= 27) & ~((x > 48) & (np.abs(y - 48) < gap / 2))
    image = np.where(outline[..., None], np.uint8(20), np.uint8(120)).repeat(3, -1)
    wrong = np.abs(METHODS["canny"](image) - (distance < 30)).mean()
    assert wrong < 0.05 if filled else wrong > 0.2
