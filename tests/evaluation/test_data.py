from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.errors import InputError
from mendiff.evaluation.data import open_category, open_data, readable


def put_image(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), 200, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def screw(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "screw"
    for name in (
        "train/good/1",
        "train/good/0",
        "test/good/0",
        "test/scratch/0",
        "test/scratch/1",
        "test/bent/0",
    ):
        put_image(root / f"{name}.png")
    for name in ("scratch/0_mask", "scratch/1", "bent/0_mask"):
        put_image(root / "ground_truth" / f"{name}.png")
    return root


def test_a_category_has_its_images_labels_and_masks_of_either_name(screw: Path) -> None:
    category = open_category(screw)

    assert category.name == "screw"
    assert [p.name for p in category.train] == ["0.png", "1.png"]
    truth = screw / "ground_truth"
    assert [(s.path.relative_to(screw / "test").as_posix(), s.label, s.mask_path) for s in category.test] == [
        ("bent/0.png", "bent", truth / "bent" / "0_mask.png"),
        ("good/0.png", "good", None),
        ("scratch/0.png", "scratch", truth / "scratch" / "0_mask.png"),
        ("scratch/1.png", "scratch", truth / "scratch" / "1.png"),
    ]
    assert [s.is_good for s in category.test] == [False, True, False, False]
    assert category.has_masks


def test_masks_are_png_files_whatever_the_images_are(screw: Path) -> None:
    (screw / "test" / "bent" / "0.png").unlink()
    put_image(screw / "test" / "bent" / "0.JPG")

    assert open_category(screw).test[0].mask_path == screw / "ground_truth" / "bent" / "0_mask.png"


def test_a_defective_image_without_mask_is_named(screw: Path) -> None:
    (screw / "ground_truth" / "scratch" / "1.png").unlink()

    with pytest.raises(InputError, match=r"scratch/1\.png: no mask found"):
        open_category(screw)


def test_without_any_ground_truth_masks_are_optional(screw: Path) -> None:
    for mask in (screw / "ground_truth").rglob("*.png"):
        mask.unlink()
    for folder in ("scratch", "bent", ""):
        (screw / "ground_truth" / folder).rmdir()

    category = open_category(screw)

    assert len(category.test) == 4
    assert not category.has_masks


def test_a_mask_of_another_size_is_named_with_both_sizes(screw: Path) -> None:
    put_image(screw / "ground_truth" / "bent" / "0_mask.png", size=(6, 5))

    with pytest.raises(InputError, match=r"bent/0_mask\.png.*12x10, got 6x5.*0\.png"):
        open_category(screw)


def test_a_mask_drawn_on_the_upright_image_fits_a_photo_that_is_stored_turned(screw: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((12, 10), dtype=np.uint8)).save(screw / "test" / "bent" / "0.png", exif=exif)

    assert open_category(screw).test[0].label == "bent"


def test_an_unreadable_test_image_does_not_keep_a_category_from_opening(screw: Path) -> None:
    (screw / "test" / "bent" / "0.png").write_bytes(b"not an image")

    category = open_category(screw)
    good, bad = readable(s.path for s in category.test)

    assert len(good) == 3
    assert [path for path, _ in bad] == [screw / "test" / "bent" / "0.png"]
    assert "not an image" in bad[0][1]


def test_truncated_images_are_split_off_with_a_sentence_and_the_others_stay(tmp_path: Path) -> None:
    whole, cut = put_image(tmp_path / "whole.png"), put_image(tmp_path / "cut.png", size=(300, 300))
    cut.write_bytes(cut.read_bytes()[:100])

    good, bad = readable([cut, whole])

    assert good == [whole]
    assert bad[0][0] == cut
    assert "truncated or damaged" in bad[0][1]


def test_a_category_may_have_no_test(tmp_path: Path) -> None:
    put_image(tmp_path / "train" / "good" / "0.png")

    assert open_category(tmp_path).test == ()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("train/good", "no images found"), ("test/bent", "no images found"), ("test", "no sub-folders found")],
)
def test_an_empty_folder_is_named(tmp_path: Path, folder: str, reason: str) -> None:
    put_image(tmp_path / "train" / "good" / "0.png")
    put_image(tmp_path / "ground_truth" / "bent" / "0.png")
    (tmp_path / "train" / "good" / "0.png").unlink() if folder == "train/good" else None
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    with pytest.raises(InputError, match=f"{folder}: {reason}"):
        open_category(tmp_path)


def test_open_data_takes_one_category_or_a_folder_of_them(screw: Path) -> None:
    put_image(screw.parent / "nut" / "train" / "good" / "0.png")
    put_image(screw.parent / "papers" / "figure.png")

    assert [c.name for c in open_data(screw)] == ["screw"]
    assert [c.name for c in open_data(screw.parent)] == ["nut", "screw"]


def test_open_data_takes_any_folder_of_images_as_good_ones(tmp_path: Path) -> None:
    put_image(tmp_path / "parts" / "monday" / "1.png")
    put_image(tmp_path / "parts" / "0.png")

    (category,) = open_data(tmp_path / "parts")

    assert category.name == "parts"
    assert [p.name for p in category.train] == ["0.png", "1.png"]
    assert category.test == ()


def test_a_category_without_good_training_images_is_not_mistaken_for_a_folder_of_good_ones(
    tmp_path: Path,
) -> None:
    put_image(tmp_path / "screw" / "test" / "bent" / "0.png")

    for root in (tmp_path, tmp_path / "screw"):
        with pytest.raises(InputError, match="expected good images in train/good"):
            open_data(root)


def test_a_folder_with_nothing_in_it_or_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images found"):
        open_data(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_data(tmp_path / "absent")
