"""What names say of images."""

import unicodedata

import pytest

from mendiff.data.names import DEFECTIVE, GOOD, LABELS, is_good_alone, is_system_folder, meaning, twin_of

SAID = {
    GOOD: "OK ok good Good normal Normal_dir i.O. NoDefect defect-free defect_free good_no_3 OK2 gut 良品",
    DEFECTIVE: "NG ng NG-2024 NOK n.i.O. KO bad Bad_1 abnormal abnormal_dir anomaly Anomalies defect Defects "
    "defective defauts défauts Défectueux not_ok notGood not-good Ungood schlecht Fehler defecto difetti "
    "1st_2nd_ng 3a9f1c2d_defect "
    "不良品 不合格 缺陷图 불량",
    LABELS: "mask masks Mask_dir gt GT ground_truth Ground-Truth label labels annotations Segmentation 标注",
    "": "monday line1 ngoc okra scratch train images JPEGImages goodyear badger camera2 2024-05-01 maskros "
    "9f0bad31c7e2 4ok8x1ng5q2 e3b0c442-98fc-1c14-9afb-f4c8996fb9bad",
}


@pytest.mark.parametrize("said", SAID)
def test_a_name_says_what_its_whole_words_say(said):
    names = SAID[said].split()

    assert {name: meaning(name) for name in names} == dict.fromkeys(names, said)


def test_only_a_name_without_other_words_makes_test_images_good():
    good = ["OK", "ok", "good", "Good", "normal", "NoDefect", "defect_free", "OK2", "test_ok", "good_images"]
    others = ["n.i.O", "good_scratch", "normal_light", "bent"]

    assert [name for name in good + others if is_good_alone(name)] == good


def test_a_name_means_the_same_in_either_unicode_form():
    assert meaning(unicodedata.normalize("NFD", "défectueux")) == DEFECTIVE


@pytest.mark.parametrize(
    ("label", "image"),
    [
        ("Part3_label", "Part3"),
        ("part-3.mask", "part-3"),
        ("a b_GT", "a b"),
        ("mask_0001", "0001"),
        ("0576_seg", "0576"),
        ("Part3Label", "Part3"),
        ("Part3", ""),
        ("bitmask", ""),
        ("unlabeled_3", ""),
    ],
)
def test_a_label_picture_names_its_image(label, image):
    assert twin_of(label) == image


def test_system_folders_are_known_in_either_case():
    names = ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", "System Volume Information"]

    assert all(is_system_folder(name) for name in [*names, ".Trash-1000"])
    assert not is_system_folder("recycled_parts")
