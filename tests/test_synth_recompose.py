"""Cameras, photos and recombined foregrounds: identities, slower truths, and the same bytes wherever it runs."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from synth_data.backgrounds import BackgroundFactors, Sources, defocused, draw_background
from synth_data.capture import CaptureFactors, capture, developed, exposed_sensor, sharpened, through_lens
from synth_data.colour import linear_to_srgb, srgb_to_linear
from synth_data.factors import draw

NEUTRAL = draw(np.random.default_rng(0), CaptureFactors())
ALL_ON = {
    "vignetting": 0.3, "fringe": 0.001, "softness": 0.4, "mosaic": True, "shot_noise": 0.02, "read_noise": 0.004,
    "warmth": 0.1, "tint": 0.03, "contrast": 0.3, "sharpening": 0.5, "jpeg": True, "quality": 88, "subsampled": True,
}  # fmt: skip


def light(height=48, width=64, seed=0):
    """A smooth picture of linear light in [0, 1], float32 [H, W, 3]."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (smooth - smooth.min()) / np.ptp(smooth)


# ---------------------------------------------------------------------------------------------- cameras


def test_a_camera_that_does_nothing_writes_the_light_as_it_is():
    linear = light() * 1.2  # some of it too bright
    picture = capture(linear, NEUTRAL, np.random.default_rng(0))
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, np.round(linear_to_srgb(linear) * 255).astype(np.uint8))


def test_the_sensor_alone_loses_less_than_half_a_level():
    linear = light()
    counts = exposed_sensor(linear, False, 0, 0, np.random.default_rng(0))
    assert np.abs(developed(counts, 0, 0, 0) - linear_to_srgb(linear)).max() * 255 < 0.06


@pytest.mark.parametrize("name", [name for name in ALL_ON if name not in ("quality", "subsampled")])
def test_every_effect_is_seen_in_the_picture(name):
    linear = light()
    plain = capture(linear, NEUTRAL, np.random.default_rng(0)).astype(int)
    off = capture(linear, NEUTRAL | {"quality": 30, "subsampled": True}, np.random.default_rng(0))
    assert np.array_equal(off, plain)  # JPEG's settings say nothing while there is no JPEG
    changed = np.abs(capture(linear, NEUTRAL | {name: ALL_ON[name]}, np.random.default_rng(0)) - plain)
    assert 0.02 < changed.mean() < 25


def test_capture_is_a_function_of_its_arguments_and_leaves_them_alone():
    linear = light()
    before = linear.copy()
    one, two, other = (capture(linear, ALL_ON, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert np.array_equal(linear, before)


def test_vignetting_takes_its_share_in_the_corners():
    seen = through_lens(np.ones((101, 151, 3), np.float32), 0.3, 0, 0)
    assert seen[50, 75] == pytest.approx(np.ones(3), abs=1e-6)
    assert seen[0, 0] == pytest.approx(np.full(3, 0.7), abs=0.01)
    assert seen[50, 0, 0] == pytest.approx(1 - 0.3 * 75**2 / (75.5**2 + 50.5**2), abs=1e-3)


def test_fringe_enlarges_red_and_shrinks_blue_about_the_middle():
    """A linear ramp stays a ramp, so that the slopes tell the scales."""
    ramp = np.repeat(np.linspace(0, 1, 101, dtype=np.float32)[None, :, None], 61, 0).repeat(3, 2)
    seen = through_lens(ramp, 0, 0.01, 0)[30, 10:-10].astype(np.float64)
    slopes = np.polyfit(np.arange(10, 91) - 50.0, seen, 1)[0] * 100
    assert slopes == pytest.approx([1 / 1.01, 1, 1 / 0.99], abs=2e-3)  # OpenCV's cubic bends a ramp by 1e-3
    assert seen[40] == pytest.approx(np.full(3, 0.5), abs=1e-3)


@pytest.mark.parametrize("mosaic", [False, True])
def test_noise_has_the_variance_it_says(mosaic):
    """Of the sensor's readings, at three levels of light; interpolation makes it less."""
    shot, read = 0.04, 0.01
    for level in (0.0, 0.2, 0.6):
        counts = exposed_sensor(np.full((200, 200, 3), level, np.float32), mosaic, shot, read, np.random.default_rng(0))
        light_read = counts[..., 1] / 65535 * 1.05 - 0.05
        deviation = np.sqrt(shot**2 * level + read**2)
        assert light_read.mean() == pytest.approx(level, abs=3e-4)
        if mosaic:
            assert light_read[1::2, 0::2].std() == pytest.approx(deviation, rel=0.05)  # where green was seen
            assert light_read[2:-2:2, 2:-2:2].std() < 0.8 * deviation  # where it was interpolated
        else:
            assert light_read.std() == pytest.approx(deviation, rel=0.05)


def test_a_mosaic_keeps_every_colour_where_it_belongs():
    """Interpolation of a smooth picture gives it back: no channel is swapped and nothing moves."""
    smooth = cv2.GaussianBlur(light(seed=3), (0, 0), 3)
    counts = exposed_sensor(smooth, True, 0, 0, np.random.default_rng(0))
    assert np.abs(counts / 65535 * 1.05 - 0.05 - smooth)[2:-2, 2:-2].max() < 0.02


def test_development_equals_its_formula():
    counts = np.random.default_rng(0).integers(4000, 30000, (5, 6, 3)).astype(np.uint16)
    gains = np.exp([0.2, 0.1, -0.2])
    gains /= gains @ [0.2126, 0.7152, 0.0722]
    v = linear_to_srgb((counts / 65535 * 1.05 - 0.05) * gains)
    assert developed(counts, 0.2, 0.1, 0.4) == pytest.approx(v + 0.4 * v * (1 - v) * (2 * v - 1), abs=1e-5)
    grey = developed(np.full((1, 1, 3), 20000, np.uint16), 0.2, 0.1, 0)
    was = developed(np.full((1, 1, 3), 20000, np.uint16), 0, 0, 0)
    weights = [0.2126, 0.7152, 0.0722]
    assert srgb_to_linear(grey)[0, 0] @ weights == pytest.approx(srgb_to_linear(was)[0, 0] @ weights, rel=1e-4)


@pytest.mark.parametrize("contrast", [-1.0, 1.0])
def test_the_tone_curve_never_falls(contrast):
    rising = developed(np.repeat(np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None], 3, 2), 0, 0, contrast)
    assert (np.diff(rising[0, :, 0]) >= -1e-6).all() and rising.min() == 0 and rising.max() > 0.999


def test_sharpening_leaves_flat_parts_and_steepens_edges():
    step = np.zeros((20, 40, 3), np.float32) + 0.3
    step[:, 20:] = 0.6
    sharp = sharpened(step, 0.8)
    assert sharp[:, :14] == pytest.approx(step[:, :14], abs=1e-4)
    assert sharp[10, 20, 0] > 0.65 and sharp[10, 19, 0] < 0.25


# ---------------------------------------------------------------------------------------------- photos


def gradient(height, width):
    """uint8 [H, W, 3]: red rises to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x + 90]).round().astype(np.uint8)


def test_photos_of_many_formats_become_linear_light_of_the_frames_size(tmp_path):
    (tmp_path / "below").mkdir()
    grey = Image.fromarray(gradient(60, 90)[..., 0])
    Image.fromarray(gradient(700, 900)).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(gradient(60, 90)).save(tmp_path / "below" / "b.png")
    grey.save(tmp_path / "c.PGM")
    Image.fromarray(gradient(60, 90)).convert("P").save(tmp_path / "d.gif")
    Image.fromarray(gradient(60, 90)).convert("RGBA").save(tmp_path / "e.webp", lossless=True)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "f.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    sources = Sources([str(tmp_path)])
    assert sources.number_of_photos == 6
    rng = np.random.default_rng(0)
    seen = [sources.photo(rng, 32) for _ in range(40)]
    for photo in seen:
        assert photo.shape == (32, 32, 3) and photo.dtype == np.float32
        assert 0 <= photo.min() and 0.05 < photo.mean() and photo.max() <= 1
        levels = linear_to_srgb(photo) * 255  # half to all of a ramp of 255, mirrored or not
        assert 60 < np.ptp(levels[..., 0].mean(0)) < 256 and np.ptp(levels[..., 0].mean(1)) < 12
    colourful = [p for p in seen if abs(p[..., 2].mean() - srgb_to_linear(np.array(90 / 255))) < 0.01]
    assert len(colourful) > 10 and len({float(p.mean()) for p in seen}) > 30
    left_to_right = [bool(p[..., 0].mean(0)[-1] > p[..., 0].mean(0)[0]) for p in seen]
    assert 8 < sum(left_to_right) < 32
    assert np.array_equal(Sources([str(tmp_path)]).photo(np.random.default_rng(0), 32), seen[0])


def test_a_photos_orientation_is_respected(tmp_path):
    upright = gradient(80, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the file is to be rotated a quarter clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    photo = Sources([str(tmp_path)]).photo(np.random.default_rng(1), 16)
    assert np.ptp(photo[..., 0].mean(0)) > 0.2 > 0.05 > np.ptp(photo[..., 0].mean(1))
    assert photo[-1, :, 1].mean() > photo[0, :, 1].mean()


def test_a_reduced_decode_shows_the_same_part(tmp_path):
    from synth_data.photos import square_part

    Image.fromarray(gradient(900, 1600)).save(tmp_path / "large.jpg", quality=95)
    Image.open(tmp_path / "large.jpg").save(tmp_path / "large.png")
    jpeg, png = (square_part("x", tmp_path / f"large.{kind}", 48, 0.7, 0.9, 0.3) for kind in ("jpg", "png"))
    assert np.abs(jpeg.astype(int) - png).max() <= 3


def photos_as_parquet(folder):
    import datasets

    images = []
    for side in (60, 80):
        content = io.BytesIO()
        Image.fromarray(gradient(side, side)).save(content, format="PNG")
        images.append({"bytes": content.getvalue(), "path": None})
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()})
    data = datasets.Dataset.from_dict({"label": [1, 2], "photo": images}, features=features)
    folder.mkdir()
    data.to_parquet(folder / "train.parquet")
    return folder


def test_a_data_sets_image_column_is_found(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    sources = Sources([str(photos_as_parquet(tmp_path / "set"))])
    assert sources.number_of_photos == 2
    photo = sources.photo(np.random.default_rng(0), 24)
    assert photo[..., 2] == pytest.approx(np.full((24, 24), srgb_to_linear(np.array(90 / 255))), abs=0.01)
    assert np.ptp(photo[..., 0].mean(0)) > 0.2


def test_photos_that_cannot_be_read_are_named_with_a_remedy(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no pictures; give a folder"):
        Sources([str(tmp_path / "empty")])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="nowhere' is no folder here and cannot be loaded .*; give a folder") as error:
        Sources([str(tmp_path / "nowhere")])
    assert "\n" not in str(error.value)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "torn.png").write_bytes(b"\x89PNG half")
    whole = io.BytesIO()
    Image.fromarray(gradient(300, 300)).save(whole, format="JPEG")
    sources = Sources([str(tmp_path / "bad")])
    for name, content in (("torn.png", b"\x89PNG half"), ("cut.jpg", whole.getvalue()[:2000])):
        next((tmp_path / "bad").iterdir()).unlink()
        (tmp_path / "bad" / name).write_bytes(content)
        sources = Sources([str(tmp_path / "bad")])
        with pytest.raises(ValueError, match=f"{name} cannot be read .*; replace or remove it") as error:
            sources.photo(np.random.default_rng(0), 16)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="needs photos; name a folder"):
        Sources().photo(np.random.default_rng(0), 16)


def background_factors(**changes):
    plain = {"kind": "plain", "sharp": True, "similar": False, "grain": 0.0}
    return draw(np.random.default_rng(0), BackgroundFactors()) | plain | changes


def test_a_photo_is_a_background_as_it_is(tmp_path):
    Image.fromarray(gradient(90, 90)).save(tmp_path / "a.png")
    sources = Sources([str(tmp_path)])
    drawn = draw_background(np.random.default_rng(4), 40, background_factors(kind="photo"), np.ones(3), sources)
    assert np.array_equal(drawn, sources.photo(np.random.default_rng(4), 40))
    soft = background_factors(kind="photo", sharp=False, blur=0.05)
    blurred = draw_background(np.random.default_rng(4), 40, soft, np.ones(3), sources)
    assert np.abs(np.diff(blurred, axis=0)).max() < np.abs(np.diff(drawn, axis=0)).max()
    with pytest.raises(ValueError, match="needs photos"):
        draw_background(np.random.default_rng(4), 40, background_factors(kind="photo"), np.ones(3))


def test_distractors_are_over_the_background_and_out_of_focus():
    def red_square(rng, size):
        alpha = np.zeros((size, size), np.float32)
        alpha[size // 4 : -size // 4, size // 4 : -size // 4] = 1
        return alpha[..., None] * np.float32([0.8, 0, 0]), alpha

    factors = background_factors(distractors=1)
    drawn = draw_background(np.random.default_rng(4), 64, factors, np.ones(3), Sources(distractor=red_square))
    without = draw_background(np.random.default_rng(4), 64, factors | {"distractors": 0}, np.ones(3))
    assert drawn[32, 32] == pytest.approx([0.8, 0, 0], abs=1e-3)
    assert drawn[0] == pytest.approx(without[0], abs=0.01)
    assert 0.05 < np.abs(np.diff(drawn[32, :, 0])).max() < 0.5  # its edge is no step
    with pytest.raises(ValueError, match="distractors"):
        draw_background(np.random.default_rng(4), 64, factors, np.ones(3))


@pytest.mark.parametrize("sigma", [1.5, 9.0])
def test_defocus_is_a_gaussian_blur_at_any_speed(sigma):
    picture = light(96, 96)
    truth = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    inside = slice(20, -20)  # at the border, blocks are repeated and not pixels
    assert np.abs(defocused(picture, sigma) - truth)[inside, inside].max() < 0.005
