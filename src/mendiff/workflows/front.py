"""The Python interface of the workflows: mendiff.check, fit, evaluate, tune, distill, benchmark, monitor.

Options have the names of the command line; see mendiff.workflows.options. Messages and warnings go to
Python's logger "mendiff".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.data.samples import Finding
from mendiff.errors import InputError
from mendiff.model import Model
from mendiff.runs.reporting import Reporter
from mendiff.workflows import benchmark as benchmarks
from mendiff.workflows import check as checking
from mendiff.workflows import distill as distillation
from mendiff.workflows import evaluate as evaluation
from mendiff.workflows import fit as fits
from mendiff.workflows import monitor as monitoring
from mendiff.workflows import tune as tuning
from mendiff.workflows.options import (
    BenchmarkOptions,
    CheckOptions,
    DistillOptions,
    EvaluateOptions,
    FitOptions,
    MonitorOptions,
    Options,
    TuneOptions,
)
from mendiff.workflows.results import Check, Comparison, Distilled, Evaluation, Monitoring, Tuning

PathLike = str | Path


def check(
    data: PathLike, out: PathLike | None = None, *, reporter: Reporter | None = None, **options: Any
) -> Check:
    """Check a data set as `fit` and `evaluate` do, and name good images that differ from all others.

    Args:
        data: a folder of good images, a data set, one of its categories, or a YAML file that lists folders.
        out: output folder for the findings as JSON and pictures of the most different good images.
        reporter: receives progress and messages.
        options: fields of CheckOptions, such as bit_depth=12, layout="mvtec".
    """
    result = checking.run(_options(CheckOptions, data=data, out=out, **options), reporter or Reporter())
    found = (Finding(**{**one, "paths": tuple(map(Path, one["paths"]))}) for one in result["findings"])
    return Check(tuple(result["categories"]), tuple(found))


def fit(
    data: PathLike, out: PathLike | None = None, *, reporter: Reporter | None = None, **options: Any
) -> Model:
    """Train a model on good images.

    Args:
        data: a folder of good images, a data set, one of its categories, or a YAML file that lists folders.
        out: output folder for the model; without it, the model is only returned.
        reporter: receives progress and messages.
        options: fields of FitOptions, such as method="ran", preset="small", settings={"training.steps": 500}.

    Raises InputError for bad input.
    """
    with _output(out) as folder:
        fits.run(_options(FitOptions, data=data, out=folder, **options), reporter or Reporter())
        model = load(folder)
    return model if out is not None else _without_source(model)


def evaluate(
    model: Model | PathLike, data: PathLike, *, reporter: Reporter | None = None, **options: Any
) -> Evaluation:
    """Compute metrics of a model on labelled test images.

    Args:
        model: a model or a model folder.
        data: a data set with test images, or one of its categories.
        reporter: receives progress and messages.
        options: fields of EvaluateOptions, such as controls=True, report="report.html".
    """
    with _folder_of(model) as folder:
        asked = _options(EvaluateOptions, model=folder, data=data, **options)
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
    model: Model | PathLike,
    data: PathLike,
    out: PathLike | None = None,
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> Tuning:
    """Tune the inference settings of a model on good images with synthetic anomalies.

    Args:
        model: a model or a model folder.
        data: the good images of its fit.
        out: output folder for the tuned model, all trials and their curves; without it, nothing is written.
        reporter: receives progress and messages.
        options: fields of TuneOptions, such as repetitions=8.
    """
    with _folder_of(model) as folder, _output(out) as place:
        asked = _options(TuneOptions, model=folder, data=data, out=place, **options)
        result = tuning.run(asked, reporter or Reporter())
        tuned = load(place / "model")
    tuned = tuned if out is not None else _without_source(tuned)
    return Tuning(tuned, result["changes"], tuple(result["trials"]))


def distill(
    model: Model | PathLike,
    data: PathLike,
    out: PathLike | None = None,
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> Distilled:
    """Train the denoiser of a GLAD model to sample in few steps, for faster predictions.

    Args:
        model: a model or a model folder.
        data: the good images of its fit.
        out: output folder for the distilled model and the comparison; without it, nothing is written.
        reporter: receives progress and messages.
        options: fields of DistillOptions, such as sampler_steps=1.
    """
    with _folder_of(model) as folder, _output(out) as place:
        asked = _options(DistillOptions, model=folder, data=data, out=place, **options)
        result = distillation.run(asked, reporter or Reporter())
        student = load(place / "model")
    return Distilled(student if out is not None else _without_source(student), tuple(result["rows"]))


def benchmark(
    data: PathLike, out: PathLike, *, reporter: Reporter | None = None, **options: Any
) -> Comparison:
    """Compare methods and baselines on the same images; a second call resumes an interrupted run.

    Args:
        data: a data set with test images.
        out: folder for jobs and tables.
        reporter: receives progress and messages.
        options: fields of BenchmarkOptions, such as methods=["glad", "patchcore"], seeds=[0, 1].
    """
    result = benchmarks.run(_options(BenchmarkOptions, data=data, out=out, **options), reporter or Reporter())
    return Comparison(tuple(result["results"]), tuple(result["figures"]), tuple(map(Path, result["tables"])))


def monitor(
    model: Model | PathLike,
    findings: PathLike | Sequence[PathLike],
    out: PathLike | None = None,
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> Monitoring:
    """Test whether the scores of new parts still match the calibration set, and since when they do not.

    Args:
        model: a model or a model folder.
        findings: one or more output folders of `mendiff predict`, predictions.jsonl or predictions.csv.
        out: PNG file or existing folder for the picture; without it, the picture is only returned.
        reporter: receives progress and messages.
        options: fields of MonitorOptions, such as defects=0.1.
    """
    places = (findings,) if isinstance(findings, str | Path) else findings
    with _folder_of(model) as folder, _output(out, monitoring.PICTURE) as picture:
        asked = _options(
            MonitorOptions, model=folder, findings=tuple(map(Path, places)), out=picture, **options
        )
        result = monitoring.run(asked, reporter or Reporter())
        drawn = Path(result["picture"]).read_bytes()
    return Monitoring(
        drift=result["drift"],
        sentence=result["sentence"],
        since=result["since"],
        direction=result["direction"],
        p_values=tuple(result["p_values"]),
        log10_martingale=tuple(result["martingale"]["log10"]),
        kolmogorov_smirnov=result["kolmogorov_smirnov"],
        picture=drawn,
    )


def _options(kind: type[Options], **given: Any) -> Any:
    """Options of a class, with strings converted to paths; InputError for an unknown name."""
    known = kind.__dataclass_fields__

    def converted(name: str, value: Any) -> Any:
        return Path(value) if str(known[name].type).startswith("Path") and isinstance(value, str) else value

    for name in given:
        if name not in known:
            raise InputError(f"{name}: expected one of the options {', '.join(known)}.")
    return kind(**{name: converted(name, value) for name, value in given.items()})


@contextmanager
def _output(out: PathLike | None, name: str = "model") -> Iterator[Path]:
    """The requested path, or this name in a temporary folder."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory() as folder:
        yield Path(folder) / name


@contextmanager
def _folder_of(model: Model | PathLike) -> Iterator[Path]:
    """The folder of a model; a temporary folder for a model without one."""
    if not isinstance(model, Model):
        yield Path(model)
    elif model.source and not model.category:
        yield Path(model.source)
    else:
        with TemporaryDirectory() as folder:
            model.save(Path(folder) / "model")
            yield Path(folder) / "model"


def _without_source(model: Model) -> Model:
    """The model after its folder was deleted."""
    model.source = ""
    return model
