"""How methods came to their findings on one image: a strip of pictures for each, one under another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mendiff.data.images import Heat, colour_heat, draw_contour, normalise_heat, overlay, to_picture
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.report.pictures import thumbnail_size
from mendiff.report.plots import number
from mendiff.types import Panel, Trace

GROUND, INK, SOFT, DECIDED, LINE = "#ffffff", "#1f2326", "#5d6468", "#a81d16", "#c9cbc6"
WIDTH = 1800
"""So wide a strip becomes at most, in pixels, before its columns go on below."""
FEWEST = 4
"""Columns that stand side by side, however wide they are."""
SMALLEST_TEXT, LARGEST_TEXT = 11, 18
NO_BREAK = "\N{NO-BREAK SPACE}"
BAR = 6
"""Height of a colour scale in pixels."""


@dataclass(frozen=True)
class Way:
    """How one model came to its finding on an image.

    Attributes:
        title: of its strip: method, preset, folder.
        verdict: in words.
        trace: of the image.
        threshold: of its scores.
        heat: (threshold, floor) that its map is drawn by; see `normalise_heat`.
    """

    title: str
    verdict: str
    trace: Trace
    threshold: float
    heat: tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """The colours of a map.

    Attributes:
        low: value without colour.
        high: value of full colour.
        limit: what the map's score is compared with, if anything.
        clear: whether the lowest values show what is below.
    """

    low: float
    high: float
    limit: float | None = None
    clear: bool = False

    def heat(self, values: Heat) -> Heat:
        """Values (H,W) in [0,1] for drawing."""
        return normalise_heat(values, (self.low + self.high) / 2, self.low)


@dataclass(frozen=True)
class Cell:
    """One picture of a strip with its words.

    Attributes:
        stage: heads the column.
        caption: below the picture.
        picture: (h,w,3) uint8.
        told: the score, in words; empty for none.
        note: what was decided.
        scale: of a map.
    """

    stage: str
    caption: str
    picture: Picture
    told: str = ""
    note: str = ""
    scale: Scale | None = None


@dataclass
class Sheet:
    """A picture that words are written on.

    Args:
        width, height: in pixels.
        size: of the text.
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
        """Write lines below each other; gives where the next would stand."""
        for line in lines:
            self.draw.text((x, y), line, colour, font(self.size, bold))
            y += line_height(self.size)
        return y


def draw_ways(
    picture: Picture,
    ways: Sequence[Way],
    side: int,
    title: str = "",
    mask: Mask | None = None,
    width: int = WIDTH,
) -> Picture:
    """The strips of an image, (H,W,3) uint8: one for every model, one under another.

    Args:
        picture: the image, (H,W,3) uint8.
        ways: of the models.
        side: of the single pictures, the longer one, in pixels.
        title: above all; empty for none.
        mask: of the true defect, (H,W) bool of any size, where it is known.
        width: about which strips become at most, in pixels.
    """
    size = thumbnail_size(picture.shape[0], picture.shape[1], side)
    text = min(max(SMALLEST_TEXT, round(side / 12)), LARGEST_TEXT)
    shown = _fitted(picture, size)
    most = max(FEWEST, (width - text) // (size[0] + text))
    strips = [_strip(way, _cells(way, shown, mask, size), size, text, most) for way in ways]
    if title:
        strips.insert(0, _heading(title, max(one.shape[1] for one in strips), text))
    widest = max(one.shape[1] for one in strips)
    wide = [_widened(one, widest) for one in strips]
    for one in wide[1:]:
        one[0] = tuple(bytes.fromhex(LINE[1:]))
    return np.concatenate(wide)


def describe(panel: Panel) -> dict[str, object]:
    """What a panel says without its picture, as plain data."""
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


def _cells(way: Way, shown: Picture, mask: Mask | None, size: tuple[int, int]) -> list[Cell]:
    """The image, the way, and what was found, in this order."""
    first = [Cell("image", "input", shown)]
    if mask is not None and mask.any():
        known = _fitted(mask.astype(np.uint8) * 255, size) > 127
        first.append(Cell("image", "true defect", draw_contour(shown, known)))
    found = way.trace.found
    limit, floor = way.heat
    scale = Scale(floor, 2 * limit - floor, clear=True)
    heat = scale.heat(_fitted(found.anomaly_map[0, 0].numpy(), size))
    told = f"score {compared(float(found.score), way.threshold)}"
    last = [
        Cell("result", "reconstruction", _fitted(to_picture(found.reconstruction[0]), size)),
        Cell("result", "anomaly map", overlay(shown, heat), told, scale=scale),
    ]
    return [*first, *(_cell(one, size) for one in way.trace.panels), *last]


def _cell(panel: Panel, size: tuple[int, int]) -> Cell:
    told = "" if panel.score is None else f"score {compared(panel.score, panel.limit)}"
    if len(panel.pixels) == 3:
        picture = _fitted(to_picture(panel.pixels), size)
        return Cell(panel.stage, panel.caption, picture, told, panel.note)
    scale = Scale(*panel.span, panel.limit)
    picture = colour_heat(scale.heat(_fitted(panel.pixels[0].numpy(), size)))
    return Cell(panel.stage, panel.caption, picture, told, panel.note, scale)


def compared(score: float, limit: float | None) -> str:
    """A score and how it stands to its limit, in words."""
    if limit is None:
        return number(score)
    return f"{number(score)} {'>' if score > limit else '≤'} {number(limit)}"


def _fitted(picture: Picture | Heat, size: tuple[int, int]) -> np.ndarray:
    """A picture, or a map of float values, at a size (width, height)."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    smooth = Image.Resampling.BICUBIC if picture.dtype == np.uint8 else Image.Resampling.BILINEAR
    values = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
    return np.asarray(Image.fromarray(values).resize(size, smooth))


# ---- drawing -----------------------------------------------------------------------------------------


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, which knows the letters of most names."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = str(Path(mpl.get_data_path()) / "fonts/ttf" / name)
    # The other layout is not on every machine, and fails for some names of files.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def line_height(size: int) -> int:
    """Of text."""
    return round(size * 1.35)


def wrapped(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """Text in lines of at most a width in pixels; a longer word is cut, and figures stay with their signs.

    Names of files may hold what is no text: it is replaced.
    """
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    kept = re.sub(" = |(?<=[≤>]) ", lambda part: part[0].replace(" ", NO_BREAK), shown)
    lines: list[str] = []
    for word in filter(None, kept.split(" ")):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font(size, bold).getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [_cut(line, width, size, bold) for line in lines]


def _cut(line: str, width: int, size: int, bold: bool) -> str:
    if font(size, bold).getlength(line) <= width:
        return line
    while len(line) > 1 and font(size, bold).getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def _heading(title: str, width: int, text: int) -> Picture:
    lines = wrapped(title, width - 2 * text, text + 2, bold=True)
    sheet = Sheet(width, text + line_height(text + 2) * len(lines), text + 2)
    sheet.write(text, text // 2, lines, bold=True)
    return np.asarray(sheet.image).copy()


def _strip(way: Way, cells: Sequence[Cell], size: tuple[int, int], text: int, most: int) -> Picture:
    """A model's strip: title and verdict, and below them its columns, at most so many side by side."""
    columns = [list(cells) for _, cells in groupby(cells, lambda cell: cell.stage)]
    bands = math.ceil(len(columns) / most)
    each = math.ceil(len(columns) / bands)
    width = text + each * (size[0] + text)
    drawn = [
        _band(columns[first : first + each], width, size, text) for first in range(0, len(columns), each)
    ]
    titles = wrapped(way.title, width - 2 * text, text, bold=True)
    verdicts = wrapped(way.verdict, width - 2 * text, text)
    top = Sheet(width, text + line_height(text) * (len(titles) + len(verdicts)), text)
    below = top.write(text, text // 2, titles, bold=True)
    top.write(text, below, verdicts, SOFT)
    return np.concatenate([np.asarray(top.image).copy(), *drawn])


def _band(columns: Sequence[Sequence[Cell]], width: int, size: tuple[int, int], text: int) -> Picture:
    """Columns side by side, the pictures of their rows on one level."""
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
    """The lines below a picture, each with its colour."""
    parts = ((cell.caption, INK), (cell.told, SOFT), (cell.note, DECIDED))
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
    """A bar of a map's colours with the values at its ends, and a tick at the limit; gives where it ends."""
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
