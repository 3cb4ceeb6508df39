"""Codecs: from pixels in [0,1] to the latents that a denoiser works on, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError, check_choices, check_count, check_range
from mendiff.nets import AUTO
from mendiff.nets.build import build
from mendiff.nets.codec_fit import CodecFitConfig

Kind = Literal["pixels", "space_to_depth", "kl", "tiny", "auto"]
PIXEL_KINDS = ("pixels", "space_to_depth")
Pixels = Literal["", "symmetric", "imagenet"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, in RGB."""
TINY_CODEC: Final = "space_to_depth"
"""Kind of the codec in `tiny`: AUTO for the one that comes with the package."""
BUNDLED_NETWORK: dict[str, Any] = {
    "encoder_block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [0, 0, 1, 3],
    "num_decoder_blocks": [4, 2, 0, 0],
    "upsampling_scaling_factor": 2,
    "latent_channels": 16,
}
"""Shape of the codec that comes with the package: factor 8, 16 channels, little work at full size."""


@dataclass(frozen=True)
class CodecConfig:
    """Which codec, and how big.

    Attributes:
        kind: "pixels", "space_to_depth", "kl" (diffusers' AutoencoderKL), "tiny" (AutoencoderTiny), or "auto"
            for the "tiny" one that comes with the package.
        factor: downscaling of "space_to_depth"; the autoencoders' follows from their own config.
        network: diffusers' config of the autoencoder; empty takes diffusers' defaults.
        pixels: what an autoencoder was tuned on: "symmetric", pixels in [-1,1], or "imagenet", in ImageNet's
            normalisation, as DiAD's published ones; empty where nobody says, as of Stable Diffusion's own.
            Methods refuse one that was tuned on other pixels than they show it.
        normalise: bring every channel of the latents to zero mean and unit deviation over good images ("tiny"
            only); both are stored with the weights.
        fit: the stage in which it learns the good images before the method is trained; then it is frozen.
        train: whether the method trains it (published methods keep it frozen).
        slicing: let an autoencoder see the images of a batch one after another: less memory, same latents.
        tiling: side in pixels of overlapping tiles that an autoencoder sees one after another; 0 for whole
            images. Memory stays that of a tile, but its norms and its attention see no further, so latents
            and pixels change a little.
    """

    kind: Kind = "space_to_depth"
    factor: int = 4
    network: dict[str, Any] = field(default_factory=dict)
    pixels: Pixels = ""
    normalise: bool = False
    fit: CodecFitConfig = field(default_factory=CodecFitConfig)
    train: bool = False
    slicing: bool = False
    tiling: int = 0

    def __post_init__(self) -> None:
        check_choices(self, "codec.")
        check_count("codec.factor", self.factor, 1, 256)
        check_range("codec.tiling", self.tiling, 0)
        if self.fit.images and self.kind in PIXEL_KINDS:
            raise InputError(
                f"codec.fit.images: expected 0 for a codec of kind {self.kind!r}, which has no weights, got "
                f"{self.fit.images}."
            )
        if self.normalise and self.kind != "tiny":
            raise InputError(f"codec.normalise: expected false for a codec of kind {self.kind!r}, got true.")
        if self.slicing and self.kind in PIXEL_KINDS:
            raise InputError(f"codec.slicing: expected false with {self.kind!r}, which only moves pixels.")
        if self.tiling and self.kind != "kl":
            raise InputError(
                f"codec.tiling: expected 0 for a codec of kind {self.kind!r}, which takes little memory, got "
                f"{self.tiling}; tiles are for kind 'kl'."
            )


def check_pixels(config: CodecConfig, shown: str, instead: str = "") -> None:
    """Refuse an autoencoder that says it was tuned on other pixels than it will be shown.

    Args:
        config: of the codec.
        shown: "symmetric" or "imagenet".
        instead: for the message: what else the user can do.
    """
    if config.kind not in PIXEL_KINDS and config.pixels not in ("", shown):
        raise InputError(
            f"codec.pixels: expected an autoencoder that was tuned on {shown!r} pixels, got one tuned on "
            f"{config.pixels!r} ones; tune it with mendiff fit-codec --set codec.pixels={shown}{instead}."
        )


def as_tuned(image: Tensor, pixels: str) -> Tensor:
    """What `encode` must be given for its network to see an image as it was tuned, (B,3,H,W) in [0,1].

    Codecs scale their input from [0,1] to [-1,1] by themselves; for "imagenet" this undoes that.
    """
    if pixels != "imagenet":
        return image
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std / 2 + 0.5


def as_seen(decoded: Tensor, pixels: str) -> Tensor:
    """Pixels in about [0,1] from what the decoder puts out, not clamped, (B,3,H,W) to the same."""
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
        """Pixels in about [-1,1], (B,3,H,W), as the network puts them out."""

    def decode(self, z0: Tensor) -> Tensor:
        """Pixels in [0,1], (B,3,H,W)."""
        return (self.decode_raw(z0) / 2 + 0.5).clamp(0, 1)


class PixelCodec(Codec):
    """Pixels scaled to [-1,1]; with a factor, blocks of factor x factor pixels moved into channels (no loss).

    A small network reaches far on moved blocks: less width and height at the same cost per position.
    """

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 3 * factor**2

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B,3,H,W) to (B,3 f^2,H/f,W/f) in [-1,1]; there is no posterior, so noise is not used."""
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
        """Work in tiles of so many pixels from now on, of which a quarter, in latents, overlaps the next."""
        if side % (4 * self.factor):
            raise InputError(f"codec.tiling: expected a multiple of {4 * self.factor} pixels, got {side}.")
        self.network.enable_tiling()
        self.network.tile_sample_min_size, self.network.tile_latent_min_size = side, side // self.factor

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """The posterior's mode, or with noise its sample mean + std * noise (as the published code does)."""
        posterior = self.network.encode(image * 2 - 1).latent_dist
        z0: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return z0 * self._scale

    def decode_raw(self, z0: Tensor) -> Tensor:
        """(B,c,h,w) to (B,3,H,W) in about [-1,1], not clamped."""
        pixels: Tensor = self.network.decode(z0 / self._scale).sample
        return pixels


class TinyCodec(Codec):
    """diffusers' AutoencoderTiny, a codec small enough for a CPU (factor 8, no posterior).

    Args:
        network: see CodecConfig.
        normalise: see there; `normalise_by` learns what it needs.
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
        """(B,3,H,W) in [0,1] to (B,c,h,w); there is no posterior, so noise is not used."""
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
        """Learn mean and deviation of every channel from good images, (N,3,H,W) in [0,1]."""
        self.mean.zero_()
        self.std.fill_(1)
        latents = torch.cat([self.encode(batch) for batch in images.split(8)]).transpose(0, 1).flatten(1)
        self.mean.copy_(latents.mean(1)[:, None, None])
        self.std.copy_(latents.std(1).clamp(min=1e-6)[:, None, None])


def _start_evenly(network: nn.Module) -> None:
    """Fresh weights of an AutoencoderTiny with which signals keep their size, and blocks begin as identities.

    PyTorch's own shrink what passes through a convolution; after a dozen of them next to nothing of colours
    comes through, and a training stays grey for thousands of steps.
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
    """Weights of a codec with fewer latent channels, filled up to a fresh codec's own.

    The channels that are new enter the decoder weakly, so that a training begins where the other one ended.

    Args:
        codec: otherwise of the same shape, with fresh weights.
        weights: of the narrower one, by name.
    """
    full = {name: one.clone() for name, one in codec.state_dict().items()}
    for name, one in weights.items():
        target = full[name]
        if target.dim() == 4 and target.shape[1] > one.shape[1]:
            target[:, one.shape[1] :] *= 0.1
        target[tuple(slice(side) for side in one.shape)] = one.to(target)
    return full


def make_codec(config: CodecConfig) -> Codec:
    """The codec a config names, with fresh weights; weights come from the model folder."""
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
    made: Codec = codec.requires_grad_(config.train)
    return made


def check_size(codec: Codec, image: Tensor, multiple: int) -> None:
    """Refuse images whose height or width the codec and the denoiser can't halve evenly.

    Args:
        codec: for its factor.
        image: (B,3,H,W).
        multiple: of latent positions that the denoiser needs per side.
    """
    unit = codec.factor * multiple
    height, width = image.shape[-2:]
    if height % unit or width % unit:
        raise InputError(
            f"image size: expected multiples of {unit} (codec factor {codec.factor} x {multiple}), "
            f"got {height}x{width}; choose {-(-height // unit) * unit}x{-(-width // unit) * unit}."
        )
