"""Full weights of networks that FSDP shards over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


@contextmanager
def whole_weights(root: nn.Module | None) -> Iterator[None]:
    """Gather full weights inside the block.

    Args:
        root: trained module; only FSDP modules are changed.
    """
    if not isinstance(root, FullyShardedDataParallel):
        yield
        return
    with FullyShardedDataParallel.summon_full_params(root):
        yield


def unshard(root: nn.Module | None, network: nn.Module) -> None:
    """Replace sharded weights of a network by full weights, after training with FSDP.

    Args:
        root: trained module; only FSDP modules are changed.
        network: network in it.
    """
    with whole_weights(root):
        whole = [
            (module, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
            for module in network.modules()
            for name, weight in module.named_parameters(recurse=False)
        ]
    for module, name, weight in whole:
        setattr(module, name, weight)
