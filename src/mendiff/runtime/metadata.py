"""metadata.json of an exported model: everything that prediction needs besides the graph."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mendiff.calibration import Calibration
from mendiff.data.json_text import is_whole, parse_json
from mendiff.errors import InputError
from mendiff.runtime.windows import Layout

FORMAT, VERSION, FILE = "mendiff-export", 2, "metadata.json"
AGAIN = "export the model again with 'mendiff export'."


@dataclass(frozen=True)
class Metadata:
    """What an exported model is, and how its graph is used.

    Attributes:
        mendiff: version of the package that exported the model.
        method: name of the method.
        preset: its preset.
        config_sha256: hash of the method's config.
        graph: name of the graph's file: a .onnx file for ONNX Runtime, or a .xml file for OpenVINO. Of a
            search it is the last graph; the others have the names in mendiff.runtime.search.GRAPHS.
        files: SHA-256 of the graph's files by name.
        opset: of the ONNX graph; 0 for OpenVINO.
        precision: fp32, fp16 (stored weights) or int8 (convolutions of denoiser and codec).
        side: S, inputs are (B,3,S,S) float32 RGB in [0,1].
        letterbox, tile, overlap: see mendiff.data.squares.Squares.
        top_k, top_share: see mendiff.runtime.windows.top_mean, for images of several inputs or with padding.
        bit_depth, channels: see MethodConfig.
        upright: whether the graph has the inputs `there` and `back`, (B,2,3) each; see
            mendiff.runtime.upright.
        noise: shape of the noise of an image, (D,c,h,w): a single draw of mendiff.diffusion.noise.
        calibration: scores of good images, as Calibration.to_dict.
        threshold: image score above which a part is called defective.
        heat_range: map values of half of the colour scale (the pixel threshold) and without colour.
        region: name of the mask that is white where images are inspected; "" for everywhere.
        search: see mendiff.runtime.search.Plan; None for methods with a fixed number of steps.
    """

    mendiff: str
    method: str
    preset: str
    config_sha256: str
    graph: str
    files: dict[str, str]
    opset: int
    precision: str
    side: int
    letterbox: bool
    tile: int
    overlap: float
    top_k: int
    top_share: float
    bit_depth: int
    upright: bool
    noise: tuple[int, ...]
    calibration: dict[str, Any]
    threshold: float
    heat_range: tuple[float, float]
    channels: tuple[int, ...] = ()
    region: str = ""
    search: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, with format and version; version 1 has no channels, region and search."""
        newer = self.channels or self.region or self.search
        return {"format": FORMAT, "version": VERSION if newer else 1, **asdict(self)}

    @property
    def layout(self) -> Layout:
        """How images become inputs."""
        return Layout(self.side, self.letterbox, self.tile, self.overlap)

    @property
    def scores(self) -> Calibration:
        """The calibration."""
        return Calibration.from_dict(self.calibration, f"{FILE}: calibration")


def is_export(folder: Path) -> bool:
    """Whether a folder has the metadata of an exported model."""
    return (folder / FILE).is_file()


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of an exported model, and check that its files are there and unchanged."""
    file = folder / FILE
    if not file.is_file():
        raise InputError(
            f"{folder}: expected a folder written by 'mendiff export', but it has no {FILE}; {AGAIN}"
        )
    content = parse_json(file.read_bytes(), str(file))
    if content.get("format") != FORMAT:
        raise InputError(f"{file}: expected format {FORMAT!r}, got {content.get('format')!r}; {AGAIN}")
    if content.get("version") not in (1, VERSION):
        raise InputError(
            f"{file}: expected version 1 or {VERSION} of the format, got {content.get('version')!r}; {AGAIN}"
        )
    names = {field.name for field in fields(Metadata)} & content.keys()
    required = {field.name for field in fields(Metadata) if field.default is MISSING}
    if not is_whole(content) or not required <= names:
        raise InputError(f"{file}: expected the file as it was exported, but it was changed; {AGAIN}")
    found = Metadata(**{name: content[name] for name in names})
    found = replace(found, channels=tuple(found.channels))
    for name, digest in found.files.items():
        _check_file(folder / name, digest)
    return found


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: expected this file of the exported model, but it is missing; {AGAIN}")
    with path.open("rb") as file:
        found = hashlib.sha256()
        while piece := file.read(2**20):
            found.update(piece)
    if found.hexdigest() != digest:
        raise InputError(f"{path}: expected the file as it was exported, but it was changed; {AGAIN}")
