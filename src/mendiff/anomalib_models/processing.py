"""Pre-processing, post-processing and the torch module that anomalib calls."""

from __future__ import annotations

from itertools import chain
from statistics import median
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn
from torchvision.transforms.v2 import Resize

from mendiff.calibration import FALSE_ALARM_RATE, MINIMUM, Calibration
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.methods.base import Method


class ResizeOnly(PreProcessor):
    """Resizes with antialiasing, also in exported models, where anomalib's pre-processor disables it."""

    def __init__(self, transform: Resize) -> None:
        super().__init__(transform)
        self.export_transform = self.transform

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        super().load_checkpoint_config(config)
        self.export_transform = self.transform


class GoodOnlyPostProcessor(PostProcessor):
    """Thresholds from good images alone; maps scores strictly monotonically to (0,1), 0.5 at the threshold.

    anomalib's post-processor computes its threshold from validation labels, which most of its data modules
    share with the test set. It also clamps scores, which creates ties before metrics are computed. Raw scores
    can't be used either: torchmetrics applies a sigmoid to every batch with values outside [0,1]. Before
    `calibrate`, scores pass unchanged and without labels.
    """

    def calibrate(self, calibration: Calibration) -> None:
        """Set thresholds and scales; they are buffers, stored in checkpoints and exports.

        `image_min` and `image_max` become threshold - scale and threshold + scale, likewise for pixels. The
        scale is the distance from the median good score to the threshold.
        """
        image = ("image", calibration.scores, calibration.threshold)
        pixel = ("pixel", calibration.pixel_scores, calibration.pixel_threshold)
        for kind, scores, threshold in (image, pixel) if calibration.pixel_scores else (image,):
            scale = max(threshold - median(scores), 1e-3 * abs(threshold), 1e-12)
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
        # asinh first: high scores stay distinct in float32, where those of an arc tangent would saturate.
        # Graphs are in float32: OpenVINO removes conversions, and with them the names of outputs.
        narrow = preds.device.type == "mps" or torch.compiler.is_compiling()
        wide = torch.float32 if narrow else torch.float64
        above = torch.asinh((preds.to(wide) - threshold) / ((norm_max.to(wide) - norm_min) / 2))
        return (0.5 + 0.5 * above / (1 + above.abs())).to(preds.dtype)

    def post_process_batch(self, batch: Batch) -> None:
        if not torch.isnan(self.image_threshold):
            super().post_process_batch(batch)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        if not torch.compiler.is_compiling() and torch.isnan(self.image_threshold):
            return predictions
        return super().forward(predictions)


class ConformalPostProcessor(GoodOnlyPostProcessor):
    """Thresholds for a false-alarm rate, for any anomalib model, from the good validation images alone.

        Patchcore(post_processor=ConformalPostProcessor(false_alarm_rate=0.05))

    The validation images must not be training images: use a data module with `val_split_mode="from_train"`.
    The labels select the good images; defective validation images have no influence.

    Args:
        false_alarm_rate: share of good images that the thresholds are meant to flag, in (0,1).
        options: of anomalib's PostProcessor.

    Attributes:
        calibration: scores of the good validation images; None before the first validation.
    """

    def __init__(self, false_alarm_rate: float = FALSE_ALARM_RATE, **options: Any) -> None:
        super().__init__(**options)
        self.false_alarm_rate = false_alarm_rate
        self.calibration: Calibration | None = None
        self._found: list[tuple[list[float], list[float]]] = []

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "false_alarm_rate")

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        good = ~outputs.gt_label.bool()
        maps = outputs.anomaly_map
        peaks = [] if maps is None else maps[good].flatten(1).amax(1).tolist()
        self._found.append((outputs.pred_score[good].flatten().tolist(), peaks))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        scores, peaks = (tuple(chain.from_iterable(one[at] for one in self._found)) for at in (0, 1))
        self._found.clear()
        if trainer.sanity_checking:
            return
        if len(scores) < MINIMUM:
            raise InputError(
                f"ConformalPostProcessor: expected at least {MINIMUM} good validation images, got "
                f"{len(scores)}; choose a data module with val_split_mode='from_train'."
            )
        self.calibration = Calibration(scores, peaks, self.false_alarm_rate)
        self.calibrate(self.calibration)


class Detector(nn.Module):
    """The torch module that anomalib calls: (B,3,H,W) in [0,1] to raw scores (B,) and maps (B,1,H,W)."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    @torch.no_grad()
    def forward(self, image: Tensor) -> InferenceBatch:
        image = image.as_subclass(Tensor).float()  # batches hold torchvision's tensor class
        # Scores must not depend on the trainer's precision.
        with torch.autocast(image.device.type, enabled=False):
            found = self.method.find(image, content_seeds(image))
        return InferenceBatch(pred_score=found.score, anomaly_map=found.anomaly_map)


class Finish(nn.Module):
    """The post-processor of a fitted model, for graphs: (score, anomaly map) to the outputs.

    Args:
        post_processor: None passes the results on.

    Attributes:
        outputs: names of the outputs.
    """

    def __init__(self, post_processor: PostProcessor | None) -> None:
        super().__init__()
        self.post_processor = post_processor
        found = self._finished(torch.zeros(1), torch.zeros(1, 1, 8, 8))
        self.outputs = [name for name, value in found._asdict().items() if value is not None]

    def forward(self, score: Tensor, anomaly_map: Tensor) -> tuple[Tensor, ...]:
        found = self._finished(score, anomaly_map)
        return tuple(getattr(found, name) for name in self.outputs)

    def _finished(self, score: Tensor, anomaly_map: Tensor) -> InferenceBatch:
        found = InferenceBatch(pred_score=score, anomaly_map=anomaly_map)
        return found if self.post_processor is None else self.post_processor(found)
