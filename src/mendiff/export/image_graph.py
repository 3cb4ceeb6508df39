"""Graphs that take an image alone, for programs that give a model nothing else, such as anomalib's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.diffusion.noise import LEVELS, PER_WORD, quantiles, words
from mendiff.export.graph import TRACED, DetectionGraph, write_graph
from mendiff.methods.base import Method

PRIME, STREAMS = 251, 64
"""Values of a part of the hash, and number of its parts."""
EXACT = 2**24
"""Integers below are exact in float32."""


class ImageNoise(nn.Module):
    """Noise that a graph computes from an image, because no runtime has the hash of mendiff.diffusion.noise.

    A linear hash of the 8-bit pixels, modulo PRIME, has STREAMS parts. Each part shifts the ranks of every
    STREAMS-th number of a fixed draw, modulo the number of ranks. The numbers of an image are thus
    independent, and images with other pixels have other noise. All sums are integers that float32 represents.

    Args:
        shape: of the noise of an image, (D,c,h,w).
        side: of images, S.
    """

    hash_columns: Tensor
    hash_rows: Tensor
    hash_channels: Tensor
    ranks: Tensor
    stream: Tensor
    values: Tensor

    def __init__(self, shape: tuple[int, ...], side: int) -> None:
        super().__init__()
        self._shape, count = shape, int(torch.Size(shape).numel())
        drawn = [
            torch.from_numpy(words(seed, 0, -(-size // PER_WORD)).astype("<u8").view("<u2").astype("int64"))
            for seed, size in enumerate((count, side * STREAMS, side * STREAMS, 3 * STREAMS))
        ]
        tops = (EXACT // (255 * side), EXACT // (PRIME * side), PRIME)
        weights = [
            1 + one.view(-1, STREAMS) % (min(top, PRIME) - 1)
            for one, top in zip(drawn[1:], tops, strict=True)
        ]
        for name, values in zip(("hash_columns", "hash_rows", "hash_channels"), weights, strict=True):
            self.register_buffer(name, values.float())
        self.register_buffer("ranks", drawn[0][:count])
        self.register_buffer("stream", torch.arange(count) % STREAMS)
        self.register_buffer("values", torch.tensor(quantiles()).repeat(2)[:, None])

    def forward(self, image: Tensor) -> Tensor:
        """The noise of images (B,3,S,S) in [0,1], (B, *shape)."""
        levels = (image.clamp(0, 1) * 255).round()
        columns = _modulo(levels @ self.hash_columns)
        rows = _modulo((columns * self.hash_rows[:, None].transpose(0, 1)).sum(2))
        parts = _modulo((rows * self.hash_channels).sum(1)).to(torch.int64)
        shift = (parts * (LEVELS // PRIME)).index_select(1, self.stream)
        return F.embedding(self.ranks + shift, self.values).view(-1, *self._shape)


def _modulo(sums: Tensor) -> Tensor:
    return (sums.to(torch.int64) % PRIME).to(torch.float32)


def antialiased(image: Tensor, side: int) -> Tensor:
    """Bilinear resizing with antialiasing as two matrix products, (B,3,H,W) to (B,3,side,side).

    OpenVINO has no such operator for sizes that are not known in advance.
    """
    rows, columns = (_triangles(torch.ones_like(one), side) for one in (image[0, 0, :, 0], image[0, 0, 0]))
    return rows @ (image @ columns.T)


def _triangles(ones: Tensor, count: int) -> Tensor:
    """Weights (count,L) of a line's L values for `count` values; see mendiff.runtime.resize."""
    scale = ones.sum() / count
    middles = ((torch.arange(count, device=ones.device) + 0.5) * scale)[:, None]
    apart = (ones.cumsum(0) - 0.5 - middles).abs()
    weights = (1 - apart / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


class ImageGraph(nn.Module):
    """An image of any size to the results of an anomalib model.

    Args:
        method: trained; it is copied.
        finish: from (score, anomaly map) to the outputs in the order of their names; it is copied.
    """

    def __init__(self, method: Method, finish: nn.Module) -> None:
        super().__init__()
        side = method.config.image_size
        self._side = side
        self.noise = ImageNoise(method.noise_shape(side, side), side)
        self.detection = DetectionGraph(method)
        self.finish = copy.deepcopy(finish).eval()

    def forward(self, input: Tensor) -> Any:  # anomalib's name
        image = antialiased(input, self._side)
        score, anomaly_map, _ = self.detection(image, self.noise(image))
        return self.finish(score, anomaly_map)


@torch.no_grad()
def write_image_graph(
    graph: ImageGraph,
    file: Path,
    outputs: list[str],
    size: tuple[int, int] | None = None,
    **options: Any,
) -> None:
    """Write a graph of images.

    Args:
        graph: on the CPU.
        file: to write.
        outputs: names of the outputs.
        size: height and width of the images; None for any.
        options: of torch.onnx.export.
    """
    height, width = size or (graph._side + 8, graph._side + 16)
    images = torch.rand(TRACED, 3, height, width, generator=torch.Generator().manual_seed(0))
    free = (0,) if size else (0, 2, 3)
    write_graph(graph, {"input": images}, {"input": free}, outputs, file, **options)
