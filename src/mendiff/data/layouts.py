"""Folder layouts of published data sets, with a reader for each.

anomalib's data sets are used in tests only: importing them takes seconds, they match masks to images by their
order in the folder, support few file types, and copy VisA to a second folder. These readers write and decode
nothing.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mendiff.data.image_files import find_images, ignore_reason
from mendiff.data.names import is_good_alone, same_name
from mendiff.data.reading import EXTENSIONS
from mendiff.data.samples import GOOD, Category, Sample
from mendiff.errors import InputError

VISA_SPLITS = ("split_csv/1cls.csv", "1cls_clear.csv")
"""Lists of training and test images next to the categories of VisA, and of PCB-Bank as released."""
EXAMPLE = "NAME: {train: FOLDER, good: FOLDER, defective: [FOLDER, ...], masks: FOLDER}"
"""Example of a YAML file, see `mendiff.data.yaml_lists`."""
TWINS = "twin"
"""Folder of clean twins next to MVTec's `test` and `ground_truth`, with a folder for each defect type."""
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Layout:
    """One folder layout of a category.

    Attributes:
        name: as given to --layout.
        shape: description of the folders, for messages.
        is_category: whether a folder holds a category of this layout.
        read: reads images, labels and masks; raises InputError if files are missing.
    """

    name: str
    shape: str
    is_category: Callable[[Path], bool]
    read: Callable[[Path], Category]


def subfolders(folder: Path) -> list[Path]:
    """Sub-folders that may hold images of parts, sorted; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not ignore_reason(p)]


def inside(folder: Path, *parts: str) -> Path:
    """Path of a file or folder in a folder, in any Unicode normalisation; as given if it does not exist."""
    for part in parts:
        if not (folder / part).exists() and folder.is_dir():
            equal = (path for path in sorted(folder.iterdir()) if same_name(path.name) == same_name(part))
            folder = next(equal, folder / part)
        else:
            folder = folder / part
    return folder


def label_of(kind: Path) -> str:
    """The label of a folder in `test`: its name, or good for names with that meaning."""
    return GOOD if is_good_alone(kind.name) else kind.name


def own_name(folder: Path) -> str:
    """A folder's name, also for `.` and `..`."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def labelled(images: Path, label: str, masks: Path | None, twins: Path | None = None) -> list[Sample]:
    """All images below a folder as samples with the same label, defective images with their mask.

    A mask is named NAME_mask or NAME, with any image extension, in the same sub-folder as its image. A
    missing mask is included with its expected path. A clean twin is named NAME and optional.
    """
    paths = find_images(images)
    samples = [Sample(path, label, None) for path in paths]
    if label == GOOD:
        return samples
    if masks is not None:
        found = _beside(paths, images, masks, ("_mask", ""))
        samples = [
            replace(sample, mask_path=mask or parent / f"{sample.path.stem}_mask.png")
            for sample, (parent, mask) in zip(samples, found, strict=True)
        ]
    if twins is not None:
        found = _beside(paths, images, twins, ("",))
        samples = [replace(sample, twin=twin) for sample, (_, twin) in zip(samples, found, strict=True)]
    return samples


def _beside(
    paths: Sequence[Path], images: Path, folder: Path, endings: Sequence[str]
) -> list[tuple[Path, Path | None]]:
    """For each image, its folder in the parallel tree `folder`, and the file with its name and an ending."""
    parents = [inside(folder, *path.relative_to(images).parent.parts) for path in paths]
    known = {parent: _by_name(parent) for parent in set(parents)}
    found = []
    for path, parent in zip(paths, parents, strict=True):
        names = [f"{path.stem}{ending}" for ending in endings]
        names += [same_name(name) for name in names]
        found.append((parent, next((known[parent][name] for name in names if name in known[parent]), None)))
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by stem, as written and normalised; PNG is preferred for masks."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS) if folder.is_dir() else ()
    ordered = sorted(files, key=lambda p: (p.suffix.lower() == ".png", p))
    return {same_name(p.stem): p for p in ordered} | {p.stem: p for p in ordered}


def _training(folder: Path, *parts: str) -> tuple[Path, ...]:
    good = folder.joinpath(*parts)
    if not good.is_dir():
        present = [f"{parts[0]}/{subfolder.name}" for subfolder in subfolders(folder / parts[0])]
        if not present and (folder / parts[0]).is_dir():
            present = [f"{parts[0]} without folders"]
        listed = " and ".join(present) or "no such folder"
        raise InputError(
            f"{folder}: expected good images in {'/'.join(parts)}, found {listed}; rename folders, or list "
            f"the folders in a YAML file: {EXAMPLE}."
        )
    return tuple(find_images(good))


def _kinds(folder: Path) -> list[Path]:
    """The folders in `test`, one for each label; empty for a category without test images."""
    test = folder / "test"
    kinds = subfolders(test)
    if test.is_dir() and not kinds:
        raise InputError(
            f"{test}: no sub-folders found; expected test/{GOOD} and a folder for each defect type."
        )
    return kinds


def _with_masks(kinds: list[Path], name: str) -> bool:
    """Whether any defect type has masks in a folder of this name; then all must."""
    return any((kind / name).is_dir() for kind in kinds if label_of(kind) != GOOD)


def _read_mvtec(folder: Path) -> Category:
    masks, twins = folder / "ground_truth", folder / TWINS
    samples = [
        sample
        for kind in _kinds(folder)
        for sample in labelled(
            kind,
            label_of(kind),
            *(inside(parent, kind.name) if parent.is_dir() else None for parent in (masks, twins)),
        )
    ]
    return Category(own_name(folder), folder, _training(folder, "train", GOOD), tuple(samples), "mvtec")


def _read_mvtec3d(folder: Path) -> Category:
    kinds = _kinds(folder)
    masked = _with_masks(kinds, "gt")
    samples = [
        sample
        for kind in kinds
        for sample in labelled(kind / "rgb", label_of(kind), kind / "gt" if masked else None)
    ]
    train = _training(folder, "train", GOOD, "rgb")
    return Category(own_name(folder), folder, train, tuple(samples), "mvtec3d")


def _read_bmad(folder: Path) -> Category:
    """Sets with masks have images in img/ and masks in label/; some of the others have no such folders."""
    kinds = _kinds(folder)
    masked = _with_masks(kinds, "label")
    samples = []
    for kind in kinds:
        images = kind / "img" if masked or (kind / "img").is_dir() else kind
        samples += labelled(images, label_of(kind), kind / "label" if masked else None)
    return Category(own_name(folder), folder, _training(folder, "train", GOOD), tuple(samples), "bmad")


def _read_visa(folder: Path) -> Category:
    """Training and test images are defined by a list next to the categories."""
    name = own_name(folder)
    top = folder.parent if folder.name == name else folder.resolve().parent
    split = next((top / name for name in VISA_SPLITS if (top / name).is_file()), None)
    if split is None:
        raise InputError(
            f"{folder}: looks like VisA as released, but its list of training and test images, "
            f"{top / VISA_SPLITS[0]}, does not exist; add the file."
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
    if not set(VISA_COLUMNS) <= set(columns):
        raise InputError(f"{split}: expected the columns {', '.join(VISA_COLUMNS)}; use the published list.")
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


def _is_mvtec(folder: Path) -> bool:
    # A test folder alone is sufficient: reading then reports what is missing. As a plain folder of good
    # images, its defects would be trained on.
    return any((folder / part).is_dir() for part in (f"train/{GOOD}", "test", "ground_truth"))


def _is_mvtec3d(folder: Path) -> bool:
    kinds = [*subfolders(folder / "train"), *subfolders(folder / "test")]
    return not (folder / "ground_truth").is_dir() and any((kind / "rgb").is_dir() for kind in kinds)


def _is_bmad(folder: Path) -> bool:
    named = any(kind.name.lower() == "ungood" for kind in subfolders(folder / "test"))
    return named and not (folder / "ground_truth").is_dir()


def _is_visa(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


# MVTec is last, since its folders also exist in other layouts.
LAYOUTS = (
    Layout("visa", f"Data/Images in each category, beside {VISA_SPLITS[0]}", _is_visa, _read_visa),
    Layout("bmad", "train/good, test/good/img, test/Ungood/img, test/Ungood/label", _is_bmad, _read_bmad),
    Layout("mvtec3d", "train/good/rgb, test/DEFECT/rgb, test/DEFECT/gt", _is_mvtec3d, _read_mvtec3d),
    Layout("mvtec", "train/good, test/good, test/DEFECT, ground_truth/DEFECT", _is_mvtec, _read_mvtec),
)
