"""Checkpoints, model folders and exports of the anomalib models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

from mendiff.anomalib_models.fsdp import ShardedWeights
from mendiff.calibration import Calibration
from mendiff.checkpoints.provenance import Fitted, with_fitted
from mendiff.checkpoints.store import save as save_model
from mendiff.errors import InputError
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.model import Model
from mendiff.training.average import Average
from mendiff.training.lora import merge_lora
from mendiff.training.sharding import whole_weights


class Stored(ShardedWeights):
    """Content of checkpoints, and writing of model folders; attributes as in MethodModule."""

    _method_name: ClassVar[str]
    held_back: list[int]
    average: Average
    calibration: Calibration | None
    fitted: Fitted | None
    files: dict[str, str]
    _finished: bool
    _adapted: bool
    _codec_fitted: bool

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["mendiff"] = {
            "held_back": self.held_back,
            "average": self.average.weights,
            "finished": self._finished,
            "calibration": self.calibration and self.calibration.to_dict(),
            "fitted": self.fitted and config_to_dict(self.fitted),
            "files": self.files,
            "codec_fitted": self._codec_fitted,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint["mendiff"]
        self.held_back, self._finished = ours["held_back"], ours["finished"]
        self.average.weights = ours["average"]
        self.calibration = Calibration.from_dict(ours["calibration"]) if ours["calibration"] else None
        fitted = ours.get("fitted")  # missing in checkpoints of earlier versions
        self.fitted = None if fitted is None else config_from_dict(Fitted, fitted, "checkpoint: fitted")
        self.files = dict(ours.get("files", {}))
        self._codec_fitted = bool(ours.get("codec_fitted", False))
        with whole_weights(self._sharded):
            own, stored = self.state_dict(), checkpoint["state_dict"]
        for name in stored:
            if name.startswith("model.") and (name not in own or own[name].shape != stored[name].shape):
                raise InputError(
                    f"checkpoint: expected weights of this model's config, but the shape of {name!r} differs."
                )
        # Metrics store settings in their state; this object may have other metrics.
        state = {name: value for name, value in stored.items() if not name.startswith("evaluator.")}
        state |= {name: value for name, value in own.items() if name.startswith("evaluator.")}
        checkpoint["state_dict"] = state

    def as_model(self, info: dict[str, Any] | None = None) -> Model:
        """The fitted model, as from `mendiff.load`, with `info` for its folder."""
        if self.calibration is None:
            raise InputError("model: expected a fitted model; call Engine().fit(model, data) first.")
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
        """Write a model folder for `mendiff.load`.

        Args:
            folder: to write to; must not exist.
            info: description of the fit, as JSON values.
        """
        model = self.as_model(info)
        save_model(folder, model.name, model.method, model.calibration, model.info)


def _no_export(kind: str) -> InputError:
    return InputError(
        f"export: expected ExportType.TORCH, got {kind}, which is not supported through anomalib: its "
        "inferencers give a graph the image alone, and this graph also takes noise that is computed from the "
        f"pixels; write the model with save() and use 'mendiff export MODEL -o DIR --to {kind.lower()}'."
    )
