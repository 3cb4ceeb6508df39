"""Provenance of a model: images, files and machine of its fit, as stored in its folder."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mendiff.errors import InputError
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.nets.placement import multiplies_bf16

FITTED = "fitted"
"""Field of a model's info with the provenance."""
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """The machine of a fit; other machines may round differently.

    Attributes:
        processor: name of the processor.
        capability: vector instructions that torch uses, and whether bfloat16 matrix products are fast.
        threads: number of torch threads.
        device: torch device of the training, and the device's product name.
        torch: version of torch.
    """

    processor: str = ""
    capability: str = ""
    threads: int = 0
    device: str = ""
    torch: str = ""


@dataclass(frozen=True)
class Fitted:
    """Data, settings and machine of a fit.

    Attributes:
        held_back: content seeds of the held-back images, which are used for thresholds.
        data: fingerprint of the content seeds of all good images, including held-back ones.
        images: number of good images.
        seed: seed of the training.
        steps: number of training steps.
        image_size: image side in pixels at which the content seeds were computed.
        files: SHA-256 of the files with initial weights, by part, such as "features" or "codec".
        machine: see Machine.
    """

    held_back: tuple[int, ...]
    data: str
    images: int
    seed: int = 0
    steps: int = 0
    image_size: int = 0
    files: dict[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)


@dataclass(frozen=True)
class Info:
    """Fields of a model's info that the package reads; other fields are allowed.

    Attributes:
        preset: preset of the fit.
        images: number of good images.
        categories: names of the categories.
        pretrained: a line per pretrained part.
        seed: seed of the training.
        seconds: training time in seconds.
        converted: the published checkpoint from which the model was converted.
        tuned: fields that `mendiff tune` changed.
        fitted: see Fitted.
    """

    preset: str = ""
    images: int = 0
    categories: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ()
    seed: int = 0
    seconds: float = 0.0
    converted: str = ""
    tuned: dict[str, Any] = field(default_factory=dict)
    fitted: Fitted | None = None


def check_info(info: Any, where: str) -> None:
    """Refuse an info with known fields of wrong types; `where` is for messages."""
    if not isinstance(info, Mapping):
        raise InputError(f"{where}: expected a group of fields, got {info!r}.")
    known = {key: value for key, value in info.items() if key in Info.__dataclass_fields__}
    config_from_dict(Info, known, where)


def fitted_of(info: Mapping[str, Any]) -> Fitted | None:
    """The provenance in a model's info; None for models of older versions."""
    stored = info.get(FITTED)
    return None if stored is None else config_from_dict(Fitted, stored, f"info.{FITTED}")


def with_fitted(info: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """A model's info with provenance, JSON-serialisable."""
    return {**info, FITTED: config_to_dict(fitted)}


def this_machine(device: str = "cpu") -> Machine:
    """Describe this machine; device is a torch device name."""
    place = torch.device(device)
    capability = str(torch.backends.cpu.get_cpu_capability())
    if multiplies_bf16(torch.device("cpu")):
        capability += ", AMX"
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else ""
    return Machine(
        processor=_processor(),
        capability=capability,
        threads=torch.get_num_threads(),
        device=f"{place.type} ({name})" if name else place.type,
        torch=str(torch.__version__),
    )


def _processor() -> str:
    lines: Iterable[str] = ()
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
