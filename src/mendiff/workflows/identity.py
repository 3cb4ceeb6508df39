"""What a result depends on besides settings: contents of data and weights, device type, code.

Contents are compared by hash: moved files are equal, replaced files differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendiff import __version__
from mendiff.checkpoints.bundled import codec_folder
from mendiff.checkpoints.codecs import CONFIG, WEIGHTS
from mendiff.checkpoints.files import fingerprint, read_json, sha256_of, write_json
from mendiff.checkpoints.hub import cached_file
from mendiff.checkpoints.stable_diffusion import Sources, open_diffusion
from mendiff.data.dataset import Category
from mendiff.data.image_files import find_images
from mendiff.errors import InputError
from mendiff.nets.features import hub_id

if TYPE_CHECKING:
    from mendiff.workflows.spec import Job

PARTS = ("data", "files", "device", "code")
CODE = (".py", ".yaml", ".json", ".safetensors")
"""Files of the package that results depend on."""
PACKAGES = ("torch", "diffusers", "timm", "anomalib")


def identity(job: Job, categories: Sequence[Category]) -> dict[str, dict[str, str]]:
    """Everything that a job's results depend on: for each of PARTS a dict of names to hashes or texts.

    Args:
        job: names the files.
        categories: its data.

    Raises:
        InputError: for missing weights of Stable Diffusion; other missing files are ignored here.
    """
    return {
        "data": {one.name: category_fingerprint(one) for one in categories},
        "files": dict(file_hashes(job)),
        "device": {"device": job.device.partition(":")[0]},
        "code": code(),
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str] = PARTS) -> str:
    """The first difference between two identities, for messages; "" for equal identities."""
    for part in parts:
        old, new = before.get(part, {}), now.get(part, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _sentence(part, name, old.get(name), new.get(name))
    return ""


def _sentence(part: str, name: str, old: str | None, new: str | None) -> str:
    if part == "data":
        return f"data: images, masks or twins of {name} have changed"
    if part == "files":
        return f"{name}: {'content has changed' if old and new else 'added' if new else 'removed'}"
    if name == "sources":
        return "code: the files of the package mendiff have changed"
    return f"{'code: ' * (part == 'code')}{name}: {old or 'none'} before, {new or 'none'} now"


def category_fingerprint(category: Category) -> str:
    """Fingerprint of a category's images, masks, twins, labels and relative file names."""
    used = [("train", path) for path in category.train]
    for sample in category.test:
        used.append((f"test {sample.label}", sample.path))
        role = f"mask of {os.path.relpath(sample.path, category.root)}"
        used += [(role, mask) for mask in sample.masks if mask.is_file()]
        if sample.twin is not None:
            used.append((f"twin of {os.path.relpath(sample.path, category.root)}", sample.twin))
    return fingerprint(
        f"{role} {os.path.relpath(path, category.root)} {content(path)}" for role, path in used
    )


def file_hashes(job: Job) -> Iterator[tuple[str, str]]:
    """(name, hash of the content) of every file or folder of weights and textures that a job reads."""
    backbones = {"features_weights": job.weights}
    for part, name in job.from_hub.items():
        backbones[part] = cached_file(hub_id(name), "model.safetensors") if hub_id(name) else None
    for part, path in backbones.items():
        if path is not None and path.is_file():  # the job itself reports missing files
            yield part, content(path)
    if job.pretrained is not None:
        prompt = None if job.prompt is None else Path(job.prompt)
        sources = Sources(job.pretrained, prompt, codec=job.codec is None)
        found = open_diffusion(job.pretrained).find(sources)
        yield "pretrained", fingerprint(f"{part} {content(one)}" for part, one in found.items())
    if job.prompt is not None:
        if not Path(job.prompt).is_file():
            raise InputError(f"--prompt: expected an existing file, got {job.prompt}.")
        yield "prompt", content(Path(job.prompt))
    if job.codec is not None:
        folder = codec_folder(Path(job.codec))
        yield "codec", fingerprint(content(folder / name) for name in (CONFIG, WEIGHTS))
    if job.textures is not None:
        yield "textures", fingerprint(content(one) for one in find_images(Path(job.textures)))


def content(path: Path) -> str:
    """SHA-256 of a file, cached while size and modification time stay the same."""
    state = state_of(path)
    if state not in _HASHES:
        _HASHES[state] = sha256_of(path)
    return _HASHES[state]


State = tuple[str, int, int]
"""Path, size and modification time of a file, which identify its content."""
_HASHES: dict[State, str] = {}


def note_contents(file: Path, unreadable: Iterable[Path]) -> None:
    """Write the known hashes and unreadable images, for child processes."""
    hashes = [[*state, value] for state, value in _HASHES.items()]
    write_json(file, {"hashes": hashes, "unreadable": [str(path) for path in unreadable]})


def recall_contents(file: Path, categories: Sequence[Category]) -> list[Category] | None:
    """Read the file of `note_contents`; returns the categories without unreadable training images.

    None if there is no file, or if a training image has changed.
    """
    if not file.is_file():
        return None
    known = read_json(file)
    _HASHES.update({(path, size, changed): value for path, size, changed, value in known["hashes"]})
    if any(state_of(path) not in _HASHES for category in categories for path in category.train):
        return None
    unreadable = set(known["unreadable"])
    return [
        replace(one, train=tuple(path for path in one.train if str(path) not in unreadable))
        for one in categories
    ]


def state_of(path: Path) -> State:
    """Path, size and modification time of a file."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@cache
def code() -> dict[str, str]:
    """Versions of mendiff and its main dependencies, and a hash of mendiff's files.

    In an editable installation, files change without a new version.
    """
    root = Path(__file__).resolve().parents[1]
    files = [path for path in root.rglob("*") if path.suffix in CODE]
    sources = fingerprint(f"{path.relative_to(root).as_posix()} {sha256_of(path)}" for path in files)
    return {"mendiff": __version__, "sources": sources, **{name: version(name) for name in PACKAGES}}
