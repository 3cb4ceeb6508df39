"""Reads VisA and PCB-Bank as released: training and test images are listed beside the categories."""

import csv
from pathlib import Path

from mendiff.data.folders import inside, own_name
from mendiff.data.samples import GOOD, Category, Sample
from mendiff.errors import InputError

SPLITS = ("split_csv/1cls.csv", "1cls_clear.csv")
"""Lists of training and test images next to the categories of VisA, and of PCB-Bank as released."""
COLUMNS = ("object", "split", "label", "image", "mask")


def read_visa(folder: Path) -> Category:
    """Training and test images are defined by a list next to the categories."""
    name = own_name(folder)
    top = folder.parent if folder.name == name else folder.resolve().parent
    split = next((top / name for name in SPLITS if (top / name).is_file()), None)
    if split is None:
        raise InputError(
            f"{folder}: looks like VisA as released, but its list of training and test images, "
            f"{top / SPLITS[0]}, does not exist; add the file."
        )
    train, test = [], []
    for row in _rows(split, name):
        image = _listed(top, row["image"], split)
        if row["split"] == "train":
            train.append(image)
        elif row["label"] == "normal":
            test.append(Sample(image, GOOD, None))
        else:
            test.append(Sample(image, "bad", _listed(top, row["mask"], split)))
    if not train:
        raise InputError(f"{split}: expected training images of {name}, found none; use the published list.")
    ordered = sorted(test, key=lambda sample: sample.path)
    return Category(name, folder, tuple(sorted(train)), tuple(ordered), "visa")


def _rows(split: Path, name: str) -> list[dict[str, str]]:
    """The rows of a category in VisA's list, with checked columns."""
    try:
        with split.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = [row for row in reader if row.get("object") == name]
    except csv.Error as error:
        raise InputError(f"{split}: expected a CSV file, but it is damaged ({error}).") from error
    if not set(COLUMNS) <= set(columns):
        raise InputError(f"{split}: expected the columns {', '.join(COLUMNS)}; use the published list.")
    for row in rows:
        if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
            raise InputError(
                f"{split}: expected train or test and normal or anomaly in every row, got "
                f"{row['split']!r} and {row['label']!r}; use the published list."
            )
        if row["split"] == "train" and row["label"] == "anomaly":
            raise InputError(
                f"{split}: expected good images only for training, but {row['image']} is defective; use "
                "the list for one-class training."
            )
    return rows


def _listed(top: Path, name: str | None, split: Path) -> Path:
    """A listed file, which must exist in the data set."""
    named = Path(name or "")
    path = inside(top, *named.parts) if not named.is_absolute() else top
    if not name or ".." in named.parts or not path.is_file():
        raise InputError(f"{split}: lists {name!r}, but {top} has no such file; unpack the data set again.")
    return path
