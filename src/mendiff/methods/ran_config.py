"""RAN's config and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from mendiff.diffusion.gradient import GradientConfig
from mendiff.diffusion.schedule import Kind
from mendiff.errors import LARGEST_SIDE, InputError, check_choices, check_count, check_range
from mendiff.methods.base_config import SMALL_TRAINING, TIMESTEPS, DiffusionConfig, TrainingConfig
from mendiff.nets import AUTO
from mendiff.nets.codec_config import PIXEL_KINDS, CodecConfig
from mendiff.nets.denoiser import DenoiserConfig, attention_unet, plain_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig
from mendiff.scoring.readout_config import MOST_ENLARGED


@dataclass(frozen=True)
class RanReadoutConfig:
    """Settings of the comparison of image and prediction.

    Attributes:
        pixel_score: s_t of eq. 11: "kl", or, for comparison, "rgb", the squared error of the clean estimate.
        kl_weight: alpha of eq. 11, 0 to 1.
        distance: distance of true and predicted features: "squared" (eq. 10), or "mahalanobis", with the
            covariance of the residuals of good images.
        by_layer: compute and standardise a distance per feature layer, so that layers have equal weight
            whatever their number of channels; otherwise a distance of all features (eq. 10).
        coarse_share: weight of a coarse distance in the feature map, for large and faint defects: each layer
            is averaged over 3x3 of its positions; 0 for none, as in the paper.
        position_grid: side of the square grid of the mean normal maps. The mean feature residual of good
            images is subtracted, and every map is divided by its mean normal map. 0 for neither, as in the
            paper; None uses the grid of the finest features.
        sigma_share: sigma of the Gaussian that smooths the map, as a share of its side; 0 for none.
        top_share: share of the largest pixels that the image score averages.
    """

    pixel_score: Literal["kl", "rgb"] = "kl"
    kl_weight: float = 0.5
    distance: Literal["squared", "mahalanobis"] = "squared"
    by_layer: bool = False
    coarse_share: float = 0.0
    position_grid: int | None = 0
    sigma_share: float = 2 / 256
    top_share: float = 0.002

    def __post_init__(self) -> None:
        check_choices(self, "readout.")
        for name in ("kl_weight", "coarse_share", "sigma_share", "top_share"):
            check_range(f"readout.{name}", getattr(self, name), 0, 1)
        check_count("readout.position_grid", self.position_grid or 0, 0, 1024)


@dataclass(frozen=True)
class RanConfig(DiffusionConfig):
    """Settings of RAN.

    Attributes:
        codec: "pixels", or "space_to_depth", which moves blocks of pixels to channels; both are lossless.
        readout: see RanReadoutConfig.
        unit_contrast: scale pixels to zero mean and unit deviation over the good images, so that the signal
            to noise ratio does not depend on their contrast.
        whiten_targets: whiten the target features over the good images, so that all channels and layers have
            equal weight in the loss; the paper does not.
        vb_weight: weight of the variational term, in bits per pixel and channel.
        window: side of the random training windows in pixels, which are cut after feature extraction from the
            whole image; 0 trains on whole images.
        enlarge: upsampling factor of images before feature extraction, and at least to the features'
            `least_side`. Features are averaged to the grid of the original image, or of an image of
            `least_side`. 0 leaves images unchanged.
        start_timesteps: T = {t_1..t_n} of eq. 11; all timesteps and draws run as a batch.
        draws: number of noise draws per timestep; their maps are averaged.
        gradient: settings of gradient denoising (Alg. 1).
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        **DiffusionConfig.RENAMED,
        "noise_steps": "start_timesteps",
        "cached_features": "training.cache_gigabytes",
        "by_place": "readout.position_grid",
        **{name: f"readout.{name}" for name in ("pixel_score", "kl_weight", "distance", "by_layer")},
        **{name: f"readout.{name}" for name in ("coarse_share", "sigma_share", "top_share")},
        "gradient.reverse_t": "gradient.reverse_timestep",
    }
    LATEST_START: ClassVar[int] = TIMESTEPS - 1
    schedule: Kind = "linear"
    codec: CodecConfig = field(default_factory=lambda: CodecConfig("pixels"))
    unit_contrast: bool = False
    whiten_targets: bool = True  # the value of older model folders without this field
    vb_weight: float = 1.0
    window: int = 0
    enlarge: int = 0
    start_timesteps: tuple[int, ...] = (20, 60, 150, 250)
    draws: int = 2
    readout: RanReadoutConfig = field(default_factory=RanReadoutConfig)
    gradient: GradientConfig = field(default_factory=GradientConfig)

    def for_tiles(self) -> Any:
        """See MethodConfig.for_tiles: without mean normal maps by position."""
        return replace(super().for_tiles(), readout=replace(self.readout, position_grid=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec.kind not in PIXEL_KINDS:
            raise InputError(
                f"codec: expected one of {', '.join(PIXEL_KINDS)} (RAN works on pixels), "
                f"got {self.codec.kind!r}."
            )
        crops = f"crops of {self.crop} pixels are new at every step; use window, which cuts cached features"
        self.check_cache({crops: self.crop > 0})
        if self.crop and self.window:
            raise InputError(
                f"crop and window: expected one of them, got {self.crop} and {self.window}; window is "
                "applied after feature extraction, crop before."
            )
        if self.training.lora_rank:
            raise InputError(
                "training.lora_rank: expected 0 for RAN, whose network is trained from scratch, got "
                f"{self.training.lora_rank}."
            )
        check_count("draws", self.draws, 1, 1000)
        check_range("vb_weight", self.vb_weight, 0)
        for name, high in (("window", LARGEST_SIDE), ("enlarge", MOST_ENLARGED)):
            check_count(name, getattr(self, name), 0, high)


_TINY = RanConfig(
    upright="auto",
    image_size=0,
    window=128,
    unit_contrast=True,
    enlarge=1,
    training=TrainingConfig(
        cache_gigabytes=1.0,
        steps=1000,
        minutes=4,
        batch_size=2,
        learning_rate=1e-3,
        warmup=30,
        cosine=True,
        ema=0.995,
    ),
    codec=CodecConfig("space_to_depth", factor=4),
    denoiser=DenoiserConfig(prediction="x0", network=plain_unet(64, 96, 128)),
    features=FeaturesConfig(TINY_FEATURES, layers=("stage1", "stage2", "stage3")),
    train_timesteps=(1, 300),
    min_snr_gamma=5.0,
    # The x0 error of a small network is much larger than the variance at small t, so that this term would
    # dominate the loss at its full weight.
    vb_weight=1e-3,
    start_timesteps=(20, 60, 150),
    draws=1,
    readout=RanReadoutConfig(
        kl_weight=0.1, distance="mahalanobis", by_layer=True, coarse_share=1 / 3, position_grid=None
    ),
)

_SMALL = RanConfig(
    upright="auto",
    image_size=256,
    window=128,
    unit_contrast=True,
    training=replace(SMALL_TRAINING, cache_gigabytes=1.0),
    codec=CodecConfig("space_to_depth", factor=4),
    denoiser=DenoiserConfig(prediction="v", network=attention_unet(64, 128, 192)),
    features=FeaturesConfig(AUTO),
    train_timesteps=(0, 500),
    min_snr_gamma=5.0,
    start_timesteps=(10, 60, 150, 250, 400),
    draws=1,
)

# MVTec-AD P-AUROC (GLAD's table 1, column "Lu et al."), mean 96.7: carpet 97.7, grid 95.6, leather 97.5,
# tile 98.9, wood 99.1, bottle 97.3, cable 99.5, capsule 96.8, hazelnut 92.5, metal_nut 99.0, pill 92.1,
# screw 98.6, toothbrush 93.1, transistor 94.5, zipper 97.6. The excerpt specifies the scores (eq. 10, 11),
# which are RanConfig's defaults, and PaDiM for the gradients. Network, training and extractor are our choice
# and have not been evaluated.
_PAPER = RanConfig(
    image_size=256,
    training=TrainingConfig(
        steps=100_000, batch_size=32, learning_rate=1e-4, weight_decay=0.0, warmup=1000, ema=0.9999
    ),
    # The network of DDPM's 256-pixel models (Ho et al. 2020, appendix B).
    denoiser=DenoiserConfig(
        network={
            "block_out_channels": [128, 128, 256, 256, 512, 512],
            "layers_per_block": 2,
            "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        }
    ),
    # PaDiM's extractor and layers (Defard et al. 2021).
    features=FeaturesConfig("wide_resnet50_2.tv_in1k", ("stage1", "stage2", "stage3")),
    whiten_targets=False,
    gradient=GradientConfig(dims=100),
)

PRESETS: dict[str, RanConfig] = {"tiny": _TINY, "small": _SMALL, "paper": _PAPER}
