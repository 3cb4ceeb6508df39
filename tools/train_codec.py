"""Trains the bundled codec on generated images: 16 channels at one eighth of the image size.

Examples:
    python -m tools.train_codec --features auto --minutes 60 -o runs/codec
    python -m tools.train_codec --features resnet18 --features-weights r18.safetensors -o runs/codec
    python -m tools.train_codec --features auto --resume -o runs/codec --install

Writes checkpoint.safetensors about every minute, log.jsonl, and at the end codec/ in the format of
`mendiff fit-codec`. --install copies the codec to the package. docs/curves.py plots the log.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mendiff.checkpoints.bundled import CODEC, fill, resolved
from mendiff.checkpoints.codecs import CODEC as ITS_CODEC
from mendiff.checkpoints.codecs import CONFIG, WEIGHTS, read_codec, save_codec
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.weights import read_weights
from mendiff.cli.terminal import Terminal
from mendiff.methods.config import override
from mendiff.nets.codec import Codec, TinyCodec, widened
from mendiff.nets.codec_config import BUNDLED_NETWORK, CodecConfig
from mendiff.nets.codec_fit import CodecLossConfig
from mendiff.nets.codec_loss import CodecParts, CodecTraining
from mendiff.nets.features import FeatureExtractor
from mendiff.runs.backbone import INPUTS, backbone_changes
from mendiff.runs.common import choose_device
from mendiff.runs.places import check_output, new_folder
from mendiff.training.codec_loss import codec_loss
from mendiff.training.crops import random_crops
from mendiff.training.step import Learner
from mendiff.workflows.fit_codec import quality
from tools.assessment import Category, assess_all, draw_category
from tools.command import (
    OTHER_SEED,
    add_training_options,
    check_folder,
    finish,
    rounds_of,
    run_command,
    seconds_per_step,
    set_threads,
    steps_of,
    stored_options,
)
from tools.images import generate_batch
from tools.stream import RoundsConfig, batches
from tools.training import Run, schedule

HELD_BACK = 48
"""Number of held-back images."""
COLOURED, MOST_KEPT, LUMA = 0.6, 1.5, (0.299, 0.587, 0.114)
"""Share of recoloured images, largest weight of their original colours, and luma weights."""
ZOOMED, LARGEST_ZOOM = 0.5, 2.0
"""Share of upsampled batches, and largest factor: methods upsample small images too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; 2 for bad input, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_codec",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--features", help="features of the perceptual term: auto for the bundled network, or timm's name"
    )
    parser.add_argument("--features-weights", type=Path, help="the backbone's safetensors file")
    parser.add_argument("--features-input", choices=INPUTS, help="input normalisation of the backbone")
    parser.add_argument("--perceptual", type=float, default=0.1, help="weight of this term (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.5, help="largest latent noise (%(default)s)")
    parser.add_argument("--start", type=Path, help="folder of a codec with fewer channels as initialisation")
    parser.add_argument("--crop", type=int, default=64, help="side of the training crops (%(default)s)")
    add_training_options(parser, size=128, batch=16, passes=8, rate=2e-3)
    return run_command(parser.prog, lambda: train(parser.parse_args(arguments)))


def train(options: argparse.Namespace) -> None:
    """Train, assess and write."""
    terminal = Terminal(options.quiet)
    device = choose_device(options.device)
    check_folder(options)
    set_threads(options, device)
    rounds = rounds_of(options)
    model = prepared(options).to(device)
    steps = steps_of(options, lambda: time_per_step(options, rounds, device))
    run = Run(model, schedule(steps, options.rate, decay=0.0), options.out, stored_options(options))
    if options.resume:
        run.resume()
    terminal.say(
        f"codec: {sum(one.numel() for one in model.codec.parameters()):,} parameters, {steps} steps of "
        f"{rounds.batch} crops of {options.crop} pixels on {device}"
    )
    kept = generate_batch(rounds.seed + OTHER_SEED, 0, HELD_BACK, rounds.size).float() / 255

    def loss_of(batch: list[Tensor]) -> Tensor:
        rng = Generator().manual_seed(rounds.seed * 1_000_003 + run.step)
        cut = coloured(zoomed_crops(batch[0], options.crop, rng), rng)
        return codec_loss(model, cut, rng)

    with terminal.bar("training") as update:
        run.learn(
            batches(rounds, run.step, steps, None), loss_of, lambda: dict(quality(model.codec, kept)), update
        )
    with run.averaged():
        write(model.to("cpu"), run, kept, options, terminal)
    finish(options, [f"{CODEC}/{CONFIG}", f"{CODEC}/{WEIGHTS}"], terminal)


def zoomed_crops(images: Tensor, size: int, rng: Generator) -> Tensor:
    """Random crops of images (B,3,H,W) to (B,3,size,size); some batches use smaller, upsampled crops."""
    share, zoom = torch.rand(2, generator=rng).tolist()
    if share > ZOOMED:
        return random_crops(images, size, 1, rng)
    few = random_crops(images, round(size / LARGEST_ZOOM**zoom), 1, rng)
    return F.interpolate(few, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def coloured(images: Tensor, rng: Generator) -> Tensor:
    """Recolour many of the images (B,3,H,W), because most generated images are grey.

    Grey values are mapped to a gradient between two random colours. The original colour is added with a
    random weight.
    """
    count = len(images)
    grey = (images * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    dark, bright = torch.rand(2, count, 3, 1, 1, generator=rng)
    kept, chosen = torch.rand(2, count, 1, 1, 1, generator=rng)
    other = dark + (bright - dark) * grey + MOST_KEPT * kept * (images - grey)
    return torch.where(chosen < COLOURED, other, images).clamp(0, 1)


@torch.no_grad()
def write(
    model: CodecTraining, run: Run, kept: Tensor, options: argparse.Namespace, terminal: Terminal
) -> None:
    """Assess the codec and write its folder."""
    codec, figures = model.codec.eval(), quality(model.codec, kept)
    terminal.say(f"PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f} on {HELD_BACK} held-back images")
    surfaces = [draw_category(OTHER_SEED, number) for number in range(options.categories)]
    banks = assess_all({"images": model.features}, surfaces, terminal)
    banks |= assess_all(
        {"decoded images": model.features}, [through(codec, one) for one in surfaces], terminal
    )
    run.log({"judged": {**figures, **banks}})
    assert isinstance(codec, TinyCodec)
    codec.normalise_by(kept)
    info = {"images": "generated", "seed": options.seed, "steps": run.step, "held_back": figures}
    with new_folder(check_output(options.out / CODEC, True, "a codec")) as draft:
        weights = {name: one.half() for name, one in codec.state_dict().items()}
        save_codec(draft, CodecConfig("tiny", network=BUNDLED_NETWORK, normalise=True), weights, info)


def prepared(options: argparse.Namespace) -> CodecTraining:
    """Build the networks of the training and load the features of the perceptual term."""
    parts = CodecParts(
        codec=CodecConfig("tiny", network=BUNDLED_NETWORK, normalise=True),
        loss=CodecLossConfig("rms", options.perceptual, kl_weight=2e-3, latent_noise=options.noise),
    )
    given = options.features, options.features_weights, options.features_input
    asked = override(parts, backbone_changes(*given))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        model = CodecTraining(resolved(asked))
    fill(model, asked)
    if options.start is not None:
        codec: Any = model.codec
        load_exactly(codec, widened(codec, read_codec(options.start)[1]), str(options.start), ITS_CODEC)
    if isinstance(model.features, FeatureExtractor):
        model.features.load_backbone(read_weights(options.features_weights), str(options.features_weights))
    return model


def through(codec: Codec, one: Category) -> Category:
    """A category with encoded and decoded images."""
    train, tests = (
        torch.cat([codec.decode(codec.encode(batch)) for batch in images.split(8)])
        for images in (one.train, one.tests)
    )
    return dataclasses.replace(one, train=train, tests=tests)


def time_per_step(options: argparse.Namespace, rounds: RoundsConfig, device: str) -> float:
    """Seconds per step on this machine, measured on a temporary network."""
    model, rng = prepared(options).to(device).train(), Generator().manual_seed(0)
    learner = Learner(model, schedule(options.steps or 1))
    image = generate_batch(rounds.seed, 0, rounds.batch, rounds.size).float() / 255

    def learn() -> None:
        learner.descend(codec_loss(model, random_crops(image, options.crop, 1, rng), rng), 0)

    return seconds_per_step(rounds, lambda: generate_batch(rounds.seed, 0, rounds.batch, rounds.size), learn)


if __name__ == "__main__":
    sys.exit(main())
