"""Networks in less memory during prediction: weights in bfloat16, and on the device only while in use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

ENTRIES = ("forward", "raw", "embed", "encode", "decode_raw", "unnormalised")
"""The methods of codecs, denoisers and extractors that use their weights."""
Network = TypeVar("Network", bound=nn.Module)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 fast: CUDA from Ampere on, CPUs with matrix units for it (AMX).

    CPUs without these emulate it, some a hundred times slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    names = ("_is_amx_tile_supported", "_is_cpu_support_amx_tile")  # torch 2.6 renamed it
    fast: Any = next((getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)), bool)
    return device.type == "cpu" and bool(fast())


def in_half(device: torch.device) -> AbstractContextManager[object]:
    """Layers work in bfloat16 where a device multiplies it fast, and in float32 elsewhere.

    Without autocast's cache: inside another autocast it would keep the weights of the first step for all.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device), cache_enabled=False)


@contextmanager
def half_meanwhile(parts: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Let networks compute in bfloat16 inside, where the device is fast at that; what comes out is float32.

    For what takes many passes and where rounding is small beside what is learned, such as usual scores.
    """
    entered = []
    for part in parts if multiplies_bf16(device) else ():
        if not any(isinstance(vars(part).get(name), Surrounded) for name in ENTRIES):
            surround(part, partial(torch.autocast, device.type, torch.bfloat16))
            entered.append(part)
    try:
        yield
    finally:
        for part in entered:
            _leave(part)


def _leave(part: nn.Module) -> None:
    """Take back what `surround` did."""
    for name in ENTRIES:
        if isinstance(vars(part).get(name), Surrounded):
            delattr(part, name)


class Offload:
    """Keeps networks on the CPU and brings one at a time to the device, while it is used.

    A network stays until another is called, so that one which is called again and again moves once. The
    weights on the CPU are kept, so that moving out copies nothing. Results are those without offloading.
    Threads wait for each other, since there is one device.

    Args:
        parts: networks by name, on the CPU.
        device: where they work.

    Attributes:
        resident: name of the network that is on the device; None before the first call.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device) -> None:
        self.resident: str | None = None
        self._using = RLock()
        self._device = device
        self._home = {
            name: [
                (module, key, one)
                for module in part.modules()
                for key, one in chain(module._parameters.items(), module._buffers.items())
                if one is not None
            ]
            for name, part in parts.items()
        }
        for name, part in parts.items():
            surround(part, partial(self._present, name))

    @contextmanager
    def _present(self, name: str) -> Iterator[None]:
        with self._using:
            if self.resident != name:
                for module, key, home in self._home.get(self.resident or "", ()):
                    setattr(module, key, home)
                for module, key, home in self._home[name]:
                    setattr(module, key, _moved(home, self._device))
                self.resident = name
            yield


def _moved(home: Tensor, device: torch.device) -> Tensor:
    there = home.detach().to(device)
    return nn.Parameter(there, home.requires_grad) if isinstance(home, nn.Parameter) else there


def halve(part: nn.Module, device: torch.device, *, fast: bool) -> None:
    """Store the weights of a network's layers in bfloat16: half the memory, results differ by its rounding.

    Norms, biases and what comes out stay float32.

    Args:
        part: changed in place; for prediction only.
        device: where it will work.
        fast: compute in bfloat16, too (autocast), where the device is fast at that; otherwise every layer's
            weights go to float32 for the moment it works.
    """
    for layer in part.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            layer.weight.data = layer.weight.data.to(torch.bfloat16)
            if not fast:
                register_parametrization(layer, "weight", _ToFloat(), unsafe=True)
    if fast:
        surround(part, partial(torch.autocast, device.type, torch.bfloat16))


class _ToFloat(nn.Module):
    """Stored in half precision, used in full."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


def surround(part: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Run every entry of a network inside a context; what comes out in bfloat16 becomes float32."""
    for name in ENTRIES:
        if hasattr(type(part), name):
            setattr(part, name, Surrounded(getattr(part, name), context))


class Surrounded:
    """An entry of a network that runs inside a context; a copy of the network runs the same entry.

    Args:
        entry: a bound method.
        context: makes one for every call.
    """

    def __init__(self, entry: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._entry, self._context = entry, context

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self._context():
            return _in_float(self._entry(*args, **options))

    def __deepcopy__(self, known: dict[int, Any]) -> Surrounded:
        return self


def in_double(network: Network, device: torch.device, shared: Sequence[object] = ()) -> Network:
    """A copy in float64, without what `Offload`, `halve` and `surround` added, for work that rounding spoils.

    Args:
        network: which other threads may be using.
        device: where the copy works; one without float64 (MPS) leaves it on the CPU.
        shared: what the copy may share with it.
    """
    copied = copy.deepcopy(network, {id(one): one for one in shared})
    for part in copied.modules():
        _leave(part)
        if is_parametrized(part, "weight"):
            remove_parametrizations(part, "weight", leave_parametrized=False)
    return copied.to("cpu" if device.type == "mps" else device, torch.float64)


def _in_float(result: Any) -> Any:
    if isinstance(result, list):
        return [_in_float(one) for one in result]
    half = isinstance(result, Tensor) and result.dtype == torch.bfloat16
    return result.float() if half else result
