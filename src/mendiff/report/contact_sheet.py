"""Draws images with a line of text below each, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from mendiff.data.reading import Picture
from mendiff.report.strips import Sheet
from mendiff.report.text import line_height, wrapped

SIDE, GAP, SIZE = 200, 12, 13
COLUMNS = 4
MARK = "#c2371f"


@dataclass(frozen=True)
class Entry:
    """An image on a contact sheet.

    Attributes:
        picture: (H,W,3) uint8, of any size.
        text: below the image.
        marked: whether it has a frame.
    """

    picture: Picture
    text: str
    marked: bool


def contact_sheet(title: str, entries: Sequence[Entry]) -> Picture:
    """Draw images in rows of COLUMNS below a title, as (H,W,3) uint8."""
    columns = min(COLUMNS, max(1, len(entries)))
    width = max(columns, 2) * (SIDE + GAP) + GAP
    lines = wrapped(title, width - 2 * GAP, SIZE + 2, bold=True)
    head = 2 * GAP + len(lines) * line_height(SIZE + 2)
    texts = [wrapped(entry.text, SIDE, SIZE, bold=entry.marked) for entry in entries]
    tall = SIDE + GAP // 2 + line_height(SIZE) * max((len(text) for text in texts), default=0) + GAP
    sheet = Sheet(width, head + -(-len(entries) // columns) * tall + GAP, SIZE)
    sheet.size = SIZE + 2
    sheet.write(GAP, GAP, lines, bold=True)
    sheet.size = SIZE
    for number, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        x, y = GAP + number % columns * (SIDE + GAP), head + number // columns * tall
        image = ImageOps.contain(Image.fromarray(entry.picture), (SIDE, SIDE))
        left, top = x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2
        sheet.image.paste(image, (left, top))
        if entry.marked:
            box = (left - 3, top - 3, left + image.width + 2, top + image.height + 2)
            sheet.draw.rectangle(box, outline=MARK, width=3)
        sheet.write(x, y + SIDE + GAP // 2, text, bold=entry.marked)
    return np.asarray(sheet.image)
