"""GLAD: global and local adaptive diffusion (Yao et al., ECCV 2024).

Paper and published code disagree in places; `reference=True` follows the code, the default mends its faults.
Where they part is said at the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mendiff.calibration import upper_bound
from mendiff.diffusion.ddim import ddim, recorded
from mendiff.diffusion.ladder import ladder, noised_at, remaining
from mendiff.diffusion.random import PerImageRandom, content_seeds, variant_seeds
from mendiff.diffusion.schedule import make_schedule
from mendiff.methods.base import (
    TIMESTEPS,
    Batches,
    Method,
    MethodConfig,
    Progress,
    check_single,
    fit_to_mended,
    track,
    unwatched,
)
from mendiff.methods.glad_config import PRESETS, GladConfig
from mendiff.methods.glad_stop import AdaptiveStop
from mendiff.methods.glad_trace import Walk, walk_panels
from mendiff.nets.cached import LatentCache
from mendiff.nets.codec import check_size, make_codec
from mendiff.nets.denoiser import Denoiser, plain_unet
from mendiff.nets.features import make_features
from mendiff.nets.modes import builds_in_float32, deterministic
from mendiff.nets.placement import temporarily_bf16
from mendiff.scoring.maps import nearest_patch_map, object_mask
from mendiff.scoring.readout import Readout
from mendiff.scoring.readout_config import DRAWN_PARTS
from mendiff.synthesis.blend import GRID, Textures, synthesize, synthesize_each
from mendiff.synthesis.foreground import foreground
from mendiff.types import Detection, Trace

STOP_RATE = 0.01
"""Share of good images that should exceed a learned stop score."""
STOP_FLOOR = 1e-3
"""Learned stop scores are at least this: at the first rung the two estimates differ by rounding alone."""


class Glad(Method):
    """Adaptive reconstruction by a diffusion model that was trained to take synthetic anomalies away.

    Args:
        config: see GladConfig.

    Attributes:
        textures: pictures that synthetic anomalies are cut from in training; see `synthesize`.
    """

    Config: ClassVar[type[MethodConfig]] = GladConfig
    PRESETS: ClassVar = PRESETS
    NETWORKS: ClassVar = ("codec", "denoiser", "features", "stop_features")
    STATISTICS: ClassVar = ("readout", "stop_thresholds")
    INFINITE: ClassVar = ("stop_thresholds",)  # where images never stop
    SEARCHED: ClassVar = {
        "start_timesteps": [[25], [50], [100], [200], [300], [500], [750], [50, 200], [100, 300]],
        "threshold": [None, 0.1, 0.2, 0.3, 0.4, 0.5],
        "min_timestep": [100, 200, 350, 500],
    }
    DEMO: ClassVar = {
        "training.steps": 1200,
        "codec.factor": 4,
        "denoiser.network": plain_unet(64, 96, 128),
        **DRAWN_PARTS,
    }
    config: GladConfig
    stop_thresholds: Tensor
    textures: Textures | None = None

    @builds_in_float32
    def __init__(self, config: GladConfig) -> None:
        super().__init__(config)
        self.schedule = make_schedule(config.schedule, TIMESTEPS)
        self.codec = make_codec(config.codec)
        self.denoiser = Denoiser(config.denoiser, self.schedule, self.codec.channels)
        self.features = make_features(config.features)
        room = config.training.cache_gigabytes * 1e9
        self.cache = LatentCache(room) if room and not config.variants else None
        self._variants = LatentCache(room, torch.float16) if config.variants else None
        self.stop_features = make_features(config.features) if config.own_stop_features else None
        runs = len(config.start_timesteps)
        self.readout = Readout(config.readout, self.features.channels, runs, batch_maxima=config.reference)
        threshold = math.inf if config.threshold is None else config.threshold
        self.register_buffer("stop_thresholds", torch.full((runs, config.sampler_steps), threshold))

    @property
    def size_multiple(self) -> int:
        """Image height and width must divide by this."""
        return math.lcm(self.codec.factor * self.denoiser.multiple, GRID)

    # Training (ATP).

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories that have prompts of their own."""
        return self.config.denoiser.categories

    def choose_category(self, name: str) -> None:
        """Use a category's prompt and direction of the match from now on; see Method.choose_category."""
        if self.categories:
            self.denoiser.choose_category(name)
            backward = "mean" if name in self.config.both_ways else self.config.readout.backward
            self.readout.config = replace(self.config.readout, backward=backward)

    def training_loss(self, image: Tensor, rng: PerImageRandom, categories: Tensor | None = None) -> Tensor:
        """ATP on fresh synthetic anomalies of good images, (B,3,H,W) in [0,1] to a scalar.

        Args:
            image: see Method.training_loss.
            rng: see there.
            categories: the number of each image's category, (B,), where these have prompts of their own.
        """
        check_size(self.codec, image, self.denoiser.multiple)
        t = rng.integers(*self.config.train_timesteps)
        with torch.no_grad():
            z0, z_anomalous = self._pairs(image, rng)
        prompt = None if categories is None else self.denoiser.category_prompts[categories]
        return self.atp_loss(z0, z_anomalous, t.to(image.device), rng.like(z0), prompt)

    def _pairs(self, image: Tensor, rng: PerImageRandom) -> tuple[Tensor, Tensor]:
        """Latents of good images and of the same with synthetic anomalies, two (B,c,h,w)."""
        if self._variants is not None:
            chosen = rng.integers(0, self.config.variants)
            seeds = variant_seeds(content_seeds(image), chosen)
            make = partial(self._variant, image, PerImageRandom(seeds).generators)
            z0, z_anomalous = self._variants.of(seeds.tolist(), make, image).unbind(1)
            return z0, z_anomalous
        anomalous, _ = synthesize_each(image, rng.generators, self.config.synthesis, self.textures)
        noise, encode = self._posterior_noise(image), self.codec.encode
        z0 = self.cache.latents(image, encode) if self.cache else encode(image, noise)
        return z0, encode(anomalous, noise)

    def _variant(self, images: Tensor, rngs: Sequence[Generator], number: int) -> Tensor:
        """One image of a batch, without and with an anomaly, (2,c,h,w)."""
        image, rng = images[number][None], rngs[number]
        anomalous, _ = synthesize(image, rng, self.config.synthesis, self.textures)
        return self.codec.encode(torch.cat([image, anomalous]))

    def rehearse_training(self, image: Tensor) -> Tensor:
        """ATP without its synthetic anomalies, whose places are values; see Method.rehearse_training."""
        with torch.no_grad():
            z0, z_anomalous = self.codec.encode(image), self.codec.encode(image)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self.atp_loss(z0, z_anomalous, t, torch.zeros_like(z0))

    def atp_loss(
        self, z0: Tensor, z_anomalous: Tensor, t: Tensor, eps: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """The anomaly-oriented training loss at given noise; latents (B,c,h,w), t (B,), to a scalar.

        The prompt embeddings, (B,L,D), replace the model's own.
        """
        if self.config.mix:
            # The published code leans towards the normal latent at small t; the paper does not mention it.
            share = (t.to(torch.float64) / len(self.schedule)).to(z0)[:, None, None, None]
            z_anomalous = share * z_anomalous + (1 - share) * z0
        z_t = self.schedule.add_noise(z_anomalous, eps, t)
        target = self.atp_target(z0, z_anomalous, t, eps)
        error = (self.denoiser.raw(z_t, t, prompt) - target).square().mean((1, 2, 3))
        weight = self.schedule.min_snr_weight(t, self.config.min_snr_gamma, self.config.denoiser.prediction)
        return (weight.to(error) * error).mean()

    def atp_target(self, z0: Tensor, z_anomalous: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What the network should put out at z_t^a for its clean estimate to be z0, (B,c,h,w).

        For eps that is eps + (a_t/s_t)(z^a - z0). Paper and published code have a minus there, whose clean
        estimate is 2 z^a - z0: it doubles the anomaly; only `reference` keeps it.
        """
        a_t, s_t = self.schedule.scales(t, torch.float64)
        sign = -1 if self.config.reference else 1
        eps = eps + sign * (a_t / s_t).to(z0) * (z_anomalous - z0)
        return self.denoiser.target(z0 if sign > 0 else 2 * z_anomalous - z0, eps, t)

    def _posterior_noise(self, image: Tensor) -> Tensor | None:
        """Noise of the codec's posterior: none, or one fixed draw for every step (published code)."""
        if not self.config.reference:
            return None
        height, width = (side // self.codec.factor for side in image.shape[-2:])
        shape = (len(image), self.codec.channels, height, width)
        # A generator nobody seeded: the published code hands its seed over as the generator's device.
        return torch.randn(shape, generator=Generator("cpu"), dtype=torch.float32, device="cpu").to(image)

    # Inference (ADS, SAFF).

    @deterministic
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Mend every image from its own noise and score what had to be mended; see Method.predict."""
        check_size(self.codec, image, self.denoiser.multiple)
        return self._judge(image, *self._mend(image, seeds))

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """What every walk saw, rung by rung; see Method.trace."""
        check_single(image)
        check_size(self.codec, image, self.denoiser.multiple)
        walks = [Walk() for _ in self.config.start_timesteps]
        found = self._judge(image, *self._mend(image, seeds, walks))
        return Trace(found, walk_panels(walks, self.codec.decode, self.config))

    def _judge(self, image: Tensor, rebuilt: list[Tensor], stops: list[Tensor]) -> Detection:
        """What was found, given the reconstructions and stop steps of all runs."""
        anomaly_map = self.readout.anomaly_map(image, rebuilt, self.features, self._object_weight(image))
        if anomaly_map.shape[-2:] != image.shape[-2:]:
            anomaly_map = F.interpolate(anomaly_map, image.shape[-2:], mode="bilinear", align_corners=True)
        return Detection(
            score=self.readout.score(anomaly_map),
            anomaly_map=anomaly_map,
            reconstruction=torch.stack(rebuilt).mean(0).clamp(0, 1),
            stop_step=torch.stack(stops).amax(0),
        )

    def reconstruct(
        self,
        z0: Tensor,
        noise: Tensor,
        run: int = 0,
        thresholds: Tensor | None = None,
        walk: Walk | None = None,
    ) -> tuple[Tensor, AdaptiveStop]:
        """Noise the latents and walk them down the ladder: (mended latents (B,c,h,w), how the search ended).

        Args:
            z0: clean latents, (B,c,h,w).
            noise: start noise of the same shape.
            run: which of the config's start_timesteps to start from.
            thresholds: stop score of every rung, (N,), in place of the model's own.
            walk: takes what is seen of a single image on the way; see `trace`.
        """
        config = self.config
        start = torch.full((len(z0),), config.start_timesteps[run], device=z0.device)
        rungs = ladder(start, config.sampler_steps, config.spacing)
        t = noised_at(rungs[:, 0], start, config.noise_timestep)
        if (
            config.reference
        ):  # the published code noises to T' or T' - 1 although its ladder starts a rung lower
            t = torch.where(t == config.noise_timestep, t, start)
        z_t = self.schedule.add_noise(z0, noise, t)
        thresholds = self.stop_thresholds[run] if thresholds is None else thresholds
        stop = AdaptiveStop(self, z0, noise, thresholds, walk)
        edit = recorded(stop if config.adaptive else None, None if walk is None else walk.steps)
        z = ddim(self.denoiser, z_t, rungs, self.schedule, edit=edit)
        rows = stop.resumed_at.nonzero().flatten()
        if len(rows):  # a second walk of those images that went back, each from its own rung
            below = remaining(rungs[rows], stop.resumed_at[rows])
            edit = recorded(None, None if walk is None else walk.again)
            z = z.index_put((rows,), ddim(self.denoiser, stop.resumed[rows], below, self.schedule, edit=edit))
        return z, stop

    def stop_map(self, generated: Tensor, truth: Tensor) -> Tensor:
        """Distance of every token of the generated estimate to the true input's, two latents to (B,1,h,w)."""
        # Decoder outputs go in as they are, about [-1,1], without the extractor's own normalisation
        # (published code).
        features = self.features if self.stop_features is None else self.stop_features
        theirs = features.unnormalised(self.codec.decode_raw(generated))[-1]
        ours = features.unnormalised(self.codec.decode_raw(truth))[-1]
        return nearest_patch_map(ours, theirs)

    def _mend(
        self, image: Tensor, seeds: Tensor, walks: Sequence[Walk] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Reconstructions (B,3,H,W) in about [0,1], and stop steps (B,), one of each per run."""
        z0, noise = self._start(image, seeds)
        rebuilt, stops = [], []
        for run in range(len(self.config.start_timesteps)):
            z, stop = self.reconstruct(z0, noise, run, walk=walks[run] if walks else None)
            rebuilt.append(self.codec.decode_raw(z) / 2 + 0.5)
            stops.append(stop.stopped_at)
        return rebuilt, stops

    def _start(self, image: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and each image's start noise; the published code samples the codec's posterior."""
        random = PerImageRandom(seeds)
        z0 = self.codec.encode(image)
        if self.config.reference:
            z0 = self.codec.encode(image, random.like(z0))
        return z0, random.like(z0)

    def _object_weight(self, image: Tensor) -> Tensor | None:
        if self.config.object_mask == "none":
            return None
        return object_mask(foreground(image, self.config.object_mask)).to(image)

    @deterministic
    def rehearse_prediction(self, image: Tensor) -> None:
        """One step down the ladder, one look of the stop rule and the read-out: all others repeat these."""
        z0 = self.codec.encode(image)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        z0 = self.denoiser(z0, t).x0
        self.stop_map(z0, z0)
        rebuilt = [self.codec.decode_raw(z0) for _ in self.config.start_timesteps]
        self.readout.anomaly_map(image, rebuilt, self.features, self._object_weight(image))

    @property
    def adapted(self) -> list[nn.Module]:
        """See Method.adapted: Stable Diffusion's UNet."""
        return [self.denoiser.network]

    @property
    def searched(self) -> Mapping[str, Sequence[Any]]:
        """The stop rule's fields, too, where it searches."""
        adaptive = ("threshold", "min_timestep")
        return {
            name: values
            for name, values in self.SEARCHED.items()
            if self.config.adaptive or name not in adaptive
        }

    # What good images look like.

    @deterministic
    def fit_statistics(
        self, held_back: Batches, seen: Batches | None = None, progress: Progress = unwatched
    ) -> None:
        """Learn open stop thresholds and the read-out; see Method.fit_statistics."""

        def mend(image: Tensor, seeds: Tensor) -> list[Tensor]:
            return self._mend(image, seeds)[0]

        # A search takes dozens of passes an image, and scatters far more than half precision rounds.
        searching = self.parts.values() if self.config.adaptive else ()
        with temporarily_bf16(searching, next(self.parameters()).device):
            if self.config.adaptive and self.config.threshold is None:
                for run in range(len(self.config.start_timesteps)):
                    good = track(held_back(), "learning when to stop", progress)
                    self.stop_thresholds[run] = self._learn_thresholds(good, run)
            fit_to_mended(self.readout, self.features, mend, held_back, seen, progress)

    def _learn_thresholds(self, batches: Iterable[tuple[Tensor, Tensor]], run: int) -> Tensor:
        """The stop score that a share of STOP_RATE of good images exceeds, per rung, (N,)."""
        never = torch.full_like(self.stop_thresholds[run], math.inf)
        seen = []
        for image, seeds in batches:
            _, stop = self.reconstruct(*self._start(image, seeds), run, never)
            seen.append(torch.stack(stop.scores))
        good = torch.cat(seen, dim=1).tolist() if seen else [[]]
        limits = never.new_tensor([upper_bound(rung, STOP_RATE) for rung in good])
        return limits.clamp(min=STOP_FLOOR).to(never)
