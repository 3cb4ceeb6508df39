"""`mendiff fit-codec`: train or tune an autoencoder on good images, for methods that work on latents."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mendiff.checkpoints.bundled import codec_folder, fill, resolved
from mendiff.checkpoints.codecs import CODEC, read_codec, save_codec
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.store import read_weights
from mendiff.commands.common import Terminal, choose_categories, choose_device
from mendiff.commands.fit import workdir_of
from mendiff.commands.places import check_output, new_folder, resumable
from mendiff.commands.plan import backbone_changes, check_side, own_size, readable_paths
from mendiff.errors import InputError
from mendiff.evaluation.data import open_data
from mendiff.images import read_image, resize
from mendiff.methods.base import TrainingConfig, random_crops
from mendiff.methods.config import config_to_dict, override
from mendiff.methods.diad import PUBLISHED
from mendiff.nets.codec import Codec, CodecConfig
from mendiff.nets.codec_loss import CodecParts, CodecTraining, latent_scale
from mendiff.nets.features import FeatureExtractor

CHECKPOINT, CHECKPOINT_SECONDS = "last.safetensors", 30.0
SHOWN = 16
"""Images that the latents' scale is measured on."""
NOT_FOR_CODECS = ("accumulate", "checkpointing", "precision", "lora_rank", "cache_latents", "ema")
"""Fields of TrainingConfig that only the training of a method uses."""


@dataclasses.dataclass(frozen=True)
class CodecPlan(CodecParts):
    """Everything that the training of a codec can be told.

    Attributes:
        image_size: side of the square images; 0 takes the images' own.
        crop: side of the random crops that are trained on; 0 for whole images.
        training: see TrainingConfig.
    """

    image_size: int = 0
    crop: int = 0
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
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
        codec=CodecConfig("tiny", network=_SMALL),
        crop=96,
        training=TrainingConfig(
            steps=1500, batch_size=4, learning_rate=1e-3, warmup=30, cosine=True, weight_decay=0.0
        ),
    ),
    # Stable Diffusion's size, and the rate that DiAD tunes it with (table 11).
    "kl": CodecPlan(
        codec=PUBLISHED.codec, training=TrainingConfig(steps=20000, batch_size=4, learning_rate=1.8e-4)
    ),
}


def run(
    data: Path,
    out: Path,
    preset: str,
    start: Path | None,
    features: str | None,
    features_weights: Path | None,
    categories: Sequence[str] | None,
    layout: str,
    seed: int,
    device: str,
    resume: bool,
    overwrite: bool,
    settings: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Train a codec on the good images of `data` and write the codec folder `out`."""
    terminal = Terminal(quiet)
    check_output(out, overwrite, "a codec")
    if resume:
        workdir_of(out, resume)
    if preset not in PRESETS:
        raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}.")
    device = choose_device(device)
    paths = readable_paths(choose_categories(open_data(data, layout), categories), terminal)
    plan, model = _prepared(preset, start, features, features_weights, settings, seed)
    unit = model.codec.factor
    size = plan.image_size or own_size(paths, unit)
    check_side("--set image_size", size, unit)
    if plan.crop < size:  # otherwise images stay whole
        check_side("--set crop", plan.crop, unit)
    images = torch.stack([resize(read_image(path), size) for path in paths])
    kept, seen = _held_back(images)
    terminal.say(
        f"codec ({plan.codec.kind}, factor {unit}, {model.codec.channels} channels): {len(paths)} good "
        f"images, {size} pixels, {plan.training.steps} steps on {device}"
    )
    model.to(device)
    before = quality(model.codec, kept)
    checkpoint = workdir_of(out, resume) / CHECKPOINT
    with resumable(checkpoint):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with terminal.bar("fitting") as update:
            _train(model, plan, seen, seed, checkpoint, resume, update)
        seconds = round(time.monotonic() - began, 1)
        model.to("cpu").eval()
        after = quality(model.codec, kept)
        # Published codecs keep their scale, which a denoiser may have been trained with.
        config = plan.codec if start is not None else _scaled(plan.codec, model.codec, seen)
        info: dict[str, Any] = {"images": len(paths), "held_back": len(kept), "seconds": seconds}
        info |= {"before": before, "after": after}
        with new_folder(out, overwrite, "a codec") as draft:
            save_codec(draft, config, model.codec.state_dict(), {**info, "seed": seed})
    terminal.say(
        f"codec: {out} (fitted in {seconds:.0f} s); on {len(kept)} held-back good images "
        f"PSNR {before['psnr']:.1f} to {after['psnr']:.1f} dB, "
        f"SSIM {before['ssim']:.3f} to {after['ssim']:.3f}"
    )
    return {"codec": str(out), **info, "config": config_to_dict(config)}


def _scaled(config: CodecConfig, codec: Codec, seen: Tensor) -> CodecConfig:
    """The config with the scale that the trained codec's latents want."""
    scale = latent_scale(codec, seen[:SHOWN])
    return dataclasses.replace(config, network={**config.network, "scaling_factor": scale})


def _prepared(
    preset: str,
    start: Path | None,
    features: str | None,
    features_weights: Path | None,
    settings: dict[str, Any],
    seed: int,
) -> tuple[CodecPlan, CodecTraining]:
    """The preset with all changes, and its networks with the weights that were given."""
    changes: dict[str, Any] = {}
    begun = None if start is None else read_codec(codec_folder(start))
    if begun is not None:
        changes["codec"] = config_to_dict(begun[0])
    changes |= backbone_changes(features, features_weights)
    asked = override(PRESETS[preset], changes | settings)
    plan = resolved(asked)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = CodecTraining(plan)
    if begun is not None:
        load_exactly(model.codec, begun[1], str(start), CODEC)
    fill(model, asked)
    if features_weights is not None and isinstance(model.features, FeatureExtractor):
        model.features.load_backbone(read_weights(features_weights), str(features_weights))
    return plan, model


def quality(codec: Codec, images: Tensor) -> dict[str, float]:
    """Mean PSNR in decibels and SSIM of decoded images, (N,3,H,W) in [0,1]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    device = next(codec.parameters()).device
    rows = []
    with torch.no_grad():
        for image in images.split(1):
            rebuilt = codec.decode(codec.encode(image.to(device))).cpu()
            psnr = peak_signal_noise_ratio(rebuilt, image, data_range=1.0)
            ssim = structural_similarity_index_measure(rebuilt, image, data_range=1.0)
            rows.append((float(psnr), float(ssim)))  # type: ignore[arg-type]
    psnrs, ssims = zip(*rows, strict=True)
    return {"psnr": sum(psnrs) / len(psnrs), "ssim": sum(ssims) / len(ssims)}


def _held_back(images: Tensor) -> tuple[Tensor, Tensor]:
    """Some images that are not trained on, chosen by content, and the others."""
    from mendiff.anomalib_models import choose
    from mendiff.diffusion.random import content_seeds

    seeds = content_seeds(images)
    apart = torch.isin(seeds, torch.tensor(choose(seeds.tolist())))
    return images[apart], images[~apart]


def _train(
    model: CodecTraining,
    plan: CodecPlan,
    images: Tensor,
    seed: int,
    checkpoint: Path,
    resume: bool,
    update: Callable[[int, int, str], None],
) -> None:
    """All steps, or those that are left; a checkpoint about every half minute."""
    from mendiff.anomalib_models import learning_rate, make_optimizer
    from mendiff.anomalib_models.held_back import generator

    training, device = plan.training, next(model.parameters()).device
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer, first = make_optimizer(training, trained), 0
    if resume and checkpoint.is_file():
        first = _go_on(checkpoint, model.codec, optimizer)
    model.train()
    saved = time.monotonic()
    for step in range(first, training.steps):
        rng = generator(seed, step)
        chosen = torch.randint(len(images), (training.batch_size,), generator=rng)
        batch = random_crops(images[chosen], plan.crop, model.codec.factor, rng).to(device)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * learning_rate(training, step)
        loss = model(batch, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, training.clip or float("inf"))
        optimizer.step()
        update(step + 1, training.steps, f"loss {loss.item():.4f}")
        if time.monotonic() - saved >= CHECKPOINT_SECONDS:
            _keep(checkpoint, model.codec, optimizer, step + 1)
            saved = time.monotonic()


def _keep(checkpoint: Path, codec: Codec, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what a later run goes on from, under another name first."""
    moments = optimizer.state_dict()["state"]
    tensors = {f"codec.{name}": one.contiguous() for name, one in codec.state_dict().items()}
    tensors |= {f"optimizer.{at}.{name}": one for at, state in moments.items() for name, one in state.items()}
    draft = checkpoint.with_suffix(".new")
    save_file(tensors, draft, metadata={"step": str(step)})
    draft.rename(checkpoint)


def _go_on(checkpoint: Path, codec: Codec, optimizer: torch.optim.Optimizer) -> int:
    """Take up what `_keep` wrote; returns the number of steps that are done."""
    with safe_open(checkpoint, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    weights = {name[6:]: one for name, one in tensors.items() if name.startswith("codec.")}
    load_exactly(codec, weights, "--resume: the interrupted training", "the same codec")
    state = optimizer.state_dict()
    for name, one in tensors.items():
        if name.startswith("optimizer."):
            _, at, key = name.split(".")
            state["state"].setdefault(int(at), {})[key] = one
    optimizer.load_state_dict(state)
    return step
