"""Data types that the packages exchange (see the vocabulary in CONTRIBUTING)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A denoiser's prediction at (x_t, t).

    Attributes:
        x0: clean estimate, (B,c,h,w).
        eps: noise estimate, (B,c,h,w); consistent with x0 unless a method edited one of them on purpose.
        log_var: log variance of the reverse step, (B,c,h,w), for denoisers that learn it.
    """

    x0: Tensor
    eps: Tensor
    log_var: Tensor | None = None


@dataclass(frozen=True)
class Processes:
    """The processes of a distributed training, one per device.

    Attributes:
        device: torch's name of the device; "cuda" for several devices.
        devices: number per machine.
        nodes: number of machines.
        strategy: Lightning's: "auto" (ddp where there are several processes), "ddp" or "fsdp".
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    @property
    def count(self) -> int:
        """Total number of processes."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class Step:
    """One sampler step from t to s; a method may edit its estimate.

    Attributes:
        x_t: noisy latent, (B,c,h,w).
        t: present timestep, (B,).
        s: next timestep, (B,); -1 means clean.
        estimate: the denoiser's prediction at (x_t, t).
    """

    x_t: Tensor
    t: Tensor
    s: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class Detection:
    """A method's raw result for a batch; thresholds and p-values follow from `mendiff.calibration`.

    Attributes:
        score: image score, (B,), higher is more anomalous, no fixed range.
        anomaly_map: pixel scores, (B,1,H,W), on the same scale as the method's score.
        reconstruction: the image without its defects, (B,3,H,W) in [0,1].
        stop_step: the timestep at which the adaptive search of each image stopped, (B,); 0 without a stop.
    """

    score: Tensor
    anomaly_map: Tensor
    reconstruction: Tensor
    stop_step: Tensor


@dataclass(frozen=True)
class Panel:
    """One intermediate picture or map of a prediction.

    Attributes:
        stage: such as "t = 650"; consecutive panels of the same stage are drawn as a group.
        caption: a short description.
        pixels: a picture, (3,h,w) in [0,1], or a map, (1,h,w).
        t: timestep; None where no timestep applies.
        score: the method's score at this stage, if any.
        limit: the threshold for the score.
        span: the map values that are drawn with zero and with full colour.
        note: the decision made at this stage.
    """

    stage: str
    caption: str
    pixels: Tensor
    t: int | None = None
    score: float | None = None
    limit: float | None = None
    span: tuple[float, float] = (0.0, 1.0)
    note: str = ""


@dataclass(frozen=True)
class Trace:
    """The intermediate results of a prediction for one image.

    Attributes:
        found: the result of `predict`, one row.
        panels: intermediate results in order, without the image and the contents of `found`.
        box: top, left, bottom and right of the part of the image that they show, in pixels of the image as
            the model saw it; empty where a method traced an input.
    """

    found: Detection
    panels: list[Panel]
    box: tuple[int, ...] = ()


if TYPE_CHECKING:
    Denoise = Callable[[Tensor, Tensor], Estimate]
    """(x_t, t) to Estimate: a denoiser whose conditions are bound."""
