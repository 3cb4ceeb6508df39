"""What is no image of a good part by its name or neighbours is never learned or inspected without a word."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data, read_data
from mendiff.data.labels import LIGHTS, inspected_notes
from mendiff.errors import InputError


def notes(root, layout="auto"):
    """(kind, hard, sentence) of what reading has found."""
    categories, findings = read_data(root, layout)
    findings = [*findings, *(note for category in categories for note in category.notes)]
    return [(one.kind, one.hard, one.sentence) for one in findings]


@pytest.mark.parametrize(
    ("good", "other"),
    [
        *[("normal_dir", "mask_dir"), ("normal_dir", "ground_truth2"), ("images", "labels")],
        *[
            ("good", "scratch"),
            ("ok", "dent"),
            ("a/b/good", "a/b/bent"),
            ("line1", "line1/NG"),
            ("x", "x/y/masks"),
        ],
        *[("2024", "test2/Test"), ("photos", "defect"), (".", "gt"), (".", "label")],
    ],
)
def test_a_folder_of_other_images_beside_or_among_good_ones_is_refused_and_named(tmp_path, put, good, other):
    for index in range(3):
        put(tmp_path / f"set/{good}/{index}.png")
        put(tmp_path / f"set/{other}/{index}.png")

    with pytest.raises(InputError, match="expected good images only, but ") as refusal:
        open_data(tmp_path / "set")
    assert other in str(refusal.value)
    assert "YAML" in str(refusal.value)
    assert "--layout folder" in str(refusal.value)

    (category,) = open_data(tmp_path / "set", "folder")
    assert len(category.train) == 6
    assert [(kind, hard) for kind, hard, _ in notes(tmp_path / "set", "folder")] == [("labels", False)]


def test_the_folder_of_good_images_is_named_where_there_is_one(tmp_path, put):
    for name in ("normal_dir", "mask_dir"):
        put(tmp_path / name / "0.png")

    with pytest.raises(InputError, match=rf"give {tmp_path}/normal_dir alone, or a YAML file"):
        open_data(tmp_path)
    assert [category.name for category in open_data(tmp_path / "normal_dir")] == ["normal_dir"]


@pytest.mark.parametrize(
    "folders", [("monday", "tuesday"), ("good1", "good2"), ("a/ok", "b/ok"), ("OK", "good")]
)
def test_folders_of_good_images_alone_are_taken_without_a_word(tmp_path, put, folders):
    for name in folders:
        put(tmp_path / f"set/{name}/0.png")

    assert notes(tmp_path / "set") == []


def test_a_folder_that_is_named_as_no_good_one_is_taken_with_a_word(tmp_path, put):
    put(tmp_path / "NG/0.png")

    ((kind, hard, sentence),) = notes(tmp_path / "NG")
    assert (kind, hard) == ("labels", False)
    assert "the name of this folder says otherwise" in sentence


@pytest.mark.parametrize(
    "twin",
    ["{}_label.bmp", "{}_mask.png", "{}-gt.tif", "{}.seg.png", "mask_{}.png", "{}_GT.jpg", "{}Label.png"],
)
def test_label_pictures_beside_their_images_are_refused_with_an_example(tmp_path, put, put_mask, twin):
    for index in range(4):
        put(tmp_path / f"Part{index}.jpg")
    for index in range(2):  # a label for the defective ones is enough
        put_mask(tmp_path / twin.format(f"Part{index}"))

    with pytest.raises(
        InputError, match=r"2 of 6 are label images of others according to their names, such as .* of Part0"
    ):
        open_data(tmp_path)
    assert len(open_data(tmp_path, "folder")[0].train) == 6


def test_masks_that_share_their_images_name_are_refused_and_other_pairs_are_not(tmp_path, put, put_mask):
    for index in range(4):
        put(tmp_path / f"masked/{index}.jpg")
        put_mask(tmp_path / f"masked/{index}.png")
        put(tmp_path / f"photos/{index}.jpg")
        put(tmp_path / f"photos/{index}.png")

    with pytest.raises(
        InputError, match=r"4 of 8 are label images of others according to their names, such as 0\.png of 0"
    ):
        open_data(tmp_path / "masked")
    assert notes(tmp_path / "photos") == []


def test_names_of_files_that_say_good_and_bad_are_refused(tmp_path, put):
    for name in ("OK_1", "OK_2", "NG_1"):
        put(tmp_path / f"{name}.png")

    with pytest.raises(
        InputError, match=r"1 of 3 may be defective images or labels according to their names, such as NG_1"
    ):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("ordinary", "odd", "hard"),
    [
        ("000", "bad_01", False),
        ("IMG_1", "NG-12", False),
        ("part3", "20240101_NG_cam1", False),
        ("7", "7-scratch", False),
        ("a", "Kratzer2", False),
        ("good_1", "scratch_1", True),
        ("OK1", "n.i.O._4", True),
    ],
)
def test_a_defective_name_among_others_is_refused_or_gets_a_word(tmp_path, put, ordinary, odd, hard):
    for name in (ordinary, f"{ordinary}5", odd):
        put(tmp_path / f"set/{name}.png")

    ((kind, found, sentence),) = notes(tmp_path / "set")
    assert (kind, found) == ("labels", hard)
    assert f"1 of 3 may be defective images or labels according to their names, such as {odd}.png" in sentence


def test_a_defect_type_in_the_name_of_all_parts_is_the_name_of_the_part(tmp_path, put):
    for index in range(3):
        put(tmp_path / f"set/hole_plate_{index}.png")

    assert notes(tmp_path / "set") == []


def test_names_of_files_that_say_bad_alone_get_a_word(tmp_path, put):
    for name in ("a", "b", "defect_3"):
        put(tmp_path / f"set/{name}.png")

    assert [(kind, hard) for kind, hard, _ in notes(tmp_path / "set")] == [("labels", False)]


@pytest.mark.parametrize("place", ["train/good/NG", "train/good/a/masks", "test/good/bad", "test/bent/mask"])
def test_what_lies_among_the_images_of_a_layout_is_refused_as_well(tmp_path, mvtec, put, place):
    plate = mvtec(tmp_path / "plate")
    shutil.rmtree(plate / "ground_truth")
    put(plate / place / "9.png")

    with pytest.raises(InputError, match="expected good images only, but ") as refusal:
        open_data(tmp_path)
    assert place.rpartition("/")[2] in str(refusal.value)


def test_masks_as_a_kind_of_defect_get_a_word(tmp_path, mvtec):
    plate = mvtec(tmp_path / "plate", ("bent", "masks"))

    ((kind, hard, sentence),) = notes(plate)
    assert (kind, hard) == ("labels", False)
    assert "test/masks: 2 images are labelled as the defect masks" in sentence


def test_a_yaml_file_names_folders_one_by_one(tmp_path, put):
    for name in ("photos/a/0", "photos/NG/0"):
        put(tmp_path / f"{name}.png")
    (tmp_path / "parts.yaml").write_text("bolts: {train: photos}")

    with pytest.raises(
        InputError, match=r"but NG in it may .*; list each of its sub-folders with good images"
    ):
        open_data(tmp_path / "parts.yaml")
    (tmp_path / "parts.yaml").write_text("bolts: {train: photos/a}")
    assert len(open_data(tmp_path / "parts.yaml")[0].train) == 1


@pytest.mark.parametrize("name", ["OK", "ok", "Good", "normal", "i.O.", "defect_free"])
@pytest.mark.parametrize("beside", [True, False])
def test_good_test_images_of_another_name_are_no_kind_of_defect_and_that_is_said(
    tmp_path, mvtec, put, name, beside
):
    plate = mvtec(tmp_path / "plate")
    if not beside:
        shutil.rmtree(plate / "test/good")
    put(plate / "test" / name / "7.png")

    (category,) = open_data(plate)
    assert sorted({sample.label for sample in category.test}) == ["bent", "good", "scratch"]
    assert category.has_masks
    ((kind, hard, sentence),) = notes(plate)
    assert (kind, hard) == ("label", False)
    assert f"test/{name}: 1 test images are treated as good" in sentence


@pytest.mark.parametrize("names", [("parts",), ("ok", "normal"), ("ng",)])
def test_the_training_folders_that_are_there_are_named_with_the_way_by_yaml(tmp_path, put, names):
    for name in names:
        put(tmp_path / f"train/{name}/0.png")
    put(tmp_path / "test/ko/0.png")

    found = " and ".join(f"train/{name}" for name in sorted(names))
    with pytest.raises(
        InputError,
        match=rf"expected good images in train/good, found {found}; .*YAML file: NAME: {{train: FOLD",
    ):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train/ok", "test/ok"), ("train/OK", "test/OK"), ("Train/Good", "Test/Good"), ("train", "test/good")],
)
def test_good_images_of_another_name_are_read_without_a_word(tmp_path, put, put_mask, train, test):
    put(tmp_path / f"{train}/0.png")
    put(tmp_path / f"{test}/1.png")
    put(tmp_path / f"{test.split('/')[0]}/ko/2.png")
    put_mask(tmp_path / "Ground_Truth/KO/2.bmp")

    (category,) = open_data(tmp_path)

    assert [path.name for path in category.train] == ["0.png"]
    assert [(s.label, s.path.name, len(s.masks)) for s in category.test] == [
        *[("good", "1.png", 0), ("ko", "2.png", 1)][:: 1 if test.split("/")[1] < "ko" else -1]
    ]
    assert notes(tmp_path) == []


def test_system_folders_are_no_kinds_of_defects_and_are_named(tmp_path, mvtec, put):
    plate = mvtec(tmp_path / "plate")
    for name in ("@eaDir", "__MACOSX", "lost+found", ".Trash"):
        put(plate / "test" / name / "x.png")
    put(plate / "train/good/@eaDir/000.png/THUMB.jpg")

    (category,) = open_data(plate)
    assert {sample.label for sample in category.test} == {"good", "bent", "scratch"}
    assert len(category.train) == 3
    assert [kind for kind, _, _ in notes(plate)] == ["left out"] * 4
    told = [sentence for _, _, sentence in notes(plate)]
    assert f"{plate}: 2 files are ignored (system folder @eaDir), such as {plate}/test/@eaDir/x.png." in told


def test_findings_among_images_are_left_out_and_named(tmp_path, put):
    put(tmp_path / "set/a.png")
    put(tmp_path / "set/findings/heat_maps/a.png")
    (tmp_path / "set/findings/predictions.json").write_text('{"threshold": 1, "unreadable": []}')

    (category,) = open_data(tmp_path / "set")
    assert [path.name for path in category.train] == ["a.png"]
    assert "1 file is ignored (findings that mendiff wrote)" in notes(tmp_path / "set")[0][2]


def test_files_of_other_types_and_further_frames_are_counted_by_reason(tmp_path, put):
    put(tmp_path / "set/a.png")
    for index in range(3):
        (tmp_path / f"set/{index}.heic").touch()
    frames = [Image.fromarray(np.full((9, 9), level, np.uint8)) for level in (1, 2, 3)]
    frames[0].save(tmp_path / "set/b.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "set/readme.txt").touch()

    assert [(kind, sentence.partition(": ")[2]) for kind, _, sentence in notes(tmp_path / "set")] == [
        ("left out", f"3 files are ignored (type .heic), such as {tmp_path}/set/0.heic."),
        ("frames", f"1 image has 2 further frames, ignored: {tmp_path}/set/b.tif; {LIGHTS}"),
    ]


def test_images_of_a_layout_that_no_folder_of_it_holds_are_counted(tmp_path, mvtec, put):
    plate = mvtec(tmp_path / "plate")
    for name in ("test/loose.png", "train/loose.png", "train/more/0.png"):
        put(plate / name)

    ((kind, hard, sentence),) = notes(plate)
    assert (kind, hard) == ("left out", False)
    assert (
        "3 images are outside of the folders that are read (train/good, test/LABEL), such as "
        f"{plate}/train/loose" in sentence
    )


def test_labels_among_images_to_inspect_get_a_word(tmp_path, put, put_mask):
    put(tmp_path / "clean/NG/0.png")  # defects are what is looked for
    put(tmp_path / "folders/images/0.png")
    put_mask(tmp_path / "folders/masks/0.png")
    put(tmp_path / "twins/0.jpg")
    put_mask(tmp_path / "twins/0_label.png")

    assert inspected_notes(tmp_path / "clean") == []
    assert inspected_notes(tmp_path / "twins/0_label.png") == []
    assert "but masks in it may hold labels" in inspected_notes(tmp_path / "folders")[0].sentence
    assert "1 of 2 are label images of others" in inspected_notes(tmp_path / "twins")[0].sentence


# ---- Unicode forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_images_and_masks_are_paired_in_either_unicode_form(tmp_path, mvtec, put, put_mask, forms):
    plate = mvtec(tmp_path / "plate", ())
    one, other = (unicodedata.normalize(form, "Tür") for form in forms)
    put(plate / f"test/{one}/{one}é/{one}.png")
    mask = put_mask(
        plate / f"ground_truth/{other}/{other}{unicodedata.normalize(forms[1], 'é')}/{other}_mask.png"
    )

    (category,) = open_data(plate)
    assert [sample.mask_path for sample in category.test if not sample.is_good] == [mask]
    assert notes(plate) == []


def test_two_images_whose_names_differ_in_their_unicode_form_alone_are_named(tmp_path, put):
    for form in ("NFC", "NFD"):
        put(tmp_path / "set" / unicodedata.normalize(form, "Tür.png"))

    ((kind, hard, sentence),) = notes(tmp_path / "set")
    assert (kind, hard) == ("label", False)
    assert "1 pairs of images have names that differ only in their Unicode normalisation" in sentence


def test_every_image_keeps_its_own_mask_where_both_forms_are_there(tmp_path, mvtec, put, put_mask):
    plate = mvtec(tmp_path / "plate", ())
    names = [unicodedata.normalize(form, "Tür") for form in ("NFC", "NFD")]
    for name in names:
        put(plate / f"test/bent/{name}.png")
        put_mask(plate / f"ground_truth/bent/{name}_mask.png")

    pairs = {s.path.stem: s.mask_path.stem for s in open_data(plate)[0].test if not s.is_good}
    assert pairs == {name: f"{name}_mask" for name in names}


# ---- equal pictures ----------------------------------------------------------------------------------


def test_equal_pictures_are_told_once_for_all_that_the_same_folders_share(tmp_path, mvtec):
    for name in ("b", "c"):
        shutil.copytree(
            mvtec(tmp_path / "set/a") if name == "b" else tmp_path / "set/a", tmp_path / f"set/{name}"
        )

    findings = check_data(open_data(tmp_path / "set"))

    assert [(one.kind, len(one.paths)) for one in findings] == [("duplicate", 9), *[("duplicate", 6)] * 3]
    first = findings[0].sentence
    assert "a/train/good: 3 training images are equal to those in " in first
    assert "b/train/good and " in first
    assert not any("keep one" in one.sentence or "remove" in one.sentence for one in findings)


def test_equal_pictures_of_one_folder_are_one_line_with_a_count(tmp_path, put):
    for index in range(5):
        shutil.copy(put(tmp_path / f"set/{index}.png"), tmp_path / f"set/{index}-copy.png")

    (finding,) = check_data(open_data(tmp_path / "set"))
    assert "0-copy.png: equal to " in finding.sentence
    assert ", and 4 more duplicated images; keep one." in finding.sentence
    assert len(finding.paths) == 10
