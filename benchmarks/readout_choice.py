"""Compares settings of a fitted model on good images and synthetic defects; no test images are used.

    python benchmarks/readout_choice.py MODEL DATA readout.enlarge=0 readout.enlarge=1
    python benchmarks/readout_choice.py MODEL ROOT readout.position_grid=0 readout.position_grid=40

MODEL was fitted on the good images of DATA. They are split as in `mendiff tune`: half of the held-back images
calibrates every setting, the other half is scored with and without synthetic anomalies, in three repetitions
with different anomalies. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from mendiff.checkpoints.store import load
from mendiff.data.dataset import open_data
from mendiff.runs.variants import split_as_fitted
from mendiff.workflows.tune import METRICS, run_trial, tuning_images

REPETITIONS, SEED = 3, 0


def main() -> None:
    """Try every setting and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="what the model was fitted on")
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="fields of the config, one per row")
    options = parser.parse_args()
    model = load(options.model, "cpu")
    paths = [path for category in open_data(options.data, "auto") for path in category.train]
    bed = tuning_images(model, *split_as_fitted(model, paths), REPETITIONS, SEED)
    print(f"| setting | {' | '.join(METRICS)} |\n|---{'|---' * len(METRICS)}|")
    for setting in options.settings:
        key, value = setting.split("=", 1)
        metrics = run_trial(model, bed, {}, key, yaml.safe_load(value)).metrics
        print(f"| {setting} | {' | '.join(f'{metrics[name]:.3f}' for name in METRICS)} |", flush=True)


if __name__ == "__main__":
    main()
