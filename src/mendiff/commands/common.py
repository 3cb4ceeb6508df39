"""What several commands need: a device, data, progress and tables on the terminal."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mendiff.commands.ending import READER_GONE, one_line
from mendiff.data.names import same_name
from mendiff.data.reading import brightest, read_header
from mendiff.errors import InputError
from mendiff.evaluation.checks import UNREADABLE, check_data
from mendiff.evaluation.data import GOOD, Category
from mendiff.evaluation.fitness import dark_sentence
from mendiff.evaluation.samples import Use

Item = TypeVar("Item")

METRIC_TITLES = {
    "image_auroc": "image\nAUROC",
    "image_ap": "image\nAP",
    "image_f1max": "image\nF1max",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "pixel\nAP",
    "pixel_f1max": "pixel\nF1max",
    "aupro": "\nAUPRO",
}
MOST_TOLD = 5
"""Warnings of one kind that a command prints; `mendiff check` prints all."""
FIRST_DEEP = 8
"""16-bit images whose values `predict` looks at before it starts."""
LINE_SECONDS = 30.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


def choose_device(name: str) -> str:
    """The device by torch's name: "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    there = ["cpu", *(["cuda"] * torch.cuda.is_available()), *(["mps"] * torch.backends.mps.is_available())]
    refusal = InputError(
        f"--device: expected auto or one of this machine's ({', '.join(there)}), got {name!r}."
    )
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise refusal
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise refusal from error
    return name


class Lines:
    """Progress for a file or a pipe: a line now and then, in place of a bar.

    Args:
        say: prints a line.
        title: what is under way.
        last: whether the end is worth a line, too.
    """

    def __init__(self, say: Callable[[str], None], title: str, last: bool) -> None:
        self._say, self._title, self._last = say, title, last
        self._began = self._told = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, note: str) -> None:
        """Tell how far it is, unless that was told a moment ago."""
        now = time.monotonic()
        # A resumed work does not begin at 0, and getting ready for the first step may take long.
        self._first = self._first or (done, now)
        if not (done == total and self._last) and now - self._told < LINE_SECONDS:
            return
        self._told = now
        first, then = self._first
        parts = [f"{self._title} {done}/{total}", _clock(now - self._began)]
        if done > first:
            parts.append(f"{_clock((now - then) * (total - done) / (done - first))} left")
        self._say(", ".join([*parts, note] if note else parts))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Output(Console):
    """A console whose reader may go, such as `head`: the work goes on, and the command's end tells."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True
        if not self.stderr:
            READER_GONE.set()


class Terminal:
    """Progress and notes for people on standard error, tables of results on standard output.

    Args:
        quiet: say warnings only.
        fleeting: progress bars vanish when they are full.
        mute: say nothing at all: another process does.
    """

    def __init__(self, quiet: bool = False, fleeting: bool = False, mute: bool = False) -> None:
        self.quiet, self.fleeting, self.mute = quiet or mute, fleeting, mute
        self.console = Output(stderr=True, highlight=False, quiet=mute)

    def say(self, text: str) -> None:
        """One line of news."""
        if not self.quiet:
            self.console.print(one_line(text), soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """One line that matters even with --json."""
        told = one_line(f"warning: {text}")
        self.console.print(told, style="yellow", soft_wrap=True, markup=False)

    def table(self, table: Table) -> None:
        """A table of results."""
        if not self.quiet:
            Output(highlight=False).print(table)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int, str], None]]:
        """A progress bar with time left; yields what to call with (done, total, note)."""
        if not self.console.is_terminal and not self.quiet:
            yield Lines(self.say, title, last=not self.fleeting)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, disable=self.quiet, transient=self.fleeting
        ) as progress:
            task = progress.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str) -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield update

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int, str], None]]:
        """Progress bars one after another; yields what to call with (title, done, total, note)."""
        with ExitStack() as shown:
            now: list[Any] = ["", None]

            def update(title: str, done: int, total: int, note: str) -> None:
                if title != now[0]:
                    shown.close()
                    now[:] = [title, shown.enter_context(self.bar(title))]
                now[1](done, total, note)

            yield update

    def track(self, items: Sequence[Item], title: str) -> Iterator[Item]:
        """Pass items on under a progress bar."""
        with self.bar(title) as update:
            total = len(items)
            update(0, total, "")
            for index, item in enumerate(items):
                yield item
                update(index + 1, total, "")


def choose_categories(categories: list[Category], wanted: Sequence[str] | None) -> list[Category]:
    """The categories that were asked for; all if none were, or with the word all."""
    if not wanted or list(wanted) == ["all"]:
        return categories
    by_name = {same_name(category.name): category for category in categories}
    wanted = [same_name(name) for name in wanted]
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise InputError(f"--categories: expected some of {', '.join(by_name)}, got {unknown[0]!r}.")
    return [by_name[name] for name in wanted]


def checked(categories: Sequence[Category], terminal: Terminal, use: Use | None = None) -> list[Category]:
    """The categories without the images that can't be read; other faults are an error or a warning each.

    Args:
        categories: as `open_data` gives them.
        terminal: for warnings.
        use: how a model will take the images, where that is known.
    """
    with Terminal(terminal.quiet, fleeting=True).bar("checking") as update:
        findings = check_data(categories, update, use)
    hard = [finding for finding in findings if finding.hard]
    if hard:
        more = f" {len(hard) - 1} more: see 'mendiff check'." if len(hard) > 1 else ""
        raise InputError(hard[0].sentence + more)
    told: Counter[str] = Counter()
    for finding in findings:
        told[finding.kind] += 1
        if told[finding.kind] <= MOST_TOLD:
            terminal.warn(finding.sentence)
    for kind, count in told.items():
        if count > MOST_TOLD:
            terminal.warn(f"{count - MOST_TOLD} more of this kind ({kind}): see 'mendiff check'.")
    lost = {path for finding in findings if finding.kind == UNREADABLE for path in finding.paths}
    return [
        dataclasses.replace(
            category,
            train=tuple(path for path in category.train if path not in lost),
            test=tuple(sample for sample in category.test if sample.path not in lost),
        )
        for category in categories
    ]


def tell_depth(paths: Sequence[Path], bit_depth: int, terminal: Terminal) -> None:
    """Warn of 16-bit images that are nearly black to a model, by the first of them; `check` looks at all."""
    deep: list[Path] = []
    for path in paths if not bit_depth else ():
        try:
            deep += [path] if read_header(path).deep else []
        except InputError:
            continue  # it is named when its turn comes
        if len(deep) == FIRST_DEEP:
            break
    highest = [value for path in deep if (value := _brightest(path)) is not None]
    sentence = dark_sentence(max(highest, default=-1))
    if sentence:
        terminal.warn(f"{paths[0].parent}: images {sentence}")


def _brightest(path: Path) -> int | None:
    try:
        return brightest(path)
    except InputError:
        return None


def metrics_table(summary: dict[str, Any], title: str) -> Table:
    """The metrics of every category, their mean and all images pooled, for the terminal."""
    table = Table(title=title, title_justify="left")
    # Names fold rather than lose their ends; up to 20 letters fit beside the figures in 80 columns.
    longest = max((len(name) for name in summary["categories"]), default=0)
    table.add_column("category", overflow="fold", min_width=min(max(longest, 8), 20))
    for name in METRIC_TITLES.values():
        table.add_column(name, justify="right")
    rows: Iterable[tuple[str, dict[str, Any]]] = summary["categories"].items()
    if len(summary["categories"]) > 1:
        rows = [*rows, ("mean", summary["mean"])]
    if "pooled" in summary:
        rows = [*rows, ("pooled", summary["pooled"])]
    for name, metrics in rows:
        cells = (metrics.get(key) for key in METRIC_TITLES)
        table.add_row(
            name, *("n/a" if value is None else f"{value:.3f}" for value in cells), end_section=name == "mean"
        )
    return table


def threshold_table(cuts: Mapping[str, Mapping[str, Any]]) -> Table:
    """What every category's threshold does, and what it finds of each kind of defect, for the terminal."""
    table = Table(title="at the threshold from good images", title_justify="left")
    table.add_column("category", overflow="fold")
    for title in ("threshold", "precision", "recall", "false\nalarms"):
        table.add_column(title, justify="right")
    table.add_column("found of each kind", overflow="fold")
    for name, cut in cuts.items():
        shares = (cut[key] for key in ("precision", "recall", "false_alarm_rate"))
        defects = [row for row in cut["types"] if row["type"] != GOOD]
        kinds = [f"{row['type']} {row['flagged']}/{row['images']}" for row in defects]
        cells = ("n/a" if value is None else f"{value:.3f}" for value in shares)
        table.add_row(name, f"{cut['threshold']:.4g}", *cells, ", ".join(kinds))
    return table
