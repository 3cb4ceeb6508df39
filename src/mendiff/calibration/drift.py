"""Do the scores of new parts still match those of the calibration set? Tests that bear defective parts.

The martingale bets on conformal p-values of a growing set (Vovk, Nouretdinov and Gammerman 2003, Testing
exchangeability on-line). Each score is ranked among the calibration scores and all earlier ones. If good
parts are exchangeable, the p-values of their ranks among good parts are independent and uniform, for any
distribution and any number of scores. Capital starts betting at a random image, as in conformal change-point
detection (Volkhonskiy et al. 2017), and is spread over several betting functions, all decreasing in p.

Defective parts: every image may be defective with a probability of at most the share s, and have any score.
A betting function f is divided by 1 - s + s max(f), its largest mean under such p-values. Defects among the
ranked scores only increase the p-values of good parts, which lowers the capital. The capital is therefore
below a supermartingale, and by Ville's inequality it ever reaches 100 with a probability of at most 1 %.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LIMIT = 100.0
"""Capital at which drift is reported. Without drift it is ever reached with a probability of at most 1 %."""
DEFECTS = 0.05
"""Share of defective parts that is not yet drift."""
LEVELS, STAKES = (0.5, 0.2, 0.05), (0.25, 0.75)
"""Of the betting functions 1 - stake + stake / level [p <= level]."""
HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class Drift:
    """Whether scores match the calibration set, image by image.

    Attributes:
        p_values: conformal p-values among the calibration scores, in (0,1), equal scores in random order.
        log_capital: natural logarithm of the martingale after each image.
        alarm: index of the image at which the martingale reached LIMIT; None if it did not.
        since: estimated index of the first image of the drift, from the scores up to the alarm; None without
            an alarm.
        direction: "higher" or "lower", of the scores since then; "" without an alarm.
        distance: Kolmogorov-Smirnov distance to the calibration scores.
        uniformity: p-value of this distance, after the share of defects is taken off; small if the
            distributions differ. Valid for a single look, at the end.
    """

    p_values: tuple[float, ...]
    log_capital: tuple[float, ...]
    alarm: int | None
    since: int | None
    direction: str
    distance: float
    uniformity: float


@dataclass
class Ranked:
    """A growing sorted list of scores."""

    scores: list[float] = field(default_factory=list)

    def count(self, score: float) -> tuple[int, int, int]:
        """How many scores are lower, equal, and higher."""
        low, high = bisect_left(self.scores, score), bisect_right(self.scores, score)
        return low, high - low, len(self.scores) - high

    def share_above(self, score: float, draw: float) -> float:
        """The p-value of a score: its rank from the top, with a random place among equal scores.

        Args:
            score: a new score.
            draw: random number in (0,1).
        """
        _, equal, higher = self.count(score)
        return (higher + draw * (equal + 1)) / (len(self.scores) + 1)


@dataclass
class Bet:
    """A betting function with its capital.

    Attributes:
        direction: of the scores that it gains from.
        level: p-values up to it gain.
        gain: log of the factor of p-values up to the level.
        loss: log of the factor of other p-values.
        capital: logarithm.
    """

    direction: str
    level: float
    gain: float
    loss: float
    capital: float = -math.inf

    def place(self, p_value: float, added: float) -> None:
        """Bet all capital on an image; `added` is the logarithm of further capital."""
        factor = self.gain if p_value <= self.level else self.loss
        self.capital = _log_sum([self.capital, added]) + factor


class Martingale:
    """A mixture of all bets and of the images at which they begin.

    Args:
        calibration: see find_drift.
        threshold: see find_drift.
        defects: see find_drift.

    Attributes:
        log_capital: natural logarithm of the capital.
    """

    def __init__(self, calibration: Sequence[float], threshold: float, defects: float) -> None:
        self._all = Ranked(sorted(calibration))
        self._unflagged = Ranked(sorted(score for score in calibration if score <= threshold))
        self._threshold, self._defects = threshold, defects
        self._bets = [
            _bet(direction, level, stake, defects)
            for direction in (HIGHER, LOWER)
            for level in LEVELS
            for stake in STAKES
        ]
        self._count, self._idle = 0, 0.0
        self.log_capital = 0.0

    @property
    def best(self) -> Bet:
        """The bet that has gained most."""
        return max(self._bets, key=lambda bet: bet.capital)

    def add(self, score: float, draw: float) -> None:
        """Bet on the next score; `draw` is a random number in (0,1)."""
        p_values = {HIGHER: self._all.share_above(score, draw), LOWER: self._share_below(score, draw)}
        self._count += 1
        # A share 1 / (j (j + 1)) of the capital begins to bet at the j-th image.
        added = self._idle - math.log((self._count + 1) * len(self._bets))
        self._idle += math.log(self._count / (self._count + 1))
        for bet in self._bets:
            bet.place(p_values[bet.direction], added)
        self.log_capital = _log_sum([self._idle, *(bet.capital for bet in self._bets)])
        insort(self._all.scores, score)
        if score <= self._threshold:
            insort(self._unflagged.scores, score)

    def _share_below(self, score: float, draw: float) -> float:
        """An upper bound of the p-value of a score's rank from the bottom among good parts.

        Flagged parts, which may be defective, are left out: they would make ranks from the bottom too small.
        Of the others, the share `defects` may be defective.
        """
        if score > self._threshold:
            return 1.0
        lower, equal, _ = self._unflagged.count(score)
        good = max(1.0, (len(self._unflagged.scores) + 1) * (1 - self._defects))
        return min(1.0, (lower + (1 - draw) * (equal + 1)) / good)


def find_drift(
    calibration: Sequence[float],
    scores: Sequence[float],
    threshold: float,
    defects: float = DEFECTS,
    seed: int = 0,
) -> Drift:
    """Test whether scores come from the distribution of the calibration scores.

    The martingale at an image does not depend on later images, so it can be watched over time. The
    Kolmogorov-Smirnov test compares all scores with the calibration scores.

    Args:
        calibration: scores of good parts, at least one.
        scores: of new parts, in the order of time, at least one.
        threshold: of the model, above which parts are called defective.
        defects: share of defective parts that is not drift, in [0,1).
        seed: of the random order of equal scores.
    """
    draws, known = random.Random(seed), Ranked(sorted(calibration))
    martingale = Martingale(calibration, threshold, defects)
    p_values, log_capital, found = list[float](), list[float](), None
    for index, score in enumerate(scores):
        draw = 1 - draws.random()  # in (0,1]
        p_values.append(known.share_above(score, draw))
        martingale.add(score, draw)
        log_capital.append(martingale.log_capital)
        if found is None and martingale.log_capital >= math.log(LIMIT):
            found = index, martingale.best.direction
    distance, uniformity = _kolmogorov_smirnov(calibration, scores, defects)
    return Drift(
        tuple(p_values),
        tuple(log_capital),
        alarm=found[0] if found else None,
        since=change_point(calibration, scores[: found[0] + 1]) if found else None,
        direction=found[1] if found else "",
        distance=distance,
        uniformity=uniformity,
    )


def change_point(calibration: Sequence[float], scores: Sequence[float]) -> int:
    """Index of the first of the new scores after a single change of mean or spread.

    The scores are replaced by the normal quantiles of their ranks, so defects have a limited influence. The
    split with the highest likelihood ratio between two means is chosen. The squared quantiles give the split
    for a change of spread. The stronger of the two changes decides.

    Args:
        calibration: scores before the change.
        scores: of new parts, in the order of time, at least one after the change.
    """
    from scipy.stats import rankdata  # the import takes a second

    ranks = torch.from_numpy(rankdata([*calibration, *scores]))
    normal = torch.special.ndtri((ranks - 0.5) / len(ranks))
    curves = [_likelihood_ratios(values, len(calibration)) for values in (normal, normal**2)]
    return int(max(curves, key=lambda curve: curve.max()).argmax())


def _likelihood_ratios(values: Tensor, first: int) -> Tensor:
    """Squared standardised difference of the means before and after every split; (N,) -> (N - first,)."""
    values = (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
    before = torch.arange(first, len(values))
    after = len(values) - before
    sums = values.cumsum(0)[first - 1 : -1]  # those of all values add up to 0
    return sums**2 * (1 / before + 1 / after)


def _bet(direction: str, level: float, stake: float, defects: float) -> Bet:
    highest = 1 - stake + stake / level
    mean = 1 - defects + defects * highest
    return Bet(direction, level, math.log(highest / mean), math.log((1 - stake) / mean))


def _log_sum(values: Sequence[float]) -> float:
    """Logarithm of a sum, from logarithms."""
    highest = max(values)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def _kolmogorov_smirnov(
    calibration: Sequence[float], scores: Sequence[float], defects: float
) -> tuple[float, float]:
    """The distance of two samples, and its p-value after the share of defects is taken off."""
    from scipy.stats import ks_2samp, kstwo  # the import takes a second

    distance = float(ks_2samp(calibration, scores, method="asymp").statistic)
    size = len(calibration) * len(scores) / (len(calibration) + len(scores))
    beyond = distance - defects
    return distance, float(kstwo.sf(beyond, max(1, round(size)))) if beyond > 0 else 1.0
