"""LoRA with peft: trains low-rank updates of pretrained weights, which are merged before saving."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from mendiff.errors import InputError
from mendiff.methods.base import Method

EXTRA = "pip install 'mendiff[lora]'"
LAYERS = (nn.Linear, nn.Conv2d)


def add_lora(method: Method, rank: int, seed: int) -> None:
    """Freeze the pretrained networks of a method and add trainable LoRA layers; see Method.adapted.

    Other trained parts, such as the outputs of DiAD's SG network, are trained as before. Outputs do not
    change until the first step.

    Args:
        method: method with pretrained weights.
        rank: rank of the updates.
        seed: seed of their initial weights; the global random state is not changed.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for network in method.adapted:
            names = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network)


def check_peft() -> None:
    """InputError if peft is not installed."""
    if not has_peft():
        raise InputError(
            f"training.lora_rank: expected the package peft for LoRA, but it is not installed; {EXTRA}, "
            "or set 0."
        )


def has_peft() -> bool:
    """Whether peft is installed."""
    return find_spec("peft") is not None


def merge_lora(method: Method) -> None:
    """Merge the LoRA layers into the weights and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for network in method.adapted:
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
                    setattr(parent, name, layer.get_base_layer())
