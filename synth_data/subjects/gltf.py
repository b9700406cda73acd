"""glTF 2.0 files (.glb and .gltf): surfaces by way of trimesh, pictures and materials as the file states them."""

import base64
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from synth_data.errors import UserError, one_line
from synth_data.files import find_named
from synth_data.subjects.textures import texture_of

# Extensions that a file may require, besides those of materials: they are read, or change no surface.
READ = ("KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_lights_punctual", "KHR_xmp_json_ld")
INTEGERS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2"}  # numbers of component types
TRIANGLES, STRIP = 4, 5  # the modes of primitives that trimesh reads as faces


def _unpacked(content: bytes) -> tuple[dict[str, Any], bytes]:
    """(JSON, binary chunk) of a file, .glb or .gltf; UserError if it is cut short."""
    if content[:4] != b"glTF":
        return json.loads(content), b""
    chunks, at = {b"JSON": b"", b"BIN\0": b""}, 12
    if content[4] == 1:
        raise UserError("it is glTF 1; only glTF 2 is read")
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "little"), content[at + 4 : at + 8]
        chunk = content[at + 8 : at + 8 + size]
        if len(chunk) < size:
            raise UserError("it is cut short")
        chunks[kind] = chunks.get(kind) or chunk
        at += 8 + size
    return json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]


def _make_floats(header: dict[str, Any], buffers: list[bytes], number: int) -> None:
    """Makes an accessor of integers one of floats, in a buffer of its own; trimesh does not scale normalised ones."""
    accessor = header["accessors"][number]
    if accessor["componentType"] not in INTEGERS or "bufferView" not in accessor:
        return
    kind, view = np.dtype(INTEGERS[accessor["componentType"]]), header["bufferViews"][accessor["bufferView"]]
    columns = {"VEC2": 2, "VEC3": 3}[accessor["type"]]
    strides = (view.get("byteStride", columns * kind.itemsize), kind.itemsize)
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    values = np.ndarray((accessor["count"], columns), kind, buffers[view["buffer"]], start, strides).astype("<f4")
    if accessor.get("normalized"):
        values = np.maximum(values / np.float32(np.iinfo(kind).max), -1)
    header["buffers"].append({"byteLength": values.nbytes})
    header["bufferViews"].append({"buffer": len(buffers), "byteLength": values.nbytes})
    last = len(header["bufferViews"]) - 1
    header["accessors"][number] = {"bufferView": last, "componentType": 5126} | {
        k: accessor[k] for k in ("count", "type")
    }
    buffers.append(values.tobytes())


class Gltf:
    """A glTF file.

    Attributes:
        notes: one line for each picture that was not found or cannot be read, and each thing that is left out.
    """

    def __init__(self, file: Path, content: bytes):
        """UserError if it needs an extension that is not read, or a buffer that is not there."""
        self.file, self.notes = file, []
        self.header, binary = _unpacked(content)
        version = str(self.header.get("asset", {}).get("version", "2.0"))
        if not version.startswith("2"):
            raise UserError(f"it is glTF {version}; only glTF 2 is read")
        required = self.header.get("extensionsRequired", [])
        if lacking := [name for name in required if name not in READ and not name.startswith("KHR_materials_")]:
            raise UserError(f"it needs {', '.join(lacking)}, which is not read; export it without")
        self.buffers = []
        for buffer in self.header.get("buffers", []):
            found = self._at(buffer["uri"]) if "uri" in buffer else binary
            if found is None:
                raise UserError(f"buffer '{buffer['uri']}' not found")
            if len(found) < buffer["byteLength"]:
                raise UserError("it is cut short")
            self.buffers.append(found)
        self.pictures: dict[int, Any] = {}

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def _at(self, uri: str) -> bytes | None:
        """The content that a URI holds or names; None if it is not found."""
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        file = find_named(unquote(uri), self.file.parent) or find_named(uri, self.file.parent)
        return file.read_bytes() if file else None

    def scene(self) -> Any:
        """The surfaces as a trimesh scene, each with a material whose name is its number in the file.

        One beyond the last stands for none. Points, lines and fans are left out.
        """
        import trimesh

        header = deepcopy(self.header)
        materials, others, buffers = header.get("materials", []), 0, list(self.buffers)
        for mesh in header.get("meshes", []):
            kept = [p for p in mesh["primitives"] if p.get("mode", TRIANGLES) in (TRIANGLES, STRIP)]
            others += len(mesh["primitives"]) - len(kept)
            mesh["primitives"] = kept
            for primitive in kept:
                own = materials[primitive["material"]] if "material" in primitive else {}
                primitive.setdefault("material", len(materials))
                attributes = primitive["attributes"]
                uv = attributes.pop(f"TEXCOORD_{self._texture(own)[1]}", None)
                attributes.pop("TEXCOORD_0", None)
                if "COLOR_0" in attributes:  # trimesh keeps attributes of other names as they are
                    attributes["_colour"] = attributes.pop("COLOR_0")
                if uv is not None:
                    attributes["TEXCOORD_0"] = uv
                for name in {"POSITION", "TEXCOORD_0"} & attributes.keys():
                    _make_floats(header, buffers, attributes[name])
        for node in header.get("nodes", []):  # trimesh drops the children of nodes with a camera or an empty mesh
            node.pop("camera", None)
            if "mesh" in node and not header["meshes"][node["mesh"]]["primitives"]:
                del node["mesh"]
        if others:
            self._note(f"points, lines and fans are left out ({others})")
        header["materials"] = [{"name": str(number)} for number in range(len(materials) + 1)]
        for key in ("images", "textures", "extensions", "extensionsUsed", "extensionsRequired"):
            header.pop(key, None)
        for number, buffer in enumerate(header.get("buffers", [])):
            buffer["uri"] = str(number)
        named = {str(number): content for number, content in enumerate(buffers)}
        return trimesh.load_scene(
            io.BytesIO(json.dumps(header).encode()), file_type="gltf", resolver=named, process=False
        )

    @staticmethod
    def _texture(material: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, Any]]:
        """(what the file says of the base colour's texture, which coordinates it takes, their transform)."""
        base = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        gloss = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        texture = base or gloss.get("diffuseTexture") or {}
        transform = texture.get("extensions", {}).get("KHR_texture_transform", {})
        return texture, transform.get("texCoord", texture.get("texCoord", 0)), transform

    def _picture(self, texture: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None] | None:
        """A texture as (linear [h, w, 3], opacity [h, w] or None); None, with a note, if it cannot be had."""
        from PIL import Image

        source = self.header["textures"][texture["index"]]
        number = source.get("extensions", {}).get("EXT_texture_webp", source).get("source")
        if number is None:
            self._note("a texture is of a kind that is not read")
            return None
        if number not in self.pictures:
            image, self.pictures[number] = self.header["images"][number], None
            name = image.get("name") or image.get("uri", "")[:80] or str(number)
            if "bufferView" in image:
                view = self.header["bufferViews"][image["bufferView"]]
                start = view.get("byteOffset", 0)
                content = self.buffers[view["buffer"]][start : start + view["byteLength"]]
            else:
                content = self._at(image["uri"])
            if content is None:
                self._note(f"texture '{unquote(image['uri'])}' not found")
                return None
            try:
                with Image.open(io.BytesIO(content)) as picture:
                    self.pictures[number] = texture_of(picture)
            except Exception as error:  # decoders raise many types
                self._note(f"texture '{name}' cannot be read ({one_line(error)})")
        return self.pictures[number]

    def dress(self, geometry: Any) -> tuple[dict[str, Any], np.ndarray | None, np.ndarray | None]:
        """(material, uv [V, 2] or None, linear colours [V, 3] of the vertices or None) of a surface of `scene`.

        The material has `colour`, `opacity` unless it is opaque, and `kind` and `roughness` where the file states
        numbers for both; it is {} if the file gives none. The texture hides the vertices' colours.
        """
        number = int(geometry.visual.material.name)
        given = self.header.get("materials", [])
        own = given[number] if number < len(given) else {}
        uv, tint = geometry.visual.uv, geometry.vertex_attributes.get("_colour")
        if tint is not None:
            tint = np.asarray(tint)[:, :3]
            tint = tint / (np.iinfo(tint.dtype).max if tint.dtype.kind == "u" else 1.0)
        if not own:
            return {}, uv, tint
        pbr = own.get("pbrMetallicRoughness", {})
        gloss = own.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        factor = np.asarray(pbr.get("baseColorFactor") or gloss.get("diffuseFactor") or (1, 1, 1, 1), np.float64)
        texture, _, transform = self._texture(own)
        picture = self._picture(texture) if texture and uv is not None else None
        material: dict[str, Any] = {"colour": factor[:3]}
        opacity = np.full((1, 1), factor[3])
        if picture is not None:
            material["colour"] = factor[:3] * picture[0]
            opacity = opacity if picture[1] is None else factor[3] * picture[1]
            uv = _moved(np.asarray(uv, np.float64), transform)
            if tint is not None:
                self._note("colours of vertices under a texture are left out")
                tint = None
        elif tint is not None:
            tint = tint * factor[:3]
        mode = own.get("alphaMode", "OPAQUE")
        if mode == "MASK":
            opacity = (opacity >= own.get("alphaCutoff", 0.5)).astype(np.float64)
        if mode != "OPAQUE" and opacity.min() < 1:
            material["opacity"] = opacity
        if {"metallicFactor", "roughnessFactor"} <= pbr.keys() and "metallicRoughnessTexture" not in pbr:
            material["kind"] = "metal" if pbr["metallicFactor"] > 0.5 else "plastic"
            material["roughness"] = max(pbr["roughnessFactor"] ** 2, 0.02)  # the microfacet alpha is its square
        return material, uv, tint


def _moved(uv: np.ndarray, transform: dict[str, Any]) -> np.ndarray:
    """Texture coordinates [V, 2], v upwards, under KHR_texture_transform, which counts v downwards."""
    if not transform:
        return uv
    angle = transform.get("rotation", 0.0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    down = np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * transform.get("scale", (1, 1))
    down = down @ turn.T + transform.get("offset", (0, 0))
    return np.stack([down[:, 0], 1 - down[:, 1]], 1)
