"""Injects faults into `mendiff predict` and `mendiff fit` and prints what happened (Linux, macOS).

    python benchmarks/faults.py [--predict-kills 50] [--fit-kills 50] [--seed 0] [--results faults.json]

Commands run in processes of their own, forked from one that has imported the package, on small images and a
small model. Every trial injects one fault, continues the command, and compares the results byte by byte with
those of a run without faults. Kills come at a moment drawn uniformly over the time of such a run; only those
that hit count. "Lost" and "twice" count images without a row and with two rows.

Counts are stored after every trial, so that the benchmark can be interrupted and started again.
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
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_model import SETTINGS, draw_photos, fit_small

from mendiff.anomalib_models import training
from mendiff.checkpoints.files import read_json, write_json
from mendiff.cli import main as mendiff
from mendiff.runs.rows import LINES, read_rows

PHOTOS, DAMAGED, NOBODY = 40, 20, 65534
BATCH = ("--batch-size", "4", "--device", "cpu")
FIT = {**SETTINGS, "training.steps": 40, "training.batch_size": 2}
CRASHED = 99
NO_LIMIT = resource.RLIM_INFINITY
PREDICT_LIMITS, FIT_LIMITS = (500, 1000, 2000, 4000, 8000), (300, 1000, 3000, 10_000, 30_000)
"""Largest sizes of a file in bytes."""
Counts = dict[str, int]


class Bench:
    """Photos, a model, its findings, and how long undisturbed commands take."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.photos = draw_photos(place / "photos", PHOTOS)
        self.model = fit_small(place / "fit")
        self.predict_seconds = self.undisturbed(self.predict("whole"))
        self.fit_seconds = self.undisturbed(self.fit("unbroken"), often)
        self.whole, self.unbroken = content(place / "whole"), learned(place / "unbroken")

    def predict(self, out: str, *words: str, photos: Path | None = None) -> list[str]:
        """Words of a prediction."""
        place = self.place / out
        return ["predict", str(self.model), str(photos or self.photos), "-o", str(place), *BATCH, *words]

    def fit(self, out: str) -> list[str]:
        """Words of a fit, which continues an interrupted one."""
        settings = [f"--set={key}={json.dumps(value)}" for key, value in FIT.items()]
        begun = any(self.place.glob(f".{out}.fit/last*"))
        data, folder = self.place / "fit/good", self.place / out
        usual = ["fit", str(data), "-o", str(folder), "--features", "none", "--device", "cpu", *settings]
        return [*usual, "--resume"] if begun else usual

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
            traceback.print_exc()
            os._exit(CRASHED)

    def tracebacks(self) -> int:
        """Number of tracebacks in the messages since the last call."""
        log = self.place / "log"
        count = log.read_text(errors="replace").count("Traceback")
        log.write_text("")
        return count

    def ended(self, words: list[str], arrange: Callable[[], object] = lambda: None) -> int:
        """Run a command; returns its exit code."""
        return code_of(self.start(words, arrange))

    def undisturbed(self, words: list[str], arrange: Callable[[], object] = lambda: None) -> float:
        """Seconds of a command, measured at its second run: the first fills the caches of the system."""
        for _ in range(2):
            shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
            began = time.monotonic()
            self.ended(words, arrange)
        return time.monotonic() - began

    def killed(self, words: list[str], seconds: float, arrange: Callable[[], object] = lambda: None) -> bool:
        """Run a command and kill it after some seconds; returns whether it was still running."""
        child = self.start(words, arrange)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        return code_of(child) == -signal.SIGKILL


def often() -> None:
    """Make fits save a checkpoint after every step."""
    training.CHECKPOINT_SECONDS = 0.0


def code_of(child: int) -> int:
    """Wait for a process; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def learned(folder: Path) -> list[bytes]:
    """What a fit learned."""
    return [(folder / name).read_bytes() for name in ("model.safetensors", "calibration.json")]


def removed(folder: Path) -> Path:
    """Remove a folder and the folders of interrupted commands beside it; returns its path."""
    for path in folder.parent.glob(f"*{folder.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
    return folder


# ---- faults: each is injected once, and the command then continued -------------------------------------


def kill_of_predict(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """Kill a prediction."""
    out = removed(bench.place / "found")
    part = out.with_name("found-unfinished")
    hit = bench.killed(bench.predict("found"), rng.uniform(0, bench.predict_seconds))
    if not hit:
        return {}
    rows = list(read_rows(part / LINES))
    bare = sum(not (part / row["mask"]).is_file() for row in rows)
    half = out.exists() and content(out) != bench.whole
    code = bench.ended(bench.predict("found", "--resume"))
    images = Counter(row["image"] for row in read_rows(out / LINES))
    return {
        "hits": 1,
        "hits after the first row": bool(rows),
        "rows without their pictures": bare,
        "half-written folders of the final name": half,
        "continued to the end": code == 0,
        "lost": PHOTOS - len(images),
        "twice": sum(number > 1 for number in images.values()),
        "results with other bytes": content(out) != bench.whole,
    }


def kill_of_fit(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """Kill a fit."""
    out = removed(bench.place / "fitted")
    if not bench.killed(bench.fit("fitted"), rng.uniform(0, bench.fit_seconds), often):
        return {}
    counts = {"hits": 1, "hits after a checkpoint": "--resume" in bench.fit("fitted")}
    half = out.exists() and learned(out) != bench.unbroken
    whole = out.exists() or bench.ended(bench.fit("fitted"), often) == 0
    other = not whole or learned(out) != bench.unbroken
    return counts | {
        "half-written folders of the final name": half,
        "continued to the end": whole,
        "fits with other weights or scores": other,
    }


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


def full_disk(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """A file system that becomes full, and then has space again."""
    with small_disk(bench) as disk:
        refused = bench.ended(bench.predict("disk/found")) == 2
        half = (disk / "found").exists()
        os.system(f"mount -o remount,size=30m {disk}")
        continued = bench.ended(bench.predict("disk/found", "--resume")) == 0
        other = content(disk / "found") != bench.whole
    return {"hits": 1, **fates(refused, half, continued, other)}


def fates(refused: bool, half: bool, continued: bool, other: bool) -> Counts:
    """What happened when files could not be written, and then could."""
    return {
        "exit code 2": refused,
        "folders of the final name": half,
        "continued to the end": continued,
        "results with other bytes": other,
    }


def limited(limit: int) -> Callable[[], None]:
    """Limits the size of the files that a process writes."""

    def arrange() -> None:
        often()
        for stream in (1, 2):  # the log is longer than the limit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, NO_LIMIT))

    return arrange


def limit_of_predict(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """Files that may not become larger than a limit, which is then lifted."""
    out = removed(bench.place / "limited")
    refused = bench.ended(bench.predict("limited"), limited(PREDICT_LIMITS[trial])) == 2
    half = out.exists()
    continued = bench.ended(bench.predict("limited", "--resume")) == 0
    return {"hits": 1, **fates(refused, half, continued, content(out) != bench.whole)}


def limit_of_fit(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """As limit_of_predict, of a fit."""
    out = removed(bench.place / "fitted")
    refused = bench.ended(bench.fit("fitted"), limited(FIT_LIMITS[trial])) == 2
    half = out.exists()
    continued = bench.ended(bench.fit("fitted"), often) == 0
    return {"hits": 1, **fates(refused, half, continued, not continued or learned(out) != bench.unbroken)}


def read_only(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """A folder without write permission, for a user who is not root."""
    home = bench.place / "locked"
    home.mkdir()
    home.chmod(0o555)

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)

    refused = bench.ended(bench.predict("locked/found"), as_nobody) == 2
    return {"hits": 1, "exit code 2": refused, "files written": len(list(home.iterdir()))}


def two_at_once(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """Two processes into one folder."""
    out = removed(bench.place / "both")
    both = [bench.start(bench.predict("both")) for _ in range(2)]
    single = sorted(map(code_of, both)) == [0, 2]
    other = content(out) != bench.whole
    return {"hits": 1, "one finished, one refused": single, "results with other bytes": other}


def damaged_files(bench: Bench, rng: random.Random, trial: int) -> Counts:
    """Images that are cut, emptied, or have other bytes."""
    photos = Path(shutil.copytree(bench.photos, bench.place / "damaged"))
    for path in rng.sample(sorted(photos.iterdir()), DAMAGED):
        data = bytearray(path.read_bytes())
        kind = rng.choice(["cut", "empty", "bytes"])
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
        kept = {"cut": path.read_bytes()[: len(data) // 2], "empty": b"", "bytes": bytes(data)}
        path.write_bytes(kept[kind])
    told = bench.ended(bench.predict("despite", photos=photos)) == 3
    rows = list(read_rows(bench.place / "despite" / LINES))
    reasons = sum(row["error"] is not None for row in rows)
    return {"hits": 1, "exit code 3": told, "rows": len(rows), "rows that state a reason": reasons}


# ---- all of them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What to inject, and how often it must hit."""

    title: str
    inject: Callable[[Bench, random.Random, int], Counts]
    hits: int


def faults_of(predict_kills: int, fit_kills: int) -> list[Fault]:
    """The rows of the table."""
    return [
        Fault("`kill -9` of `predict` at a random moment", kill_of_predict, predict_kills),
        Fault("`kill -9` of `fit` at a random moment", kill_of_fit, fit_kills),
        Fault("limit of the file size during `predict`", limit_of_predict, len(PREDICT_LIMITS)),
        Fault("limit of the file size during `fit`", limit_of_fit, len(FIT_LIMITS)),
        Fault("disk full during `predict`", full_disk, 1),
        Fault("output in a read-only folder", read_only, 1),
        Fault("two predictions into one folder at once", two_at_once, 5),
        Fault(f"{DAMAGED} of {PHOTOS} images damaged", damaged_files, 1),
    ]


def main() -> None:
    """Inject and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predict-kills", type=int, default=50)
    parser.add_argument("--fit-kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("faults.json"))
    options = parser.parse_args()
    known = read_json(options.results) if options.results.exists() else {}
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        bench = Bench(place)
        for fault in faults_of(options.predict_kills, options.fit_kills):
            counts = Counter(known.get(fault.title, {"trials": 0, "hits": 0}))
            while counts["hits"] < fault.hits:
                rng = random.Random(f"{options.seed} {fault.title} {counts['trials']}")
                try:
                    happened = fault.inject(bench, rng, counts["trials"])
                except PermissionError as error:
                    print(f"{fault.title}: not injected: {error}", file=sys.stderr)
                    break
                counts.update({"trials": 1, **{what: int(number) for what, number in happened.items()}})
                counts["tracebacks"] += bench.tracebacks()
                write_json(options.results, known := {**known, fault.title: dict(counts)})
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print_table(known)


def print_table(known: dict[str, Any]) -> None:
    """Print the counts."""
    print("| fault | hits | what happened |\n|---|---|---|")
    for title, counts in known.items():
        told = [f"{what}: {number}" for what, number in counts.items() if what not in ("trials", "hits")]
        print(f"| {title} | {counts['hits']} | {', '.join(told)} |")


if __name__ == "__main__":
    main()
