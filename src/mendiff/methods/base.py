"""What a method is: a config, a training loss, and a prediction."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Generator, Tensor, nn

from mendiff.diffusion.random import PerImageRandom, content_seeds
from mendiff.diffusion.schedule import Kind
from mendiff.errors import LARGEST_SIDE, InputError, check_choice, check_choices, check_count, check_range
from mendiff.nets.codec import PIXEL_KINDS, CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeaturesConfig
from mendiff.nets.modes import deterministic
from mendiff.scoring.readout import Features, Readout, few
from mendiff.synthesis.probes import probes
from mendiff.synthesis.upright import Frame, Pose, orientations_vary, pose_of
from mendiff.types import Detection, Panel, Step, Trace

METHODS: dict[str, str] = {
    "diad": "mendiff.methods.diad:Diad",
    "glad": "mendiff.methods.glad:Glad",
    "ran": "mendiff.methods.ran:Ran",
}
"""Name to "module:Class"; a further method is one file and one line here."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Called anew for every pass: batches of (images (B,3,H,W) in [0,1], seeds (B,))."""
Progress = Callable[[str, int, int, str], None]
"""Called with what is done, how much of it and of how much, and a note."""
Item = TypeVar("Item")
USUAL, FLAWS = "learning what is usual", "looking for flaws"
TIMESTEPS = 1000
"""T of every schedule here."""
Precision = Literal["auto", "float32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor"]
OPTIMIZERS = get_args(Optimizer)
FLAWED, FLAWS_EACH, FLAW_SEED = 60, 6, 0
"""Held-back images with a flaw that choose a read-out: in all, of one image at most; what draws them."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a method is trained, whatever the method.

    Attributes:
        steps: optimiser steps.
        minutes: where training is faster than this, `mendiff fit` lengthens it, to at most four times the
            steps; 0 for never.
        batch_size: images per step.
        accumulate: so many parts of a step's batch pass through the networks one after another, and their
            gradients add up; it must divide batch_size. Memory shrinks with it, time hardly grows.
        checkpointing: compute activations anew in the backward pass instead of keeping them: less memory,
            about a third more time; the gradients are the same.
        precision: of activations in training: "float32", "bf16", "fp16" (CUDA only), or "auto" for bf16 where
            the hardware multiplies it fast; weights and what the optimiser knows stay in float32.
        optimizer: "adamw", which all three methods are published with; "adamw8bit", its moments in 8 bits (a
            quarter of their memory; CUDA and bitsandbytes); or "adafactor", whose second moment is factored
            and which has no first (next to no memory). Its learning rate is relative to the size of a weight
            tensor, so that it wants one some thirty times as high.
        lora_rank: train only an addition of this rank to each matrix of the pretrained networks (LoRA, by
            peft) and add it in when the model is saved; 0 trains the weights themselves.
        cache_gigabytes: memory for what the frozen networks make of a good image, so that it is computed once
            and not at every step: latents of an autoencoder (GLAD, DiAD), features (RAN), or GLAD's
            variants. Images beyond that are computed at every step; 0 computes all. Only for images that
            are the same at every step (no crops).
        learning_rate: of the optimiser.
        weight_decay: of the same.
        warmup: steps of linear warm-up.
        cosine: whether the rate falls to zero along a half cosine; constant otherwise.
        clip: largest gradient norm; 0 for none.
        ema: decay of the exponential moving average of the weights, which becomes the model; 0 for none.
    """

    steps: int = 4000
    minutes: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    precision: Precision = "auto"
    optimizer: Optimizer = "adamw"
    lora_rank: int = 0
    cache_gigabytes: float = 0.0
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    warmup: int = 0
    cosine: bool = False
    clip: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate"):
            check_range(f"training.{name}", getattr(self, name), 1)
        for name in ("minutes", "learning_rate", "weight_decay", "warmup", "clip", "cache_gigabytes"):
            check_range(f"training.{name}", getattr(self, name), 0)
        check_range("training.lora_rank", self.lora_rank, 0)
        check_range("training.ema", self.ema, 0, 1)
        check_choices(self, "training.")


SMALL_TRAINING = TrainingConfig(
    steps=1400, batch_size=16, learning_rate=3e-4, warmup=50, cosine=True, ema=0.995
)
"""How a network of some ten million parameters is trained from scratch, in the presets `small`."""


def unwatched(*_: object) -> None:
    """Where nobody asks for progress."""


def track(items: Iterable[Item], title: str, progress: Progress) -> Iterator[Item]:
    """Pass items on, and tell after each how many were."""
    known = list(items)
    for number, item in enumerate(known, start=1):
        yield item
        progress(title, number, len(known), "")


@dataclass(frozen=True)
class MethodConfig:
    """What every method's config holds.

    Attributes:
        image_size: side of the square images the method sees, in pixels; 0 takes the images' own size when
            fitting.
        crop: side of the random crops it is trained on; 0 trains on whole images.
        training: see TrainingConfig.
        bit_depth: how many bits the values of 16-bit image files really have, 9 to 31; 0 for what the files
            say. Images of 8 bits stay as they are.
        upright: whether the method sees every part turned upright and centred, see mendiff.synthesis.upright:
            "always", "never", or "auto", which the good images decide when a model is fitted.
        RENAMED: dotted names of fields in earlier versions, and what they are called now.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    image_size: int = 256
    crop: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)
    bit_depth: int = 0
    upright: Literal["never", "always", "auto"] = "never"

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("image_size", "crop"):
            check_count(name, getattr(self, name), 0, LARGEST_SIDE)
        if self.bit_depth:
            check_range("bit_depth", self.bit_depth, 9, 31)

    def check_cache(self, reasons: Mapping[str, bool] = MappingProxyType({})) -> None:
        """Refuse a cache of what differs from step to step, or costs nothing.

        Args:
            reasons: further ones of the method, and whether each holds.
        """
        crops = f"crops of {self.crop} pixels are new at every step (--set crop=0)"
        known = {**reasons, crops: self.crop > 0}
        reason = next((one for one, holds in known.items() if holds), None)
        if self.training.cache_gigabytes and reason:
            raise InputError(
                f"training.cache_gigabytes: expected 0, got {self.training.cache_gigabytes:g}, although "
                f"{reason}."
            )


@dataclass(frozen=True)
class DiffusionConfig(MethodConfig):
    """What the configs of GLAD, DiAD and RAN share.

    Attributes:
        schedule: of the noise, "linear" or "scaled_linear" (Stable Diffusion's).
        codec, denoiser, features: see their configs.
        train_timesteps: lowest and highest timestep (exclusive) that is trained.
        min_snr_gamma: of the loss weights; 0 weighs all timesteps equally (published).
        start_timesteps: timesteps that an image is noised to; the maps of several are averaged.
        LATEST_START: the highest of these that the method can take.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "train_t": "train_timesteps",
        "training.cache_latents": "training.cache_gigabytes",
        "readout.places": "readout.position_grid",
    }
    LATEST_START: ClassVar[int] = TIMESTEPS
    schedule: Kind = "scaled_linear"
    codec: CodecConfig = field(default_factory=CodecConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    train_timesteps: tuple[int, ...] = (0, TIMESTEPS)
    min_snr_gamma: float = 0.0
    start_timesteps: tuple[int, ...] = (TIMESTEPS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        trained = self.train_timesteps
        if len(trained) != 2 or not 0 <= trained[0] < trained[1] <= TIMESTEPS:
            raise InputError(
                f"train_timesteps: expected two timesteps, low < high <= {TIMESTEPS}, got {list(trained)}."
            )
        starts, latest = self.start_timesteps, self.LATEST_START
        if not starts or not all(1 <= one <= latest for one in starts):
            raise InputError(f"start_timesteps: expected timesteps from 1 to {latest}, got {list(starts)}.")
        check_range("min_snr_gamma", self.min_snr_gamma, 0)

    @property
    def uncacheable(self) -> dict[str, bool]:
        """Why latents can't be cached, and whether each reason holds; see check_cache."""
        return {f"{self.codec.kind!r} latents cost nothing": self.codec.kind in PIXEL_KINDS}


class Method(nn.Module, ABC):
    """One paper: everything between a batch of images and a Detection.

    Constructors build networks with fresh weights and never download, read files or choose a device.

    Attributes:
        Config: the method's config class.
        PRESETS: named configs.
        NETWORKS: attributes with its large networks, of which prediction uses one at a time; None where a
            config leaves one out.
        STATISTICS: attributes with what `fit_statistics` learns of good images. All other state is trained,
            or was given before training, and stays what it is for as long as the networks do.
        INFINITE: names of the state that may hold infinity; anywhere else it is a damage.
        SEARCHED: fields of the config that `mendiff tune` may choose, in this order, with their candidates.
        DEMO: what `mendiff demo` changes in the preset `tiny`, so that it takes a few minutes.
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
        """The mean loss of good images, (B,3,H,W) in [0,1] to a scalar.

        Args:
            image: a batch, or the part of one that this process sees.
            rng: the only randomness, a stream per image: a batch gives the same gradients however it is
                shared out over processes.
        """

    def rehearse_training(self, image: Tensor) -> Tensor:
        """What training_loss computes, without what depends on pixel values: shapes are enough to run it.

        Memory is planned with it on tensors that hold no numbers, (B,3,H,W) to a scalar. Methods whose
        training_loss looks at values override it.
        """
        seeds: Any = range(len(image))  # plain numbers: a tensor of seeds would have none here
        return self.training_loss(image, PerImageRandom(seeds))

    def rehearse_prediction(self, image: Tensor) -> None:
        """The same for predict, (B,3,H,W); steps that only repeat earlier ones may be left out."""
        seeds: Any = range(len(image))
        self.predict(image, seeds)

    @property
    def adapted(self) -> list[nn.Module]:
        """The networks that come pretrained and may be fine-tuned by an addition of low rank (LoRA)."""
        return []

    @property
    def searched(self) -> Mapping[str, Sequence[Any]]:
        """Those of SEARCHED that make a difference to it."""
        return self.SEARCHED

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Its NETWORKS by name, those that it has."""
        return {name: part for name in self.NETWORKS if (part := getattr(self, name)) is not None}

    def is_learned(self, name: str) -> bool:
        """Whether a name of its state belongs to its STATISTICS."""
        return name.partition(".")[0] in self.STATISTICS

    @deterministic
    def frame(self, image: Tensor) -> Frame:
        """Images as the method is to see them, (B,3,H,W) in [0,1], and the way back."""
        return Frame(image, turn=self.config.upright == "always")

    def framed(self, batches: Batches) -> Batches:
        """The same of batches, for what is learned of good images."""
        return lambda: ((self.frame(image).image, seeds) for image, seeds in batches())

    def decide_upright(self, images: Iterable[Tensor]) -> None:
        """Let good images say whether parts are to be set upright, where the config leaves it to them."""
        if self.config.upright != "auto":
            return
        poses = [pose_of(image) for image in images]
        joined = (torch.cat([getattr(one, name) for one in poses]) for name in ("angle", "centre", "clear"))
        turn = bool(poses) and orientations_vary(Pose(*joined))
        self.config = replace(self.config, upright="always" if turn else "never")

    def find(self, image: Tensor, seeds: Tensor) -> Detection:
        """What `predict` finds in the images' frame, as the images themselves lie; arguments as for it."""
        frame = self.frame(image)
        return frame.undo(self.predict(frame.image, seeds))

    @abstractmethod
    def predict(self, image: Tensor, seeds: Tensor) -> Detection:
        """Find anomalies, (B,3,H,W) in [0,1]; seeds (B,) int64 fix each image's noise."""

    @deterministic
    def explain(self, image: Tensor, seeds: Tensor) -> Tensor:
        """What a good part would have looked like, (B,3,H,W) in [0,1], at any cost; arguments as for predict.

        The reconstruction of `predict`, unless a method has a better one that its scores don't need.
        """
        return self.predict(image, seeds).reconstruction

    @deterministic
    def trace(self, image: Tensor, seeds: Tensor) -> Trace:
        """How it comes to its finding on one image, (1,3,H,W) in [0,1], at any cost; seeds (1,).

        The finding is that of `predict`, number for number; pictures of the way there are the method's own.
        """
        return Trace(self.predict(image, seeds), [])

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories that it tells apart; its training_loss then takes their numbers, too."""
        return ()

    def choose_category(self, name: str) -> None:
        """Judge images as parts of one category from now on; changes nothing where all are judged alike."""

    def prepare(self, seen: Batches) -> None:
        """Learn what must be known of the training images before the first step, such as scales.

        Args:
            seen: some of the images that will be trained on.
        """

    def fit_statistics(
        self, held_back: Batches, seen: Batches | None = None, progress: Progress = unwatched
    ) -> None:
        """Learn what good images look like to the trained method.

        Args:
            held_back: images that it was not trained on: what scales and thresholds come from.
            seen: images that it was trained on, for fits that need many examples; held-back ones must not
                serve for these, or they would look better than any image to come. Without `seen` they do.
            progress: told of what takes long.
        """

    @property
    def size_multiple(self) -> int:
        """Image height and width must divide by this."""
        return 1


def find_method(name: str, where: str = "method") -> type[Method]:
    """The method class of a name in METHODS; `where` is for messages: what holds the name."""
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
    """The sentence for a preset that a method has not: those there are, a set's categories as one."""
    sets = {one.rpartition("/")[0] for one in presets if one.count("/") > 1}
    asked = next((one for one in sets if f"{preset}/".startswith(f"{one}/")), None)
    if asked:
        listed = [one.rpartition("/")[2] for one in presets if one.startswith(f"{asked}/")]
        return f"preset: expected {asked}/ and one of {', '.join(listed)} for {name}, got {preset!r}."
    folded = [f"{parent}/NAME" if (parent := one.rpartition("/")[0]) in sets else one for one in presets]
    last = preset.rpartition("/")[2]
    close = [one for one in presets if one.endswith(f"/{last}")] or difflib.get_close_matches(preset, presets)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"preset: expected one of {', '.join(dict.fromkeys(folded))} for {name}, got {preset!r}{hint}"


def check_single(image: Tensor) -> None:
    """Refuse to trace several images at once: each has a way of its own."""
    if len(image) != 1:
        raise InputError(f"trace: expected one image, got {len(image)}.")


def estimate_panels(
    steps: Sequence[Step], decode: Callable[[Tensor], Tensor], run: str = "", *, noised: bool = False
) -> list[Panel]:
    """The clean estimates on one image's walk down its ladder, a panel per step.

    Args:
        steps: of the walk, as they were followed, one row each.
        decode: latents to pictures in [0,1].
        run: what the names of the stages begin with.
        noised: whether the noisy start is shown, too.
    """
    panels = []
    for number, step in enumerate(steps):
        t = int(step.t[0])
        stage = f"{run}t = {t}"
        if noised and number == 0:
            panels.append(Panel(stage, "noised input", decode(step.x_t)[0], t))
        panels.append(Panel(stage, "estimate", decode(step.estimate.x0)[0], t))
    return panels


def describe_parameters(method: Method) -> dict[str, Any]:
    """Counts for people: {"trained": ..., "frozen": ...} parameters."""
    trained = sum(one.numel() for one in method.parameters() if one.requires_grad)
    return {"trained": trained, "frozen": sum(one.numel() for one in method.parameters()) - trained}


def random_crops(image: Tensor, side: int, multiple: int, rng: Generator) -> Tensor:
    """Cut a random square out of every image, (B,3,H,W) to (B,3,side,side); images no larger stay whole.

    Args:
        image: a batch.
        side: of the square in pixels; 0 for no crop.
        multiple: corners lie on this grid, so that a crop sees the same pixel blocks as the whole image.
        rng: CPU generator.
    """
    height, width = image.shape[-2:]
    if side == 0 or (height <= side and width <= side):
        return image
    down = torch.randint((height - side) // multiple + 1, (len(image),), generator=rng) * multiple
    right = torch.randint((width - side) // multiple + 1, (len(image),), generator=rng) * multiple
    corners = zip(image, down.tolist(), right.tolist(), strict=True)
    return torch.stack([one[:, y : y + side, x : x + side] for one, y, x in corners])


def fit_to_mended(
    readout: Readout,
    features: Features,
    mend: Callable[[Tensor, Tensor], list[Tensor]],
    held_back: Batches,
    seen: Batches | None = None,
    progress: Progress = unwatched,
) -> None:
    """Fit a read-out, if it has anything to learn, to good images and what a method makes of them.

    Args:
        readout: changed in place.
        features: see Readout.anomaly_map.
        mend: from (images, seeds) to the reconstruction of every run.
        held_back: images that the method was not trained on.
        seen: images that it was trained on; the first ones are mended, if the read-out learns from that; all
            are known to a memory bank.
        progress: told how many batches are mended.
    """
    if not readout.learns:
        return
    # The read-out passes over them more than once; mending them is the dear part.
    some = list(few(seen)()) if seen and readout.learns_of_seen else []
    whole = [*held_back(), *some]
    mended = [(image, mend(image, seeds)) for image, seeds in track(whole, USUAL, progress)]
    kept, known = mended[: len(mended) - len(some)], mended[len(mended) - len(some) :]
    images = (lambda: (image for image, _ in seen())) if seen else None
    readout.fit(lambda: kept, features, (lambda: known) if known else None, images)
    if len(readout.config.bank_shares) > 1:
        size = len(kept[0][0])
        good = torch.cat([image for image, _ in kept])
        flawed, masks = probes(
            good.cpu(), min(FLAWED, FLAWS_EACH * len(good)), Generator("cpu").manual_seed(FLAW_SEED)
        )
        batches = track(flawed.to(good).split(size), FLAWS, progress)
        marred = [(batch, mend(batch, content_seeds(batch))) for batch in batches]
        readout.choose_bank_share(lambda: kept, lambda: marred, masks, features)
