"""Injects faults into `mendiff predict` and `mendiff fit` and prints what happened (Linux, macOS).

    python benchmarks/faults.py [--predict-kills 50] [--fit-kills 10] [--seed 0]

Commands run in processes of their own, forked from one that has imported the package, on small images and a
small model. After each chain of faults, the results are compared byte by byte with those of a run without
faults. "Lost" and "twice" count images without a row and with two rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from small_model import SETTINGS, draw_photos, fit_small

from mendiff.anomalib_models import training
from mendiff.cli import main as mendiff
from mendiff.runs.rows import LINES, read_rows

PHOTOS, DAMAGED, NOBODY = 40, 20, 65534
BATCH = ("--batch-size", "4", "--device", "cpu")
CRASHED = 99
NO_LIMIT = resource.RLIM_INFINITY


class Bench:
    """Photos, a model, its findings, and random numbers."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.rng = place, random.Random(seed)
        self.photos = draw_photos(place / "photos", PHOTOS)
        self.model = fit_small(place / "fit")
        self.ended(self.predict("first"))  # the first run takes longer
        began = time.monotonic()
        self.ended(self.predict("whole"))
        self.seconds = time.monotonic() - began
        self.whole = content(place / "whole")

    def predict(self, out: str, *words: str, photos: Path | None = None) -> list[str]:
        """Words of a prediction."""
        place = self.place / out
        return ["predict", str(self.model), str(photos or self.photos), "-o", str(place), *BATCH, *words]

    def start(self, words: list[str], arrange: Callable[[], object] = lambda: None) -> int:
        """Start a command in a new process; `arrange` is called there first."""
        child = os.fork()
        if child:
            return child
        try:
            log = os.open(self.place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            arrange()
            os._exit(mendiff(words))
        except BaseException:
            os._exit(CRASHED)

    def ended(self, words: list[str], arrange: Callable[[], object] = lambda: None) -> int:
        """Run a command; returns its exit code."""
        return code_of(self.start(words, arrange))

    def killed(self, words: list[str], seconds: float, arrange: Callable[[], object] = lambda: None) -> int:
        """Run a command and kill it after a random time of up to `seconds`; returns its exit code, or -9."""
        child = self.start(words, arrange)
        time.sleep(self.rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        return code_of(child)


def code_of(child: int) -> int:
    """Wait for a process; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kills_of_predict(bench: Bench, kills: int) -> Iterator[tuple[str, int]]:
    """Kill runs again and again, each continued until it is finished."""
    counts: Counter[str] = Counter()
    out = bench.place / "found"
    while counts["killed"] < kills:
        code = bench.killed(bench.predict("found", "--resume"), bench.seconds)
        counts["killed"] += code == -signal.SIGKILL
        part = out.with_name("found-unfinished")
        rows = list(read_rows(part / LINES))
        counts["rows without their pictures"] += sum(not (part / row["mask"]).is_file() for row in rows)
        counts["half-written folders of the final name"] += out.exists() and content(out) != bench.whole
        if out.exists() or counts["killed"] == kills:
            code = bench.ended(bench.predict("found", "--resume"))
            images = Counter(row["image"] for row in read_rows(out / LINES))
            counts["runs finished"] += code == 0
            counts["lost"] += PHOTOS - len(images)
            counts["twice"] += sum(number > 1 for number in images.values())
            counts["runs with other bytes"] += content(out) != bench.whole
            shutil.rmtree(out)
    yield from counts.items()


def kills_of_fit(bench: Bench, kills: int) -> Iterator[tuple[str, int]]:
    """Kill fits again and again, each continued until it is finished."""

    def words(name: str) -> list[str]:
        changes = {**SETTINGS, "training.steps": 40, "training.batch_size": 2}
        given = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
        begun = any(bench.place.glob(f".{name}.fit/last*"))
        data, folder = bench.place / "fit/good", bench.place / name
        return [
            *("fit", str(data), "-o", str(folder), "--features", "none", "--device", "cpu", *given),
            *(["--resume"] if begun else []),
        ]

    def often() -> None:
        training.CHECKPOINT_SECONDS = 0.0

    def learned(name: str) -> list[bytes]:
        return [(bench.place / name / one).read_bytes() for one in ("model.safetensors", "calibration.json")]

    began = time.monotonic()
    bench.ended(words("unbroken"), often)
    seconds, counts = time.monotonic() - began, Counter[str]()
    out = bench.place / "fitted"
    while counts["killed"] < kills:
        counts["killed"] += bench.killed(words("fitted"), seconds, often) == -signal.SIGKILL
        if out.exists() or counts["killed"] == kills:
            counts["fits finished"] += out.exists() or bench.ended(words("fitted"), often) == 0
            counts["fits with other weights or scores"] += learned("fitted") != learned("unbroken")
            shutil.rmtree(out)
    yield from counts.items()


@contextmanager
def small_disk(bench: Bench) -> Iterator[Path]:
    """A file system of 300 kB; PermissionError where it can't be mounted."""
    disk = bench.place / "disk"
    disk.mkdir(exist_ok=True)
    if os.system(f"mount -t tmpfs -o size=300k tmpfs {disk} 2>/dev/null"):
        raise PermissionError("no file system can be mounted here")
    try:
        yield disk
    finally:
        os.system(f"umount {disk}")


def full_disks(bench: Bench) -> Iterator[tuple[str, int]]:
    """A file system that becomes full, and then has space again."""
    counts: Counter[str] = Counter()
    with small_disk(bench) as disk:
        counts["exit code 2"] += bench.ended(bench.predict("disk/found")) == 2
        counts["folders of the final name"] += (disk / "found").exists()
        os.system(f"mount -o remount,size=30m {disk}")
        counts["continued"] += bench.ended(bench.predict("disk/found", "--resume")) == 0
        counts["runs with other bytes"] += content(disk / "found") != bench.whole
    yield from counts.items()


def size_limits(bench: Bench) -> Iterator[tuple[str, int]]:
    """Files that may not become larger than a limit, which is then lifted."""
    counts: Counter[str] = Counter()
    for limit in (500, 1000, 2000, 4000, 8000):

        def limited(limit: int = limit) -> None:
            for stream in (1, 2):  # the log is longer than the limit
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, NO_LIMIT))

        counts["exit code 2"] += bench.ended(bench.predict("limited"), limited) == 2
        counts["folders of the final name"] += (bench.place / "limited").exists()
        counts["continued"] += bench.ended(bench.predict("limited", "--resume")) == 0
        counts["runs with other bytes"] += content(bench.place / "limited") != bench.whole
        shutil.rmtree(bench.place / "limited")
    yield from counts.items()


def read_only(bench: Bench) -> Iterator[tuple[str, int]]:
    """A folder without write permission, for a user who is not root."""
    home = bench.place / "locked"
    home.mkdir()
    home.chmod(0o555)

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)

    yield "exit code 2", bench.ended(bench.predict("locked/found"), as_nobody) == 2
    yield "files written", len(list(home.iterdir()))


def two_at_once(bench: Bench) -> Iterator[tuple[str, int]]:
    """Two processes into one folder."""
    counts: Counter[str] = Counter()
    for _ in range(5):
        both = [bench.start(bench.predict("both")) for _ in range(2)]
        counts["one finished, one refused"] += sorted(map(code_of, both)) == [0, 2]
        counts["runs with other bytes"] += content(bench.place / "both") != bench.whole
        shutil.rmtree(bench.place / "both")
    yield from counts.items()


def damaged_files(bench: Bench) -> Iterator[tuple[str, int]]:
    """Images that are cut, emptied, or have other bytes."""
    counts: Counter[str] = Counter()
    photos = Path(shutil.copytree(bench.photos, bench.place / "damaged"))
    for path in bench.rng.sample(sorted(photos.iterdir()), DAMAGED):
        data = bytearray(path.read_bytes())
        kind = bench.rng.choice(["cut", "empty", "bytes"])
        for _ in range(20):
            data[bench.rng.randrange(len(data))] = bench.rng.randrange(256)
        kept = {"cut": path.read_bytes()[: len(data) // 2], "empty": b"", "bytes": bytes(data)}
        path.write_bytes(kept[kind])
    counts["exit code 3"] += bench.ended(bench.predict("despite", photos=photos)) == 3
    rows = list(read_rows(bench.place / "despite" / LINES))
    counts["rows"] += len(rows)
    counts["rows that state a reason"] += sum(row["error"] is not None for row in rows)
    yield from counts.items()


def main() -> None:
    """Inject and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predict-kills", type=int, default=50)
    parser.add_argument("--fit-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        bench = Bench(place, options.seed)
        often, seldom = options.predict_kills, options.fit_kills
        faults = {
            f"kill -9 of predict at a random moment, {often} times": lambda: kills_of_predict(bench, often),
            f"kill -9 of fit at a random moment, {seldom} times": lambda: kills_of_fit(bench, seldom),
            "disk full during predict, once": lambda: full_disks(bench),
            "limit of the file size during predict, 5 times": lambda: size_limits(bench),
            "output in a read-only folder, once": lambda: read_only(bench),
            "two predictions into one folder, 5 times": lambda: two_at_once(bench),
            f"{DAMAGED} of {PHOTOS} images damaged, once": lambda: damaged_files(bench),
        }
        print("| fault | what happened |\n|---|---|", flush=True)
        for fault, inject in faults.items():
            try:
                told = ", ".join(f"{what}: {int(number)}" for what, number in inject())
            except PermissionError as error:
                told = f"not injected: {error}"
            print(f"| {fault} | {told} |", flush=True)
        log = (place / "log").read_text(errors="replace")
        print(f"\nTracebacks in all messages: {log.count('Traceback')}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
