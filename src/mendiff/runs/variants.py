"""A fitted model with other settings: the same networks, recalibrated on the good images of its fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mendiff.checkpoints.files import fingerprint, sha256_of
from mendiff.checkpoints.provenance import Fitted, fitted_of
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.methods.base import Method, find_method
from mendiff.methods.config import override
from mendiff.model import Model
from mendiff.nets.student import BUNDLED
from mendiff.training.split import split_seeds

Image = TypeVar("Image")
FEATURES = "features"
"""The part whose layers may change; its weights are then read again."""


def variant(
    model: Model, changes: Mapping[str, Any], images: Sequence[Path], features_weights: Path | None = None
) -> Model:
    """The model with other settings, recalibrated on the good images of its fit; see variant_of.

    Args:
        model: fitted.
        changes: dotted config fields to values.
        images: see split_as_fitted.
        features_weights: file of the backbone, needed for changes of the layers.
    """
    if not changes:
        return model
    return variant_of(model, changes, *split_as_fitted(model, images), features_weights)


def variant_of(
    model: Model,
    changes: Mapping[str, Any],
    held_back: Sequence[Any],
    seen: Sequence[Any],
    features_weights: Path | None = None,
) -> Model:
    """The model with other settings, recalibrated on the given images.

    Args:
        model: fitted.
        changes: dotted config fields to values; only fields that do not change the shapes of networks.
        held_back: held-back good images of any type (see Pictures).
        seen: some training images; if empty, the held-back images are used for everything.
        features_weights: file of the backbone, as in the fit; needed for changes of the layers.

    Raises InputError for changes that need other networks, and for another backbone file than the fit's.
    """
    config: Any = override(model.method.config, changes)
    method = find_method(model.name)(config)
    other_layers = any(name.startswith(f"{FEATURES}.") for name in changes)
    # The bundled network always has all its layers.
    read_anew = other_layers and config.features.name != BUNDLED
    _take_over(model.method, method, changes, f"{FEATURES}." if read_anew else "")
    if read_anew:
        _read_features(method, features_weights, fitted_of(model.info))
    device = next(model.method.parameters()).device
    return replace(model, method=method.to(device).eval()).calibrated(
        list(held_back), list(seen) or None, category=model.category
    )


def _take_over(fitted: Method, method: Method, changes: Mapping[str, Any], but: str) -> None:
    """Copy all weights of a fitted method into a new method, except names with the prefix `but` (if any)."""
    theirs, own = fitted.state_dict(), method.state_dict()
    for name in own:
        if method.is_statistic(name) or (but and name.startswith(but)):
            continue
        if name not in theirs or theirs[name].shape != own[name].shape:
            raise InputError(f"changes: {', '.join(changes)} need a separate fit ({name} differs).")
        own[name] = theirs[name]
    method.load_state_dict(own)


def _read_features(method: Any, file: Path | None, fitted: Fitted | None) -> None:
    """Read the weights for other layers of the backbone, from the file of the fit."""
    if file is None:
        raise InputError("changes of the feature layers: expected --features-weights, got none.")
    stated = {} if fitted is None else fitted.files
    if FEATURES in stated and sha256_of(file) != stated[FEATURES]:
        raise InputError(
            f"{file}: expected the backbone file of the model's fit (SHA-256 {stated[FEATURES][:12]}...), "
            "got other content; give the file of the fit."
        )
    method.features.load_backbone(read_weights(file), str(file))


def split_as_fitted(model: Model, images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """(held-back images, some training images) of a fit's good images, as split by the fit.

    Args:
        model: fitted. If it does not list its held-back images, they are chosen as in `fit`.
        images: exactly the good images of the fit, of any type (see Pictures), or those of the category for
            which the model was loaded.
    """
    fitted = fitted_of(model.info)
    seeds = seeds_of(model, images)
    if fitted is None:
        return split_by_seed(images, seeds)
    found = fingerprint(seeds)
    if found != fitted.data and not model.category:
        known = len(set(seeds) & set(fitted.held_back))
        raise InputError(
            f"data: expected the {fitted.images} good images of the model's fit (fingerprint "
            f"{fitted.data[:12]}), got {len(seeds)} images with {known} of its {len(fitted.held_back)} "
            f"held-back images (fingerprint {found[:12]}); give the data and the --categories of its fit."
        )
    return split_by_seed(images, seeds, fitted.held_back)


def seeds_of(model: Model, images: Sequence[Any]) -> list[int]:
    """Content seeds of images of any type as the model sees them."""
    return [model.geometry.seed(model.prepare(one)) for one in images]


def split_by_seed(
    images: Sequence[Image], seeds: Sequence[int], chosen: Sequence[int] | None = None
) -> tuple[list[Image], list[Image]]:
    """(held-back images, some training images); see split_seeds."""
    by_seed = dict(zip(seeds, images, strict=True))
    held_back, seen = split_seeds(list(by_seed), chosen)
    return [by_seed[one] for one in held_back], [by_seed[one] for one in seen]
