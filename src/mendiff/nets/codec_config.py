"""Config of the codec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mendiff.errors import InputError, check_choices, check_count, check_range
from mendiff.nets.codec_fit import CodecFitConfig

Kind = Literal["pixels", "space_to_depth", "kl", "tiny", "auto"]
PIXEL_KINDS = ("pixels", "space_to_depth")
Pixels = Literal["", "symmetric", "imagenet"]
TINY_CODEC: Final = "space_to_depth"
"""Codec kind of the presets `tiny`; AUTO would be the bundled codec."""
BUNDLED_NETWORK: dict[str, Any] = {
    "encoder_block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [0, 0, 1, 3],
    "num_decoder_blocks": [4, 2, 0, 0],
    "upsampling_scaling_factor": 2,
    "latent_channels": 16,
}
"""Architecture of the bundled codec: factor 8, 16 channels, few operations at full resolution."""


@dataclass(frozen=True)
class CodecConfig:
    """Type and size of the codec.

    Attributes:
        kind: "pixels", "space_to_depth", "kl" (diffusers' AutoencoderKL), "tiny" (AutoencoderTiny), or "auto"
            for the bundled codec of kind "tiny".
        factor: downscaling factor of "space_to_depth"; autoencoders define it by their own config.
        network: diffusers config of the autoencoder; empty for diffusers' defaults.
        pixels: normalisation of the pixels on which an autoencoder was fine-tuned: "symmetric" for [-1,1],
            "imagenet" for ImageNet normalisation (DiAD's published autoencoders), empty if unknown (Stable
            Diffusion's). Methods refuse an autoencoder with a different normalisation from their own.
        normalise: normalise every latent channel to zero mean and unit standard deviation over good images
            ("tiny" only); mean and deviation are stored with the weights.
        fit: training of the codec on the good images before the method is trained; afterwards it is frozen.
        slicing: encode and decode the images of a batch one by one: less memory, same latents.
        tiling: side in pixels of overlapping tiles that are processed one by one; 0 for whole images. The
            memory is that of a tile. Norms and attention are limited to a tile, so results change slightly.
    """

    kind: Kind = "space_to_depth"
    factor: int = 4
    network: dict[str, Any] = field(default_factory=dict)
    pixels: Pixels = ""
    normalise: bool = False
    fit: CodecFitConfig = field(default_factory=CodecFitConfig)
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
            raise InputError(f"codec.slicing: expected false with {self.kind!r}, which has no network.")
        if self.tiling and self.kind != "kl":
            raise InputError(
                f"codec.tiling: expected 0 for a codec of kind {self.kind!r}, got {self.tiling}; tiling is "
                "available for kind 'kl'."
            )


def check_pixels(config: CodecConfig, shown: str, instead: str = "") -> None:
    """Refuse an autoencoder that was fine-tuned with a different pixel normalisation.

    Args:
        config: config of the codec.
        shown: normalisation of the method: "symmetric" or "imagenet".
        instead: alternative for the user, appended to the message.
    """
    if config.kind not in PIXEL_KINDS and config.pixels not in ("", shown):
        raise InputError(
            f"codec.pixels: expected an autoencoder tuned on {shown!r} pixels, got {config.pixels!r}; tune "
            f"it with mendiff fit-codec --set codec.pixels={shown}{instead}."
        )
