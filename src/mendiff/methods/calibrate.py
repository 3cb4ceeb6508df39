"""Statistics of a trained method, and scores of good images for its thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mendiff.calibration import MINIMUM, Calibration, are_lower
from mendiff.methods.base import Batches, Method, Progress, Scores, no_progress, track
from mendiff.scoring.readout import first_images


@torch.no_grad()
def calibrate(
    method: Method,
    held_back: Batches,
    seen: Batches | None = None,
    progress: Progress = no_progress,
    *,
    leave_out: bool = True,
) -> Calibration:
    """Estimate the statistics of a trained method on good images, and collect scores of held-back images.

    Scores of training images that were left out of the statistics are added, unless they are lower than
    those of held-back images. If only a single image was held back and a method can't leave images out,
    plain scores of training images are added.

    Args:
        method: changed in place.
        held_back: see Method.fit_statistics.
        seen: see Method.fit_statistics.
        progress: see Method.fit_statistics.
        leave_out: whether to score training images; not if the scores of whole images replace these.
    """
    method.eval()
    left_out = method.fit_statistics(
        method.framed(held_back), method.framed(seen) if seen else None, progress, leave_out=leave_out
    )
    found = _scores(method, lambda: track(held_back(), "scoring held-back images: batches", progress))
    if left_out and not are_lower([score for score, _ in left_out], [score for score, _ in found]):
        return Calibration(*columns([*found, *left_out]), left_out=len(left_out))
    if len(found) >= MINIMUM or seen is None:
        return Calibration(*columns(found), lower=len(left_out))
    more = _scores(method, first_images(seen))
    return Calibration(*columns([*found, *more]), seen=len(more))


def _scores(method: Method, batches: Batches) -> Scores:
    """(score, highest map value) of every image."""
    return [
        pair
        for one in method.find_all(batches())
        for pair in zip(one.score.tolist(), one.anomaly_map.flatten(1).amax(1).tolist(), strict=True)
    ]


def columns(found: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Image scores, and highest map values."""
    return tuple(score for score, _ in found), tuple(peak for _, peak in found)
