import math
from collections import deque

import numpy as np
import pytest

from sdseg import metrics
from sdseg.metrics import (
    ause,
    boundary_f,
    calibration_scale,
    calibration_shares,
    conn,
    grad,
    iou,
    mad,
    matte_metrics,
    mse,
    sad,
    sparsification,
    spearman,
)


def pair(seed: int, height: int = 13, width: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """A random truth with empty, full and fractional parts, and a prediction that errs from it."""
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.normal(0.5, 0.6, (height, width)), 0, 1)
    prediction = np.clip(truth + rng.normal(0, 0.3, (height, width)), 0, 1)
    return prediction, truth


def smooth_pair(seed: int, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Soft blobs several pixels wide, and a prediction that errs smoothly."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(2, size, size)), (0, 4, 4)) * 8
    return np.clip(noise[0] + 0.3 * noise[1] + 0.5, 0, 1), np.clip(noise[0] + 0.5, 0, 1)


# ------------------------------------------------------------------------------- cases worked out by hand


def test_differences_by_hand():
    prediction = np.array([[0.0, 0.25], [1.0, 0.5]])
    truth = np.array([[0.0, 0.75], [0.5, 0.5]])
    # |p − g| is 0, 0.5, 0.5, 0
    assert sad(prediction, truth) == pytest.approx(1.0 / 1000)
    assert mad(prediction, truth) == pytest.approx(0.25)
    assert mse(prediction, truth) == pytest.approx(0.125)
    # {p ≥ .5} is the lower row, {g ≥ .5} that and the upper right: 2 of 3
    assert iou(prediction, truth) == pytest.approx(2 / 3)


def test_grad_by_hand_on_a_vertical_edge():
    """Far from corners a vertical edge is a one-dimensional matter, so its magnitude can be summed by hand.

    With kernels g (Gaussian) and d (its derivative) divided by their norms, a matte that is 0 left of an
    edge and 1 right of it has along y (Σg) times the running sum of d along x, and no slope along y since
    Σd = 0.
    """
    x = np.arange(-4, 5)
    gauss = np.exp(-(x**2) / (2 * 1.4**2))
    slope = x * gauss
    gauss, slope = gauss / math.sqrt((gauss**2).sum()), slope / math.sqrt((slope**2).sum())
    columns = [abs(gauss.sum() * slope[:k].sum()) for k in range(1, 9)]  # the 8 columns that see the edge
    height, width = 10, 20
    truth = np.zeros((height, width))
    truth[:, 10:] = 1
    expected = height * sum(value**2 for value in columns) / 1000
    assert grad(np.zeros((height, width)), truth) == pytest.approx(expected, rel=1e-12)
    # With integrals for sums a row gives (σ√(2π))² / (σ√π) · Σ σ⁴ exp(−x²/σ²) / (σ³√π / 2) at x = ±½ … ±3½,
    # which is 2σ√π · (2σ / √π) · 2.481 = 4 σ² · 2.481 = 19.45.
    assert expected == pytest.approx(height * 19.45 / 1000, rel=0.01)


def test_conn_by_hand():
    """A pixel beyond a bridge of 0.6, which the prediction weakens to 0.3."""
    truth = np.array([[1.0, 1.0, 0.6, 1.0]])
    prediction = np.array([[1.0, 0.9, 0.3, 0.8]])
    # t ≤ .3: all four pixels. .4 to .9: the left two; the right one is cut off. 1.0: the first pixel alone.
    # l = 1.0, 0.9, 0.3, 0.3
    # truth       d = 0, .1, .3, .7 -> φ = 1, 1, .7, .3
    # prediction  d = 0, 0, 0, .5   -> φ = 1, 1, 1, .5
    assert conn(prediction, truth) == pytest.approx((0.3 + 0.2) / 1000, rel=1e-9)


def test_conn_uses_four_neighbours_and_the_largest_region():
    truth = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    # The right pixel touches the pair at a corner only, so it is outside from .1 on: l = 0.
    # In the truth φ = 1 − 1 = 0 there; in the prediction d = .5 and φ = .5. Elsewhere both agree.
    prediction = truth.copy()
    prediction[1, 2] = 0.5
    assert conn(prediction, truth) == pytest.approx(0.5 / 1000)
    # Differences below .15 do not count: l = .9 at the first pixel, d = .1 in the truth, 0 in the prediction.
    prediction = truth.copy()
    prediction[0, 0] = 0.9
    assert conn(prediction, truth) == 0


def test_iou_of_empty_mattes():
    empty, full = np.zeros((4, 5)), np.ones((4, 5))
    assert iou(empty, empty) == 1
    assert iou(empty, full) == iou(full, empty) == 0
    assert iou(np.full((4, 5), 0.5), full) == 1, "0.5 counts as inside"


def test_boundary_f_by_hand():
    def square(left: int, size: int = 100) -> np.ndarray:
        matte = np.zeros((size, size))
        matte[20:40, left : left + 20] = 1
        return matte

    # diagonal 141.4 · .008 = 1.13, so 2 pixels are allowed
    assert boundary_f(square(20), square(20)) == 1
    assert boundary_f(square(22), square(20)) == 1
    # Moved by 10, of 76 boundary pixels these lie near: at top and bottom those in the 10 columns of overlap
    # and 2 beside them; of the left side, inside the true square, two below its top and two above its bottom.
    assert boundary_f(square(30), square(20)) == pytest.approx((2 * 12 + 4) / 76)
    assert boundary_f(square(60), square(20)) == 0
    empty, full = np.zeros((30, 30)), np.ones((30, 30))
    assert boundary_f(empty, empty) == boundary_f(full, full) == 1
    assert boundary_f(empty, full) == boundary_f(empty, square(5, 30)) == boundary_f(full, square(5, 30)) == 0


def test_sparsification_by_hand():
    error = np.array([0.4, 0.0, 0.2, 0.2])
    uncertainty = np.array([0.1, 0.3, 0.2, 0.2])
    curve, oracle = sparsification(error, uncertainty)
    # taken away: the 0.0, then either 0.2, leaving 0.4 for last
    np.testing.assert_allclose(curve, [0.2, 0.8 / 3, 0.3, 0.4])
    np.testing.assert_allclose(oracle, [0.2, 0.4 / 3, 0.1, 0.0])
    assert ause(error, uncertainty) == pytest.approx((0 + 0.4 / 3 + 0.2 + 0.4) / 4)
    assert ause(error, error * 3) == pytest.approx(0)


def test_calibration_by_hand():
    error, uncertainty = np.array([0.1, 0.2, 0.3, 0.0]), np.array([0.1, 0.1, 0.1, 0.0])
    assert calibration_shares(error, uncertainty) == (0.5, 0.75, 1.0)
    scale = calibration_scale((error**2).mean(), (uncertainty**2).mean())
    assert scale == pytest.approx(math.sqrt(0.14 / 0.03))
    with pytest.raises(ValueError, match="uncertainty is 0 everywhere"):
        calibration_scale(0.1, 0.0)


def test_calibration_of_normal_errors():
    rng = np.random.default_rng(0)
    deviation = rng.uniform(0.01, 0.2, 200_000)
    error = np.abs(rng.normal(size=deviation.shape) * deviation)
    scale = calibration_scale((error**2).mean(), ((deviation / 3) ** 2).mean())
    assert scale == pytest.approx(3, rel=0.01)
    np.testing.assert_allclose(calibration_shares(error, deviation / 3 * scale), [0.683, 0.954, 0.997], atol=0.005)


def test_spearman():
    rng = np.random.default_rng(0)
    values = rng.random((9, 9))
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert math.isnan(spearman(values, np.zeros((9, 9))))
    # by hand: ranks 1 2 3 4 against 2 1 3 4: 1 − 6·2 / (4·15)
    assert spearman(np.array([1, 2, 3, 4]), np.array([20, 10, 30, 40])) == pytest.approx(0.8)
    # with ties: ranks 1.5 1.5 3 4 and 2 2 2 4, deviations −1 −1 .5 1.5 and −.5 −.5 −.5 1.5
    assert spearman(np.array([7, 7, 8, 9]), np.array([5, 5, 5, 6])) == pytest.approx(3 / math.sqrt(4.5 * 3))


# ------------------------------------------------------------------------------------- slow literal truth


def slow_grad(prediction, truth):
    """The two-dimensional kernel of Rhemann et al., summed pixel by pixel."""
    sigma, half = 1.4, 4
    kernel = np.zeros((9, 9))
    for i in range(9):
        for j in range(9):
            y, x = i - half, j - half
            gauss = math.exp(-(y**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            derivative = -x * math.exp(-(x**2) / (2 * sigma**2)) / (sigma**3 * math.sqrt(2 * math.pi))
            kernel[i, j] = gauss * derivative
    kernel /= math.sqrt((kernel**2).sum())

    def magnitude(alpha):
        height, width = alpha.shape
        result = np.zeros(alpha.shape)
        for y in range(height):
            for x in range(width):
                along_x = along_y = 0.0
                for i in range(-half, half + 1):
                    for j in range(-half, half + 1):
                        value = alpha[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)]
                        along_x += value * kernel[half - i, half - j]
                        along_y += value * kernel[half - j, half - i]
                result[y, x] = math.sqrt(along_x**2 + along_y**2)
        return result

    return ((magnitude(prediction) - magnitude(truth)) ** 2).sum() / 1000


def slow_conn(prediction, truth):
    """Flood fill for every threshold."""
    height, width = truth.shape
    level = np.full(truth.shape, np.nan)
    for step in range(11):
        threshold = step / 10
        unseen = {
            (y, x)
            for y in range(height)
            for x in range(width)
            if prediction[y, x] >= threshold and truth[y, x] >= threshold
        }
        largest = []
        for start in sorted(unseen):
            if start not in unseen:
                continue
            unseen.remove(start)
            region, queue = [start], deque([start])
            while queue:
                y, x = queue.popleft()
                for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if near in unseen:
                        unseen.remove(near)
                        region.append(near)
                        queue.append(near)
            if len(region) > len(largest):
                largest = region
        for y, x in largest:
            level[y, x] = threshold

    def phi(alpha):
        distance = alpha - level
        return 1 - np.where(distance >= 0.15, distance, 0)

    return np.abs(phi(prediction) - phi(truth)).sum() / 1000


@pytest.mark.parametrize("seed", range(6))
def test_grad_and_conn_equal_slow_literal_code(seed):
    prediction, truth = pair(seed)
    assert grad(prediction, truth) == pytest.approx(slow_grad(prediction, truth), abs=1e-9, rel=1e-9)
    assert conn(prediction, truth) == pytest.approx(slow_conn(prediction, truth), abs=1e-12, rel=1e-9)
    assert conn(prediction, truth) > 0


def test_sparsification_equals_slow_literal_code():
    rng = np.random.default_rng(0)
    error, uncertainty = rng.random((7, 9)), rng.random((7, 9))
    pairs = sorted(zip(uncertainty.ravel(), error.ravel(), strict=True))
    expected = [np.mean([e for _, e in pairs[: len(pairs) - k]]) for k in range(len(pairs))]
    np.testing.assert_allclose(sparsification(error, uncertainty)[0], expected, rtol=1e-12)


def test_boundary_f_equals_slow_literal_code():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        coarse = rng.random((2, 5, 6))
        prediction, truth = (np.kron(c, np.ones((24, 24))) for c in coarse)  # blocks, 120 × 144: 2 pixels
        points = []
        for alpha in (prediction, truth):
            inside = np.pad(alpha >= 0.5, 1, mode="edge")
            near = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
            points.append(np.argwhere(inside[1:-1, 1:-1] & ~near))
        distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
        precision, recall = (distance.min(axis=1) <= 2).mean(), (distance.min(axis=0) <= 2).mean()
        expected = 2 * precision * recall / (precision + recall)
        assert 0.1 < expected < 0.95
        assert boundary_f(prediction, truth) == pytest.approx(expected, rel=1e-12)


# --------------------------------------------------------------------------------------------- identities


def test_a_matte_equals_itself():
    _, truth = pair(0)
    figures = matte_metrics(truth, truth)
    assert figures == {"sad": 0, "mad": 0, "mse": 0, "grad": 0, "conn": 0, "iou": 1, "boundary_f": 1}


@pytest.mark.parametrize("seed", range(3))
def test_figures_do_not_depend_on_flips_or_the_order_of_the_two(seed):
    # Smooth mattes: in noise two regions may be equally large, and then the first in reading order counts.
    prediction, truth = smooth_pair(seed)
    figures = matte_metrics(prediction, truth)
    assert figures["conn"] > 0 and 0.2 < figures["boundary_f"] < 1
    for change in (np.flipud, np.fliplr, np.transpose):
        changed = matte_metrics(change(prediction), change(truth))
        assert changed == pytest.approx(figures, rel=1e-9)
    assert matte_metrics(truth, prediction) == pytest.approx(figures, rel=1e-9)


def test_figures_scale_as_they_should():
    prediction, truth = pair(1, 24, 24)
    tiled = matte_metrics(np.tile(prediction, (1, 2)), np.tile(truth, (1, 2)))
    once = matte_metrics(prediction, truth)
    assert tiled["sad"] == pytest.approx(2 * once["sad"]) and tiled["mad"] == pytest.approx(once["mad"])
    # the gradient is linear in alpha, so the error is quadratic
    assert grad(prediction / 2, truth / 2) == pytest.approx(grad(prediction, truth) / 4)


def test_single_and_double_precision_agree():
    prediction, truth = pair(2)
    single = matte_metrics(prediction.astype(np.float32), truth.astype(np.float32))
    assert single == pytest.approx(matte_metrics(prediction, truth), rel=1e-4)


def test_uncertainty_figures_do_not_depend_on_the_order_of_pixels():
    rng = np.random.default_rng(0)
    error, uncertainty = rng.random(500), rng.integers(0, 6, 500) / 10  # many ties
    order = rng.permutation(500)
    assert ause(error[order], uncertainty[order]) == pytest.approx(ause(error, uncertainty), rel=1e-12)
    assert ause(error, np.zeros(500)) == pytest.approx(np.mean(error.mean() - sparsification(error, error)[1]))


@pytest.mark.parametrize("measure", [sad, mad, mse, grad, conn, iou, boundary_f])
def test_wrong_input_is_refused(measure):
    good = np.full((4, 5), 0.5)
    with pytest.raises(ValueError, match=r"one size, got \(5, 4\) and \(4, 5\)"):
        measure(good.T, good)
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="prediction has values outside"):
            measure(np.full((4, 5), wrong), good)


def test_kernel_half_size_is_four():
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    support = np.argwhere(metrics._gradient_magnitude(impulse) > 0)
    assert support.min() == 6 and support.max() == 14
