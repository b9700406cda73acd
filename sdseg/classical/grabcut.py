"""GrabCut from a rectangle: the centre of the picture, or a given box."""

import numpy as np

from sdseg.errors import UserError

GRABCUT_MARGIN = 0.05  # of the side, at each end
GRABCUT_ITERATIONS = 5


def grabcut(image: np.ndarray, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """GrabCut (Rother, Kolmogorov, Blake, 2004): graph cut with colour models, five iterations.

    OpenCV's random generator is seeded first, so the result is deterministic. Where OpenCV finds too few pixels for
    its two colour models, the matte is empty.

    Args:
        image: uint8 [H, W, 3] sRGB.
        box: x0, y0, x1, y1 in whole pixels, x1 and y1 exclusive; everything outside is certain background. None takes
            a rectangle 5 % inside each side (at least one pixel).

    Returns:
        A matte float32 [H, W] of 0 and 1.

    Raises:
        UserError: the box is empty, reaches outside the picture or covers all of it.
    """
    import cv2

    height, width = image.shape[:2]
    if box is None:
        left, top = (max(1, round(GRABCUT_MARGIN * side)) for side in (width, height))
        rectangle = (left, top, width - 2 * left, height - 2 * top)
        if min(rectangle[2:]) < 1:
            return np.zeros((height, width), np.float32)
    else:
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(f"box {x0} {y0} {x1} {y1}: not within the picture of {width} x {height} pixels; correct it")
        if (x1 - x0, y1 - y0) == (width, height):
            raise UserError(f"box {x0} {y0} {x1} {y1}: covers the whole picture and leaves no background; narrow it")
        rectangle = (x0, y0, x1 - x0, y1 - y0)
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
