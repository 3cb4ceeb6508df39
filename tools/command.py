"""Common parts of the training commands: options, threads, number of steps, and final output."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mendiff.checkpoints.bundled import install, sum_of
from mendiff.cli.terminal import Terminal
from mendiff.errors import InputError
from tools.stream import RoundsConfig
from tools.training import CHECKPOINT, read_state

OTHER_SEED = 900_000_000
"""Offset of the seed for images that are not used for training."""
REMEMBERED = ("seed", "size", "batch", "round", "passes", "rate", "crop", "perceptual", "features")
"""Options that are stored in the checkpoint, because a resumed training needs the same values."""


def add_training_options(
    parser: argparse.ArgumentParser, *, size: int, batch: int, passes: int, rate: float
) -> None:
    """Add the options of a training on generated images."""
    cores = os.cpu_count() or 1
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for checkpoint, log and weights"
    )
    parser.add_argument("--minutes", type=float, help="train for as many steps as fit into this time")
    parser.add_argument("--steps", type=int, help="number of steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images (%(default)s)")
    parser.add_argument("--size", type=int, default=size, help="side of the generated images (%(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="images per step (%(default)s)")
    parser.add_argument("--round", type=int, default=64, help="new batches per round (%(default)s)")
    parser.add_argument("--passes", type=int, default=passes, help="passes over every image (%(default)s)")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=max(1, cores - 1), help="processes that draw images (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of the network on a CPU; 0: the remaining cores"
    )
    parser.add_argument(
        "--categories", type=int, default=12, help="generated surfaces for the assessment (%(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (%(default)s)")
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted training with its options"
    )
    parser.add_argument("--install", action="store_true", help="copy the weights to the package at the end")
    parser.add_argument("--quiet", action="store_true", help="print warnings only")


def run_command(name: str, work: Callable[[], None]) -> int:
    """Run a command and return its exit code; an input error is printed in one line."""
    try:
        work()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command with --resume to continue.", file=sys.stderr)
        return 130
    return 0


def check_folder(options: argparse.Namespace) -> None:
    """Refuse invalid options, and a new training in the folder of another one.

    A resumed training uses its original options.
    """
    for name, lowest in (("batch", 2), ("round", 1), ("passes", 1), ("workers", 0), ("categories", 0)):
        if getattr(options, name) < lowest:
            raise InputError(f"--{name}: expected at least {lowest}, got {getattr(options, name)}.")
    if options.size < 32 or options.size % 16:
        raise InputError(f"--size: expected a multiple of 16 from 32 up, got {options.size}.")
    there = (options.out / CHECKPOINT).is_file()
    if there and not options.resume:
        raise InputError(
            f"{options.out}: expected a new folder, but it contains a training; add --resume or choose "
            "another -o."
        )
    if options.resume and not there:
        raise InputError(f"--resume: expected a training in {options.out}, found none.")
    if options.resume:
        vars(options).update(read_state(options.out)["asked"])
    options.out.mkdir(parents=True, exist_ok=True)


def stored_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that are stored in a checkpoint."""
    return {name: value for name, value in vars(options).items() if name in REMEMBERED}


def rounds_of(options: argparse.Namespace) -> RoundsConfig:
    """The stream settings of the options."""
    return RoundsConfig(
        options.seed, options.size, options.batch, options.round, options.passes, options.workers
    )


def set_threads(options: argparse.Namespace, device: str) -> None:
    """Set the number of torch threads so that cores remain for the workers."""
    if device == "cpu":
        cores = os.cpu_count() or 1
        torch.set_num_threads(options.threads or max(1, cores - options.workers))


def steps_of(options: argparse.Namespace, seconds: Callable[[], float]) -> int:
    """Number of steps: from the checkpoint, from --steps, or as many as fit into --minutes."""
    if options.resume:
        return int(read_state(options.out)["steps"])
    if (options.steps is None) == (options.minutes is None):
        raise InputError("--steps and --minutes: expected one of them.")
    steps = options.steps if options.minutes is None else round(60 * options.minutes / seconds())
    if steps < 1:
        raise InputError(f"--steps: expected at least 1, got {steps}.")
    return int(steps)


def seconds_per_step(rounds: RoundsConfig, draw: Callable[[], object], learn: Callable[[], object]) -> float:
    """Seconds per step: the maximum of the workers' time and this process's time.

    Args:
        rounds: settings of the image stream.
        draw: draws a batch, like a worker.
        learn: runs a training step.
    """
    drawing = _timed(draw) / max(rounds.workers, 1) / rounds.passes
    learning = median(_timed(learn) for _ in range(5))
    return max(drawing, learning) if rounds.workers else drawing + learning


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def finish(options: argparse.Namespace, names: Sequence[str], terminal: Terminal) -> None:
    """Print the finished files, and copy them to the package with --install."""
    for name in names:
        path = options.out / name
        terminal.say(f"{path}: {path.stat().st_size / 1e6:.2f} MB, SHA-256 {sum_of(path)}")
    if options.install:
        terminal.say(f"installed in {install(options.out, names)}")
