"""Stops, scores and time of GLAD's stop rule with all stop maps and with the likely ones only.

    python benchmarks/stop_checks.py MODEL DATA [--every 4] [--batch 4] [--half | --half-likely]

MODEL is an adaptive GLAD model, such as preset small. Every n-th test image of DATA is predicted with
`stop_checks` "all" and "likely", in turn and in alternating order, on the same threads. Prints a Markdown
table: images with the same stop timestep, the largest relative difference of scores, stop maps per image, and
the median over batches of the ratio of times, for good and for defective images; and the rank correlation of
the scores of all images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from mendiff.checkpoints.store import load
from mendiff.data.dataset import GOOD, open_data
from mendiff.methods.glad import Glad
from mendiff.model import Model
from mendiff.types import Detection

MODES = ("all", "likely")


@dataclass
class Counts:
    """Results of one kind of images."""

    images: int = 0
    same: int = 0
    difference: float = 0.0
    maps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODES, 0))
    ratios: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})


def predict(model: Model, images: Tensor, mode: str, half: bool) -> tuple[Detection, int, float]:
    """(result, number of stop maps, seconds) of a batch."""
    glad: Any = model.method
    glad.config = replace(glad.config, stop_checks=mode)
    maps, compute = 0, type(glad).stop_map

    def counted(generated: Tensor, truth: Tensor) -> Tensor:
        nonlocal maps
        maps += len(generated)
        found: Tensor = compute(glad, generated, truth)
        return found

    glad.stop_map = counted
    began = time.perf_counter()
    with model.in_half() if half else nullcontext():
        found = model.predict_batch(images)
    return found, maps, time.perf_counter() - began


def compare(model: Model, images: Tensor, counts: Counts, half: Sequence[str], first: int) -> None:
    """Predict a batch in both modes, starting with mode number `first`; some modes compute in bfloat16."""
    found = {mode: predict(model, images, mode, mode in half) for mode in (MODES[first], MODES[1 - first])}
    (every, _, slow), (likely, _, fast) = (found[mode] for mode in MODES)
    counts.images += len(images)
    counts.same += int((every.stop_step == likely.stop_step).sum())
    relative = (every.score - likely.score).abs() / every.score.abs()
    counts.difference = max(counts.difference, float(relative.max()))
    counts.ratios.append(slow / fast)
    for mode in MODES:
        counts.maps[mode] += found[mode][1]
        counts.scores[mode] += found[mode][0].score.tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="data with test images")
    parser.add_argument("--every", type=int, default=1, help="take every n-th test image (default: 1)")
    parser.add_argument("--batch", type=int, default=4)
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument("--half", action="store_true", help="compute the networks in bfloat16")
    halves.add_argument("--half-likely", action="store_true", help='... with "likely" only')
    options = parser.parse_args()
    half = MODES if options.half else MODES[1:] if options.half_likely else ()
    scores: dict[str, list[float]] = {mode: [] for mode in MODES}
    model = load(options.model, "cpu")
    if not isinstance(model.method, Glad) or not model.method.config.adaptive:
        parser.error(f"{options.model}: expected a GLAD model with an adaptive search, such as preset small")
    columns = ["images", "same stop", "largest difference of scores"]
    columns += [f"stop maps, {mode}" for mode in MODES] + ["times faster"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    tests = [sample for category in open_data(options.data, "auto") for sample in category.test]
    for kind in ("good", "defective"):
        chosen = [one for one in tests if (one.label == GOOD) == (kind == "good")][:: options.every]
        counts = Counts()
        for number, start in enumerate(range(0, len(chosen), options.batch)):
            batch = [model.prepare(one.path) for one in chosen[start : start + options.batch]]
            compare(model, torch.stack(batch), counts, half, number % 2)
        cells = [f"{counts.images} {kind}", str(counts.same), f"{counts.difference:.1e}"]
        cells += [f"{counts.maps[mode] / counts.images:.1f}" for mode in MODES]
        print(f"| {' | '.join([*cells, f'{median(counts.ratios):.2f}'])} |", flush=True)
        for mode in MODES:
            scores[mode] += counts.scores[mode]
    print(f"\nrank correlation of scores: {spearmanr(*scores.values()).statistic:.5f}")


if __name__ == "__main__":
    main()
