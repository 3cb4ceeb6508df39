import json
import os

import pytest

from mendiff.errors import InputError
from mendiff.runs.places import MADE, check_output, new_folder, output_kind, resumable

KINDS = {
    "a model": ("config.json", {"format": "mendiff", "version": 1}),
    "a codec": ("config.json", {"format": "mendiff codec", "version": 1}),
    "tuned features": ("config.json", {"format": "mendiff features"}),
    "findings": ("predictions.json", {"model": "m", "threshold": 1.0, "images": [], "unreadable": []}),
    "a check": ("check.json", {"faults": 0, "findings": []}),
    "explanations": ("explain.json", {"models": [], "images": [], "complete": True}),
    "a demo": ("demo.json", {"mean": {}, "categories": {}, "seconds": 3.0}),
    "a run": ("run.json", {"format": "mendiff run"}),
    "a tuned model": ("tuning.json", {"changes": {}, "trials": []}),
    "a distilled model": ("distillation.json", {"start_timestep": 500, "rows": []}),
}


def fill(folder, name, content):
    folder.mkdir(parents=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_every_kind_of_output_is_told_from_the_others(tmp_path):
    assert {what for what, _, _ in MADE} == set(KINDS)
    for what, (name, content) in KINDS.items():
        assert output_kind(fill(tmp_path / what, name, content)) == what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"_class_name": "UNet2DModel"}),
        ("config.json", "{"),
        ("config.json", [1]),
        ("predictions.json", {"annotations": []}),
        ("letter.txt", "dear"),
    ],
)
def test_what_others_wrote_is_never_replaced(tmp_path, name, content):
    theirs = fill(tmp_path / "theirs", name, content)
    assert output_kind(theirs) is None
    with pytest.raises(InputError, match="--overwrite only replaces folders written by mendiff"):
        check_output(theirs, True, "a model")
    assert list(theirs.iterdir()) == [theirs / name]


def test_only_an_output_of_its_own_kind_is_replaced(tmp_path):
    model = fill(tmp_path / "model", *KINDS["a model"])
    check_output(model, True, "a model")
    with pytest.raises(InputError, match=r"only replaces findings here, .* holds a model; choose another"):
        check_output(model, True, "findings")
    with pytest.raises(InputError, match="it holds files; add --overwrite"):
        check_output(model, False, "a model")


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file/out", tmp_path / "file/deep/out"):
        with pytest.raises(InputError, match=r"expected a path in a folder, but .*file is a file"):
            check_output(out, False, "a model")


def test_a_place_that_may_not_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    asked = []

    def access(path, mode):
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(InputError, match=r"expected a writable folder, but .* is not writable"):
        check_output(tmp_path / "not/yet/there", False, "a model")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with new_folder(check_output(tmp_path / "out", False, "findings")) as draft:
        (draft / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    other = check_output(tmp_path / "other", False, "findings")
    with pytest.raises(FileNotFoundError), new_folder(other) as draft:
        (draft / "a").rename(draft / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("no room"), None])
def test_a_training_stays_exactly_as_long_as_it_can_be_gone_on_with(tmp_path, kept, error):
    checkpoint = tmp_path / "work/last.ckpt"

    def training():
        with resumable(checkpoint, tmp_path / "model"):
            checkpoint.parent.mkdir()
            if kept:
                checkpoint.write_text("weights")
            if error:
                raise error

    if error is None:
        training()
    elif kept and error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt, match="run the same command with --resume to continue"):
            training()
    else:
        with pytest.raises(type(error) if error is not KeyboardInterrupt else KeyboardInterrupt) as caught:
            training()
        assert "--resume" not in str(caught.value)
    assert checkpoint.parent.exists() == (kept and error is not None)
