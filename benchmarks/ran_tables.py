r"""RAN's claims on real categories: KL and RGB error, one and several noise scales, one model for all.

    python benchmarks/ran_tables.py DATA --features mobilenetv2_100 --features-weights FILE \
        --features-input tflite -o runs/ran

DATA contains categories in MVTec layout. Fits RAN tiny for every category and once for all together. The rows
are the same networks with other scores; statistics are computed from the good images of the fit. Prints
Markdown tables, and the effect of gradient denoising on good and defective images. Finished models and rows
are stored, so an interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import Category, open_data
from mendiff.diffusion.random import content_seeds
from mendiff.model import Model
from mendiff.runs import testing
from mendiff.runs.fit_config import Plan
from mendiff.runs.variants import variant
from mendiff.workflows.fit import fit

COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
ALONE: dict[str, dict[str, Any]] = {
    "KL alone": {"readout.kl_weight": 1.0},
    "RGB error alone": {"readout.kl_weight": 1.0, "readout.pixel_score": "rgb"},
    "feature error alone": {"readout.kl_weight": 0.0},
}
UNIFIED = "unified"
EXPLAINED = 8
"""Maximum number of good, and of defective, test images per category for gradient denoising."""


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--features-weights", type=Path, required=True)
    parser.add_argument("--features-input", help="tflite for weights that come from TensorFlow Lite")
    parser.add_argument(
        "--steps", type=int, help="training steps (default: as many as fit into the preset's minutes)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    terminal, categories = Terminal(), open_data(options.data)
    plan = Plan(
        "ran",
        settings={} if options.steps is None else {"training.steps": options.steps},
        features=options.features,
        features_weights=options.features_weights,
        features_input=options.features_input,
        seed=options.seed,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, members in [*((one.name, [one]) for one in categories), (UNIFIED, categories)]:
        if not (options.out / name).is_dir():
            fit(plan, members, options.out / name, terminal)
    for category in categories:
        rows = results.setdefault(category.name, {})
        for row, found in measured(category, rows, options.out, terminal):
            rows[row] = found
            kept.write_text(json.dumps(results, indent=2) + "\n")
    print(as_markdown(results))


def measured(
    category: Category, done: dict[str, Any], out: Path, terminal: Terminal
) -> Iterator[tuple[str, dict[str, float]]]:
    """Metrics of every unfinished row."""
    model = load(out / category.name)
    tests = testing.read_tests(category, model.image_size, terminal)
    steps = model.method.config.start_timesteps  # type: ignore[attr-defined]
    variants: dict[str, dict[str, Any]] = {"RAN tiny": {}, **ALONE}
    variants |= {f"t = {step} alone": {"start_timesteps": [step]} for step in steps}
    for row, changes in variants.items():
        if row not in done:
            yield row, figures(variant(model, changes, category.train), tests, terminal, row)
    if UNIFIED not in done:
        unified = load(out / UNIFIED)
        tests_of_its_size = testing.read_tests(category, unified.image_size, terminal)
        yield UNIFIED, figures(unified, tests_of_its_size, terminal, UNIFIED)
    if "gradient denoising" not in done:
        yield "gradient denoising", gradient_figures(model, tests)


def figures(model: Model, tests: testing.TestSet, terminal: Terminal, row: str) -> dict[str, float]:
    """The metrics of a model on a test set."""
    found = testing.find(model, tests, 4, terminal, row)
    return dict(testing.measure(tests, found.score, found.anomaly_map))


@torch.no_grad()
def gradient_figures(model: Model, tests: testing.TestSet) -> dict[str, float]:
    """Mean Mahalanobis distance before and after, and mean change in grey levels, of good and bad images."""
    result = {}
    ran: Any = model.method
    for name, label in (("good", False), ("defective", True)):
        images = tests.images[tests.labels == label][:EXPLAINED]
        walked = ran.gradient_steps(images, content_seeds(images))
        distances = [distance(ran, ran.codec.decode(one)) for one in walked]
        result[f"{name}_before"], result[f"{name}_after"] = distances[0], distances[-1]
        result[f"{name}_rises"] = sum(b > a for a, b in pairwise(distances))
        result[f"{name}_change"] = 255 * float((ran.codec.decode(walked[-1]) - images).abs().mean())
    return result


def distance(ran: Any, images: Tensor) -> float:
    """Mean squared Mahalanobis distance per feature and position."""
    return float(ran.gaussians(ran.features(images)).mean())


def as_markdown(results: dict[str, dict[str, Any]]) -> str:
    """Rows of metrics for every category, then gradient denoising."""
    lines = [
        f"| row | {' | '.join(results)} |",
        "|---" * (len(results) + 1) + "|",
    ]
    rows = [row for row in next(iter(results.values())) if row != "gradient denoising"]
    for row in rows:
        cells = [" / ".join(f"{found[row][one]:.3f}" for one in COLUMNS) for found in results.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += [
        "",
        "| gradient denoising | good: distance | change | defective: distance | change |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        one = found["gradient denoising"]
        cells = [
            f"{one[f'{kind}_before']:.3f} to {one[f'{kind}_after']:.3f} | {one[f'{kind}_change']:.1f} of 255"
            for kind in ("good", "defective")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
