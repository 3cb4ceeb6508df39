"""Graphs with convolutions in 8-bit integers, calibrated on good images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator

from mendiff.errors import InputError
from mendiff.methods.base import Method
from mendiff.nets.features import Features
from mendiff.runtime import Exported
from mendiff.runtime.sessions import Run
from mendiff.synthesis.probes import probes

FEWEST, MOST = 12, 96
"""Number of good images: required, and used."""
COMPARED = 3
"""Every third good image is compared; the others calibrate."""
DEFECTS = 2
"""Synthetic defects per compared image."""
SEED = 0
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Int8Loss:
    """What 8-bit integers change, on good images that did not calibrate and synthetic defects in them.

    Attributes:
        images: number of good images.
        defects: number of synthetic defects.
        auroc_float: image AUROC of the graph in float32.
        auroc: image AUROC of the graph in int8.
        change: root mean square of the differences of scores, as a share of the distance from the median good
            score to the threshold.
        decisions: number of images, with or without defect, with another decision.
    """

    images: int
    defects: int
    auroc_float: float
    auroc: float
    change: float
    decisions: int

    @property
    def lost(self) -> float:
        """The loss of image AUROC."""
        return self.auroc_float - self.auroc


def good_inputs(model: Exported, images: Sequence[Path]) -> list[Array]:
    """Inputs (3,S,S) of good images, evenly chosen; of tiled images, a tile of each in turn."""
    if len(images) < FEWEST:
        raise InputError(
            f"--calibrate: expected at least {FEWEST} good images for int8, got {len(images)}; name a folder "
            "with more."
        )
    chosen = images[:: -(-len(images) // MOST)]
    layout, prepared = model.metadata.layout, (model.prepare(one) for one in chosen)
    windows = ([one] if layout.stretches else layout.windows(one) for one in prepared)
    return [some[number % len(some)] for number, some in enumerate(windows)]


def quantise(file: Path, method: Method, model: Exported, good: Sequence[Array]) -> None:
    """Convert the convolutions of denoiser and codec to 8-bit integers, in place.

    The backbone stays in float32: its features are compared after whitening, which amplifies rounding.

    Args:
        file: ONNX graph in float32.
        method: of the graph.
        model: the graph.
        good: inputs of good images; those that are not compared set the ranges of values.
    """
    import onnx
    from onnxruntime import quantization

    reader = _Reader(model, [one for number, one in enumerate(good) if number % COMPARED])
    parts = [name for name, one in method.parts.items() if not isinstance(one, Features)]
    nodes = [
        node.name
        for node in onnx.load(str(file), load_external_data=False).graph.node
        if node.op_type == "Conv" and any(node.input[1].startswith(f"method.{part}.") for part in parts)
    ]
    if not nodes:
        raise InputError("--precision: expected fp32 or fp16 for a model without convolutions, got 'int8'.")
    with _quiet():
        quantization.quantize_static(
            str(file),
            str(file),
            reader,
            nodes_to_quantize=nodes,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


class _Reader:
    """Inputs of the graph, an image at a time, as onnxruntime's quantisation reads them."""

    def __init__(self, model: Exported, good: Sequence[Array]) -> None:
        self._inputs = (model.inputs(one[None]) for one in good)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._inputs, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of onnxruntime's quantisation, which go to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def int8_loss(model: Exported, quantised: Run, good: Sequence[Array]) -> Int8Loss:
    """Compare a graph in int8 with that in float32.

    Args:
        model: the graph in float32.
        quantised: the graph in int8.
        good: see `quantise`.
    """
    compared = torch.from_numpy(np.stack(good[::COMPARED]))
    count = DEFECTS * len(compared)
    defective, _ = probes(compared, count, Generator("cpu").manual_seed(SEED))
    inputs = [model.inputs(one[None]) for one in torch.cat([compared, defective]).numpy()]
    runs: tuple[Run, ...] = (model.run, quantised)
    before, after = (np.array([run(one)["score"].item() for one in inputs]) for run in runs)
    unit = max(model.threshold - median(model.calibration.scores), 1e-12)
    return Int8Loss(
        images=len(compared),
        defects=count,
        auroc_float=_auroc(before, len(compared)),
        auroc=_auroc(after, len(compared)),
        change=float(np.sqrt(np.square(after - before).mean()) / unit),
        decisions=int(((after > model.threshold) != (before > model.threshold)).sum()),
    )


def _auroc(scores: npt.NDArray[Any], good: int) -> float:
    """Image AUROC of scores of good images, followed by those of defective images."""
    fine, bad = scores[:good, None], scores[None, good:]
    return float((bad > fine).mean() + (bad == fine).mean() / 2)
