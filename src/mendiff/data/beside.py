"""Reads images with their masks beside them: Kolektor's data sets, and folders of the same form.

KolektorSDD has kos01/Part0.jpg with kos01/Part0_label.bmp and no split; KolektorSDD2 has train/10000.png with
train/10000_GT.png, and the same in test. An image with an empty mask is good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mendiff.data.folders import inside, own_name
from mendiff.data.image_files import find_images
from mendiff.data.masks import read_mask
from mendiff.data.names import same_name, twin_of
from mendiff.data.samples import GOOD, Category, Finding, Sample
from mendiff.errors import InputError

LABEL = "defect"
EVERY = 5
"""Without a split, every fifth good image is a test image, as many as in anomalib."""


def pairs_of(images: Iterable[Path]) -> list[tuple[Path, Path]] | None:
    """(image, mask) pairs if every image has its mask beside it, by names; None otherwise."""
    known = {(path.parent, same_name(path.stem).casefold()): path for path in images}
    masks = {
        path: owner
        for (folder, stem), path in known.items()
        if (owner := known.get((folder, same_name(twin_of(stem)).casefold()))) is not None and owner != path
    }
    owned = set(masks.values())
    whole = len(owned) == len(masks) and len(known) == 2 * len(masks) > 0 and not owned & masks.keys()
    return [(image, mask) for mask, image in masks.items()] if whole else None


def read_kolektor(folder: Path) -> Category:
    """Read KolektorSDD or KolektorSDD2; raises InputError if an image has no mask."""
    parts = [inside(folder, name) for name in ("train", "test")]
    if not all(part.is_dir() for part in parts):
        return read_beside(folder, find_images(folder))
    train, test = (_sorted_out(part, find_images(part)) for part in parts)
    left_out = [sample for sample in train if not sample.is_good]
    notes = []
    if left_out:
        sentence = (
            f"{parts[0]}: {len(left_out)} of {len(train)} training images have a mask that marks a "
            "defect, and are not used."
        )
        notes.append(Finding("left out", False, sentence, tuple(sample.path for sample in left_out)))
    good = tuple(sample.path for sample in train if sample.is_good)
    return Category(own_name(folder), folder, good, tuple(test), "", tuple(notes))


def read_beside(folder: Path, images: Sequence[Path]) -> Category:
    """Read a folder without a split: images with an empty mask are good, the others defective test images."""
    samples = _sorted_out(folder, images)
    good = [sample for sample in samples if sample.is_good]
    bad = [sample for sample in samples if not sample.is_good]
    train, held = split_good([sample.path for sample in good]) if bad else ([s.path for s in good], [])
    tests = [sample for sample in samples if not sample.is_good or sample.path in set(held)]
    sentence = (
        f"{folder}: every image has a mask beside it, such as {images[1].name}; the {len(good)} images "
        f"with an empty mask are good, and {len(bad)} are defective and never trained on"
        f"{said_split(len(held))}."
    )
    notes = (Finding("split", False, sentence, (folder,)),)
    return Category(own_name(folder), folder, tuple(train), tuple(tests), "", notes)


def split_good(images: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(training, test) images: every fifth is a test image."""
    held = images[EVERY - 1 :: EVERY]
    return [path for path in images if path not in set(held)], list(held)


def said_split(held: int) -> str:
    """The end of a sentence about a split; empty if nothing was split."""
    return f"; every fifth good image ({held} in all) is a test image" if held else ""


def _sorted_out(folder: Path, images: Sequence[Path]) -> list[Sample]:
    """Samples by whether their mask is empty, sorted."""
    pairs = pairs_of(images)
    if pairs is None:
        raise InputError(
            f"{folder}: expected a mask beside every image, such as Part0_label.bmp of Part0.jpg, but some "
            "images have none; add or remove files."
        )
    with ThreadPoolExecutor() as pool:
        marked = list(pool.map(lambda pair: bool(read_mask(pair[1]).any()), pairs))
    return sorted(
        (
            Sample(image, LABEL, mask) if defective else Sample(image, GOOD, None)
            for (image, mask), defective in zip(pairs, marked, strict=True)
        ),
        key=lambda sample: sample.path,
    )
