"""Whole weights where FSDP keeps shards of them, one a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


@contextmanager
def whole_weights(root: nn.Module | None) -> Iterator[None]:
    """Weights as they are without FSDP, inside of the block.

    Args:
        root: what a strategy trains; only FSDP's is changed.
    """
    if not isinstance(root, FullyShardedDataParallel):
        yield
        return
    with FullyShardedDataParallel.summon_full_params(root):
        yield


def unshard(root: nn.Module | None, network: nn.Module) -> None:
    """Give a network whole weights of its own for good, after a training with FSDP.

    Args:
        root: what a strategy trained; only FSDP's weights need gathering.
        network: in it.
    """
    with whole_weights(root):
        whole = [
            (module, name, nn.Parameter(one.detach().clone(), one.requires_grad))
            for module in network.modules()
            for name, one in module.named_parameters(recurse=False)
        ]
    for module, name, one in whole:
        setattr(module, name, one)
