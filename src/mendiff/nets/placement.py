"""Memory reduction for inference: weights in bfloat16, and offloading of unused networks to the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import chain
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

ENTRIES = ("forward", "raw", "embed", "encode", "decode_raw", "unnormalised")
"""Methods of codecs, denoisers and extractors that use their weights."""
Network = TypeVar("Network", bound=nn.Module)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has fast bfloat16 matrix products: CUDA from Ampere on, CPUs with AMX.

    Other CPUs emulate bfloat16, some at a hundredth of the speed of float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    names = ("_is_amx_tile_supported", "_is_cpu_support_amx_tile")  # torch 2.6 renamed it
    fast: Any = next((getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)), bool)
    return device.type == "cpu" and bool(fast())


def bf16_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on devices with fast bfloat16; no effect on other devices.

    Autocast's cache is disabled: inside another autocast it would keep the weights of the first step.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device), cache_enabled=False)


@contextmanager
def temporarily_bf16(parts: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Compute networks in bfloat16 inside the block on devices with fast bfloat16; outputs are float32.

    For computations with many forward passes that are robust to rounding, such as calibration scores.
    Meanwhile weights of layers are in bfloat16, so that no call converts them; afterwards they are the former
    tensors. Nothing may train or store the networks inside the block.
    """
    with ExitStack() as after:
        for part in parts if multiplies_bf16(device) else ():
            if any(isinstance(vars(part).get(name), Surrounded) for name in ENTRIES):
                continue
            for layer in _layers(part):
                after.callback(setattr, layer.weight, "data", layer.weight.data)
                layer.weight.data = layer.weight.data.to(torch.bfloat16)
            surround(part, partial(torch.autocast, device.type, torch.bfloat16))
            after.callback(leave, part)
        yield


def _layers(part: nn.Module) -> Iterator[Any]:
    """Layers with matrix products."""
    return (one for one in part.modules() if isinstance(one, nn.Linear | nn.modules.conv._ConvNd))


def leave(part: nn.Module) -> None:
    """Undo `surround`."""
    for name in ENTRIES:
        if isinstance(vars(part).get(name), Surrounded):
            delattr(part, name)


class Offload:
    """Keeps networks on the CPU and moves one network at a time to the device while it is used.

    A network stays on the device until another network is called. The CPU weights are kept, so removing a
    network from the device copies nothing. Results are the same as without offloading. Threads are
    serialised, because they share the device.

    Args:
        parts: networks by name, on the CPU.
        device: device on which they run.

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


def store_bf16(part: nn.Module, device: torch.device, *, fast: bool) -> None:
    """Store the weights of a network's layers in bfloat16, which halves their memory and rounds them.

    Norms, biases and outputs stay float32.

    Args:
        part: network, changed in place; for inference only.
        device: device on which it will run.
        fast: also compute in bfloat16 (autocast); otherwise the weights of a layer are converted to float32
            while the layer runs.
    """
    for layer in _layers(part):
        layer.weight.data = layer.weight.data.to(torch.bfloat16)
        if not fast:
            register_parametrization(layer, "weight", _ToFloat(), unsafe=True)
    if fast:
        surround(part, partial(torch.autocast, device.type, torch.bfloat16))


class _ToFloat(nn.Module):
    """Parametrization with weights stored in bfloat16 and used in float32."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


def surround(part: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Run every entry of a network inside a context; bfloat16 outputs are converted to float32."""
    for name in ENTRIES:
        if hasattr(type(part), name):
            setattr(part, name, Surrounded(getattr(part, name), context))


class Surrounded:
    """A method of a network that runs inside a context. Copies of the network share the method.

    Args:
        entry: a bound method.
        context: creates the context of a call.
    """

    def __init__(self, entry: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._entry, self._context = entry, context

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self._context():
            return _in_float(self._entry(*args, **options))

    def __deepcopy__(self, known: dict[int, Any]) -> Surrounded:
        return self


def in_double(network: Network, device: torch.device, shared: Sequence[object] = ()) -> Network:
    """A float64 copy without the changes of `Offload`, `store_bf16` and `surround`.

    For computations that are sensitive to rounding.

    Args:
        network: network to copy; other threads may be using it.
        device: device of the copy; the CPU instead of a device without float64 (MPS).
        shared: objects that the copy shares with the network.
    """
    copied = copy.deepcopy(network, {id(item): item for item in shared})
    for part in copied.modules():
        leave(part)
        if is_parametrized(part, "weight"):
            remove_parametrizations(part, "weight", leave_parametrized=False)
    return copied.to("cpu" if device.type == "mps" else device, torch.float64)


def _in_float(result: Any) -> Any:
    if isinstance(result, list):
        return [_in_float(one) for one in result]
    half = isinstance(result, Tensor) and result.dtype == torch.bfloat16
    return result.float() if half else result


def placed(
    network: nn.Module, parts: Mapping[str, nn.Module], device: str, *, offload: bool, half: bool
) -> None:
    """Move a network to a device, if requested with less memory for prediction.

    Args:
        network: a method.
        parts: its large networks by name.
        device: torch device name.
        offload: keep the parts on the CPU, and one at a time on the device; see Offload.
        half: store the weights of the parts in bfloat16; see store_bf16.
    """
    place = torch.empty(0, device=device).device
    for part in parts.values() if half else ():
        store_bf16(part, place, fast=multiplies_bf16(place))
    if not offload:
        network.to(device)
        return
    for one in network.children():
        if not any(one is part for part in parts.values()):
            one.to(device)
    for name, buffer in network.named_buffers(recurse=False):
        setattr(network, name, buffer.to(device))
    Offload(parts, place)
