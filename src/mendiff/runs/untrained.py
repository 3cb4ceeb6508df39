"""The baseline "untrained": a fitted model's pipeline with networks trained for a single step.

Its metrics show the contribution of read-out, codec and features without the diffusion model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.provenance import fitted_of
from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, find_method
from mendiff.model import Model
from mendiff.runs.variants import seeds_of, split_by_seed
from mendiff.training.random import seed_of
from mendiff.training.step import Learner


def untrained(model: Model, held_back: Sequence[Any], seen: Sequence[Any], seed: int = 0) -> Model:
    """A copy of the model with its trained networks reset and trained for a single step, recalibrated.

    Frozen networks (features, codec) and the images for scales and thresholds stay the same.

    Args:
        model: fitted; not changed.
        held_back: held-back good images of its fit, of any type (see Pictures).
        seen: its training images.
        seed: of the new weights and of the step.
    """
    device = next(model.method.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = find_method(model.name)(model.method.config)
    _take_frozen(model.method, method)
    first = (list(seen) or list(held_back))[: method.config.training.batch_size]
    _take_a_step(method.to(device).train(), model.geometry.sample(map(model.prepare, first), 1), seed)
    fresh = Model(model.name, method.eval(), model.calibration, model.info, area=model.area)
    return fresh.calibrated(list(held_back), list(seen) or None, category=model.category)


def untrained_on(model: Model, images: Sequence[Any], seed: int = 0) -> Model:
    """`untrained` with good images of any type, split into held-back and training images as in the fit.

    If none of them was held back, they are split as in a new fit.
    """
    fitted = fitted_of(model.info)
    seeds = seeds_of(model, images)
    kept = sorted(set(seeds) & set(fitted.held_back)) if fitted is not None else []
    return untrained(model, *split_by_seed(images, seeds, kept or None), seed)


def _take_frozen(fitted: Method, method: Method) -> None:
    """Copy the frozen weights of a fitted method into a new method, without trained weights."""
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    theirs, own = fitted.state_dict(), method.state_dict()
    kept = {name for name in own if name not in trained and not method.is_statistic(name)}
    method.load_state_dict({name: theirs[name] if name in kept else one for name, one in own.items()})


def _take_a_step(method: Method, inputs: Tensor, seed: int) -> None:
    """A single training step on network inputs (B,3,S,S), at the initial learning rate."""
    plan = replace(method.config.training, ema=0.0)
    batch = inputs.to(next(method.parameters()).device)
    rng = PerImageRandom(torch.tensor([seed_of(seed, place) for place in range(len(batch))]))
    with torch.enable_grad():
        Learner(method, plan).descend(method.training_loss(method.frame(batch).image, rng), step=0)
