"""Messages about thresholds: false-alarm rate, reliability, outliers among the good images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mendiff.calibration import Calibration
from mendiff.errors import InputError
from mendiff.runs.common import MOST_WARNINGS
from mendiff.runs.reporting import Reporter


def check_rate(rate: float) -> float:
    """The false-alarm rate; InputError outside (0,1)."""
    if not 0 < rate < 1:
        raise InputError(f"--false-alarm-rate: expected a share between 0 and 1, such as 0.01, got {rate:g}.")
    return rate


def report_reliability(
    calibration: Calibration, reporter: Reporter, what: str = "threshold", *, warnings_only: bool = False
) -> None:
    """Report how reliable a threshold is: a warning if it comes from few images, otherwise a note.

    Args:
        calibration: of the model.
        reporter: takes the message.
        what: names the threshold.
        warnings_only: omit the note.
    """
    if calibration.is_rough:
        reporter.warn(f"{what} {calibration.worth}")
    elif not warnings_only:
        reporter.say(f"note: {what} {calibration.worth}")


def left_out(method: Any, seen: Sequence[Path]) -> list[Path]:
    """Training images that the method's statistics leave out, given the paths of all."""
    odd = getattr(getattr(method, "readout", None), "odd", ())
    return list(dict.fromkeys(seen[at] for at in odd))


def warn_of_outliers(
    calibration: Calibration, paths: Sequence[Path], reporter: Reporter, ignored: Sequence[Path] = ()
) -> list[str]:
    """Warn of every good image whose score is an outlier; returns the names of all outliers.

    Args:
        calibration: its scores.
        paths: the images of these scores, in the same order.
        reporter: takes the warnings.
        ignored: images that the statistics leave out, too.
    """
    outliers, scores = calibration.outliers, calibration.scores
    highest = max((score for at, score in enumerate(scores) if at not in outliers), default=0.0)
    sentences = {
        paths[at]: f"outlier among the good images (score {scores[at]:.4g}, highest of the others "
        f"{highest:.4g}); check whether the part is good. The threshold "
        f"{'and the statistics ignore' if paths[at] in ignored else 'ignores'} this image."
        for at in outliers
    }
    for path in ignored:
        sentences.setdefault(
            path,
            "some of its features are like those of no other good image; check whether the part is good. "
            "The statistics ignore this image.",
        )
    for path, sentence in list(sentences.items())[:MOST_WARNINGS]:
        reporter.warn(f"{path}: {sentence}")
    if len(sentences) > MOST_WARNINGS:
        reporter.warn(
            f"{len(sentences) - MOST_WARNINGS} more outliers among the good images: see standing_out with "
            "--json."
        )
    return [str(path) for path in sentences]
