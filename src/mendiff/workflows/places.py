"""Where commands write: folders that are whole or not there, and nothing of others is ever replaced."""

from __future__ import annotations

import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mendiff.checkpoints.files import FullDiskError, writing
from mendiff.data.disk import exchange, rename_new, short_name
from mendiff.data.images import check_writable
from mendiff.data.made import MADE as MADE
from mendiff.data.made import made as made
from mendiff.errors import DivergedError, InputError
from mendiff.workflows.locks import exclusive_output, hidden_path, parents_of, serialized, try_lock

# What is in the hidden folder in which a command prepares its output.
LOCK, DRAFT, ASIDE, SPARE = "mendiff.lock", "draft", "aside", "spare"

FolderState = tuple[int, int, frozenset[tuple[str, int]]]
"""A folder as it was found: its device and number, and the names and numbers of all that is in it."""


class TakenError(InputError):
    """Something came up at the output path meanwhile; what was made is beside it."""


@dataclass(frozen=True)
class Place:
    """Where a command's output goes, as it was found when the command began.

    Attributes:
        out: the folder's whole path.
        what: becomes of it, one of MADE.
        before: what may be replaced there; None where there was nothing.
        kept: folders beside it with what earlier commands had found when they were killed.
    """

    out: Path
    what: str
    before: FolderState | None = None
    kept: tuple[Path, ...] = ()


def check_output(out: Path, overwrite: bool, what: str) -> Place:
    """Refuse an output folder that is in use or can't be written, before any work is done.

    What killed commands left beside it is cleaned up.

    Args:
        out: the folder.
        overwrite: whether it may be replaced.
        what: should become of it, one of MADE; only another of its kind is replaced.
    """
    check_writable(out)
    whole = Path(os.path.realpath(out))
    kept = tuple(_cleaned(whole))
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return Place(whole, what, kept=kept)
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, but it is a file; choose another name.")
    if not overwrite:
        raise InputError(
            f"{out}: expected a new or empty output folder, but it holds files; add --overwrite."
        )
    held = made(out)
    if held is None:
        raise InputError(
            f"{out}: --overwrite only replaces what mendiff wrote, but this folder holds other files; "
            "choose another."
        )
    if held != what:
        raise InputError(
            f"{out}: --overwrite would replace {what} here, but this folder holds {held}; choose another."
        )
    return Place(whole, what, folder_state(whole), kept)


def folder_state(folder: Path) -> FolderState | None:
    """What is at a path: equal later only if it is the same folder still, and nothing was put into it."""
    if not folder.is_dir():
        return None
    own = folder.stat()
    inside = frozenset(
        (os.path.relpath(one.path, folder), one.inode()) for one in _entries(os.fspath(folder))
    )
    return own.st_dev, own.st_ino, inside


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for one in entries:
            yield one
            if one.is_dir(follow_symlinks=False):
                yield from _entries(one.path)


@contextmanager
def new_folder(place: Place, worth: str = "") -> Iterator[Path]:
    """A draft folder that becomes the output when the block ends well, and vanishes when it does not.

    What came up at the place since the command began stays as it is: the draft gets a name beside it, and
    TakenError says so.

    Args:
        place: from check_output.
        worth: a file's name; where the block fails, a draft that holds it is kept under a name beside the
            output, which a note of the exception tells.
    """
    with _prepared(place.out, worth) as work:
        draft = work / DRAFT
        try:
            with writing(place.out):
                yield draft
        except BaseException as error:
            if worth and (draft / worth).is_file():
                kept = _kept(draft, place.out, "unfinished")
                error.__notes__ = [f"What was found so far is in {kept}."]
            raise
        try:
            with serialized(place.out):
                if not (place.before is not None and _replaced(work, place)):
                    rename_new(draft, place.out)
        except FileExistsError:
            kept = _kept(draft, place.out)
            raise TakenError(
                f"{place.out}: expected what was there when this command began, but something came up "
                f"meanwhile, which stays as it is; the outcome ({place.what}) is in {kept}."
            ) from None


def _replaced(work: Path, place: Place) -> bool:
    """Swap the draft with what it may replace; False where that is not there any more."""
    draft, aside = work / DRAFT, work / ASIDE
    if folder_state(place.out) != place.before:
        return False
    os.rename(draft, aside)  # from here on a killed command leaves it to `_discard` to tell whose it is
    try:
        exchange(aside, place.out, work / SPARE)
    except (FileExistsError, FileNotFoundError):
        os.rename(aside, draft)
        return False
    if folder_state(aside) == place.before:
        os.rename(aside, draft)  # to be deleted
        return True
    with suppress(FileExistsError):  # and something else, too, since then
        exchange(aside, place.out, work / SPARE)  # it came up in the last moment
    os.rename(work / SPARE if (work / SPARE).exists() else aside, draft)
    return False


@contextmanager
def _prepared(out: Path, worth: str) -> Iterator[Path]:
    """A hidden folder with an empty draft in it, beside the output, that goes at the end; see _cleaned."""
    with parents_of(out):
        lock = None
        while lock is None:
            work = hidden_path(out, uuid.uuid4().hex[:8])
            work.mkdir()
            with suppress(FileNotFoundError):  # another command took the empty folder for a dead one
                lock = try_lock(work / LOCK)
        os.write(lock, worth.encode())
        (work / DRAFT).mkdir()
        try:
            yield work
        finally:
            with serialized(out):
                _discard(work, out)
            os.close(lock)


def _cleaned(out: Path) -> Iterator[Path]:
    """Remove what killed commands left beside an output; gives the folders that are worth keeping."""
    ours = re.compile(re.escape(f".{short_name(out.name)}.") + "[0-9a-f]{8}")
    for work in sorted(out.parent.glob(f".{glob.escape(short_name(out.name))}.*")):
        if not ours.fullmatch(work.name) or work.is_symlink() or not work.is_dir():
            continue
        if not (work / LOCK).is_file():
            with suppress(OSError):  # killed before it was ours; another's folder is not empty
                work.rmdir()
            continue
        lock = try_lock(work / LOCK)
        if lock is None:
            continue  # alive
        worth = os.read(lock, 1000).decode()
        if worth and (work / DRAFT / worth).is_file():
            yield _kept(work / DRAFT, out, "unfinished")
        with serialized(out):
            _discard(work, out, dead=True)
        os.close(lock)


def _discard(work: Path, out: Path, *, dead: bool = False) -> None:
    """Remove a command's hidden folder; what it moved there is put back or kept.

    Of a dead command nobody knows whether it had replaced what it moved: work of ours then goes.
    """
    for moved in (work / SPARE, work / ASIDE):
        if not moved.exists():
            continue
        try:
            if not os.path.lexists(out):
                rename_new(moved, out)
            elif not dead or made(moved) is None:
                _kept(moved, out)
        except FileExistsError:
            _kept(moved, out)
    for name in (DRAFT, SPARE, ASIDE):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)  # the lock last: a folder without it is nobody's


def _kept(folder: Path, out: Path, word: str = "") -> Path:
    """Move a folder to a visible name beside an output; gives the name."""
    stem = "-".join((short_name(out.name), *([word] if word else [])))
    for number in count(1 if word else 2):
        name = out.with_name(stem if number == 1 else f"{stem}-{number}")
        if os.path.lexists(name):
            continue
        with suppress(FileExistsError):
            rename_new(folder, name)
            return name
    raise AssertionError("names never end")


@contextmanager
def resumable(
    checkpoint: Path, out: Path, resume: bool = False, *, earlier: Path | None = None
) -> Iterator[None]:
    """A training whose folder goes when the block ends well, and stays as long as it can be gone on with.

    Args:
        checkpoint: where the block may leave one, in the training's folder; written whole or not at all.
        out: what the block makes, for messages; of several trainings for the same only one runs at a time.
        resume: go on with what an earlier training left; otherwise it goes.
        earlier: the checkpoint of an earlier stage, likewise.
    """
    with exclusive_output(out, "training"):
        if not resume:
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
        try:
            with writing(out):
                yield
        except TakenError:  # it ended well, elsewhere
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
            raise
        except BaseException as error:
            # After a divergence the same steps would diverge again.
            kept = any(one is not None and one.is_file() for one in (checkpoint, earlier))
            if not kept or isinstance(error, DivergedError):
                shutil.rmtree(checkpoint.parent, ignore_errors=True)
            elif isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("the same command with --resume goes on from here") from error
            elif isinstance(error, FullDiskError):
                raise InputError(
                    f"{error} The last whole checkpoint is kept: the same command with --resume goes on."
                ) from error
            raise
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
