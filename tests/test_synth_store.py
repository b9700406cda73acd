"""The store, shards and what reads a set back: the same bytes, whole or absent, and every refusal in one line."""

import numpy as np
import pytest

from synth_data.store import Layers, Pair, file_names, read_layers, read_pair, write_layers, write_pair


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
    """Mitsuba's: channels by name, premultiplied values untouched."""
    import mitsuba as mi

    if mi.variant() is None:
        mi.set_variant("scalar_rgb")
    layers = random_layers(np.random.default_rng(1))
    folder = folders(tmp_path, compositing="on_the_fly")
    row = write_layers(folder, layers)
    bitmap = mi.Bitmap(str(folder / row["file_name"]))
    channels = dict(zip((field.name for field in bitmap.struct_()), np.moveaxis(np.array(bitmap), -1, 0), strict=True))
    assert np.array_equal(channels["A"], layers.alpha) and np.array_equal(channels["instance"], layers.instances)
    assert np.array_equal(np.stack([channels[name] for name in "RGB"], -1), layers.colour)
