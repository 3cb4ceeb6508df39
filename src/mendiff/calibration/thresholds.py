"""Thresholds and p-values from the scores of good images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from mendiff.calibration.limits import MIN_FOR_OUTLIERS, MINIMUM, fewest_scores, find_outliers, upper_bound
from mendiff.errors import InputError

FALSE_ALARM_RATE = 0.01
"""Share of good parts that thresholds are meant to flag unless another is asked for."""
FEW, MAY_BE_HIGHER = 30, " and may be several times as high"
"""From fewer scores the realised rate of single fits is often several times the nominal one."""
COUNTS = ("seen", "left_out", "lower")
"""Fields of a calibration that earlier versions lack in part."""


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
        lower: number of training images that were left out of the statistics, but score significantly lower
            than held-back images. Their scores are not used.
    """

    scores: tuple[float, ...]
    pixel_scores: tuple[float, ...] = ()
    false_alarm_rate: float = FALSE_ALARM_RATE
    seen: int = 0
    left_out: int = 0
    lower: int = 0

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
    def is_rough(self) -> bool:
        """Whether the threshold is extrapolated from few scores."""
        return len(self.scores) < min(FEW, fewest_scores(self.false_alarm_rate))

    @property
    def worth(self) -> str:
        """How reliable the threshold is, in one sentence."""
        count, excluded, rate = len(self.scores), len(self.outliers), f"{100 * self.false_alarm_rate:.3g} %"
        needed = fewest_scores(self.false_alarm_rate)
        held_back = f"{self.held_back} held-back image{'s' if self.held_back > 1 else ''}"
        images = f"{count} good images" if self.seen else held_back
        if self.left_out:
            images = f"{images} and {self.left_out} training images that were left out of the statistics"
        if self.lower:
            images += f" ({self.lower} training images score lower and are not used)"
        if self.seen:
            images += f", {self.seen} of which are training images"
        if excluded:
            images += f", not counting {excluded} outlier{'s' if excluded > 1 else ''}"
        if count < MIN_FOR_OUTLIERS:
            return (
                f"from {images}: the false-alarm rate of {rate} is a guess, and only gross defects will "
                f"exceed the threshold; add good images: about {needed} are needed to measure the rate."
            )
        if count < needed:
            return (
                f"from {images}: the false-alarm rate of {rate} is extrapolated"
                f"{MAY_BE_HIGHER if self.is_rough else ''}; about {needed} images are needed to measure it."
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
            "lower": self.lower,
        }

    @staticmethod
    def from_dict(data: dict[str, object], source: str = "calibration") -> Calibration:
        """The inverse of to_dict; `source` names the origin of the data in error messages."""
        try:
            scores, pixel_scores = _numbers(data["scores"]), _numbers(data["pixel_scores"])
            rate, *counts = _numbers([data["false_alarm_rate"], *(data.get(name, 0) for name in COUNTS)])
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{source}: expected numbers as scores, pixel_scores and false_alarm_rate, "
                f"got {sorted(map(str, data))}; fit the model again."
            ) from error
        for name, number in zip(COUNTS, counts, strict=True):
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
