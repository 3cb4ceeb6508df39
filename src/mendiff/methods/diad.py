"""DiAD: one diffusion model for many categories (He et al., AAAI 2024).

A denoiser generates a good part from noise. The SG network (semantic-guided) conditions it on the image.
`reference=True` reproduces the published code; comments describe its differences to the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.diffusion.ddim import ddim, recorded
from mendiff.diffusion.ladder import ladder, noised_at
from mendiff.diffusion.random import PerImageRandom
from mendiff.diffusion.schedule import make_schedule
from mendiff.methods.base import Batches, Method, MethodConfig, Progress, Scores, no_progress
from mendiff.methods.base_config import TIMESTEPS
from mendiff.methods.base_panels import check_single, estimate_panels
from mendiff.methods.base_readout import fit_readout
from mendiff.methods.diad_config import PRESETS, DiadConfig
from mendiff.nets.cached import LatentCache
from mendiff.nets.codec import MEAN, STD, check_size, make_codec
from mendiff.nets.denoiser import conditional_unet
from mendiff.nets.features import make_features
from mendiff.nets.modes import builds_in_float32, deterministic
from mendiff.nets.semantic_guided import GuidedDenoiser
from mendiff.scoring.readout import Readout
from mendiff.scoring.readout_config import DRAWN_PARTS
from mendiff.types import Detection, Estimate, Step, Trace

GUIDANCE = 9.0
"""Guidance scale of the published code; both prompts are empty, so it only doubles the work."""


class Diad(Method):
    """Reconstruction from noise, conditioned by the SG network.

    Args:
        config: see DiadConfig.
    """

    Config: ClassVar[type[MethodConfig]] = DiadConfig
    PRESETS: ClassVar = PRESETS
    NETWORKS: ClassVar = ("codec", "denoiser", "features")
    STATISTICS: ClassVar = ("readout",)
    SEARCHED: ClassVar = {
        "start_timesteps": [[100], [200], [300], [500], [750], [1000]],
        "sampler_steps": [1, 2, 5, 10],
    }
    # Fewer steps than GLAD: the SG network doubles the time of a step.
    DEMO: ClassVar = {
        "training.steps": 700,
        "codec.factor": 4,
        "denoiser.network": conditional_unet(64, 96, 128),
        **DRAWN_PARTS,
    }
    config: DiadConfig
    mean: Tensor
    std: Tensor

    @builds_in_float32
    def __init__(self, config: DiadConfig) -> None:
        super().__init__(config)
        self.schedule = make_schedule(config.schedule, TIMESTEPS)
        self.codec = make_codec(config.codec)
        cache_bytes = config.training.cache_gigabytes * 1e9
        self.cache = LatentCache(cache_bytes) if cache_bytes else None
        unet = config.denoiser
        if config.reference:
            unet = replace(unet, guidance=unet.guidance or GUIDANCE)
        codec = self.codec
        self.denoiser = GuidedDenoiser(unet, config.guide, self.schedule, codec.channels, codec.factor)
        if not config.train_encoder:
            self.denoiser.train_decoder_only()
        if config.reference and self.denoiser.guide is not None:
            self.denoiser.guide.requires_grad_(True)  # including unused outputs
        self.features = make_features(config.features)
        self.readout = Readout(config.readout, self.features.channels)
        # ImageNet's normalisation, for published weights.
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this."""
        multiple: int = self.codec.factor * self.denoiser.multiple
        return multiple

    # Training.

    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """Noise loss of good images with the images as hints, (B,3,H,W) in [0,1] to a scalar."""
        check_size(self.codec, image, self.denoiser.multiple)
        config, noise = self.config, None
        if config.reference:
            height, width = (side // self.codec.factor for side in image.shape[-2:])
            noise = rng.like(image.new_empty(len(image), self.codec.channels, height, width))
        with torch.no_grad():
            z0 = self.cache.latents(image, self.encode) if self.cache else self.encode(image, noise)
        t = rng.integers(*config.train_timesteps).to(image.device)
        return self.noise_loss(z0, self.scaled(image), t, rng.like(z0))

    def noise_loss(self, z0: Tensor, hint: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Squared error of the network output at given noise, to a scalar.

        Args:
            z0: clean latents, (B,c,h,w).
            hint: input of the SG network, (B,3,H,W); see `scaled`.
            t: timesteps, (B,).
            eps: noise, (B,c,h,w).
        """
        z_t = self.schedule.add_noise(z0, eps, t)
        target = self.denoiser.unet.target(z0, eps, t)
        raw = self.denoiser.raw(z_t, t, self.denoiser.embed(hint))
        error = (raw - target).square().mean((1, 2, 3))
        weight = self.schedule.min_snr_weight(t, self.config.min_snr_gamma, self.config.denoiser.prediction)
        return (weight.to(error) * error).mean()

    # Scaling of pixels.

    def scaled(self, image: Tensor) -> Tensor:
        """Scale pixels in [0,1] for the SG network, (B,3,H,W): ImageNet-normalised or in [-1,1]."""
        return (image - self.mean) / self.std if self.config.normalised else image * 2 - 1

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of pixels in [0,1], (B,3,H,W) to (B,c,h,w); with noise a sample of the posterior."""
        return self.codec.encode(self.scaled(image) / 2 + 0.5, noise)

    def decode(self, z0: Tensor) -> Tensor:
        """Pixels in about [0,1], not clamped, (B,c,h,w) to (B,3,H,W)."""
        pixels = self.codec.decode_raw(z0)
        return pixels * self.std + self.mean if self.config.normalised else pixels / 2 + 0.5

    # Inference.

    @deterministic
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Reconstruct images from noise and compare features; see Method.predict."""
        check_size(self.codec, image, self.denoiser.multiple)
        return self.detect(image, self.noise(image, seeds))

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the start noise; the published code draws noise of the codec's posterior first."""
        factor = self.codec.factor
        return (1 + self.config.reference, self.codec.channels, height // factor, width // factor)

    @deterministic
    def detect(self, image: Tensor, noise: Tensor) -> Detection:
        """The prediction at given noise, (B,3,H,W) in [0,1] and (B, *noise_shape)."""
        return self._detection(image, self._reconstruct_images(image, noise))

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """The noised input and the estimates at every timestep; see Method.trace."""
        check_single(image)
        check_size(self.codec, image, self.denoiser.multiple)
        steps: list[Step] = []
        found = self._detection(image, self._reconstruct_images(image, self.noise(image, seeds), steps))
        return Trace(found, estimate_panels(steps, lambda z: self.decode(z).clamp(0, 1), noised=True))

    def _detection(self, image: Tensor, reconstruction: Tensor) -> Detection:
        """The result for images and their reconstructions, two (B,3,H,W)."""
        anomaly_map = self.readout.anomaly_map(image, [reconstruction], self.features)
        if anomaly_map.shape[-2:] != image.shape[-2:]:
            anomaly_map = F.interpolate(anomaly_map, image.shape[-2:], mode="bilinear", align_corners=True)
        return Detection(
            score=self.readout.score(anomaly_map),
            anomaly_map=anomaly_map,
            reconstruction=reconstruction.clamp(0, 1),
            stop_step=torch.zeros(image.shape[:1], dtype=torch.int64, device=image.device),
        )

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """Image scores of anomaly maps; see Method.score."""
        return self.readout.score(anomaly_map, pixels)

    def reconstruct(self, z0: Tensor, noise: Tensor, hint: Tensor, steps: list[Step] | None = None) -> Tensor:
        """Add noise to the latents and sample with the hint; returns clean latents, (B,c,h,w).

        Args:
            z0: clean latents, (B,c,h,w).
            noise: start noise of the same shape.
            hint: input of the SG network, (B,3,H,W); see `scaled`.
            steps: receives the sampler steps.
        """
        config = self.config
        start = torch.full(z0.shape[:1], config.start_timesteps[0], device=z0.device)
        timesteps = ladder(start, config.sampler_steps, config.spacing)
        # The published code adds noise at the last timestep, although its ladder starts 98 timesteps lower.
        z_t = self.schedule.add_noise(z0, noise, noised_at(timesteps[:, 0], start - 1, config.noise_timestep))
        embedding = self.denoiser.embed(hint)  # the same at every step

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            estimate: Estimate = self.denoiser(x_t, t, embedding)
            return estimate

        return ddim(denoise, z_t, timesteps, self.schedule, edit=recorded(None, steps))

    def _reconstruct_images(self, image: Tensor, noise: Tensor, steps: list[Step] | None = None) -> Tensor:
        """Reconstructions of images, (B,3,H,W) in about [0,1]; steps as for `reconstruct`."""
        z0 = self.encode(image, noise[:, 0] if self.config.reference else None)
        return self.decode(self.reconstruct(z0, noise[:, -1].contiguous(), self.scaled(image), steps))

    @deterministic
    def rehearse_prediction(self, image: Tensor) -> None:
        """A sampler step and the read-out; further steps repeat these."""
        z0, embedding = self.encode(image), self.denoiser.embed(self.scaled(image))
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        reconstruction = self.decode(self.denoiser(z0, t, embedding).x0)
        self.readout.anomaly_map(image, [reconstruction], self.features)

    @property
    def adapted(self) -> list[nn.Module]:
        """The UNet's decoder, and the SG network's copies of its encoder; see Method.adapted."""
        guide = self.denoiser.guide
        copied = [] if guide is None else [guide.network.down_blocks, guide.network.mid_block]
        return [self.denoiser.unet.network.up_blocks, *copied]

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
        """Compute the statistics of the read-out; see Method.fit_statistics."""

        def reconstruct(image: Tensor, seeds: Tensor) -> list[Tensor]:
            return [self._reconstruct_images(image, self.noise(image, seeds))]

        def detect(image: Tensor, reconstructions: list[Tensor]) -> Detection:
            return self._detection(image, reconstructions[0])

        return fit_readout(
            self.readout, self.features, reconstruct, detect, held_back, seen, progress, leave_out=leave_out
        )
