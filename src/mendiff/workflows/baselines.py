"""Baselines of a benchmark: simple ones and models of anomalib."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.checkpoints.weights import read_weights
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.errors import InputError
from mendiff.evaluation.baselines import fit_median_colour, fit_memory_bank
from mendiff.methods.config import config_from_dict
from mendiff.nets import AUTO
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, make_features
from mendiff.runs.backbone import backbone_input
from mendiff.workflows.spec import Job

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B,3,S,S) in [0,1] to scores (B,) and maps (B,1,S,S)."""


def simple_baseline(job: Job, paths: Sequence[Path], size: int) -> tuple[Predict, dict[str, Any]]:
    """Median colour, or a memory bank of the same features."""
    images = torch.stack([resize(read_image(path), size) for path in paths])
    if job.method == "median-colour":
        return fit_median_colour(images).predict, {}
    named = features_config(job)
    features = open_features(named.layers) if named.name == AUTO else make_features(named)
    if isinstance(features, FeatureExtractor):
        features.load_backbone(backbone_weights(job), str(job.weights))
    return fit_memory_bank(features, images, seed=job.seed).predict, {}


def anomalib_baseline(job: Job, paths: list[Path], size: int, folder: Path) -> tuple[Predict, dict[str, Any]]:
    """An anomalib model."""
    from mendiff.anomalib_models.baselines import Baseline, fit_baseline

    named = features_config(job)
    bundled = named.name == AUTO  # anomalib does not have this network
    weights = None if bundled else backbone_weights(job)
    baseline = Baseline(job.method, job.settings, None if bundled else named, weights, job.seed)
    workdir = folder / "trainer"
    try:
        fitted = fit_baseline(baseline, paths, size, workdir, job.device)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return fitted.predict, {"steps": fitted.steps}


def backbone_weights(job: Job) -> dict[str, Tensor]:
    """Weights of the backbone under timm's names."""
    if job.weights is None:
        raise InputError("--features: expected --features-weights, too, with its safetensors file, got none.")
    return read_weights(job.weights)


def features_config(job: Job) -> FeaturesConfig:
    """The backbone with its input normalisation; the bundled network if none was named."""
    if job.features is None or job.features == AUTO:
        return FeaturesConfig(AUTO)
    stated = backbone_input(job.weights, job.features_input)
    given = {name.removeprefix("features."): value for name, value in stated.items()}
    return config_from_dict(FeaturesConfig, {"name": job.features, **given}, "features")
