"""Makes networks and results independent of torch's global modes and defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

AUTOCASTS = ("cpu", "cuda", "mps", "xpu")
"""Device types for which autocast may be enabled."""
Act = TypeVar("Act", bound=Callable[..., Any])

_building = RLock()


@contextmanager
def in_float32() -> Iterator[None]:
    """Build networks in float32 and outside inference mode, independent of torch's defaults and modes.

    torch's default dtype is global to the process, so only one thread builds at a time.
    """
    with _building, ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        before = torch.get_default_dtype()
        if before != torch.float32:
            torch.set_default_dtype(torch.float32)
            modes.callback(torch.set_default_dtype, before)
        yield


def builds_in_float32(make: Act) -> Act:
    """Decorator for functions that build networks; see `in_float32`."""

    @wraps(make)
    def build(*args: Any, **options: Any) -> Any:
        with in_float32():
            return make(*args, **options)

    return build  # type: ignore[return-value]


@contextmanager
def inference_modes() -> Iterator[None]:
    """Disable gradients, inference mode and autocast inside the block."""
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))  # switches gradients on
        modes.enter_context(torch.no_grad())
        for kind in AUTOCASTS:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        yield


def deterministic(act: Act) -> Act:
    """Decorator for inference functions: runs them in `inference_modes` with contiguous tensors."""

    @wraps(act)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        # Convolutions use other kernels for other memory layouts, with other rounding.
        contiguous = [arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args]
        with inference_modes():
            return act(self, *contiguous, **options)

    return run  # type: ignore[return-value]
