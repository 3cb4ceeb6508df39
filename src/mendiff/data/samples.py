"""Data classes of labelled data: test images, categories, and findings about them."""

from dataclasses import dataclass
from pathlib import Path

from mendiff.data.reading import AS_STORED, Header, Reading

GOOD = "good"


@dataclass(frozen=True)
class Finding:
    """A problem of a data set.

    Attributes:
        kind: layout, name, empty, labels, label, left out, frames, missing mask, shared mask, mask size,
            unreadable mask, unreadable, empty mask, inverted mask, orientation, dark, size, twin, duplicate,
            overlap or one-sided.
        hard: whether it is an error; otherwise it is a warning.
        sentence: the problem and what to do.
        paths: the affected files or folders.
    """

    kind: str
    hard: bool
    sentence: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A test image with its label (`good` or the defect type), masks and clean twin.

    Attributes:
        path: of the image.
        label: `good` or the defect type.
        mask_path: None for data without masks. A missing mask has its expected path, and `check_files`
            reports it.
        twin: a photo of the same part without the defect, None if there is none.
        further_masks: of the same image; the defect is the union of all masks.
        inverted: whether masks mark the good pixels.
        condition: in which the image was taken, such as the light; empty if unknown.
    """

    path: Path
    label: str
    mask_path: Path | None
    twin: Path | None = None
    further_masks: tuple[Path, ...] = ()
    inverted: bool = False
    condition: str = ""

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks of the image."""
        return () if self.mask_path is None else (self.mask_path, *self.further_masks)

    @property
    def is_good(self) -> bool:
        """Whether the image shows no defect."""
        return self.label == GOOD


@dataclass(frozen=True)
class Saturation:
    """From which area a defect counts as found, for sPRO (Bergmann et al. 2022).

    Attributes:
        value: of the defect's pixels in its mask.
        area: in pixels of the original image, or a share of the defect's area.
        relative: whether `area` is a share.
    """

    value: int
    area: float
    relative: bool


@dataclass(frozen=True)
class Category:
    """The images of a category: good images for training, and possibly labelled test images.

    Attributes:
        name: of the category.
        root: its folder or YAML file.
        train: good images.
        test: labelled images.
        layout: one of `mendiff.data.dataset.NAMES`, or yaml.
        notes: findings about files and names, which `check_files` returns.
        grouped: "label" or "condition" if metrics are also reported for these groups of test images.
        saturations: of defects, for sPRO; empty for most data sets.
    """

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    layout: str = "folder"
    notes: tuple[Finding, ...] = ()
    grouped: str = ""
    saturations: tuple[Saturation, ...] = ()

    @property
    def good(self) -> tuple[Path, ...]:
        """All good images, of training and test."""
        return (*self.train, *(sample.path for sample in self.test if sample.is_good))

    @property
    def has_masks(self) -> bool:
        """Whether every defective test image has a mask, so that pixel metrics are defined."""
        defective = [sample for sample in self.test if not sample.is_good]
        return bool(defective) and all(sample.mask_path is not None for sample in defective)


@dataclass(frozen=True)
class Use:
    """How a model reads images.

    Attributes:
        image_size: side in pixels after resizing; 0 for the automatic size of `mendiff fit`, None if unknown.
        reading: of files.
        tile: side of tiles in pixels; 0 for whole images.
        resize: see MethodConfig.
    """

    image_size: int | None = None
    reading: Reading = AS_STORED
    tile: int = 0
    resize: str = "stretch"


@dataclass(frozen=True)
class ImageCheck:
    """Result of reading an image and its mask.

    Attributes:
        key: equal for equal images only; empty if the image can't be read.
        problem: why it can't be read, otherwise empty.
        faults: problems of the mask.
        header: header of the image file.
        highest: maximum of an image with more than 8 bits, otherwise 0.
        marked: anomalous share of the mask; 0 without a mask.
        mask_turned: whether the mask file has an EXIF orientation.
        whole: key from all pixels if the image was decoded completely; otherwise empty.
    """

    key: str
    problem: str = ""
    faults: tuple[Finding, ...] = ()
    header: Header | None = None
    highest: int = 0
    marked: float = 0.0
    mask_turned: bool = False
    whole: str = ""


ImageChecks = dict[tuple[Path, tuple[Path, ...]], ImageCheck]
"""By image and masks."""
