"""Each fault that a data set can have, put into a good one: found, named, and nothing else is."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from sdseg.data import Augmentation, open_pictures
from sdseg.imaging import read_alpha, read_image, write_alpha, write_image
from sdseg.training.doctor import doubts, examine, main
from synth_data.export import export
from tests.training.test_training import launch, rendered, stats, write_pairs
from tests.training.test_training import main as train


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 6)


def findings(data_dirs, **kwargs) -> list[str]:
    return [str(finding) for finding in examine(open_pictures(data_dirs, 32, Augmentation(False, 1.0)), **kwargs)]


def set_alpha(folder, number, change):
    file = folder / f"alpha/{number:06d}.png"
    write_alpha(file, change(read_alpha(file)).astype(np.float32))


def all_0(folder):
    for number in (1, 4):
        set_alpha(folder, number, np.zeros_like)


def all_1(folder):
    set_alpha(folder, 2, np.ones_like)


def binary(folder):
    set_alpha(folder, 3, lambda alpha: alpha > 0.5)


def inverted(folder):
    set_alpha(folder, 3, lambda alpha: 1 - alpha)


def mostly_inverted(folder):
    for number in range(6):  # the subject is cut by the frame's left side, so the border is not 1 throughout
        set_alpha(folder, number, lambda alpha: 1 - np.pad(alpha[:, 10:], ((0, 0), (0, 10)), mode="edge"))


def own_matte(folder):
    grey = np.round(read_alpha(folder / "alpha/000002.png") * 255).astype(np.uint8)
    write_image(folder / "images/000002.png", np.repeat(grey[..., None], 3, 2))


def premultiplied(folder):
    image, alpha = read_image(folder / "images/000005.png"), read_alpha(folder / "alpha/000005.png")
    write_image(folder / "images/000005.png", np.round(image * alpha[..., None]).astype(np.uint8))


def twice(folder):
    shutil.copyfile(folder / "images/000001.png", folder / "images/000004.png")


def unreadable(folder):
    file = folder / "alpha/000003.png"
    file.write_bytes(file.read_bytes()[:60])


def no_picture(folder):
    (folder / "images/000003.png").write_text("no picture")


def another_size(folder):
    write_alpha(folder / "alpha/000003.png", np.zeros((8, 9), np.float32))


def coloured(folder):
    colours = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "alpha/000003.png")


@pytest.mark.parametrize(
    ("fault", "kind", "phrases"),
    [
        (all_0, "warning", ["2 of 6 mattes are empty", "images/000001.png", "remove them"]),
        (all_1, "warning", ["1 of 6 mattes are full", "images/000002.png", "remove them"]),
        (binary, "warning", ["1 of 6 mattes hold nothing but 0 and 1", "images/000003.png", "soft edges"]),
        (inverted, "warning", ["1 of 6 mattes look inverted", "images/000003.png", "save 1 - alpha"]),
        (mostly_inverted, "warning", ["6 of 6 mattes look inverted", "images/000000.png"]),
        (own_matte, "warning", ["1 of 6 images are their own mattes", "images/000002.png", "alpha_column"]),
        (premultiplied, "warning", ["1 of 6 images look premultiplied", "images/000005.png", "backgrounds"]),
        (twice, "warning", ["1 images are there twice", "images/000001.png and images/000004.png", "remove one"]),
        (unreadable, "error", ["alpha/000003.png", "again"]),
        (no_picture, "error", ["images/000003.png", "not a picture"]),
        (another_size, "error", ["images/000003.png is 32x32", "000003.png is 9x8", "one size"]),
        (coloured, "error", ["alpha/000003.png", "must be grey"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_is_found_and_nothing_else(pairs, tmp_path, fault, kind, phrases):
    assert findings(pairs) == []
    folder = shutil.copytree(pairs, tmp_path / "faulty")
    fault(folder)
    found = findings(folder)
    assert len(found) == 1 and found[0].startswith(f"{kind}: {folder}: "), found
    assert all(phrase in found[0] for phrase in phrases) and "\n" not in found[0], found[0]


def test_subjects_that_the_frame_cuts_are_no_fault():
    """Wide at the bottom, and filling most of the frame: the border is covered in part."""
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    image = np.random.default_rng(0).integers(40, 250, (64, 64, 3), dtype=np.uint8)
    bust = (1.2 - (np.hypot(x - 0.5, y - 1) - 0.5) * 8).clip(0, 1).astype(np.float32)
    large = (1 - (np.hypot(x - 0.5, y - 0.5) - 0.55) * 8).clip(0, 1).astype(np.float32)
    assert doubts(image, bust) == [] and doubts(image, large) == []
    dark = (image * (bust[..., None] > 0.9)).astype(np.uint8) + 3  # before black, with noise in it
    assert doubts(dark, bust) == []


def test_faults_are_found_in_any_container_and_in_each_part_of_a_mixture(pairs, tmp_path):
    folder = rendered(tmp_path / "folder", list(range(6)))
    for number in (0, 3):
        set_alpha(folder, number, np.zeros_like)
    shutil.copyfile(folder / "images/000001.png", folder / "images/000004.png")
    for kind in ("parquet", "webdataset"):
        export(folder, kind, tmp_path / kind, 3)
        found = findings(str(tmp_path / kind))
        assert len(found) == 2 and "2 of 6 mattes are empty" in found[0] and "there twice" in found[1], found
        mixed = findings([str(pairs), str(tmp_path / kind)])
        assert mixed == found
    assert findings(folder, examined=3)[0].startswith(f"warning: {folder}: 1 of 3 mattes are empty")


def test_the_command_prints_all_and_its_exit_code_says_whether_to_train(pairs, tmp_path, capsys):
    folder = shutil.copytree(pairs, tmp_path / "faulty")
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"train_data_dir": str(pairs), "resolution": 32}))
    assert main(["--config", str(config)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("6 pairs; 0 errors, 0 warnings")
    binary(folder)
    assert main(["--config", str(config), f"--train_data_dir={folder}"]) == 0
    another_size(folder)
    unreadable(shutil.copytree(pairs, tmp_path / "held_out"))
    flags = [f"--train_data_dir={folder}", f"--validation_data_dir={tmp_path / 'held_out'}"]
    all_1(folder)
    assert main(["--config", str(config), *flags]) == 2
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: ") for line in out) == 2 and out[-1].endswith("2 errors, 1 warnings")
    assert main([f"--train_data_dir={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err.startswith("error: data folder")
    assert not list(tmp_path.glob("runs"))


def test_training_tells_before_it_loads_a_weight(pairs, tmp_path, capsys):
    folder = shutil.copytree(pairs, tmp_path / "faulty")
    binary(folder)
    flags = [f"--train_data_dir={folder}", f"--output_dir={tmp_path / 'run'}", "--pretrained_model_name_or_path=./no"]
    assert train(flags) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: {folder}: 1 of 6 mattes hold nothing but 0 and 1") and "./no" in last
    another_size(folder)
    assert train(flags) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {folder}: images/000003.png is 32x32") and "sdseg doctor" in error


# ---------------------------------------------------------------------------------------------- unreadable pairs


@pytest.fixture
def damaged(pairs, tmp_path):
    """Six pairs, two of which cannot be read: one matte is cut off after its header, one picture is missing."""
    folder = shutil.copytree(pairs, tmp_path / "damaged")
    file = folder / "alpha/000001.png"
    file.write_bytes(file.read_bytes()[:80])
    (folder / "images/000004.png").unlink()
    return folder


@pytest.fixture
def flags(miniature, damaged, tmp_path):
    def build(**changes) -> list[str]:
        settings = dict(
            train_data_dir=damaged, output_dir=tmp_path / "run", pretrained_model_name_or_path=miniature, resolution=32,
            max_train_steps=4, train_batch_size=2, lr_warmup_steps=1, rank=2, lora_alpha=2, checkpointing_steps=2,
            logging_steps=1, report_to="none",
        )  # fmt: skip
        return [f"--{key}={value}" for key, value in (settings | changes).items()]

    return build


def test_the_doctor_reads_all_where_it_is_told_to(pairs, damaged, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sdseg.training.doctor.EXAMINED", 1)
    held_out = shutil.copytree(pairs, tmp_path / "held_out")
    file = held_out / "alpha/000005.png"
    file.write_bytes(file.read_bytes()[:80])
    for image in (held_out / "images").iterdir():  # lest they be of the same bytes
        write_image(image, read_image(image)[::-1])
    flags = [f"--train_data_dir={damaged}", f"--validation_data_dir={held_out}"]
    assert main(flags) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if "000001" in line or "000005" in line] == []
    assert main([*flags, "--all"]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[-1].endswith("6 pairs; 3 errors, 0 warnings")
    assert all(any(name in line for line in out) for name in ("images/000004", "alpha/000001", "alpha/000005"))
    assert main([*flags, "--all", "--max_unreadable=3"]) == 0
    assert main([*flags, "--all", "--max_unreadable=2"]) == 2


def test_training_leaves_out_as_many_as_it_may(flags, tmp_path, capsys):
    assert train(flags(max_unreadable=1)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: 2 pairs cannot be read, and max_unreadable is 1: ")
    assert "alpha/000001.png" in error and "images/000004.png" in error and "--all" in error
    assert not (tmp_path / "run").exists()

    assert train(flags(max_unreadable=2)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 3 and "alpha/000001.png" in said[0] and "2 of 6 pairs cannot be read" in said[2]
    run = tmp_path / "run"
    left_out = json.loads((run / "run.json").read_text())["unreadable"]
    assert [name.rpartition(": ")[2] for name in left_out] == ["images/000001.png", "images/000004.png"]

    resumed = shutil.copytree(run, tmp_path / "resumed")
    shutil.rmtree(resumed / "adapter")
    shutil.rmtree(resumed / "checkpoint-4")
    assert train(flags(max_unreadable=5, output_dir=resumed)) == 0
    assert [row["loss"] for row in stats(resumed)] == [row["loss"] for row in stats(run)]
    capsys.readouterr()
    (resumed / "adapter").rename(tmp_path / "elsewhere")
    other = tmp_path / "damaged/alpha/000002.png"
    other.write_bytes(other.read_bytes()[:80])  # a third one
    assert train(flags(max_unreadable=5, output_dir=resumed)) == 2
    assert "holds another run" in capsys.readouterr().err


def test_without_leave_what_is_missing_is_refused_at_once(flags, tmp_path, capsys):
    assert train(flags(pretrained_model_name_or_path="./no")) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "image of images/000004.png is missing" in error and "sdseg doctor" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{}, {"dataloader_num_workers": 1}, {"cache_latents": "true"}])
def test_a_pair_that_fails_in_the_run_is_named_with_what_helps(flags, damaged, pairs, capsys, monkeypatch, changes):
    shutil.copyfile(pairs / "images/000004.png", damaged / "images/000004.png")
    monkeypatch.setattr("sdseg.training.run.look_over", lambda *_: None)  # it is damaged after that
    assert train(flags(**changes)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()][-1]
    assert error.startswith(f"error: {damaged / 'alpha/000001.png'}: is truncated or damaged"), error
    assert "`sdseg doctor --all`" in error and "max_unreadable" in error


@pytest.mark.slow
def test_what_is_left_out_is_the_same_on_two_processes(flags, tmp_path):
    for processes in (1, 2):
        output = tmp_path / str(processes)
        process = launch(flags(output_dir=output, max_unreadable=2, train_batch_size=2 // processes), processes)
        text, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and text.count("2 of 6 pairs cannot be read") == 1, text
    one, two = ([row["loss"] for row in stats(tmp_path / name)] for name in "12")
    assert two == pytest.approx(one, abs=1e-4)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in "12"]
    assert records[0] == records[1] and len(records[0]["unreadable"]) == 2
