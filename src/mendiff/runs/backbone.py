"""Config changes for a backbone: its name, its file and its input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError, check_choice
from mendiff.nets import AUTO

INPUTS: dict[str, dict[str, Any]] = {
    "timm": {},
    "tflite": {
        "features.mean": [0.5, 0.5, 0.5],
        "features.std": [0.5, 0.5, 0.5],
        "features.network": {"pad_type": "same"},
    },
}
"""Values of --features-input with their config changes: as timm states, or as in TensorFlow Lite."""


def backbone_changes(
    features: str | None,
    weights: Path | None,
    features_input: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Config changes for a backbone's name with its file, or for the name "auto"; {} for None.

    Args:
        features: timm's name.
        weights: its file.
        features_input: see backbone_input.
        settings: see backbone_input.
    """
    if features == AUTO and weights is None:
        return {"features.name": AUTO}
    if features == AUTO or (features is None) != (weights is None):
        raise InputError(
            "--features and --features-weights: expected both, got one; or --features auto without a file."
        )
    if features is None or weights is None:
        return {}
    return {"features.name": features, **backbone_input(weights, features_input, settings)}


def backbone_input(
    weights: Path | None, features_input: str | None, settings: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Config changes for the input of a backbone: as requested, otherwise as timm states.

    Args:
        weights: file of the backbone.
        features_input: one of INPUTS, or None.
        settings: dotted config fields to values, which may set the input, too.

    Raises InputError for a file that seems to come from TensorFlow Lite, if nothing was requested.
    """
    if features_input is not None:
        check_choice("--features-input", features_input, INPUTS)
    if features_input is not None or weights is None or any(name in settings for name in INPUTS["tflite"]):
        return dict(INPUTS[features_input or "timm"])
    means = [tensor for key, tensor in read_weights(weights).items() if key.endswith("running_mean")]
    if means and not any(bool(mean.any()) for mean in means):
        raise InputError(
            f"{weights}: expected --features-input, since all running means are zero, as in files from "
            "TensorFlow Lite; add --features-input tflite for [-1,1] and 'same' padding, or "
            "--features-input timm for timm's normalisation."
        )
    return {}
