"""What `refine` promises: mattes nearer to the truth, never an invented subject, and the given matte where it fails."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from sdseg.errors import UserError
from sdseg.evaluation.metrics import grad, mad
from sdseg.inference import refinement
from sdseg.inference.refinement import closed_form, guided_upsampling, refine, resized, trimap

SIZE = 96


def scene(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An orange disc with spikes over blue, each with some grain: image uint8 [size, size, 3], truth float32."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = 0.55 + 0.1 * np.sin(9 * np.arctan2(y, x))
    truth = ((radius - np.hypot(x, y)) * size / 2 + 0.5).clip(0, 1)[..., None]
    grain = np.random.default_rng(0).normal(scale=0.01, size=(size, size, 3))
    colour = truth * [0.9, 0.5, 0.2] + (1 - truth) * [0.1, 0.2, 0.6] + grain
    return (colour.clip(0, 1) * 255).round().astype(np.uint8), truth[..., 0].astype(np.float32)


def drawn(truth: np.ndarray, size: int) -> np.ndarray:
    """What a perfect model would draw at a smaller size."""
    return resized(truth, (size, size)).clip(0, 1)


@pytest.mark.parametrize("working", [12, 24])
def test_a_coarse_matte_follows_the_edges_of_the_photo(working):
    image, truth = scene()
    coarse = drawn(truth, working)
    alpha, problem = refine(image, coarse)
    bilinear = resized(coarse, truth.shape)
    assert problem is None
    assert alpha.shape == truth.shape and alpha.dtype == np.float32
    assert alpha.min() >= 0 and alpha.max() <= 1
    assert mad(alpha, truth) < mad(bilinear, truth) / 4
    assert grad(alpha, truth) < grad(bilinear, truth) / 4


def test_a_reduced_solution_follows_them_too():
    image, truth = scene(160)
    coarse = drawn(truth, 20)
    alpha, problem = refine(image, coarse, max_pixels=64 * 64)
    assert problem is None
    assert mad(alpha, truth) < mad(resized(coarse, truth.shape), truth) / 4


def test_what_the_model_drew_is_kept_in_the_mean(monkeypatch):
    """Glass before its own colour: the photo cannot tell what is half transparent, so the model's word counts."""
    y, x = np.mgrid[:96, :96]
    distance = np.hypot(x - 48, y - 48)
    truth = np.select([distance < 12, distance < 40], [1.0, 0.4], 0.0)
    image = np.full((96, 96, 3), 128, np.uint8)
    ring = (distance > 20) & (distance < 32)

    def off(trust: float) -> float:
        monkeypatch.setattr(refinement, "TRUST", trust)
        return np.abs(refine(image, drawn(truth, 32)).alpha[ring] - 0.4).mean()

    assert off(0.0) > 0.1
    assert off(1.0) < 0.03


def test_where_the_samples_disagree_the_photo_is_asked():
    image, truth = scene()
    coarse = drawn(truth, 24)
    wrong, doubt = coarse.copy(), np.zeros_like(coarse)
    wrong[10:14, 10:14], doubt[10:14, 10:14] = 0, 0.4  # a hole in the middle of the disc
    held, mended = refine(image, wrong).alpha, refine(image, wrong, doubt).alpha
    assert held[44:52, 44:52].max() < 0.1
    assert mended[44:52, 44:52].min() > 0.9


def test_what_the_samples_disagree_about_is_settled_on_a_small_picture(monkeypatch):
    image, truth = scene()
    coarse = drawn(truth, 24)
    doubt = np.zeros_like(coarse)
    doubt[:, 12:] = 0.4
    sizes = []
    original = refinement.closed_form

    def watched(image, *others):
        sizes.append(image.shape[:2])
        return original(image, *others)

    monkeypatch.setattr(refinement, "closed_form", watched)
    monkeypatch.setattr(refinement, "FIRST_PIXELS", 32 * 32)
    assert mad(refine(image, coarse, doubt).alpha, truth) < 0.02
    assert sizes == [(32, 32), (SIZE, SIZE)]
    refine(image, coarse, np.zeros_like(coarse))
    assert sizes[2:] == [(SIZE, SIZE)]


@pytest.mark.parametrize("value", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("uncertainty", [None, 0.3])
def test_a_constant_matte_stays_as_it_is(value, uncertainty):
    image, _ = scene(32)
    alpha = np.full((8, 8), value, np.float32)
    refined = refine(image, alpha, None if uncertainty is None else np.full_like(alpha, uncertainty))
    assert np.array_equal(refined.alpha, np.full((32, 32), value, np.float32))
    assert "no pixel is decided to be" in refined.problem


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 2), (17, 3), (3, 17), (5, 4)])
def test_tiny_pictures(size):
    alpha = np.zeros(size, np.float32)
    alpha[: (size[0] + 1) // 2] = 1
    alpha[-1, -1] = 0.5
    image = (alpha * 255).round().astype(np.uint8)
    refined, _ = refine(np.dstack([image] * 3), alpha)
    assert refined.shape == size and np.isfinite(refined).all()
    assert np.abs(refined - alpha).max() < 0.6


def test_a_full_matte_that_shrinks_stays_within_one():
    """OpenCV makes 1.0000002 of it."""
    assert refine(np.zeros((2, 2, 3), np.uint8), np.ones((7, 7))).alpha.max() == 1


def test_any_picture_and_matte_give_a_matte():
    rng = np.random.default_rng(0)
    for number in range(60):
        shape = tuple(int(side) for side in rng.integers(1, 40, 2))
        scale = rng.choice([8, 16, 64]) / max(shape)
        drawn_shape = tuple(max(1, int(side * scale)) for side in shape)
        image = rng.integers(0, 256, (*shape, 3), np.uint8) if number % 2 else np.full((*shape, 3), number, np.uint8)
        alpha = rng.random(drawn_shape).round(number % 3)
        uncertainty = rng.random(drawn_shape) / 2 if number % 5 else None
        refined = refine(image, alpha, uncertainty, max_pixels=int(rng.choice([64, 400, 10**6]))).alpha
        assert refined.shape == shape and refined.dtype == np.float32 and np.isfinite(refined).all()
        assert refined.min() >= 0 and refined.max() <= 1, (number, shape)


def test_a_grey_picture_is_one_with_three_equal_channels():
    image, truth = scene()
    grey = image[..., 0]
    alpha, problem = refine(grey, drawn(truth, 12))
    assert problem is None
    assert np.array_equal(alpha, refine(np.dstack([grey] * 3), drawn(truth, 12)).alpha)
    assert mad(alpha, truth) < mad(resized(drawn(truth, 12), truth.shape), truth) / 3


def test_a_uniform_picture_is_solved():
    _, truth = scene()
    alpha, problem = refine(np.full((SIZE, SIZE, 3), 255, np.uint8), drawn(truth, 24))
    assert problem is None
    assert mad(alpha, truth) < 0.05


def test_the_same_twice():
    image, truth = scene()
    first, second = (refine(image, drawn(truth, 12), max_pixels=4096).alpha for _ in range(2))
    assert np.array_equal(first, second)


def test_the_arrays_given_are_left_as_they_are():
    arrays = [*scene(), np.full((SIZE, SIZE), 0.1, np.float32)]
    copies = [array.copy() for array in arrays]
    refine(*arrays)
    assert all(np.array_equal(one, other) for one, other in zip(arrays, copies, strict=True))


def raise_memory_error(*arguments):
    raise MemoryError


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [("ITERATIONS", 1, "not solved after 1 iterations"), ("laplacian_rows", raise_memory_error, "memory")],
)
def test_where_the_solver_fails_the_matte_is_only_resized(monkeypatch, name, value, problem):
    monkeypatch.setattr(refinement, name, value)
    image, truth = scene()
    for uncertainty in (None, np.full((12, 12), 0.4 * (np.arange(12) < 6), np.float32)):
        refined = refine(image, drawn(truth, 12), uncertainty)
        assert np.array_equal(refined.alpha, resized(drawn(truth, 12), truth.shape))
        assert problem in refined.problem


@pytest.mark.parametrize(
    ("image", "alpha", "uncertainty", "says"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 8)), None, r"image is float64 \(8, 8, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8)), None, "give uint8"),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8)), None, "give uint8"),
        (np.zeros((8, 16, 3), np.uint8), np.zeros((8, 4)), None, "alpha is 4 x 8 pixels, but its image 16 x 8"),
        (np.zeros((8, 8, 3), np.uint8), np.full((8, 8), np.nan), None, "finite"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), None, "alpha is uint8"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), np.zeros((4, 4)), "at one size"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(image, alpha, uncertainty, says):
    with pytest.raises(UserError, match=says):
        refine(image, alpha, uncertainty)


def test_sizes_rounded_to_a_working_resolution_fit():
    for height, width in [(700, 33), (341, 512), (9, 1000)]:
        scale = 64 / max(height, width)
        alpha = np.zeros((max(1, int(height * scale)), max(1, int(width * scale))), np.float32)
        assert refine(np.zeros((height, width, 3), np.uint8), alpha).alpha.shape == (height, width)


# ------------------------------------------------------------------------------------------------ the equations


def dense_laplacian(image: np.ndarray) -> np.ndarray:
    """The matting Laplacian as the paper writes it, window by window: [H * W, H * W]."""
    height, width, _ = image.shape
    result = np.zeros((height * width,) * 2)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            pixels = [(y + dy) * width + x + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            colours = image.reshape(-1, 3)[pixels]
            centred = colours - colours.mean(axis=0)
            inverse = np.linalg.inv(np.cov(colours.T, bias=True) + refinement.EPSILON / 9 * np.eye(3))
            result[np.ix_(pixels, pixels)] += np.eye(9) - (1 + centred @ inverse @ centred.T) / 9
    return result


def test_rows_of_the_laplacian_are_the_paper_s(monkeypatch):
    monkeypatch.setattr(refinement, "WINDOWS_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    image, wanted = rng.random((7, 6, 3)), rng.random((7, 6)) < 0.4
    values, columns = refinement.laplacian_rows(image, wanted)
    rows = np.zeros((wanted.sum(), wanted.size))
    np.add.at(rows, (np.arange(len(rows))[:, None], columns), values)
    np.testing.assert_allclose(rows, dense_laplacian(image)[wanted.ravel()], atol=1e-9)


def test_the_solution_is_the_least_of_the_energy():
    rng = np.random.default_rng(0)
    image, start, trust = rng.random((9, 8, 3)), rng.random((9, 8)).round(1), rng.random((4, 3))
    known = rng.random((9, 8)) < 0.4
    target = rng.random((4, 3))
    solved = closed_form(image, start, known, target, trust, tolerance=1e-10)
    means = refinement.area_means((9, 8), (4, 3)).toarray()
    weight = np.diag(trust.ravel() * 72 / 12)
    matrix = dense_laplacian(image) + means.T @ weight @ means
    right = means.T @ weight @ target.ravel()
    free, fixed = ~known.ravel(), known.ravel()
    exact = np.linalg.solve(matrix[np.ix_(free, free)], right[free] - matrix[np.ix_(free, fixed)] @ start[known])
    np.testing.assert_allclose(solved[~known], exact.clip(0, 1), atol=1e-5)
    assert np.array_equal(solved[known], start[known])


def test_without_the_model_s_means_it_is_pymatting_s_closed_form():
    estimate_alpha_cf = pytest.importorskip("pymatting").estimate_alpha_cf
    image, truth = scene(40)
    coarse = resized(drawn(truth, 10), truth.shape).astype(np.float64)
    start, known = trimap(coarse, np.zeros_like(coarse))
    solved = closed_form(image / 255, start, known, coarse, 0.0, tolerance=1e-9)
    np.testing.assert_allclose(solved, estimate_alpha_cf(image / 255, np.where(known, start, 0.5)), atol=1e-4)


def test_means_of_areas_are_opencv_s():
    array = np.random.default_rng(0).random((11, 14))
    means = refinement.area_means((11, 14), (4, 5)) @ array.ravel()
    np.testing.assert_allclose(means.reshape(4, 5), resized(array, (4, 5)), atol=1e-6)


def test_strips_have_no_seams(monkeypatch):
    image, truth = scene(100)
    reduced, alpha = scene(50)
    whole = guided_upsampling(reduced / 255, alpha.astype(np.float64), image)
    monkeypatch.setattr(refinement, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(guided_upsampling(reduced / 255, alpha.astype(np.float64), image), whole, atol=1e-6)
    assert mad(whole, truth) < 0.02


def test_pymatting_and_torch_are_not_imported():
    program = (
        "import sys, numpy as np; from sdseg.inference.refinement import refine\n"
        "alpha = np.eye(8, dtype=np.float32); refine(np.zeros((32, 32, 3), np.uint8), alpha)\n"
        "sys.exit('pymatting' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def peak_of(call) -> int:
    """The most bytes that numpy's and OpenCV's arrays took at a time during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_large_photo_is_the_mattes_own():
    """Beside its result, a plane of float32, refining takes strips and what is solved at a reduced size."""
    image, truth = scene(1600)
    coarse = drawn(truth, 20)
    taken = peak_of(lambda: refine(image, coarse, max_pixels=64 * 64))
    assert 4 * truth.size < taken < 4 * truth.size + 6 * 2**20


def test_memory_of_the_equations_is_that_of_their_matrix():
    """A matrix of 25 entries of 12 bytes in each row, and some vectors; no second copy of it."""
    image, truth = scene(256)
    start, known = trimap(np.full(truth.shape, 0.5), np.zeros(truth.shape))
    start[0], known[0] = 0, True
    start[-1], known[-1] = 1, True
    coarse = np.full((16, 16), 0.5)
    taken = peak_of(lambda: closed_form(image / 255, start, known, coarse, 0.1, tolerance=0.1))
    assert taken < 1.8 * 300 * truth.size, taken / truth.size
