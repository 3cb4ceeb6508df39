"""`mendiff fit`: train on a folder of good images and write a model folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from mendiff.checkpoints.bundled import BUNDLED_FEATURES, codec_folder
from mendiff.checkpoints.codecs import CODEC, read_codec
from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.pretrained import load_pretrained
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import save
from mendiff.data.cache import ImageCache
from mendiff.data.dataset import Category, open_data
from mendiff.data.image_files import find_images
from mendiff.data.inspected import InspectedArea
from mendiff.data.reading import image_size as read_size
from mendiff.errors import InputError, check_choice, check_range
from mendiff.methods.base import MethodConfig, Progress
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.nets import AUTO
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.fit_config import Plan, check_images
from mendiff.runs.geometry import calibration_of, read_areas, say_geometry
from mendiff.runs.length import Length, chosen_length, configured_length, read_length, write_length
from mendiff.runs.locks import check_free, hidden_path
from mendiff.runs.places import Place, TakenError, check_output, new_folder, resumable
from mendiff.runs.power import Power, estimate_power
from mendiff.runs.processes import check_processes, describe_processes, rank_of
from mendiff.runs.reporting import Reporter, Silent
from mendiff.runs.thresholds import check_rate, report_reliability, warn_of_outliers
from mendiff.training.codec_stage import CHECKPOINT, CODEC_CHECKPOINT
from mendiff.training.optimizers import check_savings
from mendiff.training.split import FEWEST_IMAGES, choose, split_seeds
from mendiff.types import Processes
from mendiff.workflows.manifest import check_manifest, data_hashes, facts_of, hashes_of, sources_of
from mendiff.workflows.options import FitOptions

STATISTICS = ("global", "category")
BALANCES = ("image", "category")
RESIZES = ("stretch", "letterbox")
PARTS_FILE = "parts"
STEPS = "training.steps"
UPRIGHT = (
    "the part has varying orientations, so every image is rotated upright and centred before inference "
    "(--set upright=never disables this)."
)
NO_FEATURES = "only pixels are compared; --features auto detects many more defects."
NOTHING_TO_RESUME = "--resume: expected an interrupted fit of {} to resume, found none; run without --resume."


def run(options: FitOptions, reporter: Reporter) -> dict[str, Any]:
    """Fit a method to the good images of `data` and write the model folder `out`."""
    processes = Processes(choose_device(options.device), options.devices, options.nodes, options.strategy)
    check_processes(processes)
    reporter = reporter if rank_of(processes) == 0 else Silent()
    check_output(options.out, options.overwrite, "a model")
    if rank_of(processes) == 0 and options.preset != AUTO:
        workdir_of(options.out, options.resume)
    if options.textures is not None:
        find_images(options.textures)
    check_choice("--statistics", options.statistics, STATISTICS)
    check_choice("--balance", options.balance, BALANCES)
    check_choice("--resize", options.resize, RESIZES)
    depth = {"bit_depth": options.bit_depth} if options.bit_depth else {}
    same: dict[str, Any] = {one.name: getattr(options, one.name) for one in fields(Plan)}
    changed: dict[str, Any] = {
        "settings": with_steps(depth | options.settings, options.steps),
        "device": processes.device,
        "false_alarm_rate": check_rate(options.false_alarm_rate),
        "minutes": check_minutes(options.minutes, options.steps, processes),
    }
    plan = Plan(**same | changed)
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    how = {"resume": options.resume, "overwrite": options.overwrite}
    if options.preset == AUTO:
        from mendiff.workflows.choice import fit_candidates  # imports this module

        return fit_candidates(plan, chosen, options.out, reporter, **how)
    return fit(plan, chosen, options.out, reporter, **how)


def fit(
    plan: Plan,
    categories: Sequence[Category],
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checked: bool = False,
) -> dict[str, Any]:
    """Train on the good images of the categories and write a model folder; returns a summary.

    Of several processes, only the first writes files and returns a summary. `checked` states that
    `readable_categories` returned the categories.
    """
    first = rank_of(plan.processes) == 0
    place = check_output(out, overwrite, "a model")
    paths, config, cache = check_images(plan, categories, reporter, checked=checked)
    check_prompts(plan, config, categories)
    areas = read_areas(plan, categories, paths)
    by_category = _paths_by_category(categories, paths) if plan.statistics == "category" else {}
    workdir = workdir_of(out, resume) if first else _workdir(out)
    earlier = workdir / CODEC_CHECKPOINT
    with resumable(workdir / CHECKPOINT, out, resume, earlier=earlier) if first else nullcontext():
        length = _length(plan, config, workdir, reporter, resume=resume)
        config = length.of(config)
        names = [one.name for one in categories]
        _say_plan(plan, config, length, len(paths), names, reporter)
        say_geometry(config, reporter)
        files = hashes_of(plan, config) if first else {}
        if first:
            started = facts_of(plan, config, data_hashes(categories, paths), files)
            reached = next((one for one in (workdir / CHECKPOINT, earlier) if one.is_file()), earlier)
            check_manifest(workdir, reached, started, resume=resume)
        module, loaded = _module(plan, config, workdir if resume else None, reporter)
        module.files = files
        facts = {"images": len(paths), "categories": names, "pretrained": loaded}
        facts["usual_size"] = median_size(paths)
        if first:
            (workdir / PARTS_FILE).write_text("\n".join(loaded))
            write_length(workdir, length)
        _hold_back(module, by_category, cache)
        with reporter.stages() as update:
            images = _images(module, categories, paths, cache, update)
            groups = _groups(images, categories) if plan.balance == "category" else None
            seconds = train(plan, module, images, workdir, update, groups, resume=resume)
        if not first:
            return {}
        steps = config.training.steps
        info = {"preset": plan.preset, **facts, "seed": plan.seed, "steps": steps, "seconds": seconds}
        model = module.as_model(info).to(plan.device).with_false_alarm_rate(plan.false_alarm_rate)
        model.area = areas.get("")
        scored = [images.source(at) for at in module.split.scored_at(len(model.calibration.scores))]
        with reporter.stages() as update:
            if not model.plain:
                model.calibration, scored = calibration_of(model, module.split, images, update)
            outliers = warn_of_outliers(model.calibration, scored, reporter)
            held_back = scored[: model.calibration.held_back]
            power = estimate_power(model, (cache.prepared(path, path) for path in held_back), update)
        model.info["power"] = power.to_dict()
        _save(model, place, by_category, areas, cache, reporter)
    _say_result(model, out, power, reporter)
    summary = {"threshold": model.threshold, "worth": model.calibration.worth, "standing_out": outliers}
    return {"model": str(out), **summary, **model.info, "config": config_to_dict(module.config)}


def _say_plan(
    plan: Plan, config: MethodConfig, length: Length, images: int, names: Sequence[str], reporter: Reporter
) -> None:
    """What will be fitted, and for how long."""
    what = f"{images} good images of {', '.join(names)}, {config.image_size} pixels"
    how = f"{config.training.steps} steps on {describe_processes(plan.processes)}"
    reporter.say(f"{plan.method} ({plan.preset}): {what}, {how}{_repeat(plan, config, length)}")
    if not getattr(getattr(config, "features", None), "name", "-"):
        reporter.say(f"note: {NO_FEATURES}")


def _module(
    plan: Plan, config: MethodConfig, workdir: Path | None, reporter: Reporter
) -> tuple[Any, list[str]]:
    """See `prepared`; also with the plan's textures, and reported."""
    module, loaded = prepared(plan, config, workdir)
    for line in loaded:
        reporter.say(line)
    if plan.textures is not None:
        module.use_textures(plan.textures)
        reporter.say(f"textures: {len(module.method.textures)} pictures of {plan.textures}")
    return module, loaded


def _say_result(model: Model, out: Path, power: Power, reporter: Reporter) -> None:
    """Where the model is, and what its threshold is worth and finds."""
    seconds = model.info["seconds"]
    reporter.say(
        f"model: {out} (fitted in {seconds:.0f} s; threshold {model.threshold:.4g} from good images only)"
    )
    if line := bank_share_note(model.method):
        reporter.say(line)
    if model.method.config.upright == "always":
        reporter.say(f"note: {UPRIGHT}")
    report_reliability(model.calibration, reporter)
    reporter.say(f"power: the threshold {power.sentence(model.threshold)}")


def bank_share_note(method: Any) -> str:
    """A line about the memory bank's share of the scores, if the fit chose it; otherwise ""."""
    readout = getattr(method, "readout", None)
    if readout is None or len(readout.config.bank_shares) < 2:
        return ""
    share = round(100 * float(readout.bank_share))
    chosen = "chosen on synthetic defects in held-back images"
    if share == 100:
        return f"note: scores come from the memory bank only, {chosen}: reconstructions do not improve them."
    return f"scores: {share} % memory bank, {100 - share} % reconstruction, {chosen}"


def median_size(paths: Sequence[Path]) -> list[int]:
    """[H, W] of the image with the median longer side, among the first 200."""
    sizes = sorted((read_size(path) for path in paths[:200]), key=max)
    return list(sizes[len(sizes) // 2])


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


def with_steps(settings: Mapping[str, Any], steps: int | None) -> dict[str, Any]:
    """Settings with the value of --steps; InputError if --set has another number of steps."""
    if steps is None:
        return dict(settings)
    check_range("--steps", steps, 1)
    other = settings.get(STEPS, steps)
    if other != steps:
        raise InputError(f"--steps and --set {STEPS}: expected equal numbers, got {steps} and {other!r}.")
    return {**settings, STEPS: steps}


def _length(plan: Plan, config: MethodConfig, workdir: Path, reporter: Reporter, *, resume: bool) -> Length:
    """Training length: that of the resumed training, as requested, or chosen by the machine's speed."""
    kept = read_length(workdir) if resume else None
    if STEPS in plan.settings or plan.processes.count > 1:
        return configured_length(config)
    return kept or chosen_length(plan.method, config, plan.device, minutes=plan.minutes, say=reporter.say)


def _repeat(plan: Plan, config: MethodConfig, length: Length) -> str:
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


def _paths_by_category(categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The readable images of every category; InputError for too few."""
    readable = set(paths)
    found = {one.name: [path for path in one.train if path in readable] for one in categories}
    for name, some in found.items():
        if len(some) < FEWEST_IMAGES:
            raise InputError(
                f"--statistics category: expected at least {FEWEST_IMAGES} good images of {name}, got "
                f"{len(some)}; add images, or choose --statistics global."
            )
    return found


def _groups(images: Any, categories: Sequence[Category]) -> list[list[int]]:
    """Indices of every category's training images, or tiles of these."""
    category = {path: at for at, one in enumerate(categories) for path in one.train}
    groups: list[list[int]] = [[] for _ in categories]
    for index in range(len(images)):
        groups[category[images.source(index)]].append(index)
    return groups


def prepared(plan: Plan, config: MethodConfig, workdir: Path | None = None) -> tuple[Any, list[str]]:
    """(anomalib module with its initial weights, a line per source of weights).

    Args:
        plan: method, seed, sources of weights.
        config: see make_config.
        workdir: of a training to resume, whose checkpoint has all weights.
    """
    from mendiff import anomalib_models  # importing anomalib and Lightning takes seconds

    anomalib_models.quiet()
    check_savings(config.training, plan.device)
    build = partial(anomalib_models.module_class(plan.method), config, seed=plan.seed)
    if workdir is not None and (workdir / CHECKPOINT).is_file():
        return build(), _parts(workdir)
    sources, features = sources_of(plan), getattr(getattr(config, "features", None), "name", "")
    module = build()
    lines = [f"features: {BUNDLED_FEATURES}"] if features == AUTO else []
    lines += load_pretrained(module.method, sources)
    if plan.codec is not None:
        codec: Any = module.method.codec
        load_exactly(codec, read_codec(codec_folder(plan.codec))[1], str(plan.codec), CODEC)
        lines.append(f"autoencoder: {plan.codec}")
    return module, lines


def _parts(workdir: Path) -> list[str]:
    """The lines about weights of an interrupted training."""
    try:
        return (workdir / PARTS_FILE).read_text().splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{workdir}: expected the files of an interrupted training, found no {PARTS_FILE!r}; remove the "
            "folder and fit again."
        ) from None


def train(
    plan: Plan,
    module: Any,
    images: Any,
    workdir: Path,
    update: Callable[[str, int, int, str], None],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    resume: bool = False,
) -> float:
    """Train a module; returns the duration in seconds.

    Args:
        plan: its devices.
        module: see prepared.
        images: anomalib_models.GoodImages.
        workdir: for checkpoints.
        update: called with (stage, step, steps, note).
        groups: indices of the images in groups that are sampled equally often; None for a single group.
        resume: resume the interrupted training in `workdir`.
    """
    from mendiff import anomalib_models

    began = time.monotonic()
    anomalib_models.train(
        module,
        images,
        workdir=workdir,
        groups=groups,
        processes=plan.processes,
        resume=resume,
        progress=lambda step, total, loss: update("fitting", step, total, f"loss {loss:.4f}"),
        stages=update,
    )
    return round(time.monotonic() - began, 1)


def _images(
    module: Any, categories: Sequence[Category], paths: Sequence[Path], cache: ImageCache, update: Progress
) -> Any:
    """The training images or their tiles, with their categories if the method uses categories."""
    from mendiff import anomalib_models

    names = {path: one.name for one in categories for path in one.train} if module.method.categories else {}
    labels = [names[path] for path in paths] if names else ()
    geometry, depth = cache.geometry, cache.bit_depth
    if geometry.tile:
        return anomalib_models.GoodTiles(paths, geometry, categories=labels, bit_depth=depth, progress=update)
    return anomalib_models.GoodImages(paths, geometry.side, categories=labels, cache=cache)


def _hold_back(module: Any, by_category: Mapping[str, Sequence[Path]], cache: ImageCache) -> None:
    """Hold back images of every category that gets separate statistics."""
    for some in by_category.values():
        module.held_back += choose([_seed(path, cache) for path in some])


def _seed(path: Path, cache: ImageCache) -> int:
    """Content seed of an image, as in `Split`."""
    return cache.geometry.seed(cache.prepared(path, path))


def _save(
    model: Model,
    place: Place,
    by_category: Mapping[str, Sequence[Path]],
    areas: Mapping[str, InspectedArea],
    cache: ImageCache,
    reporter: Reporter,
) -> None:
    """Calibrate the categories that get separate statistics, and write the model folder."""
    # Generated singly while the folder is written: every model is a copy of the networks.
    categories = (
        (name, _of_category(replace(model, area=areas.get(name, model.area)), name, some, cache, reporter))
        for name, some in by_category.items()
    )
    try:
        with new_folder(place) as draft:
            draft.rmdir()
            save(draft, model.name, model.method, model.calibration, model.info, categories, model.area)
    except TakenError:
        raise
    except InputError as error:
        raise InputError(
            f"{error} The training result is kept: run the same command with --resume to continue."
        ) from error


def _of_category(
    model: Model, name: str, paths: Sequence[Path], cache: ImageCache, reporter: Reporter
) -> Model:
    """The model with statistics and threshold from the images of a single category."""
    seeds = {_seed(path, cache): path for path in paths}
    fitted = fitted_of(model.info)
    held_back, seen = split_seeds(list(seeds), None if fitted is None else fitted.held_back)
    images, others = (
        [cache.image(seeds[seed], seeds[seed]) if model.plain else seeds[seed] for seed in some]
        for some in (held_back, seen)
    )
    calibrated = model.calibrated(images, others, category=name)
    warn_of_outliers(calibrated.calibration, [seeds[seed] for seed in (*held_back, *seen)], reporter)
    report_reliability(calibrated.calibration, reporter, f"threshold of {name}", warnings_only=True)
    return calibrated


def workdir_of(out: Path, resume: bool) -> Path:
    """Folder of the checkpoints until the model is written; InputError if missing on resume."""
    workdir = _workdir(out)
    check_free(out, "training")
    if resume and not workdir.is_dir():
        raise InputError(NOTHING_TO_RESUME.format(out))
    return workdir


def _workdir(out: Path) -> Path:
    return hidden_path(out, "fit")
