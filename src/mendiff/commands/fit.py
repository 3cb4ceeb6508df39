"""`mendiff fit`: from a folder of good images to a model folder."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import named_codec, resolved
from mendiff.checkpoints.codecs import load_codec
from mendiff.checkpoints.store import read_weights, save
from mendiff.commands.common import (
    Terminal,
    check_output,
    checked,
    choose_categories,
    choose_device,
    set_aside,
)
from mendiff.commands.length import STEPS_FILE, lengthened
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.evaluation.data import Category, open_data
from mendiff.images import image_size as read_size
from mendiff.methods.base import MethodConfig, find_method, find_preset
from mendiff.methods.config import config_to_dict, override
from mendiff.model import Model
from mendiff.nets import AUTO

LARGEST, SMALLEST = 320, 64
STATISTICS = ("global", "category")
BALANCES = ("image", "category")
FEWEST_IMAGES = 8  # as in anomalib_models, which takes seconds to import
NO_FEATURES = "no pretrained features given; --features and --features-weights would find much more."


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to fit, whatever the data.

    Attributes:
        method, preset: names.
        settings: dotted config fields to their values.
        features: timm's name, "auto" for the bundled network, or None for the preset's.
        features_weights: local safetensors file of the backbone.
        image_size: in pixels, or None for the images' own.
        seed: of training.
        device: torch's name.
        statistics: whether scales and thresholds are learned for all categories together ("global") or for
            each ("category").
        codec: folder that `mendiff fit-codec` wrote, "auto" for the bundled codec, or None for the preset's.
        balance: whether every "image" or every "category" is shown equally often in training.
    """

    method: str = "glad"
    preset: str = "tiny"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    features: str | None = None
    features_weights: Path | None = None
    image_size: int | None = None
    seed: int = 0
    device: str = "cpu"
    statistics: str = "global"
    balance: str = "image"
    codec: Path | None = None


def run(
    data: Path,
    out: Path,
    method: str,
    preset: str,
    features: str | None,
    features_weights: Path | None,
    image_size: int | None,
    categories: Sequence[str] | None,
    layout: str,
    statistics: str,
    balance: str,
    codec: Path | None,
    seed: int,
    device: str,
    resume: bool,
    overwrite: bool,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Fit a method to the good images of `data` and write the model folder `out`."""
    terminal = Terminal(quiet)
    check_output(out, overwrite)
    if resume:
        workdir_of(out, resume)
    if statistics not in STATISTICS:
        raise InputError(f"--statistics: expected one of {', '.join(STATISTICS)}, got {statistics!r}.")
    if balance not in BALANCES:
        raise InputError(f"--balance: expected one of {', '.join(BALANCES)}, got {balance!r}.")
    device = choose_device(device)
    backbone = (features, features_weights)
    plan = Plan(method, preset, settings, *backbone, image_size, seed, device, statistics, balance, codec)
    chosen = choose_categories(open_data(data, layout), categories)
    return fit(plan, chosen, out, terminal, resume=resume, overwrite=overwrite)


def fit(
    plan: Plan,
    categories: Sequence[Category],
    out: Path,
    terminal: Terminal,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fit a plan to the good training images of some categories; returns what a person wants to know."""
    paths = readable_paths(categories, terminal)
    config = make_config(plan, paths)
    if "training.steps" not in plan.settings:  # a number that was asked for stays
        config = lengthened(plan.method, config, plan.device, workdir_of(out, resume), resume=resume)
    terminal.say(
        f"{plan.method} ({plan.preset}): {len(paths)} good images of "
        f"{', '.join(one.name for one in categories)}, {config.image_size} pixels, "
        f"{config.training.steps} steps on {plan.device}"
    )
    if not getattr(getattr(config, "features", None), "name", "-"):
        terminal.say(f"note: {NO_FEATURES}")
    facts = {"images": len(paths), "categories": [one.name for one in categories]}
    apart = _apart(categories, paths) if plan.statistics == "category" else {}
    groups = _groups(categories, paths) if plan.balance == "category" else None
    with terminal.bar("fitting") as update:
        result = learn(
            plan, config, paths, out, facts, update, apart, groups, resume=resume, overwrite=overwrite
        )
    terminal.say(
        f"model: {out} (fitted in {result['seconds']:.0f} s; "
        f"threshold {result['threshold']:.4g} from good images alone)"
    )
    return result


def _apart(categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The readable images of every category; too few of one are an error."""
    readable = set(paths)
    apart = {one.name: [path for path in one.train if path in readable] for one in categories}
    for name, some in apart.items():
        if len(some) < FEWEST_IMAGES:
            raise InputError(
                f"--statistics category: expected at least {FEWEST_IMAGES} good images of {name}, got "
                f"{len(some)}; add some, or choose --statistics global."
            )
    return apart


def _groups(categories: Sequence[Category], paths: Sequence[Path]) -> list[list[int]]:
    """The numbers of every category's readable images."""
    number = {path: index for index, path in enumerate(paths)}
    return [[number[path] for path in one.train if path in number] for one in categories]


def learn(
    plan: Plan,
    config: MethodConfig,
    paths: Sequence[Path],
    out: Path,
    facts: dict[str, Any],
    update: Callable[[int, int, str], None],
    apart: Mapping[str, Sequence[Path]] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train, calibrate and write the model folder `out`, without a word.

    Args:
        plan: method, seed and device.
        config: see make_config.
        paths: good images.
        out: model folder.
        facts: what the model folder should tell of the data.
        update: called with (step, steps, note).
        apart: categories that get statistics of their own besides the common ones, and their images.
        groups: of `paths`, by number, that are shown equally often; all are one group unless given.
        resume: go on with an interrupted fit of `out`.
        overwrite: replace `out`.
    """
    from mendiff import anomalib_models  # brings anomalib and Lightning: seconds, so only now

    anomalib_models.quiet()
    workdir = workdir_of(out, resume)
    weights = None if plan.features_weights is None else str(plan.features_weights)
    module = anomalib_models.module_class(plan.method)(config, features_weights=weights, seed=plan.seed)
    if plan.codec is not None:
        codec: Any = module.method.codec
        load_codec(codec, named_codec(plan.codec)[1], str(plan.codec))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / STEPS_FILE).write_text(str(config.training.steps))
    # Every category must have its share of the held-back images.
    for some in (apart or {}).values():
        identities = anomalib_models.GoodImages(some, config.image_size).identities
        module.held_back += anomalib_models.choose([seed for seed, _ in identities])
    began = time.monotonic()
    try:
        anomalib_models.train(
            module,
            anomalib_models.GoodImages(paths, config.image_size),
            workdir=workdir,
            groups=groups,
            device=plan.device,
            resume=resume,
            progress=lambda step, total, loss: update(step, total, f"loss {loss:.4f}"),
        )
    except KeyboardInterrupt as interrupt:
        if (workdir / anomalib_models.CHECKPOINT).is_file():
            raise KeyboardInterrupt("the same command with --resume goes on from here") from interrupt
        raise
    finally:
        if not (workdir / anomalib_models.CHECKPOINT).is_file():
            shutil.rmtree(workdir, ignore_errors=True)
    seconds = round(time.monotonic() - began, 1)
    info = {"preset": plan.preset, **facts, "seed": plan.seed, "seconds": seconds}
    model = module.as_model(info).to(plan.device)
    categories = {
        name: _of_category(model, some, module.held_back).to("cpu") for name, some in (apart or {}).items()
    }
    model.to("cpu")
    check_output(out, overwrite)  # it may have come up meanwhile
    with set_aside(out):
        save(out, model.name, model.method, model.calibration, info, categories)
    shutil.rmtree(workdir, ignore_errors=True)
    stored = config_to_dict(model.method.config)
    return {"model": str(out), "threshold": model.threshold, **info, "config": stored}


def _of_category(model: Model, paths: Sequence[Path], held_back: Collection[int]) -> Model:
    """The model with statistics of one category, from its images: held-back ones and some of the others."""
    from mendiff.anomalib_models import MOST_SEEN

    images = torch.stack([model.prepare(path) for path in paths])
    kept: list[Tensor] = []
    seen: list[Tensor] = []
    for image, seed in zip(images, content_seeds(images).tolist(), strict=True):
        (kept if seed in held_back else seen).append(image)
    return model.calibrated(kept, seen[:MOST_SEEN])


def workdir_of(out: Path, resume: bool) -> Path:
    """Where checkpoints lie until the model is written; an earlier fit's go unless it is resumed."""
    out = out.resolve()
    workdir = out.with_name(f".{out.name}.fit")
    if not resume:
        shutil.rmtree(workdir, ignore_errors=True)
    elif not workdir.is_dir():
        raise InputError(
            f"--resume: expected an interrupted fit of {out} to go on with, found none; fit without it."
        )
    return workdir


def make_config(plan: Plan, paths: Sequence[Path]) -> MethodConfig:
    """The preset with the plan's changes, and with an image size that the networks can take."""
    config = find_preset(plan.method, plan.preset)
    changes: dict[str, Any] = dict(plan.settings)
    changes = {**backbone_changes(plan.features, plan.features_weights), **changes}
    if plan.codec is not None:
        changes["codec"] = config_to_dict(named_codec(plan.codec)[0])
    if plan.image_size is not None:
        changes["image_size"] = plan.image_size
    config = override(config, changes)
    for name in ("steps", "batch_size"):
        if getattr(config.training, name) < 1:
            value = getattr(config.training, name)
            raise InputError(f"training.{name}: expected at least 1, got {value}.")
    multiple = find_method(plan.method)(resolved(config)).size_multiple
    if config.image_size == 0:
        return dataclasses.replace(config, image_size=own_size(paths, multiple))
    if config.image_size < 0 or config.image_size % multiple:
        nearest = max(multiple, round(config.image_size / multiple) * multiple)
        raise InputError(
            f"--image-size: expected a multiple of {multiple}, got {config.image_size}; try {nearest}."
        )
    return config


def backbone_changes(features: str | None, weights: Path | None) -> dict[str, Any]:
    """What --features and --features-weights change in a config; nothing where neither is given."""
    if features == AUTO and weights is None:
        return {"features.name": AUTO}
    if features == AUTO or (features is None) != (weights is None):
        raise InputError(
            "--features (timm's name) and --features-weights (its safetensors file): expected both, got one; "
            "--features auto goes without."
        )
    if features is None or weights is None:
        return {}
    return {"features.name": features, **backbone_input(read_weights(weights))}


def backbone_input(weights: dict[str, Tensor]) -> dict[str, Any]:
    """How a backbone wants its input, where its weights give that away.

    Weights whose batch norms are folded (all running means zero) were converted from TensorFlow Lite: RGB in
    [-1,1] and "same" padding. Otherwise timm's statement for the name holds. `--set features.mean=...`
    overrides either.
    """
    means = [value for key, value in weights.items() if key.endswith("running_mean")]
    if not means or any(bool(value.any()) for value in means):
        return {}
    half = [0.5, 0.5, 0.5]
    return {"features.mean": half, "features.std": half, "features.network": {"pad_type": "same"}}


def own_size(paths: Sequence[Path], multiple: int) -> int:
    """The images' usual longer side, between 64 and 320 pixels, rounded to what the networks can take."""
    sides = [max(read_size(path)) for path in paths[:200]]
    side = min(max(median(sides), SMALLEST), LARGEST)
    return max(multiple, math.floor(side / multiple + 0.5) * multiple)


def readable_paths(categories: Sequence[Category], terminal: Terminal) -> list[Path]:
    """The good training images that can be read; the others are named and left out."""
    paths = [path for category in checked(categories, terminal) for path in category.train]
    if len(paths) < FEWEST_IMAGES:
        raise InputError(
            f"{categories[0].root}: expected at least {FEWEST_IMAGES} good images, got {len(paths)}; "
            "add some."
        )
    return paths
