"""Classes and masks from end to end: pairs, training on the shipped miniature, inference, evaluation."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sdseg.adapter import read_adapter
from sdseg.evaluation.__main__ import read_class_names
from sdseg.evaluation.evaluate import evaluate_folder
from sdseg.imaging import read_alpha, read_grey16, write_image
from sdseg.inference.__main__ import main as infer
from sdseg.inference.pipeline import MattingPipeline
from sdseg.training.__main__ import main as train

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "segmentation.py"
sys.path.insert(0, str(SCRIPT.parent))

import segmentation  # noqa: E402

NAMES = ["background", "disc", "square"]


def write_shapes(directory: Path, count: int, first_seed: int = 0, size: int = 32) -> Path:
    """Warm discs and cold squares on grey gradients: images/, classes/ with a strip of void, masks/, classes.json."""
    rows = []
    for index in range(count):
        rng = np.random.default_rng(first_seed + index)
        y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
        ids = np.zeros((size, size), np.uint8)
        image = np.repeat((rng.uniform(0.3, 0.7) + (y - 0.5) * rng.uniform(-0.4, 0.4))[..., None], 3, axis=2)
        left = rng.random() < 0.5
        for number, centre in ((1, 0.28 if left else 0.72), (2, 0.72 if left else 0.28)):
            row, radius = rng.uniform(0.3, 0.7), rng.uniform(0.17, 0.25)
            far = np.hypot(y - row, x - centre) if number == 1 else np.maximum(abs(y - row), abs(x - centre))
            ids[far < radius] = number
            image[far < radius] = [0.9, 0.5, 0.2] if number == 1 else [0.15, 0.4, 0.85]
        image = (image + rng.normal(0, 0.02, image.shape)).clip(0, 1)
        mask = np.where(ids > 0, 255, 0).astype(np.uint8)
        ids[:2] = 255
        name = f"{index:06d}.png"
        write_image(directory / "images" / name, (image * 255).astype(np.uint8))
        for folder, values in (("classes", ids), ("masks", mask)):
            (directory / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(directory / folder / name)
        rows.append({"file_name": f"images/{name}", "classes_file_name": f"classes/{name}",
                     "mask_file_name": f"masks/{name}"})  # fmt: skip
    (directory / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "classes.json").write_text(json.dumps({"1": "disc", "2": "square"}))
    return directory


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return write_shapes(folder / "train", 24), write_shapes(folder / "held_out", 6, first_seed=100)


def arguments(shapes, output: Path, **changes) -> list[str]:
    settings = dict(
        pretrained_model_name_or_path="embedded", train_data_dir=shapes[0], validation_data_dir=shapes[1],
        output_dir=output, target="classes", resolution=32, max_train_steps=25, train_batch_size=8, lr_warmup_steps=5,
        rank=16, lora_alpha=16, learning_rate=5e-3, adam_beta2=0.99, timestep_power=2, cache_latents="true",
        min_crop_scale=0.8, validation_steps=25, num_validation_images=4, validation_ensemble_size=2,
        checkpointing_steps=25, report_to="none", license="apache-2.0", seed=0,
    )  # fmt: skip
    return [f"--{key}={value}" for key, value in (settings | changes).items()]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> Path:
    """Run folder of 25 steps on the classes."""
    run = tmp_path_factory.mktemp("runs") / "classes"
    assert train(arguments(shapes, run)) == 0
    return run


@pytest.fixture(scope="module")
def maps(trained, shapes, tmp_path_factory) -> Path:
    """Class maps of the held-out pictures."""
    output = tmp_path_factory.mktemp("predicted") / "maps"
    flags = ["--ensemble_size", "4", "--output_uncertainty", "--output_overlay", "--batch_size", "4"]
    adapter = ["--adapter", str(trained / "adapter")]
    assert infer([*adapter, "--input", str(shapes[1] / "images"), "--output", str(output), *flags]) == 0
    return output


def test_classes_are_learned_and_evaluated(maps, shapes, trained):
    names = read_class_names(maps / "classes.json")
    assert names == NAMES
    result = evaluate_folder(maps, shapes[1] / "classes", kind="classes", classes=names, resamples=50)
    truth = np.stack([np.asarray(Image.open(path)) for path in sorted((shapes[1] / "classes").iterdir())])
    counts = np.bincount(truth[truth != 255], minlength=3) / (truth != 255).sum()
    assert result["set"]["accuracy"] > counts.max() + 0.1
    assert result["set"]["mean_iou"] > counts.max() / 3 + 0.2  # of predicting the majority class only
    assert not result["unused_predictions"]
    rows = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    validation = [row for row in rows if "validation_mean_iou" in row][-1]
    assert validation["step"] == 25 and validation["validation_accuracy"] > counts.max()
    assert "validation_mad" not in validation


def test_files_of_a_run_on_classes(maps, trained, shapes):
    adapter = read_adapter(trained / "adapter").config
    assert adapter.target == "classes" and adapter.class_names == NAMES and adapter.format_version == 2
    assert json.loads((trained / "adapter" / "sdseg_config.json").read_text())["format_version"] == 2
    card = (trained / "adapter" / "README.md").read_text()
    assert "Segmentation adapter" in card and "background, disc, square" in card and "| accuracy | mean IoU |" in card
    grid = np.asarray(Image.open(trained / "validation" / "step-000025.png"))
    assert grid.shape == (4 * 32, 4 * 32, 3)
    colours = np.array(adapter.class_colours, np.uint8)
    with Image.open(maps / "000000.png") as picture:
        assert picture.mode == "P"
        ids = np.asarray(picture)
        assert np.array_equal(np.asarray(picture.convert("RGB")), colours[ids])
    pipeline = MattingPipeline.from_adapter(trained / "adapter")
    generator = torch.Generator().manual_seed(0)
    photo = shapes[1] / "images" / "000000.png"
    out = pipeline(photo, ensemble_size=4, batch_size=4, generator=generator, output_uncertainty=True,
                   output_probabilities=True, output_samples=True)  # fmt: skip
    assert np.array_equal(out.prediction[0], ids) and ids.dtype == np.uint8
    assert np.abs(read_grey16(maps / "000000.uncertainty.png") - out.uncertainty[0]).max() < 1 / 65535
    shares = np.stack([(out.samples[0] == number).mean(axis=0) for number in range(3)])
    np.testing.assert_allclose(out.probabilities[0], shares, atol=1e-6)
    assert 0 < out.uncertainty[0].mean() < 0.5
    overlay = np.asarray(Image.open(maps / "000000.overlay.png")).astype(int)
    photo = np.asarray(Image.open(photo).convert("RGB")).astype(int)
    assert np.abs(overlay - (photo + colours[ids]) / 2).max() <= 0.5


def test_a_run_on_classes_resumes_bit_for_bit(trained, shapes, tmp_path):
    """With its own colours, which run.json keeps."""
    changes = dict(max_train_steps=4, checkpointing_steps=2, pixel_loss_share=0.5, lr_warmup_steps=1)
    changes |= dict(train_batch_size=4)
    flags = [flag for flag in arguments(shapes, tmp_path / "whole", **changes) if "validation_data" not in flag]
    assert train(flags) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "adapter")
    shutil.rmtree(tmp_path / "killed" / "checkpoint-4")
    assert train([flag.replace("/whole", "/killed") for flag in flags]) == 0
    one, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    stored = json.loads((tmp_path / "whole" / "run.json").read_text())["classes"]
    assert list(stored) == NAMES and list(stored.values()) == read_adapter(trained / "adapter").config.class_colours


@pytest.mark.slow
def test_second_stage_lowers_the_pixel_loss_of_painted_classes(shapes, tmp_path):
    changes = dict(pixel_loss_share=1, logging_steps=1, max_train_steps=30, validation_steps=30, checkpointing_steps=30)
    changes |= dict(train_batch_size=16, learning_rate=3e-3)
    assert train(arguments(shapes, tmp_path / "run", **changes)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_masks_are_learned_and_written(shapes, tmp_path):
    changes = dict(target="mask", max_train_steps=15, validation_steps=15, checkpointing_steps=15)
    assert train(arguments(shapes, tmp_path / "run", **changes)) == 0
    assert read_adapter(tmp_path / "run" / "adapter").config.target == "mask"
    flags = ["--ensemble_size", "4", "--batch_size", "4", "--output_mask", "--output", str(tmp_path / "out")]
    adapter = ["--adapter", str(tmp_path / "run" / "adapter")]
    assert infer([*adapter, "--input", str(shapes[1] / "images"), *flags]) == 0
    with Image.open(tmp_path / "out" / "000000.mask.png") as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask) == 255, read_alpha(tmp_path / "out" / "000000.png") >= 0.5)
    result = evaluate_folder(tmp_path / "out", shapes[1] / "masks", kind="binary", resamples=50)
    truth = np.stack([np.asarray(Image.open(path)) > 0 for path in sorted((shapes[1] / "masks").iterdir())])
    assert result["mean"]["iou"] > truth.mean() + 0.1  # of an all-foreground mask
    assert not result["unused_predictions"]


def test_contradictory_settings_are_refused(shapes, trained, tmp_path, capsys):
    def message(changes) -> str:
        assert train(arguments(shapes, tmp_path / "run", **changes)) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "has class 2, but 2 are named" in message(dict(class_names="[a,b]"))
    assert "set target to classes" in message(dict(target="alpha", class_names="[a,b]"))
    assert "'colour'; choose among alpha, mask, classes" in message(dict(target="colour"))
    many = "[" + ",".join(f"class{number}" for number in range(60)) + "]"
    assert "60 classes are too many for this base" in message(dict(class_names=many))
    bare = shutil.copytree(shapes[0], tmp_path / "bare")
    (bare / "classes.json").unlink()
    assert "nothing names them" in message(dict(train_data_dir=bare))
    assert not (tmp_path / "run").exists()
    adapter, photos = ["--adapter", str(trained / "adapter")], ["--input", str(shapes[1] / "images")]
    assert infer([*adapter, *photos, "--output", str(tmp_path / "out"), "--output_mask"]) == 2
    assert "--output_mask: this adapter was trained on target classes" in capsys.readouterr().err
    assert infer([*photos, "--output", str(tmp_path / "out"), "--output_overlay"]) == 2
    assert "--output_overlay: this adapter was trained on target alpha" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- benchmarks/segmentation.py


def test_the_unet_is_trained_on_the_same_pictures_as_lora(shapes):
    """In the same order, with the same crops and flips: its batches, encoded, are the latents that training caches."""
    from sdseg.data import LatentSource, TrainingStream
    from sdseg.model import encode_image, load_base
    from sdseg.training.config import parse_training_config
    from sdseg.training.data import open_data

    flags = [str(flag) for flag in segmentation.stages(shapes[0], 3, (2, 2))[0]] + ["--lr_warmup_steps", "1"]
    config = parse_training_config([*flags, "--output_dir", "none"])
    vae = load_base("embedded").vae
    pictures, _ = open_data(config)
    colours = np.array(list(pictures.target.painted(vae).values()), np.uint8)
    source = LatentSource(
        pictures, vae, config.cached_variants, config.seed, "cpu", lambda shards, **_: shards, colours=colours
    )
    stream = TrainingStream(
        source, len(pictures), seed=config.seed, latent_shape=(4, 8, 8), num_train_timesteps=1000,
        timestep_power=config.timestep_power, multires_noise_strength=config.multires_noise_strength,
    )  # fmt: skip
    for number, batch in enumerate(segmentation.batches(flags)):
        assert len(batch["image"]) == config.train_batch_size
        for row in (0, 23, 63):  # from several epochs: there are 24 pictures
            item = stream[number * config.train_batch_size + row]
            assert batch["index"][row] == item["index"] and batch["timestep"][row] == item["timestep"]
            with torch.no_grad():
                encoded = encode_image(vae, batch["image"][row : row + 1])[0]
            torch.testing.assert_close(encoded, item["image_latents"], atol=1e-4, rtol=1e-4)
    assert number == 1


@pytest.mark.parametrize("parameters", [1_500_000, 2_228_736])
def test_the_unet_has_as_many_parameters_as_the_adapter(parameters):
    network = segmentation.fitted_unet(parameters, 0)
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(parameters, rel=0.005)
    logits = network(torch.zeros(2, 3, 32, 48))
    assert logits.shape == (2, len(segmentation.NAMES), 32, 48)
    assert not torch.equal(logits[:, :, :16], network(torch.ones(2, 3, 32, 48))[:, :, :16])


def test_floor_and_ceiling_of_the_benchmark(shapes, tmp_path):
    truths = shapes[1] / "classes"
    floor = segmentation.judge(segmentation.draw_background(tmp_path / "floor", shapes[1] / "images"), truths)
    truth = np.stack([np.asarray(Image.open(path)) for path in sorted(truths.iterdir())])
    share = (truth == 0).sum() / (truth != 255).sum()
    assert floor["accuracy"] == pytest.approx(share) and floor["mean_iou"] == pytest.approx(share / 3)
    assert list(floor["iou"]) == ["background", "fur", "hair"] and floor["iou"]["fur"] == floor["subject_iou"] == 0
    ceiling = segmentation.judge(segmentation.draw_survivors(tmp_path / "ceiling", truths), truths)
    assert floor["accuracy"] + 0.1 < ceiling["accuracy"] < 1  # nine classes at 32 px


@pytest.mark.slow
def test_recipe_to_table(tmp_path):
    """The shipped recipe rendered, both methods trained and evaluated; a second run does none of this again."""
    command = [sys.executable, SCRIPT, "--output", tmp_path / "out", "--counts", "32", "8", "--steps", "60", "30"]
    command += ["--seeds", "0", "--unet_learning_rates", "3e-3", "--samples", "4", "--sheet", tmp_path / "sheet.jpg"]
    table = None
    for _ in range(2):
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
        assert table in (None, lines)
        table = lines
    assert "+ " not in result.stdout
    assert len(table) == 2 + 5
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    sizes = [rows[name][0]["parameters"] for name in ("LoRA, 4 samples", "U-Net, 0.003")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    for name in ("LoRA, 4 samples", "U-Net, 0.003"):  # after so few steps subjects are separated, but not by class
        assert rows[name][0]["subject_iou"] > 0.05
        assert rows[name][0]["mean_iou"] < rows["truth through the VAE"][0]["mean_iou"]
    assert Image.open(tmp_path / "sheet.jpg").size == (2 * 2 * (5 * 64 + 8), 2 * 2 * 68)
