"""Base of the anomalib models of all methods: training, calibration, evaluation, storage."""

from __future__ import annotations

from collections.abc import Mapping
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
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from mendiff.anomalib_models.categories import category_numbers
from mendiff.anomalib_models.held_back import HeldBack
from mendiff.anomalib_models.images import check_geometry, give_textures
from mendiff.anomalib_models.processing import Detector, GoodOnlyPostProcessor, ResizeOnly
from mendiff.anomalib_models.storage import Stored
from mendiff.calibration import Calibration
from mendiff.checkpoints.provenance import Fitted, this_machine
from mendiff.diffusion.random import PerImageRandom
from mendiff.errors import DivergedError, InputError
from mendiff.methods.base import Method, MethodConfig, Progress, find_method, find_preset, no_progress
from mendiff.methods.calibrate import calibrate
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.training.average import Average
from mendiff.training.build import fill_pretrained, make_method
from mendiff.training.codec_stage import CodecStage, fit_own_codec
from mendiff.training.lora import add_lora
from mendiff.training.optimizers import learning_rate, make_optimizer
from mendiff.training.split import Split
from mendiff.training.step import method_loss, streams

DEFAULT_SIZE = 256
"""Image side in pixels for configs with image_size=0."""


class MethodModule(HeldBack, Stored):
    """An anomalib model of any method; a class per method adds AnomalibModule as its second base.

    15 % of the good images (at least 4, at most 64) are held back from training, selected by their content.
    At the end of training, the averaged weights become the model's weights, and statistics, scores and
    thresholds are computed from the held-back images. A batch with only held-back images counts as a step
    without a weight update.

    Args:
        config: of the method; image_size=0 means 256 here.
        preset: name of a config of the method, used without `config`.
        features_weights: safetensors file with the weights of config.features' backbone.
        seed: of the initial weights and of training; the global random state is not changed.
        pre_processor, post_processor, evaluator, visualizer: see AnomalibModule.

    Attributes:
        config: of the method.
        seed: of the initial weights and of training.
        calibration: scores of the held-back images; None before the end of training.
        held_back: content seeds of the held-back images.
        split: indices of held-back and training images.
        average: moving average of the weights.
        codec_stage: checkpoint and progress of the stage that fits the codec.
        progress: receives the progress of calibration.
        files: SHA-256 of the files with weights, by part.
        fitted: provenance of the fit; None before the end of training.
        calibrates: whether training ends with calibration.
        leaves_out: whether training images are scored for thresholds; see calibrate.
    """

    _method_name: ClassVar[str]
    calibrates: bool = True
    leaves_out: bool = True

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
        """The full config, from a preset, a config, or the dict of a checkpoint."""
        kind = find_method(cls._method_name).Config
        if config is None:
            config = find_preset(cls._method_name, preset)
        elif isinstance(config, Mapping):
            config = config_from_dict(kind, config)
        elif not isinstance(config, kind):
            raise InputError(f"config: expected a {kind.__name__}, got a {type(config).__name__}.")
        return config if config.image_size else replace(config, image_size=DEFAULT_SIZE)

    def _build(self, config: MethodConfig, features_weights: str | None, seed: int) -> None:
        method, self.files = make_method(self._method_name, config, seed, features_weights)
        self.config, self.seed = method.config, seed
        self.model = Detector(method)
        self.fitted: Fitted | None = None
        self.calibration: Calibration | None = None
        self.held_back: list[int] = []
        self.split = Split()
        self.average = Average(self.config.training.ema)
        self._finished = self._adapted = self._codec_fitted = self._started = False
        self.codec_stage = CodecStage()
        self.progress: Progress = no_progress
        # Plain data, so that checkpoints load with weights_only. They contain the backbone's weights.
        self.hparams.update(config=config_to_dict(self.config), features_weights=None)

    def load_pretrained(
        self, source: str, features_weights: str | None = None, prompt: str | None = None
    ) -> list[str]:
        """Load pretrained weights of a paper preset before training; returns a line per source.

        Args:
            source: Stable Diffusion v1 as a folder in diffusers' layout, a single file, or a hub id.
            features_weights: safetensors file of the backbone; None takes timm's own from the hub.
            prompt: safetensors file of prompt embeddings; None takes Stable Diffusion's text encoder.
        """
        lines, files = fill_pretrained(self.method, source, features_weights, prompt)
        self.files |= files
        return lines

    def start_from(self, method: Method) -> None:
        """Go on from a trained method of the same config, with its codec and the scales of its training."""
        self.method.load_state_dict(method.state_dict())
        self._codec_fitted = self._started = True

    def use_textures(self, folder: str | Path) -> None:
        """Cut half of the synthetic anomalies from the texture images of a folder, such as DTD.

        The other half are shuffled patches of the image itself, as all are without textures.
        """
        give_textures(self.method, folder)

    @property
    def method(self) -> Method:
        """The trained method."""
        return cast(Method, self.model.method)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {"num_sanity_val_steps": 0}  # overrides arguments of Engine, so nothing else is set

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
        """Add LoRA layers, after pretrained weights and before a checkpoint are loaded."""
        if self.config.training.lora_rank and not self._adapted:
            add_lora(self.method, self.config.training.lora_rank, self.seed)
            self._adapted = True

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.method.named_parameters() if one.requires_grad}

    def configure_optimizers(self) -> Any:
        plan = self.config.training
        optimizer = make_optimizer(plan, self._trained().values())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, plan))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        rows = (~self._is_held_back(batch)).nonzero().flatten()
        image = batch.image.as_subclass(Tensor)[rows]
        if len(image) == 0:
            # None makes Lightning skip the step. With several processes, the others would wait for gradients.
            alone = self.trainer.world_size == 1
            return None if alone else torch.stack([one.sum() * 0 for one in self._trained().values()]).sum()
        rng = self._streams(rows, len(batch.image), batch_idx)
        categories = category_numbers(batch, self.method.categories)[rows] if self.method.categories else None
        loss = method_loss(self.method, image, rng, categories)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(image))
        return loss

    def _streams(self, rows: Tensor, count: int, batch_idx: int) -> PerImageRandom:
        """Random numbers for rows of a batch of `count`, from seed, step and index in the step's batch.

        The index counts accumulated parts and processes, so that the random numbers of an image do not
        depend on the number of processes.
        """
        part = batch_idx % self.trainer.accumulate_grad_batches
        places = (part * count + rows) * self.trainer.world_size + self.global_rank
        return streams(self.seed, self.global_step, places.tolist())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average.weights:
            self.average.update(self._trained(), self.global_step)

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__getitem__"):
            raise InputError("train_dataloaders: expected a single DataLoader with an indexable data set.")
        check_geometry(loader.dataset, self.config)
        self.hold_back(self._identities(loader))
        with self._whole():
            self._decide_upright()
            batches = self.method.framed(self._trained_batches)
            if not self._codec_fitted and fit_own_codec(self.method, batches, self.seed, self.codec_stage):
                codec: Any = self.method.codec  # bitwise equal in all processes
                codec.load_state_dict(self.trainer.strategy.broadcast(codec.state_dict()))
                self._codec_fitted = True
            if not self._started:
                self.method.prepare(self.method.framed(self._seen_batches))
        self.average.start(self._trained())

    def _decide_upright(self) -> None:
        """Decide from the good images whether images are rotated upright; see MethodConfig.upright."""
        self.method.decide_upright(image for image, _ in self._trained_batches())
        self.config = self.method.config
        self.hparams.update(config=config_to_dict(self.config))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.global_step >= self.config.training.steps:  # a finished training was resumed
            self.trainer.should_stop = True
            return -1
        if self._finished:  # resume with the weights before averaging
            self.average.swap(self._trained())
            self._finished, self.calibration, self.fitted = False, None, None
        return None

    def on_train_batch_end(self, *args: Any) -> None:
        # Without max_steps, Lightning trains for 1000 epochs, far beyond the learning-rate schedule.
        if self.global_step >= self.config.training.steps:
            self.trainer.should_stop = True

    # End of training. Lightning writes the last checkpoint after one of these two hooks.

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
        # no_grad, since inference tensors could not be trained further.
        with torch.no_grad(), self._whole():
            self.average.swap(self._trained())
            self._finished = True
            self.check_weights()
            self.fitted = self.describe_fit(self.global_step, str(self.trainer.strategy.root_device))
            if self.calibrates:
                self._calibrate()

    def check_weights(self) -> None:
        """Raise DivergedError for NaN or infinite weights."""
        if not all(bool(one.isfinite().all()) for one in self._trained().values()):
            raise DivergedError("training")

    def describe_fit(self, steps: int, device: str) -> Fitted:
        """Provenance of a fit of this many steps."""
        return Fitted(
            held_back=tuple(sorted(self.held_back)),
            data=self.split.data,
            images=self.split.images,
            seed=self.seed,
            steps=steps,
            image_size=self.config.image_size,
            files=dict(self.files),
            machine=this_machine(device),
        )

    def _calibrate(self) -> None:
        was_training = self.method.training
        batches = (self._held_back_batches, self._seen_batches)
        self.calibration = calibrate(self.method, *batches, self.progress, leave_out=self.leaves_out)
        self.method.train(was_training)
        if isinstance(self.post_processor, GoodOnlyPostProcessor):
            self.post_processor.calibrate(self.calibration)

    # Evaluation.

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        ours = self.post_processor is None or isinstance(self.post_processor, GoodOnlyPostProcessor)
        unused = self.evaluator is None or not self.evaluator.val_metrics
        if self.trainer.state.fn == "fit" and ours and unused:
            return batch  # unused predictions would cost more than training
        return batch.update(**self.model(batch.image)._asdict())
