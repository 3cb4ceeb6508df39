"""Published results: all result tables of the papers.

    tables()["glad-1"].categories["carpet"]["PatchCore"]   # {"image_auroc": 0.987, "pixel_auroc": 0.99}
    published("diad", "mvtec")["bottle"]                   # from all of DiAD's tables
    published_mean("ran", "mvtec")                         # {"pixel_auroc": 0.967}

papers.yaml has the values in percent as printed; here they are in [0,1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mendiff.errors import check_choice

Figures = dict[str, float]
"""Metric to value in [0,1]; metrics that a paper does not print are missing."""

DIGITS = 6
"""Decimal digits, so that a percentage divided by 100 has no rounding error."""


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        key: name such as "glad-1".
        paper: authors, title and venue.
        number: number of the table in the paper.
        title: data set and subject.
        dataset: short name of the data set, as in `published`.
        metrics: metrics of the table.
        columns: names of the compared methods.
        methods: name of a method of mendiff to its column; empty for an ablation.
        categories: category to column to values; empty if the paper prints means only.
        settings: row of an ablation to column to values.
        mean: column to the values of the row "Mean" or "Average", as printed.
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
    """All tables by key: GLAD's 1-4, 6 and 7, DiAD's 1-10, 12, 13 and the table of poolings."""
    return dict(_tables())


def find_table(key: str) -> Table:
    """The table with a key such as "glad-1"; InputError if unknown."""
    check_choice("table", key, sorted(_tables()))
    return _tables()[key]


def published(method: str, dataset: str) -> dict[str, Figures]:
    """Published results of a method of mendiff: category to values.

    Metrics of several tables are joined. Metrics with a published mean only are missing (DiAD on MVTec-3D
    and Medical, DiAD's aupro on MVTec-AD); see `published_mean`.

    Raises:
        InputError: for an unknown method or data set; lists the known ones.
    """
    joined: dict[str, Figures] = {}
    for table in _tables_of(method, dataset):
        for category, row in table.categories.items():
            joined.setdefault(category, {}).update(row[table.methods[method]])
    return joined


def published_mean(method: str, dataset: str) -> Figures:
    """Published means over categories of a method of mendiff; errors as in `published`."""
    joined: Figures = {}
    for table in _tables_of(method, dataset):
        joined.update(table.mean[table.methods[method]])
    return joined


def _tables_of(method: str, dataset: str) -> list[Table]:
    known: dict[str, dict[str, list[Table]]] = {}
    for table in _tables().values():
        for name in table.methods:
            known.setdefault(name, {}).setdefault(table.dataset, []).append(table)
    check_choice("method", method, sorted(known))
    check_choice(f"dataset of {method}", dataset, sorted(known[method]))
    return known[method][dataset]


@cache
def _tables() -> dict[str, Table]:
    data = _read()
    return {key: _table(key, raw, data["papers"]) for key, raw in data["tables"].items()}


@cache
def _read() -> dict[str, Any]:
    # Imported here, since most commands do not need YAML.
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
