"""A matplotlib figure as an <svg> element inside a page, in the page's own colours and font."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib needs colours with numbers; each of these stands for a variable of the style sheet.
INK, SOFT, LINE, GOOD, BAD, NONE, ACCENT, PANEL = (f"#0000{number:02d}" for number in range(1, 9))
VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, GOOD, BAD, NONE, ACCENT, PANEL),
        ("--ink", "--soft", "--line", "--good", "--bad", "--none", "--accent", "--panel"),
        strict=True,
    )
)
GROUPS = {"good": GOOD, "defective": BAD, "unlabelled": NONE}

# One unit of the drawing is one pixel of a page wide enough for three plots in a row.
WIDTH, HEIGHT, DOTS_PER_INCH = 350, 250, 72
LEFT, RIGHT, BOTTOM, TOP = 58, 20, 42, 24
"""Margins around the axes, alike in all plots so that they stand in line; a legend finds room above."""

STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "xtick.labelsize": 10.5,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
    "ytick.labelsize": 10.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 11,
}


@dataclass
class Plot:
    """A plot that is being drawn.

    Attributes:
        axes: matplotlib's, to draw on.
        hints: by an artist's gid, the words that show when the pointer rests on it.
        svg: the finished element, once the block that draws has ended.
    """

    axes: "Axes"
    hints: dict[str, str] = field(default_factory=dict)
    svg: str = ""


@contextmanager
def plot(identity: str, title: str, description: str) -> Iterator[Plot]:
    """A plot to draw on inside the block.

    Args:
        identity: unlike any other element's id in the page.
        title: what is shown, for screen readers.
        description: what can be seen there, for screen readers.
    """
    # Imported here: matplotlib takes a second.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {**STYLE, "svg.hashsalt": identity}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(settings)
        inches = (WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH)
        figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor="none")
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        drawn = Plot(figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT)))
        yield drawn
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, identity, drawn.hints)
    _name(root, identity, title, description)
    text = re.sub(r"\s*\n\s*", " ", ElementTree.tostring(root, encoding="unicode"))
    drawn.svg = re.sub(r"#0000\d\d\b", lambda found: f"var({VARIABLES[found[0]]})", text)


def _clean(root: ElementTree.Element, identity: str, hints: Mapping[str, str]) -> None:
    """Take off what would reach outside the drawing: namespaces, fonts, style rules, ids that others have."""
    for parent in root.iter():
        for child in [one for one in parent if one.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
    linked = set(re.findall(r'(?:href="|url\()#([\w-]+)', ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        hint = hints.get(element.get("id", ""))
        for key, value in list(element.items()):
            del element.attrib[key]
            if key != "id" or value in linked:
                element.set(key.rpartition("}")[2], _own(key, value, identity))
        if hint:
            ElementTree.SubElement(element, "title").text = hint


def _own(key: str, value: str, identity: str) -> str:
    if key == "id":
        return f"{identity}-{value}"
    if key == "style":
        return re.sub(r"\s*font-family:[^;]*;?", "", value)
    return re.sub(r"^#|(?<=url\()#", f"#{identity}-", value)


def _name(root: ElementTree.Element, identity: str, title: str, description: str) -> None:
    """Give the drawing a title and a description that screen readers find."""
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{identity}-title")
    root.set("aria-describedby", f"{identity}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{identity}-{tag}"})
        element.text = text
        root.insert(place, element)
