"""`mendiff convert`: published checkpoints to model and codec folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.calibration import Calibration
from mendiff.checkpoints.codecs import save_codec
from mendiff.checkpoints.import_diad import (
    assemble,
    convert_codec,
    convert_diad,
    empty_prompt,
    feature_weights,
    read_checkpoint,
)
from mendiff.checkpoints.store import read_weights, save
from mendiff.commands.common import Terminal, check_output, choose_device, new_folder, set_aside
from mendiff.commands.fit import readable_paths
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.evaluation.data import open_data
from mendiff.images import read_image, resize
from mendiff.methods.base import Method
from mendiff.methods.config import config_to_dict, override
from mendiff.methods.diad import PUBLISHED
from mendiff.model import calibrate

KINDS = ("diad", "codec")
BATCH = 8
MOST_GOOD = 64
"""Good images that thresholds are learned from, at most."""


def run(
    kind: Path,
    checkpoint: Path,
    out: Path,
    good: Path | None,
    features_weights: Path | None,
    prompt: Path | None,
    device: str,
    overwrite: bool,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Turn a published checkpoint into the model or codec folder `out`."""
    if str(kind) not in KINDS:
        raise InputError(f"KIND: expected one of {', '.join(KINDS)}, got '{kind}'.")
    terminal = Terminal(quiet)
    check_output(out, overwrite)
    if str(kind) == "codec":
        return _codec(checkpoint, out, settings, overwrite, terminal)
    if good is None:
        raise InputError(
            "--good: expected a folder of good images, since a published checkpoint has no threshold; some "
            "that it was not trained on are best."
        )
    weights = read_checkpoint(checkpoint)
    config = override(PUBLISHED, settings)
    named = convert_diad(weights, config, str(checkpoint))
    features, source = feature_weights(weights), str(checkpoint)
    if features_weights is not None:
        features, source = read_weights(features_weights), str(features_weights)
    elif not features and config.features.name:
        raise InputError(
            f"{checkpoint}: holds no feature extractor; give --features-weights, a safetensors file of "
            f"timm's {config.features.name}."
        )
    method = assemble(config, named, features, _prompt(prompt, weights, checkpoint), source)
    paths = readable_paths(open_data(good), terminal)[:MOST_GOOD]
    info = {"preset": "published", "converted": checkpoint.name, "images": len(paths)}
    terminal.say(f"{checkpoint.name}: DiAD; the threshold comes from {len(paths)} good images")
    calibration = _calibrate(method.to(choose_device(device)), paths, terminal)
    method.to("cpu")
    check_output(out, overwrite)
    with set_aside(out):
        save(out, "diad", method, calibration, info)
    terminal.say(f"model: {out} (threshold {calibration.threshold:.4g} from good images alone)")
    return {"model": str(out), "threshold": calibration.threshold, **info, "config": config_to_dict(config)}


def _calibrate(method: Method, paths: Sequence[Path], terminal: Terminal) -> Calibration:
    """Scores of good images, under a progress bar."""
    prepared = torch.stack([resize(read_image(path), method.config.image_size) for path in paths])
    device = next(method.parameters()).device
    batches = list(prepared.split(BATCH))

    def held_back() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in terminal.track(batches, "calibrating"):
            yield batch.to(device), content_seeds(batch)

    return calibrate(method, held_back)


def _codec(
    checkpoint: Path, out: Path, settings: dict[str, Any], overwrite: bool, terminal: Terminal
) -> dict[str, Any]:
    config = override(PUBLISHED.codec, settings)
    weights = read_checkpoint(checkpoint)
    inside = {key.removeprefix("first_stage_model."): one for key, one in weights.items()}
    named = convert_codec(inside, config, str(checkpoint))
    info = {"converted": checkpoint.name}
    with new_folder(out, overwrite) as draft:
        save_codec(draft, config, named, info)
    terminal.say(f"codec: {out}")
    return {"codec": str(out), **info, "config": config_to_dict(config)}


def _prompt(file: Path | None, weights: dict[str, Tensor], checkpoint: Path) -> Tensor:
    """Embeddings of the empty text: from a file, or by the checkpoint's text encoder."""
    if file is not None:
        tensors = read_weights(file)
        if len(tensors) != 1:
            raise InputError(f"{file}: expected one tensor of prompt embeddings, got {len(tensors)}.")
        return next(iter(tensors.values()))
    embeddings = empty_prompt(weights)
    if embeddings is None:
        raise InputError(
            f"{checkpoint}: holds no text encoder; give --prompt, a safetensors file with the embeddings of "
            "the empty text, (1,77,768)."
        )
    return embeddings
