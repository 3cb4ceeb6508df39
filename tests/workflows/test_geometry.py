"""Letterboxed images, tiles and regions on the command line."""

import json

import numpy as np
import pytest
from PIL import Image

import mendiff
from tests.commands import DIAD, draw, draw_category, settings, size

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")
SHAPE = (24, 72)


def strips(root):
    """A category of oblong images, from the square ones: three side by side, reduced."""
    draw_category(root)
    for path in root.rglob("*.png"):
        values = np.asarray(Image.open(path))
        wide = np.concatenate([values[::-1], values, values[:, ::-1]], 1)[:: 40 // SHAPE[0] + 1]
        Image.fromarray(wide).resize(SHAPE[::-1], Image.Resampling.NEAREST).save(path)
    return root


@pytest.fixture(scope="module")
def oblong(tmp_path_factory):
    return strips(tmp_path_factory.mktemp("oblong") / "strip")


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :36] = 255
    path = tmp_path_factory.mktemp("masks") / "region.png"
    Image.fromarray(mask).save(path)
    return path


def sizes(folder):
    return {size(path) for path in folder.rglob("*.png")}


def findings(run, model, oblong, out):
    code, text, err = run("predict", model, oblong / "test", "-o", out, "--raw-maps", "--json")
    assert code == 0, err
    assert sizes(out) == {SHAPE[::-1]}
    return json.loads(text)["images"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--resize", "letterbox"), "resized to 32 pixels with their aspect ratio, and padded"),
        (("--tile", "32", *settings(image_size=None)), "in tiles of 32 pixels at their own scale"),
    ],
    ids=["letterbox", "tile"],
)
def test_a_fit_stores_how_images_are_resized_and_all_commands_use_it(
    run, oblong, region, tmp_path, options, told, monkeypatch
):
    model = tmp_path / "model"
    # Scores of inputs do not tell those of whole images: no training image is scored in vain.
    monkeypatch.setattr("mendiff.methods.base_readout._left_out", None)
    small = () if "--tile" in options else settings()
    code, text, err = run("fit", oblong, "-o", model, *small, *options, "--region", region, "--json")
    assert code == 0, err
    config = json.loads(text)["config"]
    assert (config["resize"], config["tile"]) == (("letterbox", 0) if small else ("stretch", 32))

    code, text, err = run("info", model)
    assert code == 0, err
    assert told in " ".join(text.replace("│", " ").split())
    assert "inspected in a region, 50 % of an image" in " ".join(text.replace("│", " ").split())

    rows = findings(run, model, oblong, tmp_path / "found")
    by_hand = mendiff.load(model).predict(oblong / "test")
    assert list(by_hand.names) == [row["image"] for row in rows]
    assert [row["score"] for row in rows] == pytest.approx(by_hand.score.tolist(), rel=1e-5)
    alone = mendiff.load(model).predict(oblong / "test", batch_size=1)
    # Scores are in deviations of good images: rounding is compared with 1, not with a score near zero.
    assert alone.score.tolist() == pytest.approx(by_hand.score.tolist(), rel=1e-5, abs=1e-4)
    assert all(box["box"][0] + box["box"][2] <= 36 for one in rows for box in one["regions"])

    code, text, err = run(
        "evaluate", model, oblong, "--json", "--report", tmp_path / "report.html", "--controls"
    )
    assert code == 0, err
    result = json.loads(text)
    assert result["mean"]["pixel_auroc"] is not None
    assert set(result["controls"]) == {"median colour", "memory bank", "untrained"}
    assert all(rows["mean"]["pixel_auroc"] is not None for rows in result["controls"].values())
    code, text, err = run("calibrate", model, oblong / "test/good", "-o", tmp_path / "again", "--json")
    assert code == 0, err
    again = mendiff.load(tmp_path / "again")
    assert again.calibration.scores[0] in [pytest.approx(one["score"], rel=1e-5) for one in rows]
    assert np.array_equal(again.area.mask, mendiff.load(model).area.mask)
    code, _, err = run("explain", model, oblong / "test/scratch/0.png", "-o", tmp_path / "why")
    assert code == 0, err


@pytest.mark.parametrize(
    "changes", [{"resize": "letterbox"}, {"tile": "32", "image_size": None}], ids=["letterbox", "tile"]
)
def test_a_benchmark_measures_what_evaluate_measures(run, oblong, tmp_path, one_process, changes):
    words = [f"glad.{word}" if "=" in word else word for word in settings(**changes)]
    out = tmp_path / "runs"
    code, text, err = run("benchmark", oblong, "-o", out, "--methods", "glad", "--json", *words)
    assert code == 0, err
    results = {one["label"]: one["mean"] for one in json.loads(text)["results"]}
    (model,) = out.glob("jobs/*/model")
    code, text, err = run("evaluate", model, oblong, "--json")
    assert code == 0, err
    expected = json.loads(text)["mean"]
    assert {name: results["glad"][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert all(mean["pixel_auroc"] is not None for mean in results.values())


def test_categories_have_regions_of_their_own(run, oblong, region, tmp_path):
    parts, masks = tmp_path / "parts", tmp_path / "masks"
    for name in ("left", "right"):
        strips(parts / name)
    masks.mkdir()
    left = np.asarray(Image.open(region))
    Image.fromarray(left).save(masks / "left.png")
    Image.fromarray(left[:, ::-1]).save(masks / "right.png")
    fit = ("fit", parts, "-o", tmp_path / "model", *settings(), "--region", masks)
    code, _, err = run(*fit)
    assert code == 2
    assert "add --statistics category" in err
    code, _, err = run(*fit, "--statistics", "category")
    assert code == 0, err
    right = mendiff.load(tmp_path / "model", category="right")
    assert right.area.mask[:, 36:].all()
    assert not right.area.mask[:, :36].any()
    assert mendiff.load(tmp_path / "model").area is None


def test_masks_and_tiles_that_fit_no_image_are_refused_before_training(refused, oblong, region, tmp_path):
    square = tmp_path / "square.png"
    Image.fromarray(np.full((40, 40), 255, np.uint8)).save(square)
    empty = tmp_path / "empty.png"
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(empty)
    (tmp_path / "others").mkdir()
    draw(tmp_path / "others/bolts", 1)

    def sentence(*options):
        return refused("fit", oblong, "-o", tmp_path / "model", *settings(), *options)

    assert "aspect ratio of" in sentence("--region", square)
    assert "leaves a part of the image to inspect, got none" in sentence("--region", empty)
    assert "leaves a part of the image to inspect, got none" in sentence(
        "--region", region, "--ignore", region
    )
    assert "such as strip.png, found none" in sentence("--ignore", tmp_path / "others")
    assert "no such file" in sentence("--region", tmp_path / "missing.png")
    assert "--resize: expected one of stretch, letterbox, got 'squash'" in sentence("--resize", "squash")
    assert "which keeps the aspect ratio anyway" in sentence("--tile", "32", "--resize", "letterbox")
    assert "upright: expected never with tile" in sentence("--tile", "32", "--set", "upright=always")
    assert "tile_overlap: expected 0 to 0.75, got 1.0" in sentence("--tile", "32", "--tile-overlap", "1")
    bad = refused("fit", oblong, "-o", tmp_path / "model", *settings(image_size=None), "--tile", "33")
    assert "--tile: expected a multiple of" in bad


def test_images_of_another_shape_get_a_row_with_the_reason(run, oblong, region, tmp_path):
    model = tmp_path / "model"
    assert run("fit", oblong, "-o", model, *DIAD, "--region", region)[0] == 0
    draw(tmp_path / "square", 1)
    code, text, _ = run(
        "predict", model, tmp_path / "square", oblong / "test/good", "-o", tmp_path / "found", "--json"
    )
    assert code == 3
    assert "aspect ratio" in json.loads(text)["unreadable"][0]
