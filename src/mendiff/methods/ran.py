"""RAN: removing anomalies as noises (Lu et al., ICCV 2023).

The excerpt that this follows leaves open the network's size, T, the number of draws, N, N_d, alpha and the
extractor; what was chosen for them stands at RanConfig's fields.
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
from mendiff.diffusion.random import PerImageRandom
from mendiff.diffusion.schedule import make_schedule
from mendiff.errors import InputError
from mendiff.methods.base import (
    TIMESTEPS,
    USUAL,
    Batches,
    Method,
    MethodConfig,
    Progress,
    check_single,
    track,
    unwatched,
)
from mendiff.methods.ran_config import PRESETS, RanConfig
from mendiff.methods.ran_features import joined_features, seen_strides
from mendiff.methods.ran_windows import cut_alike
from mendiff.nets.cached import LatentCache
from mendiff.nets.codec import check_size, make_codec
from mendiff.nets.contrast import Contrast
from mendiff.nets.features import make_features
from mendiff.nets.joint import JointDenoiser
from mendiff.nets.modes import builds_in_float32, deterministic
from mendiff.nets.placement import in_double
from mendiff.scoring.gaussians import PositionGaussians
from mendiff.scoring.maps import gaussian_blur
from mendiff.scoring.readout import few
from mendiff.scoring.residuals import ResidualDistances
from mendiff.scoring.scales import MapScales
from mendiff.scoring.score import top_share_mean
from mendiff.scoring.whitening import ChannelWhitening
from mendiff.types import Detection, Estimate, Panel, Trace

FULL_COLOUR = 8.0
"""Deviations above the mean of good images at which a single map is drawn in full colour."""


@dataclass(frozen=True)
class Look:
    """What the network makes of an image at every timestep and noise draw; n timesteps, d draws.

    Attributes:
        truth: f(x0), whitened where the config says so, (B,C,h,w).
        predicted: the same by the network, (n,d,B,C,h,w).
        pixel: KL divergence in nats, or squared error, averaged over channels, (n,d,B,1,H,W).
        rebuilt: mean clean estimate, (B,3,H,W) in [0,1].
    """

    truth: Tensor
    predicted: Tensor
    pixel: Tensor
    rebuilt: Tensor


class Ran(Method):
    """Surprise of a joint model of pixels and deep features at several noise scales.

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
        room = config.training.cache_gigabytes * 1e9
        self._cache = LatentCache(room, torch.float16) if room else None
        size = config.image_size or self.size_multiple
        readout = config.readout
        finest = size // min(self.features.strides)
        grid = finest if readout.position_grid is None else readout.position_grid
        strides = seen_strides(self.features, size, config.enlarge)
        self.residuals = nn.ModuleList(
            ResidualDistances(
                self.features.channels,
                strides,
                by_layer=readout.by_layer,
                coarse=readout.coarse_share > 0,
                places=grid,
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
        """Refuse layers and windows that don't go with the denoiser's levels."""
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
        """The reverse step's Gaussians."""
        posterior: Posterior = self.denoiser.posterior
        return posterior

    @property
    def size_multiple(self) -> int:
        """Image height and width must divide by this."""
        return math.lcm(self.codec.factor * self.denoiser.multiple, self.config.gradient.stride)

    # Training.

    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """Hybrid loss plus feature loss (eq. 10) of good images, (B,3,H,W) in [0,1] to a scalar."""
        check_size(self.codec, image, self.denoiser.multiple)
        t = rng.integers(*self.config.train_timesteps).to(image.device)
        # In float32: whitening lifts small differences of features, and with them what half precision rounds.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            x0, truth = self.windows(self.latents(image), self._truth(image), rng.generators)
        return self.joint_loss(x0, truth, t, rng.like(x0))

    def joint_loss(self, x0: Tensor, truth: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The same at given noise; latents (B,c,h,w), features (B,C,h',w') and t (B,), to a scalar."""
        config = self.config
        x_t = self.schedule.add_noise(x0, eps, t)
        estimate, features, prediction = self.denoiser(x_t, t, _grid(truth))
        weight = self.schedule.min_snr_weight(t, config.min_snr_gamma, config.denoiser.prediction).to(x0)
        error = weight * (prediction - self.denoiser.unet.target(x0, eps, t)).square().mean((1, 2, 3))
        hybrid = hybrid_loss(
            self.posterior, x0, x_t, estimate, t, error, config.vb_weight, self.contrast.pixels
        )
        loss: Tensor = hybrid.mean() + (features - truth).square().mean()
        return loss

    def rehearse_training(self, image: Tensor) -> Tensor:
        """RAN's loss on the first window, since where one lies is a value; see Method.rehearse_training."""
        with torch.no_grad():
            x0, truth = self.windows(self.latents(image), self.target(image), None)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self.joint_loss(x0, truth, t, torch.zeros_like(x0))

    def latents(self, image: Tensor) -> Tensor:
        """x0: the image at the contrast that noise is added at, (B,3,H,W) in [0,1] to (B,c,h,w)."""
        scaled: Tensor = self.contrast(self.codec.encode(image))
        return scaled

    def _truth(self, image: Tensor) -> Tensor:
        """The features to be predicted; good images come again and again, so theirs are kept."""
        return self.target(image) if self._cache is None else self._cache.latents(image, self.target)

    def windows(
        self, x0: Tensor, truth: Tensor, generators: Sequence[Generator] | None
    ) -> tuple[Tensor, Tensor]:
        """A random window of every image, of its latents (B,c,h,w) and its features (B,C,h',w') alike.

        Without generators it is the first one of every image. Features are cut after they were extracted:
        those of a cut image would be those of an image with a rim where there is none, far into it for deep
        layers.
        """
        unit = self.size_multiple
        rows, columns = (size * self.codec.factor // unit for size in x0.shape[-2:])
        return cut_alike(x0, truth, (rows, columns), self.config.window // unit, generators)

    def target(self, image: Tensor) -> Tensor:
        """f(x0): all feature layers on one grid, as they are predicted, (B,3,H,W) in [0,1] to (B,C,h,w)."""
        whitened: Tensor = self.target_whitening(self._joined(image))
        return whitened

    def _joined(self, image: Tensor) -> Tensor:
        return joined_features(image, self.features, self.config.enlarge)

    # Scores.

    @deterministic
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Score images by KL divergence and feature error at several noise scales; see Method.predict."""
        look = self.look(image, seeds)
        return self._judge(look, self.scales(self.maps(look)))

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """The maps at every timestep, and where gradient denoising leads; see Method.trace."""
        check_single(image)
        look = self.look(image, seeds)
        maps = self.scales(self.maps(look))
        walk = self.gradient_walk(image, seeds)
        every = self.config.gradient.every
        stages = [
            Panel(f"step {number * every}", "gradient walk", self.codec.decode(z)[0])
            for number, z in enumerate(walk)
            if number
        ]
        return Trace(self._judge(look, maps), [*self._map_panels(maps), *stages])

    def _map_panels(self, maps: Tensor) -> Iterator[Panel]:
        """The single maps of one image at every timestep, standardised, (n+nl,1,1,H,W)."""
        pixel, feature = self._parted(maps)
        name = "KL map" if self.config.readout.pixel_score == "kl" else "RGB error"
        for number, t in enumerate(self.config.start_timesteps):
            both = {name: pixel[number], "feature map": self._mixed(feature[number : number + 1])}
            for caption, one in both.items():
                score = float(top_share_mean(one, self.config.readout.top_share))
                yield Panel(f"t = {t}", caption, one[0], t, score, span=(0.0, FULL_COLOUR))

    def _judge(self, look: Look, maps: Tensor) -> Detection:
        """What was found, given all single maps, standardised, (n+nl,B,1,H,W)."""
        anomaly_map = self.weigh(maps)
        return Detection(
            score=top_share_mean(anomaly_map, self.config.readout.top_share),
            anomaly_map=anomaly_map,
            reconstruction=look.rebuilt,
            stop_step=torch.zeros(maps.shape[1], dtype=torch.int64, device=maps.device),
        )

    def look(self, image: Tensor, seeds: Tensor) -> Look:
        """Show the network all noisy versions of every image in one batch; (B,3,H,W) in [0,1], seeds (B,)."""
        check_size(self.codec, image, self.denoiser.multiple)
        x0, truth = self.latents(image), self.target(image)
        steps, draws = torch.tensor(self.config.start_timesteps, device=image.device), self.config.draws
        random = PerImageRandom(seeds)
        eps = torch.stack([random.like(x0) for _ in range(len(steps) * draws)], dim=1).flatten(0, 1)
        t = steps.repeat_interleave(draws).repeat(len(image))
        many = x0.repeat_interleave(len(steps) * draws, dim=0)
        x_t = self.schedule.add_noise(many, eps, t)
        estimate, features, _ = self.denoiser(x_t, t, _grid(truth))
        pixel = self._pixel_score(many, x_t, estimate, t)
        return Look(
            truth=truth,
            predicted=self._by_step(features),
            pixel=self._by_step(self.codec.decode_raw(pixel).mean(1, keepdim=True)),
            rebuilt=self._by_step(self.codec.decode(self.contrast.undo(estimate.x0))).mean((0, 1)),
        )

    def maps(self, look: Look) -> Tensor:
        """Every single map at image size, averaged over draws, not yet standardised, (n+nl,B,1,H,W).

        First the pixel scores of t_1..t_n, then the feature distances of t_1..t_n, with l maps each.
        """
        size = look.pixel.shape[-2:]
        maps = list(look.pixel.mean(1))
        for distances, predicted in zip(self._distances, look.predicted, strict=True):
            lacks = (self._lack(look.truth, one) for one in predicted)
            found = torch.stack([distances(lack) for lack in lacks]).mean(0)
            maps += [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in found]
        return torch.stack(maps)

    def weigh(self, maps: Tensor) -> Tensor:
        """Eq. 11 as a mean over timesteps and layers, smoothed, (n+nl,B,1,H,W) to (B,1,H,W)."""
        pixel, feature = self._parted(maps)
        alpha = self.config.readout.kl_weight
        total = alpha * pixel.mean(0) + (1 - alpha) * self._mixed(feature)
        return gaussian_blur(total, self.config.readout.sigma_share * total.shape[-1])

    def _parted(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel maps (n,B,1,H,W) and feature maps (n,l,B,1,H,W) of all single maps."""
        steps = len(self.config.start_timesteps)
        return maps[:steps], maps[steps:].unflatten(0, (steps, -1))

    def _mixed(self, feature: Tensor) -> Tensor:
        """The mean of feature maps over timesteps and layers, (n,l,B,1,H,W) to (B,1,H,W)."""
        fine = self._distances[0].fine
        mixed: Tensor = feature[:, :fine].mean((0, 1))
        if share := self.config.readout.coarse_share:
            mixed = (1 - share) * mixed + share * feature[:, fine:].mean((0, 1))
        return mixed

    @property
    def _distances(self) -> list[ResidualDistances]:
        """Those of every timestep."""
        return [one for one in self.residuals if isinstance(one, ResidualDistances)]

    def _by_step(self, rows: Tensor) -> Tensor:
        """One row per image, timestep and draw, (B n d,C,H,W), as (n,d,B,C,H,W)."""
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
        """What a good part would have looked like, by gradient denoising; see Method.explain."""
        return self.codec.decode(self.gradient_walk(image, seeds)[-1])

    @deterministic
    def gradient_walk(self, image: Tensor, seeds: Tensor) -> list[Tensor]:
        """The clean latents after every reverse-diffusion step, the image's own first, each (B,c,h,w).

        In float32 grey levels would hang on the other images of a batch and on the number of threads (see
        gradient_denoise). So every image walks alone, and in float64.
        """
        exact = in_double(self, image.device, shared=[self._cache])
        place = exact.contrast.mean.device
        pairs = zip(image.to(place, torch.float64).split(1), seeds.split(1), strict=True)
        walks = [exact._walk(one, own) for one, own in pairs]
        return [torch.cat(steps).to(image) for steps in zip(*walks, strict=True)]

    def _walk(self, image: Tensor, seeds: Tensor) -> list[Tensor]:
        """See gradient_walk; in the precision of the networks and of the image."""
        config = self.config.gradient
        check_size(self.codec, image, self.denoiser.multiple)
        random = PerImageRandom(seeds)
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

    # What good images look like.

    @deterministic
    def prepare(self, seen: Batches) -> None:
        """Learn the scale of the features that are to be predicted; see Method.prepare."""
        whiten, contrast = self.config.whiten_targets, self.config.unit_contrast
        for image, _ in few(seen)() if whiten or contrast else ():
            if whiten:
                self.target_whitening.update(self._joined(image))
            if contrast:
                self.contrast.update(self.codec.encode(image))
        if contrast:
            self.contrast.finish()
        if whiten:  # otherwise it stays the identity
            self.target_whitening.finish()
        if self._cache is not None:
            self._cache.clear()

    @deterministic
    def fit_statistics(
        self, held_back: Batches, seen: Batches | None = None, progress: Progress = unwatched
    ) -> None:
        """Learn the residual's covariance and the scale of every map; see Method.fit_statistics."""
        known = few(seen or held_back)
        looks = [self.look(image, seeds) for image, seeds in track(known(), USUAL, progress)]
        for step, distances in enumerate(self._distances):
            distances.fit(partial(self._lacks, step, looks))
        if self.scales.places:
            self.scales.fit_places(self.maps(look) for look in looks)
        good = track(held_back(), "learning the scale of scores", progress)
        self.scales.fit(self.maps(self.look(image, seeds)) for image, seeds in good)
        self.gaussians.fit(self.features(image) for image, _ in known())

    def _lacks(self, step: int, looks: Sequence[Look]) -> Iterator[Tensor]:
        """What predicted features lack at a timestep, a noise draw at a time, (B,C,h,w)."""
        for look in looks:
            yield from (self._lack(look.truth, predicted) for predicted in look.predicted[step])

    def _lack(self, truth: Tensor, predicted: Tensor) -> Tensor:
        """Truth minus prediction, (B,C,h,w): of whitened features, for Mahalanobis distances of plain ones.

        Whitening mixes layers, and each shall have a distance of its own.
        """
        lack = truth - predicted
        return self.target_whitening.undo(lack) if self.config.readout.distance == "mahalanobis" else lack


def _grid(features: Tensor) -> tuple[int, int]:
    return (features.shape[-2], features.shape[-1])
