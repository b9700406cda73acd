"""An adapter merged into the weights of its base, which then run at the speed of the base alone. Needs no PEFT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdseg.adapter import (
    Adapter,
    damage_named,
    load_adapter,
    read_lora_weights,
    refuse_other_base,
    refuse_other_tensors,
)

if TYPE_CHECKING:
    import torch

    from sdseg.model import Base

PREFIX = "base_model.model."  # of PEFT, before each module's name
UNDERSTOOD = {  # settings of PEFT that are heeded here, or that change no weight
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type",
    "use_dora", "use_rslora",
}  # fmt: skip


def merge_adapter(adapter: Adapter, base: Base) -> None:
    """Adds the adapter's updates to the weights of `base.unet`, in float32, and rounds them to the UNet's precision.

        W' = W + s · B A          s = α / r, or α / √r with rsLoRA     (Hu et al. 2021, eq. 3; Kalajdzievski 2023)
        W' = m · (W + s · B A) / ‖W + s · B A‖, row by row, with DoRA  (Liu et al. 2024, eq. 5)

    A convolution's A is the filter of the base's size, its B one of 1 × 1. Adapters with settings of PEFT that sdseg
    never writes are merged by PEFT.

    Raises:
        AdapterError: the adapter is damaged, belongs to another base, or lacks tensors.
    """
    import torch

    refuse_other_base(adapter, base)
    with damage_named(adapter.path):
        settings = json.loads((adapter.path / "adapter_config.json").read_text(encoding="utf-8"))
    if unusual(settings):
        load_adapter(adapter, base).merge_and_unload()  # in place
        return
    stored = read_lora_weights(adapter)
    wanted = lora_shapes(base.unet, settings)
    refuse_other_tensors(adapter, stored, wanted)
    scale = settings["lora_alpha"] / settings["r"] ** (0.5 if settings.get("use_rslora") else 1)
    with torch.no_grad():
        for name in sorted({key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in wanted}):
            weight = base.unet.get_submodule(name).weight
            down, up = (stored[f"{PREFIX}{name}.lora_{part}.weight"].float().to(weight.device) for part in "AB")
            merged = weight.float() + scale * update(down, up)
            if settings.get("use_dora"):
                magnitude = stored[f"{PREFIX}{name}.lora_magnitude_vector"].float().to(weight.device)
                norm = merged.flatten(1).norm(dim=1)
                merged *= (magnitude.flatten() / norm).view(-1, *[1] * (merged.ndim - 1))
            weight.copy_(merged)


def unusual(settings: dict) -> list[str]:
    """Names of settings of an `adapter_config.json` that change what merging means and are not heeded here."""
    set_ones = {name for name, value in settings.items() if value and value != "none"}
    if not isinstance(settings.get("target_modules"), list):
        return ["target_modules", *sorted(set_ones - UNDERSTOOD)]
    return sorted(set_ones - UNDERSTOOD)


def update(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """B A of a linear layer, [out, r] and [r, in], or of a convolution, [out, r, 1, 1] and [r, in, kh, kw]."""
    if down.ndim == 2:
        return up @ down
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def lora_shapes(unet: torch.nn.Module, settings: dict) -> dict[str, tuple[int, ...]]:
    """Key and shape of each tensor that an adapter with these settings has for a UNet."""
    import torch

    rank, shapes = settings["r"], {}
    for name, module in unet.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        if not any(f".{name}".endswith(f".{target}") for target in settings["target_modules"]):
            continue
        out, *rest = module.weight.shape
        ones = [1] * (module.weight.ndim - 2)
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, *rest)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (out, rank, *ones)
        if settings.get("use_dora"):
            shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (1, out, *ones) if ones else (out,)
    return shapes
