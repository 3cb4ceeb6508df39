"""GLAD's adaptive denoising steps (ADS) and spatial-adaptive feature fusion (SAFF)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.diffusion.ddim import ddim_step
from mendiff.methods.glad_trace import RunRecord, StopCheck
from mendiff.scoring.score import top_k_mean
from mendiff.types import Estimate, Step

STOP_TOP_K = 10
"""Positions that the stop score averages (published code)."""


class AdaptiveStop:
    """Edit of the sampler that stops each image once (ADS) and fuses its normal regions (SAFF).

    An instance serves a single sampler run.

    Args:
        glad: the method.
        z0: clean latents, (B,c,h,w).
        noise: start noise of the same shape.
        thresholds: stop threshold of every sampler step, (N,).
        record: receives the values of the stop rule, for a single image.

    Attributes:
        stopped_at: timestep at which each image stopped, (B,); 0 for no stop.
        resumed: latents from which images continue after a rewind, (B,c,h,w), otherwise zeros; see
            GladConfig.rewind.
        resumed_at: index of the sampler step of these latents, (B,); 0 for images without a rewind.
        scores: stop scores of all steps so far, each (B,); 0 for images that stopped before.
    """

    def __init__(
        self, glad: Any, z0: Tensor, noise: Tensor, thresholds: Tensor, record: RunRecord | None = None
    ) -> None:
        self._record = record
        self._glad, self._z0, self._noise, self._thresholds = glad, z0, noise, thresholds
        known = glad.config.adaptive and bool(thresholds.isfinite().all())
        self._min_timestep = glad.config.min_timestep if known else 0
        self.stopped_at = torch.zeros(z0.shape[:1], dtype=torch.int64, device=z0.device)
        self.resumed, self.resumed_at = torch.zeros_like(z0), torch.zeros_like(self.stopped_at)
        self.scores: list[Tensor] = []
        self._recent: deque[Step] = deque(maxlen=glad.config.rewind + 1)

    def __call__(self, step: Step) -> Estimate:
        """The estimate that the sampler uses at this step; see mendiff.diffusion.ddim."""
        rows = (self.stopped_at == 0).nonzero().flatten()
        if len(rows) == 0:
            return step.estimate
        self._recent.append(step)
        glad, t = self._glad, step.t[rows]
        truth = self._true_estimate(step, rows)
        distance = glad.stop_map(step.estimate.x0[rows], truth)
        score = top_k_mean(distance, STOP_TOP_K)
        limit = self._thresholds[len(self.scores)]
        over = score > limit
        self.scores.append(torch.zeros_like(self.stopped_at, dtype=score.dtype).index_put((rows,), score))
        stops = over | (t < self._min_timestep)
        if self._record is not None:
            weight = fusion_weight(distance, over, truth)
            x0 = step.estimate.x0[rows]
            self._record.checks.append(StopCheck(t, x0, truth, distance, score, limit, over, stops, weight))
        rows, distance, over, truth = rows[stops], distance[stops], over[stops], truth[stops]
        self.stopped_at[rows] = step.t[rows]
        weight = fusion_weight(distance, over, truth)
        self._rewind(rows[over], weight[over])
        return self._fuse(step, rows, weight, truth)

    def _true_estimate(self, step: Step, rows: Tensor) -> Tensor:
        """Clean estimate of the true input, with the noise estimate of the step, for some rows."""
        schedule, t = self._glad.schedule, step.t[rows]
        true_z_t = schedule.add_noise(self._z0[rows], self._noise[rows], t)
        truth: Tensor = schedule.x0_from_eps(true_z_t, step.estimate.eps[rows], t)
        return truth

    def _rewind(self, rows: Tensor, weight: Tensor) -> None:
        """Fuse rows at an earlier step, with the mask of the step that stopped them, and resume there."""
        back = len(self._recent) - 1
        if len(rows) and back:
            self._resume(self._recent[0], len(self.scores) - back, rows, weight)

    def _resume(self, step: Step, following: int, rows: Tensor, weight: Tensor) -> None:
        """Fuse rows at a step, and continue them at the step with the index `following`."""
        fused = self._fuse(step, rows, weight, self._true_estimate(step, rows))
        if self._record is not None:
            self._record.resumed = step.t[rows], fused.x0[rows]
        self.resumed[rows] = ddim_step(fused, step.s, self._glad.schedule)[rows]
        self.resumed_at[rows] = following

    def _fuse(self, step: Step, rows: Tensor, weight: Tensor, truth: Tensor) -> Estimate:
        """Replace rows of the clean estimate by weight * generated + (1 - weight) * true input."""
        fusion, x0, eps = self._glad.config.fusion, step.estimate.x0.clone(), step.estimate.eps
        if len(rows) == 0:
            return step.estimate
        weight = torch.zeros_like(weight) if fusion == "none" else weight
        # The noise estimate remains that of the latents before fusion (published code).
        return Estimate(x0.index_put((rows,), weight * x0[rows] + (1 - weight) * truth), eps)


def fusion_weight(distance: Tensor, over: Tensor, latent: Tensor) -> Tensor:
    """Fusion mask: sigmoid(map) at latent size, 0 for images stopped by min_timestep, (B,1,h,w)."""
    if distance.shape[-2:] != latent.shape[-2:]:
        distance = F.interpolate(distance, latent.shape[-2:], mode="bilinear", align_corners=False)
    return torch.sigmoid(distance) * over[:, None, None, None]
