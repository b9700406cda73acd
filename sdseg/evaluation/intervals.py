"""Figures of a set from those of its pictures: means, bootstrap intervals, comparison of two methods."""

import math
from collections.abc import Callable

import numpy as np

from sdseg.evaluation.judging import BAND_DEFINITIONS, Evaluation, Judged, class_figures, flat_figures, or_none

LOWER_IS_BETTER = {"sad", "mad", "mse", "grad", "conn", "mae", "ause"}
UNDIRECTED = ("within_1_std", "within_2_std", "within_3_std")  # better the closer to a normal distribution
DRAWS_AT_ONCE = 200


def means(entries: list[dict]) -> dict[str, float | None]:
    """Mean of every figure over the entries that have it; None where none has."""
    columns = {key: [entry[key] for entry in entries if entry[key] is not None] for key in entries[0]}
    return {key: sum(values) / len(values) if values else None for key, values in columns.items()}


def band_means(images: list[dict]) -> dict[str, dict]:
    """For each band, its means over the pictures that have it, and their count."""
    names = dict.fromkeys(name for entry in images for name in entry["bands"])
    ordered = [name for name in BAND_DEFINITIONS if name in names]
    bands = {name: [entry["bands"][name] for entry in images if entry["bands"].get(name)] for name in ordered}
    return {name: {"count": len(entries), **(means(entries) if entries else {})} for name, entries in bands.items()}


def intervals(pictures: list[Judged], evaluation: Evaluation) -> dict:
    """Bootstrap intervals of the means, for kind classes of the figures of the set: `figures` {name: [low, high]}."""
    if evaluation.kind == "classes":
        statistic = _of_drawn(pictures, evaluation)
        low, high = _bootstrap_of_draws(len(pictures), statistic, evaluation)
        ends = dict(zip(evaluation.figures, zip(low, high, strict=True), strict=True))
    else:
        ends = {}
        columns = [flat_figures(picture.entry) for picture in pictures]
        for keys, rows in _columns_by_pictures(columns).items():
            low, high = _bootstrap(np.array([[columns[row][key] for key in keys] for row in rows]), evaluation)
            ends |= dict(zip(keys, zip(low, high, strict=True), strict=True))
        ends = {key: ends[key] for key in dict.fromkeys(key for column in columns for key in column) if key in ends}
    return {
        "level": evaluation.confidence,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "figures": {key: _interval(*pair) for key, pair in ends.items()},
    }


def compare(first: list[Judged], second: list[Judged], evaluation: Evaluation) -> dict[str, dict]:
    """Compares two methods on the same pictures.

    Returns:
        By figure: `count` of pictures, `first`, `second` and `difference` (first − second) of the means, `low` and
        `high` of its interval, and the shares of pictures on which the first is better (`won`) or equal (`tied`). For
        kind classes `first`, `second` and `difference` are those of the set, `won` and `tied` those of its pictures.
    """
    from sdseg.evaluation.metrics import paired_comparison

    columns = [
        {key: (value, b[key]) for key, value in a.items() if value is not None and b.get(key) is not None}
        for a, b in ((flat_figures(x.entry), flat_figures(y.entry)) for x, y in zip(first, second, strict=True))
    ]
    rows = {}
    for key in dict.fromkeys(key for column in columns for key in column):
        figure = key.rpartition(".")[2]
        if figure in UNDIRECTED:
            continue
        one, other = np.array([column[key] for column in columns if key in column]).T
        generator = np.random.default_rng(evaluation.seed)
        row = paired_comparison(
            one, other, generator, figure in LOWER_IS_BETTER, evaluation.confidence, evaluation.resamples
        )
        rows[key] = {"count": len(one), "first": float(one.mean()), "second": float(other.mean()), **row}
    if evaluation.kind == "classes":
        one, other = _of_drawn(first, evaluation), _of_drawn(second, evaluation)
        everything = np.ones((1, len(first)))
        low, high = _bootstrap_of_draws(len(first), lambda times: one(times) - other(times), evaluation)
        for number, key in enumerate(evaluation.figures):
            of_set = {"first": one(everything)[0, number], "second": other(everything)[0, number]}
            of_set |= {"difference": of_set["first"] - of_set["second"], "low": low[number], "high": high[number]}
            rows[key] = rows.get(key, {}) | {name: or_none(float(value)) for name, value in of_set.items()}
    return rows


def _columns_by_pictures(columns: list[dict]) -> dict[tuple[str, ...], list[int]]:
    """Groups figures that the same pictures have, which share their draws: {figures: indices of the pictures}."""
    rows = {}
    for number, column in enumerate(columns):
        for key, value in column.items():
            if value is not None:
                rows.setdefault(key, []).append(number)
    shared = {}
    for key, numbers in rows.items():
        shared.setdefault(tuple(numbers), []).append(key)
    return {tuple(keys): list(numbers) for numbers, keys in shared.items()}


def _bootstrap(values: np.ndarray, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean of figures [n, k].

    Each call starts from the seed, so the interval of a figure does not depend on which others are computed.
    """
    from sdseg.evaluation.metrics import confidence_interval

    generator = np.random.default_rng(evaluation.seed)
    return confidence_interval(values, generator, evaluation.confidence, evaluation.resamples)


def _bootstrap_of_draws(count: int, statistic: Callable, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """As `metrics.confidence_interval`, for a statistic that takes many draws at once, which is ten times as fast.

    `statistic` maps how often each of `count` pictures was drawn, [draws, count], to [draws, figures].
    """
    generator = np.random.default_rng(evaluation.seed)
    drawn = []
    for start in range(0, evaluation.resamples, DRAWS_AT_ONCE):
        draws = range(min(DRAWS_AT_ONCE, evaluation.resamples - start))
        times = [np.bincount(generator.integers(count, size=count), minlength=count) for _ in draws]
        drawn.append(statistic(np.array(times, np.float64)))
    tail = (1 - evaluation.confidence) / 2
    return tuple(np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0))


def _interval(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) or math.isnan(high) else [float(low), float(high)]


def _of_drawn(pictures: list[Judged], evaluation: Evaluation) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each picture was drawn, [draws, n], to figures of the set, float64 [draws, figures]."""
    from sdseg.evaluation.segmentation_metrics import match_labels

    matrices = np.stack([picture.matrix for picture in pictures])  # [n, classes + 1, labels + 1]
    flat = matrices.reshape(len(matrices), -1).astype(np.float64)  # exact for counts, with a fast product

    def statistic(times: np.ndarray) -> np.ndarray:
        figures_of_draws = []
        for matrix in (times @ flat).reshape(-1, *matrices.shape[1:]):
            matrix = match_labels(matrix) if evaluation.match == "dataset" else matrix
            figures = class_figures(matrix, evaluation, evaluation.miou_protocol).values()
            figures_of_draws.append([math.nan if figure is None else figure for figure in figures])
        return np.array(figures_of_draws)

    return statistic
