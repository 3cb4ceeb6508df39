"""Benchmark results as tables: terminal, CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from mendiff.evaluation.metrics import TWIN_METRICS, reported_metrics

SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
MEAN, POOLED = "mean", "pooled"
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of cells that spreadsheets interpret as formulas."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Figure:
    """A metric of a row and category, over all seeds.

    Attributes:
        label: label of the row.
        category: a category, "mean" or "pooled".
        metric: one of METRICS, or of TWIN_METRICS if any row has it.
        value: mean over the seeds, None if undefined.
        deviation: standard deviation over the seeds, None for fewer than two.
        seeds: number of seeds.
        published: published value, None if there is none.
        difference: value - published.
    """

    label: str
    category: str
    metric: str
    value: float | None
    deviation: float | None
    seeds: int
    published: float | None
    difference: float | None


Published = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Label to category (or "mean") to metric to value."""


def figures(results: Sequence[Mapping[str, Any]], published: Published | None = None) -> list[Figure]:
    """Figures of all rows for every category, "mean" and "pooled".

    A result belongs to a row, a set of categories and a seed. The mean of a seed is over the categories of
    all results of the row. "pooled" exists only for models of several categories.
    """
    found = []
    names = reported_metrics(metrics for result in results for metrics in result["categories"].values())
    for label in unique(result["label"] for result in results):
        rows = [result for result in results if result["label"] == label]
        printed = (published or {}).get(label, {})
        for category, metrics in by_category(rows).items():
            for metric in names:
                values = [value for seed in metrics if (value := seed.get(metric)) is not None]
                known = printed.get(category, {}).get(metric)
                found.append(_figure(label, category, metric, values, known))
    return found


def by_category(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float | None]]]:
    """Metrics of every seed by category, "mean" and "pooled"."""
    seeds = sorted({row["seed"] for row in rows})
    categories = unique(name for row in rows for name in row["categories"])
    found: dict[str, list[dict[str, float | None]]] = {
        name: [row["categories"][name] for row in rows if name in row["categories"]] for name in categories
    }
    if len(categories) > 1:
        per_seed = [
            [metrics for row in rows if row["seed"] == seed for metrics in row["categories"].values()]
            for seed in seeds
        ]
        # Seeds with missing categories are excluded from the mean.
        found[MEAN] = [_mean(results) for results in per_seed if len(results) == len(categories)]
    pooled = [row[POOLED] for row in rows if row.get(POOLED)]
    return {**found, POOLED: pooled} if pooled else found


def unique(names: Iterable[str]) -> list[str]:
    """Distinct names in the order of first occurrence."""
    return list(dict.fromkeys(names))


def as_csv(found: Sequence[Figure]) -> str:
    """CSV with one line per figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Figure.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in asdict(figure).items()} for figure in found)
    return text.getvalue()


def cell(value: Any) -> Any:
    """A value for a CSV file; texts that a spreadsheet would interpret as a formula get an apostrophe."""
    if isinstance(value, str) and value.startswith(FORMULAS) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def as_markdown(found: Sequence[Figure], metrics: Sequence[str] = SHOWN) -> str:
    """A Markdown table with a line per row and a column per category; see grid."""
    header, lines = grid(found, metrics, plus="±")
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def as_latex(found: Sequence[Figure], metrics: Sequence[str] = SHOWN) -> str:
    """A LaTeX tabular with a line per row and a column per category; see grid."""
    header, lines = grid(found, metrics, plus=r"$\pm$")
    rows = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in (header, *lines)]
    body = "\n".join(["\\hline", rows[0], "\\hline", *rows[1:], "\\hline"])
    return f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n{body}\n\\end{{tabular}}\n"


def costs_as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A line per row: mean fitting time (if known), images per second and peak memory of its results."""
    lines = ["| row | fitting | images/s | peak memory |", "|---|---|---|---|"]
    for label in unique(result["label"] for result in results):
        rows = [result for result in results if result["label"] == label]
        fits = [row["fit_seconds"] for row in rows if row["fit_seconds"] is not None]
        speed, peak = (mean(row[key] for row in rows) for key in ("images_per_second", "peak_gb"))
        fit = f"{mean(fits):.0f} s" if fits else "–"
        lines.append(f"| {label} | {fit} | {speed:.2f} | {peak:.1f} GB |")
    return "\n".join(lines) + "\n"


def decisions_as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A line per row and category: recall at false-alarm rates; empty without results.

    Columns: recall at the threshold that the given share of the test set's good images exceeds, which depends
    only on the ranking; for models with thresholds, recall and false alarms at each threshold, and the share
    of synthetic defects that the fit found at it. All in percent, as means over the seeds.
    """
    rows = [
        (result["label"], name, decided)
        for result in results
        for name, decided in result.get("decisions", {}).items()
    ]
    if not rows:
        return ""
    rates = " / ".join(f"{100 * rate:g}" for rate in rows[0][2]["rates"])
    lines = [
        f"| row | category | recall at {rates} % false alarms of the test set | recall at thresholds for "
        f"{rates} % | their false alarms | synthetic defects found |",
        "|---|---|---|---|---|---|",
    ]
    for label, name in dict.fromkeys((label, name) for label, name, _ in rows):
        own = [decided for other, category, decided in rows if (other, category) == (label, name)]
        cuts = [decided["at_thresholds"] for decided in own]
        cells = [
            _percents([decided["ranked"] for decided in own]),
            *(
                _percents([[cut[key] for cut in one] for one in cuts])
                for key in ("recall", "false_alarm_rate")
            ),
            _percents([decided.get("power", ()) for decided in own]),
        ]
        lines.append(f"| {label} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percents(shares: Sequence[Sequence[float | None]]) -> str:
    """Means over the seeds of a share per rate, "n/a" where there is none."""
    columns = [[value for value in column if value is not None] for column in zip(*shares, strict=True)]
    return " / ".join(f"{100 * mean(column):.0f}" if column else "n/a" for column in columns) or "n/a"


def stops_as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A line per row with an adaptive search; empty if there are none.

    Columns: mean stop step, number of distinct stop steps of defective images, and rank correlation of stop
    step and defect area, the last two as means over categories and seeds.
    """
    lines = ["| row | mean stop step | steps of defective images | rank by area |", "|---|---|---|---|"]
    for label in unique(result["label"] for result in results):
        rows = [result for result in results if result["label"] == label and result.get("stop_steps")]
        stops = [stop for row in rows for stop in row["stop_steps"].values()]
        ranks = [stop["area_rank"] for stop in stops if stop["area_rank"] is not None]
        if rows:
            step = mean(row["mean_stop_step"] for row in rows)
            distinct = mean(len(stop["defective"]) for stop in stops)
            lines.append(
                f"| {label} | {step:.0f} | {distinct:.1f} | {f'{mean(ranks):+.2f}' if ranks else 'n/a'} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def groups(found: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The metrics of each table: those of all data, and those of data with clean twins."""
    return [SHOWN, TWIN_METRICS] if any(figure.metric in TWIN_METRICS for figure in found) else [SHOWN]


def grid(found: Sequence[Figure], metrics: Sequence[str], plus: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table; published values follow in brackets with the difference."""
    categories = unique(figure.category for figure in found)
    at = {(figure.label, figure.category, figure.metric): figure for figure in found}
    header = [" / ".join(_title(metric) for metric in metrics), *categories]
    lines = []
    for label in unique(figure.label for figure in found):
        cells = [[at.get((label, category, metric)) for metric in metrics] for category in categories]
        lines.append([label, *(" / ".join(_text(figure, plus) for figure in cell) for cell in cells)])
    return header, lines


def _figure(label: str, category: str, metric: str, values: Sequence[float], printed: float | None) -> Figure:
    value = mean(values) if values else None
    deviation = stdev(values) if len(values) > 1 else None
    difference = None if value is None or printed is None else value - printed
    return Figure(label, category, metric, value, deviation, len(values), printed, difference)


def _mean(results: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for metric in reported_metrics(results):
        values = [value for result in results if (value := result.get(metric)) is not None]
        means[metric] = mean(values) if values else None
    return means


def _text(figure: Figure | None, plus: str) -> str:
    if figure is None or figure.value is None:
        return "n/a"
    text = f"{figure.value:.3f}"
    if figure.deviation is not None:
        text += f"{plus}{figure.deviation:.3f}"
    if figure.published is not None and figure.difference is not None:
        text += f" (paper {figure.published:.3f}, {figure.difference:+.3f})"
    return text


def _title(metric: str) -> str:
    words = metric.split("_")
    return " ".join(word.upper() if word in ("auroc", "ap", "aupro", "psnr") else word for word in words)


def _escape(text: str) -> str:
    for sign in "&%#_":
        text = text.replace(sign, f"\\{sign}")
    return text
