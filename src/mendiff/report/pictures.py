"""Thumbnails, small enough for a page with thousands of images."""

import math

import numpy as np
from PIL import Image

from mendiff.data.images import Heat, encode, outline, overlay
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.report.contents import Pictures

LARGE, SMALL = 320, 192
MANY = 200
QUALITY = 80
CONTOUR, RIM = (0, 230, 210, 255), (0, 0, 0, 170)


def thumbnail_side(images: int) -> int:
    """Longest side of the thumbnails, given the number of images: from `LARGE` (up to `MANY`) to `SMALL`.

    In between, the thumbnail area falls with the number of images, so the file size stays about constant.
    """
    return max(SMALL, min(LARGE, round(LARGE * math.sqrt(MANY / max(images, 1)))))


def thumbnail_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(width, height) with the given aspect ratio, the longer side being `side`."""
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def make_pictures(
    image: Picture, reconstruction: Picture, heat: Heat, mask: Mask | None, size: tuple[int, int]
) -> Pictures:
    """Resize the pictures of an image to a common size and encode them.

    Args:
        image: (H,W,3) uint8.
        reconstruction: (H,W,3) uint8; reconstruction, heat and mask may have other sizes than the image.
        heat: (H,W) in [0,1], 0.5 = the threshold (`mendiff.data.images.normalise_heat`).
        mask: (H,W) bool, or None if unknown.
        size: (width, height) of the results.
    """
    shown = _fit(image, size)
    warmth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    return Pictures(
        size,
        _lossy(shown),
        _lossy(_fit(reconstruction, size)),
        _lossy(overlay(shown, warmth)),
        None if mask is None or not mask.any() else _contour(mask, size),
    )


def _fit(picture: Picture, size: tuple[int, int]) -> Picture:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _lossy(picture: Picture) -> bytes:
    return encode(picture, "WEBP", quality=QUALITY, method=3)


def _contour(mask: Mask, size: tuple[int, int]) -> bytes:
    # Area averaging, so that a defect thinner than a pixel of the thumbnail is still outlined.
    covered = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    line, rim = outline(np.asarray(covered) > 0)
    drawn = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    drawn[rim] = RIM
    drawn[line] = CONTOUR
    return encode(drawn, "WEBP", lossless=True, method=3)
