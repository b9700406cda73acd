"""Latents on disk: the same bits as in memory, encoded once by however many processes, and again when damaged."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import time
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

import sdseg.data.latent_cache as cache
from sdseg.data.augmentation import Augmentation, draw_generator
from sdseg.data.latent_cache import (
    LatentSource,
    cache_key,
    checksum,
    default_batch_size,
    open_shard,
    vae_digest,
    write_shard,
)
from sdseg.data.sources import open_pictures
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


def cached(pairs, vae, directory=None, **changes) -> LatentSource:
    settings = dict(cached_variants=VARIANTS, seed=3, device="cpu", progress=lambda items, **_: items, batch_size=4)
    return LatentSource(pictures_of(pairs), vae, **settings | changes, latent_cache_dir=directory)


def items_of(source: LatentSource) -> list[dict[str, torch.Tensor]]:
    return [source.fetch(index, draw_generator(index, draw)) for index in range(COUNT) for draw in range(6)]


def same(one: LatentSource, other: LatentSource) -> bool:
    pairs = list(zip(items_of(one), items_of(other), strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def shards_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.safetensors"))


@pytest.fixture
def encodings(monkeypatch):
    """Numbers of the shards that were encoded, in that order."""
    numbers = []
    real = LatentSource._encode
    monkeypatch.setattr(LatentSource, "_encode", lambda self, number: numbers.append(number) or real(self, number))
    return numbers


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


def test_loader_processes_get_no_copy_of_the_vae(pairs, vae):
    """Those that are not forked (Python 3.14's default, Windows, macOS) are sent the source pickled."""
    source = cached(pairs, vae)
    sent = pickle.dumps(source)
    assert len(sent) < sum(value.numel() for value in vae.parameters())
    again = pickle.loads(sent)
    item, other = (one.fetch(0, torch.Generator().manual_seed(1)) for one in (source, again))
    assert all(torch.equal(item[key], other[key]) for key in item)


def test_entries_equal_pairs_encoded_one_by_one(pairs, vae):
    """Against the plain way: variant v of pair i, cropped by its own draws, encoded in a batch of one."""
    source, pictures = cached(pairs, vae), pictures_of(pairs)
    for entry in (0, 7, 8, 32):
        index, variant = divmod(entry, VARIANTS)
        item = pictures.fetch(index, draw_generator(3, cache.PERMUTATION, index, variant))
        alone = cache.encode_batch({key: value[None] for key, value in item.items()}, vae, "cpu")
        stored = {key: values[entry % SHARD] for key, values in source.shards[entry // SHARD].items()}
        for key, value in stored.items():
            assert torch.allclose(value.float(), alone[key][0].float(), atol=1e-5), key
    drawn = {source.fetch(0, draw_generator(draw))["image_latents"].sum().item() for draw in range(40)}
    assert len(drawn) == VARIANTS


def test_whatever_changes_the_values_changes_the_key(pairs, vae, miniature, tmp_path):
    from sdseg.model import load_base

    other_vae = load_base(str(miniature)).vae
    fewer = shutil.copytree(pairs, tmp_path / "fewer")
    lines = (fewer / "metadata.jsonl").read_text().splitlines()
    (fewer / "metadata.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with torch.no_grad():
        other_vae.encoder.conv_in.bias[0] += 1e-6
    base = dict(pictures=pictures_of(pairs), vae=vae, cached_variants=2, seed=0, keep_pixels=False, batch_size=4)
    changes = [
        dict(pictures=pictures_of(pairs, crop=0.7)), dict(pictures=pictures_of(fewer)), dict(vae=other_vae),
        dict(pictures=open_pictures(pairs, 32, Augmentation(True, 0.6))),
        dict(pictures=open_pictures(pairs, 16, Augmentation(False, 0.6))),
        dict(cached_variants=3), dict(seed=1), dict(keep_pixels=True), dict(batch_size=8),
    ]  # fmt: skip
    keys = [str(cache_key(**base | change)) for change in [{}, *changes]]
    assert len(set(keys)) == len(keys)
    with torch.no_grad():  # the decoder changes no latent
        other_vae.encoder.conv_in.bias.copy_(vae.encoder.conv_in.bias)
        other_vae.decoder.conv_in.bias[0] += 1
    assert str(cache_key(**base | dict(vae=other_vae))) == keys[0]


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-9])


def empty(file):
    file.write_bytes(b"")


def delete(file):
    file.unlink()


def write_other_keys(file):
    write_shard(file, {"image_latents": torch.zeros(8, 4, 4, 4)})


def write_fewer_entries(file):
    shard = open_shard(file, ["image_latents", "latent_valid", "matte_latents"], SHARD)
    write_shard(file, {key: value[:5] for key, value in shard.items()})


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, delete, write_other_keys, write_fewer_entries])
def test_only_damaged_shards_are_encoded_again(pairs, vae, tmp_path, encodings, damage):
    memory = cached(pairs, vae)
    cached(pairs, vae, tmp_path)
    files = shards_in(tmp_path)
    damage(files[2])
    (files[0].parent / ".abc.tmp").write_bytes(b"left by a killed process")
    before = {file: file.stat().st_mtime_ns for file in files if file != files[2]}
    encodings.clear()
    again = cached(pairs, vae, tmp_path)
    assert encodings == [2] and same(memory, again)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_cache_of_the_first_version_is_still_read(pairs, vae, tmp_path, encodings):
    """A cache in format 1, written here by hand: its key, its shards with their checksums, and its file of locks."""
    memory = cached(pairs, vae)
    encodings.clear()
    key = {
        "format": 1, "data": pictures_of(pairs).digest(),
        "contents": pictures_of(pairs).checksum(), "vae": vae_digest(vae), "resolution": 16, "random_flip": True,
        "min_crop_scale": 0.6, "variants": 3, "seed": 3, "keep_pixels": False, "batch_size": 4,
    }  # fmt: skip
    folder = tmp_path / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir()
    (folder / ".lock").touch()
    for number, shard in enumerate(memory.shards):
        names = ["image_latents", "latent_valid", "matte_latents"]
        crc32 = zlib.crc32(b"".join(shard[name].numpy().tobytes() for name in names))
        shard = {name: shard[name].contiguous() for name in names}
        save_file(shard, folder / f"{number:05d}.safetensors", metadata={"crc32": str(crc32)})
    assert same(memory, cached(pairs, vae, tmp_path)) and not encodings
    assert json.loads((folder / "cache.json").read_text()) == key


def forked(work) -> int:
    """Runs `work` in a forked process, which exits with 0 if it returns; gives the process id."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Waits for a forked process; -n for signal n."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_concurrent_processes_encode_each_shard_once(pairs, vae, tmp_path, monkeypatch):
    """Two runs of two processes each, which share nothing but the folder."""
    torch.set_num_threads(1)
    memory = cached(pairs, vae)
    journal = tmp_path / "journal"
    real = LatentSource._encode

    def logged(self, number):
        with open(journal, "a") as file:
            file.write(f"{number} {os.getpid()}\n")
        time.sleep(0.1)
        return real(self, number)

    monkeypatch.setattr(LatentSource, "_encode", logged)

    def work(place):
        assert same(memory, cached(pairs, vae, tmp_path / "cache", process_index=place, num_processes=2))

    children = [forked(lambda place=place: work(place)) for place in (0, 1, 0, 1)]
    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    rows = [line.split() for line in journal.read_text().splitlines()]
    assert sorted(int(number) for number, _ in rows) == [0, 1, 2, 3, 4]
    assert len({process for _, process in rows}) >= 2  # they shared the work


@pytest.mark.parametrize("killed_while", ["encoding", "writing"])
def test_a_killed_process_leaves_its_shard_to_others(pairs, vae, tmp_path, monkeypatch, encodings, killed_while):
    """A process holds shard 3 until it is killed: the others' shards come first, and shard 3 is encoded after that."""
    torch.set_num_threads(1)
    memory = cached(pairs, vae)
    encodings.clear()
    at_shard_3 = tmp_path / "at_shard_3"

    def hang():
        at_shard_3.touch()
        time.sleep(60)

    def hang_in_encoding(self, number, encode=LatentSource._encode):
        return hang() if number == 3 else encode(self, number)

    def hang_in_writing(tensors, path, metadata):
        save_file(tensors, path, metadata)
        if len(list(path.parent.glob("0*.safetensors"))) == 3:
            path.write_bytes(path.read_bytes()[:1000])
            hang()

    def fill_until_killed():
        if killed_while == "encoding":
            monkeypatch.setattr(LatentSource, "_encode", hang_in_encoding)
        else:
            monkeypatch.setattr(safetensors.torch, "save_file", hang_in_writing)
        cached(pairs, vae, tmp_path / "cache")

    child = forked(fill_until_killed)
    while not at_shard_3.exists():
        time.sleep(0.01)
    assert [file.stem for file in shards_in(tmp_path / "cache")] == ["00000", "00001", "00002"]

    def kill_at_shard_4(self, number, encode=LatentSource._encode):
        if number == 4:
            os.kill(child, signal.SIGKILL)
            assert exit_code(child) == -signal.SIGKILL
        return encode(self, number)

    monkeypatch.setattr(LatentSource, "_encode", kill_at_shard_4)
    assert same(memory, cached(pairs, vae, tmp_path / "cache"))
    assert encodings == [4, 3]


def test_a_checksum_sees_every_value():
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
    assert checksum(one) == checksum(dict(reversed(one.items())))
    for key in one:
        for position in range(one[key].numel()):
            other = {name: value.clone() for name, value in one.items()}
            other[key].view(-1)[position] = 1 - other[key].view(-1)[position].float() - 0.5 > 0
            if not torch.equal(other[key], one[key]):
                assert checksum(other) != checksum(one)


def test_default_batch_sizes_fit_in_memory_and_divide_a_shard():
    expected = {32: 64, 64: 64, 128: 64, 256: 16, 320: 8, 512: 4, 768: 1, 2048: 1}  # side in pixels -> pictures
    assert {side: default_batch_size(side) for side in expected} == expected
    assert all(128 % default_batch_size(side) == 0 for side in range(8, 1100, 8))  # the real SHARD_ENTRIES


# ---------------------------------------------------------------------------------------------- the trainer


def test_runs_share_a_cache_and_train_as_with_latents_in_memory(pairs, miniature, tmp_path, encodings, capsys):
    def train(name, **changes):
        settings = dict(
            pretrained_model_name_or_path=miniature, train_data_dir=pairs, output_dir=tmp_path / name, resolution=16,
            max_train_steps=2, train_batch_size=4, lr_warmup_steps=0, rank=2, lora_alpha=2, report_to="none",
            cache_latents="true",
        )  # fmt: skip
        code = main([f"--{key}={value}" for key, value in (settings | changes).items()])
        return lora_of(tmp_path / name / "adapter") if code == 0 else capsys.readouterr().err

    memory, first = train("memory"), train("first", latent_cache_dir=tmp_path / "cache")
    count = len(encodings)
    second = train("second", latent_cache_dir=tmp_path / "cache", learning_rate=1e-4)
    assert len(encodings) == count and second.keys() == first.keys()
    assert all(torch.equal(memory[key], first[key]) for key in memory)
    (tmp_path / "file").write_text("")
    error = train("none", latent_cache_dir=tmp_path / "file" / "cache")
    assert error.splitlines()[-1].startswith("error: latent_cache_dir") and "name a folder" in error
