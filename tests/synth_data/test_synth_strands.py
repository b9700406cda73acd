"""Fur, hair and feathers: geometry of their strands."""

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.spatial import cKDTree

from synth_data.factors import draw
from synth_data.subjects import feathers, fur, hair
from synth_data.subjects.meshes import ball, scatter
from synth_data.subjects.strands import (
    clumped,
    coiled,
    lengths,
    nearest,
    samples_for,
    tapered,
    through,
    turned_to,
    with_length,
)

FAMILIES = {"fur": fur, "hair": hair, "feathers": feathers}


def knots(points):
    """The points of the splines with control points [N, K, 3] at their knots: [N, K - 2, 3], ends included."""
    return (points[:, :-2] + 4 * points[:, 1:-1] + points[:, 2:]) / 6


def build(family, seed, **factors):
    module = FAMILIES[family]
    return module.build(np.random.default_rng(seed), draw(np.random.default_rng(seed), module.Factors()) | factors)


def to_surface(points, meshes, number=60_000):
    """Distance [N] of points [N, 3] to the meshes, to within the spacing of `number` places scattered over each."""
    rng = np.random.default_rng(0)
    return cKDTree(np.concatenate([scatter(rng, mesh, number)[0] for mesh in meshes])).query(points)[0]


def curve(points, steps=400):
    """One uniform cubic B-spline [K, 3] evaluated by scipy over its whole length: [steps, 3]."""
    spline = BSpline(np.arange(len(points) + 4), points, 3)
    return spline(np.linspace(3, len(points), steps, endpoint=True) - 1e-9)


# ---------------------------------------------------------------- strands


@pytest.mark.parametrize("samples", [3, 6, 17])
def test_the_spline_runs_through_its_samples_from_the_first_to_the_last(samples):
    wanted = np.random.default_rng(0).normal(size=(2, samples, 3))
    points = through(wanted)
    assert points.shape == (2, samples + 2, 3) and np.allclose(knots(points), wanted)
    run = curve(points[0], 1 + 100 * (samples - 1))
    assert np.allclose(run[::100], wanted[0], atol=1e-6)  # against scipy's B-spline
    assert np.allclose(points[:, 0] - 2 * points[:, 1] + points[:, 2], 0)  # no curvature at the root


def test_lengths_and_with_length():
    line = np.linspace([1.0, 2, 3], [1, 2, 5], 6)[None]
    assert lengths(line) == pytest.approx([2.0])
    bent = np.random.default_rng(1).normal(size=(4, 6, 3))
    scaled = with_length(bent, np.array([0.1, 1, 2, 3]))
    assert lengths(scaled) == pytest.approx([0.1, 1, 2, 3]) and np.allclose(scaled[:, 0], bent[:, 0])


def test_a_coil_has_its_radius_and_turns_and_a_plane_wave_lies_in_a_plane():
    line = np.linspace([0.0, 0, 0], [0, 0, 1], 201)[None].repeat(50, 0)
    coil = coiled(np.random.default_rng(0), line, 0.05, 4.0)
    far = np.hypot(coil[..., 0], coil[..., 1])
    assert np.allclose(far[:, 90:], 0.05) and np.allclose(far[:, 0], 0)
    turned = np.unwrap(np.arctan2(coil[:, 90:, 1], coil[:, 90:, 0]), axis=1)
    turns = np.abs(np.ptp(turned, axis=1)) / (2 * np.pi) * 200 / 110
    assert 3 <= turns.min() < turns.max() <= 5 and turns.mean() == pytest.approx(4, abs=0.3)
    plane = coiled(np.random.default_rng(0), line, 0.05, 4.0, flat=1.0)
    assert np.linalg.svd(plane[0, :, :2])[1][1] < 1e-9 < 0.01 < np.linalg.svd(coil[0, :, :2])[1][1]
    together = coiled(np.random.default_rng(0), line, 0.05, 4.0, lock=np.zeros(50, dtype=int))
    assert np.allclose(together, together[0]) and not np.allclose(coil, coil[0])
    assert samples_for(0) == 6 and samples_for(8) == 41


def test_a_clump_gathers_at_the_tip_and_not_at_the_root():
    rng = np.random.default_rng(0)
    roots = rng.random((40, 3))
    strands = roots[:, None] + np.linspace(0, 1, 6)[None, :, None] * np.array([0, 0, 1.0])
    leader = np.zeros(40, dtype=int)
    half, full = clumped(strands, leader, 0.5), clumped(strands, leader, 1.0)
    assert np.allclose(half[:, 0], roots) and np.allclose(full[:, -1], full[0, -1])
    assert np.allclose(half[:, -1].std(0), 0.5 * strands[:, -1].std(0))
    assert np.array_equal(nearest(roots, roots[:7])[:7], np.arange(7))


def test_radii_taper_to_a_tenth_and_turned_to_is_a_rotation():
    radii = tapered(np.random.default_rng(0), 0.02, 500, 8)
    assert np.allclose(radii[:, -1], 0.1 * radii[:, 0]) and (np.diff(radii, axis=1) < 0).all()
    assert np.median(radii[:, 0]) == pytest.approx(0.02, rel=0.05)
    for way in np.random.default_rng(0).normal(size=(20, 3)):
        turn = turned_to(way)
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)
        assert np.allclose(turn @ [0, 1, 0], way / np.linalg.norm(way))


# ---------------------------------------------------------------- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_default_draws_keep_their_budget_and_are_sound(family):
    for seed in range(12):
        subject = build(family, seed)
        assert sum(len(s.points) for s in subject.strands) <= 20_000
        assert sum(s.points.shape[0] * s.points.shape[1] for s in subject.strands) <= 200_000
        for s in subject.strands:
            number, points = s.points.shape[:2]
            assert s.radii.shape == (number, points) and s.colours.shape == (number, points - 3, 3)
            assert np.isfinite(s.points).all() and s.radii.min() > 0 and (np.diff(s.radii, axis=1) <= 0).all()
            assert 0 < s.colours.min() and s.colours.max() < 1
        reach = np.linalg.norm(subject.points(), axis=1)
        assert 0.5 < reach.max() < 3 and np.quantile(reach, 0.9) < 1.7


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subject_is_a_function_of_its_generator(family):
    one, two, other = (build(family, seed) for seed in (3, 3, 4))
    for a, b in zip(one.strands, two.strands, strict=True):
        assert np.array_equal(a.points, b.points) and np.array_equal(a.colours, b.colours)
    assert np.array_equal(one.points(), two.points()) and one.drawn == two.drawn
    assert one.points().shape != other.points().shape or not np.array_equal(one.points(), other.points())


# ---------------------------------------------------------------- fur


PLAIN = dict(strands=1500, bald=False, curl=0.0, wave=0.0, clumping=0.0, flyaways=0.0, short_pile=False, mane=False)


@pytest.mark.parametrize("body", [name for name, _ in fur.Factors().body])
def test_fur_starts_on_its_body(body):
    subject = build("fur", 5, body=body, **PLAIN)
    furry = [m for m in subject.meshes if m.material["kind"] == "diffuse"]
    roots = knots(subject.strands[0].points)[:, 0]
    assert to_surface(roots, furry, 200_000 // len(furry)).max() < 0.03


def test_fur_has_its_length_and_short_pile_is_denser_shorter_and_thinner():
    def grown(**factors):
        (strands,) = build("fur", 2, **{**PLAIN, "body": "ellipsoid", "length": 0.3, "radius": 0.01, **factors}).strands
        return strands, lengths(knots(strands.points))

    strands, long = grown(length_jitter=0.0)
    assert long == pytest.approx(np.full(1500, 0.3))
    _, spread = grown(length_jitter=0.6)
    assert spread.mean() == pytest.approx(0.3, rel=0.05) and spread.std() > 0.08
    pile, short = grown(length_jitter=0.0, short_pile=True)
    assert len(short) == 6000 and short == pytest.approx(np.full(6000, 0.045))
    assert np.median(pile.radii[:, 0]) == pytest.approx(0.4 * np.median(strands.radii[:, 0]), rel=0.05)


def bending(points):
    """Mean angle between successive pieces of strands [N, K, 3]."""
    way = np.diff(knots(points), axis=1)
    way /= np.linalg.norm(way, axis=2, keepdims=True)
    return np.arccos(np.clip((way[:, 1:] * way[:, :-1]).sum(-1), -1, 1)).mean()


def coat(**factors):
    roots, normals = scatter(np.random.default_rng(0), ball(1.0, rows=60), 2000)
    f = draw(np.random.default_rng(0), fur.Factors()) | PLAIN
    f |= dict(lean=0.0, droop=0.0, mess=0.1, length_jitter=0.0, turns=1.0) | factors
    comb = np.broadcast_to([0.0, 1, 0], roots.shape)
    return roots, normals, fur.grow(np.random.default_rng(1), roots, normals, f, np.full(2000, 0.3), comb)


def test_curl_and_waves_bend_the_coat_and_more_turns_have_more_points():
    straight, curled, waved = (bending(coat(**k)[2]) for k in ({}, {"curl": 1.0}, {"wave": 1.0}))
    assert straight < 1e-6 and curled > 0.3 and waved > 0.2
    assert coat(curl=1.0)[2].shape[1] == 8 and coat(curl=1.0, turns=4.0)[2].shape[1] == 23


def test_clumping_gathers_tips_and_leaves_roots():
    def spread(points, k):
        return cKDTree(points[:, k]).query(points[:, k], k=2)[0][:, 1].mean()

    _, _, loose = coat()
    roots, _, tufts = coat(clumping=0.9)
    assert np.allclose(knots(tufts)[:, 0], roots)
    assert spread(knots(tufts), -1) < 0.5 * spread(knots(loose), -1)


def test_lean_and_droop_move_tips_the_named_way():
    _, _, upright = coat()
    _, _, combed = coat(lean=1.5)
    _, _, hanging = coat(droop=1.0)
    moved = (combed - upright)[:, -2]
    assert moved[:, 1].mean() > 0.05 and abs(moved[:, 0].mean()) < 0.01
    assert (hanging - upright)[:, -2, 2].mean() < -0.05


def test_flyaways_are_the_given_share_longer_and_stray():
    _, normals, points = coat(flyaways=0.1, mess=0.0)
    long = lengths(knots(points))
    stray = long > 0.3 * 1.1
    assert stray.mean() == pytest.approx(0.1, abs=0.02) and long.max() < 0.3 * 2.3
    way = knots(points)[:, -1] - knots(points)[:, 0]
    across = 1 - (way * normals).sum(1) / np.linalg.norm(way, axis=1)
    assert across[~stray].max() < 1e-6 and np.median(across[stray]) > 0.02
    _, normals, points = coat(mess=2.0)
    way = knots(points)[:, -1] - knots(points)[:, 0]
    assert (way * normals).sum(1).min() > 0  # none grows into the skin


def test_patchy_coats_have_fewer_strands_and_whiskers_are_counted_in():
    whole = build("fur", 1, body="ellipsoid", **PLAIN)
    patchy = build("fur", 1, body="ellipsoid", **{**PLAIN, "bald": True})
    assert len(whole.strands[0].points) == 1500 > len(patchy.strands[0].points) > 50
    bare, bearded = (build("fur", 1, body="animal", **PLAIN, whiskers=w).strands[0] for w in (False, True))
    changed = (bare.points != bearded.points).any((1, 2))
    assert len(bearded.points) == 1500 and 6 <= changed.sum() <= 14


def test_animals_stand_sit_and_lie_with_all_ears_and_tails():
    drawn = [fur._body(np.random.default_rng(seed), "animal")[1].drawn for seed in range(80)]
    assert {d["pose"] for d in drawn} == {"standing", "sitting", "lying"}
    assert {d["ears"] for d in drawn} == set(fur.EARS)
    assert {d["tail"] for d in drawn} == {"none", "stub", "thin", "bushy", "curled"}


# ---------------------------------------------------------------- hair


STYLES = [name for name, _ in hair.Factors().style]


def unturned(subject):
    """Strand samples [N, S, 3] of the hair in the frame where the face looks along -y, found from the eyes."""
    eyes = np.stack([m.vertices.mean(0) for m in subject.meshes if m.material["kind"] == "plastic"])
    x, y = eyes.mean(0)[:2]
    a = np.arctan2(x, -y)  # the angle that the face was turned by
    turn = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return knots(subject.strands[0].points) @ turn.T


@pytest.mark.parametrize("style", STYLES)
def test_hair_starts_on_the_scalp_and_stays_out_of_the_head(style):
    subject = build("hair", 7, style=style, strands=1200, bald=False, windy=False)
    samples = unturned(subject)
    assert 1000 <= len(samples) <= 1200
    assert to_surface(knots(subject.strands[0].points)[:, 0], subject.meshes[:1]).max() < 0.02
    d = (samples[:, 0] - hair.HEAD) / hair.AXES
    assert not ((d[:, 1] < -0.7) & (d[:, 2] < 0.2)).any()  # none on the face
    inside = (((samples[:, 2:] - hair.HEAD) / (0.93 * hair.AXES)) ** 2).sum(-1) < 1
    assert inside.mean() < 0.01


def test_loose_hair_has_its_length_falls_and_a_bob_is_cut():
    calm = dict(strands=800, bald=False, windy=False, flyaways=0.0, mess=0.0, texture="straight", clumping=0.0)
    calm |= dict(weight=1.0, volume=0.04)
    subject = next(
        s
        for seed in range(20)
        if not (s := build("hair", seed, style="loose", length=0.8, length_jitter=0.0, **calm)).drawn["fringe"]
    )
    samples = unturned(subject)
    assert np.median(lengths(samples)) == pytest.approx(0.8, rel=0.12)
    assert (samples[:, -1, 2] < samples[:, 0, 2] - 0.2).mean() > 0.95
    bob = build("hair", 0, style="bob", length=1.3, length_jitter=0.0, **calm)
    tips = unturned(bob)[:, -1, 2]
    assert np.median(tips) == pytest.approx(bob.drawn["cut"], abs=0.06)
    assert (tips < bob.drawn["cut"] - 0.1).mean() < 0.02


def test_tied_hair_meets_at_the_tie():
    subject = build("hair", 0, style="ponytail", strands=600, texture="straight", flyaways=0.0, clumping=0.0, mess=0.0)
    samples = unturned(subject)
    way = np.linspace(0, 1, 8, endpoint=False)[:, None, None, None]
    samples = np.concatenate(list(samples[:, :-1] * (1 - way) + samples[:, 1:] * way), 1)
    near = [np.linalg.norm(samples - c, axis=2).min(1) for c in samples.reshape(-1, 3)[:: len(samples)]]
    assert min(np.quantile(n, 0.9) for n in near) < 0.1  # one place that nearly all strands pass


def test_hair_texture_length_wind_and_baldness_do_what_they_say():
    same = dict(style="loose", strands=600, bald=False, windy=False, length=0.8, turns=3.0, flyaways=0.0, mess=0.0)
    straight, wavy, curly = (
        bending(build("hair", 3, **same, texture=t, wave=1.0, curl=1.0).strands[0].points)
        for t in ("straight", "wavy", "curly")
    )
    assert wavy > 1.5 * straight and curly > 1.5 * straight
    crop, afro = (
        lengths(knots(build("hair", 3, **{**same, "style": s}, texture="straight").strands[0].points)).mean()
        for s in ("crop", "afro")
    )
    assert crop < 0.1 < 0.2 < afro
    blown = build("hair", 3, **{**same, "windy": True, "wind": 3.0}, texture="straight").strands[0].points
    still = build("hair", 3, **same, texture="straight").strands[0].points
    assert np.hypot(*blown[:, -1, :2].mean(0)) > 0.3 + np.hypot(*still[:, -1, :2].mean(0))
    crown = np.linalg.norm(
        (unturned(build("hair", 3, **{**same, "bald": True}))[:, 0] - hair.HEAD) / hair.AXES - [0, 0.35, 0.94], axis=1
    )
    assert crown.min() > 0.45
    assert (
        "beard_length" in build("hair", 3, beard=True).drawn
        and "beard_length" not in build("hair", 3, beard=False).drawn
    )


# ---------------------------------------------------------------- feathers


def feather(barbs=600, seed=0, **factors):
    f = draw(np.random.default_rng(seed), feathers.Factors())
    f |= dict(bend=0.3, camber=0.1, splits=0, ragged=0.001, downy=0.1, fluff=0.001, eye=False, angle=45.0) | factors
    colours = (np.array([0.5, 0.2, 0.1]), np.array([0.02, 0.02, 0.02]))
    return feathers.grow_feather(np.random.default_rng(seed), f, barbs, colours), f


def test_barbs_start_on_the_shaft_and_half_of_them_on_each_side():
    made, f = feather()
    samples = knots(made.barbs.points)
    fine = np.concatenate([np.linspace(a, b, 40) for a, b in zip(made.shaft, made.shaft[1:], strict=False)])
    assert cKDTree(fine).query(samples[:, 0])[0].max() < 1e-3
    place = cKDTree(fine).query(samples[:, 0])[1] // 40
    along = np.gradient(made.shaft, axis=0)[place]
    side = np.cross(along, samples[:, 2] - samples[:, 0])[:, 2]
    assert (side > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert lengths(made.shaft[None]) == pytest.approx([1.0], rel=0.01)


def test_the_vane_has_its_width_its_angle_and_its_asymmetry():
    for width in (0.1, 0.2):
        made, _ = feather(width=width, asymmetry=0.0, bend=0.0, camber=0.0)
        assert np.abs(knots(made.barbs.points)[..., 0]).max() == pytest.approx(width, rel=0.25)
    made, _ = feather(width=0.2, asymmetry=0.5, bend=0.0, camber=0.0)
    x = knots(made.barbs.points)[..., 0]
    ratio = np.sort([x.max(), -x.min()])
    assert ratio[0] == pytest.approx(0.5 * ratio[1], rel=0.15)
    steep, flat = (np.abs(slant(angle)).mean() for angle in (25.0, 55.0))
    assert flat > steep + 0.3


def slant(angle):
    samples = knots(feather(angle=angle, bend=0.0)[0].barbs.points)
    way = samples[:, 1] - samples[:, 0]
    return np.arctan2(way[:, 0], way[:, 1])


def test_splits_open_gaps_and_fluff_loosens_the_barbs():
    def gap(seed=3, **factors):
        samples = knots(feather(bend=0.0, seed=seed, **factors)[0].barbs.points)
        way = samples[:, -1] - samples[:, 0]
        right = np.flatnonzero(way[:, 0] > 0)
        order = right[np.argsort(samples[right, 0, 1])]
        turn = np.abs(np.diff(np.arctan2(way[order, 0], way[order, 1])))
        return turn[len(turn) // 4 :]  # beyond the down

    for seed in range(5):
        assert np.sum(gap(seed, splits=5) > 0.15) >= 1 > np.sum(gap(seed) > 0.08)
    assert gap(fluff=0.5).mean() > 10 * gap().mean()


@pytest.mark.parametrize("kind", [name for name, _ in feathers.Factors().kind])
def test_every_arrangement_has_its_feathers_within_a_sphere(kind):
    subject = build("feathers", 1, kind=kind, feathers=6, barbs=3000)
    expected = {"single": 1, "bundle": 6, "fan": 6, "wing": 54, "ball": 60, "boa": 60}[kind]
    assert subject.drawn["feathers_grown"] == expected == len(subject.meshes) - (kind == "ball")
    (strands,) = subject.strands
    assert 0.8 * min(3000, 1800 * expected) < len(strands.points) <= 3000
    assert np.linalg.norm(strands.points.reshape(-1, 3), axis=1).max() == pytest.approx(1)
