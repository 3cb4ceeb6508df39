"""anomalib's own models as baselines, fitted on the same images with the same local backbone file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from lightning import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, Resize

from mendiff.anomalib_models.images import GoodImages
from mendiff.anomalib_models.training import quiet
from mendiff.errors import InputError
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, network_like
from mendiff.training.random import generator

MINUTES = 5
"""Training time of models that train, as in `tiny`, unless `max_steps` or `max_epochs` is set."""
TRAINER = ("max_steps", "max_epochs", "max_time")
BACKBONE = "feature_extractor"
"""Attribute in which anomalib's models store a timm network."""
PADIM_DIMS = 100
"""Feature dimensions that PaDiM keeps: anomalib's default for ResNet-18."""


@dataclass(frozen=True)
class Baseline:
    """An anomalib model to fit.

    Attributes:
        name: anomalib's, such as "patchcore".
        settings: arguments of its constructor, and max_steps, max_epochs or batch_size of its training.
        features: the backbone, if the model has one.
        weights: of the backbone, under timm's names.
        seed: of training.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    features: FeaturesConfig | None = None
    weights: Mapping[str, Tensor] | None = None
    seed: int = 0


@dataclass(frozen=True)
class FittedBaseline:
    """A fitted anomalib model, with raw scores and maps (not normalised).

    Attributes:
        module: in evaluation mode.
        steps: of training.
    """

    module: Any
    steps: int

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) in [0,1]: scores (B,), maps (B,1,H,W)."""
        found = self.module.model(self.module.pre_processor(images))
        maps = found.anomaly_map.float()
        maps = maps[:, None] if maps.ndim == 3 else maps
        if maps.shape[-2:] != images.shape[-2:]:
            maps = nn.functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)
        scores = found.pred_score if found.pred_score is not None else maps.amax((1, 2, 3))
        return scores.float().reshape(-1), maps


def baseline_class(name: str) -> type:
    """The class of an anomalib model by a name such as "efficient_ad"; InputError for unknown names."""
    from anomalib import models

    known = {kind.lower(): kind for kind in models.list_models("pascal") if hasattr(models, kind)}
    wanted = name.replace("_", "").lower()
    if wanted not in known:
        raise InputError(f"methods: expected one of anomalib's {', '.join(sorted(known))}, got {name!r}.")
    kind: type = getattr(models, known[wanted])
    return kind


def fit_baseline(
    baseline: Baseline, paths: list[Path], size: int, workdir: Path, device: str = "cpu"
) -> FittedBaseline:
    """Fit an anomalib model on good images, resized to a square.

    Args:
        baseline: the model.
        paths: of the images.
        size: side of the square in pixels.
        workdir: for the trainer's files.
        device: torch's name.
    """
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.engine import Engine

    quiet()
    seed_everything(baseline.seed, verbose=False)
    settings = dict(baseline.settings)
    trainer = {name: settings.pop(name) for name in TRAINER if name in settings}
    batch_size = int(settings.pop("batch_size", 8))
    textures = workdir / "textures"
    textures.mkdir(parents=True, exist_ok=True)
    with download_errors(baseline.name):
        module = make_baseline(baseline, settings, size, textures)
    loader = DataLoader(
        GoodImages(paths, size),
        batch_size=batch_size,
        shuffle=True,
        collate_fn=ImageBatch.collate,
        generator=generator(baseline.seed),
    )
    place = torch.device(device)
    engine = Engine(
        default_root_dir=workdir,
        accelerator=place.type,
        devices=[place.index or 0] if place.type == "cuda" else 1,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Writing a checkpoint (1 GB for DRAEM) after every epoch can take longer than the epoch.
        callbacks=[ModelCheckpoint(save_top_k=0)],
        **(trainer or {"max_time": {"minutes": MINUTES}}),
    )
    with download_errors(baseline.name):  # some models download what they need here
        engine.fit(module, train_dataloaders=loader)
    return FittedBaseline(module.eval().to(place), int(engine.trainer.global_step))


@contextmanager
def download_errors(name: str) -> Iterator[None]:
    """Turn a failed download into an InputError."""
    try:
        yield
    except URLError as error:
        raise InputError(
            f"{name}: expected to download anomalib's files for this model, but the network does not answer "
            f"({error.reason}); fit it once with network access, or omit the model."
        ) from error


def make_baseline(baseline: Baseline, settings: Mapping[str, Any], size: int, textures: Path) -> Any:
    """An anomalib model with the given backbone file and input size.

    Models that paste textures read them from a folder; if it is empty, they paste anomalib's noise.

    Raises InputError for an unknown name, for settings that the model does not have, and for missing
    pretrained features.
    """
    kind = baseline_class(baseline.name)
    takes = inspect.signature(kind).parameters
    unknown = [name for name in settings if name not in takes]
    if unknown:
        raise InputError(
            f"{baseline.name}: expected settings among {', '.join([*takes, *TRAINER])}, got {unknown[0]!r}."
        )
    given: dict[str, Any] = {"dtd_dir": textures} if "dtd_dir" in takes else {}
    stages: list[Callable[..., Any]] = [Resize((size, size), antialias=True)]
    if "backbone" not in takes:
        given["pre_processor"] = PreProcessor(transform=Compose(stages))
        return kind(**{**given, **settings})
    if baseline.features is None or baseline.weights is None:
        raise InputError(
            f"{baseline.name}: expected a pretrained backbone; give --features and --features-weights, "
            "or omit the model."
        )
    if "pre_trained" not in takes:
        raise InputError(
            f"{baseline.name}: expected a model whose backbone can be given, but it always downloads "
            "its own; omit the model."
        )
    stated = FeatureExtractor(baseline.features)
    stages.append(Normalize(stated.mean.flatten().tolist(), stated.std.flatten().tolist()))
    given["pre_processor"] = PreProcessor(transform=Compose(stages))
    given |= {"backbone": baseline.features.name, "pre_trained": False}
    if "layers" in takes:
        given["layers"] = _by_number(takes["layers"].default, baseline.name)
    if "n_features" in takes:
        given["n_features"] = PADIM_DIMS
    module = kind(**{**given, **settings})
    set_backbone(module, baseline)
    return module


def set_backbone(module: nn.Module, baseline: Baseline) -> None:
    """Replace the untrained backbone of an anomalib model by the baseline's backbone with its weights.

    Raises InputError for a model without a backbone, and for incomplete weights.
    """
    assert baseline.features is not None
    assert baseline.weights is not None
    found = False
    for part in list(module.modules()):
        made = part._modules.get(BACKBONE)
        if made is not None and type(made).__module__.startswith("timm."):
            # Random weights of a new network must not change later random numbers.
            with torch.random.fork_rng(devices=[]):
                network = network_like(made, baseline.features, baseline.weights, "of the backbone")
            setattr(part, BACKBONE, network)
            found = True
        for name, value in (("pre_trained", True), ("requires_grad", False)):  # as with anomalib's weights
            if isinstance(vars(part).get(name), bool):
                setattr(part, name, value)
    if not found:
        raise InputError(
            f"{baseline.name}: expected a model with a backbone from timm, but it has none; omit the model."
        )


def _by_number(layers: Any, name: str) -> list[int]:
    """ResNet's "layer1", "layer2", ... as timm's indices of feature maps (strides 4, 8, ...)."""
    numbers = [re.fullmatch(r"layer(\d)", str(layer)) for layer in layers or ()]
    if not numbers or not all(numbers):
        raise InputError(
            f"{name}: expected the layer names of a ResNet (layer1, ...), got others; this model can't use a "
            "local backbone file."
        )
    return [int(number[1]) for number in numbers if number]
