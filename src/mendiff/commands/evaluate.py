"""`mendiff evaluate`: metrics on labelled images, controls beside them, and a report with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.store import categories_of, load
from mendiff.commands.common import Terminal, checked, choose_categories, choose_device, metrics_table
from mendiff.commands.predict import heat_range
from mendiff.errors import InputError
from mendiff.evaluation.controls import fit_memory_bank, median_colour_control
from mendiff.evaluation.data import Category, Sample, open_data
from mendiff.evaluation.metrics import Metrics, image_and_pixel_metrics, summary
from mendiff.images import normalise_heat, read_image, read_mask, resize, resize_mask, to_picture
from mendiff.model import Model
from mendiff.report.html import CategoryReport, ImageRow, Report, write_report
from mendiff.types import Detection

Ranked = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Scores (N,), labels (N,), maps (N,1,S,S) and masks of a category's test images."""


@dataclass(frozen=True)
class TestSet:
    """The readable test images of a category at a model's size.

    Attributes:
        samples: N of them.
        images: (N,3,S,S) float32 in [0,1], as `predict` would see them.
        labels: (N,) bool, True is defective.
        masks: (N,1,S,S) bool, or None where the category has none.
    """

    samples: list[Sample]
    images: Tensor
    labels: Tensor
    masks: Tensor | None


def run(
    model: Path,
    data: Path,
    report: Path | None,
    categories: Sequence[str] | None,
    layout: str,
    controls: bool,
    batch_size: int,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    """Evaluate a model folder on every category of `data` that has a test set."""
    terminal = Terminal(quiet)
    if batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {batch_size}.")
    device = choose_device(device)
    loaded = load(model, device)
    chosen = [one for one in choose_categories(open_data(data, layout), categories) if one.test]
    if not chosen:
        raise InputError(
            f"{data}: expected test images (test/good and test/DEFECT folders), found none; "
            "see 'mendiff check --help' for layouts."
        )
    chosen = checked(chosen, terminal)
    results: dict[str, Metrics] = {}
    pages: list[CategoryReport] = []
    tables: dict[str, dict[str, Metrics]] = {}
    everything: list[Ranked] = []
    own = categories_of(model)
    for category in chosen:
        fitted = load(model, device, category.name) if category.name in own else loaded
        tests = read_tests(category, loaded.image_size, terminal)
        found = find(fitted, tests, batch_size, terminal, category.name)
        results[category.name] = measure(tests, found.score, found.anomaly_map)
        everything.append((found.score, tests.labels, found.anomaly_map, tests.masks))
        if controls:
            for name, metrics in measure_controls(loaded, category, tests).items():
                tables.setdefault(name, {})[category.name] = metrics
        if report is not None:
            pages.append(page(fitted, category.name, tests, found, results[category.name]))
    result = summary(results, pooled(everything) if len(everything) > 1 else None)
    terminal.table(metrics_table(result, str(model)))
    if controls:
        result["controls"] = {name: summary(rows) for name, rows in tables.items()}
        for name, rows in result["controls"].items():
            terminal.table(metrics_table(rows, f"control: {name}"))
    if report is not None:
        write_report(
            report,
            Report(
                f"{model.resolve().name} on {data.resolve().name}",
                _subtitle(loaded),
                pages,
                result,
                loaded.info,
            ),
        )
        terminal.say(f"report: {report}")
    return result


def read_tests(category: Category, size: int, terminal: Terminal) -> TestSet:
    """Read a category's test images and masks at one size; unreadable images are named and left out."""
    samples, images, masks = [], [], []
    for sample in category.test:
        try:
            image = resize(read_image(sample.path), size)
            mask = _mask(sample, size) if category.has_masks else None
        except InputError as error:
            terminal.warn(str(error))
            continue
        samples.append(sample)
        images.append(image)
        masks.append(mask)
    if not samples:
        raise InputError(f"{category.root}: expected readable test images, found none.")
    known = [mask for mask in masks if mask is not None]
    return TestSet(
        samples,
        torch.stack(images),
        torch.tensor([not sample.is_good for sample in samples]),
        torch.stack(known) if len(known) == len(samples) else None,
    )


def find(model: Model, tests: TestSet, batch_size: int, terminal: Terminal, title: str) -> Detection:
    """Run a model over a test set under a progress bar; one row per image."""
    batches = list(tests.images.split(batch_size))
    parts = [model.predict_batch(batch) for batch in terminal.track(batches, f"testing {title}")]
    columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Detection)}
    return Detection(**columns)


def measure(tests: TestSet, scores: Tensor, maps: Tensor) -> Metrics:
    """The metrics of scores (N,) and maps (N,1,S,S) on a test set, at the model's image size."""
    return image_and_pixel_metrics(
        scores, tests.labels, maps if tests.masks is not None else None, tests.masks
    )


def pooled(categories: Sequence[Ranked]) -> Metrics:
    """The metrics of the images of all categories in one ranking; no pixel metrics unless all have masks."""
    scores, labels, maps, masks = zip(*categories, strict=True)
    known = [one for one in masks if one is not None]
    return image_and_pixel_metrics(
        torch.cat(scores),
        torch.cat(labels),
        *((torch.cat(maps), torch.cat(known)) if len(known) == len(masks) else ()),
    )


def measure_controls(model: Model, category: Category, tests: TestSet) -> dict[str, Metrics]:
    """The same metrics for the controls: median colour, and a memory bank on the model's own features."""
    images = tests.images
    results = {"median colour": measure(tests, *median_colour_control(images))}
    features = getattr(model.method, "features", None)
    if features is not None:
        train = torch.stack([resize(read_image(path), model.image_size) for path in category.train])
        bank = fit_memory_bank(features, train)
        results["memory bank"] = measure(tests, *bank.predict(images))
    return results


def page(model: Model, name: str, tests: TestSet, found: Detection, metrics: Metrics) -> CategoryReport:
    """A category's part of the report: one row of pictures per test image."""
    threshold, floor = heat_range(model)
    rows = [
        ImageRow(
            name=f"{sample.label}/{sample.path.name}",
            label=sample.label,
            score=float(found.score[index]),
            image=to_picture(tests.images[index]),
            reconstruction=to_picture(found.reconstruction[index]),
            heat=normalise_heat(found.anomaly_map[index, 0].numpy(), threshold, floor),
            mask=None if tests.masks is None else tests.masks[index, 0].numpy(),
            p_value=model.calibration.p_value(float(found.score[index])),
            stop_step=int(found.stop_step[index]) or None,
        )
        for index, sample in enumerate(tests.samples)
    ]
    return CategoryReport(name=name, threshold=model.threshold, images=rows, metrics=metrics)


def _mask(sample: Sample, size: int) -> Tensor:
    if sample.mask_path is None:
        return torch.zeros(1, size, size, dtype=torch.bool)
    return resize_mask(read_mask(sample.mask_path), size)


def _subtitle(model: Model) -> str:
    images = model.info.get("images", "?")
    return f"{model.name.upper()}, trained on {images} good images, at {model.image_size} pixels"
