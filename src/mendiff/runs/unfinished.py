"""Output folders that can be looked at while they are written, and continued after a kill.

A run writes into OUT-unfinished, which becomes OUT when it is finished. What is in OUT is therefore whole. A
run without an end, and one that adds to a finished OUT, write into OUT itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import read_json, write_json, writing
from mendiff.data.disk import short_name
from mendiff.errors import InputError
from mendiff.runs.locks import parents_of
from mendiff.runs.places import UNFINISHED, Place, check_output, cleaned, new_folder, output_kind

SETTINGS = "predictions.settings.json"
"""What determines the rows of a run, to refuse other settings for its continuation."""


@dataclass(frozen=True)
class Growing:
    """Where a run writes.

    Attributes:
        folder: to write into.
        place: the output; None if the folder is finished output already.
        resumed: whether the folder is continued.
    """

    folder: Path
    place: Place | None
    resumed: bool

    @property
    def moves(self) -> bool:
        """Whether the finished folder is moved to the output."""
        return self.place is not None and self.folder != self.place.out


def check_growing(out: Path, what: str, *, overwrite: bool, resume: bool, endless: bool) -> Growing:
    """Raise InputError for an output folder that can't be written or continued, before any work is done.

    Args:
        out: the folder that the user named.
        what: kind of output, one of MADE.
        overwrite: whether findings there may be replaced.
        resume: continue an unfinished run, or add to finished findings.
        endless: write into `out` from the start.
    """
    whole = Path(os.path.realpath(out))
    cleaned(out)  # may restore OUT-unfinished
    part = whole.with_name(f"{short_name(whole.name)}-{UNFINISHED}")
    begun = part.is_dir() and any(part.iterdir())
    if resume and not overwrite and not begun and output_kind(whole) == what:
        return Growing(whole, None, True)
    place = check_output(out, overwrite, what)
    if begun and not _is_ours(part):
        raise InputError(
            f"{part}: expected the folder of an unfinished run, but it has other files; choose another -o."
        )
    if begun and not resume and not overwrite:
        raise InputError(
            f"{part}: expected no unfinished run into {out}; add --resume to continue it, or --overwrite to "
            "start again."
        )
    return Growing(whole if endless and not begun else part, place, begun and resume)


def _is_ours(folder: Path) -> bool:
    """Whether mendiff began the folder; a killed command may leave nothing but a hidden file."""
    return (folder / SETTINGS).is_file() or all(one.name.startswith(".") for one in folder.iterdir())


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError if a run with other settings began the folder."""
    if not (folder / SETTINGS).is_file():
        return
    before = read_json(folder / SETTINGS)
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(
                f"--resume: {folder} was begun {_difference(name, before.get(name), value)}, or start again "
                "with --overwrite instead of --resume, or choose another -o."
            )


def _difference(name: str, before: Any, now: Any) -> str:
    """With what a run was begun, and how to continue it."""
    if name == "model":
        return "with another model, or the model was fitted or calibrated again since; give that model"
    if name == "images":
        return f"with the images of {', '.join(before)}, not of {', '.join(now)}; give the same"
    if name == "threshold":
        return f"with a threshold of {before:.4g}, not of {now:.4g}; give the same --false-alarm-rate"
    flag = f"--{name.replace('_', '-')}"
    if not before:
        return f"without {flag}; leave it out"
    return f"with {flag}; add it" if before is True else f"with {flag} {before}, not {now}; give the same"


@contextmanager
def growing_folder(growing: Growing, out: Path, worth: str, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The folder to write into, which becomes the output if the block succeeds.

    If the block fails, the folder stays if it has the file `worth`, or if it was there before. Raises
    InputError if a run with other settings began the folder.

    Args:
        growing: from check_growing.
        out: the output folder as the user named it, for messages.
        worth: a file name.
        settings: what determines the rows: "model", "images", "threshold", and options by their names in
            Python.
    """
    folder = growing.folder
    if growing.resumed:
        _check_settings(folder, settings)
    with parents_of(folder):
        _prepare(growing)
        try:
            with writing(out):
                if not (folder / SETTINGS).is_file():
                    write_json(folder / SETTINGS, settings)
                yield folder
        except BaseException as error:
            if (folder / worth).is_file():
                error.__notes__ = [f"Partial results are in {folder}; add --resume to continue."]
            elif not growing.resumed:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if growing.place is not None and growing.moves:
            # If this process is killed here, the next command restores the folder: it has the file `worth`.
            with new_folder(growing.place, worth) as draft:
                draft.rmdir()
                os.rename(folder, draft)


def _prepare(growing: Growing) -> None:
    if growing.place is not None and not growing.resumed:
        if growing.moves:
            shutil.rmtree(growing.folder, ignore_errors=True)
            growing.folder.mkdir()
        else:
            with new_folder(growing.place):  # replaces older findings safely
                pass
        return
    for parent, _, names in os.walk(growing.folder):
        for name in names:
            if name.startswith(".") and name.endswith(".part"):  # half-written files of a killed run
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(parent, name))
