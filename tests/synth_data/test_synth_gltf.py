"""The user's own meshes as glTF: written by trimesh, or by hand where trimesh writes less than others do."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from synth_data.factors import draw
from synth_data.subjects import own_meshes

QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.fixture(autouse=True)
def fresh():
    own_meshes._cached.clear()


def sheet(material):
    """Two triangles, leaning, whose texture's top left corner is at x = -1, y = 2."""
    vertices, uv = [(-1, -2, 0), (1, -2, 1), (1, 2, 0), (-1, 2, 0)], [(0, 0), (1, 0), (1, 1), (0, 1)]
    visual = TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, [(0, 1, 2), (0, 2, 3)], visual=visual, process=False)


def quarters(alpha=None):
    picture = QUARTERS if alpha is None else np.dstack([QUARTERS, np.full((8, 8), alpha, np.uint8)])
    return Image.fromarray(picture)


def read(path):
    return own_meshes.read_meshes(str(path))


def notes(path):
    return own_meshes.look(str(path))


def built(path, seed=0, **chosen):
    rng = np.random.default_rng(seed)
    return own_meshes.build(rng, draw(rng, own_meshes.Factors()) | {"folder": str(path), "fur": False} | chosen)


def separate(folder, **material):
    """A .gltf with its buffers and pictures beside it, as (path, its JSON)."""
    for name, content in trimesh.Scene(sheet(PBRMaterial(**material))).export(file_type="gltf").items():
        (folder / name).write_bytes(content)
    path = folder / "model.gltf"
    return path, json.loads(path.read_text())


def test_a_textured_mesh_is_the_same_as_obj_glb_and_gltf(tmp_path):
    sheet(SimpleMaterial(image=quarters(), diffuse=(255, 255, 255))).export(tmp_path / "a.obj")
    sheet(PBRMaterial(baseColorTexture=quarters())).export(tmp_path / "a.glb")
    path, _ = separate(tmp_path, baseColorTexture=quarters())
    (wanted,) = read(tmp_path / "a.obj")
    assert wanted.material["colour"][-1, 0] == pytest.approx([1, 0, 0])  # the first row is at v = 0
    for file in (tmp_path / "a.glb", path):
        (mesh,) = read(file)
        assert notes(file) == ()
        assert mesh.vertices[mesh.faces] == pytest.approx(wanted.vertices[wanted.faces], abs=1e-6)
        assert mesh.uv[mesh.faces] == pytest.approx(wanted.uv[wanted.faces], abs=1e-6)
        assert np.array_equal(mesh.material["colour"], wanted.material["colour"]) and "opacity" not in mesh.material
    assert {p.name for p in own_meshes.files_of(str(tmp_path))} == {"a.obj", "a.glb", "model.gltf"}


def test_factors_are_linear_and_multiply_the_texture(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters(), metallicFactor=0.0, roughnessFactor=0.5)
    pbr = header["materials"][0]["pbrMetallicRoughness"]
    pbr["baseColorFactor"] = [0.5, 0.25, 0.125, 1]
    path.write_text(json.dumps(header))
    (mesh,) = read(path)
    assert mesh.material["colour"][0, -1] == pytest.approx([0.5, 0.25, 0.125])
    assert (mesh.material["kind"], mesh.material["roughness"]) == ("plastic", 0.25)
    del pbr["baseColorTexture"]
    pbr["metallicFactor"] = 1.0
    path.write_text(json.dumps(header))
    own_meshes._cached.clear()
    assert read(path)[0].material["colour"] == pytest.approx([0.5, 0.25, 0.125])
    (mesh,) = built(path, own_colour=True, material="diffuse").meshes
    assert (mesh.material["kind"], mesh.material["roughness"]) == ("metal", 0.25)
    (mesh,) = built(path, own_colour=False, material="diffuse", texture="plain").meshes
    assert mesh.material["kind"] == "diffuse"
    del pbr["roughnessFactor"]  # then the recipe decides
    path.write_text(json.dumps(header))
    own_meshes._cached.clear()
    assert built(path, own_colour=True, material="diffuse").meshes[0].material["kind"] == "diffuse"


@pytest.mark.parametrize(
    "mode, alpha, factor, opacity",
    [
        (None, 51, 1.0, None),
        ("OPAQUE", 51, 1.0, None),
        ("BLEND", 51, 1.0, 0.2),
        ("BLEND", 51, 0.5, 0.1),
        ("BLEND", 255, 0.5, 0.5),
        ("BLEND", 255, 1.0, None),
        ("MASK", 51, 1.0, 0.0),
        ("MASK", 204, 1.0, None),
        ("MASK", 204, 0.5, 0.0),
    ],
)
def test_opacity_is_that_of_the_alpha_mode(tmp_path, mode, alpha, factor, opacity):
    path, header = separate(tmp_path, baseColorTexture=quarters(alpha))
    material = header["materials"][0]
    material["pbrMetallicRoughness"]["baseColorFactor"] = [1, 1, 1, factor]
    material.pop("alphaMode", None)
    material |= {"alphaMode": mode} if mode else {}
    path.write_text(json.dumps(header))
    found = read(path)[0].material.get("opacity")
    assert (found is None) if opacity is None else found == pytest.approx(opacity)
    for keep in (True, False):
        assert ("opacity" in built(path, own_colour=keep).meshes[0].material) == (opacity is not None)


def test_colours_of_vertices_are_linear(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    box.visual.vertex_colors = np.tile(np.array([128, 64, 255, 255], np.uint8), (8, 1))
    box.export(tmp_path / "box.glb")
    (mesh,) = read(tmp_path / "box.glb")
    assert mesh.material["colour"][0, 0] == pytest.approx([128 / 255, 64 / 255, 1])
    own_meshes._cached.clear()
    path, header = separate(tmp_path, baseColorFactor=(255, 255, 255, 255))
    primitive = header["meshes"][0]["primitives"][0]
    del primitive["material"]
    path.write_text(json.dumps(header))
    assert read(path)[0].material == {}  # so that `build` draws a colour


def test_nodes_place_their_meshes_and_y_is_up(tmp_path):
    scene = trimesh.Scene()
    post = trimesh.creation.box((0.2, 4, 0.2))
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0))  # from y to z
    scene.add_geometry(post, transform=turn)
    scene.add_geometry(post, transform=trimesh.transformations.translation_matrix((0, 0, 6)))
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    points = np.concatenate([mesh.vertices for mesh in read(tmp_path / "a.glb")])
    extent = np.ptp(points, axis=0)
    assert extent / extent[0] == pytest.approx([1, 20, 40.5], rel=1e-4)  # z from -2 to 6.1
    for up in "yz":
        subject = built(tmp_path / "a.glb", upright=True, up=up)
        height = np.ptp(np.concatenate([mesh.vertices for mesh in subject.meshes])[:, 2])
        assert height == pytest.approx(extent[1])


def test_points_lines_and_cameras_beside_a_mesh_are_left_out(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    header["meshes"].append({"primitives": [header["meshes"][0]["primitives"][0] | {"mode": 1}]})
    header["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 1}}]
    number = next(k for k, node in enumerate(header["nodes"]) if node.get("mesh") == 0)
    header["nodes"] += [{"mesh": 1, "children": [number], "name": "lines"}, {"camera": 0, "name": "eye"}]
    size = len(header["nodes"])
    header["nodes"][size - 1]["children"] = [size - 2]
    header["scenes"] = [{"nodes": [size - 1]}]
    path.write_text(json.dumps(header))
    assert len(read(path)) == 1
    assert notes(path) == ("points, lines and fans are left out (1)",)


def test_what_lies_beside_a_gltf_is_found_in_any_case_and_escaped(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    at = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]["bufferView"]
    buffer, (image,) = header["buffers"][header["bufferViews"][at]["buffer"]], header["images"]
    wanted = read(path)[0].material["colour"]
    shutil.move(tmp_path / buffer["uri"], tmp_path / "Big Data.BIN")
    (tmp_path / "textures").mkdir()
    quarters().save(tmp_path / "textures" / "M\u00fcsli 1.png")
    image.pop("bufferView")
    buffer["uri"], image["uri"] = "big%20data.bin", "Textures/m%C3%BCsli%201.PNG"
    path.write_text(json.dumps(header))
    own_meshes._cached.clear()
    assert np.array_equal(read(path)[0].material["colour"], wanted) and notes(path) == ()
    (tmp_path / "textures" / "M\u00fcsli 1.png").write_bytes(b"torn")
    (line,) = notes(path)
    assert line.startswith("texture 'Textures/m") and "cannot be read" in line
    (tmp_path / "textures" / "M\u00fcsli 1.png").unlink()
    assert notes(path) == ("texture 'Textures/m\u00fcsli 1.PNG' not found",)
    own_meshes._cached.clear()
    assert read(path)[0].material["colour"] == pytest.approx([1, 1, 1])  # the material's factor
    (tmp_path / "Big Data.BIN").unlink()
    with pytest.raises(ValueError, match=r"model\.gltf': buffer 'big%20data\.bin' not found"):
        notes(path)


def test_what_is_embedded_as_text_is_read(tmp_path):
    path, header = separate(tmp_path, baseColorFactor=(255, 255, 255, 255))
    stored = io.BytesIO()
    quarters().save(stored, "PNG")
    header["images"] = [{"uri": "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()}]
    header["textures"] = [{"source": 0}]
    header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    for buffer in header["buffers"]:
        content = (tmp_path / buffer["uri"]).read_bytes()
        buffer["uri"] = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.gltf").write_text(json.dumps(header))
    assert read(alone / "a.gltf")[0].material["colour"].shape == (8, 8, 3) and notes(alone / "a.gltf") == ()


def test_a_texture_is_moved_turned_and_scaled_as_its_transform_says(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    before = read(path)[0].uv
    texture = header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]

    def after(**transform):
        texture["extensions"] = {"KHR_texture_transform": transform}
        path.write_text(json.dumps(header | {"extensionsRequired": ["KHR_texture_transform"]}))
        own_meshes._cached.clear()
        return read(path)[0].uv

    down = before * (1, -1) + (0, 1)  # glTF counts v from the picture's top
    assert after(offset=[0.25, 0.5]) == pytest.approx(before + (0.25, -0.5))
    assert after(scale=[2, 3]) == pytest.approx(down * (2, 3) * (1, -1) + (0, 1))
    turned = np.stack([down[:, 1], 1 + down[:, 0]], 1)  # a quarter, counter-clockwise as seen on the picture
    assert after(rotation=np.pi / 2) == pytest.approx(turned, abs=1e-9)


def test_quantised_positions_and_coordinates_are_scaled(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    wanted = read(path)[0]
    primitive = header["meshes"][0]["primitives"][0]
    points = np.array([(-1, -1, 0), (1, -1, 0.5), (1, 1, 0), (-1, 1, 0)])  # half the sheet's
    padded = np.zeros((4, 4), "<i2")
    padded[:, :3] = np.round(points * 32767)
    order = np.array([(0, 255), (255, 255), (255, 0), (0, 0)], "u1")
    content = padded.tobytes() + order.tobytes() + np.array([0, 1, 2, 0, 2, 3], "<u2").tobytes()
    (tmp_path / "own.bin").write_bytes(content)
    number = len(header["buffers"])
    header["buffers"].append({"uri": "own.bin", "byteLength": len(content)})
    at, first = len(header["accessors"]), len(header["bufferViews"])
    header["bufferViews"] += [
        {"buffer": number, "byteOffset": 0, "byteLength": 32, "byteStride": 8},
        {"buffer": number, "byteOffset": 32, "byteLength": 8},
        {"buffer": number, "byteOffset": 40, "byteLength": 12},
    ]
    header["accessors"] += [
        {"bufferView": first, "componentType": 5122, "normalized": True, "count": 4, "type": "VEC3"},
        {"bufferView": first + 1, "componentType": 5121, "normalized": True, "count": 4, "type": "VEC2"},
        {"bufferView": first + 2, "componentType": 5123, "count": 6, "type": "SCALAR"},
    ]
    primitive |= {"attributes": {"POSITION": at, "TEXCOORD_0": at + 1}, "indices": at + 2}
    nodes = [{"mesh": 0, "scale": [1, 2, 2]}, {"mesh": 0, "scale": [1, 2, 2], "translation": [0, 0, 3]}]
    header |= {"nodes": nodes, "scenes": [{"nodes": [0, 1]}], "scene": 0}
    path.write_text(json.dumps(header | {"extensionsRequired": ["KHR_mesh_quantization"]}))
    own_meshes._cached.clear()
    one, two = sorted(read(path), key=lambda mesh: mesh.vertices[:, 2].mean())
    assert one.uv == pytest.approx(wanted.uv)
    side = np.ptp(one.vertices[:, 0])
    assert np.ptp(one.vertices, axis=0) / side == pytest.approx([1, 2, 0.5], abs=1e-4)
    assert (two.vertices - one.vertices) / side == pytest.approx(np.tile([0, 0, 1.5], (4, 1)), abs=1e-4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "it needs KHR_draco_mesh_compression"),
        ({"asset": {"version": "1.0"}}, "it is glTF 1.0"),
        ({"meshes": [], "nodes": [], "scenes": [{}]}, "it has no faces"),
        (b"glTF\2\0\0\0" + b"\0" * 40, "cannot be read"),
        (b"{", "cannot be read"),
        ("cut", "it is cut short"),
    ],
)
def test_a_file_that_is_not_read_is_named_with_the_reason(tmp_path, change, words):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    if isinstance(change, dict):
        path.write_text(json.dumps(header | change))
    else:
        path = tmp_path / "a.glb"
        sheet(PBRMaterial(baseColorTexture=quarters())).export(path)
        path.write_bytes(path.read_bytes()[:-9] if change == "cut" else change)
    with pytest.raises(ValueError) as error:
        read(path)
    assert "\n" not in str(error.value) and words in str(error.value) and path.name in str(error.value)


def test_a_second_set_of_coordinates_is_taken_where_the_texture_says_so(tmp_path):
    path, header = separate(tmp_path, baseColorTexture=quarters())
    wanted = read(path)[0].uv
    attributes = header["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_1"] = attributes.pop("TEXCOORD_0")
    header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1
    path.write_text(json.dumps(header))
    own_meshes._cached.clear()
    assert np.array_equal(read(path)[0].uv, wanted)
