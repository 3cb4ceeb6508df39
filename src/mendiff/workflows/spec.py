"""What a job of a benchmark is told: job.json says what it is of, places.json where that lies now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import read_json, write_json
from mendiff.errors import InputError
from mendiff.methods.base import METHODS, find_preset
from mendiff.methods.config import config_from_dict
from mendiff.nets import AUTO
from mendiff.workflows.fit_config import Plan, stated_config
from mendiff.workflows.identity import PARTS
from mendiff.workflows.identity import difference as difference_of_content

SPEC, MOVED, MODEL, FAILED = "job.json", "places.json", "model", "failed.txt"
CONTENTS = "contents.json"
"""Beside the jobs' folders: what the benchmark knows of the files that they read."""
BANK = "memory-bank"
BASELINES = ("median-colour", BANK)
UNTRAINED = "untrained"
"""Among the changes of a row: its networks are made anew and trained for a single step, as a control."""
PLACES = ("data", "features_weights", "pretrained", "prompt", "codec", "textures", "device")
"""Fields whose content counts, in `identity`, and not where it lies."""


def config_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a row that are made to its model's config."""
    return {name: value for name, value in changes.items() if name != UNTRAINED}


@dataclass(frozen=True)
class Job:
    """What one fit serves.

    Attributes:
        method, preset, settings: of the fit.
        rows: label to the changes that are made to the fitted model.
        data, layout: root of the categories, and how it is laid out.
        categories: that the model learns, together.
        features, features_weights, features_input: backbone, its file, and what its images look like.
        seed: of training.
        device: torch's name.
        half: whether rows are measured in bfloat16, see Model.in_half.
        pretrained, prompt, codec, textures, statistics: of the fit, see Plan.
        identity: of what it reads, see `identity`; empty where nothing is known of it.
    """

    method: str
    rows: dict[str, dict[str, Any]]
    data: str
    categories: list[str]
    layout: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str = "tiny"
    features: str | None = None
    features_weights: str | None = None
    features_input: str | None = None
    seed: int = 0
    device: str = "cpu"
    half: bool = False
    pretrained: str | None = None
    prompt: str | None = None
    codec: str | None = None
    textures: str | None = None
    statistics: str = "global"
    identity: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def weights(self) -> Path | None:
        """The backbone's file; in a folder of several, that of the backbone's name."""
        place = None if self.features_weights is None else Path(self.features_weights)
        return place / f"{self._backbone}.safetensors" if place is not None and place.is_dir() else place

    @property
    def _backbone(self) -> str | None:
        """Its name: that of the row, that of all rows, or the preset's."""
        name = self.settings.get("features.name", self.features)
        if name is None and self.method in METHODS:
            name = getattr(getattr(find_preset(self.method, self.preset), "features", None), "name", None)
        return name

    @property
    def plan(self) -> Plan:
        """Of the fit, for a method of ours."""
        return Plan(
            self.method,
            self.preset,
            self.settings,
            features=self.features,
            features_weights=self.weights,
            features_input=self.features_input,
            seed=self.seed,
            device=self.device,
            statistics=self.statistics,
            balance="category" if len(self.categories) > 1 else "image",
            codec=None if self.codec is None else Path(self.codec),
            pretrained=self.pretrained,
            prompt=None if self.prompt is None else Path(self.prompt),
            textures=None if self.textures is None else Path(self.textures),
        )

    @property
    def from_hub(self) -> dict[str, str]:
        """Backbones, by timm's names, whose weights come from the hub: of features and of the stop rule."""
        if self.method not in METHODS:
            return {}
        config: Any = stated_config(self.plan)
        name = getattr(getattr(config, "features", None), "name", "")
        if name in ("", AUTO):
            return {}
        own = {"stop_features": name} if getattr(config, "own_stop_features", False) else {}
        return own if self.weights is not None else {"features_weights": name, **own}

    def joined(self, before: Job) -> Job:
        """The earlier job of the same work, with the rows of both; it keeps its places."""
        return replace(before, rows=before.rows | self.rows)


def slug(text: str) -> str:
    """A file name that tells the same."""
    return re.sub(r"[^A-Za-z0-9.=]+", "-", text).strip("-").lower()


def result_file(folder: Path, label: str) -> Path:
    """Where a row's results lie."""
    return folder / f"{slug(label)}.result.json"


def is_begun(folder: Path) -> bool:
    """Whether a job has come to something, be it a checkpoint, that another one must not take for its own."""
    return any(next(folder.glob(one), None) for one in ("*.result.json", MODEL, f".{MODEL}.fit"))


def read_job(folder: Path) -> Job:
    """A folder's job as it was noted first."""
    spec = folder / SPEC
    refusal = f"{spec}: expected a job of this version, found another file; choose another -o."
    try:
        job = config_from_dict(Job, read_json(spec), str(spec))
    except InputError as error:
        raise InputError(refusal) from error
    groups: tuple[Any, ...] = (job.rows, job.settings, job.identity, *job.rows.values())
    if not all(isinstance(one, dict) for one in groups):
        raise InputError(refusal)
    return job


def read_moved(folder: Path) -> Job:
    """A folder's job with the places where its data and weights lie now."""
    job, moved = read_job(folder), folder / MOVED
    if not moved.is_file():
        return job
    now = read_json(moved)
    return replace(job, **{name: now[name] for name in PLACES if name in now})


def write_job(folder: Path, job: Job, before: Job | None) -> None:
    """Note a new job, or rows that came to an earlier one; where things lie now is noted apart."""
    kept = job if before is None else job.joined(before)
    if kept != before:
        write_json(folder / SPEC, asdict(kept))
    now = {name: getattr(job, name) for name in PLACES}
    if any(getattr(kept, name) != place for name, place in now.items()):
        write_json(folder / MOVED, now)
    else:
        (folder / MOVED).unlink(missing_ok=True)


def difference(before: Job, now: Job) -> str:
    """The first thing in which two jobs are not the same work, for messages; empty where they are."""
    skipped = (*PLACES, "rows", "identity")
    names = [one.name for one in fields(Job) if one.name not in skipped]
    return _first_of(before, now, names) or _content(before, now, PARTS)


def difference_of_rows(before: Job, now: Job) -> str:
    """The same of jobs on other categories or with other seeds, which stand in the same tables.

    All must have come from the same code on the same kind of device, those of a row from the same settings
    and weights.
    """
    alike = before.rows.keys() & now.rows.keys()
    told = (
        _first_of(before, now, ("method", "settings", "features", "features_input", "half", "statistics"))
        if alike
        else ""
    )
    size = [one.preset.partition("/")[0] for one in (before, now)]
    if alike and not told and size[0] != size[1]:
        told = f"preset: {before.preset} before, {now.preset} now"
    return told or _content(before, now, (*["files"] * bool(alike), "device", "code"))


def _first_of(before: Job, now: Job, names: Iterable[str]) -> str:
    for name in names:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return f"{name}: {old} before, {new} now"
    for label in before.rows.keys() & now.rows.keys():
        if before.rows[label] != now.rows[label]:
            return f"changes of {label!r}: {before.rows[label]} before, {now.rows[label]} now"
    return ""


def _content(before: Job, now: Job, parts: Sequence[str]) -> str:
    if now.identity and not before.identity:
        return "what they were made of is not noted, as an earlier version left them"
    return difference_of_content(before.identity, now.identity, parts)
