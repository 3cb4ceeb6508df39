"""The one error that users cause."""

import math
from collections.abc import Sequence


class InputError(ValueError):
    """Bad input, told in one sentence: what, expected, got, what to do.

    The command line prints the sentence without a traceback and ends with exit code 2.
    """


class DivergedError(InputError):
    """A training whose weights are no numbers any more."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: expected a loss that stays finite, but it grew without bounds; choose a smaller --set "
            "training.learning_rate, or --set training.precision=float32."
        )


class NotFiniteError(InputError):
    """Scores or maps with NaN or infinity.

    Args:
        rows: which images of those that were given, from 0.
        names: of these images, for the message; their numbers unless given.

    Attributes:
        rows: the same.
    """

    def __init__(self, rows: Sequence[int], names: Sequence[str] = ()) -> None:
        self.rows = list(rows)
        told = list(names) or [f"image {row}" for row in self.rows]
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        super().__init__(
            f"{', '.join(told[:3])}{more}: expected finite scores and maps, got NaN or infinity; the model "
            "is damaged or did not train properly: fit it again."
        )


LARGEST_SIDE = 2**14
"""Side of an image in pixels, beyond which no network here could work on it: a slip, or a damaged file."""


def check_count(name: str, value: int, low: int, most: int) -> None:
    """Refuse a number below `low`, and one beyond `most` that nobody can mean: a slip, or a damaged file."""
    check_range(name, value, low)
    if value > most:
        raise InputError(f"{name}: expected at most {most}, got {value}.")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside low..high, both included, and NaN."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise InputError(f"{name}: expected {allowed}, got {value}.")
