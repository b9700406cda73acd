"""The adapter folder: round trip, PEFT's format, exact keys and shapes, and what a bad one is told."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdseg.adapter import AdapterError, load_adapter, read_adapter, save_adapter
from sdseg.model import inference_scheduler, load_base


@pytest.fixture
def copy(miniature_adapter, tmp_path):
    return shutil.copytree(miniature_adapter, tmp_path / "adapter")


def rewrite(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_round_trip_is_exact(miniature, miniature_adapter, tmp_path):
    base = load_base(str(miniature))
    adapter = read_adapter(miniature_adapter)
    peft_model = load_adapter(adapter, base)
    save_adapter(tmp_path / "again", peft_model, adapter.config, adapter.prompt_embedding, "card")
    first = load_file(miniature_adapter / "adapter_model.safetensors")
    second = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(".lora_A." in key or ".lora_B." in key for key in first)
    assert read_adapter(tmp_path / "again").config == adapter.config
    record = tmp_path / "again" / "sdseg_config.json"
    settings = json.loads(record.read_text())
    assert "in_channels" not in settings
    record.write_text(json.dumps(settings | {"in_channels": 8}))  # as older versions wrote it
    assert read_adapter(tmp_path / "again").config == adapter.config
    public = {key: value for key, value in inference_scheduler().config.items() if not key.startswith("_")}
    assert public.items() <= dict(adapter.scheduler.config).items()
    assert not list(tmp_path.glob(".*"))


def test_peft_itself_reads_the_folder(miniature, miniature_adapter):
    from peft import PeftModel

    base, other = load_base(str(miniature)), load_base(str(miniature))
    load_adapter(read_adapter(miniature_adapter), base)
    theirs = PeftModel.from_pretrained(other.unet, str(miniature_adapter)).eval()
    arguments = torch.randn(1, 8, 16, 16), torch.tensor([9]), base.prompt_embedding
    with torch.no_grad():
        assert torch.equal(base.unet(*arguments).sample, theirs(*arguments).sample)


def test_settings_are_sorted_and_name_the_base(miniature, miniature_adapter):
    settings = json.loads((miniature_adapter / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert settings["base_model_name_or_path"] == str(miniature)


def test_saving_asks_nothing_of_the_hub(miniature, tmp_path, monkeypatch):
    import socket

    from sdseg.model import add_lora

    def refuse(*_arguments, **_words):
        raise AssertionError("a connection was tried")

    base = load_base(str(miniature))
    peft_model = add_lora(base, rank=2, lora_alpha=2, lora_targets=["attention"], seed=0)
    config = read_config(base, name="someone/some-base")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    save_adapter(tmp_path / "adapter", peft_model, config, base.prompt_embedding, "card")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def read_config(base, name):
    from sdseg.adapter import AdapterConfig

    return AdapterConfig(name, None, base.fingerprint, resolution=64, num_inference_steps=4)


def drop_one(tensors):
    tensors.pop(sorted(tensors)[0])


def add_one(tensors):
    tensors["base_model.model.nowhere.lora_A.weight"] = torch.zeros(2, 2)


def reshape_one(tensors):
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(1, *tensors[name].shape[1:])


@pytest.mark.parametrize(
    ("change", "words"), [(drop_one, "is missing"), (add_one, "has no place"), (reshape_one, "has shape")]
)
def test_keys_and_shapes_must_match_exactly(miniature, copy, change, words):
    rewrite(copy, change)
    with pytest.raises(AdapterError, match=words) as caught:
        load_adapter(read_adapter(copy), load_base(str(miniature)))
    assert "\n" not in str(caught.value)


def test_another_base_is_refused(miniature_adapter, tmp_path):
    from tests.conftest import write_random_miniature

    other = load_base(str(write_random_miniature(tmp_path / "other", seed=7)))
    with pytest.raises(AdapterError, match="was trained on base"):
        load_adapter(read_adapter(miniature_adapter), other)


@pytest.mark.parametrize(
    "name", ["sdseg_config.json", "adapter_config.json", "adapter_model.safetensors", "prompt_embedding.safetensors"]
)
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(AdapterError, match=f"{name} is missing"):
        read_adapter(copy)


def test_truncated_weights_and_newer_formats_are_refused(miniature, copy):
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(read_adapter(copy), load_base(str(miniature)))
    settings = json.loads((copy / "sdseg_config.json").read_text())
    (copy / "sdseg_config.json").write_text(json.dumps(settings | {"format_version": 99}))
    with pytest.raises(AdapterError, match="update sdseg"):
        read_adapter(copy)
    with pytest.raises(AdapterError, match="no folder"):
        read_adapter("./nowhere")
