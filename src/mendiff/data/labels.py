"""Detects labels and defective images among good images by their names, and reports ignored files."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mendiff.data.image_files import NO_IMAGE, find_images, left_out
from mendiff.data.names import (
    DEFECT_TYPES,
    DEFECTIVE,
    GOOD,
    LABELS,
    SPLIT_NAMES,
    meaning,
    same_name,
    twin_of,
    words,
)
from mendiff.data.reading import read_image
from mendiff.data.samples import Finding, Sample
from mendiff.errors import InputError

MOST_NAMED = 4
A_FOLDER = "a folder of good images"
"""Phrase in advice that is replaced by the folder of good images if it is known."""
MOST_DECODED = 3
LIGHTS = "frames of a TIFF that are lights of the same part can be read with --channels."
FRAMES = "frames"
"""Kind of the findings about frames that are not read."""
"""Pairs with the same name and different extensions that are decoded, to find out which file is a mask."""


def label_notes(base: Path, images: Sequence[Path], advice: str, *, hard: bool = True) -> list[Finding]:
    """Training images below a folder that are not good according to their names.

    Args:
        base: the folder; only names below it are used.
        images: its images, from `find_images`.
        advice: what to do, for the message.
        hard: whether this is an error; otherwise it is a warning that they are treated as good.
    """
    end = f"; {advice}." if hard else "; all are treated as good."
    notes = [*_folders(base, images, hard, end), *_twins(images, hard, end)]
    return notes or [*_own(base), *_files(base, images, hard, end)]


def kind_notes(base: Path, samples: Sequence[Sample], good: str = GOOD) -> list[Finding]:
    """Test images, in folders named after their labels below `base`, whose names contradict the label.

    Args:
        base: the folder.
        samples: test images.
        good: name of the folder of good training images; test images in a folder of that name are good.
    """
    notes: list[Finding] = []
    kinds: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        if base in sample.path.parents:
            kinds[base / sample.path.relative_to(base).parts[0]].append(sample)
    for kind, some in kinds.items():
        images = [sample.path for sample in some]
        if some[0].is_good and kind.name not in (GOOD, good):
            notes.append(_named_good(kind, images))
        elif not some[0].is_good and meaning(kind.name) == LABELS:
            sentence = (
                f"{kind}: {len(images)} images are labelled as the defect {kind.name}; if they "
                f"are labels or masks, move them out of {base}."
            )
            notes.append(Finding("labels", False, sentence, tuple(images)))
        wrong = {folder for folder in _below(kind, images) if meaning(folder.name) == LABELS}
        wrong |= {f for f in _below(kind, images) if some[0].is_good and meaning(f.name) == DEFECTIVE}
        end = f"; move them out of {kind}, or list folders in a YAML file."
        if wrong:
            notes.append(_misplaced(kind, sorted(wrong), True, end))
        notes += _twins(images, True, end)
    return notes


def inspected_notes(given: Path) -> list[Finding]:
    """Labels and masks, according to their names, among the images of a folder to be inspected."""
    if not given.is_dir():
        return []
    images, end = find_images(given), "; all are inspected as images."
    wrong = [folder for folder in _below(given, images) if meaning(folder.name) == LABELS]
    named = ", ".join(str(folder.relative_to(given)) for folder in wrong[:MOST_NAMED])
    sentence = (
        f"{given}: expected images of parts, but {named} in it may hold labels according to the name{end}"
    )
    notes = [Finding("labels", False, sentence, tuple(wrong))] if wrong else []
    return notes or _twins(images, False, end)


def loose_notes(root: Path, used: Collection[Path]) -> list[Finding]:
    """Images below `train` and `test` outside of the folders that are read."""
    loose: list[Path] = []
    for part in ("train", "test"):
        with suppress(InputError):
            loose += [path for path in find_images(root / part) if path not in used]
    if not loose:
        return []
    many = f"{len(loose)} images are" if len(loose) > 1 else "1 image is"
    sentence = (
        f"{root}: {many} outside of the folders that are read (train/good, test/LABEL), such as {loose[0]}."
    )
    return [Finding("left out", False, sentence, tuple(loose))]


def folder_notes(folder: Path) -> list[Finding]:
    """Ignored files below a folder that may be images, one note for each reason."""
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path, reason in left_out(folder):
        if reason != NO_IMAGE:
            reasons[reason].append(path)
    notes = []
    for reason, paths in reasons.items():
        many = f"{len(paths)} files are" if len(paths) > 1 else "1 file is"
        example = f", such as {paths[0]}" if len(paths) > 1 else f": {paths[0]}"
        sentence = f"{folder}: {many} ignored ({reason}){example}."
        if "frame" in reason:
            word = "images have" if len(paths) > 1 else "image has"
            sentence = f"{folder}: {len(paths)} {word} {reason}, ignored{example}; {LIGHTS}"
        notes.append(Finding(FRAMES if "frame" in reason else "left out", False, sentence, tuple(paths)))
    return notes


def form_notes(root: Path, images: Sequence[Path]) -> list[Finding]:
    """Images whose names differ only in their Unicode normalisation."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in dict.fromkeys(images):
        groups[path.parent, same_name(path.name)].append(path)
    twice = [paths for paths in groups.values() if len(paths) > 1]
    if not twice:
        return []
    sentence = (
        f"{root}: {len(twice)} pairs of images have names that differ only in their Unicode normalisation "
        f"(one or two characters for an accented letter), such as {twice[0][0]}; rename or remove one."
    )
    return [Finding("label", False, sentence, tuple(path for paths in twice for path in paths))]


def _below(base: Path, images: Sequence[Path]) -> dict[Path, None]:
    """All folders between a folder and its images, in order."""
    return dict.fromkeys(
        parent for path in images for parent in reversed(path.parents) if base in parent.parents
    )


def _folders(base: Path, images: Sequence[Path], hard: bool, end: str) -> Iterator[Finding]:
    folders = _below(base, images)
    meanings = {folder: meaning(folder.name) for folder in folders}
    wrong = [
        folder
        for folder, what in meanings.items()
        if what in (DEFECTIVE, LABELS) or folder.name.casefold() in SPLIT_NAMES
    ]
    # Folders next to a folder named good probably hold other images.
    good = [folder for folder, what in meanings.items() if what == GOOD]
    beside = {folder.parent for folder in good}
    wrong += [f for f, what in meanings.items() if f.parent in beside and what != GOOD and f not in wrong]
    if not wrong:
        return
    outer = [folder for folder in wrong if not any(other in folder.parents for other in wrong)]
    if len(good) == 1 and hard:
        end = end.replace(A_FOLDER, f"{good[0]} alone")
    yield _misplaced(base, outer, hard, end)


def _misplaced(base: Path, wrong: Sequence[Path], hard: bool, end: str) -> Finding:
    names = [str(folder.relative_to(base)) for folder in wrong]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    listed = ", ".join(names[:MOST_NAMED]) + more
    names_of = "their names" if len(names) > 1 else "its name"
    sentence = (
        f"{base}: expected good images only, but {listed} in it may hold defective images or labels "
        f"according to {names_of}{end}"
    )
    return Finding("labels", hard, sentence, tuple(wrong))


def _own(base: Path) -> Iterator[Finding]:
    if meaning(base.name) in (DEFECTIVE, LABELS):
        sentence = (
            f"{base}: expected good images only, but the name of this folder says otherwise; check them."
        )
        yield Finding("labels", False, sentence, (base,))


def _files(base: Path, images: Sequence[Path], hard: bool, end: str) -> Iterator[Finding]:
    """Files such as NG_1.png next to OK_1.png."""
    meanings = {path: meaning(path.stem) for path in images}
    wrong = [path for path, what in meanings.items() if what in (DEFECTIVE, LABELS)]
    if not wrong:
        types = [path for path in images if DEFECT_TYPES.intersection(words(path.stem))]
        wrong = types if 2 * len(types) <= len(images) else []  # otherwise it is the name of the part
    if not wrong:
        return
    mixed = hard and GOOD in meanings.values()
    sentence = (
        f"{base}: expected good images only, but {len(wrong)} of {len(images)} may be defective images or "
        f"labels according to their names, such as {wrong[0].name}"
        f"{end if mixed else '; if so, move them elsewhere.'}"
    )
    yield Finding("labels", mixed, sentence, tuple(wrong))


def _twins(images: Sequence[Path], hard: bool, end: str) -> list[Finding]:
    """Label images next to the images that they belong to, according to their names."""
    known: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in images:
        known[path.parent, same_name(path.stem).casefold()].append(path)
    pairs = [
        (path, known[path.parent, of][0])
        for path in images
        if (of := same_name(twin_of(path.stem)).casefold()) and (path.parent, of) in known
    ]
    if not pairs:
        pairs = _masks_of_one_name([paths for paths in known.values() if len(paths) > 1])
    if not pairs:
        return []
    label, image = pairs[0]
    sentence = (
        f"{image.parent}: expected images only, but {len(pairs)} of {len(images)} are label images of "
        f"others according to their names, such as {label.name} of {image.name}{end}"
    )
    return [Finding("labels", hard, sentence, tuple(label for label, _ in pairs))]


def _masks_of_one_name(groups: Sequence[Sequence[Path]]) -> list[tuple[Path, Path]]:
    """(mask, image) pairs with the same name and different extensions, such as 1.png and 1.jpg."""
    ordered = [sorted(paths, key=_is_drawn, reverse=True) for paths in groups[:MOST_DECODED]]
    if not ordered or not all(_is_drawn(paths[0]) and not _is_drawn(paths[-1]) for paths in ordered):
        return []
    ending = ordered[0][0].suffix
    masks = {path.parent / path.stem: path for paths in groups for path in paths if path.suffix == ending}
    return [
        (masks[path.parent / path.stem], path)
        for paths in groups
        for path in paths
        if path.suffix != ending and path.parent / path.stem in masks
    ]


def _is_drawn(path: Path) -> bool:
    """Whether an image consists of few flat colours like a mask, apart from JPEG artefacts."""
    try:
        picture = read_image(path)
    except InputError:
        return False
    colours, counts = np.unique(
        picture.reshape(-1, 3)[:: 1 + picture.size // 300_000], axis=0, return_counts=True
    )
    if len(colours) <= 4:
        return True
    ends = (colours <= 15).all(axis=1) | (colours >= 240).all(axis=1)
    return bool(counts[ends].sum() >= 0.97 * counts.sum())


def _named_good(kind: Path, images: Sequence[Path]) -> Finding:
    sentence = (
        f"{kind}: {len(images)} test images are treated as good because of the folder's name; rename it to "
        "good, or to something else if it is a defect type."
    )
    return Finding("label", False, sentence, tuple(images))
