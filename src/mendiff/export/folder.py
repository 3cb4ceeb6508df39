"""Folders of exported models: the graph and its metadata."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mendiff import __version__
from mendiff.checkpoints.files import sealed, sha256_of, sha256_of_json, write_json, writing
from mendiff.errors import InputError
from mendiff.export.graph import OPSET, sample_inputs, write_onnx
from mendiff.export.precision import store_half
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.runtime.metadata import FILE, Metadata
from mendiff.runtime.sessions import session
from mendiff.synthesis.upright import Frame

RUNTIMES = ("onnx", "openvino")
PRECISIONS = ("fp32", "fp16")
COMPARED = 2
"""Images with which the graph is compared with the model."""


@dataclass(frozen=True)
class Difference:
    """Largest differences of the graph to the model on generated images.

    Attributes:
        score: of scores, relative.
        anomaly_map: of map values, relative to the range of the map.
    """

    score: float
    anomaly_map: float


def export_model(model: Model, folder: Path, to: str = "onnx", precision: str = "fp32") -> Difference:
    """Write an exported model, completely or not at all, and compare it with the model.

    Args:
        model: on the CPU.
        folder: must not exist.
        to: one of RUNTIMES.
        precision: of the stored weights, one of PRECISIONS; all computations are in float32.

    Raises InputError for models that can't be exported.
    """
    check_exportable(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        with writing(folder):
            graph = _write_graph(model, draft, to, precision)
            found = difference(model, draft / graph)
            names = sorted(path.name for path in draft.iterdir())
            hashes = {name: sha256_of(draft / name) for name in names}
            metadata = _metadata(model, graph, hashes, precision).to_dict()
            write_json(draft / FILE, sealed(metadata, str(folder / FILE)))
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return found


def check_exportable(model: Model) -> None:
    """Raise InputError for what a single graph can't compute."""
    config: Any = model.method.config
    if getattr(config, "adaptive", False):
        raise InputError(
            "export: expected a method with a fixed number of steps, got GLAD with its adaptive search, "
            "which is not supported yet; export a model of preset tiny."
        )
    if not hasattr(model.method, "detect"):
        raise InputError(
            f"export: expected a method with `detect` and `noise_shape`, got {model.name}, which has none."
        )
    if model.area is not None:
        raise InputError(
            "export: expected a model that inspects whole images, got one with --region or --ignore, which "
            "is not supported yet; predict with the model itself."
        )
    pooled: Any = getattr(config.readout, "pool_side", 0)
    if not model.plain and pooled:
        raise InputError(
            "export: expected a score that averages the largest values (readout.pool_side=0) for letterboxed "
            f"images and tiles, got pool_side={pooled}; predict with the model itself."
        )


def _write_graph(model: Model, folder: Path, to: str, precision: str) -> str:
    """Write the graph's files; returns the name of the first."""
    onnx = folder / "model.onnx"
    write_onnx(model.method, onnx)
    if to == "onnx":
        if precision == "fp16":
            store_half(onnx, model.method.NETWORKS)
        return onnx.name
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "export: expected the package openvino, but it is not installed; pip install openvino."
        ) from error
    openvino.save_model(openvino.convert_model(onnx), folder / "model.xml", precision == "fp16")
    onnx.unlink()
    return "model.xml"


@torch.no_grad()
def difference(model: Model, graph: Path) -> Difference:
    """Compare a graph with its model on generated images."""
    inputs = sample_inputs(model.method, COMPARED)
    found = session(graph)({name: one.numpy() for name, one in inputs.items()})
    affine = (inputs["there"], inputs["back"]) if "there" in inputs else None
    frame = Frame(inputs["image"], turn=affine is not None, affine=affine)
    method: Any = model.method
    expected = frame.undo(method.detect(frame.image, inputs["noise"]))
    score, anomaly_map = expected.score.numpy(), expected.anomaly_map.numpy()
    apart = np.abs(found["score"] - score) / np.maximum(np.abs(score), 1e-12)
    return Difference(
        float(apart.max()), float(np.abs(found["anomaly_map"] - anomaly_map).max() / np.ptp(anomaly_map))
    )


def _metadata(model: Model, graph: str, files: dict[str, str], precision: str) -> Metadata:
    config: Any = model.method.config
    calibration = model.calibration
    return Metadata(
        mendiff=__version__,
        method=model.name,
        preset=str(model.info.get("preset", "")),
        config_sha256=sha256_of_json(config_to_dict(config), "config"),
        graph=graph,
        files=files,
        opset=OPSET if graph.endswith(".onnx") else 0,
        precision=precision,
        side=config.image_size,
        letterbox=config.resize == "letterbox",
        tile=config.tile,
        overlap=config.tile_overlap,
        top_k=getattr(config.readout, "top_k", 0),  # RAN has a share alone
        top_share=config.readout.top_share,
        bit_depth=config.bit_depth,
        channels=config.channels,
        upright=config.upright == "always",
        noise=model.method.noise_shape(config.image_size, config.image_size),
        calibration=calibration.to_dict(),
        threshold=calibration.threshold,
        heat_range=calibration.heat_range,
    )
