"""GLAD: global and local adaptive diffusion (Yao et al., ECCV 2024).

The published code differs from the paper and contains errors. `reference=True` reproduces the code; the
default corrects the errors. Comments describe the differences.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from mendiff.methods.base import Batches, Method, MethodConfig, Progress, Scores, no_progress, track
from mendiff.methods.base_config import TIMESTEPS
from mendiff.methods.base_panels import check_single
from mendiff.methods.base_readout import fit_readout
from mendiff.methods.glad_config import PRESETS, GladConfig
from mendiff.methods.glad_flight import Flight
from mendiff.methods.glad_stop import AdaptiveStop
from mendiff.methods.glad_trace import RunRecord, run_panels
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
from mendiff.types import Detection, Step, Trace

STOP_RATE = 0.01
"""Share of good images whose stop score should exceed a computed threshold."""
STOP_FLOOR = 1e-3
"""Smallest computed threshold: at the first timestep both estimates differ by rounding only."""

IN_FLIGHT = 4
"""Batches whose images take the places of finished ones."""


class Glad(Method):
    """Adaptive reconstruction by a diffusion model that was trained to remove synthetic anomalies.

    Args:
        config: see GladConfig.

    Attributes:
        textures: source pictures of synthetic anomalies in training; see `synthesize`.
    """

    Config: ClassVar[type[MethodConfig]] = GladConfig
    PRESETS: ClassVar = PRESETS
    NETWORKS: ClassVar = ("codec", "denoiser", "features", "stop_features")
    STATISTICS: ClassVar = ("readout", "stop_thresholds")
    INFINITE: ClassVar = ("stop_thresholds",)  # without a threshold
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
        cache_bytes = config.training.cache_gigabytes * 1e9
        self.cache = LatentCache(cache_bytes) if cache_bytes and not config.variants else None
        self._variants = LatentCache(cache_bytes, torch.float16) if config.variants else None
        self.stop_features = make_features(config.features) if config.own_stop_features else None
        runs = len(config.start_timesteps)
        self.readout = Readout(config.readout, self.features.channels, runs, batch_maxima=config.reference)
        threshold = math.inf if config.threshold is None else config.threshold
        self.register_buffer("stop_thresholds", torch.full((runs, config.sampler_steps), threshold))

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this."""
        return math.lcm(self.codec.factor * self.denoiser.multiple, GRID)

    # Training (ATP).

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories with their own prompts."""
        return self.config.denoiser.categories

    def choose_category(self, name: str) -> None:
        """Set the prompt and the matching direction to those of a category; see Method.choose_category."""
        if self.categories:
            self.denoiser.choose_category(name)
            backward = "mean" if name in self.config.both_ways else self.config.readout.backward
            self.readout.config = replace(self.config.readout, backward=backward)

    def training_loss(self, image: Tensor, rng: PerImageRandom, categories: Tensor | None = None) -> Tensor:
        """Anomaly-oriented training loss (ATP) of good images, (B,3,H,W) in [0,1] to a scalar.

        Args:
            image: see Method.training_loss.
            rng: see Method.training_loss.
            categories: index of each image's category, (B,), for categories with their own prompts.
        """
        check_size(self.codec, image, self.denoiser.multiple)
        t = rng.integers(*self.config.train_timesteps)
        with torch.no_grad():
            z0, z_anomalous = self.training_pairs(image, rng)
        prompt = None if categories is None else self.denoiser.category_prompts[categories]
        return self.atp_loss(z0, z_anomalous, t.to(image.device), rng.like(z0), prompt)

    def training_pairs(self, image: Tensor, rng: PerImageRandom) -> tuple[Tensor, Tensor]:
        """Latents of good images, and of the images with synthetic anomalies, two (B,c,h,w)."""
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
        """Latents of an image of a batch, without and with an anomaly, (2,c,h,w)."""
        image, rng = images[number][None], rngs[number]
        anomalous, _ = synthesize(image, rng, self.config.synthesis, self.textures)
        return self.codec.encode(torch.cat([image, anomalous]))

    def rehearse_training(self, image: Tensor) -> Tensor:
        """The loss without synthetic anomalies, which depend on pixel values; see the base class."""
        with torch.no_grad():
            z0, z_anomalous = self.codec.encode(image), self.codec.encode(image)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self.atp_loss(z0, z_anomalous, t, torch.zeros_like(z0))

    def atp_loss(
        self, z0: Tensor, z_anomalous: Tensor, t: Tensor, eps: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """The loss at given noise; latents (B,c,h,w), t (B,), to a scalar.

        Prompt embeddings, (B,L,D), replace those of the model.
        """
        if self.config.mix:
            # Published code, not in the paper.
            share = (t.to(torch.float64) / len(self.schedule)).to(z0)[:, None, None, None]
            z_anomalous = share * z_anomalous + (1 - share) * z0
        z_t = self.schedule.add_noise(z_anomalous, eps, t)
        target = self.atp_target(z0, z_anomalous, t, eps)
        error = (self.denoiser.raw(z_t, t, prompt) - target).square().mean((1, 2, 3))
        weight = self.schedule.min_snr_weight(t, self.config.min_snr_gamma, self.config.denoiser.prediction)
        return (weight.to(error) * error).mean()

    def atp_target(self, z0: Tensor, z_anomalous: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The network output at z_t^a whose clean estimate is z0, (B,c,h,w).

        For eps this is eps + (a_t/s_t)(z^a - z0). Paper and published code have a minus sign instead. Their
        clean estimate is 2 z^a - z0, which doubles the anomaly; only `reference` uses it.
        """
        a_t, s_t = self.schedule.scales(t, torch.float64)
        sign = -1 if self.config.reference else 1
        eps = eps + sign * (a_t / s_t).to(z0) * (z_anomalous - z0)
        return self.denoiser.target(z0 if sign > 0 else 2 * z_anomalous - z0, eps, t)

    def _posterior_noise(self, image: Tensor) -> Tensor | None:
        """Noise of the codec's posterior: none, or the same noise at every step (published code)."""
        if not self.config.reference:
            return None
        height, width = (side // self.codec.factor for side in image.shape[-2:])
        shape = (len(image), self.codec.channels, height, width)
        # A generator with the default seed: the published code passes its seed as the generator's device.
        return torch.randn(shape, generator=Generator("cpu"), dtype=torch.float32, device="cpu").to(image)

    # Inference (ADS, SAFF).

    @deterministic
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Reconstruct images by the adaptive search and compare features; see Method.predict."""
        check_size(self.codec, image, self.denoiser.multiple)
        return self.detect(image, self.noise(image, seeds))

    @property
    def batches_in_flight(self) -> int:
        """Several with an adaptive search; see Method.batches_in_flight."""
        return IN_FLIGHT if self.config.adaptive else 1

    def predict_all(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Detection]:
        """Predict several batches in flight; see mendiff.methods.glad_flight and Method.predict_all."""
        if not self.config.adaptive:
            yield from super().predict_all(batches)
            return
        images: deque[Tensor] = deque()

        def started() -> Iterator[tuple[Tensor, Tensor]]:
            for image, seeds in batches:
                check_size(self.codec, image, self.denoiser.multiple)
                images.append(image.contiguous())
                yield self._start(images[-1], self.noise(image, seeds))

        for latents, stops in Flight(self, started()):
            yield self._landed(images.popleft(), latents, stops)

    @deterministic
    def _landed(self, image: Tensor, latents: list[Tensor], stops: list[Tensor]) -> Detection:
        """The result for the latents and stop steps of all runs."""
        return self._detection(image, self._decoded(latents), stops)

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the start noise; the published code draws noise of the codec's posterior first."""
        factor = self.codec.factor
        return (1 + self.config.reference, self.codec.channels, height // factor, width // factor)

    @deterministic
    def detect(self, image: Tensor, noise: Tensor) -> Detection:
        """The prediction at given noise, (B,3,H,W) in [0,1] and (B, *noise_shape)."""
        return self._detection(image, *self._reconstruct_all(image, noise))

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """The estimates and stop maps at every timestep of all runs; see Method.trace."""
        check_single(image)
        check_size(self.codec, image, self.denoiser.multiple)
        records = [RunRecord() for _ in self.config.start_timesteps]
        found = self._detection(image, *self._reconstruct_all(image, self.noise(image, seeds), records))
        return Trace(found, run_panels(records, self.codec.decode, self.config))

    def _detection(self, image: Tensor, reconstructions: list[Tensor], stops: list[Tensor]) -> Detection:
        """The result for the reconstructions and stop steps of all runs."""
        weight = self._object_weight(image)
        anomaly_map = self.readout.anomaly_map(image, reconstructions, self.features, weight)
        if anomaly_map.shape[-2:] != image.shape[-2:]:
            anomaly_map = F.interpolate(anomaly_map, image.shape[-2:], mode="bilinear", align_corners=True)
        return Detection(
            score=self.readout.score(anomaly_map),
            anomaly_map=anomaly_map,
            reconstruction=torch.stack(reconstructions).mean(0).clamp(0, 1),
            stop_step=torch.stack(stops).amax(0),
        )

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """Image scores of anomaly maps; see Method.score."""
        return self.readout.score(anomaly_map, pixels)

    def reconstruct(
        self,
        z0: Tensor,
        noise: Tensor,
        run: int = 0,
        thresholds: Tensor | None = None,
        record: RunRecord | None = None,
    ) -> tuple[Tensor, AdaptiveStop]:
        """Add noise to the latents and sample: (reconstructed latents (B,c,h,w), state of the search).

        A search takes all images through all timesteps together, with a stop map at each; predictions take
        less time, see mendiff.methods.glad_flight.

        Args:
            z0: clean latents, (B,c,h,w).
            noise: start noise of the same shape.
            run: index of the start timestep.
            thresholds: stop threshold of every timestep, (N,); None uses those of the model.
            record: receives the intermediate results of a single image; see `trace`.
        """
        config = self.config
        z_t, timesteps = self.noised(z0, noise, run)
        stop = AdaptiveStop(
            self, z0, noise, self.stop_thresholds[run] if thresholds is None else thresholds, record
        )
        edit = recorded(stop if config.adaptive else None, None if record is None else record.steps)
        z = ddim(self.denoiser, z_t, timesteps, self.schedule, edit=edit)
        if not config.adaptive:
            return z, stop
        return self._continue(z, timesteps, stop, None if record is None else record.resumed_steps), stop

    def noised(self, z0: Tensor, noise: Tensor, run: int) -> tuple[Tensor, Tensor]:
        """The noisy latents (B,c,h,w) and the timesteps (B,N) at which a run starts; see `reconstruct`."""
        config = self.config
        start = torch.full(z0.shape[:1], config.start_timesteps[run], device=z0.device)
        timesteps = ladder(start, config.sampler_steps, config.spacing)
        t = noised_at(timesteps[:, 0], start, config.noise_timestep)
        if config.reference:
            # The published code adds noise at T' or T' - 1, although its ladder starts at a lower timestep.
            t = torch.where(t == config.noise_timestep, t, start)
        return self.schedule.add_noise(z0, noise, t), timesteps

    def _continue(
        self, z: Tensor, timesteps: Tensor, stop: AdaptiveStop, seen: list[Step] | None = None
    ) -> Tensor:
        """The latents z, with the images that resume at an earlier step sampled from there, (B,c,h,w)."""
        rows = stop.resumed_at.nonzero().flatten()
        z = z.index_put((rows,), stop.resumed[rows])
        rows = rows[stop.resumed_at[rows] < timesteps.shape[1]]
        if len(rows) == 0:
            return z
        rest = remaining(timesteps[rows], stop.resumed_at[rows])
        edit = recorded(None, seen)
        return z.index_put((rows,), ddim(self.denoiser, stop.resumed[rows], rest, self.schedule, edit=edit))

    def stop_map(self, generated: Tensor, truth: Tensor) -> Tensor:
        """Patch distances of the true input to the generated estimate, two latents to (B,1,h,w)."""
        # Decoder outputs, about [-1,1], without the normalisation of the extractor (published code).
        features = self.features if self.stop_features is None else self.stop_features
        both = self.codec.decode_raw(torch.cat([generated, truth]))
        theirs, ours = features.unnormalised(both)[-1].chunk(2)
        return nearest_patch_map(ours, theirs)

    def _reconstruct_all(
        self, image: Tensor, noise: Tensor, records: Sequence[RunRecord] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Reconstructions (B,3,H,W) in about [0,1] and stop steps (B,) of every run."""
        z0, noise = self._start(image, noise)
        if self.config.adaptive and not records:
            latents, stops = next(iter(Flight(self, [(z0, noise)])))
        else:
            every = range(len(self.config.start_timesteps))
            found = [
                self.reconstruct(z0, noise, run, record=records[run] if records else None) for run in every
            ]
            latents, stops = [z for z, _ in found], [stop.stopped_at for _, stop in found]
        return self._decoded(latents), stops

    def _decoded(self, latents: Iterable[Tensor]) -> list[Tensor]:
        """Reconstructions (B,3,H,W) in about [0,1] of latents (B,c,h,w)."""
        return [self.codec.decode_raw(z) / 2 + 0.5 for z in latents]

    def _start(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and start noise; the published code samples the codec's posterior."""
        z0 = self.codec.encode(image, noise[:, 0] if self.config.reference else None)
        return z0, noise[:, -1].contiguous()

    def _object_weight(self, image: Tensor) -> Tensor | None:
        """Weight of the anomaly map by the part, (B,1,H,W), if any."""
        if self.config.object_mask == "none":
            return None
        return object_mask(foreground(image, self.config.object_mask)).to(image)

    @deterministic
    def rehearse_prediction(self, image: Tensor) -> None:
        """A sampler step, a stop map of an adaptive search and the read-out; further steps repeat these."""
        z0 = self.codec.encode(image)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        z0 = self.denoiser(z0, t).x0
        if self.config.adaptive:
            self.stop_map(z0, z0)
        reconstructions = [self.codec.decode_raw(z0) for _ in self.config.start_timesteps]
        self.readout.anomaly_map(image, reconstructions, self.features, self._object_weight(image))

    @property
    def adapted(self) -> list[nn.Module]:
        """Stable Diffusion's UNet; see Method.adapted."""
        return [self.denoiser.network]

    @property
    def searched(self) -> Mapping[str, Sequence[Any]]:
        """Without the fields of the stop rule if the search is not adaptive."""
        adaptive = ("threshold", "min_timestep")
        return {
            name: values
            for name, values in self.SEARCHED.items()
            if self.config.adaptive or name not in adaptive
        }

    # Statistics of good images.

    @deterministic
    def fit_statistics(
        self,
        held_back: Batches,
        seen: Batches | None = None,
        progress: Progress = no_progress,
        *,
        leave_out: bool = True,
    ) -> Scores:
        """Compute stop thresholds and the statistics of the read-out; see Method.fit_statistics."""

        def reconstruct(image: Tensor, seeds: Tensor) -> list[Tensor]:
            return self._reconstruct_all(image, self.noise(image, seeds))[0]

        def detect(image: Tensor, reconstructions: list[Tensor]) -> Detection:
            return self._detection(image, reconstructions, [torch.zeros(len(image), dtype=torch.int64)])

        # A search needs dozens of passes per image, and varies much more than the rounding of bfloat16.
        searching = self.parts.values() if self.config.adaptive else ()
        with temporarily_bf16(searching, next(self.parameters()).device):
            if self.config.adaptive and self.config.threshold is None:
                for run in range(len(self.config.start_timesteps)):
                    good = track(held_back(), "fitting stop thresholds: batches", progress)
                    self.stop_thresholds[run] = self._fit_thresholds(good, run)
            return fit_readout(
                self.readout,
                self.features,
                reconstruct,
                detect,
                held_back,
                seen,
                progress,
                leave_out=leave_out,
            )

    def _fit_thresholds(self, batches: Iterable[tuple[Tensor, Tensor]], run: int) -> Tensor:
        """The stop score that a share of STOP_RATE of good images exceeds, per timestep, (N,)."""
        never = torch.full_like(self.stop_thresholds[run], math.inf)
        found = []
        for image, seeds in batches:
            _, stop = self.reconstruct(*self._start(image, self.noise(image, seeds)), run, never)
            found.append(torch.stack(stop.scores))
        good = torch.cat(found, dim=1).tolist() if found else [[]]
        limits = never.new_tensor([upper_bound(scores, STOP_RATE) for scores in good])
        return limits.clamp(min=STOP_FLOOR).to(never)
