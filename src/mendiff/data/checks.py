"""Checks of a data set before work starts: errors and warnings.

`check_files` reads names and headers only; `check_data` also decodes every image and mask.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mendiff.data.duplicates import equal_pictures
from mendiff.data.image_keys import keys_of, top_key, whole_key
from mendiff.data.labels import FRAMES
from mendiff.data.masks import is_turned, mask_size, read_masks
from mendiff.data.names import same_name
from mendiff.data.polygons import SUFFIX
from mendiff.data.reading import Header, Picture, brightest, image_size, read_header, read_image
from mendiff.data.samples import GOOD, Category, Finding, ImageCheck, ImageChecks, Sample, Use
from mendiff.data.suitability import depth_notes, mask_notes, orientation_notes, size_notes
from mendiff.errors import InputError

Progress = Callable[[int, int, str], None]
"""Called with (done, total, note)."""
Take = Callable[[Path, Picture], object]
"""Called with a file and its decoded picture, by several threads."""
UNREADABLE = "unreadable"


def check_data(
    categories: Sequence[Category],
    progress: Progress | None = None,
    use: Use | None = None,
    take: Take | None = None,
) -> list[Finding]:
    """Check categories that are used together; errors (`hard`) come first.

    Errors:
        - two categories with the same name, and a category without readable good images
        - training images that are labels or defective according to their names
        - masks that are missing, shared, unreadable, of a different size, or all inverted

    Warnings:
        - images that can't be read, and ignored files
        - masks of several images
        - masks that are empty, mark most of the image, or may not follow the EXIF orientation of their photo
        - equal images within or between training and test images, whatever the file format
        - dark 16-bit images, and images that are resized by a large factor
        - clean twins that can't be read, have a different size, or equal their image
        - test sets with only good or only defective images

    Args:
        categories: as `read_data` gives them.
        progress: called for every image.
        use: how a model will read the images.
        take: called with every decoded 8-bit training image, so that it need not be decoded again.
    """
    use = use or Use()
    checks = _check_images(categories, progress, use, take)
    findings = check_files(categories)
    if use.reading.channels:  # frames may be channels
        findings = [finding for finding in findings if finding.kind != FRAMES]
    # The content of a mask that already has an error is not reported.
    faulty = {path for finding in findings for path in finding.paths}
    for category in categories:
        findings += _unreadable(category, checks)
        for sample in category.test:
            if not sample.is_good and not faulty.intersection(sample.masks):
                findings += checks[sample.path, sample.masks].faults
        findings += mask_notes(category, checks)
        findings += orientation_notes(category, checks)
        findings += depth_notes(category, checks, use)
        findings += size_notes(category, checks, use)
        findings += _twins(category, checks, use)
        findings += _one_sided(category)
    findings += equal_pictures(categories, checks)
    return sorted(findings, key=lambda finding: not finding.hard)


def check_files(categories: Sequence[Category]) -> list[Finding]:
    """Errors that are found without decoding: names, missing images, names and sizes of masks."""
    findings = []
    for name, count in Counter(category.name for category in categories).items():
        if count > 1:
            roots = tuple(category.root for category in categories if category.name == name)
            listed = " and ".join(dict.fromkeys(map(str, roots)))
            sentence = f"{name}: {count} categories have this name ({listed}); rename or remove one."
            findings.append(Finding("name", True, sentence, roots))
    for category in categories:
        findings += category.notes
        if not category.train:
            sentence = f"{category.root}: {category.name} has no good images to train on; add some."
            findings.append(Finding("empty", True, sentence, (category.root,)))
        findings += _mask_files(category)
    return findings


def _twins(category: Category, checks: ImageChecks, use: Use) -> Iterator[Finding]:
    """Clean twins that can't be compared with reconstructions, or equal their image."""
    for sample in category.test:
        twin = sample.twin
        if twin is None or checks[sample.path, sample.masks].problem:
            continue
        try:
            size, expected = image_size(twin), image_size(sample.path)
            equal = size == expected and _equal(twin, sample.path, use)
        except InputError as error:
            yield Finding("twin", False, str(error), (sample.path, twin))
            continue
        if size != expected:
            (height, width), (tall, wide) = size, expected
            problem = f"expected the size of its image, {wide}x{tall}, got {width}x{height}; it is ignored."
        elif equal:
            problem = (
                f"expected the photo of {sample.path} without its defect, but the two are equal; replace it."
            )
        else:
            continue
        yield Finding("twin", False, f"{twin}: {problem}", (sample.path, twin))


def _equal(one: Path, other: Path, use: Use) -> bool:
    """Whether all pixels of two images are equal."""
    return all(key(one, use.reading) == key(other, use.reading) for key in (top_key, whole_key))


def _mask_files(category: Category) -> Iterator[Finding]:
    owners: dict[Path, Path] = {}
    shared: list[tuple[Sample, Path]] = []
    for sample in category.test:
        for mask in sample.masks:
            owner = owners.setdefault(mask, sample.path)
            if not mask.is_file():
                yield Finding("missing mask", True, _missing(sample, mask), (sample.path, mask))
            elif owner == sample.path or mask.suffix.lower() == SUFFIX:  # an annotation file lists images
                yield from _mask_size(sample.path, mask)
            elif owner.parent == sample.path.parent and same_name(owner.stem) != same_name(sample.path.stem):
                shared.append((sample, mask))
                yield from _mask_size(sample.path, mask)
            else:
                sentence = (
                    f"{mask}: expected a mask for every image, but {owner} and {sample.path} share it; give "
                    "them different names or folders."
                )
                yield Finding("shared mask", True, sentence, (owner, sample.path, mask))
    if shared:
        sample, mask = shared[0]
        sentence = (
            f"{category.root}: {len(shared)} images of {category.name} have the mask of another image, such "
            f"as {sample.path} and {owners[mask]}; make sure that they show the same part in the same place."
        )
        yield Finding("shared mask", False, sentence, tuple(sample.path for sample, _ in shared))


def _missing(sample: Sample, mask: Path) -> str:
    if mask.suffix.lower() == SUFFIX:
        return f"{sample.path}: no annotation found; expected {mask}, as other images have one."
    names = f"{sample.path.stem}_mask.png or {sample.path.stem}.png"
    return (
        f"{sample.path}: no mask found; expected {names} in {mask.parent} (masks are optional only if a "
        "category has none)."
    )


def _mask_size(image: Path, mask: Path) -> Iterator[Finding]:
    try:
        photo = read_header(image)
    except InputError:
        return  # an unreadable image is ignored, and so is its mask
    try:
        height, width = mask_size(mask, image)
    except InputError as error:
        yield Finding("unreadable mask", True, str(error), (image, mask))
        return
    if (height, width) == photo.size:
        return
    problem = f"a mask must have its image's size, {photo.size[1]}x{photo.size[0]}, got {width}x{height}"
    if photo.orientation != 1 and (width, height) == photo.size:
        sentence = (
            f"{mask}: {problem}; it seems to be drawn on the stored pixels of {image.name}, without the "
            f"EXIF orientation {photo.orientation}; rotate the mask like the photo."
        )
    else:
        sentence = f"{mask}: {problem}; replace the mask of {image.name}."
    yield Finding("mask size", True, sentence, (image, mask))


def _check_images(
    categories: Sequence[Category], progress: Progress | None, use: Use, take: Take | None
) -> ImageChecks:
    """Read every image and mask; all pixels are compared only if size and top rows are equal."""
    train = {path: Sample(path, GOOD, None) for category in categories for path in category.train}
    test = [sample for category in categories for sample in category.test]
    pairs = {(sample.path, sample.masks): sample for sample in (*train.values(), *test)}
    checks: ImageChecks = {}
    wanted = train if take is not None else {}

    def check_pair(sample: Sample) -> ImageCheck:
        return _check_image(sample, use, take if sample.path in wanted and not sample.masks else None)

    # Pillow's decoders release the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for pair, check in zip(pairs, pool.map(check_pair, pairs.values()), strict=True):
            checks[pair] = check
            if progress is not None:
                progress(len(checks), len(pairs), "")
        keys = Counter(check.key for check in checks.values())
        equal = [pair for pair, check in checks.items() if check.key and keys[check.key] > 1]
        compared = pool.map(lambda pair: _with_whole_key(pair[0], checks[pair], use), equal)
        checks |= zip(equal, list(compared), strict=True)
    return checks


def _check_image(sample: Sample, use: Use, take: Take | None = None) -> ImageCheck:
    image = sample.path
    try:
        if take is not None and not _is_deep(image):
            picture = read_image(image, use.reading)
            take(image, picture)
            key, whole = keys_of(picture)
            return ImageCheck(key, header=read_header(image), whole=whole)
        header = read_header(image)
        highest = brightest(image, use.reading) if header.deep else 0
        _check_depth(image, header, highest, use)
        key = top_key(image, use.reading)
    except InputError as error:
        return ImageCheck("", str(error))
    check = ImageCheck(key, header=header, highest=highest)
    return _check_mask(check, sample) if sample.masks else check


def _is_deep(image: Path) -> bool:
    """Whether an image has more than 8 bits, or a header that can't be read (reported elsewhere)."""
    try:
        return read_header(image).deep
    except InputError:
        return True


def _check_depth(image: Path, header: Header, highest: int, use: Use) -> None:
    """Refuse an image with values beyond the model's bit depth."""
    bits = use.reading.bit_depth
    top = 2**bits - 1
    if header.deep and bits and highest > top:
        raise InputError(
            f"{image}: expected values of {bits} bits, 0 to {top}, got {highest}; increase --bit-depth."
        )


def _with_whole_key(image: Path, check: ImageCheck, use: Use) -> ImageCheck:
    """The result with a key of all pixels instead of the top rows."""
    try:
        return replace(check, key=check.whole or whole_key(image, use.reading))
    except InputError as error:
        return ImageCheck("", str(error))


def _check_mask(check: ImageCheck, sample: Sample) -> ImageCheck:
    """The result with the content of the mask: the share of marked pixels, or a problem."""
    paths = (sample.path, *sample.masks)
    try:
        marked = read_masks(sample)
        turned = any(is_turned(mask) for mask in sample.masks)
    except InputError as error:
        return replace(check, faults=(Finding("unreadable mask", True, str(error), paths),))
    if not marked.any():
        sentence = f"{paths[1]}: this mask is empty, but {sample.path} is labelled as defective; redraw it."
        return replace(check, faults=(Finding("empty mask", False, sentence, paths),))
    return replace(check, marked=float(marked.mean()), mask_turned=turned)


def _unreadable(category: Category, checks: ImageChecks) -> Iterator[Finding]:
    train = [(path, checks[path, ()].problem) for path in category.train]
    test = [(sample.path, checks[sample.path, sample.masks].problem) for sample in category.test]
    for path, problem in dict.fromkeys([*train, *test]):
        if problem:
            yield Finding(UNREADABLE, False, problem, (path,))
    if train and all(problem for _, problem in train):
        sentence = f"{category.root}: expected good images of {category.name}, found none that can be read."
        yield Finding("empty", True, sentence, (category.root,))


def _one_sided(category: Category) -> Iterator[Finding]:
    sides = {sample.is_good for sample in category.test}
    if len(sides) == 1:
        present, absent = ("good", "defective") if True in sides else ("defective", "good")
        sentence = (
            f"{category.root}: {category.name} has only {present} test images; add {absent} ones for metrics."
        )
        yield Finding("one-sided", False, sentence, (category.root,))
