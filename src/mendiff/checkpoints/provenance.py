"""Where a model comes from: the images, files and machine of its fit, as its folder keeps them."""

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
"""The field of a model's info that holds all this."""
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What a model was fitted on; another one may round otherwise.

    Attributes:
        processor: its name.
        capability: the vector instructions that torch uses, and whether it multiplies bfloat16 in matrices.
        threads: of torch.
        device: torch's name of what trained, and what it is called.
        torch: version.
    """

    processor: str = ""
    capability: str = ""
    threads: int = 0
    device: str = ""
    torch: str = ""


@dataclass(frozen=True)
class Fitted:
    """What a model was fitted on and with.

    Attributes:
        held_back: content seeds of the images that were not trained on: what thresholds come from.
        data: fingerprint of the content seeds of all good images, held back or not.
        images: how many these are.
        seed: of training.
        steps: of training.
        image_size: side in pixels at which the content seeds hold.
        files: SHA-256 of what weights came from, by what it is, such as "features" or "codec".
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
    """The fields of a model's info that the package itself reads; there may be any others.

    Attributes:
        preset: that the fit began with.
        images: good ones that it saw.
        categories: their names.
        pretrained: a line for every part that came with weights.
        seed: of training.
        seconds: that training took.
        converted: the published checkpoint that it was.
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
    """Refuse an info whose known fields are not what they should be; `where` is for messages."""
    if not isinstance(info, Mapping):
        raise InputError(f"{where}: expected a group of fields, got {info!r}.")
    known = {key: value for key, value in info.items() if key in Info.__dataclass_fields__}
    config_from_dict(Info, known, where)


def fitted_of(info: Mapping[str, Any]) -> Fitted | None:
    """What a model's info says of its fit; None for models of versions that did not say it."""
    stored = info.get(FITTED)
    return None if stored is None else config_from_dict(Fitted, stored, f"info.{FITTED}")


def with_fitted(info: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """A model's info that says of its fit, as JSON can hold it."""
    return {**info, FITTED: config_to_dict(fitted)}


def this_machine(device: str = "cpu") -> Machine:
    """What runs this program; device is torch's name."""
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
