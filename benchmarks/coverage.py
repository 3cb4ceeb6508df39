"""False alarms and recall of thresholds on real scores.

    python benchmarks/coverage.py DATA -o DIR [--share 0.4] [--minutes 2] [--splits 200]

For every category of DATA, a model (--method, preset tiny) is fitted to a share of the good training images.
All other good images are new to it. Their scores, the test images' and the model's calibration are stored in
DIR, and used again by the next call.

First table: the thresholds of the fit, from held-back images alone and with training images left out of the
statistics, on all new good images and on the test set's defective images. Beside them the mean plus three
deviations of the held-back scores. Below it, the share of synthetic defects that the fit finds at its
thresholds against the recall.

Second table: thresholds from n new good images, over random splits of the new good images into n and the
others: mean realised rate, with the 5 and 95 % quantiles over the splits, and the band within which 90 % of
splits lie in theory (beta-binomial). Beside it the mean plus three deviations, and anomalib's adaptive F1
threshold, which needs defective test images. DIR/coverage.png shows the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold
from scipy.stats import betabinom, spearmanr

import mendiff
from mendiff.calibration import Calibration, upper_bound
from mendiff.checkpoints.files import write_json
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import GOOD, Category, open_data
from mendiff.runs.power import power_of

RATES = (0.01, 0.02, 0.05, 0.1)
SIZES = (50, 100, 200)
FEWEST = 20
"""Fewest images left for the realised rate."""
BATCH = 8


def three_sigma(scores: Sequence[float]) -> float:
    """Mean and three standard deviations."""
    return fmean(scores) + 3 * stdev(scores)


def scored(category: Category, options: argparse.Namespace, reporter: Terminal) -> dict[str, Any]:
    """Fit to a share of the good images and score all others; scores by group, and the calibration."""
    images = list(category.train)
    chosen = np.random.default_rng(0).permutation(len(images))
    count = max(12, round(options.share * len(images)))
    with TemporaryDirectory() as folder:
        for at in chosen[:count]:
            (Path(folder) / images[at].name).symlink_to(images[at].resolve())
        model = mendiff.fit(folder, reporter=reporter, method=options.method, minutes=options.minutes)

    def scores(paths: Sequence[Path]) -> list[float]:
        with model.in_half():
            return [score for found in model.stream(paths, BATCH) for score in found.score.tolist()]

    test = [sample for sample in category.test if sample.label != GOOD]
    return {
        "fitted": count,
        "calibration": model.calibration.to_dict(),
        "power": model.info["power"],
        "new": scores([images[at] for at in chosen[count:]]),
        "good": scores([sample.path for sample in category.test if sample.label == GOOD]),
        "defective": scores([sample.path for sample in test]),
    }


def above(scores: Sequence[float], limit: float) -> str:
    """Share of scores above a limit, in percent."""
    return f"{100 * fmean(score > limit for score in scores):.1f}"


def thresholds_of_fits(stored: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The first table."""
    rates = " / ".join(f"{100 * rate:g}" for rate in RATES)
    yield f"| category | scores | threshold for {rates} % | false alarms, % | recall, % |"
    yield "|---|---|---|---|---|"
    for name, one in stored.items():
        calibration = Calibration.from_dict(one["calibration"])
        held_back = calibration.scores[: calibration.held_back]
        good = [*one["new"], *one["good"]]
        rules: dict[str, list[float]] = {
            f"{len(held_back)} held back": [upper_bound(held_back, rate) for rate in RATES],
            f"and {calibration.left_out} left out": [calibration.at_rate(rate).threshold for rate in RATES],
            "held back, mean + 3 deviations": [three_sigma(held_back)],
        }
        for title, limits in rules.items():
            cells = (
                " / ".join(f"{limit:.3g}" for limit in limits),
                " / ".join(above(good, limit) for limit in limits),
                " / ".join(above(one["defective"], limit) for limit in limits),
            )
            yield f"| {name}, {len(good)} new good | {title} | {' | '.join(cells)} |"


def power_and_recall(stored: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The share of synthetic defects that a fit finds at its thresholds, against the recall."""
    pairs = {rate: list[tuple[float, float]]() for rate in RATES}
    for one in stored.values():
        calibration, power = Calibration.from_dict(one["calibration"]), power_of(one)
        if power is None:
            continue
        for rate in RATES:
            limit = calibration.at_rate(rate).threshold
            recall = fmean(score > limit for score in one["defective"])
            pairs[rate].append((power.share(limit), recall))
    for rate, found in pairs.items():
        if len(found) > 2:
            rank = spearmanr(*zip(*found, strict=True)).statistic
            shares = ", ".join(f"{100 * power:.0f}/{100 * recall:.0f}" for power, recall in found)
            yield f"at {100 * rate:g} %: synthetic/real defects found {shares} %; rank correlation {rank:.2f}"


def adaptive_f1(good: Sequence[float], defective: Sequence[float]) -> float:
    """Anomalib's threshold of the highest F1 score on labelled images."""
    scores, labels = [*good, *defective], [False] * len(good) + [True] * len(defective)
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    empty = torch.zeros(len(scores), 3, 1, 1)
    metric.update(ImageBatch(image=empty, pred_score=torch.tensor(scores), gt_label=torch.tensor(labels)))
    return float(metric.compute())


def realised(
    scores: np.ndarray, n: int, rule: Callable[[Sequence[float]], float], splits: int
) -> tuple[float, float, float]:
    """Mean, 5 and 95 % quantile of the share above the threshold among the images that are left."""
    rng = np.random.default_rng(n)
    shares = []
    for _ in range(splits):
        mixed = rng.permutation(scores)
        shares.append(float((mixed[n:] > rule(mixed[:n].tolist())).mean()))
    low, high = np.quantile(shares, (0.05, 0.95))
    return float(np.mean(shares)), float(low), float(high)


def band(n: int, left: int, rate: float) -> tuple[float, float, float]:
    """Mean, 5 and 95 % quantile of the realised rate of a conformal threshold from n scores."""
    exceeded = int((n + 1) * rate + 1e-9)
    law = betabinom(left, exceeded, n + 1 - exceeded)
    return float(law.mean() / left), float(law.ppf(0.05) / left), float(law.ppf(0.95) / left)


Spread = tuple[float, float, float]
"""Mean, 5 and 95 % quantile of a share."""


def of_splits(
    stored: dict[str, dict[str, Any]], splits: int
) -> Iterator[tuple[str, int, float, Spread, Spread]]:
    """(category, n, rate, realised, theory) of conformal thresholds."""
    for name, one in stored.items():
        scores = np.array([*one["new"], *one["good"]])
        for n in SIZES:
            for rate in RATES if len(scores) - n >= FEWEST else ():
                if (n + 1) * rate < 1:  # not supported by n scores
                    continue
                found = realised(scores, n, partial(upper_bound, false_alarm_rate=rate), splits)
                yield name, n, rate, found, band(n, len(scores) - n, rate)


def table_of_splits(stored: dict[str, dict[str, Any]], rows: Sequence[Any], splits: int) -> Iterator[str]:
    """The second table."""
    yield "| category | n | rate, % | realised, % | in theory, % |\n|---|---|---|---|---|"
    for name, n, rate, found, theory in rows:
        yield f"| {name} | {n} | {100 * rate:g} | {_spread(found)} | {_spread(theory)} |"
    for name, one in stored.items():
        scores = np.array([*one["new"], *one["good"]])
        n = max((n for n in SIZES if len(scores) - n >= FEWEST), default=0)
        rules: dict[str, Callable[[Sequence[float]], float]] = {
            "mean + 3 deviations": three_sigma,
            "adaptive F1": partial(adaptive_f1, defective=one["defective"]),
        }
        for title, rule in rules.items() if n else ():
            yield f"| {name} | {n} | {title} | {_spread(realised(scores, n, rule, splits))} | |"


def _spread(shares: Spread) -> str:
    mean, low, high = (100 * share for share in shares)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def draw(rows: Sequence[Any], path: Path) -> None:
    """Realised against theoretical rates, a column of axes per n."""
    sizes, names = sorted({n for _, n, *_ in rows}), sorted({name for name, *_ in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 3.6), sharey=True, squeeze=False)
    for axis, n in zip(axes[0], sizes, strict=True):
        own = [row for row in rows if row[1] == n]
        for at, name in enumerate(names):
            some = [(rate, found, theory) for other, _, rate, found, theory in own if other == name]
            if not some:
                continue
            x = np.array([rate * 100 * 1.06 ** (at - len(names) / 2) for rate, *_ in some])
            mean, low, high = 100 * np.array([found for _, found, _ in some]).T
            axis.errorbar(
                x, mean, [mean - low, high - mean], fmt="o", color=f"C{at}", ms=4, lw=1, capsize=2, label=name
            )
            _, below, beyond = 100 * np.array([theory for *_, theory in some]).T
            axis.vlines(x * 1.02, below, beyond, color="0.8", lw=5, zorder=0)
        axis.plot(*[[100 * rate for rate in RATES]] * 2, color="0.4", lw=1, ls=":")
        axis.set(title=f"threshold from {n} good images", xlabel="nominal rate, %", xscale="log")
        axis.set_xticks([100 * rate for rate in RATES], [f"{100 * rate:g}" for rate in RATES])
        axis.minorticks_off()
    axes[0][0].set_ylabel("realised false alarms, %")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fit and score what is missing, print the tables, draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a data set with test images")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for scores and plot")
    parser.add_argument("--method", default="glad", help="mendiff's method")
    parser.add_argument("--share", type=float, default=0.4, help="share of good training images to fit to")
    parser.add_argument("--minutes", type=float, default=2, help="of every fit")
    parser.add_argument("--splits", type=int, default=200, help="random splits")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stored = {}
    for category in open_data(options.data):
        file = options.out / f"{category.name}.json"
        if not file.is_file():
            write_json(file, scored(category, options, Terminal(False)))
        stored[category.name] = json.loads(file.read_text())
    print("\n".join([*thresholds_of_fits(stored), "", *power_and_recall(stored)]), flush=True)
    rows = list(of_splits(stored, options.splits))
    print()
    print("\n".join(table_of_splits(stored, rows, options.splits)))
    draw(rows, options.out / "coverage.png")


if __name__ == "__main__":
    main()
