"""False-alarm rate and height of the threshold from n good scores.

    python benchmarks/thresholds.py [--fits 2000] [--rate 0.01]

Every cell is the mean share of new good scores above the threshold, in percent, over many sets of n scores
(exact for each set, from the tail of the distribution). After the slash: the median height of the threshold,
where 0 is the median of good scores and 1 the value that a share of `rate` exceeds. A rule that knows the
distribution has the rate before the slash and a height slightly above 1 after it. "log-normal" is the rule of
version 0.1.0: a normal fit to logarithms, or to scores that are not all positive, with a normal quantile.

The second table adds an outlier to n good scores, at a height of 3, 10 or 30. Before the slash: the median
height of the threshold. After it: the percentage of sets whose threshold is below the outlier.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, median, stdev

import numpy as np
from scipy import stats

from mendiff.calibration import upper_bound

SIZES = (2, 4, 6, 8, 12, 15, 40, 64)
DISTRIBUTIONS = {
    "normal": stats.norm(),
    "log-normal 0.25": stats.lognorm(0.25),
    "log-normal 0.5": stats.lognorm(0.5),
    "log-normal 1": stats.lognorm(1.0),
    "gamma 9": stats.gamma(9),
    "gamma 2": stats.gamma(2),
    "Gumbel": stats.gumbel_r(),
    "Student's t, 5": stats.t(5),
}
Rule = Callable[[Sequence[float], float], float]


def log_normal(scores: Sequence[float], rate: float) -> float:
    """The rule of version 0.1.0."""
    positive = min(scores) > 0
    values = [math.log(score) for score in scores] if positive else list(scores)
    z = -NormalDist().inv_cdf(rate)
    limit = fmean(values) + z * stdev(values) * math.sqrt(1 + 1 / len(values))
    return math.exp(limit) if positive else limit


def student(scores: Sequence[float], rate: float) -> float:
    """Student's t prediction limit for normal scores."""
    n = len(scores)
    return fmean(scores) + stats.t.isf(rate, n - 1) * stdev(scores) * math.sqrt(1 + 1 / n)


def three_sigma(scores: Sequence[float], rate: float) -> float:
    """Mean and three standard deviations."""
    return fmean(scores) + 3 * stdev(scores)


RULES: dict[str, Rule] = {"log-normal": log_normal, "Student's t": student, "mendiff": upper_bound}


def heights(rule: Rule, samples: np.ndarray, rate: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Exact shares above the thresholds of samples (fits, n) of a distribution, and their heights."""
    one = DISTRIBUTIONS[name]
    limits = np.array([rule(sample, rate) for sample in samples.tolist()])
    return one.sf(limits), (limits - one.median()) / (one.isf(rate) - one.median())


def sound(fits: int, rate: float) -> None:
    """Print the table of good scores only."""
    print(f"| scores, rule | {' | '.join(f'n = {n}' for n in SIZES)} |\n|---{'|---' * len(SIZES)}|")
    for name, one in DISTRIBUTIONS.items():
        for title, rule in RULES.items():
            cells = []
            for n in SIZES:
                samples = one.rvs((fits, n), random_state=n)
                shares, high = heights(rule, samples, rate, name)
                cells.append(f"{100 * shares.mean():.2f} / {median(high):.2f}")
            print(f"| {name}, {title} | {' | '.join(cells)} |", flush=True)


def contaminated(fits: int, rate: float) -> None:
    """Print the table of sets with an outlier."""
    print(
        f"| scores, outlier at, rule | {' | '.join(f'n = {n}' for n in SIZES)} |\n|---{'|---' * len(SIZES)}|"
    )
    for name in ("normal", "log-normal 0.5"):
        one = DISTRIBUTIONS[name]
        for odd in (3, 10, 30):
            for title, rule in RULES.items():
                cells = []
                for n in SIZES:
                    samples = one.rvs((fits, n), random_state=n)
                    samples[:, 0] = one.median() + odd * (one.isf(rate) - one.median())
                    _, high = heights(rule, samples, rate, name)
                    cells.append(f"{median(high):.2f} / {100 * (high < odd).mean():.0f}")
                print(f"| {name}, {odd}, {title} | {' | '.join(cells)} |", flush=True)


def supported(fits: int) -> None:
    """Print realised rates of many scores: mean over the sets, and 5 and 95 % quantiles."""
    columns = [(n, rate) for n in (50, 100, 200) for rate in (0.01, 0.02, 0.05, 0.1)]
    titles = " | ".join(f"n = {n}, {100 * rate:g} %" for n, rate in columns)
    print(f"| scores, rule | {titles} |\n|---{'|---' * len(columns)}|")
    for name, one in DISTRIBUTIONS.items():
        for title, rule in {"3 sigma": three_sigma, "mendiff": upper_bound}.items():
            cells = []
            for n, rate in columns:
                shares, _ = heights(rule, one.rvs((fits, n), random_state=n), rate, name)
                low, high = np.quantile(shares, (0.05, 0.95))
                cells.append(f"{100 * shares.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})")
            print(f"| {name}, {title} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fits", type=int, default=2000, help="sets of scores per cell")
    parser.add_argument("--rate", type=float, default=0.01, help="false-alarm rate")
    options = parser.parse_args()
    sound(options.fits, options.rate)
    print()
    contaminated(options.fits, options.rate)
    print()
    supported(options.fits)


if __name__ == "__main__":
    main()
