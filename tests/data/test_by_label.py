"""Folders that are named after labels: only good images are trained on, and how they were read is told."""

import pytest

from mendiff.data.dataset import open_data, read_data
from mendiff.data.folders import subfolders
from mendiff.errors import InputError


def told(root):
    """Sentences of what reading has found, without errors."""
    (category,), findings = read_data(root)
    notes = [*findings, *category.notes]
    assert not any(note.hard for note in notes)
    return [note.sentence for note in notes]


def names(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("OK", "NG"),
        ("ok", "ko"),
        ("Normal", "Abnormal"),
        ("good", "bad"),
        ("PASS", "FAIL"),
        ("defect-free", "defective"),
        ("normal_dir", "abnormal_dir"),
        ("io", "nio"),
        ("gut", "Fehler"),
        ("bon", "défaut"),
        ("buenas", "malas"),
        ("buono", "difettoso"),
        ("正常", "缺陷"),
        ("良品", "不良品"),
        ("양품", "불량"),
    ],
)
def test_good_and_defective_folders_are_read_by_their_names_and_that_is_told(tmp_path, put, good, bad):
    for index in range(10):
        put(tmp_path / f"set/{good}/{index}.png")
    put(tmp_path / f"set/{bad}/x.png")

    (category,) = open_data(tmp_path / "set")

    assert category.layout == "by-label"
    assert names(category.train) == [f"{index}.png" for index in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [(s.path.name, s.is_good) for s in category.test] == [
        ("4.png", True),
        ("9.png", True),
        ("x.png", False),
    ]
    (sentence,) = told(tmp_path / "set")
    assert f"good in {good}, defective in {bad}" in sentence
    assert "every fifth good image (2 in all) is a test image" in sentence


def test_anomalibs_folders_are_all_used_with_masks_of_the_same_names(tmp_path, put, put_mask):
    for index in range(6):
        put(tmp_path / f"normal_dir/{index}.png")
    put(tmp_path / "normal_test_dir/a.png")
    for name in ("0", "1"):
        put(tmp_path / f"abnormal_dir/{name}.png")
        put_mask(tmp_path / f"mask_dir/{name}.png")

    (category,) = open_data(tmp_path)

    assert len(category.train) == 6
    assert [(s.label, s.path.name, names(s.masks)) for s in category.test] == [
        ("good", "a.png", []),
        ("abnormal_dir", "0.png", ["0.png"]),
        ("abnormal_dir", "1.png", ["1.png"]),
    ]
    assert "every fifth" not in told(tmp_path)[0]


def test_folders_inside_a_defective_one_are_defect_types(tmp_path, put, put_mask):
    for index in range(5):
        put(tmp_path / f"ok/{index}.png")
    for kind in ("bent", "dirty"):
        put(tmp_path / f"ng/{kind}/0.png")
        put_mask(tmp_path / f"masks/{kind}/0.png")

    (category,) = open_data(tmp_path)

    bad = [sample for sample in category.test if not sample.is_good]
    assert [(s.label, s.mask_path.parent.name) for s in bad] == [("bent", "bent"), ("dirty", "dirty")]


def test_a_folder_of_any_name_is_a_defect_type_if_the_masks_have_one_of_that_name(tmp_path, put, put_mask):
    for index in range(5):
        put(tmp_path / f"good/{index}.png")
    put(tmp_path / "crack/0.jpg")
    put_mask(tmp_path / "mask/crack/0.png")

    (category,) = open_data(tmp_path)

    assert [s.label for s in category.test] == ["good", "crack"]
    put(tmp_path / "monday/0.png")
    with pytest.raises(InputError, match="expected good images only, but mask, crack, monday in it may hold"):
        open_data(tmp_path)


def test_an_empty_defective_folder_or_loose_images_are_no_labels(tmp_path, put):
    put(tmp_path / "a/OK/0.png")
    (tmp_path / "a/NG").mkdir()
    for place in ("OK/0", "NG/0", "1"):
        put(tmp_path / f"b/{place}.png")

    assert [category.layout for category in open_data(tmp_path / "a")] == ["folder"]
    with pytest.raises(InputError, match="expected good images only, but NG in it may hold"):
        open_data(tmp_path / "b")


def test_several_such_folders_are_categories(tmp_path, put):
    for name in ("bolt", "nut"):
        for index in range(5):
            put(tmp_path / f"{name}/OK/{index}.png")
        put(tmp_path / f"{name}/NG/0.png")

    assert [c.name for c in open_data(tmp_path)] == [path.name for path in subfolders(tmp_path)]


def test_defective_names_inside_the_good_folder_are_refused(tmp_path, put):
    for place in ("OK/0", "OK/NG/1", "NG/2"):
        put(tmp_path / f"{place}.png")

    with pytest.raises(InputError, match="OK: expected good images only, but NG in it"):
        open_data(tmp_path)
