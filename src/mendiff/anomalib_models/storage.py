"""Checkpoints, model folders and exports of the anomalib models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

from mendiff.anomalib_models.fsdp import ShardedWeights
from mendiff.anomalib_models.processing import Finish, ResizeOnly
from mendiff.calibration import Calibration
from mendiff.checkpoints.provenance import Fitted, with_fitted
from mendiff.checkpoints.store import save as save_model
from mendiff.errors import InputError
from mendiff.export.folder import check_exportable
from mendiff.export.image_graph import ImageGraph, write_image_graph
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
    pre_processor: Any
    post_processor: Any
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

    def to_onnx(  # type: ignore[override]  # anomalib's arguments, which differ from Lightning's
        self,
        export_root: str | Path,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **options: Any,
    ) -> Path:
        """Write the model as an ONNX graph of images alone; `to_openvino` converts it.

        Noise then follows from another hash of the pixels; see mendiff.export.image_graph.ImageNoise.

        Args:
            export_root: folder; the file is weights/onnx/NAME.onnx in it.
            model_file_name: NAME.
            input_size: height and width of the images; None for any size.
            options: of torch.onnx.export.
        """
        if options.pop("dynamo", True) is False:
            raise InputError("export: expected dynamo=True, the only exporter that anomalib supports.")
        model: Any = self.as_model()
        check_exportable(model)
        if not self._only_resizes(model.method.config.image_size):
            raise InputError(
                "export: expected the pre-processor of this model, which only resizes, got another; export "
                "the model with pre_processor=True."
            )
        config = model.method.config
        if not model.plain or config.upright == "always" or getattr(config, "adaptive", False):
            raise InputError(
                "export: expected a model of whole images without alignment (upright='never') and without "
                "adaptive search, because "
                "anomalib gives a graph the resized image alone; write the model with save() and use "
                "'mendiff export'."
            )
        file = Path(export_root) / "weights" / "onnx" / f"{model_file_name}.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        finish = Finish(self.post_processor)
        write_image_graph(ImageGraph(model.method, finish).cpu(), file, finish.outputs, input_size, **options)
        return file

    def _only_resizes(self, side: int) -> bool:
        given = self.pre_processor
        own = isinstance(given, ResizeOnly) and list(getattr(given.transform, "size", ())) == [side, side]
        return given is None or own

    def save(self, folder: str | Path, info: dict[str, Any] | None = None) -> None:
        """Write a model folder for `mendiff.load`.

        Args:
            folder: to write to; must not exist.
            info: description of the fit, as JSON values.
        """
        model = self.as_model(info)
        save_model(folder, model.name, model.method, model.calibration, model.info)
