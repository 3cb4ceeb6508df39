"""`mendiff fit`: train on a folder of good images and write a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mendiff.calibration import FALSE_ALARM_RATE
from mendiff.data.cache import ImageCache
from mendiff.data.dataset import Category
from mendiff.data.geometry import Geometry
from mendiff.data.image_files import find_images
from mendiff.data.reading import image_size as read_size
from mendiff.errors import check_choice
from mendiff.methods.base import MethodConfig, Progress
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.nets import AUTO
from mendiff.runs.by_category import groups_of, hold_back, paths_by_category, save_model
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.fit_checks import (
    BALANCES,
    STATISTICS,
    check_minutes,
    check_prompts,
    length_of,
    repeat_note,
    with_steps,
)
from mendiff.runs.fit_config import Plan
from mendiff.runs.geometry import calibration_of, read_areas, say_geometry
from mendiff.runs.length import Length, write_length
from mendiff.runs.places import check_output, resumable
from mendiff.runs.power import Power, estimate_power, pixel_of
from mendiff.runs.processes import check_processes, describe_processes, rank_of
from mendiff.runs.reporting import Reporter, Silent
from mendiff.runs.start import Start
from mendiff.runs.thresholds import check_rate, left_out, report_reliability, warn_of_outliers
from mendiff.runs.training_images import check_images
from mendiff.training.codec_stage import CHECKPOINT, CODEC_CHECKPOINT
from mendiff.types import Processes
from mendiff.workflows.fit_from import data_of
from mendiff.workflows.manifest import check_manifest, data_facts, facts_of, hashes_of
from mendiff.workflows.options import FitOptions
from mendiff.workflows.training_run import PARTS_FILE, prepared, train, workdir_of, workdir_path

RESIZES = ("stretch", "letterbox")
UPRIGHT = (
    "the part has varying orientations, so every image is rotated upright and centred before inference "
    "(--set upright=never disables this)."
)
NO_FEATURES = "only pixels are compared; --features auto detects many more defects."


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
    start, categories = data_of(options)
    plan = _plan(options, processes, start)
    chosen = choose_categories(categories, options.categories)
    how = {"resume": options.resume, "overwrite": options.overwrite}
    if options.preset == AUTO:
        from mendiff.workflows.choice import fit_candidates  # imports this module

        return fit_candidates(plan, chosen, options.out, reporter, **how)
    return fit(plan, chosen, options.out, reporter, **how)


def _plan(options: FitOptions, processes: Processes, start: Start | None) -> Plan:
    """The options without data and output."""
    rate, fewest = FALSE_ALARM_RATE, 1
    changed: dict[str, Any] = {"device": processes.device, "start": start}
    if start is not None:
        rate, fewest = start.model.calibration.false_alarm_rate, 0
        changed |= {"method": start.model.name, "preset": start.model.info.get("preset", "")}
    given = {"bit_depth": options.bit_depth, "channels": options.channels}
    reading = {name: value for name, value in given.items() if value}
    if options.false_alarm_rate is not None:
        rate = check_rate(options.false_alarm_rate)
    changed |= {
        "settings": with_steps(reading | options.settings, options.steps, fewest),
        "false_alarm_rate": rate,
        "minutes": check_minutes(options.minutes, options.steps, processes),
    }
    same = {one.name: getattr(options, one.name) for one in fields(Plan) if one.name not in changed}
    return Plan(**same | changed)


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
    by_category = paths_by_category(categories, paths) if plan.statistics == "category" else {}
    workdir = workdir_of(out, resume) if first else workdir_path(out)
    earlier = workdir / CODEC_CHECKPOINT
    with resumable(workdir / CHECKPOINT, out, resume, earlier=earlier) if first else nullcontext():
        length = length_of(plan, config, workdir, reporter, resume=resume)
        config = length.of(config)
        names = [one.name for one in categories]
        _say_plan(plan, config, length, paths, names, reporter)
        say_geometry(config, reporter)
        files = hashes_of(plan, config) if first else {}
        if first:
            started = facts_of(plan, config, data_facts(plan.start, categories, paths), files)
            reached = next((one for one in (workdir / CHECKPOINT, earlier) if one.is_file()), earlier)
            check_manifest(workdir, reached, started, resume=resume)
        module, loaded = _module(plan, config, workdir if resume else None, reporter)
        module.files = files
        module.leaves_out = Geometry.of(config).stretches and "" not in areas
        facts = {"images": len(paths), "categories": names, "pretrained": loaded}
        facts["usual_size"] = median_size(paths)
        facts |= {} if plan.start is None else plan.start.facts(paths)
        if first:
            (workdir / PARTS_FILE).write_text("\n".join(loaded))
            write_length(workdir, length)
        hold_back(module, by_category, cache)
        with reporter.stages() as update:
            images = _images(module, categories, paths, cache, update)
            groups = groups_of(images, categories) if plan.balance == "category" else None
            if plan.start is not None:
                plan.start.hold_back(module, images)
                groups = plan.start.groups(images)
            seconds = train(plan, module, images, workdir, update, groups, resume=resume)
        if not first:
            return {}
        steps = module.fitted.steps
        info = {"preset": plan.preset, **facts, "seed": plan.seed, "steps": steps, "seconds": seconds}
        model = module.as_model(info).to(plan.device).with_false_alarm_rate(plan.false_alarm_rate)
        if plan.start is not None:
            model.method.config = plan.start.model.method.config
        model.area = areas.get("")
        outliers, power = _calibrated(model, module.split, images, cache, reporter)
        save_model(model, place, by_category, areas, cache, reporter)
    _say_result(model, out, power, reporter)
    summary = {"threshold": model.threshold, "worth": model.calibration.worth, "standing_out": outliers}
    return {"model": str(out), **summary, **model.info, "config": config_to_dict(model.method.config)}


def _calibrated(
    model: Model, split: Any, images: Any, cache: ImageCache, reporter: Reporter
) -> tuple[list[str], Power]:
    """Calibrate a model whose inputs are not whole images, and estimate its power; names of the outliers."""
    scored = [images.source(at) for at in split.scored_at(len(model.calibration.scores))]
    with reporter.stages() as update:
        if not model.plain:
            model.calibration, scored = calibration_of(model, split, images, update)
        ignored = left_out(model.method, [images.source(at) for at in split.seen_at])
        outliers = warn_of_outliers(model.calibration, scored, reporter, ignored)
        held_back = scored[: model.calibration.held_back]
        power = estimate_power(model, (cache.prepared(path, path) for path in held_back), update)
        power = replace(power, pixel=pixel_of(model.geometry, held_back))
    model.info["power"] = power.to_dict()
    return outliers, power


def _say_plan(
    plan: Plan,
    config: MethodConfig,
    length: Length,
    paths: Sequence[Path],
    names: Sequence[str],
    reporter: Reporter,
) -> None:
    """What will be fitted, and for how long."""
    title, count = f"{plan.method} ({plan.preset})", str(len(paths))
    how = f"{config.training.steps} steps on {describe_processes(plan.processes)}"
    if plan.start is not None:
        old = len(plan.start.old.intersection(paths))
        title, count = f"{title} from {plan.start.model.source}", f"{old} old and {len(paths) - old} new"
        how = how if plan.start.trains else "networks unchanged"
    what = f"{count} good images of {', '.join(names)}, {config.image_size} pixels"
    reporter.say(f"{title}: {what}, {how}{repeat_note(plan, config, length)}")
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
    """A line about what scores come from, if the fit chose it; otherwise ""."""
    readout = getattr(method, "readout", None)
    if readout is None or len(readout.config.bank_shares) < 2:
        return ""
    share, chosen = float(readout.bank_share), "chosen on synthetic defects in held-back images"
    if share == 1:
        return f"note: scores come from the memory bank only, {chosen}: reconstructions do not improve them."
    return f"scores: reconstructions {'and memory bank' if share else 'only'}, {chosen}"


def median_size(paths: Sequence[Path]) -> list[int]:
    """[H, W] of the image with the median longer side, among the first 200."""
    sizes = sorted((read_size(path) for path in paths[:200]), key=max)
    return list(sizes[len(sizes) // 2])


def _images(
    module: Any, categories: Sequence[Category], paths: Sequence[Path], cache: ImageCache, update: Progress
) -> Any:
    """The training images or their tiles, with their categories if the method uses categories."""
    from mendiff import anomalib_models

    names = {path: one.name for one in categories for path in one.train} if module.method.categories else {}
    labels = [names[path] for path in paths] if names else ()
    geometry, reading = cache.geometry, cache.reading
    if geometry.tile:
        return anomalib_models.GoodTiles(paths, geometry, categories=labels, reading=reading, progress=update)
    return anomalib_models.GoodImages(paths, geometry.side, categories=labels, cache=cache)
