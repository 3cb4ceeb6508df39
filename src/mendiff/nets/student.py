"""The bundled feature network: a small student of a pretrained teacher.

All layers are convolutions followed by ReLU. Depthwise convolutions need fewer operations but are limited by
memory bandwidth on CPUs: with output maps of equal size this network is several times as fast as MobileNetV2.
Most of its capacity is in the wide 1x1 layers before the outputs, which are cheap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mendiff.errors import InputError
from mendiff.nets import LEAST_SIDE

STAGES = ("stage1", "stage2", "stage3")
"""Names of the outputs; timm's backbones use the same names for these strides."""
STRIDES = (4, 8, 16)
BUNDLED = "bundled"
"""Name of the network in stored configs."""


@dataclass(frozen=True)
class StudentConfig:
    """Width and depth of the network.

    Attributes:
        widths: channels at strides 2, 4, 8 and 16.
        depths: number of 3x3 convolutions at strides 4, 8 and 16, without the downsampling ones.
        hidden: channels of the layers before the outputs, at strides 4, 8 and 16.
        outputs: channels of the features at strides 4, 8 and 16.
    """

    widths: tuple[int, ...] = (8, 24, 48, 96)
    depths: tuple[int, ...] = (1, 2, 3)
    hidden: tuple[int, ...] = (96, 192, 288)
    outputs: tuple[int, ...] = (24, 32, 96)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> StudentConfig:
        """Build from plain data such as JSON; missing fields keep their defaults."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(f"features.network: expected some of {', '.join(known)}, got {unknown[0]!r}.")
        return cls(**{name: tuple(values) for name, values in fields.items()})


class Layer(nn.Module):
    """A convolution and ReLU; in training with batch norm and, for equal shapes, a residual connection.

    Args:
        inside: input channels.
        outside: output channels.
        size: kernel size: 1 and 3 keep the size of the map, 2 and 4 halve it.
        folded: whether batch norm and residual connection are folded into the kernel.
    """

    def __init__(self, inside: int, outside: int, size: int, *, folded: bool) -> None:
        super().__init__()
        stride, margin = (1, size // 2) if size % 2 else (2, size // 2 - 1)
        self.conv = nn.Conv2d(inside, outside, size, stride, margin, bias=folded)
        self.norm = None if folded else nn.BatchNorm2d(outside)
        self._around = not folded and size == 3

    def forward(self, x: Tensor) -> Tensor:
        """(B,c,h,w) to (B,C,h,w), or half the size."""
        y: Tensor = self.conv(x)
        if self.norm is not None:
            y = self.norm(y)
        return F.relu(y + x if self._around else y, inplace=True)

    @torch.no_grad()
    def folded_into(self, layer: Layer) -> None:
        """Fold this layer, in evaluation mode, into the weights of another layer."""
        assert self.norm is not None
        assert layer.conv.bias is not None
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        kernel, bias = fuse_conv_bn_weights(self.conv.weight, None, *statistics)
        layer.conv.weight.copy_(kernel)
        layer.conv.bias.copy_(bias)
        if self._around:
            channel = torch.arange(len(kernel))
            layer.conv.weight[channel, channel, 1, 1] += 1


class Student(nn.Module):
    """Features at strides 4, 8 and 16, (B,3,H,W) in [-1,1] to a (B,C,ceil(H/s),ceil(W/s)) map per stage.

    Args:
        config: see StudentConfig.
        folded: True for inference; False for training, with batch norm.
    """

    def __init__(self, config: StudentConfig, *, folded: bool = True) -> None:
        super().__init__()
        counts = [len(values) for values in dataclasses.astuple(config)]
        if counts != [4, 3, 3, 3]:
            raise InputError(
                "features.network: expected 4 widths, 3 depths, 3 hidden and 3 outputs, got "
                f"{counts[0]}, {counts[1]}, {counts[2]} and {counts[3]}."
            )
        self.config = config
        self.stem = Layer(3, config.widths[0], 4, folded=folded)
        self.stages, self.hidden, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (before, width), depth, hidden, output in zip(
            pairwise(config.widths), config.depths, config.hidden, config.outputs, strict=True
        ):
            layers = [Layer(before, width, 2, folded=folded)]
            layers += [Layer(width, width, 3, folded=folded) for _ in range(depth)]
            self.stages.append(nn.Sequential(*layers))
            self.hidden.append(Layer(width, hidden, 1, folded=folded))
            self.heads.append(nn.Conv2d(hidden, output, 1))

    def forward(self, pixels: Tensor, stages: int = 3) -> list[Tensor]:
        """Features of the first `stages` stages; images are padded to multiples of 16 by replication."""
        height, width = pixels.shape[-2:]
        if height % 16 or width % 16:
            pixels = F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
        # Channels-last is 25 % faster on a CPU; all layers keep this format.
        x, found = self.stem(pixels.contiguous(memory_format=torch.channels_last)), []
        parts = list(zip(self.stages, self.hidden, self.heads, STRIDES, strict=True))
        for stage, hidden, head, stride in parts[:stages]:
            x = stage(x)
            found.append(head(hidden(x))[..., : -(-height // stride), : -(-width // stride)])
        return found

    def folded(self) -> Student:
        """A copy without batch norm that equals this network in evaluation mode."""
        plain = Student(self.config)
        ours = [layer for layer in self.modules() if isinstance(layer, Layer)]
        theirs = [layer for layer in plain.modules() if isinstance(layer, Layer)]
        for layer, target in zip(ours, theirs, strict=True):
            layer.folded_into(target)
        plain.heads.load_state_dict(self.heads.state_dict())
        return plain.eval()


class StudentFeatures(nn.Module):
    """The student as a frozen feature extractor, with the interface of FeatureExtractor.

    Args:
        network: fields of StudentConfig that differ from the defaults.
        layers: a selection of "stage1", "stage2", "stage3".

    Attributes:
        channels: C of every layer.
        strides: pixels per position of every layer.
        least_side: recommended smallest image side in pixels; smaller images should be upsampled.
    """

    least_side = LEAST_SIDE
    std: Tensor

    def __init__(self, network: Mapping[str, Any], layers: tuple[str, ...]) -> None:
        super().__init__()
        wrong = [layer for layer in layers if layer not in STAGES]
        if wrong or not layers:
            raise InputError(
                f"layers: expected some of {', '.join(STAGES)} for the bundled network, got "
                f"{wrong[0] if wrong else 'none'!r}."
            )
        self.backbone = Student(StudentConfig.of(network))
        self._indices = [STAGES.index(layer) for layer in layers]
        self.channels = tuple(self.backbone.config.outputs[index] for index in self._indices)
        self.strides = tuple(STRIDES[index] for index in self._indices)
        # Scale of the network's input relative to [0,1], as in FeatureExtractor.
        self.register_buffer("std", torch.full((3, 1, 1), 0.5))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> StudentFeatures:
        """Stay in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of RGB images in [0,1], a (B,C,h,w) map per layer."""
        return self.unnormalised(image.mul(2).sub_(1))

    def unnormalised(self, pixels: Tensor) -> list[Tensor]:
        """Features of pixels in about [-1,1]."""
        found = self.backbone(pixels, max(self._indices) + 1)
        return [found[index] for index in self._indices]

    def load_backbone(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load the network's state dict; a missing, unknown or misshapen tensor is an error that names it."""
        own = self.backbone.state_dict()
        differ = {key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape}
        wrong = sorted((own.keys() ^ weights.keys()) | differ)
        if wrong:
            raise InputError(
                f"weights {source}: expected those of the bundled network, but {wrong[0]!r} differs."
            )
        self.backbone.load_state_dict(dict(weights))
