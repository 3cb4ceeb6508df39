"""Gradient denoising: move an image towards normal features, and remove noise with the diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mendiff.errors import check_choices, check_count, check_range

GRID = 2.0**-16
"""Pixels in [-1,1] are rounded to multiples of this before every step: 0.002 grey levels."""


@dataclass(frozen=True)
class GradientConfig:
    """Settings of gradient denoising (RAN, Alg. 1 and eq. 13).

    Attributes:
        steps: N, gradient steps.
        every: N_d, gradient steps between two reverse-diffusion steps.
        schedule: "constant", x <- omega x - s g (eq. 13), or "linear", x <- sqrt(1 - b_t) x - sqrt(b_t) g
            (Alg. 1) with b_t from `first_beta` at t = 1 to `last_beta` at t = N.
        step_size: s of eq. 13; changes are clipped to `largest_move` with both schedules.
        largest_move: largest change of a pixel in [-1,1] in one step.
        weight_decay: omega of eq. 13.
        first_beta, last_beta: range of b_t in Alg. 1, which the paper does not give. Ours decrease: large
            steps first remove the anomaly, small steps then refine the image.
        reverse_t: timestep of the reverse-diffusion step, which treats the image as x_t.
        dims: number of feature channels of the Gaussians, a random subset as in PaDiM.
        stride: pixels per position of the Gaussians.
    """

    steps: int = 40
    every: int = 8
    schedule: Literal["constant", "linear"] = "constant"
    step_size: float = 0.05
    largest_move: float = 0.02
    weight_decay: float = 0.9999
    first_beta: float = 0.005
    last_beta: float = 0.0001
    reverse_t: int = 10
    dims: int = 48
    stride: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "every", "reverse_t", "dims", "stride"):
            check_count(f"gradient.{name}", getattr(self, name), 1, 10_000)
        for name in ("step_size", "largest_move", "weight_decay"):
            check_range(f"gradient.{name}", getattr(self, name), 0)
        for name in ("first_beta", "last_beta"):
            check_range(f"gradient.{name}", getattr(self, name), 0, 1)
        check_choices(self, "gradient.")

    def factors(self, step: int) -> tuple[float, float]:
        """Factors of the image and of the gradient in step 1 to N: (omega, s)."""
        if self.schedule == "constant":
            return self.weight_decay, self.step_size
        share = (step - 1) / max(self.steps - 1, 1)
        beta = (1 - share) * self.first_beta + share * self.last_beta
        return math.sqrt(1 - beta), math.sqrt(beta)


def gradient_denoise(
    x: Tensor,
    energy: Callable[[Tensor], Tensor],
    reverse: Callable[[Tensor], Tensor],
    config: GradientConfig,
) -> list[Tensor]:
    """Gradient descent on an energy with weight decay, and a reverse-diffusion step after every N_d steps.

    Args:
        x: initial images, (B,c,h,w).
        energy: maps (B,c,h,w) to (B,), such as the Mahalanobis distance of deep features (eq. 12).
        reverse: one reverse-diffusion step, (B,c,h,w) to the same shape.
        config: see GradientConfig.

    The iteration amplifies differences, because most changes are clipped to the largest allowed value.
    Rounding errors depend on the number of threads. To keep them from growing, pixels are rounded to GRID
    before every step. In float64 this removes an error of 1e-15, except for the rare pixels that are that
    close to the midpoint of two grid values.

    Returns:
        the initial images and the images after every reverse step. Eq. 13 descends; the listing of Alg. 1
        omits the sign.
    """
    walked = [x]
    for step in range(1, config.steps + 1):
        x = (x / GRID).round() * GRID
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(energy(leaf).sum(), leaf)
        decay, size = config.factors(step)
        x = decay * x - (size * gradient).clamp(-config.largest_move, config.largest_move)
        if step % config.every == 0:
            x = reverse(x)
            walked.append(x)
    return walked
