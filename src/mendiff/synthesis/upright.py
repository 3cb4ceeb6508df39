"""Parts that lie at any angle set upright: turned by the axis of their foreground, and centred.

A part that always lies alike is a far smaller world to learn, and every place in the image means something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.synthesis.foreground import foreground
from mendiff.types import Detection

LONG = 0.5
"""How much longer than wide a part must be for its axis to be certain: (a - b) / (a + b) of its variances."""
LOPSIDED = 0.03
"""How lopsided along its axis for its direction to be certain: the third moment by the deviation cubed."""
SMALLEST, LARGEST = 0.02, 0.6
"""Share of the image that such a part covers."""
CLEAR_SHARE = 0.95
"""Of good images whose pose must be certain."""
VARIED = 0.9
"""Parts lie alike where the mean of their directions, as unit vectors, is longer than this."""
TAIL = 0.003
"""Share of the foreground beyond what counts as the part's end."""
ROUNDED = 1e4
"""Poses are rounded to a part of this, so that a last bit does not decide about a pixel."""


@dataclass(frozen=True)
class Pose:
    """How the part lies in every image.

    Attributes:
        angle: of its axis in radians, towards its longer tail, (B,) float64.
        centre: of its extent, x and y in [-1,1], (B,2) float64.
        clear: whether both are certain, (B,) bool.
    """

    angle: Tensor
    centre: Tensor
    clear: Tensor


def pose_of(image: Tensor) -> Pose:
    """How the parts lie, from where their foreground is; square images, (B,3,S,S) in [0,1]."""
    part = foreground(image).cpu()  # in float64, which not every device has
    side = part.shape[-1]
    at = (torch.arange(side, dtype=torch.float64, device="cpu") * 2 + 1) / side - 1
    found = [_pose(one.nonzero(), at) for one in part]
    angle, x, y, clear = (torch.stack(column) for column in zip(*found, strict=True))
    return Pose(angle, torch.stack([x, y], 1), clear.bool())


def _pose(pixels: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angle, x, y and certainty of a part, given the rows and columns of its pixels, (N,2)."""
    y, x = at[pixels[:, 0]], at[pixels[:, 1]]
    mean_x, mean_y = x.mean(), y.mean()
    x, y = x - mean_x, y - mean_y
    across, along, both = y.square().mean(), x.square().mean(), (x * y).mean()
    angle = torch.atan2(2 * both, along - across) / 2
    forth = x * angle.cos() + y * angle.sin()
    lean = forth.pow(3).mean()
    if lean < 0:
        angle, forth = angle + math.pi, -forth
    aside = y * angle.cos() - x * angle.sin()
    ends = [_middle(one) for one in (forth, aside)]
    centre_x = mean_x + ends[0] * angle.cos() - ends[1] * angle.sin()
    centre_y = mean_y + ends[0] * angle.sin() + ends[1] * angle.cos()
    spread = along + across
    long = ((along - across).square() + 4 * both.square()).sqrt() / spread
    covered = len(pixels) / len(at) ** 2
    clear = (long > LONG) & (lean.abs() / spread**1.5 > LOPSIDED)
    clear = clear & (SMALLEST < covered < LARGEST)
    rounded = [(one * ROUNDED).round() / ROUNDED for one in (angle, centre_x, centre_y)]
    return rounded[0], rounded[1], rounded[2], clear.to(torch.float64)


def _middle(along: Tensor) -> Tensor:
    """Half-way between both ends, a few stray pixels aside."""
    last = len(along) - 1
    ordered, skipped = along.sort().values, round(TAIL * last)
    return (ordered[skipped] + ordered[last - skipped]) / 2


def lie_variously(pose: Pose) -> bool:
    """Whether good images show one part each that lies at all sorts of angles, and how is certain."""
    if len(pose.clear) == 0 or pose.clear.float().mean() < CLEAR_SHARE:
        return False
    angle = pose.angle[pose.clear]
    return float(torch.hypot(angle.cos().mean(), angle.sin().mean())) < VARIED


class Frame:
    """Images with their parts set upright, and the way back; those whose pose is uncertain stay as they are.

    Args:
        image: (B,3,S,S) in [0,1].
        turn: whether parts are set upright at all.

    Attributes:
        image: what a method sees, of the same shape.
    """

    def __init__(self, image: Tensor, *, turn: bool) -> None:
        self._given, self._there = image, None
        self.image = image
        if turn:
            there, self._back = _affine(pose_of(image), image)
            self._there = there
            self.image = _sampled(image, there, "bicubic", "reflection").clamp(0, 1)

    def undo(self, found: Detection) -> Detection:
        """What was found, as the given images lie."""
        if self._there is None:
            return found
        return replace(
            found,
            anomaly_map=self.undo_map(found.anomaly_map),
            reconstruction=self.undo_picture(found.reconstruction),
        )

    def undo_map(self, values: Tensor) -> Tensor:
        """A map (B,1,h,w) that belongs to every image, as that lies, at the same size."""
        return values if self._there is None else _sampled(values, self._back, "bilinear", "border")

    def undo_picture(self, picture: Tensor) -> Tensor:
        """A picture (B,3,S,S) that belongs to every image, as that lies; where it has none, the image."""
        if self._there is None:
            return picture
        seen = _sampled(torch.ones_like(picture[:, :1]), self._back, "bilinear", "zeros")
        turned = _sampled(picture, self._back, "bicubic", "border").clamp(0, 1)
        return seen * turned + (1 - seen) * self._given


def _affine(pose: Pose, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of upright images come from, and those of the way back, two (B,2,3)."""
    angle = torch.where(pose.clear, pose.angle, 0)
    centre = torch.where(pose.clear[:, None], pose.centre, 0)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    back = turn.transpose(1, 2)
    there = torch.cat([turn, centre[:, :, None]], 2)
    return there.to(like), torch.cat([back, -(back @ centre[:, :, None])], 2).to(like)


def _sampled(images: Tensor, theta: Tensor, mode: str, beyond: str) -> Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode=beyond, align_corners=False)
