"""The options of all workflows, and of the command line: types, defaults, help and examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

SETTINGS = "one field of the method's config, all of which 'mendiff info MODEL --json' shows"
CODEC_SETTINGS = "one field of the codec's training, such as crop=128 or codec.network.latent_channels=4"
FEATURES_SETTINGS = "one field of the tuning, such as features.layers=[stage2,stage3] or keep_weight=0.05"
BENCHMARK_SETTINGS = "one field of one method's config, as METHOD.FIELD=VALUE"
ARGUMENT = {"argument": True}
"""Of a field that stands on the command line without a name."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a workflow is told.

    Fields that are not in a class's docstring are described in SHARED.

    Attributes:
        EXAMPLES: command lines.
        SETTINGS: what its `settings` change; dotted names of fields to their values.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[str] = ""


SHARED = {
    "data": "a folder of good images; a data set laid out as MVTec-AD, MPDD, VisA, MVTec-3D, BMAD or "
    "PCB-Bank, or one of its categories; or a YAML file that lists folders",
    "categories": "which of DATA, where it holds several; all unless given",
    "layout": "auto, mvtec (MVTec-AD, MPDD, PCB-Bank), visa, mvtec3d, bmad, or folder for good images only",
    "bit_depth": "bits that the values of 16-bit files use, such as 12; 0 for what the files say",
    "features": "timm's name of a pretrained backbone, or auto for the network that comes with mendiff, the "
    "default; none compares pixels alone, which finds less",
    "features_weights": "the backbone's weights, a local safetensors file; timm's from the hub unless given",
    "features_input": "how the backbone expects its images: timm for what timm states, the default, or "
    'tflite for weights that come from TensorFlow Lite ([-1,1], "same" padding)',
    "pretrained": "Stable Diffusion v1 for the paper presets: a folder, a single file, or a hub id",
    "prompt": "prompt embeddings, a safetensors file, where there is no text encoder: prompt and no_prompt; "
    "for prompts per category, one by the name of each and no_prompt",
    "codec": "a codec folder that mendiff fit-codec wrote, or auto for the codec that comes with mendiff",
    "textures": "a folder of pictures, such as DTD, that half of the synthetic anomalies are cut from; "
    "unless given, all come from the image itself",
    "statistics": "global, or category for scales and a threshold of its own for every category; presets "
    "with a prompt for every category (glad's paper/mvtec) need category",
    "model": "a model folder",
    "category": "whose statistics, threshold and prompt to use, of a model that has them for every category; "
    "unless given, those of all together, and the mean of the prompts",
    "batch_size": "images that pass through the networks together; does not change the results",
    "false_alarm_rate": "share of good parts that thresholds are meant to flag; the model's own unless "
    "given, 0.01 in a fit",
    "seed": "of everything random: training, synthetic anomalies, drawn data",
    "device": "auto, cpu, cuda, cuda:1, mps",
    "resume": "continue a run that was interrupted, with the same data and options",
    "overwrite": "replace the output folder if it exists",
}
"""Help of the options that several commands have; a command's own options are in its docstring."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Make a set of parts, learn from the good ones, find the defects, and write a report with pictures.

    Attributes:
        out: where to write data, models and the report.
        make_data: only draw the data set into this folder, and stop. Every defective image comes with its
            mask and its clean twin, the same photo of the same part without the defect.
        method: glad, diad or ran, at its tiny preset.
        categories: which of blister, fabric, flange and tile; all unless given.
    """

    EXAMPLES: ClassVar = (
        "mendiff demo",
        "mendiff demo -o my-demo --json",
        "mendiff demo --make-data parts",
    )
    SETTINGS: ClassVar = SETTINGS

    out: Path = Path("mendiff-demo")
    make_data: Path | None = None
    method: str = "glad"
    categories: list[str] | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Look for faults in a data set: masks, damaged images, equal pictures, test images in training.

    Good images that look unlike all others are named, too: a defect among them would be learned as good.
    Ends with 0, or with 2 where fit and evaluate would refuse the data.

    Attributes:
        image_size: side that a model will see, to say what vanishes; 0 for the one that fit takes by itself.
    """

    EXAMPLES: ClassVar = (
        "mendiff check mvtec",
        "mendiff check VisA/candle --json",
        "mendiff check parts.yaml  # bolts: {train: a, good: b, defective: [bent, dirty], masks: c}",
    )

    data: Path = field(metadata=ARGUMENT)
    layout: str = "auto"
    image_size: int = 0
    bit_depth: int = 0


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Learn what good parts look like and write a model folder.

    Attributes:
        out: where to write the model.
        method: glad, diad or ran.
        preset: which settings to start from: tiny; small, which takes about an hour on two
            cores; auto, which fits both where an hour (--minutes) allows it, and keeps the one that finds
            more flaws laid into held-back good images; paper, for a category of a paper paper/mvtec/cable, or
            for one model for all paper/mvtec.
        image_size: side to which images are resized; the images' own size (up to 320) unless given.
        balance: image, or category to show every category equally often.
        devices: how many of this machine, a process each, share out every step's batch; the result is that of
            one.
        nodes: machines that train together; run the command on each, with torchrun, SLURM, or the variables
            MASTER_ADDR, MASTER_PORT and NODE_RANK, and with DATA and -o on a disk that all of them see.
        strategy: auto, ddp, or fsdp, which shares out gradients and the optimizer's memory, too; the latter
            for adamw without averaged weights (training.ema=0).
        steps: of training, the same as --set training.steps; unless given, tiny trains longer where the
            machine is fast. Data, settings, --seed and --steps together fix the model.
        minutes: that training may take on this machine, in place of what the preset is meant for: all its
            stages become shorter or longer alike; with --preset auto, that all its fits may take.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit photos/good -o model",
        "mendiff fit mvtec/bottle -o bottle --features resnet18 --features-weights resnet18.safetensors",
        "mendiff fit photos/good -o model --steps 2000 --seed 1 --set synthesis.foreground=auto",
        "mendiff fit photos/good -o model --preset auto --minutes 90  # tiny or small, by what they find",
        "mendiff fit parts -o model --method ran --statistics category",
        "mendiff fit photos/good -o model --textures dtd/images",
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
    bit_depth: int = 0
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    steps: int | None = None
    minutes: float | None = None
    false_alarm_rate: float = 0.01
    resume: bool = False
    overwrite: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FitCodecOptions(Options):
    """Train or tune an autoencoder on good images; `mendiff fit --codec` takes it.

    Attributes:
        out: where to write the codec.
        preset: tiny, or kl for Stable Diffusion's kind, tuned as for DiAD's preset paper: on
            ImageNet-normalised pixels, against a discriminator.
        features: timm's name of a backbone for the perceptual term, or auto for the bundled one, the default.
        start: a codec folder to go on from, such as mendiff convert codec writes, or auto for the bundled.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit-codec photos/good -o codec",
        "mendiff fit-codec mvtec -o codec --preset kl --start sd-codec --device cuda",
    )
    SETTINGS: ClassVar = CODEC_SETTINGS

    data: Path = field(metadata=ARGUMENT)
    out: Path
    preset: str = "tiny"
    start: Path | None = None
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
class FitFeaturesOptions(Options):
    """Tune a backbone until good images and their reconstructions look alike to it.

    Attributes:
        out: where to write features.safetensors, which --features-weights of mendiff fit takes.
        model: a fitted model, which makes the reconstructions.
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

    data: Path = field(metadata=ARGUMENT)
    out: Path
    model: Path | None = None
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
class PredictOptions(Options):
    """Find defects in images: scores as CSV and JSON, heat maps and reconstructions as pictures.

    Ends with 0, or with 3 where some images could not be read or drawn: their rows say why. What was found
    before a run was ended early is kept beside the output folder.

    Attributes:
        images: image files or folders.
        out: where to write the findings.
        explain: take more time for the reconstructions, where the method can (ran: gradient denoising, in
            float64; another number of threads changes next to never anything).
        offload: keep each network on the device only while it is used; less memory, more time, same results.
        half: keep weights in bfloat16; half their memory, and scores differ a little.
    """

    EXAMPLES: ClassVar = (
        "mendiff predict model photos/today -o findings",
        "mendiff predict model a.png b.png -o findings --json",
        "mendiff predict model photos/today -o findings --category bolts --explain",
    )

    model: Path = field(metadata=ARGUMENT)
    images: tuple[Path, ...] = field(metadata=ARGUMENT)
    out: Path
    category: str | None = None
    explain: bool = False
    batch_size: int = 8
    device: str = "auto"
    offload: bool = False
    half: bool = False
    false_alarm_rate: float | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """Show how models come to their findings: a strip of pictures for every image, timestep by timestep.

    Every strip begins with the image and ends with reconstruction and anomaly map; in between stand glad's
    estimates, stop maps and fusion, diad's estimates, ran's maps and gradient walk. Several models stand one
    under another. Findings are those of mendiff predict. Ends with 0, or with 3 where some images could not
    be read or drawn: their rows in explain.json say why.

    Attributes:
        models: one or more model folders.
        images: image files or folders.
        out: where to write the strips, and explain.json beside them.
        limit: so many images at most, evenly picked; 0 for all.
        side: of the single pictures, the longer one, in pixels, 64 to 1024.
    """

    EXAMPLES: ClassVar = (
        "mendiff explain model part.png -o why",
        "mendiff explain glad diad ran part.png -o side-by-side  # several models, one under another",
        "mendiff explain model photos/today -o why --limit 0 --side 240 --json",
    )

    models: tuple[Path, ...] = field(metadata=ARGUMENT)
    images: tuple[Path, ...] = field(metadata=ARGUMENT)
    out: Path
    category: str | None = None
    limit: int = 20
    side: int = 160
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Measure a model on labelled test images.

    Where DATA has clean twins of defective images (CATEGORY/twin/DEFECT/NAME.png), it compares
    reconstructions with them. Ends with 0, or with 3 where some test images could not be read: they are named
    and in no figure.

    Attributes:
        out: also write a run folder with all numbers and pictures, for mendiff report.
        report: also write this HTML file with all test images.
        controls: also measure two controls that need no diffusion model, and this one after a single step.
        half: compute in bfloat16 where the device is fast at that, as predict does; figures differ a little.
    """

    EXAMPLES: ClassVar = (
        "mendiff evaluate bottle mvtec/bottle",
        "mendiff evaluate bottle mvtec/bottle -o bottle-run --controls",
        "mendiff evaluate bottle mvtec/bottle --json --report report.html",
        "mendiff evaluate model parts.yaml  # see mendiff check --help",
    )

    model: Path = field(metadata=ARGUMENT)
    data: Path = field(metadata=ARGUMENT)
    out: Path | None = None
    report: Path | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    controls: bool = False
    batch_size: int = 8
    device: str = "auto"
    half: bool = False
    false_alarm_rate: float | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """Set a model's thresholds anew, from good images that it has not seen, or for another rate; no training.

    Images of a category that the model has a threshold of its own for set that one, and all images together
    the model's common one. Without images the scores of the fit stay, and the rate alone changes.

    Attributes:
        data: good images that it has not seen: see DATA.
        out: where to write the model with its new thresholds.
    """

    EXAMPLES: ClassVar = (
        "mendiff calibrate model photos/good-of-this-week -o model-2",
        "mendiff calibrate model photos/good-of-this-week -o model-2 --false-alarm-rate 0.001",
        "mendiff calibrate model -o fewer-alarms --false-alarm-rate 0.001  # the rate alone",
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
class ReportOptions(Options):
    """Make a page of a run: metrics, curves and all images, in one HTML file that opens offline.

    Attributes:
        run: a run folder that mendiff evaluate -o wrote.
        out: the HTML file (default: report.html in the run folder); an earlier report there is replaced.
    """

    EXAMPLES: ClassVar = (
        "mendiff report bottle-run",
        "mendiff report bottle-run -o bottle.html --json",
    )

    run: Path = field(metadata=ARGUMENT)
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """Choose how a model searches (T', thresholds, noise levels), without any defective image.

    Every candidate is scored on held-back good images with and without synthetic anomalies; it replaces the
    present setting only if it is better beyond chance.

    Attributes:
        out: where to write the tuned model, all trials and their curves.
        repetitions: sets of synthetic anomalies that candidates are compared on.
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
class BenchmarkOptions(Options):
    """Compare methods, controls and anomalib's models on the same images; an interrupted run goes on.

    Attributes:
        out: where jobs and tables are kept; goes on with what is there, and the tables show all of it.
        suite: a paper's experiment, such as glad-mvtec or diad-visa, with the paper's figures beside ours.
        ablation: a paper's ablation, such as glad-mechanisms or diad-sff.
        methods: ours (glad, diad, ran), controls (median-colour, memory-bank), anomalib's (patchcore, ...).
        multi_class: one model learns all categories, instead of one model for each.
        seeds: one repetition each; tables then show means and deviations.
        preset: of our methods.
        jobs: how many run at once, each in a process of its own; several GPUs are shared out.
        ray: address of a Ray cluster that runs the jobs, or local.
        half: measure our rows in bfloat16 where the device is fast at that; figures differ a little.
    """

    EXAMPLES: ClassVar = (
        "mendiff benchmark parts -o runs/parts --methods glad ran median-colour",
        "mendiff benchmark mvtec -o runs/mvtec --suite glad-mvtec --preset paper "
        "--pretrained CompVis/stable-diffusion-v1-4 --device cuda",
        "mendiff benchmark parts -o runs/sff --ablation diad-sff --set diad.training.steps=400",
        "mendiff benchmark parts -o runs/peers --methods glad patchcore padim memory-bank "
        "--seeds 0 1 --features resnet18 --features-weights resnet18.safetensors",
    )
    SETTINGS: ClassVar = BENCHMARK_SETTINGS

    data: Path = field(metadata=ARGUMENT)
    out: Path
    suite: str | None = None
    ablation: str | None = None
    methods: list[str] | None = None
    categories: list[str] | None = None
    layout: str = "auto"
    multi_class: bool = False
    seeds: list[int] | None = None
    preset: str = "tiny"
    features: str | None = None
    features_weights: Path | None = None
    features_input: str | None = None
    pretrained: str | None = None
    prompt: Path | None = None
    codec: Path | None = None
    textures: Path | None = None
    statistics: str = "global"
    jobs: int = 1
    ray: str | None = None
    device: str = "auto"
    half: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Turn a published checkpoint into a model or codec folder of ours.

    Attributes:
        kind: what the checkpoint holds: glad, diad, or codec for a fine-tuned autoencoder.
        checkpoint: a .ckpt, .pth, .bin or .safetensors file; for glad also its folder.
        out: where to write the model or codec.
        preset: for glad and diad: which settings the weights go with, such as paper/mvtec/cable.
        good: for glad and diad: some good images, from which the threshold is learned.
        codec: for glad: a tuned autoencoder, file or codec folder; Stable Diffusion's unless given.
        features_weights: the feature extractor, where the checkpoint holds none or a tuned one comes with it.
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
    """Say beforehand what fits a graphics card: memory of training and prediction, and settings for it.

    One step is rehearsed at full size on tensors without numbers; nothing is downloaded, no card is needed.

    Attributes:
        method: glad, diad or ran.
        preset: which settings to start from: tiny, paper, or for a category of a paper paper/mvtec/cable.
        memory: of the card, such as 24GB or 11000MB.
        size: side of the images in pixels; the preset's unless given.
        batch: images per step of the optimiser; the preset's unless given.
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


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Say what a model folder holds: method, settings, training data, threshold."""

    EXAMPLES: ClassVar = (
        "mendiff info model",
        "mendiff info model --json",
    )

    model: Path = field(metadata=ARGUMENT)


COMMANDS = (
    DemoOptions,
    CheckOptions,
    FitOptions,
    FitCodecOptions,
    FitFeaturesOptions,
    PredictOptions,
    ExplainOptions,
    EvaluateOptions,
    CalibrateOptions,
    ReportOptions,
    TuneOptions,
    BenchmarkOptions,
    ConvertOptions,
    PlanOptions,
    InfoOptions,
)
