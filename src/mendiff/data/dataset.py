"""From a folder or a YAML file to categories of good and defective images, whatever their layout."""

from dataclasses import replace
from pathlib import Path

from mendiff.data.checks import check_files
from mendiff.data.found import NoImagesError, find_images, instead
from mendiff.data.labels import folder_notes, form_notes, kind_notes, label_notes, loose_notes
from mendiff.data.layouts import LAYOUTS, Layout, own_name, subfolders
from mendiff.data.listed import SUFFIXES, read_listed
from mendiff.data.samples import GOOD, Category, Finding, Sample
from mendiff.errors import InputError, check_choice

__all__ = ["GOOD", "Category", "Sample", "open_data", "read_data"]

AUTO, FOLDER = "auto", "folder"
NAMES = (AUTO, *sorted(layout.name for layout in LAYOUTS), FOLDER)
PLAIN = "a folder of good images"
GO_ON = (
    "give a folder of good images, or a YAML file that lists folders (see 'mendiff check --help'), or add "
    f"--layout {FOLDER} to take every image as a good one"
)


def open_data(root: Path, layout: str = AUTO) -> list[Category]:
    """Open one category, a folder of categories, a YAML file that lists folders, or a folder of good images.

    A category has one of the layouts of `LAYOUTS`; a folder of good images becomes one without a test.
    Raises InputError when there is nothing to find, a category is incomplete or there twice, a defective
    image has no mask although others of its category do, or a mask has another size than its image. Whether
    images can be decoded is for `check_data`.

    Args:
        root: a folder, or a YAML file (see `mendiff.data.listed`).
        layout: one of `NAMES`; "auto" finds out.
    """
    categories, findings = read_data(root, layout)
    for finding in (*findings, *check_files(categories)):
        if finding.hard:
            raise InputError(finding.sentence)
    return categories


def read_data(root: Path, layout: str = AUTO) -> tuple[list[Category], list[Finding]]:
    """All categories that can be read, unchecked, and why others can't; arguments as in `open_data`.

    Raises InputError when there is nothing to find.
    """
    check_choice("--layout", layout, NAMES)
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        if layout != AUTO:
            raise InputError(f"--layout: expected none, as {root} says where the images are, got {layout!r}.")
        return read_listed(root), []
    if not root.is_dir():
        problem = "expected a folder or a YAML file, got another file" if root.is_file() else "no such folder"
        raise InputError(f"{root}: {problem}; give {PLAIN}, a data set or one of its categories.")
    if layout == FOLDER:
        return [_noted(Category(own_name(root), root, tuple(find_images(root)), ()), asked=True)], []
    known = tuple(one for one in LAYOUTS if layout in (AUTO, one.name))
    places = _find_categories(root, known)
    if not places and layout == AUTO:
        return [_noted(_plain(root))], []
    if not places:
        raise InputError(
            f"{root}: expected categories in the layout {layout} ({known[0].shape}) here or one or two "
            "levels down, found none."
        )
    categories: list[Category] = []
    findings: list[Finding] = []
    for folder, one in places:
        try:
            categories.append(_noted(one.read(folder)))
        except InputError as error:
            findings.append(Finding("layout", True, str(error), (folder,)))
    if places[0][0] != root:
        findings += _empty_siblings([folder for folder, _ in places])
    return categories, findings


def _detect(folder: Path, known: tuple[Layout, ...]) -> Layout | None:
    return next((one for one in known if one.is_category(folder)), None)


def _find_categories(root: Path, known: tuple[Layout, ...]) -> list[tuple[Path, Layout]]:
    """The folder itself, or else the categories one level down, or else two: some sets come in wrappers."""
    level = [root]
    for _ in range(3):
        found = [(folder, one) for folder in level if (one := _detect(folder, known)) is not None]
        if found:
            return found
        level = [inside for folder in level for inside in subfolders(folder)]
    return []


def _empty_siblings(folders: list[Path]) -> list[Finding]:
    """Folders beside categories that hold no file at all: most likely a category that was not copied."""
    findings = []
    for parent in dict.fromkeys(folder.parent for folder in folders):
        for folder in subfolders(parent):
            if folder not in folders and not any(path.is_file() for path in folder.rglob("*")):
                sentence = f"{folder}: an empty folder among categories; fill it or remove it."
                findings.append(Finding("empty", True, sentence, (folder,)))
    return findings


def _noted(category: Category, asked: bool = False) -> Category:
    """A category with what names and left-out files say; `asked` to take every image as a good one."""
    root, train = category.root, category.train
    notes = form_notes(root, [*train, *(sample.path for sample in category.test)])
    if category.layout == FOLDER:
        notes += label_notes(root, train, GO_ON, hard=not asked)
    elif category.layout != "visa":  # whose list says what an image is
        notes += label_notes(root / "train" / GOOD, train, f"move them out of {root / 'train' / GOOD}")
        notes += kind_notes(root / "test", category.test)
    if category.layout == "mvtec":  # others keep depth and labels in there
        notes += loose_notes(root, {*train, *(sample.path for sample in category.test)})
    return replace(category, notes=(*notes, *folder_notes(root)))


def _plain(root: Path) -> Category:
    """A folder of good images; refused where a data set lies deeper inside: its defects would be learned."""
    try:
        paths = find_images(root)
    except NoImagesError as error:
        shapes = "; ".join(f"{one.name} ({one.shape})" for one in LAYOUTS)
        raise InputError(
            f"{root}: no images found; expected {PLAIN}, a YAML file that lists folders, or categories in "
            f"one of these layouts: {shapes}{instead(root)}."
        ) from error
    parents = {parent for path in paths for parent in path.parents if root in parent.parents}
    for folder in sorted(parents, key=lambda parent: (len(parent.parts), parent)):
        one = _detect(folder, LAYOUTS)
        if one is not None:
            raise InputError(
                f"{root}: {folder} looks like a category ({one.name}) of a data set deeper inside; give "
                f"{folder.parent}, or --layout {FOLDER} to take every image as a good one."
            )
    return Category(own_name(root), root, tuple(paths), ())
