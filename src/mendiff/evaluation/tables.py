"""Results of a benchmark as tables: for the terminal, CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from mendiff.evaluation.metrics import TWIN_METRICS, named

SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
MEAN, POOLED = "mean", "pooled"
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How cells begin that a spreadsheet computes."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Figure:
    """One metric of one row and category, over all seeds.

    Attributes:
        label: of the row.
        category: or "mean" or "pooled".
        metric: one of METRICS, or of TWIN_METRICS where any row has it.
        value: mean over the seeds, None where the data can't tell.
        deviation: standard deviation over the seeds, None for fewer than two.
        seeds: how many.
        published: what the paper prints, None where it prints nothing.
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
    """Every row's figures for every category, mean and pooled; a result is one row, category set and seed.

    Where every category has a model of its own, the mean is over the categories that all results of the row
    together cover, seed by seed; pooled figures exist only for models of several categories.
    """
    found = []
    names = named(metrics for one in results for metrics in one["categories"].values())
    for label in unique(one["label"] for one in results):
        rows = [one for one in results if one["label"] == label]
        printed = (published or {}).get(label, {})
        for place, metrics in by_place(rows).items():
            for metric in names:
                values = [value for one in metrics if (value := one.get(metric)) is not None]
                known = printed.get(place, {}).get(metric)
                found.append(_figure(label, place, metric, values, known))
    return found


def by_place(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float | None]]]:
    """Category, "mean" and "pooled" to the metrics of every seed."""
    seeds = sorted({one["seed"] for one in rows})
    categories = unique(name for one in rows for name in one["categories"])
    places: dict[str, list[dict[str, float | None]]] = {
        name: [one["categories"][name] for one in rows if name in one["categories"]] for name in categories
    }
    if len(categories) > 1:
        per_seed = [
            [metrics for one in rows if one["seed"] == seed for metrics in one["categories"].values()]
            for seed in seeds
        ]
        # A seed that lacks a category would make a mean of another set.
        places[MEAN] = [_mean(some) for some in per_seed if len(some) == len(categories)]
    pooled = [one[POOLED] for one in rows if one.get(POOLED)]
    return {**places, POOLED: pooled} if pooled else places


def unique(names: Iterable[str]) -> list[str]:
    """Every name once, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def as_csv(found: Sequence[Figure]) -> str:
    """One line per figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Figure.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in asdict(one).items()} for one in found)
    return text.getvalue()


def cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would compute gets an apostrophe; numbers stay."""
    if isinstance(value, str) and value.startswith(FORMULAS) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def as_markdown(found: Sequence[Figure], metrics: Sequence[str] = SHOWN) -> str:
    """One line per row, one column per category; cells hold the metrics, deviations and differences."""
    header, lines = grid(found, metrics, plus="±")
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def as_latex(found: Sequence[Figure], metrics: Sequence[str] = SHOWN) -> str:
    """The same as a LaTeX tabular."""
    header, lines = grid(found, metrics, plus=r"$\pm$")
    rows = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in (header, *lines)]
    body = "\n".join(["\\hline", rows[0], "\\hline", *rows[1:], "\\hline"])
    return f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n{body}\n\\end{{tabular}}\n"


def costs_as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """One line per row: seconds of fitting, images per second and memory, in the mean over its results."""
    lines = ["| row | fitting | images/s | peak memory |", "|---|---|---|---|"]
    for label in unique(one["label"] for one in results):
        rows = [one for one in results if one["label"] == label]
        fit, speed, peak = (
            mean(one[key] for one in rows) for key in ("fit_seconds", "images_per_second", "peak_gb")
        )
        lines.append(f"| {label} | {fit:.0f} s | {speed:.2f} | {peak:.1f} GB |")
    return "\n".join(lines) + "\n"


def stops_as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """One line per row that searches: where it stopped; empty where none does.

    Mean stop step; number of different steps at which defective images stopped, and the rank correlation of
    step and defect area, both in the mean over categories and seeds.
    """
    lines = ["| row | mean stop step | steps of defective images | rank by area |", "|---|---|---|---|"]
    for label in unique(one["label"] for one in results):
        rows = [one for one in results if one["label"] == label and one.get("stop_steps")]
        places = [place for one in rows for place in one["stop_steps"].values()]
        ranks = [place["area_rank"] for place in places if place["area_rank"] is not None]
        if rows:
            step = mean(one["mean_stop_step"] for one in rows)
            rungs = mean(len(place["defective"]) for place in places)
            lines.append(
                f"| {label} | {step:.0f} | {rungs:.1f} | {f'{mean(ranks):+.2f}' if ranks else 'n/a'} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def groups(found: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The metrics that stand in one table each: those of all data, and those of data with clean twins."""
    return [SHOWN, TWIN_METRICS] if any(one.metric in TWIN_METRICS for one in found) else [SHOWN]


def grid(found: Sequence[Figure], metrics: Sequence[str], plus: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table; a paper's figures follow in brackets with the difference."""
    places = unique(one.category for one in found)
    at = {(one.label, one.category, one.metric): one for one in found}
    header = [" / ".join(_title(one) for one in metrics), *places]
    lines = []
    for label in unique(one.label for one in found):
        cells = [[at.get((label, place, metric)) for metric in metrics] for place in places]
        lines.append([label, *(" / ".join(_text(one, plus) for one in cell) for cell in cells)])
    return header, lines


def _figure(label: str, place: str, metric: str, values: Sequence[float], printed: float | None) -> Figure:
    value = mean(values) if values else None
    deviation = stdev(values) if len(values) > 1 else None
    difference = None if value is None or printed is None else value - printed
    return Figure(label, place, metric, value, deviation, len(values), printed, difference)


def _mean(some: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for metric in named(some):
        values = [value for one in some if (value := one.get(metric)) is not None]
        means[metric] = mean(values) if values else None
    return means


def _text(one: Figure | None, plus: str) -> str:
    if one is None or one.value is None:
        return "n/a"
    text = f"{one.value:.3f}"
    if one.deviation is not None:
        text += f"{plus}{one.deviation:.3f}"
    if one.published is not None and one.difference is not None:
        text += f" (paper {one.published:.3f}, {one.difference:+.3f})"
    return text


def _title(metric: str) -> str:
    words = metric.split("_")
    return " ".join(word.upper() if word in ("auroc", "ap", "aupro", "psnr") else word for word in words)


def _escape(text: str) -> str:
    for sign in "&%#_":
        text = text.replace(sign, f"\\{sign}")
    return text
