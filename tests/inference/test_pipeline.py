"""What `MattingPipeline` promises beside parity (see test_parity.py), on a miniature with random weights."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sdseg.adapter import AdapterError
from sdseg.imaging import read_image
from sdseg.inference.pipeline import MattingPipeline
from sdseg.inference.sampling import denoise
from sdseg.model import inference_scheduler
from sdseg.targets import resize
from tests.conftest import picture, write_random_miniature

LEVEL = 1 / 65535  # of a 16-bit matte


@pytest.fixture(scope="module")
def pipe(miniature_adapter):
    return MattingPipeline.from_adapter(miniature_adapter)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# ------------------------------------------------------------------------------------- samples and ensembles


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])  # without and with resizing at the end
def test_mean_and_unbiased_variance_of_the_samples(pipe, size):
    output = pipe(picture(*size), ensemble_size=5, generator=seeded(), output_uncertainty=True, output_samples=True)
    samples = output.samples[0].astype(np.float64)
    assert samples.shape == (5, *size)
    np.testing.assert_allclose(output.prediction[0], samples.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(output.uncertainty[0] ** 2, samples.var(axis=0, ddof=1), atol=1e-6)
    assert output.uncertainty[0].mean() > 0.01  # else the line above compares zeros


def test_the_picture_is_encoded_once_for_all_samples(pipe):
    encoded = []
    hook = pipe.vae.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    try:
        pipe([picture(64, 64), picture(40, 64)], num_inference_steps=1, ensemble_size=8, batch_size=3)
    finally:
        hook.remove()
    assert encoded == [1, 1]


def test_batch_size_changes_no_level(pipe):
    settings = dict(ensemble_size=8, output_uncertainty=True, output_samples=True)
    one = pipe(picture(60, 44), generator=seeded(), batch_size=1, **settings)
    for batch_size in (3, 8, 100):
        other = pipe(picture(60, 44), generator=seeded(), batch_size=batch_size, **settings)
        assert np.abs(other.samples[0] - one.samples[0]).max() < LEVEL
        assert np.abs(other.uncertainty[0] - one.uncertainty[0]).max() < LEVEL


def test_neighbours_and_order_change_nothing(pipe):
    pictures = [picture(64, 64, 0), picture(50, 70, 1), picture(33, 20, 2)]
    alone = [pipe(p, ensemble_size=2, generator=seeded(7)).prediction[0] for p in pictures]
    generators = [seeded(7) for _ in pictures]
    backwards = pipe(pictures[::-1], ensemble_size=2, generator=generators).prediction[::-1]
    for one, other in zip(alone, backwards, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_generator_serves_the_pictures_in_turn(pipe):
    generator = seeded(3)
    first = pipe(picture(64, 64, 0), generator=generator).prediction[0]
    second = pipe(picture(64, 64, 1), generator=generator).prediction[0]
    together = pipe([picture(64, 64, 0), picture(64, 64, 1)], generator=seeded(3)).prediction
    np.testing.assert_array_equal(together[0], first)
    np.testing.assert_array_equal(together[1], second)


def test_latents_are_the_noise_that_a_generator_would_draw(pipe):
    pictures = np.stack([picture(64, 64, 0), picture(64, 64, 1)])
    drawn = pipe(pictures, ensemble_size=2, generator=seeded(5)).prediction
    latents = torch.randn(4, 4, 16, 16, generator=seeded(5))
    for given in (latents, list(latents.split(2))):
        np.testing.assert_array_equal(pipe(pictures, ensemble_size=2, latents=given).prediction, drawn)


class Oracle(torch.nn.Module):
    """Stands where the UNet does and knows the answer: `clean`, or the velocity that leads to it from any noise."""

    def __init__(self, clean: torch.Tensor, noise: torch.Tensor, prediction_type: str = "v_prediction"):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(8, 1, 1)  # `denoise` asks it for the precision
        self.clean, self.noise, self.prediction_type = clean, noise, prediction_type
        self.alphas = inference_scheduler().alphas_cumprod

    def forward(self, pair, t, encoder_hidden_states):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        if self.prediction_type == "sample":
            return UNet2DConditionOutput(self.clean)
        return UNet2DConditionOutput(self.alphas[t].sqrt() * self.noise - (1 - self.alphas[t]).sqrt() * self.clean)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 10, 15, 25, 50, 333])
def test_a_perfect_prediction_leaves_no_noise_at_any_number_of_steps(steps, prediction_type):
    """Whatever stays of the starting noise would show as uncertainty where there is none."""
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=seeded())
    oracle = Oracle(clean, noise, prediction_type)
    scheduler = inference_scheduler(prediction_type=prediction_type)
    result = denoise(oracle, scheduler, clean, noise, torch.zeros(1, 2, 16), steps)
    assert (result - clean).abs().max() < 1e-5


# ---------------------------------------------------------------------------------------- what goes in, out


def test_every_kind_of_input_gives_the_same_matte(pipe, tmp_path):
    array = picture(50, 70)
    Image.fromarray(array).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = pipe(array, generator=seeded()).prediction[0]
    assert expected.shape == (50, 70) and expected.dtype == np.float32
    for image in (
        Image.fromarray(array),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        [array],
        array[None],
        tensor,
        tensor.float()[None] / 255,
    ):
        output = pipe(image, generator=seeded())
        assert len(output.prediction) == 1 and output.uncertainty is None and output.samples is None
        np.testing.assert_allclose(output.prediction[0], expected, atol=LEVEL)


def test_sizes_of_what_comes_out(pipe):
    pictures = [picture(50, 70), picture(90, 30)]
    settings = dict(ensemble_size=2, generator=seeded(), output_uncertainty=True, output_samples=True)
    own = pipe(pictures, **settings)
    assert [p.shape for p in own.prediction] == [(50, 70), (90, 30)]
    assert [u.shape for u in own.uncertainty] == [(50, 70), (90, 30)]
    assert [s.shape for s in own.samples] == [(2, 50, 70), (2, 90, 30)]
    at_processing = pipe(pictures, match_input_resolution=False, **settings)
    assert [p.shape for p in at_processing.prediction] == [(45, 64), (64, 21)]
    native = pipe(pictures, processing_resolution=0, match_input_resolution=False, **settings)
    assert [p.shape for p in native.prediction] == [(50, 70), (90, 30)]
    tensors = pipe(pictures, output_type="pt", **settings)
    assert all(isinstance(p, torch.Tensor) and p.dtype == torch.float32 for p in tensors.prediction)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (20, 2000)])
@pytest.mark.parametrize("resolution", [None, 0])
def test_thin_pictures_are_matted(pipe, size, resolution):
    image = picture(*size)
    result = pipe(image, 1, processing_resolution=resolution, generator=seeded())
    assert result.prediction[0].shape == size and np.isfinite(result.prediction[0]).all()


def test_a_thin_picture_is_matted_as_one_of_several_equal_lines(pipe):
    line = picture(1, 128)
    thin, thick = (pipe(np.repeat(line, times, 0), 1, generator=seeded()).prediction[0] for times in (1, 2))
    np.testing.assert_allclose(thin[0], thick[0], atol=LEVEL)


def test_resizing_keeps_constants_and_small_parts():
    assert torch.allclose(resize(torch.full((5, 7), 0.3), (40, 33)), torch.tensor(0.3))
    hair = torch.zeros(64, 64)
    hair[:, 21] = 1
    assert abs(resize(hair, (8, 8)).mean() - hair.mean()) < 1e-4  # a line one pixel wide keeps its coverage


def test_pil_images_are_read_as_their_files_are(pipe, tmp_path):
    upright = picture(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    rgba = np.dstack([upright, np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, axis=0)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(upright).quantize(16).save(tmp_path / "palette.png")
    for name in ("turned.png", "rgba.png", "palette.png"):
        by_path = pipe(tmp_path / name, generator=seeded()).prediction[0]
        by_image = pipe(Image.open(tmp_path / name), generator=seeded()).prediction[0]
        assert by_path.shape == (40, 60)
        np.testing.assert_array_equal(by_path, by_image)
    assert np.array_equal(read_image(tmp_path / "turned.png"), upright)


def test_bfloat16_stays_near_float32(pipe, miniature_adapter):
    half = MattingPipeline.from_adapter(miniature_adapter, torch_dtype=torch.bfloat16)
    one = pipe(picture(64, 64), generator=seeded()).prediction[0]
    other = half(picture(64, 64), generator=seeded()).prediction[0]
    assert other.dtype == np.float32
    assert 0 < np.abs(one - other).mean() < 0.01


def test_saved_whole_and_read_again(miniature_adapter, tmp_path):
    pipe = MattingPipeline.from_adapter(miniature_adapter, merge=False)
    pipe.save_pretrained(tmp_path / "whole")
    again = MattingPipeline.from_pretrained(tmp_path / "whole")
    settings = dict(ensemble_size=2, output_uncertainty=True)
    one = pipe(picture(50, 70), generator=seeded(), **settings)  # after saving: it must not have been merged
    other = again(picture(50, 70), generator=seeded(), **settings)
    np.testing.assert_allclose(one.prediction[0], other.prediction[0], atol=1e-5)
    assert any("lora_A" in name for name, _ in pipe.unet.named_parameters())
    assert not any("lora_A" in name for name, _ in again.unet.named_parameters())
    with pytest.raises(FileNotFoundError, match="from_adapter"):
        MattingPipeline.from_pretrained(tmp_path)


def test_what_is_pushed_is_whole(pipe, tmp_path, monkeypatch):
    """diffusers uploads as soon as its own part is written (huggingface/diffusers#868)."""
    import diffusers.pipelines.pipeline_utils as utils

    uploaded = []
    monkeypatch.setattr(
        MattingPipeline,
        "_upload_folder",
        lambda self, folder, *_, **__: uploaded.extend(path.name for path in Path(folder).rglob("*.*")),
    )
    monkeypatch.setattr(utils, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="owner/name"))
    monkeypatch.setattr(utils, "load_or_create_model_card", lambda *_, **__: None)  # would ask the Hub for one
    monkeypatch.setattr(utils, "populate_model_card", lambda *_: SimpleNamespace(save=lambda _: None))
    pipe.save_pretrained(tmp_path, push_to_hub=True, repo_id="owner/name")
    assert {"prompt_embedding.safetensors", "model_index.json", "diffusion_pytorch_model.safetensors"} <= set(uploaded)
    assert "from sdseg import MattingPipeline" in (tmp_path / "README.md").read_text()


def test_a_saved_pipeline_is_read_from_the_hub(pipe, tmp_path, monkeypatch):
    """The Hub is stood in for by a function that returns a local snapshot."""
    pipe.save_pretrained(tmp_path / "snapshot")
    asked = []

    def snapshot_download(name, revision=None):
        asked.append((name, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    again = MattingPipeline.from_pretrained("owner/name", revision="main")
    assert asked == [("owner/name", "main")] and torch.equal(again.prompt_embedding, pipe.prompt_embedding)


def test_the_default_dtype_changes_nothing(pipe):
    one = pipe(picture(64, 64), generator=seeded()).prediction[0]
    try:
        torch.set_default_dtype(torch.float64)
        other = pipe(picture(64, 64), generator=seeded()).prediction[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.dtype == np.float32 and np.array_equal(one, other)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_inference_steps=0), "num_inference_steps is 0; use 1"),
        (dict(num_inference_steps=-3), "num_inference_steps is -3; use 1"),
        (dict(num_inference_steps=1001), "num_inference_steps is 1001; use 1 to 1000"),
        (dict(ensemble_size=0), "ensemble_size is 0; use 1"),
        (dict(batch_size=0), "batch_size is 0; use 1"),
        (dict(output_uncertainty=True), "ensemble_size 1; a spread needs 2"),
        (dict(processing_resolution=-64), "processing_resolution is -64; use a multiple of 4"),
        (dict(processing_resolution=63), "processing_resolution is 63; use a multiple of 4"),
        (dict(output_type="pil"), "output_type is 'pil'; use"),
        (
            dict(latents=torch.zeros(1, 4, 16, 16), generator=seeded()),
            "latents and generator were both given",
        ),
        (dict(latents=torch.zeros(2, 4, 16, 16)), "hold 2 samples; give 1"),
        (
            dict(latents=torch.zeros(1, 4, 8, 16)),
            r"\(1, 4, 8, 16\) do not fit a picture that needs \(1, 4, 16, 16\)",
        ),
        (dict(generator=[seeded(), seeded()]), "generator has 2 entries for 1 picture"),
        (dict(image=[]), "image is an empty list"),
        (dict(image=7), "image is a int; give a path"),
        (dict(image="nowhere.png"), "nowhere.png"),
        (dict(image=np.zeros((8, 8, 4), np.uint8)), "not 1- or 3-channel"),
        (dict(image=np.full((8, 8, 3), 200.0, np.float32)), r"outside of the \[0,1\] range"),
        (dict(image=Image.new("I;16", (8, 8))), "mode I;16; give the file's path"),
    ],
)
def test_arguments_that_cannot_be_served(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": picture(64, 64), **settings})


def test_a_matte_that_is_not_finite_is_refused(pipe):
    vae = copy.deepcopy(pipe.vae)
    vae.decoder.conv_out.bias.data[0] = torch.nan
    broken = MattingPipeline(pipe.unet, vae, pipe.scheduler, pipe.prompt_embedding, 1, 64)
    with pytest.raises(FloatingPointError, match="not finite"):
        broken(picture(64, 64))


def test_wrong_base_and_missing_parts_are_refused(pipe, miniature_adapter, tmp_path):
    other = write_random_miniature(tmp_path / "other", seed=5)
    with pytest.raises(AdapterError, match="pass the base it was trained on"):
        MattingPipeline.from_adapter(miniature_adapter, str(other))
    with pytest.raises(ValueError, match="prompt_embedding is missing"):
        MattingPipeline(pipe.unet, pipe.vae, pipe.scheduler)


# -------------------------------------------------------------------------------------------------- classes


@pytest.fixture(scope="module")
def class_pipe(pipe):
    """The same weights, whose colours are read as four classes."""
    names, colours = ["ground", "a", "b", "c"], [[60, 60, 60], [90, 60, 100], [60, 110, 70], [110, 90, 60]]
    return MattingPipeline(
        pipe.unet, pipe.vae, pipe.scheduler, pipe.prompt_embedding, 4, 64,
        target="classes", class_names=names, class_colours=colours,
    )  # fmt: skip


def test_classes_are_what_the_samples_vote_for(class_pipe):
    settings = dict(ensemble_size=5, output_uncertainty=True, output_samples=True, output_probabilities=True)
    output = class_pipe(picture(64, 64), generator=seeded(), **settings)
    ids, samples, shares = output.prediction[0], output.samples[0], output.probabilities[0]
    assert ids.dtype == samples.dtype == np.uint8 and shares.shape == (4, 64, 64) and len(np.unique(samples)) > 1
    counted = np.stack([(samples == number).mean(axis=0) for number in range(4)])
    np.testing.assert_allclose(shares, counted, atol=1e-6)
    np.testing.assert_array_equal(ids, counted.round(6).argmax(axis=0))
    entropy = -np.sum(counted * np.log(np.where(counted > 0, counted, 1)), axis=0) / np.log(4)
    np.testing.assert_allclose(output.uncertainty[0], entropy, atol=1e-6)
    assert 0 < entropy.mean() < 1
    one = class_pipe(picture(64, 64), generator=seeded(), batch_size=5, ensemble_size=5)
    assert (one.prediction[0] == ids).mean() > 0.999


def test_class_maps_have_the_size_of_the_picture(class_pipe):
    settings = dict(ensemble_size=3, output_uncertainty=True, output_samples=True, output_probabilities=True)
    output = class_pipe(picture(90, 50), generator=seeded(), **settings)
    small = class_pipe(picture(90, 50), generator=seeded(), match_input_resolution=False, **settings)
    assert output.prediction[0].shape == output.uncertainty[0].shape == (90, 50)
    assert output.samples[0].shape == (3, 90, 50) and output.probabilities[0].shape == (4, 90, 50)
    assert small.prediction[0].shape == (64, 35)
    np.testing.assert_array_equal(output.prediction[0], output.probabilities[0].argmax(axis=0))
    slow = np.stack([resize(torch.from_numpy(plane), (90, 50)).numpy() for plane in small.probabilities[0]])
    np.testing.assert_allclose(output.probabilities[0], slow, atol=1e-6)


def test_a_class_model_is_saved_with_its_classes(class_pipe, tmp_path):
    class_pipe.save_pretrained(tmp_path / "whole")
    again = MattingPipeline.from_pretrained(tmp_path / "whole")
    assert list(again.config.class_names) == ["ground", "a", "b", "c"] and again.config.target == "classes"
    one, other = (p(picture(64, 64), generator=seeded()).prediction[0] for p in (class_pipe, again))
    assert (one == other).mean() > 0.999


def test_probabilities_need_classes(pipe):
    with pytest.raises(ValueError, match="target alpha; it has no classes"):
        pipe(picture(64, 64), output_probabilities=True)
