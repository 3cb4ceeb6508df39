"""Strict matching of weights by name and shape."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from mendiff.errors import InputError

CONFIGURED = "this configuration (--set changes the networks' sizes)"


def under(prefix: str, weights: Mapping[str, Tensor], *, keep: bool = False) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix; the prefix is removed unless `keep` is set."""
    return {
        key if keep else key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def check_places(
    weights: Mapping[str, Tensor], named: Mapping[str, Tensor], places: Mapping[str, Tensor], source: str
) -> None:
    """Check that all weights are used and that none is missing or misshapen.

    Args:
        weights: the original state dict.
        named: the same tensors, or views from their beginning, with our names; the meta device is supported.
        places: our names with tensors of the right shape.
        source: origin of the weights, for messages.
    """
    used = {_identity(tensor) for tensor in named.values()}
    left = (key for key, tensor in weights.items() if _identity(tensor) not in used)
    refuse("lacks", sorted(places.keys() - named.keys()), source)
    refuse("has the unknown", sorted({*left, *(named.keys() - places.keys())}), source)
    refuse("has another shape of", _misshapen(named, places), source)


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], source: str, what: str) -> None:
    """Load a module's state dict; a missing, unknown or misshapen tensor is an error that names it.

    Args:
        module: changed in place.
        weights: state dict with the module's names; cast to its precision.
        source: origin of the weights, for messages.
        what: expected network, for messages, such as "Stable Diffusion's UNet".
    """
    own = module.state_dict()
    refuse("lacks", sorted(own.keys() - weights.keys()), source, what)
    refuse("has the unknown", sorted(weights.keys() - own.keys()), source, what)
    refuse("has another shape of", _misshapen(weights, own), source, what)
    # Tensors of another kind (floating, integer, boolean) would be cast silently.
    strange = sorted(key for key in own if _kind(weights[key]) != _kind(own[key]))
    refuse("has another kind of number in", strange, source, what)
    module.load_state_dict(weights)


def check_finite(weights: Mapping[str, Tensor], source: str, infinite: Collection[str] = ()) -> None:
    """Refuse NaN and infinity in weights.

    Args:
        weights: state dict.
        source: origin of the weights, for messages.
        infinite: names that may contain infinity, but neither NaN nor minus infinity.
    """
    for name, one in weights.items():
        if not one.is_floating_point() or one.is_meta or not one.numel():
            continue
        low, high = (float(bound) for bound in torch.aminmax(one.detach()))
        if not (-torch.inf < low and (high < torch.inf or name in infinite)):  # so that NaN fails too
            raise InputError(
                f"{source}: expected finite numbers, but {name!r} has NaN or infinity: it is damaged, or its "
                "training diverged; use other weights."
            )


def refuse(complaint: str, keys: Iterable[str], source: str, what: str = CONFIGURED) -> None:
    """Raise an InputError for the first of the keys, if there are any; see load_exactly."""
    keys = list(keys)
    if keys:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise InputError(f"{source}: expected the weights of {what}, but it {complaint} {keys[0]!r}{more}.")


def _misshapen(weights: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> list[str]:
    return sorted(key for key in weights.keys() & places.keys() if weights[key].shape != places[key].shape)


def _kind(tensor: Tensor) -> str:
    """The kind of numbers of a tensor: floating, integer or boolean."""
    if tensor.is_floating_point():
        return "floating"
    return str(tensor.dtype) if tensor.is_complex() or tensor.dtype == torch.bool else "whole"


def _identity(tensor: Tensor) -> tuple[int, int]:
    """An identity that a tensor shares with views from its beginning, also on the meta device."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())
