"""Errors that the user can fix, and checks of values that raise them."""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """Bad input. The message is one sentence: what, expected, got, what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class DivergedError(InputError):
    """Training diverged: weights are NaN or infinite."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: expected a loss that stays finite, but it grew without bounds; choose a smaller --set "
            "training.learning_rate, or --set training.precision=float32."
        )


class NotFiniteError(InputError):
    """Scores or maps contain NaN or infinity.

    Args:
        rows: indices of the affected images.
        names: names of these images for the message; the indices by default.

    Attributes:
        rows: indices of the affected images.
    """

    def __init__(self, rows: Sequence[int], names: Sequence[str] = ()) -> None:
        self.rows = list(rows)
        listed = list(names) or [f"image {row}" for row in self.rows]
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        super().__init__(
            f"{', '.join(listed[:3])}{more}: expected finite scores and maps, got NaN or infinity; the model "
            "is damaged or did not train properly: fit it again."
        )


LARGEST_SIDE = 2**14
"""Largest image side in pixels; a larger value is a typing error or comes from a damaged file."""


def check_count(name: str, value: int, low: int, most: int) -> None:
    """Raise InputError for a number outside low..most; `most` catches typing errors and damaged files."""
    check_range(name, value, low)
    if value > most:
        raise InputError(f"{name}: expected at most {most}, got {value}.")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise InputError for NaN and for a number outside low..high, both included."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise InputError(f"{name}: expected {allowed}, got {value}.")


def check_chosen_channels(channels: Sequence[int]) -> None:
    """Raise InputError for a choice of channels that is no picture: neither none, one nor three."""
    if len(channels) not in (0, 1, 3) or min(channels, default=0) < 0:
        raise InputError(
            "channels: expected the numbers of one or three channels, counted from 0, such as 0 2 5, got "
            f"{' '.join(map(str, channels))}."
        )


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise InputError for a value that is not among `allowed`."""
    known = list(allowed)
    if value not in known:
        listed = ", ".join(name or "''" for name in known)
        raise InputError(f"{name}: expected one of {listed}, got {value!r}.")


def check_choices(config: Any, where: str = "") -> None:
    """Raise InputError for a field whose value is not listed in its Literal type.

    Args:
        config: a dataclass.
        where: prefix of the field's name in messages, such as "readout.".
    """
    kind: Any = type(config)
    for name, allowed in _choices_of(kind).items():
        check_choice(f"{where}{name}", getattr(config, name), allowed)


@cache
def _choices_of(kind: type) -> dict[str, tuple[str, ...]]:
    """The allowed values of every field with a Literal type."""
    hints = get_type_hints(kind).items()
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}
