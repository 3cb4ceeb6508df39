"""PatchGAN discriminator: classifies patches as real or decoded (Isola et al. 2017).

Loss and weight are those of VQGAN (Esser et al. 2021) and latent diffusion's first stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError

HALVINGS = 3
LEAST_SIDE = 8 * HALVINGS
"""Smallest image side in pixels; the output of smaller images is empty."""
LARGEST_WEIGHT = 1e4


class PatchDiscriminator(nn.Module):
    """A logit per patch of 70x70 pixels, (B,3,H,W) in [-1,1] to (B,1,h,w); higher means real.

    Args:
        width: channels of the first layer; doubled with every downsampling.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, HALVINGS + 1):
            stride, inner = 2 if level < HALVINGS else 1, width * 2 ** (level - 1)
            layers += [nn.Conv2d(inner, 2 * inner, 4, stride, 1, bias=False), nn.BatchNorm2d(2 * inner)]
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(width * 2**HALVINGS, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)
        for one in self.layers:
            if isinstance(one, nn.Conv2d):
                nn.init.normal_(one.weight, 0.0, 0.02)
            elif isinstance(one, nn.BatchNorm2d):
                nn.init.normal_(one.weight, 1.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits per patch; see the class."""
        if min(pixels.shape[-2:]) < LEAST_SIDE:
            raise InputError(
                f"loss.adversarial_weight: expected images of at least {LEAST_SIDE} pixels for its "
                f"discriminator, got {pixels.shape[-2]}x{pixels.shape[-1]}; set it to 0, or a larger crop."
            )
        judged: Tensor = self.layers(pixels)
        return judged


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator, given its logits for real and decoded images; a scalar."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def adaptive_weight(other: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Weight that gives the adversarial loss the same gradient norm as the other terms at the last layer.

    |d other / d last| / (|d adversarial / d last| + 1e-4), at most 10,000 (Esser et al. 2021, eq. 7).

    Args:
        other: the other terms of the decoder's loss, a scalar.
        adversarial: the adversarial loss, a scalar.
        last: weights of the decoder's last layer.
    """
    (theirs,) = torch.autograd.grad(other, last, retain_graph=True)
    (own,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    weight: Tensor = (theirs.norm() / (own.norm() + 1e-4)).clamp(max=LARGEST_WEIGHT)
    return weight.detach()
