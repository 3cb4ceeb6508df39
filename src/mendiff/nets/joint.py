"""RAN's denoiser: a UNet that predicts noise, its variance, and the deep features of the clean image."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.diffusion.posterior import Posterior
from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.errors import InputError
from mendiff.nets.denoiser import Denoiser, DenoiserConfig
from mendiff.scoring.maps import to_grid
from mendiff.types import Estimate

_heard: ContextVar[list[Tensor] | None] = ContextVar("heard", default=None)
"""Outputs of the decoder blocks in the current forward pass of this thread."""


def _keep(_block: nn.Module, _inputs: object, output: Tensor) -> None:
    heard = _heard.get()
    if heard is not None:
        heard.append(output)


class JointDenoiser(nn.Module):
    """A model of P(x, f): a UNet with variance channels, and a head that predicts features from its decoder.

    Args:
        config: config of the UNet, of kind "unet"; it has twice as many output channels as the latents.
        schedule: noise schedule, used to convert predictions.
        channels: c of the latents.
        width: channels of the features.

    Attributes:
        multiple: divisor of the latent height and width.

    Source: RAN (Lu et al., ICCV 2023), section 3.2; learned variance of Nichol & Dhariwal 2021, eq. 15. The
    paper does not describe the feature head. Here it uses all decoder levels, resized to the feature grid.
    """

    def __init__(self, config: DenoiserConfig, schedule: NoiseSchedule, channels: int, width: int) -> None:
        super().__init__()
        if config.kind != "unet":
            raise InputError(
                f"denoiser: expected kind 'unet' for a feature branch in its decoder, got {config.kind!r}."
            )
        network = {"out_channels": 2 * channels, **config.network}
        self.unet = Denoiser(replace(config, network=network), schedule, channels)
        self.posterior = Posterior(schedule)
        self.multiple = self.unet.multiple
        # diffusers' UNet returns only its last layer, so hooks collect the decoder outputs. Threads share the
        # network, so the outputs are stored per call and not in the network.
        for block in self.unet.network.up_blocks:
            block.register_forward_hook(_keep)
        levels = list(self.unet.network.config["block_out_channels"])
        groups, hidden = self.unet.network.config["norm_num_groups"], max(levels)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, one) for one in reversed(levels))
        self.head = nn.Sequential(nn.Conv2d(sum(levels), hidden, 1), nn.SiLU(), nn.Conv2d(hidden, width, 1))

    def forward(self, x_t: Tensor, t: Tensor, grid: tuple[int, int]) -> tuple[Estimate, Tensor, Tensor]:
        """(estimate with log_var, features of the clean image, raw prediction of the network).

        Args:
            x_t: noisy latents, (B,c,h,w).
            t: timesteps, (B,).
            grid: height and width of the features, which have shape (B,C,*grid).
        """
        raw, decoded = self._raw_and_decoder(x_t, t)
        prediction, between = raw.chunk(2, dim=1)
        estimate = self.unet.estimate(x_t, prediction, t)
        estimate = replace(estimate, log_var=self.posterior.learned_log_var(between, t))
        levels = [to_grid(F.silu(norm(one)), grid) for norm, one in zip(self.norms, decoded, strict=True)]
        features: Tensor = self.head(torch.cat(levels, dim=1))
        return estimate, features.to(x_t.dtype), prediction

    def _raw_and_decoder(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The UNet's output, and the outputs of its decoder blocks, deepest first."""
        decoded: list[Tensor] = []
        token = _heard.set(decoded)
        try:
            return self.unet.raw(x_t, t), decoded
        finally:
            _heard.reset(token)
