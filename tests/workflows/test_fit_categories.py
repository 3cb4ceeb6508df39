"""Models of several categories with statistics for each."""

import json
import shutil

import pytest

import mendiff
from mendiff.checkpoints import store
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.runs.testing import find, read_tests
from tests.commands import settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_every_category_can_have_a_threshold_of_its_own(run, refused, plates, tmp_path, monkeypatch):
    own = tmp_path / "own"
    words = ("--statistics", "category", *settings(readout__bank_size=200))
    assert run("fit", plates, "-o", own, "--json", *words)[0] == 0
    thresholds = json.loads(run("info", own, "--json")[1])["thresholds"]
    assert sorted(thresholds) == ["dark", "light"]
    assert thresholds["dark"] != thresholds["light"]
    # The networks are stored once: a category holds its statistics alone.
    assert (own / "categories/dark/model.safetensors").stat().st_size < (
        own / "model.safetensors"
    ).stat().st_size / 2
    rows = {}
    for category in ("dark", "light"):
        found = tmp_path / category
        code, text, _ = run(
            "predict", own, plates / "dark/test", "-o", found, "--category", category, "--json"
        )
        assert code == 0
        rows[category] = json.loads(text)
        assert rows[category]["threshold"] == thresholds[category]
    assert rows["dark"]["images"][0]["score"] != rows["light"]["images"][0]["score"]
    tests = open_data(plates)[0]
    model = mendiff.load(own, category="dark")
    found = find(model, read_tests(tests, model.image_size, Terminal(True)), 8, Terminal(True), "")
    by_path = {row["image"]: row["score"] for row in rows["dark"]["images"]}
    for sample, score in zip(tests.test, found.score.tolist(), strict=True):
        assert score == pytest.approx(by_path[str(sample.path)], rel=1e-4)
    code, text, _ = run("evaluate", own, plates, "--json")
    assert code == 0
    assert sorted(json.loads(text)["categories"]) == ["dark", "light"]
    # Where every category has its own, the common ones are not even read.
    opened, load = [], store.load
    with monkeypatch.context() as patch:
        patch.setattr(
            "mendiff.workflows.evaluate.load", lambda *given: (opened.append(given[2:]), load(*given))[1]
        )
        assert run("evaluate", own, plates, "--json")[0] == 0
    assert opened == [("dark",), ("light",)]
    # A category without statistics of its own is measured with the common ones, whatever came before it.
    both = shutil.copytree(plates, tmp_path / "both")
    (both / "light").rename(both / "other")
    shared, alone = tmp_path / "shared", mendiff.load(own)
    store.save(shared, alone.name, alone.method, alone.calibration, alone.info)
    others = [json.loads(run("evaluate", model, both, "--json")[1]) for model in (own, shared)]
    assert others[0]["categories"]["other"] == others[1]["categories"]["other"]
    words = ("predict", own, plates / "dark/test", "-o", tmp_path / "none", "--category", "grey")
    assert "(dark, light), got 'grey'" in refused(*words)


def test_a_category_that_the_model_does_not_know_is_refused(refused, model, data, tmp_path):
    words = ("predict", model, data / "test", "-o", tmp_path / "out", "--category", "plate")
    assert "(none: it has a single threshold), got 'plate'" in refused(*words)


def test_statistics_of_a_category_with_too_few_images_are_refused(refused, plates, tmp_path):
    few = shutil.copytree(plates, tmp_path / "few")
    for path in sorted((few / "dark/train/good").iterdir())[1:]:
        path.unlink()
    words = ("fit", few, "-o", tmp_path / "out", "--statistics", "category", *settings())
    assert "expected at least 2 good images of dark, got 1" in refused(*words)
    assert "expected one of global, category, got 'some'" in refused(
        "fit", few, "-o", tmp_path / "out", "--statistics", "some"
    )
