"""Precision, recall and false-alarm rate at thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mendiff.calibration import ROUNDING, Calibration
from mendiff.data.dataset import GOOD

RATES = (0.01, 0.05, 0.1)
"""False-alarm rates of `decisions`."""


def at_threshold(scores: Sequence[float], labels: Sequence[str], threshold: float) -> dict[str, Any]:
    """Precision, recall and false-alarm rate of a test set at a threshold, in [0,1]; None if undefined.

    Images with a score above the threshold count as defective. `types` has the rows of by_type.
    """
    rows = by_type(scores, labels, threshold)
    good = [row for row in rows if row["type"] == GOOD]
    bad = [row for row in rows if row["type"] != GOOD]
    return {
        "threshold": threshold,
        "precision": _share(_sum(bad, "flagged"), _sum(rows, "flagged")),
        "recall": _share(_sum(bad, "flagged"), _sum(bad, "images")),
        "false_alarm_rate": _share(_sum(good, "flagged"), _sum(good, "images")),
        "types": rows,
    }


def decisions(
    scores: Sequence[float], labels: Sequence[str], calibration: Calibration | None = None
) -> dict[str, Any]:
    """Recall at the false-alarm rates RATES, in [0,1]; None where undefined.

    Args:
        scores: of a test set, (N,).
        labels: (N,), good or the defect type.
        calibration: of the model, from which thresholds follow; None for models without thresholds.

    Returns:
        "rates": RATES. "ranked": recall_at_rate, which does not depend on the model's threshold.
        "at_thresholds": at_threshold without types, for the model's threshold at each rate. "scores" and
        "labels": as given.
    """
    limits = [] if calibration is None else [calibration.at_rate(rate).threshold for rate in RATES]
    cuts = [at_threshold(scores, labels, limit) for limit in limits]
    return {
        "rates": list(RATES),
        "ranked": [recall_at_rate(scores, labels, rate) for rate in RATES],
        "at_thresholds": [{name: cut[name] for name in cut if name != "types"} for cut in cuts],
        "scores": list(scores),
        "labels": list(labels),
    }


def recall_at_rate(scores: Sequence[float], labels: Sequence[str], rate: float) -> float | None:
    """Recall at the lowest threshold that at most a share `rate` of the good images exceeds."""
    good = sorted(score for score, label in zip(scores, labels, strict=True) if label == GOOD)
    bad = [score for score, label in zip(scores, labels, strict=True) if label != GOOD]
    if not good or not bad:
        return None
    limit = good[-1 - int(rate * len(good) + ROUNDING)]
    return sum(score > limit for score in bad) / len(bad)


def _sum(rows: Sequence[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def by_type(scores: Sequence[float], labels: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """One row for every label: good first, then the defect types by name.

    Each row has `type`, `images` (count), `flagged` (count above the threshold), `share` (flagged / images:
    recall of defects, false-alarm rate of good images) and `mean_score`.

    Args:
        scores: (N,).
        labels: (N,), good or the defect type.
        threshold: an image counts as defective above it.
    """
    rows = []
    for label in sorted(set(labels), key=lambda label: (label != GOOD, label)):
        own = [score for score, other in zip(scores, labels, strict=True) if other == label]
        flagged = sum(score > threshold for score in own)
        rows.append(
            {
                "type": label,
                "images": len(own),
                "flagged": flagged,
                "share": flagged / len(own),
                "mean_score": sum(own) / len(own),
            }
        )
    return rows
