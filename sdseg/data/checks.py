"""Reasons to doubt pairs, found before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sdseg.data.pairs import DataError, PairFiles, read_pair


def check_pairs(pairs: list[PairFiles], looked_into: int = 512) -> list[str]:
    """Compare the sizes of all pairs, and look into the mattes of up to `looked_into` evenly spaced ones.

    Returns:
        Warnings, one line each with counts: mattes that are empty, full, or hold nothing but 0 and 1.

    Raises:
        DataError: a picture that cannot be read, or an alpha of another size than its image.
    """
    from PIL import Image

    for pair in pairs:
        sizes = []
        for path in (pair.image, pair.alpha):
            try:
                with Image.open(path) as picture:
                    turned = picture.getexif().get(0x0112, 1) >= 5
                    sizes.append(picture.size[::-1] if turned else picture.size)
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}); render or copy it again") from error
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{pair.name} is {sizes[0][0]}x{sizes[0][1]} but its alpha {pair.alpha} is "
                f"{sizes[1][0]}x{sizes[1][1]}; both must have one size"
            )
    return matte_warnings(read_pair(pair)[1] for pair in pairs[:: max(1, len(pairs) // looked_into)])


def matte_warnings(mattes: Iterable[np.ndarray]) -> list[str]:
    """One line, with counts, for each reason to doubt mattes float32 [H, W]."""
    looked_into = empty = full = binary = 0
    for alpha in mattes:
        looked_into += 1
        empty += alpha.max() == 0
        full += alpha.min() == 1
        binary += 0 < alpha.mean() < 1 and bool(((alpha == 0) | (alpha == 1)).all())
    reasons = {
        "are empty (all 0)": empty,
        "are full (all 1)": full,
        "hold nothing but 0 and 1: a matting model trained on binary masks loses hair and glass": binary,
    }
    return [f"{count} of {looked_into} mattes looked into {reason}" for reason, count in reasons.items() if count]
