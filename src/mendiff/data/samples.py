"""The nouns of labelled data: a test image, a category of parts, and what may be wrong with them."""

from dataclasses import dataclass
from pathlib import Path

from mendiff.data.reading import Header

GOOD = "good"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Attributes:
        kind: layout, name, empty, labels, label, left out, missing mask, shared mask, mask size, unreadable
            mask, unreadable, empty mask, inverted mask, orientation, dark, size, twin, duplicate, overlap or
            one-sided.
        hard: whether work must not start; otherwise it is a warning.
        sentence: what is wrong and what to do.
        paths: the files or folders it is about.
    """

    kind: str
    hard: bool
    sentence: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One test image, its label (`good` or the kind of defect) and its mask, None in data without masks.

    Where data have masks, a missing one is named here as well, as it should be; `check_files` finds it.
    Few data have clean twins, the same photo of the same part without the defect; None where there is none.
    """

    path: Path
    label: str
    mask_path: Path | None
    twin: Path | None = None

    @property
    def is_good(self) -> bool:
        """Whether the image shows no defect."""
        return self.label == GOOD


@dataclass(frozen=True)
class Category:
    """The images of one kind of part: good ones for training, labelled ones for testing (possibly none).

    What reading has shown of its files and their names is in `notes`; `check_files` hands it on.
    """

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    layout: str = "folder"
    notes: tuple[Finding, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether every defective test image has a mask, so that pixel metrics can be told."""
        defective = [s for s in self.test if not s.is_good]
        return bool(defective) and all(s.mask_path is not None for s in defective)


@dataclass(frozen=True)
class Use:
    """How a model takes images.

    Attributes:
        image_size: the side that they are resized to; 0 for the one that `mendiff fit` chooses by itself,
            None where nobody knows.
        bit_depth: see `mendiff.data.reading.read_image`.
    """

    image_size: int | None = None
    bit_depth: int = 0


@dataclass(frozen=True)
class Look:
    """What reading an image and its mask has shown.

    Attributes:
        key: equal for equal pictures and for no others; empty where the image can't be read.
        problem: why it can't be read, otherwise empty.
        whole: such a key of all pixels, where the image was decoded for it; otherwise empty.
        faults: what is wrong with the mask.
        header: what the image's file says of itself.
        highest: value in an image of more than 8 bits, 0 in others.
        marked: share of the mask that is anomalous; 0 where there is none.
        mask_turned: whether the mask has an EXIF orientation of its own.
    """

    key: str
    problem: str = ""
    faults: tuple[Finding, ...] = ()
    header: Header | None = None
    highest: int = 0
    marked: float = 0.0
    mask_turned: bool = False
    whole: str = ""


Looks = dict[tuple[Path, Path | None], Look]
