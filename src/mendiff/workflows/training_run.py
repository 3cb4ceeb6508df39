"""A training with anomalib's Engine, and the folder of its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mendiff.checkpoints.bundled import BUNDLED_FEATURES, codec_folder
from mendiff.checkpoints.codecs import CODEC, read_codec
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.pretrained import load_pretrained
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig
from mendiff.nets import AUTO
from mendiff.runs.fit_config import Plan
from mendiff.runs.locks import check_free, hidden_path
from mendiff.training.codec_stage import CHECKPOINT
from mendiff.training.optimizers import check_savings
from mendiff.workflows.manifest import sources_of

PARTS_FILE = "parts"
NOTHING_TO_RESUME = "--resume: expected an interrupted fit of {} to resume, found none; run without --resume."


def prepared(plan: Plan, config: MethodConfig, workdir: Path | None = None) -> tuple[Any, list[str]]:
    """(anomalib module with its initial weights, a line per source of weights).

    Args:
        plan: method, seed, sources of weights.
        config: see make_config.
        workdir: of a training to resume, whose checkpoint has all weights.
    """
    from mendiff import anomalib_models  # importing anomalib and Lightning takes seconds

    anomalib_models.quiet()
    check_savings(config.training, plan.device)
    build = partial(anomalib_models.module_class(plan.method), config, seed=plan.seed)
    if plan.start is not None:
        module = build()
        module.start_from(plan.start.model.method)
        return module, plan.start.model.info.get("pretrained", [])
    if workdir is not None and (workdir / CHECKPOINT).is_file():
        return build(), _parts(workdir)
    sources, features = sources_of(plan), getattr(getattr(config, "features", None), "name", "")
    module = build()
    lines = [f"features: {BUNDLED_FEATURES}"] if features == AUTO else []
    lines += load_pretrained(module.method, sources)
    if plan.codec is not None:
        codec: Any = module.method.codec
        load_exactly(codec, read_codec(codec_folder(plan.codec))[1], str(plan.codec), CODEC)
        lines.append(f"autoencoder: {plan.codec}")
    return module, lines


def _parts(workdir: Path) -> list[str]:
    """The lines about weights of an interrupted training."""
    try:
        return (workdir / PARTS_FILE).read_text().splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{workdir}: expected the files of an interrupted training, found no {PARTS_FILE!r}; remove the "
            "folder and fit again."
        ) from None


def train(
    plan: Plan,
    module: Any,
    images: Any,
    workdir: Path,
    update: Callable[[str, int, int, str], None],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    resume: bool = False,
) -> float:
    """Train a module, unless the plan leaves the networks unchanged; returns the duration in seconds.

    Args:
        plan: its devices.
        module: see prepared.
        images: anomalib_models.GoodImages.
        workdir: for checkpoints.
        update: called with (stage, step, steps, note).
        groups: indices of the images in groups that are sampled equally often; None for a single group.
        resume: resume the interrupted training in `workdir`.
    """
    from mendiff import anomalib_models

    began = time.monotonic()
    if plan.start is not None and not plan.start.trains:
        anomalib_models.fit_statistics(module, images, plan.device, update)
        return round(time.monotonic() - began, 1)
    anomalib_models.train(
        module,
        images,
        workdir=workdir,
        groups=groups,
        processes=plan.processes,
        resume=resume,
        progress=lambda step, total, loss: update("fitting: steps", step, total, f"loss {loss:.4f}"),
        stages=update,
    )
    return round(time.monotonic() - began, 1)


def workdir_of(out: Path, resume: bool) -> Path:
    """Folder of the checkpoints until the model is written; InputError if missing on resume."""
    workdir = workdir_path(out)
    check_free(out, "training")
    if resume and not workdir.is_dir():
        raise InputError(NOTHING_TO_RESUME.format(out))
    return workdir


def workdir_path(out: Path) -> Path:
    """The folder of the checkpoints of a fit with output `out`."""
    return hidden_path(out, "fit")
