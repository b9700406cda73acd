"""`MattingPipeline`: a `MattingSession` with the habits of a diffusers pipeline: moved, offloaded, saved as one."""

import copy
from functools import wraps
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sdseg.adapter import Adapter
from sdseg.errors import MissingFile, UserError
from sdseg.inference.session import MattingOutput, MattingSession, load_parts
from sdseg.model import is_hub_id, snapshot, vae_scale_factor

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


class MattingPipeline(DiffusionPipeline):
    """Alpha mattes by Stable Diffusion, the UNet widened to [image, noisy mask], and an adapter.

    Most people want `MattingPipeline.from_adapter(folder_or_hub_id)`. The arguments are those of `MattingSession`.
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
        calibration: dict[str, float] | None = None,
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
            calibration=calibration,
        )
        self.prompt_embedding = prompt_embedding
        self.vae_scale_factor = vae_scale_factor(vae)

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
    ) -> "MattingPipeline":
        """See `MattingSession.from_adapter`."""
        return cls(**load_parts(adapter, base, revision=revision, torch_dtype=torch_dtype, merge=merge)).to(device)

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Write a whole model in diffusers' layout, the adapter merged into the UNet.

        It takes as much room as the base. To pass a matting model on, pass on the adapter folder.
        """
        unet = copy.deepcopy(self.unet)
        if any(hasattr(module, "lora_A") for module in unet.modules()):
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
            self.config.calibration,
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

    @property
    def session(self) -> MattingSession:
        """The pipeline's parts as they are now."""
        settings = ("default_denoising_steps", "default_processing_resolution", "target")
        return MattingSession(
            self.unet,
            self.vae,
            self.scheduler,
            self.prompt_embedding,
            *(self.config[name] for name in (*settings, "class_names", "class_colours", "calibration")),
            device=self._execution_device,
        )

    @wraps(MattingSession.__call__)
    def __call__(self, *arguments, **settings) -> MattingOutput:
        output = self.session(*arguments, **settings)
        self.maybe_free_model_hooks()
        return output
