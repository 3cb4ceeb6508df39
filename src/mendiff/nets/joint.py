"""RAN's denoiser: noise, its variance, and the deep features of the clean image, from one UNet."""

from __future__ import annotations

from collections.abc import Sequence
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


class JointDenoiser(nn.Module):
    """A model of P(x, f): a UNet with variance channels, and heads that predict features from its decoder.

    Args:
        config: of the UNet, of kind "unet"; it gets twice the latents' channels to put out.
        schedule: converts what the network predicts.
        channels: c of the latents.
        widths: channels of every feature layer.

    Attributes:
        multiple: latent height and width must divide by this.

    Source: RAN (Lu et al., ICCV 2023), section 3.2; learned variance of Nichol & Dhariwal 2021, eq. 15. How
    the features leave the network is not said there: every head sees all levels of the decoder, brought to
    its grid.
    """

    def __init__(
        self, config: DenoiserConfig, schedule: NoiseSchedule, channels: int, widths: Sequence[int]
    ) -> None:
        super().__init__()
        if config.kind != "unet":
            raise InputError(
                f"denoiser: expected kind 'unet' for a feature branch in its decoder, got {config.kind!r}."
            )
        network = {"out_channels": 2 * channels, **config.network}
        self.unet = Denoiser(replace(config, network=network), schedule, channels)
        self.posterior = Posterior(schedule)
        self.multiple = self.unet.multiple
        levels = list(self.unet.network.config["block_out_channels"])
        hidden = max(levels)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(sum(levels), hidden, 1), nn.SiLU(), nn.Conv2d(hidden, width, 1))
            for width in widths
        )
        groups = self.unet.network.config["norm_num_groups"]
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for width in reversed(levels))

    def forward(
        self, x_t: Tensor, t: Tensor, grids: Sequence[tuple[int, int]]
    ) -> tuple[Estimate, list[Tensor], Tensor]:
        """(estimate with log_var, features of the clean image, what the network itself says of x0 or eps).

        Args:
            x_t: (B,c,h,w).
            t: (B,).
            grids: (h,w) of every feature layer; features come as one (B,C,h,w) each.
        """
        raw, decoded = self._raw_and_decoder(x_t, t)
        prediction, between = raw.chunk(2, dim=1)
        estimate = self.unet.estimate(x_t, prediction, t)
        estimate = replace(estimate, log_var=self.posterior.learned_log_var(between, t))
        decoded = [F.silu(norm(one)) for norm, one in zip(self.norms, decoded, strict=True)]
        features = [
            head(torch.cat([to_grid(one, grid) for one in decoded], dim=1)).to(x_t.dtype)
            for head, grid in zip(self.heads, grids, strict=True)
        ]
        return estimate, features, prediction

    def _raw_and_decoder(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the UNet puts out, and the output of every block of its decoder on the way, deepest first."""
        decoded: list[Tensor] = []

        def keep(_block: nn.Module, _inputs: object, output: Tensor) -> None:
            decoded.append(output)

        # diffusers' UNet returns its last layer only; listening spares a second copy of its forward pass.
        hooks = [block.register_forward_hook(keep) for block in self.unet.network.up_blocks]
        try:
            return self.unet.raw(x_t, t), decoded
        finally:
            for hook in hooks:
                hook.remove()
