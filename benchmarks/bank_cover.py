"""A memory bank alone: uniform or covering sampling of positions, original or aligned images.

    python benchmarks/bank_cover.py DATA [DATA ...] --size 256

DATA is a category. Features are the bundled ones, in float32. The memory bank is the baseline of
`mendiff evaluate`, built from up to 200 good images. Aligned images are measured only if the good images
meet the condition for alignment. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from mendiff.checkpoints.bundled import fill, resolved
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.evaluation.baselines import fit_memory_bank
from mendiff.methods.base import find_method, find_preset
from mendiff.runs import testing
from mendiff.scoring import bank as banks
from mendiff.synthesis.upright import Frame, orientations_vary, pose_of
from mendiff.types import Detection

MOST = 200
"""Maximum number of good images for a memory bank."""
SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap")


def uniform(vectors: Tensor, count: int, rng: Generator) -> Tensor:
    """Indices of uniformly sampled positions."""
    return torch.randperm(len(vectors), generator=rng)[:count]


def figures(features: Any, seen: Tensor, tests: Any, draw: Callable[..., Tensor], *, turn: bool) -> str:
    """Metrics of a memory bank, as a cell of the table."""
    frame = Frame(tests.images, turn=turn)
    banks.covering = draw
    score, maps = fit_memory_bank(features, Frame(seen, turn=turn).image).predict(frame.image)
    maps = frame.undo(Detection(score, maps, frame.image, torch.zeros(len(score)))).anomaly_map
    found = testing.measure(tests, score, maps)
    return " / ".join(f"{found[name]:.3f}" for name in SHOWN)


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    config = find_preset("glad", "tiny")
    method: Any = find_method("glad")(resolved(config))
    fill(method, config)
    covering = banks.covering
    print("| | uniform | covering | covering, aligned |\n|---|---|---|---|")
    for folder in options.data:
        (category,) = open_data(folder)
        tests = testing.read_tests(category, options.size, Terminal(True))
        seen = torch.stack([resize(read_image(path), options.size) for path in category.train[:MOST]])
        cells = [figures(method.features, seen, tests, draw, turn=False) for draw in (uniform, covering)]
        turn = orientations_vary(pose_of(seen))
        cells.append(figures(method.features, seen, tests, covering, turn=True) if turn else "")
        print(f"| {category.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
