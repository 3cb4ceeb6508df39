"""The loss of codec training: pixels, deep features, and regularised latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mendiff.errors import InputError
from mendiff.nets.codec import Codec, KLCodec, TinyCodec, as_seen, as_tuned, make_codec
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_fit import CodecLossConfig
from mendiff.nets.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from mendiff.nets.features import FeaturesConfig, make_features


@dataclass(frozen=True)
class CodecParts:
    """Configs of the networks in codec training.

    Attributes:
        codec: codec of kind "kl" or "tiny".
        features: features of the perceptual term.
        loss: see CodecLossConfig.
    """

    codec: CodecConfig = field(default_factory=lambda: CodecConfig("tiny"))
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    loss: CodecLossConfig = field(default_factory=CodecLossConfig)


class CodecTraining(nn.Module):
    """A codec with the loss of latent diffusion's first stage.

    Args:
        config: see CodecParts.

    Attributes:
        discriminator: patch discriminator, trained with `rival_loss`; None without an adversarial term.
        step: index of the training step; the adversarial term is active from `adversarial_start`.

    Source: Rombach et al. 2022, appendix G; perceptual distance of Zhang et al. 2018 without weights.
    """

    def __init__(self, config: CodecParts) -> None:
        super().__init__()
        if config.codec.kind not in ("kl", "tiny"):
            raise InputError(
                f"codec: expected one of kl, tiny, which can be trained, got {config.codec.kind!r}."
            )
        self.config = config.loss
        self.codec: Codec = make_codec(config.codec).requires_grad_(True)
        self.pixels = config.codec.pixels
        self.features = make_features(config.features)
        self.discriminator = PatchDiscriminator() if config.loss.adversarial_weight else None
        self.step = 0
        self._shown: tuple[Tensor, Tensor] | None = None

    def forward(self, image: Tensor, rng: Generator) -> Tensor:
        """The loss of a batch, (B,3,H,W) in [0,1] to a scalar; rng (CPU) samples from the posterior."""
        rebuilt, divergence = self._through(image, rng)
        loss = self.pixel(rebuilt.float() - image)
        if self.config.perceptual_weight:
            loss = loss + self.config.perceptual_weight * self.perceptual(image, rebuilt)
        if self.discriminator is not None and self.step >= self.config.adversarial_start:
            self._shown = image, rebuilt.detach()
            adversarial = -self.discriminator(rebuilt * 2 - 1).mean()
            weight = adaptive_weight(loss, adversarial, _last_weights(self.codec))
            loss = loss + self.config.adversarial_weight * weight * adversarial
        return loss + self.config.kl_weight * divergence

    def rival_loss(self) -> Tensor | None:
        """The discriminator's loss on the last batch of `forward`; None before `adversarial_start`."""
        shown, self._shown = self._shown, None
        if shown is None or self.discriminator is None:
            return None
        real, made = (self.discriminator(pixels * 2 - 1) for pixels in shown)
        return hinge_loss(real, made)

    def pixel(self, error: Tensor) -> Tensor:
        """The mean absolute error, or the mean over images of the root mean squared error."""
        if self.config.pixel == "l1":
            return error.abs().mean()
        return (error.square().mean((1, 2, 3)) + 1e-6).sqrt().mean()

    def perceptual(self, image: Tensor, rebuilt: Tensor) -> Tensor:
        """Squared distance of unit-length features: mean over positions, sum over layers; a scalar."""
        with torch.no_grad():
            truth = self.features(image)
        pairs = zip(truth, self.features(rebuilt), strict=True)
        layers = [
            (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).square().sum(1).mean()
            for ours, theirs in pairs
        ]
        return torch.stack(layers).sum()

    def _through(self, image: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Decoded images in about [0,1], and the KL divergence in nats per latent element."""
        codec = self.codec
        scaled = as_tuned(image, self.pixels) * 2 - 1
        if isinstance(codec, KLCodec):
            posterior = codec.network.encode(scaled).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=rng, dtype=torch.float32).to(image)
            latents = posterior.mean + posterior.std * noise
            decoded = as_seen(codec.network.decode(self._disturbed(latents, rng)).sample, self.pixels)
            return decoded, posterior.kl().mean() / latents[0].numel()
        assert isinstance(codec, TinyCodec)
        latents = codec.network.encode(scaled).latents
        decoded = codec.network.decode(self._disturbed(latents, rng)).sample
        return as_seen(decoded, self.pixels), latents.float().square().mean()

    def _disturbed(self, latents: Tensor, rng: Generator) -> Tensor:
        """Latents with added noise of the config's level, (B,c,h,w)."""
        if not self.config.latent_noise:
            return latents
        share = (
            torch.rand(len(latents), 1, 1, 1, generator=rng, dtype=torch.float32) * self.config.latent_noise
        )
        noise = (share * torch.randn(latents.shape, generator=rng, dtype=torch.float32)).to(latents)
        return latents + latents.detach().std((0, 2, 3), keepdim=True) * noise


def _last_weights(codec: Codec) -> Tensor:
    """The weights of the decoder's last layer."""
    network: Any = codec.network
    return [one for one in network.decoder.modules() if isinstance(one, nn.Conv2d)][-1].weight


def latent_scale(codec: Codec, images: Tensor, pixels: str = "") -> float:
    """The factor that scales a codec's latents to unit standard deviation over good images.

    Args:
        codec: a trained codec.
        images: good images, (N,3,H,W) in [0,1].
        pixels: pixel normalisation; see CodecConfig.
    """
    with torch.no_grad():
        latents = torch.cat([codec.encode(as_tuned(batch, pixels)) for batch in images.split(8)])
    network: Any = codec.network
    return float(network.config["scaling_factor"]) / float(latents.std().clamp(min=1e-6))
