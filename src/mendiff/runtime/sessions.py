"""Graphs in ONNX Runtime or OpenVINO, whichever their file is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mendiff.errors import InputError

Array = npt.NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Computes the outputs of a graph by name."""
OUTPUTS = ("score", "anomaly_map", "reconstruction")


def session(file: Path, outputs: Sequence[str] = OUTPUTS, *, half: bool = False, threads: int = 0) -> Run:
    """Open a graph.

    Args:
        file: a .onnx or .xml file.
        outputs: names of the outputs.
        half: compute in bfloat16 (OpenVINO, on processors with fast bfloat16).
        threads: processor threads; 0 for the runtime's choice.
    """
    return (_openvino if file.suffix == ".xml" else _onnx)(file, outputs, half, threads)


def _onnx(file: Path, outputs: Sequence[str], half: bool, threads: int) -> Run:
    if half:
        raise InputError(
            f"{file}: expected no bfloat16 in ONNX Runtime; export the model with --to openvino."
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", file) from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3  # errors; it warns of folded constants
    with _readable(file):
        opened = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, opened.run(list(outputs), dict(inputs)), strict=True))

    return run


def _openvino(file: Path, outputs: Sequence[str], half: bool, threads: int) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino", file) from error
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    with _readable(file):
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = compiled(dict(inputs))
        return {name: np.asarray(found[name], np.float32) for name in outputs}

    return run


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Convert a runtime's error for a damaged file to a sentence."""
    try:
        yield
    except Exception as error:  # runtimes raise classes of their own
        reason = str(error).strip().splitlines()[-1][:200].rstrip(".")
        raise InputError(
            f"{file}: expected a graph that this runtime can open, got one that it can't ({reason}); export "
            "the model again."
        ) from error


def _missing(name: str, file: Path) -> InputError:
    return InputError(f"{file}: expected the package {name}, but it is not installed; pip install {name}.")
