"""The plots of one category: curves, and histograms of scores and of stop steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mendiff.report.contents import CategoryReport, Curve, ImageRow
from mendiff.report.svg import ACCENT, GROUPS, INK, LINE, PANEL, SOFT, Plot, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

BINS = 28
MOST_STEPS = 24
WIDE = 20.0
"""The score axis is logarithmic if the largest score exceeds the median by this factor."""


@dataclass(frozen=True)
class Wording:
    """Title of a curve, labels of its axes, and the metric that equals the area under it."""

    title: str
    x: str
    y: str
    metric: str
    area: str


CURVES = {
    "image_roc": Wording("ROC, images", "false alarms", "defects found", "image_auroc", "AUROC"),
    "image_pr": Wording("Precision and recall, images", "recall", "precision", "image_ap", "AP"),
    "pro": Wording("PRO, regions", "good pixels marked", "mean overlap of defects", "aupro", "AUPRO"),
    "pixel_roc": Wording(
        "ROC, pixels", "good pixels marked", "defective pixels marked", "pixel_auroc", "AUROC"
    ),
    "pixel_pr": Wording("Precision and recall, pixels", "recall", "precision", "pixel_ap", "AP"),
}


@dataclass(frozen=True)
class Figure:
    """A plot with its caption: a title and a number beside it (may be empty)."""

    title: str
    figure: str
    svg: str


@dataclass(frozen=True)
class ScoreAxis:
    """An axis of scores from `low` to `high`."""

    low: float
    high: float
    logarithmic: bool

    def place(self, score: float) -> float:
        """Position of a score on the axis, 0 to 1."""
        values = [self.low, score, self.high]
        low, at, high = (math.log(value) for value in values) if self.logarithmic else values
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def edges(self) -> list[float]:
        """The `BINS` + 1 edges of equally wide bins on this axis."""
        spaced = np.geomspace if self.logarithmic else np.linspace
        return [float(edge) for edge in spaced(self.low, self.high, BINS + 1)]


def score_axis(scores: Sequence[float], threshold: float) -> ScoreAxis:
    """An axis that shows all scores and the threshold; logarithmic if there are extreme outliers."""
    shown = [*scores, threshold]
    low, high = min(shown), max(shown)
    if low > 0 and high > WIDE * float(np.median(shown)):
        return ScoreAxis(low / 1.1, high * 1.1, True)
    low = min(0.0, low)
    return ScoreAxis(low, high + 0.04 * (high - low or 1.0), False)


def plots(category: CategoryReport, identity: str) -> list[Figure]:
    """All plots for which the category has data.

    Args:
        category: a category with at least one image.
        identity: unique prefix of the element ids in the page.
    """
    drawn = [_scores(category, f"{identity}-scores")]
    for key in CURVES:
        if points := category.curves.get(key):
            drawn.append(_curve(category, key, points, f"{identity}-{key.replace('_', '-')}"))
    stopped = [row for row in category.images if row.stop_step is not None]
    if len({row.stop_step for row in stopped}) > 1:
        drawn.append(_stop_steps(category.name, stopped, f"{identity}-steps"))
    return drawn


def number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(share: float) -> str:
    """Format a share in percent; with a decimal only below 10 % and above 90 %."""
    value = 100 * share
    digits = 0 if value in (0, 100) or 10 <= value <= 90 else 1
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}%"


# ---- curves ------------------------------------------------------------------------------------------


def _curve(category: CategoryReport, key: str, points: Curve, identity: str) -> Figure:
    wording = CURVES[key]
    area = category.metrics.get(wording.metric)
    figure = "" if area is None else f"{wording.area} {area:.3f}"
    at = operating_point(category, key)
    description = f"{wording.y} over {wording.x}, up to {percent(points[-1][1])} at {percent(points[-1][0])}."
    if at is not None:
        description += f" At the threshold: {percent(at[1])} {wording.y}, {percent(at[0])} {wording.x}."
    title = f"{wording.title} of {category.name}{f', {figure}' if figure else ''}"
    with plot(identity, title, description) as drawn:
        x, y = (list(values) for values in zip(*points, strict=True))
        _square(drawn.axes, wording, max(x) or 1)
        steps = key.endswith("_pr")
        if key.endswith("_roc"):
            drawn.axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
        drawn.axes.fill_between(x, y, step="pre" if steps else None, color=ACCENT, alpha=0.1, linewidth=0)
        style = "steps-pre" if steps else "default"
        drawn.axes.plot(x, y, color=ACCENT, linewidth=1.8, drawstyle=style, clip_on=False, zorder=3)
        if at is not None:
            _mark(drawn, at, steps)
    return Figure(wording.title, figure, drawn.svg)


def operating_point(category: CategoryReport, key: str) -> tuple[float, float] | None:
    """The threshold's point on an image-level curve; None for other curves and if it is undefined."""
    flagged = [row.score > category.threshold for row in category.images if row.group == "defective"]
    alarms = [row.score > category.threshold for row in category.images if row.group == "good"]
    if not flagged or not alarms:
        return None
    recall = sum(flagged) / len(flagged)
    if key == "image_roc":
        return sum(alarms) / len(alarms), recall
    if key == "image_pr" and any(flagged):
        return recall, sum(flagged) / (sum(flagged) + sum(alarms))
    return None


def _square(axes: "Axes", wording: Wording, right: float) -> None:
    axes.set(xlim=(0, right), ylim=(0, 1), xlabel=wording.x, ylabel=wording.y)
    axes.xaxis.set_major_locator(_locator(4))
    axes.yaxis.set_major_locator(_locator(4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: percent(value) if value else "0")
    axes.grid(True)


def _locator(parts: int) -> "MaxNLocator":
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(parts, steps=[1, 2, 2.5, 5, 10])


def _mark(drawn: Plot, at: tuple[float, float], falls: bool) -> None:
    """Mark the threshold with a labelled dot; the label is placed beside the rising or falling curve."""
    drawn.axes.plot(*at, marker="o", markersize=7, color=INK, clip_on=False, zorder=5)
    rightwards, upwards = at[0] < (0.3 if falls else 0.6), at[1] < 0.25
    drawn.axes.annotate(
        "threshold",
        at,
        xytext=(8 if rightwards else -8, 8 if upwards else -20 if falls and rightwards else -8),
        textcoords="offset points",
        ha="left" if rightwards else "right",
        va="bottom" if upwards else "top",
        bbox={"facecolor": PANEL, "edgecolor": "none", "alpha": 0.85, "pad": 1},
    )


# ---- histograms --------------------------------------------------------------------------------------


def _scores(category: CategoryReport, identity: str) -> Figure:
    axis = score_axis([row.score for row in category.images], category.threshold)
    flagged = sum(row.score > category.threshold for row in category.images)
    description = (
        f"Scores from {number(min(row.score for row in category.images))} to "
        f"{number(max(row.score for row in category.images))}; {flagged} of {len(category.images)} images "
        f"are above the threshold of {number(category.threshold)}."
    )
    with plot(identity, f"Histogram of the scores of {category.name}", description) as drawn:
        edges = axis.edges()
        names = [f"score {number(a)} to {number(b)}" for a, b in pairwise(edges)]
        heights = _stack(drawn, category.images, [row.score for row in category.images], edges, names)
        if axis.logarithmic:
            drawn.axes.set_xscale("log")
        right = axis.place(category.threshold) > 0.7
        drawn.axes.axvline(category.threshold, color=INK, linewidth=1.5, linestyle=(0, (4, 3)))
        drawn.axes.annotate(
            f"threshold {number(category.threshold)}",
            (category.threshold, heights * 1.17),
            xytext=(-5 if right else 5, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
        )
        drawn.axes.set(xlim=(axis.low, axis.high), ylim=(0, heights * 1.2), xlabel="score", ylabel="images")
    return Figure("Scores", f"{flagged} of {len(category.images)} above the threshold", drawn.svg)


def _stop_steps(name: str, rows: Sequence[ImageRow], identity: str) -> Figure:
    steps = sorted({row.stop_step for row in rows if row.stop_step is not None})
    description = f"{len(rows)} images stopped between step {steps[0]} and step {steps[-1]}."
    with plot(identity, f"Histogram of the stop steps of {name}", description) as drawn:
        values = [float(row.stop_step or 0) for row in rows]
        if len(steps) > MOST_STEPS:
            edges = [float(edge) for edge in np.linspace(steps[0], steps[-1], MOST_STEPS + 1)]
            names = [f"step {number(a)} to {number(b)}" for a, b in pairwise(edges)]
        else:  # one bar per occurring step, equally spaced
            values = [float(steps.index(int(value))) for value in values]
            edges = [place - 0.5 for place in range(len(steps) + 1)]
            names = [f"step {step}" for step in steps]
            shown = range(0, len(steps), -(-len(steps) // 7))
            drawn.axes.set_xticks(list(shown), [str(steps[place]) for place in shown])
        heights = _stack(drawn, rows, values, edges, names)
        drawn.axes.set(ylim=(0, heights * 1.05), xlabel="stopped at step", ylabel="images")
    return Figure("Stop steps", f"{steps[0]} to {steps[-1]}", drawn.svg)


def _stack(
    drawn: Plot, rows: Sequence[ImageRow], values: Sequence[float], edges: Sequence[float], names: list[str]
) -> int:
    """Draw stacked histogram bars, good images below defective ones; returns the height of the tallest bar.

    Args:
        drawn: the plot to draw on.
        rows: N images.
        values: the values to count, (N,).
        edges: edges of the bins, one more than bins.
        names: names of the bins, shown as tooltips.
    """
    base = np.zeros(len(edges) - 1, dtype=int)
    for group, colour in GROUPS.items():
        own = [value for value, row in zip(values, rows, strict=True) if row.group == group]
        if not own:
            continue
        counts = np.histogram(own, bins=np.asarray(edges))[0]
        left, widths = np.asarray(edges[:-1]), np.diff(edges)
        some = np.flatnonzero(counts)
        bars = drawn.axes.bar(
            left[some],
            counts[some],
            0.92 * widths[some],
            bottom=base[some],
            align="edge",
            color=colour,
            label=group,
        )
        for place, bar in zip(some, bars, strict=True):
            bar.set_gid(f"{group}-{place}")
            drawn.hints[f"{group}-{place}"] = f"{counts[place]} {group}, {names[place]}"
        base += counts
    drawn.axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, handlelength=0.9, handleheight=0.9
    )
    drawn.axes.yaxis.set_major_locator(_locator(4))
    drawn.axes.grid(True, axis="y")
    drawn.axes.tick_params(color=LINE)
    return max(int(base.max()), 1)
