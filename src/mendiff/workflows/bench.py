"""What a benchmark compares on what, and the jobs that this takes."""

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
from mendiff.evaluation.ablations import Row, ablation
from mendiff.evaluation.suites import Suite
from mendiff.evaluation.tables import unique
from mendiff.methods.base import METHODS, find_method
from mendiff.methods.config import config_to_dict, override
from mendiff.nets import AUTO
from mendiff.workflows.fit import STATISTICS, check_prompts
from mendiff.workflows.fit_config import check_sources, stated_config
from mendiff.workflows.identity import identity
from mendiff.workflows.reporting import Reporter
from mendiff.workflows.spec import BANK, BASELINES, UNTRAINED, Job, slug

ACCEPTED_BY = {
    "pretrained": "glad and diad at a preset paper",
    "prompt": "glad and diad at a preset paper",
    "codec": "glad and diad, unless the row is about another codec",
    "textures": "glad, and diad with hint_anomalies above 0",
    "statistics": "glad, diad and ran",
}


@dataclass(frozen=True)
class SharedInputs:
    """What the fits of our methods get, those that can take it; see Plan."""

    pretrained: str | None = None
    prompt: Path | None = None
    codec: Path | None = None
    textures: Path | None = None
    statistics: str = "global"

    @property
    def fields(self) -> dict[str, Any]:
        """Job's fields of what was given; places as they are from everywhere."""
        source, codec = self.pretrained, self.codec
        places = {
            "pretrained": Path(source).resolve() if source and Path(source).exists() else source,
            "prompt": self.prompt and self.prompt.resolve(),
            "codec": codec if codec is None or str(codec) == AUTO else codec.resolve(),
            "textures": self.textures and self.textures.resolve(),
            "statistics": None if self.statistics == STATISTICS[0] else self.statistics,
        }
        return {name: str(place) for name, place in places.items() if place is not None}


@dataclass(frozen=True)
class Bench:
    """What to compare on what.

    Attributes:
        rows: of the table.
        categories: of the data.
        multi_class: whether one model learns all of them.
        data: their root.
        layout: of the data.
        seeds: every one is a repetition.
        preset: of our methods.
        features, features_weights: backbone and its file, or a folder of files named by backbone.
        features_input: what the backbone's images look like; see Plan.
        suite: the paper's experiment, or None.
        given: to the fits of our methods.
        half: whether our rows are measured in bfloat16, see Model.in_half.
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
    """The rows at a preset, with --set METHOD.FIELD=VALUE, and whether one model learns all categories."""
    if name is not None and methods:
        raise InputError("--ablation and --methods: expected one of them, got both.")
    rows: tuple[Row, ...]
    if name is not None:
        chosen = ablation(name)
        rows, together = tuple(row.at(preset) for row in chosen.rows), chosen.multi_class
    else:
        default = (suite.method, *BASELINES) if suite else (*METHODS, *BASELINES)
        rows = tuple(Row(one, one) for one in unique(methods or default))
        together = bool(suite and suite.multi_class)
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
    return with_baselines(merged, bank=name is not None), together


def with_baselines(rows: Sequence[Row], *, bank: bool) -> tuple[Row, ...]:
    """Rows and what tells how much of their figures a trained network earns.

    Args:
        rows: of a table.
        bank: add a memory bank, too, if there is none among them.

    Every method of ours gets the row "untrained": its plainest row's pipeline after a single training step.
    """
    ours = unique(row.method for row in rows if row.method in METHODS)
    plainest = [min((row for row in rows if row.method == name), key=_changed) for name in ours]
    fresh = [
        replace(one, label=f"{one.label}, {UNTRAINED}", changes=one.changes | {UNTRAINED: True})
        for one in plainest
    ]
    lacking = bank and all(row.label != BANK for row in rows)
    return (*rows, *fresh, *([Row(BANK, BANK)] if lacking else []))


def _changed(row: Row) -> int:
    """In how many fields a row differs from its method's preset."""
    return len(row.settings) + len(row.changes)


def names_of(suite: Suite | None, known: Sequence[Category]) -> list[str]:
    """The categories to run: all that were chosen, or those of the suite, which must be there."""
    names = [one.name for one in known]
    if suite is None:
        return names
    missing = [name for name in suite.categories if name not in names]
    if len(missing) == len(suite.categories):
        raise InputError(
            f"{suite.name}: expected categories {', '.join(suite.categories)}, found {', '.join(names)}; "
            "give the root of that data set."
        )
    return [name for name in suite.categories if name in names]


def planned(bench: Bench, device: str) -> dict[str, Job]:
    """Every job by its name: one for each fit, with all rows that share it."""
    groups = [bench.categories] if bench.multi_class else [[name] for name in bench.categories]
    jobs: dict[str, Job] = {}
    shared: dict[str, str] = {}
    for seed in bench.seeds:
        for group in groups:
            for row in bench.rows:
                settings = plain(row.settings)
                fit = sha256_of_json([row.method, settings, group, seed], row.label)
                place = "all" if bench.multi_class else group[0]
                name = shared.setdefault(fit, f"{slug(row.label)}-{place}-{seed}")
                rows = jobs[name].rows if name in jobs else {}
                jobs[name] = Job(
                    method=row.method,
                    rows={**rows, row.label: plain(row.changes)},
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
    """The preset of a fit: a suite's own, of the category or the data set, where the method has such."""
    if bench.suite is None or method not in METHODS:
        return bench.preset
    dataset = f"{bench.preset}/{bench.suite.dataset}"
    known = find_method(method).PRESETS
    fitting = [dataset] if bench.multi_class else [f"{dataset}/{group[0]}", dataset]
    return next((one for one in fitting if one in known), bench.preset)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return config_to_dict(settings)


def with_shared_inputs(jobs: Mapping[str, Job], given: SharedInputs) -> dict[str, Job]:
    """The jobs with what was given to those that can take it; what none can take is refused."""
    handed = {name: replace(job, **_takes(job, given)) for name, job in jobs.items()}
    for option, value in given.fields.items():
        if not any(getattr(job, option) == value for job in handed.values()):
            labels = unique(label for job in jobs.values() for label in job.rows)
            raise InputError(
                f"--{option}: expected rows that take it ({ACCEPTED_BY[option]}), got {', '.join(labels)} at "
                f"preset {next(iter(jobs.values())).preset}."
            )
    return handed


def _takes(job: Job, given: SharedInputs) -> dict[str, Any]:
    """What a job's fit can take of what was given."""
    if job.method not in METHODS or not given.fields:
        return {}
    config: Any = stated_config(job.plan)
    prompted = config.denoiser.kind == "conditional_unet"
    pastes = hasattr(find_method(job.method), "textures") and getattr(config, "hint_anomalies", 1) > 0
    takes = {"pretrained": prompted, "prompt": prompted, "textures": pastes, "statistics": True}
    takes["codec"] = given.codec is not None and _takes_codec(job, config, given.codec)
    return {name: value for name, value in given.fields.items() if takes[name]}


def _takes_codec(job: Job, config: Any, codec: Path) -> bool:
    """Whether a method works on other latents than its preset's, and its row is not about a codec itself."""
    if {"codec", "codec.kind"} & job.settings.keys():
        return False
    stated = config_to_dict(read_codec_config(codec_folder(codec)))
    try:
        override(config, {"codec": stated})
    except InputError:
        return False
    return True


def identified(jobs: Mapping[str, Job], known: Sequence[Category], reporter: Reporter) -> dict[str, Job]:
    """The jobs with what their results depend on; impossible fits are refused before any runs."""
    by_name = {one.name: one for one in known}
    found: dict[str, Job] = {}
    for job in jobs.values():
        if job.method in METHODS:
            config = stated_config(job.plan)
            check_sources(job.plan, config)
            check_prompts(job.plan, config, [by_name[name] for name in job.categories])
    with reporter.brief().bar("noting contents") as update:
        for number, (name, job) in enumerate(jobs.items(), start=1):
            found[name] = replace(job, identity=identity(job, [by_name[one] for one in job.categories]))
            update(number, len(jobs), "")
    return found
