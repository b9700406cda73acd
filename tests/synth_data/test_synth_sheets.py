"""Cloth, lettering, pierced solids and the user's own meshes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from synth_data.colour import srgb_to_linear
from synth_data.factors import draw, read_table
from synth_data.recipe import parse_recipe
from synth_data.subjects import FAMILIES, cloth, lettering, own_meshes, solids
from synth_data.subjects.meshes import shaded, surface
from synth_data.template import recipe_text


def euler(mesh):
    """V - E + F of a closed mesh whose vertices are shared."""
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), 1)
    pairs, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).all()  # closed
    return len(np.unique(mesh.faces)) - len(pairs) + len(mesh.faces)


def volume(mesh):
    """Signed volume: positive where the faces look outwards (divergence theorem)."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6


def area(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def drawn(family, seed=0, **chosen):
    return draw(np.random.default_rng(seed), family.Factors()) | chosen


def built(family, seed=0, **chosen):
    return family.build(np.random.default_rng(seed), drawn(family, seed, **chosen))


def assert_sound(subject):
    assert 0.3 < np.linalg.norm(subject.points(), axis=1).max() < 2.6
    for mesh in subject.meshes:
        assert np.isfinite(mesh.vertices).all() and 0 < len(mesh.faces) <= 200_000
        assert 0 <= mesh.faces.min() and mesh.faces.max() < len(mesh.vertices) == len(mesh.uv)
        assert mesh.uv.min() >= 0 and mesh.uv.max() <= 1
        _, normals, _, faces = shaded(replace(mesh, faces=mesh.faces[:3000]))  # one patch: this is the slow part
        assert len(faces) > 0 and np.allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-6, atol=0)
    for strands in subject.strands:
        assert np.isfinite(strands.points).all() and strands.radii.min() > 0
        assert 0 < strands.colours.min() <= strands.colours.max() < 1


CHOICES = [("cloth", "form", name) for name in cloth.FORMS]
CHOICES += [("lettering", "figure", name) for name in ("text", *lettering.FIGURES)]


@pytest.mark.parametrize("family, factor, name", CHOICES)
def test_every_form_and_figure_is_sound_and_repeats(family, factor, name):
    family = FAMILIES[family]
    seed = sum(map(ord, name))
    one, two = (built(family, seed, **{factor: name}) for _ in range(2))
    assert_sound(one)
    # linear algebra may differ in the last bit from call to call; what is rendered is rounded
    assert np.allclose(one.points(), two.points(), rtol=0, atol=1e-12) and one.drawn == two.drawn
    other = built(family, seed + 1, **{factor: name})
    assert other.points().shape != one.points().shape or not np.array_equal(other.points(), one.points())


def test_forms_figures_and_shares_have_the_same_names():
    assert [name for name, _ in cloth.Factors().form] == list(cloth.FORMS)
    assert [name for name, _ in lettering.Factors().figure] == ["text", *lettering.FIGURES]


# ---------------------------------------------------------------- lettering

PLAIN = {"weight": 0.0, "outline": False, "cutout": False, "slant": 0.0, "bevel": 0.0, "bend": 0.0, "lines": 1}
# components less holes
HOLES = {"A": 0, "B": -1, "C": 1, "D": 0, "i": 2, "O": 0, "8": -1, "%": 1, "e": 0, "T": 1, "#": 0}


@pytest.mark.parametrize("font", ["sans", "heavy", "italic"])
@pytest.mark.parametrize("letter", HOLES)
def test_holes_of_letters_stay_holes(font, letter, monkeypatch):
    monkeypatch.setattr(lettering, "_text", lambda rng, f: (lettering._letter(f["font"], letter), letter))
    subject = built(lettering, figure="text", font=font, **PLAIN)
    assert euler(subject.meshes[0]) == 2 * HOLES[letter]  # a handle each hole, twice the plane number
    assert volume(subject.meshes[0]) > 0


@pytest.mark.parametrize("figure", ["keyhole", "scissors", "person", "snowflake"])
def test_a_solid_figure_is_its_mask_times_its_depth(figure):
    sheet = lettering._Sheet()
    lettering.FIGURES[figure](np.random.default_rng(3), sheet)
    mask = sheet.mask()
    expected = mask.mean() * 4  # of the sheet [-1, 1]^2
    mesh = solids.slab(lettering.distance_of(mask), 2 / lettering.GRID, 0.3, 0.0)
    assert volume(mesh) == pytest.approx(expected * 0.3, rel=0.03)
    assert np.ptp(mesh.vertices[:, 1]) == pytest.approx(0.3, abs=1e-6)
    x, z = np.argwhere(mask)[:, 1], np.argwhere(mask)[:, 0]
    pixel = 2 / lettering.DRAWN
    assert mesh.vertices[:, 0].min() == pytest.approx(x.min() * pixel - 1, abs=0.06)  # x to the right
    assert mesh.vertices[:, 2].max() == pytest.approx(1 - z.min() * pixel, abs=0.06)  # z up, needle tips are lost


def test_slab_rounds_its_edges():
    line = np.arange(-0.9, 0.9001, 0.0125)
    disc = np.hypot(line[None], line[:, None]) - 0.6
    depth, bevel = 0.4, 0.15
    # Pappus: a square less a quarter disc goes around, its centroid (10 - 3 pi) / (12 - 3 pi) b from its corner
    centroid = 0.6 - bevel * (10 - 3 * np.pi) / (12 - 3 * np.pi)
    removed = 2 * bevel**2 * (1 - np.pi / 4) * 2 * np.pi * centroid
    sharp, rounded = (solids.slab(disc, 0.0125, depth, b) for b in (0.0, bevel))
    assert volume(sharp) == pytest.approx(np.pi * 0.36 * depth, rel=0.01)
    assert volume(sharp) - volume(rounded) == pytest.approx(removed, rel=0.15)
    assert np.ptp(rounded.vertices[:, 1]) == pytest.approx(depth, abs=1e-3)


def test_weight_slant_bend_outline_and_cutout_do_what_they_say():
    def mesh(**chosen):
        plain = PLAIN | {"depth": 0.1, "tilt": 0.0} | chosen
        return built(lettering, 5, figure="keyhole", **plain).meshes[0]

    base = mesh()
    assert volume(mesh(weight=0.02)) > 1.03 * volume(base) > 1.03 * 1.03 * volume(mesh(weight=-0.02))
    ribbon = mesh(outline=True, ribbon=0.03)
    assert volume(ribbon) < 0.5 * volume(base) and euler(ribbon) == 0 > euler(base)  # rings
    assert mesh(slant=0.3).vertices[:, 2].max() < base.vertices[:, 2].max()  # fitted: wider, so lower
    bent = mesh(bend=2.0)
    assert volume(bent) == pytest.approx(volume(base), rel=0.02)  # the middle keeps its length
    text = {"figure": "text", "font": "sans", "letters": 3, "lines": 1}
    whole, cut = (built(lettering, 5, **(PLAIN | text | {"cutout": c})).meshes[0] for c in (False, True))
    assert volume(cut) > 0 and euler(cut) <= 0 < volume(whole)


def test_text_is_recorded_and_fonts_differ():
    subjects = {
        font: built(lettering, 4, **(PLAIN | {"figure": "text", "font": font, "letters": 4}))
        for font, _ in lettering.Factors().font
    }
    assert all(len(s.drawn["text"]) == 4 for s in subjects.values())
    volumes = [volume(s.meshes[0]) for s in subjects.values()]
    assert min(volumes) > 0 and len(np.unique(np.round(volumes, 4))) == len(volumes)


# ---------------------------------------------------------------- solids with holes


def test_new_solids_are_closed_and_look_outwards():
    for shape in ("perforated", "pierced", "sponge"):
        for seed in range(3):
            mesh = solids.SHAPES[shape](np.random.default_rng(seed), 0.05)
            assert volume(mesh) > 0 and euler(mesh) <= 0, (shape, seed)  # at least one hole
    stone = solids.SHAPES["faceted"](np.random.default_rng(0), 0.05)
    assert volume(stone) > 0 and len(stone.vertices) == 3 * len(stone.faces)


def test_a_perforated_plate_has_as_many_handles_as_holes():
    line = np.linspace(-0.9, 0.9, 145)
    x, z = np.meshgrid(line, line)
    plate = np.maximum(np.abs(x), np.abs(z)) - 0.8
    for kind, holes in ((0, 25), (1, 25), (2, 27)):  # round, square, staggered (3 rows of 5, 2 of 4 and two halves)
        inside = np.maximum(solids._holes(x, z, 0.3, 0.1, kind), plate + 0.05)
        mesh = solids.slab(np.maximum(plate, -inside), line[1] - line[0], 0.08, 0.0)
        assert euler(mesh) == 2 - 2 * holes, kind


def test_mirrors_fold_without_stretching():
    t, s = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-1, 1, 200), indexing="ij")
    flat = np.stack([s, t, 0.1 + 0 * t], -1)
    bent = solids.folded(np.random.default_rng(0), flat, 0.8, 12)
    assert (np.linalg.norm(bent, axis=-1) <= np.linalg.norm(flat, axis=-1) + 12 * 0.01).all()  # never farther out
    assert np.ptp(bent[..., 2]) > 0.3
    for axis in (0, 1):
        step = np.linalg.norm(np.diff(bent, axis=axis), axis=-1) * 199 / 2
        assert step.max() < 1 + 1e-6 and np.median(step) > 0.97  # shorter only where it turns
    assert area(surface(bent)) == pytest.approx(4, rel=0.12)


# ---------------------------------------------------------------- cloth


def test_profile_keeps_its_length():
    angle = 1.1 * np.sin(np.linspace(0, 9, 400))
    curve = cloth.profile(angle, 2.5)
    assert np.linalg.norm(np.diff(curve, axis=0), axis=1).sum() == pytest.approx(2.5, rel=1e-3)
    assert cloth.profile(np.zeros(50), 2.0)[-1] == pytest.approx([2, 0])


@pytest.mark.parametrize("form", ["hung", "draped"])
def test_falling_cloth_keeps_its_area(form, monkeypatch):
    seen = []

    def fallen(rng, sheet, pinned, outside, size):
        seen.append((let_fall(rng, sheet, pinned, outside, size), pinned, outside, size))
        return seen[-1][0]

    let_fall = cloth._fallen
    monkeypatch.setattr(cloth, "_fallen", fallen)
    for seed in range(4):
        cloth.FORMS[form](np.random.default_rng(seed), drawn(cloth, seed))
        sheet, _, outside, size = seen[-1]
        assert area(surface(sheet)) == pytest.approx(size[0] * size[1], rel=0.1)
        assert outside(sheet) == pytest.approx(sheet, abs=1e-9)  # nothing is in what it lies on
        low, high = sheet[..., 2].min(), sheet[..., 2].max()
        assert high - low > 0.2 * min(size)  # it fell


def test_relaxed_sheet_hangs_from_its_pins():
    t, s = np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 12), indexing="ij")
    flat = np.stack([s, -t, 0 * t], -1)  # lies level, held by one edge
    fixed = t == 0
    hanging = cloth.relaxed(flat, (1 / 11, 1 / 11), fixed, lambda p: p, 120, 0.002, 8)
    assert np.array_equal(hanging[0], flat[0])
    assert hanging[-1, :, 2] == pytest.approx(-1, abs=0.1) and np.abs(hanging[-1, :, 1]).max() < 0.3


def test_sheer_cloth_covers_its_share():
    rng = np.random.default_rng
    base = drawn(cloth, sheer=True, edge="straight", holes=0, cover=0.4, pattern_cells=8)
    for weave, share in (("even", 0.4), ("gauze", 0.4), ("stripes", 0.7)):
        cover = cloth._cover(rng(0), base | {"weave": weave})
        assert cover.min() >= 0 and cover.max() <= 1
        assert cover.mean() == pytest.approx(share, abs=0.03), weave
    assert cloth._cover(rng(0), base | {"sheer": False}) is None
    holed = cloth._cover(rng(0), base | {"sheer": False, "holes": 3})
    assert 0.9 < holed.mean() < 1 and set(np.unique(holed)) == {0, 1}
    subject = built(cloth, 1, form="curtain", sheer=True, weave="even", edge="straight", cover=0.3)
    assert subject.meshes[0].material["opacity"] == pytest.approx(0.3)
    assert "opacity" not in built(cloth, 1, form="curtain", sheer=False, edge="straight").meshes[0].material


@pytest.mark.parametrize("edge", ["fringe", "frayed"])
def test_threads_grow_from_the_hem_and_hang(edge):
    subject = built(cloth, 2, form="curtain", edge=edge, threads=100, fringe=0.2, wrinkles=0.0)
    (strands,) = subject.strands
    assert len(strands.points) == subject.drawn["threads_grown"] == 100
    sheet = subject.meshes[0].vertices
    roots = strands.points[:, 1]
    assert cKDTree(sheet).query(roots)[0].max() < 0.05
    assert sheet[:, 2].min() == pytest.approx(np.median(roots[:, 2]), abs=0.06)
    assert (strands.points[:, -1, 2] < roots[:, 2]).mean() > 0.9
    assert not built(cloth, 2, form="curtain", edge="straight").strands


# ---------------------------------------------------------------- the user's own meshes


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "meshes"
    (path / "nested").mkdir(parents=True)
    return path


def own(folder, seed=0, **chosen):
    return built(own_meshes, seed, folder=str(folder), fur=False, **chosen)


def test_ply_in_text_and_in_binary_and_obj_are_the_same_mesh(folder):
    torus = trimesh.creation.torus(0.7, 0.3)
    torus.apply_scale(13).apply_translation((5, 6, 7))
    torus.export(folder / "text.ply", encoding="ascii")
    torus.export(folder / "binary.ply")
    torus.export(folder / "nested" / "third.OBJ", file_type="obj")
    assert [f.name for f in own_meshes.files_of(str(folder))] == ["binary.ply", "third.OBJ", "text.ply"]
    meshes = [own_meshes.read_meshes(str(f))[0] for f in own_meshes.files_of(str(folder))]
    for mesh in meshes:
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(1)
        assert mesh.vertices.max(0) == pytest.approx(-mesh.vertices.min(0))
        assert mesh.vertices[mesh.faces] == pytest.approx(meshes[0].vertices[meshes[0].faces], abs=1e-6)
        assert volume(mesh) == pytest.approx(torus.volume / 13**3, rel=1e-3) and mesh.material == {}
    names = {own(folder, seed).drawn["file"] for seed in range(20)}
    assert names == {"binary.ply", "nested/third.OBJ", "text.ply"}
    assert own(folder / "text.ply").drawn["file"] == "text.ply"


QUADS = """mtllib m.mtl
v -1 -2 0\nv 1 -2 0\nv 1 2 0\nv -1 2 0\nv 1 -2 -3\nv 1 2 -3
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
usemtl paint
f 1/1 2/2 3/3 4/4
f 2/1 5/2 6/3 3/4
"""


def test_quads_of_an_obj_become_triangles_with_its_texture(folder):
    """Corner by corner, as Mitsuba looks it up: the picture's top is where v is 1."""
    import mitsuba as mi

    from synth_data.materials import colour
    from synth_data.render import start

    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text("newmtl paint\nKd 1 1 1\nmap_Kd paint.png\n")
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :4], picture[:4, 4:], picture[4:, :4], picture[4:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    Image.fromarray(picture).save(folder / "paint.png")
    subject = own(folder, own_colour=True, material="diffuse", up="z", upright=True)
    (mesh,) = subject.meshes
    assert len(mesh.faces) == 4
    assert area(mesh) == pytest.approx((8 + 12) / (1 + 4 + 1.5**2))
    start()
    texture = mi.load_dict(colour(mesh.material["colour"]))

    def seen(u, v):
        spot = mi.SurfaceInteraction3f()
        spot.uv = [u, v]
        return np.array(texture.eval(spot)).ravel()

    raw = own_meshes.read_meshes(str(folder / "quads.obj"))[0]
    heights = {0.0: raw.vertices[:, 1].min(), 1.0: raw.vertices[:, 1].max()}
    for vertex, (_, v) in zip(raw.vertices, raw.uv, strict=True):
        assert vertex[1] == pytest.approx(heights[v])
    wanted = {(0.1, 0.9): (1, 0, 0), (0.9, 0.9): (0, 1, 0), (0.1, 0.1): (0, 0, 1), (0.9, 0.1): (1, 1, 1)}
    for (u, v), rgb in wanted.items():
        assert seen(u, v) == pytest.approx(rgb, abs=0.06), (u, v)  # materials stay within [0.003, 0.95]
    plain = own(folder, own_colour=False, texture="plain").meshes[0].material["colour"]
    assert plain.shape == (3,)


def test_cut_outs_in_a_texture_stay_cut_out(folder):
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text("newmtl paint\nmap_Kd paint.png\n")
    picture = np.full((8, 8, 4), 255, np.uint8)
    picture[:4, :, 3] = 0
    Image.fromarray(picture).save(folder / "paint.png")
    for keep in (True, False):
        opacity = own(folder, own_colour=keep).meshes[0].material["opacity"]
        assert (opacity[:4] == 1).all() and (opacity[4:] == 0).all()


@pytest.mark.parametrize(
    "lines, upper, lower",
    [
        ("Kd 1 0 0\nd 0.25", 0.25, 0.25),
        ("Kd 1 0 0\nd 1.0", None, None),
        ("Kd 1 0 0\nd 0.995", None, None),
        ("Kd 1 0 0\nd -halo 0.5", None, None),
        ("map_Kd paint.png\nmap_d grey.png", 0.0, 1.0),
        ("map_Kd paint.png\nMAP_D grey.png\nd 0.5 # glass", 0.0, 0.5),
        ("map_Kd clear.png\nmap_d clear.png", 1.0, 0.2),
        ("map_Kd clear.png", 1.0, 0.2),
        ("map_Kd clear.png\nd 0.5", 0.5, 0.1),
        ("map_Kd paint.png\nmap_d gone.png", None, None),
    ],
)
def test_what_a_library_says_of_opacity(folder, lines, upper, lower):
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text(f"newmtl paint\n{lines}\nnewmtl other\nd 0.7\n")
    grey = np.zeros((8, 4), np.uint8)
    grey[4:] = 255
    Image.fromarray(grey).save(folder / "grey.png")
    clear = np.full((8, 4, 4), 255, np.uint8)
    clear[4:, :, 3] = 51
    Image.fromarray(clear).save(folder / "clear.png")
    painted(folder / "paint.png", "")
    opacity = own_meshes.read_meshes(str(folder / "quads.obj"))[0].material.get("opacity")
    if upper is None:
        assert opacity is None
    else:  # the first row is at v = 0
        assert (opacity[-1, 0], opacity[0, 0]) == pytest.approx((upper, lower))
    assert own_meshes.look(str(folder / "quads.obj")) == (("texture 'gone.png' not found",) if "gone" in lines else ())
    assert_sound(own(folder))


def test_vertex_colours_are_exact_at_corners_and_linear_between(folder):
    box = trimesh.creation.box((1, 2, 3))
    rng = np.random.default_rng(0)
    box.visual.vertex_colors = np.concatenate([rng.integers(0, 256, (8, 3)), np.full((8, 1), 255)], 1).astype(np.uint8)
    box.export(folder / "box.ply")
    (mesh,) = own_meshes.read_meshes(str(folder / "box.ply"))
    texture = mesh.material["colour"]

    def look(uv):  # bilinear, texel centres at (i + 0.5) / n
        x, y = uv * np.array(texture.shape[1::-1]) - 0.5
        i, j = int(np.floor(x + 1e-9)), int(np.floor(y + 1e-9))
        a, b = x - i, y - j
        up, right = min(j + 1, len(texture) - 1), min(i + 1, len(texture) - 1)
        row = texture[[j, j, up, up], [i, right, i, right]]
        return row.T @ [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b]

    srgb = np.asarray(box.visual.vertex_colors)[:, :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)[box.faces]
    for face in range(12):
        corners = mesh.uv[mesh.faces[face]]
        for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.3, 0.5)):
            assert look(np.array(weights) @ corners) == pytest.approx(np.array(weights) @ linear[face], abs=1e-6)


def test_up_stays_up_and_free_rotation_turns_over(folder):
    post = trimesh.creation.box((0.2, 3, 0.4))  # stands along y
    post.export(folder / "post.ply")

    def height(**chosen):
        return np.ptp(own(folder, **chosen).meshes[0].vertices[:, 2])

    longest = np.ptp(own_meshes.read_meshes(str(folder / "post.ply"))[0].vertices[:, 1])
    assert height(upright=True, up="y") == pytest.approx(longest)
    assert height(upright=True, up="z") == pytest.approx(longest * 0.4 / 3)
    assert len({round(height(upright=False, seed=seed), 4) for seed in range(4)}) == 4
    cone = trimesh.creation.cone(0.5, 2)
    cone.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0)))  # tip to +y
    cone.export(folder / "post.obj")
    (mesh,) = built(own_meshes, folder=str(folder / "post.obj"), fur=False, upright=True, up="y").meshes
    top = mesh.vertices[mesh.vertices[:, 2] > 0.9 * mesh.vertices[:, 2].max()]
    assert np.linalg.norm(top[:, :2], axis=1).max() < 0.1  # the tip, not the foot


def test_fur_grows_on_a_mesh(folder):
    trimesh.creation.icosphere(3).export(folder / "ball.ply")
    chosen = {"strands": 300, "length": 0.1, "radius": 0.004, "fur": True}
    subject = built(own_meshes, folder=str(folder), **chosen)
    (strands,) = subject.strands
    assert len(strands.points) == 300
    far = np.linalg.norm(strands.points, axis=2)
    assert far[:, 1:3].min() > 0.85 and far[:, :2].min() < 1.05 and far.max() < 1.6  # from the skin outwards
    assert (far[:, -1] > 0.98).mean() > 0.9
    assert_sound(subject)
    again = built(own_meshes, folder=str(folder), **chosen)
    assert np.array_equal(again.strands[0].points, strands.points)


def test_reading_is_cached_and_building_does_not_touch_it(folder):
    trimesh.creation.box((1, 1, 1)).export(folder / "box.ply")
    before = own_meshes.read_meshes(str(folder / "box.ply"))
    vertices = before[0].vertices.copy()
    own(folder)
    (again,) = own_meshes.read_meshes(str(folder / "box.ply"))
    assert again.vertices is before[0].vertices and np.array_equal(again.vertices, vertices)
    assert again.material == {}


def test_meshes_are_kept_up_to_a_limit_and_textures_in_the_memory_of_their_files(folder, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "paint.png")
    (folder / "m.mtl").write_text("newmtl paint\nmap_Kd paint.png\n")
    paths = [str(folder / f"{k}.obj") for k in range(3)]
    for path in paths:
        Path(path).write_text(QUADS)
    own_meshes._cached.clear()
    for path in (*paths, *paths):
        (mesh,) = own_meshes.read_meshes(path)
        assert np.array_equal(mesh.material["colour"], srgb_to_linear(noise[::-1].astype(np.float64) / 255))
    (kept,) = own_meshes._cached[paths[0]]
    assert kept.material["colour"].nbytes == noise.nbytes
    monkeypatch.setattr(own_meshes, "MEMORY", 2 * own_meshes._size((kept,)))
    own_meshes.read_meshes(paths[0])
    trimesh.creation.box((1, 1, 1)).export(folder / "box.ply")
    own_meshes.read_meshes(str(folder / "box.ply"))
    assert list(own_meshes._cached) == [paths[0], str(folder / "box.ply")]


EMPTY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
ONE_FACE = EMPTY.replace("end_header", "element face 1\nproperty list uchar int vertex_indices\nend_header")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.ply", EMPTY + "0 0 0\n1 0 0\n0 1 0\n", ("has no faces", "a.ply")),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", ("a.obj",)),
        ("a.ply", ONE_FACE + "0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", ("not finite", "a.ply")),
        ("a.obj", "v 0 0 inf\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ("not finite", "a.obj")),
        ("a.ply", ONE_FACE + "1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", ("no extent", "a.ply")),
        ("a.ply", ONE_FACE + "0 0 0\n0.1 0.2 0.3\n0.3 0.6 0.9\n3 0 1 2\n", ("no area", "a.ply")),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 2\nf 3 3 1\n", ("no area", "a.obj")),
        ("a.ply", "this is not a mesh", ("cannot be read", "a.ply")),
        ("a.ply", ONE_FACE + "0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", ("a.ply",)),
        ("a.obj", b"\x00\xff\xfe\x81 rubbish", ("a.obj",)),
    ],
)
def test_a_bad_mesh_is_named_with_the_remedy(folder, name, content, words):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        own(folder)
    message = str(error.value)
    assert "\n" not in message and message.startswith("own_meshes: folder: ") and "take it out" in message
    for word in words:
        assert word in message


def test_a_bad_folder_is_named_when_the_recipe_is_read(folder, tmp_path):
    def refused(path, kind):
        with pytest.raises(kind) as error:
            own_meshes.check(read_table(own_meshes.Factors, {"folder": path}, "x.yaml"), "x.yaml: own_meshes")
        assert str(error.value).startswith("x.yaml: own_meshes: folder: ") and "\n" not in str(error.value)
        return str(error.value)

    assert "is empty" in refused("", ValueError)
    assert "nothing at" in refused(str(tmp_path / "missing"), FileNotFoundError)
    assert "no mesh (.obj, .ply, .glb, .gltf) in" in refused(str(folder), ValueError)
    (folder / "note.txt").write_text("x")
    assert "is not a mesh" in refused(str(folder / "note.txt"), ValueError)
    for wrong in (3, ["a", "b"], {3: 1}):
        with pytest.raises(ValueError, match=r"x\.yaml: own_meshes\.folder: .* is not a path; give PATH, or {PATH:"):
            read_table(own_meshes.Factors, {"folder": wrong}, "x.yaml: own_meshes")
    for wrong, words in (({"a": -1}, r"folder\.a: -1 is out of range"), ({"a": 0}, "every share is zero")):
        with pytest.raises(ValueError, match=words):
            read_table(own_meshes.Factors, {"folder": wrong}, "x.yaml: own_meshes")
    trimesh.creation.box((1, 1, 1)).export(folder / "box.ply")
    table = read_table(own_meshes.Factors, {"folder": str(folder)}, "x.yaml")
    own_meshes.check(table, "x.yaml: own_meshes")
    assert draw(np.random.default_rng(0), table)["folder"] == str(folder)
    with pytest.raises(ValueError, match="x.yaml: own_meshes: folder: is empty"):
        parse_recipe("{name: x, families: {own_meshes: 1}}", "x.yaml")
    parse_recipe("{name: x, families: {own_meshes: 0, cloth: 1}}", "x.yaml")  # not used, not asked for
    assert "nothing at" in refused({str(folder): 1, str(tmp_path / "missing"): 1}, FileNotFoundError)
    own_meshes.check(read_table(own_meshes.Factors, {"folder": {str(folder): 1, "missing": 0}}, "x"), "x")  # not used


def test_folders_are_drawn_by_their_shares_and_their_files_alike(folder):
    for k in range(30):
        (folder / "many").mkdir(exist_ok=True)
        trimesh.creation.box((1, 1, 1)).export(folder / "many" / f"{k}.ply")
    trimesh.creation.box((1, 1, 1)).export(folder / "nested" / "one.ply")
    shares = {str(folder / "many"): 1, str(folder / "nested"): 3}
    text = json.dumps({"name": "x", "families": {"own_meshes": 1}, "own_meshes": {"folder": shares}})
    recipe = parse_recipe(text, "x.yaml")
    assert recipe.inputs() == list(shares)
    assert parse_recipe(recipe_text(recipe, "again"), "x.yaml").tables["own_meshes"] == recipe.tables["own_meshes"]
    rng, files = np.random.default_rng(0), []
    for _ in range(400):
        drawn = draw(rng, recipe.tables["own_meshes"]) | {"fur": False}
        files.append((Path(drawn["folder"]).name, own_meshes.build(rng, drawn).drawn["file"]))
    assert np.mean([name == "nested" for name, _ in files]) == pytest.approx(0.75, abs=0.06)
    assert len({file for name, file in files if name == "many"}) > 20


def test_a_folder_alone_is_drawn_without_a_random_number(folder):
    """So that recipes with one folder keep their pictures."""
    given = ({"folder": str(folder)}, {"folder": {str(folder): 0.2}}, {"folder": {str(folder): 2, "b": 0}}, {})
    tables = [read_table(own_meshes.Factors, values, "x") for values in given]
    first, *rest = (draw(np.random.default_rng(3), table) for table in tables)
    assert first["folder"] == rest[0]["folder"] == rest[1]["folder"] == str(folder)
    assert all(first | {"folder": ""} == other | {"folder": ""} for other in rest)
    generator = np.random.default_rng(3)
    assert first["upright"] == bool((generator.random(), generator.random())[1] < 0.7)  # `up` takes the first


def painted(path, name, colour=(255, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(path)
    return name


@pytest.mark.parametrize(
    "named, place",
    [
        ("paint.png", "paint.png"),
        ("./paint.png", "paint.png"),
        ("textures\\paint.png", "textures/paint.png"),
        ("..\\shared\\paint.png", "../shared/paint.png"),
        ("../textures/paint.png", "../textures/paint.png"),
        ("TEXTURES/Paint.PNG", "textures/paint.png"),
        ("C:\\Documents and Settings\\Ann\\textures\\paint.png", "textures/paint.png"),
        ("K:/wood/paint.png", "paint.png"),
        ("/home/ann/models/paint.png", "paint.png"),
        ("paint.png", "Textures/paint.png"),
        ("wood/paint.png", "../maps/paint.png"),
        ('"my paint.png"', "my paint.png"),
        ("-s 2 2 1 -o 0 0 0 -clamp on my paint.png", "my paint.png"),
        ("Mu\u0308sli.png", "M\u00fcsli.png"),
    ],
)
def test_textures_are_found_where_other_programs_find_them(folder, named, place):
    painted(folder / place, "")
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text(f"newmtl paint\nKd 0 0 1\nmap_Kd {named}\n", encoding="utf-8")
    (mesh,) = own_meshes.read_meshes(str(folder / "quads.obj"))
    assert mesh.material["colour"] == pytest.approx(np.broadcast_to((1, 0, 0), (4, 4, 3)))
    assert own_meshes.look(str(folder / "quads.obj")) == ()


def test_the_nearest_texture_of_a_name_is_taken(folder):
    painted(folder / "textures" / "paint.png", "", (0, 255, 0))
    painted(folder / "Paint.png", "", (0, 0, 255))
    painted(folder / "paint.png", "")
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text("newmtl paint\nmap_Kd z:\\paint.png\n")
    for place, colour in (("paint.png", (1, 0, 0)), ("Paint.png", (0, 0, 1)), ("textures/paint.png", (0, 1, 0))):
        own_meshes._cached.clear()
        (mesh,) = own_meshes.read_meshes(str(folder / "quads.obj"))
        assert mesh.material["colour"][0, 0] == pytest.approx(colour)
        (folder / place).unlink()


def test_what_a_mesh_names_and_lacks_is_said(folder):
    (folder / "quads.obj").write_text(QUADS)
    file = str(folder / "quads.obj")
    assert own_meshes.look(file) == ("material library 'm.mtl' not found",)
    (folder / "m.mtl").write_text("newmtl paint\nKd 0 0 1\nmap_Kd d:\\gone.png\n")
    assert own_meshes.look(file) == ("texture 'd:\\gone.png' not found",)
    assert own_meshes.read_meshes(file)[0].material["colour"] == pytest.approx([0, 0, 1])  # the material's colour
    painted(folder / "gone.png", "")
    (folder / "gone.png").write_bytes((folder / "gone.png").read_bytes()[:45])
    (line,) = own_meshes.look(file)
    assert line.startswith("texture 'd:\\gone.png' cannot be read (")


def test_material_libraries_of_any_name_number_and_encoding(folder):
    painted(folder / "t\u00fcr.png", "")
    lines = "mtllib None.mtl\nmtllib a b.mtl c.mtl d.mtl\n"
    body = QUADS.split("\n", 1)[1].replace("usemtl paint", "usemtl t\u00fcr")
    (folder / "quads.obj").write_bytes((lines + body).replace("\n", "\r\n").encode("cp1252"))
    (folder / "quads.mtl").write_text("newmtl other\nKd 0 1 0\n")
    (folder / "d.mtl").write_bytes("newmtl t\u00fcr\nmap_Kd t\u00fcr.png\n".encode("cp1252"))
    (mesh,) = own_meshes.read_meshes(str(folder / "quads.obj"))
    assert mesh.material["colour"][0, 0] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize(
    "lines, colour, words",
    [
        ("Kd 0.5", [0.214] * 3, None),
        ("Kd 0,5 0,5 1,0 # paint", [0.214, 0.214, 1], None),
        ("Kd 0 1 0 1 1", [0, 1, 0], None),
        ("Kd 0 1 0\nNs 10 20\nKs none", [0, 1, 0], None),
        ("Kd 0 1 0\nd -halo 0.5\nTf", [0, 1, 0], None),
        ("Kd 0 1 0\nKd spectral paint.rfl", [0, 1, 0], "'Kd spectral paint.rfl' cannot be read"),
        ("Kd 0 1 0\nKd nan 0 0", [0, 1, 0], "'Kd nan 0 0' cannot be read"),
    ],
)
def test_one_odd_line_costs_no_material(folder, lines, colour, words):
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text(f"map_Kd stray.png\nnewmtl paint\n{lines}\nnewmtl other\nKd 1 1 1\n")
    file = str(folder / "quads.obj")
    assert own_meshes.read_meshes(file)[0].material["colour"] == pytest.approx(colour, abs=2e-3)
    notes = own_meshes.look(file)
    assert notes == () if words is None else len(notes) == 1 and words in notes[0]


def test_a_material_that_is_not_defined_is_said_and_is_not_grey(folder):
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text("newmtl other\nKd 1 1 1\n")
    assert own_meshes.look(str(folder / "quads.obj")) == ("material 'paint' is not defined",)
    assert own_meshes.read_meshes(str(folder / "quads.obj"))[0].material == {}  # so that `build` draws a colour


def test_a_16_bit_texture_is_read(folder):
    (folder / "quads.obj").write_text(QUADS)
    (folder / "m.mtl").write_text("newmtl paint\nmap_Kd paint.png\n")
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(folder / "paint.png")
    (mesh,) = own_meshes.read_meshes(str(folder / "quads.obj"))
    assert mesh.material["colour"] == pytest.approx(0.2159, abs=1e-3)
    assert own_meshes.look(str(folder / "quads.obj")) == ()


TETRAHEDRON = "o body\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl a\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"


@pytest.mark.parametrize(
    "part, words",
    [
        ("v .5 .5 .5\nv .5 .5 .5\nv .5 .5 .5\nusemtl b\nf 5 6 7\n", "no extent"),
        ("v 8 8 8\nv 9 9 9\nv 10 10 10\nusemtl b\nf 5 6 7\n", "no area"),
        ("v nan 8 8\nv 9 9 9\nv 10 11 10\nusemtl b\nf 5 6 7\n", "not finite"),
        ("usemtl b\n", None),
    ],
)
def test_a_part_that_cannot_be_rendered_is_left_out(folder, part, words):
    (folder / "m.mtl").write_text("newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n")
    (folder / "a.obj").write_text("mtllib m.mtl\n" + TETRAHEDRON)
    (folder / "b.obj").write_text("mtllib m.mtl\n" + TETRAHEDRON + "o speck\n" + part)
    ((whole,), kept) = (own_meshes.read_meshes(str(folder / name)) for name in ("a.obj", "b.obj"))
    assert len(kept) == 1 and np.array_equal(kept[0].vertices, whole.vertices)
    notes = own_meshes.look(str(folder / "b.obj"))
    assert (words is None and not notes) or (len(notes) == 1 and words in notes[0] and "left out" in notes[0])
    assert_sound(own(folder / "b.obj"))


def test_a_part_too_small_for_the_renderer_is_not_rendered(folder):
    from synth_data.render import _shapes, start

    speck = "v 2 0 0\nv 2.0000001 0 0\nv 2 .0000001 0\nusemtl b\nf 5 6 7\n"
    (folder / "m.mtl").write_text("newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n")
    (folder / "a.obj").write_text("mtllib m.mtl\n" + TETRAHEDRON + speck)
    subject = own(folder)
    assert len(subject.meshes) == 2
    start()
    assert len(_shapes([subject], str(folder), "subject")) == 1


def test_a_mesh_that_cannot_be_read_is_passed_over_where_there_are_others(folder):
    trimesh.creation.box((1, 1, 1)).export(folder / "good.ply")
    (folder / "torn.ply").write_text("not a mesh")
    assert {own(folder, seed).drawn["file"] for seed in range(6)} == {"good.ply"}
    (folder / "good.ply").unlink()
    own_meshes._listed.cache_clear()
    with pytest.raises(ValueError, match=r"torn\.ply"):
        own(folder)


def test_hidden_files_are_no_meshes_and_linked_folders_are_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for place in (folder / "a.ply", folder / "._a.ply", folder / ".git" / "b.ply", tmp_path / "elsewhere" / "c.ply"):
        place.parent.mkdir(exist_ok=True)
        trimesh.creation.box((1, 1, 1)).export(place)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    assert own_meshes.files_of(str(folder)) == [folder / "a.ply", folder / "linked" / "c.ply"]
