"""Opens a folder or a YAML file as categories of good and defective images."""

from dataclasses import replace
from pathlib import Path

from mendiff.data.beside import pairs_of, read_beside
from mendiff.data.checks import check_files
from mendiff.data.folders import own_name, subfolders
from mendiff.data.image_files import NoImagesError, find_images, found_instead
from mendiff.data.labels import folder_notes, form_notes, label_notes, loose_notes
from mendiff.data.layouts import LAYOUTS, Layout
from mendiff.data.samples import GOOD, Category, Finding, Sample
from mendiff.data.yaml_lists import SUFFIXES, read_listed
from mendiff.errors import InputError, check_choice

__all__ = ["GOOD", "Category", "Sample", "open_data", "read_data"]

AUTO, FOLDER, BESIDE = "auto", "folder", "kolektor"
NAMES = (AUTO, *sorted(layout.name for layout in LAYOUTS), FOLDER)
PLAIN = "a folder of good images"
ADVICE = (
    "give a folder of good images, or a YAML file that lists folders (see 'mendiff check --help'), or add "
    f"--layout {FOLDER} to treat every image as good"
)


def open_data(root: Path, layout: str = AUTO) -> list[Category]:
    """Open one category, a folder of categories, a YAML file that lists folders, or a folder of good images.

    A category has one of the layouts of `LAYOUTS`; a folder of good images becomes a category without test
    images. Raises InputError if there are no images, a category is incomplete or duplicated, a defective
    image has no mask although others of its category do, or a mask and its image have different sizes.
    Images are not decoded; see `check_data`.

    Args:
        root: a folder, or a YAML file (see `mendiff.data.yaml_lists`).
        layout: one of `NAMES`; "auto" detects the layout.
    """
    categories, findings = read_data(root, layout)
    for finding in (*findings, *check_files(categories)):
        if finding.hard:
            raise InputError(finding.sentence)
    return categories


def read_data(root: Path, layout: str = AUTO) -> tuple[list[Category], list[Finding]]:
    """All readable categories, unchecked, and the problems of the others; arguments as in `open_data`.

    Raises InputError if there are no images.
    """
    check_choice("--layout", layout, NAMES)
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        if layout != AUTO:
            raise InputError(f"--layout: expected no layout, since {root} lists the folders, got {layout!r}.")
        return read_listed(root), []
    if not root.is_dir():
        problem = (
            "expected a folder or a YAML file, got a different file" if root.is_file() else "no such folder"
        )
        raise InputError(f"{root}: {problem}; give {PLAIN}, a data set or one of its categories.")
    if layout == FOLDER:
        return [_noted(Category(own_name(root), root, tuple(find_images(root)), ()), asked=True)], []
    known = tuple(candidate for candidate in LAYOUTS if layout in (AUTO, candidate.name))
    located = _find_categories(root, known)
    if not located and layout == AUTO:
        return [_noted(_plain(root))], []
    if not located:
        raise InputError(
            f"{root}: expected categories in the layout {layout} ({known[0].shape}) in this folder or "
            "up to two levels below, found none."
        )
    categories: list[Category] = []
    findings: list[Finding] = []
    for folder, found in located:
        try:
            categories.append(_noted(found.read(folder)))
        except InputError as error:
            findings.append(Finding("layout", True, str(error), (folder,)))
    if located[0][0] != root:
        findings += _empty_siblings([folder for folder, _ in located])
    return categories, findings


def _detect(folder: Path, known: tuple[Layout, ...]) -> Layout | None:
    return next((layout for layout in known if layout.is_category(folder)), None)


def _find_categories(root: Path, known: tuple[Layout, ...]) -> list[tuple[Path, Layout]]:
    """The folder itself if it is a category, otherwise the categories one level below, otherwise two."""
    level = [root]
    for _ in range(3):
        found = [(folder, layout) for folder in level if (layout := _detect(folder, known)) is not None]
        if found:
            return found
        level = [inside for folder in level for inside in subfolders(folder)]
    return []


def _empty_siblings(folders: list[Path]) -> list[Finding]:
    """Folders without any file next to categories: probably a category that was not copied."""
    findings = []
    for parent in dict.fromkeys(folder.parent for folder in folders):
        for folder in subfolders(parent):
            if folder not in folders and not any(path.is_file() for path in folder.rglob("*")):
                sentence = f"{folder}: an empty folder among categories; fill it or remove it."
                findings.append(Finding("empty", True, sentence, (folder,)))
    return findings


def _noted(category: Category, asked: bool = False) -> Category:
    """Add notes on names and ignored files; `asked` means that every image shall be treated as good."""
    root, train = category.root, category.train
    notes = form_notes(root, [*train, *(sample.path for sample in category.test)])
    if category.layout == FOLDER:
        notes += label_notes(root, train, ADVICE, hard=not asked)
    if category.layout in ("mvtec", "loco"):  # other layouts have depth maps and masks there
        notes += loose_notes(root, {*train, *(sample.path for sample in category.test)})
    return replace(category, notes=(*notes, *category.notes, *folder_notes(root)))


def _plain(root: Path) -> Category:
    """A folder of good images; refused if it contains a data set, whose defects would be trained on."""
    try:
        paths = find_images(root)
    except NoImagesError as error:
        shapes = "; ".join(f"{layout.name} ({layout.shape})" for layout in LAYOUTS)
        raise InputError(
            f"{root}: no images found; expected {PLAIN}, a YAML file that lists folders, or categories in "
            f"one of these layouts: {shapes}{found_instead(root)}."
        ) from error
    if pairs_of(paths) is not None:
        return replace(read_beside(root, paths), layout=BESIDE)
    parents = {parent for path in paths for parent in path.parents if root in parent.parents}
    for folder in sorted(parents, key=lambda parent: (len(parent.parts), parent)):
        layout = _detect(folder, LAYOUTS)
        if layout is not None:
            raise InputError(
                f"{root}: {folder} looks like a category ({layout.name}) of a data set; give "
                f"{folder.parent}, or --layout {FOLDER} to treat every image as good."
            )
    return Category(own_name(root), root, tuple(paths), ())
