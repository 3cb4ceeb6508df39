"""Reads ground-truth masks of any format, and polygons, as (H,W) bool arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.opening import opened, orientation_of
from mendiff.data.pixels import as_upright
from mendiff.data.polygons import SUFFIX, annotated_size, read_annotation
from mendiff.data.reading import image_size, read_header
from mendiff.data.samples import Sample
from mendiff.errors import InputError

Mask: TypeAlias = npt.NDArray[np.bool_]
MOST_CLASSES = 32
"""Values up to this are class ids and never grey levels."""
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
FEW_LEVELS = 2
NEAR = 2
MOST_SAMPLED = 100_000


def read_masks(sample: Sample) -> Mask:
    """The union of the masks of a test image, (H,W) bool; InputError if one can't be read."""
    first, *others = (read_any_mask(mask, sample.path) for mask in sample.masks)
    for mask, path in zip(others, sample.further_masks, strict=True):
        if mask.shape != first.shape:
            (height, width), (tall, wide) = mask.shape, first.shape
            raise InputError(
                f"{path}: masks of an image must have the same size, {wide}x{tall}, got {width}x{height}."
            )
        first |= mask
    return ~first if sample.inverted else first


def read_any_mask(path: Path, image: Path) -> Mask:
    """Read a mask picture, or the polygons of an image from a JSON file."""
    return read_annotation(path, image) if path.suffix.lower() == SUFFIX else read_mask(path)


def mask_size(path: Path, image: Path) -> tuple[int, int]:
    """(H,W) of a mask of an image, from its header; InputError if it can't be read."""
    return annotated_size(path, image) if path.suffix.lower() == SUFFIX else image_size(path)


def is_turned(path: Path) -> bool:
    """Whether a mask was drawn on the upright photo: annotations, and pictures with an EXIF orientation."""
    return path.suffix.lower() == SUFFIX or read_header(path).orientation != 1


def read_mask(path: str | Path) -> Mask:
    """Read a ground-truth mask as (H,W) bool, upright.

    Values above 0 are anomalous, including class ids. If the edges of regions are soft, as after resizing,
    JPEG compression or soft brushes, the limit is half of the maximum; otherwise the mask would grow. In a
    palette image whose entry 0 is black, every other index is anomalous whatever its colour, because palettes
    of class ids are often arbitrary; in other palette images every colour but black is. Transparent pixels
    are not anomalous; if all colours are black and only transparency differs, opaque pixels are anomalous.
    Raises InputError, naming the file, if it can't be read.
    """
    path = Path(path)
    with opened(path) as image:
        orientation = 1 if image.format == "TIFF" else orientation_of(image, path)  # Pillow rotates a TIFF
        image.load()
        levels, lossy = _levels(image), image.format in LOSSY
    return np.ascontiguousarray(as_upright(_marked(levels, lossy), orientation))


def _levels(image: Image.Image) -> npt.NDArray[Any]:
    """Level of every pixel, (H,W); 0 is not anomalous."""
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
    if not colours.any() and alpha.min() < alpha.max():  # drawn in the alpha channel only
        return np.asarray(alpha)
    return np.asarray(colours * (alpha / 255.0))


def _is_grey_scale(image: Image.Image, palette: npt.NDArray[Any]) -> bool:
    """Whether a palette image uses distinct greys only: then they are levels and no class ids."""
    used = palette[[index for index in np.unique(np.asarray(image)) if index < len(palette)]]
    return bool((used == used[:, :1]).all()) and len(np.unique(used[:, 0])) == len(used) > 2


def _marked(levels: npt.NDArray[Any], lossy: bool) -> Mask:
    """Pixels above 0, or above half of the maximum if most lower pixels are on soft edges.

    Args:
        levels: (H,W), 0 for not anomalous.
        lossy: whether compression may have changed levels, also in flat regions.
    """
    marked = np.asarray(levels > 0)
    high = float(levels.max(initial=0))
    integers = np.issubdtype(levels.dtype, np.integer)
    if integers and high <= MOST_CLASSES:
        return marked
    upper = np.asarray(levels > high / 2)
    low = marked & ~upper
    if not low.any():
        return marked
    changed = lossy and len(np.unique(levels[low])) > FEW_LEVELS
    return upper if changed or _on_slopes(levels, low) else marked


def _on_slopes(levels: npt.NDArray[Any], low: Mask) -> bool:
    """Whether most of the given pixels have both a higher and a lower pixel at most NEAR pixels away.

    Regions of a class are flat, and thin regions have no higher neighbours.
    """
    indices = np.flatnonzero(low)
    rows, columns = np.unravel_index(indices[:: 1 + len(indices) // MOST_SAMPLED], levels.shape)
    padded = np.pad(levels, NEAR, mode="edge")
    centre = levels[rows, columns]
    above, below = np.zeros(len(centre), bool), np.zeros(len(centre), bool)
    for down in range(2 * NEAR + 1):
        for right in range(2 * NEAR + 1):
            neighbour = padded[rows + down, columns + right]
            above |= neighbour > centre
            below |= neighbour < centre
    return bool((above & below).mean() > 0.5)
