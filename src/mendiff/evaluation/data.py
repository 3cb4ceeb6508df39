"""Folders of good and defective images: the layout of MVTec AD, or any folder of good images.

The layout: `train/good/NAME.png`, `test/good/NAME.png`, `test/DEFECT/NAME.png` and
`ground_truth/DEFECT/NAME_mask.png` (or `NAME.png`), for each DEFECT one folder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mendiff.errors import InputError
from mendiff.images import EXTENSIONS, find_images, image_size, read_image

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One test image, its label (`good` or the kind of defect) and its mask, None where there is none."""

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

    @property
    def has_masks(self) -> bool:
        """Whether every defective test image has a mask, so that pixel metrics can be told."""
        defective = [s for s in self.test if not s.is_good]
        return bool(defective) and all(s.mask_path is not None for s in defective)


def open_data(root: Path) -> list[Category]:
    """Open one category, a folder of categories, or any folder of good images (a category without a test).

    Raises InputError when there is nothing to find, or when a category is incomplete.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give good images or a category in MVTec layout.")
    if _is_category(root):
        return [open_category(root)]
    inside = [
        p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and _is_category(p)
    ]
    if inside:
        return [open_category(p) for p in inside]
    return [Category(root.resolve().name, root, tuple(find_images(root)), ())]


def open_category(root: Path) -> Category:
    """Open one category in MVTec layout; a category without `test` or without `ground_truth` is allowed.

    Raises InputError when there is no train/good, a folder is empty, a defective image has no mask although
    there is a ground_truth folder, or a mask has another size than its image. Whether an image can be decoded
    is seen when it is read (`readable`).
    """
    good = root / "train" / GOOD
    if not good.is_dir():
        raise InputError(
            f"{root}: expected good images in train/{GOOD}, found no such folder; see the MVTec layout."
        )
    train = tuple(find_images(good))
    test_root = root / "test"
    if not test_root.is_dir():
        return Category(root.resolve().name, root, train, ())
    folders = [p for p in sorted(test_root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise InputError(
            f"{test_root}: no sub-folders found; expected test/{GOOD} and one folder for each defect."
        )
    samples = tuple(sample for folder in folders for sample in _open_label(root, folder))
    return Category(root.resolve().name, root, train, samples)


def readable(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Split images into those that decode, and (path, sentence why not) for the others."""
    good: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for path in paths:
        try:
            read_image(path)
        except InputError as error:
            bad.append((path, str(error)))
        else:
            good.append(path)
    return good, bad


def _is_category(folder: Path) -> bool:
    # A test folder alone counts too: open_category then says what is missing. Read as a plain folder of good
    # images, such a tree would teach the defects.
    return (
        (folder / "train" / GOOD).is_dir() or (folder / "test").is_dir() or (folder / "ground_truth").is_dir()
    )


def _open_label(root: Path, folder: Path) -> list[Sample]:
    label = folder.name
    truth = root / "ground_truth"
    if label == GOOD or not truth.is_dir():
        return [Sample(path, label, None) for path in find_images(folder)]
    samples = []
    for path in find_images(folder):
        mask = _find_mask(truth / label / path.relative_to(folder).parent, path.stem)
        if mask is None:
            raise InputError(
                f"{path}: no mask found; expected {truth / label / path.stem}_mask.png or {path.stem}.png "
                "(only without a ground_truth folder are masks optional)."
            )
        _check_size(path, mask)
        samples.append(Sample(path, label, mask))
    return samples


def _find_mask(folder: Path, stem: str) -> Path | None:
    for name in (f"{stem}_mask", stem):
        for suffix in (".png", *sorted(EXTENSIONS - {".png"})):
            candidate = folder / f"{name}{suffix}"
            if candidate.is_file():
                return candidate
    return None


def _check_size(path: Path, mask: Path) -> None:
    height, width = image_size(mask)
    try:
        expected = image_size(path)
    except InputError:
        return  # an image that can't be read is reported by `readable`, and the others go on
    if (height, width) != expected:
        raise InputError(
            f"{mask}: a mask must have its image's size, {expected[1]}x{expected[0]}, got {width}x{height}; "
            f"replace the mask of {path.name}."
        )
