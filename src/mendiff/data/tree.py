"""Reads categories with a folder of good training images and a folder of test images for each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mendiff.data.folders import inside, own_name, subfolders
from mendiff.data.image_files import find_images
from mendiff.data.labels import kind_notes, label_notes
from mendiff.data.names import LABELS, is_good_alone, meaning
from mendiff.data.opening import IMAGES
from mendiff.data.pairing import annotation_files, labelled
from mendiff.data.samples import GOOD, Category
from mendiff.data.saturation import read_saturations
from mendiff.errors import InputError

EXAMPLE = "NAME: {train: FOLDER, good: FOLDER, defective: [FOLDER, ...], masks: FOLDER}"
"""Example of a YAML file, see `mendiff.data.yaml_lists`."""
TWINS = "twin"
"""Folder of clean twins next to `test` and `ground_truth`, with a folder for each defect type."""
CONDITIONS = ("regular", "overexposed", "underexposed", "shift", "mixed")
"""Light conditions at the end of MVTec AD 2's file names, such as 012_shift_3.png."""


@dataclass(frozen=True)
class Tree:
    """Where a category has its images and masks; names are found in any case.

    Attributes:
        test: folder with a folder for each label.
        images: sub-folder of a label's folder with its images, if they are not in the folder itself.
        truth: folder with a folder of masks for each label; another folder with the meaning of masks is
            read, too.
        inner: sub-folder of a label's folder with its masks; empty if masks are in `truth`.
        grouped: see Category.
    """

    test: str = "test"
    images: str = ""
    truth: str = "ground_truth"
    inner: str = ""
    grouped: str = ""

    def read(self, folder: Path) -> Category:
        """The images, labels and masks; raises InputError if folders are missing or empty."""
        test = inside(folder, *self.test.split("/"))
        kinds = self._kinds(test)
        masks = dict(zip(kinds, self._masks(folder, kinds), strict=True))
        twins = inside(folder, TWINS)
        listed = annotation_files([folder, inside(folder, "annotations"), test, *kinds, *_present(masks)])
        samples = [
            sample
            for kind in kinds
            for sample in labelled(
                self._images(kind, masked=masks[kind] is not None),
                label_of(kind),
                masks[kind],
                inside(twins, kind.name) if twins.is_dir() else None,
                listed,
            )
        ]
        good = good_folder(folder)
        train = tuple(find_images(self._images(good)))
        notes = (
            *label_notes(good, train, f"move them out of {good}"),
            *kind_notes(test, samples, good.name),
        )
        if self.grouped == "condition":
            samples = [replace(sample, condition=condition_of(sample.path)) for sample in samples]
        saturations = read_saturations(folder)
        return Category(own_name(folder), folder, train, tuple(samples), "", notes, self.grouped, saturations)

    def _kinds(self, test: Path) -> list[Path]:
        """The folders of test images, one for each label; empty for a category without test images."""
        truth = self.truth.split("/")[-1]
        kinds = [kind for kind in subfolders(test) if kind.name.casefold() != truth]
        if test.is_dir() and not kinds:
            raise InputError(
                f"{test}: no sub-folders found; expected {self.test}/{GOOD} and a folder for each defect "
                "type."
            )
        return kinds

    def _images(self, kind: Path, masked: bool = False) -> Path:
        """The folder of a label's images."""
        direct = not self.images or (not masked and _has_images(kind))
        return kind if direct else inside(kind, self.images)

    def _masks(self, folder: Path, kinds: Sequence[Path]) -> list[Path | None]:
        """The folder of a label's masks; None for all if no defect type has any."""
        if self.inner:
            masked = any((kind / self.inner).is_dir() for kind in kinds if label_of(kind) != GOOD)
            return [kind / self.inner if masked else None for kind in kinds]
        truth = inside(folder, *self.truth.split("/"))
        if not truth.is_dir():
            others = [path for path in subfolders(folder) if meaning(path.name) == LABELS]
            if len(others) != 1:
                return [None] * len(kinds)
            truth = others[0]
        flat = not subfolders(truth) and _has_files(truth)
        return [truth if flat else inside(truth, kind.name) for kind in kinds]


def good_folder(folder: Path) -> Path:
    """The folder of good training images: train/good, train/OK or the like, or train without sub-folders."""
    train = inside(folder, "train")
    good = inside(train, GOOD)
    if good.is_dir():
        return good
    present = subfolders(train)
    others = [path for path in present if is_good_alone(path.name)]
    if len(others) == 1:
        return others[0]
    if not present and _has_images(train):
        return train
    names = [f"train/{path.name}" for path in present]
    listed = " and ".join(names) or ("train without images" if train.is_dir() else "no such folder")
    raise InputError(
        f"{folder}: expected good images in train/{GOOD}, found {listed}; rename folders, or list the "
        f"folders in a YAML file: {EXAMPLE}."
    )


def label_of(kind: Path) -> str:
    """The label of a folder of test images: its name, or good for names with that meaning."""
    return GOOD if is_good_alone(kind.name) else kind.name


def condition_of(path: Path) -> str:
    """The light condition at the end of a file name such as 012_shift_3.png; empty if there is none."""
    _, _, condition = path.stem.partition("_")
    return condition if condition.split("_")[0] in CONDITIONS else ""


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in IMAGES for path in folder.iterdir())


def _has_files(folder: Path) -> bool:
    return any(path.is_file() and not path.name.startswith(".") for path in folder.iterdir())


def _present(masks: dict[Path, Path | None]) -> list[Path]:
    folders = [path for path in masks.values() if path is not None]
    return [*folders, *(path.parent for path in folders)]
