"""`MattingPipeline`: a photo in, an alpha matte and a map of the model's own doubt out.

Up to the single sample the arithmetic is that of diffusers' `MarigoldDepthPipeline` (Ke et al. 2024), whose
image processor resizes and pads. What differs comes after: alpha is an absolute quantity, so an ensemble is a
plain mean with an unbiased variance; nothing is aligned and nothing is stretched to [0, 1]. An adapter trained on
classes draws them in colours; its samples vote (`sdseg.targets`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor
from diffusers.utils import BaseOutput
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from sdseg.adapter import Adapter, load_adapter, read_adapter
from sdseg.errors import MissingFile, UserError
from sdseg.imaging import read_image, thick_enough, to_unit
from sdseg.model import (
    decode_colour,
    decode_grey,
    encode_image,
    is_hub_id,
    load_base,
    snapshot,
    vae_scale_factor,
    without_noise,
)
from sdseg.targets import decided, nearest_class, resize, votes
from sdseg.uncertainty import mean_and_variance

PROMPT_EMBEDDING = "prompt_embedding.safetensors"
SAVED_CARD = """---
library_name: sdseg
pipeline_tag: image-segmentation
---

A matting pipeline with its adapter merged, as `MattingPipeline.save_pretrained` of sdseg writes it. diffusers alone
does not know its class; load it with

```python
from sdseg import MattingPipeline

pipeline = MattingPipeline.from_pretrained("THIS_FOLDER_OR_REPOSITORY")
```
"""


@dataclass
class MattingOutput(BaseOutput):
    """What `MattingPipeline` returns: lists with one array (or CPU tensor) per picture, float32 where not said.

    prediction: [H, W], alpha in [0, 1], the mean over samples; of target classes ids uint8, those with the most votes.
    uncertainty: [H, W], the samples' unbiased standard deviation in alpha units; of classes the entropy of their
        votes, 0 where all agree and 1 where every class has as many.
    samples: [E, H, W], the samples themselves; of classes ids uint8.
    probabilities: of classes, [C, H, W], shares of the samples.
    """

    prediction: list
    uncertainty: list | None = None
    samples: list | None = None
    probabilities: list | None = None


def decode_alpha(vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, h, w] => alpha [B, 1, H, W] in [0, 1], float32: the mean of the decoded colour channels,
    clipped to [-1, 1] and shifted. NaN stays NaN."""
    return to_unit(decode_grey(vae, latent).clip(-1, 1))


def denoise(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    image_latent: torch.Tensor,
    noise: torch.Tensor,
    prompt_embedding: torch.Tensor,
    num_inference_steps: int,
) -> torch.Tensor:
    """From noise to a mask latent, by DDIM without added noise (Song et al. 2021, eq. 12):

        ε = (x_t − √ᾱ_t · z) / √(1 − ᾱ_t),   x_s = √ᾱ_s · z + √(1 − ᾱ_s) · ε,   z = √ᾱ_t · x_t − √(1 − ᾱ_t) · v

    with s the time after t in the list, and ᾱ_s = 1 at its end. `DDIMScheduler.step` takes s = t − 1000 // steps,
    which is another time unless the steps divide 1000; at 7 or 15 steps that leaves 3 % of the noise, which would
    pass for uncertainty.

    Args:
        image_latent, noise: [B, 4, h, w] float32.
        prompt_embedding: [1, T, D].

    Returns:
        [B, 4, h, w] float32.
    """
    # conv_in may be wrapped in a LoRA layer of another precision; its weight is the base's.
    dtype = unet.conv_in.weight.dtype
    prompt = prompt_embedding.to(noise.device, dtype).expand(len(noise), -1, -1)
    scheduler.set_timesteps(num_inference_steps)
    times = scheduler.timesteps.tolist()
    alphas = scheduler.alphas_cumprod[times].tolist() + [1.0]
    latent = noise
    for t, alpha, alpha_after in zip(times, alphas, alphas[1:], strict=False):
        pair = torch.cat([image_latent, latent], dim=1).to(dtype)  # [B, 8, h, w]
        predicted = unet(pair, t, encoder_hidden_states=prompt).sample.float()
        clean = without_noise(scheduler, predicted, latent, torch.tensor([t]))
        epsilon = (latent - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        latent = alpha_after**0.5 * clean + (1 - alpha_after) ** 0.5 * epsilon
    return latent


class MattingPipeline(DiffusionPipeline):
    """Alpha mattes by Stable Diffusion, the UNet widened to [image, noisy mask], and an adapter.

    Most people want `MattingPipeline.from_adapter(folder_or_hub_id)`. bfloat16 works; float16 does not: SD2's
    VAE and UNet overflow in it, and a matte that is not finite is refused.

    Args:
        unet: takes 8 channels; the adapter is in it or merged.
        scheduler: `sdseg.model.inference_scheduler`, or the adapter's; never the base's own.
        prompt_embedding: [1, T, D], the empty prompt.
        default_denoising_steps, default_processing_resolution: for calls that do not say.
        target: what the adapter draws: alpha, mask (alpha, in fact 0 or 1) or classes.
        class_names, class_colours: of classes, a name and [r, g, b] of 0 to 255 for each id.
    """

    model_cpu_offload_seq = "unet->vae"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        prompt_embedding: torch.Tensor | None = None,  # diffusers takes what has no default for a module
        default_denoising_steps: int | None = None,
        default_processing_resolution: int | None = None,
        target: str = "alpha",
        class_names: list[str] | None = None,
        class_colours: list[list[int]] | None = None,
    ):
        super().__init__()
        if prompt_embedding is None:
            raise UserError(
                "prompt_embedding is missing; load a saved pipeline with sdseg.MattingPipeline.from_pretrained, or "
                "give the adapter's or the base's, [1, T, D]"
            )
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)
        self.register_to_config(
            default_denoising_steps=default_denoising_steps,
            default_processing_resolution=default_processing_resolution,
            target=target,
            class_names=class_names,
            class_colours=class_colours,
        )
        self.colours = np.array(class_colours, np.uint8) if target == "classes" else None  # [C, 3]
        self.prompt_embedding = prompt_embedding
        self.vae_scale_factor = vae_scale_factor(vae)
        self.image_processor = MarigoldImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_adapter(
        cls,
        adapter: Adapter | str | Path,
        pretrained_model_name_or_path: str | None = None,
        *,
        revision: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "MattingPipeline":
        """Build the pipeline from an adapter (folder, Hub id, or one already read) and its base.

        The base defaults to the one that the adapter names, at the revision it names.

        Raises:
            AdapterError, BaseError: one of them is missing or damaged, or they do not fit each other.
        """
        if not isinstance(adapter, Adapter):
            adapter = read_adapter(adapter)
        if pretrained_model_name_or_path is None:
            pretrained_model_name_or_path = adapter.config.pretrained_model_name_or_path
            revision = revision or adapter.config.revision
        base = load_base(
            pretrained_model_name_or_path,
            revision=revision,
            torch_dtype=torch_dtype,
            prompt_embedding=adapter.prompt_embedding,
        )
        load_adapter(adapter, base)
        pipeline = cls(
            unet=base.unet,
            vae=base.vae,
            scheduler=adapter.scheduler,
            prompt_embedding=adapter.prompt_embedding,
            default_denoising_steps=adapter.config.num_inference_steps,
            default_processing_resolution=adapter.config.resolution,
            target=adapter.config.target,
            class_names=adapter.config.class_names or None,
            class_colours=adapter.config.class_colours or None,
        )
        return pipeline.to(device)

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Write a whole model in diffusers' layout, the adapter merged into the UNet.

        It takes as much room as the base. To pass a matting model on, pass on the adapter folder.
        """
        unet = copy.deepcopy(self.unet)
        unet.fuse_lora()
        unet.unload_lora()
        merged = type(self)(
            unet,
            self.vae,
            self.scheduler,
            self.prompt_embedding,
            self.config.default_denoising_steps,
            self.config.default_processing_resolution,
            self.config.target,
            self.config.class_names,
            self.config.class_colours,
        )
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / "README.md").write_text(SAVED_CARD, encoding="utf-8")
        # First, since with push_to_hub diffusers uploads the folder as soon as its own part is written.
        save_file({"prompt_embedding": self.prompt_embedding}, Path(save_directory) / PROMPT_EMBEDDING)
        super(MattingPipeline, merged).save_pretrained(str(save_directory), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "MattingPipeline":
        """Read what `save_pretrained` wrote, from a folder or from the Hub. An adapter is read by `from_adapter`.

        Args:
            kwargs: as diffusers' `from_pretrained` takes them, `revision` and `torch_dtype` among them.

        Raises:
            MissingFile: no such folder or repository, or one that holds something else.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir() and is_hub_id(str(pretrained_model_name_or_path)):
            folder = Path(snapshot(str(pretrained_model_name_or_path), kwargs.pop("revision", None)))
        stored = folder / PROMPT_EMBEDDING
        if not stored.is_file():
            raise MissingFile(
                f"{stored} is missing; from_pretrained reads what MattingPipeline.save_pretrained wrote, "
                "from_adapter reads an adapter"
            )
        kwargs["prompt_embedding"] = load_file(stored)["prompt_embedding"]
        return super().from_pretrained(folder, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        image,
        num_inference_steps: int | None = None,
        ensemble_size: int = 1,
        processing_resolution: int | None = None,
        match_input_resolution: bool = True,
        batch_size: int = 1,
        latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "np",
        output_uncertainty: bool = False,
        output_samples: bool = False,
        output_probabilities: bool = False,
    ) -> MattingOutput:
        """Mattes of one picture or many; the output's lists have one entry per picture, also for one.

        Args:
            image: a path, a PIL image, a uint8 array [H, W, 3] or [H, W], a float tensor [3, H, W] in [0, 1],
                a batch ([N, H, W, 3] or [N, 3, H, W]), or a list of any of these; sizes may differ. Paths and
                PIL images are turned upright as their EXIF orientation says.
            num_inference_steps: of denoising; None takes the adapter's.
            ensemble_size: samples drawn for each picture, E. The picture is encoded once for all of them.
            processing_resolution: longer side in pixels at which the model works, a multiple of the VAE's
                factor; None takes the adapter's, 0 the picture's own size.
            match_input_resolution: resize the matte to the picture's own size (bilinear), or the probabilities of
                classes, of which the greatest is then taken.
            batch_size: samples that pass through UNet and VAE together. It changes memory and speed, and the
                matte by float rounding only.
            latents: the starting noise, [N * E, 4, h, w], or one [E, 4, h, w] for each picture.
            generator: draws the starting noise, [E, 4, h, w] for each picture in turn; a list holds one
                generator for each picture.
            output_type: "np" for numpy arrays, "pt" for torch tensors.
            output_uncertainty: also the standard deviation over samples, or the entropy of their votes; needs an
                ensemble of 2 or more.
            output_samples: also the samples.
            output_probabilities: also the probabilities of classes.

        Raises:
            UserError: an argument that cannot be served; ImageError (one, too) for a picture that cannot.
            FloatingPointError: the matte is not finite.
        """
        if num_inference_steps is None:
            num_inference_steps = self.config.default_denoising_steps
        if processing_resolution is None:
            processing_resolution = self.config.default_processing_resolution
        check_settings(num_inference_steps, ensemble_size, batch_size, output_type, output_uncertainty)
        if output_probabilities and self.colours is None:
            raise UserError(f"output_probabilities with an adapter of target {self.config.target}; it has no classes")
        check_processing_resolution(processing_resolution, self.vae_scale_factor)
        pictures = list_pictures(image)
        sources = noise_sources(latents, generator, len(pictures), ensemble_size)

        predictions, uncertainties, all_samples, all_probabilities = [], [], [], []
        for picture, source in zip(pictures, sources, strict=True):
            samples, size = self.draw_samples(
                picture, source, num_inference_steps, ensemble_size, processing_resolution, batch_size
            )
            if self.colours is not None:
                size = size if match_input_resolution else samples.shape[1:]
                probabilities = votes(samples, len(self.colours))  # [C, PH, PW]
                ids, entropy = decided(probabilities, size)
                predictions.append(ids)
                uncertainties.append(entropy)
                if output_samples:
                    each = (votes(sample[None], len(self.colours)) for sample in samples)
                    all_samples.append(torch.stack([decided(vote, size)[0] for vote in each]))
                if output_probabilities:
                    all_probabilities.append(torch.stack([resize(plane, size) for plane in probabilities]))
                continue
            if match_input_resolution and samples.shape[1:] != size:
                # Lazily: the samples of a large photo need not lie in memory together.
                samples = (resize(sample, size) for sample in samples)
            if output_samples:
                samples = torch.stack(list(samples))  # [E, H, W]
                all_samples.append(samples)
            mean, variance = mean_and_variance(samples)
            predictions.append(mean.clip(0, 1))
            if output_uncertainty:
                uncertainties.append(variance.sqrt())
        self.maybe_free_model_hooks()

        def finished(tensors):
            return [tensor.numpy() for tensor in tensors] if output_type == "np" else tensors

        return MattingOutput(
            prediction=finished(predictions),
            uncertainty=finished(uncertainties) if output_uncertainty else None,
            samples=finished(all_samples) if output_samples else None,
            probabilities=finished(all_probabilities) if output_probabilities else None,
        )

    def draw_samples(
        self,
        picture: np.ndarray | torch.Tensor,
        source: torch.Tensor | torch.Generator | None,
        num_inference_steps: int,
        ensemble_size: int,
        processing_resolution: int,
        batch_size: int,
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """One picture's samples at the processing resolution, [E, PH, PW] float32, or class ids int64, on the CPU;
        and its size (H, W)."""
        device = self._execution_device
        # In float32 whatever the model's precision: eight bits do not survive a division in bfloat16.
        pixels = self.image_processor.load_image_canonical(picture, device)  # [1, 3, H, W] in [0, 1]
        size = pixels.shape[2:]
        pixels = thick_enough(pixels, processing_resolution)
        pixels, padding, _ = self.image_processor.preprocess(pixels, processing_resolution, device=device)
        image_latent = encode_image(self.vae, pixels).float()  # [1, 4, h, w]
        noise = starting_noise(source, (ensemble_size, *image_latent.shape[1:])).to(device)
        samples, finite = [], True
        for chunk in noise.split(batch_size):
            image_latents = image_latent.expand(len(chunk), -1, -1, -1)
            latent = denoise(
                self.unet, self.scheduler, image_latents, chunk, self.prompt_embedding, num_inference_steps
            )
            decode = decode_alpha if self.colours is None else decode_colour
            drawn = self.image_processor.unpad_image(decode(self.vae, latent), padding)  # [B, 1 or 3, PH, PW]
            finite &= bool(drawn.isfinite().all())
            samples.append((drawn[:, 0] if self.colours is None else nearest_class(drawn, self.colours)).cpu())
        if not finite:
            raise FloatingPointError(
                f"the matte is not finite with a model in {self.unet.dtype}; use torch.float32 or bfloat16"
            )
        return torch.cat(samples), tuple(size)


def noise_sources(latents, generator, pictures: int, ensemble_size: int) -> list:
    """Where each picture's starting noise comes from: a tensor [E, 4, h, w], a generator, or None."""
    if latents is not None and generator is not None:
        raise UserError("latents and generator were both given; latents are the noise, so leave one out")
    if isinstance(latents, torch.Tensor):
        wanted = pictures * ensemble_size
        if len(latents) != wanted:
            raise UserError(
                f"latents of shape {tuple(latents.shape)} hold {len(latents)} samples; give {wanted}, "
                f"ensemble_size {ensemble_size} for {pictures} picture(s)"
            )
        return list(latents.split(ensemble_size))
    if latents is None and (generator is None or isinstance(generator, torch.Generator)):
        return [generator] * pictures
    name, sources = ("generator", list(generator)) if latents is None else ("latents", list(latents))
    if len(sources) != pictures:
        raise UserError(f"{name} has {len(sources)} entries for {pictures} picture(s); give one for each")
    return sources


def starting_noise(source: torch.Tensor | torch.Generator | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Gaussian noise, float32, all samples of a picture in one draw; or the given tensor, its shape checked.

    Drawn where the generator lives: a CPU generator gives the same noise to every device.
    """
    if not isinstance(source, torch.Tensor):
        device = "cpu" if source is None else source.device
        return torch.randn(shape, generator=source, device=device, dtype=torch.float32)
    if tuple(source.shape) != shape:
        raise UserError(
            f"latents of shape {tuple(source.shape)} do not fit a picture that needs {shape}; "
            "check ensemble_size, processing_resolution and the picture's size"
        )
    return source.float()


def list_pictures(image) -> list:
    """One entry per picture, each as `MarigoldImageProcessor` takes it; see `MattingPipeline.__call__`."""
    if isinstance(image, (list, tuple)):
        if not image:
            raise UserError("image is an empty list; give at least one picture")
        return [picture for entry in image for picture in list_pictures(entry)]
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return list(image) if image.ndim == 4 else [image]
    if isinstance(image, (str, Path)):
        return [read_image(image)]
    if isinstance(image, Image.Image):
        return [rgb_array(image)]
    raise UserError(f"image is a {type(image).__name__}; give a path, a PIL image, an array or a tensor")


def rgb_array(image: Image.Image) -> np.ndarray:
    """A PIL image as uint8 [H, W, 3]: upright, and over white where it is transparent, like `read_image`.

    Raises:
        UserError: more than 8 bits a channel, which PIL would clip without a word.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise UserError(f"PIL image of mode {image.mode}; give the file's path, or an array of 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def check_settings(
    num_inference_steps: int | None,
    ensemble_size: int,
    batch_size: int,
    output_type: str,
    output_uncertainty: bool,
) -> None:
    """Raises UserError with the value and the remedy; see `MattingPipeline.__call__`."""
    if num_inference_steps is None or not 1 <= num_inference_steps <= 1000:
        raise UserError(f"num_inference_steps is {num_inference_steps}; use 1 to 1000, 4 is usual")
    if ensemble_size < 1:
        raise UserError(f"ensemble_size is {ensemble_size}; use 1 or more")
    if output_uncertainty and ensemble_size < 2:
        raise UserError(f"output_uncertainty with ensemble_size {ensemble_size}; a spread needs 2 or more")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; use 1 or more")
    if output_type not in ("np", "pt"):
        raise UserError(f'output_type is {output_type!r}; use "np" or "pt"')


def check_processing_resolution(processing_resolution: int | None, vae_scale_factor: int) -> None:
    """Raises UserError unless it is 0 or a positive multiple of the VAE's factor."""
    if processing_resolution is None or processing_resolution < 0 or processing_resolution % vae_scale_factor:
        raise UserError(
            f"processing_resolution is {processing_resolution}; use a multiple of {vae_scale_factor}, "
            "or 0 for the picture's own size"
        )
