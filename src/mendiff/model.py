"""A fitted model: a trained method with its calibration, and prediction from images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.calibration import Calibration
from mendiff.data.arrays import as_list, as_picture, in_float32
from mendiff.data.geometry import Geometry, on_canvas
from mendiff.data.inspected import InspectedArea
from mendiff.data.reading import Picture, Reading, read_image
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError, NotFiniteError
from mendiff.inspection import Inspection, inspected, joined, on_cpu, part_of, single, stacked
from mendiff.methods.base import Batches, Method, Progress, no_progress, track
from mendiff.methods.calibrate import calibrate, columns
from mendiff.nets.placement import placed, temporarily_bf16
from mendiff.types import Detection, Trace

Pictures = Any
"""A path of an image or of a folder of images, (H,W,3) or (H,W) array, (H,W,C) array of several lights for a
model of some channels, PIL image, (3,H,W) tensor in [0,1], (B,3,H,W) batch, or a list of these.

Arrays give the same results as files with the same content; see mendiff.data.arrays."""
MOST_TILES = 200
"""Tiles of good images from which statistics are computed."""


@dataclass(repr=False)
class Model:
    """A fitted model, as returned by `mendiff.load` and `mendiff.fit`.

    Attributes:
        name: of the method.
        method: the trained method.
        calibration: scores of good images, with the threshold.
        info: preset, data, seed and duration of the fit.
        device: device of the images, if it differs from that of the weights; see `sparing`.
        source: the folder from which the model was loaded; "" for none.
        category: category of its statistics, if the folder has them per category.
        area: the inspected area of images; None for all of an image.
    """

    name: str
    method: Method
    calibration: Calibration
    info: dict[str, Any]
    device: str = ""
    source: str = ""
    category: str = ""
    area: InspectedArea | None = None

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.image_size} pixels, threshold {self.threshold:.4g} for "
            f"{100 * self.calibration.false_alarm_rate:.3g} % false alarms)"
        )

    @property
    def image_size(self) -> int:
        """Side of the method's square input in pixels; see `geometry` for how images are resized to it."""
        return self.method.config.image_size

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return Reading.of(self.method.config)

    @property
    def geometry(self) -> Geometry:
        """How images are resized and covered by the method's square inputs."""
        return Geometry.of(self.method.config)

    @property
    def plain(self) -> bool:
        """Whether an image is a single input of the method and inspected everywhere."""
        return self.geometry.stretches and self.area is None

    @property
    def threshold(self) -> float:
        """Image score above which a part is called defective, from good images only."""
        return self.calibration.threshold

    def with_false_alarm_rate(self, rate: float) -> Model:
        """The same model with thresholds for another false-alarm rate, in (0,1)."""
        return replace(self, calibration=self.calibration.at_rate(rate))

    def save(self, folder: str | Path) -> None:
        """Write a model folder for `mendiff.load`.

        Separate statistics of categories are copied from the folder from which the model was loaded, with
        thresholds for this model's false-alarm rate.

        Args:
            folder: to write to; must not exist.
        """
        # Imported here because checkpoints imports this module.
        from mendiff.checkpoints.model_folder import categories_of
        from mendiff.checkpoints.store import load, save

        names = categories_of(self.source) if self.source else []
        rate = self.calibration.false_alarm_rate

        def own(name: str | None) -> Model:
            same = name == (self.category or None)
            return self if same else load(self.source, category=name).with_false_alarm_rate(rate)

        shared = own(None) if names else self
        # Generated singly while the folder is written: every model is a copy of the networks.
        categories = ((name, own(name)) for name in names)
        save(folder, self.name, shared.method, shared.calibration, self.info, categories, shared.area)

    def to(self, device: str) -> Model:
        """Move the networks to a device."""
        return self.sparing(device)

    def sparing(self, device: str, *, offload: bool = False, half: bool = False) -> Model:
        """Like `to`, with less memory; for prediction only.

        Args:
            device: where the networks are computed.
            offload: keep weights on the CPU, and each network on the device only while it is used. Needs
                the memory of the largest network and time for transfers; results are the same.
            half: store the weights of layers in bfloat16: half the memory, slightly different scores.
        """
        try:
            placed(self.method, self.method.parts, device, offload=offload, half=half)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"device: expected a device of this machine, got {device!r} ({reason})."
            ) from error
        self.device = device if offload else self.device
        return self

    def in_half(self, wanted: bool = True) -> AbstractContextManager[None]:
        """Context in which networks compute in bfloat16, if the device accelerates it; weights stay."""
        parts = self.method.parts.values() if wanted else ()
        return temporarily_bf16(parts, next(self.method.parameters()).device)

    def predict(self, images: Pictures, batch_size: int = 8, *, explain: bool = False) -> Inspection:
        """Detect anomalies in one or more images; results are on the CPU, a row per image.

        The result of an image does not depend on other images or the batch size.

        Args:
            images: a path, picture, tensor, batch, or list of these (see Pictures). All results are kept in
                memory: for many images, call `stream`, or `mendiff predict`, which writes files.
            batch_size: images per batch.
            explain: compute reconstructions by a slower procedure, where the method has one (RAN: gradient
                denoising, in float64 against accumulated rounding errors).
        """
        listed = as_list(images)
        prepared = [self.prepare(one) for one in listed]
        found = self.inspect(prepared, batch_size, explain=explain)
        return Inspection(
            **{f.name: getattr(found, f.name) for f in fields(Detection)},
            image=on_canvas([one.float() / 255 if one.dtype == torch.uint8 else one for one in prepared]),
            threshold=self.threshold,
            heat_range=self.calibration.heat_range,
            sizes=tuple((one.shape[-2], one.shape[-1]) for one in prepared),
            names=tuple(str(one) if isinstance(one, str | Path) else "" for one in listed),
        )

    def calibrated(
        self, images: Pictures, seen: Pictures | None = None, batch_size: int = 8, category: str = ""
    ) -> Model:
        """The same networks with statistics and thresholds from other good images.

        Args:
            images: at least two good images that are not training images (see Pictures).
            seen: training images; without them `images` are used for everything, and thresholds are
                slightly too low.
            batch_size: images per batch.
            category: of the images, for methods with categories.
        """
        model = calibrated(self.name, self.method, self.info, images, seen, batch_size, category, self.area)
        return model.with_false_alarm_rate(self.calibration.false_alarm_rate)

    def calibration_of(
        self, images: Sequence[Any], batch_size: int = 8, progress: Progress = no_progress
    ) -> Calibration:
        """The scores and the highest map values of good images, at the model's false-alarm rate.

        Args:
            images: pictures of any type (see Pictures), read one after another.
            batch_size: see `rows`.
            progress: called per image.
        """
        found = [
            (float(row.score), float(row.anomaly_map.max()))
            for one in track(images, "scoring good images", progress)
            for row in self.rows([self.prepare(one)], batch_size)
        ]
        return Calibration(*columns(found), self.calibration.false_alarm_rate)

    def stream(self, images: Pictures, batch_size: int = 8, *, explain: bool = False) -> Iterator[Detection]:
        """Like `predict`, but yields a Detection per batch to save memory."""
        images = as_list(images)
        for first in range(0, len(images), batch_size):
            prepared = [self.prepare(one) for one in images[first : first + batch_size]]
            try:
                yield self.inspect(prepared, batch_size, explain=explain)
            except NotFiniteError as error:
                raise NotFiniteError([first + row for row in error.rows]) from error

    def inspect(self, prepared: Sequence[Tensor], batch_size: int = 8, *, explain: bool = False) -> Detection:
        """Detect anomalies in images of `prepare`, each (3,h,w); results are on the CPU, a row per image.

        Maps and reconstructions have the size of their image; those of smaller images are padded with zeros
        at the bottom and at the right. Arguments as for `rows`.
        """
        return stacked(list(self.rows(prepared, batch_size, explain=explain)))

    def rows(
        self, prepared: Sequence[Tensor], batch_size: int = 8, *, explain: bool = False
    ) -> Iterator[Detection]:
        """Like `inspect`, but yields a Detection of one row per image, without padding.

        Args:
            prepared: see `prepare`.
            batch_size: network inputs per batch; an image that is cut into tiles has several.
            explain: see `predict`.
        """
        find = partial(self.predict_batches, explain=explain)
        if not self.plain:
            for row in joined(prepared, self.geometry, find, batch_size):
                height, width = row.anomaly_map.shape[-2:]
                area = None if self.area is None else self.area.at(height, width)
                yield inspected(row, area, self.score, self.image_size)
            return
        starts = range(0, len(prepared), batch_size)
        results = find(torch.stack(list(prepared[first : first + batch_size])) for first in starts)
        for first in starts:
            try:
                yield from single(next(results))
            except NotFiniteError as error:
                raise NotFiniteError([first + row for row in error.rows]) from error

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """Image scores of anomaly maps, see Method.score."""
        return self.method.score(anomaly_map, pixels)

    @torch.no_grad()
    def predict_batch(self, batch: Tensor, *, explain: bool = False) -> Detection:
        """Detect anomalies in network inputs, (B,3,S,S) float32 in [0,1]; results are on the CPU.

        Where images are stretched, these are the images of `prepare`; `inspect` takes those of any model.

        Raises NotFiniteError for NaN or infinite scores and maps, which no threshold would flag.
        """
        return next(self.predict_batches([batch], explain=explain))

    def predict_batches(self, batches: Iterable[Tensor], *, explain: bool = False) -> Iterator[Detection]:
        """`predict_batch` for batches in order; a method may work on images of several batches at once."""
        device = self.device or next(self.method.parameters()).device
        inputs = map(in_float32, batches)
        pairs = ((batch.to(device), content_seeds(batch)) for batch in inputs)
        if not explain:
            yield from map(on_cpu, self.method.find_all(pairs))
            return
        for image, seeds in pairs:
            frame = self.method.frame(image)
            found = frame.undo(self.method.predict(frame.image, seeds))
            shown = self.method.explain(frame.image, seeds)
            yield on_cpu(replace(found, reconstruction=frame.undo_picture(shown)))

    @torch.no_grad()
    def trace(self, image: Any) -> Trace:
        """The intermediate results of `predict` for a single image, on the CPU.

        Of an image that is cut into tiles, they are those of the tile with the highest map value.

        Args:
            image: a picture of any type (see Pictures).
        """
        prepared = self.prepare(image)
        windows, index, whole = self.geometry.windows(prepared), 0, None
        if not self.plain:
            index, whole = part_of(self.inspect([prepared]), windows)
        device = self.device or next(self.method.parameters()).device
        batch = in_float32(windows[index][None])
        frame = self.method.frame(batch.to(device))
        traced = self.method.trace(frame.image, content_seeds(batch))
        panels = [
            replace(one, pixels=windows.cut(frame.undo_panel(one.pixels.float()).cpu()))
            for one in traced.panels
        ]
        return Trace(whole or on_cpu(frame.undo(traced.found)), panels, windows.box(index))

    def read(self, path: str | Path) -> Picture:
        """Read an image file as a (H,W,3) uint8 picture, with the model's bit depth and channels."""
        return read_image(path, self.reading)

    def prepare(self, image: Any) -> Tensor:
        """Resize a picture of any type for `inspect`, (3,h,w) float32 in [0,1]; see Geometry.prepare.

        Raises InputError for a picture of another aspect ratio than the mask of the inspected area.
        """
        picture = as_picture(image, self.reading)
        if self.area is not None:
            tensor = isinstance(picture, Tensor)
            height, width = picture.shape[-2:] if tensor else picture.shape[:2]
            self.area.check(height, width, str(image) if isinstance(image, str | Path) else "the image")
        return self.geometry.prepare(picture)


def calibrated(
    name: str,
    method: Method,
    info: dict[str, Any],
    images: Pictures,
    seen: Pictures | None = None,
    batch_size: int = 8,
    category: str = "",
    area: InspectedArea | None = None,
) -> Model:
    """A model from a copy of a trained method, with statistics and thresholds from good images.

    Args:
        name: of the method.
        method: trained; existing statistics are replaced.
        info: see Model.
        images: good images that are not training images; see Model.calibrated.
        seen: training images.
        batch_size: images per batch.
        category: see Model.calibrated.
        area: see Model.
    """
    method = copy.deepcopy(method)
    if category:
        method.choose_category(category)
    good = as_list(images)
    known = None if seen is None else _batches(method, as_list(seen), batch_size)
    plain = Geometry.of(method.config).stretches and area is None
    calibration = calibrate(method, _batches(method, good, batch_size), known, leave_out=plain)
    model = Model(name, method, calibration, info, category=category, area=area)
    return model if model.plain else replace(model, calibration=model.calibration_of(good, batch_size))


def _batches(method: Method, images: Sequence[Any], batch_size: int) -> Batches:
    """Network inputs of images for statistics."""
    geometry, reading = Geometry.of(method.config), Reading.of(method.config)
    prepared = (geometry.prepare(as_picture(one, reading)) for one in images)
    inputs = geometry.sample(prepared, max(1, MOST_TILES // len(images)))
    device = next(method.parameters()).device
    return lambda: ((batch.to(device), content_seeds(batch)) for batch in inputs.split(batch_size))
