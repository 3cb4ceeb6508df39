"""Folder layouts of published data sets, as a table.

anomalib's data sets are used in tests only: importing them takes seconds, they match masks to images by their
order in the folder, support few file types, and copy VisA to a second folder. These readers write nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mendiff.data.beside import read_kolektor
from mendiff.data.by_label import is_by_label, read_by_label
from mendiff.data.folders import contains
from mendiff.data.samples import Category
from mendiff.data.tree import Tree
from mendiff.data.visa import SPLITS, read_visa


@dataclass(frozen=True)
class Layout:
    """One folder layout of a category.

    Attributes:
        name: as given to --layout.
        shape: description of the folders, for messages.
        reader: reads images, labels and masks; raises InputError if files are missing.
        marks: a folder with any of these paths is a category of this layout; `*` is any name.
        unless: a folder with any of these paths is none.
        test: a test instead of `marks`.
    """

    name: str
    shape: str
    reader: Callable[[Path], Category]
    marks: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    test: Callable[[Path], bool] | None = None

    def is_category(self, folder: Path) -> bool:
        """Whether a folder holds a category of this layout."""
        if self.test is not None:
            return self.test(folder)
        return any(contains(folder, mark) for mark in self.marks) and not any(
            contains(folder, path) for path in self.unless
        )

    def read(self, folder: Path) -> Category:
        """The category in a folder; raises InputError if files are missing."""
        return replace(self.reader(folder), layout=self.name)


# The first layout that fits is used. MVTec's is late, since its folders also exist in other layouts: a test
# folder alone is sufficient, and reading then reports what is missing. As a plain folder of good images, its
# defects would be trained on.
LAYOUTS = (
    Layout("visa", f"Data/Images in each category, beside {SPLITS[0]}", read_visa, marks=("Data/Images",)),
    Layout(
        "bmad",
        "train/good, test/good/img, test/Ungood/img, test/Ungood/label",
        Tree(images="img", inner="label").read,
        marks=("test/ungood",),
        unless=("ground_truth",),
    ),
    Layout(
        "mvtec3d",
        "train/good/rgb, test/DEFECT/rgb, test/DEFECT/gt",
        Tree(images="rgb", inner="gt").read,
        marks=("train/*/rgb", "test/*/rgb"),
        unless=("ground_truth",),
    ),
    Layout(
        "mvtec2",
        "train/good, test_public/good, test_public/bad, test_public/ground_truth/bad",
        Tree(test="test_public", truth="test_public/ground_truth", grouped="condition").read,
        marks=("test_public",),
    ),
    Layout(
        "loco",
        "train/good, test/good, test/logical_anomalies, ground_truth/logical_anomalies/NAME/000.png",
        Tree(grouped="label").read,
        marks=("test/logical_anomalies", "test/structural_anomalies"),
    ),
    Layout(
        "kolektor",
        "kos01/Part0.jpg with kos01/Part0_label.bmp, or train/NAME.png with train/NAME_GT.png",
        read_kolektor,
        marks=("kos*/*_label.*", "train/*_GT.*"),
        unless=("train/good",),
    ),
    Layout(
        "mvtec",
        "train/good, test/good, test/DEFECT, ground_truth/DEFECT",
        Tree().read,
        marks=("train/good", "train/ok", "train/normal", "test", "ground_truth"),
    ),
    Layout(
        "by-label", "OK, NG and masks, or other folders named after labels", read_by_label, test=is_by_label
    ),
)
