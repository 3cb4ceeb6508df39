"""Prediction with an exported model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.calibration import Calibration
from mendiff.data.image_files import find_images
from mendiff.data.numpy_arrays import picture_of
from mendiff.data.reading import Picture, Reading, read_image, to_rgb
from mendiff.diffusion.noise import NormalStream, seed_of
from mendiff.errors import InputError, NotFiniteError
from mendiff.runtime.area import Area, without_outside
from mendiff.runtime.metadata import Metadata, read_metadata
from mendiff.runtime.resize import resized
from mendiff.runtime.search import GRAPHS, Plan, Search
from mendiff.runtime.sessions import OUTPUTS, PLAIN, Computing, Run, session
from mendiff.runtime.streams import in_order
from mendiff.runtime.upright import alignment
from mendiff.runtime.windows import top_mean

Array = npt.NDArray[np.float32]
TILES = 8
"""Tiles of an image per batch."""


@dataclass(frozen=True, repr=False)
class Findings:
    """What an exported model finds in images, as NumPy arrays; the names are those of mendiff.Inspection.

    Attributes:
        score: image scores, (B,).
        anomaly_map: (B,1,H,W), of the size of the image as the model sees it.
        reconstruction: (B,3,H,W) in [0,1].
        p_value: share of good images that score at least as high, (B,).
        threshold: image score above which a part is called defective.
        heat_range: map values that are drawn in half of the colour scale (the pixel threshold) and without
            colour.
        sizes: (height, width) of every map; smaller maps are padded with zeros at the bottom and at the
            right.
    """

    score: Array
    anomaly_map: Array
    reconstruction: Array
    p_value: npt.NDArray[np.float64]
    threshold: float
    heat_range: tuple[float, float]
    sizes: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        flagged = int(self.defective.sum())
        return f"Findings({len(self.score)} images, {flagged} above the threshold of {self.threshold:.4g})"

    @property
    def defective(self) -> npt.NDArray[np.bool_]:
        """Whether each image's score is above the threshold, (B,) bool."""
        return self.score > self.threshold

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The map values above the pixel threshold, (B,1,H,W) bool."""
        return self.anomaly_map > self.heat_range[0]


class Exported:
    """An exported model, as returned by `load_exported`.

    Args:
        metadata: see Metadata.
        run: the graph.
        area: where images are inspected; None for everywhere.

    Attributes:
        metadata: see Metadata.
        run: the graph.
        area: where images are inspected; None for everywhere.
        streams: see load_exported.
        calibration: scores of good images.
        threshold: image score above which a part is called defective.
    """

    def __init__(self, metadata: Metadata, run: Run, area: Area | None = None, streams: int = 1) -> None:
        self.metadata, self.run, self.area, self.streams = metadata, run, area, streams
        self.calibration: Calibration = metadata.scores
        self.threshold = metadata.threshold

    def predict(self, images: Any, batch_size: int = 8) -> Findings:
        """Detect anomalies in one or more images.

        Args:
            images: a path, an (H,W,3) or (H,W) array, a PIL image, or a list of these; a folder is all of its
                images.
            batch_size: images per batch; results differ by rounding at most.
        """
        given = list(images) if isinstance(images, list | tuple) else [images]
        listed = [one for some in given for one in (find_images(Path(some)) if _is_folder(some) else [some])]
        if not listed:
            raise InputError("images: expected at least one image, got none.")
        count = 1 if self.metadata.tile else max(1, batch_size)  # what becomes a single input, together
        groups = (listed[first : first + count] for first in range(0, len(listed), count))
        found = [one for some in in_order(self._inspected, groups, self.streams) for one in some]
        lost = [row for row, one in enumerate(found) if not all(np.isfinite(part).all() for part in one[:2])]
        if lost:
            raise NotFiniteError(lost)
        scores, maps, pictures = zip(*found, strict=True)
        limit, floor = self.metadata.heat_range
        return Findings(
            score=np.array(scores, np.float32),
            anomaly_map=_on_canvas(maps),
            reconstruction=_on_canvas(pictures),
            p_value=np.array([self.calibration.p_value(float(one)) for one in scores]),
            threshold=self.threshold,
            heat_range=(limit, floor),
            sizes=tuple((one.shape[1], one.shape[2]) for one in maps),
        )

    def _inspected(self, images: Sequence[Any]) -> list[tuple[Any, Array, Array]]:
        """Score, map and reconstruction of every image."""
        return list(self._parts([self.prepare(one) for one in images]))

    def _parts(self, images: list[Array]) -> Iterator[tuple[Any, Array, Array]]:
        """Score, map and reconstruction of every prepared image."""
        layout = self.metadata.layout
        if layout.stretches and self.area is None:
            found = self.find(np.stack(images))
            yield from zip(*(found[name] for name in OUTPUTS), strict=True)
            return
        for image in images:
            windows = layout.windows(image)
            found_each = [
                self.find(np.stack(windows[at : at + TILES])) for at in range(0, len(windows), TILES)
            ]
            _, maps, pictures = (np.concatenate([one[name] for one in found_each]) for name in OUTPUTS)
            anomaly_map, picture = (layout.joined(list(of), *image.shape[1:]) for of in (maps, pictures))
            top = (self.metadata.top_k, self.metadata.top_share)
            if self.area is None:
                yield top_mean(anomaly_map, *top, layout.side), anomaly_map, picture
                continue
            area = self.area.at(*image.shape[1:])
            score = top_mean(anomaly_map, *top, layout.side, area)
            yield score, without_outside(anomaly_map, area), picture

    def prepare(self, image: Any) -> Array:
        """Read an image of any type and resize it to its working size, (3,h,w) float32 in [0,1]."""
        reading = Reading(self.metadata.bit_depth, tuple(self.metadata.channels))
        if isinstance(image, str | Path):
            picture: Picture = read_image(image, reading)
        elif isinstance(image, Image.Image):
            picture = to_rgb(image, "image", reading)
        else:
            picture = picture_of(image, reading)
        if self.area is not None:
            height, width = picture.shape[:2]
            self.area.check(height, width, str(image) if isinstance(image, str | Path) else "the image")
        values = np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        return resized(values, *self.metadata.layout.size(*picture.shape[:2]))

    def find(self, batch: Array) -> Mapping[str, Array]:
        """The outputs of the graph for inputs (B,3,S,S): score, map and reconstruction."""
        return self.run(self.inputs(batch))

    def inputs(self, batch: Array) -> dict[str, Array]:
        """All inputs of the graph for images (B,3,S,S), by name."""
        shape = tuple(self.metadata.noise)
        levels = np.rint(batch.clip(0, 1) * np.float32(255)).astype(np.uint8)
        noise = [NormalStream(seed_of(one)).draw(math.prod(shape)).reshape(shape) for one in levels]
        inputs = {"image": batch, "noise": np.stack(noise)}
        if self.metadata.upright:
            there, back = zip(*map(alignment, batch), strict=True)
            inputs |= {"there": np.stack(there), "back": np.stack(back)}
        return inputs


def _on_canvas(parts: Sequence[Array]) -> Array:
    """Stack (C,h,w) arrays of different sizes, padded with zeros at the bottom and at the right."""
    height, width = (max(one.shape[axis] for one in parts) for axis in (1, 2))
    missing = [((0, 0), (0, height - one.shape[1]), (0, width - one.shape[2])) for one in parts]
    return np.stack([np.pad(one, at) for one, at in zip(parts, missing, strict=True)])


def _is_folder(image: Any) -> bool:
    return isinstance(image, str | Path) and Path(image).is_dir()


def load_exported(folder: str | Path, *, half: bool = False, threads: int = 0, streams: int = 1) -> Exported:
    """Open a folder written by `mendiff export`.

    Args:
        folder: of the exported model.
        half: compute in bfloat16 (OpenVINO, on processors with fast bfloat16).
        threads: processor threads of all streams; 0 for the runtime's choice.
        streams: batches that are computed at the same time, for a higher throughput; results are the same.

    Raises InputError for a folder of another version, a missing or changed file, and a runtime that is not
    installed.
    """
    metadata = read_metadata(Path(folder))
    area = Area.read(Path(folder) / metadata.region) if metadata.region else None
    return Exported(
        metadata, opened(metadata, Path(folder), Computing(half, threads, streams)), area, streams
    )


def opened(metadata: Metadata, folder: Path, how: Computing = PLAIN) -> Run:
    """The prediction of a folder's graphs, from all inputs to all outputs."""
    file = folder / metadata.graph
    if metadata.search is None:
        return session(file, how=how)
    parts = {name: session(file.with_stem(name), outputs, how) for name, outputs in GRAPHS.items()}
    return Search(Plan.from_dict(metadata.search), parts)
