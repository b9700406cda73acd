"""What drawing a matte imports, in a process of its own, and that everything else is still there afterwards."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MATTE = """
import sys
import numpy as np
from PIL import Image
from sdseg.inference.__main__ import main

Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("photo.png")
assert main(["--input", "photo.png", "--output", "mattes", "--num_inference_steps", "1"]) == 0
heavy = {"transformers", "peft", "datasets", "scipy", "torch._dynamo", "diffusers.pipelines.pipeline_utils"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
REST = """
import diffusers, peft, scipy.stats, torch, transformers
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.layerwise_casting import BaseTunerLayer, disable_input_dtype_casting

assert isinstance(diffusers.StableDiffusionPipeline, type) and isinstance(diffusers.SD3Transformer2DModel, type)
assert isinstance(diffusers.models.UNet3DConditionModel, type) and abs(scipy.stats.norm.cdf(0) - 0.5) < 1e-9
assert callable(apply_group_offloading) and callable(disable_input_dtype_casting)
from sdseg.adapter import load_adapter, read_adapter
from sdseg.model import load_base

base = load_base("embedded")
layers = load_adapter(read_adapter("embedded"), base).unload
layer = base.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
assert isinstance(layer, BaseTunerLayer) and not isinstance(base.vae, BaseTunerLayer)
latent, prompt = torch.zeros(1, 8, 16, 16), base.prompt_embedding
assert base.unet(latent, 5, encoder_hidden_states=prompt).sample.shape == (1, 4, 16, 16)
assert base.unet.device.type == "cpu"
"""


def test_a_matte_needs_no_transformers_peft_or_compiler_and_they_still_work_afterwards(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", MATTE + REST],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]


def test_a_release_that_cannot_be_imported_leanly_is_imported_as_usual(tmp_path):
    broken = """
import sys
import sdseg.lean_imports as lean
def fails(name):
    __import__("diffusers.models.attention")
    raise RuntimeError(name)
lean._postpone = fails
lean.import_diffusion_models()
from diffusers import AutoencoderKL, UNet2DConditionModel
assert "peft" in sys.modules and UNet2DConditionModel.__module__ == "diffusers.models.unets.unet_2d_condition"
"""
    process = subprocess.run(
        [sys.executable, "-c", broken], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert process.returncode == 0, process.stderr[-2000:].decode()
