"""The methods as anomalib models, and the training that `mendiff fit` runs through anomalib's Engine.

    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from mendiff import Glad

    model, data = Glad(), MVTecAD(category="tile")
    Engine().fit(model, data)        # trains config.training.steps steps, then calibrates
    Engine().test(model, data)
    model.save("tile-model")         # what `mendiff.load` opens

Importing this module imports anomalib and Lightning, which takes seconds; nothing else here does.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from lightning.pytorch import Callback
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import Resize

from mendiff.calibration import Calibration
from mendiff.checkpoints.store import read_weights
from mendiff.checkpoints.store import save as save_model
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.images import Picture, read_image, resize
from mendiff.methods.base import Method, MethodConfig, TrainingConfig, find_method, find_preset, random_crops
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.methods.glad import GladConfig

with warnings.catch_warnings():  # some of anomalib's own models warn while they are imported
    warnings.simplefilter("ignore", FutureWarning)
    from anomalib import LearningType
    from anomalib.data import Batch, ImageBatch, ImageItem, InferenceBatch
    from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Max
    from anomalib.models.components.base import AnomalibModule
    from anomalib.post_processing import PostProcessor
    from anomalib.pre_processing import PreProcessor
    from anomalib.visualization import Visualizer

# anomalib finds only models that have AnomalibModule among their own bases: what they share is a mixin.
if TYPE_CHECKING:
    _Host = AnomalibModule
else:
    _Host = object

DEFAULT_SIZE = 256
"""Side of the images, in pixels, where the config leaves it to the images."""
FEWEST_IMAGES = 8
CACHE_BYTES = 2**30
CHECKPOINT = "last.ckpt"
CHECKPOINT_SECONDS = 30.0


class ResizeOnly(PreProcessor):
    """Resizes with antialiasing, also in exported models, where anomalib's own switches it off."""

    def __init__(self, transform: Resize) -> None:
        super().__init__(transform)
        self.export_transform = self.transform

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        super().load_checkpoint_config(config)
        self.export_transform = self.transform


class GoodOnlyPostProcessor(PostProcessor):
    """Thresholds from good images alone; scores go to (0,1), strictly monotone, 0.5 at the threshold.

    anomalib's own takes its threshold from validation labels, which most of its data modules share with the
    test set, and clamps, which makes ties before the metrics see the scores. Raw scores are no way out:
    torchmetrics puts a sigmoid on every batch that leaves [0,1]. Until it is calibrated it passes scores on
    as they are, without labels.
    """

    def calibrate(self, calibration: Calibration) -> None:
        """Take over thresholds and scales; they are buffers and travel in checkpoints and exports.

        `image_min` and `image_max` become one scale below and above the threshold, likewise for pixels; the
        scale is the distance from the mean good score to the threshold.
        """
        image = ("image", calibration.scores, calibration.threshold)
        pixel = ("pixel", calibration.pixel_scores, calibration.pixel_threshold)
        for kind, scores, threshold in (image, pixel):
            scale = max(threshold - fmean(scores), 1e-3 * abs(threshold), 1e-12)
            getattr(self, f"_{kind}_threshold").fill_(threshold)
            getattr(self, f"{kind}_min").fill_(threshold - scale)
            getattr(self, f"{kind}_max").fill_(threshold + scale)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.post_process_batch(outputs)

    @staticmethod
    def _normalize(
        preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor
    ) -> Tensor | None:
        if preds is None:
            return None
        # asinh first: its tail still tells scores apart in float32 where an arc tangent's is flat.
        wide = torch.float32 if preds.device.type == "mps" else torch.float64
        above = torch.asinh((preds.to(wide) - threshold) / ((norm_max.to(wide) - norm_min) / 2))
        return (0.5 + 0.5 * above / (1 + above.abs())).to(preds.dtype)

    def post_process_batch(self, batch: Batch) -> None:
        if not torch.isnan(self.image_threshold):
            super().post_process_batch(batch)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        return predictions if torch.isnan(self.image_threshold) else super().forward(predictions)


class _Detector(nn.Module):
    """What anomalib calls with a batch: (B,3,H,W) in [0,1] to raw scores (B,) and maps (B,1,H,W)."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    @torch.no_grad()
    def forward(self, image: Tensor) -> InferenceBatch:
        image = image.as_subclass(Tensor).float()  # batches carry torchvision's own tensor class
        # A score must not depend on the trainer's precision.
        with torch.autocast(image.device.type, enabled=False):
            found = self.method.predict(image, content_seeds(image))
        return InferenceBatch(pred_score=found.score, anomaly_map=found.anomaly_map)


class _MethodModule(_Host):
    """All of an anomalib model but its constructor, for any method.

    Some good images (15 %, at least 4, at most 64) are held back from training; which ones depends on their
    content alone. At the end of training the averaged weights become the model's, and statistics, scores and
    thresholds come from the held-back images. A batch of held-back images alone counts as a step that changes
    no weight.

    Attributes:
        config: the method's.
        seed: of the initial weights and of training.
        calibration: scores of the held-back images; None until training has ended.
        held_back: content seeds of the held-back images.
    """

    _method_name: ClassVar[str]

    @classmethod
    def _plan(cls, config: MethodConfig | Mapping[str, Any] | None, preset: str) -> Any:
        """The full config: a preset's where none is given; plain data where it comes from a checkpoint."""
        kind = find_method(cls._method_name).Config
        if config is None:
            config = find_preset(cls._method_name, preset)
        elif isinstance(config, Mapping):
            config = config_from_dict(kind, config)
        elif not isinstance(config, kind):
            raise InputError(f"config: expected a {kind.__name__}, got a {type(config).__name__}.")
        return config if config.image_size else replace(config, image_size=DEFAULT_SIZE)

    def _build(self, config: MethodConfig, features_weights: str | None, seed: int) -> None:
        """Make the method; to be called after anomalib's constructor."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            method = find_method(self._method_name)(config)
        if features_weights is not None:
            features: Any = getattr(method, "features", None)
            if not hasattr(features, "load_backbone"):
                raise InputError(
                    "features_weights: expected a config whose features.name says which backbone they are of."
                )
            features.load_backbone(read_weights(features_weights), str(features_weights))
        self.config, self.seed = config, seed
        self.model = _Detector(method)
        self.calibration: Calibration | None = None
        self.held_back: list[int] = []
        self._held_back_at: list[int] = []  # where in the data set
        self._held_back_names: dict[str, bool] = {}
        self._average: dict[str, Tensor] = {}
        self._finished = False
        # Plain data, so that checkpoints load with weights_only; they hold the backbone's weights themselves.
        self.hparams.update(config=config_to_dict(config), features_weights=None)

    @property
    def method(self) -> Method:
        """What is trained."""
        return cast(Method, self.model.method)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {"num_sanity_val_steps": 0}  # overrides what the user gives to Engine: no more than this

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    def configure_post_processor(self) -> PostProcessor:
        return GoodOnlyPostProcessor()

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        return ResizeOnly(Resize(image_size or (DEFAULT_SIZE, DEFAULT_SIZE), antialias=True))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        image: Any = {"fields": ["pred_score", "gt_label"], "prefix": "image_"}
        pixel: Any = {"fields": ["anomaly_map", "gt_mask"], "prefix": "pixel_", "strict": False}
        metrics: Any = [AUROC(**image), AUPR(**image), F1Max(**image), AUROC(**pixel), AUPRO(**pixel)]
        return Evaluator(test_metrics=metrics)

    # Training.

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.method.named_parameters() if one.requires_grad}

    def configure_optimizers(self) -> Any:
        plan = self.config.training
        optimizer = torch.optim.AdamW(
            self._trained().values(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, plan))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.config.training.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, clip, gradient_clip_algorithm)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        image = batch.image.as_subclass(Tensor)[~self._is_held_back(batch)]
        if len(image) == 0:
            # None makes Lightning skip the step; but several processes would wait for this one's gradients.
            alone = self.trainer.world_size == 1
            return None if alone else torch.stack([one.sum() * 0 for one in self._trained().values()]).sum()
        rng = _generator(self.seed, self.global_step, self.global_rank, batch_idx)
        image = random_crops(image, self.config.crop, self.method.size_multiple, rng)
        loss = self.method.training_loss(image, rng)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(image))
        return loss

    def _is_held_back(self, batch: Any) -> Tensor:
        """Which images of a batch, (B,) bool: by name where all are known, by content otherwise."""
        names = [str(path) for path in batch.image_path or []]
        if names and all(name in self._held_back_names for name in names):
            held_back = [self._held_back_names[name] for name in names]
        else:
            seeds = content_seeds(batch.image.as_subclass(Tensor)).tolist()
            held_back = [seed in self.held_back for seed in seeds]
        return torch.tensor(held_back, device=batch.image.device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self._average:
            # The first averages would be mostly initial weights: the decay grows with the steps.
            decay = min(self.config.training.ema, (1 + self.global_step) / (10 + self.global_step))
            trained = [one.detach() for one in self._trained().values()]
            torch._foreach_lerp_(list(self._average.values()), trained, 1 - decay)

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__getitem__"):
            raise InputError("train_dataloaders: expected one DataLoader of a data set with numbered images.")
        self.hold_back(self._identities(loader))
        before, self._average = self._average, {}
        for name, one in self._trained().items() if self.config.training.ema else ():
            self._average[name] = before.get(name, one).detach().to(one.device, copy=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.global_step >= self.config.training.steps:  # a finished training was resumed
            self.trainer.should_stop = True
            return -1
        if self._finished:  # go on from the weights before averaging, as if training had not stopped
            self._swap()
            self._finished, self.calibration = False, None
        return None

    def on_train_batch_end(self, *args: Any) -> None:
        # Without max_steps Lightning would go on for 1000 epochs, far beyond the learning rate's schedule.
        if self.global_step >= self.config.training.steps:
            self.trainer.should_stop = True

    # Held-back images.

    def hold_back(self, identities: Sequence[tuple[int, str | None]]) -> None:
        """Choose the held-back images; those of an earlier fit stay held back.

        Args:
            identities: (content seed, name) of every training image, in the data set's order.
        """
        seeds = [seed for seed, _ in identities]
        kept = sorted(set(seeds) & set(self.held_back))
        self.held_back = kept if len(kept) >= FEWEST_IMAGES // 2 else _choose(seeds)
        self._held_back_at = [seeds.index(seed) for seed in self.held_back]
        self._held_back_names = {name: seed in self.held_back for seed, name in identities if name}

    def _identities(self, loader: DataLoader) -> Sequence[tuple[int, str | None]]:
        if isinstance(loader.dataset, GoodImages):
            return loader.dataset.identities
        with torch.random.fork_rng(devices=[]):  # reading may draw random numbers
            torch.default_generator.manual_seed(self.seed)
            options: Any = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
            singly = DataLoader(loader.dataset, generator=_generator(self.seed), **options)
            return [(int(content_seeds(self._resize(one))), (one.image_path or [None])[0]) for one in singly]

    def _resize(self, batch: Any) -> Tensor:
        """The images of a batch as training_step would see them."""
        image = batch.image.to(self.device)
        transform = getattr(self.pre_processor, "transform", None)
        return (transform(image) if transform else image).as_subclass(Tensor)

    def _good_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-back images in a fixed order: (images (B,3,H,W) on the device, seeds (B,))."""
        loader: Any = self.trainer.train_dataloader
        count = min(8, self.config.training.batch_size)
        for first in range(0, len(self._held_back_at), count):
            places = self._held_back_at[first : first + count]
            with torch.random.fork_rng(devices=[]):  # reading may draw random numbers, alike in every pass
                torch.default_generator.manual_seed(self.seed)
                items = [loader.collate_fn([loader.dataset[place]]) for place in places]
            image = torch.cat([self._resize(item) for item in items])
            yield image, content_seeds(image)

    # The end of training. Lightning writes the last checkpoint right after one of these two hooks.

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "fit":
            self._finish_if_last()

    def on_train_epoch_end(self) -> None:
        self._finish_if_last()

    def _finish_if_last(self) -> None:
        trainer = self.trainer
        by_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        epochs = trainer.max_epochs
        by_epochs = epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs and trainer.is_last_batch
        if self._finished or not (by_steps or by_epochs or trainer.should_stop):
            return
        # Not as inference tensors, which could not be trained further.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self._swap()
            self._finished = True
            self._calibrate()

    def _calibrate(self) -> None:
        was_training = self.method.training
        self.method.eval()
        self.method.fit_statistics(self._good_batches)
        scores, pixel_scores = [], []
        for image, seeds in self._good_batches():
            found = self.method.predict(image, seeds)
            scores += found.score.tolist()
            pixel_scores += found.anomaly_map.flatten(1).amax(1).tolist()
        self.method.train(was_training)
        self.calibration = Calibration(tuple(scores), tuple(pixel_scores))
        if isinstance(self.post_processor, GoodOnlyPostProcessor):
            self.post_processor.calibrate(self.calibration)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange trained and averaged weights."""
        for name, one in self._trained().items():
            if name in self._average:
                trained = one.clone()
                one.copy_(self._average[name])
                self._average[name].copy_(trained)

    # Evaluation and storage.

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        ours = self.post_processor is None or isinstance(self.post_processor, GoodOnlyPostProcessor)
        unused = self.evaluator is None or not self.evaluator.val_metrics
        if self.trainer.state.fn == "fit" and ours and unused:
            return batch  # nobody would look at these predictions, which cost more than training does
        return batch.update(**self.model(batch.image)._asdict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["mendiff"] = {
            "held_back": self.held_back,
            "average": self._average,
            "finished": self._finished,
            "calibration": self.calibration and self.calibration.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint["mendiff"]
        self.held_back, self._average, self._finished = ours["held_back"], ours["average"], ours["finished"]
        self.calibration = Calibration.from_dict(ours["calibration"]) if ours["calibration"] else None
        own, stored = self.state_dict(), checkpoint["state_dict"]
        for name in stored:
            if name.startswith("model.") and (name not in own or own[name].shape != stored[name].shape):
                raise InputError(
                    f"checkpoint: expected one of this model's config, but its {name!r} differs."
                )
        # Metrics keep settings in their state; this object may have other metrics or none.
        state = {name: value for name, value in stored.items() if not name.startswith("evaluator.")}
        state |= {name: value for name, value in own.items() if name.startswith("evaluator.")}
        checkpoint["state_dict"] = state

    def save(self, folder: str | Path, info: dict[str, Any] | None = None) -> None:
        """Write the model folder that `mendiff.load` opens.

        Args:
            folder: where to; must not exist.
            info: what a person wants to know later; JSON-able.
        """
        if self.calibration is None:
            raise InputError("model: expected a fitted one to save; call Engine().fit(model, data) first.")
        save_model(folder, self._method_name, self.method, self.calibration, info or {})


class Glad(_MethodModule, AnomalibModule):  # type: ignore[misc]  # anomalib's own bases disagree
    """GLAD for anomalib; `get_model("glad")` finds it after `from mendiff import Glad`.

    Args:
        config: see GladConfig; an image_size of 0 stands for 256 here.
        preset: which of the method's named configs, where no config is given.
        features_weights: safetensors file with the weights of config.features' backbone.
        seed: of the initial weights and of training; the global random state is not touched.
        pre_processor, post_processor, evaluator, visualizer: see AnomalibModule.
    """

    _method_name = "glad"
    config: GladConfig

    def __init__(
        self,
        config: GladConfig | None = None,
        preset: str = "tiny",
        features_weights: str | None = None,
        seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        config = self._plan(config, preset)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor((config.image_size, config.image_size))
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self._build(config, features_weights, seed)


class GoodImages(Dataset[ImageItem]):
    """Good pictures, resized to what the model sees and kept in memory while there is room.

    Args:
        pictures: files, or (H,W,3) uint8 arrays.
        size: side in pixels.
        room: bytes to keep images in; the others are read each time.
    """

    def __init__(self, pictures: Sequence[str | Path | Picture], size: int, room: int = CACHE_BYTES) -> None:
        self._pictures, self._size, self._room = pictures, size, room
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ImageItem:
        return ImageItem(image=self.image(index), image_path=self._name(index))

    def image(self, index: int) -> Tensor:
        """One picture, (3,S,S) float32 in [0,1]."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept.float() / 255 if kept.dtype == torch.uint8 else kept
        source = self._pictures[index]
        image = resize(read_image(source) if isinstance(source, str | Path) else source, self._size)
        levels = (image * 255).round().to(torch.uint8)
        # In 8 bits only if they hold it exactly: calibration must see the pixels that prediction will see.
        kept = levels if torch.equal(levels.float() / 255, image) else image
        if kept.nbytes <= self._room:
            self._room -= kept.nbytes
            self._kept[index] = kept
        return image

    @cached_property
    def identities(self) -> Sequence[tuple[int, str | None]]:
        """(content seed, name) of every image."""
        return [(int(content_seeds(self.image(at)[None])), self._name(at)) for at in range(len(self))]

    def _name(self, index: int) -> str:
        source = self._pictures[index]
        return str(source) if isinstance(source, str | Path) else f"picture {index}"


class _StepOrder(Sampler[list[int]]):
    """Which images each step sees: a function of seed and step alone, so that a resumed run goes on alike."""

    def __init__(self, module: _MethodModule, indices: Sequence[int]) -> None:
        self._module, self._indices = module, indices

    def __len__(self) -> int:
        return self._module.config.training.steps

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self._module.global_step, len(self)))

    def batch(self, step: int) -> list[int]:
        """The step's part of an endless row of shuffles."""
        size, count = self._module.config.training.batch_size, len(self._indices)
        places = range(step * size, (step + 1) * size)
        shuffles = {
            epoch: torch.randperm(count, generator=_generator(self._module.seed, epoch)).tolist()
            for epoch in {place // count for place in places}
        }
        return [self._indices[shuffles[place // count][place % count]] for place in places]


class _Watcher(Callback):
    """Tells the progress of training and writes a checkpoint from time to time."""

    def __init__(self, path: Path, progress: Callable[[int, int, float], None] | None) -> None:
        self._path, self._progress, self._saved = path, progress, time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: object) -> None:
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            trainer.save_checkpoint(self._path)
            self._saved = time.monotonic()
        if self._progress is not None:
            loss = math.nan if outputs is None else float(outputs["loss"])
            self._progress(trainer.global_step, trainer.max_steps, loss)


def train(
    module: _MethodModule,
    images: GoodImages,
    *,
    workdir: Path,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train and calibrate a model on good images; the result is in the module.

    Args:
        module: such as Glad.
        images: of the module's image size.
        workdir: for checkpoints, about every half minute.
        device: torch's name of one.
        resume: go on from workdir's checkpoint, if there is one; the result equals that of an unbroken run.
        progress: called after every step with (step, steps, loss).
    """
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.engine import Engine

    place = torch.device(device)
    module.hold_back(images.identities)
    others = [at for at, (seed, _) in enumerate(images.identities) if seed not in module.held_back]
    loader = DataLoader(
        images,
        batch_sampler=_StepOrder(module, others),
        collate_fn=ImageBatch.collate,
        generator=_generator(0),
    )
    path = workdir / CHECKPOINT
    last = ModelCheckpoint(dirpath=workdir, filename=path.stem, enable_version_counter=False)
    engine = Engine(
        callbacks=[last, _Watcher(path, progress)],
        default_root_dir=workdir,
        max_steps=module.config.training.steps,
        accelerator=place.type,
        devices=[place.index or 0] if place.type == "cuda" else 1,
        precision=fast_precision(device),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        engine.fit(module, train_dataloaders=loader, ckpt_path=path if resume and path.is_file() else None)
    except SystemExit as error:  # how Lightning answers Ctrl-C
        raise KeyboardInterrupt from error


def fast_precision(device: str) -> str:
    """Lightning's name of the fastest precision that trains well on a device: "bf16-mixed" or "32-true".

    CPUs without matrix units for bfloat16 emulate it, some a hundred times slower than float32.
    """
    place = torch.device(device)
    if place.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(place)[0] >= 8 else "32-true"
    names = ("_is_amx_tile_supported", "_is_cpu_support_amx_tile")  # torch 2.6 renamed it
    fast = next((getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)), bool)
    return "bf16-mixed" if place.type == "cpu" and fast() else "32-true"


def quiet() -> None:
    """Keep anomalib's and Lightning's messages off the terminal; errors still come through."""
    import anomalib.engine  # noqa: F401 - first: importing it turns Lightning's messages on

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"torch\.optim\.lr_scheduler")


def _choose(seeds: Sequence[int]) -> list[int]:
    """The images to hold back: those with the smallest content seeds, which is as good as drawing lots."""
    distinct = sorted(set(seeds))
    if len(distinct) < FEWEST_IMAGES:
        raise InputError(
            f"images: expected at least {FEWEST_IMAGES} different good ones, got {len(distinct)}; add some."
        )
    return distinct[: min(max(4, round(0.15 * len(distinct))), 64, len(distinct) // 2)]


def _generator(*key: int) -> Generator:
    """A CPU generator of its own for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _rate(plan: TrainingConfig, step: int) -> float:
    """Learning rate at a step, as a share of the configured one."""
    rise = min(1.0, (step + 1) / plan.warmup) if plan.warmup else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * min(step / plan.steps, 1.0)) if plan.cosine else 1.0)
