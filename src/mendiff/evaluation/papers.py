"""What the papers of the methods print: every table of results.

    tables()["glad-1"].categories["carpet"]["PatchCore"]   # {"image_auroc": 0.987, "pixel_auroc": 0.99}
    published("diad", "mvtec")["bottle"]                   # all that DiAD's tables say about it
    published_mean("ran", "mvtec")                         # {"pixel_auroc": 0.967}

The figures lie in papers.yaml beside this file, in percent as printed; here they are shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mendiff.errors import check_choice

Figures = dict[str, float]
"""Metric to value from 0 to 1, without the metrics that a paper does not print."""

DIGITS = 6
"""Of a share: a tenth of a percent divided by 100 is then the number that one would write."""


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        key: its name here, such as "glad-1".
        paper: authors, title and place.
        number: of the table in the paper.
        title: data set and subject.
        dataset: short name of the data set, as in `published`.
        metrics: that the table prints.
        columns: names of the compared methods.
        methods: name of a method of mendiff to its column; none in an ablation.
        categories: category to column to figures; empty where the paper prints means only.
        settings: the same for the rows of an ablation.
        mean: column to the figures of the row "Mean" or "Average", as printed.
    """

    key: str
    paper: str
    number: str
    title: str
    dataset: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    methods: dict[str, str]
    categories: dict[str, dict[str, Figures]]
    settings: dict[str, dict[str, Figures]]
    mean: dict[str, Figures]


def tables() -> dict[str, Table]:
    """All tables by key: GLAD's 1-4, 6 and 7, DiAD's 1-10, 12 and 13 and the one of its poolings."""
    return dict(_tables())


def find_table(key: str) -> Table:
    """The table of a key such as "glad-1"; InputError for any other."""
    _check("table", key, _tables())
    return _tables()[key]


def published(method: str, dataset: str) -> dict[str, Figures]:
    """What the papers print for a method of mendiff: category to figures.

    Image and pixel metrics are joined where a paper spreads them over several tables. Empty where it prints
    means only (DiAD on MVTec-3D and Medical); see `published_mean`. Metrics of which it prints the mean only
    (DiAD's aupro on MVTec-AD) are missing here.

    Raises:
        InputError: for a method or a data set that is in no table; it names those that are.
    """
    joined: dict[str, Figures] = {}
    for table in _tables_of(method, dataset):
        for category, row in table.categories.items():
            joined.setdefault(category, {}).update(row[table.methods[method]])
    return joined


def published_mean(method: str, dataset: str) -> Figures:
    """The means over categories, as the papers print them, for a method of mendiff; errors as `published`."""
    joined: Figures = {}
    for table in _tables_of(method, dataset):
        joined.update(table.mean[table.methods[method]])
    return joined


def _tables_of(method: str, dataset: str) -> list[Table]:
    known: dict[str, dict[str, list[Table]]] = {}
    for table in _tables().values():
        for name in table.methods:
            known.setdefault(name, {}).setdefault(table.dataset, []).append(table)
    _check("method", method, known)
    _check(f"dataset of {method}", dataset, known[method])
    return known[method][dataset]


def _check(what: str, name: str, known: Mapping[str, Any]) -> None:
    check_choice(what, name, sorted(known))


@cache
def _tables() -> dict[str, Table]:
    data = _read()
    return {key: _table(key, raw, data["papers"]) for key, raw in data["tables"].items()}


@cache
def _read() -> dict[str, Any]:
    # Imported here: a command that only names the suites needs no YAML.
    import yaml

    text = resources.files(__package__).joinpath("papers.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def _table(key: str, raw: Mapping[str, Any], papers: Mapping[str, str]) -> Table:
    metrics, columns = tuple(raw["metrics"]), tuple(raw["columns"])

    def row(cells: Sequence[object]) -> dict[str, Figures]:
        return {name: _figures(cell, metrics) for name, cell in zip(columns, cells, strict=True)}

    return Table(
        key=key,
        paper=papers[raw["paper"]],
        number=raw["number"],
        title=raw["title"],
        dataset=raw["dataset"],
        metrics=metrics,
        columns=columns,
        methods=raw.get("methods", {}),
        categories={name: row(cells) for name, cells in raw.get("categories", {}).items()},
        settings={name: row(cells) for name, cells in raw.get("settings", {}).items()},
        mean=row(raw["mean"]) if "mean" in raw else {},
    )


def _figures(cell: object, metrics: tuple[str, ...]) -> Figures:
    pairs = zip(metrics, str(cell).split("/"), strict=True)
    return {metric: round(float(text) / 100, DIGITS) for metric, text in pairs if text != "-"}
