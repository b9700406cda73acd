"""Tiles and sheets: where every picture lies, and that its pixels are kept."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from synth_data.drawing import LINE, as_rgb, class_colours, contact_sheet, png, scale_end, sheet, shrunk, tile

RNG = np.random.default_rng(0)


def random_picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shrinking_keeps_means_and_small_pictures():
    values = RNG.random((1024, 512)).astype(np.float32)
    small = shrunk(values, 512)
    assert small.shape == (512, 256) and small.mean() == pytest.approx(values.mean(), rel=1e-5)
    np.testing.assert_allclose(small, values.reshape(512, 2, 256, 2).mean((1, 3)), atol=1e-6)
    assert shrunk(small, 512) is small
    assert shrunk(np.zeros((2000, 1), np.uint8), 512).shape == (512, 1)


def test_tiles_are_enlarged_by_a_whole_factor():
    picture = random_picture(3, 5)
    enlarged = tile(picture, 19)
    assert enlarged.shape == (9, 15, 3)
    np.testing.assert_array_equal(enlarged[1::3, 1::3], picture)
    np.testing.assert_array_equal(tile(picture), picture)
    np.testing.assert_array_equal(tile(picture, 5), picture)
    assert tile(random_picture(40, 20), 10).shape == (10, 5, 3)
    grey_levels = np.array([[0, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(as_rgb(grey_levels)[0], [[0] * 3, [128] * 3, [255] * 3])


def test_a_sheet_without_text_is_its_pictures_and_white_gaps():
    rows = [[random_picture(4, 6), random_picture(3, 2)], [random_picture(5, 3)]]
    drawn = sheet(rows, gap=2)
    expected = np.full((4 + 2 + 5, 6 + 2 + 2, 3), 255, np.uint8)
    expected[:4, :6], expected[:3, 8:], expected[6:, :3] = rows[0][0], rows[0][1], rows[1][0]
    np.testing.assert_array_equal(drawn, expected)
    without_gap = sheet([[rows[0][0], rows[0][0]]], gap=0)
    np.testing.assert_array_equal(without_gap, np.concatenate([rows[0][0]] * 2, axis=1))


@pytest.mark.parametrize("titles", [(), ("first\nline", "a title that is much too long \udcff" * 20)])
def test_a_sheet_with_text_keeps_pictures_clear_of_it(titles):
    side, gap = 48, 6
    rows = [[random_picture(24, 16), RNG.random((48, 48))] for _ in range(2)]
    drawn = sheet(rows, gap, side, captions=["photo", "a caption that is too long"], titles=titles)
    line, between = (LINE, 2 * gap) if titles else (0, gap)
    assert drawn.shape == (gap + LINE + 2 * (line + side + between), 3 * gap + 2 * side, 3)
    for number, row in enumerate(rows):
        top = gap + LINE + number * (line + side + between) + line
        for column, pixels in enumerate(row):
            cell, left = tile(pixels, side), gap + column * (side + gap)
            height, width = cell.shape[:2]
            np.testing.assert_array_equal(drawn[top : top + height, left : left + width], cell)
            assert (drawn[top - 1 : top + height + 1, [left - 1, left + width]] == 187).all(), "the frame"
    assert (drawn[gap : gap + LINE].min(axis=(1, 2)) < 128).any(), "captions are written"
    assert (drawn[: gap + LINE - 1, -gap:] == 255).all(), "and end before the margin"


def test_a_contact_sheet_shows_each_picture_beside_its_matte():
    pairs = [(random_picture(8, 8), RNG.random((8, 8)).astype(np.float32)) for _ in range(5)]
    drawn = contact_sheet(pairs, columns=3)
    assert drawn.shape == (8 + 4 + 8, 3 * 16 + 2 * 4, 3)
    np.testing.assert_array_equal(drawn[12:, 20:28], pairs[4][0])
    np.testing.assert_array_equal(drawn[12:, 28:36, 1], np.round(pairs[4][1] * 255))
    assert (drawn[12:, 40:] == 255).all()


def test_classes_have_the_colours_of_pascal_voc():
    ids = np.array([[-1, 0, 1, 2, 8, 15, 20]])
    expected = [[128] * 3, [0] * 3, [128, 0, 0], [0, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert class_colours(ids)[0].tolist() == expected


def test_a_scale_ends_at_the_first_step_above_nearly_all_values():
    values = np.full(1000, 0.04)
    assert scale_end([values]) == 0.05 and scale_end([None]) == 0.05 and scale_end([]) == 0.05
    values[:4] = 0.9
    assert scale_end([values, None]) == 0.05
    values[:10] = 0.15
    assert scale_end([values]) == 0.2 and scale_end([values + 5]) == 1


def test_png_holds_the_pixels():
    for pixels in (random_picture(5, 7), RNG.integers(0, 65536, (5, 7)).astype(np.uint16)):
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(png(pixels)))), pixels)
