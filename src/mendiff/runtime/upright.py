"""Alignment of parts for exported models; see mendiff.synthesis.upright for the method and the constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Values = npt.NDArray[Any]
LUMA = (0.299, 0.587, 0.114)
LONG, SKEWED, SMALLEST, LARGEST, TAIL, ROUNDED = 0.5, 0.03, 0.02, 0.6, 0.003, 1e4


def alignment(image: Array) -> tuple[Array, Array]:
    """Affine matrices that align the part of an image (3,S,S) in [0,1], and their inverse, two (2,3)."""
    angle, centre = pose_of(image)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    there = np.column_stack([turn, centre])
    back = np.column_stack([turn.T, -(turn.T @ centre)])
    return there.astype(np.float32), back.astype(np.float32)


def pose_of(image: Array) -> tuple[float, Values]:
    """Angle and centre (2,) of a part; zeros for an uncertain pose."""
    part = foreground(image)
    side, none = part.shape[-1], (0.0, np.zeros(2))
    rows, columns = part.nonzero()
    if len(rows) == 0 or not SMALLEST < len(rows) / side**2 < LARGEST:
        return none
    at = (np.arange(side) * 2 + 1) / side - 1
    y, x = at[rows], at[columns]
    middle = np.array([x.mean(), y.mean()])
    x, y = x - middle[0], y - middle[1]
    across, along, both = (y**2).mean(), (x**2).mean(), (x * y).mean()
    angle = math.atan2(2 * both, along - across) / 2
    lean = ((x * math.cos(angle) + y * math.sin(angle)) ** 3).mean()
    angle += math.pi if lean < 0 else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    ends = _middle(x * cos + y * sin), _middle(y * cos - x * sin)
    centre = middle + np.array([ends[0] * cos - ends[1] * sin, ends[0] * sin + ends[1] * cos])
    spread = along + across
    long = math.sqrt((along - across) ** 2 + 4 * both**2) / spread if spread else 0.0
    if not (long > LONG and abs(lean) / spread**1.5 > SKEWED):
        return none
    return float(np.rint(angle * ROUNDED) / ROUNDED), np.rint(centre * ROUNDED) / ROUNDED


def _middle(along: Values) -> float:
    ordered, skipped = np.sort(along), round(TAIL * (len(along) - 1))
    return float(ordered[skipped] + ordered[len(along) - 1 - skipped]) / 2


def foreground(image: Array) -> Values:
    """The foreground of an image by Otsu's threshold, (3,S,S) to (S,S) bool; all of it if unclear."""
    levels = np.rint(image.clip(0, 1) * np.float32(255)) * np.array(LUMA, np.float32)[:, None, None]
    grey = np.rint((levels[0] + levels[1]) + levels[2]).astype(np.int64)
    bright = grey > otsu_threshold(grey)
    share = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]]).mean()
    part = ~bright if share > 0.5 else bright
    clear = (share > 0.85 or share < 0.15) and 0.05 < part.mean() < 0.9
    return part if clear else np.ones_like(part)


def otsu_threshold(grey: Values) -> int:
    """Otsu's threshold of (S,S) levels in 0..255; foreground is above it."""
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    below, mass = share.cumsum(), (share * np.arange(256)).cumsum()
    inside = (below > 1e-9) & (below < 1 - 1e-9)
    between = (mass[-1] * below - mass) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return int(np.where(inside, between, 0).argmax())
