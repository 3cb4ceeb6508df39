"""Output folders: written atomically, never replacing files that mendiff did not write."""

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
from mendiff.data.outputs import MADE as MADE
from mendiff.data.outputs import output_kind as output_kind
from mendiff.errors import DivergedError, InputError
from mendiff.runs.locks import exclusive_output, hidden_path, parents_of, serialized, try_lock

# Contents of the hidden folder in which a command prepares its output.
LOCK, DRAFT, ASIDE, SPARE = "mendiff.lock", "draft", "aside", "spare"
UNFINISHED = "unfinished"
"""Added to the name of an output folder whose run has not finished."""

FolderState = tuple[int, int, frozenset[tuple[str, int]]]
"""State of a folder: device, inode, and the names and inodes of its contents."""


class TakenError(InputError):
    """The output path was created by someone else meanwhile; the result is stored beside it."""


@dataclass(frozen=True)
class Place:
    """An output folder with its state at the start of the command.

    Attributes:
        out: absolute path.
        what: kind of output, one of MADE.
        before: state of the folder to be replaced; None if there was none.
        kept: folders beside it with partial results of killed commands.
    """

    out: Path
    what: str
    before: FolderState | None = None
    kept: tuple[Path, ...] = ()


def check_output(out: Path, overwrite: bool, what: str) -> Place:
    """Raise InputError for an output folder that is in use or not writable, before any work is done.

    Temporary files of killed commands are removed.

    Args:
        out: the folder.
        overwrite: whether it may be replaced.
        what: kind of output, one of MADE; only a folder of the same kind is replaced.
    """
    check_writable(out)
    whole = Path(os.path.realpath(out))
    kept = cleaned(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return Place(whole, what, kept=kept)
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, but it is a file; choose another name.")
    held = output_kind(out)
    if not overwrite:
        advice = "add --overwrite" if held == what else "choose another -o"
        raise InputError(f"{out}: expected a new or empty output folder, but it holds files; {advice}.")
    if held is None:
        raise InputError(
            f"{out}: --overwrite only replaces folders written by mendiff, but this folder has other files; "
            "choose another -o."
        )
    if held != what:
        raise InputError(
            f"{out}: --overwrite only replaces {what} here, but this folder holds {held}; choose another -o."
        )
    return Place(whole, what, folder_state(whole), kept)


def folder_state(folder: Path) -> FolderState | None:
    """State of a folder, which changes if the folder is replaced or a file is added; None if missing."""
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
    """A draft folder that becomes the output if the block succeeds, and is removed if it fails.

    If the output path has changed since the command started, it is left alone: the draft gets a name beside
    it, and TakenError is raised.

    Args:
        place: from check_output.
        worth: a file name; if the block fails, a draft with this file is kept beside the output, and a note
            of the exception names its path.
    """
    with _prepared(place.out, worth) as work:
        draft = work / DRAFT
        try:
            with writing(place.out):
                yield draft
        except BaseException as error:
            if worth and (draft / worth).is_file():
                kept = _kept(draft, place.out, UNFINISHED)
                error.__notes__ = [f"Partial results are in {kept}."]
            raise
        try:
            with serialized(place.out):
                if not (place.before is not None and _replaced(work, place)):
                    rename_new(draft, place.out)
        except FileExistsError:
            kept = _kept(draft, place.out)
            raise TakenError(
                f"{place.out}: expected no change since this command started, but the path was created or "
                f"changed meanwhile; the result ({place.what}) is in {kept}."
            ) from None


def _replaced(work: Path, place: Place) -> bool:
    """Swap the draft with the folder to replace; False if that folder has changed."""
    draft, aside = work / DRAFT, work / ASIDE
    if folder_state(place.out) != place.before:
        return False
    os.rename(draft, aside)  # from here on `_discard` cleans up after a killed command
    try:
        exchange(aside, place.out, work / SPARE)
    except (FileExistsError, FileNotFoundError):
        os.rename(aside, draft)
        return False
    if folder_state(aside) == place.before:
        os.rename(aside, draft)  # to be deleted
        return True
    with suppress(FileExistsError):  # changed again
        exchange(aside, place.out, work / SPARE)  # undo: the folder changed just before the swap
    os.rename(work / SPARE if (work / SPARE).exists() else aside, draft)
    return False


@contextmanager
def _prepared(out: Path, worth: str) -> Iterator[Path]:
    """A hidden folder with an empty draft, beside the output, removed at the end; see _cleaned."""
    with parents_of(out):
        lock = None
        while lock is None:
            work = hidden_path(out, uuid.uuid4().hex[:8])
            work.mkdir()
            with suppress(FileNotFoundError):  # another command removed the empty folder
                lock = try_lock(work / LOCK)
        os.write(lock, worth.encode())
        (work / DRAFT).mkdir()
        try:
            yield work
        finally:
            with serialized(out):
                _discard(work, out)
            os.close(lock)


def cleaned(out: Path) -> tuple[Path, ...]:
    """Remove what killed commands left beside an output; returns folders with their partial results."""
    return tuple(_cleaned(Path(os.path.realpath(out))))


def _cleaned(out: Path) -> Iterator[Path]:
    """Remove hidden folders of killed commands beside an output; yields folders with partial results."""
    ours = re.compile(re.escape(f".{short_name(out.name)}.") + "[0-9a-f]{8}")
    for work in sorted(out.parent.glob(f".{glob.escape(short_name(out.name))}.*")):
        if not ours.fullmatch(work.name) or work.is_symlink() or not work.is_dir():
            continue
        if not (work / LOCK).is_file():
            with suppress(OSError):  # only empty folders are removed
                work.rmdir()
            continue
        lock = try_lock(work / LOCK)
        if lock is None:
            continue  # its command is running
        worth = os.read(lock, 1000).decode()
        if worth and (work / DRAFT / worth).is_file():
            yield _kept(work / DRAFT, out, UNFINISHED)
        with serialized(out):
            _discard(work, out, dead=True)
        os.close(lock)


def _discard(work: Path, out: Path, *, dead: bool = False) -> None:
    """Remove a command's hidden folder; folders that it moved there are restored or kept.

    After a killed command it is unknown whether a moved folder had been replaced. If mendiff wrote it, it is
    removed.
    """
    for moved in (work / SPARE, work / ASIDE):
        if not moved.exists():
            continue
        try:
            if not os.path.lexists(out):
                rename_new(moved, out)
            elif not dead or output_kind(moved) is None:
                _kept(moved, out)
        except FileExistsError:
            _kept(moved, out)
    for name in (DRAFT, SPARE, ASIDE):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)  # the lock last: it marks the folder as ours


def _kept(folder: Path, out: Path, word: str = "") -> Path:
    """Move a folder to a free visible name beside an output; returns the path."""
    stem = "-".join((short_name(out.name), *([word] if word else [])))
    for number in count(1 if word else 2):
        name = out.with_name(stem if number == 1 else f"{stem}-{number}")
        if os.path.lexists(name):
            continue
        with suppress(FileExistsError):
            rename_new(folder, name)
            return name
    raise AssertionError("unreachable")


@contextmanager
def resumable(
    checkpoint: Path, out: Path, resume: bool = False, *, earlier: Path | None = None
) -> Iterator[None]:
    """Run a training; its folder is removed on success, and kept while it can be resumed.

    Args:
        checkpoint: path of the checkpoint in the training's folder, written atomically by the block.
        out: output of the training, which is locked.
        resume: keep the folder of an interrupted training; otherwise it is removed first.
        earlier: the checkpoint of an earlier stage.
    """
    with exclusive_output(out, "training"):
        if not resume:
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
        try:
            with writing(out):
                yield
        except TakenError:  # the result was written beside `out`
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
            raise
        except BaseException as error:
            # After divergence, the same steps would diverge again.
            kept = any(one is not None and one.is_file() for one in (checkpoint, earlier))
            if not kept or isinstance(error, DivergedError):
                shutil.rmtree(checkpoint.parent, ignore_errors=True)
            elif isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("run the same command with --resume to continue") from error
            elif isinstance(error, FullDiskError):
                raise InputError(
                    f"{error} The last complete checkpoint is kept: run the same command with --resume to "
                    "continue."
                ) from error
            raise
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
