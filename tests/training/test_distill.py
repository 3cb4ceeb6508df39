"""The loss of a distillation, against the sampler that it imitates."""

import copy

import pytest
import torch

from mendiff.diffusion.ddim import ddim, ddim_step
from mendiff.training.distill import Distillation, distilled_x0, steps_of
from mendiff.types import Estimate

STUDENT = {
    "adaptive": False,
    "start_timesteps": (600,),
    "sampler_steps": 2,
    "spacing": "trailing",
    "readout.bank_shares": (),
}


@pytest.fixture
def student(tiny_method):
    return tiny_method("glad", STUDENT)


@pytest.fixture
def latents(student, rng):
    channels = student.codec.channels
    return torch.randn(3, channels, 8, 8, generator=rng)


@pytest.mark.parametrize("last", [-1, 50, 299])
def test_a_single_step_with_the_distilled_estimate_ends_where_the_teacher_ends(student, latents, last):
    schedule, teacher = student.schedule, student.denoiser
    t, s = torch.full((3,), 599), torch.full((3,), last)
    x0 = distilled_x0(teacher, latents, t, s, 5, schedule)
    single = ddim_step(Estimate(x0, schedule.eps_from_x0(latents, x0, t)), s, schedule)
    path = torch.round(599 + torch.arange(5) / 5 * (last - 599)).long().expand(3, -1)
    if last == -1:
        expected = ddim(teacher, latents, path, schedule)
    else:
        expected = latents
        for at, to in zip(path.unbind(1), [*path.unbind(1)[1:], s], strict=True):
            expected = ddim_step(teacher(expected, at), to, schedule)
    torch.testing.assert_close(single, expected, rtol=1e-3, atol=1e-4)


def test_more_substeps_than_timesteps_end_there_too(student, latents):
    schedule, t, s = student.schedule, torch.full((3,), 4), torch.full((3,), 2)
    few = distilled_x0(student.denoiser, latents, t, s, 2, schedule)
    many = distilled_x0(student.denoiser, latents, t, s, 9, schedule)
    torch.testing.assert_close(few, many)


def test_steps_of_a_student_reach_from_its_start_to_the_clean_latent(student):
    first, last = steps_of(student)
    assert (first.tolist(), last.tolist()) == ([599, 299], [299, -1])


def test_the_loss_is_zero_only_for_a_student_that_ends_where_its_teacher_ends(student, pictures):
    """A single substep is the teacher's own step, which its copy repeats."""
    images = (pictures * 255).round().to(torch.uint8)

    def loss(method, substeps):
        data = Distillation(student.denoiser, method, images, 4, substeps)
        return float(data.loss(torch.Generator().manual_seed(0)))

    other = copy.deepcopy(student)
    with torch.no_grad():
        for weight in other.denoiser.parameters():
            weight.mul_(1.1)
    assert loss(student, 1) == pytest.approx(0, abs=1e-6)
    assert loss(student, 4) > 1e-6
    assert loss(other, 1) > 1e-4


def test_training_brings_a_student_closer_to_its_teacher(student, pictures):
    images = (pictures * 255).round().to(torch.uint8)
    teacher = copy.deepcopy(student.denoiser)
    with torch.no_grad():
        for weight in student.denoiser.parameters():
            weight.mul_(1.1)
    data = Distillation(teacher, student, images, 4, 2)
    student.denoiser.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = data.loss(torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
