"""Finds duplicates among training images, among test images, and between both."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mendiff.data.samples import Category, Finding, ImageChecks


@dataclass
class _Duplicates:
    """Groups of equal images in the same folders.

    Attributes:
        groups: files of equal images; test images come before training images.
        categories: names of their categories.
        labels: labels of the test images.
    """

    groups: list[list[Path]] = field(default_factory=list)
    categories: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for group in self.groups for path in group)

    @property
    def more(self) -> str:
        count = len(self.groups) - 1
        return f", and {count} more duplicated images" if count else ""


def equal_pictures(categories: Sequence[Category], checks: ImageChecks) -> Iterator[Finding]:
    """One finding for all equal images of the same folders."""
    train: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    test: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    labels = {sample.path: sample.label for category in categories for sample in category.test}
    for category in categories:
        for path in category.train:
            train[checks[path, ()].key].append((path, category.name))
        for sample in category.test:
            test[checks[sample.path, sample.masks].key].append((sample.path, category.name))
    for split, pictures in (("training", train), ("test", test)):
        repeated = {key: owners for key, owners in pictures.items() if key and len(owners) > 1}
        for found in _by_folders(list(repeated.values()), labels if split == "test" else {}):
            yield _duplicate(found, split)
    both = [owners + train[key] for key, owners in test.items() if key and key in train]
    for found in _by_folders(both, {}):
        yield _overlap(found)


def _by_folders(groups: Sequence[list[tuple[Path, str]]], labels: dict[Path, str]) -> Iterator[_Duplicates]:
    """Join groups of (file, category) with the same folders and labels."""
    joined: dict[tuple[frozenset[Path], frozenset[str]], _Duplicates] = defaultdict(_Duplicates)
    for owners in groups:
        names = frozenset(labels[path] for path, _ in owners if path in labels)
        found = joined[frozenset(path.parent for path, _ in owners), names]
        found.groups.append([path for path, _ in owners])
        found.categories |= {name for _, name in owners}
        found.labels |= names
    yield from joined.values()


def _duplicate(found: _Duplicates, split: str) -> Finding:
    first = found.groups[0]
    others = f"{first[1]}" if len(first) == 2 else f"{first[1]} and {len(first) - 2} more"
    apart = f", with different labels ({', '.join(sorted(found.labels))})" if len(found.labels) > 1 else ""
    # Models per category are not affected by duplicates in different categories.
    advice = "a model of several categories uses them repeatedly" if len(found.categories) > 1 else "keep one"
    if len(found.categories) > 1 and len(found.groups) > 1:
        folders = sorted({str(path.parent) for path in found.paths})
        sentence = (
            f"{folders[0]}: {len(found.groups)} {split} images are equal to those in "
            f"{' and '.join(folders[1:]) or 'the same folder'}, such as {first[0].name}{apart}; {advice}."
        )
    else:
        sentence = f"{first[0]}: equal to {others} among the {split} images{apart}{found.more}; {advice}."
    return Finding("duplicate", False, sentence, found.paths)


def _overlap(found: _Duplicates) -> Finding:
    test, train = found.groups[0][0], found.groups[0][-1]
    if len(found.categories) > 1:
        advice = "metrics of a model of several categories are too high"
    else:
        advice = "remove one of them, otherwise metrics are too high"
    sentence = f"{test}: this test image equals the training image {train}{found.more}; {advice}."
    return Finding("overlap", False, sentence, found.paths)
