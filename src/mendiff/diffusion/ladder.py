"""Ladders: the descending timesteps of the sampler, per image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mendiff.errors import InputError, check_choice

Spacing = Literal["leading", "trailing"]
SPACINGS = get_args(Spacing)


def ladder(t_start: Tensor, steps: int, spacing: Spacing = "leading", offset: int = 1) -> Tensor:
    """Descending timesteps for every image, (B,) and N to (B,N) int64.

    A row with fewer than N distinct timesteps repeats some of them ("leading": the highest). DDIM from t to t
    is the identity.

    Args:
        t_start: number of timesteps that each ladder covers, (B,) int64, at least 1; the highest possible
            timestep is t_start - 1.
        steps: N, at least 1.
        spacing: "leading" is k * (t_start // N) + offset for k = N-1..0, so it ends at `offset`; "trailing"
            starts at t_start - 1 (Lin et al. 2023, table 2).
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
        timesteps = down * (start // steps).clamp(min=1) + offset
        return torch.minimum(timesteps, start - 1)
    timesteps = torch.round((down.to(torch.float64) + 1) * start / steps) - 1
    return timesteps.clamp(min=0).to(torch.int64)


def remaining(timesteps: Tensor, first: Tensor) -> Tensor:
    """The rest of every ladder from step index `first`, (B,N) and (B,) to (B,M).

    M is the length of the longest rest. Shorter ones repeat their first timestep; DDIM from t to t is the
    identity.
    """
    count = timesteps.shape[1]
    numbers = torch.arange(int(first.min()), count, device=timesteps.device)
    return timesteps.gather(1, torch.maximum(numbers[None], first[:, None]))


def noised_at(first: Tensor, last: Tensor, noise_timestep: int) -> Tensor:
    """The timestep at which noise is added before sampling, (B,) int64.

    The published code may add noise at a higher timestep than the ladder's first. It must not exceed the
    range of the ladder: sampling from 361 after adding noise at 999 would leave most of the noise.

    Args:
        first: first timestep of the ladder, (B,).
        last: highest timestep in the range of the ladder, (B,).
        noise_timestep: requested timestep; used if it is from `first` to `last`, otherwise `first` is used.
    """
    within = (first <= noise_timestep) & (noise_timestep <= last)
    return torch.where(within, torch.full_like(first, noise_timestep), first)
