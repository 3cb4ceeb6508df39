"""The inputs of a training, stored in its working folder: --resume needs the same inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.bundled import bundled_file, codec_folder, resolved
from mendiff.checkpoints.codecs import WEIGHTS
from mendiff.checkpoints.files import (
    as_json,
    fingerprint,
    fingerprint_of_files,
    from_json,
    read_json,
    sha256_of,
    write_json,
)
from mendiff.checkpoints.model_folder import WEIGHTS as MODEL_WEIGHTS
from mendiff.checkpoints.pretrained import extractors_of, find_pretrained
from mendiff.checkpoints.stable_diffusion import Sources
from mendiff.data.dataset import Category
from mendiff.data.image_files import find_images
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig, find_method
from mendiff.methods.config import config_to_dict
from mendiff.nets import AUTO
from mendiff.runs.fit_config import Plan
from mendiff.runs.start import Start
from mendiff.workflows.identity import content

MANIFEST = "manifest.json"
HASH = re.compile("[0-9a-f]{64}")
MOST_NAMED = 3
"""Most differences listed in a message."""
EXCHANGED = "DATA and the images of --old are exchanged"


def data_hashes(categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, str]:
    """Fingerprint of the contents of every category's images, in the order of training.

    Args:
        categories: the training data.
        paths: of the readable images.
    """
    readable = set(paths)
    read = {one.name: [path for path in one.train if path in readable] for one in categories}
    return {
        name: fingerprint(f"{at} {content(path)}" for at, path in enumerate(some))
        for name, some in read.items()
    }


def data_facts(start: Start | None, categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, Any]:
    """Hashes of the training data; new and old images of a fit that goes on from a model are separate."""
    if start is None:
        return {"data": data_hashes(categories, paths)}
    old, new = ([path for path in paths if (path in start.old) == known] for known in (True, False))
    return {"data": data_hashes(categories, new), "old": data_hashes(categories, old)}


def sources_of(plan: Plan) -> Sources:
    """Sources of a plan's pretrained weights."""
    return Sources(plan.pretrained, plan.prompt, plan.features_weights, codec=plan.codec is None)


def hashes_of(plan: Plan, config: MethodConfig) -> dict[str, str]:
    """SHA-256 of all files with weights and of the textures, by part."""
    if plan.start is None:
        files = _initial_files(plan, config)
    else:
        files = {"model": Path(plan.start.model.source) / MODEL_WEIGHTS}
    hashes = {part: sha256_of(file) for part, file in files.items()}
    if plan.textures is not None:
        hashes["textures"] = fingerprint_of_files(find_images(plan.textures))
    return hashes


def _initial_files(plan: Plan, config: MethodConfig) -> dict[str, Path]:
    """The files with the initial weights of a preset, by part."""
    with torch.device("meta"):
        method = find_method(plan.method)(resolved(config))
    files = find_pretrained(sources_of(plan), extractors_of(method))
    for part, asked in (("features", "name"), ("codec", "kind")):
        if getattr(getattr(config, part, None), asked, "") == AUTO:
            files[part] = bundled_file(part)
    if plan.codec is not None:
        files["codec"] = codec_folder(plan.codec) / WEIGHTS
    return files


def facts_of(
    plan: Plan, config: MethodConfig, data: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that determines the training of a method.

    Args:
        plan: seed, statistics, balance.
        config: of the method, with the number of steps.
        data: see data_facts.
        files: see hashes_of.
    """
    return {
        "method": plan.method,
        **data,
        "seed": plan.seed,
        "files": dict(files),
        "statistics": plan.statistics,
        "balance": plan.balance,
        "config": config_to_dict(config),
    }


def check_manifest(workdir: Path, checkpoint: Path, started: Mapping[str, Any], *, resume: bool) -> None:
    """Store the inputs of a training, or check that a resumed training has the same inputs.

    Args:
        workdir: of the training; created if missing.
        checkpoint: to resume from; without it nothing is checked.
        started: everything that determines the training, as JSON values.
        resume: whether the training is resumed.

    Raises InputError that lists the differences.
    """
    if resume and checkpoint.is_file():
        if not (workdir / MANIFEST).is_file():
            raise InputError(
                f"--resume: {workdir}: expected {MANIFEST} with the inputs of the interrupted training, "
                "found none; remove the folder and fit again."
            )
        now = from_json(as_json(started, MANIFEST))
        before = read_json(workdir / MANIFEST)
        found = [EXCHANGED] if _exchanged(before, now) else list(_differences(before, now))
        if found:
            more = [f"{len(found) - MOST_NAMED} more differ"] if len(found) > MOST_NAMED else []
            listed = ", ".join([*found[:MOST_NAMED], *more])
            raise InputError(
                f"--resume: expected the inputs of the interrupted training, but {listed}; give the same "
                "inputs, or start a new training without --resume."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / MANIFEST, started)


def _exchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the new images of a fit that goes on from a model were given as the old ones."""
    old, new = before.get("old"), before.get("data")
    return old is not None and old != new and (old, new) == (now.get("data"), now.get("old"))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Sentences about the differences, field by field."""
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, name = before.get(key), now.get(key), f"{place}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new:
            hashed = any(isinstance(one, str) and HASH.fullmatch(one) for one in (old, new))
            yield f"{name} has changed" if hashed else f"{name} was {_text(old)} and is {_text(new)}"


def _text(value: Any) -> str:
    return "not given" if value is None else as_json(value, "value")
