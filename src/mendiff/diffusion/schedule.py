"""Noise schedules: the alpha-bar table and the quantities derived from it."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mendiff.errors import InputError, check_choice

Kind = Literal["linear", "scaled_linear"]
KINDS = get_args(Kind)
_TABLE: Any = {"dtype": torch.float64, "device": "cpu"}  # real tensors even on the meta device


class NoiseSchedule:
    """A variance-preserving schedule: x_t = a_t x0 + s_t eps.

    Here a_t = sqrt(alpha_bar_t) and s_t = sqrt(1 - alpha_bar_t).

    Args:
        alpha_bar: cumulative products of alphas, (T,), in (0, 1] and not increasing; stored in float64.
        final_alpha_bar: alpha_bar at s = -1, the end of sampling. 1 means no noise; Stable Diffusion uses
            alpha_bar_0.

    Source: Ho et al. 2020, eq. 4.
    """

    def __init__(self, alpha_bar: Tensor, final_alpha_bar: float = 1.0) -> None:
        if alpha_bar.ndim != 1 or alpha_bar.numel() == 0:
            raise InputError(f"alpha_bar: expected a table of shape (T,), got {tuple(alpha_bar.shape)}.")
        self.alpha_bar = alpha_bar.detach().to("cpu", torch.float64)
        self.final_alpha_bar = float(final_alpha_bar)
        table = torch.cat([torch.tensor([self.final_alpha_bar], **_TABLE), self.alpha_bar])
        self._by_device = {torch.device("cpu"): table}

    def __len__(self) -> int:
        """T, the number of training timesteps."""
        return self.alpha_bar.numel()

    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar at every t, (B,) float64 on t's device; t < 0 gives the final alpha_bar."""
        table = self._by_device.get(t.device)
        if table is None:
            table = self._by_device[t.device] = self._by_device[torch.device("cpu")].to(t.device)
        return table[t.clamp(min=-1) + 1]

    def scales(self, t: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(a_t, s_t), each (B,1,1,1), rounded once from float64 to dtype."""
        alpha_bar = self.alpha_bar_at(t)[:, None, None, None]
        return alpha_bar.sqrt().to(dtype), (1 - alpha_bar).sqrt().to(dtype)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at every t, (B,) float64."""
        alpha_bar = self.alpha_bar_at(t)
        return alpha_bar / (1 - alpha_bar)

    def min_snr_weight(self, t: Tensor, gamma: float, prediction: str) -> Tensor:
        """Min-SNR-gamma loss weights (Hang et al. 2023), (B,) float64, at most 1; all 1 if gamma is 0.

        Args:
            t: timesteps, (B,).
            gamma: upper limit of the signal-to-noise ratio.
            prediction: prediction target of the squared error: "x0", "eps" or "v".
        """
        snr = self.snr(t)
        if gamma == 0:
            return torch.ones_like(snr)
        clipped = snr.clamp(max=gamma)
        return {"x0": clipped / gamma, "eps": clipped / snr, "v": clipped / (snr + 1)}[prediction]

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = a_t x0 + s_t eps, (B,c,h,w), with a timestep per image."""
        a_t, s_t = self.scales(t, x0.dtype)
        return a_t * x0 + s_t * eps

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x0 = (x_t - s_t eps) / a_t, (B,c,h,w)."""
        a_t, s_t = self.scales(t, x_t.dtype)
        return (x_t - s_t * eps) / a_t

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The noise eps = (x_t - a_t x0) / s_t, (B,c,h,w); undefined where s_t = 0."""
        a_t, s_t = self.scales(t, x_t.dtype)
        return (x_t - a_t * x0) / s_t

    def x0_from_v(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """x0 = a_t x_t - s_t v for the velocity v = a_t eps - s_t x0 (Salimans & Ho 2022), (B,c,h,w)."""
        a_t, s_t = self.scales(t, x_t.dtype)
        return a_t * x_t - s_t * v


def linear_schedule(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """DDPM's schedule: equally spaced betas; final alpha_bar 1 (Ho et al. 2020, section 4)."""
    return NoiseSchedule(_from_betas(torch.linspace(beta_start, beta_end, steps, **_TABLE)))


def scaled_linear_schedule(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, *, end_clean: bool = False
) -> NoiseSchedule:
    """Stable Diffusion's schedule: equally spaced square roots of beta.

    The final alpha_bar is alpha_bar_0, as in the published code; with `end_clean` it is 1.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, **_TABLE) ** 2
    alpha_bar = _from_betas(betas)
    return NoiseSchedule(alpha_bar, 1.0 if end_clean else float(alpha_bar[0]))


def make_schedule(kind: Kind, steps: int = 1000) -> NoiseSchedule:
    """The schedule of a config ("linear" or "scaled_linear") with its published constants."""
    makers = {"linear": linear_schedule, "scaled_linear": scaled_linear_schedule}
    check_choice("schedule", kind, makers)
    return makers[kind](steps)


def _from_betas(betas: Tensor) -> Tensor:
    return torch.cumprod(1 - betas, dim=0)
