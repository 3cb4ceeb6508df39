"""What `import mendiff` offers beside `load`: the workflows as functions that return objects.

Options are those of the command line, by the same names; see mendiff.workflows.options. News and warnings go
to Python's logging under the name "mendiff".
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.errors import InputError
from mendiff.evaluation.metrics import Metrics
from mendiff.model import Model
from mendiff.workflows import benchmark as benchmarks
from mendiff.workflows import evaluate as evaluation
from mendiff.workflows import fit as fits
from mendiff.workflows import tune as tuning
from mendiff.workflows.common import METRIC_TITLES
from mendiff.workflows.options import BenchmarkOptions, EvaluateOptions, FitOptions, Options, TuneOptions
from mendiff.workflows.reporting import Reporter

Place = str | Path
TITLES = [one.replace("\n", " ") for one in METRIC_TITLES.values()]


@dataclass(frozen=True)
class Evaluation:
    """What a model finds in labelled test images.

    Attributes:
        categories: metrics by category, see evaluation.metrics; a metric without sense is None.
        mean: of every metric over the categories.
        pooled: of the images of several categories in one ranking; empty for one category.
        controls: the same three by the name of a control; empty unless asked for.
        at_threshold: what the model's threshold does, by category.
        unreadable: test images that are in no figure.
    """

    categories: dict[str, Metrics]
    mean: Metrics
    pooled: Metrics
    controls: dict[str, dict[str, Any]]
    at_threshold: dict[str, dict[str, Any]]
    unreadable: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = {**self.categories, **({"mean": self.mean} if len(self.categories) > 1 else {})}
        return _table(["", *TITLES], _cells(rows))


@dataclass(frozen=True)
class Tuning:
    """What `tune` came to.

    Attributes:
        model: with the settings that found synthetic anomalies best.
        changes: those of them that differ from before, by dotted name.
        trials: all that were tried.
    """

    model: Model
    changes: dict[str, Any]
    trials: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Comparison:
    """What `benchmark` came to.

    Attributes:
        results: of every job and row, with their metrics, time and memory.
        figures: mean and deviation of every metric over the seeds, by row and category.
        tables: the files with the tables.
    """

    results: tuple[Mapping[str, Any], ...]
    figures: tuple[Mapping[str, Any], ...]
    tables: tuple[Path, ...]

    def _repr_html_(self) -> str:
        names = list(METRIC_TITLES)
        means: dict[str, Metrics] = {}
        places = {one["category"] for one in self.figures}
        shown = "mean" if "mean" in places else next(iter(places), "")
        for one in self.figures:
            if one["category"] == shown and one["metric"] in names:
                means.setdefault(one["label"], {})[one["metric"]] = one["value"]
        return _table([shown, *TITLES], _cells(means))


def fit(data: Place, out: Place | None = None, *, reporter: Reporter | None = None, **options: Any) -> Model:
    """Learn what good parts look like.

    Args:
        data: a folder of good images, a data set, one of its categories, or a YAML file that lists folders.
        out: where to write the model folder; without it nothing stays but the model that is returned, which
            `save` writes.
        reporter: told of progress.
        options: fields of FitOptions, such as method="ran", preset="small", settings={"training.steps": 500}.

    Raises InputError for bad input.
    """
    with _place(out) as folder:
        fits.run(_made(FitOptions, data=data, out=folder, **options), reporter or Reporter())
        model = load(folder)
    return model if out is not None else _loose(model)


def evaluate(
    model: Model | Place, data: Place, *, reporter: Reporter | None = None, **options: Any
) -> Evaluation:
    """Measure a model on labelled test images.

    Args:
        model: or the folder of one.
        data: a data set with test images, or one of its categories.
        reporter: told of progress.
        options: fields of EvaluateOptions, such as controls=True, report="report.html".
    """
    with _folder_of(model) as folder:
        asked = _made(EvaluateOptions, model=folder, data=data, **options)
        result = evaluation.run(asked, reporter or Reporter())
    return Evaluation(
        categories=result["categories"],
        mean=result["mean"],
        pooled=result.get("pooled", {}),
        controls=result.get("controls", {}),
        at_threshold=result["at_threshold"],
        unreadable=tuple(result["unreadable"]),
    )


def tune(
    model: Model | Place,
    data: Place,
    out: Place | None = None,
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> Tuning:
    """Choose how a model searches, from good images alone.

    Args:
        model: or the folder of one.
        data: the good images that it was fitted on.
        out: where to write the tuned model, all trials and their curves; nothing stays without it.
        reporter: told of progress.
        options: fields of TuneOptions, such as repetitions=8.
    """
    with _folder_of(model) as folder, _place(out) as place:
        asked = _made(TuneOptions, model=folder, data=data, out=place, **options)
        result = tuning.run(asked, reporter or Reporter())
        tuned = load(place / "model")
    kept = tuned if out is not None else _loose(tuned)
    return Tuning(kept, result["changes"], tuple(result["trials"]))


def benchmark(data: Place, out: Place, *, reporter: Reporter | None = None, **options: Any) -> Comparison:
    """Compare methods, controls and anomalib's models on the same images; an interrupted run goes on.

    Args:
        data: a data set with test images.
        out: where jobs and tables are kept.
        reporter: told of progress.
        options: fields of BenchmarkOptions, such as methods=["glad", "patchcore"], seeds=[0, 1].
    """
    result = benchmarks.run(_made(BenchmarkOptions, data=data, out=out, **options), reporter or Reporter())
    return Comparison(tuple(result["results"]), tuple(result["figures"]), tuple(map(Path, result["tables"])))


def _made(kind: type[Options], **given: Any) -> Any:
    """Options of a kind, with paths where these are meant; InputError for names that it has not."""
    known = kind.__dataclass_fields__
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"{unknown[0]}: expected one of the options {', '.join(known)}.")
    return kind(**{name: _as_meant(str(known[name].type), value) for name, value in given.items()})


def _as_meant(hint: str, value: Any) -> Any:
    return Path(value) if hint.startswith("Path") and isinstance(value, str) else value


@contextmanager
def _place(out: Place | None) -> Iterator[Path]:
    """The folder that was asked for, or one that goes."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory() as folder:
        yield Path(folder) / "model"


@contextmanager
def _folder_of(model: Model | Place) -> Iterator[Path]:
    """The folder that holds a model, made where it has none."""
    if not isinstance(model, Model):
        yield Path(model)
    elif model.source and not model.category:
        yield Path(model.source)
    else:
        with TemporaryDirectory() as folder:
            model.save(Path(folder) / "model")
            yield Path(folder) / "model"


def _loose(model: Model) -> Model:
    """A model whose folder is gone."""
    model.source = ""
    return model


def _cells(rows: Mapping[str, Metrics]) -> list[list[str]]:
    return [
        [name, *("n/a" if row.get(key) is None else f"{row[key]:.3f}" for key in METRIC_TITLES)]
        for name, row in rows.items()
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in titles)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
