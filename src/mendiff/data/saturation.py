"""Reads from which area each type of defect counts as found, as published with MVTec LOCO AD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mendiff.data.json_text import from_json
from mendiff.data.opening import opened
from mendiff.data.samples import Saturation
from mendiff.errors import InputError

FILE = "defects_config.json"
FIELDS = ("pixel_value", "saturation_threshold", "relative_saturation")


def read_saturations(folder: Path) -> tuple[Saturation, ...]:
    """The entries of a category's defects_config.json; none without the file.

    Source: MVTec LOCO AD, a list of {"defect_name", "pixel_value", "saturation_threshold",
    "relative_saturation"}: pixels with that value belong to the defect, and the threshold is an area in
    pixels, or a share of the defect's area. Raises InputError for another content.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        entries = from_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected JSON, but it can't be read ({reason}).") from error
    if not isinstance(entries, list) or not all(_is_valid(entry) for entry in entries):
        raise InputError(
            f"{path}: expected a list of objects with {', '.join(FIELDS)}; use the published file."
        )
    values = [[entry[name] for name in FIELDS] for entry in entries]
    return tuple(Saturation(int(value), float(area), bool(relative)) for value, area, relative in values)


def saturated_share(mask: Path, area: int, saturations: Sequence[Saturation]) -> float:
    """Share of a defect's pixels that must be found for it to count as found.

    Args:
        mask: picture of a single defect.
        area: of the defect in pixels of the picture.
        saturations: of the category; 1 for pixel values without an entry.
    """
    with opened(mask) as image:
        value = int(np.asarray(image).max())
    known = {one.value: one for one in saturations}
    if value not in known or not area:
        return 1.0
    return min(known[value].area if known[value].relative else known[value].area / area, 1.0)


def _is_valid(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(name in entry for name in FIELDS):
        return False
    value, area, relative = (entry[name] for name in FIELDS)
    numbers = isinstance(value, int) and isinstance(area, int | float) and isinstance(relative, bool)
    return numbers and 0 < value < 256 and area > 0 and (not relative or area <= 1)
