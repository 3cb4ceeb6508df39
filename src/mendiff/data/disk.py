"""Atomic renames that never replace files of second processes, and short file names."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from pathlib import Path

LONGEST = 200
"""Longest name in bytes before suffixes are added; most file systems allow 255."""
NOREPLACE, EXCHANGE = 1, 2
"""Flags of renameat2 on Linux."""
_AT_FDCWD = -100
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_NAME_USED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def short_name(name: str) -> str:
    """Shorten a name to at most LONGEST bytes; a hash of the whole name keeps it unique."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= LONGEST:
        return name
    kept = whole[: LONGEST - 9].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(whole).hexdigest()[:8]}"


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder atomically to an unused name; a folder may replace an empty folder.

    Raises FileExistsError if the name is used.
    """
    if stat.S_ISDIR(os.lstat(source).st_mode):
        try:
            os.rename(source, target)  # POSIX replaces a folder only if it is empty
        except OSError as error:
            if error.errno not in _NAME_USED:
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
    elif not _renameat2(source, target, NOREPLACE):
        os.link(source, target)
        os.unlink(source)


def exchange(first: Path, second: Path, spare: Path) -> None:
    """Swap two files or folders: atomically if the file system supports it, otherwise with a third name.

    If the last rename fails because the name is used by then, the content of `second` remains at `spare`.
    """
    if _renameat2(first, second, EXCHANGE):
        return
    os.rename(second, spare)
    try:
        rename_new(first, second)
    except OSError:
        rename_new(spare, second)
        raise
    os.rename(spare, first)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename with a flag of Linux; False if that is not supported."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
