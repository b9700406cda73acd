"""Trains the miniature base: `python -m sdseg.embedded.pretrain --renders DIR --photos DIR --output DIR`.

Two stages, on photographs and on rendered pictures (any pairs that `train.py` reads):

1. `vae`: an `AutoencoderKL` with SD2's downsampling factor of 8 learns to reconstruct crops of the pictures, and of the
   renders' mattes as grey pictures, since Stable Diffusion's VAE has seen silhouettes too.
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

from sdseg.errors import Parser, UserError
from sdseg.imaging import to_signed, to_unit

SEED = 20
SIZE = 128  # side of the pictures in pixels
MATTE_SHARE = 1 / 8  # of what the UNet sees; the VAE sees twice as many
VAE_CONFIG = dict(
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[24, 48, 96, 96],
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
    sample_size=SIZE,
)
UNET_CONFIG = dict(
    sample_size=SIZE // 8,
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


def read_renders(directory: str, variants: int):
    """The pairs of a set, each `variants` times, mirrored, cropped and (foregrounds) composited anew each time.

    Returns:
        Pictures uint8 [N, S, S, 3] sRGB and their mattes uint8 [N, S, S].
    """
    import numpy as np

    from sdseg.data import Augmentation, draw_generator, open_pictures

    source = open_pictures(directory, SIZE, Augmentation(random_flip=True, min_crop_scale=0.7))
    pairs = [
        source.fetch(index, draw_generator(SEED, variant, index))
        for variant in range(variants)
        for index in range(len(source))
    ]
    pictures = np.stack([(to_unit(pair["image"]) * 255).round().byte().permute(1, 2, 0).numpy() for pair in pairs])
    return pictures, np.stack([(pair["alpha"][0] * 255).round().byte().numpy() for pair in pairs])


def read_photos(directory: str):
    """A random square of every photograph in a folder, half of them mirrored: uint8 [N, S, S, 3] sRGB."""
    import cv2
    import numpy as np

    from sdseg.imaging import list_images, read_image

    squares = []
    for index, path in enumerate(list_images(directory)):
        picture, rng = read_image(path), np.random.default_rng([SEED, index])
        side = round(min(picture.shape[:2]) * rng.uniform(0.75, 1))
        y, x = (rng.integers(length - side + 1) for length in picture.shape[:2])
        square = picture[y : y + side, x : x + side][:, :: rng.choice([-1, 1])]
        squares.append(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    if not squares:
        raise UserError(f"--photos: no picture in '{directory}'; name a folder of photographs")
    return np.stack(squares)


def as_tensor(pictures):
    """uint8 [B, H, W, 3] sRGB or [B, H, W] grey => float32 [B, 3, H, W] in [-1, 1]."""
    import torch

    tensor = to_signed(torch.from_numpy(pictures).float() / 255)
    return tensor[:, None].expand(-1, 3, -1, -1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def write_row(log: Path, row: dict) -> None:
    """Appends a row to a JSONL file, and prints it."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


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
                write_row(log, row)
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
    """Crops of `crop` px of the pictures, a quarter of them at half size, and of mattes in grey (one in four)."""
    import cv2
    import numpy as np
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(SEED)
    vae = AutoencoderKL(**VAE_CONFIG).to(memory_format=torch.channels_last)
    trainer = Trainer(vae, output / "vae.safetensors", learning_rate=1e-3, ema_decay=0.998)
    grey = int(batch_size * 2 * MATTE_SHARE)  # number of mattes in a batch

    def loss_at(step: int):
        rng, crops = np.random.default_rng([SEED, 0, step]), []
        for index in range(batch_size):
            source = mattes if index < grey else pictures
            picture = source[rng.integers(len(source))]
            if rng.random() < 0.25:
                picture = cv2.resize(picture, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
            y, x = rng.integers(len(picture) - crop + 1, size=2)
            part = picture[y : y + crop, x : x + crop][:, :: rng.choice([-1, 1])]
            crops.append(part[..., None].repeat(3, -1) if index < grey else part)
        batch = as_tensor(np.stack(crops)).contiguous(memory_format=torch.channels_last)
        return vae_loss(vae, batch, torch.Generator().manual_seed(step))

    if trainer.run(loss_at, steps, output / "log.jsonl"):
        trainer.ema.copy_to(vae.parameters())
        vae.eval().requires_grad_(False)
        latents = encode(vae, pictures[:: max(1, len(pictures) // 512)])
        vae.register_to_config(scaling_factor=round(1 / latents.float().std().item(), 5))
        vae.half().save_pretrained(output / "base" / "vae")
        for latents_of_another in output.glob("latents_*.safetensors"):
            latents_of_another.unlink()
        floors = {"matte_mad": mattes[-256:], "picture_mad": pictures[:256]}
        write_row(output / "log.jsonl", {"stage": "vae"} | {k: round_trip(vae.float(), v) for k, v in floors.items()})


def encode(vae, pictures, batch_size: int = 64):
    """Pictures uint8 [N, H, W, 3] or [N, H, W] => means of their latents, float16 [N, 4, H/8, W/8], not scaled."""
    import torch

    with torch.no_grad():
        parts = [
            vae.encode(as_tensor(pictures[start : start + batch_size])).latent_dist.mode().half().contiguous()
            for start in range(0, len(pictures), batch_size)
        ]
    return torch.cat(parts)


def round_trip(vae, pictures) -> float:
    """Mean absolute difference, in [0, 1], of pictures uint8 [N, H, W, 3] or mattes uint8 [N, H, W] and what is left of
    them after encoding and decoding; of mattes, a lower bound for the adapter's error."""
    import torch

    with torch.no_grad():
        decoded = vae.decode(encode(vae, pictures).float()).sample.clamp(-1, 1)
    truth = as_tensor(pictures)
    if pictures.ndim == 3:
        decoded, truth = decoded.mean(1), truth[:, 0]
    return (to_unit(decoded) - to_unit(truth)).abs().mean().item()


def latents_of(vae, pictures, mattes, size: int, output: Path) -> dict:
    """Latents of pictures and of mattes at one size, as `encode` returns them; kept in a file beside the states."""
    import cv2
    import numpy as np
    from safetensors.torch import load_file, save_file

    file = output / f"latents_{size}.safetensors"
    if not file.exists():

        def at_size(source):
            small = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in source]
            return encode(vae, np.stack(small))

        temporary = file.with_suffix(".partial")
        save_file({"pictures": at_size(pictures), "mattes": at_size(mattes)}, temporary)
        os.replace(temporary, file)
    return load_file(file)


def train_unet(pictures, mattes, output: Path, steps: int, half_size_share: float, batch_size: int) -> None:
    """v-prediction (Salimans & Ho 2022) on the latents of pictures, one in eight of which is a matte in grey."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    from sdseg.model import inference_scheduler

    vae = AutoencoderKL.from_pretrained(output / "base" / "vae").float().eval().requires_grad_(False)
    scale = vae.config.scaling_factor
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET_CONFIG)
    prompt_embedding = torch.randn(1, 2, UNET_CONFIG["cross_attention_dim"])
    scheduler = inference_scheduler()
    trainer = Trainer(unet, output / "unet.safetensors", learning_rate=1e-3, ema_decay=0.998)
    half_steps = int(half_size_share * steps)
    latents = {}  # of the size in use only

    def loss_at(step: int):
        size = SIZE // 2 if step < half_steps else SIZE
        if latents.get("size") != size:
            latents.clear()
            latents.update(latents_of(vae, pictures, mattes, size, output), size=size)
        draw = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        batch = batch_size * (4 if step < half_steps else 1)
        greys = int(batch * MATTE_SHARE)
        rows = torch.randint(2**31, (batch,), generator=draw)
        clean = latents["pictures"][rows % len(latents["pictures"])].float()
        clean[:greys] = latents["mattes"][rows[:greys] % len(latents["mattes"])].float()
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
        prog="python -m sdseg.embedded.pretrain", description="Train the miniature base on photographs and renders."
    )
    parser.add_argument("--renders", nargs="*", default=[], help="sets of rendered pairs, as train.py takes them")
    parser.add_argument("--variants", type=int, default=2, help="crops or composites of each pair")
    parser.add_argument("--photos", nargs="*", default=[], help="folders of photographs")
    parser.add_argument(
        "--mattes", nargs="*", default=[], help="sets of rendered pairs of which only the mattes are used"
    )
    parser.add_argument("--output", type=Path, required=True, help="run folder; the base is written to OUTPUT/base")
    parser.add_argument("--vae_steps", type=int, default=4000)
    parser.add_argument("--vae_batch_size", type=int, default=16)
    parser.add_argument("--vae_crop", type=int, default=64, help="side of the training crops in pixels")
    parser.add_argument("--unet_steps", type=int, default=8000)
    parser.add_argument("--half_size_share", type=float, default=0.7, help="fraction of steps at half resolution")
    parser.add_argument("--unet_batch_size", type=int, default=32, help="four times as many at half resolution")
    parser.add_argument("--stage", choices=["vae", "unet", "all"], default="all")
    arguments = parser.parse_args(argv)

    import numpy as np

    if not (arguments.renders or arguments.mattes):
        parser.error("--renders or --mattes: name a set of rendered pairs; the VAE has to see mattes")
    arguments.output.mkdir(parents=True, exist_ok=True)
    rendered = [read_renders(directory, arguments.variants) for directory in arguments.renders]
    grey = [read_renders(directory, arguments.variants)[1] for directory in arguments.mattes]
    photographs = [read_photos(directory) for directory in arguments.photos]
    pictures = np.concatenate(photographs + [pictures for pictures, _ in rendered])
    mattes = np.concatenate([mattes for _, mattes in rendered] + grey)
    print(f"{sum(map(len, photographs))} photographs, {len(pictures)} pictures, {len(mattes)} mattes", flush=True)
    if arguments.stage in ("vae", "all"):
        steps, batch_size = arguments.vae_steps, arguments.vae_batch_size
        train_vae(pictures, mattes, arguments.output, steps, batch_size, arguments.vae_crop)
    if arguments.stage in ("unet", "all"):
        steps, batch_size = arguments.unet_steps, arguments.unet_batch_size
        train_unet(pictures, mattes, arguments.output, steps, arguments.half_size_share, batch_size)


if __name__ == "__main__":
    main()
