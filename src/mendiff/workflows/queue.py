"""The jobs of a benchmark: their folders, their execution in sequence or in parallel, their results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.files import read_json
from mendiff.errors import InputError
from mendiff.runs.reporting import Reporter
from mendiff.workflows.spec import (
    FAILED,
    SPEC,
    Job,
    difference,
    difference_of_rows,
    is_begun,
    read_job,
    result_file,
    write_job,
)

_RUNNING: set[subprocess.Popen[bytes]] = set()
"""Running jobs that this process started."""


def check_folder(out: Path, jobs: Mapping[str, Job]) -> None:
    """Raise InputError for existing jobs with other settings, data, weights, code or device type."""
    for name, job in jobs.items():
        _earlier(out / "jobs" / name, job)
    for folder in others_of(out, [out / "jobs" / name for name in jobs]):
        other = read_job(folder)
        for job in jobs.values() if is_begun(folder) else ():
            _refuse(folder, difference_of_rows(other, job))


def prepared(out: Path, name: str, job: Job) -> Path:
    """The job's folder with its job.json; InputError for a folder of another job."""
    folder = out / "jobs" / name
    before = _earlier(folder, job)
    folder.mkdir(parents=True, exist_ok=True)
    write_job(folder, job, before)
    return folder


def _earlier(folder: Path, job: Job) -> Job | None:
    """The equal job that a folder already has; None for a new folder or a job that failed without results."""
    if not (folder / SPEC).is_file():
        return None
    before = read_job(folder)
    changed = difference(before, job)
    if changed and (folder / FAILED).is_file() and not is_begun(folder):
        return None
    _refuse(folder, changed)
    return before


def _refuse(folder: Path, changed: str) -> None:
    if changed:
        raise InputError(
            f"{folder}: expected the settings, data, weights, device and code of the existing run, got "
            f"others ({changed}); choose another -o."
        )


def run_all(folders: Sequence[Path], jobs: int, ray: str | None, reporter: Reporter) -> dict[Path, str]:
    """Run all unfinished jobs; returns the folders of failed jobs with the reasons."""

    def is_done(folder: Path) -> bool:
        return all(result_file(folder, label).is_file() for label in read_job(folder).rows)

    todo = [folder for folder in folders if not is_done(folder)]
    if len(todo) < len(folders):
        reporter.say(f"{len(folders) - len(todo)} of {len(folders)} jobs are done already")
    failed: dict[Path, str] = {}
    with reporter.bar("benchmark: jobs") as update:
        update(len(folders) - len(todo), len(folders), "")
        for number, (folder, reason) in enumerate(outcomes(todo, jobs, ray), start=1):
            if reason:
                failed[folder] = reason
                reporter.warn(f"{folder.name}: {reason}")
            update(len(folders) - len(todo) + number, len(folders), folder.name)
    return failed


def outcomes(folders: Sequence[Path], jobs: int, ray: str | None) -> Iterator[tuple[Path, str]]:
    """(folder, reason of failure or "") of every job, in the order of completion."""
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
            for process in list(_RUNNING):  # SIGTERM, unlike Ctrl-C, reaches only this process
                process.terminate()
            raise KeyboardInterrupt("run the same command to continue") from None


def outcomes_of_ray(folders: Sequence[Path], address: str) -> Iterator[tuple[Path, str]]:
    """`outcomes` on a Ray cluster, whose machines must share the folders of data and output."""
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
    """Run a job in a separate process, for its own time and memory; returns the reason of failure or ""."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": str(gpu)} if gpu is not None else {})
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "mendiff.cli.job", str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _RUNNING.add(process)
        try:
            code = process.wait()
        finally:
            _RUNNING.discard(process)
    if code == 0:
        return ""
    reason = folder / FAILED
    return reason.read_text() if reason.is_file() else f"exit code {code}; see {folder / 'log.txt'}."


def others_of(out: Path, folders: Sequence[Path]) -> list[Path]:
    """Folders of other jobs in the same output folder, which the tables include."""
    return [spec.parent for spec in sorted(out.glob(f"jobs/*/{SPEC}")) if spec.parent not in folders]


def collected(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The existing results of all rows."""
    for folder in folders:
        for label in read_job(folder).rows:
            path = result_file(folder, label)
            if path.is_file():
                yield read_json(path)
