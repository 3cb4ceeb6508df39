"""Exported models against the model itself: scores, decisions, speed, memory, start-up and size.

    python benchmarks/export.py MODEL --images DIR [--good DIR] [--count 200] [--batches 10] [--threads 0]

`--good` has the good images that calibrate int8. `--keep` is a folder where exports stay and are used again.

Each way to run the model has a process of its own. Score differences are relative, to the score itself and to
the distance of the threshold from the median score of the model's good images. The latency is the median
time of a single prepared image, the throughput that of batches of 8, the work the processor time per image
of these batches, which other programs on the machine hardly change. Start-up is the time of a new process
from its imports to the first score, memory its largest resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

WAYS = (
    *("torch", "torch-bf16", "onnx", "onnx-fp16", "onnx-int8"),
    *("openvino", "openvino-fp16", "openvino-bf16", "openvino-int8", "openvino-int8-bf16"),
    *("onnx-streams", "openvino-streams"),
)
"""What runs the model, and the precision of its weights (fp16) or of its computations (bf16, int8).

There are as many streams as threads, each with a batch.
"""
BATCH = 8


def streams_of(way: str, threads: int) -> int:
    """Number of batches at the same time."""
    return (threads or os.cpu_count() or 1) if way.endswith("streams") else 1


def opened(way: str, folder: Path, threads: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """(path to prepared image, list of prepared images to scores) of a way to run a model."""
    if not way.startswith("torch"):
        import numpy as np

        from mendiff.runtime import load_exported

        half, streams = way.endswith("bf16"), streams_of(way, threads)
        model = load_exported(folder, half=half, threads=threads, streams=streams)
        return model.prepare, lambda images: model.find(np.stack(images))["score"].tolist()
    import torch

    from mendiff.checkpoints.store import load

    if threads:
        torch.set_num_threads(threads)
    loaded = load(folder, half=way.endswith("bf16"))
    return loaded.prepare, lambda images: loaded.predict_batch(torch.stack(images)).score.tolist()


def measure(way: str, folder: Path, paths: list[Path], batches: int, threads: int) -> dict[str, Any]:
    """Scores and figures of a way to run a model, in this process."""
    began = time.perf_counter()
    prepare, find = opened(way, folder, threads)
    images = [prepare(paths[0])]
    find(images)
    start = time.perf_counter() - began
    scores = [score for path in paths for score in find([prepare(path)])]
    images = [prepare(path) for path in (paths * BATCH)[:BATCH]]

    def seconds(given: list[Any], clock: Callable[[], float] = time.perf_counter) -> float:
        find(given)
        taken = []
        for _ in range(batches):
            before = clock()
            find(given)
            taken.append(clock() - before)
        return median(taken)

    return {
        "scores": scores,
        "start": start,
        "latency": seconds(images[:1]),
        "throughput": throughput(find, images, batches, streams_of(way, threads)),
        "work": seconds(images, time.process_time) / BATCH,
        "memory": peak_mebibytes(),
    }


def throughput(find: Callable[[Any], Any], images: list[Any], batches: int, streams: int) -> float:
    """Images per second of batches, as many at the same time as streams."""
    from mendiff.runtime.streams import in_order

    list(in_order(find, [images] * streams, streams))
    began, count = time.perf_counter(), batches * streams
    list(in_order(find, [images] * count, streams))
    return len(images) * count / (time.perf_counter() - began)


def peak_mebibytes() -> float:
    """Largest resident size of this process; rusage would include that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def in_own_process(way: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The result of `measure` in a new process."""
    options = ["--count", given.count, "--batches", given.batches, "--threads", given.threads]
    words = [sys.executable, __file__, folder, "--images", given.images, "--way", way, *options]
    done = subprocess.run(list(map(str, words)), check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def exported(given: argparse.Namespace, place: Path, way: str) -> Path:
    """The folder that a way to run the model opens."""
    to, *precisions = way.split("-")
    if to == "torch":
        return Path(given.model)
    precision = next((one for one in precisions if one not in ("bf16", "streams")), "fp32")
    folder = place / f"{to}-{precision}"
    if not folder.exists():
        words = ["export", given.model, "-o", folder, "--to", to, "--precision", precision]
        if precision == "int8":
            words += ["--calibrate", given.good, "--max-loss", 1]
        command = [sys.executable, "-m", "mendiff", *map(str, words)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--good", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all, int8 with --good alone")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from mendiff.data.image_files import find_images

    found = [path for path in find_images(given.images) if "ground_truth" not in path.parts]
    paths = found[:: max(1, len(found) // given.count)][: given.count]
    if given.way:
        print(json.dumps(measure(given.way, given.model, paths, given.batches, given.threads)))
        return
    from mendiff.checkpoints.store import load

    calibration = load(given.model).calibration
    limit = calibration.threshold
    unit = limit - median(calibration.scores)
    print(f"{len(paths)} images of {given.images}; {given.threads or 'all'} threads")
    print("way | of the score, unit | other decisions | ms | images/s | CPU ms | start s | MiB | MB on disk")
    reference: list[float] = []
    ways = given.ways or [way for way in WAYS if given.good or "int8" not in way]
    with TemporaryDirectory() as place:
        for way in ways:
            folder = exported(given, given.keep or Path(place), way)
            one = in_own_process(way, folder, given)
            reference = reference or one["scores"]
            pairs = list(zip(one["scores"], reference, strict=True))
            of_score = max(abs(score - other) / abs(other) for score, other in pairs)
            of_unit = max(abs(score - other) for score, other in pairs) / unit
            decisions = sum((score > limit) != (other > limit) for score, other in pairs)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
            speed = f"{1000 * one['latency']:.0f} | {one['throughput']:.2f} | {1000 * one['work']:.0f}"
            needs = f"{one['start']:.1f} | {one['memory']:.0f} | {size:.1f}"
            print(f"{way} | {of_score:.1e}, {of_unit:.1e} | {decisions} | {speed} | {needs}", flush=True)


if __name__ == "__main__":
    main()
