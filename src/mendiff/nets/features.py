"""Deep features from any timm backbone, with named layers and built-in normalisation.

A thin extractor of our own: existing ones patch timm process-wide or silently drop unknown layers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mendiff.errors import InputError, check_choices
from mendiff.nets import AUTO, LEAST_SIDE
from mendiff.nets.modes import builds_in_float32
from mendiff.nets.positions import Positions, Resampling
from mendiff.nets.student import BUNDLED, StudentFeatures
from mendiff.scoring.pyramid import PixelPyramid

TINY_FEATURES = AUTO
"""Features name of the presets `tiny`."""

STAGES = ("stage1", "stage2", "stage3")
"""Default layers of a convolutional backbone."""
DEPTHS = (3 / 12, 5 / 12, 7 / 12)
"""Corresponding relative depths of the blocks of a vision transformer."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Backbone, layers and input normalisation of a feature extractor.

    Attributes:
        name: timm's name of the backbone; "auto" for the bundled network (stored configs call it "bundled");
            empty for no features.
        layers: "stage0", "stage1", ... of a convolutional backbone (0 is the finest) or "block1", ... of a
            vision transformer, counted from 1 as in the papers. For a transformer the default stages are
            replaced by blocks 3, 5 and 7 of 12, or blocks of the same relative depth: these combine semantic
            content with spatial accuracy.
        mean, std: normalisation of RGB in [0,1]; empty for timm's values of the backbone.
        network: further arguments of the backbone, such as {"pad_type": "same"} or {"img_size": 224}; for the
            bundled network, fields of StudentConfig.
        position_resampling: interpolation of a transformer's position embedding: "timm" (antialiased bicubic)
            or "dino" (bicubic with the published scale factor (n + 0.1) / sqrt(N)).
    """

    name: str = ""
    layers: tuple[str, ...] = STAGES
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    network: dict[str, Any] = field(default_factory=dict)
    position_resampling: Resampling = "timm"

    def __post_init__(self) -> None:
        check_choices(self, "features.")


class FeatureExtractor(nn.Module):
    """A frozen backbone that maps (B,3,H,W) in [0,1] to a (B,C,h,w) map per named layer.

    Args:
        config: backbone and layers.

    Attributes:
        channels: C of every layer.
        strides: pixels per position of every layer.
        least_side: recommended smallest image side in pixels; smaller images should be upsampled.
    """

    least_side = LEAST_SIDE
    mean: Tensor
    std: Tensor

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        import timm

        if not timm.is_model(config.name):
            family = config.name.split("_")[0]
            close = ", ".join(timm.list_models(f"*{family}*")[:5]) or "see timm.list_models()"
            raise InputError(
                f"features: expected the name of a timm backbone, got {config.name!r}; close names: {close}."
            )
        self.config = config
        self.backbone = _make_backbone(config)
        self._whole = _patch_side(self.backbone)
        is_vit = hasattr(self.backbone, "patch_embed") and hasattr(self.backbone, "blocks")
        self.indices = _layer_indices(config, is_vit, len(self.backbone.feature_info))
        info = [self.backbone.feature_info[index] for index in self.indices]
        self.channels = tuple(int(layer["num_chs"]) for layer in info)
        self.strides = tuple(int(layer["reduction"]) for layer in info)
        self.backbone.prune_intermediate_layers(sorted(self.indices), prune_norm=True, prune_head=True)
        _place_tokens(self.backbone, config)
        stated = self.backbone.default_cfg
        for name, values in (("mean", config.mean or stated["mean"]), ("std", config.std or stated["std"])):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode: weights and batch statistics are frozen."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of RGB images in [0,1], a (B,C,h,w) map per layer; normalises the images."""
        return self.unnormalised((image - self.mean) / self.std)

    def unnormalised(self, pixels: Tensor) -> list[Tensor]:
        """Features of pixels (B,3,H,W) without normalisation, for GLAD's stop rule on the decoder's output.

        For a transformer: the patch tokens after the named blocks, before the final norm. Incomplete patches
        at the right and bottom edge are cropped.
        """
        height, width = (side - side % self._whole for side in pixels.shape[-2:])
        indices = sorted(self.indices)
        try:
            found = self.backbone.forward_intermediates(
                pixels[..., :height, :width], indices=indices, intermediates_only=True
            )
        except (AssertionError, RuntimeError, ValueError) as error:
            self._refuse_size((pixels.shape[-2], pixels.shape[-1]), error)
            raise
        by_index = dict(zip(indices, found, strict=True))
        return [by_index[index] for index in self.indices]

    def _refuse_size(self, size: tuple[int, int], error: Exception) -> None:
        """Raise InputError if a backbone with a fixed input size failed on images of another size (h,w)."""
        stated = self.backbone.default_cfg
        made_for = self.config.network.get("img_size", stated["input_size"][1:])
        rows, columns = (made_for, made_for) if isinstance(made_for, int) else tuple(made_for)
        fixed = stated.get("fixed_input_size", False) or "img_size" in self.config.network
        if not fixed or size == (rows, columns) or isinstance(error, torch.cuda.OutOfMemoryError):
            return
        raise InputError(
            f"features: expected images of {rows}x{columns} pixels, the fixed size of {self.config.name}, "
            f"got {size[0]}x{size[1]}; choose another --image-size, or a backbone without a fixed size "
            f"({' '.join(str(error).split())})."
        ) from error

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """A vision transformer's position embedding, resampled to a grid (h,w), (1,prefix + h w,C)."""
        fitted: Tensor = self.backbone._pos_embed.fitted(grid)
        return fitted

    def load_backbone(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a timm state dict. Weights that the named layers do not use (head, later stages) are optional.

        Args:
            weights: state dict with timm's names, of any float dtype.
            source: origin of the weights, for messages.
        """
        own = self.backbone.state_dict()
        _check_weights(own, self.config, weights, source)
        self.backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)


def hub_id(name: str) -> str:
    """Hub repository of timm's weights of a backbone, such as timm/resnet50.a1_in1k; may be empty."""
    import timm

    stated = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return str(stated.hf_hub_id or "") if stated else ""


Features = FeatureExtractor | StudentFeatures | PixelPyramid
"""Types that make_features returns."""


@builds_in_float32
def make_features(config: FeaturesConfig) -> Features:
    """Build the feature extractor of a config with random weights; a weight-free one for an empty name."""
    if config.name in (AUTO, BUNDLED):
        return StudentFeatures(config.network, config.layers)
    return FeatureExtractor(config) if config.name else PixelPyramid()


def network_like(made: nn.Module, config: FeaturesConfig, weights: Mapping[str, Tensor], source: str) -> Any:
    """Rebuild a timm network of another library with a config's arguments and weights.

    Args:
        made: a timm classifier, or a feature-only network.
        config: config of the backbone; its layers are ignored.
        weights: state dict with timm's names; it may contain weights that the network does not have (later
            stages, head).
        source: origin of the weights, for messages.

    Raises InputError for missing weights. Nothing is downloaded.
    """
    import timm

    indices = list(getattr(getattr(made, "feature_info", None), "out_indices", ()))
    with torch.device("meta"):
        plain = _make_backbone(config)
    if indices:
        plain.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    _check_weights(plain.state_dict(), config, weights, source)  # timm would ignore missing weights
    maps = {"features_only": True, "exportable": True, "out_indices": indices} if indices else {}
    arguments = _arguments(config) | {"pretrained": True, "num_classes": 0} | maps
    # Loaded by timm itself, because feature-only networks rename their parts.
    network = timm.create_model(
        config.name, pretrained_cfg_overlay={"state_dict": dict(weights)}, **arguments
    )
    for one in network.modules():  # timm stores the given weights
        getattr(one, "pretrained_cfg", {}).pop("state_dict", None)
    return network.requires_grad_(next(made.parameters()).requires_grad).train(made.training)


def _make_backbone(config: FeaturesConfig) -> Any:
    import timm

    try:
        return timm.create_model(config.name, num_classes=0, **_arguments(config))
    except (TypeError, ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"features.network: expected arguments that timm's {config.name} takes, got {config.network} "
            f"({' '.join(str(error).split())}); are the weights those of another backbone?"
        ) from error


def _arguments(config: FeaturesConfig) -> dict[str, Any]:
    """Arguments for timm's constructor; with dynamic image size if the backbone supports it."""
    every_size = {"dynamic_img_size": True} if "dynamic_img_size" in _known_arguments(config.name) else {}
    return {"pretrained": False, **every_size, **config.network}


@cache
def _known_arguments(name: str) -> set[str]:
    """Names of the arguments that the class of a timm backbone takes."""
    import timm

    with torch.device("meta"):  # timm tells the class of a network by building it
        kind = type(timm.create_model(name, pretrained=False))
    return {argument for one in kind.__mro__ for argument in inspect.signature(one).parameters}


def _patch_side(backbone: Any) -> int:
    """Patch side in pixels of a transformer with dynamic image size; otherwise 1."""
    from timm.layers.patch_embed import PatchEmbed

    patches = getattr(backbone, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or not getattr(backbone, "dynamic_img_size", False):
        return 1
    return int(patches.patch_size[0])


def _place_tokens(backbone: Any, config: FeaturesConfig) -> None:
    """Set a vision transformer's position resampling as configured, independent of patches to timm."""
    from timm.models.vision_transformer import VisionTransformer

    table = isinstance(backbone, VisionTransformer) and backbone.pos_embed is not None
    if table and backbone.dynamic_img_size:
        backbone._pos_embed = Positions(backbone, config.position_resampling)
    elif config.position_resampling != "timm":
        raise InputError(
            f"position_resampling: expected 'timm' for {config.name}, which has no position embedding that "
            f"can be resampled, got {config.position_resampling!r}."
        )


def _check_weights(
    own: Mapping[str, Tensor], config: FeaturesConfig, weights: Mapping[str, Tensor], source: str
) -> None:
    """Refuse weights with missing names, or with names that are not in timm's complete network."""
    import timm

    with torch.device("meta"):
        known = set(timm.create_model(config.name, **_arguments(config)).state_dict())
    missing = sorted(key for key in own if key not in weights and not key.endswith("num_batches_tracked"))
    strange = sorted(set(weights) - known - set(own))
    wrong = sorted(key for key in own if key in weights and weights[key].shape != own[key].shape)
    _refuse(missing, "is missing", source, config.name)
    _refuse(strange, "is not part of the network", source, config.name)
    _refuse(wrong, "has another shape", source, config.name)


def _refuse(keys: Iterable[str], complaint: str, source: str, name: str) -> None:
    keys = list(keys)
    if keys:
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        raise InputError(
            f"weights {source}: expected those of timm's {name}, but {keys[0]}{more} {complaint}."
        )


def _layer_indices(config: FeaturesConfig, is_vit: bool, available: int) -> list[int]:
    word, first = ("block", 1) if is_vit else ("stage", 0)
    names = [f"{word}{number + first}" for number in range(available)]
    layers = config.layers
    if is_vit and layers == STAGES:
        layers = tuple(names[max(0, round(depth * available) - 1)] for depth in DEPTHS)
    for layer in layers:
        if not re.fullmatch(r"(stage|block)\d+", layer) or layer not in names:
            raise InputError(
                f"layers: expected some of {names[0]}..{names[-1]} for {config.name}, got {layer!r}."
            )
    if not config.layers:
        raise InputError(f"layers: expected some of {names[0]}..{names[-1]} for {config.name}, got none.")
    return [names.index(layer) for layer in layers]
