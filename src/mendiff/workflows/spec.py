"""Specification of a benchmark's job: settings in job.json, current paths in places.json."""

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
from mendiff.runs.fit_config import Plan, stated_config
from mendiff.workflows.identity import PARTS
from mendiff.workflows.identity import difference as difference_of_content

SPEC, MOVED, MODEL, FAILED = "job.json", "places.json", "model", "failed.txt"
CONTENTS = "contents.json"
"""Beside the jobs' folders: what the benchmark knows of the files that they read."""
BANK = "memory-bank"
BASELINES = ("median-colour", BANK)
UNTRAINED = "untrained"
"""Key in the changes of a row: its networks are reset and trained for a single step, as a baseline."""
PLACES = ("data", "features_weights", "pretrained", "prompt", "codec", "textures", "device")
"""Fields that are compared by content, in `identity`, not by path."""


def config_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config changes among the changes of a row."""
    return {name: value for name, value in changes.items() if name != UNTRAINED}


@dataclass(frozen=True)
class Job:
    """A fit and the rows that use it.

    Attributes:
        method, preset, settings: of the fit.
        rows: from a row's label to its changes of the fitted model.
        data, layout: root folder of the categories, and its layout.
        categories: training data, for a single model.
        features, features_weights, features_input: see Plan.
        seed: of training.
        device: torch's name.
        half: whether rows are measured in bfloat16, see Model.in_half.
        pretrained, prompt, codec, textures, statistics: of the fit, see Plan.
        identity: see module `identity`; empty if unknown.
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
        """File of the backbone; in a folder, the file with the backbone's name."""
        path = None if self.features_weights is None else Path(self.features_weights)
        return path / f"{self._backbone}.safetensors" if path is not None and path.is_dir() else path

    @property
    def _backbone(self) -> str | None:
        """Name of the backbone: of the row, of all rows, or of the preset."""
        name = self.settings.get("features.name", self.features)
        if name is None and self.method in METHODS:
            name = getattr(getattr(find_preset(self.method, self.preset), "features", None), "name", None)
        return name

    @property
    def plan(self) -> Plan:
        """Plan of the fit, for mendiff's methods."""
        same: dict[str, Any] = {
            one.name: vars(self)[one.name] for one in fields(Plan) if one.name in vars(self)
        }
        for name in ("codec", "prompt", "textures"):
            same[name] = None if same[name] is None else Path(same[name])
        same["features_weights"] = self.weights
        return Plan(**same, balance="category" if len(self.categories) > 1 else "image")

    @property
    def from_hub(self) -> dict[str, str]:
        """Timm's names of the backbones with weights from the hub, for features and stop rule."""
        if self.method not in METHODS:
            return {}
        config: Any = stated_config(self.plan)
        name = getattr(getattr(config, "features", None), "name", "")
        if name in ("", AUTO):
            return {}
        own = {"stop_features": name} if getattr(config, "own_stop_features", False) else {}
        return own if self.weights is not None else {"features_weights": name, **own}

    def joined(self, before: Job) -> Job:
        """The earlier, equal job with the rows of both jobs; it keeps its paths."""
        return replace(before, rows=before.rows | self.rows)


def slug(text: str) -> str:
    """A file name for a text."""
    return re.sub(r"[^A-Za-z0-9.=]+", "-", text).strip("-").lower()


def result_file(folder: Path, label: str) -> Path:
    """Path of a row's results."""
    return folder / f"{slug(label)}.result.json"


def is_begun(folder: Path) -> bool:
    """Whether a job has results, a model or a checkpoint."""
    return any(next(folder.glob(name), None) for name in ("*.result.json", MODEL, f".{MODEL}.fit"))


def read_job(folder: Path) -> Job:
    """The job of a folder as first written."""
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
    """The job of a folder with the current paths of data and weights."""
    job, moved = read_job(folder), folder / MOVED
    if not moved.is_file():
        return job
    now = read_json(moved)
    return replace(job, **{name: now[name] for name in PLACES if name in now})


def write_job(folder: Path, job: Job, before: Job | None) -> None:
    """Write a new job, or add rows to an earlier job; current paths go to a separate file."""
    kept = job if before is None else job.joined(before)
    if kept != before:
        write_json(folder / SPEC, asdict(kept))
    now = {name: getattr(job, name) for name in PLACES}
    if any(getattr(kept, name) != path for name, path in now.items()):
        write_json(folder / MOVED, now)
    else:
        (folder / MOVED).unlink(missing_ok=True)


def difference(before: Job, now: Job) -> str:
    """The first difference between two jobs, for messages; "" for equal jobs."""
    skipped = (*PLACES, "rows", "identity")
    names = [one.name for one in fields(Job) if one.name not in skipped]
    return _first_of(before, now, names) or _content(before, now, PARTS)


def difference_of_rows(before: Job, now: Job) -> str:
    """The first difference between jobs in the same tables, on other categories or with other seeds.

    All jobs need the same code and device type. Jobs with common rows also need equal settings and weights.
    """
    if not before.rows.keys() & now.rows.keys():
        return _content(before, now, ("device", "code"))
    names = ("method", "settings", "features", "features_input", "half", "statistics")
    changed = _first_of(before, now, names)
    if not changed and before.preset.partition("/")[0] != now.preset.partition("/")[0]:
        changed = f"preset: {before.preset} before, {now.preset} now"
    return changed or _content(before, now, ("files", "device", "code"))


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
        return "an earlier version wrote this run without the hashes of its inputs"
    return difference_of_content(before.identity, now.identity, parts)
