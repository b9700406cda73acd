"""Trains the miniature base: `python -m sdseg.embedded.pretrain --data DIR --output DIR`.

Two stages, both on rendered pictures only (a folder that `sdseg render` wrote):

1. `vae`: an `AutoencoderKL` with a downsampling factor of 4 learns to reconstruct crops of the pictures, and of their
   mattes as grey pictures, since Stable Diffusion's VAE has seen silhouettes too.
2. `unet`: a `UNet2DConditionModel` with SD2's topology (v-prediction, empty prompt) learns to generate the pictures
   from noise, first at half resolution, then at full resolution, as SD2 was trained at increasing resolutions. It never
   sees a picture together with its matte: matting is left to the adapter.

The learning rate warms up, stays constant and decays to zero over the last fifth of the steps, so a run that is stopped
and started again with fewer `--unet_steps` still ends with the decay. Both stages save their state every few minutes,
and resume from it when the same command is run again.
"""

import json
import math
import os
import time
from pathlib import Path

from sdseg.errors import Parser
from sdseg.imaging import to_signed, to_unit

SEED = 20
VAE_CONFIG = dict(
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    block_out_channels=[24, 48, 64],
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
    sample_size=64,
)
UNET_CONFIG = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    block_out_channels=[32, 64, 128, 128],
    layers_per_block=1,
    attention_head_dim=[1, 2, 4, 4],  # diffusers takes this as the number of heads, for SD2 too
    cross_attention_dim=32,
    use_linear_projection=True,
    norm_num_groups=16,
)


def warmup_constant_decay(step: int, steps: int, warmup: int = 200, decay_share: float = 0.2) -> float:
    """Factor of the learning rate at `step` of `steps`: linear warm-up, constant, linear decay to zero.

    Args:
        warmup: steps of the warm-up.
        decay_share: fraction of `steps` over which the factor decays.
    """
    decay = (steps - step) / max(1.0, decay_share * steps)
    return max(0.0, min(1.0, (step + 1) / warmup, decay))


def read_pictures(directory: Path):
    """All pictures uint8 [N, S, S, 3] sRGB of a rendered folder, and their mattes uint8 [N, S, S]."""
    import numpy as np

    from sdseg.imaging import read_alpha, read_image

    with open(directory / "metadata.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pictures = np.stack([read_image(directory / row["file_name"]) for row in rows])
    mattes = [np.round(read_alpha(directory / row["alpha_file_name"]) * 255) for row in rows]
    return pictures, np.stack(mattes).astype(np.uint8)


def as_tensor(pictures):
    """uint8 [B, H, W, 3] sRGB or [B, H, W] grey => float32 [B, 3, H, W] in [-1, 1]."""
    import torch

    tensor = to_signed(torch.from_numpy(pictures).float() / 255)
    return tensor[:, None].expand(-1, 3, -1, -1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


class Trainer:
    """Weights, their exponential moving average and AdamW's moments, saved to and loaded from one safetensors file."""

    def __init__(self, model, state_file: Path, learning_rate: float, ema_decay: float):
        import torch
        from diffusers.training_utils import EMAModel

        self.model, self.state_file, self.learning_rate = model, state_file, learning_rate
        self.optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
        self.ema = EMAModel(model.parameters(), decay=ema_decay, use_ema_warmup=True, power=0.75)
        self.step, self.seconds = 0, 0.0

    def update(self, loss, steps: int) -> None:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warmup_constant_decay(self.step, steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        self.step += 1

    def save(self) -> None:
        from safetensors.torch import save_file

        tensors = {}
        for index, (parameter, average) in enumerate(zip(self.model.parameters(), self.ema.shadow_params, strict=True)):
            state = self.optimizer.state[parameter]
            tensors |= {f"{index}.weight": parameter.detach(), f"{index}.average": average}
            tensors |= {f"{index}.exp_avg": state["exp_avg"], f"{index}.exp_avg_sq": state["exp_avg_sq"]}
        temporary = self.state_file.with_suffix(".partial")
        metadata = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        os.replace(temporary, self.state_file)

    def load(self) -> None:
        import torch
        from safetensors import safe_open

        with safe_open(self.state_file, "pt") as stored, torch.no_grad():
            self.step = int(stored.metadata()["step"])
            self.seconds = float(stored.metadata()["seconds"])
            self.ema.optimization_step = self.step
            for index, parameter in enumerate(self.model.parameters()):
                parameter.copy_(stored.get_tensor(f"{index}.weight"))
                self.ema.shadow_params[index] = stored.get_tensor(f"{index}.average")
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": stored.get_tensor(f"{index}.exp_avg"),
                    "exp_avg_sq": stored.get_tensor(f"{index}.exp_avg_sq"),
                }

    def run(self, loss_at, steps: int, log: Path, minutes_between_saves: float = 3) -> bool:
        """Trains to `steps` with `loss_at(step) -> loss`, after loading the saved state if there is one.

        Appends a row to the file `log` every 50 steps. Returns False if there was nothing left to do.
        """
        if self.state_file.exists():
            self.load()
        if self.step >= steps:
            return False
        last_save = last_log = time.monotonic()
        loss_sum, loss_count = 0.0, 0
        while self.step < steps:
            loss = loss_at(self.step)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"loss {loss.item()} at step {self.step} of {self.state_file.stem}")
            self.update(loss, steps)
            loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
            now = time.monotonic()
            if loss_count == 50 or self.step == steps:
                self.seconds, last_log, span = self.seconds + now - last_log, now, now - last_log
                row = {"stage": self.state_file.stem, "step": self.step, "loss": loss_sum / loss_count}
                row |= {"steps_per_second": loss_count / span, "seconds": round(self.seconds, 1)}
                with open(log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
                loss_sum, loss_count = 0.0, 0
                if now - last_save > 60 * minutes_between_saves or self.step == steps:
                    self.save()
                    last_save = now
        return True


def vae_loss(vae, batch, generator, kl_weight: float = 1e-6):
    """L1 of the pixels, L1 of their finite differences (mattes are judged by their edges) and a little KL divergence.

    Args:
        batch: [B, 3, H, W] in [-1, 1].
        generator: for the sample of the posterior.
    """
    posterior = vae.encode(batch).latent_dist
    decoded = vae.decode(posterior.sample(generator)).sample
    difference = decoded - batch
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + 0.5 * edges + kl_weight * posterior.kl().mean()


def train_vae(pictures, mattes, output: Path, steps: int, batch_size: int, crop: int) -> None:
    import numpy as np
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(SEED)
    vae = AutoencoderKL(**VAE_CONFIG)
    trainer = Trainer(vae, output / "vae.safetensors", learning_rate=1e-3, ema_decay=0.998)
    grey = batch_size * 3 // 8  # number of mattes in a batch

    def loss_at(step: int):
        rng = np.random.default_rng([SEED, 0, step])
        size = pictures.shape[1] - crop + 1
        crops = []
        for index, position in enumerate(zip(*rng.integers(0, size, (2, batch_size)), strict=True)):
            row = rng.integers(len(pictures))
            source = mattes[row, ..., None].repeat(3, -1) if index < grey else pictures[row]
            y, x = position
            crops.append(source[y : y + crop, x : x + crop][:, :: rng.choice([-1, 1])])
        return vae_loss(vae, as_tensor(np.stack(crops)), torch.Generator().manual_seed(step))

    if trainer.run(loss_at, steps, output / "log.jsonl"):
        trainer.ema.copy_to(vae.parameters())
        vae.eval().requires_grad_(False)
        latents = encode(vae, pictures[:512])
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        vae.save_pretrained(output / "base" / "vae")
        round_trip(vae, mattes[-256:], output)


def encode(vae, pictures, batch_size: int = 64):
    """Pictures uint8 [N, H, W, 3] or [N, H, W] => means of their latents, float16 [N, 4, H/4, W/4], not scaled."""
    import torch

    with torch.no_grad():
        parts = [
            vae.encode(as_tensor(pictures[start : start + batch_size])).latent_dist.mode().half()
            for start in range(0, len(pictures), batch_size)
        ]
    return torch.cat(parts)


def round_trip(vae, mattes, output: Path) -> None:
    """Logs the MAD of mattes uint8 [N, H, W] that are encoded and decoded, a lower bound for the adapter's MAD."""
    import torch

    with torch.no_grad():
        decoded = torch.cat([vae.decode(encode(vae, part[None]).float()).sample.mean(1) for part in mattes])
    truth = torch.from_numpy(mattes).float() / 255
    error = (to_unit(decoded.clamp(-1, 1)) - truth).abs().mean().item()
    with open(output / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"stage": "vae", "matte_round_trip_mad": error}) + "\n")
    print(f"matte round trip MAD {error:.4f}", flush=True)


def train_unet(pictures, mattes, output: Path, steps: int, half_size_share: float, batch_size: int) -> None:
    """v-prediction (Salimans & Ho 2022) on the latents of pictures, one in eight of which is a matte in grey."""
    import cv2
    import numpy as np
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    from sdseg.model import inference_scheduler

    vae = AutoencoderKL.from_pretrained(output / "base" / "vae").eval().requires_grad_(False)
    scale = vae.config.scaling_factor
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET_CONFIG)
    prompt_embedding = torch.randn(1, 2, UNET_CONFIG["cross_attention_dim"])
    scheduler = inference_scheduler()
    trainer = Trainer(unet, output / "unet.safetensors", learning_rate=1e-3, ema_decay=0.998)
    half_steps = int(half_size_share * steps)

    def latents_of(source, size):
        small = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in source])
        return torch.cat([encode(vae, small), encode(vae, np.ascontiguousarray(small[:, :, ::-1]))])

    latents = {}  # size -> latents of pictures and of mattes, with their mirror images; of the size in use only

    def loss_at(step: int):
        size = pictures.shape[1] // 2 if step < half_steps else pictures.shape[1]
        if size not in latents:
            latents.clear()
            latents[size] = (latents_of(pictures, size), latents_of(mattes, size))
        draw = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        picture_latents, matte_latents = latents[size]
        batch = batch_size * (4 if step < half_steps else 1)
        rows = torch.randint(len(picture_latents), (batch,), generator=draw)
        clean = picture_latents[rows].float()
        clean[: batch // 8] = matte_latents[rows[: batch // 8]].float()
        clean = clean * scale
        noise = torch.randn(clean.shape, generator=draw)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=draw)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        target = scheduler.get_velocity(clean, noise, timesteps)
        predicted = unet(noisy, timesteps, prompt_embedding.expand(batch, -1, -1)).sample
        return (predicted - target).square().mean()

    if trainer.run(loss_at, steps, output / "log.jsonl"):
        trainer.ema.copy_to(unet.parameters())
        unet.half().save_pretrained(output / "base" / "unet")
        scheduler.save_pretrained(output / "base" / "scheduler")
        save_file({"prompt_embedding": prompt_embedding}, output / "base" / "prompt_embedding.safetensors")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        prog="python -m sdseg.embedded.pretrain", description="Train the miniature base on rendered pictures."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder written by `sdseg render`")
    parser.add_argument("--output", type=Path, required=True, help="run folder; the base is written to OUTPUT/base")
    parser.add_argument("--vae_steps", type=int, default=3000)
    parser.add_argument("--vae_batch_size", type=int, default=16)
    parser.add_argument("--vae_crop", type=int, default=32, help="side of the training crops in pixels")
    parser.add_argument("--unet_steps", type=int, default=2400)
    parser.add_argument("--half_size_share", type=float, default=0.6, help="fraction of steps at half resolution")
    parser.add_argument("--unet_batch_size", type=int, default=32, help="four times as many at half resolution")
    parser.add_argument("--stage", choices=["vae", "unet", "all"], default="all")
    arguments = parser.parse_args(argv)

    arguments.output.mkdir(parents=True, exist_ok=True)
    pictures, mattes = read_pictures(arguments.data)
    print(f"{len(pictures)} pictures of {pictures.shape[1]} px", flush=True)
    if arguments.stage in ("vae", "all"):
        steps, batch_size = arguments.vae_steps, arguments.vae_batch_size
        train_vae(pictures, mattes, arguments.output, steps, batch_size, arguments.vae_crop)
    if arguments.stage in ("unet", "all"):
        steps, batch_size = arguments.unet_steps, arguments.unet_batch_size
        train_unet(pictures, mattes, arguments.output, steps, arguments.half_size_share, batch_size)


if __name__ == "__main__":
    main()
