"""`mendiff convert`: from published checkpoints to model and codec folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.calibration import Calibration
from mendiff.checkpoints.codecs import read_codec_config, save_codec
from mendiff.checkpoints.files import fingerprint, fingerprint_of_files, sha256_of
from mendiff.checkpoints.import_diad import (
    assemble,
    convert_codec,
    convert_diad,
    empty_prompt,
    feature_weights,
)
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.checkpoints.import_glad import find_unet, import_codec, import_unet
from mendiff.checkpoints.names import check_finite
from mendiff.checkpoints.pretrained import load_diffusion, load_features
from mendiff.checkpoints.provenance import Fitted, this_machine, with_fitted
from mendiff.checkpoints.stable_diffusion import STABLE_DIFFUSION, Sources
from mendiff.checkpoints.store import save
from mendiff.checkpoints.text import read_prompts
from mendiff.checkpoints.weights import read_weights
from mendiff.data.dataset import open_data
from mendiff.data.images import resize
from mendiff.data.reading import Reading, read_image
from mendiff.data.samples import Use
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError, check_choice
from mendiff.methods.base import Method, find_preset
from mendiff.methods.calibrate import calibrate
from mendiff.methods.config import config_to_dict, override
from mendiff.methods.diad_config import PUBLISHED, DiadConfig
from mendiff.methods.glad import Glad
from mendiff.methods.glad_config import GladConfig
from mendiff.runs.common import choose_device
from mendiff.runs.places import Place, check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.thresholds import report_reliability
from mendiff.runs.training_images import readable_paths
from mendiff.workflows.options import ConvertOptions

KINDS = ("glad", "diad", "codec")
BATCH = 8
MOST_GOOD = 64
"""Most good images used for the thresholds."""


def run(options: ConvertOptions, reporter: Reporter) -> dict[str, Any]:
    """Turn a published checkpoint into the model or codec folder `out`."""
    name = str(options.kind)
    check_choice("KIND", name, KINDS)
    place = check_output(options.out, options.overwrite, "a codec" if name == "codec" else "a model")
    if name == "codec":
        return _codec(options.checkpoint, options.out, place, options.settings, reporter)
    if options.good is None:
        raise InputError(
            "--good: expected a folder of good images, since a published checkpoint has no threshold; images "
            "that are not training images are best."
        )
    device = choose_device(options.device)
    read = _glad if name == "glad" else _diad
    method, lines = read(options)
    for line in lines:
        reporter.say(line)
    use = Use(reading=Reading.of(method.config))
    paths = readable_paths(open_data(options.good), reporter, use)[:MOST_GOOD]
    source = options.checkpoint.name
    info = {"preset": options.preset, "converted": source, "pretrained": lines, "images": len(paths)}
    reporter.say(f"{source}: {name}; the threshold comes from {len(paths)} good images")
    check_finite(method.state_dict(), source, method.INFINITE)
    images = torch.stack([resize(read_image(path, use.reading), method.config.image_size) for path in paths])
    calibration = _calibrate(method.to(device), images, reporter)
    method.to("cpu")
    info = with_fitted(info, _fitted(images, options, device))
    with new_folder(place) as draft:
        draft.rmdir()
        save(draft, name, method, calibration, info)
    reporter.say(f"model: {options.out} (threshold {calibration.threshold:.4g} from good images only)")
    report_reliability(calibration, reporter)
    result = {"model": str(options.out), "threshold": calibration.threshold, **info}
    return {**result, "config": config_to_dict(method.config)}


def _diad(options: ConvertOptions) -> tuple[Method, list[str]]:
    """A published DiAD checkpoint, a single file with nearly all weights."""
    checkpoint = options.checkpoint
    weights = read_checkpoint(checkpoint)
    config = override(find_preset("diad", options.preset), options.settings)
    assert isinstance(config, DiadConfig)
    named = convert_diad(weights, config, str(checkpoint))
    features, source = feature_weights(weights), str(checkpoint)
    if options.features_weights is not None:
        features, source = read_weights(options.features_weights), str(options.features_weights)
    elif not features and config.features.name:
        raise InputError(
            f"{checkpoint}: expected a feature extractor, found none; give --features-weights, a safetensors "
            f"file of timm's {config.features.name}."
        )
    method = assemble(config, named, features, _prompt(options.prompt, weights, checkpoint), source)
    return method, [f"networks: {checkpoint}", f"features, {config.features.name or 'none'}: {source}"]


def _glad(options: ConvertOptions) -> tuple[Method, list[str]]:
    """A published GLAD checkpoint: its UNet, with the other parts from Stable Diffusion and timm."""
    changes = dict(options.settings)
    if options.codec is not None and options.codec.is_dir():
        changes = {"codec": config_to_dict(read_codec_config(options.codec)), **changes}
    config = override(find_preset("glad", options.preset), changes)
    assert isinstance(config, GladConfig)
    unet = find_unet(options.checkpoint, config.training.steps)
    if options.pretrained is None and (options.codec is None or options.prompt is None):
        missing = "autoencoder" if options.codec is None else "prompt"
        raise InputError(
            f"--pretrained: expected Stable Diffusion for the {missing}, which published GLAD weights do not "
            f"contain: a folder, a single file, or a hub id such as {STABLE_DIFFUSION}; or give --codec and "
            "--prompt."
        )
    method = Glad(config)
    lines = [import_unet(method, unet)]
    if options.codec is not None:
        lines.append(import_codec(method, options.codec))
    given = Sources(options.pretrained, options.prompt, unet=False, codec=options.codec is None)
    lines += load_diffusion(method, given)
    file = options.features_weights
    lines += load_features(method, None if file is None else (read_checkpoint(file), str(file)))
    return method.eval(), lines


def _fitted(images: Tensor, options: ConvertOptions, device: str) -> Fitted:
    """Provenance of a published model: its files; all good images count as held-back."""
    seeds = content_seeds(images).tolist()
    files = {
        "checkpoint": options.checkpoint,
        "features": options.features_weights,
        "codec": options.codec,
        "prompt": options.prompt,
    }
    return Fitted(
        held_back=tuple(sorted(set(seeds))),
        data=fingerprint(seeds),
        images=len(seeds),
        image_size=images.shape[-1],
        files={part: _hash_of(place) for part, place in files.items() if place},
        machine=this_machine(device),
    )


def _hash_of(path: Path) -> str:
    if not path.is_dir():
        return sha256_of(path)
    return fingerprint_of_files(sorted(file for file in path.rglob("*") if file.is_file()))


def _calibrate(method: Method, prepared: Tensor, reporter: Reporter) -> Calibration:
    """Calibration from good images (N,3,S,S), with a progress bar."""
    device = next(method.parameters()).device
    batches = list(prepared.split(BATCH))

    def held_back() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in reporter.track(batches, "calibrating: batches"):
            yield batch.to(device), content_seeds(batch)

    return calibrate(method, held_back)


def _codec(
    checkpoint: Path, out: Path, place: Place, settings: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    config = override(PUBLISHED.codec, settings)
    weights = read_checkpoint(checkpoint)
    inside = {key.removeprefix("first_stage_model."): one for key, one in weights.items()}
    named = convert_codec(inside, config, str(checkpoint))
    info = {"converted": checkpoint.name}
    with new_folder(place) as draft:
        save_codec(draft, config, named, info)
    reporter.say(f"codec: {out}")
    return {"codec": str(out), **info, "config": config_to_dict(config)}


def _prompt(file: Path | None, weights: dict[str, Tensor], checkpoint: Path) -> Tensor:
    """Embeddings of the empty text: from a file, or from the checkpoint's text encoder."""
    if file is not None:
        return read_prompts(file, ("no_prompt",))[0]
    embeddings = empty_prompt(weights)
    if embeddings is None:
        raise InputError(
            f"{checkpoint}: expected a text encoder, found none; give --prompt, a safetensors file with the "
            "embeddings of the empty text, (1,77,768)."
        )
    return embeddings
