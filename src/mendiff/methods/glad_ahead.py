"""GLAD's stop rule with few stop maps: sampling runs ahead, and only likely stop steps are checked.

A stop map needs two decodings and two passes of the extractor, and costs more than a sampler step. The path
of an image before its stop does not depend on stop maps, so it is sampled first. The stop score follows the
distance between the latents of both estimates, by a factor that varies slowly along the path. Two stop maps
therefore predict the other scores, and only timesteps with a predicted score near the threshold are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mendiff.methods.glad_stop import STOP_TOP_K, AdaptiveStop, fusion_weight
from mendiff.scoring.score import top_k_mean
from mendiff.types import Step

SLACK = 1.5
"""A timestep is checked if its predicted stop score times this exceeds the threshold."""


class AheadStop(AdaptiveStop):
    """AdaptiveStop for a path that was sampled ahead; every image that stops is resumed."""

    def find(self, steps: Sequence[Step], maps: Sequence[dict[int, Tensor]]) -> None:
        """Find the stop of every image and the latents from which it continues; see AdaptiveStop.

        Args:
            steps: steps of the path, without edits.
            maps: known stop maps (1,1,h,w) of every image by number of the step; receives further ones.
        """
        near = torch.stack([self._latent_distances(step) for step in steps], dim=1).tolist()
        limits = self._thresholds[: len(steps)].tolist()
        known = [{number: _score(one) for number, one in found.items()} for found in maps]
        while True:
            found = [next_check(scores, far, limits) for scores, far in zip(known, near, strict=True)]
            rows = [row for row, number in enumerate(found) if number is not None]
            if not rows:
                break
            numbers = [number for number in found if number is not None]
            for row, number, stop_map in zip(rows, numbers, self.maps(steps, rows, numbers), strict=True):
                maps[row][number] = stop_map
                known[row][number] = _score(stop_map)
        for row, scores in enumerate(known):
            over = [number for number, score in sorted(scores.items()) if score > limits[number]]
            if over or bool(steps[-1].t[row] < self._min_timestep):
                number = over[0] if over else len(steps) - 1
                self._stop(steps, row, number, maps[row][number], bool(over))

    def _latent_distances(self, step: Step) -> Tensor:
        """Largest distances between the latents of both estimates, (B,)."""
        truth = self._true_estimate(step, torch.arange(len(step.t), device=step.t.device))
        distance = (step.estimate.x0 - truth).square().mean(1, keepdim=True).sqrt()
        return top_k_mean(distance, STOP_TOP_K)

    def maps(self, steps: Sequence[Step], rows: Sequence[int], numbers: Sequence[int]) -> tuple[Tensor, ...]:
        """Stop maps of rows, each at its own step, (1,1,h,w) each."""
        device = self._z0.device
        pairs = [
            (steps[number], torch.tensor([row], device=device))
            for row, number in zip(rows, numbers, strict=True)
        ]
        generated = torch.cat([step.estimate.x0[row] for step, row in pairs])
        truth = torch.cat([self._true_estimate(step, row) for step, row in pairs])
        maps: tuple[Tensor, ...] = self._glad.stop_map(generated, truth).split(1)
        return maps

    def exceeds(self, number: int, stop_map: Tensor) -> bool:
        """Whether the score of a stop map at a step is above the threshold."""
        return _score(stop_map) > float(self._thresholds[number])

    def _stop(self, steps: Sequence[Step], row: int, number: int, stop_map: Tensor, over: bool) -> None:
        """Record the stop of an image, and where it continues."""
        rows = torch.tensor([row], device=self._z0.device)
        earlier = max(number - self._glad.config.rewind, 0) if over else number
        exceeds = torch.tensor([over], device=self._z0.device)
        weight = fusion_weight(stop_map, exceeds, self._z0[rows])
        self.stopped_at[rows] = steps[number].t[rows]
        self._resume(steps[earlier], earlier + 1, rows, weight)


def _score(stop_map: Tensor) -> float:
    return float(top_k_mean(stop_map, STOP_TOP_K))


def next_check(
    scores: Mapping[int, float], distances: Sequence[float], limits: Sequence[float]
) -> int | None:
    """The number of the step to check next, or None when the first score above its threshold is known.

    Args:
        scores: known stop scores by number of the step.
        distances: latent distance of every step.
        limits: threshold of every step.
    """
    exceeds = any(score > limits[number] for number, score in scores.items())
    last = len(distances) - 1
    for number in (min(1, last), last):  # at the first step both estimates are equal
        if number not in scores and not exceeds:
            return number
    factors = {number: score / distances[number] for number, score in scores.items() if distances[number]}
    if not factors:
        return next((number for number in range(last + 1) if number not in scores), None)
    for number, limit in enumerate(limits):
        if number in scores:
            if scores[number] > limit:
                return None
        elif distances[number] * _interpolated(factors, number) * SLACK > limit:
            return number
    return None


def _interpolated(values: Mapping[int, float], at: int) -> float:
    """Linear interpolation between the nearest known values; constant outside of their range."""
    below = max((number for number in values if number <= at), default=min(values))
    above = min((number for number in values if number >= at), default=max(values))
    share = (at - below) / (above - below) if above > below else 0.0
    return (1 - share) * values[below] + share * values[above]
