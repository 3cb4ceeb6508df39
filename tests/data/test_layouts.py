"""Miniatures of published data sets, read by us and by anomalib."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data
from mendiff.data.masks import read_mask
from mendiff.data.pairing import labelled
from mendiff.data.samples import Saturation
from mendiff.errors import InputError

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def ours(category):
    """Training images, and {test image: (is defective, mask)}."""
    test = {str(s.path): (not s.is_good, s.mask_path and str(s.mask_path)) for s in category.test}
    return [str(path) for path in category.train], test


def anomalibs(dataset, root, category):
    """The same from anomalib's tables of samples; masks of good images, which it gives too, are left out."""
    train, test = (dataset(root=root, category=category, split=split).samples for split in ("train", "test"))
    rows = zip(test.image_path, test.label_index, test.mask_path, strict=True)
    return sorted(train.image_path), {path: (bad == 1, mask if bad else None) for path, bad, mask in rows}


def put_mvtec3d(root, put, put_mask):
    for kind, split in (("good", "train"), ("good", "validation"), ("good", "test"), ("hole", "test")):
        for index in range(2):
            put(root / f"{split}/{kind}/rgb/{index:03}.png")
            depth = root / f"{split}/{kind}/xyz/{index:03}.tiff"
            depth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((10, 12), np.float32)).save(depth)
            if split == "test":
                put_mask(root / f"test/{kind}/gt/{index:03}.png", 255 * (kind == "hole"))
    return root


def put_bmad(root, put, put_mask, ungood="Ungood"):
    for index in range(3):
        put(root / f"train/good/{index:05}_60.png")
    for split in ("valid", "test"):
        for index in range(2):
            put(root / f"{split}/good/img/{index:05}_96.png")
            put(root / f"{split}/{ungood}/img/{index:05}_70.png")
            put_mask(root / f"{split}/{ungood}/label/{index:05}_70.png")
            put_mask(root / f"{split}/good/label/{index:05}_96.png", 0)
    return root


def put_visa(root, put, put_mask, categories=("candle", "pcb1"), split="split_csv/1cls.csv"):
    rows = [["object", "split", "label", "image", "mask"]]
    for name in categories:
        for index in (3, 1, 0, 2):
            path = put(root / f"{name}/Data/Images/Normal/{index:04}.JPG")
            kind = "train" if index in (1, 3) else "test"
            rows.append([name, kind, "normal", path.relative_to(root).as_posix(), ""])
        for index in range(2):
            path = put(root / f"{name}/Data/Images/Anomaly/{index:03}.JPG")
            mask = put_mask(root / f"{name}/Data/Masks/Anomaly/{index:03}.png", 1 + index)
            places = [one.relative_to(root).as_posix() for one in (path, mask)]
            rows.append([name, "test", "anomaly", *places])
    (root / split).parent.mkdir(exist_ok=True)
    with (root / split).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.mark.parametrize("name", ["MVTecADDataset", "MPDDDataset", "VisaDataset"])
def test_mvtec_layout_is_read_as_anomalib_reads_it(tmp_path, mvtec, name):
    import anomalib.data.datasets.image as datasets

    mvtec(tmp_path / "plate", ("bent", "major rust", "scratch"))

    (category,) = open_data(tmp_path)
    theirs = anomalibs(getattr(datasets, name), tmp_path, "plate")

    assert ours(category) == theirs
    assert len(category.test) == 8


def test_clean_twins_are_found_by_name_and_are_no_test_images(tmp_path, mvtec, put):
    mvtec(tmp_path / "plate")
    without = open_data(tmp_path)
    for place in ("bent/000.png", "bent/001.jpg", "scratch/001.png", "good/000.png", "lost/000.png"):
        put(tmp_path / "plate/twin" / place)

    (category,) = found = open_data(tmp_path)

    known = {sample.path: sample.twin for sample in category.test if sample.twin is not None}
    test, twin = tmp_path / "plate/test", tmp_path / "plate/twin"
    assert known == {
        test / "bent/000.png": twin / "bent/000.png",
        test / "bent/001.png": twin / "bent/001.jpg",
        test / "scratch/001.png": twin / "scratch/001.png",
    }
    plain = tuple(dataclasses.replace(sample, twin=None) for sample in category.test)
    assert [dataclasses.replace(category, test=plain)] == without
    assert check_data(found) == check_data(without) == []


def test_mvtec_3d_is_read_as_anomalib_reads_it_without_depth_and_validation(tmp_path, put, put_mask):
    from anomalib.data.datasets.depth.mvtec_3d import MVTec3DDataset

    put_mvtec3d(tmp_path / "bagel", put, put_mask)

    (category,) = open_data(tmp_path)

    assert (category.name, category.layout) == ("bagel", "mvtec3d")
    assert ours(category) == anomalibs(MVTec3DDataset, tmp_path, "bagel")
    assert [sample.label for sample in category.test] == ["good", "good", "hole", "hole"]
    assert len(category.train) == 2


def test_bmad_is_read_as_anomalib_reads_it_without_validation(tmp_path, put, put_mask):
    from anomalib.data.datasets.image.bmad import BMADDataset

    for name in ("Brain", "Liver"):
        put_bmad(tmp_path / name, put, put_mask)

    categories = open_data(tmp_path)

    assert [(category.name, category.layout) for category in categories] == [
        ("Brain", "bmad"),
        ("Liver", "bmad"),
    ]
    for category in categories:
        assert ours(category) == anomalibs(BMADDataset, tmp_path, category.name)
        assert category.has_masks


@pytest.mark.parametrize("kind", ["Ungood", "rgb"])
def test_names_of_other_layouts_do_not_hide_the_masks_of_mvtecs(tmp_path, mvtec, put, kind):
    mvtec(tmp_path / "plate", (kind,))
    put(tmp_path / "plate/train/good/rgb/900.png")

    (category,) = open_data(tmp_path)

    assert (category.layout, category.has_masks, len(category.train)) == ("mvtec", True, 4)


def test_bmad_as_first_released_has_wrappers_small_letters_and_sets_without_masks(tmp_path, put, put_mask):
    put_bmad(tmp_path / "Liver_AD" / "hist_DIY", put, put_mask, "ungood")
    chest = put_bmad(tmp_path / "Chest_AD" / "Chest-RSNA", put, put_mask)
    for labels in list(chest.rglob("label")):
        shutil.rmtree(labels)
    tissue = tmp_path / "Histopathology_AD" / "camelyon16"
    for place in ("train/good", "test/good", "test/Ungood"):
        put(tissue / place / "1000.png")

    found = {category.name: category for category in open_data(tmp_path)}

    assert sorted(found) == ["Chest-RSNA", "camelyon16", "hist_DIY"]
    assert {category.layout for category in found.values()} == {"bmad"}
    assert {name: category.has_masks for name, category in found.items()} == {
        "Chest-RSNA": False,
        "camelyon16": False,
        "hist_DIY": True,
    }
    assert [sample.label for sample in found["camelyon16"].test] == ["Ungood", "good"]
    assert len(found["Chest-RSNA"].test) == 4


def test_raw_visa_equals_what_anomalib_prepares_from_it_and_nothing_is_written(tmp_path, put, put_mask):
    from anomalib.data.datamodules.image.visa import Visa
    from anomalib.data.datasets.image.visa import VisaDataset

    raw = put_visa(tmp_path / "raw", put, put_mask)
    before = sorted(raw.rglob("*"))
    from_list = open_data(raw)
    assert sorted(raw.rglob("*")) == before
    shutil.copytree(raw, tmp_path / "copy")
    Visa(root=tmp_path / "copy", category="candle").apply_cls1_split()
    for unused in (tmp_path / "copy" / "visa_pytorch").iterdir():
        if unused.name not in ("candle", "pcb1"):
            shutil.rmtree(unused)
    prepared = open_data(tmp_path / "copy" / "visa_pytorch")

    assert [(c.name, c.layout) for c in from_list] == [("candle", "visa"), ("pcb1", "visa")]
    assert [(c.name, c.layout) for c in prepared] == [("candle", "mvtec"), ("pcb1", "mvtec")]
    for one, other in zip(from_list, prepared, strict=True):
        assert ours(other) == anomalibs(VisaDataset, tmp_path / "copy" / "visa_pytorch", other.name)
        assert [p.read_bytes() for p in one.train] == [p.read_bytes() for p in other.train]
        assert [(s.label, s.path.read_bytes()) for s in one.test] == [
            (s.label, s.path.read_bytes()) for s in other.test
        ]
        masks = [[read_mask(s.mask_path) for s in c.test if s.mask_path] for c in (one, other)]
        assert len(masks[0]) == 2
        assert np.array_equal(*masks)
        assert one.has_masks


def test_visa_opens_raw_or_prepared_and_one_category_alone(tmp_path, put, put_mask, mvtec, monkeypatch):
    raw = put_visa(tmp_path / "VisA", put, put_mask)
    mvtec(raw / "visa_pytorch" / "candle", ("bad",))
    (raw / "candle" / "image_anno.csv").touch()

    assert [(c.name, c.layout) for c in open_data(raw)] == [("candle", "visa"), ("pcb1", "visa")]
    assert open_data(raw / "candle") == open_data(raw)[:1]
    monkeypatch.chdir(raw / "candle")
    assert ours(open_data(Path("."))[0]) == ours(open_data(raw)[0])
    for name in ("candle", "pcb1"):
        shutil.rmtree(raw / name / "Data")
    assert [(c.name, c.layout) for c in open_data(raw)] == [("candle", "mvtec")]


def test_pcb_bank_opens_as_released_and_prepared(tmp_path, put, put_mask):
    raw = put_visa(tmp_path / "PCB-Bank", put, put_mask, ("pcb5", "pcb6"), "1cls_clear.csv")
    for name in ("pcb5", "pcb6"):
        root = tmp_path / "PCB-Bank-1cls" / "1cls" / name
        put(root / "train/good/0001.JPG")
        put(root / "test/good/0002.JPG")
        put(root / "test/bad/000.JPG")
        put_mask(root / "ground_truth/bad/000.png", 6)

    assert [(c.name, c.layout) for c in open_data(raw)] == [("pcb5", "visa"), ("pcb6", "visa")]
    prepared = open_data(tmp_path / "PCB-Bank-1cls")
    assert [(c.name, c.layout, c.has_masks) for c in prepared] == [
        ("pcb5", "mvtec", True),
        ("pcb6", "mvtec", True),
    ]
    mask = read_mask(prepared[0].test[0].mask_path)
    assert mask.sum() == 9


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "candle,train",
            "candle,tarin",
            "expected train or test and normal or anomaly in every row, got 'tarin'",
        ),
        (
            "test,anomaly",
            "train,anomaly",
            "only for training, but candle/Data/Images/Anomaly/000.JPG is defective",
        ),
        (
            "candle/Data/Images/Normal/0003",
            "candle/Data/Images/Normal/9",
            "candle/Data/Images/Normal/9.JPG', but",
        ),
        ("candle/Data/Images/Normal/0003", "../x/0003", "lists '../x/0003.JPG', but"),
        ("Masks/Anomaly/000.png", "Masks/Anomaly/9.png", "lists 'candle/Data/Masks/Anomaly/9.png', but"),
        ("candle/Data/Masks/Anomaly/000.png", "", "lists '', but"),
        ("object,split", "object,set", "expected the columns object, split, label, image, mask"),
        ("candle,", "candles,", "expected training images of candle, found none"),
    ],
)
def test_faults_in_visas_list_are_named(tmp_path, put, put_mask, old, new, sentence):
    raw = put_visa(tmp_path, put, put_mask)
    split = raw / "split_csv/1cls.csv"
    assert old in split.read_text()
    split.write_text(split.read_text().replace(old, new))

    with pytest.raises(InputError, match=r"split_csv/1cls\.csv: ") as refusal:
        open_data(raw)
    assert sentence in str(refusal.value)


def test_visa_without_its_list_is_not_mistaken_for_good_images(tmp_path, put, put_mask):
    raw = put_visa(tmp_path, put, put_mask)
    (raw / "split_csv/1cls.csv").unlink()

    with pytest.raises(InputError, match=r"candle: looks like VisA .*/split_csv/1cls\.csv, does not exist"):
        open_data(raw)


def test_one_kind_of_defect_without_masks_is_a_fault_where_another_has_them(tmp_path, put, put_mask):
    bagel = put_mvtec3d(tmp_path / "bagel", put, put_mask)
    for index in range(2):
        put(bagel / f"test/crack/rgb/{index:03}.png")

    with pytest.raises(InputError, match=r"test/crack/rgb/000\.png: no mask found; .* in \S+/test/crack/gt"):
        open_data(bagel)


def put_loco(root, put, put_mask):
    for kind, split in (("good", "train"), ("good", "validation"), ("good", "test")):
        put(root / f"{split}/{kind}/000.png")
    for kind, count in (("logical_anomalies", 1), ("structural_anomalies", 2)):
        put(root / f"test/{kind}/000.png")
        for index in range(count):
            put_mask(root / f"ground_truth/{kind}/000/{index:03}.png", 255 - index)
    entries = [(254, 10, False), (255, 0.5, True)]
    fields = ("pixel_value", "saturation_threshold", "relative_saturation")
    config = [{"defect_name": "x", **dict(zip(fields, entry, strict=True))} for entry in entries]
    (root / "defects_config.json").write_text(json.dumps(config))
    return root


def test_mvtec_loco_has_several_masks_of_an_image_and_saturations(tmp_path, put, put_mask):
    put_loco(tmp_path / "pushpins", put, put_mask)

    (category,) = open_data(tmp_path)

    assert (category.layout, category.grouped, category.has_masks) == ("loco", "label", True)
    assert [path.relative_to(tmp_path).as_posix() for path in category.train] == [
        "pushpins/train/good/000.png"
    ]
    assert [(s.label, [path.name for path in s.masks]) for s in category.test] == [
        ("good", []),
        ("logical_anomalies", ["000.png"]),
        ("structural_anomalies", ["000.png", "001.png"]),
    ]
    assert category.saturations == (Saturation(254, 10, False), Saturation(255, 0.5, True))
    assert check_data([category]) == []


def test_a_wrong_file_of_saturations_is_refused(tmp_path, put, put_mask):
    root = put_loco(tmp_path / "pushpins", put, put_mask)
    for text in ("[", "{}", "[1]", '[{"pixel_value": 1}]', '[{"pixel_value": 1e999}]'):
        (root / "defects_config.json").write_text(text)
        with pytest.raises(InputError, match=r"defects_config\.json: expected"):
            open_data(root)


def test_mvtec_ad_2_is_read_as_anomalib_reads_it_with_its_light_conditions(tmp_path, put, put_mask):
    from anomalib.data.datasets.image.mvtecad2 import MVTecAD2Dataset

    root = tmp_path / "can"
    for split in ("train", "validation"):
        put(root / f"{split}/good/000_regular.png")
    for condition in ("regular", "overexposed", "shift_2"):
        put(root / f"test_public/good/001_{condition}.png")
        put(root / f"test_public/bad/002_{condition}.png")
        put_mask(root / f"test_public/ground_truth/bad/002_{condition}_mask.png")
    put(root / "test_private/000_regular.png")
    put(root / "test_private_mixed/000_mixed.png")

    (category,) = open_data(tmp_path)

    assert (category.layout, category.grouped, category.has_masks) == ("mvtec2", "condition", True)
    assert ours(category) == anomalibs(MVTecAD2Dataset, tmp_path, "can")
    assert [s.condition for s in category.test] == ["overexposed", "regular", "shift_2"] * 2


def test_btad_is_read_as_anomalib_reads_it(tmp_path, put, put_mask):
    from anomalib.data.datasets.image.btech import BTechDataset

    put(tmp_path / "01/train/ok/0.bmp")
    put(tmp_path / "01/test/ok/1.bmp")
    put(tmp_path / "01/test/ko/2.bmp")
    put_mask(tmp_path / "01/ground_truth/ko/2.png")

    (category,) = open_data(tmp_path)

    assert ours(category) == anomalibs(BTechDataset, tmp_path, "01")
    assert category.notes == ()


def test_kolektor_sdd_has_labels_of_its_masks_as_in_anomalib(tmp_path, put, put_mask):
    from anomalib.data.datasets.image.kolektor import make_kolektor_dataset

    for item in range(4):
        for part in range(3):
            put(tmp_path / f"kos{item:02}/Part{part}.jpg")
            put_mask(tmp_path / f"kos{item:02}/Part{part}_label.bmp", 255 * (part == item))

    (category,) = open_data(tmp_path)

    theirs = make_kolektor_dataset(tmp_path)
    bad = theirs[theirs.label_index == 1]
    ours_bad = [sample for sample in category.test if not sample.is_good]
    assert [(str(s.path), str(s.mask_path)) for s in ours_bad] == sorted(
        zip(bad.image_path, bad.mask_path, strict=True)
    )
    assert len(category.train) + len(category.test) == len(theirs) == 12
    assert len(category.test) - len(ours_bad) == 1
    assert category.layout == "kolektor"
    assert "3 are defective and never trained on" in category.notes[0].sentence


def test_kolektor_sdd_2_is_split_and_its_defective_training_images_are_not_used(tmp_path, put, put_mask):
    for split, first in (("train", 0), ("test", 10)):
        for index in range(first, first + 3):
            put(tmp_path / f"{split}/{index}.png")
            put_mask(tmp_path / f"{split}/{index}_GT.png", 255 * (index == first))

    (category,) = open_data(tmp_path)

    assert category.layout == "kolektor"
    assert [path.name for path in category.train] == ["1.png", "2.png"]
    assert [(s.path.name, s.is_good) for s in category.test] == [
        ("10.png", False),
        ("11.png", True),
        ("12.png", True),
    ]
    assert "1 of 3 training images have a mask that marks a defect" in category.notes[0].sentence


def test_images_with_masks_beside_them_are_told_apart_by_their_masks(tmp_path, put, put_mask):
    for index in range(7):
        put(tmp_path / f"set/p{index}.jpg")
        put_mask(tmp_path / f"set/p{index}_mask.png", 255 * (index == 6))

    (category,) = open_data(tmp_path / "set")

    assert (len(category.train), len(category.test), category.has_masks) == (5, 2, True)
    (tmp_path / "set/p0_mask.png").unlink()
    with pytest.raises(InputError, match="6 of 13 are label images of others"):
        open_data(tmp_path / "set")


STEMS = st.text("ab01 ._-é", min_size=1, max_size=6).filter(lambda s: not s.startswith(".") and s.strip(". "))
ENDINGS = st.sampled_from([".png", ".jpg", ".JPG", ".tif"])


@given(
    stems=st.sets(STEMS, min_size=1, max_size=6),
    ending=ENDINGS,
    mask_ending=st.sampled_from([".png", ".PNG", ".bmp"]),
    suffixed=st.booleans(),
    nested=st.booleans(),
    lost=st.integers(0, 5),
)
def test_every_image_gets_its_own_mask_and_never_anothers(
    tmp_path_factory, stems, ending, mask_ending, suffixed, nested, lost
):
    root = tmp_path_factory.mktemp("masks")
    images, masks = root / "images", root / "masks"
    inside = Path("line/1") if nested else Path()
    for folder in (images / inside, masks / inside):
        folder.mkdir(parents=True)
    names = {stem: f"{stem}_mask{mask_ending}" if suffixed else f"{stem}{mask_ending}" for stem in stems}
    for stem, name in names.items():
        (images / inside / f"{stem}{ending}").touch()
        (masks / inside / name).touch()
    missing = sorted(stems)[lost % len(stems)]
    (masks / inside / names[missing]).unlink()

    for sample in labelled(images, "bent", masks):
        if sample.path.stem == missing:
            assert not sample.mask_path.exists()
        else:
            assert sample.mask_path == masks / inside / names[sample.path.stem]
