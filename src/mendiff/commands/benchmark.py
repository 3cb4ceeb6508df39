"""`mendiff benchmark`: methods, controls and anomalib's models side by side, as jobs that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mendiff.commands.common import Terminal, checked, choose_categories, choose_device
from mendiff.commands.job import CONTROLS, Job, slug
from mendiff.commands.queue import collected, others_of, prepared, run_all
from mendiff.errors import InputError
from mendiff.evaluation import papers
from mendiff.evaluation.ablations import Row, ablation
from mendiff.evaluation.data import Category, open_data
from mendiff.evaluation.suites import SUITES, Suite
from mendiff.evaluation.tables import (
    MEAN,
    SHOWN,
    Figure,
    Published,
    as_csv,
    as_latex,
    as_markdown,
    costs_as_markdown,
    figures,
    unique,
)
from mendiff.images import write_bytes
from mendiff.methods.base import METHODS, find_method
from mendiff.methods.config import config_to_dict

DEFAULT_METHODS = ("glad", "ran", "diad", *CONTROLS)
RESULTS = "results.json"


@dataclass(frozen=True)
class Bench:
    """What to compare on what.

    Attributes:
        rows: of the table.
        categories: of the data.
        multi_class: whether one model learns all of them.
        data: their root.
        layout: of the data.
        seeds: every one is a repetition.
        preset: of our methods.
        features, features_weights: backbone and its file, or a folder of files named by backbone.
        features_input: what the backbone's images look like; see Plan.
        suite: the paper's experiment, or None.
    """

    rows: tuple[Row, ...]
    categories: list[str]
    multi_class: bool
    data: Path
    layout: str
    seeds: Sequence[int]
    preset: str
    features: str | None
    features_weights: Path | None
    suite: Suite | None
    features_input: str | None = None


def run(
    data: Path,
    out: Path,
    suite: str | None,
    ablation: str | None,
    methods: Sequence[str] | None,
    categories: Sequence[str] | None,
    layout: str,
    multi_class: bool,
    seeds: Sequence[int] | None,
    preset: str,
    features: str | None,
    features_weights: Path | None,
    features_input: str | None,
    jobs: int,
    ray: str | None,
    device: str,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Run or resume a benchmark and print its tables."""
    terminal = Terminal(quiet)
    if jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {jobs}.")
    known = [one for one in choose_categories(open_data(data, layout), categories) if one.test]
    if not known:
        raise InputError(
            f"{data}: expected categories with test images, found none; see 'mendiff check --help'."
        )
    checked(known, terminal)
    named = SUITES.get(suite) if suite else None
    if suite and named is None:
        raise InputError(f"--suite: expected one of {', '.join(SUITES)}, got {suite!r}.")
    rows, together = chosen_rows(named, ablation, methods, settings)
    bench = Bench(
        rows=rows,
        categories=names_of(named, known),
        multi_class=multi_class or together,
        data=data.resolve(),
        layout=layout,
        seeds=seeds or [0],
        preset=preset,
        features=features,
        features_weights=None if features_weights is None else features_weights.resolve(),
        features_input=features_input,
        suite=named,
    )
    every = planned(bench, choose_device(device))
    folders = [prepared(out, name, job) for name, job in every.items()]
    failed = run_all(folders, jobs, ray, terminal)
    results = list(collected([*folders, *others_of(out, folders)]))
    found = figures(results, printed(bench))
    written = write_tables(out, results, found)
    if results:
        show(found, results, terminal)
        terminal.say(f"tables: {', '.join(str(one) for one in written)}")
    if failed:
        first = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(folders)} jobs failed, the first is {first[0].name}: {first[1]} "
            "The others are in the tables; the same command goes on with those that failed."
        )
    return {
        "results": results,
        "figures": [asdict(one) for one in found],
        "tables": [str(p) for p in written],
    }


def chosen_rows(
    suite: Suite | None,
    name: str | None,
    methods: Sequence[str] | None,
    settings: Mapping[str, Any],
) -> tuple[tuple[Row, ...], bool]:
    """The rows, with --set METHOD.FIELD=VALUE worked in, and whether one model learns all categories."""
    if name is not None and methods:
        raise InputError("--ablation and --methods: expected one of them, got both.")
    rows: tuple[Row, ...]
    if name is not None:
        chosen = ablation(name)
        rows, together = chosen.rows, chosen.multi_class
    else:
        default = (suite.method, *CONTROLS) if suite else DEFAULT_METHODS
        rows = tuple(Row(one, one) for one in unique(methods or default))
        together = bool(suite and suite.multi_class)
    for_method: dict[str, dict[str, Any]] = {}
    for dotted, value in settings.items():
        method, dot, field = dotted.partition(".")
        if not dot or method not in {row.method for row in rows}:
            raise InputError(
                f"--set: expected METHOD.FIELD=VALUE with a method of this benchmark "
                f"({', '.join(unique(row.method for row in rows))}), got {dotted!r}."
            )
        for_method.setdefault(method, {})[field] = value
    merged = (
        Row(row.label, row.method, row.settings | for_method.get(row.method, {}), row.changes) for row in rows
    )
    return tuple(merged), together


def names_of(suite: Suite | None, known: Sequence[Category]) -> list[str]:
    """The categories to run: all that were chosen, or those of the suite, which must be there."""
    names = [one.name for one in known]
    if suite is None:
        return names
    missing = [name for name in suite.categories if name not in names]
    if len(missing) == len(suite.categories):
        raise InputError(
            f"{suite.name}: expected categories {', '.join(suite.categories)}, found {', '.join(names)}; "
            "give the root of that data set."
        )
    return [name for name in suite.categories if name in names]


def planned(bench: Bench, device: str) -> dict[str, Job]:
    """Every job by its name: one for each fit, with all rows that share it."""
    groups = [bench.categories] if bench.multi_class else [[name] for name in bench.categories]
    jobs: dict[str, Job] = {}
    shared: dict[str, str] = {}
    for seed in bench.seeds:
        for group in groups:
            for row in bench.rows:
                settings = plain(row.settings)
                fit = json.dumps([row.method, settings, group, seed], sort_keys=True)
                place = "all" if bench.multi_class else group[0]
                name = shared.setdefault(fit, f"{slug(row.label)}-{place}-{seed}")
                rows = jobs[name].rows if name in jobs else {}
                jobs[name] = Job(
                    method=row.method,
                    rows={**rows, row.label: plain(row.changes)},
                    data=str(bench.data),
                    layout=bench.layout,
                    categories=list(group),
                    settings=settings,
                    preset=preset_of(bench, row.method, group),
                    features=bench.features,
                    features_weights=str(bench.features_weights) if bench.features_weights else None,
                    features_input=bench.features_input,
                    seed=seed,
                    device=device,
                )
    return jobs


def preset_of(bench: Bench, method: str, group: Sequence[str]) -> str:
    """The preset of a fit: a suite's own, of the category or the data set, where the method has such."""
    if bench.suite is None or method not in METHODS:
        return bench.preset
    dataset = f"{bench.preset}/{bench.suite.dataset}"
    known = find_method(method).PRESETS
    return next((one for one in (f"{dataset}/{group[0]}", dataset) if one in known), bench.preset)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    as_json: dict[str, Any] = json.loads(json.dumps(dict(settings), default=config_to_dict))
    return as_json


def printed(bench: Bench) -> Published:
    """What the suite's papers print for the rows: ours and those of others that stand in the same tables."""
    if bench.suite is None:
        return {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in bench.rows:
        places = found.setdefault(row.label, {})
        for key in bench.suite.tables:
            table = papers.find_table(key)
            column = table.methods.get(row.method) or next(
                (
                    one
                    for one in table.columns
                    if slug(one).replace("-", "") == slug(row.method).replace("-", "")
                ),
                None,
            )
            rows = {**table.categories, MEAN: table.mean}
            for place, columns in rows.items():
                places.setdefault(place, {}).update(columns.get(column, {}) if column else {})
    return found


def write_tables(out: Path, results: Sequence[Mapping[str, Any]], found: Sequence[Figure]) -> list[Path]:
    """The results as JSON, CSV, Markdown and LaTeX."""
    texts = {
        RESULTS: json.dumps({"results": list(results), "figures": [asdict(one) for one in found]}, indent=2)
        + "\n",
        "results.csv": as_csv(found),
        "results.md": as_markdown(found) + "\n" + costs_as_markdown(results) if results else "",
        "results.tex": as_latex(found) if found else "",
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    return [out / name for name in texts]


def show(found: Sequence[Figure], results: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """One table per category for the terminal."""
    at = {(one.label, one.category, one.metric): one for one in found}
    for place in unique(one.category for one in found):
        table = Table(title=place, title_justify="left")
        table.add_column("row", overflow="fold")
        for metric in SHOWN:
            table.add_column(metric.replace("_", "\n"), justify="right")
        for label in unique(one.label for one in found):
            cells = [at.get((label, place, metric)) for metric in SHOWN]
            table.add_row(label, *(_cell(one) for one in cells))
        terminal.table(table)


def _cell(one: Figure | None) -> str:
    if one is None or one.value is None:
        return "n/a"
    deviation = "" if one.deviation is None else f" ±{one.deviation:.3f}"
    return f"{one.value:.3f}{deviation}" + ("" if one.difference is None else f"\n({one.difference:+.3f})")
