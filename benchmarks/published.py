"""Inference of GLAD and DiAD in the order of work of the published code, with the same networks.

These are the baselines of `speed.py`. GLAD computes both guidance halves in one batch, checks all images of a
batch while any of them still runs, and decodes both estimates separately. DiAD computes guidance between two
equal prompts, embeds the hint at every step, and also decodes the latents of the input.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mendiff.diffusion.ladder import ladder, noised_at
from mendiff.methods.diad import GUIDANCE, Diad
from mendiff.methods.glad import Glad
from mendiff.methods.glad_stop import STOP_TOP_K, fusion_weight
from mendiff.scoring.maps import nearest_patch_map
from mendiff.scoring.score import top_k_mean
from mendiff.types import Detection, Estimate


@torch.no_grad()
def published_glad(glad: Glad, image: Tensor, noise: Tensor) -> Detection:
    """GLAD's prediction with one start timestep and without a rewind; arguments as for Glad.detect."""
    config, schedule = glad.config, glad.schedule
    z0, noise = glad._start(image, noise)
    timesteps = ladder(_full(image, config.start_timesteps[0]), config.sampler_steps, config.spacing)
    z = schedule.add_noise(z0, noise, timesteps[:, 0])
    stopped = torch.zeros_like(timesteps[:, 0])
    targets = torch.cat([timesteps, torch.full_like(timesteps[:, :1], -1)], dim=1).unbind(1)
    for number, (t, s) in enumerate(pairwise(targets)):
        estimate = _guided(glad, z, t)
        x0, eps = estimate.x0, estimate.eps
        if config.adaptive and bool((stopped == 0).any()):
            truth = schedule.x0_from_eps(schedule.add_noise(z0, noise, t), eps, t)
            stop_map = _stop_map(glad, x0, truth)
            over = top_k_mean(stop_map, STOP_TOP_K) > glad.stop_thresholds[0, number]
            stops = (over | (t < config.min_timestep)) & (stopped == 0)
            weight = fusion_weight(stop_map, over, z0)
            x0 = torch.where(stops[:, None, None, None], weight * x0 + (1 - weight) * truth, x0)
            stopped = torch.where(stops, t, stopped)
        z = schedule.add_noise(x0, eps, s)
    return glad._detection(image, [glad.codec.decode_raw(z) / 2 + 0.5], [stopped])


def _guided(glad: Glad, z: Tensor, t: Tensor) -> Estimate:
    denoiser = glad.denoiser
    scale = denoiser.config.guidance
    if not scale:
        return denoiser.estimate(z, denoiser.raw(z, t), t)
    prompts = torch.cat([one.expand(len(z), -1, -1) for one in (denoiser.no_prompt, denoiser.prompt)])
    unguided, prompted = denoiser.raw(torch.cat([z, z]), torch.cat([t, t]), prompts).chunk(2)
    return denoiser.estimate(z, unguided + scale * (prompted - unguided), t)


def _stop_map(glad: Glad, generated: Tensor, truth: Tensor) -> Tensor:
    features = glad.features if glad.stop_features is None else glad.stop_features
    theirs = features.unnormalised(glad.codec.decode_raw(generated))[-1]
    ours = features.unnormalised(glad.codec.decode_raw(truth))[-1]
    return nearest_patch_map(ours, theirs)


@torch.no_grad()
def published_diad(diad: Diad, image: Tensor, noise: Tensor) -> Detection:
    """DiAD's prediction; arguments as for Diad.detect."""
    config, schedule, denoiser = diad.config, diad.schedule, diad.denoiser
    hint, z0 = diad.scaled(image), diad.encode(image)
    start = _full(image, config.start_timesteps[0])
    timesteps = ladder(start, config.sampler_steps, config.spacing)
    first = noised_at(timesteps[:, 0], start - 1, config.noise_timestep)
    z = schedule.add_noise(z0, noise[:, -1], first)
    targets = torch.cat([timesteps, torch.full_like(timesteps[:, :1], -1)], dim=1).unbind(1)
    for t, s in pairwise(targets):
        unguided, prompted = (denoiser.raw(z, t, denoiser.embed(hint)) for _ in range(2))
        estimate = denoiser.unet.estimate(z, unguided + GUIDANCE * (prompted - unguided), t)
        z = schedule.add_noise(estimate.x0, estimate.eps, s)
    diad.decode(z0)
    return diad._detection(image, diad.decode(z))


def _full(image: Tensor, timestep: int) -> Tensor:
    return torch.full(image.shape[:1], timestep, device=image.device)
