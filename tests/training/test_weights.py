"""LoRA layers that training folds into one layer, against PEFT's own."""

import pytest
import torch

from sdseg.model import LORA_TARGETS, load_base
from sdseg.training.config import TrainingConfig
from sdseg.training.weights import add_trained_lora, trained_parameters


def config_of(base: str = "embedded", **changes) -> TrainingConfig:
    settings = dict(pretrained_model_name_or_path=base, lora_targets=list(LORA_TARGETS), rank=32, lora_alpha=24.0)
    return TrainingConfig(output_dir="unused", train_data_dir="unused", **settings | changes)


def network(config: TrainingConfig) -> tuple:
    """UNet and LoRA weights, B random too; and the names of layers that are folded."""
    base = load_base(config.pretrained_model_name_or_path)
    lora = trained_parameters(add_trained_lora(base, config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in lora.items():
            if "lora_B" in name:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    return base, lora, {name for name, layer in base.unet.named_modules() if "forward" in vars(layer)}


def step(base, lora, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Output of a pass at a fixed batch of two, and the gradients of its loss."""
    generator = torch.Generator().manual_seed(2)
    noisy, wanted = (torch.randn(2, channels, 16, 16, generator=generator).to(dtype) for channels in (8, 4))
    prompt = base.prompt_embedding.expand(2, -1, -1).to(dtype)
    drawn = base.unet.train().to(dtype)(noisy, torch.tensor([999, 400]), encoder_hidden_states=prompt).sample
    (drawn - wanted).square().mean().backward()
    return {"output": drawn.detach()} | {name: value.grad for name, value in lora.items()}


@pytest.mark.parametrize(
    ("use_rslora", "gradient_checkpointing", "dtype"),
    [
        (False, False, torch.float32),
        (True, True, torch.float32),
        (False, True, torch.float64),
        (True, False, torch.float64),
    ],
)
def test_a_folded_step_is_that_of_peft(use_rslora, gradient_checkpointing, dtype, monkeypatch):
    """In float64 tensor by tensor; in float32, where the small gradients of attention are mostly rounding, together."""
    config = config_of(use_rslora=use_rslora)
    base, lora, folded = network(config)
    if gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    ours = step(base, lora, dtype)
    layers = {name: base.unet.get_submodule(name).base_layer for name in folded}
    assert {type(layer) for layer in layers.values()} == {torch.nn.Linear, torch.nn.Conv2d}
    assert {getattr(layer, "stride", None) for layer in layers.values()} == {None, (1, 1), (2, 2)}

    monkeypatch.setattr("sdseg.training.weights.fold_lora", lambda _: None)
    base, lora, folded = network(config)
    assert not folded
    peers = step(base, lora, dtype)
    assert ours.keys() == peers.keys()
    if dtype == torch.float32:
        gradients = [torch.cat([each[name].flatten() for name in lora]) for each in (ours, peers)]
        ours, peers = (
            {"output": each["output"], "gradients": g} for each, g in zip((ours, peers), gradients, strict=True)
        )
    for name, value in ours.items():
        difference = (value - peers[name]).norm() / peers[name].norm()
        assert difference < {torch.float32: 1e-5, torch.float64: 1e-9}[dtype], (name, difference)


def test_layers_are_folded_where_that_takes_fewer_multiplications(miniature):
    """The dense weight gradient, in · out a position, against three passes through A and B, 3 r (in + out). Narrow
    layers are 32 x 32 linear, 16 against 3 r, and convolutions of 288 x 32, 28.8 against 3 r."""
    conv, linear = "down_blocks.2.resnets.0.conv2", "mid_block.attentions.0.proj_in"
    for rank, wanted in ((5, set()), (6, {linear}), (9, {linear}), (10, {linear, conv})):
        base, _, folded = network(config_of(str(miniature), rank=rank))
        assert base.unet.get_submodule(linear).base_layer.weight.shape == (32, 32)
        assert base.unet.get_submodule(conv).base_layer.weight.shape == (32, 32, 3, 3)
        assert folded & {linear, conv} == wanted, rank


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"mixed_precision": "bf16"}], ids=str)
def test_what_folding_would_change_is_left_to_peft(changes):
    """DoRA's norm is another function; and bfloat16 would round a small update of W away with it."""
    _, _, folded = network(config_of(**changes))
    assert not folded
