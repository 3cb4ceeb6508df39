"""What several commands need: a device, a place to write, progress on the terminal, and loaded test images."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mendiff.errors import InputError
from mendiff.evaluation.data import Category

Item = TypeVar("Item")

METRIC_TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1max",
    "aupro": "AUPRO",
}
# Files that only mendiff writes at the top of an output folder: --overwrite never deletes anything else.
MARKERS = ("config.json", "predictions.json", "demo.json")


def choose_device(name: str) -> str:
    """torch's name of the device: "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        there = ", ".join(["cpu", *(["cuda"] * torch.cuda.is_available()), *(["mps"] * torch.backends.mps.is_available())])
        raise InputError(f"--device: expected one that this machine has ({there}), got {name!r}.") from error
    return name


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that is in use, before any work is done."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, but it is a file; choose another name.")
    if not overwrite:
        raise InputError(f"{out}: expected a new or empty output folder, but it holds files; add --overwrite or choose another.")
    if not any((out / marker).is_file() for marker in MARKERS):
        raise InputError(f"{out}: --overwrite only replaces what mendiff wrote, but this folder holds other files; choose another.")


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A draft folder that becomes `out` when the block ends well, and vanishes when it does not."""
    check_output(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        yield draft
        if out.exists():
            shutil.rmtree(out)
        os.rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class Terminal:
    """Progress, notes and tables for people, on standard error so that standard output stays clean.

    Args:
        quiet: say warnings only.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(file=sys.stderr, highlight=False)

    def say(self, text: str) -> None:
        """One line of news."""
        if not self.quiet:
            self.console.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that matters even with --json."""
        self.console.print(f"warning: {text}", style="yellow", soft_wrap=True, markup=False)

    def table(self, table: Table) -> None:
        """A table of results."""
        if not self.quiet:
            self.console.print(table)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int, str], None]]:
        """A progress bar with time left; yields what to call with (done, total, note)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, disable=self.quiet) as progress:
            task = progress.add_task(title, total=None, note="")
            yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)

    def track(self, items: Sequence[Item], title: str, size: int = 1) -> Iterator[Item]:
        """Pass items on under a progress bar; each stands for `size` steps of it."""
        with self.bar(title) as update:
            total = len(items) * size
            update(0, total)
            for index, item in enumerate(items):
                yield item
                update((index + 1) * size, total)


def choose_categories(categories: list[Category], wanted: Sequence[str] | None) -> list[Category]:
    """The categories that were asked for; all if none were."""
    if not wanted:
        return categories
    by_name = {category.name: category for category in categories}
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise InputError(f"--categories: expected some of {', '.join(by_name)}, got {unknown[0]!r}.")
    return [by_name[name] for name in wanted]


def metrics_table(summary: dict[str, Any], title: str) -> Table:
    """The metrics of every category and their mean, for the terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("category")
    for name in METRIC_TITLES.values():
        table.add_column(name, justify="right")
    rows: Iterable[tuple[str, dict[str, Any]]] = summary["categories"].items()
    if len(summary["categories"]) > 1:
        rows = [*rows, ("mean", summary["mean"])]
    for name, metrics in rows:
        cells = (metrics.get(key) for key in METRIC_TITLES)
        table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in cells), end_section=name == "mean")
    return table
