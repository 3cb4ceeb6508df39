"""FSDP with Lightning: weights, gradients and optimizer state in a shard per process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from anomalib.models.components.base import AnomalibModule
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy, ParallelStrategy
from torch import nn
from torch.distributed import all_gather_object
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    StateDictType,
)

from mendiff.methods.base import Method, MethodConfig
from mendiff.training.optimizers import COMPUTED_IN
from mendiff.training.sharding import unshard, whole_weights

# anomalib finds only direct subclasses of AnomalibModule, so shared code is in mixins.
if TYPE_CHECKING:
    Host = AnomalibModule
else:
    Host = object


class Sharded(FSDPStrategy):
    """Lightning's FSDP, also on the CPU, with checkpoints like those of a single process.

    Args:
        precision: Lightning's name of it, as trainer_precision gives it.
        kind: of the devices, such as "cuda".
    """

    def __init__(self, precision: Any, kind: str) -> None:
        # Autocast instead of FSDP's mixed precision, which would also round buffers.
        super().__init__(mixed_precision=MixedPrecision(), precision_plugin=_Computing(precision, kind))

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    @property
    def _root(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _setup_model(self, model: nn.Module) -> nn.Module:
        # Wrapped here, because Lightning needs a device index, which the CPU does not have.
        settings: dict[str, Any] = {"sharding_strategy": self.sharding_strategy, **self.kwargs}
        root = FullyShardedDataParallel(
            model, mixed_precision=self.mixed_precision, device_id=self.root_device, **settings
        )
        return super()._setup_model(root)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """State of the optimizer as without FSDP, in the first process; empty state in others."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        own, numbers = optimizer.state_dict(), {name: at for at, name in enumerate(self._names(optimizer))}
        held: list[Any] = [None] * self.world_size
        all_gather_object(held, {moment for kept in own["state"].values() for moment in kept})
        whole: dict[int, dict[str, Any]] = {}
        # Gathered singly: on the CPU, torch would gather all of them into the same memory.
        for moment in sorted(set().union(*held)):
            some = {at: {moment: kept[moment]} for at, kept in own["state"].items() if moment in kept}
            with self._as_whole(first_only=True):
                gathered = FullyShardedDataParallel.optim_state_dict(
                    self._root, optimizer, own | {"state": some}
                )
            for name, kept in gathered.get("state", {}).items():
                whole.setdefault(numbers[name], {}).update(kept)
        return own | {"state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        with whole_weights(self.model):
            self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            named = {
                "state": {names[at]: kept for at, kept in stored["state"].items()},
                "param_groups": [
                    group | {"params": [names[at] for at in group["params"]]}
                    for group in stored["param_groups"]
                ],
            }
            with self._as_whole(first_only=False):
                own = FullyShardedDataParallel.optim_state_dict_to_load(self._root, optimizer, named)
            optimizer.load_state_dict(own)

    def _names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """FSDP's names of an optimizer's parameters, in their order."""
        assert self.lightning_module is not None
        names = {one: name for name, one in self.lightning_module.named_parameters()}
        return [names[one] for group in optimizer.param_groups for one in group["params"]]

    def _as_whole(self, first_only: bool) -> AbstractContextManager:
        """Context in which torch gathers whole tensors on the CPU, in the first process or in all."""
        config = {"offload_to_cpu": True, "rank0_only": first_only}
        return FullyShardedDataParallel.state_dict_type(
            self._root,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(**config),
            FullOptimStateDictConfig(**config),
        )


class _Computing(FSDPPrecision):
    """Mixed precision on the training device; Lightning's always uses CUDA."""

    def __init__(self, precision: Any, kind: str) -> None:
        super().__init__(precision)
        self._kind = kind

    def forward_context(self) -> AbstractContextManager:
        half = COMPUTED_IN.get(self.precision)
        return super().forward_context() if half is None else torch.autocast(self._kind, half)


class ShardedWeights(Host):
    """A module whose weights may be sharded; attributes as in MethodModule."""

    config: MethodConfig

    @property
    def method(self) -> Method:
        """The trained method."""
        raise NotImplementedError

    @property
    def _sharded(self) -> FullyShardedDataParallel | None:
        """The FSDP module with the shards."""
        root = self._trainer and self._trainer.strategy.model
        return root if isinstance(root, FullyShardedDataParallel) else None

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Context with whole weights, for calls of the networks outside of a training step."""
        strategy = self.trainer.strategy
        kind = strategy.root_device.type
        with torch.inference_mode(False), torch.autocast(kind, enabled=False), whole_weights(strategy.model):
            yield

    def gather(self) -> None:
        """Replace the shards of a training with FSDP by whole weights."""
        if self._sharded is not None:
            unshard(self._sharded, self.method)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.config.training.clip if gradient_clip_val is None else gradient_clip_val
        if self._sharded is None:
            self.clip_gradients(optimizer, clip, gradient_clip_algorithm)
        elif clip:
            self._sharded.clip_grad_norm_(clip)
