"""What the Python interface of the workflows returns."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendiff.data.samples import Finding
from mendiff.evaluation.metrics import Metrics
from mendiff.model import Model
from mendiff.runs.common import METRIC_TITLES

TITLES = [title.replace("\n", " ") for title in METRIC_TITLES.values()]
CHECK_TITLES = ("category", "layout", "train", "test good", "test defective", "masks")


@dataclass(frozen=True)
class Check:
    """The result of `check`; shown as a table and a list in a notebook.

    Attributes:
        categories: name, layout, and numbers of training, test and mask images of every category.
        findings: faults, for which `fit` and `evaluate` refuse the data (`hard`), and warnings.
    """

    categories: tuple[Mapping[str, Any], ...]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings for which `fit` and `evaluate` refuse the data."""
        return tuple(finding for finding in self.findings if finding.hard)

    def _repr_html_(self) -> str:
        table = _table(CHECK_TITLES, [[str(value) for value in row.values()] for row in self.categories])
        lines = (f"{'fault' if one.hard else 'warning'}: {one.sentence}" for one in self.findings)
        return f"{table}<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on labelled test images; shown as a table in a notebook.

    Attributes:
        categories: metrics by category, see evaluation.metrics; an undefined metric is None.
        mean: of every metric over the categories.
        pooled: metrics of the images of all categories together; empty for a single category.
        controls: categories, mean and pooled of every baseline, by name; empty unless requested.
        at_threshold: precision, recall and the like at the model's threshold, by category.
        unreadable: unreadable test images, which the metrics exclude.
    """

    categories: dict[str, Metrics]
    mean: Metrics
    pooled: Metrics
    controls: dict[str, dict[str, Any]]
    at_threshold: dict[str, dict[str, Any]]
    unreadable: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = {**self.categories, **({"mean": self.mean} if len(self.categories) > 1 else {})}
        return _table(["", *TITLES], _cells(rows))


@dataclass(frozen=True)
class Distilled:
    """The result of `distill`.

    Attributes:
        model: the distilled model.
        rows: speed and quality of the teacher, of its network in few steps, and of the distilled model, on
            synthetic defects in held-back good images.
    """

    model: Model
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Tuning:
    """The result of `tune`.

    Attributes:
        model: the tuned model.
        changes: changed settings by dotted name.
        trials: all evaluated candidates.
    """

    model: Model
    changes: dict[str, Any]
    trials: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Comparison:
    """The result of `benchmark`; shown as a table in a notebook.

    Attributes:
        results: metrics, time and memory of every job and row.
        figures: mean and standard deviation of every metric over the seeds, by row and category.
        tables: files with the tables.
    """

    results: tuple[Mapping[str, Any], ...]
    figures: tuple[Mapping[str, Any], ...]
    tables: tuple[Path, ...]

    def _repr_html_(self) -> str:
        names = list(METRIC_TITLES)
        means: dict[str, Metrics] = {}
        categories = {figure["category"] for figure in self.figures}
        shown = "mean" if "mean" in categories else next(iter(categories), "")
        for figure in self.figures:
            if figure["category"] == shown and figure["metric"] in names:
                means.setdefault(figure["label"], {})[figure["metric"]] = figure["value"]
        return _table([shown, *TITLES], _cells(means))


@dataclass(frozen=True)
class Monitoring:
    """The result of `monitor`; shown with its picture in a notebook.

    Attributes:
        drift: whether the scores do not match the calibration set.
        sentence: the result in one sentence.
        since: number (from 1), name and time of the first image of the drift; None if it is unknown.
        direction: "higher" or "lower", of the scores since then; None if it is unknown.
        p_values: of every image, among the calibration scores.
        log10_martingale: after every image.
        kolmogorov_smirnov: distance to the calibration scores, and its p-value.
        picture: PNG of p-values and martingale.
    """

    drift: bool
    sentence: str
    since: Mapping[str, Any] | None
    direction: str | None
    p_values: tuple[float, ...]
    log10_martingale: tuple[float, ...]
    kolmogorov_smirnov: Mapping[str, float]
    picture: bytes

    def __repr__(self) -> str:
        return f"Monitoring({self.sentence!r})"

    def _repr_html_(self) -> str:
        data = b64encode(self.picture).decode()
        return f'<p>{html.escape(self.sentence)}</p><img src="data:image/png;base64,{data}" width="720">'


def _cells(rows: Mapping[str, Metrics]) -> list[list[str]]:
    return [
        [name, *("n/a" if row.get(key) is None else f"{row[key]:.3f}" for key in METRIC_TITLES)]
        for name, row in rows.items()
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in titles)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
