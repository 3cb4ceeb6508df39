"""DiAD: one diffusion model for many categories (He et al., AAAI 2024).

A denoiser draws a good part anew from pure noise; the SG network tells it which part, and how it lies.
`reference=True` follows the published code. Where paper and code part is said at the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.diffusion.ddim import ddim
from mendiff.diffusion.ladder import SPACINGS, ladder
from mendiff.diffusion.random import PerImageRandom
from mendiff.diffusion.schedule import make_schedule
from mendiff.errors import InputError, check_range
from mendiff.methods.base import Batches, Method, MethodConfig, TrainingConfig, check_cached_latents
from mendiff.nets.cached import LatentCache
from mendiff.nets.codec import TINY_CODEC, CodecConfig, check_size, make_codec
from mendiff.nets.denoiser import DenoiserConfig, conditional_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig, make_features
from mendiff.nets.semantic_guided import GuideConfig, GuidedDenoiser
from mendiff.nets.stable_diffusion import CODEC, UNET
from mendiff.scoring.readout import LEARNED, Readout, ReadoutConfig, fit_to_mended
from mendiff.synthesis.blend import SynthesisConfig, Textures, synthesize_each
from mendiff.types import Detection, Estimate

TIMESTEPS = 1000
"""T of every schedule here."""
GUIDANCE = 9.0
"""Of the published code, between the empty prompt and itself: it changes nothing and doubles the work."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, in RGB."""


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
        noise_step: timestep whose noise the start latents carry; 0 for the ladder's first rung.
        steps: DDIM steps.
        spacing: of the ladder: "leading" (published), "trailing" or "linspace".
        reference: follow the published code number for number: latents are drawn from the codec's posterior,
            and guidance runs between equal prompts.
    """

    schedule: str = "scaled_linear"
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
    spacing: str = "leading"
    reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cached_latents(self, self.codec, drawn=self.reference)
        if self.training.lora_rank and self.train_encoder:
            raise InputError(
                "training.lora_rank: expected 0 with train_encoder, which is for networks that start from "
                f"random weights, got {self.training.lora_rank}."
            )
        if self.denoiser.categories:
            raise InputError("denoiser.categories: expected none for DiAD, whose prompt is always empty.")
        if len(self.train_t) != 2 or not 0 <= self.train_t[0] < self.train_t[1] <= TIMESTEPS:
            raise InputError(
                f"train_t: expected two timesteps, low < high <= {TIMESTEPS}, got {list(self.train_t)}."
            )
        check_range("start", self.start, 1, TIMESTEPS)
        check_range("noise_step", self.noise_step, 0, TIMESTEPS - 1)
        check_range("steps", self.steps, 1)
        check_range("min_snr_gamma", self.min_snr_gamma, 0)
        if self.spacing not in SPACINGS:
            raise InputError(f"spacing: expected one of {', '.join(SPACINGS)}, got {self.spacing!r}.")
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


def _published(images: int) -> DiadConfig:
    """Table 11 for a set of so many training images: 1000 epochs at batch 12, four batches accumulated."""
    steps = 1000 * math.ceil(images / 12) // 4
    return replace(PUBLISHED, training=replace(PUBLISHED.training, steps=steps, batch_size=48, accumulate=4))


# Results, one model for all categories of a set: cls AUROC / AP / F1max, seg AUROC / AP / F1max, PRO.
_MVTEC = _published(3629)  # 97.2 / 99.0 / 96.5, 96.8 / 52.6 / 55.5, 90.7 (tables 1, 3, 4)
PRESETS: dict[str, DiadConfig] = {
    "tiny": _TINY,
    "paper": _MVTEC,
    "paper/mvtec": _MVTEC,
    # VisA's split for one class leaves 8,659 of its 9,621 good images for training.
    "paper/visa": _published(8659),  # 86.8 / 88.3 / 85.1, 96.0 / 26.1 / 33.0, 75.2 (table 2)
    "paper/mvtec3d": _published(2656),  # 84.6 / 94.8 / 95.5, 96.4 / 25.3 / 32.2, 87.8 (table 5)
    "paper/medical": _published(9042),  # cls 77.2, seg 96.9, PRO 87.7, DICE 32.3 (table 6)
}


class Diad(Method):
    """Reconstruction from noise, steered by what the SG network sees.

    Args:
        config: see DiadConfig.

    Attributes:
        textures: pictures that synthetic anomalies of hints are cut from in training; see `synthesize`.
    """

    Config: ClassVar[type[MethodConfig]] = DiadConfig
    PRESETS: ClassVar = PRESETS
    config: DiadConfig
    mean: Tensor
    std: Tensor
    textures: Textures | None = None

    def __init__(self, config: DiadConfig) -> None:
        super().__init__(config)
        self.schedule = make_schedule(config.schedule, TIMESTEPS)
        self.codec = make_codec(config.codec)
        self.cache = LatentCache() if config.training.cache_latents else None
        unet = config.denoiser
        if config.reference:
            unet = replace(unet, guidance=unet.guidance or GUIDANCE)
        codec = self.codec
        self.denoiser = GuidedDenoiser(unet, config.guide, self.schedule, codec.channels, codec.factor)
        if not config.train_encoder:
            self.denoiser.train_decoder_only()
        if config.reference and self.denoiser.guide is not None:
            self.denoiser.guide.requires_grad_(True)  # outputs that go nowhere too
        self.features = make_features(config.features)
        self.readout = Readout(config.readout, self.features.channels)
        # The codec scales its input from [0,1] to [-1,1] by itself; these undo that for published weights.
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def size_multiple(self) -> int:
        """Image height and width must divide by this."""
        unit = self.codec.factor * self.denoiser.multiple
        return math.lcm(unit, self.config.synthesis.grid) if self.config.hint_anomalies else unit

    # Training.

    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """The noise loss of good images that are their own hints, (B,3,H,W) in [0,1] to a scalar."""
        check_size(self.codec, image, self.denoiser.multiple)
        config, noise = self.config, None
        if config.reference:
            height, width = (side // self.codec.factor for side in image.shape[-2:])
            noise = rng.like(image.new_empty(len(image), self.codec.channels, height, width))
        hint = self._training_hint(image, rng)
        with torch.no_grad():
            z0 = self.cache.latents(image, self.encode) if self.cache else self.encode(image, noise)
        t = rng.integers(*config.train_t).to(image.device)
        return self.noise_loss(z0, self.scaled(hint), t, rng.like(z0))

    def noise_loss(self, z0: Tensor, hint: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Squared error of what the network predicts, at given noise, to a scalar.

        Args:
            z0: clean latents, (B,c,h,w).
            hint: pixels as the SG network takes them, (B,3,H,W); see `scaled`.
            t: (B,).
            eps: (B,c,h,w).
        """
        z_t = self.schedule.add_noise(z0, eps, t)
        target = self.denoiser.unet.target(z0, eps, t)
        raw = self.denoiser.raw(z_t, t, self.denoiser.embed(hint))
        error = (raw - target).square().mean((1, 2, 3))
        weight = self.schedule.min_snr_weight(t, self.config.min_snr_gamma, self.config.denoiser.prediction)
        return (weight.to(error) * error).mean()

    def _training_hint(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        if self.config.hint_anomalies == 0:
            return image
        anomalous, _ = synthesize_each(image, rng.generators, self.config.synthesis, self.textures)
        shown = rng.uniform() < self.config.hint_anomalies
        return torch.where(shown.to(image.device)[:, None, None, None], anomalous, image)

    # Pixels as the networks take them.

    def scaled(self, image: Tensor) -> Tensor:
        """Pixels in [0,1] as the SG network sees them, (B,3,H,W): ImageNet-normalised or in [-1,1]."""
        return (image - self.mean) / self.std if self.config.normalised else image * 2 - 1

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of pixels in [0,1], (B,3,H,W) to (B,c,h,w); noise samples the posterior."""
        return self.codec.encode(self.scaled(image) / 2 + 0.5, noise)

    def decode(self, z0: Tensor) -> Tensor:
        """Pixels in about [0,1], not clamped, (B,c,h,w) to (B,3,H,W)."""
        pixels = self.codec.decode_raw(z0)
        return pixels * self.std + self.mean if self.config.normalised else pixels / 2 + 0.5

    # Inference.

    @torch.no_grad()
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Draw every image anew from noise and compare features; see Method.predict."""
        check_size(self.codec, image, self.denoiser.multiple)
        rebuilt = self._rebuild(image, seeds)
        anomaly_map = self.readout.anomaly_map(image, [rebuilt], self.features)
        if anomaly_map.shape[-2:] != image.shape[-2:]:
            anomaly_map = F.interpolate(anomaly_map, image.shape[-2:], mode="bilinear", align_corners=True)
        return Detection(
            score=self.readout.score(anomaly_map),
            anomaly_map=anomaly_map,
            reconstruction=rebuilt.clamp(0, 1),
            stop_step=torch.zeros(len(image), dtype=torch.int64, device=image.device),
        )

    def reconstruct(self, z0: Tensor, noise: Tensor, hint: Tensor) -> Tensor:
        """Noise the latents and walk them down, steered by the hint, to clean latents (B,c,h,w).

        Args:
            z0: clean latents, (B,c,h,w).
            noise: start noise of the same shape.
            hint: pixels as the SG network takes them, (B,3,H,W); see `scaled`.
        """
        config = self.config
        start = torch.full((len(z0),), config.start, device=z0.device)
        rungs = ladder(start, config.steps, config.spacing)
        # The published code noises to the last timestep although its ladder starts 98 below.
        first = torch.full_like(start, config.noise_step) if config.noise_step else rungs[:, 0]
        z_t = self.schedule.add_noise(z0, noise, first)
        embedding = self.denoiser.embed(hint)  # once: it is the same at every step

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            estimate: Estimate = self.denoiser(x_t, t, embedding)
            return estimate

        return ddim(denoise, z_t, rungs, self.schedule)

    def _rebuild(self, image: Tensor, seeds: Tensor) -> Tensor:
        """What good parts in the images' place would look like, (B,3,H,W) in about [0,1]."""
        random = PerImageRandom(seeds)
        z0 = self.encode(image)
        if self.config.reference:
            z0 = self.encode(image, random.like(z0))
        return self.decode(self.reconstruct(z0, random.like(z0), self.scaled(image)))

    @torch.no_grad()
    def rehearse_prediction(self, image: Tensor) -> None:
        """One step down the ladder and the read-out: the other steps repeat it."""
        z0, embedding = self.encode(image), self.denoiser.embed(self.scaled(image))
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        rebuilt = self.decode(self.denoiser(z0, t, embedding).x0)
        self.readout.anomaly_map(image, [rebuilt], self.features)

    @property
    def adapted(self) -> list[nn.Module]:
        """See Method.adapted: the UNet's decoder, and what the SG network copies from its encoder."""
        guide = self.denoiser.guide
        copied = [] if guide is None else [guide.network.down_blocks, guide.network.mid_block]
        return [self.denoiser.unet.network.up_blocks, *copied]

    # What good images look like.

    @torch.no_grad()
    def fit_statistics(self, held_back: Batches, seen: Batches | None = None) -> None:
        """Learn the read-out; see Method.fit_statistics."""

        def rebuild(image: Tensor, seeds: Tensor) -> list[Tensor]:
            return [self._rebuild(image, seeds)]

        fit_to_mended(self.readout, self.features, rebuild, held_back, seen)
