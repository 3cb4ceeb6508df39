"""Renders matplotlib figures as <svg> elements in the colours and font of the page."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib needs numeric colours; each of these is replaced by a CSS variable of the style sheet.
INK, SOFT, LINE, GOOD, BAD, NONE, ACCENT, PANEL = (f"#0000{number:02d}" for number in range(1, 9))
VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, GOOD, BAD, NONE, ACCENT, PANEL),
        ("--ink", "--soft", "--line", "--good", "--bad", "--none", "--accent", "--panel"),
        strict=True,
    )
)
GROUPS = {"good": GOOD, "defective": BAD, "unlabelled": NONE}

# One drawing unit is one pixel on a page that is wide enough for three plots in a row.
WIDTH, HEIGHT, DOTS_PER_INCH = 350, 250, 72
LEFT, RIGHT, BOTTOM, TOP = 58, 20, 42, 24
"""Margins around the axes. They are equal in all plots, so that the axes are aligned; the legend is above."""

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
        axes: matplotlib axes to draw on.
        hints: tooltips by the artist's gid.
        svg: the finished element, set when the `with` block of `plot` ends.
    """

    axes: "Axes"
    hints: dict[str, str] = field(default_factory=dict)
    svg: str = ""


@contextmanager
def plot(identity: str, title: str, description: str) -> Iterator[Plot]:
    """Context manager that yields a plot to draw on.

    Args:
        identity: unique prefix of the element ids in the page.
        title: title for screen readers.
        description: description for screen readers.
    """
    # Imported here because importing matplotlib takes a second.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {**STYLE, "svg.hashsalt": identity}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's settings
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
    """Remove what would affect the rest of the page: namespaces, fonts, style rules and shared ids."""
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith(("}style", "}metadata"))]:
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
    """Add a title and a description for screen readers."""
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{identity}-title")
    root.set("aria-describedby", f"{identity}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{identity}-{tag}"})
        element.text = text
        root.insert(place, element)
