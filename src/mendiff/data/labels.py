"""What is no image of a good part by its name or its neighbours, and which files are passed over."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mendiff.data.found import NO_IMAGE, find_images, left_out
from mendiff.data.names import DEFECTIVE, GOOD, LABELS, SPLIT_NAMES, meaning, same_name, twin_of
from mendiff.data.reading import read_image
from mendiff.data.samples import Finding, Sample
from mendiff.errors import InputError

MOST_NAMED = 4
A_FOLDER = "a folder of good images"
"""Words of how to go on, in whose place the folder stands where it is known."""
LOOKED_AT = 3
"""Pairs of one name with two extensions whose pictures are looked at, whether one of them is a mask."""


def label_notes(base: Path, images: Sequence[Path], go_on: str, *, hard: bool = True) -> list[Finding]:
    """What among the images below a folder, all to be learned as good, is not good by its name.

    Args:
        base: names below it count, its own does not.
        images: in it, as `find_images` gives them.
        go_on: how to go on, for the sentence.
        hard: whether to refuse; otherwise it is only said that they are taken as good ones.
    """
    end = f"; {go_on}." if hard else "; all are taken as good ones."
    notes = [*_folders(base, images, hard, end), *_twins(images, hard, end)]
    return notes or [*_own(base), *_files(base, images, hard, end)]


def kind_notes(base: Path, samples: Sequence[Sample]) -> list[Finding]:
    """What among test images, in folders of their labels below `base`, is something else by its name."""
    notes: list[Finding] = []
    kinds: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        if base in sample.path.parents:
            kinds[base / sample.path.relative_to(base).parts[0]].append(sample)
    for kind, some in kinds.items():
        images = [sample.path for sample in some]
        if some[0].is_good and kind.name != some[0].label:
            notes.append(_named_good(kind, images))
        elif not some[0].is_good and meaning(kind.name) == LABELS:
            sentence = (
                f"{kind}: {len(images)} pictures count as defective images of the kind {kind.name}; if they "
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
    """What among the images of a folder, all to be inspected, is a label or a mask by its name."""
    if not given.is_dir():
        return []
    images, end = find_images(given), "; all are inspected as images."
    wrong = [folder for folder in _below(given, images) if meaning(folder.name) == LABELS]
    named = ", ".join(str(folder.relative_to(given)) for folder in wrong[:MOST_NAMED])
    sentence = f"{given}: expected images of parts, but {named} in it may hold labels, as the name says{end}"
    notes = [Finding("labels", False, sentence, tuple(wrong))] if wrong else []
    return notes or _twins(images, False, end)


def loose_notes(root: Path, used: Collection[Path]) -> list[Finding]:
    """Images below `train` and `test` that lie in none of the folders that are read."""
    loose: list[Path] = []
    for part in ("train", "test"):
        with suppress(InputError):
            loose += [path for path in find_images(root / part) if path not in used]
    if not loose:
        return []
    many = f"{len(loose)} images lie" if len(loose) > 1 else "1 image lies"
    sentence = f"{root}: {many} in no folder that is read (train/good, test/LABEL), such as {loose[0]}."
    return [Finding("left out", False, sentence, tuple(loose))]


def folder_notes(folder: Path) -> list[Finding]:
    """Files below a folder that are passed over although somebody may want them, one note for each reason."""
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path, reason in left_out(folder):
        if reason != NO_IMAGE:
            reasons[reason].append(path)
    notes = []
    for reason, paths in reasons.items():
        many = f"{len(paths)} files are" if len(paths) > 1 else "1 file is"
        example = f", such as {paths[0]}" if len(paths) > 1 else f": {paths[0]}"
        sentence = f"{folder}: {many} left out ({reason}){example}."
        if "frame" in reason:
            word = "images have" if len(paths) > 1 else "image has"
            sentence = f"{folder}: {len(paths)} {word} {reason}, left out{example}."
        notes.append(Finding("left out", False, sentence, tuple(paths)))
    return notes


def form_notes(root: Path, images: Sequence[Path]) -> list[Finding]:
    """Images whose names look the same, since they differ in their Unicode form alone."""
    alike: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in dict.fromkeys(images):
        alike[path.parent, same_name(path.name)].append(path)
    twice = [paths for paths in alike.values() if len(paths) > 1]
    if not twice:
        return []
    sentence = (
        f"{root}: {len(twice)} pairs of images have names that differ in their Unicode form alone (one sign "
        f"or two for a letter with an accent), such as {twice[0][0]}; rename or remove one of each."
    )
    return [Finding("label", False, sentence, tuple(path for paths in twice for path in paths))]


def _below(base: Path, images: Sequence[Path]) -> dict[Path, None]:
    """All folders on the way from a folder to its images, in order."""
    return dict.fromkeys(
        parent for path in images for parent in reversed(path.parents) if base in parent.parents
    )


def _folders(base: Path, images: Sequence[Path], hard: bool, end: str) -> Iterator[Finding]:
    folders = _below(base, images)
    meanings = {folder: meaning(folder.name) for folder in folders}
    wrong = [
        folder
        for folder, said in meanings.items()
        if said in (DEFECTIVE, LABELS) or folder.name.casefold() in SPLIT_NAMES
    ]
    # Beside a folder of good parts by its name, others hold something else by theirs.
    good = [folder for folder, said in meanings.items() if said == GOOD]
    beside = {folder.parent for folder in good}
    wrong += [f for f, said in meanings.items() if f.parent in beside and said != GOOD and f not in wrong]
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
    what = "their names say" if len(names) > 1 else "its name says"
    sentence = (
        f"{base}: expected good images only, but {listed} in it may hold defective images or labels, as "
        f"{what}{end}"
    )
    return Finding("labels", hard, sentence, tuple(wrong))


def _own(base: Path) -> Iterator[Finding]:
    if meaning(base.name) in (DEFECTIVE, LABELS):
        sentence = f"{base}: expected good images only, but this folder is named otherwise; make sure of it."
        yield Finding("labels", False, sentence, (base,))


def _files(base: Path, images: Sequence[Path], hard: bool, end: str) -> Iterator[Finding]:
    """Names of files such as OK_1.png beside NG_1.png."""
    said = {path: meaning(path.stem) for path in images}
    wrong = [path for path, what in said.items() if what in (DEFECTIVE, LABELS)]
    if not wrong:
        return
    mixed = hard and GOOD in said.values()
    sentence = (
        f"{base}: expected good images only, but {len(wrong)} of {len(images)} may be defective images or "
        f"labels, as their names say, such as {wrong[0].name}"
        f"{end if mixed else '; move them elsewhere if so.'}"
    )
    yield Finding("labels", mixed, sentence, tuple(wrong))


def _twins(images: Sequence[Path], hard: bool, end: str) -> list[Finding]:
    """Label pictures beside the images that they are of, by their names."""
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
        f"{image.parent}: expected images only, but {len(pairs)} of {len(images)} are label pictures of "
        f"others by their names, such as {label.name} of {image.name}{end}"
    )
    return [Finding("labels", hard, sentence, tuple(label for label, _ in pairs))]


def _masks_of_one_name(groups: Sequence[Sequence[Path]]) -> list[tuple[Path, Path]]:
    """(mask, image) of pictures that share a name and differ in extension, such as 1.jpg and 1.png."""
    ordered = [sorted(paths, key=_looks_drawn, reverse=True) for paths in groups[:LOOKED_AT]]
    if not ordered or not all(_looks_drawn(one[0]) and not _looks_drawn(one[-1]) for one in ordered):
        return []
    ending = ordered[0][0].suffix
    masks = {path.parent / path.stem: path for paths in groups for path in paths if path.suffix == ending}
    return [
        (masks[path.parent / path.stem], path)
        for paths in groups
        for path in paths
        if path.suffix != ending and path.parent / path.stem in masks
    ]


def _looks_drawn(path: Path) -> bool:
    """Whether a picture has a few flat colours, as masks and no photos have, but for what JPEG adds."""
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
        f"{kind}: {len(images)} test images are taken as good ones, as the folder's name says; call it good, "
        "or something else if it is a kind of defect."
    )
    return Finding("label", False, sentence, tuple(images))
