"""From samples of one matte to its mean, its variance and an uncertainty in alpha units.

Samples are absolute values of one quantity, so the estimators are the plain ones: no alignment of scale or
shift between samples and no min-max stretch (either would invent a subject in an empty picture).
"""

from collections.abc import Iterable, Mapping

SCALES_LINE = "- Standard deviations are multiplied by: "  # of a model card, see `scales_line`


def mean_and_variance(samples: Iterable) -> tuple:
    """Mean and unbiased variance over samples, pixel by pixel.

    Welford's recurrence (Knuth, The Art of Computer Programming, vol. 2, 4.2.2), from M_1 = 0:

        d = x_n − mean_{n−1},   mean_n = mean_{n−1} + d / n,   M_n = M_{n−1} + d · (x_n − mean_n)

    Args:
        samples: arrays or tensors of one shape, [H, W] say, or all of them in one, [E, H, W]. They are taken
            one at a time, so a generator keeps one of them in memory.

    Returns:
        The mean, and the variance M_E / (E − 1); None in its place for a single sample.

    Raises:
        ValueError: no samples.
    """
    count, mean, squares = 0, None, None
    for sample in samples:
        count += 1
        if mean is None:
            mean, squares = sample * 1.0, sample * 0.0
            continue
        difference = sample - mean
        mean = mean + difference / count
        squares = squares + difference * (sample - mean)
    if count == 0:
        raise ValueError("no samples to average; give at least one")
    return mean, squares / (count - 1) if count > 1 else None


def calibration_key(num_inference_steps: int, ensemble_size: int) -> str:
    """Under which name an adapter keeps the scale fitted for a setting: 4 steps and 8 samples => "4x8"."""
    return f"{num_inference_steps}x{ensemble_size}"


def calibration_scale_for(
    scales: Mapping[str, float], num_inference_steps: int, ensemble_size: int, eta: float
) -> float | None:
    """The factor on the standard deviation that an adapter holds for a setting, None where it holds none.

    Scales are fitted to samples that differ by their starting noise alone, so none serves an `eta` above 0.
    """
    return None if eta else scales.get(calibration_key(num_inference_steps, ensemble_size))


def missing_scales_note(
    scales: Mapping[str, float], num_inference_steps: int, ensemble_sizes: Iterable[int], eta: float
) -> str | None:
    """One line on the settings for which `calibration_scale_for` finds nothing, and how to mend that; None where
    there is a scale for each."""
    sizes = sorted(set(ensemble_sizes))
    missing = [
        calibration_key(num_inference_steps, size)
        for size in sizes
        if calibration_scale_for(scales, num_inference_steps, size, eta) is None
    ]
    if not missing:
        return None
    if eta:
        return f"the uncertainty is the samples' plain standard deviation: scales hold for eta 0, and eta is {eta:g}"
    held = f"scales for {', '.join(sorted(scales))}" if scales else "no scale"
    return (
        f"the uncertainty is the samples' plain standard deviation where steps x samples are {', '.join(missing)}: the "
        f"adapter holds {held}; sdseg calibrate --prediction DIR --ground_truth DIR --adapter DIR adds one"
    )


def scales_line(scales: Mapping[str, float]) -> str:
    """The line of a model card that tells an adapter's scales."""
    listed = ", ".join(f"{scale:.3f} ({key})" for key, scale in sorted(scales.items()))
    return f"{SCALES_LINE}{listed} (steps x samples)"
