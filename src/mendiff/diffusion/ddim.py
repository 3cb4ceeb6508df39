"""Deterministic DDIM sampling (Song et al. 2021, eq. 12 with eta = 0), one timestep per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mendiff.types import Estimate, Step

if TYPE_CHECKING:
    from mendiff.diffusion.schedule import NoiseSchedule
    from mendiff.types import Denoise


def ddim_step(estimate: Estimate, s: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_s = a_s x0 + s_s eps, (B,c,h,w); s = -1 uses the schedule's final alpha_bar."""
    return schedule.add_noise(estimate.x0, estimate.eps, s)


def ddim(
    denoise: Denoise,
    x_t: Tensor,
    ladder: Tensor,
    schedule: NoiseSchedule,
    edit: Callable[[Step], Estimate] | None = None,
) -> Tensor:
    """Sample every image along its own ladder and return the clean latents, (B,c,h,w).

    Args:
        denoise: maps (x_t, t) to an Estimate.
        x_t: noisy latents at ladder[:, 0], (B,c,h,w).
        ladder: descending timesteps, (B,N); a repeated timestep leaves the latents unchanged.
        schedule: noise schedule.
        edit: called at every step; its return value replaces the estimate.
    """
    clean = torch.full_like(ladder[:, :1], -1)
    targets = torch.cat([ladder[:, 1:], clean], dim=1)
    for t, s in zip(ladder.unbind(1), targets.unbind(1), strict=True):
        estimate = denoise(x_t, t)
        if edit is not None:
            estimate = edit(Step(x_t, t, s, estimate))
        x_t = ddim_step(estimate, s, schedule)
    return x_t


def recorded(
    edit: Callable[[Step], Estimate] | None, seen: list[Step] | None
) -> Callable[[Step], Estimate] | None:
    """An edit for `ddim` that also records every step with the final estimate.

    Args:
        edit: edit to apply, if any.
        seen: list that receives the steps; None disables recording.
    """
    if seen is None:
        return edit

    def record(step: Step) -> Estimate:
        estimate = step.estimate if edit is None else edit(step)
        seen.append(replace(step, estimate=estimate))
        return estimate

    return record
