"""Finds the masks of images by name: pictures in a parallel tree of folders, and annotation files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mendiff.data.folders import inside
from mendiff.data.image_files import find_images
from mendiff.data.names import TWIN_MARKS, is_labels_alone, same_name, twin_of
from mendiff.data.opening import EXTENSIONS
from mendiff.data.polygons import SUFFIX, annotates, is_annotation
from mendiff.data.samples import GOOD, Sample
from mendiff.errors import InputError

IMAGE_WORDS = frozenset(("image", "images", "img", "photo", "picture", "pic", "rgb"))


def find_masks(
    images: Sequence[Path], base: Path, masks: Path | None, annotations: Sequence[Path] = ()
) -> list[tuple[Path, ...]]:
    """The masks of every image; several are parts of one mask, and an empty tuple means that none was found.

    A mask of NAME is, in this order: NAME_mask or NAME; the pictures in a folder NAME; NAME with another
    word, such as NAME_gt or label_NAME; the numbered NAME_mask_1, NAME_mask_2 or NAME_1, NAME_2; a file whose
    name differs from NAME only in words such as image and mask; NAME_x has the mask of NAME if NAME is no
    image; a file that is named mask alone is the mask of all images in its folder. Then labelme's NAME.json
    beside the image or in the folder of masks, and annotation files.

    Args:
        images: below `base`.
        base: the root of the images.
        masks: the root of a parallel tree; None if there is none.
        annotations: COCO files, see annotation_files.
    """
    found: dict[Path, tuple[Path, ...]] = {}
    groups: dict[Path, list[Path]] = {}
    for image in images:
        groups.setdefault(image.parent, []).append(image)
    for folder, some in groups.items():
        place = None if masks is None else parallel(folder, base, masks)
        if place is not None and place.is_dir():
            found |= _by_name(some, place)
        for image in some:
            if not found.get(image):
                found[image] = _annotation(image, place, annotations)
    return [found[image] for image in images]


def parallel(folder: Path, base: Path, other: Path) -> Path:
    """The folder in the tree `other` that corresponds to a folder below `base`."""
    return inside(other, *folder.relative_to(base).parts)


def files_of_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by stem, as written and normalised; PNG is preferred for masks."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS) if folder.is_dir() else ()
    ordered = sorted(files, key=lambda p: (p.suffix.lower() == ".png", p))
    return {same_name(p.stem): p for p in ordered} | {p.stem: p for p in ordered}


def annotation_files(folders: Iterable[Path]) -> list[Path]:
    """The labelme and COCO files in some folders, without their sub-folders."""
    found = []
    for folder in dict.fromkeys(folders):
        if folder.is_dir():
            files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() == SUFFIX)
            found += [path for path in files if not path.name.startswith(".") and is_annotation(path)]
    return found


def _annotation(image: Path, place: Path | None, annotations: Sequence[Path]) -> tuple[Path, ...]:
    beside = [folder / f"{image.stem}{SUFFIX}" for folder in (place, image.parent) if folder is not None]
    for path in (*beside, *annotations):
        if path.is_file() and annotates(path, image):
            return (path,)
    return ()


def _by_name(images: Sequence[Path], folder: Path) -> dict[Path, tuple[Path, ...]]:
    """The masks of images of the same folder."""
    files = files_of_name(folder)
    found = {image: _exact(image, files) for image in images}
    free = {
        name: path for name, path in files.items() if path not in {p for some in found.values() for p in some}
    }
    stems = {same_name(image.stem): image for image in images}
    for image, some in found.items():
        if not some:
            found[image] = _pictures_in(inside(folder, image.stem))
    owners = {path: stems[name] for stem, path in free.items() if (name := twin_of(stem)) in stems}
    for path, image in owners.items():
        found[image] = found[image] or (path,)
    for path in dict.fromkeys(free.values()):
        owner = _numbered(path.stem, stems)
        if owner is not None and path not in owners:
            found[owner] = (*found[owner], path)
    lost = [image for image, some in found.items() if not some]
    if lost:
        taken = {path for some in found.values() for path in some}
        rest = {name: path for name, path in free.items() if path not in taken}
        found |= _loosely(lost, list(dict.fromkeys(rest.values())))
    return found


def _exact(image: Path, files: Mapping[str, Path]) -> tuple[Path, ...]:
    names = [f"{image.stem}_mask", image.stem]
    names += [same_name(name) for name in names]
    return next(((files[name],) for name in names if name in files), ())


def _pictures_in(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(find_images(folder)) if folder.is_dir() else ()
    except InputError:  # no images
        return ()


def _numbered(stem: str, images: Mapping[str, Path]) -> Path | None:
    """The image of a mask with a number, such as NAME_mask_1, NAME_1_mask or NAME_1."""
    parts = re.fullmatch(r"(.+?)[ _.\-(]+\d+\)?", same_name(stem))
    inner = re.fullmatch(r"(.+?)[ _.\-(]+\d+\)?", twin_of(same_name(stem)))
    names = [*([twin_of(parts[1]), parts[1]] if parts else []), *([inner[1]] if inner else [])]
    return next((images[name] for name in names if name in images), None)


def _loosely(images: Sequence[Path], files: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    """Masks whose name differs in words only, of the image's beginning, or of a whole folder."""
    cores: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        cores[_core(path.stem)].append(path)
    counts = Counter(_core(image.stem) for image in images)
    beginnings = {twin_of(same_name(path.stem)) or same_name(path.stem): path for path in files}
    whole = [path for path in files if is_labels_alone(path.stem)]
    found: dict[Path, tuple[Path, ...]] = {}
    for image in images:
        core, stem = _core(image.stem), same_name(image.stem)
        cuts = [match.start() for match in re.finditer(r"[ _.\-]", stem)]
        begin = next((stem[:cut] for cut in reversed(cuts) if stem[:cut] in beginnings), None)
        if core and counts[core] == len(cores[core]) == 1:
            found[image] = (cores[core][0],)
        elif begin is not None:
            found[image] = (beginnings[begin],)
        elif len(whole) == 1:
            found[image] = (whole[0],)
    return found


def _core(stem: str) -> str:
    """A name without words such as image and mask; empty if nothing remains."""
    parts = re.split(r"[ _.\-]+", same_name(stem).casefold())
    return "_".join(part for part in parts if part not in TWIN_MARKS | IMAGE_WORDS)


def labelled(
    images: Path,
    label: str,
    masks: Path | None,
    twins: Path | None = None,
    annotations: Sequence[Path] = (),
) -> list[Sample]:
    """All images below a folder as samples with the same label, defective images with their masks.

    A missing mask is included with its expected path if other images have masks. A clean twin is named NAME
    and optional.

    Args:
        images: the folder.
        label: good or the defect type.
        masks: folder with masks, in the same sub-folders as images (see find_masks); None if there is none.
        twins: the same for clean twins.
        annotations: labelme and COCO files that may describe the images.
    """
    paths = find_images(images)
    if label == GOOD:
        return [Sample(path, label, None) for path in paths]
    found = find_masks(paths, images, masks, annotations)
    samples = []
    for path, some in zip(paths, found, strict=True):
        if not some and masks is not None:
            some = (parallel(path.parent, images, masks) / f"{path.stem}_mask.png",)
        elif not some and any(found):
            some = (path.with_suffix(SUFFIX),)
        samples.append(Sample(path, label, some[0] if some else None, further_masks=some[1:]))
    if twins is None:
        return samples
    known = {folder: files_of_name(parallel(folder, images, twins)) for folder in {p.parent for p in paths}}
    return [replace(sample, twin=_twin(sample.path, known[sample.path.parent])) for sample in samples]


def _twin(image: Path, files: Mapping[str, Path]) -> Path | None:
    return files.get(image.stem) or files.get(same_name(image.stem))
