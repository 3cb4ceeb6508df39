"""Gradient denoising: pull an image towards good features, and let the diffusion model clear the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mendiff.errors import check_range

GRID = 2.0**-16
"""Pixels in [-1,1] are rounded to multiples of this before every step: 0.002 grey levels."""


@dataclass(frozen=True)
class GradientConfig:
    """How gradient denoising walks (RAN, Alg. 1 and eq. 13).

    Attributes:
        steps: N, gradient steps.
        every: N_d, gradient steps between two reverse-diffusion steps.
        step_size: s of eq. 13; moves of more than `largest_move` are cut.
        largest_move: of a pixel in [-1,1] in one step.
        weight_decay: omega of eq. 13.
        reverse_t: timestep of the reverse-diffusion step, which takes the noise for that of x_t.
        dims: features of the Gaussians, drawn at random from all channels as in PaDiM.
        stride: pixels per position of the Gaussians.
    """

    steps: int = 40
    every: int = 8
    step_size: float = 0.05
    largest_move: float = 0.02
    weight_decay: float = 0.9999
    reverse_t: int = 10
    dims: int = 48
    stride: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "every", "reverse_t", "dims", "stride"):
            check_range(f"gradient.{name}", getattr(self, name), 1)
        for name in ("step_size", "largest_move", "weight_decay"):
            check_range(f"gradient.{name}", getattr(self, name), 0)


def gradient_denoise(
    x: Tensor,
    energy: Callable[[Tensor], Tensor],
    reverse: Callable[[Tensor], Tensor],
    config: GradientConfig,
) -> list[Tensor]:
    """Descend an energy with weight decay, with a reverse-diffusion step after every N_d steps.

    Args:
        x: images to start from, (B,c,h,w).
        energy: (B,c,h,w) to (B,), such as the Mahalanobis distance of deep features (eq. 12).
        reverse: one reverse-diffusion step, (B,c,h,w) to the same.
        config: see GradientConfig.

    The walk multiplies differences without bound, since most moves are as large as allowed. So that rounding
    errors, which hang on the number of threads, can't grow, pixels are rounded to GRID before every step: in
    float64 an error of 1e-15 then vanishes, but for fewer than one image of a thousand, where a pixel lies
    that near to the middle between two values.

    Returns:
        the images after every reverse step, the start first. Eq. 13 descends; the listing of Alg. 1 omits the
        sign.
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
