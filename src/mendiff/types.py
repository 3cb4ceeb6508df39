"""The nouns that rooms hand to each other (see the vocabulary in CONTRIBUTING)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """What a denoiser says at (x_t, t).

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
    """What a training is shared out over, one process per device.

    Attributes:
        device: torch's name of one; "cuda" for several.
        devices: per machine.
        nodes: machines.
        strategy: Lightning's: "auto" (ddp where there are several processes), "ddp" or "fsdp".
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    @property
    def count(self) -> int:
        """All processes together."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class Step:
    """One move of the sampler from t to s; a method may edit its estimate.

    Attributes:
        x_t: noisy latent, (B,c,h,w).
        t: present timestep, (B,).
        s: next timestep, (B,); -1 means clean.
        estimate: what the denoiser said.
    """

    x_t: Tensor
    t: Tensor
    s: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class Detection:
    """A method's raw finding; thresholds and p-values come later, from `mendiff.calibration`.

    Attributes:
        score: image score, (B,), higher is more anomalous, no fixed range.
        anomaly_map: pixel scores, (B,1,H,W), on the same scale as the method's score.
        reconstruction: what a good part would have looked like, (B,3,H,W) in [0,1].
        stop_step: the timestep at which the image's adaptive search ended, (B,); 0 where it never did.
    """

    score: Tensor
    anomaly_map: Tensor
    reconstruction: Tensor
    stop_step: Tensor


@dataclass(frozen=True)
class Panel:
    """One picture or map on the way to a finding.

    Attributes:
        stage: where on the way, such as "t = 650"; neighbours of one stage belong together.
        caption: what it shows, in a few words.
        pixels: a picture, (3,h,w) in [0,1], or a map, (1,h,w).
        t: timestep; None for what belongs to none.
        score: what the method makes of it, if anything.
        limit: what the score is compared with.
        span: the values of a map that are drawn without and with full colour.
        note: what was decided here.
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
    """How a method came to its finding on one image.

    Attributes:
        found: what `predict` finds in it, one row.
        panels: the way there, in order, without the image itself and what `found` holds.
    """

    found: Detection
    panels: list[Panel]


if TYPE_CHECKING:
    Denoise = Callable[[Tensor, Tensor], Estimate]
    """(x_t, t) to Estimate: a denoiser with its conditions already bound."""
