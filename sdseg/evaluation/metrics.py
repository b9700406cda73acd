"""Figures of mattes, of their uncertainty, and intervals of means.

`prediction` and `truth` are alpha mattes [H, W] of one size with values in [0, 1]. The sums SAD, Grad and Conn grow
with the resolution, so report it beside them. Everything is computed in double precision. Public ports of Grad and
Conn disagree with each other, so the definitions are written out here and pinned by hand-computed cases in the tests.
Figures of hard masks and of classes are in `sdseg.evaluation.segmentation_metrics`.

`where`, bool [H, W], limits a figure to the pixels where it is True, for example a trimap's unknown band; None means
all. Gradients and connected regions are still those of the whole picture, as in the benchmarks' own code; only the
final sum or mean is limited, so the sums over the parts of a picture add up to its own. A mask without pixels has no
figure and raises ValueError.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

THRESHOLDS = np.arange(11) / 10  # of the connectivity error
GRADIENT_SIGMA = 1.4  # pixels
BOUNDARY_TOLERANCE = 0.008  # of the picture's diagonal
BAND_RADIUS = 10  # pixels


# The value of a figure over a part of the picture (flat indices of its pixels, None for all), after the costly work
# on the whole picture has been done.
Over = Callable[[np.ndarray | None], float]


def sad(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Sum of absolute differences, Σ|p − g| / 1000; thousands of pixels."""
    return _figure(_sad_over, prediction, truth, where)


def _sad_over(prediction, truth) -> Over:
    error = np.abs(prediction - truth)
    return lambda part: float(_taken(error, part).sum() / 1000)


def mad(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean absolute difference, mean |p − g|; alpha units."""
    return _figure(_mad_over, prediction, truth, where)


def _mad_over(prediction, truth) -> Over:
    error = np.abs(prediction - truth)
    return lambda part: float(_taken(error, part).mean())


def mse(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean squared error, mean (p − g)²; alpha units squared (often printed times 1000)."""
    return _figure(_mse_over, prediction, truth, where)


def _mse_over(prediction, truth) -> Over:
    squared = np.square(prediction - truth)
    return lambda part: float(_taken(squared, part).mean())


def grad(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Gradient error, Σ(|∇p| − |∇g|)² / 1000 (Rhemann et al., A perceptually motivated benchmark, CVPR 2009).

    ∇ is the convolution with first Gaussian derivatives of σ = 1.4 pixels, each 9×9 kernel divided by its
    own L2 norm, the border replicated. Unlike in the authors' code, the mattes are not stretched to [0, 1] first.
    """
    return _figure(_grad_over, prediction, truth, where)


def _grad_over(prediction, truth) -> Over:
    squared = np.square(_gradient_magnitude(prediction) - _gradient_magnitude(truth))
    return lambda part: float(_taken(squared, part).sum() / 1000)


def conn(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Connectivity error, Σ|φ(p) − φ(g)| / 1000 (Rhemann et al., CVPR 2009).

    For each threshold t = 0, 0.1 … 1 the source region is the largest 4-connected region in which both
    mattes are at least t (of several largest the first in reading order). l is the threshold before the
    first one whose region lacks the pixel, 1 if none lacks it, and

        φ(α) = 1 − d·[d ≥ 0.15],   d = α − l.

    A pixel that has once lost its connection does not get it back, even where the region of a higher threshold
    holds it again.
    """
    return _figure(_conn_over, prediction, truth, where)


def _conn_over(prediction, truth) -> Over:
    level, connected = np.ones(truth.shape), np.ones(truth.shape, bool)  # at 0 the region is the whole picture
    for before, threshold in zip(THRESHOLDS, THRESHOLDS[1:], strict=False):
        region = _largest_region((prediction >= threshold) & (truth >= threshold))
        level[connected & ~region] = before
        connected &= region
    difference = np.abs(_connectedness(prediction - level) - _connectedness(truth - level))
    return lambda part: float(_taken(difference, part).sum() / 1000)


def iou(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Intersection over union of {α ≥ 0.5}, in [0, 1]; 1 where both are empty."""
    return _figure(_iou_over, prediction, truth, where)


def _iou_over(prediction, truth) -> Over:
    inside, wanted = prediction >= 0.5, truth >= 0.5

    def over(part):
        union = _taken(inside | wanted, part).sum()
        return float(_taken(inside & wanted, part).sum() / union) if union else 1.0

    return over


def boundary_f(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Boundary F of {α ≥ 0.5}, 2PR / (P + R), in [0, 1] (Martin et al., PAMI 2004).

    P is the share of the prediction's boundary pixels that lie within ⌈0.008 · diagonal⌉ pixels of the
    truth's boundary (the tolerance of Perazzi et al., CVPR 2016), R the same with the roles exchanged.
    Boundary pixels are those inside with a 4-neighbour outside; the picture's edge is no boundary. Where
    one of the two has no boundary, 1 if they are equal, else 0. With `where` only the boundary pixels inside it are
    counted; the other boundary is that of the whole picture.
    """
    return _figure(_boundary_f_over, prediction, truth, where)


def _boundary_f_over(prediction, truth) -> Over:
    inside, wanted = prediction >= 0.5, truth >= 0.5
    edge, wanted_edge = _boundary(inside), _boundary(wanted)
    equal = inside == wanted
    if edge.any() and wanted_edge.any():
        tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
        correct, found = edge & _within(wanted_edge, tolerance), wanted_edge & _within(edge, tolerance)

    def over(part):
        counted, wanted_counted = _taken(edge, part).sum(), _taken(wanted_edge, part).sum()
        if not counted or not wanted_counted:
            return float(_taken(equal, part).all())
        precision = _taken(correct, part).sum() / counted
        recall = _taken(found, part).sum() / wanted_counted
        return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0

    return over


_MEASURES = {
    "sad": _sad_over,
    "mad": _mad_over,
    "mse": _mse_over,
    "grad": _grad_over,
    "conn": _conn_over,
    "iou": _iou_over,
    "boundary_f": _boundary_f_over,
}
MATTE_FIGURES = tuple(_MEASURES)


def metrics_of_parts(
    prediction: np.ndarray,
    truth: np.ndarray,
    parts: Sequence[np.ndarray | None],
    figures: Sequence[str] = MATTE_FIGURES,
) -> list[dict[str, float]]:
    """All figures that compare two mattes, by name, over each of several parts of a picture.

    Several parts take hardly more time than one.

    Args:
        parts: masks like `where` of the single figures, None for the whole picture.
        figures: which of MATTE_FIGURES.

    Raises:
        ValueError: as the single figures.
    """
    prediction, truth = checked_pair(prediction, truth)
    chosen = [_part(where, truth) for where in parts]
    measures = {name: _MEASURES[name](prediction, truth) for name in figures}
    return [{name: over(part) for name, over in measures.items()} for part in chosen]


# --------------------------------------------------------------------------------------------------- bands


def trimap_band(trimap: np.ndarray) -> np.ndarray:
    """A trimap [H, W] -> its unknown band, bool [H, W]: everything but the lowest and the highest value.

    `trimap` is float in [0, 1], or of an unsigned integer type whose greatest value means foreground; any
    value between is unknown (files hold 127, 128 or others). Raises ValueError for any other array.
    """
    if trimap.ndim != 2 or not (trimap.dtype.kind == "f" or trimap.dtype in (np.uint8, np.uint16)):
        raise ValueError(f"a trimap must be float, uint8 or uint16 [H, W], got {trimap.dtype} {trimap.shape}")
    top = 1 if trimap.dtype.kind == "f" else np.iinfo(trimap.dtype).max
    if not (trimap.min() >= 0 and trimap.max() <= top):
        raise ValueError(f"trimap has values outside [0, 1] or not a number: {trimap.min()} to {trimap.max()}")
    return (trimap > 0) & (trimap < top)


def matte_bands(truth: np.ndarray, radius: float = BAND_RADIUS) -> dict[str, np.ndarray]:
    """A true matte [H, W] -> `transition`, `foreground` and `background`, bool [H, W] each.

    The transition is every pixel at most `radius` pixels (Euclidean) from one with 0 < α < 1; of the rest
    α = 1 is foreground and α = 0 background. The three cover the picture without overlap, and each may be
    empty: a hard mask has no transition.
    """
    truth, _ = checked_pair(truth, truth)
    soft = (truth > 0) & (truth < 1)
    transition = _within(soft, radius) if soft.any() else soft
    return {
        "transition": transition,
        "foreground": ~transition & (truth == 1),
        "background": ~transition & (truth == 0),
    }


# -------------------------------------------------------------------------------------------- uncertainty


def sparsification(error: np.ndarray, uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean error as the most uncertain pixels are removed (Ilg et al., ECCV 2018).

    `error`: |p − g|, `uncertainty`: of the same shape, n values each. Returns (curve, oracle), float64 [n]: entry k is
    the mean error of the n − k pixels that remain, in alpha units; the oracle removes pixels by the error itself.
    Pixels of equal uncertainty are removed in random order, and the curve is the expectation over all orders.
    """
    error, uncertainty = np.ravel(error).astype(np.float64), np.ravel(uncertainty)
    assert error.shape == uncertainty.shape, (error.shape, uncertainty.shape)
    order, group, size = _in_order(uncertainty)
    group_mean = np.bincount(group, error[order]) / size
    return _mean_of_the_rest(group_mean[group]), _mean_of_the_rest(np.sort(error))


def ause(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Area between the sparsification curve and its oracle, over the share removed in [0, 1); alpha units.

    0 for an uncertainty that orders pixels as their errors do. Not normalised by the error of the whole picture.
    """
    curve, oracle = sparsification(error, uncertainty)
    return float((curve - oracle).mean())


def spearman(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Spearman's rank correlation of uncertainty and |error| over pixels, in [−1, 1].

    NaN where either is constant.
    """
    error, uncertainty = np.ravel(error), np.ravel(uncertainty)
    if np.ptp(error) == 0 or np.ptp(uncertainty) == 0:
        return math.nan
    first, second = (ranks - (error.size + 1) / 2 for ranks in (_ranks(error), _ranks(uncertainty)))
    # Plain sums: a matrix product's last bits depend on how many threads the linear algebra has.
    return float((first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum()))


def calibration_shares(error: np.ndarray, uncertainty: np.ndarray) -> tuple[float, float, float]:
    """Shares of pixels whose |error| is at most 1, 2 and 3 standard deviations.

    For normally distributed errors with these deviations they would be .683, .954 and .997.
    """
    return tuple(float((error <= count * uncertainty).mean()) for count in (1, 2, 3))


def calibration_scale(squared_error: float, variance: float) -> float:
    """The factor s that brings standard deviations to the size of the errors: s² = mean error² / mean variance.

    Both means run over all pixels of the set that s is fitted on. (A quantile of |error| / deviation would be decided
    by the many pixels where both are almost 0.) Raises ValueError where every variance is 0.
    """
    if not variance > 0:
        raise ValueError("the uncertainty is 0 everywhere, so no scale can fit it; use more samples or steps")
    return math.sqrt(squared_error / variance)


# ----------------------------------------------------------------------------------------------- intervals


def _mean_over_pictures(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0)


def confidence_interval(
    values: np.ndarray,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
    statistic: Callable[[np.ndarray], np.ndarray] = _mean_over_pictures,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over pictures (Efron, Bootstrap methods, Annals of Statistics 1979).

    Args:
        values: [n, ...], one figure or an array of figures for each picture; the columns share their draws.
        statistic: maps such an array, resampled with replacement along its first axis, to what is reported (default:
            the mean over pictures; for mIoU, confusion matrices and `lambda drawn: mean_iou(drawn.sum(axis=0))`).

    Returns:
        (low, high), the (1 ∓ level) / 2 quantiles over `resamples` draws, of the statistic's shape.

    Raises:
        ValueError: no pictures, values that are not finite, or a level outside (0, 1).
    """
    values = np.asarray(values)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("a confidence interval needs at least one picture and finite figures; leave the others out")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}; 0.95 is usual")
    count = len(values)
    drawn = np.stack([statistic(values[generator.integers(count, size=count)]) for _ in range(resamples)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def paired_comparison(
    first: np.ndarray,
    second: np.ndarray,
    generator: np.random.Generator,
    lower_is_better: bool,
    level: float = 0.95,
    resamples: int = 10_000,
) -> dict[str, float]:
    """Compares the figures [n] of two methods on the same n pictures.

    Returns:
        `difference` (mean of first − second), `low` and `high` (its percentile bootstrap interval; each draw takes
        both figures of a picture), `won` and `tied` (the shares of pictures on which the first is better, or equal).

    Raises:
        ValueError: as `confidence_interval`, and for different lengths.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"two methods are compared on the same pictures, got {first.shape} and {second.shape} figures")
    difference = first - second
    low, high = confidence_interval(difference, generator, level, resamples)
    won = difference < 0 if lower_is_better else difference > 0
    return {
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "won": float(won.mean()),
        "tied": float((difference == 0).mean()),
    }


# -------------------------------------------------------------------------------------------------- parts


def checked_pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks two mattes and returns them as float64."""
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"mattes must be [H, W] of one size, got {prediction.shape} and {truth.shape}")
    for name, alpha in (("prediction", prediction), ("truth", truth)):
        low, high = alpha.min(), alpha.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} has values outside [0, 1] or not a number: {low} to {high}")
    return prediction.astype(np.float64), truth.astype(np.float64)


def _figure(over: Callable[[np.ndarray, np.ndarray], Over], prediction, truth, where) -> float:
    prediction, truth = checked_pair(prediction, truth)
    part = _part(where, truth)
    return over(prediction, truth)(part)


def _part(where: np.ndarray | None, truth: np.ndarray) -> np.ndarray | None:
    """Flat indices of the pixels `where` selects, or None for all."""
    if where is None:
        return None
    if where.shape != truth.shape or where.dtype != bool:
        raise ValueError(f"where must be bool {truth.shape} like the mattes, got {where.dtype} {where.shape}")
    if not where.any():
        raise ValueError("where holds no pixel, so there is no figure; leave this band out for this picture")
    return np.flatnonzero(where)


def _taken(values: np.ndarray, part: np.ndarray | None) -> np.ndarray:
    """Values [H, W] -> those of a part, [n]."""
    return values.ravel() if part is None else values.ravel()[part]


def _boundary(inside: np.ndarray) -> np.ndarray:
    """bool [H, W] -> the pixels inside that have a 4-neighbour outside; beyond the picture counts as inside."""
    surrounded = inside.copy()
    surrounded[1:] &= inside[:-1]
    surrounded[:-1] &= inside[1:]
    surrounded[:, 1:] &= inside[:, :-1]
    surrounded[:, :-1] &= inside[:, 1:]
    return inside & ~surrounded


def _within(mask: np.ndarray, radius: float) -> np.ndarray:
    """bool [H, W] with a True pixel -> which pixels have one at most `radius` pixels (Euclidean) away."""
    import cv2  # exact as scipy's, and four times as fast

    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; a limit halfway between two of them does not depend on the last bits of
    # OpenCV's square root, which change with its number of threads.
    return distance <= math.sqrt(math.floor(radius**2) + 0.5)


def _gradient_magnitude(alpha: np.ndarray) -> np.ndarray:
    """|∇α| as `grad` defines it, [H, W] -> [H, W]."""
    import cv2

    sigma = GRADIENT_SIGMA
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))  # 4
    x = np.arange(-half, half + 1)
    smooth = np.exp(-(x**2) / (2 * sigma**2))
    slope = -x * smooth
    # The kernel is the outer product of the two: dividing each by its L2 norm divides the kernel by its own.
    smooth, slope = smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)
    # Correlation for convolution: the kernels are symmetric but for the sign of the slope, which |∇| drops.
    along_x = cv2.sepFilter2D(alpha, cv2.CV_64F, slope, smooth, borderType=cv2.BORDER_REPLICATE)
    along_y = cv2.sepFilter2D(alpha, cv2.CV_64F, smooth, slope, borderType=cv2.BORDER_REPLICATE)
    return np.sqrt(along_x**2 + along_y**2)


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


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorts n values that are not negative; ties keep their order.

    Returns:
        The indices that sort them; for each value in that order the number of its group of ties, from 0; the size of
        each group.
    """
    if values.dtype == np.float32:  # bits of the value above its index: sorts twice as fast as argsort
        key = (values + np.float32(0)).view(np.uint32).astype(np.uint64) << np.uint64(32)  # -0 + 0 = 0
        key |= np.arange(len(values), dtype=np.uint64)
        key.sort()
        order, ordered = (key & np.uint64(2**32 - 1)).astype(np.intp), key >> np.uint64(32)
    else:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
    group = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
    return order, group, np.bincount(group)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 … n of n values, equal ones sharing the mean of theirs (scipy.stats takes seconds to import)."""
    order, group, size = _in_order(values)
    ranks = np.empty(len(values))
    ranks[order] = (np.cumsum(size) - (size - 1) / 2)[group]
    return ranks


def _mean_of_the_rest(sorted_error: np.ndarray) -> np.ndarray:
    """Errors [n], the last removed first -> mean of the first n − k for k = 0 … n − 1, [n]."""
    count = np.arange(1, len(sorted_error) + 1)
    return (np.cumsum(sorted_error) / count)[::-1]
