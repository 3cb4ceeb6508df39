"""A fitted model under other settings: the same networks, calibrated anew on the good images of its fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.methods.base import find_method
from mendiff.methods.config import override
from mendiff.model import Model
from mendiff.nets.student import BUNDLED

NETWORKS = (
    "codec.",
    "denoiser.",
    "guide.",
    "guided.",
    "features.",
    "target_whitening.",
    "contrast.",
    "schedule.",
)
"""Parts of a method that training makes, or that come with it; all else is learned anew."""


def variant(
    model: Model, changes: Mapping[str, Any], images: Sequence[Path], features_weights: Path | None = None
) -> Model:
    """The model with other settings, calibrated with the good images of its fit; see variant_of.

    Args:
        model: fitted.
        changes: dotted config fields to their values.
        images: all of the fit; those that it held back are found again by their content.
        features_weights: of the backbone, where the changes take other layers of it.
    """
    if not changes:
        return model
    held_back, seen = held_back_and_seen([model.prepare(path) for path in images])
    return variant_of(model, changes, held_back, seen, features_weights)


def variant_of(
    model: Model,
    changes: Mapping[str, Any],
    held_back: Sequence[Tensor],
    seen: Sequence[Tensor],
    features_weights: Path | None = None,
) -> Model:
    """The model with other settings, calibrated with given images.

    Args:
        model: fitted.
        changes: dotted config fields to their values; of what is done with the networks, not of their shapes.
        held_back: good images (3,S,S) that the networks were not trained on.
        seen: some that they were trained on.
        features_weights: of the backbone, where the changes take other layers of it.

    Raises InputError for changes that need other networks.
    """
    config: Any = override(model.method.config, changes)
    method = find_method(model.name)(config)
    fitted, own = model.method.state_dict(), method.state_dict()
    backbone = ("features.",) if any(name.startswith("features.") for name in changes) else ()
    if backbone and config.features.name == BUNDLED:
        backbone = ()  # the bundled network always has all its layers
    for name in own:
        if name.startswith(NETWORKS) and not name.startswith(backbone):
            if name not in fitted or fitted[name].shape != own[name].shape:
                raise InputError(f"changes: {', '.join(changes)} need a fit of their own ({name} differs).")
            own[name] = fitted[name]
    method.load_state_dict(own)
    if backbone:
        if features_weights is None:
            raise InputError("changes of the feature layers: expected --features-weights, got none.")
        features: Any = method.features
        features.load_backbone(read_weights(features_weights), str(features_weights))
    device = next(model.method.parameters()).device
    return replace(model, method=method.to(device).eval()).calibrated(list(held_back), list(seen))


def held_back_and_seen(images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Good images (3,H,W) as a fit splits them: those it held back, and some of those it trained on."""
    from mendiff.anomalib_models import MOST_SEEN, choose
    from mendiff.diffusion.random import content_seeds

    by_seed = dict(zip(content_seeds(torch.stack(list(images))).tolist(), images, strict=True))
    held_back = choose(list(by_seed))
    seen = sorted(set(by_seed) - set(held_back))[:MOST_SEEN]
    return [by_seed[seed] for seed in held_back], [by_seed[seed] for seed in seen]


def split_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """Good images (N,3,H,W) as those that a fit holds back, chosen by content, and all others."""
    from mendiff.anomalib_models import choose
    from mendiff.diffusion.random import content_seeds

    seeds = content_seeds(images)
    apart = torch.isin(seeds, torch.tensor(choose(seeds.tolist())))
    return images[apart], images[~apart]
