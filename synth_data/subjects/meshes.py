"""Triangle meshes, strands and volumes in numpy: what families pass to the renderer. z is up; lengths have no unit."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

TRANSMISSIVE = ("glass", "thin_glass")  # kinds of material


@dataclass(frozen=True)
class Mesh:
    """A triangle surface.

    vertices: float [V, 3]. faces: int [F, 3]. uv: float [V, 2] in [0, 1].
    material: `kind`, `colour` (linear [3], or a texture [h, w, 3]) and the kind's other keys, see materials.py.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Strands:
    """Cubic B-splines: points [N, K, 3], radii [N, K], linear colours [N, K - 3, 3], one per segment."""

    points: np.ndarray
    radii: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class Volume:
    """A participating medium in a box.

    density: float32 [Z, Y, X] >= 0, extinction per unit length. albedo: linear [3] in [0, 1).
    emission: radiance emitted per unit length, linear float32 [Z, Y, X, 3], or None.
    to_world: [4, 4], from the unit cube [0, 1]^3 (x, y, z) to the subject's space.
    """

    density: np.ndarray
    albedo: np.ndarray
    emission: np.ndarray | None
    to_world: np.ndarray

    def corners(self) -> np.ndarray:
        """The box's corners [8, 3]."""
        unit = np.stack(np.meshgrid((0, 1), (0, 1), (0, 1)), -1).reshape(-1, 3)
        return unit @ self.to_world[:3, :3].T + self.to_world[:3, 3]


@dataclass(frozen=True)
class Subject:
    """One object to be matted, around the origin and within a radius of about one.

    `drawn` records choices of `build` beyond its factors, as JSON values.
    """

    meshes: list[Mesh] = field(default_factory=list)
    strands: list[Strands] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    drawn: dict[str, Any] = field(default_factory=dict)

    def points(self) -> np.ndarray:
        """All vertices, control points and corners [P, 3], for framing."""
        parts = [m.vertices for m in self.meshes] + [s.points.reshape(-1, 3) for s in self.strands]
        return np.concatenate(parts + [v.corners() for v in self.volumes])

    def transmissive(self) -> bool:
        """Whether the background is seen through part of it, so that coverage is not its alpha."""
        return bool(self.volumes) or any(m.material.get("kind") in TRANSMISSIVE for m in self.meshes)

    def cut_out(self) -> bool:
        """Whether part of it has holes from an opacity texture."""
        return any("opacity" in m.material for m in self.meshes)


def surface(points: np.ndarray) -> Mesh:
    """A grid of points [U, V, 3] as a mesh; closed shapes repeat their first row or column at the end."""
    rows, columns = points.shape[:2]
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    b, c, d = a + 1, a + columns + 1, a + columns
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    u, v = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return Mesh(points.reshape(-1, 3), faces, np.stack([u.ravel(), v.ravel()], 1))


def join(*meshes: Mesh) -> Mesh:
    """Several meshes as one, with the first one's material."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=False)]),
        np.concatenate([m.uv for m in meshes]),
        meshes[0].material,
    )


def placed(mesh: Mesh, matrix: np.ndarray | None = None, shift: np.ndarray | tuple = (0, 0, 0)) -> Mesh:
    """The mesh transformed by a [3, 3] matrix, then translated."""
    turned = mesh.vertices if matrix is None else mesh.vertices @ np.asarray(matrix).T
    return replace(mesh, vertices=turned + np.asarray(shift, dtype=np.float64))


def moved(subject: Subject, matrix: np.ndarray | None = None, shift: np.ndarray | tuple = (0, 0, 0)) -> Subject:
    """The subject rotated or uniformly scaled by a [3, 3] matrix, then translated; strand radii are scaled too."""
    m, t = np.eye(3) if matrix is None else np.asarray(matrix), np.asarray(shift, dtype=np.float64)
    size = float(np.cbrt(abs(np.linalg.det(m))))
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = m, t
    return replace(
        subject,
        meshes=[placed(mesh, m, t) for mesh in subject.meshes],
        strands=[replace(s, points=s.points @ m.T + t, radii=s.radii * size) for s in subject.strands],
        # extinction and emission are per unit length
        volumes=[
            replace(
                v,
                density=v.density / size,
                emission=None if v.emission is None else v.emission / size,
                to_world=whole @ v.to_world,
            )
            for v in subject.volumes
        ],
    )


def rounded(subject: Subject) -> Subject:
    """The subject with coordinates rounded to 6 digits: linear algebra may differ in the last bit between calls."""
    return replace(
        subject,
        meshes=[replace(mesh, vertices=np.round(mesh.vertices, 6)) for mesh in subject.meshes],
        strands=[replace(s, points=np.round(s.points, 6)) for s in subject.strands],
    )


def opaque_part(subject: Subject) -> Subject:
    """The subject without glass and media."""
    kept = [mesh for mesh in subject.meshes if mesh.material["kind"] not in TRANSMISSIVE]
    return replace(subject, meshes=kept, volumes=[])


def blackened(subject: Subject) -> Subject:
    """The subject in black, with its holes, so that only the light behind it is seen."""
    black = {"kind": "diffuse", "colour": np.zeros(3)}
    meshes = [
        replace(mesh, material=black | {key: mesh.material[key] for key in ("opacity",) if key in mesh.material})
        for mesh in subject.meshes
    ]
    return replace(subject, meshes=meshes, strands=[replace(s, colours=0 * s.colours) for s in subject.strands])


def thinned(subject: Subject) -> Subject:
    """The subject with all glass replaced by thin glass, which does not refract."""
    thin = [
        replace(m, material={"kind": "thin_glass", "colour": m.material["colour"], "ior": m.material.get("ior", 1.5)})
        if m.material["kind"] == "glass"
        else m
        for m in subject.meshes
    ]
    return replace(subject, meshes=thin)


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rotation matrix [3, 3] about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A uniformly distributed rotation [3, 3]."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def sphere_directions(rows: int, columns: int) -> np.ndarray:
    """Unit directions [rows, columns, 3] of a latitude-longitude grid, from the south pole up."""
    t = np.linspace(np.pi, 0, rows)[:, None]
    p = np.linspace(0, 2 * np.pi, columns)[None]
    return np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t) + 0 * p], -1)


def ball(radius: float | np.ndarray = 1.0, centre: tuple | np.ndarray = (0, 0, 0), rows: int = 20) -> Mesh:
    """A sphere, or an ellipsoid when `radius` has three values."""
    return surface(sphere_directions(rows, 2 * rows) * radius + np.asarray(centre, dtype=np.float64))


def lathe(profile: np.ndarray, columns: int = 48) -> Mesh:
    """A surface of revolution about z of a profile [K, 2] of (radius, height)."""
    p = np.linspace(0, 2 * np.pi, columns)[None]
    r, z = profile[:, :1], profile[:, 1:]
    return surface(np.stack([r * np.cos(p), r * np.sin(p), z + 0 * p], -1))


def tube(
    path: np.ndarray,
    radius: float | np.ndarray,
    section: np.ndarray | None = None,
    closed: bool = False,
    twist: float = 0.0,
) -> Mesh:
    """A section [M, 2] (default: a circle) swept along a path [K, 3]; `radius` one or [K], `twist` in turns.

    The frame is transported along the path without spin (parallel transport), so the tube never pinches; on a
    closed path the remaining spin is spread over its length.
    """
    if section is None:
        a = np.linspace(0, 2 * np.pi, 13)
        section = np.stack([np.cos(a), np.sin(a)], 1)
    if closed:
        path = np.concatenate([path, path[:1]])
    count = len(path)
    if closed:
        tangents = np.roll(path[:-1], -1, 0) - np.roll(path[:-1], 1, 0)
        tangents = np.concatenate([tangents, tangents[:1]])
    else:
        tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    normal = np.eye(3)[np.argmin(np.abs(tangents[0]))]
    normals = []
    for t in tangents:
        normal = normal - t * (normal @ t)
        normal = normal / np.linalg.norm(normal)
        normals.append(normal)
    n = np.array(normals)
    b = np.cross(tangents, n)
    spin = np.linspace(0, 2 * np.pi * twist, count)
    if closed:
        spin = spin - np.linspace(0, 1, count) * np.arctan2(n[-1] @ b[0], n[-1] @ n[0])
    r = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(path) - closed,))
    if closed:
        r = np.concatenate([r, r[:1]])
    c, s = np.cos(spin)[:, None, None], np.sin(spin)[:, None, None]
    x, y = section[None, :, :1], section[None, :, 1:]
    ring = path[:, None] + r[:, None, None] * ((c * x - s * y) * n[:, None] + (s * x + c * y) * b[:, None])
    if closed:
        return surface(ring)
    first = np.broadcast_to(path[:1, None], ring[:1].shape)
    last = np.broadcast_to(path[-1:, None], ring[:1].shape)
    return surface(np.concatenate([first, ring, last]))


def rod(a: np.ndarray | tuple, b: np.ndarray | tuple, radius: float, section: np.ndarray | None = None) -> Mesh:
    """A straight bar from a to b."""
    return tube(np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)]), radius, section)


def box(size: tuple | np.ndarray, centre: tuple | np.ndarray = (0, 0, 0)) -> Mesh:
    """A box of full side lengths `size`."""
    x, y, z = np.asarray(size, dtype=np.float64) / 2
    square = np.array([[-x, -y], [x, -y], [x, y], [-x, y], [-x, -y]])
    up = np.array([[0, 0, -z], [0, 0, z]])
    ring = np.concatenate([np.broadcast_to(square, (2, 5, 2)), np.broadcast_to(up[:, None, 2:], (2, 5, 1))], -1)
    caps = np.broadcast_to(up[:, None], (2, 5, 3))
    return placed(surface(np.concatenate([caps[:1], ring, caps[1:]])), None, centre)


def extrude(outline: np.ndarray, depth: float, hole: np.ndarray | None = None) -> Mesh:
    """An outline [N, 2], star-shaped about the origin, extruded to `depth`, minus a `hole` [N, 2]."""
    outer = np.concatenate([outline, outline[:1]])
    inner = 0 * outer if hole is None else np.concatenate([hole, hole[:1]])
    loops = [(inner, 0.5), (outer, 0.5), (outer, -0.5), (inner, -0.5)]
    if hole is not None:
        loops.append((inner, 0.5))
    return surface(np.stack([np.concatenate([p, np.full((len(p), 1), h * depth)], 1) for p, h in loops]))


def with_area(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The faces [F, 3] that have an area, their normals [F, 3] and these normals' lengths [F], twice the areas."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    keep = length > 1e-12
    return mesh.faces[keep], normal[keep], length[keep]


def shaded(mesh: Mesh, crease: float = 40.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [3F, 3], normals [3F, 3], uv [3F, 2] and faces [F, 3], no vertex shared; sharp edges stay sharp.

    A corner's normal is the area-weighted mean over the faces at its position whose normals are within `crease`
    degrees of its own face's. Faces without area are dropped.
    """
    from scipy.sparse import csr_array

    faces, normal, area = with_area(mesh)
    if not len(faces):
        return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 3), np.int64)
    vertices = mesh.vertices[faces].reshape(-1, 3)
    weld = _welded(vertices)
    order = np.argsort(weld, kind="stable")
    size = np.bincount(weld)
    start = np.cumsum(size) - size
    # the faces of every ordered pair (corner, corner) at the same position
    count = size[weld]
    end = np.cumsum(count)
    left = np.repeat(np.arange(len(weld)) // 3, count)
    right = order[np.arange(end[-1]) + np.repeat(start[weld] - end + count, count)] // 3
    x, y, z = np.ascontiguousarray((normal / area[:, None]).T)
    cosine = x[left] * x[right]
    cosine += z[left] * z[right]
    cosine += y[left] * y[right]
    near = (cosine > np.cos(np.deg2rad(crease))).astype(np.float64)
    summed = csr_array((near, right, np.append(0, end)), shape=(len(weld), len(faces))) @ normal
    summed /= np.linalg.norm(summed, axis=1, keepdims=True)
    return vertices, summed, mesh.uv[faces].reshape(-1, 2), np.arange(len(weld)).reshape(-1, 3)


def _welded(points: np.ndarray) -> np.ndarray:
    """A number [N] for the position of each point [N, 3], the same for points that agree in 5 digits."""
    cells = np.rint(points * 1e5).astype(np.int64)
    cells -= cells.min(0)
    wide = cells.max(0) + 1
    number, values = cells[:, 0], int(wide[0])
    for axis in (1, 2):
        if values * int(wide[axis]) >= 2**63:  # more positions than an integer counts: only those in use
            used, number = np.unique(number, return_inverse=True)
            values = len(used)
        number, values = number * wide[axis] + cells[:, axis], values * int(wide[axis])
    return np.unique(number, return_inverse=True)[1]


def scatter(rng: np.random.Generator, mesh: Mesh, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [number, 3] uniformly distributed over a mesh's area, and the unit normals [number, 3] of their faces."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1)
    face = np.searchsorted(np.cumsum(area) / area.sum(), rng.random(number), side="right")
    face = np.minimum(face, len(area) - 1)
    root, v = np.sqrt(rng.random(number))[:, None], rng.random(number)[:, None]
    points = (1 - root) * a[face] + root * (1 - v) * b[face] + root * v * c[face]
    return points, normal[face] / np.maximum(area[face], 1e-12)[:, None]


def waves(rng: np.random.Generator, points: np.ndarray, frequency: float, terms: int = 8) -> np.ndarray:
    """Smooth random field in about [-1, 1] at points [..., 3]: a sum of cosines in random directions."""
    k = rng.normal(size=(3, terms)) * frequency
    return np.cos(points @ k + rng.uniform(0, 2 * np.pi, terms)).sum(-1) / np.sqrt(terms)
