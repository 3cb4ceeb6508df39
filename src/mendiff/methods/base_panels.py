"""Pictures of the steps of a prediction, for `trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mendiff.errors import InputError
from mendiff.types import Panel, Step


def check_single(image: Tensor) -> None:
    """Raise InputError for a trace of several images."""
    if len(image) != 1:
        raise InputError(f"trace: expected one image, got {len(image)}.")


def estimate_panels(
    steps: Sequence[Step], decode: Callable[[Tensor], Tensor], prefix: str = "", *, noised: bool = False
) -> list[Panel]:
    """The clean estimate of every sampler step of an image, as panels.

    Args:
        steps: recorded sampler steps, with a batch size of 1.
        decode: converts latents to pictures in [0,1].
        prefix: prefix of the stage names.
        noised: add a panel of the noisy start.
    """
    panels = []
    for number, step in enumerate(steps):
        t = int(step.t[0])
        stage = f"{prefix}t = {t}"
        if noised and number == 0:
            panels.append(Panel(stage, "noised input", decode(step.x_t)[0], t))
        panels.append(Panel(stage, "estimate", decode(step.estimate.x0)[0], t))
    return panels
