"""What GLAD's walks saw, as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mendiff.methods.base import estimate_panels
from mendiff.methods.glad_config import GladConfig
from mendiff.types import Panel, Step

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """One look of the stop rule at one image.

    Attributes:
        t: timestep, (1,).
        generated: clean estimate of the walk, before any fusion, (1,c,h,w).
        truth: that of the true input, (1,c,h,w).
        distance: the stop map, (1,1,h,w).
        score: of the map, (1,).
        limit: its threshold, a scalar.
        over: whether the score exceeds it, (1,).
        stops: whether the image stops, for that or since it is below min_timestep, (1,).
        weight: what the generated estimate would be fused with, (1,1,h,w).
    """

    t: Tensor
    generated: Tensor
    truth: Tensor
    distance: Tensor
    score: Tensor
    limit: Tensor
    over: Tensor
    stops: Tensor
    weight: Tensor


@dataclass
class Walk:
    """What a walk of one image saw.

    Attributes:
        steps: down the ladder, as they were followed.
        checks: looks of the stop rule, until it stopped the image.
        resumed: timestep (1,) and fused estimate (1,c,h,w) from where an image that went back goes on.
        again: the steps from there.
    """

    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    resumed: tuple[Tensor, Tensor] | None = None
    again: list[Step] = field(default_factory=list)


def walk_panels(walks: Sequence[Walk], decode: Decode, config: GladConfig) -> list[Panel]:
    """The walks of one image from every start step, rung by rung (the paper's Fig. 1, 2 and 4).

    Args:
        walks: one per start step.
        decode: latents to pictures in [0,1].
        config: the model's.
    """
    panels: list[Panel] = []
    for number, walk in enumerate(walks, start=1):
        run = f"run {number}, " if len(walks) > 1 else ""
        for check in walk.checks:
            panels += _looked(check, walk, decode, config, run)
        if walk.checks and bool(walk.checks[-1].stops):
            panels += _fused(walk, decode, config, run)
        rest = walk.steps[len(walk.checks) :] if walk.resumed is None else walk.again
        panels += estimate_panels(rest, decode, run, noised=not walk.checks)
    return panels


def _looked(check: Check, walk: Walk, decode: Decode, config: GladConfig, run: str) -> Iterator[Panel]:
    """What the stop rule compared at one rung, and what it decided."""
    t, limit = int(check.t), float(check.limit)
    stage, known = f"{run}t = {t}", math.isfinite(limit)
    yield Panel(stage, "generated", decode(check.generated)[0], t)
    yield Panel(stage, "true input", decode(check.truth)[0], t)
    note = ""
    if bool(check.stops):
        note = "stops: above threshold" if bool(check.over) else f"stops: below t = {config.min_timestep}"
        if walk.resumed is not None:
            note = f"stops, back to t = {int(walk.resumed[0])}"
    # Where nothing ever stops, the colours are those of all rungs together.
    high = 2 * limit if known else max(float(one.distance.max()) for one in walk.checks)
    score = float(check.score)
    yield Panel(stage, "stop map", check.distance[0], t, score, limit if known else None, (0.0, high), note)


def _fused(walk: Walk, decode: Decode, config: GladConfig, run: str) -> Iterator[Panel]:
    """What the walk goes on from after the stop."""
    stop = walk.checks[-1]
    followed = (stop.t, walk.steps[len(walk.checks) - 1].estimate.x0)
    t, x0 = followed if walk.resumed is None else walk.resumed
    stage = f"{run}goes on, t = {int(t)}"
    if bool(stop.over) and config.fusion != "none":
        yield Panel(stage, "fused estimate", decode(x0)[0], int(t))
        span = (0.5, max(float(stop.weight.max()), 0.5))  # the sigmoid of a distance is never less
        yield Panel(stage, "fusion mask", stop.weight[0], int(t), span=span)
    else:
        yield Panel(stage, "true input", decode(x0)[0], int(t))
