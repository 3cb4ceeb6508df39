"""Picture of p-values and of a test martingale over time."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from mendiff.calibration.drift import LIMIT, Drift

GOOD, BAD, LINE, SOFT = "#2a6f97", "#c8402f", "#1d3448", "#8a97a3"
INCHES, DOTS_PER_INCH = (9.0, 5.2), 120


def draw_drift(drift: Drift, flagged: Sequence[bool]) -> bytes:
    """Draw the p-value of every image, and below it the martingale with its limit, as PNG.

    Args:
        drift: the result of the tests.
        flagged: whether each image is above the model's threshold.
    """
    # Imported here because importing matplotlib takes a second.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's settings
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        numbers = range(1, len(flagged) + 1)
        for group, colour, label in ((False, GOOD, "good"), (True, BAD, "defective")):
            own = [(n, p) for n, p, bad in zip(numbers, drift.p_values, flagged, strict=True) if bad == group]
            above.scatter([n for n, _ in own], [p for _, p in own], s=7, color=colour, label=label)
        above.set(ylabel="p-value", ylim=(-0.03, 1.03))
        above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        below.plot(numbers, [value / math.log(10) for value in drift.log_capital], color=LINE, linewidth=1.5)
        below.axhline(math.log10(LIMIT), color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        below.annotate(
            f"limit {LIMIT:g}", (1, math.log10(LIMIT)), xytext=(2, 3), textcoords="offset points", color=BAD
        )
        below.set(ylabel="martingale, powers of 10", xlabel="image", xlim=(0.5, len(flagged) + 0.5))
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            if drift.since is not None:
                axes.axvline(drift.since + 1, color=SOFT, linewidth=1)
        if drift.since is not None:
            above.annotate(
                f"drift since image {drift.since + 1}",
                (drift.since + 1, 1.03),
                xytext=(4, 2),
                textcoords="offset points",
                color=LINE,
            )
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
