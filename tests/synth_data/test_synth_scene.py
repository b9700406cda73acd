"""Scenes beyond one sharp subject: several, blurred, moving, lit by their background, in a room, seen through."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.exact_alpha import compare, sharp_scene
from synth_data import compose
from synth_data import render as render_module
from synth_data.colour import luminance
from synth_data.environments import (
    _read_exr,
    brightest,
    built_around,
    find_environments,
    read_environment,
    seen_by,
    turned,
)
from synth_data.factors import draw
from synth_data.recipe import parse_recipe
from synth_data.render import _sensor, over_plate, refraction, render_foreground, solve, start
from synth_data.scene import DISTRACTORS, Camera, Scene, describe
from synth_data.subjects import FAMILIES
from synth_data.subjects.meshes import Strands, Subject, Volume, ball, box, moved, surface, thinned

UP = np.array([0, 0, 1.0])
TINY = "{name: tiny, samples_per_pixel: 4, families: {solids: 1}, solids: {parts: [1, 1]}"


@pytest.fixture(scope="module", autouse=True)
def mitsuba():
    start()


def camera(fov=40.0, distance=5.0, **more):
    return Camera(np.array([distance, 0, 0]), np.zeros(3), UP, fov, **more)


def painted(mesh, kind="diffuse", colour=(0.5, 0.5, 0.5), **more):
    return Subject([replace(mesh, material={"kind": kind, "colour": np.array(colour), **more})])


def scene_of(*subjects, view=None, surroundings=(), sky=None):
    sky = np.ones(3) if sky is None else sky
    return Scene(list(subjects), view or camera(), sky, [], {"foreground": 0}, surroundings=list(surroundings))


def render(scene, size=48, samples=64, depth=3):
    return render_foreground(scene, size, samples, depth, 0)


# ---------------------------------------------------------------- arrangement


def recipe_of(more):
    return parse_recipe(TINY + ", " + more + "}", "tiny")


def test_subjects_stand_apart_around_the_middle_and_as_near_as_asked():
    recipe = recipe_of("arrangement: {subjects: [4, 4], spread: [0.3, 0.3], scale: [0.4, 0.6]}")
    for foreground in range(8):
        scene = describe(recipe, 1, foreground)
        points = [s.points() for s in scene.subjects]
        assert len(points) == 4 == len(scene.factors["instances"])
        everything = np.concatenate(points)
        assert (everything.min(0) + everything.max(0)) / 2 == pytest.approx(np.zeros(3), abs=1e-9)
        azimuth = np.deg2rad(scene.factors["camera"]["azimuth"])
        across = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
        # a subject is built around the origin: what the first one was moved by is where its origin is
        radii = [np.linalg.norm(p - p.mean(0), axis=1).max() for p in points]
        for j in range(4):
            for k in range(j):
                gap = np.linalg.norm(points[j].mean(0) - points[k].mean(0))
                assert gap > 0.3 * (radii[j] + radii[k])
                assert abs((points[j].mean(0) - points[k].mean(0)) @ across) < 2 * 0.3 * 2 * max(radii) + 2 * max(radii)
        assert not overlapping_boxes(points)


def overlapping_boxes(points):
    """Whether any subject has a vertex within another's inner half."""
    for j, a in enumerate(points):
        for k, b in enumerate(points):
            if j != k:
                inner = np.linalg.norm(a - a.mean(0), axis=1).max() * 0.3
                if (np.linalg.norm(b - a.mean(0), axis=1) < inner).any():
                    return True
    return False


def test_some_pictures_are_empty_and_their_matte_is_zero():
    recipe = recipe_of("arrangement: {empty: 0.5}, composites_per_foreground: 1")
    empty = [f for f in range(24) if not describe(recipe, 0, f).subjects]
    assert 6 <= len(empty) <= 18
    (pair,) = compose.make_pairs(recipe, 0, empty[0], [empty[0]], 24)
    assert pair.alpha.max() == 0 and pair.image.std() > 0


def test_instances_say_whose_each_pixel_is():
    """A small near ball before a large far one, against each rendered alone."""
    near, far = painted(ball(0.3, (2, 0.4, 0))), painted(ball(1.0))
    both = render(scene_of(far, near))
    alone = [render(scene_of(s)).alpha for s in (far, near)]
    assert both.alpha == pytest.approx(np.maximum(*alone), abs=0.04)
    assert (both.instances[alone[1] > 0.9] == 2).all()
    assert (both.instances[(alone[0] > 0.9) & (alone[1] == 0)] == 1).all()
    assert ((both.instances == 0) == (both.alpha < 0.5)).all()


def test_classes_follow_the_families():
    recipe = recipe_of("target: classes, arrangement: {subjects: [2, 2]}")
    (pair,) = compose.make_pairs(recipe, 2, 0, [0], 32)
    number = list(FAMILIES).index("solids") + 1
    assert set(np.unique(pair.classes)) == {0, number}
    assert np.array_equal(pair.classes > 0, pair.instances > 0)
    assert pair.instances.max() <= 2


def test_a_matte_alone_costs_no_pass_for_ids(monkeypatch):
    """Two opaque subjects: with `target: alpha` nobody reads the ids; picture and matte are those of `classes`."""
    asked = []
    monkeypatch.setattr(
        render_module, "_marks", lambda *args, real=render_module._marks: asked.append(1) or real(*args)
    )
    made = []
    for target in ("alpha", "classes"):
        recipe = recipe_of(f"target: {target}, arrangement: {{subjects: [2, 2]}}")
        made += compose.make_pairs(recipe, 2, 0, [0], 24)
        assert len(asked) == (target == "classes")
    assert np.array_equal(made[0].image, made[1].image) and np.array_equal(made[0].alpha, made[1].alpha)


# ---------------------------------------------------------------- blur


def footprint(alpha):
    """Width in pixels of a disc from its second moment."""
    x = np.arange(alpha.shape[1]) + 0.5
    weight = alpha.sum(0) / alpha.sum()
    return 4 * np.sqrt((weight * (x - (weight * x).sum()) ** 2).sum())


def test_depth_of_field_spreads_a_point_over_the_disc_of_a_thin_lens():
    """A point at twice the focus distance: half of the disc that one at infinity has."""
    speck = painted(ball(0.02, (-5, 0, 0), rows=6))
    aperture, focus, size = 0.5, 5.0, 64
    sharp = render(scene_of(speck, view=camera()), size, 64)
    blurred = render(scene_of(speck, view=camera(aperture=aperture, focus=focus)), size, 1024)
    frame = 2 * focus * np.tan(np.deg2rad(20))
    assert footprint(blurred.alpha) == pytest.approx(2 * aperture * (10 - focus) / 10 / frame * size, rel=0.12)
    assert blurred.alpha.sum() == pytest.approx(sharp.alpha.sum(), rel=0.25)
    assert sharp.alpha.max() > 5 * blurred.alpha.max()


def test_the_drawn_defocus_is_the_blur_of_infinity_in_frame_widths():
    scene = describe(recipe_of("camera: {defocus: [0.1, 0.1], focus: [0, 0], shift_x: [0, 0], shift_y: [0, 0]}"), 0, 1)
    view = scene.camera
    assert 2 * view.aperture / (2 * view.focus * np.tan(np.deg2rad(view.fov) / 2)) == pytest.approx(0.1)


def test_motion_is_the_mean_of_what_stands_still():
    """A sixteenth of the way at a time, against the ball itself moved."""
    thing = painted(ball(0.4))
    motion = np.array([0, 1.5, 0.3])
    made = render(scene_of(thing, view=camera(motion=motion)), 48, 256).alpha
    steps = [(k + 0.5) / 16 - 0.5 for k in range(16)]
    slow = np.mean([render(scene_of(moved(thing, None, t * motion)), 48, 64).alpha for t in steps], axis=0)
    assert np.abs(made - slow).mean() < 0.004
    assert np.abs(made - render(scene_of(thing), 48, 64).alpha).mean() > 0.03


def test_spin_turns_the_subject_about_the_vertical():
    thing = painted(box((0.2, 1.6, 0.6)))
    made = render(scene_of(thing, view=camera(spin=40.0)), 48, 256).alpha

    def turned_by(degrees):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        return moved(thing, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))

    slow = [render(scene_of(turned_by(40 * ((k + 0.5) / 16 - 0.5))), 48, 64).alpha for k in range(16)]
    assert np.abs(made - np.mean(slow, axis=0)).mean() < 0.004


# ---------------------------------------------------------------- light


def random_environment(seed=0):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.random((8, 16, 3), dtype=np.float32), (128, 64), interpolation=cv2.INTER_CUBIC).clip(0.01)


def test_a_background_seen_in_an_environment_is_what_the_renderer_sees():
    import mitsuba as mi

    from synth_data.render import _emitters

    environment = random_environment()
    view = Camera(np.array([1.0, 2.0, 0.5]), np.array([0.3, 0.1, 0.7]), np.array([0.1, 0.2, 1.0]), 60.0)
    scene = scene_of(sky=environment)
    loaded = mi.load_dict({"type": "scene", **_emitters(scene)})
    integrator = mi.load_dict({"type": "path", "max_depth": 2})
    rendered = np.array(mi.render(loaded, sensor=mi.load_dict(_sensor(view, 32, 256, False)), integrator=integrator))
    seen = seen_by(environment, view.target - view.origin, view.up, view.fov, 32)
    assert np.abs(rendered - seen).mean() < 0.01 < 0.1 < seen.std()


def test_an_environment_built_around_a_picture_has_it_behind_the_subject():
    picture = np.zeros((32, 32, 3), np.float32)
    picture[:, :16, 0], picture[:, 16:, 2] = 0.5, 0.5  # red on the left, blue on the right
    for azimuth in (0, 77, 200):
        built = built_around(picture, azimuth)
        away = np.array([np.cos(np.deg2rad(azimuth)), np.sin(np.deg2rad(azimuth)), 0])
        seen = seen_by(built, -away, UP, 60, 16)
        assert seen[:, 0, 0].min() > 10 * seen[:, 0, 2].max() and seen[:, -1, 2].min() > 10 * seen[:, -1, 0].max()


def test_the_brightest_place_is_found_and_turns_with_the_environment():
    environment = np.full((32, 64, 3), 0.1, np.float32)
    environment[6:9, 20:23] = (9, 5, 1)
    azimuths = {}
    for degrees in (0, 90, 200):
        way, colour = brightest(turned(environment, degrees))
        seen = luminance(seen_by(turned(environment, degrees), way, UP, 30, 9))
        assert seen[4, 4] == pytest.approx(luminance(environment).max(), rel=0.3)
        assert colour[0] > colour[1] > colour[2] and luminance(colour) == pytest.approx(1)
        azimuths[degrees] = np.rad2deg(np.arctan2(way[1], way[0]))
    for degrees in (90, 200):
        assert (azimuths[degrees] - azimuths[0] - degrees + 180) % 360 - 180 == pytest.approx(0, abs=6)


def test_environment_files(tmp_path):
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        find_environments(("nowhere",))
    with pytest.raises(ValueError, match="holds no .hdr or .exr"):
        find_environments((str(tmp_path),))
    picture = random_environment()
    cv2.imwrite(str(tmp_path / "a.hdr"), picture[..., ::-1])
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": picture}).write(str(tmp_path / "b.exr"))
    for path in find_environments((str(tmp_path),)):
        assert read_environment(path) == pytest.approx(picture, rel=0.02, abs=0.01)
    (tmp_path / "c.hdr").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"c\.hdr' cannot be read"):
        read_environment(str(tmp_path / "c.hdr"))
    recipe = recipe_of(f"lights: {{sky: {{environment: 1}}}}, environments: ['{tmp_path}']")
    assert describe(recipe, 0, 2).factors["lights"]["kinds"] == []


def exr(path, channels, **header):
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    OpenEXR.File(header, channels).write(str(path))
    return str(path)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(
    "names",
    [("R", "G", "B"), ("r", "g", "b"), ("red", "green", "blue"), ("left.R", "left.G", "left.B"), *(
        tuple(f"{layer}.{c}" for c in "RGB") for layer in ("ViewLayer.Combined", "zz.beauty", "Image")
    )],
)  # fmt: skip
def test_the_colour_of_an_exr_is_taken_whatever_else_it_holds(names, kind, tmp_path):
    picture = random_environment().astype(kind)
    planes = {name: np.ascontiguousarray(picture[..., k]) for k, name in enumerate(names)}
    layer = names[0].rpartition(".")[0]
    planes |= {f"{layer}.A".lstrip("."): np.zeros(picture.shape[:2], kind)}  # transparent: what the world behind is
    planes |= {f"right.{c}": np.full(picture.shape[:2], 7, kind) for c in "RGB"}
    planes |= {"ViewLayer.Depth.Z": np.full(picture.shape[:2], 9, np.float32)}
    assert read_environment(exr(tmp_path / "a.exr", planes)) == pytest.approx(picture.astype(np.float32))


def test_an_exr_with_luminance_tiles_parts_or_a_crop(tmp_path):
    import OpenEXR

    picture = random_environment()
    grey = np.ascontiguousarray(picture[..., 0])
    assert read_environment(exr(tmp_path / "y.exr", {"Y": grey})) == pytest.approx(np.dstack([grey] * 3))
    tiled = exr(tmp_path / "t.exr", {"RGBA": np.dstack([picture, grey])}, type=OpenEXR.tiledimage,
                tiles=OpenEXR.TileDescription())  # fmt: skip
    assert read_environment(tiled) == pytest.approx(picture)
    kinds = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    held = {"depth": {"Z": grey}, "beauty": {"RGB": picture}}
    parts = [OpenEXR.Part(kinds | {"name": name}, channels) for name, channels in held.items()]
    OpenEXR.File(parts).write(str(tmp_path / "parts.exr"))
    assert read_environment(str(tmp_path / "parts.exr")) == pytest.approx(picture)
    height, width = grey.shape

    def window(left, top, right, bottom):
        return np.array([left, top], np.int32), np.array([right, bottom], np.int32)

    for name, (x, y) in {"crop": (3, 2), "overscan": (-3, -2)}.items():
        data = window(x, y, x + width - 1, y + height - 1)
        display = window(0, 0, width - 1 + 2 * x, height - 1 + 2 * y)
        file = exr(tmp_path / f"{name}.exr", {"RGB": picture}, dataWindow=data, displayWindow=display)
        wanted = np.pad(picture, ((y, y), (x, x), (0, 0))) if x > 0 else picture[-y:y, -x:x]
        got = _read_exr(file)
        assert got.shape == wanted.shape and np.array_equal(got, wanted)


def test_a_few_negative_values_of_an_environment_are_zero_and_many_are_refused(tmp_path):
    """Lossy OpenEXR rings around the sun; a map of normals is no environment."""
    picture = random_environment()
    picture[3, 5] = -2
    read = read_environment(exr(tmp_path / "a.exr", {"RGB": picture}))
    assert read == pytest.approx(np.maximum(picture, 0)) and read.min() == 0
    for name, wrong in (("b", picture - 2 * picture.mean()), ("c", np.where(picture < 0, np.inf, picture))):
        with pytest.raises(ValueError, match=rf"{name}\.exr' holds many negative or any non-finite values"):
            read_environment(exr(tmp_path / f"{name}.exr", {"RGB": wrong.astype(np.float32)}))


def test_an_exr_without_colour_is_refused_by_name(tmp_path):
    grey = np.ones((4, 8), np.float32)
    for channels, words in (
        ({"Z": grey, "A": grey}, r"no colour, only the channels A, Z"),
        ({"X": grey, "Y": grey, "Z": grey}, "no colour"),
        ({"R": grey, "A": grey}, "no colour"),
        ({c: grey.astype(np.uint32) for c in "RGB"}, "not floating-point"),
    ):
        with pytest.raises(ValueError, match=r"a\.exr' cannot be read \(.*" + words):
            read_environment.__wrapped__(exr(tmp_path / "a.exr", channels))
    content = (tmp_path / "a.exr").read_bytes()
    (tmp_path / "a.exr").write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"a\.exr' cannot be read"):
        read_environment.__wrapped__(str(tmp_path / "a.exr"))


def test_light_from_the_background_has_its_colour():
    """Red backgrounds must light a white subject redder than blue ones."""
    recipe = recipe_of("lights: {sky: {background: 1}, tint: [0, 0]}, background: {kind: {plain: 1}}")
    ratios = []
    for foreground in range(10):
        scene = describe(recipe, 4, foreground)
        background, _ = compose.background_of(recipe, 4, foreground, 16, None, None)
        white = replace(scene, subjects=[painted(ball())], lamps=[])
        colour = render(white, 16, 16).colour.sum((0, 1))
        ratios.append((background[..., 0].mean() / background[..., 2].mean(), colour[0] / colour[2]))
    assert np.corrcoef(np.log(ratios).T)[0, 1] > 0.95


# ---------------------------------------------------------------- in the scene


def test_surroundings_are_not_in_the_matte_and_hide_what_they_stand_before():
    thing = painted(ball(0.5))
    wall = painted(
        surface(np.array([[[-2, -4, -4], [-2, 4, -4]], [[-2, -4, 4], [-2, 4, 4.0]]])), colour=(0.2, 0.6, 0.2)
    )
    alone, before = render(scene_of(thing)), render(scene_of(thing, surroundings=[wall]))
    assert np.abs(before.alpha - alone.alpha).mean() < 0.002
    assert before.cover.min() > 0.99 and np.array_equal(before.instances, alone.instances)
    hidden = render(scene_of(thing, surroundings=[moved(wall, None, (4, 0, 0))]))
    assert hidden.alpha.max() == 0
    half = painted(surface(np.array([[[2, -4, -4], [2, 0, -4]], [[2, -4, 4], [2, 0, 4.0]]])))  # the half with y < 0
    seen = render(scene_of(thing, surroundings=[half])).alpha
    y = seen.sum(0)
    assert min(y[:24].sum(), y[24:].sum()) < 0.02 * y.sum() and y.sum() == pytest.approx(
        alone.alpha.sum() / 2, rel=0.03
    )


def test_a_subject_in_its_scene_casts_a_shadow():
    sun = "lights: {sky: {constant: 1}, sky_strength: [0.1, 0.1], lamps: [1, 1], kind: {sun: 1}, strength: [4, 4]}"
    recipe = recipe_of(f"arrangement: {{in_scene: 1}}, camera: {{extent: [0.3, 0.4]}}, {sun}")
    darkest = []
    for foreground in range(4):
        scene = describe(recipe, 3, foreground)
        with_it, ground = (render(s, 32, 64, 3) for s in (scene, replace(scene, subjects=[])))
        assert ground.alpha.max() == 0
        light = [cv2.blur(luminance(made.colour), (3, 3)) for made in (with_it, ground)]
        beside = cv2.dilate(with_it.alpha, np.ones((5, 5))) == 0
        darkest.append((light[0] / np.maximum(light[1], 1e-3))[beside & (ground.cover > 0.99)].min())
    assert min(darkest) < 0.75


def test_an_in_scene_picture_is_what_was_rendered():
    recipe = recipe_of("arrangement: {in_scene: 1}, composites_per_foreground: 2, camera: {defocus: [0.02, 0.05]}")
    first, second = compose.make_pairs(recipe, 3, 1, [2, 3], 32)
    assert np.array_equal(first.alpha, second.alpha) and 0.02 < first.alpha.mean() < 0.9
    scene, made = compose.make_foreground(recipe, 3, 1, 32)
    assert scene.surroundings and made.cover.mean() > made.alpha.mean() + 0.1


# ---------------------------------------------------------------- light that passes through


def pane(**material):
    flat = surface(np.array([[[0, -3, -3], [0, 3, -3]], [[0, -3, 3], [0, 3, 3.0]]]))
    return painted(flat, "thin_glass", **material)


def smoke(density=1.5):
    fog = np.full((6, 6, 6), density, np.float32)
    place = np.diag([2.0, 2, 2, 1])
    place[:3, 3] = -1
    return Subject(volumes=[Volume(fog, np.full(3, 0.6), None, place)])


def test_two_plates_predict_a_third_to_1e_5_levels():
    scene = scene_of(pane(colour=(1, 1, 1), ior=1.5))
    dark, bright, grey = (over_plate(scene, np.full(3, b), 16, 16, 16, 3)[..., :3] for b in (1e-9, 1.0, 0.5))
    colour, alpha = solve(dark, bright)
    assert np.abs(colour + (1 - alpha[..., None]) * 0.5 - grey).mean() * 255 < 1e-5
    assert 0.05 < alpha.mean() < 0.95


def test_smoke_hides_what_its_transmittance_says_and_stays_what_it_is_before_white():
    """White smoke throws the plate's light back; that is its colour, not the background."""
    made = render(scene_of(smoke(0.7)), 24, 16, 8)
    assert made.alpha[12, 12] == pytest.approx(1 - np.exp(-0.7 * 2), rel=0.02)
    assert made.alpha[0, 0] == 0
    hidden = render(scene_of(smoke(0.7), painted(ball(0.5))), 24, 16, 8)
    assert hidden.alpha[12, 12] == 1 and hidden.instances[12, 12] == 2 and hidden.instances[6, 12] == 1


def test_solve_is_exact_without_tint_and_splits_it_evenly_over_mid_grey():
    rng = np.random.default_rng(0)
    colour, alpha = rng.random((5, 5, 3)), rng.random((5, 5))
    found = solve(colour, colour + (1 - alpha[..., None]))
    assert found[0] == pytest.approx(colour) and found[1] == pytest.approx(alpha)
    passed = rng.random((5, 5, 3))  # each channel its own
    c, a = solve(colour, colour + passed)
    assert c + (1 - a[..., None]) * 0.5 == pytest.approx(colour + passed * 0.5)


def test_refraction_is_nothing_in_a_pane_and_much_in_a_ball():
    assert refraction(scene_of(pane(colour=(1, 1, 1), ior=1.5)), 16, 0) < 0.004
    clear = painted(ball(1.0), "glass", colour=(1, 1, 1), ior=1.5)
    much = refraction(scene_of(clear), 16, 0)
    assert much > 0.1
    weak = refraction(scene_of(painted(ball(1.0), "glass", colour=(1, 1, 1), ior=1.02)), 16, 0)
    assert 0.0 < weak < 0.3 * much
    assert refraction(scene_of(thinned(clear)), 16, 0) < 0.25 * much


def test_a_recipe_bounds_refraction():
    text = "{{name: g, samples_per_pixel: 1, families: {{glass: 1}}, refraction: {}}}"
    loose, tight = (parse_recipe(text.format(limit), "glass") for limit in (1.0, 0.0))
    free = [compose.make_foreground(loose, 0, f, 8)[0] for f in range(1)]
    assert all(scene.factors["attempt"] == 0 for scene in free)
    scene, _ = compose.make_foreground(tight, 0, 0, 8)
    kinds = {mesh.material["kind"] for subject in scene.subjects for mesh in subject.meshes}
    assert "glass" not in kinds


def test_glass_and_smoke_in_one_picture():
    glass, fog = painted(ball(0.5, (0, -1.0, 0)), "glass", colour=(1, 1, 1), ior=1.3), moved(smoke(), None, (0, 0.8, 0))
    both = render(scene_of(glass, fog), 24, 16, 8)
    alone = [render(scene_of(s), 24, 16, 8).alpha for s in (glass, fog)]
    assert both.alpha == pytest.approx(1 - (1 - alone[0]) * (1 - alone[1]), abs=0.25)
    assert both.alpha.mean() == pytest.approx((1 - (1 - alone[0]) * (1 - alone[1])).mean(), rel=0.05)
    assert {0, 1, 2} == set(np.unique(both.instances))
    assert refraction(scene_of(fog), 16, 5_000_000_000) == 0


def test_smoke_out_of_focus_is_as_blurred_as_what_is_solid():
    """A box that hides nearly all, as smoke and as a mesh, through an open lens."""
    dense = smoke(60.0)
    solid = painted(box((2.0, 2, 2)))
    view = camera(aperture=0.4, focus=3.0)
    blurred, truth = (render(scene_of(s, view=view), 32, n, 4).alpha for s, n in ((dense, 4), (solid, 256)))
    sharp = render(scene_of(solid), 32, 64).alpha
    assert np.abs(blurred - truth).mean() < 0.015 < 0.04 < np.abs(truth - sharp).mean()


def test_fractional_coverage_is_not_raised_by_glass_elsewhere():
    """The larger of two noisy estimates would be: a dark fringe over bright backgrounds."""
    rng = np.random.default_rng(0)
    y = rng.uniform(-1, 1, 300)
    points = np.stack([np.stack([0 * y, y + 0.05 * k, np.full(300, -1.2 + 0.3 * k)], 1) for k in range(8)], 1)
    hair = Subject(strands=[Strands(points, np.full((300, 8), 0.004), np.full((300, 5, 3), 0.4))])
    bead = painted(ball(0.05, (0, 1.5, 1.4), rows=8), "thin_glass", colour=(1, 1, 1), ior=1.5)
    alone, beside = render(scene_of(hair), 32, 1024).alpha, render(scene_of(hair, bead), 32, 16).alpha
    soft = (alone > 0.02) & (alone < 0.98)
    assert soft.sum() > 200 and abs((beside - alone)[soft].mean()) < 0.004


def test_a_camera_under_the_ground_leaves_the_scene():
    low = "camera: {shift_y: [0.6, 0.8], elevation: [-10, 0]}"
    recipe = recipe_of(f"arrangement: {{in_scene: 1}}, {low}")
    scenes = [describe(recipe, 3, f) for f in range(12)]
    assert any(not scene.factors["arrangement"]["in_scene"] for scene in scenes)
    for scene in scenes:
        if scene.surroundings:
            floor = min(s.points()[:, 2].min() for s in scene.surroundings)
            assert scene.camera.origin[2] > floor
            for thing in scene.surroundings[1:]:
                points = thing.points()
                assert not ((points.min(0) < scene.camera.origin) & (scene.camera.origin < points.max(0))).all()


def test_what_is_opaque_stays_opaque_beside_glass():
    solid, glass = painted(ball(0.5, (0, 1.0, 0))), painted(ball(0.5, (0, -1.0, 0)), "glass", colour=(1, 1, 1), ior=1.3)
    made = render(scene_of(solid, glass), 48, 32, 8)
    alone = render(scene_of(solid), 48, 32).alpha
    assert (made.alpha[cv2.erode(alone, np.ones((3, 3))) == 1] == 1).all()
    assert made.measured.keys() == {"residual"}


def test_the_sky_is_not_seen_through_the_holes_of_lace():
    """A black sheet that is half there, before a bright sky: half covered, and dark."""
    flat = surface(np.array([[[0, -3, -3], [0, 3, -3]], [[0, -3, 3], [0, 3, 3.0]]]))
    lace = painted(flat, colour=(0, 0, 0), opacity=np.full((4, 4), 0.5))
    made = render(scene_of(lace, sky=np.full(3, 2.0)), 16, 256, 4)
    assert made.alpha.mean() == pytest.approx(0.5, abs=0.02)
    assert made.colour.max() < 1e-3
    beside = painted(ball(0.3, (1, 0, 0)), "thin_glass", colour=(1, 1, 1), ior=1.01)
    with_glass = render(scene_of(lace, beside, sky=np.full(3, 2.0)), 16, 64, 4)
    assert with_glass.alpha[:3].mean() == pytest.approx(0.5, abs=0.05) and with_glass.colour[:3].max() < 1e-3


def test_fire_adds_its_light():
    fog, glow = np.full((4, 4, 4), 0.5, np.float32), np.full((4, 4, 4, 3), (0.8, 0.3, 0.1), np.float32)
    place = np.diag([2.0, 2, 2, 1])
    place[:3, 3] = -1
    dark = Subject(volumes=[Volume(fog, np.zeros(3), None, place)])
    burning = Subject(volumes=[Volume(fog, np.zeros(3), glow, place)])
    without, lit = (render(scene_of(s, sky=np.full(3, 1e-6)), 24, 8, 4) for s in (dark, burning))
    assert np.array_equal(without.alpha, lit.alpha)
    middle = (lit.colour - without.colour)[12, 12]
    truth = np.array([0.8, 0.3, 0.1]) * (1 - np.exp(-0.5 * 2)) / 0.5  # through 2 units of it
    assert middle == pytest.approx(truth, rel=0.02)
    # something opaque in the middle of it hides the far half
    core = painted(ball(0.8))
    both = render(scene_of(burning, core, sky=np.full(3, 1e-6)), 24, 8, 4)
    assert (both.colour[12, 12] < 0.75 * truth).all()


OPAQUE = [name for name in FAMILIES if name not in ("glass", "smoke", "own_meshes")]


@pytest.mark.parametrize("family", OPAQUE)
def test_a_composite_is_the_direct_render_over_the_same_background(family):
    """As far as its noise tells: 1024 samples a pixel are in benchmarks/exact_alpha.py."""
    recipe = parse_recipe(f"{{name: one, families: {{{family}: 1}}, lights: {{kind: {{sun: 1}}}}}}", "one")
    scene = sharp_scene(recipe, 5, 1)
    figures = compare(scene, 24, 64, 3, 3)
    assert figures["difference"] < 1.25 * figures["noise"] + 0.05
    assert figures["on_subject"] < 12


def test_distractors_are_single_sharp_and_alone():
    recipe = recipe_of("arrangement: {subjects: [3, 3], empty: 1, in_scene: 1}, camera: {defocus: [0.1, 0.1]}")
    scene = describe(recipe, 0, DISTRACTORS + 3)
    assert len(scene.subjects) == 1 and not scene.surroundings and scene.camera.aperture == 0


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("target: mattes", "target: 'mattes' is not one of alpha, mask, classes"),
        ("compositing: memory", "compositing: 'memory' is not one of disk, on_the_fly"),
        ("compositing: on_the_fly, arrangement: {in_scene: 0.5}", "arrangement.in_scene: 0.5 needs compositing: disk"),
        ("compositing: on_the_fly, composites_per_foreground: 3", "composites_per_foreground needs compositing: disk"),
        ("background: {kind: {photo: 1}}", "there are no photos; give photos: \\[FOLDER\\]"),
        ("lights: {sky: {environment: 1}}", "give environments: \\[FOLDER\\]"),
        ("lights: {sky: {environment: 1}}, environments: [nowhere]", "no folder 'nowhere'"),
        ("photos: folder", "'folder' is not a list of names"),
        ("arrangement: {subject: [1, 2]}", "unknown key 'subject'; did you mean 'subjects'"),
        ("camera: {defocus: [0.3, 0.1]}", "impossible range \\[0.3, 0.1\\]"),
        ("capture: {jpeg: 2}", "capture.jpeg: 2 is out of range"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(more)


def test_a_recipe_names_what_it_depends_on(tmp_path):
    cv2.imwrite(str(tmp_path / "a.hdr"), random_environment())
    recipe = recipe_of(f"photos: [owner/name], environments: ['{tmp_path}']")
    assert recipe.inputs() == ["owner/name", str(tmp_path)]
    assert draw(np.random.default_rng(0), recipe.arrangement)["subjects"] == 1
