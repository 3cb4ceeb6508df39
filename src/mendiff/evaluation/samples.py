"""The nouns of labelled data: a test image, a category of parts, and what may be wrong with them."""

from dataclasses import dataclass
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One test image, its label (`good` or the kind of defect) and its mask, None in data without masks.

    Where data have masks, a missing one is named here as well, as it should be; `check_files` finds it.
    """

    path: Path
    label: str
    mask_path: Path | None

    @property
    def is_good(self) -> bool:
        """Whether the image shows no defect."""
        return self.label == GOOD


@dataclass(frozen=True)
class Category:
    """The images of one kind of part: good ones for training, labelled ones for testing (possibly none)."""

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    layout: str = "folder"

    @property
    def has_masks(self) -> bool:
        """Whether every defective test image has a mask, so that pixel metrics can be told."""
        defective = [s for s in self.test if not s.is_good]
        return bool(defective) and all(s.mask_path is not None for s in defective)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Attributes:
        kind: layout, name, empty, missing mask, shared mask, mask size, unreadable mask, unreadable, empty
            mask, duplicate, overlap or one-sided.
        hard: whether work must not start; otherwise it is a warning.
        sentence: what is wrong and what to do.
        paths: the files or folders it is about.
    """

    kind: str
    hard: bool
    sentence: str
    paths: tuple[Path, ...] = ()
