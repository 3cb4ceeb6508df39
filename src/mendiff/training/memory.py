"""Estimates peak memory of training and prediction under FakeTensorMode.

A forward and backward pass runs on fake tensors, which have a shape and a type but no data, and all storages
are counted. The device's context, workspaces of kernels and fragmentation are not counted; `needed` adds an
allowance for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from mendiff.methods.base import Method, MethodConfig, TrainingConfig, find_method
from mendiff.nets.placement import store_bf16, surround
from mendiff.training.lora import add_lora
from mendiff.training.optimizers import state_bytes

CONTEXT = 600_000_000
"""Approximate bytes of a CUDA context with its libraries and workspaces."""
WASTE = 0.08
"""Approximate share of memory that the allocator can't use because of rounding and fragmentation."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a step.

    Attributes:
        weights: weights and buffers of all networks.
        gradients: gradients of trained parameters.
        optimizer: state of the optimiser, and averaged weights.
        activations: activations stored for the backward pass.
        peak: peak of the total.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    @property
    def needed(self) -> int:
        """Required memory of a CUDA device in bytes."""
        return round(self.peak * (1 + WASTE)) + CONTEXT


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of all live storages, of fake and real tensors, and their peak.

    Args:
        known: existing tensors; shared storages are counted once.

    Attributes:
        live: current bytes.
        peak: peak bytes.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key).atexit = False

    def _remove(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class MemoryEstimator:
    """Estimates the memory of a method with fake tensors of full size.

    Args:
        name: name of the method.
        config: config with training.lora_rank; other training options are arguments of `training`.
        half: whether weights of layers are in bfloat16 for prediction; see Model.sparing.
        fast: with `half`, whether the device also computes in bfloat16.
    """

    def __init__(self, name: str, config: MethodConfig, *, half: bool = False, fast: bool = True) -> None:
        with torch.device("meta"):
            self.method = find_method(name)(config)
            if config.training.lora_rank:
                add_lora(self.method, config.training.lora_rank, seed=0)
        self._known: dict[tuple[Any, ...], Footprint] = {}
        self._side = config.crop or config.image_size
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fakes:
            _fill(self.method)
            for part in self.method.parts.values() if half else ():
                store_bf16(part, torch.device("cpu"), fast=fast)
            if half and fast:
                _norms_in_float(self.method)

    def training(self, plan: TrainingConfig, half: bool) -> Footprint:
        """The larger footprint of a training step and of the calibration after training.

        Args:
            plan: batch size, accumulation, checkpointing, optimiser, EMA.
            half: whether activations are in bf16 or fp16.
        """
        count = max(1, plan.batch_size // plan.accumulate)
        key = (count, plan.checkpointing, half, plan.accumulate > 1)
        if key not in self._known:
            with self._fakes:
                _checkpoint(self.method, plan.checkpointing)
                image = torch.empty(count, 3, self._side, self._side)
                self._known[key] = training_step(self.method, image, half=half, added=plan.accumulate > 1)
        step = self._known[key]
        trained = [weight for weight in self.method.parameters() if weight.requires_grad]
        state = state_bytes(plan, trained) + (step.gradients if plan.ema else 0)
        # Adafactor needs two temporary tensors of the size of the current parameter.
        largest = max(4 * weight.numel() for weight in trained) if plan.optimizer == "adafactor" else 0
        peaks = (
            step.peak,
            step.weights + step.gradients + 2 * largest,
            self.prediction(min(8, count)).peak + step.gradients,
        )
        return Footprint(step.weights, step.gradients, state, step.activations, max(peaks) + state)

    def prediction(self, batch: int, *, offload: bool = False) -> Footprint:
        """Footprint of the prediction of a batch; see Model.sparing for `offload`."""
        side, key = self.method.config.image_size, (batch, offload)
        if key not in self._known:
            with self._fakes:
                image = torch.empty(batch, 3, side, side)
                self._known[key] = prediction(self.method, image, offload=offload)
        return self._known[key]


def training_step(method: Method, image: Tensor, *, half: bool = False, added: bool = False) -> Footprint:
    """Footprint of a forward and backward pass without optimiser, with real or fake tensors.

    Args:
        method: method; its gradients are cleared.
        image: (B,3,H,W).
        half: whether activations are in bfloat16, with norms in float32.
        added: whether gradients of an earlier part of the batch exist.
    """
    method.train()
    known = _tensors(method)
    weights = _bytes(known)
    trained = [weight for weight in method.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.zeros_like(weight) if added else None
        known += [] if weight.grad is None else [weight.grad]
    tracker = StorageTracker([*known, image])
    before = tracker.live
    hooks = _norms_in_float(method) if half else []
    with tracker:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            loss = method.rehearse_training(image)
        activations = tracker.live - before
        loss.backward()
    for hook in hooks:
        hook.remove()
    for weight in trained:
        weight.grad = None
    return Footprint(weights, _bytes(trained), 0, activations, tracker.peak)


@torch.no_grad()
def prediction(method: Method, image: Tensor, *, offload: bool = False) -> Footprint:
    """Footprint of the prediction of (B,3,H,W), with real or fake tensors."""
    method.eval()
    weights = _bytes(_tensors(method))
    own = {name: _bytes(_tensors(part)) for name, part in method.parts.items()}
    tracker, peaks = StorageTracker([*_tensors(method), image]), dict.fromkeys(own, 0)

    @contextmanager
    def watched(name: str) -> Iterator[None]:
        tracker.peak, before = tracker.live, max(tracker.peak, peaks.get("", 0))
        yield
        peaks[name], peaks[""] = max(peaks[name], tracker.peak), max(before, tracker.peak)

    with tracker, _restored(method):
        for name, part in method.parts.items():
            surround(part, partial(watched, name))
        method.rehearse_prediction(image)
    peak = max(tracker.peak, peaks.get("", 0))
    if offload:
        others = weights - sum(own.values())
        alone = [peaks[name] - weights + own[name] for name in own]
        between = max(tracker.peak - weights, 0) + max(own.values(), default=0)
        peak = max(*alone, between) + others
    return Footprint(weights, 0, 0, 0, peak)


@contextmanager
def _restored(method: Method) -> Iterator[None]:
    """Restore the attributes of all networks at the end of the block, which wraps their methods."""
    before = {name: dict(vars(part)) for name, part in method.parts.items()}
    try:
        yield
    finally:
        for name, part in method.parts.items():
            vars(part).clear()
            vars(part).update(before[name])


def _norms_in_float(method: Method) -> list[RemovableHandle]:
    """Compute norms in float32, as autocast does on CUDA; autocast on CPUs computes them in bfloat16."""
    norms = [layer for layer in method.modules() if isinstance(layer, nn.GroupNorm | nn.LayerNorm)]
    return [layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for layer in norms]


def _fill(method: Method) -> None:
    """Replace all tensors by fake tensors."""
    for module in method.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(fake, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _checkpoint(method: Method, wanted: bool) -> None:
    name = "enable_gradient_checkpointing" if wanted else "disable_gradient_checkpointing"
    for network in method.modules():
        if getattr(network, "_supports_gradient_checkpointing", False):
            getattr(network, name)()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
