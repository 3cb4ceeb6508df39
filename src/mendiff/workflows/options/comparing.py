"""Options of the commands that need no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mendiff.workflows.options.base import ARGUMENT, BENCHMARK_SETTINGS, SETTINGS, Options


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
    channels: list[int] | None = None
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
