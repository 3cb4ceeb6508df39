"""Published GLAD weights to ours: the UNet as accelerate writes it, a tuned autoencoder, a tuned DINO.

The published code saves every category's UNet as checkpoint-STEPS/pytorch_model.bin; for VisA and PCB-Bank
an autoencoder (.ckpt, with its discriminator) and a DINO (.pth) that were tuned on good images come with it.
"""

from __future__ import annotations

from pathlib import Path

from mendiff.checkpoints.codecs import CODEC, read_codec
from mendiff.checkpoints.import_diad import convert_codec
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.checkpoints.names import load_exactly, under
from mendiff.checkpoints.pretrained import UNET_NAME
from mendiff.errors import InputError
from mendiff.methods.glad import Glad

FILES = ("pytorch_model.bin", "model.safetensors")
"""What accelerate calls the weights of the one network that it trains."""
FOLDER = "checkpoint-"
WRAPPED = "module."
"""Before every name where several processes trained together and the wrapper was saved, too."""


def find_unet(place: Path, steps: int) -> Path:
    """The file with the UNet: itself, in a checkpoint's folder, or in one of a folder of checkpoints.

    Args:
        place: file or folder.
        steps: training steps of the checkpoint that is meant, where there are several.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place}: expected published GLAD weights, but there is no such file or folder.")
    for folder in (place, place / f"{FOLDER}{steps}", *_only(place)):
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
    several = sorted(one.name for one in place.glob(f"{FOLDER}*"))
    if several:
        raise InputError(
            f"{place}: expected {FOLDER}{steps} with {FILES[0]}, which is the preset's, among "
            f"{', '.join(several)}; name one of them, or choose another --preset."
        )
    raise InputError(
        f"{place}: expected {FILES[0]} or {FILES[1]}, as accelerate writes them, or folders {FOLDER}STEPS "
        "with one."
    )


def _only(place: Path) -> list[Path]:
    folders = list(place.glob(f"{FOLDER}*"))
    return folders if len(folders) == 1 else []


def import_unet(glad: Glad, file: Path) -> str:
    """Fill the denoiser from the published file; returns a line that says so."""
    weights = read_checkpoint(file)
    if weights and all(key.startswith(WRAPPED) for key in weights):
        weights = under(WRAPPED, weights)
    load_exactly(glad.denoiser.network, weights, str(file), UNET_NAME)
    return f"UNet: {file}"


def import_codec(glad: Glad, place: Path) -> str:
    """Fill the autoencoder from a published file or a codec folder of ours; returns a line that says so."""
    weights = (
        read_codec(place)[1]
        if place.is_dir()
        else convert_codec(read_checkpoint(place), glad.config.codec, str(place))
    )
    load_exactly(glad.codec, weights, str(place), CODEC)
    return f"autoencoder: {place}"
