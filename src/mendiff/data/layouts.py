"""How published data sets lie on the disk, and one reader for each way.

We read the folders ourselves instead of through anomalib's data sets, which are the oracle of our tests:
importing them takes seconds, they match masks to images by their order in the folder and know few file types,
and for VisA anomalib first copies the whole data set into a second folder. Nothing here writes or decodes.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mendiff.data.found import find_images, passed_over
from mendiff.data.names import is_good_alone, same_name
from mendiff.data.reading import EXTENSIONS
from mendiff.data.samples import GOOD, Category, Sample
from mendiff.errors import InputError

VISA_SPLITS = ("split_csv/1cls.csv", "1cls_clear.csv")
"""Lists of training and test images beside the categories of VisA, and of PCB-Bank as released."""
EXAMPLE = "NAME: {train: FOLDER, good: FOLDER, defective: [FOLDER, ...], masks: FOLDER}"
"""Of a YAML file, see `mendiff.data.listed`."""
TWINS = "twin"
"""Folder of clean twins beside MVTec's `test` and `ground_truth`, with a folder for each kind of defect."""
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Layout:
    """One way in which the images of a category lie in its folder.

    Attributes:
        name: as given to --layout.
        shape: where the files are, for people.
        is_category: whether a folder holds a category of this layout.
        read: a category's images, labels and masks; raises InputError where something is not there.
    """

    name: str
    shape: str
    is_category: Callable[[Path], bool]
    read: Callable[[Path], Category]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold images of parts, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not passed_over(p)]


def inside(folder: Path, *parts: str) -> Path:
    """A file or folder by its names in a folder, in either Unicode form; as named where there is none."""
    for part in parts:
        if not (folder / part).exists() and folder.is_dir():
            alike = [one for one in sorted(folder.iterdir()) if same_name(one.name) == same_name(part)]
            folder = alike[0] if alike else folder / part
        else:
            folder = folder / part
    return folder


def label_of(kind: Path) -> str:
    """The label that the images of a folder of `test` have: its name, or good where that says so."""
    return GOOD if is_good_alone(kind.name) else kind.name


def own_name(folder: Path) -> str:
    """A folder's name, for `.` and `..` as well."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def labelled(images: Path, label: str, masks: Path | None, twins: Path | None = None) -> list[Sample]:
    """The images below a folder with one label; those of defects with the mask of their name in `masks`.

    A mask is called NAME_mask or NAME, with any image extension, in the sub-folder where its image lies.
    Where there is none, the sample names the file that should be there. A clean twin is called NAME, in
    `twins`; not every image has one.
    """
    paths = find_images(images)
    samples = [Sample(path, label, None) for path in paths]
    if label == GOOD:
        return samples
    if masks is not None:
        found = _beside(paths, images, masks, ("_mask", ""))
        samples = [
            replace(one, mask_path=mask or place / f"{one.path.stem}_mask.png")
            for one, (place, mask) in zip(samples, found, strict=True)
        ]
    if twins is not None:
        found = _beside(paths, images, twins, ("",))
        samples = [replace(one, twin=twin) for one, (_, twin) in zip(samples, found, strict=True)]
    return samples


def _beside(
    paths: Sequence[Path], images: Path, folder: Path, endings: Sequence[str]
) -> list[tuple[Path, Path | None]]:
    """Where in another folder each image's companion should lie, and the file of its name and ending."""
    places = [inside(folder, *path.relative_to(images).parent.parts) for path in paths]
    known = {place: _by_name(place) for place in set(places)}
    found = []
    for path, place in zip(paths, places, strict=True):
        names = [f"{path.stem}{ending}" for ending in endings]
        names += [same_name(name) for name in names]
        found.append((place, next((known[place][name] for name in names if name in known[place]), None)))
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by name without extension; of several the PNG, as masks are.

    Names are there as they are, and in one Unicode form.
    """
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS) if folder.is_dir() else ()
    ordered = sorted(files, key=lambda p: (p.suffix.lower() == ".png", p))
    return {same_name(p.stem): p for p in ordered} | {p.stem: p for p in ordered}


def _training(folder: Path, *parts: str) -> tuple[Path, ...]:
    place = folder.joinpath(*parts)
    if not place.is_dir():
        there = [f"{parts[0]}/{one.name}" for one in subfolders(folder / parts[0])]
        if not there and (folder / parts[0]).is_dir():
            there = [f"{parts[0]} without folders"]
        listed = " and ".join(there) or "no such folder"
        raise InputError(
            f"{folder}: expected good images in {'/'.join(parts)}, found {listed}; rename folders, or say in "
            f"a YAML file where which images are: {EXAMPLE}."
        )
    return tuple(find_images(place))


def _kinds(folder: Path) -> list[Path]:
    """The folders of `test`, one for each label; none where a category has no test."""
    test = folder / "test"
    kinds = subfolders(test)
    if test.is_dir() and not kinds:
        raise InputError(
            f"{test}: no sub-folders found; expected test/{GOOD} and one folder for each defect."
        )
    return kinds


def _with_masks(kinds: list[Path], name: str) -> bool:
    """Whether any kind of defect has masks in a folder of this name; then all must."""
    return any((kind / name).is_dir() for kind in kinds if label_of(kind) != GOOD)


def _read_mvtec(folder: Path) -> Category:
    masks, twins = folder / "ground_truth", folder / TWINS
    samples = [
        sample
        for kind in _kinds(folder)
        for sample in labelled(
            kind,
            label_of(kind),
            *(inside(place, kind.name) if place.is_dir() else None for place in (masks, twins)),
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
    """Sets with masks keep images in img/ and masks in label/, some of the others have no folders inside."""
    kinds = _kinds(folder)
    masked = _with_masks(kinds, "label")
    samples = []
    for kind in kinds:
        place = kind / "img" if masked or (kind / "img").is_dir() else kind
        samples += labelled(place, label_of(kind), kind / "label" if masked else None)
    return Category(own_name(folder), folder, _training(folder, "train", GOOD), tuple(samples), "bmad")


def _read_visa(folder: Path) -> Category:
    """Training and test images are told apart by a list beside the categories, not by folders."""
    name = own_name(folder)
    top = folder.parent if folder.name == name else folder.resolve().parent
    split = next((top / place for place in VISA_SPLITS if (top / place).is_file()), None)
    if split is None:
        raise InputError(
            f"{folder}: looks like VisA as released, whose list of training and test images was expected in "
            f"{top / VISA_SPLITS[0]}, but there is no such file; put it there."
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
    """The rows of a category in VisA's list, each with the columns that we need."""
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
                "the list of the one-class setting."
            )
    return rows


def _listed(top: Path, place: str | None, split: Path) -> Path:
    """A file that a list names, which must be there and inside the data set."""
    named = Path(place or "")
    path = inside(top, *named.parts) if not named.is_absolute() else top
    if not place or ".." in named.parts or not path.is_file():
        raise InputError(
            f"{split}: lists {place!r}, but {top} holds no such file; unpack the data set again."
        )
    return path


def _is_mvtec(folder: Path) -> bool:
    # A test folder alone counts too: reading then says what is missing. Taken as a plain folder of good
    # images, such a tree would teach the defects.
    return any((folder / part).is_dir() for part in (f"train/{GOOD}", "test", "ground_truth"))


def _is_mvtec3d(folder: Path) -> bool:
    places = [*subfolders(folder / "train"), *subfolders(folder / "test")]
    return not (folder / "ground_truth").is_dir() and any((place / "rgb").is_dir() for place in places)


def _is_bmad(folder: Path) -> bool:
    named = any(kind.name.lower() == "ungood" for kind in subfolders(folder / "test"))
    return named and not (folder / "ground_truth").is_dir()


def _is_visa(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


# MVTec's comes last, since its marks are in others as well.
LAYOUTS = (
    Layout("visa", f"Data/Images in each category, beside {VISA_SPLITS[0]}", _is_visa, _read_visa),
    Layout("bmad", "train/good, test/good/img, test/Ungood/img, test/Ungood/label", _is_bmad, _read_bmad),
    Layout("mvtec3d", "train/good/rgb, test/DEFECT/rgb, test/DEFECT/gt", _is_mvtec3d, _read_mvtec3d),
    Layout("mvtec", "train/good, test/good, test/DEFECT, ground_truth/DEFECT", _is_mvtec, _read_mvtec),
)
