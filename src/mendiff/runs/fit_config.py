"""The plan of a fit, and its config: a preset with changes, checked against the networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mendiff.calibration import FALSE_ALARM_RATE
from mendiff.checkpoints.bundled import codec_folder
from mendiff.checkpoints.codecs import read_codec_config
from mendiff.checkpoints.pretrained import NOT_FOR_IT
from mendiff.checkpoints.stable_diffusion import STABLE_DIFFUSION
from mendiff.data.reading import Reading
from mendiff.data.samples import Use
from mendiff.data.suitability import own_size
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig, TrainingConfig, find_method, find_preset
from mendiff.methods.config import config_to_dict, override
from mendiff.nets import AUTO
from mendiff.runs.backbone import backbone_input
from mendiff.runs.start import Start
from mendiff.types import Processes

NONE = "none"
"""Value of --features: only pixels are compared."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A fit, without its data.

    Attributes:
        method, preset: names.
        settings: dotted config fields to values.
        features: timm's name, "auto" for the bundled network, "none" for none, or None for the preset's.
        features_weights: local safetensors file of the backbone, or None for timm's.
        features_input: normalisation and padding, one of INPUTS, or None for timm's statement.
        image_size: side in pixels, or None for the images' own.
        seed: of training.
        device: torch's name.
        devices, nodes, strategy: see Processes.
        statistics: "global" for common scales and thresholds, "category" for separate ones.
        codec: folder written by `mendiff fit-codec`, "auto" for the bundled codec, or None for the preset's.
        balance: "image" or "category": which of them is sampled equally often in training.
        pretrained: Stable Diffusion as a folder, a single file or a hub id, or None.
        prompt: safetensors file of prompt embeddings, or None.
        textures: folder of texture images for synthetic anomalies, or None.
        false_alarm_rate: share of good parts that thresholds should flag.
        resize: "stretch" or "letterbox".
        tile: side of tiles in pixels; 0 for whole images.
        tile_overlap: least share of a tile that it has in common with the next, or None for the preset's.
        region, ignore: masks of the inspected and of the ignored area, files or folders, or None.
        minutes: training time, codec included; 0 for the preset's length.
        start: a model to go on from, whose config replaces that of the preset, or None.
    """

    method: str = "glad"
    preset: str = "tiny"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    features: str | None = None
    features_weights: Path | None = None
    features_input: str | None = None
    image_size: int | None = None
    seed: int = 0
    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    statistics: str = "global"
    balance: str = "image"
    codec: Path | None = None
    pretrained: str | None = None
    prompt: Path | None = None
    textures: Path | None = None
    false_alarm_rate: float = FALSE_ALARM_RATE
    resize: str = "stretch"
    tile: int = 0
    tile_overlap: float | None = None
    region: Path | None = None
    ignore: Path | None = None
    minutes: float = 0.0
    start: Start | None = None

    @property
    def processes(self) -> Processes:
        """The processes of the training."""
        return Processes(self.device, self.devices, self.nodes, self.strategy)


def make_config(plan: Plan, paths: Sequence[Path]) -> MethodConfig:
    """The preset with the plan's changes, and with an image size that the networks accept."""
    config, multiple = asked_config(plan)
    if config.image_size == 0:
        config = dataclasses.replace(config, image_size=own_size(paths, multiple))
    # The preset's crop may not fit another codec.
    if "crop" not in plan.settings:
        config = dataclasses.replace(config, crop=-(-config.crop // multiple) * multiple)
    asked = plan.image_size or plan.settings.get("image_size")
    check_side("--tile" if config.tile and not asked else "--image-size", config.image_size, multiple)
    if config.crop < config.image_size:  # otherwise images stay whole
        check_side("--set crop", config.crop, multiple)
    return config


def asked_config(plan: Plan) -> tuple[MethodConfig, int]:
    """(preset with the plan's changes, divisor of image sizes); InputError for missing weights."""
    config = _changed(plan)
    check_sources(plan, config)
    return _checked(plan, config)


def stated_config(plan: Plan) -> MethodConfig:
    """The preset with the plan's changes, without those that need files."""
    return _changed(dataclasses.replace(plan, features_weights=None, codec=None))


def changed_config(plan: Plan) -> tuple[MethodConfig, int]:
    """(preset with the plan's changes, divisor of image sizes)."""
    return _checked(plan, _changed(plan))


def use_of(plan: Plan) -> Use:
    """How the model of a plan reads images."""
    return use_of_config(_changed(plan))


def use_of_config(config: MethodConfig) -> Use:
    """How a model with a config reads images."""
    return Use(config.image_size, Reading.of(config), config.tile, config.resize)


def _changed(plan: Plan) -> MethodConfig:
    if plan.start is not None:
        return override(plan.start.config, plan.settings)
    config = find_preset(plan.method, plan.preset)
    changes: dict[str, Any] = {}
    if plan.features is not None:
        changes["features.name"] = "" if plan.features == NONE else plan.features
    if plan.features_weights is not None or plan.features_input is not None:
        changes |= backbone_input(plan.features_weights, plan.features_input, plan.settings)
    changes |= plan.settings
    if plan.codec is not None:
        changes["codec"] = config_to_dict(read_codec_config(codec_folder(plan.codec)))
    if plan.image_size is not None:
        changes["image_size"] = plan.image_size
    changes |= {"tile": plan.tile} if plan.tile else {}
    changes |= {} if plan.tile_overlap is None else {"tile_overlap": plan.tile_overlap}
    changes |= {"resize": plan.resize} if plan.resize == "letterbox" else {}
    if tile := changes.get("tile"):
        config, changes = config.for_tiles(), {"image_size": tile} | changes
    return override(config, changes)


def _checked(plan: Plan, config: MethodConfig) -> tuple[MethodConfig, int]:
    """(config, divisor of image sizes); InputError if the batch can't be split as planned."""
    training, count = config.training, plan.processes.count
    if plan.strategy == "fsdp":
        _check_shards(training)
    parts = training.accumulate * count
    if training.batch_size % parts:
        what = f"{count} processes times training.accumulate" if count > 1 else "training.accumulate"
        raise InputError(
            f"training.batch_size: expected a multiple of {parts} ({what}), got {training.batch_size}; it "
            "counts all images of a step."
        )
    with torch.device("meta"):  # only shapes are needed
        return config, find_method(plan.method)(config).size_multiple


def _check_shards(training: TrainingConfig) -> None:
    """Raise InputError for settings that FSDP does not support."""
    for name, got, wanted in (("ema", training.ema, 0), ("optimizer", training.optimizer, "adamw")):
        if got != wanted:
            raise InputError(
                f"--strategy fsdp: expected training.{name}={wanted}, got {got}; add --set "
                f"training.{name}={wanted}, or choose ddp."
            )


def check_side(name: str, side: int, multiple: int) -> None:
    """Raise InputError for a side in pixels that the networks do not accept."""
    if side < 0 or side % multiple:
        nearest = max(multiple, round(side / multiple) * multiple)
        raise InputError(f"{name}: expected a multiple of {multiple}, got {side}; try {nearest}.")


def check_sources(plan: Plan, config: MethodConfig) -> None:
    """Raise InputError for missing or unused sources of weights, before networks are built."""
    features = getattr(getattr(config, "features", None), "name", "")
    if plan.features_weights is not None and features in ("", AUTO):
        raise InputError(
            "--features-weights: expected --features, too, with timm's name of the backbone, got none."
        )
    if plan.features_input is not None and features in ("", AUTO):
        raise InputError(
            "--features-input: expected --features, too, with timm's name of the backbone, got none."
        )
    denoiser = getattr(getattr(config, "denoiser", None), "kind", "")
    if plan.start is not None:
        return
    if denoiser != "conditional_unet":
        if plan.pretrained or plan.prompt:
            raise InputError(NOT_FOR_IT)
    elif plan.preset.partition("/")[0] == "paper" and not plan.pretrained:
        raise InputError(
            f"--pretrained: expected Stable Diffusion v1 for --preset {plan.preset}: a folder in diffusers' "
            f"layout, a single file, or a hub id such as {STABLE_DIFFUSION}."
        )
