import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mendiff.errors import InputError
from mendiff.evaluation.metrics import METRICS, TWIN_METRICS, summary
from mendiff.report.contents import CategoryReport, ImageRow, Report
from mendiff.report.gallery import SHOWN
from mendiff.report.html import write_report

EVIL = "\"'><script>alert(1)</script>&{{x}}$y$"
STYLE = Path(__file__).resolve().parents[2] / "src/mendiff/report/templates/style.css"


def one_of(images: list[ImageRow], **more: object) -> Report:
    return Report("t", "s", [CategoryReport("c", 0.5, images, **more)])


def many(row: Callable[..., ImageRow], count: int) -> list[ImageRow]:
    return [row(f"hole/{i}.png", "hole", i / count, mask=i % 2 == 0) for i in range(count)]


# One file, whole and alone.


def test_the_page_loads_nothing_from_elsewhere(page_of, report, tmp_path) -> None:
    page = page_of(report)

    for _, attrs in page.tags:
        for key in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert attrs.get(key, "data:").startswith(("data:", "#"))
    words = re.sub(r"data:image/webp;base64,[\w+/=]*", "", page.source)
    assert not re.search(r"https?:|@import|url\((?!#)|//[a-z]", words)
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_ids_are_unique_and_what_refers_to_them_finds_them(page_of, report, category) -> None:
    page = page_of(replace(report, categories=[category, replace(category, name="tile")]))

    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {
        word
        for _, attrs in page.tags
        for key in ("aria-labelledby", "aria-describedby", "for", "clip-path", "href")
        for word in re.sub(r"url\(#([^)]*)\)", r"#\1", attrs.get(key, "")).split()
        if key.startswith("aria") or word.startswith("#")
    }
    assert wanted
    assert {word.lstrip("#") for word in wanted} <= set(ids)


def test_names_are_text_and_never_markup(page_of, row) -> None:
    images = [row(EVIL, EVIL, 0.1, mask=True), *many(row, SHOWN + 1)]
    page = page_of(
        Report(EVIL, EVIL, [CategoryReport(EVIL, 0.5, images)], {"controls": {EVIL: {}}}, {EVIL: EVIL})
    )

    assert "<script>alert" not in page.source
    kinds = [attrs.get("type") for attrs in page.all("script")]
    assert kinds == [None, None, *["application/json"] * 2]
    assert EVIL in page.text
    assert [attrs["data-type"] for attrs in page.rows() if attrs["data-name"] == EVIL] == [EVIL]


def test_a_name_that_is_no_text_does_not_stop_the_page(page_of, row) -> None:
    page = page_of(one_of([row("good/\udcff.png", "good", 0.1)]))

    assert page.rows()[0]["data-name"] == "good/?.png"


@pytest.mark.parametrize("made", ["text", "folder", "no parent"])
def test_a_report_replaces_an_earlier_one_and_nothing_else(tmp_path, report, made) -> None:
    place = tmp_path / "report.html"
    write_report(place, report)
    write_report(place, replace(report, title="Another"))
    assert "Another" in place.read_text(encoding="utf-8")

    if made == "text":
        place.write_text("<html>my own page</html>")
    if made == "folder":
        place.unlink()
        place.mkdir()
    if made == "no parent":
        place = tmp_path / "nowhere" / "report.html"
    with pytest.raises(InputError, match=r"expected a (new )?(file|folder)"):
        write_report(place, report)
    assert made != "text" or place.read_text() == "<html>my own page</html>"


# The pictures.


def urls(page) -> list[str]:
    blocks = re.findall(r'<script type="application/json" id="pictures-\d+">(.*?)</script>', page.source)
    return [image["src"] for image in page.all("img") if "src" in image] + [
        url for block in blocks for url in json.loads(block).values()
    ]


def test_every_picture_of_every_image_is_in_the_page(page_of, row) -> None:
    images = many(row, SHOWN + 5)

    page = page_of(one_of(images))

    inside = {base64.b64decode(url.split(",", 1)[1]) for url in urls(page)}
    for image in images:
        own = image.pictures
        assert {own.input, own.reconstruction, own.heat} <= inside
        assert own.contour is None or own.contour in inside
    assert all(Image.open(io.BytesIO(data)).size == (30, 20) for data in inside)


def test_pictures_beyond_the_first_wait_in_json_under_their_rows_index(page_of, row) -> None:
    page = page_of(one_of(many(row, SHOWN + 5)))

    late = [attrs["data-index"] for attrs in page.rows() if "later" in attrs["class"].split()]
    assert late == [str(index) for index in range(SHOWN, SHOWN + 5)]
    assert [attrs["id"] for attrs in page.all("script") if "id" in attrs] == [f"pictures-{i}" for i in late]
    assert f"{SHOWN} of {SHOWN + 5} images are shown" in page.text


def test_few_images_are_all_shown_without_a_sentence(page_of, report) -> None:
    page = page_of(report)

    assert not [attrs for attrs in page.rows() if "later" in attrs["class"].split()]
    assert "images are shown" not in page.text


def test_every_picture_has_words_and_the_outline_none(page_of, report) -> None:
    page = page_of(report)

    alts = [image["alt"] for image in page.all("img")]
    kinds = ("input", "reconstruction", "heat map")
    for index in (0, 1):
        assert {f"good/{index}.png: {kind}" for kind in kinds} <= set(alts)
    assert "hole/0.png: marked" in alts
    outlines = [image for image in page.all("img", class_="over") if "src" in image]
    assert [image["alt"] for image in outlines] == ["", ""]  # two of the images have a mask
    assert "nothing to mark" in page.text
    assert "no mask" in page.text


# The rows.


def test_rows_carry_what_they_are_chosen_by_and_start_with_the_worst_errors(page_of, report) -> None:
    page = page_of(report)

    keys = ("data-name", "data-category", "data-type", "data-verdict", "data-score")
    assert [tuple(attrs[key] for key in keys) for attrs in page.rows()] == [
        ("hole/1.png", "0", "hole", "missed", "0.2"),
        ("hole/2.png", "0", "hole", "missed", "0.5"),
        ("good/1.png", "0", "good", "false alarm", "0.6"),
        ("hole/0.png", "0", "hole", "found", "0.9"),
        ("good/0.png", "0", "good", "passed", "0.1"),
    ]
    margins = [float(attrs["data-margin"]) for attrs in page.rows()]
    assert [margin > 0 for margin in margins] == [False, False, True, True, False]
    assert margins[1] == 0


def test_no_white_space_stands_between_rows(page_of, report) -> None:
    # Browsers take seconds to sort thousands of rows where there is.
    source = page_of(report).source
    inside = source[source.index('id="rows"') : source.index('id="empty"')]
    assert inside.count("</li><li") == 4
    assert not re.search(r"</li>\s+<", inside.replace("</li>\n  </ul>", ""))


def test_every_verdict_that_occurs_has_a_button_with_its_count(page_of, report) -> None:
    page = page_of(report)

    told = [attrs["data-verdict"] for attrs in page.all("button") if "data-verdict" in attrs]
    assert told == ["", "missed", "false alarm", "found", "passed"]
    assert "All 5 Missed 2 False alarms 1 Found 1 Passed 1" in page.text


def test_categories_and_kinds_can_be_chosen_where_there_are_several(page_of, report, category) -> None:
    choices = {attrs["data-choice"] for attrs in page_of(report).all("select")}
    assert choices == {"type", "sort"}

    several = page_of(replace(report, categories=[category, replace(category, name="tile")]))
    assert {attrs["data-choice"] for attrs in several.all("select")} == {"category", "type", "sort"}
    values = [attrs["value"] for attrs in several.all("option")]
    assert values == ["", "0", "1", "", "good", "hole", "errors", "-score", "score", "margin", "name"]


def test_the_orders_of_the_page_are_those_of_the_script(page_of, report) -> None:
    page = page_of(report)

    orders = re.search(r"const orders = \{(.*?)\};", page.source, re.DOTALL)[1]
    values = [attrs["value"] for attrs in page.all("option")][-5:]
    assert re.findall(r'"(\S+)":', orders) == values


@pytest.mark.parametrize("scores", [[0.0, 0.0], [-3.0, -1.0], [1e9, 2e9], [1e-3, 1.0, 1.1, 1.2, 900.0]])
def test_scores_of_any_size_and_sign_fit_their_bars(page_of, row, scores) -> None:
    page = page_of(one_of([row(f"{i}", "good", score) for i, score in enumerate(scores)]))

    widths = [float(a["style"][7:-1]) for a in page.all("span") if a.get("style", "").startswith("width")]
    assert len(widths) == len(scores)
    assert all(0 <= width <= 100 for width in widths)
    assert len(set(widths)) == len(set(scores))


def test_p_and_stop_step_are_explained_only_where_they_are_told(page_of, report, row) -> None:
    with_both, without = page_of(report).text, page_of(one_of([row("a", "good", 0.1)])).text

    assert "p = 0.8, stopped at step 300" in with_both
    assert "Stopped at" in with_both
    assert "p = " not in without
    assert "Stopped at" not in without


# Summary, metrics and kinds.


def test_the_summary_says_what_was_found_and_leads_to_the_errors(page_of, report) -> None:
    page = page_of(report)

    assert "Defects found 1 of 3 33\N{NO-BREAK SPACE}%".replace("\N{NO-BREAK SPACE}", " ") in page.text
    assert "Missed 2 show them False alarms 1 of 2 show them Image AUROC 0.750" in page.text
    assert page.all("a", href="#images", data_show_verdict="false alarm")


def test_the_metrics_are_told_with_a_dash_where_there_is_none(page_of, report) -> None:
    page = page_of(report)

    assert "flange 0.750 0.750 0.750 0.750 – 0.750 0.750 0.750 0.750 1 of 3 1 of 2" in page.text
    heads = page.all("th", scope="colgroup")
    assert [attrs["colspan"] for attrs in heads] == ["3", "6", "2"]


def test_a_metric_that_the_page_does_not_know_is_told_under_its_key(page_of, report, category) -> None:
    more = replace(category, metrics={**category.metrics, "pixel_new": 0.123})

    page = page_of(replace(report, categories=[more]))

    assert "Dice pixel new Defects found" in page.text
    assert "0.123" in page.text


def test_figures_against_clean_twins_have_a_group_of_columns_and_an_explanation(
    page_of, report, category
) -> None:
    more = replace(category, metrics={**category.metrics, **dict.fromkeys(TWIN_METRICS, 21.5), "new": 0.1})

    page = page_of(replace(report, categories=[more]))

    heads = page.all("th", scope="colgroup")
    assert [attrs["colspan"] for attrs in heads] == ["3", "7", "4", "2"]
    assert ["class" in attrs for attrs in heads] == [False, True, True, True]
    assert "Pixels Against the clean twin At the threshold" in page.text
    assert "Dice new PSNR inside PSNR outside Features inside Features outside" in page.text
    assert "The same photo of the same part without the defect" in page.text
    assert "lean twin" not in page_of(report).text


def test_several_categories_have_a_mean_a_pool_and_controls(page_of, report, category) -> None:
    per = {"a": dict.fromkeys(METRICS, 0.5), "b": dict.fromkeys(METRICS, 1.0)}
    categories = [replace(category, name=name, metrics=per[name]) for name in per]
    pooled = dict.fromkeys(METRICS, 0.625)
    controls = {"memory bank": summary({"a": dict.fromkeys(METRICS, 0.25)})}
    result = {**summary(per, pooled), "controls": controls}

    page = page_of(Report("t", "s", categories, result))

    assert "Mean of categories 0.750 0.750" in page.text
    assert "2 of 6 2 of 4" in page.text
    assert "All images pooled 0.625" in page.text
    assert "Baseline: memory bank 0.250" in page.text


def test_every_kind_of_defect_has_its_row_and_a_way_to_its_missed_images(page_of, report) -> None:
    page = page_of(report)

    assert "hole 3 1 2 33 % 0.533 good 2 1 false alarm (50 %) 0.35" in page.text
    link = page.all("a", data_show_type="hole")[0]
    assert (link["data-show-verdict"], link["data-show-category"]) == ("missed", "0")


def test_unlabelled_images_are_flagged_or_passed_without_metrics(page_of, row) -> None:
    page = page_of(one_of([row("a", None, 0.9), row("b", None, 0.1)]))

    assert [attrs["data-verdict"] for attrs in page.rows()] == ["flagged", "passed"]
    assert "1 of 2 images flagged" in page.text
    assert "AUROC" not in page.text


def test_a_category_without_images_says_so(page_of) -> None:
    page = page_of(one_of([]))

    assert "No images were tested." in page.text
    assert not page.all("svg")


# Plots and colours.


def test_the_page_has_the_plots_of_its_category_with_words_for_who_cannot_see_them(page_of, report) -> None:
    page = page_of(report)

    plots = page.all("svg", role="img")
    assert len(plots) == 7  # scores, five curves, stop steps
    titles = [attrs["id"] for attrs in page.all("title") if attrs.get("id", "").endswith("-title")]
    assert [attrs["aria-labelledby"] for attrs in plots] == titles
    assert "ROC, images of flange, AUROC 0.750" in page.text
    assert "2 of 5 images are above the threshold of 0.5." in page.text


def palettes() -> list[dict[str, str]]:
    """The style sheet's colours in the light and in the dark."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    return [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_and_lines_stand_out_in_the_light_and_in_the_dark() -> None:
    light, dark = palettes()
    assert light.keys() == dark.keys()
    text = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("ground", "panel")]
    text += [("alarm", "panel"), ("warn", "panel"), ("soft", "faint"), ("ink", "faint"), ("ground", "ink")]
    text += [(kind, f"{kind}-ground") for kind in ("alarm", "warn", "found")] + [("ink", "found-ground")]
    for colours in (light, dark):
        for ink, ground in text:
            assert contrast(colours[f"--{ink}"], colours[f"--{ground}"]) >= 4.5, (ink, ground)
        for drawn in ("good", "bad", "none", "accent"):
            assert contrast(colours[f"--{drawn}"], colours["--panel"]) >= 3, drawn


def test_dark_colours_are_for_screens_that_ask_for_them_and_never_for_paper(page_of, report) -> None:
    source = page_of(report).source

    assert "@media screen and (prefers-color-scheme: dark)" in source
    assert "@media print" in source
    assert "prefers-reduced-motion" in source
    light, _ = palettes()
    used = set(re.findall(r"var\((--[\w-]+)", source)) - {"--ratio", "--share"}
    assert used <= light.keys()


# ---- intermediate results ------------------------------------------------------------------------------


def test_strips_are_folded_away_with_words_and_their_pictures_inside(
    page_of, report, category, strips
) -> None:
    page = page_of(replace(report, categories=[replace(category, strips=strips)]))
    assert "Intermediate results of selected images" in page.text
    assert "Found hole/0.png" in page.text
    assert "good/<0>.png" in page.text
    shown = [
        image for image in page.all("img", loading="lazy") if image["alt"].endswith("intermediate results")
    ]
    assert [(image["width"], image["height"]) for image in shown] == [("50", "20")] * 2
    assert all(image["src"].startswith("data:image/webp;base64,") for image in shown)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {"strip-0-0", "strip-0-1"} <= ids
    assert not [
        attrs for attrs in page.all("details") if "open" in attrs and "category" not in attrs["class"]
    ]


def test_a_report_without_strips_does_not_speak_of_them(page_of, report) -> None:
    assert "Intermediate results" not in page_of(report).text
