"""Renames published latent-diffusion weights to the names of diffusers and of our networks.

diffusers' single-file converters rename UNet, ControlNet and VAE; the nine SFF weights are renamed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

SFF = re.compile(r"control_model\.down([1-3])([1-3])\.0\.weight")
"""down{source}{destination}; both indices start at 1."""
HINT = "controlnet_cond_embedding."
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Old diffusers names in the attention of autoencoders, still used in Stable Diffusion's files."""


def unet_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """Rename the weights below "model.diffusion_model." for a UNet2DConditionModel with these settings."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    named: dict[str, Tensor] = convert_ldm_unet_checkpoint(dict(weights), settings)
    return named


def guide_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """Rename the weights below "control_model." for a SemanticGuide with these network settings."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    named = {}
    for key, value in convert_controlnet_checkpoint(dict(weights), settings).items():
        named[f"hint.{key.removeprefix(HINT)}" if key.startswith(HINT) else f"network.{key}"] = value
    for key, value in weights.items():
        match = SFF.fullmatch(key)
        if match:
            at, to = (int(digit) - 1 for digit in match.groups())
            named[f"fusion.branches.{at}.{to}.0.weight"] = value
    return named


def renewed_codec_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an AutoencoderKL to the current diffusers names."""
    old = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(OLD_ATTENTION)})\.(weight|bias)")
    named = {}
    for key, value in weights.items():
        match = old.fullmatch(key)
        named[f"{match[1]}.{OLD_ATTENTION[match[2]]}.{match[3]}" if match else key] = value
    return named


def codec_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """Rename the weights of an autoencoder, without prefix, for a KLCodec with these settings."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return {f"network.{key}": one for key, one in convert_ldm_vae_checkpoint(dict(weights), settings).items()}
