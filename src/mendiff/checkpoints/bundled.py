"""The bundled networks: verification of their files, and loading into a method.

In a config, the features name "auto" or the codec kind "auto" selects a bundled network.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.codecs import CODEC as ITS_CODEC
from mendiff.checkpoints.codecs import CONFIG, WEIGHTS, read_codec, read_codec_config
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.weights import read_weights
from mendiff.data.images import write_bytes
from mendiff.errors import InputError
from mendiff.nets import AUTO
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.features import FeaturesConfig
from mendiff.nets.student import BUNDLED, StudentConfig, StudentFeatures

FOLDER = Path(__file__).resolve().parents[1] / "bundled"
SUMS = "SHA256SUMS"
"""Checksums of all files in the format of sha256sum; `sha256sum -c SHA256SUMS` in the folder checks them."""
FEATURES = "features.safetensors"
CODEC = "codec"
BUNDLED_FEATURES = "the network that comes with mendiff"
"""Name of the bundled features in messages."""


def sum_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known_sums() -> dict[str, str]:
    """The package's checksums by file name."""
    path = FOLDER / SUMS
    lines = path.read_text().splitlines() if path.is_file() else []
    return {name: digits for digits, name in (line.split(maxsplit=1) for line in lines)}


def verified(name: str, instead: str) -> Path:
    """Path of a bundled file after verification of its SHA-256.

    Args:
        name: name within the folder.
        instead: alternative for the user, for messages.
    """
    path, known = FOLDER / name, known_sums()
    if name not in known or not path.is_file():
        raise InputError(
            f"{path}: expected a file that comes with mendiff, found none; reinstall mendiff, or {instead}."
        )
    if sum_of(path) != known[name]:
        raise InputError(
            f"{path}: expected the file that came with mendiff, but its SHA-256 differs; reinstall mendiff, "
            f"or {instead}."
        )
    return path


def bundled_features() -> dict[str, Tensor]:
    """The weights of the bundled feature network, float32."""
    return read_weights(bundled_file("features"))


def codec_folder(name: str | Path) -> Path:
    """Path of a codec folder; for the name "auto" the verified folder of the bundled codec."""
    if str(name) != AUTO:
        return Path(name)
    for part in (CONFIG, WEIGHTS):
        verified(f"{CODEC}/{part}", "name a codec with --codec")
    return FOLDER / CODEC


def bundled_file(part: str) -> Path:
    """The verified file with the bundled weights of a method's part."""
    if part == CODEC:
        return codec_folder(AUTO) / WEIGHTS
    return verified(FEATURES, "name a backbone with --features and --features-weights")


def resolved(config: Any) -> Any:
    """Replace "auto" for features and codec by the settings of the bundled networks, for storage."""
    features, codec = getattr(config, "features", None), getattr(config, "codec", None)
    if isinstance(features, FeaturesConfig) and features.name == AUTO:
        network = dataclasses.asdict(StudentConfig())
        config = dataclasses.replace(
            config, features=dataclasses.replace(features, name=BUNDLED, network=network)
        )
    if isinstance(codec, CodecConfig) and codec.kind == AUTO:
        stored = read_codec_config(codec_folder(AUTO))
        config = dataclasses.replace(config, codec=dataclasses.replace(stored, fit=codec.fit))
    return config


def fill(parts: Any, config: Any) -> None:
    """Load the bundled weights into a method built from `resolved(config)`, where `config` is "auto"."""
    features, codec = getattr(config, "features", None), getattr(config, "codec", None)
    if isinstance(features, FeaturesConfig) and features.name == AUTO:
        for one in parts.modules():  # a method may have several extractors of this config
            if isinstance(one, StudentFeatures):
                one.load_backbone(bundled_features(), FEATURES)
    if isinstance(codec, CodecConfig) and codec.kind == AUTO:
        folder = codec_folder(AUTO)
        load_exactly(parts.codec, read_codec(folder)[1], str(folder), ITS_CODEC)


def open_features(layers: tuple[str, ...]) -> StudentFeatures:
    """Load the bundled feature network, frozen; see StudentFeatures for the layers."""
    features = StudentFeatures({}, layers)
    features.load_backbone(bundled_features(), FEATURES)
    return features


def install(source: Path, names: Sequence[str]) -> Path:
    """Copy newly trained files into the package and update the checksums; returns the package's folder."""
    for name in names:
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(FOLDER / name, (source / name).read_bytes())
    sums = known_sums() | {name: sum_of(FOLDER / name) for name in names}
    lines = [f"{digits}  {name}\n" for name, digits in sorted(sums.items())]
    write_bytes(FOLDER / SUMS, "".join(lines).encode())
    return FOLDER
