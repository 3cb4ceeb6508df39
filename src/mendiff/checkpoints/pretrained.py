"""Pretrained parts of a method: Stable Diffusion's networks and prompts, and timm's backbones.

Every part is loaded strictly, from a local folder or file, or from the hub's cache or the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mendiff.checkpoints.hub import hub_file
from mendiff.checkpoints.names import check_finite
from mendiff.checkpoints.stable_diffusion import Diffusion, Sources, open_diffusion
from mendiff.checkpoints.text import embed, read_prompts
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.methods.base import Method
from mendiff.nets.codec import KLCodec
from mendiff.nets.denoiser import Denoiser
from mendiff.nets.features import FeatureExtractor, hub_id
from mendiff.nets.semantic_guided import GuidedDenoiser

PROMPTS = ("prompt", "no_prompt")
NOT_FOR_IT = (
    "--pretrained: expected a method and preset with Stable Diffusion's UNet, such as --method glad --preset "
    "paper."
)


def find_pretrained(sources: Sources, extractors: Mapping[str, str]) -> dict[str, Path]:
    """Locate the files of all parts, before large networks are built.

    Args:
        sources: see Sources.
        extractors: timm's names of the backbones, by the method's parts; `features` may be a local file.
    """
    files = {} if sources.diffusion is None else open_diffusion(sources.diffusion).find(sources)
    if sources.prompt is not None:
        files["prompt"] = sources.prompt
    for part, name in extractors.items():
        given = sources.features if part == "features" else None
        files[part] = timm_file(name) if given is None else given
    return files


def extractors_of(method: Method) -> dict[str, str]:
    """Timm's names of a method's backbones, by the method's parts."""
    return {part: one.config.name for part, one in method.parts.items() if isinstance(one, FeatureExtractor)}


def load_pretrained(method: Method, sources: Sources) -> list[str]:
    """Load pretrained weights into a method's networks; returns a line per part with its source.

    Args:
        method: changed in place.
        sources: see Sources.

    Raises:
        InputError: if a part is missing, damaged or has another architecture.
    """
    lines = load_diffusion(method, sources) if sources.diffusion or sources.prompt else []
    file = sources.features
    lines += load_features(method, None if file is None else (read_weights(file), str(file)))
    # Weights from pickles were not checked yet.
    check_finite(method.state_dict(), "the pretrained weights", method.INFINITE)
    return lines


def load_diffusion(method: Method, sources: Sources) -> list[str]:
    """Load UNet, autoencoder and prompts; arguments and result as for load_pretrained."""
    denoiser = next((one for one in method.modules() if isinstance(one, Denoiser)), None)
    if denoiser is None or denoiser.config.kind != "conditional_unet":
        raise InputError(NOT_FOR_IT)
    place = None if sources.diffusion is None else open_diffusion(sources.diffusion)
    lines = []
    if place is not None and sources.unet:
        lines.append(f"UNet: {place.load_unet(denoiser)}")
        for one in method.modules():
            if isinstance(one, GuidedDenoiser):
                one.restart_guide()
    codec = getattr(method, "codec", None)
    if place is not None and sources.codec and isinstance(codec, KLCodec):
        lines.append(f"autoencoder: {place.load_codec(codec)}")
    names = denoiser.config.categories
    text = f"prompt {denoiser.config.prompt!r}" + (f" with {len(names)} categories" if names else "")
    lines.append(f"{text}: {_set_prompts(denoiser, place, sources.prompt)}")
    return lines


def load_features(method: Method, given: tuple[Mapping[str, Tensor], str] | None = None) -> list[str]:
    """Load the weights of the method's feature extractors, if it has any; returns a line per part.

    Args:
        method: changed in place.
        given: (state dict with timm's names, source) for `features`; None for timm's weights from the hub.
            Other extractors, such as that of GLAD's stop rule, always use timm's weights.
    """
    if given is not None and not isinstance(getattr(method, "features", None), FeatureExtractor):
        raise InputError(f"{given[1]}: expected a config with features.name, the backbone of these weights.")
    lines = []
    for name, extractor in method.parts.items():
        if not isinstance(extractor, FeatureExtractor):
            continue
        if given is not None and name == "features":
            weights, where = given
        else:
            file = timm_file(extractor.config.name)
            weights, where = read_weights(file), str(file)
        extractor.load_backbone(weights, where)
        lines.append(f"{name.replace('_', ' ')}, {extractor.config.name}: {where}")
    return lines


def timm_file(name: str) -> Path:
    """Timm's weights of a backbone, from the hub's cache or the hub."""
    repository = hub_id(name)
    if not repository:
        raise InputError(f"features: timm has no weights for {name}; give --features-weights.")
    try:
        return hub_file(repository, "model.safetensors")
    except InputError as error:
        raise InputError(
            f"{error}, or give --features-weights, a safetensors file of timm's {name}."
        ) from error


def _set_prompts(denoiser: Denoiser, place: Diffusion | None, file: Path | None) -> str:
    if file is not None:
        names = (*denoiser.config.categories, PROMPTS[1]) if denoiser.config.categories else PROMPTS
        source, embeddings = str(file), read_prompts(file, names)
    elif place is not None:
        weights, words, source = place.text([*denoiser.config.prompts, ""])
        embeddings = list(embed(weights, words, source).split(1))
    else:
        raise InputError("--prompt: expected a file of prompt embeddings, as no text encoder is given.")
    expected = denoiser.prompt.shape
    for one in embeddings:
        if one.shape != expected:
            raise InputError(
                f"{source}: expected prompt embeddings of shape {tuple(expected)}, got {tuple(one.shape)}; "
                "see --set denoiser.prompt_length."
            )
    denoiser.set_prompts(torch.cat(embeddings[:-1]), embeddings[-1])
    return source
