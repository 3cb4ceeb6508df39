"""Loss of codec training on a batch of good images."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Generator, Tensor

from mendiff.nets.codec_loss import CodecTraining
from mendiff.nets.placement import bf16_autocast
from mendiff.training.crops import random_crops


def crops_loss(
    model: CodecTraining, images: Tensor, count: int, crop: int, rng: Generator, *, fast: bool = True
) -> Tensor:
    """Loss of random crops of random images.

    Args:
        model: codec with its loss.
        images: (N,3,H,W), uint8 or in [0,1].
        count: number of crops.
        crop: side of crops in pixels; 0 for whole images.
        rng: source of all randomness.
        fast: see codec_loss.
    """
    chosen = torch.randint(len(images), (count,), generator=rng)
    return codec_loss(model, random_crops(images[chosen], crop, model.codec.factor, rng), rng, fast=fast)


def codec_loss(model: CodecTraining, images: Tensor, rng: Generator, *, fast: bool = True) -> Tensor:
    """Loss of a batch, computed on the model's device.

    Args:
        model: codec with its loss.
        images: (B,3,H,W), uint8 or in [0,1].
        rng: source of all randomness.
        fast: channels-last and, on hardware with fast bfloat16, in bfloat16; otherwise in float32.
    """
    device = next(model.parameters()).device
    layout = torch.channels_last if fast else torch.preserve_format
    batch = images.to(device, torch.float32, memory_format=layout)
    if not images.is_floating_point():
        batch = batch / 255
    with bf16_autocast(device) if fast else nullcontext():
        loss: Tensor = model(batch, rng)
    return loss
