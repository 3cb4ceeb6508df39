"""The models that `speed.py` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.published import published_diad, published_glad
from mendiff.methods.base import Method, find_method, find_preset
from mendiff.methods.config import override
from mendiff.nets.denoiser import plain_unet

NEVER = {"threshold": 1e9}
"""A finite threshold that no stop score exceeds."""
MID = {
    **NEVER,
    "image_size": 256,
    "denoiser.network": {
        "sample_size": 32,
        "block_out_channels": [128, 256, 512],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "codec.network.block_out_channels": [64, 128, 256, 256],
    "features.name": "vit_small_patch8_224.dino",
}
"""GLAD at half the published widths: a UNet of 74 M parameters on latents of 32x32."""


@dataclass(frozen=True)
class Case:
    """A model and what is measured of it.

    Attributes:
        method, preset, changes: its config.
        batch: images per batch.
        published: its prediction in the published order, if there is one.
        training: measure training steps instead of predictions.
        variants: rows by name, with further changes of the config; their images are predicted in flight, in
            batches of FLIGHT.
    """

    method: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)
    batch: int = 2
    published: Callable[[Any, Tensor, Tensor], Any] | None = None
    training: bool = False
    variants: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        """Of the method."""
        return override(find_preset(self.method, self.preset), self.changes)

    @property
    def adaptive(self) -> bool:
        """Whether predictions search a stop timestep."""
        measured = not self.training and not self.variants
        return measured and bool(getattr(self.config, "adaptive", False))

    def with_steps(self, count: int) -> Case:
        """The same with another number of sampler steps."""
        return replace(self, changes={**self.changes, "sampler_steps": count})


SIZE = {"image_size": 256}
SAME = {**SIZE, "codec.factor": 4, "denoiser.network": plain_unet(64, 96, 128)}
"""The same network for several methods, so that only their procedures differ."""
LOOP = {"start_timesteps": [750], "sampler_steps": 25, "spacing": "leading", "adaptive": True, **NEVER}
FLIGHT = 2
STARTS = {"equal": 3 * [650], "mixed": [450, 650, 850]}
SMALL = {**SIZE, **NEVER, "rewind": 0}
CASES = {
    "glad-mid": Case("glad", "paper", MID, published=published_glad),
    "glad-full": Case("glad", "paper", NEVER, batch=1, published=published_glad),
    "diad-full": Case("diad", "paper", SIZE, batch=1, published=published_diad),
    "glad-tiny": Case("glad", "tiny", SIZE, batch=4),
    "diad-tiny": Case("diad", "tiny", SIZE, batch=4),
    "ran-tiny": Case("ran", "tiny", SIZE, batch=4),
    "glad-small": Case("glad", "small", SMALL, batch=4, published=published_glad),
    "diad-small": Case("diad", "small", SIZE, batch=4, published=published_diad),
    "ran-small": Case("ran", "small", SIZE, batch=4),
    "in-flight": Case(
        "glad",
        "small",
        {**SMALL, "image_size": 128, "start_timesteps": STARTS["equal"]},
        batch=4,
        variants={name: {"start_timesteps": starts} for name, starts in STARTS.items()},
    ),
    "same-ran-1-draw": Case("ran", "tiny", SAME, batch=4),
    "same-ran-4-draws": Case("ran", "tiny", {**SAME, "draws": 4}, batch=4),
    "same-glad-one-step": Case("glad", "tiny", SAME, batch=4),
    "same-glad-25-steps": Case("glad", "tiny", {**SAME, **LOOP}, batch=4),
    "train-glad-tiny": Case("glad", "tiny", {}, training=True),
    "train-glad-mid": Case("glad", "paper", MID, training=True),
}


def build(case: Case, device: str) -> tuple[Method, Tensor]:
    """The method with random weights and prompts, and a batch of smooth images (B,3,S,S) in [0,1]."""
    torch.manual_seed(0)
    config = case.config
    method: Any = find_method(case.method)(config).eval()
    for denoiser in (one for one in method.modules() if getattr(one, "prompt", None) is not None):
        denoiser.set_prompts(*torch.randn(2, *denoiser.prompt.shape))
    side = config.image_size or 256
    coarse = torch.rand(case.batch, 3, 8, 8)
    image = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return method.to(device), image.to(device)
