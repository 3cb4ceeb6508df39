"""The jobs of a benchmark: their folders, running them one by one or side by side, and what they found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.files import read_json, write_json
from mendiff.commands.common import Terminal
from mendiff.commands.job import FAILED, SPEC, Job, result_file
from mendiff.errors import InputError
from mendiff.methods.config import config_from_dict

_RUNNING: set[subprocess.Popen[bytes]] = set()
"""Jobs of this process."""


def prepared(out: Path, name: str, job: Job) -> Path:
    """The job's folder with its job.json; one that was made for other work is refused."""
    folder = out / "jobs" / name
    spec = folder / SPEC
    if spec.is_file():
        try:
            before = config_from_dict(Job, read_json(spec), str(spec))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{spec}: expected a job of this version, found another file; choose another -o."
            ) from error
        if not job.same_work(before):
            raise InputError(
                f"{folder}: expected the same settings as in the run that this folder holds, got others "
                f"({difference(before, job)}); choose another -o."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(spec, asdict(job))
    return folder


def difference(before: Job, now: Job) -> str:
    """The first field that differs, for messages."""
    old, new = asdict(before), asdict(now)
    names = [
        name for name in old if old[name] != new[name] and name not in ("data", "device", "features_weights")
    ]
    return f"{names[0]}: {old[names[0]]} before, {new[names[0]]} now" if names else "its rows"


def run_all(folders: Sequence[Path], jobs: int, ray: str | None, terminal: Terminal) -> dict[Path, str]:
    """Run what is not done; the folders that failed, and why."""
    todo = [folder for folder in folders if not is_done(folder)]
    if len(todo) < len(folders):
        terminal.say(f"{len(folders) - len(todo)} of {len(folders)} jobs are done already")
    failed: dict[Path, str] = {}
    with terminal.bar("benchmark") as update:
        update(len(folders) - len(todo), len(folders), "")
        for number, (folder, reason) in enumerate(outcomes(todo, jobs, ray), start=1):
            if reason:
                failed[folder] = reason
                terminal.warn(f"{folder.name}: {reason}")
            update(len(folders) - len(todo) + number, len(folders), folder.name)
    return failed


def is_done(folder: Path) -> bool:
    """Whether every row of a job has its results."""
    job = config_from_dict(Job, read_json(folder / SPEC), str(folder / SPEC))
    return all(result_file(folder, label).is_file() for label in job.rows)


def outcomes(folders: Sequence[Path], jobs: int, ray: str | None) -> Iterator[tuple[Path, str]]:
    """Every job's folder and why it failed, as they end; empty where it did not."""
    if ray is not None:
        yield from outcomes_of_ray(folders, ray)
        return
    gpus = torch.cuda.device_count()
    with ThreadPoolExecutor(jobs) as pool:
        waiting: dict[Future[str], Path] = {
            pool.submit(run_job, folder, number % gpus if gpus > 1 and jobs > 1 else None): folder
            for number, folder in enumerate(folders)
        }
        try:
            for one in as_completed(waiting):
                yield waiting[one], one.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_RUNNING):  # SIGTERM, unlike Ctrl-C, came to this process alone
                process.terminate()
            raise KeyboardInterrupt("the same command goes on from here") from None


def outcomes_of_ray(folders: Sequence[Path], address: str) -> Iterator[tuple[Path, str]]:
    """The same on the machines of a Ray cluster, which must share the data's and the output's folders."""
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--ray: expected the package ray, found none; pip install 'mendiff[cluster]'."
        ) from error
    ray.init(address=None if address == "local" else address, logging_level="ERROR", log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)(run_job)
        waiting = {remote.remote(folder.resolve(), None): folder for folder in folders}
        while waiting:
            ended, _ = ray.wait(list(waiting))
            for one in ended:
                yield waiting.pop(one), ray.get(one)
    finally:
        ray.shutdown()


def run_job(folder: Path, gpu: int | None) -> str:
    """Run one job in a process of its own, so that time and memory are its own; why it failed, or nothing."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": str(gpu)} if gpu is not None else {})
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "mendiff.commands.job", str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _RUNNING.add(process)
        try:
            code = process.wait()
        finally:
            _RUNNING.discard(process)
    if code == 0:
        return ""
    told = folder / FAILED
    return told.read_text() if told.is_file() else f"ended with code {code}; see {folder / 'log.txt'}."


def others_of(out: Path, folders: Sequence[Path]) -> list[Path]:
    """The jobs of earlier commands with the same output folder: the tables show them too."""
    return [spec.parent for spec in sorted(out.glob(f"jobs/*/{SPEC}")) if spec.parent not in folders]


def collected(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Every row's results that are there."""
    for folder in folders:
        for label in config_from_dict(Job, read_json(folder / SPEC), str(folder / SPEC)).rows:
            place = result_file(folder, label)
            if place.is_file():
                yield read_json(place)
