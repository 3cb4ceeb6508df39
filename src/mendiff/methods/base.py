"""Interface and registry of the methods."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mendiff.diffusion.random import PerImageRandom, PredictionNoise
from mendiff.errors import InputError, check_choice
from mendiff.methods.base_config import MethodConfig as MethodConfig
from mendiff.methods.base_config import TrainingConfig as TrainingConfig
from mendiff.nets.modes import deterministic
from mendiff.synthesis.upright import Frame, Pose, orientations_vary, pose_of
from mendiff.types import Detection, Trace

METHODS: dict[str, str] = {
    "diad": "mendiff.methods.diad:Diad",
    "glad": "mendiff.methods.glad:Glad",
    "ran": "mendiff.methods.ran:Ran",
}
"""Name to "module:Class"."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Returns a new iterator of (images (B,3,H,W) in [0,1], seeds (B,))."""
Progress = Callable[[str, int, int, str], None]
"""Called with title, number done, total number, note."""
Item = TypeVar("Item")
Scores = list[tuple[float, float]]
"""(image score, highest map value) of every image."""


def no_progress(*_: object) -> None:
    """A Progress callback that does nothing."""


def track(items: Iterable[Item], title: str, progress: Progress) -> Iterator[Item]:
    """Yield items and report progress after each."""
    listed = list(items)
    for number, item in enumerate(listed, start=1):
        yield item
        progress(title, number, len(listed), "")


class Method(nn.Module, ABC):
    """A method: training loss, statistics and prediction.

    Constructors initialise networks randomly. They do not download, read files or select a device.

    Attributes:
        Config: config class of the method.
        PRESETS: named configs.
        NETWORKS: attributes with the large networks, which prediction uses one at a time; the value is None
            where a config has no such network.
        STATISTICS: attributes with the state that `fit_statistics` computes. All other state is trained or
            set before training, and changes only with the networks.
        INFINITE: names of state that may contain infinity; elsewhere infinity means corruption.
        SEARCHED: config fields that `mendiff tune` may set, in this order, with their candidates.
        DEMO: changes of the preset `tiny` for `mendiff demo`, which should take a few minutes.
    """

    Config: ClassVar[type[MethodConfig]]
    PRESETS: ClassVar[Mapping[str, MethodConfig]]
    NETWORKS: ClassVar[tuple[str, ...]] = ()
    STATISTICS: ClassVar[tuple[str, ...]] = ()
    INFINITE: ClassVar[tuple[str, ...]] = ()
    SEARCHED: ClassVar[Mapping[str, Sequence[Any]]] = {}
    DEMO: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: MethodConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def training_loss(self, image: Tensor, rng: PerImageRandom) -> Tensor:
        """Mean loss of good images, (B,3,H,W) in [0,1] to a scalar.

        Args:
            image: a batch, or this process's part of a batch.
            rng: the only source of randomness, a stream per image, so that gradients do not depend on the
                distribution of a batch over processes.
        """

    def rehearse_training(self, image: Tensor) -> Tensor:
        """Run training_loss on fake tensors (FakeTensorMode) to estimate memory, (B,3,H,W) to a scalar.

        Methods whose training_loss depends on pixel values override it.
        """
        seeds: Any = range(len(image))  # integers: a tensor of seeds would be fake
        return self.training_loss(image, PerImageRandom(seeds))

    def rehearse_prediction(self, image: Tensor) -> None:
        """Run predict on fake tensors, (B,3,H,W); repeated steps may be omitted."""
        seeds: Any = range(len(image))
        self.predict(image, seeds)

    @property
    def adapted(self) -> list[nn.Module]:
        """Pretrained networks that LoRA may fine-tune."""
        return []

    @property
    def searched(self) -> Mapping[str, Sequence[Any]]:
        """The entries of SEARCHED that have an effect in this config."""
        return self.SEARCHED

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The existing NETWORKS by name."""
        return {name: part for name in self.NETWORKS if (part := getattr(self, name)) is not None}

    def is_statistic(self, name: str) -> bool:
        """Whether a state-dict name belongs to STATISTICS."""
        return name.partition(".")[0] in self.STATISTICS

    @deterministic
    def frame(self, image: Tensor) -> Frame:
        """Images as the method processes them, (B,3,H,W) in [0,1], and the inverse transform."""
        return Frame(image, turn=self.config.upright == "always")

    def framed(self, batches: Batches) -> Batches:
        """Batches with `frame` applied to the images."""
        return lambda: ((self.frame(image).image, seeds) for image, seeds in batches())

    def decide_upright(self, images: Iterable[Tensor]) -> None:
        """Resolve `upright="auto"` from good images: rotate parts if their orientations vary."""
        if self.config.upright != "auto":
            return
        poses = [pose_of(image) for image in images]
        joined = (torch.cat([getattr(pose, name) for pose in poses]) for name in ("angle", "centre", "clear"))
        rotate = bool(poses) and orientations_vary(Pose(*joined))
        self.config = replace(self.config, upright="always" if rotate else "never")

    def find(self, image: Tensor, seeds: Tensor) -> Detection:
        """Apply `frame`, `predict` and the inverse transform; arguments as for predict."""
        frame = self.frame(image)
        return frame.undo(self.predict(frame.image, seeds))

    def find_all(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Detection]:
        """Apply `find` to batches (image, seeds) in order; see `predict_all`."""
        frames: deque[Frame] = deque()

        def framed() -> Iterator[tuple[Tensor, Tensor]]:
            for image, seeds in batches:
                frames.append(self.frame(image))
                yield frames[-1].image, seeds

        for found in self.predict_all(framed()):
            yield frames.popleft().undo(found)

    @property
    def batches_in_flight(self) -> int:
        """Number of batches at a time that `predict_all` needs to keep batches full."""
        return 1

    def predict_all(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Detection]:
        """Apply `predict` to batches (image, seeds) in order.

        Methods whose images take different numbers of steps may work on several batches at once.
        """
        for image, seeds in batches:
            with torch.no_grad():
                found = self.predict(image, seeds)
            yield found

    @abstractmethod
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Detect anomalies, (B,3,H,W) in [0,1]; seeds (B,) int64 determine the noise of each image."""

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the noise of an image: the number of draws, followed by the shape of the latents.

        A method that predicts by `detect(image, noise)`, which uses no other randomness, can be exported.
        """
        raise NotImplementedError(f"{type(self).__name__} has no noise_shape and no detect")

    def noise(self, image: Tensor, seeds: Tensor) -> Tensor:
        """The noise of a prediction, (B, *noise_shape); images (B,3,H,W), seeds (B,)."""
        shape = self.noise_shape(image.shape[-2], image.shape[-1])
        return PredictionNoise(seeds).like(image.new_empty(image.shape[0], *shape))

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """Image scores of anomaly maps as `predict` computes them, (B,1,H,W) to (B,): the highest values.

        For maps that are joined from tiles or cut to the inspected part of an image. Methods whose score is
        not the highest value override it.

        Args:
            anomaly_map: of any size; pixels that are not inspected have the lowest value of the map.
            pixels: number of inspected pixels, at most those of an input; a score that averages a share of
                the pixels takes the share of these.
        """
        return anomaly_map.flatten(1).amax(1)

    @deterministic
    def explain(self, image: Tensor, seeds: Tensor) -> Tensor:
        """The best reconstruction without defects, (B,3,H,W) in [0,1]; arguments as for predict.

        It may be slower than `predict`, whose reconstruction is the default.
        """
        return self.predict(image, seeds).reconstruction

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """The result of `predict` and intermediate results, for an image (1,3,H,W) in [0,1]; seeds (1,).

        It may be slower than `predict`.
        """
        return Trace(self.predict(image, seeds), [])

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of categories with their own condition; training_loss then also takes category indices."""
        return ()

    def choose_category(self, name: str) -> None:
        """Set the category of the following images; no effect in a method without categories."""

    def prepare(self, seen: Batches) -> None:
        """Compute statistics of training images before the first step, such as scales.

        Args:
            seen: some of the training images.
        """

    def fit_statistics(
        self,
        held_back: Batches,
        seen: Batches | None = None,
        progress: Progress = no_progress,
        *,
        leave_out: bool = True,
    ) -> Scores:
        """Compute statistics of good images with the trained method.

        Returns scores of the first training images, each with statistics without this image; none if the
        method can't leave an image out, or without `leave_out`.

        Args:
            held_back: images that were not used for training, for scales and thresholds.
            seen: training images, for statistics of many images. Held-back images used for these would score
                lower than future images; they are used only if `seen` is None.
            progress: progress callback.
            leave_out: whether to compute these scores.
        """
        return []

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this."""
        return 1


def find_method(name: str, where: str = "method") -> type[Method]:
    """The method class of a name in METHODS; `where` names the source of the name in messages."""
    check_choice(where, name, sorted(METHODS))
    module, _, attribute = METHODS[name].partition(":")
    method: type[Method] = getattr(import_module(module), attribute)
    return method


def find_preset(name: str, preset: str) -> MethodConfig:
    """The config of a method's preset, such as "tiny", "paper" or "paper/mvtec/cable"."""
    presets = find_method(name).PRESETS
    if preset not in presets:
        raise InputError(_no_preset(name, preset, list(presets)))
    return presets[preset]


def _no_preset(name: str, preset: str, presets: list[str]) -> str:
    """Message for an unknown preset; the categories of a data set are abbreviated."""
    sets = {known.rpartition("/")[0] for known in presets if known.count("/") > 1}
    prefix = next((known for known in sets if f"{preset}/".startswith(f"{known}/")), None)
    if prefix:
        listed = [known.rpartition("/")[2] for known in presets if known.startswith(f"{prefix}/")]
        return f"preset: expected {prefix}/ and one of {', '.join(listed)} for {name}, got {preset!r}."
    folded = [
        f"{parent}/NAME" if (parent := known.rpartition("/")[0]) in sets else known for known in presets
    ]
    last = preset.rpartition("/")[2]
    same = [known for known in presets if known.endswith(f"/{last}")]
    close = same or difflib.get_close_matches(preset, presets)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"preset: expected one of {', '.join(dict.fromkeys(folded))} for {name}, got {preset!r}{hint}"


def describe_parameters(method: Method) -> dict[str, Any]:
    """Numbers of parameters: {"trained": ..., "frozen": ...}."""
    trained = sum(weight.numel() for weight in method.parameters() if weight.requires_grad)
    return {"trained": trained, "frozen": sum(weight.numel() for weight in method.parameters()) - trained}
