"""Where commands write: folders that are whole or not there, and nothing of others is ever replaced."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mendiff.checkpoints.store import FullDiskError, writing
from mendiff.data.made import MADE as MADE
from mendiff.data.made import made as made
from mendiff.errors import InputError
from mendiff.images import check_writable


def check_output(out: Path, overwrite: bool, what: str) -> None:
    """Refuse an output folder that is in use or can't be written, before any work is done.

    Args:
        out: the folder.
        overwrite: whether it may be replaced.
        what: should become of it, one of MADE; only another of its kind is replaced.
    """
    check_writable(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
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


@contextmanager
def set_aside(out: Path) -> Iterator[None]:
    """Move what is at `out` out of the way of the block that writes it, and back where the block fails."""
    if not out.exists():
        yield
        return
    aside = hidden_name(out)
    os.rename(out, aside)
    try:
        yield
    except BaseException:
        os.rename(aside, out)
        raise
    shutil.rmtree(aside)


@contextmanager
def new_folder(out: Path, overwrite: bool, what: str) -> Iterator[Path]:
    """A draft folder that becomes `out` when the block ends well, and vanishes when it does not.

    Args: those of check_output.
    """
    check_output(out, overwrite, what)
    out = out.resolve()
    draft = hidden_name(out)
    draft.mkdir(parents=True)
    try:
        with writing(out):
            yield draft
        with set_aside(out):
            os.rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def resumable(checkpoint: Path, out: Path) -> Iterator[None]:
    """A training whose folder goes when the block ends well, and stays as long as it can be gone on with.

    Args:
        checkpoint: where the block may leave one, in the training's folder; written whole or not at all.
        out: what the block makes, for messages.
    """
    try:
        with writing(out):
            yield
    except BaseException as error:
        if not checkpoint.is_file():
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt("the same command with --resume goes on from here") from error
        elif isinstance(error, FullDiskError):
            raise InputError(
                f"{error} The last whole checkpoint is kept: the same command with --resume goes on."
            ) from error
        raise
    shutil.rmtree(checkpoint.parent, ignore_errors=True)


def hidden_name(out: Path) -> Path:
    """A new hidden name beside a folder."""
    return out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
