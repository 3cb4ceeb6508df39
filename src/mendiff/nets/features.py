"""Deep features: any timm backbone, its layers by name, normalised inside.

Our own thin extractor: the common ones change timm process-wide or drop layers they don't know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.nets import AUTO, LEAST_SIDE
from mendiff.nets.settled import built
from mendiff.nets.student import BUNDLED, StudentFeatures
from mendiff.scoring.pyramid import PixelPyramid

POSITION_RESAMPLING = ("timm", "dino")
TINY_FEATURES = AUTO
"""Name of the features in `tiny`."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Which backbone, which layers, and what its input looks like.

    Attributes:
        name: timm's name of the backbone; "auto" for the network that comes with the package, which a stored
            config calls "bundled"; empty for no features.
        layers: "stage0", "stage1", ... of a convolutional backbone (0 is the finest) or "block1", ... of a
            vision transformer, counted from 1 as in the papers.
        mean, std: of the normalisation of RGB in [0,1]; empty takes those timm states for the name.
        network: further arguments of the backbone, such as {"pad_type": "same"} or {"img_size": 224}; of the
            bundled network, fields of StudentConfig.
        position_resampling: how a transformer's position embedding is fitted to the image: "timm"
            (antialiased bicubic) or "dino" (bicubic with the published scale factor (n + 0.1) / sqrt(N)).
    """

    name: str = ""
    layers: tuple[str, ...] = ("stage1", "stage2", "stage3")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    network: dict[str, Any] = field(default_factory=dict)
    position_resampling: str = "timm"


class FeatureExtractor(nn.Module):
    """A frozen backbone that maps (B,3,H,W) in [0,1] to one (B,C,h,w) map per named layer.

    Args:
        config: which backbone and layers.

    Attributes:
        channels: C of every layer.
        strides: pixels per position of every layer.
        least_side: smaller images are better enlarged to it, in pixels.
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
        if config.position_resampling not in POSITION_RESAMPLING:
            raise InputError(
                f"position_resampling: expected one of {', '.join(POSITION_RESAMPLING)}, "
                f"got {config.position_resampling!r}."
            )
        self.config = config
        self.backbone = _make_backbone(config)
        self._is_vit = hasattr(self.backbone, "patch_embed") and hasattr(self.backbone, "blocks")
        self.indices = _layer_indices(config, self._is_vit, len(self.backbone.feature_info))
        info = [self.backbone.feature_info[index] for index in self.indices]
        self.channels = tuple(int(layer["num_chs"]) for layer in info)
        self.strides = tuple(int(layer["reduction"]) for layer in info)
        self.backbone.prune_intermediate_layers(sorted(self.indices), prune_norm=True, prune_head=True)
        stated = self.backbone.default_cfg
        for name, values in (("mean", config.mean or stated["mean"]), ("std", config.std or stated["std"])):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode: the extractor is frozen, its batch statistics too."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of RGB images in [0,1], one (B,C,h,w) per layer, normalising inside."""
        return self.unnormalised((image - self.mean) / self.std)

    def unnormalised(self, pixels: Tensor) -> list[Tensor]:
        """Features of pixels as they are, (B,3,H,W): GLAD's stop rule feeds the decoder's output directly."""
        if self._is_vit:
            return self._tokens(pixels)
        outputs = self.backbone.forward_intermediates(
            pixels, indices=sorted(self.indices), intermediates_only=True
        )
        by_index = dict(zip(sorted(self.indices), outputs, strict=True))
        return [by_index[index] for index in self.indices]

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        """Patch tokens after the named blocks, before the final norm, as (B,C,h,w); class tokens dropped."""
        vit = self.backbone
        patch = vit.patch_embed.patch_size
        grid = (pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1])
        tokens = vit.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        prefix = vit.num_prefix_tokens
        if prefix:
            tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = vit.norm_pre(tokens + self.position_embedding(grid))
        kept = {}
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if index in self.indices:
                kept[index] = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
        return [kept[index] for index in self.indices]

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """The transformer's position embedding fitted to a token grid (h,w), (1,prefix + h w,C)."""
        table: Tensor = self.backbone.pos_embed
        prefix = self.backbone.num_prefix_tokens
        side = round((table.shape[1] - prefix) ** 0.5)
        if grid == (side, side):
            return table
        square = table[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
        if self.config.position_resampling == "dino":
            factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
            fitted = F.interpolate(square, scale_factor=factors, mode="bicubic")
        else:
            fitted = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
        return torch.cat([table[:, :prefix], fitted.flatten(2).transpose(1, 2)], dim=1)

    def load_backbone(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a timm state dict; what the named layers don't need (head, later stages) may be in it or not.

        Args:
            weights: timm's parameter names to tensors, any float dtype.
            source: for messages: where the weights come from.
        """
        import timm

        own = self.backbone.state_dict()
        with torch.device("meta"):
            known = set(
                timm.create_model(self.config.name, pretrained=False, **self.config.network).state_dict()
            )
        missing = sorted(key for key in own if key not in weights and not key.endswith("num_batches_tracked"))
        strange = sorted(set(weights) - known - set(own))
        wrong = sorted(key for key in own if key in weights and weights[key].shape != own[key].shape)
        _refuse(missing, "is missing", source, self.config.name)
        _refuse(strange, "is not part of the network", source, self.config.name)
        _refuse(wrong, "has another shape", source, self.config.name)
        self.backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)


def hub_id(name: str) -> str:
    """The hub's repository of timm's weights for a backbone, such as timm/resnet50.a1_in1k; or empty."""
    import timm

    stated = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return str(stated.hf_hub_id or "") if stated else ""


Features = FeatureExtractor | StudentFeatures | PixelPyramid
"""What make_features makes."""


@built
def make_features(config: FeaturesConfig) -> Features:
    """The extractor a config names, with fresh weights; the weight-free one for an empty name."""
    if config.name in (AUTO, BUNDLED):
        return StudentFeatures(config.network, config.layers)
    return FeatureExtractor(config) if config.name else PixelPyramid()


@contextmanager
def local_backbone(config: FeaturesConfig, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let other libraries that ask timm for a pretrained backbone by name get these weights instead.

    Inside the block, timm makes every backbone of the config's name with the config's arguments and with
    `weights`; nothing is downloaded. What the network lacks (later stages, the head) may be in them.

    Args:
        config: name and further arguments of the backbone.
        weights: timm's parameter names to tensors.

    Raises InputError, at the making, for weights that lack something.
    """
    import timm

    make = timm.create_model

    def make_with_weights(model_name: str, *args: Any, **options: Any) -> Any:
        if model_name != config.name:
            return make(model_name, *args, **options)
        wanted = bool(options.pop("pretrained", False))
        arguments = {**options, **config.network, "pretrained": False}
        made = make(model_name, *args, **arguments)
        if wanted:
            own = made.state_dict()
            missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
            _refuse(missing, "is missing", "of the backbone", config.name)
            made.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
        return made

    timm.create_model = make_with_weights
    try:
        yield
    finally:
        timm.create_model = make


def _make_backbone(config: FeaturesConfig) -> Any:
    import timm

    try:
        return timm.create_model(config.name, pretrained=False, num_classes=0, **config.network)
    except (TypeError, ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"features.network: expected arguments that timm's {config.name} takes, got {config.network} "
            f"({' '.join(str(error).split())}); are the weights those of another backbone?"
        ) from error


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
    for layer in config.layers:
        if not re.fullmatch(r"(stage|block)\d+", layer) or layer not in names:
            raise InputError(
                f"layers: expected some of {names[0]}..{names[-1]} for {config.name}, got {layer!r}."
            )
    if not config.layers:
        raise InputError(f"layers: expected some of {names[0]}..{names[-1]} for {config.name}, got none.")
    return [names.index(layer) for layer in config.layers]
