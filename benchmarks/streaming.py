"""Memory of `mendiff predict` on folders of different size (Linux).

    python benchmarks/streaming.py [--counts 100 20000]

Draws images of 24 pixels, fits a small model, and runs `mendiff predict` in a process of its own for every
number of images. Prints a Markdown table: images, time, resident memory after the first rows, its largest
value from then on, and the largest value of the whole process, which is that of its start.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from small_model import draw_photos, fit_small

MIB = 2**20
FIRST_ROWS = 50


def resident(process: int) -> float:
    """Resident memory of a process in MiB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def measured(words: list[str], rows: Path) -> tuple[float, float, float, float]:
    """Run a command that writes rows; returns seconds, MiB at FIRST_ROWS rows, largest since, largest."""
    began, samples = time.monotonic(), list[float]()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.2)
        if samples or (rows.is_file() and rows.read_bytes().count(b"\n") >= FIRST_ROWS):
            samples.append(resident(process.pid))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed")
    return time.monotonic() - began, samples[0], max(samples), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 20000], help="numbers of images")
    options = parser.parse_args()
    print("| images | seconds | MiB at 50 rows | largest since | largest |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        model = fit_small(Path(place) / "fit")
        for count in options.counts:
            photos = draw_photos(Path(place) / f"photos-{count}", count)
            out = Path(place) / f"found-{count}"
            command = [sys.executable, "-m", "mendiff", "predict", str(model), str(photos), "-o", str(out)]
            rows = out.with_name(f"{out.name}-unfinished") / "predictions.jsonl"
            figures = measured([*command, "--device", "cpu"], rows)
            print(f"| {count} | {' | '.join(f'{one:.0f}' for one in figures)} |", flush=True)


if __name__ == "__main__":
    main()
