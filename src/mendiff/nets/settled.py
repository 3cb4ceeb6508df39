"""Networks and findings that are the same whatever the calling program told torch to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

AUTOCASTS = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that a caller may have an autocast for."""
Act = TypeVar("Act", bound=Callable[..., Any])

_building = RLock()


@contextmanager
def in_float32() -> Iterator[None]:
    """Build what is inside in float32, and as plain tensors, whatever torch's default dtype and modes are.

    torch's default dtype belongs to the whole process, so that one thread builds at a time.
    """
    with _building, ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        before = torch.get_default_dtype()
        if before != torch.float32:
            torch.set_default_dtype(torch.float32)
            modes.callback(torch.set_default_dtype, before)
        yield


def built(make: Act) -> Act:
    """Decorate what builds networks: see `in_float32`."""

    @wraps(make)
    def build(*args: Any, **options: Any) -> Any:
        with in_float32():
            return make(*args, **options)

    return build  # type: ignore[return-value]


@contextmanager
def settled_modes() -> Iterator[None]:
    """No gradients, no inference mode and no autocast inside, whatever surrounds it."""
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))  # switches gradients on
        modes.enter_context(torch.no_grad())
        for kind in AUTOCASTS:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        yield


def settled(act: Act) -> Act:
    """Decorate what looks at images: it runs in `settled_modes`, on images whose pixels lie row by row."""

    @wraps(act)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        # Convolutions choose other kernels for other layouts, which round otherwise.
        rows = [one.contiguous() if isinstance(one, Tensor) else one for one in args]
        with settled_modes():
            return act(self, *rows, **options)

    return run  # type: ignore[return-value]
