"""`mendiff fit-features`: fine-tune a backbone on good images and their reconstructions."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from mendiff.checkpoints.files import sha256_of, write_json
from mendiff.checkpoints.model_folder import CONFIG as MODEL
from mendiff.checkpoints.names import check_finite
from mendiff.checkpoints.pretrained import timm_file
from mendiff.checkpoints.store import load
from mendiff.checkpoints.weights import read_weights, write_weights
from mendiff.data.cache import ImageCache
from mendiff.data.dataset import open_data
from mendiff.data.samples import Use
from mendiff.errors import InputError, check_choice, check_range
from mendiff.methods.base import TrainingConfig
from mendiff.methods.config import config_to_dict, override
from mendiff.methods.glad_config import PRESETS as GLAD_PRESETS
from mendiff.model import Model
from mendiff.nets import AUTO
from mendiff.nets.features import FeatureExtractor, FeaturesConfig
from mendiff.nets.features_loss import FeaturesTuning
from mendiff.runs.backbone import backbone_input
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.fit_config import check_side
from mendiff.runs.places import check_output, new_folder, resumable
from mendiff.runs.reporting import Reporter
from mendiff.runs.training_images import readable_paths
from mendiff.training.crops import random_crops
from mendiff.training.loop import CHECKPOINT, Loop, train_network
from mendiff.training.split import split_images
from mendiff.workflows.manifest import check_manifest, data_hashes
from mendiff.workflows.options import FitFeaturesOptions
from mendiff.workflows.training_run import workdir_of

FORMAT, CONFIG, WEIGHTS = "mendiff features", "config.json", "features.safetensors"


@dataclass(frozen=True)
class FeaturesPlan:
    """Settings of the fine-tuning of a backbone.

    Attributes:
        features: the backbone and its compared layers; the name comes from --features.
        keep_weight: weight of the distance to the original features; 0 to ignore it.
        crop: side of the random training crops; 0 for whole images.
        training: see TrainingConfig.
    """

    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    keep_weight: float = 0.1
    crop: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_range("keep_weight", self.keep_weight, 0)
        check_range("crop", self.crop, 0)


# The papers state no training length; these values are ours.
PRESETS = {
    "tiny": FeaturesPlan(
        training=TrainingConfig(steps=300, batch_size=4, learning_rate=1e-4, warmup=10, cosine=True)
    ),
    "paper": FeaturesPlan(
        features=GLAD_PRESETS["paper"].features,
        training=TrainingConfig(steps=1000, batch_size=8, learning_rate=1e-5, warmup=50, cosine=True),
    ),
}


def run(options: FitFeaturesOptions, reporter: Reporter) -> dict[str, Any]:
    """Fine-tune a backbone on the good images of `data` and write its weights into the folder `out`."""
    place = check_output(options.out, options.overwrite, "tuned features")
    if options.model is None:
        raise InputError("--model: expected a fitted model that computes the reconstructions, got none.")
    checkpoint = workdir_of(options.out, options.resume) / CHECKPOINT
    plan, weights, source = _plan(options)
    tuning = FeaturesTuning(plan.features, plan.keep_weight)
    for extractor in (tuning.tuned, tuning.original):
        extractor.load_backbone(weights, source)
    model = load(options.model, choose_device(options.device))
    if model.geometry.tile:
        raise InputError(
            f"{options.model}: expected a model of whole images, got tile={model.geometry.tile}; fit a model "
            "without --tile to tune features."
        )
    use = Use(reading=model.reading)
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    cache = ImageCache(model.geometry, use.reading)
    paths = readable_paths(chosen, reporter, use, cache.take)
    if plan.crop < model.image_size:  # otherwise images stay whole
        check_side("--set crop", plan.crop, max(tuning.tuned.strides))
    reporter.say(
        f"features ({plan.features.name}, {', '.join(plan.features.layers)}): {len(paths)} good images, "
        f"{model.image_size} pixels, reconstructions by {options.model}, {plan.training.steps} steps"
    )
    started = {
        "data": data_hashes(chosen, paths),
        "seed": options.seed,
        "files": {"model": sha256_of(options.model / MODEL), "features": sha256_of(source)},
        "config": config_to_dict(plan),
    }
    with resumable(checkpoint, options.out, options.resume):
        check_manifest(checkpoint.parent, checkpoint, started, resume=options.resume)
        images = torch.stack([cache.image(path, path) for path in paths])
        loop = Loop(plan.training, options.seed, checkpoint, options.resume)
        info = {"images": len(paths), **_tune(tuning, plan, loop, model, images, reporter)}
        info |= {"seed": options.seed, "model": str(options.model), "started": started}
        with new_folder(place) as draft:
            # Including weights that these layers do not use, so that other layers can be chosen later.
            tuned = weights | tuning.tuned.backbone.state_dict()
            check_finite(tuned, "the tuned features")
            write_weights(tuned, draft / WEIGHTS)
            content = {"format": FORMAT, "version": 1, "config": config_to_dict(plan), "info": info}
            write_json(draft / CONFIG, content)
    reporter.say(
        f"features: {options.out / WEIGHTS} (fitted in {info['seconds']:.0f} s); on {info['held_back']} "
        f"held-back good images: distance of image and reconstruction {info['before']['distance']:.4f} "
        f"before, {info['after']['distance']:.4f} after; drift of the features {info['after']['drift']:.4f}"
    )
    return {"features": str(options.out / WEIGHTS), **info, "config": config_to_dict(plan)}


def _tune(
    tuning: FeaturesTuning,
    plan: FeaturesPlan,
    loop: Loop,
    model: Model,
    images: Tensor,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train on the model's device; returns both loss terms on held-back images before and after."""
    began = time.monotonic()
    kept, seen = (with_reconstructions(model, some, reporter) for some in split_images(images))
    tuning.to(next(model.method.parameters()).device)
    before = terms_of(tuning, kept)
    with reporter.bar("fitting: steps") as update:
        train_network(tuning.tuned.backbone, partial(_loss, tuning, plan, seen), loop, update)
    after = terms_of(tuning, kept)
    tuning.to("cpu")
    seconds = round(time.monotonic() - began, 1)
    return {"held_back": len(kept), "before": before, "after": after, "seconds": seconds}


def _plan(options: FitFeaturesOptions) -> tuple[FeaturesPlan, dict[str, Tensor], str]:
    """(preset with all changes, weights of the backbone, their source)."""
    check_choice("--preset", options.preset, PRESETS)
    named = {} if options.features is None else {"features.name": options.features}
    plan = override(PRESETS[options.preset], named | options.settings)
    name = plan.features.name
    if name in ("", AUTO):
        raise InputError(f"--features: expected timm's name of a backbone to tune, got {name or 'none'!r}.")
    FeatureExtractor(plan.features)
    place = timm_file(name) if options.features_weights is None else options.features_weights
    weights = read_weights(place)
    stated = backbone_input(place, options.features_input, options.settings)
    return override(plan, stated | options.settings), weights, str(place)


def with_reconstructions(model: Model, images: Tensor, reporter: Reporter) -> Tensor:
    """Images with their reconstructions: (N,3,S,S) in [0,1] to (N,6,S,S) uint8.

    Reconstructions are computed once and cached: they are deterministic, and computing one costs many times
    a training step. Both take six bytes per pixel.
    """
    pairs = [
        torch.cat([batch, model.predict_batch(batch).reconstruction], dim=1)
        for batch in reporter.track(images.split(4), "reconstructing: batches")
    ]
    return torch.cat([(255 * one).round().to(torch.uint8) for one in pairs])


def _loss(tuning: FeaturesTuning, plan: FeaturesPlan, pairs: Tensor, rng: Generator) -> Tensor:
    """Loss of a batch of random crops, equal for an image and its reconstruction."""
    chosen = torch.randint(len(pairs), (plan.training.batch_size,), generator=rng)
    batch = random_crops(pairs[chosen], plan.crop, max(tuning.tuned.strides), rng)
    loss: Tensor = tuning(*_split(batch, tuning))
    return loss


def _split(pairs: Tensor, tuning: FeaturesTuning) -> tuple[Tensor, ...]:
    """Images and reconstructions as float tensors in [0,1]."""
    return (pairs.to(tuning.tuned.mean.device).float() / 255).chunk(2, dim=1)


@torch.no_grad()
def terms_of(tuning: FeaturesTuning, pairs: Tensor) -> dict[str, float]:
    """Both loss terms, averaged over images with reconstructions, (N,6,S,S) uint8."""
    found = [tuning.terms(*_split(one, tuning)) for one in pairs.split(1)]
    distance, drift = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return {"distance": distance, "drift": drift}
