"""Files of the Hugging Face hub: from the local cache, or else from the network."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mendiff.errors import InputError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(text: str) -> bool:
    """Whether a text can be a repository name, such as stable-diffusion-v1-5/stable-diffusion-v1-5."""
    named = HUB_ID.fullmatch(text) is not None and not text.startswith((".", "/"))
    return named and Path(text).suffix not in (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


def hub_file(repository: str, *names: str) -> Path:
    """The first of the named files that is in the cache, or else that the hub provides.

    Args:
        repository: repository such as timm/resnet50.a1_in1k.
        names: file names in order of preference.

    Raises:
        InputError: if none is available; the message has the command that downloads the first.
    """
    for name in names:
        kept = cached_file(repository, name)
        if kept is not None:
            return kept
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reasons: list[Exception] = []
    for name in names:
        try:
            with _silent():
                return Path(hf_hub_download(repository, name))
        except Exception as error:  # network errors differ between versions of the package
            reasons.append(error)
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                break  # the other names would fail in the same way
    raise InputError(
        f"{repository}: expected {names[0]} in the hub's cache, but it is not there, and "
        f"{_why(reasons[-1])}; where there is a network: hf download {repository} {names[0]}"
    ) from reasons[-1]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the hub client's log for the attempts; a single error reports the result."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def cached_file(repository: str, name: str) -> Path | None:
    """The cached file of a repository, or None if it is not in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise InputError(
            f"{repository}: expected a name such as stable-diffusion-v1-5/stable-diffusion-v1-5 "
            f"({str(error).splitlines()[0]})"
        ) from error


def _why(reason: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE disables the network"
    sentences = {  # subclasses before their parents
        GatedRepoError: "it is only available after accepting its terms (hf auth login)",
        RepositoryNotFoundError: "the hub has no such repository",
        LocalEntryNotFoundError: "the hub can't be reached",
        EntryNotFoundError: "the repository has no such file",
    }
    found = next((text for kind, text in sentences.items() if isinstance(reason, kind)), None)
    return found or f"the download failed ({type(reason).__name__})"
