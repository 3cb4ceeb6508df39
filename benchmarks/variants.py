"""A fitted model with other settings, measured per category with stop steps and clean twins.

    python benchmarks/variants.py MODEL DATA --change min_timestep=350 --change min_timestep=250

The networks of MODEL are kept. For every category of DATA, the data of its fit, statistics and thresholds are
computed from that category's good images, as in `mendiff fit --statistics category`. Networks run in
bfloat16. Prints a Markdown table: means over the categories of image AUROC, pixel AUROC and pixel AP, and of
the errors with respect to clean twins if there are some. Stop steps follow below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import load
from mendiff.cli.app import parse_settings
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import Category, open_data
from mendiff.evaluation.metrics import TWIN_METRICS
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.runs.variants import variant_of
from mendiff.training.split import held_back_and_seen
from mendiff.workflows.job import RowPredictor, row_metrics

SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap", *TWIN_METRICS)


def subject(model: Model, category: Category, changes: dict[str, Any]) -> RowPredictor:
    """The model with changed settings and statistics of a category."""
    fitted = fitted_of(model.info)
    images = [model.prepare(path) for path in category.train]
    held_back, seen = held_back_and_seen(images, None if fitted is None else fitted.held_back)
    changed = variant_of(model, changes, held_back, seen)
    made = RowPredictor(lambda batch: predict(batch), changed.image_size, changed.calibration)

    def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
        with changed.in_half():
            found = changed.predict_batch(batch)
        made.stops.append(found.stop_step)
        made.rebuilt.append(found.reconstruction)
        return found.score, found.anomaly_map

    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="the data of the fit, with test images")
    parser.add_argument(
        "--change", action="append", default=[], metavar="KEY=VALUE", help="setting of an additional row"
    )
    options = parser.parse_args()
    model, categories = load(options.model, "cpu"), {one.name: one for one in open_data(options.data)}
    same = {"upright": config_to_dict(model.method.config)["upright"]}
    print(f"| | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    stops = {}
    for label, changes in {
        "as fitted": same,
        **{one: parse_settings([one]) for one in options.change},
    }.items():
        found = row_metrics(
            lambda name, changes=changes: subject(model, categories[name], changes),
            list(categories.values()),
            Terminal(True),
        )
        figures = (found["mean"].get(name) for name in SHOWN)
        cells = " | ".join("–" if one is None else f"{one:.3f}" for one in figures)
        print(f"| {label} | {cells} |", flush=True)
        stops[label] = found["stop_steps"]
    for label, places in stops.items():
        for name, stopped in places.items():
            print(f"\n{label}, {name}: defective {stopped['defective']}, rank by area {stopped['area_rank']}")


if __name__ == "__main__":
    main()
