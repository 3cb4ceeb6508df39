"""Stable Diffusion v1 (v1-4 and v1-5 are built alike): the settings of its networks, and its prompts."""

from __future__ import annotations

from typing import Any

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""DenoiserConfig.network of kind "conditional_unet": 859,520,964 parameters."""

CODEC: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
"""CodecConfig.network of kind "kl": factor 8, 4 channels, 83,653,863 parameters."""
