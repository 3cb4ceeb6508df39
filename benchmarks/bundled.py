r"""The bundled networks compared with the teacher and with random weights, on real images.

    PYTHONPATH=. python benchmarks/bundled.py DATA --teacher-weights FILE --teacher-input tflite -o runs
    PYTHONPATH=. python benchmarks/bundled.py DATA --teacher-weights FILE --teacher-input tflite \
        --features runs/features/features.safetensors --codec runs/codec/codec \
        --sizes magnetic_tile=256 deeppcb=320 road_crack=128 -o runs/bundled
    PYTHONPATH=. python benchmarks/bundled.py --speed --teacher-weights FILE --teacher-input tflite

A memory bank (8,000 random patches, stages 2 to 4 pooled 3x3, maximum of the map) on the features of the
teacher, of the student and of the teacher's network with random weights; the student's share of the teacher's
gain over random weights; the codec's PSNR and SSIM on good test images; the memory bank on decoded images.
Prints Markdown. Finished parts are stored in results.json, so an interrupted run can be continued. --speed
measures teacher and student alternately on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import codec_folder, open_features
from mendiff.checkpoints.codecs import open_codec
from mendiff.checkpoints.store import read_weights
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import resize, write_bytes
from mendiff.data.reading import read_image
from mendiff.data.suitability import own_size
from mendiff.errors import InputError
from mendiff.evaluation.baselines import Features, fit_memory_bank
from mendiff.nets.codec import Codec
from mendiff.nets.features import FeatureExtractor
from mendiff.nets.placement import multiplies_bf16
from mendiff.nets.student import STAGES, StudentFeatures
from mendiff.runs.common import choose_categories
from mendiff.runs.testing import TestSet, measure, read_tests
from mendiff.runs.training_images import readable_paths
from mendiff.workflows.fit_codec import quality
from tools.train_features import open_teacher

COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap")
SIDE, ROUNDS, BATCHES = 256, 20, (1, 8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="root of the categories")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--teacher", default="mobilenetv2_100")
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--teacher-input", help="tflite for weights that come from TensorFlow Lite")
    parser.add_argument("--features", type=Path, help="the student's file; the installed one unless given")
    parser.add_argument("--codec", default="auto", help="codec folder, auto for the installed one, or none")
    parser.add_argument("--categories", nargs="+")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="NAME=PIXELS")
    parser.add_argument("--speed", action="store_true", help="time only")
    options = parser.parse_args()
    taught, _ = open_teacher(options.teacher, options.teacher_weights, options.teacher_input)
    student = open_features(STAGES) if options.features is None else student_of(options.features)
    if options.speed or options.data is None:
        print(speed(taught, student))
        return
    torch.manual_seed(0)
    rows: dict[str, Features] = {
        "teacher": taught,
        "student": student,
        "random weights": FeatureExtractor(taught.config),
    }
    codec = None if options.codec == "none" else open_codec(codec_folder(options.codec))
    sizes = dict(pair.split("=") for pair in options.sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "results.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
    terminal = Terminal()
    for category in choose_categories(open_data(options.data), options.categories):
        found = results.setdefault(category.name, {})
        for label, part in parts(category, sizes.get(category.name), rows, codec, terminal).items():
            if label not in found:
                found[label] = part()
                terminal.say(f"{category.name}: {label} {found[label]}")
                write_bytes(store, (json.dumps(results, indent=2) + "\n").encode())
    print(as_markdown(results))
    print(codec_as_markdown(results))


def student_of(path: Path) -> StudentFeatures:
    """Load a student from a file."""
    features = StudentFeatures({}, STAGES)
    features.load_backbone(read_weights(path), str(path))
    return features


def parts(
    category: Category,
    size: str | None,
    rows: dict[str, Features],
    codec: Codec | None,
    terminal: Terminal,
) -> dict[str, Callable[[], Any]]:
    """All measurements of a category by label, as functions."""
    paths = readable_paths([category], terminal)
    side = int(size) if size else own_size(paths, 32)
    train = torch.stack([resize(read_image(path), side) for path in paths])
    tests = read_tests(category, side, terminal)
    found: dict[str, Callable[[], Any]] = {}
    for label, features in rows.items():
        found[label] = lambda features=features: bank_metrics(features, train, tests, None)
    if codec is not None:
        taught = rows["teacher"]
        found["decoded"] = lambda: bank_metrics(taught, train, tests, codec)
        found["codec"] = lambda: quality(codec, tests.images[~tests.labels])
    return found


@torch.no_grad()
def bank_metrics(
    features: Features, train: Tensor, tests: TestSet, codec: Codec | None
) -> dict[str, float | None]:
    """Metrics of a memory bank; on decoded images if a codec is given."""

    def seen(images: Tensor) -> Tensor:
        if codec is None:
            return images
        return torch.cat([codec.decode(codec.encode(image)) for image in images.split(1)])

    bank = fit_memory_bank(features, seen(train))
    metrics = measure(tests, *bank.predict(seen(tests.images)))
    return {column: metrics[column] for column in COLUMNS}


def as_markdown(results: dict[str, Any]) -> str:
    """Table of teacher, student and random weights, and the student's share of the gain."""
    lines = ["| | | teacher | student | random weights | gain kept |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        for column in COLUMNS:
            best, ours, none = (found[row][column] for row in ("teacher", "student", "random weights"))
            if best is None:
                continue
            kept = f"{(ours - none) / (best - none):.0%}" if best > none else "–"
            title = column.replace("_", " ").replace("auroc", "AUROC").replace("ap", "AP")
            lines.append(f"| {name} | {title} | {best:.3f} | {ours:.3f} | {none:.3f} | {kept} |")
    return "\n".join(lines)


def codec_as_markdown(results: dict[str, Any]) -> str:
    """Table of the codec per category, and of the teacher's memory bank on images and on decoded images."""
    lines = [
        "| | PSNR | SSIM | image AUROC | decoded | pixel AUROC | decoded |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        if "codec" in found:
            pairs = [found[row][column] for column in COLUMNS[:2] for row in ("teacher", "decoded")]
            cells = " | ".join("–" if one is None else f"{one:.3f}" for one in pairs)
            codec = found["codec"]
            lines.append(f"| {name} | {codec['psnr']:.1f} dB | {codec['ssim']:.3f} | {cells} |")
    return "\n".join(lines)


@torch.no_grad()
def speed(teacher: FeatureExtractor, student: StudentFeatures) -> str:
    """Milliseconds per image on one core, alternately; also in bfloat16 if it is fast."""
    torch.set_num_threads(1)
    halves = (False, True) if multiplies_bf16(torch.device("cpu")) else (False,)
    lines = ["| computed in | batch | teacher | student | ratio |", "|---" * 5 + "|"]
    for half, count in product(halves, BATCHES):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            best = timed(teacher, student, count)
        cells = " | ".join(f"{1e3 * one:.1f} ms" for one in best.values())
        ratio = best["teacher"] / best["student"]
        kind = "bfloat16" if half else "float32"
        lines.append(f"| {kind} | {count} of {SIDE} px | {cells} | {ratio:.1f} |")
    return "\n".join(lines)


@torch.no_grad()
def timed(teacher: FeatureExtractor, student: StudentFeatures, count: int) -> dict[str, float]:
    """Processor seconds per image of each network, in its faster memory format."""
    taken: dict[tuple[str, torch.memory_format], list[float]] = {}
    for _ in range(ROUNDS):
        for form in (torch.contiguous_format, torch.channels_last):
            image = torch.rand(count, 3, SIDE, SIDE).contiguous(memory_format=form)
            for name, network in (("teacher", teacher), ("student", student)):
                network.to(memory_format=form)  # type: ignore[call-overload]
                began = time.process_time()
                network(image)
                taken.setdefault((name, form), []).append((time.process_time() - began) / count)
    return {
        name: min(median(values) for (other, _), values in taken.items() if other == name)
        for name in ("teacher", "student")
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from error
