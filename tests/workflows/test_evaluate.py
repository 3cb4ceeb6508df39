"""`mendiff evaluate`: metrics, tables, runs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import mendiff
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.runs.testing import find, read_tests
from tests.commands import METRICS, TOLD, size

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_evaluate_json_has_exactly_the_metrics(run, model, data):
    code, out, err = run("evaluate", model, data, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result) == TOLD
    assert list(result["categories"]) == list(result["at_threshold"]) == ["plate"]
    assert list(result["mean"]) == list(result["categories"]["plate"]) == METRICS
    assert all(0 <= value <= 1 for value in result["mean"].values())
    assert result["mean"] == result["categories"]["plate"]


def test_evaluate_and_predict_give_an_image_the_same_score(run, model, data, tmp_path):
    code, out, _ = run("predict", model, data / "test", "-o", tmp_path / "found", "--batch-size", 3, "--json")
    assert code == 0
    predicted = {row["image"]: row["score"] for row in json.loads(out)["images"]}
    loaded, terminal = mendiff.load(model), Terminal(quiet=True)
    tests = read_tests(open_data(data)[0], loaded.image_size, terminal)
    found = find(loaded, tests, 2, terminal, "plate")
    evaluated = {
        str(sample.path): score for sample, score in zip(tests.samples, found.score.tolist(), strict=True)
    }
    assert evaluated == pytest.approx(predicted, rel=1e-4)


def test_evaluate_writes_a_report_and_measures_controls(run, model, data, tmp_path):
    words = ("--report", tmp_path / "report.html", "--controls", "--json")
    code, out, err = run("evaluate", model, data, *words)
    assert code == 0, err
    assert {"median colour", "memory bank", "untrained"} == set(json.loads(out)["controls"])
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("scratch/0.png", "scratch/1.png", "good/0.png", "good/1.png"))


def test_pictures_of_a_run_keep_the_proportions_of_their_images(run, model, data, tmp_path):
    wide = shutil.copytree(data, tmp_path / "wide")
    for path in wide.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((80, 40)).save(path)
    assert run("evaluate", model, wide, "-o", tmp_path / "run")[0] == 0
    sizes = {size(path) for path in (tmp_path / "run/pictures").glob("0*")}  # without the strips of a few
    assert sizes == {(32, 16)}  # the model sees 32 pixels: more would only be blur


def test_unreadable_test_images_are_named_in_the_run_and_end_with_3(run, model, data, tmp_path):
    torn = shutil.copytree(data, tmp_path / "torn")
    (torn / "test/scratch/0.png").write_bytes(b"no image")
    code, out, _ = run("evaluate", model, torn, "-o", tmp_path / "run", "--json")
    result, lost = json.loads(out), [str(torn / "test/scratch/0.png")]
    assert (code, result["complete"], result["unreadable"]) == (3, False, lost)
    told = json.loads((tmp_path / "run/run.json").read_text())["model_info"]
    assert told["unreadable test images"] == lost
    code, _, err = run("evaluate", model, torn)
    assert code == 3
    assert "note: 1 of 4 test images could not be read and are not in the metrics." in err


def test_light_conditions_have_a_table_and_metrics_of_their_own(run, model, data, tmp_path):
    lights = tmp_path / "lights"
    places = {"good": "test_public/good", "scratch": "test_public/bad"}
    shutil.copytree(data / "train", lights / "train")
    for label, place in places.items():
        for number, condition in enumerate(("regular", "shift_1")):
            (lights / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / f"test/{label}/{number}.png", lights / place / f"{number}_{condition}.png")
    (lights / "test_public/ground_truth").mkdir()
    masks = shutil.copytree(data / "ground_truth/scratch", lights / "test_public/ground_truth/bad")
    for number, condition in enumerate(("regular", "shift_1")):
        next(masks.glob(f"{number}*")).rename(masks / f"{number}_{condition}_mask.png")

    code, out, err = run("evaluate", model, lights, "-o", tmp_path / "run", "--json")

    assert (code, err) == (0, "")
    (found,) = json.loads(out)["groups"].values()
    assert list(found["categories"]) == ["regular", "shift_1"]
    assert found["categories"]["regular"]["image_auroc"] in (0, 1)  # of two images
    assert json.loads((tmp_path / "run/run.json").read_text())["metrics"]["groups"]
    assert "groups of test images" in run("evaluate", model, lights)[1]
    assert run("report", tmp_path / "run", "-o", tmp_path / "report.html")[0] == 0


def test_evaluate_table_keeps_whole_names_in_80_columns(run, model, data, tmp_path):
    for name in ("road_crack_panels", "metal_nut"):
        shutil.copytree(data, tmp_path / "set" / name)
    code, out, _ = run("evaluate", model, tmp_path / "set")
    assert code == 0
    assert "road_crack_panels" in out
    assert "category" in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_evaluate_refuses_masks_of_another_size_and_data_without_tests(refused, model, data, tmp_path):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(wrong / "ground_truth/scratch/0_mask.png")
    assert "a mask must have its image's size, 40x40, got 20x20" in refused("evaluate", model, wrong)
    assert "expected test images" in refused("evaluate", model, data / "train/good")
