"""What a threshold does: how many images of every kind lie above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mendiff.evaluation.data import GOOD


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
