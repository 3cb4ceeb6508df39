"""Denoisers: diffusers UNets with a common interface, (x_t, t) to Estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.errors import InputError, check_choices, check_count
from mendiff.nets.build import build
from mendiff.types import Estimate

Prediction = Literal["eps", "x0", "v"]
PREDICTIONS = get_args(Prediction)
Control = tuple[Sequence[Tensor], Tensor]
"""Residuals for the skip connections and for the middle block's output of a UNet2DConditionModel."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Type of the denoiser network and its prediction target.

    Attributes:
        kind: "unet" (diffusers' UNet2DModel) or "conditional_unet" (UNet2DConditionModel).
        prediction: prediction target of the network: "eps", "x0" or "v".
        network: diffusers config of the network; input and output channels follow the codec unless given.
        guidance: classifier-free guidance scale; 0 disables guidance and halves the cost ("conditional_unet"
            only).
        prompt: conditioning text; it is embedded when pretrained parts are loaded, and the embedding is
            stored with the weights ("conditional_unet" only).
        prompt_length: number of tokens of the stored prompts ("conditional_unet" only).
        categories: names of categories with their own prompts, `prompt` followed by the name
            ("conditional_unet" only); images of an unknown category use the mean of their embeddings.
    """

    kind: Literal["unet", "conditional_unet"] = "unet"
    prediction: Prediction = "eps"
    network: dict[str, Any] = field(default_factory=dict)
    guidance: float = 0.0
    prompt: str = ""
    prompt_length: int = 77
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self, "denoiser.")
        check_count("denoiser.prompt_length", self.prompt_length, 1, 10_000)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts to embed: one per category, or a single one."""
        return tuple(f"{self.prompt} {name}" for name in self.categories) or (self.prompt,)


def plain_unet(*widths: int) -> dict[str, Any]:
    """DenoiserConfig.network of a small UNet2DModel without attention: one level with one block per width."""
    return {
        "block_out_channels": list(widths),
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"] * len(widths),
        "up_block_types": ["UpBlock2D"] * len(widths),
        "norm_num_groups": 8,
        "add_attention": False,
    }


def attention_unet(*widths: int) -> dict[str, Any]:
    """DenoiserConfig.network of a UNet2DModel with self-attention on all levels except the finest.

    One level with two blocks per width; attention heads have 64 channels.
    """
    coarse = len(widths) - 1
    return {
        "block_out_channels": list(widths),
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * coarse,
        "up_block_types": ["AttnUpBlock2D"] * coarse + ["UpBlock2D"],
        "norm_num_groups": 16,
        "attention_head_dim": 64,
    }


def conditional_unet(*widths: int, attention: bool = False) -> dict[str, Any]:
    """DenoiserConfig.network of a UNet2DConditionModel for use with an SG network, without prompts.

    With attention it has transformer blocks on all levels except the finest, and two blocks per level.
    """
    network = plain_unet(*widths) | {"mid_block_type": "UNetMidBlock2D", "cross_attention_dim": 8}
    del network["add_attention"]
    if not attention:
        return network
    coarse = len(widths) - 1
    return network | {
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * coarse,
        "up_block_types": ["CrossAttnUpBlock2D"] * coarse + ["UpBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_num_groups": 16,
        "attention_head_dim": [max(1, width // 64) for width in widths],  # the number of heads, in this model
    }


class Denoiser(nn.Module):
    """A UNet that maps (x_t, t) to a consistent pair (x0, eps), with a timestep per image.

    Args:
        config: config of the network.
        schedule: noise schedule, used to convert predictions.
        channels: number of latent channels.

    Attributes:
        multiple: divisor of the latent height and width.
    """

    prompt: Tensor
    no_prompt: Tensor
    category_prompts: Tensor

    def __init__(self, config: DenoiserConfig, schedule: NoiseSchedule, channels: int) -> None:
        super().__init__()
        if config.guidance and config.kind != "conditional_unet":
            raise InputError(
                "guidance: expected 0 for a denoiser without prompts, or kind 'conditional_unet'."
            )
        if config.categories and config.kind != "conditional_unet":
            raise InputError(
                "denoiser.categories: expected none for a denoiser without prompts, or 'conditional_unet'."
            )
        self.config = config
        self.schedule = schedule
        self.network = _make_network(config, channels)
        self.multiple = 2 ** (len(self.network.config["block_out_channels"]) - 1)
        if config.kind == "conditional_unet":
            # Prompt embeddings are stored with the weights, so that inference needs no text encoder.
            width = int(self.network.config["cross_attention_dim"])
            self.register_buffer("prompt", torch.zeros(1, config.prompt_length, width))
            self.register_buffer("no_prompt", torch.zeros(1, config.prompt_length, width))
            if config.categories:
                shape = (len(config.categories), config.prompt_length, width)
                self.register_buffer("category_prompts", torch.zeros(shape))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        prompt: Tensor | None = None,
        control: Callable[[Tensor], Control] | None = None,
    ) -> Estimate:
        """Estimate at (x_t, t), with guidance if the config enables it.

        Args:
            x_t: noisy latents, (B,c,h,w).
            t: timesteps, (B,).
            prompt: embeddings that replace the stored one, (B or 1,L,D); "conditional_unet" only.
            control: maps prompt embeddings (B,L,D) to residuals; "conditional_unet" only.
        """
        if not self.config.guidance:
            return self.estimate(x_t, self.raw(x_t, t, prompt, control), t)
        prompt = self.prompt if prompt is None else prompt
        if control is None:  # both halves in one batch
            prompts = torch.cat([one.expand(len(x_t), -1, -1) for one in (self.no_prompt, prompt)])
            unguided, raw = self.raw(torch.cat([x_t, x_t]), torch.cat([t, t]), prompts).chunk(2)
        else:
            unguided, raw = (self.raw(x_t, t, one, control) for one in (self.no_prompt, prompt))
        return self.estimate(x_t, unguided + self.config.guidance * (raw - unguided), t)

    def raw(
        self,
        x_t: Tensor,
        t: Tensor,
        prompt: Tensor | None = None,
        control: Callable[[Tensor], Control] | None = None,
    ) -> Tensor:
        """The network's output, (B,c,h,w): eps, x0 or v; always float32."""
        if self.config.kind == "unet":
            raw: Tensor = self.network(x_t, t).sample
            return raw.to(x_t.dtype)
        prompt = (self.prompt if prompt is None else prompt).to(x_t).expand(x_t.shape[0], -1, -1)
        down, middle = (None, None) if control is None else control(prompt)
        raw = self.network(
            x_t, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        return raw.to(x_t.dtype)

    def estimate(self, x_t: Tensor, raw: Tensor, t: Tensor) -> Estimate:
        """Convert a raw prediction to a consistent pair (x0, eps)."""
        if self.config.prediction == "eps":
            return Estimate(self.schedule.x0_from_eps(x_t, raw, t), raw)
        x0 = raw if self.config.prediction == "x0" else self.schedule.x0_from_v(x_t, raw, t)
        return Estimate(x0, self.schedule.eps_from_x0(x_t, x0, t))

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The training target of the network, given x0 and eps, (B,c,h,w)."""
        if self.config.prediction == "eps":
            return eps
        a_t, s_t = self.schedule.scales(t, x0.dtype)
        return x0 if self.config.prediction == "x0" else a_t * eps - s_t * x0

    def set_prompts(self, prompts: Tensor, no_prompt: Tensor) -> None:
        """Store the embeddings of the prompts, (1,L,D) or one per category, and of the empty prompt."""
        # Cloned because tensors that share memory cannot be saved.
        self.no_prompt = no_prompt.to(self.no_prompt).clone()
        self.prompt = prompts.to(self.prompt).mean(0, keepdim=True).clone()
        if self.config.categories:
            self.category_prompts = prompts.to(self.category_prompts).clone()

    def choose_category(self, name: str) -> None:
        """Use the prompt of a category."""
        if name not in self.config.categories:
            known = ", ".join(self.config.categories)
            raise InputError(f"category: expected one that has a prompt ({known}), got {name!r}.")
        at = self.config.categories.index(name)
        self.prompt = self.category_prompts[at : at + 1].clone()


def _make_network(config: DenoiserConfig, channels: int) -> Any:
    settings = {"in_channels": channels, "out_channels": channels} | config.network
    if config.kind == "unet":
        from diffusers import UNet2DModel

        return build(UNet2DModel, settings, "denoiser.network")
    from diffusers import UNet2DConditionModel

    return build(UNet2DConditionModel, settings, "denoiser.network")
