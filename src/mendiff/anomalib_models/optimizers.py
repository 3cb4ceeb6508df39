"""AdamW, and Muon for convolutions: updates with all singular values near one, AdamW for everything else.

A small network that has minutes to learn may learn more per step this way. torch's own Muon takes matrices
only, timm's iterates in bfloat16, which CPUs without matrix units emulate slowly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mendiff.methods.base import TrainingConfig

SMALLEST = 48
"""Rows and columns that a weight must have at least."""
EDGES = ("conv_in", "conv_out", "head")
"""Parts of names of a network's first and last layers, which go to AdamW whatever their size."""
MOMENTUM = 0.95
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the quintic iteration (Jordan et al. 2024), which brings singular values to about 0.7 to 1.2."""


def make_optimizer(plan: TrainingConfig, named: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that a config names, for what is trained, by name."""
    rates: Any = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.optimizer == "muon":
        return Muon(named, **rates)
    return torch.optim.AdamW(named.values(), **rates, fused=True)


class Muon(torch.optim.AdamW):
    """AdamW, but weights of hidden convolutions move along their orthogonalised momentum.

    The step is scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)) times the rate (Liu et al. 2025):
    one learning rate and one weight decay serve all parameters.

    Args:
        named: what is trained, by name.
        lr: learning rate.
        weight_decay: for all alike.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(self, named: dict[str, nn.Parameter], lr: float, weight_decay: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, one in named.items():
            (matrices if _is_hidden(name, one) else others).append(one)
        groups = [{"params": others, "muon": False}, {"params": matrices, "muon": True}]
        super().__init__([one for one in groups if one["params"]], lr=lr, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> Any:
        """One step of both kinds."""
        groups = self.param_groups
        self.param_groups = [one for one in groups if not one["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._step_matrices(group)
        return loss

    @torch.no_grad()
    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for one in group["params"]:
            if one.grad is not None:
                by_shape.setdefault((one.shape[0], one[0].numel()), []).append(one)
        for (rows, columns), weights in by_shape.items():
            directions = orthogonalised(torch.stack([self._momentum(one).flatten(1) for one in weights]))
            size = 0.2 * max(rows, columns) ** 0.5
            for one, direction in zip(weights, directions, strict=True):
                one.mul_(1 - group["lr"] * group["weight_decay"])
                one.sub_(direction.view_as(one), alpha=group["lr"] * size)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        """Nesterov's look ahead on the running mean of gradients."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW expects one in every state that it loads
            state["mean"] = torch.zeros_like(weight)
        state["mean"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["mean"], MOMENTUM)


def _is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a convolution between hidden layers, and not a tiny one."""
    large = weight.ndim == 4 and min(weight.shape[0], weight[0].numel()) >= SMALLEST
    return large and not any(edge in name.split(".") for edge in EDGES)


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V^T of every matrix U S V^T, approximately, (N,r,c) to (N,r,c).

    The iteration X <- (a + b A + c A^2) X with A = X X^T is a polynomial of the first A times the first X: it
    runs on the small side's Gram matrix, a fraction of the work for long rows.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], dtype=x.dtype, device=x.device)
    total = identity.expand_as(gram)
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        total = factor @ total
        gram = factor @ gram @ factor
    return total @ x
