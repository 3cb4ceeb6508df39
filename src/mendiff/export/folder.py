"""Folders of exported models: the graph and its metadata."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mendiff import __version__
from mendiff.checkpoints.files import sealed, sha256_of, sha256_of_json, write_json, writing
from mendiff.data.images import save_png
from mendiff.errors import InputError
from mendiff.export.graph import OPSET, sample_inputs, write_onnx
from mendiff.export.int8 import Int8Loss, good_inputs, int8_loss, quantise
from mendiff.export.precision import store_half
from mendiff.export.search import search_plan, write_search
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.runtime.area import FILE as AREA
from mendiff.runtime.exported import Exported, opened
from mendiff.runtime.metadata import FILE, Metadata
from mendiff.runtime.sessions import Run, session
from mendiff.synthesis.upright import Frame

RUNTIMES = ("onnx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")
MAX_LOSS = 0.01
COMPARED = 2
"""Images with which the graph is compared with the model."""


@dataclass(frozen=True)
class Difference:
    """Largest differences of the graph to the model on generated images.

    Attributes:
        score: of scores, relative.
        anomaly_map: of map values, relative to the range of the map.
        int8: see Int8Loss; None for other precisions.
    """

    score: float
    anomaly_map: float
    int8: Int8Loss | None = None


def export_model(
    model: Model,
    folder: Path,
    to: str = "onnx",
    precision: str = "fp32",
    good: Sequence[Path] = (),
    max_loss: float = MAX_LOSS,
) -> Difference:
    """Write an exported model, completely or not at all, and compare it with the model.

    Args:
        model: on the CPU.
        folder: must not exist.
        to: one of RUNTIMES.
        precision: one of PRECISIONS; fp16 stores weights in half precision, int8 computes the convolutions of
            denoiser and codec in 8-bit integers.
        good: files of good images, for int8.
        max_loss: largest loss of image AUROC by int8.

    Raises InputError for models that can't be exported, and for a larger loss.
    """
    check_exportable(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        with writing(folder):
            metadata, int8 = _write_graphs(model, draft, to, precision, good)
            if int8 is not None and int8.lost > max_loss:
                raise InputError(
                    f"--precision: expected int8 to lose at most {max_loss:g} of image AUROC (--max-loss), "
                    f"got {int8.lost:.3f}, from {int8.auroc_float:.3f} to {int8.auroc:.3f} on "
                    f"{int8.defects} synthetic defects; export in fp32 or fp16."
                )
            if model.area is not None:
                save_png(model.area.mask, draft / AREA)
            found = replace(difference(model, opened(metadata, draft)), int8=int8)
            names = sorted(path.name for path in draft.iterdir())
            whole = replace(metadata, files={name: sha256_of(draft / name) for name in names})
            write_json(draft / FILE, sealed(whole.to_dict(), str(folder / FILE)))
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return found


def check_exportable(model: Model) -> None:
    """Raise InputError for what a single graph can't compute."""
    config: Any = model.method.config
    if not hasattr(model.method, "detect"):
        raise InputError(
            f"export: expected a method with `detect` and `noise_shape`, got {model.name}, which has none."
        )
    pooled: Any = getattr(config.readout, "pool_side", 0)
    if not model.plain and pooled:
        raise InputError(
            "export: expected a score that averages the largest values (readout.pool_side=0) for letterboxed "
            f"images, tiles and regions, got pool_side={pooled}; predict with the model itself."
        )


def _write_graphs(
    model: Model, folder: Path, to: str, precision: str, good: Sequence[Path]
) -> tuple[Metadata, Int8Loss | None]:
    """Write all graphs; returns the metadata without hashes, and the loss by int8."""
    adaptive = getattr(model.method.config, "adaptive", False)
    metadata = _metadata(model, "finish.onnx" if adaptive else "model.onnx", precision)
    onnx = folder / metadata.graph
    if adaptive:
        if precision == "int8":
            raise InputError("--precision: expected fp32 or fp16 for GLAD's adaptive search, got 'int8'.")
        metadata = replace(metadata, search=search_plan(model.method))
        files = write_search(model.method, folder)
    else:
        write_onnx(model.method, onnx)
        files = [onnx]
    if precision == "int8":
        exported = Exported(metadata, session(onnx))
        inputs = good_inputs(exported, good)
        quantise(onnx, model.method, exported, inputs)
    for file in files:
        if to == "openvino":
            _to_openvino(file, half=precision == "fp16")
        elif precision == "fp16":
            store_half(file, model.method.NETWORKS)
    if to == "openvino":
        metadata = replace(metadata, graph=onnx.with_suffix(".xml").name, opset=0)
    if precision == "int8":
        return metadata, int8_loss(exported, opened(metadata, folder), inputs)
    return metadata, None


def _to_openvino(onnx: Path, *, half: bool) -> None:
    """Replace an ONNX graph by that of OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "export: expected the package openvino, but it is not installed; pip install openvino."
        ) from error
    openvino.save_model(openvino.convert_model(onnx), onnx.with_suffix(".xml"), half)
    onnx.unlink()


@torch.no_grad()
def difference(model: Model, run: Run) -> Difference:
    """Compare graphs with their model on generated images."""
    inputs = sample_inputs(model.method, COMPARED)
    found = run({name: one.numpy() for name, one in inputs.items()})
    affine = (inputs["there"], inputs["back"]) if "there" in inputs else None
    frame = Frame(inputs["image"], turn=affine is not None, affine=affine)
    method: Any = model.method
    expected = frame.undo(method.detect(frame.image, inputs["noise"]))
    score, anomaly_map = expected.score.numpy(), expected.anomaly_map.numpy()
    apart = np.abs(found["score"] - score) / np.maximum(np.abs(score), 1e-12)
    return Difference(
        float(apart.max()), float(np.abs(found["anomaly_map"] - anomaly_map).max() / np.ptp(anomaly_map))
    )


def _metadata(model: Model, graph: str, precision: str) -> Metadata:
    """Metadata of an ONNX graph, without the hashes of files."""
    config: Any = model.method.config
    calibration = model.calibration
    return Metadata(
        mendiff=__version__,
        method=model.name,
        preset=str(model.info.get("preset", "")),
        config_sha256=sha256_of_json(config_to_dict(config), "config"),
        graph=graph,
        files={},
        opset=OPSET,
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
        region="" if model.area is None else AREA,
    )
