"""What a session does beside parity: merged weights, shared batches, automatic ensembles, added noise, small VAEs."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from PIL import Image

import sdseg
from sdseg.errors import UserError
from sdseg.imaging import read_alpha
from sdseg.inference.sampling import decode_alpha, denoise, grey_decoder
from sdseg.inference.session import AUTO_FIRST, AUTO_MOST, MattingSession, standard_error
from sdseg.model import BaseError, inference_scheduler
from tests.conftest import picture


@pytest.fixture(scope="module")
def session(miniature_adapter):
    return MattingSession.from_adapter(miniature_adapter)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def unet_batches(session) -> tuple[list[int], object]:
    sizes = []
    hook = session.unet.conv_in.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes, hook


# ------------------------------------------------------------------------------------------- the same, faster


def test_merged_weights_draw_what_lora_layers_draw(session, miniature_adapter):
    layered = MattingSession.from_adapter(miniature_adapter, merge=False)
    assert any("lora_A" in name for name, _ in layered.unet.named_parameters())
    assert not any("lora_A" in name for name, _ in session.unet.named_parameters())
    one, other = (one(picture(50, 70), generator=seeded()).prediction[0] for one in (session, layered))
    assert np.abs(one - other).max() < 1e-4


def test_the_grey_decoder_gives_the_mean_of_the_colours(session):
    latent = torch.randn(2, 4, 16, 16, generator=seeded())
    mean, before = decode_alpha(session.vae, latent), session.vae.decoder.conv_out
    with grey_decoder(session.vae), torch.no_grad():
        torch.testing.assert_close(decode_alpha(session.vae, latent), mean, rtol=0, atol=1e-5)
        assert session.vae.decoder.conv_out.out_channels == 1
    assert session.vae.decoder.conv_out is before


def test_nothing_stays_changed_in_the_model(session):
    processors = dict(session.unet.attn_processors)
    session(picture(64, 64), generator=seeded())
    assert session.unet.attn_processors == processors and "forward" not in vars(session.unet)


# --------------------------------------------------------------------------------------------------- batches


def test_pictures_of_one_size_share_batches_and_do_not_see_each_other(session):
    pictures = [picture(64, 64, seed) for seed in range(5)] + [picture(40, 64, 5)]
    settings = dict(num_inference_steps=2, ensemble_size=2)
    alone = [session(one, generator=seeded(), **settings).prediction[0] for one in pictures]
    sizes, hook = unet_batches(session)
    together = session(pictures, generator=[seeded() for _ in pictures], batch_size=4, **settings).prediction
    hook.remove()
    assert sizes == [4, 4, 4, 4, 2, 2, 2, 2]  # two steps each: twice two pictures, the fifth, the one of another size
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() < 1e-5


def test_a_picture_of_a_rare_size_does_not_wait_for_the_end(session):
    def jobs():
        for number in range(40):
            yield number, picture(40 if number == 0 else 64, 64, number), seeded()

    order = [key for key, _ in session.draw(jobs(), session.drawing(1, batch_size=3))]
    assert sorted(order) == list(range(40)) and order.index(0) < 20


def test_what_one_picture_raises_harms_no_other(session):
    pictures = [picture(64, 64, 0), np.zeros((8, 8, 4), np.uint8), picture(64, 64, 1)]
    jobs = ((number, one, seeded()) for number, one in enumerate(pictures))
    drawn = dict(session.draw(jobs, session.drawing(1, batch_size=2)))
    assert isinstance(drawn[1], ValueError)
    for number in (0, 2):
        one = session(pictures[number], 1, generator=seeded()).prediction[0]
        assert np.abs(session.summary(drawn[number])["prediction"].numpy() - one).max() < 1e-5


def test_a_batch_that_does_not_fit_is_halved(session, monkeypatch):
    whole, tried = session.sample, []

    def sample(batch, how, most=2):
        tried.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(batch, how)

    expected = session(picture(64, 64), 1, ensemble_size=8, generator=seeded(), output_samples=True).samples[0]
    monkeypatch.setattr(session, "sample", sample)
    settings = dict(ensemble_size=8, batch_size=8, generator=seeded(), output_samples=True)
    found = session(picture(64, 64), 1, **settings).samples[0]
    assert tried == [8, 4, 2, 2, 2, 2] and np.abs(found - expected).max() < 1e-5
    monkeypatch.setattr(session, "sample", lambda batch, how: sample(batch, how, most=0))
    with pytest.raises(UserError, match="one sample .*lower processing_resolution \\(64\\)"):
        session(picture(64, 64), 1)


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (64, 64), (30, 200)])
def test_a_picture_of_one_colour_has_an_empty_matte(session, size):
    for colour in (0, 90, 255):
        output = session(np.full((*size, 3), colour, np.uint8), ensemble_size=2, output_uncertainty=True)
        assert output.prediction[0].shape == size and not output.prediction[0].any() and not output.uncertainty[0].any()
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)  # grey all over once it is reduced
    assert session(board, generator=seeded()).prediction[0].any()
    speck = np.full((64, 64, 3), 90, np.uint8)
    speck[30:34, 30:34] = 120
    assert session(speck, generator=seeded()).prediction[0].any()


# ------------------------------------------------------------------------------------- automatic ensembles, eta


def test_an_automatic_ensemble_stops_when_its_mean_is_sure_enough(session):
    settings = dict(generator=seeded(), output_samples=True)
    all_of_them = session(picture(64, 64), ensemble_size=AUTO_MOST, **settings).samples[0]
    errors = {
        count: standard_error([torch.from_numpy(sample) for sample in all_of_them[:count]]) for count in (2, 4, 8)
    }
    assert errors[2] == pytest.approx(np.sqrt(all_of_them[:2].var(axis=0, ddof=1).mean() / 2), rel=1e-4)
    for tolerance, count in ((2 * errors[2], AUTO_FIRST), (1e-9, AUTO_MOST)):
        output = session(
            picture(64, 64), ensemble_size="auto", tolerance=tolerance, generator=seeded(), output_samples=True
        )
        assert output.sample_counts == [count]
        np.testing.assert_allclose(output.samples[0], all_of_them[:count], atol=1e-5)
    between = (errors[2] + max(errors[4], errors[8])) / 2
    output = session(picture(64, 64), ensemble_size="auto", tolerance=between, generator=seeded())
    assert output.sample_counts == [4 if errors[4] <= between else 8]


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.99])  # at 1 the peer takes the root of -1e-8
@pytest.mark.parametrize("steps", [2, 4, 10])
def test_added_noise_is_that_of_diffusers_ddim(session, eta, steps):
    """Its `step` takes the same times where the steps divide 1000, and the same noise when it is given."""
    peer = DDIMScheduler.from_config(inference_scheduler().config)
    image, latent = torch.randn(2, 1, 4, 16, 16, generator=seeded())
    step_noise = torch.randn(steps - 1, 1, 4, 16, 16, generator=seeded(1))
    prompt = session.prompt_embedding
    with torch.no_grad():
        found = denoise(session.unet, session.scheduler, image, latent, prompt, steps, eta, step_noise)
        peer.set_timesteps(steps)
        for number, t in enumerate(peer.timesteps):
            predicted = session.unet(torch.cat([image, latent], 1), t, encoder_hidden_states=prompt).sample
            noise = step_noise[number] if number < steps - 1 else torch.zeros_like(latent)
            latent = peer.step(predicted, t, latent, eta=eta, variance_noise=noise if eta else None).prev_sample
    torch.testing.assert_close(found, latent, rtol=1e-4, atol=1e-4)


def test_eta_changes_samples_whatever_the_batch(session):
    settings = dict(ensemble_size=3, output_samples=True)
    runs = [
        session(picture(64, 64), eta=eta, batch_size=batch_size, generator=seeded(), **settings).samples[0]
        for eta, batch_size in ((0.0, 3), (0.5, 3), (1.0, 3), (1.0, 1))
    ]
    assert np.abs(runs[2] - runs[3]).max() < 1e-5
    assert all(np.abs(one - other).mean() > 1e-3 for one, other in pairwise(runs[:3]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(eta=1.5), "eta is 1.5; use 0"),
        (dict(eta=float("nan")), "eta is nan; use 0"),
        (dict(ensemble_size="many"), "ensemble_size is 'many'; use 1 or more"),
        (dict(ensemble_size="auto", tolerance=0.0), "tolerance is 0.0; use"),
    ],
)
def test_settings_that_cannot_be_served(session, settings, message):
    with pytest.raises(UserError, match=message):
        session(picture(64, 64), **settings)


# ------------------------------------------------------------------------------------------------- refinement


def test_every_kind_of_picture_is_refined_alike():
    """On the miniature that ships; the picture is larger than what the model draws."""
    shipped = MattingSession.from_adapter("embedded")
    y, x = np.mgrid[:150, :200]
    inside = np.hypot(y - 75, x - 100) < 50
    image = np.where(inside[..., None], [200, 40, 30], [120, 125, 130]).astype(np.uint8)
    settings = dict(num_inference_steps=1)

    def drawn(picture, **more):
        return shipped(picture, generator=seeded(), **settings, **more).prediction[0]

    found = drawn(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    kinds = (tensor, tensor / 255, (image / 255).astype(np.float32), image.astype(np.uint16) * 257)
    for picture_of_a_kind in kinds:
        np.testing.assert_allclose(drawn(picture_of_a_kind), found, atol=2e-3)
    assert np.abs(drawn(image, refine=False) - inside).mean() > 2 * np.abs(found - inside).mean()
    grey = drawn(image[..., 0])
    assert grey.shape == (150, 200)
    np.testing.assert_allclose(drawn(image[..., :1]), grey, atol=2e-3)
    np.testing.assert_allclose(drawn(tensor[:1]), grey, atol=2e-3)
    assert np.abs(drawn(image, tile=100) - found).max() > 0.01


def test_tiles_are_refused_for_other_targets_and_sizes(session, miniature_adapter):
    with pytest.raises(UserError, match="tile is 3; use 4 pixels"):
        session(picture(64, 64), tile=3)
    with pytest.raises(UserError, match="processing_resolution 0"):
        session(picture(64, 64), tile=64, processing_resolution=0)


# ------------------------------------------------------------------------------------------- small VAE, offload


def test_a_small_vae_decodes_in_place_of_the_bases(miniature_adapter, tmp_path):
    torch.manual_seed(0)
    blocks = dict(encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8))
    layers = dict(num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))
    AutoencoderTiny(**blocks, **layers).save_pretrained(tmp_path / "tiny")
    AutoencoderTiny(**blocks, **layers, latent_channels=8).save_pretrained(tmp_path / "other")
    session = MattingSession.from_adapter(miniature_adapter)
    before = session(picture(64, 64), 1, generator=seeded()).prediction[0]
    session.use_tiny_vae(str(tmp_path / "tiny"))
    after = session(picture(64, 64), 1, generator=seeded()).prediction[0]
    assert after.shape == before.shape and np.abs(after - before).mean() > 0.01
    with pytest.raises(BaseError, match="8 latent channels.*base has 4"):
        session.use_tiny_vae(str(tmp_path / "other"))
    with pytest.raises(BaseError, match="AutoencoderTiny in safetensors"):
        session.use_tiny_vae(str(tmp_path / "nothing"))


def test_offloading_needs_a_gpu(session):
    with pytest.raises(UserError, match="needs a GPU"):
        session.enable_model_cpu_offload("cpu")


# ------------------------------------------------------------------------------------------------- sdseg.matte


def test_a_matte_is_of_the_type_that_was_given(session, tmp_path):
    array = picture(40, 60)
    Image.fromarray(array).save(tmp_path / "photo.png")
    expected = session(array, 1, generator=seeded()).prediction[0]
    settings = dict(session=session, num_inference_steps=1)

    found = sdseg.matte(array, **settings)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    tensor = sdseg.matte(torch.from_numpy(array).permute(2, 0, 1) / 255, **settings)
    assert torch.is_tensor(tensor)
    np.testing.assert_allclose(tensor, expected, atol=1e-5)

    path = sdseg.matte(tmp_path / "photo.png", **settings)
    assert path == tmp_path / "photo.png.matte.png"
    np.testing.assert_allclose(read_alpha(path), expected, atol=1 / 65535)
    named = sdseg.matte(str(tmp_path / "photo.png"), output=tmp_path / "named.png", **settings)
    assert named == str(tmp_path / "named.png") and (tmp_path / "named.png").read_bytes() == path.read_bytes()

    content = sdseg.matte((tmp_path / "photo.png").read_bytes(), **settings)
    assert isinstance(content, bytes)
    (tmp_path / "bytes.png").write_bytes(content)
    np.testing.assert_array_equal(read_alpha(tmp_path / "bytes.png"), read_alpha(path))

    image = sdseg.matte(Image.fromarray(array), **settings)
    assert image.mode == "L" and np.abs(np.array(image) / 255 - expected).max() < 1 / 255
    Image.fromarray(array).putalpha(image)

    listed = sdseg.matte([array, Image.fromarray(array)], **settings)
    assert isinstance(listed[0], np.ndarray) and isinstance(listed[1], Image.Image)
    batch = sdseg.matte(np.stack([array, array]), **settings)
    assert batch.shape == (2, 40, 60) and np.array_equal(batch[0], batch[1]) and np.array_equal(batch[0], expected)


def test_what_matte_cannot_serve(session, tmp_path):
    with pytest.raises(UserError, match="output names one file"):
        sdseg.matte([picture(8, 8)], output=tmp_path / "a.png", session=session)
    with pytest.raises(UserError, match="ndarray was given"):
        sdseg.matte(picture(8, 8), output=tmp_path / "a.png", session=session)
    Image.fromarray(picture(8, 8)).save(tmp_path / "photo.png")
    for output in ("photo.png", "matte.jpg"):
        with pytest.raises(UserError, match="mattes are PNG files"):
            sdseg.matte(tmp_path / "photo.png", output=tmp_path / output, session=session)
    with pytest.raises(UserError, match="int64 .* cannot be used"):
        sdseg.matte(picture(8, 8).astype(np.int64), session=session)
    with pytest.raises(UserError, match="given as bytes"):
        sdseg.matte(b"no picture", session=session)
