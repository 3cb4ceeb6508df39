"""DiAD's config and presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from mendiff.diffusion.ladder import Spacing
from mendiff.errors import InputError, check_count, check_range
from mendiff.methods.base_config import SMALL_TRAINING, TIMESTEPS, DiffusionConfig, TrainingConfig
from mendiff.nets import AUTO
from mendiff.nets.codec_config import TINY_CODEC, CodecConfig, check_pixels
from mendiff.nets.codec_fit import CodecFitConfig
from mendiff.nets.denoiser import DenoiserConfig, conditional_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig
from mendiff.nets.semantic_guided import GuideConfig
from mendiff.nets.stable_diffusion import CODEC, UNET
from mendiff.scoring.readout_config import LEARNED, SAME_PLACE, ReadoutConfig


@dataclass(frozen=True)
class DiadConfig(DiffusionConfig):
    """Settings of DiAD.

    Attributes:
        readout: see ReadoutConfig.
        guide: SG network; None for none (the paper's LDM, or its DDPM with the codec "pixels").
        train_encoder: also train the denoiser's encoder and middle block, which training from scratch needs.
            The published weights keep those of Stable Diffusion.
        normalised: normalise the pixels for codec and SG network as for ImageNet, as the published weights
            expect; otherwise they are in [-1,1].
        start_timesteps: a single start timestep; the sampler's timesteps are below it.
        noise_timestep: timestep at which noise is added, if it is from the sampler's first timestep to the
            start timestep (999 as published, with a start at 1000). Otherwise, and for 0, it is the sampler's
            first timestep.
        sampler_steps: number of DDIM steps.
        spacing: spacing of the sampler's timesteps: "leading" (published) or "trailing".
        reference: reproduce the published code exactly: latents are sampled from the codec's posterior, and
            guidance has equal prompts.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        **DiffusionConfig.RENAMED,
        "start": "start_timesteps",
        "steps": "sampler_steps",
        "noise_step": "noise_timestep",
    }
    codec: CodecConfig = field(default_factory=lambda: CodecConfig("kl"))
    denoiser: DenoiserConfig = field(default_factory=lambda: DenoiserConfig("conditional_unet"))
    guide: GuideConfig | None = field(default_factory=GuideConfig)
    readout: ReadoutConfig = field(
        default_factory=lambda: ReadoutConfig(
            distance="cosine", sigma=5.0, taps=0, border="symmetric", top_k=0, pool_side=8, pool_rounds=8
        )
    )
    train_encoder: bool = False
    normalised: bool = False
    start_timesteps: tuple[int, ...] = (1000,)
    noise_timestep: int = 999
    sampler_steps: int = 10
    spacing: Spacing = "leading"
    reference: bool = False

    def for_tiles(self) -> Any:
        """See MethodConfig.for_tiles: without mean normal maps by position."""
        return replace(super().for_tiles(), readout=replace(self.readout, position_grid=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn = {"the latents are drawn anew at every step (reference)": self.reference}
        self.check_cache(self.uncacheable | drawn)
        check_pixels(
            self.codec,
            "imagenet" if self.normalised else "symmetric",
            f", or fit with --set normalised={str(not self.normalised).lower()}",
        )
        if self.training.lora_rank and self.train_encoder:
            raise InputError(
                "training.lora_rank: expected 0 with train_encoder, which is for training from scratch, got "
                f"{self.training.lora_rank}."
            )
        if self.denoiser.categories:
            raise InputError("denoiser.categories: expected none for DiAD, which has an empty prompt.")
        if len(self.start_timesteps) > 1:
            raise InputError(
                f"start_timesteps: expected one for DiAD, which samples every image once, got "
                f"{list(self.start_timesteps)}."
            )
        check_range("noise_timestep", self.noise_timestep, 0, TIMESTEPS - 1)
        check_count("sampler_steps", self.sampler_steps, 1, TIMESTEPS)


PUBLISHED = DiadConfig(
    training=TrainingConfig(batch_size=12, learning_rate=1e-5, clip=0.0),
    codec=CodecConfig("kl", network=CODEC | {"sample_size": 256}),
    denoiser=DenoiserConfig("conditional_unet", "eps", UNET | {"sample_size": 32}),
    features=FeaturesConfig("resnet50"),
    normalised=True,
)
"""The config of the published checkpoint: Stable Diffusion v1-5 with an SG network at 256 pixels."""

_TINY = DiadConfig(
    upright="auto",
    image_size=0,
    crop=96,
    training=TrainingConfig(
        steps=1300,
        minutes=7,
        batch_size=2,
        learning_rate=1e-3,
        warmup=30,
        cosine=True,
        ema=0.995,
    ),
    codec=CodecConfig(TINY_CODEC, factor=2),
    features=FeaturesConfig(TINY_FEATURES),
    denoiser=DenoiserConfig("conditional_unet", "x0", conditional_unet(32, 64, 96, 128), prompt_length=1),
    guide=GuideConfig(initial_outputs="normal"),
    readout=LEARNED,
    train_encoder=True,
    train_timesteps=(1, 400),
    min_snr_gamma=5.0,
    # After minutes of training the network cannot generate parts from pure noise.
    start_timesteps=(200,),
    noise_timestep=0,
    sampler_steps=1,
    spacing="trailing",
)

_SMALL = DiadConfig(
    upright="auto",
    image_size=256,
    training=replace(SMALL_TRAINING, steps=2000, cache_gigabytes=1.0),
    codec=CodecConfig(AUTO, fit=CodecFitConfig(images=16_000)),
    features=FeaturesConfig(AUTO),
    denoiser=DenoiserConfig(
        "conditional_unet", "v", conditional_unet(64, 128, 192, attention=True), prompt_length=1
    ),
    guide=GuideConfig(
        network={"conditioning_embedding_out_channels": [16, 32, 64, 96]}, initial_outputs="normal"
    ),
    readout=SAME_PLACE,
    train_encoder=True,
)
"""All published mechanisms at a small size: sampling from pure noise in ten steps, with a hint at the deepest
level only. The codec is fitted to the good images first."""


def _published(images: int) -> DiadConfig:
    """Table 11 for a number of training images: 1000 epochs with four accumulated batches of 12."""
    steps = 1000 * math.ceil(images / 12) // 4
    return replace(PUBLISHED, training=replace(PUBLISHED.training, steps=steps, batch_size=48, accumulate=4))


# Results of a model for all categories of a data set: cls AUROC / AP / F1max, seg AUROC / AP / F1max, PRO.
_MVTEC = _published(3629)  # 97.2 / 99.0 / 96.5, 96.8 / 52.6 / 55.5, 90.7 (tables 1, 3, 4)
PRESETS: dict[str, DiadConfig] = {
    "tiny": _TINY,
    "small": _SMALL,
    "paper": _MVTEC,
    "paper/mvtec": _MVTEC,
    # VisA's 1-class split has 8,659 of its 9,621 good images for training.
    "paper/visa": _published(8659),  # 86.8 / 88.3 / 85.1, 96.0 / 26.1 / 33.0, 75.2 (table 2)
    "paper/mvtec3d": _published(2656),  # 84.6 / 94.8 / 95.5, 96.4 / 25.3 / 32.2, 87.8 (table 5)
    "paper/medical": _published(9042),  # cls 77.2, seg 96.9, PRO 87.7, DICE 32.3 (table 6)
}
