"""`mendiff fit --from`: go on from a fitted model with good images of new variants."""

from __future__ import annotations

from mendiff.data.dataset import Category, open_data
from mendiff.errors import InputError
from mendiff.runs.start import Start, joined, read_start
from mendiff.workflows.options import FitOptions

KEPT = (
    *("method", "preset", "features", "features_weights", "features_input", "image_size", "statistics"),
    *("balance", "pretrained", "prompt", "codec", "resize", "tile", "tile_overlap", "region", "ignore"),
    *("bit_depth", "channels"),
)
"""Options whose values the model determines."""
TRAINING = "training."
"""Prefix of the settings that may change."""


def data_of(options: FitOptions) -> tuple[Start | None, list[Category]]:
    """The model to go on from, if there is one, and the categories of all images.

    Raises InputError for options that the model determines, and for missing old images.
    """
    new = open_data(options.data, options.layout)
    if options.from_model is None:
        if options.old is not None:
            raise InputError("--old: expected --from with it, the model that was fitted to these images.")
        return None, new
    _check_kept(options)
    if options.old is None:
        raise InputError(
            f"--from: expected --old with the good images from which {options.from_model} was fitted, got "
            "none; a model does not contain its images, and statistics and thresholds are computed again "
            "from old and new ones."
        )
    old = open_data(options.old, options.layout)
    start = read_start(options.from_model, old, trains=options.steps != 0)
    return start, joined(old, new)


def _check_kept(options: FitOptions) -> None:
    """Raise InputError for options that the model determines."""
    for name in KEPT:
        if getattr(options, name) != FitOptions.__dataclass_fields__[name].default:
            raise InputError(
                f"--{name.replace('_', '-')}: expected no value with --from, which keeps that of the model; "
                "omit it."
            )
    other = next((name for name in options.settings if not name.startswith(TRAINING)), None)
    if other is not None:
        raise InputError(
            f"--set {other}: expected a field of training with --from, which keeps all others; omit it."
        )
