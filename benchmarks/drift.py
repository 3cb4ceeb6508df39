"""False alarms and delay of `mendiff monitor` on simulated scores.

    python benchmarks/drift.py [--runs 200]

Scores of good parts are normal. n calibration scores and 200 scores of new parts without drift are followed
by 200 parts whose scores are higher by the given number of standard deviations. Of the new parts, 2 % are
defective, with scores of 8. Every cell is the share of runs with an alarm, the median number of images from
the beginning of the drift to the alarm, and the median distance of the estimated from the true first image of
the drift. The column without drift has false alarms only.
"""

from __future__ import annotations

import argparse
import random
from statistics import median

from mendiff.calibration.drift import find_drift

SIZES, SHIFTS = (12, 50, 200), (0.0, 0.5, 1.0, 2.0, 3.0)
BEFORE, AFTER = 200, 200
THRESHOLD, DEFECT, SHARE = 2.33, 8.0, 0.02


def alarm(n: int, shift: float, seed: int) -> tuple[int, int] | None:
    """(images from the drift to the alarm, error of the estimated begin); None without an alarm."""
    rng = random.Random(seed)
    known = [rng.gauss(0, 1) for _ in range(n)]
    scores = [rng.gauss(0, 1) for _ in range(BEFORE)] + [rng.gauss(shift, 1) for _ in range(AFTER)]
    scores = [DEFECT if rng.random() < SHARE else score for score in scores]
    found = find_drift(known, scores, THRESHOLD, seed=seed)
    if found.alarm is None or found.since is None:
        return None
    return found.alarm + 1 - BEFORE, abs(found.since - BEFORE)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="runs per cell")
    options = parser.parse_args()
    titles = " | ".join(f"+{shift:g} deviations" if shift else "no drift" for shift in SHIFTS)
    print(f"| calibration scores | {titles} |\n|---{'|---' * len(SHIFTS)}|")
    for n in SIZES:
        cells = []
        for shift in SHIFTS:
            found = [one for seed in range(options.runs) if (one := alarm(n, shift, seed)) is not None]
            delay, error = (median(column) for column in zip(*found, strict=True)) if found else (0, 0)
            after = f", {delay:.0f}, {error:.0f}" if found and shift else ""
            cells.append(f"{100 * len(found) / options.runs:.1f} %{after}")
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
