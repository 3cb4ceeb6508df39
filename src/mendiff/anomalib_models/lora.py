"""LoRA, by peft: training an addition of low rank to pretrained weights; saved models know nothing of it."""

from __future__ import annotations

import torch
from torch import nn

from mendiff.methods.base import Method

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
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for network in method.adapted:
            names = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network)


def merge_lora(method: Method) -> None:
    """Add the learned additions to the weights for good: the networks are plain ones again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for network in method.adapted:
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
                    setattr(parent, name, layer.get_base_layer())
