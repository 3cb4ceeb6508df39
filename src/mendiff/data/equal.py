"""Pictures that are there more than once among all training images, all test images, or in both."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mendiff.data.samples import Category, Finding, Looks


@dataclass
class _Found:
    """Equal pictures: one list of files for every picture.

    Attributes:
        groups: files of equal pictures, of the test first where training and test images are equal.
        categories: names of those that they belong to.
        labels: of the test images among them.
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
        return f", and {count} more pictures alike" if count else ""


def equal_pictures(categories: Sequence[Category], looks: Looks) -> Iterator[Finding]:
    """One finding for all pictures that the same folders share."""
    train: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    test: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    labels = {sample.path: sample.label for category in categories for sample in category.test}
    for category in categories:
        for path in category.train:
            train[looks[path, None].key].append((path, category.name))
        for sample in category.test:
            test[looks[sample.path, sample.mask_path].key].append((sample.path, category.name))
    for split, pictures in (("training", train), ("test", test)):
        repeated = {key: owners for key, owners in pictures.items() if key and len(owners) > 1}
        for found in _by_folders(list(repeated.values()), labels if split == "test" else {}):
            yield _duplicate(found, split)
    both = [owners + train[key] for key, owners in test.items() if key and key in train]
    for found in _by_folders(both, {}):
        yield _overlap(found)


def _by_folders(groups: Sequence[list[tuple[Path, str]]], labels: dict[Path, str]) -> Iterator[_Found]:
    """Groups of (file, category) by the folders, categories and labels that they have in common."""
    alike: dict[tuple[frozenset[Path], frozenset[str]], _Found] = defaultdict(_Found)
    for owners in groups:
        told = frozenset(labels[path] for path, _ in owners if path in labels)
        found = alike[frozenset(path.parent for path, _ in owners), told]
        found.groups.append([path for path, _ in owners])
        found.categories |= {name for _, name in owners}
        found.labels |= told
    yield from alike.values()


def _duplicate(found: _Found, split: str) -> Finding:
    first = found.groups[0]
    others = f"{first[1]}" if len(first) == 2 else f"{first[1]} and {len(first) - 2} more"
    apart = f", with different labels ({', '.join(sorted(found.labels))})" if len(found.labels) > 1 else ""
    # In one model of several categories each keeps its own; elsewhere a second one only weighs twice.
    advice = "one model of these categories sees them twice" if len(found.categories) > 1 else "keep one"
    if len(found.categories) > 1 and len(found.groups) > 1:
        folders = sorted({str(path.parent) for path in found.paths})
        sentence = (
            f"{folders[0]}: {len(found.groups)} {split} images are the same pictures as in "
            f"{' and '.join(folders[1:]) or 'the same folder'}, such as {first[0].name}{apart}; {advice}."
        )
    else:
        sentence = (
            f"{first[0]}: the same picture as {others} among the {split} images{apart}{found.more}; {advice}."
        )
    return Finding("duplicate", False, sentence, found.paths)


def _overlap(found: _Found) -> Finding:
    test, train = found.groups[0][0], found.groups[0][-1]
    if len(found.categories) > 1:
        advice = "results of one model of these categories look better than they are"
    else:
        advice = "remove it from one of them, or results look better than they are"
    sentence = f"{test}: this test image is the training image {train} as well{found.more}; {advice}."
    return Finding("overlap", False, sentence, found.paths)
