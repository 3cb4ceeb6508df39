"""Information of RAN's learned variance beyond the squared error, per timestep.

    python benchmarks/ran_variance.py MODEL DATA --timesteps 1 2 5 10 20 60 150 250 400

MODEL is a RAN model, DATA the category of its fit. The variance of a reverse step is learned between the
posterior's variance and beta. If these are equal, the KL divergence is proportional to the squared error of
the clean estimate. Prints per timestep: the ratio of beta to the posterior's variance; the ratio of squared
error to learned variance on good test images (1 if correct, below 1 if the variance is too large); the
correlation of KL divergence and squared error over pixels; and the metrics of each alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.diffusion.posterior import kl_divergence
from mendiff.diffusion.random import PerImageRandom, content_seeds
from mendiff.runs import testing
from mendiff.scoring.maps import gaussian_blur
from mendiff.scoring.score import top_share_mean
from mendiff.types import Detection

BATCH, SIGMA, SHARE = 8, 2 / 256, 0.002


def compared(method: Any, images: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """KL divergence, squared error (two (B,1,H,W)) and the error of the mean in learned variances, (B,)."""
    x0, truth = method.latents(images), method.target(images)
    steps = torch.full((len(images),), t)
    x_t = method.schedule.add_noise(x0, PerImageRandom(content_seeds(images)).like(x0), steps)
    estimate, _, _ = method.denoiser(x_t, steps, tuple(truth.shape[-2:]))
    true, predicted = method.posterior.truth(x0, x_t, steps), method.posterior.predicted(x_t, estimate, steps)
    kl = kl_divergence(true, predicted)
    # A sample of the true posterior varies around its mean by the posterior's variance.
    expected = (true.mean - predicted.mean).square() + true.log_var.exp()
    calibrated = (expected / predicted.log_var.exp()).mean((1, 2, 3))
    maps = [method.codec.decode_raw(one).mean(1, keepdim=True) for one in (kl, (x0 - estimate.x0).square())]
    return maps[0], maps[1], calibrated


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--timesteps", type=int, nargs="+", default=[1, 2, 5, 10, 20, 60, 150, 250, 400], metavar="T"
    )
    options = parser.parse_args()
    model = load(options.model, "cpu")
    method: Any = model.method
    (category,) = open_data(options.data)
    tests = testing.read_tests(category, model.image_size, Terminal(True))
    frame = method.frame(tests.images)
    nothing = torch.zeros(len(tests.images), dtype=torch.int64)
    print("| t | beta / posterior variance | error / variance | correlation | KL alone | squared error |")
    print("|---|---|---|---|---|---|")
    for t in options.timesteps:
        parts = [compared(method, batch, t) for batch in frame.image.split(BATCH)]
        kl, error, calibrated = (torch.cat(column) for column in zip(*parts, strict=True))
        bounds = [method.posterior._at(name, torch.tensor([t]), kl).exp() for name in ("most", "least")]
        together = float(torch.corrcoef(torch.stack([kl.flatten(), error.flatten()]))[0, 1])
        figures = []
        for maps in (kl, error):
            smooth = gaussian_blur(maps, SIGMA * maps.shape[-1])
            score = top_share_mean(smooth, SHARE)
            smooth = frame.undo(Detection(score, smooth, frame.image, nothing)).anomaly_map
            found = testing.measure(tests, score, smooth)
            figures.append(f"{found['image_auroc']:.3f} / {found['pixel_auroc']:.3f}")
        good = float(calibrated[~tests.labels].mean())
        ratio = float(bounds[0] / bounds[1])
        print(
            f"| {t} | {ratio:.4f} | {good:.2f} | {together:.4f} | {figures[0]} | {figures[1]} |", flush=True
        )


if __name__ == "__main__":
    main()
