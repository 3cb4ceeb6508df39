"""DiAD's settings: what they mean, what they may be, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mendiff.diffusion.ladder import Spacing
from mendiff.diffusion.schedule import Kind
from mendiff.errors import InputError, check_count, check_range
from mendiff.methods.base import (
    SMALL_TRAINING,
    TIMESTEPS,
    MethodConfig,
    TrainingConfig,
    check_cached_latents,
    check_train_t,
)
from mendiff.nets import AUTO
from mendiff.nets.codec import TINY_CODEC, CodecConfig, check_pixels
from mendiff.nets.codec_fit import CodecFitConfig
from mendiff.nets.denoiser import DenoiserConfig, conditional_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig
from mendiff.nets.semantic_guided import GuideConfig
from mendiff.nets.stable_diffusion import CODEC, UNET
from mendiff.scoring.readout_config import LEARNED, SAME_PLACE, ReadoutConfig
from mendiff.synthesis.blend import SynthesisConfig


@dataclass(frozen=True)
class DiadConfig(MethodConfig):
    """Everything that DiAD can be told.

    Attributes:
        schedule: "linear", "scaled_linear" (published) or "cosine".
        codec, denoiser, features, readout: see their configs.
        guide: the SG network; None leaves it out (the paper's LDM, or with the codec "pixels" its DDPM).
        synthesis: of the anomalies in hints, if there are any.
        hint_anomalies: share of the training images whose hint shows synthetic anomalies that the denoiser
            must not copy; 0 as published.
        train_encoder: train the denoiser's encoder and middle block too, as training from scratch needs;
            published weights keep those of Stable Diffusion.
        normalised: give codec and SG network pixels in ImageNet's normalisation, as published weights
            expect; [-1,1] otherwise.
        train_t: lowest and highest timestep (exclusive) that is trained.
        min_snr_gamma: of the loss weights; 0 weighs all timesteps equally (published).
        start: the ladder covers the `start` lowest timesteps.
        noise_step: timestep whose noise the start latents carry, where the ladder begins at or below it (999
            as published, with `start` at 1000); otherwise, and for 0, they carry that of its first rung.
        steps: DDIM steps.
        spacing: of the ladder: "leading" (published), "trailing" or "linspace".
        reference: follow the published code number for number: latents are drawn from the codec's posterior,
            and guidance runs between equal prompts.
    """

    schedule: Kind = "scaled_linear"
    codec: CodecConfig = field(default_factory=lambda: CodecConfig("kl"))
    denoiser: DenoiserConfig = field(default_factory=lambda: DenoiserConfig("conditional_unet"))
    guide: GuideConfig | None = field(default_factory=GuideConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    readout: ReadoutConfig = field(
        default_factory=lambda: ReadoutConfig(
            distance="cosine", sigma=5.0, taps=0, border="symmetric", top_k=0, pool_side=8, pool_rounds=8
        )
    )
    hint_anomalies: float = 0.0
    train_encoder: bool = False
    normalised: bool = False
    train_t: tuple[int, ...] = (0, 1000)
    min_snr_gamma: float = 0.0
    start: int = 1000
    noise_step: int = 999
    steps: int = 10
    spacing: Spacing = "leading"
    reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cached_latents(self, self.codec, drawn=self.reference)
        check_pixels(
            self.codec,
            "imagenet" if self.normalised else "symmetric",
            f", or fit with --set normalised={str(not self.normalised).lower()}",
        )
        if self.training.lora_rank and self.train_encoder:
            raise InputError(
                "training.lora_rank: expected 0 with train_encoder, which is for networks that start from "
                f"random weights, got {self.training.lora_rank}."
            )
        if self.denoiser.categories:
            raise InputError("denoiser.categories: expected none for DiAD, whose prompt is always empty.")
        check_train_t(self.train_t)
        check_range("start", self.start, 1, TIMESTEPS)
        check_range("noise_step", self.noise_step, 0, TIMESTEPS - 1)
        check_count("steps", self.steps, 1, TIMESTEPS)
        check_range("min_snr_gamma", self.min_snr_gamma, 0)
        check_range("hint_anomalies", self.hint_anomalies, 0, 1)


PUBLISHED = DiadConfig(
    training=TrainingConfig(batch_size=12, learning_rate=1e-5, clip=0.0),
    codec=CodecConfig("kl", network=CODEC | {"sample_size": 256}),
    denoiser=DenoiserConfig("conditional_unet", "eps", UNET | {"sample_size": 32}),
    features=FeaturesConfig("resnet50"),
    normalised=True,
)
"""The size of the published checkpoint: Stable Diffusion v1-5 with an SG network, MVTec-AD at 256 pixels."""

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
    train_t=(1, 400),
    min_snr_gamma=5.0,
    # A network that has minutes to learn draws nothing believable from pure noise.
    start=200,
    noise_step=0,
    steps=1,
    spacing="trailing",
)

_SMALL = DiadConfig(
    upright="auto",
    image_size=256,
    training=replace(SMALL_TRAINING, steps=2000, cache_latents=True),
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
"""The published mechanism in full, as small as it can be: drawn from pure noise in ten steps, by a hint that
enters at the deepest level alone, on the latents of a codec that learns the good images first."""


def _published(images: int) -> DiadConfig:
    """Table 11 for a set of so many training images: 1000 epochs at batch 12, four batches accumulated."""
    steps = 1000 * math.ceil(images / 12) // 4
    return replace(PUBLISHED, training=replace(PUBLISHED.training, steps=steps, batch_size=48, accumulate=4))


# Results, one model for all categories of a set: cls AUROC / AP / F1max, seg AUROC / AP / F1max, PRO.
_MVTEC = _published(3629)  # 97.2 / 99.0 / 96.5, 96.8 / 52.6 / 55.5, 90.7 (tables 1, 3, 4)
PRESETS: dict[str, DiadConfig] = {
    "tiny": _TINY,
    "small": _SMALL,
    "paper": _MVTEC,
    "paper/mvtec": _MVTEC,
    # VisA's split for one class leaves 8,659 of its 9,621 good images for training.
    "paper/visa": _published(8659),  # 86.8 / 88.3 / 85.1, 96.0 / 26.1 / 33.0, 75.2 (table 2)
    "paper/mvtec3d": _published(2656),  # 84.6 / 94.8 / 95.5, 96.4 / 25.3 / 32.2, 87.8 (table 5)
    "paper/medical": _published(9042),  # cls 77.2, seg 96.9, PRO 87.7, DICE 32.3 (table 6)
}
