"""`mendiff benchmark`: methods, controls and anomalib's models side by side, as jobs that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from rich.table import Table

from mendiff.checkpoints.files import as_json, read_json
from mendiff.commands.bench import Bench, Given, chosen_rows, handed_out, identified, names_of, planned
from mendiff.commands.common import Terminal, checked, choose_categories, choose_device
from mendiff.commands.fit import STATISTICS
from mendiff.commands.locks import alone
from mendiff.commands.queue import check_folder, collected, others_of, prepared, run_all
from mendiff.commands.spec import MOVED, slug
from mendiff.errors import InputError
from mendiff.evaluation import papers
from mendiff.evaluation.data import open_data
from mendiff.evaluation.suites import SUITES
from mendiff.evaluation.tables import (
    MEAN,
    Figure,
    Published,
    as_csv,
    as_latex,
    as_markdown,
    costs_as_markdown,
    figures,
    groups,
    stops_as_markdown,
    unique,
)
from mendiff.images import check_writable, write_bytes

RESULTS = "results.json"
TABLES = (RESULTS, "results.csv", "results.md", "results.tex")
SAME_RESULTS = (
    "training.accumulate",
    "training.checkpointing",
    "training.cache_latents",
    "codec.slicing",
    "codec.tiling",
)
"""Settings that save memory or time: a method under its published settings stays that."""


@alone("benchmark")
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
    pretrained: str | None,
    prompt: Path | None,
    codec: Path | None,
    textures: Path | None,
    statistics: str,
    jobs: int,
    ray: str | None,
    device: str,
    half: bool,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Run or resume a benchmark and print its tables."""
    terminal = Terminal(quiet)
    if jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {jobs}.")
    check_tables(out)
    known = [one for one in choose_categories(open_data(data, layout), categories) if one.test]
    if not known:
        raise InputError(
            f"{data}: expected categories with test images, found none; see 'mendiff check --help'."
        )
    checked(known, terminal)
    named = SUITES.get(suite) if suite else None
    if suite and named is None:
        raise InputError(f"--suite: expected one of {', '.join(SUITES)}, got {suite!r}.")
    if statistics not in STATISTICS:
        raise InputError(f"--statistics: expected one of {', '.join(STATISTICS)}, got {statistics!r}.")
    rows, together = chosen_rows(named, ablation, methods, settings, preset)
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
        given=Given(pretrained, prompt, codec, textures, statistics),
        half=half,
    )
    every = identified(handed_out(planned(bench, choose_device(device)), bench.given), known, terminal)
    check_folder(out, every)
    folders = [prepared(out, name, job) for name, job in every.items()]
    for line in notes(bench, folders):
        terminal.say(f"note: {line}")
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


def check_tables(out: Path) -> None:
    """Refuse a place where tables would replace files of others; what killed commands left there goes."""
    check_writable(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, but it is a file; choose another name.")
    theirs = [name for name in TABLES if (out / name).exists()]
    if theirs and not {"results", "figures"} <= _content(out / RESULTS).keys():
        raise InputError(
            f"{out}: expected a new folder or that of a benchmark, but it holds another {theirs[0]}; choose "
            "another place."
        )
    for left in (*out.glob(".*.part"), *out.glob("jobs/*/.*.part")):
        left.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (InputError, OSError):
        return {}


def notes(bench: Bench, folders: Sequence[Path]) -> Iterator[str]:
    """What a person should know of the run and its tables beforehand."""
    moved = sum((folder / MOVED).is_file() for folder in folders)
    if moved:
        yield f"data or weights of {moved} jobs lie elsewhere than before, with the same content."
    if bench.suite is not None and bench.multi_class != bench.suite.multi_class:
        models = "one model for all categories" if bench.suite.multi_class else "a model for every category"
        yield f"the paper's figures are left out: they are of {models}."
    elif bench.suite is not None and bench.preset.partition("/")[0] == "tiny":
        yield "the paper's figures are of networks of its size (--preset paper), these rows of small ones."


def printed(bench: Bench) -> Published:
    """What the suite's papers print, beside the rows that are of the same method and nothing else.

    That is a row without changes, of ours or of another method that stands in the same tables, fitted to as
    many categories at once as in the paper. Its mean is not that of a part of the suite's categories.
    """
    if bench.suite is None or bench.multi_class != bench.suite.multi_class:
        return {}
    whole = not set(bench.categories) < set(bench.suite.categories)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in bench.rows:
        if row.changes or row.settings.keys() - set(SAME_RESULTS):
            continue
        places = found.setdefault(row.label, {})
        for table in map(papers.find_table, bench.suite.tables):
            column = _column(table, row.method)
            rows = {**table.categories, **({MEAN: table.mean} if whole else {})}
            for place, columns in rows.items():
                places.setdefault(place, {}).update(columns.get(column, {}))
    return found


def _column(table: papers.Table, method: str) -> str:
    """The column of a method in a paper's table; empty where it has none."""
    alike = (one for one in table.columns if _letters(one) == _letters(method))
    return table.methods.get(method) or next(alike, "")


def _letters(name: str) -> str:
    return slug(name).replace("-", "")


def write_tables(out: Path, results: Sequence[Mapping[str, Any]], found: Sequence[Figure]) -> list[Path]:
    """The results as JSON, CSV, Markdown and LaTeX."""
    tables = [as_markdown(found, metrics) for metrics in groups(found)]
    told = [stops_as_markdown(results), costs_as_markdown(results)]
    texts = {
        RESULTS: as_json({"results": list(results), "figures": [asdict(one) for one in found]}, RESULTS, 2)
        + "\n",
        "results.csv": as_csv(found),
        "results.md": "\n".join([*tables, *filter(None, told)]) if results else "",
        "results.tex": "\n".join(as_latex(found, metrics) for metrics in groups(found)) if found else "",
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in texts]


def show(found: Sequence[Figure], results: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """One table per category for the terminal, two where there are clean twins."""
    at = {(one.label, one.category, one.metric): one for one in found}
    for place, metrics in product(unique(one.category for one in found), groups(found)):
        table = Table(title=place, title_justify="left")
        table.add_column("row", overflow="fold")
        for metric in metrics:
            table.add_column(metric.replace("_", "\n"), justify="right")
        for label in unique(one.label for one in found):
            cells = [at.get((label, place, metric)) for metric in metrics]
            table.add_row(label, *(_cell(one) for one in cells))
        terminal.table(table)


def _cell(one: Figure | None) -> str:
    if one is None or one.value is None:
        return "n/a"
    deviation = "" if one.deviation is None else f" ±{one.deviation:.3f}"
    return f"{one.value:.3f}{deviation}" + ("" if one.difference is None else f"\n({one.difference:+.3f})")
