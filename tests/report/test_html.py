import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.evaluation.metrics import METRICS, summary
from mendiff.report.html import LONGEST_SIDE, CategoryReport, ImageRow, Report, write_report


class Page(HTMLParser):
    """Collects the start tags and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        found = [attrs for name, attrs in self.tags if name == tag]
        return [attrs for attrs in found if having.items() <= attrs.items()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def row(name: str, label: str | None, score: float, **more: object) -> ImageRow:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    values = {"image": picture, "reconstruction": picture[:10, :10], "heat": np.zeros((16, 16)), **more}
    return ImageRow(name, label, score, **values)


def rows() -> list[ImageRow]:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:10] = True
    return [
        row("good/0.png", "good", 0.1, p_value=0.8, stop_step=300),
        row("good/1.png", "good", 0.6),
        row("hole/0.png", "hole", 0.9, mask=mask),
        row("hole/1.png", "hole", 0.2, mask=mask),
        row("hole/2.png", "hole", 0.5),
    ]


def page_of(tmp_path: Path, report: Report) -> Page:
    write_report(tmp_path / "report.html", report)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def report_of(images: list[ImageRow], **more: object) -> Report:
    metrics = {**dict.fromkeys(METRICS, 0.75), "pixel_ap": None}
    category = CategoryReport("flange", 0.5, images, metrics)
    return Report("A title", "a subtitle", [category], summary({"flange": metrics}), **more)


def test_the_file_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for _, attrs in page.tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(key, "data:").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_each_image_shows_its_pictures_decodable_of_one_size_and_with_words(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    pictures = page.all("img")
    assert len(pictures) == 5 * 3 + 2  # input, mended, difference, and two masks
    assert all(p["alt"] for p in pictures)
    for picture in pictures:
        data = base64.b64decode(picture["src"].split(",", 1)[1])
        assert Image.open(io.BytesIO(data)).size == (30, 20)


def test_a_large_image_is_shown_smaller_in_its_proportions(tmp_path: Path) -> None:
    large = row("a", "good", 0.1, image=np.zeros((1000, 500, 3), dtype=np.uint8))

    page = page_of(tmp_path, report_of([large]))

    assert {(p["width"], p["height"]) for p in page.all("img")} == {
        (str(LONGEST_SIDE // 2), str(LONGEST_SIDE))
    }


def test_rows_carry_group_verdict_and_score_and_start_with_the_highest(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    told = [
        (r["data-name"], r["data-group"], r["data-verdict"], float(r["data-score"]))
        for r in page.all("li", **{"class": "row"})
    ]
    assert told == [
        ("hole/0.png", "defective", "found", 0.9),
        ("good/1.png", "good", "false alarm", 0.6),
        ("hole/2.png", "defective", "missed", 0.5),
        ("hole/1.png", "defective", "missed", 0.2),
        ("good/0.png", "good", "passed", 0.1),
    ]


def test_every_filter_of_the_script_has_a_button_with_its_count(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    assert [b["data-filter"] for b in page.all("button")] == [
        "all",
        "missed",
        "false alarm",
        "defective",
        "good",
    ]
    assert "All 5 Missed 2 False alarms 1 Defective 3 Good 2" in page.text


def test_the_metrics_are_told_with_a_dash_where_there_is_none(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    assert "flange 0.750 0.750 0.750 0.750 – 0.750 0.750 1 of 3 1 of 2" in page.text


def test_several_categories_have_a_mean(tmp_path: Path) -> None:
    per = {"a": dict.fromkeys(METRICS, 0.5), "b": dict.fromkeys(METRICS, 1.0)}
    categories = [CategoryReport(name, 0.5, rows(), per[name]) for name in per]

    page = page_of(tmp_path, Report("t", "s", categories, summary(per)))

    assert "Mean 0.750 0.750" in page.text


def test_the_threshold_stands_at_the_same_share_in_histogram_and_bars(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of(rows()))

    share = 0.5 / (0.9 * 1.04)
    (limit,) = page.all("line", **{"class": "limit"})
    assert float(limit["x1"]) == pytest.approx(1000 * share, abs=0.1)
    assert {b["style"] for b in page.all("b")} == {f"left: {100 * share:.1f}%"}


def test_the_bars_of_the_histogram_count_every_image(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report_of(rows()))

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    told = re.findall(r"<title>(\d+) (good|defective|unlabelled), score", text)
    assert sum(int(n) for n, group in told if group == "good") == 2
    assert sum(int(n) for n, group in told if group == "defective") == 3


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    page = page_of(tmp_path, report_of([row(evil, evil, 0.1)], model_info={evil: evil}))

    assert len(page.all("script")) == 1
    assert evil in page.text


def test_p_and_stop_step_are_explained_only_where_they_are_told(tmp_path: Path) -> None:
    with_both = page_of(tmp_path, report_of(rows())).text
    without = page_of(tmp_path, report_of(rows()[1:])).text

    assert "p = 0.8" in with_both
    assert "stopped at step 300" in with_both
    assert "Stopped at" in with_both
    assert "p = " not in without
    assert "Stopped at" not in without


def test_unlabelled_images_are_flagged_or_passed_without_metrics(tmp_path: Path) -> None:
    images = [row("a", None, 0.9), row("b", None, 0.1)]

    page = page_of(tmp_path, Report("t", "s", [CategoryReport("parts", 0.5, images)]))

    assert [r["data-verdict"] for r in page.all("li", **{"class": "row"})] == ["flagged", "passed"]
    assert "1 of 2 images flagged" in page.text
    assert "AUROC" not in page.text


@pytest.mark.parametrize("scores", [[0.0, 0.0], [-3.0, -1.0], [1e9, 2e9]])
def test_scores_of_any_size_and_sign_fit_their_bars(tmp_path: Path, scores: list[float]) -> None:
    images = [row(f"{i}", "good", score) for i, score in enumerate(scores)]

    page = page_of(tmp_path, Report("t", "s", [CategoryReport("c", 0.0, images)]))

    widths = [float(s["style"][len("width: ") : -1]) for s in page.all("span") if "style" in s]
    assert len(widths) == 2
    assert all(0 <= w <= 100 for w in widths)


def test_a_category_without_images_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, report_of([]))

    assert "No images were tested." in page.text
    assert not page.all("svg")
