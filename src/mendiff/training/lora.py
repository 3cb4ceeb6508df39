"""LoRA, by peft: training an addition of low rank to pretrained weights; saved models know nothing of it."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from mendiff.errors import InputError
from mendiff.methods.base import Method

EXTRA = "pip install 'mendiff[lora]'"
LAYERS = (nn.Linear, nn.Conv2d)


def add_lora(method: Method, rank: int, seed: int) -> None:
    """Freeze the pretrained networks of a method and add what is trained in their place; see Method.adapted.

    What is trained beside them, such as DiAD's outputs of the SG network, is trained as before. Nothing
    changes in what the method computes until the first step.

    Args:
        method: with its pretrained weights.
        rank: of the additions.
        seed: of their first weights; the global random state is not touched.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for network in method.adapted:
            names = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network)


def check_peft() -> None:
    """Refuse where the package is not installed."""
    if not has_peft():
        raise InputError(
            f"training.lora_rank: expected the package peft for LoRA, but it is not installed; {EXTRA}, "
            "or set 0."
        )


def has_peft() -> bool:
    """Whether the package is installed."""
    return find_spec("peft") is not None


def merge_lora(method: Method) -> None:
    """Add the learned additions to the weights for good: the networks are plain ones again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for network in method.adapted:
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
                    setattr(parent, name, layer.get_base_layer())
