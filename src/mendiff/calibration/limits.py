"""Upper prediction limits of the scores of good images, and outliers among the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from mendiff.errors import InputError

MINIMUM = 2
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
    from scipy.special import stdtrit  # imported here: exported models need no scipy

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
