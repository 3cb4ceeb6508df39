"""Configs that all methods share: training, images, and the networks of diffusion methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from mendiff.diffusion.schedule import Kind
from mendiff.errors import (
    LARGEST_SIDE,
    InputError,
    check_choices,
    check_chosen_channels,
    check_count,
    check_range,
)
from mendiff.nets.codec_config import PIXEL_KINDS, CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeaturesConfig

TIMESTEPS = 1000
"""T of all noise schedules."""
Precision = Literal["auto", "float32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor"]
OPTIMIZERS = get_args(Optimizer)


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings of every method.

    Attributes:
        steps: optimiser steps.
        minutes: time budget of `mendiff fit`. Faster machines train for up to four times the steps; 0 keeps
            the steps.
        batch_size: images per step.
        accumulate: number of parts of a batch that are processed one after another with accumulated
            gradients; a divisor of batch_size. It reduces memory and hardly increases time.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time, the
            same gradients.
        precision: precision of activations: "float32", "bf16", "fp16" (CUDA only), or "auto" for bf16 where
            the hardware is fast at it. Weights and optimiser states stay in float32.
        optimizer: "adamw", as published for all three methods; "adamw8bit", with moments in 8 bits (a quarter
            of their memory; CUDA and bitsandbytes); or "adafactor", with a factored second moment and no
            first moment (almost no memory). Adafactor's learning rate is relative to the size of a weight
            tensor and should be about thirty times as high.
        lora_rank: rank of the trained addition to each matrix of the pretrained networks (LoRA, by peft),
            which is merged when the model is saved; 0 trains the weights.
        cache_gigabytes: memory for results of the frozen networks on training images, so that they are
            computed once: latents of an autoencoder (GLAD, DiAD), features (RAN), or GLAD's variants. Images
            beyond this memory are computed at every step; 0 disables the cache. Only for images that are the
            same at every step (no crops).
        learning_rate: learning rate of the optimiser.
        weight_decay: weight decay of the optimiser.
        warmup: steps of linear warm-up.
        cosine: decrease the learning rate to zero along a half cosine; otherwise it is constant.
        clip: largest gradient norm; 0 does not clip.
        ema: decay of the exponential moving average of the weights, which becomes the model; 0 for none.
    """

    steps: int = 4000
    minutes: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    precision: Precision = "auto"
    optimizer: Optimizer = "adamw"
    lora_rank: int = 0
    cache_gigabytes: float = 0.0
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    warmup: int = 0
    cosine: bool = False
    clip: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate"):
            check_range(f"training.{name}", getattr(self, name), 1)
        for name in ("minutes", "learning_rate", "weight_decay", "warmup", "clip", "cache_gigabytes"):
            check_range(f"training.{name}", getattr(self, name), 0)
        check_range("training.lora_rank", self.lora_rank, 0)
        check_range("training.ema", self.ema, 0, 1)
        check_choices(self, "training.")


SMALL_TRAINING = TrainingConfig(
    steps=1400, batch_size=16, learning_rate=3e-4, warmup=50, cosine=True, ema=0.995
)
"""Training from scratch of the presets `small`, whose networks have about ten million parameters."""


@dataclass(frozen=True)
class MethodConfig:
    """Settings of every method.

    Attributes:
        image_size: side of the square images that the method processes, in pixels; 0 uses the size of the
            training images.
        crop: side of random training crops; 0 trains on whole images.
        training: see TrainingConfig.
        bit_depth: number of significant bits in 16-bit and float files, 8 to 31; 0 uses the value in the
            files. 8-bit images are not affected.
        channels: numbers of the channels of image files, from 0, that become red, green and blue, or of a
            single one that becomes grey; empty for grey and RGB images as they are.
        upright: rotate every part upright and centre it, see mendiff.synthesis.upright: "always", "never", or
            "auto", which decides from the good images when a model is fitted.
        resize: "stretch" images to the square, or "letterbox" them: keep the aspect ratio and pad. The
            padding never reaches maps, scores or metrics.
        tile: side in pixels of overlapping tiles into which images are cut; each is a square input of the
            networks. 0 uses whole images.
        tile_overlap: least share of a tile that it has in common with the next, up to 0.75.
        RENAMED: dotted names of fields in earlier versions and their current names.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    image_size: int = 256
    crop: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)
    bit_depth: int = 0
    channels: tuple[int, ...] = ()
    upright: Literal["never", "always", "auto"] = "never"
    resize: Literal["stretch", "letterbox"] = "stretch"
    tile: int = 0
    tile_overlap: float = 0.25

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("image_size", "crop", "tile"):
            check_count(name, getattr(self, name), 0, LARGEST_SIDE)
        check_range("tile_overlap", self.tile_overlap, 0, 0.75)
        if self.tile and self.upright == "always":
            raise InputError("upright: expected never with tile, since a tile shows a part only in part.")
        if self.tile and self.resize == "letterbox":
            raise InputError("resize: expected stretch with tile, which keeps the aspect ratio anyway.")
        if self.bit_depth:
            check_range("bit_depth", self.bit_depth, 8, 31)
        check_chosen_channels(self.channels)

    def for_tiles(self) -> Any:
        """The config without what needs aligned images: a tile may show any place of a part."""
        return replace(self, upright="never")

    def check_cache(self, reasons: Mapping[str, bool] = MappingProxyType({})) -> None:
        """Raise InputError for a cache of values that change at every step or take no time.

        Args:
            reasons: further reasons against a cache, and whether each applies.
        """
        crops = f"crops of {self.crop} pixels are new at every step (--set crop=0)"
        known = {**reasons, crops: self.crop > 0}
        reason = next((text for text, applies in known.items() if applies), None)
        if self.training.cache_gigabytes and reason:
            raise InputError(
                f"training.cache_gigabytes: expected 0, got {self.training.cache_gigabytes:g}, although "
                f"{reason}."
            )


@dataclass(frozen=True)
class DiffusionConfig(MethodConfig):
    """Settings that GLAD, DiAD and RAN share.

    Attributes:
        schedule: noise schedule, "linear" or "scaled_linear" (Stable Diffusion's).
        codec, denoiser, features: see their configs.
        train_timesteps: lowest and highest timestep (exclusive) of training.
        min_snr_gamma: gamma of the min-SNR loss weights; 0 weights all timesteps equally (published).
        start_timesteps: timesteps at which noise is added; the maps of several start timesteps are averaged.
        LATEST_START: highest start timestep of the method.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "train_t": "train_timesteps",
        "training.cache_latents": "training.cache_gigabytes",
        "readout.places": "readout.position_grid",
    }
    LATEST_START: ClassVar[int] = TIMESTEPS
    schedule: Kind = "scaled_linear"
    codec: CodecConfig = field(default_factory=CodecConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    train_timesteps: tuple[int, ...] = (0, TIMESTEPS)
    min_snr_gamma: float = 0.0
    start_timesteps: tuple[int, ...] = (TIMESTEPS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        trained = self.train_timesteps
        if len(trained) != 2 or not 0 <= trained[0] < trained[1] <= TIMESTEPS:
            raise InputError(
                f"train_timesteps: expected two timesteps, low < high <= {TIMESTEPS}, got {list(trained)}."
            )
        starts, latest = self.start_timesteps, self.LATEST_START
        if not starts or not all(1 <= start <= latest for start in starts):
            raise InputError(f"start_timesteps: expected timesteps from 1 to {latest}, got {list(starts)}.")
        check_range("min_snr_gamma", self.min_snr_gamma, 0)

    @property
    def uncacheable(self) -> dict[str, bool]:
        """Reasons against a cache of latents, and whether each applies; see check_cache."""
        return {f"{self.codec.kind!r} latents cost nothing": self.codec.kind in PIXEL_KINDS}
