"""`mendiff plan`: estimate GPU memory, and choose settings that fit."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from mendiff.checkpoints.stable_diffusion import STABLE_DIFFUSION
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig, TrainingConfig
from mendiff.methods.config import override
from mendiff.runs.fit_config import Plan, changed_config, check_side
from mendiff.runs.reporting import Reporter, Table
from mendiff.training.lora import EXTRA, has_peft
from mendiff.training.memory import Footprint, MemoryEstimator
from mendiff.workflows.options import PlanOptions

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
BATCHES = (8, 4, 2, 1)
"""Batch sizes of prediction to try; the first is the default of `mendiff predict`."""
LORA_RANK = 16
REMEDIES: tuple[dict[str, Any], ...] = (
    {},
    {"checkpointing": True},
    {"checkpointing": True, "optimizer": "adamw8bit"},
    {"checkpointing": True, "optimizer": "adafactor"},
    {"checkpointing": True, "lora_rank": LORA_RANK},
)
"""Changes of `training` that save memory, in the order in which they are tried."""
NOTES: dict[tuple[str, Any], str] = {
    ("training.precision", "bf16"): "note: bf16 needs an Ampere GPU or newer (RTX 30, A10, L4).",
    ("training.optimizer", "adamw8bit"): "note: adamw8bit needs pip install 'mendiff[eight-bit]'.",
    ("training.optimizer", "adafactor"): "note: adafactor needs a higher training.learning_rate, about 30 "
    "times the preset's.",
    ("training.lora_rank", LORA_RANK): "note: LoRA needs pip install 'mendiff[lora]'. It trains low-rank "
    "updates of the weights; try a training.learning_rate of about 10 times the preset's.",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings that fit.

    Attributes:
        changes: dotted config fields, or options of `mendiff predict`, to values.
        footprint: their memory.
    """

    changes: dict[str, Any]
    footprint: Footprint


def run(options: PlanOptions, reporter: Reporter) -> dict[str, Any]:
    """Estimate the peak memory of training and prediction, and choose settings that fit."""
    memory = parse_memory(options.memory)
    given = dict(options.settings)
    if options.batch is not None:
        given["training.batch_size"] = options.batch
    config = planned_config(options.method, options.preset, options.size, given)
    reporter.say("estimating peak memory of training and prediction ...")
    training = choose_training(options.method, config, memory, given)
    prediction = choose_prediction(options.method, config, memory)
    size = {} if options.size is None else {"image_size": options.size}
    settings = {**size, **given, **training.changes}
    result: dict[str, Any] = {
        "method": options.method,
        "preset": options.preset,
        "memory": memory,
        "image_size": config.image_size,
        "training": {"settings": settings, **_as_dict(training.footprint)},
        "prediction": {"options": prediction.changes, **_as_dict(prediction.footprint)},
        "fit": fit_command(options.method, options.preset, settings, _is_pretrained(options.preset, config)),
        "predict": predict_command(prediction.changes),
        "notes": [text for setting, text in NOTES.items() if setting in settings.items()],
    }
    reporter.table(_table(result))
    for line in (result["fit"], result["predict"], *result["notes"]):
        reporter.result(line)
    return result


def parse_memory(text: str) -> int:
    """Bytes of a size such as 24GB, 24GiB or 11000MB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", text.strip(), re.IGNORECASE)
    size = 0 if found is None else round(float(found[1]) * UNITS.get(found[2].upper(), 0))
    if size <= 0:
        raise InputError(f"--memory: expected a size such as 24GB, 24GiB or 11000MB, got {text!r}.")
    return size


def planned_config(method: str, preset: str, size: int | None, settings: Mapping[str, Any]) -> MethodConfig:
    """The preset with all changes, at an image size that the networks accept."""
    config, multiple = changed_config(Plan(method, preset, dict(settings), image_size=size))
    if config.image_size == 0:
        raise InputError(
            f"--size: expected an image side with preset {preset}, such as {4 * multiple}, got none."
        )
    check_side("--size", config.image_size, multiple)
    return config


def choose_training(name: str, config: MethodConfig, memory: int, given: Mapping[str, Any]) -> Choice:
    """The first of REMEDIES that fits, with as few accumulation steps as possible; given settings stay.

    The number of images per optimizer step is not changed, so that steps and learning rate remain valid.
    """
    half = config.training.precision != "float32"
    changes = {"training.precision": "bf16"} if config.training.precision == "auto" else {}
    rehearsal = MemoryEstimator(name, config)
    tried: list[Footprint] = []
    for remedy in _remedies(config, given):
        plan = dataclasses.replace(config.training, **remedy)
        if plan.lora_rank != config.training.lora_rank:
            rehearsal = MemoryEstimator(name, dataclasses.replace(config, training=plan))
        parts, footprint = _with_parts(rehearsal, plan, half, memory, fixed="training.accumulate" in given)
        tried.append(footprint)
        if footprint.needed <= memory:
            changed = {
                f"training.{key}": value
                for key, value in {**remedy, "accumulate": parts}.items()
                if value != getattr(config.training, key)
            }
            return Choice({**changes, **changed}, footprint)
    left_out = not has_peft() and "training.lora_rank" not in given and _supports(config, REMEDIES[-1])
    hint = f", or {EXTRA} and plan with LoRA" if left_out else ""
    raise _too_little("train", name, config, memory, tried, hint)


def _remedies(config: MethodConfig, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The distinct REMEDIES without given settings, as far as the method supports them."""
    seen = []
    for remedy in REMEDIES:
        left = {key: value for key, value in remedy.items() if f"training.{key}" not in given}
        if left not in seen and _supports(config, left) and (has_peft() or "lora_rank" not in left):
            seen.append(left)
            yield left


def _supports(config: MethodConfig, remedy: Mapping[str, Any]) -> bool:
    try:
        override(config, {f"training.{key}": value for key, value in remedy.items()})
    except InputError:  # RAN has no pretrained network for LoRA
        return False
    return True


def _with_parts(
    rehearsal: MemoryEstimator, plan: TrainingConfig, half: bool, memory: int, *, fixed: bool
) -> tuple[int, Footprint]:
    """(parts of the batch, their memory): the fewest parts that fit, or the largest number of parts."""
    parts = [n for n in range(1, plan.batch_size + 1) if plan.batch_size % n == 0]
    if fixed:
        parts = [plan.accumulate]
    low, high = 0, len(parts) - 1

    @cache
    def at(index: int) -> Footprint:
        return rehearsal.training(dataclasses.replace(plan, accumulate=parts[index]), half)

    if at(high).needed <= memory:
        while low < high:  # memory decreases with the number of parts
            middle = (low + high) // 2
            low, high = (low, middle) if at(middle).needed <= memory else (middle + 1, high)
    return parts[high], at(high)


def choose_prediction(name: str, config: MethodConfig, memory: int) -> Choice:
    """The largest batch that fits in float32, otherwise in bfloat16, then with offloading, then both."""
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, lora_rank=0))
    tried: list[Footprint] = []
    plain, halved = MemoryEstimator(name, config), None
    for offload, half in ((False, False), (False, True), (True, False), (True, True)):
        if half and halved is None:
            halved = MemoryEstimator(name, config, half=True)
        rehearsal = halved if half and halved is not None else plain
        for batch in BATCHES:
            footprint = rehearsal.prediction(batch, offload=offload)
            tried.append(footprint)
            if footprint.needed <= memory:
                options = {"batch_size": batch} if batch != BATCHES[0] else {}
                switches = {key: True for key, on in (("half", half), ("offload", offload)) if on}
                return Choice({**options, **switches}, footprint)
    raise _too_little("use", name, config, memory, tried)


def _too_little(
    verb: str, name: str, config: MethodConfig, memory: int, tried: Sequence[Footprint], hint: str = ""
) -> InputError:
    least = min(one.needed for one in tried) / 1e9
    return InputError(
        f"--memory: expected at least {math.ceil(10 * least) / 10} GB to {verb} {name} at "
        f"{config.image_size} pixels, got {memory / 1e9:.1f} GB; choose a smaller --size{hint}."
    )


def fit_command(method: str, preset: str, settings: Mapping[str, Any], pretrained: bool) -> str:
    """The command line of the planned fit; `pretrained` for presets with pretrained weights."""
    words = [f"mendiff fit DATA -o MODEL --method {method} --preset {preset}"]
    words += [f"--pretrained {STABLE_DIFFUSION}"] if pretrained else []
    for key, value in settings.items():
        written = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(
            f"--image-size {value}" if key == "image_size" else f"--set {shlex.quote(f'{key}={written}')}"
        )
    return " ".join(words)


def predict_command(options: Mapping[str, Any]) -> str:
    """The command line of the planned prediction."""
    words = ["mendiff predict MODEL IMAGES -o FINDINGS"]
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def _is_pretrained(preset: str, config: Any) -> bool:
    return preset.partition("/")[0] == "paper" and config.denoiser.kind == "conditional_unet"


def _as_dict(footprint: Footprint) -> dict[str, int]:
    return {**dataclasses.asdict(footprint), "needed": footprint.needed}


def _table(result: Mapping[str, Any]) -> Table:
    """Table of the memory by purpose, in GB."""
    size, memory = result["image_size"], result["memory"] / 1e9
    title = f"{result['method']} ({result['preset']}), {size} pixels, in GB of {memory:.1f}"
    table = Table(title, ["", "training", "prediction"])
    for key, title in (
        ("weights", "weights"),
        ("gradients", "gradients"),
        ("optimizer", "optimiser and averages"),
        ("activations", "activations"),
        ("peak", "peak"),
        ("needed", "with context and fragmentation"),
    ):
        cells = (result[what][key] / 1e9 for what in ("training", "prediction"))
        table.add(title, *(f"{value:.1f}" if value else "-" for value in cells))
    return table
