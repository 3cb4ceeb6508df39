"""What a codec is trained on: pixels, deep features, and latents that stay near a normal distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mendiff.errors import InputError
from mendiff.nets.codec import Codec, CodecConfig, KLCodec, TinyCodec, make_codec
from mendiff.nets.features import FeaturesConfig, make_features

PIXEL_TERMS = ("l1", "rms")


@dataclass(frozen=True)
class CodecLossConfig:
    """The pixel term, which has weight 1, and the weights of the terms beside it.

    Attributes:
        pixel: "l1", the mean absolute error (latent diffusion's), or "rms", the mean over images of the root
            of their mean squared error, which PSNR measures.
        perceptual_weight: of the squared distance between unit-length features, summed over layers.
        kl_weight: of the posterior's divergence from a unit normal, per latent number ("kl" only).
    """

    pixel: str = "l1"
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6

    def __post_init__(self) -> None:
        if self.pixel not in PIXEL_TERMS:
            raise InputError(f"loss.pixel: expected one of {', '.join(PIXEL_TERMS)}, got {self.pixel!r}.")


@dataclass(frozen=True)
class CodecParts:
    """The networks of a codec's training.

    Attributes:
        codec: "kl" or "tiny".
        features: of the perceptual term.
        loss: see CodecLossConfig.
    """

    codec: CodecConfig = field(default_factory=lambda: CodecConfig("tiny"))
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    loss: CodecLossConfig = field(default_factory=CodecLossConfig)


class CodecTraining(nn.Module):
    """A codec with the loss of latent diffusion's first stage, without its discriminator.

    Args:
        config: see CodecParts.

    Source: Rombach et al. 2022, appendix G; perceptual distance as in Zhang et al. 2018, unweighted.
    """

    def __init__(self, config: CodecParts) -> None:
        super().__init__()
        if config.codec.kind not in ("kl", "tiny"):
            raise InputError(
                f"codec: expected one of kl, tiny, which can be trained, got {config.codec.kind!r}."
            )
        self.config = config.loss
        self.codec: Codec = make_codec(config.codec).requires_grad_(True)
        self.features = make_features(config.features)

    def forward(self, image: Tensor, rng: Generator) -> Tensor:
        """The loss of a batch, (B,3,H,W) in [0,1] to a scalar; rng (CPU) draws from the posterior."""
        rebuilt, divergence = self._through(image, rng)
        loss = self.pixel(rebuilt.float() - image) + self.config.kl_weight * divergence
        if self.config.perceptual_weight:
            loss = loss + self.config.perceptual_weight * self.perceptual(image, rebuilt)
        return loss

    def pixel(self, error: Tensor) -> Tensor:
        """The mean absolute error, or the mean over images of the root of their squared error."""
        if self.config.pixel == "l1":
            return error.abs().mean()
        return (error.square().mean((1, 2, 3)) + 1e-6).sqrt().mean()

    def perceptual(self, image: Tensor, rebuilt: Tensor) -> Tensor:
        """Squared distance of unit-length features, mean over positions, summed over layers, to a scalar."""
        with torch.no_grad():
            truth = self.features(image)
        pairs = zip(truth, self.features(rebuilt), strict=True)
        layers = [
            (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).square().sum(1).mean()
            for ours, theirs in pairs
        ]
        return torch.stack(layers).sum()

    def _through(self, image: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Decoded images in about [0,1], and the divergence in nats per latent number."""
        codec, none = self.codec, image.new_zeros(())
        if isinstance(codec, KLCodec):
            posterior = codec.network.encode(image * 2 - 1).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=rng, dtype=torch.float32).to(image)
            latents = posterior.mean + posterior.std * noise
            return codec.network.decode(latents).sample / 2 + 0.5, posterior.kl().mean() / latents[0].numel()
        assert isinstance(codec, TinyCodec)
        return codec.network.decode(codec.network.encode(image * 2 - 1).latents).sample / 2 + 0.5, none


def latent_scale(codec: Codec, images: Tensor) -> float:
    """The factor that brings a codec's latents to unit deviation over good images, (N,3,H,W) in [0,1]."""
    with torch.no_grad():
        latents = torch.cat([codec.encode(batch) for batch in images.split(8)])
    network: Any = codec.network
    return float(network.config["scaling_factor"]) / float(latents.std().clamp(min=1e-6))
