"""Optimisers, precisions and learning rates of a training config."""

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
"""Lightning's names of our precisions."""
COMPUTED_IN = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Autocast's type by Lightning's name; missing for full precision."""


def check_savings(plan: TrainingConfig, device: str) -> None:
    """InputError for options that the device or the installed packages do not support.

    Args:
        plan: training config.
        device: torch's name of the device.
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
        reason = f"the device is {kind}" if kind != "cuda" else "bitsandbytes is not installed"
        raise InputError(
            f"training.optimizer: expected CUDA and the package bitsandbytes for 'adamw8bit', but {reason}; "
            "choose adamw or adafactor."
        )


def make_optimizer(plan: TrainingConfig, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Create the optimiser of a config, for parameters on their device."""
    listed = list(trained)
    check_savings(plan, str(listed[0].device.type) if listed else "cpu")
    settings: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.optimizer == "adafactor":
        # foreach would need memory for the updates of all weights.
        return torch.optim.Adafactor(listed, foreach=False, **settings)
    if plan.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        eight_bit: torch.optim.Optimizer = AdamW8bit(listed, **settings)
        return eight_bit
    optimizer = torch.optim.AdamW(listed, fused=True, **settings)
    # Lightning refuses to clip gradients of optimisers that unscale them. Without this flag, Lightning
    # unscales gradients before clipping.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def state_bytes(plan: TrainingConfig, trained: Iterable[nn.Parameter]) -> int:
    """Bytes of the state of the optimiser: float32, or 8 bits for adamw8bit."""
    return sum(_state_bytes(plan.optimizer, weight.shape) for weight in trained)


def _state_bytes(optimizer: str, shape: torch.Size) -> int:
    size = shape.numel()
    if optimizer == "adamw":
        return 2 * 4 * size
    if optimizer == "adamw8bit":  # with a float32 scale per 256 values; small tensors have 32 bits
        return 2 * 4 * size if size < 4096 else 2 * size + 2 * 4 * -(-size // 256)
    if len(shape) < 2:
        return 4 * size
    return 4 * (size // shape[-1] + size // shape[-2])  # means over rows and columns


def trainer_precision(plan: TrainingConfig, device: str) -> str:
    """Lightning's name of the training precision on a device: "bf16-mixed", "16-mixed" or "32-true"."""
    return fast_precision(device) if plan.precision == "auto" else LIGHTNING[plan.precision]


def fast_precision(device: str) -> str:
    """Lightning's name of the fastest stable precision on a device: "bf16-mixed" or "32-true"."""
    return "bf16-mixed" if multiplies_bf16(torch.device(device)) else "32-true"


def learning_rate(plan: TrainingConfig, step: int) -> float:
    """Factor of the configured learning rate at a step."""
    warmup = min(1.0, (step + 1) / plan.warmup) if plan.warmup else 1.0
    return warmup * (0.5 + 0.5 * math.cos(math.pi * min(step / plan.steps, 1.0)) if plan.cosine else 1.0)
