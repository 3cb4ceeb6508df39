"""Precision, recall and false-alarm rate at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mendiff.data.dataset import GOOD


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
