"""Reads a folder with a sub-folder for each label, such as OK, NG, or normal_dir, abnormal_dir, mask_dir."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mendiff.data.beside import said_split, split_good
from mendiff.data.folders import inside, own_name, subfolders
from mendiff.data.image_files import NoImagesError, find_images
from mendiff.data.labels import label_notes
from mendiff.data.names import DEFECTIVE, GOOD, LABELS, SPLIT_NAMES, meaning, words
from mendiff.data.opening import IMAGES
from mendiff.data.pairing import annotation_files, labelled
from mendiff.data.samples import Category, Finding, Sample

TEST_WORDS = frozenset(("test", "tests", "testing", "val", "valid", "validation"))


@dataclass(frozen=True)
class _Sides:
    """The sub-folders by their names.

    Attributes:
        good: good images to train on.
        tests: good images to test with.
        bad: defective images.
        masks: of defective images.
    """

    good: tuple[Path, ...]
    tests: tuple[Path, ...]
    bad: tuple[Path, ...]
    masks: tuple[Path, ...]


def is_by_label(folder: Path) -> bool:
    """Whether every sub-folder has a label by its name, and there are good and defective ones."""
    return _sides(folder) is not None


def read_by_label(folder: Path) -> Category:
    """Read a folder for which is_by_label is true.

    Sub-folders of a defective folder, if all its images are in some, are defect types. Without good test
    images, every fifth good image is one.
    """
    sides = _sides(folder)
    assert sides is not None
    good = [path for place in sides.good for path in find_images(place)]
    tests = [path for place in sides.tests for path in find_images(place)]
    masks = sides.masks[0] if sides.masks else None
    listed = annotation_files([folder, *sides.bad, *sides.masks])
    bad = [sample for place in sides.bad for sample in _defective(place, masks, listed)]
    train, held = split_good(good) if bad and not tests else (good, [])
    samples = [*(Sample(path, GOOD, None) for path in (*tests, *held)), *bad]
    names = {"good": (*sides.good, *sides.tests), "defective": sides.bad, "masks": sides.masks}
    told = ", ".join(f"{what} in {_named(places)}" for what, places in names.items() if places)
    sentence = (
        f"{folder}: read by the names of its folders: {told}; only good images are trained on"
        f"{said_split(len(held))}; list the folders in a YAML file if this is wrong."
    )
    notes = [Finding("split", False, sentence, (folder,))]
    for place in (*sides.good, *sides.tests):
        some = [path for path in (*good, *tests) if place in path.parents]
        notes += label_notes(place, some, f"move them out of {place}")
    return Category(own_name(folder), folder, tuple(train), tuple(samples), "", tuple(notes))


def _named(places: Sequence[Path]) -> str:
    return " and ".join(place.name for place in places)


def _sides(folder: Path) -> _Sides | None:
    """The sub-folders by meaning; None if one has another meaning, or good or defective ones are missing."""
    places = subfolders(folder)
    if folder.name.casefold() in (*SPLIT_NAMES, "train") or _has_images(folder):
        return None
    by_meaning: dict[str, list[Path]] = {GOOD: [], DEFECTIVE: [], LABELS: [], "": []}
    for place in places:
        by_meaning[meaning(place.name)].append(place)
    masks = [place for place in by_meaning[LABELS] if _filled(place)]
    kinds = {kind.name.casefold() for place in masks for kind in subfolders(place)}
    # hazelnut_toy of anomalib: good, colour, crack, mask/crack.
    bad = by_meaning[DEFECTIVE] + [place for place in by_meaning[""] if place.name.casefold() in kinds]
    bad = [place for place in bad if _filled(place)]
    known = len(bad) + sum(not _filled(place) for place in by_meaning[DEFECTIVE])
    if known < len(by_meaning[DEFECTIVE]) + len(by_meaning[""]) or len(masks) > 1 or not bad:
        return None
    tests = [place for place in by_meaning[GOOD] if TEST_WORDS & set(words(place.name))]
    good = [place for place in by_meaning[GOOD] if place not in tests and _filled(place)]
    return _Sides(tuple(good), tuple(tests), tuple(bad), tuple(masks)) if good else None


def _defective(place: Path, masks: Path | None, annotations: Sequence[Path]) -> list[Sample]:
    """Defective images below a folder; masks are in the folder of masks or in one of the same name there."""
    kinds = [] if _has_images(place) else [kind for kind in subfolders(place) if _filled(kind)]
    own = masks
    if masks is not None and inside(masks, place.name).is_dir():
        own = inside(masks, place.name)
    if not kinds:
        return labelled(place, place.name, own, None, annotations)
    samples: list[Sample] = []
    for kind in kinds:
        below = own if own is None or not inside(own, kind.name).is_dir() else inside(own, kind.name)
        samples += labelled(kind, kind.name, below, None, annotations)
    return samples


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGES and path.is_file() for path in folder.iterdir())


def _filled(folder: Path) -> bool:
    with suppress(NoImagesError):
        return bool(find_images(folder))
    return bool(annotation_files([folder]))
