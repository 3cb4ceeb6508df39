"""Progressive distillation of GLAD's sampler into a student of few steps (Salimans & Ho 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from mendiff.diffusion.ddim import ddim_step
from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.random import PerImageRandom
from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.methods.glad import Glad
from mendiff.nets.placement import bf16_autocast

if TYPE_CHECKING:
    from mendiff.types import Denoise


@dataclass(frozen=True)
class Distillation:
    """Data of a distillation.

    Attributes:
        teacher: denoiser whose steps the student learns; not trained.
        student: its denoiser is trained; its config has a single start timestep and no adaptive search.
        images: good training images as the networks see them, (N,3,S,S) uint8.
        batch_size: images per step.
        substeps: steps of the teacher for a step of the student; 2 in the paper, which repeats the training
            with half as many steps each time.
    """

    teacher: nn.Module
    student: Glad
    images: Tensor
    batch_size: int
    substeps: int

    def loss(self, rng: Generator) -> Tensor:
        """The loss of a batch: squared error of the student's output against that of the teacher's steps.

        Images have synthetic anomalies as in the training of GLAD. Noise and the student's step are drawn.
        """
        student, config = self.student, self.student.config
        device = next(student.denoiser.parameters()).device
        chosen = torch.randint(len(self.images), (self.batch_size,), generator=rng)
        streams = PerImageRandom(torch.randint(2**62, (self.batch_size,), generator=rng))
        starts, ends = (one.to(device) for one in steps_of(student))
        at = torch.randint(len(starts), (self.batch_size,), generator=rng).to(device)
        t, s = starts[at], ends[at]
        with torch.no_grad(), bf16_autocast(device):
            _, z = student.training_pairs(self.images[chosen].to(device).float() / 255, streams)
            z_t = student.schedule.add_noise(z, streams.like(z), t)
            x0 = distilled_x0(self.teacher, z_t, t, s, self.substeps, student.schedule)
            target = student.denoiser.target(x0, student.schedule.eps_from_x0(z_t, x0, t), t)
        with bf16_autocast(device):
            error = (student.denoiser.raw(z_t, t) - target).square().mean((1, 2, 3))
        weight = student.schedule.min_snr_weight(t, config.min_snr_gamma, config.denoiser.prediction)
        return (weight.to(error) * error).mean()


def steps_of(student: Glad) -> tuple[Tensor, Tensor]:
    """First and last timestep of every step of a student, two (K,) int64; -1 is the clean latent."""
    config = student.config
    start = torch.tensor([config.start_timesteps[0]])
    starts = ladder(start, config.sampler_steps, config.spacing)[0]
    return starts, torch.cat([starts[1:], starts.new_tensor([-1])])


def distilled_x0(
    teacher: Denoise, z_t: Tensor, t: Tensor, s: Tensor, substeps: int, schedule: NoiseSchedule
) -> Tensor:
    """The clean estimate with which a single DDIM step from t to s ends where the teacher's steps end.

    Source: Salimans & Ho 2022, algorithm 2 and appendix G.

    Args:
        teacher: denoiser.
        z_t: latents at t, (B,c,h,w).
        t: first timestep of every image, (B,).
        s: last timestep, (B,), lower than t; -1 for the clean latent.
        substeps: steps of the teacher from t to s.
        schedule: noise schedule.
    """
    z_s, fractions = z_t, torch.linspace(0, 1, substeps + 1, dtype=torch.float64, device=t.device)
    path = torch.round(t[:, None] + fractions[None] * (s - t)[:, None]).to(torch.int64)
    for at, to in zip(path.unbind(1), path.unbind(1)[1:], strict=False):
        step = ddim_step(teacher(z_s, at), to, schedule)
        # Steps between close timesteps may be empty.
        z_s = torch.where((to < at)[:, None, None, None], step, z_s)
    (a_t, s_t), (a_s, s_s) = schedule.scales(t, torch.float64), schedule.scales(s, torch.float64)
    ratio = s_s / s_t
    return ((z_s - ratio * z_t) / (a_s - ratio * a_t)).to(z_t)
