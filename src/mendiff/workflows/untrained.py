"""The control "untrained": a fitted model's pipeline with networks that were trained for a single step.

What it finds is found by the read-out, the codec and the features, not by the diffusion model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mendiff.checkpoints.provenance import fitted_of
from mendiff.diffusion.random import PerImageRandom, content_seeds
from mendiff.methods.base import Method, find_method
from mendiff.model import Model
from mendiff.training.optimizers import make_optimizer
from mendiff.training.random import seed_of
from mendiff.training.split import held_back_and_seen


def untrained(model: Model, held_back: Sequence[Tensor], seen: Sequence[Tensor], seed: int = 0) -> Model:
    """The model with fresh weights in all networks that its training made, after one step, calibrated anew.

    What was frozen in training (features, codec) stays as it is, and so do the images that scales and
    thresholds come from.

    Args:
        model: fitted; it stays as it is.
        held_back: good images (3,S,S) of its fit that it was not trained on.
        seen: good ones that it was trained on.
        seed: of the fresh weights and of the step.
    """
    device = next(model.method.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = find_method(model.name)(model.method.config)
    _take_frozen(model.method, method)
    _take_a_step(method.to(device).train(), list(seen) or list(held_back), seed)
    fresh = Model(model.name, method.eval(), model.calibration, model.info)
    return fresh.calibrated(list(held_back), list(seen) or None, category=model.category)


def untrained_on(model: Model, images: Sequence[Tensor], seed: int = 0) -> Model:
    """The same, with good images (3,S,S), of which those are held back that the model's fit held back.

    Where it saw none of them, some are chosen as a fit chooses them.
    """
    fitted = fitted_of(model.info)
    seeds = set(content_seeds(torch.stack(list(images))).tolist())
    kept = sorted(seeds & set(fitted.held_back)) if fitted is not None else []
    return untrained(model, *held_back_and_seen(images, kept or None), seed)


def _take_frozen(fitted: Method, method: Method) -> None:
    """Give a fresh method what another was given, or learned before training, but no trained weights."""
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    theirs, own = fitted.state_dict(), method.state_dict()
    kept = {name for name in own if name not in trained and not method.is_learned(name)}
    method.load_state_dict({name: theirs[name] if name in kept else one for name, one in own.items()})


def _take_a_step(method: Method, images: Sequence[Tensor], seed: int) -> None:
    """One optimiser step on the first images, at the rate that training begins with."""
    plan = method.config.training
    batch = torch.stack(list(images[: plan.batch_size])).to(next(method.parameters()).device)
    batch = method.frame(batch).image
    rng = PerImageRandom(torch.tensor([seed_of(seed, place) for place in range(len(batch))]))
    optimizer = make_optimizer(plan, [one for one in method.parameters() if one.requires_grad])
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate / max(plan.warmup, 1)
    with torch.enable_grad():
        method.training_loss(batch, rng).backward()
    optimizer.step()
