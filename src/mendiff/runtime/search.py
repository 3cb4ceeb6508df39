"""GLAD's adaptive search for exported models: sampler and stop rule in NumPy; the networks are graphs.

See mendiff.methods.glad_stop; stop maps are computed at every step until the stop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mendiff.runtime.sessions import Run

Array = npt.NDArray[np.float32]
GRAPHS = {
    "start": ("latents",),
    "denoise": ("raw",),
    "stop": ("score", "weight"),
    "finish": ("score", "anomaly_map", "reconstruction"),
}
"""Outputs of the graphs of a search."""


@dataclass(frozen=True)
class Path:
    """A run of the search.

    Attributes:
        noised_at: timestep at which noise is added.
        timesteps: of the sampler, descending.
        thresholds: stop score above which an image stops, at every timestep.
    """

    noised_at: int
    timesteps: tuple[int, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """Constants of a search.

    Attributes:
        prediction: what the denoiser predicts: x0, eps or v.
        alpha_bar: of every timestep.
        final_alpha_bar: at the end of sampling.
        min_timestep: images stop below this timestep.
        rewind: number of steps to go back from the stop.
        fuses: whether normal regions of a stopped image are fused.
        paths: the runs.
    """

    prediction: str
    alpha_bar: tuple[float, ...]
    final_alpha_bar: float
    min_timestep: int
    rewind: int
    fuses: bool
    paths: tuple[Path, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """From the values of metadata.json."""
        paths = tuple(
            Path(one["noised_at"], tuple(one["timesteps"]), tuple(one["thresholds"]))
            for one in content["paths"]
        )
        return cls(**{**content, "alpha_bar": tuple(content["alpha_bar"]), "paths": paths})

    def scales(self, t: int) -> tuple[Any, Any]:
        """(a_t, s_t) in float32; -1 is the end of sampling."""
        alpha_bar = self.final_alpha_bar if t < 0 else self.alpha_bar[t]
        return np.float32(alpha_bar**0.5), np.float32((1 - alpha_bar) ** 0.5)

    def noised(self, x0: Array, eps: Array, t: int) -> Array:
        """a_t x0 + s_t eps."""
        a_t, s_t = self.scales(t)
        noised: Array = a_t * x0 + s_t * eps
        return noised

    def estimate(self, x_t: Array, raw: Array, t: int) -> tuple[Array, Array]:
        """(x0, eps) of a raw prediction."""
        a_t, s_t = self.scales(t)
        if self.prediction == "eps":
            return (x_t - s_t * raw) / a_t, raw
        x0 = raw if self.prediction == "x0" else a_t * x_t - s_t * raw
        return x0, (x_t - a_t * x0) / s_t


class _Step(NamedTuple):
    """A step of the sampler from t to s, and the estimate before fusion."""

    t: int
    s: int
    x0: Array
    eps: Array


class Search:
    """The prediction of GLAD with its adaptive search, as a function like that of a single graph.

    Args:
        plan: see Plan.
        graphs: by their names in GRAPHS.
    """

    def __init__(self, plan: Plan, graphs: Mapping[str, Run]) -> None:
        self._plan, self._graphs = plan, graphs

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for the inputs of a model; see Exported.inputs."""
        image = {name: one for name, one in inputs.items() if name != "noise"}
        z0, noise = self._graphs["start"](image)["latents"], inputs["noise"][:, -1]
        found = [self._reconstructed(z0, noise, path) for path in self._plan.paths]
        return self._graphs["finish"]({**image, "latents": np.stack(found, 1)})

    def _reconstructed(self, z0: Array, noise: Array, path: Path) -> Array:
        """Latents of a run, (B,c,h,w)."""
        plan, steps = self._plan, path.timesteps
        z = plan.noised(z0, noise, path.noised_at)
        active = np.ones(len(z0), bool)
        recent: deque[_Step] = deque(maxlen=plan.rewind + 1)
        resumed: dict[int, tuple[int, Array]] = {}
        for number, (t, s) in enumerate(zip(steps, (*steps[1:], -1), strict=True)):
            step = _Step(t, s, *self._estimate(z, t))
            rows, x0 = np.flatnonzero(active), step.x0
            if len(rows):
                recent.append(step)
                truth = self._truth(step, z0, noise)
                found = self._graphs["stop"]({"generated": x0[rows], "truth": truth[rows]})
                over = found["score"] > path.thresholds[number]
                stops = over | (t < plan.min_timestep)
                active[rows[stops]] = False
                weight = found["weight"] * (over & plan.fuses)[:, None, None, None]
                x0 = _fused(x0, truth, rows[stops], weight[stops])
                back = len(recent) - 1
                if back and over.any():
                    again = self._resumed(recent[0], z0, noise, rows[over], weight[over])
                    resumed |= {row: (number + 1 - back, again[row]) for row in rows[over].tolist()}
            if len(resumed) == len(z0):
                break
            z = plan.noised(x0, step.eps, s)
        for row, (first, latents) in resumed.items():
            z[row] = self._sampled(latents[None], steps[first:])[0]
        return z

    def _resumed(self, step: _Step, z0: Array, noise: Array, rows: npt.NDArray[Any], weight: Array) -> Array:
        """Latents after an earlier step at which rows are fused."""
        x0 = _fused(step.x0, self._truth(step, z0, noise), rows, weight)
        return self._plan.noised(x0, step.eps, step.s)

    def _sampled(self, z: Array, steps: tuple[int, ...]) -> Array:
        """Latents z sampled along timesteps to the end."""
        for t, s in zip(steps, (*steps[1:], -1), strict=True):
            z = self._plan.noised(*self._estimate(z, t), s)
        return z

    def _estimate(self, z: Array, t: int) -> tuple[Array, Array]:
        raw = self._graphs["denoise"]({"latents": z, "t": np.full(len(z), t, np.int64)})["raw"]
        return self._plan.estimate(z, raw, t)

    def _truth(self, step: _Step, z0: Array, noise: Array) -> Array:
        """Clean estimate of the true input, with the noise estimate of the step."""
        a_t, s_t = self._plan.scales(step.t)
        truth: Array = (self._plan.noised(z0, noise, step.t) - s_t * step.eps) / a_t
        return truth


def _fused(x0: Array, truth: Array, rows: npt.NDArray[Any], weight: Array) -> Array:
    """Clean estimates with weight * generated + (1 - weight) * true input in some rows."""
    x0 = x0.copy()
    x0[rows] = weight * x0[rows] + (1 - weight) * truth[rows]
    return x0
