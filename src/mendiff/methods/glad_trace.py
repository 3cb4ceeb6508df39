"""Records of GLAD's adaptive search and their panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mendiff.methods.base_panels import estimate_panels
from mendiff.methods.glad_config import GladConfig
from mendiff.types import Panel, Step

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StopCheck:
    """Values of the stop rule at a timestep, for a single image.

    Attributes:
        t: timestep, (1,).
        generated: clean estimate of the sampled latents before fusion, (1,c,h,w).
        truth: clean estimate of the true input, (1,c,h,w).
        distance: stop map, (1,1,h,w).
        score: stop score, (1,).
        limit: stop threshold, a scalar.
        over: whether the score exceeds the threshold, (1,).
        stops: whether the image stops, because of its score or min_timestep, (1,).
        weight: fusion weight of the generated estimate, (1,1,h,w).
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
class RunRecord:
    """Record of a sampler run for a single image.

    Attributes:
        steps: sampler steps with their final estimates.
        checks: values of the stop rule until the image stops.
        resumed: timestep (1,) and fused estimate (1,c,h,w) from which an image continues after a rewind.
        resumed_steps: sampler steps after a rewind.
    """

    steps: list[Step] = field(default_factory=list)
    checks: list[StopCheck] = field(default_factory=list)
    resumed: tuple[Tensor, Tensor] | None = None
    resumed_steps: list[Step] = field(default_factory=list)


def run_panels(records: Sequence[RunRecord], decode: Decode, config: GladConfig) -> list[Panel]:
    """Panels of all runs of an image, timestep by timestep (as in the paper's Fig. 1, 2 and 4).

    Args:
        records: a record per start timestep.
        decode: converts latents to pictures in [0,1].
        config: config of the model.
    """
    panels: list[Panel] = []
    for number, record in enumerate(records, start=1):
        prefix = f"run {number}, " if len(records) > 1 else ""
        for check in record.checks:
            panels += _check_panels(check, record, decode, config, prefix)
        if record.checks and bool(record.checks[-1].stops):
            panels += _fusion_panels(record, decode, config, prefix)
        rest = record.steps[len(record.checks) :] if record.resumed is None else record.resumed_steps
        panels += estimate_panels(rest, decode, prefix, noised=not record.checks)
    return panels


def _check_panels(
    check: StopCheck, record: RunRecord, decode: Decode, config: GladConfig, prefix: str
) -> Iterator[Panel]:
    """Both estimates and the map of the stop rule at a timestep, with its decision."""
    t, limit = int(check.t), float(check.limit)
    stage, known = f"{prefix}t = {t}", math.isfinite(limit)
    yield Panel(stage, "generated", decode(check.generated)[0], t)
    yield Panel(stage, "true input", decode(check.truth)[0], t)
    note = ""
    if bool(check.stops):
        note = "stops: above threshold" if bool(check.over) else f"stops: below t = {config.min_timestep}"
        if record.resumed is not None:
            note = f"stops, back to t = {int(record.resumed[0])}"
    # Without thresholds the colour scale is that of all timesteps.
    high = 2 * limit if known else max(float(one.distance.max()) for one in record.checks)
    score = float(check.score)
    yield Panel(stage, "stop map", check.distance[0], t, score, limit if known else None, (0.0, high), note)


def _fusion_panels(record: RunRecord, decode: Decode, config: GladConfig, prefix: str) -> Iterator[Panel]:
    """The estimate from which sampling continues after the stop, and its fusion mask."""
    stop = record.checks[-1]
    stopped = (stop.t, record.steps[len(record.checks) - 1].estimate.x0)
    t, x0 = stopped if record.resumed is None else record.resumed
    stage = f"{prefix}continues at t = {int(t)}"
    if bool(stop.over) and config.fusion != "none":
        yield Panel(stage, "fused estimate", decode(x0)[0], int(t))
        span = (0.5, max(float(stop.weight.max()), 0.5))  # lower bound of the sigmoid of a distance
        yield Panel(stage, "fusion mask", stop.weight[0], int(t), span=span)
    else:
        yield Panel(stage, "true input", decode(x0)[0], int(t))
