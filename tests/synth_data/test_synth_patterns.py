"""Foliage, lattices and wires: the geometry is what the factors say, sound, and within its budget."""

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from synth_data.factors import draw
from synth_data.materials import KINDS
from synth_data.subjects import foliage, lattice, wires
from synth_data.subjects.foliage import leaves, potted
from synth_data.subjects.lattice import cut_outs, sheets, textiles
from synth_data.subjects.meshes import TRANSMISSIVE, Subject, ball, shaded
from synth_data.subjects.repeated import along, copied, facing, grids, rounded, swept, transported
from synth_data.subjects.wires import wheels

CASES = [(m, key, name) for m, key in ((foliage, "plant"), (lattice, "pattern"), (wires, "shape"))
         for name, _ in getattr(m.Factors(), key)]  # fmt: skip
TRIANGLES, STRANDS = 200_000, 20_000


def drawn(family, seed, **fixed):
    return {**draw(np.random.default_rng(seed), family.Factors()), **fixed}


@pytest.mark.parametrize(("family", "key", "name"), CASES, ids=[name for *_, name in CASES])
def test_every_kind_is_sound_in_place_within_its_budget_and_the_same_again(family, key, name):
    for seed in (1, 2):
        factors = drawn(family, seed, **{key: name})
        subject = family.build(np.random.default_rng(seed), factors)
        points = subject.points()
        assert np.isfinite(points).all()
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)
        assert points.min(0) + points.max(0) == pytest.approx(np.zeros(3), abs=1e-9)
        assert sum(len(m.faces) for m in subject.meshes) <= TRIANGLES
        assert sum(len(s.points) for s in subject.strands) <= STRANDS
        for mesh in subject.meshes:
            assert mesh.material["kind"] in KINDS
            assert mesh.uv.shape == (len(mesh.vertices), 2) and mesh.uv.min() >= 0 and mesh.uv.max() <= 1
            assert mesh.faces.min() >= 0 and mesh.faces.max() < len(mesh.vertices)
            colour = np.asarray(mesh.material["colour"])
            assert colour.shape[-1] == 3 and colour.min() >= 0 and colour.max() <= 1
            if "opacity" in mesh.material:
                assert mesh.material["opacity"].min() >= 0 and mesh.material["opacity"].max() <= 1
            if seed == 2:  # slow
                continue
            vertices, normals, _, faces = shaded(mesh)
            assert len(faces) > 0.5 * len(mesh.faces)  # the rest are caps and tips of no area
            assert np.isfinite(normals).all() and np.linalg.norm(normals, axis=1) == pytest.approx(1)
        for strands in subject.strands:
            number, length = strands.radii.shape
            assert length >= 4 and strands.radii.min() > 0
            assert strands.points.shape == (number, length, 3) and strands.colours.shape == (number, length - 3, 3)
            assert strands.colours.min() >= 0 and strands.colours.max() <= 1
        if name != "glasses":
            assert not any(m.material["kind"] in TRANSMISSIVE for m in subject.meshes)
        again = family.build(np.random.default_rng(seed), factors)
        assert np.array_equal(again.points(), points) and again.drawn == subject.drawn
        other = family.build(np.random.default_rng(seed + 10), factors).points()
        assert other.shape != points.shape or np.abs(other - points).max() > 0.01


@pytest.mark.parametrize("family", [foliage, lattice, wires])
def test_build_is_quick(family):
    """0.3 s is the aim; the bound leaves room for a loaded machine."""
    family.build(np.random.default_rng(0), drawn(family, 0))
    start = time.process_time()
    for seed in range(12):
        family.build(np.random.default_rng(seed), drawn(family, seed))
    assert (time.process_time() - start) / 12 < 0.6


# ---------------------------------------------------------------- many alike


def test_a_swept_wire_has_its_radius_and_a_closed_one_no_seam():
    a = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    knot = np.stack([np.sin(a) + 2 * np.sin(2 * a), np.cos(a) - 2 * np.cos(2 * a), -np.sin(3 * a)], 1)
    paths = np.stack([knot, 0.5 * knot[:, [1, 2, 0]]])
    mesh = swept(paths, np.array([[0.1], [0.03]]), 8, closed=True)
    rings = mesh.vertices.reshape(2, 91, 9, 3)
    for k, radius in enumerate((0.1, 0.03)):
        distance = np.linalg.norm(rings[k, :90] - paths[k][:, None], axis=-1)
        assert distance == pytest.approx(np.full_like(distance, radius))
    assert rings[:, 0] == pytest.approx(rings[:, -1])
    steps = np.linalg.norm(np.diff(rings, axis=1), axis=-1)  # spin left over would make the last one long
    lengths = np.linalg.norm(np.diff(np.concatenate([paths, paths[:, :1]], 1), axis=1), axis=-1)
    assert (steps[:, -1].max(-1) < 1.35 * lengths[:, -1]).all()


def test_frames_carried_along_are_orthonormal_and_do_not_spin():
    path = along(np.random.default_rng(0).normal(size=(6, 3)), 3000)[None]
    t, n, b = transported(path)
    assert np.einsum("nki,nki->nk", t, n) == pytest.approx(np.zeros((1, 3000)), abs=1e-9)
    assert np.cross(t, n) == pytest.approx(b)
    turned = np.diff(n, axis=1)
    spin = np.einsum("nki,nki->nk", turned, (b[:, 1:] + b[:, :-1]) / 2)
    assert np.abs(spin).max() < 1e-3 < np.linalg.norm(turned, axis=-1).max()


def test_copies_and_grids_are_the_loops_they_replace():
    rng = np.random.default_rng(0)
    mesh = ball(0.3, rows=5)
    turns, shifts = facing(rng.normal(size=(4, 3)), rng.normal(size=(4, 3))), rng.normal(size=(4, 3))
    assert np.einsum("nji,njk->nik", turns, turns) == pytest.approx(np.broadcast_to(np.eye(3), (4, 3, 3)), abs=1e-9)
    many = copied(mesh, turns, shifts)
    for k in range(4):
        part = many.vertices[k * len(mesh.vertices) : (k + 1) * len(mesh.vertices)]
        assert part == pytest.approx(mesh.vertices @ turns[k].T + shifts[k])
        faces = many.faces[k * len(mesh.faces) : (k + 1) * len(mesh.faces)]
        assert np.array_equal(faces - k * len(mesh.vertices), mesh.faces)
    sheet = grids(rng.normal(size=(3, 4, 5, 3)))
    assert len(sheet.faces) == 3 * 2 * 3 * 4
    assert (sheet.faces.reshape(3, -1) // 20 == np.arange(3)[:, None]).all()


def test_rounded_corners_stay_near_the_polyline_and_paths_meet_their_points():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    path = rounded(square, 0.2, closed=True, steps=7)
    assert np.linalg.norm(path[:, None] - square, axis=-1).min(0) == pytest.approx(
        np.full(4, 0.2 * np.sqrt(2) / 4), rel=1e-6
    )
    assert rounded(square, 0.2)[[0, -1]] == pytest.approx(square[[0, -1]])
    points = np.random.default_rng(1).normal(size=(5, 3))
    assert cKDTree(along(points, 4000)).query(points)[0].max() < 5e-3


# ---------------------------------------------------------------- lattices


def silhouette(subject, size=1200):
    """Share of the middle of the xz projection that triangles cover, drawn by Pillow."""
    picture = Image.new("1", (size, size))
    pen = ImageDraw.Draw(picture)
    for mesh in subject.meshes:
        xy = (mesh.vertices[:, [0, 2]] + 1) / 2 * size
        for face in mesh.faces:
            pen.polygon([tuple(xy[i]) for i in face], fill=1)
    return np.asarray(picture)


def test_welded_mesh_is_as_open_as_drawn():
    """Against counted pixels of whole cells of the projected triangles."""
    for cells, openness in ((8, 0.6), (12, 0.85)):
        factors = drawn(lattice, 3, pattern="welded", form="flat", cells=cells, openness=openness,
                        irregular=0.0, sag=0.0, torn=False)  # fmt: skip
        sheet = sheets.Sheet(lambda uv, w=0.0: np.stack([uv[..., 0], np.asarray(w) + 0 * uv[..., 0], uv[..., 1]], -1),
                              lambda uv: np.ones(uv.shape[:-1], bool))  # fmt: skip
        radius = sheets.thread_radius(cells, openness)
        meshes = [
            sheets.lay_wires(sheet, sheets.straight_rows(cells, 9, across), 0.0, radius, 12) for across in (True, False)
        ]
        covered = silhouette(Subject(meshes))
        assert 1 - covered.mean() == pytest.approx(openness, abs=0.02)
        assert lattice.build(np.random.default_rng(0), factors).meshes


def test_perforated_sheet_and_lace_are_as_open_as_drawn():
    for seed in range(6):
        for pattern, share in (("perforated", 1.0), ("lace", 0.8)):
            rng = np.random.default_rng(seed)
            openness = rng.uniform(0.3, 0.9)
            if pattern == "lace":
                field, inside = cut_outs._lace_field(rng, 12, 512)
                opacity = cut_outs.coverage(field, share * openness, inside, 0.3)[inside]
                assert 0.7 < inside.mean() < 1
            else:
                opacity = cut_outs.coverage(cut_outs._hole_field(rng, 12, 512), openness).ravel()
            assert 1 - opacity.mean() == pytest.approx(share * openness, abs=0.06)


def test_a_diamond_net_meets_at_its_knots_and_repeats():
    uv = sheets.zigzags(8, 6, 0.0, 4)
    knots = uv[:, ::4]  # [8, 7, 2]
    for j in range(7):
        for i in range(7):
            if (i + j) % 2 == 0:
                assert knots[i, j] == pytest.approx(knots[i + 1, j])
            else:
                assert knots[i + 1, j, 0] - knots[i, j, 0] == pytest.approx(2 * 2 / 8)
    assert uv[2:] - uv[:-2] == pytest.approx(np.broadcast_to((0.5, 0.0), uv[2:].shape))


def test_hexagons_run_together_for_their_dwell():
    uv = sheets.zigzags(6, 4, 0.4, 50)
    together = np.abs(uv[1:, :, 0] - uv[:-1, :, 0]) < 1e-9
    assert together.mean() == pytest.approx(0.4 / 2, abs=0.02)


def test_a_torn_sheet_has_nothing_in_its_holes_and_an_intact_one_is_whole():
    factors = drawn(lattice, 5, pattern="welded", form="flat", torn=True, irregular=0.0, cells=20)
    rng = np.random.default_rng(7)
    sheet = sheets.make_sheet(rng, factors)
    uv = sheets.straight_rows(20, 41, True)
    kept = sheet.keep(uv)
    assert 0.2 < kept.mean() < 0.999
    torn, whole = (
        sheets.lay_wires(s, uv, 0.0, 0.01, 6)
        for s in (sheet, sheets.Sheet(sheet.place, lambda p: np.ones(p.shape[:-1], bool)))
    )
    rings = np.concatenate([kept[:, :1], kept, kept[:, -1:]], 1).repeat(7, 1).ravel()
    assert rings[torn.faces].all() and len(torn.faces) < len(whole.faces)
    strands = sheets.cut_strands(sheet.place(uv, 0.0), kept, 0.01, np.ones(3))
    lost = cKDTree(sheet.place(uv[~kept], 0.0))
    assert lost.query(strands.points.reshape(-1, 3))[0].min() > 1e-4


def test_pieces_of_yarn_join_to_one_spline():
    """Where a piece ends the next begins, in position and direction (a uniform cubic B-spline's)."""
    t = np.linspace(0, 3, 53)
    path = np.stack([np.cos(t), np.sin(t), t], 1)[None]
    pieces = sheets.cut_strands(path, np.ones((1, 53), bool), 0.01, np.ones(3)).points
    ends = (pieces[:-1, -3] + 4 * pieces[:-1, -2] + pieces[:-1, -1]) / 6
    starts = (pieces[1:, 0] + 4 * pieces[1:, 1] + pieces[1:, 2]) / 6
    assert np.abs(ends - starts).max() < 1e-5
    assert (pieces[0, 0] + 4 * pieces[0, 1] + pieces[0, 2]) / 6 == pytest.approx(path[0, 0], abs=1e-5)
    assert cKDTree(pieces.reshape(-1, 3)).query(path[0])[0].max() < 1e-5


def test_knitted_rows_are_periodic_and_pass_through_one_another():
    uv, w = textiles._stitches(12, 9, 0.02)
    assert uv[:, 14:] - uv[:, :-14] == pytest.approx(np.broadcast_to((2 / 12, 0), uv[:, 14:].shape))
    assert w[:, 14:] == pytest.approx(w[:, :-14], abs=1e-9)
    assert uv[1:] - uv[:-1] == pytest.approx(np.broadcast_to((0, 2 / 9), uv[1:].shape))
    assert (uv[1:, :, 1].min(1) < uv[:-1, :, 1].max(1)).all()  # a row's feet are below the heads of the one before
    assert np.abs(w).max() > 0.02  # yarn of that radius passes before and behind


# ---------------------------------------------------------------- wires


def test_wires_have_the_drawn_radius():
    """A hanger's wire, measured as the distance of its skin from its own middle line."""
    for radius in (0.006, 0.02):
        factors = drawn(wires, 0, shape="whisk", radius=radius, bend=0.0)
        subject = wires.build(np.random.default_rng(1), factors)
        main = subject.meshes[subject.drawn["roles"].index("main")]
        rings = main.vertices.reshape(-1, 52, 8, 3)[:, 1:-1, :7]  # 7 sides, less the caps and the seam
        reach = np.linalg.norm(rings - rings.mean(2, keepdims=True), axis=-1)
        assert reach == pytest.approx(np.full_like(reach, radius * subject.drawn["scale"]), rel=1e-6)


def test_a_wheel_has_its_spokes_between_hub_and_rim():
    parts = wheels._wheel_at(np.random.default_rng(2), 0.01, 1.0, (0, 0, 0), True)
    spokes = parts["spokes"][0].vertices.reshape(-1, 4, 7, 3)[:, 1:3, :6].mean(2)  # middles of both ends
    assert len(spokes) in (16, 20, 24, 28, 32, 36)
    radius = np.linalg.norm(spokes[..., [0, 2]], axis=-1)
    assert radius[:, 0] == pytest.approx(np.full(len(spokes), 0.07))
    assert radius[:, 1] == pytest.approx(np.full(len(spokes), 0.9))
    angle = np.sort(np.arctan2(spokes[:, 1, 2], spokes[:, 1, 0]))
    assert np.diff(angle) == pytest.approx(np.full(len(spokes) - 1, 2 * np.pi / len(spokes)))


def test_lenses_alone_decide_whether_light_passes():
    for lenses, passes in (("none", False), ("dark", False), ("clear", True)):
        subject = wires.build(np.random.default_rng(0), drawn(wires, 0, shape="glasses", lenses=lenses))
        assert subject.transmissive() == passes
        assert ("lens" in subject.drawn["roles"]) == (lenses != "none")


# ---------------------------------------------------------------- foliage


def test_leaves_start_at_their_stalk_and_stalks_at_a_stem():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        factors = drawn(foliage, seed, plant="vine", leaf=("heart", "round", "ovate", "linear")[seed])
        plant = potted.vine(rng, factors)
        skin = cKDTree(np.concatenate([m.vertices for m in plant.stems]))
        stalks = plant.stems[-1].vertices.reshape(-1, 4, 5, 3)
        twigs = cKDTree(np.concatenate([m.vertices for m in plant.stems[:-1]]))
        assert twigs.query(stalks[:, 0, 0])[0].max() < 0.06  # between two rings of a stem
        blades = plant.leaves[0]
        kind = factors["leaf"] if factors["leaf"] != "linear" else "heart"
        size = len(blades.vertices) // (len(blades.faces) // len(leaves.leaf(rng, kind, 0.5, False).faces))
        feet = blades.vertices.reshape(-1, size, 3)[:, 1]  # the middle of the first row
        assert skin.query(feet)[0].max() < 1e-6


def test_a_leaf_starts_at_the_origin_and_keeps_its_outline_when_it_curls():
    for kind, _ in foliage.Factors().leaf:
        flat, curled = (leaves.leaf(np.random.default_rng(3), kind, curl, True) for curl in (0.0, 1.5))
        assert np.linalg.norm(flat.vertices, axis=1).min() == pytest.approx(0, abs=1e-12)
        assert np.linalg.norm(curled.vertices, axis=1).min() == pytest.approx(0, abs=1e-12)
        assert np.array_equal(flat.faces, curled.faces)
        assert np.abs(flat.vertices - curled.vertices).max() > 0.02
        assert 0.5 < np.ptp(flat.vertices[:, 1]) < 1.6
        assert flat.vertices[:, 0].min() == pytest.approx(-flat.vertices[:, 0].max(), abs=0.02)


def test_leaf_textures_follow_the_season():
    def mean(season):
        return np.mean([leaves.leaf_texture(np.random.default_rng(k), season).mean((0, 1)) for k in range(6)], 0)

    green, autumn, silver = mean("green"), mean("autumn"), mean("silver")
    assert green[1] > 1.3 * green[0] and green[1] > 1.3 * green[2]
    assert autumn[0] > 1.3 * autumn[1] > 1.3 * autumn[2]
    assert np.ptp(silver) < 0.4 * silver.mean()


def test_denser_plants_have_more_leaves_and_eaten_ones_holes():
    sparse, dense = (
        foliage.build(np.random.default_rng(2), drawn(foliage, 2, plant="bush", density=d, eaten=True))
        for d in (0.5, 1.2)
    )
    leaves = [next(m for m in s.meshes if "opacity" in m.material) for s in (sparse, dense)]
    assert len(leaves[1].faces) > 1.6 * len(leaves[0].faces)
    assert 0.4 < leaves[0].material["opacity"].mean() < 0.99
