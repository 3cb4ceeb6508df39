"""RAN: removing anomalies as noises (Lu et al., ICCV 2023).

The excerpt on which this implementation is based does not specify network size, T, number of draws, N, N_d,
alpha and extractor; the defaults of RanConfig are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mendiff.diffusion.gradient import gradient_denoise
from mendiff.diffusion.posterior import Posterior, hybrid_loss, kl_divergence
from mendiff.diffusion.random import PerImageRandom, PredictionNoise
from mendiff.diffusion.schedule import make_schedule
from mendiff.errors import InputError
from mendiff.methods.base import Batches, Method, MethodConfig, Progress, Scores, no_progress, track
from mendiff.methods.base_config import TIMESTEPS
from mendiff.methods.base_panels import check_single
from mendiff.methods.base_readout import FITTING
from mendiff.methods.ran_config import PRESETS, RanConfig
from mendiff.methods.ran_features import effective_strides, joined_features
from mendiff.methods.ran_windows import random_windows
from mendiff.nets.cached import LatentCache
from mendiff.nets.codec import check_size, make_codec
from mendiff.nets.contrast import Contrast
from mendiff.nets.features import make_features
from mendiff.nets.joint import JointDenoiser
from mendiff.nets.modes import builds_in_float32, deterministic
from mendiff.nets.placement import in_double
from mendiff.scoring.gaussians import PositionGaussians
from mendiff.scoring.maps import gaussian_blur
from mendiff.scoring.readout import first_images
from mendiff.scoring.residuals import ResidualDistances
from mendiff.scoring.scales import MapScales
from mendiff.scoring.score import top_share_mean
from mendiff.scoring.whitening import ChannelWhitening
from mendiff.types import Detection, Estimate, Panel, Trace

FULL_COLOUR = 8.0
"""Standardised value of a map that is drawn in full colour."""


@dataclass(frozen=True)
class Outputs:
    """Network outputs for images at n timesteps and d noise draws each.

    Attributes:
        target: f(x0), optionally whitened, (B,C,h,w).
        predicted: predicted f(x0), (n,d,B,C,h,w).
        pixel: KL divergence in nats, or squared error, averaged over channels, (n,d,B,1,H,W).
        reconstruction: mean clean estimate, (B,3,H,W) in [0,1].
    """

    target: Tensor
    predicted: Tensor
    pixel: Tensor
    reconstruction: Tensor


class Ran(Method):
    """Anomaly detection by the prediction errors of pixels and deep features at several noise scales.

    Args:
        config: see RanConfig.
    """

    Config: ClassVar[type[MethodConfig]] = RanConfig
    PRESETS: ClassVar = PRESETS
    NETWORKS: ClassVar = ("codec", "denoiser", "features")
    STATISTICS: ClassVar = ("residuals", "scales", "gaussians")
    SEARCHED: ClassVar = {
        "start_timesteps": [[10], [20], [60], [150], [250], [20, 60, 150]],
        "readout.kl_weight": [0.0, 0.1, 0.25, 0.5, 0.75, 1.0],
    }
    config: RanConfig

    @builds_in_float32
    def __init__(self, config: RanConfig) -> None:
        super().__init__(config)
        self.schedule = make_schedule(config.schedule, TIMESTEPS)
        self.codec = make_codec(config.codec)
        self.features = make_features(config.features)
        width = sum(self.features.channels)
        self.denoiser = JointDenoiser(config.denoiser, self.schedule, self.codec.channels, width)
        self._check()
        self.target_whitening = ChannelWhitening(width)
        self.contrast = Contrast()
        cache_bytes = config.training.cache_gigabytes * 1e9
        self._cache = LatentCache(cache_bytes, torch.float16) if cache_bytes else None
        size = config.image_size or self.size_multiple
        readout = config.readout
        finest = size // min(self.features.strides)
        grid = finest if readout.position_grid is None else readout.position_grid
        strides = effective_strides(self.features, size, config.enlarge)
        self.residuals = nn.ModuleList(
            ResidualDistances(
                self.features.channels,
                strides,
                by_layer=readout.by_layer,
                coarse=readout.coarse_share > 0,
                position_grid=grid,
                whiten=readout.distance == "mahalanobis",
            )
            for _ in config.start_timesteps
        )
        maps = sum(1 + one.count for one in self._distances)
        self.scales = MapScales(maps, grid, divide=True)
        drawn = torch.randperm(width, generator=Generator("cpu").manual_seed(0), device="cpu")
        chosen = drawn[: config.gradient.dims]
        side = size // config.gradient.stride
        self.gaussians = PositionGaussians(chosen.sort().values, (side, side))

    def _check(self) -> None:
        """Raise InputError for layers and windows that do not match the denoiser's levels."""
        deepest, coarsest = self.codec.factor * self.denoiser.multiple, max(self.features.strides)
        if coarsest > deepest:
            raise InputError(
                f"layers: expected feature maps no coarser than the denoiser's deepest level, a position per "
                f"{deepest} pixels, got one per {coarsest}; leave that layer out or add a level."
            )
        unit = self.size_multiple
        if self.config.window % unit:
            more = (self.config.window // unit + 1) * unit
            raise InputError(
                f"window: expected a multiple of {unit} pixels, got {self.config.window}; choose {more}."
            )

    @property
    def posterior(self) -> Posterior:
        """The Gaussians of the reverse diffusion step."""
        posterior: Posterior = self.denoiser.posterior
        return posterior

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this."""
        return math.lcm(self.codec.factor * self.denoiser.multiple, self.config.gradient.stride)

    # Training.

    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """Hybrid loss plus feature loss (eq. 10) of good images, (B,3,H,W) in [0,1] to a scalar."""
        check_size(self.codec, image, self.denoiser.multiple)
        t = rng.integers(*self.config.train_timesteps).to(image.device)
        # In float32, because whitening would amplify the rounding errors of half precision.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            x0, target = self.windows(self.latents(image), self._cached_target(image), rng.generators)
        return self.joint_loss(x0, target, t, rng.like(x0))

    def joint_loss(self, x0: Tensor, target: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The loss at given noise; latents (B,c,h,w), features (B,C,h',w') and t (B,), to a scalar."""
        config = self.config
        x_t = self.schedule.add_noise(x0, eps, t)
        estimate, features, prediction = self.denoiser(x_t, t, _grid(target))
        weight = self.schedule.min_snr_weight(t, config.min_snr_gamma, config.denoiser.prediction).to(x0)
        error = weight * (prediction - self.denoiser.unet.target(x0, eps, t)).square().mean((1, 2, 3))
        hybrid = hybrid_loss(
            self.posterior, x0, x_t, estimate, t, error, config.vb_weight, self.contrast.pixels
        )
        loss: Tensor = hybrid.mean() + (features - target).square().mean()
        return loss

    def rehearse_training(self, image: Tensor) -> Tensor:
        """The loss on the top left windows, because random positions need values; see the base class."""
        with torch.no_grad():
            x0, target = self.windows(self.latents(image), self.target(image), None)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self.joint_loss(x0, target, t, torch.zeros_like(x0))

    def latents(self, image: Tensor) -> Tensor:
        """x0, scaled by the contrast, (B,3,H,W) in [0,1] to (B,c,h,w)."""
        scaled: Tensor = self.contrast(self.codec.encode(image))
        return scaled

    def _cached_target(self, image: Tensor) -> Tensor:
        """The target features of training images, from the cache if there is one."""
        return self.target(image) if self._cache is None else self._cache.latents(image, self.target)

    def windows(
        self, x0: Tensor, target: Tensor, generators: Sequence[Generator] | None
    ) -> tuple[Tensor, Tensor]:
        """A random window of every image: latents (B,c,h,w) and features (B,C,h',w').

        Without generators it is the top left window. Features are cut after extraction, because extraction
        from a cut image would add border effects, especially in deep layers.
        """
        unit = self.size_multiple
        rows, columns = (size * self.codec.factor // unit for size in x0.shape[-2:])
        return random_windows(x0, target, (rows, columns), self.config.window // unit, generators)

    def target(self, image: Tensor) -> Tensor:
        """f(x0): all feature layers on one grid, optionally whitened, (B,3,H,W) in [0,1] to (B,C,h,w)."""
        whitened: Tensor = self.target_whitening(self._joined(image))
        return whitened

    def _joined(self, image: Tensor) -> Tensor:
        return joined_features(image, self.features, self.config.enlarge)

    # Scores.

    @deterministic
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Score images by KL divergence and feature error at several noise scales; see Method.predict."""
        return self.detect(image, self.noise(image, seeds))

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of all draws at the first timestep, then of those at the next."""
        count, factor = len(self.config.start_timesteps) * self.config.draws, self.codec.factor
        return (count, self.codec.channels, height // factor, width // factor)

    @deterministic
    def detect(self, image: Tensor, noise: Tensor) -> Detection:
        """The prediction at given noise, (B,3,H,W) in [0,1] and (B, *noise_shape)."""
        outputs = self.run_network(image, noise)
        return self._detection(outputs, self.scales(self.maps(outputs)))

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """The maps at every timestep and the steps of gradient denoising; see Method.trace."""
        check_single(image)
        outputs = self.run_network(image, self.noise(image, seeds))
        maps = self.scales(self.maps(outputs))
        every = self.config.gradient.every
        stages = [
            Panel(f"step {number * every}", "gradient denoising", self.codec.decode(z)[0])
            for number, z in enumerate(self.gradient_steps(image, seeds))
            if number
        ]
        return Trace(self._detection(outputs, maps), [*self._map_panels(maps), *stages])

    def _map_panels(self, maps: Tensor) -> Iterator[Panel]:
        """Panels of the standardised maps of an image at every timestep, (n+nl,1,1,H,W)."""
        pixel, feature = self._split(maps)
        name = "KL map" if self.config.readout.pixel_score == "kl" else "RGB error"
        for number, t in enumerate(self.config.start_timesteps):
            both = {name: pixel[number], "feature map": self._feature_mean(feature[number : number + 1])}
            for caption, one in both.items():
                score = float(top_share_mean(one, self.config.readout.top_share))
                yield Panel(f"t = {t}", caption, one[0], t, score, span=(0.0, FULL_COLOUR))

    def _detection(self, outputs: Outputs, maps: Tensor) -> Detection:
        """The result for standardised maps, (n+nl,B,1,H,W)."""
        anomaly_map = self.combine(maps)
        return Detection(
            score=top_share_mean(anomaly_map, self.config.readout.top_share),
            anomaly_map=anomaly_map,
            reconstruction=outputs.reconstruction,
            stop_step=torch.zeros(maps.shape[1], dtype=torch.int64, device=maps.device),
        )

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """Image scores of anomaly maps; see Method.score."""
        return top_share_mean(anomaly_map, self.config.readout.top_share, pixels)

    def run_network(self, image: Tensor, noise: Tensor) -> Outputs:
        """Run the network on all noisy versions of all images as a batch; arguments as for `detect`."""
        check_size(self.codec, image, self.denoiser.multiple)
        x0, target = self.latents(image), self.target(image)
        steps, draws = torch.tensor(self.config.start_timesteps, device=image.device), self.config.draws
        eps = noise.flatten(0, 1)
        t = steps.repeat_interleave(draws).repeat(image.shape[0])
        many = x0.repeat_interleave(len(steps) * draws, dim=0)
        x_t = self.schedule.add_noise(many, eps, t)
        estimate, features, _ = self.denoiser(x_t, t, _grid(target))
        pixel = self._pixel_score(many, x_t, estimate, t)
        return Outputs(
            target=target,
            predicted=self._by_step(features),
            pixel=self._by_step(self.codec.decode_raw(pixel).mean(1, keepdim=True)),
            reconstruction=self._by_step(self.codec.decode(self.contrast.undo(estimate.x0))).mean((0, 1)),
        )

    def maps(self, outputs: Outputs) -> Tensor:
        """All maps at image size, averaged over draws, before standardisation, (n+nl,B,1,H,W).

        The pixel scores of t_1..t_n are followed by the feature distances of t_1..t_n, with l maps each.
        """
        size = outputs.pixel.shape[-2:]
        maps = list(outputs.pixel.mean(1))
        for distances, predicted in zip(self._distances, outputs.predicted, strict=True):
            residuals = (self._residual(outputs.target, one) for one in predicted)
            found = torch.stack([distances(residual) for residual in residuals]).mean(0)
            maps += [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in found]
        return torch.stack(maps)

    def combine(self, maps: Tensor) -> Tensor:
        """Eq. 11 as a mean over timesteps and layers, smoothed, (n+nl,B,1,H,W) to (B,1,H,W)."""
        pixel, feature = self._split(maps)
        alpha = self.config.readout.kl_weight
        total = alpha * pixel.mean(0) + (1 - alpha) * self._feature_mean(feature)
        return gaussian_blur(total, self.config.readout.sigma_share * total.shape[-1])

    def _split(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Split all maps into pixel maps (n,B,1,H,W) and feature maps (n,l,B,1,H,W)."""
        steps = len(self.config.start_timesteps)
        return maps[:steps], maps[steps:].unflatten(0, (steps, -1))

    def _feature_mean(self, feature: Tensor) -> Tensor:
        """Weighted mean of feature maps over timesteps and layers, (n,l,B,1,H,W) to (B,1,H,W)."""
        fine = self._distances[0].fine
        mean: Tensor = feature[:, :fine].mean((0, 1))
        if share := self.config.readout.coarse_share:
            mean = (1 - share) * mean + share * feature[:, fine:].mean((0, 1))
        return mean

    @property
    def _distances(self) -> list[ResidualDistances]:
        """The feature distances of every timestep."""
        return [one for one in self.residuals if isinstance(one, ResidualDistances)]

    def _by_step(self, rows: Tensor) -> Tensor:
        """Reshape rows per image, timestep and draw, (B n d,C,H,W), to (n,d,B,C,H,W)."""
        counts = (-1, len(self.config.start_timesteps), self.config.draws)
        by_step: Tensor = rows.unflatten(0, counts).movedim(0, 2)
        return by_step

    def _pixel_score(self, x0: Tensor, x_t: Tensor, estimate: Estimate, t: Tensor) -> Tensor:
        """s_t per latent and channel: KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)), or RGB error."""
        if self.config.readout.pixel_score == "rgb":
            return (x0 - estimate.x0).square()
        return kl_divergence(self.posterior.truth(x0, x_t, t), self.posterior.predicted(x_t, estimate, t))

    # Gradient denoising (Alg. 1).

    @deterministic
    def explain(self, image: Tensor, seeds: Tensor) -> Tensor:
        """The reconstruction by gradient denoising; see Method.explain."""
        return self.codec.decode(self.gradient_steps(image, seeds)[-1])

    @deterministic
    def gradient_steps(self, image: Tensor, seeds: Tensor) -> list[Tensor]:
        """The latents of the image and after every reverse diffusion step, each (B,c,h,w).

        Images are processed one by one in float64. In float32 the result would depend on the batch and on the
        number of threads (see gradient_denoise).
        """
        exact = in_double(self, image.device, shared=[self._cache])
        device = exact.contrast.mean.device
        pairs = zip(image.to(device, torch.float64).split(1), seeds.split(1), strict=True)
        by_image = [exact._gradient_steps(single, seed) for single, seed in pairs]
        return [torch.cat(steps).to(image) for steps in zip(*by_image, strict=True)]

    def _gradient_steps(self, image: Tensor, seeds: Tensor) -> list[Tensor]:
        """The same in the precision of networks and image."""
        config = self.config.gradient
        check_size(self.codec, image, self.denoiser.multiple)
        random = PredictionNoise(seeds)
        t = torch.full((len(image),), config.reverse_timestep, device=image.device)
        grid = _grid(self.features(image)[0])

        def energy(x: Tensor) -> Tensor:
            layers = self.features(self.codec.decode_raw(x) / 2 + 0.5)
            distance: Tensor = self.gaussians(layers)
            return distance.sum((1, 2, 3))

        def reverse(x: Tensor) -> Tensor:
            x_t = self.contrast(x)
            estimate: Estimate = self.denoiser(x_t, t, grid)[0]
            step = self.posterior.predicted(x_t, estimate, t)
            before: Tensor = self.contrast.undo(step.mean + (step.log_var / 2).exp() * random.like(x))
            return before

        return gradient_denoise(self.codec.encode(image), energy, reverse, config)

    # Statistics of good images.

    @deterministic
    def prepare(self, seen: Batches) -> None:
        """Compute the whitening of the target features and the contrast; see Method.prepare."""
        whiten, contrast = self.config.whiten_targets, self.config.unit_contrast
        for image, _ in first_images(seen)() if whiten or contrast else ():
            if whiten:
                self.target_whitening.update(self._joined(image))
            if contrast:
                self.contrast.update(self.codec.encode(image))
        if contrast:
            self.contrast.finish()
        if whiten:  # otherwise it is the identity
            self.target_whitening.finish()
        if self._cache is not None:
            self._cache.clear()

    @deterministic
    def fit_statistics(
        self,
        held_back: Batches,
        seen: Batches | None = None,
        progress: Progress = no_progress,
        *,
        leave_out: bool = True,
    ) -> Scores:
        """Compute residual covariances, mean normal maps, scales and Gaussians; see the base class."""
        first = first_images(seen or held_back)
        seen_first = track(first(), FITTING, progress)
        outputs = [self.run_network(image, self.noise(image, seeds)) for image, seeds in seen_first]
        for step, distances in enumerate(self._distances):
            distances.fit(partial(self._residuals, step, outputs))
        if self.scales.position_grid:
            self.scales.fit_mean_maps(self.maps(output) for output in outputs)
        good = track(held_back(), "fitting score scales: batches", progress)
        self.scales.fit(self.maps(self.run_network(image, self.noise(image, seeds))) for image, seeds in good)
        self.gaussians.fit(self.features(image) for image, _ in first())
        return []

    def _residuals(self, step: int, outputs: Sequence[Outputs]) -> Iterator[Tensor]:
        """The feature residuals at a timestep, for every batch and noise draw, (B,C,h,w)."""
        for output in outputs:
            yield from (self._residual(output.target, predicted) for predicted in output.predicted[step])

    def _residual(self, target: Tensor, predicted: Tensor) -> Tensor:
        """Target minus prediction, (B,C,h,w).

        Mahalanobis distances use plain instead of whitened features, because whitening mixes the layers.
        """
        residual = target - predicted
        if self.config.readout.distance == "mahalanobis":
            return self.target_whitening.undo(residual)
        return residual


def _grid(features: Tensor) -> tuple[int, int]:
    return (features.shape[-2], features.shape[-1])
