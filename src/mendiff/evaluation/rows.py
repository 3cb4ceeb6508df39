"""Rows of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a results table: a method with some settings.

    Attributes:
        label: name in the table.
        method: a method of mendiff, a baseline, or a model of anomalib.
        settings: settings of the fit, by dotted field.
        changes: changes to the fitted model, which is then calibrated again; rows with the same method and
            settings share one fit.
        sized: further settings of the fit by the size of the preset, the first word of its name, such as
            "tiny" or "paper".
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    sized: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at(self, preset: str) -> Row:
        """The row with the settings for the size of a preset."""
        return replace(self, settings=self.settings | self.sized.get(preset.partition("/")[0], {}), sized={})


@dataclass(frozen=True)
class Ablation:
    """A paper's ablation, relative to a preset.

    Attributes:
        source: paper and table.
        rows: rows to compare.
        multi_class: whether one model is trained on all categories.
    """

    source: str
    rows: tuple[Row, ...]
    multi_class: bool = False
