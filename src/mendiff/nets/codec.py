"""Codecs: convert pixels in [0,1] to the latents of the denoiser, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.nets import AUTO
from mendiff.nets.build import build
from mendiff.nets.codec_config import BUNDLED_NETWORK, CodecConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet mean and standard deviation, RGB."""


def as_tuned(image: Tensor, pixels: str) -> Tensor:
    """Convert images (B,3,H,W) in [0,1] to the input of `encode` that gives the network its normalisation.

    `encode` scales its input from [0,1] to [-1,1]; for "imagenet" this is compensated.
    """
    if pixels != "imagenet":
        return image
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std / 2 + 0.5


def as_seen(decoded: Tensor, pixels: str) -> Tensor:
    """Convert the decoder's output to pixels in about [0,1], not clamped, (B,3,H,W)."""
    if pixels != "imagenet":
        return decoded / 2 + 0.5
    mean, std = (decoded.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return decoded * std + mean


class Codec(nn.Module, ABC):
    """Pixels (B,3,H,W) in [0,1] to latents (B,c,H/f,W/f), and back.

    Attributes:
        channels: c.
        factor: f.
    """

    channels: int
    factor: int

    @abstractmethod
    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of roughly unit variance; `noise` (B,c,h,w) samples the posterior where there is one."""

    @abstractmethod
    def decode_raw(self, z0: Tensor) -> Tensor:
        """The network's output: pixels in about [-1,1], (B,3,H,W)."""

    def decode(self, z0: Tensor) -> Tensor:
        """Pixels in [0,1], (B,3,H,W)."""
        return (self.decode_raw(z0) / 2 + 0.5).clamp(0, 1)


class PixelCodec(Codec):
    """Pixels scaled to [-1,1]; with a factor > 1, lossless space-to-depth.

    Space-to-depth enlarges the receptive field of a small network at the same cost per position.
    """

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 3 * factor**2

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B,3,H,W) to (B,3 f^2,H/f,W/f) in [-1,1]; noise is ignored, there is no posterior."""
        return F.pixel_unshuffle(image * 2 - 1, self.factor)

    def decode_raw(self, z0: Tensor) -> Tensor:
        """(B,3 f^2,h,w) to (B,3,f h,f w) in about [-1,1]."""
        return F.pixel_shuffle(z0, self.factor)


class KLCodec(Codec):
    """diffusers' AutoencoderKL with its scaling factor (Stable Diffusion: f8, 4 channels, 0.18215)."""

    def __init__(self, network: dict[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.network = build(AutoencoderKL, network, "codec.network")
        self.channels = int(self.network.config["latent_channels"])
        self.factor = 2 ** (len(self.network.config["block_out_channels"]) - 1)
        self._scale = float(self.network.config["scaling_factor"])

    def tile(self, side: int) -> None:
        """Process tiles of the given side in pixels; neighbouring tiles overlap by a quarter, in latents."""
        if side % (4 * self.factor):
            raise InputError(f"codec.tiling: expected a multiple of {4 * self.factor} pixels, got {side}.")
        self.network.enable_tiling()
        self.network.tile_sample_min_size, self.network.tile_latent_min_size = side, side // self.factor

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """The posterior's mode, or with noise the sample mean + std * noise (as in the published code)."""
        posterior = self.network.encode(image * 2 - 1).latent_dist
        z0: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return z0 * self._scale

    def decode_raw(self, z0: Tensor) -> Tensor:
        """(B,c,h,w) to (B,3,H,W) in about [-1,1], not clamped."""
        z0 = z0 / self._scale
        if z0.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            pixels: Tensor = self.network.decode(z0).sample
            return pixels
        # The activations of several images exceed the caches, and channels-last order needs no reordering.
        rows = (one.contiguous(memory_format=torch.channels_last) for one in z0.split(1))
        return torch.cat([self.network.decode(one).sample.contiguous() for one in rows])


class TinyCodec(Codec):
    """diffusers' AutoencoderTiny, small enough for a CPU (factor 8, no posterior).

    Args:
        network: see CodecConfig.
        normalise: see CodecConfig; `normalise_by` computes mean and deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: dict[str, Any], *, normalise: bool = False) -> None:
        super().__init__()
        from diffusers import AutoencoderTiny

        self.network = build(AutoencoderTiny, network, "codec.network")
        _start_evenly(self.network)
        self.channels = int(self.network.config["latent_channels"])
        self.factor = 2 ** (len(self.network.config["encoder_block_out_channels"]) - 1)
        self._scale = float(self.network.config["scaling_factor"])
        self._normalise = normalise
        if normalise:
            self.register_buffer("mean", torch.zeros(self.channels, 1, 1))
            self.register_buffer("std", torch.ones(self.channels, 1, 1))

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B,3,H,W) in [0,1] to (B,c,h,w); noise is ignored, there is no posterior."""
        z0: Tensor = self.network.encode(image * 2 - 1).latents
        z0 = z0 * self._scale
        return (z0 - self.mean) / self.std if self._normalise else z0

    def decode_raw(self, z0: Tensor) -> Tensor:
        """(B,c,h,w) to (B,3,H,W) in about [-1,1]."""
        z0 = z0 * self.std + self.mean if self._normalise else z0
        pixels: Tensor = self.network.decode(z0 / self._scale).sample
        return pixels

    @torch.no_grad()
    def normalise_by(self, images: Tensor) -> None:
        """Compute mean and deviation of every channel from good images, (N,3,H,W) in [0,1]."""
        self.mean.zero_()
        self.std.fill_(1)
        latents = torch.cat([self.encode(batch) for batch in images.split(8)]).transpose(0, 1).flatten(1)
        self.mean.copy_(latents.mean(1)[:, None, None])
        self.std.copy_(latents.std(1).clamp(min=1e-6)[:, None, None])


def _start_evenly(network: nn.Module) -> None:
    """Initialise an AutoencoderTiny so that the signal variance is preserved and blocks start as identities.

    PyTorch's default initialisation reduces the variance in every convolution. After a dozen layers almost no
    colour information is left, and decoded images stay grey for thousands of steps.
    """
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    for one in network.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.kaiming_normal_(one.weight, nonlinearity="linear")
            if one.bias is not None:
                nn.init.zeros_(one.bias)
    for block in network.modules():
        if isinstance(block, AutoencoderTinyBlock):
            *inner, last = (one for one in block.conv if isinstance(one, nn.Conv2d))
            for one in inner:
                nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
            nn.init.zeros_(last.weight)


def widened(codec: TinyCodec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extend the weights of a codec with fewer latent channels to the shapes of another codec.

    New channels have small weights in the decoder, so training continues from the narrower codec.

    Args:
        codec: a newly initialised codec with more latent channels and otherwise the same architecture.
        weights: state dict of the narrower codec.
    """
    full = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    for name, one in weights.items():
        target = full[name]
        if target.dim() == 4 and target.shape[1] > one.shape[1]:
            target[:, one.shape[1] :] *= 0.1
        target[tuple(slice(side) for side in one.shape)] = one.to(target)
    return full


def make_codec(config: CodecConfig) -> Codec:
    """Build the codec of a config with random weights."""
    if config.kind == "pixels":
        codec: Any = PixelCodec()
    elif config.kind == "space_to_depth":
        codec = PixelCodec(config.factor)
    elif config.kind == "kl":
        codec = KLCodec(config.network)
    elif config.kind == AUTO:
        codec = TinyCodec(BUNDLED_NETWORK)
    else:
        codec = TinyCodec(config.network, normalise=config.normalise)
    if config.slicing:
        codec.network.enable_slicing()
    if isinstance(codec, KLCodec) and config.tiling:
        codec.tile(config.tiling)
    made: Codec = codec.requires_grad_(False)
    return made


def check_size(codec: Codec, image: Tensor, multiple: int) -> None:
    """Refuse image sizes that are not divisible by the downsampling of codec and denoiser.

    Args:
        codec: the codec.
        image: (B,3,H,W).
        multiple: divisor that the denoiser requires for the latent height and width.
    """
    unit = codec.factor * multiple
    height, width = image.shape[-2:]
    if height % unit or width % unit:
        raise InputError(
            f"image size: expected multiples of {unit} (codec factor {codec.factor} x {multiple}), "
            f"got {height}x{width}; choose {-(-height // unit) * unit}x{-(-width // unit) * unit}."
        )
