"""Noise and loss against slower truths and identities."""

import numpy as np
import pytest
import torch

from sdseg.model import inference_scheduler
from sdseg.noise import annealed_noise, multi_resolution_noise
from sdseg.objective import denoising_loss

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


class LinearUnet(torch.nn.Module):
    """v̂ = 0.3 · image + 0.5 · noisy + t / 1000: enough to write the loss out by hand."""

    def forward(self, latents, timesteps, encoder_hidden_states):
        image, noisy = latents.chunk(2, dim=1)

        class Output:
            sample = 0.3 * image + 0.5 * noisy + timesteps[:, None, None, None] / 1000

        return Output


def test_loss_equals_the_equation_written_out_in_numpy():
    generator = torch.Generator().manual_seed(0)
    image, matte, noise = torch.randn(3, 2, 4, 3, 5, generator=generator)
    valid = torch.rand(2, 1, 3, 5, generator=generator) > 0.4
    timesteps = torch.tensor([7, 999])
    scheduler = inference_scheduler()
    found = denoising_loss(LinearUnet(), scheduler, image, matte, valid, noise, timesteps, torch.zeros(1, 2, 8))

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))  # zero terminal SNR: shifted to 0 at T and stretched back (Lin 2023)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    for b, t in enumerate(timesteps.tolist()):
        a, s = root[t], np.sqrt(1 - root[t] ** 2)
        total, count = 0.0, 0
        for y in range(3):
            for x in range(5):
                if valid[b, 0, y, x]:
                    count += 1
                    for c in range(4):
                        i, z, e = (value[b, c, y, x].item() for value in (image, matte, noise))
                        velocity = a * e - s * z
                        guess = 0.3 * i + 0.5 * (a * z + s * e) + t / 1000
                        total += (guess - velocity) ** 2 / 4
        assert found[b].item() == pytest.approx(total / count, rel=1e-4)


def test_last_time_step_holds_no_trace_of_the_matte():
    scheduler = inference_scheduler()
    matte, noise = torch.randn(2, 1, 4, 8, 8)
    noisy = scheduler.add_noise(matte, noise, torch.tensor([999]))
    assert torch.allclose(noisy, noise, atol=1e-6)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
