"""What a model finds in images, with what is needed to decide and to show it."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.data.geometry import Blend, Geometry, Windows, on_canvas
from mendiff.data.images import encode, normalise_heat, overlay, resize, to_picture
from mendiff.data.reading import Picture
from mendiff.errors import NotFiniteError
from mendiff.types import Detection

SIDE, MOST, QUALITY = 160, 20, 85
"""Of a notebook's table: pixels of a picture's longer side, images that are shown at most, WebP's quality."""
TITLES = ("score", "image", "anomaly map", "reconstruction")
Find = Callable[[Iterator[Tensor]], Iterator[Detection]]
"""The results for batches of network inputs (N,3,S,S), in order and on the CPU."""
Score = Callable[[Tensor, int], Tensor]
"""Method.score."""


@dataclass(frozen=True, repr=False)
class Inspection(Detection):
    """A Detection with the images and the threshold; shows itself in a notebook.

    Images of different sizes are padded with zeros at the bottom and at the right.

    Attributes:
        image: as the model saw them, (B,3,H,W) in [0,1].
        threshold: image score above which a part is called defective.
        heat_range: map values that are drawn in half of the colour scale (the pixel threshold) and without
            colour.
        sizes: (height, width) of every image and its map.
        names: path of every image, "" for one that was given as pixels.
    """

    image: Tensor
    threshold: float
    heat_range: tuple[float, float]
    sizes: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        flagged = int(self.defective.sum())
        return f"Inspection({len(self.score)} images, {flagged} above the threshold of {self.threshold:.4g})"

    @property
    def defective(self) -> Tensor:
        """Whether each image's score is above the threshold, (B,) bool."""
        return self.score > self.threshold

    def _repr_html_(self) -> str:
        """A table of the first images: score and decision, image, anomaly map, reconstruction."""
        rows = "".join(self._row(index) for index in range(min(len(self.score), MOST)))
        head = "".join(f"<th>{title}</th>" for title in TITLES)
        more = len(self.score) - MOST
        rest = f"<p>{more} more images are not shown.</p>" if more > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"

    def _row(self, index: int) -> str:
        height, width = self.sizes[index]
        shown = Geometry(SIDE, letterbox=True).size(height, width)

        def thumbnail(values: Tensor) -> Tensor:
            return resize(values[index, :, :height, :width], shown)

        heat = normalise_heat(self.anomaly_map[index, :, :height, :width].numpy(), *self.heat_range)
        picture = to_picture(thumbnail(self.image))
        warm = overlay(picture, resize(torch.from_numpy(heat), shown)[0].numpy())
        reconstruction = to_picture(thumbnail(self.reconstruction))
        decision = "defective" if bool(self.defective[index]) else "good"
        text = f"{decision}: {float(self.score[index]):.4g} (threshold {self.threshold:.4g})"
        name = f"{self.names[index]}: " if any(self.names[index : index + 1]) else ""
        cells = "".join(f"<td>{_embedded(one)}</td>" for one in (picture, warm, reconstruction))
        return f'<tr><td style="overflow-wrap:anywhere">{html.escape(name + text)}</td>{cells}</tr>'


def _embedded(picture: Picture) -> str:
    """An <img> element that holds a (H,W,3) uint8 picture."""
    data = b64encode(encode(picture, "WebP", quality=QUALITY)).decode()
    return f'<img src="data:image/webp;base64,{data}" width="{picture.shape[1]}" height="{picture.shape[0]}">'


def joined(images: Sequence[Tensor], geometry: Geometry, find: Find, batch_size: int) -> Iterator[Detection]:
    """The results of whole images from those of the windows that cover them, a Detection of one row each.

    Maps and reconstructions are blended and without padding. The score and the stop step are the highest of
    the windows.

    Args:
        images: of working size, (3,h,w).
        geometry: covers them.
        find: raises NotFiniteError for its rows.
        batch_size: windows per batch, which may be of several images.
    """
    covers = [geometry.windows(image) for image in images]
    places = [(at, index) for at, cover in enumerate(covers) for index in range(len(cover))]
    batches = [places[first : first + batch_size] for first in range(0, len(places), batch_size)]
    results = find(torch.stack([covers[at][index] for at, index in batch]) for batch in batches)
    parts: dict[int, _Parts] = {}
    for batch in batches:
        try:
            found = next(results)
        except NotFiniteError as error:
            raise NotFiniteError(sorted({batch[row][0] for row in error.rows})) from error
        for row, (at, index) in enumerate(batch):
            one = parts.setdefault(at, _Parts(covers[at]))
            one.add(index, found, row)
            if index == len(covers[at]) - 1:
                yield parts.pop(at).joined()


class _Parts:
    """Results of the windows of an image."""

    def __init__(self, windows: Windows) -> None:
        self._map, self._picture = Blend(windows), Blend(windows)
        self._score, self._stop = -math.inf, 0

    def add(self, index: int, found: Detection, row: int) -> None:
        """Add a row of a result for the window of an index."""
        self._map.add(index, found.anomaly_map[row])
        self._picture.add(index, found.reconstruction[row])
        self._score = max(self._score, float(found.score[row]))
        self._stop = max(self._stop, int(found.stop_step[row]))

    def joined(self) -> Detection:
        """The result of the image."""
        maps, pictures = self._map.result()[None], self._picture.result()[None]
        return Detection(torch.tensor([self._score]), maps, pictures, torch.tensor([self._stop]))


def inspected(found: Detection, area: Tensor | None, score: Score, side: int) -> Detection:
    """The result of a whole image with the score of its map, and without findings outside of an area.

    Args:
        found: one row, for an image of working size (h,w).
        area: where the image is inspected, (1,h,w) bool; None for everywhere.
        score: of the method.
        side: of the network's input.
    """
    anomaly_map, pixels = found.anomaly_map, found.anomaly_map.numel()
    lowest = anomaly_map.min()
    if area is not None:
        lowest, pixels = anomaly_map[0][area].min(), int(area.sum())
        anomaly_map = torch.where(area, anomaly_map, lowest)
    height, width = anomaly_map.shape[-2:]
    missing = (0, max(0, side - width), 0, max(0, side - height))  # scores may pool over a part of an input
    scored = F.pad(anomaly_map, missing, value=float(lowest)) if any(missing) else anomaly_map
    if area is not None:
        # Maps may be negative: then 0 would count as a finding.
        anomaly_map = torch.where(area, anomaly_map, lowest.clamp(max=0))
    return replace(found, score=score(scored, min(pixels, side**2)), anomaly_map=anomaly_map)


def single(found: Detection) -> Iterator[Detection]:
    """The rows of a result, each as a result of one row."""
    for row in range(len(found.score)):
        yield Detection(*(getattr(found, field.name)[row : row + 1] for field in fields(Detection)))


def part_of(whole: Detection, windows: Windows) -> tuple[int, Detection]:
    """The window with the highest value of a whole image's map, and the result without what is outside of it.

    Args:
        whole: one row.
        windows: of the image.
    """
    width = windows.size[1]
    at = divmod(int(whole.anomaly_map.argmax()), width)
    index = windows.around(at)
    top, left, bottom, right = windows.box(index)
    place = (slice(None), slice(None), slice(top, bottom), slice(left, right))
    return index, replace(
        whole, anomaly_map=whole.anomaly_map[place], reconstruction=whole.reconstruction[place]
    )


def stacked(found: Sequence[Detection]) -> Detection:
    """The rows of several results; maps and pictures of different sizes are padded with zeros."""
    columns = {}
    for field in fields(Detection):
        rows = [row for one in found for row in getattr(one, field.name)]
        columns[field.name] = on_canvas(rows) if rows[0].ndim else torch.stack(rows)
    return Detection(**columns)


def on_cpu(found: Detection) -> Detection:
    """Move results to the CPU; NotFiniteError for rows with NaN or infinity."""
    columns = {f.name: getattr(found, f.name).cpu() for f in fields(Detection)}
    whole = [
        one.reshape(len(one), -1).isfinite().all(1) for one in columns.values() if one.is_floating_point()
    ]
    lost = (~torch.stack(whole).all(0)).nonzero().flatten().tolist()
    if lost:
        raise NotFiniteError(lost)
    return Detection(**columns)
