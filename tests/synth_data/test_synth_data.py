"""The renderer: the same bytes however it is run, exact alpha, honest compositing, clear refusals."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import trimesh
import yaml
from PIL import Image
from scipy.spatial import cKDTree

from synth_data import workers
from synth_data.__main__ import main
from synth_data.backgrounds import KINDS, BackgroundFactors, draw_background
from synth_data.colour import linear_to_srgb, srgb_to_linear
from synth_data.compose import HIGHLIGHT, expose, mean_colour
from synth_data.drawing import contact_sheet
from synth_data.factors import draw, pick
from synth_data.recipe import load_recipe, parse_recipe
from synth_data.render import _guarded, render_foreground, separated, start
from synth_data.scene import BACKGROUND_STREAM, PICTURE_STREAM, Camera, Lamp, Scene, describe, stream
from synth_data.store import Pair, read_metadata, read_pair, write_pair
from synth_data.subjects import FAMILIES, fur, solids
from synth_data.subjects.meshes import Strands, Subject, ball, box, join, lathe, shaded, tube
from synth_data.template import TABLES, meanings

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))
SIZE, SEED, COUNT, SHARED = 24, 7, 24, 3
TINY = f"""
name: tiny
samples_per_pixel: 4
composites_per_foreground: {SHARED}
families: {{fur: 1, solids: 1}}
fur: {{strands: [100, 200]}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


def render(recipe_file, output, *more, seed=SEED, size=SIZE):
    """Runs the command in this process; returns the exit code."""
    command = ["render", "--recipe", recipe_file, "--seed", seed, "--size", size, "--output", output, *more]
    return main([str(word) for word in command])


def all_gone(group, seconds=60):
    """Whether no process of a process group is left, soon: Python's own resource tracker outlives its run a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = []
        for process in psutil.process_iter(["status"]):
            try:
                left.append(os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE)
            except ProcessLookupError:
                pass
        if not any(left):
            return True
        time.sleep(0.05)
    return False


def tree(folder):
    """Relative path -> bytes of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def rendered(recipe_file, tmp_path_factory):
    """COUNT samples rendered by two workers."""
    folder = tmp_path_factory.mktemp("rendered") / "set"
    assert render(recipe_file, folder, "--count", COUNT, "--workers", 2) == 0
    return folder


@pytest.fixture(scope="module")
def pairs(rendered):
    return [read_pair(rendered, row) for _, row in sorted(read_metadata(rendered).items())]


# ---------------------------------------------------------------- the same bytes, however it is run


def test_one_sample_alone_has_the_same_bytes(recipe_file, rendered, tmp_path):
    assert render(recipe_file, tmp_path / "one", "--indices", "13:14") == 0
    alone, whole = tree(tmp_path / "one"), tree(rendered)
    assert sorted(name for name in alone if name.endswith("png")) == ["alpha/000013.png", "images/000013.png"]
    assert all(alone[name] == whole[name] for name in ("alpha/000013.png", "images/000013.png"))
    assert alone["metadata.jsonl"].decode() == whole["metadata.jsonl"].decode().splitlines(keepends=True)[13]


def test_one_worker_gives_what_two_gave(recipe_file, rendered, tmp_path):
    assert render(recipe_file, tmp_path / "set", "--count", COUNT, "--workers", 1) == 0
    assert tree(tmp_path / "set") == tree(rendered)


def test_a_killed_run_is_finished_by_running_it_again(recipe_file, rendered, tmp_path):
    folder = tmp_path / "set"
    command = [sys.executable, "-m", "synth_data", "render", "--recipe", recipe_file, "--seed", SEED]
    command += ["--size", SIZE, "--output", folder, "--count", COUNT, "--workers", 2]
    run = subprocess.Popen([str(word) for word in command], cwd=ROOT, start_new_session=True, stderr=-3)
    while not list(folder.glob("images/*.png")) and run.poll() is None:
        time.sleep(0.002)
    run.kill()
    run.wait()
    assert len(read_metadata(folder)) < COUNT
    assert all_gone(run.pid)  # its workers leave too

    with (folder / workers.JOURNAL).open("a") as journal:
        journal.write('{"file_name": "images/0000')  # a row cut off by the kill
    (folder / "images" / ".000001.png.1.part").write_bytes(b"half")
    min((folder / "images").glob("[0-9]*.png")).unlink()
    assert render(recipe_file, folder, "--count", COUNT, "--workers", 1) == 0
    assert tree(folder) == tree(rendered)


def test_a_complete_set_is_left_as_it_is_and_can_be_extended(recipe_file, rendered, tmp_path, capsys):
    folder = shutil.copytree(rendered, tmp_path / "set")
    row_lines = (folder / "metadata.jsonl").read_text().splitlines()
    for index in range(COUNT - 3, COUNT):
        (folder / "images" / f"{index:06d}.png").unlink()
    assert render(recipe_file, folder, "--count", COUNT - 3) == 0
    assert f"0 rendered, {COUNT - 3} were already there" in capsys.readouterr().out
    assert (folder / "metadata.jsonl").read_text().splitlines() == row_lines[:-3]
    assert render(recipe_file, folder, "--count", COUNT) == 0
    assert tree(folder) == tree(rendered)


def test_metadata_names_only_finished_samples_at_any_time(rendered, tmp_path, monkeypatch):
    seen = []

    def checked(folder, rows):
        write(folder, rows)
        names = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        for name in names:
            assert (folder / name["file_name"]).is_file() and (folder / name["alpha_file_name"]).is_file()
        assert [name["index"] for name in names] == sorted(rows)
        seen.append(len(names))

    write = workers.write_metadata
    monkeypatch.setattr(workers, "write_metadata", checked)
    monkeypatch.setattr(workers, "REFRESH", 4)
    workers.render_dataset(parse_recipe(TINY, "tiny"), SEED, range(12), SIZE, tmp_path / "set", workers=1)
    assert seen == [0, 6, 12, 12]


def test_seeds_and_foregrounds_differ(pairs):
    start()
    recipe = parse_recipe(TINY, "tiny")

    def matte(seed, foreground):
        return render_foreground(describe(recipe, seed, foreground), SIZE, 4, 3, seed).alpha

    mattes = [matte(SEED, 0), matte(SEED, 1), matte(SEED + 1, 0)]
    assert all(np.abs(mattes[i] - mattes[j]).max() > 0.5 for i in range(3) for j in range(i))


def test_samples_of_one_foreground_share_the_matte_and_nothing_else(pairs):
    first, second, third = pairs[:SHARED]
    assert np.array_equal(first.alpha, second.alpha) and np.array_equal(first.alpha, third.alpha)
    assert not np.array_equal(pairs[SHARED].alpha, first.alpha)
    outside = first.alpha == 0
    assert np.abs(first.image[outside].astype(int) - second.image[outside]).mean() > 1
    one, two = (json.loads(pair.meta["factors"]) for pair in (first, second))
    assert one["camera"] == two["camera"] and one["background"] != two["background"]


# ---------------------------------------------------------------- what a picture is


def test_a_picture_is_its_foreground_over_its_background_in_linear_light(pairs):
    """I = C + (1 - alpha) B, pixel by pixel in plain Python, from the streams that the design promises."""
    start()
    recipe, index = parse_recipe(TINY, "tiny"), 4
    scene = describe(recipe, SEED, index // SHARED)
    made = render_foreground(scene, SIZE, recipe.samples_per_pixel, recipe.max_depth, SEED)
    alpha = np.round(made.alpha * 65535) / 65535
    colour = expose(made.colour, alpha, **draw(stream(SEED, PICTURE_STREAM, index), recipe.exposure))
    rng = stream(SEED, BACKGROUND_STREAM, index)
    background = draw_background(rng, SIZE, draw(rng, recipe.background), mean_colour(colour, alpha))

    def srgb(x):
        x = min(max(x, 0.0), 1.0)
        return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055

    assert 0.05 < alpha.mean() < 0.95
    for y in range(SIZE):
        for x in range(SIZE):
            a = float(alpha[y, x])
            assert abs(float(pairs[index].alpha[y, x]) - a) <= 0.5 / 65535 + 1e-7
            for k in range(3):
                value = 255 * srgb(float(colour[y, x, k]) + (1 - a) * float(background[y, x, k]))
                assert abs(float(pairs[index].image[y, x, k]) - value) < 0.501


def test_every_pair_is_what_the_door_says(pairs):
    assert len(pairs) == COUNT
    soft = 0
    for pair in pairs:
        assert pair.image.dtype == np.uint8 and pair.image.shape == (SIZE, SIZE, 3)
        assert pair.alpha.dtype == np.float32 and pair.alpha.shape == (SIZE, SIZE)
        assert pair.alpha.min() >= 0 and pair.alpha.max() == 1
        assert 0.01 < pair.alpha.mean() < 0.95
        assert pair.meta["seed"] == SEED and pair.meta["recipe"] == "tiny"
        factors = json.loads(pair.meta["factors"])
        assert factors["coverage"] == pytest.approx(float(pair.alpha.mean()), abs=1e-5)
        assert {"family", "camera", "lights", "background", "exposure", "instances", "capture"} <= set(factors)
        assert factors["instances"][0]["family"] == factors["family"]
        soft += ((pair.alpha > 0) & (pair.alpha < 1)).sum()
        assert 10 < pair.image.mean() < 245
    assert soft > COUNT * 10


def ball_scene(colour, sky, lamps=(), fov=40.0, distance=5.0, rows=40):
    mesh = ball(1.0, rows=rows)
    mesh = type(mesh)(mesh.vertices, mesh.faces, mesh.uv, {"kind": "diffuse", "colour": colour})
    origin, up = np.array([distance, 0, 0]), np.array([0, 0, 1.0])
    return Scene([Subject([mesh])], Camera(origin, np.zeros(3), up, fov), sky, list(lamps), {"foreground": 0})


def test_coverage_of_a_ball_is_the_analytic_one_and_its_colour_is_premultiplied():
    """A convex diffuse body under a sky of radiance 1 sends out its albedo: C = albedo x alpha everywhere."""
    start()
    albedo = np.array([0.6, 0.3, 0.1])
    made = render_foreground(ball_scene(albedo, np.ones(3), rows=100), 48, 64, 4, 0)
    colour, alpha = made.colour, made.alpha
    radius = np.tan(np.arcsin(1 / 5)) / np.tan(np.deg2rad(20))  # of its disc, in half frames
    assert alpha.mean() == pytest.approx(np.pi / 4 * radius**2, rel=0.005)
    assert colour.sum((0, 1)) == pytest.approx(albedo * alpha.sum(), rel=0.01)
    assert np.array_equal(alpha * 64, np.round(alpha * 64))  # the share of its own 64 samples: a box filter
    edge = (alpha > 0.1) & (alpha < 0.9)
    assert edge.sum() > 20
    assert np.abs(colour[edge] - albedo * alpha[edge][:, None]).max() < 0.05


def test_lamps_are_hidden_cast_no_hole_and_have_the_irradiance_they_say():
    """Each kind of lamp, behind the camera's line, gives a facing diffuse surface albedo x E / pi."""
    start()
    for kind, tolerance in (("sun", 0.02), ("point", 0.06), ("area", 0.08)):
        lamp = Lamp(kind, np.array([1.0, 0, 0]), np.full(3, 2.0), 60.0, 6.0)
        scene = ball_scene(np.full(3, 0.5), np.full(3, 1e-6), [lamp])
        made = render_foreground(scene, 33, 64, 2, 0)
        colour, alpha = made.colour, made.alpha
        assert colour[16, 16] == pytest.approx(np.full(3, 0.5 * 2 / np.pi), rel=tolerance)
        behind = Lamp(kind, np.array([-1.0, 0, 0]), np.full(3, 2.0), 9.0, 3.0)
        lit_from_behind = render_foreground(ball_scene(np.ones(3), np.ones(3), [behind]), 33, 64, 2, 0).alpha
        assert np.array_equal(lit_from_behind == 0, alpha == 0)


def test_strands_carry_one_colour_a_segment():
    """Three upright strands side by side: the bitmap's rows must land on the right strand, the right way up."""
    start()
    z = np.linspace(-3, 3, 8)
    points = np.stack([np.stack([0 * z, np.full(8, y), z], 1) for y in (-0.6, 0.0, 0.6)])
    colours = np.random.default_rng(0).uniform(0.1, 0.9, (3, 5, 3))
    strands = Strands(points, np.full((3, 8), 0.2), colours)
    origin, up = np.array([5.0, 0, 0]), np.array([0, 0, 1.0])
    scene = Scene([Subject([], [strands])], Camera(origin, np.zeros(3), up, 60.0), np.ones(3), [], {"foreground": 0})
    made = render_foreground(scene, 96, 64, 2, 0)
    colour, alpha = made.colour, made.alpha
    frame = 2 * 5 * np.tan(np.deg2rad(30))
    for strand, y in enumerate((-0.6, 0.0, 0.6)):
        for segment in range(5):
            for part in (0.25, 0.75):  # off the middle, where interpolation between rows would show
                height = -3 + 6 / 7 * (segment + 1 + part)
                row, column = int(48 - 96 * height / frame), int(48 + 96 * y / frame)
                assert alpha[row, column] == 1
                assert colour[row, column] == pytest.approx(colours[strand, segment], rel=0.1, abs=0.03)
    assert alpha[48, 1] == 0


def test_strands_with_coincident_control_points_are_spread_and_others_left():
    """Mitsuba has no tangent there and returns NaN."""
    rng = np.random.default_rng(0)
    points = np.cumsum(rng.uniform(0.1, 0.3, (4, 8, 3)), axis=1)
    points[1, 4] = points[1, 3] + 1e-8
    strands = Strands(points, np.full((4, 8), 0.02), np.full((4, 5, 3), 0.5))
    spread = separated(strands)
    assert np.array_equal(np.delete(spread.points, 1, 0), np.delete(points, 1, 0))
    gaps = np.linalg.norm(np.diff(spread.points[1], axis=0), axis=1)
    assert gaps.min() > 0.5 * gaps.mean()
    assert spread.points[1, [0, -1]] == pytest.approx(points[1, [0, -1]])
    start()
    scene = Scene(
        [Subject([], [strands])],
        Camera(np.array([8.0, 2, 1]), points.mean((0, 1)), np.array([0, 0, 1.0]), 30),
        np.ones(3),
        [Lamp("sun", np.array([1.0, 0, 0]), np.ones(3), 9, 1)],
        {"foreground": 0},
    )
    assert np.isfinite(render_foreground(scene, 64, 64, 3, 0).colour).all()


def test_the_last_strand_lies_within_the_first():
    """So that no ray ends beyond the last segment, where Mitsuba reads what is not there and crashes."""
    rng = np.random.default_rng(0)
    strands = Strands(rng.random((3, 8, 3)), rng.uniform(0.01, 0.02, (3, 8)), rng.random((3, 5, 3)))
    guarded = _guarded(strands)
    assert np.array_equal(guarded.points[:3], strands.points) and np.array_equal(guarded.points[3], strands.points[0])
    assert (guarded.radii[3] < 0.05 * strands.radii[0]).all() and guarded.radii.min() > 0
    assert np.array_equal(guarded.colours[:3], strands.colours) and len(guarded.colours) == 4


def test_the_camera_frames_the_subject_as_drawn(recipe_file):
    """The bounding box in the rendered matte has the drawn extent and shift, on the drawn side."""
    start()
    text = TINY + "camera: {extent: [0.4, 0.6], roll: [-90, 90]}\nsolids: {parts: [1, 1]}"
    recipe = parse_recipe(text.replace("fur: 1, solids: 1", "solids: 1"), "framing")
    for foreground in range(6):
        scene = describe(recipe, 3, foreground)
        alpha = render_foreground(scene, 96, 16, 2, 3).alpha
        rows, columns = np.where(alpha.any(1))[0], np.where(alpha.any(0))[0]
        camera = scene.factors["camera"]
        assert scene.camera.up[2] > -1e-6
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        assert longest / 96 == pytest.approx(camera["extent"], abs=0.05)
        assert (columns.min() + columns.max() + 1) / 192 - 0.5 == pytest.approx(camera["shift_x"], abs=0.03)
        assert 0.5 - (rows.min() + rows.max() + 1) / 192 == pytest.approx(camera["shift_y"], abs=0.03)


def test_exposure_keeps_the_matte_and_holds_highlights():
    rng = np.random.default_rng(0)
    alpha = rng.random((8, 8), dtype=np.float32)
    colour = (rng.random((8, 8, 3)) * alpha[..., None] * 9).astype(np.float32)
    brighter, darker = expose(colour, alpha, 0.3, 1.0), expose(colour, alpha, 0.3, -3.0)
    assert (brighter <= HIGHLIGHT * alpha[..., None] + 1e-6).all()
    free = brighter < 0.99 * HIGHLIGHT * alpha[..., None]
    assert brighter[free] == pytest.approx(darker[free] * 16, rel=1e-4)


def test_srgb_round_trip_and_pinned_values():
    x = np.linspace(0, 1, 1001)
    assert srgb_to_linear(linear_to_srgb(x)) == pytest.approx(x, abs=1e-6)
    assert linear_to_srgb(np.array([0.0, 0.001, 0.18, 0.5, 1.0])) == pytest.approx(
        [0, 0.01292, 0.46136, 0.73536, 1], abs=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_are_light_at_any_size(kind):
    factors = draw(np.random.default_rng(1), BackgroundFactors()) | {
        "kind": kind,
        "grain": 0.0,
        "similar": False,
    }
    small, large = (draw_background(np.random.default_rng(5), size, factors, np.full(3, 0.5)) for size in (32, 64))
    for picture, size in ((small, 32), (large, 64)):
        assert picture.shape == (size, size, 3) and picture.dtype == np.float32
        assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1
    reduced = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(reduced - small).mean() < 0.06  # the same picture
    again = draw_background(np.random.default_rng(5), 32, factors, np.full(3, 0.5))
    assert np.array_equal(again, small)


def test_what_follows_a_background_does_not_depend_on_its_size():
    """Else distractors would stand elsewhere in the small picture that lights the scene."""
    factors = draw(np.random.default_rng(1), BackgroundFactors()) | {"grain": 0.02, "similar": False}
    after = []
    for size in (32, 64):
        rng = np.random.default_rng(5)
        draw_background(rng, size, factors, np.full(3, 0.5))
        after.append(rng.random())
    assert after[0] == after[1]


# ---------------------------------------------------------------- shapes


def test_shaded_normals_equal_a_slow_search():
    mesh = join(box((1, 2, 3)), tube(np.array([[0, 0, 0], [0, 0.5, 1], [1, 1, 1.0]]), 0.2))
    vertices, normals, _, faces = shaded(mesh, crease=40)
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    unit = cross / np.linalg.norm(cross, axis=1, keepdims=True)
    for f in range(len(faces)):
        for k in range(3):
            total = np.zeros(3)
            for other in range(len(faces)):
                meets = (np.abs(corners[other] - corners[f, k]).max(1) < 1e-5).sum()
                if meets and unit[f] @ unit[other] > np.cos(np.deg2rad(40)):
                    total += meets * cross[other]
            assert normals[faces[f, k]] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_a_box_has_six_flat_normals_and_a_lathe_a_smooth_side():
    _, normals, _, faces = shaded(box((1, 1, 1)))
    assert len(faces) == 16 and len(np.unique(normals.round(6) + 0.0, axis=0)) == 6
    vertices, normals, _, _ = shaded(lathe(np.array([[1.0, 0.0], [1.0, 2.0]]), 65))
    radial = vertices * (1, 1, 0)
    assert normals == pytest.approx(radial, abs=0.03)  # outward, also across the seam (half a column is 0.05)


@pytest.mark.parametrize("kind", [name for name, _ in fur.Factors().body])
def test_fur_stands_outward_on_its_body(kind):
    for seed in range(3):
        parts, _ = fur._body(np.random.default_rng(seed), kind)
        for part in parts:
            a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
            assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0  # signed volume: faces look outward
        factors = draw(np.random.default_rng(seed), fur.Factors()) | {
            "body": kind,
            "strands": 60,
            "bald": False,
        }
        subject = fur.build(np.random.default_rng(seed), factors)
        (strands,) = subject.strands
        points = strands.points.shape[1]
        assert strands.points.shape == (60, points, 3) and strands.colours.shape == (60, points - 3, 3)
        assert strands.radii.min() > 0 and (np.diff(strands.radii, axis=1) <= 0).all()
        assert np.isfinite(strands.points).all() and 0 < strands.colours.min() <= strands.colours.max() < 1


@pytest.mark.parametrize("shape", solids.SHAPES)
def test_every_solid_is_sound_and_its_parts_touch(shape):
    for seed in range(4):
        factors = draw(np.random.default_rng(seed), solids.Factors()) | {"shape": shape, "parts": 3}
        subject = solids.build(np.random.default_rng(seed), factors)
        assert subject.drawn["part_shapes"][0] == shape and len(subject.meshes) == 3
        first, *others = subject.meshes
        assert 0.2 < np.linalg.norm(first.vertices, axis=1).max() < 2.5
        for mesh in subject.meshes:
            vertices, normals, uv, faces = shaded(mesh)
            assert np.isfinite(vertices).all() and len(faces)
            assert np.allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-6, atol=0)
            assert uv.min() >= 0 and uv.max() <= 1
        for mesh in others:
            assert cKDTree(first.vertices).query(mesh.vertices)[0].min() < 0.05


def test_shapes_and_shipped_shares_have_the_same_names():
    assert [name for name, _ in solids.Factors().shape] == list(solids.SHAPES)
    assert {name for name, _ in BackgroundFactors().kind} == {*KINDS, "photo"}


# ---------------------------------------------------------------- on disk


def test_pair_round_trip(tmp_path):
    for name in ("images", "alpha"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    alpha = (rng.integers(0, 65536, (5, 7)).astype(np.float32) / np.float32(65535)).astype(np.float32)
    alpha[0, :3] = 0, 1, np.float32(1 / 65535)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pair = Pair(image, alpha, {"seed": 3, "index": 137, "recipe": "x", "factors": '{"a": 1}'})
    row = write_pair(tmp_path, pair)
    assert row["file_name"] == "images/000137.png" and row["alpha_file_name"] == "alpha/000137.png"
    back = read_pair(tmp_path, row)
    assert np.array_equal(back.image, image) and np.array_equal(back.alpha, alpha) and back.meta == pair.meta
    assert back.alpha.dtype == np.float32 and back.image.dtype == np.uint8
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["000137.png", "000137.png"]


def test_hugging_face_imagefolder_reads_it(rendered, pairs, tmp_path):
    import datasets

    loaded = datasets.load_dataset("imagefolder", data_dir=str(rendered), cache_dir=str(tmp_path), split="train")
    assert loaded.column_names == ["image", "alpha", "seed", "index", "recipe", "factors"]
    assert loaded["index"][:] == list(range(COUNT))
    row = loaded[5]
    assert row["alpha"].mode == "I;16" and row["image"].mode == "RGB"
    assert np.array_equal(np.asarray(row["image"]), pairs[5].image)
    assert np.asarray(row["alpha"]).astype(np.float32) / np.float32(65535) == pytest.approx(pairs[5].alpha, abs=0)
    assert json.loads(row["factors"])["family"] in ("fur", "solids")


def test_preview_is_a_sheet_of_pictures_beside_mattes(recipe_file, pairs, tmp_path):
    path = tmp_path / "sheet.png"
    command = [
        "preview",
        "--recipe",
        recipe_file,
        "--count",
        5,
        "--size",
        SIZE,
        "--seed",
        SEED,
        "--output",
        path,
    ]
    assert main([str(word) for word in command]) == 0
    sheet = np.asarray(Image.open(path))
    assert np.array_equal(sheet, contact_sheet([(pair.image, pair.alpha) for pair in pairs[:5]]))
    assert np.array_equal(sheet[:SIZE, :SIZE], pairs[0].image)
    assert np.array_equal(sheet[:SIZE, SIZE : 2 * SIZE, 1], np.round(pairs[0].alpha * 255))


# ---------------------------------------------------------------- recipes and refusals


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_parse_and_state_every_factor(path, tmp_path, monkeypatch):
    text = yaml.safe_load(path.read_text())
    monkeypatch.chdir(tmp_path)  # what a recipe reads is the user's, in folders of the recipe's names
    for folder in text["photos"]:
        Path(folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    for folder in text["environments"]:
        Path(folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "sky.hdr"), np.ones((8, 16, 3), np.float32))
    for folder in text.get("own_meshes", {}).get("folder", {}):
        Path(folder).mkdir(parents=True)
        trimesh.creation.box().export(Path(folder) / "box.ply")
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    tables = {name: getattr(recipe, name) for name in TABLES}
    tables |= {name: recipe.tables[name] for name, share in recipe.families if share > 0}
    for name, table in tables.items():
        assert list(text[name]) == [f.name for f in fields(table)], name
    if path.stem == "fur_solids":
        assert all(table == type(table)() for table in tables.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_is_the_defaults_with_every_meaning(family, tmp_path, capsys):
    assert main(["template", "--families", family]) == 0
    text = capsys.readouterr().out
    (tmp_path / "meshes").mkdir()
    trimesh.creation.box().export(tmp_path / "meshes" / "box.ply")
    recipe = parse_recipe(text.replace('folder: ""', f'folder: "{tmp_path / "meshes"}"'), "template")
    assert dict(recipe.families)[family] == 1
    for name in (*TABLES, family):
        table = recipe.tables[name] if name in FAMILIES else getattr(recipe, name)
        default, known = type(table)(), meanings(type(table))
        for f in fields(table):
            if f.name != "folder":
                form = dict if f.metadata["kind"] == "shares" else tuple if f.metadata["kind"] != "chance" else float
                assert form(getattr(table, f.name)) == pytest.approx(form(getattr(default, f.name))), f.name
            assert len(known[f.name]) > 5
            assert known[f.name].split()[0] in text


def test_a_template_of_an_unknown_family_names_its_neighbour(capsys):
    assert main(["template", "--families", "gras"]) == 2
    assert "'gras'; did you mean" in capsys.readouterr().err


def test_draws_stay_in_their_ranges_and_follow_their_shares():
    rng = np.random.default_rng(0)
    drawn = [draw(rng, fur.Factors()) for _ in range(2000)]
    lengths = np.array([d["length"] for d in drawn])
    assert 0.06 <= lengths.min() < 0.065 and 0.47 < lengths.max() <= 0.5
    assert np.median(lengths) == pytest.approx(np.sqrt(0.06 * 0.5), rel=0.06)  # uniform in the logarithm
    assert np.mean([d["bald"] for d in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([d["body"] == "animal" for d in drawn]) == pytest.approx(1.5 / 4.5, abs=0.03)
    assert {type(d["strands"]) for d in drawn} == {int}
    assert {pick(rng, (("a", 0.0), ("b", 1.0), ("c", 0.0))) for _ in range(50)} == {"b"}


def bad(name, text, *words):
    return pytest.param(text, words, id=name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        bad("key", "name: x\nfamilies: {fur: 1}\ncamara: {}", "'camara'", "'camera'"),
        bad("factor", "name: x\nfamilies: {fur: 1}\nfur: {lenght: [0, 1]}", "fur", "'lenght'", "'length'"),
        bad("choice", "name: x\nfamilies: {fur: 1}\nfur: {body: {catt: 1}}", "fur.body", "'catt'"),
        bad("family", "name: x\nfamilies: {furr: 1}", "'furr'", "'fur'"),
        bad("swapped", "name: x\nfamilies: {fur: 1}\nfur: {curl: [2, 1]}", "fur.curl", "[2, 1]", "smaller"),
        bad(
            "negative",
            "name: x\nfamilies: {fur: 1}\nfur: {curl: [-1, 1]}",
            "fur.curl",
            "-1",
            "between 0 and 3",
        ),
        bad("zero-log", "name: x\nfamilies: {fur: 1}\nfur: {length: [0, 1]}", "fur.length", "above 0"),
        bad("nan", "name: x\nfamilies: {fur: 1}\nfur: {curl: [.nan, 1]}", "fur.curl", "nan"),
        bad("scalar", "name: x\nfamilies: {fur: 1}\nfur: {curl: 1}", "fur.curl", "[low, high]"),
        bad("fraction", "name: x\nfamilies: {fur: 1}\nfur: {strands: [1.5, 9]}", "fur.strands", "whole"),
        bad("chance", "name: x\nfamilies: {fur: 1}\nfur: {bald: 2}", "fur.bald", "between 0 and 1"),
        bad("no-share", "name: x\nfamilies: {fur: 0}", "families", "zero"),
        bad("samples", "name: x\nfamilies: {fur: 1}\nsamples_per_pixel: 0", "samples_per_pixel", "0"),
        bad("no-families", "name: x", "'families'", "missing"),
        bad("no-mapping", "- 1", "not a recipe"),
        bad("no-yaml", "a: [", "not valid YAML"),
        bad("licences", "name: x\nfamilies: {fur: 1}\nlicences: CC0", "licences", "'CC0'", "{path: PATH"),
        bad("licence", "name: x\nfamilies: {fur: 1}\nlicences: [{path: a, licence: b}]", "licences", "source"),
        bad(
            "licence-key",
            "name: x\nfamilies: {fur: 1}\nlicences: [{path: a, licence: b, source: c, autor: d}]",
            "licences",
            "'autor'",
            "author",
        ),
        bad("licence-text", "name: x\nfamilies: {fur: 1}\nlicences: [{path: a, licence: '', source: c}]", "licences"),
        bad(
            "licence-of-nothing",
            "name: x\nfamilies: {fur: 1}\nphotos: [o/a]\nlicences: [{path: o/b, licence: b, source: c}]",
            "licences",
            "'o/b'",
            "it reads: o/a",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(text, words, tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert render(path, tmp_path / "set") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "wrong.yaml" in error and all(word in error for word in words), error
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--count", 0], ["--count", "0"]),
        (["--count", "many"], ["--count", "'many'"]),
        (["--size", 0], ["--size", "0"]),
        (["--workers", 0], ["--workers", "0"]),
        (["--seed", -1], ["--seed", "-1"]),
        (["--indices", "5:5"], ["--indices", "5:5"]),
        (["--indices", "5"], ["--indices", "FIRST:LAST"]),
        (["--recipe", "nowhere.yaml"], ["nowhere.yaml", "configs/recipes"]),
        (["--variant", "scaler_rgb"], ["scaler_rgb", "scalar_rgb"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(more, words, recipe_file, tmp_path, capsys):
    assert render(recipe_file, tmp_path / "set", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not (tmp_path / "set").exists()


def test_a_variant_that_cannot_run_is_refused_with_a_remedy(recipe_file, tmp_path, capsys):
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may have CUDA")
    assert render(recipe_file, tmp_path / "set", "--variant", "cuda_ad_rgb") == 2
    error = capsys.readouterr().err
    assert "cuda_ad_rgb" in error and "scalar_rgb" in error and error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_the_trial_recipe_of_variants_renders():
    workers._load(workers.TRIAL, "scalar_rgb")
    (pair,) = workers._make(0, 0, [0], 8, None)
    assert 0 < pair.alpha.mean() < 1


def test_an_unwritable_output_is_refused(recipe_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert render(recipe_file, tmp_path / "file" / "set", "--count", 1) == 2
    error = capsys.readouterr().err
    assert "not writable" in error and error.count("\n") == 1


def test_another_rendering_is_not_resumed(recipe_file, rendered, tmp_path, capsys):
    before = tree(rendered)
    assert render(recipe_file, rendered, "--count", 1, seed=SEED + 1) == 2
    assert "seed 7, not 8" in capsys.readouterr().err
    assert render(recipe_file, rendered, "--count", 1, size=32) == 2
    assert "size 24, not 32" in capsys.readouterr().err
    (tmp_path / "other.yaml").write_text(TINY.replace("samples_per_pixel: 4", "samples_per_pixel: 5"))
    assert render(tmp_path / "other.yaml", rendered, "--count", 1) == 2
    assert "another recipe" in capsys.readouterr().err
    (tmp_path / "photos" / "images").mkdir(parents=True)
    (tmp_path / "photos" / "images" / "mine.png").write_bytes(b"")
    assert render(recipe_file, tmp_path / "photos", "--count", 1) == 2
    assert "no render.json" in capsys.readouterr().err
    assert tree(rendered) == before
    (tmp_path / "commented.yaml").write_text("# the same, with a comment\n" + TINY)
    assert render(tmp_path / "commented.yaml", rendered, "--count", 1) == 0
    assert tree(rendered) == before


def test_two_runs_do_not_write_to_one_folder(recipe_file, rendered, tmp_path, capsys):
    folder = shutil.copytree(rendered, tmp_path / "set")
    with open(folder / workers.JOURNAL, "a") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        assert render(recipe_file, folder, "--count", COUNT + 1) == 1
    error = capsys.readouterr().err
    assert "another run" in error and error.count("\n") == 1
    assert len(list((folder / "images").iterdir())) == COUNT


def test_a_failing_sample_is_named_and_leaves_nothing_half_written(tmp_path, capfd, monkeypatch):
    """As for a photo that is damaged while the set is rendered."""
    monkeypatch.setattr(workers, "look_at_inputs", lambda *_: {})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    path = tmp_path / "broken.yaml"
    path.write_text(TINY + f"background: {{kind: {{photo: 1}}}}\nphotos: ['{tmp_path / 'photos'}']")
    assert render(path, tmp_path / "set", "--count", 1) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "seed 7" in error[0] and "broken.jpg" in error[0]
    assert "Run the same command" not in error[0]
    assert not list((tmp_path / "set").rglob("*.png"))


# ---------------------------------------------------------------- walls


def test_synth_data_imports_neither_torch_nor_sdseg():
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in sorted((ROOT / "synth_data").rglob("*.py"))
    ]
    assert "synth_data.subjects.fur" in names
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\n"
    code += "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'sdseg', 'mitsuba')])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"  # and Mitsuba only where something is rendered


def test_help_is_quick_because_it_loads_nothing():
    code = "import sys\nfrom synth_data.__main__ import main\ntry:\n    main(['render', '--help'])\n"
    code += "except SystemExit:\n    print([m for m in ('numpy', 'yaml', 'PIL', 'mitsuba') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("[]") and "--recipe" in out.stdout


def test_ctrl_c_ends_the_run_and_its_workers(recipe_file, rendered, tmp_path):
    folder = tmp_path / "set"
    command = [sys.executable, "-m", "synth_data", "render", "--recipe", recipe_file, "--seed", SEED]
    command += ["--size", SIZE, "--output", folder, "--count", 3000]
    run = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in the background with Ctrl-C ignored, and a child would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(folder.glob("images/*.png")) and run.poll() is None:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    _, error = run.communicate()
    assert run.returncode == 130
    assert "Traceback" not in error and "run the same command again" in error
    assert all_gone(run.pid)
