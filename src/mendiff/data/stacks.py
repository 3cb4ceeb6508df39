"""Reads files of any number of channels: TIFF, also with a page for each channel, and NPY."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mendiff.data.high_depth import open_tiff
from mendiff.data.opening import ARRAY, check_channels, check_pixels, legal, starts_as_tiff
from mendiff.errors import InputError


@dataclass(frozen=True)
class Stack:
    """The channels of a file.

    Attributes:
        values: (H,W,C) as stored.
        orientation: EXIF's, 1 to 8.
        declared: maximum of the bit depth that the file declares; 0 for none.
    """

    values: npt.NDArray[Any]
    orientation: int = 1
    declared: int = 0


def is_stack(path: Path, channels: Sequence[int]) -> bool:
    """Whether a file is read here: NPY, and TIFF if channels are chosen."""
    return path.suffix.lower() == ARRAY or bool(channels and starts_as_tiff(path))


def read_stack(path: Path, channels: Sequence[int]) -> Stack:
    """Read the chosen channels of a file, all of them if none are chosen.

    Channels of a TIFF are numbered page by page. Raises InputError for a file that can't be read, and for a
    file without these channels.
    """
    found = array_stack(path) if path.suffix.lower() == ARRAY else _tiff_stack(path)
    if not channels:
        check_channels(path, found.values.shape[2], (1, 3, 4))
    values = np.asarray(chosen(found.values, channels, path) if channels else found.values)
    values = values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values
    return Stack(values, found.orientation, found.declared)


def chosen(values: npt.NDArray[Any], channels: Sequence[int], source: str | Path) -> npt.NDArray[Any]:
    """The chosen channels of (H,W,C) values; InputError, naming the source, if one is missing."""
    count = values.shape[2]
    if max(channels) >= count:
        has = "1 channel" if count == 1 else f"{count} channels"
        raise InputError(
            f"{source}: expected channel {max(channels)}, counted from 0, got an image of {has}; give other "
            "--channels or another image."
        )
    return values[..., list(channels)]


def array_stack(path: Path) -> Stack:
    """The values of an NPY file (H,W), (H,W,C) or (C,H,W), not yet read from the disk.

    Of three axes, the shorter one of the first and the last counts the channels.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path.") from error
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an NPY file that can be read; replace or remove it.") from error
    if values.size == 0 or values.ndim not in (2, 3) or values.dtype.kind not in "uifb":
        raise InputError(
            f"{path}: expected an array (H,W), (H,W,C) or (C,H,W) of integers or floats, got "
            f"{values.dtype} {values.shape}; save one image per file."
        )
    values = values[..., None] if values.ndim == 2 else values
    values = np.moveaxis(values, 0, -1) if values.shape[0] < values.shape[2] else values
    check_pixels(path, (values.shape[1], values.shape[0]))
    return Stack(values)


def _tiff_stack(path: Path) -> Stack:
    with open_tiff(path) as file:
        page: Any = file.pages.first
        check_pixels(path, (page.imagewidth, page.imagelength))
        first = file.series[0]
        alike = [one for one in file.series if (one.shape, one.dtype) == (first.shape, first.dtype)]
        values = np.concatenate([_channels_last(one.asarray(), one.axes) for one in alike], axis=-1)
        if values.dtype.kind not in "uifb":
            raise ValueError(f"values of type {values.dtype}")
        bits, orientation = page.bitspersample, page.tags.valueof("Orientation", 1)
        declared = 2**bits - 1 if 8 < bits < 16 else 0
        return Stack(values, legal(orientation), declared)


def _channels_last(values: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Values with named axes such as CYX as (H,W,C)."""
    values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
    return values.reshape(*values.shape[:2], -1)
