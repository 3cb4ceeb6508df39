"""What the options of all commands share: base class, metadata, help texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

SETTINGS = "one field of the method's config; 'mendiff info MODEL --json' lists all fields"
CODEC_SETTINGS = "one field of the codec's training, such as crop=128 or codec.network.latent_channels=4"
FEATURES_SETTINGS = "one field of the tuning, such as features.layers=[stage2,stage3] or keep_weight=0.05"
BENCHMARK_SETTINGS = "one field of one method's config, as METHOD.FIELD=VALUE"
ARGUMENT = {"argument": True}
"""Metadata of a positional argument of the command line."""
FROM = {"flag": "--from"}
"""Metadata of an option with a flag that is a keyword of Python."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of the options of a workflow.

    Fields that the docstring of a subclass omits are described in SHARED.

    Attributes:
        EXAMPLES: command lines.
        SETTINGS: help text of the field `settings`, which maps dotted config fields to values.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[str] = ""


SHARED = {
    "data": "a folder of good images; a data set laid out as MVTec-AD, LOCO or AD 2, MPDD, VisA, PCB-Bank, "
    "MVTec-3D, BMAD, BTAD or KolektorSDD, or one of its categories; folders such as OK, NG and masks; or a "
    "YAML file that lists folders",
    "categories": "categories of DATA to use (default: all)",
    "layout": "auto, mvtec (MVTec-AD, MPDD, PCB-Bank, BTAD), loco, mvtec2, mvtec3d, visa, bmad, kolektor, "
    "by-label (folders such as OK and NG), or folder for good images only",
    "bit_depth": "significant bits of 16-bit and float files, such as 12; 0: as stated in the files",
    "channels": "numbers of the channels, from 0, that become red, green and blue, or of a single one that "
    "becomes grey; for images of several lights, such as TIFF (also with a page per light) and NPY",
    "resize": "stretch images to squares, or letterbox, which keeps their aspect ratio and pads; small "
    "defects of oblong images are found better with --tile",
    "tile": "cut images into tiles of this side in pixels, for small defects in large images; 0 for whole "
    "images",
    "tile_overlap": "least share of a tile that it has in common with the next (default: 0.25)",
    "region": "mask file that is white where images are inspected, or a folder with a file per category",
    "ignore": "mask file that is white where images are not inspected, or a folder with a file per category",
    "features": "timm's name of a pretrained backbone, auto (default) for the network that comes with "
    "mendiff, or none to compare pixels only, which finds fewer defects",
    "features_weights": "weights of the backbone, a local safetensors file (default: timm's, from the hub)",
    "features_input": "normalisation and padding of the backbone's input: timm (default) as timm states, "
    'tflite for weights from TensorFlow Lite ([-1,1], "same" padding)',
    "pretrained": "Stable Diffusion v1 for the paper presets: a folder, a single file, or a hub id",
    "prompt": "prompt embeddings to use without a text encoder, a safetensors file with the tensors prompt "
    "and no_prompt; for prompts per category, a tensor per category name and no_prompt",
    "codec": "a codec folder written by mendiff fit-codec, or auto for the codec that comes with mendiff",
    "textures": "a folder of texture images, such as DTD, from which half of the synthetic anomalies are cut "
    "(default: all are cut from the image itself)",
    "statistics": "global, or category for separate scales and thresholds per category; presets with a "
    "prompt per category (glad's paper/mvtec) need category",
    "model": "a model folder",
    "category": "category whose statistics, threshold and prompt are used, for models that have them per "
    "category (default: common statistics and the mean of the prompts)",
    "batch_size": "images per batch; results differ by rounding at most",
    "false_alarm_rate": "share of good parts that the threshold should flag (default: the model's)",
    "seed": "random seed of training, synthetic anomalies and generated data",
    "device": "auto, cpu, cuda, cuda:1, mps",
    "resume": "continue an interrupted run; needs the same data and options",
    "overwrite": "replace the output folder if it exists",
}
"""Help texts of options that several commands share; other options are in the command's docstring."""
