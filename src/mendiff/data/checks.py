"""What may be wrong with a data set, found before work starts: hard faults, and warnings.

`check_files` looks at names and headers alone; `check_data` also reads every image and mask.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mendiff.data.contents import keys_of, top_key, whole_key
from mendiff.data.equal import equal_pictures
from mendiff.data.fitness import depth_notes, mask_notes, orientation_notes, size_notes
from mendiff.data.masks import read_mask
from mendiff.data.reading import Header, Picture, brightest, image_size, read_header, read_image
from mendiff.data.samples import Category, Finding, Look, Looks, Sample, Use
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
    """Everything that is wrong with some categories that are used together, hard faults first.

    Hard are two categories of one name, a category without good images (that can be read), images that are
    labels or defects by their names, and for defective images a missing, shared or unreadable mask or one of
    another size, or masks that are all inverted. Warnings are images that can't be read, files that are left
    out, masks that are empty or mark nearly everything or may be drawn on a photo's unturned pixels, equal
    pictures within training or test images, or in both, 16-bit images that are dark, images that a model
    shrinks or enlarges much, clean twins that can't be read, have another size or equal their image, and
    tests with good or defective images alone. Pictures are equal when all
    their pixels are, whatever the file format.

    Args:
        categories: as `read_data` gives them.
        progress: called for every image.
        use: how a model will take the images.
        take: gets the training images of 8 bits, so that nobody has to decode them again.
    """
    use = use or Use()
    looks = _look_at_all(categories, progress, use, take)
    findings = check_files(categories)
    # A mask that is at fault already says enough; its content is not looked at.
    faulty = {path for finding in findings for path in finding.paths}
    for category in categories:
        findings += _unreadable(category, looks)
        for sample in category.test:
            if not sample.is_good and sample.mask_path not in faulty:
                findings += looks[sample.path, sample.mask_path].faults
        findings += mask_notes(category, looks)
        findings += orientation_notes(category, looks)
        findings += depth_notes(category, looks, use)
        findings += size_notes(category, looks, use)
        findings += _twins(category, looks)
        findings += _one_sided(category)
    findings += equal_pictures(categories, looks)
    return sorted(findings, key=lambda finding: not finding.hard)


def check_files(categories: Sequence[Category]) -> list[Finding]:
    """The hard faults that show without decoding: names, missing images, and masks by name and size."""
    findings = []
    for name, count in Counter(category.name for category in categories).items():
        if count > 1:
            roots = tuple(category.root for category in categories if category.name == name)
            listed = " and ".join(dict.fromkeys(map(str, roots)))
            sentence = f"{name}: {count} categories have this name ({listed}); rename or leave out one."
            findings.append(Finding("name", True, sentence, roots))
    for category in categories:
        findings += category.notes
        if not category.train:
            sentence = f"{category.root}: {category.name} has no good images to learn from; add some."
            findings.append(Finding("empty", True, sentence, (category.root,)))
        findings += _mask_files(category)
    return findings


def _twins(category: Category, looks: Looks) -> Iterator[Finding]:
    """Clean twins that can't be compared with what a model makes of their images, or tell nothing."""
    for sample in category.test:
        twin = sample.twin
        if twin is None or looks[sample.path, sample.mask_path].problem:
            continue
        try:
            size, expected, key = image_size(twin), image_size(sample.path), top_key(twin)
        except InputError as error:
            yield Finding("twin", False, str(error), (sample.path, twin))
            continue
        if size != expected:
            (height, width), (tall, wide) = size, expected
            told = (
                f"expected a twin of its image's size, {wide}x{tall}, got {width}x{height}; it is left out."
            )
        elif key == top_key(sample.path) and whole_key(twin) == whole_key(sample.path):
            told = (
                f"expected the photo of {sample.path} without its defect, but the two are equal; exchange it."
            )
        else:
            continue
        yield Finding("twin", False, f"{twin}: {told}", (sample.path, twin))


def _mask_files(category: Category) -> Iterator[Finding]:
    owners: dict[Path, Path] = {}
    for sample in category.test:
        mask = sample.mask_path
        if mask is None:
            continue
        if not mask.is_file():
            yield Finding("missing mask", True, _missing(sample, mask), (sample.path, mask))
        elif mask in owners:
            sentence = (
                f"{mask}: expected a mask for every image, but {owners[mask]} and {sample.path} share it; "
                "give them different names or folders."
            )
            yield Finding("shared mask", True, sentence, (owners[mask], sample.path, mask))
        else:
            yield from _mask_size(sample.path, mask)
        owners.setdefault(mask, sample.path)


def _missing(sample: Sample, mask: Path) -> str:
    names = f"{sample.path.stem}_mask.png or {sample.path.stem}.png"
    return (
        f"{sample.path}: no mask found; expected {names} in {mask.parent} (masks are optional only where a "
        "category has none at all)."
    )


def _mask_size(image: Path, mask: Path) -> Iterator[Finding]:
    try:
        photo = read_header(image)
    except InputError:
        return  # an image that can't be read is left out, and its mask with it
    try:
        height, width = image_size(mask)
    except InputError as error:
        yield Finding("unreadable mask", True, str(error), (image, mask))
        return
    if (height, width) == photo.size:
        return
    how = f"a mask must have its image's size, {photo.size[1]}x{photo.size[0]}, got {width}x{height}"
    if photo.orientation != 1 and (width, height) == photo.size:
        sentence = (
            f"{mask}: {how}: it seems drawn on the unturned pixels of {image.name}, which stand upright by "
            f"their EXIF orientation {photo.orientation} only; turn the mask alike."
        )
    else:
        sentence = f"{mask}: {how}; replace the mask of {image.name}."
    yield Finding("mask size", True, sentence, (image, mask))


def _look_at_all(
    categories: Sequence[Category], progress: Progress | None, use: Use, take: Take | None
) -> Looks:
    """Read every image and mask; whole pictures are compared only where size and top rows are equal."""
    train = [(path, None) for category in categories for path in category.train]
    test = [(sample.path, sample.mask_path) for category in categories for sample in category.test]
    pairs = list(dict.fromkeys([*train, *test]))
    looks: Looks = {}
    wanted = set(train) if take is not None else set()

    def look_at(pair: tuple[Path, Path | None]) -> Look:
        return _look_at(*pair, use, take if pair in wanted else None)

    # Pillow's decoders let go of Python's lock, so threads help.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for pair, look in zip(pairs, pool.map(look_at, pairs), strict=True):
            looks[pair] = look
            if progress is not None:
                progress(len(looks), len(pairs), "")
        keys = Counter(look.key for look in looks.values())
        alike = [pair for pair, look in looks.items() if look.key and keys[look.key] > 1]
        compared = pool.map(lambda pair: _compare(pair[0], looks[pair]), alike)
        looks |= zip(alike, list(compared), strict=True)
    return looks


def _look_at(image: Path, mask: Path | None, use: Use, take: Take | None = None) -> Look:
    try:
        if take is not None and not _is_deep(image):
            picture = read_image(image, use.bit_depth)
            take(image, picture)
            key, whole = keys_of(picture)
            return Look(key, header=read_header(image), whole=whole)
        key, header = top_key(image), read_header(image)
        highest = brightest(image) if header.deep else 0
        _check_depth(image, header, highest, use)
    except InputError as error:
        return Look("", str(error))
    look = Look(key, header=header, highest=highest)
    return look if mask is None else _look_at_mask(look, image, mask)


def _is_deep(image: Path) -> bool:
    """Whether an image has more than 8 bits, or a header that can't be read, of which others tell more."""
    try:
        return read_header(image).deep
    except InputError:
        return True


def _check_depth(image: Path, header: Header, highest: int, use: Use) -> None:
    """Refuse an image that the model's depth does not hold."""
    top = 2**use.bit_depth - 1
    if header.deep and use.bit_depth and highest > top:
        raise InputError(
            f"{image}: expected values of {use.bit_depth} bits, 0 to {top}, got {highest}; give a higher "
            "--bit-depth."
        )


def _compare(image: Path, look: Look) -> Look:
    """The look at an image with a key of all its pixels in place of that of its top rows."""
    try:
        return replace(look, key=look.whole or whole_key(image))
    except InputError as error:
        return Look("", str(error))


def _look_at_mask(look: Look, image: Path, mask: Path) -> Look:
    """The look with the mask's content: a share of it that is marked, or what is wrong."""
    try:
        marked, size = read_mask(mask), read_header(mask)
    except InputError as error:
        return replace(look, faults=(Finding("unreadable mask", True, str(error), (image, mask)),))
    if not marked.any():
        sentence = f"{mask}: this mask is empty although {image} counts as defective; redraw it."
        return replace(look, faults=(Finding("empty mask", False, sentence, (image, mask)),))
    return replace(look, marked=float(marked.mean()), mask_turned=size.orientation != 1)


def _unreadable(category: Category, looks: Looks) -> Iterator[Finding]:
    train = [(path, looks[path, None].problem) for path in category.train]
    test = [(sample.path, looks[sample.path, sample.mask_path].problem) for sample in category.test]
    for path, problem in dict.fromkeys([*train, *test]):
        if problem:
            yield Finding(UNREADABLE, False, problem, (path,))
    if train and all(problem for _, problem in train):
        sentence = f"{category.root}: expected good images of {category.name}, found none that can be read."
        yield Finding("empty", True, sentence, (category.root,))


def _one_sided(category: Category) -> Iterator[Finding]:
    sides = {sample.is_good for sample in category.test}
    if len(sides) == 1:
        there, absent = ("good", "defective") if True in sides else ("defective", "good")
        sentence = (
            f"{category.root}: {category.name} has {there} test images only; add {absent} ones for metrics."
        )
        yield Finding("one-sided", False, sentence, (category.root,))
