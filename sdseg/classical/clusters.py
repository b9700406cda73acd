"""Clusters of colours: uint8 [H, W, 3] sRGB -> matte float32 [H, W] of 0 and 1.

`sdseg.classical.subject` decides which cluster is the subject.
"""

import numpy as np

from sdseg.classical.subject import subject_matte
from sdseg.classical.thresholds import luminance, otsu_classes

KMEANS_CLUSTERS = 2
KMEANS_STARTS = 4
KMEANS_PIXELS = 20_000  # at most; the centres are fitted to a sample drawn with seed 0
KMEANS_POSITION = 20.0  # length of the longer side, in units of Lab
MEAN_SHIFT_SPACE = 10  # pixels
MEAN_SHIFT_COLOUR = 30  # levels of uint8


def lab_and_position(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float64 [H * W, 5]: CIE L*a*b* (D65), then x and y, the longer side 20 long."""
    from skimage.color import rgb2lab

    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] * (KMEANS_POSITION / max(height, width))
    return np.dstack([rgb2lab(image), x, y]).reshape(-1, 5)


def kmeans(image: np.ndarray) -> np.ndarray:
    """k-means (Lloyd, 1982; seeded as k-means++) of the pixels into two clusters of Lab colour and position."""
    from sklearn.cluster import KMeans

    if (image == image[0, 0]).all():
        return np.zeros(image.shape[:2], np.float32)  # otherwise position alone would divide it
    features = lab_and_position(image)
    fitted = features
    if len(features) > KMEANS_PIXELS:
        fitted = features[np.random.default_rng(0).choice(len(features), KMEANS_PIXELS, replace=False)]
    model = KMeans(KMEANS_CLUSTERS, n_init=KMEANS_STARTS, random_state=0).fit(fitted)
    return subject_matte(model.predict(features).reshape(image.shape[:2]).astype(np.intp))


def mean_shift(image: np.ndarray) -> np.ndarray:
    """Every pixel shifted to its mode of colour and position (Comaniciu, Meer, 2002); Otsu's threshold on that.

    At full size only: OpenCV's pyramid is twice as fast, but leaves a halo around bright subjects.
    """
    import cv2

    filtered = cv2.pyrMeanShiftFiltering(np.ascontiguousarray(image), MEAN_SHIFT_SPACE, MEAN_SHIFT_COLOUR, maxLevel=0)
    return subject_matte(otsu_classes(luminance(filtered)))
