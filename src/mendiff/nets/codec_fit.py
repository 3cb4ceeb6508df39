"""Settings of codec training: the loss, and the stage in which a codec is fitted to the good images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mendiff.errors import LARGEST_SIDE, check_choices, check_count, check_range


@dataclass(frozen=True)
class CodecLossConfig:
    """Loss of codec training: the pixel term with weight 1, and the weights of the other terms.

    Attributes:
        pixel: "l1", the mean absolute error (latent diffusion), or "rms", the mean over images of the root
            mean squared error, which corresponds to PSNR.
        perceptual_weight: weight of the squared distance of unit-length features, summed over layers.
        kl_weight: weight of the posterior's KL divergence from a unit normal, per latent element; without a
            posterior ("tiny") weight of the mean squared latents.
        latent_noise: largest standard deviation of the noise added to the latents in training, relative to
            each channel's standard deviation; every image draws its level from 0 to this value. The decoder
            becomes robust to imprecise latents of a denoiser.
        adversarial_weight: weight of the patch discriminator, relative to the gradient norm of the pixel and
            perceptual terms at the decoder's last layer; 0 for no discriminator.
        adversarial_start: training step at which the adversarial term begins.
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
    """The stage of a fit that trains the codec on the good images, before the method is trained on latents.

    Attributes:
        images: total number of training crops; 0 skips the stage.
        crop: side of the crops in pixels; used for larger images.
        batch_size: crops per step.
        anomalies: number of images with synthetic anomalies among the good ones, so that the codec also
            preserves defects.
        learning_rate: initial learning rate; it falls to zero along a half cosine.
        loss: see CodecLossConfig; the perceptual term uses the bundled features.
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
        """Number of optimiser steps of the stage."""
        return -(-self.images // self.batch_size)
