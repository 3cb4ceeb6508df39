"""What is found wrong with a data set before work starts."""

import io
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mendiff.data import checks
from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data, read_data
from mendiff.data.samples import ImageCheck


@pytest.fixture
def plate(tmp_path, mvtec):
    return mvtec(tmp_path / "set" / "plate")


def found(root, **changes):
    """(kind, hard, names of the files or folders) of all findings."""
    categories, findings = read_data(root)
    findings += check_data([replace(category, **changes) for category in categories])
    return [(f.kind, f.hard, [path.relative_to(root).as_posix() for path in f.paths]) for f in findings]


def sentence(root):
    categories, findings = read_data(root)
    (finding,) = findings + check_data(categories)
    return finding.sentence


def test_a_clean_data_set_has_no_findings(plate, mvtec):
    mvtec(plate.parent / "nut")

    assert found(plate.parent) == []


def test_every_image_and_mask_is_counted_once_in_the_progress(plate):
    calls = []
    check_data(open_data(plate), lambda done, total, note: calls.append((done, total)))

    assert calls == [(done, 9) for done in range(1, 10)]


def test_clean_twins_must_be_readable_of_their_images_size_and_another_picture(plate, put):
    for number, label in ((0, "bent"), (1, "bent"), (0, "scratch"), (1, "scratch")):
        put(plate / f"twin/{label}/{number:03}.png")
    assert found(plate) == []
    put(plate / "twin/bent/000.png", (6, 5))
    (plate / "twin/bent/001.png").write_bytes(b"no image")
    shutil.copy(plate / "test/scratch/000.png", plate / "twin/scratch/000.png")
    assert found(plate) == [
        ("twin", False, [f"test/{name}.png", f"twin/{name}.png"])
        for name in ("bent/000", "bent/001", "scratch/000")
    ]
    categories, _ = read_data(plate)
    told = [one.sentence for one in check_data(categories)]
    assert "expected the size of its image, 12x10, got 6x5; it is ignored" in told[0]
    assert "the two are equal" in told[2]


def test_all_faults_are_found_at_once_the_hard_ones_first(plate, put, put_mask):
    truth = plate / "ground_truth"
    (truth / "bent/001_mask.png").unlink()
    put_mask(truth / "scratch/000_mask.png", size=(6, 5))
    put_mask(truth / "bent/000_mask.png", 0)
    (truth / "scratch/001_mask.png").write_bytes(b"no mask")
    (plate / "train/good/000.png").write_bytes(b"no image")
    shutil.copy(plate / "test/good/000.png", plate / "train/good/copy.png")

    assert found(plate) == [
        ("missing mask", True, ["test/bent/001.png", "ground_truth/bent/001_mask.png"]),
        ("mask size", True, ["test/scratch/000.png", "ground_truth/scratch/000_mask.png"]),
        ("unreadable mask", True, ["test/scratch/001.png", "ground_truth/scratch/001_mask.png"]),
        ("unreadable", False, ["train/good/000.png"]),
        ("empty mask", False, ["test/bent/000.png", "ground_truth/bent/000_mask.png"]),
        ("overlap", False, ["test/good/000.png", "train/good/copy.png"]),
    ]


def test_a_mask_that_is_cut_is_a_hard_fault_although_its_size_can_be_read(plate):
    mask = plate / "ground_truth/bent/000_mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (10, 12), dtype=np.uint8)).save(mask)
    mask.write_bytes(mask.read_bytes()[:80])

    assert found(plate) == [
        ("unreadable mask", True, ["test/bent/000.png", "ground_truth/bent/000_mask.png"]),
    ]


def test_an_image_that_can_not_be_read_is_named_once_and_its_mask_is_left_alone(plate):
    (plate / "test/bent/000.png").write_bytes(b"")
    (plate / "test/bent/001.png").write_bytes(b"")
    (plate / "train/good/000.png").write_bytes(b"")

    assert found(plate) == [
        ("unreadable", False, ["train/good/000.png"]),
        ("unreadable", False, ["test/bent/000.png"]),
        ("unreadable", False, ["test/bent/001.png"]),
    ]


def test_equal_pictures_are_found_within_and_across_splits_and_categories(plate, mvtec):
    nut = mvtec(plate.parent / "nut")
    for copy in ("train/good/copy1", "train/good/copy2", "test/good/copy"):
        Image.open(plate / "train/good/001.png").save(nut / f"{copy}.bmp")  # equal pixels, other bytes
    shutil.copy(plate / "test/good/001.png", plate / "test/good/copy.png")

    assert found(plate.parent) == [
        (
            "duplicate",
            False,
            ["nut/train/good/copy1.bmp", "nut/train/good/copy2.bmp", "plate/train/good/001.png"],
        ),
        ("duplicate", False, ["plate/test/good/001.png", "plate/test/good/copy.png"]),
        (
            "overlap",
            False,
            [
                "nut/test/good/copy.bmp",
                "nut/train/good/copy1.bmp",
                "nut/train/good/copy2.bmp",
                "plate/train/good/001.png",
            ],
        ),
    ]


def test_pictures_with_the_same_top_are_told_apart_and_equal_ones_found_among_them(tmp_path):
    picture = np.full((40, 30, 3), 255, np.uint8)
    (tmp_path / "photos").mkdir()
    for index, level in enumerate((0, 1, 2, 1)):
        picture[30:, 10:] = level
        Image.fromarray(picture).save(tmp_path / f"photos/{index}.png")

    assert found(tmp_path / "photos") == [("duplicate", False, ["1.png", "3.png"])]


def test_a_picture_under_two_labels_is_told_with_both(plate):
    shutil.copy(plate / "test/scratch/000.png", plate / "test/good/other.png")

    assert ": equal to " in sentence(plate)
    assert "with different labels (good, scratch)" in sentence(plate)


def test_a_png_that_inflates_badly_is_unreadable_even_where_its_checksums_are_right(tmp_path, put):
    """The top is equal to another picture's, so the whole is compared, which shows the damage."""
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", size=(90, 90))
    whole = (tmp_path / "a.png").read_bytes()
    start = whole.index(b"IDAT") - 4
    length = int.from_bytes(whole[start : start + 4], "big")
    data = bytearray(whole[start + 8 : start + 8 + length])
    data[-200:] = bytes(200)
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"IDAT", bytes(data))
    (tmp_path / "c.png").write_bytes(whole[:start] + chunk.getvalue() + whole[start + 12 + length :])

    assert found(tmp_path) == [("unreadable", False, ["c.png"])]


def test_a_category_without_good_images_or_without_readable_ones_is_a_hard_fault(plate):
    assert found(plate, train=()) == [("empty", True, ["."])]
    for path in (plate / "train/good").iterdir():
        path.write_bytes(b"")
    assert [kind for kind, hard, _ in found(plate) if hard] == ["empty"]


def test_categories_of_one_name_are_a_hard_fault(plate):
    (category,) = open_data(plate)
    (finding, *_) = check_data([category, category])

    assert (finding.kind, finding.hard) == ("name", True)
    assert finding.sentence.startswith("plate: 2 categories have this name (")


def test_tests_of_one_side_are_told(plate):
    shutil.rmtree(plate / "test/good")

    assert "plate has only defective test images; add good ones" in sentence(plate)


def test_a_mask_that_two_images_share_is_a_hard_fault(plate, put):
    put(plate / "test/bent/000.jpg")

    assert found(plate) == [
        (
            "shared mask",
            True,
            ["test/bent/000.jpg", "test/bent/000.png", "ground_truth/bent/000_mask.png"],
        )
    ]


def test_an_interrupt_does_not_wait_for_all_images(tmp_path, put, monkeypatch):
    for index in range(60):
        put(tmp_path / f"{index:02}.png")
    looked = []

    def interrupt(sample, use, take):
        looked.append(sample)
        if sample.path.name == "03.png":
            raise KeyboardInterrupt
        time.sleep(0.01)
        return ImageCheck("")

    monkeypatch.setattr(checks, "_check_image", interrupt)
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        check_data(open_data(tmp_path))
    assert len(looked) < 60
