"""The one error that users cause."""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


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


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Refuse a value that is none of those allowed."""
    known = list(allowed)
    if value not in known:
        listed = ", ".join(one or "''" for one in known)
        raise InputError(f"{name}: expected one of {listed}, got {value!r}.")


def check_choices(config: Any, where: str = "") -> None:
    """Refuse a value of a dataclass that the Literal type of its field does not list.

    Args:
        config: a dataclass.
        where: for messages: what stands before the field's name, such as "readout.".
    """
    kind: Any = type(config)
    for name, allowed in _choices_of(kind).items():
        check_choice(f"{where}{name}", getattr(config, name), allowed)


@cache
def _choices_of(kind: type) -> dict[str, tuple[str, ...]]:
    """The values that every field with a Literal type may hold."""
    hints = get_type_hints(kind).items()
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}
