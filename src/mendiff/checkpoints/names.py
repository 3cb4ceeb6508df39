"""Strict bookkeeping of weights by name: every one in its place and every place filled, or a sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from mendiff.errors import InputError

CONFIGURED = "this configuration (--set changes the networks' sizes)"


def under(prefix: str, weights: Mapping[str, Tensor], *, keep: bool = False) -> dict[str, Tensor]:
    """The weights below a prefix, which is taken off unless it is to be kept."""
    return {
        key if keep else key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def check_places(
    weights: Mapping[str, Tensor], named: Mapping[str, Tensor], places: Mapping[str, Tensor], source: str
) -> None:
    """Every weight in its place: none missing, none of another shape, none left over.

    Args:
        weights: under the names they were read with.
        named: the same tensors, or views from their beginning, under our names; works on the meta device.
        places: our names to tensors of the right shape.
        source: for messages.
    """
    used = {_identity(one) for one in named.values()}
    left = (key for key, one in weights.items() if _identity(one) not in used)
    refuse("lacks", sorted(places.keys() - named.keys()), source)
    refuse("has the unknown", sorted({*left, *(named.keys() - places.keys())}), source)
    refuse("has another shape of", _misshapen(named, places), source)


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], source: str, what: str) -> None:
    """Load every tensor of a module; a missing, unknown or misshapen one is an error that names it.

    Args:
        module: changed in place.
        weights: by the module's own names; cast to its precision.
        source: for messages: where they come from.
        what: for messages: whose weights were expected, such as "Stable Diffusion's UNet".
    """
    own = module.state_dict()
    refuse("lacks", sorted(own.keys() - weights.keys()), source, what)
    refuse("has the unknown", sorted(weights.keys() - own.keys()), source, what)
    refuse("has another shape of", _misshapen(weights, own), source, what)
    # Bytes read as numbers of another kind would be cast without a word.
    strange = sorted(key for key in own if _kind(weights[key]) != _kind(own[key]))
    refuse("has another kind of number in", strange, source, what)
    module.load_state_dict(weights)


def check_finite(weights: Mapping[str, Tensor], source: str, infinite: Collection[str] = ()) -> None:
    """Refuse NaN and infinity among weights: everything that is computed with them would be NaN, too.

    Args:
        weights: by name.
        source: for messages.
        infinite: names that may hold infinity, but neither NaN nor minus infinity.
    """
    for name, one in weights.items():
        if not one.is_floating_point() or one.is_meta or not one.numel():
            continue
        low, high = (float(bound) for bound in torch.aminmax(one.detach()))
        if not (-torch.inf < low and (high < torch.inf or name in infinite)):  # so that NaN fails too
            raise InputError(
                f"{source}: expected finite numbers, but {name!r} holds NaN or infinity: it is damaged, or "
                "its training diverged; use another."
            )


def refuse(complaint: str, keys: Iterable[str], source: str, what: str = CONFIGURED) -> None:
    """Raise the sentence for the first of some keys, unless there are none; see load_exactly."""
    keys = list(keys)
    if keys:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise InputError(f"{source}: expected the weights of {what}, but it {complaint} {keys[0]!r}{more}.")


def _misshapen(weights: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> list[str]:
    return sorted(key for key in weights.keys() & places.keys() if weights[key].shape != places[key].shape)


def _kind(tensor: Tensor) -> str:
    """What numbers a tensor holds, whatever their precision."""
    if tensor.is_floating_point():
        return "floating"
    return str(tensor.dtype) if tensor.is_complex() or tensor.dtype == torch.bool else "whole"


def _identity(tensor: Tensor) -> tuple[int, int]:
    """The same for a tensor and a view of it from its beginning, on the meta device too."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())
