"""Stage of `mendiff fit` that fits a codec to the good images, before a method is trained on its latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import fill, resolved
from mendiff.methods.base import Batches, Method, TrainingConfig
from mendiff.nets import AUTO
from mendiff.nets.codec import Codec, TinyCodec, make_codec
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_loss import CodecParts, CodecTraining
from mendiff.nets.features import FeaturesConfig
from mendiff.synthesis.blend import SynthesisConfig, synthesize
from mendiff.training.codec_loss import crops_loss
from mendiff.training.loop import Loop, train_network
from mendiff.training.random import generator
from mendiff.training.step import Learner

CODEC_CHECKPOINT = "codec.safetensors"
"""File name of the checkpoint of this stage."""
CHECKPOINT = "last.ckpt"
"""File name of the checkpoint of the training after this stage."""
WARMUP = 50
"""Steps of linear warm-up."""


def _no_progress(step: int, steps: int, note: str) -> None:
    """Ignore progress; a named function, so that it can be pickled."""


@dataclass(frozen=True)
class CodecStage:
    """Checkpoint and progress of the stage.

    Attributes:
        checkpoint: checkpoint file; None for no checkpoints.
        resume: whether to resume from an existing checkpoint.
        progress: called with (step, steps, note).
    """

    checkpoint: Path | None = None
    resume: bool = False
    progress: Callable[[int, int, str], None] = _no_progress


def fit_own_codec(method: Method, batches: Batches, seed: int, stage: CodecStage) -> bool:
    """Fit a method's codec to the good images if its config says so; returns whether it did.

    Args:
        method: method on its device.
        batches: framed good training images.
        seed: see fit_codec.
        stage: see CodecStage.
    """
    config: Any = getattr(method.config, "codec", None)
    if config is None or not config.fit.images:
        return False
    seen = torch.cat([(image * 255).round().to(torch.uint8).cpu() for image, _ in batches()])
    codec: Any = method.codec
    fit_codec(codec, config, seen, seed, stage, getattr(method.config, "synthesis", None))
    return True


def fit_codec(
    codec: Codec,
    config: CodecConfig,
    images: Tensor,
    seed: int,
    stage: CodecStage,
    synthesis: SynthesisConfig | None = None,
) -> None:
    """Fit a codec to good images in place; it is frozen afterwards.

    Args:
        codec: codec on its device.
        config: config of the codec; `config.fit` has steps and data.
        images: good training images, (N,3,H,W) uint8.
        seed: seed of crops, noise and synthetic anomalies.
        stage: see CodecStage.
        synthesis: config of synthetic anomalies.
    """
    plan = config.fit
    device = next(codec.parameters()).device
    model = _with_loss(codec, config).to(device)
    shown = torch.cat([images, _anomalies(images, plan.anomalies, seed, synthesis)])
    loop = Loop(_training(config), seed, stage.checkpoint, stage.resume)
    codec.requires_grad_(True)
    with torch.enable_grad():
        loss = partial(crops_loss, model, shown, plan.batch_size, plan.crop)
        train_network(codec, loss, loop, stage.progress)
    codec.requires_grad_(False)
    if isinstance(codec, TinyCodec) and config.normalise:
        codec.normalise_by(images.to(device).float() / 255)


def codec_step(config: CodecConfig, device: str) -> Callable[[], None]:
    """A training step of a new codec on black images, to measure its time."""
    with torch.random.fork_rng(devices=[]):
        codec = make_codec(config).to(device)
    model = _with_loss(codec, config).to(device)
    codec.requires_grad_(True)
    learner, side = Learner(codec, _training(config)), config.fit.crop
    images = torch.zeros(config.fit.batch_size, 3, side, side, dtype=torch.uint8)

    def step() -> None:
        loss = crops_loss(model, images, len(images), side, generator(0))
        learner.descend(loss, 0)
        loss.item()  # waits for an asynchronous device

    return step


def _training(config: CodecConfig) -> TrainingConfig:
    """Training config of the stage."""
    return TrainingConfig(
        steps=config.fit.steps,
        batch_size=config.fit.batch_size,
        learning_rate=config.fit.learning_rate,
        weight_decay=0.0,
        warmup=WARMUP,
        cosine=True,
    )


def _with_loss(codec: Codec, config: CodecConfig) -> CodecTraining:
    """The codec with its loss, with the perceptual term of the bundled features."""
    parts = CodecParts(codec=config, features=FeaturesConfig(AUTO), loss=config.fit.loss)
    with torch.random.fork_rng(devices=[]):
        model = CodecTraining(resolved(parts))
    fill(model, parts)
    model.codec = codec
    return model.train()


def _anomalies(images: Tensor, count: int, seed: int, synthesis: SynthesisConfig | None) -> Tensor:
    """Good images with a synthetic anomaly each, in turn, (count,3,H,W) uint8."""
    config = replace(synthesis or SynthesisConfig(), share=1.0)
    made = [images[:0]]
    for number in range(count):
        image = images[number % len(images)][None].float() / 255
        anomalous, _ = synthesize(image, generator(seed, number, 0), config)
        made.append((anomalous * 255).round().to(torch.uint8))
    return torch.cat(made)
