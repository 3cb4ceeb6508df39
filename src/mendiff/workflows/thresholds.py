"""What commands say of a threshold: its rate, what it is worth, and which good images it passes over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mendiff.calibration import MIN_FOR_OUTLIERS, Calibration
from mendiff.errors import InputError
from mendiff.workflows.common import MOST_TOLD
from mendiff.workflows.reporting import Reporter


def check_rate(rate: float) -> float:
    """The rate, if it is one that thresholds can be meant for."""
    if not 0 < rate < 1:
        raise InputError(f"--false-alarm-rate: expected a share between 0 and 1, such as 0.01, got {rate:g}.")
    return rate


def report_reliability(
    calibration: Calibration, reporter: Reporter, what: str = "threshold", *, few_alone: bool = False
) -> None:
    """Say what a threshold is worth: a warning where it comes from next to no images, a note otherwise.

    Args:
        calibration: whose.
        reporter: where to.
        what: of which one is spoken.
        few_alone: no note, only a warning where there is reason for it.
    """
    if len(calibration.scores) < MIN_FOR_OUTLIERS:
        reporter.warn(f"{what} {calibration.worth}")
    elif not few_alone:
        reporter.say(f"note: {what} {calibration.worth}")


def warn_of_outliers(calibration: Calibration, paths: Sequence[Path], reporter: Reporter) -> list[str]:
    """Name the good images whose scores stand out, a warning each; gives all their names.

    Args:
        calibration: whose scores.
        paths: of the images that they are of, in their order.
        reporter: where to.
    """
    odd = calibration.outliers
    usual = max((score for at, score in enumerate(calibration.scores) if at not in odd), default=0.0)
    for at in odd[:MOST_TOLD]:
        score = calibration.scores[at]
        reporter.warn(
            f"{paths[at]}: stands out among the good images (score {score:.4g}, those of the others end at "
            f"{usual:.4g}); look whether it is good. The threshold passes over it."
        )
    if len(odd) > MOST_TOLD:
        reporter.warn(f"{len(odd) - MOST_TOLD} more good images stand out: see standing_out with --json.")
    return [str(paths[at]) for at in odd]
