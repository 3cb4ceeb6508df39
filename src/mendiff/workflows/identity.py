"""What a result depends on besides settings: the contents of data and weights, the kind of device, the code.

Contents are known by hashes, so that what lies at another place is the same, and what was exchanged is not.
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
from mendiff.checkpoints.pretrained import Sources, open_diffusion
from mendiff.data.dataset import Category
from mendiff.data.found import find_images
from mendiff.errors import InputError
from mendiff.nets.features import hub_id

if TYPE_CHECKING:
    from mendiff.workflows.spec import Job

PARTS = ("data", "files", "device", "code")
CODE = (".py", ".yaml", ".json", ".safetensors")
"""Files of the package that results depend on."""
PACKAGES = ("torch", "diffusers", "timm", "anomalib")


def identity(job: Job, categories: Sequence[Category]) -> dict[str, dict[str, str]]:
    """What a job's results depend on: PARTS to hashes or words by name.

    Args:
        job: whose places are looked up.
        categories: the data that it reads.

    Raises:
        InputError: for Stable Diffusion's weights that are nowhere; other files may turn up later.
    """
    return {
        "data": {one.name: category_fingerprint(one) for one in categories},
        "files": dict(file_hashes(job)),
        "device": {"device": job.device.partition(":")[0]},
        "code": code(),
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str] = PARTS) -> str:
    """The first thing that differs between two identities, for messages; empty where nothing does."""
    for part in parts:
        old, new = before.get(part, {}), now.get(part, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _told(part, name, old.get(name), new.get(name))
    return ""


def _told(part: str, name: str, old: str | None, new: str | None) -> str:
    if part == "data":
        return f"data: the images, masks or twins of {name} are not those of before"
    if part == "files":
        words = ("none", "one") if new else ("one", "none")
        return (
            f"{name}: other contents than before"
            if old and new
            else f"{name}: {words[0]} before, {words[1]} now"
        )
    if name == "sources":
        return "code: mendiff's own files have changed since"
    return f"{'code: ' * (part == 'code')}{name}: {old or 'none'} before, {new or 'none'} now"


def category_fingerprint(category: Category) -> str:
    """A fingerprint of a category's images, masks, twins and labels, and of their names below its folder."""
    used = [("train", path) for path in category.train]
    for sample in category.test:
        used.append((f"test {sample.label}", sample.path))
        if sample.mask_path is not None and sample.mask_path.is_file():
            used.append((f"mask of {os.path.relpath(sample.path, category.root)}", sample.mask_path))
        if sample.twin is not None:
            used.append((f"twin of {os.path.relpath(sample.path, category.root)}", sample.twin))
    return fingerprint(
        f"{role} {os.path.relpath(path, category.root)} {content(path)}" for role, path in used
    )


def file_hashes(job: Job) -> Iterator[tuple[str, str]]:
    """Every file or folder of weights and pictures that a job reads, with a hash of its content."""
    backbones = {"features_weights": job.weights}
    for part, name in job.from_hub.items():
        backbones[part] = cached_file(hub_id(name), "model.safetensors") if hub_id(name) else None
    for part, path in backbones.items():
        if path is not None and path.is_file():  # whether it must be there is for the job
            yield part, content(path)
    if job.pretrained is not None:
        prompt = None if job.prompt is None else Path(job.prompt)
        sources = Sources(job.pretrained, prompt, codec=job.codec is None)
        found = open_diffusion(job.pretrained).find(sources)
        yield "pretrained", fingerprint(f"{part} {content(one)}" for part, one in found.items())
    if job.prompt is not None:
        yield "prompt", _existing("--prompt", Path(job.prompt))
    if job.codec is not None:
        folder = codec_folder(Path(job.codec))
        yield "codec", fingerprint(content(folder / name) for name in (CONFIG, WEIGHTS))
    if job.textures is not None:
        yield "textures", fingerprint(content(one) for one in find_images(Path(job.textures)))


def _existing(option: str, path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{option}: expected a file, got {path}, where there is none.")
    return content(path)


def content(path: Path) -> str:
    """SHA-256 of a file, computed once a run as long as its size and its time stay."""
    state = state_of(path)
    if state not in _HASHES:
        _HASHES[state] = sha256_of(path)
    return _HASHES[state]


State = tuple[str, int, int]
"""Path, size and time of change of a file: while these stay, so does its content."""
_HASHES: dict[State, str] = {}


def note_contents(file: Path, unreadable: Iterable[Path]) -> None:
    """Write what is known of files' contents, for the processes that this one starts."""
    hashes = [[*state, one] for state, one in _HASHES.items()]
    write_json(file, {"hashes": hashes, "unreadable": [str(path) for path in unreadable]})


def recall_contents(file: Path, categories: Sequence[Category]) -> list[Category] | None:
    """Take up what `note_contents` wrote of categories: these without the training images that can't be read.

    None where nothing was written, or where one of their training images has changed since.
    """
    if not file.is_file():
        return None
    known = read_json(file)
    _HASHES.update({(path, size, changed): one for path, size, changed, one in known["hashes"]})
    if any(state_of(path) not in _HASHES for category in categories for path in category.train):
        return None
    lost = set(known["unreadable"])
    return [
        replace(one, train=tuple(path for path in one.train if str(path) not in lost)) for one in categories
    ]


def state_of(path: Path) -> State:
    """What tells whether a file is as it was."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@cache
def code() -> dict[str, str]:
    """Versions of mendiff and of what computes in it, and a hash of mendiff's own files.

    Files may change without a version, as where mendiff is installed to be worked on.
    """
    root = Path(__file__).resolve().parents[1]
    files = [path for path in root.rglob("*") if path.suffix in CODE]
    sources = fingerprint(f"{path.relative_to(root).as_posix()} {sha256_of(path)}" for path in files)
    return {"mendiff": __version__, "sources": sources, **{name: version(name) for name in PACKAGES}}
