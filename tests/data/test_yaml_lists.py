"""Data sets that a YAML file describes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.data.dataset import open_data
from mendiff.errors import InputError


@pytest.fixture
def photos(tmp_path, put, put_mask):
    """A folder of photos in no layout: good, test-good, bent and dirty ones, and masks of both."""
    for place in ("good/a.png", "more/b.png", "test-good/c.png", "bent/d.jpg", "dirty/x/d.png"):
        put(tmp_path / "photos" / place)
    put_mask(tmp_path / "photos/masks/bent/d.png")
    put_mask(tmp_path / "photos/masks/dirty/x/d_mask.png")
    return tmp_path


def listed(folder, text):
    (folder / "parts.yaml").write_text(text)
    return open_data(folder / "parts.yaml")


FULL = """
bolts:
  train: [photos/good, photos/more]
  good: photos/test-good
  defective: [photos/bent, photos/dirty]
  masks: photos/masks
nuts: {train: photos/more}
"""


def test_a_list_names_folders_relative_to_itself(photos, monkeypatch):
    monkeypatch.chdir("/")

    bolts, nuts = listed(photos, FULL)

    inside = photos / "photos"
    assert (bolts.name, bolts.layout, nuts.name, nuts.test) == ("bolts", "yaml", "nuts", ())
    assert bolts.train == (inside / "good/a.png", inside / "more/b.png")
    assert [(s.path, s.label, s.mask_path) for s in bolts.test] == [
        (inside / "test-good/c.png", "good", None),
        (inside / "bent/d.jpg", "bent", inside / "masks/bent/d.png"),
        (inside / "dirty/x/d.png", "dirty", inside / "masks/dirty/x/d_mask.png"),
    ]


def test_masks_may_lie_in_one_folder_or_be_left_out(photos, put_mask):
    put_mask(photos / "photos/flat/d.png")
    one = "bolts: {train: photos/good, defective: photos/bent, masks: photos/flat}"
    none = "bolts: {train: photos/good, defective: photos/bent}"

    assert listed(photos, one)[0].test[0].mask_path == photos / "photos/flat/d.png"
    assert not listed(photos, none)[0].has_masks


def test_a_list_may_repeat_what_categories_share(photos):
    text = "a: &a {train: photos/good, good: photos/test-good}\nb: {<<: *a, train: photos/more}"

    first, second = listed(photos, text)

    assert first.test == second.test
    assert second.train == (photos / "photos/more/b.png",)


def test_images_of_one_name_do_not_share_a_mask_in_one_folder(photos, put, put_mask):
    put(photos / "photos/scratched/d.png")
    put_mask(photos / "photos/flat/d.png")
    text = "bolts: {train: photos/good, defective: [photos/bent, photos/scratched], masks: photos/flat}"

    with pytest.raises(InputError, match=r"flat/d\.png: expected a mask for every image, but .* share it"):
        listed(photos, text)


def test_a_list_needs_no_layout(photos):
    (photos / "parts.yml").write_text(FULL)

    with pytest.raises(
        InputError, match=r"--layout: expected no layout, since .* lists the folders, got 'bmad'"
    ):
        open_data(photos / "parts.yml", "bmad")


def test_a_missing_mask_is_named(photos):
    (photos / "photos/masks/bent/d.png").unlink()

    with pytest.raises(InputError, match=r"bent/d\.jpg: no mask found; expected d_mask\.png or d\.png in"):
        listed(photos, FULL)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected categories such as NAME: {train: FOLDER"),
        ("- photos/good", "expected categories such as NAME: {train: FOLDER"),
        ("bolts: [1", "expected YAML, but it can't be read"),
        ("bolts: photos/good", "bolts: expected at least train: FOLDER"),
        ("bolts: {good: photos/good}", "bolts: expected at least train: FOLDER"),
        ("bolts: {train: []}", "bolts: train: expected at least one folder of good images, got none"),
        (
            "bolts: {train: photos/goods}",
            "train: expected a folder, relative to this file, got 'photos/goods'",
        ),
        ("bolts: {train: [3]}", "train: expected a folder, relative to this file, got 3"),
        (
            "bolts: {train: photos/good, bad: x}",
            "expected some of train, good, defective, masks, inverted, got 'bad'",
        ),
        (
            "bolts: {train: photos/good, masks: [photos/good, photos/bent]}",
            "bolts: masks: expected one folder, got 2",
        ),
        ("bolts: {train: photos/more, defective: photos/good}", "can't be named good; rename it"),
        ("3: {train: photos/good}", "expected a category name that is valid as a folder name, got 3"),
        (
            "../up: {train: photos/good}",
            "expected a category name that is valid as a folder name, got '../up'",
        ),
        (
            "bolts: {train: photos/good}\nbolts: {train: photos/more}",
            "expected different names, got 'bolts' twice; rename one",
        ),
        ("bolts: {train: photos/good, train: photos/more}", "expected different names, got 'train' twice"),
        ("bolts: {train: photos}\n\tx", "expected YAML, but it can't be read"),
    ],
)
def test_what_is_wrong_with_a_list_is_one_sentence(photos, text, sentence):
    with pytest.raises(InputError, match=r"^\S") as refusal:
        listed(photos, text)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(text=st.text(st.sampled_from("ab:-[]{}&*!?|>'\"%@`#,\n\t 01~"), max_size=30))
def test_no_text_at_all_ends_in_anything_but_a_sentence(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("list")

    with pytest.raises(InputError):
        listed(folder, text)
