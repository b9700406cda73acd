"""Segmentation methods that need no training: photo in, binary matte out.

Each takes uint8 [H, W, 3] sRGB and returns a matte float32 [H, W] of 0 and 1. The algorithms are the
libraries' own; what is ours is the way they are set up when all that is known is the photo.
"""

from collections.abc import Callable

import numpy as np

GRABCUT_MARGIN = 0.05  # of the side, at each end
GRABCUT_ITERATIONS = 5


def otsu(image: np.ndarray) -> np.ndarray:
    """Global threshold on luminance that maximises the variance between its two classes (Otsu, 1979).

    Which class is the subject a threshold cannot tell. We take the one that holds the smaller part of the
    picture's outermost pixels (at a tie the brighter one): subjects lie within the picture, and calling
    always the bright or always the dark side the subject would make the baseline weaker than it is. A
    picture of one grey has no subject.
    """
    from skimage.color import rgb2gray
    from skimage.filters import threshold_otsu

    grey = rgb2gray(image)  # [H, W] in [0, 1]
    if np.ptp(grey) == 0:
        return np.zeros(grey.shape, np.float32)
    bright = grey > threshold_otsu(grey)
    subject = ~bright if _share_of_border(bright) > 0.5 else bright
    return subject.astype(np.float32)


def grabcut(image: np.ndarray) -> np.ndarray:
    """GrabCut (Rother, Kolmogorov, Blake, 2004): graph cut with colour models, five iterations.

    The subject is taken to lie in a rectangle 5 % inside each side (at least one pixel); what is outside is
    background for certain. OpenCV's random generator is seeded first, so a photo has one result. Where
    OpenCV finds too little to build its two colour models of, the matte is empty.
    """
    import cv2

    height, width = image.shape[:2]
    left, top = (max(1, round(GRABCUT_MARGIN * side)) for side in (width, height))
    rectangle = (left, top, width - 2 * left, height - 2 * top)
    if min(rectangle[2:]) < 1:
        return np.zeros((height, width), np.float32)
    mask = np.zeros((height, width), np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))  # parameters of the two colour models
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(
            np.ascontiguousarray(image[..., ::-1]),  # OpenCV's channel order
            mask,
            rectangle,
            background,
            foreground,
            GRABCUT_ITERATIONS,
            cv2.GC_INIT_WITH_RECT,
        )
    except cv2.error:  # a model without pixels
        return np.zeros((height, width), np.float32)
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


def _share_of_border(mask: np.ndarray) -> float:
    """Share of the picture's outermost pixels that lie in the mask."""
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    return float(mask[border].mean())


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"otsu": otsu, "grabcut": grabcut}
SETTINGS = {
    "otsu": {"subject": "the class that holds the smaller part of the outermost pixels"},
    "grabcut": {"margin": GRABCUT_MARGIN, "iterations": GRABCUT_ITERATIONS, "seed": 0},
}
