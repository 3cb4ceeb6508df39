"""Names and renames that never take the place of what others put there."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.data import disk
from mendiff.data.disk import LONGEST, exchange, rename_new, short_name


@pytest.fixture(params=["flags", "no flags"])
def system(request, monkeypatch):
    """A system that knows Linux' flags of renaming, and one that does not."""
    if request.param == "no flags":
        monkeypatch.setattr(disk, "_renameat2", lambda *_: False)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_a_name_is_cut_to_what_file_systems_take_and_stays_apart(name):
    short = short_name(name)
    assert len(short.encode()) <= LONGEST
    assert (short == name) == (len(name.encode()) <= LONGEST)
    assert short_name(name + "x" * LONGEST) != short_name(name + "x" * LONGEST + "y")


def test_a_name_that_is_no_text_is_cut_too():
    name = os.fsdecode(b"\xe9" * 230)
    assert len(os.fsencode(short_name(name))) <= LONGEST


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.usefixtures("system")
def test_what_is_there_is_never_replaced(tmp_path, kind):
    (tmp_path / "page").write_text("new")
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft/x").write_text("new")
    there = tmp_path / "there"
    if kind == "folder":
        there.mkdir()
        (there / "mine").write_text("mine")
    elif kind == "file":
        there.write_text("mine")
    else:
        there.symlink_to(tmp_path / "nowhere")
    before = sorted(os.fspath(one) for one in tmp_path.rglob("*"))
    for source in ("page", "draft"):
        with pytest.raises(FileExistsError):
            rename_new(tmp_path / source, there)
    assert sorted(os.fspath(one) for one in tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("system")
def test_a_free_name_is_taken_and_an_empty_folder_replaced_by_a_folder(tmp_path):
    (tmp_path / "page").write_text("page")
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft/x").write_text("x")
    (tmp_path / "empty").mkdir()
    rename_new(tmp_path / "page", tmp_path / "new")
    rename_new(tmp_path / "draft", tmp_path / "empty")
    assert (tmp_path / "new").read_text() == "page"
    assert (tmp_path / "empty/x").read_text() == "x"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "new"]


@pytest.mark.usefixtures("system")
def test_two_places_change_their_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    exchange(tmp_path / "a", tmp_path / "b", tmp_path / "spare")
    assert sorted(one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*")) == [
        *("a", "a/b", "b", "b/a"),
    ]
