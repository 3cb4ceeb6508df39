"""The rows and data of a benchmark, and its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mendiff.checkpoints.bundled import codec_folder
from mendiff.checkpoints.codecs import read_codec_config
from mendiff.checkpoints.files import sha256_of_json
from mendiff.data.dataset import Category
from mendiff.errors import InputError
from mendiff.evaluation.ablations import ablation
from mendiff.evaluation.rows import Row
from mendiff.evaluation.suites import Suite
from mendiff.evaluation.tables import unique
from mendiff.methods.base import METHODS, find_method
from mendiff.methods.config import config_to_dict, override
from mendiff.nets import AUTO
from mendiff.runs.fit_checks import STATISTICS, check_prompts
from mendiff.runs.fit_config import check_sources, stated_config
from mendiff.runs.reporting import Reporter
from mendiff.workflows.identity import identity
from mendiff.workflows.spec import BANK, BASELINES, UNTRAINED, Job, slug

ACCEPTED_BY = {
    "pretrained": "glad and diad at a preset paper",
    "prompt": "glad and diad at a preset paper",
    "codec": "glad and diad, unless the row sets another codec",
    "textures": "glad",
    "statistics": "glad, diad and ran",
}


@dataclass(frozen=True)
class SharedInputs:
    """Inputs of all fits of mendiff's methods that accept them; see Plan."""

    pretrained: str | None = None
    prompt: Path | None = None
    codec: Path | None = None
    textures: Path | None = None
    statistics: str = "global"

    @property
    def fields(self) -> dict[str, Any]:
        """The given inputs as fields of Job, with absolute paths."""
        source, codec = self.pretrained, self.codec
        values = {
            "pretrained": Path(source).resolve() if source and Path(source).exists() else source,
            "prompt": self.prompt and self.prompt.resolve(),
            "codec": codec if codec is None or str(codec) == AUTO else codec.resolve(),
            "textures": self.textures and self.textures.resolve(),
            "statistics": None if self.statistics == STATISTICS[0] else self.statistics,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        rows: of the table.
        categories: of the data.
        multi_class: whether a single model learns all categories.
        data: root folder.
        layout: of the data.
        seeds: a repetition per seed.
        preset: of mendiff's methods.
        features, features_weights: backbone and its file, or a folder of files named by backbone.
        features_input: see Plan.
        suite: the paper's experiment, or None.
        given: inputs of the fits of mendiff's methods.
        half: whether mendiff's methods are measured in bfloat16, see Model.in_half.
    """

    rows: tuple[Row, ...]
    categories: list[str]
    multi_class: bool
    data: Path
    layout: str
    seeds: Sequence[int]
    preset: str
    features: str | None
    features_weights: Path | None
    suite: Suite | None
    features_input: str | None = None
    given: SharedInputs = field(default_factory=SharedInputs)
    half: bool = False


def chosen_rows(
    suite: Suite | None,
    name: str | None,
    methods: Sequence[str] | None,
    settings: Mapping[str, Any],
    preset: str = "tiny",
) -> tuple[tuple[Row, ...], bool]:
    """(rows at a preset with settings METHOD.FIELD=VALUE, whether a single model learns all categories)."""
    if name is not None and methods:
        raise InputError("--ablation and --methods: expected only one of them, got both.")
    rows: tuple[Row, ...]
    if name is not None:
        chosen = ablation(name)
        rows, multi_class = tuple(row.at(preset) for row in chosen.rows), chosen.multi_class
    else:
        default = (suite.method, *BASELINES) if suite else (*METHODS, *BASELINES)
        rows = tuple(Row(method, method) for method in unique(methods or default))
        multi_class = bool(suite and suite.multi_class)
    for_method: dict[str, dict[str, Any]] = {}
    for dotted, value in settings.items():
        method, dot, field = dotted.partition(".")
        if not dot or method not in {row.method for row in rows}:
            raise InputError(
                f"--set: expected METHOD.FIELD=VALUE with a method of this benchmark "
                f"({', '.join(unique(row.method for row in rows))}), got {dotted!r}."
            )
        for_method.setdefault(method, {})[field] = value
    merged = [replace(row, settings=row.settings | for_method.get(row.method, {})) for row in rows]
    return with_baselines(merged, bank=name is not None), multi_class


def with_baselines(rows: Sequence[Row], *, bank: bool) -> tuple[Row, ...]:
    """The rows with baselines that show the contribution of the trained networks.

    For each of mendiff's methods, the row with the fewest changes is repeated as "untrained": the pipeline
    after a single training step.

    Args:
        rows: of a table.
        bank: add a memory bank, unless there is one.
    """
    ours = unique(row.method for row in rows if row.method in METHODS)
    plainest = [
        min((row for row in rows if row.method == name), key=lambda row: len(row.settings) + len(row.changes))
        for name in ours
    ]
    untrained = [
        replace(row, label=f"{row.label}, {UNTRAINED}", changes=row.changes | {UNTRAINED: True})
        for row in plainest
    ]
    add_bank = bank and all(row.label != BANK for row in rows)
    return (*rows, *untrained, *([Row(BANK, BANK)] if add_bank else []))


def names_of(suite: Suite | None, known: Sequence[Category]) -> list[str]:
    """The categories to run: all chosen ones, or those of the suite; InputError if none of these exists."""
    names = [category.name for category in known]
    if suite is None:
        return names
    missing = [name for name in suite.categories if name not in names]
    if len(missing) == len(suite.categories):
        raise InputError(
            f"{suite.name}: expected categories {', '.join(suite.categories)}, found {', '.join(names)}; "
            "give the root folder of the suite's data set."
        )
    return [name for name in suite.categories if name in names]


def planned(bench: Bench, device: str) -> dict[str, Job]:
    """All jobs by name: a job per fit, with all rows that use this fit."""
    groups = [bench.categories] if bench.multi_class else [[name] for name in bench.categories]
    jobs: dict[str, Job] = {}
    names: dict[str, str] = {}
    for seed in bench.seeds:
        for group in groups:
            for row in bench.rows:
                settings = config_to_dict(row.settings)
                fit = sha256_of_json([row.method, settings, group, seed], row.label)
                data = "all" if bench.multi_class else group[0]
                name = names.setdefault(fit, f"{slug(row.label)}-{data}-{seed}")
                rows = jobs[name].rows if name in jobs else {}
                jobs[name] = Job(
                    method=row.method,
                    rows={**rows, row.label: config_to_dict(row.changes)},
                    data=str(bench.data),
                    layout=bench.layout,
                    categories=list(group),
                    settings=settings,
                    preset=preset_of(bench, row.method, group),
                    features=bench.features,
                    features_weights=str(bench.features_weights) if bench.features_weights else None,
                    features_input=bench.features_input,
                    seed=seed,
                    device=device,
                    half=bench.half and row.method in METHODS,
                )
    return jobs


def preset_of(bench: Bench, method: str, group: Sequence[str]) -> str:
    """The preset of a fit: a suite's preset of the category or data set, if the method has it."""
    if bench.suite is None or method not in METHODS:
        return bench.preset
    dataset = f"{bench.preset}/{bench.suite.dataset}"
    known = find_method(method).PRESETS
    candidates = [dataset] if bench.multi_class else [f"{dataset}/{group[0]}", dataset]
    return next((name for name in candidates if name in known), bench.preset)


def with_shared_inputs(jobs: Mapping[str, Job], given: SharedInputs) -> dict[str, Job]:
    """The jobs with the given inputs that they accept; InputError for an input that no job accepts."""
    complete = {name: replace(job, **_accepted(job, given)) for name, job in jobs.items()}
    for option, value in given.fields.items():
        if not any(getattr(job, option) == value for job in complete.values()):
            labels = unique(label for job in jobs.values() for label in job.rows)
            raise InputError(
                f"--{option}: expected rows that accept it ({ACCEPTED_BY[option]}), got {', '.join(labels)} "
                f"at preset {next(iter(jobs.values())).preset}."
            )
    return complete


def _accepted(job: Job, given: SharedInputs) -> dict[str, Any]:
    """The given inputs that a job's fit accepts."""
    if job.method not in METHODS or not given.fields:
        return {}
    config: Any = stated_config(job.plan)
    prompted = config.denoiser.kind == "conditional_unet"
    pastes = hasattr(find_method(job.method), "textures")
    accepts = {"pretrained": prompted, "prompt": prompted, "textures": pastes, "statistics": True}
    accepts["codec"] = given.codec is not None and _accepts_codec(job, config, given.codec)
    return {name: value for name, value in given.fields.items() if accepts[name]}


def _accepts_codec(job: Job, config: Any, codec: Path) -> bool:
    """Whether the method can use another codec than its preset's, and the row does not set one itself."""
    if {"codec", "codec.kind"} & job.settings.keys():
        return False
    stated = config_to_dict(read_codec_config(codec_folder(codec)))
    try:
        override(config, {"codec": stated})
    except InputError:
        return False
    return True


def identified(jobs: Mapping[str, Job], known: Sequence[Category], reporter: Reporter) -> dict[str, Job]:
    """The jobs with their `identity`; InputError for a fit that can't run, before any job starts."""
    by_name = {category.name: category for category in known}
    complete: dict[str, Job] = {}
    for job in jobs.values():
        if job.method in METHODS:
            config = stated_config(job.plan)
            check_sources(job.plan, config)
            check_prompts(job.plan, config, [by_name[name] for name in job.categories])
    with reporter.brief().bar("hashing inputs: jobs") as update:
        for number, (name, job) in enumerate(jobs.items(), start=1):
            data = [by_name[category] for category in job.categories]
            complete[name] = replace(job, identity=identity(job, data))
            update(number, len(jobs), "")
    return complete
