"""Latents on disk: the same bits as in memory, encoded once whoever asks, and again where they do not fit."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import sdseg.data.latent_cache as cache
from sdseg.data import Augmentation, LatentSource, draw_generator, open_pictures
from sdseg.data.latent_cache import cache_key, checksum, encoded_together, locked, open_shard, write_shard
from tests.training.test_training import lora_of, main, write_pairs

COUNT, VARIANTS, SHARD = 11, 3, 8  # 33 entries: four whole shards, and one entry over


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), COUNT, size=16)


@pytest.fixture(scope="module")
def vae(miniature):
    from sdseg.model import load_base

    return load_base(str(miniature)).vae


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD_ENTRIES", SHARD)


def pictures_of(pairs, crop: float = 0.6):
    return open_pictures(pairs, 16, Augmentation(random_flip=True, min_crop_scale=crop))


def cached(pairs, vae, directory=None, **words) -> LatentSource:
    settings = dict(variants=VARIANTS, seed=3, device="cpu", progress=lambda items, **_: items, batch_size=4)
    return LatentSource(pictures_of(pairs), vae, **settings | words, directory=directory)


def items_of(source: LatentSource) -> list[dict[str, torch.Tensor]]:
    return [source.fetch(index, draw_generator(index, draw)) for index in range(COUNT) for draw in range(6)]


def same(one: LatentSource, other: LatentSource) -> bool:
    pairs = list(zip(items_of(one), items_of(other), strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def shards_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.safetensors"))


@pytest.fixture
def encodings(monkeypatch):
    """Numbers of the shards that were encoded, as they are encoded."""
    made = []
    real = LatentSource._encode
    monkeypatch.setattr(LatentSource, "_encode", lambda self, number: made.append(number) or real(self, number))
    return made


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_disk_and_memory_hold_the_same_bits(pairs, vae, tmp_path, encodings, keep_pixels):
    memory = cached(pairs, vae, keep_pixels=keep_pixels)
    first = cached(pairs, vae, tmp_path, keep_pixels=keep_pixels)
    assert encodings == 2 * [0, 1, 2, 3, 4] and same(memory, first)
    again = cached(pairs, vae, tmp_path, keep_pixels=keep_pixels)
    assert len(encodings) == 10 and same(memory, again)
    files = shards_in(tmp_path)
    assert len(files) == 5 and [len(shard["latent_valid"]) for shard in again.shards] == [8, 8, 8, 8, 1]
    maps = Path("/proc/self/maps")
    if maps.exists():  # memory-mapped, not read
        assert all(str(file) in maps.read_text() for file in files)


def test_entries_are_what_encoding_each_alone_gives(pairs, vae):
    """Against the plain way: pair i in its variant v, cropped by its own draws, through the VAE by itself."""
    source, pictures = cached(pairs, vae), pictures_of(pairs)
    for entry in (0, 7, 8, 32):
        index, variant = divmod(entry, VARIANTS)
        item = pictures.fetch(index, draw_generator(3, cache.PERMUTATION, index, variant))
        alone = cache.encode_batch({key: value[None] for key, value in item.items()}, vae, "cpu")
        kept = {key: values[entry % SHARD] for key, values in source.shards[entry // SHARD].items()}
        for key, value in kept.items():
            assert torch.allclose(value.float(), alone[key][0].float(), atol=1e-5), key
    drawn = {source.fetch(0, draw_generator(draw))["image_latents"].sum().item() for draw in range(40)}
    assert len(drawn) == VARIANTS


def test_what_decides_the_values_decides_the_place(pairs, vae, miniature, tmp_path):
    from sdseg.model import load_base

    other_vae = load_base(str(miniature)).vae
    fewer = shutil.copytree(pairs, tmp_path / "fewer")
    lines = (fewer / "metadata.jsonl").read_text().splitlines()
    (fewer / "metadata.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with torch.no_grad():
        other_vae.encoder.conv_in.bias[0] += 1e-6
    base = dict(pictures=pictures_of(pairs), vae=vae, variants=2, seed=0, keep_pixels=False, batch_size=4)
    changes = [
        dict(pictures=pictures_of(pairs, crop=0.7)), dict(pictures=pictures_of(fewer)), dict(vae=other_vae),
        dict(pictures=open_pictures(pairs, 32, Augmentation(True, 0.6))),
        dict(pictures=open_pictures(pairs, 16, Augmentation(False, 0.6))),
        dict(variants=3), dict(seed=1), dict(keep_pixels=True), dict(batch_size=8),
    ]  # fmt: skip
    keys = [str(cache_key(**base | change)) for change in [{}, *changes]]
    assert len(set(keys)) == len(keys)
    with torch.no_grad():  # nothing that is encoded with
        other_vae.encoder.conv_in.bias.copy_(vae.encoder.conv_in.bias)
        other_vae.decoder.conv_in.bias[0] += 1
    assert str(cache_key(**base | dict(vae=other_vae))) == keys[0]


def damage_a_value(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-9])


def empty(file):
    file.write_bytes(b"")


def forget(file):
    file.unlink()


def of_another_kind(file):
    write_shard(file, {"image_latents": torch.zeros(8, 4, 4, 4)})


def of_another_length(file):
    shard = open_shard(file, ["image_latents", "latent_valid", "matte_latents"], SHARD)
    write_shard(file, {key: value[:5] for key, value in shard.items()})


@pytest.mark.parametrize("harm", [damage_a_value, cut_off, empty, forget, of_another_kind, of_another_length])
def test_damaged_shards_alone_are_encoded_again(pairs, vae, tmp_path, encodings, harm):
    memory = cached(pairs, vae)
    cached(pairs, vae, tmp_path)
    files = shards_in(tmp_path)
    harm(files[2])
    (files[0].parent / ".abc.tmp").write_bytes(b"left by a killed process")
    before = {file: file.stat().st_mtime_ns for file in files if file != files[2]}
    encodings.clear()
    again = cached(pairs, vae, tmp_path)
    assert encodings == [2] and same(memory, again)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def in_children(*works) -> list[int]:
    """Runs each in a forked process at once; returns their exit codes."""
    children = []
    for work in works:
        if (child := os.fork()) == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                work()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_processes_at_once_encode_each_shard_once(pairs, vae, tmp_path, monkeypatch):
    """Two runs of two processes each: four that know nothing of each other but the folder."""
    torch.set_num_threads(1)
    memory = cached(pairs, vae)
    journal = tmp_path / "journal"
    real = LatentSource._encode

    def noted(self, number):
        with open(journal, "a") as file:
            file.write(f"{number} {os.getpid()}\n")
        time.sleep(0.1)
        return real(self, number)

    monkeypatch.setattr(LatentSource, "_encode", noted)

    def work(place):
        assert same(memory, cached(pairs, vae, tmp_path / "cache", place=place, places=2))

    assert in_children(*[lambda place=place: work(place) for place in (0, 1, 0, 1)]) == [0, 0, 0, 0]
    rows = [line.split() for line in journal.read_text().splitlines()]
    assert sorted(int(number) for number, _ in rows) == [0, 1, 2, 3, 4]
    assert len({process for _, process in rows}) >= 2  # they shared the work


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    ready = tmp_path / "ready"
    child = os.fork()
    if child == 0:
        with open(tmp_path / "lock", "ab") as file, locked(file, 3, wait=True):
            ready.write_text("")
            time.sleep(60)
        os._exit(0)
    while not ready.exists():
        time.sleep(0.01)
    with open(tmp_path / "lock", "ab") as file:
        with locked(file, 3, wait=False) as mine:
            assert not mine
        with locked(file, 4, wait=False) as mine:
            assert mine
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with locked(file, 3, wait=False) as mine:
            assert mine


def test_a_checksum_sees_every_value():
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
    assert checksum(one) == checksum(dict(reversed(one.items())))
    for key in one:
        for position in range(one[key].numel()):
            other = {name: value.clone() for name, value in one.items()}
            other[key].view(-1)[position] = 1 - other[key].view(-1)[position].float() - 0.5 > 0
            if not torch.equal(other[key], one[key]):
                assert checksum(other) != checksum(one)


def test_pictures_encoded_together_fit_in_memory():
    assert [encoded_together(side) for side in (32, 64, 128, 256, 320, 512, 768, 2048)] == [64, 64, 64, 16, 8, 4, 1, 1]
    assert all(128 % encoded_together(side) == 0 for side in range(8, 1100, 8))  # SHARD_ENTRIES as shipped


# ---------------------------------------------------------------------------------------------- the trainer


def test_runs_share_a_cache_and_train_as_from_memory(pairs, miniature, tmp_path, encodings, capsys):
    def train(name, **changes):
        settings = dict(
            pretrained_model_name_or_path=miniature, train_data_dir=pairs, output_dir=tmp_path / name, resolution=16,
            max_train_steps=2, train_batch_size=4, lr_warmup_steps=0, rank=2, lora_alpha=2, report_to="none",
            cache_latents="true",
        )  # fmt: skip
        code = main([f"--{key}={value}" for key, value in (settings | changes).items()])
        return lora_of(tmp_path / name / "adapter") if code == 0 else capsys.readouterr().err

    memory, first = train("memory"), train("first", latent_cache_dir=tmp_path / "cache")
    made = len(encodings)
    second = train("second", latent_cache_dir=tmp_path / "cache", learning_rate=1e-4)
    assert len(encodings) == made and second.keys() == first.keys()
    assert all(torch.equal(memory[key], first[key]) for key in memory)
    (tmp_path / "file").write_text("")
    error = train("none", latent_cache_dir=tmp_path / "file" / "cache")
    assert error.splitlines()[-1].startswith("error: latent_cache_dir") and "name a folder" in error
