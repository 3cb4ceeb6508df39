"""The memory bank's weight that a fit selects, and results with it, without it, and with the bank alone.

    python benchmarks/bank_share.py MODEL DATA

The networks of MODEL are kept. Its read-out is fitted again on the good images of DATA, the data of its fit.
Prints a Markdown table of metrics on the test images, which are not used for the selection.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.runs import testing
from mendiff.runs.variants import variant
from mendiff.scoring.readout_config import LEARNED

ROWS = {"chosen": list(LEARNED.bank_shares), "without": [], "alone": [1.0]}
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
    print(f"| memory bank | share | {' | '.join(SHOWN)} | found | false alarms |\n|{'---|' * 7}")
    for label, shares in ROWS.items():
        made = variant(model, {"readout.bank_shares": shares}, list(category.train))
        found = made.predict(tests.images)
        metrics = testing.measure(tests, found.score, found.anomaly_map)
        share = float(getattr(made.method.readout, "bank_share", torch.zeros(())))
        flagged, bad = found.score > made.threshold, tests.labels
        values = " | ".join(f"{metrics[name]:.3f}" for name in SHOWN)
        counts = " | ".join(f"{int(flagged[mask].sum())} of {int(mask.sum())}" for mask in (bad, ~bad))
        print(f"| {label} | {share:.1f} | {values} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
