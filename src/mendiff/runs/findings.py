"""Results per image: the columns of a row, unique names for pictures, reasons of what failed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from mendiff.data.disk import short_name
from mendiff.data.image_files import NO_IMAGE, find_images
from mendiff.data.image_files import left_out as images_left_out
from mendiff.data.reading import Reading
from mendiff.errors import InputError
from mendiff.model import Model
from mendiff.types import Detection

COLUMNS = (
    *("image", "score", "threshold", "defective", "p_value", "stop_step"),
    *("heat_map", "reconstruction", "mask", "raw_map", "regions", "width", "height", "error"),
)
"""Of the table and of every row; in the table, `regions` is their number."""
MOST_REASONS = 5
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")


def result_row(model: Model, found: Detection, index: int) -> dict[str, Any]:
    """Score, threshold, decision, p-value and stop step of an image of a batch."""
    score = float(found.score[index])
    return {
        "score": score,
        "threshold": model.threshold,
        "defective": score > model.threshold,
        "p_value": model.calibration.p_value(score),
        "stop_step": int(found.stop_step[index]),
    }


def left_out(given: Sequence[Path], reading: Reading, output: Path | None = None) -> list[dict[str, str]]:
    """The skipped files below the given folders, with reasons.

    Without those of the command's own output, hidden files that are no images, such as locks, and frames if
    channels are chosen, which may be frames.
    """
    folders = [path for path in given if path.is_dir()]
    return [
        {"path": str(path), "reason": reason}
        for folder in folders
        for path, reason in images_left_out(folder)
        if not (reading.channels and "frame" in reason)
        if not (reason == NO_IMAGE and path.name.startswith("."))
        if output is None or not path.resolve().is_relative_to(output.resolve())
    ]


def skipped_sentence(left: Sequence[Mapping[str, str]]) -> str:
    """How many files are skipped, by reason."""
    return f"{len(left)} file{'s are' if len(left) > 1 else ' is'} skipped: {counted(left)}."


def counted(left: Sequence[Mapping[str, str]]) -> str:
    """Number of skipped files by reason, most frequent first."""
    reasons = Counter(file["reason"] for file in left).most_common()
    parts = [f"{number} ({reason})" for reason, number in reasons[:MOST_REASONS]]
    if rest := sum(number for _, number in reasons[MOST_REASONS:]):
        parts.append(f"{rest} for other reasons")
    return ", ".join(parts)


def error_sentence(path: Path, what: str, error: Exception) -> str:
    """The error message for an image, in one sentence."""
    if isinstance(error, InputError):
        return str(error)
    detail = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return f"{path}: {what} ({type(error).__name__}{': ' * bool(detail)}{detail.rstrip('.')})."


def name_images(images: Sequence[Path], reserved: Mapping[str, str] | None = None) -> list[tuple[Path, str]]:
    """All images below the given files and folders, each with a unique name for its PNG files; see Names.

    Args:
        images: files and folders.
        reserved: see Names.
    """
    stems = [(path, stem_of(path, given)) for given in images for path in find_images(given)]
    names = Names(reserved, (above for _, stem in stems for above in PurePosixPath(stem).parents))
    return [(path, names.new(path, stem)) for path, stem in stems]


def stem_of(path: Path, given: Path) -> str:
    """The name of an image's PNG files without ending, from its path below the file or folder given."""
    relative = path.relative_to(given) if given.is_dir() else Path(path.name)
    return "/".join(_safe(part) for part in relative.with_suffix("").parts)


class Names:
    """Gives unique names to the PNG files of images.

    Names are unique on file systems that ignore case or Unicode normalisation, no name equals a folder of
    another name, and names contain nothing that file systems refuse: control characters, undecodable bytes,
    more than 255 bytes.

    Args:
        reserved: names of an earlier run, and the images that they belong to; no other image gets them.
        folders: folders of all names, as far as known.
    """

    def __init__(
        self, reserved: Mapping[str, str] | None = None, folders: Iterable[PurePosixPath] = ()
    ) -> None:
        self._owners = {_alike(name): image for name, image in (reserved or {}).items()}
        self._taken = {_alike(str(folder)) for folder in folders}

    def new(self, path: Path, stem: str) -> str:
        """A free name for an image.

        Args:
            path: of the image.
            stem: see stem_of.
        """
        names = (f"{stem}.png" if number == 1 else f"{stem}-{number}.png" for number in count(1))
        free = next(one for one in names if self._is_free(_alike(one), str(path)))
        self._taken.add(_alike(free))
        return free

    def _is_free(self, name: str, image: str) -> bool:
        return name not in self._taken and self._owners.get(name, image) == image


def _safe(part: str) -> str:
    return short_name(_UNSAFE.sub("_", unicodedata.normalize("NFC", part)))


def _alike(name: str) -> str:
    """Key that is equal for names that some file system treats as equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
