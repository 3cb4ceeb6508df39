"""How a codec is trained: what its loss weighs, and how it is fitted to the good images of a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mendiff.errors import LARGEST_SIDE, check_choices, check_count, check_range


@dataclass(frozen=True)
class CodecLossConfig:
    """The pixel term, which has weight 1, and the weights of the terms beside it.

    Attributes:
        pixel: "l1", the mean absolute error (latent diffusion's), or "rms", the mean over images of the root
            of their mean squared error, which PSNR measures.
        perceptual_weight: of the squared distance between unit-length features, summed over layers.
        kl_weight: of the posterior's divergence from a unit normal, per latent number; where there is no
            posterior ("tiny"), of the mean square of the latents.
        latent_noise: largest deviation of the noise that the decoder finds on its latents in training, as a
            share of every channel's own; each image draws its share from 0 to this. The decoder then makes a
            plausible image of the imprecise latents of a denoiser.
        adversarial_weight: of a discriminator of patches that is trained beside the codec, relative to what
            the pixel and perceptual terms do to the decoder's last layer; 0 for none.
        adversarial_start: steps before it comes in.
    """

    pixel: Literal["l1", "rms"] = "l1"
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6
    latent_noise: float = 0.0
    adversarial_weight: float = 0.0
    adversarial_start: int = 0

    def __post_init__(self) -> None:
        for name in ("adversarial_weight", "adversarial_start", "latent_noise"):
            check_range(f"loss.{name}", getattr(self, name), 0)
        check_choices(self, "loss.")


@dataclass(frozen=True)
class CodecFitConfig:
    """The stage of a fit in which the codec learns the good images, before the method learns its latents.

    Attributes:
        images: crops that are shown in all; 0 for no such stage.
        crop: their side in pixels; larger images only.
        batch_size: crops per step.
        anomalies: images with synthetic anomalies among the good ones, so that defects get through, too.
        learning_rate: highest one; it falls to zero along a half cosine.
        loss: see CodecLossConfig; distances are those of the features that come with the package.
    """

    images: int = 0
    crop: int = 128
    batch_size: int = 8
    anomalies: int = 200
    learning_rate: float = 1e-3
    loss: CodecLossConfig = field(
        default_factory=lambda: CodecLossConfig("rms", 0.1, kl_weight=2e-3, latent_noise=0.5)
    )

    def __post_init__(self) -> None:
        for name in ("images", "anomalies", "learning_rate"):
            check_range(f"codec.fit.{name}", getattr(self, name), 0)
        check_range("codec.fit.batch_size", self.batch_size, 1)
        check_count("codec.fit.crop", self.crop, 1, LARGEST_SIDE)

    @property
    def steps(self) -> int:
        """Optimiser steps of the stage."""
        return -(-self.images // self.batch_size)
