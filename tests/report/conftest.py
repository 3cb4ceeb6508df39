"""Reports to test with, and the page that is made of one."""

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mendiff.data.images import encode
from mendiff.evaluation.metrics import METRICS, summary
from mendiff.report.contents import CategoryReport, ImageRow, Report, Strip, TypeRow
from mendiff.report.html import write_report
from mendiff.report.pictures import make_pictures
from mendiff.report.plots import Figure

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Collects the start tags and the visible text of a page; raises where tags are not balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        names = [key for key, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>: {names}"
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        assert "svg" in self.open, f"<{tag}/> outside of a drawing"
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop() == tag, f"line {self.getpos()[0]}: </{tag}>"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in having.items()}
        found = [attrs for name, attrs in self.tags if name == tag]
        return [attrs for attrs in found if wanted.items() <= attrs.items()]

    def rows(self) -> list[dict[str, str]]:
        return [attrs for attrs in self.all("li") if "row" in attrs.get("class", "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(autouse=True, scope="session")
def drawn_once() -> Iterator[None]:
    """Pages of the same category share its plots: to draw them takes most of a page's time."""
    from mendiff.report import html

    drawn: dict[str, list[Figure]] = {}

    def plots(category: CategoryReport, identity: str) -> list[Figure]:
        key = repr((category, identity))
        if key not in drawn:
            drawn[key] = draw(category, identity)
        return drawn[key]

    draw = html.plots
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "plots", plots)
        yield


@pytest.fixture
def row() -> Callable[..., ImageRow]:
    """(name, label, score, mask=..., size=..., further fields) to an image of 30 x 20 pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)

    def make(
        name: str, label: str | None, score: float, mask: bool = False, size=(30, 20), **more
    ) -> ImageRow:
        marked = np.zeros((20, 30), dtype=bool)
        marked[5:10, 5:10] = mask
        pictures = make_pictures(picture, picture[:10, :10], np.full((16, 16), 0.4), marked, size)
        return ImageRow(name, label, score, pictures, **more)

    return make


@pytest.fixture
def images(row: Callable[..., ImageRow]) -> list[ImageRow]:
    """Two good images and three defective ones; at a threshold of 0.5 one of each verdict, two missed."""
    return [
        row("good/0.png", "good", 0.1, p_value=0.8, stop_step=300),
        row("good/1.png", "good", 0.6, stop_step=500),
        row("hole/0.png", "hole", 0.9, mask=True, stop_step=300),
        row("hole/1.png", "hole", 0.2, mask=True),
        row("hole/2.png", "hole", 0.5),
    ]


@pytest.fixture
def strips() -> list[Strip]:
    """The ways to two verdicts."""
    picture = encode(np.full((20, 50, 3), 200, dtype=np.uint8), "WEBP")
    return [Strip("hole/0.png", "Found", (50, 20), picture), Strip("good/<0>.png", "Good", (50, 20), picture)]


@pytest.fixture
def category(images: list[ImageRow]) -> CategoryReport:
    """These images with metrics, every curve, and the rows of their kinds."""
    line = [(0.0, 0.0), (0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)]
    names = ("image_roc", "image_pr", "pixel_roc", "pixel_pr")
    return CategoryReport(
        "flange",
        0.5,
        images,
        {**dict.fromkeys(METRICS, 0.75), "pixel_ap": None},
        {**dict.fromkeys(names, line), "pro": [(0.0, 0.1), (0.3, 0.8)]},
        [TypeRow("good", 2, 1, 0.5, 0.35), TypeRow("hole", 3, 1, 1 / 3, 1.6 / 3)],
    )


@pytest.fixture
def report(category: CategoryReport) -> Report:
    """A report of one category."""
    result = summary({"flange": dict(category.metrics)})
    return Report("A title", "a subtitle", [category], result, {"preset": "tiny", "seed": 3})


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[Report], Page]:
    """Writes a report and reads the page."""

    def make(report: Report) -> Page:
        write_report(tmp_path / "report.html", report)
        return Page(tmp_path / "report.html")

    return make
