"""How far a predicted matte is from the true one, and how well an uncertainty map foretells it.

`prediction` and `truth` are alpha mattes [H, W] of one size with values in [0, 1], at whatever resolution
the caller compares them (the sums SAD, Grad and Conn grow with it: state it beside the figure). Everything
is computed over the whole picture in double precision. Public ports of Grad and Conn disagree with each
other, so the definitions are written out here and pinned by hand-computed cases in the tests.
"""

import math

import numpy as np

THRESHOLDS = np.arange(11) / 10  # of the connectivity error
GRADIENT_SIGMA = 1.4  # pixels
BOUNDARY_TOLERANCE = 0.008  # of the picture's diagonal


def sad(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Sum of absolute differences, Σ|p − g| / 1000; thousands of pixels."""
    prediction, truth = _pair(prediction, truth)
    return float(np.abs(prediction - truth).sum() / 1000)


def mad(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference, mean |p − g|; alpha units."""
    prediction, truth = _pair(prediction, truth)
    return float(np.abs(prediction - truth).mean())


def mse(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error, mean (p − g)²; alpha units squared (papers print it times 1000)."""
    prediction, truth = _pair(prediction, truth)
    return float(np.square(prediction - truth).mean())


def grad(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Gradient error, Σ(|∇p| − |∇g|)² / 1000 (Rhemann et al., A perceptually motivated benchmark, CVPR 2009).

    ∇ is the convolution with first Gaussian derivatives of σ = 1.4 pixels, each 9×9 kernel divided by its
    own L2 norm, the border replicated. The mattes are not stretched to [0, 1] first, as the authors' code
    does.
    """
    prediction, truth = _pair(prediction, truth)
    return float(np.square(_gradient_magnitude(prediction) - _gradient_magnitude(truth)).sum() / 1000)


def conn(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Connectivity error, Σ|φ(p) − φ(g)| / 1000 (Rhemann et al., CVPR 2009).

    For each threshold t = 0, 0.1 … 1 the source region is the largest 4-connected region in which both
    mattes are at least t (of several largest the first in reading order). l is the last t whose region
    holds the pixel, and

        φ(α) = 1 − d·[d ≥ 0.15],   d = α − l.
    """
    prediction, truth = _pair(prediction, truth)
    level = np.zeros(truth.shape)
    for threshold in THRESHOLDS[1:]:  # at 0 the region is the whole picture
        level[_largest_region((prediction >= threshold) & (truth >= threshold))] = threshold
    return float(np.abs(_connectedness(prediction - level) - _connectedness(truth - level)).sum() / 1000)


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of {α ≥ 0.5}, in [0, 1]; 1 where both are empty: they agree fully."""
    prediction, truth = _pair(prediction, truth)
    inside, wanted = prediction >= 0.5, truth >= 0.5
    union = (inside | wanted).sum()
    return float((inside & wanted).sum() / union) if union else 1.0


def boundary_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Boundary F of {α ≥ 0.5}, 2PR / (P + R), in [0, 1] (Martin et al., PAMI 2004).

    P is the share of the prediction's boundary pixels that lie within ⌈0.008 · diagonal⌉ pixels of the
    truth's boundary (the tolerance of Perazzi et al., CVPR 2016), R the same with the parts exchanged.
    Boundary pixels are those inside with a 4-neighbour outside; the picture's edge is no boundary. Where
    one of the two has no boundary, 1 if they are equal, else 0.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    prediction, truth = _pair(prediction, truth)
    inside, wanted = prediction >= 0.5, truth >= 0.5
    edge, wanted_edge = (mask & ~binary_erosion(mask, border_value=1) for mask in (inside, wanted))
    if not edge.any() or not wanted_edge.any():
        return float((inside == wanted).all())
    tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
    precision = (distance_transform_edt(~wanted_edge)[edge] <= tolerance).mean()
    recall = (distance_transform_edt(~edge)[wanted_edge] <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def matte_metrics(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All figures that compare two mattes, by name."""
    measures = (sad, mad, mse, grad, conn, iou, boundary_f)
    return {measure.__name__: measure(prediction, truth) for measure in measures}


# -------------------------------------------------------------------------------------------- uncertainty


def sparsification(error: np.ndarray, uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the mean error becomes as the most uncertain pixels are taken away (Ilg et al., ECCV 2018).

    `error`: |p − g|, `uncertainty`: of the same shape, n values each. Returns (curve, oracle), float64 [n]:
    entry k is the mean error of the n − k pixels that are left, in alpha units; the oracle takes away by
    the error itself. Pixels of equal uncertainty leave in random order, and the curve is the expectation
    over all orders.
    """
    error, uncertainty = np.ravel(error).astype(np.float64), np.ravel(uncertainty)
    assert error.shape == uncertainty.shape, (error.shape, uncertainty.shape)
    _, group = np.unique(uncertainty, return_inverse=True)
    group_mean = np.bincount(group, error) / np.bincount(group)
    return _mean_of_the_rest(group_mean[np.sort(group)]), _mean_of_the_rest(np.sort(error))


def ause(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Area between the sparsification curve and its oracle, over the share removed in [0, 1); alpha units.

    0 for an uncertainty that sorts pixels as their errors do. Not divided by the error of the whole picture.
    """
    curve, oracle = sparsification(error, uncertainty)
    return float((curve - oracle).mean())


def spearman(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Spearman's rank correlation of uncertainty and |error| over pixels, in [−1, 1].

    NaN where either is constant: there is nothing to rank.
    """
    error, uncertainty = np.ravel(error), np.ravel(uncertainty)
    if np.ptp(error) == 0 or np.ptp(uncertainty) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(error), _ranks(uncertainty))[0, 1])


def calibration_shares(error: np.ndarray, uncertainty: np.ndarray) -> tuple[float, float, float]:
    """Shares of pixels whose |error| is at most 1, 2 and 3 standard deviations.

    Of normally distributed errors with these deviations .683, .954 and .997 would be.
    """
    return tuple(float((error <= count * uncertainty).mean()) for count in (1, 2, 3))


def calibration_scale(squared_error: float, variance: float) -> float:
    """The factor s that makes standard deviations as large as errors: s² = mean error² / mean variance.

    Both means run over the pixels of the whole set that s is fitted on. (Fitting a quantile of |error| /
    deviation instead would let the many pixels where both are almost 0 decide.) Raises ValueError where no
    pixel has any variance.
    """
    if not variance > 0:
        raise ValueError("the uncertainty is 0 everywhere, so no scale can fit it; use more samples or steps")
    return math.sqrt(squared_error / variance)


# -------------------------------------------------------------------------------------------------- parts


def _pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks two mattes and returns them as float64."""
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"mattes must be [H, W] of one size, got {prediction.shape} and {truth.shape}")
    for name, alpha in (("prediction", prediction), ("truth", truth)):
        low, high = alpha.min(), alpha.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} has values outside [0, 1] or not a number: {low} to {high}")
    return prediction.astype(np.float64), truth.astype(np.float64)


def _gradient_magnitude(alpha: np.ndarray) -> np.ndarray:
    """|∇α| as `grad` defines it, [H, W] -> [H, W]."""
    from scipy.ndimage import convolve1d

    sigma = GRADIENT_SIGMA
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))  # 4
    x = np.arange(-half, half + 1)
    smooth = np.exp(-(x**2) / (2 * sigma**2))
    slope = -x * smooth
    # The kernel is the outer product of the two: dividing each by its L2 norm divides the kernel by its own.
    smooth, slope = smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)
    along_x = convolve1d(convolve1d(alpha, smooth, axis=0, mode="nearest"), slope, axis=1, mode="nearest")
    along_y = convolve1d(convolve1d(alpha, smooth, axis=1, mode="nearest"), slope, axis=0, mode="nearest")
    return np.hypot(along_x, along_y)


def _largest_region(inside: np.ndarray) -> np.ndarray:
    """bool [H, W] -> its largest 4-connected region; empty if there is none."""
    from scipy.ndimage import label

    labels, count = label(inside)  # the default structure is 4-connected
    if count == 0:
        return inside
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # the background is no region
    return labels == sizes.argmax()


def _connectedness(distance: np.ndarray) -> np.ndarray:
    """φ of `conn`."""
    return 1 - distance * (distance >= 0.15)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 … n of n values, equal ones sharing the mean of theirs (scipy.stats takes seconds to import)."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]


def _mean_of_the_rest(sorted_error: np.ndarray) -> np.ndarray:
    """Errors [n], those kept longest first -> mean of the first n − k for k = 0 … n − 1, [n]."""
    count = np.arange(1, len(sorted_error) + 1)
    return (np.cumsum(sorted_error) / count)[::-1]
