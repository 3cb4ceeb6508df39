"""Thresholds and p-values from the scores of good images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median

from scipy.special import stdtrit

from mendiff.errors import InputError

MINIMUM = 2
FALSE_ALARM_RATE = 0.01
"""Share of good parts that thresholds are meant to flag unless another is asked for."""
SKEW_DOUBT, MOST_SKEWED = 2.0, 3.0
OUTLIER_LEVEL, OUTLIER_RAMP, OUTLIER_SHARE = 0.01, 0.5, 8
ROUNDING = 1e-9
"""By how much a product of a number and a rate, such as 100 * 0.01, may be too small."""
LOWER_LEVEL = 0.05
"""Significance level at which scores of training images count as lower than those of held-back images."""
MIN_FOR_OUTLIERS = 4
"""Fewest scores among which an outlier can be detected."""
# Chosen with benchmarks/thresholds.py on simulated scores. The stricter level for few scores was also checked
# on the good images of a small fit.


@dataclass(frozen=True)
class Calibration:
    """The scores of held-back good images, from which thresholds and p-values follow.

    Attributes:
        scores: image scores, at least two; the last `seen` or `left_out` belong to training images.
        pixel_scores: the highest map value of each of those images.
        false_alarm_rate: share of good parts that the thresholds are meant to flag, in (0,1).
        seen: number of scores from training images, used where too few images were held back. They are
            lower than scores of new images.
        left_out: number of scores from training images that were left out of the statistics. The networks
            were trained on them.
    """

    scores: tuple[float, ...]
    pixel_scores: tuple[float, ...] = ()
    false_alarm_rate: float = FALSE_ALARM_RATE
    seen: int = 0
    left_out: int = 0

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
        for name in ("seen", "left_out"):
            if not 0 <= getattr(self, name) <= len(self.scores):
                raise InputError(
                    f"{name}: expected a number of the {len(self.scores)} scores, got {getattr(self, name)}."
                )

    @property
    def held_back(self) -> int:
        """Number of scores from images that were not used for training, which come first."""
        return len(self.scores) - self.seen - self.left_out

    @cached_property
    def threshold(self) -> float:
        """Image score above which a part is called defective."""
        return upper_bound(self.scores, self.false_alarm_rate)

    @cached_property
    def pixel_threshold(self) -> float:
        """Map value that a good image exceeds at the false-alarm rate; NaN without pixel scores."""
        return upper_bound(self.pixel_scores, self.false_alarm_rate) if self.pixel_scores else math.nan

    def at_rate(self, rate: float) -> Calibration:
        """The same scores with thresholds for another false-alarm rate, in (0,1)."""
        return replace(self, false_alarm_rate=rate)

    @property
    def heat_range(self) -> tuple[float, float]:
        """Map values for drawing: (half of the colour scale, no colour).

        The pixel threshold, and the median of good images' highest values: half of good images are drawn
        without colour. Those of image scores where there are no pixel scores.
        """
        peaks = sorted(self.pixel_scores or self.scores)
        limit = self.pixel_threshold if self.pixel_scores else self.threshold
        return limit, min(peaks[len(peaks) // 2], 0.9 * limit)

    @property
    def worth(self) -> str:
        """How reliable the threshold is, in one sentence."""
        count, excluded, rate = len(self.scores), len(self.outliers), f"{100 * self.false_alarm_rate:.3g} %"
        needed = fewest_scores(self.false_alarm_rate)
        held_back = f"{self.held_back} held-back image{'s' if self.held_back > 1 else ''}"
        images = f"{count} good images" if self.seen else held_back
        if self.left_out:
            images = f"{images} and {self.left_out} training images that were left out of the statistics"
        if self.seen:
            images += f", {self.seen} of which are training images"
        if excluded:
            images += f", {excluded} of which are excluded as outliers"
        if count < MIN_FOR_OUTLIERS:
            return (
                f"from {images}: the false-alarm rate of {rate} is a guess, and only gross defects will "
                f"exceed the threshold; add good images: about {needed} are needed to measure the rate."
            )
        if count < needed:
            return (
                f"from {images}: the false-alarm rate of {rate} is extrapolated; about {needed} images are "
                "needed to measure it."
            )
        if self.left_out:
            return f"from {images}, as the quantile that a share of {rate} exceeds."
        return (
            f"from {images}, as a conformal quantile: a further good part exceeds it with a probability of "
            f"at most {rate}."
        )

    @property
    def outliers(self) -> list[int]:
        """Indices of the scores that are excluded from the thresholds, highest score first."""
        return find_outliers(self.scores)

    def p_value(self, score: float) -> float:
        """Share of good images that score at least this high, this image included: (1 + hits) / (1 + n).

        A conformal p-value (Vovk et al. 2005): valid for exchangeable images, approximately valid with scores
        of training images that were left out of the statistics. Never below 1 / (n + 1).
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
            "left_out": self.left_out,
        }

    @staticmethod
    def from_dict(data: dict[str, object], source: str = "calibration") -> Calibration:
        """The inverse of to_dict; `source` names the origin of the data in error messages."""
        try:
            scores, pixel_scores = _numbers(data["scores"]), _numbers(data["pixel_scores"])
            # Earlier versions have no "seen" or no "left_out".
            rate, *counts = _numbers([data["false_alarm_rate"], data.get("seen", 0), data.get("left_out", 0)])
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{source}: expected numbers as scores, pixel_scores and false_alarm_rate, "
                f"got {sorted(map(str, data))}; fit the model again."
            ) from error
        for name, number in zip(("seen", "left_out"), counts, strict=True):
            if number != int(number):
                raise InputError(
                    f"{source}: {name}: expected a whole number, got {number}; fit the model again."
                )
        return Calibration(scores, pixel_scores, rate, *map(int, counts))


def _numbers(values: object) -> tuple[float, ...]:
    """A list of numbers as floats; TypeError for anything else, numeric strings included."""
    if not isinstance(values, list | tuple):
        raise TypeError(values)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise TypeError(values)
    return tuple(map(float, values))


def upper_bound(scores: Sequence[float], false_alarm_rate: float) -> float:
    """Upper prediction limit: a new good score exceeds it at the false-alarm rate, given n good scores.

    Where n scores support the rate, (n + 1) * rate >= 1, the limit is their conformal quantile, the k-th
    highest score with k = floor((n + 1) * rate). A new good score exceeds it with a probability of at most
    the rate, for scores of any distribution (Vovk et al. 2005).

    Fewer scores are extrapolated, to at least the highest of them. For normal scores this limit is
    mean + t * sd * sqrt(1 + 1/n), with Student's t. Scores of good images are skewed to the right. Therefore
    the factor t * sqrt(1 + 1/n) is mapped to a quantile of a Pearson III distribution with the skewness of
    the scores. The skewness is shrunk to 0 where n scores can't show it.

    The weight of outliers (see `find_outliers`) decreases to 0, so that a single defective image among the
    good images does not raise the limit above all defects.

    The limit is equivariant under shift and scale, continuous in every score, and rises as the rate falls.
    benchmarks/thresholds.py measures its coverage.

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
    # Standardised, so that large scores don't overflow.
    scaled = [(score - middle) / spread for score in scores]
    limits = (weight * _limit(kept, false_alarm_rate) for weight, kept in _without_outliers(scaled) if weight)
    return middle + spread * sum(limits)


def find_outliers(scores: Sequence[float]) -> list[int]:
    """Indices of the scores that are too high for good images, given the other scores; highest first.

    Without a defect among the images, an outlier is found in at most 1 % of sets, in 0.2 % of sets of four.
    Among fewer than 4 scores no outlier can be detected.
    """
    if len(scores) < MINIMUM or max(scores) == min(scores):
        return []
    middle, spread = median(scores), max(scores) - min(scores)
    scaled = [(score - middle) / spread for score in scores]
    _, kept = max(_without_outliers(scaled), key=lambda part: part[0])  # the subset of largest weight
    return sorted(
        (index for index, score in enumerate(scaled) if score > max(kept)), key=lambda index: -scores[index]
    )


def are_lower(scores: Sequence[float], others: Sequence[float]) -> bool:
    """Whether scores are significantly lower than others, by a one-sided rank-sum test at LOWER_LEVEL."""
    from scipy.stats import mannwhitneyu  # importing scipy.stats takes half a second

    return bool(mannwhitneyu(scores, others, alternative="less").pvalue < LOWER_LEVEL)


def fewest_scores(rate: float) -> int:
    """Number of scores that support a false-alarm rate, so that the threshold is a conformal quantile."""
    return math.ceil(1 / rate - ROUNDING) - 1


def _limit(scores: Sequence[float], rate: float) -> float:
    """The prediction limit of scores without outliers; see upper_bound."""
    exceeded = math.floor((len(scores) + 1) * rate + ROUNDING)
    if exceeded:
        return sorted(scores)[-min(exceeded, len(scores))]
    return max(max(scores), _tail(scores, rate))


def _tail(scores: Sequence[float], rate: float) -> float:
    """The prediction limit of a distribution that is fitted to scores; see upper_bound."""
    n, centre = len(scores), fmean(scores)
    deviations = [score - centre for score in scores]
    variance = math.fsum(deviation**2 for deviation in deviations) / n
    factor = -float(stdtrit(n - 1, rate)) * math.sqrt(1 + 1 / n)
    return centre + math.sqrt(variance * n / (n - 1)) * _skewed(factor, _skewness(deviations, variance))


def _skewness(deviations: Sequence[float], variance: float) -> float:
    """Skewness of a distribution, from 0 to MOST_SKEWED; shrunk to near 0 unless it is significant.

    The unbiased estimate g is shrunk by g^2 / (g^2 + SKEW_DOUBT e^2), with its standard error e for normal
    scores.

    Args:
        deviations: of the scores from their mean.
        variance: mean of their squares.
    """
    n, cube = len(deviations), math.fsum(deviation**3 for deviation in deviations) / len(deviations)
    if n < 3 or variance == 0 or cube <= 0:
        return 0.0  # negative skewness must not lower the limit
    skewness: float = cube / variance**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    error = 6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))
    return min(skewness**3 / (skewness**2 + SKEW_DOUBT * error), MOST_SKEWED)


def _skewed(deviate: float, skewness: float) -> float:
    """Quantile of a standardised Pearson III distribution for a normal deviate.

    Wilson and Hilferty's approximation (1931): 2/g ((1 + g z/6 - g^2/36)^3 - 1).
    """
    if skewness < 1e-6:
        return deviate
    cubic: float = (1 + skewness * deviate / 6 - skewness**2 / 36) ** 3
    return 2 / skewness * (cubic - 1)


def _without_outliers(scores: Sequence[float]) -> list[tuple[float, list[float]]]:
    """(weight, scores without the k farthest from the median), k from 0 to n/8; the weights add up to 1.

    A score is an outlier if it exceeds the limit of all scores nearer to the median. The level of this test
    gives one false outlier in 100 sets (Rosner's procedure, Bonferroni-corrected), and fewer below 8 scores.
    The weight of a score decreases from 1 at the limit to 0 at 1.5 times its distance, which keeps the
    threshold continuous.
    """
    middle = median(scores)
    by_distance = sorted(scores, key=lambda score: abs(score - middle))
    n = len(scores)
    most = max(1, n // OUTLIER_SHARE) if n >= MIN_FOR_OUTLIERS else 0
    level = OUTLIER_LEVEL * min(1.0, (n - 3) / 5)
    parts, left = [], 1.0
    for removed in range(most, 0, -1):
        kept = by_distance[: n - removed]
        fade = _outlier_weight(by_distance[n - removed], kept, level / (n * most))
        parts.append((left * fade, kept))
        left *= 1 - fade
    return [*parts, (left, by_distance)]


def _outlier_weight(score: float, others: Sequence[float], level: float) -> float:
    """0 for a score within the limit of the others, rising to 1 at 1 + OUTLIER_RAMP times its distance."""
    centre = fmean(others)
    sign = 1 if score > centre else -1  # scores far too low are outliers, too
    limit = _tail([sign * other for other in others], level) - sign * centre
    distance = abs(score - centre)
    if limit <= 0:
        return float(distance > 0)
    return min(max((distance / limit - 1) / OUTLIER_RAMP, 0.0), 1.0)
