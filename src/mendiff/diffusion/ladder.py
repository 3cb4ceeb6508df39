"""Ladders: the descending timesteps that each image of a batch walks down."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mendiff.errors import InputError, check_choice

Spacing = Literal["leading", "trailing", "linspace"]
SPACINGS = get_args(Spacing)


def ladder(t_start: Tensor, steps: int, spacing: Spacing = "leading", offset: int = 1) -> Tensor:
    """Descending timesteps for every image, (B,) and N to (B,N) int64.

    A row that has fewer than N distinct timesteps repeats some ("leading": its highest one): DDIM from t to t
    is the identity.

    Args:
        t_start: where each image starts, (B,) int64, at least 1: the ladder covers the t_start lowest
            timesteps.
        steps: N, at least 1.
        spacing: "leading" is k * (t_start // N) + offset for k = N-1..0, so it ends at `offset`; "trailing"
            starts at t_start - 1; "linspace" goes from t_start - 1 to 0 (Lin et al. 2023, table 2).
        offset: added by "leading" only; Stable Diffusion uses 1.
    """
    check_choice("spacing", spacing, SPACINGS)
    if steps < 1:
        raise InputError(f"steps: expected at least 1 sampling step, got {steps}.")
    if t_start.ndim != 1:
        raise InputError(f"t_start: expected one timestep per image, shape (B,), got {tuple(t_start.shape)}.")
    start = t_start.to(torch.int64)[:, None]
    down = torch.arange(steps - 1, -1, -1, device=t_start.device)[None]
    if spacing == "leading":
        rungs = down * (start // steps).clamp(min=1) + offset
        return torch.minimum(rungs, start - 1)
    fractions = down.to(torch.float64)
    if spacing == "trailing":
        rungs = torch.round((fractions + 1) * start / steps) - 1
    else:
        rungs = torch.round(fractions * (start - 1) / max(steps - 1, 1)) if steps > 1 else start - 1.0
    return rungs.clamp(min=0).to(torch.int64)


def remaining(rungs: Tensor, first: Tensor) -> Tensor:
    """What is left of every ladder from its rung number `first` on, (B,N) and (B,) to (B,M).

    M is that of the longest row; shorter ones repeat their first rung, where DDIM leaves an image as it is.
    """
    count = rungs.shape[1]
    numbers = torch.arange(int(first.min()), count, device=rungs.device)
    return rungs.gather(1, torch.maximum(numbers[None], first[:, None]))


def noised_at(first: Tensor, last: Tensor, noise_step: int) -> Tensor:
    """The timestep whose noise each image carries at the top of its ladder, (B,) int64.

    Published code noises further than its ladder begins, but never beyond what the ladder was laid out for: a
    walk from 361 after noise at 999 would leave most of that noise in the image.

    Args:
        first: the ladder's first rung, (B,).
        last: highest timestep that the ladder was laid out for, (B,).
        noise_step: what is asked for; it counts from `first` to `last`, otherwise it is `first`.
    """
    within = (first <= noise_step) & (noise_step <= last)
    return torch.where(within, torch.full_like(first, noise_step), first)
