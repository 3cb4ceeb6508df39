"""Weights of the memory bank in the read-out, on synthetic defects and, for the report, on test images.

    python benchmarks/bank_combination.py MODEL DATA

The networks of MODEL are kept. Its read-out is fitted again on the good images of DATA, the data of its fit.
Prints a Markdown table: image AUROC plus pixel AP of synthetic defects in held-back images against these
images (mean over two draws), by which settings are chosen, and metrics on the test images, by which none is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import torch
from torch import Generator, Tensor

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.model import Model
from mendiff.runs import testing
from mendiff.runs.variants import split_as_fitted, variant_of
from mendiff.scoring.readout_config import LEARNED
from mendiff.scoring.score import separation
from mendiff.synthesis.probes import probes

ROWS = {
    "reconstructions": [0.0],
    "memory bank 0.25": [0.25],
    "both equally": [0.5],
    "memory bank 0.75": [0.75],
    "memory bank": [1.0],
    "selected": list(LEARNED.bank_shares),
}
"""Candidate weights of the memory bank by name."""
SEEDS, PROBES = (0, 1), 60
SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="GLAD or DiAD, with a read-out that standardises")
    parser.add_argument("data", type=Path, help="the category that it was fitted on")
    options = parser.parse_args()
    model = load(options.model, "cpu")
    (category,) = open_data(options.data)
    tests = testing.read_tests(category, model.image_size, Terminal(True))
    split = split_as_fitted(model, list(category.train))
    good = torch.stack([model.prepare(one) for one in split[0]])
    print(f"| | fitted weight | synthetic | {' | '.join(SHOWN)} |\n|{'---|' * 6}")
    for label, shares in ROWS.items():
        changes = {"readout.bank_shares": shares}
        made = variant_of(model, changes, *split)
        found = made.predict(tests.images)
        metrics = testing.measure(tests, found.score, found.anomaly_map)
        fitted = float(getattr(made.method.readout, "bank_share", torch.zeros(())))
        values = " | ".join(f"{metrics[name]:.3f}" for name in SHOWN)
        print(f"| {label} | {fitted:.2f} | {synthetic(made, good):.3f} | {values} |", flush=True)


def synthetic(model: Model, good: Tensor) -> float:
    """The criterion of the fit for synthetic defects in good images (N,3,H,W): mean over draws, 0 to 2."""
    normal, found = model.predict(list(good)), []
    for seed in SEEDS:
        defective, masks = probes(good, min(PROBES, 6 * len(good)), Generator("cpu").manual_seed(seed))
        bad = model.predict(list(defective))
        found.append(separation(normal.score, bad.score, normal.anomaly_map, bad.anomaly_map, masks))
    return mean(found)


if __name__ == "__main__":
    main()
