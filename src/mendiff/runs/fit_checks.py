"""Checks of a fit's options, and its length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mendiff.data.dataset import Category
from mendiff.errors import InputError, check_range
from mendiff.methods.base import MethodConfig
from mendiff.runs.fit_config import Plan
from mendiff.runs.length import Length, chosen_length, configured_length, read_length
from mendiff.runs.reporting import Reporter
from mendiff.types import Processes

STATISTICS = ("global", "category")
BALANCES = ("image", "category")
STEPS = "training.steps"


def check_minutes(minutes: float | None, steps: int | None, processes: Processes) -> float:
    """The value of --minutes; 0 if it was not given."""
    if minutes is None:
        return 0.0
    if steps is not None:
        raise InputError("--minutes and --steps: expected only one of them, got both.")
    if processes.count > 1:
        raise InputError(f"--minutes: expected a single process, got {processes.count}; use --steps.")
    if not 0 < minutes < math.inf:
        raise InputError(f"--minutes: expected more than 0, got {minutes:g}.")
    return minutes


def with_steps(settings: Mapping[str, Any], steps: int | None, fewest: int = 1) -> dict[str, Any]:
    """Settings with the value of --steps, unless it is 0; InputError if --set has another number of steps."""
    if steps is not None:
        check_range("--steps", steps, fewest)
    if not steps:
        return dict(settings)
    other = settings.get(STEPS, steps)
    if other != steps:
        raise InputError(f"--steps and --set {STEPS}: expected equal numbers, got {steps} and {other!r}.")
    return {**settings, STEPS: steps}


def length_of(plan: Plan, config: MethodConfig, workdir: Path, reporter: Reporter, *, resume: bool) -> Length:
    """Training length: that of the resumed training, as requested, or chosen by the machine's speed."""
    kept = read_length(workdir) if resume else None
    if STEPS in plan.settings or plan.processes.count > 1:
        return configured_length(config)
    return kept or chosen_length(plan.method, config, plan.device, minutes=plan.minutes, say=reporter.say)


def repeat_note(plan: Plan, config: MethodConfig, length: Length) -> str:
    """Expected duration, and the options that repeat a length that was chosen by speed."""
    if not length.minutes:
        return ""
    again = f"--steps {config.training.steps}"
    if plan.minutes and length.codec_images:
        again += f" --set codec.fit.images={length.codec_images}"
    chosen = plan.minutes or config.training.minutes
    whole = max(1, round(length.minutes))
    duration = f", about {whole} minute{'s' if whole > 1 else ''} of training, then statistics"
    return duration + (f" (repeat with {again})" if chosen else "")


def check_prompts(plan: Plan, config: Any, categories: Sequence[Category]) -> None:
    """Raise InputError for categories without a prompt, if the model has prompts per category."""
    prompted = getattr(getattr(config, "denoiser", None), "categories", ())
    unknown = [one.name for one in categories if one.name not in prompted]
    if prompted and unknown:
        raise InputError(
            f"--categories: expected categories with a prompt ({', '.join(prompted)}), got {unknown[0]!r}; "
            "set the names with --set denoiser.categories=[...]."
        )
    if prompted and plan.statistics != "category":
        raise InputError(
            f"--statistics: expected category for a model with prompts per category, got {plan.statistics}."
        )
