import re

import pytest

from mendiff.errors import InputError
from mendiff.evaluation.metrics import METRICS
from mendiff.evaluation.papers import (
    find_table,
    published,
    published_mean,
    tables,
)
from mendiff.methods.base import METHODS

PER_CATEGORY = [key for key, table in tables().items() if table.categories]
ABLATIONS = [key for key, table in tables().items() if table.settings]
ROUNDING = 0.05  # percent: the printed mean's; rounded entries may move theirs by as much again

# Means that do not follow from their entries: (table, column, metric) to (printed, mean of the entries).
MISPRINTS = {
    ("glad-1", "RD4AD", "image_auroc"): (98.5, 98.66),
    ("glad-3", "DRAEM", "image_auroc"): (92.4, 92.692),
    ("glad-4", "PatchCore", "image_auroc"): (94.2, 93.443),
    ("glad-4", "PatchCore", "pixel_auroc"): (99.1, 98.986),
    ("glad-4", "SimpleNet", "image_auroc"): (96.2, 97.443),  # this and the next are its means on VisA
    ("glad-4", "SimpleNet", "pixel_auroc"): (98.5, 99.029),
    ("glad-4", "DRAEM", "image_auroc"): (91.5, 92.071),
    ("glad-4", "DDAD", "image_auroc"): (97.4, 96.971),
    ("glad-4", "DDAD", "pixel_auroc"): (96.5, 96.971),
    ("diad-3", "DDPM", "pixel_auroc"): (75.6, 73.907),
    ("diad-12", "DRAEM", "image_auroc"): (79.1, 79.45),
    ("diad-12", "DRAEM", "image_ap"): (81.9, 82.708),
    ("diad-12", "DRAEM", "image_f1max"): (78.9, 79.35),
    ("diad-13", "DRAEM", "pixel_ap"): (23.5, 24.742),
    ("diad-13", "DRAEM", "pixel_f1max"): (29.5, 30.342),
    ("diad-13", "DRAEM", "aupro"): (58.8, 59.075),
}


def percent(figures):
    return {metric: round(100 * value, 1) for metric, value in figures.items()}


def means_of_entries(table):
    """Yield (column, metric, printed mean, mean of the entries, entries' count) in percent."""
    for column in table.columns:
        for metric in table.metrics:
            entries = [
                100 * row[column][metric] for row in table.categories.values() if metric in row[column]
            ]
            if entries:
                yield (
                    column,
                    metric,
                    100 * table.mean[column][metric],
                    sum(entries) / len(entries),
                    len(entries),
                )


@pytest.mark.parametrize("key", PER_CATEGORY)
def test_printed_means_are_those_of_the_categories_but_for_the_known_misprints(key):
    wrong = {
        (key, column, metric): (round(printed, 1), round(mean, 3))
        for column, metric, printed, mean, _ in means_of_entries(find_table(key))
        if abs(mean - printed) > 2 * ROUNDING + 1e-9
    }
    assert wrong == {place: values for place, values in MISPRINTS.items() if place[0] == key}


def test_misprints_concern_no_method_of_ours():
    ours = {(key, column) for key, table in tables().items() for column in table.methods.values()}
    assert not {place[:2] for place in MISPRINTS} & ours


@pytest.mark.parametrize("key", PER_CATEGORY)
def test_a_metric_is_given_for_all_categories_of_a_column_or_for_none(key):
    table = find_table(key)
    counted = {(column, metric): count for column, metric, _, _, count in means_of_entries(table)}
    assert set(counted.values()) == {len(table.categories)}
    assert {(column, metric) for column in table.columns for metric in table.mean[column]} == set(counted)


@pytest.mark.parametrize("table", tables().values(), ids=lambda table: table.key)
def test_table_is_complete_and_in_our_words(table):
    assert set(table.metrics) <= {*METRICS, "dice"}
    assert set(table.methods) <= set(METHODS)
    assert set(table.methods.values()) <= set(table.columns)
    assert bool(table.settings) != bool(table.mean)
    rows = [*table.categories.values(), *table.settings.values(), *([table.mean] if table.mean else [])]
    for row in rows:
        assert tuple(row) == table.columns
        for figures in row.values():
            assert figures
            assert set(figures) <= set(table.metrics)
            assert all(0 < value <= 1 for value in figures.values())


def test_all_tables_of_results_are_there():
    glad = [f"glad-{number}" for number in (1, 2, 3, 4, 6, 7)]
    diad = [f"diad-{number}" for number in (*range(1, 11), 12, 13, "pooling")]
    assert sorted(tables()) == sorted(glad + diad)
    assert sum(len(find_table(key).categories) for key in PER_CATEGORY) == (15 + 6 + 12 + 7) + 2 * (15 + 12)


# What the papers say of the same results elsewhere.

PRINTED_MEANS = {
    ("glad", "mvtec"): "99.3/98.6",
    ("glad", "mpdd"): "97.5/98.7",
    ("glad", "visa"): "99.5/98.6",
    ("glad", "pcbbank"): "98.7/99.3",
    ("diad", "mvtec"): "97.2/99.0/96.5 96.8/52.6/55.5 90.7",
    ("diad", "visa"): "86.8/88.3/85.1 96.0/26.1/33.0 75.2",
    ("diad", "mvtec3d"): "84.6/94.8/95.5 96.4/25.3/32.2 87.8",
    ("diad", "medical"): "77.2 96.9 87.7 32.3",
    ("ran", "mvtec"): "96.7",
}


@pytest.mark.parametrize(("method", "dataset"), PRINTED_MEANS)
def test_means_of_our_methods_are_the_known_ones(method, dataset):
    known = [float(figure) for figure in re.findall(r"[\d.]+", PRINTED_MEANS[method, dataset])]
    assert list(percent(published_mean(method, dataset)).values()) == known


@pytest.mark.parametrize(
    ("table", "rival", "metric", "gain"),
    [
        ("diad-1", "LDM", "image_auroc", 20.6),
        ("diad-1", "UniAD", "image_auroc", 0.7),
        ("diad-3", "LDM", "pixel_auroc", 11.7),
        ("diad-3", "LDM", "pixel_ap", 25.0),
        ("diad-3", "UniAD", "pixel_ap", 9.2),
        ("diad-3", "UniAD", "pixel_f1max", 6.0),
        ("diad-2", "LDM", "image_auroc", 30.1),
        ("diad-2", "LDM", "pixel_auroc", 9.4),
        ("diad-2", "UniAD", "pixel_f1max", 6.0),
    ],
)
def test_gains_that_the_text_of_diad_claims_follow_from_its_tables(table, rival, metric, gain):
    mean = find_table(table).mean
    assert 100 * (mean["DiAD"][metric] - mean[rival][metric]) == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize("key", ABLATIONS)
def test_ablation_contains_the_method_as_published(key):
    table = find_table(key)
    published_as = published_mean(table.columns[0].lower(), table.dataset)
    final = {metric: published_as[metric] for metric in table.metrics}
    assert final in [row[table.columns[0]] for row in table.settings.values()]


def test_two_tables_of_one_result_agree():
    whole, image, pixel = (find_table(key).mean for key in ("diad-2", "diad-12", "diad-13"))
    assert whole == {column: {**image[column], **pixel[column]} for column in whole}
    visa, bank = find_table("glad-3").categories, find_table("glad-4").categories
    shared = visa.keys() & bank.keys()
    assert shared == {"pcb1", "pcb2", "pcb3", "pcb4"}
    assert all(visa[name] == bank[name] for name in shared)


# Lookups.


def test_published_joins_the_tables_of_one_method():
    assert percent(published("diad", "mvtec")["screw"]) == {
        "image_auroc": 90.7,
        "image_ap": 99.7,
        "image_f1max": 97.9,
        "pixel_auroc": 97.9,
        "pixel_ap": 60.6,
        "pixel_f1max": 59.6,
    }
    assert percent(published("glad", "pcbbank")["pcb6"]) == {"image_auroc": 92.2, "pixel_auroc": 99.7}
    assert percent(published("ran", "mvtec")["pill"]) == {"pixel_auroc": 92.1}
    assert len(published("diad", "visa")) == 12
    assert published("diad", "mvtec3d") == {}


def test_values_are_the_decimals_that_one_would_write():
    assert published("glad", "mvtec")["carpet"] == {"image_auroc": 0.99, "pixel_auroc": 0.985}


def test_changing_an_answer_changes_no_later_answer():
    published("glad", "mvtec")["carpet"]["image_auroc"] = 0.0
    published_mean("glad", "mvtec").clear()
    tables().clear()
    assert published("glad", "mvtec")["carpet"]["image_auroc"] == 0.99
    assert published_mean("glad", "mvtec")


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (lambda: find_table("glad-5"), r"table: expected one of .*glad-4, glad-6.*, got 'glad-5'"),
        (lambda: published("padim", "mvtec"), "method: expected one of diad, glad, ran, got 'padim'"),
        (lambda: published("ran", "visa"), "dataset of ran: expected one of mvtec, got 'visa'"),
        (
            lambda: published_mean("glad", "medical"),
            "dataset of glad: expected one of mpdd, .*, got 'medical'",
        ),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(look_up, message):
    with pytest.raises(InputError, match=message):
        look_up()
