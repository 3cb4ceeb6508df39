"""Largest relative difference of scores between ways of predicting the same images.

    python benchmarks/invariance.py MODEL [MODEL ...] --images DIR [--count 40]

The reference is one image per batch, given as a path. Differences are relative to the distance of the
threshold from the median score of the model's good images, so that they do not depend on where scores have
their zero; the second column divides by the score itself.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

import mendiff
from mendiff.data.image_files import find_images
from mendiff.model import Model

BATCHES = (2, 7, 32)


def scores(model: Model, images: Sequence[Any], batch_size: int = 1) -> np.ndarray:
    """Image scores in float64."""
    found = [one.score for one in model.stream(images, batch_size)]
    return torch.cat(found).double().numpy()


def with_threads(count: int, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """The result of a measurement with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return measure()
    finally:
        torch.set_num_threads(before)


def from_command_line(folder: Path, paths: Sequence[Path]) -> np.ndarray:
    """Scores that `mendiff predict` writes for these images, in the same order."""
    with TemporaryDirectory() as place:
        photos, out = Path(place) / "photos", Path(place) / "out"
        photos.mkdir()
        for number, path in enumerate(paths):
            (photos / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
        command = [sys.executable, "-m", "mendiff", "predict", str(folder), str(photos), "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        rows = list(csv.DictReader((out / "predictions.csv").open()))
    return np.array([float(row["score"]) for row in sorted(rows, key=lambda row: row["image"])])


def variations(folder: Path, model: Model, paths: Sequence[Path]) -> dict[str, Callable[[], np.ndarray]]:
    """Ways of predicting, by title."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(one) for one in pictures]
    tensors = [model.prepare(path) for path in paths]
    order = np.random.default_rng(0).permutation(len(paths))

    def shuffled() -> np.ndarray:
        found = np.empty(len(paths))
        found[order] = scores(model, [paths[at] for at in order], 7)
        return found

    batches = {f"batches of {size}": lambda size=size: scores(model, paths, size) for size in BATCHES}
    return {
        **batches,
        "shuffled, batches of 7": shuffled,
        "2 threads": lambda: with_threads(2, lambda: scores(model, paths)),
        "PIL images": lambda: scores(model, pictures),
        "arrays": lambda: scores(model, arrays),
        "prepared tensors": lambda: scores(model, tensors),
        "command line": lambda: from_command_line(folder, paths),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", help="model folders")
    parser.add_argument("--images", type=Path, required=True, help="a folder of 8-bit images")
    parser.add_argument("--count", type=int, default=40, help="number of images")
    options = parser.parse_args()
    paths = find_images(options.images)[: options.count]
    print(f"{len(paths)} images\n\n| model | way | of the scale | of the score |\n|---|---|---|---|")
    for folder in options.models:
        model = mendiff.load(folder)
        scale = model.threshold - median(model.calibration.scores)
        reference = scores(model, paths)
        for title, measure in variations(folder, model, paths).items():
            difference = np.abs(measure() - reference)
            relative = (difference / np.abs(reference).clip(1e-12)).max()
            print(f"| {model.name} | {title} | {difference.max() / scale:.1e} | {relative:.1e} |", flush=True)


if __name__ == "__main__":
    main()
