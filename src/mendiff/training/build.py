"""Creates methods with the initial weights of their training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.bundled import fill, resolved
from mendiff.checkpoints.files import sha256_of
from mendiff.checkpoints.pretrained import extractors_of, find_pretrained, load_pretrained
from mendiff.checkpoints.stable_diffusion import Sources
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.methods.base import Method, MethodConfig, find_method


def make_method(
    name: str, config: MethodConfig, seed: int, features_weights: str | None = None
) -> tuple[Method, dict[str, str]]:
    """Create a method for training; also returns SHA-256 of the weight files by part.

    Args:
        name: name of the method.
        config: config with image size.
        seed: seed of the initial weights; the global random state is not changed.
        features_weights: safetensors file of the backbone in config.features.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = find_method(name)(resolved(config))
    fill(method, config)
    files = {}
    if features_weights is not None:
        features: Any = getattr(method, "features", None)
        if not hasattr(features, "load_backbone"):
            raise InputError(
                "features_weights: expected a config with features.name, the backbone of these weights."
            )
        features.load_backbone(read_weights(features_weights), str(features_weights))
        files["features"] = sha256_of(features_weights)
    networks: Iterable[Any] = method.modules() if config.training.checkpointing else ()
    for network in networks:
        if getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()
    return method, files


def fill_pretrained(
    method: Method, source: str, features_weights: str | None = None, prompt: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Load pretrained weights of a paper's preset; returns lines about their sources, and SHA-256 by part.

    Args:
        method: method with random weights.
        source: Stable Diffusion v1 as a diffusers folder, a single file, or a hub id.
        features_weights: safetensors file of the backbone; None for timm's weights from the hub.
        prompt: safetensors file of prompt embeddings; None to use Stable Diffusion's text encoder.
    """
    embeddings, features = (None if name is None else Path(name) for name in (prompt, features_weights))
    sources = Sources(source, embeddings, features)
    lines = load_pretrained(method, sources)
    found = find_pretrained(sources, extractors_of(method))
    return lines, {part: sha256_of(file) for part, file in found.items()}
