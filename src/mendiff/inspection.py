"""What a model finds in images, with what is needed to decide and to show it."""

from __future__ import annotations

import html
from base64 import b64encode
from dataclasses import dataclass

import torch
from torch import Tensor

from mendiff.data.images import encode, normalise_heat, overlay, resize, to_picture
from mendiff.data.reading import Picture
from mendiff.types import Detection

SIDE, MOST = 160, 20
"""Of a notebook's table: pixels of a picture's side, and images that are shown at most."""
TITLES = ("score", "image", "anomaly map", "reconstruction")


@dataclass(frozen=True, repr=False)
class Inspection(Detection):
    """A Detection with the images and the threshold; shows itself in a notebook.

    Attributes:
        image: as the model saw them, (B,3,S,S) in [0,1].
        threshold: image score above which a part is called defective.
        heat_range: map values that are drawn in half of the colour scale (the pixel threshold) and without
            colour.
    """

    image: Tensor
    threshold: float
    heat_range: tuple[float, float]

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
        picture = to_picture(resize(self.image[index], SIDE))
        heat = torch.from_numpy(normalise_heat(self.anomaly_map[index].numpy(), *self.heat_range))
        warm = overlay(picture, resize(heat, SIDE)[0].numpy())
        reconstruction = to_picture(resize(self.reconstruction[index], SIDE))
        decision = "defective" if bool(self.defective[index]) else "good"
        text = f"{decision}: {float(self.score[index]):.4g} (threshold {self.threshold:.4g})"
        cells = [html.escape(text), *map(_embedded, (picture, warm, reconstruction))]
        return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _embedded(picture: Picture) -> str:
    """An <img> element that holds a (H,W,3) uint8 picture."""
    data = b64encode(encode(picture, "PNG")).decode()
    return f'<img src="data:image/png;base64,{data}" width="{SIDE}" height="{SIDE}">'
