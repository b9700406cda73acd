"""All methods by the name used on the command line and in run.json, with their settings."""

from collections.abc import Callable
from functools import partial

import numpy as np

from sdseg.classical.clusters import (
    KMEANS_CLUSTERS,
    KMEANS_PIXELS,
    KMEANS_POSITION,
    KMEANS_STARTS,
    MEAN_SHIFT_COLOUR,
    MEAN_SHIFT_SPACE,
    kmeans,
    mean_shift,
)
from sdseg.classical.grabcut import GRABCUT_ITERATIONS, GRABCUT_MARGIN, grabcut
from sdseg.classical.regions import CANNY_GAP, CANNY_SIGMA, CANNY_THRESHOLDS, WATERSHED_SEEDS, canny, sobel_watershed
from sdseg.classical.subject import RULE
from sdseg.classical.thresholds import (
    ADAPTIVE_BLOCK,
    MULTI_OTSU_CLASSES,
    adaptive,
    balanced_histogram,
    maximum_entropy,
    multi_otsu,
    otsu,
)
from sdseg.classical.trimaps import closed_form, knn, learning_based


def constant(image: np.ndarray, value: float) -> np.ndarray:
    """The same alpha everywhere, float32 [H, W]: the baseline of the baselines."""
    return np.full(image.shape[:2], value, np.float32)


# Photo uint8 [H, W, 3] sRGB -> matte float32 [H, W] in [0, 1].
METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "otsu": otsu,
    "multi_otsu": multi_otsu,
    "maximum_entropy": maximum_entropy,
    "balanced_histogram": balanced_histogram,
    "adaptive": adaptive,
    "canny": canny,
    "sobel_watershed": sobel_watershed,
    "kmeans": kmeans,
    "mean_shift": mean_shift,
    "grabcut": grabcut,
    "constant_0": partial(constant, value=0.0),
    "constant_0.5": partial(constant, value=0.5),
    "constant_1": partial(constant, value=1.0),
}
# Photo and trimap float32 [H, W] (see `sdseg.classical.trimaps`) -> matte float32 [H, W] in [0, 1].
TRIMAP_METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "closed_form": closed_form,
    "knn": knn,
    "learning_based": learning_based,
}
SETTINGS = {
    "otsu": {"subject": RULE},
    "multi_otsu": {"classes": MULTI_OTSU_CLASSES, "subject": RULE},
    "maximum_entropy": {"subject": RULE},
    "balanced_histogram": {"subject": RULE},
    "adaptive": {"block": ADAPTIVE_BLOCK, "subject": RULE},
    "canny": {"sigma": CANNY_SIGMA, "thresholds": list(CANNY_THRESHOLDS), "gap": CANNY_GAP, "subject": RULE},
    "sobel_watershed": {"seeds": WATERSHED_SEEDS, "subject": RULE},
    "kmeans": {
        "clusters": KMEANS_CLUSTERS,
        "starts": KMEANS_STARTS,
        "pixels": KMEANS_PIXELS,
        "position": KMEANS_POSITION,
        "seed": 0,
        "subject": RULE,
    },
    "mean_shift": {"space": MEAN_SHIFT_SPACE, "colour": MEAN_SHIFT_COLOUR, "subject": RULE},
    "grabcut": {"margin": GRABCUT_MARGIN, "iterations": GRABCUT_ITERATIONS, "seed": 0},
    "constant_0": {"value": 0.0},
    "constant_0.5": {"value": 0.5},
    "constant_1": {"value": 1.0},
    "closed_form": {},
    "knn": {},
    "learning_based": {},
}
