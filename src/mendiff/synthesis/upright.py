"""Alignment of parts with arbitrary orientation: rotation to their principal axis, and centring.

Aligned parts are easier to learn, and every image position has the same meaning in all images.
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
"""Least elongation for a certain axis: (a - b) / (a + b) of the principal variances."""
SKEWED = 0.03
"""Least skewness along the axis for a certain direction: third moment by the cubed standard deviation."""
SMALLEST, LARGEST = 0.02, 0.6
"""Range of the share of the image that a part may cover."""
CLEAR_SHARE = 0.95
"""Least share of good images with a certain pose."""
VARIED = 0.9
"""Orientations are equal if the mean of the direction vectors is longer than this."""
TAIL = 0.003
"""Share of the foreground that is ignored at each end of the part, as outliers."""
ROUNDED = 1e4
"""Poses are rounded to multiples of 1 / ROUNDED, so that rounding errors do not change pixels."""


@dataclass(frozen=True)
class Pose:
    """Pose of the part in every image.

    Attributes:
        angle: direction of the axis in radians, towards the longer tail, (B,) float64.
        centre: centre of the part's extent, x and y in [-1,1], (B,2) float64.
        clear: whether the pose is certain, (B,) bool.
    """

    angle: Tensor
    centre: Tensor
    clear: Tensor


def pose_of(image: Tensor) -> Pose:
    """Estimate the poses of parts from their foreground; square images, (B,3,S,S) in [0,1]."""
    part = foreground(image).cpu()  # in float64, which not every device has
    side = part.shape[-1]
    at = (torch.arange(side, dtype=torch.float64, device="cpu") * 2 + 1) / side - 1
    found = [_pose(one.nonzero(), at) for one in part]
    angle, x, y, clear = (torch.stack(column) for column in zip(*found, strict=True))
    return Pose(angle, torch.stack([x, y], 1), clear.bool())


def _pose(pixels: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angle, x, y and certainty of a part's pose, given the rows and columns of its pixels, (N,2)."""
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
    clear = (long > LONG) & (lean.abs() / spread**1.5 > SKEWED)
    clear = clear & (SMALLEST < covered < LARGEST)
    rounded = [(one * ROUNDED).round() / ROUNDED for one in (angle, centre_x, centre_y)]
    return rounded[0], rounded[1], rounded[2], clear.to(torch.float64)


def _middle(along: Tensor) -> Tensor:
    """Midpoint between both ends, ignoring a few outlying pixels."""
    last = len(along) - 1
    ordered, skipped = along.sort().values, round(TAIL * last)
    return (ordered[skipped] + ordered[last - skipped]) / 2


def orientations_vary(pose: Pose) -> bool:
    """Whether good images show single parts with certain poses and varying orientations."""
    if len(pose.clear) == 0 or pose.clear.float().mean() < CLEAR_SHARE:
        return False
    angle = pose.angle[pose.clear]
    return float(torch.hypot(angle.cos().mean(), angle.sin().mean())) < VARIED


class Frame:
    """Images with aligned parts, and the inverse transform. Images with an uncertain pose are not changed.

    Args:
        image: (B,3,S,S) in [0,1].
        turn: whether to align the parts.
        affine: see `alignment`; None computes it from the images.

    Attributes:
        image: aligned images, of the same shape.
    """

    def __init__(self, image: Tensor, *, turn: bool, affine: tuple[Tensor, Tensor] | None = None) -> None:
        self._given, self._there = image, None
        self.image = image
        if turn:
            there, self._back = alignment(image) if affine is None else affine
            self._there = there
            self.image = _sampled(image, there, "bicubic", "reflection").clamp(0, 1)

    def undo(self, found: Detection) -> Detection:
        """Transform a detection back to the original orientation."""
        if self._there is None:
            return found
        return replace(
            found,
            anomaly_map=self.undo_map(found.anomaly_map),
            reconstruction=self.undo_picture(found.reconstruction),
        )

    def undo_map(self, values: Tensor) -> Tensor:
        """Transform maps (B,1,h,w) back to the original orientation, at the same size."""
        return values if self._there is None else _sampled(values, self._back, "bilinear", "border")

    def undo_picture(self, picture: Tensor) -> Tensor:
        """Transform pictures (B,3,S,S) back; pixels outside the picture are taken from the original image."""
        if self._there is None:
            return picture
        seen = _sampled(torch.ones_like(picture[:, :1]), self._back, "bilinear", "zeros")
        turned = _sampled(picture, self._back, "bicubic", "border").clamp(0, 1)
        return seen * turned + (1 - seen) * self._given

    def undo_panel(self, pixels: Tensor) -> Tensor:
        """Transform a picture (3,h,w) or a map (1,h,w) back to the original orientation."""
        if len(pixels) == 1 or pixels.shape[-2:] != self.image.shape[-2:]:
            return self.undo_map(pixels[None])[0]
        return self.undo_picture(pixels[None])[0]


def alignment(image: Tensor) -> tuple[Tensor, Tensor]:
    """Affine matrices that align the parts of images (B,3,S,S), and their inverses, two (B,2,3)."""
    return _affine(pose_of(image), image)


def _affine(pose: Pose, like: Tensor) -> tuple[Tensor, Tensor]:
    """Affine matrices of the alignment and of its inverse, two (B,2,3)."""
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
