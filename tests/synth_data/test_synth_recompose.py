"""Cameras, photos and recombined foregrounds: identities, slower truths, and the same bytes wherever it runs."""

import io
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from synth_data.backgrounds import BackgroundFactors, Sources, defocused, draw_background
from synth_data.capture import CaptureFactors, capture, developed, exposed_sensor, sharpened, through_lens
from synth_data.colour import linear_to_srgb, srgb_to_linear
from synth_data.compose import expose, make_pairs
from synth_data.factors import draw, unknown
from synth_data.recipe import parse_recipe
from synth_data.recompose import Placed, RecomposeFactors, Recomposer, placement, stacked, warped
from synth_data.render import start
from synth_data.store import Layers, open_folder, write_layers, write_metadata, write_pair

ROOT = Path(__file__).parents[2]
NEUTRAL = draw(np.random.default_rng(0), CaptureFactors())
ALL_ON = {
    "vignetting": 0.3, "fringe": 0.001, "softness": 0.4, "mosaic": True, "shot_noise": 0.02, "read_noise": 0.004,
    "warmth": 0.1, "tint": 0.03, "contrast": 0.3, "sharpening": 0.5, "jpeg": True, "quality": 88, "subsampled": True,
    "reduced": 1.0,
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


@pytest.mark.parametrize("name", [name for name in ALL_ON if name not in ("quality", "subsampled", "reduced")])
def test_every_effect_is_seen_in_the_picture(name):
    linear = light()
    plain = capture(linear, NEUTRAL, np.random.default_rng(0)).astype(int)
    off = capture(linear, NEUTRAL | {"quality": 30, "subsampled": True}, np.random.default_rng(0))
    assert np.array_equal(off, plain)  # JPEG's settings say nothing while there is no JPEG
    changed = np.abs(capture(linear, NEUTRAL | {name: ALL_ON[name]}, np.random.default_rng(0)) - plain)
    assert 0.02 < changed.mean() < 25


def test_a_reduced_photo_has_the_noise_of_the_mean_of_its_pixels():
    """Against the photo at four times the size, captured there and reduced by area averaging."""
    grey, noise = np.full((256, 256, 3), 0.4, np.float32), NEUTRAL | {"shot_noise": 0.04, "read_noise": 0.01}
    large = capture(grey, noise, np.random.default_rng(0)).astype(np.float32)
    averaged = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    reduced = capture(grey[:64, :64], noise | {"reduced": 4.0}, np.random.default_rng(1)).astype(np.float32)
    assert reduced.std() == pytest.approx(averaged.std(), rel=0.05) and large.std() > 3 * reduced.std()
    assert abs(reduced.mean() - averaged.mean()) < 0.5
    plain = capture(light(), NEUTRAL, np.random.default_rng(0))
    coarse = NEUTRAL | {"mosaic": True, "jpeg": True, "quality": 10}
    assert np.array_equal(capture(light(), coarse | {"reduced": 2.0}, np.random.default_rng(0)), plain)
    assert not np.array_equal(capture(light(), coarse | {"reduced": 1.9}, np.random.default_rng(0)), plain)


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
    assert developed(counts, 0.2, 0.1, 0.4) == pytest.approx(v + 0.4 * v * (1 - v) * (2 * v - 1), abs=3e-5)
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
    assert np.abs(linear_to_srgb(jpeg) - linear_to_srgb(png)).max() <= 3.5 / 255


def test_a_photo_is_made_smaller_in_linear_light(tmp_path):
    """Fine black and white stripes seen from afar are half the light, not half the number."""
    from synth_data.photos import square_part

    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    part = square_part("x", tmp_path / "stripes.png", 16, 1.0, 0.0, 0.0)
    assert part.dtype == np.float32 and part == pytest.approx(np.full((16, 16, 3), 0.5), abs=1e-6)


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
    monkeypatch.chdir(tmp_path)
    for place in (str(tmp_path / "nowhere"), "nowhere"):  # no Hub id, so the Hub is not asked
        with pytest.raises(ValueError, match="no folder '.*nowhere' here; give a folder"):
            Sources([place])
    with pytest.raises(ValueError, match="nowhere' is no folder here and cannot be loaded .*; give a folder") as error:
        Sources(["owner/nowhere"])
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


# ---------------------------------------------------------------------------------------------- recombination

SIZE = 48
NO_CHANGE = draw(np.random.default_rng(0), RecomposeFactors())
VARIED = """
exposure: {key: [0.2, 0.4]}
recompose:
  {flip: 0.5, scale: [0.7, 1.3], shift_x: [-0.2, 0.2], shift_y: [-0.2, 0.2], rotate: [-20, 20], second: 0.5,
   distractors: [0, 2], background_flip: 0.5, background_crop: [0.6, 1], background_sharp: 0.5,
   background_blur: [0, 0.04], background_stops: [-1, 1]}
capture: {vignetting: [0, 0.3], mosaic: 0.5, shot_noise: [0, 0.03], jpeg: 0.5, quality: [60, 95]}
"""


def disc(index, size=SIZE, at=(0.0, 0.0), transmissive=False):
    """A soft disc with ids 1 (left) and 2 (right) over a random smooth background."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    alpha = np.clip((0.5 - np.hypot(x - at[0], y - at[1])) * size / 8, 0, 1)
    colour = rng.uniform(0.1, 0.9, 3) * alpha[..., None] * (1 + 0.3 * x[..., None])
    ids = np.where(alpha >= 0.5, np.where(x < at[0], 1, 2), 0).astype(np.uint8)
    records = [{"id": 1, "family": "fur", "class": 1}, {"id": 2, "family": "glass", "class": 10}]
    factors = json.dumps({"instances": records, "transmissive": transmissive})
    meta = {"seed": 0, "index": index, "recipe": "tiny", "factors": factors}
    background = (light(size, size, index) * 255).astype(np.uint8)
    return Layers(colour.astype(np.float16), alpha.astype(np.float16), ids, background, meta)


def write_set(folder, recipe="", layers=None):
    """An on-the-fly set as the renderer leaves it."""
    settings = {"seed": 0, "size": SIZE, "variant": "none", "target": "alpha", "compositing": "on_the_fly"}
    open_folder(folder, "name: tiny\n" + recipe, settings | {"inputs": {}}, {})
    layers = layers or [disc(index, at=(0.1 * index - 0.2, 0.05 * index)) for index in range(5)]
    write_metadata(folder, {each.meta["index"]: write_layers(folder, each) for each in layers})
    return folder


def sixteen_bits(alpha):
    """As a PNG of 16 bits gives it back."""
    return np.round(alpha * 65535).astype(np.uint16).astype(np.float32) / np.float32(65535)


def test_neutral_recombination_is_the_composite_itself(tmp_path):
    """I = C + (1 - alpha) B in linear light, pixel by pixel, where nothing is varied."""
    layers = disc(0)
    folder = write_set(tmp_path / "set", "recompose: {own: 1}\nexposure: {stops: [0, 0]}", [layers])
    pair = Recomposer(folder).pair(0, np.random.default_rng(3))
    drawn = json.loads(pair.meta["factors"])
    alpha = layers.alpha.astype(np.float32)
    colour = expose(layers.colour.astype(np.float32), alpha, **drawn["exposure"])
    truth = colour + (1 - alpha[..., None]) * srgb_to_linear(layers.background / 255.0)
    assert np.array_equal(pair.alpha, sixteen_bits(alpha)) and not np.array_equal(pair.alpha, alpha)
    assert np.abs(pair.image - linear_to_srgb(truth) * 255).max() <= 0.501
    assert np.array_equal(pair.instances, layers.instances)
    assert np.array_equal(pair.classes, np.array([0, 1, 10], np.uint8)[layers.instances])
    assert drawn["recompose"]["background_index"] == 0 and drawn["coverage"] == pytest.approx(alpha.mean(), abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"scale": 1.7, "rotate": 25.0}, {"shift_x": 0.2, "shift_y": -0.1, "rotate": -90.0, "flip": True}],
    ids=["mirrored", "larger and turned", "moved, turned and mirrored"],
)
def test_a_placed_foreground_equals_scipys_interpolation(change):
    layers = disc(1, at=(0.2, -0.1))
    rgba = np.dstack([layers.colour, layers.alpha]).astype(np.float32)
    where = placement(rgba, SIZE, NO_CHANGE | change)
    colour, alpha, ids = warped(rgba, layers.instances, SIZE, where)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    at = where @ np.stack([columns.ravel(), rows.ravel(), np.ones(SIZE * SIZE)])
    for k, seen in enumerate([*np.moveaxis(colour, 2, 0), alpha]):
        truth = map_coordinates(rgba[..., k].astype(np.float64), at[::-1], order=1).reshape(SIZE, SIZE)
        assert np.abs(seen - truth).max() < 0.01  # OpenCV rounds positions to 1/32 of a pixel
    truth = map_coordinates(layers.instances, at[::-1].round(), order=0).reshape(SIZE, SIZE)
    assert (ids == truth)[(truth > 0) & (alpha > 0.6)].mean() > 0.98
    assert (ids[alpha >= 0.5] > 0).all()


def test_shifts_scales_and_turns_go_where_they_say():
    rgba = np.zeros((64, 64, 4), np.float32)
    rgba[20:30, 30:34] = 1  # upright, above the middle

    def middle_and_size(**change):
        _, alpha, _ = warped(rgba, np.zeros((64, 64), np.uint8), 64, placement(rgba, 64, NO_CHANGE | change))
        rows, columns = np.where(alpha > 0.5)
        return (columns.mean() - 31.5) / 64, (31.5 - rows.mean()) / 64, len(rows)

    x, y, number = middle_and_size()
    assert (x, y, number) == pytest.approx((0, 7 / 64, 40), abs=1e-6)
    assert middle_and_size(shift_x=0.25, shift_y=-0.125) == pytest.approx((0.25, 7 / 64 - 0.125, 40), abs=0.01)
    assert middle_and_size(scale=2.0)[1:] == pytest.approx((14 / 64, 160), rel=0.15)
    assert middle_and_size(scale=0.5)[1] == pytest.approx(3.5 / 64, abs=0.01)
    assert middle_and_size(rotate=90)[:2] == pytest.approx((-7 / 64, 0), abs=0.01)  # anticlockwise
    assert middle_and_size(flip=True, shift_x=0.25)[0] == pytest.approx(0.25, abs=0.01)
    rgba[:] = np.random.default_rng(0).random((64, 64, 4))
    colour, alpha, _ = warped(rgba, np.zeros((64, 64), np.uint8), 64, placement(rgba, 64, NO_CHANGE | {"flip": True}))
    assert np.dstack([colour, alpha]) == pytest.approx(rgba[:, ::-1], abs=1e-6)


def test_a_subject_that_the_frame_cuts_stays_cut_by_it():
    """However it is placed, no straight cut comes into the picture, and no edge pixel is half lost."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    sides = {"left": x < 20, "right": x > 43, "top": y < 20, "bottom": y > 43}
    for names in (["left"], ["top"], ["left", "right"], ["bottom", "right"], list(sides)):
        rgba = np.zeros((64, 64, 4), np.float32)
        rgba[np.any([sides[name] for name in names], 0)] = 1
        for _ in range(30):
            f = NO_CHANGE | {"scale": rng.uniform(0.4, 1.5), "rotate": rng.uniform(-60, 60), "flip": False}
            f |= {"shift_x": rng.uniform(-0.4, 0.4), "shift_y": rng.uniform(-0.4, 0.4)}
            where = placement(rgba, 64, f)
            corners = where @ np.array([[-0.5, 63.5, -0.5, 63.5], [-0.5, -0.5, 63.5, 63.5], [1, 1, 1, 1]])
            least, most = corners.min(1), corners.max(1)
            assert "left" not in names or least[0] >= -0.5 - 1e-9
            assert "right" not in names or most[0] <= 63.5 + 1e-9
            assert "top" not in names or least[1] >= -0.5 - 1e-9
            assert "bottom" not in names or most[1] <= 63.5 + 1e-9
            if len(names) == 4:
                _, alpha, _ = warped(np.ones_like(rgba), np.ones((64, 64), np.uint8), 64, where)
                assert alpha.min() > 1 - 1e-6


def test_white_stays_white_under_its_own_coverage():
    """Colour and coverage go through one filter: C = alpha everywhere before gives C = alpha after."""
    alpha = disc(0).alpha.astype(np.float32)
    rgba = np.repeat(alpha[..., None], 4, 2)
    for scale in (0.4, 0.8, 1.5):
        f = NO_CHANGE | {"scale": scale, "rotate": 17.0, "shift_x": 0.1}
        colour, seen, _ = warped(rgba, (alpha > 0.5).astype(np.uint8), SIZE, placement(rgba, SIZE, f))
        assert np.abs(colour - seen[..., None]).max() < 1e-6
        if scale < 1:  # nothing is lost to aliasing
            assert seen.sum() == pytest.approx(alpha.sum() * scale**2, rel=0.01)


def test_a_smaller_picture_is_the_same_picture(tmp_path):
    folder = write_set(tmp_path / "set", "recompose: {own: 1}")
    large = Recomposer(folder).pair(0, np.random.default_rng(0))
    small = Recomposer(folder, size=SIZE // 2).pair(0, np.random.default_rng(0))
    half = large.alpha.reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3))
    assert small.alpha.shape == half.shape and np.abs(small.alpha - half).max() < 0.06
    levels = large.image.reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean((1, 3))
    assert np.abs(small.image - levels).mean() < 1.5


def test_one_foreground_over_another():
    """Against the sum over both in plain numpy; the id is whose share of a pixel is larger."""
    rng = np.random.default_rng(0)
    (ca, a), (cb, b) = ((rng.random((6, 7, 3), np.float32), rng.random((6, 7), np.float32)) for _ in range(2))
    one, two = np.full((6, 7), 2, np.uint8), np.full((6, 7), 1, np.uint8)
    records = [{"id": 1, "class": 5}, {"id": 2, "class": 6}]
    front, behind = Placed(ca, a, one, {"instances": records}), Placed(cb, b, two, {"instances": records[:1]})
    both = stacked(front, behind)
    assert both.colour == pytest.approx(ca + (1 - a)[..., None] * cb, abs=1e-6)
    assert both.alpha == pytest.approx(1 - (1 - a) * (1 - b), abs=1e-6)
    assert np.array_equal(both.ids, np.where(a >= (1 - a) * b, 2, 3))
    assert both.factors["instances"] == [*records, {"id": 3, "class": 5}]


def test_pairs_are_what_the_door_says_and_functions_of_their_draw(tmp_path):
    recomposer = Recomposer(write_set(tmp_path / "set", VARIED))
    assert len(recomposer) == 5
    seen, further = set(), 0
    for k in range(30):
        pair = recomposer.pair(k % 5, np.random.default_rng(k))
        assert pair.image.dtype == np.uint8 and pair.image.shape == (SIZE, SIZE, 3)
        assert pair.alpha.dtype == np.float32 and pair.alpha.shape == (SIZE, SIZE)
        assert np.array_equal(pair.alpha, sixteen_bits(pair.alpha))  # what a pair on disk can hold
        assert np.array_equal(pair.instances > 0, pair.alpha >= 0.5)
        assert np.array_equal(pair.classes > 0, pair.instances > 0)
        drawn = json.loads(pair.meta["factors"])
        assert pair.meta["index"] == k % 5 and {"recompose", "exposure", "capture", "instances"} <= set(drawn)
        assert pair.instances.max() <= len(drawn["instances"])
        further += "further" in drawn["recompose"]
        seen.add(pair.image.tobytes())
        again = recomposer.pair(k % 5, np.random.default_rng(k))
        assert again.image.tobytes() == pair.image.tobytes() and np.array_equal(again.alpha, pair.alpha)
        assert again.meta == pair.meta
    assert len(seen) == 30 and 5 < further < 25


@pytest.mark.parametrize("softness, reduced", [(0.7, 1.0), (2.0, 1.0), (4.0, 2.0)])
def test_a_soft_lens_blurs_the_matte_as_it_blurs_the_picture(softness, reduced, tmp_path):
    """A white subject on black is recorded as its alpha; and that is the alpha before the lens, blurred directly."""
    sharp = disc(0)
    alpha = sharp.alpha.astype(np.float32)
    white = replace(sharp, colour=np.dstack([sharp.alpha] * 3), background=np.zeros_like(sharp.background))
    recipe = (
        "recompose: {own: 1}\nexposure: {key: [1, 1], stops: [0, 0]}\ncapture: {softness: [%s, %s], reduced: [%s, %s]}"
    )
    folder = write_set(tmp_path / "set", recipe % (softness, softness, reduced, reduced), [white])
    pair = Recomposer(folder).pair(0, np.random.default_rng(0))
    half_level = (linear_to_srgb(pair.alpha) - pair.image[..., 1] / 255) * 255
    assert np.abs(half_level).max() < 0.6
    blurred = gaussian_filter(alpha.astype(np.float64), softness / reduced, mode="nearest", truncate=4)
    assert np.abs(pair.alpha - blurred).max() < 2e-3 < 0.02 < np.abs(alpha - blurred).max()
    factors = json.loads(pair.meta["factors"])
    assert factors["coverage"] == pytest.approx(blurred.mean(), abs=1e-4)
    assert np.array_equal(pair.instances > 0, pair.alpha >= 0.5)


def test_a_rendered_matte_is_blurred_too_and_its_ids_follow():
    start()
    text = "{name: x, samples_per_pixel: 4, max_depth: 2, target: classes, families: {solids: 1}, "
    text += "capture: {softness: [%s, %s]}}"
    sharp, soft = (make_pairs(parse_recipe(text % (s, s), "x"), 1, 0, [0], 32)[0] for s in (0, 1.5))
    blurred = gaussian_filter(sharp.alpha.astype(np.float64), 1.5, mode="nearest", truncate=4)
    assert np.abs(soft.alpha - blurred).max() < 2e-3 and np.abs(soft.alpha - sharp.alpha).max() > 0.05
    assert json.loads(soft.meta["factors"])["coverage"] == pytest.approx(blurred.mean(), abs=1e-4)
    assert np.array_equal(soft.instances > 0, soft.alpha >= 0.5)
    assert np.array_equal(soft.classes > 0, soft.instances > 0)
    assert not np.array_equal(soft.instances, sharp.instances)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("unit", [(3, 2), (4, 70000), (2, 0x00636E69)])  # as it should be; too large; as text
def test_photos_stand_upright_whatever_else_their_metadata_say(turn, unit, tmp_path):
    from PIL import ImageOps

    from synth_data.photos import square_part

    entries = [(0x0112, 3, 1, turn), (0x0128, unit[0], 1 if unit[0] != 2 else 4, unit[1])]
    tiff = b"II*\0\x08\0\0\0\x02\0" + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    pixels = np.round(linear_to_srgb(light(16, 16, turn)) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0" + tiff)
    good = Image.Exif()
    good[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "b.png", exif=good)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "b.png")))
    part = square_part("a.png", tmp_path / "a.png", 16, 1.0, 0.0, 0.0)
    assert np.abs(linear_to_srgb(part) * 255 - wanted).max() < 0.5


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_photos_of_32_bits_are_refused_by_name(kind, tmp_path):
    from synth_data.photos import look

    Image.fromarray(np.ones((8, 8), kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read \(its pixels are 32-bit"):
        look(str(tmp_path / "a.tif"), tmp_path / "a.tif")


def test_neither_cameras_nor_backgrounds_touch_the_matte(tmp_path):
    placed = "recompose: {scale: [0.7, 1.3], rotate: [-20, 20], own: 0.5%s}\n"
    plain = Recomposer(write_set(tmp_path / "plain", placed % ""))
    varied = placed % ", distractors: [2, 2], background_stops: [-1, 1], background_crop: [0.5, 1]"
    varied = Recomposer(write_set(tmp_path / "varied", varied + "capture: {fringe: [0.01, 0.01], sharpening: [1, 1]}"))
    where = draw(np.random.default_rng(0), plain.factors)
    for index in range(5):
        one, two = (r._foreground(index, where, {"key": 0.3, "stops": 0.0}) for r in (plain, varied))
        assert np.array_equal(one.alpha, two.alpha)
    pair = varied.pair(0, np.random.default_rng(1))
    f = json.loads(pair.meta["factors"])["recompose"]
    assert np.array_equal(pair.alpha, sixteen_bits(varied._foreground(0, f, {"key": 0.3, "stops": 0.0}).alpha))


def test_photos_come_in_where_the_recipe_says(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((90, 90, 3), (255, 0, 0), np.uint8)).save(tmp_path / "photos" / "red.png")
    recipe = f"photos: ['{tmp_path / 'photos'}']\nrecompose: {{photo: 0.5}}"
    recomposer = Recomposer(write_set(tmp_path / "set", recipe))
    red = 0
    for k in range(20):
        pair = recomposer.pair(0, np.random.default_rng(k))
        photo = json.loads(pair.meta["factors"])["recompose"]["photo"]
        assert np.array_equal(pair.image[-1, -1], (255, 0, 0)) == photo
        red += photo
    assert 4 < red < 16


def test_sets_that_cannot_be_recombined_are_refused(tmp_path):
    folder = write_set(tmp_path / "set")
    with pytest.raises(ValueError, match="photo is 0, so photos would never be used; set it above 0"):
        Recomposer(folder, photos=[str(tmp_path)])
    wanting = write_set(tmp_path / "wanting", "recompose: {photo: 1}")
    with pytest.raises(ValueError, match="photo is 1, but there are no photos; name some"):
        Recomposer(wanting)
    with pytest.raises(FileNotFoundError, match="render.json"):
        Recomposer(tmp_path)
    render = folder / "render.json"
    render.write_text(render.read_text().replace("on_the_fly", "disk"))
    with pytest.raises(ValueError, match="composited on disk and cannot be recombined"):
        Recomposer(folder)
    bad = write_set(tmp_path / "bad", "recompose: {scael: [1, 1]}")
    with pytest.raises(ValueError, match="recompose: unknown key 'scael'; did you mean 'scale'"):
        Recomposer(bad)
    damaged = write_set(tmp_path / "damaged")
    content = (damaged / "foregrounds" / "000002.exr").read_bytes()
    (damaged / "foregrounds" / "000002.exr").write_bytes(content[: len(content) // 2])
    recomposer = Recomposer(damaged)
    recomposer.pair(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="000002.exr"):
        recomposer.pair(2, np.random.default_rng(0))
    lost = write_set(tmp_path / "lost")
    (lost / "backgrounds" / "000003.png").unlink()
    with pytest.raises(ValueError, match=r"000003\.png: missing, though .*metadata\.jsonl.* render again"):
        Recomposer(lost)
    rows = (damaged / "metadata.jsonl").read_text().splitlines(keepends=True)
    for bad in (rows[1][:40] + "\n", rows[1].replace("background_file_name", "alpha_file_name")):
        (damaged / "metadata.jsonl").write_text("".join([rows[0], bad, *rows[2:]]))
        with pytest.raises(ValueError, match=r"metadata\.jsonl line 2: not a sample's row; delete .* render again"):
            Recomposer(damaged)
    (damaged / "metadata.jsonl").write_text("".join(rows)[:-9])  # render never leaves it cut off
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 5: not a sample's row"):
        Recomposer(damaged)
    (damaged / "metadata.jsonl").write_text("".join(rows).replace("transmissive", "transmisive"))
    with pytest.raises(ValueError, match=r"metadata\.jsonl: sample 1.* lack 'transmissive'; render again"):
        Recomposer(damaged).pair(1, np.random.default_rng(0))
    recipe = damaged / "recipe.yaml"
    for content, words in ((b"recompose: {", "damaged"), (b"", "damaged"), (b"\xff\xfe", "damaged")):
        recipe.write_bytes(content)
        with pytest.raises(ValueError, match=rf"recipe\.yaml: {words} .*restore the recipe"):
            Recomposer(damaged)
    recipe.write_text("recompose: {photo: 1}\nphotos: here")
    with pytest.raises(ValueError, match=r"recipe\.yaml: photos: 'here' is not a list"):
        Recomposer(damaged)
    recipe.unlink()
    with pytest.raises(FileNotFoundError, match=r"recipe\.yaml: missing; restore the recipe"):
        Recomposer(damaged)
    empty = write_set(tmp_path / "empty")
    (empty / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="holds no finished sample"):
        Recomposer(empty)


@pytest.mark.parametrize(
    ("word", "guess"),
    [("sampels", "samples_per_pixel"), ("samples", "samples_per_pixel"), ("fmailies", "families"), ("targt", "target"),
     ("per_pixel", "samples_per_pixel"), ("zzz", None), (3, None)],
)  # fmt: skip
def test_an_unknown_name_gets_its_nearest_neighbour_if_one_is_near(word, guess):
    known = ["name", "target", "compositing", "samples_per_pixel", "max_depth", "families", "photos"]
    error = str(unknown(word, known, "x.yaml"))
    assert error.startswith(f"x.yaml: unknown key '{word}'") and f"(known: {', '.join(known)})" in error
    assert (f"did you mean '{guess}'?" in error) if guess else "did you mean" not in error


# ---------------------------------------------------------------------------------------------- training


def test_training_draws_are_the_same_in_another_process(tmp_path):
    """Item p is a function of (seed, epoch, position), in whatever process and order it is fetched."""
    folder = write_set(tmp_path / "set", VARIED)
    code = f"""
import hashlib, torch
from sdseg.data import Augmentation, TrainingStream, open_pictures
source = open_pictures({str(folder)!r}, 32, Augmentation(True, 0.7))
stream = TrainingStream(source, 5, seed=3, latent_shape=(4, 8, 8), num_train_timesteps=1000, timestep_power=1.0,
                        multires_noise_strength=0.9)
digests = {{}}
for position in POSITIONS:
    item = stream[position]
    parts = b"".join(item[key].contiguous().numpy().tobytes() for key in sorted(item))
    digests[position] = hashlib.sha256(parts).hexdigest()
"""
    here = {}
    exec(code.replace("POSITIONS", "range(12)"), here)
    assert len(set(here["digests"].values())) == 12
    there = code.replace("POSITIONS", "(11, 0, 7)") + "print(digests)"
    out = subprocess.run([sys.executable, "-c", there], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert eval(out) == {position: here["digests"][position] for position in (11, 0, 7)}


def train(folder, output, **more):
    """Two steps on the embedded base through the trainer's own entrance; returns (exit code, LoRA weights)."""
    from safetensors.numpy import load_file

    from sdseg.training.__main__ import main

    settings = dict(
        pretrained_model_name_or_path="embedded", train_data_dir=folder, output_dir=output, resolution=32,
        max_train_steps=2, train_batch_size=3, lr_warmup_steps=0, rank=2, lora_alpha=2, learning_rate=1e-3,
        checkpointing_steps=1, logging_steps=1, report_to="none", seed=3,
    )  # fmt: skip
    code = main([f"--{key}={value}" for key, value in (settings | more).items()])
    adapter = output / "adapter" / "adapter_model.safetensors"
    return code, load_file(adapter) if adapter.is_file() else None


def test_a_run_on_recombined_pictures_is_repeated_exactly(tmp_path):
    folder = write_set(tmp_path / "set", VARIED)
    (code, first), (_, again) = (train(folder, tmp_path / name) for name in ("first", "again"))
    assert code == 0 and any(np.abs(value).max() > 0 for key, value in first.items() if "lora_B" in key)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    _, by_workers = train(folder, tmp_path / "workers", dataloader_num_workers=1)
    assert all(np.array_equal(first[key], by_workers[key]) for key in first)
    _, cached = train(folder, tmp_path / "cached", cache_latents=True, cached_variants=3)
    assert not all(np.array_equal(first[key], cached[key]) for key in first)


def test_the_recipe_belongs_to_the_run_and_validation_wants_pairs_that_stay(tmp_path, capsys):
    folder = write_set(tmp_path / "set", VARIED)
    assert train(folder, tmp_path / "run")[0] == 0
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text().replace("[0.7, 1.3]", "[0.7, 1.4]"))
    capsys.readouterr()
    assert train(folder, tmp_path / "run", max_train_steps=3)[0] == 2
    assert "data_digest" in capsys.readouterr().err
    assert train(folder, tmp_path / "other", validation_data_dir=folder)[0] == 2
    error = capsys.readouterr().err
    assert "compositing: disk" in error and error.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_doubtful_mattes_are_counted_in_recombined_pictures_too(tmp_path):
    from sdseg.data import Augmentation, open_pictures
    from sdseg.training.doctor import examine

    far_off = [disc(index, at=(5, 5)) if index < 2 else disc(index) for index in range(4)]
    pictures = open_pictures(write_set(tmp_path / "set", layers=far_off), 32, Augmentation(False, 1.0))
    (finding,) = examine(pictures)
    assert "2 of 4 mattes are empty (all 0), the first is foregrounds/000000.exr" in str(finding)


def test_foregrounds_that_are_recombined_are_not_validated_on(tmp_path, capsys):
    """Their backgrounds, cameras and file names differ from those of a set on disk."""
    numbered = []
    for layers in (disc(0), disc(1)):
        factors = json.loads(layers.meta["factors"]) | {"foreground": layers.meta["index"]}
        numbered.append(replace(layers, meta=layers.meta | {"factors": json.dumps(factors)}))
    folder = write_set(tmp_path / "set", VARIED + "compositing: on_the_fly", numbered)
    for seed in (0, 1):
        held_out = tmp_path / f"held_out_{seed}"
        settings = {"seed": seed, "size": 32, "variant": "none", "target": "alpha", "compositing": "disk"}
        open_folder(held_out, "name: other\nbackground: {kind: {plain: 1}}", settings | {"inputs": {}}, {})
        pair = Recomposer(folder, size=32).pair(1, np.random.default_rng(0))
        write_metadata(held_out, {1: write_pair(held_out, replace(pair, meta=pair.meta | {"seed": seed}))})
    assert train(folder, tmp_path / "run", validation_data_dir=tmp_path / "held_out_0")[0] == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "another --seed" in error
    assert f"{tmp_path / 'held_out_0'} shows the same foreground 1 as train_data_dir {folder};" in error
    assert not (tmp_path / "run").exists()
    assert train(folder, tmp_path / "run", validation_data_dir=tmp_path / "held_out_1")[0] == 0


def test_photos_belong_to_the_run_where_they_are_seen(tmp_path, capsys):
    """Added and removed photos change every draw; a set that shows none goes on without them."""

    def photo(name):
        Image.fromarray(gradient(60, 60)).save(photos / name)

    photos = tmp_path / "photos"
    photos.mkdir()
    photo("a.png")
    recipe = f"photos: ['{photos}']\nrecompose: {{photo: %s}}"
    seen, unseen = (write_set(tmp_path / f"set_{share}", recipe % share) for share in (0.5, 0))
    for folder in (seen, unseen):
        assert train(folder, tmp_path / f"run_{folder.name}")[0] == 0
    photo("b.png")
    capsys.readouterr()
    assert train(seen, tmp_path / "run_set_0.5")[0] == 2
    assert "data_digest" in capsys.readouterr().err
    assert train(unseen, tmp_path / "run_set_0")[0] == 0
    (photos / "b.png").unlink()
    assert train(seen, tmp_path / "run_set_0.5")[0] == 0
