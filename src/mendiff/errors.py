"""The one error that users cause."""


class InputError(ValueError):
    """Bad input, told in one sentence: what, expected, got, what to do.

    The command line prints the sentence without a traceback and ends with exit code 2.
    """
