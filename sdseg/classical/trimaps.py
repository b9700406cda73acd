"""Mattes from a trimap, by pymatting: image uint8 [H, W, 3] sRGB and trimap -> matte float32 [H, W] in [0, 1].

A trimap is float32 [H, W]: 0 certain background, 1 certain subject, any value between unknown. Known pixels keep
their value exactly. Every function raises UserError for a trimap that does not fit (see `check_trimap`), ValueError
where pymatting's solver does not converge, and MissingPackage without pymatting.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sdseg.errors import UserError, one_line, require
from sdseg.imaging import ImageError, read_alpha


def require_pymatting() -> None:
    """Raises MissingPackage unless pymatting is installed; does not import it (its first import compiles)."""
    require(("pymatting",), "matting", "a trimap method")


def check_trimap(trimap: np.ndarray, shape: tuple[int, int]) -> None:
    """Raises UserError unless a trimap is [H, W] like its picture and has pixels of all three kinds."""
    if trimap.shape != shape:
        (height, width), (h, w) = shape, trimap.shape
        raise UserError(f"is {w} x {h} pixels, but its picture {width} x {height}; make them the same size")
    kinds = {"background (0)": trimap == 0, "subject (255)": trimap == 1, "unknown (128)": (trimap > 0) & (trimap < 1)}
    for kind, pixels in kinds.items():
        if not pixels.any():
            raise UserError(f"has no {kind} pixels; a trimap needs background, subject and unknown ones")


def read_trimap(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads a trimap, a grey picture of 0, 128 and 255, for a picture of [H, W]; raises ImageError naming the file."""
    if not path.exists():
        raise ImageError(f"{path}: no such trimap; each picture needs one of its own name, as PNG")
    trimap = read_alpha(path)
    try:
        check_trimap(trimap, shape)
    except ValueError as error:
        raise ImageError(f"{path}: {one_line(error)}") from error
    return trimap


def closed_form(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Closed-form matting: colours lie on a line in every 3 x 3 window (Levin, Lischinski, Weiss, 2008)."""
    require_pymatting()
    from pymatting import estimate_alpha_cf

    return _estimate(estimate_alpha_cf, image, trimap)


def knn(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """KNN matting: alpha is alike where colour and position are (Chen, Li, Tang, 2013)."""
    require_pymatting()
    from pymatting import estimate_alpha_knn

    return _estimate(estimate_alpha_knn, image, trimap)


def learning_based(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Learning-based digital matting: a local linear model from colour to alpha (Zheng, Kambhamettu, 2009).

    In exactly uniform areas, as in drawings, its equations are nearly singular and the matte can be far off.
    """
    require_pymatting()
    from pymatting import estimate_alpha_lbdm

    return _estimate(estimate_alpha_lbdm, image, trimap)


def _estimate(
    estimator: Callable[[np.ndarray, np.ndarray], np.ndarray], image: np.ndarray, trimap: np.ndarray
) -> np.ndarray:
    check_trimap(trimap, image.shape[:2])
    known = (trimap == 0) | (trimap == 1)
    # pymatting takes values close to 0 and 1 as known, so every unknown pixel is passed as 0.5.
    alpha = estimator(image / 255.0, np.where(known, trimap, 0.5).astype(np.float64))
    # KNN and learning-based matting constrain known pixels only softly.
    return np.where(known, trimap, alpha).astype(np.float32)
