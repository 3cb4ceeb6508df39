"""Several categories in one model: DiAD beside its baselines, RAN and GLAD, or the ablation of its Table 7.

    python benchmarks/diad_tables.py DATA --features mobilenetv2_100 --features-weights FILE -o runs/diad
    python benchmarks/diad_tables.py DATA --ablation sff -o runs/sff ...

DATA holds categories in MVTec layout. Every row is one model of all of them, fitted from scratch with the
same seed, shown every category equally often, with one set of scales for all. Prints Markdown: detection and
localisation as in the paper's Tables 1 to 4. Finished models and rows are kept, so that an interrupted run
goes on.
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
from mendiff.evaluation.metrics import summary
from mendiff.nets.denoiser import conditional_unet

CLS = ("image_auroc", "image_ap", "image_f1max")
SEG = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
PIXELS: dict[str, Any] = {
    "guide": None,
    "codec.kind": "pixels",
    "denoiser.network": conditional_unet(16, 32, 64, 96, 128),
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "DiAD": ("diad", {}),
    "LDM: DiAD without SG network": ("diad", {"guide": None}),
    "DDPM: the same on single pixels": ("diad", PIXELS),
    "RAN": ("ran", {}),
    "GLAD": ("glad", {}),
}
SFF: dict[str, tuple[str, dict[str, Any]]] = {
    "SD": ("diad", {"guide": None}),
    "SD, MSG": ("diad", {"guide.middle_alone": True}),
    "SD, MSG, SGEB3": ("diad", {"guide.skips": [3], "guide.fusion": "none"}),
    "SD, MSG, SGEB3, SGEB4": ("diad", {"guide.skips": [3, 4], "guide.fusion": "none"}),
    "SD, MSG, SFF with BN and ReLU": ("diad", {"guide.fusion": "bn_relu"}),
    "SD, MSG, SFF with IN and SiLU": ("diad", {}),
}
"""SGEB4 is the SG network's last level, SGEB3 the last but one."""


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--features-weights", type=Path, required=True)
    parser.add_argument("--ablation", choices=["sff"])
    parser.add_argument("--rows", type=int, nargs="+", help="which rows, counted from 1; all unless given")
    parser.add_argument("--steps", type=int, help="of training, in place of the presets'")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = list((SFF if options.ablation else ROWS).items())
    chosen = [rows[number - 1] for number in options.rows] if options.rows else rows
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, (method, settings) in chosen:
        if name not in results:
            results[name] = measured(options, name, method, settings)
            kept.write_text(json.dumps(results, indent=2) + "\n")
    print(as_markdown(results))


def measured(options: argparse.Namespace, name: str, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fit a row's model, unless it is there, and measure it on every category."""
    terminal, categories = Terminal(), open_data(options.data)
    place = options.out / name.replace(" ", "_").replace(":", "").replace(",", "")
    if not place.is_dir():
        if options.steps:
            settings = settings | {"training.steps": options.steps}
        backbone = (options.features, options.features_weights)
        plan = Plan(method, "tiny", settings, *backbone, seed=options.seed, balance="category")
        fit(plan, categories, place, terminal)
    model = load(place)
    metrics, everything = {}, []
    for category in categories:
        tests = evaluate.read_tests(category, model.image_size, terminal)
        found = evaluate.find(model, tests, 8, terminal, category.name)
        metrics[category.name] = evaluate.measure(tests, found.score, found.anomaly_map)
        everything.append((found.score, tests.labels, found.anomaly_map, tests.masks))
    return {**summary(metrics, evaluate.pooled(everything)), "seconds": model.info["seconds"]}


def as_markdown(results: dict[str, dict[str, Any]]) -> str:
    """A row per model: AUROC/AP/F1max of images, and with AUPRO of pixels, by category and in the mean."""
    names = [*next(iter(results.values()))["categories"], "mean", "pooled"]
    lines = [
        "| model | fitting | " + " | ".join(f"{name}: cls | seg" for name in names) + " |",
        "|---" * (2 + 2 * len(names)) + "|",
    ]
    for row, found in results.items():
        groups = {**found["categories"], "mean": found["mean"], "pooled": found["pooled"]}
        cells = [
            "/".join(f"{100 * groups[name][metric]:.1f}" for metric in metrics)
            for name in names
            for metrics in (CLS, SEG)
        ]
        lines.append(f"| {row} | {found['seconds']:.0f} s | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
