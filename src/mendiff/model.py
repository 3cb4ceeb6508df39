"""A fitted model: a method, what it knows about good parts, and the way from pictures to findings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mendiff.calibration import MINIMUM, Calibration
from mendiff.data.arrays import checked_tensor, in_float32, picture_of
from mendiff.data.images import resize
from mendiff.data.reading import Picture, read_image, to_rgb
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError, NotFiniteError
from mendiff.inspection import Inspection
from mendiff.methods.base import Batches, Method, Progress, track, unwatched
from mendiff.nets.placement import Offload, multiplies_bf16, store_bf16, temporarily_bf16
from mendiff.scoring.readout import few
from mendiff.synthesis.upright import Frame
from mendiff.types import Detection, Trace

Pictures = Any
"""A path, (H,W,3) or (H,W) array, PIL image, (3,H,W) tensor in [0,1], (B,3,H,W) batch, or a list of these.

Arrays are taken as files of the same content are; see mendiff.data.arrays."""


@dataclass
class Model:
    """What `mendiff.load` returns.

    Attributes:
        name: of the method.
        method: trained.
        calibration: scores of good images; has the threshold.
        info: how the model came about.
        device: where images go, where this is not where the networks lie; see `sparing`.
        source: the folder that it was loaded from, if any.
        category: whose statistics it has, where that folder holds them for every category.
    """

    name: str
    method: Method
    calibration: Calibration
    info: dict[str, Any]
    device: str = ""
    source: str = ""
    category: str = ""

    @property
    def image_size(self) -> int:
        """Side of the square images that the method sees; others are resized to it."""
        return self.method.config.image_size

    @property
    def threshold(self) -> float:
        """Image score above which a part is called defective, from good images alone."""
        return self.calibration.threshold

    def with_false_alarm_rate(self, rate: float) -> Model:
        """The same model with thresholds that are meant to flag this share of good parts, in (0,1)."""
        return replace(self, calibration=replace(self.calibration, false_alarm_rate=rate))

    def save(self, folder: str | Path) -> None:
        """Write the model folder that `mendiff.load` opens.

        Categories with statistics of their own are taken over from the folder that the model was loaded from;
        all thresholds then are for this model's false-alarm rate.

        Args:
            folder: where to; must not exist.
        """
        # Imported here, as checkpoints looks down on models.
        from mendiff.checkpoints.store import categories_of, load, save

        names = categories_of(self.source) if self.source else []
        rate = self.calibration.false_alarm_rate

        def own(name: str | None) -> Model:
            same = name == (self.category or None)
            return self if same else load(self.source, category=name).with_false_alarm_rate(rate)

        shared = own(None) if names else self
        # One by one while the folder is written: every one is a copy of the networks.
        save(
            folder,
            self.name,
            shared.method,
            shared.calibration,
            self.info,
            ((one, own(one)) for one in names),
        )

    def to(self, device: str) -> Model:
        """Move the networks to a device."""
        try:
            self.method.to(device)
        except (RuntimeError, AssertionError) as error:
            raise _no_device(device, error) from error
        return self

    def sparing(self, device: str, *, offload: bool = False, half: bool = False) -> Model:
        """Like `to`, in less memory; for prediction only.

        Args:
            device: where the networks work.
            offload: keep the networks on the CPU, each on the device only while it is used: memory of the
                largest alone, the time of moving them, and the same results.
            half: keep the weights of layers in bfloat16: half the memory. Scores differ a little from those
                that the threshold was learned from.
        """
        try:
            place = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise _no_device(device, error) from error
        parts = self.method.parts
        for part in parts.values() if half else ():
            store_bf16(part, place, fast=multiplies_bf16(place))
        if not offload:
            return self.to(device)
        for one in self.method.children():
            if not any(one is part for part in parts.values()):
                one.to(device)
        for name, buffer in self.method.named_buffers(recurse=False):
            setattr(self.method, name, buffer.to(device))
        Offload(parts, place)
        self.device = device
        return self

    def in_half(self, wanted: bool = True) -> AbstractContextManager[None]:
        """Compute in bfloat16 inside, where the device is fast at that, with the weights as they are."""
        parts = self.method.parts.values() if wanted else ()
        return temporarily_bf16(parts, next(self.method.parameters()).device)

    def predict(self, images: Pictures, batch_size: int = 8, *, explain: bool = False) -> Inspection:
        """Find anomalies in one or more images; results lie on the CPU, one row per image.

        An image's result depends on that image alone, not on its neighbours or the batch size.

        Args:
            images: a path, picture, tensor, batch, or list of these (see Pictures).
            batch_size: images that pass through the networks together.
            explain: take more time for the reconstruction, where the method can (RAN: gradient denoising, in
                float64, so that rounding can't grow to grey levels).
        """
        prepared = [self.prepare(one) for one in as_list(images)]
        parts = list(self.stream(prepared, batch_size, explain=explain))
        columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Detection)}
        heat_range = self.calibration.heat_range
        return Inspection(
            **columns, image=torch.stack(prepared), threshold=self.threshold, heat_range=heat_range
        )

    def calibrated(
        self, images: Pictures, seen: Pictures | None = None, batch_size: int = 8, category: str = ""
    ) -> Model:
        """The same networks with statistics and thresholds learned anew, for one kind of part.

        Args:
            images: good ones that the networks were not trained on, at least two (see Pictures).
            seen: good ones that they were trained on; without them `images` serve for everything, and
                thresholds come out a little low.
            batch_size: images that pass through the networks together.
            category: of the part, where the method tells several apart.
        """
        made = calibrated(self.name, self.method, self.info, images, seen, batch_size, category)
        return made.with_false_alarm_rate(self.calibration.false_alarm_rate)

    def stream(
        self, images: Sequence[Any], batch_size: int = 8, *, explain: bool = False
    ) -> Iterator[Detection]:
        """Like predict, batch by batch, so that memory stays small."""
        for first in range(0, len(images), batch_size):
            batch = torch.stack([self.prepare(one) for one in images[first : first + batch_size]])
            try:
                yield self.predict_batch(batch, explain=explain)
            except NotFiniteError as error:
                raise NotFiniteError([first + row for row in error.rows]) from error

    @torch.no_grad()
    def predict_batch(self, batch: Tensor, *, explain: bool = False) -> Detection:
        """Find anomalies in prepared images, (B,3,S,S) float32 in [0,1], back on the CPU.

        Raises NotFiniteError for scores and maps that are no numbers: none of them would exceed a threshold.
        """
        device = self.device or next(self.method.parameters()).device
        batch = in_float32(batch)
        image, seeds = batch.to(device), content_seeds(batch)
        frame = self.method.frame(image)
        found = frame.undo(self.method.predict(frame.image, seeds))
        if explain:
            shown = self.method.explain(frame.image, seeds)
            found = replace(found, reconstruction=frame.undo_picture(shown))
        return _on_cpu(found)

    @torch.no_grad()
    def trace(self, image: Any) -> Trace:
        """How the method comes to its finding on one picture, on the CPU; the finding is that of `predict`.

        Args:
            image: a picture of any kind (see Pictures).
        """
        device = self.device or next(self.method.parameters()).device
        batch = in_float32(self.prepare(image)[None])
        frame = self.method.frame(batch.to(device))
        traced = self.method.trace(frame.image, content_seeds(batch))
        panels = [replace(one, pixels=_as_it_lies(one.pixels.float(), frame).cpu()) for one in traced.panels]
        return Trace(_on_cpu(frame.undo(traced.found)), panels)

    def read(self, path: str | Path) -> Picture:
        """An image file as the (H,W,3) uint8 picture that `prepare` would make of it."""
        return read_image(path, self.method.config.bit_depth)

    def prepare(self, image: Any) -> Tensor:
        """One picture of any kind as the (3,S,S) float32 tensor in [0,1] that the method sees."""
        return prepare(image, self.image_size, self.method.config.bit_depth)


def _as_it_lies(pixels: Tensor, frame: Frame) -> Tensor:
    """A picture (3,h,w), or a map (1,h,w), of a way to a finding, as the image lies that was given."""
    if len(pixels) == 1:
        return frame.undo_map(pixels[None])[0]
    same = pixels.shape[-2:] == frame.image.shape[-2:]
    return frame.undo_picture(pixels[None])[0] if same else frame.undo_map(pixels[None])[0]


def _on_cpu(found: Detection) -> Detection:
    """The same on the CPU; raises NotFiniteError for rows that hold no numbers."""
    columns = {f.name: getattr(found, f.name).cpu() for f in fields(Detection)}
    whole = [
        one.reshape(len(one), -1).isfinite().all(1) for one in columns.values() if one.is_floating_point()
    ]
    lost = (~torch.stack(whole).all(0)).nonzero().flatten().tolist()
    if lost:
        raise NotFiniteError(lost)
    return Detection(**columns)


def _no_device(device: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0]
    return InputError(f"device: expected one that this machine has, got {device!r} ({reason}).")


def calibrated(
    name: str,
    method: Method,
    info: dict[str, Any],
    images: Pictures,
    seen: Pictures | None = None,
    batch_size: int = 8,
    category: str = "",
) -> Model:
    """A model from a copy of a trained method, with statistics and thresholds from good images.

    Args:
        name: of the method.
        method: trained; whether it has statistics already makes no difference.
        info: how it came about.
        images: good ones that it was not trained on; see Model.calibrated.
        seen: good ones that it was trained on.
        batch_size: images that pass through the networks together.
        category: see Model.calibrated.
    """
    method = copy.deepcopy(method)
    if category:
        method.choose_category(category)
    known = None if seen is None else _batches(method, seen, batch_size)
    calibration = calibrate(method, _batches(method, images, batch_size), known)
    return Model(name, method, calibration, info, category=category)


def _batches(method: Method, images: Pictures, batch_size: int) -> Batches:
    prepared = torch.stack(
        [prepare(one, method.config.image_size, method.config.bit_depth) for one in as_list(images)]
    )
    device = next(method.parameters()).device
    return lambda: ((batch.to(device), content_seeds(batch)) for batch in prepared.split(batch_size))


def prepare(image: Any, size: int, bit_depth: int = 0) -> Tensor:
    """One picture of any kind (see Pictures) as a (3,size,size) float32 tensor in [0,1].

    Args:
        image: of any size.
        size: side in pixels.
        bit_depth: see read_image.
    """
    if isinstance(image, str | Path):
        return resize(read_image(image, bit_depth), size)
    if isinstance(image, Tensor):
        return resize(checked_tensor(image), size)
    picture = (
        to_rgb(image, "image", bit_depth) if isinstance(image, Image.Image) else picture_of(image, bit_depth)
    )
    return resize(picture, size)


@torch.no_grad()
def calibrate(
    method: Method, held_back: Batches, seen: Batches | None = None, progress: Progress = unwatched
) -> Calibration:
    """Teach a trained method what good images look like to it, and collect the scores of held-back ones.

    Where a single one was held back, the scores of seen images join it: one score makes no threshold.

    Args:
        method: changed in place.
        held_back: see Method.fit_statistics.
        seen: see Method.fit_statistics.
        progress: see there.
    """
    method.eval()
    method.fit_statistics(method.framed(held_back), method.framed(seen) if seen else None, progress)
    found = _scores(method, lambda: track(held_back(), "scoring held-back images", progress))
    if len(found) >= MINIMUM or seen is None:
        return Calibration(*_columns(found))
    more = _scores(method, few(seen))
    return Calibration(*_columns([*found, *more]), seen=len(more))


def _scores(method: Method, batches: Batches) -> list[tuple[float, float]]:
    """The score and the highest map value of every image."""
    found = (method.find(image, seeds) for image, seeds in batches())
    return [
        pair
        for one in found
        for pair in zip(one.score.tolist(), one.anomaly_map.flatten(1).amax(1).tolist(), strict=True)
    ]


def _columns(found: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(score for score, _ in found), tuple(peak for _, peak in found)


def as_list(images: Pictures) -> list[Any]:
    """One or more pictures of any kind as a list of single ones; none is an error."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    listed = list(images) if isinstance(images, list | tuple) else [images]
    if not listed:
        raise InputError("images: expected at least one image, got none.")
    return listed
