"""Trains the bundled feature network on generated images to predict a pretrained network's features.

Examples:
    TEACHER="--teacher-weights FILE --teacher-input tflite"
    python -m tools.train_features $TEACHER --minutes 75 -o runs/features
    python -m tools.train_features $TEACHER --resume -o runs/features
    python -m tools.train_features $TEACHER --resume -o runs/features --install

FILE contains the teacher's weights as safetensors; tflite is for weights converted from TensorFlow Lite.
Writes checkpoint.safetensors about every minute, log.jsonl, and at the end features.safetensors. --install
copies the features and their SHA-256 to the package. docs/curves.py plots the log.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mendiff.checkpoints.bundled import FEATURES
from mendiff.checkpoints.weights import read_weights
from mendiff.cli.terminal import Terminal
from mendiff.data.images import write_bytes
from mendiff.methods.config import config_from_dict
from mendiff.nets.features import FeatureExtractor, FeaturesConfig
from mendiff.nets.placement import bf16_autocast
from mendiff.nets.student import STAGES, Student, StudentConfig, StudentFeatures
from mendiff.runs.backbone import INPUTS, backbone_input
from mendiff.runs.common import choose_device
from mendiff.training.step import Learner
from tools.assessment import assess_all, draw_category
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
from tools.stream import Drawn, RoundsConfig, batches
from tools.teacher import Teacher, Whitenings, distance, explained
from tools.training import Run, schedule

FITTED, HELD_BACK = 16, 8
"""Number of batches for the whitening, and number of held-back batches."""


class StudentTraining(nn.Module):
    """The student in training with the whitening of its targets, for a common checkpoint."""

    def __init__(self, student: Student, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.student = student
        self.whitenings = Whitenings(channels)

    def forward(self, image: Tensor, described: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions for images (B,3,H,W) in [0,1], and whitened targets."""
        with torch.autocast(image.device.type, enabled=False):
            meant = self.whitenings(list(described))
        return self.student(image * 2 - 1), meant

    @torch.no_grad()
    def final_student(self) -> Student:
        """The final student, without batch norm and without whitening."""
        plain = self.student.folded()
        self.whitenings.undone_by(plain)
        return plain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; 2 for bad input, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--teacher", default="mobilenetv2_100", help="timm's name (%(default)s)")
    parser.add_argument("--teacher-weights", type=Path, required=True, help="its safetensors file")
    parser.add_argument("--teacher-input", choices=INPUTS, help="input normalisation (default: timm's)")
    add_training_options(parser, size=160, batch=16, passes=4, rate=2e-3)
    return run_command(parser.prog, lambda: train(parser.parse_args(arguments)))


def train(options: argparse.Namespace) -> None:
    """Train, assess and write."""
    terminal = Terminal(options.quiet)
    device = choose_device(options.device)
    check_folder(options)
    set_threads(options, device)
    extractor, same = open_teacher(options.teacher, options.teacher_weights, options.teacher_input)
    rounds = rounds_of(options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        student = Student(StudentConfig(outputs=extractor.channels), folded=False)
    teacher, model = Teacher(extractor, same=same), StudentTraining(student, extractor.channels)
    steps = steps_of(options, lambda: time_per_step(teacher, model, rounds, device))
    fit_whitenings(model, teacher, rounds)
    teacher.to(device)
    model.to(device)
    run = Run(model, schedule(steps, options.rate), options.out, stored_options(options))
    if options.resume:
        run.resume()
    count = sum(one.numel() for one in Student(student.config).parameters())
    shown = -(-steps // rounds.steps) * rounds.batches * rounds.batch
    terminal.say(
        f"student of {options.teacher}: {count:,} parameters, {steps} steps of {rounds.batch} images on "
        f"{device}, {shown:,} different images"
    )
    kept = held_back(teacher, rounds, device)
    source = batches(rounds, run.step, steps, teacher if device == "cpu" else None)
    with terminal.bar("teaching") as update:
        run.learn(
            source,
            partial(loss_of, model, teacher, device),
            partial(checked, model, teacher, kept),
            update,
        )
    with run.averaged():
        shipped = model.to("cpu").final_student()
    run.log({"judged": assessed(shipped, options, terminal)})
    state = {name: one.half().contiguous() for name, one in sorted(shipped.state_dict().items())}
    write_bytes(options.out / FEATURES, save(state))
    finish(options, [FEATURES], terminal)


def open_teacher(name: str, weights: Path, told: str | None = None) -> tuple[FeatureExtractor, bool]:
    """The teacher, and whether it uses TensorFlow's padding; `told` is one of INPUTS, or None."""
    tensors = read_weights(weights)
    given = {key.removeprefix("features."): value for key, value in backbone_input(weights, told).items()}
    config = config_from_dict(FeaturesConfig, {"name": name, "layers": list(STAGES), **given})
    extractor = FeatureExtractor(config)
    extractor.load_backbone(tensors, str(weights))
    return extractor, config.network.get("pad_type") == "same"


def fit_whitenings(model: StudentTraining, teacher: Teacher, rounds: RoundsConfig) -> None:
    """Compute the whitening from images that are not used for training."""
    other = Drawn(replace(rounds, seed=rounds.seed + OTHER_SEED), teacher)
    model.whitenings.fit([[one.float() for one in other[number][1:]] for number in range(FITTED)])


def held_back(teacher: Teacher, rounds: RoundsConfig, device: str) -> list[list[Tensor]]:
    """Held-back batches: images in [0,1], and the teacher's features."""
    other = Drawn(replace(rounds, seed=rounds.seed + OTHER_SEED + 1), teacher.to("cpu"))
    drawn = [[one.to(device) for one in other[number]] for number in range(HELD_BACK)]
    teacher.to(device)
    return [[images.float() / 255, *(one.float() for one in described)] for images, *described in drawn]


def loss_of(model: StudentTraining, teacher: Teacher, device: str, batch: list[Tensor]) -> Tensor:
    """The student's distance from the teacher; on a CPU the workers have already computed the targets."""
    image, *described = (one.to(device, non_blocking=True) for one in batch)
    if not described:
        with torch.no_grad():
            described = teacher(image)
    with bf16_autocast(torch.device(device)):
        said, meant = model(teacher.cut(image), described)
    return distance([one.float() for one in said], meant)


@torch.no_grad()
def checked(model: StudentTraining, teacher: Teacher, kept: list[list[Tensor]]) -> dict[str, Any]:
    """Loss on held-back images, and the share of the teacher's variance within images that is explained."""
    pairs = [model(teacher.cut(image), described) for image, *described in kept]
    losses = [float(distance(*pair)) for pair in pairs]
    shares = torch.tensor([explained(*pair) for pair in pairs]).mean(0)
    return {
        "held_back": round(sum(losses) / len(losses), 4),
        "explained": [round(one, 4) for one in shares.tolist()],
    }


def assessed(
    student: Student, options: argparse.Namespace, terminal: Terminal
) -> dict[str, dict[str, float]]:
    """Memory banks on generated surfaces, with features of student, teacher and random weights."""
    surfaces = [draw_category(OTHER_SEED, number) for number in range(options.categories)]
    ours = StudentFeatures({"outputs": list(student.config.outputs)}, STAGES)
    ours.load_backbone(student.state_dict(), "student")
    taught, _ = open_teacher(options.teacher, options.teacher_weights, options.teacher_input)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        fresh = FeatureExtractor(taught.config)
    return assess_all({"student": ours, "teacher": taught, "random weights": fresh}, surfaces, terminal)


def time_per_step(teacher: Teacher, model: StudentTraining, rounds: RoundsConfig, device: str) -> float:
    """Seconds per step on this machine, measured on a temporary network."""
    trial = StudentTraining(Student(model.student.config, folded=False), teacher.channels).to(device)
    learner = Learner(trial, schedule(1))
    image, *described = Drawn(rounds, teacher)[0]
    batch = [image.float() / 255, *(one.float() for one in described)]

    def learn() -> None:
        learner.descend(loss_of(trial, teacher, device, batch), 0)

    return seconds_per_step(rounds, lambda: Drawn(rounds, teacher)[0], learn)


if __name__ == "__main__":
    sys.exit(main())
