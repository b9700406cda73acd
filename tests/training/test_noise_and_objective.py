"""Noise and loss against slower truths and identities."""

import numpy as np
import pytest
import torch

from sdseg.data.noise import annealed_noise, multi_resolution_noise
from sdseg.model import inference_scheduler
from sdseg.training.objective import grown, laplacian_pyramid, pixel_loss, training_loss

SHAPE = (4, 16, 24)


def test_noise_is_white_at_zero_and_coarse_at_the_end():
    def neighbour_correlation(timestep):
        noise = annealed_noise((4, 64, 64), timestep, 1000, 0.9, torch.Generator().manual_seed(3))
        return torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1].item()

    assert abs(neighbour_correlation(0)) < 0.02
    assert neighbour_correlation(999) > 0.2
    assert 0.02 < neighbour_correlation(500) < neighbour_correlation(999)


def test_each_sample_of_noise_has_unit_deviation_and_its_own_generator():
    for seed in range(5):
        noise = multi_resolution_noise(SHAPE, 0.9, torch.Generator().manual_seed(seed))
        assert noise.shape == SHAPE
        assert noise.std().item() == pytest.approx(1, abs=1e-5)
    again = multi_resolution_noise(SHAPE, 0.9, torch.Generator().manual_seed(4))
    assert torch.equal(noise, again)


def test_strength_does_not_change_the_number_of_draws():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    multi_resolution_noise(SHAPE, 0.0, generators[0])
    multi_resolution_noise(SHAPE, 0.9, generators[1])
    assert torch.equal(torch.rand(3, generator=generators[0]), torch.rand(3, generator=generators[1]))


@pytest.mark.parametrize(
    "strength, size, powers",
    [  # what 600 to 1500 calls of Marigold's own multi_res_noise_like gave (github.com/prs-eth/Marigold, b1dffaa)
        (0.9, 16, {2: 0.520, 4: 0.352, 8: 0.259, 16: 0.223}),
        (0.9, 32, {2: 0.521, 4: 0.353, 8: 0.270, 16: 0.237}),
        (0.9, 64, {2: 0.537, 4: 0.376, 8: 0.299, 16: 0.264}),
        (0.9, 96, {2: 0.548, 4: 0.389, 8: 0.315, 16: 0.280}),
        (0.45, 64, {2: 0.291, 4: 0.102, 8: 0.0424, 16: 0.0235}),
    ],
)
def test_spectrum_is_that_of_marigolds_noise(strength, size, powers):
    """Power that is left after means of k x k latents; white noise leaves 1 / k²."""
    generator, samples = torch.Generator().manual_seed(2), 300
    noise = torch.stack([multi_resolution_noise((4, size, size), strength, generator) for _ in range(samples)])
    for side, expected in powers.items():
        left = torch.nn.functional.avg_pool2d(noise, side).square().mean(dim=(1, 2, 3))
        error = (left.var().item() * (1 / samples + 1 / 600)) ** 0.5
        assert left.mean().item() == pytest.approx(expected, abs=4 * error), side


class LinearUnet(torch.nn.Module):
    """Its output is 0.3 · image + 0.5 · noisy + t / 1000: enough to write the loss out by hand."""

    def forward(self, latents, timesteps, encoder_hidden_states):
        image, noisy = latents.chunk(2, dim=1)

        class Output:
            sample = 0.3 * image + 0.5 * noisy + timesteps[:, None, None, None] / 1000

        return Output


def latent_batch(timesteps: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(timesteps), 4, 3, 5)
    image, matte, noise = (torch.randn(shape, generator=generator) for _ in range(3))
    return {
        "image_latents": image, "matte_latents": matte, "noise": noise, "timestep": torch.tensor(timesteps),
        "latent_valid": torch.rand(len(timesteps), 1, 3, 5, generator=generator) > 0.4,
        "through_pixels": torch.zeros(len(timesteps), dtype=torch.bool),
    }  # fmt: skip


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_loss_equals_the_equation_written_out_in_numpy(prediction_type):
    batch = latent_batch([7, 999])
    scheduler = inference_scheduler(prediction_type=prediction_type)
    found = training_loss(LinearUnet(), None, scheduler, batch, torch.zeros(1, 2, 8))

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))  # zero terminal SNR: shifted to 0 at T and stretched back (Lin 2023)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    for b, t in enumerate([7, 999]):
        a, s = root[t], np.sqrt(1 - root[t] ** 2)
        total, count = 0.0, 0
        for y in range(3):
            for x in range(5):
                if batch["latent_valid"][b, 0, y, x]:
                    count += 1
                    for c in range(4):
                        names = ("image_latents", "matte_latents", "noise")
                        i, z, e = (batch[name][b, c, y, x].item() for name in names)
                        wanted = z if prediction_type == "sample" else a * e - s * z
                        guess = 0.3 * i + 0.5 * (a * z + s * e) + t / 1000
                        total += (guess - wanted) ** 2 / 4
        assert found[b].item() == pytest.approx(total / count, rel=1e-4)


class Truthful(torch.nn.Module):
    """Knows the matte's latents, and gives the output that means them, plus an error."""

    def __init__(self, scheduler, batch, error):
        super().__init__()
        self.scheduler, self.batch, self.error = scheduler, batch, error

    def forward(self, latents, timesteps, encoder_hidden_states):
        clean, noise = self.batch["matte_latents"] + self.error, self.batch["noise"]

        class Output:
            sample = self.scheduler.get_velocity(clean, noise, timesteps)

        return Output


@torch.no_grad()
def test_pixel_loss_of_the_true_latents_is_that_of_the_vae_alone(miniature):
    """Only samples that are chosen go through the decoder; the others keep the denoising loss."""
    from sdseg.data import encode_batch
    from sdseg.model import decode_grey, load_base

    vae = load_base(str(miniature)).vae
    alpha = torch.zeros(3, 1, 32, 32)
    alpha[..., 8:20, 6:27] = 1
    valid = torch.ones(3, 1, 32, 32, dtype=torch.bool)
    batch = encode_batch({"image": torch.zeros(3, 3, 32, 32), "alpha": alpha, "valid": valid}, vae, "cpu")
    batch |= {
        "noise": torch.randn(batch["matte_latents"].shape, generator=torch.Generator().manual_seed(1)),
        "timestep": torch.tensor([999, 400, 999]),
        "through_pixels": torch.tensor([True, False, True]),
    }
    scheduler, prompt = inference_scheduler(), torch.zeros(1, 2, 8)
    error = torch.zeros(3, 1, 1, 1)
    error[1] = 0.1
    losses = training_loss(Truthful(scheduler, batch, error), vae, scheduler, batch, prompt)
    through_vae = pixel_loss((decode_grey(vae, batch["matte_latents"]) + 1) / 2, alpha, valid)
    assert torch.allclose(losses[[0, 2]], through_vae[[0, 2]], rtol=1e-4)
    noise_share = 1 - scheduler.alphas_cumprod[400]  # of an error of .1 in z, √(1 − ᾱ) · .1 is left in v
    assert losses[1].item() == pytest.approx(0.01 * noise_share.item(), rel=1e-3)


def test_pixel_loss_equals_the_sum_written_out():
    generator = torch.Generator().manual_seed(2)
    alpha, truth = torch.rand(2, 2, 1, 8, 8, generator=generator)
    valid = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    valid[1, :, :, 5:] = False
    found = pixel_loss(alpha, truth, valid)
    for b in range(2):
        d = ((alpha - truth) * valid)[b, 0].double().numpy()
        width = 8 if b == 0 else 5
        wanted = np.abs(d[:, :width]).mean() + np.abs(np.diff(d[:, :width])).mean()
        wanted += np.abs(np.diff(d[:, :width], axis=0)).mean()
        picture, bands = torch.from_numpy(d)[None, None].float(), []
        for _ in range(3):  # 8 -> 4 -> 2 -> 1 pixels
            blocks = picture.shape[-1] // 2
            small = picture.reshape(1, 1, blocks, 2, blocks, 2).mean((3, 5))
            bands.append(picture - grown(small, picture.shape[-2:]))
            picture = small
        bands.append(picture)
        share = width / 8
        wanted += sum(2**k * band.abs().mean().item() / share / len(bands) for k, band in enumerate(bands))
        assert found[b].item() == pytest.approx(wanted, rel=1e-5)


def test_pixel_loss_ignores_what_is_not_valid_and_grows_with_the_error():
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(1, 1, 16, 16, generator=generator)
    valid = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    valid[..., 10:, :] = False
    elsewhere = torch.where(valid, truth, torch.rand(truth.shape, generator=generator))
    assert pixel_loss(elsewhere, truth, valid).item() == 0
    error = torch.randn(truth.shape, generator=generator)
    losses = [pixel_loss(truth + share * error, truth, valid).item() for share in (0.1, 0.2, 0.4)]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4) and losses[2] == pytest.approx(4 * losses[0], rel=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (1, 9)])
def test_bands_of_a_pyramid_add_up_to_the_picture(size):
    picture = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(4))
    *bands, whole = laplacian_pyramid(picture, 5)
    for band in reversed(bands):
        whole = band + grown(whole, band.shape[-2:])
    assert torch.allclose(whole, picture, atol=1e-6)


def test_last_time_step_holds_no_trace_of_the_matte():
    scheduler = inference_scheduler()
    matte, noise = torch.randn(2, 1, 4, 8, 8)
    noisy = scheduler.add_noise(matte, noise, torch.tensor([999]))
    assert torch.allclose(noisy, noise, atol=1e-6)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
