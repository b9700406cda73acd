"""The trained weights: LoRA layers, their optimiser, learning-rate schedule and moving average."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from typing import TYPE_CHECKING

from sdseg.training.config import ConfigError, TrainingConfig

if TYPE_CHECKING:
    import torch
    from diffusers.training_utils import EMAModel
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    from sdseg.adapter import Adapter
    from sdseg.model import Base


def add_trained_lora(base: Base, config: TrainingConfig) -> PeftModel:
    """Puts LoRA layers into the base's UNet: fresh ones, or those of `init_adapter`.

    Raises:
        UserError: unknown layers, or an adapter that training cannot start from.
    """
    from sdseg.adapter import load_lora_weights, read_adapter
    from sdseg.model import add_lora

    peft_model = add_lora(
        base,
        rank=config.rank,
        lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets,
        seed=config.seed,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
    if config.init_adapter:
        earlier = read_adapter(config.init_adapter)
        refuse_other_start(earlier, base, config)
        load_lora_weights(peft_model, earlier)
    if config.mixed_precision == "no" and not config.use_dora:
        fold_lora(peft_model)
    return peft_model


def fold_lora(peft_model: PeftModel) -> None:
    """Lets narrow LoRA layers, in float32 and without DoRA, run as one layer; see `folded`.

    At each position the gradient of W' takes in · out multiplications, and A and B in their three passes (forward, and
    the gradients of input and weights) 3 r (in + out); of a convolution, `in` counts the filter's positions. Layers are
    narrow where the former is no more, so W' is at most 3 times as large as A and B together. In bfloat16
    the sum W' would lose what is smaller than half of W's last bit, .2 to .4 % of W.
    """
    from peft.tuners.lora import LoraLayer

    for layer in peft_model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.base_layer.weight.flatten(1)
            if weight.numel() <= 3 * layer.r["default"] * sum(weight.shape):
                layer.forward = functools.partial(folded, layer)


def folded(layer: LoraLayer, inputs: torch.Tensor) -> torch.Tensor:
    """What a linear or convolutional LoRA layer of PEFT computes: W x + s · B A x, as W' x with W' = W + s · B A.

    Two small layers on top of a narrow one take about as long as it does; see docs/training.md.
    """
    import torch
    from torch.nn import functional

    base = layer.base_layer
    up, down = (part["default"].weight.flatten(1) for part in (layer.lora_B, layer.lora_A))
    weight = torch.addmm(base.weight.flatten(1), up, down, alpha=layer.scaling["default"]).view(base.weight.shape)
    if weight.ndim == 2:
        return functional.linear(inputs, weight, base.bias)
    return functional.conv2d(inputs, weight, base.bias, base.stride, base.padding, base.dilation, base.groups)


def refuse_other_start(earlier: Adapter, base: Base, config: TrainingConfig) -> None:
    """Raises ConfigError where the same LoRA weights would mean another update: another base, scale or prediction."""
    from sdseg.model import same_fingerprint

    if not same_fingerprint(earlier.config.fingerprint, base.fingerprint):
        raise ConfigError(
            f"init_adapter {config.init_adapter} was trained on base {earlier.config.pretrained_model_name_or_path}, "
            f"whose weights differ from those of {base.name}; set pretrained_model_name_or_path to that base"
        )
    had = {"use_rslora": False} | json.loads((earlier.path / "adapter_config.json").read_text(encoding="utf-8"))
    had["prediction_type"] = earlier.scheduler.config.prediction_type
    for key in ("prediction_type", "lora_alpha", "use_rslora"):
        if getattr(config, key) != had[key]:
            raise ConfigError(
                f"{key} is {getattr(config, key)}, but init_adapter {config.init_adapter} has {had[key]}; set {key} to "
                f"{had[key]}"
            )


def trained_parameters(peft_model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in peft_model.named_parameters() if value.requires_grad}


def adamw(lora: dict[str, torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) in one kernel over all LoRA weights."""
    import torch

    return torch.optim.AdamW(
        lora.values(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=True,
    )


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, first_step: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """`lr_scheduler`, advanced by the optimiser steps taken before; it counts optimiser steps."""
    from diffusers.optimization import get_scheduler

    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    with warnings.catch_warnings():  # torch warns of a schedule that steps before its optimiser
        warnings.simplefilter("ignore")
        for _ in range(first_step):
            schedule.step()
    return schedule


def moving_average(lora: dict[str, torch.nn.Parameter], decay: float) -> EMAModel:
    """diffusers' exponential moving average of the LoRA weights, on their device."""
    from diffusers.training_utils import EMAModel

    return EMAModel(lora.values(), decay=decay)


@contextlib.contextmanager
def averaged(lora: dict[str, torch.nn.Parameter], average: EMAModel | None):
    """A context in which the LoRA layers hold their moving average, where there is one."""
    if average is None:
        yield
        return
    average.store(lora.values())
    average.copy_to(lora.values())
    try:
        yield
    finally:
        average.restore(lora.values())
