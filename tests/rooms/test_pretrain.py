"""The script that trains the miniature base: resuming, the VAE's loss, and both stages on a few pictures."""

import json

import numpy as np
import pytest
import torch

from sdseg.embedded.pretrain import SIZE, Trainer, as_tensor, main, read_photos, vae_loss, warmup_constant_decay
from sdseg.errors import UserError
from sdseg.imaging import write_image
from tests.training.test_training import write_pairs


def test_learning_rate_warms_up_stays_and_falls_to_zero():
    rates = [warmup_constant_decay(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 200) and rates[199:800] == [1.0] * 601
    assert rates[900] == pytest.approx(0.5) and rates[1000] == 0
    assert all(a >= b for a, b in zip(rates[800:], rates[801:], strict=False))


def test_a_loaded_state_resumes_bit_for_bit(tmp_path):
    def build(name):
        torch.manual_seed(0)
        return Trainer(torch.nn.Linear(5, 3), tmp_path / name, learning_rate=0.1, ema_decay=0.9)

    def loss_at(trainer):
        def loss(step):
            batch = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
            return trainer.model(batch).square().mean()

        return loss

    whole, first, second = build("whole.safetensors"), build("parts.safetensors"), build("parts.safetensors")
    for step in range(12):
        whole.update(loss_at(whole)(step), 12)
    for step in range(5):
        first.update(loss_at(first)(step), 12)
    first.save()
    second.load()
    for step in range(second.step, 12):
        second.update(loss_at(second)(step), 12)
    assert second.step == 12
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(whole.ema.shadow_params, second.ema.shadow_params, strict=True):
        assert torch.equal(one, other)


def test_pictures_and_mattes_become_three_channels():
    picture = np.array([[[[0, 255, 51]]]], np.uint8)
    assert as_tensor(picture).flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert as_tensor(np.array([[[51]]], np.uint8)).flatten().tolist() == pytest.approx([-0.6] * 3)


def test_vae_loss_of_a_perfect_reconstruction_is_its_kl_term():
    class IdealVAE:
        class posterior:
            @staticmethod
            def sample(_generator):
                return None

            @staticmethod
            def kl():
                return torch.tensor([3.0])

        def encode(self, _batch):
            return type("Encoded", (), {"latent_dist": self.posterior})

        def decode(self, _latent):
            return type("Decoded", (), {"sample": self.decoded})

    vae, batch = IdealVAE(), torch.rand(1, 3, 4, 4)
    vae.decoded = batch
    assert vae_loss(vae, batch, None).item() == pytest.approx(3e-6)
    vae.decoded = batch + 0.1  # a constant offset has no edges
    assert vae_loss(vae, batch, None).item() == pytest.approx(0.1 + 3e-6, abs=1e-6)


def write_photos(folder, number, height=90, width=120):
    folder.mkdir()
    for index in range(number):
        picture = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_image(folder / f"{index}.png", picture)
    return folder


def test_photographs_become_squares_without_stretching(tmp_path):
    """A vertical edge in the middle of a wide photo stays an edge between two flat halves, wherever it is cut."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = 200
    (tmp_path / "photos").mkdir()
    for index in range(8):
        write_image(tmp_path / "photos" / f"{index}.png", picture)
    squares = read_photos(tmp_path / "photos")
    assert squares.shape == (8, SIZE, SIZE, 3) and np.ptp(squares.astype(int), axis=1).max() <= 1
    assert len({square.tobytes() for square in squares}) > 2  # cut in different places, some of them mirrored


def test_a_folder_without_photographs_is_named(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none"):
        read_photos(tmp_path / "none")


@pytest.mark.slow
def test_both_stages_write_a_base_that_loads(tmp_path):
    pairs, photos = write_pairs(tmp_path / "pairs", 6, size=64), write_photos(tmp_path / "photos", 10)
    flags = ["--renders", pairs, "--photos", photos, "--output", tmp_path / "run", "--vae_steps", 4]
    flags += ["--unet_steps", 4, "--unet_batch_size", 4]
    main([str(flag) for flag in flags])
    from sdseg.model import load_base

    base = load_base(str(tmp_path / "run" / "base"))
    assert base.unet.config.in_channels == 8 and base.vae_scale_factor == 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"vae", "unet"}
    main([str(flag) for flag in flags])  # finished: nothing more is logged
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == len(rows)


def test_without_mattes_the_vae_cannot_be_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--photos", str(write_photos(tmp_path / "photos", 1)), "--output", str(tmp_path / "run")])
    assert "--renders or --mattes" in capsys.readouterr().err and not (tmp_path / "run").exists()
