import csv
import io

import pytest

from mendiff.calibration import Calibration
from mendiff.evaluation.metrics import METRICS, TWIN_METRICS
from mendiff.evaluation.operating import decisions
from mendiff.evaluation.tables import (
    SHOWN,
    as_csv,
    as_latex,
    as_markdown,
    costs_as_markdown,
    decisions_as_markdown,
    figures,
    groups,
)


def result(label, seed, categories, pooled=None):
    metrics = {
        name: dict.fromkeys(METRICS) | {"image_auroc": value, "pixel_auroc": value / 2}
        for name, value in categories.items()
    }
    facts = {"fit_seconds": 10.0, "images_per_second": 2.0, "peak_gb": 1.5}
    return {"label": label, "seed": seed, "categories": metrics, "pooled": pooled, **facts}


def value(found, label, category, metric="image_auroc"):
    return next(one for one in found if (one.label, one.category, one.metric) == (label, category, metric))


def test_means_and_deviations_are_over_seeds_and_the_mean_row_is_over_categories_first():
    results = [
        result("a", 0, {"nut": 0.8}),
        result("a", 0, {"bolt": 0.6}),
        result("a", 1, {"nut": 0.9}),
        result("a", 1, {"bolt": 0.9}),
    ]

    found = figures(results)

    assert value(found, "a", "nut").value == pytest.approx(0.85)
    assert value(found, "a", "nut").deviation == pytest.approx(0.0707, abs=1e-4)
    assert value(found, "a", "mean").value == pytest.approx(0.8)
    assert value(found, "a", "mean").deviation == pytest.approx(0.1414, abs=1e-4)
    assert value(found, "a", "mean").seeds == 2


def test_a_seed_that_lacks_a_category_does_not_enter_the_mean():
    results = [
        result("a", 0, {"nut": 0.8}),
        result("a", 0, {"bolt": 0.6}),
        result("a", 1, {"nut": 0.1}),
    ]

    found = value(figures(results), "a", "mean")

    assert (found.value, found.seeds) == (pytest.approx(0.7), 1)


def test_a_metric_that_the_data_cannot_tell_is_not_available_and_never_a_number():
    found = figures([result("a", 0, {"nut": 0.8})])

    assert value(found, "a", "nut", "pixel_ap").value is None
    assert "0.800 / 0.400 / n/a / n/a" in as_markdown(found)
    assert "nan" not in as_csv(found).lower()


def test_a_papers_figure_stands_beside_with_the_difference():
    found = figures([result("a", 0, {"nut": 0.8})], {"a": {"nut": {"image_auroc": 0.95}}})

    assert value(found, "a", "nut").difference == pytest.approx(-0.15)
    assert "0.800 (paper 0.950, -0.150) / 0.400" in as_markdown(found)


def test_csv_has_a_line_per_figure():
    found = figures([result("a", 0, {"nut": 0.8}), result("b, with comma", 0, {"nut": 0.7})])

    lines = list(csv.DictReader(io.StringIO(as_csv(found))))

    assert len(lines) == len(found) == 2 * len(METRICS)
    assert [one["label"] for one in lines] == ["a"] * len(METRICS) + ["b, with comma"] * len(METRICS)
    assert float(lines[0]["value"]) == 0.8


def test_latex_escapes_what_latex_would_read():
    text = as_latex(figures([result("a_b & 5 %", 0, {"metal_nut": 0.8})]))

    assert r"a\_b \& 5 \%" in text
    assert r"metal\_nut" in text
    assert text.count(r"\\") == 2


def test_figures_against_clean_twins_are_told_where_any_row_has_them():
    mended, other = result("a", 0, {"nut": 0.8, "bolt": 0.6}), result("control", 0, {"nut": 0.7, "bolt": 0.5})
    for name, psnr in (("nut", 30.0), ("bolt", 20.0)):
        mended["categories"][name] |= dict.fromkeys(TWIN_METRICS, 0.25) | {"twin_psnr_inside": psnr}

    found = figures([mended, other])

    assert groups(found) == [SHOWN, TWIN_METRICS]
    assert value(found, "a", "mean", "twin_psnr_inside").value == 25.0
    assert value(found, "control", "nut", "twin_psnr_inside").value is None
    text = as_markdown(found, TWIN_METRICS)
    assert "twin PSNR inside / twin PSNR outside / twin features inside" in text
    assert "| a | 30.000 / 0.250 / 0.250 / 0.250 | 20.000" in text
    assert "| control | n/a / n/a / n/a / n/a |" in text


def test_results_without_twins_have_the_columns_that_they_always_had():
    found = figures([result("a", 0, {"nut": 0.8})])

    assert groups(found) == [SHOWN]
    assert {one.metric for one in found} == set(METRICS)


def test_pooled_figures_follow_the_mean():
    pooled = dict.fromkeys(METRICS) | {"image_auroc": 0.5}

    found = figures([result("a", 0, {"nut": 0.8, "bolt": 0.6}, pooled)])

    assert list(dict.fromkeys(one.category for one in found)) == ["nut", "bolt", "mean", "pooled"]
    assert value(found, "a", "pooled").value == 0.5


def test_costs_are_means_over_a_rows_results():
    slow = result("a", 1, {"nut": 0.8}) | {"fit_seconds": 30.0}

    assert "| a | 20 s | 2.00 | 1.5 GB |" in costs_as_markdown([result("a", 0, {"nut": 0.8}), slow])
    untrained = result("b", 0, {"nut": 0.8}) | {"fit_seconds": None}
    assert "| b | – | 2.00 | 1.5 GB |" in costs_as_markdown([untrained])


def test_decisions_are_percentages_per_row_and_category_over_the_seeds():
    labels, calibration = ["good", "good", "hole", "hole"], Calibration(tuple(range(1, 200)))
    first = decisions([1.0, 198.5, 199.5, 250.0], labels, calibration) | {"power": [0.1, 0.2, 0.3]}
    second = decisions([1.0, 150.0, 198.5, 250.0], labels, calibration) | {"power": [0.3, 0.4, 0.5]}
    bank = decisions([2.0, 1.0, 3.0, 1.5], labels)
    given = [("a", 0, first), ("a", 1, second), ("bank", 0, bank)]
    results = [result(name, seed, {"nut": 0.8}) | {"decisions": {"nut": one}} for name, seed, one in given]

    table = decisions_as_markdown(results).splitlines()

    assert table[2] == "| a | nut | 100 / 100 / 100 | 100 / 100 / 100 | 25 / 25 / 25 | 20 / 30 / 40 |"
    assert table[3] == "| bank | nut | 50 / 50 / 50 | n/a | n/a | n/a |"
    assert decisions_as_markdown([result("a", 0, {"nut": 0.8})]) == ""
