"""GLAD tiny on real categories, beside the two controls: one fit per category, one fixed read-out.

    python benchmarks/real_images.py DATA --features mobilenetv2_100 --features-weights FILE -o runs/real

DATA holds categories in MVTec layout. Prints a Markdown table and writes results.json; finished
categories are kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.commands import evaluate
from mendiff.commands.common import Terminal
from mendiff.commands.fit import Plan, fit
from mendiff.evaluation.data import open_data

COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--features")
    parser.add_argument("--features-weights", type=Path)
    parser.add_argument("--categories", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    terminal = Terminal()
    plan = Plan(features=options.features, features_weights=options.features_weights, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for category in open_data(options.data):
        if options.categories and category.name not in options.categories:
            continue
        place = options.out / category.name
        if not place.is_dir():
            fit(plan, [category], place, terminal)
        model = load(place)
        tests = evaluate.read_tests(category, model.image_size, terminal)
        found = evaluate.find(model, tests, 8, terminal, category.name)
        rows = {"GLAD tiny": evaluate.measure(tests, found.score, found.anomaly_map)}
        rows.update(evaluate.measure_controls(model, category, tests))
        results[category.name] = {"rows": rows, "info": model.info, "image_size": model.image_size}
        (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(as_markdown(results))


def as_markdown(results: dict[str, Any]) -> str:
    """One line per category and row: the metrics, and how long the fit took."""
    lines = [
        "| category | row | image AUROC | pixel AUROC | pixel AP | AUPRO | fitting |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        for row, metrics in result["rows"].items():
            cells = " | ".join(f"{metrics[column]:.3f}" for column in COLUMNS)
            seconds = f"{result['info']['seconds']:.0f} s" if row == "GLAD tiny" else "–"
            lines.append(f"| {name} | {row} | {cells} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
