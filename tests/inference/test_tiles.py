"""The second pass in tiles: which are drawn, that they leave no seams, that it starts where the first pass ended."""

import numpy as np
import pytest
import torch

from sdseg.inference import tiles
from sdseg.inference.sampling import times_from
from sdseg.inference.session import MattingSession
from sdseg.model import inference_scheduler
from tests.conftest import picture


@pytest.fixture(scope="module")
def session(miniature_adapter):
    return MattingSession.from_adapter(miniature_adapter)


def disc(height: int, width: int) -> np.ndarray:
    """A matte with a soft border in its middle."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return ((height / 4 - distance) / 8 + 0.5).clip(0, 1).astype(np.float32)


def second_pass(session, alpha, **settings):
    how = session.drawing(1, 1, 64, 4)
    image = picture(*alpha.shape)
    chosen = tiles.open_tiles(alpha, None, 64)
    return tiles.second_pass(session, image, alpha, chosen, how, 64, torch.Generator().manual_seed(0), **settings)


def test_tiles_are_faded_strip_by_strip_as_they_would_be_at_once():
    alpha, size = np.random.default_rng(0).uniform(size=(200, 150)).astype(np.float32), (64, 64)
    chosen = [(y, x) for y in tiles.starts(200, 64) for x in tiles.starts(150, 64)][:-4]
    total, weights = np.zeros_like(alpha), np.zeros_like(alpha)
    for number, tile in enumerate(chosen):
        window = tiles.fading(tile, size, alpha.shape)
        total[tiles.slices(tile, size)] += window * (number % 5 / 4)
        weights[tiles.slices(tile, size)] += window
    share, fine = weights.clip(0, 1), np.divide(total, weights, out=alpha.copy(), where=weights > 0)
    assert (weights == 0).any() and (weights > 1.1).any()
    expected = (alpha * (1 - share) + fine * share).clip(0, 1)
    assert np.array_equal(tiles.faded(alpha, total, chosen, size), expected)


@pytest.mark.parametrize("extent", [1, 63, 64, 65, 100, 640, 1001])
def test_tiles_cover_a_side_and_overlap(extent):
    starts = tiles.starts(extent, 64)
    assert starts[0] == 0 and starts[-1] == max(0, extent - 64)
    assert all(0 < later - earlier <= 48 for earlier, later in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("steps", [1, 4, 7, 10])
def test_times_from_the_top_are_the_schedulers(steps):
    scheduler = inference_scheduler()
    scheduler.set_timesteps(steps)
    assert times_from(1.0, steps) == scheduler.timesteps.tolist()
    assert times_from(0.4, steps)[0] == 399 and times_from(0.4, steps) == sorted(times_from(0.4, steps))[::-1]


def test_only_open_tiles_are_drawn(session, monkeypatch):
    alpha, drawn = disc(200, 320), []

    def draw(session, pixels, coarse, how, generator):
        drawn.append(len(pixels))
        return coarse[:, 0]

    monkeypatch.setattr(tiles, "draw", draw)
    found = second_pass(session, alpha)
    assert 0 < sum(drawn) < len(tiles.starts(200, 64)) * len(tiles.starts(320, 64)) / 2
    assert np.abs(found - alpha).max() < 1e-6  # the same mattes put together again, to the last pixel
    for flat in (np.zeros((200, 320), np.float32), np.ones((200, 320), np.float32)):
        drawn.clear()
        assert np.array_equal(second_pass(session, flat), flat) and not drawn


def test_tiles_leave_no_seams(session, monkeypatch):
    """Tiles that differ by .2 each fade into one another: no step between neighbours is steeper than the fading."""
    shades = iter(np.tile([0.4, 0.6], 1000))
    monkeypatch.setattr(
        tiles, "draw", lambda session, pixels, *_: torch.stack([torch.full((64, 64), next(shades)) for _ in pixels])
    )
    found = second_pass(session, np.full((200, 320), 0.5, np.float32))
    assert 0.39 < found.min() < 0.45 < 0.55 < found.max() < 0.61
    assert max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)) < 0.2 / (64 * tiles.OVERLAP) * 1.5


def test_a_batch_that_does_not_fit_is_halved(session, monkeypatch):
    tried = []

    def draw(session, pixels, coarse, how, generator):
        tried.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return coarse[:, 0]

    monkeypatch.setattr(tiles, "draw", draw)
    alpha = disc(200, 320)
    assert np.abs(second_pass(session, alpha) - alpha).max() < 1e-6 and tried[:3] == [4, 2, 2]


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (17, 3), (130, 70)])
def test_every_size_is_served(session, size):
    alpha = np.full(size, 0.5, np.float32)
    found = second_pass(session, alpha)
    assert found.shape == size and found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1
    assert np.array_equal(second_pass(session, alpha), found)
