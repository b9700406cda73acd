"""A matte drawn at the model's working resolution, made to follow the edges of the photo itself.

Where the matte is nearly 0 or 1 and its samples agree, it is believed. The rest is asked of closed-form matting (Levin,
Lischinski, Weiss, A closed-form solution to natural image matting, PAMI 2008), which knows only the photo's colours,
under one more condition: the mean over each of the model's own pixels should stay what the model drew there, the more
so the surer it was. So the model says how much, and the photo where. What the samples disagree about is settled on a
small picture first, where a colour's word reaches farther. A large photo is solved at a reduced size, and the local
linear models of that solution are applied to the photo's own pixels (He, Sun, Fast guided filter, 2015).

pymatting solves the same equations without that condition, but compiles for most of a minute when first imported; this
needs numpy, scipy and OpenCV alone.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sdseg.errors import UserError
from sdseg.imaging import ROWS_AT_ONCE
from sdseg.memory import give_back_memory

BACKGROUND, FOREGROUND = 0.1, 0.9  # alpha up to which, and from which on, a pixel is decided
AGREEMENT = 0.15  # standard deviation of the samples, in alpha units, up to which they agree
TRUST = 0.1  # weight of the drawn mean of one of the model's pixels, for each of the photo's pixels in it
TRUSTED_DEVIATION = 0.01  # standard deviation at which that weight is halved
FIRST_PIXELS = 2**14  # of the reduced picture that settles where the samples disagree
SOLVED_PIXELS = 2**20  # a larger picture is reduced to so many before it is solved
EPSILON = 1e-7  # of the Laplacian, in units of squared colours in [0, 1]
TOLERANCE = 1e-3  # of the residual, relative to the right-hand side
ITERATIONS = 2000  # of conjugate gradients, at most
GUIDE_RADIUS, GUIDE_EPSILON = 1, 1e-4  # windows and regularisation of the guided upsampling
WINDOWS_AT_ONCE = 2**12
UNKNOWN_AT_ONCE = 2**12


class Unsolved(ValueError):
    """A matte that cannot be refined; the message says why."""


class Refined(NamedTuple):
    """A matte float32 [H, W] in [0, 1]; and why it was only resized, None if it is refined."""

    alpha: np.ndarray
    problem: str | None = None


def refine(
    image: np.ndarray,
    alpha: np.ndarray,
    uncertainty: np.ndarray | None = None,
    *,
    max_pixels: int = SOLVED_PIXELS,
) -> Refined:
    """Redraws the undecided part of a matte along the edges of its photo, at the photo's size.

    Nothing is random and no clock is read: the same arrays give the same matte. `max_pixels` bounds time and
    memory, but for some ten bytes a pixel of the photo: at 24 megapixels 2 to 10 s and less than half a gigabyte.

    Args:
        image: uint8 [H, W, 3] sRGB, or [H, W] grey.
        alpha: float [h, w] in [0, 1], at the size at which the model drew it; resized before, it would be taken for
            a blurred one that should stay blurred.
        uncertainty: float [h, w], standard deviation of the samples in alpha units; None: alpha alone decides.
        max_pixels: solve no more than these.

    Returns:
        The matte. Where it cannot be refined it is the given one, resized bilinearly, with the reason: no pixel is
        decided to be subject (an empty matte stays empty) or background (a full one full), the picture is too small,
        the equations could not be solved.

    Raises:
        UserError: arrays of other kinds, or of sizes that do not fit.
    """
    check_arrays(image, alpha, uncertainty)
    alpha = alpha.astype(np.float32, copy=False)
    if alpha.min() < 0 or alpha.max() > 1:
        alpha = alpha.clip(0, 1)
    deviation = np.zeros_like(alpha) if uncertainty is None else uncertainty.astype(np.float32, copy=False)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    given, shape = alpha, image.shape[:2]
    doubtful = deviation > AGREEMENT
    try:
        if doubtful.any():
            first = solved(image, alpha, deviation, FIRST_PIXELS)[1]
            alpha = np.where(doubtful, resized(first, alpha.shape), alpha).astype(np.float32)
            deviation = np.where(doubtful, 0, deviation).astype(np.float32)
        reduced, matte = solved(image, alpha, deviation, max_pixels)
    except Unsolved as error:
        return only_resized(given, shape, str(error))
    except MemoryError:
        return only_resized(given, shape, "the memory does not suffice")
    give_back_memory()
    if matte.shape != shape:
        matte = guided_upsampling(reduced, matte, image)
    return Refined(matte.astype(np.float32, copy=False))


def only_resized(alpha: np.ndarray, shape: tuple[int, int], problem: str) -> Refined:
    return Refined(resized(alpha, shape).clip(0, 1), problem)  # OpenCV makes 1.0000002 of seven ones


def solved(
    image: np.ndarray, alpha: np.ndarray, deviation: np.ndarray, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The picture, reduced to `max_pixels` if it has more, float64 [H, W, 3] in [0, 1], and its matte [H, W].

    Raises:
        Unsolved: the matte decides on no subject or no background, the picture is too small, no convergence.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    if min(shape) < 3:
        raise Unsolved(f"the picture of {width} x {height} pixels is too small")
    # A matte that is finer than what is solved tells no more than one of that size.
    drawn_shape = tuple(map(min, alpha.shape, shape))
    drawn, deviation = resized(alpha, drawn_shape).astype(np.float64), resized(deviation, drawn_shape)
    start, known = trimap(resized(drawn, shape), resized(deviation, shape))
    for value, name in ((1, "subject"), (0, "background")):
        if not (start[known] == value).any():
            raise Unsolved(f"no pixel is decided to be {name}")
    if shape != (height, width):
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    reduced = image / 255
    trust = TRUST / (1 + np.square(deviation / TRUSTED_DEVIATION))
    matte = closed_form(reduced, start, known, drawn, trust)
    if matte is None:
        raise Unsolved(f"the equations were not solved after {ITERATIONS} iterations")
    return reduced, matte


def check_arrays(image: np.ndarray, alpha: np.ndarray, uncertainty: np.ndarray | None) -> None:
    """Raises UserError unless the arrays are as `refine` takes them."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise UserError(f"image is {image.dtype} {image.shape}; give uint8 [H, W, 3] or [H, W]")
    height, width = image.shape[:2]
    for name, array in (("alpha", alpha), ("uncertainty", uncertainty)):
        if array is None:
            continue
        if array.ndim != 2 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"{name} is {array.dtype} {array.shape}; give finite floats [h, w]")
        h, w = array.shape
        if abs(h * width / height - w) > 1 and abs(w * height / width - h) > 1:
            raise UserError(f"{name} is {w} x {h} pixels, but its image {width} x {height}, of another shape")
    if uncertainty is not None and uncertainty.shape != alpha.shape:
        raise UserError(f"uncertainty is {uncertainty.shape}, but alpha {alpha.shape}; give both at one size")


def resized(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] => [H, W]: bilinear where it grows, the mean of areas where it shrinks."""
    import cv2

    if array.shape == shape:
        return array
    shrinks = shape[0] * shape[1] < array.size
    return cv2.resize(array, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def trimap(alpha: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are known, bool [H, W], after their values: 0 or 1 where they are, alpha's elsewhere.

    A matte that was resized bilinearly crosses from 0.1 to 0.9 within about one of its own pixels, so the unknown band
    is at least as wide.
    """
    known = ((alpha <= BACKGROUND) | (alpha >= FOREGROUND)) & (deviation <= AGREEMENT)
    return np.where(known, alpha.round(), alpha), known


# ------------------------------------------------------------------------------------------- closed-form matting


def closed_form(
    image: np.ndarray,
    start: np.ndarray,
    known: np.ndarray,
    drawn: np.ndarray,
    trust: np.ndarray | float,
    tolerance: float = TOLERANCE,
) -> np.ndarray | None:
    """Closed-form matting of the unknown pixels with the means that the model drew:

        min  a^T L a + sum_j t_j n (D a - d)_j^2   with a given at the known pixels

    where L is the matting Laplacian, D averages over each of the model's pixels, d is what the model drew, t its trust
    and n the photo's pixels to one of the model's. By conjugate gradients with Jacobi's preconditioner.

    Args:
        image: float64 [H, W, 3] in [0, 1], 3 x 3 pixels or more.
        start: float64 [H, W], the values of the known pixels and the start of the others.
        known: bool [H, W]
        drawn, trust: float64 [h, w] with h <= H and w <= W; trust 0 is plain closed-form matting.

    Returns:
        float64 [H, W] in [0, 1]; None where ITERATIONS do not suffice.
    """
    from scipy.sparse import csr_matrix, diags
    from scipy.sparse.linalg import LinearOperator, cg

    unknown = np.flatnonzero(~known)
    if not unknown.size:
        return start
    fixed = np.where(known, start, 0).ravel()
    averaging = area_means(start.shape, drawn.shape)
    weight = np.broadcast_to(trust, drawn.shape).ravel() * (start.size / drawn.size)
    missing = weight * (drawn.ravel() - averaging @ fixed)
    averaging = averaging[:, unknown].tocsr()
    spreading = averaging.T.tocsr()

    values, columns = laplacian_rows(image, ~known)  # [U, 25] each
    number = np.full(start.size, -1, np.int32)
    number[unknown] = np.arange(unknown.size, dtype=np.int32)
    right = np.empty(unknown.size)
    for first in range(0, unknown.size, UNKNOWN_AT_ONCE):  # of a megapixel each copy takes 200 MB
        part = slice(first, first + UNKNOWN_AT_ONCE)
        right[part] = -(values[part] * fixed[columns[part]]).sum(axis=1)
        columns[part] = number[columns[part]]
        values[part][columns[part] < 0] = 0
    np.maximum(columns, 0, out=columns)
    right += spreading @ missing
    rows = np.arange(0, values.size + 1, 25, dtype=np.int32)
    laplacian = csr_matrix((values.ravel(), columns.ravel(), rows), (unknown.size, unknown.size))
    diagonal = laplacian.diagonal() + spreading.power(2) @ weight
    product = LinearOperator(
        laplacian.shape, lambda x: laplacian @ x + spreading @ (weight * (averaging @ x)), dtype=np.float64
    )
    solution, failed = cg(
        product, right, x0=start.ravel()[unknown], rtol=tolerance, maxiter=ITERATIONS, M=diags(1 / diagonal)
    )
    if failed or not np.isfinite(solution).all():
        return None
    result = start.copy()
    result[~known] = solution.clip(0, 1)
    return result


def area_means(shape: tuple[int, int], reduced: tuple[int, int]):
    """The matrix, sparse [h * w, H * W], that takes a picture to a smaller one by the mean of areas."""
    from scipy.sparse import csr_matrix, kron

    def along(length: int, cells: int) -> csr_matrix:
        ends = np.arange(cells + 1)[:, None] * length / cells
        pixel = np.arange(length)
        covered = np.minimum(ends[1:], pixel + 1) - np.maximum(ends[:-1], pixel)
        return csr_matrix(covered.clip(0) * cells / length)

    return kron(along(shape[0], reduced[0]), along(shape[1], reduced[1]), format="csr")


def laplacian_rows(image: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the matting Laplacian (Levin et al. 2008, eq. 12), those of the wanted pixels, [n, 25] each:

        L_ij = sum over the 3 x 3 windows k that hold both i and j of
               delta_ij - 1/9 (1 + (I_i - m_k)^T (S_k + EPSILON/9)^-1 (I_j - m_k))

    with m_k and S_k the mean and the covariance of the window's colours.

    Args:
        image: float64 [H, W, 3]
        wanted: bool [H, W]

    Returns:
        The values, float64, and their columns, int32: flat indices of pixels. Where the 5 x 5 pixels about a wanted
        one reach beyond the picture, the value is 0 and the column that of some pixel.
    """
    width = wanted.shape[1]
    pixels = np.flatnonzero(wanted)
    row = np.full(wanted.size, -1)
    row[pixels] = np.arange(pixels.size)
    colours_of = image.reshape(-1, 3)
    offsets = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    values = np.zeros((pixels.size, 25))
    for centres in windows_with(wanted):
        window = centres[:, None] + offsets  # [N, 9]
        colours = colours_of[window]  # [N, 9, 3]
        colours -= colours.mean(axis=1, keepdims=True)
        across = colours.transpose(0, 2, 1)
        inverse = np.linalg.inv(across @ colours / 9 + EPSILON / 9 * np.eye(3))
        entries = np.eye(9) - (1 + colours @ inverse @ across) / 9  # [N, 9, 9]
        for i in range(9):
            own = row[window[:, i]]
            inside = own >= 0
            for j in range(9):
                slot = 5 * (j // 3 - i // 3 + 2) + j % 3 - i % 3 + 2
                values[own[inside], slot] += entries[inside, i, j]
    around = np.array([dy * width + dx for dy in range(-2, 3) for dx in range(-2, 3)], np.int32)
    columns = pixels.astype(np.int32)[:, None] + around
    return values, columns.clip(0, wanted.size - 1, out=columns)


def windows_with(wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Flat indices of the centres of all 3 x 3 windows that hold a wanted pixel, some thousands at a time."""
    height, width = wanted.shape
    centres = np.zeros_like(wanted)
    for dy in range(3):
        for dx in range(3):
            centres[1:-1, 1:-1] |= wanted[dy : height - 2 + dy, dx : width - 2 + dx]
    found = np.flatnonzero(centres)
    for start in range(0, found.size, WINDOWS_AT_ONCE):
        yield found[start : start + WINDOWS_AT_ONCE]


# --------------------------------------------------------------------------------------------- guided upsampling


def linear_models(image: np.ndarray, alpha: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The guided filter's local models alpha ~ a . colour + b (He, Sun, Tang, Guided image filtering, PAMI 2013).

    Each is the least-squares fit with epsilon |a|^2 in a window of 2 radius + 1 pixels; a pixel gets the mean over the
    windows that hold it.

    Args:
        image: float64 [H, W, 3] in [0, 1].
        alpha: float64 [H, W]

    Returns:
        float64 [H, W, 4]: a, then b.
    """
    import cv2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    mean_image, mean_alpha = mean(image), mean(alpha)
    covariance = mean(image * alpha[..., None]) - mean_image * mean_alpha[..., None]
    products = {(i, j): mean(image[..., i] * image[..., j]) for i in range(3) for j in range(i, 3)}
    a = covariance  # which is solved in place, strip by strip: of a megapixel a matrix for every pixel takes 72 MB
    for start in range(0, len(image), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        product = np.stack([products[min(i, j), max(i, j)][rows] for i in range(3) for j in range(3)], axis=-1)
        centre = mean_image[rows]
        spread = product.reshape(*centre.shape, 3) - centre[..., None] * centre[..., None, :]
        a[rows] = np.linalg.solve(spread + epsilon * np.eye(3), covariance[rows, :, :, None])[..., 0]
    del products
    b = mean_alpha - (a * mean_image).sum(axis=-1)
    return np.dstack([mean(a), mean(b)])


def guided_upsampling(reduced: np.ndarray, alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A reduced picture's matte for the picture itself: its linear models, resized bilinearly, on the colours.

    In strips, since at 24 megapixels the models alone would take 400 MB.

    Args:
        reduced: float64 [h, w, 3] in [0, 1].
        alpha: float64 [h, w]
        image: uint8 [H, W, 3]

    Returns:
        float32 [H, W] in [0, 1].
    """
    import cv2

    models = linear_models(reduced, alpha, GUIDE_RADIUS, GUIDE_EPSILON).astype(np.float32)
    give_back_memory()
    (height, width), last = image.shape[:2], len(models) - 1
    result = np.empty((height, width), np.float32)
    for start in range(0, height, ROWS_AT_ONCE):
        strip = image[start : start + ROWS_AT_ONCE]
        y = ((np.arange(start, start + len(strip)) + 0.5) * len(models) / height - 0.5).clip(0, last)
        above = y.astype(int)
        share = (y - above).astype(np.float32)[:, None, None]
        taken = models[above] * (1 - share) + models[(above + 1).clip(max=last)] * share
        taken = cv2.resize(taken, (width, len(strip)), interpolation=cv2.INTER_LINEAR)
        colours = (taken[..., :3] * strip).sum(axis=-1) / 255
        result[start : start + len(strip)] = (colours + taken[..., 3]).clip(0, 1)
    return result
