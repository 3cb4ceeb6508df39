"""`mendiff fit-codec`: train or fine-tune an autoencoder on good images, for latent-space methods."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import codec_folder, fill, resolved
from mendiff.checkpoints.codecs import CODEC, WEIGHTS, read_codec, save_codec
from mendiff.checkpoints.files import sha256_of
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.weights import read_weights
from mendiff.data.cache import ImageCache
from mendiff.data.dataset import Category, open_data
from mendiff.data.reading import Reading
from mendiff.data.samples import Use
from mendiff.data.suitability import own_size
from mendiff.errors import InputError, check_choice
from mendiff.methods.base import TrainingConfig
from mendiff.methods.config import config_to_dict, override
from mendiff.methods.diad_config import PUBLISHED
from mendiff.nets.codec import Codec, as_seen, as_tuned
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_fit import CodecLossConfig
from mendiff.nets.codec_loss import CodecParts, CodecTraining, latent_scale
from mendiff.nets.features import FeatureExtractor
from mendiff.runs.backbone import backbone_changes
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.fit_config import check_side
from mendiff.runs.places import check_output, new_folder, resumable
from mendiff.runs.reporting import Reporter
from mendiff.runs.training_images import readable_paths
from mendiff.training.codec_loss import crops_loss
from mendiff.training.loop import CHECKPOINT, Adversary, Loop, train_network
from mendiff.training.split import split_images
from mendiff.workflows.manifest import check_manifest, data_hashes
from mendiff.workflows.options import FitCodecOptions
from mendiff.workflows.training_run import workdir_of

SCALE_IMAGES = 16
"""Number of images on which the scale of the latents is measured."""
NOT_FOR_CODECS = ("accumulate", "checkpointing", "precision", "lora_rank", "cache_gigabytes", "ema")
"""Fields of TrainingConfig that codecs do not support."""


@dataclasses.dataclass(frozen=True)
class CodecPlan(CodecParts):
    """Settings of the training of a codec.

    Attributes:
        image_size: side of the square images; 0 for the images' own size.
        crop: side of the random training crops; 0 for whole images.
        training: see TrainingConfig.
        bit_depth, channels: see Reading.
    """

    image_size: int = 0
    crop: int = 0
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    bit_depth: int = 0
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Reading(self.bit_depth, self.channels)  # checks them
        for name in NOT_FOR_CODECS:
            plain, got = getattr(TrainingConfig(), name), getattr(self.training, name)
            if got != plain:
                raise InputError(f"training.{name}: expected {plain!r} for a codec, got {got!r}.")


_SMALL = {
    "encoder_block_out_channels": [32, 32, 32],
    "decoder_block_out_channels": [32, 32, 32],
    "num_encoder_blocks": [1, 1, 1],
    "num_decoder_blocks": [1, 1, 1],
    "upsampling_scaling_factor": 2,
    "latent_channels": 8,
}
PRESETS = {
    "tiny": CodecPlan(
        codec=CodecConfig("tiny", network=_SMALL, pixels="symmetric"),
        crop=96,
        training=TrainingConfig(
            steps=1500, batch_size=4, learning_rate=1e-3, warmup=30, cosine=True, weight_decay=0.0
        ),
    ),
    # Stable Diffusion's autoencoder, fine-tuned as for DiAD: ImageNet normalisation, latent diffusion's loss
    # for kl-f8 with discriminator, and the learning rate of the published code. The paper only states that
    # the autoencoder is fine-tuned; the rate in its Table 11, 1e-5, is the denoiser's. Latent diffusion
    # starts the discriminator at step 50,001 of a training from scratch; here it starts at half of the steps.
    "kl": CodecPlan(
        codec=dataclasses.replace(PUBLISHED.codec, pixels="imagenet"),
        loss=CodecLossConfig(adversarial_weight=0.5, adversarial_start=10000),
        training=TrainingConfig(steps=20000, batch_size=4, learning_rate=1.8e-4),
    ),
}


def run(options: FitCodecOptions, reporter: Reporter) -> dict[str, Any]:
    """Train a codec on the good images of `data` and write the codec folder `out`."""
    place = check_output(options.out, options.overwrite, "a codec")
    checkpoint = workdir_of(options.out, options.resume) / CHECKPOINT
    check_choice("--preset", options.preset, PRESETS)
    device = choose_device(options.device)
    plan, model = _prepared(options)
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    paths, images = _images(plan, chosen, model.codec.factor, reporter)
    kept, seen = split_images(images)
    size = images.shape[-1]
    reporter.say(
        f"codec ({plan.codec.kind}, factor {model.codec.factor}, {model.codec.channels} channels): "
        f"{len(paths)} good images, {size} pixels, {plan.training.steps} steps on {device}"
    )
    started = {"data": data_hashes(chosen, paths), **_started(options, plan, size)}
    model.to(device)
    before = quality(model.codec, kept, plan.codec.pixels)
    with resumable(checkpoint, options.out, options.resume):
        check_manifest(checkpoint.parent, checkpoint, started, resume=options.resume)
        loop = Loop(plan.training, options.seed, checkpoint, options.resume)
        seconds = _train(model, plan, seen, loop, reporter)
        after = quality(model.codec, kept, plan.codec.pixels)
        # Published codecs keep their scale, because published denoisers depend on it.
        config = plan.codec if options.start is not None else _scaled(plan.codec, model.codec, seen)
        info: dict[str, Any] = {"images": len(paths), "held_back": len(kept), "seconds": seconds}
        info |= {"before": before, "after": after}
        with new_folder(place) as draft:
            known = {**info, "seed": options.seed, "started": started}
            save_codec(draft, config, model.codec.state_dict(), known)
    reporter.say(
        f"codec: {options.out} (fitted in {seconds:.0f} s); on {len(kept)} held-back good images "
        f"PSNR {before['psnr']:.1f} to {after['psnr']:.1f} dB, "
        f"SSIM {before['ssim']:.3f} to {after['ssim']:.3f}"
    )
    return {"codec": str(options.out), **info, "config": config_to_dict(config)}


def _images(
    plan: CodecPlan, categories: Sequence[Category], unit: int, reporter: Reporter
) -> tuple[list[Path], Tensor]:
    """The good images that can be read, and their pixels (N,3,S,S) for a codec of factor `unit`."""
    cache: ImageCache | None = None
    reading = Reading(plan.bit_depth, plan.channels)
    with suppress(InputError):  # the check may have more to say
        size = _size_of(plan, [path for one in categories for path in one.train], unit)
        cache = ImageCache(size, reading)
    take = None if cache is None else cache.take
    paths = readable_paths(categories, reporter, Use(reading=reading), take)
    size = _size_of(plan, paths, unit)
    if cache is None or cache.geometry.side != size:
        cache = ImageCache(size, reading)
    return paths, torch.stack([cache.image(path, path) for path in paths])


def _started(options: FitCodecOptions, plan: CodecPlan, size: int) -> dict[str, Any]:
    """The inputs, except data, that must not change between the start of a training and --resume."""
    start = options.start and codec_folder(options.start) / WEIGHTS
    given = {"start": start, "features": options.features_weights}
    files = {part: sha256_of(file) for part, file in given.items() if file is not None}
    return {"seed": options.seed, "files": files, "image_size": size, "config": config_to_dict(plan)}


def _train(model: CodecTraining, plan: CodecPlan, seen: Tensor, loop: Loop, reporter: Reporter) -> float:
    """Train a codec on images (N,3,S,S), then move it to the CPU; returns the duration in seconds."""
    began = time.monotonic()
    model.train()
    with reporter.bar("fitting: steps") as update:
        loss = partial(crops_loss, model, seen, plan.training.batch_size, plan.crop, fast=False)
        train_network(model.codec, loss, loop, update, _adversary(model))
    model.to("cpu").eval()
    return round(time.monotonic() - began, 1)


def _size_of(plan: CodecPlan, paths: Sequence[Path], unit: int) -> int:
    """The side of the images, which the codec must be able to take."""
    size = plan.image_size or own_size(paths, unit)
    check_side("--set image_size", size, unit)
    if plan.crop < size:  # otherwise images stay whole
        check_side("--set crop", plan.crop, unit)
    return size


def _adversary(model: CodecTraining) -> Adversary | None:
    """The discriminator's training, if there is a discriminator."""
    if model.discriminator is None:
        return None

    def begin(step: int) -> None:
        model.step = step

    return Adversary(model.discriminator, begin, model.rival_loss)


def _scaled(config: CodecConfig, codec: Codec, seen: Tensor) -> CodecConfig:
    """The config with the measured scale of the trained codec's latents."""
    scale = latent_scale(codec, seen[:SCALE_IMAGES], config.pixels)
    return dataclasses.replace(config, network={**config.network, "scaling_factor": scale})


def _prepared(options: FitCodecOptions) -> tuple[CodecPlan, CodecTraining]:
    """The preset with all changes, and its networks with the given weights."""
    changes: dict[str, Any] = {}
    start = None if options.start is None else read_codec(codec_folder(options.start))
    if start is not None:
        # The preset's pixel normalisation, unless the codec states its own.
        pixels = start[0].pixels or PRESETS[options.preset].codec.pixels
        changes["codec"] = config_to_dict(dataclasses.replace(start[0], pixels=pixels))
    weights, settings = options.features_weights, options.settings
    changes |= backbone_changes(options.features, weights, options.features_input, settings)
    asked = override(PRESETS[options.preset], changes | settings)
    plan = resolved(asked)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        model = CodecTraining(plan)
    if start is not None:
        load_exactly(model.codec, start[1], str(options.start), CODEC)
    fill(model, asked)
    if weights is not None and isinstance(model.features, FeatureExtractor):
        model.features.load_backbone(read_weights(weights), str(weights))
    return plan, model


def quality(codec: Codec, images: Tensor, pixels: str = "") -> dict[str, float]:
    """Mean PSNR in dB and SSIM of decoded images (N,3,H,W) in [0,1]; codec with normalisation `pixels`."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    device = next(codec.parameters()).device
    rows = []
    with torch.no_grad():
        for image in images.split(1):
            latents = codec.encode(as_tuned(image.to(device), pixels))
            rebuilt = as_seen(codec.decode_raw(latents), pixels).clamp(0, 1).cpu()
            psnr = peak_signal_noise_ratio(rebuilt, image, data_range=1.0)
            ssim = structural_similarity_index_measure(rebuilt, image, data_range=1.0)
            rows.append((float(psnr), float(ssim)))  # type: ignore[arg-type]
    psnrs, ssims = zip(*rows, strict=True)
    return {"psnr": sum(psnrs) / len(psnrs), "ssim": sum(ssims) / len(ssims)}
