"""Stable Diffusion 2 as a matting and segmentation model, through LoRA adapters trained on renders alone."""

__version__ = "0.1.0"
