"""Time of predictions and training steps: the published order of work and ours, with the same networks.

    python -m benchmarks.speed [--cases glad-mid diad-full] [--pairs 3] [--threads 1] [--json speed.json]

Random weights and smooth random images. In the adaptive cases no stop score exceeds its threshold, so every
image is checked down to min_timestep, as most good images are. The rows of a case run in turn in one process;
ratios are medians over rounds of the same round's times. A first round warms up and counts operations; with
--cold it is left out, and operations are counted in the measured rounds. Prints a Markdown table per case:

- seconds: per batch; with one thread the processor time, which other processes disturb less.
- faster: times faster than the first row, and than the published order in the same precision.
- parts: share of the time of codec, denoiser, features, scoring (read-out) and the rest (sampler, stop rule).
- memory: highest resident (CPU) or allocated (CUDA) memory of a run, weights included.
- used: counted operations / (time x the measured peak of matrix products of the same type).

`published` is benchmarks/published.py; `all` checks the same timesteps in our order; `likely` checks likely
stops only. In bfloat16 the published order converts the weights in every call (autocast).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import CASES, FLIGHT, Case, build
from mendiff.methods.config import override
from mendiff.nets.placement import leave, multiplies_bf16, surround, temporarily_bf16
from mendiff.training.step import Learner, method_loss, streams

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Clock = Callable[[], float]


class Meter:
    """Time of named sections, each without the sections inside it; the rest is "rest"."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._open, self._since = clock, ["rest"], clock()

    def _turn(self) -> None:
        now = self._clock()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the time inside the block for a name."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def stop(self) -> float:
        """Total seconds."""
        self._turn()
        return sum(self.seconds.values())


@dataclass
class Row:
    """A way to process a batch, and what was measured."""

    name: str
    precision: str
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    operations: int = 0
    score: list[float] = field(default_factory=list)


def rows_of(case: Case, precisions: list[str]) -> list[Row]:
    """The rows of a case; the published order first."""
    names = ["published"] if case.published else []
    names += ["all", "likely"] if case.adaptive else list(case.variants) or ["ours"]
    return [Row(name, precision) for precision in precisions for name in names]


@contextmanager
def in_precision(method: Any, row: Row, device: torch.device) -> Iterator[None]:
    """Compute the networks in the precision of a row inside the block."""
    with ExitStack() as after:
        if row.precision == "bfloat16" and row.name != "published":
            after.enter_context(temporarily_bf16(method.parts.values(), device))
        for part in method.parts.values():
            after.callback(leave, part)
            if row.precision == "bfloat16" and row.name == "published":
                surround(part, partial(torch.autocast, device.type, torch.bfloat16))
        yield


def predict(method: Any, case: Case, row: Row, image: Tensor, meter: Meter) -> list[float]:
    """Predict a batch, with the time of every part; returns the scores."""
    sections = {"codec": "codec", "denoiser": "denoiser", "features": "features", "stop_features": "features"}
    with in_precision(method, row, image.device), torch.no_grad():
        for name, part in method.parts.items():
            surround(part, partial(meter.section, sections[name]))
        readout = getattr(method, "readout", None)
        if readout is not None:
            plain = type(readout).anomaly_map.__get__(readout)

            def scored(*args: Any, **options: Any) -> Tensor:
                with meter.section("scoring"):
                    found: Tensor = plain(*args, **options)
                return found

            readout.anomaly_map = scored
        if case.adaptive:
            method.config = replace(method.config, stop_checks="likely" if row.name == "likely" else "all")
        seeds = torch.arange(len(image))
        if row.name == "published" and case.published:
            found = [case.published(method, image, method.noise(image, seeds))]
        elif row.name in case.variants:
            method.config = override(case.config, case.variants[row.name])
            found = list(method.predict_all(zip(image.split(FLIGHT), seeds.split(FLIGHT), strict=True)))
        else:
            found = [method.predict(image, seeds)]
    return [score for one in found for score in one.score.tolist()]


def train(learner: Learner, row: Row, image: Tensor, step: int) -> None:
    """A training step."""
    method: Any = learner.network
    half = row.precision == "bfloat16"
    with torch.autocast(image.device.type, torch.bfloat16) if half else nullcontext():
        loss = method_loss(method, image, streams(0, step, range(len(image))))
    learner.descend(loss, step)


def measure(case: Case, rows: list[Row], rounds: int, cold: bool, clock: Clock, device: str) -> None:
    """Run the rows of a case in turn, in alternating order, and store the results in them."""
    method, image = build(case, device)
    learner = Learner(method.train(), method.config.training) if case.training else None
    for number in range(rounds + (not cold)):
        for row in rows if number % 2 == 0 else rows[::-1]:
            counting = number == 0
            with FlopCounterMode(display=False) if counting else nullcontext() as counter:
                reset_peak(device)
                meter = Meter(clock)
                if learner is not None:
                    train(learner, row, image, number)
                else:
                    row.score = predict(method, case, row, image, meter)
                seconds = meter.stop()
            if counting:
                row.operations = counter.get_total_flops()
            if not counting or cold:
                row.seconds.append(seconds)
                row.peak_bytes = max(row.peak_bytes, peak(device))
                row.parts = {name: share / seconds for name, share in meter.seconds.items()}


def reset_peak(device: str) -> None:
    """Start the measurement of the highest memory."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Highest memory in bytes since `reset_peak`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def make_clock(device: str, threads: int) -> Clock:
    """See the module."""
    if not device.startswith("cuda"):
        return time.process_time if threads == 1 else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def matrix_peak(kind: torch.dtype, clock: Clock, device: str, side: int = 2048) -> float:
    """Operations per second of a matrix product, the best of several."""
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    taken = []
    for _ in range(6):
        began = clock()
        one @ other
        taken.append(clock() - began)
    return 2 * side**3 / min(taken)


def table(name: str, case: Case, rows: list[Row], peaks: dict[str, float]) -> str:
    """The results of a case in Markdown."""
    first = rows[0]
    lines = [f"| {name} | seconds | faster | than published | parts | memory | used |", "|---" * 7 + "|"]
    for row in rows:
        same = next((r for r in rows if (r.name, r.precision) == ("published", row.precision)), None)
        ratios = [ratio(one, row) if one else "" for one in (first, same)]
        shares = sorted(row.parts.items(), key=lambda pair: -pair[1])
        parts = ", ".join(f"{part} {share:.0%}" for part, share in shares if share > 0.005)
        used = row.operations / (median(row.seconds) * peaks[row.precision])
        cells = [f"{row.name} {row.precision}", f"{median(row.seconds):.3g}", *ratios, parts]
        lines.append("| " + " | ".join([*cells, f"{row.peak_bytes / 1e9:.2f} GB", f"{used:.0%}"]) + " |")
    rate = case.batch / min(median(row.seconds) for row in rows)
    return "\n".join([*lines, "", f"fastest row: {rate:.3g} images/s, batches of {case.batch}", ""])


def ratio(one: Row, other: Row) -> str:
    """Median over rounds of how many times faster the other row is."""
    return f"{median(a / b for a, b in zip(one.seconds, other.seconds, strict=True)):.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["glad-tiny"], choices=list(CASES))
    parser.add_argument("--pairs", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rows", nargs="+", help='such as "published float32"; all by default')
    parser.add_argument("--steps", type=int, help="sampler steps instead of those of the case")
    parser.add_argument("--cold", action="store_true", help="no round to warm up")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = make_clock(options.device, options.threads)
    precisions = [
        one for one in options.precision if one == "float32" or multiplies_bf16(torch.device(options.device))
    ]
    peaks = {name: matrix_peak(KINDS[name], clock, options.device) for name in precisions}
    print("matrix products:", ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in peaks.items()))
    results = {}
    for name in options.cases:
        case = CASES[name] if options.steps is None else CASES[name].with_steps(options.steps)
        rows = rows_of(case, precisions)
        rows = [row for row in rows if not options.rows or f"{row.name} {row.precision}" in options.rows]
        measure(case, rows, options.pairs, options.cold, clock, options.device)
        print(f"\n{table(name, case, rows, peaks)}", flush=True)
        results[name] = [asdict(row) for row in rows]
    if options.json:
        content = {"threads": options.threads, "device": options.device, "peaks": peaks, "cases": results}
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
