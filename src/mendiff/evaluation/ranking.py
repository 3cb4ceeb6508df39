"""Counts of defective and good values at all thresholds, from which all metrics are computed.

Metrics depend on thresholds at defective values only, and few pixels are defective. So defective and good
values are sorted separately, and good values are counted above each defective value. This is about fifty
times faster than sorting all pixels with their labels, and needs a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int64]

DROPPED_BITS = 11
"""Dropped bits of the 24 significant bits of binned values; neighbouring bins differ by 1/4096."""


@dataclass(frozen=True)
class Ranking:
    """Counts at all K distinct defective values, in descending order.

    Attributes:
        thresholds: defective values, (K,).
        found: number of defective values at or above each threshold, (K,).
        weight: weight of defective values at or above each threshold, relative to the total, (K,).
        alarms: number of good values at or above each threshold, (K,).
        above: number of good values above each threshold, (K,).
        defective, good: total numbers.
    """

    thresholds: Values
    found: Floats
    weight: Floats
    alarms: Floats
    above: Floats
    defective: int
    good: int

    @property
    def auroc(self) -> float:
        """Area under the ROC curve; ties count half."""
        tied = np.diff(self.found, prepend=0.0)
        lower = self.good - (self.alarms + self.above) / 2
        return float((tied * lower).sum() / (self.defective * self.good))

    @property
    def average_precision(self) -> float:
        """Average precision as a step function, without interpolation (Davis and Goadrich 2006)."""
        precision = self.found / (self.found + self.alarms)
        return float((np.diff(self.found, prepend=0.0) * precision).sum() / self.defective)

    @property
    def f1(self) -> Floats:
        """F1 at every threshold, (K,)."""
        return 2 * self.found / (self.found + self.alarms + self.defective)

    def roc(self, weighted: bool = False, limit: float = 1.0) -> tuple[Floats, Floats]:
        """Points of the ROC curve from (0,0): share of good values, share (or weight) of defective values.

        Args:
            weighted: whether weights of defective values are used.
            limit: share of good values at which the curve ends, interpolated if necessary.
        """
        share = self.weight if weighted else self.found / self.defective
        before = np.concatenate([[0.0], share[:-1]])
        x = np.stack([self.above, self.alarms], axis=1).ravel() / self.good
        y = np.stack([before, share], axis=1).ravel()
        x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
        inside = int(np.searchsorted(x, limit, side="right"))
        if inside < len(x):
            x, y = x[: inside + 1], y[: inside + 1]
            y[-1] = y[-2] + (y[-1] - y[-2]) * (limit - x[-2]) / (x[-1] - x[-2])
            x[-1] = limit
        return x, y

    def partial_area(self, limit: float) -> float:
        """AUPRO: area under the weighted ROC curve up to a share of good values, divided by this share."""
        x, y = self.roc(weighted=True, limit=limit)
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit)


def rank(values: Values, defective: npt.NDArray[np.bool_], weights: Floats | None = None) -> Ranking | None:
    """Rank values exactly; None if one class is missing.

    Args:
        values: (N,) float32, finite.
        defective: (N,).
        weights: weights of the defective values, in order; default equal.
    """
    chosen, rest = values[defective], np.sort(values[~defective])
    if len(chosen) == 0 or len(rest) == 0:
        return None
    thresholds, last, order = _distinct(chosen)
    return Ranking(
        thresholds=thresholds,
        found=last.astype(np.float64) + 1,
        weight=_weight(weights, order, last),
        alarms=(len(rest) - np.searchsorted(rest, thresholds, side="left")).astype(np.float64),
        above=(len(rest) - np.searchsorted(rest, thresholds, side="right")).astype(np.float64),
        defective=len(chosen),
        good=len(rest),
    )


def rank_binned(
    parts: Iterable[tuple[Values, npt.NDArray[np.bool_]]], weights: Floats | None = None
) -> Ranking | None:
    """Rank binned values (`DROPPED_BITS`) in parts, with constant memory for good values.

    Args:
        parts: (values (n,) float32, defective (n,)), in order.
        weights: weights of all defective values, in order; default equal.
    """
    bins = 2 ** (32 - DROPPED_BITS)
    counts = np.zeros(bins, dtype=np.int64)
    chosen = []
    for values, defective in parts:
        keys = _keys(values)
        counts += np.bincount(keys[~defective], minlength=bins)
        chosen.append(keys[defective])
    joined = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    good = int(counts.sum())
    if len(joined) == 0 or good == 0:
        return None
    keys, last, order = _distinct(joined)
    at_or_above = np.cumsum(counts[::-1])[::-1].astype(np.float64)
    return Ranking(
        thresholds=_values(keys),
        found=last.astype(np.float64) + 1,
        weight=_weight(weights, order, last),
        alarms=at_or_above[keys],
        above=at_or_above[keys] - counts[keys],
        defective=len(joined),
        good=good,
    )


def _distinct(values: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Distinct values in descending order, the last index of each in that order, and the order."""
    order = np.argsort(values)[::-1]
    ordered = values[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return ordered[last], last, order


def _weight(weights: Floats | None, order: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Floats:
    if weights is None:
        return (last + 1.0) / len(order)
    running = np.cumsum(weights[order])
    return np.asarray(running[last] / running[-1])


def _keys(values: Values) -> Keys:
    """Map floats to integers of the same order; -0 as 0."""
    bits = (values + np.float32(0)).astype(np.float32).view(np.int32).astype(np.int64)
    return np.asarray((np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits) + 2**31) >> DROPPED_BITS)


def _values(keys: Keys) -> Values:
    """The lowest value of each key's bin."""
    bits = (keys << DROPPED_BITS) - 2**31
    return np.where(bits < 0, (-(bits + 1)) | 0x80000000, bits).astype(np.uint32).view(np.float32)
