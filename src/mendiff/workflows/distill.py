"""`mendiff distill`: train the denoiser of a fitted GLAD model to sample in few steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Generator, Tensor

from mendiff.checkpoints.files import sha256_of, write_json
from mendiff.checkpoints.model_folder import WEIGHTS, categories_of
from mendiff.checkpoints.store import load, save
from mendiff.data.dataset import open_data
from mendiff.data.samples import Use
from mendiff.errors import InputError, check_count
from mendiff.methods.base import TrainingConfig
from mendiff.methods.glad import Glad
from mendiff.model import Model
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.places import check_output, new_folder, resumable
from mendiff.runs.power import Power, estimate_power
from mendiff.runs.reporting import Reporter, Table
from mendiff.runs.training_images import readable_paths
from mendiff.runs.variants import split_as_fitted, variant_of
from mendiff.synthesis.probes import probes
from mendiff.training.distill import Distillation
from mendiff.training.loop import CHECKPOINT, Loop, train_network
from mendiff.workflows.manifest import check_manifest, data_hashes
from mendiff.workflows.options import DistillOptions
from mendiff.workflows.training_run import workdir_of
from mendiff.workflows.tune import METRICS, metrics_against_good

REPORT = "distillation.json"
SHARE = 3
"""The student is trained for a third of the teacher's steps, at a third of its learning rate."""
SUBSTEPS = 4
"""Steps of the teacher for a step of the student."""
MOST_IMAGES, PROBES, PROBE_SEED = 500, 60, 2
"""Largest number of training images and of synthetic defects in held-back images, and the seed of these."""
TIMED = 5
"""Images of which the time of a prediction is the median."""


@dataclass(frozen=True)
class Row:
    """A model in the comparison.

    Attributes:
        model: its name in the table.
        seconds: median time of the prediction of an image.
        metrics: METRICS, of held-back good images against synthetic defects in them.
        psnr: of its reconstructions of these defects against those of the teacher, in dB; None for itself.
    """

    model: str
    seconds: float
    metrics: dict[str, float]
    psnr: float | None


def run(options: DistillOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the distilled model and a comparison with its teacher."""
    place = check_output(options.out, options.overwrite, "a distilled model")
    checkpoint = workdir_of(options.out, options.resume) / CHECKPOINT
    check_count("--sampler-steps", options.sampler_steps, 1, 100)
    teacher = _teacher(options)
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    paths = readable_paths(chosen, reporter, Use(reading=teacher.reading))
    held_back, seen = split_as_fitted(teacher, paths)
    good, others = _inputs(teacher, held_back), sorted(set(paths) - set(held_back))[:MOST_IMAGES]
    start = options.start_timestep or _typical_stop(teacher, good)
    reporter.say(f"student: {options.sampler_steps} steps from t = {start}")
    few = variant_of(teacher, _changes(options.sampler_steps, start), held_back, seen)
    plan = _training(teacher.method.config.training, options.steps)
    facts = {"sampler_steps": options.sampler_steps, "start_timestep": start, "steps": plan.steps}
    started: dict[str, Any] = {"data": data_hashes(chosen, paths), "seed": options.seed, "student": facts}
    started["model"] = sha256_of(options.model / WEIGHTS)
    with resumable(checkpoint, options.out, options.resume):
        check_manifest(checkpoint.parent, checkpoint, started, resume=options.resume)
        loop = Loop(plan, options.seed, checkpoint, options.resume)
        student = _trained(teacher, few, _inputs(teacher, others), loop, reporter)
        student = student.calibrated(held_back, seen)
        student.info.update(distilled=facts, power=_power(student, held_back, reporter).to_dict())
        models = {"teacher": teacher, "teacher in few steps": few, "distilled": student}
        rows = compared(models, good, reporter)
        report = {**facts, "rows": [asdict(row) for row in rows]}
        with new_folder(place) as draft:
            save(draft / "model", student.name, student.method, student.calibration, student.info)
            write_json(draft / REPORT, report)
    reporter.table(_table(rows))
    reporter.say(f"model: {options.out / 'model'} (threshold {student.threshold:.4g} from good images only)")
    return {"model": str(options.out / "model"), **report}


def _teacher(options: DistillOptions) -> Model:
    """The model to distill; InputError for other models than GLAD with a single start and whole images."""
    model = load(options.model, choose_device(options.device))
    if not isinstance(model.method, Glad):
        raise InputError(f"{options.model}: expected a GLAD model, got {model.name}.")
    config = model.method.config
    if config.sampler_steps == 1 or len(config.start_timesteps) > 1:
        raise InputError(
            f"{options.model}: expected several sampler steps from a single start timestep, as of --preset "
            f"small, got {config.sampler_steps} from {list(config.start_timesteps)}."
        )
    if categories_of(options.model) or model.method.categories or not model.plain:
        raise InputError(
            f"{options.model}: expected a model of whole square images without statistics or prompts per "
            "category; fit one with the defaults of --statistics, --resize and --tile."
        )
    return model


def _changes(steps: int, start: int) -> dict[str, Any]:
    """The config of the student: few steps from a fixed start."""
    return {
        "adaptive": False,
        "stop_checks": "all",
        "threshold": None,
        "start_timesteps": (start,),
        "sampler_steps": steps,
        "spacing": "trailing",
    }


def _training(plan: TrainingConfig, steps: int | None) -> TrainingConfig:
    """Training of the student."""
    steps = steps or max(1, plan.steps // SHARE)
    rate = plan.learning_rate / SHARE
    return replace(plan, steps=steps, warmup=min(plan.warmup, steps // 10), learning_rate=rate, lora_rank=0)


def _inputs(model: Model, paths: Sequence[Path]) -> Tensor:
    """Images as the networks see them, (N,3,S,S) in [0,1]."""
    device = next(model.method.parameters()).device
    parts = (model.prepare(path)[None].to(device) for path in paths)
    return torch.cat([model.method.frame(image).image.cpu() for image in parts])


def _typical_stop(model: Model, good: Tensor) -> int:
    """Median timestep at which the search stops for synthetic defects; the start without a search."""
    config: Any = model.method.config
    if not config.adaptive:
        return int(config.start_timesteps[0])
    defective, _ = _defects(good)
    stops = [int(stop) for one in model.stream(list(defective)) for stop in one.stop_step]
    reached = [stop for stop in stops if stop > 0] or [config.min_timestep]
    return int(median(reached)) + 1


def _defects(good: Tensor) -> tuple[Tensor, Tensor]:
    """Good images with synthetic defects, and their masks."""
    return probes(good, PROBES, Generator("cpu").manual_seed(PROBE_SEED))


def _trained(teacher: Model, student: Model, images: Tensor, loop: Loop, reporter: Reporter) -> Model:
    """A copy of the student with a trained denoiser."""
    student = copy.deepcopy(student)
    method: Any = student.method
    fixed: Any = teacher.method
    eight_bit = (images * 255).round().to(torch.uint8)
    data = Distillation(fixed.denoiser, method, eight_bit, loop.training.batch_size, SUBSTEPS)
    method.denoiser.train().requires_grad_(True)
    with reporter.bar("distilling: steps") as update:
        train_network(method.denoiser, data.loss, loop, update)
    method.denoiser.eval().requires_grad_(False)
    return student


def _power(model: Model, held_back: Sequence[Path], reporter: Reporter) -> Power:
    """What the model's threshold finds."""
    with reporter.stages() as update:
        power = estimate_power(model, [model.prepare(path) for path in held_back], update)
    reporter.say(f"power: the threshold {power.sentence(model.threshold)}")
    return power


def compared(models: dict[str, Model], good: Tensor, reporter: Reporter) -> list[Row]:
    """The models on good images (N,3,S,S) and on copies with synthetic defects; the first is the teacher."""
    defective, masks = _defects(good)
    rows: list[Row] = []
    reference: Tensor | None = None
    with reporter.bar("comparing: models") as update:
        for number, (name, model) in enumerate(models.items(), start=1):
            seconds = median(_seconds(model, image) for image in defective[:TIMED])
            with model.in_half():
                normal, found = model.predict(list(good)), model.predict(list(defective))
            metrics = metrics_against_good(normal, found, masks)
            psnr = None if reference is None else _psnr(found.reconstruction, reference)
            reference = found.reconstruction if reference is None else reference
            rows.append(Row(name, seconds, {key: metrics[key] for key in METRICS}, psnr))
            update(number, len(models), name)
    return rows


def _seconds(model: Model, image: Tensor) -> float:
    began = time.perf_counter()
    model.predict([image])
    return time.perf_counter() - began


def _psnr(images: Tensor, others: Tensor) -> float:
    return -10 * float((images - others).square().mean().clamp(min=1e-12).log10())


def _table(rows: Sequence[Row]) -> Table:
    names = (key.replace("_", " ").replace("auroc", "AUROC").replace(" ap", " AP") for key in METRICS)
    titles = ["", "ms per image", "times faster", *names, "PSNR to teacher"]
    narrowest = max(len(row.model) for row in rows)
    table = Table("synthetic defects in held-back good images", titles, narrowest=narrowest)
    for row in rows:
        speed = (f"{1000 * row.seconds:.0f}", f"{rows[0].seconds / row.seconds:.1f}")
        metrics = (f"{row.metrics[key]:.3f}" for key in METRICS)
        table.add(row.model, *speed, *metrics, "" if row.psnr is None else f"{row.psnr:.1f}")
    return table
