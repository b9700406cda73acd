"""Sources of pairs: containers, streams and mixtures, each compared with the plain folder or with its parts."""

import io
import json
import shutil
import tarfile
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdseg.data import Augmentation, Columns, DataError, MicroBatches, MixedSource, TrainingStream, open_pictures
from sdseg.data.augmentation import draw_generator
from sdseg.imaging import write_alpha
from synth_data.export import export
from tests.training.test_training import launch, lora_of, main, rendered, stats, write_pairs

PLAIN = Augmentation(random_flip=True, min_crop_scale=0.5)


def opened(places, **kwargs):
    return open_pictures(places, 32, PLAIN, **kwargs)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Eleven pairs in a folder, and two exports of it, four pairs a file; `datasets` caches in a temporary folder."""
    import datasets

    home = tmp_path_factory.mktemp("sets")
    folder = rendered(home / "folder", list(range(11)))
    export(folder, "parquet", home / "parquet", 4)
    export(folder, "webdataset", home / "tar", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "cache"))
        yield home


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize(
    ("name", "kwargs"), [("tar", {}), ("parquet", {}), ("parquet", {"streaming": True}), ("tar", {"streaming": True})]
)
def test_every_container_returns_the_pairs_of_the_folder(sets, name, kwargs):
    folder, other = opened(sets / "folder"), opened(str(sets / name), **kwargs)
    assert len(other) == len(folder) == 11
    for index in range(11):
        for expected, actual in zip(folder.read(index), other.read(index), strict=True):
            assert expected.dtype == actual.dtype and np.array_equal(expected, actual)
        assert same(folder.fetch(index, draw_generator(index)), other.fetch(index, draw_generator(index)))
    assert len({other.name(index) for index in range(11)}) == 11
    assert other.digest() == opened(str(sets / name), **kwargs).digest() != folder.digest()


def test_tar_and_arrow_files_keep_the_folders_order_and_file_sizes_change_the_digest(sets, tmp_path):
    folder = opened(sets / "folder")
    for name in ("tar", "parquet"):
        assert torch.equal(opened(str(sets / name)).order(3, 1), folder.order(3, 1))
    changed = shutil.copytree(sets / "folder", tmp_path / "changed")
    write_alpha(changed / "alpha/000004.png", np.tri(32, dtype=np.float32))
    before = {kind: opened(str(sets / kind)).digest() for kind in ("tar", "parquet")}
    for kind, suffix in (("parquet", "parquet"), ("webdataset", "tar")):
        export(changed, kind, tmp_path / suffix, 4)
        assert opened(str(tmp_path / suffix)).digest() != before[suffix]


def rewritten(content: bytes) -> bytes:
    """A PNG of the same size on disk whose first pixel differs; `content` must have been stored uncompressed."""
    image = np.array(Image.open(io.BytesIO(content)))
    image.flat[0] ^= 1
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=0)
    assert len(buffer.getvalue()) == len(content)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "streamed"])
def test_a_file_rewritten_in_place_with_the_same_size_changes_the_checksum(tmp_path, kind):
    """Names and sizes, which the digest is made of, stay as they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, data = write_pairs(tmp_path / "folder", 3, size=96), tmp_path / "data"
    for file in (folder / "images").iterdir():
        Image.open(file).save(file, compress_level=0)
    names = [f"{index:06d}.png" for index in range(3)]
    old = (folder / "images" / names[1]).read_bytes()
    data.mkdir()
    if kind == "folder":
        data, changed_file = folder, folder / "images" / names[1]
    elif kind == "tar":
        changed_file = data / "train.tar"
        with tarfile.open(changed_file, "w") as tar:
            for name in names:
                add(tar, name.replace(".", ".image."), (folder / "images" / name).read_bytes())
                add(tar, name.replace(".", ".alpha."), (folder / "alpha" / name).read_bytes())
    else:
        changed_file = data / "train-0.parquet"
        columns = {"image": "images", "alpha": "alpha"}
        table = {key: [(folder / where / name).read_bytes() for name in names] for key, where in columns.items()}
        pq.write_table(pa.table(table), changed_file, compression="none", use_dictionary=False)

    def source():
        return opened(str(data), streaming=kind == "streamed")

    before, checksum = source().digest(), source().checksum()
    assert source().checksum() == checksum
    whole = changed_file.read_bytes()
    assert old in whole
    changed_file.write_bytes(whole.replace(old, rewritten(old)))
    assert source().digest() == before and source().checksum() != checksum


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_columns_are_found_by_name_and_by_suffix(sets, tmp_path):
    image, alpha = ((sets / "folder" / kind / "000002.png").read_bytes() for kind in ("images", "alpha"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with tarfile.open(foreign / "set.tar", "w") as tar:
        for key in ("a/one", "b/one"):  # one stem in two folders makes two samples
            for column, content in {"jpg": image, "matte.png": alpha, "txt": b"x"}.items():
                add(tar, f"{key}.{column}", content)
    source = opened(str(foreign), columns=Columns("jpg", "matte"))
    assert [source.name(index) for index in range(len(source))] == ["set.tar: a/one", "set.tar: b/one"]
    assert np.array_equal(source.read(1)[1], opened(sets / "folder").read(2)[1])

    for place in (foreign, sets / "parquet"):
        with pytest.raises(DataError, match="no column 'alpah'.*set alpha_column") as error:
            opened(str(place), columns=Columns("jpg" if place == foreign else "image", "alpah"))
        if place != foreign:
            assert "did you mean 'alpha'?" in str(error.value)

    folder = shutil.copytree(sets / "folder", tmp_path / "masks")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps(row | {"mask_file_name": "alpha/000000.png"}) + "\n" for row in rows)
    )
    masks = opened(folder, columns=Columns(alpha="mask"))
    assert np.array_equal(masks.read(5)[1], opened(folder).read(0)[1])
    with pytest.raises(DataError, match="depth_file_name"):
        opened(folder, columns=Columns(alpha="depth"))
    (folder / "metadata.jsonl").unlink()
    (folder / "alpha").rename(folder / "mattes")
    (folder / "images").rename(folder / "photos")
    assert len(opened(folder, columns=Columns("photos", "mattes"))) == 11


def test_unreadable_data_sets_raise_one_line_errors(sets, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)

    def broken(kind: str, damage) -> str:
        folder = shutil.copytree(sets / kind, tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}")
        damage(folder)
        return str(folder)

    def truncate(folder):
        file = sorted(folder.glob("train-*"))[1]
        file.write_bytes(file.read_bytes()[:3000])

    def compress(folder):
        import gzip

        file = folder / "train-00000-of-00003.tar"
        file.write_bytes(gzip.compress(file.read_bytes()))

    def add_sample_without_alpha(folder):
        with tarfile.open(folder / "train-00003-of-00003.tar", "w") as tar:
            add(tar, "000099.image.png", b"x")

    def replace_pictures(folder):
        with tarfile.open(folder / "train-00000-of-00003.tar", "w") as tar:
            add(tar, "000000.image.png", b"rubbish")
            add(tar, "000000.alpha.png", b"rubbish")

    cases = [
        (broken("tar", truncate), {}, ["train-00001-of-00003.tar", "again"]),
        (broken("tar", compress), {}, ["train-00000-of-00003.tar", "uncompressed"]),
        (broken("tar", add_sample_without_alpha), {}, ["sample 000099", "no column 'alpha'", "image.png"]),
        (broken("tar", replace_pictures), {}, ["000000.image.png", "not a picture"]),
        (str(sets / "tar"), {"columns": Columns(split="validation")}, ["begins with validation", "train_split"]),
        (broken("parquet", truncate), {"streaming": True}, ["train-00001-of-00003.parquet"]),
        (broken("parquet", truncate), {}, ["train-00001-of-00003.parquet", "copy or export it again"]),
        (str(sets / "parquet"), {"columns": Columns(split="test")}, ["no split 'test'", "it has train"]),
        (str(sets / "parquet"), {"columns": Columns(split="test"), "streaming": True}, ["no split 'test'", "train"]),
        (str(sets / "parquet"), {"columns": Columns(alpha="factors")}, ["factors", "holds str, not a picture"]),
        ("nobody/nothing", {}, ["nobody/nothing", "no such folder;", "Hub"]),
        ([str(sets / "tar"), str(sets / "tar")], {}, ["twice", "weight"]),
    ]
    for location, kwargs, parts in cases:
        with pytest.raises(DataError) as error:
            source = opened(location, **kwargs)
            for index in range(len(source)):
                source.read(index)
        assert all(part in str(error.value) for part in parts), error.value
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- streaming


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """Sixty pairs in a folder, and in parquet files of 23, 17 and 20 rows, in row groups of 5."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = tmp_path_factory.mktemp("streamed")
    pairs = write_pairs(home / "folder", 60, size=16)
    (home / "parquet").mkdir()
    first = 0
    for number, count in enumerate((23, 17, 20)):
        columns = {
            column: [
                {"bytes": (pairs / kind / f"{index:06d}.png").read_bytes(), "path": f"{index:06d}.png"}
                for index in range(first, first + count)
            ]
            for column, kind in (("image", "images"), ("alpha", "alpha"))
        }
        file = home / "parquet" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=5)
        first += count
    return home


def stream_of(source, **changes) -> TrainingStream:
    settings = dict(
        seed=5, latent_shape=(4, 4, 4), num_train_timesteps=1000, timestep_power=1.0, multires_noise_strength=0.9
    )
    return TrainingStream(source, len(source), **settings | changes)


def test_a_streamed_position_depends_on_nothing_else(streamed):
    """Not on what was read before, nor in which order: resuming, other processes and loader workers rely on that."""
    place, words = str(streamed / "parquet"), dict(streaming=True, shuffle_buffer_size=16)
    positions = [0, 1, 17, 59, 60, 61, 133]
    one, backwards = stream_of(opened(place, **words)), stream_of(opened(place, **words))
    items = {position: one[position] for position in range(134)}
    for position in reversed(positions):
        assert same(backwards[position], items[position])
    for position in positions:
        assert same(stream_of(opened(place, **words))[position], items[position])  # a run that resumes here
    loaded = torch.utils.data.DataLoader(one, batch_sampler=MicroBatches(0, 5, 4, 1, 1, 0), num_workers=2)
    for step, batch in enumerate(loaded):
        assert [batch["index"][k] for k in range(4)] == [items[4 * step + k]["index"] for k in range(4)]
        assert torch.equal(batch["image"], torch.stack([items[4 * step + k]["image"] for k in range(4)]))
    folder = opened(streamed / "folder")
    for position in positions:
        index = int(items[position]["index"])
        assert np.array_equal(folder.read(index)[0], opened(place, **words).read(index)[0])


def test_an_epoch_of_a_stream_holds_each_pair_once_in_a_local_order(streamed):
    source = opened(str(streamed / "parquet"), streaming=True, shuffle_buffer_size=16)
    orders = [source.order(5, epoch).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(60)) for order in orders) and len(set(map(tuple, orders))) == 4
    for order in orders:
        for start in range(0, 60, 16):  # of groups of 5, and of 3 and 2 where a file ends
            groups = [bisect_right(source.rows._firsts, index) for index in order[start : start + 16]]
            assert len(set(groups)) <= 6
    assert sum(abs(a - b) for a, b in pairwise(orders[0])) > 60 * 3  # shuffled within the windows too


def test_a_stream_reads_what_it_needs_and_keeps_little(streamed, monkeypatch):
    import pyarrow.parquet as pq

    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: read.append(a[1]) or real(*a, **k))
    source = opened(str(streamed / "parquet"), streaming=True, shuffle_buffer_size=16)
    stream = stream_of(source)
    stream[47]
    assert len(read) == 1  # a run resumed at position 47 does not read what came before
    read.clear()
    for position in range(48, 120):
        stream[position]
        assert sum(len(table) for table in source.rows._recent.values()) <= 16 + 2 * 5
    assert len(read) <= 2 * len(source.rows.groups)  # each group about once an epoch


def test_parquet_is_read_from_any_url_that_fsspec_opens(streamed):
    import fsspec

    from sdseg.data.containers import ParquetRows

    local = sorted((streamed / "parquet").glob("*.parquet"))
    memory = fsspec.filesystem("memory")
    for path in local:
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    remote = ParquetRows([f"memory://set/{path.name}" for path in local], Columns())
    on_disk = ParquetRows([str(path) for path in local], Columns())
    for index in (0, 22, 23, 59):
        assert remote[index].image.content == on_disk[index].image.content
    assert list(remote.sizes()) == list(on_disk.sizes()) and not remote.files() & on_disk.files()
    assert remote.name(23) == "train-00001-of-00003.parquet: row 0"


# ---------------------------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize("weights", [None, [3, 1, 1], [1, 1, 40]])
def test_a_mixture_follows_the_weights_and_shows_each_pair_before_any_comes_again(streamed, sets, tmp_path, weights):
    few = write_pairs(tmp_path / "few", 3, size=16)
    source = opened([str(path) for path in (sets / "tar", few, sets / "folder")], weights=weights)
    assert isinstance(source, MixedSource) and len(source) == 25
    sizes, first = [11, 3, 11], [0, 11, 14]
    seen = [[], [], []]
    for epoch in range(12):
        order = source.order(7, epoch)
        assert torch.equal(order, source.order(7, epoch)) and len(order) == 25
        for index in order.tolist():
            k = max(k for k in range(3) if first[k] <= index)
            seen[k].append(index - first[k])
        counts = [len(indices) / (epoch + 1) for indices in seen]
        quotas = [25 * w / sum(weights) for w in weights] if weights else sizes
        assert sum(counts) == 25 and all(abs(c - max(q, 1)) <= 1 for c, q in zip(counts, quotas, strict=True))
    for indices, size in zip(seen, sizes, strict=True):
        for start in range(0, len(indices) - size + 1, size):
            assert sorted(indices[start : start + size]) == list(range(size))


def test_a_mixture_reads_from_the_right_set(sets, streamed):
    parts = [opened(str(sets / "tar")), opened(str(streamed / "parquet"), streaming=True, shuffle_buffer_size=16)]
    source = opened(
        [str(sets / "tar"), str(streamed / "parquet")], streaming=True, shuffle_buffer_size=16, weights=[1, 2]
    )
    for index, (k, own_index) in {0: (0, 0), 10: (0, 10), 11: (1, 0), 70: (1, 59)}.items():
        assert np.array_equal(source.read(index)[0], parts[k].read(own_index)[0])
        assert source.name(index) == f"{parts[k].place}: {parts[k].name(own_index)}"
    assert source.files() == parts[0].files() | parts[1].files()
    other = opened(
        [str(sets / "tar"), str(streamed / "parquet")], streaming=True, shuffle_buffer_size=16, weights=[2, 1]
    )
    assert source.digest() != other.digest()
    lone = opened([str(sets / "tar")])
    assert torch.equal(lone.order(3, 2), parts[0].order(3, 2)) and lone.digest() == parts[0].digest()


def test_composites_made_on_the_fly_mix_with_stored_pairs(sets, tmp_path):
    from tests.synth_data.test_synth_recompose import VARIED, write_set

    folder = write_set(tmp_path / "layers", VARIED)
    source = opened([str(folder), str(sets / "tar")], weights=[1, 1])
    foregrounds = len(source) - 11
    stream = stream_of(source)
    kinds = Counter(int(stream[position]["index"]) < foregrounds for position in range(len(source)))
    assert abs(kinds[True] - kinds[False]) <= 1
    position = next(position for position in range(40) if stream.index_at(position)[2] < foregrounds)
    assert same(stream[position], stream_of(opened([str(folder), str(sets / "tar")], weights=[1, 1]))[position])


def test_order_of_a_plain_folder_never_changes(sets):
    """Pinned, so that a run begun with any version resumes exactly."""
    source = opened(sets / "folder")
    assert source.order(5, 0).tolist() == [2, 4, 1, 8, 7, 10, 3, 5, 0, 6, 9]
    assert source.order(5, 1).tolist() == [5, 10, 1, 7, 3, 4, 9, 0, 8, 6, 2]


# ---------------------------------------------------------------------------------------------- the trainer


@pytest.fixture
def arguments(miniature, tmp_path):
    def build(**changes) -> list[str]:
        settings = dict(
            pretrained_model_name_or_path=miniature, output_dir=tmp_path / "run", resolution=16, max_train_steps=4,
            train_batch_size=4, lr_warmup_steps=1, rank=2, lora_alpha=2, learning_rate=1e-3, checkpointing_steps=2,
            logging_steps=1, report_to="none", seed=3, num_validation_images=1, validation_ensemble_size=1,
        )  # fmt: skip
        return [f"--{key}={value}" for key, value in (settings | changes).items()]

    return build


def test_a_mixed_streamed_run_resumes_exactly(arguments, sets, streamed, tmp_path):
    mixture = f"[{sets / 'tar'}, {streamed / 'parquet'}]"
    changes = dict(train_data_dir=mixture, train_data_weights="[1, 3]", streaming="true", shuffle_buffer_size=16)
    assert main(arguments(output_dir=tmp_path / "whole", **changes)) == 0
    killed = Path(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    shutil.rmtree(killed / "adapter")
    shutil.rmtree(killed / "checkpoint-4")
    assert main(arguments(output_dir=killed, **changes)) == 0
    whole, resumed = lora_of(tmp_path / "whole/adapter"), lora_of(killed / "adapter")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [row["loss"] for row in stats(killed)] == [row["loss"] for row in stats(tmp_path / "whole")]
    assert main(arguments(output_dir=killed, **changes | {"train_data_weights": "[1, 2]", "max_train_steps": 5})) == 2


@pytest.mark.slow
@pytest.mark.parametrize("cached", [{}, {"cache_latents": "true"}])
def test_two_processes_see_the_stream_of_one(arguments, sets, streamed, tmp_path, cached):
    mixture = f"[{sets / 'tar'}, {streamed / 'parquet'}]"
    changes = dict(train_data_dir=mixture, train_data_weights="[1, 3]", streaming="true", shuffle_buffer_size=16)
    changes |= cached | ({"latent_cache_dir": tmp_path / "cache"} if cached else {})
    for name, processes in (("two", 2), ("one", 1)):
        flags = arguments(output_dir=tmp_path / name, train_batch_size=4 // processes, **changes)
        output, _ = (process := launch(flags, processes)).communicate(timeout=600)
        assert process.returncode == 0, output
    one, two = ([row["loss"] for row in stats(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)


def test_validation_accepts_any_container_but_no_training_data(arguments, sets, streamed, tmp_path, capsys):
    held_out = streamed / "parquet"
    assert main(arguments(train_data_dir=sets / "tar", validation_data_dir=held_out, max_train_steps=1)) == 0
    assert "validation_mad" in stats(tmp_path / "run")[-1]
    capsys.readouterr()
    changes = dict(train_data_dir=f"[{sets / 'folder'}, {sets / 'tar'}]", validation_data_dir=sets / "tar")
    assert main(arguments(output_dir=tmp_path / "other", **changes)) == 2
    assert "also trained on" in capsys.readouterr().err


def test_shared_foregrounds_are_found_in_exports_too(arguments, sets, tmp_path, capsys):
    other = rendered(tmp_path / "other", [20, 10])
    export(other, "parquet", tmp_path / "exported", 4)
    for training, held_out in ((sets / "tar", other), (sets / "folder", tmp_path / "exported")):
        assert main(arguments(train_data_dir=training, validation_data_dir=held_out)) == 2
        assert f"shows the same foreground 10 as train_data_dir {training}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_newer_settings_resumes(arguments, sets, tmp_path):
    import yaml

    assert main(arguments(train_data_dir=sets / "folder", max_train_steps=2)) == 0
    file = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    for key in ("streaming", "train_data_weights", "image_column", "alpha_column", "train_split"):
        del stored[key]
    file.write_text(yaml.safe_dump(stored))
    shutil.rmtree(tmp_path / "run" / "adapter")
    assert main(arguments(train_data_dir=sets / "folder", max_train_steps=2)) == 0


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (dict(train_data_dir="[a, b]", train_data_weights="[1]"), ["1 numbers for 2 data sets"]),
        (dict(train_data_dir="a", train_data_weights="[1, 2]"), ["2 numbers for 1 data sets"]),
        (
            dict(train_data_dir="[a, b]", train_data_weights="[1, 0]"),
            ["train_data_weights is [1, 0]", "a number above 0"],
        ),
        (dict(train_data_dir="[]"), ["train_data_dir is empty"]),
        (dict(train_data_dir="a", latent_cache_dir="b"), ["cache_latents is false"]),
        (dict(train_data_dir="a", shuffle_buffer_size=0), ["shuffle_buffer_size is 0"]),
    ],
)
def test_contradictory_settings_are_refused_at_once(arguments, changes, parts, capsys):
    assert main(arguments(**changes)) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts) and error.count("\n") == 1, error
