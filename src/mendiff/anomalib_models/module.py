"""What all methods share as anomalib models: training, calibration at its end, evaluation and storage."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from anomalib import LearningType
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Max
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from mendiff.anomalib_models.held_back import HeldBack
from mendiff.anomalib_models.images import Textures
from mendiff.anomalib_models.processing import Detector, GoodOnlyPostProcessor, ResizeOnly
from mendiff.anomalib_models.sharding import unshard, whole_weights
from mendiff.calibration import Calibration
from mendiff.checkpoints.bundled import fill, resolved
from mendiff.checkpoints.files import sha256_of
from mendiff.checkpoints.pretrained import Sources, extractors_of, find_pretrained, load_pretrained
from mendiff.checkpoints.provenance import Fitted, this_machine, with_fitted
from mendiff.checkpoints.store import save as save_model
from mendiff.checkpoints.weights import read_weights
from mendiff.diffusion.random import PerImageRandom
from mendiff.errors import DivergedError, InputError
from mendiff.methods.base import (
    Method,
    MethodConfig,
    Progress,
    find_method,
    find_preset,
    random_crops,
    unwatched,
)
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.model import Model, calibrate
from mendiff.training.codec_stage import CodecStage, fit_codec
from mendiff.training.lora import add_lora, merge_lora
from mendiff.training.optimizers import learning_rate, make_optimizer
from mendiff.training.random import seed_of

DEFAULT_SIZE = 256
"""Side of the images, in pixels, where the config leaves it to the images."""


class MethodModule(HeldBack):
    """All of an anomalib model, for any method; a class per method adds AnomalibModule as its second base.

    Some good images (15 %, at least 4, at most 64) are held back from training; which ones depends on their
    content alone. At the end of training the averaged weights become the model's, and statistics, scores and
    thresholds come from the held-back images. A batch of held-back images alone counts as a step that changes
    no weight.

    Args:
        config: the method's; an image_size of 0 stands for 256 here.
        preset: which of the method's named configs, where no config is given.
        features_weights: safetensors file with the weights of config.features' backbone.
        seed: of the initial weights and of training; the global random state is not touched.
        pre_processor, post_processor, evaluator, visualizer: see AnomalibModule.

    Attributes:
        config: the method's.
        seed: of the initial weights and of training.
        calibration: scores of the held-back images; None until training has ended.
        held_back: content seeds of the held-back images.
        codec_stage: where the stage that fits the codec keeps its checkpoint, and whom it tells.
        progress: told of what takes long after training.
        files: SHA-256 of the files that weights were read from, by part; what is fitted says so.
        fitted: what it was fitted on and with; None until training has ended.
        calibrates: whether training ends with calibration; a caller may see to it instead.
    """

    _method_name: ClassVar[str]
    calibrates: bool = True

    def __init__(
        self,
        config: MethodConfig | None = None,
        preset: str = "tiny",
        features_weights: str | None = None,
        seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        plan = self._plan(config, preset)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor((plan.image_size, plan.image_size))
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self._build(plan, features_weights, seed)

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
        self.files: dict[str, str] = {}
        self.fitted: Fitted | None = None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            method = find_method(self._method_name)(resolved(config))
        fill(method, config)
        if features_weights is not None:
            features: Any = getattr(method, "features", None)
            if not hasattr(features, "load_backbone"):
                raise InputError(
                    "features_weights: expected a config whose features.name says which backbone they are of."
                )
            features.load_backbone(read_weights(features_weights), str(features_weights))
            self.files["features"] = sha256_of(features_weights)
        networks: Iterable[Any] = method.modules() if config.training.checkpointing else ()
        for network in networks:
            if getattr(network, "_supports_gradient_checkpointing", False):
                network.enable_gradient_checkpointing()
        self.config, self.seed = method.config, seed
        self.model = Detector(method)
        self.calibration: Calibration | None = None
        self.held_back: list[int] = []
        self._held_back_at: list[int] = []  # where in the data set
        self._seen_at: list[int] = []
        self._trained_at: list[int] = []
        self._held_back_names: dict[str, bool] = {}
        self._data = ("", 0)
        self._average: dict[str, Tensor] = {}
        self._finished = self._adapted = False
        self.codec_stage = CodecStage()
        self.progress: Progress = unwatched
        self._codec_fitted = False
        # Plain data, so that checkpoints load with weights_only; they hold the backbone's weights themselves.
        self.hparams.update(config=config_to_dict(self.config), features_weights=None)

    def load_pretrained(
        self, source: str, features_weights: str | None = None, prompt: str | None = None
    ) -> list[str]:
        """Fill the networks of a paper's preset before training; returns what came from where, a line each.

        Args:
            source: Stable Diffusion v1 as a folder in diffusers' layout, a single file, or a hub id.
            features_weights: safetensors file of the backbone; None takes timm's own from the hub.
            prompt: safetensors file of prompt embeddings; None takes Stable Diffusion's text encoder.
        """
        said, features = (None if name is None else Path(name) for name in (prompt, features_weights))
        sources = Sources(source, said, features)
        lines = load_pretrained(self.method, sources)
        found = find_pretrained(sources, extractors_of(self.method))
        self.files |= {part: sha256_of(file) for part, file in found.items()}
        return lines

    def use_textures(self, folder: str | Path) -> None:
        """Cut half of training's synthetic anomalies from the pictures in a folder, such as DTD's.

        The other half stays shuffles of the image itself, as all are without textures.
        """
        method: Any = self.method
        if not hasattr(method, "textures") or not getattr(self.config, "hint_anomalies", 1):
            raise InputError(
                "textures: expected a method that trains on synthetic anomalies (glad, or diad with "
                f"hint_anomalies above 0), got {self._method_name}."
            )
        method.textures = Textures(folder, self.config.image_size)

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

    def configure_model(self) -> None:
        """Prepare for LoRA, after pretrained weights are loaded and before a checkpoint is."""
        if self.config.training.lora_rank and not self._adapted:
            add_lora(self.method, self.config.training.lora_rank, self.seed)
            self._adapted = True

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.method.named_parameters() if one.requires_grad}

    @property
    def _sharded(self) -> FullyShardedDataParallel | None:
        """What holds the weights' shards under FSDP."""
        root = self._trainer and self._trainer.strategy.model
        return root if isinstance(root, FullyShardedDataParallel) else None

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Weights as they are without FSDP, for what calls the networks outside of a training step."""
        strategy = self.trainer.strategy
        kind = strategy.root_device.type
        with torch.inference_mode(False), torch.autocast(kind, enabled=False), whole_weights(strategy.model):
            yield

    def gather(self) -> None:
        """Put whole weights where a training with FSDP left shards."""
        if self._sharded is not None:
            unshard(self._sharded, self.method)

    def configure_optimizers(self) -> Any:
        plan = self.config.training
        optimizer = make_optimizer(plan, self._trained().values())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, plan))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.config.training.clip if gradient_clip_val is None else gradient_clip_val
        if self._sharded is None:
            self.clip_gradients(optimizer, clip, gradient_clip_algorithm)
        elif clip:
            self._sharded.clip_grad_norm_(clip)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        rows = (~self._is_held_back(batch)).nonzero().flatten()
        image = batch.image.as_subclass(Tensor)[rows]
        if len(image) == 0:
            # None makes Lightning skip the step; but several processes would wait for this one's gradients.
            alone = self.trainer.world_size == 1
            return None if alone else torch.stack([one.sum() * 0 for one in self._trained().values()]).sum()
        image = self.method.frame(image).image
        rng = self._streams(rows, len(batch.image), batch_idx)
        cut = partial(random_crops, side=self.config.crop, multiple=self.method.size_multiple)
        pairs = zip(image.split(1), rng.generators, strict=True)
        image = torch.cat([cut(one, rng=own) for one, own in pairs])
        told = {"categories": self._numbers(batch)[rows]} if self.method.categories else {}
        loss = self.method.training_loss(image, rng, **told)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(image))
        return loss

    def _numbers(self, batch: Any) -> Tensor:
        """The numbers of the images' categories among the method's, (B,)."""
        known, found = self.method.categories, getattr(batch, "category", None)
        if not found or not set(found) <= set(known):
            raise InputError(
                f"categories: expected batches whose images are each of one of {', '.join(known)}, as "
                f"mendiff.anomalib_models.Categories gives them, got {found or 'none'}."
            )
        return torch.tensor([known.index(name) for name in found], device=batch.image.device)

    def _streams(self, rows: Tensor, count: int, batch_idx: int) -> PerImageRandom:
        """Random numbers of some rows of a batch of `count`, by seed, step and place in the whole batch.

        A step's whole batch passes through in parts, and every part is dealt out to the processes in turn, so
        that one process and several draw the same for the same image.
        """
        part = batch_idx % self.trainer.accumulate_grad_batches
        places = (part * count + rows) * self.trainer.world_size + self.global_rank
        seeds = [seed_of(self.seed, self.global_step, place) for place in places.tolist()]
        return PerImageRandom(torch.tensor(seeds))

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
        with self._whole():
            self._decide_upright()
            self._fit_codec()
            self.method.prepare(self.method.framed(self._seen_batches))
        before, self._average = self._average, {}
        for name, one in self._trained().items() if self.config.training.ema else ():
            self._average[name] = before.get(name, one).detach().to(one.device, copy=True)

    def _decide_upright(self) -> None:
        """Let the good images say whether parts are to be set upright; see MethodConfig.upright."""
        self.method.decide_upright(image for image, _ in self._trained_batches())
        self.config = self.method.config
        self.hparams.update(config=config_to_dict(self.config))

    def _fit_codec(self) -> None:
        """Let the codec learn the good images first, where the config says so; see CodecFitConfig."""
        config: Any = getattr(self.config, "codec", None)
        if config is None or not config.fit.images or self._codec_fitted:
            return
        shown = self.method.framed(self._trained_batches)()
        seen = [(image * 255).round().to(torch.uint8).cpu() for image, _ in shown]
        method: Any = self.method
        synthesis = getattr(self.config, "synthesis", None)
        fit_codec(method.codec, config, torch.cat(seen), self.seed, self.codec_stage, synthesis)
        method.codec.load_state_dict(self.trainer.strategy.broadcast(method.codec.state_dict()))
        self._codec_fitted = True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.global_step >= self.config.training.steps:  # a finished training was resumed
            self.trainer.should_stop = True
            return -1
        if self._finished:  # go on from the weights before averaging, as if training had not stopped
            self._swap()
            self._finished, self.calibration, self.fitted = False, None, None
        return None

    def on_train_batch_end(self, *args: Any) -> None:
        # Without max_steps Lightning would go on for 1000 epochs, far beyond the learning rate's schedule.
        if self.global_step >= self.config.training.steps:
            self.trainer.should_stop = True

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
        with torch.no_grad(), self._whole():
            self._swap()
            self._finished = True
            self.check_weights()
            self.fitted = self._describe_fit()
            if self.calibrates:
                self._calibrate()

    def check_weights(self) -> None:
        """End a training whose weights are no numbers any more."""
        if not all(bool(one.isfinite().all()) for one in self._trained().values()):
            raise DivergedError("training")

    def _describe_fit(self) -> Fitted:
        data, images = self._data
        return Fitted(
            held_back=tuple(sorted(self.held_back)),
            data=data,
            images=images,
            seed=self.seed,
            steps=self.global_step,
            image_size=self.config.image_size,
            files=dict(self.files),
            machine=this_machine(str(self.trainer.strategy.root_device)),
        )

    def _calibrate(self) -> None:
        was_training = self.method.training
        self.calibration = calibrate(self.method, self._held_back_batches, self._seen_batches, self.progress)
        self.method.train(was_training)
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
            "fitted": self.fitted and config_to_dict(self.fitted),
            "files": self.files,
            "codec_fitted": self._codec_fitted,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint["mendiff"]
        self.held_back, self._average, self._finished = ours["held_back"], ours["average"], ours["finished"]
        self.calibration = Calibration.from_dict(ours["calibration"]) if ours["calibration"] else None
        fitted = ours.get("fitted")  # checkpoints of earlier versions have neither
        self.fitted = None if fitted is None else config_from_dict(Fitted, fitted, "checkpoint: fitted")
        self.files = dict(ours.get("files", {}))
        self._codec_fitted = bool(ours.get("codec_fitted", False))
        with whole_weights(self._sharded):
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

    def as_model(self, info: dict[str, Any] | None = None) -> Model:
        """What is fitted, as `mendiff.load` would give it; info is what a person wants to know later."""
        if self.calibration is None:
            raise InputError("model: expected a fitted one to save; call Engine().fit(model, data) first.")
        method = self.method
        if self._adapted:
            method = copy.deepcopy(method)
            merge_lora(method)
        known = info or {}
        if self.fitted is not None:
            known = with_fitted(known, self.fitted)
        return Model(self._method_name, method, self.calibration, known)

    def to_onnx(self, *args: Any, **options: Any) -> Any:
        """Refuse in one sentence what torch.export would refuse in many."""
        raise _no_export("ONNX")

    def to_openvino(self, *args: Any, **options: Any) -> Any:
        """Refuse in one sentence what torch.export would refuse in many."""
        raise _no_export("OPENVINO")

    def save(self, folder: str | Path, info: dict[str, Any] | None = None) -> None:
        """Write the model folder that `mendiff.load` opens.

        Args:
            folder: where to; must not exist.
            info: what a person wants to know later; JSON-able.
        """
        model = self.as_model(info)
        save_model(folder, model.name, model.method, model.calibration, model.info)


def _no_export(kind: str) -> InputError:
    return InputError(
        f"export: expected ExportType.TORCH, got {kind}, which is not supported yet: an image's noise is "
        "drawn by its own pixels, which a traced graph can't follow; export with ExportType.TORCH, or use "
        "mendiff.load on a folder that save() wrote."
    )
