"""How reference values are read: what lacks says so by its name, and other shapes than ours pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mendiff.diffusion.posterior import Posterior, hybrid_loss, kl_divergence
from mendiff.diffusion.schedule import linear_schedule
from mendiff.scoring.gaussians import squared_mahalanobis
from mendiff.types import Estimate

HERE = Path(__file__).resolve().parent
KEPT = HERE / "values"


def run_parity(folder, *words):
    """(exit code, output) of the tests of this folder on other values."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(
        command, env=os.environ | {"MENDIFF_PARITY": str(folder)}, capture_output=True, text=True, cwd=HERE
    )
    return done.returncode, done.stdout


def copied(name, folder, notes=None, tensors=None):
    """A group of the kept values in a folder of one's own, with other notes or tensors."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    stated = json.loads((KEPT / f"{name}.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps((notes or (lambda one: one))(stated)))
    values = load_file(KEPT / f"{name}.safetensors")
    save_file((tensors or (lambda one: one))(values), folder / f"{name}.safetensors")


def test_all_kept_values_are_at_most_two_megabytes_and_say_that_they_are_a_part():
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    for path in KEPT.rglob("*.safetensors"):
        assert "part" in json.loads(path.with_suffix(".json").read_text()) or path.parent.name == "ran"


@pytest.mark.slow
def test_a_missing_note_fails_by_its_name(tmp_path):
    copied("ran/posterior", tmp_path, notes=lambda one: {k: v for k, v in one.items() if k != "schedule"})
    code, text = run_parity(tmp_path, "test_ran.py", "-x")
    assert code == 1
    assert "the notes of the reference values lack 'schedule'; they have num_timesteps" in text


@pytest.mark.slow
def test_a_missing_tensor_fails_in_a_whole_file_and_skips_in_a_part(tmp_path):
    def less(one):
        return {key: value for key, value in one.items() if key != "mse"}

    copied("ran/posterior", tmp_path / "whole", tensors=less)
    code, text = run_parity(tmp_path / "whole", "test_ran.py")
    assert code == 1
    assert "the reference values lack the tensor 'mse'" in text
    copied("ran/posterior", tmp_path / "part", notes=lambda one: one | {"part": "some"}, tensors=less)
    code, text = run_parity(tmp_path / "part", "test_ran.py", "-rs")
    assert code == 0
    assert "'mse' is not in the part that is kept here" in text


def other_shape(steps):
    """What ours gives for another number of timesteps, two channels and 8 x 12 pixels."""
    rng = torch.Generator().manual_seed(0)
    schedule = linear_schedule(steps, 0.1 / steps, 20 / steps)
    posterior, alpha_bar = Posterior(schedule), schedule.alpha_bar
    x0 = torch.rand(3, 2, 8, 12, generator=rng) * 2 - 1
    noise, between = (torch.randn(x0.shape, generator=rng) for _ in range(2))
    t = torch.tensor([0, steps // 2, steps - 1])
    x_t = schedule.add_noise(x0, noise, t)
    eps, between = noise + 0.1 * between, between.clamp(-1, 1)
    truth = posterior.truth(x0, x_t, t)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    values = {"betas": 1 - alpha_bar / before, "x0": x0, "noise": noise, "t": t, "x_t": x_t}
    values |= {"model_output": torch.cat([eps, between], 1), "posterior_mean": truth.mean}
    values["posterior_log_variance"] = truth.log_var.expand_as(x0)
    raw = schedule.x0_from_eps(x_t, eps, t)
    for kind, clean in (("clipped", raw.clamp(-1, 1)), ("raw", raw)):
        estimate = Estimate(clean, eps, posterior.learned_log_var(between, t))
        step = posterior.predicted(x_t, estimate, t)
        values |= {f"{kind}.pred_x0": clean, f"{kind}.mean": step.mean, f"{kind}.log_variance": step.log_var}
        values[f"{kind}.kl_nats_per_pixel_channel"] = kl_divergence(truth, step)
    values["mse"] = (eps - noise).square().mean((1, 2, 3))
    values["vb_scaled_bits"] = posterior.variational_bits(x0, x_t, estimate, t) * steps / 1000
    values["loss"] = hybrid_loss(posterior, x0, x_t, estimate, t, values["mse"], steps / 1000)
    features, mean, root = (
        torch.randn(shape, generator=rng, dtype=torch.float64)
        for shape in ((3, 4, 3, 5), (4, 3, 5), (15, 4, 4))
    )
    inverse = root @ root.mT
    distance = squared_mahalanobis(features.requires_grad_(), mean, inverse)
    distance.sum().backward()
    padim = {"features": features.detach(), "mean": mean, "inverse_covariance": inverse}
    padim |= {"squared_mahalanobis": distance.detach(), "gradient": features.grad}
    return {
        key: one.contiguous() for key, one in (values | {f"padim.{k}": v for k, v in padim.items()}).items()
    }


@pytest.mark.slow
def test_values_of_another_shape_and_length_pass(tmp_path):
    copied(
        "ran/posterior",
        tmp_path,
        notes=lambda one: one | {"num_timesteps": 400},
        tensors=lambda _: other_shape(400),
    )
    code, text = run_parity(tmp_path, "test_ran.py")
    assert code == 0, text
    assert "skipped" not in text
