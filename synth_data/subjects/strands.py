"""Strands in numpy, for fur, hair and feathers: splines through points, waves, coils and clumps."""

import numpy as np

CONTROL_POINTS = 8  # fewest of a strand; five more for each wave beyond the first


def through(samples: np.ndarray) -> np.ndarray:
    """Control points [N, S + 2, 3] of the uniform cubic B-splines that pass through samples [N, S, 3].

    Natural splines: without curvature at their ends, which are the first and the last sample.
    """
    number = samples.shape[1] + 2
    system = np.zeros((number, number))
    for row in range(1, number - 1):
        system[row, row - 1 : row + 2] = np.array([1, 4, 1]) / 6
    system[0, :3] = system[-1, -3:] = 1, -2, 1
    return np.linalg.inv(system)[:, 1:-1] @ samples


def lengths(samples: np.ndarray) -> np.ndarray:
    """Lengths [N] of the polylines samples [N, S, 3]."""
    return np.linalg.norm(np.diff(samples, axis=1), axis=2).sum(1)


def with_length(samples: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Polylines [N, S, 3] scaled about their first points to lengths [N]."""
    scale = length / np.maximum(lengths(samples), 1e-9)
    return samples[:, :1] + (samples - samples[:, :1]) * scale[:, None, None]


def samples_for(turns: float) -> int:
    """The number of samples of a strand with `turns` waves or coils: five per turn, at least six."""
    return max(CONTROL_POINTS - 2, int(np.ceil(5 * turns)) + 1)


def nearest(places: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """The index [N] of the leader [L, D] nearest to each place [N, D]."""
    from scipy.spatial import cKDTree

    return cKDTree(leaders).query(places)[1]


def clumped(samples: np.ndarray, leader: np.ndarray, share: float | np.ndarray, power: float = 1.5) -> np.ndarray:
    """Strands [N, S, 3] drawn towards the strand `leader` [N]: by 0 at the root, by `share` in [0, 1] at the tip."""
    s = np.linspace(0, 1, samples.shape[1])[None, :, None] ** power
    share = np.asarray(share, dtype=np.float64).reshape(-1, 1, 1)
    return samples + share * s * (samples[leader] - samples)


def coiled(
    rng: np.random.Generator,
    samples: np.ndarray,
    radius: float | np.ndarray,
    turns: float,
    lock: np.ndarray | None = None,
    flat: float = 0.0,
) -> np.ndarray:
    """Strands [N, S, 3] wound around their own paths: a helix of `radius` (one or [N]) with `turns` turns.

    The radius grows from 0 at the root. `lock` [N] numbers the lock of hair a strand belongs to: strands of a lock
    share their phase. With `flat` 1 the helix becomes a plane wave.
    """
    number, count = samples.shape[:2]
    lock = np.arange(number) if lock is None else lock
    locks = int(lock.max()) + 1
    phase, side = rng.uniform(0, 2 * np.pi, locks)[lock], rng.normal(size=(locks, 3))[lock]
    pace = rng.uniform(0.75, 1.25, locks)[lock]
    s = np.linspace(0, 1, count)
    along = np.gradient(samples, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-9)
    side = side[:, None] - along * (side[:, None] * along).sum(-1, keepdims=True)
    side /= np.maximum(np.linalg.norm(side, axis=2, keepdims=True), 1e-9)
    across = np.cross(along, side)
    angle = 2 * np.pi * turns * pace[:, None] * s + phase[:, None]
    reach = np.asarray(radius, dtype=np.float64).reshape(-1, 1) * np.minimum(s * 2.5, 1)
    x, y = reach * (np.cos(angle)), reach * np.sin(angle) * (1 - flat)
    return samples + x[..., None] * side + y[..., None] * across


def tapered(rng: np.random.Generator, radius: float | np.ndarray, number: int, points: int) -> np.ndarray:
    """Radii [number, points] that fall from about `radius` (one or [number]) at the root to a tenth at the tip."""
    taper = 1 - 0.9 * np.linspace(0, 1, points) ** 1.4
    root = np.asarray(radius, dtype=np.float64) * np.exp(0.2 * rng.normal(size=number))
    return root[:, None] * taper


def tinted(base: np.ndarray, points: int, root: float, tip: float) -> np.ndarray:
    """Colours [N, points - 3, 3] from `root` x base [N, 3] to `tip` x base, clipped to valid reflectances."""
    s = np.linspace(0, 1, points - 3)[None, :, None]
    return np.clip(base[:, None] * (root + (tip - root) * s), 0.003, 0.92)


def turned_to(way: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that maps y to the direction of `way` [3]."""
    y = way / np.linalg.norm(way)
    x = np.cross(y, np.eye(3)[np.argmin(np.abs(y))])
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], 1)
