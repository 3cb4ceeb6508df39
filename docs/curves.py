"""Plots the log of a training of the bundled networks.

python docs/curves.py docs/bundled-features.jsonl docs/bundled-features.svg
python docs/curves.py runs/codec/log.jsonl docs/bundled-codec.svg
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

STAGES = ("stride 4", "stride 8", "stride 16")


def main(log: Path, out: Path) -> None:
    """Plot the loss on the left and metrics of held-back images on the right."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    # Fixed ids and no date, so that the same log gives the same file; text is not converted to paths.
    mpl.rcParams.update({"svg.hashsalt": "mendiff", "svg.fonttype": "none", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    curve(left, lines, "loss", "training")
    if any("held_back" in line for line in lines):
        curve(left, lines, "held_back", "held-back images")
    left.set(xlabel="step", ylabel="loss")
    left.legend(frameon=False)
    if any("explained" in line for line in lines):
        seen = [line for line in lines if "explained" in line]
        for stage, name in enumerate(STAGES):
            right.plot([one["step"] for one in seen], [one["explained"][stage] for one in seen], label=name)
        right.set(ylabel="share of the teacher's variance", ylim=(0, 1))
        right.legend(frameon=False)
    else:
        curve(right, lines, "psnr", "held-back images")
        right.set(ylabel="PSNR in dB")
    right.set(xlabel="step")
    for one in (left, right):
        one.set_xlim(0, lines[-1]["step"])
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def curve(axes: Axes, lines: list[dict], name: str, label: str) -> None:
    """Plot a metric over the steps."""
    seen = [line for line in lines if name in line]
    axes.plot([one["step"] for one in seen], [one[name] for one in seen], label=label)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
