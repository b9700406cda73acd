"""Glass, smoke and their materials against closed formulas: Fresnel, Beer-Lambert, coverage, emission."""

from collections import Counter

import numpy as np
import pytest

from synth_data.factors import draw
from synth_data.materials import bsdf, emission_along_rays, medium_shape
from synth_data.subjects import glass, smoke
from synth_data.subjects.meshes import Subject, Volume

SEEDS = range(3)
CHOICES = [("glass", name) for name in glass.OBJECTS] + [("smoke", name) for name in smoke.KINDS]


def drawn(family: str, choice: str, seed: int, **fixed) -> Subject:
    module, key = {"glass": (glass, "object"), "smoke": (smoke, "kind")}[family]
    rng = np.random.default_rng(seed)
    factors = {**draw(rng, module.Factors()), key: choice, **fixed}
    return module.build(rng, factors)


def through(shape: dict, plates: tuple[float, ...] = (0.0, 1.0), samples: int = 64, turn: float = 0.0) -> list:
    """Mean colour [3] of `shape` before a plate of each radiance, seen by a narrow camera along +y.

    `turn` degrees between the view and the shape's +y.
    """
    import mitsuba as mi

    from synth_data.render import start

    start()
    eye = [8 * np.sin(np.deg2rad(turn)), -8 * np.cos(np.deg2rad(turn)), 0]
    t = mi.ScalarTransform4f()
    pictures = []
    for radiance in plates:
        far = t.look_at([-0.5 * eye[0], -0.5 * eye[1], 0], [0, 0, 0], [0, 0, 1]) @ t.scale(3)
        plate = {"type": "area", "radiance": {"type": "rgb", "value": radiance}}
        scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "volpath", "max_depth": 16, "rr_depth": 32},
                "sensor": {
                    "type": "perspective",
                    "fov": 1.0,
                    "to_world": t.look_at(eye, [0, 0, 0], [0, 0, 1]),
                    "film": {"type": "hdrfilm", "width": 4, "height": 4, "rfilter": {"type": "box"}},
                    "sampler": {"type": "multijitter", "sample_count": samples},
                },
                "plate": {"type": "rectangle", "to_world": far, "emitter": plate},
                "shape": shape,
            }
        )
        pictures.append(np.array(mi.render(scene, seed=3, spp=samples), dtype=np.float64).mean((0, 1)))
    return pictures


def pane(material: dict) -> dict:
    import mitsuba as mi

    from synth_data.render import start

    start()
    upright = mi.ScalarTransform4f().rotate([1, 0, 0], 90)
    return {"type": "rectangle", "to_world": upright @ mi.ScalarTransform4f().scale(2), "bsdf": bsdf(material)}


def fresnel(cosine: float, ior: float) -> float:
    """Unpolarised reflectance of one boundary from vacuum."""
    inner = np.sqrt(1 - (1 - cosine**2) / ior**2)
    s, p = (cosine - ior * inner) / (cosine + ior * inner), (ior * cosine - inner) / (ior * cosine + inner)
    return (s * s + p * p) / 2


@pytest.mark.parametrize("turn", [0.0, 65.0])
def test_a_thin_pane_transmits_what_fresnel_and_its_tint_say(turn):
    tint, ior = np.array([0.9, 0.5, 0.2]), 1.6
    black, white = through(pane({"kind": "thin_glass", "colour": tint, "ior": ior}), samples=4096, turn=turn)
    r = fresnel(np.cos(np.deg2rad(turn)), ior)
    # both faces, all orders: (1 - R) / (1 + R)
    assert np.allclose(white - black, tint * (1 - r) / (1 + r), rtol=0.01)


def test_a_grey_plate_lies_midway_to_rounding():
    """The pixel is linear in the plate's radiance to far below a level when the seed is kept."""
    for shape in (pane({"kind": "thin_glass", "colour": np.array([0.9, 0.5, 0.2])}), medium_shape(box(2.0, 0.8))):
        black, white, grey = through(shape, (0.0, 1.0, 0.5))
        assert 255 * np.abs(grey - (black + white) / 2).max() < 1e-4
        assert (white - black).min() > 0.05


@pytest.mark.parametrize("roughness", [0.0, 0.05])
def test_the_tint_of_a_closed_body_is_that_of_one_way_through(roughness):
    """A slab of index 1.5 lets (1 - R) / (1 + R) pass, whose first order is (1 - R)^2, times its tint."""
    import mitsuba as mi

    from synth_data.render import start

    start()
    tint = np.array([0.9, 0.5, 0.2])
    material = bsdf({"kind": "glass", "colour": tint, "ior": 1.5, "roughness": roughness})
    slab = {"type": "cube", "to_world": mi.ScalarTransform4f().scale([2, 0.05, 2]), "bsdf": material}
    black, white = through(slab, samples=4096)
    r = 0.04
    # light that is reflected at both inner faces is tinted by one root each time it leaves only
    orders = [tint * (1 - r) ** 2 * r ** (2 * k) for k in range(3)]
    assert np.allclose(white - black, sum(orders), rtol=0.02)


def box(sigma: float, albedo: float, emission: float | None = None) -> Volume:
    """A homogeneous cube of side 1.5 about the origin, turned in its grid's order by unequal cell counts."""
    place = np.diag([1.5, 1.5, 1.5, 1.0])
    place[:3, 3] = -0.75
    shape = (4, 5, 6)
    light = None if emission is None else np.full((*shape, 3), emission, np.float32)
    return Volume(np.full(shape, sigma, np.float32), np.full(3, albedo), light, place)


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_an_absorbing_box_follows_beer_and_lambert(sigma):
    black, white = through(medium_shape(box(sigma, 0.0)), samples=2048)
    truth, number = np.exp(-1.5 * sigma), 16 * 2048
    assert abs((white - black).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / number)
    assert np.abs(black).max() == 0


def test_mitsuba_and_the_ray_march_see_the_same_grid():
    """Density that varies along all three axes, box shifted and stretched: same transmittance on a ray."""
    rng = np.random.default_rng(2)
    place = np.diag([1.2, 1.7, 0.9, 1.0])
    place[:3, 3] = (-0.5, -0.8, -0.37)
    volume = Volume(rng.uniform(0, 3, (3, 4, 2)).astype(np.float32), np.zeros(3), None, place)
    black, white = through(medium_shape(volume), samples=4096)
    a = np.tan(np.deg2rad(0.5)) * (np.arange(8) - 3.5) / 4
    ways = np.stack(np.meshgrid(a, [1.0], a), -1).reshape(-1, 3)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    _, passed = emission_along_rays(volume, np.tile([0.0, -8.0, 0.0], (len(ways), 1)), ways, 256)
    truth = passed.mean()
    assert abs((white - black).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / (16 * 4096)) + 1e-4
    assert 0.05 < truth < 0.6


def test_emission_along_rays_is_the_closed_integral():
    sigma, emitted = 0.7, 2.0
    volume = box(sigma, 0.0, emitted)
    origins = np.array([[0, -8.0, 0], [0.2, -8.0, 0.1], [5, -8.0, 0], [0, 0, 0], [0, -8.0, 0]])
    ways = np.tile([0.0, 1.0, 0.0], (5, 1))
    far = np.array([np.inf, np.inf, np.inf, np.inf, 8.0])  # the last ray ends in the middle of the box
    radiance, passed = emission_along_rays(volume, origins, ways, 7, far)
    length = np.array([1.5, 1.5, 0.0, 0.75, 0.75])
    assert np.allclose(passed, np.exp(-sigma * length), atol=1e-6)
    assert np.allclose(radiance, (emitted / sigma * (1 - np.exp(-sigma * length)))[:, None], atol=1e-5)
    # a medium that only glows: no division by its extinction
    glow, clear = emission_along_rays(box(0.0, 0.0, emitted), origins[:1], ways[:1], 5)
    assert np.allclose(glow, emitted * 1.5) and clear[0] == 1


@pytest.mark.parametrize("kind", ["diffuse", "translucent"])
def test_opacity_covers_its_mean(kind):
    """Share of the plate hidden by a black cut-out sheet; the camera sees one patch of the texture."""
    rng = np.random.default_rng(0)
    material = {"kind": kind, "colour": np.zeros(3), "transmission": 0.5, "opacity": rng.random((200, 200))}
    eye = through(pane(material | {"opacity": np.full((4, 4), 0.3)}), samples=1024)
    assert np.allclose(eye[1] - eye[0], 0.7, atol=0.01)
    spread = through(pane(material), samples=1024)
    # fov 1 degree from 8 away sees 0.14 of 4 wide: texels 96.5 to 103.5
    part = material["opacity"][96:104, 96:104].mean()
    assert np.allclose(spread[1] - spread[0], 1 - part, atol=0.05)


def test_an_unknown_material_is_named():
    with pytest.raises(ValueError, match="unknown kind 'felt'; known: diffuse"):
        bsdf({"kind": "felt", "colour": np.ones(3)})


def boundary(subject: Subject, ior: float) -> Counter:
    """Directed edges left over after summing the boundary of everything of index `ior`; empty if it is closed."""
    left: Counter = Counter()
    for mesh in subject.meshes:
        m = mesh.material
        if m["kind"] != "glass":
            continue
        _, weld = np.unique(np.round(mesh.vertices, 6), axis=0, return_inverse=True)
        first = np.zeros(weld.max() + 1, dtype=int)
        first[weld.ravel()] = np.arange(len(weld.ravel()))
        keys = [tuple(p) for p in np.round(mesh.vertices[first], 6) + 0.0]
        faces = weld.ravel()[mesh.faces]
        for sign, index in ((1, m["ior"]), (-1, m.get("exterior_ior", 1.0))):
            if index != ior:
                continue
            for face in faces[:, ::sign]:
                if len(set(face)) < 3:  # collapsed at a pole
                    continue
                for a, b in zip(face, np.roll(face, -1), strict=True):
                    left[keys[a], keys[b]] += 1
    return Counter({(a, b): n - left[b, a] for (a, b), n in left.items() if n > left[b, a]})


def enclosed(subject: Subject, ior: float) -> float:
    """Signed volume of everything of index `ior` (divergence theorem); positive if normals face outwards."""
    size = 0.0
    for mesh in subject.meshes:
        m = mesh.material
        if m["kind"] == "glass":
            a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
            sign = (m["ior"] == ior) - 1.0 * (m.get("exterior_ior", 1.0) == ior)
            size += sign * np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    return size


@pytest.mark.parametrize("name", glass.OBJECTS)
def test_glass_bodies_are_closed_and_face_outwards(name):
    for wall, liquid in (("solid", True), ("solid", False), ("sheet", True)):
        subject = drawn("glass", name, 5, wall=wall, liquid=liquid, pieces=5)
        indices = {m.material["ior"] for m in subject.meshes if m.material["kind"] == "glass"}
        for ior in indices:
            assert not boundary(subject, ior), (name, wall, liquid)
            assert enclosed(subject, ior) > 0, (name, wall, liquid)


@pytest.mark.parametrize(("family", "choice"), CHOICES)
def test_a_choice_builds_soundly_and_again_the_same(family, choice):
    for seed in SEEDS:
        one, two = drawn(family, choice, seed), drawn(family, choice, seed)
        assert 0.3 < np.linalg.norm(one.points(), axis=1).max() < 1.3
        assert one.transmissive() and one.drawn == two.drawn
        for a, b in zip(one.meshes, two.meshes, strict=True):
            assert np.isfinite(a.vertices).all() and np.array_equal(a.vertices, b.vertices)
            assert a.faces.max() < len(a.vertices) and a.uv.shape == (len(a.vertices), 2)
        for a, b in zip(one.volumes, two.volumes, strict=True):
            assert np.array_equal(a.density, b.density) and a.density.dtype == np.float32
            assert a.density.min() >= 0 and np.isfinite(a.density).all()
            for k in range(3):  # nothing is cut by the box
                side = np.moveaxis(a.density, k, 0)[[0, -1]]
                assert side.max() < 0.02 * a.density.max()


def test_the_optical_thickness_is_the_one_asked_for():
    """Rays along the box's own axes: the densest lets exp(-thickness) through."""
    volume = drawn("smoke", "puff", 1, thickness=3.0).volumes[0]
    corner, axes = volume.to_world[:3, 3], volume.to_world[:3, :3].T  # rows: the box's edges
    least = 1.0
    for k in range(3):
        n = volume.density.shape[::-1]
        i, j = (m for m in range(3) if m != k)
        u, v = np.meshgrid((np.arange(n[i]) + 0.5) / n[i], (np.arange(n[j]) + 0.5) / n[j])
        starts = corner + u.reshape(-1, 1) * axes[i] + v.reshape(-1, 1) * axes[j] - 0.1 * axes[k]
        way = np.broadcast_to(axes[k] / np.linalg.norm(axes[k]), starts.shape)
        least = min(least, emission_along_rays(volume, starts, way, 128)[1].min())
    assert np.isclose(-np.log(least), 3.0, rtol=0.03)


def test_only_fire_emits():
    for kind in smoke.KINDS:
        assert (drawn("smoke", kind, 0).volumes[0].emission is not None) == (kind == "fire")
