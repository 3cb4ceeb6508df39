"""The one error that users cause."""

import math


class InputError(ValueError):
    """Bad input, told in one sentence: what, expected, got, what to do.

    The command line prints the sentence without a traceback and ends with exit code 2.
    """


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside low..high, both included, and NaN."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise InputError(f"{name}: expected {allowed}, got {value}.")
