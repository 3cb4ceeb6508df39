"""What a training is started with, kept in its working folder: --resume goes on with nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import as_json, fingerprint, from_json, read_json, sha256_of, write_json
from mendiff.errors import InputError
from mendiff.evaluation.data import Category

MANIFEST = "manifest.json"
HASH = re.compile("[0-9a-f]{64}")


def data_hashes(categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, str]:
    """The fingerprint of every category's images: of their contents, in the order of training.

    Args:
        categories: trained on.
        paths: of the images that can be read.
    """
    readable = set(paths)
    return {
        one.name: fingerprint(
            f"{at} {sha256_of(path)}"
            for at, path in enumerate(path for path in one.train if path in readable)
        )
        for one in categories
    }


def check_manifest(workdir: Path, checkpoint: Path, started: Mapping[str, Any], *, resume: bool) -> None:
    """Keep what a training is started with, or see that a resumed one is started with the same.

    Args:
        workdir: of the training; made if it is not there.
        checkpoint: what would be resumed; where there is none yet, nothing has to fit.
        started: everything that determines the training; as JSON can hold it.
        resume: whether it shall go on.

    Raises InputError for the first thing that differs.
    """
    if resume and checkpoint.is_file():
        if not (workdir / MANIFEST).is_file():
            raise InputError(
                f"--resume: {workdir}: expected {MANIFEST}, which says what the interrupted training was "
                "started with, found none; remove the folder and fit again."
            )
        now = from_json(as_json(started, MANIFEST))
        told = next(_differences(read_json(workdir / MANIFEST), now), None)
        if told is not None:
            raise InputError(
                f"--resume: expected what the interrupted training was started with, but {told}; give the "
                "same, or start anew without --resume."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / MANIFEST, started)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What differs, field by field, in words."""
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, name = before.get(key), now.get(key), f"{place}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new:
            hashed = any(isinstance(one, str) and HASH.fullmatch(one) for one in (old, new))
            yield f"{name} is another" if hashed else f"{name} was {_told(old)} and is {_told(new)}"


def _told(value: Any) -> str:
    return "not given" if value is None else as_json(value, "value")
