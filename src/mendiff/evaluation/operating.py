"""What a threshold does: how many images of every kind lie above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mendiff.data.dataset import GOOD


def at_threshold(scores: Sequence[float], labels: Sequence[str], threshold: float) -> dict[str, Any]:
    """What a threshold does to a test set; shares from 0 to 1, None where there is nothing to share.

    `precision` is the share of defective images among those above the threshold, `recall` the share of the
    defective images that lie above it, `false_alarm_rate` that of the good ones; `types` as in by_type.
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
    """One row for every label: good first, then the kinds of defects by name.

    Each row has `type`, `images` (how many), `flagged` (how many score above the threshold), `share` (of
    them, 0 to 1: for defects the recall, for good the false-alarm rate) and `mean_score`.

    Args:
        scores: (N,), one for each image.
        labels: (N,), good or the kind of defect.
        threshold: an image counts as defective above it.
    """
    rows = []
    for label in sorted(set(labels), key=lambda one: (one != GOOD, one)):
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
