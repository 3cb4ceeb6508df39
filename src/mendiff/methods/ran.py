"""RAN: removing anomalies as noises (Lu et al., ICCV 2023).

The excerpt that this follows leaves open the network's size, T, the number of draws, N, N_d, alpha and the
extractor; what was chosen for them stands at the config fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mendiff.diffusion.gradient import GradientConfig, gradient_denoise
from mendiff.diffusion.posterior import Posterior, kl_divergence
from mendiff.diffusion.random import PerImageRandom
from mendiff.diffusion.schedule import make_schedule
from mendiff.errors import InputError
from mendiff.methods.base import Batches, Method, MethodConfig, TrainingConfig
from mendiff.nets.codec import CodecConfig, check_size, make_codec
from mendiff.nets.denoiser import DenoiserConfig, plain_unet
from mendiff.nets.features import FeaturesConfig, make_features
from mendiff.nets.joint import JointDenoiser
from mendiff.scoring.gaussians import PositionGaussians
from mendiff.scoring.maps import gaussian_blur, squared_map
from mendiff.scoring.scales import MapScales, logarithm
from mendiff.scoring.score import top_share_mean
from mendiff.scoring.whitening import ChannelWhitening, ConditionalWhitening
from mendiff.types import Detection, Estimate

TIMESTEPS = 1000
"""T of every schedule here."""
DISTANCES = ("squared", "whitened")
PIXEL_CODECS = ("pixels", "space_to_depth")


@dataclass(frozen=True)
class RanConfig(MethodConfig):
    """Everything that RAN can be told.

    Attributes:
        schedule: "linear", "scaled_linear" or "cosine".
        codec: "pixels", or "space_to_depth", which moves blocks of pixels into channels; both lose nothing.
        denoiser, features: see their configs.
        train_t: lowest and highest timestep (exclusive) that is trained.
        min_snr_gamma: of the weights of the noise loss; 0 weighs all timesteps equally.
        feature_weight: of the feature loss (eq. 10) beside the hybrid loss.
        vb_weight: of the variational term, in bits per pixel and channel.
        target_pool: side of the windows over which the features to be predicted are averaged; 1 for none.
        noise_steps: T = {t_1..t_n} of eq. 11; all, and all draws, run as one batch.
        draws: of noise per timestep; their maps are averaged.
        kl_weight: alpha of eq. 11, 0 to 1.
        distance: between true and predicted features: "squared" (eq. 10), or "whitened": how surprising the
            true ones are, given the predicted ones (see mendiff.scoring.whitening).
        standardise_features: standardise feature maps per timestep and layer, too, as the paper does KL maps.
        logarithm: take logarithms of all maps before they are standardised.
        sigma_share: of the Gaussian that smooths the map, as a share of its side; 0 for none.
        top_share: share of the pixels that the image score averages.
        gradient: how the image that explains a finding is made (Alg. 1).
    """

    schedule: str = "linear"
    codec: CodecConfig = field(default_factory=lambda: CodecConfig("pixels"))
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    train_t: tuple[int, ...] = (0, 1000)
    min_snr_gamma: float = 0.0
    feature_weight: float = 1.0
    vb_weight: float = 1.0
    target_pool: int = 1
    noise_steps: tuple[int, ...] = (20, 60, 150, 250)
    draws: int = 2
    kl_weight: float = 0.5
    distance: str = "squared"
    standardise_features: bool = True
    logarithm: bool = False
    sigma_share: float = 4 / 256
    top_share: float = 0.002
    gradient: GradientConfig = field(default_factory=GradientConfig)

    def __post_init__(self) -> None:
        if self.codec.kind not in PIXEL_CODECS:
            raise InputError(
                f"codec: expected one of {', '.join(PIXEL_CODECS)} (RAN works on pixels), "
                f"got {self.codec.kind!r}."
            )
        if len(self.train_t) != 2 or not 0 <= self.train_t[0] < self.train_t[1] <= TIMESTEPS:
            raise InputError(
                f"train_t: expected two timesteps, low < high <= {TIMESTEPS}, got {list(self.train_t)}."
            )
        last = TIMESTEPS - 1
        if not self.noise_steps or not all(1 <= step <= last for step in self.noise_steps):
            raise InputError(
                f"noise_steps: expected timesteps of the schedule, 1 to {last}, got {list(self.noise_steps)}."
            )
        if self.draws < 1:
            raise InputError(f"draws: expected at least 1 per timestep, got {self.draws}.")
        if not 0 <= self.kl_weight <= 1:
            raise InputError(f"kl_weight: expected 0 to 1, got {self.kl_weight}.")
        if self.target_pool < 1 or self.target_pool % 2 == 0:
            raise InputError(f"target_pool: expected an odd number of positions, got {self.target_pool}.")
        if self.distance not in DISTANCES:
            raise InputError(f"distance: expected one of {', '.join(DISTANCES)}, got {self.distance!r}.")


@dataclass(frozen=True)
class Look:
    """What the network makes of an image at every timestep and noise draw; n timesteps, d draws, L layers.

    Attributes:
        truth: f(x0), whitened, L of (B,C,h,w).
        predicted: the same by the network, L of (n,d,B,C,h,w).
        kl: in nats, averaged over channels, (n,d,B,1,H,W).
        rebuilt: mean clean estimate, (B,3,H,W) in [0,1].
    """

    truth: list[Tensor]
    predicted: list[Tensor]
    kl: Tensor
    rebuilt: Tensor


def hybrid_loss(
    posterior: Posterior,
    x0: Tensor,
    x_t: Tensor,
    estimate: Estimate,
    t: Tensor,
    error: Tensor,
    vb_weight: float = 1.0,
) -> Tensor:
    """Squared error plus a variational term that trains the variance alone, (B,) (Nichol & Dhariwal, eq. 16).

    Args:
        posterior: of the schedule.
        x0: clean latents, (B,c,h,w).
        x_t: noisy ones.
        estimate: what the network made of x_t, with log_var.
        t: (B,).
        error: of what the network predicts, (B,).
        vb_weight: of the variational term, which is in bits per pixel and channel.
    """
    frozen = Estimate(estimate.x0.detach(), estimate.eps.detach(), estimate.log_var)
    return error + vb_weight * posterior.variational_bits(x0, x_t, frozen, t)


def _grids(features: list[Tensor]) -> list[tuple[int, int]]:
    return [(one.shape[-2], one.shape[-1]) for one in features]


_TINY = RanConfig(
    image_size=0,
    crop=128,
    training=TrainingConfig(steps=1000, batch_size=2, learning_rate=1e-3, warmup=30, cosine=True, ema=0.995),
    codec=CodecConfig("space_to_depth", factor=4),
    denoiser=DenoiserConfig(prediction="x0", network=plain_unet(64, 96, 128)),
    train_t=(1, 400),
    min_snr_gamma=5.0,
    target_pool=3,
    distance="whitened",
    logarithm=True,
)

PRESETS: dict[str, RanConfig] = {"tiny": _TINY}


class Ran(Method):
    """Surprise of a joint model of pixels and deep features at several noise scales.

    Args:
        config: see RanConfig.
    """

    Config: ClassVar[type[MethodConfig]] = RanConfig
    PRESETS: ClassVar = PRESETS
    config: RanConfig

    def __init__(self, config: RanConfig) -> None:
        super().__init__(config)
        self.schedule = make_schedule(config.schedule, TIMESTEPS)
        self.codec = make_codec(config.codec)
        self.features = make_features(config.features)
        widths, strides = self.features.channels, self.features.strides
        self.denoiser = JointDenoiser(config.denoiser, self.schedule, self.codec.channels, widths)
        coarsest = self.codec.factor * self.denoiser.multiple
        too_coarse = [stride for stride in strides if stride > coarsest]
        if too_coarse:
            raise InputError(
                f"layers: expected feature maps no coarser than the denoiser's deepest level, a position per "
                f"{coarsest} pixels, got one per {too_coarse[0]}; leave that layer out or add a level."
            )
        self.target_whitening = nn.ModuleList(ChannelWhitening(width) for width in widths)
        rungs = len(config.noise_steps)
        whitened = config.distance == "whitened"
        self.whitening = nn.ModuleList(
            ConditionalWhitening(width) for _ in range(rungs) for width in widths if whitened
        )
        self.scales = MapScales(rungs * (1 + len(widths)))
        side = (config.image_size or self.size_multiple) // config.gradient.stride
        chosen = torch.randperm(sum(widths), generator=Generator().manual_seed(0))[: config.gradient.dims]
        self.gaussians = PositionGaussians(chosen.sort().values, (side, side))

    @property
    def posterior(self) -> Posterior:
        """The reverse step's Gaussians."""
        posterior: Posterior = self.denoiser.posterior
        return posterior

    @property
    def size_multiple(self) -> int:
        """Image height and width must divide by this."""
        return math.lcm(self.codec.factor * self.denoiser.multiple, self.config.gradient.stride)

    @property
    def _targets(self) -> list[ChannelWhitening]:
        return [one for one in self.target_whitening if isinstance(one, ChannelWhitening)]

    def _whitening(self, step: int, layer: int) -> ConditionalWhitening:
        one = self.whitening[step * len(self.target_whitening) + layer]
        assert isinstance(one, ConditionalWhitening)
        return one

    # Training.

    def training_loss(self, image: Tensor, rng: Generator) -> Tensor:
        """Hybrid loss plus feature loss (eq. 10) of good images, (B,3,H,W) in [0,1] to a scalar."""
        check_size(self.codec, image, self.denoiser.multiple)
        low, high = self.config.train_t
        t = torch.randint(low, high, (len(image),), generator=rng).to(image.device)
        with torch.no_grad():
            x0, truth = self.codec.encode(image), self.target(image)
        eps = torch.randn(x0.shape, generator=rng).to(x0)
        x_t = self.schedule.add_noise(x0, eps, t)
        estimate, features, prediction = self.denoiser(x_t, t, _grids(truth))
        wanted = self.denoiser.unet.target(x0, eps, t)
        weight = self.schedule.min_snr_weight(t, self.config.min_snr_gamma, self.config.denoiser.prediction)
        error = weight.to(x0) * (prediction - wanted).square().mean((1, 2, 3))
        hybrid = hybrid_loss(self.posterior, x0, x_t, estimate, t, error, self.config.vb_weight)
        losses = [(ours - theirs).square().mean() for ours, theirs in zip(truth, features, strict=True)]
        return hybrid.mean() + self.config.feature_weight * torch.stack(losses).mean()

    def target(self, image: Tensor) -> list[Tensor]:
        """f(x0), whitened: what the network should predict, (B,3,H,W) in [0,1] to one (B,C,h,w) per layer."""
        side = self.config.target_pool
        layers = (white(one) for white, one in zip(self._targets, self.features(image), strict=True))
        return [F.avg_pool2d(one, side, 1, side // 2, count_include_pad=False) for one in layers]

    # Scores.

    @torch.no_grad()
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Score images by KL divergence and feature error at several noise scales; see Method.predict."""
        look = self.look(image, seeds)
        anomaly_map = self.weigh(self.scales(self.maps(look)))
        return Detection(
            score=top_share_mean(anomaly_map, self.config.top_share),
            anomaly_map=anomaly_map,
            reconstruction=look.rebuilt,
            stop_step=torch.zeros(len(image), dtype=torch.int64, device=image.device),
        )

    def look(self, image: Tensor, seeds: Tensor) -> Look:
        """Show the network all noisy versions of every image in one batch; (B,3,H,W) in [0,1], seeds (B,)."""
        check_size(self.codec, image, self.denoiser.multiple)
        x0, truth = self.codec.encode(image), self.target(image)
        draws, rows = self.config.draws, self._rows
        random = PerImageRandom(seeds)
        eps = torch.stack([random.like(x0) for _ in range(rows)], dim=1).flatten(0, 1)
        steps = torch.tensor(self.config.noise_steps, device=image.device)
        t = steps.repeat_interleave(draws).repeat(len(image))
        many = x0.repeat_interleave(rows, dim=0)
        x_t = self.schedule.add_noise(many, eps, t)
        estimate, features, _ = self.denoiser(x_t, t, _grids(truth))
        kl = kl_divergence(self.posterior.truth(many, x_t, t), self.posterior.predicted(x_t, estimate, t))
        return Look(
            truth=truth,
            predicted=[self._by_step(one) for one in features],
            kl=self._by_step(self.codec.decode_raw(kl).mean(1, keepdim=True)),
            rebuilt=self._by_step(self.codec.decode(estimate.x0)).mean((0, 1)),
        )

    def maps(self, look: Look) -> Tensor:
        """Every single map at image size, not yet standardised, (n + n L,B,1,H,W).

        KL in nats of t_1..t_n, averaged over channels and draws; then the distance of every feature layer at
        t_1, at t_2, ..., averaged over draws.
        """
        size = look.kl.shape[-2:]
        maps = list(look.kl.mean(1))
        for step in range(len(self.config.noise_steps)):
            for layer, (ours, theirs) in enumerate(zip(look.truth, look.predicted, strict=True)):
                draws = [self._distance(step, layer, ours, one) for one in theirs[step]]
                mean = torch.stack(draws).mean(0)
                maps.append(F.interpolate(mean, size=size, mode="bilinear", align_corners=True))
        return logarithm(torch.stack(maps)) if self.config.logarithm else torch.stack(maps)

    def weigh(self, maps: Tensor) -> Tensor:
        """Eq. 11 as a mean over timesteps and layers, smoothed, (n + n L,B,1,H,W) to (B,1,H,W)."""
        alpha, steps = self.config.kl_weight, len(self.config.noise_steps)
        total = alpha * maps[:steps].mean(0) + (1 - alpha) * maps[steps:].mean(0)
        return gaussian_blur(total, self.config.sigma_share * total.shape[-1])

    @property
    def _rows(self) -> int:
        """Noisy versions of an image."""
        return len(self.config.noise_steps) * self.config.draws

    def _by_step(self, rows: Tensor) -> Tensor:
        """One row per image, timestep and draw, (B n d,C,H,W), as (n,d,B,C,H,W)."""
        counts = (-1, len(self.config.noise_steps), self.config.draws)
        by_step: Tensor = rows.unflatten(0, counts).movedim(0, 2)
        return by_step

    def _distance(self, step: int, layer: int, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.config.distance == "squared":
            return squared_map(ours, theirs)
        whitened: Tensor = self._whitening(step, layer)(ours, theirs)
        return whitened

    # Gradient denoising (Alg. 1).

    @torch.no_grad()
    def explain(self, image: Tensor, seeds: Tensor) -> Tensor:
        """What a good part would have looked like, by gradient denoising; see Method.explain."""
        return self.codec.decode(self.gradient_walk(image, seeds)[-1])

    @torch.no_grad()
    def gradient_walk(self, image: Tensor, seeds: Tensor) -> list[Tensor]:
        """The clean latents after every reverse-diffusion step, the image's own first, each (B,c,h,w)."""
        config = self.config.gradient
        check_size(self.codec, image, self.denoiser.multiple)
        random = PerImageRandom(seeds)
        t = torch.full((len(image),), config.reverse_t, device=image.device)
        a_t, s_t = self.schedule.scales(t)
        grids = _grids(self.features(image))

        def energy(x: Tensor) -> Tensor:
            layers = self.features(self.codec.decode_raw(x) / 2 + 0.5)
            return self.gaussians.excess(layers).sum((1, 2, 3))

        def reverse(x: Tensor) -> Tensor:
            estimate: Estimate = self.denoiser(x + s_t * random.like(x), t, grids)[0]
            return estimate.x0

        decay = float(a_t[0]) ** (1 / config.every)
        return gradient_denoise(self.codec.encode(image), energy, reverse, decay, config)

    # What good images look like.

    @torch.no_grad()
    def prepare(self, seen: Batches) -> None:
        """Learn the scale of the features that are to be predicted; see Method.prepare."""
        for image, _ in seen():
            for white, one in zip(self._targets, self.features(image), strict=True):
                white.update(one)
        for white in self._targets:
            white.finish()

    @torch.no_grad()
    def fit_statistics(self, held_back: Batches, seen: Batches | None = None) -> None:
        """Learn the residual's covariance and the scale of every map; see Method.fit_statistics."""
        if self.config.distance == "whitened":
            places = [
                (step, layer)
                for step in range(len(self.config.noise_steps))
                for layer in range(len(self._targets))
            ]
            for image, seeds in (seen or held_back)():
                look = self.look(image, seeds)
                for step, layer in places:
                    for one in look.predicted[layer][step]:
                        self._whitening(step, layer).update(look.truth[layer], one)
            for step, layer in places:
                self._whitening(step, layer).finish()
        self.scales.fit(self.maps(self.look(image, seeds)) for image, seeds in held_back())
        self.gaussians.fit(self.features(image) for image, _ in (seen or held_back)())
        self.gaussians.fit_usual(self.features(image) for image, _ in held_back())
