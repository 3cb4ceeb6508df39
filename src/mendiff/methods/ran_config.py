"""RAN's settings: what they mean, what they may be, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from mendiff.diffusion.gradient import GradientConfig
from mendiff.diffusion.schedule import Kind
from mendiff.errors import LARGEST_SIDE, InputError, check_choices, check_count, check_range
from mendiff.methods.base import (
    SMALL_TRAINING,
    TIMESTEPS,
    DiffusionConfig,
    TrainingConfig,
)
from mendiff.nets import AUTO
from mendiff.nets.codec import PIXEL_KINDS, CodecConfig
from mendiff.nets.denoiser import DenoiserConfig, attention_unet, plain_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig
from mendiff.scoring.readout_config import MOST_ENLARGED


@dataclass(frozen=True)
class RanReadoutConfig:
    """How image and prediction are compared.

    Attributes:
        pixel_score: s_t of eq. 11: "kl", or "rgb", the squared error of the clean estimate, to compare with.
        kl_weight: alpha of eq. 11, 0 to 1.
        distance: between true and predicted features: "squared" (eq. 10), or "mahalanobis": by the covariance
            of the differences on good images.
        by_layer: score every feature layer by itself and bring each to the scale of good images, so that none
            outweighs the others by its number of channels; otherwise all features have one distance (eq. 10).
        coarse_share: of the feature map: a distance of all layers together, each averaged over 3x3 of its own
            positions, which large and faint defects ask for; 0 for none. The paper has none.
        position_grid: side of the square grid on which the mean feature error of good images is subtracted,
            and by whose mean map every map is divided; 0 for neither, as in the paper; None takes the grid
            of the finest features.
        sigma_share: of the Gaussian that smooths the map, as a share of its side; 0 for none.
        top_share: share of the pixels that the image score averages.
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
    """Everything that RAN can be told.

    Attributes:
        codec: "pixels", or "space_to_depth", which moves blocks of pixels into channels; both lose nothing.
        readout: see RanReadoutConfig.
        unit_contrast: whether pixels are first brought to zero mean and unit deviation over the good images,
            like Stable Diffusion's latents: noise that hardly touches a circuit board drowns faint textures.
        whiten_targets: whether the features that are to be predicted are first brought to zero mean and unit
            covariance over the good images, so that no channel or layer outweighs another in the loss; the
            paper predicts them as they are.
        vb_weight: of the variational term, in bits per pixel and channel.
        window: side of the random windows that the denoiser is trained on, in pixels, cut after the features
            of the whole image were extracted; 0 trains on whole images.
        enlarge: upsampling factor of images before feature extraction, and at least to the features'
            `least_side`; features are averaged to the positions that they have for the image itself, or for
            one of `least_side`. 0 leaves images as they are.
        start_timesteps: T = {t_1..t_n} of eq. 11; all, and all draws, run as one batch.
        draws: of noise per timestep; their maps are averaged.
        gradient: how the image that explains a finding is made (Alg. 1).
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
    whiten_targets: bool = True  # as model folders have it that do not say
    vb_weight: float = 1.0
    window: int = 0
    enlarge: int = 0
    start_timesteps: tuple[int, ...] = (20, 60, 150, 250)
    draws: int = 2
    readout: RanReadoutConfig = field(default_factory=RanReadoutConfig)
    gradient: GradientConfig = field(default_factory=GradientConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec.kind not in PIXEL_KINDS:
            raise InputError(
                f"codec: expected one of {', '.join(PIXEL_KINDS)} (RAN works on pixels), "
                f"got {self.codec.kind!r}."
            )
        crops = f"crops of {self.crop} pixels are new at every step; use window, which cuts what is kept"
        self.check_cache({crops: self.crop > 0})
        if self.crop and self.window:
            raise InputError(
                f"crop and window: expected one of them, got {self.crop} and {self.window}; window cuts "
                "after the features of the whole image were extracted, crop before."
            )
        if self.training.lora_rank:
            raise InputError(
                "training.lora_rank: expected 0 for RAN, whose network starts from random weights, got "
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
    # The x0 of a small network is off by far more than the variance at small t can say: in full, this term
    # would drown the others.
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
# screw 98.6, toothbrush 93.1, transistor 94.5, zipper 97.6. The excerpt gives the scores (eq. 10, 11), which
# stand here as RanConfig's defaults, and PaDiM for the gradients; network, training and extractor are our
# choice, and no figure of ours comes from them yet.
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
