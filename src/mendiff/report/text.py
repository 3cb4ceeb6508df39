"""Text in pictures: its font, and lines of a maximum width."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import ImageFont

NO_BREAK = "\N{NO-BREAK SPACE}"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font shipped with matplotlib, which covers the characters of most names."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = str(Path(mpl.get_data_path()) / "fonts/ttf" / name)
    # The other layout engine is not installed everywhere and fails for some file names.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def line_height(size: int) -> int:
    """Height of a line of text in pixels."""
    return round(size * 1.35)


def wrapped(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """Wrap text into lines of a maximum width in pixels.

    Words that are too long are cut. Numbers stay on the line of their comparison sign. Unprintable characters
    in file names are replaced.
    """
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
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
