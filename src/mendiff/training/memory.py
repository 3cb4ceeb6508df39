"""How much memory training and prediction take, told beforehand by a rehearsal on tensors without numbers.

The networks are built at full size, but their tensors are fakes that have shapes and types only. One step
runs on them, forward and backward, while every storage that comes and goes is counted. What is not counted:
the device's own context, workspaces of its kernels, and gaps between blocks; `needed` adds a share for these.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
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
"""Bytes of a CUDA context with its libraries and their workspaces, about."""
WASTE = 0.08
"""Share of its memory that the allocator can't use, about: rounding and gaps."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one step.

    Attributes:
        weights: of all networks, buffers included.
        gradients: of what is trained.
        optimizer: what it keeps from step to step, and averaged weights.
        activations: what the forward pass leaves for the backward pass.
        peak: the most at any time, all of these included.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    @property
    def needed(self) -> int:
        """Bytes that a CUDA device should have for this."""
        return round(self.peak * (1 + WASTE)) + CONTEXT


class Tally(TorchDispatchMode):
    """Counts the bytes of all storages that live, and the most that ever did; fakes and real tensors alike.

    Args:
        known: tensors that live already; views of others' storage count once.

    Attributes:
        live: bytes now.
        peak: the most so far.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        for one in known:
            self._note(one)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._note(one)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class Rehearsal:
    """A method at full size whose tensors hold no numbers.

    Args:
        name: of the method.
        config: with training.lora_rank; its other training options are given to `training`.
        half: weights of layers in bfloat16, for prediction; see Model.sparing.
        fast: with `half`, on a device that computes in bfloat16, too.
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
        """Bytes of a training step, and of the calibration after the last one, whichever is more.

        Args:
            plan: batch, accumulation, checkpointing, optimiser, EMA.
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
        trained = [one for one in self.method.parameters() if one.requires_grad]
        kept = state_bytes(plan, trained) + (step.gradients if plan.ema else 0)
        # Adafactor works on one tensor after another, in two more of its size.
        largest = max(4 * one.numel() for one in trained) if plan.optimizer == "adafactor" else 0
        peaks = (
            step.peak,
            step.weights + step.gradients + 2 * largest,
            self.prediction(min(8, count)).peak + step.gradients,
        )
        return Footprint(step.weights, step.gradients, kept, step.activations, max(peaks) + kept)

    def prediction(self, batch: int, *, offload: bool = False) -> Footprint:
        """Bytes of a prediction of so many images together; see Model.sparing for `offload`."""
        side, key = self.method.config.image_size, (batch, offload)
        if key not in self._known:
            with self._fakes:
                image = torch.empty(batch, 3, side, side)
                self._known[key] = prediction(self.method, image, offload=offload)
        return self._known[key]


def training_step(method: Method, image: Tensor, *, half: bool = False, added: bool = False) -> Footprint:
    """Bytes of one forward and backward pass, without those of an optimiser; real tensors or fakes.

    Args:
        method: its gradients are cleared.
        image: (B,3,H,W).
        half: activations in bfloat16, norms in float32.
        added: gradients of an earlier part of the batch are there already.
    """
    method.train()
    known = _tensors(method)
    weights = _bytes(known)
    trained = [one for one in method.parameters() if one.requires_grad]
    for one in trained:
        one.grad = torch.zeros_like(one) if added else None
        known += [] if one.grad is None else [one.grad]
    tally = Tally([*known, image])
    begun = tally.live
    hooks = _norms_in_float(method) if half else []
    with tally:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            loss = method.rehearse_training(image)
        activations = tally.live - begun
        loss.backward()
    for hook in hooks:
        hook.remove()
    for one in trained:
        one.grad = None
    return Footprint(weights, _bytes(trained), 0, activations, tally.peak)


@torch.no_grad()
def prediction(method: Method, image: Tensor, *, offload: bool = False) -> Footprint:
    """Bytes of one prediction, (B,3,H,W); real tensors or fakes."""
    method.eval()
    weights = _bytes(_tensors(method))
    own = {name: _bytes(_tensors(part)) for name, part in method.parts.items()}
    tally, peaks = Tally([*_tensors(method), image]), dict.fromkeys(own, 0)

    @contextmanager
    def watched(name: str) -> Iterator[None]:
        tally.peak, before = tally.live, max(tally.peak, peaks.get("", 0))
        yield
        peaks[name], peaks[""] = max(peaks[name], tally.peak), max(before, tally.peak)

    with tally, _entries(method):
        for name, part in method.parts.items():
            surround(part, partial(watched, name))
        method.rehearse_prediction(image)
    peak = max(tally.peak, peaks.get("", 0))
    if offload:
        others = weights - sum(own.values())
        alone = [peaks[name] - weights + own[name] for name in own]
        between = max(tally.peak - weights, 0) + max(own.values(), default=0)
        peak = max(*alone, between) + others
    return Footprint(weights, 0, 0, 0, peak)


@contextmanager
def _entries(method: Method) -> Iterator[None]:
    """Take off at the end what the block put around the networks' entries."""
    before = {name: dict(vars(part)) for name, part in method.parts.items()}
    try:
        yield
    finally:
        for name, part in method.parts.items():
            vars(part).clear()
            vars(part).update(before[name])


def _norms_in_float(method: Method) -> list[RemovableHandle]:
    """Norms under autocast as CUDA runs them, in float32; the CPU's autocast leaves them in half."""
    norms = [one for one in method.modules() if isinstance(one, nn.GroupNorm | nn.LayerNorm)]
    return [one.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for one in norms]


def _fill(method: Method) -> None:
    """Put fakes in the place of all tensors."""
    for module in method.modules():
        for name, one in module._parameters.items():
            if one is not None:
                fake = torch.empty(one.shape, dtype=one.dtype)
                module._parameters[name] = nn.Parameter(fake, one.requires_grad)
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


def _bytes(tensors: list[Any]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
