"""Options of the commands that use models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mendiff.workflows.options.base import ARGUMENT, Options


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
        streams: batches that an exported model computes at the same time, each with a part of the processor's
            threads: more images per second.
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
    streams: int = 1
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
class InfoOptions(Options):
    """Describe a model folder: method, settings, training data, threshold."""

    EXAMPLES: ClassVar = (
        "mendiff info model",
        "mendiff info model --json",
    )

    model: Path = field(metadata=ARGUMENT)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a model as a graph that runs without torch, with all that prediction needs.

    The folder has the graph and metadata.json. mendiff.runtime opens it with numpy, pillow and the runtime
    alone; 'mendiff predict' takes it in place of a model folder.

    Attributes:
        out: output folder; must not exist.
        to: onnx (for ONNX Runtime) or openvino.
        precision: fp32; fp16, which halves the size of the stored weights and computes in float32; or int8,
            which computes the convolutions of denoiser and codec in 8-bit integers.
        calibrate: folder of good images for int8, at least 12, at most 96 of which are used; a third of them
            shows the loss.
        max_loss: refuse int8 if image AUROC of synthetic defects falls by more than this.
    """

    EXAMPLES: ClassVar = (
        "mendiff export model -o exported",
        "mendiff export model -o exported --to openvino --precision fp16",
        "mendiff export model -o exported --precision int8 --calibrate photos/good",
    )

    model: Path = field(metadata=ARGUMENT)
    out: Path
    to: str = "onnx"
    precision: str = "fp32"
    calibrate: Path | None = None
    max_loss: float = 0.01
    category: str | None = None
