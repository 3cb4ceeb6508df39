"""The options of all workflows and of the command line: types, defaults, help texts, examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

SETTINGS = "one field of the method's config; 'mendiff info MODEL --json' lists all fields"
CODEC_SETTINGS = "one field of the codec's training, such as crop=128 or codec.network.latent_channels=4"
FEATURES_SETTINGS = "one field of the tuning, such as features.layers=[stage2,stage3] or keep_weight=0.05"
BENCHMARK_SETTINGS = "one field of one method's config, as METHOD.FIELD=VALUE"
ARGUMENT = {"argument": True}
"""Metadata of a positional argument of the command line."""


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


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Generate images of parts, train on the good ones, detect the defects, and write a report.

    Attributes:
        out: output folder for data, models and the report.
        make_data: only generate the data set, into this folder. Every defective image has a mask and a clean
            twin: the same image without the defect.
        method: glad, diad or ran, with its tiny preset.
        categories: some of blister, fabric, flange and tile (default: all).
    """

    EXAMPLES: ClassVar = (
        "mendiff demo",
        "mendiff demo -o my-demo --json",
        "mendiff demo --categories tile --set training.steps=300  # shorter, and less accurate",
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
    """Check a data set: labels, masks, damaged images, duplicates, test images in the training set.

    Also names good images that differ from all others, because a defect among them would be learned as good.
    Exit code: 0, or 2 if fit and evaluate would refuse the data.

    Attributes:
        image_size: the model's image side in pixels, for the warning about defects that vanish on resizing;
            0 for the default of fit.
        out: also write all findings as JSON, and for every category a picture of the good images that differ
            most from the others.
    """

    EXAMPLES: ClassVar = (
        "mendiff check mvtec",
        "mendiff check photos/good -o checked  # with pictures of the good images that differ most",
        "mendiff check VisA/candle --json",
        "mendiff check parts.yaml  # bolts: {train: a, good: b, defective: [bent, dirty], masks: c}",
    )

    data: Path = field(metadata=ARGUMENT)
    out: Path | None = None
    layout: str = "auto"
    image_size: int = 0
    bit_depth: int = 0
    overwrite: bool = False


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
        false_alarm_rate: share of good parts that the threshold should flag.
        minutes: training time on this machine; scales the steps of all training stages. With --preset auto,
            the time of all fits together.
    """

    EXAMPLES: ClassVar = (
        "mendiff fit photos/good -o model",
        "mendiff fit mvtec/bottle -o bottle --features resnet18 --features-weights resnet18.safetensors",
        "mendiff fit photos/good -o model --steps 2000 --seed 1 --set synthesis.foreground=auto",
        "mendiff fit photos/good -o model --preset auto --minutes 90  # the better of tiny and small",
        "mendiff fit parts -o model --method ran --statistics category",
        "mendiff fit photos/good -o model --textures dtd/images",
        "mendiff fit strips/good -o model --resize letterbox --ignore labels.png",
        "mendiff fit boards/good -o model --tile 256  # small defects in large images",
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
    """Detect defects in images: scores and regions as tables, heat maps, masks and reconstructions as images.

    The model may be a folder of 'mendiff export'. All images have the size of their originals. Regions above
    the pixel threshold are listed with box, polygon, area and score in predictions.json, predictions.jsonl
    and, as a COCO data set, in predictions.coco.json. Exit code: 0, or 3 if some images could not be read or
    drawn; their rows state the reason. An image that fails never ends the run. Until a run is finished, its
    folder is DIR-unfinished, where rows and pictures can be looked at.

    Attributes:
        images: image files or folders.
        out: output folder.
        resume: continue an interrupted run, or add new images to finished findings; needs the same data and
            options.
        explain: compute reconstructions by a slower procedure, where the method has one (ran: gradient
            denoising in float64).
        raw_maps: also write every anomaly map as a float32 TIFF at the size of its image.
        offload: keep each network on the device only while it is used: less memory, more time, same results.
        half: store weights in bfloat16: half the memory, scores differ slightly.
        watch: also inspect new images as they come, until Ctrl-C, which ends the run as finished. Prints a
            line per image, with --json a JSON object per line, and writes into the output folder from the
            start.
    """

    EXAMPLES: ClassVar = (
        "mendiff predict model photos/today -o findings",
        "mendiff predict model photos/today -o findings --resume  # after an interruption",
        "mendiff predict model photos/line-3 -o findings --watch",
        "mendiff predict model a.png b.png -o findings --json",
        "mendiff predict model photos/today -o findings --category bolts --explain",
    )

    model: Path = field(metadata=ARGUMENT)
    images: tuple[Path, ...] = field(metadata=ARGUMENT)
    out: Path
    category: str | None = None
    explain: bool = False
    raw_maps: bool = False
    batch_size: int = 8
    device: str = "auto"
    offload: bool = False
    half: bool = False
    false_alarm_rate: float | None = None
    resume: bool = False
    watch: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """Draw the intermediate results of a prediction: a strip of pictures per image, timestep by timestep.

    A strip starts with the image and ends with reconstruction and anomaly map. Between them are glad's
    estimates, stop maps and fusion, diad's estimates, or ran's maps and gradient steps. Several models are
    drawn below each other. Results are those of mendiff predict. Exit code: 0, or 3 if some images could not
    be read or drawn; their rows in explain.json state the reason.

    Attributes:
        models: one or more model folders.
        images: image files or folders.
        out: output folder for the strips and explain.json.
        limit: maximum number of images, evenly spaced; 0 for all.
        side: longer side of each picture in pixels, 64 to 1024.
    """

    EXAMPLES: ClassVar = (
        "mendiff explain model part.png -o why",
        "mendiff explain glad diad ran part.png -o side-by-side  # several models",
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
    """Compute metrics on labelled test images.

    If DATA has clean twins of defective images (CATEGORY/twin/DEFECT/NAME.png), reconstructions are compared
    with them. Exit code: 0, or 3 if some test images could not be read; they are listed and excluded from the
    metrics.

    Attributes:
        out: also write a run folder with all numbers and pictures, for mendiff report.
        report: also write this HTML report with all test images.
        controls: also measure baselines: median colour, memory bank, and this model after a single training
            step.
        half: compute in bfloat16 where the device accelerates it; metrics differ slightly.
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
class MonitorOptions(Options):
    """Test whether the scores of new parts still match the calibration set, and since when they do not.

    A drift makes many p-values small or large, a defect only a single one. A martingale bets against the
    p-values, image by image in the order of the rows. Without drift it ever reaches 100 with a probability
    of at most 1 %, so the command may be repeated while rows are added. Exit code: 0, or 4 for drift.

    Attributes:
        findings: one or more output folders of mendiff predict, predictions.jsonl or predictions.csv, in the
            order of time.
        out: the picture, a PNG file, or an existing folder for monitor.png (default: the first findings
            folder); an existing picture is replaced.
        category: category of the findings, for models with statistics per category.
        defects: share of defective parts that is not drift.
        seed: of the random order of equal scores.
    """

    EXAMPLES: ClassVar = (
        "mendiff monitor model findings",
        "mendiff monitor model monday tuesday wednesday --json",
        "mendiff monitor model findings --defects 0.1 -o drift.png",
    )

    model: Path = field(metadata=ARGUMENT)
    findings: tuple[Path, ...] = field(metadata=ARGUMENT)
    out: Path | None = None
    category: str | None = None
    defects: float = 0.05
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Write an HTML report of a run: metrics, curves and all images in a single file.

    Attributes:
        run: a run folder written by mendiff evaluate -o.
        out: the HTML file (default: report.html in the run folder); an existing report is replaced.
    """

    EXAMPLES: ClassVar = (
        "mendiff report bottle-run",
        "mendiff report bottle-run -o bottle.html --json",
    )

    run: Path = field(metadata=ARGUMENT)
    out: Path | None = None


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
class BenchmarkOptions(Options):
    """Compare methods and baselines on the same images; the same command resumes an interrupted run.

    Attributes:
        out: folder for jobs and tables; existing jobs are resumed, and the tables include all of them.
        suite: a paper's experiment, such as glad-mvtec or diad-visa; tables include the published results.
        ablation: a paper's ablation, such as glad-mechanisms or diad-sff.
        methods: mendiff's (glad, diad, ran), simple baselines (median-colour, memory-bank), anomalib's models
            (patchcore, ...).
        multi_class: train a single model on all categories instead of a model per category.
        seeds: a repetition per seed; tables then show mean and standard deviation.
        preset: of mendiff's methods.
        jobs: number of parallel jobs, each in its own process; several GPUs are shared.
        ray: address of a Ray cluster that runs the jobs, or local.
        half: measure mendiff's methods in bfloat16 where the device accelerates it; metrics differ slightly.
    """

    EXAMPLES: ClassVar = (
        "mendiff benchmark parts -o runs/parts --methods glad ran median-colour",
        "mendiff benchmark mvtec -o runs/mvtec --suite glad-mvtec --preset paper "
        "--pretrained CompVis/stable-diffusion-v1-4 --device cuda",
        "mendiff benchmark parts -o runs/sff --ablation diad-sff --set diad.training.steps=400",
        "mendiff benchmark parts -o runs/baselines --methods glad patchcore padim memory-bank "
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
class ExportOptions(Options):
    """Write a model as a graph that runs without torch, with all that prediction needs.

    The folder has the graph and metadata.json. mendiff.runtime opens it with numpy, pillow and the runtime
    alone; 'mendiff predict' takes it in place of a model folder.

    Attributes:
        out: output folder; must not exist.
        to: onnx (for ONNX Runtime) or openvino.
        precision: of the stored weights: fp32, or fp16, which halves their size; computations are in float32.
    """

    EXAMPLES: ClassVar = (
        "mendiff export model -o exported",
        "mendiff export model -o exported --to openvino --precision fp16",
    )

    model: Path = field(metadata=ARGUMENT)
    out: Path
    to: str = "onnx"
    precision: str = "fp32"
    category: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Describe a model folder: method, settings, training data, threshold."""

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
    MonitorOptions,
    ReportOptions,
    TuneOptions,
    BenchmarkOptions,
    ConvertOptions,
    ExportOptions,
    PlanOptions,
    InfoOptions,
)
