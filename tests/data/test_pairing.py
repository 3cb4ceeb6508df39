"""Which masks belong to which image."""

import pytest

from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data
from mendiff.data.masks import read_masks
from mendiff.data.pairing import find_masks
from mendiff.errors import InputError


def found(tmp_path, images, masks):
    """{image: its masks} by names, for empty files."""
    for folder, names in (("images", images), ("masks", masks)):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    paths = [tmp_path / "images" / name for name in images]
    some = find_masks(paths, tmp_path / "images", tmp_path / "masks")
    return {
        image: [path.relative_to(tmp_path / "masks").as_posix() for path in paths]
        for image, paths in zip(images, some, strict=True)
    }


@pytest.mark.parametrize(
    "mask",
    [
        *("7.png", "7_mask.png", "7_GT.bmp", "7-label.jpg", "mask_7.tif", "gt.7.png", "7Label.png"),
        *(
            "masks_7.png",
            "img_7_seg.png",
            "7/000.png",
            "7_mask_1.png",
            "7_1.png",
            "7 (2).png",
            "7_1_mask.png",
        ),
    ],
)
def test_a_mask_is_found_by_its_images_name_and_a_word(tmp_path, mask):
    assert found(tmp_path, ["7.png", "8.png"], [mask]) == {"7.png": [mask], "8.png": []}


@pytest.mark.parametrize(
    "masks",
    [
        ["7_mask_1.png", "7_mask_2.png"],
        ["7_mask.png", "7_mask_2.png"],
        ["7_1.png", "7_2.png"],
        ["7/0.png", "7/1.png"],
        ["7.png", "7_1.png"],
    ],
)
def test_numbered_masks_and_those_in_a_folder_of_its_name_are_all_of_an_image(tmp_path, masks):
    assert found(tmp_path, ["7.png", "8.png"], masks) == {"7.png": masks, "8.png": []}


def test_a_number_of_another_image_is_no_further_mask(tmp_path):
    images = ["7.png", "7_1.png"]
    assert found(tmp_path, images, images) == {"7.png": ["7.png"], "7_1.png": ["7_1.png"]}
    assert found(tmp_path / "b", images, ["7.png"]) == {"7.png": ["7.png"], "7_1.png": []}


def test_a_drawing_of_the_same_name_as_the_mask_is_not_joined_with_it(tmp_path):
    assert found(tmp_path, ["7.png"], ["7_mask.png", "7.png", "7_label.png"]) == {"7.png": ["7_mask.png"]}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["img_1.png", "img_2.png"], ["mask_1.png", "mask_2.png"]),
        (["Image-01.jpg", "Image-02.jpg"], ["gt_01.png", "gt_02.png"]),
    ],
)
def test_names_that_differ_in_words_only_are_paired(tmp_path, images, masks):
    assert found(tmp_path, images, masks) == {i: [m] for i, m in zip(images, masks, strict=True)}


def test_images_of_one_part_share_the_mask_of_their_common_name(tmp_path):
    images = ["7_front.png", "7_side.png", "8_front.png"]
    assert found(tmp_path, images, ["7_mask.png", "8.png"]) == {
        "7_front.png": ["7_mask.png"],
        "7_side.png": ["7_mask.png"],
        "8_front.png": ["8.png"],
    }
    assert found(tmp_path / "b", images, ["mask.png"]) == {image: ["mask.png"] for image in images}


def test_shared_masks_are_told_and_several_masks_are_joined(tmp_path, put, put_mask):
    put(tmp_path / "train/good/0.png")
    put(tmp_path / "test/good/1.png")
    for name in ("7_a", "7_b", "8"):
        put(tmp_path / f"test/bent/{name}.png")
    put_mask(tmp_path / "ground_truth/bent/7.png")
    for number in (1, 2):
        put_mask(tmp_path / f"ground_truth/bent/8_{number}.png", number)

    (category,) = open_data(tmp_path)

    assert [read_masks(sample).sum() for sample in category.test if not sample.is_good] == [9, 9, 9]
    ((kind, sentence),) = [(one.kind, one.sentence) for one in check_data([category])]
    assert kind == "shared mask"
    assert "1 images of" in sentence
    assert "such as" in sentence
    put_mask(tmp_path / "ground_truth/bent/8_2.png", 1, size=(6, 5))
    with pytest.raises(InputError, match=r"8_2\.png: a mask must have its image's size, 12x10, got 6x5"):
        open_data(tmp_path)


def test_masks_that_mark_the_good_pixels_are_inverted_if_the_list_says_so(tmp_path, put, put_mask):
    put(tmp_path / "ok/0.png")
    put(tmp_path / "bent/1.png")
    put_mask(tmp_path / "masks/1.png")
    text = "bolts: {train: ok, defective: bent, masks: masks"

    (tmp_path / "a.yaml").write_text(text + "}")
    (tmp_path / "b.yaml").write_text(text + ", inverted: true}")

    shares = [read_masks(open_data(tmp_path / name)[0].test[0]).sum() for name in ("a.yaml", "b.yaml")]
    assert shares == [9, 120 - 9]
