"""Options of the commands that make models and codecs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mendiff.workflows.options.base import (
    ARGUMENT,
    CODEC_SETTINGS,
    FEATURES_SETTINGS,
    FROM,
    SETTINGS,
    Options,
)


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Train a model on good images and write a model folder.

    Attributes:
        out: output folder for the model.
        method: glad, diad or ran.
        preset: base settings. tiny; small, about an hour on two cores; auto fits tiny and small within an
            hour (or --minutes) and keeps the model that detects more synthetic defects in held-back good
            images; paper, or paper/mvtec for a multi-class model, paper/mvtec/cable for a category.
        image_size: side in pixels to which images are resized (default: the images' own, at most 320).
        balance: image, or category to sample all categories equally often.
        devices: number of devices of this machine, with a process each. They share the batch of every step;
            the result does not depend on their number.
        nodes: number of machines. Run the command on each of them, with torchrun, SLURM, or the variables
            MASTER_ADDR, MASTER_PORT and NODE_RANK; DATA and -o must be on a shared disk.
        strategy: auto, ddp, or fsdp, which also shards gradients and optimizer state; fsdp needs adamw
            without averaged weights (training.ema=0).
        steps: training steps, the same as --set training.steps. By default, tiny trains longer on a fast
            machine. Data, settings, --seed and --steps together determine the model.
        false_alarm_rate: share of good parts that the threshold should flag (default: 0.01, or that of
            --from).
        minutes: training time on this machine; scales the steps of all training stages. With --preset auto,
            the time of all fits together.
        from_model: a model folder to go on from, when DATA are good images of new variants; needs --old.
            Networks and settings come from this model, and a tenth of its steps are trained, old and new
            images equally often. --steps 0 leaves the networks unchanged. Statistics and thresholds are
            computed from old and new images.
        old: for --from: the good images from which that model was fitted, as DATA.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit photos/good -o model",
        "mendiff fit mvtec/bottle -o bottle --features resnet18 --features-weights resnet18.safetensors",
        "mendiff fit photos/good -o model --steps 2000 --seed 1 --set synthesis.foreground=auto",
        "mendiff fit photos/good -o model --preset auto --minutes 90  # the better of tiny and small",
        "mendiff fit parts -o model --method ran --statistics category",
        "mendiff fit photos/good -o model --textures dtd/images",
        "mendiff fit strips/good -o model --resize letterbox --ignore labels.png",
        "mendiff fit stacks/good -o model --channels 0 2 5  # images of several lights",
        "mendiff fit boards/good -o model --tile 256  # small defects in large images",
        "mendiff fit photos/blue -o model-2 --from model --old photos/good  # a new variant of the part",
        "mendiff fit parts -o model --method diad --codec codec --resume",
        "mendiff fit mvtec/cable -o cable --preset paper/mvtec/cable "
        "--pretrained CompVis/stable-diffusion-v1-4",
        "mendiff fit mvtec -o model --preset paper/mvtec --statistics category "
        "--pretrained CompVis/stable-diffusion-v1-4",
        "mendiff fit mvtec -o model --method diad --device cuda --devices 4",
        "NODE_RANK=1 MASTER_ADDR=a MASTER_PORT=29500 mendiff fit mvtec -o model --devices 4 --nodes 2",
    )
    SETTINGS: ClassVar = SETTINGS

    data: Path = field(metadata=ARGUMENT)
    out: Path
    method: str = "glad"
    preset: str = "tiny"
    features: str | None = None
    features_weights: Path | None = None
    features_input: str | None = None
    image_size: int | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    statistics: str = "global"
    balance: str = "image"
    pretrained: str | None = None
    prompt: Path | None = None
    codec: Path | None = None
    textures: Path | None = None
    resize: str = "stretch"
    tile: int = 0
    tile_overlap: float | None = None
    region: Path | None = None
    ignore: Path | None = None
    bit_depth: int = 0
    channels: list[int] | None = None
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    steps: int | None = None
    minutes: float | None = None
    false_alarm_rate: float | None = None
    from_model: Path | None = field(default=None, metadata=FROM)
    old: Path | None = None
    resume: bool = False
    overwrite: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PartOptions(Options):
    """Options of the commands that train a part of a model."""

    data: Path = field(metadata=ARGUMENT)
    out: Path
    preset: str = "tiny"
    features: str | None = None
    features_weights: Path | None = None
    features_input: str | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FitCodecOptions(PartOptions):
    """Train or fine-tune an autoencoder on good images, for `mendiff fit --codec`.

    Attributes:
        out: output folder for the codec.
        preset: tiny, or kl for Stable Diffusion's autoencoder, fine-tuned as for DiAD's preset paper: on
            ImageNet-normalised pixels, with a discriminator.
        features: timm's name of a backbone for the perceptual loss, or auto (default) for the bundled one.
        start: a codec folder to fine-tune, such as from mendiff convert codec, or auto for the bundled codec.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit-codec photos/good -o codec",
        "mendiff fit-codec mvtec -o codec --preset kl --start sd-codec --device cuda",
    )
    SETTINGS: ClassVar = CODEC_SETTINGS

    start: Path | None = None


@dataclass(frozen=True, kw_only=True)
class FitFeaturesOptions(PartOptions):
    """Fine-tune a backbone so that good images and their reconstructions have similar features.

    Attributes:
        out: output folder for features.safetensors, to be used with --features-weights of mendiff fit.
        model: a fitted model that computes the reconstructions.
        preset: tiny, or paper for GLAD's backbone and layers.
        features: timm's name of the backbone.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit-features photos/good -o tuned --model model --features resnet18 "
        "--features-weights resnet18.safetensors",
        "mendiff fit-features VisA/candle -o tuned --model candle --preset paper --device cuda",
        "mendiff fit parts -o better --features resnet18 --features-weights tuned/features.safetensors",
    )
    SETTINGS: ClassVar = FEATURES_SETTINGS

    model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """Tune inference settings (T', thresholds, noise levels) without defective images.

    Every candidate is evaluated on held-back good images with and without synthetic anomalies. It replaces
    the current setting only if the gain is statistically significant.

    Attributes:
        out: output folder for the tuned model, all trials and their curves.
        repetitions: number of synthetic anomaly sets on which candidates are compared.
    """

    EXAMPLES: ClassVar = (
        "mendiff tune model photos/good -o tuned",
        "mendiff tune bottle mvtec/bottle -o tuned --repetitions 8",
    )

    model: Path = field(metadata=ARGUMENT)
    data: Path = field(metadata=ARGUMENT)
    out: Path
    categories: list[str] | None = None
    layout: str = "auto"
    repetitions: int = 4
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Options):
    """Train the denoiser of a fitted GLAD model to sample in few steps, for faster predictions.

    The student starts at a fixed timestep and has no adaptive search. Its quality and speed are printed
    beside those of the model, on synthetic defects in held-back good images.

    Attributes:
        data: the good images of the model's fit.
        out: output folder for the distilled model and the comparison.
        sampler_steps: steps of the student.
        start_timestep: timestep at which noise is added (default: the median at which the model's search
            stops for synthetic defects).
        steps: training steps (default: a third of the model's).
    """

    EXAMPLES: ClassVar = (
        "mendiff distill model photos/good -o fast",
        "mendiff distill model photos/good -o faster --sampler-steps 1 --start-timestep 500",
    )

    model: Path = field(metadata=ARGUMENT)
    data: Path = field(metadata=ARGUMENT)
    out: Path
    sampler_steps: int = 2
    start_timestep: int | None = None
    steps: int | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """Recompute a model's thresholds without training, from new good images or for another false-alarm rate.

    All images together set the common threshold; the images of a category also set the threshold of that
    category, if the model has one. Without images only the false-alarm rate changes.

    Attributes:
        data: good images that are not training images: see DATA.
        out: output folder for the model with new thresholds.
    """

    EXAMPLES: ClassVar = (
        "mendiff calibrate model photos/good-of-this-week -o model-2",
        "mendiff calibrate model photos/good-of-this-week -o model-2 --false-alarm-rate 0.001",
        "mendiff calibrate model -o fewer-alarms --false-alarm-rate 0.001  # only the rate",
    )

    model: Path = field(metadata=ARGUMENT)
    out: Path
    data: Path | None = field(default=None, metadata=ARGUMENT)
    false_alarm_rate: float | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    batch_size: int = 8
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Convert a published checkpoint into a model or codec folder.

    Attributes:
        kind: content of the checkpoint: glad, diad, or codec for a fine-tuned autoencoder.
        checkpoint: a .ckpt, .pth, .bin or .safetensors file; for glad also its folder.
        out: output folder for the model or codec.
        preset: for glad and diad: settings that belong to the weights, such as paper/mvtec/cable.
        good: for glad and diad: good images for the threshold.
        codec: for glad: a fine-tuned autoencoder, file or codec folder (default: Stable Diffusion's).
        features_weights: weights of the feature extractor, if the checkpoint has none or others are used.
    """

    EXAMPLES: ClassVar = (
        "mendiff convert glad cable_4000step_bs32_eps_anomaly2_0 -o cable --preset paper/mvtec/cable "
        "--good mvtec/cable --pretrained CompVis/stable-diffusion-v1-4",
        "mendiff convert diad diad.ckpt -o model --good mvtec/bottle",
        "mendiff convert codec mvtecad_fs.ckpt -o codec",
    )
    SETTINGS: ClassVar = SETTINGS

    kind: str = field(metadata=ARGUMENT)
    checkpoint: Path = field(metadata=ARGUMENT)
    out: Path
    preset: str = "paper"
    good: Path | None = None
    pretrained: str | None = None
    codec: Path | None = None
    features_weights: Path | None = None
    prompt: Path | None = None
    device: str = "auto"
    overwrite: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """Estimate the GPU memory of training and prediction, and choose settings that fit.

    Peak memory is estimated under torch's FakeTensorMode: no GPU and no download is needed.

    Attributes:
        method: glad, diad or ran.
        preset: base settings: tiny, small, paper, or for a category of a paper paper/mvtec/cable.
        memory: of the GPU, such as 24GB or 11000MB.
        size: image side in pixels (default: the preset's).
        batch: images per optimizer step (default: the preset's).
    """

    EXAMPLES: ClassVar = (
        "mendiff plan --memory 24GB",
        "mendiff plan --method diad --memory 11GB --set training.checkpointing=true",
        "mendiff plan --preset paper/mvtec/cable --memory 16GB --size 256 --batch 16 --json",
    )
    SETTINGS: ClassVar = SETTINGS

    method: str = "glad"
    preset: str = "paper"
    memory: str = "24GB"
    size: int | None = None
    batch: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
