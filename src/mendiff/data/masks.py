"""Ground-truth masks as (H,W) bool arrays, whatever they were drawn with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.reading import as_upright, opened, orientation_of

Mask: TypeAlias = npt.NDArray[np.bool_]
MOST_CLASSES = 32
"""Values up to this are numbers of classes, never levels of grey."""
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
FEW_LEVELS = 2
NEAR = 2
MOST_LOOKED_AT = 100_000


def read_mask(path: str | Path) -> Mask:
    """Read a ground-truth mask as (H,W) bool, upright.

    Anything above 0 is anomalous, class ids and palettes included. Only where values rise to the brightest in
    steps at the edges of regions, as soft brushes, resizing and JPEG leave them, half of the brightest is the
    limit; otherwise such a mask would grow. In a palette image whose entry 0 is black, every other index is
    anomalous whatever its colour (class ids often come with a meaningless palette); otherwise every colour
    but black is. Transparent pixels are not anomalous; where all colours are black and only transparency
    differs, what is opaque is anomalous. Raises InputError, naming the file, when it can't be read.
    """
    path = Path(path)
    with opened(path) as image:
        orientation = 1 if image.format == "TIFF" else orientation_of(image, path)  # Pillow turns a TIFF
        image.load()
        levels, lossy = _levels(image), image.format in LOSSY
    return np.ascontiguousarray(as_upright(_marked(levels, lossy), orientation))


def _levels(image: Image.Image) -> npt.NDArray[Any]:
    """How strongly every pixel is marked, (H,W), 0 for not at all."""
    if image.mode == "P" and not image.has_transparency_data:
        palette = np.asarray(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        if not palette[0].any() and not _is_grey_scale(image, palette):
            return np.asarray(image)
        image = image.convert("RGB")
    elif image.mode not in ("1", "L", "I", "F", "RGB") and not image.mode.startswith("I;16"):
        image = image.convert("RGBA")
    values = np.asarray(image)
    if values.ndim == 2:
        return values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values
    colours = values[..., :3].max(axis=2)
    if values.shape[2] == 3:
        return np.asarray(colours)
    alpha = values[..., 3]
    if alpha.min() == 255:
        return np.asarray(colours)
    if not colours.any() and alpha.min() < alpha.max():  # ink in the alpha channel alone
        return np.asarray(alpha)
    return np.asarray(colours * (alpha / 255.0))


def _is_grey_scale(image: Image.Image, palette: npt.NDArray[Any]) -> bool:
    """Whether the colours that a palette image uses are greys, each another: levels, and no class ids."""
    used = palette[[index for index in np.unique(np.asarray(image)) if index < len(palette)]]
    return bool((used == used[:, :1]).all()) and len(np.unique(used[:, 0])) == len(used) > 2


def _marked(levels: npt.NDArray[Any], lossy: bool) -> Mask:
    """Above 0, or above half of the highest level where most lower ones lie on slopes between others.

    Args:
        levels: (H,W), 0 for not anomalous.
        lossy: whether the file may have changed levels; flat ones too, then.
    """
    marked = np.asarray(levels > 0)
    high = float(levels.max(initial=0))
    whole = np.issubdtype(levels.dtype, np.integer)
    if whole and high <= MOST_CLASSES:
        return marked
    upper = np.asarray(levels > high / 2)
    low = marked & ~upper
    if not low.any():
        return marked
    changed = lossy and len(np.unique(levels[low])) > FEW_LEVELS
    return upper if changed or _on_slopes(levels, low) else marked


def _on_slopes(levels: npt.NDArray[Any], low: Mask) -> bool:
    """Whether most of some pixels have both a higher and a lower one at most two pixels away.

    Regions of one class are flat inside, and thin ones have nothing higher beside them.
    """
    places = np.flatnonzero(low)
    rows, columns = np.unravel_index(places[:: 1 + len(places) // MOST_LOOKED_AT], levels.shape)
    padded = np.pad(levels, NEAR, mode="edge")
    here = levels[rows, columns]
    above, below = np.zeros(len(here), bool), np.zeros(len(here), bool)
    for down in range(2 * NEAR + 1):
        for right in range(2 * NEAR + 1):
            there = padded[rows + down, columns + right]
            above |= there > here
            below |= there < here
    return bool((above & below).mean() > 0.5)
