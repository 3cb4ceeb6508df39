"""Thresholds and p-values from the scores of good images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median

from scipy.special import stdtrit

from mendiff.errors import InputError

MINIMUM = 2
FALSE_ALARM_RATE = 0.01
"""Share of good parts that thresholds are meant to flag unless another is asked for."""
SKEW_DOUBT, MOST_SKEWED = 2.0, 3.0
OUTLIER_LEVEL, OUTLIER_RAMP, OUTLIER_SHARE = 0.01, 0.5, 8
MIN_FOR_OUTLIERS = 4
"""Scores of which one can be told to be odd."""
# Chosen with benchmarks/thresholds.py on simulated scores; that a few scores ask for more before one of them
# is odd was seen on the good images of a small fit, too.


@dataclass(frozen=True)
class Calibration:
    """What a model knows about good parts: the scores of good images that it was not trained on.

    Attributes:
        scores: image scores, at least two, in any order but for `seen`.
        pixel_scores: the highest map value of each of those images.
        false_alarm_rate: share of good parts that the thresholds are meant to flag, in (0,1).
        seen: how many of the scores, the last ones, are of images that the model was trained on after all,
            since too few were held back; they are lower than those of images to come.
    """

    scores: tuple[float, ...]
    pixel_scores: tuple[float, ...] = ()
    false_alarm_rate: float = FALSE_ALARM_RATE
    seen: int = 0

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
        if not 0 <= self.seen <= len(self.scores):
            raise InputError(f"seen: expected a number of the {len(self.scores)} scores, got {self.seen}.")

    @cached_property
    def threshold(self) -> float:
        """Image score above which a part is called defective."""
        return upper_bound(self.scores, self.false_alarm_rate)

    @cached_property
    def pixel_threshold(self) -> float:
        """Map value that good images exceed somewhere at the false-alarm rate; NaN without pixel scores."""
        return upper_bound(self.pixel_scores, self.false_alarm_rate) if self.pixel_scores else math.nan

    @property
    def heat_range(self) -> tuple[float, float]:
        """Map values for drawing: (half of the colour scale, no colour).

        The pixel threshold, and half the median of good images' highest values; those of image scores where
        there are no pixel scores.
        """
        peaks = sorted(self.pixel_scores or self.scores)
        limit = self.pixel_threshold if self.pixel_scores else self.threshold
        return limit, min(0.5 * peaks[len(peaks) // 2], 0.9 * limit)

    @property
    def worth(self) -> str:
        """What the threshold is worth, in one sentence: where it comes from, and what that can support."""
        count, odd, rate = len(self.scores), len(self.outliers), f"{100 * self.false_alarm_rate:.3g} %"
        needed = math.ceil(1 / min(self.false_alarm_rate, 1 - self.false_alarm_rate))
        images = f"{count} good images" if self.seen else f"{count} held-back images"
        if self.seen:
            images += f", {self.seen} of which it was trained on"
        if odd:
            images += f", {odd} of which it passes over as too far above the others"
        if count < MIN_FOR_OUTLIERS:
            return (
                f"from {images}: the rate of {rate} is a guess, and little but gross defects will pass the "
                f"threshold; add good images, about {needed} would measure the rate."
            )
        if count < needed:
            return f"from {images}: the rate of {rate} is extrapolated; about {needed} would measure it."
        return f"from {images}: enough to measure a rate of {rate}."

    @property
    def odd(self) -> list[int]:
        """Places of the scores that stand out so far that thresholds pass over them, highest first."""
        return find_outliers(self.scores)

    def p_value(self, score: float) -> float:
        """Share of good images that score at least this high, itself included: (1 + hits) / (1 + n).

        A conformal p-value (Vovk et al. 2005): valid for exchangeable images, never below 1 / (n + 1).
        """
        hits = sum(good >= score for good in self.scores)
        return (1 + hits) / (1 + len(self.scores))

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON-able values."""
        return {
            "scores": list(self.scores),
            "pixel_scores": list(self.pixel_scores),
            "false_alarm_rate": self.false_alarm_rate,
            "seen": self.seen,
        }

    @staticmethod
    def from_dict(data: dict[str, object], source: str = "calibration") -> Calibration:
        """The inverse of to_dict; source is for messages: where the data come from."""
        try:
            scores, pixel_scores = _numbers(data["scores"]), _numbers(data["pixel_scores"])
            rate, seen = _numbers(
                [data["false_alarm_rate"], data.get("seen", 0)]
            )  # the first versions lack it
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{source}: expected numbers as scores, pixel_scores and false_alarm_rate, "
                f"got {sorted(map(str, data))}; fit the model again."
            ) from error
        if seen != int(seen):
            raise InputError(f"{source}: seen: expected a whole number, got {seen}; fit the model again.")
        return Calibration(scores, pixel_scores, rate, int(seen))


def _numbers(values: object) -> tuple[float, ...]:
    """A list of numbers, no texts that read like some."""
    if not isinstance(values, list | tuple):
        raise TypeError(values)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        raise TypeError(values)
    return tuple(float(one) for one in values)


def upper_bound(scores: Sequence[float], false_alarm_rate: float) -> float:
    """The limit that a further good score exceeds at the false-alarm rate, from the scores of n good images.

    Student's t is what makes a limit honest that comes from n normal scores: mean + t * sd * sqrt(1 + 1/n)
    is exceeded by the next one at just the rate (a prediction limit). Scores of good images have a longer
    tail above, so this factor is the normal deviate whose quantile is taken from a Pearson III distribution
    of their skewness, which is shrunk to 0 where n scores can't show one. A score that all others make next
    to impossible (see `find_outliers`) fades out of all this, so that one defect among the good images does
    not lift the limit above all defects.

    Moves with a shift and a change of scale of the scores, continuously with every one of them, and upwards
    as the rate falls. benchmarks/thresholds.py measures it.

    Args:
        scores: at least two, finite, in any order.
        false_alarm_rate: in (0,1).
    """
    if len(scores) < MINIMUM:
        raise InputError(
            f"statistics: expected at least {MINIMUM} good images that were held back, got {len(scores)}."
        )
    middle, spread = median(scores), max(scores) - min(scores)
    if spread == 0:
        return middle
    # Scores of any size, without overflow.
    usual = [(score - middle) / spread for score in scores]
    limits = (weight * _limit(kept, false_alarm_rate) for weight, kept in _without_outliers(usual) if weight)
    return middle + spread * sum(limits)


def find_outliers(scores: Sequence[float]) -> list[int]:
    """Places of the scores that are too high to be those of good images, given all others, highest first.

    Sound scores have one with a chance of at most 1 %, four of 0.2 %; of fewer than 4 none can be told.
    """
    if len(scores) < MINIMUM or max(scores) == min(scores):
        return []
    middle, spread = median(scores), max(scores) - min(scores)
    usual = [(score - middle) / spread for score in scores]
    _, kept = max(_without_outliers(usual), key=lambda part: part[0])  # what bears most of the limit
    return sorted(
        (place for place, score in enumerate(usual) if score > max(kept)), key=lambda place: -scores[place]
    )


def _limit(scores: Sequence[float], rate: float) -> float:
    """The limit of scores that are all sound; see upper_bound."""
    n, centre = len(scores), fmean(scores)
    apart = [score - centre for score in scores]
    square = math.fsum(one * one for one in apart) / n
    factor = -float(stdtrit(n - 1, rate)) * math.sqrt(1 + 1 / n)
    deviation = math.sqrt(square * n / (n - 1))
    return centre + deviation * _skewed(factor, _skewness(apart, square))


def _skewness(apart: Sequence[float], square: float) -> float:
    """Skewness of a distribution, from 0 to MOST_SKEWED; near 0 unless it is beyond chance.

    The unbiased estimate g of normal scores, whose standard error e is known, is shrunk by
    g^2 / (g^2 + SKEW_DOUBT e^2).

    Args:
        apart: distances of the scores from their mean.
        square: mean of their squares.
    """
    n, cube = len(apart), math.fsum(one**3 for one in apart) / len(apart)
    if n < 3 or square == 0 or cube <= 0:
        return 0.0  # a short tail is no reason for a low limit
    skewness: float = cube / square**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    error = 6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))
    return min(skewness**3 / (skewness**2 + SKEW_DOUBT * error), MOST_SKEWED)


def _skewed(deviate: float, skewness: float) -> float:
    """A normal deviate as that of a Pearson III distribution of zero mean and unit deviation.

    Wilson and Hilferty's cubic (1931), as hydrologists use it: 2/g ((1 + g z/6 - g^2/36)^3 - 1).
    """
    if skewness < 1e-6:
        return deviate
    cubic: float = (1 + skewness * deviate / 6 - skewness**2 / 36) ** 3
    return 2 / skewness * (cubic - 1)


def _without_outliers(scores: Sequence[float]) -> list[tuple[float, list[float]]]:
    """(weight, scores without the k oddest), k from 0 to an eighth of them; the weights add up to 1.

    A score is odd where it passes the limit of all that are nearer to the median at a level that makes one
    such test in a hundred sets of sound scores fire (Bonferroni; Rosner's procedure, from the inside out),
    and in fewer where there are less than 8 scores: three that happen to lie close together say little.
    Its weight falls from 1 at this limit to 0 at half as far again, so that nothing jumps.
    """
    middle = median(scores)
    outwards = sorted(scores, key=lambda score: abs(score - middle))
    n = len(scores)
    most = max(1, n // OUTLIER_SHARE) if n >= MIN_FOR_OUTLIERS else 0
    level = OUTLIER_LEVEL * min(1.0, (n - 3) / 5)
    parts, left = [], 1.0
    for odd in range(most, 0, -1):
        kept = outwards[: n - odd]
        fade = _outlier_weight(outwards[n - odd], kept, level / (n * most))
        parts.append((left * fade, kept))
        left *= 1 - fade
    return [*parts, (left, outwards)]


def _outlier_weight(score: float, others: Sequence[float], level: float) -> float:
    """From 0 for a score within the limits of the others to 1 at OUTLIER_RAMP beyond them, of their distance."""
    centre = fmean(others)
    upwards = 1 if score > centre else -1  # a part that looks all too good is odd as well
    reach = _limit([upwards * one for one in others], level) - upwards * centre
    distance = abs(score - centre)
    if reach <= 0:
        return float(distance > 0)
    return min(max((distance / reach - 1) / OUTLIER_RAMP, 0.0), 1.0)
