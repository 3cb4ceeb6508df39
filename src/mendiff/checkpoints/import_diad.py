"""Import of published DiAD checkpoints (`diad.ckpt`, plain or from Lightning) and fine-tuned codecs.

Every tensor of a checkpoint must be used, and every parameter must be present.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.names import check_places, under
from mendiff.checkpoints.text import embed
from mendiff.errors import InputError
from mendiff.methods.diad import Diad
from mendiff.methods.diad_config import DiadConfig
from mendiff.nets.codec import MEAN, STD, make_codec
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.features import FeatureExtractor, make_features
from mendiff.nets.modes import builds_in_float32
from mendiff.nets.published import codec_names, guide_names, renewed_codec_names, unet_names
from mendiff.scoring.readout import Readout

UNET, GUIDE, CODEC = "model.diffusion_model.", "control_model.", "first_stage_model."
TEXT, FEATURES = "cond_stage_model.", "pretrained_model."
CODEC_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
SCHEDULE = re.compile(
    r"betas|logvar|(sqrt_|log_|sqrt_recip_|sqrt_recipm1_)?(one_minus_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
)
"""Buffers that are recomputed from the schedule's settings."""


def convert_diad(weights: Mapping[str, Tensor], config: DiadConfig, source: str) -> dict[str, Tensor]:
    """Rename a published DiAD state dict for Diad(config): SG network, denoiser and codec.

    Args:
        weights: published state dict; tensors on the meta device are checked in the same way.
        config: config with an SG network, a "conditional_unet" and the codec "kl".
        source: origin of the weights, for messages.

    Raises:
        InputError: names the first weight that is missing, unknown or misshapen.
    """
    for prefix, part in ((UNET, "denoiser"), (GUIDE, "SG network"), (CODEC, "autoencoder")):
        if not under(prefix, weights):
            raise InputError(
                f"{source}: expected a DiAD checkpoint, but it holds no {part} (names below {prefix[:-1]})."
            )
    with torch.device("meta"):
        model = Diad(config)
    if model.denoiser.guide is None or config.codec.kind != "kl":
        raise InputError("config: expected an SG network and the codec 'kl' for the conversion.")
    network: Any = model.denoiser.unet.network
    unet = unet_names(under(UNET, weights, keep=True), network.config)
    guide = guide_names(under(GUIDE, weights, keep=True), model.denoiser.guide.network.config)
    named = {f"denoiser.unet.network.{key}": value for key, value in unet.items()}
    named |= {f"denoiser.guide.{key}": value for key, value in guide.items()}
    named |= {
        f"codec.{key}": value
        for key, value in convert_codec(under(CODEC, weights), config.codec, source).items()
    }
    prompts = ("denoiser.unet.prompt", "denoiser.unet.no_prompt")
    places = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(("denoiser.", "codec.")) and key not in prompts
    }
    rest = {
        key: value
        for key, value in weights.items()
        if not key.startswith((TEXT, FEATURES)) and not SCHEDULE.fullmatch(key)
    }
    check_places(rest, named, places, source)
    return named


def convert_codec(weights: Mapping[str, Tensor], config: CodecConfig, source: str) -> dict[str, Tensor]:
    """Rename a published autoencoder's state dict for our codec of kind "kl".

    Args:
        weights: encoder, decoder and the two convolutions between them, with names of latent diffusion or
            diffusers; a discriminator is ignored.
        config: codec config of kind "kl".
        source: origin of the weights, for messages.
    """
    kept = {key: value for key, value in weights.items() if key.startswith(CODEC_PARTS)}
    if not kept:
        raise InputError(f"{source}: expected an autoencoder's weights (encoder..., decoder...), found none.")
    with torch.device("meta"):
        codec = make_codec(config)
    network: Any = codec.network
    if any(".down_blocks." in key for key in kept):
        named = {f"network.{key}": one for key, one in renewed_codec_names(kept).items()}
    else:
        named = codec_names(kept, network.config)
    others = {key: one for key, one in weights.items() if not key.startswith("loss.")}
    check_places(others, named, codec.state_dict(), source)
    return named


@builds_in_float32
def assemble(
    config: DiadConfig,
    named: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    prompt: Tensor,
    source: str,
) -> Diad:
    """Build a DiAD from weights, without initialising the large networks, which would double the memory.

    Args:
        config: see convert_diad.
        named: result of convert_diad.
        features: state dict of the feature extractor, with timm's names.
        prompt: embeddings of the empty text, (1,L,D).
        source: origin of the features, for messages.
    """
    with torch.device("meta"):
        model = Diad(config)
    with torch.random.fork_rng(devices=[]):
        model.features = make_features(config.features)
    model.readout = Readout(config.readout, model.features.channels)
    model.mean, model.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    if isinstance(model.features, FeatureExtractor):
        model.features.load_backbone(features, source)
    expected = model.denoiser.unet.prompt.shape
    if prompt.shape != expected:
        raise InputError(
            f"prompt: expected embeddings of shape {tuple(expected)}, got {tuple(prompt.shape)}; see --set "
            "denoiser.prompt_length."
        )
    prompts = {f"denoiser.unet.{name}": prompt.clone() for name in ("prompt", "no_prompt")}
    model.load_state_dict({**named, **prompts}, strict=False, assign=True)
    model.eval()
    return model


def empty_prompt(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Embeddings of the empty text, (1,77,768); None if the checkpoint has no text encoder."""
    text = text_weights(weights)
    return embed(text, [[]], "checkpoint") if text else None


def text_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's weights with transformers' names without "text_model."; empty if there is none."""
    inside = under(TEXT, weights)
    return {key.removeprefix("transformer.").removeprefix("text_model."): inside[key] for key in inside}


def feature_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The feature extractor's weights with timm's names; empty if the checkpoint has none."""
    return under(FEATURES, weights)
