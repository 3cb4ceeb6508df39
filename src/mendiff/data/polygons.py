"""Reads annotations of labelme and COCO as masks.

Sources: labelme's label_file.py and utils/shape.py (one file per image, "shapes" with points in pixels) and
the COCO data format (cocodataset.org: "images", "annotations" with polygons, run lengths or boxes). In both,
the pixel in column x covers x to x + 1, and images are upright.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mendiff.data.json_text import parse_json
from mendiff.data.names import same_name
from mendiff.data.opening import check_pixels
from mendiff.data.reading import image_size
from mendiff.errors import InputError

Mask: TypeAlias = npt.NDArray[np.bool_]
Points: TypeAlias = list[tuple[float, float]]
SUFFIX = ".json"
MOST_FILES = 16
"""Parsed files that are kept: a COCO file is read for each of its images."""
LINES = ("line", "linestrip")


def is_annotation(path: Path) -> bool:
    """Whether a file is a labelme or COCO file, by its content."""
    try:
        content = _content(path)
    except InputError:
        return False
    return isinstance(content.get("shapes"), list) or _is_coco(content)


def annotates(path: Path, image: Path) -> bool:
    """Whether a labelme or COCO file describes an image."""
    try:
        content = _content(path)
    except InputError:
        return False
    if isinstance(content.get("shapes"), list):
        return same_name(path.stem) == same_name(image.stem)
    return _is_coco(content) and _record(content, image) is not None


def annotated_size(path: Path, image: Path) -> tuple[int, int]:
    """(H,W) of the annotated image according to the file; the image's own size if it has none."""
    content = _content(path)
    record = content if isinstance(content.get("shapes"), list) else _record_of(path, content, image)
    names = ("imageHeight", "imageWidth") if record is content else ("height", "width")
    sides = [record.get(name) for name in names]
    if sides == [None, None]:
        return image_size(image)
    height, width = (_whole(side, f"{path}: the size of {image.name}") for side in sides)
    check_pixels(path, (width, height))
    return height, width


def read_annotation(path: Path, image: Path) -> Mask:
    """Draw the regions that a labelme or COCO file lists for an image, as (H,W) bool.

    Raises InputError, naming the file, if it is damaged or does not list the image.
    """
    content = _content(path)
    mask = np.zeros(annotated_size(path, image), np.bool_)
    if isinstance(content.get("shapes"), list):
        for shape in content["shapes"]:
            _draw_shape(mask, shape, f"{path}: a shape")
        return mask
    record = _record_of(path, content, image)
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and annotation.get("image_id") == record.get("id"):
            _draw_annotation(mask, annotation, f"{path}: annotation {annotation.get('id')}")
    return mask


# ---- files -------------------------------------------------------------------------------------------


def _content(path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"{path}: the annotations can't be read ({error.strerror}).") from error


@lru_cache(MOST_FILES)
def _parsed(path: Path, modified: int, size: int) -> dict[str, Any]:
    return parse_json(path.read_bytes(), str(path))


def _is_coco(content: dict[str, Any]) -> bool:
    return isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list)


def _record(content: dict[str, Any], image: Path) -> dict[str, Any] | None:
    """The entry of an image in a COCO file; its listed path may have more or fewer folders."""
    found = None
    for record in content["images"]:
        name = record.get("file_name") if isinstance(record, dict) else None
        if isinstance(name, str) and same_name(Path(name).name) == same_name(image.name):
            if image.as_posix().endswith(f"/{Path(name).as_posix()}"):
                return dict(record)
            found = found or dict(record)
    return found


def _record_of(path: Path, content: dict[str, Any], image: Path) -> dict[str, Any]:
    record = _record(content, image) if _is_coco(content) else None
    if record is None:
        raise InputError(f"{path}: expected annotations of {image.name} by labelme or COCO, found none.")
    return record


# ---- drawing -----------------------------------------------------------------------------------------


def _draw_shape(mask: Mask, shape: Any, what: str) -> None:
    """Mark a shape of labelme: polygon, rectangle, circle, line, points or mask."""
    if not isinstance(shape, dict):
        raise InputError(f"{what}: expected an object, got a {type(shape).__name__}.")
    points = _points(shape.get("points"), what)
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon" and len(points) > 2:
        _fill(mask, points)
    elif kind == "rectangle" and len(points) == 2:
        _fill_box(mask, points[0], points[1])
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        turns = (2 * math.pi * step / 90 for step in range(90))
        _fill(
            mask, [(points[0][0] + radius * math.cos(t), points[0][1] + radius * math.sin(t)) for t in turns]
        )
    elif kind in LINES and len(points) > 1:
        _line(mask, points)
    elif kind in ("point", "points") and points:
        for point in points:
            _line(mask, [point, point])
    elif kind == "mask" and len(points) == 2:
        _paste(mask, shape.get("mask"), points[0], what)
    else:
        raise InputError(f"{what}: expected a polygon, got {kind!r} of {len(points)} points; draw it again.")


def _draw_annotation(mask: Mask, annotation: dict[str, Any], what: str) -> None:
    """Mark the region of a COCO annotation: polygons, run lengths, or else its box."""
    regions = annotation.get("segmentation")
    if isinstance(regions, dict):
        mask |= _from_runs(regions, mask.shape, what)
    elif isinstance(regions, list) and regions:
        for flat in regions:
            if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2:
                raise InputError(
                    f"{what}: expected a polygon x1, y1, x2, y2, x3, y3, ..., got something else."
                )
            _fill(mask, _points([flat[at : at + 2] for at in range(0, len(flat), 2)], what))
    else:
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise InputError(f"{what}: expected a segmentation or a bbox, got neither.")
        (left, top), (width, height) = _points([box[:2], box[2:]], what)
        _fill_box(mask, (left, top), (left + width, top + height))


def _points(values: Any, what: str) -> Points:
    points = []
    for value in values if isinstance(values, list) else ():
        if not isinstance(value, list) or len(value) != 2 or not all(_is_number(one) for one in value):
            raise InputError(f"{what}: expected points [x, y], got something else.")
        # Pillow can't draw beyond 32 bits; regions end at the image's edges anyway.
        points.append((min(max(value[0], -1e6), 1e6), min(max(value[1], -1e6), 1e6)))
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any, what: str) -> int:
    if not _is_number(value) or value != int(value) or not 0 < value < 2**31:
        raise InputError(f"{what}: expected a positive whole number, got {str(value)[:20]}.")
    return int(value)


def _fill(mask: Mask, points: Points) -> None:
    """Mark the pixels whose centres lie in a polygon, by the even-odd rule; its outline if there are none."""
    corners = np.array(points)
    left, top = (max(0, int(low) - 1) for low in corners.min(0))
    right, bottom = (min(s, int(high) + 2) for s, high in zip(mask.shape[::-1], corners.max(0), strict=True))
    if left >= right or top >= bottom:
        return
    # A centre is inside if an odd number of edges lies to its left.
    crossings = np.zeros((bottom - top, right - left + 1), np.int32)
    centres = np.arange(top, bottom) + 0.5
    for (x, y), (end_x, end_y) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.flatnonzero((centres >= min(y, end_y)) & (centres < max(y, end_y)))
        at = x + (centres[rows] - y) * ((end_x - x) / (end_y - y) if len(rows) else 0)
        columns = np.clip(np.ceil(at - 0.5 - left), 0, right - left).astype(np.int64)
        np.add.at(crossings, (rows, columns), 1)
    inside = crossings[:, :-1].cumsum(1) % 2 == 1
    if inside.any():
        mask[top:bottom, left:right] |= inside
    else:
        _line(mask, [*points, points[0]])


def _line(mask: Mask, points: Points) -> None:
    """Mark the pixels on a line; only the part of the mask around it is drawn."""
    corners = np.array(points)
    left, top = (max(0, int(low) - 1) for low in corners.min(0))
    right, bottom = (min(s, int(high) + 2) for s, high in zip(mask.shape[::-1], corners.max(0), strict=True))
    if left < right and top < bottom:
        drawn = Image.new("1", (right - left, bottom - top))
        pixels = [(math.floor(x) - left, math.floor(y) - top) for x, y in points]
        ImageDraw.Draw(drawn).line(pixels, fill=1)
        ImageDraw.Draw(drawn).point(pixels, fill=1)
        mask[top:bottom, left:right] |= np.asarray(drawn)


def _fill_box(mask: Mask, first: tuple[float, float], last: tuple[float, float]) -> None:
    """Mark the pixels whose centres lie in a box; at least one."""
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(first, last, strict=True))
    row, column = max(0, round(top)), max(0, round(left))
    mask[row : max(row + 1, round(bottom)), column : max(column + 1, round(right))] = True


def _paste(mask: Mask, encoded: Any, corner: tuple[float, float], what: str) -> None:
    """Mark the pixels of labelme's shape "mask", a PNG in base64, from its upper left corner."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(encoded), validate=True)), formats=("PNG",)) as image:
            check_pixels(Path(what), image.size)
            values = np.asarray(image.convert("L")) > 0
    except InputError:
        raise
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{what}: expected a mask as PNG in base64, but it is damaged.") from error
    row, column = max(0, round(corner[1])), max(0, round(corner[0]))
    part = mask[row : row + values.shape[0], column : column + values.shape[1]]
    part |= values[: part.shape[0], : part.shape[1]]


# ---- run lengths -------------------------------------------------------------------------------------


def _from_runs(regions: dict[str, Any], shape: tuple[int, ...], what: str) -> Mask:
    """COCO's run lengths, down the columns, beginning with zeros: numbers or a compressed text."""
    counts = regions.get("counts")
    if regions.get("size") != list(shape):
        raise InputError(f"{what}: expected run lengths of {list(shape)}, got {regions.get('size')}.")
    runs: Sequence[Any] = list(_decompressed(counts)) if isinstance(counts, str) else counts or ()
    total = shape[0] * shape[1]
    if not isinstance(runs, list) or not all(isinstance(run, int) and 0 <= run <= total for run in runs):
        raise InputError(f"{what}: expected run lengths of at least 0, got something else.")
    if sum(runs) != total:
        raise InputError(f"{what}: expected run lengths of {total} pixels, got {sum(runs)}.")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(values.reshape(shape[::-1]).T)


def _decompressed(text: str) -> Iterator[int]:
    """Run lengths of a compressed text: 5 bits per letter, differences to the run before the last one.

    Source: rleFrString in maskApi.c of the COCO API.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        yield runs[-1]
        value = shift = 0
