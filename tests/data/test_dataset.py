from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.data.dataset import open_data, read_data
from mendiff.errors import InputError


@pytest.fixture
def screw(tmp_path, put) -> Path:
    root = tmp_path / "data" / "screw"
    for name in (
        "train/good/1",
        "train/good/0",
        "test/good/0",
        "test/scratch/0",
        "test/scratch/1",
        "test/bent/0",
    ):
        put(root / f"{name}.png")
    for name in ("scratch/0_mask", "scratch/1", "bent/0_mask"):
        put(root / "ground_truth" / f"{name}.png")
    return root


def test_a_category_has_its_images_labels_and_masks_of_either_name(screw):
    (category,) = open_data(screw)

    assert (category.name, category.layout) == ("screw", "mvtec")
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


def test_masks_are_png_files_whatever_the_images_are(screw, put):
    (screw / "test" / "bent" / "0.png").unlink()
    put(screw / "test" / "bent" / "0.JPG")

    assert open_data(screw)[0].test[0].mask_path == screw / "ground_truth" / "bent" / "0_mask.png"


def test_of_several_masks_of_one_name_the_png_counts(screw, put):
    for ending in ("bmp", "tif"):
        put(screw / "ground_truth" / "bent" / f"0_mask.{ending}")

    assert open_data(screw)[0].test[0].mask_path.suffix == ".png"


def test_a_defective_image_without_mask_is_named(screw):
    (screw / "ground_truth" / "scratch" / "1.png").unlink()

    with pytest.raises(InputError, match=r"scratch/1\.png: no mask found; expected 1_mask\.png or 1\.png in"):
        open_data(screw)


def test_without_any_ground_truth_masks_are_optional(screw):
    for mask in (screw / "ground_truth").rglob("*.png"):
        mask.unlink()
    for folder in ("scratch", "bent", ""):
        (screw / "ground_truth" / folder).rmdir()

    (category,) = open_data(screw)

    assert len(category.test) == 4
    assert not category.has_masks


def test_a_mask_of_another_size_is_named_with_both_sizes(screw, put):
    put(screw / "ground_truth" / "bent" / "0_mask.png", size=(6, 5))

    with pytest.raises(InputError, match=r"bent/0_mask\.png.*12x10, got 6x5.*0\.png"):
        open_data(screw)


def test_a_mask_drawn_on_the_upright_image_fits_a_photo_that_is_stored_turned(screw):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((12, 10), dtype=np.uint8)).save(screw / "test" / "bent" / "0.png", exif=exif)

    assert open_data(screw)[0].test[0].label == "bent"


def test_an_unreadable_test_image_does_not_keep_a_category_from_opening(screw):
    (screw / "test" / "bent" / "0.png").write_bytes(b"not an image")

    assert len(open_data(screw)[0].test) == 4


def test_a_category_may_have_no_test(tmp_path, put):
    put(tmp_path / "train" / "good" / "0.png")

    assert open_data(tmp_path)[0].test == ()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("train/good", "no images found"), ("test/bent", "no images found"), ("test", "no sub-folders found")],
)
def test_an_empty_folder_is_named(tmp_path, put, folder, reason):
    put(tmp_path / "train" / "good" / "0.png")
    put(tmp_path / "ground_truth" / "bent" / "0.png")
    (tmp_path / "train" / "good" / "0.png").unlink() if folder == "train/good" else None
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    with pytest.raises(InputError, match=f"{folder}: {reason}"):
        open_data(tmp_path)


def test_open_data_takes_one_category_or_a_folder_of_them(screw, put):
    put(screw.parent / "nut" / "train" / "good" / "0.png")
    put(screw.parent / "papers" / "figure.png")

    assert [c.name for c in open_data(screw)] == ["screw"]
    assert [c.name for c in open_data(screw.parent)] == ["nut", "screw"]
    assert [c.name for c in open_data(screw.parent.parent)] == ["nut", "screw"]


def test_open_data_knows_the_name_of_the_current_folder(screw, monkeypatch):
    monkeypatch.chdir(screw / "train")

    assert open_data(Path(".."))[0].name == "screw"
    monkeypatch.chdir(screw)
    assert open_data(Path("."))[0].name == "screw"


def test_open_data_takes_any_folder_of_images_as_good_ones(tmp_path, put):
    put(tmp_path / "parts" / "monday" / "1.png")
    put(tmp_path / "parts" / "0.png")

    (category,) = open_data(tmp_path / "parts")

    assert (category.name, category.layout) == ("parts", "folder")
    assert [p.name for p in category.train] == ["0.png", "1.png"]
    assert category.test == ()


def test_a_category_without_good_training_images_is_not_mistaken_for_a_folder_of_good_ones(tmp_path, put):
    put(tmp_path / "screw" / "test" / "bent" / "0.png")

    for root in (tmp_path, tmp_path / "screw"):
        with pytest.raises(InputError, match="expected good images in train/good"):
            open_data(root)


def test_a_data_set_deep_inside_is_not_mistaken_for_good_images_unless_it_is_said_to_be(tmp_path, mvtec):
    mvtec(tmp_path / "a" / "b" / "c" / "screw")

    with pytest.raises(
        InputError, match=r"b/c/screw looks like a category .*give \S+/b/c, or --layout folder"
    ):
        open_data(tmp_path)

    (category,) = open_data(tmp_path, "folder")
    assert len(category.train) == 13


def test_a_folder_with_nothing_in_it_or_no_folder_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"no images found; expected a folder of good images.*train/good/rgb"
    ):
        open_data(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_data(tmp_path / "absent")
    (tmp_path / "list.txt").touch()
    with pytest.raises(InputError, match="expected a folder or a YAML file, got a different file"):
        open_data(tmp_path / "list.txt")


def test_a_layout_that_is_asked_for_must_be_there(screw):
    with pytest.raises(InputError, match=r"--layout: expected one of auto, bmad, .*, got 'zebra'"):
        open_data(screw, "zebra")
    with pytest.raises(
        InputError, match=r"expected categories in the layout bmad \(train/good, .*found none"
    ):
        open_data(screw, "bmad")
    assert open_data(screw, "mvtec") == open_data(screw)


def test_an_empty_folder_among_categories_is_an_error(screw):
    (screw.parent / "nut" / "train").mkdir(parents=True)

    with pytest.raises(InputError, match="nut: an empty folder among categories; fill it or remove it"):
        open_data(screw.parent)


def test_two_categories_of_one_name_are_an_error(tmp_path, mvtec):
    mvtec(tmp_path / "monday" / "screw")
    mvtec(tmp_path / "tuesday" / "screw")

    with pytest.raises(
        InputError, match=r"screw: 2 categories have this name \(\S+monday/screw and \S+tuesday"
    ):
        open_data(tmp_path)


def test_two_links_to_folders_of_one_name_are_two_categories(tmp_path, mvtec):
    mvtec(tmp_path / "1" / "screw")
    mvtec(tmp_path / "2" / "screw")
    (tmp_path / "set").mkdir()
    for name in "12":
        (tmp_path / "set" / f"line{name}").symlink_to(tmp_path / name / "screw")

    assert [c.name for c in open_data(tmp_path / "set")] == ["line1", "line2"]


def test_reading_goes_on_behind_a_category_that_can_not_be_read(screw, mvtec):
    (screw.parent / "bolt" / "test").mkdir(parents=True)
    (screw.parent / "clip" / "train" / "good").mkdir(parents=True)
    (screw.parent / "clip" / "readme.txt").touch()

    categories, findings = read_data(screw.parent)

    assert [c.name for c in categories] == ["screw"]
    assert [(f.kind, f.hard, f.paths) for f in findings] == [
        ("layout", True, (screw.parent / "bolt",)),
        ("layout", True, (screw.parent / "clip",)),
    ]
