import itertools
import math
from collections import deque

import numpy as np
import pytest

from sdseg.evaluation import metrics
from sdseg.evaluation.metrics import (
    ause,
    boundary_f,
    calibration_scale,
    calibration_shares,
    confidence_interval,
    conn,
    grad,
    iou,
    mad,
    matte_bands,
    metrics_of_parts,
    mse,
    paired_comparison,
    sad,
    sparsification,
    spearman,
    trimap_band,
)
from sdseg.evaluation.segmentation_metrics import (
    accuracy,
    binary_metrics,
    class_iou,
    confusion_matrix,
    e_measure,
    f_measure,
    mae,
    match_labels,
    mean_accuracy,
    mean_iou,
    s_measure,
    weighted_f,
)


def all_figures(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
    return metrics_of_parts(prediction, truth, [where])[0]


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


def test_conn_does_not_reconnect_what_a_larger_fainter_blob_outweighed():
    """20 opaque pixels, predicted at .9, beside 100 at .55: the small blob is outside the largest region up to .5, and
    that it is the largest from .6 on changes nothing. l = 0 there, so φ is 0 in the truth and .1 in the prediction."""
    truth = np.zeros((12, 20))
    truth[1:11, 1:11] = 0.55
    truth[4:8, 14:19] = 1
    prediction = truth.copy()
    prediction[4:8, 14:19] = 0.9
    assert conn(prediction, truth) == pytest.approx(20 * 0.1 / 1000, rel=1e-9)
    assert conn(truth, truth) == 0


@pytest.mark.parametrize("seed", range(20))
def test_conn_of_smooth_random_mattes_equals_the_literal_rule(seed):
    """Smooth mattes have several blobs that grow and shrink with the threshold, as noise has not."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)

    def smooth():
        field = gaussian_filter(rng.normal(size=(20, 24)), rng.uniform(1, 3), mode="wrap")
        return ((field - field.min()) / np.ptp(field) * 1.3 - 0.15).clip(0, 1)

    truth = smooth()
    prediction = (0.7 * truth + 0.3 * smooth()).clip(0, 1)
    assert conn(prediction, truth) == pytest.approx(slow_conn(prediction, truth), abs=1e-12, rel=1e-9)


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
    """Rhemann's rule pixel by pixel: l is the step before the first whose flood-filled region lacks the pixel."""
    height, width = truth.shape
    regions = []
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
        regions.append(set(largest))
    level = np.ones(truth.shape)
    for y in range(height):
        for x in range(width):
            missing = [step for step in range(11) if (y, x) not in regions[step]]
            if missing:
                level[y, x] = (missing[0] - 1) / 10

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
    figures = all_figures(truth, truth)
    assert figures == {"sad": 0, "mad": 0, "mse": 0, "grad": 0, "conn": 0, "iou": 1, "boundary_f": 1}


@pytest.mark.parametrize("seed", range(3))
def test_figures_do_not_depend_on_flips_or_the_order_of_the_two(seed):
    # Smooth mattes: in noise two regions may be equally large, and then the first in reading order counts.
    prediction, truth = smooth_pair(seed)
    figures = all_figures(prediction, truth)
    assert figures["conn"] > 0 and 0.2 < figures["boundary_f"] < 1
    for change in (np.flipud, np.fliplr, np.transpose):
        changed = all_figures(change(prediction), change(truth))
        assert changed == pytest.approx(figures, rel=1e-9)
    assert all_figures(truth, prediction) == pytest.approx(figures, rel=1e-9)


def test_figures_scale_as_they_should():
    prediction, truth = pair(1, 24, 24)
    tiled = all_figures(np.tile(prediction, (1, 2)), np.tile(truth, (1, 2)))
    once = all_figures(prediction, truth)
    assert tiled["sad"] == pytest.approx(2 * once["sad"]) and tiled["mad"] == pytest.approx(once["mad"])
    # the gradient is linear in alpha, so the error is quadratic
    assert grad(prediction / 2, truth / 2) == pytest.approx(grad(prediction, truth) / 4)


def test_single_and_double_precision_agree():
    prediction, truth = pair(2)
    single = all_figures(prediction.astype(np.float32), truth.astype(np.float32))
    assert single == pytest.approx(all_figures(prediction, truth), rel=1e-4)


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


# -------------------------------------------------------------------------------------- parts of a picture


def test_bands_by_hand():
    truth = np.array([[1.0, 1.0, 0.5, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    expected = np.array(["ftttb", "fftbb", "ffffb"])  # within 1 pixel of the only soft one
    bands = matte_bands(truth, radius=1)
    for name, band in bands.items():
        np.testing.assert_array_equal(band, [[letter == name[0] for letter in row] for row in expected])
    # √2 takes the corners in too
    assert matte_bands(truth, radius=1.5)["transition"].sum() == 6
    assert [band.sum() for band in matte_bands(np.eye(4)).values()] == [0, 4, 12], "a hard mask has no transition"


def test_bands_equal_slow_literal_code_and_cover_the_picture():
    _, truth = smooth_pair(0)
    soft = np.argwhere((truth > 0) & (truth < 1))
    near = [np.linalg.norm(soft - pixel, axis=1).min() <= 3 for pixel in np.argwhere(truth >= 0)]
    bands = matte_bands(truth, radius=3)
    np.testing.assert_array_equal(bands["transition"].ravel(), near)
    np.testing.assert_array_equal(sum(band.astype(int) for band in bands.values()), 1)


def test_trimap_band():
    values = np.array([[0, 1, 128, 254, 255]])
    expected = [[False, True, True, True, False]]
    np.testing.assert_array_equal(trimap_band(values.astype(np.uint8)), expected)
    np.testing.assert_array_equal(trimap_band((values * 257).astype(np.uint16)), expected)
    np.testing.assert_array_equal(trimap_band(values / np.float32(255)), expected)
    with pytest.raises(ValueError, match=r"uint8 or uint16 \[H, W\], got int64"):
        trimap_band(values)
    with pytest.raises(ValueError, match="outside"):
        trimap_band(values.astype(float))


def test_figures_of_a_part_by_hand():
    prediction = np.array([[0.0, 0.2, 0.6, 1.0]] * 2 + [[0.0, 0.0, 1.0, 1.0]] * 2)
    truth = np.array([[0.0, 0.5, 0.5, 1.0]] * 2 + [[0.0, 1.0, 1.0, 1.0]] * 2)
    where = np.zeros((4, 4), bool)
    where[1:3, 1:3] = True
    # |p − g| there: .3 .1 / 1 0; {p ≥ .5}: no yes / no yes; {g ≥ .5}: all four
    assert sad(prediction, truth, where) == pytest.approx(1.4 / 1000)
    assert mad(prediction, truth, where) == pytest.approx(0.35)
    assert mse(prediction, truth, where) == pytest.approx((0.09 + 0.01 + 1) / 4)
    assert iou(prediction, truth, where) == pytest.approx(0.5)
    # The boundaries are columns 2 and 1, one pixel apart, as far as the tolerance goes; without it none agree.
    assert boundary_f(prediction, truth, where) == 1
    where[:, 2] = False
    assert boundary_f(prediction, truth, where) == 0, "no boundary of the prediction in the mask, and they differ"
    # Of the hand-worked connectivity error .3 + .2 only the last pixel
    truth, prediction = np.array([[1.0, 1.0, 0.6, 1.0]]), np.array([[1.0, 0.9, 0.3, 0.8]])
    assert conn(prediction, truth, np.array([[True, True, False, True]])) == pytest.approx(0.2 / 1000)


def test_parts_add_up():
    prediction, truth = smooth_pair(3)
    bands = [band for band in matte_bands(truth, radius=2).values() if band.any()]
    assert len(bands) == 3
    parts, whole = [all_figures(prediction, truth, band) for band in bands], all_figures(prediction, truth)
    for name in ("sad", "grad", "conn"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], rel=1e-9)
    for name in ("mad", "mse"):
        total = sum(part[name] * band.sum() for part, band in zip(parts, bands, strict=True))
        assert total / truth.size == pytest.approx(whole[name], rel=1e-9)
    assert all_figures(prediction, truth, np.ones(truth.shape, bool)) == whole


def test_wrong_masks_are_refused():
    good = np.full((4, 5), 0.5)
    with pytest.raises(ValueError, match="where holds no pixel"):
        mad(good, good, np.zeros((4, 5), bool))
    for wrong in (np.ones((5, 4), bool), np.ones((4, 5))):
        with pytest.raises(ValueError, match=r"where must be bool \(4, 5\)"):
            mad(good, good, wrong)


@pytest.mark.parametrize("measure", [sad, mad, mse, grad, conn])
def test_matte_errors_grow_with_the_error(measure):
    if measure is conn:  # a square that fades: l follows it down in steps of a tenth
        truth = np.zeros((12, 12))
        truth[3:9, 3:9] = 1
        predictions = [truth * (1 - fade) for fade in np.linspace(0, 1, 11)]
        figures = [measure(prediction, truth) for prediction in predictions]
        assert all(np.diff(figures) >= -1e-12) and figures[-1] > figures[5] > figures[0] == 0
    else:
        prediction, truth = smooth_pair(1)
        figures = [measure(truth + share * (prediction - truth), truth) for share in np.linspace(0, 1, 6)]
        assert figures[0] == 0 and all(np.diff(figures) > 0)


# -------------------------------------------------------------------------------------------- hard masks


@pytest.fixture
def block():
    """A true 2×2 block in the middle of 4×4, and a prediction that lacks its first pixel."""
    truth = np.zeros((4, 4))
    truth[1:3, 1:3] = 1
    prediction = truth.copy()
    prediction[1, 1] = 0
    return prediction, truth


def test_binary_figures_by_hand(block):
    assert mae(*block) == 1 / 16
    assert mae(np.full((4, 4), 0.25), np.full((4, 4), 0.75)) == 0.75, "the truth is a hard mask"
    # P = 3/3, R = 3/4: F = 2 · .75 / 1.75; with β² = .3: 1.3 · .75 / (.3 + .75)
    assert f_measure(*block) == pytest.approx(6 / 7)
    assert f_measure(*block, beta_squared=0.3) == pytest.approx(0.975 / 1.05)


def test_thresholds_by_hand():
    prediction, truth = np.array([[0.0, 0.2, 0.6, 1.0]] * 4), np.array([[0.0, 0.0, 1.0, 1.0]] * 4)
    # t = 0: P = 1/2, R = 1, F = 2/3. 0 < t ≤ .2 (51 of 256): P = 2/3, F = 4/5. Up to .6 (102): F = 1.
    # Above (102): R = 1/2, F = 2/3.
    assert f_measure(prediction, truth, threshold="max") == 1
    assert f_measure(prediction, truth, threshold="mean") == pytest.approx((103 * 2 / 3 + 51 * 0.8 + 102) / 256)
    assert f_measure(prediction, truth, threshold=0.2) == pytest.approx(0.8)
    assert f_measure(prediction, truth, threshold="adaptive") == pytest.approx(2 / 3), "t = 2 · .45"
    # Level k of an 8-bit file passes the thresholds 0 … k / 255, however it was rounded on its way.
    for level in range(256):
        for value in (level / 255, np.float32(level) / np.float32(255), np.float32(level * 257) / np.float32(65535)):
            assert f_measure(np.full((1, 1), value), np.ones((1, 1)), threshold="mean") == (level + 1) / 256
    with pytest.raises(ValueError, match="unknown threshold 'median'"):
        f_measure(prediction, truth, threshold="median")


def test_e_measure_by_hand(block):
    # a is 13/16 at the 3 predicted pixels, else −3/16; b is 12/16 at the 4 true ones, else −4/16.
    # Both: ξ = 2·13·12 / (13² + 12²) = 312/313; the missed one: −72/153; the 12 others: 24/25.
    expected = (3 * (1 + 312 / 313) ** 2 + (1 - 72 / 153) ** 2 + 12 * (1 + 24 / 25) ** 2) / 4 / 16
    assert e_measure(*block, threshold=0.5) == pytest.approx(expected, rel=1e-12)
    # At t = 0 everything is predicted: a = 0, so ξ = 0 and E = 1/4; the 255 other thresholds are all alike.
    assert e_measure(*block) == pytest.approx((255 * expected + 0.25) / 256, rel=1e-12)
    quarter = np.eye(4)
    assert e_measure(quarter, np.zeros((4, 4)), 0.5) == 0.75 and e_measure(quarter, np.ones((4, 4)), 0.5) == 0.25


def test_s_measure_by_hand(block):
    # Object: inside 0 1 1 1, m = 3/4, s² = (9/16 + 3/16) / 3 = 1/4: 1.5 / (9/16 + 1 + 1/2) = 8/11. Outside 1.
    # Region: the centroid (1.5, 1.5) rounds to 2, so the quadrants are 3×3, 3×1, 1×3 and 1×1; the last three
    # are empty in both: 1. In the first x̄ = 3/9, ȳ = 4/9, σxy = 3/9 − 12/81 = 15/81, σx² = 18/81, σy² = 20/81.
    similarity = 4 * (3 / 9) * (4 / 9) * (15 / 81) / ((9 / 81 + 16 / 81) * (38 / 81))
    expected = (4 / 16 * 8 / 11 + 12 / 16) / 2 + (9 / 16 * similarity + 7 / 16) / 2
    assert s_measure(*block) == pytest.approx(expected, rel=1e-12)
    # A constant p, however its mean rounds, has no structure to compare in quadrants without any: region 1,
    # object ⅕ · 2p / (p² + 1) + ⅘ · 2q / (q² + 1), q = 1 − p.
    stripe = np.array([[1.0] * 2 + [0.0] * 8] * 9)
    for p in np.arange(1, 10) / 10:
        q = 1 - p
        expected = (0.2 * 2 * p / (p**2 + 1) + 0.8 * 2 * q / (q**2 + 1) + 1) / 2
        assert s_measure(np.full(stripe.shape, p), stripe) == pytest.approx(expected, rel=1e-12)
    assert s_measure(np.full((4, 4), 0.25), np.zeros((4, 4))) == 0.75
    assert s_measure(np.full((4, 4), 0.25), np.ones((4, 4))) == 0.25


def test_weighted_f_by_hand(block):
    _, truth = block
    # Nothing missed, and surplus at distances 1 and √2: R = 1, P = 4 / (4 + 1 · (2 − 2^−.2) + ½ (2 − 2^(−√2/5)))
    prediction = truth.copy()
    prediction[0, 1], prediction[0, 0] = 1, 0.5
    precision = 4 / (4 + 2 - 2**-0.2 + (2 - 2 ** (-math.sqrt(2) / 5)) / 2)
    assert weighted_f(prediction, truth) == pytest.approx(2 * precision / (1 + precision), rel=1e-12)
    # One pixel missed where all is true: its error is its own weight in the window, (1 / Σ exp(−x²/50))²; P = 1.
    weight = 1 / (1 + 2 * (math.exp(-1 / 50) + math.exp(-4 / 50) + math.exp(-9 / 50))) ** 2
    full, hole = np.ones((4, 4)), np.ones((4, 4))
    hole[1, 1] = 0
    recall = 1 - weight / 16
    assert weighted_f(hole, full) == pytest.approx(2 * recall / (1 + recall), rel=1e-12)


def slow_f(prediction, truth, beta_squared, threshold):
    """From precision and recall, pixel by pixel."""
    both = predicted = wanted = 0
    for p, g in zip(prediction.ravel(), truth.ravel(), strict=True):
        predicted += p >= threshold
        wanted += g >= 0.5
        both += p >= threshold and g >= 0.5
    precision, recall = both / predicted if predicted else 0, both / wanted
    return (1 + beta_squared) * precision * recall / (beta_squared * precision + recall) if both else 0


def slow_e(prediction, truth, threshold):
    """The matrices of Fan et al."""
    mask, wanted = (prediction >= threshold).astype(float), (truth >= 0.5).astype(float)
    a, b = mask - mask.mean(), wanted - wanted.mean()
    total = 0.0
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            alignment = 2 * a[y, x] * b[y, x] / (a[y, x] ** 2 + b[y, x] ** 2)
            total += (1 + alignment) ** 2 / 4
    return total / truth.size


def slow_s(prediction, truth):
    """Sums over lists of pixels."""
    height, width = truth.shape
    wanted = {(y, x): float(truth[y, x] >= 0.5) for y in range(height) for x in range(width)}
    inside = [pixel for pixel in wanted if wanted[pixel]]
    outside = [pixel for pixel in wanted if not wanted[pixel]]

    def score(values):
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        return 2 * mean / (mean**2 + 1 + 2 * 0.5 * deviation)

    objects = len(inside) / truth.size * score([prediction[pixel] for pixel in inside])
    objects += len(outside) / truth.size * score([1 - prediction[pixel] for pixel in outside])
    row = math.floor(sum(y + 1 for y, _ in inside) / len(inside) + 0.5)  # counted from 1, as the authors do
    column = math.floor(sum(x + 1 for _, x in inside) / len(inside) + 0.5)
    region = 0
    for upper, left in itertools.product((True, False), repeat=2):
        pixels = [(y, x) for y, x in wanted if (y < row) == upper and (x < column) == left]
        p, g = [prediction[pixel] for pixel in pixels], [wanted[pixel] for pixel in pixels]
        n, mean, level = len(pixels), sum(p) / len(pixels), sum(g) / len(pixels)
        spread = sum((v - mean) ** 2 for v in p) / (n - 1) + sum((v - level) ** 2 for v in g) / (n - 1)
        common = sum((v - mean) * (w - level) for v, w in zip(p, g, strict=True)) / (n - 1)
        region += n / truth.size * 4 * mean * level * common / ((mean**2 + level**2) * spread)
    return 0.5 * objects + 0.5 * region


def slow_weighted_f(prediction, truth):
    """The nearest pixel by looking at all, the window as a two-dimensional sum."""
    height, width = truth.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    inside = [pixel for pixel in pixels if truth[pixel] >= 0.5]
    error = {pixel: abs(prediction[pixel] - (truth[pixel] >= 0.5)) for pixel in pixels}
    apart = {(a, b): (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 for a in pixels for b in inside}
    nearest = {a: min(inside, key=lambda b, a=a: (apart[a, b], b[1], b[0])) for a in pixels}
    offsets = list(itertools.product(range(-3, 4), repeat=2))
    window = {(i, j): math.exp(-(i * i + j * j) / 50) for i, j in offsets}
    total = sum(window.values())
    weighted = {}
    for pixel in pixels:
        weighted[pixel] = error[pixel]
        if pixel in inside:
            around = ((pixel[0] + i, pixel[1] + j, weight / total) for (i, j), weight in window.items())
            mean = sum(error[nearest[y, x]] * w for y, x, w in around if 0 <= y < height and 0 <= x < width)
            weighted[pixel] = min(error[pixel], mean)
        else:
            weighted[pixel] *= 2 - math.exp(math.log(0.5) / 5 * math.sqrt(apart[pixel, nearest[pixel]]))
    found = len(inside) - sum(weighted[pixel] for pixel in inside)
    surplus = sum(weighted[pixel] for pixel in pixels if pixel not in inside)
    recall, precision = 1 - sum(weighted[pixel] for pixel in inside) / len(inside), found / (found + surplus)
    return 2 * recall * precision / (recall + precision)


@pytest.mark.parametrize("seed", range(5))
def test_binary_figures_equal_slow_literal_code(seed):
    prediction, truth = pair(seed)
    prediction = np.round(prediction * 255) / 255
    curve = [slow_e(prediction, truth, step / 255) for step in range(256)]
    assert e_measure(prediction, truth) == pytest.approx(np.mean(curve), abs=1e-9)
    assert e_measure(prediction, truth, "max") == pytest.approx(max(curve), abs=1e-9)
    for beta_squared in (0.3, 1):
        curve = [slow_f(prediction, truth, beta_squared, step / 255) for step in range(256)]
        assert f_measure(prediction, truth, beta_squared, "mean") == pytest.approx(np.mean(curve), abs=1e-9)
        expected = slow_f(prediction, truth, beta_squared, 0.5)
        assert f_measure(prediction, truth, beta_squared) == pytest.approx(expected, abs=1e-9)
    assert s_measure(prediction, truth) == pytest.approx(slow_s(prediction, truth), abs=1e-9)
    assert weighted_f(prediction, truth) == pytest.approx(slow_weighted_f(prediction, truth), abs=1e-9)
    sparse = np.where(np.random.default_rng(seed).random(truth.shape) < 0.05, truth, 0)  # nearest pixels far away
    assert weighted_f(prediction, sparse) == pytest.approx(slow_weighted_f(prediction, sparse), abs=1e-9)


BEST = {"iou": 1, "f1": 1, "f_beta": 1, "boundary_f": 1, "mae": 0, "s_measure": 1, "weighted_f": 1}


@pytest.mark.parametrize("kind", ["blobs", "empty", "full", "one pixel"])
def test_a_mask_equals_itself(kind):
    truth = (smooth_pair(0)[1] >= 0.5).astype(float)
    if kind != "blobs":
        truth = np.full(truth.shape, float(kind == "full"))
    if kind == "one pixel":
        truth[-1, -1] = 1
    figures = binary_metrics(truth, truth)
    assert {name: figures[name] for name in BEST} == pytest.approx(BEST, abs=1e-12)
    assert e_measure(truth, truth, 0.5) == pytest.approx(1, abs=1e-12)
    wrong = binary_metrics(1 - truth, truth)
    assert wrong["mae"] == 1 and wrong["iou"] == wrong["f1"] == 0 and wrong["s_measure"] < 0.1
    assert wrong["weighted_f"] < 0.15, "not 0: the window finds no error beyond the picture"


@pytest.mark.parametrize("seed", range(3))
def test_binary_figures_do_not_depend_on_flips(seed):
    prediction, truth = smooth_pair(seed)
    figures = binary_metrics(prediction, truth)
    for change in (np.flipud, np.fliplr, np.transpose):
        changed = binary_metrics(change(prediction), change(truth))
        # the centroid's row goes to the upper half; of equally near pixels the leftmost counts
        assert changed["s_measure"] == pytest.approx(figures["s_measure"], rel=1e-9 if change is np.transpose else 0.02)
        assert changed["weighted_f"] == pytest.approx(figures["weighted_f"], rel=1e-3)
        for name in figures.keys() - {"s_measure", "weighted_f"}:
            assert changed[name] == pytest.approx(figures[name], rel=1e-9)
    # exchanging two hard masks exchanges precision and recall
    hard, true = (prediction >= 0.5).astype(float), (truth >= 0.5).astype(float)
    for measure in (iou, f_measure, boundary_f, mae):
        assert measure(hard, true) == pytest.approx(measure(true, hard), rel=1e-12)
    assert e_measure(hard, true, 0.5) == pytest.approx(e_measure(true, hard, 0.5), rel=1e-12)


def test_binary_figures_get_worse_as_a_square_moves_away_or_fades():
    def square(left: int) -> np.ndarray:
        matte = np.zeros((64, 64))
        matte[20:44, left : left + 24] = 1
        return matte

    truth = square(8)
    moved = [binary_metrics(square(8 + step), truth) for step in (0, 2, 4, 8, 16)]
    faded = [binary_metrics(truth * (1 - share), truth) for share in (0, 0.1, 0.2, 0.3, 0.4)]
    for name in moved[0]:
        sign = -1 if name == "mae" else 1
        assert all(np.diff([sign * figures[name] for figures in moved]) < 0), name
        if name in ("mae", "s_measure", "e_measure", "weighted_f"):
            assert all(np.diff([sign * figures[name] for figures in faded]) < 0), name


@pytest.mark.parametrize("measure", [mae, f_measure, e_measure, s_measure, weighted_f])
def test_wrong_masks_to_compare_are_refused(measure):
    good = np.full((4, 5), 0.5)
    with pytest.raises(ValueError, match=r"one size, got \(5, 4\) and \(4, 5\)"):
        measure(good.T, good)
    with pytest.raises(ValueError, match="prediction has values outside"):
        measure(good * 4, good)


# -------------------------------------------------------------------------------------------- class maps

VOID = 255
TRUE_CLASSES = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, VOID, VOID], [0, 0, VOID, VOID]], np.uint8)
PREDICTED_CLASSES = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]], np.uint8)


def test_protocols_differ_by_ignored_pixels_and_absent_classes():
    """Two classes and a third that is nowhere; a quarter of the picture is ignored."""
    matrix = confusion_matrix(PREDICTED_CLASSES, TRUE_CLASSES, classes=3)
    np.testing.assert_array_equal(matrix, [[7, 1, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [1, 3, 0, 0]])
    # Labelled pixels: class 0 has 8, predicted 8, both 7: 7/9. Class 1 has 4, predicted 4, both 3: 3/5.
    np.testing.assert_allclose(class_iou(matrix), [7 / 9, 3 / 5, np.nan])
    assert mean_iou(matrix) == pytest.approx((7 / 9 + 3 / 5) / 2)
    # On ignored pixels class 0 is predicted once and class 1 three times: unions of 10 and 8.
    np.testing.assert_allclose(class_iou(matrix, "ddpm-seg"), [7 / 10, 3 / 8, 0])
    assert mean_iou(matrix, "ddpm-seg") == pytest.approx((7 / 10 + 3 / 8 + 0) / 3)
    assert accuracy(matrix) == pytest.approx(10 / 12)
    assert mean_accuracy(matrix) == pytest.approx((7 / 8 + 3 / 4) / 2)
    # Without ignored pixels and absent classes both are the same.
    plain = confusion_matrix(PREDICTED_CLASSES, np.where(TRUE_CLASSES == VOID, 1, TRUE_CLASSES), classes=2)
    np.testing.assert_array_equal(class_iou(plain), class_iou(plain, "ddpm-seg"))
    with pytest.raises(ValueError, match="unknown mIoU protocol 'ddpm'"):
        mean_iou(matrix, "ddpm")


def random_class_maps(seed, classes=5, pictures=4):
    """Class maps with ignored pixels, pixels without prediction, and a last class that is nowhere."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 1, (pictures, 9, 11))
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes - 1, truth.shape))
    truth[rng.random(truth.shape) < 0.15] = VOID
    prediction[rng.random(truth.shape) < 0.05] = VOID
    return prediction.astype(np.uint8), truth.astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_multiclass_figures_equal_slow_literal_code(seed):
    classes = 5
    prediction, truth = random_class_maps(seed, classes)
    matrices = [confusion_matrix(*maps, classes) for maps in zip(prediction, truth, strict=True)]
    standard, ddpm, recall = [], [], []
    for target in range(classes):
        both = (prediction == target) & (truth == target)
        either = (prediction == target) | (truth == target)
        if (either & (truth != VOID)).any():
            standard.append(both.sum() / (either & (truth != VOID)).sum())
        ddpm.append(both.sum() / (1e-12 + either.sum()))
        if (truth == target).any():
            recall.append(both.sum() / (truth == target).sum())
    assert len(standard) == len(recall) == classes - 1
    matrix = sum(matrices)
    assert mean_iou(matrix) == pytest.approx(np.mean(standard), abs=1e-9)
    assert mean_accuracy(matrix) == pytest.approx(np.mean(recall), abs=1e-9)
    assert accuracy(matrix) == pytest.approx((prediction == truth)[truth != VOID].mean(), abs=1e-9)
    assert mean_iou(matrix, "ddpm-seg") == pytest.approx(np.mean(ddpm), abs=1e-9)
    np.testing.assert_allclose(class_iou(matrix, "ddpm-seg"), ddpm, atol=1e-9)
    flipped = [confusion_matrix(p[::-1], t[::-1], classes) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_array_equal(flipped, matrices)
    # IoU is symmetric: exchange the two where both are labelled
    both_labelled = (truth != VOID) & (prediction != VOID)
    first, second = (np.where(both_labelled, maps, VOID).reshape(-1, 11) for maps in (prediction, truth))
    forth, back = confusion_matrix(first, second, classes), confusion_matrix(second, first, classes)
    np.testing.assert_array_equal(forth, back.T)
    assert mean_iou(forth) == pytest.approx(mean_iou(back), abs=1e-12)


def test_class_maps_equal_themselves_and_get_worse():
    _, truth = random_class_maps(0)
    truth = truth.reshape(-1, 11)
    rng = np.random.default_rng(1)
    order, wrong = rng.random(truth.shape), np.where(truth == VOID, 0, (truth + 1) % 4)
    figures = []
    for share in (0, 0.1, 0.3, 0.6):
        matrix = confusion_matrix(np.where(order < share, wrong, np.where(truth == VOID, 0, truth)), truth, 5)
        figures.append((accuracy(matrix), mean_accuracy(matrix), mean_iou(matrix)))
    assert figures[0] == (1, 1, 1)
    assert (np.diff(figures, axis=0) < 0).all()


def test_matching_per_picture_and_per_data_set_by_hand():
    truth = np.array([[0, 0, 1, 1]] * 4)
    # In the first picture cluster 1 is class 0 and cluster 0 class 1; in the second, but for one column, the
    # other way round. A third cluster takes half of class 1 in the second.
    first = confusion_matrix(np.array([[1, 1, 0, 0]] * 4), truth, 2, predicted_classes=3)
    second = confusion_matrix(np.array([[0, 0, 1, 2]] * 4), truth, 2, predicted_classes=3)
    np.testing.assert_array_equal(match_labels(first), [[8, 0, 0], [0, 8, 0], [0, 0, 0]])
    np.testing.assert_array_equal(match_labels(second), [[8, 0, 0], [0, 4, 4], [0, 0, 0]])
    by_picture = match_labels(first) + match_labels(second)
    assert accuracy(by_picture) == 28 / 32 and class_iou(by_picture).tolist() == [1, 12 / 16]
    # Summed, class 0 has 8, 8, 0 and class 1 8, 4, 4 pixels of the clusters: best is 1 → 0, 0 → 1, 16 agree.
    by_data_set = match_labels(first + second)
    assert accuracy(by_data_set) == 16 / 32
    # class 0: 8 of 16, and 4 too many; class 1: 8 of 16, and 8 too many
    assert class_iou(by_data_set) == pytest.approx([8 / 20, 8 / 24])


@pytest.mark.parametrize("labels", [2, 4, 6])
def test_matching_equals_trying_every_assignment(labels):
    rng = np.random.default_rng(labels)
    classes = 4
    for _ in range(5):
        truth, prediction = rng.integers(0, classes, (8, 8)), rng.integers(0, labels, (8, 8))
        truth[0, :3] = VOID
        best = 0
        for chosen in itertools.permutations(range(max(labels, classes)), classes):
            agree = sum(((prediction == label) & (truth == target)).sum() for target, label in enumerate(chosen))
            best = max(best, agree)
        matrix = confusion_matrix(prediction, truth, classes, predicted_classes=labels)
        matched = match_labels(matrix)
        assert np.trace(matched[:-1, :-1]) == best
        np.testing.assert_array_equal(matched.sum(axis=1), matrix.sum(axis=1))
        # names of clusters do not matter
        names = rng.permutation(labels)
        renamed = match_labels(confusion_matrix(names[prediction], truth, classes, predicted_classes=labels))
        assert np.trace(renamed[:-1, :-1]) == best


def test_wrong_class_maps_are_refused():
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="truth has class 3; classes are 0 to 2, and 255 to ignore"):
        confusion_matrix(good, good + 3, 3)
    with pytest.raises(ValueError, match="prediction has class -1"):
        confusion_matrix(good.astype(int) - 1, good, 3)
    with pytest.raises(ValueError, match="prediction must hold integer classes, got float64"):
        confusion_matrix(good * 0.5, good, 3)
    with pytest.raises(ValueError, match="of one size"):
        confusion_matrix(good[:3], good, 3)
    nothing = confusion_matrix(good, good + VOID, 3)
    assert math.isnan(accuracy(nothing)) and math.isnan(mean_accuracy(nothing)) and math.isnan(mean_iou(nothing))


# --------------------------------------------------------------------------------------------- intervals


def test_confidence_interval_equals_slow_literal_code():
    values = np.random.default_rng(0).random((7, 3))
    low, high = confidence_interval(values, np.random.default_rng(5), level=0.9, resamples=99)
    draws = np.random.default_rng(5)
    means = []
    for _ in range(99):
        chosen = [values[k] for k in draws.integers(7, size=7)]
        means.append([sum(column) / 7 for column in zip(*chosen, strict=True)])
    for column in range(3):
        ordered = sorted(mean[column] for mean in means)
        # quantiles .05 and .95 of 99 values are 4.9 and 93.1 steps from the lowest
        assert low[column] == pytest.approx(ordered[4] + 0.9 * (ordered[5] - ordered[4]), abs=1e-12)
        assert high[column] == pytest.approx(ordered[93] + 0.1 * (ordered[94] - ordered[93]), abs=1e-12)
    again = confidence_interval(values, np.random.default_rng(5), level=0.9, resamples=99)
    np.testing.assert_array_equal(again, (low, high))


def test_confidence_interval_of_many_pictures_is_the_normal_one():
    values = np.random.default_rng(0).exponential(size=2000)
    low, high = confidence_interval(values, np.random.default_rng(1), resamples=4000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)
    assert confidence_interval(np.full(5, 0.25), np.random.default_rng(0), resamples=10) == (0.25, 0.25)


def test_confidence_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 500))  # 500 sets of 40 pictures
    low, high = confidence_interval(values, rng, resamples=1000)
    assert 0.91 < ((low < 0) & (high > 0)).mean() < 0.97


def test_confidence_interval_of_a_figure_of_the_set():
    prediction, truth = random_class_maps(2, pictures=12)
    matrices = np.stack([confusion_matrix(*maps, 5) for maps in zip(prediction, truth, strict=True)])
    low, high = confidence_interval(
        matrices, np.random.default_rng(0), resamples=300, statistic=lambda drawn: mean_iou(drawn.sum(axis=0))
    )
    assert low < mean_iou(matrices.sum(axis=0)) < high and 0.005 < high - low < 0.2


def test_paired_comparison():
    first, second = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.1, 0.3, 0.8])
    result = paired_comparison(first, second, np.random.default_rng(0), lower_is_better=True)
    assert result["difference"] == pytest.approx(-0.1) and (result["won"], result["tied"]) == (0.5, 0.25)
    # the lowest mean a draw can have is −.4 (one in 256), and one in 40 is near it
    assert -0.4 <= result["low"] < -0.2 and 0 < result["high"] <= 0.1
    back = paired_comparison(second, first, np.random.default_rng(0), lower_is_better=True)
    assert (back["difference"], back["low"], back["high"]) == pytest.approx(
        (-result["difference"], -result["high"], -result["low"])
    )
    assert back["won"] == 0.25
    assert paired_comparison(first, second, np.random.default_rng(0), lower_is_better=False)["won"] == 0.25
    # pictures differ far more than methods do, yet a constant lead is certain
    hard = np.random.default_rng(1).random(50)
    result = paired_comparison(hard + 0.01, hard, np.random.default_rng(0), lower_is_better=False, resamples=100)
    assert (result["low"], result["high"], result["won"]) == pytest.approx((0.01, 0.01, 1))


def test_wrong_figures_to_resample_are_refused():
    rng = np.random.default_rng(0)
    for wrong in ([], [0.1, np.nan]):
        with pytest.raises(ValueError, match="at least one picture and finite figures"):
            confidence_interval(np.array(wrong), rng)
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        confidence_interval(np.ones(3), rng, level=95)
    with pytest.raises(ValueError, match=r"same pictures, got \(3,\) and \(4,\)"):
        paired_comparison(np.ones(3), np.ones(4), rng, lower_is_better=True)
