r"""GLAD's Tables 6 and 7 at small scale: ablation of adaptive steps, anomaly-oriented training and fusion.

    python benchmarks/adaptive_ablation.py DATA --features mobilenetv2_100 --features-weights FILE \
        --features-input tflite -o runs

For every category two small models are trained from scratch over all timesteps: one on good images only
(baseline) and one with synthetic anomalies (ATP). Each row of the tables is one of these models with other
inference settings. The read-out (cosine distance of three feature layers) is the same for all rows. The UNet
works on 4x4 pixel blocks to make many steps affordable. Stop thresholds come from good training images.
Finished models and rows are stored, so an interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.nets.denoiser import plain_unet
from mendiff.runs import testing
from mendiff.runs.fit_config import Plan
from mendiff.runs.variants import variant_of
from mendiff.workflows.fit import fit

# (row, model, changes): Table 6, then Table 7, with T' = 750 and min_timestep = 350 as published.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("baseline", "baseline", {"adaptive": False}),
    ("baseline + ADS", "baseline", {"fusion": "none"}),
    ("baseline + ATP", "atp", {"adaptive": False}),
    ("baseline + ADS + ATP, without SAFF", "atp", {"fusion": "none"}),
    ("baseline + ADS + ATP, with SAFF", "atp", {}),
    ("fixed 350", "atp", {"adaptive": False, "start_timesteps": [350]}),
    ("fixed 550", "atp", {"adaptive": False, "start_timesteps": [550]}),
    ("fixed 750", "atp", {"adaptive": False}),
)
COMMON = {
    "codec.factor": 4,
    "denoiser.network": plain_unet(64, 96, 128),
    "train_timesteps": [0, 1000],
    "start_timesteps": [750],
    "sampler_steps": 10,
    "spacing": "leading",
    "min_timestep": 350,
    "readout": {"distance": "cosine", "sigma": 2.0, "taps": 0, "top_k": 0},
}
GOOD_IMAGES = 40
"""Maximum number of training images for the stop thresholds."""
MODELS = {"baseline": {"synthesis.share": 0.0}, "atp": {}}


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
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600, help="of training (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for category in open_data(options.data):
        rows = results.setdefault(category.name, {})
        for row, found in run_rows(category, rows, options, Terminal()):
            rows[row] = found
            kept.write_text(json.dumps(results, indent=2) + "\n")
    print(as_markdown(results))


def run_rows(
    category: Category, done: Collection[str], options: argparse.Namespace, terminal: Terminal
) -> Iterator[tuple[str, dict[str, float]]]:
    """Metrics and mean stop step of every unfinished row."""
    good = [resize(read_image(path), options.image_size) for path in category.train[:GOOD_IMAGES]]
    tests = testing.read_tests(category, options.image_size, terminal)
    for row, kind, changes in ROWS:
        if row in done:
            continue
        place = options.out / f"{category.name}-{kind}"
        if not place.is_dir():
            settings = {**COMMON, **MODELS[kind], "adaptive": False, "training.steps": options.steps}
            plan = Plan(
                settings=settings,
                features=options.features,
                features_weights=options.features_weights,
                features_input=options.features_input,
                image_size=options.image_size,
                seed=options.seed,
            )
            fit(plan, [category], place, terminal)
        # Only GLAD's stop thresholds are computed again here.
        model = variant_of(load(place), {"adaptive": True, "fusion": "x0", **changes}, good, good)
        found = testing.find(model, tests, 16, terminal, f"{category.name}: {row}")
        metrics = dict(testing.measure(tests, found.score, found.anomaly_map))
        yield row, {**metrics, "mean_stop_step": float(found.stop_step.float().mean())}


def as_markdown(results: dict[str, dict[str, Any]]) -> str:
    """A line per row, a column per category: image AUROC / pixel AUROC (mean stop step)."""
    lines = [f"| row | {' | '.join(results)} | mean |", "|---" * (len(results) + 2) + "|"]
    for row, _, _ in ROWS:
        pairs = [(result[row]["image_auroc"], result[row]["pixel_auroc"]) for result in results.values()]
        stops = [result[row]["mean_stop_step"] for result in results.values()]
        cells = [
            f"{i:.3f} / {p:.3f}" + (f" ({s:.0f})" if s else "")
            for (i, p), s in zip(pairs, stops, strict=True)
        ]
        mean = " / ".join(f"{sum(column) / len(column):.3f}" for column in zip(*pairs, strict=True))
        lines.append(f"| {row} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
