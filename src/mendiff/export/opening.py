"""Exported models as models of the package, for its commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mendiff.data.inspected import InspectedArea
from mendiff.diffusion.random import PerImageRandom
from mendiff.errors import InputError
from mendiff.methods.base import Method, MethodConfig
from mendiff.model import Model
from mendiff.runtime import Exported, load_exported
from mendiff.runtime.sessions import OUTPUTS
from mendiff.runtime.streams import in_order
from mendiff.scoring.score import top_k_mean, top_share_mean
from mendiff.types import Detection


class ExportedMethod(Method):
    """A method whose prediction is a graph; it can't be trained.

    Args:
        exported: the graph.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    PRESETS: ClassVar = {}

    def __init__(self, exported: Exported) -> None:
        metadata = exported.metadata
        super().__init__(
            MethodConfig(
                image_size=metadata.side,
                bit_depth=metadata.bit_depth,
                channels=tuple(metadata.channels),
                resize="letterbox" if metadata.letterbox else "stretch",
                tile=metadata.tile,
                tile_overlap=metadata.overlap,
            )
        )
        self._exported = exported

    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """Refused."""
        raise InputError("training: expected a model folder of 'mendiff fit', got an exported model.")

    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """See Method.predict; the noise follows from the image."""
        found = self._exported.find(image.cpu().numpy())
        score, anomaly_map, reconstruction = (torch.tensor(found[name]) for name in OUTPUTS)
        stop_step = torch.zeros(image.shape[0], dtype=torch.int64)
        return Detection(score, anomaly_map, reconstruction, stop_step)

    @property
    def batches_in_flight(self) -> int:
        """As many as streams; see Method.batches_in_flight."""
        return 2 * self._exported.streams if self._exported.streams > 1 else 1

    def predict_all(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Detection]:
        """See Method.predict_all; a batch per stream."""
        yield from in_order(lambda pair: self.predict(*pair), batches, self._exported.streams)

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """See Method.score."""
        metadata = self._exported.metadata
        if metadata.top_k:
            return top_k_mean(anomaly_map, min(metadata.top_k, pixels))
        return top_share_mean(anomaly_map, metadata.top_share, pixels)

    def explain(self, image: Tensor, seeds: Tensor) -> Tensor:
        """Refused: the graph has the prediction alone."""
        raise InputError("--explain: expected a model folder of 'mendiff fit', got an exported model.")


def open_exported(folder: Path, *, half: bool = False, streams: int = 1) -> Model:
    """Open an exported model for prediction on the CPU; see mendiff.runtime.load_exported."""
    exported = load_exported(folder, half=half, streams=streams)
    metadata = exported.metadata
    info = {"preset": metadata.preset}
    method = ExportedMethod(exported)
    area = None if exported.area is None else InspectedArea(exported.area.mask)
    return Model(
        metadata.method, method, exported.calibration, info, area=area, device="cpu", source=str(folder)
    )
