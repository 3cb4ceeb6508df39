"""Regions of an anomaly map above a threshold, as boxes and polygons in pixels of the original image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from mendiff.data.bands import Enlarged, bands
from mendiff.data.masks import Mask

MOST = 100
"""Regions that are listed for an image, those with the highest scores."""
TOLERANCE = 0.5
"""Largest distance in pixels between a region's contour and its polygon."""


@dataclass(frozen=True)
class Region:
    """A connected region (8 neighbours) of pixels above the threshold.

    Attributes:
        box: x, y, width and height in pixels.
        area: number of pixels.
        score: highest map value inside.
        polygon: its outer contour, x1, y1, x2, y2, ..., at least three points.
    """

    box: tuple[int, int, int, int]
    area: int
    score: float
    polygon: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {"box": list(self.box), "area": self.area, "score": self.score, "polygon": list(self.polygon)}


def threshold_mask(anomaly_map: Enlarged, threshold: float, height: int, width: int) -> Mask:
    """Pixels of a map above the threshold, (height,width) bool; all False for a threshold that is NaN."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for rows in bands(height, width):
        mask[rows] = (anomaly_map[rows][0] > threshold).numpy()
    return mask


def find_regions(mask: Mask, anomaly_map: Enlarged) -> list[Region]:
    """The connected regions of a mask, those with the highest scores first, at most MOST.

    Args:
        mask: (H,W) bool.
        anomaly_map: the map at the same size.
    """
    if not mask.any():
        return []
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = [_region(np.asarray(contour), mask, anomaly_map) for contour in contours]
    return sorted(found, key=lambda region: -region.score)[:MOST]


def _region(contour: np.ndarray[Any, Any], mask: Mask, anomaly_map: Enlarged) -> Region:
    x, y, width, height = (int(value) for value in cv2.boundingRect(contour))
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.drawContours(inside, [contour - np.array([x, y])], -1, 1, cv2.FILLED)
    pixels = torch.from_numpy((inside > 0) & mask[y : y + height, x : x + width])
    values = anomaly_map[slice(y, y + height)][0][:, x : x + width]
    return Region((x, y, width, height), int(pixels.sum()), float(values[pixels].max()), _polygon(contour))


def _polygon(contour: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """The contour through pixel centres as a polygon; the box around it where it has no area."""
    points = cv2.approxPolyDP(contour, TOLERANCE, closed=True).reshape(-1, 2) + 0.5
    if len(points) < 3:
        (left, top), (right, bottom) = contour.reshape(-1, 2).min(0), contour.reshape(-1, 2).max(0) + 1
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return tuple(float(value) for value in points.flatten())
