"""`mendiff benchmark`: compare methods and baselines, in resumable jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import as_json, read_json
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import check_writable, write_bytes
from mendiff.errors import InputError, check_choice, check_range
from mendiff.evaluation import papers
from mendiff.evaluation.suites import SUITES
from mendiff.evaluation.tables import (
    MEAN,
    Figure,
    Published,
    as_csv,
    as_latex,
    as_markdown,
    costs_as_markdown,
    decisions_as_markdown,
    figures,
    groups,
    stops_as_markdown,
    unique,
)
from mendiff.runs.common import choose_categories, choose_device, readable_categories
from mendiff.runs.fit_checks import STATISTICS
from mendiff.runs.locks import exclusive
from mendiff.runs.reporting import Reporter, Table
from mendiff.workflows.bench import (
    Bench,
    SharedInputs,
    chosen_rows,
    identified,
    names_of,
    planned,
    with_shared_inputs,
)
from mendiff.workflows.identity import note_contents
from mendiff.workflows.options import BenchmarkOptions
from mendiff.workflows.queue import check_folder, collected, others_of, prepared, run_all
from mendiff.workflows.spec import CONTENTS, MOVED, slug

NOTHING = "n/a"
"""Text of an empty cell; a table of empty cells is not shown."""
RESULTS = "results.json"
TABLES = (RESULTS, "results.csv", "results.md", "results.tex")
SAME_RESULTS = (
    "training.accumulate",
    "training.checkpointing",
    "training.cache_gigabytes",
    "codec.slicing",
    "codec.tiling",
)
"""Settings that save memory or time without changing results: published figures still apply."""


@exclusive("benchmark")
def run(options: BenchmarkOptions, reporter: Reporter) -> dict[str, Any]:
    """Run or resume a benchmark and report its tables."""
    check_range("--jobs", options.jobs, 1)
    check_tables(options.out)
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    known = [category for category in chosen if category.test]
    if not known:
        raise InputError(
            f"{options.data}: expected categories with test images, found none; see 'mendiff check --help'."
        )
    readable = readable_categories(known, reporter)
    bench = _bench(options, known)
    jobs = planned(bench, choose_device(options.device))
    every = identified(with_shared_inputs(jobs, bench.given), known, reporter)
    check_folder(options.out, every)
    folders = [prepared(options.out, name, job) for name, job in every.items()]
    used = {path for one in readable for path in one.train}
    left_out = {path for one in known for path in one.train} - used
    note_contents(options.out / "jobs" / CONTENTS, sorted(left_out))
    for line in notes(bench, folders):
        reporter.say(f"note: {line}")
    failed = run_all(folders, options.jobs, options.ray, reporter)
    results = list(collected([*folders, *others_of(options.out, folders)]))
    found = figures(results, printed(bench))
    written = [str(one) for one in write_tables(options.out, results, found)]
    if results:
        show(found, results, reporter)
        reporter.say(f"tables: {', '.join(written)}")
    if failed:
        first = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(folders)} jobs failed, the first is {first[0].name}: {first[1]} "
            "The tables contain the other jobs; the same command resumes the failed ones."
        )
    return {"results": results, "figures": [asdict(one) for one in found], "tables": written}


def _bench(options: BenchmarkOptions, known: Sequence[Category]) -> Bench:
    """The benchmark of the options, on categories with test images."""
    if options.suite:
        check_choice("--suite", options.suite, SUITES)
    suite = SUITES[options.suite] if options.suite else None
    check_choice("--statistics", options.statistics, STATISTICS)
    rows, multi_class = chosen_rows(
        suite, options.ablation, options.methods, options.settings, options.preset
    )
    weights = options.features_weights
    same = {
        name: getattr(options, name) for name in ("layout", "preset", "features", "features_input", "half")
    }
    return Bench(
        rows=rows,
        categories=names_of(suite, known),
        multi_class=options.multi_class or multi_class,
        data=options.data.resolve(),
        seeds=options.seeds or [0],
        features_weights=None if weights is None else weights.resolve(),
        suite=suite,
        given=SharedInputs(**{one.name: getattr(options, one.name) for one in fields(SharedInputs)}),
        **same,
    )


def check_tables(out: Path) -> None:
    """Refuse a folder with files that tables would replace; remove temporary files of killed commands."""
    check_writable(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, but it is a file; choose another name.")
    theirs = [name for name in TABLES if (out / name).exists()]
    if theirs and not {"results", "figures"} <= _content(out / RESULTS).keys():
        raise InputError(
            f"{out}: expected a new folder or that of a benchmark, but it has a {theirs[0]} from something "
            "else; choose another folder."
        )
    for left in (*out.glob(".*.part"), *out.glob("jobs/*/.*.part")):
        left.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (InputError, OSError):
        return {}


def notes(bench: Bench, folders: Sequence[Path]) -> Iterator[str]:
    """Notes about the run and its tables, to be shown before it starts."""
    moved = sum((folder / MOVED).is_file() for folder in folders)
    if moved:
        yield f"data or weights of {moved} jobs have moved; their content is unchanged."
    if bench.suite is not None and bench.multi_class != bench.suite.multi_class:
        models = "one model for all categories" if bench.suite.multi_class else "a model per category"
        yield f"the paper's results are omitted: they were measured with {models}."
    elif bench.suite is not None and bench.preset.partition("/")[0] == "tiny":
        yield "the paper's results were measured with larger networks (--preset paper) than these rows."


def printed(bench: Bench) -> Published:
    """The published results of the suite, by row, category and metric.

    Only rows without changes have published results, and only if models are fitted to as many categories as
    in the paper. The published mean is omitted if only a part of the suite's categories is run.
    """
    if bench.suite is None or bench.multi_class != bench.suite.multi_class:
        return {}
    whole = not set(bench.categories) < set(bench.suite.categories)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in bench.rows:
        if row.changes or row.settings.keys() - set(SAME_RESULTS):
            continue
        by_category = found.setdefault(row.label, {})
        for table in map(papers.find_table, bench.suite.tables):
            column = _column(table, row.method)
            rows = {**table.categories, **({MEAN: table.mean} if whole else {})}
            for category, columns in rows.items():
                by_category.setdefault(category, {}).update(columns.get(column, {}))
    return found


def _column(table: papers.Table, method: str) -> str:
    """The column of a method in a paper's table; "" without such a column."""

    def letters(name: str) -> str:
        return slug(name).replace("-", "")

    same = (column for column in table.columns if letters(column) == letters(method))
    return table.methods.get(method) or next(same, "")


def write_tables(out: Path, results: Sequence[Mapping[str, Any]], found: Sequence[Figure]) -> list[Path]:
    """The results as JSON, CSV, Markdown and LaTeX."""
    tables = [as_markdown(found, metrics) for metrics in groups(found)]
    others = (decisions_as_markdown, stops_as_markdown, costs_as_markdown)
    tables += filter(None, (table(results) for table in others))
    texts = {
        RESULTS: as_json({"results": list(results), "figures": [asdict(one) for one in found]}, RESULTS, 2)
        + "\n",
        "results.csv": as_csv(found),
        "results.md": "\n".join(tables) if results else "",
        "results.tex": "\n".join(as_latex(found, metrics) for metrics in groups(found)) if found else "",
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in texts]


def show(found: Sequence[Figure], results: Sequence[Mapping[str, Any]], reporter: Reporter) -> None:
    """Report a table per category, and a second one with clean twins."""
    by_key = {(one.label, one.category, one.metric): one for one in found}
    for category, metrics in product(unique(one.category for one in found), groups(found)):
        table = Table(category, ["row", *(metric.replace("_", "\n") for metric in metrics)])
        for label in unique(one.label for one in found):
            table.add(label, *(_cell(by_key.get((label, category, metric))) for metric in metrics))
        if any(cell != NOTHING for row in table.rows for cell in row[1:]):
            reporter.table(table)


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return NOTHING
    deviation = "" if figure.deviation is None else f" ±{figure.deviation:.3f}"
    difference = "" if figure.difference is None else f"\n({figure.difference:+.3f})"
    return f"{figure.value:.3f}{deviation}{difference}"
