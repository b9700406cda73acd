"""The store, shards and what reads a set back: the same bytes, whole or absent, and every refusal in one line."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from PIL import Image

from synth_data import export as exporting
from synth_data import inspection, store, workers
from synth_data.__main__ import main
from synth_data.drawing import contact_sheet
from synth_data.errors import RenderError
from synth_data.photos import open_photos
from synth_data.recipe import load_recipe, parse_recipe
from synth_data.store import (
    Layers,
    Pair,
    digest,
    file_names,
    open_folder,
    read_layers,
    read_metadata,
    read_pair,
    write_layers,
    write_metadata,
    write_pair,
)
from synth_data.template import recipe_text

ROOT = Path(__file__).parents[2]
SIZE, SEED, COUNT, SHARED = 24, 1, 12, 2  # foreground 3 of this seed is empty
RECIPE = """
name: tiny
samples_per_pixel: 2
max_depth: 2
families: {solids: 1}
arrangement: {subjects: [1, 2], empty: 0.2}
"""
RECIPES = {
    "classes": RECIPE + f"target: classes\ncomposites_per_foreground: {SHARED}\n",
    "mask": RECIPE + "target: mask\n",
    "layers": RECIPE + "compositing: on_the_fly\n",
}


def run(*words):
    """A command in this process; returns its exit code."""
    return main([str(word) for word in words])


def one_error(capsys):
    """The one line that a refused command prints."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def tree(folder):
    """Relative path -> bytes of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Recipe files by kind."""
    folder = tmp_path_factory.mktemp("recipes")
    for kind, text in RECIPES.items():
        (folder / f"{kind}.yaml").write_text(text)
    return {kind: folder / f"{kind}.yaml" for kind in RECIPES}


@pytest.fixture(scope="module")
def render(recipes):
    def command(kind, output, *more, seed=SEED):
        words = ["render", "--recipe", recipes[kind], "--size", SIZE, "--seed", seed, "--output", output, *more]
        return run(*words)

    return command


@pytest.fixture(scope="module")
def sets(render, tmp_path_factory):
    """A finished set of each kind, rendered by one run with one worker."""
    folder = tmp_path_factory.mktemp("sets")
    for kind in RECIPES:
        assert render(kind, folder / kind, "--count", COUNT if kind == "classes" else COUNT // 2) == 0
    return {kind: folder / kind for kind in RECIPES}


@pytest.fixture
def in_this_process(monkeypatch):
    """Renders without a worker, which takes a second to start."""

    def results(recipe, seed, indices, size, workers_, variant, folder):
        workers._load(recipe.text, variant)
        shared = recipe.composites_per_foreground
        for foreground in sorted({i // shared for i in indices}):
            group = [i for i in indices if i // shared == foreground]
            yield workers._make(seed, foreground, group, size, folder)

    monkeypatch.setattr(workers, "_results", results)


# ---------------------------------------------------------------- one sample


def folders(folder, target="alpha", compositing="disk"):
    """A folder with the subfolders that a sample needs."""
    for name in file_names(0, target, compositing).values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder


def meta(index=137):
    return {"seed": 3, "index": index, "recipe": "x", "factors": '{"a": 1}'}


def random_pair(rng, shape=(9, 7)):
    alpha = rng.integers(0, 65536, shape).astype(np.float32) / np.float32(65535)
    alpha[0, :3] = 0, 1, np.float32(1 / 65535)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    instances, classes = (rng.integers(0, 9, shape, dtype=np.uint8) for _ in range(2))
    return Pair(image, alpha, meta(), instances, classes)


def random_layers(rng, shape=(9, 7)):
    alpha = rng.random(shape).astype(np.float16)
    alpha[0, :3] = 0, 1, np.finfo(np.float16).smallest_subnormal
    colour = (rng.random((*shape, 3)) * 4).astype(np.float16)
    colour[0, 0] = np.finfo(np.float16).max
    background = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Layers(colour, alpha, rng.integers(0, 256, shape, dtype=np.uint8), background, meta())


@pytest.mark.parametrize("target", ["alpha", "mask", "classes"])
def test_a_pair_comes_back_bit_for_bit_and_is_written_the_same_twice(target, tmp_path):
    pair = random_pair(np.random.default_rng(0))
    one, two = folders(tmp_path / "one", target), folders(tmp_path / "two", target)
    row = write_pair(one, pair, target)
    assert write_pair(two, pair, target) == row
    assert list(row) == [*file_names(137, target), "seed", "index", "recipe", "factors"]
    names = file_names(137, target).values()
    assert sorted(str(p.relative_to(one)) for p in one.rglob("*.*")) == sorted(names)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    back = read_pair(one, row)
    assert np.array_equal(back.image, pair.image) and np.array_equal(back.alpha, pair.alpha)
    assert back.meta == pair.meta and back.alpha.dtype == np.float32
    if target == "classes":
        assert np.array_equal(back.classes, pair.classes) and np.array_equal(back.instances, pair.instances)
    else:
        assert back.classes is None and back.instances is None


def test_layers_come_back_bit_for_bit_and_are_written_the_same_twice(tmp_path):
    layers = random_layers(np.random.default_rng(0))
    one, two = (folders(tmp_path / name, compositing="on_the_fly") for name in ("one", "two"))
    row = write_layers(one, layers)
    assert write_layers(two, layers) == row
    assert row["file_name"] == "foregrounds/000137.exr" and row["background_file_name"] == "backgrounds/000137.png"
    assert all((one / row[key]).read_bytes() == (two / row[key]).read_bytes() for key in list(row)[:2])
    back = read_layers(one, row)
    for name in ("colour", "alpha", "instances", "background"):
        assert getattr(back, name).dtype == getattr(layers, name).dtype
        assert np.array_equal(getattr(back, name), getattr(layers, name)), name
    assert back.meta == layers.meta


def test_another_reader_sees_the_same_foreground(tmp_path):
    """Mitsuba's, in its own process: on one thread, as the renderer sets it, it would wait forever for a second one."""
    layers = random_layers(np.random.default_rng(1))
    folder = folders(tmp_path, compositing="on_the_fly")
    row = write_layers(folder, layers)
    read = (
        "import sys, mitsuba as mi, numpy as np; mi.set_variant('scalar_rgb'); bitmap = mi.Bitmap(sys.argv[1]); "
        "names = [field.name for field in bitmap.struct_()]; "
        "np.savez(sys.argv[2], **dict(zip(names, np.moveaxis(np.array(bitmap), -1, 0), strict=True)))"
    )
    command = [sys.executable, "-c", read, str(folder / row["file_name"]), str(tmp_path / "read.npz")]
    subprocess.run(command, check=True, timeout=120)
    channels = np.load(tmp_path / "read.npz")
    assert np.array_equal(channels["A"], layers.alpha) and np.array_equal(channels["instance"], layers.instances)
    assert np.array_equal(np.stack([channels[name] for name in "RGB"], -1), layers.colour)


def test_an_unfit_foreground_file_is_named(tmp_path):
    folder = folders(tmp_path, compositing="on_the_fly")
    row = write_layers(folder, random_layers(np.random.default_rng(0), (40, 40)))
    whole = (folder / row["file_name"]).read_bytes()
    for content in (b"", b"no picture", whole[:200], whole[: len(whole) // 2]):
        (folder / row["file_name"]).write_bytes(content)
        with pytest.raises(ValueError, match=r"000137\.exr: not a complete foreground file"):
            read_layers(folder, row)


# ---------------------------------------------------------------- the same bytes, however it is run


@pytest.mark.parametrize("kind", ["classes", "layers"])
def test_shards_join_to_the_bytes_of_one_run(kind, render, sets, in_this_process, tmp_path):
    count = len(read_metadata(sets[kind]))
    for part in (3, 1, 2):
        assert render(kind, tmp_path / f"{part}", "--count", count, "--shard", f"{part}/3") == 0
    parts = [tmp_path / f"{part}" for part in (2, 3, 1)]
    indices = [sorted(read_metadata(part)) for part in parts]
    assert sorted(sum(indices, [])) == list(range(count)) and all(indices)
    if kind == "classes":  # samples of one foreground stay together, so that it is rendered once
        assert indices[2] == [0, 1, 6, 7]
    assert run("join", *parts, "--output", tmp_path / "joined") == 0
    assert tree(tmp_path / "joined") == tree(sets[kind])
    name = read_metadata(sets[kind])[0]["file_name"]
    assert (tmp_path / "joined" / name).stat().st_nlink == 2
    assert run("join", *parts, "--output", tmp_path / "joined") == 0  # again, over itself
    assert tree(tmp_path / "joined") == tree(sets[kind])


def test_layers_are_the_same_from_two_workers_and_after_a_stop(render, sets, tmp_path):
    assert render("layers", tmp_path / "set", "--indices", "4:6", "--workers", 2) == 0
    assert render("layers", tmp_path / "set", "--count", COUNT // 2, "--workers", 2) == 0
    assert tree(tmp_path / "set") == tree(sets["layers"])


def test_join_copies_where_it_cannot_link(render, sets, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    assert run("join", sets["classes"], "--output", tmp_path / "copy") == 0
    assert tree(tmp_path / "copy") == tree(sets["classes"])


def without(folder, target, indices):
    """A copy of a set that lacks some samples."""
    shutil.copytree(folder, target)
    rows = read_metadata(target)
    for index in indices:
        for name in store.files_of(rows.pop(index)).values():
            (target / name).unlink()
    write_metadata(target, rows)
    return target


def test_join_refuses_what_is_not_one_rendering(render, sets, tmp_path, capsys):
    mine, joined = sets["classes"], tmp_path / "joined"
    first = without(mine, tmp_path / "first", [3, 4, 9])
    second = without(mine, tmp_path / "second", [0, 1, 3])
    capsys.readouterr()

    def refused(*words):
        assert run("join", *words, "--output", joined) == 2
        assert not joined.exists()
        return one_error(capsys)

    assert "sample 3 is in none of the 2 folders" in refused(first, second)
    assert "no render.json" in refused(first, tmp_path / "nowhere")
    assert render("classes", tmp_path / "seed", "--count", 1, seed=SEED + 1) == 0
    capsys.readouterr()
    assert f"seed {SEED + 1}" in refused(first, tmp_path / "seed")
    assert "compositing" in refused(first, sets["layers"])
    recipe = (second / "recipe.yaml").read_text()
    (second / "recipe.yaml").write_text(recipe + "max_depth: 3\n")
    assert "different recipes" in refused(first, second)
    (second / "recipe.yaml").write_text(recipe)
    (second / workers.JOURNAL).touch()
    assert "not finished" in refused(first, second)
    (second / workers.JOURNAL).unlink()
    shutil.copy(second / "alpha" / "000006.png", second / "alpha" / "000005.png")
    assert "differ in sample 5" in refused(first, second)
    assert run("join", first, "--output", joined, "--partial") == 0
    assert sorted(read_metadata(joined)) == [0, 1, 2, 5, 6, 7, 8, 10, 11]
    assert run("join", mine, "--output", joined) == 0  # and the rest later
    assert tree(joined) == tree(mine)


def test_join_keeps_the_samples_of_a_shard_that_is_the_output_spelt_differently(sets, tmp_path, monkeypatch):
    """Relative and absolute, through a link, and with a folder of pictures that lies elsewhere."""
    mine, whole_set = tmp_path / "mine", tree(sets["mask"])
    shutil.copytree(sets["mask"], mine)
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    for shard, output in ((mine, "mine"), ("mine", mine), ("link", "mine"), ("mine", "link"), ("./mine/../mine", mine)):
        assert run("join", shard, "--output", output) == 0
        assert tree(mine) == whole_set, (shard, output)
    shared = without(sets["mask"], tmp_path / "shared", [])
    shutil.rmtree(shared / "alpha")
    (shared / "alpha").symlink_to(mine / "alpha")
    assert run("join", mine, "--output", shared) == 0
    assert tree(mine) == whole_set
    (mine / workers.JOURNAL).touch()  # of a run that was stopped: joining into the folder itself is what ends it
    assert run("join", "link", "--output", mine) == 0
    assert tree(mine) == whole_set


def test_join_refuses_a_shard_that_lost_files(sets, tmp_path, capsys):
    shard = shutil.copytree(sets["mask"], tmp_path / "shard")
    (shard / "alpha" / "000005.png").unlink()  # the last one: no gap tells
    assert run("join", shard, "--output", tmp_path / "joined") == 2
    assert "000005.png: missing" in one_error(capsys)
    assert not (tmp_path / "joined").exists()
    assert run("join", shard, "--output", tmp_path / "joined", "--partial") == 0
    assert sorted(read_metadata(tmp_path / "joined")) == list(range(5))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(shard, render, tmp_path, capsys):
    assert render("mask", tmp_path / "set", "--shard", shard) == 2
    assert "--shard" in one_error(capsys)
    assert not (tmp_path / "set").exists()


def test_shards_that_write_to_one_folder_at_once_are_told_to_join(render, sets, tmp_path, capsys):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    with open(folder / workers.JOURNAL, "a") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        assert render("mask", folder, "--count", COUNT, "--shard", "1/2") == 1
    error = one_error(capsys)
    assert "another run" in error and "its own --output" in error and "join" in error


def test_a_set_remembers_the_folders_it_was_made_from(tmp_path):
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    (photos / "deep" / "a.jpg").write_bytes(b"123")
    settings = {"seed": 0, "size": 8, "variant": "scalar_rgb", "target": "classes", "compositing": "disk"}

    def opened():
        inputs = {str(path): digest(str(path)) for path in (photos, "owner/set-on-the-hub")}
        open_folder(tmp_path / "set", RECIPE, settings | {"inputs": inputs}, {1: "fur"})

    opened()
    written = json.loads((tmp_path / "set" / "render.json").read_text())
    made_by = {"mitsuba", "drjit", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow", "trimesh"}
    assert set(written["versions"]) == made_by
    assert all(written["versions"][name] == version(name) for name in made_by)
    assert {key: written[key] for key in settings} == settings and written["inputs"]["owner/set-on-the-hub"] is None
    assert json.loads((tmp_path / "set" / "classes.json").read_text()) == {"1": "fur"}
    opened()
    for change in (lambda: (photos / "b.jpg").touch(), lambda: (photos / "deep" / "a.jpg").write_bytes(b"1234")):
        before = digest(str(photos))
        change()
        assert digest(str(photos)) != before
        with pytest.raises(ValueError, match="other files in .*photos"):
            opened()
        shutil.rmtree(tmp_path / "set")
        opened()
    with pytest.raises(ValueError, match="target classes, not mask"):
        open_folder(tmp_path / "set", RECIPE, settings | {"target": "mask"}, {})


def test_a_set_without_the_newer_settings_is_one_of_mattes_on_disk(sets, tmp_path):
    settings = json.loads((sets["mask"] / "render.json").read_text())
    old = {key: value for key, value in settings.items() if key in ("seed", "size", "variant", "versions")}
    (tmp_path / "render.json").write_text(json.dumps(old))
    assert store.read_settings(tmp_path) == old | {"target": "alpha", "compositing": "disk", "inputs": {}}


# ---------------------------------------------------------------- damaged lists, settings and recipes


def other_row(line, **changes):
    """A line of metadata.jsonl with other values; None takes a column away."""
    row = json.loads(line) | changes
    return json.dumps({key: value for key, value in row.items() if value is not None})


BAD_LINES = {
    "cut": lambda line: line[:60],
    "rubbish": lambda line: "\x00\x01",
    "number": lambda line: "3",
    "no index": lambda line: other_row(line, index=None),
    "index in words": lambda line: other_row(line, index="1"),
    "no picture": lambda line: other_row(line, file_name=None),
    "no alpha": lambda line: other_row(line, alpha_file_name=None),
    "no mask": lambda line: other_row(line, mask_file_name=None),
    "a number for a file": lambda line: other_row(line, mask_file_name=3),
    "no factors": lambda line: other_row(line, factors=None),
    "factors no mapping": lambda line: other_row(line, factors="3"),
}


def with_bad_line(folder, what, name="metadata.jsonl"):
    """Puts a bad line in the place of the second one."""
    lines = (folder / name).read_text().splitlines()
    lines[1] = BAD_LINES[what](lines[1])
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_taken_for_finished_or_lost(
    what, render, sets, in_this_process, tmp_path, capsys
):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    with_bad_line(folder, what)
    before = tree(folder)
    assert run("inspect", folder, "--sheet", tmp_path / "sheet.png") == 1
    said = capsys.readouterr().out
    assert "1 damaged or missing" in said and "metadata.jsonl line 2" in said and (tmp_path / "sheet.png").is_file()
    commands = [
        ("join", folder, "--output", tmp_path / "joined"),
        ("export", folder, "--output", tmp_path / "exported"),
        ("rerender", folder, "--row", 1),
    ]
    for words in commands:
        assert run(*words) == 2
        assert "metadata.jsonl line 2: not a sample's row; delete that line" in one_error(capsys), words
    assert not (tmp_path / "joined").exists() and not (tmp_path / "exported").exists()
    assert render("mask", folder, "--count", COUNT // 2) == 2
    assert "metadata.jsonl line 2: not a sample's row; delete that line" in one_error(capsys)
    assert {name: content for name, content in tree(folder).items() if name != workers.JOURNAL} == before
    lines = (folder / "metadata.jsonl").read_text().splitlines(keepends=True)
    (folder / "metadata.jsonl").write_text("".join(lines[:1] + lines[2:]))  # the remedy
    assert render("mask", folder, "--count", COUNT // 2) == 0
    assert "1 rendered" in capsys.readouterr().out and tree(folder) == tree(sets["mask"])


def test_only_a_last_line_that_was_cut_off_is_left_out(sets, tmp_path):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    lines = (folder / "metadata.jsonl").read_text().splitlines(keepends=True)
    (folder / "metadata.jsonl").write_text("".join(lines[:2]))
    journal = folder / workers.JOURNAL
    journal.write_text("".join(lines[2:4]) + lines[4][:50])
    assert sorted(read_metadata(folder)) == [0, 1, 2, 3]
    journal.write_text("".join(lines[2:4]) + lines[4].rstrip("\n"))  # all of it but the line's end
    assert sorted(read_metadata(folder)) == [0, 1, 2, 3, 4]
    for text in (lines[2] + lines[3][:50] + "\n", lines[2][:50] + "\n" + lines[3]):
        journal.write_text(text)
        with pytest.raises(ValueError, match=r"\.rendered\.jsonl line [12]: not a sample's row"):
            read_metadata(folder)


def test_a_line_ends_only_where_a_row_does(tmp_path):
    """Unicode's other line ends may stand in a recipe's name."""
    folder = folders(tmp_path)
    settings = {"seed": 3, "size": 8, "variant": "none"}
    (folder / "render.json").write_text(json.dumps(settings))
    row = write_pair(folder, random_pair(np.random.default_rng(0)))
    write_metadata(folder, {137: row | {"recipe": "two\u2028lines\x85"}})
    assert read_metadata(folder)[137]["recipe"] == "two\u2028lines\x85"
    assert [row["index"] for _, row in store.read_rows(folder)] == [137]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "no seed"),
        ({"seed": 1, "variant": "scalar_rgb"}, "no size"),
        ({"seed": 1, "size": "24", "variant": "scalar_rgb"}, "size: '24'"),
        ({"seed": 1, "size": 24, "variant": "scalar_rgb", "target": "masks"}, "target: 'masks'"),
        ({"seed": 1, "size": 24, "variant": "scalar_rgb", "inputs": 3}, "inputs: 3"),
        ([], "not written by `sdseg render`"),
    ],
)
def test_settings_that_lack_a_key_are_refused(change, words, sets, tmp_path, render, capsys):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    (folder / "render.json").write_text(json.dumps(change))
    for command in (
        ("inspect", folder),
        ("rerender", folder, "--row", 0),
        ("join", folder, "--output", tmp_path / "x"),
    ):
        assert run(*command) == 2
        error = one_error(capsys)
        assert "render.json: not written by `sdseg render`" in error and words in error and "render again" in error
    assert render("mask", folder, "--count", 1) == 2
    assert words in one_error(capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"families: {solids: 1", "damaged"), (b"", "damaged"), (b"\xff\xfe\x00", "damaged"), (None, "missing")],
    ids=["cut off", "empty", "no text", "missing"],
)
def test_a_lost_or_damaged_recipe_is_named_with_the_remedy(content, words, sets, tmp_path, render, capsys):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    (folder / "recipe.yaml").unlink()
    if content is not None:
        (folder / "recipe.yaml").write_bytes(content)
    for first, second in ((folder, sets["mask"]), (sets["mask"], folder)):
        assert run("join", first, second, "--output", tmp_path / "joined") == 2
        error = one_error(capsys)
        assert f"{folder / 'recipe.yaml'}: {words}" in error and "restore the recipe" in error
    assert run("rerender", folder, "--row", 0) == 2
    error = one_error(capsys)
    assert f"{folder / 'recipe.yaml'}: {words}" in error and "restore the recipe" in error
    assert render("mask", folder, "--count", 1) == 2
    error = one_error(capsys)
    assert f"{folder / 'recipe.yaml'}: {words}" in error and "restore the recipe" in error
    assert not (tmp_path / "joined").exists()


def test_a_sample_whose_factors_make_no_sense_is_damage(sets, tmp_path, capsys):
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    rows = read_metadata(folder)
    factors = json.loads(rows[1]["factors"])
    for change in ({"instances": [{"family": "fur"}]}, {"instances": 3}, {"coverage": "much"}):
        rows[1]["factors"] = json.dumps(factors | change)
        write_metadata(folder, rows)
        assert run("inspect", folder) == 1
        said = capsys.readouterr().out
        assert "1 damaged or missing" in said and "sample 1: " in said and "factors" in said


# ---------------------------------------------------------------- what the user gave cannot be used


def one_colour(path, colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), colour, np.uint8)).save(path)


def box(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box((1, 1, 1)).export(path)


def sky(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ones((4, 8, 3), np.float32))


INPUTS = {
    "photo": (one_colour, "png", "families: {solids: 1}\nphotos: ['%s']\nbackground: {kind: {photo: 1}}\n"),
    "mesh": (box, "ply", "families: {own_meshes: 1}\nown_meshes: {folder: '%s'}\n"),
    "environment": (sky, "hdr", "families: {solids: 1}\nenvironments: ['%s']\nlights: {sky: {environment: 1}}\n"),
}


def recipe_file(tmp_path, kind, more=""):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nsamples_per_pixel: 1\nmax_depth: 2\n" + INPUTS[kind][2] % (tmp_path / "own") + more)
    return path


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_is_read_before_anything_is_rendered(kind, tmp_path, capsys):
    """With the first sample of a kind that does not need the torn file."""
    make, suffix, _ = INPUTS[kind]
    for name in "abc":
        make(tmp_path / "own" / f"{name}.{suffix}")
    torn = tmp_path / "own" / "deep" / f"torn.{suffix}"
    torn.parent.mkdir()
    torn.write_bytes(b"not one")
    output = tmp_path / "set"
    words = ["render", "--recipe", recipe_file(tmp_path, kind), "--count", 2, "--size", 16, "--output", output]
    assert run(*words) == 2
    error = one_error(capsys)
    assert str(torn) in error and "cannot be read" in error and "Run the same command" not in error
    assert not list((tmp_path / "set").glob("*/*.png"))
    shutil.copy(torn, torn.with_stem("worn"))
    assert run(*words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
    assert [line.split(":")[0] for line in said] == ["warning", "warning", "error"], said
    assert str(torn) in said[0] and "worn" in said[1] and "2 of the recipe's input files" in said[2]
    preview = tmp_path / "sheet.png"
    assert run("preview", *words[1:-1], preview) == 0  # goes on with the others
    assert preview.is_file()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 2 and str(torn) in said[0] and "left out" in said[0]
    for path in (torn, torn.with_stem("worn")):
        path.unlink()
    assert run(*words) == 0  # into the folder that was refused before
    assert len(read_metadata(tmp_path / "set")) == 2


def test_a_preview_without_any_usable_input_is_refused(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "own" / name).write_bytes(b"")
    words = ["--recipe", recipe_file(tmp_path, "photo"), "--count", 1, "--output", tmp_path / "sheet.png"]
    assert run("preview", *words) == 2
    error = one_error(capsys)
    assert "none of 2 photos can be used" in error and "a.png" in error


def test_what_is_passed_over_is_said_once(tmp_path, capsys):
    for name in ("a.png", "sub/b.jpg", ".hidden.png", "._a.png", ".cache/c.png"):
        one_colour(tmp_path / "own" / name)
    for name in ("._b.jpg", ".DS_Store", "notes.txt", "sub/IMG_1.HEIC", "IMG_2.cr2", "IMG_3.cr2", "film.mpg"):
        (tmp_path / "own" / name).write_bytes(b"\0\5\26\7")
    words = ["--recipe", recipe_file(tmp_path, "photo"), "--count", 3, "--size", 16, "--workers", 2]
    assert run("render", *words, "--output", tmp_path / "set") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
    assert line.startswith("warning: ") and "3 files" in line and ".cr2, .heic" in line and "JPEG" in line
    assert [p.name for p in open_photos(str(tmp_path / "own")).paths] == ["a.png", "b.jpg"]


def test_textures_that_are_missing_are_said_with_the_mesh(tmp_path, capsys):
    box(tmp_path / "own" / "a.ply")
    text = "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    (tmp_path / "own" / "b.obj").write_text(text)
    (tmp_path / "own" / "m.mtl").write_text("newmtl a\nmap_Kd gone.png\n")
    (tmp_path / "own" / "c.fbx").write_bytes(b"x")
    words = ["--recipe", recipe_file(tmp_path, "mesh"), "--count", 1, "--size", 16, "--output", tmp_path / "set"]
    assert run("render", *words) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
    assert len(said) == 2 and "(.fbx)" in said[0] and "OBJ, PLY or glTF" in said[0]
    assert said[1] == f"warning: {tmp_path / 'own' / 'b.obj'}: texture 'gone.png' not found"


def test_of_several_mesh_folders_each_counts_by_itself(tmp_path, capsys):
    first, second = tmp_path / "own" / "first", tmp_path / "own" / "second"
    box(first / "a.ply")
    box(second / "b.ply")
    (second / "b.fbx").write_bytes(b"x")
    recipe = recipe_file(tmp_path, "mesh")
    shares = f"{{'{first}': 1, '{second}': 1}}"
    recipe.write_text(recipe.read_text().replace(f"'{tmp_path / 'own'}'", shares))
    words = ["--recipe", recipe, "--size", 8, "--seed", 4, "--output", tmp_path / "set"]
    assert run("render", *words, "--indices", "0:6") == 0
    assert f"'{second}': 1 file of kinds" in capsys.readouterr().err
    rows = read_metadata(tmp_path / "set")
    folders = {i: json.loads(row["factors"])["instances"][0]["factors"]["folder"] for i, row in rows.items()}
    assert set(folders.values()) == {str(first), str(second)}
    assert set(json.loads((tmp_path / "set" / "render.json").read_text())["inputs"]) == {str(first), str(second)}
    write_metadata(tmp_path / "set", {i: rows[i] for i, folder in folders.items() if folder == str(first)})
    loaded = parse_recipe(recipe.read_text(), "recipe")
    assert [workers._used(loaded, tmp_path / "set", str(folder)) for folder in (first, second)] == [True, False]
    for name in ("b.ply", "c.ply"):
        (second / name).write_bytes(b"not one")
    assert run("preview", "--recipe", recipe, "--count", 1, "--output", tmp_path / "sheet.png") == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: none of 2 meshes in '{second}' can be used; ")


def test_photos_in_linked_folders_are_found_once(tmp_path):
    one_colour(tmp_path / "elsewhere" / "a.png")
    one_colour(tmp_path / "own" / "b.png")
    (tmp_path / "own" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "own")
    paths = open_photos(str(tmp_path / "own")).paths
    assert [str(p.relative_to(tmp_path / "own")) for p in paths] == ["again/a.png", "b.png"]


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_may_change_while_no_finished_sample_depends_on_them(kind, tmp_path, capsys):
    make, suffix, _ = INPUTS[kind]
    make(tmp_path / "own" / f"a.{suffix}")
    mixed = {
        "photo": ("background: {kind: {photo: 1}}", "background: {kind: {photo: 1, plain: 1}}"),
        "mesh": ("families: {own_meshes: 1}", "families: {own_meshes: 1, solids: 1}"),
        "environment": ("lights: {sky: {environment: 1}}", "lights: {sky: {environment: 1, constant: 1}}"),
    }[kind]
    recipe = recipe_file(tmp_path, kind)
    recipe.write_text(recipe.read_text().replace(*mixed))
    folder = tmp_path / "set"

    def rendered(indices):
        return run("render", "--recipe", recipe, "--indices", indices, "--size", 8, "--seed", 4, "--output", folder)

    loaded = parse_recipe(recipe.read_text(), "recipe")
    assert rendered("0:6") == 0
    rows = read_metadata(folder)
    assert workers._used(loaded, folder, str(tmp_path / "own")) and len(rows) == 6

    def depends(row):
        factors = json.loads(row["factors"])
        return {
            "photo": factors["background"]["kind"] == "photo",
            "mesh": factors["family"] == "own_meshes",
            "environment": factors["lights"]["sky"] == "environment",
        }[kind]

    first = [i for i in sorted(rows) if not depends(rows[i])]
    assert 0 < len(first) < 6
    (tmp_path / "own" / "notes.txt").write_text("nothing that is rendered")
    (tmp_path / "own" / f".b.{suffix}").write_bytes(b"hidden")
    assert rendered("0:6") == 0
    capsys.readouterr()
    make(tmp_path / "own" / f"b.{suffix}")
    assert rendered("0:6") == 2
    assert "other files in" in one_error(capsys)
    for index in set(rows) - set(first):
        for name in store.files_of(rows[index]).values():
            (folder / name).unlink()
    write_metadata(folder, {i: rows[i] for i in first})
    before = tree(folder)
    assert rendered("0:6") == 0
    assert "holds other files than before" in capsys.readouterr().err
    after = tree(folder)
    assert all(after[name] == before[name] for name in before if name.endswith(".png"))
    assert json.loads(after["render.json"])["inputs"] == {str(tmp_path / "own"): digest(str(tmp_path / "own"))}
    shutil.rmtree(tmp_path / "set")
    assert rendered("0:6") == 0
    assert tree(folder) == after


def test_a_set_of_an_earlier_version_goes_on_beside_files_that_no_longer_count(tmp_path):
    one_colour(tmp_path / "own" / "a.png")
    (tmp_path / "own" / ".DS_Store").write_bytes(b"x")
    own = str(tmp_path / "own")
    assert digest(own) != digest(own, every=True)
    assert store.changed_inputs({own: digest(own, every=True)}) == []
    one_colour(tmp_path / "own" / "b.png")
    assert store.changed_inputs({own: digest(own, every=True)[::-1]}) == [own]


def test_what_is_said_after_an_error_is_a_sentence_of_its_own(monkeypatch, recipes, tmp_path, capsys):
    def fail(*_):
        raise RenderError(text)

    monkeypatch.setattr(workers, "render_dataset", fail)
    for text in ("the light went out", "The light went out."):
        assert run("render", "--recipe", recipes["mask"], "--output", tmp_path / "set") == 1
        wanted = f"error: {text.rstrip('.')}. Run the same command again to render what is missing."
        assert one_error(capsys) == wanted


# ---------------------------------------------------------------- a full disk


def whole(folder):
    """The indices of a set after checking that it holds whole, listed samples and nothing else."""
    report = inspection.inspect(folder)
    assert report["damaged"] == [] and report["unlisted"] == []
    assert not list(folder.rglob("*.part"))
    return sorted(read_metadata(folder))


@pytest.mark.parametrize(
    "victim", ["alpha/000007.png", "images/000007.png", "metadata.jsonl", workers.JOURNAL, "lists"]
)
def test_a_full_disk_leaves_whole_samples(victim, render, sets, in_this_process, tmp_path, monkeypatch, capsys):
    """Writes of one file fail as on a full disk; in one process, so that the failure can be put in."""
    folder, recipe = tmp_path / "set", parse_recipe(RECIPES["classes"], "recipe")
    full, passed = [True], []

    def replace(source, target):
        passed.append(Path(target).name)
        hit = str(target).endswith("metadata.jsonl" if victim == "lists" else victim)
        first_list = passed[-1] == "metadata.jsonl" and passed.count("metadata.jsonl") == 1  # an empty one
        if full[0] and hit and not first_list:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    def append(journal, group):
        if full[0] and victim in (workers.JOURNAL, "lists") and group[0]["index"] == 6:
            journal.write(b'{"file_name": "ima')  # what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(journal, group)

    rename, add = os.replace, workers._append
    monkeypatch.setattr(store.os, "replace", replace)
    monkeypatch.setattr(workers, "_append", append)
    assert render("classes", folder, "--count", COUNT) == 1
    kept = COUNT if victim == "metadata.jsonl" else 8 if victim == workers.JOURNAL else 6
    error = one_error(capsys)
    assert all(word in error for word in (str(folder), "No space left", f"{kept} finished", "free space")), error
    rows = read_metadata(folder)
    assert sorted(rows) == list(range(kept)) and not list(folder.rglob("*.part"))
    listed = {name for row in rows.values() for name in store.files_of(row).values()}
    assert {name for name in tree(folder) if name.endswith(".png")} == listed
    if victim not in ("metadata.jsonl", "lists"):  # where the journal alone lists the finished samples
        assert whole(folder) == list(range(kept))
    full[0] = False
    assert workers.render_dataset(recipe, SEED, range(COUNT), SIZE, folder) == COUNT - kept
    assert tree(folder) == tree(sets["classes"])


def test_a_really_full_disk_leaves_whole_samples(render, sets, tmp_path, capsys):
    """A file system of a few pages: fills up while two workers write, is enlarged, and ends up read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], capture_output=True)

    if shutil.which("mount") is None or mount("size=180k").returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        assert render("classes", disk / "set", "--count", COUNT, "--workers", 2) == 1
        error = one_error(capsys)
        assert "No space left" in error and str(disk / "set") in error
        kept = whole(disk / "set")
        assert 0 < len(kept) < COUNT
        before = tree(disk / "set")
        assert mount("remount,size=4m").returncode == 0
        assert render("classes", disk / "set", "--count", COUNT, "--workers", 2) == 0
        assert f"{COUNT - len(kept)} rendered" in capsys.readouterr().out
        after = tree(disk / "set")
        assert after == tree(sets["classes"])
        assert all(after[name] == before[name] for name in before if name.endswith(".png"))
        assert mount("remount,ro").returncode == 0
        assert render("classes", disk / "set", "--count", COUNT + 1) == 2
        assert "not writable" in one_error(capsys)
        assert run("join", sets["mask"], "--output", disk / "joined") == 1
        assert "cannot be written" in one_error(capsys)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ---------------------------------------------------------------- inspect


def test_figures_of_a_set_equal_a_slow_count(sets, tmp_path, capsys):
    folder = sets["classes"]
    path = tmp_path / "figures.json"
    assert run("inspect", folder, "--json", path, "--workers", 2) == 0
    text, report = capsys.readouterr().out, json.loads(path.read_text())
    mattes, families, coverages = [], [], []
    for index in range(COUNT):
        with Image.open(folder / "alpha" / f"{index:06d}.png") as file:
            mattes.append([value / 65535 for value in np.asarray(file).ravel().tolist()])
        factors = json.loads(read_metadata(folder)[index]["factors"])
        families.append("solids" if factors["instances"] else "none")
        coverages.append(factors["coverage"])
    soft = [sum(0.02 < a < 0.98 for a in matte) / len(matte) for matte in mattes]
    means = [sum(matte) / len(matte) for matte in mattes]
    assert {"none", "solids"} == set(families)  # otherwise choose another SEED
    assert report["samples"] == COUNT and report["damaged"] == [] and report["gaps"] == 0
    for family in (None, "none", "solids"):
        mine = [k for k in range(COUNT) if family in (None, families[k])]
        found = report["alpha"] if family is None else report["families"][family]
        assert found["samples"] == len(mine)
        assert found["mean"] == pytest.approx(sum(means[k] for k in mine) / len(mine), abs=1e-5)
        assert found["soft"] == pytest.approx(sum(soft[k] for k in mine) / len(mine), abs=1e-5)
        assert found["empty"] == sum(max(mattes[k]) == 0 for k in mine)
        assert found["full"] == sum(min(mattes[k]) == 1 for k in mine)
    histogram = report["factors"]["coverage"]
    assert histogram["least"] == min(coverages) and histogram["most"] == max(coverages)
    assert sum(histogram["bins"]) == COUNT
    assert report["factors"]["arrangement.empty"]["counts"]["True"] == families.count("none")
    assert report["mattes"] == len({tuple(matte) for matte in mattes})
    assert report["duplicates"] == [] and "all complete" in text and "solids.shape" in text


def damage(folder, what):
    """Does one kind of harm to sample 1 of a set; returns what `inspect` must say."""
    row = read_metadata(folder)[1]
    first, alpha = folder / row["file_name"], folder / row.get("alpha_file_name", "none")
    if what == "missing":
        first.unlink()
        return "missing"
    if what in ("truncated", "empty", "background"):
        broken = folder / row["background_file_name"] if what == "background" else first
        broken.write_bytes(b"" if what == "empty" else broken.read_bytes()[: broken.stat().st_size // 2])
        return "not a complete"
    if what == "size":
        Image.fromarray(np.zeros((SIZE, SIZE + 1, 3), np.uint8)).save(first)
        return f"{SIZE + 1} x {SIZE} pixels"
    if what == "kind":
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(alpha)
        return "mode L, not I;16"
    if what == "matte":
        Image.fromarray(65535 - np.asarray(Image.open(alpha))).save(alpha)
        return "its row says"
    if what == "mask":
        mask = folder / row["mask_file_name"]
        Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
        return "alpha >= 0.5"
    if what == "class":
        ids = folder / row["classes_file_name"]
        Image.fromarray(np.full((SIZE, SIZE), 200, np.uint8)).save(ids)
        return "class 200"
    if what == "instance":
        Image.fromarray(np.full((SIZE, SIZE), 1, np.uint8)).save(folder / row["instances_file_name"])
        return "instance ids have none"
    if what in ("range", "nan"):
        layers = read_layers(folder, row)
        alpha = layers.alpha.copy()
        alpha[0, 0] = 1.01 if what == "range" else np.nan
        write_layers(folder, Layers(layers.colour, alpha, layers.instances, layers.background, layers.meta))
        return "outside [0, 1]" if what == "range" else "not finite"
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1][:60] + "\n"
    path.write_text("".join(lines))
    return "line 2"


HARM = {
    "classes": ["missing", "truncated", "empty", "size", "kind", "matte", "class", "instance", "row"],
    "mask": ["mask"],
    "layers": ["missing", "truncated", "background", "range", "nan"],
}


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for kind, whats in HARM.items() for what in whats])
def test_damage_is_found_and_named(kind, what, sets, tmp_path, capsys):
    folder = shutil.copytree(sets[kind], tmp_path / "set")
    assert run("inspect", folder) == 0
    capsys.readouterr()
    words = damage(folder, what)
    assert run("inspect", folder, "--sheet", tmp_path / "sheet.png") == 1
    text = capsys.readouterr().out
    assert "1 damaged or missing" in text and words in text and ("sample 1:" in text or "line 2" in text), text
    assert (tmp_path / "sheet.png").is_file()


def test_what_is_not_a_set_is_refused(tmp_path, capsys):
    assert run("inspect", tmp_path / "nowhere") == 2
    assert "no render.json" in one_error(capsys)
    (tmp_path / "render.json").write_text("{")
    assert run("inspect", tmp_path) == 2
    assert "not written by `sdseg render`" in one_error(capsys)
    assert run("inspect", tmp_path, "--sheet", "sheet.jpg") == 2
    assert "--sheet" in one_error(capsys)


def test_duplicates_are_found_exact_and_near(sets, tmp_path):
    """Copies by the byte, by one level of noise, and neighbours that only share a matte."""
    folder = shutil.copytree(sets["mask"], tmp_path / "set")
    rows = read_metadata(folder)
    count = len(rows)
    pair = read_pair(folder, rows[1])
    noise = np.random.default_rng(0).integers(-1, 2, pair.image.shape)
    noisy = np.clip(pair.image + noise, 0, 255).astype(np.uint8)
    other = np.ascontiguousarray(pair.image[::-1])
    for k, image in enumerate((pair.image, noisy, other)):
        rows[count + k] = write_pair(folder, Pair(image, pair.alpha, {**pair.meta, "index": count + k}), "mask")
    write_metadata(folder, rows)
    report = inspection.inspect(folder)
    assert report["duplicates"] == [[1, count]]
    assert report["near_duplicates"] == [[1, count + 1], [count, count + 1]]
    assert report["mattes"] == len({read_pair(folder, row).alpha.tobytes() for row in rows.values()})


def test_near_duplicates_equal_a_search_through_all_pairs():
    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 256, (60, 16, 16, 4), dtype=np.uint8)
    thumbs[30:45] = np.clip(thumbs[:15].astype(int) + rng.integers(-3, 4, (15, 16, 16, 4)), 0, 255)
    found = [
        inspection.Examined(k, (), {}, 0.5, 0.5, 0, 1, bytes([k]), bytes([k]), thumb) for k, thumb in enumerate(thumbs)
    ]
    truth = [
        [i, j]
        for i in range(60)
        for j in range(i + 1, 60)
        if np.abs(thumbs[i].astype(int) - thumbs[j].astype(int)).mean() < inspection.APART
    ]
    assert len(truth) == 15 and inspection._near(found) == truth


def test_the_sheet_shows_the_set(sets, tmp_path):
    assert run("inspect", sets["classes"], "--sheet", tmp_path / "sheet.png") == 0
    rows = read_metadata(sets["classes"])
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    pairs = [read_pair(sets["classes"], rows[k]) for k in range(COUNT)]
    assert np.array_equal(drawn, contact_sheet([(pair.image, pair.alpha) for pair in pairs]))
    assert run("inspect", sets["layers"], "--sheet", tmp_path / "layers.png") == 0
    drawn, layers = (
        np.asarray(Image.open(tmp_path / "layers.png")),
        read_layers(sets["layers"], {**rows[0], **read_metadata(sets["layers"])[0]}),
    )
    outside = layers.alpha == 0
    assert np.abs(drawn[:SIZE, :SIZE][outside].astype(int) - layers.background[outside]).max() <= 1


# ---------------------------------------------------------------- rerender


@pytest.mark.parametrize(("kind", "row"), [("classes", 7), ("layers", 2)])
def test_one_row_rendered_again_is_the_same_or_named(kind, row, sets, tmp_path, capsys):
    folder = shutil.copytree(sets[kind], tmp_path / "set")
    suffix = Path(read_metadata(folder)[row]["file_name"]).suffix
    again = tmp_path / f"again{suffix}"
    assert run("rerender", folder, "--row", row, "--output", again) == 0
    assert f"row {row}: identical" in capsys.readouterr().out
    names = list(store.files_of(read_metadata(folder)[row]).values())
    assert again.read_bytes() == (folder / names[0]).read_bytes()
    pixels = np.asarray(Image.open(folder / names[1])).copy()
    pixels[3, 4] ^= 1
    Image.fromarray(pixels).save(folder / names[1])
    lines = (folder / "metadata.jsonl").read_text().splitlines(keepends=True)
    lines[row] = lines[row].replace('"recipe": "tiny"', '"recipe": "tinny"')
    (folder / "metadata.jsonl").write_text("".join(lines))
    assert run("rerender", folder, "--row", row) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == ["differs: recipe of the row", f"differs: {names[1]}"]
    settings = json.loads((folder / "render.json").read_text())
    settings["versions"] |= {"drjit": "0.0.1", "a-package-that-is-gone": "2.0"}
    (folder / "render.json").write_text(json.dumps(settings))
    assert run("rerender", folder, "--row", row) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == [
        f"differs: drjit here is {version('drjit')}, the set's 0.0.1",
        "differs: a-package-that-is-gone here is not installed, the set's 2.0",
    ]


def test_a_row_that_is_not_there_is_refused(sets, tmp_path, capsys):
    assert run("rerender", sets["mask"], "--row", 99) == 2
    assert "rows 0 .. 5" in one_error(capsys)
    empty = shutil.copytree(sets["mask"], tmp_path / "empty")
    (empty / "metadata.jsonl").write_text("")
    assert run("rerender", empty, "--row", 0) == 2
    assert "holds no samples" in one_error(capsys)
    assert run("rerender", sets["mask"], "--row", "x") == 2
    assert "--row" in one_error(capsys)
    assert run("rerender", sets["mask"], "--row", 0, "--output", tmp_path / "x.jpg") == 2
    assert "must end in .png" in one_error(capsys)


# ---------------------------------------------------------------- export


def files_in(row, folder):
    """Column -> bytes of a sample's files, named as the exports name them."""
    return {column: (folder / name).read_bytes() for column, name in exporting.columns_of(row).items()}


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_an_export_loads_with_every_byte_and_is_the_same_twice(kind, form, sets, tmp_path):
    import datasets

    folder, rows = sets[kind], read_metadata(sets[kind])
    for name in ("one", "two"):
        words = ["export", folder, "--format", form, "--samples_per_file", 4, "--output", tmp_path / name]
        assert run(*words) == 0
    suffix = exporting.FORMATS[form]
    number = -(-len(rows) // 4)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    parts = sorted((tmp_path / "one").glob(f"*.{suffix}"))
    assert [p.name for p in parts] == [f"train-{k:05d}-of-{number:05d}.{suffix}" for k in range(number)]
    assert (tmp_path / "one" / "recipe.yaml").read_bytes() == (folder / "recipe.yaml").read_bytes()
    cache = str(tmp_path / "cache")
    by_card = datasets.load_dataset(str(tmp_path / "one"), split="train", cache_dir=cache)
    by_name = datasets.load_dataset(form, data_files=[str(p) for p in parts], split="train", cache_dir=cache)
    for loaded in (by_card, by_name):
        assert len(loaded) == len(rows)
        raw = loaded
        for column, feature in loaded.features.items():
            if isinstance(feature, datasets.Image):
                raw = raw.cast_column(column, datasets.Image(decode=False))
        for (index, row), read, decoded in zip(sorted(rows.items()), raw, loaded, strict=True):
            about = read["json"] if form == "webdataset" else read
            assert {key: about[key] for key in store.meta_of(row)} == store.meta_of(row) and about["index"] == index
            for column, content in files_in(row, folder).items():
                name = column if form == "parquet" else f"{column}{'.exr' if column == 'foreground' else '.png'}"
                value = read[name]
                assert (value["bytes"] if isinstance(value, dict) else value) == content
                if column in ("image", "background"):
                    assert decoded[name].mode == "RGB" and decoded[name].size == (SIZE, SIZE)
                if column == "alpha":
                    assert np.array_equal(np.asarray(decoded[name]) / np.float32(65535), read_pair(folder, row).alpha)


def test_where_things_are_from_is_checked_and_goes_onto_the_card(tmp_path, capsys):
    box(tmp_path / "own" / "a" / "box.ply")
    entry = {"path": str(tmp_path / "own" / "a"), "source": "example.org", "licence": "CC BY 3.0", "author": "Ann"}
    more = [entry, entry | {"path": str(tmp_path / "own")}, {k: v for k, v in entry.items() if k != "author"}]
    recipe = recipe_file(tmp_path, "mesh", f"licences: {json.dumps(more)}\n")
    again = parse_recipe(recipe_text(load_recipe(recipe), "again"), "again")
    assert again.licences == load_recipe(recipe).licences == tuple(more)
    words = ["--recipe", recipe, "--count", 1, "--size", 8, "--output", tmp_path / "set"]
    assert (
        run("render", *words) == 0
        and run("export", tmp_path / "set", "--format", "parquet", "--output", tmp_path / "out") == 0
    )
    lines = ["- example.org, by Ann: CC BY 3.0", "- example.org: CC BY 3.0"]
    assert store.attributions(tmp_path / "set") == store.attributions(tmp_path / "out") == lines
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.endswith("are from:\n\n" + "\n".join(lines) + "\n")
    silent = tmp_path / "silent.yaml"
    silent.write_text(recipe.read_text().partition("licences")[0])
    for given, said in ((silent, lines), (recipe, lines)):  # what the set says is kept, or replaced
        assert run("render", "--recipe", given, *words[2:]) == 0
        assert store.attributions(tmp_path / "set") == said
    recipe.write_text(silent.read_text() + f"licences: {json.dumps(more[2:])}\n")
    assert run("render", *words) == 0
    assert store.attributions(tmp_path / "set") == lines[1:]
    plain = tmp_path / "out" / "recipe.yaml"
    plain.write_text(recipe.read_text() + "licences: [3]\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: licences: 3 is not an entry"):
        store.attributions(tmp_path / "out")


def test_a_tar_names_its_members_by_index(sets, tmp_path):
    (path,) = exporting.export(sets["classes"], "webdataset", tmp_path / "out")
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[5:10]] == [
        f"000001.{name}" for name in ("image.png", "alpha.png", "classes.png", "instances.png", "json")
    ]
    assert {m.mtime for m in members} == {0}


def test_exports_are_whole_or_absent(sets, tmp_path, monkeypatch, capsys):
    folder, output = shutil.copytree(sets["mask"], tmp_path / "set"), tmp_path / "out"

    def refused(*more, code=2):
        capsys.readouterr()
        assert run("export", folder, "--output", output, *more) == code
        assert sorted(p.name for p in tmp_path.iterdir()) == there
        return one_error(capsys)

    there = ["set"]
    assert "'parqet'" in refused("--format", "parqet")
    assert "--samples_per_file" in refused("--samples_per_file", 0)
    (folder / workers.JOURNAL).touch()
    assert "not finished" in refused()
    (folder / workers.JOURNAL).unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setitem(exporting.__dict__, "_webdataset", full)
        error = refused("--format", "webdataset", code=1)
    assert "No space left" in error and str(output) in error
    name = folder / "alpha" / "000002.png"
    content = name.read_bytes()
    name.unlink()
    assert "000002.png: missing" in refused()
    name.write_bytes(content)
    output.mkdir()
    (output / "mine.txt").touch()
    there = ["out", "set"]
    assert "new or empty folder" in refused()
    (output / "mine.txt").unlink()
    assert run("export", folder, "--output", output) == 0


def test_push_to_hub_creates_then_uploads(sets, tmp_path, monkeypatch, capsys):
    """The Hub cannot be reached from here, so its client is replaced; the calls are checked, not their effect."""
    import huggingface_hub

    calls = []

    class Hub:
        def create_repo(self, repo_id, **more):
            if repo_id.startswith("nobody/"):
                raise ConnectionError("401 Unauthorized\nmore lines")
            calls.append(("create", repo_id, more))

        def upload_folder(self, **more):
            calls.append(("upload", more["repo_id"], sorted(p.name for p in Path(more["folder_path"]).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    words = ["export", sets["mask"], "--push_to_hub"]
    assert run(*words, "me/renders", "--private", "--output", tmp_path / "out") == 0
    assert calls[0] == ("create", "me/renders", {"repo_type": "dataset", "private": True, "exist_ok": True})
    uploaded = ["README.md", "recipe.yaml", "render.json", "train-00000-of-00001.parquet"]
    assert calls[1] == ("upload", "me/renders", uploaded)
    assert "https://huggingface.co/datasets/me/renders" in capsys.readouterr().out
    for name, code, word in (("renders", 2, "OWNER/NAME"), ("nobody/renders", 1, "hf auth login")):
        assert run(*words, name, "--output", tmp_path / "other") == code
        assert word in one_error(capsys)
        assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------- imports


def test_commands_answer_before_anything_heavy_is_imported():
    code = "import sys, synth_data.__main__ as m; m._parser('sdseg').format_help(); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert "argparse" in loaded and not loaded & {"numpy", "yaml", "mitsuba", "datasets", "torch"}


def test_nothing_of_the_renderer_loads_torch_or_datasets():
    modules = "store, workers, export, inspection, compose"
    code = f"import sys; from synth_data import {modules}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert "synth_data.store" in loaded and not loaded & {"torch", "datasets", "mitsuba", "huggingface_hub"}
