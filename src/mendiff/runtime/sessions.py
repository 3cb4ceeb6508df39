"""Graphs in ONNX Runtime or OpenVINO, whichever their file is for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from mendiff.errors import InputError, check_range

Array = npt.NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Computes the outputs of a graph by name."""
OUTPUTS = ("score", "anomaly_map", "reconstruction")


@dataclass(frozen=True)
class Computing:
    """How graphs are computed.

    Attributes:
        half: in bfloat16 (OpenVINO, on processors with fast bfloat16).
        threads: processor threads of all streams; 0 for the runtime's choice.
        streams: calls that are computed at the same time, from as many threads.
    """

    half: bool = False
    threads: int = 0
    streams: int = 1

    def __post_init__(self) -> None:
        check_range("streams", self.streams, 1, 64)


PLAIN = Computing()


def session(file: Path, outputs: Sequence[str] = OUTPUTS, how: Computing = PLAIN) -> Run:
    """Open a graph; the returned function may be called from `how.streams` threads at the same time.

    Args:
        file: a .onnx or .xml file.
        outputs: names of the outputs.
        how: it is computed.
    """
    return (_openvino if file.suffix == ".xml" else _onnx)(file, outputs, how)


def _onnx(file: Path, outputs: Sequence[str], how: Computing) -> Run:
    if how.half:
        raise InputError(
            f"{file}: expected no bfloat16 in ONNX Runtime; export the model with --to openvino."
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", file) from error
    settings = onnxruntime.SessionOptions()
    threads = how.threads or (os.cpu_count() or 1 if how.streams > 1 else 0)
    settings.intra_op_num_threads = -(-threads // how.streams)  # of a call; 0 for the runtime's choice
    settings.log_severity_level = 3  # errors; it warns of folded constants
    with _readable(file):
        opened = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, opened.run(list(outputs), dict(inputs)), strict=True))

    return run


def _openvino(file: Path, outputs: Sequence[str], how: Computing) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino", file) from error
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if how.half else "f32",
        "NUM_STREAMS": how.streams,
    }
    if how.threads:
        settings["INFERENCE_NUM_THREADS"] = how.threads
    with _readable(file):
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    # A request computes one call at a time.
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(how.streams):
        requests.put(compiled.create_infer_request())

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        request = requests.get()
        try:
            found = request.infer(dict(inputs))
            return {name: np.array(found[name], np.float32) for name in outputs}
        finally:
            requests.put(request)

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
