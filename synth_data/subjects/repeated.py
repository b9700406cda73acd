"""Many similar parts as one mesh: wires swept along paths, copies of a mesh, grids; scaling subjects to a radius."""

import numpy as np

from synth_data.subjects.meshes import Mesh, Subject, moved


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] of length one; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def transported(paths: np.ndarray, closed: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tangents, normals and binormals [N, K, 3] along paths [N, K, 3], without spin (parallel transport).

    On closed paths (whose first point is not repeated) the remaining spin is spread over the length.
    """
    step = np.roll(paths, -1, 1) - np.roll(paths, 1, 1) if closed else np.gradient(paths, axis=1)
    tangents = unit(step)
    normal = np.eye(3)[np.abs(tangents[:, 0]).argmin(-1)]
    normals = np.empty_like(tangents)
    for k in range(paths.shape[1]):
        t = tangents[:, k]
        normal = unit(normal - t * (normal * t).sum(-1, keepdims=True))
        normals[:, k] = normal
    binormals = np.cross(tangents, normals)
    if closed:
        t = tangents[:, 0]
        last = unit(normal - t * (normal * t).sum(-1, keepdims=True))
        left = np.arctan2((last * binormals[:, 0]).sum(-1), (last * normals[:, 0]).sum(-1))
        spin = -(left[:, None] * np.arange(paths.shape[1]) / paths.shape[1])[..., None]
        c, s = np.cos(spin), np.sin(spin)
        normals, binormals = c * normals + s * binormals, c * binormals - s * normals
    return tangents, normals, binormals


def swept(
    paths: np.ndarray,
    radius: float | np.ndarray,
    sides: int = 7,
    closed: bool = False,
    flat: tuple[float, float] = (1.0, 1.0),
) -> Mesh:
    """Round wires along paths [N, K, 3] (or one, [K, 3]) as one mesh; ends are capped, closed paths have none.

    `radius`: one, [N, 1] or [N, K]. `flat` stretches the section along the normal and the binormal.
    uv: (along, around).
    """
    paths = np.asarray(paths, dtype=np.float64)
    paths = paths[None] if paths.ndim == 2 else paths
    number, length = paths.shape[:2]
    _, normals, binormals = transported(paths, closed)
    r = np.broadcast_to(np.asarray(radius, dtype=np.float64), (number, length))[..., None, None]
    angle = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
    section = flat[0] * np.cos(angle) * normals[:, :, None] + flat[1] * np.sin(angle) * binormals[:, :, None]
    rings = paths[:, :, None] + r * section
    if closed:
        rings = np.concatenate([rings, rings[:, :1]], 1)
    else:  # a ring of radius 0 at each end
        caps = np.broadcast_to(paths[:, :, None], rings.shape)
        rings = np.concatenate([caps[:, :1], rings, caps[:, -1:]], 1)
    return grids(rings)


def grids(points: np.ndarray) -> Mesh:
    """Grids of points [N, U, V, 3] as one mesh; uv runs over each of them."""
    number, rows, columns = points.shape[:3]
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    b, c, d = a + 1, a + columns + 1, a + columns
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    faces = faces[None] + (np.arange(number) * rows * columns)[:, None, None]
    u, v = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    uv = np.tile(np.stack([u.ravel(), v.ravel()], 1), (number, 1))
    return Mesh(points.reshape(-1, 3), faces.reshape(-1, 3), uv)


def copied(mesh: Mesh, matrices: np.ndarray, shifts: np.ndarray, uv: np.ndarray | None = None) -> Mesh:
    """Copies of a mesh, turned and scaled by matrices [N, 3, 3], then moved by shifts [N, 3], as one mesh.

    `uv` [N, V, 2] gives each copy its own.
    """
    number, size = len(matrices), len(mesh.vertices)
    vertices = np.einsum("nij,vj->nvi", matrices, mesh.vertices) + np.asarray(shifts)[:, None]
    faces = mesh.faces[None] + (np.arange(number) * size)[:, None, None]
    coordinates = np.tile(mesh.uv, (number, 1)) if uv is None else uv.reshape(-1, 2)
    return Mesh(vertices.reshape(-1, 3), faces.reshape(-1, 3), coordinates, mesh.material)


def facing(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] that map y to `forward` [N, 3] and z as close to `up` [N, 3] as possible."""
    y = unit(np.asarray(forward, dtype=np.float64))
    # if both are parallel any side will do
    x = np.cross(y, up)
    x = np.where(np.linalg.norm(x, axis=-1, keepdims=True) < 1e-6, np.cross(y, (0.31, 0.67, 0.13)), x)
    x = unit(x)
    return np.stack([x, y, np.cross(x, y)], -1)


def along(points: np.ndarray, number: int, closed: bool = False) -> np.ndarray:
    """A smooth path [number, 3] through points [P, 3] (cubic spline); a closed one does not repeat its start."""
    from scipy.interpolate import CubicSpline

    points = np.asarray(points, dtype=np.float64)
    if closed:
        points = np.concatenate([points, points[:1]])
    length = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)))])
    spline = CubicSpline(length, points, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0, length[-1], number, endpoint=not closed))


def rounded(points: np.ndarray, radius: float, closed: bool = False, steps: int = 6) -> np.ndarray:
    """A polyline [P, 3] with corners rounded over `radius` (less where its segments are short)."""
    points = np.asarray(points, dtype=np.float64)
    before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
    path = []
    for k, (p, a, b) in enumerate(zip(points, before, after, strict=True)):
        if not closed and k in (0, len(points) - 1):
            path.append(p[None])
            continue
        one, two = a - p, b - p
        reach = min(radius, 0.49 * np.linalg.norm(one), 0.49 * np.linalg.norm(two))
        start, end = p + reach * unit(one), p + reach * unit(two)
        t = np.linspace(0, 1, steps)[:, None]
        path.append((1 - t) ** 2 * start + 2 * t * (1 - t) * p + t**2 * end)
    return np.concatenate(path)


def fitted(subject: Subject) -> Subject:
    """The subject centred on its bounding box and scaled to radius 1; the scale is recorded in `drawn`."""
    points = subject.points()
    middle = (points.min(0) + points.max(0)) / 2
    scale = 1.0 / np.linalg.norm(points - middle, axis=1).max()
    result = moved(subject, np.eye(3) * scale, -scale * middle)
    result.drawn["scale"] = round(float(scale), 6)
    return result
