"""What may be wrong with a data set, found before work starts: hard faults, and warnings.

`check_files` looks at names and headers alone; `check_data` also reads every image and mask.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mendiff.errors import InputError
from mendiff.evaluation.contents import top_key, whole_key
from mendiff.evaluation.samples import Category, Finding, Sample
from mendiff.images import image_size, read_mask

Progress = Callable[[int, int, str], None]
"""Called with (done, total, note)."""
UNREADABLE = "unreadable"


def check_data(categories: Sequence[Category], progress: Progress | None = None) -> list[Finding]:
    """Everything that is wrong with some categories that are used together, hard faults first.

    Hard are two categories of one name, a category without good images (that can be read), and for defective
    images a missing, shared or unreadable mask or one of another size. Warnings are images that can't be
    read, empty masks, equal pictures within training or test images, or in both, and tests with good or
    defective images alone. Pictures are equal when all their pixels are, whatever the file format.
    """
    looks = _look_at_all(categories, progress)
    findings = check_files(categories)
    # A mask that is at fault already says enough; its content is not looked at.
    faulty = {path for finding in findings for path in finding.paths}
    for category in categories:
        findings += _unreadable(category, looks)
        for sample in category.test:
            if not sample.is_good and sample.mask_path not in faulty:
                findings += looks[sample.path, sample.mask_path].mask
        findings += _one_sided(category)
    findings += _equal_pictures(categories, looks)
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
        if not category.train:
            sentence = f"{category.root}: {category.name} has no good images to learn from; add some."
            findings.append(Finding("empty", True, sentence, (category.root,)))
        findings += _mask_files(category)
    return findings


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
        expected = image_size(image)
    except InputError:
        return  # an image that can't be read is left out, and its mask with it
    try:
        height, width = image_size(mask)
    except InputError as error:
        yield Finding("unreadable mask", True, str(error), (image, mask))
        return
    if (height, width) != expected:
        sentence = (
            f"{mask}: a mask must have its image's size, {expected[1]}x{expected[0]}, got {width}x{height}; "
            f"replace the mask of {image.name}."
        )
        yield Finding("mask size", True, sentence, (image, mask))


@dataclass(frozen=True)
class _Look:
    """What reading an image and its mask has shown.

    Attributes:
        key: equal for equal pictures and for no others; empty where the image can't be read.
        problem: why it can't be read, otherwise empty.
        mask: what is wrong with the mask.
    """

    key: str
    problem: str = ""
    mask: tuple[Finding, ...] = ()


Looks = dict[tuple[Path, Path | None], _Look]


def _look_at_all(categories: Sequence[Category], progress: Progress | None) -> Looks:
    """Read every image and mask; whole pictures are compared only where size and top rows are equal."""
    train = [(path, None) for category in categories for path in category.train]
    test = [(sample.path, sample.mask_path) for category in categories for sample in category.test]
    pairs = list(dict.fromkeys([*train, *test]))
    looks: Looks = {}
    # Pillow's decoders let go of Python's lock, so threads help.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for pair, look in zip(pairs, pool.map(lambda pair: _look_at(*pair), pairs), strict=True):
            looks[pair] = look
            if progress is not None:
                progress(len(looks), len(pairs), "")
        keys = Counter(look.key for look in looks.values())
        alike = [pair for pair, look in looks.items() if look.key and keys[look.key] > 1]
        compared = pool.map(lambda pair: _compare(pair[0], looks[pair]), alike)
        looks |= zip(alike, list(compared), strict=True)
    return looks


def _look_at(image: Path, mask: Path | None) -> _Look:
    try:
        key = top_key(image)
    except InputError as error:
        return _Look("", str(error))
    return _Look(key, "", () if mask is None else tuple(_mask_content(image, mask)))


def _compare(image: Path, look: _Look) -> _Look:
    """The look at an image with a key of all its pixels in place of that of its top rows."""
    try:
        return replace(look, key=whole_key(image))
    except InputError as error:
        return _Look("", str(error))


def _mask_content(image: Path, mask: Path) -> Iterator[Finding]:
    try:
        if not read_mask(mask).any():
            sentence = f"{mask}: this mask is empty although {image} counts as defective; redraw it."
            yield Finding("empty mask", False, sentence, (image, mask))
    except InputError as error:
        yield Finding("unreadable mask", True, str(error), (image, mask))


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


def _equal_pictures(categories: Sequence[Category], looks: Looks) -> Iterator[Finding]:
    """Pictures that are there more than once among all training images, all test images, or in both."""
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    labels = {sample.path: sample.label for category in categories for sample in category.test}
    for category in categories:
        for path in category.train:
            train.setdefault(looks[path, None].key, []).append(path)
        for sample in category.test:
            test.setdefault(looks[sample.path, sample.mask_path].key, []).append(sample.path)
    for key, paths in train.items():
        if key and len(paths) > 1:
            yield _duplicate(paths, "training", ())
    for key, paths in test.items():
        if key and len(paths) > 1:
            yield _duplicate(paths, "test", sorted({labels[path] for path in paths}))
        if key and key in train:
            sentence = (
                f"{paths[0]}: this test image is the training image {train[key][0]} as well; remove it "
                "from one of them, or results look better than they are."
            )
            yield Finding("overlap", False, sentence, (*paths, *train[key]))


def _duplicate(paths: Sequence[Path], split: str, labels: Iterable[str]) -> Finding:
    labels = list(labels)
    others = f"{paths[1]}" if len(paths) == 2 else f"{paths[1]} and {len(paths) - 2} more"
    apart = f", with different labels ({', '.join(labels)})" if len(labels) > 1 else ""
    sentence = f"{paths[0]}: the same picture as {others} among the {split} images{apart}; keep one."
    return Finding("duplicate", False, sentence, tuple(paths))
