"""Names and renames on disk: in one step, and never in place of what others put there meanwhile."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from pathlib import Path

LONGEST = 200
"""Bytes of a name that is made longer by what tells it from others; most file systems take 255."""
NOREPLACE, EXCHANGE = 1, 2
"""Flags of Linux' renameat2."""
_HERE = -100
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def short_name(name: str) -> str:
    """A name of at most LONGEST bytes: longer ones are cut, and a hash of the whole tells them apart."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= LONGEST:
        return name
    kept = whole[: LONGEST - 9].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(whole).hexdigest()[:8]}"


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder to a free name, in one step; a folder may take the place of an empty one.

    Raises FileExistsError where anything else has the name.
    """
    if stat.S_ISDIR(os.lstat(source).st_mode):
        try:
            os.rename(source, target)  # POSIX replaces a folder only where it is empty
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
    elif not _renameat2(source, target, NOREPLACE):
        os.link(source, target)
        os.unlink(source)


def exchange(one: Path, other: Path, spare: Path) -> None:
    """Swap two files or folders: in one step where the file system can, otherwise by way of a third name.

    Should the last fail, because something came up meanwhile, what was at `other` stays at `spare`.
    """
    if _renameat2(one, other, EXCHANGE):
        return
    os.rename(other, spare)
    try:
        rename_new(one, other)
    except OSError:
        rename_new(spare, other)
        raise
    os.rename(spare, one)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Linux' rename with a flag; False where there is none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
