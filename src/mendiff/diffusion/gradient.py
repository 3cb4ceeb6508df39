"""Gradient denoising: move an image towards normal features, and remove noise with the diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mendiff.errors import check_count, check_range

GRID = 2.0**-16
"""Pixels in [-1,1] are rounded to multiples of this before every step: 0.002 grey levels."""


@dataclass(frozen=True)
class GradientConfig:
    """Settings of gradient denoising (RAN, Alg. 1 and eq. 13): x <- omega x - s g.

    Attributes:
        steps: N, gradient steps.
        every: N_d, gradient steps between two reverse-diffusion steps.
        step_size: s of eq. 13; changes are clipped to `largest_move`.
        largest_move: largest change of a pixel in [-1,1] in one step.
        weight_decay: omega of eq. 13.
        reverse_timestep: timestep of the reverse-diffusion step, which treats the image as x_t.
        dims: number of feature channels of the Gaussians, a random subset as in PaDiM.
        stride: pixels per position of the Gaussians.
    """

    steps: int = 40
    every: int = 8
    step_size: float = 0.05
    largest_move: float = 0.02
    weight_decay: float = 0.9999
    reverse_timestep: int = 10
    dims: int = 48
    stride: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "every", "reverse_timestep", "dims", "stride"):
            check_count(f"gradient.{name}", getattr(self, name), 1, 10_000)
        for name in ("step_size", "largest_move", "weight_decay"):
            check_range(f"gradient.{name}", getattr(self, name), 0)


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
        move = (config.step_size * gradient).clamp(-config.largest_move, config.largest_move)
        x = config.weight_decay * x - move
        if step % config.every == 0:
            x = reverse(x)
            walked.append(x)
    return walked
