"""Names of published latent-diffusion weights as diffusers' networks and ours spell them.

diffusers' single-file converters rename UNet, ControlNet and VAE; the nine SFF weights that they leave are
ours to name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

SFF = re.compile(r"control_model\.down([1-3])([1-3])\.0\.weight")
"""down{source}{destination}, both counted from 1."""
HINT = "controlnet_cond_embedding."
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""diffusers' older names in an autoencoder's attention, which Stable Diffusion's files still have."""


def unet_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """The weights below "model.diffusion_model." as a UNet2DConditionModel of these settings names them."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    named: dict[str, Tensor] = convert_ldm_unet_checkpoint(dict(weights), settings)
    return named


def guide_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """The weights below "control_model." as a SemanticGuide with a network of these settings names them."""
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
    """The weights of an AutoencoderKL under the names that diffusers gives them today."""
    old = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(OLD_ATTENTION)})\.(weight|bias)")
    named = {}
    for key, value in weights.items():
        match = old.fullmatch(key)
        named[f"{match[1]}.{OLD_ATTENTION[match[2]]}.{match[3]}" if match else key] = value
    return named


def codec_names(weights: Mapping[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """The weights of an autoencoder, without a prefix, under the names of a KLCodec of these settings."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return {f"network.{key}": one for key, one in convert_ldm_vae_checkpoint(dict(weights), settings).items()}
