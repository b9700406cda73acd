"""Regions bounded by edges: uint8 [H, W, 3] sRGB -> matte float32 [H, W] of 0 and 1.

`sdseg.classical.subject` decides which regions are the subject.
"""

import numpy as np

from sdseg.classical.subject import subject_matte
from sdseg.classical.thresholds import luminance, otsu_classes

CANNY_SIGMA = 2.0  # pixels
CANNY_THRESHOLDS = (0.05, 0.1)  # hysteresis, of the full range of grey
CANNY_GAP = 2  # pixels: edges whose ends lie this close are joined
WATERSHED_SEEDS = 400


def canny(image: np.ndarray) -> np.ndarray:
    """The connected regions between closed Canny edges (Canny, 1986); edge pixels join the nearest region.

    The picture is padded first, so that edges reach its sides and close subjects that are cut off there.
    """
    from skimage.feature import canny as canny_edges
    from skimage.measure import label
    from skimage.morphology import closing, disk
    from skimage.segmentation import expand_labels

    margin = 2 * CANNY_GAP
    grey = np.pad(luminance(image), margin, mode="edge")
    edges = canny_edges(grey, CANNY_SIGMA, *CANNY_THRESHOLDS)
    edges = closing(edges, disk(CANNY_GAP))[margin:-margin, margin:-margin]
    regions = label(~edges, connectivity=1)
    if not regions.any():
        return np.zeros(edges.shape, np.float32)
    return subject_matte(expand_labels(regions, distance=sum(edges.shape)) - 1)


def sobel_watershed(image: np.ndarray) -> np.ndarray:
    """Watershed of the Sobel gradient from a grid of seeds; Otsu's threshold on the regions' mean luminance.

    One seed for each region (Meyer, 1994) keeps their number small, so that edges rather than single pixels form the
    outline.
    """
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    grey = luminance(image)
    regions = watershed(sobel(grey), markers=min(WATERSHED_SEEDS, grey.size))
    total = np.bincount(regions.ravel(), weights=grey.ravel())
    mean = total / np.maximum(np.bincount(regions.ravel()), 1)
    return subject_matte(otsu_classes(mean[regions]))
