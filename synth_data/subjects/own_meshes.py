"""The user's own meshes: folders of OBJ, PLY and glTF files, with or without fur on them."""

import contextlib
import functools
import io
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synth_data.colour import LEVELS, any_colour, colour_of_tone, linear_to_srgb, shade, srgb_to_linear
from synth_data.errors import MissingFile, UserError, one_line
from synth_data.factors import chance, count, draw, places, shares, span
from synth_data.files import GLTF_SUFFIXES, MESH_SUFFIXES, files_below, find_named
from synth_data.subjects import fur
from synth_data.subjects.gltf import Gltf
from synth_data.subjects.meshes import Mesh, Strands, Subject, join, placed, random_rotation, rotation, scatter, waves
from synth_data.subjects.solids import finish, patterned
from synth_data.subjects.strands import tapered, tinted
from synth_data.subjects.textures import atlas, opacity_of, rgba, texture_of

NOT_READ = (".3ds", ".abc", ".blend", ".c4d", ".dae", ".fbx", ".max", ".off", ".stl", ".usd", ".usdz")
OPAQUE = 0.99  # opacity from here on is 1
KINDS = ", ".join(MESH_SUFFIXES)
MEMORY = 2**30  # bytes of meshes that a process keeps
REMEDY = "export it again as a triangle or polygon mesh, or take it out of the folder"


@dataclass(frozen=True)
class Factors:
    """Variation of the user's own meshes. Meshes are centred and scaled to radius 1; lengths are in that radius."""

    folder: tuple = places()
    """folder of .obj, .ply, .glb and .gltf files (subfolders included), or one file; {PATH: SHARE, ...} for several"""
    up: tuple = shares(y=1, z=0)
    """the files' upward axis (that of glTF is y)"""
    upright: float = chance(0.7)
    """whether meshes stay upright and turn about their vertical axis only"""
    own_colour: float = chance(0.8)
    """whether meshes keep their own texture or colours, if they have any"""
    material: tuple = shares(diffuse=1, plastic=1, metal=0.3, principled=0.8)
    """surface"""
    roughness: tuple = span(0.15, 0.6, least=0.02, most=1)
    """roughness of glossy surfaces"""
    texture: tuple = shares(plain=1.5, checker=0.2, stripes=0.4, noise=0.6, speckle=0.3)
    """pattern on meshes without their own colours"""
    texture_cells: tuple = count(2, 12, least=1, most=256)
    """repeats of the pattern"""
    tone: tuple = shares(black=0.8, white=1.2, grey=1, brown=1, tan=1, bright=1.5, pastel=0.8)
    """colour of meshes without their own colours, and of fur"""
    fur: float = chance(0.0)
    """whether meshes have fur"""
    strands: tuple = count(3000, 8000, least=1, most=200_000)
    """number of strands"""
    length: tuple = span(0.03, 0.2, most=3, log=True)
    """mean strand length"""
    radius: tuple = span(0.002, 0.006, most=0.2, log=True)
    """strand radius at the root; it tapers to a tenth"""


def files_of(folder: str) -> list[Path]:
    """The mesh files in a `folder` (or the one file that it names), sorted by path.

    MissingFile if it does not exist, UserError if the name is empty, another kind of file, or a folder without meshes.
    """
    if not folder:
        raise UserError(f"own_meshes: folder: is empty; give a folder of meshes ({KINDS}), or one such file")
    path = Path(folder)
    if path.is_file():
        if path.suffix.lower() not in MESH_SUFFIXES:
            raise UserError(f"own_meshes: folder: '{folder}' is not a mesh ({KINDS}); give one, or a folder of them")
        return [path]
    if not path.is_dir():
        raise MissingFile(f"own_meshes: folder: nothing at '{folder}'; give a folder of meshes ({KINDS})")
    found = sorted((p for p in files_below(path) if p.suffix.lower() in MESH_SUFFIXES), key=Path.as_posix)
    if not found:
        raise UserError(f"own_meshes: folder: no mesh ({KINDS}) in '{folder}'; put meshes in it or name another")
    return found


def check(factors: Factors, place: str) -> None:
    """Checks a recipe that uses this family; `place` names its table in errors. Errors as in `files_of`."""
    try:
        for folder, _ in factors.folder:
            files_of(folder)
    except UserError as error:
        raise type(error)(f"{place}: {str(error).removeprefix('own_meshes: ')}") from None


def not_read(folder: str) -> list[Path]:
    """Meshes in a folder that are of kinds which cannot be read, sorted by path."""
    found = files_below(folder) if Path(folder).is_dir() else []
    return sorted(p for p in found if p.suffix.lower() in NOT_READ)


def _text(content: bytes) -> str:
    """An OBJ or MTL file's text, whatever its encoding and line ends."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return re.sub("\r\n?", "\n", text)


class Companions:
    """The files that a mesh names (material libraries, textures), as trimesh asks for them.

    Attributes:
        notes: one line for each file that was not found or cannot be read, and each material that is not defined.
        materials: what the libraries say of the opacity of each material that they define, by its name: perhaps
            `d`, a number, and `map_d`, a texture's name.
    """

    def __init__(self, mesh: Path, text: str = ""):
        """`text` is the mesh's own, if it is an OBJ file."""
        self.mesh, self.text, self.notes = mesh, text, []
        self.materials: dict[str, dict[str, Any]] = {}

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def __getitem__(self, name: str) -> bytes:
        """The material libraries of an OBJ file, as one; FileNotFoundError if none is found.

        Only names, diffuse colours and textures are passed on: trimesh drops all materials for one odd line.
        """
        folder, texts = self.mesh.parent, []
        for line in re.findall(r"^[ \t]*mtllib[ \t]+(\S.*?)[ \t]*$", self.text, re.MULTILINE):
            for library in [line] if find_named(line, folder) else line.split():  # a name with spaces, or several names
                file = find_named(library, folder) or find_named(f"{self.mesh.stem}.mtl", folder)
                if file is None:
                    self._note(f"material library '{library}' not found")
                else:
                    texts.append(_text(file.read_bytes()))
        if not texts:
            raise FileNotFoundError(name)
        kept, opacity = [], {}
        for line in "\n".join(texts).split("\n"):
            key, *rest = line.split(maxsplit=1)[:2] or [""]
            if key.lower() == "newmtl" and rest:
                opacity = self.materials.setdefault(" ".join(rest[0].split()), {})
            elif key.lower() == "kd" and rest:
                if (colour := self._colour(rest[0])) is None:
                    continue
                line = f"Kd {colour[0]} {colour[1]} {colour[2]}"
            elif key.lower() in ("d", "map_d") and rest:
                opacity[key.lower()] = rest[0]
                continue
            elif key.lower() != "map_kd":
                continue
            kept += [line] if self.materials else []
        used = {" ".join(n.split()) for n in re.findall(r"^[ \t]*usemtl[ \t]+(\S.*)$", self.text, re.MULTILINE)}
        for material in sorted(used - self.materials.keys()):
            self._note(f"material '{material}' is not defined")
        return "\n".join(kept).encode()

    def _colour(self, text: str) -> list[float] | None:
        """A diffuse colour in [0, 1] from the values after `Kd` (one stands for all three); None if they are none."""
        try:
            values = [float(value.replace(",", ".")) for value in text.split("#")[0].split()[:3]]
        except ValueError:
            values = []
        if len(values) not in (1, 3) or not np.isfinite(values).all():
            self._note(f"colour 'Kd {text.strip()}' cannot be read")
            return None
        return [min(max(value, 0.0), 1.0) for value in values * (3 // len(values))]

    def opacity(self, material: str, alpha: np.ndarray | None) -> np.ndarray | None:
        """A material's opacity [h, w]: its `d`, times `map_d` or else its colour's `alpha`; None if it is opaque."""
        from PIL import Image

        said = self.materials[material]
        try:
            share = float(np.clip(float(said.get("d", "1").split("#")[0]), 0, 1))
        except ValueError:  # `d -halo 0.5` depends on the angle of sight
            share = 1.0
        texture = np.ones((1, 1)) if alpha is None else alpha
        if "map_d" in said:
            with contextlib.suppress(OSError), Image.open(io.BytesIO(self.get(said["map_d"]))) as picture:
                texture = opacity_of(picture)
        found = share * texture
        return found if found.min() < OPAQUE else None

    def get(self, name: str) -> bytes:
        """A texture's content; FileNotFoundError or OSError if it is not found or no picture."""
        from PIL import Image

        file = find_named(name, self.mesh.parent)
        if file is None:
            self._note(f"texture '{name}' not found")
            raise FileNotFoundError(name)
        content = file.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as picture:
                rgba(picture)
        except Exception as error:  # decoders raise many types
            self._note(f"texture '{name}' cannot be read ({one_line(error)})")
            raise OSError(name) from error
        return content


def _part(geometry: Any, companions: Companions | None, gltf: Gltf | None) -> Mesh:
    """A trimesh geometry as a `Mesh`; `material` has `colour`, and perhaps `opacity` and others, if the file says so.

    `companions` are those of an OBJ file, if it is of one, `gltf` the glTF file. trimesh makes up grey materials for
    those that an OBJ file's libraries do not define.
    """
    vertices = np.asarray(geometry.vertices, dtype=np.float64)
    faces = np.asarray(geometry.faces, dtype=np.int64)
    visual = geometry.visual
    uv = getattr(visual, "uv", None)
    material: dict[str, Any] = {}
    corners = None  # linear colours [F, 3, 3]
    if gltf is not None:
        material, uv, colours = gltf.dress(geometry)
        corners = None if colours is None else colours[faces]
    elif visual.kind == "texture" and (companions is None or visual.material.name in companions.materials):
        image = getattr(visual.material, "image", None)
        opacity = None
        if image is not None and uv is not None:
            material["colour"], opacity = texture_of(image)
        elif companions is not None:
            material["colour"] = srgb_to_linear(np.asarray(visual.material.diffuse[:3], np.float64) / 255)
        if companions is not None:
            opacity = companions.opacity(visual.material.name, opacity)
        if opacity is not None:
            material["opacity"] = opacity
    elif visual.kind in ("vertex", "face"):
        if visual.kind == "vertex":
            corners = np.asarray(visual.vertex_colors)[faces][..., :3]
        else:
            corners = np.repeat(np.asarray(visual.face_colors)[:, None, :3], 3, 1)
        corners = srgb_to_linear(corners.astype(np.float64) / 255)
    if corners is not None:
        material["colour"], uv = atlas(corners)
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    if uv is None or len(uv) != len(vertices):
        middle = (vertices.max(0) + vertices.min(0)) / 2
        way = (vertices - middle) / np.maximum(np.linalg.norm(vertices - middle, axis=1, keepdims=True), 1e-12)
        around = np.arctan2(way[:, 1], way[:, 0]) / (2 * np.pi) + 0.5
        uv = np.stack([around, np.arccos(np.clip(way[:, 2], -1, 1)) / np.pi], 1)
    uv = np.asarray(uv, dtype=np.float64)
    return Mesh(vertices, faces, np.where(np.isfinite(uv), uv, 0), material)


def _flat(mesh: Mesh) -> bool:
    """Whether a mesh has no area: the corners of each face lie on a line, to within single precision."""
    corners = mesh.vertices[mesh.faces]
    sides = np.diff(corners, axis=1, append=corners[:, :1])
    twice_area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    return bool((twice_area <= 1e-6 * (sides**2).sum(2).max(1)).all())


def _read(path: str) -> tuple[tuple[Mesh, ...], tuple[str, ...]]:
    """(parts, notes) of a mesh file; see `read_meshes` and `look`."""
    import trimesh

    where, file = f"own_meshes: folder: '{path}'", Path(path)
    try:
        content = file.read_bytes()
        kind, gltf, obj = file.suffix.lower(), None, None
        if kind in GLTF_SUFFIXES:
            gltf = Gltf(file, content)
            scene, notes = gltf.scene(), gltf.notes
        else:
            companions = Companions(file)
            notes = companions.notes
            if kind == ".obj":
                obj, companions.text = companions, _text(content)
                content = companions.text.encode()
            scene = trimesh.load_scene(
                io.BytesIO(content), file_type=kind.removeprefix("."), resolver=companions, process=False
            )
        parts = [g for g in scene.dump() if isinstance(g, trimesh.Trimesh)]
        parts = [g for g in parts if len(g.faces)]
        if not parts:
            raise UserError("it has no faces")
        meshes = []
        for geometry in parts:
            if geometry.faces.min() < 0 or geometry.faces.max() >= len(geometry.vertices):
                raise UserError("it has faces without vertices")
            if not np.isfinite(geometry.vertices[geometry.faces]).all():
                fault = "has vertices that are not finite"
            elif _flat(mesh := _part(geometry, obj, gltf)):
                points = mesh.vertices[mesh.faces].reshape(-1, 3)
                fault = "has no extent: all its vertices are one point"
                if (points != points[0]).any():
                    fault = "has no area: the corners of each face lie on a line"
            else:
                meshes.append(mesh)
                continue
            if len(parts) == 1:
                raise UserError(f"it {fault}")
            notes.append(f"part '{geometry.metadata.get('name') or len(meshes)}' {fault}; it is left out")
        if not meshes:
            raise UserError(f"none of its {len(parts)} parts can be used ({notes[-1].partition(';')[0]})")
        points = np.concatenate([m.vertices[m.faces].reshape(-1, 3) for m in meshes])
        middle = (points.max(0) + points.min(0)) / 2
        radius = np.linalg.norm(points - middle, axis=1).max()
        if not 0 < radius < np.inf:
            raise UserError("its coordinates are too large")
    except UserError as error:
        raise UserError(f"{where}: {error}; {REMEDY}") from None
    except Exception as error:  # the reader raises many types for broken files
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{where} cannot be read ({reason}); {REMEDY}") from error
    return tuple(replace(m, vertices=(m.vertices - middle) / radius) for m in meshes), tuple(notes)


_listed = functools.lru_cache(maxsize=64)(files_of)  # a folder of thousands takes longer to search than a file to read
_cached: OrderedDict[str, tuple[Mesh, ...]] = OrderedDict()  # by path, the latest last, with textures as `_packed`


def _packed(mesh: Mesh) -> Mesh:
    """The mesh with its texture as 8-bit sRGB, an eighth of the memory, if that is what it was read from."""
    colour = mesh.material.get("colour")
    if colour is None or colour.ndim < 3:
        return mesh
    levels = np.rint(linear_to_srgb(colour) * 255).astype(np.uint8)
    if not np.array_equal(LEVELS[levels], colour):
        return mesh
    return replace(mesh, material=mesh.material | {"colour": levels})


def _unpacked(mesh: Mesh) -> Mesh:
    colour = mesh.material.get("colour")
    if colour is None or colour.dtype != np.uint8:
        return mesh
    return replace(mesh, material=mesh.material | {"colour": LEVELS[colour]})


def _size(meshes: tuple[Mesh, ...]) -> int:
    """The memory that meshes take, in bytes."""
    return sum(
        array.nbytes
        for mesh in meshes
        for array in (mesh.vertices, mesh.faces, mesh.uv, *mesh.material.values())
        if isinstance(array, np.ndarray)
    )


def read_meshes(path: str) -> tuple[Mesh, ...]:
    """The parts of a mesh file, centred on their bounding box and scaled to radius 1; `material` may be {}.

    Polygons become triangles. Parts without faces or area, or with vertices that are not finite, are left out; a
    texture that is not found is replaced by the material's colour (`look` tells). Files read before are kept, up to
    MEMORY, and arrays are shared between calls: copy them before writing. UserError if the file cannot be read or no
    part is left.
    """
    if path not in _cached:
        _cached[path] = tuple(_packed(mesh) for mesh in _read(path)[0])
        total = sum(map(_size, _cached.values()))
        while total > MEMORY and len(_cached) > 1:
            total -= _size(_cached.popitem(last=False)[1])
    _cached.move_to_end(path)
    return tuple(_unpacked(mesh) for mesh in _cached[path])


def look(path: str) -> tuple[str, ...]:
    """Reads a mesh file and returns what is wrong with it, though it can be used: a line for each texture or material
    library that was not found and each part left out. UserError as in `read_meshes`.
    """
    return _read(path)[1]


def _coat(rng: np.random.Generator, f: dict[str, Any], body: Mesh, tone: np.ndarray) -> Strands:
    """Fur on a body: number, length, radius and colour from drawn `Factors`, the rest from fur's own ranges."""
    coat = draw(rng, fur.Factors()) | {name: f[name] for name in ("strands", "length", "radius")}
    roots, normals = scatter(rng, body, coat["strands"])
    swirl = np.stack([waves(rng, roots, 1.2) for _ in range(3)], 1)
    lengths = np.full(len(roots), coat["length"])
    points = fur.grow(rng, roots, normals, coat, lengths, rng.normal(size=3) + 0.4 * swirl)
    base = tone * np.exp(0.18 * rng.normal(size=(len(roots), 1)))
    radii = tapered(rng, coat["radius"], len(roots), points.shape[1])
    return Strands(points, radii, tinted(base, points.shape[1], 0.75, coat["tip_light"]))


def build(rng: np.random.Generator, factors: dict[str, Any]) -> Subject:
    """One of the drawn folder's meshes, each as likely; where one cannot be read, another (a preview goes on so).

    Errors as in `files_of`, and as in `read_meshes` if none can be read.
    """
    f = factors
    files = list(_listed(f["folder"]))
    while True:
        file = files.pop(int(rng.integers(len(files))))
        try:
            parts = read_meshes(str(file))
            break
        except UserError:
            if not files:
                raise
    root = Path(f["folder"])
    name = file.name if root.is_file() else file.relative_to(root).as_posix()
    main = colour_of_tone(rng, f["tone"])
    other = any_colour(rng) if rng.random() < 0.6 else shade(rng, main, 0.7)
    colour = patterned(rng, f["texture"], f["texture_cells"], main, other)
    turn = rotation(np.array([0, 0, 1]), rng.uniform(0, 360)) if f["upright"] else random_rotation(rng)
    if f["up"] == "y" or file.suffix.lower() in GLTF_SUFFIXES:
        turn = turn @ rotation(np.array([1, 0, 0]), 90)
    meshes = []
    for mesh in parts:
        own = mesh.material if f["own_colour"] else {}
        kind, roughness = own.get("kind", f["material"]), own.get("roughness", f["roughness"])
        material = finish(kind, roughness, own.get("colour", colour))
        if "opacity" in mesh.material:  # opacity belongs to the shape, not to the colours
            material["opacity"] = mesh.material["opacity"]
        meshes.append(replace(placed(mesh, turn), material=material))
    strands = [_coat(rng, f, join(*meshes), main)] if f["fur"] else []
    return Subject(meshes, strands, drawn={"file": name})
