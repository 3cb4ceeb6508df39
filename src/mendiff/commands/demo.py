"""`mendiff demo`: draw parts, learn from the good ones, find the defects, and write a report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.commands.common import Terminal, check_output, choose_device, metrics_table, new_folder
from mendiff.commands.evaluate import find, measure, page, read_tests
from mendiff.commands.fit import Plan, fit
from mendiff.demo.data import CATEGORIES, DemoConfig, make_data
from mendiff.errors import InputError
from mendiff.evaluation.data import open_data
from mendiff.evaluation.metrics import summary
from mendiff.images import write_bytes
from mendiff.report.html import Report, write_report


def run(
    out: Path,
    make_data: Path | None,
    categories: Sequence[str] | None,
    seed: int,
    device: str,
    overwrite: bool,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """The whole demo, or with `make_data` only its data set."""
    terminal = Terminal(quiet)
    unknown = [name for name in categories or () if name not in CATEGORIES]
    if unknown:
        raise InputError(f"--categories: expected some of {', '.join(CATEGORIES)}, got {unknown[0]!r}.")
    config = DemoConfig(categories=tuple(categories or CATEGORIES), seed=seed)
    if make_data is not None:
        draw(make_data, config, terminal)
        return {"data": str(make_data), "categories": list(config.categories)}
    check_output(out, overwrite)
    plan = Plan(settings=settings, seed=seed, device=choose_device(device))
    began = time.monotonic()
    with new_folder(out, overwrite) as draft:
        draw(draft / "data", config, terminal)
        result = _fit_and_report(draft, plan, terminal)
        result["seconds"] = round(time.monotonic() - began, 1)
        write_bytes(draft / "demo.json", (json.dumps(result, indent=2) + "\n").encode())
    terminal.say(f"done in {result['seconds']:.0f} s; open {out / 'report.html'} in a browser")
    terminal.say(f"next: mendiff fit YOUR-GOOD-PHOTOS -o model, then mendiff predict model PHOTOS -o findings")
    return result


def draw(folder: Path, config: DemoConfig, terminal: Terminal) -> None:
    """Draw the data set under a progress bar."""
    with terminal.bar("drawing parts") as update:
        make_data(folder, config, lambda done, total: update(done, total, ""))
    terminal.say(f"data: {folder}")


def _fit_and_report(folder: Path, plan: Plan, terminal: Terminal) -> dict[str, Any]:
    """One model per category of folder/data, their metrics, and folder/report.html."""
    results, pages, info = {}, [], {}
    for category in open_data(folder / "data"):
        place = folder / "models" / category.name
        fit(plan, [category], place, terminal)
        model = load(place, plan.device)
        tests = read_tests(category, model.image_size, terminal)
        found = find(model, tests, 8, terminal, category.name)
        results[category.name] = measure(tests, found.score, found.anomaly_map)
        pages.append(page(model, category.name, tests, found, results[category.name]))
        info = {"method": model.name, **dataclasses.asdict(plan), "steps": model.method.config.training.steps}
    result = summary(results)
    terminal.table(metrics_table(result, "defects in parts the models have never seen"))
    title, subtitle = "mendiff demo", "GLAD tiny, trained on good images only, without pretrained weights"
    write_report(folder / "report.html", Report(title, subtitle, pages, result, info))
    return result
