"""Weights of ONNX graphs in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mendiff.errors import InputError

LEAST = 1024
"""Smaller tensors stay in float32: they take little space."""


def store_half(file: Path, networks: Sequence[str]) -> None:
    """Store the weights of networks in half precision; a runtime converts them to float32 when it loads.

    Statistics stay in float32, because their range may be larger.

    Args:
        file: ONNX graph, changed in place.
        networks: names of the method's networks.
    """
    import onnx
    from onnx import helper, numpy_helper

    model: Any = onnx.load(str(file))
    casts = []
    for tensor in model.graph.initializer:
        network = any(f"method.{name}." in tensor.name for name in networks)
        if tensor.data_type != onnx.TensorProto.FLOAT or not network:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < LEAST:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise InputError(
                f"precision: expected fp32, because the weight {tensor.name} exceeds the range of fp16."
            )
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.save(model, str(file))
