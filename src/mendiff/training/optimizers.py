"""Optimisers and precisions of training, as a config wants them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mendiff.errors import InputError
from mendiff.methods.base import TrainingConfig
from mendiff.nets.placement import multiplies_bf16
from mendiff.training.lora import check_peft

LIGHTNING = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""What Lightning calls our precisions."""
COMPUTED_IN = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What autocast computes in, by Lightning's names; nothing for full precision."""


def check_savings(plan: TrainingConfig, device: str) -> None:
    """Refuse options that this machine can't follow, before anything is built.

    Args:
        plan: of the training.
        device: torch's name of where it will run.
    """
    kind = torch.device(device).type
    if plan.precision == "fp16" and kind != "cuda":
        raise InputError(f"training.precision: expected auto, float32 or bf16 on {kind}, got 'fp16'.")
    if plan.lora_rank:
        check_peft()
    if plan.optimizer == "adafactor" and not hasattr(torch.optim, "Adafactor"):
        raise InputError(
            f"training.optimizer: expected torch 2.5 or newer for 'adafactor', got {torch.__version__}."
        )
    if plan.optimizer == "adamw8bit" and (kind != "cuda" or find_spec("bitsandbytes") is None):
        lacking = f"the device is {kind}" if kind != "cuda" else "bitsandbytes is not installed"
        raise InputError(
            f"training.optimizer: expected CUDA and the package bitsandbytes for 'adamw8bit', but {lacking}; "
            "choose adamw or adafactor."
        )


def make_optimizer(plan: TrainingConfig, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a config names, for parameters that are on their device."""
    listed = list(trained)
    check_savings(plan, str(listed[0].device.type) if listed else "cpu")
    settings: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.optimizer == "adafactor":
        # One tensor after another: all at once would hold updates as large as the weights.
        return torch.optim.Adafactor(listed, foreach=False, **settings)
    if plan.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        eight_bit: torch.optim.Optimizer = AdamW8bit(listed, **settings)
        return eight_bit
    optimizer = torch.optim.AdamW(listed, fused=True, **settings)
    # Lightning refuses to clip gradients of an optimiser that could unscale them itself. This one then
    # leaves unscaling to Lightning, which does it before clipping.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def state_bytes(plan: TrainingConfig, trained: Iterable[nn.Parameter]) -> int:
    """Bytes of what the optimiser keeps from step to step, in float32 but for the 8 bits of adamw8bit."""
    return sum(_state_bytes(plan.optimizer, one.shape) for one in trained)


def _state_bytes(optimizer: str, shape: torch.Size) -> int:
    size = shape.numel()
    if optimizer == "adamw":
        return 2 * 4 * size
    if optimizer == "adamw8bit":  # with a float32 scale for each 256 values; small tensors keep 32 bits
        return 2 * 4 * size if size < 4096 else 2 * size + 2 * 4 * -(-size // 256)
    if len(shape) < 2:
        return 4 * size
    return 4 * (size // shape[-1] + size // shape[-2])  # means over rows and columns


def trainer_precision(plan: TrainingConfig, device: str) -> str:
    """Lightning's name of the precision of training on a device: "bf16-mixed", "16-mixed" or "32-true"."""
    return fast_precision(device) if plan.precision == "auto" else LIGHTNING[plan.precision]


def fast_precision(device: str) -> str:
    """Lightning's name of the fastest precision that trains well on a device: "bf16-mixed" or "32-true"."""
    return "bf16-mixed" if multiplies_bf16(torch.device(device)) else "32-true"


def learning_rate(plan: TrainingConfig, step: int) -> float:
    """Learning rate at a step, as a share of the configured one."""
    rise = min(1.0, (step + 1) / plan.warmup) if plan.warmup else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * min(step / plan.steps, 1.0)) if plan.cosine else 1.0)
