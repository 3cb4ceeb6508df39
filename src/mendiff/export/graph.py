"""A method's prediction as an ONNX graph of tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.methods.base import Method
from mendiff.runtime.sessions import OUTPUTS
from mendiff.scoring.bank import CHUNK, PatchBank, beyond_unit, distance_to_nearest
from mendiff.scoring.whitening import ChannelWhitening
from mendiff.synthesis.upright import Frame
from mendiff.types import Detection

OPSET = 20
"""The first with bicubic sampling of images of any size."""
TRACED = 3
"""Batch size of the trace; the graph takes any. Not 1, which torch would treat as a constant."""
BISECTIONS = 22


class DetectionGraph(nn.Module):
    """A prediction as a function of tensors alone.

    Args:
        method: trained; it is copied.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = traceable(method)

    def forward(
        self, image: Tensor, noise: Tensor, there: Tensor | None = None, back: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score (B,), map (B,1,S,S) and reconstruction (B,3,S,S).

        Args:
            image: (B,3,S,S) in [0,1].
            noise: (B, *noise_shape).
            there: matrices that align the parts, (B,2,3), for upright methods.
            back: their inverses.
        """
        affine = None if there is None or back is None else (there, back)
        frame = Frame(image, turn=affine is not None, affine=affine)
        detect: Any = self.method.detect
        found: Detection = frame.undo(detect(frame.image, noise))
        return found.score, found.anomaly_map, found.reconstruction


class _Whitening(nn.Module):
    """ChannelWhitening with its inverse as a constant, because graphs have no inversion of matrices."""

    mean: Tensor
    root: Tensor
    inverse: Tensor

    def __init__(self, like: ChannelWhitening) -> None:
        super().__init__()
        self.register_buffer("mean", like.mean)
        self.register_buffer("root", like.root)
        self.register_buffer("inverse", torch.linalg.inv(like.root))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("dc,bchw->bdhw", self.root, features - self.mean[:, None, None])

    def undo(self, difference: Tensor) -> Tensor:
        return torch.einsum("dc,bchw->bdhw", self.inverse, difference)


class _Bank(nn.Module):
    """PatchBank in pieces per image instead of per batch, so that their number is constant."""

    _beyond: Tensor

    def __init__(self, like: PatchBank) -> None:
        super().__init__()
        self._bank = like
        self.register_buffer("_beyond", beyond_unit(like.vectors.float()))

    def forward(self, layers: list[Tensor], size: tuple[int, int]) -> Tensor:
        found = self._bank._embedded(layers, size)
        known = self._bank.vectors.to(found.dtype)
        queries = found.flatten(2).transpose(1, 2).split(CHUNK, dim=1)
        distances = torch.cat([distance_to_nearest(one, known, self._beyond) for one in queries], dim=1)
        return distances.unflatten(1, found.shape[-2:])[:, None]


_TRACEABLE: dict[type, Any] = {ChannelWhitening: _Whitening, PatchBank: _Bank}


def traceable(method: Method) -> Method:
    """A copy of a method whose prediction torch can trace."""
    copied = copy.deepcopy(method).eval().requires_grad_(False)
    for module in list(copied.modules()):
        for name, part in module.named_children():
            if type(part) in _TRACEABLE:
                setattr(module, name, _TRACEABLE[type(part)](part))
    return copied


def lower_median(values: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The median as torch has it, the lower of two middle values, by bisection; indices are not used.

    Runtimes would sort all values, which takes a tenth of the time of a prediction. The error is the range of
    the values times 2^-BISECTIONS.
    """
    rank = (values.shape[dim] + 1) // 2
    low, high = values.amin(dim, keepdim=True), values.amax(dim, keepdim=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = (values <= middle).to(values.dtype).sum(dim, keepdim=True) >= rank
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    found = high if keepdim else high.squeeze(dim)
    return found, torch.zeros_like(found, dtype=torch.int64)


def sample_inputs(method: Method, count: int) -> dict[str, Tensor]:
    """Inputs of the graph for smooth random images."""
    side = method.config.image_size
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    image = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    inputs = {"image": image, "noise": method.noise(image, torch.arange(count))}
    if method.config.upright == "always":
        turn = torch.tensor([[0.0, -1.0, 0.1], [1.0, 0.0, 0.0]]).expand(count, 2, 3).clone()
        back = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.1]]).expand(count, 2, 3).clone()
        inputs |= {"there": turn, "back": back}
    return inputs


@torch.no_grad()
def write_onnx(method: Method, file: Path) -> None:
    """Write the graph of a method with inputs and outputs of any batch size."""
    inputs = sample_inputs(method, TRACED)
    write_graph(DetectionGraph(method), inputs, dict.fromkeys(inputs, (0,)), OUTPUTS, file)


def write_graph(
    graph: nn.Module,
    inputs: Mapping[str, Tensor],
    free: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    file: Path,
    **options: Any,
) -> None:
    """Write a module as an ONNX graph.

    Args:
        graph: a function of tensors.
        inputs: examples of its arguments by name.
        free: axes of every input that may have any length.
        outputs: names of its results.
        file: to write.
        options: of torch.onnx.export.
    """
    try:
        import onnx  # noqa: F401  # torch's exporter needs both
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"export: expected the packages onnx and onnxscript, but {error.name} is not installed; pip "
            'install "mendiff[export]".'
        ) from error
    settings: dict[str, Any] = {
        "input_names": list(inputs),
        "output_names": list(outputs),
        "opset_version": OPSET,
        "dynamo": True,
        "external_data": False,
        "verbose": False,
    }
    try:
        torch.onnx.export(traced(graph, inputs, free), (), str(file), **{**settings, **options})
    except Exception as error:  # the exporter raises errors of all kinds
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise InputError(
            "export: expected a method that torch can export as a graph, but it can't export this config "
            f"({type(error).__name__}: {reason}); export a model of preset tiny."
        ) from error


def traced(graph: nn.Module, inputs: Mapping[str, Tensor], free: Mapping[str, Sequence[int]]) -> Any:
    """The program of a module; arguments as for write_graph."""
    dynamic = {name: dict.fromkeys(free[name], torch.export.Dim.AUTO) for name in inputs}
    program = torch.export.export(graph, (), dict(inputs), dynamic_shapes=dynamic, strict=False)
    table: Any = {**torch.export.default_decompositions(), torch.ops.aten.median.dim: lower_median}
    return program.run_decompositions(table)
