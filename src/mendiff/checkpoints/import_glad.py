"""Import of published GLAD weights: the UNet saved by accelerate, a tuned autoencoder and a tuned DINO.

The published code saves the UNet of a category as checkpoint-STEPS/pytorch_model.bin. For VisA and PCB-Bank
there are also an autoencoder (.ckpt, with its discriminator) and a DINO (.pth), tuned on good images.
"""

from __future__ import annotations

from pathlib import Path

from mendiff.checkpoints.codecs import CODEC, read_codec
from mendiff.checkpoints.import_diad import convert_codec
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.checkpoints.names import load_exactly, under
from mendiff.checkpoints.stable_diffusion import UNET_NAME
from mendiff.errors import InputError
from mendiff.methods.glad import Glad

FILES = ("pytorch_model.bin", "model.safetensors")
"""accelerate's file names for the weights of a single network."""
FOLDER = "checkpoint-"
WRAPPED = "module."
"""Prefix of all names if the weights were saved from a distributed wrapper."""


def find_unet(place: Path, steps: int) -> Path:
    """Find the UNet file: the file itself, or in a checkpoint folder, or in a folder of checkpoints.

    Args:
        place: file or folder.
        steps: training steps that select a checkpoint, if there are several.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place}: expected published GLAD weights, but there is no such file or folder.")
    for folder in (place, place / f"{FOLDER}{steps}", *_only(place)):
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
    several = sorted(folder.name for folder in place.glob(f"{FOLDER}*"))
    if several:
        raise InputError(
            f"{place}: expected {FOLDER}{steps} with {FILES[0]} for this preset, found "
            f"{', '.join(several)}; name one of them, or choose another --preset."
        )
    raise InputError(
        f"{place}: expected {FILES[0]} or {FILES[1]}, as written by accelerate, or folders {FOLDER}STEPS "
        "with such a file."
    )


def _only(place: Path) -> list[Path]:
    folders = list(place.glob(f"{FOLDER}*"))
    return folders if len(folders) == 1 else []


def import_unet(glad: Glad, file: Path) -> str:
    """Load the published file into the denoiser; returns a message."""
    weights = read_checkpoint(file)
    if weights and all(key.startswith(WRAPPED) for key in weights):
        weights = under(WRAPPED, weights)
    load_exactly(glad.denoiser.network, weights, str(file), UNET_NAME)
    return f"UNet: {file}"


def import_codec(glad: Glad, place: Path) -> str:
    """Load a published file or a codec folder into the autoencoder; returns a message."""
    weights = (
        read_codec(place)[1]
        if place.is_dir()
        else convert_codec(read_checkpoint(place), glad.config.codec, str(place))
    )
    load_exactly(glad.codec, weights, str(place), CODEC)
    return f"autoencoder: {place}"
