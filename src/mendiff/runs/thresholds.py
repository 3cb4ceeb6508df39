"""Messages about thresholds: false-alarm rate, reliability, outliers among the good images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def warn_of_outliers(calibration: Calibration, paths: Sequence[Path], reporter: Reporter) -> list[str]:
    """Warn of every good image whose score is an outlier; returns the names of all outliers.

    Args:
        calibration: its scores.
        paths: the images of these scores, in the same order.
        reporter: takes the warnings.
    """
    outliers, scores = calibration.outliers, calibration.scores
    highest = max((score for at, score in enumerate(scores) if at not in outliers), default=0.0)
    for at in outliers[:MOST_WARNINGS]:
        reporter.warn(
            f"{paths[at]}: outlier among the good images (score {scores[at]:.4g}, highest of the others "
            f"{highest:.4g}); check whether the part is good. The threshold ignores this image."
        )
    if len(outliers) > MOST_WARNINGS:
        reporter.warn(
            f"{len(outliers) - MOST_WARNINGS} more outliers among the good images: see standing_out with "
            "--json."
        )
    return [str(paths[at]) for at in outliers]
