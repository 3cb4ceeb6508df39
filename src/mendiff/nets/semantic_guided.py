"""DiAD's SG network: a ControlNet conditioned on the image, and SFF, which fuses its last two levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.errors import InputError, check_choices
from mendiff.nets.build import build
from mendiff.nets.denoiser import Control, Denoiser, DenoiserConfig
from mendiff.types import Estimate

HINT_WIDTHS = (16, 32, 96, 256)
"""Default channels of the hint block (ControlNet's): one before and one per downsampling."""


@dataclass(frozen=True)
class GuideConfig:
    """Architecture of the SG network and its connections to the denoiser.

    Attributes:
        network: diffusers config of the ControlNetModel; unspecified settings follow the denoiser.
        fusion: type of the SFF block, used if the last level is in `skips`: "in_silu" (published), "bn_relu"
            (ablation) or "none".
        skips: levels whose outputs are added to the decoder's skip connections; 1 is the finest. The middle
            block's output is always added. Empty means the last level, as published
            (`only_mid_control=True`); all levels correspond to `only_mid_control=False`.
        middle_alone: add only the middle block's output and ignore `skips` (an ablation).
        initial_outputs: initial weights of the last convolutions of the SG network's levels and hint block:
            "zero" (published) leaves a pretrained denoiser unchanged at first; "normal" for training from
            scratch.
    """

    network: dict[str, Any] = field(default_factory=dict)
    fusion: Literal["in_silu", "bn_relu", "none"] = "in_silu"
    skips: tuple[int, ...] = ()
    middle_alone: bool = False
    initial_outputs: Literal["normal", "zero"] = "zero"

    def __post_init__(self) -> None:
        check_choices(self, "guide.")


class SpatialFusion(nn.Module):
    """SFF: adds every output of the second last level to every output of the last level, through branches.

    Q_i = SiLU(P_i + sum_j F_ij(H_j)), F_ij = 3x3 convolution with stride 2, normalisation, activation. The
    outer SiLU is in the published code, not in the paper.

    Args:
        sources: channels of the H_j.
        widths: channels of the P_i.
        kind: "in_silu" or "bn_relu".

    Source: DiAD (He et al., AAAI 2024), eq. 8.
    """

    def __init__(self, sources: Sequence[int], widths: Sequence[int], kind: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(_branch(source, width, kind) for width in widths) for source in sources
        )

    @property
    def _all(self) -> list[nn.Sequential]:
        return [one for one in self.branches.modules() if isinstance(one, nn.Sequential)]

    def forward(self, finer: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        """The fused outputs Q_i, from the H_j, (B,C_j,2h,2w), and the P_i, (B,C,h,w)."""
        height, width = last[0].shape[-2:]
        if height * width == 1:
            raise InputError(
                "image size: expected at least 2 positions at the SG network's lowest level for instance "
                "normalisation, got 1x1; choose larger images or crops, or fewer levels."
            )
        branches, fused = self._all, []
        for to, own in enumerate(last):
            column = branches[to :: len(last)]  # branches to this destination, by source
            total = torch.stack([branch(source) for branch, source in zip(column, finer, strict=True)]).sum(0)
            fused.append(F.silu(own + total))
        return fused


def _branch(source: int, width: int, kind: str) -> nn.Sequential:
    conv = nn.Conv2d(source, width, 3, stride=2, padding=1, bias=False)
    if kind == "bn_relu":
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(conv, nn.InstanceNorm2d(width, eps=1e-5), nn.SiLU())


class SemanticGuide(nn.Module):
    """The SG network: a copy of the denoiser's encoder with the image as additional input, followed by SFF.

    Args:
        config: see GuideConfig.
        unet: the denoiser's network, whose encoder and middle block are copied.
        factor: downscaling factor of the codec, which is also that of the hint block.

    Source: DiAD (He et al., AAAI 2024), section 4.1; ControlNet (Zhang & Agrawala 2023).
    """

    def __init__(self, config: GuideConfig, unet: Any, factor: int) -> None:
        super().__init__()
        network = _make_network(config, unet, factor)
        # Separate from the network, so that the hint is computed once and not at every step.
        self.hint = network.controlnet_cond_embedding
        network.controlnet_cond_embedding = nn.Identity()
        self.network = network
        ends = [*network.controlnet_down_blocks, network.controlnet_mid_block]
        if config.initial_outputs == "normal":
            for conv in (*ends, self.hint.conv_out):
                conv.reset_parameters()
        self.outputs = int(network.config["layers_per_block"]) + 1  # of every level
        levels = len(network.config["block_out_channels"])
        self._skips = frozenset(config.skips or (levels,)) if not config.middle_alone else frozenset()
        if not self._skips <= set(range(1, levels + 1)):
            raise InputError(
                f"skips: expected levels 1 to {levels} of the SG network, got {list(config.skips)}."
            )
        self.fusion: SpatialFusion | None = None
        used = set(self._skips)
        if config.fusion != "none" and levels in used:
            if levels < 2:
                raise InputError(f"fusion: expected an SG network of two levels at least, got {levels}.")
            widths = [conv.out_channels for conv in network.controlnet_down_blocks]
            sources = widths[-2 * self.outputs : -self.outputs]
            last = widths[-self.outputs :]
            self.fusion = SpatialFusion(sources, last, config.fusion)
            used.add(levels - 1)
        for index, conv in enumerate(network.controlnet_down_blocks):
            conv.requires_grad_(index // self.outputs + 1 in used)  # other outputs are unused

    def embed(self, hint: Tensor) -> Tensor:
        """Embed the hint image, (B,3,H,W) to (B,C,H/f,W/f); the same for all timesteps."""
        embedding: Tensor = self.hint(hint)
        return embedding

    def outputs_at(self, x_t: Tensor, t: Tensor, prompt: Tensor, embedding: Tensor) -> list[Tensor]:
        """All outputs after fusion, finest level first and middle block last, each (B,C,h,w).

        Args:
            x_t: noisy latents, (B,c,h,w).
            t: timesteps, (B,).
            prompt: embeddings, (B,L,D).
            embedding: see embed.
        """
        down, middle = self.network(x_t, t, prompt, embedding, return_dict=False)
        down = list(down)
        if self.fusion is not None:
            count = self.outputs
            down[-count:] = self.fusion(down[-2 * count : -count], down[-count:])
        return [*down, middle]

    def forward(self, x_t: Tensor, t: Tensor, embedding: Tensor, prompt: Tensor) -> Control:
        """Residuals for the denoiser's skips and middle block; arguments as for outputs_at."""
        *down, middle = self.outputs_at(x_t, t, prompt, embedding)
        nothing = torch.zeros((), dtype=middle.dtype, device=middle.device)
        chosen = [
            one if index // self.outputs + 1 in self._skips else nothing for index, one in enumerate(down)
        ]
        return chosen, middle


class GuidedDenoiser(nn.Module):
    """A denoiser that is conditioned on the image through the SG network.

    Args:
        config: config of the denoiser, of kind "conditional_unet".
        guide: config of the SG network; None for a plain latent diffusion model.
        schedule: noise schedule, used to convert predictions.
        channels: number of latent channels.
        factor: downscaling factor of the codec.

    Attributes:
        multiple: divisor of the latent height and width.
    """

    def __init__(
        self,
        config: DenoiserConfig,
        guide: GuideConfig | None,
        schedule: NoiseSchedule,
        channels: int,
        factor: int,
    ) -> None:
        super().__init__()
        if guide is not None and config.kind != "conditional_unet":
            raise InputError(
                f"denoiser: expected kind 'conditional_unet' with an SG network, got {config.kind!r}."
            )
        self.unet = Denoiser(config, schedule, channels)
        self.guide = None if guide is None else SemanticGuide(guide, self.unet.network, factor)
        self.multiple = self.unet.multiple

    def embed(self, hint: Tensor) -> Tensor | None:
        """See SemanticGuide.embed; None without an SG network."""
        return None if self.guide is None else self.guide.embed(hint)

    def forward(self, x_t: Tensor, t: Tensor, embedding: Tensor | None) -> Estimate:
        """Estimate at (x_t, t), (B,c,h,w) and (B,), given the embedding of the images from `embed`."""
        return self.unet(x_t, t, control=self._control(x_t, t, embedding))  # type: ignore[no-any-return]

    def raw(self, x_t: Tensor, t: Tensor, embedding: Tensor | None) -> Tensor:
        """The network's output, (B,c,h,w); arguments as for forward."""
        return self.unet.raw(x_t, t, control=self._control(x_t, t, embedding))

    def _control(
        self, x_t: Tensor, t: Tensor, embedding: Tensor | None
    ) -> Callable[[Tensor], Control] | None:
        if self.guide is None or embedding is None:
            return None
        return partial(self.guide, x_t, t, embedding)

    def restart_guide(self) -> None:
        """Copy the denoiser's encoder to the SG network again, after loading a pretrained denoiser."""
        if self.guide is not None:
            copy_encoder(self.unet.network, self.guide.network)

    def train_decoder_only(self) -> None:
        """Freeze the denoiser's encoder, middle block and time embedding, as published."""
        self.unet.network.requires_grad_(False)
        for part in (
            self.unet.network.up_blocks,
            self.unet.network.conv_norm_out,
            self.unet.network.conv_out,
        ):
            part.requires_grad_(True)


def _make_network(config: GuideConfig, unet: Any, factor: int) -> Any:
    from diffusers import ControlNetModel

    halvings = factor.bit_length() - 1
    if 2**halvings != factor or (
        halvings >= len(HINT_WIDTHS) and "conditioning_embedding_out_channels" not in (config.network)
    ):
        raise InputError(f"codec: expected a factor of 1, 2, 4 or 8 with an SG network, got {factor}.")
    common = set(signature(ControlNetModel.__init__).parameters) & set(unet.config)
    settings = {name: unet.config[name] for name in sorted(common)}
    settings["conditioning_embedding_out_channels"] = list(HINT_WIDTHS[: halvings + 1])
    network = build(ControlNetModel, settings | config.network, "guide.network")
    reached = 2 ** (len(network.config["conditioning_embedding_out_channels"]) - 1)
    if reached != factor:
        raise InputError(
            f"conditioning_embedding_out_channels: expected {halvings + 1} widths for a codec of factor "
            f"{factor}, got {list(network.config['conditioning_embedding_out_channels'])}."
        )
    copy_encoder(unet, network)
    return network


def copy_encoder(unet: Any, guide: Any) -> None:
    """Copy the denoiser's encoder and middle block to the SG network where the architectures match."""
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        state: Mapping[str, Tensor] = getattr(unet, part).state_dict()
        own = getattr(guide, part).state_dict()
        if state.keys() == own.keys() and all(state[key].shape == own[key].shape for key in own):
            getattr(guide, part).load_state_dict(state)
