"""Where GLAD's images stop and what is fused there: adaptive steps (ADS) and spatial fusion (SAFF)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.diffusion.ddim import ddim_step
from mendiff.methods.glad_trace import Check, Walk
from mendiff.scoring.score import top_k_mean
from mendiff.types import Estimate, Step

STOP_TOP_K = 10
"""Positions that the stop score averages (published code)."""


class AdaptiveStop:
    """The edit of GLAD's sampler: stops each image's search once (ADS) and fuses its normal regions (SAFF).

    Lives for one walk down the ladder; `walk` takes what it sees of a single image.

    Attributes:
        stopped_at: the timestep at which each image stopped, (B,); 0 where it has not.
        resumed: where images that went back go on, (B,c,h,w), zeros for all others; see GladConfig.rewind.
        resumed_at: the rung, counted from the top, whose noise these latents carry, (B,); 0 for all others.
        scores: stop scores of the rungs walked so far, each (B,); 0 for images that had stopped before.
    """

    def __init__(
        self, glad: Any, z0: Tensor, noise: Tensor, thresholds: Tensor, walk: Walk | None = None
    ) -> None:
        self._walk = walk
        self._glad, self._z0, self._noise, self._thresholds = glad, z0, noise, thresholds
        self._min_timestep = glad.config.min_timestep if bool(thresholds.isfinite().all()) else 0
        self.stopped_at = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        self.resumed, self.resumed_at = torch.zeros_like(z0), torch.zeros_like(self.stopped_at)
        self.scores: list[Tensor] = []
        self._passed: deque[Step] = deque(maxlen=glad.config.rewind + 1)

    def __call__(self, step: Step) -> Estimate:
        """The estimate to follow at this step; see mendiff.diffusion.ddim."""
        rows = (self.stopped_at == 0).nonzero().flatten()
        if len(rows) == 0:
            return step.estimate
        self._passed.append(step)
        glad, t = self._glad, step.t[rows]
        true_z_t, truth = self._true_input(step, rows)
        distance = glad.stop_map(step.estimate.x0[rows], truth)
        score = top_k_mean(distance, STOP_TOP_K)
        limit = self._thresholds[len(self.scores)]
        over = score > limit
        self.scores.append(torch.zeros_like(self.stopped_at, dtype=score.dtype).index_put((rows,), score))
        stops = over | (t < self._min_timestep)
        if self._walk is not None:
            weight = _fusion_weight(distance, over, truth)
            x0 = step.estimate.x0[rows]
            self._walk.checks.append(Check(t, x0, truth, distance, score, limit, over, stops, weight))
        rows, distance, over, truth = rows[stops], distance[stops], over[stops], truth[stops]
        self.stopped_at[rows] = step.t[rows]
        weight = _fusion_weight(distance, over, truth)
        self._go_back(rows[over], weight[over])
        return self._fuse(step, rows, weight, truth, true_z_t[stops])

    def _true_input(self, step: Step, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The true input at this step: its noisy latents, and its clean estimate by the step's noise."""
        schedule, t = self._glad.schedule, step.t[rows]
        true_z_t = schedule.add_noise(self._z0[rows], self._noise[rows], t)
        return true_z_t, schedule.x0_from_eps(true_z_t, step.estimate.eps[rows], t)

    def _go_back(self, rows: Tensor, weight: Tensor) -> None:
        """Let rows go on from the earlier rung, fused there by the mask of the step that stopped them."""
        earlier, back = self._passed[0], len(self._passed) - 1
        if len(rows) == 0 or back == 0:
            return
        true_z_t, truth = self._true_input(earlier, rows)
        fused = self._fuse(earlier, rows, weight, truth, true_z_t)
        if self._walk is not None:
            self._walk.resumed = earlier.t[rows], fused.x0[rows]
        self.resumed[rows] = ddim_step(fused, earlier.s, self._glad.schedule)[rows]
        self.resumed_at[rows] = len(self.scores) - back  # one below the earlier rung

    def _fuse(self, step: Step, rows: Tensor, weight: Tensor, truth: Tensor, true_z_t: Tensor) -> Estimate:
        """Replace the rows that stop by weight * generated + (1 - weight) * true input."""
        fusion, x0, eps = self._glad.config.fusion, step.estimate.x0.clone(), step.estimate.eps
        if len(rows) == 0:
            return step.estimate
        weight = torch.zeros_like(weight) if fusion == "none" else weight
        # The direction keeps the noise estimate of the unfused latent (published code).
        return Estimate(x0.index_put((rows,), weight * x0[rows] + (1 - weight) * truth), eps)


def _fusion_weight(distance: Tensor, over: Tensor, latent: Tensor) -> Tensor:
    """m = sigmoid(map) at latent size where the score stopped it, 0 where min_timestep did, (B,1,h,w)."""  # noqa: D403
    if distance.shape[-2:] != latent.shape[-2:]:
        distance = F.interpolate(distance, latent.shape[-2:], mode="bilinear", align_corners=False)
    return torch.sigmoid(distance) * over[:, None, None, None]
