"""In-flight batching of GLAD's adaptive search: every image is at its own timestep.

Images stop at different timesteps and continue from there, so their searches take different numbers of
sampler steps. An image that is finished leaves the batch, and a waiting image takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mendiff.diffusion.ddim import ddim_step
from mendiff.methods.glad_ahead import AheadStop
from mendiff.methods.glad_stop import AdaptiveStop
from mendiff.nets.modes import deterministic
from mendiff.types import Estimate, Step

EARLY = 2
"""Steps before the first stop map of a search with likely checks; at the first both estimates are equal."""


class Search:
    """The search of an image from one start timestep.

    Args:
        glad: the method.
        z0: clean latents, (1,c,h,w).
        noise: start noise of the same shape.
        run: index of the start timestep.

    Attributes:
        z: present latents, (1,c,h,w); the result at the end.
        number: index of the next sampler step.
        stopped_at: timestep of the stop, (1,); 0 for none so far.
    """

    def __init__(self, glad: Any, z0: Tensor, noise: Tensor, run: int) -> None:
        self.glad, self.z0, self.noise, self.run = glad, z0, noise, run
        self.z, timesteps = glad.noised(z0, noise, run)
        self.thresholds = glad.stop_thresholds[run]
        self.path = torch.cat([timesteps, torch.full_like(timesteps[:, :1], -1)], dim=1)
        self._timesteps = timesteps[0].tolist()
        self.number = 0
        self.stopped_at = torch.zeros_like(timesteps[:, 0])
        known = bool(self.thresholds.isfinite().all())
        self.maps: dict[int, Tensor] = {}
        self._exceeds = False
        self.ahead: list[Step] | None = [] if known and glad.config.stop_checks == "likely" else None
        self._stop = AdaptiveStop(glad, z0, noise, self.thresholds) if self.ahead is None else None

    @property
    def finished(self) -> bool:
        """Whether all sampler steps are done, and the stop is known."""
        return self.number == len(self._timesteps) and self.ahead is None

    @property
    def is_sampled(self) -> bool:
        """Whether the path ahead is long enough to find the stop."""
        last = self.number == len(self._timesteps)
        below = self._timesteps[self.number - 1] < self.glad.config.min_timestep
        return bool(self.ahead) and (last or below or self._exceeds)

    def look(self, rule: AheadStop, stop_map: Tensor) -> None:
        """Keep the stop map of the latest step; an image with a high score needs no longer path."""
        self.maps[self.number - 1] = stop_map
        self._exceeds = rule.exceeds(self.number - 1, stop_map)

    def advance(self, estimate: Estimate) -> None:
        """Take a sampler step with the denoiser's estimate of this image, and stop if the rule says so."""
        t, s = self.path[:, self.number], self.path[:, self.number + 1]
        step = Step(self.z, t, s, estimate)
        if self.ahead is not None:
            self.ahead.append(step)
        elif self._stop is not None:
            estimate = self._stop(step)
        self.z = ddim_step(estimate, s, self.glad.schedule)
        self.number += 1
        if self._stop is not None and int(self._stop.stopped_at):
            self.stop(self._stop, 0)

    def stop(self, found: AdaptiveStop, row: int) -> None:
        """Continue from the stop that a rule found for a row, without further checks."""
        rows = slice(row, row + 1)
        self.stopped_at = found.stopped_at[rows]
        if int(found.resumed_at[row]):
            self.z, self.number = found.resumed[rows], int(found.resumed_at[row])
        self.ahead = self._stop = None


def look_early(searches: list[Search]) -> None:
    """Compute the stop maps of the second step: most images with clear defects stop there."""
    rule, steps = _rule(searches)
    count = len(searches)
    for one, stop_map in zip(searches, rule.maps(steps, range(count), count * [EARLY - 1]), strict=True):
        one.look(rule, stop_map)


def find_stops(searches: list[Search]) -> None:
    """Find the stops of searches whose paths ahead are sampled."""
    rule, steps = _rule(searches)
    rule.find(steps, [one.maps for one in searches])
    for row, one in enumerate(searches):
        one.stop(rule, row)


def _rule(searches: list[Search]) -> tuple[AheadStop, list[Step]]:
    """The stop rule and the joined steps of searches from the same start timestep, with paths of a length."""
    paths = [one.ahead or [] for one in searches]
    steps = [
        Step(_joined(column, "x_t"), _joined(column, "t"), _joined(column, "s"), _joined_estimate(column))
        for column in zip(*paths, strict=True)
    ]
    first = searches[0]
    return AheadStop(first.glad, _joined(searches, "z0"), _joined(searches, "noise"), first.thresholds), steps


def _alike(searches: Iterable[Search]) -> Iterator[list[Search]]:
    """Groups of searches from the same start timestep, with paths of the same length."""

    def kind(one: Search) -> tuple[int, int]:
        return one.run, one.number

    for _, group in groupby(sorted(searches, key=kind), key=kind):
        yield list(group)


def _joined(rows: Iterable[Any], name: str) -> Tensor:
    return torch.cat([getattr(one, name) for one in rows])


def _joined_estimate(steps: Iterable[Step]) -> Estimate:
    estimates = [step.estimate for step in steps]
    return Estimate(_joined(estimates, "x0"), _joined(estimates, "eps"))


class Flight:
    """Searches of the images of several batches; iterates over the results of the batches, in their order.

    Args:
        glad: the method.
        batches: clean latents and start noise, two (B,c,h,w); read when there is a free place.

    A result is a list of latents (B,c,h,w) and of stop timesteps (B,), each by start timestep.
    """

    def __init__(self, glad: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._glad, self._batches, self._places = glad, iter(batches), 0
        self._order: deque[list[list[Search]]] = deque()  # by batch, run and row
        self._waiting: deque[Search] = deque()
        self._active: list[Search] = []

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        while (found := self._next()) is not None:
            yield found

    @deterministic
    def _next(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """The results of the next batch; None after the last."""
        self._fill()
        if not self._order:
            return None
        while not all(one.finished for run in self._order[0] for one in run):
            self._turn()
        runs = self._order.popleft()
        return [_joined(run, "z") for run in runs], [_joined(run, "stopped_at") for run in runs]

    def _fill(self) -> None:
        """Give free places to waiting images; there are as many places as images in the largest batch."""
        while not self._waiting and (len(self._active) < self._places or not self._order):
            batch = next(self._batches, None)
            if batch is None:
                break
            rows = list(zip(*(one.split(1) for one in batch), strict=True))
            runs = range(len(self._glad.config.start_timesteps))
            self._order.append([[Search(self._glad, z0, noise, run) for z0, noise in rows] for run in runs])
            self._waiting += [one for run in self._order[-1] for one in run]
            self._places = max(self._places, len(rows))
        while self._waiting and len(self._active) < self._places:
            self._active.append(self._waiting.popleft())

    def _turn(self) -> None:
        """A sampler step of all active images, each at its own timestep."""
        self._fill()
        x_t = _joined(self._active, "z")
        t = torch.cat([one.path[:, one.number] for one in self._active])
        estimate = self._glad.denoiser(x_t, t)
        for one, x0, eps in zip(self._active, estimate.x0.split(1), estimate.eps.split(1), strict=True):
            one.advance(Estimate(x0, eps))
        for early in _alike(one for one in self._active if len(one.ahead or ()) == EARLY):
            look_early(early)
        for sampled in _alike(one for one in self._active if one.is_sampled):
            find_stops(sampled)
        self._active = [one for one in self._active if not one.finished]
