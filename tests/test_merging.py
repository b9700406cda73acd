"""Merged adapters against PEFT's own merge."""

import json

import pytest
import torch

from sdseg.adapter import AdapterConfig, AdapterError, load_adapter, read_adapter, save_adapter
from sdseg.merging import merge_adapter, unusual
from sdseg.model import LORA_TARGETS, add_lora, load_base


@pytest.fixture(params=[{}, {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "use_rslora": True}], ids=str)
def trained(request, miniature, tmp_path):
    """An adapter on every kind of layer, with random weights, and the UNet into which PEFT merged it."""
    base = load_base(str(miniature))
    peft_model = add_lora(base, rank=3, lora_alpha=5, lora_targets=list(LORA_TARGETS), seed=0, **request.param)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for name, value in peft_model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
            elif "magnitude" in name:
                value.mul_(1 + 0.3 * torch.rand_like(value))
    config = AdapterConfig(str(miniature), None, base.fingerprint, 64, 4)
    save_adapter(tmp_path / "adapter", peft_model, config, base.prompt_embedding, "card")
    return tmp_path / "adapter", peft_model.merge_and_unload().state_dict()


def test_weights_are_those_that_peft_merges(trained, miniature):
    folder, peers = trained
    base = load_base(str(miniature))
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    merge_adapter(read_adapter(folder), base)
    merged = base.unet.state_dict()
    assert merged.keys() == peers.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, peers[name], rtol=1e-5, atol=1e-6)
    changed = {name for name in merged if not torch.equal(merged[name], before[name])}
    assert {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"} <= changed
    assert not any("norm" in name or name.endswith("bias") for name in changed)


def test_a_half_precision_base_gets_the_rounded_sum(trained, miniature):
    folder, peers = trained
    base = load_base(str(miniature), torch_dtype=torch.bfloat16)
    merge_adapter(read_adapter(folder), base)
    for name, value in base.unet.state_dict().items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.float(), peers[name], rtol=2**-6, atol=2**-7)


def test_settings_that_sdseg_never_writes_are_left_to_peft(miniature, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_base(str(miniature))
    pattern = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k"], rank_pattern={"to_k": 3})
    peft_model = get_peft_model(base.unet, pattern)
    with torch.no_grad():
        for name, value in peft_model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.05)
    config = AdapterConfig(str(miniature), None, base.fingerprint, 64, 4)
    save_adapter(tmp_path / "adapter", peft_model, config, base.prompt_embedding, "card")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert unusual(settings) == ["rank_pattern"]
    merged = load_base(str(miniature))
    merge_adapter(read_adapter(tmp_path / "adapter"), merged)
    peers = peft_model.merge_and_unload().state_dict()
    for name, value in merged.unet.state_dict().items():
        torch.testing.assert_close(value, peers[name], rtol=1e-5, atol=1e-6)


def test_missing_tensors_and_another_base_are_refused(miniature, miniature_adapter, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(miniature_adapter, tmp_path / "adapter")
    stored = load_file(folder / "adapter_model.safetensors")
    gone = sorted(stored)[0]
    save_file({key: value for key, value in stored.items() if key != gone}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=f"{gone} is missing"):
        merge_adapter(read_adapter(folder), load_base(str(miniature)))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="damaged"):
        merge_adapter(read_adapter(folder), load_base(str(miniature)))
    other = load_base("embedded")
    for merge in (merge_adapter, load_adapter):
        with pytest.raises(AdapterError, match="trained on base"):
            merge(read_adapter(miniature_adapter), other)
