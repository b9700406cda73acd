"""Masks and classes as targets: colours far apart, painting and reading, votes, files, pairs that stay together."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sdseg.imaging import Encoded, ImageError, write_classes, write_mask
from sdseg.model import EMBEDDED_BASE, decode_colour, encode_image
from sdseg.targets import (
    GRID,
    LEAST_DISTANCE,
    NO_CLASS,
    Target,
    cubic_lattices,
    decided,
    far_points,
    farthest_first,
    given_back,
    least_distance,
    nearest_class,
    open_target,
    overlay,
    paint,
    palette,
    read,
    read_class_record,
    resize,
    resized_strips,
    votes,
)


@pytest.fixture(scope="module")
def vae():
    return AutoencoderKL.from_pretrained(EMBEDDED_BASE, subfolder="vae").eval()


@pytest.fixture(scope="module")
def colours(vae):
    return palette(vae, 6)


def blocks(size: int, classes: int, seed: int = 0) -> np.ndarray:
    """A class map of squares, int64 [size, size]."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(classes, size=(4, 4)), np.ones((size // 4, size // 4), np.int64))


# ------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("count", "squared"),
    [(2, 3), (3, 2), (4, 2), (8, 1), (9, 3 / 4), (14, 1 / 2), (27, 1 / 4), (32, 2 / 9), (64, 1 / 9)],
)
def test_colours_are_as_far_apart_as_the_lattices_allow(count, squared):
    points, found = far_points(cubic_lattices(), count)
    assert found / GRID == pytest.approx(squared**0.5) == pytest.approx(least_distance(points) / GRID)
    assert len({tuple(point) for point in points}) == count and points.min() >= 0 and points.max() <= GRID
    assert tuple(points[0]) == (0, 0, 0)


def test_a_farthest_first_walk_is_at_least_half_as_good_as_the_best_choice():
    """Gonzalez's bound, against all choices of 4 of 9 points."""
    from itertools import combinations

    points = np.random.default_rng(0).integers(0, 25, (9, 3))
    best = max(least_distance(points[list(chosen)]) for chosen in combinations(range(9), 4))
    assert best / 2 <= least_distance(farthest_first(points, 4)) <= best


def test_a_palette_holds_colours_that_the_vae_gives_back(vae, colours, monkeypatch):
    monkeypatch.setattr("sdseg.targets.given_back", given_back)  # not what conftest.py remembers
    assert colours.dtype == np.uint8 and colours.shape == (6, 3)
    assert least_distance(colours) >= LEAST_DISTANCE
    assert np.array_equal(palette(vae, 6), colours)
    shift = np.abs(given_back(vae, colours / 255) - colours.astype(int)).max()
    assert shift < least_distance(colours) / 4
    corners = np.array([(r, g, b) for r in (0, 1) for g in (0, 1) for b in (0, 1)])
    assert np.abs(given_back(vae, corners) - 255 * corners).max() > 200  # plain colours would not come back


def test_classes_survive_the_vae(vae):
    colours = palette(vae, 8)
    for seed in range(3):
        ids = blocks(64, 8, seed)
        with torch.no_grad():
            decoded = decode_colour(vae, encode_image(vae, paint(torch.from_numpy(ids)[None], colours)))
        back = nearest_class(decoded, colours)[0].numpy()
        inside = np.zeros((16, 16), bool)
        inside[2:-2, 2:-2] = True
        inside = np.tile(inside, (4, 4))
        assert (back == ids)[inside].mean() > 0.995 and (back == ids).mean() > 0.85


def test_too_many_or_too_few_classes_are_refused(vae):
    with pytest.raises(ValueError, match=f"48 classes are too many for this base.* {LEAST_DISTANCE} are needed"):
        palette(vae, 48)
    with pytest.raises(ValueError, match="200 classes are too many"):
        palette(vae, 200)
    with pytest.raises(ValueError, match="name at least 2"):
        palette(vae, 1)


# ------------------------------------------------------------------------------------------------- paint, read


def test_what_is_painted_is_read_again_under_noise(colours):
    ids = torch.from_numpy(np.stack([blocks(16, 6, seed) for seed in range(2)]))
    painted = paint(ids, colours)
    assert painted.shape == (2, 3, 16, 16) and painted.dtype == torch.float32
    assert torch.equal(((painted + 1) * 127.5).round().byte().permute(0, 2, 3, 1), torch.from_numpy(colours)[ids])
    direction = torch.randn(painted.shape, generator=torch.Generator().manual_seed(0))
    noise = 0.49 * least_distance(colours) / 127.5 * direction / direction.norm(dim=1, keepdim=True)
    assert torch.equal(nearest_class(painted + noise, colours), ids)
    assert not torch.equal(nearest_class(painted + 4 * noise, colours), ids)
    slow = ((painted + 4 * noise)[:, None] - paint(torch.arange(6)[:, None, None], colours)[None, :]).norm(dim=2)
    assert torch.equal(nearest_class(painted + 4 * noise, colours), slow.argmin(dim=1))


def test_void_is_painted_grey(colours):
    painted = paint(torch.tensor([[[0, NO_CLASS]]]), colours)
    assert torch.equal(painted[0, :, 0, 1], torch.zeros(3)) and not torch.equal(painted[0, :, 0, 0], torch.zeros(3))


def test_samples_vote(colours):
    samples = torch.tensor([[[0, 1, 2]], [[0, 1, 3]], [[0, 2, 4]], [[0, 5, 4]]])  # [E, 1, 3]
    ids, probabilities = read(paint(samples, colours), colours)
    assert probabilities.shape == (6, 1, 3)
    assert probabilities[:, 0].T.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 0.5, 0.25, 0, 0, 0.25],
        [0, 0, 0.25, 0.25, 0.5, 0],
    ]
    assert ids.tolist() == [[0, 1, 4]]
    same, entropy = decided(probabilities, (1, 3))
    assert same.dtype == torch.uint8 and same.tolist() == [[0, 1, 4]]
    three = -(0.5 * np.log(0.5) + 0.5 * np.log(0.25)) / np.log(6)
    np.testing.assert_allclose(entropy.numpy(), [[0, three, three]], atol=1e-6)
    every = votes(torch.arange(6)[:, None, None], 6)
    assert decided(every, (1, 1))[1].item() == pytest.approx(1)


@pytest.mark.parametrize("size", [(3, 17), (64, 96), (65, 97), (300, 200), (40, 200), (200, 40)])
def test_strips_are_those_of_the_resized_planes(size):
    planes = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = torch.full((3, *size), -1.0)
    for rows, strips in resized_strips(planes, size):
        for number, strip in enumerate(strips):
            found[number, rows] = strip
    expected = torch.stack([resize(plane, size) for plane in planes])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(31, 47), (8, 5), (12, 16)])
def test_probabilities_are_resized_and_then_decided(size):
    """Against all classes resized together."""
    probabilities = torch.rand(5, 12, 16, generator=torch.Generator().manual_seed(1)).softmax(dim=0)
    whole = torch.nn.functional.interpolate(probabilities[None], size, mode="bilinear", antialias=True)[0]
    ids, entropy = decided(probabilities, size)
    assert torch.equal(ids.long(), whole.argmax(dim=0))
    np.testing.assert_allclose(entropy, -(whole * whole.log()).sum(dim=0) / np.log(5), atol=1e-5)


# ------------------------------------------------------------------------------------------------- files


def test_class_maps_are_written_and_read(tmp_path, colours):
    ids = blocks(16, 6).astype(np.uint8)
    write_classes(tmp_path / "a.png", ids, colours)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture.convert("RGB")), colours[ids])
    target = Target("classes", tuple("abcdef"))
    assert np.array_equal(target.read(tmp_path / "a.png"), ids) and target.read(tmp_path / "a.png").dtype == np.int32
    packed = Encoded("a.png of a tar file", (tmp_path / "a.png").read_bytes())
    assert np.array_equal(target.read(packed), ids)
    ids[0, 0] = 255
    Image.fromarray(ids).save(tmp_path / "void.png")
    assert target.read(tmp_path / "void.png")[0, 0] == NO_CLASS
    with pytest.raises(ImageError, match=r"has class 5, but 3 are named, ids 0 to 2.*class_names"):
        Target("classes", ("a", "b", "c")).read(tmp_path / "void.png")
    assert np.array_equal(overlay(np.full((16, 16, 3), 100, np.uint8), blocks(16, 6), colours)[..., 0],
                          (100 + colours[blocks(16, 6)][..., 0].astype(int) + 1) // 2)  # fmt: skip


def test_a_pair_made_in_memory_gives_what_its_files_would():
    from synth_data.store import Pair

    ids = blocks(16, 3).astype(np.uint8)
    alpha = np.where(ids > 0, 0.75, 0.25).astype(np.float32)
    pair = Pair(np.zeros((16, 16, 3), np.uint8), alpha, {}, ids, ids)
    assert np.array_equal(Target().of_pair(pair), alpha)
    assert np.array_equal(Target("mask").of_pair(pair), (ids > 0).astype(np.float32))
    classes = Target("classes", ("ground", "a", "b")).of_pair(pair)
    assert np.array_equal(classes, ids) and classes.dtype == np.int32
    with pytest.raises(ImageError, match="class 2, but 2 are named"):
        Target("classes", ("ground", "a")).of_pair(pair)


def test_masks_are_written_and_read(tmp_path):
    mask = blocks(16, 2).astype(bool)
    write_mask(tmp_path / "mask.png", mask)
    assert np.array_equal(Target("mask").read(tmp_path / "mask.png"), mask.astype(np.float32))
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "soft.png")
    assert Target("mask").read(tmp_path / "soft.png").tolist() == [[0, 0, 1, 1]]
    assert Target("alpha").read(tmp_path / "soft.png")[0, 1] == np.float32(127 / 255)
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "ids.png")
    with pytest.raises(ImageError, match="store masks with 255"):
        Target("mask").read(tmp_path / "ids.png")


def test_names_of_classes_come_from_the_settings_or_the_data(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({1: "fur", 3: "glass"}))
    names = ("background", "fur", "class 2", "glass")
    assert open_target("classes", None, ["elsewhere", str(tmp_path)]) == Target("classes", names)
    assert open_target("classes", ["a", "b"], [str(tmp_path)]) == Target("classes", ("a", "b"))
    assert open_target("mask", None, []) == Target("mask")
    with pytest.raises(ValueError, match="nothing names them: elsewhere/classes.json.*class_names"):
        open_target("classes", None, ["elsewhere"])
    for content in ("[]", "{}", '{"x": "y"}', '{"-1": "y"}', "no"):
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(ValueError, match="is no record of classes"):
            read_class_record(tmp_path / "classes.json")


# ------------------------------------------------------------------------------------------------- pairs


def test_sets_that_name_a_class_differently_are_not_mixed(tmp_path):
    def write(folder: str, names: dict) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "classes.json").write_text(json.dumps(names))
        return str(tmp_path / folder)

    first = write("one", {"0": "background", "1": "fur"})
    longer = write("two", {"0": "background", "1": "fur", "2": "glass"})
    other = write("three", {"0": "background", "1": "hair"})
    assert open_target("classes", None, [first, longer]).class_names == ("background", "fur", "glass")
    with pytest.raises(ValueError, match="name class 1 differently, 'fur' and 'hair'") as raised:
        open_target("classes", None, [first, longer, other])
    assert "two/classes.json" in str(raised.value) and "three/classes.json" in str(raised.value)
    assert open_target("classes", ["a", "b"], [first, other]).class_names == ("a", "b")


def test_fitting_keeps_image_and_classes_together(colours):
    """Where the picture shows its own classes' colours, crop, mirror and resize must treat both alike."""
    from sdseg.data.augmentation import Augmentation, draw_generator, fit_pair

    ids = np.kron(np.random.default_rng(0).integers(6, size=(8, 12)), np.ones((10, 10))).astype(np.int32)
    ids[:, :30] = NO_CLASS
    image = np.concatenate([colours, np.full((1, 3), 128, np.uint8)])[ids]
    for seed in range(6):
        fitted = fit_pair(image, ids, 64, Augmentation(True, 0.4), draw_generator(seed))
        classes, valid = fitted["classes"][0], fitted["valid"][0]
        assert "alpha" not in fitted and classes.dtype == torch.int16
        assert torch.equal(valid[: round(64 * 8 / 12)], classes[: round(64 * 8 / 12)] != NO_CLASS)
        assert not valid[round(64 * 8 / 12) :].any()
        shown = nearest_class(fitted["image"][None], colours)[0]
        assert (shown == classes)[valid].float().mean() > 0.9  # bilinear borders against nearest ones
        assert (shown == classes.flip(1))[valid].float().mean() < 0.5
