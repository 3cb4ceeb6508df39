"""Intermediate results of predictions: a strip of pictures for each model, stacked vertically."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw

from mendiff.data.images import Heat, colour_heat, draw_contour, normalise_heat, overlay, to_picture
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.report.pictures import thumbnail_size
from mendiff.report.plots import number
from mendiff.report.text import font, line_height, wrapped
from mendiff.types import Panel, Trace

GROUND, INK, SOFT, DECIDED, LINE = "#ffffff", "#1f2326", "#5d6468", "#a81d16", "#c9cbc6"
WIDTH = 1800
"""Maximum width of a strip in pixels. Further columns are wrapped."""
FEWEST = 4
"""Minimum number of columns side by side, whatever their width."""
SMALLEST_TEXT, LARGEST_TEXT = 11, 18
BAR = 6
"""Height of a colour scale in pixels."""


@dataclass(frozen=True)
class Explanation:
    """The intermediate results of a model's prediction for an image.

    Attributes:
        title: title of its strip: method, preset, folder.
        verdict: verdict in words.
        trace: intermediate results.
        threshold: score threshold.
        heat: (threshold, floor) of the anomaly map's colours; see `normalise_heat`.
    """

    title: str
    verdict: str
    trace: Trace
    threshold: float
    heat: tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """The colour scale of a map.

    Attributes:
        low: value without colour.
        high: value of full colour.
        limit: threshold of the map's score, if any.
        clear: whether the lowest values are transparent.
    """

    low: float
    high: float
    limit: float | None = None
    clear: bool = False

    def heat(self, values: Heat) -> Heat:
        """Scale values (H,W) to [0,1] for drawing."""
        return normalise_heat(values, (self.low + self.high) / 2, self.low)


@dataclass(frozen=True)
class Cell:
    """A picture of a strip with its texts.

    Attributes:
        stage: heading of the column.
        caption: text below the picture.
        picture: (h,w,3) uint8.
        score: the score as text; empty for none.
        note: decision of the method at this step.
        scale: colour scale of a map.
    """

    stage: str
    caption: str
    picture: Picture
    score: str = ""
    note: str = ""
    scale: Scale | None = None


@dataclass
class Sheet:
    """A picture with text.

    Args:
        width, height: in pixels.
        size: font size in pixels.
    """

    width: int
    height: int
    size: int
    image: Image.Image = field(init=False)
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), GROUND)
        self.draw = ImageDraw.Draw(self.image)

    def write(self, x: int, y: int, lines: Iterable[str], colour: str = INK, bold: bool = False) -> int:
        """Write lines below each other; returns the y of the next line."""
        for line in lines:
            self.draw.text((x, y), line, colour, font(self.size, bold))
            y += line_height(self.size)
        return y


def draw_explanations(
    picture: Picture,
    explanations: Sequence[Explanation],
    side: int,
    title: str = "",
    mask: Mask | None = None,
    width: int = WIDTH,
) -> Picture:
    """Draw the strips of an image, one per model, stacked vertically, as (H,W,3) uint8.

    Args:
        picture: the image, (H,W,3) uint8.
        explanations: one per model.
        side: longer side of each picture in pixels.
        title: heading; empty for none.
        mask: the true defect, (H,W) bool of any size, if known.
        width: approximate maximum width of the strips in pixels.
    """
    size = thumbnail_size(picture.shape[0], picture.shape[1], side)
    text = min(max(SMALLEST_TEXT, round(side / 12)), LARGEST_TEXT)
    shown = _fitted(picture, size)
    most = max(FEWEST, (width - text) // (size[0] + text))
    strips = [
        _strip(explanation, _cells(explanation, shown, mask, size), size, text, most)
        for explanation in explanations
    ]
    if title:
        strips.insert(0, _heading(title, max(strip.shape[1] for strip in strips), text))
    widest = max(strip.shape[1] for strip in strips)
    wide = [_widened(strip, widest) for strip in strips]
    for strip in wide[1:]:
        strip[0] = tuple(bytes.fromhex(LINE[1:]))
    return np.concatenate(wide)


def describe(panel: Panel) -> dict[str, object]:
    """The texts and numbers of a panel as plain data, without its picture."""
    return {
        "stage": panel.stage,
        "caption": panel.caption,
        "t": panel.t,
        "score": panel.score,
        "limit": panel.limit,
        "span": list(panel.span) if len(panel.pixels) == 1 else None,
        "note": panel.note or None,
    }


# ---- cells -------------------------------------------------------------------------------------------


def _cells(explanation: Explanation, shown: Picture, mask: Mask | None, size: tuple[int, int]) -> list[Cell]:
    """The image, the intermediate results and the final results, in this order."""
    first = [Cell("image", "input", shown)]
    if mask is not None and mask.any():
        known = _fitted(mask.astype(np.uint8) * 255, size) > 127
        first.append(Cell("image", "true defect", draw_contour(shown, known)))
    found = explanation.trace.found
    limit, floor = explanation.heat
    scale = Scale(floor, 2 * limit - floor, clear=True)
    heat = scale.heat(_fitted(found.anomaly_map[0, 0].numpy(), size))
    score = f"score {compared(float(found.score), explanation.threshold)}"
    last = [
        Cell("result", "reconstruction", _fitted(to_picture(found.reconstruction[0]), size)),
        Cell("result", "anomaly map", overlay(shown, heat), score, scale=scale),
    ]
    return [*first, *(_cell(panel, size) for panel in explanation.trace.panels), *last]


def _cell(panel: Panel, size: tuple[int, int]) -> Cell:
    score = "" if panel.score is None else f"score {compared(panel.score, panel.limit)}"
    if len(panel.pixels) == 3:
        picture = _fitted(to_picture(panel.pixels), size)
        return Cell(panel.stage, panel.caption, picture, score, panel.note)
    scale = Scale(*panel.span, panel.limit)
    picture = colour_heat(scale.heat(_fitted(panel.pixels[0].numpy(), size)))
    return Cell(panel.stage, panel.caption, picture, score, panel.note, scale)


def compared(score: float, limit: float | None) -> str:
    """A score compared with its limit, as text."""
    if limit is None:
        return number(score)
    return f"{number(score)} {'>' if score > limit else '≤'} {number(limit)}"


def _fitted(picture: Picture | Heat, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture, or a map of float values, to (width, height)."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    smooth = Image.Resampling.BICUBIC if picture.dtype == np.uint8 else Image.Resampling.BILINEAR
    values = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
    return np.asarray(Image.fromarray(values).resize(size, smooth))


# ---- drawing -----------------------------------------------------------------------------------------


def _heading(title: str, width: int, text: int) -> Picture:
    lines = wrapped(title, width - 2 * text, text + 2, bold=True)
    sheet = Sheet(width, text + line_height(text + 2) * len(lines), text + 2)
    sheet.write(text, text // 2, lines, bold=True)
    return np.asarray(sheet.image).copy()


def _strip(
    explanation: Explanation, cells: Sequence[Cell], size: tuple[int, int], text: int, most: int
) -> Picture:
    """Draw a model's strip: title, verdict and below them its columns, at most `most` side by side."""
    columns = [list(cells) for _, cells in groupby(cells, lambda cell: cell.stage)]
    bands = math.ceil(len(columns) / most)
    each = math.ceil(len(columns) / bands)
    width = text + each * (size[0] + text)
    drawn = [
        _band(columns[first : first + each], width, size, text) for first in range(0, len(columns), each)
    ]
    titles = wrapped(explanation.title, width - 2 * text, text, bold=True)
    verdicts = wrapped(explanation.verdict, width - 2 * text, text)
    top = Sheet(width, text + line_height(text) * (len(titles) + len(verdicts)), text)
    below = top.write(text, text // 2, titles, bold=True)
    top.write(text, below, verdicts, SOFT)
    return np.concatenate([np.asarray(top.image).copy(), *drawn])


def _band(columns: Sequence[Sequence[Cell]], width: int, size: tuple[int, int], text: int) -> Picture:
    """Draw columns side by side, with the pictures of each row aligned."""
    heads = [wrapped(column[0].stage, size[0], text, bold=True) for column in columns]
    line = line_height(text)
    rows = [[column[row] for column in columns if row < len(column)] for row in range(max(map(len, columns)))]
    heights = [max(_words_height(cell, size, text) for cell in row) + size[1] + text // 2 for row in rows]
    head = line * max(map(len, heads)) + text // 4
    sheet = Sheet(width, head + sum(heights) + text // 2, text)
    for place, column in enumerate(columns):
        x, y = text + place * (size[0] + text), head
        sheet.write(x, 0, heads[place], bold=True)
        for cell, height in zip(column, heights, strict=False):
            _write_cell(sheet, cell, x, y)
            y += height
    return np.asarray(sheet.image).copy()


def _words(cell: Cell, width: int, text: int) -> list[tuple[str, str]]:
    """The lines of text below a picture, each with its colour."""
    parts = ((cell.caption, INK), (cell.score, SOFT), (cell.note, DECIDED))
    return [(line, colour) for words, colour in parts for line in wrapped(words, width, text)]


def _words_height(cell: Cell, size: tuple[int, int], text: int) -> int:
    lines = len(_words(cell, size[0], text)) + (cell.scale is not None)
    return lines * line_height(text) + (BAR + 2 if cell.scale else 0)


def _write_cell(sheet: Sheet, cell: Cell, x: int, y: int) -> None:
    height, width = cell.picture.shape[:2]
    sheet.image.paste(Image.fromarray(cell.picture), (x, y))
    y += height + 1
    if cell.scale is not None:
        y = _write_scale(sheet, cell.scale, x, y + 1, width)
    for line, colour in _words(cell, width, sheet.size):
        y = sheet.write(x, y, [line], colour)


def _write_scale(sheet: Sheet, scale: Scale, x: int, y: int, width: int) -> int:
    """Draw a colour bar with its end values and a tick at the limit; returns the y below it."""
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (BAR, 1))
    below = np.full((BAR, width, 3), 190, dtype=np.uint8)
    sheet.image.paste(Image.fromarray(overlay(below, ramp) if scale.clear else colour_heat(ramp)), (x, y))
    if scale.limit is not None and scale.high > scale.low:
        at = x + round((width - 1) * (scale.limit - scale.low) / (scale.high - scale.low))
        sheet.draw.line((at, y - 1, at, y + BAR + 2), INK, 1)
    low, high = number(scale.low), number(scale.high)
    small = max(SMALLEST_TEXT - 1, sheet.size - 2)
    sheet.draw.text((x, y + BAR), low, SOFT, font(small))
    right = x + width - round(font(small).getlength(high))
    sheet.draw.text((right, y + BAR), high, SOFT, font(small))
    return y + BAR + line_height(sheet.size)


def _widened(picture: Picture, width: int) -> Picture:
    extra = width - picture.shape[1]
    return np.pad(picture, ((0, 0), (0, extra), (0, 0)), constant_values=255)
