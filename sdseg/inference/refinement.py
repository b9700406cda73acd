"""A matte drawn at a small working resolution, made to follow the edges of the photo itself.

Where the matte is decided and its samples agree, it is believed; every other pixel is asked of closed-form matting
(Levin, Lischinski, Weiss, A closed-form solution to natural image matting, PAMI 2008), which knows only the photo's
colours. A large photo is solved at a reduced size, and the local linear models that led to the solution are applied to
its own pixels (He, Sun, Fast guided filter, 2015). numpy, scipy and OpenCV alone: pymatting, which solves the same
equations, compiles for most of a minute when it is first imported.
"""

import math
from typing import NamedTuple

import numpy as np

from sdseg.errors import UserError

BACKGROUND, FOREGROUND = 0.1, 0.9  # alpha up to, and from which on, a pixel is decided
AGREEMENT = 0.15  # standard deviation of the samples, in alpha units, up to which they agree
SOLVED_PIXELS = 2**19  # of the picture that is solved; a larger one is reduced to it
EPSILON = 1e-7  # regularises the colours of a window, in units of their square, [0, 1]
TOLERANCE = 1e-4  # of the residual, relative to the right-hand side
ITERATIONS = 2000  # of conjugate gradients, at most
GUIDE_RADIUS, GUIDE_EPSILON = 1, 1e-5  # of the windows and colours of the guided upsampling
WINDOWS_AT_ONCE = 2**14
ROWS_AT_ONCE = 256


class Refined(NamedTuple):
    """A matte, float32 [H, W] in [0, 1]; and why it is the one that was given, None if it is refined."""

    alpha: np.ndarray
    problem: str | None = None


def refine(
    image: np.ndarray,
    alpha: np.ndarray,
    uncertainty: np.ndarray | None = None,
    *,
    max_pixels: int = SOLVED_PIXELS,
) -> Refined:
    """Redraws the undecided part of a matte along the edges of its photo.

    Nothing in it is random, and no clock is read: the same arrays give the same matte.

    Args:
        image: uint8 [H, W, 3] sRGB, or [H, W] grey.
        alpha: float [H, W] in [0, 1], at the photo's size.
        uncertainty: float [H, W], standard deviation of the samples in alpha units; None: alpha alone decides.
        max_pixels: solve no more than these; a larger picture is reduced, and its own pixels guide the way back.

    Returns:
        The matte. Where it cannot be refined it is the given one, with the reason: no pixel is decided to be subject
        (an empty matte stays empty) or background, the picture is smaller than 3 x 3, or the equations are not solved.

    Raises:
        UserError: arrays of different sizes, or of other kinds.
    """
    check_arrays(image, alpha, uncertainty)
    import cv2

    given = alpha.astype(np.float32).clip(0, 1)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    height, width = given.shape
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))

    def reduced(array: np.ndarray) -> np.ndarray:
        return array if size == (height, width) else cv2.resize(array, size[::-1], interpolation=cv2.INTER_AREA)

    colours = reduced(image) / 255
    small = reduced(given).astype(np.float64).clip(0, 1)
    known, trimap = decided(small, None if uncertainty is None else reduced(uncertainty.astype(np.float32)))
    if min(size) < 3:
        return Refined(given, f"a picture of {width} x {height} pixels is too small")
    for value, name in ((1, "subject"), (0, "background")):
        if not (known & (trimap == value)).any():
            return Refined(given, f"no pixel is decided to be {name}")
    try:
        solved = closed_form(colours, trimap, known)
    except MemoryError:
        return Refined(given, "the memory does not suffice")
    if solved is None:
        return Refined(given, f"the equations are not solved after {ITERATIONS} iterations")
    if size != (height, width):
        solved = guided_upsampling(colours, solved, image)
    return Refined(solved.astype(np.float32).clip(0, 1))


def check_arrays(image: np.ndarray, alpha: np.ndarray, uncertainty: np.ndarray | None) -> None:
    """Raises UserError unless the arrays are as `refine` takes them."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise UserError(f"image is {image.dtype} {image.shape}; give uint8 [H, W, 3] or [H, W]")
    for name, array in (("alpha", alpha), ("uncertainty", uncertainty)):
        if array is None:
            continue
        if array.shape != image.shape[:2]:
            raise UserError(f"{name} is {array.shape}, but its image {image.shape[:2]}; make them the same size")
        if not np.isfinite(array).all():
            raise UserError(f"{name} has values that are no numbers; give finite ones")


def decided(alpha: np.ndarray, uncertainty: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """An automatic trimap: which pixels are known, bool [H, W], and their values, 0 or 1; alpha's own elsewhere.

    A matte that was resized bilinearly crosses [0.1, 0.9] within about one pixel of its own resolution, so the unknown
    band has that width at least.
    """
    known = (alpha <= BACKGROUND) | (alpha >= FOREGROUND)
    if uncertainty is not None:
        known &= uncertainty <= AGREEMENT
    return known, np.where(known, alpha.round(), alpha)


def closed_form(
    image: np.ndarray, alpha: np.ndarray, known: np.ndarray, tolerance: float = TOLERANCE
) -> np.ndarray | None:
    """Closed-form matting: alpha is, in every 3 x 3 window, as nearly as it can be linear in colour.

    With L the matting Laplacian, U the unknown pixels and K the known ones, it solves L_UU x = -L_UK alpha_K by
    conjugate gradients with Jacobi's preconditioner, starting from alpha.

    Args:
        image: float64 [H, W, 3] in [0, 1].
        alpha: float64 [H, W], the values of the known pixels and the start of the others.
        known: bool [H, W]

    Returns:
        float64 [H, W] in [0, 1]; None where ITERATIONS do not suffice.
    """
    from scipy.sparse import csr_matrix, diags
    from scipy.sparse.linalg import cg

    if known.all():
        return alpha
    values, columns = laplacian_rows(image, ~known)  # [U, 25] each
    number = np.full(alpha.size, -1, np.int32)
    number[np.flatnonzero(~known)] = np.arange(len(values), dtype=np.int32)
    unknown_column = number[columns]
    flat = alpha.ravel()
    right = -np.where(unknown_column < 0, values * flat[columns], 0).sum(axis=1)
    entries = np.where(unknown_column < 0, 0, values)
    starts = np.arange(0, entries.size + 1, entries.shape[1], dtype=np.int32)
    matrix = csr_matrix((entries.ravel(), unknown_column.clip(0).ravel(), starts), (len(values), len(values)))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    start = flat[~known.ravel()]
    solution, failed = cg(
        matrix, right, x0=start, rtol=tolerance, maxiter=ITERATIONS, M=diags(1 / matrix.diagonal())
    )
    if failed or not np.isfinite(solution).all():
        return None
    result = flat.copy()
    result[~known.ravel()] = solution.clip(0, 1)
    return result.reshape(alpha.shape)


def laplacian_rows(
    image: np.ndarray, wanted: np.ndarray, epsilon: float = EPSILON
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the matting Laplacian (Levin et al. 2008, eq. 12), those of the wanted pixels, [n, 25] each.

        L_ij = sum over the 3 x 3 windows k that hold i and j of
               d_ij - 1/9 (1 + (I_i - m_k)^T (S_k + e/9)^-1 (I_j - m_k))

    with m_k and S_k the mean and covariance of the window's colours.

    Returns:
        values float64, and columns int32: flat indices of pixels. Where the 5 x 5 surroundings reach over the picture's
        edge, the value is 0 and the column some pixel.
    """
    height, width = wanted.shape
    row = np.full(wanted.size, -1)
    pixels = np.flatnonzero(wanted)
    row[pixels] = np.arange(len(pixels))
    centres = np.zeros_like(wanted)
    for dy in range(3):
        for dx in range(3):  # every window that holds a wanted pixel
            centres[1:-1, 1:-1] |= wanted[dy : height - 2 + dy, dx : width - 2 + dx]
    centres = np.flatnonzero(centres)
    offsets = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    flat = image.reshape(-1, 3)
    values = np.zeros((len(pixels), 25))
    for start in range(0, len(centres), WINDOWS_AT_ONCE):
        window = centres[start : start + WINDOWS_AT_ONCE, None] + offsets  # [N, 9]
        colours = flat[window]  # [N, 9, 3]
        colours -= colours.mean(axis=1, keepdims=True)
        covariance = colours.transpose(0, 2, 1) @ colours / 9 + epsilon / 9 * np.eye(3)
        entries = np.eye(9) - (1 + colours @ np.linalg.inv(covariance) @ colours.transpose(0, 2, 1)) / 9
        for a in range(9):
            own = row[window[:, a]]
            inside = own >= 0
            own = own[inside]
            for b in range(9):
                slot = 5 * (b // 3 - a // 3 + 2) + b % 3 - a % 3 + 2
                values[own, slot] += entries[inside, a, b]
    reach = np.array([dy * width + dx for dy in range(-2, 3) for dx in range(-2, 3)])
    return values, (pixels[:, None] + reach).clip(0, wanted.size - 1).astype(np.int32)


def linear_models(image: np.ndarray, alpha: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Local models alpha ~ a . colour + b of the guided filter (He, Sun, Tang, PAMI 2013), [H, W, 4]: a, then b.

    Least squares with epsilon |a|^2 in windows of 2 radius + 1 pixels, each pixel's the mean over its windows.

    Args:
        image: float [H, W, 3] in [0, 1].
        alpha: float [H, W].
    """
    import cv2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT_101)

    image, alpha = image.astype(np.float64), alpha.astype(np.float64)
    mean_image, mean_alpha = mean(image), mean(alpha)
    covariance = mean(image * alpha[..., None]) - mean_image * mean_alpha[..., None]
    products = [mean(image * image[..., channel, None]) for channel in range(3)]
    spread = np.stack(products, axis=-1) - mean_image[..., None] * mean_image[..., None, :]
    a = np.linalg.solve(spread + epsilon * np.eye(3), covariance[..., None])[..., 0]
    b = mean_alpha - (a * mean_image).sum(axis=-1)
    return np.dstack([mean(a), mean(b)])


def guided_upsampling(
    reduced: np.ndarray,
    alpha: np.ndarray,
    image: np.ndarray,
    radius: int = GUIDE_RADIUS,
    epsilon: float = GUIDE_EPSILON,
) -> np.ndarray:
    """A matte of a reduced picture for the picture itself: its linear models, resized bilinearly, on the colours.

    Args:
        reduced: float [h, w, 3] in [0, 1].
        alpha: float [h, w].
        image: uint8 [H, W, 3].

    Returns:
        float32 [H, W] in [0, 1]. Worked out in strips: at 24 megapixels the models alone would take 400 MB.
    """
    import cv2

    models = linear_models(reduced, alpha, radius, epsilon).astype(np.float32)
    (height, width), rows = image.shape[:2], len(models)
    result = np.empty((height, width), np.float32)
    for start in range(0, height, ROWS_AT_ONCE):
        strip = image[start : start + ROWS_AT_ONCE]
        y = ((np.arange(start, start + len(strip)) + 0.5) * rows / height - 0.5).clip(0, rows - 1)
        above = y.astype(int)
        share = (y - above).astype(np.float32)[:, None, None]
        taken = models[above] * (1 - share) + models[(above + 1).clip(max=rows - 1)] * share
        taken = cv2.resize(taken, (width, len(strip)), interpolation=cv2.INTER_LINEAR)
        colours = strip.astype(np.float32) / 255
        result[start : start + len(strip)] = (taken[..., :3] * colours).sum(axis=-1) + taken[..., 3]
    return result.clip(0, 1)
