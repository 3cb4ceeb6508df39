"""Reads a YAML file that lists folders, for data sets without a known layout.

    bolts:                                  # any number of categories
      train: photos/good                    # good images to train on
      good: photos/test-good                # good images to test with (optional)
      defective: [photos/bent, photos/dirty]  # a folder's name is the defect type (optional)
      masks: photos/masks                   # masks/bent/NAME.png, or masks/NAME.png (optional)
      inverted: true                        # masks mark the good pixels (optional)

Each entry is a folder or a list of folders, relative to the file.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mendiff.data.folders import inside, own_name
from mendiff.data.image_files import find_images
from mendiff.data.labels import folder_notes, label_notes
from mendiff.data.pairing import annotation_files, labelled
from mendiff.data.samples import GOOD, Category, Sample
from mendiff.data.tree import EXAMPLE
from mendiff.errors import InputError

SUFFIXES = (".yaml", ".yml")
FOLDERS = ("train", "good", "defective", "masks")
KEYS = (*FOLDERS, "inverted")
ADVICE = "list each of its sub-folders with good images"
MERGE = "tag:yaml.org,2002:merge"


def read_listed(file: Path) -> list[Category]:
    """The categories of a YAML file; raises InputError if its form differs from the above."""
    described = _parse(file)
    if not isinstance(described, dict) or not described:
        raise InputError(f"{file}: expected categories such as {EXAMPLE}, got something else.")
    return [_category(file, name, entry) for name, entry in described.items()]


def _parse(file: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses duplicate keys, which YAML resolves silently; here they are duplicate categories."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
            twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
            if twice is not None:
                raise InputError(f"{file}: expected different names, got {twice!r} twice; rename one.")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{file}: expected YAML, but it can't be read ({detail}).") from error


def _category(file: Path, name: Any, entry: Any) -> Category:
    if not isinstance(name, str) or not name or name.startswith(".") or "/" in name or "\\" in name:
        raise InputError(f"{file}: expected a category name that is valid as a folder name, got {name!r}.")
    if not isinstance(entry, dict) or "train" not in entry:
        raise InputError(f"{file}: {name}: expected at least train: FOLDER, as in {EXAMPLE}.")
    unknown = [key for key in entry if key not in KEYS]
    if unknown:
        raise InputError(f"{file}: {name}: expected some of {', '.join(KEYS)}, got {unknown[0]!r}.")
    train, good, defective, masks = (_folders(file, f"{name}: {key}", entry.get(key)) for key in FOLDERS)
    if len(masks) > 1:
        raise InputError(f"{file}: {name}: masks: expected one folder, got {len(masks)}.")
    inverted = entry.get("inverted", False)
    if not isinstance(inverted, bool):
        raise InputError(f"{file}: {name}: inverted: expected true or false, got {inverted!r}.")
    if not train:
        raise InputError(f"{file}: {name}: train: expected at least one folder of good images, got none.")
    samples = [sample for folder in good for sample in labelled(folder, GOOD, None)]
    for folder in defective:
        found = _defective(folder, masks[0] if masks else None)
        samples += [replace(sample, inverted=inverted) for sample in found]
    images = {folder: find_images(folder) for folder in train}
    notes = [note for folder, some in images.items() for note in label_notes(folder, some, ADVICE)]
    notes += [note for folder in dict.fromkeys([*train, *good, *defective]) for note in folder_notes(folder)]
    listed = tuple(path for some in images.values() for path in some)
    return Category(name, file, listed, tuple(samples), "yaml", tuple(notes))


def _defective(folder: Path, masks: Path | None) -> list[Sample]:
    label = own_name(folder)
    if label == GOOD:
        raise InputError(f"{folder}: a folder of defective images can't be named {GOOD}; rename it.")
    if masks is not None and inside(masks, label).is_dir():
        masks = inside(masks, label)
    places = [folder, folder.parent, *([masks, masks.parent] if masks is not None else [])]
    return labelled(folder, label, masks, None, annotation_files(places))


def _folders(file: Path, field: str, entry: Any) -> list[Path]:
    """One or several existing folders, relative to the YAML file."""
    entries = entry if isinstance(entry, list) else [] if entry is None else [entry]
    folders = []
    for name in entries:
        if not isinstance(name, str) or not inside(file.parent, *Path(name).parts).is_dir():
            raise InputError(f"{file}: {field}: expected a folder, relative to this file, got {name!r}.")
        folders.append(inside(file.parent, *Path(name).parts))
    return folders
