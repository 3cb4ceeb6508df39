"""labelme and COCO files as masks."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data
from mendiff.data.masks import read_masks
from mendiff.data.polygons import annotates, read_annotation
from mendiff.errors import InputError


@pytest.fixture
def image(tmp_path, put):
    return put(tmp_path / "7.png")


def drawn(image, shapes, **fields):
    """The mask of labelme shapes on a 12x10 image."""
    path = image.with_suffix(".json")
    path.write_text(json.dumps({"shapes": shapes, "imageHeight": 10, "imageWidth": 12, **fields}))
    return read_annotation(path, image)


def box(top, left, bottom, right):
    mask = np.zeros((10, 12), bool)
    mask[top:bottom, left:right] = True
    return mask


def encoded(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "shape",
    [
        {"shape_type": "polygon", "points": [[3, 2], [6, 2], [6, 5], [3, 5]]},
        {"points": [[3, 2], [6, 2], [6, 5], [3, 5]]},
        {"shape_type": "rectangle", "points": [[6, 5], [3.2, 1.9]]},
        {"shape_type": "mask", "points": [[3, 2], [5, 4]], "mask": encoded(np.ones((3, 3), bool))},
    ],
)
def test_a_shape_of_labelme_marks_the_pixels_inside(image, shape):
    assert np.array_equal(drawn(image, [shape]), box(2, 3, 5, 6))


def test_circles_lines_and_points_are_drawn_and_shapes_are_joined(image):
    circle = drawn(image, [{"shape_type": "circle", "points": [[6, 5], [6, 8]]}])
    y, x = np.mgrid[:10, :12] + 0.5
    far = np.hypot(x - 6, y - 5)
    assert circle[far < 2.5].all()
    assert not circle[far > 3.5].any()
    line = drawn(image, [{"shape_type": "linestrip", "points": [[0.5, 0.5], [11.5, 0.5]]}])
    assert np.array_equal(line, box(0, 0, 1, 12))
    point = {"shape_type": "point", "points": [[11.5, 9.5]]}
    assert np.array_equal(drawn(image, [point]), box(9, 11, 10, 12))
    both = drawn(image, [point, {"shape_type": "rectangle", "points": [[0, 0], [2, 2]]}])
    assert np.array_equal(both, box(9, 11, 10, 12) | box(0, 0, 2, 2))


def test_shapes_beyond_the_image_end_at_its_edge(image):
    assert drawn(image, [{"points": [[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]]}]).all()
    assert not drawn(image, [{"points": [[20, 20], [30, 20], [30, 30]]}]).any()
    assert drawn(image, [{"shape_type": "rectangle", "points": [[-5, -5], [1, 1]]}]).sum() == 1


def test_without_a_size_the_images_own_is_used(image):
    assert drawn(image, [], imageHeight=None, imageWidth=None).shape == (10, 12)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ([3], "expected an object, got a int"),
        ([{"points": [[1]]}], "expected points"),
        ([{"points": [["a", 1]]}], "expected points"),
        (
            [{"points": [[1, 1]], "shape_type": "rectangle"}],
            "expected a polygon, got 'rectangle' of 1 points",
        ),
        ([{"points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": "?"}], "expected a mask as PNG"),
    ],
)
def test_wrong_shapes_are_refused_in_one_sentence(image, shapes, sentence):
    with pytest.raises(InputError, match=r"7\.json: a shape: ") as refusal:
        drawn(image, shapes)
    assert sentence in str(refusal.value)


def coco(image, *annotations, names=("7.png",)):
    path = image.with_name("all.json")
    images = [{"id": i, "file_name": name, "height": 10, "width": 12} for i, name in enumerate(names)]
    listed = [{"id": n, "image_id": 0, **annotation} for n, annotation in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "annotations": listed, "categories": []}))
    return read_annotation(path, image)


def compressed(runs):
    """COCO's text of run lengths, written from its description."""
    text = ""
    for index, run in enumerate(runs):
        value, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 * more))
    return text


@given(mask=st.lists(st.booleans(), min_size=120, max_size=120), as_text=st.booleans())
def test_run_lengths_of_coco_give_the_mask_they_were_made_from(tmp_path_factory, mask, as_text):
    image = tmp_path_factory.mktemp("coco") / "7.png"
    changes = np.flatnonzero(np.diff(mask)) + 1
    edges = [0, *([0] if mask[0] else []), *changes.tolist(), 120]
    runs = np.diff(edges).tolist()
    found = coco(image, {"segmentation": {"size": [10, 12], "counts": compressed(runs) if as_text else runs}})
    assert np.array_equal(found, np.reshape(mask, (12, 10)).T)


def test_polygons_and_boxes_of_coco_are_joined_and_other_images_left_alone(image):
    polygon = {"segmentation": [[3, 2, 6, 2, 6, 5, 3, 5]]}
    assert np.array_equal(coco(image, polygon), box(2, 3, 5, 6))
    other = {"image_id": 1, "bbox": [0, 0, 12, 10]}
    found = coco(image, polygon, {"bbox": [0, 0, 2, 3]}, other, names=("7.png", "8.png"))
    assert np.array_equal(found, box(2, 3, 5, 6) | box(0, 0, 3, 2))


def test_equal_names_in_several_folders_are_told_apart_by_their_path(image):
    first = coco(image, {"image_id": 1, "bbox": [0, 0, 1, 1]}, names=("dirty/7.png", "bent/7.png"))
    second = read_annotation(image.with_name("all.json"), image.parent / "bent" / "7.png")
    assert [first.sum(), second.sum()] == [0, 1]


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ({}, "expected a segmentation or a bbox, got neither"),
        ({"segmentation": [[1, 2, 3]]}, "expected a polygon x1, y1"),
        ({"segmentation": {"size": [10, 12], "counts": [1, 2]}}, "expected run lengths of 120 pixels, got 3"),
        ({"segmentation": {"size": [10, 12], "counts": [-1, 121]}}, "expected run lengths of at least 0"),
        ({"segmentation": {"size": [1, 2], "counts": [2]}}, r"expected run lengths of [10, 12], got [1, 2]"),
    ],
)
def test_wrong_annotations_are_refused_in_one_sentence(image, annotation, sentence):
    with pytest.raises(InputError, match=r"all\.json: annotation 0: ") as refusal:
        coco(image, annotation)
    assert sentence in str(refusal.value)


@given(st.lists(st.tuples(st.integers(-4, 64), st.integers(-4, 54)), min_size=3, max_size=7))
def test_a_polygon_marks_the_pixels_whose_centres_matplotlib_finds_inside(tmp_path_factory, corners):
    from matplotlib.path import Path as Outline

    # Corners in thirds of a pixel: no centre lies on an edge. Convex, since matplotlib's rule is another.
    hull = cv2.convexHull(np.array(corners, np.float32) / 3 * 0.6 + 0.123)[:, 0]
    y, x = np.mgrid[:10, :12] + 0.5
    assume(len(hull) > 2)
    inside = Outline(hull).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(10, 12)
    found = drawn(tmp_path_factory.mktemp("p") / "7.png", [{"points": hull.astype(float).tolist()}])
    if inside.any():
        assert np.array_equal(found, inside)


def test_labelme_files_beside_the_images_are_their_masks(tmp_path, put):
    put(tmp_path / "train/good/0.png")
    put(tmp_path / "test/good/1.png")
    for name in ("7", "8"):
        put(tmp_path / f"test/bent/{name}.png")
        drawn(tmp_path / f"test/bent/{name}.png", [{"points": [[3, 2], [6, 2], [6, 5], [3, 5]]}])

    (category,) = open_data(tmp_path)

    assert category.has_masks
    assert check_data([category]) == []
    assert [read_masks(s).sum() for s in category.test if not s.is_good] == [9, 9]
    (tmp_path / "test/bent/8.json").unlink()
    with pytest.raises(InputError, match=r"8\.png: no annotation found; expected .*bent/8\.json"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "place", ["annotations/x.json", "test/bent/_annotations.coco.json", "ground_truth/a.json"]
)
def test_a_coco_file_of_all_images_is_found_and_needs_no_warning_of_shared_masks(tmp_path, put, place):
    put(tmp_path / "train/good/0.png")
    put(tmp_path / "test/good/1.png")
    names = ("7.png", "8.png")
    for name in names:
        put(tmp_path / f"test/bent/{name}")
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    coco(file.with_name("7.png"), *({"image_id": i, "bbox": [i, 0, 2, 2]} for i in range(2)), names=names)
    file.with_name("all.json").rename(file)

    (category,) = open_data(tmp_path)

    assert check_data([category]) == []
    masks = [read_masks(sample) for sample in category.test if not sample.is_good]
    assert [mask[0].nonzero()[0].tolist() for mask in masks] == [[0, 1], [1, 2]]


def test_other_json_files_are_no_annotations(tmp_path, image):
    for text in ("[]", "{", '{"shapes": 3}', '{"images": []}', "\xff"):
        path = tmp_path / "7.json"
        path.write_text(text, encoding="latin-1")
        assert not annotates(path, image)
        with pytest.raises(InputError, match=r"7\.json: "):
            read_annotation(path, image)
