"""A small network that describes patches: the one that comes with the package, taught by a pretrained one.

Everything is a plain convolution followed by ReLU. Depthwise convolutions need fewer operations, but a CPU
waits for memory in them: at equal maps this network is several times as fast as MobileNetV2. Most of what it
can say comes from the wide 1x1 layers before its outputs, which cost little.
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
"""Names of the outputs, as timm's backbones of the same strides have them."""
STRIDES = (4, 8, 16)
BUNDLED = "bundled"
"""Its name in a stored config."""


@dataclass(frozen=True)
class StudentConfig:
    """How wide and deep the network is.

    Attributes:
        widths: channels at strides 2, 4, 8 and 16.
        depths: 3x3 convolutions at strides 4, 8 and 16, besides those that halve the size.
        hidden: channels between these and the features, at strides 4, 8 and 16.
        outputs: channels of the features at strides 4, 8 and 16.
    """

    widths: tuple[int, ...] = (8, 24, 48, 96)
    depths: tuple[int, ...] = (1, 2, 3)
    hidden: tuple[int, ...] = (96, 192, 288)
    outputs: tuple[int, ...] = (24, 32, 96)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> StudentConfig:
        """From plain data, such as JSON holds; missing fields keep their defaults."""
        known = [one.name for one in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(f"features.network: expected some of {', '.join(known)}, got {unknown[0]!r}.")
        return cls(**{name: tuple(values) for name, values in fields.items()})


class Layer(nn.Module):
    """A convolution and ReLU; while it is trained with batch norm, and with a way around where sizes allow.

    Args:
        inside: channels that come in.
        outside: channels that go out.
        size: of the kernel: 1 and 3 keep the map's size, 2 and 4 halve it.
        folded: whether norm and way around are part of the kernel.
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
        """Write what this layer does in evaluation mode into a folded one."""
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
    """Features at strides 4, 8 and 16, (B,3,H,W) in [-1,1] to one (B,C,ceil(H/s),ceil(W/s)) per stage.

    Args:
        config: see StudentConfig.
        folded: for use; otherwise for training, with batch norms.
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
        """Features of the first `stages` stages; sizes that don't divide by 16 are continued at the rim."""
        height, width = pixels.shape[-2:]
        if height % 16 or width % 16:
            pixels = F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
        # A quarter faster on a CPU, and all layers keep to it.
        x, found = self.stem(pixels.contiguous(memory_format=torch.channels_last)), []
        parts = list(zip(self.stages, self.hidden, self.heads, STRIDES, strict=True))
        for stage, hidden, head, stride in parts[:stages]:
            x = stage(x)
            found.append(head(hidden(x))[..., : -(-height // stride), : -(-width // stride)])
        return found

    def folded(self) -> Student:
        """The same function without batch norms; this network's evaluation mode is what it equals."""
        plain = Student(self.config)
        ours = [one for one in self.modules() if isinstance(one, Layer)]
        theirs = [one for one in plain.modules() if isinstance(one, Layer)]
        for layer, target in zip(ours, theirs, strict=True):
            layer.folded_into(target)
        plain.heads.load_state_dict(self.heads.state_dict())
        return plain.eval()


class StudentFeatures(nn.Module):
    """The student as a frozen feature extractor, with the interface of FeatureExtractor.

    Args:
        network: fields of StudentConfig that differ from its defaults.
        layers: some of "stage1", "stage2", "stage3".

    Attributes:
        channels: C of every layer.
        strides: pixels per position of every layer.
        least_side: smaller images are better enlarged to it, in pixels.
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
        # What a unit of the network's input is in [0,1], as FeatureExtractor has it.
        self.register_buffer("std", torch.full((3, 1, 1), 0.5))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> StudentFeatures:
        """Stay in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of RGB images in [0,1], one (B,C,h,w) per layer."""
        return self.unnormalised(image.mul(2).sub_(1))

    def unnormalised(self, pixels: Tensor) -> list[Tensor]:
        """The same of pixels in about [-1,1]."""
        found = self.backbone(pixels, max(self._indices) + 1)
        return [found[index] for index in self._indices]

    def load_backbone(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load the network's tensors; one that is missing, unknown or misshapen is an error that names it."""
        own = self.backbone.state_dict()
        differ = {key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape}
        wrong = sorted((own.keys() ^ weights.keys()) | differ)
        if wrong:
            raise InputError(
                f"weights {source}: expected those of the bundled network, but {wrong[0]!r} differs."
            )
        self.backbone.load_state_dict(dict(weights))
