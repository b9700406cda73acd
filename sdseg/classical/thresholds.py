"""Thresholds on luminance: uint8 [H, W, 3] sRGB -> matte float32 [H, W] of 0 and 1.

`sdseg.classical.subject` decides which side is the subject.
"""

import numpy as np

from sdseg.classical.subject import subject_matte

MULTI_OTSU_CLASSES = 3
ADAPTIVE_BLOCK = 0.25  # of the shorter side


def luminance(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] sRGB -> float64 [H, W] in [0, 1], Rec. 709 weights on the encoded values."""
    from skimage.color import rgb2gray

    return rgb2gray(image)


def grey_levels(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] sRGB -> luminance in whole levels, uint8 [H, W]."""
    return np.rint(luminance(image) * 255).astype(np.uint8)


def otsu_classes(grey: np.ndarray) -> np.ndarray:
    """Otsu's two classes of a picture [H, W]: 1 above the threshold, else 0; a uniform picture has one class."""
    from skimage.filters import threshold_otsu

    if np.ptp(grey) == 0:
        return np.zeros(grey.shape, np.intp)
    return (grey > threshold_otsu(grey)).astype(np.intp)


def otsu(image: np.ndarray) -> np.ndarray:
    """Threshold that maximises the variance between its two classes (Otsu, 1979)."""
    return subject_matte(otsu_classes(luminance(image)))


def multi_otsu(image: np.ndarray) -> np.ndarray:
    """Two thresholds, three classes of largest variance between them (Liao, Chen, Chung, 2001).

    A picture with fewer than three grey levels is divided by its levels.
    """
    from skimage.filters import threshold_multiotsu

    levels = grey_levels(image)
    distinct = np.unique(levels)
    if len(distinct) <= MULTI_OTSU_CLASSES:
        thresholds = distinct[:-1]
    else:
        thresholds = threshold_multiotsu(levels, MULTI_OTSU_CLASSES)
    return subject_matte(np.digitize(levels, thresholds, right=True))


def maximum_entropy_threshold(histogram: np.ndarray) -> int:
    """Counts [L] -> the level t that maximises H(levels <= t) + H(levels > t), each side normalised to 1.

    H(p) = -sum p log p (Kapur, Sahoo, Wong, 1985). Ties take the lowest t; a histogram of one level returns that level.
    With S = sum of n log n over a side of N pixels, H = log N - S / N.
    """
    count = histogram.astype(np.float64)
    weighted = count * np.log(np.maximum(count, 1))
    below, above = np.cumsum(count), count.sum() - np.cumsum(count)
    split = np.flatnonzero((below > 0) & (above > 0))
    if not len(split):
        return int(count.argmax())
    below, above = below[split], above[split]
    s_below = np.cumsum(weighted)[split]
    entropy = np.log(below) - s_below / below + np.log(above) - (weighted.sum() - s_below) / above
    return int(split[entropy.argmax()])


def maximum_entropy(image: np.ndarray) -> np.ndarray:
    """Threshold of largest summed entropy; see `maximum_entropy_threshold`."""
    levels = grey_levels(image)
    threshold = maximum_entropy_threshold(np.bincount(levels.ravel(), minlength=256))
    return subject_matte((levels > threshold).astype(np.intp))


def balanced_histogram_threshold(histogram: np.ndarray) -> int:
    """Counts [L] -> the level t that balances the histogram.

    The counts left and right of the middle of the occupied range are compared; the outermost level of the heavier side
    (at a tie the left) is removed and the middle moves, until the two ends meet (Anjos, Shahbazkia, 2008).
    """
    up_to = np.concatenate([[0], np.cumsum(histogram)])  # up_to[k]: pixels of levels below k
    start, end = (int(level) for level in np.flatnonzero(histogram)[[0, -1]])
    while start < end:
        middle = (start + end) // 2
        left, right = up_to[middle + 1] - up_to[start], up_to[end + 1] - up_to[middle + 1]
        if right > left:
            end -= 1
        else:
            start += 1
    return start


def balanced_histogram(image: np.ndarray) -> np.ndarray:
    """Threshold that balances the histogram; see `balanced_histogram_threshold`."""
    levels = grey_levels(image)
    threshold = balanced_histogram_threshold(np.bincount(levels.ravel(), minlength=256))
    return subject_matte((levels > threshold).astype(np.intp))


def adaptive(image: np.ndarray) -> np.ndarray:
    """Compares each pixel with the Gaussian mean of a block around it, a quarter of the shorter side wide."""
    from skimage.filters import threshold_local

    grey = luminance(image)
    block = 2 * round(ADAPTIVE_BLOCK * min(grey.shape) / 2) + 1  # must be odd
    if block < 3:
        return np.zeros(grey.shape, np.float32)
    above = grey - threshold_local(grey, block) > 1e-9  # the mean of equal greys is off by rounding
    return subject_matte(above.astype(np.intp))
