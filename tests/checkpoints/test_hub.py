import logging

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from mendiff.checkpoints.hub import hub_file, is_hub_id
from mendiff.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timm/resnet50.a1_in1k", True),
        ("CompVis/stable-diffusion-v1-4", True),
        ("resnet50", False),
        ("a/b/c", False),
        ("./sd", False),
        ("../sd", False),
        ("/sd", False),
        ("models/v1-5-pruned.ckpt", False),
        ("", False),
    ],
)
def test_ids_are_told_from_paths(text, expected):
    assert is_hub_id(text) is expected


@pytest.fixture
def online(cache, monkeypatch):
    """A hub whose answers are given by name: a path, or an error to raise; notes what it was asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked, kept = [], huggingface_hub.hf_hub_download

    def serve(answers):
        def download(repository, name, local_files_only=False):
            if local_files_only:
                return kept(repository, name, local_files_only=True)
            asked.append(name)
            if isinstance(answers[name], Exception):
                raise answers[name]
            return answers[name]

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return serve


def raised(kind):
    """An error of a kind, without the answer of a server that its constructor wants."""
    return type(kind.__name__, (kind,), {"__init__": lambda self: Exception.__init__(self)})()


def test_the_cache_comes_before_the_network_for_every_name(online, cache, tmp_path):
    (tmp_path / "file").write_text("x")
    place = cache("a/b", "second", tmp_path / "file")
    asked = online({})
    assert hub_file("a/b", "first", "second") == place
    assert asked == []


def test_a_file_that_the_repository_has_not_is_asked_for_by_its_next_name(online, tmp_path):
    asked = online({"first": raised(errors.EntryNotFoundError), "second": str(tmp_path)})
    assert hub_file("a/b", "first", "second") == tmp_path
    assert asked == ["first", "second"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (errors.LocalEntryNotFoundError, "the hub can't be reached"),
        (errors.RepositoryNotFoundError, "the hub has no such repository"),
        (errors.GatedRepoError, r"only available after accepting its terms \(hf auth login\)"),
        (TimeoutError, r"the download failed \(TimeoutError\)"),
    ],
)
def test_why_the_hub_gave_nothing_is_said_once(online, kind, sentence):
    asked = online({"first": raised(kind), "second": raised(kind)})
    with pytest.raises(
        InputError, match=rf"a/b: expected first in the hub's cache.*{sentence}.*hf download a/b"
    ):
        hub_file("a/b", "first", "second")
    assert asked == ["first"]


def test_a_repository_without_the_file_is_said_to_have_none(online):
    online({"first": raised(errors.EntryNotFoundError)})
    with pytest.raises(
        InputError, match="the repository has no such file; where there is a network: hf download"
    ):
        hub_file("a/b", "first")


def test_an_impossible_name_is_refused(cache):
    with pytest.raises(InputError, match=r"a\.\.b/c: expected a name such as"):
        hub_file("a..b/c", "first")


def test_attempts_that_fail_are_not_told_one_by_one(online, monkeypatch):
    told, client = [], logging.getLogger("huggingface_hub.utils")
    online({})

    def download(repository, name, local_files_only=False):
        if local_files_only:
            raise raised(errors.LocalEntryNotFoundError)
        told.append(client.isEnabledFor(logging.WARNING))
        raise raised(errors.LocalEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    before = client.isEnabledFor(logging.WARNING)
    with pytest.raises(InputError, match="the hub can't be reached"):
        hub_file("a/b", "first")
    assert told == [False]
    assert client.isEnabledFor(logging.WARNING) == before
