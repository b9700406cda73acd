"""Writes a Stable Diffusion 2 with random weights: the real one's architecture without its knowledge.

    python benchmarks/random_sd2.py --output DIR [--seed 0]

The folder has diffusers' layout (unet, vae, text_encoder, tokenizer, scheduler; 5.2 GB in float32) and can be given
wherever a base is expected. It replaces the real weights where only memory, speed or arithmetic matters.
"""

import argparse
import json
from pathlib import Path

# Numbers of parameters in stabilityai/stable-diffusion-2 (whose text encoder has 23 of CLIP's 24 layers).
PARAMETERS = {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}


def write_random_sd2(directory: Path | str, seed: int = 0) -> Path:
    """Writes the folder and returns its path; float32 weights, determined by `seed` and the version of torch.

    Raises:
        AssertionError: a part has another number of parameters than SD2's.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    directory = Path(directory)

    def build_unet():
        return UNet2DConditionModel(
            sample_size=96,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )

    def build_vae():
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=768,
        )
        vae.quant_conv.weight.data *= 10  # scales the latents to about the size of SD2's
        return vae

    def build_text_encoder():
        return CLIPTextModel(
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                bos_token_id=49406,
                eos_token_id=49407,
            )
        )

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, build in (("unet", build_unet), ("vae", build_vae), ("text_encoder", build_text_encoder)):
            model = build()
            count = model.num_parameters()
            assert count == PARAMETERS[name], f"{name} has {count} parameters, SD2's has {PARAMETERS[name]}"
            model.save_pretrained(directory / name)
            del model  # one part in memory at a time
    write_empty_tokenizer(directory / "tokenizer")
    # SD2's own scheduler; sdseg uses the one that an adapter brings.
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(directory / "scheduler")
    return directory


def write_empty_tokenizer(directory: Path) -> None:
    """Writes a CLIP tokenizer that knows single characters but no words. The empty prompt still becomes CLIP's two
    tokens, start (49406) and end (49407)."""
    from transformers import CLIPTokenizer

    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = characters + [character + "</w>" for character in characters]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    CLIPTokenizer.from_pretrained(directory, model_max_length=77).save_pretrained(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_random_sd2(arguments.output, arguments.seed))
