"""`MattingSession`: a model in memory; photos in, alpha mattes and maps of the model's own doubt out.

Needs nothing but torch and diffusers' UNet, VAE and scheduler. `MattingPipeline` is the same as a diffusers pipeline.
Alpha is an absolute quantity, so an ensemble is a plain mean with an unbiased variance: nothing is aligned and nothing
is stretched to [0, 1]. An adapter trained on classes draws them in colours; its samples vote (`sdseg.targets`).
"""

import time
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg.lean_imports import import_diffusion_models

import_diffusion_models()

import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402
from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor  # noqa: E402
from diffusers.utils import BaseOutput  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

from sdseg.adapter import Adapter, load_adapter, read_adapter  # noqa: E402
from sdseg.errors import UserError  # noqa: E402
from sdseg.imaging import ROWS_AT_ONCE, over_white, read_image, thick_enough, to_signed  # noqa: E402
from sdseg.inference.batches import Drawing, Progress, next_batch, smaller_batch, unique  # noqa: E402
from sdseg.inference.sampling import (  # noqa: E402
    constant_prompt,
    cross_attention,
    decode_alpha,
    denoise,
    grey_decoder,
    plain_forward,
)
from sdseg.merging import merge_adapter  # noqa: E402
from sdseg.model import decode_colour, encode_image, load_base, load_tiny_vae, vae_scale_factor  # noqa: E402
from sdseg.targets import decided, nearest_class, resize, resized_strips, votes  # noqa: E402
from sdseg.uncertainty import calibration_scale_for, mean_and_variance, missing_scales_note  # noqa: E402

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

AUTO_FIRST, AUTO_MOST = 2, 8  # samples of an automatic ensemble


@dataclass
class MattingOutput(BaseOutput):
    """What a session returns: lists with one array (or CPU tensor) per picture, float32 where not said.

    prediction: [H, W], alpha in [0, 1], the mean over samples; of target classes ids uint8, those with the most votes.
    uncertainty: [H, W], the samples' unbiased standard deviation in alpha units, times the adapter's scale for the
        setting, by which it may exceed 1; of classes the entropy of their votes, 0 where all agree and 1 where every
        class has as many.
    samples: [E, H, W], the samples themselves; of classes ids uint8.
    probabilities: of classes, [C, H, W], shares of the samples.
    sample_counts: how many samples were drawn, E.
    calibration_scales: with the uncertainty of mattes, the factor that is in it, None where it is raw.
    calibration_note: one line, where the adapter holds no scale for the setting of a picture.
    """

    prediction: list
    uncertainty: list | None = None
    samples: list | None = None
    probabilities: list | None = None
    sample_counts: list[int] | None = None
    calibration_scales: list[float | None] | None = None
    calibration_note: str | None = None


class MattingSession:
    """A UNet that takes [image, noisy mask], with its VAE, ready to draw mattes.

    Most people want `MattingSession.from_adapter(folder_or_hub_id)`. bfloat16 works; float16 does not: SD2's VAE and
    UNet overflow in it, and a matte that is not finite is refused.

    Args:
        unet: takes 8 channels; the adapter is in it or merged.
        scheduler: `sdseg.model.inference_scheduler`, or the adapter's; never the base's own.
        prompt_embedding: [1, T, D], the empty prompt.
        default_denoising_steps, default_processing_resolution: for calls that do not say.
        target: what the adapter draws: alpha, mask (alpha, in fact 0 or 1) or classes.
        class_names, class_colours: of classes, a name and [r, g, b] of 0 to 255 for each id.
        calibration: factors on the standard deviation by `sdseg.uncertainty.calibration_key`; None is none.
        device: where the model computes; None is where the VAE's weights are.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        prompt_embedding: torch.Tensor,
        default_denoising_steps: int | None = None,
        default_processing_resolution: int | None = None,
        target: str = "alpha",
        class_names: list[str] | None = None,
        class_colours: list[list[int]] | None = None,
        calibration: dict[str, float] | None = None,
        *,
        device: torch.device | None = None,
    ):
        self.unet, self.vae, self.scheduler, self.prompt_embedding = unet, vae, scheduler, prompt_embedding
        self.decoder: AutoencoderKL | AutoencoderTiny = vae
        self.default_denoising_steps = default_denoising_steps
        self.default_processing_resolution = default_processing_resolution
        self.target, self.class_names = target, class_names or []
        self.colours = np.array(class_colours, np.uint8) if target == "classes" else None  # [C, 3]
        self.calibration = calibration or {}
        self.device = device or next(vae.parameters()).device
        self._cross_attention = cross_attention(unet)
        self.vae_scale_factor = vae_scale_factor(vae)
        self.image_processor = MarigoldImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_adapter(
        cls,
        adapter: Adapter | str | Path,
        base: str | Path | None = None,
        *,
        revision: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        merge: bool = True,
    ) -> "MattingSession":
        """Read an adapter (folder, Hub id, or one already read) and its base.

        Args:
            base: folder, Hub id or `embedded`; None is the one that the adapter names, at the revision it names.
            merge: add the adapter to the base's weights, in float32, which is faster; else keep its LoRA layers.

        Raises:
            AdapterError, BaseError: one of them is missing or damaged, or they do not fit each other.
        """
        parts = load_parts(adapter, base, revision=revision, torch_dtype=torch_dtype, merge=merge)
        for name in ("unet", "vae"):
            torch.nn.Module.to(parts[name], device)  # diffusers' own `to` imports PEFT
        return cls(**parts)

    def use_tiny_vae(self, pretrained_model_name_or_path: str) -> None:
        """Decode with a small `AutoencoderTiny` (folder or Hub id, such as madebyollin/taesd for SD2): faster and
        coarser, for previews. Photos are still encoded by the base's VAE.

        Raises:
            BaseError: it cannot be loaded, or decodes other latents.
        """
        tiny = load_tiny_vae(pretrained_model_name_or_path, self.vae)
        self.decoder = torch.nn.Module.to(tiny, self.device, self.vae.dtype)

    def enable_model_cpu_offload(self, device: torch.device | str) -> None:
        """Keep UNet and VAE in the CPU's memory, and each on `device` only while it computes.

        Raises:
            UserError: `device` is the CPU.
        """
        from accelerate import cpu_offload_with_hook

        if torch.device(device).type == "cpu":
            raise UserError("enable_model_cpu_offload needs a GPU to compute on, and there is none; leave it out")
        hook = None
        for module in (self.unet, self.vae):
            _, hook = cpu_offload_with_hook(module, device, prev_module_hook=hook)
        self.unet._hf_hook.prev_module_hook = hook  # the VAE makes room for it as well
        if self.decoder is not self.vae:
            torch.nn.Module.to(self.decoder, device)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(
        self,
        image,
        num_inference_steps: int | None = None,
        ensemble_size: int | str = 1,
        processing_resolution: int | None = None,
        match_input_resolution: bool = True,
        batch_size: int | None = None,
        latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "np",
        output_uncertainty: bool = False,
        output_samples: bool = False,
        output_probabilities: bool = False,
        eta: float = 0.0,
        tolerance: float = 0.05,
        refine: bool = True,
        tile: int | None = None,
        raw_uncertainty: bool = False,
    ) -> MattingOutput:
        """Mattes of one picture or many; the output's lists have one entry per picture, also for one.

        Args:
            image: a path, a PIL image, a uint8 array [H, W, 3] or [H, W], a float tensor [3, H, W] in [0, 1],
                a batch ([N, H, W, 3] or [N, 3, H, W]), or a list of any of these; sizes may differ. Paths and
                PIL images are turned upright as their EXIF orientation says.
            num_inference_steps: of denoising; None takes the adapter's.
            ensemble_size: samples drawn for each picture, E. The picture is encoded once for all of them. "auto" draws
                AUTO_FIRST, and twice as many up to AUTO_MOST while their mean is not as sure as `tolerance` asks.
            processing_resolution: longer side in pixels at which the model works, a multiple of the VAE's
                factor; None takes the adapter's, 0 the picture's own size.
            match_input_resolution: bring the matte to the picture's own size, or the probabilities of classes
                (bilinear), of which the greatest is then taken.
            refine: where the picture is larger than the matte, let the matte follow the picture's edges, see
                `sdseg.inference.refinement`; else it is resized bilinearly. Samples and their deviation always are.
            tile: side, in the picture's pixels, of tiles in which what the matte leaves open is drawn a second time,
                each at the processing resolution and without eta; None is no second pass. See `sdseg.inference.tiles`.
            batch_size: samples that pass through UNet and VAE together, of several pictures where their working sizes
                are equal; None is those of one picture, as many as have BATCH_PIXELS together. It changes memory and
                speed, and the matte by float rounding only. Halved where memory ends.
            latents: the starting noise, [N * E, 4, h, w], or one [E, 4, h, w] for each picture.
            generator: draws the starting noise, [E, 4, h, w] for each picture in turn; a list holds one
                generator for each picture.
            output_type: "np" for numpy arrays, "pt" for torch tensors.
            output_uncertainty: also the standard deviation over samples, or the entropy of their votes; needs an
                ensemble of 2 or more.
            raw_uncertainty: the standard deviation as it is. Else it is multiplied by the scale that the adapter holds
                for the steps and the samples of the picture, if it holds one and `eta` is 0.
            output_samples: also the samples.
            output_probabilities: also the probabilities of classes.
            eta: noise added at every step but the last: 0 for none (DDIM), 1 for ancestral sampling (DDPM). The
                generator draws it; torch's own where `latents` are given.
            tolerance: of an ensemble of "auto", in alpha units: the root mean square over pixels of the standard error
                of the mean.

        Raises:
            UserError: an argument that cannot be served; ImageError (one, too) for a picture that cannot.
            FloatingPointError: the matte is not finite.
        """
        how = self.drawing(num_inference_steps, ensemble_size, processing_resolution, batch_size, eta, tolerance)
        check_output(output_type, output_uncertainty, how.ensemble_size)
        if output_probabilities and self.colours is None:
            raise UserError(f"output_probabilities with an adapter of target {self.target}; it has no classes")
        pictures = list_pictures(image)
        sources = noise_sources(latents, generator, len(pictures), how.ensemble_size)
        jobs = ((index, *job) for index, job in enumerate(zip(pictures, sources, strict=True)))
        finished: list[dict] = [{}] * len(pictures)
        for index, progress in self.draw(jobs, how):
            if isinstance(progress, Exception):
                raise progress
            pixels = as_bytes(pictures[index]) if match_input_resolution and (refine or tile) else None
            if tile is not None and match_input_resolution:
                self.draw_tiles(progress, pixels, how, tile)
            finished[index] = self.summary(
                progress,
                match_input_resolution,
                output_uncertainty,
                output_samples,
                output_probabilities,
                refine_along=pixels if refine else None,
                scale=None if raw_uncertainty else self.calibration_scale(progress, how),
            )

        def listed(key: str, wanted: bool = True) -> list | None:
            if not wanted:
                return None
            return [one[key].numpy() if output_type == "np" else one[key] for one in finished]

        counts = [one["count"] for one in finished]
        calibrated = output_uncertainty and self.colours is None
        return MattingOutput(
            prediction=listed("prediction"),
            uncertainty=listed("uncertainty", output_uncertainty),
            samples=listed("samples", output_samples),
            probabilities=listed("probabilities", output_probabilities),
            sample_counts=counts,
            calibration_scales=[one["scale"] for one in finished] if calibrated else None,
            calibration_note=self.calibration_note(counts, how) if calibrated and not raw_uncertainty else None,
        )

    def calibration_scale(self, progress: Progress, how: Drawing) -> float | None:
        """The factor on the standard deviation of a picture whose samples are drawn; None where there is none."""
        scales = self.calibration if self.colours is None else {}
        return calibration_scale_for(scales, how.num_inference_steps, len(progress.samples), how.eta)

    def calibration_note(self, sample_counts: Iterable[int], how: Drawing) -> str | None:
        """One line where the adapter lacks the scale for one of these numbers of samples; of mattes and masks."""
        return missing_scales_note(self.calibration, how.num_inference_steps, sample_counts, how.eta)

    def drawing(
        self,
        num_inference_steps: int | None = None,
        ensemble_size: int | str = 1,
        processing_resolution: int | None = None,
        batch_size: int | None = None,
        eta: float = 0.0,
        tolerance: float = 0.05,
    ) -> Drawing:
        """These settings, checked, with the adapter's in place of None; see `__call__`.

        Raises:
            UserError: a setting that cannot be served; it names the value and what can.
        """
        steps = self.default_denoising_steps if num_inference_steps is None else num_inference_steps
        resolution = self.default_processing_resolution if processing_resolution is None else processing_resolution
        if steps is None or not 1 <= steps <= 1000:
            raise UserError(f"num_inference_steps is {steps}; use 1 to 1000, 4 is usual")
        auto = ensemble_size == "auto"
        if auto and self.colours is not None:
            raise UserError("ensemble_size is auto, which an adapter of target classes cannot serve; use a number")
        if not auto and (isinstance(ensemble_size, str) or ensemble_size < 1):
            raise UserError(f'ensemble_size is {ensemble_size!r}; use 1 or more, or "auto"')
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; use 1 or more")
        if not 0 <= eta <= 1:
            raise UserError(f"eta is {eta}; use 0 (no noise is added) to 1 (ancestral sampling)")
        if auto and not tolerance > 0:
            raise UserError(f"tolerance is {tolerance}; use a standard error above 0, .05 is usual")
        check_processing_resolution(resolution, self.vae_scale_factor)
        size = AUTO_MOST if auto else ensemble_size
        return Drawing(
            steps, size, resolution, batch_size, batch_size is not None, float(eta), float(tolerance) if auto else None
        )

    @torch.no_grad()
    def draw(
        self, jobs: Iterable[tuple[Hashable, object, object]], how: Drawing
    ) -> Iterator[tuple[Hashable, Progress | Exception]]:
        """The samples of pictures that come one after another, as soon as they are drawn, not always in order.

        Pictures of one working size fill a batch together; each draws its own noise, so none depends on its
        neighbours. What one picture raises comes in place of its samples.

        Args:
            jobs: (key, picture as `list_pictures` returns it, source as `noise_sources` does).
        """
        waiting: dict[tuple, list[Progress]] = {}
        with self.tuned():
            for number, (key, picture, source) in enumerate(jobs):
                try:
                    progress = self.start(key, number, picture, source, how)
                except Exception as error:
                    yield key, error
                    continue
                if self.colours is None and is_flat(picture):
                    progress.samples = [self.empty(progress)] * progress.wanted
                    yield key, progress
                    continue
                waiting.setdefault(tuple(progress.pixels.shape), []).append(progress)
                while queue := next_batch(waiting, number, how):
                    how = yield from self.advance(queue, how)
            for queue in waiting.values():
                while queue:
                    how = yield from self.advance(queue, how)

    def start(self, key: Hashable, number: int, picture, source, how: Drawing) -> Progress:
        """A picture, resized and padded, with its noise; nothing is computed yet.

        Raises:
            ImageError, UserError: a picture or noise that cannot be used.
        """
        pixels, padding, size = self.preprocess(picture, how.processing_resolution)
        latent_size = [side // self.vae_scale_factor for side in pixels.shape[-2:]]
        shape = (how.ensemble_size, self.vae.config.latent_channels, *latent_size)
        noise, step_noise = starting_noise(source, shape), None
        if how.eta > 0:
            generator = source if isinstance(source, torch.Generator) else None
            step_noise = starting_noise(generator, (how.num_inference_steps - 1, *shape))
        wanted = how.ensemble_size if how.tolerance is None else AUTO_FIRST
        return Progress(key, number, pixels, padding, tuple(size), noise, step_noise, wanted)

    def preprocess(self, picture, resolution: int) -> tuple[torch.Tensor, tuple[int, int], tuple[int, int]]:
        """A picture resized and padded, [1, 3, PPH, PPW] in [-1, 1], its padding, and its own size; as the peer does.

        A picture goes through channel by channel, since the planes of a large one take much memory. In float32
        whatever the model's precision: eight bits do not survive a division in bfloat16.
        """
        processor = self.image_processor
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,):
            planes = (signed_plane(plane, self.device) for plane in np.moveaxis(picture, 2, 0))
        else:
            try:
                whole = processor.load_image_canonical(picture, self.device)  # [1, 3, H, W] in [0, 1]
                processor.check_image_values_range(whole)
            except ValueError as error:
                raise UserError(
                    f"a picture of {picture.dtype} {tuple(picture.shape)} cannot be used: {error}"
                ) from error
            planes = (to_signed(plane) for plane in whole.split(1, dim=1))
        done = []
        for plane in planes:
            size = tuple(plane.shape[2:])
            plane = thick_enough(plane, resolution)
            if resolution:
                plane = processor.resize_to_max_edge(plane, resolution, "bilinear")
            plane, padding = processor.pad_image(plane, self.vae_scale_factor)
            done.append(plane)
        return torch.cat(done, dim=1), padding, size

    def empty(self, progress: Progress) -> torch.Tensor:
        """The sample [PH, PW] of a picture that shows nothing."""
        height, width = progress.pixels.shape[-2:]
        return torch.zeros(height - progress.padding[0], width - progress.padding[1])

    def advance(self, queue: list[Progress], how: Drawing) -> Iterator[tuple[Hashable, Progress | Exception]]:
        """Draws one batch of a queue's samples, takes finished pictures out of the queue and yields them.

        Returns:
            `how`, with a smaller batch where memory ended.
        """
        started = time.perf_counter()
        pictures = queue if how.shared else queue[:1]
        to_draw = [(one, number) for one in pictures for number in range(len(one.samples), one.wanted)]
        batch = to_draw[: how.batch_for(*queue[0].pixels.shape[-2:])]
        try:
            drawn = self.sample(batch, how)
        except Exception as error:
            how, failure = smaller_batch(error, len(batch), how)
            for progress in unique(batch) if failure else []:
                queue.remove(progress)
                yield progress.key, failure
            return how
        seconds = (time.perf_counter() - started) / len(batch)
        for (progress, _), sample in zip(batch, drawn, strict=True):
            progress.samples.append(sample)
            progress.seconds += seconds
        for progress in unique(batch):
            if any(sample is None for sample in progress.samples):
                queue.remove(progress)
                yield progress.key, not_finite(self.unet.conv_in.weight.dtype)
            elif len(progress.samples) == progress.wanted:
                if how.tolerance is not None and standard_error(progress.samples) > how.tolerance:
                    progress.wanted = min(2 * progress.wanted, how.ensemble_size)
                if len(progress.samples) == progress.wanted:
                    queue.remove(progress)
                    yield progress.key, progress
        return how

    def sample(self, batch: list[tuple[Progress, int]], how: Drawing) -> list[torch.Tensor | None]:
        """One sample [PH, PW] for each (picture, number of its noise), on the CPU; None where it is not finite."""
        fresh = [progress for progress in unique(batch) if progress.latent is None]
        if fresh:
            latents = encode_image(self.vae, torch.cat([progress.pixels for progress in fresh])).float()
            for progress, latent in zip(fresh, latents.split(1), strict=True):
                progress.latent = latent
        step_noise = None
        if how.eta > 0:
            step_noise = torch.stack([progress.step_noise[:, number] for progress, number in batch], dim=1)
            step_noise = step_noise.to(self.device)
        latent = denoise(
            self.unet,
            self.scheduler,
            torch.cat([progress.latent for progress, _ in batch]),
            torch.stack([progress.noise[number] for progress, number in batch]).to(self.device),
            self.prompt_embedding,
            how.num_inference_steps,
            how.eta,
            step_noise,
        )
        decode = decode_alpha if self.colours is None else decode_colour
        pixels = decode(self.decoder, latent)  # [B, 1 or 3, PPH, PPW]
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        drawn = (pixels[:, 0] if self.colours is None else nearest_class(pixels, self.colours)).cpu()
        return [
            one[: one.shape[0] - progress.padding[0], : one.shape[1] - progress.padding[1]] if is_finite else None
            for (progress, _), one, is_finite in zip(batch, drawn, finite, strict=True)
        ]

    @contextmanager
    def tuned(self) -> Iterator[None]:
        """Inside, the model computes what is the same for all samples once; see `sdseg.inference.sampling`."""
        with ExitStack() as stack:
            stack.enter_context(plain_forward(self.unet))
            stack.enter_context(constant_prompt(self._cross_attention))
            if self.colours is None and self.decoder is self.vae:
                stack.enter_context(grey_decoder(self.vae))
            yield

    def draw_tiles(self, progress: Progress, image: np.ndarray, how: Drawing, side: int) -> None:
        """Adds a second pass to a picture's samples; `image` is uint8 [H, W, 3] or [H, W].

        Its noise depends on that of the first pass alone.

        Raises:
            UserError: see `check_tile`.
        """
        from sdseg.inference.tiles import open_tiles, second_pass

        self.check_tile(side, how)
        started = time.perf_counter()
        image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        found = self.summary(progress)
        alpha, deviation = found["prediction"].numpy(), found["uncertainty"].numpy() if "uncertainty" in found else None
        tiles = open_tiles(alpha, deviation, side)
        del found, deviation  # a plane of the photo's size
        generator = torch.Generator().manual_seed(zlib.crc32(progress.noise.cpu().numpy().tobytes()))
        how = replace(how, ensemble_size=len(progress.samples))
        drawn = second_pass(self, image, alpha, tiles, how, side, generator)
        progress.second = torch.from_numpy(drawn)
        progress.seconds += time.perf_counter() - started

    def check_tile(self, side: int, how: Drawing) -> None:
        """Raises UserError where tiles of `side` pixels cannot be drawn."""
        if self.target != "alpha":
            raise UserError(f"tile with an adapter of target {self.target}; only mattes are drawn a second time")
        if side < self.vae_scale_factor:
            raise UserError(
                f"tile is {side}; use {self.vae_scale_factor} pixels or more, the working resolution is usual"
            )
        if not how.processing_resolution:
            raise UserError("tile with processing_resolution 0, where the first pass sees every pixel; leave one out")

    def summary(
        self,
        progress: Progress,
        match_input_resolution: bool = True,
        output_uncertainty: bool = True,
        output_samples: bool = False,
        output_probabilities: bool = False,
        refine_along: np.ndarray | None = None,
        scale: float | None = None,
    ) -> dict:
        """Mean and spread of a picture's samples, by the names of MattingOutput's lists; `count` of them, and `scale`.

        Args:
            refine_along: the picture, uint8 [H, W, 3] or [H, W], whose edges a matte is to follow.
            scale: factor on the standard deviation that is given out. What follows from the deviation inside (open
                tiles, the bands of refinement) has thresholds that were measured on raw ones, and takes no scale.
        """
        samples = torch.stack(progress.samples)  # [E, PH, PW]
        size = progress.size if match_input_resolution else tuple(samples.shape[1:])
        if self.colours is not None:
            found = class_summary(samples, len(self.colours), size, output_samples, output_probabilities)
        else:
            matte = progress.second
            if refine_along is not None and self.target == "alpha" and size[0] * size[1] > samples[0].numel():
                matte = refined(progress, refine_along)
            found = matte_summary(samples, size, output_uncertainty, output_samples, matte)
            if scale is not None and "uncertainty" in found:
                found["uncertainty"] = found["uncertainty"] * scale
        return found | {"count": len(samples), "scale": scale}

    def uncertainty(self, progress: Progress, scale: float | None) -> torch.Tensor:
        """The standard deviation [H, W] of a matte's samples at the picture's size, times `scale`, as in `summary`."""
        deviation = standard_deviation(torch.stack(progress.samples), progress.size)
        return deviation if scale is None else deviation.mul_(scale)


def refined(progress: Progress, image: np.ndarray) -> torch.Tensor:
    """A matte [H, W] that follows the edges of its picture, uint8 [H, W, 3] or [H, W]."""
    from sdseg.inference.refinement import refine

    samples = torch.stack(progress.samples)
    alpha, deviation = samples.mean(dim=0), samples.std(dim=0) if len(samples) > 1 else None
    if progress.second is not None:
        alpha, deviation = progress.second, None if deviation is None else resize(deviation, image.shape[:2])
    found = refine(image, alpha.numpy(), None if deviation is None else deviation.numpy())
    return torch.from_numpy(found.alpha)


def signed_plane(plane: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """A channel of a picture, uint8 [H, W] => [1, 1, H, W] in [-1, 1]; strip by strip, so that it is held once."""
    found = torch.empty(1, 1, *plane.shape, device=device)
    for start in range(0, len(plane), ROWS_AT_ONCE):
        strip = np.ascontiguousarray(plane[start : start + ROWS_AT_ONCE])
        found[0, 0, start : start + len(strip)] = to_signed(torch.from_numpy(strip).to(device).float() / 255)
    return found


def channels_last(picture: np.ndarray | torch.Tensor) -> tuple[np.ndarray, float]:
    """A picture as `list_pictures` returns it => an array [H, W, C] or [H, W], and the value that stands for white."""
    if isinstance(picture, torch.Tensor):
        picture = (picture.float() if picture.is_floating_point() else picture).cpu().numpy()
        picture = np.moveaxis(picture, 0, -1) if picture.ndim == 3 else picture
    return picture, np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1


def as_bytes(picture: np.ndarray | torch.Tensor) -> np.ndarray:
    """A picture as `list_pictures` returns it => uint8 [H, W, 3] or [H, W]."""
    picture, white = channels_last(picture)
    if picture.shape[2:] == (1,):
        picture = picture[..., 0]
    if picture.dtype == np.uint8:
        return picture
    found = np.empty(picture.shape, np.uint8)
    for start in range(0, len(picture), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        found[rows] = np.rint(picture[rows].astype(np.float64) / white * 255)
    return found


def matte_summary(
    samples: torch.Tensor,
    size: tuple[int, int],
    output_uncertainty: bool,
    output_samples: bool,
    matte: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Of samples [E, PH, PW], brought to `size` (H, W): `prediction`, which is `matte` [H, W] where that is given, and
    where asked `uncertainty` and `samples`."""
    if matte is None:
        matte = resize(samples.mean(dim=0), size)  # resizing is linear: the mean of resized samples
    found = {"prediction": matte.clip_(0, 1)}
    if output_uncertainty and len(samples) > 1:
        found["uncertainty"] = standard_deviation(samples, size)
    if output_samples:
        found["samples"] = torch.empty(len(samples), *size)
        for place, sample in zip(found["samples"], samples, strict=True):
            place.copy_(resize(sample, size))
    return found


def standard_deviation(samples: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Of samples [E, PH, PW], E > 1, brought to `size` (H, W): the unbiased standard deviation [H, W].

    Between two pixels of a sample the mean of both varies less than they do, so resizing the deviation would overstate
    it.
    """
    found = torch.empty(size, device=samples.device)
    for rows, strips in resized_strips(samples, size):
        found[rows] = mean_and_variance(strips)[1].sqrt()
    return found


def class_summary(
    samples: torch.Tensor, classes: int, size: tuple[int, int], output_samples: bool, output_probabilities: bool
) -> dict[str, torch.Tensor]:
    """Of class ids [E, PH, PW]: `prediction` and `uncertainty`, and where asked `samples` and `probabilities`."""
    probabilities = votes(samples, classes)  # [C, PH, PW]
    ids, entropy = decided(probabilities, size)
    found = {"prediction": ids, "uncertainty": entropy}
    if output_samples:
        found["samples"] = torch.stack([decided(votes(sample[None], classes), size)[0] for sample in samples])
    if output_probabilities:
        found["probabilities"] = torch.stack([resize(plane, size) for plane in probabilities])
    return found


# ------------------------------------------------------------------------------------------------ loading


def load_parts(
    adapter: Adapter | str | Path,
    base: str | Path | None = None,
    *,
    revision: str | None = None,
    torch_dtype: torch.dtype = torch.float32,
    merge: bool = True,
) -> dict:
    """What `MattingSession` and `MattingPipeline` are made of, by the names of their arguments; see `from_adapter`."""
    if not isinstance(adapter, Adapter):
        adapter = read_adapter(adapter)
    if base is None:
        base, revision = adapter.config.pretrained_model_name_or_path, revision or adapter.config.revision
    loaded = load_base(
        str(base),
        revision=revision,
        torch_dtype=torch.float32 if merge else torch_dtype,
        prompt_embedding=adapter.prompt_embedding,
    )
    (merge_adapter if merge else load_adapter)(adapter, loaded)
    return dict(
        unet=torch.nn.Module.to(loaded.unet, torch_dtype) if merge else loaded.unet,
        vae=torch.nn.Module.to(loaded.vae, torch_dtype),
        scheduler=adapter.scheduler,
        prompt_embedding=adapter.prompt_embedding,
        default_denoising_steps=adapter.config.num_inference_steps,
        default_processing_resolution=adapter.config.resolution,
        target=adapter.config.target,
        class_names=adapter.config.class_names or None,
        class_colours=adapter.config.class_colours or None,
        calibration=adapter.config.calibration or None,
    )


# ------------------------------------------------------------------------------------------------ samples


def not_finite(dtype: torch.dtype) -> FloatingPointError:
    return FloatingPointError(f"the matte is not finite with a model in {dtype}; use torch.float32 or bfloat16")


def is_flat(picture: np.ndarray | torch.Tensor) -> bool:
    """Whether a picture as `list_pictures` returns it is of one colour, up to a level of 8 bits: it shows no subject,
    which no model has to be asked."""
    picture, white = channels_last(picture)
    span = picture.max(axis=(0, 1)).astype(np.float64) - picture.min(axis=(0, 1))
    return bool((span / white < 1.5 / 255).all())


def standard_error(samples: list[torch.Tensor]) -> float:
    """Of the mean of samples [PH, PW], in alpha units: the root of the mean over pixels of variance / E."""
    _, variance = mean_and_variance(samples)
    return (variance.mean() / len(samples)).sqrt().item()


# ------------------------------------------------------------------------------------------------ arguments


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
    """One entry per picture, each as `MarigoldImageProcessor` takes it; see `MattingSession.__call__`."""
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
        image = over_white(image)
    return np.array(image.convert("RGB"))


def check_output(output_type: str, output_uncertainty: bool, ensemble_size: int) -> None:
    """Raises UserError for outputs that cannot be given; see `MattingSession.__call__`."""
    if output_uncertainty and ensemble_size < 2:
        raise UserError(f"output_uncertainty with ensemble_size {ensemble_size}; a spread needs 2 or more")
    if output_type not in ("np", "pt"):
        raise UserError(f'output_type is {output_type!r}; use "np" or "pt"')


def check_processing_resolution(processing_resolution: int | None, vae_scale_factor: int) -> None:
    """Raises UserError unless it is 0 or a positive multiple of the VAE's factor."""
    if processing_resolution is None or processing_resolution < 0 or processing_resolution % vae_scale_factor:
        raise UserError(
            f"processing_resolution is {processing_resolution}; use a multiple of {vae_scale_factor}, "
            "or 0 for the picture's own size"
        )
