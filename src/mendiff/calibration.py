"""Thresholds and p-values from the scores of good images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from mendiff.errors import InputError

MINIMUM = 2


@dataclass(frozen=True)
class Calibration:
    """What a model knows about good parts: the scores of good images that it was not trained on.

    Attributes:
        scores: image scores, at least two, in any order.
        pixel_scores: the highest map value of each of those images.
        false_alarm_rate: share of good parts that the thresholds are meant to flag, in (0,1).
    """

    scores: tuple[float, ...]
    pixel_scores: tuple[float, ...] = ()
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        if len(self.scores) < MINIMUM:
            raise InputError(
                f"calibration: expected the scores of at least {MINIMUM} good images, got {len(self.scores)}."
            )
        if not all(math.isfinite(score) for score in (*self.scores, *self.pixel_scores)):
            raise InputError(
                "calibration: expected finite scores, got NaN or infinity; the model did not train properly."
            )
        if not 0 < self.false_alarm_rate < 1:
            raise InputError(
                f"false_alarm_rate: expected a share between 0 and 1, got {self.false_alarm_rate}."
            )

    @property
    def threshold(self) -> float:
        """Image score above which a part is called defective."""
        return upper_bound(self.scores, self.false_alarm_rate)

    @property
    def pixel_threshold(self) -> float:
        """Map value that good images exceed somewhere at the false-alarm rate; NaN without pixel scores."""
        return upper_bound(self.pixel_scores, self.false_alarm_rate) if self.pixel_scores else math.nan

    def p_value(self, score: float) -> float:
        """Share of good images that score at least this high, itself included: (1 + hits) / (1 + n).

        A conformal p-value (Vovk et al. 2005): valid for exchangeable images, never below 1 / (n + 1).
        """
        hits = sum(good >= score for good in self.scores)
        return (1 + hits) / (1 + len(self.scores))

    def to_dict(self) -> dict[str, object]:
        """The three fields as JSON-able values."""
        return {
            "scores": list(self.scores),
            "pixel_scores": list(self.pixel_scores),
            "false_alarm_rate": self.false_alarm_rate,
        }

    @staticmethod
    def from_dict(data: dict[str, object], source: str = "calibration") -> Calibration:
        """The inverse of to_dict; source is for messages: where the data come from."""
        try:
            scores, pixel_scores = _numbers(data["scores"]), _numbers(data["pixel_scores"])
            (rate,) = _numbers([data["false_alarm_rate"]])
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{source}: expected numbers as scores, pixel_scores and false_alarm_rate, "
                f"got {sorted(map(str, data))}; fit the model again."
            ) from error
        return Calibration(scores, pixel_scores, rate)


def _numbers(values: object) -> tuple[float, ...]:
    """A list of numbers, no texts that read like some."""
    if not isinstance(values, list | tuple):
        raise TypeError(values)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        raise TypeError(values)
    return tuple(float(one) for one in values)


def upper_bound(scores: Sequence[float], false_alarm_rate: float) -> float:
    """Upper limit of good scores by a normal fit to their logarithms, or to themselves if not all positive.

    A few dozen images hold no 99 % quantile; a fitted tail does. With n images the limit widens as a
    prediction bound for the next one: mean + z * sd * sqrt(1 + 1/n).
    """
    if len(scores) < MINIMUM:
        raise InputError(
            f"statistics: expected at least {MINIMUM} good images that were held back, got {len(scores)}."
        )
    z = -NormalDist().inv_cdf(false_alarm_rate)
    positive = min(scores) > 0
    values = [math.log(score) for score in scores] if positive else list(scores)
    limit = fmean(values) + z * stdev(values) * math.sqrt(1 + 1 / len(values))
    return math.exp(limit) if positive else limit
