"""How the cost of predictions grows with batch size and resolution.

    python -m benchmarks.cost [--cases glad-tiny ran-tiny] [--out cost.json] [--plot cost.svg]
    python -m benchmarks.cost --from cost.json --plot cost.svg

Random weights and smooth random images, float32, one thread, a process per point. Times are processor times,
which other programs disturb less: the shorter of two predictions after a first. Memory is the largest
resident size, with torch and the weights. In the adaptive cases no stop score exceeds its threshold, so that
images are checked down to min_timestep. Prints a Markdown table; the JSON file has the points so far.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import CASES, build
from benchmarks.export import peak_mebibytes

MEASURED = ("glad-tiny", "diad-tiny", "ran-tiny", "glad-small", "diad-small", "ran-small")
BATCHES, SIDES, SIDE, ALONE = (1, 2, 4, 8, 16), (128, 256, 384, 512), 256, 1
"""Batch sizes at SIDE pixels, and sides in pixels of a batch of ALONE."""
Point = dict[str, Any]


def measure(name: str, batch: int, side: int) -> Point:
    """Seconds of processor time for a batch, and the memory of this process."""
    torch.set_num_threads(1)
    case = CASES[name]
    method, image = build(replace(case, batch=batch, changes={**case.changes, "image_size": side}), "cpu")
    seeds, taken = torch.arange(batch), []
    for _ in range(3):
        began = time.process_time()
        with torch.no_grad():
            method.predict(image, seeds)
        taken.append(time.process_time() - began)
    return {
        "case": name,
        "batch": batch,
        "side": side,
        "seconds": min(taken[1:]),
        "mebibytes": round(peak_mebibytes()),
    }


def points_of(cases: list[str]) -> list[tuple[str, int, int]]:
    """(case, batch, side) of all points."""
    pairs = dict.fromkeys([*((one, SIDE) for one in BATCHES), *((ALONE, one) for one in SIDES)])
    return [(case, *pair) for case in cases for pair in pairs]


def in_own_process(point: tuple[str, int, int]) -> Point:
    """The result of `measure` in a new process."""
    words = [sys.executable, "-m", "benchmarks.cost", "--point", *map(str, point)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def plot(points: list[Point], file: Path) -> None:
    """Three panels with a line per case."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    # Fixed ids and no date, so that the same points give the same file; text is not converted to paths.
    mpl.rcParams.update({"svg.hashsalt": "mendiff", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for case in dict.fromkeys(one["case"] for one in points):
        own = [one for one in points if one["case"] == case]
        by_batch = sorted((one for one in own if one["side"] == SIDE), key=lambda one: one["batch"])
        by_side = sorted((one for one in own if one["batch"] == ALONE), key=lambda one: one["side"])
        batches = [one["batch"] for one in by_batch]
        axes[0].plot(batches, [one["batch"] / one["seconds"] for one in by_batch], "o-", ms=3, label=case)
        axes[1].plot([one["side"] for one in by_side], [one["seconds"] for one in by_side], "o-", ms=3)
        axes[2].plot(batches, [one["mebibytes"] / 1024 for one in by_batch], "o-", ms=3)
    axes[0].set(xlabel="batch size", ylabel="images/s", xscale="log", yscale="log", xticks=BATCHES)
    axes[1].set(xlabel="side of an image in pixels", ylabel="seconds per image", yscale="log", xticks=SIDES)
    axes[2].set(xlabel="batch size", ylabel="memory in GiB", xscale="log", xticks=BATCHES, ylim=(0, None))
    for one in (axes[0], axes[2]):
        one.set_xticks(BATCHES, [str(size) for size in BATCHES])
        one.minorticks_off()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(MEASURED), frameon=False)
    figure.savefig(file, metadata={"Date": None})


def table(points: list[Point]) -> str:
    """A line per case: milliseconds per image at every batch size and side; memory of the largest batch."""
    names = [*(f"batch {one}" for one in BATCHES), *(f"{one} px" for one in SIDES)]
    lines = [f"| | {' | '.join(names)} | memory, batch {BATCHES[-1]} |", "|---" * (len(names) + 2) + "|"]
    for case in dict.fromkeys(one["case"] for one in points):
        found = {(one["batch"], one["side"]): one for one in points if one["case"] == case}
        wanted = [*((one, SIDE) for one in BATCHES), *((ALONE, one) for one in SIDES)]
        cells = [
            f"{1000 * found[pair]['seconds'] / pair[0]:.0f}" if pair in found else "–" for pair in wanted
        ]
        largest = found.get((BATCHES[-1], SIDE))
        memory = "–" if largest is None else f"{largest['mebibytes'] / 1024:.1f} GiB"
        lines.append(f"| {case} | {' | '.join(cells)} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(MEASURED))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--from", dest="source", type=Path, help="points of an earlier run")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        name, batch, side = given.point
        print(json.dumps(measure(name, int(batch), int(side))))
        return
    points: list[Point] = json.loads(given.source.read_text()) if given.source else []
    done = {(one["case"], one["batch"], one["side"]) for one in points}
    for point in [] if given.source and not given.out else points_of(given.cases):
        if point not in done:
            points.append(in_own_process(point))
            print(points[-1], file=sys.stderr, flush=True)
            if given.out:
                given.out.write_text(json.dumps(points, indent=1))
    print(table(points))
    if given.plot:
        plot(points, given.plot)


if __name__ == "__main__":
    main()
