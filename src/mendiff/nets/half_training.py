"""Faster bfloat16 training of diffusers networks on CPUs; the computed function is the same.

Convolutions take half the time in channels-last order. torch's gradients of group norm in that order and of
fused attention are slower than the gain, so both are replaced. Float32, inference and other devices are not
affected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MOST_TOKENS = 512
"""Up to this number of positions plain matrix products are faster than fused attention."""


def lay_out(network: nn.Module) -> None:
    """Prepare a network for this training, in place; weights and their names are not changed."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    fused: type = AttnProcessor2_0
    for part in network.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = GroupNorm
        if isinstance(part, Attention) and type(part.processor) is fused:
            part.set_processor(ShortAttention())  # type: ignore[arg-type]  # any callable will do
    network.register_forward_pre_hook(_channels_last)


def _in_half_on_cpu(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _channels_last(_network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Convert the first input to channels-last order; later activations keep it."""
    if not inputs or not _in_half_on_cpu(inputs[0]):
        return None
    return inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]


class ShortAttention:
    """Attention with plain matrix products for few positions in bfloat16 on CPUs; fused otherwise."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self._plain, self._fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        tokens = hidden_states[0, 0].numel() if hidden_states.ndim == 4 else hidden_states.shape[1]
        plain = tokens <= MOST_TOKENS and _in_half_on_cpu(hidden_states)
        kind = self._plain if plain else self._fused
        found: Tensor = kind(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return found


class GroupNorm(nn.GroupNorm):
    """Group norm with faster gradients for bfloat16 in channels-last order."""

    def forward(self, input: Tensor) -> Tensor:
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        if not last or input.dtype != torch.bfloat16 or not self.affine or not _in_half_on_cpu(input):
            return super().forward(input)
        return _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[no-any-return]


class _GroupNorm(torch.autograd.Function):
    """Group norm whose gradient is an affine map of x and dy per image and channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        size = x.shape[0], x.shape[1], x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(x, weight, bias, *size, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        count, channels, height, width = x.shape
        groups, size = mean.shape[1], height * width
        mean, rstd, gain = mean.float(), rstd.float(), weight.float()
        rows, slopes = (one.permute(0, 2, 3, 1).reshape(count, size, channels) for one in (x, dy.to(x.dtype)))
        ones = x.new_ones(count, 1, size)  # matrix products accumulate in float32

        def summed(values: Tensor) -> Tensor:
            return torch.bmm(ones, values).float().view(count, groups, -1)

        total, moment = summed(slopes), summed(slopes * rows)
        normed = (moment - mean[..., None] * total) * rstd[..., None]  # sums of dy times the normalised x
        by_group = gain.view(1, groups, -1)
        share = size * channels // groups
        level = (by_group * total).sum(-1, keepdim=True) / share
        slope = (by_group * normed).sum(-1, keepdim=True) / share
        # dx = rstd (gain dy - level - slope (x - mean) rstd)
        spread = rstd[..., None]
        of_dy, of_x = spread * by_group, (-spread.square() * slope).expand(-1, -1, channels // groups)
        rest = (spread * (spread * slope * mean[..., None] - level)).expand_as(of_x)
        factors = (one.reshape(count, 1, channels).to(x.dtype) for one in (of_dy, of_x, rest))
        of_dy, of_x, rest = factors
        dx = torch.addcmul(rest, of_dy, slopes).addcmul_(of_x, rows)
        dx = dx.view(count, height, width, channels).permute(0, 3, 1, 2)
        return dx, normed.sum(0).flatten().to(weight), total.sum(0).flatten().to(weight), None, None
